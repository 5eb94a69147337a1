/**
 * When a message that failed is tried again, and how often: the schedule, as a function of how often it has failed. Pure; randomness is passed
 * in. What becomes of it then is the dispatch's.
 */

import { isSluiceError } from '../errors.ts'
import type { Duration } from '../lib/duration.ts'
import type { Job } from './job.ts'
import { atLeast, invalidOption, msOf } from './option.ts'

/**
 * What is done with a message that failed: try again as the schedule says, or after a time of its own; give it to the dead letters now; or be
 * done with it.
 */
export type RetryDecision = 'retry' | 'dead-letter' | 'drop' | { readonly retryInMs: Duration }

export interface RetryOptions {
  /** Pauses before the second, third, … attempt. Default ['1s', '5s', '30s', '1m', '5m']. */
  readonly delays?: readonly Duration[]
  /** Exponential instead: the first pause. */
  readonly first?: Duration
  /** Each pause is so many times the one before. Default 2. */
  readonly factor?: number
  /** No pause is longer. Default '1h'. */
  readonly max?: Duration
  /**
   * How often a message is handed out at most; then it is a dead letter. Default: one more than there are `delays` (6), exponential: 10. With
   * more attempts than delays the last one is repeated.
   */
  readonly attempts?: number
  /** Part of each pause that is random, from 0 to 1: what failed together does not come back together. Default 0; exponential: 0.2. */
  readonly jitter?: number
  /**
   * Whether messages behind a failed one in its lane (its partition or key) wait until it is done. Default true. With false, and where there is no
   * lane, it is tried again later, behind others.
   */
  readonly keepOrder?: boolean
  /**
   * Decides for one error. Default: messages that cannot be decoded become dead letters, all others are tried again. What it throws is
   * reported as 'error', and the default holds.
   */
  readonly decide?: (error: unknown, job: Job) => RetryDecision | undefined
}

const DELAYS: readonly Duration[] = ['1s', '5s', '30s', '1m', '5m']
const EXPONENTIAL_ATTEMPTS = 10
const EXPONENTIAL_JITTER = 0.2

export class RetryPolicy {
  readonly keepOrder: boolean
  readonly attemptsMax: number
  readonly #decide: RetryOptions['decide']
  readonly #delayMs: (failures: number) => number
  readonly #jitter: number
  readonly #random: () => number

  /** `false`: one attempt. Throws `INVALID_ARGUMENT`. */
  constructor(given: RetryOptions | false, random: () => number = Math.random) {
    const options: RetryOptions = given === false ? { attempts: 1 } : given
    const isExponential = options.first !== undefined
    if (isExponential && options.delays !== undefined) {
      throw invalidOption('retry has either delays, or first (and factor, max), not both')
    }
    this.#random = random
    this.#decide = options.decide
    this.keepOrder = options.keepOrder ?? true
    this.#jitter = atLeast('retry.jitter', options.jitter ?? (isExponential ? EXPONENTIAL_JITTER : 0), 0)
    if (this.#jitter > 1) throw invalidOption(`retry.jitter is a number from 0 to 1, not ${this.#jitter}`)
    const delays = (options.delays ?? DELAYS).map(delay => msOf('retry.delays', delay))
    this.#delayMs = isExponential
      ? exponential(options)
      : failures => delays[Math.min(failures, delays.length) - 1] ?? 0
    const attempts = options.attempts ?? (isExponential ? EXPONENTIAL_ATTEMPTS : delays.length + 1)
    this.attemptsMax = Math.floor(atLeast('retry.attempts', attempts, 1))
  }

  /** The pause after so many failures (from 1 on), whether or not another attempt is due. */
  delayMs(failures: number): number {
    const delayMs = this.#delayMs(failures)
    return Math.round(delayMs * (1 - this.#jitter * this.#random()))
  }

  /** What the user's function says about this error, or what is said by default. May throw what that function throws. */
  decide(error: unknown, job: Job): RetryDecision {
    if (isSluiceError(error, 'REJECTED')) return 'dead-letter'
    return this.#decide?.(error, job) ?? decisionByDefault(error, job)
  }
}

/** What cannot be decoded now will not be decodable later. */
export function decisionByDefault(error: unknown, job: Job): RetryDecision {
  const isUndecodable = isSluiceError(error, 'SCHEMA_MISMATCH') || isSluiceError(error, 'CODEC_FAILED')
  if (!isUndecodable) return 'retry'
  const { topic, partition, offset } = job.message
  const { detail } = error
  const isOfThis = detail.topic === topic && detail.partition === partition && detail.offset === offset
  return isOfThis ? 'dead-letter' : 'retry'
}

function exponential(options: RetryOptions): (failures: number) => number {
  const firstMs = msOf('retry.first', options.first ?? 0)
  const maxMs = msOf('retry.max', options.max ?? '1h')
  const factor = atLeast('retry.factor', options.factor ?? 2, 1)
  return failures => Math.min(maxMs, firstMs * factor ** (failures - 1))
}
