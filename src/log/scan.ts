/**
 * Walks the batches of a segment file from start to end, checking each: what recovery, verification and dumps have in
 * common. Reads in large pieces; waits for the disk, so it is for opening and for tools, not for serving.
 */

import type { DiskFile } from '../lib/disk.ts'
import {
  asBuffer,
  BATCH_HEADER_BYTES,
  baseOffset,
  batchBytes,
  checkBatch,
  checkHeader,
  lastOffset,
} from '../record/batch.ts'

const WINDOW_BYTES = 1024 * 1024
/** A length beyond this is taken for damage rather than read. Above every `max.message.bytes` that can be set. */
export const BATCH_BYTES_MAX = 1024 * 1024 * 1024

/** What stands at a place of the file: a good batch, or what is wrong there. */
export interface Found {
  readonly position: number
  /** The window that holds the batch, and where in it; meaningless if `wrong`. */
  readonly bytes: Buffer
  readonly at: number
  readonly batchBytes: number
  /** Null for a good batch. */
  readonly wrong: string | null
}

/** Batches from `position` on; ends at the end of the file, or with the first thing that is wrong. */
export function* scan(file: DiskFile, position: number, end = file.size()): Generator<Found> {
  let windowStart = position
  let window: Buffer = Buffer.alloc(0)
  let here = position
  const fill = (bytes: number): void => {
    windowStart = here
    window = readFully(file, here, Math.min(Math.max(bytes, WINDOW_BYTES), end - here))
  }
  while (here < end) {
    let at = here - windowStart
    if (at + BATCH_HEADER_BYTES > window.length && windowStart + window.length < end) {
      fill(BATCH_HEADER_BYTES)
      at = 0
    }
    let wrong = checkHeader(window, at, window.length)
    let bytes = wrong === null ? batchBytes(window, at) : 0
    if (wrong === null && bytes > BATCH_BYTES_MAX) wrong = `impossible length ${bytes}`
    if (wrong === null) {
      if (at + bytes > window.length && windowStart + window.length < end && here + bytes <= end) {
        fill(bytes)
        at = 0
      }
      wrong = checkBatch(window, at, window.length)
    }
    if (wrong !== null) bytes = 0
    yield { position: here, bytes: window, at, batchBytes: bytes, wrong }
    if (wrong !== null) return
    here += bytes
  }
}

export interface FoundBatch {
  readonly position: number
  readonly baseOffset: number
  readonly lastOffset: number
  readonly batchBytes: number
}

/**
 * Looks for the next whole batch after damage: the first position from `position` to `positionMax` where a good batch lies whose
 * base offset is at least `offsetMin` and below `offsetMax`. Null if there is none.
 */
export function findBatch(
  file: DiskFile,
  position: number,
  offsetMin: number,
  offsetMax: number,
  positionMax = Number.POSITIVE_INFINITY,
): FoundBatch | null {
  const end = file.size()
  for (let start = position; start + BATCH_HEADER_BYTES <= end && start <= positionMax; ) {
    const window = readFully(file, start, Math.min(WINDOW_BYTES, end - start))
    const last = Math.min(window.length - BATCH_HEADER_BYTES, positionMax - start)
    if (last < 0) return null
    for (let at = 0; at <= last; at++) {
      // Cheap tests first: the magic, then a base offset in range, then the length, then the checksum.
      if (window[at + 16] !== 2) continue
      const base = baseOffset(window, at)
      if (base < offsetMin || base >= offsetMax) continue
      const length = batchBytes(window, at)
      if (length < BATCH_HEADER_BYTES || start + at + length > end) continue
      const batch = at + length <= window.length ? window : readFully(file, start + at, length)
      const batchAt = batch === window ? at : 0
      if (checkBatch(batch, batchAt, batch.length) !== null) continue
      return {
        position: start + at,
        baseOffset: base,
        lastOffset: lastOffset(batch, batchAt),
        batchBytes: length,
      }
    }
    start += last + 1
  }
  return null
}

/** As many bytes as asked for, or up to the end of the file, in one piece. */
export function readFully(file: DiskFile, position: number, bytes: number): Buffer {
  const first = asBuffer(file.readNow(position, bytes))
  if (first.length >= bytes || first.length === 0) return first
  const whole = Buffer.allocUnsafeSlow(bytes)
  let filled = 0
  for (let piece = first; ; piece = asBuffer(file.readNow(position + filled, bytes - filled))) {
    whole.set(piece, filled)
    filled += piece.length
    if (filled === bytes || piece.length === 0) return whole.subarray(0, filled)
  }
}
