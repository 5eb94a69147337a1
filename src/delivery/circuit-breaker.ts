/**
 * A circuit breaker: what keeps failing is left alone for a while.
 *
 *                failures in a row, or too many of the last ones
 *     closed ──────────────────────────────────────────────────▶ open
 *       ▲                                                       │  ▲
 *       │ the probe succeeds                  the pause is over │  │ the probe fails
 *       └───────────────────────── half-open ◀──────────────────┘  │
 *                                      └───────────────────────────┘
 *
 * Synchronous and pure: the time comes with each call. Outcomes of what began before the circuit opened count for nothing while it is not
 * closed.
 */

import type { Duration } from '../lib/duration.ts'
import { atLeast, invalidOption, msOf } from './option.ts'

export interface CircuitBreakerOptions {
  /** Opens after so many failures in a row. Default 5. */
  readonly failures?: number
  /** Opens as well when this part of the messages of the last `window` failed, from 0 to 1. Default: no such rule. */
  readonly rate?: number
  /** For `rate`. Default '10s'. */
  readonly window?: Duration
  /** For `rate`: with fewer messages in the window nothing is concluded. Default 20. */
  readonly messagesMin?: number
  /** How long nothing is handed out; then one message is, to see. Default '30s'. */
  readonly coolDown?: Duration
  /** Which errors count. Default: all but rejections of the message. */
  readonly isFailure?: (error: unknown) => boolean
}

export type CircuitState = 'closed' | 'open' | 'half-open'

const SLOTS = 10

export class CircuitBreaker {
  readonly coolDownMs: number
  readonly #failuresMax: number
  readonly #rate: number
  readonly #slotMs: number
  readonly #messagesMin: number
  #state: CircuitState = 'closed'
  #openedAt = 0
  #probing = false
  #inRow = 0
  /** Outcomes by slot of time. */
  readonly #succeeded = new Array<number>(SLOTS).fill(0)
  readonly #failed = new Array<number>(SLOTS).fill(0)
  #slot = 0

  /** Throws `INVALID_ARGUMENT`. */
  constructor(options: CircuitBreakerOptions = {}) {
    this.coolDownMs = msOf('breaker.coolDown', options.coolDown ?? '30s')
    this.#failuresMax = atLeast('breaker.failures', options.failures ?? 5, 1)
    const { rate } = options
    if (rate !== undefined && !(rate > 0 && rate <= 1)) {
      throw invalidOption(`breaker.rate is a number above 0 and up to 1, not ${rate}`)
    }
    this.#rate = rate ?? Number.POSITIVE_INFINITY
    this.#slotMs = Math.max(1, msOf('breaker.window', options.window ?? '10s') / SLOTS)
    this.#messagesMin = atLeast('breaker.messagesMin', options.messagesMin ?? 20, 1)
  }

  get state(): CircuitState {
    return this.#state
  }

  /** Whether something may begin now. Who does begin says so with `begun`. */
  admits(now: number): boolean {
    if (this.#state === 'open' && now - this.#openedAt >= this.coolDownMs) this.#state = 'half-open'
    return this.#state === 'closed' || (this.#state === 'half-open' && !this.#probing)
  }

  /** Returns whether it is the probe, which `succeeded`, `failed` or `dropped` are to be told. */
  begun(): boolean {
    this.#probing = this.#state === 'half-open'
    return this.#probing
  }

  /** Returns whether this closes the circuit. */
  succeeded(isProbe: boolean, now: number): boolean {
    if (isProbe) {
      this.#close()
      return true
    }
    if (this.#state !== 'closed') return false
    this.#inRow = 0
    if (this.#rate <= 1) this.#succeeded[this.#slotAt(now)]++
    return false
  }

  /** Returns whether this opens the circuit (again). */
  failed(isProbe: boolean, now: number): boolean {
    if (isProbe) {
      this.#open(now)
      return true
    }
    if (this.#state !== 'closed') return false
    this.#inRow++
    if (this.#rate <= 1) this.#failed[this.#slotAt(now)]++
    if (this.#inRow < this.#failuresMax && !this.#isOverRate()) return false
    this.#open(now)
    return true
  }

  /** What had begun came to no outcome. */
  dropped(isProbe: boolean): void {
    if (isProbe) this.#probing = false
  }

  #open(now: number): void {
    this.#state = 'open'
    this.#openedAt = now
    this.#probing = false
  }

  #close(): void {
    this.#state = 'closed'
    this.#probing = false
    this.#inRow = 0
    this.#succeeded.fill(0)
    this.#failed.fill(0)
  }

  #isOverRate(): boolean {
    if (this.#rate > 1) return false
    const failed = sum(this.#failed)
    const messages = failed + sum(this.#succeeded)
    return messages >= this.#messagesMin && failed / messages >= this.#rate
  }

  /** The slot of this time; those that it passes over on the way are emptied. */
  #slotAt(now: number): number {
    const slot = Math.floor(now / this.#slotMs)
    const passed = Math.min(SLOTS, slot - this.#slot)
    for (let index = 0; index < passed; index++) {
      this.#succeeded[(slot - index) % SLOTS] = 0
      this.#failed[(slot - index) % SLOTS] = 0
    }
    this.#slot = slot
    return slot % SLOTS
  }
}

const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0)
