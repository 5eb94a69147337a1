/**
 * What is true of transactions, for `transaction-simulation.ts`: what was asked, answered and read, and what must follow from it.
 *
 * Three things are put side by side. What clients sent and were answered (`Transaction`, `Batch`, `Staged`); what lies in the
 * partitions, as readers of everything see it (`PartitionModel`, which only grows: what a reader has seen stays); and what readers
 * of what is committed were shown. A client may not know how something ended. Then the first evidence decides it, a marker or an offset
 * that shows, and all later evidence must say the same.
 */

import assert from 'node:assert/strict'
import { baseOffset, batchBytes, isControl, isTransactional, lastOffset } from '../../src/record/batch.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { isCommitMarker } from '../../src/record/marker.ts'

/** All that use one transactional id. */
export interface Owners {
  readonly transactionalId: string
  /** InitProducerId requests that were sent: whoever came before the last of them may be fenced. */
  attempts: number
}

/** A process, as far as it matters who may go on. */
export interface Writer {
  readonly owners: Owners | null
  /** Which of the InitProducerId requests gave it the epoch that it has. */
  readonly attempt: number
  /** Someone else was given a newer epoch: from now on every request of this one has to be refused. */
  readonly isSuperseded: boolean
}

export interface RecordModel {
  readonly key: string
  readonly value: string
}

export interface Batch {
  readonly writer: Writer
  /** Null: not part of one. */
  readonly transaction: Transaction | null
  readonly partition: PartitionModel
  readonly records: readonly RecordModel[]
  readonly bytes: Buffer
  /** Where it was acknowledged; -1: it was not. */
  offset: number
  /** How often it was sent without an answer that says that it was not stored. */
  attempts: number
  isFound: boolean
}

/** An offset of a group that was committed, in a transaction or (null) by itself. The numbers only grow. */
export interface Staged {
  readonly transaction: Transaction | null
  readonly place: Place
  readonly offset: number
  isAcknowledged: boolean
}

/** Where a group keeps an offset. */
export interface Place {
  readonly group: string
  readonly partition: number
  readonly commits: Map<number, Staged>
  /** Somebody commits without a transaction: two at once would leave open whose offset is the later one. */
  isBusy: boolean
}

export class Transaction {
  readonly name: string
  readonly writer: Writer
  readonly timeoutMs: number
  /** When its first request was sent. */
  readonly began: number
  /** When one of its requests was first answered well; Infinity: none was. */
  startedBy = Number.POSITIVE_INFINITY
  /** What EndTxn was last sent with. */
  asked: 'commit' | 'abort' | null = null
  /** Its writer has asked for a new epoch. */
  isLeft = false
  /** Certain to have ended: answered so, or its writer is fenced. */
  isOver = false
  readonly staged: Staged[] = []
  #outcome: 'committed' | 'aborted' | null = null

  constructor(name: string, writer: Writer, timeoutMs: number, now: number) {
    this.name = name
    this.writer = writer
    this.timeoutMs = timeoutMs
    this.began = now
  }

  /** Null: not known yet. */
  get outcome(): 'committed' | 'aborted' | null {
    return this.#outcome
  }

  mayHaveRunOut(now: number): boolean {
    return now >= this.began + this.timeoutMs
  }

  /** Whether something beside its own EndTxn may have ended it. */
  mayBeFenced(now: number): boolean {
    const { owners, attempt, isSuperseded } = this.writer
    return isSuperseded || this.isLeft || owners!.attempts > attempt || this.mayHaveRunOut(now)
  }

