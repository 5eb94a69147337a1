/**
 * The engine seam: what a Kafka client offers (topics, producing, reading, groups, committed offsets), and no more.
 * Everything in delivery/ is written once over it. `engine/local` answers from the broker in this process;
 * `engine/kafka` talks to a cluster.
 *
 * The currency is the record batch (v2) as bytes, in both directions: an engine never sees a message object, and
 * delivery/ never sees a socket.
 */

import type { SluiceError } from '../errors.ts'

/** What an engine can do beyond the common ground; conformance tests and features ask here, never for an engine's name. */
export interface EngineSupports {
  /** Idempotent producers: `initProducer` and sequences. */
  readonly idempotence: boolean
  readonly transactions: boolean
  /** `acks: 'flushed'` really waits for the disk (locally) or the in-sync replicas (on a cluster). */
  readonly durableAcks: boolean
  readonly deleteRecords: boolean
  /** Answers may be lost on the way, and with them whether a batch was stored: producers are idempotent unless told otherwise. */
  readonly losesAnswers: boolean
}

export interface TopicSpec {
  readonly name: string
  /** Default: the engine's (`num.partitions`, 1). */
  readonly partitions?: number
  /** Kafka's configuration keys, as strings. See docs/CONFIGURATION.md. */
  readonly config?: Readonly<Record<string, string>>
}

export interface PartitionDescription {
  readonly partition: number
  readonly startOffset: number
  /** Offset that the next readable record will have (the high watermark). */
  readonly endOffset: number
  /** Bytes stored; -1 where the engine does not tell. */
  readonly bytes: number
}

export interface ConfigEntry {
  readonly name: string
  readonly value: string
  /** Where the value comes from. */
  readonly source: 'topic' | 'broker' | 'default'
  readonly meaning?: string
}

export interface TopicDescription {
  readonly name: string
  /** 128-bit id as 22 characters of base64url, another one for each creation. */
  readonly id: string
  readonly internal: boolean
  readonly partitions: readonly PartitionDescription[]
  readonly config: readonly ConfigEntry[]
}

export interface TopicPartition {
  readonly topic: string
  readonly partition: number
}

/** A place in a partition: a number, one of the ends, or the first record with at least this timestamp (ms). */
export type OffsetSpec = number | 'earliest' | 'latest' | { readonly time: number | Date }

/**
 * When a produce call resolves. `written`: in the log, in the page cache: survives the process, not the machine.
 * `flushed`: on the disk (locally) or in all in-sync replicas (on a cluster). `none`: at once, errors are dropped.
 * Left out: what the topic's flush policy promises (`flushed` under `always`, else `written`).
 */
export type Acks = 'none' | 'written' | 'flushed'

export interface Produced {
  /** Offset of the batch's first record; -1 with `acks: 'none'`. */
  readonly baseOffset: number
  /** The time that the log gave the batch where the topic asks for it (LogAppendTime), otherwise -1. */
  readonly appendTime: number
}

export interface ProducerIdentity {
  readonly producerId: number
  readonly epoch: number
}

export interface FetchPartition extends TopicPartition {
  readonly offset: number
}

/** What a reader sees of transactions. */
export type Isolation = 'committed' | 'uncommitted'

export interface FetchOptions {
  /** Bytes per partition; a batch larger than that is returned all the same, alone. Default 1 MiB. */
  readonly partitionBytesMax?: number
  /** How long to wait when no partition has anything. Default 500; 0 answers at once. */
  readonly waitMs?: number
  /**
   * `committed`: only what is decided, and batches of aborted transactions without their records. `uncommitted`: all there is. Default
   * `committed`.
   */
  readonly isolation?: Isolation
  /** Ends the wait early, with whatever there is. */
  readonly signal?: AbortSignal
}

export interface Fetched extends TopicPartition {
  /**
   * Whole record batches, one after another, possibly compressed; the first may begin before the offset asked for (skip those records).
   * Empty when there is nothing new. Never changed afterwards: views may be kept.
   */
  readonly batches: Uint8Array
  readonly startOffset: number
  /** The high watermark. */
  readonly endOffset: number
  readonly error?: SluiceError
}

export interface CommitOffset extends TopicPartition {
  /** The next offset to handle. */
  readonly offset: number
  /** Up to 4,096 bytes that travel with the commit. */
  readonly metadata?: string
}

export interface CommittedOffset extends CommitOffset {
  readonly metadata: string
}

export type Assignor = 'range' | 'roundrobin' | 'sticky' | 'cooperative-sticky'

export interface MemberOptions {
  readonly group: string
  readonly topics: readonly string[]
  /** In order of preference. */
  readonly assignors: readonly Assignor[]
  readonly sessionTimeoutMs: number
  /** How long members have to give up partitions and join again. */
  readonly rebalanceTimeoutMs: number
  readonly clientId: string
  /** A static member: its restart within the session time-out causes no rebalance. */
  readonly instanceId?: string
}

/**
 * What a member is told, one call at a time, each awaited before the next. Partitions are revoked before they are
 * assigned elsewhere; with cooperative-sticky only those that move. `lost` instead of `revoked` when the membership is gone already
 * (session expired, fenced): commits for these partitions would fail.
 */
export interface MemberEvents {
  revoked(partitions: readonly TopicPartition[]): Promise<void> | void
  /** Partitions that are new to this member. */
  assigned(partitions: readonly TopicPartition[]): Promise<void> | void
  lost(partitions: readonly TopicPartition[]): Promise<void> | void
  /** The membership ended for good. */
  failed(error: SluiceError): void
}

