/**
 * The disk seam over node:fs: a real file system.
 *
 * Owns: file descriptors, the order of syncs on a file, and the lock on a data directory (`directory-lock.ts`).
 * Sizes are kept in memory, so a file that is open for writing has one writer: this process.
 *
 * What `sync` promises and how it keeps it. fdatasync reports a failed write-back once per descriptor, to whichever call comes
 * first; another call that runs at the same time, or later, succeeds although the bytes are lost. So per file one fdatasync
 * runs at a time, calls that come meanwhile share the next one, and after a failure every later sync of the file fails too:
 *
 *     write A   sync 1 ──fdatasync──▶ EIO: sync 1 rejects
 *     write B      sync 2 ··waits··▶ rejects as well: it would have promised A
 */

import assert from 'node:assert/strict'
import fs from 'node:fs'
import { takeDirectory } from './directory-lock.ts'
import { type Disk, DiskError, type DiskFile } from './disk.ts'
import { allocateOwned } from './memory.ts'

interface SyncCall {
  readonly resolve: () => void
  readonly reject: (error: DiskError) => void
}

class NodeFile implements DiskFile {
  readonly path: string
  readonly #fd: number
  readonly #writable: boolean
  #size: number
  #open = true
  /** Reads and syncs under way; the descriptor is closed after the last of them. */
  #busy = 0
  #syncing = false
  #syncCalls: SyncCall[] = []
  #syncFailure: DiskError | null = null

  constructor(path: string, fd: number, size: number, writable: boolean) {
    this.path = path
    this.#fd = fd
    this.#size = size
    this.#writable = writable
  }

  size(): number {
    return this.#size
  }

