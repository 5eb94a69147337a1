/**
 * Handlers at work: a number of slots, each of which takes one job after the other. A slot is one async function that runs as long as there is
 * something to do, so that a message costs no promise but the handler's.
 *
 * Invariant: `#busy` slots have a job that counts. A handler whose time is over loses its slot to another; when it comes back nobody is
 * interested.
 */

import { SluiceError } from '../errors.ts'
import type { Timer } from '../lib/clock.ts'
import { isThenable } from '../lib/thenable.ts'
import type { Dispatch } from './dispatch.ts'
import type { HeldPartition } from './held-partition.ts'
import { type Job, JobList } from './job.ts'
import type { Message } from './message.ts'

export type CrewHandler = (message: Message<unknown, unknown>, job: Job) => unknown

export interface CrewOptions {
  readonly concurrency: number
  /** Infinity: no limit. */
  readonly timeoutMs: number
  /** A job has succeeded. */
  readonly completed: (job: Job) => void
  readonly timedOut: (job: Job) => void
}

export class Crew {
  readonly #dispatch: Dispatch
  readonly #handler: CrewHandler
  readonly #options: CrewOptions
  /** In the order in which they began, which is that of their deadlines. */
  readonly #running = new JobList()
  #busy = 0
  #timer: Timer | null = null
  #isStopping = false
  readonly #idle = Promise.withResolvers<void>()

  constructor(dispatch: Dispatch, handler: CrewHandler, options: CrewOptions) {
    this.#dispatch = dispatch
    this.#handler = handler
    this.#options = options
  }

  /** Takes as much as it has slots for. */
  pump(): void {
    while (this.#busy < this.#options.concurrency && !this.#isStopping) {
      const job = this.#dispatch.take()
      if (job === null) return
      this.#busy++
      void this.#work(job)
    }
  }

  /** What runs of these partitions counts for nothing any more. */
  abandon(parts: readonly HeldPartition[], reason: SluiceError): void {
    for (const job of this.#running.all()) {
      if (!parts.includes(job.part)) continue
      this.#release(job)
      this.#dispatch.abandon(job, reason)
    }
  }

  /** Takes nothing more; resolves when none of its handlers counts any more. */
  stop(): Promise<void> {
    this.#isStopping = true
    if (this.#busy === 0) this.#idle.resolve()
    return this.#idle.promise
  }

  close(): void {
    this.#timer?.cancel()
    this.#timer = null
  }

  async #work(first: Job): Promise<void> {
    const handler = this.#handler
    for (let job: Job | null = first; job !== null; job = this.#next()) {
      this.#begin(job)
      try {
        const handled = handler(job.message, job)
        if (isThenable(handled)) await handled
      } catch (error) {
        if (job.state === 'over') return
        this.#running.remove(job)
        this.#dispatch.fail(job, error)
        continue
      }
      if (job.state === 'over') return
      this.#running.remove(job)
      this.#dispatch.succeed(job)
      this.#options.completed(job)
    }
  }

  /** The next job of the slot, which is free if there is none. */
  #next(): Job | null {
    const job = this.#isStopping ? null : this.#dispatch.take()
    if (job === null) this.#freed()
    return job
  }

  #begin(job: Job): void {
    this.#running.add(job)
    const { timeoutMs } = this.#options
    if (timeoutMs === Number.POSITIVE_INFINITY) return
    job.deadline = this.#dispatch.clock.monotonic() + timeoutMs
    this.#timer ??= this.#dispatch.clock.after(timeoutMs, () => this.#sweep())
  }

  /** The job's slot is another's. */
  #release(job: Job): void {
    this.#running.remove(job)
    this.#freed()
  }

  #freed(): void {
    if (--this.#busy === 0 && this.#isStopping) this.#idle.resolve()
  }

  #sweep(): void {
    this.#timer = null
    const { clock } = this.#dispatch
    const now = clock.monotonic()
    for (let job = this.#running.first; job !== null; job = this.#running.first) {
      if (job.deadline > now) {
        this.#timer = clock.after(job.deadline - now, () => this.#sweep())
        break
      }
      this.#expire(job)
    }
    this.pump()
  }

  #expire(job: Job): void {
    const { topic, partition, offset } = job
    const { timeoutMs, timedOut } = this.#options
    const message = `${topic}/${partition} offset ${offset}: the handler took longer than ${timeoutMs} ms`
    const error = new SluiceError('TIMED_OUT', message, { topic, partition, offset })
    this.#release(job)
    timedOut(job)
    this.#dispatch.fail(job, error)
    job.abort(error)
  }
}
