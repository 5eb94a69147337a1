/** kafkajs: the steps of compat/driver.ts in this process. Snappy, lz4 and zstd are codecs that its users bring. */

import { createRequire } from 'node:module'
import { zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import kafkajs, { type Admin, type Consumer, type KafkaMessage } from 'kafkajs'
import type { Codec, Driver } from '../driver.ts'
import type { Received, Sent } from '../records.ts'

// These two are CommonJS, and their types say otherwise.
const require = createRequire(import.meta.url)
const snappy: typeof import('snappy') = require('snappy')
const lz4: typeof import('lz4-napi') = require('lz4-napi')

const { CompressionTypes, CompressionCodecs, Kafka, logLevel } = kafkajs

const types: Readonly<Record<Codec, number>> = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}

interface Encoder {
  readonly buffer: Buffer
}

const codec = (compress: (data: Buffer) => unknown, decompress: (data: Buffer) => unknown) => () => ({
  compress: async (encoder: Encoder) => compress(encoder.buffer),
  decompress: async (data: Buffer) => decompress(data),
})
CompressionCodecs[types.snappy as 2] = codec(snappy.compressSync, data => snappy.uncompressSync(data))
CompressionCodecs[types.lz4 as 3] = codec(lz4.compressFrameSync, lz4.decompressFrameSync)
CompressionCodecs[types.zstd as 4] = codec(zstdCompressSync, zstdDecompressSync)

interface Member {
  readonly consumer: Consumer
  readonly topic: string
  readonly seen: { partition: number; offset: string }[]
  assigned: number[]
}

export class KafkajsDriver implements Driver {
  readonly #kafka: InstanceType<typeof Kafka>
  readonly #members = new Map<string, Member>()

  constructor(address: string) {
    this.#kafka = new Kafka({
      brokers: [address],
      clientId: 'compat',
      logLevel: logLevel.NOTHING,
      retry: { retries: 3, initialRetryTime: 50 },
    })
  }

  async create(topic: string, partitions: number): Promise<void> {
    const topics = [{ topic, numPartitions: partitions }]
    // This is how it tells that a topic exists.
    if (!(await this.#withAdmin(admin => admin.createTopics({ topics }))))
      throw new Error('createTopics gave false')
  }

  remove(topic: string): Promise<void> {
    return this.#withAdmin(admin => admin.deleteTopics({ topics: [topic] }))
  }

  topics(): Promise<string[]> {
    return this.#withAdmin(admin => admin.listTopics())
  }

  async groups(): Promise<string[]> {
    const { groups } = await this.#withAdmin(admin => admin.listGroups())
    return groups.map(group => group.groupId)
  }

  async produce(topic: string, codec: Codec, records: readonly Sent[]): Promise<void> {
    // Its idempotent producer is marked experimental and wants endless retries: without, as most of its users have it.
    const producer = this.#kafka.producer({ allowAutoTopicCreation: false })
    await producer.connect()
    const messages = records.map(({ partition, key, value, timestamp, headers }) => ({
      partition,
      key,
      value,
      ...(timestamp === undefined ? {} : { timestamp: `${timestamp}` }),
      headers: Object.fromEntries(headers),
    }))
    try {
      await producer.send({ topic, acks: -1, compression: types[codec], messages })
    } finally {
      await producer.disconnect()
    }
  }

  async read(topic: string, _partitions: number, count: number): Promise<Received[]> {
    const consumer = this.#kafka.consumer({ groupId: `reader-${topic}`, maxWaitTimeInMs: 100 })
    return this.#take(consumer, topic, count, () => {})
  }

  async readAt(topic: string, partition: number, timestamp: number): Promise<Received> {
    const places = await this.#withAdmin(admin => admin.fetchTopicOffsetsByTimestamp(topic, timestamp))
    const { offset } = places.find(place => place.partition === partition)!
    const consumer = this.#kafka.consumer({ groupId: `reader-at-${topic}`, maxWaitTimeInMs: 100 })
    const [record] = await this.#take(consumer, topic, 1, () => consumer.seek({ topic, partition, offset }))
    return record
  }

  async join(name: string, groupId: string, topic: string): Promise<void> {
    const consumer = this.#kafka.consumer({
      groupId,
      maxWaitTimeInMs: 100,
      sessionTimeout: 10_000,
      rebalanceTimeout: 10_000,
      heartbeatInterval: 300,
    })
    const member: Member = { consumer, topic, seen: [], assigned: [] }
    this.#members.set(name, member)
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      member.assigned = payload.memberAssignment[topic] ?? []
    })
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        member.seen.push({ partition, offset: message.offset })
      },
    })
  }

  async assigned(name: string): Promise<number[]> {
    return this.#members.get(name)!.assigned
  }

  async received(name: string): Promise<string[]> {
    return this.#members.get(name)!.seen.map(({ partition, offset }) => `${partition}:${offset}`)
  }

  async commit(name: string): Promise<void> {
    const { consumer, topic, seen, assigned } = this.#members.get(name)!
    const last = new Map(seen.map(({ partition, offset }) => [partition, offset]))
    const offsets = [...last]
      .filter(([partition]) => assigned.includes(partition))
      .map(([partition, offset]) => ({ topic, partition, offset: `${BigInt(offset) + 1n}` }))
    await consumer.commitOffsets(offsets)
  }

  async leave(name: string): Promise<void> {
    const { consumer } = this.#members.get(name)!
    this.#members.delete(name)
    await consumer.disconnect()
  }

  async close(): Promise<void> {
    for (const name of [...this.#members.keys()]) await this.leave(name)
  }

  async #take(consumer: Consumer, topic: string, count: number, begin: () => void): Promise<Received[]> {
    const found: Received[] = []
    try {
      await consumer.connect()
      await consumer.subscribe({ topics: [topic], fromBeginning: true })
      await new Promise<void>((resolve, reject) => {
        consumer
          .run({
            autoCommit: false,
            eachMessage: async ({ partition, message }) => {
              if (found.length < count) found.push(receivedOf(partition, message))
              if (found.length === count) resolve()
            },
          })
          .then(begin, reject)
      })
    } finally {
      await consumer.disconnect()
    }
    return found
  }

  async #withAdmin<T>(work: (admin: Admin) => Promise<T>): Promise<T> {
    const admin = this.#kafka.admin()
    await admin.connect()
    try {
      return await work(admin)
    } finally {
      await admin.disconnect()
    }
  }
}

function receivedOf(partition: number, { key, value, headers, offset, timestamp }: KafkaMessage): Received {
  const flat = Object.entries(headers ?? {}).flatMap(([name, values]) =>
    [values ?? []].flat().map(one => [name, Buffer.from(one)] as const),
  )
  return { partition, offset: Number(offset), key, value, headers: flat, timestamp: Number(timestamp) }
}
