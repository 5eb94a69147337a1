/** The public module: everything a program may import from 'sluice', by name. */

export {
  type DatabaseLike,
  databaseOf,
  type HeldConnection,
  inTransaction,
  type SqlDatabase,
} from './database/database.ts'
export {
  type IdempotentHandler,
  type IdempotentOptions,
  type IdempotentStats,
  idempotent,
  type Mark,
  messageId,
} from './database/idempotent.ts'
export {
  type Inbox,
  type InboxEvents,
  type InboxHandler,
  type InboxOptions,
  inbox,
} from './database/inbox.ts'
export {
  type FailedRow,
  type Outbox,
  OutboxAdmin,
  type OutboxOptions,
  type OutboxStatus,
  outbox,
} from './database/outbox.ts'
export {
  type OutboxRelay,
  type OutboxRelayEvents,
  type OutboxRelayOptions,
  outboxRelay,
} from './database/outbox-relay.ts'
export {
  type Claim,
  memoryProcessedIds,
  type ProcessedIds,
  type ProcessedIdsOptions,
  type RedisLike,
  redisProcessedIds,
  sqlProcessedIds,
} from './database/processed-ids.ts'
export {
  type ReconcileEntry,
  type ReconcileOptions,
  type ReconcileReport,
  type ReconcileSchedule,
  type ReconcileSource,
  type Reconciliation,
  type ReconciliationEvents,
  reconcile,
  reconcileEvery,
} from './database/reconcile.ts'
export type { ReconcileSide } from './database/reconcile-sightings.ts'
export {
  type QuerySourceOptions,
  querySource,
  type TopicSourceOptions,
  topicSource,
} from './database/reconcile-sources.ts'
export { migrate, migrationStatements } from './database/schema.ts'
export type { Dialect, SessionLike, SqliteLike, SqlResult, SqlSession, SqlValue } from './database/session.ts'
export type { Alert, AlertEvents, AlertOptions, Alerts, LagRule, Severity } from './delivery/alerts.ts'
export type { Backlog, Diverted, DivertOptions, SkipOptions } from './delivery/backlog.ts'
export type { CircuitBreakerOptions } from './delivery/circuit-breaker.ts'
export { bytes, type Codec, json, string } from './delivery/codec.ts'
export type { Consumer } from './delivery/consumer.ts'
export type {
  BatchOf,
  ConsumerEvents,
  ConsumerOptions,
  MessageOf,
  PartitionLag,
} from './delivery/consumer-options.ts'
export type {
  DeadLetter,
  DeadLetterChange,
  DeadLetterChoice,
  DeadLetterPage,
  DeadLetters,
  DeadLetterTable,
  ReplayOptions,
} from './delivery/dead-letters.ts'
export type { Deduplicated, DeduplicateOptions, Identified } from './delivery/dedup.ts'
export type { DelayedMessage, DelayedPage } from './delivery/delayed.ts'
export type { DelaySpec } from './delivery/delayed-message.ts'
export type { FailureOutcome, Order } from './delivery/dispatch.ts'
export type {
  HalfAnswer,
  HalfChecker,
  HalfCheckerEvents,
  HalfCheckerHandler,
  HalfCheckerOptions,
} from './delivery/half-checker.ts'
export type {
  HalfMessages,
  HalfOptions,
  HalfReport,
  HalfState,
  PreparedHalf,
} from './delivery/half-messages.ts'
export type { HalfRolledBack } from './delivery/half-partition.ts'
export type { HalfDecision, HalfMessage, HalfOutcome } from './delivery/half-record.ts'
export type { Job, JobError } from './delivery/job.ts'
export type { Lease } from './delivery/lease.ts'
export type { Message, MessageBatch, MessageHeaders } from './delivery/message.ts'
export type { HeadersInput, OutgoingMessage, OutgoingOf } from './delivery/outgoing.ts'
export { type Partitioner, partitionOfKey } from './delivery/partitioner.ts'
export type { Producer } from './delivery/producer.ts'
export type { FailedPosts, ProducerBreakerOptions, ProducerOptions } from './delivery/producer-options.ts'
export { PublishError, type Published, type PublishedBatch } from './delivery/published.ts'
export type { Queue } from './delivery/queue.ts'
export type {
  ProcessOptions,
  QueueEvents,
  QueueOptions,
  ReceiveOptions,
  SendOptions,
} from './delivery/queue-options.ts'
export type { Relay, RelayEvents } from './delivery/relay.ts'
export type { RetryDecision, RetryOptions } from './delivery/retry.ts'
export type { Schedule, ScheduleOptions } from './delivery/schedules.ts'
export type { GroupPartition, GroupReport, Sluice } from './delivery/sluice.ts'
export type { DeadLetterReason, FailureStory } from './delivery/system-headers.ts'
export {
  type AnyTopic,
  type PlainBytes,
  type PlainTopic,
  type PlainValue,
  type Topic,
  type TopicConfig,
  type TopicOptions,
  type TypedTopicOptions,
  topic,
} from './delivery/topic.ts'
export type { Transaction, TransactionOptions } from './delivery/transaction.ts'
export type { Transform, TransformHandler, TransformOptions } from './delivery/transform.ts'
export type { Worker, WorkerHandler } from './delivery/worker.ts'
export type { WorkerEvents, WorkerOptions, WorkerStats } from './delivery/worker-options.ts'
export type {
  Acks,
  Assignor,
  CommitOffset,
  CommittedOffset,
  ConfigEntry,
  Engine,
  GroupDescription,
  GroupState,
  GroupSummary,
  Isolation,
  MemberDescription,
  OffsetSpec,
  PartitionDescription,
  TopicDescription,
  TopicPartition,
} from './engine/engine.ts'
export type { Flush } from './engine/local.ts'
export { type ErrorCode, isSluiceError, SluiceError } from './errors.ts'
export type { Duration } from './lib/duration.ts'
export type { RecoveryReport } from './log/recovery.ts'
export { type OpenOptions, open } from './open.ts'
export type { Compression, Header } from './record/builder.ts'
