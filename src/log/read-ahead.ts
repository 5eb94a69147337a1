/**
 * Reading ahead: who reads a segment from one piece to the next finds the next one in memory, or on its way, when he asks for it. Without it
 * a consumer that asks for one piece at a time waits for the disk between any two.
 *
 * One piece of a segment at a time, and so many bytes for all logs together: the piece that was begun first goes first. A piece that nobody
 * comes for costs one read and its memory until then.
 */

import type { Segment } from './segment.ts'

interface Piece {
  readonly position: number
  readonly asked: number
  readonly bytes: Promise<Uint8Array>
}

const BYTES_MAX = 8 * 1024 * 1024

export class ReadAhead {
  /** In the order in which they were begun. */
  readonly #pieces = new Map<Segment, Piece>()
  readonly #bytesMax: number
  #bytes = 0

  constructor(bytesMax = BYTES_MAX) {
    this.#bytesMax = bytesMax
  }

  /** Bytes that are held, or being read. */
  get bytes(): number {
    return this.#bytes
  }

  /** Begins to read a piece, which must be there as a whole. What is in memory anyway is not held. */
  begin(segment: Segment, position: number, bytes: number): void {
    this.#drop(segment)
    if (bytes > this.#bytesMax) return
    const read = segment.file.read(position, bytes)
    if (!(read instanceof Promise)) return
    const piece = { position, asked: bytes, bytes: read }
    // Whoever comes reads by himself then, and meets the same.
    read.catch(() => this.#pieces.get(segment) === piece && this.#drop(segment))
    this.#pieces.set(segment, piece)
    this.#bytes += bytes
    while (this.#bytes > this.#bytesMax) this.#drop(this.#pieces.keys().next().value!)
  }

  /** The piece that begins at `position`, if it has as many bytes; null otherwise. It is forgotten here. */
  take(segment: Segment, position: number, bytes: number): Promise<Uint8Array> | null {
    const piece = this.#pieces.get(segment)
    if (piece === undefined || piece.position !== position || piece.asked !== bytes) return null
    this.#drop(segment)
    return piece.bytes
  }

  #drop(segment: Segment): void {
    const piece = this.#pieces.get(segment)
    if (piece === undefined) return
    this.#pieces.delete(segment)
    this.#bytes -= piece.asked
  }
}
