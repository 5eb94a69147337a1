/**
 * One partition as a consumer sees it. Offsets, each the next one to…
 *
 *     committed ≤ handled ≤ position ≤ fetchOffset
 *     │           │         │          └─ fetch
 *     │           │         └─ hand out
 *     │           └─ commit: everything before it has been handled
 *     └─ what the group has stored (-1: nothing)
 *
 * Between position and fetchOffset lie at most two batches: the one being handled (`current`) and one fetched
 * ahead (`next`). A seek raises `epoch` and throws both away: whoever began something under an older epoch
 * may not touch the offsets any more.
 */

import type { TopicPartition } from '../engine/engine.ts'
import type { SluiceError } from '../errors.ts'
import { type Message, MessageBatch, type MessageSource } from './message.ts'
import type { AnyTopic } from './topic.ts'

type AnyMessage = Message<unknown, unknown>
type AnyBatch = MessageBatch<unknown, unknown>

export class PartitionReader implements TopicPartition {
  readonly topic: string
  readonly descriptor: AnyTopic
  readonly partition: number
  position: number
  handled: number
  committed: number
  fetchOffset: number
  epoch = 0
  /** Of all that is handed out under this epoch. */
  source: MessageSource
  paused = false
  /** Nothing is handed out any more: the partition is being given up. */
  halted = false
  /** A handler is at work on it. */
  busy = false
  /** That handler took too long, and nobody waits for it any more. */
  abandoned = false
  /** Waits in the consumer's queue of partitions with something to hand out. */
  queued = false
  /** Part of the fetch under way. */
  inFetch = false
  /** Met when everything before it has been handed out. */
  error: SluiceError | null = null
  /** Bytes held in `current` and `next`. */
  bufferedBytes = 0
  #current: AnyBatch | null = null
  #messages: Iterator<AnyMessage> | null = null
  #next: AnyBatch | null = null
  #idleWaiters: (() => void)[] = []

  constructor(descriptor: AnyTopic, partition: number, position: number, committed: number) {
    this.topic = descriptor.name
    this.descriptor = descriptor
    this.partition = partition
    this.source = { topic: descriptor, partition }
    this.position = position
    this.handled = position
    this.fetchOffset = position
    this.committed = committed
  }

  /** Whether a fetch should ask for it. */
  get hungry(): boolean {
    return this.#next === null && this.error === null && !this.paused && !this.halted
  }

  get hasMessages(): boolean {
    return this.#current !== null || this.#next !== null
  }

  /** Whether there is something to hand out, or an error to meet. */
  get ready(): boolean {
    if (this.busy || this.paused || this.halted) return false
    return this.hasMessages || this.error !== null
  }

  /** Takes what a fetch brought from `fetchOffset` on. Throws `INVALID_RECORD`. */
  accept(batches: Uint8Array): void {
    const batch: AnyBatch = new MessageBatch(this.source, batches, this.fetchOffset)
    this.fetchOffset = Math.max(this.fetchOffset, batch.lastOffset + 1)
    if (batch.count > 0) {
      this.#next = batch
      this.bufferedBytes += batch.bytes
    } else if (this.#current === null) {
      // markers of transactions, or all compacted away: nothing to hand out, yet progress
      this.position = this.fetchOffset
      if (!this.busy) this.handled = this.fetchOffset
    }
  }

  /** The next batch as a whole. There is one. */
  takeBatch(): AnyBatch {
    if (this.#current === null) this.#advance()
    const batch = this.#current as unknown as AnyBatch
    this.position = batch.lastOffset + 1
    this.#release()
    return batch
  }

  /**
   * The next message of the batch being handled, or null when it is used up, which makes all of it handled.
   */
  takeMessage(): AnyMessage | null {
    if (this.#current === null && !this.#advance()) return null
    this.#messages ??= (this.#current as AnyBatch)[Symbol.iterator]()
    const result = this.#messages.next()
    if (result.done !== true) {
      this.position = result.value.offset + 1
      return result.value
    }
    // the batch may end with offsets that hold no message
    this.position = (this.#current as AnyBatch).lastOffset + 1
    this.handled = this.position
    this.#release()
    return null
  }

  /** Goes on from `offset`, whatever was fetched or is being handled. */
  seek(offset: number): void {
    this.epoch++
    this.source = { topic: this.descriptor, partition: this.partition }
    this.position = offset
    this.handled = offset
    this.fetchOffset = offset
    this.error = null
    this.#current = null
    this.#messages = null
    this.#next = null
    this.bufferedBytes = 0
  }

  /**
   * Hands out nothing and is not fetched for until `paused` is false again. What was fetched ahead is
   * dropped: it would fill the buffer for nothing.
   */
  pause(): void {
    this.paused = true
    if (this.#next !== null) {
      this.bufferedBytes -= this.#next.bytes
      this.#next = null
    }
    if (this.#current !== null && !this.busy) this.#release()
    this.fetchOffset = this.#current === null ? this.position : this.#current.lastOffset + 1
    this.error = null
  }

  /** Ends its use: nothing that is still under way counts. */
  drop(): void {
    this.halted = true
    this.seek(this.handled)
  }

  /** Nobody waits any longer for the handler that is at work. */
  abandon(): void {
    this.abandoned = true
    this.#becomeIdle()
  }

  begin(): void {
    this.busy = true
  }

  end(): void {
    this.busy = false
    this.#becomeIdle()
  }

  /** Resolves when no handler is at work on it that anybody waits for. */
  whenIdle(): Promise<void> {
    return this.busy && !this.abandoned
      ? new Promise(resolve => this.#idleWaiters.push(resolve))
      : Promise.resolve()
  }

  #becomeIdle(): void {
    for (const resolve of this.#idleWaiters.splice(0)) resolve()
  }

  #advance(): boolean {
    this.#current = this.#next
    this.#next = null
    return this.#current !== null
  }

  #release(): void {
    this.bufferedBytes -= (this.#current as AnyBatch).bytes
    this.#current = null
    this.#messages = null
  }
}
