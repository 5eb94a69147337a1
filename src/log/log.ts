/**
 * A log: the record batches of one partition, in segments, with dense offsets. It knows bytes and offsets; topics,
 * readers that wait and access are not its business.
 *
 * Invariants:
 *  - offsets are dense and grow by one; order is the order of `append` calls;
 *  - everything before `durableOffset` survives a power cut; readers are told what the caller lets them see (`read`'s limit);
 *  - an append is stored whole or not at all, and decided within the call;
 *  - stored bytes that come from the disk are checked before they are served; damaged ones never are;
 *  - after a failed sync the log takes no more appends.
 */

import assert from 'node:assert/strict'
import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { type Disk, DiskError } from '../lib/disk.ts'
import {
  BATCH_HEADER_BYTES,
  baseSequence,
  batchBytes,
  checkBatch,
  checkHeader,
  compressionOf,
  isControl,
  lastOffsetDelta,
  maxTimestamp,
  patchAppendTime,
  patchOffset,
  producerEpoch,
  producerId,
  recordCount,
} from '../record/batch.ts'
import { checkRecords } from '../record/check.ts'
import { encodeMarker } from '../record/marker.ts'
import { markSyncFailure, unmarkSyncFailure, writeCheckpoint } from './checkpoint.ts'
import {
  Compaction,
  type CompactionConfig,
  type CompactionHost,
  type CompactionOptions,
  type CompactionRange,
  type CompactionResult,
  cleanableRange,
  dirtyRatio,
} from './compaction.ts'
import { GroupCommit } from './group-commit.ts'
import { LogReader, outOfRange } from './log-reader.ts'
import type { OpenFiles } from './open-files.ts'
import { type ProducerState, removeSnapshotsBefore, writeSnapshot } from './producer-state.ts'
import { type Recovered, type RecoveryReport, recover } from './recovery.ts'
import { readFully } from './scan.ts'
import { RELATIVE_OFFSET_MAX, Segment } from './segment.ts'
import { LEADER_EPOCH } from './select.ts'
import { swapIn } from './swap.ts'
import type { AbortedTransaction } from './transaction-index.ts'

/** What a log lets itself be told; see docs/CONFIGURATION.md for the keys they come from. */
export interface LogConfig {
  /** `segment.bytes` */
  readonly segmentBytesMax: number
  /** `segment.ms` */
  readonly segmentMsMax: number
  /** `index.interval.bytes` */
  readonly indexIntervalBytes: number
  /** `max.message.bytes`: of a whole batch. */
  readonly batchBytesMax: number
  /** `message.timestamp.type=LogAppendTime` */
  readonly appendTime: boolean
  /** `retention.ms`; -1: for ever. */
  readonly retentionMs: number
  /** `retention.bytes`; -1: any number. */
  readonly retentionBytes: number
  /** `cleanup.policy` includes `compact`. Absent: records are never compacted, and need no key. */
  readonly compaction?: CompactionConfig | undefined
}

export interface LogOptions {
  readonly disk: Disk
  readonly files: OpenFiles
  /** Folder of this log alone. */
  readonly directory: string
  readonly config: LogConfig
  readonly clock: Clock
  /** Told what recovery did and what damage readers meet. */
  readonly onReport?: (report: RecoveryReport) => void
  /** Told how long each sync took. */
  readonly onSync?: (ms: number) => void
  /** Told that `durableOffset` moved. */
  readonly onDurable?: (offset: number) => void
}

export interface Appended {
  readonly baseOffset: number
  readonly lastOffset: number
  /** Time given by the log (LogAppendTime), otherwise -1. */
  readonly appendTime: number
  /** The batch was there already: an idempotent producer sent it again. */
  readonly repeated: boolean
}

const COMPRESSION_MAX = 4
/** Log written between two checkpoints, at most about: bounds what the next start after a crash has to walk. */
const CHECKPOINT_BYTES = 64 * 1024 * 1024

