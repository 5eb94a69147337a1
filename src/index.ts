/** The public module: everything a program may import from 'sluice', by name. */

export type { Alert, AlertEvents, AlertOptions, Alerts, LagRule, Severity } from './delivery/alerts.ts'
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
export type { Message, MessageBatch, MessageHeaders } from './delivery/message.ts'
export type { HeadersInput, OutgoingMessage, OutgoingOf } from './delivery/outgoing.ts'
export { type Partitioner, partitionOfKey } from './delivery/partitioner.ts'
export type { Producer } from './delivery/producer.ts'
export type { FailedPosts, ProducerOptions } from './delivery/producer-options.ts'
export { PublishError, type Published, type PublishedBatch } from './delivery/published.ts'
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
export type { RecoveryReport } from './log/recovery.ts'
export { type OpenOptions, open } from './open.ts'
export type { Compression, Header } from './record/builder.ts'
