/**
 * Produce: appends batches to partitions.
 *
 * Every append is decided in the turn in which the request starts, in the order of the request, so the order of a connection
 * is the order of the log. Only the answer waits, for the sync that many appends share. A batch is looked at, never its
 * records: what the log checks is in `Log.append`. The bytes of the request are patched in place and copied by the log, so
 * they may go once the request is answered.
 *
 * Topics are not made here: that is the business of Metadata.
 */

import type { Acks, Partition } from '../../broker/partition.ts'
import { type ErrorCode, isSluiceError, SluiceError } from '../../errors.ts'
import {
  BATCH_HEADER_BYTES,
  baseOffset,
  batchBytes,
  compressionOf,
  isTransactional,
  producerEpoch,
  producerId,
} from '../../record/batch.ts'
import { produceApi } from '../../wire/kafka/produce.ts'
import { handler, kafkaCode, kafkaCodeOf, type RequestContext } from './handler.ts'
import { findPartition } from './topic-lookup.ts'

/** `acks` of the protocol. All is what the flush policy promises. */
const acksOf: Readonly<Record<number, Acks | undefined>> = { 0: 'none', 1: 'written', [-1]: undefined }

const INVALID_REQUIRED_ACKS = 21
const UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
const TRANSACTION_ABORTABLE = 120

/** First version whose requests carry record batches, and one for each partition. */
const RECORD_BATCH_VERSION = 3
/** First version whose clients know TRANSACTION_ABORTABLE, and first that adds partitions to a transaction by writing to them. */
const ABORTABLE_VERSION = 11
const IMPLICIT_VERSION = 12
/** First version that may carry zstd. */
const ZSTD_VERSION = 7
const ZSTD = 4
const MAGIC_AT = 16

/** What is answered for a partition; changed when the sync fails. */
interface PartitionResult {
  readonly index: number
  errorCode: number
  baseOffset: number
  logAppendTimeMs: number
  logStartOffset: number
  recordErrors: readonly { readonly batchIndex: number; readonly batchIndexErrorMessage: string }[]
  errorMessage: string | null
}

interface TopicResult {
  readonly name: string
  readonly topicId: string
  readonly partitionResponses: PartitionResult[]
}

/** A refusal that has no row of its own in the error table. */
interface Refusal {
  readonly code: number
  readonly message: string
}

export const produceHandler = {
  ...handler(produceApi, (request, context) => {
    const { acks, transactionalId } = request
    const refusal = refusalOfRequest(acks)
    const pending: Promise<void>[] = []
    const responses: TopicResult[] = []
    let failure: PartitionResult | null = null
    for (const { name, topicId, partitionData } of request.topicData) {
      const partitionResponses: PartitionResult[] = []
      for (const { index, records } of partitionData) {
        const result = emptyResult(index)
        partitionResponses.push(result)
        if (refusal !== null) refuse(result, refusal.code, refusal.message)
        else append(result, name, topicId, records, acksOf[acks], transactionalId, context, pending)
        if (result.errorCode !== 0) failure ??= result
      }
      responses.push({ name, topicId, partitionResponses })
    }
    if (acks === 0) {
      // There is no answer that could say it: the connection ends, as in Kafka, and the client looks for metadata.
      if (failure !== null) {
        const message = `produce with acks=0 failed (${failure.errorCode}): ${failure.errorMessage}`
        throw new SluiceError('INVALID_ARGUMENT', message, { kafkaCode: failure.errorCode })
      }
      return null
    }
    const response = { responses }
    return pending.length === 0 ? response : Promise.all(pending).then(() => response)
  }),
  overlapping: true,
  releasing: true,
}

const emptyResult = (index: number): PartitionResult => ({
  index,
  errorCode: 0,
  baseOffset: -1,
  logAppendTimeMs: -1,
  logStartOffset: -1,
  recordErrors: [],
  errorMessage: null,
})

function append(
  result: PartitionResult,
  name: string,
  topicId: string,
  records: Buffer | null,
  acks: Acks | undefined,
  transactionalId: string | null,
  context: RequestContext,
  pending: Promise<void>[],
): void {
  const { broker, version } = context
  const partition = findPartition(broker, name, topicId, result.index)
  if (typeof partition === 'number') {
    if (name.startsWith('__')) refuseWith(result, 'INVALID_TOPIC', `topic "${name}" belongs to the broker`)
    else refuse(result, partition, `there is no topic "${name || topicId}" with a partition ${result.index}`)
    return
  }
  const refusal = refusalOfBatch(records, version)
  if (refusal !== null) {
    refuse(result, refusal.code, refusal.message)
    return
  }
  if (records!.length < BATCH_HEADER_BYTES || !isTransactional(records!, 0)) {
    appendTo(partition, result, records!, acks, pending)
    return
  }
  const admitted = admit(partition, records!, transactionalId, context)
  if (typeof admitted === 'number') {
    refuse(
      result,
      admitted,
      `${partition.topic}/${partition.partition} is not part of a transaction of the producer`,
    )
  } else if (admitted === null) appendTo(partition, result, records!, acks, pending)
  else {
    const appending = async (): Promise<void> => {
      await admitted
      // Meanwhile the transaction may have ended: a batch behind its marker would begin one that nobody ends.
      const refusal = context.broker.transactions.checkAppend(
        producerId(records!, 0),
        producerEpoch(records!, 0),
        partition.topic,
        partition.partition,
      )
      if (refusal !== null) {
        refuse(
          result,
          kafkaCode(refusal),
          `the transaction of the producer ended before its batch was stored`,
        )
        return
      }
      const flushing: Promise<void>[] = []
      appendTo(partition, result, records!, acks, flushing)
      await flushing[0]
    }
    pending.push(appending().catch(error => refuseThrown(result, error)))
  }
}

