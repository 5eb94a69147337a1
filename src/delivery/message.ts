/**
 * What a consumer hands out. A `Message` is a small object over the bytes of the batch it came in: it knows
 * where its key, value and headers lie, and has decoded nothing. Getters decode on demand and remember what
 * they decoded.
 *
 * Lifetime: a message keeps alive what its fetch brought (up to `partitionBytesMax`), and its Buffers are
 * views of that. Those bytes never change, so keeping a message is safe; to keep a few out of many for long,
 * copy what you need.
 *
 * A `MessageBatch` is what one fetch brought for one partition, from the consumer's position on. It counts by
 * the headers of the record batches; records are decoded as they are iterated.
 */

import { isUtf8 } from 'node:buffer'
import { type InspectOptions, inspect } from 'node:util'
import { SluiceError } from '../errors.ts'
import {
  asBuffer,
  baseOffset,
  batchBytes,
  checkHeader,
  isControl,
  lastOffset,
  lastOffsetDelta,
  recordCount,
} from '../record/batch.ts'
import { RecordCursor, type RecordPlace, readHeaders } from '../record/cursor.ts'
import { codecError } from './codec.ts'
import type { AnyTopic, PlainBytes } from './topic.ts'

/** Headers by name. A name that occurs several times has its last value here; `headerList()` has them all. */
export type MessageHeaders = Readonly<Record<string, Buffer | null>>

/** What the messages of one fetch have in common. */
export interface MessageSource {
  readonly topic: AnyTopic
  readonly partition: number
}

/** Not decoded yet. No codec can give this. */
const UNDECODED: unique symbol = Symbol('undecoded')

/**
 * One message. `V` and `K` are what the codecs of its topic give; without a codec the value is `Buffer |
 * null` and the key a string.
 *
 * Reading `value` or `key` throws `SCHEMA_MISMATCH` or `CODEC_FAILED` when the stored bytes are not what the
 * topic promises. `valueBytes` and `keyBytes` are there all the same.
 */
export class Message<V = PlainBytes, K = string> {
  readonly offset: number
  /**
   * Milliseconds since the Unix epoch: the producer's time, or the log's where the topic says LogAppendTime.
   */
  readonly timestamp: number
  readonly #source: MessageSource
  readonly #bytes: Buffer
  readonly #keyStart: number
  readonly #keyLength: number
  readonly #valueStart: number
  readonly #valueLength: number
  readonly #headersStart: number
  readonly #headerCount: number
  #key: K | null | typeof UNDECODED = UNDECODED
  #value: V | typeof UNDECODED = UNDECODED
  #headers: MessageHeaders | null = null

  /** @internal Messages come from consumers. Takes the record that lies there, or that a cursor stands on. */
  constructor(source: MessageSource, record: RecordPlace) {
    this.offset = record.offset
    this.timestamp = record.timestamp
    this.#source = source
    this.#bytes = record.bytes
    this.#keyStart = record.keyStart
    this.#keyLength = record.keyBytes
    this.#valueStart = record.valueStart
    this.#valueLength = record.valueBytes
    this.#headersStart = record.headersStart
    this.#headerCount = record.headerCount
  }

  /** @internal What it was read with: the same for all that a reader hands out until it goes elsewhere. */
  get source(): MessageSource {
    return this.#source
  }

  get topic(): string {
    return this.#source.topic.name
  }

  get partition(): number {
    return this.#source.partition
  }

  /** The key, decoded; null if the message has none. */
  get key(): K | null {
    const known = this.#key
    return known === UNDECODED ? this.#decodeKey() : known
  }

  /** The value, decoded by the topic's codec and checked by its schema. */
  get value(): V {
    const known = this.#value
    return known === UNDECODED ? this.#decodeValue() : known
  }

  /** The stored key, a view. */
  get keyBytes(): Buffer | null {
    return this.#keyLength < 0 ? null : this.#bytes.subarray(this.#keyStart, this.#keyStart + this.#keyLength)
  }

