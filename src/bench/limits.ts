/**
 * The limits underneath: the least that has to be done for the same bytes, as plain loops over Node's own calls and CRC-32C, with
 * nothing of sluice in them. No queue with this format, in this language, on this machine can be faster.
 *
 * Batches are those of the log: a header of 61 bytes with a CRC-32C, then records. A body of 100 bytes is a record of 108 or 109.
 *
 *   record:  length varint │ 0 │ time delta varint (0) │ offset delta varint │ key length varint (-1) │ value length varint │ value │ headers (0)
 */

import fs from 'node:fs'
import { join } from 'node:path'
import { crc32c } from '@node-rs/crc32'
import {
  BODY_MASK,
  type MakeSubject,
  makeBodies,
  type Round,
  type Setting,
  type Subject,
  stopwatch,
} from './measure.ts'

const HEADER_BYTES = 61
const CRC_AT = 17
const CRC_START = 21
/** As large as the producer makes its batches by default. */
const BATCH_BYTES = 1024 * 1024
const READ_BYTES = 1024 * 1024

/** Encoding alone. */
export const encode: MakeSubject = async setting => new BatchLoop(setting, () => {})

/** Encoding and checksum. */
export const checksum: MakeSubject = async setting => new BatchLoop(setting, seal)

/** Encoding, checksum, and a copy into memory that is kept until the end of the round. */
export const copy: MakeSubject = async setting => {
  const kept: Buffer[] = []
  return new BatchLoop(
    setting,
    batch => {
      seal(batch)
      const chunk = Buffer.allocUnsafeSlow(batch.length)
      chunk.set(batch)
      kept.push(chunk)
    },
    { end: () => void (kept.length = 0) },
  )
}

/** Encoding, checksum, and sequential writes to a new file. */
export const write: MakeSubject = async setting => {
  const file = new NewFile(setting)
  return new BatchLoop(
    setting,
    batch => {
      seal(batch)
      file.append(batch)
    },
    file,
  )
}

/** The same, with fdatasync after each `count` messages. */
export function sync(count: number): MakeSubject {
  return async setting => {
    const file = new NewFile(setting)
    return new BatchLoop(
      setting,
      batch => {
        seal(batch)
        file.append(batch)
        fs.fdatasyncSync(file.descriptor)
      },
      file,
      count,
    )
  }
}

/** One promise per message, each awaited, resolved 5,000 at a time: what the language asks for, before anything is stored. */
export const promise: MakeSubject = async ({ messages }) => ({
  async round() {
    const elapsed = stopwatch()
    for (let done = 0; done < messages; ) {
      const count = Math.min(5_000, messages - done)
      const resolves: ((index: number) => void)[] = []
      const promises: Promise<number>[] = []
      for (let index = 0; index < count; index++) {
        promises.push(new Promise(resolve => resolves.push(resolve)))
      }
      setImmediate(() => {
        for (let index = 0; index < count; index++) resolves[index](index)
      })
      for (let index = 0; index < count; index++) await promises[index]
      done += count
    }
    return { messages, ...elapsed() }
  },
  close: async () => {},
})

/** Reading a file (out of the page cache), checksum, and a view of each value. */
export const read: MakeSubject = async setting => {
  const file = new NewFile(setting)
  const loop = new BatchLoop(setting, batch => {
    seal(batch)
    file.append(batch)
  })
  file.begin()
  await loop.round()
  const { size } = file
  return {
    async round() {
      const elapsed = stopwatch()
      const buffer = Buffer.allocUnsafeSlow(READ_BYTES + 2 * BATCH_BYTES)
      let messages = 0
      let held = 0
      for (let position = 0; position < size; ) {
        const got = fs.readSync(file.descriptor, buffer, held, READ_BYTES, position)
        position += got
        held += got
        const used = walk(buffer, held, true)
        messages += used.messages
        buffer.copyWithin(0, used.bytes, held)
        held -= used.bytes
      }
      return { messages, ...elapsed() }
    },
    close: async () => file.end(),
  }
}

/** Going through bytes in memory, with a view of each value. */
export const walkMemory: MakeSubject = async setting => {
  const kept: Buffer[] = []
  const loop = new BatchLoop(setting, batch => {
    seal(batch)
    kept.push(Buffer.from(batch))
  })
  await loop.round()
  return {
    async round() {
      const elapsed = stopwatch()
      let messages = 0
      for (const batch of kept) messages += walk(batch, batch.length, false).messages
      return { messages, ...elapsed() }
    },
    close: async () => {},
  }
}

/** A file that is made for each round and removed after it. */
class NewFile {
  descriptor = -1
  size = 0
  readonly #path: string

  constructor(setting: Setting) {
    this.#path = join(setting.directory, 'plain')
  }

  begin(): void {
    this.descriptor = fs.openSync(this.#path, 'w+')
    this.size = 0
  }

  append(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      done += fs.writeSync(this.descriptor, bytes, done, bytes.length - done, this.size + done)
    }
    this.size += bytes.length
  }

