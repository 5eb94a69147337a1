/** Producing, fetching, offsets, producers. */

import { crc32c } from '@node-rs/crc32'
import { ZERO_UUID } from '../../src/wire/kafka/schema.ts'
import type { RequestInput } from '../raw-client.ts'
import { batch, changed, error, NOW, orClosed, type Session, type Step, step, WAIT_MS } from './session.ts'

const rightCrc = (body: Buffer): number => crc32c(body)

const topic = (name: string, values: Readonly<Record<string, string>> = {}, numPartitions = 2): Step =>
  step(`a topic: ${name}`, async session => {
    const configs = Object.entries(values).map(([name, value]) => ({ name, value }))
    const topics = [{ name, numPartitions, replicationFactor: 1, assignments: [], configs }]
    const answer = await session.send('CreateTopics', 7, { topics, timeoutMs: WAIT_MS })
    session.remember(`id of ${name}`, answer.topics[0].topicId)
    await session.settle()
    return error(answer.topics[0].errorCode)
  })

interface Produced {
  readonly name?: string
  readonly index?: number
  readonly acks?: number
  readonly version?: number
  readonly transactionalId?: string
}

/**
 * What comes of producing these bytes: error, offset as a distance from the end before, and what is said of time and start. In a
 * refusal Kafka says where the log starts, if it had got that far; that is not compared.
 */
async function produce(session: Session, records: Buffer | null, options: Produced = {}): Promise<unknown> {
  const { name = 'records', index = 0, acks = -1, version = 9, transactionalId = null } = options
  const body = {
    transactionalId,
    acks,
    timeoutMs: WAIT_MS,
    topicData: [{ name, partitionData: [{ index, records }] }],
  }
  const before = (await offset(session, name, -1, index)).offset
  const answer = await orClosed(session.send('Produce', version, body))
  if (typeof answer === 'string') return answer
  const [result] = answer.responses[0].partitionResponses
  const { errorCode, baseOffset, logAppendTimeMs, logStartOffset } = result
  const refusedRecords = result.recordErrors.map(each => each.batchIndex)
  if (errorCode !== 0) return [error(errorCode), baseOffset, refusedRecords]
  const time =
    logAppendTimeMs === -1 ? 'no time' : logAppendTimeMs >= NOW ? 'time of the log' : 'another time'
  return [error(errorCode), baseOffset - before, time, logStartOffset]
}

const produceStep = (name: string, records: Buffer | null, options: Produced = {}): Step =>
  step(`produce: ${name}`, session => produce(session, records, options))

const HOUR = 3_600_000
const one = batch(['one'])
const three = batch(['one', 'two', 'three'])

