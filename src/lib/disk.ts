/**
 * The disk seam: the few operations that everything stored goes through. Three implementations: `disk-node.ts` (a real
 * file system), `disk-memory.ts` (RAM, also production code) and the faulty disk of the simulation, which forgets,
 * tears and reorders what was not synced.
 *
 * What we assume of a disk, and nothing more:
 *  - bytes written are durable once `sync()` of that file has resolved after the write; before that any part of them
 *    may be lost at a crash, in any order, and sectors of 512 bytes are written whole or not at all;
 *  - the same holds for a truncation: until a `sync()` after it, what was cut off may come back, also behind what was written
 *    over it since;
 *  - a file or folder created, renamed or removed is durably so once `syncDirectory()` of the folder it is in has resolved; until then any
 *    of these operations may be found undone, in any combination;
 *  - `rename` is atomic; after a crash the old or the new state is seen, never neither;
 *  - once `sync()` has failed, what was written since the last successful sync is of unknown state for good (the kernel
 *    marks the pages clean: https://wiki.postgresql.org/wiki/Fsync_Errors). It is never retried as if it had succeeded.
 *
 * Writes are synchronous: they reach the page cache, and the offset a record gets is decided in the same turn of the
 * event loop. Syncs are asynchronous.
 */

import { SluiceError } from '../errors.ts'

export interface DiskFile {
  readonly path: string
  /** Bytes in the file. */
  size(): number
  /** Writes all of `bytes` at `position` (at most the file's size: no holes). Throws `DiskError`; then any part may have been written. */
  write(bytes: Uint8Array, position: number): void
  /**
   * Up to `bytesMax` bytes from `position`; fewer if the file ends or if fewer are at hand in one piece, none only at
   * the end of the file. A result that is not a promise came from memory and needs no checksum. The bytes are never
   * changed afterwards and may be kept.
   */
  read(position: number, bytesMax: number): Uint8Array | Promise<Uint8Array>
  /** As `read`, but waits for the disk: for opening and recovery only. */
  readNow(position: number, bytesMax: number): Uint8Array
  /** Resolves when everything written before the call is durable. Rejects with `DiskError`. */
  sync(): Promise<void>
  /** Cuts the file to `size` bytes. */
  truncate(size: number): void
  /** Further calls are a bug. Reads under way are completed. */
  close(): void
}

export interface Disk {
  readonly kind: 'file' | 'memory'
  /** `read`: must exist. `write`: must exist. `create`: made, or emptied if it exists. */
  open(path: string, mode: 'read' | 'write' | 'create'): DiskFile
  /** Names in a folder, sorted; none if there is no such folder. */
  list(path: string): string[]
  /** Makes a folder and those above it; no error if it is there. */
  makeDirectory(path: string): void
  rename(from: string, to: string): void
  /** Removes a file, or a folder with everything in it; no error if it is not there. */
  remove(path: string): void
  syncDirectory(path: string): Promise<void>
  /** Takes the data directory for this process. Throws `DIRECTORY_IN_USE` naming the holder. Returns what gives it back. */
  lock(path: string): () => void
}

/** What a disk operation failed with; `code` is `ENOSPC` or `EDQUOT` when there is no room, otherwise the system's own code. */
export class DiskError extends Error {
  readonly code: string
  readonly path: string

  constructor(code: string, path: string, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'DiskError'
    this.code = code
    this.path = path
  }

  get isFull(): boolean {
    return this.code === 'ENOSPC' || this.code === 'EDQUOT'
  }
}

/** What a user is told where a disk error ends an operation as a whole: `DISK_FULL` or `STORAGE_FAILED`. Any other error as it is. */
export function refusalOf(error: unknown): unknown {
  if (!(error instanceof DiskError)) return error
  const { path, message, isFull } = error
  if (isFull) return new SluiceError('DISK_FULL', `no room on the disk for ${path}`, { file: path }, error)
  return new SluiceError('STORAGE_FAILED', message, { file: path }, error)
}
