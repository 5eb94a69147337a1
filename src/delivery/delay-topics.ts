/**
 * The ladder of delay: the topics in which delayed messages wait, one per rung, and which rung is next for a message.
 *
 *     45 min left                     15 min left           5 min left          1 s left
 *     ── _sluice.delay.30m ──────────▶ _sluice.delay.10m ──▶ _sluice.delay.5m ─▶ timing wheel ─▶ target
 *
 * A rung is FIFO by the log's clock (LogAppendTime): everything in it waits equally long, so the first record is the next that is due, and
 * nothing need be known of those behind it. A message is taken a second before its time there is over: what it still has left is then within
 * the wheel's reach, and what a move takes makes nothing late.
 */

import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { durationMs } from '../lib/duration.ts'
import { rawTopic } from './raw-topic.ts'
import { SYSTEM_TOPIC_PREFIX } from './system-headers.ts'
import { type AnyTopic, topic } from './topic.ts'

export interface Rung {
  /** `30m` */
  readonly name: string
  /** A message comes here with at least so much time left. */
  readonly ms: number
  /** How long it stays. */
  readonly holdMs: number
  /** Its topic, as whoever passes messages on sees it. */
  readonly topic: ReturnType<typeof rawTopic>
}

/** The delays of the levels 1 to 18. */
const levels = '1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h'.split(' ').map(msOf)

/** Those of the levels, so that one move is enough for them, and those between and beyond, so that few are for any other delay. */
const rungNames = '0 2s 3s 4s 5s 7s 10s 20s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h 12h 1d 7d'.split(
  ' ',
)

/** With less time left than this a message is held in memory. */
export const WHEEL_MS = 2_000
const LEAD_MS = 1_000

export const DELAY_TOPIC_PREFIX = `${SYSTEM_TOPIC_PREFIX}delay.`
/** Key: id of a delayed message; value: when it would have been due. A tombstone when it need not be remembered any more. */
export const cancelledTopic = rawTopic(`${DELAY_TOPIC_PREFIX}cancelled`)
/** Key: name of a schedule. */
export const schedulesTopic = rawTopic(`${SYSTEM_TOPIC_PREFIX}schedules`)

/** The shortest first. */
export const rungs: readonly Rung[] = rungNames.map(name => {
  const ms = msOf(name)
  return { name, ms, holdMs: Math.max(0, ms - LEAD_MS), topic: rawTopic(DELAY_TOPIC_PREFIX + name) }
})

/** The delay of RocketMQ's levels 1 to 18; undefined for any other number. */
export const levelMs = (level: number): number | undefined => levels[level - 1]

function msOf(name: string): number {
  return name === '0' ? 0 : (durationMs(name) as number)
}

/** Where a message waits that has so much time left. */
export function rungFor(remainingMs: number): Rung {
  if (remainingMs <= WHEEL_MS) return rungs[0]
  let index = 1
  while (index + 1 < rungs.length && rungs[index + 1].ms <= remainingMs) index++
  return rungs[index]
}

const PARTITIONS = 4
/** Segments are what is deleted when its messages have moved on. */
const SEGMENT_BYTES = 16 * 1024 * 1024

const MESSAGE_BYTES_MAX = 100 * 1024 * 1024

/** Makes the topics at their first use, once per queue that is open. */
export class DelayTopics {
  readonly #engine: Engine
  readonly #partitions: number
  readonly #onReady: () => void
  #preparing: Promise<void> | null = null

  /** `onReady` is called when they are there, at the end of the first `prepare`. */
  constructor(engine: Engine, partitions: number | undefined, onReady: () => void) {
    this.#engine = engine
    this.#partitions = partitions ?? PARTITIONS
    this.#onReady = onReady
  }

  /** Rejects with `UNSUPPORTED` on an engine without transactions, and with what creating a topic is refused with. */
  prepare(): Promise<void> {
    this.#preparing ??= this.#prepare().catch(error => {
      this.#preparing = null
      throw error
    })
    return this.#preparing
  }

  async #prepare(): Promise<void> {
    const { url, supports } = this.#engine
    if (!supports.transactions) {
      throw new SluiceError('UNSUPPORTED', `${url} has no transactions, which delayed messages need`)
    }
    const existing = new Set(await this.#engine.listTopics())
    const missing = describedTopics(this.#partitions).filter(({ name }) => !existing.has(name))
    await Promise.all(missing.map(described => this.#create(described)))
    this.#onReady()
  }

  async #create({ name, partitions, config }: AnyTopic): Promise<void> {
    try {
      await this.#engine.createTopic({ name, partitions, config })
    } catch (error) {
      if (!isSluiceError(error, 'TOPIC_EXISTS')) throw error
    }
  }
}

/** Whether somebody has used delay here: then a relay has something to do. */
export const hasDelayTopics = (names: Iterable<string>): boolean => {
  for (const name of names) if (name.startsWith(DELAY_TOPIC_PREFIX)) return true
  return false
}

function describedTopics(partitions: number): AnyTopic[] {
  const waiting = {
    'cleanup.policy': 'delete',
    'message.timestamp.type': 'LogAppendTime',
    'retention.ms': -1,
    'retention.bytes': -1,
    'segment.bytes': SEGMENT_BYTES,
    // what a target takes its rungs take
    'max.message.bytes': MESSAGE_BYTES_MAX,
  }
  const table = { 'cleanup.policy': 'compact' }
  return [
    ...rungs.map(rung => topic(rung.topic.name, { partitions, config: waiting })),
    topic(cancelledTopic.name, { partitions: 1, config: table }),
    topic(schedulesTopic.name, { partitions: 1, config: table }),
  ] as AnyTopic[]
}
