/** Reads what a topic holds now, from one place to another, without a group: for lists and tools, not for those who wait for news. */

import type { Engine } from '../engine/engine.ts'
import { isRetriable } from './fetcher.ts'
import { MessageBatch } from './message.ts'
import type { AnyTopic } from './topic.ts'

export interface ScanRange {
  readonly partition: number
  /** Default: the first offset there is. */
  readonly from?: number
  /** Exclusive. Default: the end as it is when the scan begins. */
  readonly to?: number
  /**
   * Told after each read where the next one begins. Short of `to` at the end: what comes next was not decided within a minute, and whoever goes
   * on behind it would pass over it.
   */
  passed?(offset: number): void
}

const FETCH_BYTES_MAX = 4 * 1024 * 1024
/** Between two looks for what is there but cannot be read yet: transactions are being decided. */
const WAIT_MS = 500
/** Reads that bring nothing, one after another, before the rest is taken for undecidable. */
const EMPTY_READS_MAX = 120

/**
 * Batches in the order of their offsets, of decided transactions only. The last batch may go beyond `to`. Rejects with what reading is refused
 * with, also if that would pass and has not for a minute; `OFFSET_OUT_OF_RANGE` cannot be if `from` is left out.
 */
export async function* scanPartition(
  engine: Engine,
  topic: AnyTopic,
  range: ScanRange,
): AsyncGenerator<MessageBatch<unknown, unknown>> {
  const { partition } = range
  const to = range.to ?? (await engine.offsetFor(topic.name, partition, 'latest'))
  let offset = range.from ?? (await engine.offsetFor(topic.name, partition, 'earliest'))
  for (let emptyReads = 0; offset < to && emptyReads < EMPTY_READS_MAX; emptyReads++) {
    const [fetched] = await engine.fetch([{ topic: topic.name, partition, offset }], {
      partitionBytesMax: FETCH_BYTES_MAX,
      waitMs: WAIT_MS,
    })
    if (fetched.error !== undefined && !isRetriable(fetched.error)) throw fetched.error
    if (fetched.batches.length === 0) {
      // who is given half must not take it for the whole
      if (fetched.error !== undefined && emptyReads === EMPTY_READS_MAX - 1) throw fetched.error
      continue
    }
    emptyReads = 0
    const batch = new MessageBatch<unknown, unknown>({ topic, partition }, fetched.batches, offset)
    offset = batch.lastOffset + 1
    range.passed?.(offset)
    if (batch.count > 0) yield batch
  }
}
