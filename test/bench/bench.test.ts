/** `sluice bench` measures what it says, cleans up after itself, and refuses what it does not know. The figures are not looked at: they are tiny. */

import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type BenchReport, listScenarios, runBench } from '../../src/bench/bench.ts'
import { scenarioNamed, scenarios } from '../../src/bench/scenarios.ts'

let directory: string

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sluice-bench-test-'))
})

afterEach(() => {
  rmSync(directory, { recursive: true })
})

describe('the scenarios', () => {
  test('each runs, and counts what it was asked for', async () => {
    const runs = scenarios.map(async ({ name, make }, index) => {
      const folder = join(directory, String(index))
      mkdirSync(folder)
      const subject = await make({ bytes: 10, messages: 200, directory: folder })
      const { messages, ms } = await subject.round()
      await subject.close()
      // What is published beside a compaction is as many as there is time for.
      if (name.startsWith('compact/publish/')) expect(messages, name).toBeGreaterThan(0)
      else expect(messages, name).toBe(200)
      expect(ms, name).toBeGreaterThan(0)
    })
    await Promise.all(runs)
  })

  test('stand against limits that there are', () => {
    for (const { limit } of scenarios) if (limit !== null) expect(scenarioNamed(limit).name).toBe(limit)
  })

  test('are listed, with how each is measured', () => {
    const names = listScenarios().map(({ name }) => name)
    expect(new Set(names).size).toBe(names.length)
    expect(names).toEqual(
      expect.arrayContaining(['limit/write', 'publish/always/one/10', 'consume/file/batch', 'open']),
    )
  })
})

describe('a run', () => {
  const run = (options: Parameters<typeof runBench>[0]): Promise<BenchReport> =>
    runBench({ bytes: [100], messages: 500, rounds: 1, openPartitions: 2, directory, ...options })

  test('takes each figure next to its limit, and leaves nothing behind', async () => {
    const seen: string[] = []
    const { rows, open, machine } = await run({
      only: ['publish/always/one/10', 'open'],
      onProgress: ({ scenario }) => seen.push(scenario),
    })
    expect(seen).toEqual(['publish/always/one/10', 'open'])
    expect(rows).toMatchObject([
      {
        scenario: 'publish/always/one/10',
        bytes: 100,
        messagesPerRound: 10,
        limit: { scenario: 'publish/always/one/1' },
        target: { text: '6 x' },
      },
    ])
    const [{ rate, limit, latencyMs, memory, megabytesPerSecond }] = rows
    expect(limit!.ratio).toBeCloseTo(rate.perSecond / limit!.rate.perSecond, 2)
    expect(megabytesPerSecond).toBeCloseTo(rate.perSecond / 10_000, 1)
    expect(latencyMs!.p99).toBeGreaterThanOrEqual(latencyMs!.p50)
    expect(memory.peakBytes).toBeGreaterThan(10_000_000)
    expect(open).toMatchObject({ messages: 5_000, partitions: 2 })
    expect(open!.openMs).toBeGreaterThan(0)
    expect(machine.node).toBe(process.version)
    expect(readdirSync(directory)).toEqual([])
  })

  test('can be ended early, with what there is by then', async () => {
    const controller = new AbortController()
    const { rows } = await run({
      only: ['limit/encode', 'limit/write'],
      signal: controller.signal,
      onProgress: ({ done }) => {
        if (done === 1) controller.abort()
      },
    })
    expect(rows.map(({ scenario }) => scenario)).toEqual(['limit/encode'])
    expect(readdirSync(directory)).toEqual([])
  })

  test('refuses what it does not know', async () => {
    await expect(run({ only: ['publish/al'] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(run({ messages: 0 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(run({ bytes: [0] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(readdirSync(directory)).toEqual([])
  })
})
