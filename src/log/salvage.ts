/**
 * Finds a batch in a segment that is damaged somewhere: the slow way of a read, taken only after the quick one has met something
 * that is not as it should be. Every batch from the start of the segment is checked, so that what is called damaged is, and what
 * lies whole behind it can still be read.
 *
 *     | good | good | damaged | good | good |
 *                   ^ position ^ resumeOffset
 *
 * Behind damage nothing says where the next batch begins, and a record may hold bytes that look like a batch (somebody keeps
 * batches as values). So a batch is believed only if its neighbours agree: the header of the damaged one, if it still leads there, or the
 * header of the one behind it, or the end of the segment.
 */

import type { DiskFile } from '../lib/disk.ts'
import {
  BATCH_HEADER_BYTES,
  baseOffset,
  batchBytes,
  checkHeader,
  lastOffset,
  lastOffsetDelta,
  leaderEpoch,
} from '../record/batch.ts'
import { type FoundBatch, findBatch, readFully, scan } from './scan.ts'
import { LEADER_EPOCH } from './select.ts'

export type Located =
  /** The batch that holds the offset begins here. */
  | { readonly kind: 'found'; readonly position: number; readonly baseOffset: number }
  /** It is lost: the damage begins at `position`, and reading can go on at `resumeOffset`. */
  | {
      readonly kind: 'lost'
      readonly position: number
      readonly wrong: string
      readonly resumeOffset: number
    }

/** Looks for `offset` in a segment that holds the offsets from `startOffset` to below `endOffset`. Waits for the disk. Throws DiskError. */
export function locate(file: DiskFile, startOffset: number, endOffset: number, offset: number): Located {
  let position = 0
  let due = startOffset
  for (;;) {
    let wrong: string | null = null
    for (const found of scan(file, position)) {
      wrong = found.wrong
      if (wrong !== null) break
      const base = baseOffset(found.bytes, found.at)
      const epoch = leaderEpoch(found.bytes, found.at)
      if (base !== due) wrong = `offset ${base} where ${due} is due`
      else if (epoch !== LEADER_EPOCH) wrong = `leader epoch ${epoch}`
      if (wrong !== null) break
      due = lastOffset(found.bytes, found.at) + 1
      if (due > offset) return { kind: 'found', position, baseOffset: base }
      position = found.position + found.batchBytes
    }
    const next = wrong === null ? null : findBehind(file, position, due, endOffset)
    if (next === null || next.baseOffset > offset) {
      const resumeOffset = next?.baseOffset ?? endOffset
      return { kind: 'lost', position, wrong: wrong ?? `the file ends before offset ${offset}`, resumeOffset }
    }
    position = next.position
    due = next.baseOffset
  }
}

/**
 * The first believable batch behind damage at `position`, where offset `due` should begin. `endOffset`: where the segment ends; null
 * if that is not known.
 */
export function findBehind(
  file: DiskFile,
  position: number,
  due: number,
  endOffset: number | null,
): FoundBatch | null {
  const offsetMax = endOffset ?? Number.MAX_SAFE_INTEGER
  const header = headerAt(file, position)
  if (header !== null && checkHeader(header, 0, header.length) === null) {
    const behind = position + batchBytes(header, 0)
    const next = findBatch(file, behind, due, offsetMax, behind)
    if (next !== null && next.baseOffset === due + lastOffsetDelta(header, 0) + 1) return next
  }
  for (let from = position; ; ) {
    const next = findBatch(file, from, due, offsetMax)
    if (next === null) return null
    from = next.position + 1
    if (next.position === position && next.baseOffset === due) continue // the damaged one
    const behind = headerAt(file, next.position + next.batchBytes)
    const dueBehind = next.lastOffset + 1
    if (
      behind === null
        ? endOffset === null || dueBehind === endOffset
        : baseOffset(behind, 0) === dueBehind && checkHeader(behind, 0, behind.length) === null
    ) {
      return next
    }
  }
}

function headerAt(file: DiskFile, position: number): Buffer | null {
  if (position + BATCH_HEADER_BYTES > file.size()) return null
  const header = readFully(file, position, BATCH_HEADER_BYTES)
  return header.length < BATCH_HEADER_BYTES ? null : header
}
