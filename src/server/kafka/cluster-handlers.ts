/**
 * What tools ask of the cluster and its state: DescribeCluster, DescribeLogDirs, DescribeProducers, ElectLeaders. The
 * cluster is this one node.
 */

import { statfs } from 'node:fs/promises'
import type { Partition } from '../../broker/partition.ts'
import { describeClusterApi } from '../../wire/kafka/describe-cluster.ts'
import { describeLogDirsApi } from '../../wire/kafka/describe-log-dirs.ts'
import { describeProducersApi } from '../../wire/kafka/describe-producers.ts'
import { electLeadersApi } from '../../wire/kafka/elect-leaders.ts'
import { CLUSTER_OPERATIONS, clusterIdOf, OPERATIONS_NOT_ASKED_FOR } from './cluster-view.ts'
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
    clusterId: clusterIdOf(broker.id),
    controllerId: node.id,
    brokers: [{ brokerId: node.id, host: node.host, port: node.port }],
    clusterAuthorizedOperations: includeClusterAuthorizedOperations
      ? CLUSTER_OPERATIONS
      : OPERATIONS_NOT_ASKED_FOR,
  }
})

/** Null asks for all partitions; what there is not is left out. */
const describeLogDirs = handler(describeLogDirsApi, async ({ topics }, { broker }) => {
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
  const space = await spaceOf(broker.path)
  return { results: [{ errorCode: NONE, logDir: broker.path, topics: described, ...space }] }
})

const UNKNOWN_BYTES = -1

/** Of the file system that holds the data; unknown of data in memory. */
async function spaceOf(path: string): Promise<{ totalBytes: number; usableBytes: number }> {
  try {
    const { blocks, bavail, bsize } = await statfs(path)
    return { totalBytes: blocks * bsize, usableBytes: bavail * bsize }
  } catch {
    return { totalBytes: UNKNOWN_BYTES, usableBytes: UNKNOWN_BYTES }
  }
}

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
        activeProducers: [...partition.log.producers.list()].map(
          ({ epoch, transactionOffset, ...producer }) => ({
            ...producer,
            producerEpoch: epoch,
            coordinatorEpoch: NO_COORDINATOR_EPOCH,
            currentTxnStartOffset: transactionOffset,
          }),
        ),
      }
    }),
  })),
}))

const PREFERRED = 0
const UNCLEAN = 1

/** There is one replica, and it leads. Null asks for elections wherever they are needed. */
const electLeaders = handler(electLeadersApi, ({ electionType, topicPartitions }, { broker }) => {
  const isKind = electionType === PREFERRED || electionType === UNCLEAN
  const outcomeOf = (topic: string, partition: number) => {
    if (!isKind) return refused(INVALID_REQUEST, `Unknown election type ${electionType}.`)
    return broker.findTopic(topic)?.partitions[partition] === undefined
      ? refused(UNKNOWN_TOPIC_OR_PARTITION, `This server does not host ${topic}-${partition}.`)
      : refused(ELECTION_NOT_NEEDED, 'Leader election not needed for topic partition.')
  }
  return {
    errorCode: isKind ? NONE : INVALID_REQUEST,
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
