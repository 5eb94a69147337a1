/**
 * Delayed messages that wait, read from the rungs: what the relay's group has not finished (ledger.ts) and nobody has cancelled. A message that
 * is moved while the rungs are read may show in both places, or in neither: `down` reads against the direction in which they move, so that
 * none is overlooked.
 */

import type { CommittedOffset, Engine } from '../engine/engine.ts'
import { isSluiceError } from '../errors.ts'
import { RELAY_GROUP } from './delay-relay.ts'
import { cancelledTopic, type Rung, rungs, WHEEL_MS } from './delay-topics.ts'
import { readWaiting, type Waiting } from './delayed-message.ts'
import { isSame } from './fetcher.ts'
import { Ledger } from './ledger.ts'
import type { AnyTopic } from './topic.ts'
import { scanPartition } from './topic-scan.ts'

export interface PendingPlace {
  /** Index of the rung. */
  readonly rung: number
  readonly partition: number
  readonly offset: number
}

export interface Pending {
  readonly waiting: Waiting
  readonly place: PendingPlace
}

export interface PendingRange {
  /** Only what is due then: for it few records need be read. */
  readonly dueAt?: number
  /** From the shortest rung to the longest, or down. Default 'up'. */
  readonly direction?: 'up' | 'down'
  /** 'up': where to begin. */
  readonly from?: PendingPlace
}

/** Clocks that differ, and transactions that take their time. */
const SLACK_MS = 60_000

/** Nothing if nobody has used delay here. */
export async function* pendingMessages(engine: Engine, range: PendingRange = {}): AsyncGenerator<Pending> {
  const topics = new Set(await engine.listTopics())
  if (!topics.has(cancelledTopic.name)) return
  const cancelled = await readCancelled(engine)
  const commits = await committedOf(engine)
  const order = rungs.map((_, index) => index)
  if (range.direction === 'down') order.reverse()
  for (const index of order) {
    const { topic } = rungs[index]
    if (!topics.has(topic.name) || index < (range.from?.rung ?? 0)) continue
    const partitions = await engine.partitionsOf(topic.name)
    // side by side: on a cluster each is a few round trips
    const stretches = await Promise.all(
      Array.from({ length: partitions }, (_, partition) => {
        const commit = commits.find(found => isSame(found, { topic: topic.name, partition }))
        return stretchOf(engine, index, partition, commit, range)
      }),
    )
    for (const stretch of stretches) {
      for await (const pending of inStretch(engine, stretch, range)) {
        if (!cancelled.has(pending.waiting.id)) yield pending
      }
    }
  }
}

/** What is to be read of a partition of a rung; nothing if `to` is not after `from`. */
interface Stretch {
  readonly index: number
  readonly partition: number
  readonly ledger: Ledger
  readonly from: number
  readonly to: number
}

async function stretchOf(
  engine: Engine,
  index: number,
  partition: number,
  commit: CommittedOffset | undefined,
  { dueAt, from: place }: PendingRange,
): Promise<Stretch> {
  const { name } = rungs[index].topic
  const ledger = new Ledger(commit?.offset ?? 0, commit?.metadata)
  const isBefore = place?.rung === index && partition < place.partition
  if (isBefore) return { index, partition, ledger, from: 0, to: 0 }
  const [first, last] = dueAt === undefined ? [] : whenItCame(rungs[index], rungs[index + 1], dueAt)
  const offsetAt = (time: number | undefined, otherwise: 'earliest' | 'latest'): Promise<number> =>
    engine.offsetFor(name, partition, time === undefined ? otherwise : { time: Math.max(0, time) })
  const [start, to] = await Promise.all([offsetAt(first, 'earliest'), offsetAt(last, 'latest')])
  const begun = place?.rung === index && partition === place.partition ? place.offset : 0
  return { index, partition, ledger, from: Math.max(start, begun, commit?.offset ?? 0), to }
}

async function* inStretch(
  engine: Engine,
  { index, partition, ledger, from, to }: Stretch,
  { dueAt }: PendingRange,
): AsyncGenerator<Pending> {
  if (from >= to) return
  for await (const batch of scanPartition(engine, rungs[index].topic as AnyTopic, { partition, from, to })) {
    for (const message of batch) {
      const { offset } = message
      if (offset < ledger.next && !ledger.isUnfinished(offset)) continue
      const waiting = readWaiting(message)
      if (waiting === null || (dueAt !== undefined && waiting.dueAt !== dueAt)) continue
      yield { waiting, place: { rung: index, partition, offset } }
    }
  }
}

/** When a message that is due then came into a rung, if it is in it. */
function whenItCame(rung: Rung, next: Rung | undefined, dueAt: number): [first: number, last: number] {
  if (rung.ms === 0) return [dueAt - WHEEL_MS - SLACK_MS, Number.MAX_SAFE_INTEGER]
  const first = next === undefined ? 0 : dueAt - next.ms - SLACK_MS
  return [first, dueAt - rung.ms + SLACK_MS]
}

export async function readCancelled(engine: Engine): Promise<Set<string>> {
  const cancelled = new Set<string>()
  for await (const batch of scanPartition(engine, cancelledTopic as AnyTopic, { partition: 0 })) {
    for (const message of batch) {
      const id = message.keyBytes?.toString('utf8') ?? ''
      if (message.valueBytes === null) cancelled.delete(id)
      else cancelled.add(id)
    }
  }
  return cancelled
}

/** What is decided: a relay that is at work always has something that is not. */
async function committedOf(engine: Engine): Promise<CommittedOffset[]> {
  try {
    return await engine.committed(RELAY_GROUP)
  } catch (error) {
    if (isSluiceError(error, 'UNKNOWN_GROUP')) return []
    throw error
  }
}