export interface TransactionOptions {
  /** Who opens a session under the same id fences this one, and aborts what it has under way. */
  readonly transactionalId: string
  /** A transaction that takes longer is aborted, and its session fenced. */
  readonly timeoutMs: number
}

/**
 * A transactional producer. It has one transaction at a time, which begins with the first thing that becomes part of it.
 * All of it throws `PRODUCER_FENCED` (or `INVALID_PRODUCER_EPOCH`) once the session is fenced: then it is of no use any more.
 */
export interface TransactionSession {
  /** May be another one after each `end`: sequences begin again at 0 then. */
  readonly identity: ProducerIdentity
  /** As `Engine.produce`, for batches that carry the identity, a sequence and the transactional bit. */
  produce(topic: string, partition: number, batch: Uint8Array): Promise<Produced>
  /**
   * Offsets that are committed with the transaction. `member`: whose they are, so that a member that has lost its partitions is refused
   * (as `Member.commit`); null: nobody's.
   */
  stageOffsets(group: string, offsets: readonly CommitOffset[], member: Member | null): Promise<void>
  /** Resolves when it is decided for good. Without anything in the transaction it does nothing. */
  end(commit: boolean): Promise<void>
}

/** A place in a consumer group. The engine joins, sends heartbeats and joins again by itself. */
export interface Member {
  readonly memberId: string
  /** Of a static member; otherwise null. */
  readonly instanceId: string | null
  readonly generation: number
  /** Commits under this membership. Throws `ILLEGAL_GENERATION`, `UNKNOWN_MEMBER`, `REBALANCE_IN_PROGRESS` or `FENCED_MEMBER`. */
  commit(offsets: readonly CommitOffset[]): Promise<void>
  /** Revokes what it holds (awaiting `revoked`), then leaves. */
  leave(): Promise<void>
}

/** `assigning` and `reconciling`: of groups of Kafka's new consumer protocol. */
export type GroupState =
  | 'empty'
  | 'preparing-rebalance'
  | 'completing-rebalance'
  | 'assigning'
  | 'reconciling'
  | 'stable'
  | 'dead'

export interface GroupSummary {
  readonly group: string
  readonly state: GroupState
  readonly protocolType: string
}

export interface MemberDescription {
  readonly memberId: string
  readonly instanceId: string | null
  readonly clientId: string
  readonly host: string
  readonly assignment: readonly TopicPartition[]
}

export interface GroupDescription extends GroupSummary {
  /** The assignor in use, '' when empty. */
  readonly protocol: string
  readonly members: readonly MemberDescription[]
}

export interface Engine {
  /** For messages and logs: the address it was opened with. */
  readonly url: string
  readonly supports: EngineSupports

  /** Throws `TOPIC_EXISTS`, `INVALID_TOPIC`, `INVALID_PARTITIONS`, `INVALID_CONFIG`. */
  createTopic(spec: TopicSpec): Promise<TopicDescription>
  deleteTopic(name: string): Promise<void>
  /** Names, without the internal ones. */
  listTopics(): Promise<string[]>
  describeTopic(name: string): Promise<TopicDescription>
  /** Sets keys, or takes them back to the default with null. */
  alterTopic(name: string, config: Readonly<Record<string, string | null>>): Promise<void>
  /** Raises the number of partitions. */
  addPartitions(name: string, partitions: number): Promise<void>
  /** Deletes records before `offset` (-1: all there are now). Returns the new start offset. */
  deleteRecords(topic: string, partition: number, offset: number): Promise<number>

  /** Number of partitions; creates the topic if it is missing and the engine was opened so. Cheap once known. Throws `UNKNOWN_TOPIC`. */
  partitionsOf(topic: string): Promise<number>
  /** Appends one batch with base offset 0. The engine does not keep `batch` after the promise has resolved or rejected. */
  produce(topic: string, partition: number, batch: Uint8Array, acks?: Acks): Promise<Produced>
  initProducer(): Promise<ProducerIdentity>
  /** Throws `INVALID_TRANSACTION_TIMEOUT`, `UNSUPPORTED`. */
  initTransactions(options: TransactionOptions): Promise<TransactionSession>
  /** Reads several partitions; waits (long poll) until one has something or the time is over. One entry per partition asked for. */
  fetch(partitions: readonly FetchPartition[], options?: FetchOptions): Promise<Fetched[]>
  /** `latest` is the high watermark. A time after the last record gives the high watermark. */
  offsetFor(topic: string, partition: number, at: OffsetSpec): Promise<number>

  join(options: MemberOptions, events: MemberEvents): Promise<Member>
  /** Commits without a membership: for a group that has no members (tools, simple consumers). Throws `UNKNOWN_MEMBER` if it has some. */
  commit(group: string, offsets: readonly CommitOffset[]): Promise<void>
  /** Committed offsets of a group; of these partitions only, if given. Partitions without a commit are left out. */
  committed(group: string, partitions?: readonly TopicPartition[]): Promise<CommittedOffset[]>
  listGroups(): Promise<GroupSummary[]>
  describeGroup(group: string): Promise<GroupDescription>
  /** Removes an empty group with its offsets. Throws `GROUP_NOT_EMPTY`, `UNKNOWN_GROUP`. */
  deleteGroup(group: string): Promise<void>

  /** Stops taking calls, flushes and gives everything back. Calls under way end with `CLOSED`. */
  close(): Promise<void>
}
