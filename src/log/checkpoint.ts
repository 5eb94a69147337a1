/**
 * The checkpoint of a log: a small file that says what is certainly on the disk, so that opening a log reads only what came
 * after, and so that damage before it can be told from a write that a crash cut short.
 *
 * It is replaced as a whole: written under another name, synced, renamed, the folder synced. A crash leaves the old or the
 * new one. It is only written after what it speaks of has been synced.
 *
 *   {"version":1,"startOffset":0,"offset":120,"segment":0,"position":9184,"maxTimestamp":…,"maxTimestampOffset":119,"producers":0} 8f3a0c11
 *                                                                                                   CRC-32C of what stands before ┘
 */

import { crc32c } from '@node-rs/crc32'
import { type Disk, DiskError } from '../lib/disk.ts'
import { readFully } from './scan.ts'

export const CHECKPOINT_NAME = 'checkpoint'
const TEMPORARY_NAME = 'checkpoint.tmp'
/**
 * What the checkpoint is called after a sync of the log has failed, until the log has been opened again: the mark that the page
 * cache may hold what will never get to the disk. A rename needs no room, and hides nothing: it is read under either name.
 */
export const MARKED_NAME = 'checkpoint.sync-failed'
const BYTES_MAX = 4096

export interface Checkpoint {
  /** First offset that readers may see; what lies before is deleted, or waits to be. */
  readonly startOffset: number
  /** Everything before this offset is durable… */
  readonly offset: number
  /** …and ends at `position` of the segment with this base offset. */
  readonly segment: number
  readonly position: number
  /** Largest timestamp in that segment, and the last offset of its batch; -1 if there is none. */
  readonly maxTimestamp: number
  readonly maxTimestampOffset: number
  /** Where the next compaction begins: what lies before has been compacted. Absent: nothing has. */
  readonly cleanedUntil?: number
  /** Entries of the transaction index of that segment: what the file holds behind them may be anything. Absent: none. */
  readonly aborted?: number
  /** Idempotent producers known at `offset`: if there are any, a snapshot of them lies beside. */
  readonly producers: number
}

/** The checkpoint of a log's folder; null if there is none. Throws DiskError. */
export function readCheckpoint(disk: Disk, directory: string): Checkpoint | 'damaged' | null {
  const text =
    readText(disk, `${directory}/${CHECKPOINT_NAME}`) ?? readText(disk, `${directory}/${MARKED_NAME}`)
  if (text === null) return null
  const match = /^(\{.*\}) ([0-9a-f]{8})\n$/.exec(text)
  if (match === null || checksum(match[1]) !== match[2]) return 'damaged'
  const { version, ...checkpoint } = JSON.parse(match[1]) as Checkpoint & { version: number }
  return version === 1 ? checkpoint : 'damaged'
}

function readText(disk: Disk, path: string): string | null {
  try {
    const file = disk.open(path, 'read')
    try {
      return readFully(file, 0, Math.min(file.size(), BYTES_MAX)).toString('latin1')
    } finally {
      file.close()
    }
  } catch (error) {
    if (error instanceof DiskError && error.code === 'ENOENT') return null
    throw error
  }
}

/** To be called when a sync has failed. Does what it can: that the sync has failed is what people must hear. */
export function markSyncFailure(disk: Disk, directory: string): void {
  try {
    disk.rename(`${directory}/${CHECKPOINT_NAME}`, `${directory}/${MARKED_NAME}`)
  } catch {}
}

/** To be called when everything that the log holds is durable, and a new checkpoint says so. */
export function unmarkSyncFailure(disk: Disk, directory: string): void {
  disk.remove(`${directory}/${MARKED_NAME}`)
}

/** Replaces the checkpoint; durable once the caller has synced the folder. Rejects with DiskError; then the old one is still there. */
export async function writeCheckpoint(disk: Disk, directory: string, checkpoint: Checkpoint): Promise<void> {
  const json = JSON.stringify({ version: 1, ...checkpoint })
  const file = disk.open(`${directory}/${TEMPORARY_NAME}`, 'create')
  try {
    file.write(Buffer.from(`${json} ${checksum(json)}\n`, 'latin1'), 0)
    await file.sync()
  } finally {
    file.close()
  }
  disk.rename(`${directory}/${TEMPORARY_NAME}`, `${directory}/${CHECKPOINT_NAME}`)
}

const checksum = (text: string): string => crc32c(Buffer.from(text, 'latin1')).toString(16).padStart(8, '0')
