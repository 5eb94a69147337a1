/**
 * Committed offsets: OffsetCommit, OffsetFetch, OffsetDelete. Topics go by name up to version 9, by id from version 10.
 *
 * Offsets that wait for the end of a transaction are not there yet; who asks for stable ones is told to ask again (KIP-447).
 */

import type { Broker } from '../../broker/broker.ts'
import type { OffsetCommit, StoredOffset } from '../../broker/offsets.ts'
import { isSluiceError } from '../../errors.ts'
import { offsetCommitApi } from '../../wire/kafka/offset-commit.ts'
import { offsetDeleteApi } from '../../wire/kafka/offset-delete.ts'
import { offsetFetchApi } from '../../wire/kafka/offset-fetch.ts'
import { type Decoded, ZERO_UUID } from '../../wire/kafka/schema.ts'
import { coordinatorCode } from './group-handlers.ts'
import { type Handler, handler, type RequestContext } from './handler.ts'
import {
  GROUP_ID_NOT_FOUND,
  GROUP_SUBSCRIBED_TO_TOPIC,
  INVALID_GROUP_ID,
  NON_EMPTY_GROUP,
  NONE,
} from './refusal.ts'
import { UNKNOWN_TOPIC_ID, UNKNOWN_TOPIC_OR_PARTITION } from './topic-lookup.ts'

const UNSTABLE_OFFSET_COMMIT = 88
const TOPIC_ID_VERSION = 10
/** From here on a member that commits to a group which there is not is told so, not that its generation is wrong. */
const GROUP_NOT_FOUND_VERSION = 9
/** From here on what is called generation may be a member epoch. */
const COMMIT_EPOCH_VERSION = 9
const FETCH_GROUPS_VERSION = 8
/** Asking for all topics with null. */
const FETCH_ALL_VERSION = 2

type CommitRequest = Decoded<(typeof offsetCommitApi)['request']['fields']>
type NamedTopic = { readonly name: string; readonly topicId: string }

/** The name of a topic that a request speaks of; null if there is no topic with the id. */
function nameOf(topic: NamedTopic, { broker, version }: RequestContext): string | null {
  return version < TOPIC_ID_VERSION ? topic.name : (broker.findTopicById(topic.topicId)?.name ?? null)
}

const offsetCommit = handler(offsetCommitApi, async (request, context) => {
  const names = request.topics.map(topic => nameOf(topic, context))
  const commits = request.topics.flatMap(({ partitions }, index): OffsetCommit[] => {
    const topic = names[index]
    if (topic === null) return []
    return partitions.map(({ partitionIndex, committedOffset, committedLeaderEpoch, committedMetadata }) => ({
      topic,
      partition: partitionIndex,
      offset: committedOffset,
      leaderEpoch: committedLeaderEpoch,
      metadata: committedMetadata ?? '',
    }))
  })
  const codes = (await commitCodes(request, commits, context)).values()
  return {
    topics: request.topics.map(({ name, topicId, partitions }, index) => ({
      name,
      topicId,
      partitions: partitions.map(({ partitionIndex }) => ({
        partitionIndex,
        errorCode: names[index] === null ? UNKNOWN_TOPIC_ID : codes.next().value!,
      })),
    })),
  }
})

/** What came of each commit. What is refused to the group is refused to all of them, but for those that have nowhere to go. */
async function commitCodes(
  request: CommitRequest,
  commits: readonly OffsetCommit[],
  { broker, version }: RequestContext,
): Promise<number[]> {
  const { groupId, generationIdOrMemberEpoch: generation, memberId, groupInstanceId: instanceId } = request
  const isMember = generation >= 0 || memberId !== '' || instanceId !== null
  const isKnown = broker.groups.has(groupId)
  // A topic may go while we wait.
  const exists = commits.map(({ topic, partition }) => broker.findTopic(topic)?.partitions[partition])
  try {
    const identity = isMember ? { memberId, generation, instanceId } : null
    const knowsEpochs = version >= COMMIT_EPOCH_VERSION
    return (await broker.commitEach(groupId, identity, commits, knowsEpochs)).map(coordinatorCode)
  } catch (error) {
    if (!isSluiceError(error)) throw error
    const isMissing = error.code === 'ILLEGAL_GENERATION' && !isKnown && version >= GROUP_NOT_FOUND_VERSION
    const code = isMissing ? GROUP_ID_NOT_FOUND : coordinatorCode(error.code)
    return exists.map(partition => (partition === undefined ? UNKNOWN_TOPIC_OR_PARTITION : code))
  }
}

