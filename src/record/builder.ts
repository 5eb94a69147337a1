/**
 * Writes records into an open batch. The builder owns one buffer that grows to what its batches need and is used
 * again for the next: nothing is allocated per record.
 *
 *   record:  length varint │ attributes 1 byte (0) │ timestamp delta varint │ offset delta varint
 *            │ key length varint (-1: null) │ key │ value length varint (-1: null) │ value
 *            │ header count varint │ { name length varint │ name │ value length varint (-1: null) │ value }…
 *
 * Varints are zigzag-encoded; timestamp deltas may be negative. Batch header: see `batch.ts`.
 */

import assert from 'node:assert/strict'
import { BATCH_HEADER_BYTES, CONTROL, patchChecksum, TRANSACTIONAL, writeInt64 } from './batch.ts'
import { compress } from './compression.ts'

/** A header: name and value, or null. Names may repeat. */
export type Header = readonly [name: string, value: Uint8Array | string | null]

export const compressionTypes = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 } as const
export type Compression = keyof typeof compressionTypes

export interface CloseOptions {
  /** Default `none`. */
  readonly compression?: Compression
  /** Default -1: not idempotent. */
  readonly producerId?: number
  readonly producerEpoch?: number
  readonly baseSequence?: number
  readonly transactional?: boolean
  readonly control?: boolean
}

/** Most bytes that one record of these contents can take up in a batch. */
export function recordBytesMax(
  key: Uint8Array | string | null,
  value: Uint8Array | string | null,
  headers: readonly Header[] | null,
): number {
  // 5 bytes a varint, 10 for the timestamp: length 5, attributes 1, timestamp 10, offset 5, key 5, value 5, headers 5
  let bytes = 36 + bytesOf(key) + bytesOf(value)
  if (headers !== null) for (const [name, content] of headers) bytes += 10 + bytesOf(name) + bytesOf(content)
  return bytes
}

const bytesOf = (content: Uint8Array | string | null): number =>
  content === null ? 0 : typeof content === 'string' ? Buffer.byteLength(content) : content.length

/** Strings up to this length are measured and copied by a loop, which beats the call into C++. */
const SHORT_STRING = 24

const varintBytes = (value: number): number => {
  const zigzag = ((value << 1) ^ (value >> 31)) >>> 0
  return zigzag < 0x80 ? 1 : zigzag < 0x4000 ? 2 : zigzag < 0x200000 ? 3 : zigzag < 0x10000000 ? 4 : 5
}

/** A zigzag number is twice the magnitude, plus one if negative; kept apart, since twice 2^52 is not exact any more. */
const magnitudeOf = (value: number): number => (value >= 0 ? value : -value - 1)

export const varlongBytes = (value: number): number => {
  if (value >= -0x40000000 && value < 0x40000000) return varintBytes(value)
  let bytes = 1
  for (let rest = Math.floor(magnitudeOf(value) / 0x40); rest > 0; rest = Math.floor(rest / 0x80)) bytes++
  return bytes
}

export class BatchBuilder {
  #buffer: Buffer
  #position = BATCH_HEADER_BYTES
  #count = 0
  #baseTimestamp = 0
  #maxTimestamp = 0

  constructor(bytesInitial = 16 * 1024) {
    this.#buffer = Buffer.allocUnsafeSlow(Math.max(bytesInitial, BATCH_HEADER_BYTES))
  }

  /** Records so far. */
  get count(): number {
    return this.#count
  }

  /** Size of the batch were it closed now without compression. */
  get bytes(): number {
    return this.#position
  }