  write(bytes: Uint8Array, position: number): void {
    assert(this.#open && this.#writable, `${this.path} is not open for writing`)
    assert(position >= 0 && position <= this.#size, `a write to ${this.path} would leave a hole`)
    let done = 0
    try {
      while (done < bytes.length) {
        done += fs.writeSync(this.#fd, bytes, done, bytes.length - done, position + done)
      }
    } catch (error) {
      throw failure('write', this.path, error)
    } finally {
      if (position + done > this.#size) this.#size = position + done
    }
  }

  read(position: number, bytesMax: number): Buffer | Promise<Buffer> {
    assert(this.#open, `${this.path} is closed`)
    const count = this.#readable(position, bytesMax)
    if (count === 0) return EMPTY
    const bytes = allocateOwned(count)
    this.#busy += 1
    return new Promise((resolve, reject) => {
      const readOn = (done: number): void => {
        fs.read(this.#fd, bytes, done, count - done, position + done, (error, got) => {
          if (error === null && got > 0 && done + got < count) {
            readOn(done + got)
            return
          }
          this.#leave()
          if (error !== null) reject(failure('read', this.path, error))
          else if (got === 0 && position + done < this.#size) reject(this.#shortened(position + done))
          else resolve(bytes.subarray(0, done + got))
        })
      }
      readOn(0)
    })
  }

  readNow(position: number, bytesMax: number): Buffer {
    assert(this.#open, `${this.path} is closed`)
    const bytes = Buffer.allocUnsafeSlow(this.#readable(position, bytesMax))
    let done = 0
    while (done < bytes.length) {
      let got: number
      try {
        got = fs.readSync(this.#fd, bytes, done, bytes.length - done, position + done)
      } catch (error) {
        throw failure('read', this.path, error)
      }
      if (got === 0) throw this.#shortened(position + done)
      done += got
    }
    return bytes
  }

  sync(): Promise<void> {
    assert(this.#open, `${this.path} is closed`)
    if (this.#syncFailure !== null) return Promise.reject(this.#syncFailure)
    return new Promise((resolve, reject) => {
      this.#syncCalls.push({ resolve, reject })
      if (!this.#syncing) this.#syncNow()
    })
  }

  truncate(size: number): void {
    assert(this.#open && this.#writable, `${this.path} is not open for writing`)
    assert(size >= 0 && size <= this.#size, `${this.path} cannot be cut to more than it has`)
    try {
      fs.ftruncateSync(this.#fd, size)
    } catch (error) {
      throw failure('truncate', this.path, error)
    }
    this.#size = size
  }

  close(): void {
    assert(this.#open, `${this.path} is closed`)
    this.#open = false
    if (this.#busy === 0) fs.closeSync(this.#fd)
  }

  #syncNow(): void {
    const calls = this.#syncCalls
    this.#syncCalls = []
    this.#syncing = true
    this.#busy += 1
    fs.fdatasync(this.#fd, error => {
      this.#syncing = false
      if (error === null) {
        for (const call of calls) call.resolve()
        if (this.#syncCalls.length > 0) this.#syncNow()
      } else {
        this.#syncFailure = failure('sync', this.path, error)
        for (const call of [...calls, ...this.#syncCalls]) call.reject(this.#syncFailure)
        this.#syncCalls = []
      }
      this.#leave()
    })
  }

  #leave(): void {
    this.#busy -= 1
    if (this.#busy === 0 && !this.#open) fs.closeSync(this.#fd)
  }

  #readable(position: number, bytesMax: number): number {
    return Math.max(0, Math.min(bytesMax, this.#size - position, READ_BYTES_MAX))
  }

  #shortened(position: number): DiskError {
    const message = `${this.path} ends at ${position} where ${this.#size} bytes are expected: something else has cut it`
    return new DiskError('EIO', this.path, message)
  }
}

const nodeDiskOperations: Disk = {
  kind: 'file',

  open(path, mode) {
    try {
      const fd = fs.openSync(path, OPEN_FLAGS[mode])
      const status = fs.fstatSync(fd)
      if (status.isFile()) return new NodeFile(path, fd, status.size, mode !== 'read')
      fs.closeSync(fd)
    } catch (error) {
      throw failure('open', path, error)
    }
    throw new DiskError('EISDIR', path, `open ${path}: is not a regular file`)
  },

  list(path) {
    try {
      return fs.readdirSync(path).sort()
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return []
      throw failure('list', path, error)
    }
  },

  makeDirectory(path) {
    try {
      fs.mkdirSync(path, { recursive: true })
    } catch (error) {
      throw failure('make directory', path, error)
    }
  },

  rename(from, to) {
    try {
      fs.renameSync(from, to)
    } catch (error) {
      throw failure('rename', from, error)
    }
  },

  remove(path) {
    const held = holdOpen(path)
    try {
      fs.rmSync(path, { recursive: true, force: true })
    } catch (error) {
      throw failure('remove', path, error)
    } finally {
      for (const fd of held) fs.close(fd, () => {})
    }
  },

  async syncDirectory(path) {
    let handle: fs.promises.FileHandle | undefined
    try {
      handle = await fs.promises.open(path, 'r')
      await handle.sync()
    } catch (error) {
      // Windows cannot sync a folder and some network file systems say that there is nothing to sync: there the entry is as
      // durable as the system makes it.
      const code = codeOf(error)
      const impossible = code === 'EINVAL' || code === 'ENOTSUP'
      const onWindows = process.platform === 'win32' && WINDOWS_REFUSALS.has(code)
      if (!impossible && !onWindows) throw failure('sync directory', path, error)
    } finally {
      await handle?.close()
    }
  },

  lock: takeDirectory,
}

/** The file system of this machine. */
export function nodeDisk(): Disk {
  return nodeDiskOperations
}

/**
 * To free the blocks and cached pages of a large file takes the system tens of milliseconds for each 100 MB. It does so when the last
 * descriptor is closed, so one is kept over the removal, and closed by another thread. What cannot be opened is removed all the same.
 */
function holdOpen(path: string): number[] {
  const held: number[] = []
  try {
    const isDirectory = fs.statSync(path, { throwIfNoEntry: false })?.isDirectory()
    const files = isDirectory ? fs.readdirSync(path).map(name => `${path}/${name}`) : [path]
    for (const file of files.slice(0, HELD_OPEN_MAX)) {
      const status = fs.statSync(file, { throwIfNoEntry: false })
      if (status?.isFile() && status.size >= LARGE_FILE_BYTES) held.push(fs.openSync(file, 'r'))
    }
  } catch {
    // removing it tells what is wrong
  }
  return held
}

const LARGE_FILE_BYTES = 1024 * 1024
const HELD_OPEN_MAX = 256
const OPEN_FLAGS = { read: 'r', write: 'r+', create: 'w+' } as const
const WINDOWS_REFUSALS: ReadonlySet<string> = new Set(['EPERM', 'EISDIR', 'EACCES'])
const EMPTY = Buffer.alloc(0)
/** One read call takes a signed 32-bit count. */
const READ_BYTES_MAX = 2 ** 30

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'EIO'
}

function failure(operation: string, path: string, error: unknown): DiskError {
  return new DiskError(codeOf(error), path, `${operation} ${path}: ${(error as Error).message}`, error)
}
