/**
 * What becomes of the messages that are in hand: who may have the next one, and what follows from how it went.
 *
 *     admit ─▶ lane ─▶ ready ─▶ take ─▶ running ─┬─ succeed ──────────────▶ settled
 *               ▲        ▲                       └─ fail ─┬─ dead letter ─▶ settled, with a publication
 *               │        │                                ├─ later ───────▶ settled, with a publication through delay
 *               │        └── it is due ──── held ◀────────┘ in its lane: noted in the ledger
 *               └─ the next of the lane
 *
 * Invariants:
 * - Each job that was taken comes to exactly one end: succeed, fail, requeue, or it was abandoned, and then nothing that is said of it counts.
 * - While the circuit is not closed, no message runs out of attempts.
 */

import type { TopicPartition } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock, type Timer } from '../lib/clock.ts'
import type { CircuitBreaker } from './circuit-breaker.ts'
import { deadLetterTopicOf, letterMessage } from './dead-letters.ts'
import type { HeldPartition } from './held-partition.ts'
import { Intake, type IntakeOptions, type IntakeSetting } from './intake.ts'
import { Job } from './job.ts'
import type { Message } from './message.ts'
import { msOf } from './option.ts'
import { rawTopic } from './raw-topic.ts'
import { ReadyQueue } from './ready-queue.ts'
import { decisionByDefault, type RetryDecision, type RetryPolicy } from './retry.ts'
import type { Publication } from './settler.ts'
import {
  type DeadLetterReason,
  errorStory,
  type FailureStory,
  ownHeaders,
  retryTopic,
  storyHeaders,
  storyOf,
  systemHeader,
} from './system-headers.ts'

/** Which messages wait for each other: those of a partition, those of a key, none. */
export type Order = 'partition' | 'key' | 'none'

/** What became of a message that failed. */
export type FailureOutcome =
  | { readonly kind: 'retry'; readonly dueAt: number }
  | { readonly kind: 'dead-letter'; readonly reason: DeadLetterReason }
  | { readonly kind: 'drop' }

export interface DispatchOptions extends IntakeOptions {
  readonly order: Order
  readonly retry: RetryPolicy
  readonly breaker: CircuitBreaker | null
  readonly isBreakerFailure: (error: unknown) => boolean
  readonly pauseOnFailure: boolean
  /** From when on a message is not handed out any more; Infinity: always. */
  readonly expiresAt: ((job: Job) => number) | null
}

export interface DispatchEvents {
  /** Something can be taken. */
  ready(): void
  /** What runs of these partitions counts for nothing any more: each job is to be abandoned. */
  abandon(parts: readonly HeldPartition[], reason: SluiceError): void
  failed(job: Job, error: unknown, outcome: FailureOutcome): void
  deadLettered(job: Job, reason: DeadLetterReason): void
  circuitOpened(): void
  circuitClosed(): void
  paused(): void
  assigned(partitions: readonly TopicPartition[]): void
  revoked(partitions: readonly TopicPartition[]): void
  warn(error: SluiceError): void
}

/** What of a message that moves on is kept of what sluice wrote. */
const keptHeaders: readonly string[] = [systemHeader.expiresAt, systemHeader.priority]

export class Dispatch {
  readonly clock: Clock
  readonly intake: Intake
  readonly #options: DispatchOptions
  readonly #events: DispatchEvents
  readonly #ready = new ReadyQueue()
  /** Waiting for their next attempt. */
  readonly #held = new Map<Job, Timer>()
  #circuitTimer: Timer | null = null
  #isPaused = false
  #runningCount = 0
  #completed = 0
  #failed = 0
  #deadLettered = 0

  /** Throws `INVALID_ARGUMENT`. */
  constructor(setting: IntakeSetting, options: DispatchOptions, events: DispatchEvents) {
    this.clock = setting.clock ?? systemClock
    this.#options = options
    this.#events = events
    this.intake = new Intake(setting, options, {
      admit: (part, message) => this.#admit(part, message),
      admitted: () => this.#events.ready(),
      giveUp: parts => this.#giveUp(parts),
      abandon: (parts, reason) => events.abandon(parts, reason),
      assigned: partitions => events.assigned(partitions),
      revoked: partitions => events.revoked(partitions),
      warn: error => events.warn(error),
    })
  }

