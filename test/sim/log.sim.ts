/**
 * The simulation of the log over many seeds. `SLUICE_SIM_SEEDS=50000` runs more of them, `SLUICE_SIM_SEED=1234` only that one, with a
 * trace of all that happens.
 */

import { expect, test } from 'vitest'
import { type Outcome, simulate } from './log-simulation.ts'

const SEEDS = Number(process.env.SLUICE_SIM_SEEDS ?? 2_400)
const PARTS = 12
const MS_PER_SEED_MAX = 100

const only = process.env.SLUICE_SIM_SEED
const reached: Outcome = {}

const expected = [
  'append',
  'append: DISK_FULL',
  'append: STORAGE_FAILED',
  'checkpoint',
  'clean close',
  'crash in recovery',
  'damage cut off',
  'deleted',
  'flip: checkpoint',
  'flip: index',
  'flip: log',
  'flip: snapshot',
  'flip: timeindex',
  'kill',
  'open refused',
  'power cut',
  'read: CORRUPT_LOG',
  'read: EIO',
  'recovery: lost-in-the-middle',
  'recovery: no-checkpoint',
  'recovery: orphan-segment',
  'recovery: sync-failed',
  'recovery: torn-tail',
  'repeated',
  'retention',
  'time search',
]

async function runPart(part: number): Promise<void> {
  for (let seed = part; seed < SEEDS; seed += PARTS) {
    const outcome = await simulate(seed)
    for (const [what, count] of Object.entries(outcome)) reached[what] = (reached[what] ?? 0) + count
  }
}

async function traceOf(seed: number): Promise<string> {
  const lines: string[] = []
  await simulate(seed, { trace: line => lines.push(line) })
  return lines.join('\n')
}

if (only !== undefined) {
  test(`seed ${only}`, async () => {
    await simulate(Number(only), { trace: line => console.log(line) })
  })
} else {
  const timeout = (SEEDS / PARTS) * MS_PER_SEED_MAX + 30_000
  for (let part = 0; part < PARTS; part++) {
    test(`part ${part + 1} of ${PARTS}, ${SEEDS} seeds`, () => runPart(part), timeout)
  }

  test('what matters has come to pass', () => {
    for (const what of expected) expect(reached[what] ?? 0, what).toBeGreaterThanOrEqual(SEEDS / 480)
  })

  test('the same seed gives the same run', async () => {
    for (const seed of [1, 22, 333]) expect(await traceOf(seed)).toBe(await traceOf(seed))
  })
}
