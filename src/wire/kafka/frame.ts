/**
 * What surrounds the messages on a connection: sizes and headers.
 *
 *     request    size int32 │ api key int16 │ version int16 │ correlation id int32 │ client id string │ [tagged fields] │ body
 *     response   size int32 │ correlation id int32 │ [tagged fields] │ body
 *
 * The size counts what follows it. The client id is in the legacy encoding always. Headers have tagged fields where the
 * body is flexible, but for the response of ApiVersions: a client must be able to read that before it knows anything.
 *
 * A frame that claims to be larger than allowed is refused when its size is seen. Memory for a frame grows with the bytes
 * that have come, not with what its size claims.
 */

import assert from 'node:assert/strict'
import { SluiceError } from '../../errors.ts'
import { ByteReader, ByteWriter } from '../../lib/bytes.ts'
import { decode, encode } from './codec.ts'
import type { Api, Decoded, Encodable, Fields } from './schema.ts'

/** Largest request, in bytes, unless the server says otherwise: Kafka's `socket.request.max.bytes`. */
export const REQUEST_BYTES_MAX = 100 * 1024 * 1024

const API_VERSIONS = 18
const SIZE_BYTES = 4
/** What is set aside at once for a frame that comes in pieces. */
const FRAME_CAPACITY = 1024 * 1024
const EMPTY = Buffer.alloc(0)

export interface RequestHeader {
  readonly apiKey: number
  readonly apiVersion: number
  readonly correlationId: number
  readonly clientId: string | null
}

/** Bytes to send, in order. Long records among them are the caller's own, not a copy. */
export interface Frame {
  readonly parts: Uint8Array[]
  /** The length of all parts. */
  readonly bytes: number
}

/**
 * Reads the header of a request (without its size), as far as it is the same in all versions.
 * Throws `MALFORMED_REQUEST`.
 */
export function decodeRequestHeader(reader: ByteReader): RequestHeader {
  reader.subject = 'request header'
  reader.part = 'fixed part'
  const apiKey = reader.int16()
  const apiVersion = reader.int16()
  const correlationId = reader.int32()
  reader.part = 'client id'
  const bytes = reader.int16()
  return { apiKey, apiVersion, correlationId, clientId: bytes < 0 ? null : reader.utf8(bytes) }
}

/** Reads the body that follows the header. The version must be one that the API has. Throws `MALFORMED_REQUEST`. */
export function decodeRequestBody<Request extends Fields>(
  api: Api<Request>,
  version: number,
  reader: ByteReader,
): Decoded<Request> {
  if (version >= api.flexibleFrom) skipTags(reader)
  return decode(api.request, version, reader)
}

/** A whole response, size and header included. */
export function encodeResponse<Request extends Fields, Response extends Fields>(
  api: Api<Request, Response>,
  version: number,
  correlationId: number,
  body: Encodable<Response>,
): Frame {
  const writer = new ByteWriter()
  writer.int32(0)
  writer.int32(correlationId)
  if (hasResponseTags(api, version)) writer.uvarint(0)
  encode(api.response, version, writer, body)
  writer.patchInt32(0, writer.bytes - SIZE_BYTES)
  return writer.finish()
}

/** A whole request: what a client sends. */
export function encodeRequest<Request extends Fields>(
  api: Api<Request>,
  version: number,
  correlationId: number,
  clientId: string | null,
  body: Encodable<Request>,
): Frame {
  const writer = new ByteWriter()
  writer.int32(0)
  writer.int16(api.key)
  writer.int16(version)
  writer.int32(correlationId)
  if (clientId === null) writer.int16(-1)
  else writer.string16(clientId)
  if (version >= api.flexibleFrom) writer.uvarint(0)
  encode(api.request, version, writer, body)
  writer.patchInt32(0, writer.bytes - SIZE_BYTES)
  return writer.finish()
}

/** Reads a response, without its size, as a client does. Throws `MALFORMED_REQUEST`. */
export function decodeResponse<Request extends Fields, Response extends Fields>(
  api: Api<Request, Response>,
  version: number,
  bytes: Buffer,
): { correlationId: number; body: Decoded<Response> } {
  const reader = new ByteReader(bytes)
  reader.subject = 'response header'
  const correlationId = reader.int32()
  if (hasResponseTags(api, version)) skipTags(reader)
  return { correlationId, body: decode(api.response, version, reader) }
}

