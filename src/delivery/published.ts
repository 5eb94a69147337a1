/**
 * What publishing gives back. One message: a `Published`. An array: a `PublishedBatch`, which knows the place
 * of each of its messages without holding an object per message, or a `PublishError`, which says of each
 * message whether it was accepted.
 *
 * `ArrayClaim` is the book-keeping behind the latter two. Its messages lie in one or more batches ("parts");
 * a span says that the messages from one index on lie one after another in a part. An array that goes to one
 * partition is one span per batch.
 */

import { SluiceError } from '../errors.ts'

/** Where a message has been stored. */
export interface Published {
  readonly topic: string
  readonly partition: number
  /**
   * -1 if the log was not asked (`acks: 'none'`), or remembers only that it has the message (a repeated
   * idempotent batch).
   */
  readonly offset: number
  /** Milliseconds: the message's own time, or the log's where the topic says LogAppendTime. */
  readonly timestamp: number
  /** Of a delayed message, which has been stored in a topic of waiting ones: the id by which it can be cancelled. */
  readonly delayId?: string
}

/** Where the messages of an array have been stored, in the order of the array. */
export class PublishedBatch implements Iterable<Published> {
  readonly topic: string
  /** Number of messages in the array. */
  readonly count: number
  readonly #claim: ArrayClaim

  /** @internal */
  constructor(claim: ArrayClaim) {
    this.topic = claim.topic
    this.count = claim.count
    this.#claim = claim
  }

  /**
   * Where the message at `index` of the array is. Throws `INVALID_ARGUMENT` if there is no such message, or
   * if it was not accepted.
   */
  at(index: number): Published {
    const published = this.#claim.publishedAt(index)
    if (published instanceof SluiceError) throw published
    return published
  }

  *[Symbol.iterator](): IterableIterator<Published> {
    for (let index = 0; index < this.count; index++) yield this.at(index)
  }
}

/**
 * Not every message of an array was accepted. `code` is that of the first failure. What is not in `failures`
 * is stored, and `at` tells where. Messages to different partitions share no fate, nor do those that are
 * invalid by themselves.
 */
export class PublishError extends SluiceError {
  readonly acceptedCount: number
  readonly #claim: ArrayClaim

  /** @internal */
  constructor(claim: ArrayClaim, first: SluiceError, acceptedCount: number) {
    const message = `${claim.count - acceptedCount} of ${claim.count} messages to ${claim.topic} were not accepted; the first: ${first.message}`
    super(first.code, message, { ...first.detail, count: claim.count, acceptedCount }, first)
    this.name = 'PublishError'
    this.acceptedCount = acceptedCount
    this.#claim = claim
  }

  /**
   * The messages that were not accepted, by their index in the array. `error.detail.outcome` is 'unknown'
   * where the message may have been stored all the same (a time-out, a failing disk).
   */
  *failures(): IterableIterator<{ readonly index: number; readonly error: SluiceError }> {
    for (let index = 0; index < this.#claim.count; index++) {
      const published = this.#claim.publishedAt(index)
      if (published instanceof SluiceError) yield { index, error: published }
    }
  }

  /** Where the message at `index` was stored, or null if it was not accepted. */
  at(index: number): Published | null {
    const published = this.#claim.publishedAt(index)
    return published instanceof SluiceError ? null : published
  }
}

/** A batch as far as a claim needs to know it. */
interface Part {
  readonly topic: string
  readonly partition: number
  baseOffset: number
  appendTime: number
  error: SluiceError | null
}

/** Numbers per span: index in the array, part, index in the part's batch. */
const SPAN = 3

/** Book-keeping of one `send(topic, messages)`, from the first message placed to the promise settled. */
export class ArrayClaim {
  readonly topic: string
  readonly count: number
  readonly #timestamp: number
  readonly #resolve: (published: PublishedBatch) => void
  readonly #reject: (error: SluiceError) => void
  readonly #parts: Part[] = []
  readonly #spans: number[] = []
  /** Only if a message brings its own. */
  #timestamps: Float64Array | null = null
  /** Messages refused before they came into a batch. */
  #refused: Map<number, SluiceError> | null = null
  /** Of messages that are delayed. */
  #delayIds: Map<number, string> | null = null
  /** From this index on all are refused, for the same reason. */
  #cutAt: number
  #cutError: SluiceError | null = null
  /** Parts not settled, plus one until every message is placed. */
  #pending = 1

