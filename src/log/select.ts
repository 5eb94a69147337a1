/**
 * Chooses whole batches from bytes of a segment: the pure half of reading a log.
 *
 * The bytes begin with a batch (or with what an index took for one) and may end in the middle of another. Batches before the
 * one that holds the wanted offset are stepped over. Bytes that came from the disk are checked, batch by batch; bytes
 * from memory were checked when they came in.
 */

import {
  BATCH_HEADER_BYTES,
  baseOffset,
  batchBytes,
  checkBatch,
  checkHeader,
  lastOffset,
} from '../record/batch.ts'

export type Selection =
  /** Batches from `start` to `end`; the offset after them is `next`. */
  | { readonly kind: 'found'; readonly start: number; readonly end: number; readonly next: number }
  /** Not in these bytes: go on `skip` bytes further, with at least `needed` bytes. */
  | { readonly kind: 'more'; readonly skip: number; readonly needed: number }
  /** The wanted offset begins at `limit` or later. */
  | { readonly kind: 'limit' }
  /** No good batch at `at`. */
  | { readonly kind: 'damaged'; readonly at: number; readonly wrong: string }

const LIMIT: Selection = { kind: 'limit' }

export function selectBatches(bytes: Buffer, trusted: boolean, offset: number, limit: number): Selection {
  let start = -1
  let next = offset
  let at = 0
  let needed = BATCH_HEADER_BYTES
  while (bytes.length - at >= BATCH_HEADER_BYTES) {
    let wrong = checkHeader(bytes, at, bytes.length)
    if (wrong === null) {
      const length = batchBytes(bytes, at)
      const base = baseOffset(bytes, at)
      const last = lastOffset(bytes, at)
      if (base >= limit) {
        if (start < 0) return LIMIT
        break
      }
      if (last < offset) {
        at += length
        if (at > bytes.length) return { kind: 'more', skip: at, needed }
        continue
      }
      if (at + length > bytes.length) {
        needed = length
        break
      }
      if (start < 0 ? base > offset : base !== next) wrong = `offset ${base} where ${next} is due`
      else if (!trusted) wrong = checkBatch(bytes, at, bytes.length)
      if (wrong === null) {
        if (start < 0) start = at
        next = last + 1
        at += length
        continue
      }
    }
    // What is good before the damage is served; whoever reads on is told.
    if (start >= 0) break
    return { kind: 'damaged', at, wrong }
  }
  if (start >= 0) return { kind: 'found', start, end: at, next }
  return { kind: 'more', skip: at, needed }
}
