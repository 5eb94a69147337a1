/**
 * The disk seam over RAM. Production code: the memory engine is the log over this disk, and a test that needs no faults runs on
 * it. It behaves as the disk of `disk-node.ts` does, down to the error codes, except that nothing outlives the process.
 *
 * Owns: the tree of folders, the bytes of the files (`chunks.ts`) and a bound on how much memory they take. Reads are answered
 * at once with views: no copy, no promise.
 */

import assert from 'node:assert/strict'
import os from 'node:os'
import { resolve, sep } from 'node:path'
import { SluiceError } from '../errors.ts'
import { type Chunk, ChunkList, type ChunkOwner } from './chunks.ts'
import { type Disk, DiskError, type DiskFile } from './disk.ts'

export interface MemoryDiskOptions {
  /**
   * Memory that all files together may take, in bytes; past it writes fail with `ENOSPC`. Default: half of what the machine (or
   * the container) has.
   */
  readonly bytesMax?: number
}

type Entries = Map<string, Entries | MemoryInode>

class MemoryInode {
  readonly chunks: ChunkList
  /** Handles that are open, plus one while it has a name. Its memory is given back with the last. */
  references = 1

  constructor(owner: ChunkOwner) {
    this.chunks = new ChunkList(0, owner)
  }

  release(): void {
    this.references -= 1
    if (this.references === 0) this.chunks.clear(0)
  }
}

class MemoryFile implements DiskFile {
  readonly path: string
  readonly #inode: MemoryInode
  readonly #writable: boolean
  readonly #disk: MemoryDisk
  #open = true

  constructor(disk: MemoryDisk, path: string, inode: MemoryInode, writable: boolean) {
    this.#disk = disk
    this.path = path
    this.#inode = inode
    this.#writable = writable
    inode.references += 1
  }

  size(): number {
    return this.#inode.chunks.end
  }

