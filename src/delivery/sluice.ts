/**
 * `Sluice`: what `open()` gives. It ties producers, consumers and administration to one engine, and closes
 * them in the right order: consumers first, so that what they have handled is committed; then producers, so
 * that everything accepted is answered; then the engine.
 */

import type {
  CommitOffset,
  CommittedOffset,
  Engine,
  GroupDescription,
  GroupSummary,
  OffsetSpec,
  TopicDescription,
  TopicPartition,
} from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { type AlertOptions, Alerts } from './alerts.ts'
import { Backlog } from './backlog.ts'
import { Consumer } from './consumer.ts'
import type { ConsumerOptions } from './consumer-options.ts'
import {
  DeadLetters,
  type DeadLettersSetting,
  type DeadLetterTable,
  deadLetterTables,
} from './dead-letters.ts'
import { type Deduplicated, type DeduplicateOptions, deduplicated } from './dedup.ts'
import { DelayTopics } from './delay-topics.ts'
import { Delayed, type DelayedSetting } from './delayed.ts'
import { lagBehind } from './group-ledger.ts'
import { HalfMessages } from './half-messages.ts'
import type { IntakeSetting } from './intake.ts'
import { keptAlive } from './keep-alive.ts'
import { invalidOption } from './option.ts'
import type { OutgoingOf } from './outgoing.ts'
import { Producer } from './producer.ts'
import type { ProducerOptions } from './producer-options.ts'
import type { Published, PublishedBatch } from './published.ts'
import { Queue } from './queue.ts'
import type { QueueOptions } from './queue-options.ts'
import { Relay } from './relay.ts'
import { Schedules } from './schedules.ts'
import { SYSTEM_TOPIC_PREFIX } from './system-headers.ts'
import {
  type AnyTopic,
  configStrings,
  type TopicConfig,
  type TopicOptions,
  topicName,
  topicOf,
} from './topic.ts'
import { type Transaction, type TransactionOptions, Transactions } from './transaction.ts'
import { Transform, type TransformHandler, type TransformOptions } from './transform.ts'
import { Worker, type WorkerHandler } from './worker.ts'
import type { WorkerOptions } from './worker-options.ts'

/** How a `Sluice` behaves beyond its engine. */
export interface SluiceOptions {
  /**
   * Whether a topic that is published or subscribed to and does not exist is made, as its descriptor says.
   * Default true.
   */
  readonly autoCreateTopics?: boolean
  /** Names this program in group descriptions and logs. Default 'sluice'. */
  readonly clientId?: string
  /**
   * Whether a relay runs here by itself, which is what makes delayed messages, schedules and half messages come out. Default true for a queue in this
   * process: it starts when there is something to do. Default false for a cluster, where `sluice relay` or `relay: true` in one or more programs
   * does it.
   */
  readonly relay?: boolean
  /** Partitions of each topic in which delayed messages wait, if they are to be made. Default 4. */
  readonly delayPartitions?: number
  /** @internal For tests. */
  readonly clock?: Clock
}

/** A committed partition of a group. */
export interface GroupPartition extends CommittedOffset {
  /** Offset that the next message of the partition will have. */
  readonly endOffset: number
  /** Messages that are still to be handled: behind the commit, still there, and not finished by workers ahead of it. */
  readonly lag: number
  /** Who has the partition, or null. */
  readonly memberId: string | null
}

export interface GroupReport extends GroupDescription {
  readonly partitions: readonly GroupPartition[]
  /** The sum over all partitions. */
  readonly lag: number
}

export class Sluice {
  /** What this stands on, for what the methods here do not cover. */
  readonly engine: Engine
  readonly #options: SluiceOptions
  readonly #producers = new Set<Producer>()
  readonly #consumers = new Set<{ stop(): Promise<void> }>()
  readonly #alerts = new Set<Alerts>()
  readonly #queues = new Map<string, Queue>()
  #shared: Producer | null = null
  readonly #delayTopics: DelayTopics
  #half: HalfMessages | null = null
  #delayed: Delayed | null = null
  #relay: Relay | null = null
  #transactions: Transactions | null = null
  #closing: Promise<void> | null = null