  end(): void {
    fs.closeSync(this.descriptor)
    fs.rmSync(this.#path)
  }
}

/** Encodes all messages of a round, batch by batch, into one buffer, and hands each batch on. */
class BatchLoop implements Subject {
  readonly #setting: Setting
  readonly #bodies: Uint8Array[]
  readonly #buffer: Buffer
  readonly #countMax: number
  readonly #take: (batch: Buffer) => void
  readonly #around: { begin?(): void; end?(): void }

  constructor(
    setting: Setting,
    take: (batch: Buffer) => void,
    around: { begin?(): void; end?(): void } = {},
    countMax = Number.POSITIVE_INFINITY,
  ) {
    this.#setting = setting
    this.#bodies = makeBodies(setting.bytes)
    this.#buffer = Buffer.alloc(Math.max(BATCH_BYTES, HEADER_BYTES + setting.bytes + 32))
    this.#countMax = countMax
    this.#take = take
    this.#around = around
  }

  async round(): Promise<Round> {
    const { messages, bytes } = this.#setting
    const countOfSize = Math.max(1, Math.floor((this.#buffer.length - HEADER_BYTES) / (bytes + 20)))
    const countMax = Math.min(this.#countMax, countOfSize)
    this.#around.begin?.()
    const elapsed = stopwatch()
    // a sync is due after so many messages, in as many batches as they need
    for (let done = 0; done < messages; ) {
      const count = Math.min(countMax, messages - done)
      const end = encodeBatch(this.#buffer, this.#bodies, done, count)
      this.#take(this.#buffer.subarray(0, end))
      done += count
    }
    const time = elapsed()
    this.#around.end?.()
    return { messages, ...time }
  }

  async close(): Promise<void> {}
}

/** Writes `count` records behind the header. Returns where they end. */
function encodeBatch(buffer: Buffer, bodies: readonly Uint8Array[], first: number, count: number): number {
  let at = HEADER_BYTES
  for (let index = 0; index < count; index++) {
    const body = bodies[(first + index) & BODY_MASK]
    at = putVarint(buffer, at, 5 + varintBytes(index) + varintBytes(body.length) - 1 + body.length)
    buffer[at++] = 0
    buffer[at++] = 0
    at = putVarint(buffer, at, index)
    buffer[at++] = 1
    at = putVarint(buffer, at, body.length)
    buffer.set(body, at)
    at += body.length
    buffer[at++] = 0
  }
  buffer.writeInt32BE(at - 12, 8)
  buffer[16] = 2
  buffer.writeInt32BE(count - 1, 23)
  buffer.writeInt32BE(count, 57)
  return at
}

function seal(batch: Buffer): void {
  batch.writeUInt32BE(crc32c(batch.subarray(CRC_START)), CRC_AT)
}

const varintBytes = (value: number): number => {
  const zigzag = value << 1
  return zigzag < 0x80 ? 1 : zigzag < 0x4000 ? 2 : zigzag < 0x200000 ? 3 : 4
}

function putVarint(buffer: Buffer, start: number, value: number): number {
  let at = start
  let rest = value << 1
  while (rest >= 0x80) {
    buffer[at++] = (rest & 0x7f) | 0x80
    rest >>>= 7
  }
  buffer[at++] = rest
  return at
}

let walked = 0

/** Goes through the whole batches in `buffer` up to `end`, record by record. */
function walk(buffer: Buffer, end: number, isChecked: boolean): { messages: number; bytes: number } {
  let messages = 0
  let batch = 0
  while (end - batch >= HEADER_BYTES) {
    const next = batch + 12 + buffer.readInt32BE(batch + 8)
    if (next > end) break
    if (
      isChecked &&
      crc32c(buffer.subarray(batch + CRC_START, next)) !== buffer.readUInt32BE(batch + CRC_AT)
    ) {
      throw new Error('the plain file does not hold what was written to it')
    }
    let at = batch + HEADER_BYTES
    while (at < next) {
      let shift = 0
      let length = 0
      let byte = buffer[at++]
      for (; byte >= 0x80; byte = buffer[at++], shift += 7) length |= (byte & 0x7f) << shift
      length |= byte << shift
      const following = at + (length >>> 1)
      at += 2
      while (buffer[at++] >= 0x80);
      at++
      for (shift = 0, length = 0, byte = buffer[at++]; byte >= 0x80; byte = buffer[at++], shift += 7) {
        length |= (byte & 0x7f) << shift
      }
      length |= byte << shift
      walked += buffer.subarray(at, at + (length >>> 1)).length
      at = following
      messages++
    }
    batch = next
  }
  return { messages, bytes: batch }
}

/** Bytes of values seen by all walks: reading it keeps the walk from being optimised away. */
export function walkedBytes(): number {
  return walked
}
