/**
 * The broker: topics, partitions, groups and committed offsets of one data directory, or of memory. No sockets and no
 * wire formats: servers and the local engine stand on this facade.
 *
 * `memory` and `file` are the same broker on two disks.
 */

import { randomUUID } from 'node:crypto'
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks'
import { type ErrorCode, SluiceError } from '../errors.ts'
import { type Clock, systemClock, type Timer } from '../lib/clock.ts'
import type { Disk } from '../lib/disk.ts'
import { OpenFiles } from '../log/open-files.ts'
import type { RecoveryReport } from '../log/recovery.ts'
import { committedOnly } from '../record/committed.ts'
import { Catalog, type ConfigChange, internalConfig, type Topic, type TopicSpec } from './catalog.ts'
import { CLEANER_BACKOFF_MS, Cleaner, type CleanerStats } from './cleaner.ts'
import {
  type ConfigEntry,
  type ConfigValues,
  checkConfig,
  describeConfig,
  type TopicConfig,
} from './config.ts'
import type { TopicDirectory } from './consumer-group.ts'
import { DataDirectory } from './data-directory.ts'
import type { DescribedGroup, MemberIdentity } from './group.ts'
import { type GroupListing, Groups } from './groups.ts'
import { checkOffset, type OffsetCommit, OffsetStore, type StoredOffset } from './offsets.ts'
import { Partition } from './partition.ts'
import type { TransactionalProducer } from './transaction.ts'
import { ignoreRefusals, Transactions } from './transactions.ts'

export interface BrokerOptions {
  readonly disk: Disk
  /** The data directory on that disk. */
  readonly path: string
  readonly clock?: Clock
  /** Defaults for all topics, before the table's own. */
  readonly config?: ConfigValues
  /** Partitions of a topic that does not say how many. Default 1. */
  readonly defaultPartitions?: number
  /** `group.initial.rebalance.delay.ms`: how long the first member of a group waits for others. Default 0. */
  readonly initialRebalanceDelayMs?: number
  /** How long offsets are kept once their group has no members any more. Default seven days. */
  readonly offsetsRetentionMs?: number
  /** How long the cleaner rests when nothing is left to compact. Default 15 s. */
  readonly cleanerBackoffMs?: number
  /** Memory for the keys of one compaction, in bytes. Default 64 MiB. */
  readonly cleanerBufferBytes?: number
  /** Files kept open at most. Default 2,000. */
  readonly openFilesMax?: number
  /** Told what recovery found when logs were opened. */
  readonly onReport?: (report: RecoveryReport) => void
}

export interface FetchRequest {
  readonly topic: string
  readonly partition: number
  readonly offset: number
}

export interface FetchOptions {
  readonly partitionBytesMax: number
  /** Only what is decided, and without what was aborted. Default: everything below the high watermark. */
  readonly committedOnly?: boolean
  /** 0: answer at once. */
  readonly waitMs: number
  readonly signal?: AbortSignal
}

export interface FetchedPartition {
  readonly topic: string
  readonly partition: number
  /** Whole batches, the first may begin before the offset asked for. */
  readonly batches: Buffer
  readonly startOffset: number
  readonly endOffset: number
  readonly error?: SluiceError
}

export interface PartitionSnapshot {
  readonly topic: string
  readonly partition: number
  readonly startOffset: number
  readonly endOffset: number
  readonly bytes: number
  readonly segments: number
  readonly appendedRecords: number
  readonly appendedBytes: number
  readonly readBytes: number
}

/** What metrics are made of. Counters grow from the start of the process. */
export interface BrokerStats {
  readonly partitions: readonly PartitionSnapshot[]
  readonly groups: number
  readonly rebalances: number
  readonly openFiles: number
  readonly compaction: CleanerStats
  /** Duration of syncs, in microseconds. */
  readonly syncs: RecordableHistogram
}

