/**
 * Outbox and inbox on PostgreSQL, beside pg-boss sending and working the same number of jobs on the same server:
 *
 *     npm run bench:outbox -- [--rows 50000] [--rounds 3] [--json FILE]
 *
 * sluice is a data directory with flush `always`; PostgreSQL has fsync on. `outbox`: rows that lie there are published. `delay`: one row at a
 * time, from its commit to a consumer having it. `inbox`: messages that lie there are handled, each with one INSERT of its own.
 */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import pg from 'pg'
import { PgBoss } from 'pg-boss'
import { databaseOf, inTransaction, type SqlDatabase } from '../../src/database/database.ts'
import { inbox } from '../../src/database/inbox.ts'
import { OutboxAdmin, outbox } from '../../src/database/outbox.ts'
import { type OutboxRelayOptions, outboxRelay } from '../../src/database/outbox-relay.ts'
import { migrate } from '../../src/database/schema.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { open } from '../../src/open.ts'
import { startPostgres } from '../../test/services/services.ts'

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '50000' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
const rows = Number(values.rows)
const LATENCIES = 500

interface Figures {
  readonly [name: string]: number
}

const value = (index: number) => ({
  id: index,
  to: `user-${index}@example.org`,
  template: 'welcome',
  attempt: 0,
})
const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index)
const perSecond = (count: number, since: number): number => (count / (performance.now() - since)) * 1_000

async function fill(database: SqlDatabase, count: number): Promise<void> {
  for (let from = 0; from < count; from += 1_000) {
    await inTransaction(database, tx =>
      outbox(tx).publish(
        'jobs',
        range(Math.min(1_000, count - from)).map(index => ({
          key: `k${(from + index) % 1_000}`,
          value: value(from + index),
        })),
      ),
    )
  }
}

async function publishing(mq: Sluice, pool: pg.Pool, database: SqlDatabase): Promise<number> {
  await fill(database, rows)
  const { promise, resolve } = Promise.withResolvers<void>()
  let published = 0
  const since = performance.now()
  const relay = outboxRelay(mq, { database: pool })
  relay.on('published', count => {
    if ((published += count) >= rows) resolve()
  })
  await promise
  const rate = perSecond(rows, since)
  await relay.stop()
  if ((await new OutboxAdmin(pool).status())[0].pending !== 0) throw new Error('rows are left')
  return rate
}

/** Milliseconds from commit to consumer: p50, p99. */
async function delays(
  mq: Sluice,
  pool: pg.Pool,
  options: Partial<OutboxRelayOptions>,
): Promise<[number, number]> {
  const database = databaseOf(pool)
  const relay = outboxRelay(mq, { database: pool, ...options })
  const consumer = mq.consumer({ topics: ['pings'], from: 'latest' })
  let arrived: (() => void) | null = null
  const reading = consumer.run(() => arrived?.())
  await mq.publish('pings', { value: 'ready' })
  await new Promise(resolve => setTimeout(resolve, 1_000))
  const times: number[] = []
  for (let index = 0; index < LATENCIES; index++) {
    const seen = new Promise<void>(resolve => {
      arrived = resolve
    })
    await inTransaction(database, tx =>
      outbox(tx, { notify: options.listen !== false }).publish('pings', { key: 'k', value: 'x' }),
    )
    const since = performance.now()
    await seen
    times.push(performance.now() - since)
  }
  await consumer.stop()
  await reading
  await relay.stop()
  const sorted = times.toSorted((one, other) => one - other)
  return [sorted[Math.floor(sorted.length / 2)], sorted[Math.floor(sorted.length * 0.99)]]
}

async function handling(
  mq: Sluice,
  pool: pg.Pool,
  transactionMessages: number,
  count: number,
): Promise<number> {
  const topic = `handled-${transactionMessages}`
  for (let from = 0; from < count; from += 1_000) {
    await mq.publish(
      topic,
      range(Math.min(1_000, count - from)).map(index => ({ value: value(from + index) })),
    )
  }
  const { promise, resolve } = Promise.withResolvers<void>()
  let handled = 0
  const since = performance.now()
  const box = inbox(
    mq,
    { topics: [topic], group: `g-${transactionMessages}`, database: pool, transactionMessages },
    (message, tx) => tx.query('INSERT INTO effects (id) VALUES (?)', [message.json<{ id: number }>().id]),
  )
  box.on('handled', some => {
    if ((handled += some) >= count) resolve()
  })
  await promise
  const rate = perSecond(count, since)
  await box.stop()
  return rate
}

