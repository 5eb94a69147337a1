/**
 * A partition: a log with a high watermark, readers that wait for it, and a flush policy.
 *
 * The high watermark is the end of what readers are shown. Under `always` it follows the disk: nobody sees a record
 * that a power cut could take back. Under `interval` and `os` it follows the log's end.
 */

import { SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import type { CompactionResult } from '../log/compaction.ts'
import { type Appended, Log, type LogOptions } from '../log/log.ts'
import { outOfRange } from '../log/log-reader.ts'
import type { AbortedTransaction } from '../log/transaction-index.ts'
import type { FlushPolicy, TopicConfig } from './config.ts'

/**
 * When an append is acknowledged: at once, when it is in the page cache, or when it is on the disk. Left out: what the flush
 * policy promises (`flushed` under `always`, else `written`).
 */
export type Acks = 'none' | 'written' | 'flushed'

export interface PartitionOptions extends Omit<LogOptions, 'config' | 'onDurable'> {
  readonly topic: string
  readonly partition: number
  readonly config: TopicConfig
}

export interface PartitionStats {
  appendedRecords: number
  appendedBytes: number
  readBytes: number
}

export class Partition {
  readonly topic: string
  readonly partition: number
  readonly stats: PartitionStats = { appendedRecords: 0, appendedBytes: 0, readBytes: 0 }
  readonly #clock: Clock
  readonly #volatile: boolean
  #log!: Log
  #policy: FlushPolicy
  #highWatermark = 0
  #waiting = new Set<() => void>()
  #unflushed = 0
  #flushTimer: Timer | null = null
  #closed = false

  static async open(options: PartitionOptions): Promise<Partition> {
    const partition = new Partition(options)
    partition.#log = await Log.open({
      ...options,
      config: options.config.log,
      onDurable: offset => partition.#durable(offset),
    })
    partition.#highWatermark = partition.#log.endOffset
    return partition
  }

  private constructor(options: PartitionOptions) {
    this.topic = options.topic
    this.partition = options.partition
    this.#clock = options.clock
    this.#policy = options.config.flush
    // Memory has nothing that a sync could add.
    this.#volatile = options.disk.kind === 'memory'
  }

  get log(): Log {
    return this.#log
  }

  get startOffset(): number {
    return this.#log.startOffset
  }

  get highWatermark(): number {
    return this.#highWatermark
  }

  /** End of what read-committed readers are shown: nothing before it belongs to a transaction that is still open. */
  get lastStableOffset(): number {
    // Where records of an open transaction were deleted, that lies behind where it begins.
    return Math.max(this.startOffset, Math.min(this.#highWatermark, this.#log.firstUnstableOffset))
  }

  configure(config: TopicConfig): void {
    this.#policy = config.flush
    this.#log.configure(config.log)
  }

  /**
   * Appends a batch (see `Log.append` for what it throws). `done` is null if the acknowledgement asked for is due at once,
   * otherwise a promise of it, which rejects with STORAGE_FAILED.
   */
  append(
    batch: Buffer,
    acks: Acks | undefined,
    trusted: boolean,
  ): { appended: Appended; done: Promise<void> | null } {
    if (this.#closed) throw closed(this)
    const appended = this.#log.append(batch, trusted)
    const end = appended.lastOffset + 1
    if (!appended.repeated) {
      const count = end - appended.baseOffset
      this.stats.appendedRecords += count
      this.stats.appendedBytes += batch.length
      this.#afterAppend(count)
    }
    const flushed =
      !this.#volatile && (acks === undefined ? this.#policy.kind === 'always' : acks === 'flushed')
    return { appended, done: flushed ? this.#log.flush(end) : null }
  }

  /**
   * Writes the marker that ends the transaction which the producer has open here; does nothing if it has none. Resolves when that is
   * as durable as the flush policy promises. Throws as `Log.append`.
   */
  endTransaction(producerId: number, epoch: number, commit: boolean): Promise<void> {
    if (this.#closed) throw closed(this)
    if (this.#log.endTransaction(producerId, epoch, commit) >= 0) this.#afterAppend(1)
    const isFlushed = !this.#volatile && this.#policy.kind === 'always'
    return isFlushed ? this.#log.flush() : Promise.resolve()
  }

  /**
   * Aborted transactions with records from `offset` up to `end`. Throws STORAGE_FAILED, and OFFSET_OUT_OF_RANGE if what lies at `offset`
   * was deleted: what was known of it has gone with it, also for those who have read it before.
   */
  abortedTransactions(offset: number, end: number): AbortedTransaction[] {
    if (offset < this.startOffset) throw outOfRange(offset, this.startOffset, this.#highWatermark)
    return this.#log.abortedTransactions(offset, end)
  }

  /** Batches from `offset` up to the high watermark, or another limit below it; see `Log.read`. */
  read(offset: number, bytesMax: number, limit = this.#highWatermark): Buffer | Promise<Buffer> {
    if (this.#closed) throw closed(this)
    const batches = this.#log.read(offset, bytesMax, limit)
    if (batches instanceof Promise) return this.#countRead(batches)
    this.stats.readBytes += batches.length
    return batches
  }

  /** Calls `wake` once, when the high watermark moves (the last stable offset moves with it: a marker is a record, too) or the partition is closed. Returns what takes that back. */
  wait(wake: () => void): () => void {
    this.#waiting.add(wake)
    return () => this.#waiting.delete(wake)
  }

  async offsetForTime(timestamp: number): Promise<number> {
    const offset = await this.#log.offsetForTime(timestamp, this.#highWatermark)
    return offset < 0 ? this.#highWatermark : offset
  }

  /** Deletes the records before `offset`; -1: all that readers see. */
  async deleteUntil(offset: number): Promise<number> {
    const until = offset === -1 ? this.#highWatermark : offset
    if (until > this.#highWatermark) {
      throw new SluiceError(
        'OFFSET_OUT_OF_RANGE',
        `offset ${until} is after the end of ${this.topic}/${this.partition} (${this.#highWatermark})`,
        { topic: this.topic, partition: this.partition, offset: until },
      )
    }
    await this.#log.deleteUntil(until)
    return this.#log.startOffset
  }

  enforceRetention(): Promise<number> {
    return this.#log.enforceRetention(this.#clock.now(), this.#highWatermark)
  }

  /** Whether the records should be compacted: then the part of them that never was, from 0 to 1; -1 if not. Throws as `Log.read`. */
  compactionDue(): number {
    return this.#closed ? -1 : this.#log.compactionDue(this.lastStableOffset)
  }

  /** See `Log.compact`. What is not decided yet, and what readers do not see yet, is left alone. */
  async compact(keyMapBytesMax?: number): Promise<CompactionResult | null> {
    if (this.#closed) throw closed(this)
    const firstUncleanableOffset = this.lastStableOffset
    const aborted = this.abortedTransactions(this.startOffset, firstUncleanableOffset)
    return this.#log.compact({ firstUncleanableOffset, aborted, keyMapBytesMax })
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#flushTimer?.cancel()
    this.#wake()
    await this.#log.close()
  }

  #afterAppend(count: number): void {
    if (this.#policy.kind === 'always' && !this.#volatile) {
      this.#log.startFlush()
      return
    }
    this.#highWatermark = this.#log.endOffset
    this.#wake()
    if (this.#policy.kind === 'interval' && !this.#volatile) this.#scheduleFlush(count)
  }

  #scheduleFlush(count: number): void {
    this.#unflushed += count
    if (this.#unflushed >= this.#policy.messages) {
      this.#unflushed = 0
      this.#log.startFlush()
    } else if (this.#flushTimer === null && Number.isFinite(this.#policy.ms)) {
      this.#flushTimer = this.#clock.after(this.#policy.ms, () => {
        this.#flushTimer = null
        this.#unflushed = 0
        this.#log.startFlush()
      })
    }
  }

  #durable(offset: number): void {
    if (offset <= this.#highWatermark) return
    this.#highWatermark = offset
    this.#wake()
  }

  #wake(): void {
    if (this.#waiting.size === 0) return
    const waiting = this.#waiting
    this.#waiting = new Set()
    for (const wake of waiting) wake()
  }

  async #countRead(pending: Promise<Buffer>): Promise<Buffer> {
    const batches = await pending
    this.stats.readBytes += batches.length
    return batches
  }
}

const closed = (partition: Partition): SluiceError =>
  new SluiceError('CLOSED', `${partition.topic}/${partition.partition} is closed`, {
    topic: partition.topic,
    partition: partition.partition,
  })
