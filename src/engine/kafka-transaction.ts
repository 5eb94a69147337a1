/**
 * A transactional producer whose coordinator is a broker of a cluster: `TransactionSession` over Kafka's protocol.
 *
 *                    first version                      second (KIP-890: `transaction.version` 2)
 *     produce        AddPartitionsToTxn, Produce ≤ 11   Produce ≥ 12: the partition is added with it
 *     stageOffsets   AddOffsetsToTxn,                   TxnOffsetCommit ≥ 5: the group is added with it
 *                    TxnOffsetCommit ≤ 4
 *     end            EndTxn ≤ 4                         EndTxn ≥ 5: brings the id and epoch of the next transaction
 *
 * Which of the two is asked for anew at the start of each transaction, and holds to its end. Every request may be repeated: batches
 * have sequences, and the coordinator knows an end that it has carried out. So what breaks or moves is tried again; what nobody could
 * be told in time ends as `TIMED_OUT`, `UNREACHABLE` or `UNAVAILABLE`, and nobody knows then whether the transaction was committed.
 *
 * Invariant: a session that was fenced says `PRODUCER_FENCED`, whatever name the protocol has for it in that place.
 */

import { SluiceError } from '../errors.ts'
import { systemClock } from '../lib/clock.ts'
import { addOffsetsToTxnApi } from '../wire/kafka/add-offsets-to-txn.ts'
import { addPartitionsToTxnApi } from '../wire/kafka/add-partitions-to-txn.ts'
import { endTxnApi } from '../wire/kafka/end-txn.ts'
import { initProducerIdApi } from '../wire/kafka/init-producer-id.ts'
import { txnOffsetCommitApi } from '../wire/kafka/txn-offset-commit.ts'
import type {
  CommitOffset,
  Member,
  Produced,
  ProducerIdentity,
  TransactionOptions,
  TransactionSession,
} from './engine.ts'
import { check, isPassing, type KafkaCluster } from './kafka-cluster.ts'
import { byTopic, type CommitterIdentity } from './kafka-groups.ts'
import type { Address, CallOptions, KafkaLink } from './kafka-link.ts'
import { produceTo } from './kafka-produce.ts'

/** The versions of the requests that a transaction is made of. */
interface Protocol {
  /** Partitions and groups become part of the transaction by being written to. */
  readonly isImplicit: boolean
  readonly produce: CallOptions
  readonly commit: CallOptions
  readonly end: CallOptions
}

const FIRST: Protocol = {
  isImplicit: false,
  produce: { versionMax: 11 },
  commit: { versionMax: 4 },
  end: { versionMax: 4 },
}
const SECOND: Protocol = {
  isImplicit: true,
  produce: { versionMin: 12, versionMax: 12 },
  commit: { versionMin: 5 },
  end: { versionMin: 5 },
}
const FEATURE = 'transaction.version'
const SECOND_LEVEL = 2
/** The first version of TxnOffsetCommit that says whose the offsets are: without that a member that was replaced is not refused. */
const MEMBER_VERSION = 3
/** The last version of AddPartitionsToTxn that is about one transaction. */
const ADD_PARTITIONS_VERSION_MAX = 3
/** Between two attempts while the transaction before is still being ended, and how long it is tried. */
const CONCURRENT_RETRY_MS = 20
const CONCURRENT_MS_MAX = 15_000

export class KafkaTransactionSession implements TransactionSession {
  readonly #cluster: KafkaCluster
  readonly #options: TransactionOptions
  #identity!: ProducerIdentity
  #coordinator: Address | null = null
  /** Of the transaction under way. */
  #protocol: Promise<Protocol> | null = null
  /** Partitions and groups of the transaction under way → when the coordinator has been told. */
  readonly #parts = new Map<string, Promise<void>>()
  /** Whether anything may be in the transaction. */
  #isOpen = false
  /** Whether the coordinator is known to have something in it. */
  #isBegun = false

