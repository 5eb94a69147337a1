/** Fetch: limits, waiting, sessions, and what is said of partitions that cannot be read. */

import { describe, expect, test } from 'vitest'
import type { Partition } from '../../../src/broker/partition.ts'
import { baseOffset, batchBytes } from '../../../src/record/batch.ts'
import { FetchSessions } from '../../../src/server/kafka/fetch-sessions.ts'
import { ZERO_UUID } from '../../../src/wire/kafka/schema.ts'
import { batchOf, fetchOf, type RawClient, RawServer, type ResponseOutput } from './raw-client.ts'

const append = (partition: Partition, ...values: string[]) =>
  void partition.append(batchOf(values), undefined, false)

/** Base offsets of the batches. */
function offsetsOf(records: Buffer | null): number[] {
  const offsets: number[] = []
  for (let at = 0; at < records!.length; at += batchBytes(records!, at))
    offsets.push(baseOffset(records!, at))
  return offsets
}

/** Per partition of the answer: number, error, base offsets of the batches. */
const summaryOf = ({ responses }: ResponseOutput<'Fetch'>) =>
  responses.flatMap(({ partitions }) =>
    partitions.map(({ partitionIndex, errorCode, records }) => [
      partitionIndex,
      errorCode,
      offsetsOf(records),
    ]),
  )

describe('reads', () => {
  test.each([4, 5, 7, 9, 11, 12])('version %i, by name', async version => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    append(topic.partitions[0], 'a', 'b')
    append(topic.partitions[0], 'c')
    const client = await server.client()
    const answer = await client.request('Fetch', version, fetchOf('t', [{ partition: 0, fetchOffset: 0 }]))
    expect(answer.responses).toMatchObject([
      {
        topic: 't',
        partitions: [{ partitionIndex: 0, errorCode: 0, highWatermark: 3, lastStableOffset: 3 }],
      },
    ])
    expect(summaryOf(answer)).toEqual([[0, 0, [0, 2]]])
  })

  test.each([13, 15, 16, 17, 18])('version %i, by id', async version => {
    await using server = await RawServer.start()
    const { id, partitions } = await server.topic('t')
    append(partitions[0], 'a')
    const client = await server.client()
    const at = { fetchOffset: 0, partitionMaxBytes: 1000 }
    const answer = await client.request('Fetch', version, {
      ...fetchOf('', []),
      topics: [
        { topicId: id, partitions: [{ partition: 0, ...at }] },
        { topicId: 'abcdefghijklmnopqrstug', partitions: [{ partition: 0, ...at }] },
      ],
    })
    expect(answer.responses.map(({ topicId }) => topicId)).toEqual([id, 'abcdefghijklmnopqrstug'])
    expect(summaryOf(answer)).toEqual([
      [0, 0, [0]],
      [0, 100, []],
    ])
  })

  test('the whole batch for an offset in the middle of it', async () => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    append(topic.partitions[0], 'a', 'b', 'c')
    const client = await server.client()
    const answer = await client.request('Fetch', 11, fetchOf('t', [{ partition: 0, fetchOffset: 2 }]))
    expect(summaryOf(answer)).toEqual([[0, 0, [0]]])
  })

  test('whole batches within the limits, one at least, and of later partitions only what fits', async () => {
    await using server = await RawServer.start()
    const { partitions } = await server.topic('t', 3)
    for (const partition of partitions)
      for (let index = 0; index < 4; index++) append(partition, 'x'.repeat(200))
    const bytes = batchOf(['x'.repeat(200)]).length
    const client = await server.client()
    const all = (partitionMaxBytes: number) =>
      [0, 1, 2].map(partition => ({ partition, fetchOffset: 0, partitionMaxBytes }))
    const fetch = async (partitionMaxBytes: number, maxBytes: number) =>
      summaryOf(await client.request('Fetch', 11, fetchOf('t', all(partitionMaxBytes), { maxBytes })))
    expect(await fetch(2 * bytes, 1e6)).toEqual([
      [0, 0, [0, 1]],
      [1, 0, [0, 1]],
      [2, 0, [0, 1]],
    ])
    expect(await fetch(1e6, 5 * bytes + 10)).toEqual([
      [0, 0, [0, 1, 2, 3]],
      [1, 0, [0]],
      [2, 0, []],
    ])
    expect(await fetch(10, 1e6)).toEqual([
      [0, 0, [0]],
      [1, 0, []],
      [2, 0, []],
    ])
    expect(await fetch(1e6, 0)).toEqual([
      [0, 0, [0]],
      [1, 0, []],
      [2, 0, []],
    ])
  })

  test('aborted transactions are null, or for who reads committed messages none', async () => {
    await using server = await RawServer.start()
    append((await server.topic('t')).partitions[0], 'x')
    const client = await server.client()
    for (const [isolationLevel, expected] of [
      [0, null],
      [1, []],
    ] as const) {
      const wanted = fetchOf('t', [{ partition: 0, fetchOffset: 0 }], { isolationLevel })
      const answer = await client.request('Fetch', 11, wanted)
      expect(answer.responses[0].partitions[0].abortedTransactions).toEqual(expected)
      expect(summaryOf(answer)).toEqual([[0, 0, [0]]])
    }
  })

  test('errors belong to their partition', async () => {
    await using server = await RawServer.start()
    append((await server.topic('t', 2)).partitions[0], 'x')
    const client = await server.client()
    const fetch = async (partition: number, fetchOffset: number, currentLeaderEpoch = -1) => {
      const at = { partition, fetchOffset, currentLeaderEpoch, partitionMaxBytes: 1000 }
      const topics = [{ topic: 't', partitions: [at] }]
      // At once, although it may wait.
      const answer = await client.request('Fetch', 11, { ...fetchOf('', []), maxWaitMs: 60_000, topics })
      return answer.responses[0].partitions[0]
    }
    expect(await fetch(0, 5)).toMatchObject({ errorCode: 1, highWatermark: -1 })
    expect(await fetch(0, -1)).toMatchObject({ errorCode: 1 })
    expect(await fetch(9, 0)).toMatchObject({ errorCode: 3 })
    expect(await fetch(0, 0, 0)).toMatchObject({ errorCode: 0 })
    expect(await fetch(0, 0, 1)).toMatchObject({ errorCode: 75 })
  })
})

