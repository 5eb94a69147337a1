/**
 * A segment: one `.log` file of record batches, with its offset index and its time index, in Kafka's own formats and
 * names, so that Kafka's tools read them.
 *
 *   00000000000000001000.log         batches, one after another; the name is the offset of the first
 *   00000000000000001000.index       { last offset of a batch − base: int32 │ position of that batch: int32 }, ascending
 *   00000000000000001000.timeindex   { largest timestamp so far: int64 │ last offset of the batch that has it − base: int32 }, both ascending
 *
 * An index gets an entry about every `index.interval.bytes` of log. Both are hints: a reader starts at the position that
 * the index gives and walks from batch to batch; if the position does not hold a batch, it walks from the start of the file.
 */

import type { Clock } from '../lib/clock.ts'
import type { Disk, DiskFile } from '../lib/disk.ts'
import { batchBytes, lastOffset, maxTimestamp, readInt64, recordCount, writeInt64 } from '../record/batch.ts'
import { EntryFile } from './entry-file.ts'
import type { OpenFiles } from './open-files.ts'
import { scan } from './scan.ts'
import { TransactionIndex } from './transaction-index.ts'

const OFFSET_ENTRY_BYTES = 8
const TIME_ENTRY_BYTES = 12
/** Looked through without a pause. */
const EXAMINED_BYTES = 4 * 1024 * 1024
/** Offsets in the indexes are 32 bits relative to the base offset. */
export const RELATIVE_OFFSET_MAX = 2 ** 31 - 1

export const segmentName = (offset: number, suffix: string): string =>
  `${String(offset).padStart(20, '0')}.${suffix}`

/** The base offset in the name of a `.log` file; -1 if it is no such name. */
export function segmentOffset(name: string): number {
  const match = /^(\d{20})\.log$/.exec(name)
  if (match === null) return -1
  const offset = Number(match[1])
  return Number.isSafeInteger(offset) ? offset : -1
}

export class Segment {
  readonly baseOffset: number
  #path: string
  readonly #disk: Disk
  readonly #files: OpenFiles
  readonly #directory: string
  readonly #offsets: EntryFile
  readonly #times: EntryFile
  /** Transactions aborted by markers in this segment. */
  readonly aborted: TransactionIndex
  #size = -1
  #bytesSinceEntry = 0
  /** Largest timestamp so far, and the last offset of the batch that has it; -1: none or not known. */
  #maxTimestamp = -1
  #maxTimestampOffset = -1
  /** When the segment got its first batch, by the broker's clock; -1: not by this process. */
  firstAppend = -1
  #removed = false
  /** Null: not looked at. */
  #isBare: boolean | null = null

  constructor(
    disk: Disk,
    files: OpenFiles,
    directory: string,
    baseOffset: number,
    names: ReadonlySet<string>,
    suffix = '',
  ) {
    this.baseOffset = baseOffset
    this.#path = `${directory}/${segmentName(baseOffset, 'log')}${suffix}`
    this.#disk = disk
    this.#files = files
    this.#directory = directory
    const entryFile = (kind: string, bytes: number): EntryFile => {
      const name = segmentName(baseOffset, kind) + suffix
      return new EntryFile(disk, `${directory}/${name}`, bytes, names.has(name))
    }
    this.#offsets = entryFile('index', OFFSET_ENTRY_BYTES)
    this.#times = entryFile('timeindex', TIME_ENTRY_BYTES)
    const abortedName = segmentName(baseOffset, 'txnindex') + suffix
    this.aborted = new TransactionIndex(disk, `${directory}/${abortedName}`, names.has(abortedName))
  }

  /** Makes the files of a new segment. With a suffix they are not those of a log yet: see `swap.ts`. */
  static create(
    disk: Disk,
    files: OpenFiles,
    directory: string,
    baseOffset: number,
    suffix: '' | '.cleaned' = '',
  ): Segment {
    const segment = new Segment(disk, files, directory, baseOffset, new Set(), suffix)
    files.create(segment.path)
    segment.#size = 0
    return segment
  }

  /** The segment of a file that has not its final name yet, without indexes. */
  static swapOf(disk: Disk, files: OpenFiles, directory: string, baseOffset: number): Segment {
    return new Segment(disk, files, directory, baseOffset, new Set(), '.swap')
  }

  get path(): string {
    return this.#path
  }

  get file(): DiskFile {
    return this.#files.get(this.path)
  }