  /** Fences whoever has the id. Rejects with `INVALID_TRANSACTION_TIMEOUT`, `UNSUPPORTED`, `CONCURRENT_TRANSACTIONS`. */
  static async open(cluster: KafkaCluster, options: TransactionOptions): Promise<TransactionSession> {
    const session = new KafkaTransactionSession(cluster, options)
    await session.#init()
    return session
  }

  private constructor(cluster: KafkaCluster, options: TransactionOptions) {
    this.#cluster = cluster
    this.#options = options
  }

  get identity(): ProducerIdentity {
    return this.#identity
  }

  async produce(topic: string, partition: number, batch: Uint8Array): Promise<Produced> {
    return await this.#run(async () => {
      const protocol = await this.#begin()
      if (!protocol.isImplicit)
        await this.#part(`${topic}/${partition}`, () => this.#addPartition(topic, partition))
      const { transactionalId } = this.#options
      const options = { ...protocol.produce, transactionalId }
      const produced = await this.#unlessConcurrent(() =>
        this.#cluster.onLeader(topic, partition, 'produce', link =>
          produceTo(link, topic, partition, batch, options),
        ),
      )
      this.#isBegun = true
      return produced
    })
  }

  async stageOffsets(group: string, offsets: readonly CommitOffset[], member: Member | null): Promise<void> {
    if (offsets.length === 0) return
    // As it is now: a member that has lost its partitions meanwhile must not vouch for them with its next generation.
    const { memberId = '', generation = -1, instanceId = null } = member ?? {}
    const committer = { memberId, generation, instanceId }
    await this.#run(async () => {
      const protocol = await this.#begin()
      if (!protocol.isImplicit) await this.#part(group, () => this.#addGroup(group))
      await this.#commitOffsets(protocol, group, offsets, committer)
      this.#isBegun = true
    })
  }

  async end(commit: boolean): Promise<void> {
    if (!this.#isOpen) return
    await this.#run(async () => {
      const { isImplicit, end: versions } = await this.#begin()
      await this.#onCoordinator(async link => {
        const { errorCode, producerId, producerEpoch } = await link.call(
          endTxnApi,
          { ...this.#producer(), committed: commit },
          versions,
        )
        this.#check(errorCode)
        if (isImplicit && producerId >= 0) this.#identity = { producerId, epoch: producerEpoch }
      }).catch(error => {
        // Nothing came to the coordinator, so that there is nothing to abort.
        const isNothing = !commit && !this.#isBegun && isRefusal(error, 'INVALID_TXN_STATE')
        if (!isNothing) throw error
      })
    })
    this.#isOpen = false
    this.#isBegun = false
    this.#protocol = null
    this.#parts.clear()
  }

  async #init(): Promise<void> {
    const { transactionalId, timeoutMs: transactionTimeoutMs } = this.#options
    await this.#run(() =>
      this.#onCoordinator(async link => {
        const request = { transactionalId, transactionTimeoutMs }
        const { errorCode, producerId, producerEpoch } = await link.call(initProducerIdApi, request)
        this.#check(errorCode)
        this.#identity = { producerId, epoch: producerEpoch }
      }),
    )
  }

  /** Something is about to become part of the transaction. */
  #begin(): Promise<Protocol> {
    this.#isOpen = true
    if (this.#protocol === null) {
      const choosing = this.#onCoordinator(async link =>
        link.feature(FEATURE) >= SECOND_LEVEL ? SECOND : FIRST,
      )
      this.#protocol = choosing
      choosing.catch(() => {
        if (this.#protocol === choosing) this.#protocol = null
      })
    }
    return this.#protocol
  }

  /** Tells the coordinator of a part, once. */
  #part(name: string, add: () => Promise<void>): Promise<void> {
    let added = this.#parts.get(name)
    if (added === undefined) {
      added = add()
      this.#parts.set(name, added)
      added.then(
        () => {
          this.#isBegun = true
        },
        () => this.#parts.delete(name),
      )
    }
    return added
  }

  #addPartition(topic: string, partition: number): Promise<void> {
    const { transactionalId, producerId, producerEpoch } = this.#producer()
    const request = {
      v3AndBelowTransactionalId: transactionalId,
      v3AndBelowProducerId: producerId,
      v3AndBelowProducerEpoch: producerEpoch,
      v3AndBelowTopics: [{ name: topic, partitions: [partition] }],
    }
    return this.#onCoordinator(async link => {
      const options = { versionMax: ADD_PARTITIONS_VERSION_MAX }
      const { resultsByTopicV3AndBelow } = await link.call(addPartitionsToTxnApi, request, options)
      const [result] = resultsByTopicV3AndBelow[0].resultsByPartition
      this.#check(result.partitionErrorCode, { topic, partition })
    })
  }

  #addGroup(group: string): Promise<void> {
    return this.#onCoordinator(async link => {
      const { errorCode } = await link.call(addOffsetsToTxnApi, { ...this.#producer(), groupId: group })
      this.#check(errorCode, { group })
    })
  }

  async #commitOffsets(
    { commit }: Protocol,
    group: string,
    offsets: readonly CommitOffset[],
    { memberId, generation, instanceId }: CommitterIdentity,
  ): Promise<void> {
    const request = {
      ...this.#producer(),
      groupId: group,
      ...{ generationId: generation, memberId, groupInstanceId: instanceId },
      topics: byTopic(offsets),
    }
    const isMember = memberId !== '' || instanceId !== null
    const options = { versionMin: isMember ? MEMBER_VERSION : 0, ...commit }
    await this.#unlessConcurrent(() =>
      this.#cluster.onCoordinator(group, async link => {
        const { topics } = await link.call(txnOffsetCommitApi, request, options)
        for (const { name: topic, partitions } of topics)
          for (const { partitionIndex: partition, errorCode } of partitions)
            this.#check(errorCode, { group, topic, partition })
      }),
    )
  }

  #producer(): { transactionalId: string; producerId: number; producerEpoch: number } {
    const { producerId, epoch } = this.#identity
    return { transactionalId: this.#options.transactionalId, producerId, producerEpoch: epoch }
  }

  #onCoordinator<Result>(ask: (link: KafkaLink) => Promise<Result>): Promise<Result> {
    const { transactionalId } = this.#options
    return this.#unlessConcurrent(() =>
      this.#cluster.retrying(async () => {
        try {
          this.#coordinator ??= await this.#cluster.findCoordinator('transaction', transactionalId)
          return await ask(await this.#cluster.link(this.#coordinator, 'transactions'))
        } catch (error) {
          if (isPassing(error)) this.#coordinator = null
          throw error
        }
      }),
    )
  }

  /** Waits for the end of the transaction before. */
  async #unlessConcurrent<Result>(action: () => Promise<Result>): Promise<Result> {
    const deadline = systemClock.monotonic() + CONCURRENT_MS_MAX
    for (;;) {
      try {
        return await action()
      } catch (error) {
        if (!isRefusal(error, 'CONCURRENT_TRANSACTIONS') || systemClock.monotonic() > deadline) throw error
        await this.#cluster.wait(CONCURRENT_RETRY_MS)
      }
    }
  }

  async #run<Result>(action: () => Promise<Result>): Promise<Result> {
    try {
      return await this.#cluster.guard(action)
    } catch (error) {
      if (!isRefusal(error, 'INVALID_PRODUCER_EPOCH')) throw error
      throw new SluiceError('PRODUCER_FENCED', error.message, { ...error.detail }, error)
    }
  }

  #check(errorCode: number, detail: Record<string, unknown> = {}): void {
    const { transactionalId } = this.#options
    check(errorCode, null, `transactional id ${JSON.stringify(transactionalId)}`, {
      transactionalId,
      ...detail,
    })
  }
}

const isRefusal = (error: unknown, code: SluiceError['code']): error is SluiceError =>
  error instanceof SluiceError && error.code === code
