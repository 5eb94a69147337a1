/** What a named queue can be told, and what it tells: options with their defaults, and events. */

import type { Duration } from '../lib/duration.ts'
import type { DispatchOptions } from './dispatch.ts'
import type { Job } from './job.ts'
import { atLeast, msOf, oneOf } from './option.ts'
import type { HeadersInput } from './outgoing.ts'
import { systemHeader } from './system-headers.ts'
import { type AnyTopic, topicOf } from './topic.ts'
import { dispatchOptions, type WorkerEvents, type WorkerOptions } from './worker-options.ts'

export interface QueueOptions extends Omit<WorkerOptions, 'group' | 'concurrency' | 'timeout' | 'order'> {
  /** Which messages wait for each other; see `WorkerOptions.order`. Default 'none': each is on its own. */
  readonly order?: WorkerOptions['order']
  /**
   * Partitions to create the queue with. Workers of one process share it whatever their number; processes share it by partitions, so no more of
   * them than there are partitions have work. Default 8.
   */
  readonly partitions?: number
  /** The highest priority; what is ready is handed out by priority, the highest first. Default 0: all are alike. At most 9. */
  readonly priorities?: number
  /** A message that was not handled so long after it was sent is a dead letter ('expired') when its turn comes. Default: never. */
  readonly messageTtl?: Duration
  /**
   * Messages that wait to be handed out, at most. Counted by this process; what others send may be noticed a tenth of a second late. Default: no
   * bound.
   */
  readonly lengthMax?: number
  /** When it is full: `send` is refused with `QUEUE_FULL`, or the oldest messages become dead letters ('overflow'). Default 'refuse'. */
  readonly whenFull?: 'refuse' | 'drop-head'
  /** How long a message that was received is its receiver's alone; then it is handed out again. Default '30s'. */
  readonly visibility?: Duration
  /** Whether the queue is made where it is missing. Default: as `autoCreateTopics` of `open()`, true. If not, `send` rejects with `UNKNOWN_TOPIC`. */
  readonly create?: boolean
}

export interface SendOptions {
  /** For `order: 'key'`. */
  readonly key?: string | Uint8Array | null
  readonly headers?: HeadersInput
  /** From 0 to the queue's `priorities`; more counts as that. Default 0. */
  readonly priority?: number
  /** From when it can be handed out. Not handled so long after that, it is a dead letter ('expired'). */
  readonly expiresIn?: Duration
  /** Hands it out later. */
  readonly delay?: Duration
  /** Hands it out from this time on. */
  readonly deliverAt?: number | Date
}

export interface ProcessOptions {
  /** Handlers at a time. Default 16. */
  readonly concurrency?: number
  /** How long a handler may take; see `WorkerOptions.timeout`. Default '1m'. */
  readonly timeout?: Duration
}

export interface ReceiveOptions {
  /** Messages, at most. Default 1. */
  readonly max?: number
  /** How long to wait for the first. Default 1,000. */
  readonly waitMs?: number
  /** Default: the queue's. */
  readonly visibility?: Duration
}

/** Those of a worker; 'timedOut' also tells of messages that were received and not acknowledged in time. */
export type QueueEvents<T extends AnyTopic | string = AnyTopic | string> = WorkerEvents<T>

const PARTITIONS = 8
const PRIORITIES_MAX = 9

/** A queue as its parts need it. */
export interface QueuePlan {
  readonly name: string
  /** By priority, from 0. */
  readonly topics: readonly AnyTopic[]
  readonly lengthMax: number
  readonly dropsHead: boolean
  readonly visibilityMs: number
  readonly dispatch: DispatchOptions
}

/** Checked, with defaults. Throws `INVALID_ARGUMENT`. */
export function planOf(queue: AnyTopic | string, options: QueueOptions): QueuePlan {
  const base = topicOf(queue)
  const highest = Math.floor(atLeast('priorities', options.priorities ?? 0, 0))
  const partitions = atLeast('partitions', options.partitions ?? base.partitions ?? PARTITIONS, 1)
  const topics = Array.from({ length: Math.min(highest, PRIORITIES_MAX) + 1 }, (_, priority) => ({
    ...base,
    name: priority === 0 ? base.name : `${base.name}.p${priority}`,
    partitions,
  }))
  const { messageTtl } = options
  const ttlMs = messageTtl === undefined ? Number.POSITIVE_INFINITY : msOf('messageTtl', messageTtl)
  const dispatch = dispatchOptions(topics.toReversed(), {
    ...options,
    group: base.name,
    order: options.order ?? 'none',
  })
  return {
    name: base.name,
    topics,
    lengthMax: atLeast('lengthMax', options.lengthMax ?? Number.POSITIVE_INFINITY, 1),
    dropsHead: oneOf('whenFull', options.whenFull ?? 'refuse', ['refuse', 'drop-head']) === 'drop-head',
    visibilityMs: msOf('visibility', options.visibility ?? '30s'),
    dispatch: {
      ...dispatch,
      isRanked: true,
      expiresAt: job => Math.min(expiryOf(job), job.timestamp + ttlMs),
    },
  }
}

/** What the message itself says. */
function expiryOf(job: Job): number {
  const told = job.message.header(systemHeader.expiresAt)
  const at = told == null ? Number.NaN : Number(told)
  return Number.isNaN(at) ? Number.POSITIVE_INFINITY : at
}