const producing: Step[] = [
  topic('records'),
  topic('small', { 'max.message.bytes': '200' }),
  topic('append-time', { 'message.timestamp.type': 'LogAppendTime' }),
  produceStep('three records', three),
  produceStep('acks=1', one, { acks: 1 }),
  produceStep('acks=2', one, { acks: 2 }),
  step('produce: acks=0', async session => {
    const client = await session.another()
    const partitionData = [{ index: 0, records: one }]
    await session.settle() // what the step before wrote with acks=1 is shown once it is synced
    const before = await end(session, 'records')
    client.post('Produce', 9, {
      acks: 0,
      timeoutMs: WAIT_MS,
      topicData: [{ name: 'records', partitionData }],
    })
    await client.request('Metadata', 12, { topics: [], allowAutoTopicCreation: false })
    await session.settle()
    return (await end(session, 'records')) - before
  }),
  produceStep('no such topic', one, { name: 'missing' }),
  produceStep('an impossible topic', one, { name: 'a/b' }),
  produceStep('no such partition', one, { index: 9 }),
  produceStep('a negative partition', one, { index: -1 }),
  produceStep('null', null),
  produceStep('no bytes', Buffer.alloc(0)),
  produceStep(
    'a wrong checksum',
    changed(one, copy => copy.writeUInt8(copy[copy.length - 1] ^ 1, copy.length - 1)),
  ),
  produceStep('half a batch', three.subarray(0, three.length - 5)),
  produceStep('less than a header', three.subarray(0, 20)),
  produceStep('two batches', Buffer.concat([one, one])),
  produceStep(
    'message format 1',
    changed(one, copy => copy.writeInt8(1, 16)),
  ),
  produceStep(
    'message format 3',
    changed(one, copy => copy.writeInt8(3, 16)),
  ),
  produceStep(
    'a base offset of its own',
    changed(one, copy => copy.writeBigInt64BE(77n, 0)),
  ),
  produceStep(
    'a leader epoch of its own',
    changed(one, copy => copy.writeInt32BE(5, 12)),
  ),
  produceStep(
    'fewer offsets than records',
    changed(three, copy => copy.writeInt32BE(1, 23), rightCrc),
  ),
  produceStep(
    'a count that is not right',
    changed(three, copy => copy.writeInt32BE(2, 57), rightCrc),
  ),
  produceStep(
    'a record that is longer than the batch',
    changed(one, copy => copy.writeUInt8(0x7e, 61), rightCrc),
  ),
  produceStep(
    'a record with the number of another',
    changed(three, copy => copy.writeUInt8(4, 64), rightCrc),
  ),
  produceStep(
    'headers that are not there',
    changed(one, copy => copy.writeUInt8(2, copy.length - 1), rightCrc),
  ),
  produceStep('no records in a batch', changed(batch(['x']).subarray(0, 61), empty, rightCrc)),
  produceStep(
    'an unknown compression',
    changed(one, copy => copy.writeInt16BE(6, 21), rightCrc),
  ),
  produceStep(
    'compressed bytes that are none',
    changed(one, copy => copy.writeInt16BE(1, 21), rightCrc),
  ),
  produceStep(
    'a control batch',
    changed(one, copy => copy.writeInt16BE(0x20, 21), rightCrc),
  ),
  produceStep(
    'log-append time claimed',
    changed(one, copy => copy.writeInt16BE(0x08, 21), rightCrc),
  ),
  produceStep('zstd before version 7', batch(['z'], { compression: 'zstd' }), { version: 6 }),
  produceStep('zstd', batch(['z'], { compression: 'zstd' })),
  produceStep('two hours ahead', batch(['future'], {}, NOW + 2 * HOUR)),
  produceStep('a year ago', batch(['past'], {}, NOW - 365 * 24 * HOUR)),
  produceStep('a negative timestamp', batch(['no time'], {}, -1)),
  produceStep('too large', batch(['x'.repeat(300)]), { name: 'small' }),
  produceStep('log-append time', one, { name: 'append-time' }),
  produceStep(
    'in a transaction, without one',
    batch(['t'], { transactional: true, producerId: 5, producerEpoch: 0, baseSequence: 0 }),
  ),
  step('produce: several partitions, one after the other wrong', async session => {
    const partitionData = [
      { index: 0, records: one },
      { index: 9, records: one },
      { index: 1, records: one },
    ]
    const answer = await session.send('Produce', 9, {
      acks: -1,
      timeoutMs: WAIT_MS,
      topicData: [{ name: 'records', partitionData }],
    })
    return answer.responses[0].partitionResponses.map(each => [each.index, error(each.errorCode)]).sort()
  }),
  step('produce: a topic id that is none', async session => {
    const topicData = [{ topicId: 'AAAAAAAAAAAAAAAAAAAAAQ', partitionData: [{ index: 0, records: one }] }]
    const answer = await session.send('Produce', 13, { acks: -1, timeoutMs: WAIT_MS, topicData })
    return error(answer.responses[0].partitionResponses[0].errorCode)
  }),
]

function empty(copy: Buffer): void {
  copy.writeInt32BE(61 - 12, 8)
  copy.writeInt32BE(0, 57)
}

async function offset(
  session: Session,
  name: string,
  timestamp: number,
  partitionIndex = 0,
  more: { version?: number; epoch?: number; isolationLevel?: number } = {},
) {
  const { version = 11, epoch = -1, isolationLevel = 0 } = more
  const { topics } = await session.send('ListOffsets', version, {
    replicaId: -1,
    isolationLevel,
    topics: [{ name, partitions: [{ partitionIndex, timestamp, currentLeaderEpoch: epoch }] }],
    timeoutMs: WAIT_MS,
  })
  return topics[0].partitions[0]
}

const end = async (session: Session, name: string): Promise<number> =>
  (await offset(session, name, -1)).offset

