/**
 * What tools ask of the cluster and its state: DescribeCluster, DescribeLogDirs, DescribeProducers, ElectLeaders. The
 * cluster is this one node.
 */

import type { Partition } from '../../broker/partition.ts'
import { describeClusterApi } from '../../wire/kafka/describe-cluster.ts'
import { describeLogDirsApi } from '../../wire/kafka/describe-log-dirs.ts'
import { describeProducersApi } from '../../wire/kafka/describe-producers.ts'
import { electLeadersApi } from '../../wire/kafka/elect-leaders.ts'
import { type Handler, handler } from './handler.ts'
import {
  DONE,
  ELECTION_NOT_NEEDED,
  INVALID_REQUEST,
  MISMATCHED_ENDPOINT_TYPE,
  NONE,
  refused,
  UNSUPPORTED_ENDPOINT_TYPE,
} from './refusal.ts'
import { UNKNOWN_TOPIC_OR_PARTITION } from './topic-lookup.ts'

const BROKERS = 1
const CONTROLLERS = 2
/** Everybody may do everything with the cluster. */
const CLUSTER_OPERATIONS = [5, 7, 8, 9, 10, 11, 12].reduce((bits, operation) => bits | (1 << operation), 0)
const OPERATIONS_NOT_ASKED_FOR = -2147483648

const describeCluster = handler(describeClusterApi, (request, { broker, node }) => {
  const { endpointType, includeClusterAuthorizedOperations } = request
  if (endpointType !== BROKERS) {
    const outcome =
      endpointType === CONTROLLERS
        ? refused(MISMATCHED_ENDPOINT_TYPE, 'The request was sent to an endpoint of type BROKER')
        : refused(UNSUPPORTED_ENDPOINT_TYPE, `Unsupported endpoint type ${endpointType}`)
    return { ...outcome, clusterId: '', brokers: [] }
  }
  return {
    ...DONE,
    clusterId: broker.id,
    controllerId: node.id,
    brokers: [{ brokerId: node.id, host: node.host, port: node.port }],
    clusterAuthorizedOperations: includeClusterAuthorizedOperations
      ? CLUSTER_OPERATIONS
      : OPERATIONS_NOT_ASKED_FOR,
  }
})

/** Null asks for all partitions; what there is not is left out. */
const describeLogDirs = handler(describeLogDirsApi, ({ topics }, { broker }) => {
  const described: { name: string; partitions: ReturnType<typeof sizeOf>[] }[] = []
  if (topics === null) {
    for (const { name, partitions } of broker.topics)
      described.push({ name, partitions: partitions.map(sizeOf) })
  } else {
    for (const { topic: name, partitions } of topics) {
      const found = partitions.flatMap(index => broker.findTopic(name)?.partitions[index] ?? [])
      if (found.length > 0) described.push({ name, partitions: found.map(sizeOf) })
    }
  }
  return { results: [{ errorCode: NONE, logDir: broker.path, topics: described }] }
})

const sizeOf = ({ partition, log }: Partition) => ({
  partitionIndex: partition,
  partitionSize: log.bytes,
  offsetLag: 0,
  isFutureKey: false,
})

const NO_COORDINATOR_EPOCH = -1

const describeProducers = handler(describeProducersApi, ({ topics }, { broker }) => ({
  topics: topics.map(({ name, partitionIndexes }) => ({
    name,
    partitions: partitionIndexes.map(partitionIndex => {
      const partition = broker.findTopic(name)?.partitions[partitionIndex]
      if (partition === undefined) {
        const errorMessage = `This server does not host ${name}-${partitionIndex}.`
        return { partitionIndex, ...refused(UNKNOWN_TOPIC_OR_PARTITION, errorMessage), activeProducers: [] }
      }
      return {
        partitionIndex,
        ...DONE,
        activeProducers: [...partition.log.producers.list()].map(({ epoch, ...producer }) => ({
          ...producer,
          producerEpoch: epoch,
          coordinatorEpoch: NO_COORDINATOR_EPOCH,
        })),
      }
    }),
  })),
}))

const PREFERRED = 0
const UNCLEAN = 1

/** There is one replica, and it leads. Null asks for elections wherever they are needed. */
const electLeaders = handler(electLeadersApi, ({ electionType, topicPartitions }, { broker }) => {
  if (electionType !== PREFERRED && electionType !== UNCLEAN)
    return { errorCode: INVALID_REQUEST, replicaElectionResults: [] }
  const outcomeOf = (topic: string, partition: number) =>
    broker.findTopic(topic)?.partitions[partition] === undefined
      ? refused(UNKNOWN_TOPIC_OR_PARTITION, `This server does not host ${topic}-${partition}.`)
      : refused(ELECTION_NOT_NEEDED, 'Leader election not needed for topic partition.')
  return {
    errorCode: NONE,
    replicaElectionResults: (topicPartitions ?? []).map(({ topic, partitions }) => ({
      topic,
      partitionResult: partitions.map(partitionId => ({ partitionId, ...outcomeOf(topic, partitionId) })),
    })),
  }
})

export const clusterHandlers = [
  describeCluster,
  describeLogDirs,
  describeProducers,
  electLeaders,
] as unknown as readonly Handler[]
