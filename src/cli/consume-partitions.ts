/** Reading without a group: partitions from given positions, to their ends or on and on. */

import type { Engine, Fetched } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import { RecordCursor } from '../record/cursor.ts'
import { offsetAt, type Position, parsePosition } from '../server/http/positions.ts'
import { offsetAfter } from '../server/http/read.ts'
import type { Output } from './consume.ts'
import type { Context, Invocation } from './context.ts'

interface Place {
  readonly topic: string
  readonly partition: number
  /** Read next. */
  offset: number
  /** Where to stop; Infinity with --follow. */
  readonly end: number
}

const WAIT_MS = 60_000
const PARTITION_BYTES_MAX = 1024 * 1024
/** Over all partitions of one fetch, roughly. */
const FETCH_BYTES_MAX = 32 * 1024 * 1024

export async function consumePartitions(context: Context, invocation: Invocation, output: Output): Promise<void> {
  const from = parsePosition(invocation.text('from') ?? 'earliest', '--from')
  const wanted = invocation.list('partition').map(readPartition)
  const interrupted = context.interruption()
  await using sluice = await context.open({ create: false })
  const { engine } = sluice
  const places: Place[] = []
  for (const topic of invocation.operands) {
    places.push(...(await placesOf(engine, topic, wanted, from, invocation.has('follow'))))
  }
  while (!output.isComplete && !interrupted.aborted) {
    const open = places.filter(({ offset, end }) => offset < end)
    if (open.length === 0) return
    const share = Math.floor(FETCH_BYTES_MAX / open.length)
    const fetched = await engine.fetch(open, {
      partitionBytesMax: Math.min(PARTITION_BYTES_MAX, Math.max(16 * 1024, share)),
      waitMs: WAIT_MS,
      signal: interrupted,
    })
    for (const [index, part] of fetched.entries()) {
      if (part.error) throw part.error
      take(part, open[index], output)
    }
    await output.flush()
  }
}

async function placesOf(
  engine: Engine,
  topic: string,
  wanted: readonly number[],
  from: Position,
  isFollowing: boolean,
): Promise<Place[]> {
  const { partitions } = await engine.describeTopic(topic)
  const places: Place[] = []
  for (const { partition, endOffset } of partitions) {
    if (wanted.length > 0 && !wanted.includes(partition)) continue
    if (from instanceof Map && !from.has(partition)) continue
    const offset = await offsetAt(engine, topic, partition, from)
    places.push({ topic, partition, offset, end: isFollowing ? Number.POSITIVE_INFINITY : endOffset })
  }
  const missing = [...wanted, ...(from instanceof Map ? from.keys() : [])].find(number => number >= partitions.length)
  if (missing === undefined) return places
  const message = `${topic} has partitions 0 to ${partitions.length - 1}, not ${missing}`
  throw new SluiceError('INVALID_PARTITION', message, { topic, partition: missing })
}

/** Adds the messages of a partition to the output, and moves its place past them. */
function take({ topic, partition, batches }: Fetched, place: Place, output: Output): void {
  const cursor = new RecordCursor(batches)
  while (!output.isComplete && cursor.next()) {
    if (cursor.offset < place.offset) continue
    if (cursor.offset >= place.end) {
      place.offset = place.end
      return
    }
    const { bytes, keyStart, keyBytes, valueStart, valueBytes } = cursor
    output.add({
      topic,
      partition,
      offset: cursor.offset,
      timestamp: cursor.timestamp,
      key: keyBytes < 0 ? null : bytes.subarray(keyStart, keyStart + keyBytes),
      value: valueBytes < 0 ? null : bytes.subarray(valueStart, valueStart + valueBytes),
      headers: cursor.headerCount === 0 ? [] : cursor.headers(),
    })
    place.offset = cursor.offset + 1
  }
  // What is at the end of the batches may be nothing to print: markers, or records that compaction has removed.
  if (!output.isComplete && batches.length > 0) place.offset = Math.max(place.offset, offsetAfter(batches))
}

function readPartition(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new SluiceError('INVALID_ARGUMENT', `--partition: ${JSON.stringify(text)} is not a partition`)
}
