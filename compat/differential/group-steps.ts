/** Coordinators, classic groups, committed offsets; and the edges of the protocol itself. */

import { encodeAssignment, encodeSubscription } from '../../src/broker/consumer-protocol.ts'
import type { RequestInput } from '../raw-client.ts'
import { error, orClosed, type Session, type Step, step, WAIT_MS } from './session.ts'

const TOPIC = 'grouped'
const METADATA = encodeSubscription({
  topics: [TOPIC],
  userData: null,
  owned: [],
  generation: -1,
  rack: null,
})

interface Joining extends Partial<RequestInput<'JoinGroup'>> {
  readonly version?: number
}

const joinBody = (groupId: string, more: Joining): RequestInput<'JoinGroup'> => ({
  groupId,
  sessionTimeoutMs: 10_000,
  rebalanceTimeoutMs: 10_000,
  memberId: '',
  protocolType: 'consumer',
  protocols: [{ name: 'range', metadata: METADATA }],
  ...more,
})

async function join(session: Session, groupId: string, more: Joining = {}) {
  const { version = 9, ...body } = more
  return session.send('JoinGroup', version, joinBody(groupId, body))
}

const joinStep = (name: string, groupId: string, more: Joining = {}): Step =>
  step(`join: ${name}`, async session => {
    const answer = await join(session, groupId, more)
    return [
      error(answer.errorCode),
      answer.generationId,
      answer.protocolName,
      answer.memberId !== '',
      answer.members.length,
    ]
  })

const refusedJoins: Step[] = [
  joinStep('no group', ''),
  joinStep('a session that is too short', 'g-edges', { sessionTimeoutMs: 10 }),
  joinStep('a session that is too long', 'g-edges', { sessionTimeoutMs: 100_000_000 }),
  joinStep('no protocols', 'g-edges', { protocols: [], version: 3 }),
  joinStep('no type', 'g-edges', { protocolType: '', version: 3 }),
  joinStep('a member that nobody knows', 'g-edges', { memberId: 'nobody' }),
  joinStep('a member id is required', 'g-edges'),
]

/** A group of one member, led by it. */
const alone: Step[] = [
  step('a topic for groups', async session => {
    const topics = [{ name: TOPIC, numPartitions: 2, replicationFactor: 1, assignments: [], configs: [] }]
    return error((await session.send('CreateTopics', 7, { topics, timeoutMs: WAIT_MS })).topics[0].errorCode)
  }),
  step('join: twice, with the member id', async session => {
    const first = await join(session, 'g')
    const second = await join(session, 'g', { memberId: first.memberId })
    session.remember('member', second.memberId)
    session.remember('generation', second.generationId)
    return [
      ...[error(first.errorCode), first.memberId.startsWith('sluice-compat-'), error(second.errorCode)],
      ...[second.generationId, second.protocolName, second.protocolType, second.leader === second.memberId],
      ...[second.members.length, second.skipAssignment],
    ]
  }),
  beat('before the assignment', {}),
  commit('before the assignment', {}),
  sync('another protocol', { protocolName: 'sticky' }),
  sync('another type', { protocolType: 'connect' }),
  sync('the assignment', {}),
  sync('the same again', {}),
  beat('as is right', {}),
  beat('another generation', { generationId: 99 }),
  beat('a member that nobody knows', { memberId: 'nobody' }),
  beat('a group that nobody knows', { groupId: 'missing' }),
  beat('no group', { groupId: '' }),
  sync('another generation', { generationId: 99 }),
  sync('a member that nobody knows', { memberId: 'nobody' }),
  sync('a group that nobody knows', { groupId: 'missing' }),
]

type Beat = Partial<RequestInput<'Heartbeat'>>

function beat(name: string, more: Beat): Step {
  return step(`heartbeat: ${name}`, async session => {
    const body = {
      groupId: 'g',
      generationId: session.recall<number>('generation'),
      memberId: session.recall<string>('member'),
    }
    return error((await session.send('Heartbeat', 4, { ...body, ...more })).errorCode)
  })
}

function sync(name: string, more: Partial<RequestInput<'SyncGroup'>>): Step {
  return step(`sync: ${name}`, async session => {
    const memberId = session.recall<string>('member')
    const partitions = [0, 1].map(partition => ({ topic: TOPIC, partition }))
    const answer = await session.send('SyncGroup', 5, {
      groupId: 'g',
      generationId: session.recall<number>('generation'),
      memberId,
      protocolType: 'consumer',
      protocolName: 'range',
      assignments: [{ memberId, assignment: encodeAssignment({ partitions, userData: null }) }],
      ...more,
    })
    return [error(answer.errorCode), answer.protocolName, answer.protocolType, answer.assignment.length]
  })
}

