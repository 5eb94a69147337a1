/**
 * DumpLogSegments over what transactions and compaction leave: control batches, indexes of aborted transactions, snapshots of
 * producers with and without an open transaction, compacted logs with tombstones and delete horizons, and the internal topics
 * through its own decoders, since they are in Kafka's formats. What each must show is known exactly: the requests are ours.
 */

import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Report } from '../check.ts'
import { RawClient } from '../raw-client.ts'
import { Connection, SluiceServer } from '../server.ts'
import { type KeyAndValue, TransactionalWriter } from '../transactions/writer.ts'
import { dump, dumpCompacted, filesOf } from './dump.ts'

const PLAIN = 'dump-transactions'
const COMPACTED = 'dump-compacted'
const GROUP = 'dump-group'
const SEGMENT_BYTES = 16_384
const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
const ROUNDS = 60
const ROUND_RECORDS = 50
const KEYS = 120
/** Keys that get a tombstone each time. */
const TOMBSTONES = 5
/** The cleaner looks every 15 s. */
const CLEANED_MS_MAX = 60_000
const POLL_MS = 250

/** What must be found. */
interface Expected {
  /** Of the aborted transactions in PLAIN, as the tool prints them. */
  readonly aborted: string[]
  /** The committed latest of each key of COMPACTED. */
  readonly latest: Map<string, string | null>
  /** Offsets of aborted records in COMPACTED. */
  readonly abortedOffsets: Set<number>
  /** Of the transaction in PLAIN that is left open. */
  openProducerId: number
  openOffset: number
}

export async function lookAtTransactions(report: Report): Promise<void> {
  await using server = new SluiceServer(['--auto-create-topics', 'false', '--flush', 'always'])
  await server.start()
  const expected: Expected = {
    aborted: [],
    latest: new Map(),
    abortedOffsets: new Set(),
    openProducerId: -1,
    openOffset: -1,
  }
  const ready = await report.case('transactions, and a log to compact', async () => {
    await create(server, PLAIN, {})
    await create(server, COMPACTED, { 'cleanup.policy': 'compact', 'min.cleanable.dirty.ratio': '0.01' })
    const client = await RawClient.connect(server.port)
    await fillCompacted(client, expected)
    await fillPlain(client, expected)
  })
  if (!ready) return
  await report.case('the cleaner compacts', () => cleaned(server))
  await lookAt(server, 'while it runs', expected, report)
  await server.end('SIGKILL')
  await server.start()
  await lookAt(server, 'after SIGKILL and a restart', expected, report)
  await server.end('SIGTERM')
  await lookAt(server, 'after a clean stop', expected, report)
  await report.case('snapshots with open and ended transactions', () => snapshots(server, expected))
}

async function create(server: SluiceServer, name: string, config: Record<string, string>): Promise<void> {
  using connection = await Connection.open(server.address)
  const pairs = Object.entries({ 'segment.bytes': `${SEGMENT_BYTES}`, ...config })
  const configs = pairs.map(([key, value]) => ({ name: key, value }))
  const topics = [{ name, numPartitions: 1, replicationFactor: 1, assignments: [], configs }]
  const answer = await connection.ask('CreateTopics', 5, { topics, timeoutMs: 10_000 })
  assert.equal((answer as { topics: { errorCode: number }[] }).topics[0].errorCode, 0)
}

/** Every fifth transaction is aborted; every tenth also removes keys, which do not come again. */
async function fillCompacted(client: RawClient, { latest, abortedOffsets }: Expected): Promise<void> {
  const writer = await TransactionalWriter.open(client, 'dump-compactor')
  for (let round = 0; round < ROUNDS; round++) {
    const commit = round % 5 !== 4
    const records = Array.from({ length: ROUND_RECORDS }, (_, index): KeyAndValue => {
      const key = (round * ROUND_RECORDS + index) % KEYS
      return [`k${key}`, `${round}.${index}.${'x'.repeat(100)}`]
    })
    records.push([`t${round}`, 'removed some rounds later, or not'])
    if (round % 10 === 5) {
      for (let before = 1; before <= TOMBSTONES; before++) records.push([`t${round - before}`, null])
    }
    const first = await writer.write(COMPACTED, 0, records, codecs[round % codecs.length])
    await writer.end(commit)
    for (const [index, [key, value]] of records.entries()) {
      if (commit) latest.set(key, value)
      else abortedOffsets.add(first + index)
    }
  }
  await writer.write(COMPACTED, 0, [['last', 'last']])
  await writer.commitOffset(GROUP, COMPACTED, 0, 4711)
  await writer.end(true)
  latest.set('last', 'last')
}

