/**
 * The open files of all logs of a broker: a table from path to handle, bounded, the least recently used one closed
 * first. A handle taken from `get` is good until the next call of `get` or `create`; reads and syncs that are under way when it is closed
 * are completed.
 */

import type { Disk, DiskFile } from '../lib/disk.ts'
import { ReadAhead } from './read-ahead.ts'

export class OpenFiles {
  /** What is read of them before it is asked for. */
  readonly ahead = new ReadAhead()
  readonly #disk: Disk
  readonly #countMax: number
  /** In order of use, the least recent first. */
  readonly #files = new Map<string, DiskFile>()
  #latest: DiskFile | null = null

  constructor(disk: Disk, countMax = 2_000) {
    this.#disk = disk
    this.#countMax = countMax
  }

  get count(): number {
    return this.#files.size
  }

  get(path: string): DiskFile {
    if (this.#latest !== null && this.#latest.path === path) return this.#latest
    const file = this.#files.get(path)
    if (file === undefined) return this.#add(path, this.#disk.open(path, 'write'))
    this.#files.delete(path)
    this.#files.set(path, file)
    this.#latest = file
    return file
  }

  create(path: string): DiskFile {
    this.close(path)
    return this.#add(path, this.#disk.open(path, 'create'))
  }

  close(path: string): void {
    const file = this.#files.get(path)
    if (file === undefined) return
    this.#files.delete(path)
    if (this.#latest === file) this.#latest = null
    file.close()
  }

  closeAll(): void {
    for (const path of [...this.#files.keys()]) this.close(path)
  }

  #add(path: string, file: DiskFile): DiskFile {
    this.#files.set(path, file)
    this.#latest = file
    if (this.#files.size > this.#countMax) this.close(this.#files.keys().next().value!)
    return file
  }
}