function hasResponseTags(api: Api, version: number): boolean {
  return version >= api.flexibleFrom && api.key !== API_VERSIONS
}

function skipTags(reader: ByteReader): void {
  reader.part = 'tagged fields'
  const count = reader.elements(reader.uvarint(), 2)
  for (let i = 0; i < count; i++) {
    reader.uvarint()
    reader.skip(reader.uvarint())
  }
}

/**
 * Cuts what comes in on a connection into frames.
 *
 *     const splitter = new FrameSplitter(limits.requestBytesMax)
 *     socket.on('data', chunk => {
 *       splitter.push(chunk)
 *       for (let frame = splitter.next(); frame !== null; frame = splitter.next()) handle(frame)
 *     })
 *
 * A frame that lies within one chunk is a view of it; one that came in pieces is copied together, once if it is not larger
 * than 1 MiB.
 */
export class FrameSplitter {
  /** Largest frame, without its size. May be changed while no frame is being put together. */
  bytesMax: number
  #chunk: Buffer = EMPTY
  /** Position in the chunk. */
  #at = 0
  /** The size of the current frame, as far as its bytes have come. */
  #size = 0
  #sizeBytes = 0
  /** The current frame, if it came in pieces. */
  #memory: Buffer | null = null
  #filled = 0

  /** `bytesMax` defaults to `REQUEST_BYTES_MAX`. */
  constructor(bytesMax = REQUEST_BYTES_MAX) {
    this.bytesMax = bytesMax
  }

  /** Bytes held of a frame that is not complete. */
  get pendingBytes(): number {
    return this.#filled
  }

  /** Takes the next bytes; `next` must have said null before. */
  push(chunk: Buffer): void {
    assert(this.#at === this.#chunk.length)
    this.#chunk = chunk
    this.#at = 0
  }

  /**
   * The next frame, without its size; null if more bytes are needed. Throws `MALFORMED_REQUEST` if its size is out of
   * range: nothing that follows could be read then.
   */
  next(): Buffer | null {
    const chunk = this.#chunk
    while (this.#at < chunk.length) {
      if (this.#sizeBytes < SIZE_BYTES) {
        this.#size = (this.#size << 8) | chunk[this.#at++]
        if (++this.#sizeBytes === SIZE_BYTES) this.#checkSize()
        continue
      }
      const frame = this.#memory === null ? this.#cut() : this.#fill(this.#memory)
      if (frame === null) continue
      this.#size = 0
      this.#sizeBytes = 0
      this.#memory = null
      this.#filled = 0
      return frame
    }
    // The bytes are not held on to: who pushed them may give their memory back.
    this.#chunk = EMPTY
    this.#at = 0
    return null
  }

  #checkSize(): void {
    if (this.#size > 0 && this.#size <= this.bytesMax) return
    throw new SluiceError(
      'MALFORMED_REQUEST',
      `malformed request: a size of ${this.#size} bytes, between 1 and ${this.bytesMax} may be`,
      { bytes: this.#size, bytesMax: this.bytesMax },
    )
  }

  #cut(): Buffer | null {
    const start = this.#at
    const end = start + this.#size
    if (end <= this.#chunk.length) {
      this.#at = end
      return this.#chunk.subarray(start, end)
    }
    return this.#fill(Buffer.allocUnsafeSlow(Math.min(this.#size, FRAME_CAPACITY)))
  }

  #fill(memory: Buffer): Buffer | null {
    const end = Math.min(this.#chunk.length, this.#at + this.#size - this.#filled)
    const filled = this.#filled + end - this.#at
    if (filled > memory.length) {
      const larger = Buffer.allocUnsafeSlow(Math.min(this.#size, Math.max(filled, memory.length * 2)))
      memory.copy(larger, 0, 0, this.#filled)
      memory = larger
    }
    this.#chunk.copy(memory, this.#filled, this.#at, end)
    this.#memory = memory
    this.#filled = filled
    this.#at = end
    return filled === this.#size ? memory : null
  }
}
