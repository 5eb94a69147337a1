/**
 * A hierarchical timing wheel: what waits for a time, in whole milliseconds. Scheduling and firing cost the same however many wait and however far
 * away they are.
 *
 *     level 0    64 slots of 1 ms         │ what is due within the 64 ms that the time is in
 *     level 1    64 slots of 64 ms        │ … within the 4 s …
 *     level 5    64 slots of 12 days      │ … within the 2 years
 *     beyond     one list                 │ whatever is later
 *
 * What waits is a number, the row that its owner has in a table of its own. So the wheel is columns, too: nothing is allocated for what is
 * scheduled, and nothing moved about by the garbage collector while it waits.
 *
 *     row     0     1     2     3
 *     at      1250  –     1251  1250
 *     after   3     –     -1    -1         slot 1250: first 0, last 3
 *
 * Invariants:
 * - A row is in the lowest level whose turn (64 slots) holds both the time and the row's. So its slot is ahead of the time's slot in that level,
 *   and the first slot that is taken, in the lowest level that has any, is the next.
 * - When the time comes to a slot of a higher level, its rows move down. A row moves at most once per level.
 * - Rows of the same time fire in the order in which they were scheduled.
 *
 * It holds no timer and no clock: the owner asks `nextAt`, and calls `advance`.
 */

const SLOT_BITS = 6
const SLOTS = 1 << SLOT_BITS
const LEVELS = 6
/** Beside the slots of the levels: what was due already when it was scheduled, and what is beyond the last level. */
const DUE = LEVELS * SLOTS
const BEYOND = DUE + 1
const ROWS_INITIAL = 256
const NONE = -1

/** How long a slot of a level is. */
const slotMs = Array.from({ length: LEVELS }, (_, level) => SLOTS ** level)

export class TimingWheel {
  #at = new Float64Array(ROWS_INITIAL)
  /** The row behind it in its slot. */
  #after = new Int32Array(ROWS_INITIAL)
  readonly #first = new Int32Array(BEYOND + 1).fill(NONE)
  readonly #last = new Int32Array(BEYOND + 1).fill(NONE)
  /** Which slots of a level are taken, as bits: the low 32, the high 32. */
  readonly #taken = new Int32Array(LEVELS * 2)
  #time: number
  #size = 0

  /** `now`: the time that it begins at. */
  constructor(now: number) {
    this.#time = Math.floor(now)
  }

  /** How many wait. */
  get size(): number {
    return this.#size
  }

  /** Where it is: not before the time of the last `advance`. */
  get time(): number {
    return this.#time
  }

  /** The clock was set back: what waits does so by the time that it shows now. */
  turnBack(now: number): void {
    const rows: number[] = []
    for (const [slot, first] of this.#first.entries()) {
      for (let row = first; row !== NONE; row = this.#after[row]) rows.push(row)
      this.#empty(slot)
    }
    this.#time = Math.floor(now)
    this.#size = 0
    // a stable sort: those of the same time stay in their order
    for (const row of [...rows].sort((one, other) => this.#at[one] - this.#at[other])) {
      this.schedule(this.#at[row], row)
    }
  }

  /** The row, which does not wait now, fires with the first `advance` to `at` or later; with the next one if `at` is over. */
  schedule(at: number, row: number): void {
    if (row >= this.#at.length) this.#grow(row)
    const due = Math.ceil(at)
    this.#at[row] = due
    this.#size++
    if (due <= this.#time) this.#push(DUE, row)
    else this.#place(row)
  }

  /** When to call `advance` next: not after the first row is due. Null if none waits. */
  nextAt(): number | null {
    if (this.#first[DUE] !== NONE) return this.#time
    const slot = this.#nextSlot()
    return slot === NONE ? null : this.#atOf(slot)
  }

  /**
   * Fires what is due by `now`, in the order of due times. `fire` may schedule; what it schedules for a time that is over waits for the next call.
   * A time before that of the last call fires only what was due when it was scheduled.
   */
  advance(now: number, fire: (row: number) => void): void {
    // What `fire` adds to it stays for the next call: otherwise it might never end.
    const last = this.#last[DUE]
    for (let row = NONE; row !== last; ) {
      row = this.#shift(DUE)
      fire(row)
    }
    for (let slot = this.#nextSlot(); slot !== NONE; slot = this.#nextSlot()) {
      const at = this.#atOf(slot)
      if (at > now) break
      this.#time = at
      if (slot >= SLOTS) this.#moveDown(slot)
      else while (this.#first[slot] !== NONE) fire(this.#shift(slot))
    }
    this.#time = Math.max(this.#time, Math.floor(now))
  }

  /** The slot whose time comes next; `NONE` if nothing waits but what is due. */
  #nextSlot(): number {
    for (let level = 0; level < LEVELS; level++) {
      const low = this.#taken[level * 2]
      const high = this.#taken[level * 2 + 1]
      if (low !== 0) return level * SLOTS + 31 - Math.clz32(low & -low)
      if (high !== 0) return level * SLOTS + 63 - Math.clz32(high & -high)
    }
    return this.#first[BEYOND] === NONE ? NONE : BEYOND
  }

  #atOf(slot: number): number {
    if (slot === BEYOND) return this.#turnOf(LEVELS - 1) + slotMs[LEVELS - 1] * SLOTS
    const level = slot >> SLOT_BITS
    return this.#turnOf(level) + (slot % SLOTS) * slotMs[level]
  }

  #moveDown(slot: number): void {
    let row = this.#first[slot]
    this.#empty(slot)
    // what is still beyond comes back into the same list
    while (row !== NONE) {
      const after = this.#after[row]
      this.#place(row)
      row = after
    }
  }

  #place(row: number): void {
    const at = this.#at[row]
    for (let level = 0; level < LEVELS; level++) {
      const turnMs = slotMs[level] * SLOTS
      if (Math.floor(at / turnMs) !== Math.floor(this.#time / turnMs)) continue
      this.#push(level * SLOTS + (Math.floor(at / slotMs[level]) % SLOTS), row)
      return
    }
    this.#push(BEYOND, row)
  }

  #push(slot: number, row: number): void {
    const last = this.#last[slot]
    this.#after[row] = NONE
    this.#last[slot] = row
    if (last !== NONE) this.#after[last] = row
    else {
      this.#first[slot] = row
      if (slot < DUE) this.#taken[slot >> 5] |= 1 << (slot % 32)
    }
  }

  #shift(slot: number): number {
    const row = this.#first[slot]
    const after = this.#after[row]
    if (after === NONE) this.#empty(slot)
    else this.#first[slot] = after
    this.#size--
    return row
  }

  #empty(slot: number): void {
    this.#first[slot] = NONE
    this.#last[slot] = NONE
    if (slot < DUE) this.#taken[slot >> 5] &= ~(1 << (slot % 32))
  }

  /** When the turn of a level began that the time is in. */
  #turnOf(level: number): number {
    const turnMs = slotMs[level] * SLOTS
    return Math.floor(this.#time / turnMs) * turnMs
  }

  #grow(row: number): void {
    const rows = Math.max(row + 1, this.#at.length * 2)
    const at = new Float64Array(rows)
    at.set(this.#at)
    this.#at = at
    const after = new Int32Array(rows)
    after.set(this.#after)
    this.#after = after
  }
}
