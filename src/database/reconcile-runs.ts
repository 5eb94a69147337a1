/**
 * Keys and fingerprints of a source, cut into runs on the disk by the hash of their keys: what has the same key is in the same run, and a run
 * is small enough to be looked at in memory. Within a run the order is that of the source.
 *
 *     entry   ┌─────────────────────┬────────────────────┬──────────┐
 *             │ bytes of the key u32│ fingerprint, 16 B  │ key      │      fingerprint: SHA-256 of the value, cut; all zero for null
 *             └─────────────────────┴────────────────────┴──────────┘
 *
 * A run is cut again by other bits of the hash; after `DEPTH_MAX` times there are none left, and what is still together is one key (or made
 * to collide).
 */

import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { murmur2 } from '../delivery/partitioner.ts'

/** A bit more than the square root of what is ever compared; each costs a file and a buffer while it is written. */
const FAN_OUT_BITS = 6
const FAN_OUT = 1 << FAN_OUT_BITS
export const DEPTH_MAX = Math.floor(32 / FAN_OUT_BITS) - 1

export const FINGERPRINT_BYTES = 16
const HEAD_BYTES = 4 + FINGERPRINT_BYTES
const WRITE_BYTES = 32 * 1024
const READ_BYTES = 128 * 1024

/** Writes the fingerprint of a value into `into`. null has zeros. */
export function fingerprint(value: string | Uint8Array | null, into: Buffer): void {
  if (value === null) into.fill(0)
  else into.write(hash('sha256', value, 'binary'), 0, FINGERPRINT_BYTES, 'latin1')
}

/** A file of entries. */
export interface Run {
  readonly path: string
  readonly bytes: number
}

class RunFile {
  readonly path: string
  bytes = 0
  readonly #buffer = Buffer.allocUnsafeSlow(WRITE_BYTES)
  #used = 0
  #file: FileHandle | null = null

  constructor(path: string) {
    this.path = path
  }

  /** False: no room in the buffer; `flush` makes some. */
  add(key: Uint8Array, fingerprint: Uint8Array): boolean {
    if (this.#used + HEAD_BYTES + key.length > WRITE_BYTES) return false
    this.#used = put(this.#buffer, this.#used, key, fingerprint)
    this.bytes += HEAD_BYTES + key.length
    return true
  }

  async addLarge(key: Uint8Array, fingerprint: Uint8Array): Promise<void> {
    await this.flush()
    if (this.add(key, fingerprint)) return
    const entry = Buffer.allocUnsafe(HEAD_BYTES + key.length)
    put(entry, 0, key, fingerprint)
    this.#file ??= await open(this.path, 'w')
    await this.#file.writeFile(entry)
    this.bytes += entry.length
  }

  async flush(): Promise<void> {
    if (this.#used === 0) return
    this.#file ??= await open(this.path, 'w')
    await this.#file.write(this.#buffer, 0, this.#used)
    this.#used = 0
  }

  async close(): Promise<void> {
    const file = this.#file
    this.#file = null
    await file?.close()
  }
}

function put(buffer: Buffer, start: number, key: Uint8Array, fingerprint: Uint8Array): number {
  const at = buffer.writeUInt32LE(key.length, start)
  buffer.set(fingerprint, at)
  buffer.set(key, at + FINGERPRINT_BYTES)
  return start + HEAD_BYTES + key.length
}

/** Cuts one stream of entries into `FAN_OUT` runs. One `add` at a time. */
export class RunCutter {
  readonly #files: RunFile[] = []
  readonly #shift: number

  /** `depth`: how often what comes has been cut already. */
  constructor(directory: string, name: string, depth: number) {
    this.#shift = depth * FAN_OUT_BITS
    for (let index = 0; index < FAN_OUT; index++)
      this.#files.push(new RunFile(join(directory, `${name}-${index}`)))
  }

  /** Undefined: done. A promise: wait for it. */
  add(key: Uint8Array, fingerprint: Uint8Array): Promise<void> | undefined {
    const file = this.#files[(murmur2(key) >>> this.#shift) & (FAN_OUT - 1)]
    return file.add(key, fingerprint) ? undefined : file.addLarge(key, fingerprint)
  }

  /** The runs, in an order that is the same for every source. Empty ones have no file. */
  async finish(): Promise<Run[]> {
    for (const file of this.#files) {
      await file.flush()
      await file.close()
    }
    return this.#files.map(({ path, bytes }) => ({ path, bytes }))
  }

  /** Gives the files back after a failure. */
  async abandon(): Promise<void> {
    for (const file of this.#files) await file.close()
  }
}

/** Reads one run after another into the same memory. */
export class RunReader {
  #buffer = Buffer.allocUnsafeSlow(READ_BYTES)

  /** The entries of a run, in order. What `visit` is given is valid during the call alone; a promise that it gives is waited for. */
  async read(
    { path, bytes }: Run,
    visit: (key: Buffer, fingerprint: Buffer) => Promise<void> | undefined,
  ): Promise<void> {
    if (bytes === 0) return
    const file = await open(path)
    try {
      for (let position = 0, filled = 0; position < bytes || filled > 0; ) {
        const { bytesRead } = await file.read(this.#buffer, filled, this.#buffer.length - filled, position)
        position += bytesRead
        filled += bytesRead
        const buffer = this.#buffer
        let at = 0
        while (filled - at >= HEAD_BYTES) {
          const end = at + HEAD_BYTES + buffer.readUInt32LE(at)
          if (end > filled) break
          const waiting = visit(
            buffer.subarray(at + HEAD_BYTES, end),
            buffer.subarray(at + 4, at + HEAD_BYTES),
          )
          if (waiting !== undefined) await waiting
          at = end
        }
        assert(at > 0 || bytesRead > 0, `${path} ends within an entry`)
        if (at === 0 && filled === buffer.length) this.#grow()
        else buffer.copyWithin(0, at, filled)
        filled -= at
      }
    } finally {
      await file.close()
    }
  }

  /** For a key that is larger than all of it. */
  #grow(): void {
    const larger = Buffer.allocUnsafeSlow(this.#buffer.length * 2)
    this.#buffer.copy(larger)
    this.#buffer = larger
  }
}
