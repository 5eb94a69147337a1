/**
 * What a log remembers of its idempotent producers (KIP-98): per producer id the epoch and the last five batches, so
 * that a batch that is sent again is recognised and answered with the offset it got the first time, and one that leaves a
 * gap is refused.
 *
 * The state follows from the log: it is rebuilt from batch headers. A snapshot in Kafka's own format, written when a
 * segment is rolled and with each checkpoint, saves reading the log from its start. A snapshot keeps only the last batch of each producer, as Kafka's does.
 *
 *   snapshot:  version int16 = 1 │ CRC-32C uint32 of what follows │ count int32
 *              │ { producer id int64 │ epoch int16 │ last sequence int32 │ last offset int64 │ offset delta int32
 *                  │ timestamp int64 │ coordinator epoch int32 │ current transaction's first offset int64 }…
 */

import { crc32c } from '@node-rs/crc32'
import { SluiceError } from '../errors.ts'
import { type Disk, DiskError } from '../lib/disk.ts'
import {
  baseSequence,
  isTransactional,
  lastOffsetDelta,
  maxTimestamp,
  producerEpoch,
  producerId,
  readInt64,
  writeInt64,
} from '../record/batch.ts'
import { readFully } from './scan.ts'
import { segmentName } from './segment.ts'

const BATCHES_REMEMBERED = 5
/** As a snapshot says it of a producer without one. */
const NO_BATCH: StoredBatch = { firstSequence: -1, lastSequence: -1, baseOffset: -1, lastOffset: -1 }
const SNAPSHOT_VERSION = 1
const SNAPSHOT_HEADER_BYTES = 10
const SNAPSHOT_ENTRY_BYTES = 46
const SEQUENCE_MAX = 2 ** 31 - 1

interface StoredBatch {
  readonly firstSequence: number
  readonly lastSequence: number
  readonly baseOffset: number
  readonly lastOffset: number
}

interface ProducerEntry {
  epoch: number
  lastTimestamp: number
  /** Oldest first; none if a marker with a new epoch was the last thing. */
  batches: StoredBatch[]
}

/** A transaction whose marker was written. */
export interface EndedTransaction {
  readonly producerId: number
  readonly firstOffset: number
  /** Of the marker. */
  readonly lastOffset: number
}

/** What can be told of a producer. */
export interface RememberedProducer {
  readonly producerId: number
  readonly epoch: number
  readonly lastSequence: number
  /** Of its last batch, ms. */
  readonly lastTimestamp: number
  /** Where its open transaction begins; -1: it has none. */
  readonly transactionOffset: number
}

/** Sequences wrap from 2^31 − 1 to 0. */
const sequenceAfter = (sequence: number, count: number): number =>
  sequence > SEQUENCE_MAX - count ? count - (SEQUENCE_MAX - sequence) - 1 : sequence + count

export class ProducerState {
  readonly #producers = new Map<number, ProducerEntry>()
  /** Producers with an open transaction → its first offset, in the order of these. */
  readonly #open = new Map<number, number>()
  readonly #countMax: number

  /** `countMax`: producers remembered; past that the one that was silent longest is forgotten. */
  constructor(countMax = 100_000) {
    this.#countMax = countMax
  }

  get count(): number {
    return this.#producers.size
  }

