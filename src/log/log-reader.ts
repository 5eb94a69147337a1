/**
 * Reading a log: from an offset to whole batches, through the index, and from segment to segment; and from a time to an offset.
 *
 * A reader that goes on where it stopped is remembered by its position. What an index says is checked against the batches; if it
 * led astray, the segment is looked through from its start (`salvage.ts`) before anything is called damaged. A segment that is
 * replaced by a compacted one, or deleted, while somebody reads from it makes that reader look for its place anew.
 */

import { SluiceError } from '../errors.ts'
import { DiskError } from '../lib/disk.ts'
import { asBuffer, BATCH_HEADER_BYTES, batchBytes, lastOffset, maxTimestamp } from '../record/batch.ts'
import { RecordCursor } from '../record/cursor.ts'
import type { ReadAhead } from './read-ahead.ts'
import { locate } from './salvage.ts'
import { readFully } from './scan.ts'
import type { Segment } from './segment.ts'
import { type Due, selectBatches } from './select.ts'

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
  offset: number
  readonly limit: number
  readonly bytesMax: number
  bytesWanted: number
  /** The place was found by checking everything before it: if it is not right either, the bytes are damaged. */
  checked: boolean
  /** The first batches that hold the offset have no records, and were stepped over: they are served if nothing comes behind them. */
  empty: number
  passEmpty: boolean
  /** It goes on where another one ended. */
  readonly isSequel: boolean
}

/** What there is to read. */
export interface ReadableLog {
  /** Ascending, never empty; another array when it changes. */
  segments(): readonly Segment[]
  startOffset(): number
  endOffset(): number
  isClosed(): boolean
  /** Throws once the files are closed: opened again, they would stay open. */
  checkOpen(): void
}

const EMPTY = Buffer.alloc(0)
const PLACES_REMEMBERED = 64

export class LogReader {
  readonly #host: ReadableLog
  readonly #ahead: ReadAhead
  readonly #places = new Map<number, Place>()

  constructor(host: ReadableLog, ahead: ReadAhead) {
    this.#host = host
    this.#ahead = ahead
  }

  /** To be called when segments go. */
  forgetPlaces(): void {
    this.#places.clear()
  }

