/**
 * ListOffsets: the offset at a mark (earliest, latest, largest timestamp) or of the first record at or after a time.
 *
 * Looking up a time costs at most one walk through a segment's tail; nothing is decoded but the batch that is found.
 */

import type { Partition } from '../../broker/partition.ts'
import { isSluiceError } from '../../errors.ts'
import { batchBytes, lastOffset, maxTimestamp } from '../../record/batch.ts'
import { RecordCursor } from '../../record/cursor.ts'
import { listOffsetsApi } from '../../wire/kafka/list-offsets.ts'
import { type Decoded, type Encodable, ZERO_UUID } from '../../wire/kafka/schema.ts'
import { handler, kafkaCodeOf, type RequestContext } from './handler.ts'
import { findPartition, leaderEpochError } from './topic-lookup.ts'

type Wanted = Decoded<typeof listOffsetsApi.request.fields>['topics'][number]['partitions'][number]
type Answer = Encodable<typeof listOffsetsApi.response.fields>['topics'][number]['partitions'][number]

/** Marks in place of a timestamp, and the version from which a request may have them. */
const LATEST = -1
const EARLIEST = -2
const MAX_TIMESTAMP = -3
const EARLIEST_LOCAL = -4
const markVersions: Readonly<Record<number, number>> = {
  [LATEST]: 0,
  [EARLIEST]: 0,
  [MAX_TIMESTAMP]: 7,
  [EARLIEST_LOCAL]: 8,
  [-5]: 9, // latest in tiered storage: there is none
  [-6]: 11, // earliest that is to be copied there
}

const LEADER_EPOCH = 0
const UNSUPPORTED_VERSION = 35
const SCAN_BYTES = 256 * 1024
const READ_COMMITTED = 1

interface Place {
  readonly timestamp: number
  readonly offset: number
}

const NOWHERE: Place = { timestamp: -1, offset: -1 }

export const listOffsetsHandler = handler(listOffsetsApi, async (request, context) => {
  const topics = []
  for (const { name, partitions } of request.topics) {
    const answers: Answer[] = []
    const stableOnly = request.isolationLevel === READ_COMMITTED
    for (const partition of partitions) answers.push(await answerFor(name, partition, stableOnly, context))
    topics.push({ name, partitions: answers })
  }
  return { topics }
})

async function answerFor(
  topic: string,
  wanted: Wanted,
  stableOnly: boolean,
  context: RequestContext,
): Promise<Answer> {
  const { broker, version } = context
  const { partitionIndex, timestamp } = wanted
  const found = findPartition(broker, topic, ZERO_UUID, partitionIndex)
  if (typeof found === 'number') return { partitionIndex, errorCode: found }
  const errorCode = leaderEpochError(wanted.currentLeaderEpoch)
  if (errorCode !== 0) return { partitionIndex, errorCode }
  if (timestamp < 0 && !(version >= (markVersions[timestamp] ?? Number.POSITIVE_INFINITY))) {
    return { partitionIndex, errorCode: UNSUPPORTED_VERSION }
  }
  try {
    const place = await find(found, timestamp, stableOnly ? found.lastStableOffset : found.highWatermark)
    const offsets = place.offset < 0 || wanted.maxNumOffsets < 1 ? [] : [place.offset]
    return {
      partitionIndex,
      errorCode,
      oldStyleOffsets: offsets,
      ...place,
      leaderEpoch: place.offset < 0 ? -1 : LEADER_EPOCH,
    }
  } catch (error) {
    if (!isSluiceError(error)) throw error
    return { partitionIndex, errorCode: kafkaCodeOf(error) }
  }
}

/** `end`: of what the client may read. */
function find(partition: Partition, timestamp: number, end: number): Place | Promise<Place> {
  switch (timestamp) {
    case LATEST:
      return { timestamp: -1, offset: end }
    case EARLIEST:
    case EARLIEST_LOCAL:
      return { timestamp: -1, offset: partition.startOffset }
    case MAX_TIMESTAMP:
      return findMaxTimestamp(partition)
    default:
      return timestamp < 0 ? NOWHERE : findTime(partition, timestamp, end)
  }
}

/** The first record at or after a time. */
async function findTime(partition: Partition, timestamp: number, end: number): Promise<Place> {
  const offset = await partition.log.offsetForTime(timestamp, end)
  if (offset < 0) return NOWHERE
  const cursor = new RecordCursor(await partition.read(offset, 1))
  while (cursor.next()) if (cursor.offset === offset) return { timestamp: cursor.timestamp, offset }
  return NOWHERE
}

/** The first of the records with the largest timestamp. A walk over the headers of all batches: tools ask for it, rarely. */
async function findMaxTimestamp(partition: Partition): Promise<Place> {
  const end = partition.highWatermark
  let largest = -1
  let offset = partition.startOffset
  while (offset < end) {
    const batches = await partition.read(offset, SCAN_BYTES)
    if (batches.length === 0) break
    for (let at = 0; at < batches.length; at += batchBytes(batches, at)) {
      largest = Math.max(largest, maxTimestamp(batches, at))
      offset = lastOffset(batches, at) + 1
    }
  }
  return largest < 0 ? NOWHERE : findTime(partition, largest, end)
}
