/**
 * What of a partition has been handed out and is not finished, for those who complete messages one by one: workers, queues, relays.
 *
 *     offsets     40  41  42  43  44  45  46  47  48 │ 49 …
 *                 ✓   ·   ✓   ✓   ·   ·   ✓   ✓   ✓  │          ✓ finished (or no message)   · unfinished
 *                     ▲                              ▲
 *                  offset (committed)               next
 *
 *     metadata = how far next is from offset, and which offsets between are unfinished
 *
 * Invariants:
 * - `offset` is the lowest unfinished offset, or `next`. It never goes back.
 * - What is not listed between `offset` and `next` is finished. Offsets without a message (compacted, markers of transactions) need no
 *   care: nobody begins them.
 * - `metadata()` fits into what a commit takes (4,096 characters), as long as nothing was begun without `hasRoomFor`.
 *
 * The unfinished offsets are written in the shorter of two forms: as pairs of run lengths, which is short when few of many are unfinished,
 * or as a bitmap, which is short when they are many and close together.
 *
 *     metadata: '1' + base64url( form, next - offset, body, notes )        numbers: unsigned LEB128
 *     runs      number of pairs; for each: finished offsets passed over, unfinished offsets that follow
 *     bitmap    number of bytes; bit i of them, lowest first: offset + i is unfinished
 *     notes     number of notes; for each: distance from the one before, attempts, first failure (ms since 1970), due after that
 */

import { SluiceError } from '../errors.ts'

/** What is remembered of a message that waits for another attempt. */
export interface LedgerNote {
  /** How often it has failed, or has been asked about. */
  readonly attempts: number
  /** When it failed first, milliseconds since the Unix epoch. */
  readonly firstAt: number
  /** When it is tried again, milliseconds since the Unix epoch; not before `firstAt`. */
  readonly dueAt: number
}

/** Messages with a note, at most. */
export const NOTES_MAX = 40
/** So many offsets from the first unfinished to the last fit as a bitmap, whatever is finished of them. */
const SPAN_MAX = 16_000
/** So many unfinished ones fit as runs, whatever lies between. */
const UNFINISHED_MAX = 400
const METADATA_VERSION = '1'
const RUNS = 0
const BITMAP = 1
/** What a commit takes: Kafka's `offset.metadata.max.bytes`. */
const METADATA_CHARS_MAX = 4_096

export class Ledger {
  /** In ascending order, which is the order in which a Map keeps what is added in ascending order. */
  readonly #unfinished = new Map<number, LedgerNote | null>()
  /** Unfinished ones of an earlier owner that have not been handed out again. In ascending order. */
  readonly #restored = new Set<number>()
  #restoredEnd: number
  #next: number
  #noted = 0

  /** `offset`: the committed one. `metadata` that was not written by a ledger, or by a newer one, is taken as none. */
  constructor(offset: number, metadata = '') {
    this.#next = offset
    this.#restoredEnd = offset
    if (metadata.startsWith(METADATA_VERSION)) this.#restore(offset, metadata)
  }

