/**
 * Deduplication by message id, the publisher's side. A message with an id goes into `_sluice.dedup`, from where the relay (`dedup-relay.ts`) publishes the
 * first of each id to its topic and drops the others.
 *
 *     publish(orders, id) ─▶ _sluice.dedup, partition by key (or id) ─▶ relay ─┬─ first within the window ─▶ orders
 *                                                                              └─ known ─▶ dropped
 *
 * Messages of a key share a partition and so keep their order; an id is an id of a topic and key. Each message carries its window, so
 * there is nothing to configure and nothing to get out of step.
 */

import { createHash } from 'node:crypto'
import type { Engine } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import type { Duration } from '../lib/duration.ts'
import type { Header } from '../record/builder.ts'
import type { Message } from './message.ts'
import { invalidOption, msOf } from './option.ts'
import { type AnyOutgoing, encodeCopy, type OutgoingOf } from './outgoing.ts'
import { partitionOfKey } from './partitioner.ts'
import { createAsDescribed } from './provision.ts'
import { SYSTEM_TOPIC_PREFIX, systemHeader } from './system-headers.ts'
import { type AnyTopic, topic, topicOf } from './topic.ts'

export const DEDUP_TOPIC = `${SYSTEM_TOPIC_PREFIX}dedup`
export const DEDUP_GROUP = '_sluice.dedup'
const PARTITIONS = 4
/** What a topic takes this one takes. */
const MESSAGE_BYTES_MAX = 100 * 1024 * 1024
const WINDOW_MS = 10 * 60_000
/** All that was published within the window is read again by whoever takes over. */
const WINDOW_MS_MAX = 7 * 86_400_000
const ID_CHARACTERS_MAX = 249

export interface DeduplicateOptions {
  /** How long an id is remembered, from its first message on: milliseconds, or text such as '10m'. Default 10 minutes, at most 7 days. */
  readonly window?: Duration
}

/** A message with the id by which it is known: two with the same id (and key) are one message. At most 249 characters. */
export type Identified<T extends AnyTopic | string> = OutgoingOf<T> & { readonly id: string }

/** A topic to publish to without duplicates; made by `mq.deduplicate()`. */
export interface Deduplicated<T extends AnyTopic | string> {
  /**
   * Publishes a message, or an array of them: those whose id is not known yet. Resolves when they are durable; they are in the topic as soon as the relay has
   * been at it. Repeat it as often as you like: that is what it is for. Rejects as `Producer.send` does for an array, and with `UNSUPPORTED` where there are
   * no transactions.
   */
  publish(messages: Identified<T> | readonly Identified<T>[]): Promise<void>
}

/** @internal What a `Sluice` hands over. */
export interface DeduplicateSetting {
  readonly engine: Engine
  now(): number
  publish(topic: AnyTopic, messages: readonly AnyOutgoing[]): Promise<unknown>
}

/** @internal See `Sluice.deduplicate`. */
export function deduplicated<T extends AnyTopic | string>(
  target: T,
  options: DeduplicateOptions,
  setting: DeduplicateSetting,
): Deduplicated<T> {
  const described = topicOf(target)
  const windowMs = msOf('window', options.window ?? WINDOW_MS)
  if (!(windowMs >= 1 && windowMs <= WINDOW_MS_MAX))
    throw invalidOption(`window is from 1 ms to 7 days, not ${options.window}`)
  let preparing: Promise<number> | null = null
  const prepare = (): Promise<number> => {
    preparing ??= provisionDedup(setting.engine).catch(error => {
      preparing = null
      throw error
    })
    return preparing
  }
  return {
    async publish(messages) {
      const list = (Array.isArray(messages) ? messages : [messages]) as readonly Identified<T>[]
      const now = setting.now()
      const encoded = list.map(message => encodeCopy(described, message as never, now))
      const ids = list.map(({ id }) => checkedId(described, id))
      const partitions = await prepare()
      const records = encoded.map(({ key, value, headers = [], timestamp, partition, deliverAt }, index) => {
        if (deliverAt !== undefined)
          throw invalidOption(`topic ${described.name}: a message with an id cannot be delayed as well`)
        const system: Header[] = [
          [systemHeader.messageId, ids[index]],
          [systemHeader.dedupWindow, String(windowMs)],
          [systemHeader.target, described.name],
          [systemHeader.targetTimestamp, String(timestamp)],
        ]
        if (partition !== undefined) system.push([systemHeader.targetPartition, String(partition)])
        const place = partitionOfKey(key ?? ids[index], partitions)
        return { key, value, headers: [...headers, ...system], partition: place } as unknown as AnyOutgoing
      })
      await setting.publish(topicOf(DEDUP_TOPIC), records)
    },
  }
}

function checkedId({ name }: AnyTopic, id: unknown): string {
  if (typeof id === 'string' && id.length >= 1 && id.length <= ID_CHARACTERS_MAX) return id
  const message = `topic ${name}: the id of a message is text of 1 to ${ID_CHARACTERS_MAX} characters`
  throw new SluiceError('INVALID_ARGUMENT', message, { topic: name })
}

/** Makes the topic, unless it is there. Resolves with the number of partitions. Nothing in it goes by age: the relay deletes what is over. */
export async function provisionDedup(engine: Engine): Promise<number> {
  if (!engine.supports.transactions) {
    throw new SluiceError('UNSUPPORTED', `${engine.url} has no transactions, which deduplication needs`)
  }
  const config = {
    'message.timestamp.type': 'LogAppendTime',
    'retention.ms': -1,
    'retention.bytes': -1,
    'max.message.bytes': MESSAGE_BYTES_MAX,
  }
  await createAsDescribed(engine, topic(DEDUP_TOPIC, { partitions: PARTITIONS, config }))
  return await engine.partitionsOf(DEDUP_TOPIC)
}

/** A message in `_sluice.dedup`. */
export interface DedupRecord {
  readonly id: string
  /** What is remembered of it: 16 characters that stand for topic, key and id. */
  readonly fingerprint: string
  readonly windowMs: number
  readonly target: string
  readonly partition: number | undefined
  readonly timestamp: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** As they are published: with the id, without what was for the relay. */
  readonly headers: readonly Header[]
}

const forRelay: ReadonlySet<string> = new Set([
  systemHeader.dedupWindow,
  systemHeader.target,
  systemHeader.targetPartition,
  systemHeader.targetTimestamp,
])

/** Null for what is none. */
export function readDedup(message: Message<unknown, unknown>): DedupRecord | null {
  const id = message.header(systemHeader.messageId)
  const target = message.header(systemHeader.target)
  const windowMs = Number(message.header(systemHeader.dedupWindow))
  const timestamp = Number(message.header(systemHeader.targetTimestamp))
  const partition = message.header(systemHeader.targetPartition)
  if (id == null || target == null || !(windowMs > 0) || !Number.isSafeInteger(timestamp)) return null
  const key = message.keyBytes
  const hash = createHash('sha256').update(`${target}\0${id}\0`)
  if (key !== null) hash.update('key').update(key)
  return {
    id,
    fingerprint: hash.digest('binary').slice(0, 16),
    windowMs: Math.min(windowMs, WINDOW_MS_MAX),
    target,
    partition: partition == null ? undefined : Number(partition),
    timestamp,
    key,
    value: message.valueBytes,
    headers: message.headerList().filter(([name]) => !forRelay.has(name)),
  }
}
