/**
 * Takes records out of a batch that is stored. What stays keeps its offset, timestamp and bytes; the batch keeps its base offset,
 * last offset delta, producer and compression. A batch of which nothing goes is returned as it is, the same bytes.
 *
 *     | header | record 0 | record 1 | record 2 | record 3 |        offsets 10 to 13
 *     | header'|            record 1 |            record 3 |        still 10 to 13, count 2; records 1 and 3 as they were
 *
 * With a delete horizon (KIP-534) the base timestamp is that horizon, so the timestamp deltas of the records are written anew.
 *
 * A batch without records has a header only. It stands for offsets that are gone: `emptied` for those of one batch, with the
 * producer's sequence numbers, `emptySpan` for any number.
 */

import {
  attributes,
  BATCH_HEADER_BYTES,
  BATCH_PREFIX_BYTES,
  COMPRESSION_MASK,
  compressionOf,
  DELETE_HORIZON,
  hasAppendTime,
  maxTimestamp,
  patchChecksum,
  patchOffset,
  writeInt64,
} from './batch.ts'
import { varlongBytes, writeVarint, writeVarlong } from './builder.ts'
import { compress } from './compression.ts'
import { RecordCursor } from './cursor.ts'

/** Most bytes that a varint takes up (32 bits), and a varlong (64 bits). */
const VARINT_BYTES_MAX = 5
const VARLONG_BYTES_MAX = 10

export interface FilterOptions {
  /** Shown each record in order, and its number. */
  readonly look: (record: RecordCursor, index: number) => void
  /** Whether the record with this number stays; asked once for each, in order, after all were shown. */
  readonly keep: (index: number) => boolean
  /** Given to a batch with tombstones among what stays that has no delete horizon yet, ms. */
  readonly deleteHorizon: number
}

/** Where the records that stay lie; used again for every batch. */
interface Kept {
  count: number
  readonly starts: number[]
  readonly ends: number[]
  readonly timestamps: number[]
}

const kept: Kept = { count: 0, starts: [], ends: [], timestamps: [] }
const tombstones: boolean[] = []

/** The batch without the records that do not stay; itself if all do; null if none does. Not for control batches. Throws INVALID_RECORD. */
export function filterBatch(batch: Buffer, options: FilterOptions): Buffer | null {
  const { look, keep } = options
  const { starts, ends, timestamps } = kept
  const cursor = new RecordCursor(batch)
  let start = compressionOf(batch, 0) === 0 ? BATCH_HEADER_BYTES : 0
  let count = 0
  for (; cursor.next(); count++) {
    look(cursor, count)
    starts[count] = start
    ends[count] = cursor.end
    timestamps[count] = cursor.timestamp
    tombstones[count] = cursor.valueBytes < 0
    start = cursor.end
  }
  let timestampMax = -1
  let hasTombstones = false
  kept.count = 0
  for (let index = 0; index < count; index++) {
    if (!keep(index)) continue
    const place = kept.count++
    starts[place] = starts[index]
    ends[place] = ends[index]
    timestamps[place] = timestamps[index]
    if (timestamps[index] > timestampMax) timestampMax = timestamps[index]
    if (tombstones[index]) hasTombstones = true
  }
  if (kept.count === 0) return null
  const isMarked = (attributes(batch, 0) & DELETE_HORIZON) !== 0
  if (kept.count === count && (isMarked || !hasTombstones)) return batch
  const appendTime = hasAppendTime(batch, 0)
  const horizon = hasTombstones && !isMarked ? options.deleteHorizon : -1
  const records =
    horizon >= 0 && !appendTime ? copyRebased(cursor.bytes, kept, horizon) : copyKept(cursor.bytes, kept)
  return assemble(batch, records, kept.count, appendTime ? maxTimestamp(batch, 0) : timestampMax, horizon)
}

function copyKept(bytes: Buffer, { count, starts, ends }: Kept): Buffer {
  let length = 0
  for (let index = 0; index < count; index++) length += ends[index] - starts[index]
  const records = Buffer.allocUnsafe(length)
  let at = 0
  for (let index = 0; index < count; ) {
    const start = starts[index]
    let end = ends[index++]
    while (index < count && starts[index] === end) end = ends[index++] // neighbours go together
    records.set(bytes.subarray(start, end), at)
    at += end - start
  }
  return records
}

