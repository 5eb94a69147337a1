/**
 * A message that was received from a queue and is its receiver's alone for a while.
 *
 *     held ─┬─ ack ──────────────────────▶ done
 *           ├─ nack, requeue ────────────▶ handed out again, or a dead letter
 *           ├─ its time is over ─────────▶ handed out again
 *           └─ its partition is gone ────▶ the next owner's
 *
 * Whatever comes second is refused with `LEASE_EXPIRED`: the message may be with somebody else by then.
 */

import { SluiceError } from '../errors.ts'
import type { Timer } from '../lib/clock.ts'
import type { Duration } from '../lib/duration.ts'
import type { Dispatch } from './dispatch.ts'
import type { HeldPartition } from './held-partition.ts'
import type { Job } from './job.ts'
import type { Message } from './message.ts'
import { msOf } from './option.ts'

/** What becomes of a lease is said to whoever keeps it. */
interface LeaseKeeper {
  ended(lease: Lease): void
}

export class Lease<M = Message<unknown, unknown>> {
  readonly message: M
  readonly #job: Job
  readonly #dispatch: Dispatch
  readonly #keeper: LeaseKeeper
  #expiresAt: number
  #timer: Timer
  #isOver = false

  /** @internal */
  constructor(job: Job, visibilityMs: number, dispatch: Dispatch, keeper: LeaseKeeper) {
    this.message = job.message as M
    this.#job = job
    this.#dispatch = dispatch
    this.#keeper = keeper
    this.#expiresAt = dispatch.clock.now() + visibilityMs
    this.#timer = dispatch.clock.after(visibilityMs, () => this.#expire())
  }

  /** How often the message was handed out, this time included. */
  get deliveryCount(): number {
    return this.#job.attempt
  }

  /** What came before, and where the message comes from. */
  get job(): Job {
    return this.#job
  }

  /** When it is handed out again, milliseconds since the Unix epoch. */
  get expiresAt(): number {
    return this.#expiresAt
  }

  get isOver(): boolean {
    return this.#isOver
  }

  /** The message is done. The commit follows within `commitMs`; a crash before that repeats it. Throws `LEASE_EXPIRED`. */
  ack(): void {
    this.#end()
    this.#dispatch.succeed(this.#job)
  }

  /** It could not be handled: it is handed out again behind others, or with `requeue: false` is a dead letter. Throws `LEASE_EXPIRED`. */
  nack(options: { readonly requeue?: boolean; readonly reason?: string } = {}): void {
    const { requeue = true, reason = 'not acknowledged by its receiver' } = options
    this.#end()
    if (requeue) this.#dispatch.requeue(this.#job, new SluiceError('REJECTED', reason), 0)
    else this.#dispatch.fail(this.#job, new SluiceError('REJECTED', reason))
  }

  /** It is handed out again after `delay` (default: at once). Counts as a delivery. Throws `LEASE_EXPIRED`, `INVALID_ARGUMENT`. */
  requeue(options: { readonly delay?: Duration } = {}): void {
    const delayMs = msOf('delay', options.delay ?? 0)
    this.#end()
    this.#dispatch.requeue(this.#job, new SluiceError('REJECTED', 'put back by its receiver'), delayMs)
  }

  /** It is the receiver's for so long from now on. Throws `LEASE_EXPIRED`, `INVALID_ARGUMENT`. */
  extend(visibility: Duration): void {
    const visibilityMs = msOf('visibility', visibility)
    if (this.#isOver) throw this.#expired()
    this.#timer.cancel()
    this.#expiresAt = this.#dispatch.clock.now() + visibilityMs
    this.#timer = this.#dispatch.clock.after(visibilityMs, () => this.#expire())
  }

  /** @internal The message is the next owner's. */
  abandon(reason: SluiceError): void {
    this.#end()
    this.#dispatch.abandon(this.#job, reason)
  }

  #expire(): void {
    const error = this.#expired()
    this.#end()
    this.#dispatch.requeue(this.#job, error, 0)
    this.#job.abort(error)
  }

  #end(): void {
    if (this.#isOver) throw this.#expired()
    this.#isOver = true
    this.#timer.cancel()
    this.#keeper.ended(this as Lease)
  }

  #expired(): SluiceError {
    const { topic, partition, offset } = this.#job
    return new SluiceError(
      'LEASE_EXPIRED',
      `${topic}/${partition} offset ${offset} is not yours any more: it was acknowledged or given back, or its time was over`,
      { topic, partition, offset },
    )
  }
}

interface Receiver {
  readonly max: number
  readonly visibilityMs: number
  readonly resolve: (leases: Lease[]) => void
  readonly timer: Timer
}

/** The leases of a queue, and those who wait for some. */
export class Leases implements LeaseKeeper {
  readonly #dispatch: Dispatch
  readonly #byJob = new Map<Job, Lease>()
  readonly #receivers = new Set<Receiver>()

  constructor(dispatch: Dispatch) {
    this.#dispatch = dispatch
  }

  /** At once what there is; if there is nothing, what comes within `waitMs`. */
  receive(max: number, visibilityMs: number, waitMs: number): Promise<Lease[]> {
    const leases = this.#take(max, visibilityMs)
    if (leases.length > 0 || waitMs === 0) return Promise.resolve(leases)
    return new Promise(resolve => {
      const timer = this.#dispatch.clock.after(waitMs, () => {
        this.#receivers.delete(receiver)
        resolve([])
      })
      const receiver: Receiver = { max, visibilityMs, resolve, timer }
      this.#receivers.add(receiver)
    })
  }

  /** Serves those who wait. */
  pump(): void {
    for (const receiver of this.#receivers) {
      const leases = this.#take(receiver.max, receiver.visibilityMs)
      if (leases.length === 0) return
      this.#receivers.delete(receiver)
      receiver.timer.cancel()
      receiver.resolve(leases)
    }
  }

  /** Nobody is served any more. */
  close(): void {
    for (const { resolve, timer } of this.#receivers) {
      timer.cancel()
      resolve([])
    }
    this.#receivers.clear()
  }

  abandon(parts: readonly HeldPartition[], reason: SluiceError): void {
    for (const lease of [...this.#byJob.values()]) if (parts.includes(lease.job.part)) lease.abandon(reason)
  }

  ended(lease: Lease): void {
    this.#byJob.delete(lease.job)
  }

  #take(max: number, visibilityMs: number): Lease[] {
    const leases: Lease[] = []
    while (leases.length < max) {
      const job = this.#dispatch.take()
      if (job === null) break
      const lease = new Lease(job, visibilityMs, this.#dispatch, this)
      this.#byJob.set(job, lease)
      leases.push(lease)
    }
    return leases
  }
}
