/**
 * The circuit breaker of a producer: after one failed attempt after another nothing new is taken for a while, so that callers hear at once what they
 * would otherwise hear after all retries. Then one batch is let through, and what becomes of it decides.
 *
 *     attempt failed, failed, failed … ──▶ open: send rejects ──coolDownMs──▶ half-open: one batch ──┬──▶ closed
 *                                             ▲                                                     │
 *                                             └───────────────────── it failed ─────────────────────┘
 *
 * What was taken before keeps its retries, and closes the circuit when one of them succeeds. Only failures of the engine count: a refusal of a message is an answer.
 */

import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { CircuitBreaker, type CircuitState } from './circuit-breaker.ts'
import type { OpenBatch } from './open-batch.ts'
import { atLeast } from './option.ts'
import type { ProducerBreakerOptions } from './producer-options.ts'

const FAILURES = 10
const COOL_DOWN_MS = 10_000

export class ProducerBreaker {
  readonly #circuit: CircuitBreaker
  readonly #clock: Clock
  readonly #onChange: ProducerBreakerOptions['onChange']
  #told: CircuitState = 'closed'
  #probe: OpenBatch | null = null
  #lastError: SluiceError | null = null

  /** Throws `INVALID_ARGUMENT`. */
  constructor(options: ProducerBreakerOptions, clock: Clock) {
    this.#circuit = new CircuitBreaker({
      failures: atLeast('circuitBreaker.failures', options.failures ?? FAILURES, 1),
      coolDown: atLeast('circuitBreaker.coolDownMs', options.coolDownMs ?? COOL_DOWN_MS, 0),
    })
    this.#clock = clock
    this.#onChange = options.onChange
  }

  get state(): CircuitState {
    return this.#circuit.state
  }

  /** Whether a message may go into this batch, or a new one (null). Throws `CIRCUIT_OPEN`. */
  admit(batch: OpenBatch | null, topic: string): void {
    if (this.#circuit.state === 'closed' || (batch !== null && batch === this.#probe)) return
    const admits = batch === null && this.#circuit.admits(this.#clock.monotonic())
    this.#tell()
    if (!admits) throw this.#refusal(topic)
  }

  began(batch: OpenBatch): void {
    if (this.#circuit.begun()) this.#probe = batch
  }

  /** What became of an attempt; null: the log has accepted. */
  attempted(batch: OpenBatch, error: SluiceError | null): void {
    const isProbe = batch === this.#probe
    if (isProbe) this.#probe = null
    const now = this.#clock.monotonic()
    if (error !== null && isFailure(error)) {
      this.#lastError = error
      this.#circuit.failed(isProbe, now)
    } else {
      // whichever attempt it was: the engine answers again
      const closes = this.#circuit.state !== 'closed'
      if (closes) this.#probe = null
      this.#circuit.succeeded(closes, now)
    }
    this.#tell()
  }

  #tell(): void {
    const { state } = this.#circuit
    if (state === this.#told) return
    this.#told = state
    try {
      this.#onChange?.(state, this.#lastError)
    } catch (thrown) {
      process.emitWarning(`circuitBreaker.onChange of a producer threw: ${String(thrown)}`, {
        type: 'SluiceWarning',
      })
    }
  }

  #refusal(topic: string): SluiceError {
    const { coolDownMs } = this.#circuit
    const reason = this.#lastError?.message ?? 'unknown'
    return new SluiceError(
      'CIRCUIT_OPEN',
      `topic ${topic}: the producer takes nothing after failures in a row, and tries again every ${coolDownMs} ms; the last: ${reason}`,
      { topic, coolDownMs, outcome: 'refused', lastCode: this.#lastError?.code },
      this.#lastError ?? undefined,
    )
  }
}

const isFailure = (error: SluiceError): boolean => error.retriable || error.code === 'STORAGE_FAILED'
