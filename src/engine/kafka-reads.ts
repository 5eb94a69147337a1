/**
 * Reading from a cluster: long polls to the leaders of the partitions that are asked for.
 *
 *     fetch [a0 b1 c2] ──► leader 1: read {a b}      answers first: the call returns with it,
 *                      ──► leader 2: read {c}        and this read stays on its way
 *     fetch [a7 c2]    ──► leader 1: read {a}
 *                          (c at 2 is on its way already: the call waits for that read)
 *
 * A read belongs to nobody: a call that ends early (data elsewhere, or its signal) leaves it behind, and the next call for
 * the same place joins it. What a read brings when nobody waits for it is kept for a moment. Each read has a
 * link of its own, because a broker answers one request of a connection after the other; when there are as many as may be, what
 * is wanted beside them goes with the read that begins next.
 *
 * Bounded: a read waits `READ_MS_MAX` on the broker; reads to one broker end together, so that the next one is for all
 * partitions again; links and bytes kept have limits. Bytes that are handed out are whole batches with correct checksums.
 */

import { SluiceError } from '../errors.ts'
import { systemClock } from '../lib/clock.ts'
import {
  asBuffer,
  batchBytes,
  checkBatch,
  isControl,
  isTransactional,
  lastOffset,
  producerId,
} from '../record/batch.ts'
import { emptied } from '../record/filter.ts'
import { fetchApi } from '../wire/kafka/fetch.ts'
import type { Fetched, FetchOptions, FetchPartition, Isolation, TopicPartition } from './engine.ts'
import { isPassing, type KafkaCluster, refusalOf } from './kafka-cluster.ts'
import { type Address, addressText, type KafkaLink } from './kafka-link.ts'

/** One fetch request on its way. */
interface Read {
  readonly offsets: ReadonlyMap<string, number>
  /** When the broker answers at the latest, on the monotonic clock. */
  readonly endsAt: number
  /** Calls that wait for it. */
  waiting: number
  done: boolean
  /** By partition, when done. */
  parts: ReadonlyMap<string, Fetched>
  /** Never rejects. */
  finished: Promise<void>
}

/** A partition that a read is to bring, and how much of it. */
interface Wanted extends FetchPartition {
  readonly bytesMax: number
}

/** What is kept about one broker. */
interface Shelf {
  readonly address: Address
  readonly reads: Set<Read>
  /** By partition: what there was no read left for. It goes with the next one that begins, whosever that is. */
  readonly queued: Map<string, Wanted>
  readonly idle: KafkaLink[]
}

/** What a broker says of a transaction that was aborted: its records are those of the producer from here to its marker. */
export interface AbortedTransaction {
  readonly producerId: number
  readonly firstOffset: number
}

/** Arrived when nobody waited for it. */
interface Kept {
  readonly offset: number
  readonly part: Fetched
  readonly until: number
}

const WAIT_MS = 500
const PARTITION_BYTES_MAX = 1024 * 1024
/** Longest that a broker is asked to hold a read. */
const READ_MS_MAX = 500
/** Beyond its wait, how long a broker may take to answer. */
const REQUEST_TIMEOUT_MS = 30_000
const RESPONSE_BYTES_MAX = 64 * 1024 * 1024
const READS_PER_BROKER_MAX = 32
const IDLE_LINKS_MAX = 4
/** Shortest that a read is asked to wait for the others to end. */
const TURN_MS = 20
const KEPT_MS = 1_000
const KEPT_COUNT_MAX = 64
const RETRY_DELAY_MS = 100
/** The last version that names topics. */
const VERSION_MAX = 12
const BATCH_PREFIX_BYTES = 12
const READ_UNCOMMITTED = 0
const READ_COMMITTED = 1
const MAGIC_AT = 16
const MAGIC = 2

const keyOf = ({ topic, partition }: TopicPartition): string => `${partition} ${topic}`

export class KafkaReads {
  readonly #cluster: KafkaCluster
  readonly #isolation: Isolation
  readonly #shelves = new Map<string, Shelf>()
  readonly #kept = new Map<string, Kept>()

  /** All that is read through it is read with this isolation. */
  constructor(cluster: KafkaCluster, isolation: Isolation) {
    this.#cluster = cluster
    this.#isolation = isolation
  }

