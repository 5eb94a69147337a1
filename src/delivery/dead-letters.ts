/**
 * Working with dead letters. The dead letters of a group and topic are a table in the topic `<topic>.<group>.dead`: key is the letter's id
 * (partition and offset of the message that died), the last record of an id is the letter, a tombstone says that it was dealt with.
 *
 *     12-345  value, story      ← died
 *     12-345  value', story     ← edited
 *     12-345  null              ← replayed or discarded
 *
 * Changes are transactions under one name per table, so that of two programs that replay the same letter one is fenced: a letter is replayed
 * once, and gone exactly when it was published again.
 */

import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Header } from '../record/builder.ts'
import { bytes } from './codec.ts'
import { keptAlive } from './keep-alive.ts'
import type { Message } from './message.ts'
import { atLeast, invalidOption } from './option.ts'
import { encodeHeaders, encodeValue, type HeadersInput } from './outgoing.ts'
import { rawTopic } from './raw-topic.ts'
import {
  type DeadLetterReason,
  deadLetterTopic,
  type FailureStory,
  ownHeaders,
  retryTopic,
  SYSTEM_TOPIC_PREFIX,
  storyHeaders,
  storyOf,
  systemHeader,
} from './system-headers.ts'
import { type PlainValue, topic, topicOf } from './topic.ts'
import { scanPartition } from './topic-scan.ts'
import type { Transaction, TransactionOptions } from './transaction.ts'

export interface DeadLetter extends FailureStory {
  /** `<partition>-<offset>` of the message that died. */
  readonly id: string
  readonly reason: DeadLetterReason
  /** When it became a dead letter, milliseconds since the Unix epoch. */
  readonly deadAt: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** The message's own headers. */
  readonly headers: readonly Header[]
}

export interface DeadLetterPage {
  readonly letters: readonly DeadLetter[]
  /** Where the next page begins; null: there are no more. */
  readonly cursor: string | null
}

/** Which letters: ids, or all that pass. */
export type DeadLetterChoice = readonly string[] | ((letter: DeadLetter) => boolean) | 'all'

export interface ReplayOptions {
  /**
   * Where to: 'group' gives it to the workers of the group that it failed in, and to nobody else (what a relay could not deliver goes to its topic);
   * 'topic' publishes it to the topic that it came from, for all groups; or any topic by name. Default 'group'. A group that has no workers (an
   * inbox) is no place to give it to: that is refused with `INVALID_ARGUMENT`.
   */
  readonly to?: 'group' | 'topic' | { readonly topic: string }
  /** Letters a second, at most. Default: as fast as it goes. */
  readonly perSecond?: number
  /** No more than so many. Default: all. */
  readonly limit?: number
  /** Only says what would be replayed. Default false. */
  readonly dryRun?: boolean
  /** Ends it between two letters. */
  readonly signal?: AbortSignal
}

export interface DeadLetterChange {
  readonly value?: PlainValue
  readonly key?: string | Uint8Array | null
  readonly headers?: HeadersInput
}

/** A group and topic that has dead letters, or had some. */
export interface DeadLetterTable {
  readonly topic: string
  readonly group: string
  /** The topic that they are in. */
  readonly name: string
  readonly count: number
}

interface Place {
  readonly partition: number
  readonly offset: number
}

/** Where the last record of each letter is, oldest first, and how far each partition was read for it. */
interface LetterIndex {
  readonly places: Map<string, Place>
  readonly ends: number[]
}

/** Letters that a transaction moves, at most. */
const TRANSACTION_LETTERS_MAX = 500
const PAGE_LETTERS = 100

export interface DeadLettersSetting {
  readonly engine: Engine
  readonly clock: Clock
  transact<R>(body: (transaction: Transaction) => Promise<R>, options: TransactionOptions): Promise<R>
}

/** The dead letters of a group and topic; made by `mq.deadLetters()`. */
export class DeadLetters {
  readonly topic: string
  readonly group: string
  /** The topic that they are in. */
  readonly name: string
  readonly #setting: DeadLettersSetting

  /** @internal */
  constructor(topic: string, group: string, setting: DeadLettersSetting) {
    if (group === '') throw invalidOption('a group has a name')
    this.topic = topic
    this.group = group
    this.name = deadLetterTopic(topic, group)
    this.#setting = setting
  }