  /** The stored value, a view. */
  get valueBytes(): Buffer | null {
    return this.#valueLength < 0
      ? null
      : this.#bytes.subarray(this.#valueStart, this.#valueStart + this.#valueLength)
  }

  get headers(): MessageHeaders {
    this.#headers ??= Object.freeze(Object.assign(Object.create(null), Object.fromEntries(this.headerList())))
    return this.#headers as MessageHeaders
  }

  /** The header of this name as text; undefined if there is none, null if it has no value. */
  header(name: string): string | null | undefined {
    if (this.#headerCount === 0) return undefined
    const value = this.headers[name]
    return value == null ? value : value.toString('utf8')
  }

  /** All headers in their order, with names that repeat. */
  headerList(): [name: string, value: Buffer | null][] {
    return readHeaders(this.#bytes, this.#headersStart, this.#headerCount)
  }

  /** The stored value as UTF-8 text, whatever the topic's codec; '' if it is null. */
  text(): string {
    return this.#valueLength <= 0
      ? ''
      : this.#bytes.toString('utf8', this.#valueStart, this.#valueStart + this.#valueLength)
  }

  /**
   * The stored value parsed as JSON, unchecked, whatever the topic's codec; null if it is null. Throws
   * `CODEC_FAILED`.
   */
  json<T = unknown>(): T {
    if (this.#valueLength < 0) return null as T
    try {
      return JSON.parse(this.text())
    } catch (error) {
      throw this.#refusal(error, 'value')
    }
  }

  toJSON(): Record<string, unknown> {
    return {
      topic: this.topic,
      partition: this.partition,
      offset: this.offset,
      timestamp: this.timestamp,
      key: this.#printed('key'),
      value: this.#printed('value'),
      headers: Object.fromEntries(this.headerList().map(([name, value]) => [name, printable(value)])),
    }
  }

  [inspect.custom](_depth: number, options: InspectOptions): string {
    return `Message ${inspect({ ...this.toJSON(), timestamp: new Date(this.timestamp) }, options)}`
  }

  #decodeKey(): K | null {
    const bytes = this.keyBytes
    const codec = this.#source.topic.keyCodec
    let key: unknown = null
    try {
      if (bytes !== null) key = codec === null ? bytes.toString('utf8') : codec.decode(bytes)
    } catch (error) {
      throw this.#refusal(error, 'key')
    }
    this.#key = key as K | null
    return key as K | null
  }

  #decodeValue(): V {
    const bytes = this.valueBytes
    const { valueCodec, tombstones } = this.#source.topic
    let value: unknown = bytes
    if (bytes !== null) {
      try {
        if (valueCodec !== null) value = valueCodec.decode(bytes)
      } catch (error) {
        throw this.#refusal(error, 'value')
      }
    } else if (!tombstones) {
      throw this.#refusal(
        new SluiceError(
          'SCHEMA_MISMATCH',
          'null (a tombstone); declare the topic with `tombstones: true` to read those',
        ),
        'value',
      )
    }
    this.#value = value as V
    return value as V
  }

  /** A value that prints: decoded where that works, as text or base64 where not. */
  #printed(what: 'key' | 'value'): unknown {
    try {
      const decoded = this[what]
      return decoded instanceof Uint8Array ? printable(decoded) : decoded
    } catch {
      return printable(this[`${what}Bytes`])
    }
  }

  #refusal(error: unknown, what: 'key' | 'value'): SluiceError {
    const { topic, partition, offset } = this
    return codecError(error, `${topic}/${partition} offset ${offset}, ${what}`, { topic, partition, offset })
  }
}

function printable(bytes: Uint8Array | null): unknown {
  if (bytes === null) return null
  return isUtf8(bytes) ? asBuffer(bytes).toString('utf8') : { base64: asBuffer(bytes).toString('base64') }
}

/**
 * Messages of one partition, in order. Iterate it as often as you like; each time records are decoded anew.
 */
