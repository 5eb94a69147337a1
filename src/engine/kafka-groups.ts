/**
 * Consumer groups of a cluster as they are seen from outside: listing, describing, deleting, and offsets committed with and
 * without a membership. Being a member is another file: kafka-member.ts.
 */

import { CONSUMER_PROTOCOL_TYPE, decodeAssignment } from '../broker/consumer-protocol.ts'
import { codeOfKafka, SluiceError } from '../errors.ts'
import { consumerGroupDescribeApi } from '../wire/kafka/consumer-group-describe.ts'
import { deleteGroupsApi } from '../wire/kafka/delete-groups.ts'
import { describeGroupsApi } from '../wire/kafka/describe-groups.ts'
import { listGroupsApi } from '../wire/kafka/list-groups.ts'
import { offsetCommitApi } from '../wire/kafka/offset-commit.ts'
import { offsetFetchApi } from '../wire/kafka/offset-fetch.ts'
import type {
  CommitOffset,
  CommittedOffset,
  GroupDescription,
  GroupState,
  GroupSummary,
  TopicPartition,
} from './engine.ts'
import { check, type KafkaCluster } from './kafka-cluster.ts'
import type { KafkaLink } from './kafka-link.ts'

/** Who commits; without a membership: nobody. */
export interface CommitterIdentity {
  readonly memberId: string
  readonly generation: number
  readonly instanceId: string | null
}

const NOBODY: CommitterIdentity = { memberId: '', generation: -1, instanceId: null }
/** The last version that answers ILLEGAL_GENERATION, not that there is no such group, to a member that the coordinator has forgotten. */
const OFFSET_COMMIT_VERSION_MAX = 8
/** The last version that asks about one group. */
const OFFSET_FETCH_VERSION_MAX = 7
/** From here on a group that does not exist is refused, instead of being described as dead. */
const ABSENT: ReadonlySet<string> = new Set(['Dead', ''])

/** '': the broker is from before there were types. */
const consumerGroupTypes: ReadonlySet<string> = new Set(['', 'classic', 'consumer'])
/** Kafka's names, those of the consumer group protocol of KIP-848 among them. */
const states: Readonly<Record<string, GroupState>> = {
  Empty: 'empty',
  PreparingRebalance: 'preparing-rebalance',
  Assigning: 'assigning',
  CompletingRebalance: 'completing-rebalance',
  Reconciling: 'reconciling',
  Stable: 'stable',
  Dead: 'dead',
}

export class KafkaGroups {
  readonly #cluster: KafkaCluster

  constructor(cluster: KafkaCluster) {
    this.#cluster = cluster
  }

