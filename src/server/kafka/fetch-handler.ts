/**
 * Fetch: reads batches of several partitions as they are stored, and waits for them if there are too few.
 *
 * What is sent are views of what the log gives: nothing is copied, nothing is done per record. An answer has `maxBytes` at
 * most, of which each partition gets up to its own limit, in the order of the request or session; only the very first batch is sent
 * whatever its size, so that a reader gets on. A partition whose next batch does not fit any more is left for later.
 *
 *   read ─┬─ enough, an error, or no time left ──────────→ answer
 *         └─ else wait: high watermark, time or abort ──→ read again
 *
 * A read-committed reader gets nothing from the last stable offset on, and with what it gets the transactions in it that were
 * aborted: to leave them out is its own business.
 */

import type { Partition } from '../../broker/partition.ts'
import { isSluiceError } from '../../errors.ts'
import { batchBytes, lastOffset } from '../../record/batch.ts'
import { fetchApi } from '../../wire/kafka/fetch.ts'
import type { Decoded, Encodable } from '../../wire/kafka/schema.ts'
import { type FetchPlan, FetchSessions, type FetchTarget } from './fetch-sessions.ts'
import { handler, kafkaCodeOf, type RequestContext } from './handler.ts'
import { findPartition, leaderEpochError, UNKNOWN_TOPIC_OR_PARTITION } from './topic-lookup.ts'

type Request = Decoded<typeof fetchApi.request.fields>
type Response = Encodable<typeof fetchApi.response.fields>
type PartitionAnswer = Response['responses'][number]['partitions'][number]

/** Kafka's `fetch.max.bytes`: no answer is larger, whatever a client asks for, but for a single batch that is. */
const RESPONSE_BYTES_MAX = 55 * 1024 * 1024
/** With less room than this left for a partition, no further piece of it is read. */
const PIECE_BYTES_MIN = 16 * 1024
const TOPIC_ID_VERSION = 13
const READ_COMMITTED = 1
const CORRUPT_MESSAGE = 2
const NOTHING: readonly Buffer[] = []

export const fetchHandler = (sessions = new FetchSessions()) =>
  handler(fetchApi, (request, context) => {
    const plan = sessions.plan(sessionRequest(request, context.version), context.broker.clock.monotonic())
    if (typeof plan === 'number') return { errorCode: plan, responses: [] }
    const fetching = new Fetching(request, plan, context)
    const reading = fetching.read()
    return reading === null && fetching.isDone ? fetching.answer() : fetching.complete(reading)
  })

function sessionRequest(request: Request, version: number) {
  const targets: FetchTarget[] = []
  for (const { topic, topicId, partitions } of request.topics) {
    for (const { partition, currentLeaderEpoch, fetchOffset, partitionMaxBytes } of partitions) {
      targets.push({
        topic,
        topicId,
        partition,
        currentLeaderEpoch,
        fetchOffset,
        bytesMax: partitionMaxBytes,
        toldHighWatermark: -1,
        toldLastStableOffset: -1,
        toldStartOffset: -1,
      })
    }
  }
  const { sessionId, sessionEpoch, forgottenTopicsData: forgotten } = request
  return { sessionId, sessionEpoch, targets, forgotten, usesTopicIds: version >= TOPIC_ID_VERSION }
}

/** What was read of a partition. */
interface Reading {
  readonly target: FetchTarget
  readonly partition: Partition | null
  /** As it was before the read. */
  readonly highWatermark: number
  readonly lastStableOffset: number
  readonly startOffset: number
  errorCode: number
  pieces: Buffer[] | null
  bytes: number
}

class Fetching {
  readonly #plan: FetchPlan
  readonly #context: RequestContext
  readonly #bytesMin: number
  readonly #bytesMax: number
  readonly #deadline: number
  readonly #stableOnly: boolean
  #readings: Reading[] = []
  #bytes = 0
  #failed = false

  constructor(request: Request, plan: FetchPlan, context: RequestContext) {
    this.#plan = plan
    this.#context = context
    this.#bytesMax = Math.min(Math.max(request.maxBytes, 0), RESPONSE_BYTES_MAX)
    this.#bytesMin = Math.min(Math.max(request.minBytes, 0), this.#bytesMax)
    this.#deadline = context.broker.clock.monotonic() + request.maxWaitMs
    this.#stableOnly = request.isolationLevel === READ_COMMITTED
  }

  /** Whether nothing is to be waited for. */
  get isDone(): boolean {
    if (this.#bytes >= this.#bytesMin || this.#failed || this.#plan.count === 0) return true
    return this.#context.connection.signal.aborted || this.#left <= 0
  }

  get #left(): number {
    return this.#deadline - this.#context.broker.clock.monotonic()
  }