  /** How many there are. */
  async count(): Promise<number> {
    return (await this.#index()).places.size
  }

  /** A page of letters, oldest first. `limit`: default 100. Throws `INVALID_ARGUMENT` for a cursor that is none. */
  async list(
    options: {
      readonly limit?: number
      readonly cursor?: string
      readonly where?: (letter: DeadLetter) => boolean
    } = {},
  ): Promise<DeadLetterPage> {
    const limit = atLeast('limit', options.limit ?? PAGE_LETTERS, 1)
    const from = options.cursor === undefined ? undefined : placeOf(options.cursor)
    const letters: DeadLetter[] = []
    for await (const { letter, place } of this.#letters(await this.#index(), from)) {
      if (options.where !== undefined && !options.where(letter)) continue
      if (letters.length === limit) return { letters, cursor: `${place.partition}-${place.offset}` }
      letters.push(letter)
    }
    return { letters, cursor: null }
  }

  /** One letter. Throws `UNKNOWN_DEAD_LETTER`. */
  async get(id: string): Promise<DeadLetter> {
    const index = await this.#index()
    return await this.#read(id, index.places.get(id) ?? this.#unknown(id))
  }

  /**
   * Changes what is in a letter before it is replayed: the value, the key, the message's own headers; what is left out stays. Text and bytes
   * are stored as they are, other values as JSON. Throws `UNKNOWN_DEAD_LETTER`, and what a message can be refused with.
   */
  async edit(id: string, change: DeadLetterChange): Promise<DeadLetter> {
    const plain = topicOf(this.topic)
    await this.#transact(async transaction => {
      const letter = await this.get(id)
      const value = change.value === undefined ? letter.value : encodeValue(topicOf(plain.name), change.value)
      const key = change.key === undefined ? letter.key : change.key
      const headers =
        change.headers === undefined ? letter.headers : (encodeHeaders(plain, change.headers) ?? [])
      const edited = { key: bytesOf(key), value: bytesOf(value), headers, deadAt: letter.deadAt }
      void transaction.publish(rawTopic(this.name), letterMessage(edited, letter, letter.reason))
    })
    return await this.get(id)
  }

  /**
   * Publishes letters again and takes them out of the dead letters, in one transaction for each few. Resolves with their ids. Letters whose
   * transaction did not come about are still there. Throws `UNKNOWN_DEAD_LETTER` if an id is not there, `INVALID_ARGUMENT`; then nothing was
   * replayed.
   */
  async replay(choice: DeadLetterChoice, options: ReplayOptions = {}): Promise<string[]> {
    const { to = 'group', dryRun = false, signal, perSecond = Number.POSITIVE_INFINITY } = options
    if (!(perSecond > 0)) throw invalidOption(`perSecond is a number above 0, not ${perSecond}`)
    const index = await this.#index()
    const ids = await this.#choose(
      index,
      choice,
      atLeast('limit', options.limit ?? Number.MAX_SAFE_INTEGER, 1),
    )
    if (ids.length === 0) return ids
    const target = await this.#targetOf(to)
    if (dryRun) return ids
    const step = Math.max(1, Math.min(TRANSACTION_LETTERS_MAX, Math.floor(perSecond / 10)))
    const startedAt = this.#setting.clock.monotonic()
    const replayed: string[] = []
    for (let at = 0; at < ids.length && signal?.aborted !== true; at += step) {
      await this.#pause(startedAt + (at / perSecond) * 1_000)
      replayed.push(...(await this.#replaySome(index, ids.slice(at, at + step), target)))
    }
    return replayed
  }

  /** Takes letters out of the dead letters for good. Resolves with their ids. Throws `UNKNOWN_DEAD_LETTER`. */
  async discard(
    choice: DeadLetterChoice,
    options: Pick<ReplayOptions, 'limit' | 'dryRun'> = {},
  ): Promise<string[]> {
    const limit = atLeast('limit', options.limit ?? Number.MAX_SAFE_INTEGER, 1)
    const ids = await this.#choose(await this.#index(), choice, limit)
    if (options.dryRun === true) return ids
    for (let at = 0; at < ids.length; at += TRANSACTION_LETTERS_MAX) {
      const some = ids.slice(at, at + TRANSACTION_LETTERS_MAX)
      await this.#transact(async transaction => {
        for (const id of some) void transaction.publish(rawTopic(this.name), tombstone(id))
      })
    }
    return ids
  }

  /** Those that are still there: somebody else may have dealt with some of them meanwhile. */
  #replaySome(index: LetterIndex, ids: readonly string[], target: string): Promise<string[]> {
    return this.#transact(async transaction => {
      await this.#refresh(index)
      const there = ids.filter(id => index.places.has(id))
      for (const id of there) {
        const letter = await this.#read(id, index.places.get(id) as Place)
        const { key, value } = letter
        const headers = [...letter.headers]
        // for the group alone it is the message that died, and its attempts begin anew
        if (target === this.#retries) headers.push(...storyHeaders({ ...letter, attempts: 0 }))
        void transaction.publish(rawTopic(target), { key, value, headers })
        void transaction.publish(rawTopic(this.name), tombstone(id))
      }
      return there
    })
  }

  async #targetOf(to: NonNullable<ReplayOptions['to']>): Promise<string> {
    if (typeof to === 'object') return to.topic
    // what a relay could not deliver has never been where it was to go
    if (to === 'topic' || this.group.startsWith(SYSTEM_TOPIC_PREFIX)) return this.topic
    // workers make it when they begin; where it is missing nobody would ever read it
    if ((await this.#setting.engine.listTopics()).includes(this.#retries)) return this.#retries
    throw invalidOption(
      `group ${this.group} has no workers that take letters of ${this.topic} again; replay them to the topic, or to another`,
    )
  }

  get #retries(): string {
    return retryTopic(this.topic, this.group)
  }

  /** The ids of the letters chosen, oldest first, no more than `limit`. */
  async #choose(index: LetterIndex, choice: DeadLetterChoice, limit: number): Promise<string[]> {
    if (choice === 'all') return [...index.places.keys()].slice(0, limit)
    if (typeof choice !== 'function') {
      const missing = choice.find(id => !index.places.has(id))
      if (missing !== undefined) this.#unknown(missing)
      return [...new Set(choice)].slice(0, limit)
    }
    const ids: string[] = []
    for await (const { letter } of this.#letters(index)) {
      if (choice(letter) && ids.push(letter.id) >= limit) break
    }
    return ids
  }

  #unknown(id: string): never {
    throw new SluiceError(
      'UNKNOWN_DEAD_LETTER',
      `${this.name} has no dead letter ${id}; it may have been replayed or discarded`,
      { topic: this.topic, group: this.group, id },
    )
  }

  async #read(id: string, { partition, offset }: Place): Promise<DeadLetter> {
    const range = { partition, from: offset, to: offset + 1 }
    for await (const batch of scanPartition(this.#setting.engine, rawTopic(this.name), range)) {
      for (const message of batch) if (message.offset === offset) return readLetter(id, message)
    }
    return this.#unknown(id) // compacted away meanwhile: it was dealt with
  }

  /** Letters in the order in which their topic has them. */
  async *#letters(index: LetterIndex, from?: Place): AsyncGenerator<{ letter: DeadLetter; place: Place }> {
    for (const [partition, to] of index.ends.entries()) {
      if (from !== undefined && partition < from.partition) continue
      const range = { partition, to, from: from?.partition === partition ? from.offset : undefined }
      for await (const batch of scanPartition(this.#setting.engine, rawTopic(this.name), range)) {
        for (const message of batch) {
          const id = idOf(message)
          const place = index.places.get(id)
          if (place?.offset !== message.offset || place.partition !== partition) continue
          yield { letter: readLetter(id, message), place }
        }
      }
    }
  }

  async #index(): Promise<LetterIndex> {
    const index: LetterIndex = { places: new Map(), ends: [] }
    await this.#refresh(index)
    return index
  }

  /** Reads what has come since. */
  async #refresh({ places, ends }: LetterIndex): Promise<void> {
    const count = await this.#partitions()
    for (let partition = 0; partition < count; partition++) {
      const range = { partition, from: ends[partition] }
      ends[partition] ??= 0
      for await (const batch of scanPartition(this.#setting.engine, rawTopic(this.name), range)) {
        for (const message of batch) {
          const id = idOf(message)
          places.delete(id) // the last one counts, for the order as well
          if (message.valueBytes !== null) places.set(id, { partition, offset: message.offset })
        }
        ends[partition] = batch.lastOffset + 1
      }
    }
  }

  /** None if nothing has died yet. */
  async #partitions(): Promise<number> {
    try {
      return (await this.#setting.engine.describeTopic(this.name)).partitions.length
    } catch (error) {
      if (isSluiceError(error, 'UNKNOWN_TOPIC')) return 0
      throw error
    }
  }

  #transact<R>(body: (transaction: Transaction) => Promise<R>): Promise<R> {
    return this.#setting.transact(body, { transactionalId: this.name })
  }

  #pause(until: number): Promise<void> {
    const { clock } = this.#setting
    const delayMs = until - clock.monotonic()
    return delayMs > 0 ? keptAlive(new Promise(resolve => clock.after(delayMs, resolve))) : Promise.resolve()
  }
}

