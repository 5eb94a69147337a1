/**
 * Metadata: the one broker, topics and partitions. A topic that is asked for by name and does not exist is made here, if client
 * and server both allow it.
 */

import type { Topic } from '../../broker/catalog.ts'
import { checkTopicName } from '../../broker/config.ts'
import { isSluiceError } from '../../errors.ts'
import { metadataApi } from '../../wire/kafka/metadata.ts'
import { type Decoded, type Encodable, ZERO_UUID } from '../../wire/kafka/schema.ts'
import {
  CLUSTER_OPERATIONS,
  clusterIdOf,
  OPERATIONS_NOT_ASKED_FOR,
  TOPIC_OPERATIONS,
} from './cluster-view.ts'
import { handler, kafkaCodeOf, type RequestContext } from './handler.ts'
import { UNKNOWN_TOPIC_ID, UNKNOWN_TOPIC_OR_PARTITION } from './topic-lookup.ts'

type Request = Decoded<typeof metadataApi.request.fields>
type Response = Encodable<typeof metadataApi.response.fields>
type TopicAnswer = Response['topics'][number]
type Wanted = NonNullable<Request['topics']>[number]

const LEADER_EPOCH = 0

export const metadataHandler = handler(metadataApi, async (request, context) => {
  const { broker, node, version } = context
  const wanted = version === 0 && request.topics?.length === 0 ? null : request.topics
  const topics: TopicAnswer[] = []
  if (wanted === null) {
    for (const topic of broker.topics) topics.push(describe(topic, node.id))
  } else {
    const mayCreate = context.autoCreateTopics && request.allowAutoTopicCreation
    for (const topic of wanted) topics.push(await answerFor(topic, mayCreate, context))
  }
  return {
    brokers: [{ nodeId: node.id, host: node.host, port: node.port }],
    clusterId: clusterIdOf(broker.id),
    controllerId: node.id,
    topics: topics.map(topic => ({
      ...topic,
      topicAuthorizedOperations: request.includeTopicAuthorizedOperations
        ? TOPIC_OPERATIONS
        : OPERATIONS_NOT_ASKED_FOR,
    })),
    clusterAuthorizedOperations: request.includeClusterAuthorizedOperations
      ? CLUSTER_OPERATIONS
      : OPERATIONS_NOT_ASKED_FOR,
  }
})

async function answerFor(wanted: Wanted, mayCreate: boolean, context: RequestContext): Promise<TopicAnswer> {
  const { broker, node } = context
  const { name, topicId } = wanted
  if (topicId !== ZERO_UUID || name === null) {
    const topic = broker.findTopicById(topicId)
    return topic === undefined
      ? refusalFor(name, topicId, name === null ? UNKNOWN_TOPIC_ID : UNKNOWN_TOPIC_OR_PARTITION)
      : describe(topic, node.id)
  }
  const topic = broker.findTopic(name)
  if (topic !== undefined) return describe(topic, node.id)
  try {
    checkTopicName(name)
    if (!mayCreate) return refusalFor(name, ZERO_UUID, UNKNOWN_TOPIC_OR_PARTITION)
    return describe(await broker.createTopic({ name }), node.id)
  } catch (error) {
    // Two clients at once: the second finds what the first made.
    const made = broker.findTopic(name)
    if (made !== undefined) return describe(made, node.id)
    if (!isSluiceError(error)) throw error
    return refusalFor(name, ZERO_UUID, kafkaCodeOf(error))
  }
}

const refusalFor = (name: string | null, topicId: string, errorCode: number): TopicAnswer => ({
  errorCode,
  name,
  topicId,
  partitions: [],
})

function describe({ name, id, internal, partitions }: Topic, nodeId: number): TopicAnswer {
  const nodes = [nodeId]
  return {
    errorCode: 0,
    name,
    topicId: id,
    isInternal: internal,
    partitions: partitions.map(({ partition }) => ({
      errorCode: 0,
      partitionIndex: partition,
      leaderId: nodeId,
      leaderEpoch: LEADER_EPOCH,
      replicaNodes: nodes,
      isrNodes: nodes,
    })),
  }
}
