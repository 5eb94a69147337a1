/**
 * Committed offsets: a table per group, kept in the log `__consumer_offsets` in Kafka's own record format.
 *
 *   offset   key:    version int16 = 1 │ group string │ topic string │ partition int32
 *            value:  version int16 = 3 │ offset int64 │ leader epoch int32 │ metadata string │ commit time int64 (ms)
 *   group    key:    version int16 = 2 │ group string
 *            value:  version int16 = 3 │ protocol type string │ generation int32 │ protocol string │ leader string
 *                    │ time of the last change of state int64 (ms) │ members array
 *
 * string: length int16 (-1: null), UTF-8. The table changes in the turn of the commit; the promise tells when that is as
 * durable as the flush policy promises. Whether a member may commit is the coordinator's to say (`groups.ts`).
 *
 * Offsets are forgotten when they have been of no use for long enough: counted from the commit, or from the time that the
 * group lost its last member if that was later. That time is what the group record is for: it is there while the group has
 * offsets but no members, so that a restart does not begin to count anew. A group that had members when the broker
 * stopped, or was never more than its offsets, gets one at the start.
 */

import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { readInt64, writeInt64 } from '../record/batch.ts'
import type { Partition } from './partition.ts'
import { type StateEntry, StateLog } from './state-log.ts'

/** Kafka's `offset.metadata.max.bytes`. */
export const METADATA_BYTES_MAX = 4096
const OFFSET_KEY_VERSION = 1
const GROUP_KEY_VERSION = 2
const VALUE_VERSION = 3

export interface OffsetCommit {
  readonly topic: string
  readonly partition: number
  readonly offset: number
  readonly metadata: string
  /** Of the last record that was handled, for finding out about logs that were cut; -1: not known. Default -1. */
  readonly leaderEpoch?: number
}

export interface StoredOffset extends OffsetCommit {
  readonly leaderEpoch: number
  /** When it was committed, ms. */
  readonly time: number
}

const place = (topic: string, partition: number): string => `${topic}-${partition}`

export class OffsetStore {
  readonly #clock: Clock
  readonly #groups = new Map<string, Map<string, StoredOffset>>()
  /** Groups without members → since when, ms. Only of groups that have offsets. */
  readonly #emptySince = new Map<string, number>()
  #log!: StateLog

