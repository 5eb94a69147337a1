/** `mq.delayed`: what waits to be delivered, cancelling it, and giving it another time. Delaying is a field of the message that is published. */

import type { Engine } from '../engine/engine.ts'
import type { Clock } from '../lib/clock.ts'
import { cancelledTopic, type DelayTopics, rungFor } from './delay-topics.ts'
import {
  type DelaySpec,
  delayIdOf,
  dueAtOf,
  isDelayed,
  parseDelayId,
  type Waiting,
  waitingHeaders,
  withoutRoute,
} from './delayed-message.ts'
import { atLeast, invalidOption } from './option.ts'
import type { AnyOutgoing } from './outgoing.ts'
import { type Pending, type PendingPlace, pendingMessages } from './pending.ts'
import { occurrenceOf } from './schedule-record.ts'
import { systemHeader } from './system-headers.ts'
import type { Transaction } from './transaction.ts'

/** A message that waits. */
export interface DelayedMessage {
  readonly id: string
  /** The name that it was given (`delayId`), or null. */
  readonly name: string | null
  /** Where it will be delivered. */
  readonly topic: string
  /** When, milliseconds since the Unix epoch. */
  readonly deliverAt: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** Its own. */
  readonly headers: readonly (readonly [name: string, value: Buffer | null])[]
  /** The schedule that it is the next occurrence of, or null. */
  readonly schedule: string | null
}

export interface DelayedPage {
  readonly messages: readonly DelayedMessage[]
  /** Where the next page begins; null: there are no more. */
  readonly cursor: string | null
}

export interface DelayedSetting {
  readonly engine: Engine
  readonly clock: Clock
  readonly topics: DelayTopics
  transact<R>(body: (transaction: Transaction) => Promise<R> | R): Promise<R>
}

/** Later than this before it is due, a message is on its way. */
const TOO_LATE_MS = 1_000
/** A relay knows after so long what was cancelled. */
const KNOWN_MS = 500
const PAGE_MESSAGES = 100

/** Messages that wait; `mq.delayed`. */
export class Delayed {
  readonly #setting: DelayedSetting
  /** By what was given: the last that moves it. */
  readonly #moving = new Map<string, Promise<string | null>>()

  /** @internal */
  constructor(setting: DelayedSetting) {
    this.#setting = setting
  }

