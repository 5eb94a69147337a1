/**
 * The two brokers that are compared, each a process of its own with a fresh data directory. Both live through a whole series of measurements, so
 * that neither is measured cold, but only one of them runs at a time: the other one is stopped with SIGSTOP.
 */

import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startKafka } from '../kafka-cluster.ts'
import { RawClient } from '../raw-client.ts'
import { SluiceServer } from '../server.ts'

/** When a write is acknowledged: `os`, once it is in the page cache, and synced when the system sees fit; `always`: once it is synced. */
export type Flush = 'os' | 'always'

const DEADLINE_MS = 60_000
const TOPIC_EXISTS = 36
const FIRST_PORT = 19500

export interface Broker {
  readonly name: 'sluice' | 'kafka'
  readonly address: string
  readonly pid: number
  /** Where the folders `TOPIC-PARTITION` are. */
  readonly data: string
  stop(): Promise<void>
}

export async function startSluice(flush: Flush): Promise<Broker> {
  const server = new SluiceServer(['--flush', flush, '--auto-create-topics', 'false'])
  await server.start()
  const { pid } = server
  const kill = (): void => {
    process.kill(pid, 'SIGKILL')
    rmSync(server.data, { recursive: true, force: true })
  }
  process.once('exit', kill)
  return {
    name: 'sluice',
    address: server.address,
    pid,
    data: join(server.data, 'topics'),
    async stop() {
      process.removeListener('exit', kill)
      await server[Symbol.asyncDispose]()
    },
  }
}

/** With the heap and the JVM flags of Kafka's own start script, and what is commonly tuned for throughput. */
export async function startApacheKafka(flush: Flush): Promise<Broker> {
  const kafka = await startKafka({
    port: FIRST_PORT,
    heap: '1g',
    optimised: true,
    config: {
      'socket.send.buffer.bytes': '1048576',
      'socket.receive.buffer.bytes': '1048576',
      // It is stopped for minutes while the other one is measured.
      'broker.session.timeout.ms': '3600000',
      'log.segment.delete.delay.ms': '100',
      'auto.create.topics.enable': 'false',
      ...(flush === 'always' && { 'log.flush.interval.messages': '1' }),
    },
  })
  const [pid] = kafka.pids
  const remove = (): void => rmSync(kafka.directory, { recursive: true, force: true })
  process.once('exit', remove)
  return {
    name: 'kafka',
    address: kafka.bootstrap,
    pid,
    data: join(kafka.directory, 'node-1/data'),
    async stop() {
      process.removeListener('exit', remove)
      process.kill(pid, 'SIGCONT')
      await kafka.stop()
    },
  }
}

export const pause = ({ pid }: Broker): void => void process.kill(pid, 'SIGSTOP')

/** Resolves when it answers. */
export async function resume(broker: Broker): Promise<void> {
  process.kill(broker.pid, 'SIGCONT')
  await until(`${broker.name} answers`, () => withClient(broker, async () => true))
}

/** Resolves when all partitions have a leader. */
export async function createTopic(broker: Broker, name: string, partitions: number): Promise<void> {
  await until(`${broker.name} makes ${name}`, () =>
    withClient(broker, async client => {
      const topic = { name, numPartitions: partitions, replicationFactor: 1, assignments: [], configs: [] }
      const { topics } = await client.request('CreateTopics', 5, { topics: [topic], timeoutMs: 10_000 })
      const made = topics[0].errorCode === 0 || topics[0].errorCode === TOPIC_EXISTS
      return made && (await isLed(client, name, partitions))
    }),
  )
}

async function isLed(client: RawClient, name: string, count: number): Promise<boolean> {
  const { topics } = await client.request('Metadata', 8, {
    topics: [{ name }],
    allowAutoTopicCreation: false,
  })
  const { errorCode, partitions } = topics[0]
  return errorCode === 0 && partitions.length === count && partitions.every(each => each.errorCode === 0)
}

/** Resolves when the files are gone, so that they are not removed while something else is measured. */
export async function deleteTopic(broker: Broker, name: string): Promise<void> {
  await withClient(broker, client =>
    client.request('DeleteTopics', 5, { topicNames: [name], timeoutMs: 10_000 }),
  )
  await until(`${broker.name} removes ${name}`, async () =>
    readdirSync(broker.data, { recursive: true }).every(path => !`${path}`.includes(name)),
  )
}

async function withClient<T>(broker: Broker, use: (client: RawClient) => Promise<T>): Promise<T> {
  const client = await RawClient.connect(Number(broker.address.split(':')[1]))
  try {
    return await use(client)
  } finally {
    client.close()
  }
}

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + DEADLINE_MS
  let last: unknown = 'no'
  while (performance.now() < end) {
    try {
      if (await isSo()) return
    } catch (error) {
      last = error
    }
    await sleep(50)
  }
  throw new Error(`not so after ${DEADLINE_MS / 1000} s: ${what} (${last})`)
}
