/**
 * Jobs a second beside BullMQ on Redis and pg-boss on PostgreSQL, in turns, on this machine:
 *
 *     npm run bench:beside -- [--jobs 100000] [--concurrency 100] [--rounds 3] [--json FILE]
 *
 * Servers are those of test/services, fresh for each round. Redis runs twice: with its append-only file synced for each command, which promises
 * what sluice's default does, and every second, which is how it is mostly run.
 */

import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { type Service, startPostgres, startRedis } from '../../test/services/services.ts'
import type { Figures } from './contestants.ts'

interface Row {
  readonly name: string
  readonly contestant: string
  /** Jobs of a round: the slow ones get fewer. */
  readonly share: number
  readonly start: (() => Promise<Service>) | null
}

const rows: readonly Row[] = [
  { name: 'sluice, file, flush always', contestant: 'sluice', share: 5, start: null },
  {
    name: 'BullMQ, Redis, AOF always',
    contestant: 'bullmq',
    share: 0.5,
    start: () => startRedis({ appendonly: 'yes', appendfsync: 'always' }),
  },
  {
    name: 'BullMQ, Redis, AOF every second',
    contestant: 'bullmq',
    share: 0.5,
    start: () => startRedis({ appendonly: 'yes', appendfsync: 'everysec' }),
  },
  { name: 'pg-boss, PostgreSQL', contestant: 'pg-boss', share: 0.3, start: () => startPostgres() },
]

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: '100000' },
    concurrency: { type: 'string', default: '100' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
const concurrency = Number(values.concurrency)
const child = join(import.meta.dirname, 'child.ts')

async function measure({ contestant, share, start }: Row): Promise<{ send: number; work: number }> {
  const jobs = Math.round(Number(values.jobs) * share)
  const directory = mkdtempSync(join(tmpdir(), 'sluice-beside-'))
  const service = await start?.()
  try {
    const { host = '', port = 0 } = service?.connection ?? {}
    const task = JSON.stringify({ jobs, concurrency, host, port, directory: join(directory, 'data') })
    const { stdout } = await promisify(execFile)(process.execPath, [child, contestant, task])
    const { sendMs, workMs } = JSON.parse(stdout) as Figures
    return { send: (jobs / sendMs) * 1_000, work: (jobs / workMs) * 1_000 }
  } finally {
    await service?.stop()
    rmSync(directory, { recursive: true, force: true })
  }
}

const median = (all: readonly number[]): number =>
  all.toSorted((one, other) => one - other)[Math.floor(all.length / 2)]

const rounds = new Map<Row, { send: number; work: number }[]>(rows.map(row => [row, []]))
for (let round = 1; round <= Number(values.rounds); round++) {
  for (const row of rows) {
    const figures = await measure(row)
    rounds.get(row)?.push(figures)
    process.stderr.write(
      `round ${round}: ${row.name}: ${Math.round(figures.send)} sent/s, ${Math.round(figures.work)} worked/s\n`,
    )
  }
}
const results = rows.map(row => {
  const all = rounds.get(row) ?? []
  return {
    name: row.name,
    sentPerSecond: median(all.map(({ send }) => send)),
    workedPerSecond: median(all.map(({ work }) => work)),
  }
})
const [first] = results
const lines = results.map(({ name, sentPerSecond, workedPerSecond }) => {
  const times = `${(first.sentPerSecond / sentPerSecond).toFixed(1)} | ${(first.workedPerSecond / workedPerSecond).toFixed(1)}`
  return `| ${name} | ${Math.round(sentPerSecond).toLocaleString('en')} | ${Math.round(workedPerSecond).toLocaleString('en')} | ${times} |`
})
process.stdout.write(
  `| concurrency ${concurrency} | sent/s | worked/s | sluice sends × | sluice works × |\n| --- | ---: | ---: | ---: | ---: |\n${lines.join('\n')}\n`,
)
if (values.json !== undefined) {
  const machine = { cores: cpus().length, model: cpus()[0].model, node: process.version }
  writeFileSync(
    values.json,
    `${JSON.stringify({ machine, concurrency, rounds: values.rounds, results }, null, 2)}\n`,
  )
}