/** All that have dead letters now. Topics with such a name that hold something else are left out. */
export async function deadLetterTables(setting: DeadLettersSetting): Promise<DeadLetterTable[]> {
  const tables: DeadLetterTable[] = []
  for (const name of await setting.engine.listTopics()) {
    if (!name.endsWith('.dead')) continue
    for await (const batch of scanPartition(setting.engine, rawTopic(name), { partition: 0 })) {
      const stories = [...batch].map(storyOf)
      const story = stories.find(
        found => found !== null && deadLetterTopic(found.topic, found.group) === name,
      )
      if (story == null) continue
      const { topic: origin, group } = story
      const count = await new DeadLetters(origin, group, setting).count()
      if (count > 0) tables.push({ topic: origin, group, name, count })
      break
    }
  }
  return tables
}

/**
 * The message that tells of a dead letter, for `deadLetterTopicOf(…)`. Of a letter with the same id only the last one counts. A value of null is
 * kept as a header, because null is what takes a letter away.
 */
export function letterMessage(
  died: Pick<DeadLetter, 'key' | 'value' | 'headers' | 'deadAt'>,
  story: FailureStory,
  reason: DeadLetterReason,
): { key: Buffer; value: Buffer; headers: Header[]; timestamp: number } {
  const headers: Header[] = [...died.headers, ...storyHeaders(story), [systemHeader.reason, reason]]
  if (died.key !== null) headers.push([systemHeader.key, died.key])
  if (died.value === null) headers.push([systemHeader.nullValue, ''])
  return {
    key: Buffer.from(`${story.partition}-${story.offset}`),
    value: died.value ?? Buffer.alloc(0),
    headers,
    timestamp: died.deadAt,
  }
}

