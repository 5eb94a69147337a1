/**
 * Transactions as a pure state machine: one entry per transactional id, `(state, event, now) -> answer`. Nothing here waits, writes
 * or knows a log; `transactions.ts` makes the changes durable and writes the markers.
 *
 *          init              add                 end(commit)                    completed
 *   none ──────→ Empty ──────────────→ Ongoing ─────────────→ PrepareCommit ──────────────→ CompleteCommit
 *                  ↑                      │ end(abort), time-out, init                            │
 *                  │                      └─────────────────→ PrepareAbort ───→ CompleteAbort     │
 *                  │                                                                  │           │
 *                  └─────────────────────── init ─────────────────────────────────────┴───────────┘    add → Ongoing
 *
 * Invariants:
 *  - a decision is made once: from Prepare… there is only one way on, and it is taken again after a crash;
 *  - the epoch never goes back, and an entry accepts one (producer id, epoch) at a time: whoever has an older one is a zombie,
 *    and is told PRODUCER_FENCED;
 *  - what belongs to a transaction (partitions, offsets by group) is known here before any of it is stored elsewhere.
 *
 * Two ways of ending: clients of the first version keep their epoch from one transaction to the next; those of KIP-890
 * (EndTxn from version 5) get a new epoch with each end, so that a late batch of an ended transaction cannot slip into the next.
 */

import assert from 'node:assert/strict'
import type { ErrorCode } from '../errors.ts'
import type { OffsetCommit } from './offsets.ts'

export type TransactionState =
  | 'Empty'
  | 'Ongoing'
  | 'PrepareCommit'
  | 'PrepareAbort'
  | 'CompleteCommit'
  | 'CompleteAbort'

/** The largest epoch that a client gets; one above it is left, with which the last one can be fenced. */
const EPOCH_MAX = 32_766
/** Of a transactional id, as protocols and the stored form can carry it. */
const ID_BYTES_MAX = 32_767

/** What is known of one transactional id. Changed by `TransactionTable` alone. */
export interface Transaction {
  readonly transactionalId: string
  producerId: number
  epoch: number
  /** The id and epoch before the last change, by which a repeated request is known; -1: none. */
  previousProducerId: number
  previousEpoch: number
  timeoutMs: number
  state: TransactionState
  /** Topic → partitions. */
  readonly partitions: Map<string, Set<number>>
  /** Groups whose offsets are part of it → what to commit, by partition. */
  readonly offsets: Map<string, Map<string, OffsetCommit>>
  /** Id and epoch of the markers that end it: those that wrote, or newer ones where the writer is fenced. */
  markerProducerId: number
  markerEpoch: number
  /** Wall clock, ms; -1: no transaction was begun. */
  startTime: number
  updateTime: number
}

/** Who asks. */
export interface TransactionalProducer {
  readonly transactionalId: string
  readonly producerId: number
  readonly epoch: number
}

export interface InitRequest {
  readonly transactionalId: string
  readonly timeoutMs: number
  /** What the producer believes to have; -1: it begins. */
  readonly producerId: number
  readonly epoch: number
}

type Refused = { readonly kind: 'refused'; readonly error: ErrorCode }
/** The entry has changed, or its last change may not be stored yet: write it before answering. */
type Changed = { readonly kind: 'changed'; readonly transaction: Transaction }

export type InitStep =
  | Refused
  | Changed
  /** Ask again with a producer id that was never used. */
  | { readonly kind: 'needs-producer-id' }
  /** What was ongoing is being aborted: finish that (`completed`), then ask again. */
  | { readonly kind: 'aborting'; readonly transaction: Transaction }

export type EndStep =
  | Refused
  | { readonly kind: 'needs-producer-id' }
  /** Decided: store the entry, write the markers, then `completed`. */
  | { readonly kind: 'prepared'; readonly transaction: Transaction }
  /** There is nothing to write; `changed`: but the entry. */
  | { readonly kind: 'done'; readonly transaction: Transaction; readonly changed: boolean }

