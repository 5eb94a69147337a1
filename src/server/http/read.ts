/**
 * One read for `GET /consume`: from given offsets of one or more partitions up to so many messages, waiting for the
 * first if there is none yet. Nothing is remembered between two reads: the answer says where the next one begins.
 *
 * Messages of several partitions come merged by timestamp (order inside a partition is always that of the log), so a
 * full partition does not keep the others from being seen.
 */

import type { Engine, Fetched } from '../../engine/engine.ts'
import type { SluiceError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import { asBuffer, batchBytes, lastOffset } from '../../record/batch.ts'
import { RecordCursor } from '../../record/cursor.ts'
import { messageJson } from '../message-json.ts'

export interface ReadRequest {
  readonly topic: string
  /** Where to begin, per partition. */
  readonly offsets: ReadonlyMap<number, number>
  readonly countMax: number
  /** Bound of the answer; a single message may go over it. */
  readonly bytesMax: number
  readonly waitMs: number
  /** Ends the wait: the client has gone, or the server drains. */
  readonly signal: AbortSignal
}

export interface ReadAnswer {
  /** Each a message as JSON text. */
  readonly messages: readonly string[]
  /** Where the next read begins, and what to commit once these messages are dealt with. */
  readonly next: ReadonlyMap<number, number>
  /** The high watermark, per partition. */
  readonly end: ReadonlyMap<number, number>
  /** Partitions that could not be read, while others could. */
  readonly errors: ReadonlyMap<number, SluiceError>
}

const PARTITION_BYTES_MIN = 64 * 1024
const PARTITION_BYTES_MAX = 1024 * 1024

/** Throws what the engine says of a partition if none has anything to give. */
export async function read(engine: Engine, clock: Clock, request: ReadRequest): Promise<ReadAnswer> {
  const { topic, signal } = request
  const next = new Map(request.offsets)
  const deadline = clock.monotonic() + request.waitMs
  const share = Math.floor(request.bytesMax / Math.max(1, next.size))
  const partitionBytesMax = Math.min(PARTITION_BYTES_MAX, Math.max(PARTITION_BYTES_MIN, share))
  for (;;) {
    const wanted = [...next].map(([partition, offset]) => ({ topic, partition, offset }))
    const waitMs = signal.aborted ? 0 : Math.max(0, Math.ceil(deadline - clock.monotonic()))
    const fetched = await engine.fetch(wanted, { partitionBytesMax, waitMs, signal })
    const errors = new Map(fetched.flatMap(part => (part.error ? [[part.partition, part.error]] : [])))
    const messages = takeMessages(fetched, next, request)
    if (messages.length === 0 && errors.size > 0) throw [...errors.values()][0]
    // What was fetched may hold nothing to show (markers of transactions): then `next` has moved on, and we look again.
    const isEmpty = fetched.every(part => part.batches.length === 0)
    if (messages.length > 0 || signal.aborted || (isEmpty && clock.monotonic() >= deadline)) {
      return { messages, next, end: new Map(fetched.map(part => [part.partition, part.endOffset])), errors }
    }
  }
}

interface Source {
  readonly fetched: Fetched
  readonly cursor: RecordCursor
}

/** Merges what was fetched, and moves `next` past what was taken. */
function takeMessages(
  fetched: readonly Fetched[],
  next: Map<number, number>,
  request: ReadRequest,
): readonly string[] {
  const sources: Source[] = []
  for (const part of fetched) {
    if (part.error || part.batches.length === 0) continue
    const source = { fetched: part, cursor: new RecordCursor(part.batches) }
    if (advance(source, next)) sources.push(source)
  }
  const messages: string[] = []
  let bytes = 0
  while (sources.length > 0 && messages.length < request.countMax) {
    let first = 0
    for (let index = 1; index < sources.length; index++) {
      if (sources[index].cursor.timestamp < sources[first].cursor.timestamp) first = index
    }
    const source = sources[first]
    const json = currentMessageJson(source)
    bytes += Buffer.byteLength(json) + 1
    if (bytes > request.bytesMax && messages.length > 0) break
    messages.push(json)
    next.set(source.fetched.partition, source.cursor.offset + 1)
    if (!advance(source, next)) sources.splice(first, 1)
  }
  return messages
}

/** Moves to the next record at or after where this partition's reading stands; false, with `next` after the batches, at their end. */
function advance(source: Source, next: Map<number, number>): boolean {
  const { cursor, fetched } = source
  const from = next.get(fetched.partition)!
  while (cursor.next()) if (cursor.offset >= from) return true
  next.set(fetched.partition, Math.max(from, offsetAfter(fetched.batches)))
  return false
}

/** The offset that follows some whole batches. */
export function offsetAfter(batches: Uint8Array): number {
  const bytes = asBuffer(batches)
  let last = 0
  for (let at = 0; at < bytes.length; at += batchBytes(bytes, at)) last = at
  return lastOffset(bytes, last) + 1
}

function currentMessageJson({ cursor, fetched }: Source): string {
  const { bytes, offset, timestamp, keyStart, keyBytes, valueStart, valueBytes } = cursor
  return messageJson({
    topic: fetched.topic,
    partition: fetched.partition,
    offset,
    timestamp,
    key: keyBytes < 0 ? null : bytes.subarray(keyStart, keyStart + keyBytes),
    value: valueBytes < 0 ? null : bytes.subarray(valueStart, valueStart + valueBytes),
    headers: cursor.headerCount === 0 ? [] : cursor.headers(),
  })
}
