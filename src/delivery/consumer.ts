/**
 * The consumer: from the engine's fetches to the user's handlers, one partition's messages one after the
 * other.
 *
 *     engine.fetch ─▶ PartitionReader.next ─▶ .current ─▶ handler ─▶ handled ─▶ commit
 *        one call for all hungry partitions; it runs while handlers work, one batch ahead
 *
 * Promises:
 * - Order per partition. `concurrency` lets several partitions run side by side, never two messages of one.
 * - At least once. Only what a handler has finished is committed; what was not is handed out again after a
 *   restart.
 * - A partition that is being taken away waits for its running handler, commits, and then hands out nothing
 *   more.
 * - A handler that throws stops the consumer: `run` rejects with what it threw, after committing what was
 *   handled before.
 *
 *     idle ── run, runBatch, for await ──▶ running ── error ──▶ idle
 *                                             └──── stop ────▶ closed
 */

import { EventEmitter } from 'node:events'
import type {
  CommitOffset,
  CommittedOffset,
  Engine,
  Member,
  OffsetSpec,
  TopicPartition,
} from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { isThenable } from '../lib/thenable.ts'
import { Committer } from './committer.ts'
import type {
  AssignmentHooks,
  BatchOf,
  ConsumerEvents,
  ConsumerOptions,
  ConsumerSetting,
  MessageOf,
  PartitionLag,
} from './consumer-options.ts'
import { Fetcher, isRetriable, isSame, isWorthTelling } from './fetcher.ts'
import { KeepAlive } from './keep-alive.ts'
import type { Message, MessageBatch } from './message.ts'
import { atLeast, invalidOption, oneOf } from './option.ts'
import { PartitionReader } from './partition-reader.ts'
import { createAsDescribed } from './provision.ts'
import { type AnyTopic, topicOf } from './topic.ts'
import { emitError } from './warn.ts'

type AnyMessage = Message<unknown, unknown>
type AnyBatch = MessageBatch<unknown, unknown>
type Handler =
  | { readonly kind: 'message'; readonly handle: (message: AnyMessage) => unknown }
  | { readonly kind: 'batch'; readonly handle: (batch: AnyBatch) => unknown }
  | { readonly kind: 'iterator' }

const STOP_DEADLINE_MS = 30_000
const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 2_000

