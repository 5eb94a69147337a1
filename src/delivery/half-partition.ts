/**
 * One partition of half messages in the hands of a relay: reads what was prepared and what was decided, asks about what is not, and hands to the
 * settler what follows.
 *
 *     _sluice.half ──────────▶ take ──┐            ┌──▶ commit: publish to the target        ┐
 *                                     ├─ HalfBook ─┼──▶ rollback: nothing                    ├─ and finish in the ledger,
 *     _sluice.half.decisions ──▶ ─────┘            ├──▶ expired: publish to the dead letters ┘  in one transaction
 *               ▲                                  └──▶ due: ask the checker, or decide that it expires
 *               └─────────────────────────────────────────┘
 *
 * The relay decides nothing by itself: that a message expires is a decision in the log as well, which counts only if it is the first.
 */

import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import { Consumer } from './consumer.ts'
import { deadLetterTopicOf, letterMessage } from './dead-letters.ts'
import { type Decided, dueAtOf, HalfBook, type Undecided } from './half-book.ts'
import type { HalfWebhooks } from './half-checker.ts'
import {
  CHECKS_TOPIC,
  checkRecord,
  DECISIONS_TOPIC,
  decisionRecord,
  findHalf,
  HALF_GROUP,
  HALF_TOPIC,
  type HalfDecision,
  type HalfMessage,
  type HalfOutcome,
  type HalfQuestion,
  placeOfHalf,
  readChecks,
  readDecision,
  readHalfMessage,
} from './half-record.ts'
import type { Message, MessageBatch } from './message.ts'
import type { AnyOutgoing } from './outgoing.ts'
import { createAsDescribed } from './provision.ts'
import { rawTopic } from './raw-topic.ts'
import type { Holding, Publication, Settler } from './settler.ts'
import { errorStory } from './system-headers.ts'

/** A half message that nobody decided. */
export interface HalfRolledBack {
  readonly id: string
  /** Where it would have been published to. */
  readonly topic: string
  readonly key: string | null
  readonly preparedAt: number
  readonly checker: string | null
  /** How often was asked. */
  readonly checks: number
  /** The topic that has it now. */
  readonly deadLetterTopic: string
  readonly severity: 'warning'
}

/** What a partition needs from its relay. */
export interface HalfPartitionContext {
  readonly engine: Engine
  readonly clock: Clock
  readonly settler: Settler
  readonly webhooks: HalfWebhooks
  /** Where the relay before had got to with the decisions; undefined if there was none. */
  placeOf(partition: number): Promise<number | undefined>
  publish(
    topic: string,
    message: ReturnType<typeof decisionRecord> | ReturnType<typeof checkRecord>,
  ): Promise<unknown>
  /** Whether there is memory for so many bytes, which are taken then. Negative ones are given back. */
  takeMemory(bytes: number): boolean
  rolledBack(event: HalfRolledBack): void
  warn(error: SluiceError): void
  /** The relay cannot go on. */
  fail(error: unknown): void
}

/** Between two looks for what is due. */
const LOOK_MS_MIN = 20
const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 5_000

export class HalfPartition {
  readonly partition: number
  /** The place in the log of decisions that was saved last. */
  savedPlace = -1
  readonly #holding: Holding
  readonly #context: HalfPartitionContext
  readonly #ready: Promise<void>
  #book: HalfBook | null = null
  #questions: Map<string, HalfQuestion> = new Map()
  #decisions: Consumer | null = null
  /** Where the decisions end that had been taken before this partition was: before they are read, nobody is asked. */
  #caughtUpAt = 0
  #isCaughtUp = false
  #isHalted = false
  #keptBytes = 0
  #timer: Timer | null = null
  #timerAt = Number.POSITIVE_INFINITY
  readonly #work = new Set<Promise<void>>()
  #roomWaiters: (() => void)[] = []
  /** What was published in place of what: nothing is replaced twice. */
  readonly #origins = new WeakMap<readonly Publication[], { half: HalfMessage; checks: number }>()

