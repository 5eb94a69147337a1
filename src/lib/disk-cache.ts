/**
 * A tail cache in front of a disk. A log is read most where it was written last, so the bytes appended to a file through this
 * disk stay in memory for a while, and reads of them are answered at once, without a system call, a copy or a promise.
 *
 *     file:    |----------- on the disk only -----------|==== also in memory ====|
 *              0                                      start                     end = size
 *
 * Invariants:
 *  - bytes get into the cache only after the disk has taken them, so the cache never knows more than the page cache does;
 *  - the chunks of all files together take at most `bytesMax`; the chunk that was begun first goes first;
 *  - a file that is only written, and not read, is not kept: a reader that comes later reads from the disk, and from then on it is;
 *  - what was cut off or overwritten is forgotten; memory that a reader may hold is never written again (`chunks.ts`).
 *
 * Only files ending in `.log` are cached. Left to others: checking what comes from the disk, and having only one writer per file: a
 * file open twice has two caches, and the one does not see what is cut off through the other.
 */

import assert from 'node:assert/strict'
import { type Chunk, ChunkList, type ChunkOwner } from './chunks.ts'
import type { Disk, DiskFile } from './disk.ts'

export interface DiskCacheOptions {
  /** Memory that the cached bytes of all files may take, in bytes. Default 64 MiB; 0 caches nothing. */
  readonly bytesMax?: number
}

/** Chunks are made in multiples of this, so that those of like size can take each other's place. */
const ALLOCATION_UNIT = 4 * 1024
const SPARE_MAX = 4

class TailCache implements ChunkOwner {
  readonly #bytesMax: number
  /** Oldest first: a set keeps the order of insertion. */
  readonly #chunks = new Set<Chunk>()
  readonly #spare: Buffer[] = []
  #bytes = 0
  /** Files that have something in the cache. */
  #fileCount = 0

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** So that each of the files can have several chunks: else the only one it has would go while it is being filled. */
  get capacityMax(): number {
    return Math.floor(this.#bytesMax / (8 * Math.max(1, this.#fileCount)))
  }

  /**
   * Memory of a chunk that went without anybody having read it is used again: fresh memory costs more to touch for the
   * first time than to fill, and a log that is only written needs none.
   */
  allocate(bytes: number): Buffer {
    const index = this.#spare.findIndex(memory => memory.length >= bytes && memory.length <= 2 * bytes)
    if (index >= 0) return this.#spare.splice(index, 1)[0]
    return Buffer.allocUnsafeSlow(Math.ceil(bytes / ALLOCATION_UNIT) * ALLOCATION_UNIT)
  }

  made(chunk: Chunk): void {
    this.#chunks.add(chunk)
    this.#bytes += chunk.memory.length
    if (chunk.list.chunkCount === 1) this.#fileCount += 1
  }

  dropped(chunk: Chunk): void {
    this.#chunks.delete(chunk)
    this.#bytes -= chunk.memory.length
    if (chunk.list.chunkCount === 0) this.#fileCount -= 1
    if (!chunk.viewed && this.#spare.length < SPARE_MAX) this.#spare.push(chunk.memory)
  }

  /** Makes room. The oldest chunk of all is the first of its file, since the chunks of a file are made in order. */
  evict(): void {
    for (const chunk of this.#chunks) {
      if (this.#bytes <= this.#bytesMax) return
      chunk.list.dropFirst()
    }
  }
}

/** Written since anybody read a file: from there on its bytes are not kept, for copying them costs more than a read from the page cache. */
const UNREAD_BYTES_MAX = 8 * 1024 * 1024

class CachedFile implements DiskFile {
  readonly path: string
  readonly #inner: DiskFile
  readonly #cache: TailCache
  readonly #tail: ChunkList
  /** Bytes written since the last read. */
  #unreadBytes = 0

  constructor(inner: DiskFile, cache: TailCache) {
    this.path = inner.path
    this.#inner = inner
    this.#cache = cache
    this.#tail = new ChunkList(inner.size(), cache)
  }

  size(): number {
    return this.#inner.size()
  }

  write(bytes: Uint8Array, position: number): void {
    // Forgotten before, not after: when the write fails, nobody knows what lies there.
    this.#forgetFrom(position)
    this.#inner.write(bytes, position)
    if (position + bytes.length < this.#inner.size()) return
    this.#unreadBytes += bytes.length
    if (this.#unreadBytes > UNREAD_BYTES_MAX) {
      this.#tail.clear(position + bytes.length)
      return
    }
    if (this.#tail.end !== position) this.#tail.clear(position)
    this.#tail.append(bytes)
    this.#cache.evict()
  }

  read(position: number, bytesMax: number): Uint8Array | Promise<Uint8Array> {
    this.#unreadBytes = 0
    return this.#tail.read(position, bytesMax) ?? this.#inner.read(position, bytesMax)
  }

  readNow(position: number, bytesMax: number): Uint8Array {
    return this.#inner.readNow(position, bytesMax)
  }

  sync(): Promise<void> {
    return this.#inner.sync()
  }

  truncate(size: number): void {
    this.#forgetFrom(size)
    this.#inner.truncate(size)
  }

  close(): void {
    this.#tail.clear(0)
    this.#inner.close()
  }

  #forgetFrom(position: number): void {
    if (position < this.#tail.start) this.#tail.clear(position)
    else this.#tail.truncate(position)
  }
}

/** `inner` with a cache over the ends of its `.log` files. Everything else is passed through. */
export function cachedDisk(inner: Disk, options: DiskCacheOptions = {}): Disk {
  const { bytesMax = 64 * 1024 * 1024 } = options
  assert(bytesMax >= 0, 'bytesMax is not negative')
  const cache = new TailCache(bytesMax)
  return {
    kind: inner.kind,
    open(path, mode) {
      const file = inner.open(path, mode)
      return path.endsWith('.log') && mode !== 'read' && bytesMax > 0 ? new CachedFile(file, cache) : file
    },
    list: path => inner.list(path),
    makeDirectory: path => inner.makeDirectory(path),
    rename: (from, to) => inner.rename(from, to),
    remove: path => inner.remove(path),
    syncDirectory: path => inner.syncDirectory(path),
    lock: path => inner.lock(path),
  }
}
