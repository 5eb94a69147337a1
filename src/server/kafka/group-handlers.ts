/**
 * Consumer groups of the classic protocol: FindCoordinator, JoinGroup, SyncGroup, Heartbeat, LeaveGroup, and what tools ask of
 * groups: DescribeGroups, and of either protocol ListGroups and DeleteGroups. Those of the new one:
 * `consumer-group-handlers.ts`. The coordinator is `broker/groups.ts`; here its answers are put into
 * the words of each version.
 *
 * Joins and syncs are answered when the coordinator calls back, which may take as long as a rebalance does. A
 * connection that goes away does not end a membership: the session time-out does.
 */

import type { AnyGroupState, JoinResult, SyncResult } from '../../broker/group.ts'
import type { ErrorCode } from '../../errors.ts'
import { deleteGroupsApi } from '../../wire/kafka/delete-groups.ts'
import { describeGroupsApi } from '../../wire/kafka/describe-groups.ts'
import { findCoordinatorApi } from '../../wire/kafka/find-coordinator.ts'
import { heartbeatApi } from '../../wire/kafka/heartbeat.ts'
import { joinGroupApi } from '../../wire/kafka/join-group.ts'
import { leaveGroupApi } from '../../wire/kafka/leave-group.ts'
import { listGroupsApi } from '../../wire/kafka/list-groups.ts'
import type { Decoded } from '../../wire/kafka/schema.ts'
import { syncGroupApi } from '../../wire/kafka/sync-group.ts'
import { type Handler, handler, kafkaCode, type RequestContext } from './handler.ts'
import {
  COORDINATOR_NOT_AVAILABLE,
  DONE,
  GROUP_ID_NOT_FOUND,
  INCONSISTENT_GROUP_PROTOCOL,
  INVALID_GROUP_ID,
  INVALID_REQUEST,
  NONE,
  outcomeOf,
  refused,
} from './refusal.ts'

const COORDINATES_GROUPS = 0
const COORDINATES_TRANSACTIONS = 1

/** JoinGroup: when a time-out of its own for rebalances came, the id that has to be asked for, and `skipAssignment`. */
const REBALANCE_TIMEOUT_VERSION = 1
const KNOWN_MEMBER_ID_VERSION = 4
const SKIP_ASSIGNMENT_VERSION = 9
const SYNC_PROTOCOL_VERSION = 5
const LEAVE_BATCH_VERSION = 3
const DESCRIBE_NOT_FOUND_VERSION = 6

/** Read, delete, describe, and describe and alter configuration: everybody may do everything. */
export const GROUP_OPERATIONS = (1 << 3) | (1 << 6) | (1 << 8) | (1 << 10) | (1 << 11)
export const OPERATIONS_NOT_ASKED_FOR = -2147483648

export const stateNames: Readonly<Record<AnyGroupState, string>> = {
  empty: 'Empty',
  assigning: 'Assigning',
  reconciling: 'Reconciling',
  'preparing-rebalance': 'PreparingRebalance',
  'completing-rebalance': 'CompletingRebalance',
  stable: 'Stable',
  dead: 'Dead',
}

/** A broker that stops, or cannot write, is to be asked again later, as Kafka's clients do with this code. */
export function coordinatorCode(error: ErrorCode | null): number {
  const passes = error === 'CLOSED' || error === 'STORAGE_FAILED' || error === 'DISK_FULL'
  return passes ? COORDINATOR_NOT_AVAILABLE : kafkaCode(error)
}

/** All of them are this node: it has no others. */
const findCoordinator = handler(findCoordinatorApi, (request, { node, version }) => {
  const { key, keyType, coordinatorKeys } = request
  const known = keyType === COORDINATES_GROUPS || keyType === COORDINATES_TRANSACTIONS
  const coordinator = known
    ? { ...DONE, nodeId: node.id, host: node.host, port: node.port }
    : { ...refused(INVALID_REQUEST, `key type ${keyType} is not known`), nodeId: -1, host: '', port: -1 }
  if (version < 4) return { ...coordinator, key }
  return { coordinators: coordinatorKeys.map(each => ({ ...coordinator, key: each })) }
})

const joinGroup = handler(joinGroupApi, (request, context) => {
  const { broker, version, clientId, connection } = context
  const { promise, resolve } = Promise.withResolvers<ReturnType<typeof joinResponse>>()
  broker.groups.join(
    {
      group: request.groupId,
      memberId: request.memberId,
      instanceId: request.groupInstanceId,
      clientId,
      clientHost: connection.clientHost,
      sessionTimeoutMs: request.sessionTimeoutMs,
      rebalanceTimeoutMs:
        version >= REBALANCE_TIMEOUT_VERSION ? request.rebalanceTimeoutMs : request.sessionTimeoutMs,
      protocolType: request.protocolType,
      // Copied: the group keeps them, and they are views of the request.
      protocols: request.protocols.map(({ name, metadata }) => ({ name, metadata: Buffer.from(metadata) })),
      requireKnownMemberId: version >= KNOWN_MEMBER_ID_VERSION,
      supportsSkipAssignment: version >= SKIP_ASSIGNMENT_VERSION,
      reason: request.reason ?? undefined,
    },
    broker.clock.monotonic(),
    result => resolve(joinResponse(result)),
  )
  broker.watchGroups()
  return promise
})

const joinResponse = (result: JoinResult) => ({
  errorCode: coordinatorCode(result.error),
  generationId: result.generation,
  protocolType: result.protocolType,
  protocolName: result.protocol,
  leader: result.leader,
  skipAssignment: result.skipAssignment,
  memberId: result.memberId,
  members: result.members.map(({ memberId, instanceId, metadata }) => ({
    memberId,
    groupInstanceId: instanceId,
    metadata,
  })),
})

