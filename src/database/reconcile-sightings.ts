/**
 * What is known of the keys of a run: how often each side has a key, and the fingerprint that it had there last. A hash table over bytes in
 * memory that is used for one run after the other, so that a million keys leave no garbage.
 *
 *     places   hash → number of a key + 1, 0 for none; the next place is tried when it is another key
 *     by number: where its bytes lie in `keys`, times and fingerprint on the left, times and fingerprint on the right
 */

import { murmur2 } from '../delivery/partitioner.ts'
import { FINGERPRINT_BYTES } from './reconcile-runs.ts'

export type ReconcileSide = 'left' | 'right'

class Side {
  times = new Uint32Array(0)
  fingerprints = Buffer.alloc(0)

  grow(length: number): void {
    const times = new Uint32Array(length)
    times.set(this.times)
    this.times = times
    const fingerprints = Buffer.alloc(length * FINGERPRINT_BYTES)
    fingerprints.set(this.fingerprints)
    this.fingerprints = fingerprints
  }
}

export class Sightings {
  #size = 0
  readonly #sides: Readonly<Record<ReconcileSide, Side>> = { left: new Side(), right: new Side() }
  /** A power of two, at least twice as many as there are keys. */
  #places = new Uint32Array(0)
  #hashes = new Int32Array(0)
  #keys = Buffer.allocUnsafeSlow(64 * 1024)
  /** Where the key of a number ends; it begins where the one before ends. */
  #ends = new Float64Array(0)

  /** How many keys there are; their numbers are below. */
  get size(): number {
    return this.#size
  }

  /** Forgets everything. */
  clear(): void {
    this.#size = 0
    this.#places.fill(0)
    for (const { times } of Object.values(this.#sides)) times.fill(0)
  }

  /** A side has the key. `isLog`: this replaces what it had, and a fingerprint of zeros deletes it. */
  add(side: ReconcileSide, key: Buffer, fingerprint: Buffer, isLog: boolean): void {
    const number = this.#numberOf(key)
    const { times, fingerprints } = this.#sides[side]
    fingerprint.copy(fingerprints, number * FINGERPRINT_BYTES)
    if (isLog) times[number] = isZero(fingerprint) ? 0 : 1
    else times[number]++
  }

  key(number: number): string {
    return this.#keys.toString('utf8', this.#startOf(number), this.#ends[number])
  }

  times(side: ReconcileSide, number: number): number {
    return this.#sides[side].times[number]
  }

  /** Whether both sides have the same fingerprint. */
  isSame(number: number): boolean {
    const start = number * FINGERPRINT_BYTES
    const end = start + FINGERPRINT_BYTES
    const { left, right } = this.#sides
    return left.fingerprints.compare(right.fingerprints, start, end, start, end) === 0
  }

  #startOf(number: number): number {
    return number === 0 ? 0 : this.#ends[number - 1]
  }

  #numberOf(key: Buffer): number {
    if (this.#size === this.#hashes.length) this.#grow()
    const hash = murmur2(key)
    const mask = this.#places.length - 1
    // the low bits are those by which runs were cut: the same for all that are here
    for (let place = scatter(hash) & mask; ; place = (place + 1) & mask) {
      const number = this.#places[place] - 1
      if (number < 0) return this.#append(key, hash, place)
      if (this.#hashes[number] === hash && this.#isKey(number, key)) return number
    }
  }

  #isKey(number: number, key: Buffer): boolean {
    return this.#keys.compare(key, 0, key.length, this.#startOf(number), this.#ends[number]) === 0
  }

  #append(key: Buffer, hash: number, place: number): number {
    const number = this.#size++
    const start = this.#startOf(number)
    const end = start + key.length
    if (end > this.#keys.length) {
      const keys = Buffer.allocUnsafeSlow(Math.max(end, this.#keys.length * 2))
      this.#keys.copy(keys, 0, 0, start)
      this.#keys = keys
    }
    key.copy(this.#keys, start)
    this.#ends[number] = end
    this.#hashes[number] = hash
    this.#places[place] = number + 1
    return number
  }

  #grow(): void {
    const length = Math.max(1_024, this.#hashes.length * 2)
    for (const side of Object.values(this.#sides)) side.grow(length)
    const hashes = new Int32Array(length)
    hashes.set(this.#hashes)
    this.#hashes = hashes
    const ends = new Float64Array(length)
    ends.set(this.#ends)
    this.#ends = ends
    this.#places = new Uint32Array(length * 2)
    const mask = length * 2 - 1
    for (let number = 0; number < this.#size; number++) {
      let place = scatter(hashes[number]) & mask
      while (this.#places[place] !== 0) place = (place + 1) & mask
      this.#places[place] = number + 1
    }
  }
}

/** All bits of a hash count for the lowest ones. */
const scatter = (hash: number): number => Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 7

function isZero(bytes: Buffer): boolean {
  for (let index = 0; index < bytes.length; index++) if (bytes[index] !== 0) return false
  return true
}
