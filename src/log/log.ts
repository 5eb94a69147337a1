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

import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { type Disk, DiskError } from '../lib/disk.ts'
import {
  asBuffer,
  BATCH_HEADER_BYTES,
  baseSequence,
  batchBytes,
  checkBatch,
  checkHeader,
  compressionOf,
  isControl,
  lastOffset,
  lastOffsetDelta,
  maxTimestamp,
  patchAppendTime,
  patchOffset,
  producerEpoch,
  producerId,
  recordCount,
} from '../record/batch.ts'
import { RecordCursor } from '../record/cursor.ts'
import { markSyncFailure, unmarkSyncFailure, writeCheckpoint } from './checkpoint.ts'
import { GroupCommit } from './group-commit.ts'
import type { OpenFiles } from './open-files.ts'
import { type ProducerState, removeSnapshotsBefore, writeSnapshot } from './producer-state.ts'
import { type Recovered, type RecoveryReport, recover } from './recovery.ts'
import { locate } from './salvage.ts'
import { readFully } from './scan.ts'
import { RELATIVE_OFFSET_MAX, Segment } from './segment.ts'
import { type Due, LEADER_EPOCH, selectBatches } from './select.ts'

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

/** Where a read begins, and what it must find there. */
interface Place {
  readonly segment: Segment
  readonly position: number
  readonly due: Due
}

/** A read on its way through the segments. */
interface ReadRequest {
  segment: Segment
  position: number
  due: Due
  readonly offset: number
  readonly limit: number
  readonly bytesMax: number
  bytesWanted: number
  /** The place was found by checking everything before it: if it is not right either, the bytes are damaged. */
  checked: boolean
}

