/** Transactions over a socket, where requests cross: late batches, and members that commit offsets with an epoch of before. */

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { batchOf, produceOf, type RawClient, RawServer } from './raw-client.ts'

const INVALID_PRODUCER_EPOCH = 47
const INVALID_TXN_STATE = 48
const ILLEGAL_GENERATION = 22
const UNKNOWN_MEMBER = 25
const IMPLICIT_VERSION = 12

let server: RawServer
let client: RawClient
let topicId: string
beforeEach(async () => {
  server = await RawServer.start()
  client = await server.client()
  topicId = (await server.topic('t', 2)).id
})
afterEach(async () => {
  vi.restoreAllMocks()
  await server[Symbol.asyncDispose]()
})

const init = (from: RawClient) =>
  from.request('InitProducerId', 5, {
    transactionalId: 'x',
    transactionTimeoutMs: 60_000,
    producerId: -1,
    producerEpoch: -1,
  })

type Identity = Pick<Awaited<ReturnType<typeof init>>, 'producerId' | 'producerEpoch'>

const batch = ({ producerId, producerEpoch }: Identity, baseSequence = 0) =>
  batchOf(['late'], { producerId, producerEpoch, baseSequence, transactional: true })
const produce = (records: Buffer) => ({ ...produceOf('t', records), transactionalId: 'x' })
const endTxn = (from: RawClient, { producerId, producerEpoch }: Identity, committed: boolean) =>
  from.request('EndTxn', 5, { transactionalId: 'x', producerId, producerEpoch, committed })
const stored = () => {
  const partition = server.broker.partition('t', 0)
  return { end: partition.log.endOffset, stable: partition.lastStableOffset }
}

describe('a batch that is late', () => {
  /** Lets `addPartitions` be answered when the test says so: a disk that takes its time. */
  function holdAdding(): () => void {
    const { transactions } = server.broker
    const add = transactions.addPartitions.bind(transactions)
    const { promise, resolve } = Promise.withResolvers<void>()
    vi.spyOn(transactions, 'addPartitions').mockImplementation(async (...args) => {
      await add(...args)
      await promise
    })
    return resolve
  }

  test.each([
    ['fenced by another producer', async (other: RawClient, _: Identity) => init(other)],
    ['ended by its own', (other: RawClient, producer: Identity) => endTxn(other, producer, false)],
  ])(
    'because its partition is still being added: refused if the transaction is %s meanwhile',
    async (_, end) => {
      const producer = await init(client)
      const release = holdAdding()
      const id = client.send('Produce', IMPLICIT_VERSION, produce(batch(producer)))
      await server.started('Produce', 1)
      expect(await end(await server.client(), producer)).toMatchObject({ errorCode: 0 })
      release()
      const { responses } = await client.answer('Produce', IMPLICIT_VERSION, id)
      expect(responses[0].partitionResponses[0].errorCode).toBe(INVALID_PRODUCER_EPOCH)
      // Behind its marker it would begin a transaction that nobody ends, and hold up readers for ever.
      expect(stored()).toEqual({ end: 0, stable: 0 })
    },
  )

  test('because its partition is still being added: stored if nothing has happened to the transaction', async () => {
    const producer = await init(client)
    const release = holdAdding()
    const id = client.send('Produce', IMPLICIT_VERSION, produce(batch(producer)))
    await server.started('Produce', 1)
    release()
    const { responses } = await client.answer('Produce', IMPLICIT_VERSION, id)
    expect(responses[0].partitionResponses[0]).toMatchObject({ errorCode: 0, baseOffset: 0 })
    expect(stored()).toEqual({ end: 1, stable: 0 })
  })

  test('of a transaction that has ended gets into no later one', async () => {
    const producer = await init(client)
    await client.request('Produce', IMPLICIT_VERSION, produce(batch(producer)))
    const next = await endTxn(client, producer, true)
    await client.request('Produce', IMPLICIT_VERSION, produce(batch(next)))
    const late = await client.request('Produce', IMPLICIT_VERSION, produce(batch(producer, 1)))
    expect(late.responses[0].partitionResponses[0].errorCode).toBe(INVALID_PRODUCER_EPOCH)
    expect(stored()).toEqual({ end: 3, stable: 2 })
  })

  test('of the first version is refused where no transaction is under way', async () => {
    const producer = await init(client)
    const { producerId, producerEpoch } = producer
    const added = await client.request('AddPartitionsToTxn', 3, {
      v3AndBelowTransactionalId: 'x',
      v3AndBelowProducerId: producerId,
      v3AndBelowProducerEpoch: producerEpoch,
      v3AndBelowTopics: [{ name: 't', partitions: [0] }],
    })
    expect(added.resultsByTopicV3AndBelow[0].resultsByPartition[0].partitionErrorCode).toBe(0)
    await client.request('Produce', 10, produce(batch(producer)))
    await client.request('EndTxn', 3, { transactionalId: 'x', producerId, producerEpoch, committed: true })
    const late = await client.request('Produce', 10, produce(batch(producer, 1)))
    expect(late.responses[0].partitionResponses[0].errorCode).toBe(INVALID_TXN_STATE)
    expect(stored()).toEqual({ end: 2, stable: 2 })
  })
})

