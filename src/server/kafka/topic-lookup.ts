/** Topics and partitions as requests name them: by name in older versions, by id in newer ones. */

import type { Broker } from '../../broker/broker.ts'
import type { Topic } from '../../broker/catalog.ts'
import type { Partition } from '../../broker/partition.ts'
import { ZERO_UUID } from '../../wire/kafka/schema.ts'

export const UNKNOWN_TOPIC_OR_PARTITION = 3
export const UNKNOWN_TOPIC_ID = 100
const UNKNOWN_LEADER_EPOCH = 75

/** By id if there is one in the request, else by name. The result is a number if there is none: the error to answer with. */
export function findTopic(broker: Broker, name: string, id: string): Topic | number {
  if (id === ZERO_UUID && name !== '') return broker.findTopic(name) ?? UNKNOWN_TOPIC_OR_PARTITION
  return broker.findTopicById(id) ?? (id === ZERO_UUID ? UNKNOWN_TOPIC_OR_PARTITION : UNKNOWN_TOPIC_ID)
}

/** The same for a partition. */
export function findPartition(broker: Broker, name: string, id: string, index: number): Partition | number {
  const topic = findTopic(broker, name, id)
  return typeof topic === 'number' ? topic : (topic.partitions[index] ?? UNKNOWN_TOPIC_OR_PARTITION)
}

/**
 * What is wrong with the leader epoch that a client believes in; 0 if nothing. There is one leader, for ever in epoch 0:
 * who knows of a later one has talked to another cluster.
 */
export const leaderEpochError = (epoch: number): number => (epoch > 0 ? UNKNOWN_LEADER_EPOCH : 0)