export class Consumer<T extends AnyTopic | string = AnyTopic | string>
  extends EventEmitter<ConsumerEvents>
  implements AsyncIterable<MessageOf<T>>
{
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #clientId: string
  readonly #autoCreateTopics: boolean
  readonly #onClosed: ((consumer: { stop(): Promise<void> }) => void) | undefined
  readonly #hooks: AssignmentHooks | undefined
  readonly #isBackground: boolean
  readonly #options: ConsumerOptions
  readonly #topics: ReadonlyMap<string, AnyTopic>
  readonly #from: OffsetSpec
  readonly #onOutOfRange: 'earliest' | 'latest' | 'error'
  readonly #concurrency: number
  readonly #sessionTimeoutMs: number
  readonly #rebalanceTimeoutMs: number
  readonly #committer: Committer
  readonly #fetcher: Fetcher
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
    this.#hooks = setting.hooks
    this.#isBackground = setting.background ?? false
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
    this.#sessionTimeoutMs = atLeast('sessionTimeoutMs', options.sessionTimeoutMs ?? 45_000, 1)
    this.#rebalanceTimeoutMs = atLeast('rebalanceTimeoutMs', options.rebalanceTimeoutMs ?? 300_000, 1)
    this.#committer = new Committer(this.#clock, commitIntervalMs(options), () => this.#readers, {
      committed: offsets => this.emit('committed', offsets),
      failed: error => this.warn(error),
    })
    this.#fetcher = new Fetcher({
      engine: this.#engine,
      clock: this.#clock,
      partitionBytesMax: atLeast('partitionBytesMax', options.partitionBytesMax ?? 1024 * 1024, 1),
      bufferBytesMax: atLeast('bufferBytesMax', options.bufferBytesMax ?? 32 * 1024 * 1024, 1),
      waitMs: atLeast('waitMs', options.waitMs ?? 500, 0),
      isolation: oneOf('isolation', options.isolation ?? 'committed', ['committed', 'uncommitted']),
      readers: () => this.#readers,
      isOver: () => this.#isOver,
      arrived: reader => {
        if (!reader.hasMessages && reader.error === null) this.#hooks?.passed?.(reader, reader.fetchOffset)
        this.#enqueue(reader)
      },
      handOut: () => this.#pump(),
      warn: error => this.warn(error),
      backOff: failures => this.#backOff(failures),
    })
  }

  /** The group, or undefined without one. */
  get group(): string | undefined {
    return this.#options.group
  }

  /**
   * Handles messages one by one until the consumer is stopped; then resolves. The next message of a partition
   * comes when the handler's promise has resolved. Rejects with what the handler threw, or with
   * `CORRUPT_LOG`, `UNKNOWN_TOPIC`, … if reading cannot go on; what was handled before is committed, and
   * `run` may be called again. Rejects with `CONSUMER_CLOSED` after `stop`.
   */
  run(handler: (message: MessageOf<T>) => unknown): Promise<void> {
    return this.#begin({ kind: 'message', handle: handler as (message: AnyMessage) => unknown })
  }

  /**
   * The same by batches of one partition, the fastest way: a batch is decoded only as far as the handler
   * reads it. It counts as handled as a whole, when the handler's promise has resolved.
   */
  runBatch(handler: (batch: BatchOf<T>) => unknown): Promise<void> {
    return this.#begin({ kind: 'batch', handle: handler as (batch: AnyBatch) => unknown })
  }

  /**
   * `for await (const message of consumer)`. A message counts as handled when the loop comes back for the
   * next one. Leaving the loop (break, return, throw) stops the consumer, and the message that it left with
   * is not committed by itself: nobody can tell a break from a failure. Commit it before, if it is done.
   */
  [Symbol.asyncIterator](): AsyncIterableIterator<MessageOf<T>> {
    if (this.#state !== 'idle') throw this.#notIdle()
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
   * Takes no new messages, lets running handlers finish, commits what they finished (unless `autoCommit` is
   * off), leaves the group, and resolves. A handler that is not done within `deadlineMs` (default 30,000) is
   * left alone, and its message is not committed. Afterwards the consumer is closed for good.
   *
   * Inside a handler or a loop, do not await it: it waits for the handler. Use `break` in a loop.
   */
  async stop(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    if (this.#state === 'running') {
      this.#state = 'stopping'
      this.#deadlineMs = options.deadlineMs ?? STOP_DEADLINE_MS
      this.#end()
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

  /**
   * What the group has committed for these partitions (default: the assigned ones). Partitions without a
   * commit are left out.
   */
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
   * Commits everything handled so far; or a message, a batch, or offsets (each the next one to handle).
   * Throws `ILLEGAL_GENERATION` if a partition is not assigned to this consumer any more, `INVALID_ARGUMENT`
   * without a group, and what the engine refuses with.
   */
  async commit(
    what?: Message<unknown, unknown> | MessageBatch<unknown, unknown> | readonly CommitOffset[],
  ): Promise<void> {
    this.#groupOrThrow()
    if (what === undefined) return this.#committer.commitHandled()
    const offsets = offsetsOf(what)
    for (const commit of offsets) {
      const reader = this.#held(commit)
      reader.handled = Math.max(reader.handled, commit.offset)
    }
    await this.#committer.commit(offsets)
  }

  /**
   * @internal Hands offsets of partitions that it holds to `stage`, which makes them part of a transaction. Resolves with what is to be called
   * once that has committed. Throws as `commit`.
   */
  async stage(
    what: Message<unknown, unknown> | MessageBatch<unknown, unknown> | readonly CommitOffset[],
    stage: (group: string, offsets: readonly CommitOffset[], member: Member) => Promise<void>,
  ): Promise<() => void> {
    const group = this.#groupOrThrow()
    if (this.#committer.automatic) {
      throw invalidOption('a consumer whose commits are part of transactions needs autoCommit: false')
    }
    const offsets = offsetsOf(what)
    const readers = offsets.map(commit => this.#held(commit))
    // The partition may have been lost and be back: then somebody begins with the message again, perhaps this very consumer.
    if (!Array.isArray(what) && readers[0].source !== (what as AnyMessage | AnyBatch).source)
      throw notHeld(offsets[0])
    await stage(group, offsets, this.#member as Member)
    return () => {
      readers.forEach((reader, index) => {
        const { offset } = offsets[index]
        reader.handled = Math.max(reader.handled, offset)
        reader.committed = offset
      })
      this.emit('committed', offsets)
    }
  }

  /**
   * Stops handing out messages of these partitions (default: of all, those assigned later included). A
   * running handler finishes.
   */
  pause(partitions?: readonly TopicPartition[]): void {
    if (partitions === undefined) this.#pausedAll = true
    for (const reader of partitions?.map(of => this.#assigned(of)) ?? this.#readers) reader.pause()
  }

  /** Goes on with these partitions (default: with all). */
  resume(partitions?: readonly TopicPartition[]): void {
    if (partitions === undefined) this.#pausedAll = false
    for (const reader of partitions?.map(of => this.#assigned(of)) ?? this.#readers) {
      reader.paused = false
      this.#enqueue(reader)
    }
    this.#fetcher.wake()
    this.#pump()
  }

  /**
   * Goes on from another place: what was fetched is dropped, and a running handler's message no longer counts
   * as handled. The next commit is of the new place. For a partition that is not assigned, it holds from when
   * it will be.
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
    if (this.#state !== 'idle') return Promise.reject(this.#notIdle())
    this.#state = 'running'
    this.#deadlineMs = STOP_DEADLINE_MS
    this.#handler = handler
    this.#failure = null
    this.#ending = Promise.withResolvers()
    this.#session = this.#runSession()
    return this.#session
  }

  #notIdle(): SluiceError {
    return this.#state === 'closed'
      ? new SluiceError('CONSUMER_CLOSED', 'the consumer was stopped; make another')
      : invalidOption('the consumer is running already: one run, runBatch or loop at a time')
  }

  async #runSession(): Promise<void> {
    const { signal } = this.#options
    const onAbort = (): void => void this.stop()
    if (signal?.aborted) onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    if (!this.#isBackground) this.#keepAlive.hold()
    try {
      await this.#join()
      await Promise.all([this.#ending.promise, this.#fetcher.run()])
    } catch (error) {
      this.#failSetup(error)
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
    this.#end()
  }

  /**
   * The same for joining and assignment, where an error that would pass is not worth telling once the
   * consumer is stopped.
   */
  #failSetup(error: unknown): void {
    if (!this.#isOver || !isRetriable(error)) this.#fail(error)
  }

  /** Wakes all who wait, so that they see that the session is over. */
  #end(): void {
    this.#ending.resolve()
    this.#fetcher.wake()
    this.#wakeIterator?.()
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
    if (this.#options.group !== undefined && !this.#isOver) await this.#joinGroup(this.#options.group)
  }

  async #joinGroup(group: string): Promise<void> {
    const session = this.#ending
    const joining = this.#engine.join(
      {
        group,
        topics: [...this.#topics.keys()],
        assignors: this.#options.assignors ?? ['cooperative-sticky', 'range'],
        sessionTimeoutMs: this.#sessionTimeoutMs,
        rebalanceTimeoutMs: this.#rebalanceTimeoutMs,
        clientId: this.#clientId,
        instanceId: this.#options.instanceId,
      },
      {
        assigned: partitions => this.#onAssigned(partitions, session),
        revoked: partitions => this.#onRevoked(partitions, session),
        lost: partitions => this.#onLost(partitions, session),
        failed: error => {
          if (this.#ending === session) this.#fail(error)
        },
      },
    )
    // joining waits for the slowest member of the group; stopping does not wait for that
    const member = await Promise.race([joining, session.promise])
    if (member === undefined) {
      joining.then(late => late.leave()).catch(error => this.warn(error))
      return
    }
    this.#member = member
    this.#committer.join(member)
  }

  async #windDown(): Promise<void> {
    this.#fetcher.wake()
    try {
      await this.#hooks?.giveUp(this.#readers, this.#deadlineMs)
      await this.#handlersDone(this.#readers, this.#deadlineMs)
      if (this.#committer.automatic) await this.#committer.commitQuietly()
    } finally {
      await this.#leave()
    }
  }

  /** Whatever went wrong before: a member that stays would keep its partitions from everybody. */
  async #leave(): Promise<void> {
    try {
      await this.#member?.leave()
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
    const atWork = readers.filter(({ busy, abandoned }) => busy && !abandoned)
    if (atWork.length === 0) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = this.#clock.after(deadlineMs, resolve)
    await Promise.race([promise, Promise.all(atWork.map(reader => reader.whenIdle()))])
    timer.cancel()
    for (const reader of atWork) {
      if (!reader.busy) continue
      const { topic, partition, handled: offset } = reader
      const what =
        this.#handler.kind === 'iterator'
          ? 'the loop did not come back (inside it, use break instead of awaiting stop)'
          : 'the handler did not finish'
      this.warn(
        new SluiceError(
          'TIMED_OUT',
          `${topic}/${partition}: ${what} within ${deadlineMs} ms; its message will be handed out again`,
          { topic, partition, offset },
        ),
      )
      reader.abandon()
    }
  }

  // Assignment.

  // `session` tells a late event of an earlier membership from one of this.

  async #onAssigned(partitions: readonly TopicPartition[], session: object): Promise<void> {
    try {
      const group = this.#groupOrThrow()
      const commits = await this.#retried(() => this.#engine.committed(group, partitions))
      const readers = await Promise.all(
        partitions.map(of => this.#readerFor(of, commits.find(commit => isSame(commit, of))?.offset)),
      )
      if (this.#ending !== session || this.#isOver) return
      for (const reader of readers) {
        const committed = commits.find(commit => isSame(commit, reader))
        this.#hooks?.taken(reader, reader.position, committed)
      }
      this.#add(readers)
    } catch (error) {
      if (this.#ending === session) this.#failSetup(error)
    }
  }

  async #onRevoked(partitions: readonly TopicPartition[], session: object): Promise<void> {
    if (this.#ending !== session) return
    const readers = this.#halt(partitions)
    await this.#hooks?.giveUp(readers, this.#rebalanceTimeoutMs)
    await this.#handlersDone(readers, this.#rebalanceTimeoutMs)
    if (this.#committer.automatic) await this.#committer.commitQuietly(readers)
    this.#remove(readers)
    this.#tell('revoked', partitions)
  }

  #onLost(partitions: readonly TopicPartition[], session: object): void {
    if (this.#ending !== session) return
    this.#hooks?.lost(partitions)
    this.#remove(this.#halt(partitions))
    this.#tell('lost', partitions)
  }

  /** A listener that throws ends the session, not the engine's membership loop that called us. */
  #tell(event: 'revoked' | 'lost', partitions: readonly TopicPartition[]): void {
    try {
      this.emit(event, partitions)
    } catch (error) {
      this.#fail(error)
    }
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
    }
    this.#add(await Promise.all(partitions.map(of => this.#readerFor(of, undefined))))
  }

  /** A reader that stands where this consumer is to begin. */
  async #readerFor(of: TopicPartition, committed: number | undefined): Promise<PartitionReader> {
    const key = `${of.topic}/${of.partition}`
    const position = await this.#resolve(of, this.#seeks.get(key) ?? committed ?? this.#from)
    this.#seeks.delete(key)
    const topic = this.#topics.get(of.topic) ?? topicOf(of.topic)
    return new PartitionReader(topic, of.partition, position, committed ?? -1)
  }

  /**
   * From here on they are read. A listener of 'assigned' comes before the first message, so that it can seek
   * or pause.
   */
  #add(readers: readonly PartitionReader[]): void {
    if (this.#isOver) return
    this.#remove(this.#halt(readers))
    for (const reader of readers) reader.paused = this.#pausedAll
    this.#readers.push(...readers)
    this.emit(
      'assigned',
      readers.map(({ topic, partition }) => ({ topic, partition })),
    )
    // where they begin is worth a commit: 'latest' must not move on while nobody is reading
    this.#committer.touch()
    this.#fetcher.wake()
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
    return this.#readers.find(reader => isSame(reader, of))
  }

  /** The reader of what is to be committed. */
  #held(commit: CommitOffset): PartitionReader {
    const reader = this.#find(commit)
    if (reader !== undefined) return reader
    throw notHeld(commit)
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
    this.#fetcher.wake()
  }

  // Handing out.

  #enqueue(reader: PartitionReader): void {
    if (reader.queued || !reader.ready) return
    reader.queued = true
    this.#queue.push(reader)
  }

  /** The partition whose turn it is, or null if none has messages. */
  #nextReady(): PartitionReader | null {
    for (let reader = this.#queue.shift(); reader !== undefined; reader = this.#queue.shift()) {
      reader.queued = false
      if (!reader.ready) continue
      if (reader.hasMessages) return reader
      this.#meetError(reader)
    }
    return null
  }

  /** Everything before the error has been handed out. */
  #meetError(reader: PartitionReader): void {
    const error = reader.error as SluiceError
    if (error.code !== 'OFFSET_OUT_OF_RANGE' || this.#onOutOfRange === 'error') {
      this.#fail(error)
      return
    }
    reader.begin()
    this.#reset(reader, this.#onOutOfRange)
      .catch(failure => this.#fail(failure))
      .finally(() => {
        reader.end()
        this.#enqueue(reader)
        this.#fetcher.feed(reader)
        this.#pump()
      })
  }

  async #reset(reader: PartitionReader, end: 'earliest' | 'latest'): Promise<void> {
    const { topic, partition, epoch, position: offset } = reader
    const resetTo = await this.#resolve(reader, end)
    if (reader.epoch !== epoch || reader.halted) return
    this.#seek(reader, resetTo)
    this.emit('outOfRange', { topic, partition, offset, resetTo })
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
    this.#fetcher.feed(reader)
    this.#pump()
  }

  async #workOnBatch(reader: PartitionReader, handle: (batch: AnyBatch) => unknown): Promise<void> {
    const { epoch } = reader
    const batch = reader.takeBatch()
    this.#fetcher.feed(reader)
    await handle(batch)
    if (reader.epoch !== epoch) return
    reader.handled = batch.lastOffset + 1
    this.#committer.touch()
  }

  async #workOnMessages(reader: PartitionReader, handle: (message: AnyMessage) => unknown): Promise<void> {
    const { epoch } = reader
    let message = reader.takeMessage()
    this.#fetcher.feed(reader)
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
      } catch (error) {
        this.#fail(error)
        return null
      }
      if (message !== null) {
        reader.begin()
        this.#inLoop = { reader, epoch: reader.epoch, offset: message.offset }
        this.#fetcher.feed(reader)
        return message
      }
      this.#enqueue(reader)
      this.#fetcher.feed(reader)
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
      })
      this.#wakeIterator = null
    }
  }

  // Trouble.

  /** Repeats what may pass until it does, or the session ends. */
  async #retried<R>(call: () => Promise<R>): Promise<R> {
    const startedAt = this.#clock.monotonic()
    for (let failures = 0; ; failures++) {
      try {
        return await call()
      } catch (error) {
        if (!isRetriable(error) || this.#isOver) throw error
        if (isWorthTelling(error, this.#clock.monotonic() - startedAt)) this.warn(error)
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

  /** @internal For those that handle its messages by themselves, too. */
  warn(error: SluiceError): void {
    emitError(this, error)
  }
}

const notHeld = (commit: CommitOffset): SluiceError =>
  new SluiceError(
    'ILLEGAL_GENERATION',
    `${commit.topic}/${commit.partition} is not assigned to this consumer any more; whoever has it now will handle the message again`,
    { ...commit },
  )

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
