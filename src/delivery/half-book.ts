/**
 * What a relay knows of one partition of half messages: which are undecided, and which decisions have come. Pure: it is told what was read,
 * and says what follows.
 *
 *     half messages   ──▶ prepared ──▶ undecided ──┐
 *                                                  ├──▶ deciding ──▶ settled
 *     decisions       ──▶ decided  ──▶ early ──────┘
 *                                      (its message has not been read yet)
 *
 * Invariants:
 * - A message is decided by the first decision about it in the log, whatever the order in which the two logs are read.
 * - Everything before `place` in the log of decisions is settled or counts for nothing: who begins there misses nothing, and who begins
 *   earlier does nothing twice, because the ledger knows what is finished.
 * - Bounded: undecided messages by the ledger; early decisions by `EARLY_MAX`. What is beyond that is read again later: from the first
 *   decision that was left out on, all decisions about messages from the earliest of those on are left out, so that their order holds.
 */

import type { HalfMessage, HalfOutcome, HalfPolicy } from './half-record.ts'
import type { Ledger } from './ledger.ts'

/** A half message of which no decision is known. */
export interface Undecided {
  readonly id: string
  readonly offset: number
  readonly preparedAt: number
  readonly checker: string | null
  readonly policy: HalfPolicy
  checks: number
  /** When somebody is asked the next time, or it expires. Milliseconds since the Unix epoch. */
  dueAt: number
  /** Somebody is being asked. */
  isBusy: boolean
  /** Null where there was no memory for it. */
  readonly half: HalfMessage | null
}

/** A message that is decided, and how. */
export interface Decided {
  readonly message: Undecided
  readonly outcome: HalfOutcome
}

interface Early {
  readonly outcome: HalfOutcome
  readonly offset: number
  readonly place: number
}

const EARLY_MAX = 100_000

export class HalfBook {
  readonly #ledger: Ledger
  readonly #earlyMax: number
  readonly #undecided = new Map<string, Undecided>()
  /** Where the decision is. */
  readonly #deciding = new Map<string, number>()
  readonly #early = new Map<string, Early>()
  /** Decisions from `place` on about messages from `offset` on are left out. */
  #leftOut: { readonly place: number; readonly offset: number } | null = null
  /** Half messages before it have been read. */
  #read: number
  #position: number

  /** `position`: where reading the decisions begins. */
  constructor(ledger: Ledger, position: number, earlyMax = EARLY_MAX) {
    this.#ledger = ledger
    this.#read = ledger.offset
    this.#position = position
    this.#earlyMax = earlyMax
  }

  get undecided(): number {
    return this.#undecided.size
  }

  /** Decisions before it are of no use any more. */
  get place(): number {
    let place = this.#leftOut?.place ?? this.#position
    for (const [id, early] of this.#early) {
      // no message will come for it: what it was about is gone, or never was
      if (early.offset < this.#read) this.#early.delete(id)
      else place = Math.min(place, early.place)
    }
    for (const at of this.#deciding.values()) place = Math.min(place, at)
    return place
  }

  /** A half message was read, and begun in the ledger. Returns it if it is decided already. */
  prepared(message: Undecided): Decided | null {
    this.#read = message.offset + 1
    const early = this.#early.get(message.id)
    if (early === undefined) {
      this.#undecided.set(message.id, message)
      return null
    }
    this.#early.delete(message.id)
    this.#deciding.set(message.id, early.place)
    return { message, outcome: early.outcome }
  }

  /** Half messages before `next` have been read. */
  passed(next: number): void {
    this.#read = Math.max(this.#read, next)
  }

  /** A decision was read, at `place`. Returns the message if it is decided by it. */
  decided(place: number, id: string, offset: number, outcome: HalfOutcome): Decided | null {
    this.#position = place + 1
    if (this.#leftOut !== null && offset >= this.#leftOut.offset) return null
    const message = this.#undecided.get(id)
    if (message !== undefined) {
      this.#undecided.delete(id)
      this.#deciding.set(id, place)
      return { message, outcome }
    }
    const isToCome =
      offset >= this.#read && (offset >= this.#ledger.next || this.#ledger.isUnfinished(offset))
    if (!isToCome || this.#early.has(id)) return null
    if (this.#early.size < this.#earlyMax) this.#early.set(id, { outcome, offset, place })
    else this.#leftOut = { place: this.#leftOut?.place ?? place, offset }
    return null
  }

  /** There is room again for decisions that were left out. Returns where to read on from, or null. */
  rereadFrom(): number | null {
    if (this.#leftOut === null || this.#early.size > this.#earlyMax / 2) return null
    this.#position = this.#leftOut.place
    this.#leftOut = null
    return this.#position
  }

  /** What was decided is done. */
  settled(id: string): void {
    this.#deciding.delete(id)
  }

  /** Those about which somebody is to be asked, or that have expired. */
  due(now: number): Undecided[] {
    const due: Undecided[] = []
    for (const message of this.#undecided.values()) {
      if (message.dueAt <= now && !message.isBusy) due.push(message)
    }
    return due
  }

  /** When the next one is due; Infinity if there is none. */
  nextDueAt(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { dueAt, isBusy } of this.#undecided.values()) if (!isBusy && dueAt < next) next = dueAt
    return next
  }
}

/** When somebody is asked about a message, or it expires: `checks` times was asked so far, the last time at `askedAt`. */
export function dueAtOf(
  half: Pick<HalfMessage, 'preparedAt' | 'checker' | 'policy'>,
  checks: number,
  askedAt: number,
) {
  const { firstCheckMs, checkEveryMs, checksMax } = half.policy
  // nobody to ask: it has as long to be decided as if there were
  if (half.checker === null) return half.preparedAt + firstCheckMs + checksMax * checkEveryMs
  return checks === 0 ? half.preparedAt + firstCheckMs : askedAt + checkEveryMs
}
