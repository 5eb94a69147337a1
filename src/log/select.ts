/**
 * Chooses whole batches from bytes of a segment: the pure half of reading a log.
 *
 * The bytes begin with a batch (or with what an index took for one) and may end in the middle of another. Batches before the
 * one that holds the wanted offset are stepped over. Bytes that came from the disk are checked, batch by batch; bytes
 * from memory were checked when they came in.
 *
 * The checksum does not cover the base offset, nor is it looked at in batches that are stepped over. So the chain is checked too: each
 * batch begins where the one before it ended, and the first one where whoever gave the place says.
 */

import {
  BATCH_HEADER_BYTES,
  baseOffset,
  batchBytes,
  checkBatch,
  checkHeader,
  lastOffset,
  leaderEpoch,
  recordCount,
} from '../record/batch.ts'

/** The epoch that the log writes into every batch. Outside the checksum, so it is compared. */
export const LEADER_EPOCH = 0

/** What is known of the first batch, each -1 if it is not. */
export interface Due {
  readonly baseOffset: number
  readonly lastOffset: number
}

export type Selection =
  /** Batches from `start` to `end`; the offset after them is `next`. */
  | { readonly kind: 'found'; readonly start: number; readonly end: number; readonly next: number }
  /** Not in these bytes: go on `skip` bytes further, where `due` is, with at least `needed` bytes. */
  | { readonly kind: 'more'; readonly skip: number; readonly due: Due; readonly needed: number }
  /** No good batch at `at`. */
  | { readonly kind: 'damaged'; readonly at: number; readonly wrong: string }

/**
 * Batches from the one that holds `offset` on, none that begins at `limit` or later; `offset` is below `limit`. `passEmpty`: the
 * first is not one without records, as compaction leaves them; those are stepped over.
 */
export function selectBatches(
  bytes: Buffer,
  trusted: boolean,
  offset: number,
  limit: number,
  first: Due,
  passEmpty = false,
): Selection {
  let start = -1
  let due = first
  let next = first.baseOffset
  let at = 0
  let needed = BATCH_HEADER_BYTES
  while (bytes.length - at >= BATCH_HEADER_BYTES) {
    let wrong = checkHeader(bytes, at, bytes.length)
    if (wrong === null) {
      const length = batchBytes(bytes, at)
      const base = baseOffset(bytes, at)
      const last = lastOffset(bytes, at)
      if (next >= 0 ? base !== next : base > offset)
        wrong = `offset ${base} where ${next < 0 ? offset : next} is due`
      else if (at === 0 && due.lastOffset >= 0 && last !== due.lastOffset)
        wrong = 'not the batch that the index speaks of'
      else if (last < offset) {
        at += length
        next = last + 1
        due = { baseOffset: next, lastOffset: -1 }
        continue
      } else if (base >= limit) break
      else if (at + length > bytes.length) {
        needed = length
        break
      } else if (!trusted) wrong = checkStored(bytes, at)
      if (wrong === null) {
        next = last + 1
        if (start < 0) {
          if (passEmpty && recordCount(bytes, at) === 0) due = { baseOffset: next, lastOffset: -1 }
          else start = at
        }
        at += length
        continue
      }
    }
    // What is good before the damage is served; whoever reads on is told.
    if (start >= 0) break
    return { kind: 'damaged', at, wrong }
  }
  if (start >= 0) return { kind: 'found', start, end: at, next }
  return { kind: 'more', skip: at, due, needed }
}

/** Whether the batches that the bytes hold as a whole are, each for itself, as the log has stored them. */
export function areSound(bytes: Buffer): boolean {
  for (let at = 0; bytes.length - at >= BATCH_HEADER_BYTES; at += batchBytes(bytes, at)) {
    if (checkHeader(bytes, at, bytes.length) !== null) return false
    if (at + batchBytes(bytes, at) > bytes.length) break
    if (checkStored(bytes, at) !== null) return false
  }
  return true
}

function checkStored(bytes: Buffer, at: number): string | null {
  const epoch = leaderEpoch(bytes, at)
  return epoch === LEADER_EPOCH ? checkBatch(bytes, at, bytes.length) : `leader epoch ${epoch}`
}
