/**
 * What becomes of messages that are completed one by one: the ledgers of the partitions that a consumer holds, and the one loop that
 * commits them.
 *
 *     finish(offset)                    ──┐
 *     finish(offset, publications) ───────┼──▶ settle: commit, or one transaction of all publications and the commit ──▶ settled
 *     finish(offset)                    ──┘         │ it may pass: once more
 *                                                   │ the partition is somebody else's: forget it
 *                                                   └ a publication is refused: each alone, and its owner is asked
 *
 * Invariants:
 * - One commit or transaction at a time, so an older state never overwrites a newer one.
 * - A message that is finished with publications is finished in the log exactly when they are there: they and the commit are one
 *   transaction. If it does not come about, the message is unfinished again.
 * - When nobody can tell whether a transaction came about, the group's commit does: it is asked for before anything is tried again.
 */

import type { CommitOffset, CommittedOffset, TopicPartition } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import { isSame, isWorthTelling } from './fetcher.ts'
import { Ledger, type LedgerNote } from './ledger.ts'
import type { AnyOutgoing } from './outgoing.ts'
import type { AnyTopic } from './topic.ts'
import type { Transaction } from './transaction.ts'

export interface Publication {
  readonly topic: AnyTopic
  readonly message: AnyOutgoing
  /** What is published instead when this is refused for good; left out: nothing can be. */
  readonly instead?: () => Publication
}

/** A partition that is held, and what of it is unfinished. */
export interface Holding extends TopicPartition {
  readonly ledger: Ledger
  /** Gone: nothing can be committed any more. */
  isLost: boolean
}

/** What settling needs from its owner. */
export interface SettlerContext {
  readonly clock: Clock
  /** Between the end of a commit and the beginning of the next, at least. */
  readonly pauseMs: number
  commit(offsets: readonly CommitOffset[]): Promise<void>
  transact(body: (transaction: Transaction) => Promise<void>): Promise<void>
  /** Makes offsets part of the transaction. */
  stage(transaction: Transaction, offsets: readonly CommitOffset[]): Promise<void>
  committed(partitions: readonly TopicPartition[]): Promise<readonly CommittedOffset[]>
  /**
   * What is to be published instead of what was refused for good, after a pause; null: nothing can be, which ends the owner's work.
   */
  refused(publications: readonly Publication[], error: SluiceError): readonly Publication[] | null
  /** An error that passes. */
  warn(error: SluiceError): void
  /** Nothing can be settled any more. */
  fail(error: unknown): void
  /** Something was settled. */
  settled(): void
}

interface Ending {
  readonly holding: Holding
  readonly offset: number
  publications: readonly Publication[]
  readonly done: (() => void) | undefined
  /** What the ledger knew of it, to be put back if it does not come about. */
  note: LedgerNote | null
}

const RETRY_MS_MIN = 50
const RETRY_MS_MAX = 2_000
/** Publications of one transaction. */
const PUBLICATIONS_MAX = 5_000

const membershipErrors: ReadonlySet<SluiceError['code']> = new Set([
  'ILLEGAL_GENERATION',
  'UNKNOWN_MEMBER',
  'FENCED_MEMBER',
])

/** What ends a transaction and says nothing about the next one, beside what passes by itself. */
const passingErrors: ReadonlySet<SluiceError['code']> = new Set([
  'INVALID_PRODUCER_EPOCH',
  'INVALID_PRODUCER_ID_MAPPING',
  'INVALID_TXN_STATE',
  'PRODUCER_FENCED',
  'TRANSACTION_ABORTABLE',
])

/** It says nothing about what was to be settled: that may come about another time, here or elsewhere. */
const isPassing = (error: SluiceError): boolean =>
  error.retriable || passingErrors.has(error.code) || membershipErrors.has(error.code)

const goneMeanwhile = (): SluiceError =>
  new SluiceError('REBALANCE_IN_PROGRESS', 'partitions went while a transaction about them was being begun')

export class Settler {
  readonly #context: SettlerContext
  readonly #holdings: Holding[] = []
  readonly #dirty = new Set<Holding>()
  /** Finished with publications, in the order in which they came. */
  #endings: Ending[] = []
  #running: Promise<void> | null = null
  #timer: Timer | null = null
  #failures = 0
  /** The group knows us no more, or not in this generation: nothing can be settled before that has changed. */
  #isFenced = false
  #hasFailed = false

  constructor(context: SettlerContext) {
    this.#context = context
  }

  /** The partitions that are held. */
  get holdings(): readonly Holding[] {
    return this.#holdings
  }

