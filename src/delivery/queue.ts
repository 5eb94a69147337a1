/**
 * A named queue: point to point. Messages are sent to it, and each is handled by one of those who work on it: handlers (`process`) and receivers
 * (`receive`), any number of both, whatever the partitions.
 *
 *     send ─▶ emails      ─┐
 *     send ─▶ emails.p1   ─┼─▶ one consumer per process ─▶ Dispatch ─┬─▶ Crew ─▶ handler
 *     send ─▶ emails.p2   ─┘    (the group is the queue's name)      ├─▶ Crew ─▶ handler
 *             a topic per priority                                   └─▶ Lease ─▶ ack, nack, requeue, extend
 *
 * The consumer begins with the first who wants something. Promises are those of a worker.
 */

import { EventEmitter } from 'node:events'
import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { durationMs } from '../lib/duration.ts'
import type { MessageOf, PartitionLag } from './consumer-options.ts'
import { Crew, type CrewHandler } from './crew.ts'
import { Dispatch } from './dispatch.ts'
import type { IntakeSetting } from './intake.ts'
import type { Job } from './job.ts'
import { KeepAlive } from './keep-alive.ts'
import { type Lease, Leases } from './lease.ts'
import { atLeast, msOf } from './option.ts'
import { type AnyOutgoing, encodeHeaders, type OutgoingOf } from './outgoing.ts'
import { createAsDescribed } from './provision.ts'
import type { Published } from './published.ts'
import { QueueLength } from './queue-length.ts'
import {
  type ProcessOptions,
  planOf,
  type QueueEvents,
  type QueueOptions,
  type QueuePlan,
  type ReceiveOptions,
  type SendOptions,
} from './queue-options.ts'
import { errorStory, systemHeader } from './system-headers.ts'
import type { AnyTopic } from './topic.ts'
import { emitError } from './warn.ts'
import { concurrencyOf, timeoutMsOf, type WorkerStats } from './worker-options.ts'

/** @internal What a `Sluice` hands to its queues. */
export interface QueueSetting extends IntakeSetting {
  publish(topic: AnyTopic, message: AnyOutgoing): Promise<Published>
  readonly onClosed?: (queue: { readonly name: string; stop(): Promise<void> }) => void
}

const STOP_DEADLINE_MS = 30_000
const RECEIVE_WAIT_MS = 1_000

/** A named queue; made by `mq.queue()`. */
export class Queue<T extends AnyTopic | string = AnyTopic | string> extends EventEmitter<QueueEvents<T>> {
  readonly name: string
  /** Resolves when the queue was stopped here. Rejects with what it cannot go on from. */
  readonly done: Promise<void>
  readonly #plan: QueuePlan
  readonly #setting: QueueSetting
  readonly #engine: Engine
  readonly #creates: boolean
  readonly #dispatch: Dispatch
  readonly #crews = new Set<Crew>()
  readonly #leases: Leases
  readonly #length: QueueLength
  readonly #keepAlive = new KeepAlive()
  readonly #ending = Promise.withResolvers<void>()
  #creation: Promise<void> | null = null
  #run: Promise<void> | null = null
  #isStopped = false
  #trimming = false
  #trimAgain = false

