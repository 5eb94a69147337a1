/**
 * Reading and writing the primitives that binary protocols are made of. Big-endian. No knowledge of any protocol.
 *
 * `ByteReader` owns the bounds: no length or count that the bytes claim is believed before it is checked against the
 * bytes that are there, and nothing is allocated before that. Whatever the bytes, a read gives a value or throws
 * `MALFORMED_REQUEST`. What it returns as a `Buffer` is a view.
 *
 * `ByteWriter` owns the memory: it fills chunks and never copies what it has filled. Its result is a list of parts for
 * one vectored write, in which long payloads are the caller's own bytes:
 *
 *     chunk  [ answers written before │ part 0 │ part 2 │ free: the next writer's ]
 *     caller                  [ part 1: a payload ]
 *
 * A value that does not fit its type is a defect of the caller: an assertion.
 */

import { AssertionError } from 'node:assert'
import { SluiceError } from '../errors.ts'

/** Most elements of arrays that one reader hands out: an element takes far more memory as an object than as bytes. */
export const ELEMENTS_MAX = 250_000

const TWO_32 = 2 ** 32
const HIGH_MAX = 2 ** 21

export class ByteReader {
  /** What is being read, and which part of it, for the text of an error. */
  subject = 'a message'
  part = ''
  readonly #bytes: Buffer
  #at: number
  #end: number
  #elementsLeft: number

  /** Reads `bytes` from `at` on. `elementsMax`: see `ELEMENTS_MAX`, its default. */
  constructor(bytes: Buffer, at = 0, elementsMax = ELEMENTS_MAX) {
    this.#bytes = bytes
    this.#at = at
    this.#end = bytes.length
    this.#elementsLeft = elementsMax
  }

  /** Position of the next byte. */
  get at(): number {
    return this.#at
  }

  /** Bytes not read yet. */
  get left(): number {
    return this.#end - this.#at
  }

  bool(): boolean {
    return this.#bytes[this.#advance(1)] !== 0
  }

