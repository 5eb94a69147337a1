/**
 * Transactions: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn, WriteTxnMarkers, DescribeTransactions,
 * ListTransactions. What they mean is in `broker/transaction.ts`; here are the shapes, and what older versions call things.
 *
 * KIP-890, from TxnOffsetCommit 5 and EndTxn 5 on (and Produce 12): groups and partitions become part of a transaction by being written to,
 * and each end gives the producer a new epoch.
 */

import type { Broker } from '../../broker/broker.ts'
import type { OffsetCommit } from '../../broker/offsets.ts'
import { TopicPattern } from '../../broker/topic-pattern.ts'
import { isOpen, type Transaction, type TransactionalProducer } from '../../broker/transaction.ts'
import { isSluiceError } from '../../errors.ts'
import { addOffsetsToTxnApi } from '../../wire/kafka/add-offsets-to-txn.ts'
import { addPartitionsToTxnApi } from '../../wire/kafka/add-partitions-to-txn.ts'
import { describeTransactionsApi } from '../../wire/kafka/describe-transactions.ts'
import { endTxnApi } from '../../wire/kafka/end-txn.ts'
import { initProducerIdApi } from '../../wire/kafka/init-producer-id.ts'
import { listTransactionsApi } from '../../wire/kafka/list-transactions.ts'
import { txnOffsetCommitApi } from '../../wire/kafka/txn-offset-commit.ts'
import { writeTxnMarkersApi } from '../../wire/kafka/write-txn-markers.ts'
import { type Handler, handler, kafkaCode, kafkaCodeOf } from './handler.ts'
import { UNKNOWN_TOPIC_OR_PARTITION } from './topic-lookup.ts'

const COORDINATOR_LOAD_IN_PROGRESS = 14
const INVALID_REQUEST = 42
const INVALID_PRODUCER_EPOCH = 47
const OPERATION_NOT_ATTEMPTED = 55
const PRODUCER_FENCED = 90
const TRANSACTION_ABORTABLE = 120

/** First version of each that knows PRODUCER_FENCED; before, it was called INVALID_PRODUCER_EPOCH. */
const INIT_FENCED_VERSION = 4
const FENCED_VERSION = 2
const BATCHED_VERSION = 4
const ABORTABLE_VERSION = 5
const RENEWS_VERSION = 5
const IMPLICIT_GROUP_VERSION = 5

const ALL_STATES = new Set([
  'Empty',
  'Ongoing',
  'PrepareCommit',
  'PrepareAbort',
  'CompleteCommit',
  'CompleteAbort',
])

/** Kafka's number for what an operation rejects with; 0 if it does not. */
async function codeOf(operation: Promise<unknown>, version: number, fencedFrom: number): Promise<number> {
  try {
    await operation
    return 0
  } catch (error) {
    return codeOfRefusal(error, version, fencedFrom)
  }
}

function codeOfRefusal(error: unknown, version: number, fencedFrom: number): number {
  if (!isSluiceError(error)) throw error
  const code = kafkaCodeOf(error)
  return code === PRODUCER_FENCED && version < fencedFrom ? INVALID_PRODUCER_EPOCH : code
}

/** Without a transactional id: a number for an idempotent producer, another one each time it asks. */
const initProducerId = handler(initProducerIdApi, async (request, { broker, version }) => {
  const { transactionalId, transactionTimeoutMs, producerId, producerEpoch } = request
  if (transactionalId === null) {
    return { errorCode: 0, producerId: await broker.allocateProducerId(), producerEpoch: 0 }
  }
  if (producerId < 0 !== producerEpoch < 0) return { errorCode: INVALID_REQUEST, producerEpoch: -1 }
  try {
    const timeoutMs = transactionTimeoutMs
    const given = await broker.transactions.init({
      transactionalId,
      timeoutMs,
      producerId,
      epoch: producerEpoch,
    })
    return { errorCode: 0, producerId: given.producerId, producerEpoch: given.epoch }
  } catch (error) {
    return { errorCode: codeOfRefusal(error, version, INIT_FENCED_VERSION), producerEpoch: -1 }
  }
})

interface TopicPartitions {
  readonly name: string
  readonly partitions: readonly number[]
}

