/**
 * What produce and fetch do with memory: nothing is allocated for a record, and the bytes of requests and answers are given back as soon as nobody
 * looks at them any more, no sooner.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Broker } from '../../../src/broker/broker.ts'
import { ByteReader } from '../../../src/lib/bytes.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { nodeDisk } from '../../../src/lib/disk-node.ts'
import { fetchHandler } from '../../../src/server/kafka/fetch-handler.ts'
import type { Handler, RequestContext } from '../../../src/server/kafka/handler.ts'
import { KafkaServer } from '../../../src/server/kafka/kafka-server.ts'
import { produceHandler } from '../../../src/server/kafka/produce-handler.ts'
import { createLogger } from '../../../src/server/logger.ts'
import { decodeRequestBody, decodeRequestHeader, encodeResponse } from '../../../src/wire/kafka/frame.ts'
import { batchOf, encode, fetchOf, produceOf, RawClient, RawServer } from './raw-client.ts'

const PRODUCE_VERSION = 9
const FETCH_VERSION = 11
/** Of the values of a batch, whatever their number. */
const BATCH_BYTES = 100_000
const ROUNDS = 41

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]

/** Bytes on the heap that one call takes: the median of many, since a collection in between falsifies a few. */
function heapTaken(prepare: () => void, call: () => void): number {
  const taken: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    prepare()
    const before = process.memoryUsage().heapUsed
    call()
    taken.push(process.memoryUsage().heapUsed - before)
  }
  return median(taken)
}

/** What a connection does with a request, without the connection. Throws if it cannot be answered at once. */
function serve(handler: Handler, frame: Buffer, context: RequestContext): number {
  const reader = new ByteReader(frame)
  const { correlationId } = decodeRequestHeader(reader)
  const request = decodeRequestBody(handler.api, context.version, reader)
  const answer = handler.handle(request, context)
  if (answer === null || answer instanceof Promise) throw new Error('not answered at once')
  return encodeResponse(handler.api, context.version, correlationId, answer).bytes
}

const SIZE_BYTES = 4
const valuesOf = (count: number): string[] =>
  Array.from({ length: count }, () => 'x'.repeat(BATCH_BYTES / count))

describe('nothing is allocated for a record', () => {
  const contextOf = (server: RawServer, version: number): RequestContext => ({
    broker: server.broker,
    node: { id: 1, host: '127.0.0.1', port: server.port },
    version,
    clientId: 'test',
    connection: { id: 'c', clientHost: '/127.0.0.1', signal: new AbortController().signal },
    autoCreateTopics: false,
  })

  test('produce: a batch of 2,000 takes as much of the heap as one of 10', async () => {
    await using server = await RawServer.start()
    const context = contextOf(server, PRODUCE_VERSION)
    const taken = async (count: number): Promise<number> => {
      const topic = `of-${count}`
      await server.topic(topic)
      const request = encode('Produce', PRODUCE_VERSION, 1, produceOf(topic, batchOf(valuesOf(count)), 1))
      const frame = Buffer.allocUnsafe(request.length - SIZE_BYTES)
      return heapTaken(
        () => void request.copy(frame, 0, SIZE_BYTES),
        () => void serve(produceHandler as unknown as Handler, frame, context),
      )
    }
    await taken(10) // what is compiled and set up the first time
    await server.broker.deleteTopic('of-10')
    const [few, many] = [await taken(10), await taken(2000)]
    expect(Math.abs(many - few)).toBeLessThan(2000 * 8) // no object has fewer than 16 bytes
    expect(few).toBeGreaterThan(0)
  })

  test('fetch: batches of 2,000 take as much of the heap as batches of 10', async () => {
    await using server = await RawServer.start()
    const context = contextOf(server, FETCH_VERSION)
    const handler = fetchHandler() as unknown as Handler
    const taken = async (count: number): Promise<number> => {
      const topic = `of-${count}`
      const made = await server.topic(topic)
      for (let batch = 0; batch < 5; batch++)
        made.partitions[0].append(batchOf(valuesOf(count)), undefined, true)
      const request = encode('Fetch', FETCH_VERSION, 1, fetchOf(topic, [{ partition: 0, fetchOffset: 0 }]))
      const frame = request.subarray(SIZE_BYTES)
      let bytes = 0
      const heap = heapTaken(
        () => {},
        () => {
          bytes = serve(handler, frame, context)
        },
      )
      expect(bytes).toBeGreaterThan(5 * BATCH_BYTES)
      return heap
    }
    await taken(100)
    const [few, many] = [await taken(10), await taken(2000)]
    expect(Math.abs(many - few)).toBeLessThan(2000 * 8) // no object has fewer than 16 bytes
    expect(few).toBeGreaterThan(0)
  })
})