  async fetch(wanted: readonly FetchPartition[], options: FetchOptions = {}): Promise<Fetched[]> {
    const { waitMs = WAIT_MS, partitionBytesMax = PARTITION_BYTES_MAX, signal } = options
    const deadline = systemClock.monotonic() + waitMs
    const found = new Map<string, Fetched>()
    while (wanted.length > 0) {
      const { reads, begun } = await this.#readsFor(wanted, found, partitionBytesMax, deadline)
      const isAborted = isAnswer(found)
        ? await this.#finished(begun, true, signal)
        : await this.#finished(reads, waitMs === 0, signal)
      for (const read of reads) if (read.done) this.#collect(read, wanted, found)
      if (isAborted || isAnswer(found) || systemClock.monotonic() >= deadline) break
      if (found.size > 0 && [...found.values()].some(({ error }) => error !== undefined)) {
        // What passes by itself is reported only if it has not passed by the end of the wait.
        const leftMs = Math.max(0, deadline - systemClock.monotonic())
        await this.#cluster.wait(Math.min(RETRY_DELAY_MS, leftMs))
      }
      found.clear()
    }
    return this.#answer(wanted, found)
  }

  /** What is known of a topic's records is out of date: it is deleted, or loses records. */
  forget(topic: string): void {
    for (const [key, { part }] of this.#kept) if (part.topic === topic) this.#kept.delete(key)
    for (const shelf of this.#shelves.values()) {
      for (const read of shelf.reads) if (hasTopic(read, topic)) shelf.reads.delete(read)
      for (const [key, one] of shelf.queued) if (one.topic === topic) shelf.queued.delete(key)
    }
  }

  /** The reads that bring what is wanted: those on their way, and new ones. What has come already goes to `found`. */
  async #readsFor(
    wanted: readonly FetchPartition[],
    found: Map<string, Fetched>,
    partitionBytesMax: number,
    deadline: number,
  ): Promise<{ reads: Set<Read>; begun: Set<Read> }> {
    const missing = new Map<Shelf, Wanted[]>()
    const reads = new Set<Read>()
    const begun = new Set<Read>()
    await Promise.all(
      wanted.map(async one => {
        const key = keyOf(one)
        const kept = this.#takeKept(key, one.offset)
        if (kept !== null) {
          found.set(key, kept)
          return
        }
        try {
          const shelf = this.#shelf(await this.#cluster.leaderOf(one.topic, one.partition))
          const onItsWay = shelf.reads
            .values()
            .find(read => !read.done && read.offsets.get(key) === one.offset)
          if (onItsWay !== undefined) reads.add(onItsWay)
          else {
            const bytesMax = partitionBytesMax
            missing.set(shelf, [...(missing.get(shelf) ?? []), { ...one, bytesMax }])
          }
        } catch (error) {
          found.set(key, failed(one, error))
        }
      }),
    )
    // If there is something to return already, the others are asked for what they have, without waiting.
    const latest = isAnswer(found) ? systemClock.monotonic() : deadline
    for (const [shelf, partitions] of missing) {
      for (const one of partitions) shelf.queued.set(keyOf(one), one)
      if (shelf.reads.size < READS_PER_BROKER_MAX) begun.add(this.#begin(shelf, latest))
      else for (const read of shelf.reads) reads.add(read)
    }
    for (const read of begun) reads.add(read)
    return { reads, begun }
  }

  #shelf(address: Address): Shelf {
    const key = addressText(address)
    let shelf = this.#shelves.get(key)
    if (shelf === undefined)
      this.#shelves.set(key, (shelf = { address, reads: new Set(), queued: new Map(), idle: [] }))
    return shelf
  }

