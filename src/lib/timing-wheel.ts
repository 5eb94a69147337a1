/**
 * A hierarchical timing wheel: items that wait for a time, in whole milliseconds. Scheduling, cancelling and firing cost the same however many
 * wait and however far away they are.
 *
 *     level 0    64 slots of 1 ms         │ what is due within the 64 ms that the time is in
 *     level 1    64 slots of 64 ms        │ … within the 4 s …
 *     level 5    64 slots of 12 days      │ … within the 2 years
 *     beyond     one list                 │ whatever is later
 *
 * Invariants:
 * - An item is in the lowest level whose turn (64 slots) holds both the time and the item's. So its slot is ahead of the time's slot in that
 *   level, and the first slot that is taken, in the lowest level that has any, is the next.
 * - When the time comes to a slot of a higher level, its items move down. An item moves at most once per level.
 * - Items of the same time fire in the order in which they were scheduled.
 *
 * It holds no timer and no clock: the owner asks `nextAt`, and calls `advance`.
 */

const SLOT_BITS = 6
const SLOTS = 1 << SLOT_BITS
const LEVELS = 6

/** What `schedule` gives, to cancel by. */
export interface Scheduled<T> {
  readonly at: number
  readonly item: T
}

class Entry<T> implements Scheduled<T> {
  readonly at: number
  readonly item: T
  before: Entry<T> | null = null
  after: Entry<T> | null = null
  /** Null once it has fired or was cancelled. */
  slot: Slot<T> | null = null

  constructor(at: number, item: T) {
    this.at = at
    this.item = item
  }
}

class Slot<T> {
  readonly level: Level<T> | null
  readonly index: number
  first: Entry<T> | null = null
  last: Entry<T> | null = null

  constructor(level: Level<T> | null, index: number) {
    this.level = level
    this.index = index
  }

  push(entry: Entry<T>): void {
    entry.slot = this
    entry.before = this.last
    entry.after = null
    if (this.last === null) this.first = entry
    else this.last.after = entry
    this.last = entry
    this.level?.mark(this.index)
  }

  remove(entry: Entry<T>): void {
    if (entry.before === null) this.first = entry.after
    else entry.before.after = entry.after
    if (entry.after === null) this.last = entry.before
    else entry.after.before = entry.before
    entry.slot = null
    if (this.first === null) this.level?.clear(this.index)
  }

  /** Empties it, and gives the first of what was in it; the others hang on it. */
  takeAll(): Entry<T> | null {
    const { first } = this
    this.first = null
    this.last = null
    this.level?.clear(this.index)
    return first
  }
}

class Level<T> {
  /** How long a slot is. */
  readonly ms: number
  readonly slots: readonly Slot<T>[]
  // which slots are taken, as bits
  #low = 0
  #high = 0

  constructor(ms: number) {
    this.ms = ms
    this.slots = Array.from({ length: SLOTS }, (_, index) => new Slot<T>(this, index))
  }

  mark(index: number): void {
    if (index < 32) this.#low |= 1 << index
    else this.#high |= 1 << (index - 32)
  }

  clear(index: number): void {
    if (index < 32) this.#low &= ~(1 << index)
    else this.#high &= ~(1 << (index - 32))
  }

  /** The first slot that is taken, or -1. */
  first(): number {
    if (this.#low !== 0) return 31 - Math.clz32(this.#low & -this.#low)
    if (this.#high !== 0) return 63 - Math.clz32(this.#high & -this.#high)
    return -1
  }
}

export class TimingWheel<T> {
  readonly #levels: readonly Level<T>[]
  /** Due already when it was scheduled. */
  readonly #due = new Slot<T>(null, 0)
  readonly #beyond = new Slot<T>(null, 0)
  #time: number
  #size = 0

  /** `now`: the time that it begins at. */
  constructor(now: number) {
    this.#time = Math.floor(now)
    this.#levels = Array.from({ length: LEVELS }, (_, level) => new Level<T>(SLOTS ** level))
  }

  /** How many wait. */
  get size(): number {
    return this.#size
  }

  /** The item fires with the first `advance` to `at` or later; with the next one if `at` is over. */
  schedule(at: number, item: T): Scheduled<T> {
    const entry = new Entry(Math.ceil(at), item)
    this.#size++
    if (entry.at <= this.#time) this.#due.push(entry)
    else this.#place(entry)
    return entry
  }

  /** False if it has fired or was cancelled before. */
  cancel(scheduled: Scheduled<T>): boolean {
    const entry = scheduled as Entry<T>
    if (entry.slot === null) return false
    entry.slot.remove(entry)
    this.#size--
    return true
  }

  /** When to call `advance` next: not after the first item is due. Null if none waits. */
  nextAt(): number | null {
    if (this.#due.first !== null) return this.#time
    return this.#nextSlot()?.at ?? null
  }

  /**
   * Fires what is due by `now`, in the order of due times. `fire` may schedule and cancel; what it schedules for a time that is over waits for the
   * next call. A time before that of the last call fires only what was due when it was scheduled.
   */
  advance(now: number, fire: (item: T) => void): void {
    // What `fire` adds to it stays for the next call: otherwise it might never end.
    const { last } = this.#due
    while (last?.slot === this.#due) this.#fire(this.#due.first as Entry<T>, fire)
    for (let next = this.#nextSlot(); next !== null && next.at <= now; next = this.#nextSlot()) {
      this.#time = next.at
      if (next.slot.level === this.#levels[0]) {
        for (let { first } = next.slot; first !== null; first = next.slot.first) this.#fire(first, fire)
      } else this.#moveDown(next.slot)
    }
    this.#time = Math.max(this.#time, Math.floor(now))
  }

  #nextSlot(): { readonly at: number; readonly slot: Slot<T> } | null {
    for (const level of this.#levels) {
      const index = level.first()
      if (index >= 0) return { at: this.#turnOf(level) + index * level.ms, slot: level.slots[index] }
    }
    if (this.#beyond.first === null) return null
    const top = this.#levels[LEVELS - 1]
    return { at: this.#turnOf(top) + top.ms * SLOTS, slot: this.#beyond }
  }

  #fire(entry: Entry<T>, fire: (item: T) => void): void {
    entry.slot?.remove(entry)
    this.#size--
    fire(entry.item)
  }

  #moveDown(slot: Slot<T>): void {
    // what is still beyond comes back into the same list
    for (let entry = slot.takeAll(); entry !== null; ) {
      const { after } = entry
      this.#place(entry)
      entry = after
    }
  }

  #place(entry: Entry<T>): void {
    for (const level of this.#levels) {
      const turnMs = level.ms * SLOTS
      if (Math.floor(entry.at / turnMs) !== Math.floor(this.#time / turnMs)) continue
      level.slots[Math.floor(entry.at / level.ms) % SLOTS].push(entry)
      return
    }
    this.#beyond.push(entry)
  }

  /** When the turn of a level began that the time is in. */
  #turnOf(level: Level<T>): number {
    const turnMs = level.ms * SLOTS
    return Math.floor(this.#time / turnMs) * turnMs
  }
}
