/**
 * Topics as tools see them: CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords, DescribeTopicPartitions. Each item of
 * a request succeeds or fails on its own; one that a request names twice fails, as in Kafka.
 *
 * There is one broker, so there is one replica: replication factor 1 (or -1: the default), and assignments by hand can
 * only name this node.
 */

import type { Broker } from '../../broker/broker.ts'
import type { Topic, TopicSpec } from '../../broker/catalog.ts'
import { checkTopicName } from '../../broker/config.ts'
import { createPartitionsApi } from '../../wire/kafka/create-partitions.ts'
import { createTopicsApi } from '../../wire/kafka/create-topics.ts'
import { deleteRecordsApi } from '../../wire/kafka/delete-records.ts'
import { deleteTopicsApi } from '../../wire/kafka/delete-topics.ts'
import { describeTopicPartitionsApi } from '../../wire/kafka/describe-topic-partitions.ts'
import { type Decoded, type Encodable, ZERO_UUID } from '../../wire/kafka/schema.ts'
import { TOPIC_OPERATIONS } from './cluster-view.ts'
import { effectiveConfigs } from './config-handlers.ts'
import { type Handler, handler, kafkaCodeOf, type Node, type RequestContext } from './handler.ts'
import {
  DONE,
  INVALID_CONFIG,
  INVALID_REPLICA_ASSIGNMENT,
  INVALID_REPLICATION_FACTOR,
  INVALID_REQUEST,
  NONE,
  type Outcome,
  outcomeOf,
  refusalOf,
  refused,
  repeated,
} from './refusal.ts'
import { UNKNOWN_TOPIC_ID, UNKNOWN_TOPIC_OR_PARTITION } from './topic-lookup.ts'

type NewTopic = Decoded<(typeof createTopicsApi)['request']['fields']>['topics'][number]
type Created = Encodable<(typeof createTopicsApi)['response']['fields']>['topics'][number]
type MorePartitions = Decoded<(typeof createPartitionsApi)['request']['fields']>['topics'][number]

/** "As the broker sees fit", for numbers of partitions and replicas. */
const DEFAULT = -1
const REPLICAS = 1
const LEADER_EPOCH = 0

// ── CreateTopics ────────────────────────────────────────────────────────────────────────────────────────────────

const createTopics = handler(createTopicsApi, async (request, context) => {
  const twice = repeated(request.topics.map(({ name }) => name))
  const seen = new Set<string>()
  const topics = request.topics.filter(({ name }) => seen.size < seen.add(name).size)
  const create = async (topic: NewTopic): Promise<Created> =>
    twice.has(topic.name)
      ? notCreated(topic.name, refused(INVALID_REQUEST, 'Duplicate topic name.'))
      : createTopic(topic, request.validateOnly, context)
  return { topics: await Promise.all(topics.map(create)) }
})

const notCreated = (name: string, outcome: Outcome): Created => ({ name, topicId: ZERO_UUID, ...outcome })

async function createTopic(
  topic: NewTopic,
  validateOnly: boolean,
  { broker, node }: RequestContext,
): Promise<Created> {
  const { name } = topic
  try {
    checkTopicName(name)
    if (broker.findTopic(name) !== undefined) broker.checkCreateTopic({ name }) // this goes before all else
    const spec = specOf(topic, node)
    if ('errorCode' in spec) return notCreated(name, spec)
    const { config = {} } = spec
    const planned = broker.checkCreateTopic(spec)
    const made = validateOnly ? null : await broker.createTopic(spec)
    return {
      name,
      topicId: made?.id ?? ZERO_UUID,
      ...DONE,
      numPartitions: made?.partitions.length ?? planned,
      replicationFactor: REPLICAS,
      configs: effectiveConfigs(config, broker),
    }
  } catch (error) {
    return notCreated(name, refusalOf(error))
  }
}

/** The topic that is asked for, or what is wrong with it. */
function specOf(topic: NewTopic, node: Node): TopicSpec | Outcome {
  const { name, numPartitions, replicationFactor, assignments } = topic
  const wrong =
    assignments.length > 0 ? assignmentRefusal(topic, node) : replicationRefusal(replicationFactor)
  if (wrong !== null) return wrong
  const config: Record<string, string> = {}
  for (const { name: key, value } of topic.configs) {
    if (value === null) return refused(INVALID_CONFIG, `Null value not supported for topic configs: ${key}`)
    config[key] = value
  }
  if (assignments.length > 0) return { name, partitions: assignments.length, config }
  return numPartitions === DEFAULT ? { name, config } : { name, partitions: numPartitions, config }
}