  /** A partition has come, with what its owner before committed. */
  take(of: TopicPartition, position: number, committed: CommittedOffset | undefined): Holding {
    // sought elsewhere, or reset: what was committed is not about what comes now
    const isContinued = committed !== undefined && committed.offset === position
    const ledger = new Ledger(position, isContinued ? committed.metadata : '')
    const holding = { topic: of.topic, partition: of.partition, ledger, isLost: false }
    this.#holdings.push(holding)
    return holding
  }

  holdingOf(of: TopicPartition): Holding | undefined {
    return this.#holdings.find(holding => isSame(holding, of))
  }

  /** Partitions are gone: what was not settled of them is the next owner's. */
  drop(partitions: readonly TopicPartition[]): void {
    for (const of of partitions) {
      const holding = this.holdingOf(of)
      if (holding === undefined) continue
      holding.isLost = true
      this.#holdings.splice(this.#holdings.indexOf(holding), 1)
      this.#dirty.delete(holding)
    }
    this.#endings = this.#endings.filter(({ holding }) => !holding.isLost)
  }

  /** The message is done. Costs no more than a few assignments; the commit comes soon. */
  finish(holding: Holding, offset: number): void {
    if (holding.isLost || !holding.ledger.finish(offset)) return
    this.touch(holding)
  }

  /** The message is done once these are published; all of it happens, or nothing. `done` is called when it has. */
  finishWith(
    holding: Holding,
    offset: number,
    publications: readonly Publication[],
    done?: () => void,
  ): void {
    if (holding.isLost || !holding.ledger.isUnfinished(offset)) return
    this.#endings.push({ holding, offset, publications, done, note: null })
    this.touch(holding)
  }

  /** Something else of the ledger has changed that is worth a commit. */
  touch(holding: Holding): void {
    if (holding.isLost) return
    this.#dirty.add(holding)
    if (this.#running === null && this.#timer === null && !this.#hasFailed) this.#schedule(0)
  }

  /** Resolves when everything finished so far is settled, or cannot be. What fails for now is tried again as long as it takes. */
  async flush(): Promise<void> {
    this.#isFenced = false
    while ((this.#dirty.size > 0 || this.#running !== null) && !this.#hasFailed && !this.#isFenced) {
      if (this.#failures > 0 && this.#running === null) await this.#backOff(this.#pauseMs())
      this.#timer?.cancel()
      this.#timer = null
      this.#start()
      await this.#running
    }
  }

  /** Ends the loop. What is not settled is the next owner's. */
  close(): void {
    this.#hasFailed = true
    this.#timer?.cancel()
    this.#timer = null
  }

  #schedule(delayMs: number): void {
    if (delayMs === 0) {
      // The first of many: those that finish in the same turn come along.
      let isCancelled = false
      this.#timer = { cancel: () => (isCancelled = true) }
      this.#context.clock.defer(() => {
        if (!isCancelled) this.#start()
      })
    } else this.#timer = this.#context.clock.after(delayMs, () => this.#start())
  }