describe('waits', () => {
  const start = async () => {
    const server = await RawServer.start()
    const topic = await server.topic('t', 2)
    return { server, partitions: topic.partitions, client: await server.client() }
  }
  const wanted = [
    { partition: 0, fetchOffset: 0 },
    { partition: 1, fetchOffset: 0 },
  ]

  test('until something is appended', async () => {
    const { server, partitions, client } = await start()
    await using _server = server
    const id = client.send('Fetch', 11, fetchOf('t', wanted, { maxWaitMs: 60_000 }))
    await server.started('Fetch', 1)
    append(partitions[1], 'x')
    expect(summaryOf(await client.answer('Fetch', 11, id))).toEqual([
      [0, 0, []],
      [1, 0, [0]],
    ])
  })

  test('until there are minBytes', async () => {
    const { server, partitions, client } = await start()
    await using _server = server
    const bytes = batchOf(['x']).length
    const id = client.send('Fetch', 11, fetchOf('t', wanted, { maxWaitMs: 60_000, minBytes: 3 * bytes }))
    await server.started('Fetch', 1)
    append(partitions[0], 'x')
    append(partitions[1], 'x')
    await client.socket.write('')
    const other = await server.client()
    await other.request('Metadata', 9, { topics: [] })
    expect(client.answers).toBe(0)
    append(partitions[0], 'x')
    expect(summaryOf(await client.answer('Fetch', 11, id))).toEqual([
      [0, 0, [0, 1]],
      [1, 0, [0]],
    ])
  })

  test('no longer than maxWaitMs', async () => {
    const { server, client } = await start()
    await using _server = server
    const id = client.send('Fetch', 11, fetchOf('t', wanted, { maxWaitMs: 500 }))
    await server.started('Fetch', 1)
    await server.clock.advance(499)
    expect(client.answers).toBe(0)
    await server.clock.advance(1)
    expect(summaryOf(await client.answer('Fetch', 11, id))).toEqual([
      [0, 0, []],
      [1, 0, []],
    ])
  })

  test('not beyond the end of the topic', async () => {
    const { server, client } = await start()
    await using _server = server
    const id = client.send('Fetch', 11, fetchOf('t', wanted, { maxWaitMs: 60_000, minBytes: 1000 }))
    await server.started('Fetch', 1)
    await server.broker.deleteTopic('t')
    expect(summaryOf(await client.answer('Fetch', 11, id))).toEqual([
      [0, 3, []],
      [1, 3, []],
    ])
  })
})

