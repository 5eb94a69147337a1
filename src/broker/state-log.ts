/**
 * A table kept in a log: what the broker knows beyond records (topics, committed offsets) is stored as keyed records,
 * the last value of a key being the one that counts, null removing it.
 *
 * Changes made in one turn of the event loop share a batch. When the log holds much more than the table, the table is
 * written again into a new segment, and what lies before is deleted. A crash in between leaves both, which read to the same table.
 */

import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { BatchBuilder } from '../record/builder.ts'
import { RecordCursor } from '../record/cursor.ts'
import type { Partition } from './partition.ts'

export type StateEntry = readonly [key: Buffer, value: Buffer | null]

export interface StateLogOptions {
  readonly partition: Partition
  readonly clock: Clock
  /** Takes a record into the table; called while loading, in order. */
  readonly load: (key: Buffer, value: Buffer | null) => void
  /** All entries of the table as it is now. */
  readonly entries: () => Iterable<StateEntry>
}

/** The log is not rewritten below this size. */
const REWRITE_BYTES_MIN = 4 * 1024 * 1024
/** It is rewritten when it is this many times as large as the table. */
const REWRITE_FACTOR = 4
/** What a record takes up beside its key and value, about. */
const RECORD_BYTES = 12
const READ_BYTES = 1024 * 1024
const BATCH_BYTES = 512 * 1024

export class StateLog {
  readonly #options: StateLogOptions
  readonly #builder = new BatchBuilder()
  /** Of the batch that is being gathered. */
  #gathering: { done: Promise<void>; resolve: () => void; reject: (error: unknown) => void } | null = null
  #rewriteAt = REWRITE_BYTES_MIN
  #rewriting = false

  /** Reads the whole log into the table. Rejects with CORRUPT_LOG. */
  static async open(options: StateLogOptions): Promise<StateLog> {
    const { partition, load } = options
    let offset = partition.startOffset
    while (offset < partition.highWatermark) {
      const batches = await partition.read(offset, READ_BYTES)
      const cursor = new RecordCursor(batches)
      while (cursor.next()) {
        const { bytes, keyStart, keyBytes, valueStart, valueBytes } = cursor
        load(
          Buffer.from(bytes.subarray(keyStart, keyStart + keyBytes)),
          valueBytes < 0 ? null : Buffer.from(bytes.subarray(valueStart, valueStart + valueBytes)),
        )
        offset = cursor.offset + 1
      }
    }
    const log = new StateLog(options)
    log.#planRewrite()
    return log
  }

  private constructor(options: StateLogOptions) {
    this.#options = options
  }

  /** Stores changes that the table has already taken. Resolves when they are as durable as the flush policy promises. */
  write(entries: Iterable<StateEntry>): Promise<void> {
    const timestamp = this.#options.clock.now()
    for (const [key, value] of entries) this.#builder.append(timestamp, key, value, null)
    if (this.#builder.count === 0) return Promise.resolve()
    if (this.#gathering === null) {
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      this.#gathering = { done: promise, resolve, reject }
      this.#options.clock.defer(() => this.#append())
    }
    const { done } = this.#gathering
    if (this.#builder.bytes >= BATCH_BYTES) this.#append()
    return done
  }

  async close(): Promise<void> {
    this.#append()
    await this.#options.partition.close()
  }

  #append(): void {
    const gathering = this.#gathering
    if (gathering === null) return
    this.#gathering = null
    try {
      const { done } = this.#options.partition.append(this.#builder.close(), undefined, true)
      if (done === null) gathering.resolve()
      else done.then(gathering.resolve, gathering.reject)
      if (this.#options.partition.log.bytes >= this.#rewriteAt) this.#rewrite()
    } catch (error) {
      gathering.reject(error)
    } finally {
      this.#builder.reset()
    }
  }

  /** Writes the table again and forgets what lies before. The table cannot change meanwhile: all of it is one turn. */
  #rewrite(): void {
    if (this.#rewriting) return
    const { partition, clock, entries } = this.#options
    const builder = new BatchBuilder()
    const timestamp = clock.now()
    const append = (): void => {
      // Nobody waits for it to be durable: `deleteUntil` does.
      if (builder.count > 0) partition.append(builder.close(), 'written', true)
      builder.reset()
    }
    try {
      partition.log.roll()
      const start = partition.log.endOffset
      for (const [key, value] of entries()) {
        builder.append(timestamp, key, value, null)
        if (builder.bytes >= BATCH_BYTES) append()
      }
      append()
      this.#rewriting = true
      partition.log
        .deleteUntil(start)
        .catch(ignoreStorageErrors)
        .finally(() => {
          this.#rewriting = false
          this.#planRewrite()
        })
    } catch (error) {
      ignoreStorageErrors(error) // a full disk: the long log stays; the next append tries again
    }
  }

  #planRewrite(): void {
    let bytes = 0
    for (const [key, value] of this.#options.entries())
      bytes += RECORD_BYTES + key.length + (value?.length ?? 0)
    this.#rewriteAt = Math.max(REWRITE_BYTES_MIN, bytes * REWRITE_FACTOR)
  }
}

/** Rewriting only saves room: what it fails with shows at the next write as well. */
function ignoreStorageErrors(error: unknown): void {
  if (!(error instanceof SluiceError)) throw error
}
