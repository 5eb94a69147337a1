/**
 * Who is asked about half messages that are undecided: checkers in the producers' processes, and webhooks.
 *
 *     relay ──▶ _sluice.half.checks ──▶ checker (a group for each name) ──▶ handler ──▶ _sluice.half.decisions ──▶ relay
 *     relay ──▶ POST to the webhook ──▶ answer ──────────────────────────────────────▶ _sluice.half.decisions ──▶ relay
 *
 * What is not an answer (an error, no answer in time) is 'unknown': the relay asks again. Bounded: handlers and requests at work, the time that
 * each may take, the size of an answer.
 */

import { EventEmitter } from 'node:events'
import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Consumer } from './consumer.ts'
import {
  findHalf,
  HALF_GROUP,
  type HalfDecision,
  type HalfMessage,
  type HalfQuestion,
  readCheck,
} from './half-record.ts'
import type { MessageBatch } from './message.ts'
import { atLeast, invalidOption } from './option.ts'

/** 'unknown': ask again later. */
export type HalfAnswer = HalfDecision | 'unknown'

export interface HalfCheckerOptions {
  /** How many half messages of a partition are checked side by side. Default 16. */
  readonly concurrency?: number
  /** The handler has so long for each; then it counts as 'unknown'. Default 30,000. */
  readonly timeoutMs?: number
}

export type HalfCheckerHandler = (message: HalfMessage) => HalfAnswer | Promise<HalfAnswer>

export interface HalfCheckerEvents {
  /** A handler threw or was out of time, or something passes by itself. Without a listener it is a process warning. */
  error: [error: Error]
}

/** What a checker needs from its `Sluice`. */
export interface HalfCheckerContext {
  readonly engine: Engine
  readonly clock: Clock
  /** Makes the topics that it reads. */
  provision(): Promise<void>
  consumer(group: string): Consumer
  isUndecided(id: string): Promise<boolean>
  decide(id: string, decision: HalfDecision): Promise<void>
}

const CONCURRENCY = 16
const TIMEOUT_MS = 30_000

export const checkerGroup = (name: string): string => `${HALF_GROUP}.checker.${name}`

/** A running checker; made by `mq.half.checker()`. */
export class HalfChecker extends EventEmitter<HalfCheckerEvents> {
  readonly name: string
  /** Resolves when it was stopped. Rejects with what it cannot go on from. */
  readonly done: Promise<void>
  readonly #context: HalfCheckerContext
  readonly #handler: HalfCheckerHandler
  readonly #concurrency: number
  readonly #timeoutMs: number
  readonly #consumer: Consumer
  #isStopping = false

  /** @internal */
  constructor(
    name: string,
    handler: HalfCheckerHandler,
    options: HalfCheckerOptions,
    context: HalfCheckerContext,
  ) {
    super()
    checkName(name)
    if (typeof handler !== 'function') throw invalidOption('a checker needs a function that decides')
    this.name = name
    this.#handler = handler
    this.#context = context
    this.#concurrency = atLeast('concurrency', options.concurrency ?? CONCURRENCY, 1)
    this.#timeoutMs = atLeast('timeoutMs', options.timeoutMs ?? TIMEOUT_MS, 1)
    this.#consumer = context.consumer(checkerGroup(name))
    this.#consumer.on('error', error => this.#tell(error))
    this.done = this.#run()
    this.done.catch(() => {}) // whoever waits for it is told
  }

  async #run(): Promise<void> {
    await this.#context.provision()
    if (!this.#isStopping)
      await this.#consumer.runBatch(batch => this.#check(batch as MessageBatch<unknown, unknown>))
  }

