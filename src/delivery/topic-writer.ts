/**
 * A topic as a producer knows it: the lines to its partitions, its limits, and what waits for it in the order in
 * which it came. State only; `producer.ts` decides.
 */

import type { SluiceError } from '../errors.ts'
import type { Timer } from '../lib/clock.ts'
import { Fifo } from '../lib/fifo.ts'
import type { PartitionWriter } from './partition-writer.ts'
import { type AnyTopic, topicOf } from './topic.ts'

/** Default of Kafka's `max.message.bytes`, where the engine does not tell. */
const MESSAGE_BYTES_MAX = 1_048_588

/** Something that could not be placed at once. */
export interface Parked {
  readonly order: number
  /** Counted in the buffer meanwhile. */
  readonly bytes: number
  timer: Timer | null
  /** Places what there is room for; true when all of it is placed. Never throws. */
  resume(): boolean
  refuse(error: SluiceError): void
}

export class TopicWriter {
  readonly topic: AnyTopic
  /** The same topic addressed by its name alone. */
  readonly plain: AnyTopic
  partitions: PartitionWriter[] = []
  /** Where messages without a key go now. */
  sticky = 0
  /** Whether the number of partitions and the limits are known. */
  known = false
  /** Since when (monotonic). */
  knownSince = 0
  refreshing = false
  messageBytesMax = MESSAGE_BYTES_MAX
  batchBytesMax = MESSAGE_BYTES_MAX
  readonly parked = new Fifo<Parked>()

  constructor(topic: AnyTopic) {
    this.topic = topic
    this.plain = topicOf(topic.name)
  }
}

/** A delayed message cannot be placed yet: nothing is known of the topic where it is to wait. */
export class NotKnownYet {
  readonly writer: TopicWriter
  /** Of which message of an array. */
  readonly index: number

  constructor(writer: TopicWriter, index = 0) {
    this.writer = writer
    this.index = index
  }
}
