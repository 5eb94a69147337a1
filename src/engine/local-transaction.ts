/**
 * A transactional producer whose coordinator is in this process: its broker.
 *
 * A batch is appended while the note that its partition belongs to the transaction is still on its way to the disk. The decision is noted
 * behind it in the same log, so once there is one, the note is durable, too. Who is killed before leaves a transaction behind that the stored table may not know,
 * and the next start aborts it (`Transactions.#endForgotten`): no producer is left that could go on with it.
 */

import type { Broker } from '../broker/broker.ts'
import type { TransactionalProducer } from '../broker/transaction.ts'
import { type ErrorCode, isSluiceError, SluiceError } from '../errors.ts'
import { asBuffer } from '../record/batch.ts'
import type {
  CommitOffset,
  Member,
  Produced,
  ProducerIdentity,
  TransactionOptions,
  TransactionSession,
} from './engine.ts'
import { withMetadata } from './group-member.ts'

export class LocalTransactionSession implements TransactionSession {
  readonly identity: ProducerIdentity
  readonly #broker: Broker
  readonly #producer: TransactionalProducer
  /** Partitions of the transaction under way → when they are part of it as it is stored; refused at once, or never. */
  readonly #partitions = new Map<string, Promise<void>>()
  /** Whether anything may be in the transaction under way, and whether something is known to be. */
  #isOpen = false
  #isBegun = false

  static async open(
    broker: Broker,
    { transactionalId, timeoutMs }: TransactionOptions,
  ): Promise<TransactionSession> {
    const given = await broker.transactions.init({ transactionalId, timeoutMs, producerId: -1, epoch: -1 })
    return new LocalTransactionSession(broker, { transactionalId, ...given })
  }

  private constructor(broker: Broker, producer: TransactionalProducer) {
    this.#broker = broker
    this.#producer = producer
    this.identity = { producerId: producer.producerId, epoch: producer.epoch }
  }

  async produce(topic: string, partition: number, batch: Uint8Array): Promise<Produced> {
    const { producerId, epoch } = this.identity
    const target = this.#broker.partition(topic, partition)
    const enlisted = this.#enlist(topic, partition)
    const { transactions } = this.#broker
    const isPart = (): ErrorCode | null =>
      transactions.checkAppend(producerId, epoch, topic, partition, false)
    if (isPart() !== null) await enlisted // which says why not
    const refusal = isPart()
    if (refusal !== null) {
      const message = `${topic}/${partition}: the transaction was ended meanwhile`
      throw new SluiceError(refusal === 'INVALID_TXN_STATE' ? refusal : 'PRODUCER_FENCED', message, {
        ...{ topic, partition },
      })
    }
    const { appended, done } = target.append(asBuffer(batch), undefined, true)
    if (done !== null) await done
    return { baseOffset: appended.baseOffset, appendTime: appended.appendTime }
  }

  async stageOffsets(group: string, offsets: readonly CommitOffset[], member: Member | null): Promise<void> {
    this.#isOpen = true
    const identity =
      member === null
        ? null
        : { memberId: member.memberId, generation: member.generation, instanceId: member.instanceId }
    const commits = offsets.map(withMetadata)
    const refusals = await this.#broker.stageOffsets(this.#producer, group, identity, commits, true)
    this.#isBegun = true
    const index = refusals.findIndex(refusal => refusal !== null)
    if (index < 0) return
    const { topic, partition } = commits[index]
    throw new SluiceError(
      refusals[index]!,
      `group "${group}": the commit of ${topic}/${partition} is refused`,
      {
        ...{ group, topic, partition },
      },
    )
  }

  async end(commit: boolean): Promise<void> {
    if (!this.#isOpen) return
    await this.#broker.transactions.end(this.#producer, commit, false).catch(error => {
      // All that was tried was refused before anything was begun.
      const isNothing = !commit && !this.#isBegun && isSluiceError(error, 'INVALID_TXN_STATE')
      if (!isNothing) throw error
    })
    this.#isOpen = false
    this.#isBegun = false
    this.#partitions.clear()
  }

  #enlist(topic: string, partition: number): Promise<void> {
    const name = `${topic}/${partition}`
    let enlisted = this.#partitions.get(name)
    if (enlisted === undefined) {
      this.#isOpen = true
      enlisted = this.#broker.transactions.addPartitions(this.#producer, [[topic, partition]])
      this.#partitions.set(name, enlisted)
      enlisted.then(
        () => {
          this.#isBegun = true
        },
        () => this.#partitions.delete(name),
      )
    }
    return enlisted
  }
}