/** Two at a time, one begun within the other; at last one stays open. */
async function fillPlain(client: RawClient, expected: Expected): Promise<void> {
  const outer = await TransactionalWriter.open(client, 'dump-outer')
  const inner = await TransactionalWriter.open(client, 'dump-inner')
  const records = Array.from(
    { length: ROUND_RECORDS },
    (_, index): KeyAndValue => [`k${index}`, 'x'.repeat(100)],
  )
  for (let round = 0; round < 20; round++) {
    const first = await outer.write(PLAIN, 0, records)
    const second = await inner.write(PLAIN, 0, records)
    const isAborted = round % 3 !== 0
    await inner.end(!isAborted)
    const innerMarker = second + records.length
    if (isAborted) expected.aborted.push(entry(inner.producerId, second, innerMarker, first))
    await outer.end(isAborted)
    const marker = innerMarker + 1
    if (!isAborted) expected.aborted.push(entry(outer.producerId, first, marker, marker + 1))
  }
  expected.openOffset = await outer.write(PLAIN, 0, records)
  expected.openProducerId = outer.producerId
}

const entry = (producerId: number, first: number, last: number, stable: number): string =>
  `version: 0 producerId: ${producerId} firstOffset: ${first} lastOffset: ${last} lastStableOffset: ${stable}`

/** Resolves when the compacted log is less than half of what it was, and its files are in place. */
async function cleaned(server: SluiceServer): Promise<void> {
  const size = (): number =>
    filesOf(server, COMPACTED, '.log').reduce((sum, file) => sum + statSync(file).size, 0)
  const before = size()
  const deadline = performance.now() + CLEANED_MS_MAX
  while (filesOf(server, COMPACTED, '.swap').length > 0 || isLarge()) {
    assert.ok(performance.now() < deadline, `${size()} of ${before} bytes are left`)
    await sleep(POLL_MS)
  }
  function isLarge(): boolean {
    try {
      return size() > before / 2
    } catch {
      return true // a file was replaced between the look at its folder and the look at it
    }
  }
}

async function lookAt(server: SluiceServer, when: string, expected: Expected, report: Report): Promise<void> {
  await report.case(`compacted segments, ${when}`, () => compactedSegments(server, expected))
  for (const ending of ['.index', '.timeindex']) {
    await report.case(`${ending} of a compacted log, ${when}`, async () => {
      const files = filesOf(server, COMPACTED, ending)
      await dumpCompacted(files)
      await dumpCompacted(files, '--verify-index-only')
      const sane = await dumpCompacted(files, '--index-sanity-check')
      // A compacted segment may be too small for an entry.
      assert.equal(sane.match(/passed sanity check|is empty/g)?.length, files.length)
      assert.ok(sane.includes('passed sanity check'), 'all of them are empty')
    })
  }
  await report.case(`.txnindex, ${when}`, async () => {
    const files = filesOf(server, PLAIN, '.txnindex')
    assert.ok(files.length > 1, `only ${files.length} files`)
    const entries = (await dump(files)).split('\n').filter(line => line.startsWith('version: '))
    assert.deepEqual(entries, expected.aborted)
  })
  await report.case(`control batches, ${when}`, async () => {
    const stdout = await dump(filesOf(server, PLAIN, '.log'), '--deep-iteration', '--print-data-log')
    assert.equal(stdout.match(/isControl: true .* isvalid: true$/gm)?.length, 40)
    assert.equal(stdout.match(/endTxnMarker: ABORT coordinatorEpoch: 0$/gm)?.length, expected.aborted.length)
    assert.equal(
      stdout.match(/endTxnMarker: COMMIT coordinatorEpoch: 0$/gm)?.length,
      40 - expected.aborted.length,
    )
  })
  await report.case(`transaction state through Kafka's decoder, ${when}`, () => transactionStates(server))
  await report.case(`committed offsets through Kafka's decoder, ${when}`, () => offsets(server))
}

