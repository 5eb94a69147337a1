/**
 * A file of fixed-size entries that only grows at its end: what the offset index and the time index of a segment are
 * made of. New entries gather in a small buffer and reach the file in blocks; a look-up reads the few entries that a binary
 * search touches. Nothing else is held in memory, so indexes cost the same whatever the amount of data stored, and no file
 * stays open.
 *
 * An index is a hint that can be rebuilt from its segment: entries that cannot be written (no space) are dropped,
 * which makes it sparser, never wrong.
 */

import { type Disk, DiskError, type DiskFile } from '../lib/disk.ts'

/** Entries that wait in memory before they are written. 64 entries cover 256 KiB of log at the default interval. */
const TAIL_ENTRIES = 64

export class EntryFile {
  readonly path: string
  readonly #disk: Disk
  readonly #entryBytes: number
  #stored = 0
  #tail: Buffer | null = null
  #tailEntries = 0
  #exists: boolean

  /** `exists`: open what is there (a torn last entry is ignored); otherwise the file is made at the first write. */
  constructor(disk: Disk, path: string, entryBytes: number, exists: boolean) {
    this.path = path
    this.#disk = disk
    this.#entryBytes = entryBytes
    this.#exists = exists
    if (!exists) return
    const file = disk.open(path, 'read')
    this.#stored = Math.floor(file.size() / entryBytes)
    file.close()
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
    return this.count === 0 ? null : this.#withEntries(read => read(this.count - 1))
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

  /** Writes what waits in memory. */
  flush(): void {
    if (this.#tailEntries === 0) return
    const bytes = this.#tail!.subarray(0, this.#tailEntries * this.#entryBytes)
    try {
      this.#withFile(this.#exists ? 'write' : 'create', file => file.write(bytes, this.#stored * this.#entryBytes))
      this.#exists = true
      this.#stored += this.#tailEntries
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
    }
    this.#tailEntries = 0
    this.#tail = null
  }

  /** Writes what waits, and resolves when the file is durable. */
  async sync(): Promise<void> {
    this.flush()
    if (!this.#exists) return
    const file = this.#disk.open(this.path, 'write')
    try {
      await file.sync()
    } finally {
      file.close()
    }
  }

  #withFile<T>(mode: 'read' | 'write' | 'create', use: (file: DiskFile) => T): T {
    const file = this.#disk.open(this.path, mode)
    try {
      return use(file)
    } finally {
      file.close()
    }
  }

  #withEntries<T>(use: (read: (index: number) => Buffer | null) => T): T {
    const bytes = this.#entryBytes
    const inTail = (index: number): Buffer => {
      const at = (index - this.#stored) * bytes
      return Buffer.from(this.#tail!.subarray(at, at + bytes))
    }
    if (this.#stored === 0) return use(inTail)
    return this.#withFile('read', file =>
      use(index => {
        if (index >= this.#stored) return inTail(index)
        try {
          const entry = file.readNow(index * bytes, bytes)
          return entry.length < bytes ? null : Buffer.from(entry)
        } catch (error) {
          if (error instanceof DiskError) return null // unreadable: as if the entry were not there
          throw error
        }
      }),
    )
  }
}
