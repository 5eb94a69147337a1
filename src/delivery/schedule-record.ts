/**
 * A schedule as it is stored (JSON, under its name, in a compacted topic), and its occurrences: delayed messages that carry the schedule's name and
 * version. One occurrence waits at a time; who delivers it publishes the next. When a schedule is changed it gets another version, and the
 * occurrence that waits for the old one is nothing any more.
 */

import { Cron } from 'croner'
import type { Header } from '../record/builder.ts'
import { delayIdOf, headerOf, type Waiting, waitingHeaders } from './delayed-message.ts'
import type { Message } from './message.ts'
import { invalidOption } from './option.ts'
import { systemHeader } from './system-headers.ts'

export interface StoredSchedule {
  readonly name: string
  /** Another one for each change. */
  readonly version: string
  readonly cron: string
  readonly timezone: string
  readonly target: string
  readonly partition: number | undefined
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly Header[]
}

/** What is delivered, as the rung takes it. */
export interface Occurrence {
  readonly id: string
  readonly dueAt: number
  readonly message: {
    readonly key: Buffer | null
    readonly value: Buffer | null
    readonly headers: readonly Header[]
  }
}

/** Throws `INVALID_ARGUMENT` if the expression or the time zone is none. */
export function cronOf({ cron, timezone }: Pick<StoredSchedule, 'cron' | 'timezone'>): Cron {
  try {
    const parsed = new Cron(cron, { timezone, paused: true })
    parsed.nextRun() // where a time zone that is none shows
    return parsed
  } catch (error) {
    throw invalidOption(`cron "${cron}" in time zone "${timezone}": ${(error as Error).message}`)
  }
}

/** The first one after a time; null if there is none. */
export function nextOccurrence(schedule: StoredSchedule, after: number): Occurrence | null {
  const dueAt = cronOf(schedule).nextRun(new Date(after))?.getTime()
  if (dueAt === undefined) return null
  const { key, value, target, partition } = schedule
  const id = delayIdOf(dueAt, schedule.name)
  const mark: Header = [systemHeader.schedule, `${schedule.name}@${schedule.version}`]
  const headers = waitingHeaders([...schedule.headers, mark], {
    id,
    dueAt,
    target,
    partition,
    timestamp: undefined,
  })
  return { id, dueAt, message: { key, value, headers } }
}

/** Of which schedule it is an occurrence; null: of none. */
export function occurrenceOf(waiting: Waiting): { readonly name: string; readonly version: string } | null {
  const mark = headerOf(waiting, systemHeader.schedule)
  const at = mark?.lastIndexOf('@') ?? -1
  return mark === undefined || at < 0 ? null : { name: mark.slice(0, at), version: mark.slice(at + 1) }
}

interface StoredForm {
  readonly version: string
  readonly cron: string
  readonly timezone: string
  readonly topic: string
  readonly partition?: number
  /** Bytes are base64. */
  readonly key: string | null
  readonly value: string | null
  readonly headers: readonly (readonly [name: string, value: string | null])[]
}

export function writeSchedule(schedule: StoredSchedule): string {
  const { version, cron, timezone, target, partition, key, value, headers } = schedule
  const form: StoredForm = {
    version,
    cron,
    timezone,
    topic: target,
    partition,
    key: base64(key),
    value: base64(value),
    headers: headers.map(([name, content]) => [name, base64(content)]),
  }
  return JSON.stringify(form)
}

/** Undefined if it is not what `writeSchedule` writes. */
export function readSchedule(name: string, message: Message<unknown, unknown>): StoredSchedule | undefined {
  try {
    const form = message.json<StoredForm>()
    cronOf(form)
    if ([form.version, form.topic].some(text => typeof text !== 'string')) return undefined
    return {
      name,
      version: form.version,
      cron: form.cron,
      timezone: form.timezone,
      target: form.topic,
      partition: form.partition,
      key: unbase64(form.key),
      value: unbase64(form.value),
      headers: form.headers.map(([header, content]): Header => [header, unbase64(content)]),
    }
  } catch {
    return undefined
  }
}

const base64 = (content: Uint8Array | string | null): string | null =>
  content === null ? null : Buffer.from(content as string).toString('base64')

const unbase64 = (text: string | null): Buffer | null => (text === null ? null : Buffer.from(text, 'base64'))
