/**
 * What a read-committed reader is shown: batches of aborted transactions are replaced by empty ones with the same offsets, so that
 * the reader gets on as if it had read them.
 *
 * Batches and the list of aborted transactions are as a fetch brings them: the list names at least each transaction that has a
 * batch here and was aborted, with its producer and its first offset; which of the producer's batches it covers ends with the
 * marker (https://kafka.apache.org/documentation/#isolation.level).
 */

import {
  attributes,
  BATCH_HEADER_BYTES,
  BATCH_PREFIX_BYTES,
  batchBytes,
  COMPRESSION_MASK,
  isControl,
  isTransactional,
  lastOffset,
  patchChecksum,
  producerId,
} from './batch.ts'

export interface Aborted {
  readonly producerId: number
  readonly firstOffset: number
}

/** The same bytes if nothing in them was aborted, else a copy. */
export function committedOnly(batches: Buffer, aborted: readonly Aborted[]): Buffer {
  if (aborted.length === 0) return batches
  const coming = [...aborted].sort((a, b) => a.firstOffset - b.firstOffset)
  const open = new Set<number>()
  const parts: Buffer[] = []
  let keptFrom = 0
  let next = 0
  for (let at = 0; at + BATCH_HEADER_BYTES <= batches.length; at += batchBytes(batches, at)) {
    const id = producerId(batches, at)
    while (next < coming.length && coming[next].firstOffset <= lastOffset(batches, at)) {
      open.add(coming[next++].producerId)
    }
    if (isControl(batches, at)) open.delete(id)
    else if (isTransactional(batches, at) && open.has(id)) {
      parts.push(batches.subarray(keptFrom, at), emptied(batches, at))
      keptFrom = at + batchBytes(batches, at)
    }
  }
  if (keptFrom === 0) return batches
  parts.push(batches.subarray(keptFrom))
  return Buffer.concat(parts)
}

function emptied(batches: Buffer, at: number): Buffer {
  const empty = Buffer.from(batches.subarray(at, at + BATCH_HEADER_BYTES))
  empty.writeInt32BE(BATCH_HEADER_BYTES - BATCH_PREFIX_BYTES, 8)
  empty.writeInt16BE(attributes(empty, 0) & ~COMPRESSION_MASK, 21)
  empty.writeInt32BE(0, 57)
  patchChecksum(empty, 0)
  return empty
}
