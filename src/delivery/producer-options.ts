/**
 * What a producer can be told: options with their defaults, and the default for errors that nobody waits for.
 */

import type { Acks, Engine, TransactionSession } from '../engine/engine.ts'
import type { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Compression } from '../record/builder.ts'
import type { CircuitState } from './circuit-breaker.ts'
import type { Partitioner } from './partitioner.ts'

export interface ProducerOptions {
  /**
   * How long a batch waits for more messages, in milliseconds. Default 0: until the end of the current turn
   * of the event loop, so messages that are sent together travel together, and a lone message does not wait.
   * More makes larger batches and later answers.
   */
  readonly lingerMs?: number
  /**
   * A batch closes at this size, before compression. Default 1 MiB, and never more than the topic's
   * `max.message.bytes`. A larger message goes alone.
   */
  readonly batchBytesMax?: number
  /** A batch closes at this number of messages. Default 50,000. */
  readonly batchCountMax?: number
  /** Bytes that may be unsent or unanswered. Default 32 MiB. */
  readonly bufferBytesMax?: number
  /**
   * What `send` does when the buffer is full: wait its turn (up to `maxBlockMs`), or reject with
   * `BUFFER_FULL`. Default 'wait'.
   */
  readonly whenFull?: 'wait' | 'reject'
  /** How long `send` waits for room in the buffer, or for the topic to be known. Default 60,000. */
  readonly maxBlockMs?: number
  /** When a message counts as accepted. Default: what the flush policy of the topic promises. */
  readonly acks?: Acks
  /** Default 'none'. */
  readonly compression?: Compression
  /** Default: by key as every Kafka client does it (murmur2); without a key, batch by batch round robin. */
  readonly partitioner?: Partitioner
  /**
   * Lets the log recognise a batch that is sent again, so that a retry stores nothing twice. Default false in
   * process, where nothing gets lost on the way; true on a server or cluster, unless `acks` asks for less than all.
   */
  readonly idempotent?: boolean
  /** How often a batch is sent again after an error that may pass. Default 10; 0 turns retries off. */
  readonly retries?: number
  /** Wait before the first retry; it doubles each time, with jitter, up to 2 seconds. Default 100. */
  readonly retryBackoffMs?: number
  /** From the first message of a batch to its answer, retries included; then `TIMED_OUT`. Default 120,000. */
  readonly deliveryTimeoutMs?: number
  /**
   * After so many failed attempts in a row `send` rejects with `CIRCUIT_OPEN` at once, and tries again with one batch when `coolDownMs` is over.
   * Default none: the producer waits and tries again within its bounds, and callers are slowed down, not refused. Choose it where callers have
   * something better to do than to wait.
   */
  readonly circuitBreaker?: ProducerBreakerOptions
  /** Told of every failure of `post`. Default: a process warning, at most one a second. */
  readonly onError?: (error: SluiceError, failed: FailedPosts) => void
}

export interface ProducerBreakerOptions {
  /** Attempts that fail one after another, retries included; refusals of a message do not count. Default 10. */
  readonly failures?: number
  /** How long nothing is taken. Default 10,000. */
  readonly coolDownMs?: number
  /** Told when the state changes, and of the last failure. */
  readonly onChange?: (state: CircuitState, error: SluiceError | null) => void
}

/** Messages that were posted and not accepted. */
export interface FailedPosts {
  readonly topic: string
  /** How many. */
  readonly count: number
}

/** @internal What a `Sluice` hands to its producers. */
export interface ProducerSetting {
  readonly engine: Engine
  /** Everything it sends is part of this session's transactions. */
  readonly session?: TransactionSession
  readonly clock?: Clock
  /** From 0 to 1. */
  readonly random?: () => number
  /** Makes the topics of delayed messages. Without it there are none. */
  readonly delays?: { prepare(): Promise<void> }
  /** Whether descriptors may create their topics. */
  readonly autoCreateTopics?: boolean
  readonly onClosed?: (producer: object) => void
}

/**
 * The default of `onError`: a process warning at once, then at most one a second, with what has come
 * together.
 */
export function warnOfFailedPosts(clock: Clock): (error: SluiceError, failed: FailedPosts) => void {
  let count = 0
  let last: SluiceError | null = null
  let quiet = false
  const warn = (): void => {
    quiet = count > 0
    if (!quiet) return
    process.emitWarning(`${count} posted messages were not accepted; the last: ${last?.message}`, {
      type: 'SluiceWarning',
      code: last?.code,
      detail: 'Give the producer an onError callback to handle this.',
    })
    count = 0
    clock.after(1_000, warn)
  }
  return (error, failed) => {
    count += failed.count
    last = error
    if (!quiet) warn()
  }
}