async function compactedSegments(server: SluiceServer, expected: Expected): Promise<void> {
  const files = filesOf(server, COMPACTED, '.log')
  const stdout = await dumpCompacted(files, '--deep-iteration', '--print-data-log')
  const lines = stdout.split('\n')
  const batches = lines.filter(line => line.startsWith('baseOffset: '))
  assert.ok(batches.length > 0 && batches.every(line => line.endsWith('isvalid: true')), 'invalid batches')
  assert.ok(stdout.includes('deleteHorizonMs: OptionalLong['), 'no batch with a delete horizon')
  assert.ok(stdout.includes('endTxnMarker: '), 'no marker')
  for (const codec of codecs) assert.ok(stdout.includes(`compresscodec: ${codec} `), `no batch with ${codec}`)
  const found = new Map<string, string | null>()
  let count = 0
  for (const line of lines) {
    const record = /^\| offset: (\d+) .* valueSize: (-?\d+) .* key: (\S+)(?: payload: (.+))?$/.exec(line)
    if (record === null || expected.abortedOffsets.has(Number(record[1]))) continue
    found.set(record[3], record[2] === '-1' ? null : record[4])
    count++
  }
  assert.deepEqual(found, expected.latest)
  assert.ok([...found.values()].includes(null), 'no tombstone')
  assert.ok(count < (ROUNDS * ROUND_RECORDS) / 2, `${count} records: it was not compacted`)
}

async function snapshots(server: SluiceServer, expected: Expected): Promise<void> {
  const stdout = await dump(filesOf(server, PLAIN, '.snapshot').slice(-1))
  const { openProducerId, openOffset } = expected
  const producers = stdout.split('\n').filter(line => line.startsWith('producerId: '))
  assert.equal(producers.length, 2, stdout)
  for (const line of producers) {
    const isOpen = line.startsWith(`producerId: ${openProducerId} `)
    const transaction = isOpen ? `OptionalLong[${openOffset}]` : 'OptionalLong.empty'
    assert.ok(line.includes(`currentTxnFirstOffset: ${transaction} `), line)
  }
}

interface Decoded {
  readonly type: string
  readonly data: Record<string, unknown>
}

/** By the text of the key's data; null: removed. */
async function decoded(
  server: SluiceServer,
  topic: string,
  option: string,
): Promise<Map<string, Decoded['data'] | null>> {
  const stdout = await dumpCompacted(filesOf(server, topic, '.log'), option)
  const entries = new Map<string, Decoded['data'] | null>()
  for (const line of stdout.split('\n')) {
    const record = /^\| offset: .*? key: (\{.*?\}\})(?: payload: (.*))?$/.exec(line)
    if (record === null) continue
    const { data } = JSON.parse(record[1]) as Decoded
    const isNull = record[2] === undefined || record[2] === '<DELETE>' || record[2] === 'null'
    entries.set(JSON.stringify(data), isNull ? null : (JSON.parse(record[2]) as Decoded).data)
  }
  return entries
}

/** Kafka's numbers: 1 ongoing, 4 committed, 5 aborted. */
async function transactionStates(server: SluiceServer): Promise<void> {
  const states = await decoded(server, '__transaction_state-', '--transaction-log-decoder')
  const statusOf = (transactionalId: string): unknown =>
    states.get(JSON.stringify({ transactionalId }))?.transactionStatus
  assert.equal(statusOf('dump-compactor'), 4)
  assert.equal(statusOf('dump-outer'), 1)
  assert.ok([4, 5].includes(statusOf('dump-inner') as number))
  const outer = states.get(JSON.stringify({ transactionalId: 'dump-outer' }))
  assert.deepEqual(outer?.transactionPartitions, [{ topic: PLAIN, partitionIds: [0] }])
}

async function offsets(server: SluiceServer): Promise<void> {
  const entries = await decoded(server, '__consumer_offsets-', '--offsets-decoder')
  const value = entries.get(JSON.stringify({ group: GROUP, topic: COMPACTED, partition: 0 }))
  assert.equal(value?.offset, 4711)
}