  constructor(holding: Holding, context: HalfPartitionContext) {
    this.partition = holding.partition
    this.#holding = holding
    this.#context = context
    this.#ready = this.#begin().catch(error => {
      if (!this.#isHalted) context.fail(error)
    })
  }

  /** Everything before it in the log of decisions is done; -1: nobody knows yet. */
  get place(): number {
    return this.#book?.place ?? -1
  }

  /** Half messages as they were read. Resolves when the ledger has all of them, or the partition is given up. */
  async take(batch: MessageBatch<unknown, unknown>): Promise<void> {
    await this.#ready
    const { ledger } = this.#holding
    for (const message of batch) {
      while (!this.#isHalted && message.offset >= ledger.next && !ledger.hasRoomFor(message.offset)) {
        await new Promise<void>(resolve => this.#roomWaiters.push(resolve))
      }
      if (this.#isHalted) return
      if (ledger.begin(message.offset)) this.#prepared(message)
    }
    ledger.pass(batch.lastOffset + 1)
    this.#book?.passed(batch.lastOffset + 1)
    this.#reread()
  }

  /** Takes nothing new from now on. */
  halt(): void {
    this.#isHalted = true
    this.#timer?.cancel()
    this.#wakeRoomWaiters()
  }

  /** Resolves when all that was decided is in the settler's hands. */
  async end(): Promise<void> {
    this.halt()
    await this.#ready
    await this.#decisions?.stop()
    await Promise.all(this.#work)
    this.#giveBack(this.#keptBytes)
  }

  /** The substitute for what its target refused: a dead letter. Null: it was one already, or is not from here. */
  refused(publications: readonly Publication[], error: SluiceError): readonly Publication[] | null {
    const origin = this.#origins.get(publications)
    if (origin === undefined) return null
    this.#context.warn(error)
    return this.#deadLetter(origin.half, origin.checks, 'rejected', error)
  }

  async #begin(): Promise<void> {
    const { engine, placeOf } = this.#context
    const { partition } = this
    await this.#retried(async () => {
      const start = await engine.offsetFor(DECISIONS_TOPIC, partition, 'earliest')
      const end = await engine.offsetFor(DECISIONS_TOPIC, partition, 'latest')
      const saved = (await placeOf(partition)) ?? start
      const place = saved > end ? start : Math.max(saved, start)
      this.#questions = await readChecks(engine, partition)
      this.#book = new HalfBook(this.#holding.ledger, place)
      this.#caughtUpAt = end
      this.#isCaughtUp = place >= end
      this.#decisions = this.#readerOfDecisions(place)
    })
    if (this.#isHalted) return
    this.#forgetFinished()
    this.#decisions?.runBatch(batch => this.#read(batch)).catch(error => this.#context.fail(error))
  }

  #readerOfDecisions(from: number): Consumer {
    const { engine, clock, warn } = this.#context
    const topics = [rawTopic(DECISIONS_TOPIC)]
    const consumer = new Consumer(
      { topics, partitions: [this.partition], from },
      { engine, clock, background: true },
    )
    consumer.on('error', warn)
    return consumer as unknown as Consumer
  }

  /** Questions that were written when their message was decided already. */
  #forgetFinished(): void {
    const { ledger } = this.#holding
    for (const id of this.#questions.keys()) {
      const offset = placeOfHalf(id)?.offset ?? -1
      if (offset >= ledger.next || ledger.isUnfinished(offset)) continue
      this.#questions.delete(id)
      this.#context
        .publish(CHECKS_TOPIC, checkRecord(id, this.partition, null))
        .catch(error => this.#warn(error))
    }
  }

  // Reading. Nothing here waits, so what is read takes effect in the order of the log.

  #prepared(message: Message<unknown, unknown>): void {
    const half = readHalfMessage(message, 0)
    if (half === null) {
      const { partition, offset } = message
      const what = `${HALF_TOPIC}/${partition} offset ${offset} is not a half message; it is passed over`
      this.#context.warn(new SluiceError('INVALID_RECORD', what, { topic: HALF_TOPIC, partition, offset }))
      this.#context.settler.finish(this.#holding, offset)
      return
    }
    const { id, preparedAt, checker, policy } = half
    const asked = this.#questions.get(id)
    this.#questions.delete(id)
    const checks = asked?.checks ?? 0
    const undecided: Undecided = {
      id,
      offset: message.offset,
      preparedAt,
      checker,
      policy,
      checks,
      dueAt: dueAtOf(half, checks, asked?.askedAt ?? 0),
      isBusy: false,
      half: this.#keeps(half) ? half : null,
    }
    const decided = this.#book?.prepared(undecided) ?? null
    if (decided !== null) this.#follow(decided)
    else this.#look(undecided.dueAt)
  }

  #read(batch: MessageBatch<unknown, unknown>): void {
    for (const message of batch) {
      if (this.#isHalted) return
      const decision = readDecision(message)
      if (decision === null) continue
      const { id, place, outcome } = decision
      const decided = this.#book?.decided(message.offset, id, place.offset, outcome) ?? null
      if (decided !== null) this.#follow(decided)
    }
    this.#isCaughtUp ||= batch.lastOffset + 1 >= this.#caughtUpAt
    this.#look(this.#book?.nextDueAt() ?? Number.POSITIVE_INFINITY)
  }

  #reread(): void {
    const offset = this.#book?.rereadFrom() ?? null
    if (offset !== null)
      void this.#decisions?.seek({ topic: DECISIONS_TOPIC, partition: this.partition, offset })
  }

  // What follows from a decision.

  #follow(decided: Decided): void {
    const work = this.#carryOut(decided).catch(error => this.#warn(error))
    this.#work.add(work)
    void work.then(() => this.#work.delete(work))
  }

  async #carryOut({ message, outcome }: Decided): Promise<void> {
    const { settler, engine } = this.#context
    const { id, offset, checks } = message
    const half =
      outcome === 'rollback' ? null : (message.half ?? (await this.#retried(() => findHalf(engine, id))))
    if (half !== null && outcome === 'expired') {
      await this.#retried(() => createAsDescribed(engine, deadLetterTopicOf(half.topic, HALF_GROUP)))
    }
    this.#giveBack(message.half?.bytes ?? 0)
    const publications =
      half === null ? this.#forgotten(id, checks) : this.#publications(half, checks, outcome)
    settler.finishWith(this.#holding, offset, publications, () => {
      this.#book?.settled(id)
      this.#wakeRoomWaiters()
      if (half !== null && outcome === 'expired') this.#report(half, checks)
    })
  }

  #publications(half: HalfMessage, checks: number, outcome: HalfOutcome): readonly Publication[] {
    if (outcome === 'expired') return this.#deadLetter(half, checks, 'attempts', undecidedError(half, checks))
    const { keyBytes: key, value, headerList: headers, delivery } = half
    const message = { key, value, headers, ...delivery } as unknown as AnyOutgoing
    const publications = [{ topic: rawTopic(half.topic), message }, ...this.#forgotten(half.id, checks)]
    this.#origins.set(publications, { half, checks })
    return publications
  }

  /** Nobody needs to know any more how often was asked. */
  #forgotten(id: string, checks: number): readonly Publication[] {
    if (checks === 0) return []
    const message = checkRecord(id, this.partition, null) as unknown as AnyOutgoing
    return [{ topic: rawTopic(CHECKS_TOPIC), message }]
  }

  #deadLetter(
    half: HalfMessage,
    checks: number,
    reason: 'attempts' | 'rejected',
    error: SluiceError,
  ): Publication[] {
    const { keyBytes: key, value, headerList: headers, topic, preparedAt } = half
    const now = this.#context.clock.now()
    const story = {
      topic,
      partition: this.partition,
      offset: placeOfHalf(half.id)?.offset ?? -1,
      timestamp: half.delivery.timestamp ?? preparedAt,
      group: HALF_GROUP,
      attempts: checks,
      firstFailureAt: preparedAt,
      lastFailureAt: now,
      error: errorStory(error),
    }
    const message = letterMessage(
      { key, value, headers, deadAt: now },
      story,
      reason,
    ) as unknown as AnyOutgoing
    return [{ topic: deadLetterTopicOf(topic, HALF_GROUP), message }, ...this.#forgotten(half.id, checks)]
  }

  #report({ id, topic, key, preparedAt, checker }: HalfMessage, checks: number): void {
    const { name } = deadLetterTopicOf(topic, HALF_GROUP)
    const severity = 'warning'
    this.#context.rolledBack({ id, topic, key, preparedAt, checker, checks, deadLetterTopic: name, severity })
  }

  // Asking.

  /** Something is due at that time. */
  #look(at: number): void {
    if (this.#isHalted || !this.#isCaughtUp || at >= this.#timerAt) return
    this.#timer?.cancel()
    this.#timerAt = at
    const delayMs = Math.max(LOOK_MS_MIN, at - this.#context.clock.now())
    this.#timer = this.#context.clock.after(delayMs, () => {
      this.#timerAt = Number.POSITIVE_INFINITY
      for (const message of this.#book?.due(this.#context.clock.now()) ?? []) void this.#attend(message)
      this.#look(this.#book?.nextDueAt() ?? Number.POSITIVE_INFINITY)
    })
  }

  async #attend(message: Undecided): Promise<void> {
    const { clock, webhooks } = this.#context
    message.isBusy = true
    try {
      if (message.checker === null || message.checks >= message.policy.checksMax) {
        await this.#decide(message.id, 'expired')
        // until it is read back; if it never is, once more
        message.dueAt = clock.now() + message.policy.checkEveryMs + RETRY_MS_MAX
      } else {
        await this.#ask(message, message.checker)
        if (webhooks.isWebhook(message.checker)) await this.#askWebhook(message, message.checker)
      }
    } catch (error) {
      message.dueAt = Math.max(message.dueAt, clock.now() + RETRY_MS_MAX)
      this.#warn(error)
    }
    message.isBusy = false
    this.#look(message.dueAt)
  }

  /** The question is in the log before it counts, and before anybody hears it: however often this is begun anew, it ends. */
  async #ask(message: Undecided, checker: string): Promise<void> {
    const askedAt = this.#context.clock.now()
    const checks = message.checks + 1
    const record = checkRecord(message.id, this.partition, { checker, checks, askedAt })
    await this.#context.publish(CHECKS_TOPIC, record)
    message.checks = checks
    message.dueAt = askedAt + message.policy.checkEveryMs
  }

  async #askWebhook({ id, half: kept, checks }: Undecided, url: string): Promise<void> {
    const { webhooks, engine } = this.#context
    const half = kept ?? (await findHalf(engine, id))
    const decision = await webhooks.ask(url, { ...half.toJSON(), checks })
    if (decision !== 'unknown' && !this.#isHalted) await this.#decide(id, decision)
  }

  #decide(id: string, outcome: HalfDecision | 'expired'): Promise<unknown> {
    return this.#context.publish(DECISIONS_TOPIC, decisionRecord(id, this.partition, outcome))
  }

  #keeps({ bytes }: HalfMessage): boolean {
    if (!this.#context.takeMemory(bytes)) return false
    this.#keptBytes += bytes
    return true
  }

  #giveBack(bytes: number): void {
    this.#keptBytes -= bytes
    this.#context.takeMemory(-bytes)
  }

  #wakeRoomWaiters(): void {
    for (const resolve of this.#roomWaiters.splice(0)) resolve()
  }

  #warn(error: unknown): void {
    if (isSluiceError(error)) this.#context.warn(error)
    else this.#context.fail(error)
  }

  /** Repeats what may pass until it does, or the partition is given up. */
  async #retried<R>(call: () => Promise<R>): Promise<R> {
    for (let failures = 0; ; failures++) {
      try {
        return await call()
      } catch (error) {
        if (!isSluiceError(error) || !error.retriable || this.#isHalted) throw error
        this.#context.warn(error)
        const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures)
        await new Promise<void>(resolve => this.#context.clock.after(delayMs, resolve))
      }
    }
  }
}

const undecidedError = (half: HalfMessage, checks: number): SluiceError =>
  new SluiceError('TIMED_OUT', `nobody decided about half message ${half.id}; was asked ${checks} times`, {
    id: half.id,
  })