const EMPTY = Buffer.alloc(0)
const PLACES_REMEMBERED = 64
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
  #places = new Map<number, Place>()
  #bytesSinceCheckpoint = 0
  #changed = false
  #closed = false
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
    this.#changed = found.isNew || found.durableOffset < found.endOffset || found.reports.length > 0
    // Found behind the checkpoint: written, perhaps not synced.
    for (const segment of found.segments) {
      if (segment.baseOffset >= found.walkedFrom) this.#unsyncedIndexes.add(segment)
      if (segment.baseOffset >= found.walkedFrom || segment === this.#active) this.#unsynced.add(segment)
    }
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
   * Whole batches from the one that holds `offset` on, up to about `bytesMax` (one batch at least) and none that begins at
   * `limit` or later. Empty if there is nothing before `limit`. A result that is not a promise came from memory.
   * Throws, or rejects with, OFFSET_OUT_OF_RANGE and CORRUPT_LOG, whose detail has `file`, `position` and
   * `resumeOffset`, from which reading can go on.
   */
  read(offset: number, bytesMax: number, limit = this.#endOffset): Buffer | Promise<Buffer> {
    if (offset < this.#startOffset || offset > this.#endOffset) throw this.#outOfRange(offset)
    if (offset >= limit) return EMPTY
    const { segment, position, due } = this.#places.get(offset) ?? this.#placeOf(offset)
    const bytesWanted = Math.max(bytesMax, BATCH_HEADER_BYTES)
    return this.#read({
      segment,
      position,
      due,
      offset,
      limit,
      bytesMax: bytesWanted,
      bytesWanted,
      checked: false,
    })
  }

  /** First offset whose record has at least this timestamp; -1 if there is none before `limit`. */
  async offsetForTime(timestamp: number, limit = this.#endOffset): Promise<number> {
    for (const segment of [...this.#segments]) {
      if (segment.maxTimestamp >= 0 && segment.maxTimestamp < timestamp) continue
      const hint = segment.timedBefore(timestamp)
      let offset = hint?.lastOffset ?? segment.baseOffset
      if (hint !== null && !(await this.#isTrue(hint, limit))) offset = segment.baseOffset
      while (offset < limit) {
        offset = Math.max(offset, this.#startOffset)
        const batches = await this.read(offset, 256 * 1024, limit)
        if (batches.length === 0) return -1
        for (let at = 0; at < batches.length; at += batchBytes(batches, at)) {
          offset = lastOffset(batches, at) + 1
          if (maxTimestamp(batches, at) < timestamp) continue
          const cursor = new RecordCursor(batches.subarray(at, at + batchBytes(batches, at)))
          while (cursor.next()) {
            if (cursor.timestamp >= timestamp && cursor.offset >= this.#startOffset) return cursor.offset
          }
        }
        if (offset >= this.#endOfSegment(segment)) break
      }
    }
    return -1
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
    if (offset <= this.#startOffset) return this.checkpoint() // moved there already, perhaps not durably yet
    this.#startOffset = offset
    this.#changed = true
    // The new start is durable before a file goes: after a crash no half-deleted log is taken for a damaged one.
    await this.flush()
    await this.checkpoint()
    let count = 0
    while (count < this.#segments.length - 1 && this.#segments[count + 1].baseOffset <= offset) count++
    const removed = this.#segments.slice(0, count)
    this.#segments = this.#segments.slice(count)
    this.#places.clear()
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
      if (end > limit || !(surplus || expired(segments[index]))) break
      excess -= segments[index].size
      until = end
    }
    const before = this.#segments.length
    if (until > this.#startOffset) await this.deleteUntil(until)
    return before - this.#segments.length
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
    if (this.#failure === null) {
      try {
        await this.flush()
        await this.checkpoint()
      } catch (error) {
        this.#fail(error)
      }
    }
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
    if (!this.#changed || this.#failure !== null) return
    // Taken in one turn: where the log ends now, and its producers. Appends go on meanwhile.
    const active = this.#active
    const checkpoint = {
      startOffset: this.#startOffset,
      offset: this.#endOffset,
      segment: active.baseOffset,
      position: active.size,
      maxTimestamp: active.maxTimestamp,
      maxTimestampOffset: active.maxTimestampOffset,
      producers: this.#producers.count,
    }
    const snapshot = checkpoint.producers > 0 ? this.#producers.encode() : null
    const indexes = new Set([...this.#unsyncedIndexes, active])
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
      for (const segment of indexes) {
        await segment.syncIndexes()
        this.#unsyncedIndexes.delete(segment)
      }
      await writeCheckpoint(this.#disk, this.directory, checkpoint)
      await this.#syncDirectory()
      removeSnapshotsBefore(this.#disk, this.directory, checkpoint.offset)
    } catch (error) {
      this.#changed = true
      throw this.#refusal(error)
    }
  }

  /** For a checkpoint. If it fails, no later one makes up for it: it may have been the entry of a segment. */
  async #syncDirectory(): Promise<void> {
    try {
      await this.#disk.syncDirectory(this.directory)
    } catch (error) {
      throw this.#syncFailed(error)
    }
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

  // reading

  #placeOf(offset: number): Place {
    const segments = this.#segments
    let low = 0
    let high = segments.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (segments[middle].baseOffset <= offset) low = middle
      else high = middle
    }
    const segment = segments[low]
    const indexed = segment.indexedBefore(offset)
    if (indexed === null) return startOf(segment)
    return { segment, position: indexed.position, due: { baseOffset: -1, lastOffset: indexed.lastOffset } }
  }

  /** Whether what a time index says is so. */
  async #isTrue(hint: { timestamp: number; lastOffset: number }, limit: number): Promise<boolean> {
    if (hint.lastOffset < this.#startOffset || hint.lastOffset >= limit) return false
    const batches = await this.read(hint.lastOffset, BATCH_HEADER_BYTES, limit)
    return lastOffset(batches, 0) === hint.lastOffset && maxTimestamp(batches, 0) === hint.timestamp
  }

  #endOfSegment(segment: Segment): number {
    const index = this.#segments.indexOf(segment)
    return index + 1 < this.#segments.length ? this.#segments[index + 1].baseOffset : this.#endOffset
  }

  #read(request: ReadRequest): Buffer | Promise<Buffer> {
    try {
      for (;;) {
        const bytes = this.#bytesAt(request)
        if (!(bytes instanceof Uint8Array)) return this.#readCold(request, bytes)
        const result = this.#take(request, asBuffer(bytes), true)
        if (result !== null) return result
      }
    } catch (error) {
      throw this.#readError(error, request)
    }
  }

  async #readCold(request: ReadRequest, first: Promise<Uint8Array>): Promise<Buffer> {
    let pending: Uint8Array | Promise<Uint8Array> = first
    try {
      for (;;) {
        const trusted = pending instanceof Uint8Array
        const result = this.#take(request, asBuffer(await pending), trusted)
        if (result !== null) return result
        pending = this.#bytesAt(request)
      }
    } catch (error) {
      throw this.#readError(error, request)
    }
  }

  /** Bytes where the request stands now, in the next segment if this one is at its end. */
  #bytesAt(request: ReadRequest): Uint8Array | Promise<Uint8Array> {
    if (this.#closed) throw this.#failure
    if (request.segment.baseOffset > request.offset) {
      const { baseOffset } = request.segment
      throw this.#damage(request, 0, `offsets before ${baseOffset} are missing`, baseOffset)
    }
    while (request.position >= request.segment.size) {
      const next = this.#segments[this.#segments.indexOf(request.segment) + 1]
      if (next === undefined || next.baseOffset > request.offset)
        this.#locate(request, 0, 'the file ends here')
      else Object.assign(request, startOf(next))
    }
    const available = request.segment.size - request.position
    return request.segment.file.read(request.position, Math.min(request.bytesWanted, available))
  }

  /** Takes from bytes that were read what is wanted; null if there is more to read first. */
  #take(request: ReadRequest, bytes: Buffer, trusted: boolean): Buffer | null {
    const selection = selectBatches(bytes, trusted, request.offset, request.limit, request.due)
    switch (selection.kind) {
      case 'found':
        this.#remember(selection.next, request.segment, request.position + selection.end)
        return bytes.subarray(selection.start, selection.end)
      case 'more':
        if (selection.skip === 0) return this.#takeLonger(request, bytes, selection.needed)
        request.position += selection.skip
        request.due = selection.due
        request.bytesWanted = Math.max(request.bytesWanted, selection.needed)
        return null
      case 'damaged':
        return this.#locate(request, selection.at, selection.wrong)
    }
  }

  /** The bytes at hand end inside the first batch. */
  #takeLonger(request: ReadRequest, bytes: Buffer, needed: number): Buffer | null {
    const { segment, position } = request
    const available = segment.size - position
    if (needed > available) return this.#locate(request, 0, 'the file ends inside a batch')
    const asked = Math.min(request.bytesWanted, available)
    request.bytesWanted = Math.max(request.bytesWanted, needed)
    if (bytes.length >= asked) return null
    // Not at hand in one piece: asking again would bring the same.
    const whole = readFully(segment.file, position, needed)
    return whole.length < needed
      ? this.#locate(request, 0, 'the file ends inside a batch')
      : this.#take(request, whole, false)
  }

  /**
   * Something is not as it should be before the wanted offset was reached. An index, or a header that was stepped over, may have led
   * astray: the segment is looked through from its start. Throws CORRUPT_LOG if the offset is among what is lost.
   */
  #locate(request: ReadRequest, at: number, wrong: string): null {
    if (request.checked) throw this.#damage(request, at, wrong)
    const { segment, offset } = request
    if (segment.removed) throw this.#outOfRange(offset)
    const end = this.#endOfSegment(segment)
    if (offset >= end) {
      // Behind the last batch of the segment there is something that does not belong there.
      Object.assign(request, this.#placeOf(offset))
      return null
    }
    const located = locate(segment.file, segment.baseOffset, end, offset)
    request.position = located.position
    if (located.kind === 'lost') throw this.#damage(request, 0, located.wrong, located.resumeOffset)
    request.due = { baseOffset: located.baseOffset, lastOffset: -1 }
    request.bytesWanted = request.bytesMax // a damaged header may have asked for any number
    request.checked = true
    return null
  }

  #remember(offset: number, segment: Segment, position: number): void {
    if (segment.removed) return
    this.#places.delete(offset)
    this.#places.set(offset, { segment, position, due: { baseOffset: offset, lastOffset: -1 } })
    if (this.#places.size > PLACES_REMEMBERED) this.#places.delete(this.#places.keys().next().value!)
  }

  // errors

  #damage(
    request: ReadRequest,
    at: number,
    wrong: string,
    resumeOffset = this.#endOfSegment(request.segment),
  ): SluiceError {
    const position = request.position + at
    const file = request.segment.path
    return new SluiceError(
      'CORRUPT_LOG',
      `${file} is damaged at position ${position}: ${wrong}; reading can go on at offset ${resumeOffset}`,
      { file, position, offset: request.offset, resumeOffset },
    )
  }

  #readError(error: unknown, request: ReadRequest): unknown {
    if (request.offset < this.#startOffset) return this.#outOfRange(request.offset) // deleted while it was read
    if (!(error instanceof DiskError)) return error
    const { segment, position } = request
    return new SluiceError(
      'CORRUPT_LOG',
      `${segment.path} cannot be read at position ${position}: ${error.message}`,
      { file: segment.path, position, offset: request.offset, resumeOffset: this.#endOfSegment(segment) },
      error,
    )
  }

  #outOfRange(offset: number): SluiceError {
    return new SluiceError(
      'OFFSET_OUT_OF_RANGE',
      `offset ${offset} is not between ${this.#startOffset} and ${this.#endOffset}`,
      { offset, startOffset: this.#startOffset, endOffset: this.#endOffset },
    )
  }
}

const startOf = (segment: Segment): Place => ({
  segment,
  position: 0,
  due: { baseOffset: segment.baseOffset, lastOffset: -1 },
})