/**
 * Whether a transactional batch may be appended: a number says why not, a promise from when on. From KIP-890 on a partition becomes part of the
 * transaction by being written to; that is stored first, and batches of the same producer that come meanwhile keep their order behind it.
 */
function admit(
  partition: Partition,
  records: Buffer,
  transactionalId: string | null,
  { broker, version }: RequestContext,
): Promise<void> | number | null {
  const { transactions } = broker
  const id = producerId(records, 0)
  const epoch = producerEpoch(records, 0)
  const refusal = transactions.checkAppend(id, epoch, partition.topic, partition.partition)
  if (refusal === null) return transactions.adding(id)
  if (refusal !== 'INVALID_TXN_STATE') return kafkaCode(refusal)
  if (version < IMPLICIT_VERSION || transactionalId === null) {
    return version < ABORTABLE_VERSION ? kafkaCode(refusal) : TRANSACTION_ABORTABLE
  }
  const producer = { transactionalId, producerId: id, epoch }
  return transactions.addPartitions(producer, [[partition.topic, partition.partition]])
}

function appendTo(
  partition: Partition,
  result: PartitionResult,
  records: Buffer,
  acks: Acks | undefined,
  pending: Promise<void>[],
): void {
  try {
    const { appended, done } = partition.append(records, acks, false)
    result.baseOffset = appended.baseOffset
    result.logAppendTimeMs = appended.appendTime
    result.logStartOffset = partition.startOffset
    if (done !== null) pending.push(done.catch(error => refuseThrown(result, error)))
  } catch (error) {
    refuseThrown(result, error)
  }
}

const refusalOfRequest = (acks: number): Refusal | null =>
  acks in acksOf ? null : { code: INVALID_REQUIRED_ACKS, message: `acks is -1, 0 or 1, not ${acks}` }

/** What is wrong with the shape, as far as Kafka has answers of its own for it. The log checks the rest. */
function refusalOfBatch(records: Buffer | null, version: number): Refusal | null {
  if (records === null || records.length === 0) {
    return { code: kafkaCode('INVALID_RECORD'), message: 'a partition without records' }
  }
  if (records.length > MAGIC_AT && records[MAGIC_AT] < 2) {
    const message = `message format ${records[MAGIC_AT]} is not stored: send record batches (Produce from version 3)`
    const code = version < RECORD_BATCH_VERSION ? UNSUPPORTED_FOR_MESSAGE_FORMAT : kafkaCode('INVALID_RECORD')
    return { code, message }
  }
  if (records.length < BATCH_HEADER_BYTES || batchBytes(records, 0) !== records.length) {
    return {
      code: kafkaCode('INVALID_RECORD'),
      message: 'a partition with more or less than one whole batch',
    }
  }
  if (baseOffset(records, 0) !== 0) {
    const message = `a batch with the base offset ${baseOffset(records, 0)}: a producer sends 0`
    return { code: kafkaCode('INVALID_RECORD'), message }
  }
  if (compressionOf(records, 0) === ZSTD && version < ZSTD_VERSION) {
    const message = `zstd needs Produce from version ${ZSTD_VERSION}`
    return { code: kafkaCode('UNSUPPORTED_COMPRESSION'), message }
  }
  return null
}

function refuseThrown(result: PartitionResult, error: unknown): void {
  if (!isSluiceError(error)) throw error
  // Deleted meanwhile: who asks for metadata learns it.
  if (error.code === 'CLOSED') refuseWith(result, 'UNKNOWN_TOPIC', error.message)
  else refuse(result, kafkaCodeOf(error), error.message)
  const { recordErrors } = error.detail as { recordErrors?: readonly { index: number; message: string }[] }
  if (recordErrors !== undefined) {
    result.recordErrors = recordErrors.map(({ index, message }) => ({
      batchIndex: index,
      batchIndexErrorMessage: message,
    }))
  }
}

function refuseWith(result: PartitionResult, code: ErrorCode, message: string): void {
  refuse(result, kafkaCode(code), message)
}

function refuse(result: PartitionResult, code: number, message: string): void {
  result.errorCode = code
  result.errorMessage = message
  result.baseOffset = -1
  result.logAppendTimeMs = -1
  result.logStartOffset = -1
}