  int8(): number {
    return (this.#bytes[this.#advance(1)] << 24) >> 24
  }

  uint8(): number {
    return this.#bytes[this.#advance(1)]
  }

  int16(): number {
    return (this.uint16() << 16) >> 16
  }

  uint16(): number {
    const at = this.#advance(2)
    return (this.#bytes[at] << 8) | this.#bytes[at + 1]
  }

  int32(): number {
    const bytes = this.#bytes
    const at = this.#advance(4)
    return (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]
  }

  uint32(): number {
    return this.int32() >>> 0
  }

  /** Exact within ±(2^53 − 1); what lies beyond is read as that bound, which is out of range for all that we count. */
  int64(): number {
    if (this.#end - this.#at < 8) throw this.endsEarly(8)
    const high = this.int32()
    const low = this.uint32()
    if (high >= HIGH_MAX) return Number.MAX_SAFE_INTEGER
    if (high < -HIGH_MAX) return Number.MIN_SAFE_INTEGER
    const value = high * TWO_32 + low
    return value < Number.MIN_SAFE_INTEGER ? Number.MIN_SAFE_INTEGER : value
  }

  float64(): number {
    return this.#bytes.readDoubleBE(this.#advance(8))
  }

  /** Seven bits a byte, the lowest first; 32 bits in at most five bytes. */
  uvarint(): number {
    let value = 0
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.#bytes[this.#advance(1)]
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) {
        if (shift === 28 && byte > 0x0f) break
        return value >>> 0
      }
    }
    throw this.malformed('has a varint of more than 32 bits')
  }

  /** `length` bytes of UTF-8; what is not UTF-8 becomes U+FFFD. */
  utf8(length: number): string {
    const at = this.#advance(length)
    return this.#bytes.toString('utf8', at, at + length)
  }

  /** 16 bytes as 22 characters of base64url. */
  uuid(): string {
    const at = this.#advance(16)
    return this.#bytes.toString('base64url', at, at + 16)
  }

  /** The next `length` bytes, not copied: keep them and you keep all that was read from. */
  view(length: number): Buffer {
    const at = this.#advance(length)
    return this.#bytes.subarray(at, at + length)
  }

  skip(length: number): void {
    this.#advance(length)
  }

  /** To be called before `count` elements are read, each of which takes `bytesMin` at least. Returns the count. */
  elements(count: number, bytesMin: number): number {
    if (count * bytesMin > this.left) {
      throw this.malformed(`has room for fewer than the ${count} elements it claims`)
    }
    this.#elementsLeft -= count
    if (this.#elementsLeft < 0) throw this.malformed('has more elements than one request may have')
    return count
  }

  /** Confines what follows to the next `length` bytes. Returns what `leave` is to be called with at their end. */
  enter(length: number): number {
    const outer = this.#end
    const start = this.#advance(length)
    this.#at = start
    this.#end = start + length
    return outer
  }

  /** The end of what `enter` began: all of it must have been read. */
  leave(outer: number): void {
    if (this.#at !== this.#end) throw this.malformed(`has ${this.left} bytes too many`)
    this.#end = outer
  }

  malformed(problem: string): SluiceError {
    return new SluiceError('MALFORMED_REQUEST', `malformed ${this.subject}: ${this.part} ${problem}`, {
      position: this.#at,
    })
  }

  endsEarly(bytes: number): SluiceError {
    return this.malformed(`takes ${bytes} bytes, ${this.left} are left`)
  }

  #advance(bytes: number): number {
    const at = this.#at
    if (bytes > this.#end - at) throw this.endsEarly(bytes)
    this.#at = at + bytes
    return at
  }
}

/** Size of the memory that writers fill one after the other. */
const CHUNK_BYTES = 64 * 1024
/** With less than this left, a writer begins with a fresh chunk. */
const CHUNK_REST_MIN = 512
/** Payloads from this length on become a part of their own; copying a shorter one costs less than a part. */
const PART_BYTES_MIN = 1024

/** What the writer before has left of its chunk. Writers are filled in one go, so there is one at a time. */
let spare: Buffer | null = null
let spareAt = 0

export class ByteWriter {
  /** What is being written, and which part of it, for the text of an assertion. */
  subject = 'a message'
  part = ''
  readonly #parts: Uint8Array[] = []
  /** Bytes in #parts. */
  #partBytes = 0
  #memory: Buffer
  #start: number
  #at: number

  /** With `capacity`, bytes, it begins in memory of its own: for a writer inside another one. */
  constructor(capacity = 0) {
    if (capacity === 0 && spare !== null && spare.length - spareAt >= CHUNK_REST_MIN) {
      this.#memory = spare
      this.#start = spareAt
      spare = null
    } else {
      this.#memory = capacity > 0 ? Buffer.allocUnsafe(capacity) : Buffer.allocUnsafeSlow(CHUNK_BYTES)
      this.#start = 0
    }
    this.#at = this.#start
  }

  /** Bytes written so far. */
  get bytes(): number {
    return this.#partBytes + this.#at - this.#start
  }

  bool(value: boolean): void {
    if (typeof value !== 'boolean') this.refuse('a boolean', value)
    this.#memory[this.#room(1)] = value ? 1 : 0
  }

  int8(value: number): void {
    if ((value << 24) >> 24 !== value) this.refuse('an int8', value)
    this.#memory[this.#room(1)] = value
  }

  uint8(value: number): void {
    if ((value & 0xff) !== value) this.refuse('a uint8', value)
    this.#memory[this.#room(1)] = value
  }

  int16(value: number): void {
    if ((value << 16) >> 16 !== value) this.refuse('an int16', value)
    this.#put16(value)
  }

  uint16(value: number): void {
    if ((value & 0xffff) !== value) this.refuse('a uint16', value)
    this.#put16(value)
  }

  int32(value: number): void {
    if ((value | 0) !== value) this.refuse('an int32', value)
    this.#put32(value)
  }

  uint32(value: number): void {
    if (value >>> 0 !== value) this.refuse('a uint32', value)
    this.#put32(value)
  }

  int64(value: number): void {
    if (!Number.isSafeInteger(value)) this.refuse('a safe integer', value)
    this.#put32(Math.floor(value / TWO_32) | 0)
    this.#put32(value | 0)
  }

  float64(value: number): void {
    if (typeof value !== 'number') this.refuse('a number', value)
    const at = this.#room(8)
    this.#memory.writeDoubleBE(value, at)
  }

  uvarint(value: number): void {
    if (value >>> 0 !== value) this.refuse('a uint32', value)
    let at = this.#room(5)
    let rest = value
    while (rest >= 0x80) {
      this.#memory[at++] = rest | 0x80
      rest >>>= 7
    }
    this.#memory[at++] = rest
    this.#at = at
  }

  /** UTF-8 behind its length in bytes as an int16. */
  string16(value: string): void {
    if (typeof value !== 'string') this.refuse('a string', value)
    const at = this.#room(2 + value.length * 3)
    const bytes = this.#memory.write(value, at + 2)
    if (bytes > 0x7fff) this.refuse('a string of at most 32767 bytes', value)
    this.#memory[at] = bytes >> 8
    this.#memory[at + 1] = bytes
    this.#at = at + 2 + bytes
  }

  /** UTF-8 behind its length in bytes plus `bias` as an unsigned varint. */
  stringVarint(value: string, bias: number): void {
    if (typeof value !== 'string') this.refuse('a string', value)
    if (value.length * 3 + bias >= 0x80) {
      const bytes = Buffer.byteLength(value)
      this.uvarint(bytes + bias)
      const at = this.#room(bytes)
      this.#memory.write(value, at)
      return
    }
    const at = this.#room(1 + value.length * 3)
    const bytes = this.#memory.write(value, at + 1)
    this.#memory[at] = bytes + bias
    this.#at = at + 1 + bytes
  }

  /** 22 characters of base64url as 16 bytes. */
  uuid(value: string): void {
    if (typeof value !== 'string' || value.length !== 22) this.refuse('a uuid in base64url', value)
    const at = this.#room(16)
    if (this.#memory.write(value, at, 16, 'base64url') !== 16) this.refuse('a uuid in base64url', value)
  }

  /** A payload, without a length. A long one is not copied: it must stay as it is until the parts have been sent. */
  payload(bytes: Uint8Array): void {
    if (!(bytes instanceof Uint8Array)) this.refuse('bytes', bytes)
    if (bytes.length < PART_BYTES_MIN) {
      const at = this.#room(bytes.length)
      this.#memory.set(bytes, at)
      return
    }
    this.#closePart()
    this.#addPart(bytes)
  }

  /** All that the other writer has; it must not be used any more. */
  append(other: ByteWriter): void {
    for (const part of other.finish().parts) this.payload(part)
  }

  /** Overwrites four of the first bytes, which lie in the first part. */
  patchInt32(position: number, value: number): void {
    if (this.#parts.length === 0) this.#memory.writeInt32BE(value, this.#start + position)
    else Buffer.from(this.#parts[0].buffer, this.#parts[0].byteOffset).writeInt32BE(value, position)
  }

  /** What was written, in order. The writer must not be used any more. */
  finish(): { readonly parts: Uint8Array[]; readonly bytes: number } {
    this.#closePart()
    if (this.#memory.length === CHUNK_BYTES) {
      spare = this.#memory
      spareAt = this.#at
    }
    return { parts: this.#parts, bytes: this.#partBytes }
  }

  refuse(expected: string, value: unknown): never {
    throw new AssertionError({
      message: `${this.subject}: ${this.part} is to be ${expected}`,
      actual: value,
      stackStartFn: this.refuse,
    })
  }

  #put16(value: number): void {
    const at = this.#room(2)
    this.#memory[at] = value >> 8
    this.#memory[at + 1] = value
  }

  #put32(value: number): void {
    const at = this.#room(4)
    const memory = this.#memory
    memory[at] = value >>> 24
    memory[at + 1] = value >>> 16
    memory[at + 2] = value >>> 8
    memory[at + 3] = value
  }

  /** Takes the next `bytes` of the memory; a caller that needs fewer sets #at back. */
  #room(bytes: number): number {
    if (bytes > this.#memory.length - this.#at) this.#turn(bytes)
    const at = this.#at
    this.#at = at + bytes
    return at
  }

  #turn(bytes: number): void {
    this.#closePart()
    this.#memory = Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, bytes))
    this.#start = 0
    this.#at = 0
  }

  #closePart(): void {
    if (this.#at === this.#start) return
    this.#addPart(this.#memory.subarray(this.#start, this.#at))
    this.#start = this.#at
  }

  #addPart(part: Uint8Array): void {
    this.#parts.push(part)
    this.#partBytes += part.length
  }
}
