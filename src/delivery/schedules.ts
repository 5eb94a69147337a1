/** `mq.schedules`: recurring messages by cron expression. What is stored, and how one occurrence follows another: schedule-record.ts. */

import { randomUUID } from 'node:crypto'
import type { Engine } from '../engine/engine.ts'
import type { Clock } from '../lib/clock.ts'
import { type DelayTopics, rungFor, schedulesTopic } from './delay-topics.ts'
import { invalidOption } from './option.ts'
import { encodeHeaders, encodeKey, encodeValue, type OutgoingMessage, type OutgoingOf } from './outgoing.ts'
import {
  cronOf,
  nextOccurrence,
  readSchedule,
  type StoredSchedule,
  writeSchedule,
} from './schedule-record.ts'
import { type AnyTopic, topicOf } from './topic.ts'
import { scanPartition } from './topic-scan.ts'
import type { Transaction } from './transaction.ts'

export interface ScheduleOptions<T extends AnyTopic | string> {
  /**
   * Five fields (minute, hour, day of month, month, day of week), or six with seconds in front; `@daily` and the like. `0 9 * * 1-5`: at nine on
   * weekdays.
   */
  readonly cron: string
  /** IANA name of the time zone that the expression is in, such as 'Europe/Berlin'. Default 'UTC'. */
  readonly timezone?: string
  /** Where to. */
  readonly topic: T
  /** What is published each time. */
  readonly message: Omit<OutgoingOf<T>, 'timestamp' | 'delay' | 'deliverAt' | 'delayLevel' | 'delayId'>
}

export interface Schedule {
  readonly name: string
  readonly cron: string
  readonly timezone: string
  readonly topic: string
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** When it is next, milliseconds since the Unix epoch; null: never again. */
  readonly nextAt: number | null
}

export interface SchedulesSetting {
  readonly engine: Engine
  readonly clock: Clock
  readonly topics: DelayTopics
  transact<R>(body: (transaction: Transaction) => Promise<R> | R): Promise<R>
}

const NAME_CHARS_MAX = 200

/** Recurring messages; `mq.schedules`. */
export class Schedules {
  readonly #setting: SchedulesSetting

  /** @internal */
  constructor(setting: SchedulesSetting) {
    this.#setting = setting
  }

  /**
   * Publishes a message again and again, from the next time that the expression gives. Under a name that there is already it takes the place of
   * that schedule; one that is the same is left as it is, so a program may set its schedules whenever it starts. What was missed while no relay
   * ran is published once, late, and then on time again.
   *
   *     await mq.schedules.set('report', { cron: '0 9 * * 1-5', timezone: 'Europe/Berlin', topic: 'reports', message: { value: 'daily' } })
   *
   * Throws `INVALID_ARGUMENT`, `UNSUPPORTED`, and what a message can be refused with.
   */
  async set<T extends AnyTopic | string>(name: string, options: ScheduleOptions<T>): Promise<Schedule> {
    const { clock, topics, transact } = this.#setting
    const wanted = storedOf(name, options)
    cronOf(wanted)
    await topics.prepare()
    const found = (await this.#read()).get(name)
    if (found !== undefined && isSameSchedule(found, wanted)) return this.#show(found)
    const now = clock.now()
    const first = nextOccurrence(wanted, now)
    if (first === null) throw invalidOption(`cron "${wanted.cron}" never comes again`)
    await transact(transaction => {
      const record = { key: Buffer.from(name), value: Buffer.from(writeSchedule(wanted)) }
      void transaction.publish(schedulesTopic, record)
      void transaction.publish(rungFor(first.dueAt - now).topic, first.message)
    })
    return this.#show(wanted)
  }

  /** Ends a schedule. False if there was none. */
  async remove(name: string): Promise<boolean> {
    await this.#setting.topics.prepare()
    if (!(await this.#read()).has(name)) return false
    await this.#setting.transact(async transaction => {
      await transaction.publish(schedulesTopic, { key: Buffer.from(name), value: null })
    })
    return true
  }

  /** All of them, by name. */
  async list(): Promise<Schedule[]> {
    const schedules = await this.#read()
    return [...schedules.values()]
      .map(schedule => this.#show(schedule))
      .toSorted((one, other) => (one.name < other.name ? -1 : 1))
  }

  async #read(): Promise<Map<string, StoredSchedule>> {
    const schedules = new Map<string, StoredSchedule>()
    const { engine } = this.#setting
    if (!(await engine.listTopics()).includes(schedulesTopic.name)) return schedules
    for await (const batch of scanPartition(engine, schedulesTopic as AnyTopic, { partition: 0 })) {
      for (const message of batch) {
        const name = message.keyBytes?.toString('utf8') ?? ''
        const schedule = message.valueBytes === null ? undefined : readSchedule(name, message)
        if (schedule === undefined) schedules.delete(name)
        else schedules.set(name, schedule)
      }
    }
    return schedules
  }

  #show(schedule: StoredSchedule): Schedule {
    const { name, cron, timezone, target: topic, key, value } = schedule
    const nextAt = nextOccurrence(schedule, this.#setting.clock.now())?.dueAt ?? null
    return { name, cron, timezone, topic, key, value, nextAt }
  }
}

function storedOf<T extends AnyTopic | string>(name: string, options: ScheduleOptions<T>): StoredSchedule {
  if (typeof name !== 'string' || name === '' || name.length > NAME_CHARS_MAX) {
    throw invalidOption(`the name of a schedule is text of 1 to ${NAME_CHARS_MAX} characters`)
  }
  if (typeof options.cron !== 'string') throw invalidOption(`schedule ${name}: cron is an expression`)
  const target = topicOf(options.topic)
  const message = options.message as unknown as OutgoingMessage<never, never>
  if (typeof message !== 'object' || message === null) throw invalidOption(`schedule ${name}: no message`)
  return {
    name,
    version: randomUUID(),
    cron: options.cron,
    timezone: options.timezone ?? 'UTC',
    target: target.name,
    partition: message.partition,
    key: message.key == null ? null : bytesOf(encodeKey(target, message.key)),
    value: bytesOf(encodeValue(target, message.value)),
    headers: message.headers === undefined ? [] : (encodeHeaders(target, message.headers) ?? []),
  }
}

const isSameSchedule = (one: StoredSchedule, other: StoredSchedule): boolean =>
  writeSchedule({ ...one, version: '' }) === writeSchedule({ ...other, version: '' })

function bytesOf(content: Uint8Array | string): Buffer
function bytesOf(content: Uint8Array | string | null): Buffer | null
function bytesOf(content: Uint8Array | string | null): Buffer | null {
  return content === null ? null : Buffer.from(content as string)
}
