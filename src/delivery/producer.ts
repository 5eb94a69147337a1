/**
 * The producer: from messages to batches to the engine. It owns encoding, choosing partitions, batching,
 * back-pressure, and the promise that every message is answered exactly once; `partition-writer.ts` owns what
 * happens to a batch.
 *
 *     send / post → place: encode │ partition │ open batch ─ ─ ─ end of turn, linger or full ─ ─ ─▶ engine.produce
 *                     └─ no room, or the topic is not known yet: parked, in order, per topic
 *
 * The path of a message that is not parked is synchronous, up to its place in a batch. So messages that are
 * sent one after another, awaited or not, come into their partition in that order; and those who send
 * concurrently share batches.
 *
 * Bounded: what is unsent or unanswered counts against `bufferBytesMax`. From there on `send` waits (or
 * rejects), and `post` says so; beyond twice that, `post` drops, and reports what it dropped. A parked send
 * holds a reference to the message, not a copy.
 */

import type { Engine, TransactionSession } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock, type Timer } from '../lib/clock.ts'
import { asBuffer, BATCH_HEADER_BYTES } from '../record/batch.ts'
import { type Header, recordBytesMax } from '../record/builder.ts'
import type { CircuitState } from './circuit-breaker.ts'
import { DELAY_TOPIC_PREFIX, rungFor } from './delay-topics.ts'
import { delayIdOf, dueAtOf, isDelayed, waitingHeaders } from './delayed-message.ts'
import { KeepAlive } from './keep-alive.ts'
import { OpenBatch } from './open-batch.ts'
import { atLeast, oneOf } from './option.ts'
import {
  type AnyOutgoing,
  contentBytesMax,
  encodeCopy,
  encodeHeaders,
  encodeKey,
  encodeTimestamp,
  encodeValue,
  notAMessage,
  type OutgoingOf,
} from './outgoing.ts'
import { PartitionWriter, type WriterContext } from './partition-writer.ts'
import { type Partitioner, partitionOfKey } from './partitioner.ts'
import { ProducerBreaker } from './producer-breaker.ts'
import { closedError, timedOut, unknownInTime } from './producer-errors.ts'
import {
  type FailedPosts,
  type ProducerOptions,
  type ProducerSetting,
  warnOfFailedPosts,
} from './producer-options.ts'
import { createAsDescribed } from './provision.ts'
import { ArrayClaim, type Published, type PublishedBatch } from './published.ts'
import { type AnyTopic, topicOf } from './topic.ts'
import { NotKnownYet, type Parked, TopicWriter } from './topic-writer.ts'

const RETRY_BACKOFF_MS_MAX = 2_000
/** How often the number of partitions and the size limit of a topic are asked again. */
const TOPIC_AGE_MS_MAX = 60_000
/** Batches kept for use again. */
const SPARE_BATCHES_MAX = 8
export class Producer {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #random: () => number
  readonly #context: WriterContext
  readonly #autoCreateTopics: boolean
  readonly #delays: ProducerSetting['delays']
  readonly #breaker: ProducerBreaker | null
  readonly #onClosed: ((producer: object) => void) | undefined
  readonly #partitioner: Partitioner | null
  readonly #batchBytesMax: number
  readonly #batchCountMax: number
  readonly #bufferBytesMax: number
  readonly #waitWhenFull: boolean
  readonly #maxBlockMs: number
  readonly #deliveryTimeoutMs: number
  readonly #onError: (error: SluiceError, failed: FailedPosts) => void

  readonly #topics = new Map<string, TopicWriter>()
  /** The descriptor used last, and its topic: most programs publish to one topic at a time. */
  #lastTarget: AnyTopic | string | null = null
  #lastWriter: TopicWriter | null = null
  #state: 'open' | 'closing' | 'closed' = 'open'
  #closing: Promise<void> | null = null
  #bufferedBytes = 0
  /** Every batch that is open, closed or in flight, oldest first. */
  readonly #outstanding = new Set<OpenBatch>()
  readonly #spare: OpenBatch[] = []
  readonly #keepAlive = new KeepAlive()
  /** Lines with a batch to close at the end of this turn. */
  #turn: PartitionWriter[] = []
  #watching = false
  #parkedCount = 0
  #parkedOrder = 0
  /** Parked, and being placed now. */
  #resumed: Parked | null = null
  #readyWaiters: { resolve: () => void; reject: (error: SluiceError) => void }[] = []
  #idleWaiters: (() => void)[] = []