interface Committing {
  readonly groupId?: string
  readonly memberId?: string
  readonly generation?: number
  readonly topic?: string
  readonly partition?: number
  readonly offset?: number
  readonly metadata?: string | null
  readonly instance?: string | null
  readonly version?: number
}

function commit(name: string, more: Committing): Step {
  return step(`commit: ${name}`, async session => {
    const { version = 8, topic = TOPIC, partition = 0, offset = 5, metadata = 'note' } = more
    const committed = {
      partitionIndex: partition,
      committedOffset: offset,
      committedLeaderEpoch: 0,
      committedMetadata: metadata,
    }
    const answer = await session.send('OffsetCommit', version, {
      groupId: more.groupId ?? 'g',
      generationIdOrMemberEpoch: more.generation ?? session.recall<number>('generation'),
      memberId: more.memberId ?? session.recall<string>('member'),
      groupInstanceId: more.instance ?? null,
      topics: [{ name: topic, partitions: [committed] }],
    })
    return error(answer.topics[0].partitions[0].errorCode)
  })
}

/** As a consumer without a group commits. */
const outside = { memberId: '', generation: -1 }

const committing: Step[] = [
  commit('as is right', {}),
  commit('another generation', { generation: 99 }),
  commit('a member that nobody knows', { memberId: 'nobody' }),
  commit('no member, of a group that has one', outside),
  commit('no member, of a new group', { ...outside, groupId: 'simple' }),
  commit('a generation of a group that nobody knows', { groupId: 'missing', generation: 3, memberId: 'x' }),
  commit('no group', { ...outside, groupId: '' }),
  commit('no such topic', { topic: 'missing' }),
  commit('no such partition', { partition: 9 }),
  commit('metadata that is too long', { metadata: 'x'.repeat(5000) }),
  commit('no metadata', { metadata: null, partition: 1 }),
  commit('a negative offset', { ...outside, groupId: 'simple', offset: -1, partition: 1 }),
  commit('an instance that nobody knows', { instance: 'nobody' }),
]

const fetchStep = (
  name: string,
  groupId: string,
  partitionIndexes: readonly number[] | null,
  topic = TOPIC,
): Step =>
  step(`committed: ${name}`, async session => {
    const topics = partitionIndexes === null ? null : [{ name: topic, partitionIndexes }]
    const answer = await session.send('OffsetFetch', 8, {
      groups: [{ groupId, topics }],
      requireStable: true,
    })
    const [group] = answer.groups
    return [
      error(group.errorCode),
      group.topics.map(each => [
        each.name,
        each.partitions
          .map(at => [
            at.partitionIndex,
            error(at.errorCode),
            at.committedOffset,
            at.committedLeaderEpoch,
            at.metadata,
          ])
          .sort(),
      ]),
    ]
  })

const committed: Step[] = [
  fetchStep('of two partitions', 'g', [0, 1]),
  fetchStep('of one without', 'simple', [0, 1]),
  fetchStep('no such partition', 'g', [9]),
  fetchStep('no such topic', 'g', [0], 'missing'),
  fetchStep('all', 'g', null),
  fetchStep('all of a group that nobody knows', 'missing', null),
  fetchStep('of no group', '', [0]),
  step('committed: in version 1, and 7', async session => {
    const topics = [{ name: TOPIC, partitionIndexes: [0, 9] }]
    const old = await session.send('OffsetFetch', 1, { groupId: 'g', topics })
    const newer = await session.send('OffsetFetch', 7, { groupId: 'g', topics: null })
    const shown = old.topics[0].partitions.map(each => [
      each.committedOffset,
      each.metadata,
      error(each.errorCode),
    ])
    return [shown, error(newer.errorCode), newer.topics.length]
  }),
]

const removeOffsets = (name: string, groupId: string, topic: string): Step =>
  step(`delete offsets: ${name}`, async session => {
    const topics = [{ name: topic, partitions: [{ partitionIndex: 0 }] }]
    const answer = await session.send('OffsetDelete', 0, { groupId, topics })
    return [
      error(answer.errorCode),
      answer.topics.map(each => each.partitions.map(at => error(at.errorCode))),
    ]
  })

const describeStep = (name: string, groupId: string, version: number): Step =>
  step(`describe: ${name}`, async session => {
    const body = { groups: [groupId], includeAuthorizedOperations: true }
    const [group] = (await session.send('DescribeGroups', version, body)).groups
    return [
      ...[error(group.errorCode), group.groupState, group.protocolType, group.protocolData],
      group.authorizedOperations,
      group.members.map(each => [
        ...[each.clientId, each.clientHost, each.groupInstanceId],
        ...[each.memberMetadata.length, each.memberAssignment.length],
      ]),
    ]
  })