const addPartitionsToTxn = handler(addPartitionsToTxnApi, async (request, { broker, version }) => {
  if (version < BATCHED_VERSION) {
    const producer = {
      transactionalId: request.v3AndBelowTransactionalId,
      producerId: request.v3AndBelowProducerId,
      epoch: request.v3AndBelowProducerEpoch,
    }
    return {
      resultsByTopicV3AndBelow: await addPartitions(broker, producer, request.v3AndBelowTopics, version),
    }
  }
  const resultsByTransaction = request.transactions.map(async each => {
    const { transactionalId, producerId, producerEpoch: epoch, verifyOnly, topics } = each
    const producer = { transactionalId, producerId, epoch }
    const topicResults = verifyOnly
      ? verifyPartitions(broker, producer, topics, version)
      : await addPartitions(broker, producer, topics, version)
    return { transactionalId, topicResults }
  })
  return { resultsByTransaction: await Promise.all(resultsByTransaction) }
})

/** All or none: what is missing is named, and the others are not added then. */
async function addPartitions(
  broker: Broker,
  producer: TransactionalProducer,
  topics: readonly TopicPartitions[],
  version: number,
) {
  const isKnown = (name: string, partition: number): boolean =>
    broker.findTopic(name)?.partitions[partition] !== undefined
  const isComplete = topics.every(({ name, partitions }) => partitions.every(each => isKnown(name, each)))
  if (!isComplete) {
    return results(topics, (name, partition) =>
      isKnown(name, partition) ? OPERATION_NOT_ATTEMPTED : UNKNOWN_TOPIC_OR_PARTITION,
    )
  }
  const added = topics.flatMap(({ name, partitions }) => partitions.map(each => [name, each] as const))
  const code = await codeOf(broker.transactions.addPartitions(producer, added), version, FENCED_VERSION)
  return results(topics, () => code)
}

function verifyPartitions(
  broker: Broker,
  { producerId, epoch }: TransactionalProducer,
  topics: readonly TopicPartitions[],
  version: number,
) {
  return results(topics, (name, partition) => {
    const refusal = broker.transactions.checkAppend(producerId, epoch, name, partition)
    if (refusal === 'INVALID_TXN_STATE' && version >= ABORTABLE_VERSION) return TRANSACTION_ABORTABLE
    return kafkaCode(refusal)
  })
}

const results = (topics: readonly TopicPartitions[], codeFor: (name: string, partition: number) => number) =>
  topics.map(({ name, partitions }) => ({
    name,
    resultsByPartition: partitions.map(partition => ({
      partitionIndex: partition,
      partitionErrorCode: codeFor(name, partition),
    })),
  }))

const addOffsetsToTxn = handler(addOffsetsToTxnApi, async (request, { broker, version }) => {
  const { transactionalId, producerId, producerEpoch: epoch, groupId } = request
  const added = broker.transactions.addGroup({ transactionalId, producerId, epoch }, groupId)
  return { errorCode: await codeOf(added, version, FENCED_VERSION) }
})

const txnOffsetCommit = handler(txnOffsetCommitApi, async (request, { broker, version }) => {
  const { transactionalId, groupId, producerId, producerEpoch: epoch, topics } = request
  const { generationId: generation, memberId, groupInstanceId: instanceId } = request
  const commits = topics.flatMap(({ name, partitions }) =>
    partitions.map(
      ({ partitionIndex, committedOffset, committedLeaderEpoch, committedMetadata }): OffsetCommit => ({
        topic: name,
        partition: partitionIndex,
        offset: committedOffset,
        leaderEpoch: committedLeaderEpoch,
        metadata: committedMetadata ?? '',
      }),
    ),
  )
  const answer = (codes: readonly number[]) => {
    let index = 0
    return {
      topics: topics.map(({ name, partitions }) => ({
        name,
        partitions: partitions.map(({ partitionIndex }) => ({ partitionIndex, errorCode: codes[index++] })),
      })),
    }
  }
  // Clients from before KIP-447 do not say who they are; they are fenced by their transactional id alone.
  const isMember = generation >= 0 || memberId !== '' || instanceId !== null
  try {
    const outcomes = await broker.stageOffsets(
      { transactionalId, producerId, epoch },
      groupId,
      isMember ? { memberId, instanceId, generation } : null,
      commits,
      version >= IMPLICIT_GROUP_VERSION,
    )
    return answer(outcomes.map(kafkaCode))
  } catch (error) {
    // The clients know the error of the log here, not that of the coordinator; and ask again when it is loading.
    if (isSluiceError(error, 'PRODUCER_FENCED')) return answer(commits.map(() => INVALID_PRODUCER_EPOCH))
    if (isSluiceError(error, 'CONCURRENT_TRANSACTIONS'))
      return answer(commits.map(() => COORDINATOR_LOAD_IN_PROGRESS))
    // The producer that sends this knows generations only.
    if (isSluiceError(error, 'STALE_MEMBER_EPOCH'))
      return answer(commits.map(() => kafkaCode('ILLEGAL_GENERATION')))
    const code = codeOfRefusal(error, version, 0)
    return answer(commits.map(() => code))
  }
})

