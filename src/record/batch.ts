/**
 * The header of a record batch, version 2, read and patched in place. One log, one byte format: these bytes are on the
 * wire, on disk and in memory, and nobody between a producer and a consumer decodes them.
 *
 *   at  size  field
 *    0   8    base offset             patched by the log when it appends; outside the checksum
 *    8   4    batch length            bytes from 12 to the end
 *   12   4    partition leader epoch  patched by the log; outside the checksum
 *   16   1    magic                   2
 *   17   4    CRC-32C                 of everything from 21 to the end
 *   21   2    attributes              bits 0–2 compression, 3 log-append time, 4 transactional, 5 control, 6 delete horizon
 *   23   4    last offset delta
 *   27   8    base timestamp          ms; record timestamps are deltas to it. With bit 6: when tombstones may go (compaction, KIP-534)
 *   35   8    max timestamp           ms
 *   43   8    producer id             -1: none
 *   51   2    producer epoch
 *   53   4    base sequence
 *   57   4    record count
 *   61   …    records, compressed as one block if bits 0–2 say so
 *
 * Source: Kafka's "Record Batch" (https://kafka.apache.org/documentation/#recordbatch). Records themselves are
 * written by `builder.ts` and read by `cursor.ts`.
 *
 * Offsets and timestamps are JavaScript numbers: exact up to 2^53, which a partition does not reach.
 */

import { crc32c } from '@node-rs/crc32'

export const BATCH_HEADER_BYTES = 61
/** Bytes before the part that `batch length` counts. */
export const BATCH_PREFIX_BYTES = 12
const CRC_START = 21
const MAGIC = 2

export const COMPRESSION_MASK = 0x07
export const LOG_APPEND_TIME = 0x08
export const TRANSACTIONAL = 0x10
export const CONTROL = 0x20
export const DELETE_HORIZON = 0x40

/** A 64-bit integer as a number; exact within ±2^53. */
export function readInt64(bytes: Buffer, at: number): number {
  return bytes.readInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4)
}

export function writeInt64(bytes: Buffer, at: number, value: number): void {
  bytes.writeInt32BE(Math.floor(value / 0x1_0000_0000), at)
  bytes.writeUInt32BE(value >>> 0, at + 4)
}

/** A Buffer over the same memory; the batch functions take Buffers for their integer reads. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Bytes of the whole batch. Not checked: may be any number if the bytes are not a batch. */
export const batchBytes = (bytes: Buffer, at: number): number =>
  bytes.readInt32BE(at + 8) + BATCH_PREFIX_BYTES
export const baseOffset = (bytes: Buffer, at: number): number => readInt64(bytes, at)
export const leaderEpoch = (bytes: Buffer, at: number): number => bytes.readInt32BE(at + 12)
export const attributes = (bytes: Buffer, at: number): number => bytes.readInt16BE(at + 21)
export const lastOffsetDelta = (bytes: Buffer, at: number): number => bytes.readInt32BE(at + 23)
export const lastOffset = (bytes: Buffer, at: number): number =>
  readInt64(bytes, at) + bytes.readInt32BE(at + 23)
export const baseTimestamp = (bytes: Buffer, at: number): number => readInt64(bytes, at + 27)
export const maxTimestamp = (bytes: Buffer, at: number): number => readInt64(bytes, at + 35)
export const producerId = (bytes: Buffer, at: number): number => readInt64(bytes, at + 43)
export const producerEpoch = (bytes: Buffer, at: number): number => bytes.readInt16BE(at + 51)
export const baseSequence = (bytes: Buffer, at: number): number => bytes.readInt32BE(at + 53)
export const recordCount = (bytes: Buffer, at: number): number => bytes.readInt32BE(at + 57)
export const compressionOf = (bytes: Buffer, at: number): number => attributes(bytes, at) & COMPRESSION_MASK
export const isTransactional = (bytes: Buffer, at: number): boolean =>
  (attributes(bytes, at) & TRANSACTIONAL) !== 0
export const isControl = (bytes: Buffer, at: number): boolean => (attributes(bytes, at) & CONTROL) !== 0
/** From when on the tombstones of a compacted batch, or its transaction marker, may be dropped, ms; -1: not decided yet. */
export const deleteHorizon = (bytes: Buffer, at: number): number =>
  (attributes(bytes, at) & DELETE_HORIZON) === 0 ? -1 : baseTimestamp(bytes, at)
export const hasAppendTime = (bytes: Buffer, at: number): boolean =>
  (attributes(bytes, at) & LOG_APPEND_TIME) !== 0

/** Sets what the log decides. Neither field is covered by the checksum. */
export function patchOffset(bytes: Buffer, at: number, offset: number, epoch: number): void {
  writeInt64(bytes, at, offset)
  bytes.writeInt32BE(epoch, at + 12)
}

/** Stamps a batch with the time of the log (`message.timestamp.type=LogAppendTime`), which needs a new checksum. */
export function patchAppendTime(bytes: Buffer, at: number, timestamp: number): void {
  bytes.writeInt16BE(attributes(bytes, at) | LOG_APPEND_TIME, at + 21)
  writeInt64(bytes, at + 35, timestamp)
  patchChecksum(bytes, at)
}

export function patchChecksum(bytes: Buffer, at: number): void {
  bytes.writeUInt32BE(crc32c(bytes.subarray(at + CRC_START, at + batchBytes(bytes, at))), at + 17)
}

/**
 * Whether the header at `at` can be one: enough to walk from batch to batch, without reading the records.
 * Returns what is wrong, or null. `end` is where the bytes at hand end.
 */
export function checkHeader(bytes: Buffer, at: number, end: number): string | null {
  if (end - at < BATCH_HEADER_BYTES) return 'incomplete header'
  if (bytes[at + 16] !== MAGIC) return `magic ${bytes[at + 16]} instead of ${MAGIC}`
  const length = batchBytes(bytes, at)
  if (length < BATCH_HEADER_BYTES) return `impossible length ${length}`
  if (lastOffsetDelta(bytes, at) < 0 || recordCount(bytes, at) < 0) return 'negative record count'
  return null
}

/** Whether a whole, undamaged batch lies at `at`. Returns what is wrong, or null. */
export function checkBatch(bytes: Buffer, at: number, end: number): string | null {
  const header = checkHeader(bytes, at, end)
  if (header !== null) return header
  const length = batchBytes(bytes, at)
  if (at + length > end) return `incomplete: ${end - at} of ${length} bytes`
  const expected = bytes.readUInt32BE(at + 17)
  const actual = crc32c(bytes.subarray(at + CRC_START, at + length))
  if (expected !== actual) return `checksum ${hex(actual)} instead of ${hex(expected)}`
  return null
}

const hex = (value: number): string => value.toString(16).padStart(8, '0')
