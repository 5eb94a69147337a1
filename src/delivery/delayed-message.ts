/**
 * A delayed message as it lies in a rung: the message for its target, already encoded, and in headers when it is due, where to, and its id.
 *
 *     sluice-deliver-at         when it is due
 *     sluice-target             the topic; with sluice-target-partition and sluice-target-timestamp, where they were fixed
 *     sluice-delay-id           0mk8f2x1c.1b9d6bcd-bbfd.order-17
 *                               │         │             └ the name that the user gave it, if any
 *                               │         └ another one for each message: one that was cancelled may come again under the same name
 *                               └ when it is due, base 36: so nobody need remember for longer that it was cancelled
 */

import { randomUUID } from 'node:crypto'
import { durationMs } from '../lib/duration.ts'
import type { Header } from '../record/builder.ts'
import { HeaderCursor, type RecordPlace } from '../record/cursor.ts'
import { describe } from './codec.ts'
import { levelMs } from './delay-topics.ts'
import type { Message } from './message.ts'
import { invalidOption } from './option.ts'
import type { AnyOutgoing, OutgoingMessage } from './outgoing.ts'
import { systemHeader } from './system-headers.ts'

/** When a message is delivered: one of them. */
export interface DelaySpec {
  readonly delay?: number | string
  readonly deliverAt?: number | Date
  readonly delayLevel?: number
}

/** What is taken off when it is delivered. The id stays: it tells deliveries apart. */
const routingHeaders: ReadonlySet<string> = new Set([
  systemHeader.deliverAt,
  systemHeader.target,
  systemHeader.targetPartition,
  systemHeader.targetTimestamp,
])

const ID_DIGITS = 9
/** Until the year 5188. */
const DUE_MAX = 36 ** ID_DIGITS - 1
const UNIQUE_CHARS = 13
const FULL_ID = /^([0-9a-z]{9})\.([0-9a-f-]{13})(?:\.(.+))?$/s
const NAME_CHARS_MAX = 200

export const isDelayed = (message: AnyOutgoing): boolean =>
  message.delay !== undefined || message.deliverAt !== undefined || message.delayLevel !== undefined

/** When it is due, milliseconds since the Unix epoch. Throws `INVALID_ARGUMENT`. */
export function dueAtOf(spec: DelaySpec, now: number): number {
  const { delay, deliverAt, delayLevel } = spec
  if (Number(delay !== undefined) + Number(deliverAt !== undefined) + Number(delayLevel !== undefined) > 1) {
    throw invalidOption('give one of delay, deliverAt and delayLevel, not several')
  }
  if (delayLevel !== undefined) {
    const ms = levelMs(delayLevel)
    if (ms !== undefined) return now + ms
    throw invalidOption(`delayLevel is a whole number from 1 to 18, not ${shown(delayLevel)}`)
  }
  if (delay !== undefined) {
    const ms = durationMs(delay)
    if (ms !== null && now + ms <= DUE_MAX) return now + ms
    throw invalidOption(`delay is milliseconds, or text such as '30s', '45m', '1.5h', not ${shown(delay)}`)
  }
  const time = deliverAt instanceof Date ? deliverAt.getTime() : deliverAt
  if (Number.isSafeInteger(time) && (time as number) >= 0 && (time as number) <= DUE_MAX)
    return time as number
  throw invalidOption(`deliverAt is a Date or milliseconds since 1970, not ${shown(deliverAt)}`)
}

/** The id of a message that is due then. `name`: the user's. Throws `INVALID_ARGUMENT`. */
export function delayIdOf(dueAt: number, name: string | undefined): string {
  if (name !== undefined) checkName(name)
  const id = `${dueAt.toString(36).padStart(ID_DIGITS, '0')}.${randomUUID().slice(0, UNIQUE_CHARS)}`
  return name === undefined ? id : `${id}.${name}`
}

function checkName(name: unknown): void {
  const isGood =
    typeof name === 'string' && name !== '' && name.length <= NAME_CHARS_MAX && !FULL_ID.test(name)
  if (isGood) return
  throw invalidOption(
    `delayId is a name of 1 to ${NAME_CHARS_MAX} characters, and not the id of a delayed message: ${shown(name)}`,
  )
}

