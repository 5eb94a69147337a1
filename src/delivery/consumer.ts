/**
 * The consumer: from the engine's fetches to the user's handlers, one partition's messages one after the other.
 *
 *     engine.fetch ─▶ PartitionReader.next ─▶ .current ─▶ handler ─▶ handled ─▶ commit
 *        one call for all hungry partitions; it runs while handlers work, one batch ahead
 *
 * Promises:
 * - Order per partition. `concurrency` lets several partitions run side by side, never two messages of one.
 * - At least once. Only what a handler has finished is committed; what was not is handed out again after a restart.
 * - A partition that is being taken away waits for its running handler, commits, and then hands out nothing more.
 * - A handler that throws stops the consumer: `run` rejects with what it threw, after committing what was handled before.
 *
 *     idle ── run, runBatch, for await ──▶ running ── error ──▶ idle
 *                                             └──── stop ────▶ closed
 */

import { EventEmitter } from 'node:events'
import type {
  Assignor,
  CommitOffset,
  CommittedOffset,
  Engine,
  Fetched,
  FetchPartition,
  Member,
  OffsetSpec,
  TopicPartition,
} from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { Committer } from './committer.ts'
import { KeepAlive } from './keep-alive.ts'
import type { Message, MessageBatch } from './message.ts'
import { atLeast, invalidOption, oneOf } from './option.ts'
import { PartitionReader } from './partition-reader.ts'
import { createAsDescribed } from './provision.ts'
import { type AnyTopic, type Topic, topicOf } from './topic.ts'

/** The messages of a topic, given by descriptor or by name. */
export type MessageOf<T extends AnyTopic | string> = T extends string
  ? Message
  : T extends Topic<never, infer Out, never, infer KeyOut>
    ? Message<Out, KeyOut>
    : never

/** The batches of a topic, given by descriptor or by name. */
export type BatchOf<T extends AnyTopic | string> = T extends string
  ? MessageBatch
  : T extends Topic<never, infer Out, never, infer KeyOut>
    ? MessageBatch<Out, KeyOut>
    : never

export interface ConsumerOptions<T extends AnyTopic | string = AnyTopic | string> {
  /** What to read: descriptors or names. */
  readonly topics: readonly T[]
  /**
   * The consumer group. Its members share the partitions, and its commits are where a restart goes on. Without a group the consumer reads
   * all partitions (or `partitions`) by itself, from `from` on, and commits nothing.
   */
  readonly group?: string
  /** Without a group: only these partitions of each topic. */
  readonly partitions?: readonly number[]
  /** Where to begin in a partition for which the group has no commit. Default 'earliest': a queue hands out what is in it. */
  readonly from?: OffsetSpec
  /**
   * What to do when the log does not have the position any more (retention), or never had it (a topic that was created anew): go to that end and
   * emit 'outOfRange', or fail with `OFFSET_OUT_OF_RANGE`. Default: `from` if that is an end of the log, otherwise 'earliest'.
   */
  readonly onOutOfRange?: 'earliest' | 'latest' | 'error'
  /** Commit what has been handled every so often, and on stop and rebalance. Default true: every 1,000 ms. With false: `commit`. */
  readonly autoCommit?: boolean | { readonly everyMs: number }
  /** How many partitions are handled side by side. Default 1. Each keeps its order. `for await` always takes one message at a time. */
  readonly concurrency?: number
  /** How much one fetch brings from a partition. Default 1 MiB; a single larger batch comes all the same. */
  readonly partitionBytesMax?: number
  /** How much may be fetched and not handled yet, over all partitions. Default 32 MiB. */
  readonly bufferBytesMax?: number
  /** How long a fetch waits for something new; it wakes at once when there is. Default 500. */
  readonly waitMs?: number
  /** In order of preference; the group agrees on one. Default cooperative-sticky, then range. */
  readonly assignors?: readonly Assignor[]
  /** A member that is not heard of for so long has its partitions given to others. Default 45,000. */
  readonly sessionTimeoutMs?: number
  /** How long a rebalance waits for running handlers. Default 300,000. */
  readonly rebalanceTimeoutMs?: number
  /** Makes a static member: one that restarts within the session time-out and gets its partitions back without a rebalance. */
  readonly instanceId?: string
  /** Stops the consumer, as `stop()` does. */
  readonly signal?: AbortSignal
}