  /** @internal Made by `open()`. */
  constructor(engine: Engine, options: SluiceOptions = {}) {
    this.engine = engine
    this.#options = options
    this.#delayTopics = new DelayTopics(engine, options.delayPartitions, () => this.relayIfNeeded())
  }

  /** The address it was opened with. */
  get url(): string {
    return this.engine.url
  }

  // Messages.

  /**
   * Publishes a message, or an array of them, through a producer that all callers share; see `Producer.send`
   * for what it resolves and rejects with. For settings of your own, or to publish without waiting, make a
   * `producer()`.
   */
  publish<T extends AnyTopic | string>(topic: T, messages: readonly OutgoingOf<T>[]): Promise<PublishedBatch>
  publish<T extends AnyTopic | string>(topic: T, message: OutgoingOf<T>): Promise<Published>
  publish(topic: AnyTopic | string, message: never): Promise<Published | PublishedBatch> {
    if (this.#closing !== null) return Promise.reject(this.#closedError())
    this.#shared ??= this.producer()
    return this.#shared.send(topic, message)
  }

  /**
   * A topic to publish to without duplicates: of messages with the same id (and key) the first within `window` is published, the others are dropped.
   *
   *     const orders = mq.deduplicate('orders', { window: '10m' })
   *     await orders.publish({ id: request.id, key: order.id, value: order })
   *
   * Such messages go through the relay, which needs transactions. Throws `INVALID_ARGUMENT`, `CLOSED`.
   */
  deduplicate<const T extends AnyTopic | string>(
    topic: T,
    options: DeduplicateOptions = {},
  ): Deduplicated<T> {
    this.#checkOpen()
    const clock = this.#options.clock ?? systemClock
    return deduplicated(topic, options, {
      engine: this.engine,
      now: () => clock.now(),
      publish: async (target, messages) => {
        await this.publish<AnyTopic>(target, messages)
        this.relayIfNeeded()
      },
    })
  }

  /** A producer with its own buffer and settings. Throws `INVALID_ARGUMENT`, `UNSUPPORTED`, `CLOSED`. */
  producer(options: ProducerOptions = {}): Producer {
    if (this.#closing !== null) throw this.#closedError()
    const producer = new Producer(options, {
      engine: this.engine,
      clock: this.#options.clock,
      autoCreateTopics: this.#options.autoCreateTopics ?? true,
      delays: this.#delayTopics,
      onClosed: closed => this.#producers.delete(closed as Producer),
    })
    this.#producers.add(producer)
    return producer
  }

  /** A consumer; it begins with `run`, `runBatch` or `for await`. Throws `INVALID_ARGUMENT`, `CLOSED`. */
  consumer<const T extends AnyTopic | string>(options: ConsumerOptions<T>): Consumer<T> {
    if (this.#closing !== null) throw this.#closedError()
    const consumer = new Consumer<T>(options, {
      engine: this.engine,
      clock: this.#options.clock,
      clientId: this.#options.clientId,
      autoCreateTopics: this.#options.autoCreateTopics ?? true,
      onClosed: closed => this.#consumers.delete(closed),
    })
    this.#consumers.add(consumer)
    return consumer
  }

  // Transactions.

  /**
   * Runs `body` in a transaction: what it publishes and commits through its argument happens as a whole when its promise has resolved,
   * and not at all if it rejects. Resolves with what `body` resolves with.
   *
   *     await mq.transaction(async tx => {
   *       tx.publish('orders', order)
   *       tx.publish('invoices', invoice)
   *     })
   *
   * Rejects with what `body` throws; with what a message in it was refused with; `PRODUCER_FENCED` (it took longer than
   * `timeoutMs`, or another took over its name); `UNSUPPORTED`, `CLOSED`. Then nothing of it has happened, unless the error's
   * detail says `outcome: 'unknown'`.
   */
  transaction<R>(
    body: (transaction: Transaction) => Promise<R> | R,
    options: TransactionOptions = {},
  ): Promise<R> {
    if (this.#closing !== null) return Promise.reject(this.#closedError())
    return keptAlive(this.#allTransactions().run(body, options))
  }

  /**
   * Consumes, transforms and produces, exactly once: for each batch that is read, what the handler publishes through `transaction` and the commit
   * of the batch are one transaction. The handler may be called again for messages whose transaction did not come about. Goes on until
   * it is stopped, or the handler throws (see `Transform.done`). Throws `INVALID_ARGUMENT`, `CLOSED`.
   */
  transform<const T extends AnyTopic | string>(
    options: TransformOptions<T>,
    handler: TransformHandler<T>,
  ): Transform<T> {
    const { transaction = {}, ...consumerOptions } = options
    const consumer = this.consumer<T>({ ...consumerOptions, autoCommit: false })
    const transact = <R>(body: (transaction: Transaction) => Promise<R>) =>
      this.#allTransactions().run(body, transaction)
    return new Transform<T>(consumer, transact, this.#options.clock ?? systemClock, handler)
  }

  // Time.

  /** Messages that wait for their time: list, get, cancel, reschedule. Publishing them: `delay`, `deliverAt`, `delayLevel`. Throws `CLOSED`. */
  get delayed(): Delayed {
    this.#checkOpen()
    this.#delayed ??= new Delayed(this.#delaySetting())
    return this.#delayed
  }

  /** Recurring messages, by cron expression. Throws `CLOSED`. */
  get schedules(): Schedules {
    this.#checkOpen()
    return new Schedules(this.#delaySetting())
  }

  /**
   * Runs the relay in this process, and resolves when it is at work. A queue in this process has one by itself (see `relay` of `open`). It stops when
   * this is closed. Throws `UNSUPPORTED`, `CLOSED`.
   */
  async relay(): Promise<Relay> {
    this.#checkOpen()
    const relay = this.#theRelay()
    await relay.start()
    return relay
  }

  /** Messages that the relay in this process has dropped because their id was known; see `deduplicate`. */
  get duplicatesDropped(): number {
    return this.#relay?.duplicatesDropped ?? 0
  }

  /** @internal Runs the relay if it is to run here by itself, and there is something for it to do. */
  relayIfNeeded(): void {
    if (this.#options.relay === false || this.#closing !== null) return
    if (this.#options.relay === undefined && this.engine.supports.losesAnswers) return
    void this.#theRelay().startNeeded()
  }

  // Workers and queues.

  /**
   * Handles the messages of a topic, or of several, side by side, each done on its own; begins at once, and goes on until it is stopped.
   *
   *     const worker = mq.worker('orders', { group: 'billing', concurrency: 100 }, async (message, job) => {
   *       await bill(message.json(), { signal: job.signal })
   *     })
   *
   * What a handler throws is retried, and then a dead letter; see `WorkerOptions`. Throws `INVALID_ARGUMENT`, `CLOSED`.
   */
  worker<const T extends AnyTopic | string>(
    topics: T | readonly T[],
    options: WorkerOptions,
    handler: WorkerHandler<T>,
  ): Worker<T> {
    this.#checkOpen()
    const worker = new Worker<T>(topics, options, handler, {
      ...this.#intakeSetting(),
      onClosed: closed => this.#consumers.delete(closed),
    })
    this.#consumers.add(worker)
    return worker
  }

  /**
   * Registers a named queue, point to point: `send` to it, and `process` or `receive` from it.
   *
   *     const emails = mq.queue('emails', { lengthMax: 100_000 })
   *     emails.process({ concurrency: 50 }, async message => deliver(message.json()))
   *     await emails.send({ to: 'ann@example.org' }, { expiresIn: '1h' })
   *
   * Without options it gives the queue that is registered under the name, if there is one. Throws `QUEUE_EXISTS` if there is one and options are
   * given; `INVALID_ARGUMENT`, `CLOSED`.
   */
  queue<const T extends AnyTopic | string>(queue: T, options?: QueueOptions): Queue<T> {
    this.#checkOpen()
    const name = topicName(queue)
    const known = this.#queues.get(name)
    if (known !== undefined && options === undefined) return known as unknown as Queue<T>
    if (known !== undefined) {
      const message = `queue ${name} is registered already; stop it first, or use mq.queue('${name}') without options`
      throw new SluiceError('QUEUE_EXISTS', message, { queue: name })
    }
    const made = new Queue<T>(queue, options ?? {}, {
      ...this.#intakeSetting(),
      publish: (topic, message) => this.publish<AnyTopic>(topic, message),
      onClosed: closed => {
        this.#consumers.delete(closed)
        this.#queues.delete(name)
      },
    })
    this.#consumers.add(made)
    this.#queues.set(name, made as unknown as Queue)
    return made
  }

  /** Half messages: prepare, run the local transaction, then commit or roll back. Each of its calls throws `CLOSED` once this is closed. */
  get half(): HalfMessages {
    this.#half ??= new HalfMessages({
      engine: this.engine,
      clock: this.#options.clock ?? systemClock,
      publish: (topic, message) => this.publish(topic, message),
      consumer: options => this.consumer(options) as unknown as Consumer,
    })
    return this.#half
  }

  // Topics.

  /**
   * Creates a topic: from a descriptor, whose partitions and configuration `options` may override, or by
   * name. Throws `TOPIC_EXISTS`, `INVALID_TOPIC`, `INVALID_PARTITIONS`, `INVALID_CONFIG`.
   */
  async createTopic(topic: AnyTopic | string, options: TopicOptions = {}): Promise<TopicDescription> {
    this.#checkOpen()
    const { name, partitions, config } = topicOf(topic)
    return await this.engine.createTopic({
      name,
      partitions: options.partitions ?? partitions,
      config: options.config === undefined ? config : { ...config, ...configStrings(options.config) },
    })
  }

  /** Deletes a topic with everything in it. Throws `UNKNOWN_TOPIC`. */
  async deleteTopic(topic: AnyTopic | string): Promise<void> {
    this.#checkOpen()
    await this.engine.deleteTopic(topicName(topic))
  }

  /** The names of all topics, without internal ones; with `system`, those too in which sluice keeps delayed and half messages. */
  async topics(options: { readonly system?: boolean } = {}): Promise<string[]> {
    this.#checkOpen()
    const names = await this.engine.listTopics()
    return options.system === true ? names : names.filter(name => !name.startsWith(SYSTEM_TOPIC_PREFIX))
  }

  /** Partitions with their offsets and sizes, and the configuration. Throws `UNKNOWN_TOPIC`. */
  async describeTopic(topic: AnyTopic | string): Promise<TopicDescription> {
    this.#checkOpen()
    return await this.engine.describeTopic(topicName(topic))
  }

  /**
   * Sets configuration keys, or takes them back to the default with null. Throws `UNKNOWN_TOPIC`,
   * `INVALID_CONFIG`.
   */
  async alterTopic(
    topic: AnyTopic | string,
    config: Readonly<Record<string, TopicConfig[string] | null>>,
  ): Promise<void> {
    this.#checkOpen()
    const strings = Object.entries(config).map(([key, value]) => [key, value === null ? null : String(value)])
    await this.engine.alterTopic(topicName(topic), Object.fromEntries(strings))
    await this.#refresh(topicName(topic))
  }

  /**
   * Raises the number of partitions to `partitions`. Keys may map to other partitions from then on, so the
   * order per key holds before and after, not across. Throws `UNKNOWN_TOPIC`, `INVALID_PARTITIONS`.
   */
  async addPartitions(topic: AnyTopic | string, partitions: number): Promise<void> {
    this.#checkOpen()
    await this.engine.addPartitions(topicName(topic), partitions)
    await this.#refresh(topicName(topic))
  }

  /**
   * Deletes the records before an offset, or all there are now ('latest'). Resolves with the new start.
   * Throws `OFFSET_OUT_OF_RANGE`, `UNKNOWN_TOPIC`.
   */
  async deleteRecords(
    topic: AnyTopic | string,
    partition: number,
    before: number | 'latest',
  ): Promise<number> {
    this.#checkOpen()
    return await this.engine.deleteRecords(topicName(topic), partition, before === 'latest' ? -1 : before)
  }

  /**
   * The offset of a place in a partition: an end, or the first message from a time on. Throws
   * `UNKNOWN_TOPIC`.
   */
  async offsetFor(topic: AnyTopic | string, partition: number, at: OffsetSpec): Promise<number> {
    this.#checkOpen()
    return await this.engine.offsetFor(topicName(topic), partition, at)
  }

  // Dead letters.

  /** The dead letters of a group and topic: list, show, edit, replay, discard. Throws `INVALID_ARGUMENT`, `CLOSED`. */
  deadLetters(topic: AnyTopic | string, group: string): DeadLetters {
    this.#checkOpen()
    return new DeadLetters(topicName(topic), group, this.#deadLettersSetting())
  }

  /** The groups and topics that have dead letters, and how many. */
  async deadLetterTables(): Promise<DeadLetterTable[]> {
    this.#checkOpen()
    return await deadLetterTables(this.#deadLettersSetting())
  }

  /**
   * Looks at groups and dead letters every so often, and tells `alert` listeners and webhooks of new dead letters, of groups that are too far
   * behind, and of groups that are stuck. Throws `INVALID_ARGUMENT`, `CLOSED`.
   */
  alerts(options: AlertOptions = {}): Alerts {
    this.#checkOpen()
    const alerts = new Alerts(options, {
      engine: this.engine,
      clock: this.#options.clock ?? systemClock,
      onStopped: stopped => this.#alerts.delete(stopped),
    })
    this.#alerts.add(alerts)
    return alerts
  }

  // Groups.

  /** All consumer groups. */
  async groups(): Promise<GroupSummary[]> {
    this.#checkOpen()
    return await this.engine.listGroups()
  }

  /**
   * State, members, and for each committed partition of a topic that exists the commit and the lag. Throws
   * `UNKNOWN_GROUP`.
   */
  async describeGroup(group: string): Promise<GroupReport> {
    this.#checkOpen()
    const [description, commits] = await Promise.all([
      this.engine.describeGroup(group),
      this.engine.committed(group),
    ])
    const described = await Promise.all(commits.map(commit => this.#groupPartition(commit, description)))
    const partitions = described.filter(partition => partition !== null)
    return { ...description, partitions, lag: partitions.reduce((sum, { lag }) => sum + lag, 0) }
  }

  /** Sets where a group goes on. It must have no members. Throws `UNKNOWN_MEMBER` if it has some. */
  async commitOffsets(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    this.#checkOpen()
    await this.engine.commit(group, offsets)
  }

  /**
   * Sends a group to another place, in all partitions of `topics` (default: those that it has commits for).
   * It must have no members. Resolves with the offsets that were committed. Throws `UNKNOWN_MEMBER` if it has
   * members, `UNKNOWN_GROUP` if there is no such group and no topics are given.
   */
  async resetGroup(
    group: string,
    options: { readonly to: OffsetSpec; readonly topics?: readonly (AnyTopic | string)[] },
  ): Promise<CommitOffset[]> {
    this.#checkOpen()
    const partitions = await this.#partitionsToReset(group, options.topics)
    const offsets = await Promise.all(
      partitions.map(async ({ topic, partition }) => ({
        topic,
        partition,
        offset: await this.#within(topic, partition, options.to),
      })),
    )
    if (offsets.length > 0) await this.engine.commit(group, offsets)
    return offsets
  }

  /** Forgets a group and its commits. Throws `GROUP_NOT_EMPTY`, `UNKNOWN_GROUP`. */
  async deleteGroup(group: string): Promise<void> {
    this.#checkOpen()
    await this.engine.deleteGroup(group)
  }

  /** Tools for what a stopped group has not handled of a topic: count it, divert it to another topic, skip, shed by age. Throws `INVALID_ARGUMENT`, `CLOSED`. */
  backlog(group: string, topic: AnyTopic | string): Backlog {
    this.#checkOpen()
    const clock = this.#options.clock ?? systemClock
    return new Backlog(group, topic, {
      engine: this.engine,
      clock,
      transact: (body, options) => this.transaction(body, options),
    })
  }

  // The end.

  /**
   * Stops all consumers (their running handlers finish and what they handled is committed), flushes and
   * closes all producers, and closes the engine. Each of the first two takes `deadlineMs` (default 30,000) at
   * most. From here on every call is refused with `CLOSED`. Closing again waits for the same.
   */
  close(options: { readonly deadlineMs?: number } = {}): Promise<void> {
    this.#closing ??= keptAlive(this.#close(options))
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(options: { readonly deadlineMs?: number }): Promise<void> {
    // a webhook that does not answer holds up neither consumers nor producers
    const alerting = Promise.all([...this.#alerts].map(alerts => alerts.stop()))
    try {
      await this.#relay?.stop()
      await Promise.all([...this.#consumers].map(consumer => (consumer as Consumer).stop(options)))
      await this.#transactions?.close()
      await Promise.all([...this.#producers].map(producer => producer.close(options)))
      await alerting
    } finally {
      await this.engine.close()
    }
  }

  #intakeSetting(): IntakeSetting {
    const { clock, clientId, autoCreateTopics = true } = this.#options
    const transact: IntakeSetting['transact'] = (body, options) => this.#allTransactions().run(body, options)
    return { engine: this.engine, clock, clientId, autoCreateTopics, transact }
  }

  #theRelay(): Relay {
    const { clock = systemClock, clientId = 'sluice' } = this.#options
    this.#relay ??= new Relay({ engine: this.engine, clock, clientId, delayTopics: this.#delayTopics })
    return this.#relay
  }

  #delaySetting(): DelayedSetting {
    return {
      engine: this.engine,
      clock: this.#options.clock ?? systemClock,
      topics: this.#delayTopics,
      transact: body => this.transaction(body),
    }
  }

  #allTransactions(): Transactions {
    const { clock = systemClock, clientId = 'sluice', autoCreateTopics = true } = this.#options
    this.#transactions ??= new Transactions(this.engine, clock, clientId, autoCreateTopics, this.#delayTopics)
    return this.#transactions
  }

  #deadLettersSetting(): DeadLettersSetting {
    return {
      engine: this.engine,
      clock: this.#options.clock ?? systemClock,
      transact: (body, options) => this.transaction(body, options),
    }
  }

  #checkOpen(): void {
    if (this.#closing !== null) throw this.#closedError()
  }

  #closedError(): SluiceError {
    return new SluiceError('CLOSED', `${this.url} was closed; open it again`)
  }

  async #refresh(topic: string): Promise<void> {
    await this.#transactions?.refresh(topic)
    await Promise.all([...this.#producers].map(producer => producer.refresh(topic)))
  }

  /** Null if the topic does not exist any more. */
  async #groupPartition(
    commit: CommittedOffset,
    description: GroupDescription,
  ): Promise<GroupPartition | null> {
    const { topic, partition } = commit
    const holder = description.members.find(member =>
      member.assignment.some(held => held.topic === topic && held.partition === partition),
    )
    try {
      const [startOffset, endOffset] = await Promise.all([
        this.engine.offsetFor(topic, partition, 'earliest'),
        this.engine.offsetFor(topic, partition, 'latest'),
      ])
      const lag = lagBehind(commit, startOffset, endOffset)
      return { ...commit, endOffset, lag, memberId: holder?.memberId ?? null }
    } catch (error) {
      if (isSluiceError(error, 'UNKNOWN_TOPIC')) return null
      throw error
    }
  }

  async #partitionsToReset(
    group: string,
    topics: readonly (AnyTopic | string)[] | undefined,
  ): Promise<TopicPartition[]> {
    if (topics === undefined) {
      await this.engine.describeGroup(group) // it must exist
      return await this.engine.committed(group)
    }
    const described = await Promise.all(topics.map(topic => this.engine.describeTopic(topicName(topic))))
    return described.flatMap(({ name, partitions }) =>
      partitions.map(({ partition }) => ({ topic: name, partition })),
    )
  }

  /** The place as an offset that the partition has. */
  async #within(topic: string, partition: number, at: OffsetSpec): Promise<number> {
    if (typeof at !== 'number') return await this.engine.offsetFor(topic, partition, at)
    if (!(Number.isSafeInteger(at) && at >= 0))
      throw invalidOption(`an offset is a whole number from 0 on, not ${at}`)
    const start = await this.engine.offsetFor(topic, partition, 'earliest')
    const end = await this.engine.offsetFor(topic, partition, 'latest')
    return Math.min(end, Math.max(start, at))
  }
}
