/**
 * The messages that a relay has in hand, as rows of a table: where each lies in what was fetched, and when it is due.
 *
 *     row       lane   page   offset   dueAt   key at, bytes   value at, bytes   headers at, number
 *     0         ·      0      1017     …250    70, 5           76, 100           177, 3
 *     1         ·      0      1018     …250    …
 *     2         – free –                               page 0: the fetched bytes, kept as long as a row lies in them
 *
 * Columns, not objects: ten thousand messages a second that wait for a second each would be what the garbage collector does nothing but move about.
 */

import type { RecordPlace } from '../record/cursor.ts'
import { Message, type MessageSource } from './message.ts'

interface Page<Lane> {
  readonly lane: Lane
  readonly source: MessageSource
  readonly bytes: Buffer
  rows: number
}

const ROWS_INITIAL = 256
/** Columns of `#numbers`, which are 32 bits. */
const PAGE = 0
const KEY_START = 1
const KEY_BYTES = 2
const VALUE_START = 3
const VALUE_BYTES = 4
const HEADERS_START = 5
const HEADER_COUNT = 6
const NUMBERS = 7
/** Columns of `#times`. */
const OFFSET = 0
const TIMESTAMP = 1
const DUE_AT = 2
const TIMES = 3

/** `Lane`: where messages come from. */
export class InHand<Lane> {
  #numbers = new Int32Array(ROWS_INITIAL * NUMBERS)
  #times = new Float64Array(ROWS_INITIAL * TIMES)
  /** Rows that are free, below `#end`. */
  readonly #free: number[] = []
  #end = 0
  readonly #pages: (Page<Lane> | null)[] = []
  readonly #freePages: number[] = []
  #lastPage = -1

  /** How many stretches of fetched bytes are kept. */
  get pages(): number {
    return this.#pages.length - this.#freePages.length
  }

  /** Takes the record; gives its row. */
  add(lane: Lane, source: MessageSource, record: RecordPlace, dueAt: number): number {
    const row = this.#free.pop() ?? this.#end++
    if ((row + 1) * NUMBERS > this.#numbers.length) this.#grow()
    const number = row * NUMBERS
    this.#numbers[number + PAGE] = this.#pageOf(lane, source, record.bytes)
    this.#numbers[number + KEY_START] = record.keyStart
    this.#numbers[number + KEY_BYTES] = record.keyBytes
    this.#numbers[number + VALUE_START] = record.valueStart
    this.#numbers[number + VALUE_BYTES] = record.valueBytes
    this.#numbers[number + HEADERS_START] = record.headersStart
    this.#numbers[number + HEADER_COUNT] = record.headerCount
    const time = row * TIMES
    this.#times[time + OFFSET] = record.offset
    this.#times[time + TIMESTAMP] = record.timestamp
    this.#times[time + DUE_AT] = dueAt
    return row
  }

  /** The row is free again. */
  remove(row: number): void {
    const index = this.#numbers[row * NUMBERS + PAGE]
    const page = this.#page(row)
    this.#free.push(row)
    if (--page.rows > 0) return
    this.#pages[index] = null
    this.#freePages.push(index)
  }

  lane(row: number): Lane {
    return this.#page(row).lane
  }

  offset(row: number): number {
    return this.#times[row * TIMES + OFFSET]
  }

  dueAt(row: number): number {
    return this.#times[row * TIMES + DUE_AT]
  }

  message(row: number): Message<unknown, unknown> {
    const number = row * NUMBERS
    const time = row * TIMES
    const { source, bytes } = this.#page(row)
    return new Message(source, {
      bytes,
      offset: this.#times[time + OFFSET],
      timestamp: this.#times[time + TIMESTAMP],
      keyStart: this.#numbers[number + KEY_START],
      keyBytes: this.#numbers[number + KEY_BYTES],
      valueStart: this.#numbers[number + VALUE_START],
      valueBytes: this.#numbers[number + VALUE_BYTES],
      headersStart: this.#numbers[number + HEADERS_START],
      headerCount: this.#numbers[number + HEADER_COUNT],
    })
  }

  #page(row: number): Page<Lane> {
    return this.#pages[this.#numbers[row * NUMBERS + PAGE]] as Page<Lane>
  }

  /** Records come in the order in which they lie in what was fetched: mostly it is the page before. */
  #pageOf(lane: Lane, source: MessageSource, bytes: Buffer): number {
    const last = this.#pages[this.#lastPage]
    if (last?.bytes === bytes && last.lane === lane) {
      last.rows++
      return this.#lastPage
    }
    this.#lastPage = this.#freePages.pop() ?? this.#pages.length
    this.#pages[this.#lastPage] = { lane, source, bytes, rows: 1 }
    return this.#lastPage
  }

  #grow(): void {
    const numbers = new Int32Array(this.#numbers.length * 2)
    numbers.set(this.#numbers)
    this.#numbers = numbers
    const times = new Float64Array(this.#times.length * 2)
    times.set(this.#times)
    this.#times = times
  }
}
