/**
 * The simulation, simulated: with a bug planted, it must fail within a bounded number of seeds, and for the right reason. Bugs are planted by
 * replacing functions, or by a disk that lies; production code has no switches for it.
 */

import { afterEach, expect, test, vi } from 'vitest'
import type { Disk } from '../../src/lib/disk.ts'
import { ProducerState } from '../../src/log/producer-state.ts'
import { type CrashCase, crashCases } from '../../src/log/recovery.ts'
import type { Found } from '../../src/log/scan.ts'
import { Segment } from '../../src/log/segment.ts'
import { batchBytes } from '../../src/record/batch.ts'
import { type SimulationOptions, simulate } from './log-simulation.ts'
import { lying } from './lying-disk.ts'

const planted = vi.hoisted(() => ({ noChecksum: false, trustingScan: false }))

/** What the simulation says when something durable is gone, or something is there that should not be. */
const LOST_OR_WRONG =
  /acknowledged was|the start went|never appended|nothing was damaged|wrong bytes|stored twice|lost or added|without a cause|is damaged/

vi.mock(import('../../src/record/batch.ts'), async importOriginal => {
  const batch = await importOriginal()
  return {
    ...batch,
    checkBatch(bytes, at, end) {
      if (!planted.noChecksum) return batch.checkBatch(bytes, at, end)
      const header = batch.checkHeader(bytes, at, end)
      return header ?? (at + batch.batchBytes(bytes, at) > end ? 'incomplete' : null)
    },
  }
})

vi.mock(import('../../src/log/scan.ts'), async importOriginal => {
  const original = await importOriginal()
  return {
    ...original,
    *scan(file, position, end): ReturnType<typeof original.scan> {
      const isTrusting = planted.trustingScan && new Error().stack?.includes('walkBatches')
      for (let from = position; ; ) {
        let last: Found | undefined
        for (const found of original.scan(file, from, end)) {
          last = found
          if (!isTrusting || !found.wrong?.startsWith('checksum')) yield found
        }
        if (!isTrusting || !last?.wrong?.startsWith('checksum')) return
        const bytes = batchBytes(last.bytes, last.at)
        yield { ...last, batchBytes: bytes, wrong: null }
        from = last.position + bytes
      }
    },
  }
})

afterEach(() => {
  planted.noChecksum = false
  planted.trustingScan = false
  vi.restoreAllMocks()
})

/** The first seed that fails, with its message. */
async function firstFailure(seeds: number, options: SimulationOptions = {}): Promise<string> {
  for (let seed = 0; seed < seeds; seed++) {
    try {
      await simulate(seed, options)
    } catch (error) {
      return (error as Error).message
    }
  }
  return 'no seed failed'
}

test('nothing planted, nothing found', async () => {
  expect(await firstFailure(60)).toBe('no seed failed')
  expect(await firstFailure(60, { disguise: lying(() => ({})) })).toBe('no seed failed')
})

test('a failure names its seed and how to run it alone', async () => {
  const message = await firstFailure(200, {
    disguise: lying(() => ({ syncDirectory: () => Promise.resolve() })),
  })
  expect(message).toMatch(
    /^seed (\d+): [\s\S]*SLUICE_SIM_SEED=\1 npm run test:sim -- test\/sim\/log\.sim\.ts/,
  )
})

test('nobody looks at checksums', async () => {
  planted.noChecksum = true
  expect(await firstFailure(300)).toMatch(/wrong bytes|was never appended/)
})

test('recovery does not look at checksums', async () => {
  planted.trustingScan = true
  expect(await firstFailure(300)).toMatch(/was never appended|nothing was damaged/)
})

test('an acknowledgement comes before the sync is over', async () => {
  const disguise = lying(
    () => ({}),
    file => ({
      sync() {
        file.sync().catch(() => {})
        return Promise.resolve()
      },
    }),
  )
  expect(await firstFailure(300, { disguise })).toMatch(LOST_OR_WRONG)
})

test('a sync of a file does nothing', async () => {
  const disguise = lying(
    () => ({}),
    () => ({ sync: () => Promise.resolve() }),
  )
  expect(await firstFailure(300, { disguise })).toMatch(LOST_OR_WRONG)
})

test('a folder is never synced', async () => {
  const disguise = lying(() => ({ syncDirectory: () => Promise.resolve() }))
  expect(await firstFailure(300, { disguise })).toMatch(LOST_OR_WRONG)
})

test.each([
  ['the torn tail is kept', 'torn-tail', 'keep'],
  ['what lies behind a hole is kept', 'lost-in-the-middle', 'keep'],
  ['a segment that belongs nowhere is kept', 'orphan-segment', 'keep'],
] as const)('recovery: %s', async (_, name, action) => {
  const row = crashCases.find(candidate => candidate.name === name) as {
    -readonly [Key in keyof CrashCase]: CrashCase[Key]
  }
  const before = row.action
  row.action = action
  try {
    expect(await firstFailure(600)).toMatch(LOST_OR_WRONG)
  } finally {
    row.action = before
  }
})

test('a refused append is not taken back', async () => {
  vi.spyOn(Segment.prototype, 'truncate').mockImplementation(() => {})
  expect(await firstFailure(300)).toMatch(LOST_OR_WRONG)
})

test('the state of producers is lost at a restart', async () => {
  vi.spyOn(ProducerState.prototype, 'decode').mockReturnValue(true)
  expect(await firstFailure(300)).toMatch(/stored twice|OUT_OF_ORDER_SEQUENCE/)
})

test('a failed sync leaves no mark', async () => {
  const disguise = (disk: Disk): Disk => {
    const rename = (from: string, to: string): void => {
      if (!to.endsWith('.sync-failed')) disk.rename(from, to)
    }
    return lying(() => ({ rename }))(disk)
  }
  expect(await firstFailure(1_500, { disguise })).toMatch(LOST_OR_WRONG)
})

test('closed segments keep their time index to themselves', async () => {
  vi.spyOn(Segment.prototype, 'seal').mockImplementation(() => {})
  expect(await firstFailure(1_500)).toMatch(/first offset from|at the age of/)
}, 120_000)

test('an offset is given out twice', async () => {
  const append = Segment.prototype.append
  let count = 0
  vi.spyOn(Segment.prototype, 'append').mockImplementation(function (this: Segment, batch, interval) {
    append.call(this, batch, interval)
    if (++count % 50 === 0) append.call(this, batch, interval)
  })
  expect(await firstFailure(50)).toMatch(LOST_OR_WRONG)
})
