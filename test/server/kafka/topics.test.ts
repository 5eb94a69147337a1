/** Metadata, ListOffsets and OffsetForLeaderEpoch: what clients find their way with. */

import { describe, expect, test } from 'vitest'
import { batchOf, type RawClient, RawServer } from './raw-client.ts'

describe('Metadata', () => {
  test('makes a topic that is asked for, if both sides want it', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    const unwanted = await client.request('Metadata', 4, {
      topics: [{ name: 't' }],
      allowAutoTopicCreation: false,
    })
    expect(unwanted.topics).toMatchObject([{ name: 't', errorCode: 3, partitions: [] }])
    for (const version of [4, 1]) {
      const { topics } = await client.request('Metadata', version, { topics: [{ name: `t${version}` }] })
      expect(topics).toMatchObject([
        {
          errorCode: 0,
          isInternal: false,
          partitions: [{ errorCode: 0, partitionIndex: 0, leaderId: 1, replicaNodes: [1], isrNodes: [1] }],
        },
      ])
    }
    await using strict = await RawServer.start({ autoCreateTopics: false })
    const other = await strict.client()
    const refused = await other.request('Metadata', 9, { topics: [{ name: 't' }] })
    expect(refused.topics).toMatchObject([{ name: 't', errorCode: 3 }])
    expect([...strict.broker.topics]).toEqual([])
  })

  test('two clients that ask for the same new topic both get it', async () => {
    await using server = await RawServer.start()
    const clients = await Promise.all(Array.from({ length: 10 }, () => server.client()))
    const answers = await Promise.all(
      clients.map(each => each.request('Metadata', 12, { topics: [{ name: 't' }] })),
    )
    const ids = new Set(answers.map(({ topics }) => topics[0].topicId))
    expect(answers.every(({ topics }) => topics[0].errorCode === 0)).toBe(true)
    expect(ids.size).toBe(1)
  })

  test('by id; names that cannot be topics', async () => {
    await using server = await RawServer.start()
    const { id } = await server.topic('t', 3)
    const client = await server.client()
    const { topics } = await client.request('Metadata', 12, {
      topics: [
        { topicId: id, name: null },
        { topicId: 'abcdefghijklmnopqrstug', name: null },
        { name: 'no topic' },
        { name: '__internal' },
      ],
    })
    expect(topics.map(({ name, errorCode, partitions }) => [name, errorCode, partitions.length])).toEqual([
      ['t', 0, 3],
      [null, 100, 0],
      ['no topic', 17, 0],
      ['__internal', 17, 0],
    ])
    await server.broker.deleteTopic('t')
    const gone = await client.request('Metadata', 12, { topics: [{ topicId: id, name: null }] })
    expect(gone.topics[0].errorCode).toBe(100)
  })

  test('null is all topics, an empty list none; in version 0 an empty list is all', async () => {
    await using server = await RawServer.start()
    await server.topic('a')
    await server.topic('b')
    const client = await server.client()
    const names = async (version: number, topics: [] | null) =>
      (await client.request('Metadata', version, { topics })).topics.map(({ name }) => name).sort()
    expect(await names(9, null)).toEqual(['a', 'b'])
    expect(await names(1, null)).toEqual(['a', 'b'])
    expect(await names(9, [])).toEqual([])
    expect(await names(0, [])).toEqual(['a', 'b'])
  })

  test('tells the id of the cluster as Kafka writes ids', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    const { clusterId, controllerId } = await client.request('Metadata', 12, { topics: [] })
    const hex = Buffer.from(clusterId!, 'base64url').toString('hex')
    expect([clusterId!.length, hex, controllerId]).toEqual([22, server.broker.id.replaceAll('-', ''), 1])
  })

  test('a name that cannot be a topic is not merely unknown', async () => {
    await using server = await RawServer.start({ autoCreateTopics: false })
    const client = await server.client()
    const { topics } = await client.request('Metadata', 12, { topics: [{ name: 'a/b' }, { name: 'none' }] })
    expect(topics.map(({ errorCode }) => errorCode)).toEqual([17, 3])
  })

  test('says what may be done, if it is asked', async () => {
    await using server = await RawServer.start()
    await server.topic('a')
    const client = await server.client()
    const ask = async (is: boolean) => {
      const { topics, clusterAuthorizedOperations } = await client.request('Metadata', 10, {
        topics: [{ name: 'a' }],
        includeTopicAuthorizedOperations: is,
        includeClusterAuthorizedOperations: is,
      })
      return [topics[0].topicAuthorizedOperations, clusterAuthorizedOperations]
    }
    expect(await ask(true)).toEqual([3576, 8096])
    expect(await ask(false)).toEqual([-2147483648, -2147483648])
  })
})

describe('ListOffsets', () => {
  const at = async (client: RawClient, timestamp: number, version = 9, partitionIndex = 0, epoch = -1) => {
    const { topics } = await client.request('ListOffsets', version, {
      replicaId: -1,
      topics: [{ name: 't', partitions: [{ partitionIndex, timestamp, currentLeaderEpoch: epoch }] }],
    })
    const { errorCode, offset, timestamp: found, oldStyleOffsets } = topics[0].partitions[0]
    return version === 0 ? oldStyleOffsets : errorCode === 0 ? [offset, found] : errorCode
  }

  test('at marks and by time', async () => {
    await using server = await RawServer.start()
    const [partition] = (await server.topic('t')).partitions
    const client = await server.client()
    expect(await at(client, -3)).toEqual([-1, -1])
    partition.append(batchOf(['a', 'b', 'c'], {}, 1000), undefined, false)
    partition.append(batchOf(['d', 'e'], {}, 5000), undefined, false)
    partition.append(batchOf(['f'], {}, 3000), undefined, false)
    await partition.deleteUntil(1)
    expect(await at(client, -1)).toEqual([6, -1])
    expect(await at(client, -2)).toEqual([1, -1])
    expect(await at(client, -3)).toEqual([4, 5001])
    expect(await at(client, -4)).toEqual([1, -1])
    expect(await at(client, -5)).toEqual([-1, -1])
    expect(await at(client, 0)).toEqual([1, 1001])
    expect(await at(client, 1002)).toEqual([2, 1002])
    expect(await at(client, 1003)).toEqual([3, 5000])
    expect(await at(client, 9999)).toEqual([-1, -1])
    expect(await at(client, -1, 0)).toEqual([6])
    expect(await at(client, 1002, 1)).toEqual([2, 1002])
  })

  test('what cannot be answered', async () => {
    await using server = await RawServer.start()
    await server.topic('t')
    const client = await server.client()
    expect(await at(client, -3, 6)).toBe(35)
    expect(await at(client, -99)).toBe(35)
    expect(await at(client, -1, 9, 5)).toBe(3)
    expect(await at(client, -1, 9, 0, 3)).toBe(75)
  })
})

test.each([0, 2, 3, 4])('OffsetForLeaderEpoch version %i', async version => {
  await using server = await RawServer.start()
  const topic = await server.topic('t')
  topic.partitions[0].append(batchOf(['a', 'b']), undefined, false)
  const client = await server.client()
  const { topics } = await client.request('OffsetForLeaderEpoch', version, {
    topics: [
      {
        topic: 't',
        partitions: [
          { partition: 0, leaderEpoch: 0 },
          { partition: 0, leaderEpoch: 7 },
          { partition: 1, leaderEpoch: 0 },
        ],
      },
    ],
  })
  expect(topics[0].partitions.map(({ errorCode, endOffset }) => [errorCode, endOffset])).toEqual([
    [0, 2],
    [0, -1],
    [3, -1],
  ])
})