  constructor(
    topic: string,
    count: number,
    timestamp: number,
    resolve: (published: PublishedBatch) => void,
    reject: (error: SluiceError) => void,
  ) {
    this.topic = topic
    this.count = count
    this.#timestamp = timestamp
    this.#cutAt = count
    this.#resolve = resolve
    this.#reject = reject
  }

  /** Announces a batch that will hold some of the messages. Returns its number, for `place` and `settle`. */
  addPart(topic: string, partition: number): number {
    this.#pending++
    return this.#parts.push({ topic, partition, baseOffset: -1, appendTime: -1, error: null }) - 1
  }

  /** The message at `index` became record `record` of the part. To be called in the order of the array. */
  place(index: number, part: number, record: number, timestamp: number): void {
    const spans = this.#spans
    const last = spans.length - SPAN
    if (last < 0 || spans[last + 1] !== part || record - spans[last + 2] !== index - spans[last]) {
      spans.push(index, part, record)
    }
    if (timestamp !== this.#timestamp) {
      this.#timestamps ??= new Float64Array(this.count).fill(this.#timestamp)
      this.#timestamps[index] = timestamp
    }
  }

  delayed(index: number, delayId: string): void {
    this.#delayIds ??= new Map()
    this.#delayIds.set(index, delayId)
  }

  refuse(index: number, error: SluiceError): void {
    this.#refused ??= new Map()
    this.#refused.set(index, error)
  }

  /** Refuses all messages from `index` on. `allPlaced` follows. */
  cut(index: number, error: SluiceError): void {
    this.#cutAt = index
    this.#cutError = error
  }

  /** No more parts will come. */
  allPlaced(): void {
    this.#settleOne()
  }

  settle(part: number, baseOffset: number, appendTime: number, error: SluiceError | null): void {
    const settled = this.#parts[part]
    settled.baseOffset = baseOffset
    settled.appendTime = appendTime
    settled.error = error
    this.#settleOne()
  }

  /** Only once everything is settled. */
  publishedAt(index: number): Published | SluiceError {
    if (!(Number.isInteger(index) && index >= 0 && index < this.count)) {
      return new SluiceError('INVALID_ARGUMENT', `there is no message ${index} in an array of ${this.count}`)
    }
    if (index >= this.#cutAt) return this.#cutError as SluiceError
    const refused = this.#refused?.get(index)
    if (refused !== undefined) return refused
    const span = this.#spanOf(index)
    const part = this.#parts[this.#spans[span + 1]]
    if (part.error !== null) return part.error
    const record = this.#spans[span + 2] + index - this.#spans[span]
    const published = {
      topic: part.topic,
      partition: part.partition,
      offset: part.baseOffset < 0 ? -1 : part.baseOffset + record,
      timestamp: part.appendTime >= 0 ? part.appendTime : (this.#timestamps?.[index] ?? this.#timestamp),
    }
    const delayId = this.#delayIds?.get(index)
    return delayId === undefined ? published : { ...published, delayId }
  }

  #settleOne(): void {
    if (--this.#pending > 0) return
    const failed =
      this.#cutError !== null || this.#refused !== null || this.#parts.some(part => part.error !== null)
    if (!failed) this.#resolve(new PublishedBatch(this))
    else this.#fail()
  }

  #fail(): void {
    let accepted = 0
    let first: SluiceError | null = null
    for (let index = 0; index < this.count; index++) {
      const published = this.publishedAt(index)
      if (!(published instanceof SluiceError)) accepted++
      else first ??= published
    }
    this.#reject(new PublishError(this, first as SluiceError, accepted))
  }

  /** The last span that begins at or before `index`. */
  #spanOf(index: number): number {
    let low = 0
    let high = this.#spans.length / SPAN - 1
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if (this.#spans[middle * SPAN] <= index) low = middle
      else high = middle - 1
    }
    return low * SPAN
  }
}
