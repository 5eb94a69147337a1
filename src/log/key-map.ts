/**
 * The last offset of each key, in bounded memory: what compaction decides by. Keys are known by a hash of 128 bits, so a slot
 * has the same size whatever the key; nothing is allocated per key.
 *
 *     hash: │ 8 bits: table │ … │ table: … │ hash: 4 × int32 │ offset + 1: int32 high, int32 low (0: free) │ …
 *
 * A table is open addressing with linear probing. Each of the 256 grows by itself when it gets full, which takes a fraction of a
 * millisecond: one large table would hold up everything else while it grows.
 *
 * Keys are handled some at a time: first all are hashed (`stage`), then their slots are touched in one go (`touch`), then they are
 * put or looked up. A slot is almost never in the processor's cache; asked for one after the other, each would be waited for.
 *
 * Two keys with the same hash would be taken for one, and a record lost. That must neither happen by chance (128 bits: it does
 * not) nor be brought about by whoever chooses the keys. So the hash has a secret, drawn anew for each map: HalfSipHash-1-3
 * (Aumasson and Bernstein), finished twice for 128 bits. It works on 32-bit integers, which JavaScript has; MD5 by way of
 * node:crypto takes twenty times as long for a short key.
 */

import assert from 'node:assert/strict'
import { randomFillSync } from 'node:crypto'

const SLOT_WORDS = 6
const SLOT_BYTES = SLOT_WORDS * 4
const TABLES = 256
const TABLE_SHIFT = 24
const SLOTS_MIN = 16
/** A table that may grow does so beyond this part of its slots… */
const LOAD_GROWING = 0.75
/** …one that may not is full beyond this one. */
const LOAD_MAX = 0.875

export class KeyMap {
  readonly #bytesMax: number
  readonly #tables: Int32Array[] = []
  readonly #counts = new Int32Array(TABLES)
  readonly #secret = randomFillSync(new Int32Array(4))
  #bytes = TABLES * SLOTS_MIN * SLOT_BYTES
  #count = 0
  /** Hashes of the keys at hand, four words each. */
  #staged = new Int32Array(4 * 1024)
  /** So that touching is not optimised away. */
  #touched = 0

  /** `bytesMax`: memory the slots may take; 96 KiB at least. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
    for (let table = 0; table < TABLES; table++) this.#tables.push(new Int32Array(SLOTS_MIN * SLOT_WORDS))
  }

  /** Keys in it. */
  get count(): number {
    return this.#count
  }

  /** Bytes that the slots take. */
  get bytes(): number {
    return this.#bytes
  }