  /** Everything before it is finished. What a commit says. */
  get offset(): number {
    for (const offset of this.#unfinished.keys()) return offset
    return this.#next
  }

  /** Everything from here on has not been handed out. */
  get next(): number {
    return this.#next
  }

  /** How many are handed out, or are to be handed out again, and not finished. */
  get unfinished(): number {
    return this.#unfinished.size
  }

  /** How many have a note. */
  get noted(): number {
    return this.#noted
  }

  /** Whether this one can be begun, too, and all of it still fits into a commit. */
  hasRoomFor(offset: number): boolean {
    return this.#unfinished.size < UNFINISHED_MAX || offset - this.offset < SPAN_MAX
  }

  /**
   * Takes note that a message is handed out. Messages are begun in the order of their offsets. False: it was finished before, by an earlier
   * owner of the partition; it is not to be handed out.
   */
  begin(offset: number): boolean {
    if (this.#restored.size > 0) this.#forgetRestored(offset)
    if (offset < this.#restoredEnd) return this.#restored.delete(offset)
    if (offset < this.#next) return false
    this.#unfinished.set(offset, null)
    this.#next = offset + 1
    return true
  }

  /** Everything before `next` has been read: what was not begun holds no message (any more). */
  pass(next: number): void {
    if (this.#restored.size > 0) this.#forgetRestored(next)
    if (next > this.#next) this.#next = next
  }

  /** The message is done. Finishing twice does nothing; returns whether it was unfinished. */
  finish(offset: number): boolean {
    if (this.#noted > 0) this.note(offset, null)
    return this.#unfinished.delete(offset)
  }

  /** Takes `finish` back, because what went with it did not come about and nothing of it was committed. Rare, and slow. */
  reopen(offsets: readonly number[]): void {
    const entries = [...this.#unfinished, ...offsets.map(offset => [offset, null] as const)]
    this.#unfinished.clear()
    for (const [offset, note] of entries.toSorted(([one], [other]) => one - other)) {
      this.#unfinished.set(offset, note)
    }
  }

  isUnfinished(offset: number): boolean {
    return this.#unfinished.has(offset)
  }

  noteOf(offset: number): LedgerNote | null {
    return this.#unfinished.get(offset) ?? null
  }

  /** Remembers something about an unfinished message, or forgets it. False if there are `NOTES_MAX` already. */
  note(offset: number, note: LedgerNote | null): boolean {
    const before = this.#unfinished.get(offset)
    if (before === undefined) return false
    if (note !== null && before === null && this.#noted >= NOTES_MAX) return false
    this.#noted += Number(note !== null) - Number(before !== null)
    this.#unfinished.set(offset, note)
    return true
  }

  /** Offsets that are unfinished, in ascending order. */
  offsets(): Iterable<number> {
    return this.#unfinished.keys()
  }

  /** What to commit beside `offset`: '' if everything before `next` is finished. */
  metadata(): string {
    if (this.#unfinished.size === 0) return ''
    const offset = this.offset
    const bytes: number[] = []
    const runs = this.#runs(offset)
    const bitmapBytes = Math.floor((this.#last() - offset) / 8) + 1
    if (runs.length <= bitmapBytes) {
      push(bytes, RUNS)
      push(bytes, this.#next - offset)
      for (const byte of runs) bytes.push(byte)
    } else {
      push(bytes, BITMAP)
      push(bytes, this.#next - offset)
      push(bytes, bitmapBytes)
      for (const byte of this.#bitmap(offset, bitmapBytes)) bytes.push(byte)
    }
    this.#pushNotes(bytes, offset)
    const text = METADATA_VERSION + Buffer.from(bytes).toString('base64url')
    if (text.length <= METADATA_CHARS_MAX) return text
    throw new SluiceError(
      'INVALID_ARGUMENT',
      `${this.#unfinished.size} unfinished messages from offset ${offset} on do not fit into a commit; this is a defect of sluice`,
    )
  }

  #last(): number {
    let last = -1
    for (const offset of this.#unfinished.keys()) last = offset
    return last
  }

  #runs(offset: number): number[] {
    const bytes: number[] = []
    let pairs = 0
    let from = offset
    let end = offset
    let runEnd = offset
    for (const unfinished of this.#unfinished.keys()) {
      if (unfinished !== runEnd) {
        pairs++
        push(bytes, from - end)
        push(bytes, runEnd - from)
        end = runEnd
        from = unfinished
      }
      runEnd = unfinished + 1
    }
    push(bytes, from - end)
    push(bytes, runEnd - from)
    const all: number[] = []
    push(all, pairs + 1)
    return all.concat(bytes)
  }

  #bitmap(offset: number, length: number): Uint8Array {
    const bitmap = new Uint8Array(length)
    for (const unfinished of this.#unfinished.keys()) {
      const bit = unfinished - offset
      bitmap[Math.floor(bit / 8)] |= 1 << (bit % 8)
    }
    return bitmap
  }

  #pushNotes(bytes: number[], offset: number): void {
    push(bytes, this.#noted)
    if (this.#noted === 0) return
    let before = offset
    for (const [at, note] of this.#unfinished) {
      if (note === null) continue
      push(bytes, at - before)
      push(bytes, note.attempts)
      push(bytes, note.firstAt)
      push(bytes, Math.max(0, note.dueAt - note.firstAt))
      before = at
    }
  }

  /** All or nothing: half of what a commit says is worth less than none. */
  #restore(offset: number, metadata: string): void {
    const input = { bytes: Buffer.from(metadata.slice(METADATA_VERSION.length), 'base64url'), at: 0 }
    const form = pull(input)
    const next = offset + pull(input)
    const unfinished =
      form === RUNS ? pullRuns(input, offset) : form === BITMAP ? pullBitmap(input, offset) : null
    if (unfinished === null || !Number.isSafeInteger(next)) return
    const notes = pullNotes(input, offset)
    if (notes === null || unfinished.some(at => at >= next)) return
    for (const at of unfinished) {
      const note = notes.get(at) ?? null
      this.#unfinished.set(at, note)
      this.#restored.add(at)
      if (note !== null) this.#noted++
    }
    this.#next = next
    this.#restoredEnd = next
  }

  /** Restored ones below `offset` that were not handed out again are gone from the log. */
  #forgetRestored(offset: number): void {
    for (const restored of this.#restored) {
      if (restored >= offset) return
      this.#restored.delete(restored)
      this.finish(restored)
    }
  }
}

interface Input {
  readonly bytes: Buffer
  at: number
}

function push(bytes: number[], value: number): void {
  let rest = value
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80)
    rest = Math.floor(rest / 0x80)
  }
  bytes.push(rest)
}

/** NaN at the end of the bytes, which makes everything that comes of it NaN. */
function pull(input: Input): number {
  let value = 0
  for (let factor = 1; input.at < input.bytes.length && factor < 2 ** 56; factor *= 0x80) {
    const byte = input.bytes[input.at++]
    value += (byte & 0x7f) * factor
    if (byte < 0x80) return value
  }
  return Number.NaN
}

function pullRuns(input: Input, offset: number): number[] | null {
  const unfinished: number[] = []
  const pairs = pull(input)
  let at = offset
  for (let pair = 0; pair < pairs; pair++) {
    at += pull(input)
    const end = at + pull(input)
    // more than any ledger writes: not one of ours
    if (!(end - at <= SPAN_MAX * 2)) return null
    while (at < end) unfinished.push(at++)
  }
  return Number.isNaN(pairs) ? null : unfinished
}

function pullBitmap(input: Input, offset: number): number[] | null {
  const unfinished: number[] = []
  const length = pull(input)
  if (!(input.at + length <= input.bytes.length)) return null
  for (let bit = 0; bit < length * 8; bit++) {
    const byte = input.bytes[input.at + Math.floor(bit / 8)]
    if ((byte & (1 << (bit % 8))) !== 0) unfinished.push(offset + bit)
  }
  input.at += length
  return unfinished
}

function pullNotes(input: Input, offset: number): Map<number, LedgerNote> | null {
  const notes = new Map<number, LedgerNote>()
  const count = pull(input)
  let at = offset
  for (let index = 0; index < count; index++) {
    at += pull(input)
    const attempts = pull(input)
    const firstAt = pull(input)
    const dueAt = firstAt + pull(input)
    if (!Number.isSafeInteger(dueAt) || !Number.isSafeInteger(at)) return null
    notes.set(at, { attempts, firstAt, dueAt })
  }
  return Number.isNaN(count) ? null : notes
}