export class MessageBatch<V = PlainBytes, K = string> implements Iterable<Message<V, K>> {
  readonly topic: string
  readonly partition: number
  /** Where the batch begins. The first message may have a later offset: compaction leaves gaps. */
  readonly firstOffset: number
  /** Where it ends, inclusive. `commit(batch)` commits the offset after it. */
  readonly lastOffset: number
  /** Number of messages. */
  readonly count: number
  /** Bytes as stored. */
  readonly bytes: number
  readonly #source: MessageSource
  readonly #batches: Buffer

  /**
   * @internal Batches come from consumers. `batches` are whole record batches, not empty; records before
   * `position` are left out. Throws `INVALID_RECORD` if the bytes are not record batches.
   */
  constructor(source: MessageSource, batches: Uint8Array, position: number) {
    this.#source = source
    this.#batches = asBuffer(batches)
    this.topic = source.topic.name
    this.partition = source.partition
    this.bytes = batches.length
    this.firstOffset = Math.max(position, baseOffset(this.#batches, 0))
    let count = 0
    let last = -1
    for (let at = 0; at < batches.length; at += batchBytes(this.#batches, at)) {
      this.#check(at)
      count += isControl(this.#batches, at) ? 0 : this.#countFrom(at, position)
      last = lastOffset(this.#batches, at)
    }
    this.count = count
    this.lastOffset = last
  }

  /** @internal What it was read with: the same for all that a reader hands out until it goes elsewhere. */
  get source(): MessageSource {
    return this.#source
  }

  [Symbol.iterator](): IterableIterator<Message<V, K>> {
    return new MessageIterator<V, K>(this.#source, this.#batches, this.firstOffset)
  }

  /** @internal The records as they lie, for whoever needs no object for each. The first ones may lie before `firstOffset`: pass over them. */
  records(): RecordCursor {
    return new RecordCursor(this.#batches)
  }

  /** All messages as an array. */
  messages(): Message<V, K>[] {
    const messages: Message<V, K>[] = []
    const cursor = new RecordCursor(this.#batches)
    while (cursor.next())
      if (cursor.offset >= this.firstOffset) messages.push(new Message(this.#source, cursor))
    return messages
  }

  [inspect.custom](): string {
    return `MessageBatch { ${this.topic}/${this.partition}, offsets ${this.firstOffset}..${this.lastOffset}, ${this.count} messages }`
  }

  #check(at: number): void {
    const wrong =
      checkHeader(this.#batches, at, this.bytes) ??
      (at + batchBytes(this.#batches, at) > this.bytes ? 'incomplete batch' : null)
    if (wrong === null) return
    const { topic, partition } = this
    throw new SluiceError('INVALID_RECORD', `${topic}/${partition}: malformed record batch: ${wrong}`, {
      topic,
      partition,
    })
  }

  /** Records of the batch at `at` whose offset is not below `position`. */
  #countFrom(at: number, position: number): number {
    const batches = this.#batches
    const records = recordCount(batches, at)
    if (baseOffset(batches, at) >= position) return records
    if (records === lastOffsetDelta(batches, at) + 1)
      return Math.max(0, lastOffset(batches, at) - position + 1)
    // compacted: only the records know their offsets
    let count = 0
    const cursor = new RecordCursor(batches.subarray(at, at + batchBytes(batches, at)))
    while (cursor.next()) if (cursor.offset >= position) count++
    return count
  }
}

class MessageIterator<V, K> implements IterableIterator<Message<V, K>> {
  readonly #source: MessageSource
  readonly #cursor: RecordCursor
  readonly #position: number

  constructor(source: MessageSource, batches: Buffer, position: number) {
    this.#source = source
    this.#cursor = new RecordCursor(batches)
    this.#position = position
  }

  next(): IteratorResult<Message<V, K>, undefined> {
    const cursor = this.#cursor
    while (cursor.next()) {
      if (cursor.offset >= this.#position)
        return { done: false, value: new Message<V, K>(this.#source, cursor) }
    }
    return { done: true, value: undefined }
  }

  [Symbol.iterator](): this {
    return this
  }
}
