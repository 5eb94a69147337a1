/** What a worker can be told, and what it tells: options with their defaults, and events. */

import type { TopicPartition } from '../engine/engine.ts'
import type { SluiceError } from '../errors.ts'
import type { Duration } from '../lib/duration.ts'
import { CircuitBreaker, type CircuitBreakerOptions } from './circuit-breaker.ts'
import type { ConsumerOptions, MessageOf } from './consumer-options.ts'
import type { DispatchOptions, FailureOutcome, Order } from './dispatch.ts'
import type { Job } from './job.ts'
import { atLeast, invalidOption, msOf, oneOf } from './option.ts'
import { type RetryOptions, RetryPolicy } from './retry.ts'
import type { DeadLetterReason } from './system-headers.ts'
import type { AnyTopic } from './topic.ts'

export interface WorkerOptions
  extends Pick<
    ConsumerOptions,
    | 'assignors'
    | 'bufferBytesMax'
    | 'from'
    | 'instanceId'
    | 'isolation'
    | 'onOutOfRange'
    | 'partitionBytesMax'
    | 'rebalanceTimeoutMs'
    | 'sessionTimeoutMs'
    | 'signal'
    | 'waitMs'
  > {
  /** The consumer group: its workers, here and elsewhere, share the partitions; each message is handled by one of them. */
  readonly group: string
  /** Handlers at a time. Default 16. */
  readonly concurrency?: number
  /**
   * Which messages wait for each other: those of a partition, those of a key (messages without one wait for nobody), or none. Default 'key'.
   */
  readonly order?: Order
  /**
   * How long a handler may take; then its `signal` fires and the message counts as failed. Default '1m'; Infinity: as long as it likes.
   */
  readonly timeout?: Duration
  /** When a message that failed is tried again, and how often. Default: after 1 s, 5 s, 30 s, 1 min and 5 min. False: never. */
  readonly retry?: RetryOptions | false
  /** Whether messages that cannot be handled are kept as dead letters (`mq.deadLetters`). Default true; false: they are dropped. */
  readonly deadLetters?: boolean
  /** Hands nothing out for a while when handlers keep failing. Default: no such thing; `{}`: five failures in a row, 30 s. */
  readonly breaker?: CircuitBreakerOptions
  /** Pauses when a handler fails; after `resume()` the message is tried again first. Default false. */
  readonly pauseOnFailure?: boolean
  /**
   * Messages of a partition that are read and not done, at most: those at work, those that wait for a slot, for their key or for another attempt.
   * Default 1,000, or twice `concurrency` if that is more.
   */
  readonly prefetch?: number
  /** Between two commits, at least. Default 10. A crash repeats what was done since the last one. */
  readonly commitMs?: number
}

export interface WorkerEvents<T extends AnyTopic | string = AnyTopic | string> {
  /** A message was handled. */
  completed: [message: MessageOf<T>, job: Job]
  /** A handler failed or was out of time; `outcome` is what becomes of the message. */
  failed: [message: MessageOf<T>, error: unknown, job: Job, outcome: FailureOutcome]
  /** A message has become a dead letter. */
  deadLettered: [message: MessageOf<T>, job: Job, reason: DeadLetterReason]
  /** A handler took too long; 'failed' follows. */
  timedOut: [message: MessageOf<T>, job: Job]
  /** Handlers keep failing: nothing is handed out for a while. */
  circuitOpen: []
  circuitClosed: []
  paused: []
  resumed: []
  assigned: [partitions: readonly TopicPartition[]]
  /** Partitions were given up, or are gone. */
  revoked: [partitions: readonly TopicPartition[]]
  /** Something went wrong that it goes on from by itself, or (then `done` rejects) what ended it. Without a listener: a process warning. */
  error: [error: SluiceError]
}

export interface WorkerStats {
  /** Handlers at work. */
  readonly running: number
  /** Messages that were read and wait for a slot, for their key, or for another attempt. */
  readonly waiting: number
  /** Of these, those that wait for another attempt in their place. */
  readonly retrying: number
  /** Since the start. */
  readonly completed: number
  readonly failed: number
  readonly deadLettered: number
}

const CONCURRENCY = 16
const PREFETCH = 1_000
const COMMIT_MS = 10

/** Checked, with defaults. Throws `INVALID_ARGUMENT`. */
export function dispatchOptions(topics: readonly AnyTopic[], options: WorkerOptions): DispatchOptions {
  const { group, breaker } = options
  if (typeof group !== 'string' || group === '')
    throw invalidOption('a worker has a group, which is not empty')
  const concurrency = concurrencyOf(options)
  const prefetch = options.prefetch ?? Math.max(PREFETCH, concurrency * 2)
  return {
    topics,
    isRanked: false,
    group,
    order: oneOf('order', options.order ?? 'key', ['partition', 'key', 'none']),
    retry: new RetryPolicy(options.retry ?? {}),
    hasDeadLetters: options.deadLetters ?? true,
    breaker: breaker === undefined ? null : new CircuitBreaker(breaker),
    isBreakerFailure: breaker?.isFailure ?? (() => true),
    pauseOnFailure: options.pauseOnFailure ?? false,
    prefetch: atLeast('prefetch', prefetch, 1),
    commitMs: atLeast('commitMs', options.commitMs ?? COMMIT_MS, 1),
    expiresAt: null,
    consumer: {
      assignors: options.assignors,
      bufferBytesMax: options.bufferBytesMax,
      from: options.from,
      instanceId: options.instanceId,
      isolation: options.isolation,
      onOutOfRange: options.onOutOfRange,
      partitionBytesMax: options.partitionBytesMax,
      rebalanceTimeoutMs: options.rebalanceTimeoutMs,
      sessionTimeoutMs: options.sessionTimeoutMs,
      waitMs: options.waitMs,
    },
  }
}

export const concurrencyOf = (options: { readonly concurrency?: number }): number =>
  atLeast('concurrency', options.concurrency ?? CONCURRENCY, 1)

/** In milliseconds; Infinity for none. */
export const timeoutMsOf = ({ timeout = '1m' }: { readonly timeout?: Duration }): number =>
  timeout === Number.POSITIVE_INFINITY ? timeout : atLeast('timeout', msOf('timeout', timeout), 1)
