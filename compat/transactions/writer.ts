/** Transactions of one producer, one request after the other: exactly what it is told, into exactly the partitions that it is told. */

import assert from 'node:assert/strict'
import { BatchBuilder, type Compression } from '../../src/record/builder.ts'
import type { RawClient } from '../raw-client.ts'

const TIMEOUT_MS = 60_000
/** Nothing here is to end by itself. */
const TRANSACTION_TIMEOUT_MS = 600_000

export type KeyAndValue = readonly [key: string, value: string | null]

export class TransactionalWriter {
  readonly #client: RawClient
  readonly #transactionalId: string
  #producer = { producerId: -1, producerEpoch: -1 }
  /** By `topic partition`. */
  readonly #sequences = new Map<string, number>()

  private constructor(client: RawClient, transactionalId: string) {
    this.#client = client
    this.#transactionalId = transactionalId
  }

  /** Whoever had this id before is fenced, and what it had open is aborted. */
  static async open(client: RawClient, transactionalId: string): Promise<TransactionalWriter> {
    const writer = new TransactionalWriter(client, transactionalId)
    const { errorCode, producerId, producerEpoch } = await client.request('InitProducerId', 4, {
      transactionalId,
      transactionTimeoutMs: TRANSACTION_TIMEOUT_MS,
    })
    assert.equal(errorCode, 0, `InitProducerId gives ${errorCode}`)
    writer.#producer = { producerId: Number(producerId), producerEpoch }
    return writer
  }

  get producerId(): number {
    return this.#producer.producerId
  }

  /** As part of the transaction, which begins if there is none. Resolves with the offset of the first record. */
  async write(
    topic: string,
    partition: number,
    records: readonly KeyAndValue[],
    compression: Compression = 'none',
  ): Promise<number> {
    const transactionalId = this.#transactionalId
    const added = await this.#client.request('AddPartitionsToTxn', 3, {
      v3AndBelowTransactionalId: transactionalId,
      v3AndBelowProducerId: this.#producer.producerId,
      v3AndBelowProducerEpoch: this.#producer.producerEpoch,
      v3AndBelowTopics: [{ name: topic, partitions: [partition] }],
    })
    const [{ partitionErrorCode }] = added.resultsByTopicV3AndBelow[0].resultsByPartition
    assert.equal(partitionErrorCode, 0, `AddPartitionsToTxn gives ${partitionErrorCode}`)
    const batch = this.#batch(`${topic} ${partition}`, records, compression)
    const { responses } = await this.#client.request('Produce', 9, {
      transactionalId,
      acks: -1,
      timeoutMs: TIMEOUT_MS,
      topicData: [{ name: topic, partitionData: [{ index: partition, records: batch }] }],
    })
    const [{ errorCode, baseOffset }] = responses[0].partitionResponses
    assert.equal(errorCode, 0, `Produce gives ${errorCode}`)
    return Number(baseOffset)
  }

  /** Of a group without members. */
  async commitOffset(groupId: string, topic: string, partition: number, offset: number): Promise<void> {
    const who = { transactionalId: this.#transactionalId, ...this.#producer, groupId }
    const added = await this.#client.request('AddOffsetsToTxn', 3, who)
    assert.equal(added.errorCode, 0, `AddOffsetsToTxn gives ${added.errorCode}`)
    const partitions = [{ partitionIndex: partition, committedOffset: offset, committedMetadata: null }]
    const body = { ...who, topics: [{ name: topic, partitions }] }
    const { topics } = await this.#client.request('TxnOffsetCommit', 3, body)
    assert.equal(topics[0].partitions[0].errorCode, 0)
  }

  async end(commit: boolean): Promise<void> {
    const { errorCode } = await this.#client.request('EndTxn', 3, {
      transactionalId: this.#transactionalId,
      ...this.#producer,
      committed: commit,
    })
    assert.equal(errorCode, 0, `EndTxn gives ${errorCode}`)
  }

  #batch(place: string, records: readonly KeyAndValue[], compression: Compression): Buffer {
    const builder = new BatchBuilder()
    for (const [key, value] of records) builder.append(Date.now(), key, value, [])
    const baseSequence = this.#sequences.get(place) ?? 0
    this.#sequences.set(place, baseSequence + records.length)
    return builder.close({ ...this.#producer, baseSequence, transactional: true, compression })
  }
}