  /** Waits for the first read to finish (`all`: for all of them), or for the signal: true if that came. */
  async #finished(reads: ReadonlySet<Read>, all: boolean, signal: AbortSignal | undefined): Promise<boolean> {
    if (signal?.aborted) return true
    if (reads.size === 0) return false
    for (const read of reads) read.waiting++
    const { promise: aborted, resolve: abort } = Promise.withResolvers<void>()
    const onAbort = (): void => abort()
    signal?.addEventListener('abort', onAbort, { once: true })
    const finished = [...reads].map(read => read.finished)
    try {
      await Promise.race([all ? Promise.all(finished) : Promise.race(finished), aborted])
    } finally {
      signal?.removeEventListener('abort', onAbort)
      for (const read of reads) read.waiting--
    }
    return signal?.aborted ?? false
  }

  #collect(read: Read, wanted: readonly FetchPartition[], found: Map<string, Fetched>): void {
    for (const one of wanted) {
      const key = keyOf(one)
      const part = read.parts.get(key)
      if (part !== undefined && read.offsets.get(key) === one.offset) found.set(key, part)
    }
  }

  /** One entry for each partition. An error that is the same for all is thrown, if it passes: there is nobody to ask. */
  #answer(wanted: readonly FetchPartition[], found: ReadonlyMap<string, Fetched>): Fetched[] {
    const parts = wanted.map(one => found.get(keyOf(one)) ?? empty(one))
    const [first] = parts
    if (first?.error?.code === 'UNREACHABLE' && parts.every(({ error }) => error?.code === 'UNREACHABLE'))
      throw first.error
    return parts
  }

  #takeKept(key: string, offset: number): Fetched | null {
    const kept = this.#kept.get(key)
    if (kept === undefined) return null
    this.#kept.delete(key)
    return kept.offset === offset && systemClock.monotonic() < kept.until ? kept.part : null
  }

  #keep(read: Read): void {
    const until = systemClock.monotonic() + KEPT_MS
    for (const [key, part] of read.parts) {
      if (part.error !== undefined || part.batches.length === 0) continue
      this.#kept.delete(key)
      this.#kept.set(key, { offset: read.offsets.get(key) as number, part, until })
    }
    for (const key of this.#kept.keys()) {
      if (this.#kept.size <= KEPT_COUNT_MAX) break
      this.#kept.delete(key)
    }
  }

  /** Begins a read of all that is queued. */
  #begin(shelf: Shelf, deadline: number): Read {
    const partitions = [...shelf.queued.values()]
    shelf.queued.clear()
    const now = systemClock.monotonic()
    let endsAt = Math.min(deadline, now + READ_MS_MAX)
    for (const read of shelf.reads)
      if (!read.done) endsAt = Math.min(endsAt, Math.max(now + TURN_MS, read.endsAt))
    const read: Read = {
      offsets: new Map(partitions.map(one => [keyOf(one), one.offset])),
      endsAt,
      waiting: 0,
      done: false,
      parts: new Map(),
      finished: Promise.resolve(),
    }
    shelf.reads.add(read)
    const maxWaitMs = Math.max(0, Math.ceil(endsAt - now))
    read.finished = this.#read(shelf, partitions, maxWaitMs).then(parts => {
      read.parts = parts
      read.done = true
      // Deleted from the shelf before: its topic was forgotten.
      if (shelf.reads.delete(read) && read.waiting === 0) this.#keep(read)
    })
    return read
  }

  /** Does one fetch request. Never rejects. */
  async #read(shelf: Shelf, partitions: readonly Wanted[], maxWaitMs: number): Promise<Map<string, Fetched>> {
    try {
      const link = await this.#takeLink(shelf)
      const isolationLevel = this.#isolation === 'committed' ? READ_COMMITTED : READ_UNCOMMITTED
      const request = { ...requestOf(partitions, maxWaitMs), isolationLevel }
      const answer = await link.call(fetchApi, request, { versionMax: VERSION_MAX })
      this.#giveBack(shelf, link)
      if (answer.errorCode !== 0) throw refusalOf(answer.errorCode, null, 'fetch', {})
      const parts = new Map<string, Fetched>()
      for (const { topic, partitions: list } of answer.responses)
        for (const part of list) {
          const fetched = await this.#fetched(topic, part)
          parts.set(keyOf(fetched), fetched)
        }
      return parts
    } catch (error) {
      for (const { topic } of partitions) this.#cluster.forgetTopic(topic)
      return new Map(partitions.map(one => [keyOf(one), failed(one, error)]))
    }
  }

  async #fetched(
    topic: string,
    answer: {
      readonly partitionIndex: number
      readonly errorCode: number
      readonly logStartOffset: number
      readonly highWatermark: number
      readonly records: Buffer | null
      readonly abortedTransactions: readonly AbortedTransaction[] | null
    },
  ): Promise<Fetched> {
    const { partitionIndex: partition, errorCode, logStartOffset: startOffset, highWatermark } = answer
    const one = { topic, partition }
    if (errorCode !== 0) {
      const refusal = refusalOf(errorCode, null, `${topic}/${partition}`, one)
      const error = await this.#cluster.afterRefusal(topic, partition, refusal)
      return { ...failed(one, error), startOffset, endOffset: highWatermark }
    }
    const records = answer.records === null ? Buffer.alloc(0) : asBuffer(answer.records)
    const { bytes, error } = wholeBatches(one, records)
    const batches = withoutAborted(records.subarray(0, bytes), answer.abortedTransactions ?? [])
    const part = { topic, partition, batches, startOffset, endOffset: highWatermark }
    // What is whole before the damage is handed out first.
    return error === undefined || bytes > 0 ? part : { ...part, error }
  }

  async #takeLink({ address, idle }: Shelf): Promise<KafkaLink> {
    for (let link = idle.pop(); link !== undefined; link = idle.pop()) if (link.isOpen) return link
    return await this.#cluster.openLink(address, READ_MS_MAX + REQUEST_TIMEOUT_MS)
  }

  #giveBack({ idle }: Shelf, link: KafkaLink): void {
    if (idle.length < IDLE_LINKS_MAX) idle.push(link)
    else link.close()
  }
}

