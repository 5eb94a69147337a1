/** The produce request: one batch for one partition, as it is. Who is asked, and how often, is for the caller to say. */

import { produceApi } from '../wire/kafka/produce.ts'
import type { Acks, Produced } from './engine.ts'
import { BROKER_TIMEOUT_MS, check } from './kafka-cluster.ts'
import type { CallOptions, KafkaLink } from './kafka-link.ts'

export interface ProduceOptions extends CallOptions {
  /** Default `flushed`: all in-sync replicas. */
  readonly acks?: Acks
  /** Of a batch that is part of a transaction. */
  readonly transactionalId?: string
}

/** The last version that names topics. */
const VERSION_MAX = 12
const acksCodes: Readonly<Record<Acks, number>> = { none: 0, written: 1, flushed: -1 }
const NOT_TOLD: Produced = { baseOffset: -1, appendTime: -1 }

/** Rejects with the refusal of the partition. */
export async function produceTo(
  link: KafkaLink,
  topic: string,
  partition: number,
  batch: Uint8Array,
  { acks = 'flushed', transactionalId, versionMin, versionMax = VERSION_MAX }: ProduceOptions,
): Promise<Produced> {
  const body = {
    transactionalId: transactionalId ?? null,
    acks: acksCodes[acks],
    timeoutMs: BROKER_TIMEOUT_MS,
    topicData: [{ name: topic, partitionData: [{ index: partition, records: batch }] }],
  }
  const isUnanswered = acks === 'none'
  const answer = await link.call(produceApi, body, { versionMin, versionMax, isUnanswered })
  if (isUnanswered) return NOT_TOLD
  const [{ errorCode, errorMessage, baseOffset, logAppendTimeMs }] = answer.responses[0].partitionResponses
  check(errorCode, errorMessage, `${topic}/${partition}`, { topic, partition })
  return { baseOffset, appendTime: logAppendTimeMs }
}
