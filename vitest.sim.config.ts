/** Simulations over many seeds, and processes that are killed at random moments: `npm run test:sim`. */

import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    expect: { poll: { timeout: 10_000 } },
    include: ['test/**/*.sim.ts'],
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 30_000,
  },
})
