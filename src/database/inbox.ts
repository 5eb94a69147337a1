/**
 * The inbox: messages handled in transactions of the application's database, exactly once in effect. What the handler writes, how far the group
 * has come, and (with `idOf`) which ids have been handled are one transaction.
 *
 *     batch ─▶ BEGIN ─ lock (group, topic, partition) → next offset ─ handler for each message from there on ─ next offset ─ COMMIT ─▶ commit to the group
 *                │                                                           │ it throws
 *                └───────────────── the database is away: again ─────────────┴─▶ ROLLBACK, each message in a transaction of its own;
 *                                                                                 the one that fails: again, then a dead letter
 *
 * The next offset in the database is what counts; the group's commit only saves reading again. So a consumer that was thought dead, or a
 * crash anywhere, handles nothing twice: it finds the offset moved on.
 */

import { EventEmitter } from 'node:events'
import type { Consumer } from '../delivery/consumer.ts'
import type { ConsumerOptions, MessageOf } from '../delivery/consumer-options.ts'
import { deadLetterTopicOf, letterMessage } from '../delivery/dead-letters.ts'
import type { Message, MessageBatch } from '../delivery/message.ts'
import { within } from '../delivery/option.ts'
import type { Sluice } from '../delivery/sluice.ts'
import { errorStory, ownHeaders } from '../delivery/system-headers.ts'
import type { AnyTopic } from '../delivery/topic.ts'
import { emitError } from '../delivery/warn.ts'
import type { TopicPartition } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import {
  asDatabaseFailure,
  type DatabaseLike,
  databaseOf,
  type HeldConnection,
  inTransaction,
  mayPass,
  type SqlDatabase,
} from './database.ts'
import { sweepProcessed } from './processed-ids.ts'
import { numberOf, type SqlSession } from './session.ts'

export interface InboxOptions<T extends AnyTopic | string = AnyTopic | string>
  extends Omit<ConsumerOptions<T>, 'autoCommit' | 'partitions' | 'group' | 'isolation'> {
  /** Where the handler writes. */
  readonly database: DatabaseLike
  readonly group: string
  /** Messages that are handled in one transaction. Default 100. */
  readonly transactionMessages?: number
  /**
   * The id of a message, for those that are published more than once: the second one is not handled. Undefined: it has none. Default: by
   * offset alone.
   */
  readonly idOf?: (message: MessageOf<T>) => string | undefined
  /** How long ids are remembered. Default 7 days. */
  readonly idsKeepMs?: number
  /** How often a message is tried before it becomes a dead letter. Default 5. */
  readonly attempts?: number
  /** Between two attempts; it doubles each time, up to 30 seconds. Default 1,000. */
  readonly retryMs?: number
  /** @internal For tests. */
  readonly clock?: Clock
}

/** `transaction.native` is the driver's connection (a pg PoolClient, a mysql2 PoolConnection, …): what is written with it belongs to the transaction. */
export type InboxHandler<T extends AnyTopic | string> = (
  message: MessageOf<T>,
  transaction: HeldConnection,
) => Promise<unknown> | unknown

export interface InboxEvents {
  /** Messages were handled, and it is durable. */
  handled: [count: number]
  /** A message with an id that was handled before. */
  duplicate: [message: Message<unknown, unknown>]
  /** A handler threw; the message is tried again, unless it is the last attempt. */
  failed: [message: Message<unknown, unknown>, error: unknown, attempt: number]
  deadLettered: [message: Message<unknown, unknown>, error: unknown]
  /** Something that passes, such as a database that is away. Without a listener it is a process warning. */
  error: [error: SluiceError]
}

const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 30_000
const KEEP_MS = 7 * 86_400_000
const IDS_SWEEP_MS = 60_000

type AnyMessage = Message<unknown, unknown>

/** The handler's own failure, apart from the database's. */
class HandlerFailed extends Error {
  readonly failure: unknown

  constructor(failure: unknown) {
    super('the handler failed')
    this.failure = failure
  }
}