describe('sessions', () => {
  const start = async () => {
    const server = await RawServer.start()
    const topic = await server.topic('t', 3)
    for (const partition of topic.partitions) append(partition, 'x')
    return { server, partitions: topic.partitions, client: await server.client() }
  }
  const all = (fetchOffset: number) => [0, 1, 2].map(partition => ({ partition, fetchOffset }))
  const fetch = (
    client: RawClient,
    sessionId: number,
    sessionEpoch: number,
    partitions: Parameters<typeof fetchOf>[1] = [],
    options: Parameters<typeof fetchOf>[2] = {},
  ) =>
    client.request('Fetch', 11, {
      ...fetchOf('t', partitions, { sessionId, sessionEpoch, ...options }),
      ...(partitions.length === 0 ? { topics: [] } : {}),
    })

  test('say only what changed', async () => {
    const { server, partitions, client } = await start()
    await using _server = server
    const first = await fetch(client, 0, 0, all(0))
    expect(first.sessionId).toBeGreaterThan(0)
    expect(summaryOf(first)).toHaveLength(3)
    const { sessionId } = first
    const second = await fetch(client, sessionId, 1, all(1))
    expect(second).toMatchObject({ errorCode: 0, sessionId, responses: [] })
    append(partitions[1], 'y')
    expect(summaryOf(await fetch(client, sessionId, 2))).toEqual([[1, 0, [1]]])
    // not fetched further: it comes again
    expect(summaryOf(await fetch(client, sessionId, 3))).toEqual([[1, 0, [1]]])
    const forgotten = await fetch(client, sessionId, 4, [], {
      forgottenTopicsData: [{ topic: 't', partitions: [1] }],
    })
    expect(summaryOf(forgotten)).toEqual([])
    // An error is told each time, and what comes after it, too.
    const error = await fetch(client, sessionId, 5, [{ partition: 0, fetchOffset: 9 }])
    expect(summaryOf(error)).toEqual([[0, 1, []]])
    expect(summaryOf(await fetch(client, sessionId, 6, [{ partition: 0, fetchOffset: 1 }]))).toEqual([
      [0, 0, []],
    ])
  })

  test('no partition starves when an answer is full', async () => {
    const { server, partitions, client } = await start()
    await using _server = server
    for (const partition of partitions) for (let index = 0; index < 20; index++) append(partition, 'x')
    const { sessionId } = await fetch(client, 0, 0, all(0), { maxBytes: 1 })
    const seen = new Set<unknown>()
    for (let epoch = 1; epoch <= 3; epoch++) {
      for (const [partition, , offsets] of summaryOf(
        await fetch(client, sessionId, epoch, [], { maxBytes: 1 }),
      )) {
        if ((offsets as number[]).length > 0) seen.add(partition)
      }
    }
    expect(seen).toEqual(new Set([0, 1, 2]))
  })

  test('that are not known, out of step or ended', async () => {
    const { server, client } = await start()
    await using _server = server
    const failed = { sessionId: 0, responses: [] }
    expect(await fetch(client, 4711, 1)).toMatchObject({ errorCode: 70, ...failed })
    const { sessionId } = await fetch(client, 0, 0, all(0))
    expect(await fetch(client, sessionId, 2)).toMatchObject({ errorCode: 71, ...failed })
    expect(await fetch(client, sessionId, 1)).toMatchObject({ errorCode: 0, sessionId })
    const full = await fetch(client, sessionId, -1, all(0))
    expect(full).toMatchObject({ errorCode: 0, sessionId: 0 })
    expect(summaryOf(full)).toHaveLength(3)
    expect(await fetch(client, sessionId, 2)).toMatchObject({ errorCode: 70 })
  })

  test('are bounded: the one that was silent longest goes, if it was silent long enough', () => {
    const sessions = new FetchSessions(2, 10)
    const targets = (count: number) =>
      Array.from({ length: count }, (_, partition) => ({
        topic: 't',
        topicId: ZERO_UUID,
        partition,
        currentLeaderEpoch: -1,
        fetchOffset: 0,
        bytesMax: 1,
        toldHighWatermark: -1,
        toldLastStableOffset: -1,
        toldStartOffset: -1,
      }))
    const begin = (count: number, now: number) => {
      const request = {
        sessionEpoch: 0,
        sessionId: 0,
        targets: targets(count),
        forgotten: [],
        usesTopicIds: false,
      }
      const plan = sessions.plan(request, now)
      return typeof plan === 'number' ? plan : plan.sessionId
    }
    const go = (sessionId: number, sessionEpoch: number, now: number, count = 0) =>
      sessions.plan(
        { sessionEpoch, sessionId, targets: targets(count), forgotten: [], usesTopicIds: false },
        now,
      )
    const first = begin(4, 0)
    const second = begin(4, 0)
    expect(begin(1, 100_000)).toBe(0)
    go(first, 1, 100_000)
    expect(begin(1, 121_000)).toBeGreaterThan(0)
    expect(go(second, 1, 121_000)).toBe(70)
    expect(go(first, 2, 121_000)).toMatchObject({ sessionId: first })
    expect(sessions.partitions).toBe(5)
    // One that grows beyond all bounds ends.
    expect(go(first, 3, 121_000, 20)).toBe(70)
    expect(sessions.partitions).toBe(1)
  })
})