  /** Where the oldest open transaction begins; Infinity if none is open. */
  get firstUnstableOffset(): number {
    for (const offset of this.#open.values()) return offset
    return Number.POSITIVE_INFINITY
  }

  /** Where the oldest open transaction but that of the producer begins; `end` if none is open. */
  stableOffsetWithout(producerId: number, end: number): number {
    for (const [id, offset] of this.#open) if (id !== producerId) return offset
    return end
  }

  /** The open transactions, oldest first. */
  *openTransactions(): Generator<{ readonly producerId: number; readonly epoch: number }> {
    for (const producerId of this.#open.keys()) {
      yield { producerId, epoch: this.#producers.get(producerId)!.epoch }
    }
  }

  /** Where the open transaction of a producer begins; -1 if it has none. */
  transactionOffset(producerId: number): number {
    return this.#open.get(producerId) ?? -1
  }

  /**
   * Whether this batch may be appended. Returns -1 if so, the base offset it already has if it is a repetition.
   * Throws OUT_OF_ORDER_SEQUENCE, DUPLICATE_SEQUENCE, INVALID_PRODUCER_EPOCH, INVALID_TXN_STATE.
   */
  check(bytes: Buffer, at: number): number {
    const id = producerId(bytes, at)
    const epoch = producerEpoch(bytes, at)
    const first = baseSequence(bytes, at)
    const last = sequenceAfter(first, lastOffsetDelta(bytes, at))
    const entry = this.#producers.get(id)
    if (entry === undefined) return -1 // expired, deleted with its segment or new: Kafka too takes any first sequence
    if (epoch < entry.epoch) {
      throw oldEpoch(id, epoch, entry.epoch)
    }
    const repeated = entry.batches.find(batch => batch.firstSequence === first && batch.lastSequence === last)
    if (repeated !== undefined && epoch === entry.epoch) return repeated.baseOffset
    if (this.#open.has(id) && !isTransactional(bytes, at)) {
      const message = `producer ${id} has a transaction open, and sends a batch that is not part of one`
      throw new SluiceError('INVALID_TXN_STATE', message, { producerId: id })
    }
    const newest = epoch === entry.epoch ? entry.batches.at(-1) : undefined
    if (newest === undefined) {
      if (first !== 0) throw outOfOrder(id, first, 0)
      return -1
    }
    const expected = sequenceAfter(newest.lastSequence, 1)
    if (first === expected) return -1
    if (isBefore(last, expected)) {
      throw new SluiceError(
        'DUPLICATE_SEQUENCE',
        `producer ${id} repeats sequence ${first}, which is older than the batches remembered`,
        { producerId: id, sequence: first, expected },
      )
    }
    throw outOfOrder(id, first, expected)
  }

  /** Takes an appended batch into account. */
  note(bytes: Buffer, at: number, baseOffset: number): void {
    const id = producerId(bytes, at)
    const epoch = producerEpoch(bytes, at)
    let entry = this.#producers.get(id)
    // Re-inserted at the end: the map stays in order of last use.
    if (entry !== undefined) this.#producers.delete(id)
    if (entry === undefined || entry.epoch !== epoch) entry = { epoch, lastTimestamp: -1, batches: [] }
    this.#producers.set(id, entry)
    const first = baseSequence(bytes, at)
    const delta = lastOffsetDelta(bytes, at)
    entry.lastTimestamp = maxTimestamp(bytes, at)
    entry.batches.push({
      firstSequence: first,
      lastSequence: sequenceAfter(first, delta),
      baseOffset,
      lastOffset: baseOffset + delta,
    })
    if (entry.batches.length > BATCHES_REMEMBERED) entry.batches.shift()
    if (isTransactional(bytes, at) && !this.#open.has(id)) this.#open.set(id, baseOffset)
    if (this.#producers.size > this.#countMax) this.#forgetOne()
  }

  /** Throws INVALID_PRODUCER_EPOCH if the producer has a newer epoch than the marker that is to end its transaction. */
  checkMarker(id: number, epoch: number): void {
    const entry = this.#producers.get(id)
    if (entry !== undefined && epoch < entry.epoch) throw oldEpoch(id, epoch, entry.epoch)
  }

  /** Takes an appended marker into account. Returns the transaction that it ends; null if none was open. */
  noteMarker(id: number, epoch: number, offset: number, timestamp: number): EndedTransaction | null {
    const entry = this.#producers.get(id)
    if (entry !== undefined && epoch >= entry.epoch) {
      // What comes with the new epoch begins at sequence 0.
      if (epoch > entry.epoch) entry.batches = []
      entry.epoch = epoch
      entry.lastTimestamp = Math.max(entry.lastTimestamp, timestamp)
    }
    const firstOffset = this.#open.get(id)
    if (firstOffset === undefined) return null
    this.#open.delete(id)
    return { producerId: id, firstOffset, lastOffset: offset }
  }

  /** The one that was silent longest, of those without an open transaction. */
  #forgetOne(): void {
    for (const id of this.#producers.keys()) {
      if (this.#open.has(id)) continue
      this.#producers.delete(id)
      return
    }
  }

  /** Where the last batch of a producer ends; -1 if none is remembered. */
  lastOffsetOf(producerId: number): number {
    return this.#producers.get(producerId)?.batches.at(-1)?.lastOffset ?? -1
  }

  /** All that are remembered, the one that was silent longest first. */
  *list(): Generator<RememberedProducer> {
    for (const [producerId, { epoch, lastTimestamp, batches }] of this.#producers) {
      const transactionOffset = this.transactionOffset(producerId)
      yield {
        producerId,
        epoch,
        lastSequence: batches.at(-1)?.lastSequence ?? -1,
        lastTimestamp,
        transactionOffset,
      }
    }
  }

  /** Forgets producers whose last batch is older than `timestamp`. */
  expire(timestamp: number): void {
    for (const [id, entry] of this.#producers) {
      if (entry.lastTimestamp < timestamp && !this.#open.has(id)) this.#producers.delete(id)
    }
  }

  clear(): void {
    this.#producers.clear()
    this.#open.clear()
  }

  /** The state as the bytes of a snapshot. */
  encode(): Buffer {
    const bytes = Buffer.alloc(SNAPSHOT_HEADER_BYTES + this.#producers.size * SNAPSHOT_ENTRY_BYTES)
    bytes.writeInt16BE(SNAPSHOT_VERSION, 0)
    bytes.writeInt32BE(this.#producers.size, 6)
    let at = SNAPSHOT_HEADER_BYTES
    for (const [id, entry] of this.#producers) {
      const newest = entry.batches.at(-1) ?? NO_BATCH
      writeInt64(bytes, at, id)
      bytes.writeInt16BE(entry.epoch, at + 8)
      bytes.writeInt32BE(newest.lastSequence, at + 10)
      writeInt64(bytes, at + 14, newest.lastOffset)
      bytes.writeInt32BE(newest.lastOffset - newest.baseOffset, at + 22)
      writeInt64(bytes, at + 26, entry.lastTimestamp)
      bytes.writeInt32BE(-1, at + 34)
      writeInt64(bytes, at + 38, this.transactionOffset(id))
      at += SNAPSHOT_ENTRY_BYTES
    }
    bytes.writeUInt32BE(crc32c(bytes.subarray(6)), 2)
    return bytes
  }

  /** Takes over a snapshot. Returns false, changing nothing, if it is damaged. */
  decode(bytes: Buffer): boolean {
    if (bytes.length < SNAPSHOT_HEADER_BYTES || bytes.readInt16BE(0) !== SNAPSHOT_VERSION) return false
    if (bytes.readUInt32BE(2) !== crc32c(bytes.subarray(6))) return false
    const count = bytes.readInt32BE(6)
    if (bytes.length !== SNAPSHOT_HEADER_BYTES + count * SNAPSHOT_ENTRY_BYTES) return false
    this.clear()
    const open: [producerId: number, firstOffset: number][] = []
    for (let at = SNAPSHOT_HEADER_BYTES; at < bytes.length; at += SNAPSHOT_ENTRY_BYTES) {
      const lastSequence = bytes.readInt32BE(at + 10)
      const lastOffset = readInt64(bytes, at + 14)
      const delta = bytes.readInt32BE(at + 22)
      const id = readInt64(bytes, at)
      const batch = {
        firstSequence:
          lastSequence >= delta ? lastSequence - delta : SEQUENCE_MAX - (delta - lastSequence) + 1,
        lastSequence,
        baseOffset: lastOffset - delta,
        lastOffset,
      }
      this.#producers.set(id, {
        epoch: bytes.readInt16BE(at + 8),
        lastTimestamp: readInt64(bytes, at + 26),
        batches: lastSequence < 0 ? [] : [batch],
      })
      const firstOffset = readInt64(bytes, at + 38)
      if (firstOffset >= 0) open.push([id, firstOffset])
    }
    open.sort((a, b) => a[1] - b[1])
    for (const [id, firstOffset] of open) this.#open.set(id, firstOffset)
    return true
  }
}

/** Whether `sequence` lies before `expected`, over the wrap. */
const isBefore = (sequence: number, expected: number): boolean => {
  const distance = expected - sequence
  return distance > 0 ? distance < 2 ** 30 : distance < -(2 ** 30)
}

const oldEpoch = (id: number, epoch: number, currentEpoch: number): SluiceError =>
  new SluiceError(
    'INVALID_PRODUCER_EPOCH',
    `producer ${id} has epoch ${currentEpoch} by now, the batch comes from epoch ${epoch}`,
    { producerId: id, epoch, currentEpoch },
  )

const outOfOrder = (id: number, sequence: number, expected: number): SluiceError =>
  new SluiceError(
    'OUT_OF_ORDER_SEQUENCE',
    `producer ${id} sends sequence ${sequence} where ${expected} is due`,
    {
      producerId: id,
      sequence,
      expected,
    },
  )

const TEMPORARY_NAME = 'snapshot.tmp'
const SNAPSHOT_NAME = /^(\d{20})\.snapshot$/

/** Offsets of the snapshots in a folder, ascending. */
export const snapshotOffsets = (names: Iterable<string>): number[] =>
  [...names].flatMap(name => SNAPSHOT_NAME.exec(name)?.[1] ?? []).map(Number)

/** Writes the snapshot (`encode`) of the state before `offset`; durable once the caller has synced the folder. Rejects with DiskError. */
export async function writeSnapshot(
  disk: Disk,
  directory: string,
  offset: number,
  snapshot: Buffer,
): Promise<void> {
  // There may be one of this offset that the checkpoint relies on: it is replaced as a whole.
  const file = disk.open(`${directory}/${TEMPORARY_NAME}`, 'create')
  try {
    file.write(snapshot, 0)
    await file.sync()
  } finally {
    file.close()
  }
  disk.rename(`${directory}/${TEMPORARY_NAME}`, `${directory}/${segmentName(offset, 'snapshot')}`)
}

/** Removes snapshots that a newer one replaces. */
export function removeSnapshotsBefore(disk: Disk, directory: string, offset: number): void {
  for (const snapshot of snapshotOffsets(disk.list(directory))) {
    if (snapshot < offset) disk.remove(`${directory}/${segmentName(snapshot, 'snapshot')}`)
  }
}

/** Reads a snapshot into `state`; false if it is damaged or gone. Throws DiskError if it cannot be read: it may be good. */
export function readSnapshot(disk: Disk, directory: string, offset: number, state: ProducerState): boolean {
  try {
    const file = disk.open(`${directory}/${segmentName(offset, 'snapshot')}`, 'read')
    try {
      return state.decode(readFully(file, 0, file.size()))
    } finally {
      file.close()
    }
  } catch (error) {
    if (error instanceof DiskError && error.code === 'ENOENT') return false
    throw error
  }
}
