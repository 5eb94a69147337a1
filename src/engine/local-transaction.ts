/**
 * A transactional producer whose coordinator is in this process: its broker.
 *
 * What it is about to write is not stored before the decision, with which it is: so it waits for the disk once less than a remote one. Who is
 * killed before leaves a transaction behind that the stored table does not know, and the next start aborts it: no producer is left that
 * could go on with it.
 */

import type { Broker } from '../broker/broker.ts'
import type { TransactionalProducer } from '../broker/transaction.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
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
    const target = this.#broker.partition(topic, partition)
    this.#isOpen = true
    // In the same turn as the append: it may be ended, or fenced, meanwhile.
    this.#broker.transactions.enlist(this.#producer, topic, partition)
    this.#isBegun = true
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
    const refusals = this.#broker.enlistOffsets(this.#producer, group, identity, commits)
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
  }
}
