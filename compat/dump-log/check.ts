/**
 * Kafka's DumpLogSegments reads our segments, offset indexes, time indexes and producer snapshots: while the server runs, after
 * it was killed and started again, and after it was stopped. The records are those of Kafka's own producer, with every compression,
 * over several segments. Then, on a server of their own, compacted logs, transactions and the internal topics: `transactions.ts`.
 *
 * Has a server of its own, because it must know where the files are and end the process.
 */

import assert from 'node:assert/strict'
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { Check, Report } from '../check.ts'
import { KAFKA_VERSION, kafkaJars, runTool } from '../kafka-jars.ts'
import { SluiceServer } from '../server.ts'
import { dump, filesOf } from './dump.ts'
import { lookAtTransactions } from './transactions.ts'

const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
const RECORDS = 16_000
/** The smallest that Kafka's tools let through. */
const SEGMENT_BYTES = 1_048_576

export const check: Check = {
  name: 'dump-log',
  client: "Kafka's DumpLogSegments over our files",
  async install() {
    await kafkaJars()
    return KAFKA_VERSION
  },
  async run(_address, _dir, report) {
    await using server = new SluiceServer(['--auto-create-topics', 'false'])
    await server.start()
    await report.case('a workload with every compression', () => workload(server))
    await lookAt(server, 'while it runs', report)
    await server.end('SIGKILL')
    await server.start()
    await report.case('more after SIGKILL and a restart', () => produceAll(server))
    await lookAt(server, 'after SIGKILL and a restart', report)
    await server.end('SIGTERM')
    await lookAt(server, 'after a clean stop', report)
    await report.case('snapshots of producers', () => snapshots(server))
    await report.case('what is damaged is noticed', () => damage(server))
    await lookAtTransactions(report)
  },
}

const topicOf = (codec: string): string => `dump-${codec}`

async function workload(server: SluiceServer): Promise<void> {
  const small = { 'segment.bytes': SEGMENT_BYTES, 'index.interval.bytes': 1024 }
  for (const codec of codecs) await create(server, topicOf(codec), small)
  await create(server, 'dump-append-time', { ...small, 'message.timestamp.type': 'LogAppendTime' })
  await produceAll(server)
}

async function create(
  { address }: SluiceServer,
  topic: string,
  config: Record<string, unknown>,
): Promise<void> {
  const pairs = Object.entries(config).flatMap(([key, value]) => ['--config', `${key}=${value}`])
  const args = ['--bootstrap-server', address, '--create', '--topic', topic, '--partitions', '1', ...pairs]
  const { code, stderr } = await runTool('org.apache.kafka.tools.TopicCommand', args)
  assert.equal(code, 0, stderr)
}

/** Small batches, so that there are many of them. */
async function produceAll({ address }: SluiceServer): Promise<void> {
  const produce = async (topic: string, codec: string): Promise<void> => {
    const amount = ['--num-records', `${RECORDS}`, '--record-size', '200', '--throughput', '-1']
    const properties = ['--command-property', `compression.type=${codec}`, 'batch.size=4096']
    const args = ['--bootstrap-server', address, '--topic', topic, ...amount, ...properties]
    const { code, stdout, stderr } = await runTool('org.apache.kafka.tools.ProducerPerformance', args)
    assert.equal(code, 0, stderr)
    assert.match(stdout, new RegExp(`^${RECORDS} records sent`, 'm'))
  }
  for (const codec of codecs) await produce(topicOf(codec), codec)
  await produce('dump-append-time', 'lz4')
}

async function lookAt(server: SluiceServer, when: string, report: Report): Promise<void> {
  await report.case(`segments, ${when}`, async () => {
    const files = filesOf(server, 'dump-', '.log')
    assert.ok(files.length >= codecs.length * 2, `only ${files.length} segments`)
    const stdout = await dump(files, '--deep-iteration', '--print-data-log')
    const batches = stdout.split('\n').filter(line => line.startsWith('baseOffset: '))
    assert.ok(batches.length > 0 && batches.every(line => line.endsWith('isvalid: true')), 'invalid batches')
    for (const codec of codecs) {
      const seen = batches.some(line => line.includes(`compresscodec: ${codec} `))
      assert.ok(seen, `no batch with ${codec}`)
    }
    const records = stdout.split('\n').filter(line => line.startsWith('| offset: '))
    const rounds = when === 'while it runs' ? 1 : 2
    assert.equal(records.length, (codecs.length + 1) * RECORDS * rounds)
  })
  for (const ending of ['.index', '.timeindex']) {
    await report.case(`${ending}, ${when}`, async () => {
      const files = filesOf(server, 'dump-', ending)
      assert.ok(files.length >= codecs.length * 2, `only ${files.length} files`)
      const entries = (await dump(files)).split('\n').filter(line => /^(offset|timestamp): /.test(line))
      assert.ok(entries.length > files.length, `only ${entries.length} entries`)
      await dump(files, '--verify-index-only')
      const sane = await dump(files, '--index-sanity-check')
      assert.equal(sane.match(/passed sanity check/g)?.length, files.length)
    })
  }
}

async function snapshots(server: SluiceServer): Promise<void> {
  const files = filesOf(server, 'dump-', '.snapshot')
  const stdout = await dump(files)
  const producers = stdout.match(/^producerId: \d+ producerEpoch: 0 .* lastSequence: \d+/gm)
  assert.ok((producers?.length ?? 0) >= codecs.length, `only ${producers?.length} producers`)
}

/** Otherwise the cases above would prove nothing. */
async function damage(server: SluiceServer): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-dump-'))
  try {
    const [index] = filesOf(server, 'dump-', '.index')
    const log = index.replace(/index$/, 'log')
    const copy = join(folder, basename(index))
    copyFileSync(log, join(folder, basename(log)))
    const bytes = readFileSync(index)
    bytes[8 * 3 + 3] ^= 1 // the offset of the fourth entry
    writeFileSync(copy, bytes)
    await assert.rejects(dump([copy], '--verify-index-only'), /Index offset/)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
