/**
 * A file of fixed-size entries that only grows at its end: what the offset index and the time index of a segment are
 * made of. New entries gather in a small buffer and reach the file in blocks; a look-up reads the few entries that a binary
 * search touches. Nothing else is held in memory, so indexes cost the same whatever the amount of data stored, and no file
 * stays open.
 *
 * An index is a hint that can be rebuilt from its segment: entries that cannot be written (no space) are dropped, which
 * makes it sparser, never wrong; entries that cannot be read are as if they were not there; and a file that cannot be synced is
 * removed.
 */

import { type Disk, DiskError, type DiskFile } from '../lib/disk.ts'
import { readFully } from './scan.ts'

/** Entries that wait in memory before they are written. 64 entries cover 256 KiB of log at the default interval. */
const TAIL_ENTRIES = 64

export class EntryFile {
  #path: string
  readonly #disk: Disk
  readonly #entryBytes: number
  #stored = 0
  #tail: Buffer | null = null
  #tailEntries = 0
  #exists: boolean

  /** `exists`: open what is there (a torn last entry is ignored); otherwise the file is made at the first write. */
  constructor(disk: Disk, path: string, entryBytes: number, exists: boolean) {
    this.#path = path
    this.#disk = disk
    this.#entryBytes = entryBytes
    this.#exists = exists
    if (!exists) return
    const file = disk.open(path, 'read')
    this.#stored = Math.floor(file.size() / entryBytes)
    file.close()
  }

  /** Takes the place of whatever is at `path`. Throws DiskError. */
  move(path: string): void {
    if (this.#exists) this.#disk.rename(this.#path, path)
    else this.#disk.remove(path)
    this.#path = path
  }

  get count(): number {
    return this.#stored + this.#tailEntries
  }

  /** Room for one more entry, to be filled by the caller in the same turn. */
  append(fill: (bytes: Buffer, at: number) => void): void {
    if (this.#tailEntries === TAIL_ENTRIES) this.flush()
    this.#tail ??= Buffer.alloc(TAIL_ENTRIES * this.#entryBytes)
    fill(this.#tail, this.#tailEntries * this.#entryBytes)
    this.#tailEntries++
  }

  /**
   * The last entry for which `before` holds, assuming that it holds for a first part of the entries and for none
   * after; null if for none. The bytes are a copy.
   */
  findLast(before: (bytes: Buffer, at: number) => boolean): Buffer | null {
    return this.#withEntries(read => {
      let low = -1
      let high = this.count
      let found: Buffer | null = null
      while (high - low > 1) {
        const middle = (low + high) >>> 1
        const entry = read(middle)
        if (entry !== null && before(entry, 0)) {
          low = middle
          found = entry
        } else high = middle
      }
      return found
    })
  }

  last(): Buffer | null {
    if (this.#tailEntries > 0) return this.#inTail(this.count - 1) // while appending: no file is opened
    return this.#stored === 0 ? null : this.#withEntries(read => read(this.count - 1))
  }

  /** Keeps the first entries for which `keep` holds (as in `findLast`). */
  cut(keep: (bytes: Buffer, at: number) => boolean): void {
    const kept = this.#withEntries(read => {
      let low = -1
      let high = this.count
      while (high - low > 1) {
        const middle = (low + high) >>> 1
        const entry = read(middle)
        if (entry !== null && keep(entry, 0)) low = middle
        else high = middle
      }
      return high
    })
    if (kept === this.count) return
    this.flush()
    this.#stored = Math.min(kept, this.#stored)
    if (this.#exists) this.#withFile('write', file => file.truncate(this.#stored * this.#entryBytes))
  }

  /** Writes what waits in memory. Returns false if it had to be dropped. */
  flush(): boolean {
    if (this.#tailEntries === 0) return true
    let written = true
    const bytes = this.#tail!.subarray(0, this.#tailEntries * this.#entryBytes)
    try {
      this.#withFile(this.#exists ? 'write' : 'create', file => {
        this.#exists = true // also if the write fails: then there is a file that has to be synced or removed
        file.write(bytes, this.#stored * this.#entryBytes)
      })
      this.#stored += this.#tailEntries
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      written = false
      this.#cutToStored()
    }
    this.#tailEntries = 0
    this.#tail = null
    return written
  }

  /** What was written of entries that are dropped would be found behind later ones, and entries are ascending. */
  #cutToStored(): void {
    if (!this.#exists) return
    try {
      this.#withFile('write', file => file.truncate(this.#stored * this.#entryBytes))
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.discard()
    }
  }

  /** Sees to it that there is a file, if only an empty one. */
  make(): void {
    if (this.#exists) return
    try {
      this.#withFile('create', () => {
        this.#exists = true
      })
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
    }
  }

  /** Writes what waits, and resolves when the file is durable, or removed because that is not to be had. */
  async sync(): Promise<void> {
    this.flush()
    if (!this.#exists) return
    try {
      const file = this.#disk.open(this.#path, 'write')
      try {
        await file.sync()
      } finally {
        file.close()
      }
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      this.discard()
    }
  }

  /** Forgets all entries and removes the file. */
  discard(): void {
    this.#tailEntries = 0
    this.#tail = null
    this.#stored = 0
    if (!this.#exists) return
    this.#exists = false
    try {
      this.#disk.remove(this.#path)
    } catch (error) {
      if (!(error instanceof DiskError)) throw error // it is made anew, empty, at the next write
    }
  }

  #withFile<T>(mode: 'read' | 'write' | 'create', use: (file: DiskFile) => T): T {
    const file = this.#disk.open(this.#path, mode)
    try {
      return use(file)
    } finally {
      file.close()
    }
  }

  #inTail(index: number): Buffer {
    const at = (index - this.#stored) * this.#entryBytes
    return Buffer.from(this.#tail!.subarray(at, at + this.#entryBytes))
  }

  #withEntries<T>(use: (read: (index: number) => Buffer | null) => T): T {
    if (this.#stored === 0) return use(index => this.#inTail(index))
    let file: DiskFile | null = null
    const stored = (index: number): Buffer | null => {
      try {
        file ??= this.#disk.open(this.#path, 'read')
        const entry = readFully(file, index * this.#entryBytes, this.#entryBytes)
        return entry.length < this.#entryBytes ? null : Buffer.from(entry)
      } catch (error) {
        if (error instanceof DiskError) return null // unreadable: as if the entry were not there
        throw error
      }
    }
    try {
      return use(index => (index < this.#stored ? stored(index) : this.#inTail(index)))
    } finally {
      ;(file as DiskFile | null)?.close()
    }
  }
}
