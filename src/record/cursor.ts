/**
 * Walks the records of one or more batches in place. A cursor is one object whose fields change with `next()`: no
 * allocation per record. Compressed batches are decompressed one at a time, as they are reached; control batches
 * (transaction markers) are passed over, for they hold nothing that an application reads.
 *
 * The bytes are taken to have passed their checksum; all the same every length is checked, so that malformed records
 * (a producer can send a good checksum over nonsense) end in INVALID_RECORD, never in a read outside the batch.
 */

import { SluiceError } from '../errors.ts'
import {
  asBuffer,
  BATCH_HEADER_BYTES,
  baseOffset,
  baseTimestamp,
  batchBytes,
  checkHeader,
  compressionOf,
  hasAppendTime,
  isControl,
  lastOffsetDelta,
  maxTimestamp,
  recordCount,
} from './batch.ts'
import { decompress } from './compression.ts'

/** Most bytes that one batch may take up decompressed. */
export const DECOMPRESSED_BYTES_MAX = 256 * 1024 * 1024

/** Where a record lies, and where its parts do. */
export interface RecordPlace {
  readonly bytes: Buffer
  readonly offset: number
  readonly timestamp: number
  readonly keyStart: number
  /** -1: null */
  readonly keyBytes: number
  readonly valueStart: number
  /** -1: null */
  readonly valueBytes: number
  readonly headersStart: number
  readonly headerCount: number
}

export class RecordCursor implements RecordPlace {
  /** Where the current record lies: the batches themselves, or the decompressed records of one. Never changed afterwards. */
  bytes: Buffer
  offset = -1
  timestamp = -1
  keyStart = 0
  /** -1: null */
  keyBytes = -1
  valueStart = 0
  /** -1: null */
  valueBytes = -1
  headersStart = 0
  headerCount = 0

  readonly #batches: Buffer
  readonly #bytesMax: number
  readonly #control: boolean
  #nextBatch = 0
  #remaining = 0
  #position = 0
  #end = 0
  #baseOffset = 0
  #lastOffsetDelta = 0
  #baseTimestamp = 0
  #appendTime = -1
  #varint = 0

  /** `control`: also the records of control batches, for whoever deals with transactions. */
  constructor(batches: Uint8Array, options?: { decompressedBytesMax?: number; control?: boolean }) {
    this.#batches = asBuffer(batches)
    this.#bytesMax = options?.decompressedBytesMax ?? DECOMPRESSED_BYTES_MAX
    this.#control = options?.control === true
    this.bytes = this.#batches
  }

