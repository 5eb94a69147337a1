/**
 * Group commit: many appends share one sync.
 *
 * An append asks for durability up to an offset and gets a promise. A sync covers everything appended before it
 * began; while one is under way, further requests gather for the next.
 *
 * When a sync is over and others wait already, the next one begins two turns of the event loop later, not at once. A
 * publisher that has just been answered publishes again in the promise jobs of this turn, its batch closes and is appended
 * at the end of the turn, and so it is in time. Otherwise publishers fall into two groups for good:
 *
 *     sync 1 (A) │ A answered, begins sync 2 (B) │ A appended: too late │ sync 2 over, begins sync 3 (A) │ …
 *
 * Each sync would serve half of those who wait, at half the rate.
 *
 * Ordering: the target is read before the sync begins, and `durableOffset` moves to it only after the sync has resolved, so
 * what is called durable is. A sync that fails ends the log: every request, now and later, is rejected with that error; it
 * is never tried again, because the kernel may have dropped the pages it could not write.
 */

import type { Clock } from '../lib/clock.ts'

interface Request {
  readonly offset: number
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

export interface GroupCommitOptions {
  readonly clock: Clock
  /** Where the log ends now. */
  readonly endOffset: () => number
  /** Makes everything appended so far durable. */
  readonly sync: () => Promise<void>
  /** Called when `durableOffset` has moved, before the requests are resolved. */
  readonly onDurable: (offset: number) => void
  /** Called once, when a sync has failed. Returns the error to reject with. */
  readonly onFailed: (error: unknown) => Error
}

export class GroupCommit {
  readonly #options: GroupCommitOptions
  #durableOffset: number
  /** Made since the last sync began. */
  #requests: Request[] = []
  /** Made before the sync that is under way began. */
  #covered: Request[] = []
  /** A sync is under way or due. */
  #running = false
  /** Somebody wants another one, for what was appended since it began. */
  #again = false
  #failure: Error | null = null

  constructor(durableOffset: number, options: GroupCommitOptions) {
    this.#durableOffset = durableOffset
    this.#options = options
  }

  /** Everything before this offset is on the disk. */
  get durableOffset(): number {
    return this.#durableOffset
  }

  /** Resolves when everything before `offset` is durable. */
  wait(offset: number): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    if (offset <= this.#durableOffset) return Promise.resolve()
    return this.#request(offset)
  }

  /** Resolves when a sync is over that began after this call. */
  next(): Promise<void> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return this.#request(Number.POSITIVE_INFINITY)
  }

  #request(offset: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#requests.push({ offset, resolve, reject })
      if (!this.#running) this.start()
    })
  }

  /** Sees to it that a sync begins after this call: now, or when the one under way is over. */
  start(): void {
    if (this.#failure !== null) return
    if (this.#running) {
      this.#again = true
      return
    }
    this.#running = true
    this.#options.clock.defer(() => this.#run())
  }

  #run(): void {
    if (this.#failure !== null) return // stopped meanwhile: the files may be closed
    const target = this.#options.endOffset()
    this.#again = false
    this.#covered = this.#requests
    this.#requests = []
    this.#options.sync().then(
      () => this.#succeed(target),
      error => this.#fail(error),
    )
  }

  #succeed(target: number): void {
    this.#running = false
    if (this.#failure !== null) return
    if (target > this.#durableOffset) {
      this.#durableOffset = target
      this.#options.onDurable(target)
    }
    for (const request of this.#covered) request.resolve()
    this.#covered = []
    // Made meanwhile for what had been appended before.
    const requests = this.#requests
    this.#requests = requests.filter(request => request.offset > target)
    if (this.#requests.length < requests.length) {
      for (const request of requests) if (request.offset <= target) request.resolve()
    }
    if (this.#requests.length > 0 || this.#again) this.#continue()
  }

  #continue(): void {
    const { clock } = this.#options
    this.#running = true
    clock.defer(() => clock.defer(() => this.#run()))
  }

  #fail(error: unknown): void {
    this.#running = false
    this.stop(this.#options.onFailed(error))
  }

  /** Rejects what waits and all that comes. */
  stop(failure: Error): void {
    if (this.#failure !== null) return
    this.#failure = failure
    const requests = [...this.#covered, ...this.#requests]
    this.#covered = []
    this.#requests = []
    for (const request of requests) request.reject(failure)
  }
}