function replicationRefusal(factor: number): Outcome | null {
  if (factor === DEFAULT || factor === REPLICAS) return null
  const message =
    factor < 1
      ? 'Replication factor must be larger than 0, or -1 to use the default value.'
      : `The target replication factor of ${factor} cannot be reached because only 1 broker(s) are registered.`
  return refused(INVALID_REPLICATION_FACTOR, message)
}

function assignmentRefusal(topic: NewTopic, node: Node): Outcome | null {
  const { numPartitions, replicationFactor, assignments } = topic
  if (numPartitions !== DEFAULT || replicationFactor !== DEFAULT) {
    const which = numPartitions === DEFAULT ? 'replication factor' : 'numPartitions'
    return refused(
      INVALID_REQUEST,
      `A manual partition assignment was specified, but ${which} was not set to -1.`,
    )
  }
  const indexes = new Set(assignments.map(({ partitionIndex }) => partitionIndex))
  if (indexes.size < assignments.length)
    return refused(INVALID_REPLICA_ASSIGNMENT, 'Found multiple manual assignments for one partition.')
  if (assignments.some((_, index) => !indexes.has(index)))
    return refused(INVALID_REPLICA_ASSIGNMENT, 'partitions should be a consecutive 0-based integer sequence')
  return replicasRefusal(assignments, node)
}

/** Each partition can only be on this node. */
function replicasRefusal(
  assignments: readonly { readonly brokerIds: readonly number[] }[],
  node: Node,
): Outcome | null {
  const isHere = ({ brokerIds }: { readonly brokerIds: readonly number[] }): boolean =>
    brokerIds.length === REPLICAS && brokerIds[0] === node.id
  if (assignments.every(isHere)) return null
  return refused(
    INVALID_REPLICA_ASSIGNMENT,
    `The manual partition assignment must name broker ${node.id} for each partition, which is the only one registered.`,
  )
}

// ── DeleteTopics ────────────────────────────────────────────────────────────────────────────────────────────────

const deleteTopics = handler(deleteTopicsApi, async (request, { broker, version }) => {
  const wanted: readonly { readonly name: string | null; readonly topicId: string }[] =
    version < 6 ? request.topicNames.map(name => ({ name, topicId: ZERO_UUID })) : request.topics
  const found = wanted.map(each => topicToDelete(each, broker))
  const twice = repeated(found.map(each => ('partitions' in each ? each.name : null)))
  // What is asked for twice in the same words has one answer.
  const answered = new Set<string>()
  const responses = found.flatMap((each, index) => {
    const { name, topicId } = wanted[index]
    if (!('partitions' in each)) return Promise.resolve({ name, topicId, ...each })
    if (!twice.has(each.name)) return deleteOne(each, broker)
    if (answered.size === answered.add(`${name} ${topicId}`).size) return []
    return Promise.resolve({ name, topicId, ...refused(INVALID_REQUEST, 'Duplicate topic in request.') })
  })
  return { responses: await Promise.all(responses) }
})

const deleteOne = async ({ name, id }: Topic, broker: Broker) => ({
  name,
  topicId: id,
  ...(await outcomeOf(() => broker.deleteTopic(name))),
})

function topicToDelete(
  { name, topicId }: { readonly name: string | null; readonly topicId: string },
  broker: Broker,
): Topic | Outcome {
  if (name !== null && topicId !== ZERO_UUID)
    return refused(INVALID_REQUEST, 'You may not specify both topic name and topic id.')
  if (name !== null) {
    return (
      broker.findTopic(name) ?? refused(UNKNOWN_TOPIC_OR_PARTITION, `This server does not host "${name}".`)
    )
  }
  if (topicId === ZERO_UUID) return refused(INVALID_REQUEST, 'Neither topic name nor id were specified.')
  return (
    broker.findTopicById(topicId) ?? refused(UNKNOWN_TOPIC_ID, 'This server does not host this topic ID.')
  )
}

// ── CreatePartitions ────────────────────────────────────────────────────────────────────────────────────────────

const createPartitions = handler(createPartitionsApi, async (request, { broker, node }) => {
  const twice = repeated(request.topics.map(({ name }) => name))
  const seen = new Set<string>()
  const topics = request.topics.filter(({ name }) => seen.size < seen.add(name).size)
  const results = topics.map(async topic => {
    const { name, count } = topic
    if (twice.has(name)) return { name, ...refused(INVALID_REQUEST, 'Duplicate topic name.') }
    const outcome = await outcomeOf(() => broker.checkAddPartitions(name, count))
    if (outcome.errorCode !== NONE) return { name, ...outcome }
    const wrong = addedReplicasRefusal(topic, broker.topic(name), node)
    if (wrong !== null) return { name, ...wrong }
    return {
      name,
      ...(request.validateOnly ? DONE : await outcomeOf(() => broker.addPartitions(name, count))),
    }
  })
  return { results: await Promise.all(results) }
})