/** Who an entry belongs to, as it was before a decision. */
type Identity = Pick<Transaction, 'producerId' | 'epoch' | 'previousProducerId' | 'previousEpoch'>

const refused = (error: ErrorCode): Refused => ({ kind: 'refused', error })

export class TransactionTable {
  readonly #timeoutMsMax: number
  readonly #byId = new Map<string, Transaction>()
  readonly #byProducer = new Map<number, Transaction>()
  /** Those with something under way: ongoing, or decided and not completed. */
  readonly #open = new Set<Transaction>()
  /** Of those that were decided here and are not completed: what `undecided` goes back to. */
  readonly #before = new Map<Transaction, Identity>()

  /** `timeoutMsMax`: `transaction.max.timeout.ms`. */
  constructor(timeoutMsMax: number) {
    this.#timeoutMsMax = timeoutMsMax
  }

  get all(): IterableIterator<Transaction> {
    return this.#byId.values()
  }

  get(transactionalId: string): Transaction | undefined {
    return this.#byId.get(transactionalId)
  }

  /** Takes over an entry that was stored. */
  load(transaction: Transaction): void {
    this.#drop(this.#byId.get(transaction.transactionalId))
    this.#byId.set(transaction.transactionalId, transaction)
    this.#byProducer.set(transaction.producerId, transaction)
    if (isOpen(transaction)) this.#open.add(transaction)
  }

  remove(transactionalId: string): void {
    this.#drop(this.#byId.get(transactionalId))
  }

  /**
   * A producer begins, or begins again: it gets the next epoch, and everyone before it is fenced. Refused with INVALID_TRANSACTION_TIMEOUT,
   * PRODUCER_FENCED (someone else has taken over), CONCURRENT_TRANSACTIONS (ask again).
   */
  init(request: InitRequest, freshProducerId: number | null, now: number): InitStep {
    const { transactionalId, timeoutMs, producerId, epoch } = request
    if (transactionalId === '' || Buffer.byteLength(transactionalId) > ID_BYTES_MAX)
      return refused('INVALID_ARGUMENT')
    if (timeoutMs <= 0 || timeoutMs > this.#timeoutMsMax) return refused('INVALID_TRANSACTION_TIMEOUT')
    const known = this.#byId.get(transactionalId)
    if (known === undefined) {
      if (freshProducerId === null) return { kind: 'needs-producer-id' }
      const made = newTransaction(transactionalId, freshProducerId, timeoutMs, now)
      this.load(made)
      return { kind: 'changed', transaction: made }
    }
    if (isPreparing(known)) return refused('CONCURRENT_TRANSACTIONS')
    if (producerId >= 0) {
      // Asked again because the answer was lost: the same answer.
      const isRepeated = producerId === known.previousProducerId && epoch === known.previousEpoch
      if (isRepeated && known.state === 'Empty') return { kind: 'changed', transaction: known }
      const isCurrent = producerId === known.producerId && epoch === known.epoch
      if (!isCurrent && !isRepeated) return refused('PRODUCER_FENCED')
    }
    if (known.state === 'Ongoing') {
      this.#prepare(known, false, now)
      fence(known)
      followedBy(known, request)
      return { kind: 'aborting', transaction: known }
    }
    const refusal = this.#advance(known, freshProducerId)
    if (refusal !== null) return refusal
    followedBy(known, request)
    known.timeoutMs = timeoutMs
    known.state = 'Empty'
    known.startTime = -1
    known.updateTime = now
    return { kind: 'changed', transaction: known }
  }

  /** Partitions become part of the transaction, which begins if there is none. Refused as `refusal`. */
  addPartitions(
    producer: TransactionalProducer,
    partitions: Iterable<readonly [topic: string, partition: number]>,
    now: number,
  ): Refused | Changed {
    const found = this.#take(producer)
    if (found.kind === 'refused') return found
    const { transaction } = found
    this.#begin(transaction, now)
    for (const [topic, partition] of partitions) {
      const members = transaction.partitions.get(topic)
      if (members === undefined) transaction.partitions.set(topic, new Set([partition]))
      else members.add(partition)
    }
    return found
  }

  /** Offsets of the group may become part of the transaction, which begins if there is none. Refused as `refusal`. */
  addGroup(producer: TransactionalProducer, group: string, now: number): Refused | Changed {
    const found = this.#take(producer)
    if (found.kind === 'refused') return found
    this.#begin(found.transaction, now)
    if (!found.transaction.offsets.has(group)) found.transaction.offsets.set(group, new Map())
    return found
  }

  /** Offsets that count when the transaction commits. Refused as `refusal`, and with INVALID_TXN_STATE if the group was not added. */
  stageOffsets(
    producer: TransactionalProducer,
    group: string,
    commits: readonly OffsetCommit[],
  ): Refused | Changed {
    const found = this.#take(producer)
    if (found.kind === 'refused') return found
    const staged = found.transaction.offsets.get(group)
    if (found.transaction.state !== 'Ongoing' || staged === undefined) return refused('INVALID_TXN_STATE')
    for (const commit of commits) staged.set(`${commit.topic}-${commit.partition}`, commit)
    return found
  }

  /** Forgets offsets that wait for the end of a transaction, in topics that are gone. Returns the transactions that had any. */
  forgetOffsets(isGone: (topic: string) => boolean): Transaction[] {
    return [...this.#open].filter(({ offsets }) => {
      let isChanged = false
      for (const commits of offsets.values())
        for (const [place, { topic }] of commits) if (isGone(topic)) isChanged = commits.delete(place)
      return isChanged
    })
  }

