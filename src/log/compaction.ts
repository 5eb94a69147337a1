/**
 * Compaction: of the records of a key only the last one stays. One pass goes over the closed segments twice:
 *
 *     0 ──────── clean ──────── firstDirty ──────── dirty ──────── end │ not to be touched, active segment
 *                               1. last offset of each key → key map
 *     2. every segment from the start to `end` is written again without what a later record replaces;
 *        small neighbours become one; each takes the place of the old ones before the next is begun
 *
 * What goes, as in Kafka: records with a later one of the same key before `end`, and records without a key; tombstones (null
 * values) once their grace time is over, which is written into their batch when it is first cleaned (delete horizon); records of
 * aborted transactions; the marker of a transaction once no record of it is left and its grace time is over. What is left of a
 * batch keeps offsets, timestamps and compression. The last batch of each producer stays, empty if need be, so that its sequence
 * number is not forgotten.
 *
 * Offsets stay without gaps all the same: where whole batches go, one empty batch stands for their offsets. So reading, recovery and
 * verification go on from batch to batch as in any segment, and a lost or damaged header shows.
 *
 * Segments are replaced in ascending order, and a record goes only if a durable one replaces it. So at no point is an old value
 * the last one of its key: a tombstone goes at the earliest in the pass after the one that took what it deletes.
 *
 * Works in slices, so that others get their turn, and in fixed memory: if the key map is full, `end` is where it got to.
 */

import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Disk } from '../lib/disk.ts'
import { releaseOwned } from '../lib/memory.ts'
import {
  asBuffer,
  BATCH_HEADER_BYTES,
  baseOffset,
  batchBytes,
  checkBatch,
  checkHeader,
  deleteHorizon,
  isControl,
  isTransactional,
  lastOffset,
  leaderEpoch,
  producerId,
  recordCount,
} from '../record/batch.ts'
import { RecordCursor } from '../record/cursor.ts'
import { emptied, emptySpan, type FilterOptions, filterBatch, withDeleteHorizon } from '../record/filter.ts'
import { KeyMap } from './key-map.ts'
import type { OpenFiles } from './open-files.ts'
import { readFully } from './scan.ts'
import { RELATIVE_OFFSET_MAX, Segment } from './segment.ts'
import { LEADER_EPOCH } from './select.ts'
import { TransactionFilter } from './transaction-filter.ts'
import type { AbortedTransaction } from './transaction-index.ts'

/** What a topic wants; see docs/CONFIGURATION.md for the keys they come from. */
export interface CompactionConfig {
  /** `min.compaction.lag.ms`: a segment with a newer record is left alone. */
  readonly lagMsMin: number
  /** `max.compaction.lag.ms`: a log whose oldest dirty record is older is compacted whatever the ratio. */
  readonly lagMsMax: number
  /** `min.cleanable.dirty.ratio`: otherwise it is when more than this part of its bytes is dirty. */
  readonly dirtyRatioMin: number
  /** `delete.retention.ms`: grace time of tombstones. */
  readonly deleteRetentionMs: number
}

export interface CompactionOptions {
  /**
   * Nothing from the segment of this offset on is touched: the last stable offset, or the high watermark where there are no
   * transactions.
   */
  readonly firstUncleanableOffset: number
  /** Aborted transactions that lie before it. Default: none. */
  readonly aborted?: readonly AbortedTransaction[]
  /** Memory for the key map, in bytes: 24 for a slot. Default 64 MiB, for about 2 million keys. */
  readonly keyMapBytesMax?: number | undefined
  /** How long to work before others get their turn, in ms. Default 0.5. */
  readonly sliceMs?: number
}

export interface CompactionResult {
  /** All there was to do is done: the key map did not get full. */
  readonly isComplete: boolean
  /** Where the next pass begins. */
  readonly cleanedUntil: number
  /** Records read while writing, and those of them that stayed. */
  readonly recordsRead: number
  readonly recordsKept: number
  readonly bytesBefore: number
  readonly bytesAfter: number
  readonly segmentsBefore: number
  readonly segmentsAfter: number
}

/** What there is to compact. */
export interface CompactionRange {
  /** Closed and durable, from the start of the log; the offset where each ends. */
  readonly segments: readonly { readonly segment: Segment; readonly end: number }[]
  readonly firstDirty: number
  readonly end: number
  readonly cleanBytes: number
  readonly dirtyBytes: number
}