/** Kafka's coordinator of transactions takes a moment to be there. */
async function ready<T extends { readonly errorCode: number }>(ask: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    const answer = await ask()
    if (![14, 15, 16].includes(answer.errorCode) || attempt === 100) return answer
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

// ── idempotent producers ────────────────────────────────────────────────────────────────────────────────────────

const produceAs = (name: string, baseSequence: number, producerEpoch = 0, values = ['a', 'b']): Step =>
  step(`idempotent: ${name}`, async session => {
    const producerId = session.recall<number>('producer')
    const records = batch(values, { producerId, producerEpoch, baseSequence })
    return produce(session, records, { name: 'numbered' })
  })

const init = (name: string, version: number, body: Partial<RequestInput<'InitProducerId'>>): Step =>
  step(`producer id: ${name}`, async session => {
    const request = { transactionalId: null, transactionTimeoutMs: 60_000, ...body }
    const { errorCode, producerId, producerEpoch } = await session.send('InitProducerId', version, request)
    return [error(errorCode), producerId >= 0 ? 'an id' : producerId, producerEpoch]
  })

const idempotence: Step[] = [
  topic('numbered'),
  step('producer id', async session => {
    const body = { transactionalId: null, transactionTimeoutMs: 60_000 }
    const first = await ready(() => session.send('InitProducerId', 4, body))
    const second = await session.send('InitProducerId', 4, body)
    session.remember('producer', first.producerId)
    return [error(first.errorCode), first.producerEpoch, second.producerId > first.producerId]
  }),
  init('no limit of time', 4, { transactionTimeoutMs: 0 }),
  init('an empty transactional id', 4, { transactionalId: '' }),
  init('an id of its own, without a transactional id', 4, { producerId: 1000, producerEpoch: 3 }),
  produceAs('first batch', 0),
  produceAs('the same again', 0),
  produceAs('the next', 2),
  produceAs('an old one again', 0),
  produceAs('a gap', 6),
  produceAs('the one that is due, but shorter than one before', 2, 0, ['a']),
  produceAs('a higher epoch that does not begin with 0', 4, 1),
  produceAs('a higher epoch', 0, 1),
  produceAs('the epoch before', 4, 0),
  ...['b3', 'b4', 'b5', 'b6', 'b7', 'b8'].map((name, index) => produceAs(name, 2 + 2 * index, 1)),
  produceAs('the fifth last again', 4, 1),
  produceAs('one that is forgotten', 0, 1),
  step('idempotent: a producer that nobody knows, in the middle', async session =>
    produce(session, batch(['a'], { producerId: 777_777, producerEpoch: 0, baseSequence: 7 }), {
      name: 'numbered',
    }),
  ),
  step('idempotent: no sequence', async session =>
    produce(session, batch(['a'], { producerId: 777_778, producerEpoch: 0, baseSequence: -1 }), {
      name: 'numbered',
    }),
  ),
  step('idempotent: no epoch', async session =>
    produce(session, batch(['a'], { producerId: 777_779, producerEpoch: -1, baseSequence: 0 }), {
      name: 'numbered',
    }),
  ),
  step('describe producers', async session => {
    const topics = [{ name: 'numbered', partitionIndexes: [0] }]
    const answer = await session.send('DescribeProducers', 0, { topics })
    return answer.topics[0].partitions[0].activeProducers
      .map(each => [
        each.producerId === session.recall('producer') ? 'ours' : each.producerId,
        ...[each.producerEpoch, each.lastSequence, each.coordinatorEpoch, each.currentTxnStartOffset],
      ])
      .sort()
  }),
]

// ── fetching ────────────────────────────────────────────────────────────────────────────────────────────────────

type FetchPartition = Partial<RequestInput<'Fetch'>['topics'][number]['partitions'][number]>

interface Fetching {
  readonly name?: string
  readonly version?: number
  readonly partition?: FetchPartition
  readonly more?: Partial<RequestInput<'Fetch'>>
}

async function fetch(session: Session, fetchOffset: number, options: Fetching = {}): Promise<unknown> {
  const { name = 'fetched', version = 12, partition = {}, more = {} } = options
  const partitions = [{ partition: 0, fetchOffset, partitionMaxBytes: 1_000_000, ...partition }]
  const topics = [{ topic: name, topicId: session.memory.get(`id of ${name}`) as string, partitions }]
  const answer = await session.send('Fetch', version, { maxWaitMs: 0, minBytes: 0, topics, ...more })
  return [
    error(answer.errorCode),
    answer.responses.map(each =>
      each.partitions.map(found => [
        ...[found.partitionIndex, error(found.errorCode), found.highWatermark, found.lastStableOffset],
        ...[found.logStartOffset, batchesOf(found.records), found.divergingEpoch, found.currentLeader],
        ...[found.abortedTransactions ?? [], found.preferredReadReplica],
      ]),
    ),
  ]
}

/** First offset, leader epoch and count of each batch. */
function batchesOf(records: Buffer | null): unknown {
  if (records === null) return null
  const found: unknown[] = []
  for (let at = 0; at + 61 <= records.length; at += 12 + records.readInt32BE(at + 8)) {
    found.push([
      Number(records.readBigInt64BE(at)),
      records.readInt32BE(at + 12),
      records.readInt32BE(at + 57),
    ])
  }
  return found
}

const fetchStep = (name: string, fetchOffset: number, options: Fetching = {}): Step =>
  step(`fetch: ${name}`, session => fetch(session, fetchOffset, options))

const fetching: Step[] = [
  topic('fetched'),
  step('three batches to fetch', async session => {
    for (const values of [['a', 'b', 'c'], ['d', 'e'], ['f']])
      await produce(session, batch(values), { name: 'fetched' })
    return end(session, 'fetched')
  }),
  fetchStep('from the beginning', 0),
  fetchStep('in the middle of a batch', 4),
  fetchStep('at the end', 6),
  fetchStep('behind the end', 7),
  fetchStep('a negative offset', -1),
  fetchStep('one byte for the partition', 0, { partition: { partitionMaxBytes: 1 } }),
  fetchStep('one byte for all', 0, { more: { maxBytes: 1 } }),
  fetchStep('no bytes for the partition', 0, { partition: { partitionMaxBytes: 0 } }),
  fetchStep('committed only', 0, { more: { isolationLevel: 1 } }),
  fetchStep('no such partition', 0, { partition: { partition: 9 } }),
  fetchStep('no such topic', 0, { name: 'missing' }),
  fetchStep('the right leader epoch', 0, { partition: { currentLeaderEpoch: 0 } }),
  fetchStep('a leader epoch to come', 0, { partition: { currentLeaderEpoch: 5 } }),
  fetchStep('the epoch last fetched', 3, { partition: { lastFetchedEpoch: 0 } }),
  fetchStep('an epoch last fetched that is to come', 3, { partition: { lastFetchedEpoch: 5 } }),
  fetchStep('by id', 0, { version: 13 }),
  fetchStep('by an id that is none', 0, {
    version: 13,
    more: {
      topics: [
        {
          topicId: 'AAAAAAAAAAAAAAAAAAAAAQ',
          partitions: [{ partition: 0, fetchOffset: 0, partitionMaxBytes: 100 }],
        },
      ],
    },
  }),
  fetchStep('by the id of nothing', 0, {
    version: 13,
    more: {
      topics: [
        { topicId: ZERO_UUID, partitions: [{ partition: 0, fetchOffset: 0, partitionMaxBytes: 100 }] },
      ],
    },
  }),
  step('fetch: waits for more', async session => {
    const started = performance.now()
    await fetch(session, 6, { more: { maxWaitMs: 300, minBytes: 1 } })
    const ms = performance.now() - started
    return ms > 250 && ms < 1500
  }),
  step('fetch: an error does not wait', async session => {
    const started = performance.now()
    const result = await fetch(session, 99, { more: { maxWaitMs: 3000, minBytes: 1 } })
    return [result, performance.now() - started < 1500]
  }),
  step('fetch: sessions', async session => {
    const partition = (fetchOffset: number, index = 0) => ({
      partition: index,
      fetchOffset,
      partitionMaxBytes: 1_000_000,
    })
    const client = await session.another()
    const ask = async (
      sessionId: number,
      sessionEpoch: number,
      partitions: ReturnType<typeof partition>[],
      forget: number[] = [],
    ) => {
      const answer = await client.request('Fetch', 11, {
        maxWaitMs: 0,
        minBytes: 0,
        sessionId,
        sessionEpoch,
        topics: partitions.length === 0 ? [] : [{ topic: 'fetched', partitions }],
        forgottenTopicsData: forget.length === 0 ? [] : [{ topic: 'fetched', partitions: forget }],
      })
      const found = answer.responses.flatMap(each =>
        each.partitions.map(at => [at.partitionIndex, error(at.errorCode), batchesOf(at.records)]),
      )
      return { id: answer.sessionId, result: [error(answer.errorCode), answer.sessionId > 0, found.sort()] }
    }
    const made = await ask(0, 0, [partition(0), partition(0, 1)])
    const more = [
      await ask(made.id, 1, []),
      await ask(made.id, 2, [partition(6)]),
      await ask(made.id, 3, []),
      await ask(made.id, 9, []),
      await ask(12345, 1, []),
      await ask(made.id, 4, [partition(5)], [1]),
      await ask(made.id, -1, []),
      await ask(made.id, 5, []),
    ]
    return [made.result, ...more.map(({ result }) => result)]
  }),
]

// ── offsets ─────────────────────────────────────────────────────────────────────────────────────────────────────

const offsetStep = (
  name: string,
  timestamp: number,
  more: {
    version?: number
    epoch?: number
    isolationLevel?: number
    topic?: string
    partition?: number
  } = {},
): Step =>
  step(`offset: ${name}`, async session => {
    const found = await offset(session, more.topic ?? 'timed', timestamp, more.partition ?? 0, more)
    const { errorCode, timestamp: at, leaderEpoch } = found
    return [error(errorCode), found.offset, at > 0 ? at - NOW : at, leaderEpoch]
  })

const offsets: Step[] = [
  topic('timed'),
  step('three batches in time', async session => {
    for (const [values, at] of [
      [['a', 'b', 'c'], 0],
      [['late'], 100_000],
      [['d', 'e'], 50_000],
    ] as const) {
      await produce(session, batch(values, {}, NOW + at), { name: 'timed' })
    }
    return end(session, 'timed')
  }),
  offsetStep('earliest', -2),
  offsetStep('latest', -1),
  offsetStep('latest, committed only', -1, { isolationLevel: 1 }),
  offsetStep('of the largest timestamp', -3),
  offsetStep('earliest local', -4),
  offsetStep('latest tiered', -5),
  offsetStep('earliest that waits for upload', -6),
  offsetStep('no such special time', -7),
  offsetStep('by a time before all', 0),
  offsetStep('by the time of a record', NOW + 1),
  offsetStep('by a time between batches', NOW + 60_000),
  offsetStep('by the time of the last', NOW + 100_000),
  offsetStep('by a time after all', NOW + 200_000),
  offsetStep('of an empty partition by time', NOW, { partition: 1 }),
  offsetStep('of the largest timestamp of an empty partition', -3, { partition: 1 }),
  offsetStep('no such partition', -1, { partition: 9 }),
  offsetStep('no such topic', -1, { topic: 'missing' }),
  offsetStep('the right leader epoch', -1, { epoch: 0 }),
  offsetStep('a leader epoch to come', -1, { epoch: 5 }),
  offsetStep('the largest timestamp before version 7', -3, { version: 6 }),
  step('offsets of leader epochs', async session => {
    const partition = (index: number, leaderEpoch: number, currentLeaderEpoch = -1) => ({
      partition: index,
      leaderEpoch,
      currentLeaderEpoch,
    })
    const results: unknown[] = []
    for (const each of [
      partition(0, 0),
      partition(0, 1),
      partition(0, -1),
      partition(9, 0),
      partition(0, 0, 5),
      partition(1, 0),
    ]) {
      const answer = await session.send('OffsetForLeaderEpoch', 4, {
        topics: [{ topic: 'timed', partitions: [each] }],
      })
      const { errorCode, leaderEpoch, endOffset } = answer.topics[0].partitions[0]
      results.push([error(errorCode), leaderEpoch, endOffset])
    }
    return results
  }),
]

const deleteStep = (name: string, offset: number, more: { topic?: string; partition?: number } = {}): Step =>
  step(`delete records: ${name}`, async session => {
    const { topics } = await session.send('DeleteRecords', 2, {
      topics: [
        { name: more.topic ?? 'timed', partitions: [{ partitionIndex: more.partition ?? 0, offset }] },
      ],
      timeoutMs: WAIT_MS,
    })
    const { errorCode, lowWatermark } = topics[0].partitions[0]
    return [error(errorCode), lowWatermark]
  })

const deletion: Step[] = [
  deleteStep('behind the end', 99),
  deleteStep('a negative offset', -2),
  deleteStep('no such partition', 0, { partition: 9 }),
  deleteStep('no such topic', 0, { topic: 'missing' }),
  deleteStep('up to the middle of a batch', 1),
  deleteStep('less than is deleted', 0),
  offsetStep('earliest after that', -2),
  fetchStep('before the start', 0, { name: 'timed' }),
  fetchStep('at the start, in the middle of a batch', 1, { name: 'timed' }),
  offsetStep('by a time of what is deleted', 0),
  deleteStep('all', -1),
  offsetStep('earliest when all is deleted', -2),
  offsetStep('of the largest timestamp when all is deleted', -3),
  fetchStep('when all is deleted', 6, { name: 'timed' }),
]

export const recordSteps: readonly Step[] = [
  ...producing,
  ...idempotence,
  ...fetching,
  ...offsets,
  ...deletion,
]