function requestOf(partitions: readonly Wanted[], maxWaitMs: number) {
  const topics = [...Map.groupBy(partitions, ({ topic }) => topic)].map(([topic, list]) => ({
    topic,
    partitions: list.map(({ partition, offset, bytesMax }) => ({
      partition,
      fetchOffset: offset,
      partitionMaxBytes: bytesMax,
    })),
  }))
  const bytesMax = partitions.reduce((sum, one) => sum + one.bytesMax, 0)
  const maxBytes = Math.min(RESPONSE_BYTES_MAX, bytesMax)
  return { maxWaitMs, minBytes: 1, maxBytes, topics }
}

/** How many bytes are whole batches: a broker may cut the last one off. And what is wrong with the one behind them. */
function wholeBatches(
  { topic, partition }: TopicPartition,
  records: Buffer,
): { bytes: number; error?: SluiceError } {
  let at = 0
  while (records.length - at > MAGIC_AT) {
    const where = { topic, partition }
    if (records[at + MAGIC_AT] !== MAGIC) {
      const message = `${topic}/${partition} has messages in a format from before Kafka 0.11 (${records[at + MAGIC_AT]})`
      return { bytes: at, error: new SluiceError('UNSUPPORTED', message, where) }
    }
    const length = batchBytes(records, at)
    if (length >= BATCH_PREFIX_BYTES && length > records.length - at) break
    const wrong = checkBatch(records, at, records.length)
    if (wrong !== null) {
      const message = `${topic}/${partition}: the server sent a damaged batch: ${wrong}`
      return { bytes: at, error: new SluiceError('CORRUPT_MESSAGE', message, where) }
    }
    at += length
  }
  return { bytes: at }
}

/** The batches, those of aborted transactions without their records. The same bytes if there are none. */
export function withoutAborted(batches: Buffer, aborted: readonly AbortedTransaction[]): Buffer {
  if (aborted.length === 0) return batches
  const coming = [...aborted].sort((a, b) => a.firstOffset - b.firstOffset)
  const open = new Set<number>()
  const parts: Buffer[] = []
  let start = 0
  for (let at = 0; at < batches.length; ) {
    const next = at + batchBytes(batches, at)
    while (coming.length > 0 && coming[0].firstOffset <= lastOffset(batches, at))
      open.add((coming.shift() as AbortedTransaction).producerId)
    const id = producerId(batches, at)
    if (isControl(batches, at)) open.delete(id)
    else if (isTransactional(batches, at) && open.has(id)) {
      parts.push(batches.subarray(start, at), emptied(batches.subarray(at, next)))
      start = next
    }
    at = next
  }
  if (start === 0) return batches
  parts.push(batches.subarray(start))
  return Buffer.concat(parts)
}

const hasTopic = ({ offsets }: Read, topic: string): boolean =>
  offsets.keys().some(key => key.slice(key.indexOf(' ') + 1) === topic)

/** Whether there is something to return before the wait is over: records, or an error that stays. */
const isAnswer = (found: ReadonlyMap<string, Fetched>): boolean =>
  found
    .values()
    .some(({ batches, error }) => batches.length > 0 || (error !== undefined && !isPassing(error)))

const NOTHING = Buffer.alloc(0)

const empty = ({ topic, partition }: TopicPartition): Fetched => ({
  topic,
  partition,
  batches: NOTHING,
  startOffset: -1,
  endOffset: -1,
})

/** A bug is thrown on. */
function failed(one: TopicPartition, error: unknown): Fetched {
  if (!(error instanceof SluiceError)) throw error
  return { ...empty(one), error }
}
