/**
 * The aborted transactions of a segment, in Kafka's format and file name (`.txnindex`): what a read-committed reader has to leave
 * out. An entry belongs to the segment in which the transaction's marker lies, and they are in the order of the markers.
 *
 *   version int16 = 0 │ producer id int64 │ first offset int64 │ last offset int64 (of the marker)
 *   │ last stable offset int64 (once this transaction has ended: nothing before it is undecided)
 *
 * Unlike the other indexes it is no hint: without an entry, aborted records would be read. So an entry is written before its
 * marker, at once, or the marker is refused. It is durable with the checkpoint behind its marker; what lies after the last checkpoint is made again
 * from the markers when the log is opened.
 */

import type { Disk, DiskFile } from '../lib/disk.ts'
import { readInt64, writeInt64 } from '../record/batch.ts'
import { readFully } from './scan.ts'

const ENTRY_BYTES = 34
const VERSION = 0
/** Entries read in one go. */
const ENTRIES_READ = 256

export interface AbortedTransaction {
  readonly producerId: number
  readonly firstOffset: number
  /** Of the marker. */
  readonly lastOffset: number
  readonly lastStableOffset: number
}

export class TransactionIndex {
  #path: string
  readonly #disk: Disk
  #count = 0
  #exists: boolean
  #isLost = false

  /** `exists`: open what is there (a torn last entry is ignored); otherwise the file is made with the first entry. Throws DiskError. */
  constructor(disk: Disk, path: string, exists: boolean) {
    this.#path = path
    this.#disk = disk
    this.#exists = exists
    if (exists) this.#count = this.#withFile('read', file => Math.floor(file.size() / ENTRY_BYTES))
  }

  get path(): string {
    return this.#path
  }

  get count(): number {
    return this.#count
  }

  /** Takes the place of whatever is at `path`. Throws DiskError. */
  move(path: string): void {
    if (this.#exists) this.#disk.rename(this.#path, path)
    else this.#disk.remove(path)
    this.#path = path
  }

  /** Throws DiskError; then the entry is not there. */
  append({ producerId, firstOffset, lastOffset, lastStableOffset }: AbortedTransaction): void {
    const entry = Buffer.alloc(ENTRY_BYTES)
    entry.writeInt16BE(VERSION, 0)
    writeInt64(entry, 2, producerId)
    writeInt64(entry, 10, firstOffset)
    writeInt64(entry, 18, lastOffset)
    writeInt64(entry, 26, lastStableOffset)
    this.#withFile(this.#exists ? 'write' : 'create', file => {
      this.#exists = true
      try {
        file.write(entry, this.#count * ENTRY_BYTES)
      } catch (error) {
        // What was written of it must not be found as an entry later: its marker is not going to be there.
        file.truncate(this.#count * ENTRY_BYTES)
        throw error
      }
    })
    this.#count++
  }

  /**
   * Adds to `found` the transactions with records from `offset` up to `end`. Returns whether there may be more of them in later
   * segments. Throws DiskError.
   */
  collect(offset: number, end: number, found: AbortedTransaction[]): boolean {
    if (this.#count === 0) return true
    return this.#withFile('read', file => {
      for (let index = this.#firstFrom(file, offset); index < this.#count; index += ENTRIES_READ) {
        const entries = this.#read(file, index, Math.min(ENTRIES_READ, this.#count - index))
        for (let at = 0; at < entries.length; at += ENTRY_BYTES) {
          const entry = decode(entries, at)
          if (entry.firstOffset < end) found.push(entry)
          if (entry.lastStableOffset >= end) return false
        }
      }
      return true
    })
  }

  /** Drops the transactions whose marker lies at `offset` or later. Throws DiskError. */
  cut(offset: number): void {
    if (this.#count === 0) return
    const kept = this.#withFile('read', file => this.#firstFrom(file, offset))
    if (kept === this.#count) return
    this.#withFile('write', file => file.truncate(kept * ENTRY_BYTES))
    this.#count = kept
  }

  /** Drops all but the first entries: those that are known to be durable. Throws DiskError. */
  keep(count: number): void {
    if (count >= this.#count) return
    this.#withFile('write', file => file.truncate(count * ENTRY_BYTES))
    this.#count = count
  }

  /** A sync has failed: what was written may never get to the disk, whatever a later sync says. */
  get isLost(): boolean {
    return this.#isLost
  }

  /** Rejects with DiskError. */
  async sync(): Promise<void> {
    if (!this.#exists) return
    const file = this.#disk.open(this.#path, 'write')
    try {
      await file.sync()
    } catch (error) {
      this.#isLost = true
      throw error
    } finally {
      file.close()
    }
  }

  /** The first entry whose marker lies at `offset` or later. */
  #firstFrom(file: DiskFile, offset: number): number {
    let low = -1
    let high = this.#count
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (decode(this.#read(file, middle, 1), 0).lastOffset < offset) low = middle
      else high = middle
    }
    return high
  }

  #read(file: DiskFile, index: number, count: number): Buffer {
    return readFully(file, index * ENTRY_BYTES, count * ENTRY_BYTES)
  }

  #withFile<T>(mode: 'read' | 'write' | 'create', use: (file: DiskFile) => T): T {
    const file = this.#disk.open(this.#path, mode)
    try {
      return use(file)
    } finally {
      file.close()
    }
  }
}

const decode = (bytes: Buffer, at: number): AbortedTransaction => ({
  producerId: readInt64(bytes, at + 2),
  firstOffset: readInt64(bytes, at + 10),
  lastOffset: readInt64(bytes, at + 18),
  lastStableOffset: readInt64(bytes, at + 26),
})
