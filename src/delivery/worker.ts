/**
 * The worker: one handler over a topic, many messages at a time, each done on its own.
 *
 *     Intake ── messages ──▶ Dispatch ── jobs ──▶ Crew ──▶ handler
 *
 * Promises:
 * - A message is unfinished, in a retry, in a dead-letter topic, or done; there is no moment between. At least once: what was unfinished when
 *   the process went is repeated, and nothing else but what was done since the last commit.
 * - A handler that throws, rejects or hangs takes nothing down.
 * - `stop` lets handlers finish and commits what they finished.
 */

import { EventEmitter } from 'node:events'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { MessageOf, PartitionLag } from './consumer-options.ts'
import { Crew, type CrewHandler } from './crew.ts'
import { Dispatch } from './dispatch.ts'
import type { IntakeSetting } from './intake.ts'
import type { Job } from './job.ts'
import { KeepAlive } from './keep-alive.ts'
import { errorStory } from './system-headers.ts'
import { type AnyTopic, topicOf } from './topic.ts'
import { emitError } from './warn.ts'
import {
  concurrencyOf,
  dispatchOptions,
  timeoutMsOf,
  type WorkerEvents,
  type WorkerOptions,
  type WorkerStats,
} from './worker-options.ts'

export type WorkerHandler<T extends AnyTopic | string> = (message: MessageOf<T>, job: Job) => unknown

/** @internal What a `Sluice` hands to its workers. */
export interface WorkerSetting extends IntakeSetting {
  readonly onClosed?: (worker: { stop(options?: { readonly deadlineMs?: number }): Promise<void> }) => void
}

const STOP_DEADLINE_MS = 30_000

/** A running worker; made by `mq.worker()`. */
export class Worker<T extends AnyTopic | string = AnyTopic | string> extends EventEmitter<WorkerEvents<T>> {
  /** Resolves when it was stopped. Rejects with what it cannot go on from: `CORRUPT_LOG`, `UNKNOWN_TOPIC`, … */
  readonly done: Promise<void>
  readonly #dispatch: Dispatch
  readonly #crew: Crew
  readonly #keepAlive = new KeepAlive()

  /** @internal Throws `INVALID_ARGUMENT`. */
  constructor(
    topics: T | readonly T[],
    options: WorkerOptions,
    handler: WorkerHandler<T>,
    setting: WorkerSetting,
  ) {
    super()
    const list = (Array.isArray(topics) ? topics : [topics]) as readonly T[]
    this.#dispatch = new Dispatch(setting, dispatchOptions(list.map(topicOf), options), {
      ready: () => this.#crew.pump(),
      abandon: (parts, reason) => this.#crew.abandon(parts, reason),
      failed: (job, error, outcome) => this.#tell('failed', job.message as MessageOf<T>, error, job, outcome),
      deadLettered: (job, reason) => this.#tell('deadLettered', job.message as MessageOf<T>, job, reason),
      circuitOpened: () => this.#tell('circuitOpen'),
      circuitClosed: () => this.#tell('circuitClosed'),
      paused: () => this.#tell('paused'),
      assigned: partitions => this.#tell('assigned', partitions),
      revoked: partitions => this.#tell('revoked', partitions),
      warn: error => this.#warn(error),
    })
    this.#crew = new Crew(this.#dispatch, handler as CrewHandler, {
      concurrency: concurrencyOf(options),
      timeoutMs: timeoutMsOf(options),
      completed: job => {
        if (this.listenerCount('completed') > 0) this.#tell('completed', job.message as MessageOf<T>, job)
      },
      timedOut: job => this.#tell('timedOut', job.message as MessageOf<T>, job),
    })
    this.done = this.#run(options.signal, setting)
    this.done.catch(error => {
      this.#warn(isSluiceError(error) ? error : unexpected(error))
    })
  }

  /** Hands nothing out until `resume()`. What runs goes on, and the group's membership as well. */
  pause(): void {
    this.#dispatch.pause()
  }

  resume(): void {
    if (!this.#dispatch.isPaused) return
    this.#dispatch.resume()
    this.#tell('resumed')
  }

  get isPaused(): boolean {
    return this.#dispatch.isPaused
  }

  get stats(): WorkerStats {
    return this.#dispatch.stats
  }

  /** How far the group is behind in the partitions that this worker holds, those of its retries included. */
  lag(): Promise<PartitionLag[]> {
    return this.#dispatch.intake.lag()
  }

  /**
   * Takes nothing new, lets running handlers finish, commits what they finished, leaves the group, and resolves. Handlers that are not done
   * within `deadlineMs` (default 30,000) have their `signal` fired and are left alone; their messages are handed out again, by the next who
   * has the partition. Does not reject: `done` does. Inside a handler, do not await it: it waits for the handler.
   */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    await this.#dispatch.intake.stop(options.deadlineMs ?? STOP_DEADLINE_MS)
    await this.done.catch(() => {})
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #run(signal: AbortSignal | undefined, setting: WorkerSetting): Promise<void> {
    const onAbort = (): void => void this.stop()
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#keepAlive.hold()
    try {
      if (signal?.aborted !== true) await this.#dispatch.intake.run()
    } finally {
      signal?.removeEventListener('abort', onAbort)
      this.#keepAlive.release()
      this.#crew.close()
      this.#dispatch.close()
      setting.onClosed?.(this)
    }
  }

  /** A listener that throws is told of as an error: it must not take the worker down. */
  #tell<E extends Exclude<keyof WorkerEvents, 'error'>>(event: E, ...told: WorkerEvents<T>[E]): void {
    try {
      ;(this as EventEmitter).emit(event, ...told)
    } catch (error) {
      this.#warn(unexpected(error))
    }
  }

  #warn(error: SluiceError): void {
    emitError(this, error)
  }
}

const unexpected = (error: unknown): SluiceError =>
  new SluiceError('INTERNAL', errorStory(error).message, {}, error)