  /**
   * What waits, a page at a time, roughly the soonest first. `topic`: only what is for this one. It is read from the log while messages move:
   * one that comes nearer to its time meanwhile may be in two pages, or in none.
   */
  async list(
    options: { readonly cursor?: string; readonly limit?: number; readonly topic?: string } = {},
  ): Promise<DelayedPage> {
    const limit = atLeast('limit', options.limit ?? PAGE_MESSAGES, 1)
    const from = options.cursor === undefined ? undefined : placeOf(options.cursor)
    const messages: DelayedMessage[] = []
    for await (const { waiting, place } of pendingMessages(this.#setting.engine, { from })) {
      if (options.topic !== undefined && waiting.target !== options.topic) continue
      if (messages.length >= limit) {
        return { messages, cursor: `${place.rung}-${place.partition}-${place.offset}` }
      }
      messages.push(show(waiting))
    }
    return { messages, cursor: null }
  }

  /** One that waits, by its id, or by its name (then everything that waits may have to be read); null if there is none. */
  async get(id: string): Promise<DelayedMessage | null> {
    for await (const { waiting } of this.#find(id)) return show(waiting)
    return null
  }

  /**
   * Cancels a message by its id, or all those of a name (then everything that waits is read). True: it will not be delivered. False: none of
   * that name waits, or it is due within a second, and so on its way.
   */
  async cancel(id: string): Promise<boolean> {
    const { topics } = this.#setting
    await topics.prepare()
    const parsed = parseDelayId(id)
    if (parsed !== null) return await this.#cancel([id])
    const ids = new Set<string>()
    for await (const { waiting } of this.#find(id)) ids.add(waiting.id)
    return await this.#cancel([...ids])
  }

  /**
   * Gives a message another time, by its id or name. Resolves with its new id; null if none waits, or it is due within a second. The old one is cancelled
   * and the new one published in one transaction. An occurrence of a schedule cannot be moved: change the schedule. Throws `INVALID_ARGUMENT`.
   */
  async reschedule(id: string, to: DelaySpec): Promise<string | null> {
    // one after the other: the second finds that the message is not there any more, and does not publish it twice
    const before = this.#moving.get(id)
    const moved = (before ?? Promise.resolve(null)).catch(() => null).then(() => this.#reschedule(id, to))
    this.#moving.set(id, moved)
    try {
      return await moved
    } finally {
      if (this.#moving.get(id) === moved) this.#moving.delete(id)
    }
  }

  async #reschedule(id: string, to: DelaySpec): Promise<string | null> {
    const { clock, topics, transact } = this.#setting
    if (!isDelayed(to as AnyOutgoing)) throw invalidOption('give one of delay, deliverAt and delayLevel')
    const dueAt = dueAtOf(to, clock.now())
    await topics.prepare()
    for await (const { waiting } of this.#find(id)) {
      if (occurrenceOf(waiting) !== null) {
        throw invalidOption(`${id} is an occurrence of a schedule; change the schedule`)
      }
      const now = clock.now()
      if (waiting.dueAt - now < TOO_LATE_MS) continue
      const newId = delayIdOf(dueAt, parseDelayId(waiting.id)?.name)
      const { key, value } = waiting
      const headers = waitingHeaders(waiting.headers, { ...waiting, id: newId, dueAt })
      await transact(transaction => {
        void transaction.publish(cancelledTopic, cancellation(waiting.id))
        void transaction.publish(rungFor(dueAt - now).topic, { key, value, headers })
      })
      return newId
    }
    return null
  }

  async #cancel(ids: readonly string[]): Promise<boolean> {
    const { clock, transact } = this.#setting
    const dueAt = (id: string): number => parseDelayId(id)?.dueAt ?? 0
    const inTime = ids.filter(id => dueAt(id) - clock.now() >= TOO_LATE_MS)
    if (inTime.length === 0) return false
    await transact(transaction => {
      for (const id of inTime) void transaction.publish(cancelledTopic, cancellation(id))
    })
    // storing it may have taken too long
    return inTime.some(id => dueAt(id) - clock.now() >= KNOWN_MS)
  }

  /** Those of an id or a name, none overlooked. */
  async *#find(id: string): AsyncGenerator<Pending> {
    if (typeof id !== 'string' || id === '')
      throw invalidOption('give the id or the name of a delayed message')
    const parsed = parseDelayId(id)
    const range = { direction: 'down', dueAt: parsed?.dueAt } as const
    for await (const pending of pendingMessages(this.#setting.engine, range)) {
      const found = pending.waiting.id
      if (parsed === null ? parseDelayId(found)?.name === id : found === id) yield pending
    }
  }
}

const cancellation = (id: string) => ({
  key: Buffer.from(id),
  value: Buffer.from(String(parseDelayId(id)?.dueAt ?? 0)),
})

function show(waiting: Waiting): DelayedMessage {
  const { id, target: topic, dueAt: deliverAt, key, value } = waiting
  const headers = withoutRoute(waiting.headers).filter(
    ([name]) => name !== systemHeader.delayId && name !== systemHeader.schedule,
  )
  const name = parseDelayId(id)?.name ?? null
  const schedule = occurrenceOf(waiting)?.name ?? null
  return { id, name, topic, deliverAt, key, value, headers, schedule }
}

function placeOf(cursor: string): PendingPlace {
  const [rung, partition, offset] = cursor.split('-').map(Number)
  if ([rung, partition, offset].every(Number.isSafeInteger)) return { rung, partition, offset }
  throw invalidOption(`"${cursor}" is no cursor; take it from the page before`)
}