const removeGroup = (name: string, groupId: string): Step =>
  step(`delete group: ${name}`, async session => {
    const { results } = await session.send('DeleteGroups', 2, { groupsNames: [groupId] })
    return error(results[0].errorCode)
  })

const leave = (name: string, groupId: string, member: string | null, instance: string | null = null): Step =>
  step(`leave: ${name}`, async session => {
    const memberId = member ?? session.recall<string>('member')
    const body = { groupId, members: [{ memberId, groupInstanceId: instance, reason: 'over' }] }
    const answer = await session.send('LeaveGroup', 5, body)
    return [error(answer.errorCode), answer.members.map(each => error(each.errorCode))]
  })

const listStep = (name: string, body: RequestInput<'ListGroups'>): Step =>
  step(`list groups: ${name}`, async session => {
    const { errorCode, groups } = await session.send('ListGroups', 5, body)
    const own = groups.filter(({ groupId }) => ['g', 'simple', 's'].includes(groupId))
    return [
      error(errorCode),
      own.map(each => [each.groupId, each.protocolType, each.groupState, each.groupType]).sort(),
    ]
  })

const administration: Step[] = [
  removeOffsets('of a topic that a member has', 'g', TOPIC),
  removeOffsets('of a group that nobody knows', 'missing', TOPIC),
  removeOffsets('of a simple group', 'simple', TOPIC),
  removeOffsets('no such topic', 'simple', 'missing'),
  describeStep('a stable group', 'g', 6),
  describeStep('an empty group', 'simple', 6),
  describeStep('a group that nobody knows', 'missing', 6),
  describeStep('a group that nobody knows, before version 6', 'missing', 5),
  describeStep('no group', '', 5),
  listStep('all', {}),
  listStep('stable ones', { statesFilter: ['Stable'] }),
  listStep('in a state that is none', { statesFilter: ['Nonsense'] }),
  listStep('of the new protocol', { typesFilter: ['consumer'] }),
  listStep('of a type that is none', { typesFilter: ['nonsense'] }),
  removeGroup('with a member', 'g'),
  removeGroup('that nobody knows', 'missing'),
  removeGroup('no name', ''),
  leave('a member that nobody knows', 'g', 'nobody'),
  leave('of a group that nobody knows', 'missing', 'nobody'),
  leave('as is right', 'g', null),
  describeStep('an empty group that had members', 'g', 6),
  removeGroup('empty', 'g'),
  removeGroup('a simple one', 'simple'),
]

/** Two members, and what each is told while the group is rebalanced. */
const rebalance: Step[] = [
  step('rebalance: what the first member is told', async session => {
    const [a, b] = [await session.another('a'), await session.another('b')]
    const ask = (client: typeof a, memberId: string) =>
      client.request('JoinGroup', 5, joinBody('r', { memberId, sessionTimeoutMs: 10_000 }))
    const memberA = (await ask(a, '')).memberId
    const first = await ask(a, memberA)
    const assignments = [{ memberId: memberA, assignment: Buffer.from('a') }]
    const own = { groupId: 'r', generationId: first.generationId, memberId: memberA }
    await a.request('SyncGroup', 3, { ...own, assignments })
    const memberB = (await ask(b, '')).memberId
    const joiningB = ask(b, memberB)
    await new Promise(resolve => setTimeout(resolve, 300))
    const told = error((await a.request('Heartbeat', 3, own)).errorCode)
    const synced = error((await a.request('SyncGroup', 3, { ...own, assignments })).errorCode)
    const topics = [
      { name: TOPIC, partitions: [{ partitionIndex: 0, committedOffset: 1, committedMetadata: '' }] },
    ]
    const body = { groupId: 'r', generationIdOrMemberEpoch: first.generationId, memberId: memberA, topics }
    const committing = error((await a.request('OffsetCommit', 7, body)).topics[0].partitions[0].errorCode)
    const [second, other] = await Promise.all([ask(a, memberA), joiningB])
    const again = { ...own, generationId: second.generationId }
    const between = error(
      (await a.request('OffsetCommit', 7, { ...body, generationIdOrMemberEpoch: second.generationId }))
        .topics[0].partitions[0].errorCode,
    )
    const waiting = b.request('SyncGroup', 3, { ...again, memberId: memberB, assignments: [] })
    await a.request('SyncGroup', 3, { ...again, assignments })
    const forgotten = (await waiting).assignment.length
    const left = (await b.request('LeaveGroup', 3, { groupId: 'r', members: [{ memberId: memberB }] }))
      .errorCode
    const after = error((await a.request('Heartbeat', 3, again)).errorCode)
    return [
      ...[told, synced, committing, second.generationId - first.generationId, second.members.length],
      ...[other.members.length, other.leader === memberA, between, forgotten, error(left), after],
    ]
  }),
  step('static members', async session => {
    const ask = (memberId: string) =>
      session.send('JoinGroup', 5, joinBody('s', { memberId, groupInstanceId: 'one' }))
    const first = await ask('')
    const own = { groupId: 's', generationId: first.generationId, groupInstanceId: 'one' }
    const assignments = [{ memberId: first.memberId, assignment: Buffer.from('kept') }]
    await session.send('SyncGroup', 3, { ...own, memberId: first.memberId, assignments })
    const second = await ask('')
    const fenced = await session.send('Heartbeat', 3, { ...own, memberId: first.memberId })
    const alive = await session.send('Heartbeat', 3, { ...own, memberId: second.memberId })
    const old = await ask(first.memberId)
    const members = [{ memberId: '', groupInstanceId: 'one' }]
    const left = await session.send('LeaveGroup', 3, { groupId: 's', members })
    return [
      ...[error(first.errorCode), error(second.errorCode), second.generationId - first.generationId],
      ...[first.memberId !== second.memberId, error(fenced.errorCode), error(alive.errorCode)],
      ...[error(old.errorCode), error(left.errorCode), left.members.map(each => error(each.errorCode))],
    ]
  }),
  step('protocols that do not fit', async session => {
    const [a, b] = [await session.another('a'), await session.another('b')]
    const ask = (client: typeof a, more: Joining) => client.request('JoinGroup', 3, joinBody('p', more))
    const first = await ask(a, {})
    const protocols = [{ name: 'sticky', metadata: METADATA }]
    const other = await ask(b, { protocols })
    const type = await ask(b, { protocolType: 'connect' })
    await a.request('LeaveGroup', 3, { groupId: 'p', members: [{ memberId: first.memberId }] })
    return [error(first.errorCode), error(other.errorCode), error(type.errorCode)]
  }),
]