  /** Whether offsets of this partition wait for the end of a transaction. */
  hasStaged(group: string, topic: string, partition: number): boolean {
    for (const { offsets } of this.#open) {
      if (offsets.get(group)?.has(`${topic}-${partition}`)) return true
    }
    return false
  }

  /**
   * Why a transactional batch may not be appended; null if it may. INVALID_PRODUCER_EPOCH from a zombie, INVALID_TXN_STATE if the partition is not part of an
   * ongoing transaction, INVALID_PRODUCER_ID_MAPPING if nobody has the id.
   */
  checkAppend(producerId: number, epoch: number, topic: string, partition: number): ErrorCode | null {
    const transaction = this.#byProducer.get(producerId)
    if (transaction === undefined) return 'INVALID_PRODUCER_ID_MAPPING'
    if (transaction.epoch !== epoch) return 'INVALID_PRODUCER_EPOCH'
    const isPart = transaction.state === 'Ongoing' && transaction.partitions.get(topic)?.has(partition)
    return isPart ? null : 'INVALID_TXN_STATE'
  }

  /** By producer id. */
  of(producerId: number): Transaction | undefined {
    return this.#byProducer.get(producerId)
  }

  /**
   * Decides. `renews`: the producer gets a new epoch (KIP-890). An end that is asked for again is answered again. Refused as `refusal`,
   * and with INVALID_TXN_STATE if nothing was begun, or the other way was decided.
   */
  end(
    producer: TransactionalProducer,
    commit: boolean,
    renews: boolean,
    freshProducerId: number | null,
    now: number,
  ): EndStep {
    const transaction = this.#byId.get(producer.transactionalId)
    if (transaction === undefined) return refused('INVALID_PRODUCER_ID_MAPPING')
    const isBefore =
      producer.producerId === transaction.previousProducerId && producer.epoch === transaction.previousEpoch
    // The last epoch is given to nobody, also not to the one who was fenced with it.
    if (renews && isBefore && transaction.epoch <= EPOCH_MAX) return repeatedEnd(transaction, commit)
    const refusal = mismatch(transaction, producer)
    if (refusal !== null) return refused(refusal)
    switch (transaction.state) {
      case 'Ongoing': {
        const needsId = renews && transaction.epoch >= EPOCH_MAX
        if (needsId && freshProducerId === null) return { kind: 'needs-producer-id' }
        this.#prepare(transaction, commit, now)
        if (renews) {
          transaction.markerEpoch = transaction.epoch + 1
          this.#advance(transaction, freshProducerId)
        }
        return { kind: 'prepared', transaction }
      }
      case 'PrepareCommit':
      case 'PrepareAbort':
        return refused(isCommitted(transaction) === commit ? 'CONCURRENT_TRANSACTIONS' : 'INVALID_TXN_STATE')
      default:
        return renews
          ? this.#endNothing(transaction, commit, freshProducerId, now)
          : endAgain(transaction, commit)
    }
  }