  /** Evidence of how it ended. */
  decide(outcome: 'committed' | 'aborted', evidence: string, now: number): void {
    const what = `${this.name} (asked: ${this.asked}) is ${outcome} by ${evidence}`
    if (this.#outcome !== null)
      assert.equal(outcome, this.#outcome, `${what}, and was ${this.#outcome} before`)
    if (outcome === 'committed') assert.equal(this.asked, 'commit', `${what}, and nobody has asked for that`)
    else assert(this.asked === 'abort' || this.mayBeFenced(now), `${what}, without a cause`)
    this.#outcome = outcome
  }
}

/** What lies between two offsets. */
interface Entry {
  readonly base: number
  readonly end: number
  readonly checksum: number
  /** Null: a marker. */
  readonly batch: Batch | null
}

/** The batches of a producer in a partition that have no marker yet, or one. */
interface Run {
  readonly transaction: Transaction
  readonly first: number
  outcome: 'committed' | 'aborted' | null
}

/** What a reader of what is committed was shown. */
export interface Observation {
  readonly from: number
  readonly to: number
  /** Offset → value. */
  readonly values: ReadonlyMap<number, string>
  readonly who: string
}

interface Stored extends RecordModel {
  readonly offset: number
  readonly run: Run | null
}

export class PartitionModel {
  readonly topic: string
  readonly index: number
  readonly isCompacted: boolean
  /** By their first value. */
  readonly sent = new Map<string, Batch>()
  readonly #entries = new Map<number, Entry>()
  readonly #records: Stored[] = []
  readonly #open = new Map<number, Run>()
  readonly #acknowledged = new Set<Batch>()
  #observations: Observation[] = []
  /** Everything before it was read. */
  end = 0
  /** What was asked to be deleted, and what surely is. */
  startMax = 0
  startMin = 0

  constructor(topic: string, index: number, isCompacted: boolean) {
    this.topic = topic
    this.index = index
    this.isCompacted = isCompacted
  }

  get name(): string {
    return `${this.topic}/${this.index}`
  }

  /** Where the oldest transaction begins that has no marker; Infinity: there is none. */
  get firstOpen(): number {
    let first = Number.POSITIVE_INFINITY
    for (const run of this.#open.values()) first = Math.min(first, run.first)
    return first
  }

  openTransactions(): Transaction[] {
    return [...this.#open.values()].map(({ transaction }) => transaction)
  }

  acknowledge(batch: Batch, offset: number): void {
    const { name } = this
    const [{ value }] = batch.records
    if (batch.offset >= 0) assert.equal(offset, batch.offset, `${name}: ${value} is at two places`)
    batch.offset = offset
    if (!batch.isFound) this.#acknowledged.add(batch)
  }

  /** Takes what a read of everything from `end` on has brought. */
  extend(batches: Buffer, now: number): void {
    for (let at = 0; at < batches.length; at += batchBytes(batches, at)) {
      const bytes = batches.subarray(at, at + batchBytes(batches, at))
      const base = baseOffset(bytes, 0)
      const end = lastOffset(bytes, 0) + 1
      if (end <= this.end) continue
      assert.equal(base, this.end, `${this.name}: a hole, or an overlap`)
      const batch = isControl(bytes, 0) ? null : this.#identify(bytes)
      this.#entries.set(base, { base, end, checksum: bytes.readUInt32BE(17), batch })
      if (batch === null) this.#endRun(bytes, now)
      else this.#append(batch, base, bytes)
      this.end = end
    }
  }

  #identify(bytes: Buffer): Batch {
    const records = recordsOf(bytes)
    const base = baseOffset(bytes, 0)
    assert(records.length > 0, `${this.name}: an empty batch at ${base}`)
    const batch = this.sent.get(records[0].value)
    assert(batch !== undefined, `${this.name}: ${records[0].value} was never sent`)
    const { value } = records[0]
    assert.deepEqual(
      records.map(({ key, value }) => ({ key, value })),
      batch.records,
      `${this.name}: ${value} is not as it was sent`,
    )
    assert(!batch.isFound, `${this.name}: ${value} is stored twice, at ${base} again`)
    assert(batch.attempts > 0, `${this.name}: ${value} was refused, and is stored at ${base}`)
    if (batch.offset >= 0) assert.equal(base, batch.offset, `${this.name}: ${value} is at another offset`)
    return batch
  }

  #append(batch: Batch, base: number, bytes: Buffer): void {
    batch.isFound = true
    this.#acknowledged.delete(batch)
    const { transaction } = batch
    assert.equal(isTransactional(bytes, 0), transaction !== null)
    let run: Run | null = null
    if (transaction !== null) {
      const id = Number(bytes.readBigInt64BE(43))
      run = this.#open.get(id) ?? { transaction, first: base, outcome: null }
      assert.equal(
        run.transaction.name,
        transaction.name,
        `${this.name}: ${transaction.name} and another one lie before one marker, from ${run.first} on`,
      )
      this.#open.set(id, run)
    }
    for (const [index, record] of batch.records.entries())
      this.#records.push({ ...record, offset: base + index, run })
  }

  #endRun(bytes: Buffer, now: number): void {
    const id = Number(bytes.readBigInt64BE(43))
    const run = this.#open.get(id)
    const offset = baseOffset(bytes, 0)
    assert(run !== undefined, `${this.name}: a marker of producer ${id} at ${offset} that ends nothing`)
    this.#open.delete(id)
    run.outcome = isCommitMarker(bytes, 0) ? 'committed' : 'aborted'
    run.transaction.decide(run.outcome, `a marker in ${this.name} at ${offset}`, now)
  }

  /** What was acknowledged and not read yet. */
  get due(): readonly Batch[] {
    return [...this.#acknowledged]
  }

  /** Everything up to the high watermark was read since these were acknowledged. */
  checkFound(due: readonly Batch[]): void {
    for (const { records, offset, isFound } of due)
      assert(isFound, `${this.name}: ${records[0].value}, acknowledged at ${offset}, is lost`)
  }

  /** Compares what a read of everything from some offset on has brought with what it brought before. Returns where it ends. */
  compare(batches: Buffer, from: number): number {
    let next = from
    for (let at = 0; at < batches.length; at += batchBytes(batches, at)) {
      const bytes = batches.subarray(at, at + batchBytes(batches, at))
      next = lastOffset(bytes, 0) + 1
      if (next > this.end) return this.end
      if (this.isCompacted) this.#compareRecords(bytes)
      else {
        const entry = this.#entries.get(baseOffset(bytes, 0))
        const where = `${this.name} at ${baseOffset(bytes, 0)}`
        assert(entry !== undefined && entry.end === next, `${where}: another batch than before`)
        assert.equal(bytes.readUInt32BE(17), entry.checksum, `${where}: other bytes than before`)
      }
    }
    return next
  }

  #compareRecords(bytes: Buffer): void {
    if (isControl(bytes, 0)) {
      const entry = this.#entries.get(baseOffset(bytes, 0))
      assert(entry !== undefined && entry.batch === null, `${this.name}: a marker where none was`)
      return
    }
    for (const { offset, key, value } of recordsOf(bytes)) {
      const known = this.#at(offset)
      assert.deepEqual([key, value], [known?.key, known?.value], `${this.name}: another record at ${offset}`)
    }
  }

  observe(observation: Observation): void {
    this.#observations.push(observation)
  }

  /** Once everything that readers were shown is decided, and was taken. */
  checkObservations(): void {
    for (const observation of this.#observations) this.#checkObservation(observation)
    this.#observations = []
  }

  #checkObservation({ from, to, values, who }: Observation): void {
    assert(to <= this.end, `${this.name}: ${who} was shown offset ${to - 1}, which is gone`)
    const shown = new Map(values)
    for (let index = this.#indexOf(from); index < this.#records.length; index++) {
      const { offset, key, value, run } = this.#records[index]
      if (offset >= to) break
      const found = shown.get(offset)
      shown.delete(offset)
      const what = `${this.name}: ${who} reading from ${from} to ${to}: ${value} at ${offset}`
      if (run !== null && run.outcome !== 'committed') {
        assert.equal(found, undefined, `${what} is ${run.outcome ?? 'not decided'}, and was shown`)
        assert.notEqual(run.outcome, null, `${what} is not decided, and was passed over`)
      } else if (found === undefined) assert(this.#isReplaced(key, index), `${what} was not shown`)
      else assert.equal(found, value, what)
    }
    for (const [offset, value] of shown) assert.fail(`${this.name}: ${value} at ${offset} is not known`)
  }

  #isReplaced(key: string, index: number): boolean {
    if (!this.isCompacted) return false
    for (let later = index + 1; later < this.#records.length; later++) {
      const { key: other, run } = this.#records[later]
      if (other === key && (run === null || run.outcome === 'committed')) return true
    }
    return false
  }

  #at(offset: number): Stored | undefined {
    const found = this.#records[this.#indexOf(offset)]
    return found?.offset === offset ? found : undefined
  }