async function pgBoss(connection: pg.PoolConfig): Promise<[sent: number, worked: number]> {
  const boss = new PgBoss({ ...connection, max: 10 } as never)
  boss.on('error', () => {})
  await boss.start()
  await boss.createQueue('jobs')
  let since = performance.now()
  for (let from = 0; from < rows; from += 1_000) {
    await boss.insert(
      'jobs',
      range(Math.min(1_000, rows - from)).map(index => ({ data: value(from + index) })),
    )
  }
  const sent = perSecond(rows, since)
  since = performance.now()
  await Promise.all(
    range(4).map(async () => {
      for (;;) {
        const jobs = await boss.fetch('jobs', { batchSize: 100 })
        if (jobs.length === 0) return
        await boss.complete(
          'jobs',
          jobs.map(({ id }) => id),
        )
      }
    }),
  )
  const worked = perSecond(rows, since)
  await boss.stop({ graceful: false })
  return [sent, worked]
}

async function round(): Promise<Figures> {
  await using postgres = await startPostgres()
  const directory = mkdtempSync(join(tmpdir(), 'sluice-outbox-'))
  const mq = await open(join(directory, 'data'))
  const pool = new pg.Pool({ ...postgres.connection, max: 20 })
  try {
    const database = databaseOf(pool)
    await migrate(database)
    await database.query('CREATE TABLE effects (id bigint)')
    const outboxRows = await publishing(mq, pool, database)
    const [listenP50, listenP99] = await delays(mq, pool, {})
    const [pollP50, pollP99] = await delays(mq, pool, { listen: false, pollMs: 100 })
    const inbox1 = await handling(mq, pool, 1, Math.ceil(rows / 10))
    const inbox100 = await handling(mq, pool, 100, rows)
    const [bossSent, bossWorked] = await pgBoss(postgres.connection)
    return { outboxRows, listenP50, listenP99, pollP50, pollP99, inbox1, inbox100, bossSent, bossWorked }
  } finally {
    await pool.end()
    await mq.close()
    rmSync(directory, { recursive: true, force: true })
  }
}

const all: Figures[] = []
for (let index = 0; index < Number(values.rounds); index++) {
  all.push(await round())
  process.stderr.write(`round ${index + 1}: ${JSON.stringify(all[index])}\n`)
}
const medians: Record<string, number> = {}
for (const name of Object.keys(all[0])) {
  medians[name] = all.map(figures => figures[name]).toSorted((one, other) => one - other)[
    Math.floor(all.length / 2)
  ]
}
const lines: readonly (readonly [string, string])[] = [
  ['outbox: rows published/s', Math.round(medians.outboxRows).toLocaleString('en')],
  [
    'outbox: commit to consumer, LISTEN/NOTIFY',
    `p50 ${medians.listenP50.toFixed(1)} ms, p99 ${medians.listenP99.toFixed(1)} ms`,
  ],
  [
    'outbox: commit to consumer, polling every 100 ms',
    `p50 ${medians.pollP50.toFixed(1)} ms, p99 ${medians.pollP99.toFixed(1)} ms`,
  ],
  ['inbox: messages/s, one a transaction', Math.round(medians.inbox1).toLocaleString('en')],
  ['inbox: messages/s, 100 a transaction', Math.round(medians.inbox100).toLocaleString('en')],
  ['pg-boss: jobs sent/s (1,000 at a time)', Math.round(medians.bossSent).toLocaleString('en')],
  [
    'pg-boss: jobs worked/s (100 at a time, four fetchers)',
    Math.round(medians.bossWorked).toLocaleString('en'),
  ],
]
process.stdout.write(
  `| | |\n| --- | ---: |\n${lines.map(([name, text]) => `| ${name} | ${text} |`).join('\n')}\n`,
)
if (values.json !== undefined) {
  const machine = { cores: cpus().length, model: cpus()[0].model, node: process.version }
  writeFileSync(values.json, `${JSON.stringify({ machine, rows, rounds: all, medians }, null, 2)}\n`)
}
process.exit(0)
