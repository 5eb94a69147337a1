/** Produce: what is stored, what is refused with which error, and when the answer comes. */

import { describe, expect, test } from 'vitest'
import { patchChecksum } from '../../../src/record/batch.ts'
import { BatchBuilder, type Compression, compressionTypes } from '../../../src/record/builder.ts'
import { compress } from '../../../src/record/compression.ts'
import { RecordCursor } from '../../../src/record/cursor.ts'
import { batchOf, fetchOf, produceOf, type RawClient, RawServer } from './raw-client.ts'

const produce = async (client: RawClient, records: Buffer | null, version = 9, acks = -1, topic = 't') => {
  const { responses } = await client.request('Produce', version, produceOf(topic, records, acks))
  return responses[0].partitionResponses[0]
}

/** A batch whose attributes are changed as they would be by a client that means it. */
function withAttributes(batch: Buffer, attributes: number): Buffer {
  batch.writeInt16BE(attributes, 21)
  patchChecksum(batch, 0)
  return batch
}

describe('stores', () => {
  test.each([3, 5, 7, 8, 9, 10, 11, 12])('version %i', async version => {
    await using server = await RawServer.start()
    await server.topic('t')
    const client = await server.client()
    expect(await produce(client, batchOf(['a', 'b']), version)).toMatchObject({
      index: 0,
      errorCode: 0,
      baseOffset: 0,
      logAppendTimeMs: -1,
    })
    expect(await produce(client, batchOf(['c']), version, 1)).toMatchObject({ baseOffset: 2 })
  })

  test('version 13, by the id of the topic', async () => {
    await using server = await RawServer.start()
    const { id } = await server.topic('t')
    const client = await server.client()
    const send = (topicId: string) =>
      client.request('Produce', 13, {
        acks: -1,
        timeoutMs: 0,
        topicData: [{ topicId, partitionData: [{ index: 0, records: batchOf(['x']) }] }],
      })
    expect((await send(id)).responses[0]).toMatchObject({
      topicId: id,
      partitionResponses: [{ errorCode: 0, baseOffset: 0 }],
    })
    expect((await send('abcdefghijklmnopqrstug')).responses[0].partitionResponses[0].errorCode).toBe(100)
  })

  test.each(Object.entries(compressionTypes) as [Compression, number][])(
    'a batch compressed with %s, and gives it back as it was',
    async (compression, number) => {
      await using server = await RawServer.start()
      await server.topic('t')
      const client = await server.client()
      const plain = batchOf(['one', 'two'])
      const body = number === 0 ? plain.subarray(61) : compress(number, plain.subarray(61))
      const batch = Buffer.concat([plain.subarray(0, 61), body])
      batch.writeInt32BE(batch.length - 12, 8)
      expect(compression).toBeTypeOf('string')
      expect(await produce(client, withAttributes(batch, number))).toMatchObject({
        errorCode: 0,
        baseOffset: 0,
      })
      const { responses } = await client.request(
        'Fetch',
        11,
        fetchOf('t', [{ partition: 0, fetchOffset: 0 }]),
      )
      const cursor = new RecordCursor(responses[0].partitions[0].records!)
      const values: string[] = []
      while (cursor.next()) {
        values.push(cursor.bytes.toString('utf8', cursor.valueStart, cursor.valueStart + cursor.valueBytes))
      }
      expect(values).toEqual(['one', 'two'])
    },
  )

  test('several partitions of several topics, each with its own result', async () => {
    await using server = await RawServer.start()
    await server.topic('a', 2)
    await server.topic('b')
    const client = await server.client()
    const { responses } = await client.request('Produce', 9, {
      acks: -1,
      timeoutMs: 0,
      topicData: [
        {
          name: 'a',
          partitionData: [
            { index: 1, records: batchOf(['x']) },
            { index: 2, records: batchOf(['x']) },
            { index: 0, records: batchOf(['x']) },
          ],
        },
        { name: 'b', partitionData: [{ index: 0, records: batchOf(['x', 'y']) }] },
        { name: 'c', partitionData: [{ index: 0, records: batchOf(['x']) }] },
      ],
    })
    const results = responses.map(({ name, partitionResponses }) => [
      name,
      partitionResponses.map(({ index, errorCode, baseOffset }) => [index, errorCode, baseOffset]),
    ])
    expect(results).toEqual([
      [
        'a',
        [
          [1, 0, 0],
          [2, 3, -1],
          [0, 0, 0],
        ],
      ],
      ['b', [[0, 0, 0]]],
      ['c', [[0, 3, -1]]],
    ])
  })

  test('with LogAppendTime the answer says which', async () => {
    await using server = await RawServer.start()
    await server.topic('t', 1, { 'message.timestamp.type': 'LogAppendTime' })
    const client = await server.client()
    expect(await produce(client, batchOf(['x']))).toMatchObject({ logAppendTimeMs: server.clock.now() })
  })

  test('a batch that an idempotent producer repeats gets the offset of the first time', async () => {
    await using server = await RawServer.start()
    await server.topic('t')
    const client = await server.client()
    const { producerId, producerEpoch } = await client.request('InitProducerId', 4, {
      transactionalId: null,
      transactionTimeoutMs: 0,
    })
    const batch = (baseSequence: number) => batchOf(['x', 'y'], { producerId, producerEpoch, baseSequence })
    expect(await produce(client, batch(0))).toMatchObject({ errorCode: 0, baseOffset: 0 })
    expect(await produce(client, batch(2))).toMatchObject({ errorCode: 0, baseOffset: 2 })
    expect(await produce(client, batch(0))).toMatchObject({ errorCode: 0, baseOffset: 0 })
    expect(await produce(client, batch(6))).toMatchObject({ errorCode: 45, baseOffset: -1 })
    expect(await produce(client, batch(4))).toMatchObject({ errorCode: 0, baseOffset: 4 })
  })
})