  /**
   * @internal Producers come from `mq.producer()`. Throws `INVALID_ARGUMENT`, or `UNSUPPORTED` if the engine
   * lacks what is asked for.
   */
  constructor(options: ProducerOptions, setting: ProducerSetting) {
    this.#engine = setting.engine
    this.#clock = setting.clock ?? systemClock
    this.#random = setting.random ?? Math.random
    this.#autoCreateTopics = setting.autoCreateTopics ?? false
    this.#delays = setting.delays
    const { circuitBreaker } = options
    this.#breaker = circuitBreaker === undefined ? null : new ProducerBreaker(circuitBreaker, this.#clock)
    this.#onClosed = setting.onClosed
    this.#partitioner = options.partitioner ?? null
    this.#batchBytesMax = atLeast('batchBytesMax', options.batchBytesMax ?? 1024 * 1024, 1)
    this.#batchCountMax = atLeast('batchCountMax', options.batchCountMax ?? 50_000, 1)
    this.#bufferBytesMax = atLeast('bufferBytesMax', options.bufferBytesMax ?? 32 * 1024 * 1024, 1)
    this.#waitWhenFull = oneOf('whenFull', options.whenFull ?? 'wait', ['wait', 'reject']) === 'wait'
    this.#maxBlockMs = atLeast('maxBlockMs', options.maxBlockMs ?? 60_000, 0)
    this.#deliveryTimeoutMs = atLeast('deliveryTimeoutMs', options.deliveryTimeoutMs ?? 120_000, 1)
    this.#onError = options.onError ?? warnOfFailedPosts(this.#clock)
    if (options.idempotent && !this.#engine.supports.idempotence) {
      throw new SluiceError('UNSUPPORTED', `${this.#engine.url} has no idempotent producers`)
    }
    const { supports } = this.#engine
    const waitsForAll = options.acks === undefined || options.acks === 'flushed'
    if (options.acks !== undefined) oneOf('acks', options.acks, ['none', 'written', 'flushed'])
    const { session } = setting
    const isSafer = supports.losesAnswers && supports.idempotence && waitsForAll
    this.#context = {
      engine: session === undefined ? this.#engine : transactional(session),
      transactional: session !== undefined,
      clock: this.#clock,
      random: this.#random,
      acks: options.acks,
      compression: oneOf('compression', options.compression ?? 'none', [
        'none',
        'gzip',
        'snappy',
        'lz4',
        'zstd',
      ]),
      idempotent: options.idempotent ?? (session !== undefined || isSafer),
      lingerMs: atLeast('lingerMs', options.lingerMs ?? 0, 0),
      retries: atLeast('retries', options.retries ?? 10, 0),
      retryBackoffMs: atLeast('retryBackoffMs', options.retryBackoffMs ?? 100, 0),
      retryBackoffMsMax: RETRY_BACKOFF_MS_MAX,
      deliveryTimeoutMs: this.#deliveryTimeoutMs,
      takeBatch: writer => this.#takeBatch(writer),
      giveBack: batch => this.#giveBack(batch),
      closeAtEndOfTurn: writer => this.#closeAtEndOfTurn(writer),
      batchClosed: writer => this.#moveOn(writer),
      batchFailed: (writer, batch, error) => this.#batchFailed(writer, batch, error),
      attempted: (batch, error) => this.#breaker?.attempted(batch, error),
    }
  }

  /** Of `circuitBreaker`; 'closed' without. */
  get circuit(): CircuitState {
    return this.#breaker?.state ?? 'closed'
  }

  /** Bytes that are unsent or unanswered. */
  get bufferedBytes(): number {
    return this.#bufferedBytes
  }

  /**
   * Publishes and resolves when the log has accepted, as durably as `acks` says: with a `Published`, or with
   * a `PublishedBatch` for an array. Messages of an array that go to different partitions are accepted or
   * refused independently; if any is refused the promise rejects with a `PublishError` that knows the fate of
   * each.
   *
   * Rejects with `SCHEMA_MISMATCH`, `CODEC_FAILED`, `MESSAGE_TOO_LARGE`, `INVALID_PARTITION`,
   * `INVALID_TIMESTAMP` or `INVALID_ARGUMENT` for that message alone; `UNKNOWN_TOPIC`; `BUFFER_FULL`;
   * `CIRCUIT_OPEN`; `TIMED_OUT`; `PRODUCER_CLOSED`; and what the engine refuses with after all retries.
   */
  send<T extends AnyTopic | string>(topic: T, messages: readonly OutgoingOf<T>[]): Promise<PublishedBatch>
  send<T extends AnyTopic | string>(topic: T, message: OutgoingOf<T>): Promise<Published>
  send(target: AnyTopic | string, message: unknown): Promise<Published | PublishedBatch> {
    let writer: TopicWriter | null = null
    try {
      writer = target === this.#lastTarget ? (this.#lastWriter as TopicWriter) : this.#writerOf(target)
      if (isArray(message)) return this.#sendArray(writer, target, message)
      if (this.#mustPark(writer)) return this.#park(writer, target, message as AnyOutgoing)
      const topic = descriptorOf(writer, target)
      return this.#place(writer, topic, message as AnyOutgoing, this.#clock.now()).promise()
    } catch (error) {
      if (!(error instanceof NotKnownYet)) return Promise.reject(error)
      return this.#park(writer as TopicWriter, target, message as AnyOutgoing, error.writer)
    }
  }

  /**
   * Publishes without a promise. Returns whether there is room for more: after `false`, `await
   * producer.ready()` before posting on. Never throws: what goes wrong, now or later, goes to `onError`. Past
   * twice `bufferBytesMax`, messages are dropped and reported as `BUFFER_FULL`.
   */
  post<T extends AnyTopic | string>(topic: T, messages: readonly OutgoingOf<T>[]): boolean
  post<T extends AnyTopic | string>(topic: T, message: OutgoingOf<T>): boolean
  post(target: AnyTopic | string, message: unknown): boolean {
    try {
      const writer = target === this.#lastTarget ? (this.#lastWriter as TopicWriter) : this.#writerOf(target)
      const topic = descriptorOf(writer, target)
      if (!writer.known || writer.parked.length > 0) {
        this.#parkPosts(writer, topic, isArray(message) ? message : [message as AnyOutgoing])
      } else if (isArray(message)) this.#postArray(writer, topic, message)
      else if (message == null || isDelayed(message as AnyOutgoing)) {
        this.#postArray(writer, topic, [message as AnyOutgoing])
      } else if (this.#bufferedBytes < 2 * this.#bufferBytesMax) {
        this.#place(writer, topic, message as AnyOutgoing, this.#clock.now()).posted++
      } else this.#dropped(topic.name, 1)
    } catch (error) {
      const name = typeof target === 'string' ? target : String(target?.name)
      this.#report(error as SluiceError, name, isArray(message) ? message.length : 1)
    }
    return this.#bufferedBytes < this.#bufferBytesMax
  }

  /**
   * Resolves when there is room in the buffer. Rejects with `PRODUCER_CLOSED` if the producer closes first.
   */
  ready(): Promise<void> {
    if (this.#state !== 'open') return Promise.reject(closedError())
    if (this.#bufferedBytes < this.#bufferBytesMax) return Promise.resolve()
    this.#stopLingering()
    return new Promise((resolve, reject) => this.#readyWaiters.push({ resolve, reject }))
  }

  /**
   * Sends what there is without waiting for linger, and resolves when everything sent or posted before is
   * answered, well or not: failures go to where they belong, the promise of `send` or `onError`.
   */
  async flush(): Promise<void> {
    const before = this.#parkedOrder
    for (this.#closeOpen(); this.#parkedBefore(before); this.#closeOpen()) {
      await new Promise<void>(resolve => this.#idleWaiters.push(resolve))
    }
    await new Promise<void>(resolve => {
      let pending = this.#outstanding.size
      if (pending === 0) resolve()
      for (const batch of this.#outstanding) {
        batch.onSettled(() => {
          if (--pending === 0) resolve()
        })
      }
    })
  }

  /**
   * Takes no more, flushes, and resolves. Within `deadlineMs` (default 30,000) everything is answered: what
   * the engine has not accepted by then fails with `TIMED_OUT`. Closing again waits for the same.
   */
  close(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    this.#closing ??= this.#close(options.deadlineMs ?? 30_000)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** @internal Asks again for the number of partitions, because they are known to have changed. */
  async refresh(name: string): Promise<void> {
    const writer = this.#topics.get(name)
    if (writer?.known) await this.#refresh(writer)
  }

  /** @internal Its session has got another identity. Nothing is under way. */
  renew(): void {
    for (const { partitions } of this.#topics.values()) for (const line of partitions) line.renew()
  }

  // Placing: the hot path. One call per message, and nothing allocated but what the message asks for.

  /**
   * Encodes a message and appends it to the open batch of its partition. Returns that batch. Throws what is
   * wrong with the message.
   */
  #place(writer: TopicWriter, topic: AnyTopic, message: AnyOutgoing, now: number): OpenBatch {
    if (typeof message !== 'object' || message === null) throw notAMessage(topic, message)
    if (isDelayed(message)) return this.#placeDelayed(writer, topic, message, now)
    const givenKey: unknown = message.key
    const key = givenKey == null ? null : encodeKey(topic, givenKey)
    const value = encodeValue(topic, message.value)
    const headers = message.headers === undefined ? null : encodeHeaders(topic, message.headers)
    const timestamp = message.timestamp === undefined ? now : encodeTimestamp(topic, message.timestamp)
    const fixed =
      message.partition !== undefined
        ? this.#checkPartition(writer, message.partition)
        : this.#partitioner !== null
          ? this.#askPartitioner(writer, key, message.value)
          : key !== null
            ? partitionOfKey(key, writer.partitions.length)
            : -1
    return this.#append(writer, fixed, timestamp, key, value, headers)
  }

  /** `fixed`: the partition, or -1 for the one whose turn it is. */
  #append(
    writer: TopicWriter,
    fixed: number,
    timestamp: number,
    key: Uint8Array | string | null,
    value: Uint8Array | string | null,
    headers: readonly Header[] | null,
  ): OpenBatch {
    let bytes = 36 + contentBytesMax(key) + contentBytesMax(value)
    if (headers !== null || bytes > writer.batchBytesMax >>> 2) {
      bytes = this.#measure(writer, key, value, headers)
    }
    for (;;) {
      const line = writer.partitions[fixed < 0 ? writer.sticky : fixed]
      this.#breaker?.admit(line.open, writer.topic.name)
      const batch = line.open ?? line.begin()
      const { builder } = batch
      if (builder.count > 0) {
        if (builder.bytes + bytes > writer.batchBytesMax || builder.count >= this.#batchCountMax) {
          line.close()
          continue
        }
      }
      builder.append(timestamp, key, value, headers)
      batch.lastTimestamp = timestamp
      this.#bufferedBytes += builder.bytes - batch.bufferedBytes
      batch.bufferedBytes = builder.bytes
      return batch
    }
  }

  /** The same into the topic where it waits. Throws `NotKnownYet` until that is known. */
  #placeDelayed(writer: TopicWriter, topic: AnyTopic, message: AnyOutgoing, now: number): OpenBatch {
    const dueAt = dueAtOf(message, now)
    const rung = this.#rungWriter(dueAt - this.#clock.now())
    const id = delayIdOf(dueAt, message.delayId)
    const key = message.key == null ? null : encodeKey(topic, message.key)
    const value = encodeValue(topic, message.value)
    const own = message.headers === undefined ? null : encodeHeaders(topic, message.headers)
    const timestamp = message.timestamp === undefined ? undefined : encodeTimestamp(topic, message.timestamp)
    let partition: number | undefined
    if (message.partition !== undefined) partition = this.#checkPartition(writer, message.partition)
    else if (this.#partitioner !== null) partition = this.#askPartitioner(writer, key, message.value)
    const target = writer.topic.name
    const headers = waitingHeaders(own, { id, dueAt, target, partition, timestamp })
    this.#measure(writer, key, value, headers)
    const place = key === null ? -1 : partitionOfKey(key, rung.partitions.length)
    const batch = this.#append(rung, place, now, key, value, headers)
    batch.lastDelayId = id
    return batch
  }

  #rungWriter(remainingMs: number): TopicWriter {
    const { topic } = rungFor(remainingMs)
    let writer = this.#topics.get(topic.name)
    if (writer === undefined) {
      writer = new TopicWriter(topic as AnyTopic)
      this.#topics.set(topic.name, writer)
      void this.#load(writer)
    }
    if (writer.known) return writer
    throw new NotKnownYet(writer)
  }

  /**
   * Upper bound of the record's size. Throws `MESSAGE_TOO_LARGE` if its contents alone are over the topic's
   * limit.
   */
  #measure(
    writer: TopicWriter,
    key: Uint8Array | string | null,
    value: Uint8Array | string | null,
    headers: readonly Header[] | null,
  ): number {
    const bytes = recordBytesMax(key, value, headers)
    const overhead = 36 - 7 // the bound counts every varint in full
    const least = BATCH_HEADER_BYTES + bytes - overhead - (headers === null ? 0 : 8 * headers.length)
    // compressed it may fit: then the log decides
    if (least > writer.messageBytesMax && this.#context.compression === 'none') {
      const { name } = writer.topic
      throw new SluiceError(
        'MESSAGE_TOO_LARGE',
        `topic ${name}: a message of ${least} bytes is over the limit of ${writer.messageBytesMax}; raise max.message.bytes of the topic, or send less`,
        { topic: name, bytes: least, bytesMax: writer.messageBytesMax },
      )
    }
    return bytes
  }

  #askPartitioner(writer: TopicWriter, key: Uint8Array | string | null, value: unknown): number {
    const bytes = key === null ? null : typeof key === 'string' ? Buffer.from(key, 'utf8') : asBuffer(key)
    const { name } = writer.topic
    let partition: number
    try {
      partition = (this.#partitioner as Partitioner)(name, bytes, value, writer.partitions.length)
    } catch (error) {
      throw new SluiceError(
        'INVALID_PARTITION',
        `topic ${name}: the partitioner threw: ${String(error)}`,
        { topic: name },
        error,
      )
    }
    return this.#checkPartition(writer, partition)
  }

  #sendArray(
    writer: TopicWriter,
    target: AnyTopic | string,
    messages: readonly AnyOutgoing[],
  ): Promise<PublishedBatch> {
    const topic = descriptorOf(writer, target)
    const now = this.#clock.now()
    return new Promise((resolve, reject) => {
      const claim = new ArrayClaim(topic.name, messages.length, now, resolve, reject)
      let index = 0
      const resume = (): boolean => {
        try {
          index = this.#placeArray(writer, topic, messages, claim, index, now)
        } catch (error) {
          const { writer: home, index: reached } = error as NotKnownYet
          index = reached
          this.#enqueue(home, 0, this.#maxBlockMs, resume, refuse)
          return true
        }
        if (index < messages.length) return false
        claim.allPlaced()
        return true
      }
      const refuse = (error: SluiceError): void => {
        claim.cut(index, error)
        claim.allPlaced()
      }
      if ((messages.length === 0 || !this.#mustPark(writer)) && resume()) return
      if (writer.known && !this.#waitWhenFull) refuse(this.#bufferFull(topic.name))
      else this.#enqueue(writer, 0, this.#maxBlockMs, resume, refuse)
    })
  }

  /**
   * Places messages from `start` on, as far as there is room. Returns the index of the first that is not
   * placed. Throws `NotKnownYet`, with that index.
   */
  #placeArray(
    writer: TopicWriter,
    topic: AnyTopic,
    messages: readonly AnyOutgoing[],
    claim: ArrayClaim,
    start: number,
    now: number,
  ): number {
    let index = start
    for (; index < messages.length && this.#bufferedBytes < this.#bufferBytesMax; index++) {
      try {
        this.#place(writer, topic, messages[index], now).claim(claim, index)
      } catch (error) {
        if (error instanceof NotKnownYet) throw new NotKnownYet(error.writer, index)
        claim.refuse(index, error as SluiceError)
      }
    }
    return index
  }

  #postArray(writer: TopicWriter, topic: AnyTopic, messages: readonly AnyOutgoing[]): void {
    const now = this.#clock.now()
    const bytesMax = 2 * this.#bufferBytesMax
    for (let index = 0; index < messages.length; index++) {
      if (this.#bufferedBytes >= bytesMax) {
        this.#dropped(topic.name, messages.length - index)
        return
      }
      try {
        this.#place(writer, topic, messages[index], now).posted++
      } catch (error) {
        if (error instanceof NotKnownYet) {
          this.#parkPosts(writer, topic, messages.slice(index), error.writer)
          return
        }
        this.#report(error as SluiceError, topic.name, 1)
      }
    }
  }

  // Parking: what cannot be placed at once.

  #mustPark(writer: TopicWriter): boolean {
    return !writer.known || writer.parked.length > 0 || this.#bufferedBytes >= this.#bufferBytesMax
  }

  /** `home`: the topic that must be known before it can be placed. */
  #park(
    writer: TopicWriter,
    target: AnyTopic | string,
    message: AnyOutgoing,
    home = writer,
  ): Promise<Published> {
    const topic = descriptorOf(writer, target)
    if (home.known && !this.#waitWhenFull) return Promise.reject(this.#bufferFull(topic.name))
    const now = this.#clock.now()
    return new Promise((resolve, reject) => {
      const resume = (): boolean => {
        try {
          resolve(this.#place(writer, topic, message, now).promise())
        } catch (error) {
          if (error instanceof NotKnownYet) this.#enqueue(error.writer, 0, this.#maxBlockMs, resume, reject)
          else reject(error)
        }
        return true
      }
      this.#enqueue(home, 0, this.#maxBlockMs, resume, reject)
    })
  }

  /** Posts wait as copies, for nobody waits with them; so they count in the buffer. */
  #parkPosts(writer: TopicWriter, topic: AnyTopic, messages: readonly AnyOutgoing[], home = writer): void {
    const now = this.#clock.now()
    const copies: AnyOutgoing[] = []
    let bytes = 0
    let index = 0
    for (; index < messages.length && this.#bufferedBytes + bytes < 2 * this.#bufferBytesMax; index++) {
      try {
        const copy = encodeCopy(topic, messages[index], now)
        bytes += recordBytesMax(copy.key, copy.value, copy.headers ?? null)
        const { timestamp, deliverAt } = copy
        // a partitioner of the user's own is to see the value as it was given
        const given = { ...messages[index], timestamp, deliverAt, delay: undefined, delayLevel: undefined }
        copies.push((this.#partitioner === null ? copy : given) as unknown as AnyOutgoing)
      } catch (error) {
        this.#report(error as SluiceError, topic.name, 1)
      }
    }
    const count = copies.length
    if (count > 0) {
      const resume = (): boolean => {
        this.#postArray(writer, this.#partitioner === null ? writer.plain : topic, copies)
        return true
      }
      this.#enqueue(home, bytes, this.#deliveryTimeoutMs, resume, error =>
        this.#report(error, topic.name, count),
      )
    }
    if (index < messages.length) this.#dropped(topic.name, messages.length - index)
  }

  #enqueue(
    writer: TopicWriter,
    bytes: number,
    timeoutMs: number,
    resume: () => boolean,
    refuse: (error: SluiceError) => void,
  ): void {
    // what goes on to wait for another topic keeps its turn
    const order = this.#resumed?.order ?? this.#parkedOrder++
    const parked: Parked = { order, bytes, timer: null, resume, refuse }
    parked.timer = this.#clock.after(timeoutMs, () => {
      writer.parked.remove(parked)
      this.#unpark(parked)
      refuse(writer.known ? this.#bufferFull(writer.topic.name) : unknownInTime(writer.topic.name, timeoutMs))
      this.#parkedChanged()
    })
    writer.parked.push(parked)
    this.#parkedCount++
    this.#keepAlive.hold()
    this.#bufferedBytes += bytes
    if (this.#bufferedBytes >= this.#bufferBytesMax) this.#stopLingering()
  }

  /** Places what waits, in the order in which it came, as far as topics are known and there is room. */
  #resumeParked(): void {
    if (this.#resumed !== null || this.#parkedCount === 0) return
    for (let writer = this.#nextParked(); writer !== null; writer = this.#nextParked()) {
      const parked = writer.parked.first as Parked
      // copies of posts are in the buffer already; placing them takes no more room
      if (parked.bytes === 0 && this.#bufferedBytes >= this.#bufferBytesMax) break
      this.#bufferedBytes -= parked.bytes
      this.#resumed = parked
      if (!parked.resume()) break
      writer.parked.shift()
      this.#parkedCount--
      parked.timer?.cancel()
    }
    this.#resumed = null
    if (this.#parkedCount > 0 && this.#bufferedBytes >= this.#bufferBytesMax) this.#stopLingering()
    this.#parkedChanged()
  }

  /** The topic whose first parked entry is the oldest of all that can go on. */
  #nextParked(): TopicWriter | null {
    let next: TopicWriter | null = null
    let order = Number.POSITIVE_INFINITY
    for (const writer of this.#topics.values()) {
      const first = writer.known ? writer.parked.first : undefined
      if (first === undefined || first.order > order) continue
      next = writer
      order = first.order
    }
    return next
  }

  #unpark(parked: Parked): void {
    this.#parkedCount--
    this.#bufferedBytes -= parked.bytes
    parked.timer?.cancel()
  }

  #refuseParked(writer: TopicWriter, error: SluiceError): void {
    for (const parked of writer.parked.takeAll()) {
      this.#unpark(parked)
      parked.refuse(error)
    }
    this.#parkedChanged()
  }

  #parkedBefore(order: number): boolean {
    if (this.#parkedCount === 0) return false
    for (const { parked } of this.#topics.values())
      for (const each of parked) if (each.order < order) return true
    return false
  }

  #keepAliveIfBusy(): void {
    if (this.#outstanding.size === 0 && this.#parkedCount === 0) this.#keepAlive.release()
  }

  #parkedChanged(): void {
    this.#keepAliveIfBusy()
    const waiters = this.#idleWaiters
    this.#idleWaiters = []
    for (const resolve of waiters) resolve()
  }

  // Topics: the number of partitions and the size limit.

  #writerOf(target: AnyTopic | string): TopicWriter {
    if (this.#state !== 'open') throw closedError()
    const topic = topicOf(target)
    let writer = this.#topics.get(topic.name)
    if (writer === undefined) {
      writer = new TopicWriter(topic)
      this.#topics.set(topic.name, writer)
      void this.#load(writer)
    }
    this.#lastTarget = target
    this.#lastWriter = writer
    return writer
  }

  async #load(writer: TopicWriter): Promise<void> {
    const deadline = this.#clock.monotonic() + this.#maxBlockMs
    for (
      let delayMs = this.#context.retryBackoffMs;
      ;
      delayMs = Math.min(delayMs * 2, RETRY_BACKOFF_MS_MAX)
    ) {
      try {
        if (writer.topic.name.startsWith(DELAY_TOPIC_PREFIX)) await this.#prepareDelays()
        if (this.#autoCreateTopics) await createAsDescribed(this.#engine, writer.topic)
        await this.#learn(writer)
        break
      } catch (error) {
        const refusal = error as SluiceError
        if (!refusal.retriable || this.#state === 'closed' || this.#clock.monotonic() + delayMs > deadline) {
          this.#forget(writer)
          this.#refuseParked(writer, refusal)
          return
        }
        await new Promise<void>(resolve => this.#clock.after(delayMs, resolve))
      }
    }
    writer.sticky = Math.min(
      writer.partitions.length - 1,
      Math.floor(this.#random() * writer.partitions.length),
    )
    writer.known = true
    this.#resumeParked()
  }

  async #prepareDelays(): Promise<void> {
    if (this.#delays !== undefined) return this.#delays.prepare()
    throw new SluiceError('UNSUPPORTED', `${this.#engine.url}: delayed messages need a relay`)
  }

  async #learn(writer: TopicWriter): Promise<void> {
    const { name } = writer.topic
    const count = await this.#engine.partitionsOf(name)
    const { config } = await this.#engine.describeTopic(name)
    const limit = Number(config.find(entry => entry.name === 'max.message.bytes')?.value)
    if (limit > 0) writer.messageBytesMax = limit
    writer.batchBytesMax = Math.min(this.#batchBytesMax, writer.messageBytesMax)
    writer.knownSince = this.#clock.monotonic()
    // a topic that was deleted and created with fewer: what waits for the others is refused by the engine
    if (writer.partitions.length > count) writer.partitions = writer.partitions.slice(0, count)
    while (writer.partitions.length < count) {
      writer.partitions.push(new PartitionWriter(name, writer.partitions.length, this.#context))
    }
    if (writer.sticky >= count) writer.sticky = 0
  }

  async #refresh(writer: TopicWriter): Promise<void> {
    if (writer.refreshing) return
    writer.refreshing = true
    try {
      await this.#learn(writer)
    } catch {
      // what is known stays in use; the next batch meets the error itself, if it lasts
    } finally {
      writer.refreshing = false
    }
  }

  #checkPartition(writer: TopicWriter, partition: number): number {
    const count = writer.partitions.length
    if (Number.isInteger(partition) && partition >= 0 && partition < count) return partition
    if (partition >= count) void this.#refresh(writer) // it may have grown since
    const { name } = writer.topic
    throw new SluiceError(
      'INVALID_PARTITION',
      `topic ${name} has partitions 0 to ${count - 1}, not ${String(partition)}`,
      { topic: name, partition, partitions: count },
    )
  }

  /** What waits for room there must not wait for a topic that nobody looks at any more. */
  #learnAnew(writer: TopicWriter): void {
    if (!writer.known) return // is being learned
    if (writer.parked.length === 0) {
      this.#forget(writer)
      return
    }
    writer.known = false
    writer.partitions = []
    void this.#load(writer)
  }

  #forget(writer: TopicWriter): void {
    if (this.#topics.get(writer.topic.name) === writer) this.#topics.delete(writer.topic.name)
    this.#lastTarget = null
    this.#lastWriter = null
  }

  // Batches: what the lines ask of the producer.

  #takeBatch(line: PartitionWriter): OpenBatch {
    const now = this.#clock.monotonic()
    const batch = this.#spare.pop() ?? new OpenBatch()
    batch.reopen(line, now)
    this.#breaker?.began(batch)
    if (this.#outstanding.size === 0) this.#keepAlive.hold()
    this.#outstanding.add(batch)
    if (!this.#watching) this.#watch(this.#deliveryTimeoutMs)
    const writer = this.#topics.get(line.topic)
    if (writer !== undefined && now - writer.knownSince > TOPIC_AGE_MS_MAX) void this.#refresh(writer)
    return batch
  }

  #giveBack(batch: OpenBatch): void {
    this.#outstanding.delete(batch)
    this.#keepAliveIfBusy()
    this.#bufferedBytes -= batch.bufferedBytes
    batch.writer = null
    if (this.#spare.length < SPARE_BATCHES_MAX) this.#spare.push(batch)
    this.#resumeParked()
    if (this.#readyWaiters.length > 0 && this.#bufferedBytes < this.#bufferBytesMax) {
      const waiters = this.#readyWaiters
      this.#readyWaiters = []
      for (const waiter of waiters) waiter.resolve()
    }
  }

  #closeAtEndOfTurn(line: PartitionWriter): void {
    if (line.inTurn) return
    line.inTurn = true
    if (this.#turn.push(line) === 1) this.#clock.defer(this.#endTurn)
  }

  /** Closes every open batch, to be sent when its partition is free. */
  #closeOpen(): void {
    for (const batch of this.#outstanding) if (batch.writer?.open === batch) batch.writer.close()
  }

  /** The buffer is full: batches that wait for more have waited long enough. */
  #stopLingering(): void {
    for (const batch of this.#outstanding) {
      batch.due = true
      batch.writer?.closeIfDue()
    }
  }

  readonly #endTurn = (): void => {
    const lines = this.#turn
    this.#turn = []
    for (const line of lines) {
      line.inTurn = false
      line.closeIfDue()
    }
  }

  /** A batch without keys has closed: the next goes to the next partition. */
  #moveOn(line: PartitionWriter): void {
    const writer = this.#topics.get(line.topic)
    if (writer !== undefined && writer.sticky === line.partition) {
      writer.sticky = (line.partition + 1) % writer.partitions.length
    }
  }

  #batchFailed(line: PartitionWriter, batch: OpenBatch, error: SluiceError): void {
    const writer = this.#topics.get(line.topic)
    if (writer !== undefined) {
      // deleted, perhaps to be created again, or changed: learn anew
      if (error.code === 'UNKNOWN_TOPIC') this.#learnAnew(writer)
      if (error.code === 'MESSAGE_TOO_LARGE') void this.#refresh(writer)
    }
    if (batch.posted > 0) this.#report(error, line.topic, batch.posted)
  }

  #watch(delayMs: number): void {
    this.#watching = true
    this.#clock.after(delayMs, () => {
      this.#watching = false
      const now = this.#clock.monotonic()
      for (const batch of this.#outstanding) {
        const remainingMs = batch.openedAt + this.#deliveryTimeoutMs - now
        if (remainingMs > 0) return this.#watch(remainingMs)
        if (!batch.settled)
          batch.writer?.abandon(batch, timedOut(batch, `within ${this.#deliveryTimeoutMs} ms`))
      }
    })
  }

  async #close(deadlineMs: number): Promise<void> {
    this.#state = 'closing'
    this.#lastTarget = null
    this.#lastWriter = null
    for (const waiter of this.#readyWaiters.splice(0)) waiter.reject(closedError())
    let timer: Timer | null = null
    const deadline = new Promise<void>(resolve => {
      timer = this.#clock.after(deadlineMs, resolve)
    })
    await Promise.race([this.flush(), deadline])
    ;(timer as Timer | null)?.cancel()
    this.#state = 'closed'
    for (const writer of this.#topics.values()) {
      this.#refuseParked(
        writer,
        new SluiceError('TIMED_OUT', `topic ${writer.topic.name}: the producer closed before there was room`),
      )
    }
    for (const batch of this.#outstanding) {
      if (!batch.settled) batch.writer?.abandon(batch, timedOut(batch, 'before the producer closed'))
    }
    this.#spare.length = 0
    this.#onClosed?.(this)
  }

  // Errors.

  #bufferFull(topic: string): SluiceError {
    return new SluiceError(
      'BUFFER_FULL',
      `topic ${topic}: the producer holds ${this.#bufferedBytes} unanswered bytes of ${this.#bufferBytesMax} allowed; slow down, or raise bufferBytesMax`,
      { topic, bufferedBytes: this.#bufferedBytes, bufferBytesMax: this.#bufferBytesMax, outcome: 'refused' },
    )
  }

  #dropped(topic: string, count: number): void {
    this.#report(this.#bufferFull(topic), topic, count)
  }

  #report(error: SluiceError, topic: string, count: number): void {
    try {
      this.#onError(error, { topic, count })
    } catch (thrown) {
      process.emitWarning(`the onError callback of a producer threw: ${String(thrown)}`, {
        type: 'SluiceWarning',
      })
    }
  }
}

const isArray: (given: unknown) => given is readonly AnyOutgoing[] = Array.isArray

function descriptorOf(writer: TopicWriter, target: AnyTopic | string): AnyTopic {
  return typeof target === 'string' ? writer.plain : target
}

/** What the lines of a transactional producer send to. */
const transactional = (session: TransactionSession): WriterContext['engine'] => ({
  produce: (topic, partition, batch) => session.produce(topic, partition, batch),
  initProducer: () => Promise.resolve(session.identity),
})