const find = (name: string, keyType: number, keys: readonly string[], version = 4): Step =>
  step(`coordinator: ${name}`, async session => {
    const answer = await session.send('FindCoordinator', version, {
      key: keys[0],
      coordinatorKeys: keys,
      keyType,
    })
    if (version < 4) return [error(answer.errorCode), answer.nodeId]
    return answer.coordinators.map(each => [each.key, error(each.errorCode), each.nodeId])
  })

const protocol: Step[] = [
  find('of two groups', 0, ['g', 'h']),
  find('of one group, before version 4', 0, ['g'], 3),
  find('of no group', 0, ['']),
  find('of a kind that is none', 9, ['g']),
  step('api versions: one that is not there', async session => {
    const client = await session.another()
    const bytes = await client.raw(18, 99, Buffer.from([0]))
    return bytes === null ? 'connection closed' : [error(bytes.readInt16BE(4)), bytes.readInt32BE(6) > 0]
  }),
  ...['', 'with space', 'ok-name'].map(name =>
    step(`api versions: software ${JSON.stringify(name)}`, async session => {
      const body = { clientSoftwareName: name, clientSoftwareVersion: '1' }
      return error((await session.send('ApiVersions', 3, body)).errorCode)
    }),
  ),
  ...Object.entries({
    'an API that is none': [999, 0],
    'a version that is none': [3, 99],
    'a negative version': [3, -1],
  }).map(([name, [key, version]]) =>
    step(`a request of ${name}`, async session => {
      const answer = await (await session.another()).raw(key, version, Buffer.alloc(4))
      return answer === null ? 'connection closed' : 'an answer'
    }),
  ),
  step('a request that ends too soon', async session => {
    const answer = await (await session.another()).raw(3, 9, Buffer.from([0, 5]))
    return answer === null ? 'connection closed' : 'an answer'
  }),
  step('bytes behind a request', async session => {
    const answer = await orClosed(
      (await session.another()).raw(12, 0, Buffer.from('000167000000010001780000', 'hex')),
    )
    return answer === null ? 'connection closed' : typeof answer === 'string' ? answer : 'an answer'
  }),
]

/** First: a coordinator takes a moment when it is asked for the first time. */
const ready: Step = step('a coordinator', async session => {
  for (let attempt = 0; attempt < 100; attempt++) {
    const { coordinators } = await session.send('FindCoordinator', 4, { coordinatorKeys: ['g'], keyType: 0 })
    const groups = [{ groupId: 'g', topics: null }]
    const loaded = (await session.send('OffsetFetch', 8, { groups })).groups[0].errorCode
    if (coordinators[0].errorCode === 0 && loaded === 0) return 'ready'
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  return 'not ready'
})

export const groupSteps: readonly Step[] = [
  ready,
  ...refusedJoins,
  ...alone,
  ...committing,
  ...committed,
  ...administration,
  ...rebalance,
  ...protocol,
]