export class Log {
  readonly directory: string
  /** What recovery had to say when the log was opened. */
  readonly reports: readonly RecoveryReport[]
  readonly #options: LogOptions
  readonly #disk: Disk
  readonly #producers: ProducerState
  readonly #commit: GroupCommit
  readonly #reader: LogReader
  #config: LogConfig
  #segments: Segment[]
  #active: Segment
  #startOffset: number
  #endOffset: number
  /** Segments with bytes that are not synced, and whether the folder itself is. */
  #unsynced = new Set<Segment>()
  #directoryUnsynced = true
  /** Closed segments whose indexes no checkpoint has synced yet. */
  #unsyncedIndexes = new Set<Segment>()
  #bytesSinceCheckpoint = 0
  #changed = false
  #closed = false
  /** Base offset of the segment in which the last checkpoint lies: before it everything is durable. */
  #checkpointSegment: number
  #cleanedUntil: number
  #compacting: Promise<unknown> | null = null
  #stopping = false
  #checkpointing: Promise<void> = Promise.resolve()
  #failure: SluiceError | null = null

  /**
   * Opens or makes the log. Resolves when what was found is durable, so that what a reader sees cannot vanish.
   * Rejects with DiskError.
   */
  static async open(options: LogOptions): Promise<Log> {
    const { disk, files, directory, config } = options
    const report = (found: RecoveryReport): void => options.onReport?.(found)
    const found = await recover(disk, files, directory, config.indexIntervalBytes, report)
    const log = new Log(options, found)
    try {
      if (log.#changed) {
        // Also what was cut must stay cut: otherwise bytes from behind the cut could come back after the next crash,
        // and follow a new batch as if they belonged there.
        await log.#sync().catch(error => {
          throw log.#syncFailed(error)
        })
        await log.checkpoint()
      }
      if (found.syncFailed) {
        unmarkSyncFailure(disk, directory)
        await log.#syncDirectory()
      }
    } catch (error) {
      log.#closeFiles()
      throw error
    }
    return log
  }

  private constructor(options: LogOptions, found: Recovered) {
    this.#options = options
    this.#disk = options.disk
    this.#config = options.config
    this.directory = options.directory
    this.reports = found.reports
    this.#segments = found.segments
    this.#active = found.segments.at(-1)!
    this.#startOffset = found.startOffset
    this.#endOffset = found.endOffset
    this.#producers = found.producers
    this.#checkpointSegment = found.walkedFrom
    this.#cleanedUntil = found.cleanedUntil
    this.#changed = found.isNew || found.durableOffset < found.endOffset || found.reports.length > 0
    // Found behind the checkpoint: written, perhaps not synced.
    for (const segment of found.segments) {
      if (segment.baseOffset >= found.walkedFrom) this.#unsyncedIndexes.add(segment)
      if (segment.baseOffset >= found.walkedFrom || segment === this.#active) this.#unsynced.add(segment)
    }
    const readable = {
      segments: () => this.#segments,
      startOffset: () => this.#startOffset,
      endOffset: () => this.#endOffset,
      isClosed: () => this.#closed,
      checkOpen: () => {
        if (this.#closed) throw this.#failure
      },
    }
    this.#reader = new LogReader(readable, options.files.ahead)
    this.#commit = new GroupCommit(found.durableOffset, {
      clock: options.clock,
      endOffset: () => this.#endOffset,
      sync: () => this.#sync(),
      onDurable: offset => options.onDurable?.(offset),
      onFailed: error => this.#syncFailed(error),
    })
  }

  /** First offset there is. */
  get startOffset(): number {
    return this.#startOffset
  }

  /** Offset that the next record gets. */
  get endOffset(): number {
    return this.#endOffset
  }

  /** Everything before it is on the disk. */
  get durableOffset(): number {
    return this.#commit.durableOffset
  }

  /** Why the log takes no more appends; null while it does. */
  get failure(): SluiceError | null {
    return this.#failure
  }

  /** Bytes of all segments. */
  get bytes(): number {
    let bytes = 0
    for (const segment of this.#segments) bytes += segment.size
    return bytes
  }

  get segmentCount(): number {
    return this.#segments.length
  }

  get producers(): ProducerState {
    return this.#producers
  }

  /** Where the oldest open transaction begins; Infinity if none is open. */
  get firstUnstableOffset(): number {
    return this.#producers.firstUnstableOffset
  }

  configure(config: LogConfig): void {
    this.#config = config
  }

  /**
   * Appends one batch, which is patched in place: offset, and time if the log gives it. `trusted`: made in this process,
   * its checksum need not be looked at. Throws CORRUPT_MESSAGE, INVALID_RECORD, UNSUPPORTED_COMPRESSION, MESSAGE_TOO_LARGE,
   * DISK_FULL, STORAGE_FAILED and what the producer state refuses; then nothing is stored.
   */
  append(batch: Buffer, trusted = false): Appended {
    if (this.#failure !== null) throw this.#failure
    this.#check(batch, trusted)
    const count = recordCount(batch, 0)
    const idempotent = producerId(batch, 0) >= 0
    if (idempotent) {
      const known = this.#producers.check(batch, 0)
      if (known >= 0)
        return { baseOffset: known, lastOffset: known + count - 1, appendTime: -1, repeated: true }
    }
    const base = this.#endOffset
    const last = base + count - 1
    if (!Number.isSafeInteger(last))
      throw new SluiceError('STORAGE_FAILED', 'the partition has no more offsets')
    patchOffset(batch, 0, base, LEADER_EPOCH)
    let appendTime = -1
    if (this.#config.appendTime) {
      appendTime = this.#options.clock.now()
      patchAppendTime(batch, 0, appendTime)
    }
    this.#write(batch, last)
    if (idempotent) this.#producers.note(batch, 0, base)
    this.#endOffset = last + 1
    return { baseOffset: base, lastOffset: last, appendTime, repeated: false }
  }

  /**
   * Writes the marker that ends the transaction which the producer has open. Returns its offset; -1 if it has none open. Throws as
   * `append`, and INVALID_PRODUCER_EPOCH; then nothing is stored.
   */
  endTransaction(producerId: number, epoch: number, commit: boolean): number {
    if (this.#failure !== null) throw this.#failure
    this.#producers.checkMarker(producerId, epoch)
    const firstOffset = this.#producers.transactionOffset(producerId)
    if (firstOffset < 0) return -1
    const timestamp = this.#options.clock.now()
    const marker = encodeMarker(producerId, epoch, commit, timestamp)
    const offset = this.#endOffset
    patchOffset(marker, 0, offset, LEADER_EPOCH)
    if (this.#isFull(marker.length, offset)) this.#attempt(() => this.#roll())
    const { aborted } = this.#active
    // Before the marker: from the moment that readers pass it, the entry has to be there.
    if (!commit) {
      const lastStableOffset = this.#producers.stableOffsetWithout(producerId, offset + 1)
      this.#attempt(() => aborted.append({ producerId, firstOffset, lastOffset: offset, lastStableOffset }))
    }
    try {
      this.#write(marker, offset)
    } catch (error) {
      if (!commit) this.#attempt(() => aborted.cut(offset))
      throw error
    }
    this.#producers.noteMarker(producerId, epoch, offset, timestamp)
    this.#endOffset = offset + 1
    return offset
  }

  /** Aborted transactions with records from `offset` up to `end`, in the order of their ends. Throws STORAGE_FAILED. */
  abortedTransactions(offset: number, end: number): AbortedTransaction[] {
    const found: AbortedTransaction[] = []
    try {
      for (const segment of this.#segments) {
        if (this.#endOfSegment(segment) > offset && !segment.aborted.collect(offset, end, found)) break
      }
    } catch (error) {
      throw this.#refusal(error)
    }
    return found
  }

  /**
   * Whole batches from the one that holds `offset` on, up to about `bytesMax` (one batch at least) and none that begins at
   * `limit` or later. Empty if there is nothing before `limit`. Batches without records, as compaction leaves them, do not come first,
   * unless nothing comes behind them. A result that is not a promise came from memory.
   * Throws, or rejects with, OFFSET_OUT_OF_RANGE and CORRUPT_LOG, whose detail has `file`, `position` and
   * `resumeOffset`, from which reading can go on.
   */
  read(offset: number, bytesMax: number, limit = this.#endOffset): Buffer | Promise<Buffer> {
    return this.#reader.read(offset, bytesMax, limit)
  }

  /** First offset whose record has at least this timestamp; -1 if there is none before `limit`. Rejects as `read`. */
  offsetForTime(timestamp: number, limit = this.#endOffset): Promise<number> {
    return this.#reader.offsetForTime(timestamp, limit)
  }

  /** Resolves when everything appended so far is on the disk. Rejects with STORAGE_FAILED, and so does all that comes later. */
  flush(offset = this.#endOffset): Promise<void> {
    return this.#commit.wait(offset)
  }

  /** Begins a flush that nobody waits for. */
  startFlush(): void {
    if (this.durableOffset < this.#endOffset) this.#commit.start()
  }

  /** Begins a new segment, unless the current one is empty. Throws as `append`. */
  roll(): void {
    if (this.#failure !== null) throw this.#failure
    if (this.#active.size > 0) this.#attempt(() => this.#roll())
  }

  /** Makes `offset` the first offset there is and removes segments that lie wholly before it. Durable once resolved. */
  async deleteUntil(offset: number): Promise<void> {
    if (this.#failure !== null) throw this.#failure
    if (offset < 0 || offset > this.#endOffset) throw this.#outOfRange(offset)
    if (offset > this.#startOffset) {
      this.#startOffset = offset
      this.#changed = true
    }
    // It may have been moved before, and not durably: then the files are still there.
    const start = this.#startOffset
    // The new start is durable before a file goes: after a crash no half-deleted log is taken for a damaged one.
    await this.checkpoint()
    let count = 0
    while (count < this.#segments.length - 1 && this.#segments[count + 1].baseOffset <= start) count++
    if (count === 0) return
    const removed = this.#segments.slice(0, count)
    this.#segments = this.#segments.slice(count)
    this.#reader.forgetPlaces()
    for (const segment of removed) {
      this.#unsynced.delete(segment)
      this.#unsyncedIndexes.delete(segment)
    }
    this.#directoryUnsynced = true
    try {
      for (const segment of removed) segment.remove()
    } catch (error) {
      throw this.#refusal(error) // what is left goes at the next start
    }
  }

  /** Removes segments that are too old or too many. `limit`: not beyond it. Resolves with the number of segments removed. */
  async enforceRetention(now: number, limit: number): Promise<number> {
    if (this.#failure !== null) throw this.#failure
    const { retentionMs, retentionBytes } = this.#config
    if (retentionMs >= 0) await this.#examineSegments()
    const segments = this.#segments
    const expired = (segment: Segment): boolean =>
      retentionMs >= 0 && segment.maxTimestamp >= 0 && segment.maxTimestamp + retentionMs < now
    // An active segment that is expired as a whole is closed, so that a silent topic becomes empty in the end.
    if (this.#active.size > 0 && expired(this.#active) && limit === this.#endOffset) this.roll()
    let excess = retentionBytes < 0 ? 0 : this.bytes - retentionBytes
    let until = this.#startOffset
    for (let index = 0; index < segments.length && segments[index] !== this.#active; index++) {
      const end = this.#endOfSegment(segments[index])
      const surplus = excess >= segments[index].size && excess > 0
      // All of its records were compacted away: it goes with the next one that goes.
      const { isBare } = segments[index]
      if (end > limit || !(surplus || isBare || expired(segments[index]))) break
      excess -= segments[index].size
      if (!isBare || surplus) until = end
    }
    const before = this.#segments.length
    // Or the start was moved and the disk full: the files are still there.
    const isLeft = before > 1 && this.#segments[1].baseOffset <= this.#startOffset
    if (until > this.#startOffset || isLeft) await this.deleteUntil(until)
    return before - this.#segments.length
  }

  /** So that a lost time index neither keeps records for ever nor lets them go. */
  async #examineSegments(): Promise<void> {
    for (const segment of this.#segments) {
      if (segment === this.#active || segment.maxTimestamp >= 0) continue
      try {
        await segment.examine(this.#options.clock, () => this.#failure !== null)
      } catch (error) {
        throw this.#refusal(error)
      }
      if (this.#failure !== null) throw this.#failure
    }
  }

  // compacting

  /** What there is to compact, if `firstUncleanableOffset` and the segments after it are left alone. Null: nothing. */
  dirtyRange(firstUncleanableOffset: number): CompactionRange | null {
    const config = this.#config.compaction
    if (config === undefined) return null
    const segments = this.#segments.filter(segment => segment !== this.#active)
    const ends = segments.map(segment => this.#endOfSegment(segment))
    const newest = this.#options.clock.now() - config.lagMsMin
    return cleanableRange(segments, ends, this.#cleanedUntil, firstUncleanableOffset, newest)
  }

  /** Whether a compaction is due, by the part that is dirty or by the age of what is; then the part, else -1. Throws as `read`. */
  compactionDue(firstUncleanableOffset: number): number {
    const config = this.#config.compaction
    if (config === undefined || this.#failure !== null) return -1
    this.#rollOld(config.lagMsMax)
    try {
      const range = this.dirtyRange(firstUncleanableOffset)
      if (range === null) return -1
      const ratio = dirtyRatio(range)
      if (ratio > config.dirtyRatioMin) return ratio
      return this.#oldestDirty(range) + config.lagMsMax < this.#options.clock.now() ? ratio : -1
    } catch (error) {
      throw this.#refusal(error)
    }
  }

  /** So that what nobody writes to any more is compacted in the end. */
  #rollOld(ageMax: number): void {
    const { firstAppend } = this.#active
    if (firstAppend >= 0 && this.#options.clock.now() - firstAppend >= ageMax) this.roll()
  }

  #oldestDirty(range: CompactionRange): number {
    if (this.#config.compaction!.lagMsMax === Number.POSITIVE_INFINITY) return 0
    const first = range.segments.find(({ end }) => end > range.firstDirty)!.segment
    const header = readFully(first.file, 0, BATCH_HEADER_BYTES)
    const timestamp = header.length < BATCH_HEADER_BYTES ? -1 : maxTimestamp(header, 0)
    return timestamp < 0 ? Number.POSITIVE_INFINITY : timestamp
  }

  /**
   * One pass of compaction, if there is anything dirty: null if not. Appends and reads go on meanwhile. Rejects with CORRUPT_LOG,
   * DISK_FULL, STORAGE_FAILED, and CLOSED if the log is closed, or what is compacted deleted, meanwhile. One at a time.
   */
  compact(options: CompactionOptions): Promise<CompactionResult | null> {
    assert(this.#compacting === null, 'a log is compacted once at a time')
    const result = this.#compact(options).finally(() => {
      this.#compacting = null
    })
    this.#compacting = result
    return result
  }

  async #compact(options: CompactionOptions): Promise<CompactionResult | null> {
    if (this.#failure !== null) throw this.#failure
    try {
      // What replaces a record has to be durable before the record goes, and recovery must not have to walk what is replaced.
      await this.checkpoint()
      const limit = Math.min(options.firstUncleanableOffset, this.#checkpointSegment)
      const range = this.dirtyRange(limit)
      if (range === null) return null
      const result = await new Compaction(this.#compactionHost(), range, options).run()
      this.#cleanedUntil = result.cleanedUntil
      this.#changed = true
      await this.checkpoint()
      return result
    } catch (error) {
      throw this.#refusal(error)
    }
  }

  #compactionHost(): CompactionHost {
    const { files, clock } = this.#options
    return {
      disk: this.#disk,
      files,
      clock,
      directory: this.directory,
      indexIntervalBytes: this.#config.indexIntervalBytes,
      segmentBytesMax: this.#config.segmentBytesMax,
      config: this.#config.compaction!,
      lastOffsetOf: producer => this.#producers.lastOffsetOf(producer),
      isStopped: () => this.#stopping || this.#failure !== null,
      swapIn: (cleaned, old) => this.#swapIn(cleaned, old),
    }
  }

  async #swapIn(cleaned: Segment, old: readonly Segment[]): Promise<void> {
    try {
      await swapIn(cleaned, {
        disk: this.#disk,
        syncDirectory: () => this.#syncDirectory(),
        exchange: () => this.#exchange(cleaned, old),
      })
    } catch (error) {
      throw this.#fail(error) // half of it may be done: the next start finishes it
    }
  }

  #exchange(cleaned: Segment, old: readonly Segment[]): readonly Segment[] {
    const replaced = this.#segments.filter(segment => old.includes(segment))
    if (replaced.length === 0) return replaced
    const at = this.#segments.indexOf(replaced[0])
    this.#segments = this.#segments.toSpliced(at, replaced.length, cleaned)
    this.#reader.forgetPlaces()
    for (const segment of replaced) {
      this.#unsynced.delete(segment)
      this.#unsyncedIndexes.delete(segment)
    }
    return replaced
  }

  /** Ends a compaction under way; what it has replaced stays replaced. */
  async stopCompaction(): Promise<void> {
    this.#stopping = true
    await this.#compacting?.catch(() => {})
    this.#stopping = this.#closed
  }

  /**
   * Makes everything appended so far durable and writes that down, so that the next start reads only what came after. Does nothing if
   * nothing changed since the last one.
   */
  checkpoint(): Promise<void> {
    this.#checkpointing = this.#checkpointing.then(
      () => this.#writeCheckpoint(),
      () => this.#writeCheckpoint(),
    )
    return this.#checkpointing
  }

  /** Flushes, writes the checkpoint and gives the files back. */
  async close(): Promise<void> {
    await this.stopCompaction()
    if (this.#failure === null) {
      try {
        await this.flush()
        await this.checkpoint()
      } catch (error) {
        this.#fail(error)
      }
    }
    // One that is under way when the log fails writes on for a moment: the folder may be somebody else's then.
    await this.#checkpointing.catch(() => {})
    const closed = new SluiceError('CLOSED', 'the log is closed')
    this.#commit.stop(closed)
    this.#failure = closed
    this.#closed = true
    this.#closeFiles()
  }

  #closeFiles(): void {
    for (const segment of this.#segments) this.#options.files.close(segment.path)
  }

  // appending

  #check(batch: Buffer, trusted: boolean): void {
    const wrong =
      (trusted ? checkHeader(batch, 0, batch.length) : checkBatch(batch, 0, batch.length)) ??
      (batchBytes(batch, 0) !== batch.length ? 'not exactly one batch' : null)
    if (wrong !== null) throw new SluiceError('CORRUPT_MESSAGE', `the record batch is damaged: ${wrong}`)
    if (!trusted) {
      const count = recordCount(batch, 0)
      if (count < 1 || count !== lastOffsetDelta(batch, 0) + 1) {
        throw new SluiceError(
          'INVALID_RECORD',
          `a batch of ${count} records spans ${lastOffsetDelta(batch, 0) + 1} offsets`,
        )
      }
      const compression = compressionOf(batch, 0)
      if (compression > COMPRESSION_MAX) {
        throw new SluiceError(
          'UNSUPPORTED_COMPRESSION',
          `there is no compression with number ${compression}`,
          { compression },
        )
      }
      if (isControl(batch, 0))
        throw new SluiceError('INVALID_RECORD', 'a control batch can only be written by the broker')
      if (producerId(batch, 0) >= 0 && (producerEpoch(batch, 0) < 0 || baseSequence(batch, 0) < 0)) {
        throw new SluiceError('INVALID_RECORD', 'a batch with a producer id needs an epoch and a sequence')
      }
    }
    const needsKeys = this.#config.compaction !== undefined && !isControl(batch, 0)
    if (!trusted || needsKeys) checkRecords(batch, needsKeys)
    if (batch.length > this.#config.batchBytesMax) {
      throw new SluiceError(
        'MESSAGE_TOO_LARGE',
        `a batch of ${batch.length} bytes is larger than max.message.bytes (${this.#config.batchBytesMax})`,
        { bytes: batch.length, bytesMax: this.#config.batchBytesMax },
      )
    }
  }

  #write(batch: Buffer, last: number): void {
    if (this.#isFull(batch.length, last)) this.#attempt(() => this.#roll())
    this.#attempt(() => this.#active.append(batch, this.#config.indexIntervalBytes))
    if (this.#active.firstAppend < 0) this.#active.firstAppend = this.#options.clock.now()
    this.#unsynced.add(this.#active)
    this.#changed = true
    this.#bytesSinceCheckpoint += batch.length
  }

  #attempt(write: () => void): void {
    const position = this.#active.size
    try {
      write()
    } catch (error) {
      throw this.#undo(error, position)
    }
  }

  /** Takes back what a failed write may have left. The log stays usable if only room was missing. */
  #undo(error: unknown, position: number): Error {
    if (!(error instanceof DiskError)) return this.#fail(error)
    try {
      this.#active.truncate(position)
      // Until it is synced, what was cut off may come back behind the end of the segment.
      this.#unsynced.add(this.#active)
      this.#commit.start()
    } catch (second) {
      return this.#fail(second)
    }
    if (!error.isFull) return this.#fail(error)
    return this.#refusal(error)
  }

  /** What a caller is told of an operation that failed and left the log usable. */
  #refusal(error: unknown): Error {
    if (!(error instanceof DiskError)) return error as Error
    const { path } = error
    if (error.isFull)
      return new SluiceError('DISK_FULL', `no room on the disk for ${path}`, { file: path }, error)
    return new SluiceError(
      'STORAGE_FAILED',
      `${path}: ${error.message}`,
      { file: path, directory: this.directory },
      error,
    )
  }

  #isFull(bytes: number, last: number): boolean {
    const { segmentBytesMax, segmentMsMax } = this.#config
    const active = this.#active
    if (active.size === 0) return false
    return (
      active.size + bytes > segmentBytesMax ||
      last - active.baseOffset > RELATIVE_OFFSET_MAX ||
      (active.firstAppend >= 0 && this.#options.clock.now() - active.firstAppend >= segmentMsMax)
    )
  }

  /** Begins a new segment. The old one is synced in the background, whatever the flush policy. Throws DiskError. */
  #roll(): void {
    const next = Segment.create(this.#disk, this.#options.files, this.directory, this.#endOffset)
    this.#active.seal()
    this.#unsyncedIndexes.add(this.#active)
    this.#directoryUnsynced = true
    this.#changed = true
    this.#segments = [...this.#segments, next]
    this.#active = next
    this.#unsynced.add(next)
    this.#commit.start()
  }

  // durability

  async #sync(): Promise<void> {
    const started = this.#options.clock.monotonic()
    const segments = [...this.#unsynced]
    const syncDirectory = this.#directoryUnsynced
    this.#unsynced.clear()
    this.#directoryUnsynced = false
    const syncs: Promise<void>[] = segments.map(segment => segment.sync())
    if (syncDirectory) syncs.push((async () => this.#disk.syncDirectory(this.directory))())
    await Promise.all(syncs)
    this.#options.onSync?.(this.#options.clock.monotonic() - started)
    if (this.#bytesSinceCheckpoint >= CHECKPOINT_BYTES) {
      this.#bytesSinceCheckpoint = 0
      // Late is fine: a checkpoint only saves time. What really ails the disk shows at the next sync.
      this.checkpoint().catch(() => {})
    }
  }

  async #writeCheckpoint(): Promise<void> {
    if (this.#failure !== null) throw this.#failure
    if (!this.#changed) return
    // Taken in one turn: where the log ends now, and its producers. Appends go on meanwhile.
    const active = this.#active
    const checkpoint = {
      startOffset: this.#startOffset,
      offset: this.#endOffset,
      segment: active.baseOffset,
      position: active.size,
      maxTimestamp: active.maxTimestamp,
      maxTimestampOffset: active.maxTimestampOffset,
      ...(active.aborted.count > 0 && { aborted: active.aborted.count }),
      ...(this.#cleanedUntil > 0 && { cleanedUntil: this.#cleanedUntil }),
      producers: this.#producers.count,
    }
    const snapshot = checkpoint.producers > 0 ? this.#producers.encode() : null
    const indexes = new Set([...this.#unsyncedIndexes, active])
    // Not afterwards: a segment that is closed meanwhile has entries that these syncs may have missed.
    this.#unsyncedIndexes.clear()
    this.#changed = false
    this.#bytesSinceCheckpoint = 0
    try {
      // Also what changed without an append: a new file, a cut one.
      if (this.#unsynced.size > 0 || this.#directoryUnsynced) await this.#commit.next()
      else await this.flush(checkpoint.offset)
      if (snapshot !== null) {
        await writeSnapshot(this.#disk, this.directory, checkpoint.offset, snapshot)
        await this.#syncDirectory() // a checkpoint without its snapshot would forget producers
      }
      // Of what lies before a checkpoint nothing is walked again: its indexes have to be durable too.
      for (const segment of indexes) await this.#syncIndexes(segment)
      await writeCheckpoint(this.#disk, this.directory, checkpoint)
      await this.#syncDirectory()
      this.#checkpointSegment = checkpoint.segment
      removeSnapshotsBefore(this.#disk, this.directory, checkpoint.offset)
    } catch (error) {
      this.#changed = true
      for (const segment of indexes) if (this.#segments.includes(segment)) this.#unsyncedIndexes.add(segment)
      throw this.#refusal(error)
    }
  }

  /** The other indexes are hints, and go if they cannot be synced; without the one of transactions readers would be shown what was aborted. */
  async #syncIndexes(segment: Segment): Promise<void> {
    try {
      await segment.syncIndexes()
    } catch (error) {
      throw segment.aborted.isLost ? this.#syncFailed(error) : error
    }
  }

  /** For a checkpoint. If it fails, no later one makes up for it: it may have been the entry of a segment. */
  async #syncDirectory(): Promise<void> {
    try {
      await this.#disk.syncDirectory(this.directory)
    } catch (error) {
      throw this.#syncFailed(error)
    }
    // Another one has failed meanwhile: what both should have brought to the disk may be lost, whatever this one says.
    if (this.#failure !== null) throw this.#failure
  }

  /** The page cache may hold now what will never get to the disk: the next start must know. */
  #syncFailed(error: unknown): SluiceError {
    if (this.#failure === null) markSyncFailure(this.#disk, this.directory)
    return this.#fail(error)
  }

  #fail(error: unknown): SluiceError {
    if (this.#failure !== null) return this.#failure
    const reason = error instanceof Error ? error.message : String(error)
    this.#failure = new SluiceError(
      'STORAGE_FAILED',
      `${this.directory} takes no more writes: ${reason}`,
      { directory: this.directory, durableOffset: this.durableOffset },
      error,
    )
    this.#commit.stop(this.#failure)
    return this.#failure
  }

  #endOfSegment(segment: Segment): number {
    const index = this.#segments.indexOf(segment)
    if (index < 0) return this.#segments.find(other => other.baseOffset > segment.baseOffset)!.baseOffset
    return index + 1 < this.#segments.length ? this.#segments[index + 1].baseOffset : this.#endOffset
  }

  #outOfRange(offset: number): SluiceError {
    return outOfRange(offset, this.#startOffset, this.#endOffset)
  }
}
