/**
 * `npm run compat -- throughput [--quick] [--rounds N] [--only TEXT] [--json FILE]`: how fast unmodified clients get records into and out of
 * sluice and a tuned Apache Kafka, on this machine, in one run.
 *
 *   flush policy │ both brokers started │ series │ round 1  sluice │ kafka │ round 2  kafka │ sluice │ …
 *
 * In a turn a broker gets a fresh topic, the client produces, then consumes (or runs transactions), the topic is removed and its files are
 * gone before the other one's turn. Before each measurement the page cache is written back, so that nobody pays for another's writes. The
 * first turn of each is shorter, does not count, and says how many records the others need to take some seconds.
 */

import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Report } from '../check.ts'
import { KAFKA_VERSION } from '../kafka-jars.ts'
import {
  type Broker,
  createTopic,
  deleteTopic,
  type Flush,
  pause,
  resume,
  startApacheKafka,
  startSluice,
} from './brokers.ts'
import { type Client, javaClient, librdkafkaClient } from './clients.ts'
import { nameOf, planOf, type Series, type Work } from './plan.ts'
import { cpuSeconds, endedChildrenCpuSeconds, peakBytes, resetPeak } from './process-stat.ts'
import { asJson, type Measured, type Row, summary, table } from './results.ts'

const SECONDS = 3
const QUICK_SECONDS = 2
/** Values of one turn take at most so much: the page cache has to hold them. */
const BYTES_MAX = 4e9
/** The first turn: bytes of values; transactions of one record, or of many. */
const FIRST_BYTES = 100e6
const FIRST_TRANSACTIONS = [200, 20] as const
const CASE_MS_MAX = 1_200_000

export interface ThroughputOptions {
  readonly quick: boolean
  /** Turns of each broker that count; default 3. */
  readonly rounds: number
  /** Only series with this in their name. */
  readonly only: string
  readonly json: string | undefined
}

export async function throughput(options: ThroughputOptions, cache: string, report: Report): Promise<void> {
  const dir = join(cache, 'throughput')
  // Ends what was started as well: a broker that is stopped would stay for ever.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
  const clients = new Map<string, Client>()
  await report.case('java', async () => clients.set('java', await javaClient(dir)), CASE_MS_MAX)
  await report.case('librdkafka', async () => clients.set('librdkafka', await librdkafkaClient(dir, cache)))
  const rows: Row[] = []
  for (const flush of ['os', 'always'] as const) {
    const plan = planOf(flush, options.quick).filter(
      series => nameOf(series).includes(options.only) && clients.has(series.client),
    )
    if (plan.length > 0) await measureAll(plan, flush, clients, options, report, rows)
  }
  console.log(`\n${table(rows)}\n`)
  if (options.json !== undefined) writeFileSync(options.json, asJson(rows, KAFKA_VERSION))
}

async function measureAll(
  plan: readonly Series[],
  flush: Flush,
  clients: ReadonlyMap<string, Client>,
  options: ThroughputOptions,
  report: Report,
  rows: Row[],
): Promise<void> {
  const brokers: Broker[] = []
  try {
    const started = await report.case(`start both with flush ${flush}`, async () => {
      for (const start of [startSluice, startApacheKafka]) {
        const broker = await start(flush)
        brokers.push(broker)
        pause(broker)
      }
    })
    if (!started) return
    for (const series of plan) {
      const measuring = () => measure(series, clients.get(series.client)!, brokers, options)
      await report.case(
        nameOf(series),
        async () => {
          const found = await measuring()
          for (const row of found) console.log(`  ${summary(row)}`)
          rows.push(...found)
        },
        CASE_MS_MAX,
      )
    }
  } finally {
    for (const broker of brokers) await broker.stop()
  }
}

async function measure(
  series: Series,
  client: Client,
  brokers: readonly Broker[],
  { quick, rounds }: ThroughputOptions,
): Promise<Row[]> {
  const rows = series.work.map(work => ({ series, work, rounds: { sluice: [], kafka: [] } as Row['rounds'] }))
  let fastest = 0
  for (const broker of brokers) {
    const count = firstCount(series)
    for (const measured of await turn(series, client, broker, count)) {
      fastest = Math.max(fastest, count / measured.seconds)
    }
  }
  const unitBytes = series.recordBytes * Math.max(1, series.transactionSize)
  const count = Math.ceil(Math.min(fastest * (quick ? QUICK_SECONDS : SECONDS), BYTES_MAX / unitBytes))
  for (let round = 0; round < rounds; round++) {
    for (const broker of round % 2 === 0 ? brokers : [...brokers].reverse()) {
      const measured = await turn(series, client, broker, count)
      rows.forEach((row, index) => void row.rounds[broker.name].push(measured[index]))
    }
  }
  return rows
}

function firstCount({ work, recordBytes, transactionSize }: Series): number {
  if (work[0] === 'transact') return FIRST_TRANSACTIONS[transactionSize === 1 ? 0 : 1]
  return Math.ceil(FIRST_BYTES / recordBytes)
}

let topics = 0

/** All of a broker's work of one round. It runs only meanwhile. */
async function turn(series: Series, client: Client, broker: Broker, count: number): Promise<Measured[]> {
  const topic = `throughput-${topics++}`
  const all: Measured[] = []
  await resume(broker)
  await createTopic(broker, topic, series.partitions)
  for (const work of series.work) all.push(await measureOne(series, work, client, broker, topic, count))
  await deleteTopic(broker, topic)
  pause(broker)
  return all
}

async function measureOne(
  series: Series,
  work: Work,
  client: Client,
  broker: Broker,
  topic: string,
  count: number,
): Promise<Measured> {
  execFileSync('sync')
  const { address, pid } = broker
  resetPeak(pid)
  const brokerBefore = cpuSeconds(pid)
  const clientBefore = endedChildrenCpuSeconds()
  const seconds = await client[work]({ ...series, address, topic, count })
  const records = count * Math.max(1, series.transactionSize)
  return {
    seconds,
    records,
    transactions: work === 'transact' ? count : 0,
    bytes: records * series.recordBytes,
    brokerCpuSeconds: cpuSeconds(pid) - brokerBefore,
    clientCpuSeconds: endedChildrenCpuSeconds() - clientBefore,
    brokerPeakBytes: peakBytes(pid),
  }
}
