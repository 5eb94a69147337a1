/**
 * The programs that drive the brokers, each in a process of its own: Kafka's own performance tools with its Java client, and librdkafka behind a
 * small C program (`flood.c`) that hands over and takes records by batches. No package has librdkafka's own rdkafka_performance; the
 * program does the same and spends less CPU than any binding to another language would, on a machine that it shares with the broker.
 *
 * Every producer asks for acks=all, is idempotent (the default of the Java client) and has the same batch size and linger time. Consumers fetch
 * up to 1 MiB of a partition, as both clients do unless told otherwise.
 */

import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { NotRunnable } from '../check.ts'
import { kafkaJars } from '../kafka-jars.ts'
import { installPython, pythonOf } from '../python.ts'

export type Codec = 'none' | 'lz4'

/** What one run of a client is to do. */
export interface Job {
  readonly address: string
  readonly topic: string
  readonly partitions: number
  readonly recordBytes: number
  /** Records; transactions for `transact`. */
  readonly count: number
  readonly codec: Codec
  /** Records of a transaction. */
  readonly transactionSize: number
}

export interface Client {
  readonly name: 'java' | 'librdkafka'
  /** Resolve with the seconds from the first record to the last. */
  produce(job: Job): Promise<number>
  consume(job: Job): Promise<number>
  transact(job: Job): Promise<number>
}

/** Bytes; the default of the Java client is 16 KiB, of librdkafka 1 MB. */
export const BATCH_BYTES = 64 * 1024
export const LINGER_MS = 5
const RUN_MS_MAX = 300_000
const VALUES = 100

const run = promisify(execFile)

async function outputOf(command: string, args: readonly string[]): Promise<string> {
  const { stdout } = await run(command, args, { timeout: RUN_MS_MAX, maxBuffer: 64 * 1024 * 1024 })
  return stdout
}

/** Values of a size as lines of a file: words and numbers, which lz4 makes about half as long. */
function payloads(dir: string, bytes: number): string {
  const path = join(dir, `values-${bytes}.txt`)
  let state = 1
  const random = (): number => (state = (state * 48271) % 2147483647)
  const words = Array.from({ length: 500 }, () => random().toString(36))
  const value = (): string => {
    let text = ''
    while (text.length < bytes) text += `${words[random() % words.length]} ${random() % 1000} `
    return text.slice(0, bytes)
  }
  writeFileSync(path, `${Array.from({ length: VALUES }, value).join('\n')}\n`)
  return path
}

/** Throws `NotRunnable` without Java and Maven. */
export async function javaClient(dir: string): Promise<Client> {
  const classPath = `${dir}:${await kafkaJars()}`
  if (spawnSync('javac', ['-version']).error !== undefined) throw new NotRunnable('no javac on the PATH')
  mkdirSync(dir, { recursive: true })
  execFileSync('javac', [
    '-nowarn',
    '-cp',
    classPath,
    '-d',
    dir,
    join(import.meta.dirname, 'Transactions.java'),
  ])
  // The heap of Kafka's script for tools; its collector and the whole of the JIT compiler are the JVM's own choice.
  const java = (className: string, args: readonly string[]): Promise<string> =>
    outputOf('java', ['-Xmx512m', '-cp', classPath, className, ...args])
  const producer = (codec: Codec): string[] => [
    'acks=all',
    `batch.size=${BATCH_BYTES}`,
    `linger.ms=${LINGER_MS}`,
    `compression.type=${codec}`,
  ]
  return {
    name: 'java',
    async produce({ address, topic, recordBytes, count, codec }) {
      const output = await java('org.apache.kafka.tools.ProducerPerformance', [
        ...[
          '--bootstrap-server',
          address,
          '--topic',
          topic,
          '--num-records',
          `${count}`,
          '--throughput',
          '-1',
        ],
        ...['--payload-file', payloads(dir, recordBytes), '--reporting-interval', '600000'],
        ...['--command-property', ...producer(codec)],
      ])
      const found = [...output.matchAll(/^(\d+) records sent, ([\d.]+) records\/sec/gm)].at(-1)
      if (Number(found?.[1]) !== count) throw new Error(`kafka-producer-perf-test says ${output}`)
      return count / Number(found![2])
    },
    async consume({ address, topic, count }) {
      const output = await java('org.apache.kafka.tools.ConsumerPerformance', [
        ...['--bootstrap-server', address, '--topic', topic, '--num-records', `${count}`, '--hide-header'],
        ...['--timeout', '60000'],
      ])
      // start, end, MB, MB/s, records, records/s, rebalance ms, fetch ms, fetch MB/s, fetch records/s
      const fields = output.trim().split('\n').at(-1)!.split(', ')
      if (!(Number(fields[4]) >= count)) throw new Error(`kafka-consumer-perf-test says ${output}`)
      return Number(fields[7]) / 1000
    },
    async transact({ address, topic, partitions, recordBytes, count, codec, transactionSize }) {
      const amounts = [`${partitions}`, `${count}`, payloads(dir, recordBytes), `${transactionSize}`]
      const more = [...producer(codec), `transactional.id=${topic}`]
      return secondsIn(await java('Transactions', [address, topic, ...amounts, ...more]))
    },
  }
}

/** Takes the library out of its Python package. Throws `NotRunnable` without Python and a C compiler. */
export async function librdkafkaClient(dir: string, cache: string): Promise<Client> {
  const home = join(cache, 'librdkafka')
  mkdirSync(home, { recursive: true })
  mkdirSync(dir, { recursive: true })
  await installPython(join(import.meta.dirname, '../librdkafka'), home, 'confluent-kafka')
  if (spawnSync('cc', ['--version']).error !== undefined) throw new NotRunnable('no cc on the PATH')
  const where = ['-c', 'import confluent_kafka as c, os; print(os.path.dirname(c.__file__))']
  const libraries = `${execFileSync(pythonOf(home), where, { encoding: 'utf8' }).trim()}.libs`
  const library = readdirSync(libraries).find(name => name.startsWith('librdkafka-'))
  if (library === undefined) throw new NotRunnable('this Python package of librdkafka has no library for C')
  const program = join(dir, 'flood')
  const source = join(import.meta.dirname, 'flood.c')
  execFileSync('cc', ['-O2', '-o', program, source, join(libraries, library), `-Wl,-rpath,${libraries}`])
  const producer = (codec: Codec): string[] => [
    'acks=all',
    'enable.idempotence=true',
    `batch.size=${BATCH_BYTES}`,
    `linger.ms=${LINGER_MS}`,
    `compression.codec=${codec}`,
    'queue.buffering.max.messages=1000000',
    'queue.buffering.max.kbytes=65536',
  ]
  const flood = async (mode: string, job: Job, rest: readonly string[]): Promise<number> =>
    secondsIn(
      await outputOf(program, [mode, job.address, job.topic, `${job.partitions}`, `${job.count}`, ...rest]),
    )
  return {
    name: 'librdkafka',
    produce: job => flood('produce', job, [payloads(dir, job.recordBytes), ...producer(job.codec)]),
    // Without the last setting it does nothing for a second each time that it has enough.
    consume: job => flood('consume', job, ['-', 'fetch.queue.backoff.ms=1']),
    transact: job =>
      flood('transact', job, [
        ...[payloads(dir, job.recordBytes), `${job.transactionSize}`],
        ...[...producer(job.codec), `transactional.id=${job.topic}`],
      ]),
  }
}

const secondsIn = (output: string): number => Number(output.trim().split(' ')[1])
