/**
 * Messages on their way out: what a user may hand to the producer, and how its parts become what a batch
 * takes. Each function throws what is wrong with the message, as a SluiceError that names the topic; none
 * keeps anything.
 */

import { SluiceError } from '../errors.ts'
import type { Header } from '../record/builder.ts'
import { type Codec, codecError, describe, json } from './codec.ts'
import { dueAtOf, isDelayed } from './delayed-message.ts'
import type { AnyTopic, PlainValue, Topic } from './topic.ts'

/**
 * Headers to publish: by name, or as pairs where a name repeats. Text is stored as UTF-8; undefined is left
 * out.
 */
export type HeadersInput =
  | Readonly<Record<string, Uint8Array | string | null | undefined>>
  | readonly Header[]

/** A message to publish. Do not change it, nor the bytes it refers to, before its promise has settled. */
export interface OutgoingMessage<V = PlainValue, K = string | Uint8Array> {
  /**
   * What the topic's codec takes. Without a codec: text and bytes as they are, null (a tombstone), anything
   * else as JSON.
   */
  readonly value: V
  /** Messages with the same key keep their order: they go to the same partition. */
  readonly key?: K | null
  readonly headers?: HeadersInput
  /** Default: now. Milliseconds since the Unix epoch, or a Date. */
  readonly timestamp?: number | Date
  /** Default: chosen by the partitioner. */
  readonly partition?: number
  /** Delivered after so long: milliseconds, or text such as '250ms', '30s', '45m', '1.5h', '7d'. Never early. */
  readonly delay?: number | string
  /** Delivered at this time, at once if it is over. Milliseconds since the Unix epoch, or a Date. */
  readonly deliverAt?: number | Date
  /** Delivered after RocketMQ's delay of this level: 1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h are 1 to 18. */
  readonly delayLevel?: number
  /** A name of your own in the id by which a delayed message can be cancelled. Default: a random one. */
  readonly delayId?: string
}

/** The message that can be published to a topic, given by descriptor or by name. */
export type OutgoingOf<T extends AnyTopic | string> = T extends string
  ? OutgoingMessage
  : T extends Topic<infer In, unknown, infer KeyIn, unknown>
    ? OutgoingMessage<In, KeyIn>
    : never

/** A message whose types have been checked, or not: the run time looks at everything again. */
export type AnyOutgoing = OutgoingMessage<never, never>

export function encodeKey(topic: AnyTopic, key: unknown): Uint8Array | string {
  const codec = topic.keyCodec
  if (codec !== null) return encodeWith(codec, topic, 'key', key)
  if (typeof key === 'string' || key instanceof Uint8Array) return key
  throw invalid(
    topic,
    `a key is a string or bytes, not ${describe(key)}; give the topic a key codec for others`,
  )
}

export function encodeValue(topic: AnyTopic, value: unknown): Uint8Array | string | null {
  const codec = topic.valueCodec
  if (value === null && topic.tombstones) return null
  if (codec !== null) return encodeWith(codec, topic, 'value', value)
  if (typeof value === 'string' || value instanceof Uint8Array) return value
  if (value === undefined) throw invalid(topic, 'a message needs a value (null for a tombstone)')
  return encodeWith(plainJson, topic, 'value', value)
}

const plainJson = json<never>()

function encodeWith(
  codec: Codec<never, unknown>,
  topic: AnyTopic,
  what: 'key' | 'value',
  given: unknown,
): Uint8Array | string {
  let encoded: unknown
  try {
    encoded = codec.encode(given as never)
  } catch (error) {
    throw codecError(error, `topic ${topic.name}, ${what}`, { topic: topic.name })
  }
  if (typeof encoded === 'string' || encoded instanceof Uint8Array) return encoded
  const wrong = new TypeError(`the codec gave ${describe(encoded)} instead of a string or bytes`)
  throw codecError(wrong, `topic ${topic.name}, ${what}`, { topic: topic.name })
}

export function encodeHeaders(topic: AnyTopic, headers: HeadersInput): readonly Header[] | null {
  if (typeof headers !== 'object' || headers === null)
    throw invalid(topic, `headers are an object or a list of pairs, not ${describe(headers)}`)
  const list: readonly Header[] = Array.isArray(headers)
    ? (headers as readonly Header[])
    : (Object.entries(headers).filter(([, value]) => value !== undefined) as Header[])
  for (const header of list) {
    const [name, value] = header
    const good =
      typeof name === 'string' && (value === null || typeof value === 'string' || value instanceof Uint8Array)
    if (!good) throw invalid(topic, `header ${String(name)} is text, bytes or null, not ${describe(value)}`)
  }
  return list.length === 0 ? null : list
}

export function encodeTimestamp(topic: AnyTopic, timestamp: number | Date): number {
  const time = timestamp instanceof Date ? timestamp.getTime() : timestamp
  if (Number.isSafeInteger(time) && time >= 0) return time
  throw new SluiceError(
    'INVALID_TIMESTAMP',
    `topic ${topic.name}: a timestamp is a whole number of milliseconds since 1970 or a Date, not ${String(timestamp)}`,
    { topic: topic.name },
  )
}

/** A message whose contents nobody can change any more. */
export function encodeCopy(topic: AnyTopic, message: OutgoingMessage<never, never>, now: number) {
  if (typeof message !== 'object' || message === null) throw notAMessage(topic, message)
  const headers = message.headers === undefined ? null : encodeHeaders(topic, message.headers)
  const delayed = isDelayed(message)
  const { timestamp: given } = message
  return {
    key: message.key == null ? null : copyOf(encodeKey(topic, message.key)),
    value: copyOf(encodeValue(topic, message.value)),
    headers: headers === null ? undefined : headers.map(([name, value]): Header => [name, copyOf(value)]),
    // one that is delayed gets the time of its delivery
    timestamp: given !== undefined ? encodeTimestamp(topic, given) : delayed ? undefined : now,
    partition: message.partition,
    deliverAt: delayed ? dueAtOf(message, now) : undefined,
    delayId: message.delayId,
  }
}

function copyOf<T extends Uint8Array | string | null>(content: T): T | Uint8Array {
  return content instanceof Uint8Array ? Uint8Array.prototype.slice.call(content) : content
}

export const contentBytesMax = (content: Uint8Array | string | null): number =>
  content === null ? 0 : typeof content === 'string' ? content.length * 3 : content.length

function invalid(topic: AnyTopic, message: string): SluiceError {
  return new SluiceError('INVALID_ARGUMENT', `topic ${topic.name}: ${message}`, { topic: topic.name })
}

export const notAMessage = (topic: AnyTopic, given: unknown): SluiceError =>
  invalid(topic, `a message is an object with a value, { value: … }, not ${describe(given)}`)