  /** Bytes of log. */
  get size(): number {
    if (this.#size < 0) this.#size = this.file.size()
    return this.#size
  }

  get maxTimestamp(): number {
    if (this.#maxTimestamp < 0) {
      const entry = this.#times.last()
      if (entry !== null) {
        this.#maxTimestamp = readInt64(entry, 0)
        this.#maxTimestampOffset = this.baseOffset + entry.readInt32BE(8)
      }
    }
    return this.#maxTimestamp
  }

  /** Last offset of the batch with the largest timestamp. */
  get maxTimestampOffset(): number {
    return this.maxTimestamp < 0 ? -1 : this.#maxTimestampOffset
  }

  /** Writes one whole batch at the end. Throws DiskError; then the file may have grown: `truncate` it. */
  append(batch: Buffer, indexIntervalBytes: number): void {
    const position = this.size
    this.file.write(batch, position)
    this.note(batch, 0, batch.length, position, indexIntervalBytes)
    this.#size = position + batch.length
  }

  /** As `append`, any number of batches in one write. */
  appendAll(batches: Buffer, indexIntervalBytes: number): void {
    const position = this.size
    this.file.write(batches, position)
    for (let at = 0; at < batches.length; ) {
      const bytes = batchBytes(batches, at)
      this.note(batches, at, bytes, position + at, indexIntervalBytes)
      at += bytes
    }
    this.#size = position + batches.length
  }

  /** Takes a batch that lies at `position` of the file into the indexes. */
  note(bytes: Buffer, at: number, batchBytes: number, position: number, indexIntervalBytes: number): void {
    const last = lastOffset(bytes, at)
    const timestamp = maxTimestamp(bytes, at)
    if (timestamp > this.maxTimestamp) {
      this.#maxTimestamp = timestamp
      this.#maxTimestampOffset = last
    }
    if (this.#bytesSinceEntry > indexIntervalBytes) {
      this.#offsets.append((entry, start) => {
        entry.writeInt32BE(last - this.baseOffset, start)
        entry.writeInt32BE(position, start + 4)
      })
      this.#noteTime()
      this.#bytesSinceEntry = 0
    }
    this.#bytesSinceEntry += batchBytes
  }

  /** The last batch that the offset index knows with a last offset of at most `offset`; null if there is none. To be verified. */
  indexedBefore(offset: number): { position: number; lastOffset: number } | null {
    const relative = offset - this.baseOffset
    const entry = this.#offsets.findLast((bytes, at) => bytes.readInt32BE(at) <= relative)
    if (entry === null) return null
    const position = entry.readInt32BE(4)
    if (position < 0 || position >= this.size) return null
    return { position, lastOffset: this.baseOffset + entry.readInt32BE(0) }
  }

  /**
   * What the time index knows of the time just before `timestamp`: every record before `lastOffset`, the last of the batch with the
   * largest timestamp so far, is older. Null if it knows nothing. To be verified.
   */
  timedBefore(timestamp: number): { timestamp: number; lastOffset: number } | null {
    const entry = this.#times.findLast((bytes, at) => readInt64(bytes, at) < timestamp)
    if (entry === null) return null
    return { timestamp: readInt64(entry, 0), lastOffset: this.baseOffset + entry.readInt32BE(8) }
  }

  /** Drops index entries that speak of the log from `position` on, and what is remembered of timestamps. */
  cutIndexes(position: number): void {
    this.#offsets.cut((bytes, at) => bytes.readInt32BE(at + 4) < position)
    const last = this.#offsets.last()
    const lastIndexed = last === null ? -1 : last.readInt32BE(0)
    this.#times.cut((bytes, at) => bytes.readInt32BE(at + 8) <= lastIndexed)
    this.#maxTimestamp = -1
    this.#maxTimestampOffset = -1
    this.#bytesSinceEntry = 0
  }

  /** Cuts the log to `size` bytes; no index entry may speak of what lies behind. */
  truncate(size: number): void {
    if (this.file.size() > size) this.file.truncate(size)
    this.#size = size
  }

  /** What a checkpoint remembers of the largest timestamp, given back. */
  restoreMaxTimestamp(timestamp: number, offset: number): void {
    this.#maxTimestamp = timestamp
    this.#maxTimestampOffset = offset
  }

  /** Whether it is known to have no records: compaction took them all. */
  get isBare(): boolean {
    return this.#isBare === true
  }

  /**
   * Looks through the records if the time index does not tell the largest timestamp: it may be lost, or there are no records. Others get their
   * turn in between. To be called for a segment that has ended; does it once. Rejects with DiskError.
   */
  async examine(clock: Clock, isStopped: () => boolean): Promise<void> {
    if (this.maxTimestamp >= 0 || this.#isBare !== null) return
    let hasRecords = false
    let largest = -1
    let largestOffset = -1
    for (let position = 0; position < this.size; ) {
      const until = position + EXAMINED_BYTES
      for (const found of scan(this.file, position)) {
        if (found.wrong !== null) {
          this.#isBare = false // what cannot be read is not known to be nothing
          return
        }
        position = found.position + found.batchBytes
        if (recordCount(found.bytes, found.at) > 0) {
          hasRecords = true
          const timestamp = maxTimestamp(found.bytes, found.at)
          if (timestamp > largest) {
            largest = timestamp
            largestOffset = lastOffset(found.bytes, found.at)
          }
        }
        if (position >= until) break
      }
      await new Promise<void>(resolve => clock.defer(resolve))
      if (this.#removed || isStopped()) return
    }
    // Not before the end: what lies before damage, or a pause, says nothing of what lies behind.
    this.restoreMaxTimestamp(largest, largestOffset)
    this.#isBare = !hasRecords
  }

  /** No more appends: the time index gets its last entry, so that the largest timestamp is known without reading the log. */
  seal(): void {
    this.#noteTime()
    this.#offsets.flush()
    this.#offsets.make() // Kafka's dump tool reads a time index only if there is the other one
    // Without its last entry the index would make the segment older than it is, and retention would remove it too early.
    if (!this.#times.flush()) this.#times.discard()
  }

  async syncIndexes(): Promise<void> {
    if (!this.#removed) await this.#offsets.sync()
    if (!this.#removed) await this.#times.sync()
    if (!this.#removed) await this.aborted.sync()
  }

  async sync(): Promise<void> {
    await this.file.sync()
  }

  /** Whoever reads from it has to look for its place anew, in the segment that has taken its place. */
  get removed(): boolean {
    return this.#removed
  }

  /** Removes the files. Reads under way are completed. */
  remove(): void {
    this.#removed = true
    this.#files.close(this.#path)
    this.#disk.remove(this.#path)
    for (const suffix of ['index', 'timeindex', 'snapshot', 'txnindex']) {
      this.#disk.remove(this.#name(suffix))
    }
  }

  /** The log file gets another suffix. Reads under way are completed. Throws DiskError. */
  moveLog(suffix: '' | '.swap'): void {
    const path = this.#name('log') + suffix
    this.#files.close(this.#path)
    this.#disk.rename(this.#path, path)
    this.#path = path
  }

  /** The indexes get the names that those of a segment have, in place of what is there. Throws DiskError. */
  moveIndexes(): void {
    this.#offsets.move(this.#name('index'))
    this.#times.move(this.#name('timeindex'))
    this.aborted.move(this.#name('txnindex'))
  }

  /** Another segment has taken its place: the log file is set aside as `.deleted`, the indexes go. Throws DiskError. */
  retire(): void {
    this.#removed = true
    this.#files.close(this.#path)
    this.#disk.rename(this.#path, this.retiredPath)
    for (const suffix of ['index', 'timeindex', 'txnindex']) this.#disk.remove(this.#name(suffix))
  }

  get retiredPath(): string {
    return `${this.#name('log')}.deleted`
  }

  /** Removes what was made under the suffix `.cleaned` or `.swap`, and nothing else. */
  discard(): void {
    this.#removed = true
    this.#files.close(this.#path)
    this.#disk.remove(this.#path)
    this.#offsets.discard()
    this.#times.discard()
    this.#disk.remove(this.aborted.path)
  }

  #name(suffix: string): string {
    return `${this.#directory}/${segmentName(this.baseOffset, suffix)}`
  }

  #noteTime(): void {
    const timestamp = this.maxTimestamp
    if (timestamp < 0) return
    const last = this.#times.last()
    if (last !== null && readInt64(last, 0) >= timestamp) return
    this.#times.append((entry, start) => {
      writeInt64(entry, start, timestamp)
      entry.writeInt32BE(this.#maxTimestampOffset - this.baseOffset, start + 8)
    })
  }
}