/** @internal What a `Sluice` hands to its consumers. */
export interface ConsumerSetting {
  readonly engine: Engine
  readonly clock?: Clock
  readonly clientId?: string
  readonly autoCreateTopics?: boolean
  readonly onClosed?: (consumer: { stop(): Promise<void> }) => void
}

export interface PartitionLag extends TopicPartition {
  /** The next offset to handle. */
  readonly position: number
  /** Offset that the next message of the partition will have. */
  readonly endOffset: number
  /** Messages not handled yet. */
  readonly lag: number
}

export interface ConsumerEvents {
  /** Partitions were given to this consumer. */
  assigned: [partitions: readonly TopicPartition[]]
  /** Partitions were taken back, after what was handled had been committed. */
  revoked: [partitions: readonly TopicPartition[]]
  /** Partitions are gone already: the session had timed out. What was not committed is handled again, elsewhere. */
  lost: [partitions: readonly TopicPartition[]]
  committed: [offsets: readonly CommitOffset[]]
  /** A position that the log does not have was given up for another; see `onOutOfRange`. */
  outOfRange: [change: TopicPartition & { readonly offset: number; readonly resetTo: number }]
  /** Something went wrong that the consumer goes on from by itself. Without a listener it is a process warning. */
  error: [error: SluiceError]
}

type AnyMessage = Message<unknown, unknown>
type AnyBatch = MessageBatch<unknown, unknown>
type Handler =
  | { readonly kind: 'message'; readonly handle: (message: AnyMessage) => unknown }
  | { readonly kind: 'batch'; readonly handle: (batch: AnyBatch) => unknown }
  | { readonly kind: 'iterator' }

const STOP_DEADLINE_MS = 30_000
const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 2_000
/** Least that a fetch asks of a partition when the buffer is nearly full. */
const FETCH_BYTES_MIN = 64 * 1024
/** After so long without letting timers and sockets have a turn, it does. */
const TURN_MS_MAX = 10