  /** Moves to the next record; false at the end. Throws INVALID_RECORD. */
  next(): boolean {
    while (this.#remaining === 0) if (!this.#openBatch()) return false
    this.#remaining--
    const bytes = this.bytes
    let at = this.#int(this.#position)
    const end = at + this.#varint
    if (end > this.#end || end <= at) throw this.#malformed('length')
    at++ // attributes: unused
    at = this.#long(at)
    this.timestamp = this.#appendTime >= 0 ? this.#appendTime : this.#baseTimestamp + this.#varint
    at = this.#int(at)
    if (this.#varint < 0 || this.#varint > this.#lastOffsetDelta) throw this.#malformed('offset')
    this.offset = this.#baseOffset + this.#varint
    // key and value lengths are mostly one byte
    let length = bytes[at]
    if (length < 0x80) {
      at++
      this.keyBytes = (length >>> 1) ^ -(length & 1)
    } else {
      at = this.#int(at)
      this.keyBytes = this.#varint
    }
    this.keyStart = at
    if (this.keyBytes > 0) at += this.keyBytes
    if (at > end || this.keyBytes < -1) throw this.#malformed('key')
    length = bytes[at]
    if (length < 0x80) {
      at++
      this.valueBytes = (length >>> 1) ^ -(length & 1)
    } else {
      at = this.#int(at)
      this.valueBytes = this.#varint
    }
    this.valueStart = at
    if (this.valueBytes > 0) at += this.valueBytes
    if (at >= end || this.valueBytes < -1) throw this.#malformed('value')
    at = this.#int(at)
    this.headerCount = this.#varint
    this.headersStart = at
    if (at > end || this.headerCount < 0 || this.headerCount > end - at) throw this.#malformed('headers')
    this.#position = end
    return true
  }

  /** Where the current record ends in `bytes`, and the next of the same batch begins. */
  get end(): number {
    return this.#position
  }

  /** The headers of the current record, decoded. */
  headers(): [name: string, value: Buffer | null][] {
    return readHeaders(this.bytes, this.headersStart, this.headerCount, this.#position)
  }

  #openBatch(): boolean {
    if (this.#position !== this.#end) throw this.#malformed('bytes behind the last record')
    const batches = this.#batches
    const at = this.#nextBatch
    if (at >= batches.length) return false
    const wrong = checkHeader(batches, at, batches.length)
    const bytes = wrong === null ? batchBytes(batches, at) : 0
    if (wrong !== null || at + bytes > batches.length) throw this.#malformed(wrong ?? 'incomplete batch')
    this.#nextBatch = at + bytes
    if (isControl(batches, at) && !this.#control) return true
    this.#remaining = recordCount(batches, at)
    this.#baseOffset = baseOffset(batches, at)
    this.#lastOffsetDelta = lastOffsetDelta(batches, at)
    this.#baseTimestamp = baseTimestamp(batches, at)
    this.#appendTime = hasAppendTime(batches, at) ? maxTimestamp(batches, at) : -1
    const compression = compressionOf(batches, at)
    if (compression === 0) {
      this.bytes = batches
      this.#position = at + BATCH_HEADER_BYTES
      this.#end = at + bytes
    } else {
      const records = batches.subarray(at + BATCH_HEADER_BYTES, at + bytes)
      this.bytes = decompress(compression, records, this.#bytesMax)
      this.#position = 0
      this.#end = this.bytes.length
    }
    return true
  }

  /** Reads a varint of 32 bits into #varint; returns the position after it. */
  #int(start: number): number {
    const bytes = this.bytes
    let at = start
    let value = 0
    let shift = 0
    let byte: number
    do {
      if (at >= this.#end || shift > 28) throw this.#malformed('varint')
      byte = bytes[at++]
      value |= (byte & 0x7f) << shift
      shift += 7
    } while (byte >= 0x80)
    this.#varint = (value >>> 1) ^ -(value & 1)
    return at
  }

  /** Reads a varint of 64 bits into #varint, exact within ±2^53. */
  #long(start: number): number {
    const byte = this.bytes[start]
    if (byte < 0x80 && start < this.#end) {
      this.#varint = (byte >>> 1) ^ -(byte & 1)
      return start + 1
    }
    let at = start
    let magnitude = 0
    let scale = 0.5
    let digit: number
    do {
      if (at >= this.#end || at - start > 9) throw this.#malformed('varint')
      digit = this.bytes[at++]
      // the lowest bit of the first digit is the sign
      magnitude += (at - start === 1 ? digit & 0x7e : digit & 0x7f) * scale
      scale *= 0x80
    } while (digit >= 0x80)
    this.#varint = (this.bytes[start] & 1) === 0 ? magnitude : -magnitude - 1
    return at
  }

  #malformed(what: string): SluiceError {
    return new SluiceError('INVALID_RECORD', `malformed record batch: ${what}`, {
      baseOffset: this.#baseOffset,
      position: this.#position,
    })
  }
}

const NOTHING: Buffer = Buffer.alloc(0)

/**
 * Walks the headers of a record in place: fields that change with `next()`, no allocation per header. `open` begins, also with another record.
 */
export class HeaderCursor {
  nameStart = 0
  nameBytes = 0
  valueStart = 0
  /** -1: null */
  valueBytes = -1
  #bytes = NOTHING
  #position = 0
  #end = 0
  #remaining = 0
  #varint = 0

  /** Stands before the first of `count` headers that begin at `start` and lie before `end`. */
  open(bytes: Buffer, start: number, count: number, end = bytes.length): this {
    this.#bytes = bytes
    this.#position = start
    this.#end = end
    this.#remaining = count
    return this
  }

  /** Where what was read so far ends. */
  get end(): number {
    return this.#position
  }

  /** Moves to the next header; false at the end. Throws INVALID_RECORD. */
  next(): boolean {
    if (this.#remaining === 0) return false
    this.#remaining--
    this.nameStart = this.#int(this.#position)
    this.nameBytes = this.#varint
    if (this.nameBytes < 0) throw malformedHeader()
    this.valueStart = this.#int(this.#pass(this.nameStart, this.nameBytes))
    this.valueBytes = this.#varint
    this.#position = this.#pass(this.valueStart, Math.max(0, this.valueBytes))
    return true
  }

  /** Whether the current header has this name. */
  isNamed(name: Uint8Array): boolean {
    if (this.nameBytes !== name.length) return false
    for (let index = 0; index < name.length; index++) {
      if (this.#bytes[this.nameStart + index] !== name[index]) return false
    }
    return true
  }

  /** The value of the current header if it is a whole number in up to 15 decimal digits; otherwise -1. */
  wholeValue(): number {
    if (this.valueBytes < 1 || this.valueBytes > WHOLE_DIGITS_MAX) return -1
    let whole = 0
    for (let index = 0; index < this.valueBytes; index++) {
      const digit = this.#bytes[this.valueStart + index] - DIGIT_ZERO
      if (digit < 0 || digit > 9) return -1
      whole = whole * 10 + digit
    }
    return whole
  }

  name(): string {
    return this.#bytes.toString('utf8', this.nameStart, this.nameStart + this.nameBytes)
  }

  /** A view. */
  value(): Buffer | null {
    if (this.valueBytes < 0) return null
    return this.#bytes.subarray(this.valueStart, this.valueStart + this.valueBytes)
  }

  #pass(start: number, length: number): number {
    if (length > this.#end - start) throw malformedHeader()
    return start + length
  }

  #int(start: number): number {
    const bytes = this.#bytes
    let at = start
    let value = 0
    let shift = 0
    let byte: number
    do {
      if (at >= this.#end || shift > 28) throw malformedHeader()
      byte = bytes[at++]
      value |= (byte & 0x7f) << shift
      shift += 7
    } while (byte >= 0x80)
    this.#varint = (value >>> 1) ^ -(value & 1)
    return at
  }
}

const WHOLE_DIGITS_MAX = 15
const DIGIT_ZERO = 0x30

/** Decodes `count` headers that begin at `start` and lie before `end`. Throws INVALID_RECORD. */
export function readHeaders(
  bytes: Buffer,
  start: number,
  count: number,
  end = bytes.length,
): [name: string, value: Buffer | null][] {
  const headers: [string, Buffer | null][] = []
  if (count === 0) return headers
  const cursor = new HeaderCursor().open(bytes, start, count, end)
  while (cursor.next()) headers.push([cursor.name(), cursor.value()])
  return headers
}

const malformedHeader = (): SluiceError => new SluiceError('INVALID_RECORD', 'malformed record header')