  #start(): void {
    this.#timer = null
    if (this.#running !== null || this.#hasFailed) return
    this.#running = this.#settle()
      .catch(error => this.#fail(error))
      .then(() => {
        this.#running = null
        if (this.#dirty.size > 0 && this.#timer === null && !this.#hasFailed) this.#schedule(this.#pauseMs())
      })
  }

  #pauseMs(): number {
    if (this.#failures === 0) return this.#context.pauseMs
    return Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** this.#failures)
  }

  async #settle(): Promise<void> {
    const holdings = [...this.#dirty]
    this.#dirty.clear()
    const endings = this.#endings.splice(0, PUBLICATIONS_MAX)
    for (const { holding } of this.#endings) this.#dirty.add(holding)
    try {
      await this.#attempt(holdings, endings)
      this.#failures = 0
      this.#isFenced = false
      this.#context.settled()
    } catch (error) {
      this.#reopen(endings)
      for (const holding of holdings) if (!holding.isLost) this.#dirty.add(holding)
      await this.#meet(error, endings)
    }
  }

  /** One commit, with or without publications. Rejects if it did not come about. */
  async #attempt(holdings: readonly Holding[], endings: readonly Ending[]): Promise<void> {
    for (const ending of endings) {
      const { ledger } = ending.holding
      ending.note = ledger.noteOf(ending.offset)
      ledger.finish(ending.offset)
    }
    const held = holdings.filter(({ isLost }) => !isLost)
    const offsets = held.map(({ topic, partition, ledger }) => ({
      topic,
      partition,
      offset: ledger.offset,
      metadata: ledger.metadata(),
    }))
    if (offsets.length === 0) return
    if (endings.length === 0) await this.#context.commit(offsets)
    else await this.#transact(endings, held, offsets)
    for (const { done } of endings) done?.()
  }

  async #transact(
    endings: readonly Ending[],
    held: readonly Holding[],
    offsets: readonly CommitOffset[],
  ): Promise<void> {
    const { transact, stage } = this.#context
    let isStaged = false
    try {
      await transact(async transaction => {
        // Beginning may have taken its time. One that went meanwhile may be back, and begun anew from what was committed.
        if (held.some(({ isLost }) => isLost)) throw goneMeanwhile()
        for (const { publications } of endings)
          for (const { topic, message } of publications) transaction.post(topic, message)
        await stage(transaction, offsets)
        isStaged = true
      })
    } catch (error) {
      // whatever failed after that may have been the answer alone
      if (!isStaged || !(await this.#wasCommitted(endings, offsets))) throw error
    }
  }

  /**
   * Whether the group has what was staged. Asked of a partition that something ended in, whose state is another one than before, and that is
   * still held, so that nobody else has committed there; what is true of one of them is true of all.
   */
  async #wasCommitted(endings: readonly Ending[], offsets: readonly CommitOffset[]): Promise<boolean> {
    const { clock } = this.#context
    const startedAt = clock.monotonic()
    for (let failures = 0; ; failures++) {
      const held = endings.map(({ holding }) => holding).filter(({ isLost }) => !isLost)
      const staged = offsets.find(offset => held.some(holding => isSame(holding, offset)))
      if (staged === undefined) return false
      try {
        const [found] = await this.#context.committed([staged])
        return found?.offset === staged.offset && found.metadata === staged.metadata
      } catch (error) {
        if (!isSluiceError(error) || !error.retriable || this.#hasFailed) throw error
        if (isWorthTelling(error, clock.monotonic() - startedAt)) this.#context.warn(error)
        await this.#backOff(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures))
      }
    }
  }

  #backOff(delayMs: number): Promise<void> {
    return new Promise(resolve => this.#context.clock.after(delayMs, resolve))
  }

  /** The messages are unfinished again, in the order in which they were finished. */
  #reopen(endings: readonly Ending[]): void {
    for (const holding of new Set(endings.map(({ holding }) => holding))) {
      const offsets = endings.filter(ending => ending.holding === holding).map(({ offset }) => offset)
      holding.ledger.reopen(offsets)
    }
    for (const { holding, offset, note } of endings) holding.ledger.note(offset, note)
    this.#endings = endings.filter(({ holding }) => !holding.isLost).concat(this.#endings)
  }

  async #meet(error: unknown, endings: readonly Ending[]): Promise<void> {
    if (!isSluiceError(error)) return this.#fail(error)
    if (membershipErrors.has(error.code)) return this.#forget(error)
    if (isPassing(error)) {
      this.#failures++
      this.#context.warn(error)
    } else if (endings.length > 1) await this.#oneByOne(endings)
    else if (endings.length === 1) this.#replace(endings[0], error)
    else this.#fail(error)
  }

  /** Somebody else has the partitions by now, or will have them; the membership tells which. */
  #forget(error: SluiceError): void {
    this.#failures++
    this.#isFenced = true
    this.#context.warn(error)
  }

  /** One of them is refused for good; the others must not suffer. */
  async #oneByOne(endings: readonly Ending[]): Promise<void> {
    for (const ending of endings) {
      if (ending.holding.isLost || this.#hasFailed) continue
      this.#endings = this.#endings.filter(other => other !== ending)
      try {
        await this.#attempt([ending.holding], [ending])
      } catch (error) {
        this.#reopen([ending])
        await this.#meet(error, [ending])
        if (!isSluiceError(error) || isPassing(error)) return // those behind it do not overtake it
      }
    }
  }

  #replace(ending: Ending, error: SluiceError): void {
    const publications = this.#context.refused(ending.publications, error)
    if (publications === null) this.#fail(error)
    else ending.publications = publications
    this.#failures++
  }

  #fail(error: unknown): void {
    this.#hasFailed = true
    this.#context.fail(error)
  }
}

/** What publications say is to be published instead of them; null if there is nothing for any of them. */
export function substitutesOf(publications: readonly Publication[]): readonly Publication[] | null {
  if (publications.every(({ instead }) => instead === undefined)) return null
  return publications.map(publication => publication.instead?.() ?? publication)
}