/** The topic of the dead letters of a group and topic, as it is created. */
export const deadLetterTopicOf = (origin: string, group: string) =>
  topic(deadLetterTopic(origin, group), {
    value: bytes,
    key: bytes,
    tombstones: true,
    partitions: 1,
    config: { 'cleanup.policy': 'compact' },
  })

function readLetter(id: string, message: Message<unknown, unknown>): DeadLetter {
  const story = storyOf(message)
  return {
    topic: story?.topic ?? '',
    partition: story?.partition ?? -1,
    offset: story?.offset ?? -1,
    timestamp: story?.timestamp ?? -1,
    group: story?.group ?? '',
    attempts: story?.attempts ?? 0,
    firstFailureAt: story?.firstFailureAt ?? -1,
    lastFailureAt: story?.lastFailureAt ?? -1,
    error: story?.error ?? { name: '', message: '', stack: '' },
    id,
    reason: (message.header(systemHeader.reason) ?? 'rejected') as DeadLetterReason,
    deadAt: message.timestamp,
    key: message.headers[systemHeader.key] ?? null,
    value: message.header(systemHeader.nullValue) === undefined ? message.valueBytes : null,
    headers: ownHeaders(message),
  }
}

const tombstone = (id: string) => ({ key: Buffer.from(id), value: null })

const idOf = (message: Message<unknown, unknown>): string => message.keyBytes?.toString('utf8') ?? ''

const bytesOf = (content: Uint8Array | string | null): Buffer | null =>
  content === null ? null : Buffer.from(content as string)

function placeOf(cursor: string): Place {
  const [partition, offset] = cursor.split('-').map(Number)
  if (Number.isSafeInteger(partition) && Number.isSafeInteger(offset)) return { partition, offset }
  throw invalidOption(`"${cursor}" is no cursor; take it from the page before`)
}