  static async open(partition: Partition, clock: Clock): Promise<OffsetStore> {
    const store = new OffsetStore(clock)
    store.#log = await StateLog.open({
      partition,
      clock,
      load: (key, value) => store.#load(key, value),
      entries: () => store.#entries(),
    })
    for (const group of store.#groups.keys()) if (!store.#emptySince.has(group)) store.vacated(group)
    return store
  }

  private constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Groups that have offsets. */
  groups(): IterableIterator<string> {
    return this.#groups.keys()
  }

  /** Stores offsets. Throws what `checkOffset` throws, before anything is changed. */
  commit(group: string, commits: readonly OffsetCommit[]): Promise<void> {
    for (const commit of commits) checkOffset(commit)
    const time = this.#clock.now()
    let table = this.#groups.get(group)
    if (table === undefined) {
      if (commits.length === 0) return Promise.resolve()
      table = new Map()
      this.#groups.set(group, table)
    }
    const entries: StateEntry[] = []
    for (const { topic, partition, offset, metadata, leaderEpoch = -1 } of commits) {
      const stored = { topic, partition, offset, metadata, leaderEpoch, time }
      table.set(place(topic, partition), stored)
      entries.push([encodeKey(group, topic, partition), encodeValue(stored)])
    }
    return this.#log.write(entries)
  }

  get(group: string, topic: string, partition: number): StoredOffset | undefined {
    return this.#groups.get(group)?.get(place(topic, partition))
  }

  all(group: string): StoredOffset[] {
    return [...(this.#groups.get(group)?.values() ?? [])]
  }

  /** Forgets offsets of a group: those of one topic, or of some of its partitions, or all. */
  remove(group: string, topic?: string, partitions?: readonly number[]): Promise<void> {
    return this.#remove(
      group,
      stored =>
        (topic === undefined || stored.topic === topic) &&
        (partitions === undefined || partitions.includes(stored.partition)),
    )
  }

  /** Forgets the offsets that all groups have in topics that are gone. */
  async removeTopics(isGone: (topic: string) => boolean): Promise<void> {
    await Promise.all(
      [...this.#groups.keys()].map(group => this.#remove(group, ({ topic }) => isGone(topic))),
    )
  }

  /** The group has lost its last member. */
  vacated(group: string): void {
    if (!this.#groups.has(group)) return
    const time = this.#clock.now()
    this.#emptySince.set(group, time)
    this.#note([[encodeGroupKey(group), encodeGroupValue(time)]])
  }

  /** The group has members. */
  occupied(group: string): void {
    if (this.#emptySince.delete(group)) this.#note([[encodeGroupKey(group), null]])
  }

  /**
   * Forgets offsets that were committed before `time`, in groups that have had no members since then. `inUse`: those
   * of a group that the topic's offsets are kept for, whatever their age.
   */
  async expire(time: number, inUse: (group: string, topic: string) => boolean): Promise<void> {
    const removals: Promise<void>[] = []
    for (const group of [...this.#groups.keys()]) {
      if ((this.#emptySince.get(group) ?? 0) >= time) continue
      removals.push(this.#remove(group, stored => stored.time < time && !inUse(group, stored.topic)))
    }
    await Promise.all(removals)
  }

  async #remove(group: string, concerns: (stored: StoredOffset) => boolean): Promise<void> {
    const table = this.#groups.get(group)
    if (table === undefined) return
    const entries: StateEntry[] = []
    const removed: StoredOffset[] = []
    for (const [key, stored] of table) {
      if (!concerns(stored)) continue
      table.delete(key)
      removed.push(stored)
      entries.push([encodeKey(group, stored.topic, stored.partition), null])
    }
    const emptySince = this.#emptySince.get(group)
    if (table.size === 0) {
      this.#groups.delete(group)
      if (this.#emptySince.delete(group)) entries.push([encodeGroupKey(group), null])
    }
    try {
      await this.#log.write(entries)
    } catch (error) {
      this.#putBack(group, removed, emptySince)
      throw error
    }
  }

  /** They are still stored: whoever removes them again must find them. Others may have come meanwhile. */
  #putBack(group: string, removed: readonly StoredOffset[], emptySince: number | undefined): void {
    if (removed.length === 0) return
    const table = this.#groups.get(group) ?? new Map<string, StoredOffset>()
    const isForgotten = table.size === 0
    this.#groups.set(group, table)
    for (const stored of removed) {
      const key = place(stored.topic, stored.partition)
      if (!table.has(key)) table.set(key, stored)
    }
    if (isForgotten && emptySince !== undefined) this.#emptySince.set(group, emptySince)
  }

  /** Writes what nobody waits for. If it is lost, offsets are kept longer; what the disk has against it shows at the next commit. */
  #note(entries: StateEntry[]): void {
    this.#log.write(entries).catch(error => {
      if (!(error instanceof SluiceError)) throw error
    })
  }

  close(): Promise<void> {
    return this.#log.close()
  }

  #load(key: Buffer, value: Buffer | null): void {
    if (key.readInt16BE(0) === GROUP_KEY_VERSION) {
      const group = key.toString('utf8', 4, 4 + key.readInt16BE(2))
      if (value === null) this.#emptySince.delete(group)
      else this.#emptySince.set(group, decodeGroupValue(value))
      return
    }
    const decoded = decodeKey(key)
    if (decoded === null) return
    const { group, topic, partition } = decoded
    const table = this.#groups.get(group) ?? new Map<string, StoredOffset>()
    if (value === null) table.delete(place(topic, partition))
    else table.set(place(topic, partition), { topic, partition, ...decodeValue(value) })
    if (table.size === 0) this.#groups.delete(group)
    else this.#groups.set(group, table)
  }

  *#entries(): Generator<StateEntry> {
    for (const [group, table] of this.#groups) {
      for (const stored of table.values()) {
        yield [encodeKey(group, stored.topic, stored.partition), encodeValue(stored)]
      }
    }
    for (const [group, time] of this.#emptySince) yield [encodeGroupKey(group), encodeGroupValue(time)]
  }
}

/**
 * Throws OFFSET_METADATA_TOO_LARGE and INVALID_ARGUMENT. An offset may be negative, as in Kafka: clients keep marks in it,
 * as kafkajs does when it resets a group to the earliest or latest record (-2, -1).
 */
export function checkOffset({ topic, partition, offset, metadata }: OffsetCommit): void {
  const detail = { topic, partition }
  if (!Number.isSafeInteger(offset)) {
    const message = `${offset} is not an offset that ${topic}/${partition} can have`
    throw new SluiceError('INVALID_ARGUMENT', message, { ...detail, offset })
  }
  const bytes = Buffer.byteLength(metadata)
  if (bytes <= METADATA_BYTES_MAX) return
  throw new SluiceError(
    'OFFSET_METADATA_TOO_LARGE',
    `${bytes} bytes of metadata for ${topic}/${partition}; ${METADATA_BYTES_MAX} are allowed`,
    { ...detail, bytes },
  )
}

function encodeKey(group: string, topic: string, partition: number): Buffer {
  const groupBytes = Buffer.byteLength(group)
  const topicBytes = Buffer.byteLength(topic)
  const key = Buffer.allocUnsafe(10 + groupBytes + topicBytes)
  key.writeInt16BE(OFFSET_KEY_VERSION, 0)
  key.writeInt16BE(groupBytes, 2)
  key.write(group, 4)
  key.writeInt16BE(topicBytes, 4 + groupBytes)
  key.write(topic, 6 + groupBytes)
  key.writeInt32BE(partition, 6 + groupBytes + topicBytes)
  return key
}

/** Null for keys of another kind: later versions may keep more in this log. */
function decodeKey(key: Buffer): { group: string; topic: string; partition: number } | null {
  if (key.readInt16BE(0) !== OFFSET_KEY_VERSION) return null
  const groupEnd = 4 + key.readInt16BE(2)
  const topicEnd = groupEnd + 2 + key.readInt16BE(groupEnd)
  return {
    group: key.toString('utf8', 4, groupEnd),
    topic: key.toString('utf8', groupEnd + 2, topicEnd),
    partition: key.readInt32BE(topicEnd),
  }
}

function encodeValue({ offset, leaderEpoch, metadata, time }: StoredOffset): Buffer {
  const metadataBytes = Buffer.byteLength(metadata)
  const value = Buffer.allocUnsafe(24 + metadataBytes)
  value.writeInt16BE(VALUE_VERSION, 0)
  writeInt64(value, 2, offset)
  value.writeInt32BE(leaderEpoch, 10)
  value.writeInt16BE(metadataBytes, 14)
  value.write(metadata, 16)
  writeInt64(value, 16 + metadataBytes, time)
  return value
}

function decodeValue(value: Buffer): Pick<StoredOffset, 'offset' | 'leaderEpoch' | 'metadata' | 'time'> {
  const metadataEnd = 16 + value.readInt16BE(14)
  return {
    offset: readInt64(value, 2),
    leaderEpoch: value.readInt32BE(10),
    metadata: value.toString('utf8', 16, metadataEnd),
    time: readInt64(value, metadataEnd),
  }
}

function encodeGroupKey(group: string): Buffer {
  const groupBytes = Buffer.byteLength(group)
  const key = Buffer.allocUnsafe(4 + groupBytes)
  key.writeInt16BE(GROUP_KEY_VERSION, 0)
  key.writeInt16BE(groupBytes, 2)
  key.write(group, 4)
  return key
}

/** As Kafka writes it of a group without members; nothing but the time is read again. */
function encodeGroupValue(time: number): Buffer {
  const value = Buffer.alloc(24)
  value.writeInt16BE(VALUE_VERSION, 0)
  value.writeInt16BE(-1, 8) // protocol, after an empty protocol type and generation 0
  value.writeInt16BE(-1, 10) // leader
  writeInt64(value, 12, time)
  return value
}

function decodeGroupValue(value: Buffer): number {
  let at = 4 + value.readInt16BE(2) + 4
  for (let strings = 0; strings < 2; strings++) at += 2 + Math.max(0, value.readInt16BE(at))
  return readInt64(value, at)
}
