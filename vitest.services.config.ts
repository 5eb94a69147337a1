/** Tests with real databases (`test/services/services.ts`), one file at a time: `npm run test:services`. */

import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    expect: { poll: { timeout: 10_000 } },
    include: ['test/services/**/*.suite.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
})
