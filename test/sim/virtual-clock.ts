/**
 * A clock whose time passes only when the test says so. Timers run in the order of their due times, those of the same time in the
 * order in which they were set; what was deferred runs before the next timer, and after the promise jobs that are ready.
 *
 * Promise jobs are given a turn by waiting for a real `setImmediate`, which runs when all of them are done: no guess of how
 * many `await`s deep the code under test is. Nothing else here depends on real time.
 */

import assert from 'node:assert/strict'
import type { Clock, Timer } from '../../src/lib/clock.ts'

interface VirtualTimer extends Timer {
  readonly due: number
  readonly order: number
  /** Null once it has run or was cancelled. */
  run: (() => void) | null
}

export class VirtualClock implements Clock {
  readonly #epoch: number
  #time = 0
  #order = 0
  #active = 0
  /** A binary heap, the next to run in front. */
  readonly #timers: VirtualTimer[] = []
  #deferred: (() => void)[] = []

  /** `epoch`: what `now()` says at first, in milliseconds since 1970. */
  constructor(epoch = Date.UTC(2025, 0, 1)) {
    this.#epoch = epoch
  }

  now(): number {
    return this.#epoch + Math.floor(this.#time)
  }

  monotonic(): number {
    return this.#time
  }

  after(delayMs: number, run: () => void): Timer {
    assert(!Number.isNaN(delayMs), 'a delay is a number')
    const timer: VirtualTimer = {
      due: this.#time + Math.max(0, delayMs),
      order: this.#order++,
      run,
      cancel: () => {
        if (timer.run !== null) this.#active -= 1
        timer.run = null
      },
    }
    this.#active += 1
    this.#push(timer)
    return timer
  }

  defer(run: () => void): void {
    this.#deferred.push(run)
  }

  /** Timers that wait. */
  get timerCount(): number {
    return this.#active
  }

  /** Lets promise jobs and everything deferred run, and what these defer, until nothing is left that could run without time passing. */
  async runDeferred(): Promise<void> {
    for (;;) {
      await promiseJobs()
      if (this.#deferred.length === 0) return
      const ready = this.#deferred
      this.#deferred = []
      while (ready.length > 0) {
        try {
          ready.shift()!()
        } catch (error) {
          // What comes after it still has its turn.
          this.#deferred.unshift(...ready)
          throw error
        }
      }
    }
  }

  /** Runs what is ready, then goes to the next timer and runs that and what follows from it. False when there is none. */
  async step(): Promise<boolean> {
    await this.runDeferred()
    const timer = this.#next(Number.POSITIVE_INFINITY)
    if (timer === null) return false
    await this.#fire(timer)
    return true
  }

  /** Lets `ms` milliseconds pass. What a timer throws comes out here. */
  async advance(ms: number): Promise<void> {
    const until = this.#time + ms
    await this.runDeferred()
    for (let timer = this.#next(until); timer !== null; timer = this.#next(until)) await this.#fire(timer)
    this.#time = until
  }

  /**
   * Lets time pass until no timer waits, at most `msMax` (default: an hour). Returns whether it came to rest: code with a timer that sets
   * itself again never does.
   */
  async runUntilIdle(msMax = 3_600_000): Promise<boolean> {
    const until = this.#time + msMax
    await this.runDeferred()
    for (let timer = this.#next(until); timer !== null; timer = this.#next(until)) await this.#fire(timer)
    return this.#active === 0
  }

  async #fire(timer: VirtualTimer): Promise<void> {
    this.#time = Math.max(this.#time, timer.due)
    const { run } = timer
    timer.run = null
    this.#active -= 1
    run!()
    await this.runDeferred()
  }

  /** Takes the next live timer that is due by `until` out of the heap. */
  #next(until: number): VirtualTimer | null {
    for (;;) {
      const first = this.#timers[0]
      if (first === undefined) return null
      if (first.run !== null && first.due > until) return null
      this.#popFirst()
      if (first.run !== null) return first
    }
  }

  #push(timer: VirtualTimer): void {
    const heap = this.#timers
    let index = heap.length
    while (index > 0) {
      const parent = (index - 1) >>> 1
      if (isBefore(heap[parent], timer)) break
      heap[index] = heap[parent]
      index = parent
    }
    heap[index] = timer
  }

  #popFirst(): void {
    const heap = this.#timers
    const moved = heap.pop()!
    if (heap.length === 0) return
    let index = 0
    for (;;) {
      let child = 2 * index + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1], heap[child])) child += 1
      if (isBefore(moved, heap[child])) break
      heap[index] = heap[child]
      index = child
    }
    heap[index] = moved
  }
}

function isBefore(one: VirtualTimer, other: VirtualTimer): boolean {
  return one.due < other.due || (one.due === other.due && one.order < other.order)
}

function promiseJobs(): Promise<void> {
  return new Promise(resolve => setImmediate(resolve))
}