const RETENTION_CHECK_MS = 5 * 60_000
const CHECKPOINT_MS = 60_000
const OFFSETS_CHECK_MS = 10 * 60_000
const OFFSETS_RETENTION_MS = 7 * 24 * 3_600_000
const NOTHING = Buffer.alloc(0)

export class Broker {
  readonly clock: Clock
  /** Identifies the data directory for ever. */
  readonly id: string
  /** What recovery found when this broker was opened. */
  readonly reports: RecoveryReport[] = []
  readonly #options: BrokerOptions
  readonly #directory: DataDirectory
  readonly #files: OpenFiles
  readonly #syncs = createHistogram()
  readonly #rebalanceListeners = new Map<string, Set<() => void>>()
  readonly #topicListeners = new Set<() => void>()
  /** How often topics or partitions have come or gone. */
  #topicChanges = 0
  readonly #timers: Timer[] = []
  /** Until the broker is open: what to close if it does not come to that. */
  #opened: Partition[] | null = []
  readonly #cleaner: Cleaner
  readonly groups: Groups
  #catalog!: Catalog
  #offsets!: OffsetStore
  #transactions!: Transactions
  #groupTimer: { readonly at: number; readonly timer: Timer } | null = null
  #closing: Promise<void> | null = null

  /** Opens the data directory; see `DataDirectory.open`, `Log.open` for what it rejects with. */
  static async open(options: BrokerOptions): Promise<Broker> {
    checkConfig(options.config ?? {})
    const clock = options.clock ?? systemClock
    const directory = await DataDirectory.open(options.disk, options.path, clock)
    const broker = new Broker(options, clock, directory)
    try {
      await broker.#start()
      return broker
    } catch (error) {
      await broker.#giveUp()
      throw error
    }
  }

