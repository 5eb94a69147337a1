/**
 * Transactions: messages to any topics, and consumed offsets, all or nothing.
 *
 *     publish, publish, commitOffsets ──→ flush ──→ end(commit)        readers see all of it
 *       └─ anything fails ────────────────────────→ end(abort)         read-committed readers see none of it
 *
 * A session (a transactional producer of the engine) has one transaction at a time; those who begin one while others are under way
 * get a session of their own, which is kept for the next. A session in which anything failed is thrown away: what it sent may lie in
 * the log with a gap before it. The transaction that it had is aborted by the one that takes its name, or when its time is over.
 */

import { randomUUID } from 'node:crypto'
import type { CommitOffset, Engine, TransactionSession } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Consumer } from './consumer.ts'
import type { Message, MessageBatch } from './message.ts'
import { atLeast, invalidOption } from './option.ts'
import type { AnyOutgoing, OutgoingOf } from './outgoing.ts'
import { Producer } from './producer.ts'
import type { ProducerSetting } from './producer-options.ts'
import type { Published, PublishedBatch } from './published.ts'
import type { AnyTopic } from './topic.ts'

export interface TransactionOptions {
  /**
   * Names the producer of the transaction for good: whoever begins one under the same name, in this process or another, takes over, and
   * what the one before has under way is aborted. One transaction at a time. Default: a new name for each that is under way.
   */
  readonly transactionalId?: string
  /** How long the transaction may take; then the broker aborts it. Default 60,000. */
  readonly timeoutMs?: number
}

const TIMEOUT_MS = 60_000
/** Sessions without a name of their own that are kept for later. */
const SPARE_SESSIONS_MAX = 16
/** Between two attempts to begin while the transaction before is still being ended. */
const RETRY_MS = 20

/** What a transaction's function is given. It is of no use once that function has returned. */
export class Transaction {
  readonly #producer: Producer
  readonly #session: TransactionSession
  readonly #published: Promise<unknown>[] = []
  readonly #afterCommit: (() => void)[] = []
  /** Whether the producer takes more without keeping anybody waiting. */
  #hasRoom = true
  #refusal: SluiceError | null = null
  #isOver = false

  /** @internal */
  constructor({ producer, session }: Line) {
    this.#producer = producer
    this.#session = session
  }