  /** Waits as long as is asked for. `reading`: what `read` returned. */
  async complete(reading: Promise<void> | null): Promise<Response> {
    await reading
    while (!this.isDone) {
      await this.#wait(Math.max(0, this.#left))
      await this.read()
    }
    return this.answer()
  }

  /** Reads everything, anew. Null: it is done already. */
  read(): Promise<void> | null {
    this.#readings = []
    this.#bytes = 0
    return this.#readRest(this.#plan.targets[Symbol.iterator]())
  }

  #readRest(targets: Iterator<FetchTarget>): Promise<void> | null {
    for (let next = targets.next(); next.done !== true; next = targets.next()) {
      const reading = this.#readOne(next.value)
      if (reading !== null) return reading.then(() => this.#readRest(targets) ?? undefined)
    }
    return null
  }

  #readOne(target: FetchTarget): Promise<void> | null {
    const { topic, topicId, partition: index } = target
    const partition = findPartition(this.#context.broker, topic, topicId, index)
    if (typeof partition === 'number') return this.#refuse(this.#begin(target, null), partition)
    const reading = this.#begin(target, partition)
    const epochError = leaderEpochError(target.currentLeaderEpoch)
    if (epochError !== 0) return this.#refuse(reading, epochError)
    const limit = Math.min(target.bytesMax, this.#bytesMax - this.#bytes)
    if (limit <= 0 && this.#bytes > 0) return null
    const end = this.#stableOnly ? reading.lastStableOffset : reading.highWatermark
    try {
      let offset = target.fetchOffset
      do {
        const piece = partition.read(offset, limit - reading.bytes, end)
        if (piece instanceof Promise) {
          return piece.then(
            bytes => void this.#take(reading, bytes, limit),
            error => void this.#fail(reading, error),
          )
        }
        if (!this.#take(reading, piece, limit)) break
        offset = offsetAfter(piece)
      } while (offset < end && limit - reading.bytes >= PIECE_BYTES_MIN)
    } catch (error) {
      this.#fail(reading, error)
    }
    return null
  }

  #begin(target: FetchTarget, partition: Partition | null): Reading {
    const reading = {
      target,
      partition,
      highWatermark: partition?.highWatermark ?? -1,
      lastStableOffset: partition?.lastStableOffset ?? -1,
      startOffset: partition?.startOffset ?? -1,
      errorCode: 0,
      pieces: null,
      bytes: 0,
    }
    this.#readings.push(reading)
    return reading
  }

  /** Takes bytes into the answer, unless they do not fit and are not the first. */
  #take(reading: Reading, bytes: Buffer, limit: number): boolean {
    if (bytes.length === 0) return false
    if (this.#bytes > 0 && bytes.length > limit - reading.bytes) return false
    reading.pieces ??= []
    reading.pieces.push(bytes)
    reading.bytes += bytes.length
    this.#bytes += bytes.length
    return true
  }

  #fail(reading: Reading, error: unknown): void {
    if (!isSluiceError(error)) throw error
    if (reading.bytes > 0) return // it comes again with the next fetch
    if (error.code === 'CORRUPT_LOG') {
      this.#context.connection.log?.error('stored messages cannot be served', { error, ...error.detail })
      this.#refuse(reading, CORRUPT_MESSAGE)
    } else {
      this.#refuse(reading, error.code === 'CLOSED' ? UNKNOWN_TOPIC_OR_PARTITION : kafkaCodeOf(error))
    }
  }

  #refuse(reading: Reading, errorCode: number): null {
    reading.errorCode = errorCode
    this.#failed = true
    return null
  }

  /** Resolves when there may be enough, something has happened to a partition, or after `ms`. */
  #wait(ms: number): Promise<void> {
    const { broker, connection } = this.#context
    const awaited = new Awaited(this.#readings, this.#bytesMin - this.#bytes, this.#stableOnly)
    if (awaited.hasChanged) return Promise.resolve()
    return new Promise(resolve => {
      const wake = (): void => {
        awaited.stop()
        timer.cancel()
        connection.signal.removeEventListener('abort', wake)
        resolve()
      }
      const timer = broker.clock.after(ms, wake)
      connection.signal.addEventListener('abort', wake)
      awaited.start(wake)
    })
  }

