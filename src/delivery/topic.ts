/**
 * Topic descriptors. `topic(name, options)` is a plain frozen object that producers and consumers of a
 * program share: it carries the message types to the compiler and the codecs to the run time. It opens
 * nothing and owns nothing.
 *
 * Wherever the API takes a topic, it takes a name as well. A name alone means the plain codec: values are
 * written as they are (string, bytes, null) or as JSON (anything else), and read as Buffer | null; keys are
 * strings.
 */

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { SluiceError } from '../errors.ts'
import { type Codec, describe, schemaCodec } from './codec.ts'

/**
 * What can be published to a topic without a codec: text, bytes, null (a tombstone), or anything that JSON
 * can hold.
 */
export type PlainValue = string | Uint8Array | null | number | boolean | object

/**
 * What a topic without a codec gives back: the stored bytes, or null. `message.text()` and `message.json()`
 * decode them.
 */
export type PlainBytes = Buffer | null

declare const messageTypes: unique symbol

/**
 * A topic as the program sees it. `In` is what is published, `Out` what a consumer gets, `KeyIn` and `KeyOut`
 * the same for keys. Made by `topic()`.
 */
export interface Topic<In = never, Out = unknown, KeyIn = never, KeyOut = unknown> {
  readonly name: string
  /** Used when the topic is created; a topic that exists keeps the number it has. */
  readonly partitions?: number
  /** Kafka's configuration keys, used when the topic is created. */
  readonly config?: Readonly<Record<string, string>>
  /** null: plain. */
  readonly valueCodec: Codec<In, Out> | null
  /** null: strings. */
  readonly keyCodec: Codec<KeyIn, KeyOut> | null
  /** Whether null is a value of its own, a tombstone, rather than something for the codec. */
  readonly tombstones: boolean
  /** For the compiler only. */
  readonly [messageTypes]?: (value: In, key: KeyIn) => [Out, KeyOut]
}

/** Any descriptor, whatever it carries. */
export type AnyTopic = Topic<never, unknown, never, unknown>

/** A value codec, or a Standard Schema (JSON that is checked). */
export type AnyCodec = Codec<never, unknown> | StandardSchemaV1

/** What a codec or schema takes. */
export type InputOf<C> = C extends StandardSchemaV1
  ? StandardSchemaV1.InferInput<C>
  : C extends Codec<infer In, unknown>
    ? In
    : never

/** What a codec or schema gives. */
export type OutputOf<C> = C extends StandardSchemaV1
  ? StandardSchemaV1.InferOutput<C>
  : C extends Codec<never, infer Out>
    ? Out
    : never

export interface TopicOptions {
  /** Partitions to create the topic with. Default: the engine's (`num.partitions`, 1). */
  readonly partitions?: number
  /**
   * Configuration to create the topic with, by Kafka's names: `{ 'retention.ms': 86_400_000 }`. Default: the
   * engine's.
   */
  readonly config?: TopicConfig
}

/** Kafka's configuration keys; numbers and booleans are written as Kafka writes them. */
export type TopicConfig = Readonly<Record<string, string | number | boolean>>

export interface TypedTopicOptions<V extends AnyCodec, K extends AnyCodec> extends TopicOptions {
  /**
   * How values are stored: a Standard Schema (zod, valibot, arktype…) for checked JSON, or a codec:
   * `json<T>()`, `string`, `bytes`, your own.
   */
  readonly value: V
  /** How keys are stored. Default `string`. */
  readonly key?: K
}

/**
 * A topic whose null values mean "deleted" (for compacted topics): publishing takes `V | null`, reading gives
 * `V | null`.
 */
export interface TombstoneTopicOptions<V extends AnyCodec, K extends AnyCodec>
  extends TypedTopicOptions<V, K> {
  readonly tombstones: true
}

type StringCodec = Codec<string>

/** A topic without a codec: see `PlainValue` and `PlainBytes`. */
export type PlainTopic = Topic<PlainValue, PlainBytes, string, string>

/**
 * Describes a topic.
 *
 *     const Orders = topic('orders', { value: z.object({ id: z.number() }), partitions: 8 })
 *     await mq.publish(Orders, { key: 'ann', value: { id: 1 } })   // checked by the compiler and at run time
 *
 * Throws `INVALID_ARGUMENT` if an option is not what it should be. The name is checked by the engine.
 */
export function topic<V extends AnyCodec, K extends AnyCodec = StringCodec>(
  name: string,
  options: TombstoneTopicOptions<V, K>,
): Topic<InputOf<V> | null, OutputOf<V> | null, InputOf<K>, OutputOf<K>>
export function topic<V extends AnyCodec, K extends AnyCodec = StringCodec>(
  name: string,
  options: TypedTopicOptions<V, K>,
): Topic<InputOf<V>, OutputOf<V>, InputOf<K>, OutputOf<K>>
export function topic(name: string, options?: TopicOptions): PlainTopic
export function topic(
  name: string,
  options: TopicOptions & { value?: AnyCodec; key?: AnyCodec; tombstones?: boolean } = {},
): AnyTopic {
  if (typeof name !== 'string') throw invalid(`the name of a topic is a string, not ${describe(name)}`)
  const { partitions, config } = options
  if (partitions !== undefined && !(Number.isInteger(partitions) && partitions > 0)) {
    throw invalid(`topic ${name}: partitions is a whole number from 1 on, not ${String(partitions)}`)
  }
  return Object.freeze({
    name,
    partitions,
    config: config === undefined ? undefined : configStrings(config),
    valueCodec: options.value === undefined ? null : codecOf(name, 'value', options.value),
    keyCodec: options.key === undefined ? null : codecOf(name, 'key', options.key),
    tombstones: options.value === undefined || options.tombstones === true,
  }) satisfies AnyTopic
}

/** A name or a descriptor as a descriptor. */
export function topicOf(target: string | AnyTopic): AnyTopic {
  if (typeof target === 'string') return topic(target) as AnyTopic
  if (typeof target === 'object' && target !== null && typeof target.name === 'string') return target
  throw invalid(`a topic is a name or what topic() gives, not ${describe(target)}`)
}

export const topicName = (target: string | AnyTopic): string => topicOf(target).name

/** Configuration as Kafka spells it. */
export function configStrings(config: TopicConfig): Record<string, string> {
  return Object.fromEntries(Object.entries(config).map(([key, value]) => [key, String(value)]))
}

function codecOf(name: string, what: string, given: AnyCodec): Codec<never, unknown> {
  // a schema first: zod's schemas have methods called encode and decode, too
  if (given !== null && '~standard' in given) {
    if (given['~standard'].version !== 1)
      throw invalid(`topic ${name}: ${what} is not a Standard Schema of version 1`)
    return schemaCodec(given) as Codec<never, unknown>
  }
  if (typeof given?.encode === 'function' && typeof given.decode === 'function') return given
  throw invalid(
    `topic ${name}: ${what} is a Standard Schema or a codec with encode and decode, not ${describe(given)}`,
  )
}

const invalid = (message: string): SluiceError => new SluiceError('INVALID_ARGUMENT', message)