const offsetFetch = handler(offsetFetchApi, (request, context) => {
  const { version, broker } = context
  const { requireStable } = request
  if (version >= FETCH_GROUPS_VERSION) {
    return {
      groups: request.groups.map(({ groupId, memberId, memberEpoch, topics }) => {
        const refusal = broker.groups.checkFetch(groupId, memberId, memberEpoch)
        if (refusal !== null) return { groupId, topics: [], errorCode: coordinatorCode(refusal) }
        return {
          groupId,
          topics:
            topics === null
              ? allOffsets(groupId, requireStable, broker)
              : offsets(groupId, topics, requireStable, context),
        }
      }),
    }
  }
  const { groupId } = request
  const topics = request.topics?.map(topic => ({ ...topic, topicId: ZERO_UUID })) ?? null
  const isAll = topics === null && version >= FETCH_ALL_VERSION
  return {
    topics: isAll
      ? allOffsets(groupId, requireStable, broker)
      : offsets(groupId, topics ?? [], requireStable, context),
  }
})

/** Of the topics asked for. Offset -1 where the group has none. */
function offsets(
  groupId: string,
  topics: readonly (NamedTopic & { readonly partitionIndexes: readonly number[] })[],
  requireStable: boolean,
  context: RequestContext,
) {
  const { broker } = context
  return topics.map(topic => {
    const { name, topicId, partitionIndexes } = topic
    const known = nameOf(topic, context)
    return {
      name,
      topicId,
      partitions: partitionIndexes.map(partitionIndex => {
        if (known === null) return fetchedOffset(partitionIndex, undefined, UNKNOWN_TOPIC_ID)
        const isUnstable = requireStable && broker.transactions.hasStaged(groupId, known, partitionIndex)
        if (isUnstable) return fetchedOffset(partitionIndex, undefined, UNSTABLE_OFFSET_COMMIT)
        return fetchedOffset(partitionIndex, broker.committed(groupId, known, partitionIndex), NONE)
      }),
    }
  })
}

function allOffsets(groupId: string, requireStable: boolean, broker: Broker) {
  const byTopic = Map.groupBy(broker.allCommitted(groupId), ({ topic }) => topic)
  return [...byTopic].map(([name, stored]) => ({
    name,
    topicId: broker.findTopic(name)?.id ?? ZERO_UUID,
    partitions: stored.map(each =>
      requireStable && broker.transactions.hasStaged(groupId, name, each.partition)
        ? fetchedOffset(each.partition, undefined, UNSTABLE_OFFSET_COMMIT)
        : fetchedOffset(each.partition, each, NONE),
    ),
  }))
}

const fetchedOffset = (partitionIndex: number, stored: StoredOffset | undefined, errorCode: number) => ({
  partitionIndex,
  committedOffset: stored?.offset ?? -1,
  committedLeaderEpoch: stored?.leaderEpoch ?? -1,
  metadata: stored?.metadata ?? '',
  errorCode,
})

/** Offsets of topics that members read stay. Of members that are no consumers we do not know what they read. */
const offsetDelete = handler(offsetDeleteApi, async ({ groupId, topics }, { broker }) => {
  if (groupId === '') return { errorCode: INVALID_GROUP_ID, topics: [] }
  const group = broker.groups.describe(groupId)
  if (group === null) return { errorCode: GROUP_ID_NOT_FOUND, topics: [] }
  if (group.state !== 'empty' && group.protocolType !== 'consumer')
    return { errorCode: NON_EMPTY_GROUP, topics: [] }
  const removals: Promise<void>[] = []
  const results = topics.map(({ name, partitions }) => {
    const topic = broker.findTopic(name)
    const isInUse = broker.groups.isSubscribed(groupId, name)
    const results = partitions.map(({ partitionIndex }) => {
      if (topic?.partitions[partitionIndex] === undefined)
        return { partitionIndex, errorCode: UNKNOWN_TOPIC_OR_PARTITION }
      return { partitionIndex, errorCode: isInUse ? GROUP_SUBSCRIBED_TO_TOPIC : NONE }
    })
    const removed = results.filter(({ errorCode }) => errorCode === NONE)
    removals.push(
      broker.removeCommitted(
        groupId,
        name,
        removed.map(({ partitionIndex }) => partitionIndex),
      ),
    )
    return { name, partitions: results }
  })
  await Promise.all(removals)
  return { errorCode: NONE, topics: results }
})

export const offsetHandlers = [offsetCommit, offsetFetch, offsetDelete] as unknown as readonly Handler[]