  /**
   * Publishes as part of the transaction: a message, or an array of them. Need not be awaited: the transaction commits only if all of it was
   * accepted. Resolves and rejects as `Producer.send`; readers see it once the transaction has committed.
   */
  publish<T extends AnyTopic | string>(topic: T, messages: readonly OutgoingOf<T>[]): Promise<PublishedBatch>
  publish<T extends AnyTopic | string>(topic: T, message: OutgoingOf<T>): Promise<Published>
  publish(topic: AnyTopic | string, message: never): Promise<Published | PublishedBatch> {
    if (this.#isOver) return Promise.reject(transactionOver())
    const published = this.#producer.send(topic, message)
    published.catch(() => {}) // told when the transaction is to commit
    this.#published.push(published)
    return published
  }

  /** @internal As `publish`, for many: without a promise for each. What is refused keeps the transaction from committing all the same. */
  post(topic: AnyTopic, message: AnyOutgoing): void {
    if (this.#hasRoom && !this.#isOver) this.#hasRoom = this.#producer.post(topic, message as never)
    else void this.publish(topic, message as never)
  }

  /** @internal What was posted is refused. */
  refused(error: SluiceError): void {
    this.#refusal ??= error
  }

  /**
   * Commits what a consumer has handled with the transaction: a message, a batch, or offsets (each the next one to handle). The consumer
   * must have a group, and `autoCommit: false`. Rejects as `Consumer.commit`; then let the transaction fail.
   */
  async commit(
    consumer: Consumer<AnyTopic | string>,
    what: Message<unknown, unknown> | MessageBatch<unknown, unknown> | readonly CommitOffset[],
  ): Promise<void> {
    if (this.#isOver) throw transactionOver()
    const staged = await consumer.stage(what, (group, offsets, member) =>
      this.#session.stageOffsets(group, offsets, member),
    )
    this.#afterCommit.push(staged)
  }

  /** Commits offsets of a group without members with the transaction. Rejects as `Sluice.commitOffsets`. */
  async commitOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    if (this.#isOver) throw transactionOver()
    await this.#session.stageOffsets(group, offsets, null)
  }

  /** @internal Rejects with the first thing that was not accepted. */
  async finish(): Promise<void> {
    this.#isOver = true
    await this.#producer.flush()
    await Promise.all(this.#published)
    if (this.#refusal !== null) throw this.#refusal
  }

  /** @internal */
  committed(): void {
    for (const tell of this.#afterCommit) tell()
  }

  /** @internal */
  over(): void {
    this.#isOver = true
  }
}

interface Line {
  readonly producer: Producer
  readonly session: TransactionSession
  /** Under way. */
  transaction: Transaction | null
}

/** The sessions of one `Sluice`. */
export class Transactions {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #autoCreateTopics: boolean
  readonly #delays: ProducerSetting['delays']
  readonly #prefix: string
  readonly #spare = new Map<number, Line[]>()
  readonly #named = new Map<string, { line: Line | null; last: Promise<unknown> }>()
  #sessions = 0
  #running = new Set<Promise<unknown>>()

  constructor(
    engine: Engine,
    clock: Clock,
    clientId: string,
    autoCreateTopics: boolean,
    delays?: ProducerSetting['delays'],
  ) {
    this.#engine = engine
    this.#clock = clock
    this.#autoCreateTopics = autoCreateTopics
    this.#delays = delays
    this.#prefix = `${clientId}-${randomUUID()}`
  }

  /** See `Sluice.transaction`. */
  run<R>(body: (transaction: Transaction) => Promise<R> | R, options: TransactionOptions): Promise<R> {
    const running = this.#start(body, options)
    this.#running.add(running)
    running.then(
      () => this.#running.delete(running),
      () => this.#running.delete(running),
    )
    return running
  }

  /** A topic has changed; those at work hear of it by themselves, later. */
  async refresh(topic: string): Promise<void> {
    await Promise.all(this.#idle().map(({ producer }) => producer.refresh(topic)))
  }

  /** Waits for what is under way, then gives the producers back. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#running)
    const lines = this.#idle()
    this.#spare.clear()
    this.#named.clear()
    await Promise.all(lines.map(({ producer }) => producer.close()))
  }

  #idle(): Line[] {
    const named = [...this.#named.values()].map(({ line }) => line)
    return [...this.#spare.values()].flat().concat(named.filter(line => line !== null))
  }

  async #start<R>(
    body: (transaction: Transaction) => Promise<R> | R,
    { transactionalId, timeoutMs = TIMEOUT_MS }: TransactionOptions,
  ): Promise<R> {
    if (!this.#engine.supports.transactions) {
      throw new SluiceError('UNSUPPORTED', `${this.#engine.url} has no transactions`)
    }
    atLeast('timeoutMs', timeoutMs, 1)
    if (transactionalId === undefined) return this.#runSpare(body, timeoutMs)
    if (transactionalId === '') throw invalidOption('transactionalId is not empty; leave it out for any')
    return this.#runNamed(body, transactionalId, timeoutMs)
  }

  async #runSpare<R>(body: (transaction: Transaction) => Promise<R> | R, timeoutMs: number): Promise<R> {
    const spare = this.#spare.get(timeoutMs) ?? []
    this.#spare.set(timeoutMs, spare)
    const line = spare.pop() ?? (await this.#open(`${this.#prefix}-${this.#sessions++}`, timeoutMs))
    return this.#runOn(line, body, isGood => {
      if (isGood && spare.length < SPARE_SESSIONS_MAX) spare.push(line)
      else void line.producer.close({ deadlineMs: 0 })
    })
  }

  /** One after the other. */
  #runNamed<R>(
    body: (transaction: Transaction) => Promise<R> | R,
    transactionalId: string,
    timeoutMs: number,
  ): Promise<R> {
    const named = this.#named.get(transactionalId) ?? { line: null, last: Promise.resolve() }
    this.#named.set(transactionalId, named)
    const run = named.last.then(async () => {
      named.line ??= await this.#open(transactionalId, timeoutMs)
      const { line } = named
      return this.#runOn(line, body, isGood => {
        if (isGood) return
        named.line = null
        void line.producer.close({ deadlineMs: 0 })
      })
    })
    named.last = run.catch(() => {})
    return run
  }

  async #runOn<R>(
    line: Line,
    body: (transaction: Transaction) => Promise<R> | R,
    giveBack: (isGood: boolean) => void,
  ): Promise<R> {
    const transaction = new Transaction(line)
    line.transaction = transaction
    let isGood = false
    try {
      const result = await body(transaction)
      await transaction.finish()
      await this.#end(line, true)
      isGood = true
      transaction.committed()
      return result
    } catch (error) {
      transaction.over()
      isGood = await this.#abort(line, transaction)
      throw error
    } finally {
      giveBack(isGood)
    }
  }

  /** Whether the session can be used again. */
  async #abort(line: Line, transaction: Transaction): Promise<boolean> {
    try {
      // Everything has been answered by then: nothing of it may come into the next transaction.
      const isWhole = await transaction.finish().then(
        () => true,
        () => false,
      )
      // One that is not whole is not used again: a batch that was given up may still be on its way under the old identity.
      if (isWhole) await this.#end(line, false)
      else await this.#retried(() => line.session.end(false))
      return isWhole
    } catch {
      return false // fenced, or out of reach: the broker aborts it when its time is over
    }
  }

  async #end({ producer, session }: Line, commit: boolean): Promise<void> {
    const { producerId, epoch } = session.identity
    await this.#retried(() => session.end(commit))
    const next = session.identity
    if (next.producerId !== producerId || next.epoch !== epoch) producer.renew()
  }

  async #open(transactionalId: string, timeoutMs: number): Promise<Line> {
    const session = await this.#retried(() => this.#engine.initTransactions({ transactionalId, timeoutMs }))
    const producer = new Producer(
      { deliveryTimeoutMs: timeoutMs, onError: error => line.transaction?.refused(error) },
      {
        engine: this.#engine,
        session,
        clock: this.#clock,
        autoCreateTopics: this.#autoCreateTopics,
        delays: this.#delays,
      },
    )
    const line: Line = { producer, session, transaction: null }
    return line
  }

  /** The one before is being ended: that is a matter of moments. */
  async #retried<R>(call: () => Promise<R>): Promise<R> {
    for (;;) {
      try {
        return await call()
      } catch (error) {
        if (!isSluiceError(error, 'CONCURRENT_TRANSACTIONS')) throw error
        await new Promise<void>(resolve => this.#clock.after(RETRY_MS, resolve))
      }
    }
  }
}

const transactionOver = (): SluiceError =>
  invalidOption('the transaction is over; publish through it before its function returns')