/** When the message of this id is due, and its name, if it has one; null if it is only a name. */
export function parseDelayId(
  id: string,
): { readonly dueAt: number; readonly name: string | undefined } | null {
  const match = FULL_ID.exec(id)
  return match === null ? null : { dueAt: Number.parseInt(match[1], 36), name: match[3] }
}

/** What is added to the headers of a message while it waits. Those that it had from waiting before are left out. */
export function waitingHeaders(
  own: readonly Header[] | null,
  route: Pick<Waiting, 'id' | 'dueAt' | 'target' | 'partition' | 'timestamp'>,
): Header[] {
  const headers = own?.filter(([name]) => !routingHeaders.has(name) && name !== systemHeader.delayId) ?? []
  headers.push(
    [systemHeader.deliverAt, String(route.dueAt)],
    [systemHeader.target, route.target],
    [systemHeader.delayId, route.id],
  )
  if (route.partition !== undefined) headers.push([systemHeader.targetPartition, String(route.partition)])
  if (route.timestamp !== undefined) headers.push([systemHeader.targetTimestamp, String(route.timestamp)])
  return headers
}

/** A delayed message, read. */
export interface Waiting {
  readonly id: string
  readonly dueAt: number
  readonly target: string
  /** Of the target, if it was fixed. */
  readonly partition: number | undefined
  /** That it is to have in the target, if it was fixed; otherwise it gets the time of its delivery. */
  readonly timestamp: number | undefined
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** With those of its waiting. */
  readonly headers: readonly [name: string, value: Buffer | null][]
}

/** Null: it is no delayed message; somebody has written something else into the rung. */
export function readWaiting(message: Message<unknown, unknown>): Waiting | null {
  const headers = message.headerList()
  let id = ''
  let target = ''
  let dueAt: number | undefined
  let partition: number | undefined
  let timestamp: number | undefined
  for (const [name, value] of headers) {
    if (name === systemHeader.deliverAt) dueAt = wholeOf(value)
    else if (name === systemHeader.target) target = textOf(value)
    else if (name === systemHeader.delayId) id = textOf(value)
    else if (name === systemHeader.targetPartition) partition = wholeOf(value)
    else if (name === systemHeader.targetTimestamp) timestamp = wholeOf(value)
  }
  if (dueAt === undefined || target === '') return null
  const { keyBytes: key, valueBytes: value } = message
  return { id, dueAt, target, partition, timestamp, key, value, headers }
}

const textOf = (value: Buffer | null): string => value?.toString('utf8') ?? ''

const wholeOf = (value: Buffer | null): number | undefined => {
  const text = textOf(value)
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

const deliverAtName = Buffer.from(systemHeader.deliverAt)
const headerCursor = new HeaderCursor()

/** When a record that waits in a rung is due, and nothing else of it; -1 if it is no delayed message. Throws INVALID_RECORD. */
export function dueAtIn({ bytes, headersStart, headerCount }: RecordPlace): number {
  let dueAt = -1
  headerCursor.open(bytes, headersStart, headerCount)
  while (headerCursor.next()) if (headerCursor.isNamed(deliverAtName)) dueAt = headerCursor.wholeValue()
  return dueAt
}

/** The message as it is delivered. */
export function deliveryOf(waiting: Waiting): OutgoingMessage<Uint8Array | null, Uint8Array> {
  const { key, value, partition, timestamp } = waiting
  return { key, value, headers: withoutRoute(waiting.headers), partition, timestamp }
}

/** Headers without those that a message has only while it waits. */
export const withoutRoute = (headers: Waiting['headers']): [name: string, value: Buffer | null][] =>
  headers.filter(([name]) => !routingHeaders.has(name))

export const headerOf = ({ headers }: Waiting, name: string): string | undefined =>
  headers.findLast(([found]) => found === name)?.[1]?.toString('utf8')

const shown = (value: unknown): string =>
  typeof value === 'string' || typeof value === 'number' ? JSON.stringify(value) : describe(value)
