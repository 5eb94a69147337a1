/** @platformatic/kafka: the steps of compat/driver.ts in this process. */

import {
  Admin,
  Consumer,
  type Message,
  type MessagesStream,
  type MessageToProduce,
  Producer,
} from '@platformatic/kafka'
import type { Codec, Driver, Protocol } from '../driver.ts'
import type { Received, Sent } from '../records.ts'

type Raw = Message<Buffer, Buffer, Buffer, Buffer>

const GROUP_TIMINGS = { sessionTimeout: 10_000, rebalanceTimeout: 10_000, heartbeatInterval: 300 }

interface Member {
  readonly consumer: Consumer
  readonly stream: MessagesStream<Buffer, Buffer, Buffer, Buffer>
  readonly seen: Raw[]
  readonly topic: string
}

export class PlatformaticDriver implements Driver {
  readonly #base: { clientId: string; bootstrapBrokers: string[]; retries: number }
  readonly #admin: Admin
  readonly #members = new Map<string, Member>()

  constructor(address: string) {
    this.#base = { clientId: 'compat', bootstrapBrokers: [address], retries: 3 }
    this.#admin = new Admin(this.#base)
  }

  async create(topic: string, partitions: number): Promise<void> {
    await this.#admin.createTopics({ topics: [topic], partitions, replicas: 1 }).catch(throwCause)
  }

  async remove(topic: string): Promise<void> {
    await this.#admin.deleteTopics({ topics: [topic] })
  }

  topics(): Promise<string[]> {
    return this.#admin.listTopics()
  }

  async groups(): Promise<string[]> {
    return [...(await this.#admin.listGroups()).keys()]
  }

  async produce(topic: string, codec: Codec, records: readonly Sent[]): Promise<void> {
    const producer = new Producer({ ...this.#base, retries: 0 })
    const messages = records.map(record => ({
      topic,
      partition: record.partition,
      ...(record.key === null ? {} : { key: record.key }),
      ...(record.value === null ? {} : { value: record.value }),
      ...(record.timestamp === undefined ? {} : { timestamp: BigInt(record.timestamp) }),
      headers: new Map(record.headers.map(([name, value]) => [Buffer.from(name), value])),
    })) as MessageToProduce[]
    try {
      await producer.send({ messages, acks: -1, idempotent: true, compression: codec }).catch(throwCause)
    } finally {
      await producer.close()
    }
  }

  async read(topic: string, partitions: number, count: number): Promise<Received[]> {
    const offsets = Array.from({ length: partitions }, (_, partition) => ({ topic, partition, offset: 0n }))
    return this.#take(topic, offsets, count)
  }

  async readAt(topic: string, partition: number, timestamp: number): Promise<Received> {
    const consumer = new Consumer({ ...this.#base, groupId: 'reader' })
    const offsets = await consumer.listOffsets({ topics: [topic], timestamp: BigInt(timestamp) })
    await consumer.close(true)
    const offset = offsets.get(topic)![partition]
    const [record] = await this.#take(topic, [{ topic, partition, offset }], 1)
    return record
  }

  async join(name: string, group: string, topic: string, protocol: Protocol): Promise<void> {
    const given = { ...this.#base, groupId: group, maxWaitTime: 100, autocommit: false, highWaterMark: 1024 }
    const consumer =
      protocol === 'consumer'
        ? new Consumer({ ...given, groupProtocol: 'consumer' })
        : new Consumer({ ...given, ...GROUP_TIMINGS })
    const stream = await consumer.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest' })
    const seen: Raw[] = []
    stream.on('data', message => seen.push(message))
    stream.on('error', () => {})
    this.#members.set(name, { consumer, stream, seen, topic })
  }

  async assigned(name: string): Promise<number[]> {
    const { consumer, topic } = this.#members.get(name)!
    return (consumer.assignments ?? []).filter(each => each.topic === topic).flatMap(each => each.partitions)
  }

  async received(name: string): Promise<string[]> {
    return this.#members.get(name)!.seen.map(message => `${message.partition}:${message.offset}`)
  }

  async commit(name: string): Promise<void> {
    const { consumer, seen, topic } = this.#members.get(name)!
    const last = new Map<number, Raw>()
    for (const message of seen) last.set(message.partition, message)
    const mine = await this.assigned(name)
    const offsets = [...last.values()]
      .filter(message => mine.includes(message.partition))
      .map(({ partition, offset, leaderEpoch }) => ({ topic, partition, offset: offset + 1n, leaderEpoch }))
    await consumer.commit({ offsets })
  }

  async leave(name: string): Promise<void> {
    const { consumer, stream } = this.#members.get(name)!
    this.#members.delete(name)
    await stream.close()
    await consumer.close(true)
  }

  async close(): Promise<void> {
    for (const name of [...this.#members.keys()]) await this.leave(name)
    await this.#admin.close()
  }

  async #take(
    topic: string,
    offsets: { topic: string; partition: number; offset: bigint }[],
    count: number,
  ): Promise<Received[]> {
    const groupId = `reader-${topic}`
    const consumer = new Consumer({ ...this.#base, groupId, maxWaitTime: 100, autocommit: false })
    const stream = await consumer.consume({ topics: [topic], mode: 'manual', offsets })
    const found: Received[] = []
    try {
      if (count > 0) {
        for await (const message of stream) {
          found.push(receivedOf(message))
          if (found.length === count) break
        }
      }
    } finally {
      await stream.close()
      await consumer.close(true)
    }
    return found
  }
}

function receivedOf(message: Raw): Received {
  const headers = message.headerEntries.map(([name, value]) => [name.toString(), value] as const)
  return {
    partition: message.partition,
    offset: Number(message.offset),
    key: message.key ?? null,
    value: message.value ?? null,
    headers,
    timestamp: Number(message.timestamp),
  }
}

/** This client wraps what the server says into errors of its own: the innermost is the server's. */
function throwCause(error: unknown): never {
  let inner = error as { errors?: unknown[]; cause?: unknown; apiId?: string }
  for (;;) {
    const next = inner.errors?.[0] ?? inner.cause
    if (next === undefined) break
    inner = next as typeof inner
  }
  throw inner.apiId === undefined ? inner : new Error(`${inner.apiId}: ${(inner as Error).message}`)
}