  /** The markers are written, and the offsets committed. */
  completed(transaction: Transaction, now: number): void {
    assert(isPreparing(transaction), `${transaction.transactionalId} is ${transaction.state}`)
    transaction.state = isCommitted(transaction) ? 'CompleteCommit' : 'CompleteAbort'
    this.#open.delete(transaction)
    this.#before.delete(transaction)
    transaction.partitions.clear()
    transaction.offsets.clear()
    transaction.updateTime = now
  }

  /** The decision could not be stored, so it is none. */
  undecided(transaction: Transaction): void {
    assert(isPreparing(transaction), `${transaction.transactionalId} is ${transaction.state}`)
    const before = this.#before.get(transaction)
    assert(before !== undefined, `${transaction.transactionalId} was decided before it was loaded`)
    this.#before.delete(transaction)
    transaction.state = 'Ongoing'
    // Nobody was told of the new epoch, and the producer still has the one of before.
    this.#byProducer.delete(transaction.producerId)
    Object.assign(transaction, before)
    this.#byProducer.set(transaction.producerId, transaction)
  }

  /** Begins to abort what has taken longer than its time-out. The producer is fenced. */
  expire(now: number): Transaction[] {
    const late: Transaction[] = []
    for (const transaction of this.#open) {
      if (transaction.state !== 'Ongoing' || now < deadlineOf(transaction)) continue
      this.#prepare(transaction, false, now)
      fence(transaction)
      late.push(transaction)
    }
    return late
  }

  /** When `expire` has something to do, wall clock; Infinity: never, as things are. */
  nextDeadline(): number {
    let deadline = Number.POSITIVE_INFINITY
    for (const each of this.#open)
      if (each.state === 'Ongoing') deadline = Math.min(deadline, deadlineOf(each))
    return deadline
  }

  /** Entries in which nothing is under way and nothing has happened since `time`. */
  unusedSince(time: number): Transaction[] {
    return [...this.#byId.values()].filter(each => !isOpen(each) && each.updateTime < time)
  }

  #take(producer: TransactionalProducer): Refused | Changed {
    const transaction = this.#byId.get(producer.transactionalId)
    if (producer.transactionalId === '') return refused('INVALID_ARGUMENT')
    if (transaction === undefined) return refused('INVALID_PRODUCER_ID_MAPPING')
    const refusal = mismatch(transaction, producer)
    if (refusal !== null) return refused(refusal)
    if (isPreparing(transaction)) return refused('CONCURRENT_TRANSACTIONS')
    return { kind: 'changed', transaction }
  }

  #begin(transaction: Transaction, now: number): void {
    if (transaction.state !== 'Ongoing') {
      transaction.state = 'Ongoing'
      transaction.startTime = now
      // Its producer has got the answer with this epoch: who asks with the one of before is a zombie.
      transaction.previousProducerId = -1
      transaction.previousEpoch = -1
      this.#open.add(transaction)
    }
    transaction.updateTime = now
  }

