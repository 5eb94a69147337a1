/**
 * What a worker takes in, and how it settles it: a consumer without automatic commit, a ledger per partition, and the settler.
 *
 *     consumer ── batch ──▶ HeldPartition.feed ── as there is room ──▶ owner.admit ──▶ … ──▶ settle ──▶ settler ──▶ commit
 *                                  ▲                                                              │
 *                                  └────────────────────── room ──────────────────────────────────┘
 *
 * Beside its topics it reads their retry topics, and makes these and the topics of dead letters when it begins.
 */

import type { CommitOffset, CommittedOffset, Engine, TopicPartition } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { Consumer } from './consumer.ts'
import type { ConsumerOptions, PartitionLag } from './consumer-options.ts'
import { deadLetterTopicOf } from './dead-letters.ts'
import { isRetriable, isSame } from './fetcher.ts'
import { HeldPartition } from './held-partition.ts'
import type { Message } from './message.ts'
import { createAsDescribed } from './provision.ts'
import { type Publication, Settler, substitutesOf } from './settler.ts'
import { deadLetterTopic, retryTopic } from './system-headers.ts'
import type { AnyTopic } from './topic.ts'
import type { Transaction, TransactionOptions } from './transaction.ts'

/** @internal What a `Sluice` gives to its workers and queues. */
export interface IntakeSetting {
  readonly engine: Engine
  readonly clock?: Clock
  readonly clientId?: string
  readonly autoCreateTopics?: boolean
  transact<R>(body: (transaction: Transaction) => Promise<R>, options: TransactionOptions): Promise<R>
}

export interface IntakeOptions {
  /** In the order of their ranks. */
  readonly topics: readonly AnyTopic[]
  /** Whether the topics' order is a rank, or all are alike. */
  readonly isRanked: boolean
  readonly group: string
  readonly commitMs: number
  /** Messages of a partition in hand, at most. */
  readonly prefetch: number
  readonly hasDeadLetters: boolean
  readonly consumer: Omit<ConsumerOptions<AnyTopic>, 'topics' | 'group' | 'autoCommit' | 'concurrency'>
}

export interface IntakeOwner {
  /** Another message is in hand. */
  admit(part: HeldPartition, message: Message<unknown, unknown>): void
  /** What was admitted can be handed out. */
  admitted(): void
  /** Nothing that waits is to be handed out any more. */
  giveUp(parts: readonly HeldPartition[]): void
  /** What still runs counts for nothing any more. */
  abandon(parts: readonly HeldPartition[], reason: SluiceError): void
  assigned(partitions: readonly TopicPartition[]): void
  revoked(partitions: readonly TopicPartition[]): void
  warn(error: SluiceError): void
}

/** For settling when the time for handlers is over. */
const SETTLE_MS = 5_000
/** Partitions of a retry topic, at most: it is for what fails. */
const RETRY_PARTITIONS_MAX = 4
/** What a message may grow by when its story is added. */
const STORY_BYTES_MAX = 64 * 1024
/** A transaction that a killed process left open holds the group up for so long, where nobody can take over its name. */
const TRANSACTION_MS = 15_000
const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 2_000

export class Intake {
  readonly #setting: IntakeSetting
  readonly #options: IntakeOptions
  readonly #owner: IntakeOwner
  readonly #clock: Clock
  readonly #consumer: Consumer<AnyTopic>
  readonly #settler: Settler
  readonly #ranks = new Map<string, number>()
  readonly #retryTopics = new Set<string>()
  #parts: HeldPartition[] = []
  #isStopping = false
  #failure: { readonly error: unknown } | null = null

  /** Throws `INVALID_ARGUMENT`. */
  constructor(setting: IntakeSetting, options: IntakeOptions, owner: IntakeOwner) {
    this.#setting = setting
    this.#options = options
    this.#owner = owner
    this.#clock = setting.clock ?? systemClock
    options.topics.forEach((topic, index) => {
      const retry = retryTopic(topic.name, options.group)
      const rank = options.isRanked ? index : 0
      this.#ranks.set(topic.name, rank).set(retry, rank)
      this.#retryTopics.add(retry)
    })
    this.#consumer = this.#makeConsumer()
    this.#settler = this.#makeSettler()
  }

  get parts(): readonly HeldPartition[] {
    return this.#parts
  }

  /** `stop` was called: nothing is to be handed out any more. */
  get isStopping(): boolean {
    return this.#isStopping
  }

  /** Takes messages in until `stop`. Rejects with what it cannot go on from. */
  async run(): Promise<void> {
    try {
      await this.#provision()
      await this.#takeOver()
      if (this.#isStopping) return
      await this.#consumer.runBatch(async batch => {
        const part = this.#partOf(batch)
        if (part === undefined || part.isEnding) return
        const fed = part.feed(batch)
        this.#owner.admitted()
        await fed
      })
      if (this.#failure !== null) throw (this.#failure as { error: unknown }).error
    } finally {
      this.#settler.close()
    }
  }

  /** Takes nothing more in, gives handlers `deadlineMs`, settles, leaves the group. */
  async stop(deadlineMs: number): Promise<void> {
    this.#isStopping = true
    await this.#consumer.stop({ deadlineMs })
  }

