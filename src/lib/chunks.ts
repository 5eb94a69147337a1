/**
 * A growing run of bytes in memory, kept as a list of chunks: what the memory disk stores a file in, and what the tail cache
 * keeps of one.
 *
 *     start                                                       end
 *       |  chunk 0  |     chunk 1     |          chunk 2           |·········|
 *                                                                  |<-spare->|
 *
 * Invariants:
 *  - chunks follow each other without a gap: each begins where the one before ends;
 *  - what one call of `append` brought lies in one chunk, so that a reader gets it in one piece without a copy;
 *  - bytes once handed out by `read` never change: memory is written at most once. A cut seals the chunk it falls into, an
 *    overwrite goes to a fresh copy.
 *
 * A chunk has twice the capacity that the one before was used for, from 4 KiB to 1 MiB, so a small file stays small and a
 * busy one has few chunks. An append larger than a quarter of that gets a chunk of exactly its size.
 */

import assert from 'node:assert/strict'

const CAPACITY_MIN = 4 * 1024
const CAPACITY_MAX = 1024 * 1024

export class Chunk {
  readonly list: ChunkList
  /** Where its first byte lies. */
  readonly position: number
  memory: Buffer
  /** Bytes in use. */
  length = 0
  /** Bytes that may come to be used; the length once sealed. */
  limit: number
  /** Somebody may hold a view of its memory: it must never be written for another chunk. */
  viewed = false

  constructor(list: ChunkList, position: number, memory: Buffer) {
    this.list = list
    this.position = position
    this.memory = memory
    this.limit = memory.length
  }

  get end(): number {
    return this.position + this.length
  }
}

/** Told of every chunk that comes and goes, to keep count of the memory. */
export interface ChunkOwner {
  /** Largest chunk to make except for an append that is larger, in bytes. Default and upper limit: 1 MiB. */
  readonly capacityMax?: number
  /** Memory for a chunk, of at least this many bytes. Default: fresh. */
  allocate?(bytes: number): Buffer
  made(chunk: Chunk): void
  dropped(chunk: Chunk): void
}

export class ChunkList {
  readonly #owner: ChunkOwner | null
  readonly #chunks: Chunk[] = []
  #start: number
  #end: number
  /** Bytes used in the last chunk that was filled or dropped: what the size of the next goes by. */
  #usedBefore = 0

  constructor(start = 0, owner: ChunkOwner | null = null) {
    this.#start = start
    this.#end = start
    this.#owner = owner
  }

  get start(): number {
    return this.#start
  }

  get end(): number {
    return this.#end
  }

  get chunkCount(): number {
    return this.#chunks.length
  }

  /** Bytes that `append` would allocate. */
  growthFor(bytes: number): number {
    const last = this.#chunks.at(-1)
    return last !== undefined && last.limit - last.length >= bytes ? 0 : this.#capacityFor(bytes)
  }

  append(bytes: Uint8Array): void {
    if (bytes.length === 0) return
    let last = this.#chunks[this.#chunks.length - 1]
    if (last === undefined || last.limit - last.length < bytes.length) {
      const capacity = this.#capacityFor(bytes.length)
      last = new Chunk(this, this.#end, this.#owner?.allocate?.(capacity) ?? Buffer.allocUnsafeSlow(capacity))
      this.#chunks.push(last)
      this.#owner?.made(last)
    }
    last.memory.set(bytes, last.length)
    last.length += bytes.length
    this.#end += bytes.length
  }

  /** A view of up to `bytesMax` bytes from `position`, as far as the chunk goes; null where there is nothing. */
  read(position: number, bytesMax: number): Buffer | null {
    if (position < this.#start || position >= this.#end) return null
    const chunk = this.#chunks[this.#indexAt(position)]
    const from = position - chunk.position
    chunk.viewed = true
    return chunk.memory.subarray(from, Math.min(chunk.length, from + bytesMax))
  }

  /** Replaces bytes that are there. They are copied first: a reader may hold the old ones. */
  overwrite(position: number, bytes: Uint8Array): void {
    assert(position >= this.#start && position <= this.#end)
    if (position + bytes.length >= this.#end) {
      this.truncate(position)
      this.append(bytes)
      return
    }
    let done = 0
    for (let index = this.#indexAt(position); done < bytes.length; index++) {
      const chunk = this.#chunks[index]
      const at = position + done - chunk.position
      const count = Math.min(bytes.length - done, chunk.length - at)
      const memory = Buffer.allocUnsafeSlow(chunk.memory.length)
      memory.set(chunk.memory.subarray(0, chunk.length))
      memory.set(bytes.subarray(done, done + count), at)
      chunk.memory = memory
      done += count
    }
  }

  /** Drops everything from `end` on. What is appended next never lies in memory that was behind the cut. */
  truncate(end: number): void {
    if (end >= this.#end) return
    while (this.#chunks.length > 0 && this.#chunks[this.#chunks.length - 1].position >= end) {
      this.#owner?.dropped(this.#chunks.pop()!)
    }
    const last = this.#chunks.at(-1)
    if (last === undefined) {
      this.#start = end
    } else {
      last.length = end - last.position
      last.limit = last.length
    }
    this.#end = end
  }

  /** Drops the chunk in front. */
  dropFirst(): void {
    const first = this.#chunks.shift()
    assert(first !== undefined)
    if (this.#chunks.length === 0) this.#usedBefore = first.length
    this.#start = first.end
    this.#owner?.dropped(first)
  }

  /** Drops everything and begins anew, empty, at `start`. */
  clear(start: number): void {
    while (this.#chunks.length > 0) this.#owner?.dropped(this.#chunks.pop()!)
    this.#start = start
    this.#end = start
    this.#usedBefore = 0
  }

  #capacityFor(bytes: number): number {
    const capacityMax = Math.max(
      CAPACITY_MIN,
      Math.min(CAPACITY_MAX, this.#owner?.capacityMax ?? CAPACITY_MAX),
    )
    if (bytes > capacityMax / 4) return bytes
    const used = this.#chunks.at(-1)?.length ?? this.#usedBefore
    let capacity = CAPACITY_MIN
    while (capacity < 2 * used || capacity < bytes) capacity *= 2
    return Math.min(capacity, capacityMax)
  }

  /** Index of the chunk that `position` lies in. */
  #indexAt(position: number): number {
    let low = 0
    let high = this.#chunks.length - 1
    if (position >= this.#chunks[high].position) return high
    while (low < high) {
      const middle = (low + high + 1) >>> 1
      if (this.#chunks[middle].position <= position) low = middle
      else high = middle - 1
    }
    return low
  }
}