/** The log, as far as compaction has to do with it. */
export interface CompactionHost {
  readonly disk: Disk
  readonly files: OpenFiles
  readonly directory: string
  readonly clock: Clock
  readonly indexIntervalBytes: number
  readonly segmentBytesMax: number
  readonly config: CompactionConfig
  /** Where the last batch of a producer ends; -1 if it is not known any more. */
  lastOffsetOf(producerId: number): number
  /** The log is being closed, or has failed. */
  isStopped(): boolean
  /** Puts the new segment, which is synced, in the place of the old ones. */
  swapIn(cleaned: Segment, old: readonly Segment[]): Promise<void>
}

export const KEY_MAP_BYTES_MAX = 64 * 1024 * 1024
const SLICE_MS = 0.5
const READ_BYTES = 512 * 1024
const WRITE_BYTES = 256 * 1024
/** Written between two syncs: one large sync at the end would hold up those of the log. */
const SYNC_BYTES = 16 * 1024 * 1024

/** Part of the bytes that is dirty. */
export const dirtyRatio = ({ cleanBytes, dirtyBytes }: CompactionRange): number =>
  dirtyBytes === 0 ? 0 : dirtyBytes / (cleanBytes + dirtyBytes)

/** The closed segments that may be compacted now; null if none is dirty. `ends[i]`: where segment i ends. */
export function cleanableRange(
  segments: readonly Segment[],
  ends: readonly number[],
  cleanedUntil: number,
  limit: number,
  newest: number,
): CompactionRange | null {
  let cleanBytes = 0
  let dirtyBytes = 0
  const found: { segment: Segment; end: number }[] = []
  for (const [index, segment] of segments.entries()) {
    const end = ends[index]
    if (end > limit || (end > cleanedUntil && segment.maxTimestamp > newest)) break
    found.push({ segment, end })
    if (end <= cleanedUntil) cleanBytes += segment.size
    else dirtyBytes += segment.size
  }
  if (dirtyBytes === 0) return null
  const firstDirty = Math.max(cleanedUntil, found[0].segment.baseOffset)
  return { segments: found, firstDirty, end: found[found.length - 1].end, cleanBytes, dirtyBytes }
}

/** One pass over a log. Use it once. */
export class Compaction {
  readonly #host: CompactionHost
  readonly #range: CompactionRange
  readonly #options: CompactionOptions
  readonly #map: KeyMap
  readonly #now: number
  readonly #filter: FilterOptions
  #transactions: TransactionFilter
  /** Last offset that the map knows of; later records stay. */
  #mapped = -1
  #sliceEnd = 0
  #recordsRead = 0
  #recordsKept = 0
  #segmentsAfter = 0
  #segmentsBefore = 0
  #bytesBefore = 0
  #bytesAfter = 0
  #writer: CleanedWriter | null = null

