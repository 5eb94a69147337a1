/**
 * What the relays of delayed and of deduplicated messages have in common: a member of their group that finishes messages one by one, each with
 * what comes of it in one transaction, and the letters of what a target refuses for good.
 *
 * In this process there is one relay at a time, so the next one may end what it left behind at once: its transactions have the name of the
 * group. Those of a cluster have names of their own, and what they leave behind ends with the transaction's time.
 */

import type { Engine } from '../engine/engine.ts'
import type { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Header } from '../record/builder.ts'
import { Consumer } from './consumer.ts'
import type { AssignmentHooks, ConsumerOptions } from './consumer-options.ts'
import { deadLetterTopicOf, letterMessage } from './dead-letters.ts'
import type { MessageBatch } from './message.ts'
import type { ProducerSetting } from './producer-options.ts'
import { type Publication, Settler, substitutesOf } from './settler.ts'
import { errorStory } from './system-headers.ts'
import type { AnyTopic } from './topic.ts'
import { Transactions } from './transaction.ts'

/** In this process members do not vanish, and fetches wake at once: nothing need be asked often. */
const local = { sessionTimeoutMs: 1_800_000, waitMs: 3_600_000 }
const remote = { sessionTimeoutMs: 10_000, waitMs: 500 }
const TRANSACTION_MS = 10_000

export interface RelayMemberSetting {
  readonly engine: Engine
  readonly clock: Clock
  readonly clientId: string
  readonly group: string
  readonly topics: readonly AnyTopic[]
  readonly consumer: Pick<ConsumerOptions<AnyTopic>, 'concurrency' | 'partitionBytesMax' | 'bufferBytesMax'>
  readonly hooks: AssignmentHooks
  readonly delays?: ProducerSetting['delays']
  /** Something went wrong that the relay goes on from by itself. */
  warn(error: SluiceError): void
  /** Something was settled. */
  settled(): void
  /** It cannot go on. */
  failed(): void
}

/** What was to be published, as far as a letter tells of it. */
export interface Undelivered {
  readonly id: string
  readonly target: string
  readonly partition: number | undefined
  readonly timestamp: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly Header[]
}

export class RelayMember {
  readonly consumer: Consumer<AnyTopic>
  readonly settler: Settler
  readonly transactions: Transactions
  /** How often it asks what is new, over a network or in this process. */
  readonly waitMs: number
  readonly #setting: RelayMemberSetting
  readonly #transactionalId: string | undefined
  #refusal: SluiceError | null = null
  #failure: { readonly error: unknown } | null = null

  constructor(setting: RelayMemberSetting) {
    const { engine, clock, group, hooks, warn } = setting
    const clientId = `${setting.clientId}-${group.replace(/^.*\./, '')}`
    const pace = engine.supports.losesAnswers ? remote : local
    this.#setting = setting
    this.waitMs = pace.waitMs
    this.#transactionalId = engine.supports.losesAnswers ? undefined : group
    this.transactions = new Transactions(engine, clock, clientId, true, setting.delays)
    this.consumer = new Consumer<AnyTopic>(
      {
        topics: setting.topics,
        group,
        autoCommit: false,
        rebalanceTimeoutMs: TRANSACTION_MS,
        ...setting.consumer,
        ...pace,
      },
      { engine, clock, clientId, hooks, background: true },
    )
    this.consumer.on('error', warn)
    this.settler = new Settler({
      clock,
      pauseMs: 0,
      commit: offsets => this.consumer.commit(offsets),
      transact: body => this.#transact(body),
      stage: (transaction, offsets) => transaction.commit(this.consumer as unknown as Consumer, offsets),
      committed: partitions => engine.committed(group, partitions),
      refused: (publications, error) => this.#refused(publications, error),
      warn,
      fail: error => this.fail(error),
      settled: () => setting.settled(),
    })
  }

  /** Hands batches to `take` until it is stopped. Rejects with what it failed with. */
  async run(take: (batch: MessageBatch<unknown, unknown>) => Promise<void> | undefined): Promise<void> {
    await this.#transact(async () => {}) // ends what was left behind under its name
    await this.consumer.runBatch(batch => take(batch as unknown as MessageBatch<unknown, unknown>))
    if (this.#failure !== null) throw this.#failure.error
  }

  async stop(): Promise<void> {
    await this.consumer.stop()
  }

  /** After `run`, however that ended. */
  async close(): Promise<void> {
    await this.consumer.stop()
    this.settler.close()
    await this.transactions.close()
  }

  get hasFailed(): boolean {
    return this.#failure !== null
  }

  fail(error: unknown): void {
    this.#failure ??= { error }
    this.#setting.failed()
    void this.consumer.stop()
  }

  /** Settles what is finished, as far as there is time. */
  async flush(deadlineMs: number): Promise<void> {
    const deadline = Promise.withResolvers<void>()
    const timer = this.#setting.clock.after(deadlineMs, deadline.resolve)
    await Promise.race([this.settler.flush(), deadline.promise])
    timer.cancel()
  }

  /** What is published instead of what has just been refused. */
  letterOfRefused(undelivered: Undelivered): Publication {
    return this.letter(undelivered, this.#refusal as SluiceError)
  }

  /** What is published instead of what cannot be delivered. */
  letter(undelivered: Undelivered, error: SluiceError): Publication {
    const { clock, group, topics } = this.#setting
    const now = clock.now()
    const { id, key, value, headers, target, partition = -1, timestamp } = undelivered
    // what can be no topic has none for its dead letters either: then it is that of where the message waited
    const origin = error.code === 'INVALID_TOPIC' ? topics[0].name : target
    const story = {
      topic: origin,
      partition,
      offset: -1,
      timestamp,
      group,
      attempts: 1,
      firstFailureAt: now,
      lastFailureAt: now,
      error: { ...errorStory(error), name: error.code },
    }
    const letter = letterMessage({ key, value, headers, deadAt: now }, story, 'rejected')
    const topic = deadLetterTopicOf(origin, group) as AnyTopic
    const message = outgoing({ ...letter, key: Buffer.from(id) })
    // too large with its story, perhaps: the story alone
    const instead = () => ({ topic, message: outgoing({ ...message, value: Buffer.alloc(0) }) })
    return { topic, message, instead }
  }

  #refused(publications: readonly Publication[], error: SluiceError): readonly Publication[] | null {
    this.#refusal = error
    this.#setting.warn(error)
    return substitutesOf(publications)
  }

  #transact(body: Parameters<Transactions['run']>[0]): Promise<void> {
    const options = { transactionalId: this.#transactionalId, timeoutMs: TRANSACTION_MS }
    return this.transactions.run(body, options) as Promise<void>
  }
}

/** Bytes for a topic of bytes: the compiler cannot see that they belong together. */
export const outgoing = (message: object): Publication['message'] => message as Publication['message']