const endTxn = handler(endTxnApi, async (request, { broker, version }) => {
  const { transactionalId, producerId, producerEpoch: epoch, committed } = request
  try {
    const renews = version >= RENEWS_VERSION
    const next = await broker.transactions.end({ transactionalId, producerId, epoch }, committed, renews)
    return { errorCode: 0, producerId: next.producerId, producerEpoch: next.epoch }
  } catch (error) {
    return { errorCode: codeOfRefusal(error, version, FENCED_VERSION) }
  }
})

/** For admins, to end a transaction that hangs: the coordinator here writes its markers itself. */
const writeTxnMarkers = handler(writeTxnMarkersApi, async ({ markers }, { broker }) => {
  const written = markers.map(async ({ producerId, producerEpoch, transactionResult, topics }) => {
    const end = async (name: string, index: number): Promise<number> => {
      const partition = broker.findTopic(name)?.partitions[index]
      if (partition === undefined) return UNKNOWN_TOPIC_OR_PARTITION
      try {
        await partition.endTransaction(producerId, producerEpoch, transactionResult)
        return 0
      } catch (error) {
        return codeOfRefusal(error, 0, 0)
      }
    }
    const ended = topics.map(async ({ name, partitionIndexes }) => ({
      name,
      partitions: await Promise.all(
        partitionIndexes.map(async partitionIndex => ({
          partitionIndex,
          errorCode: await end(name, partitionIndex),
        })),
      ),
    }))
    return { producerId, topics: await Promise.all(ended) }
  })
  return { markers: await Promise.all(written) }
})

const describeTransactions = handler(describeTransactionsApi, ({ transactionalIds }, { broker }) => ({
  transactionStates: transactionalIds.map(transactionalId => {
    const transaction = broker.transactions.get(transactionalId)
    if (transaction === undefined) {
      return {
        ...{ transactionalId, transactionState: '', transactionTimeoutMs: 0, transactionStartTimeMs: -1 },
        ...{
          errorCode: kafkaCode('UNKNOWN_TRANSACTIONAL_ID'),
          producerId: -1,
          producerEpoch: -1,
          topics: [],
        },
      }
    }
    const { state, timeoutMs, startTime, producerId, epoch, partitions } = transaction
    return {
      errorCode: 0,
      transactionalId,
      transactionState: state,
      transactionTimeoutMs: timeoutMs,
      transactionStartTimeMs: isOpen(transaction) ? startTime : -1,
      producerId,
      producerEpoch: epoch,
      topics: [...partitions].map(([topic, indexes]) => ({ topic, partitions: [...indexes] })),
    }
  }),
}))

const listTransactions = handler(listTransactionsApi, (request, { broker }) => {
  const { stateFilters, producerIdFilters, durationFilter, transactionalIdPattern } = request
  const now = broker.clock.now()
  // Throws INVALID_REGULAR_EXPRESSION, which is the answer then. As in Kafka the whole id has to match.
  const pattern = transactionalIdPattern ? new TopicPattern(transactionalIdPattern) : null
  const matches = (transaction: Transaction): boolean =>
    (stateFilters.length === 0 || stateFilters.includes(transaction.state)) &&
    (producerIdFilters.length === 0 || producerIdFilters.includes(transaction.producerId)) &&
    (durationFilter < 0 || (isOpen(transaction) && now - transaction.startTime > durationFilter)) &&
    (pattern === null || pattern.matches(transaction.transactionalId))
  const transactionStates = [...broker.transactions.all].filter(matches).map(each => ({
    transactionalId: each.transactionalId,
    producerId: each.producerId,
    transactionState: each.state,
  }))
  const unknownStateFilters = stateFilters.filter(state => !ALL_STATES.has(state))
  return { errorCode: 0, unknownStateFilters, transactionStates }
})

export const transactionHandlers = [
  initProducerId,
  addPartitionsToTxn,
  addOffsetsToTxn,
  txnOffsetCommit,
  endTxn,
  writeTxnMarkers,
  describeTransactions,
  listTransactions,
] as unknown as readonly Handler[]
