import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    // What is polled for comes by an event; how soon depends on what else the machine does.
    expect: { poll: { timeout: 10_000 } },
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: '100%',
    testTimeout: 30_000,
    hookTimeout: 30_000,
  },
})
