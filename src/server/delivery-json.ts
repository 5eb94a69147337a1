/**
 * How messages that wait (delayed, recurring, half) look as JSON, and how they are given, over HTTP and on the command line. Contents are written
 * as in `message-json.ts`, times as milliseconds since the Unix epoch; a time that is given may be ISO text as well.
 */

import type { DelayedMessage } from '../delivery/delayed.ts'
import type { DelaySpec } from '../delivery/delayed-message.ts'
import type { HalfMessage } from '../delivery/half-record.ts'
import type { Schedule } from '../delivery/schedules.ts'
import { SluiceError } from '../errors.ts'
import {
  headersFromJson,
  headersJson,
  keyFromJson,
  type StoredMessage,
  textJson,
  valueFromJson,
  valueJson,
} from './message-json.ts'
import { parseTime } from './positions.ts'

/** On one line. */
export function delayedJson({ key, value, headers, ...rest }: DelayedMessage): string {
  return withContent(rest, { key, value, headers })
}

/** On one line. */
export function scheduleJson({ key, value, ...rest }: Schedule): string {
  return withContent(rest, { key, value })
}

/** On one line. `more`: further fields. */
export function halfJson(half: HalfMessage, more: object = {}): string {
  const { id, topic, preparedAt, checker, checks, keyBytes: key, value, headerList: headers } = half
  return withContent({ id, topic, ...more, preparedAt, checker, checks }, { key, value, headers })
}

function withContent(
  fields: object,
  { key, value, headers }: Pick<StoredMessage, 'key' | 'value'> & Partial<Pick<StoredMessage, 'headers'>>,
): string {
  const tail = headers === undefined ? '' : `,"headers":${headersJson(headers)}`
  return `${JSON.stringify(fields).slice(0, -1)},"key":${textJson(key)},"value":${valueJson(value)}${tail}}`
}

/** A message on its way in, as JSON has it. */
export interface ContentJson {
  readonly key?: unknown
  readonly value?: unknown
  readonly headers?: unknown
  readonly partition?: number
}

/** As `rawTopic` takes it. Throws `INVALID_ARGUMENT`. */
export function contentFromJson({ key, value, headers, partition }: ContentJson) {
  return {
    key: bytesOf(keyFromJson(key, 'key')),
    value: bytesOf(valueFromJson(value, 'value')),
    headers: headersFromJson(headers, 'headers'),
    ...(partition !== undefined && { partition }),
  }
}

export const bytesOf = (content: Uint8Array | string | null): Uint8Array | null =>
  typeof content === 'string' ? Buffer.from(content) : content

export interface DelayJson {
  readonly delay?: number | string
  readonly deliverAt?: number | string
  readonly delayLevel?: number
}

/** When a message is to be delivered, null if nothing is said about it. `at` is how the time is called. Throws `INVALID_ARGUMENT`. */
export function delayFromJson(
  { delay, deliverAt, delayLevel }: DelayJson,
  at = 'deliverAt',
): DelaySpec | null {
  const given = {
    ...(delay !== undefined && { delay }),
    ...(deliverAt !== undefined && {
      deliverAt: typeof deliverAt === 'number' ? deliverAt : parseTime(deliverAt, at),
    }),
    ...(delayLevel !== undefined && { delayLevel }),
  }
  return Object.keys(given).length === 0 ? null : given
}

/** `delayed.cancel` and the like came too late, or for nothing. */
export const unknownDelayed = (id: string): SluiceError =>
  new SluiceError(
    'UNKNOWN_DELAYED_MESSAGE',
    `no message ${JSON.stringify(id)} waits; it was delivered or cancelled, or is due within a second`,
    { id },
  )

export const unknownSchedule = (name: string): SluiceError =>
  new SluiceError('UNKNOWN_SCHEDULE', `there is no schedule ${JSON.stringify(name)}`, { name })
