/**
 * The simulation of compaction over many seeds, and bugs planted to see that it finds them. `SLUICE_SIM_SEEDS` and
 * `SLUICE_SIM_SEED` as in `log.sim.ts`. What a failed sync of the folder leaves in the dark takes a chain of events that only a seed
 * in thousands has: bugs there are looked for by `../log/failed-sync.test.ts`, one moment after another. Nor is a read that is half-way
 * in a segment when it is replaced left to chance: `../log/compaction.test.ts`.
 */

import { afterEach, describe, expect, test, vi } from 'vitest'
import { KeyMap } from '../../src/log/key-map.ts'
import { Log } from '../../src/log/log.ts'
import { type Leftover, leftovers } from '../../src/log/swap.ts'
import { type Outcome, type SimulationOptions, simulateCompaction } from './compaction-simulation.ts'
import { lying } from './lying-disk.ts'

const SEEDS = Number(process.env.SLUICE_SIM_SEEDS ?? 800)
const PARTS = 8
const MS_PER_SEED_MAX = 150

/** What the simulation says of a seed that failed, with the place in the model that noticed. */
const FOUND = /^seed \d+: /

const only = process.env.SLUICE_SIM_SEED
const reached: Outcome = {}

const expected = [
  'append',
  'beside a compaction',
  'clean close',
  'compaction',
  'crash in recovery',
  'deleted',
  'DISK_FULL',
  'kill',
  'open refused',
  'power cut',
  'recovery: sync-failed',
  'repeated',
  'segments merged',
  'settled: cleaned',
  'settled: deleted',
  'settled: swap',
  'STORAGE_FAILED',
]

async function runPart(part: number): Promise<void> {
  for (let seed = part; seed < SEEDS; seed += PARTS) {
    const outcome = await simulateCompaction(seed)
    for (const [what, count] of Object.entries(outcome)) reached[what] = (reached[what] ?? 0) + count
  }
}

if (only !== undefined) {
  test(`seed ${only}`, async () => {
    await simulateCompaction(Number(only), { trace: line => console.log(line) })
  })
} else {
  const timeout = (SEEDS / PARTS) * MS_PER_SEED_MAX + 30_000
  for (let part = 0; part < PARTS; part++) {
    test(`part ${part + 1} of ${PARTS}, ${SEEDS} seeds`, () => runPart(part), timeout)
  }

  test('what matters has come to pass', () => {
    for (const what of expected) expect(reached[what] ?? 0, what).toBeGreaterThanOrEqual(SEEDS / 200)
  })

  describe('a bug is found:', { timeout: 120_000 }, plantedBugs)
}

async function firstFailure(seeds: number, options: SimulationOptions = {}): Promise<string> {
  for (let seed = 0; seed < seeds; seed++) {
    try {
      await simulateCompaction(seed, options)
    } catch (error) {
      return (error as Error).message
    }
  }
  return 'no seed failed'
}

function plantedBugs(): void {
  afterEach(() => {
    vi.restoreAllMocks()
  })

  test('none, none', async () => {
    expect(await firstFailure(40, { disguise: lying(() => ({})) })).toBe('no seed failed')
  })

  test('the compacted segment is not synced', async () => {
    const disguise = lying(
      () => ({}),
      file => (file.path.endsWith('.cleaned') ? { sync: () => Promise.resolve() } : {}),
    )
    expect(await firstFailure(800, { disguise })).toMatch(FOUND)
  })

  test('the folder is not synced before the old segments go', async () => {
    const disguise = lying(disk => ({
      syncDirectory: path =>
        disk.list(path).some(name => name.endsWith('.swap')) ? Promise.resolve() : disk.syncDirectory(path),
    }))
    expect(await firstFailure(800, { disguise })).toMatch(FOUND)
  })

  test('a start takes a finished compaction back', async () => {
    const row = leftovers.find(({ name }) => name === 'swap') as {
      -readonly [K in keyof Leftover]: Leftover[K]
    }
    const { when } = row
    row.when = /^never$/
    try {
      expect(await firstFailure(400)).toMatch(FOUND)
    } finally {
      row.when = when
    }
  })

  test('records are replaced by ones that are not durable', async () => {
    const { checkpoint, dirtyRange } = Log.prototype
    vi.spyOn(Log.prototype, 'checkpoint').mockImplementation(function (this: Log) {
      return new Error().stack?.includes('#compact') ? Promise.resolve() : checkpoint.call(this)
    })
    vi.spyOn(Log.prototype, 'dirtyRange').mockImplementation(function (this: Log) {
      return dirtyRange.call(this, this.endOffset)
    })
    expect(await firstFailure(400)).toMatch(FOUND)
  })

  test('a record goes for one before it', async () => {
    vi.spyOn(KeyMap.prototype, 'get').mockImplementation(() => Number.MAX_SAFE_INTEGER)
    expect(await firstFailure(50)).toMatch(/the last value of/)
  })
}