/** An inbox at work; made by `inbox()`. */
export class Inbox<T extends AnyTopic | string = AnyTopic | string> extends EventEmitter<InboxEvents> {
  /** Resolves when it was stopped. Rejects with what it cannot go on from. */
  readonly done: Promise<void>
  readonly #mq: Sluice
  readonly #consumer: Consumer<T>
  readonly #database: SqlDatabase
  readonly #handler: InboxHandler<T>
  readonly #group: string
  readonly #transactionMessages: number
  readonly #idOf: ((message: MessageOf<T>) => string | undefined) | undefined
  readonly #idsKeepMs: number
  readonly #attempts: number
  readonly #retryMs: number
  readonly #clock: Clock
  readonly #stopping = Promise.withResolvers<void>()
  #isStopping = false
  #sweepAt = 0

  /** @internal */
  constructor(mq: Sluice, options: InboxOptions<T>, handler: InboxHandler<T>) {
    super()
    const {
      database,
      transactionMessages = 100,
      idOf,
      idsKeepMs = KEEP_MS,
      attempts = 5,
      retryMs = 1_000,
      clock,
      ...consumer
    } = options
    this.#mq = mq
    this.#database = databaseOf(database)
    this.#handler = handler
    this.#group = options.group
    this.#transactionMessages = within('transactionMessages', transactionMessages, 1)
    this.#idOf = idOf
    this.#idsKeepMs = within('idsKeepMs', idsKeepMs, 1)
    this.#attempts = within('attempts', attempts, 1)
    this.#retryMs = within('retryMs', retryMs, 1)
    this.#clock = clock ?? systemClock
    this.#consumer = mq.consumer<T>({ ...(consumer as ConsumerOptions<T>), autoCommit: false })
    this.#consumer.on('assigned', partitions => void this.#goOn(partitions))
    this.#consumer.on('error', error => this.#warn(error))
    this.done = this.#consumer
      .runBatch(batch => this.#handle(batch as unknown as MessageBatch<unknown, unknown>))
      .finally(() => this.#consumer.stop())
    this.done.catch(() => {}) // whoever waits for it is told
  }

  /** Finishes the transaction under way, and resolves. Does not reject: `done` does. */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    this.#isStopping = true
    this.#stopping.resolve()
    await this.#consumer.stop(options)
    await this.done.catch(() => {})
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** The database may be further than the group's commit: no need to read what was handled. */
  async #goOn(partitions: readonly TopicPartition[]): Promise<void> {
    for (const { topic, partition } of partitions) {
      try {
        const { rows } = await this.#database.query(
          'SELECT next_offset FROM sluice_inbox WHERE group_name = ? AND topic = ? AND partition_number = ?',
          [this.#group, topic, partition],
        )
        if (rows.length === 0) continue
        const next = numberOf(rows[0].next_offset)
        const isHeld = this.#consumer
          .assignment()
          .some(of => of.topic === topic && of.partition === partition)
        if (isHeld && next > this.#consumer.position({ topic, partition }))
          await this.#consumer.seek({ topic, partition, offset: next })
      } catch (error) {
        this.#warn(error) // it reads on from the commit, and passes over what was handled
      }
    }
  }

  async #handle(batch: MessageBatch<unknown, unknown>): Promise<void> {
    const messages = batch.messages()
    for (let at = 0; at < messages.length; at += this.#transactionMessages) {
      const some = messages.slice(at, at + this.#transactionMessages)
      const isLast = at + some.length >= messages.length
      const isDone = await this.#handleSome(
        batch,
        some,
        isLast ? batch.lastOffset + 1 : some[some.length - 1].offset + 1,
      )
      if (!isDone) return await this.#giveUp(batch, some[0].offset)
    }
    try {
      await this.#consumer.commit(batch as never)
    } catch (error) {
      this.#warn(error) // the database knows
    }
  }

  /** False: it is to stop, and they were not handled. */
  async #handleSome(of: TopicPartition, messages: readonly AnyMessage[], next: number): Promise<boolean> {
    for (let failures = 0; ; failures++) {
      try {
        await this.#transact(of, messages, next)
        return true
      } catch (error) {
        if (error instanceof HandlerFailed) return await this.#handleEach(messages, next, error)
        if (!mayPass(error)) throw error
        this.#warn(error)
      }
      if (!(await this.#pause(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures)))) return false
    }
  }

  /** One of them fails: each has a transaction of its own, so that it takes no other with it. */
  async #handleEach(messages: readonly AnyMessage[], next: number, first: HandlerFailed): Promise<boolean> {
    for (const [index, message] of messages.entries()) {
      const after = messages[index + 1]?.offset ?? next
      const failed = messages.length === 1 ? first : null
      if (!(await this.#handleOne(message, after, failed))) return false
    }
    return true
  }

  async #handleOne(message: AnyMessage, next: number, failed: HandlerFailed | null): Promise<boolean> {
    const firstAt = this.#clock.now()
    let failure = failed
    for (let attempt = failed === null ? 0 : 1, troubles = 0; ; ) {
      if (failure !== null) {
        this.emit('failed', message, failure.failure, attempt)
        if (attempt >= this.#attempts) return await this.#bury(message, next, failure.failure, firstAt)
        if (!(await this.#pause(Math.min(RETRY_MS_MAX, this.#retryMs * 2 ** (attempt - 1))))) return false
      }
      try {
        await this.#transact(message, [message], next)
        return true
      } catch (error) {
        if (error instanceof HandlerFailed) {
          failure = error
          attempt++
          continue
        }
        if (!mayPass(error)) throw error
        this.#warn(error)
        failure = null
      }
      if (!(await this.#pause(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** troubles++)))) return false
    }
  }

  /**
   * A dead letter has the id of its message: written twice, because the process died before the next offset was stored, it is still one.
   */
  async #bury(message: AnyMessage, next: number, failure: unknown, firstAt: number): Promise<boolean> {
    const { topic, partition, offset, timestamp, keyBytes: key, valueBytes: value } = message
    const now = this.#clock.now()
    const story = {
      topic,
      partition,
      offset,
      timestamp,
      group: this.#group,
      attempts: this.#attempts,
      firstFailureAt: firstAt,
      lastFailureAt: now,
      error: errorStory(failure),
    }
    const letter = letterMessage({ key, value, headers: ownHeaders(message), deadAt: now }, story, 'attempts')
    await this.#mq.publish(deadLetterTopicOf(topic, this.#group), letter)
    const isDone = await this.#handleSome(message, [], next)
    if (isDone) this.emit('deadLettered', message, failure)
    return isDone
  }

  /** Handles what was not handled before, and notes how far it is. All of it, or nothing. */
  async #transact(
    { topic, partition }: TopicPartition,
    messages: readonly AnyMessage[],
    next: number,
  ): Promise<void> {
    const place = [this.#group, topic, partition]
    let handled = 0
    await inTransaction(this.#database, async transaction => {
      handled = 0
      const known = await lockOffset(transaction, place)
      if (known >= next) {
        await this.#checkLog({ topic, partition }, known)
        return
      }
      for (const message of messages) {
        if (message.offset < known || !(await this.#isNew(transaction, message))) continue
        await this.#call(message, transaction)
        handled++
      }
      await transaction.query(
        'UPDATE sluice_inbox SET next_offset = ? WHERE group_name = ? AND topic = ? AND partition_number = ?',
        [next, ...place],
      )
    })
    if (handled > 0) this.emit('handled', handled)
    this.#sweep()
  }

  /**
   * What the database has handled, the log has had. If it ends before that, it is another one (the topic was made anew, or a power cut has taken
   * what was not flushed), and going on would pass over its messages without a word.
   */
  async #checkLog({ topic, partition }: TopicPartition, known: number): Promise<void> {
    const end = await this.#mq.engine.offsetFor(topic, partition, 'latest')
    if (known <= end) return
    throw new SluiceError(
      'OFFSET_OUT_OF_RANGE',
      `${topic}/${partition} ends at offset ${end}, but the inbox of group ${this.#group} has handled it up to ${known}: it is not the same log any more; delete the row in sluice_inbox to begin anew`,
      { topic, partition, end, handled: known },
    )
  }

  async #call(message: AnyMessage, transaction: HeldConnection): Promise<void> {
    try {
      await this.#handler(message as MessageOf<T>, transaction)
    } catch (error) {
      // what the database takes back is not the handler's fault, and not an attempt
      throw isSluiceError(error, 'DATABASE_FAILED') || mayPass(error)
        ? asDatabaseFailure(error)
        : new HandlerFailed(error)
    }
  }

  async #isNew(transaction: SqlSession, message: AnyMessage): Promise<boolean> {
    const id = this.#idOf?.(message as MessageOf<T>)
    if (id === undefined) return true
    const row = 'INTO sluice_processed (scope, id, claim, expires_at) VALUES (?, ?, NULL, ?)'
    const statement =
      transaction.dialect === 'mysql'
        ? `INSERT IGNORE ${row}`
        : `INSERT ${row} ON CONFLICT (scope, id) DO NOTHING`
    const { count } = await transaction.query(statement, [
      this.#group,
      id,
      this.#clock.now() + this.#idsKeepMs,
    ])
    if (count === 0) this.emit('duplicate', message)
    return count === 1
  }

  #sweep(): void {
    const now = this.#clock.now()
    if (this.#idOf === undefined || now < this.#sweepAt) return
    this.#sweepAt = now + IDS_SWEEP_MS
    sweepProcessed(this.#database, now).catch(error => this.#warn(error))
  }

  /** Nothing from `offset` on was handled. Whoever has the partition next begins with it; that may be this one. */
  async #giveUp({ topic, partition }: TopicPartition, offset: number): Promise<void> {
    const isHeld = this.#consumer.assignment().some(of => of.topic === topic && of.partition === partition)
    if (isHeld) await this.#consumer.seek({ topic, partition, offset })
  }

  /** False: it is to stop. */
  async #pause(delayMs: number): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = this.#clock.after(delayMs, resolve)
    await Promise.race([promise, this.#stopping.promise])
    timer.cancel()
    return !this.#isStopping
  }

  #warn(cause: unknown): void {
    const error = isSluiceError(cause) ? cause : asDatabaseFailure(cause)
    emitError(this, error)
  }
}

/**
 * Handles messages in transactions of a database. Goes on until it is stopped; see `Inbox.done`. The tables are those of `migrate`. With node:sqlite and
 * PGlite there is one connection: what else the program writes with it while a handler waits is part of the handler's transaction. Throws
 * `INVALID_ARGUMENT`, `CLOSED`.
 */
export function inbox<const T extends AnyTopic | string>(
  mq: Sluice,
  options: InboxOptions<T>,
  handler: InboxHandler<T>,
): Inbox<T> {
  return new Inbox<T>(mq, options, handler)
}

/** The next offset to handle; who has read it holds the partition until the transaction ends. */
async function lockOffset(transaction: SqlSession, place: readonly (string | number)[]): Promise<number> {
  const row = 'INTO sluice_inbox (group_name, topic, partition_number, next_offset) VALUES (?, ?, ?, 0)'
  const lock = transaction.dialect === 'sqlite' ? '' : ' FOR UPDATE'
  const select = `SELECT next_offset FROM sluice_inbox WHERE group_name = ? AND topic = ? AND partition_number = ?${lock}`
  let { rows } = await transaction.query(select, place)
  if (rows.length === 0) {
    const statement =
      transaction.dialect === 'mysql'
        ? `INSERT IGNORE ${row}`
        : `INSERT ${row} ON CONFLICT (group_name, topic, partition_number) DO NOTHING`
    await transaction.query(statement, place)
    rows = (await transaction.query(select, place)).rows
  }
  return numberOf(rows[0].next_offset)
}