describe('refuses', () => {
  const damaged = batchOf(['x'])
  damaged[damaged.length - 1] ^= 1
  const oldMagic = batchOf(['x'])
  oldMagic[16] = 1
  const cut = batchOf(['x'])
  const withBaseOffset = (batch: Buffer, offset: number): Buffer => {
    batch.writeBigInt64BE(BigInt(offset), 0)
    return batch
  }

  test.each<[string, Buffer | null, number, number, number]>([
    ['a checksum that is wrong', damaged, 9, -1, 2],
    ['a batch that is cut off', cut.subarray(0, -1), 9, -1, 87],
    ['a few bytes', Buffer.from('abc'), 9, -1, 87],
    ['a batch with an offset of its own', withBaseOffset(batchOf(['x']), 7), 9, -1, 87],
    ['no records', null, 9, -1, 87],
    ['empty records', Buffer.alloc(0), 9, -1, 87],
    ['two batches', Buffer.concat([batchOf(['x']), batchOf(['y'])]), 9, -1, 87],
    ['the format before record batches, in its own version', oldMagic, 2, -1, 43],
    ['the format before record batches, later', oldMagic, 9, -1, 87],
    ['acks of 2', batchOf(['x']), 9, 2, 21],
    ['more than max.message.bytes', batchOf(['x'.repeat(1024)]), 9, -1, 10],
    ['zstd where it is not known yet', withAttributes(batchOf(['x']), 4), 6, -1, 76],
    ['a compression that does not exist', withAttributes(batchOf(['x']), 7), 9, -1, 76],
    [
      'a transactional batch of a producer that is not known',
      withAttributes(batchOf(['x']), 0x10),
      9,
      -1,
      49,
    ],
    ['a control batch', withAttributes(batchOf(['x']), 0x20), 9, -1, 87],
  ])('%s', async (_, records, version, acks, errorCode) => {
    await using server = await RawServer.start()
    const topic = await server.topic('t', 1, { 'max.message.bytes': '1000' })
    const client = await server.client()
    expect(await produce(client, records, version, acks)).toMatchObject({ errorCode, baseOffset: -1 })
    expect(topic.partitions[0].highWatermark).toBe(0)
    if (version >= 8) {
      expect((await produce(client, records, version, acks)).errorMessage).toEqual(expect.any(String))
    }
  })

  test.each([7, 8, 12])(
    'records without a key on a compacted topic, each named (version %i)',
    async version => {
      await using server = await RawServer.start()
      await server.topic('t', 1, { 'cleanup.policy': 'compact' })
      const client = await server.client()
      const builder = new BatchBuilder()
      for (const key of ['a', null, 'b', null]) builder.append(1000, key, 'x', null)
      const batch = Buffer.from(builder.close({ compression: 'snappy' }))
      const result = await produce(client, batch, version)
      expect(result).toMatchObject({ errorCode: 87, baseOffset: -1 })
      if (version >= 8) {
        expect(result.recordErrors.map(({ batchIndex }) => batchIndex)).toEqual([1, 3])
        expect(result.recordErrors[0].batchIndexErrorMessage).toMatch(/key/)
      }
    },
  )

  test('topics of the broker itself, and a topic that is not there: it is not made', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    expect(await produce(client, batchOf(['x']), 9, -1, '__consumer_offsets')).toMatchObject({
      errorCode: 17,
    })
    expect(await produce(client, batchOf(['x']), 9, -1, 'none')).toMatchObject({ errorCode: 3 })
    expect([...server.broker.topics]).toEqual([])
  })
})

describe('acks=0', () => {
  test('has no answer, and stores', async () => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    const client = await server.client()
    client.send('Produce', 9, produceOf('t', batchOf(['x']), 0))
    expect((await client.request('Metadata', 9, { topics: [] })).controllerId).toBe(1)
    expect(topic.partitions[0].highWatermark).toBe(1)
  })

  test('an error ends the connection: there is no other way to tell', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    client.send('Produce', 9, produceOf('none', batchOf(['x']), 0))
    await client.closed()
    expect(server.logged.join('')).toContain('produce with acks=0 failed (3)')
  })
})

test('producer ids are given out once', async () => {
  await using server = await RawServer.start()
  const client = await server.client()
  const ids = new Set<number>()
  for (let index = 0; index < 10; index++) {
    const answer = await client.request('InitProducerId', index % 5, {
      transactionalId: null,
      transactionTimeoutMs: 0,
    })
    expect(answer).toMatchObject({ errorCode: 0, producerEpoch: 0 })
    ids.add(answer.producerId)
  }
  expect(ids.size).toBe(10)
})