  /** @internal Throws `INVALID_ARGUMENT`. */
  constructor(queue: T, options: QueueOptions, setting: QueueSetting) {
    super()
    this.#plan = planOf(queue, { ...options })
    this.name = this.#plan.name
    this.#setting = setting
    this.#engine = setting.engine
    this.#creates = options.create ?? setting.autoCreateTopics ?? true
    this.#dispatch = new Dispatch({ ...setting, autoCreateTopics: this.#creates }, this.#plan.dispatch, {
      ready: () => this.#pump(),
      abandon: (parts, reason) => {
        for (const crew of this.#crews) crew.abandon(parts, reason)
        this.#leases.abandon(parts, reason)
      },
      failed: (job, error, outcome) => {
        if (isSluiceError(error, 'LEASE_EXPIRED')) this.#tell('timedOut', job.message as MessageOf<T>, job)
        this.#tell('failed', job.message as MessageOf<T>, error, job, outcome)
      },
      deadLettered: (job, reason) => this.#tell('deadLettered', job.message as MessageOf<T>, job, reason),
      circuitOpened: () => this.#tell('circuitOpen'),
      circuitClosed: () => this.#tell('circuitClosed'),
      paused: () => this.#tell('paused'),
      assigned: partitions => this.#tell('assigned', partitions),
      revoked: partitions => this.#tell('revoked', partitions),
      warn: error => this.#warn(error),
    })
    this.#leases = new Leases(this.#dispatch)
    const clock = this.#dispatch.clock
    const names = this.#plan.topics.map(({ name }) => name)
    this.#length = new QueueLength(setting.engine, clock, this.name, names)
    this.done = this.#ending.promise
    this.done.catch(() => {})
    options.signal?.addEventListener('abort', () => void this.stop(), { once: true })
  }

  /**
   * Puts a message into the queue; resolves when it is as durable as a published one. Rejects with `QUEUE_FULL`; `UNKNOWN_TOPIC` (the queue
   * does not exist and is not to be made); and what `mq.publish` rejects with.
   */
  async send(value: OutgoingOf<T>['value'], options: SendOptions = {}): Promise<Published> {
    this.#checkOpen()
    const { topic, message } = this.#outgoing(value, options)
    await this.#create()
    const { lengthMax, dropsHead } = this.#plan
    if (lengthMax === Number.POSITIVE_INFINITY) return await this.#setting.publish(topic, message)
    if (dropsHead) {
      this.#start()
      const published = await this.#setting.publish(topic, message)
      void this.#trim()
      return published
    }
    if (!(await this.#length.admit(lengthMax))) {
      const text = `queue ${this.name} holds ${lengthMax} messages, as many as it may; send later, or let it drop the oldest (whenFull: 'drop-head')`
      throw new SluiceError('QUEUE_FULL', text, { queue: this.name, lengthMax })
    }
    try {
      return await this.#setting.publish(topic, message)
    } finally {
      this.#length.answered()
    }
  }

  /**
   * Handles messages from now on, beside all others who do. What the handler throws is retried, and then a dead letter. Returns what ends it.
   * Throws `INVALID_ARGUMENT`, `CONSUMER_CLOSED`.
   */
  process(handler: (message: MessageOf<T>, job: Job) => unknown): { stop(): Promise<void> }
  process(
    options: ProcessOptions,
    handler: (message: MessageOf<T>, job: Job) => unknown,
  ): { stop(): Promise<void> }
  process(...given: readonly unknown[]): { stop(): Promise<void> } {
    this.#checkOpen()
    const handler = given.at(-1) as CrewHandler
    const options: ProcessOptions = given.length > 1 ? (given[0] as ProcessOptions) : {}
    const crew = new Crew(this.#dispatch, handler, {
      concurrency: concurrencyOf(options),
      timeoutMs: timeoutMsOf(options),
      completed: job => {
        if (this.listenerCount('completed') > 0) this.#tell('completed', job.message as MessageOf<T>, job)
      },
      timedOut: job => this.#tell('timedOut', job.message as MessageOf<T>, job),
    })
    this.#crews.add(crew)
    this.#start()
    crew.pump()
    return { stop: () => crew.stop().finally(() => this.#crews.delete(crew)) }
  }

  /**
   * Takes messages by hand: up to `max` of those that are ready, or what comes within `waitMs`; none if nothing does. Each is this
   * receiver's until it is acknowledged, given back, or its visibility time-out is over. Throws `INVALID_ARGUMENT`, `CONSUMER_CLOSED`.
   */
  async receive(options: ReceiveOptions = {}): Promise<Lease<MessageOf<T>>[]> {
    this.#checkOpen()
    const max = atLeast('max', options.max ?? 1, 1)
    const waitMs = atLeast('waitMs', options.waitMs ?? RECEIVE_WAIT_MS, 0)
    const { visibility } = options
    const visibilityMs = visibility === undefined ? this.#plan.visibilityMs : msOf('visibility', visibility)
    this.#start()
    return (await this.#leases.receive(max, visibilityMs, waitMs)) as Lease<MessageOf<T>>[]
  }

  /** Messages in the queue, those at work included, as of now: counted by offsets. What waits in a delay or a retry is not in it. */
  length(): Promise<number> {
    return this.#length.measure()
  }

  /** How far the queue is behind in the partitions that this process holds. */
  lag(): Promise<PartitionLag[]> {
    return this.#dispatch.intake.lag()
  }

  get stats(): WorkerStats {
    return this.#dispatch.stats
  }

  get isPaused(): boolean {
    return this.#dispatch.isPaused
  }

  /** Hands nothing out in this process until `resume()`. What is at work goes on. */
  pause(): void {
    this.#dispatch.pause()
  }

  resume(): void {
    if (!this.#dispatch.isPaused) return
    this.#dispatch.resume()
    this.#tell('resumed')
  }

  /**
   * Hands nothing out any more in this process, waits up to `deadlineMs` (default 30,000) for what is at work or leased, commits, and frees
   * the name. The queue and its messages stay. Does not reject: `done` does.
   */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    const isFirst = !this.#isStopped
    this.#isStopped = true
    this.#leases.close()
    await this.#dispatch.intake.stop(options.deadlineMs ?? STOP_DEADLINE_MS)
    if (isFirst && this.#run === null) this.#finish(null)
    await this.done.catch(() => {})
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #checkOpen(): void {
    if (!this.#isStopped) return
    throw new SluiceError('CONSUMER_CLOSED', `queue ${this.name} was stopped here; register it again`)
  }

  #outgoing(value: unknown, options: SendOptions): { topic: AnyTopic; message: AnyOutgoing } {
    const { key, priority = 0, expiresIn, delay, deliverAt } = options
    const { topics } = this.#plan
    const topic = topics[Math.min(Math.floor(atLeast('priority', priority, 0)), topics.length - 1)]
    const headers = [...(options.headers === undefined ? [] : (encodeHeaders(topic, options.headers) ?? []))]
    if (priority > 0) headers.push([systemHeader.priority, String(priority)])
    if (expiresIn !== undefined) {
      const at = this.#dueAt(options) + msOf('expiresIn', expiresIn)
      headers.push([systemHeader.expiresAt, String(at)])
    }
    const when = { ...(delay !== undefined && { delay }), ...(deliverAt !== undefined && { deliverAt }) }
    const message = { value, key, headers: headers.length > 0 ? headers : undefined, ...when }
    return { topic, message: message as unknown as AnyOutgoing }
  }

  /** What is wrong with a delay is the producer's to say. */
  #dueAt({ delay, deliverAt }: SendOptions): number {
    if (deliverAt !== undefined) return Number(deliverAt)
    return this.#dispatch.clock.now() + (delay === undefined ? 0 : (durationMs(delay) ?? 0))
  }

  /** Once. What failed is tried again by the next who asks. */
  #create(): Promise<void> {
    if (!this.#creates) return Promise.resolve()
    this.#creation ??= Promise.all(
      this.#plan.topics.map(topic => createAsDescribed(this.#engine, topic)),
    ).then(
      () => {},
      error => {
        this.#creation = null
        throw error
      },
    )
    return this.#creation
  }

  #start(): void {
    if (this.#run !== null) return
    this.#keepAlive.hold()
    this.#run = this.#dispatch.intake.run()
    this.#run.then(
      () => this.#finish(null),
      error => this.#finish({ error }),
    )
  }

  #finish(failure: { readonly error: unknown } | null): void {
    this.#isStopped = true
    this.#keepAlive.release()
    this.#leases.close()
    for (const crew of this.#crews) crew.close()
    this.#dispatch.close()
    this.#setting.onClosed?.(this)
    if (failure === null) this.#ending.resolve()
    else {
      const { error } = failure
      this.#ending.reject(error)
      this.#warn(isSluiceError(error) ? error : unexpected(error))
    }
  }

  #pump(): void {
    if (this.#plan.dropsHead) void this.#trim()
    this.#leases.pump()
    for (const crew of this.#crews) crew.pump()
  }

  /** Makes dead letters of what is too much of the partitions held here. */
  async #trim(): Promise<void> {
    this.#trimAgain = true
    if (this.#trimming || this.#plan.lengthMax === Number.POSITIVE_INFINITY) return
    this.#trimming = true
    try {
      while (this.#trimAgain && !this.#isStopped) {
        this.#trimAgain = false
        const { topics } = this.#plan
        const waiting = await this.#dispatch.intake.waiting(topics.map(({ name }) => name))
        const over = waiting - Math.ceil(this.#plan.lengthMax * this.#share())
        if (over > 0 && this.#dispatch.overflow(over) > 0) this.#trimAgain = true
      }
    } catch (error) {
      if (!this.#isStopped) this.#warn(isSluiceError(error) ? error : unexpected(error))
    } finally {
      this.#trimming = false
    }
  }

  /** The part of the queue that this process holds. */
  #share(): number {
    const { topics } = this.#plan
    const all = topics.reduce((sum, { partitions = 1 }) => sum + partitions, 0)
    const held = this.#dispatch.intake.parts.filter(part => topics.some(({ name }) => name === part.topic))
    return Math.min(1, held.length / all)
  }

  /** A listener that throws is told of as an error: it must not take the queue down. */
  #tell<E extends Exclude<keyof QueueEvents, 'error'>>(event: E, ...told: QueueEvents<T>[E]): void {
    try {
      ;(this as EventEmitter).emit(event, ...told)
    } catch (error) {
      this.#warn(unexpected(error))
    }
  }

  #warn(error: SluiceError): void {
    emitError(this as EventEmitter, error)
  }
}

const unexpected = (error: unknown): SluiceError =>
  new SluiceError('INTERNAL', errorStory(error).message, {}, error)