  private constructor(options: BrokerOptions, clock: Clock, directory: DataDirectory) {
    this.#options = options
    this.clock = clock
    this.id = directory.id
    this.#directory = directory
    this.#files = new OpenFiles(options.disk, options.openFilesMax)
    this.#cleaner = new Cleaner({
      partitions: () => this.#allPartitions(),
      keyMapBytesMax: options.cleanerBufferBytes,
      onReport: report => this.#report(report),
    })
    this.groups = new Groups({
      newId: randomUUID,
      topics: this.#topicDirectory(),
      initialRebalanceDelayMs: options.initialRebalanceDelayMs,
      onEmpty: group => this.#offsets.vacated(group),
      onRebalance: group => {
        this.#offsets.occupied(group)
        for (const listener of [...(this.#rebalanceListeners.get(group) ?? [])]) listener()
      },
    })
  }

  async #start(): Promise<void> {
    const config = this.#options.config ?? {}
    this.#catalog = await Catalog.open({
      directory: this.#directory,
      clock: this.clock,
      brokerConfig: config,
      defaultPartitions: this.#options.defaultPartitions ?? 1,
      openPartition: (topic, partition, topicConfig) => this.#openPartition(topic, partition, topicConfig),
      onReport: report => this.#report(report),
    })
    this.#offsets = await OffsetStore.open(
      await this.#openPartition('__consumer_offsets', 0, internalConfig(config)),
      this.clock,
    )
    const transactionState = await this.#openPartition('__transaction_state', 0, internalConfig(config))
    await this.#directory.syncTopics()
    // The last thing that may fail: from here on transactions are being ended.
    this.#transactions = await Transactions.open({
      partition: transactionState,
      clock: this.clock,
      allocateProducerId: () => this.#catalog.allocateProducerId(),
      findPartition: (topic, index) => this.#catalog.get(topic)?.partitions[index],
      partitions: () => [...this.#catalog.topics].flatMap(topic => topic.partitions),
      commitOffsets: (group, commits) => {
        this.groups.ensure(group)
        return this.#offsets.commit(
          group,
          commits.filter(({ topic }) => !this.#isGone(topic)),
        )
      },
    })
    this.#opened = null
    // What was deleted when the process ended. On a full disk it is done at the next start.
    this.#forgetOffsets(topic => this.#isGone(topic)).catch(ignoreRefusals)
    for (const group of this.#offsets.groups()) this.groups.ensure(group)
    this.#repeat(RETENTION_CHECK_MS, () => this.enforceRetention())
    this.#repeat(CHECKPOINT_MS, () => this.#checkpoint())
    this.#repeat(this.#options.cleanerBackoffMs ?? CLEANER_BACKOFF_MS, () => this.compact())
    this.#repeat(OFFSETS_CHECK_MS, () => this.#expireOffsets())
    this.#repeat(OFFSETS_CHECK_MS, () => this.#transactions.expireIds())
  }

  /** The data directory, as it was given. */
  get path(): string {
    return this.#options.path
  }

  /** What holds for topics that do not say otherwise. */
  get defaults(): { readonly partitions: number; readonly config: ConfigValues } {
    return { partitions: this.#options.defaultPartitions ?? 1, config: this.#options.config ?? {} }
  }

  get offsetsRetentionMs(): number {
    return this.#options.offsetsRetentionMs ?? OFFSETS_RETENTION_MS
  }

  // topics

  get topics(): IterableIterator<Topic> {
    this.#assertOpen()
    return this.#catalog.topics
  }

  /** Undefined if there is none. */
  findTopic(name: string): Topic | undefined {
    return this.#catalog.get(name)
  }

  /** By its id; undefined if there is none. */
  findTopicById(id: string): Topic | undefined {
    return this.#catalog.getById(id)
  }

  /** Throws UNKNOWN_TOPIC. */
  topic(name: string): Topic {
    this.#assertOpen()
    return this.#catalog.topic(name)
  }

  /** Throws UNKNOWN_TOPIC. */
  partition(topic: string, partition: number): Partition {
    const found = this.topic(topic).partitions[partition]
    if (found === undefined) {
      throw new SluiceError('UNKNOWN_TOPIC', `topic "${topic}" has no partition ${partition}`, {
        topic,
        partition,
      })
    }
    return found
  }

  configOf(topic: Topic): ConfigEntry[] {
    return describeConfig(topic.config, this.defaults.config)
  }

  /** Throws what `createTopic` would reject with, as things are now. Returns the number of partitions it would make. */
  checkCreateTopic(spec: TopicSpec): number {
    this.#assertOpen()
    return this.#catalog.checkCreate(spec)
  }

  /** Throws TOPIC_EXISTS, INVALID_TOPIC, INVALID_PARTITIONS, INVALID_CONFIG. */
  async createTopic(spec: TopicSpec): Promise<Topic> {
    this.#assertOpen()
    const topic = await this.#catalog.create(spec)
    this.#topicsChanged()
    return topic
  }

  /** Removes the topic, its records and the offsets that groups committed in it. */
  async deleteTopic(name: string): Promise<void> {
    this.#assertOpen()
    const before = this.#catalog.get(name)
    try {
      await this.#catalog.delete(name, () => this.#forgetOffsets(topic => topic === name))
    } finally {
      // Also if what is left of it could not be removed.
      if (before !== undefined && this.#catalog.getById(before.id) === undefined) this.#topicsChanged()
    }
  }

  #isGone(topic: string): boolean {
    return this.#catalog.get(topic) === undefined
  }

  async #forgetOffsets(isGone: (topic: string) => boolean): Promise<void> {
    await Promise.all([this.#offsets.removeTopics(isGone), this.#transactions.forgetOffsets(isGone)])
  }

  /** Throws what `alterTopic` would reject with, as things are now. */
  checkAlterTopic(name: string, changes: ConfigChange): void {
    this.#assertOpen()
    this.#catalog.checkAlter(name, changes)
  }

  alterTopic(name: string, changes: ConfigChange): Promise<Topic> {
    this.#assertOpen()
    return this.#catalog.alter(name, changes)
  }

  /** Throws what `addPartitions` would reject with, as things are now. */
  checkAddPartitions(name: string, partitions: number): void {
    this.#assertOpen()
    this.#catalog.checkAddPartitions(name, partitions)
  }

  async addPartitions(name: string, partitions: number): Promise<Topic> {
    this.#assertOpen()
    const topic = await this.#catalog.addPartitions(name, partitions)
    this.#topicsChanged()
    return topic
  }

  /** Calls `listener` when topics or partitions come or go. Returns what takes that back. */
  onTopicsChanged(listener: () => void): () => void {
    this.#topicListeners.add(listener)
    return () => this.#topicListeners.delete(listener)
  }

  allocateProducerId(): Promise<number> {
    this.#assertOpen()
    return this.#catalog.allocateProducerId()
  }

  // reading

  /**
   * Reads several partitions. If none has anything it waits, at most `waitMs`, until one has: woken by the high watermark, never
   * by looking again and again. Errors belong to their partition.
   */
  async fetch(requests: readonly FetchRequest[], options: FetchOptions): Promise<FetchedPartition[]> {
    this.#assertOpen()
    const deadline = this.clock.monotonic() + options.waitMs
    for (;;) {
      const results: FetchedPartition[] = []
      for (const request of requests) {
        const result = this.#fetchOne(request, options.partitionBytesMax, options.committedOnly === true)
        results.push(result instanceof Promise ? await result : result)
      }
      const left = deadline - this.clock.monotonic()
      if (left <= 0 || options.signal?.aborted === true || this.#closing !== null) return results
      if (results.some(result => result.batches.length > 0 || result.error !== undefined)) return results
      await this.#wait(requests, left, options)
    }
  }

  #fetchOne(
    request: FetchRequest,
    bytesMax: number,
    isCommitted: boolean,
  ): FetchedPartition | Promise<FetchedPartition> {
    try {
      const partition = this.partition(request.topic, request.partition)
      const limit = isCommitted ? partition.lastStableOffset : undefined
      const batches = partition.read(request.offset, bytesMax, limit)
      const result = (read: Buffer): FetchedPartition =>
        fetched(request, partition, isCommitted ? withoutAborted(partition, request.offset, read) : read)
      if (!(batches instanceof Promise)) return result(batches)
      return batches.then(result).catch(error => this.#fetchError(request, error))
    } catch (error) {
      return this.#fetchError(request, error)
    }
  }

  #fetchError(request: FetchRequest, error: unknown): FetchedPartition {
    if (!(error instanceof SluiceError)) throw error
    const partition = this.#catalog.get(request.topic)?.partitions[request.partition]
    const { topic, partition: index } = request
    const startOffset = partition?.startOffset ?? -1
    return {
      topic,
      partition: index,
      batches: NOTHING,
      startOffset,
      endOffset: partition?.highWatermark ?? -1,
      error,
    }
  }

  #wait(
    requests: readonly FetchRequest[],
    ms: number,
    { signal, committedOnly }: FetchOptions,
  ): Promise<void> {
    const endOf = (partition: Partition): number =>
      committedOnly ? partition.lastStableOffset : partition.highWatermark
    return new Promise(resolve => {
      const undo: (() => void)[] = []
      const wake = (): void => {
        for (const action of undo) action()
        resolve()
      }
      for (const { topic, partition, offset } of requests) {
        const found = this.#catalog.get(topic)?.partitions[partition]
        // Something may have come while other partitions were being read.
        if (found === undefined || endOf(found) > offset) return wake()
        undo.push(found.wait(wake))
      }
      const timer = this.clock.after(ms, wake)
      undo.push(() => timer.cancel())
      signal?.addEventListener('abort', wake, { once: true })
      undo.push(() => signal?.removeEventListener('abort', wake))
    })
  }

  // groups

  /**
   * Commits offsets: of a member, or (null) of a tool for a group without members. Throws what `Groups.checkCommit`
   * refuses, UNKNOWN_TOPIC, INVALID_ARGUMENT (a negative offset), OFFSET_METADATA_TOO_LARGE.
   */
  commit(group: string, identity: MemberIdentity | null, commits: readonly OffsetCommit[]): Promise<void> {
    this.#assertOpen()
    for (const { topic, partition, offset } of commits) {
      this.partition(topic, partition)
      if (offset >= 0) continue
      const message = `${offset} is not an offset that ${topic}/${partition} can have`
      throw new SluiceError('INVALID_ARGUMENT', message, { topic, partition, offset })
    }
    this.#checkCommit(group, identity)
    return this.#offsets.commit(group, commits)
  }

  /**
   * As `commit`, but what is wrong with one offset does not keep the others from being stored: one result for each, in
   * order; and negative offsets are taken, see `checkOffset`. Rejects with what is refused to the group as a whole.
   * `knowsEpochs`: see `Groups.checkCommit`.
   */
  async commitEach(
    group: string,
    identity: MemberIdentity | null,
    commits: readonly OffsetCommit[],
    knowsEpochs = false,
  ): Promise<(ErrorCode | null)[]> {
    this.#assertOpen()
    this.#checkCommit(group, identity, knowsEpochs)
    const results = commits.map(commit => this.#offsetRefusal(group, identity, commit))
    await this.#offsets.commit(
      group,
      commits.filter((_, index) => results[index] === null),
    )
    return results
  }

  #checkCommit(group: string, identity: MemberIdentity | null, knowsEpochs = false): void {
    const refusal = this.groups.checkCommit(group, identity, this.clock.monotonic(), knowsEpochs)
    this.watchGroups()
    if (refusal !== null) throw new SluiceError(refusal, `group "${group}": the commit is refused`, { group })
  }

  #offsetRefusal(group: string, identity: MemberIdentity | null, commit: OffsetCommit): ErrorCode | null {
    const { topic, partition } = commit
    try {
      this.partition(topic, partition)
      checkOffset(commit)
      return this.groups.checkCommitOf(group, identity, this.topic(topic).id, partition)
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error
      return error.code
    }
  }

  /**
   * Offsets that count once a transaction commits: one result for each, in order. `identity`: of the member, null if it is not
   * known. `adds`: the group becomes part of the transaction with them. Rejects with what is refused to the group or to
   * the producer as a whole.
   */
  async stageOffsets(
    producer: TransactionalProducer,
    group: string,
    identity: MemberIdentity | null,
    commits: readonly OffsetCommit[],
    adds: boolean,
  ): Promise<(ErrorCode | null)[]> {
    const { results, accepted } = this.#sortOffsets(group, identity, commits)
    const added = adds ? this.#transactions.addGroup(producer, group) : undefined
    await Promise.all([added, this.#transactions.stageOffsets(producer, group, accepted)])
    return results
  }

  /** The same for a producer in this process, with `adds`. Throws what `stageOffsets` rejects with. */
  enlistOffsets(
    producer: TransactionalProducer,
    group: string,
    identity: MemberIdentity | null,
    commits: readonly OffsetCommit[],
  ): (ErrorCode | null)[] {
    const { results, accepted } = this.#sortOffsets(group, identity, commits)
    this.#transactions.enlistOffsets(producer, group, accepted)
    return results
  }

  #sortOffsets(
    group: string,
    identity: MemberIdentity | null,
    commits: readonly OffsetCommit[],
  ): { results: (ErrorCode | null)[]; accepted: OffsetCommit[] } {
    this.#assertOpen()
    if (identity !== null) this.#checkCommit(group, identity, true)
    const results = commits.map(commit => this.#offsetRefusal(group, identity, commit))
    return { results, accepted: commits.filter((_, index) => results[index] === null) }
  }

  /** The transaction coordinator. */
  get transactions(): Transactions {
    this.#assertOpen()
    return this.#transactions
  }

  committed(group: string, topic: string, partition: number): StoredOffset | undefined {
    this.#assertOpen()
    return this.#offsets.get(group, topic, partition)
  }

  allCommitted(group: string): StoredOffset[] {
    this.#assertOpen()
    return this.#offsets.all(group)
  }

  /** Forgets offsets that a group committed. Members of it may commit them again. */
  removeCommitted(group: string, topic: string, partitions: readonly number[]): Promise<void> {
    this.#assertOpen()
    return this.#offsets.remove(group, topic, partitions)
  }

  listGroups(): GroupListing[] {
    this.#assertOpen()
    return this.groups.list()
  }

  /** Throws UNKNOWN_GROUP. */
  describeGroup(group: string): DescribedGroup {
    this.#assertOpen()
    const described = this.groups.describe(group)
    if (described === null) throw new SluiceError('UNKNOWN_GROUP', `there is no group "${group}"`, { group })
    return described
  }

  /** Throws UNKNOWN_GROUP, GROUP_NOT_EMPTY. */
  async deleteGroup(group: string): Promise<void> {
    this.#assertOpen()
    const refusal = this.groups.delete(group)
    if (refusal === 'GROUP_NOT_EMPTY')
      throw new SluiceError(refusal, `group "${group}" has members`, { group })
    if (refusal !== null) throw new SluiceError(refusal, `there is no group "${group}"`, { group })
    try {
      await this.#offsets.remove(group)
    } catch (error) {
      this.groups.ensure(group) // it still has its offsets
      throw error
    }
  }

  /** Calls `listener` when members of the group have to join again. Returns what takes that back. */
  onRebalance(group: string, listener: () => void): () => void {
    const listeners = this.#rebalanceListeners.get(group) ?? new Set()
    this.#rebalanceListeners.set(group, listeners.add(listener))
    return () => {
      listeners.delete(listener)
      if (listeners.size === 0) this.#rebalanceListeners.delete(group)
    }
  }

  /** To be called after every call into `groups`: keeps the one timer that their deadlines need. */
  watchGroups(): void {
    const at = this.groups.nextDeadline()
    if (this.#groupTimer !== null && this.#groupTimer.at <= at) return
    this.#groupTimer?.timer.cancel()
    this.#groupTimer = null
    if (at === Number.POSITIVE_INFINITY || this.#closing !== null) return
    const timer = this.clock.after(Math.max(0, at - this.clock.monotonic()), () => {
      this.#groupTimer = null
      this.groups.expire(this.clock.monotonic())
      this.watchGroups()
    })
    this.#groupTimer = { at, timer }
  }

  // the house

  /** Removes what is too old or too much, in all topics. Resolves with the number of segments removed. */
  async enforceRetention(): Promise<number> {
    let removed = 0
    await this.#eachPartition(async partition => {
      removed += await partition.enforceRetention()
    })
    return removed
  }

  /** One after the other. What fails keeps nothing from the others; rejects with the first failure when all had their turn. */
  async #eachPartition(action: (partition: Partition) => Promise<void>): Promise<void> {
    const failures: unknown[] = []
    for (const partition of [...this.#allPartitions()]) {
      if (this.#closing !== null) break
      await action(partition).catch(error => failures.push(error))
    }
    if (failures.length > 0) throw failures[0]
  }

  /** Compacts what is due, in all topics. The broker does so by itself, every `cleanerBackoffMs`. */
  compact(): Promise<void> {
    return this.#cleaner.run()
  }

  *#allPartitions(): Generator<Partition> {
    for (const topic of this.#catalog.topics) yield* topic.partitions
  }

  stats(): BrokerStats {
    const partitions: PartitionSnapshot[] = []
    for (const topic of this.#catalog.topics) {
      for (const partition of topic.partitions) {
        partitions.push({
          topic: topic.name,
          partition: partition.partition,
          startOffset: partition.startOffset,
          endOffset: partition.highWatermark,
          bytes: partition.log.bytes,
          segments: partition.log.segmentCount,
          ...partition.stats,
        })
      }
    }
    return {
      partitions,
      groups: this.groups.list().length,
      rebalances: this.groups.counters.rebalances,
      openFiles: this.#files.count,
      compaction: this.#cleaner.stats,
      syncs: this.#syncs,
    }
  }

  /** Ends waiting readers and members, flushes everything, gives the directory back. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    for (const timer of this.#timers) timer.cancel()
    this.#groupTimer?.timer.cancel()
    this.groups.close()
    await this.#cleaner.stop()
    await this.#transactions.close()
    await this.#offsets.close()
    await this.#catalog.close()
    this.#files.closeAll()
    this.#directory.close()
  }

  /** Closes what was opened before the start failed. */
  async #giveUp(): Promise<void> {
    for (const partition of this.#opened ?? []) await partition.close()
    this.#files.closeAll()
    this.#directory.close()
  }

  #assertOpen(): void {
    if (this.#closing !== null) throw new SluiceError('CLOSED', `${this.#options.path} is closed`)
  }

  async #openPartition(topic: string, partition: number, config: TopicConfig): Promise<Partition> {
    const opened = await Partition.open({
      disk: this.#options.disk,
      files: this.#files,
      directory: this.#directory.partitionDirectory(topic, partition),
      clock: this.clock,
      topic,
      partition,
      config,
      onSync: ms => this.#syncs.record(Math.max(1, Math.round(ms * 1000))),
      onReport: report => this.#report(report),
    })
    this.#opened?.push(opened)
    return opened
  }

  #report(report: RecoveryReport): void {
    this.reports.push(report)
    this.#options.onReport?.(report)
  }

  #topicDirectory(): TopicDirectory {
    const changes = (): number => this.#topicChanges
    return {
      get version() {
        return changes()
      },
      names: () => [...this.#catalog.topics].filter(({ internal }) => !internal).map(({ name }) => name),
      find: name => {
        const topic = this.#catalog.get(name)
        return topic === undefined ? undefined : { id: topic.id, partitions: topic.partitions.length }
      },
      nameOf: id => this.#catalog.getById(id)?.name,
    }
  }

  #topicsChanged(): void {
    this.#topicChanges++
    for (const listener of [...this.#topicListeners]) listener()
  }

  #checkpoint(): Promise<void> {
    return this.#eachPartition(partition => partition.log.checkpoint())
  }

  /** Offsets that have been of no use for too long, and then groups that nothing is known of any more. */
  async #expireOffsets(): Promise<void> {
    const expiry = this.#offsets.expire(this.clock.now() - this.offsetsRetentionMs, (group, topic) =>
      this.groups.isSubscribed(group, topic),
    )
    const kept = new Set(this.#offsets.groups())
    this.groups.deleteVacant(group => kept.has(group))
    await expiry
  }

  #repeat(ms: number, action: () => Promise<unknown>): void {
    const index = this.#timers.length
    const plan = (): void => {
      if (this.#closing !== null) return
      this.#timers[index] = this.clock.after(ms, () => {
        // What fails here (a disk that is full or broken) shows at the next append, with its own error.
        action().then(plan, plan)
      })
    }
    plan()
  }
}

/** Without the batches of aborted transactions. Throws as `Partition.abortedTransactions`. */
function withoutAborted(partition: Partition, offset: number, batches: Buffer): Buffer {
  return batches.length === 0
    ? batches
    : committedOnly(batches, partition.abortedTransactions(offset, partition.lastStableOffset))
}

const fetched = (request: FetchRequest, partition: Partition, batches: Buffer): FetchedPartition => ({
  topic: request.topic,
  partition: request.partition,
  batches,
  startOffset: partition.startOffset,
  endOffset: partition.highWatermark,
})