export class Consumer<T extends AnyTopic | string = AnyTopic | string>
  extends EventEmitter<ConsumerEvents>
  implements AsyncIterable<MessageOf<T>>
{
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #clientId: string
  readonly #autoCreateTopics: boolean
  readonly #onClosed: ((consumer: { stop(): Promise<void> }) => void) | undefined
  readonly #options: ConsumerOptions
  readonly #topics: ReadonlyMap<string, AnyTopic>
  readonly #from: OffsetSpec
  readonly #onOutOfRange: 'earliest' | 'latest' | 'error'
  readonly #concurrency: number
  readonly #partitionBytesMax: number
  readonly #bufferBytesMax: number
  readonly #waitMs: number
  readonly #sessionTimeoutMs: number
  readonly #rebalanceTimeoutMs: number
  readonly #committer: Committer
  readonly #keepAlive = new KeepAlive()

  #state: 'idle' | 'running' | 'stopping' | 'closed' = 'idle'
  #handler: Handler = { kind: 'iterator' }
  #member: Member | null = null
  #readers: PartitionReader[] = []
  /** Partitions with something to hand out, in the order in which they got it. */
  #queue: PartitionReader[] = []
  /** Seeks of partitions that are not assigned yet. */
  readonly #seeks = new Map<string, OffsetSpec>()
  #pausedAll = false
  #running = 0
  /** Resolves when the session is to end, well or not. */
  #ending: PromiseWithResolvers<void> = Promise.withResolvers()
  #failure: { readonly error: unknown } | null = null
  #session: Promise<void> = Promise.resolve()
  #deadlineMs = STOP_DEADLINE_MS
  #fetchAbort: AbortController | null = null
  #fetchStart = 0
  #wakeHungry: (() => void) | null = null
  #wakeIterator: (() => void) | null = null
  /** What `for await` has been given and not come back from. */
  #inLoop: { readonly reader: PartitionReader; readonly epoch: number; readonly offset: number } | null = null

  /** @internal Consumers come from `mq.consumer()`. Throws `INVALID_ARGUMENT`. */
  constructor(options: ConsumerOptions<T>, setting: ConsumerSetting) {
    super()
    this.#engine = setting.engine
    this.#clock = setting.clock ?? systemClock
    this.#clientId = setting.clientId ?? 'sluice'
    this.#autoCreateTopics = setting.autoCreateTopics ?? false
    this.#onClosed = setting.onClosed
    this.#options = options
    if (!Array.isArray(options.topics) || options.topics.length === 0) {
      throw invalidOption('topics is an array of at least one topic')
    }
    this.#topics = new Map(options.topics.map(target => [topicOf(target).name, topicOf(target)]))
    if (options.group !== undefined && options.partitions !== undefined) {
      throw invalidOption(
        'partitions is for consumers without a group: in a group the partitions are shared out',
      )
    }
    if (options.group === '') throw invalidOption('group is not empty; leave it out to read without a group')
    this.#from = options.from ?? 'earliest'
    this.#onOutOfRange = oneOf(
      'onOutOfRange',
      options.onOutOfRange ?? (this.#from === 'latest' ? 'latest' : 'earliest'),
      ['earliest', 'latest', 'error'],
    )
    this.#concurrency = atLeast('concurrency', options.concurrency ?? 1, 1)
    this.#partitionBytesMax = atLeast('partitionBytesMax', options.partitionBytesMax ?? 1024 * 1024, 1)
    this.#bufferBytesMax = atLeast('bufferBytesMax', options.bufferBytesMax ?? 32 * 1024 * 1024, 1)
    this.#waitMs = atLeast('waitMs', options.waitMs ?? 500, 0)
    this.#sessionTimeoutMs = atLeast('sessionTimeoutMs', options.sessionTimeoutMs ?? 45_000, 1)
    this.#rebalanceTimeoutMs = atLeast('rebalanceTimeoutMs', options.rebalanceTimeoutMs ?? 300_000, 1)
    this.#committer = new Committer(this.#clock, commitIntervalMs(options), () => this.#readers, {
      committed: offsets => this.emit('committed', offsets),
      failed: error => this.#warn(error),
    })
  }

  /** The group, or undefined without one. */
  get group(): string | undefined {
    return this.#options.group
  }

  /**
   * Handles messages one by one until the consumer is stopped; then resolves. The next message of a partition comes when the handler's
   * promise has resolved. Rejects with what the handler threw, or with `CORRUPT_LOG`, `UNKNOWN_TOPIC`, … if reading cannot go on; what was handled
   * before is committed, and `run` may be called again. Rejects with `CONSUMER_CLOSED` after `stop`.
   */
  run(handler: (message: MessageOf<T>) => unknown): Promise<void> {
    return this.#begin({ kind: 'message', handle: handler as (message: AnyMessage) => unknown })
  }

  /**
   * The same by batches of one partition, the fastest way: a batch is decoded only as far as the handler reads it. It counts as handled as a
   * whole, when the handler's promise has resolved.
   */
  runBatch(handler: (batch: BatchOf<T>) => unknown): Promise<void> {
    return this.#begin({ kind: 'batch', handle: handler as (batch: AnyBatch) => unknown })
  }

  /**
   * `for await (const message of consumer)`. A message counts as handled when the loop comes back for the next one. Leaving the
   * loop (break, return, throw) stops the consumer, and the message that it left with is not committed by itself: nobody can tell a
   * break from a failure. Commit it before, if it is done.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<MessageOf<T>> {
    this.#begin({ kind: 'iterator' }).catch(() => {}) // `next` tells
    const iterator: AsyncIterableIterator<AnyMessage> = {
      next: () => {
        this.#loopCameBack(true)
        const message = this.#nextInLoop()
        return message === null ? this.#waitInLoop() : Promise.resolve({ done: false, value: message })
      },
      return: async () => {
        this.#loopCameBack(false)
        await this.stop()
        return { done: true, value: undefined }
      },
      [Symbol.asyncIterator]: () => iterator,
    }
    return iterator as AsyncIterableIterator<MessageOf<T>>
  }

  /**
   * Takes no new messages, lets running handlers finish, commits what they finished (unless `autoCommit` is off), leaves the group, and resolves. A
   * handler that is not done within `deadlineMs` (default 30,000) is left alone, and its message is not committed. Afterwards the consumer is
   * closed for good.
   *
   * Inside a handler or a loop, do not await it: it waits for the handler. Use `break` in a loop.
   */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    if (this.#state === 'running') {
      this.#state = 'stopping'
      this.#deadlineMs = options.deadlineMs ?? STOP_DEADLINE_MS
      this.#ending.resolve()
    } else if (this.#state === 'idle') this.#close()
    await this.#session.catch(() => {}) // told by run
    if (this.#state === 'idle') this.#close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /** The partitions that this consumer reads now. */
  assignment(): TopicPartition[] {
    return this.#readers.map(({ topic, partition }) => ({ topic, partition }))
  }

  /** The next offset that will be handed out. Throws `INVALID_ARGUMENT` if the partition is not assigned. */
  position(of: TopicPartition): number {
    return this.#assigned(of).position
  }

  /** What the group has committed for these partitions (default: the assigned ones). Partitions without a commit are left out. */
  async committed(partitions: readonly TopicPartition[] = this.assignment()): Promise<CommittedOffset[]> {
    return this.#engine.committed(this.#groupOrThrow(), partitions)
  }

  /** How far the consumer is behind, for each assigned partition, as of now. */
  lag(): Promise<PartitionLag[]> {
    return Promise.all(
      this.#readers.map(async ({ topic, partition, handled }) => {
        const endOffset = await this.#engine.offsetFor(topic, partition, 'latest')
        return { topic, partition, position: handled, endOffset, lag: Math.max(0, endOffset - handled) }
      }),
    )
  }

  /**
   * Commits everything handled so far; or a message, a batch, or offsets (each the next one to handle). Throws `ILLEGAL_GENERATION` if a partition is not
   * assigned to this consumer any more, `INVALID_ARGUMENT` without a group, and what the engine refuses with.
   */
  async commit(
    what?: Message<unknown, unknown> | MessageBatch<unknown, unknown> | readonly CommitOffset[],
  ): Promise<void> {
    this.#groupOrThrow()
    if (what === undefined) return this.#committer.commitHandled()
    const offsets = offsetsOf(what)
    for (const commit of offsets) {
      const reader = this.#find(commit)
      if (reader === undefined) {
        throw new SluiceError(
          'ILLEGAL_GENERATION',
          `${commit.topic}/${commit.partition} is not assigned to this consumer any more; whoever has it now will handle the message again`,
          { ...commit },
        )
      }
      reader.handled = Math.max(reader.handled, commit.offset)
    }
    await this.#committer.commit(offsets)
  }

  /** Stops handing out messages of these partitions (default: of all, those assigned later included). A running handler finishes. */
  pause(partitions?: readonly TopicPartition[]): void {
    if (partitions === undefined) this.#pausedAll = true
    for (const reader of partitions?.map(of => this.#assigned(of)) ?? this.#readers) reader.paused = true
  }

  /** Goes on with these partitions (default: with all). */
  resume(partitions?: readonly TopicPartition[]): void {
    if (partitions === undefined) this.#pausedAll = false
    for (const reader of partitions?.map(of => this.#assigned(of)) ?? this.#readers) {
      reader.paused = false
      this.#enqueue(reader)
      this.#fetchFor(reader)
    }
    this.#pump()
  }

  /**
   * Goes on from another place: what was fetched is dropped, and a running handler's message no longer counts as handled. The next commit is of the new
   * place. For a partition that is not assigned, it holds from when it will be.
   */
  async seek(to: TopicPartition & { readonly offset: OffsetSpec }): Promise<void> {
    const { topic, partition, offset } = to
    const reader = this.#find(to)
    if (reader === undefined) this.#seeks.set(`${topic}/${partition}`, offset)
    else if (typeof offset === 'number') this.#seek(reader, offset)
    else {
      const target = await this.#engine.offsetFor(topic, partition, offset)
      if (this.#readers.includes(reader)) this.#seek(reader, target)
    }
  }

  // A session: from the start of run, runBatch or a loop to its end.

  #begin(handler: Handler): Promise<void> {
    if (this.#state === 'closed') {
      return Promise.reject(new SluiceError('CONSUMER_CLOSED', 'the consumer was stopped; make another'))
    }
    if (this.#state !== 'idle') {
      return Promise.reject(
        invalidOption('the consumer is running already: one run, runBatch or loop at a time'),
      )
    }
    this.#state = 'running'
    this.#handler = handler
    this.#failure = null
    this.#ending = Promise.withResolvers()
    this.#session = this.#runSession()
    return this.#session
  }

  async #runSession(): Promise<void> {
    const { signal } = this.#options
    const onAbort = (): void => void this.stop()
    if (signal?.aborted) onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#keepAlive.hold()
    try {
      await this.#join()
      await Promise.all([this.#ending.promise, this.#fetchLoop()])
    } catch (error) {
      this.#fail(error)
    }
    try {
      await this.#windDown()
    } catch (error) {
      this.#fail(error)
    } finally {
      signal?.removeEventListener('abort', onAbort)
      this.#keepAlive.release()
      const stopped = this.#state === 'stopping'
      this.#state = 'idle'
      if (stopped) this.#close()
      this.#wakeIterator?.()
    }
    if (this.#failure !== null) throw (this.#failure as { error: unknown }).error
  }

  /** Ends the session with an error; the first one counts. */
  #fail(error: unknown): void {
    this.#failure ??= { error }
    this.#ending.resolve()
    this.#wakeFetch()
  }

  get #isOver(): boolean {
    return this.#state !== 'running' || this.#failure !== null
  }

  #close(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#onClosed?.(this)
  }

  async #join(): Promise<void> {
    for (const topic of this.#topics.values()) {
      if (this.#isOver) return
      if (this.#autoCreateTopics) await this.#retried(() => createAsDescribed(this.#engine, topic))
      const count = await this.#retried(() => this.#engine.partitionsOf(topic.name))
      if (this.#options.group === undefined) await this.#assignAll(topic, count)
    }
    if (this.#options.group === undefined || this.#isOver) return
    this.#member = await this.#engine.join(
      {
        group: this.#options.group,
        topics: [...this.#topics.keys()],
        assignors: this.#options.assignors ?? ['cooperative-sticky', 'range'],
        sessionTimeoutMs: this.#sessionTimeoutMs,
        rebalanceTimeoutMs: this.#rebalanceTimeoutMs,
        clientId: this.#clientId,
        instanceId: this.#options.instanceId,
      },
      {
        assigned: partitions => this.#onAssigned(partitions),
        revoked: partitions => this.#onRevoked(partitions),
        lost: partitions => this.#onLost(partitions),
        failed: error => this.#fail(error),
      },
    )
    this.#committer.join(this.#member)
  }

  async #windDown(): Promise<void> {
    this.#wakeFetch()
    await this.#handlersDone(this.#readers, this.#deadlineMs)
    if (this.#committer.automatic && this.#member !== null) await this.#committer.commitQuietly()
    const member = this.#member
    try {
      await member?.leave()
    } finally {
      this.#committer.leave()
      this.#member = null
      for (const reader of this.#readers) reader.drop()
      this.#readers = []
      this.#queue = []
      this.#inLoop = null
    }
  }

  /** Waits for the handlers of these partitions; after the deadline their outcome does not count any more. */
  async #handlersDone(readers: readonly PartitionReader[], deadlineMs: number): Promise<void> {
    if (!readers.some(reader => reader.busy)) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = this.#clock.after(deadlineMs, resolve)
    await Promise.race([promise, Promise.all(readers.map(reader => reader.whenIdle()))])
    timer.cancel()
    for (const reader of readers) {
      if (!reader.busy) continue
      const { topic, partition } = reader
      this.#warn(
        new SluiceError(
          'TIMED_OUT',
          `${topic}/${partition}: the handler did not finish within ${deadlineMs} ms; its message will be handed out again`,
          { topic, partition, offset: reader.handled },
        ),
      )
      reader.epoch++
    }
  }

  // Assignment.

  async #onAssigned(partitions: readonly TopicPartition[]): Promise<void> {
    try {
      const group = this.#groupOrThrow()
      const commits = await this.#retried(() => this.#engine.committed(group, partitions))
      for (const of of partitions) {
        const committed = commits.find(
          ({ topic, partition }) => topic === of.topic && partition === of.partition,
        )
        await this.#assign(of, committed?.offset)
      }
      this.emit('assigned', partitions)
    } catch (error) {
      this.#fail(error)
    }
  }

  async #onRevoked(partitions: readonly TopicPartition[]): Promise<void> {
    const readers = this.#halt(partitions)
    await this.#handlersDone(readers, this.#rebalanceTimeoutMs)
    if (this.#committer.automatic) await this.#committer.commitQuietly(readers)
    this.#remove(readers)
    this.emit('revoked', partitions)
  }

  #onLost(partitions: readonly TopicPartition[]): void {
    this.#remove(this.#halt(partitions))
    this.emit('lost', partitions)
  }

  async #assignAll(topic: AnyTopic, count: number): Promise<void> {
    const wanted = this.#options.partitions ?? Array.from({ length: count }, (_, partition) => partition)
    const partitions = wanted.map(partition => ({ topic: topic.name, partition }))
    for (const of of partitions) {
      if (!(Number.isInteger(of.partition) && of.partition >= 0 && of.partition < count)) {
        throw new SluiceError(
          'INVALID_PARTITION',
          `topic ${topic.name} has partitions 0 to ${count - 1}, not ${of.partition}`,
          { ...of, partitions: count },
        )
      }
      await this.#assign(of, undefined)
    }
    this.emit('assigned', partitions)
  }

  async #assign(of: TopicPartition, committed: number | undefined): Promise<void> {
    const key = `${of.topic}/${of.partition}`
    const sought = this.#seeks.get(key)
    this.#seeks.delete(key)
    const start = sought ?? committed ?? this.#from
    const position = await this.#resolve(of, start)
    const reader = new PartitionReader(
      this.#topics.get(of.topic) ?? topicOf(of.topic),
      of.partition,
      position,
      committed ?? -1,
    )
    reader.paused = this.#pausedAll
    this.#readers.push(reader)
    // where it begins is worth a commit: 'latest' must not move on while nobody is reading
    this.#committer.touch()
    this.#fetchFor(reader)
  }

  #resolve({ topic, partition }: TopicPartition, at: OffsetSpec): Promise<number> {
    return typeof at === 'number'
      ? Promise.resolve(at)
      : this.#retried(() => this.#engine.offsetFor(topic, partition, at))
  }

  #halt(partitions: readonly TopicPartition[]): PartitionReader[] {
    const readers = partitions.map(of => this.#find(of)).filter(reader => reader !== undefined)
    for (const reader of readers) reader.halted = true
    return readers
  }

  #remove(readers: readonly PartitionReader[]): void {
    for (const reader of readers) reader.drop()
    this.#readers = this.#readers.filter(reader => !readers.includes(reader))
    this.#queue = this.#queue.filter(reader => !readers.includes(reader))
  }

  #find(of: TopicPartition): PartitionReader | undefined {
    return this.#readers.find(({ topic, partition }) => topic === of.topic && partition === of.partition)
  }

  #assigned(of: TopicPartition): PartitionReader {
    const reader = this.#find(of)
    if (reader === undefined)
      throw invalidOption(`${of.topic}/${of.partition} is not assigned to this consumer`)
    return reader
  }

  #groupOrThrow(): string {
    const { group } = this.#options
    if (group === undefined) throw invalidOption('a consumer without a group has no commits; give it a group')
    return group
  }

  #seek(reader: PartitionReader, offset: number): void {
    reader.seek(offset)
    this.#committer.touch()
    this.#fetchFor(reader)
  }

  // Fetching.

  async #fetchLoop(): Promise<void> {
    let failures = 0
    let turnStart = this.#clock.monotonic()
    while (!this.#isOver) {
      const readers = this.#hungry()
      if (readers.length === 0) {
        await new Promise<void>(resolve => {
          this.#wakeHungry = resolve
        })
        this.#wakeHungry = null
        continue
      }
      try {
        await this.#fetch(readers)
        failures = 0
      } catch (error) {
        if (this.#isOver) return
        if (!isRetriable(error)) throw error
        this.#warn(error)
        await this.#backOff(failures++)
      }
      this.#pump()
      if (this.#clock.monotonic() - turnStart > TURN_MS_MAX) {
        await new Promise<void>(resolve => this.#clock.defer(resolve))
        turnStart = this.#clock.monotonic()
      }
    }
  }

  /** Partitions to ask for, beginning with another one each time; none while the buffer is full. */
  #hungry(): PartitionReader[] {
    let bufferedBytes = 0
    for (const reader of this.#readers) bufferedBytes += reader.bufferedBytes
    if (bufferedBytes >= this.#bufferBytesMax) return []
    const count = this.#readers.length
    const hungry: PartitionReader[] = []
    for (let index = 0; index < count; index++) {
      const reader = this.#readers[(this.#fetchStart + index) % count]
      if (reader.hungry) hungry.push(reader)
    }
    this.#fetchStart++
    return hungry
  }

  async #fetch(readers: readonly PartitionReader[]): Promise<void> {
    const epochs = readers.map(reader => reader.epoch)
    const wanted: FetchPartition[] = readers.map(({ topic, partition, fetchOffset }) => ({
      topic,
      partition,
      offset: fetchOffset,
    }))
    for (const reader of readers) reader.inFetch = true
    this.#fetchAbort = new AbortController()
    let fetched: readonly Fetched[]
    try {
      fetched = await this.#engine.fetch(wanted, {
        partitionBytesMax: this.#fetchBytes(readers.length),
        waitMs: this.#waitMs,
        signal: this.#fetchAbort.signal,
      })
    } finally {
      this.#fetchAbort = null
      for (const reader of readers) reader.inFetch = false
    }
    for (const part of fetched) {
      const index = wanted.findIndex(
        ({ topic, partition }) => topic === part.topic && partition === part.partition,
      )
      const reader = readers[index]
      // sought elsewhere, or taken away, in the meantime
      if (reader === undefined || reader.epoch !== epochs[index] || reader.halted) continue
      await this.#accept(reader, part)
    }
  }

  /** What is left of the buffer, shared among those that ask. */
  #fetchBytes(count: number): number {
    const share = Math.floor(this.#bufferBytesMax / count)
    return Math.min(this.#partitionBytesMax, Math.max(FETCH_BYTES_MIN, share))
  }

  async #accept(reader: PartitionReader, part: Fetched): Promise<void> {
    reader.endOffset = part.endOffset
    if (part.batches.length > 0) {
      reader.accept(part.batches)
      this.#enqueue(reader)
    }
    if (part.error === undefined) return
    if (part.error.code === 'OFFSET_OUT_OF_RANGE' && this.#onOutOfRange !== 'error') {
      await this.#reset(reader, this.#onOutOfRange)
    } else if (isRetriable(part.error)) {
      this.#warn(part.error)
      await this.#backOff(0)
    } else {
      reader.error = part.error
      this.#enqueue(reader)
    }
  }

  async #reset(reader: PartitionReader, end: 'earliest' | 'latest'): Promise<void> {
    const { topic, partition, epoch, fetchOffset: offset } = reader
    // what was handled up to here stays handled: commit it before the position jumps
    await reader.whenIdle()
    const resetTo = await this.#resolve(reader, end)
    if (reader.epoch !== epoch || reader.halted) return
    this.#seek(reader, resetTo)
    this.emit('outOfRange', { topic, partition, offset, resetTo })
  }

  /** The partition can take more: has the fetch under way ask for it too. */
  #fetchFor(reader: PartitionReader): void {
    if (reader.hungry && !reader.inFetch) this.#wakeFetch()
  }

  #wakeFetch(): void {
    this.#wakeHungry?.()
    this.#fetchAbort?.abort()
  }

  // Handing out.

  #enqueue(reader: PartitionReader): void {
    if (reader.queued || !reader.ready) return
    reader.queued = true
    this.#queue.push(reader)
  }

  /** The partition whose turn it is, or null if none has anything. */
  #nextReady(): PartitionReader | null {
    for (let reader = this.#queue.shift(); reader !== undefined; reader = this.#queue.shift()) {
      reader.queued = false
      if (reader.ready) return reader
    }
    return null
  }

  /** Gives work to handlers as long as there are both. */
  #pump(): void {
    if (this.#handler.kind === 'iterator') {
      this.#wakeIterator?.()
      return
    }
    while (this.#running < this.#concurrency && !this.#isOver) {
      const reader = this.#nextReady()
      if (reader === null) return
      void this.#work(reader)
    }
  }

  /** Handles what one partition has at hand, then lets others have a turn. */
  async #work(reader: PartitionReader): Promise<void> {
    this.#running++
    reader.begin()
    try {
      if (this.#handler.kind === 'batch') await this.#workOnBatch(reader, this.#handler.handle)
      else if (this.#handler.kind === 'message') await this.#workOnMessages(reader, this.#handler.handle)
    } catch (error) {
      this.#fail(error)
    }
    this.#running--
    reader.end()
    this.#enqueue(reader)
    this.#fetchFor(reader)
    this.#pump()
  }

  async #workOnBatch(reader: PartitionReader, handle: (batch: AnyBatch) => unknown): Promise<void> {
    const { epoch } = reader
    const batch = reader.takeBatch()
    if (batch === null) throw reader.error
    this.#fetchFor(reader)
    await handle(batch)
    if (reader.epoch !== epoch) return
    reader.handled = batch.lastOffset + 1
    this.#committer.touch()
  }

  async #workOnMessages(reader: PartitionReader, handle: (message: AnyMessage) => unknown): Promise<void> {
    const { epoch } = reader
    let message = reader.takeMessage()
    if (message === null && reader.error !== null) throw reader.error
    this.#fetchFor(reader)
    while (message !== null) {
      const result = handle(message)
      if (isThenable(result)) await result
      if (reader.epoch !== epoch) return
      reader.handled = message.offset + 1
      this.#committer.touch()
      if (reader.halted || reader.paused || this.#isOver) return
      message = reader.takeMessage()
    }
  }

  // The loop: `for await`.

  #nextInLoop(): AnyMessage | null {
    while (!this.#isOver) {
      // stay with the partition while its batch lasts: it has been put in front again
      const reader = this.#nextReady()
      if (reader === null) return null
      let message: AnyMessage | null
      try {
        message = reader.takeMessage()
        if (message === null && reader.error !== null) throw reader.error
      } catch (error) {
        this.#fail(error)
        return null
      }
      if (message !== null) {
        reader.begin()
        this.#inLoop = { reader, epoch: reader.epoch, offset: message.offset }
        this.#fetchFor(reader)
        return message
      }
      this.#enqueue(reader)
      this.#fetchFor(reader)
    }
    return null
  }

  #loopCameBack(handled: boolean): void {
    const inLoop = this.#inLoop
    if (inLoop === null) return
    this.#inLoop = null
    const { reader, epoch, offset } = inLoop
    if (handled && reader.epoch === epoch) {
      reader.handled = offset + 1
      this.#committer.touch()
    }
    reader.end()
    if (!reader.ready) return
    reader.queued = true
    this.#queue.unshift(reader)
  }

  async #waitInLoop(): Promise<IteratorResult<AnyMessage>> {
    for (;;) {
      const message = this.#nextInLoop()
      if (message !== null) return { done: false, value: message }
      if (this.#isOver) {
        await this.#session
        return { done: true, value: undefined }
      }
      await new Promise<void>(resolve => {
        this.#wakeIterator = resolve
        void this.#ending.promise.then(resolve)
      })
      this.#wakeIterator = null
    }
  }

  // Trouble.

  /** Repeats what may pass until it does, or the session ends. */
  async #retried<R>(call: () => Promise<R>): Promise<R> {
    for (let failures = 0; ; failures++) {
      try {
        return await call()
      } catch (error) {
        if (!isRetriable(error) || this.#isOver) throw error
        this.#warn(error)
        await this.#backOff(failures)
      }
    }
  }

  async #backOff(failures: number): Promise<void> {
    const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures)
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = this.#clock.after(delayMs, resolve)
    await Promise.race([promise, this.#ending.promise])
    timer.cancel()
  }

  #warn(error: SluiceError): void {
    if (this.listenerCount('error') > 0) this.emit('error', error)
    else process.emitWarning(error.message, { type: 'SluiceWarning', code: error.code })
  }
}

function commitIntervalMs({ group, autoCommit = true }: ConsumerOptions): number {
  if (group === undefined || autoCommit === false) return 0
  return autoCommit === true ? 1_000 : atLeast('autoCommit.everyMs', autoCommit.everyMs, 1)
}

function offsetsOf(
  what: Message<unknown, unknown> | MessageBatch<unknown, unknown> | readonly CommitOffset[],
): readonly CommitOffset[] {
  if (Array.isArray(what)) return what
  const { topic, partition } = what as AnyMessage | AnyBatch
  const last = 'lastOffset' in what ? (what as AnyBatch).lastOffset : (what as AnyMessage).offset
  return [{ topic, partition, offset: last + 1 }]
}

const isThenable = (value: unknown): value is PromiseLike<unknown> =>
  typeof value === 'object' && value !== null && typeof (value as PromiseLike<unknown>).then === 'function'

const isRetriable = (error: unknown): error is SluiceError => error instanceof SluiceError && error.retriable