  async list(): Promise<GroupSummary[]> {
    const answers = await this.#cluster.onEvery(async link => {
      const { errorCode, groups } = await link.call(listGroupsApi, {})
      check(errorCode, null, 'groups', {})
      return groups
    })
    // Share groups and streams groups are no consumer groups.
    const groups = answers.flat().filter(({ groupType }) => consumerGroupTypes.has(groupType.toLowerCase()))
    return groups.map(({ groupId, groupState, protocolType }) => ({
      group: groupId,
      state: states[groupState] ?? 'stable',
      protocolType,
    }))
  }

  async describe(group: string): Promise<GroupDescription> {
    return await this.#cluster.onCoordinator(group, async link => {
      const classic = await describeClassic(link, group)
      if (classic !== null) return classic
      const modern = link.has(consumerGroupDescribeApi) ? await describeModern(link, group) : null
      if (modern !== null) return modern
      throw new SluiceError('UNKNOWN_GROUP', `there is no group "${group}"`, { group })
    })
  }

  async delete(group: string): Promise<void> {
    await this.#cluster.onCoordinator(group, async (link, mayBeDone) => {
      const { results } = await link.call(deleteGroupsApi, { groupsNames: [group] })
      for (const { errorCode } of results)
        if (!mayBeDone || codeOfKafka(errorCode) !== 'UNKNOWN_GROUP')
          check(errorCode, null, `group ${JSON.stringify(group)}`, { group })
    })
  }

  async commit(
    group: string,
    offsets: readonly CommitOffset[],
    identity: CommitterIdentity = NOBODY,
  ): Promise<void> {
    if (offsets.length === 0) return
    const topics = byTopic(offsets)
    await this.#cluster.onCoordinator(group, async link => {
      const answer = await link.call(
        offsetCommitApi,
        {
          groupId: group,
          generationIdOrMemberEpoch: identity.generation,
          memberId: identity.memberId,
          groupInstanceId: identity.instanceId,
          topics,
        },
        { versionMax: OFFSET_COMMIT_VERSION_MAX },
      )
      for (const { name, partitions } of answer.topics) {
        for (const { partitionIndex, errorCode } of partitions) {
          const what = `commit of ${name}/${partitionIndex} for group ${JSON.stringify(group)}`
          check(errorCode, null, what, { group, topic: name, partition: partitionIndex })
        }
      }
    })
  }

  async committed(group: string, partitions?: readonly TopicPartition[]): Promise<CommittedOffset[]> {
    if (partitions?.length === 0) return []
    const asked =
      partitions === undefined
        ? null
        : [...Map.groupBy(partitions, ({ topic }) => topic)].map(([name, list]) => ({
            name,
            partitionIndexes: list.map(({ partition }) => partition),
          }))
    return await this.#cluster.onCoordinator(group, async link => {
      const { errorCode, topics } = await link.call(
        offsetFetchApi,
        { groupId: group, topics: asked, requireStable: partitions !== undefined },
        { versionMax: OFFSET_FETCH_VERSION_MAX },
      )
      check(errorCode, null, `group ${JSON.stringify(group)}`, { group })
      const found: CommittedOffset[] = []
      for (const { name, partitions: list } of topics) {
        for (const { partitionIndex, committedOffset, metadata, errorCode: refusal } of list) {
          check(refusal, null, `${name}/${partitionIndex}`, { group, topic: name, partition: partitionIndex })
          if (committedOffset < 0) continue
          found.push({
            topic: name,
            partition: partitionIndex,
            offset: committedOffset,
            metadata: metadata ?? '',
          })
        }
      }
      return found
    })
  }
}

/** As requests name what is to be committed. */
export const byTopic = (offsets: readonly CommitOffset[]) =>
  [...Map.groupBy(offsets, ({ topic }) => topic)].map(([name, commits]) => ({
    name,
    partitions: commits.map(({ partition, offset, metadata }) => ({
      partitionIndex: partition,
      committedOffset: offset,
      committedMetadata: metadata ?? '',
    })),
  }))

/** Null if there is no such group, or if it is one of KIP-848. */
async function describeClassic(link: KafkaLink, group: string): Promise<GroupDescription | null> {
  const { groups } = await link.call(describeGroupsApi, { groups: [group] })
  const [found] = groups
  if (found.errorCode === GROUP_ID_NOT_FOUND) return null
  check(found.errorCode, found.errorMessage, `group ${JSON.stringify(group)}`, { group })
  if (ABSENT.has(found.groupState)) return null
  return {
    group,
    state: states[found.groupState] ?? 'stable',
    protocolType: found.protocolType,
    protocol: found.protocolData,
    members: found.members.map(member => ({
      memberId: member.memberId,
      instanceId: member.groupInstanceId,
      clientId: member.clientId,
      host: member.clientHost,
      assignment:
        found.protocolType === CONSUMER_PROTOCOL_TYPE
          ? decodeAssignment(member.memberAssignment).partitions
          : [],
    })),
  }
}

/** A group of the protocol of KIP-848; null if there is no such group. */
async function describeModern(link: KafkaLink, group: string): Promise<GroupDescription | null> {
  const request = { groupIds: [group], includeAuthorizedOperations: false }
  const [found] = (await link.call(consumerGroupDescribeApi, request)).groups
  if (found.errorCode === GROUP_ID_NOT_FOUND) return null
  check(found.errorCode, found.errorMessage, `group ${JSON.stringify(group)}`, { group })
  return {
    group,
    state: states[found.groupState] ?? 'stable',
    protocolType: CONSUMER_PROTOCOL_TYPE,
    protocol: found.assignorName,
    members: found.members.map(member => ({
      memberId: member.memberId,
      instanceId: member.instanceId,
      clientId: member.clientId,
      host: member.clientHost,
      assignment: member.assignment.topicPartitions.flatMap(({ topicName, partitions }) =>
        partitions.map(partition => ({ topic: topicName, partition })),
      ),
    })),
  }
}

const GROUP_ID_NOT_FOUND = 69