  /** Takes a key at hand, under a number: from 0 on, each number after the one before. */
  stage(index: number, bytes: Uint8Array, start: number, length: number): void {
    if (index * 4 === this.#staged.length) {
      const larger = new Int32Array(this.#staged.length * 2)
      larger.set(this.#staged)
      this.#staged = larger
    }
    this.#digest(bytes, start, length, index * 4)
  }

  /** Brings the slots of the first `count` keys at hand into the cache. */
  touch(count: number): void {
    const staged = this.#staged
    const tables = this.#tables
    let sum = 0
    for (let from = 0; from < count * 4; from += 4) {
      const slots = tables[staged[from] >>> TABLE_SHIFT]
      sum ^= slots[firstSlot(staged[from + 1], slots) + 4]
    }
    this.#touched = sum
  }

  get touched(): number {
    return this.#touched
  }

  /** Notes the offset of a key at hand, in place of an earlier one. False if the key is new and there is no room for it. */
  put(index: number, offset: number): boolean {
    assert(offset >= 0)
    const table = this.#staged[index * 4] >>> TABLE_SHIFT
    let slots = this.#tables[table]
    let at = find(slots, this.#staged, index * 4)
    if (isFree(slots, at)) {
      if (!this.#makeRoom(table)) return false
      if (slots !== this.#tables[table]) {
        slots = this.#tables[table]
        at = find(slots, this.#staged, index * 4)
      }
      for (let word = 0; word < 4; word++) slots[at + word] = this.#staged[index * 4 + word]
      this.#counts[table]++
      this.#count++
    }
    slots[at + 4] = Math.floor((offset + 1) / 0x1_0000_0000)
    slots[at + 5] = (offset + 1) | 0
    return true
  }

  /** The offset noted last for a key at hand; -1 if there is none. */
  get(index: number): number {
    const slots = this.#tables[this.#staged[index * 4] >>> TABLE_SHIFT]
    const at = find(slots, this.#staged, index * 4)
    return slots[at + 4] * 0x1_0000_0000 + (slots[at + 5] >>> 0) - 1
  }

  #makeRoom(table: number): boolean {
    const slots = this.#tables[table]
    const slotCount = slots.length / SLOT_WORDS
    if (this.#counts[table] < slotCount * LOAD_GROWING) return true
    if (this.#bytes + slots.byteLength > this.#bytesMax) return this.#counts[table] < slotCount * LOAD_MAX
    const larger = new Int32Array(slots.length * 2)
    for (let from = 0; from < slots.length; from += SLOT_WORDS) {
      if (isFree(slots, from)) continue
      larger.set(slots.subarray(from, from + SLOT_WORDS), find(larger, slots, from))
    }
    this.#tables[table] = larger
    this.#bytes += slots.byteLength
    return true
  }

  #digest(bytes: Uint8Array, start: number, length: number, into: number): void {
    const staged = this.#staged
    const secret = this.#secret
    let v0 = secret[0]
    let v1 = secret[1] ^ 0xee
    let v2 = secret[2] ^ 0x6c796765
    let v3 = secret[3] ^ 0x74656462
    const end = start + length
    const wholeWords = start + (length & ~3)
    let at = start
    for (; at < wholeWords; at += 4) {
      const word = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)
      v3 ^= word
      v0 = (v0 + v1) | 0
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0
      v0 = (v0 << 16) | (v0 >>> 16)
      v2 = (v2 + v3) | 0
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2
      v0 = (v0 + v3) | 0
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0
      v2 = (v2 + v1) | 0
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2
      v2 = (v2 << 16) | (v2 >>> 16)
      v0 ^= word
    }
    // The last word with the length, then three rounds for each half of the result.
    let word = length << 24
    if (at < end) word |= bytes[at]
    if (at + 1 < end) word |= bytes[at + 1] << 8
    if (at + 2 < end) word |= bytes[at + 2] << 16
    for (let round = 0; round < 7; round++) {
      v3 ^= word
      v0 = (v0 + v1) | 0
      v1 = ((v1 << 5) | (v1 >>> 27)) ^ v0
      v0 = (v0 << 16) | (v0 >>> 16)
      v2 = (v2 + v3) | 0
      v3 = ((v3 << 8) | (v3 >>> 24)) ^ v2
      v0 = (v0 + v3) | 0
      v3 = ((v3 << 7) | (v3 >>> 25)) ^ v0
      v2 = (v2 + v1) | 0
      v1 = ((v1 << 13) | (v1 >>> 19)) ^ v2
      v2 = (v2 << 16) | (v2 >>> 16)
      if (round === 0) {
        v0 ^= word
        word = 0
        v2 ^= 0xee
      } else if (round === 3) {
        staged[into] = v1 ^ v3
        staged[into + 1] = v0 ^ v2
        v1 ^= 0xdd
      }
    }
    staged[into + 2] = v1 ^ v3
    staged[into + 3] = v0 ^ v2
  }
}

/** The number of slots is a power of two. */
const firstSlot = (hash: number, slots: Int32Array): number =>
  (hash & (slots.length / SLOT_WORDS - 1)) * SLOT_WORDS

const isFree = (slots: Int32Array, at: number): boolean => slots[at + 4] === 0 && slots[at + 5] === 0

/** The slot of the hash at `from` of `hashes`, or the free one where it would go. There is always a free one. */
function find(slots: Int32Array, hashes: Int32Array, from: number): number {
  const hash0 = hashes[from]
  const hash1 = hashes[from + 1]
  for (let at = firstSlot(hash1, slots); ; ) {
    if (isFree(slots, at)) return at
    if (
      slots[at] === hash0 &&
      slots[at + 1] === hash1 &&
      slots[at + 2] === hashes[from + 2] &&
      slots[at + 3] === hashes[from + 3]
    )
      return at
    at += SLOT_WORDS
    if (at === slots.length) at = 0
  }
}