  /** The first record at `offset` or later. */
  #indexOf(offset: number): number {
    let low = 0
    let high = this.#records.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#records[middle].offset < offset) low = middle + 1
      else high = middle
    }
    return low
  }
}

export function recordsOf(batches: Buffer): (RecordModel & { readonly offset: number })[] {
  const records: (RecordModel & { readonly offset: number })[] = []
  const cursor = new RecordCursor(batches)
  while (cursor.next()) {
    const { bytes, keyStart, keyBytes, valueStart, valueBytes, offset } = cursor
    const key = bytes.toString('latin1', keyStart, keyStart + keyBytes)
    records.push({ offset, key, value: bytes.toString('latin1', valueStart, valueStart + valueBytes) })
  }
  return records
}

/** Where reading goes on behind these batches. */
export function endOf(batches: Buffer): number {
  let end = -1
  for (let at = 0; at < batches.length; at += batchBytes(batches, at)) end = lastOffset(batches, at) + 1
  return end
}

/** What a group must have committed at least: nothing acknowledged is taken back. */
export function floorOf({ commits }: Place): number {
  let floor = -1
  for (const { offset, transaction, isAcknowledged } of commits.values()) {
    const counts =
      transaction === null ? isAcknowledged : transaction.outcome === 'committed' && isAcknowledged
    if (counts) floor = Math.max(floor, offset)
  }
  return floor
}

/** A committed offset (-1: none) was seen. `floor`: what had to be there when it was asked for. */
export function seeOffset(place: Place, offset: number, floor: number, now: number): void {
  const where = `group ${place.group}, partition ${place.partition}`
  assert(offset >= floor, `${where}: offset ${offset}, where ${floor} was committed`)
  if (offset < 0) return
  const source = place.commits.get(offset)
  assert(source !== undefined, `${where}: offset ${offset} was never committed`)
  source.transaction?.decide('committed', `an offset of ${where}`, now)
}