  /** Lets running handlers finish, and resolves. Does not reject: `done` does. */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    this.#isStopping = true
    await this.#consumer.stop(options)
    await this.done.catch(() => {})
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #check(batch: MessageBatch<unknown, unknown>): Promise<void> {
    // the last question about each counts; one that has a tombstone behind it is answered
    const questions = new Map<string, HalfQuestion>()
    for (const message of batch) {
      const check = readCheck(message)
      if (check === null) continue
      if (check.question?.checker === this.name) questions.set(check.id, check.question)
      else questions.delete(check.id)
    }
    const waiting = questions.entries()
    const lane = async (): Promise<void> => {
      for (const [id, { checks }] of waiting) await this.#checkOne(id, checks)
    }
    await Promise.all(Array.from({ length: Math.min(this.#concurrency, questions.size) }, lane))
  }

  /** Never rejects: whatever goes wrong, the relay asks again. */
  async #checkOne(id: string, checks: number): Promise<void> {
    const { engine, isUndecided, decide } = this.#context
    try {
      if (!(await isUndecided(id))) return
      const half = await findHalf(engine, id, checks)
      const answer = await this.#inTime(half)
      if (answer !== 'unknown') await decide(id, answer)
    } catch (error) {
      const isOld = isSluiceError(error, 'UNKNOWN_HALF_MESSAGE') || isSluiceError(error, 'HALF_DECIDED')
      if (!isOld) this.#tell(error instanceof Error ? error : new Error(String(error)))
    }
  }

  async #inTime(half: HalfMessage): Promise<HalfAnswer> {
    const { promise, reject } = Promise.withResolvers<never>()
    const timer = this.#context.clock.after(this.#timeoutMs, () => {
      const what = `checker ${this.name} did not answer about half message ${half.id} within ${this.#timeoutMs} ms`
      reject(new SluiceError('TIMED_OUT', `${what}; it is asked again`, { id: half.id }))
    })
    try {
      const answer: unknown = await Promise.race([this.#handler(half), promise])
      if (isAnswer(answer)) return answer
      throw invalidOption(
        `a checker answers 'commit', 'rollback' or 'unknown', not ${JSON.stringify(answer)}`,
      )
    } finally {
      timer.cancel()
    }
  }

  #tell(error: Error): void {
    if (this.listenerCount('error') > 0) this.emit('error', error as SluiceError)
    else process.emitWarning(error.message, { type: 'SluiceWarning' })
  }
}

const isAnswer = (given: unknown): given is HalfAnswer =>
  given === 'commit' || given === 'rollback' || given === 'unknown'

const isWebhook = (checker: string): boolean => /^https?:\/\//i.test(checker)

/** Throws `INVALID_ARGUMENT` for what can be neither a checker's name nor a webhook. */
export function checkName(checker: string): void {
  const isGood =
    typeof checker === 'string' && (isWebhook(checker) ? URL.canParse(checker) : NAME.test(checker))
  if (isGood && checker.length <= CHECKER_CHARS_MAX) return
  throw invalidOption(
    `a checker is a name (a-z A-Z 0-9 . _ -, up to 200 characters) or the URL of a webhook, not ${JSON.stringify(checker)}`,
  )
}

const NAME = /^[a-zA-Z0-9._-]{1,200}$/
const CHECKER_CHARS_MAX = 2_000
const ANSWER_BYTES_MAX = 64 * 1024

/** Asks webhooks, so many at a time. */
export class HalfWebhooks {
  readonly #clock: Clock
  readonly #timeoutMs: number
  readonly #warn: (error: SluiceError) => void
  #free: number
  readonly #waiting: (() => void)[] = []

  constructor(clock: Clock, timeoutMs: number, concurrency: number, warn: (error: SluiceError) => void) {
    this.#clock = clock
    this.#timeoutMs = timeoutMs
    this.#free = concurrency
    this.#warn = warn
  }

  isWebhook(checker: string): boolean {
    return isWebhook(checker)
  }

  /** Posts `body` as JSON. Never rejects: what is not an answer is 'unknown', and warned of. */
  async ask(url: string, body: object): Promise<HalfAnswer> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>(resolve => this.#waiting.push(resolve))
    try {
      return await this.#post(url, JSON.stringify(body))
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      const cause = error instanceof Error && error.cause instanceof Error ? `: ${error.cause.message}` : ''
      const what = `webhook ${url} gave no answer about a half message (${reason}${cause}); it is asked again`
      this.#warn(new SluiceError('UNREACHABLE', what, { url }, error))
      return 'unknown'
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#free++
      else next()
    }
  }

  async #post(url: string, body: string): Promise<HalfAnswer> {
    const abort = new AbortController()
    const timer = this.#clock.after(this.#timeoutMs, () => {
      abort.abort(new Error(`no answer within ${this.#timeoutMs} ms`))
    })
    try {
      const response = await fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'application/json' },
        body,
        redirect: 'error',
        signal: abort.signal,
      })
      const text = await boundedText(response)
      if (!response.ok) throw new Error(`status ${response.status}`)
      const { decision } = JSON.parse(text)
      if (isAnswer(decision)) return decision
      throw new Error(`its decision is ${JSON.stringify(decision)}`)
    } finally {
      timer.cancel()
    }
  }
}

async function boundedText(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length
    if (bytes > ANSWER_BYTES_MAX) throw new Error(`its answer is longer than ${ANSWER_BYTES_MAX} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