/** What is given back from now on, in bytes. */
function sizesFreed(): number[] {
  const sizes: number[] = []
  const { transfer } = ArrayBuffer.prototype
  const spy = vi.spyOn(ArrayBuffer.prototype, 'transfer').mockImplementation(function (
    this: ArrayBuffer,
    bytes,
  ) {
    sizes.push(this.byteLength)
    return transfer.call(this, bytes)
  })
  onTestFinished(() => spy.mockRestore())
  return sizes
}

describe('memory is given back', () => {
  test('of produce requests, and not before all that lie in it are answered', async () => {
    await using server = await RawServer.start()
    const { partitions } = await server.topic('t')
    const client = await server.client()
    const freed = sizesFreed()
    // Small ones share what is read from the socket; large ones come in pieces. Some are cut in the middle.
    const values = Array.from({ length: 60 }, (_, index) =>
      `${index} `.repeat(index % 10 === 9 ? 60_000 : 10),
    )
    const requests = values.map((value, index) =>
      encode('Produce', PRODUCE_VERSION, index, produceOf('t', batchOf([value]))),
    )
    const all = Buffer.concat(requests)
    for (let at = 0; at < all.length; at += 70_001) client.socket.write(all.subarray(at, at + 70_001))
    for (let index = 0; index < values.length; index++) {
      const { responses } = await client.answer('Produce', PRODUCE_VERSION, index)
      expect(responses[0].partitionResponses[0]).toMatchObject({ errorCode: 0, baseOffset: index })
    }
    for (const [index, value] of values.entries()) {
      const stored = Buffer.from(await partitions[0].read(index, 1))
      expect(stored.includes(value)).toBe(true)
    }
    expect(freed.filter(bytes => bytes > 100_000)).toHaveLength(6)
    // And what was read from the socket, which has been copied or answered.
    expect(freed.reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThan(1.5 * all.length)
  })

  test('not of other requests: what a member says of itself comes in the same piece as a produce', async () => {
    await using server = await RawServer.start()
    await server.topic('t')
    const client = await server.client()
    const metadata = Buffer.from('what this member can do')
    const join = {
      groupId: 'g',
      sessionTimeoutMs: 10_000,
      rebalanceTimeoutMs: 10_000,
      memberId: '',
      protocolType: 'consumer',
      protocols: [{ name: 'range', metadata }],
    }
    client.socket.write(
      Buffer.concat([
        encode('JoinGroup', 3, 1, join),
        encode('Produce', PRODUCE_VERSION, 2, produceOf('t', batchOf(['x']))),
      ]),
    )
    const { memberId, generationId } = await client.answer('JoinGroup', 3, 1)
    await client.answer('Produce', PRODUCE_VERSION, 2)
    await client.request('SyncGroup', 2, {
      groupId: 'g',
      generationId,
      memberId,
      assignments: [{ memberId, assignment: Buffer.from('all') }],
    })
    const { groups } = await client.request('DescribeGroups', 0, { groups: ['g'] })
    expect(Buffer.from(groups[0].members[0].memberMetadata).toString()).toBe('what this member can do')
  })

  test('of what was read from files, once the client has it', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-memory-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const broker = await Broker.open({ disk: nodeDisk(), path: directory, clock: systemClock })
    const log = createLogger({ level: 'warn', format: 'text', output: process.stderr, clock: systemClock })
    const kafka = new KafkaServer({
      broker,
      log,
      clock: systemClock,
      autoCreateTopics: false,
      connectionsMax: 9,
    })
    const { port } = await kafka.listen('127.0.0.1', 0)
    const clients = [await RawClient.connect(port), await RawClient.connect(port)]
    onTestFinished(async () => {
      for (const client of clients) client.close()
      await kafka.drain(0)
      await broker.close()
    })
    const { partitions } = await broker.createTopic({ name: 't', partitions: 2, config: {} })
    const batch = (index: number) => batchOf([`${index} `.repeat(5000)])
    for (const partition of partitions) {
      for (let index = 0; index < 100; index++) void partition.append(batch(index), undefined, true).done
      await partition.log.flush()
    }
    const freed = sizesFreed()
    // Both read the same at the same time.
    const wanted = [0, 1].map(partition => ({ partition, fetchOffset: 0, partitionMaxBytes: 2 ** 24 }))
    const answers = await Promise.all(
      clients.map(client =>
        client.request('Fetch', FETCH_VERSION, fetchOf('t', wanted, { maxBytes: 2 ** 25 })),
      ),
    )
    const expected = Buffer.concat(await Promise.all(partitions.map(each => each.read(0, 2 ** 24))))
    expect(expected.length).toBeGreaterThan(2 * 100 * 5000)
    for (const { responses } of answers) {
      const records = responses[0].partitions.map(each => Buffer.from(each.records!))
      expect(Buffer.concat(records).equals(expected)).toBe(true)
    }
    await vi.waitFor(() => expect(freed).toHaveLength(4))
  })
})
