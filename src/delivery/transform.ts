/**
 * Consume, transform, produce: what is read, what comes of it and how far it was read are one transaction per batch, so that each
 * message has its effect on the topics exactly once, whatever crashes.
 *
 *     batch ──→ handler for each message, publishing ──→ offsets ──→ commit
 *       ↑                                                              │ the engine cannot at the moment: abort, wait, once more
 *       │                           (unless the group's offset says that it was committed, and only the answer was lost)
 *       └──────────────────────────────────────────────────────────────┤ the partition may be somebody else's by now: abort, leave it
 *                                                                      └ the handler threw: abort, stop
 */

import { isSluiceError, type SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Consumer } from './consumer.ts'
import type { ConsumerOptions, MessageOf } from './consumer-options.ts'
import type { MessageBatch } from './message.ts'
import type { AnyTopic } from './topic.ts'
import type { Transaction, TransactionOptions } from './transaction.ts'

export interface TransformOptions<T extends AnyTopic | string = AnyTopic | string>
  extends Omit<ConsumerOptions<T>, 'autoCommit' | 'partitions' | 'isolation'> {
  readonly group: string
  readonly transaction?: Pick<TransactionOptions, 'timeoutMs'>
}

export type TransformHandler<T extends AnyTopic | string> = (
  message: MessageOf<T>,
  transaction: Transaction,
) => unknown

type Transact = <R>(body: (transaction: Transaction) => Promise<R>) => Promise<R>

const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 5_000

/** What a member is told that has lost its partitions, or is about to. */
const membershipErrors: ReadonlySet<SluiceError['code']> = new Set([
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER',
  'FENCED_MEMBER',
  'REBALANCE_IN_PROGRESS',
])

/** What ends a transaction and says nothing about the next one, beside what passes by itself. */
const abortErrors: ReadonlySet<SluiceError['code']> = new Set([
  'PRODUCER_FENCED',
  'TIMED_OUT',
  'TRANSACTION_ABORTABLE',
])

/** A running transformation; made by `mq.transform()`. */
export class Transform<T extends AnyTopic | string = AnyTopic | string> {
  /** Resolves when it was stopped. Rejects with what the handler threw, or with what it cannot go on from. */
  readonly done: Promise<void>
  readonly #consumer: Consumer<T>
  readonly #transact: Transact
  readonly #clock: Clock
  readonly #handler: TransformHandler<T>
  #isStopping = false

  /** @internal */
  constructor(consumer: Consumer<T>, transact: Transact, clock: Clock, handler: TransformHandler<T>) {
    this.#consumer = consumer
    this.#transact = transact
    this.#clock = clock
    this.#handler = handler
    this.done = consumer
      .runBatch(batch => this.#handle(batch as unknown as MessageBatch<unknown, unknown>))
      .finally(() => consumer.stop())
    this.done.catch(() => {}) // whoever waits for it is told
  }

  /** Finishes the batch under way, and resolves. Does not reject: `done` does. */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    this.#isStopping = true
    await this.#consumer.stop(options)
    await this.done.catch(() => {})
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #handle(batch: MessageBatch<unknown, unknown>): Promise<void> {
    for (let failures = 0; ; failures++) {
      // What the handler throws is its own, whatever its name is.
      let isHandled = false
      let isStaged = false
      try {
        await this.#transact(async transaction => {
          for (const message of batch) await this.#handler(message as MessageOf<T>, transaction)
          isHandled = true
          await transaction.commit(this.#consumer as unknown as Consumer, batch)
          isStaged = true
        })
        return
      } catch (error) {
        if (!isHandled || !isSluiceError(error)) throw error
        if (membershipErrors.has(error.code)) return this.#giveUp(batch)
        if (!error.retriable && !abortErrors.has(error.code)) throw error
        this.#consumer.warn(error)
        await this.#backOff(failures)
        if (isStaged && (await this.#isCommitted(batch))) return
        if (this.#isStopping) return this.#giveUp(batch)
      }
    }
  }

  /** Whether the group has gone on behind the batch. Waits until nothing is undecided, or it is to stop. */
  async #isCommitted({ topic, partition, lastOffset }: MessageBatch<unknown, unknown>): Promise<boolean> {
    for (let failures = 0; ; failures++) {
      try {
        const [found] = await this.#consumer.committed([{ topic, partition }])
        return found !== undefined && found.offset > lastOffset
      } catch (error) {
        if (!isSluiceError(error) || !error.retriable) throw error
        if (this.#isStopping) return false
        await this.#backOff(failures)
      }
    }
  }

  /** Nothing of the batch has happened. Whoever has the partition next begins with it; that may be this consumer. */
  async #giveUp({ topic, partition, firstOffset }: MessageBatch<unknown, unknown>): Promise<void> {
    const isMine = this.#consumer.assignment().some(of => of.topic === topic && of.partition === partition)
    if (isMine) await this.#consumer.seek({ topic, partition, offset: firstOffset })
  }

  #backOff(failures: number): Promise<void> {
    const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures)
    return new Promise(resolve => this.#clock.after(delayMs, resolve))
  }
}