  write(bytes: Uint8Array, position: number): void {
    assert(this.#open && this.#writable, `${this.path} is not open for writing`)
    const { chunks } = this.#inode
    assert(position >= 0 && position <= chunks.end, `a write to ${this.path} would leave a hole`)
    this.#disk.assertRoom(this.path, chunks.growthFor(bytes.length))
    if (position === chunks.end) chunks.append(bytes)
    else chunks.overwrite(position, bytes)
  }

  read(position: number, bytesMax: number): Buffer {
    return this.readNow(position, bytesMax)
  }

  readNow(position: number, bytesMax: number): Buffer {
    assert(this.#open, `${this.path} is closed`)
    return this.#inode.chunks.read(position, bytesMax) ?? EMPTY
  }

  sync(): Promise<void> {
    assert(this.#open, `${this.path} is closed`)
    return Promise.resolve()
  }

  truncate(size: number): void {
    assert(this.#open && this.#writable, `${this.path} is not open for writing`)
    assert(size >= 0 && size <= this.size(), `${this.path} cannot be cut to more than it has`)
    this.#inode.chunks.truncate(size)
  }

  close(): void {
    assert(this.#open, `${this.path} is closed`)
    this.#open = false
    this.#inode.release()
  }
}

class MemoryDisk implements Disk {
  readonly kind = 'memory'
  readonly #root: Entries = new Map()
  readonly #locked = new Set<string>()
  readonly #bytesMax: number
  #bytesUsed = 0
  readonly #owner: ChunkOwner = {
    made: (chunk: Chunk) => {
      this.#bytesUsed += chunk.memory.length
    },
    dropped: (chunk: Chunk) => {
      this.#bytesUsed -= chunk.memory.length
    },
  }

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  assertRoom(path: string, bytes: number): void {
    if (this.#bytesUsed + bytes <= this.#bytesMax) return
    throw new DiskError(
      'ENOSPC',
      path,
      `no room in memory for ${path}: all ${this.#bytesMax} bytes are in use`,
    )
  }

  open(path: string, mode: 'read' | 'write' | 'create'): DiskFile {
    const [parent, name] = this.#parentOf(path)
    let inode = parent.get(name)
    if (inode instanceof Map) throw failure('EISDIR', path, 'is a folder')
    if (inode === undefined) {
      if (mode !== 'create') throw failure('ENOENT', path, 'does not exist')
      inode = new MemoryInode(this.#owner)
      parent.set(name, inode)
    } else if (mode === 'create') {
      inode.chunks.truncate(0)
    }
    return new MemoryFile(this, path, inode, mode !== 'read')
  }

  list(path: string): string[] {
    const found = this.#find(path)
    if (found === undefined) return []
    if (!(found instanceof Map)) throw failure('ENOTDIR', path, 'is not a folder')
    return [...found.keys()].sort()
  }

  makeDirectory(path: string): void {
    let entries = this.#root
    for (const name of namesOf(path)) {
      let next = entries.get(name)
      if (next === undefined) {
        next = new Map()
        entries.set(name, next)
      }
      if (!(next instanceof Map)) throw failure('ENOTDIR', path, 'has a file in its way')
      entries = next
    }
  }

  rename(from: string, to: string): void {
    const [fromParent, fromName] = this.#parentOf(from)
    const [toParent, toName] = this.#parentOf(to)
    const moved = fromParent.get(fromName)
    const replaced = toParent.get(toName)
    if (moved === undefined) throw failure('ENOENT', from, 'does not exist')
    if (moved === replaced) return
    if (replaced instanceof Map) {
      if (!(moved instanceof Map)) throw failure('EISDIR', to, 'is a folder')
      if (replaced.size > 0) throw failure('ENOTEMPTY', to, 'is not empty')
    } else if (replaced !== undefined) {
      if (moved instanceof Map) throw failure('ENOTDIR', to, 'is not a folder')
      replaced.release()
    }
    fromParent.delete(fromName)
    toParent.set(toName, moved)
  }

  remove(path: string): void {
    const names = namesOf(path)
    const name = names.pop()
    assert(name !== undefined, 'the root is not removed')
    const parent = this.#walk(names)
    if (!(parent instanceof Map)) return
    const found = parent.get(name)
    if (found === undefined) return
    parent.delete(name)
    release(found)
  }

  async syncDirectory(path: string): Promise<void> {
    if (!(this.#find(path) instanceof Map)) throw failure('ENOENT', path, 'does not exist')
  }

  lock(path: string): () => void {
    const key = resolve('/', path)
    if (!(this.#find(path) instanceof Map)) throw failure('ENOENT', path, 'does not exist')
    if (this.#locked.has(key)) {
      throw new SluiceError('DIRECTORY_IN_USE', `${path} is already open in this process; close it first`, {
        path,
        pid: process.pid,
      })
    }
    this.#locked.add(key)
    let isHeld = true
    return () => {
      if (isHeld) this.#locked.delete(key)
      isHeld = false
    }
  }

  #find(path: string): Entries | MemoryInode | undefined {
    return this.#walk(namesOf(path))
  }

  #walk(names: readonly string[]): Entries | MemoryInode | undefined {
    let found: Entries | MemoryInode | undefined = this.#root
    for (const name of names) {
      if (!(found instanceof Map)) return undefined
      found = found.get(name)
    }
    return found
  }

  #parentOf(path: string): [Entries, string] {
    const names = namesOf(path)
    const name = names.pop()
    if (name === undefined) throw failure('EISDIR', path, 'is a folder')
    const parent = this.#walk(names)
    if (!(parent instanceof Map)) throw failure('ENOENT', path, 'lies in a folder that does not exist')
    return [parent, name]
  }
}

/** A disk in memory, empty at first. Two calls give two disks that know nothing of each other. */
export function memoryDisk(options: MemoryDiskOptions = {}): Disk {
  const { bytesMax = Math.floor(machineBytes() / 2) } = options
  assert(bytesMax > 0, 'bytesMax is positive')
  return new MemoryDisk(bytesMax)
}

const EMPTY = Buffer.alloc(0)

function release(node: Entries | MemoryInode): void {
  if (node instanceof Map) for (const child of node.values()) release(child)
  else node.release()
}

/** Resolved from the root, not from the working directory, which may change under an open disk. */
function namesOf(path: string): string[] {
  return resolve('/', path)
    .split(sep)
    .slice(1)
    .filter(name => name !== '')
}

function failure(code: string, path: string, what: string): DiskError {
  return new DiskError(code, path, `${path} ${what}`)
}

function machineBytes(): number {
  const constrained = process.constrainedMemory()
  return constrained > 0 ? Math.min(constrained, os.totalmem()) : os.totalmem()
}