function addedReplicasRefusal(wanted: MorePartitions, topic: Topic, node: Node): Outcome | null {
  const { assignments, count } = wanted
  if (assignments === null) return null
  const added = count - topic.partitions.length
  if (assignments.length === added) return replicasRefusal(assignments, node)
  return refused(
    INVALID_REPLICA_ASSIGNMENT,
    `Attempted to add ${added} additional partition(s), but only ${assignments.length} assignment(s) were specified.`,
  )
}

// ── DeleteRecords ───────────────────────────────────────────────────────────────────────────────────────────────

const deleteRecords = handler(deleteRecordsApi, async ({ topics }, { broker }) => {
  const deleteUntil = async (topic: string, partition: number, offset: number) => {
    try {
      return { errorCode: NONE, lowWatermark: await broker.partition(topic, partition).deleteUntil(offset) }
    } catch (error) {
      return { errorCode: refusalOf(error).errorCode, lowWatermark: -1 }
    }
  }
  const results = topics.map(async ({ name, partitions }) => ({
    name,
    partitions: await Promise.all(
      partitions.map(async ({ partitionIndex, offset }) => ({
        partitionIndex,
        ...(await deleteUntil(name, partitionIndex, offset)),
      })),
    ),
  }))
  return { topics: await Promise.all(results) }
})

// ── DescribeTopicPartitions ─────────────────────────────────────────────────────────────────────────────────────

/** Partitions in one answer at most, whatever the client allows: Kafka's `max.request.partition.size.limit`. */
const PAGE_PARTITIONS_MAX = 2000

type TopicPage = Encodable<(typeof describeTopicPartitionsApi)['response']['fields']>['topics'][number]

/** Topics in the order of their names, from the cursor on, until the page is full; the next cursor says where it goes on. */
const describeTopicPartitions = handler(describeTopicPartitionsApi, (request, { broker, node }) => {
  const { cursor } = request
  const isAll = request.topics.length === 0
  const names = isAll ? [...broker.topics].map(({ name }) => name) : request.topics.map(({ name }) => name)
  const wanted = [...new Set(names)].filter(name => cursor === null || name >= cursor.topicName).sort()
  let room = Math.max(1, Math.min(request.responsePartitionLimit, PAGE_PARTITIONS_MAX))
  const topics: TopicPage[] = []
  for (const name of wanted) {
    if (room === 0) return { topics, nextCursor: { topicName: name, partitionIndex: 0 } }
    const topic = broker.findTopic(name)
    if (topic === undefined) {
      topics.push(unknownTopic(name))
      continue
    }
    const first = cursor?.topicName === name ? Math.max(0, cursor.partitionIndex) : 0
    const page = topicPage(topic, first, room, node)
    topics.push(page)
    room -= page.partitions.length
    const next = first + page.partitions.length
    if (next < topic.partitions.length)
      return { topics, nextCursor: { topicName: name, partitionIndex: next } }
  }
  return { topics, nextCursor: null }
})

function unknownTopic(name: string): TopicPage {
  let errorCode = UNKNOWN_TOPIC_OR_PARTITION
  try {
    checkTopicName(name)
  } catch (error) {
    errorCode = kafkaCodeOf(error)
  }
  return {
    errorCode,
    name,
    topicId: ZERO_UUID,
    partitions: [],
    topicAuthorizedOperations: TOPIC_OPERATIONS,
  }
}

function topicPage(topic: Topic, first: number, room: number, node: Node): TopicPage {
  const here = [node.id]
  return {
    errorCode: NONE,
    name: topic.name,
    topicId: topic.id,
    isInternal: topic.internal,
    partitions: topic.partitions.slice(first, first + room).map(({ partition }) => ({
      errorCode: NONE,
      partitionIndex: partition,
      leaderId: node.id,
      leaderEpoch: LEADER_EPOCH,
      replicaNodes: here,
      isrNodes: here,
      eligibleLeaderReplicas: [],
      lastKnownElr: [],
      offlineReplicas: [],
    })),
    topicAuthorizedOperations: TOPIC_OPERATIONS,
  }
}

export const topicHandlers = [
  createTopics,
  deleteTopics,
  createPartitions,
  deleteRecords,
  describeTopicPartitions,
] as unknown as readonly Handler[]
