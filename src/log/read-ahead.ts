/**
 * Reading ahead: who reads a segment from one piece to the next finds the next one in memory, or on its way, when he asks for it. Without it
 * a consumer that asks for one piece at a time waits for the disk between any two. Its checksums are compared when it comes, too, and not
 * while somebody waits.
 *
 * All logs together have so many bytes. Where there is no room nothing is read ahead, rather than in place of what somebody else is about to ask
 * for: with more readers than room each piece would be read twice. A piece that nobody has come for goes when room is needed and many
 * others have been asked for since.
 */

import { DiskError } from '../lib/disk.ts'
import { asBuffer } from '../record/batch.ts'
import type { Segment } from './segment.ts'
import { areSound } from './select.ts'

interface Piece {
  readonly segment: Segment
  readonly position: number
  readonly asked: number
  readonly bytes: Promise<Uint8Array>
  /** What `#turn` was when it was begun. */
  readonly turn: number
}

const BYTES_MAX = 8 * 1024 * 1024
const PIECES_MAX = 64
/** Pieces that are asked for, whoever by, until one is given up. */
const TURNS_MAX = 256

export class ReadAhead {
  /** In the order in which they were begun. */
  readonly #pieces: Piece[] = []
  readonly #bytesMax: number
  readonly #checked = new WeakSet<Uint8Array>()
  #bytes = 0
  #turn = 0

  constructor(bytesMax = BYTES_MAX) {
    this.#bytesMax = bytesMax
  }

  /** Bytes that are held, or being read. */
  get bytes(): number {
    return this.#bytes
  }

  /** Begins to read a piece, which must be there as a whole, if there is room. What is in memory anyway is not held. */
  begin(segment: Segment, position: number, bytes: number): void {
    if (!this.#hasRoomFor(bytes) || this.#find(segment, position) !== undefined) return
    try {
      const read = segment.file.read(position, bytes)
      if (!(read instanceof Promise)) return
      const checked = read.then(found => {
        if (areSound(asBuffer(found))) this.#checked.add(found)
        return found
      })
      const piece = { segment, position, asked: bytes, bytes: checked, turn: this.#turn }
      checked.catch(() => this.#drop(piece)) // whoever comes reads by himself, and meets the same
      this.#pieces.push(piece)
      this.#bytes += bytes
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
    }
  }

  /** The piece that begins at `position`, if it has as many bytes; null otherwise. It is forgotten here: its memory is the caller's. */
  take(segment: Segment, position: number, bytes: number): Promise<Uint8Array> | null {
    this.#turn++
    const piece = this.#find(segment, position)
    if (piece === undefined) return null
    this.#drop(piece)
    return piece.asked === bytes ? piece.bytes : null
  }

  /** Whether the checksums of all batches in a piece, as far as it holds the whole of them, are known to be right. */
  isChecked(bytes: Uint8Array): boolean {
    return this.#checked.has(bytes)
  }

  #hasRoomFor(bytes: number): boolean {
    const isFull = (): boolean => this.#bytes + bytes > this.#bytesMax || this.#pieces.length >= PIECES_MAX
    while (isFull() && this.#pieces.length > 0 && this.#turn - this.#pieces[0].turn > TURNS_MAX)
      this.#drop(this.#pieces[0])
    return !isFull()
  }

  #find(segment: Segment, position: number): Piece | undefined {
    return this.#pieces.find(piece => piece.segment === segment && piece.position === position)
  }

  #drop(piece: Piece): void {
    const index = this.#pieces.indexOf(piece)
    if (index < 0) return
    this.#pieces.splice(index, 1)
    this.#bytes -= piece.asked
  }
}