describe('offsets of a member of the new group protocol in a transaction', () => {
  const heartbeat = (memberId: string, memberEpoch: number, more = {}) =>
    client.request('ConsumerGroupHeartbeat', 1, { groupId: 'g', memberId, memberEpoch, ...more })
  const join = (memberId: string) =>
    heartbeat(memberId, 0, { rebalanceTimeoutMs: 60_000, subscribedTopicNames: ['t'], topicPartitions: [] })
  const owned = (...partitions: number[]) => ({ topicPartitions: [{ topicId, partitions }] })

  async function stage(
    producer: Identity,
    memberId: string,
    generationId: number,
    committedOffset: number,
  ): Promise<number> {
    const { producerId, producerEpoch } = producer
    const partitions = [{ partitionIndex: 0, committedOffset, committedMetadata: null }]
    const { topics } = await client.request('TxnOffsetCommit', 5, {
      ...{ transactionalId: 'x', groupId: 'g', producerId, producerEpoch, memberId, generationId },
      topics: [{ name: 't', partitions }],
    })
    return topics[0].partitions[0].errorCode
  }

  test('are taken with its epoch, and refused with one of before, in the words that producers know', async () => {
    const { memberEpoch } = await join('ann')
    const producer = await init(client)
    expect(await stage(producer, 'ann', memberEpoch, 5)).toBe(0)
    // The member is led on: what it sends with an epoch that it has left for good is of a zombie.
    await join('bob')
    await heartbeat('ann', memberEpoch)
    const led = await heartbeat('ann', memberEpoch, owned(0))
    expect(led.memberEpoch).toBeGreaterThan(memberEpoch)
    expect(await stage(producer, 'ann', led.memberEpoch, 6)).toBe(0)
    expect(await stage(producer, 'ann', led.memberEpoch + 1, 7)).toBe(ILLEGAL_GENERATION)
    expect(await stage(producer, 'eve', led.memberEpoch, 8)).toBe(UNKNOWN_MEMBER)
    expect(server.broker.committed('g', 't', 0)).toBeUndefined()
    await endTxn(client, producer, true)
    expect(server.broker.committed('g', 't', 0)?.offset).toBe(6)
  })

  test('that has left are refused, and the transaction commits without them', async () => {
    const { memberEpoch } = await join('ann')
    const producer = await init(client)
    await heartbeat('ann', -1)
    await client.request('Produce', IMPLICIT_VERSION, produce(batch(producer)))
    expect(await stage(producer, 'ann', memberEpoch, 5)).not.toBe(0)
    expect(await endTxn(client, producer, true)).toMatchObject({ errorCode: 0 })
    expect(server.broker.committed('g', 't', 0)).toBeUndefined()
    expect(stored()).toEqual({ end: 2, stable: 2 })
  })
})
