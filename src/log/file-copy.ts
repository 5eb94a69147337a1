/**
 * Copies of files of a log, made when it is opened: what is about to be cut off is set aside, and after a failed sync a file is
 * written again, since no later sync says anything of what the failed one should have written.
 *
 *     FILE ── copy.tmp, synced ── renamed to FILE
 *
 * At each moment the name stands for the old bytes or for the same bytes in the new file. Syncing the folder is the caller's part.
 */

import type { Disk, DiskFile } from '../lib/disk.ts'

/** May be found after a crash; worth nothing. */
export const COPY_NAME = 'copy.tmp'
const PIECE_BYTES = 1024 * 1024

/** Copies what a file holds from `position` on. The bytes of the copy are durable once resolved. Rejects with DiskError. */
export async function copyFrom(disk: Disk, file: DiskFile, position: number, path: string): Promise<void> {
  const copy = disk.open(path, 'create')
  try {
    for (let from = position; from < file.size(); ) {
      const piece = file.readNow(from, PIECE_BYTES)
      if (piece.length === 0) break
      copy.write(piece, from - position)
      from += piece.length
    }
    await copy.sync()
  } finally {
    copy.close()
  }
}

/** Puts a copy in the place of a file: durable once the folder is synced. Rejects with DiskError. */
export async function replaceByCopy(disk: Disk, directory: string, name: string): Promise<void> {
  const file = disk.open(`${directory}/${name}`, 'read')
  try {
    await copyFrom(disk, file, 0, `${directory}/${COPY_NAME}`)
  } finally {
    file.close()
  }
  disk.rename(`${directory}/${COPY_NAME}`, `${directory}/${name}`)
}
