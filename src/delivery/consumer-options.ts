/**
 * What a consumer can be told, and what it tells: options with their defaults, events, and the types of
 * messages that follow from topics.
 */

import type {
  Assignor,
  CommitOffset,
  CommittedOffset,
  Engine,
  Isolation,
  OffsetSpec,
  TopicPartition,
} from '../engine/engine.ts'
import type { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Message, MessageBatch } from './message.ts'
import type { AnyTopic, Topic } from './topic.ts'

/** The messages of a topic, given by descriptor or by name. */
export type MessageOf<T extends AnyTopic | string> = T extends string
  ? Message
  : T extends Topic<never, infer Out, never, infer KeyOut>
    ? Message<Out, KeyOut>
    : never

/** The batches of a topic, given by descriptor or by name. */
export type BatchOf<T extends AnyTopic | string> = T extends string
  ? MessageBatch
  : T extends Topic<never, infer Out, never, infer KeyOut>
    ? MessageBatch<Out, KeyOut>
    : never

export interface ConsumerOptions<T extends AnyTopic | string = AnyTopic | string> {
  /** What to read: descriptors or names. */
  readonly topics: readonly T[]
  /**
   * The consumer group. Its members share the partitions, and its commits are where a restart goes on.
   * Without a group the consumer reads all partitions (or `partitions`) by itself, from `from` on, and
   * commits nothing.
   */
  readonly group?: string
  /** Without a group: only these partitions of each topic. */
  readonly partitions?: readonly number[]
  /**
   * Where to begin in a partition for which the group has no commit. Default 'earliest': a queue hands out
   * what is in it.
   */
  readonly from?: OffsetSpec
  /**
   * What to do when the log does not have the position any more (retention), or never had it (a topic that
   * was created anew): go to that end and emit 'outOfRange', or fail with `OFFSET_OUT_OF_RANGE`. Default:
   * `from` if that is an end of the log, otherwise 'earliest'.
   */
  readonly onOutOfRange?: 'earliest' | 'latest' | 'error'
  /**
   * Commit what has been handled every so often, and on stop and rebalance. Default true: every 1,000 ms.
   * With false: `commit`.
   */
  readonly autoCommit?: boolean | { readonly everyMs: number }
  /**
   * How many partitions are handled side by side. Default 1. Each keeps its order. `for await` always takes
   * one message at a time.
   */
  readonly concurrency?: number
  /** How much one fetch brings from a partition. Default 1 MiB; a single larger batch comes all the same. */
  readonly partitionBytesMax?: number
  /** How much may be fetched and not handled yet, over all partitions. Default 32 MiB. */
  readonly bufferBytesMax?: number
  /** How long a fetch waits for something new; it wakes at once when there is. Default 500. */
  readonly waitMs?: number
  /**
   * What to see of transactions: what is decided, without what was aborted; or everything as it comes. Default 'committed'. A
   * transaction that is open holds back what comes after it in its partitions.
   */
  readonly isolation?: Isolation
  /** In order of preference; the group agrees on one. Default cooperative-sticky, then range. */
  readonly assignors?: readonly Assignor[]
  /** A member that is not heard of for so long has its partitions given to others. Default 45,000. */
  readonly sessionTimeoutMs?: number
  /** How long a rebalance waits for running handlers. Default 300,000. */
  readonly rebalanceTimeoutMs?: number
  /**
   * Makes a static member: one that restarts within the session time-out and gets its partitions back without
   * a rebalance.
   */
  readonly instanceId?: string
  /** Stops the consumer, as `stop()` does. */
  readonly signal?: AbortSignal
}

/**
 * @internal Who completes messages one by one, over a consumer without automatic commit, and so has a state per partition that comes with
 * the partition and goes with it.
 */
export interface AssignmentHooks {
  /** A partition is about to be read, from what was committed (undefined: nothing was) or from where the consumer begins. */
  taken(of: TopicPartition, position: number, committed: CommittedOffset | undefined): void
  /** Up to `next` there was nothing to hand out: markers of transactions, or what was compacted away. Everything before has been handed out. */
  passed?(of: TopicPartition, next: number): void
  /** Partitions are to be given up within `deadlineMs`. Resolves when nothing of them is under way and everything is committed. */
  giveUp(partitions: readonly TopicPartition[], deadlineMs: number): Promise<void>
  /** Partitions are gone: nothing can be committed for them any more. */
  lost(partitions: readonly TopicPartition[]): void
}

/** @internal What a `Sluice` hands to its consumers. */
export interface ConsumerSetting {
  readonly hooks?: AssignmentHooks
  /** It runs beside the program, which ends without it. Default false: the process lives as long as the consumer runs. */
  readonly background?: boolean
  readonly engine: Engine
  readonly clock?: Clock
  readonly clientId?: string
  readonly autoCreateTopics?: boolean
  readonly onClosed?: (consumer: { stop(): Promise<void> }) => void
}

export interface PartitionLag extends TopicPartition {
  /** The next offset to handle. */
  readonly position: number
  /** Offset that the next message of the partition will have. */
  readonly endOffset: number
  /** Messages not handled yet. */
  readonly lag: number
}

export interface ConsumerEvents {
  /** Partitions were given to this consumer. */
  assigned: [partitions: readonly TopicPartition[]]
  /** Partitions were taken back, after what was handled had been committed. */
  revoked: [partitions: readonly TopicPartition[]]
  /**
   * Partitions are gone already: the session had timed out. What was not committed is handled again,
   * elsewhere.
   */
  lost: [partitions: readonly TopicPartition[]]
  committed: [offsets: readonly CommitOffset[]]
  /** A position that the log does not have was given up for another; see `onOutOfRange`. */
  outOfRange: [change: TopicPartition & { readonly offset: number; readonly resetTo: number }]
  /**
   * Something went wrong that the consumer goes on from by itself. Without a listener it is a process
   * warning.
   */
  error: [error: SluiceError]
}
