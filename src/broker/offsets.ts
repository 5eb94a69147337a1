/**
 * Committed offsets: a table per group, kept in the log `__consumer_offsets` in Kafka's own record format.
 *
 *   key:    version int16 = 1 │ group string │ topic string │ partition int32
 *   value:  version int16 = 3 │ offset int64 │ leader epoch int32 │ metadata string │ commit time int64 (ms)
 *
 * string: length int16, UTF-8. The table changes in the turn of the commit; the promise tells when that is as durable
 * as the flush policy promises. Whether a member may commit is the coordinator's to say (`groups.ts`).
 */

import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { readInt64, writeInt64 } from '../record/batch.ts'
import type { Partition } from './partition.ts'
import { type StateEntry, StateLog } from './state-log.ts'

/** Kafka's `offset.metadata.max.bytes`. */
export const METADATA_BYTES_MAX = 4096
const KEY_VERSION = 1
const VALUE_VERSION = 3

export interface OffsetCommit {
  readonly topic: string
  readonly partition: number
  readonly offset: number
  readonly metadata: string
}

interface StoredOffset extends OffsetCommit {
  /** When it was committed, ms. */
  readonly time: number
}

const place = (topic: string, partition: number): string => `${topic}-${partition}`

export class OffsetStore {
  readonly #clock: Clock
  readonly #groups = new Map<string, Map<string, StoredOffset>>()
  #log!: StateLog

  static async open(partition: Partition, clock: Clock): Promise<OffsetStore> {
    const store = new OffsetStore(clock)
    store.#log = await StateLog.open({
      partition,
      clock,
      load: (key, value) => store.#load(key, value),
      entries: () => store.#entries(),
    })
    return store
  }

  private constructor(clock: Clock) {
    this.#clock = clock
  }

  /** Groups that have offsets. */
  groups(): IterableIterator<string> {
    return this.#groups.keys()
  }

  /** Stores offsets. Throws OFFSET_METADATA_TOO_LARGE and INVALID_ARGUMENT before anything is changed. */
  commit(group: string, commits: readonly OffsetCommit[]): Promise<void> {
    for (const commit of commits) check(commit)
    const time = this.#clock.now()
    let table = this.#groups.get(group)
    if (table === undefined) {
      if (commits.length === 0) return Promise.resolve()
      table = new Map()
      this.#groups.set(group, table)
    }
    const entries: StateEntry[] = []
    for (const { topic, partition, offset, metadata } of commits) {
      const stored = { topic, partition, offset, metadata, time }
      table.set(place(topic, partition), stored)
      entries.push([encodeKey(group, topic, partition), encodeValue(stored)])
    }
    return this.#log.write(entries)
  }

  get(group: string, topic: string, partition: number): OffsetCommit | undefined {
    return this.#groups.get(group)?.get(place(topic, partition))
  }

  all(group: string): OffsetCommit[] {
    return [...(this.#groups.get(group)?.values() ?? [])]
  }

  /** Forgets offsets of a group: those of one topic, or all. */
  remove(group: string, topic?: string): Promise<void> {
    const table = this.#groups.get(group)
    if (table === undefined) return Promise.resolve()
    const entries: StateEntry[] = []
    for (const [key, stored] of table) {
      if (topic !== undefined && stored.topic !== topic) continue
      table.delete(key)
      entries.push([encodeKey(group, stored.topic, stored.partition), null])
    }
    if (table.size === 0) this.#groups.delete(group)
    return this.#log.write(entries)
  }

  close(): Promise<void> {
    return this.#log.close()
  }

  #load(key: Buffer, value: Buffer | null): void {
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
  }
}

function check({ topic, partition, offset, metadata }: OffsetCommit): void {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new SluiceError(
      'INVALID_ARGUMENT',
      `${offset} is not an offset that ${topic}/${partition} can have`,
      {
        topic,
        partition,
        offset,
      },
    )
  }
  const bytes = Buffer.byteLength(metadata)
  if (bytes <= METADATA_BYTES_MAX) return
  throw new SluiceError(
    'OFFSET_METADATA_TOO_LARGE',
    `${bytes} bytes of metadata for ${topic}/${partition}; ${METADATA_BYTES_MAX} are allowed`,
    { topic, partition, bytes },
  )
}

function encodeKey(group: string, topic: string, partition: number): Buffer {
  const groupBytes = Buffer.byteLength(group)
  const topicBytes = Buffer.byteLength(topic)
  const key = Buffer.allocUnsafe(10 + groupBytes + topicBytes)
  key.writeInt16BE(KEY_VERSION, 0)
  key.writeInt16BE(groupBytes, 2)
  key.write(group, 4)
  key.writeInt16BE(topicBytes, 4 + groupBytes)
  key.write(topic, 6 + groupBytes)
  key.writeInt32BE(partition, 6 + groupBytes + topicBytes)
  return key
}

/** Null for keys of another kind: later versions may keep more in this log. */
function decodeKey(key: Buffer): { group: string; topic: string; partition: number } | null {
  if (key.readInt16BE(0) !== KEY_VERSION) return null
  const groupEnd = 4 + key.readInt16BE(2)
  const topicEnd = groupEnd + 2 + key.readInt16BE(groupEnd)
  return {
    group: key.toString('utf8', 4, groupEnd),
    topic: key.toString('utf8', groupEnd + 2, topicEnd),
    partition: key.readInt32BE(topicEnd),
  }
}

function encodeValue({ offset, metadata, time }: StoredOffset): Buffer {
  const metadataBytes = Buffer.byteLength(metadata)
  const value = Buffer.allocUnsafe(24 + metadataBytes)
  value.writeInt16BE(VALUE_VERSION, 0)
  writeInt64(value, 2, offset)
  value.writeInt32BE(-1, 10)
  value.writeInt16BE(metadataBytes, 14)
  value.write(metadata, 16)
  writeInt64(value, 16 + metadataBytes, time)
  return value
}

function decodeValue(value: Buffer): { offset: number; metadata: string; time: number } {
  const metadataEnd = 16 + value.readInt16BE(14)
  return {
    offset: readInt64(value, 2),
    metadata: value.toString('utf8', 16, metadataEnd),
    time: readInt64(value, metadataEnd),
  }
}
