/** What came out, of each row the median of its rounds; as a table and as JSON. */

import { cpus, totalmem } from 'node:os'
import type { Broker } from './brokers.ts'
import { BATCH_BYTES, LINGER_MS } from './clients.ts'
import type { Series, Work } from './plan.ts'

export interface Measured {
  readonly seconds: number
  readonly records: number
  readonly transactions: number
  /** Of values. */
  readonly bytes: number
  readonly brokerCpuSeconds: number
  readonly clientCpuSeconds: number
  readonly brokerPeakBytes: number
}

export interface Row {
  readonly series: Series
  readonly work: Work
  readonly rounds: Readonly<Record<Broker['name'], Measured[]>>
}

interface Figures {
  /** 10^6 bytes of values per second. */
  readonly megabytesPerSecond: number
  readonly recordsPerSecond: number
  readonly transactionsPerSecond: number
  readonly brokerCpuSecondsPerGigabyte: number
  readonly clientCpuSecondsPerGigabyte: number
  readonly brokerPeakMebibytes: number
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

function figuresOf(rounds: readonly Measured[]): Figures {
  const of = (value: (each: Measured) => number): number => median(rounds.map(value))
  return {
    megabytesPerSecond: of(each => each.bytes / each.seconds / 1e6),
    recordsPerSecond: of(each => each.records / each.seconds),
    transactionsPerSecond: of(each => each.transactions / each.seconds),
    brokerCpuSecondsPerGigabyte: of(each => each.brokerCpuSeconds / (each.bytes / 1e9)),
    clientCpuSecondsPerGigabyte: of(each => each.clientCpuSeconds / (each.bytes / 1e9)),
    brokerPeakMebibytes: of(each => each.brokerPeakBytes / 2 ** 20),
  }
}

const shown = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toPrecision(3))
const grouped = (value: number): string => Math.round(value).toLocaleString('en-US')

const HEAD = [
  ['client', 'does', 'bytes', 'partitions', 'codec', 'flush', 'MB/s: sluice', 'kafka', 'ratio'],
  ['records/s: sluice', 'kafka', 'CPU s/GB: sluice', 'kafka', 'of the client: sluice', 'kafka'],
  ['peak MiB: sluice', 'kafka'],
].flat()

function cells({ series, work, rounds }: Row): string[] {
  const sluice = figuresOf(rounds.sluice)
  const kafka = figuresOf(rounds.kafka)
  const both = (value: (of: Figures) => string): string[] => [value(sluice), value(kafka)]
  const { client, recordBytes, partitions, codec, flush, transactionSize } = series
  const does = work === 'transact' ? `transactions of ${transactionSize}` : work
  const ratio = (sluice.recordsPerSecond / kafka.recordsPerSecond).toFixed(2)
  return [
    ...[client, does, `${recordBytes}`, `${partitions}`, codec, flush],
    ...both(each => shown(each.megabytesPerSecond)),
    ratio,
    ...both(each => grouped(each.recordsPerSecond)),
    ...both(each => shown(each.brokerCpuSecondsPerGigabyte)),
    ...both(each => shown(each.clientCpuSecondsPerGigabyte)),
    ...both(each => grouped(each.brokerPeakMebibytes)),
  ]
}

/** A table in Markdown. */
export function table(rows: readonly Row[]): string {
  const line = (each: readonly string[]): string => `| ${each.join(' | ')} |`
  return [
    line(HEAD),
    line(HEAD.map((_, index) => (index < 5 ? '---' : '---:'))),
    ...rows.map(cells).map(line),
  ]
    .filter(each => each !== '')
    .join('\n')
}

/** One line: what has just been measured. */
export function summary(row: Row): string {
  const all = cells(row)
  const [client, does, bytes, partitions, codec, flush, sluice, kafka, ratio] = all
  const cpu = `CPU s/GB ${all[11]} and ${all[12]}`
  return `${client} ${does}, ${bytes} B, ${partitions} partitions, ${codec}, ${flush}: ${sluice} and ${kafka} MB/s, ratio ${ratio}; ${cpu}`
}

export function asJson(rows: readonly Row[], kafkaVersion: string): string {
  const report = {
    at: new Date().toISOString(),
    machine: { cpus: cpus().length, model: cpus()[0].model, memoryBytes: totalmem(), node: process.version },
    kafka: kafkaVersion,
    producers: { acks: 'all', batchBytes: BATCH_BYTES, lingerMs: LINGER_MS },
    rows: rows.map(({ series: { work: _, ...series }, work, rounds }) => ({
      ...series,
      work,
      ratio: figuresOf(rounds.sluice).recordsPerSecond / figuresOf(rounds.kafka).recordsPerSecond,
      sluice: figuresOf(rounds.sluice),
      kafka: figuresOf(rounds.kafka),
      rounds,
    })),
  }
  return `${JSON.stringify(report, null, 2)}\n`
}