  get stats() {
    let inHand = 0
    for (const part of this.intake.parts) inHand += part.inHand - part.settling
    return {
      running: this.#runningCount,
      waiting: inHand - this.#runningCount,
      retrying: this.#held.size,
      completed: this.#completed,
      failed: this.#failed,
      deadLettered: this.#deadLettered,
    }
  }

  get isPaused(): boolean {
    return this.#isPaused
  }

  /** Ready to be handed out. */
  get readyCount(): number {
    return this.#ready.length
  }

  /** Hands nothing out until `resume`. What runs goes on. */
  pause(): void {
    if (this.#isPaused) return
    this.#isPaused = true
    this.#events.paused()
  }

  resume(): void {
    this.#isPaused = false
    this.#events.ready()
  }

  /** The next job, which the caller has from then on; null if there is none now. */
  take(): Job | null {
    const { breaker, expiresAt } = this.#options
    // of what is stopped the partitions are given up a little later
    if (this.#isPaused || this.intake.isStopping) return null
    if (breaker !== null && !breaker.admits(this.clock.monotonic())) return null
    let job = this.#ready.shift()
    while (job !== null && expiresAt !== null && this.#expire(job, expiresAt(job))) {
      job = this.#ready.shift()
    }
    if (job === null) return null
    job.state = 'running'
    job.isProbe = breaker?.begun() ?? false
    job.part.running++
    this.#runningCount++
    return job
  }

  succeed(job: Job): void {
    this.#end(job)
    this.#completed++
    const { breaker } = this.#options
    if (breaker?.succeeded(job.isProbe, this.clock.monotonic())) this.#circuitClosed()
    this.#finish(job)
  }

  fail(job: Job, error: unknown): void {
    this.#end(job)
    this.#failed++
    this.#tellBreaker(job, error)
    const outcome = this.#outcomeOf(job, error)
    this.#events.failed(job, error, outcome)
    if (outcome.kind === 'drop') this.#finish(job)
    else if (outcome.kind === 'dead-letter') this.#bury(job, error, outcome.reason)
    else this.#retry(job, error, outcome.dueAt)
    if (this.#options.pauseOnFailure) this.pause()
  }

  /** It failed with `error`, and is tried again after `delayMs` whatever the schedule says, as long as there are attempts left. */
  requeue(job: Job, error: unknown, delayMs: number): void {
    this.#end(job)
    this.#failed++
    this.#options.breaker?.dropped(job.isProbe)
    const isLast = job.attempt >= this.#options.retry.attemptsMax
    const dueAt = this.clock.now() + delayMs
    const outcome: FailureOutcome = isLast
      ? { kind: 'dead-letter', reason: 'attempts' }
      : { kind: 'retry', dueAt }
    this.#events.failed(job, error, outcome)
    if (isLast) this.#bury(job, error, 'attempts')
    else this.#retry(job, error, dueAt, false)
  }

  /** What the handler still does counts for nothing; the message is somebody else's, or is handed out again after a restart. */
  abandon(job: Job, reason: unknown): void {
    this.#end(job)
    this.#options.breaker?.dropped(job.isProbe)
    job.abort(reason)
  }

  /** Makes dead letters of the oldest messages that nobody has, so many at most. Returns of how many. */
  overflow(count: number): number {
    let dropped = 0
    for (; dropped < count; dropped++) {
      const job = this.#ready.shiftLast()
      if (job === null) break
      this.#bury(job, namedError('Overflow', 'the queue was longer than it may be'), 'overflow')
    }
    return dropped
  }

  close(): void {
    this.#circuitTimer?.cancel()
  }

  // In.

  #admit(part: HeldPartition, message: Message<unknown, unknown>): void {
    const note = part.holding.ledger.noteOf(message.offset)
    const story = part.isRetry ? storyOf(message) : null
    let history = null
    if (note !== null)
      history = { failures: note.attempts, firstFailureAt: note.firstAt, lastError: story?.error ?? null }
    else if (story !== null && story.attempts > 0) {
      history = { failures: story.attempts, firstFailureAt: story.firstFailureAt, lastError: story.error }
    }
    const job = new Job(message, part, this.#laneOf(message), story, history)
    if (part.enter(job)) this.#becomeReady(job)
  }

  #laneOf(message: Message<unknown, unknown>): string | null {
    const { order } = this.#options
    if (order === 'none') return null
    if (order === 'partition') return ''
    const key = message.keyBytes
    return key === null ? null : key.toString('latin1')
  }

  /** It is the first of its lane; of an earlier process there may be a note that says when it is due. */
  #becomeReady(job: Job): void {
    const note = job.attempt === 1 ? null : job.part.holding.ledger.noteOf(job.message.offset)
    const delayMs = note === null ? 0 : note.dueAt - this.clock.now()
    if (delayMs > 0) this.#hold(job, delayMs)
    else this.#ready.push(job)
  }

  #hold(job: Job, delayMs: number): void {
    const timer = this.clock.after(delayMs, () => {
      this.#held.delete(job)
      this.#ready.pushAgain(job)
      this.#events.ready()
    })
    this.#held.set(job, timer)
  }