const syncGroup = handler(syncGroupApi, (request, { broker, version }) => {
  const { groupId, generationId, memberId, groupInstanceId, protocolType, protocolName } = request
  if (version >= SYNC_PROTOCOL_VERSION && (protocolType === null || protocolName === null))
    return { errorCode: INCONSISTENT_GROUP_PROTOCOL, assignment: Buffer.alloc(0) }
  const { promise, resolve } = Promise.withResolvers<ReturnType<typeof syncResponse>>()
  broker.groups.sync(
    {
      group: groupId,
      generation: generationId,
      memberId,
      instanceId: groupInstanceId,
      protocolType,
      protocol: protocolName,
      assignments: request.assignments.map(({ memberId: assignee, assignment }) => ({
        memberId: assignee,
        assignment: Buffer.from(assignment),
      })),
    },
    broker.clock.monotonic(),
    result => resolve(syncResponse(result)),
  )
  broker.watchGroups()
  return promise
})

const syncResponse = (result: SyncResult) => ({
  errorCode: coordinatorCode(result.error),
  protocolType: result.protocolType,
  protocolName: result.protocol,
  assignment: result.assignment,
})

const heartbeat = handler(heartbeatApi, (request, { broker }) => {
  const { groupId, generationId, memberId, groupInstanceId } = request
  const error = broker.groups.heartbeat(
    { group: groupId, generation: generationId, memberId, instanceId: groupInstanceId },
    broker.clock.monotonic(),
  )
  broker.watchGroups()
  return { errorCode: coordinatorCode(error) }
})

const leaveGroup = handler(leaveGroupApi, (request, { broker, version }) => {
  const isBatch = version >= LEAVE_BATCH_VERSION
  const leaving = isBatch
    ? request.members.map(({ memberId, groupInstanceId, reason }) => ({
        memberId,
        instanceId: groupInstanceId,
        reason: reason ?? undefined,
      }))
    : [{ memberId: request.memberId, instanceId: null }]
  const results = broker.groups.leave(request.groupId, leaving, broker.clock.monotonic())
  broker.watchGroups()
  const isInvalid = results.some(({ error }) => error === 'INVALID_GROUP')
  if (isInvalid) return { errorCode: INVALID_GROUP_ID }
  if (!isBatch) return { errorCode: coordinatorCode(results[0].error) }
  return {
    errorCode: NONE,
    members: results.map(({ memberId, instanceId, error }) => ({
      memberId,
      groupInstanceId: instanceId,
      errorCode: coordinatorCode(error),
    })),
  }
})

const describeGroups = handler(describeGroupsApi, (request, context) => ({
  groups: request.groups.map(groupId => {
    const group = describedGroup(groupId, context)
    const isAsked = request.includeAuthorizedOperations && group.errorCode === NONE
    return { ...group, authorizedOperations: isAsked ? GROUP_OPERATIONS : OPERATIONS_NOT_ASKED_FOR }
  }),
}))

/** A group that there is not, or of the other protocol: `Dead`, in newer versions with an error. */
function describedGroup(
  groupId: string,
  { broker, version }: RequestContext,
): Omit<Decoded<(typeof describeGroupsApi)['response']['fields']>['groups'][number], 'authorizedOperations'> {
  const group = broker.groups.describe(groupId)
  if (group === null || group.type !== 'classic') {
    const problem = group === null ? 'not found' : 'is not a classic group'
    const outcome =
      version >= DESCRIBE_NOT_FOUND_VERSION
        ? refused(GROUP_ID_NOT_FOUND, `Group ${groupId} ${problem}.`)
        : { errorCode: NONE, errorMessage: null }
    return { ...outcome, groupId, groupState: 'Dead', protocolType: '', protocolData: '', members: [] }
  }
  return {
    ...DONE,
    groupId,
    groupState: stateNames[group.state],
    protocolType: group.protocolType,
    protocolData: group.protocol,
    members: group.members.map(member => ({
      memberId: member.memberId,
      groupInstanceId: member.instanceId,
      clientId: member.clientId,
      clientHost: member.clientHost,
      memberMetadata: asBuffer(member.metadata),
      memberAssignment: asBuffer(member.assignment),
    })),
  }
}

const asBuffer = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Filters are names of states and of types, whatever their case; no names: all of them. */
const listGroups = handler(listGroupsApi, ({ statesFilter, typesFilter }, { broker }) => {
  const states = new Set(statesFilter.map(name => name.toLowerCase()))
  const types = new Set(typesFilter.map(name => name.toLowerCase()))
  const groups = broker
    .listGroups()
    .filter(({ state }) => states.size === 0 || states.has(stateNames[state].toLowerCase()))
    .filter(({ type }) => types.size === 0 || types.has(type))
  return {
    errorCode: NONE,
    groups: groups.map(({ group, type, state, protocolType }) => ({
      groupId: group,
      protocolType,
      groupState: stateNames[state],
      groupType: type,
    })),
  }
})

const deleteGroups = handler(deleteGroupsApi, async ({ groupsNames }, { broker }) => ({
  results: await Promise.all(
    groupsNames.map(async groupId => {
      if (groupId === '') return { groupId, errorCode: INVALID_GROUP_ID }
      const { errorCode } = await outcomeOf(() => broker.deleteGroup(groupId))
      return { groupId, errorCode }
    }),
  ),
}))

export const groupHandlers = [
  findCoordinator,
  joinGroup,
  syncGroup,
  heartbeat,
  leaveGroup,
  describeGroups,
  listGroups,
  deleteGroups,
] as unknown as readonly Handler[]