  append(
    timestamp: number,
    key: Uint8Array | string | null,
    value: Uint8Array | string | null,
    headers: readonly Header[] | null,
  ): void {
    if (this.#count === 0) {
      this.#baseTimestamp = timestamp
      this.#maxTimestamp = timestamp
    } else if (timestamp > this.#maxTimestamp) this.#maxTimestamp = timestamp
    const timestampDelta = timestamp - this.#baseTimestamp
    const keyBytes = key === null ? -1 : typeof key === 'string' ? stringBytes(key) : key.length
    const valueBytes = value === null ? -1 : typeof value === 'string' ? stringBytes(value) : value.length
    const bodyBytes =
      1 +
      varlongBytes(timestampDelta) +
      varintBytes(this.#count) +
      varintBytes(keyBytes) +
      Math.max(keyBytes, 0) +
      varintBytes(valueBytes) +
      Math.max(valueBytes, 0) +
      (headers === null ? 1 : headersBytes(headers))
    this.#reserve(bodyBytes + 5)

    const buffer = this.#buffer
    let at = writeVarint(buffer, this.#position, bodyBytes)
    buffer[at++] = 0
    at = writeVarlong(buffer, at, timestampDelta)
    at = writeVarint(buffer, at, this.#count)
    at = writeContent(buffer, at, key, keyBytes)
    at = writeContent(buffer, at, value, valueBytes)
    if (headers === null) buffer[at++] = 0
    else at = writeHeaders(buffer, at, headers)
    this.#position = at
    this.#count++
  }

  /**
   * Finishes the batch, with base offset 0. The result is a view of the builder's memory (of its own memory if compressed),
   * valid until `reset`.
   */
  close(options: CloseOptions = {}): Buffer {
    assert(this.#count > 0, 'an empty batch cannot be closed')
    const compression = compressionTypes[options.compression ?? 'none']
    let batch = this.#buffer
    let end = this.#position
    if (compression !== 0) {
      const records = compress(compression, this.#buffer.subarray(BATCH_HEADER_BYTES, end))
      end = BATCH_HEADER_BYTES + records.length
      batch = Buffer.allocUnsafeSlow(end)
      batch.set(records, BATCH_HEADER_BYTES)
    }
    const attributes =
      compression |
      (options.transactional === true ? TRANSACTIONAL : 0) |
      (options.control === true ? CONTROL : 0)
    writeInt64(batch, 0, 0)
    batch.writeInt32BE(end - 12, 8)
    batch.writeInt32BE(-1, 12)
    batch[16] = 2
    batch.writeInt16BE(attributes, 21)
    batch.writeInt32BE(this.#count - 1, 23)
    writeInt64(batch, 27, this.#baseTimestamp)
    writeInt64(batch, 35, this.#maxTimestamp)
    writeInt64(batch, 43, options.producerId ?? -1)
    batch.writeInt16BE(options.producerEpoch ?? -1, 51)
    batch.writeInt32BE(options.baseSequence ?? -1, 53)
    batch.writeInt32BE(this.#count, 57)
    patchChecksum(batch, 0)
    return batch.subarray(0, end)
  }

  /** Makes the builder empty. Its memory is kept. */
  reset(): void {
    this.#position = BATCH_HEADER_BYTES
    this.#count = 0
  }

  #reserve(bytes: number): void {
    const needed = this.#position + bytes
    if (needed <= this.#buffer.length) return
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.#buffer.length * 2))
    larger.set(this.#buffer.subarray(0, this.#position))
    this.#buffer = larger
  }
}

/** UTF-8 length; short ASCII without leaving JavaScript. */
function stringBytes(content: string): number {
  if (content.length > SHORT_STRING) return Buffer.byteLength(content)
  for (let index = 0; index < content.length; index++) {
    if (content.charCodeAt(index) >= 0x80) return Buffer.byteLength(content)
  }
  return content.length
}

function headersBytes(headers: readonly Header[]): number {
  let bytes = varintBytes(headers.length)
  for (const [name, value] of headers) {
    const nameBytes = Buffer.byteLength(name)
    bytes += varintBytes(nameBytes) + nameBytes
    const valueBytes = value === null ? -1 : bytesOf(value)
    bytes += varintBytes(valueBytes) + Math.max(valueBytes, 0)
  }
  return bytes
}

function writeHeaders(buffer: Buffer, start: number, headers: readonly Header[]): number {
  let at = writeVarint(buffer, start, headers.length)
  for (const [name, value] of headers) {
    at = writeContent(buffer, at, name, Buffer.byteLength(name))
    at = writeContent(buffer, at, value, value === null ? -1 : bytesOf(value))
  }
  return at
}

function writeContent(
  buffer: Buffer,
  start: number,
  content: Uint8Array | string | null,
  bytes: number,
): number {
  let at = writeVarint(buffer, start, bytes)
  if (content === null) return at
  if (typeof content !== 'string') {
    buffer.set(content, at)
    return at + bytes
  }
  if (bytes === content.length && bytes <= SHORT_STRING) {
    for (let index = 0; index < bytes; index++) buffer[at++] = content.charCodeAt(index)
    return at
  }
  buffer.write(content, at, bytes, 'utf8')
  return at + bytes
}

export function writeVarint(buffer: Buffer, start: number, value: number): number {
  let at = start
  let rest = ((value << 1) ^ (value >> 31)) >>> 0
  while (rest >= 0x80) {
    buffer[at++] = (rest & 0x7f) | 0x80
    rest >>>= 7
  }
  buffer[at++] = rest
  return at
}

export function writeVarlong(buffer: Buffer, start: number, value: number): number {
  if (value >= -0x40000000 && value < 0x40000000) return writeVarint(buffer, start, value)
  let at = start
  const magnitude = magnitudeOf(value)
  let digit = (magnitude % 0x40) * 2 + (value < 0 ? 1 : 0)
  let rest = Math.floor(magnitude / 0x40)
  while (rest > 0) {
    buffer[at++] = digit | 0x80
    digit = rest % 0x80
    rest = Math.floor(rest / 0x80)
  }
  buffer[at++] = digit
  return at
}