  constructor(host: CompactionHost, range: CompactionRange, options: CompactionOptions) {
    this.#host = host
    this.#range = range
    this.#options = options
    this.#map = new KeyMap(options.keyMapBytesMax ?? KEY_MAP_BYTES_MAX)
    this.#transactions = new TransactionFilter(options.aborted ?? [])
    const now = host.clock.now()
    this.#now = now
    this.#filter = {
      look: (record, index) => this.#look(record, index),
      keep: index => this.#keeps(index),
      deleteHorizon: now + host.config.deleteRetentionMs,
    }
  }

  /** Rejects with CORRUPT_LOG, DiskError, and CLOSED if it was stopped. What was replaced by then stays so. */
  async run(): Promise<CompactionResult> {
    this.#startSlice()
    const isComplete = await this.#mapKeys()
    const end = isComplete ? this.#range.end : this.#mapped + 1
    this.#transactions = new TransactionFilter(this.#options.aborted ?? [])
    try {
      for (const group of this.#groups(end)) await this.#clean(group)
    } finally {
      this.#writer?.discard()
    }
    return {
      isComplete,
      cleanedUntil: end,
      recordsRead: this.#recordsRead,
      recordsKept: this.#recordsKept,
      bytesBefore: this.#bytesBefore,
      bytesAfter: this.#bytesAfter,
      segmentsBefore: this.#segmentsBefore,
      segmentsAfter: this.#segmentsAfter,
    }
  }

  // what stays

  /** Takes the dirty part into the map. False if it got full on the way. */
  async #mapKeys(): Promise<boolean> {
    const { segments, firstDirty } = this.#range
    let isFull = false
    this.#mapped = firstDirty - 1
    const take = (batch: Buffer): boolean => {
      const isDropped = this.#transactions.observe(batch)
      if (lastOffset(batch, 0) < firstDirty || isControl(batch, 0) || isDropped) return true
      const cursor = new RecordCursor(batch)
      const offsets = this.#offsets
      let count = 0
      while (cursor.next()) {
        if (cursor.keyBytes < 0 || cursor.offset < firstDirty) continue
        this.#map.stage(count, cursor.bytes, cursor.keyStart, cursor.keyBytes)
        offsets[count++] = cursor.offset
      }
      this.#map.touch(count)
      for (let index = 0; index < count; index++) {
        if (!this.#map.put(index, offsets[index])) {
          isFull = true
          return false
        }
        this.#mapped = offsets[index]
      }
      this.#mapped = lastOffset(batch, 0)
      return true
    }
    for (const { segment, end } of segments) {
      // Transactions are followed from their begin, which may lie in the clean part.
      if (end <= firstDirty && !this.#transactions.isNeeded) continue
      if (!(await this.#walk(segment, end, take))) break
    }
    return !isFull
  }

  #look(record: RecordCursor, index: number): void {
    const { offset, keyBytes } = record
    this.#offsets[index] = offset
    // A key has to be staged for every number; of these nobody asks.
    this.#map.stage(index, record.bytes, record.keyStart, Math.max(keyBytes, 0))
    this.#drops[index] = offset <= this.#mapped && (keyBytes < 0 || (record.valueBytes < 0 && this.#isOver))
    this.#looked = index + 1
  }

  #keeps(index: number): boolean {
    if (index === 0) this.#map.touch(this.#looked)
    this.#recordsRead++
    if (this.#drops[index]) return false
    const offset = this.#offsets[index]
    if (offset <= this.#mapped && offset < this.#map.get(index)) return false
    this.#recordsKept++
    return true
  }

  // Of the batch at hand: offsets of its records, which of them go whatever the map says, and how many there are.
  readonly #offsets: number[] = []
  readonly #drops: boolean[] = []
  #looked = 0

  /** Of the batch at hand: the grace time of its tombstones is over. */
  #isOver = false

  /** What is to be written for a batch: itself, less of it, or nothing. */
  #reduce(batch: Buffer): Buffer | null {
    const id = producerId(batch, 0)
    const horizon = deleteHorizon(batch, 0)
    this.#isOver = horizon >= 0 && horizon <= this.#now
    let result: Buffer | null
    if (isControl(batch, 0)) {
      const isNeeded = !this.#transactions.observe(batch)
      if (isNeeded) {
        result = batch
        const aborted = this.#transactions.abortedBy(batch)
        if (aborted !== undefined) this.#writer?.noteAborted(aborted)
      } else if (horizon < 0) result = withDeleteHorizon(batch, this.#filter.deleteHorizon)
      else result = this.#isOver ? null : batch
    } else if (isTransactional(batch, 0) && this.#transactions.observe(batch)) result = null
    else if (recordCount(batch, 0) === 0) result = null
    else if (baseOffset(batch, 0) > this.#mapped) {
      const count = recordCount(batch, 0)
      this.#recordsRead += count
      this.#recordsKept += count
      result = batch
    } else result = filterBatch(batch, this.#filter)
    if (result !== null || id < 0 || this.#host.lastOffsetOf(id) !== lastOffset(batch, 0)) return result
    return recordCount(batch, 0) === 0 ? batch : emptied(batch)
  }

  // segments

  /** Neighbours that fit into one segment. */
  #groups(end: number): { readonly segments: readonly Segment[]; readonly ends: readonly number[] }[] {
    const groups: { segments: Segment[]; ends: number[]; bytes: number }[] = []
    for (const { segment, end: segmentEnd } of this.#range.segments) {
      if (segment.baseOffset >= end) break
      const group = groups.at(-1)
      if (
        group !== undefined &&
        group.bytes + segment.size <= this.#host.segmentBytesMax &&
        segmentEnd - group.segments[0].baseOffset <= RELATIVE_OFFSET_MAX
      ) {
        group.segments.push(segment)
        group.ends.push(segmentEnd)
        group.bytes += segment.size
      } else groups.push({ segments: [segment], ends: [segmentEnd], bytes: segment.size })
    }
    return groups
  }

  async #clean(group: {
    readonly segments: readonly Segment[]
    readonly ends: readonly number[]
  }): Promise<void> {
    const { segments, ends } = group
    const writer = new CleanedWriter(this.#host, segments[0].baseOffset)
    this.#writer = writer
    let isChanged = segments.length > 1
    const take = (batch: Buffer): boolean => {
      if (recordCount(batch, 0) === 0 && producerId(batch, 0) < 0) {
        writer.leaveOut(batch)
        return true
      }
      const result = this.#reduce(batch)
      if (result !== batch) isChanged = true
      if (result === null) writer.leaveOut(batch)
      else writer.write(result)
      return true
    }
    let before = 0
    for (const [index, segment] of segments.entries()) {
      before += segment.size
      await this.#walk(segment, ends[index], take, () => writer.syncSome())
    }
    this.#segmentsBefore += segments.length
    this.#bytesBefore += before
    if (isChanged) {
      const cleaned = await writer.finish()
      this.#check()
      // From here on the files belong to the log.
      this.#writer = null
      await this.#host.swapIn(cleaned, segments)
      this.#bytesAfter += cleaned.removed ? 0 : cleaned.size
    } else {
      writer.discard()
      this.#writer = null
      this.#bytesAfter += before
    }
    this.#segmentsAfter++
    await this.#pause()
  }

  /** Shows the batches of a segment, until one call returns false; then so does this. Rejects with CORRUPT_LOG. */
  async #walk(
    segment: Segment,
    end: number,
    take: (batch: Buffer) => boolean,
    afterPiece: () => Promise<void> | null = () => null,
  ): Promise<boolean> {
    let position = 0
    let due = segment.baseOffset
    let wanted = READ_BYTES
    let ahead: Ahead | null = null
    while (position < segment.size) {
      this.#check(segment)
      const asked = Math.min(wanted, segment.size - position)
      const reading = ahead?.position === position ? ahead.bytes : segment.file.read(position, asked)
      const piece = await reading
      let bytes = asBuffer(piece)
      let at = 0
      ahead = readAhead(segment, position + wholeBatches(bytes))
      for (;;) {
        const wrong = bytes.length - at < BATCH_HEADER_BYTES ? null : checkHeader(bytes, at, bytes.length)
        if (wrong !== null) throw damage(segment, position + at, wrong)
        const length = bytes.length - at < BATCH_HEADER_BYTES ? BATCH_HEADER_BYTES : batchBytes(bytes, at)
        if (at + length > bytes.length) {
          if (at > 0) break
          if (position + length > segment.size)
            throw damage(segment, position, 'the file ends inside a batch')
          wanted = length
          if (asked < length) break
          this.#check(segment)
          bytes = readFully(segment.file, position, length) // not at hand in one piece
          if (bytes.length < length) throw damage(segment, position, 'the file ends inside a batch')
          continue
        }
        this.#verify(segment, bytes, at, position + at, due)
        due = lastOffset(bytes, at) + 1
        if (!take(bytes.subarray(at, at + length))) return false
        at += length
        if (this.#host.clock.monotonic() >= this.#sliceEnd) await this.#pause()
        if (at === bytes.length) break
      }
      if (at > 0) wanted = READ_BYTES
      position += at
      releaseOwned(piece)
      const pending = afterPiece()
      if (pending !== null) await pending
    }
    if (due !== end) throw damage(segment, position, `it ends at offset ${due} instead of ${end}`)
    return true
  }

  #verify(segment: Segment, bytes: Buffer, at: number, position: number, due: number): void {
    let wrong = checkBatch(bytes, at, bytes.length)
    if (wrong === null && baseOffset(bytes, at) !== due)
      wrong = `offset ${baseOffset(bytes, at)} where ${due} is due`
    if (wrong === null && leaderEpoch(bytes, at) !== LEADER_EPOCH)
      wrong = `leader epoch ${leaderEpoch(bytes, at)}`
    if (wrong !== null) throw damage(segment, position, wrong)
  }

  // turns

  #startSlice(): void {
    this.#sliceEnd = this.#host.clock.monotonic() + (this.#options.sliceMs ?? SLICE_MS)
  }

  async #pause(): Promise<void> {
    await new Promise<void>(resolve => this.#host.clock.defer(resolve))
    this.#check()
    this.#startSlice()
  }

  #check(segment?: Segment): void {
    if (this.#host.isStopped()) throw new SluiceError('CLOSED', `${this.#host.directory} is being closed`)
    if (segment?.removed)
      throw new SluiceError('CLOSED', `${segment.path} was deleted while it was compacted`)
  }
}

const damage = (segment: Segment, position: number, wrong: string): SluiceError =>
  new SluiceError(
    'CORRUPT_LOG',
    `${segment.path} is damaged at position ${position}: ${wrong}; the partition is not compacted`,
    { file: segment.path, position },
  )

/** What is being read while what lies before it is worked on. */
interface Ahead {
  readonly position: number
  readonly bytes: Uint8Array | Promise<Uint8Array>
}

function readAhead(segment: Segment, position: number): Ahead | null {
  if (position >= segment.size || segment.removed) return null
  const bytes = segment.file.read(position, Math.min(READ_BYTES, segment.size - position))
  if (bytes instanceof Promise) bytes.catch(() => {}) // nobody may come to ask for it
  return { position, bytes }
}

/** Where the last batch ends that lies in the bytes as a whole, as far as unchecked headers can be believed. */
function wholeBatches(bytes: Buffer): number {
  let at = 0
  while (bytes.length - at >= BATCH_HEADER_BYTES) {
    const length = batchBytes(bytes, at)
    if (length < BATCH_HEADER_BYTES || at + length > bytes.length) break
    at += length
  }
  return at
}

/** Writes the new segment, and empty batches where others were left out. */
class CleanedWriter {
  readonly #segment: Segment
  readonly #indexIntervalBytes: number
  readonly #buffer = Buffer.allocUnsafe(WRITE_BYTES)
  #buffered = 0
  /** Offsets that were left out last and are not accounted for; -1: none. */
  #leftOutFrom = -1
  #leftOutUntil = -1
  #synced = 0

  constructor(host: CompactionHost, base: number) {
    this.#segment = Segment.create(host.disk, host.files, host.directory, base, '.cleaned')
    this.#indexIntervalBytes = host.indexIntervalBytes
  }

  leaveOut(batch: Buffer): void {
    if (this.#leftOutFrom < 0) this.#leftOutFrom = baseOffset(batch, 0)
    this.#leftOutUntil = lastOffset(batch, 0)
  }

  /** Throws DiskError. */
  write(batch: Buffer): void {
    this.#fill()
    this.#append(batch)
  }

  /** Throws DiskError. */
  noteAborted(transaction: AbortedTransaction): void {
    this.#segment.aborted.append(transaction)
  }

  /** A sync now and then. Null if none is due. */
  syncSome(): Promise<void> | null {
    if (this.#segment.size - this.#synced < SYNC_BYTES) return null
    this.#synced = this.#segment.size
    return this.#segment.sync()
  }

  /** Durable once resolved, but for its names. Rejects with DiskError. */
  async finish(): Promise<Segment> {
    this.#fill()
    this.#flush()
    this.#segment.seal()
    await this.#segment.sync()
    await this.#segment.syncIndexes()
    return this.#segment
  }

  discard(): void {
    this.#segment.discard()
  }

  #fill(): void {
    if (this.#leftOutFrom < 0) return
    const span = emptySpan(this.#leftOutFrom, this.#leftOutUntil, LEADER_EPOCH)
    this.#leftOutFrom = -1
    this.#append(span)
  }

  #append(batch: Buffer): void {
    if (this.#buffered + batch.length > WRITE_BYTES) this.#flush()
    if (batch.length > WRITE_BYTES) this.#segment.append(batch, this.#indexIntervalBytes)
    else {
      this.#buffer.set(batch, this.#buffered)
      this.#buffered += batch.length
    }
  }

  #flush(): void {
    if (this.#buffered === 0) return
    this.#segment.appendAll(this.#buffer.subarray(0, this.#buffered), this.#indexIntervalBytes)
    this.#buffered = 0
  }
}