  /** The message is done. */
  settle(part: HeldPartition, offset: number): void {
    this.#settler.finish(part.holding, offset)
    part.settled()
  }

  /** The message is done once these are published. */
  settleWith(part: HeldPartition, offset: number, publication: Publication, done?: () => void): void {
    part.settling++
    this.#settler.finishWith(part.holding, offset, [publication], () => {
      part.settling--
      part.settled()
      this.#owner.admitted()
      done?.()
    })
  }

  /** What is noted of a message has changed. */
  touch(part: HeldPartition): void {
    this.#settler.touch(part.holding)
  }

  /** Messages of these topics' partitions held here that nobody has, read or not. */
  async waiting(topics: readonly string[]): Promise<number> {
    const parts = this.#parts.filter(({ topic }) => topics.includes(topic))
    const ends = await Promise.all(
      parts.map(({ topic, partition }) => this.#setting.engine.offsetFor(topic, partition, 'latest')),
    )
    return parts.reduce((sum, { running, settling, inHand, holding: { ledger } }, index) => {
      return sum + Math.max(0, ends[index] - ledger.next) + inHand - running - settling
    }, 0)
  }

  /** How far the group is behind in the partitions held here. */
  lag(): Promise<PartitionLag[]> {
    return Promise.all(
      this.#parts.map(async ({ topic, partition, holding: { ledger } }) => {
        const endOffset = await this.#setting.engine.offsetFor(topic, partition, 'latest')
        const lag = Math.max(0, endOffset - ledger.next) + ledger.unfinished
        return { topic, partition, position: ledger.offset, endOffset, lag }
      }),
    )
  }

  #makeConsumer(): Consumer<AnyTopic> {
    const { engine, clock, clientId, autoCreateTopics } = this.#setting
    const { topics, group, consumer } = this.#options
    const retries = topics.map(topic => ({
      ...topic,
      name: retryTopic(topic.name, group),
      partitions: undefined,
    }))
    const made = new Consumer<AnyTopic>(
      {
        ...consumer,
        topics: [...topics, ...retries],
        group,
        autoCommit: false,
        concurrency: Number.MAX_SAFE_INTEGER,
      },
      {
        engine,
        clock,
        clientId,
        autoCreateTopics,
        hooks: {
          taken: (of, position, committed) => this.#take(of, position, committed),
          passed: (of, next) => this.#pass(of, next),
          giveUp: (partitions, deadlineMs) => this.#giveUp(partitions, deadlineMs),
          lost: partitions =>
            this.#lose(partitions, 'its partition was given to another member of the group'),
        },
      },
    )
    made.on('error', error => this.#owner.warn(error))
    made.on('assigned', partitions => this.#owner.assigned(partitions))
    made.on('revoked', partitions => this.#owner.revoked(partitions))
    made.on('lost', partitions => this.#owner.revoked(partitions))
    made.on('outOfRange', ({ topic, partition, resetTo }) => {
      // what is unfinished is not in the log any more, and offsets may begin anew
      const of = { topic, partition }
      this.#lose([of], 'its message is not in the log any more')
      this.#take(of, resetTo, undefined)
    })
    return made
  }

  #makeSettler(): Settler {
    const { engine } = this.#setting
    const { group, commitMs } = this.#options
    const consumer = this.#consumer as unknown as Consumer
    return new Settler({
      clock: this.#clock,
      pauseMs: commitMs,
      commit: (offsets: readonly CommitOffset[]) => consumer.commit(offsets),
      transact: body => this.#transact(body),
      stage: (transaction, offsets) => transaction.commit(consumer, offsets),
      committed: partitions => engine.committed(group, partitions),
      refused: (publications, error) => this.#refused(publications, error),
      warn: error => this.#owner.warn(error),
      fail: error => this.#fail(error),
      settled: () => {},
    })
  }

  /**
   * Over the broker in this process the group's transactions have one name: who begins takes over, so that what a killed process left open is
   * aborted at once. On a cluster there may be many of the group, and the group's generation fences them.
   */
  #transact(body: (transaction: Transaction) => Promise<void>): Promise<void> {
    const transactionalId = this.#isAlone ? `_sluice.worker.${this.#options.group}` : undefined
    return this.#setting.transact(body, { transactionalId, timeoutMs: TRANSACTION_MS })
  }

  /** The first transaction of a name aborts what is open under it. */
  async #takeOver(): Promise<void> {
    const { transactions } = this.#setting.engine.supports
    if (!this.#isAlone || !transactions || this.#isStopping) return
    await this.#retried(() => this.#transact(async () => {}))
  }

  get #isAlone(): boolean {
    return !this.#setting.engine.supports.losesAnswers
  }

  /** Ends it with an error; the first one counts. */
  #fail(error: unknown): void {
    this.#failure ??= { error }
    void this.#consumer.stop({ deadlineMs: 0 })
  }

  // Partitions.

  #partOf(of: TopicPartition): HeldPartition | undefined {
    return this.#parts.find(part => isSame(part, of))
  }

  #take(of: TopicPartition, position: number, committed: CommittedOffset | undefined): void {
    const part = new HeldPartition(this.#settler.take(of, position, committed), {
      rank: this.#ranks.get(of.topic) ?? 0,
      isRetry: this.#retryTopics.has(of.topic),
      inHandMax: this.#options.prefetch,
      admit: (to, message) => this.#owner.admit(to, message),
    })
    this.#parts.push(part)
    // where it begins is worth a commit: 'latest' must not move on while nobody is reading
    if (committed === undefined) this.#settler.touch(part.holding)
  }

  #pass(of: TopicPartition, next: number): void {
    const part = this.#partOf(of)
    if (part === undefined || part.isEnding) return
    part.pass(next)
    this.#settler.touch(part.holding)
  }

  async #giveUp(partitions: readonly TopicPartition[], deadlineMs: number): Promise<void> {
    const parts = this.#parts.filter(part => partitions.some(of => isSame(of, part)))
    for (const part of parts) part.giveUp()
    this.#owner.giveUp(parts)
    const handlersMs = deadlineMs > 2 * SETTLE_MS ? deadlineMs - SETTLE_MS : deadlineMs
    const areDone = await this.#within(handlersMs, Promise.all(parts.map(part => part.whenIdle())))
    if (!areDone) {
      const message = `not done within ${handlersMs} ms of being stopped; the message will be handed out again`
      this.#owner.abandon(parts, new SluiceError('TIMED_OUT', message))
    }
    await this.#within(SETTLE_MS, this.#settler.flush())
    this.#drop(parts)
  }

  #lose(partitions: readonly TopicPartition[], why: string): void {
    const parts = this.#parts.filter(part => partitions.some(of => isSame(of, part)))
    for (const part of parts) part.giveUp()
    this.#owner.giveUp(parts)
    this.#owner.abandon(parts, new SluiceError('ILLEGAL_GENERATION', `the outcome does not count: ${why}`))
    this.#drop(parts)
  }

  #drop(parts: readonly HeldPartition[]): void {
    this.#settler.drop(parts)
    this.#parts = this.#parts.filter(part => !parts.includes(part))
  }

  /** Whether it was done in time. */
  async #within(deadlineMs: number, work: Promise<unknown>): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const timer = this.#clock.after(deadlineMs, () => resolve(false))
    const isDone = await Promise.race([promise, work.then(() => true)])
    timer.cancel()
    return isDone
  }

  // Topics.

  /** Makes the topics that the group's workers need, where they are missing. */
  async #provision(): Promise<void> {
    for (const topic of this.#options.topics) {
      if (this.#isStopping) return
      await this.#retried(() => this.#provisionFor(topic))
    }
  }

  async #provisionFor(topic: AnyTopic): Promise<void> {
    const { engine, autoCreateTopics = false } = this.#setting
    if (autoCreateTopics) await createAsDescribed(engine, topic)
    await engine.partitionsOf(topic.name) // makes it, where the engine was opened so
    await this.#provisionBeside(topic)
  }

  async #provisionBeside(topic: AnyTopic): Promise<void> {
    const { engine } = this.#setting
    const { group, hasDeadLetters } = this.#options
    const { partitions, config } = await engine.describeTopic(topic.name)
    const bytesMax = Number(config.find(({ name }) => name === 'max.message.bytes')?.value)
    // whatever the topic took, with its story
    const limit: Record<string, string> =
      bytesMax > 0 ? { 'max.message.bytes': String(bytesMax + STORY_BYTES_MAX) } : {}
    const count = Math.min(partitions.length, RETRY_PARTITIONS_MAX)
    const retry = { ...topic, name: retryTopic(topic.name, group), partitions: count, config: limit }
    await createAsDescribed(engine, retry)
    if (!hasDeadLetters) return
    const dead = deadLetterTopicOf(topic.name, group)
    await createAsDescribed(engine, { ...dead, config: { ...dead.config, ...limit } })
  }

  #refused(publications: readonly Publication[], error: SluiceError): readonly Publication[] | null {
    const [{ topic }] = publications
    const gone = isSluiceError(error, 'UNKNOWN_TOPIC') ? this.#originOf(topic.name) : undefined
    if (gone === undefined) return substitutesOf(publications)
    // deleted meanwhile: it is made again, and the settler comes again
    this.#provisionBeside(gone).catch(failure => {
      if (!isRetriable(failure)) this.#fail(failure)
    })
    return publications
  }

  /** The topic whose retries or dead letters go there. */
  #originOf(name: string): AnyTopic | undefined {
    const { topics, group } = this.#options
    return topics.find(topic =>
      [retryTopic(topic.name, group), deadLetterTopic(topic.name, group)].includes(name),
    )
  }

  async #retried<R>(call: () => Promise<R>): Promise<R> {
    for (let failures = 0; ; failures++) {
      try {
        return await call()
      } catch (error) {
        if (!isRetriable(error) || this.#isStopping) throw error
        this.#owner.warn(error)
        const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures)
        await new Promise<void>(resolve => this.#clock.after(delayMs, resolve))
      }
    }
  }
}