  answer(): Response {
    const { sessionId, incremental, served } = this.#plan
    const responses: { topic: string; topicId: string; partitions: PartitionAnswer[] }[] = []
    for (const reading of this.#readings) {
      const { target } = reading
      if (reading.bytes > 0) served(target)
      if (!hasNews(reading) && incremental) continue
      let last = responses.at(-1)
      if (last === undefined || last.topic !== target.topic || last.topicId !== target.topicId) {
        last = { topic: target.topic, topicId: target.topicId, partitions: [] }
        responses.push(last)
      }
      last.partitions.push(this.#answerFor(reading))
    }
    return { sessionId, responses }
  }

  #answerFor(reading: Reading): PartitionAnswer {
    const aborted = this.#abortedIn(reading)
    const { target, errorCode } = reading
    const highWatermark = errorCode === 0 ? reading.highWatermark : -1
    const logStartOffset = errorCode === 0 ? reading.startOffset : -1
    target.toldHighWatermark = highWatermark
    target.toldStartOffset = logStartOffset
    target.toldLastStableOffset = reading.lastStableOffset
    return {
      partitionIndex: target.partition,
      errorCode,
      highWatermark,
      lastStableOffset: errorCode === 0 ? reading.lastStableOffset : -1,
      logStartOffset,
      abortedTransactions: aborted,
      records: reading.pieces ?? NOTHING,
    }
  }

  /** What was aborted of what is sent; null to those who do not want to know. */
  #abortedIn(reading: Reading): ReturnType<Partition['abortedTransactions']> | null {
    if (!this.#stableOnly) return null
    const { partition, pieces, target } = reading
    if (partition === null || pieces === null) return []
    try {
      return partition.abortedTransactions(target.fetchOffset, offsetAfter(pieces.at(-1)!))
    } catch (error) {
      // Without the list, what was aborted would be read.
      reading.pieces = null
      reading.errorCode = kafkaCodeOf(error)
      return []
    }
  }
}

/** Whether there is anything that the client was not told before. */
const hasNews = ({
  bytes,
  errorCode,
  highWatermark,
  lastStableOffset,
  startOffset,
  target,
}: Reading): boolean =>
  bytes > 0 ||
  errorCode !== 0 ||
  highWatermark !== target.toldHighWatermark ||
  lastStableOffset !== target.toldLastStableOffset ||
  startOffset !== target.toldStartOffset

function offsetAfter(batches: Buffer): number {
  let at = 0
  for (;;) {
    const next = at + batchBytes(batches, at)
    if (next >= batches.length) return lastOffset(batches, at) + 1
    at = next
  }
}

/**
 * Partitions that a fetch waits for. To be woken by each small append, and to read everything again for nothing, would make a large
 * `minBytes` dear; so what is appended is counted, and reading begins when there may be enough.
 */
class Awaited {
  readonly #readings: readonly Reading[]
  readonly #bytesMissing: number
  readonly #stableOnly: boolean
  /** Of all partitions together when the wait began. */
  readonly #appendedBefore: number
  readonly #undo: (() => void)[] = []
  /** Something is written that nobody has seen yet: how much of it counts is not known. */
  #hasUnseen = false

  constructor(readings: readonly Reading[], bytesMissing: number, stableOnly: boolean) {
    this.#readings = readings
    this.#bytesMissing = bytesMissing
    this.#stableOnly = stableOnly
    this.#appendedBefore = this.#appended()
    for (const { partition } of readings) {
      if (partition !== null && partition.log.endOffset > this.#endOf(partition)) this.#hasUnseen = true
    }
  }

  /** Something came while other partitions were being read. */
  get hasChanged(): boolean {
    return this.#readings.some(
      reading => reading.partition !== null && this.#hasMoved(reading.partition, reading),
    )
  }

  start(wake: () => void): void {
    this.#readings.forEach(({ partition }, index) => {
      if (partition !== null) this.#watch(partition, index, wake)
    })
  }

  stop(): void {
    for (const undo of this.#undo) undo()
  }

  #watch(partition: Partition, index: number, wake: () => void): void {
    const before = partition.highWatermark
    this.#undo[index] = partition.wait(() => {
      const isClosed = partition.highWatermark === before
      if (isClosed || (this.#hasMoved(partition, this.#readings[index]) && this.#mayBeEnough())) wake()
      else this.#watch(partition, index, wake)
    })
  }

  #endOf(partition: Partition): number {
    return this.#stableOnly ? partition.lastStableOffset : partition.highWatermark
  }

  #hasMoved(partition: Partition, { highWatermark, lastStableOffset }: Reading): boolean {
    return this.#endOf(partition) !== (this.#stableOnly ? lastStableOffset : highWatermark)
  }

  #mayBeEnough(): boolean {
    if (this.#hasUnseen || this.#bytesMissing <= 1) return true
    return this.#appended() - this.#appendedBefore >= this.#bytesMissing
  }

  #appended(): number {
    let bytes = 0
    for (const { partition } of this.#readings) bytes += partition?.stats.appendedBytes ?? 0
    return bytes
  }
}
