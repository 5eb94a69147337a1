/**
 * Consumer groups of the new protocol (KIP-848): ConsumerGroupHeartbeat, which is all that members send, and
 * ConsumerGroupDescribe. The coordinator is `broker/groups.ts`.
 */

import type { TopicIdPartitions } from '../../broker/consumer-group.ts'
import type { ConsumerHeartbeatResult } from '../../broker/groups.ts'
import { consumerGroupDescribeApi } from '../../wire/kafka/consumer-group-describe.ts'
import { consumerGroupHeartbeatApi } from '../../wire/kafka/consumer-group-heartbeat.ts'
import { coordinatorCode, GROUP_OPERATIONS, OPERATIONS_NOT_ASKED_FOR, stateNames } from './group-handlers.ts'
import { type Handler, handler, type RequestContext } from './handler.ts'
import { DONE, GROUP_ID_NOT_FOUND, INVALID_GROUP_ID, refused } from './refusal.ts'

/** From here on members choose their own ids. */
const CHOSEN_MEMBER_ID_VERSION = 1
/** Of the kinds of members: one that speaks this protocol. */
const CONSUMER_MEMBER = 1

const consumerGroupHeartbeat = handler(consumerGroupHeartbeatApi, (request, context) => {
  const { broker, version, clientId, connection } = context
  const result = broker.groups.consumerHeartbeat(
    {
      group: request.groupId,
      memberId: request.memberId,
      memberEpoch: request.memberEpoch,
      instanceId: request.instanceId,
      rackId: request.rackId,
      clientId,
      clientHost: connection.clientHost,
      rebalanceTimeoutMs: request.rebalanceTimeoutMs,
      topics: request.subscribedTopicNames,
      topicPattern: request.subscribedTopicRegex,
      assignor: request.serverAssignor,
      owned: request.topicPartitions,
    },
    version >= CHOSEN_MEMBER_ID_VERSION,
    broker.clock.monotonic(),
  )
  broker.watchGroups()
  return heartbeatResponse(result, broker.groups.limits.consumerHeartbeatIntervalMs)
})

function heartbeatResponse(result: ConsumerHeartbeatResult, heartbeatIntervalMs: number) {
  if (result.error !== null) {
    const { error, message } = result
    return { ...refused(coordinatorCode(error), message), memberEpoch: 0, heartbeatIntervalMs: 0 }
  }
  const { memberId, memberEpoch, assignment } = result
  const left = memberEpoch < 0
  return {
    ...DONE,
    memberId,
    memberEpoch,
    heartbeatIntervalMs: left ? 0 : heartbeatIntervalMs,
    assignment: assignment === null ? null : { topicPartitions: assignment },
  }
}

const consumerGroupDescribe = handler(consumerGroupDescribeApi, (request, context) => ({
  groups: request.groupIds.map(groupId => ({
    ...describedGroup(groupId, context),
    authorizedOperations: request.includeAuthorizedOperations ? GROUP_OPERATIONS : OPERATIONS_NOT_ASKED_FOR,
  })),
}))

function describedGroup(groupId: string, context: RequestContext) {
  const nothing = { groupState: '', groupEpoch: 0, assignmentEpoch: 0, assignorName: '', members: [] }
  const { groups } = context.broker
  if (groupId === '') return { ...refused(INVALID_GROUP_ID, 'the group id is empty'), groupId, ...nothing }
  const group = groups.describeConsumer(groupId)
  if (group === null) {
    const problem = groups.has(groupId) ? 'is not a consumer group' : 'not found'
    return { ...refused(GROUP_ID_NOT_FOUND, `Group ${groupId} ${problem}.`), groupId, ...nothing }
  }
  return {
    ...DONE,
    groupId,
    groupState: stateNames[group.state],
    groupEpoch: group.groupEpoch,
    assignmentEpoch: group.assignmentEpoch,
    assignorName: group.assignor,
    members: group.members.map(member => ({
      memberId: member.memberId,
      instanceId: member.instanceId,
      rackId: member.rackId,
      memberEpoch: member.memberEpoch,
      clientId: member.clientId,
      clientHost: member.clientHost,
      subscribedTopicNames: member.topics,
      subscribedTopicRegex: member.topicPattern,
      assignment: { topicPartitions: withNames(member.assignment, context) },
      targetAssignment: { topicPartitions: withNames(member.target, context) },
      memberType: CONSUMER_MEMBER,
    })),
  }
}

/** Topics that are gone are left out. */
function withNames(assignment: readonly TopicIdPartitions[], { broker }: RequestContext) {
  return assignment.flatMap(({ topicId, partitions }) => {
    const topicName = broker.findTopicById(topicId)?.name
    return topicName === undefined ? [] : [{ topicId, topicName, partitions }]
  })
}

export const consumerGroupHandlers = [
  consumerGroupHeartbeat,
  consumerGroupDescribe,
] as unknown as readonly Handler[]