  #giveUp(parts: readonly HeldPartition[]): void {
    for (const part of parts) this.#ready.forget(part)
    for (const [job, timer] of this.#held) {
      if (!parts.includes(job.part)) continue
      timer.cancel()
      this.#held.delete(job)
    }
  }

  // Out.

  #end(job: Job): void {
    job.state = 'over'
    this.#runningCount--
    job.part.ended()
  }

  /** Done: the next of its lane has its turn. */
  #finish(job: Job): void {
    const { part } = job
    this.#leave(job)
    this.intake.settle(part, job.message.offset)
  }

  #leave(job: Job): void {
    const next = job.part.leave(job)
    if (next !== null && !job.part.isEnding) this.#becomeReady(next)
  }

  #tellBreaker(job: Job, error: unknown): void {
    const { breaker, isBreakerFailure } = this.#options
    if (breaker === null) return
    const now = this.clock.monotonic()
    if (isSluiceError(error, 'REJECTED') || !isBreakerFailure(error)) {
      // the dependency has answered
      if (breaker.succeeded(job.isProbe, now)) this.#circuitClosed()
      return
    }
    if (!breaker.failed(job.isProbe, now)) return
    this.#circuitTimer?.cancel()
    this.#circuitTimer = this.clock.after(breaker.coolDownMs, () => this.#events.ready())
    if (!job.isProbe) this.#events.circuitOpened()
  }

  #circuitClosed(): void {
    this.#events.circuitClosed()
    this.#events.ready()
  }

  #outcomeOf(job: Job, error: unknown): FailureOutcome {
    const { retry, breaker, pauseOnFailure } = this.#options
    const decision = this.#decide(job, error)
    if (decision === 'drop') return { kind: 'drop' }
    if (decision === 'dead-letter') return { kind: 'dead-letter', reason: 'rejected' }
    const now = this.clock.now()
    if (typeof decision === 'object') {
      return { kind: 'retry', dueAt: now + msOf('retryInMs', decision.retryInMs) }
    }
    const isClosed = breaker === null || breaker.state === 'closed'
    if (job.attempt >= retry.attemptsMax && isClosed) return { kind: 'dead-letter', reason: 'attempts' }
    return { kind: 'retry', dueAt: pauseOnFailure ? now : now + retry.delayMs(job.attempt) }
  }

  #decide(job: Job, error: unknown): RetryDecision {
    try {
      const decision = this.#options.retry.decide(error, job)
      if (typeof decision === 'object') msOf('retryInMs', decision.retryInMs)
      return decision
    } catch (failure) {
      const { message } = errorStory(failure)
      this.#events.warn(new SluiceError('INVALID_ARGUMENT', `retry.decide failed: ${message}`, {}, failure))
      return decisionByDefault(error, job)
    }
  }

  /** In its lane where order is kept, and in its place if it is due at once; otherwise later, through delay. */
  #retry(job: Job, error: unknown, dueAt: number, isFirst = true): void {
    const { part, message } = job
    const delayMs = dueAt - this.clock.now()
    const isInLane = job.laneKey !== null && this.#options.retry.keepOrder
    if (!isInLane && delayMs > 0) {
      this.#leave(job)
      const publication = this.#retryPublication(job, error, dueAt)
      this.intake.settleWith(part, message.offset, publication)
      return
    }
    const firstFailureAt = this.#firstFailureAt(job)
    const lastError = errorStory(error)
    const history = { failures: job.attempt, firstFailureAt, lastError }
    const again = new Job(message, part, job.laneKey, job.story, history)
    part.replace(job, again)
    // What finds no room for its note is held all the same; a crash would forget its attempts.
    const note = { attempts: job.attempt, firstAt: firstFailureAt, dueAt: Math.max(dueAt, firstFailureAt) }
    if (part.holding.ledger.note(message.offset, note)) this.intake.touch(part)
    if (part.isEnding) return
    if (delayMs > 0) this.#hold(again, delayMs)
    else {
      if (isFirst) this.#ready.pushAgain(again)
      else this.#ready.push(again)
      this.#events.ready()
    }
  }

  /** If it is refused for good, the message is a dead letter: it must not vanish. */
  #retryPublication(job: Job, error: unknown, deliverAt: number): Publication {
    const { message } = job
    const topic = rawTopic(retryTopic(job.topic, this.#options.group))
    const story = this.#story(job, error, job.attempt)
    const publication = (told: FailureStory, instead: () => Publication): Publication => {
      const headers = [...ownHeaders(message, keptHeaders), ...storyHeaders(told)]
      const outgoing = { key: message.keyBytes, value: message.valueBytes, headers, deliverAt }
      return { topic, message: outgoing as unknown as Publication['message'], instead }
    }
    const asLetter = () => this.#letterPublication(job, story, 'attempts')
    return publication(story, () => publication(withoutStack(story), asLetter))
  }

  /** Done, as a dead letter; where there are none, done. */
  #bury(job: Job, error: unknown, reason: DeadLetterReason): void {
    const { part, message } = job
    this.#leave(job)
    this.#deadLettered++
    if (!this.#options.hasDeadLetters) {
      this.intake.settle(part, message.offset)
      return
    }
    const hasRun = reason === 'attempts' || reason === 'rejected'
    const story = this.#story(job, error, hasRun ? job.attempt : job.attempt - 1)
    const publication = this.#letterPublication(job, story, reason)
    this.intake.settleWith(part, message.offset, publication, () => this.#events.deadLettered(job, reason))
  }

  /** What is too large with the whole story may do without the stack. */
  #letterPublication(job: Job, story: FailureStory, reason: DeadLetterReason): Publication {
    const { message } = job
    const headers = ownHeaders(message) as [string, Buffer | null][]
    const died = { key: message.keyBytes, value: message.valueBytes, headers, deadAt: this.clock.now() }
    const topic = deadLetterTopicOf(job.topic, this.#options.group)
    const publication = (told: FailureStory, instead?: () => Publication): Publication => ({
      topic,
      message: letterMessage(died, told, reason) as unknown as Publication['message'],
      instead,
    })
    return publication(story, () => publication(withoutStack(story)))
  }

  #story(job: Job, error: unknown, attempts: number): FailureStory {
    const { topic, partition, offset, timestamp } = job
    return {
      topic,
      partition,
      offset,
      timestamp,
      group: this.#options.group,
      attempts,
      firstFailureAt: this.#firstFailureAt(job),
      lastFailureAt: this.clock.now(),
      error: errorStory(error),
    }
  }

  #firstFailureAt(job: Job): number {
    return job.firstFailureAt ?? this.clock.now()
  }

  #expire(job: Job, at: number): boolean {
    if (this.clock.now() < at) return false
    const error = namedError('Expired', `the message was not handled before ${new Date(at).toISOString()}`)
    this.#bury(job, error, 'expired')
    return true
  }
}

/** An error that nothing threw: it has no stack. */
function namedError(name: string, message: string): Error {
  const error = new Error(message)
  error.name = name
  error.stack = ''
  return error
}

const withoutStack = (story: FailureStory): FailureStory => ({
  ...story,
  error: { ...story.error, stack: '' },
})
