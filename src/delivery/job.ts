/**
 * One attempt at one message. A message that is tried again gets another job, so that a handler that nobody waits for any more holds nothing
 * that the next one uses. Jobs are made once per message, on the hot path: they are the links of the lists that they stand in, and make nothing
 * before it is asked for.
 */

import { SluiceError } from '../errors.ts'
import type { HeldPartition } from './held-partition.ts'
import type { Message } from './message.ts'
import type { FailureStory } from './system-headers.ts'

/** What is known of the error of the attempt before. */
export interface JobError {
  readonly name: string
  readonly message: string
  readonly stack: string
}

/** What came before this attempt. */
export interface History {
  readonly failures: number
  readonly firstFailureAt: number
  /** Null if it happened in another process, which leaves no more than a note. */
  readonly lastError: JobError | null
}

/** What a handler is given beside its message. */
export class Job {
  /** 1 for the first attempt. */
  readonly attempt: number
  /** When the message failed first, milliseconds since the Unix epoch; null in the first attempt. */
  readonly firstFailureAt: number | null
  /** What the attempt before failed with; null in the first attempt, and when that was in a process that is gone. */
  readonly lastError: JobError | null
  /** @internal */
  readonly message: Message<unknown, unknown>
  /** @internal */
  readonly part: HeldPartition
  /** @internal Of a message that comes from a retry topic. */
  readonly story: FailureStory | null
  /** @internal Null: it stands in no lane. */
  readonly laneKey: string | null
  /** @internal What waits behind it in its lane. */
  nextInLane: Job | null = null
  /** @internal Neighbours in the list of those that run. */
  before: Job | null = null
  /** @internal */
  after: Job | null = null
  /** @internal */
  state: 'waiting' | 'running' | 'over' = 'waiting'
  /** @internal It shows whether a circuit can be closed. */
  isProbe = false
  /** @internal By the monotonic clock. */
  deadline = 0
  #abort: AbortController | null = null
  #reason: unknown = null

  /** @internal */
  constructor(
    message: Message<unknown, unknown>,
    part: HeldPartition,
    laneKey: string | null,
    story: FailureStory | null,
    history: History | null,
  ) {
    this.message = message
    this.part = part
    this.laneKey = laneKey
    this.story = story
    this.attempt = history === null ? 1 : history.failures + 1
    this.firstFailureAt = history === null ? null : history.firstFailureAt
    this.lastError = history === null ? null : history.lastError
  }

  /** The topic that the message was published to; `message.topic` is that of the retry when it comes from there. */
  get topic(): string {
    return this.story === null ? this.message.topic : this.story.topic
  }

  /** The message's first partition, as `topic`. */
  get partition(): number {
    return this.story === null ? this.message.partition : this.story.partition
  }

  /** The message's first offset, as `topic`. */
  get offset(): number {
    return this.story === null ? this.message.offset : this.story.offset
  }

  /** The message's first timestamp, as `topic`. */
  get timestamp(): number {
    return this.story === null ? this.message.timestamp : this.story.timestamp
  }

  /**
   * Fires when what the handler does counts for nothing any more: its time is over (`TIMED_OUT`), the partition has gone to somebody else, or
   * the worker has to stop now.
   */
  get signal(): AbortSignal {
    if (this.#abort === null) {
      this.#abort = new AbortController()
      if (this.#reason !== null) this.#abort.abort(this.#reason)
    }
    return this.#abort.signal
  }

  /** Ends the attempt: the message becomes a dead letter, whatever the schedule says. Throws `REJECTED`, which is to leave the handler. */
  reject(reason: string): never {
    const { topic, partition, offset } = this
    throw new SluiceError('REJECTED', reason, { topic, partition, offset })
  }

  /** @internal */
  abort(reason: unknown): void {
    this.#reason = reason
    this.#abort?.abort(reason)
  }
}

/** Jobs that run, in the order in which they began. Adding and removing cost a few assignments. */
export class JobList {
  first: Job | null = null
  #last: Job | null = null

  add(job: Job): void {
    job.before = this.#last
    if (this.#last === null) this.first = job
    else this.#last.after = job
    this.#last = job
  }

  remove(job: Job): void {
    if (job.before === null) this.first = job.after
    else job.before.after = job.after
    if (job.after === null) this.#last = job.before
    else job.after.before = job.before
    job.before = null
    job.after = null
  }

  /** Those of the list now; it may be changed meanwhile. */
  all(): Job[] {
    const jobs: Job[] = []
    for (let job = this.first; job !== null; job = job.after) jobs.push(job)
    return jobs
  }
}