/** The same records with timestamp deltas to another base. */
function copyRebased(bytes: Buffer, { count, starts, ends, timestamps }: Kept, base: number): Buffer {
  let lengthMax = 0
  for (let index = 0; index < count; index++) {
    lengthMax += ends[index] - starts[index] + VARINT_BYTES_MAX + VARLONG_BYTES_MAX
  }
  const records = Buffer.allocUnsafe(lengthMax)
  let at = 0
  for (let index = 0; index < count; index++) {
    // length varint │ attributes │ timestamp delta varlong │ the rest
    const attributesAt = afterVarint(bytes, starts[index])
    const rest = bytes.subarray(afterVarint(bytes, attributesAt + 1), ends[index])
    const delta = timestamps[index] - base
    at = writeVarint(records, at, 1 + varlongBytes(delta) + rest.length)
    records[at++] = bytes[attributesAt]
    at = writeVarlong(records, at, delta)
    records.set(rest, at)
    at += rest.length
  }
  return records.subarray(0, at)
}

function afterVarint(bytes: Buffer, start: number): number {
  let at = start
  while (bytes[at] >= 0x80) at++
  return at + 1
}

function assemble(
  source: Buffer,
  records: Buffer,
  count: number,
  timestampMax: number,
  horizon: number,
): Buffer {
  const compression = compressionOf(source, 0)
  const stored = compression === 0 ? records : compress(compression, records)
  const batch = Buffer.allocUnsafe(BATCH_HEADER_BYTES + stored.length)
  batch.set(source.subarray(0, BATCH_HEADER_BYTES))
  batch.set(stored, BATCH_HEADER_BYTES)
  batch.writeInt32BE(batch.length - BATCH_PREFIX_BYTES, 8)
  if (horizon >= 0) setDeleteHorizon(batch, horizon)
  writeInt64(batch, 35, timestampMax)
  batch.writeInt32BE(count, 57)
  patchChecksum(batch, 0)
  return batch
}

function setDeleteHorizon(batch: Buffer, horizon: number): void {
  batch.writeInt16BE(attributes(batch, 0) | DELETE_HORIZON, 21)
  writeInt64(batch, 27, horizon)
}

/** A transaction marker with a delete horizon. */
export function withDeleteHorizon(batch: Buffer, horizon: number): Buffer {
  const record = new RecordCursor(batch, { control: true })
  record.next()
  kept.count = 1
  kept.starts[0] = BATCH_HEADER_BYTES
  kept.ends[0] = record.end
  kept.timestamps[0] = record.timestamp
  const records = hasAppendTime(batch, 0)
    ? batch.subarray(BATCH_HEADER_BYTES)
    : copyRebased(batch, kept, horizon)
  return assemble(batch, records, 1, maxTimestamp(batch, 0), horizon)
}

/** The header alone: the offsets, the producer and its sequence numbers stay. */
export function emptied(batch: Buffer): Buffer {
  const header = Buffer.from(batch.subarray(0, BATCH_HEADER_BYTES))
  header.writeInt32BE(BATCH_HEADER_BYTES - BATCH_PREFIX_BYTES, 8)
  header.writeInt16BE(attributes(batch, 0) & ~(COMPRESSION_MASK | DELETE_HORIZON), 21)
  writeInt64(header, 27, maxTimestamp(batch, 0))
  header.writeInt32BE(0, 57)
  patchChecksum(header, 0)
  return header
}

/** An empty batch for the offsets from `first` to `last`, which belonged to batches that are gone. */
export function emptySpan(first: number, last: number, epoch: number): Buffer {
  const header = Buffer.alloc(BATCH_HEADER_BYTES)
  header.writeInt32BE(BATCH_HEADER_BYTES - BATCH_PREFIX_BYTES, 8)
  header[16] = 2
  header.writeInt32BE(last - first, 23)
  writeInt64(header, 27, -1)
  writeInt64(header, 35, -1)
  writeInt64(header, 43, -1)
  header.writeInt16BE(-1, 51)
  header.writeInt32BE(-1, 53)
  patchOffset(header, 0, first, epoch)
  patchChecksum(header, 0)
  return header
}
