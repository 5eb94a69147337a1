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
  /** Oldest first. */
  batches: StoredBatch[]
}

/** What can be told of a producer. */
export interface RememberedProducer {
  readonly producerId: number
  readonly epoch: number
  readonly lastSequence: number
  /** Of its last batch, ms. */
  readonly lastTimestamp: number
}

/** Sequences wrap from 2^31 − 1 to 0. */
const sequenceAfter = (sequence: number, count: number): number =>
  sequence > SEQUENCE_MAX - count ? count - (SEQUENCE_MAX - sequence) - 1 : sequence + count

export class ProducerState {
  readonly #producers = new Map<number, ProducerEntry>()
  readonly #countMax: number

  /** `countMax`: producers remembered; past that the one that was silent longest is forgotten. */
  constructor(countMax = 100_000) {
    this.#countMax = countMax
  }

  get count(): number {
    return this.#producers.size
  }

  /**
   * Whether this batch may be appended. Returns -1 if so, the base offset it already has if it is a repetition.
   * Throws OUT_OF_ORDER_SEQUENCE, DUPLICATE_SEQUENCE, INVALID_PRODUCER_EPOCH.
   */
  check(bytes: Buffer, at: number): number {
    const id = producerId(bytes, at)
    const epoch = producerEpoch(bytes, at)
    const first = baseSequence(bytes, at)
    const last = sequenceAfter(first, lastOffsetDelta(bytes, at))
    const entry = this.#producers.get(id)
    if (entry === undefined) return -1 // expired, deleted with its segment or new: Kafka too takes any first sequence
    if (epoch < entry.epoch) {
      throw new SluiceError(
        'INVALID_PRODUCER_EPOCH',
        `producer ${id} has epoch ${entry.epoch} by now, the batch comes from epoch ${epoch}`,
        { producerId: id, epoch, currentEpoch: entry.epoch },
      )
    }
    if (epoch > entry.epoch) {
      if (first !== 0) throw outOfOrder(id, first, 0)
      return -1
    }
    const repeated = entry.batches.find(batch => batch.firstSequence === first && batch.lastSequence === last)
    if (repeated !== undefined) return repeated.baseOffset
    const newest = entry.batches.at(-1)
    if (newest === undefined) return -1
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
    if (this.#producers.size > this.#countMax) this.#producers.delete(this.#producers.keys().next().value!)
  }

  /** All that are remembered, the one that was silent longest first. */
  *list(): Generator<RememberedProducer> {
    for (const [producerId, { epoch, lastTimestamp, batches }] of this.#producers) {
      yield { producerId, epoch, lastSequence: batches.at(-1)?.lastSequence ?? -1, lastTimestamp }
    }
  }

  /** Forgets producers whose last batch is older than `timestamp`. */
  expire(timestamp: number): void {
    for (const [id, entry] of this.#producers) if (entry.lastTimestamp < timestamp) this.#producers.delete(id)
  }

  clear(): void {
    this.#producers.clear()
  }

  /** The state as the bytes of a snapshot. */
  encode(): Buffer {
    const bytes = Buffer.alloc(SNAPSHOT_HEADER_BYTES + this.#producers.size * SNAPSHOT_ENTRY_BYTES)
    bytes.writeInt16BE(SNAPSHOT_VERSION, 0)
    bytes.writeInt32BE(this.#producers.size, 6)
    let at = SNAPSHOT_HEADER_BYTES
    for (const [id, entry] of this.#producers) {
      const newest = entry.batches.at(-1)!
      writeInt64(bytes, at, id)
      bytes.writeInt16BE(entry.epoch, at + 8)
      bytes.writeInt32BE(newest.lastSequence, at + 10)
      writeInt64(bytes, at + 14, newest.lastOffset)
      bytes.writeInt32BE(newest.lastOffset - newest.baseOffset, at + 22)
      writeInt64(bytes, at + 26, entry.lastTimestamp)
      bytes.writeInt32BE(-1, at + 34)
      writeInt64(bytes, at + 38, -1)
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
    this.#producers.clear()
    for (let at = SNAPSHOT_HEADER_BYTES; at < bytes.length; at += SNAPSHOT_ENTRY_BYTES) {
      const lastSequence = bytes.readInt32BE(at + 10)
      const lastOffset = readInt64(bytes, at + 14)
      const delta = bytes.readInt32BE(at + 22)
      this.#producers.set(readInt64(bytes, at), {
        epoch: bytes.readInt16BE(at + 8),
        lastTimestamp: readInt64(bytes, at + 26),
        batches: [
          {
            firstSequence:
              lastSequence >= delta ? lastSequence - delta : SEQUENCE_MAX - (delta - lastSequence) + 1,
            lastSequence,
            baseOffset: lastOffset - delta,
            lastOffset,
          },
        ],
      })
    }
    return true
  }
}

/** Whether `sequence` lies before `expected`, over the wrap. */
const isBefore = (sequence: number, expected: number): boolean => {
  const distance = expected - sequence
  return distance > 0 ? distance < 2 ** 30 : distance < -(2 ** 30)
}

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