  /**
   * Whole batches from the one that holds `offset` on, up to about `bytesMax` (one batch at least) and none that begins at
   * `limit` or later. Empty if there is nothing before `limit`. A result that is not a promise came from memory.
   * Throws, or rejects with, OFFSET_OUT_OF_RANGE and CORRUPT_LOG, whose detail has `file`, `position` and
   * `resumeOffset`, from which reading can go on.
   */
  read(offset: number, bytesMax: number, limit: number): Buffer | Promise<Buffer> {
    if (offset < this.#host.startOffset() || offset > this.#host.endOffset()) throw this.#outOfRange(offset)
    if (offset >= limit) return EMPTY
    const remembered = this.#places.get(offset)
    const { segment, position, due } = remembered ?? this.#placeOf(offset)
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
      empty: -1,
      passEmpty: true,
      isSequel: remembered !== undefined,
    })
  }

  /** First offset whose record has at least this timestamp; -1 if there is none before `limit`. */
  async offsetForTime(timestamp: number, limit: number): Promise<number> {
    const segments = this.#host.segments()
    for (const [index, segment] of segments.entries()) {
      if (segment.maxTimestamp >= 0 && segment.maxTimestamp < timestamp) continue
      const hint = segment.timedBefore(timestamp)
      let offset = hint?.lastOffset ?? segment.baseOffset
      if (hint !== null && !(await this.#isTrue(hint, limit))) offset = segment.baseOffset
      while (offset < limit) {
        offset = Math.max(offset, this.#host.startOffset())
        const batches = await this.read(offset, 256 * 1024, limit)
        if (batches.length === 0) return -1
        for (let at = 0; at < batches.length; at += batchBytes(batches, at)) {
          offset = lastOffset(batches, at) + 1
          if (maxTimestamp(batches, at) < timestamp) continue
          const cursor = new RecordCursor(batches.subarray(at, at + batchBytes(batches, at)))
          while (cursor.next()) {
            if (cursor.timestamp >= timestamp && cursor.offset >= this.#host.startOffset())
              return cursor.offset
          }
        }
        if (offset >= (segments[index + 1]?.baseOffset ?? this.#host.endOffset())) break
      }
    }
    return -1
  }

  // reading

  #placeOf(offset: number): Place {
    const segments = this.#host.segments()
    let low = 0
    let high = segments.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (segments[middle].baseOffset <= offset) low = middle
      else high = middle
    }
    const segment = segments[low]
    const indexed = indexedBefore(segment, offset)
    if (indexed === null) return startOf(segment)
    return { segment, position: indexed.position, due: { baseOffset: -1, lastOffset: indexed.lastOffset } }
  }

  /** Whether what a time index says is so. */
  async #isTrue(hint: { timestamp: number; lastOffset: number }, limit: number): Promise<boolean> {
    if (hint.lastOffset < this.#host.startOffset() || hint.lastOffset >= limit) return false
    const batches = await this.read(hint.lastOffset, BATCH_HEADER_BYTES, limit)
    return lastOffset(batches, 0) === hint.lastOffset && maxTimestamp(batches, 0) === hint.timestamp
  }

  #read(request: ReadRequest): Buffer | Promise<Buffer> {
    try {
      for (;;) {
        const bytes = this.#bytesAt(request)
        if (!(bytes instanceof Uint8Array)) return this.#readCold(request, bytes)
        const result = this.#take(request, asBuffer(bytes), true, true)
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
        const isAtHand = pending instanceof Uint8Array
        const bytes = await pending
        const isTrusted = isAtHand || this.#ahead.isChecked(bytes)
        const result = this.#take(request, asBuffer(bytes), isTrusted, isAtHand)
        if (result !== null) return result
        pending = this.#bytesAt(request)
      }
    } catch (error) {
      throw this.#readError(error, request)
    }
  }

  /** Bytes where the request stands now, in the next segment if this one is at its end. */
  #bytesAt(request: ReadRequest): Uint8Array | Promise<Uint8Array> {
    this.#host.checkOpen()
    if (request.segment.removed) {
      // Deleted, or replaced by a compacted one.
      if (request.offset < this.#host.startOffset()) throw this.#outOfRange(request.offset)
      Object.assign(request, this.#placeOf(request.offset), { checked: false })
    }
    if (request.segment.baseOffset > request.offset) {
      const { baseOffset } = request.segment
      throw this.#damage(request, 0, `offsets before ${baseOffset} are missing`, baseOffset)
    }
    while (request.position >= request.segment.size) {
      const next = this.#host.segments()[this.#host.segments().indexOf(request.segment) + 1]
      if (next === undefined || next.baseOffset > request.offset)
        this.#locate(request, 0, 'the file ends here')
      else Object.assign(request, startOf(next))
    }
    const { segment, position } = request
    const asked = Math.min(request.bytesWanted, segment.size - position)
    return this.#ahead.take(segment, position, asked) ?? segment.file.read(position, asked)
  }

  /** Takes from bytes that were read what is wanted; null if there is more to read first. `isAtHand`: they came from memory. */
  #take(request: ReadRequest, bytes: Buffer, trusted: boolean, isAtHand: boolean): Buffer | null {
    const { passEmpty } = request
    const selection = selectBatches(bytes, trusted, request.offset, request.limit, request.due, passEmpty)
    switch (selection.kind) {
      case 'found':
        this.#remember(selection.next, request.segment, request.position + selection.end)
        if (request.isSequel && !isAtHand) this.#readAhead(request, request.position + selection.end)
        return bytes.subarray(selection.start, selection.end)
      case 'more':
        if (selection.skip === 0) return this.#takeLonger(request, bytes, selection.needed)
        request.position += selection.skip
        request.due = selection.due
        request.bytesWanted = Math.max(request.bytesWanted, selection.needed)
        if (selection.due.baseOffset > request.offset) this.#stepOver(request, selection.due.baseOffset)
        return null
      case 'damaged':
        return this.#locate(request, selection.at, selection.wrong)
    }
  }

  /** Batches without records end before `next`. If nothing comes behind them they are better than nothing: a reader gets on. */
  #stepOver(request: ReadRequest, next: number): void {
    if (request.empty < 0) request.empty = request.offset
    request.offset = next
    if (next < request.limit) return
    request.passEmpty = false
    request.offset = request.empty
    Object.assign(request, this.#placeOf(request.offset))
  }

  /** The bytes at hand end inside the first batch. */
  #takeLonger(request: ReadRequest, bytes: Buffer, needed: number): Buffer | null {
    const { segment, position } = request
    this.#host.checkOpen()
    if (segment.removed) return null
    const available = segment.size - position
    if (needed > available) return this.#locate(request, 0, 'the file ends inside a batch')
    const asked = Math.min(request.bytesWanted, available)
    request.bytesWanted = Math.max(request.bytesWanted, needed)
    if (bytes.length >= asked) return null
    // Not at hand in one piece: asking again would bring the same.
    const whole = readFully(segment.file, position, needed)
    return whole.length < needed
      ? this.#locate(request, 0, 'the file ends inside a batch')
      : this.#take(request, whole, false, false)
  }

  /**
   * Something is not as it should be before the wanted offset was reached. An index, or a header that was stepped over, may have led
   * astray: the segment is looked through from its start. Throws CORRUPT_LOG if the offset is among what is lost.
   */
  #locate(request: ReadRequest, at: number, wrong: string): null {
    const { segment, offset } = request
    this.#host.checkOpen()
    if (segment.removed) return null // looked for anew
    if (request.checked) throw this.#damage(request, at, wrong)
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

  /** The next one will ask for as much, if there is as much. */
  #readAhead({ segment, bytesMax }: ReadRequest, position: number): void {
    if (!this.#host.isClosed() && !segment.removed && segment.size - position >= bytesMax)
      this.#ahead.begin(segment, position, bytesMax)
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
    if (request.offset < this.#host.startOffset()) return this.#outOfRange(request.offset) // deleted while it was read
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
    return outOfRange(offset, this.#host.startOffset(), this.#host.endOffset())
  }

  #endOfSegment(segment: Segment): number {
    const next = this.#host.segments().find(other => other.baseOffset > segment.baseOffset)
    return next?.baseOffset ?? this.#host.endOffset()
  }
}

export const outOfRange = (offset: number, startOffset: number, endOffset: number): SluiceError =>
  new SluiceError('OFFSET_OUT_OF_RANGE', `offset ${offset} is not between ${startOffset} and ${endOffset}`, {
    offset,
    startOffset,
    endOffset,
  })

/** A file that cannot be opened shows when it is read. */
function indexedBefore(segment: Segment, offset: number): ReturnType<Segment['indexedBefore']> {
  try {
    return segment.indexedBefore(offset)
  } catch (error) {
    if (!(error instanceof DiskError)) throw error
    return null
  }
}

const startOf = (segment: Segment): Place => ({
  segment,
  position: 0,
  due: { baseOffset: segment.baseOffset, lastOffset: -1 },
})