  #prepare(transaction: Transaction, commit: boolean, now: number): void {
    const { producerId, epoch, previousProducerId, previousEpoch } = transaction
    this.#before.set(transaction, { producerId, epoch, previousProducerId, previousEpoch })
    transaction.state = commit ? 'PrepareCommit' : 'PrepareAbort'
    transaction.markerProducerId = transaction.producerId
    transaction.markerEpoch = transaction.epoch
    transaction.updateTime = now
  }

  /** The next epoch, or, past the last one, another producer id. */
  #advance(transaction: Transaction, freshProducerId: number | null): { kind: 'needs-producer-id' } | null {
    const { producerId, epoch } = transaction
    if (epoch >= EPOCH_MAX) {
      if (freshProducerId === null) return { kind: 'needs-producer-id' }
      this.#byProducer.delete(producerId)
      this.#byProducer.set(freshProducerId, transaction)
      transaction.producerId = freshProducerId
      transaction.epoch = 0
    } else transaction.epoch++
    transaction.previousProducerId = producerId
    transaction.previousEpoch = epoch
    return null
  }

  /** An abort where nothing was begun: clients of KIP-890 ask for it after an error, for the new epoch. */
  #endNothing(
    transaction: Transaction,
    commit: boolean,
    freshProducerId: number | null,
    now: number,
  ): EndStep {
    if (commit) return refused('INVALID_TXN_STATE')
    const refusal = this.#advance(transaction, freshProducerId)
    if (refusal !== null) return refusal
    transaction.state = 'CompleteAbort'
    transaction.updateTime = now
    return { kind: 'done', transaction, changed: true }
  }

  #drop(transaction: Transaction | undefined): void {
    if (transaction === undefined) return
    this.#byId.delete(transaction.transactionalId)
    this.#byProducer.delete(transaction.producerId)
    this.#open.delete(transaction)
    this.#before.delete(transaction)
  }
}

export function newTransaction(
  transactionalId: string,
  producerId: number,
  timeoutMs: number,
  now: number,
): Transaction {
  return {
    transactionalId,
    producerId,
    epoch: 0,
    previousProducerId: -1,
    previousEpoch: -1,
    timeoutMs,
    state: 'Empty',
    partitions: new Map(),
    offsets: new Map(),
    markerProducerId: producerId,
    markerEpoch: 0,
    startTime: -1,
    updateTime: now,
  }
}

export const isPreparing = ({ state }: Transaction): boolean =>
  state === 'PrepareCommit' || state === 'PrepareAbort'

export const isOpen = (transaction: Transaction): boolean =>
  transaction.state === 'Ongoing' || isPreparing(transaction)

export const deadlineOf = ({ startTime, timeoutMs }: Transaction): number => startTime + timeoutMs

export const isCommitted = ({ state }: Transaction): boolean =>
  state === 'PrepareCommit' || state === 'CompleteCommit'

/** Takes the epoch from whoever has it now, without giving it to anyone. Its batches are refused as soon as the markers are written. */
function fence(transaction: Transaction): void {
  transaction.previousProducerId = -1
  transaction.previousEpoch = -1
  // The last one nobody has: it was taken for fencing already.
  if (transaction.epoch <= EPOCH_MAX) transaction.epoch++
  transaction.markerEpoch = transaction.epoch
}

/** Whose repeated request is answered with what the entry has now; none if it is someone new: the one before may be alive, and is a zombie. */
function followedBy(transaction: Transaction, { producerId, epoch }: InitRequest): void {
  transaction.previousProducerId = producerId
  transaction.previousEpoch = producerId < 0 ? -1 : epoch
}

function mismatch(transaction: Transaction, { producerId, epoch }: TransactionalProducer): ErrorCode | null {
  if (producerId !== transaction.producerId) return 'INVALID_PRODUCER_ID_MAPPING'
  return epoch === transaction.epoch ? null : 'PRODUCER_FENCED'
}

/** KIP-890: the answer to the end was lost, the producer still has the epoch of before. The new one may not be stored yet. */
function repeatedEnd(transaction: Transaction, commit: boolean): EndStep {
  if (transaction.state === 'Empty' || transaction.state === 'Ongoing') return refused('PRODUCER_FENCED')
  if (isCommitted(transaction) !== commit) return refused('INVALID_TXN_STATE')
  return isPreparing(transaction)
    ? refused('CONCURRENT_TRANSACTIONS')
    : { kind: 'done', transaction, changed: true }
}

function endAgain(transaction: Transaction, commit: boolean): EndStep {
  const isAnswered = transaction.state === (commit ? 'CompleteCommit' : 'CompleteAbort')
  return isAnswered ? { kind: 'done', transaction, changed: false } : refused('INVALID_TXN_STATE')
}
