/**
 * Which messages of a partition of `_sluice.dedup` are the first of their id within its window. Pure, and a function of the log alone: whoever reads
 * the partition from its start comes to the same decisions, so that nothing but the log need be kept.
 *
 *     offset   10    11    12    13         14           time by the log's clock
 *     id        a     b     a     a          a
 *               ├── window of 10 ──────────┤ ├── window of 14 ──
 *              first first dup   dup        first
 *
 * Invariants:
 * - A message is a duplicate exactly if one before it, which was none, has the same id and its window was not over.
 * - At most `IDS_MAX` ids are remembered; past it the oldest are forgotten, which is told.
 * - `trimTo` is an offset such that the decisions about everything from there on are the same without what lies before.
 */

/** Ids that are remembered per partition, about 150 bytes each. */
export const IDS_MAX = 250_000
/** The log's clock may have been set back so far. */
const CLOCK_SLACK_MS = 60_000

interface First {
  readonly offset: number
  readonly expiresAt: number
  lastDuplicate: number
}

export class DedupWindow {
  readonly #idsMax: number
  /** In the order of their offsets: an id that comes again after its window is added anew. */
  readonly #firsts = new Map<string, First>()
  /** Those whose window was over when the id came again: they may have duplicates that are not trimmed. */
  #past: First[] = []
  #time = 0
  /** Ids that were forgotten before their window was over. */
  #forgotten = 0

  constructor(idsMax = IDS_MAX) {
    this.#idsMax = idsMax
  }

  get size(): number {
    return this.#firsts.size
  }

  get forgotten(): number {
    return this.#forgotten
  }

  /** Whether the message is the first of its id. Messages come in the order of their offsets, each once. */
  isFirst(id: string, offset: number, timestamp: number, windowMs: number): boolean {
    this.#time = Math.max(this.#time, timestamp)
    const known = this.#firsts.get(id)
    if (known !== undefined && timestamp < known.expiresAt) {
      known.lastDuplicate = offset
      return false
    }
    if (known !== undefined) {
      this.#firsts.delete(id)
      this.#past.push(known)
    }
    this.#firsts.set(id, { offset, expiresAt: timestamp + windowMs, lastDuplicate: -1 })
    if (this.#firsts.size > this.#idsMax) this.#forgetOldest()
    return true
  }

  /**
   * What lies before it can go: no window that began there is open, and no duplicate is left whose first message would be gone. `end`: where the
   * messages end that were decided. Forgets them.
   */
  trimTo(end: number): number {
    const now = this.#time - CLOCK_SLACK_MS
    let to = end
    for (const { offset, expiresAt } of this.#firsts.values()) {
      if (expiresAt <= now) continue
      to = Math.min(end, offset)
      break
    }
    const before = [...this.#past, ...this.#firsts.values()].filter(({ offset }) => offset < to)
    for (const { offset, lastDuplicate } of before.toSorted((one, other) => other.offset - one.offset))
      if (lastDuplicate >= to) to = offset
    for (const [id, { offset }] of this.#firsts) {
      if (offset >= to) break
      this.#firsts.delete(id)
    }
    this.#past = this.#past.filter(({ offset }) => offset >= to)
    return to
  }

  #forgetOldest(): void {
    for (const [id, { expiresAt }] of this.#firsts) {
      this.#firsts.delete(id)
      if (expiresAt > this.#time) this.#forgotten++
      return
    }
  }
}
