/** Consumer groups through the protocol: members of every version, rebalances, what tools see, and who else may be in the group. */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { assign } from '../../../src/broker/assignor.ts'
import {
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
} from '../../../src/broker/consumer-protocol.ts'
import { LocalMember } from '../../../src/engine/local-member.ts'
import { type Answer, Calls, versionsOf } from './calls.ts'

let calls: Calls
beforeEach(async () => {
  calls = await Calls.open()
  await calls.broker.createTopic({ name: 't', partitions: 4 })
})
afterEach(() => calls.broker.close())

const subscription = (topics = ['t']) => encodeMember('range', { topics, owned: [], generation: -1 })
const joining = (memberId: string, more = {}) => ({
  groupId: 'g',
  sessionTimeoutMs: 10_000,
  rebalanceTimeoutMs: 60_000,
  memberId,
  protocolType: 'consumer',
  protocols: [{ name: 'range', metadata: subscription() }],
  ...more,
})
const join = (version: number, memberId: string, more = {}) =>
  calls.start('JoinGroup', version, joining(memberId, more))
const syncing = (joined: Answer<'JoinGroup'>, assignments: readonly [string, Buffer][] = [], more = {}) => ({
  groupId: 'g',
  generationId: joined.generationId,
  memberId: joined.memberId,
  protocolType: 'consumer',
  protocolName: 'range',
  assignments: assignments.map(([memberId, assignment]) => ({ memberId, assignment })),
  ...more,
})
const heartbeat = (joined: Answer<'JoinGroup'>, more = {}) =>
  calls.call('Heartbeat', 4, {
    groupId: 'g',
    generationId: joined.generationId,
    memberId: joined.memberId,
    ...more,
  })

/** What a client that leads does. */
function assignments(joined: Answer<'JoinGroup'>): [string, Buffer][] {
  const members = joined.members.map(({ memberId, groupInstanceId, metadata }) =>
    decodeMember('range', memberId, groupInstanceId, metadata),
  )
  return [...assign('range', members, topic => calls.broker.topic(topic).partitions.length)].map(
    ([memberId, partitions]) => [memberId, encodeAssignment({ partitions, userData: null })],
  )
}

async function sync(version: number, joined: Answer<'JoinGroup'>): Promise<string[]> {
  const leads = joined.leader === joined.memberId
  const answer = await calls.start('SyncGroup', version, syncing(joined, leads ? assignments(joined) : []))
  expect(answer.errorCode).toBe(0)
  return decodeAssignment(answer.assignment).partitions.map(({ topic, partition }) => `${topic}/${partition}`)
}

/** Joins as a client does: with the id that it is told to take. */
async function enter(version: number, more = {}): Promise<Answer<'JoinGroup'>> {
  const first = await join(version, '', more)
  return first.errorCode === 79 ? join(version, first.memberId, more) : first
}

/** A group of one member, stable. */
async function alone(version = 9, more = {}): Promise<Answer<'JoinGroup'>> {
  const joined = await enter(version, more)
  await sync(5, joined)
  return joined
}

describe('FindCoordinator', () => {
  const here = { nodeId: 1, host: 'broker.test', port: 9092, errorCode: 0 }

  test('names this node for groups and for transactions, for one key and for many', async () => {
    expect(await calls.call('FindCoordinator', 0, { key: 'g' })).toMatchObject(here)
    expect(await calls.call('FindCoordinator', 3, { key: 'g', keyType: 1 })).toMatchObject(here)
    for (const version of [4, 5, 6]) {
      const { coordinators } = await calls.call('FindCoordinator', version, { coordinatorKeys: ['a', 'b'] })
      expect(coordinators).toMatchObject([
        { key: 'a', ...here },
        { key: 'b', ...here },
      ])
    }
  })

  test('refuses a kind of coordinator that it does not have', async () => {
    const one = await calls.call('FindCoordinator', 3, { key: 'g', keyType: 2 })
    expect(one).toMatchObject({ errorCode: 42, nodeId: -1 })
    const { coordinators } = await calls.call('FindCoordinator', 6, { keyType: 2, coordinatorKeys: ['s'] })
    expect(coordinators).toMatchObject([{ key: 's', errorCode: 42, nodeId: -1 }])
  })
})

describe('members', () => {
  test.each(versionsOf('JoinGroup'))('join with version %i and hold all partitions', async version => {
    const joined = await enter(version)
    expect(joined).toMatchObject({ errorCode: 0, generationId: 1, protocolName: 'range' })
    expect(joined.leader).toBe(joined.memberId)
    expect(joined.protocolType).toBe(version >= 7 ? 'consumer' : null)
    expect(joined.members.map(({ memberId }) => memberId)).toEqual([joined.memberId])
    expect(await sync(Math.min(version, 5), joined)).toEqual(['t/0', 't/1', 't/2', 't/3'])
  })

  test.each(versionsOf('SyncGroup'))('share partitions, synced with version %i', async version => {
    const ann = await alone()
    const bobJoins = enter(9)
    await calls.settle()
    expect((await heartbeat(ann)).errorCode).toBe(27)
    const annJoins = join(9, ann.memberId)
    const [annAgain, bob] = await Promise.all([annJoins, bobJoins])
    expect(annAgain.generationId).toBe(2)
    expect(annAgain.members.length).toBe(2)
    expect(bob.members).toEqual([])
    expect(bob.leader).toBe(ann.memberId)
    const shares = await Promise.all([sync(version, bob), sync(version, annAgain)])
    expect(shares.map(share => share.length)).toEqual([2, 2])
    expect(shares.flat().sort()).toEqual(['t/0', 't/1', 't/2', 't/3'])
    expect((await heartbeat(annAgain)).errorCode).toBe(0)
  })

  test('are told the id to join with from version 4 on, so that a repeated request is no second member', async () => {
    expect((await join(3, '')).errorCode).toBe(0)
    const told = await join(4, '', { groupId: 'h' })
    expect(told).toMatchObject({ errorCode: 79, generationId: -1 })
    expect(told.memberId).toMatch(/^client-/)
    expect(await join(4, told.memberId, { groupId: 'h' })).toMatchObject({ errorCode: 0 })
  })

  test('of version 0 have one time-out for everything', async () => {
    const ann = await alone(0)
    const bob = enter(0)
    await calls.clock.advance(5_000)
    expect((await heartbeat(ann)).errorCode).toBe(27)
    // she lives, but did not come back within her session time-out, which is all that bob waits
    let answered: Answer<'JoinGroup'> | null = null
    bob.then(answer => {
      answered = answer
    })
    await calls.clock.advance(5_000)
    expect(answered).toMatchObject({ errorCode: 0, generationId: 2 })
    expect((await heartbeat(ann)).errorCode).toBe(25)
  })

  test('that the leader gives nothing get an assignment that is empty, but is one', async () => {
    const ann = await alone()
    const bobJoins = enter(9)
    await calls.settle()
    const [again, bob] = await Promise.all([join(9, ann.memberId), bobJoins])
    const all = encodeAssignment({ partitions: [{ topic: 't', partition: 0 }], userData: null })
    const [, answer] = await Promise.all([
      calls.start('SyncGroup', 5, syncing(again, [[again.memberId, all]])),
      calls.start('SyncGroup', 5, syncing(bob)),
    ])
    expect(answer.errorCode).toBe(0)
    expect(answer.assignment.length).toBeGreaterThan(0)
    expect(decodeAssignment(answer.assignment).partitions).toEqual([])
  })

  test('go when their session is over, not when their connection is', async () => {
    const ann = await alone()
    await calls.clock.advance(9_000)
    expect((await heartbeat(ann)).errorCode).toBe(0)
    await calls.clock.advance(10_000)
    expect((await heartbeat(ann)).errorCode).toBe(25)
  })

  test('are refused with the exact codes', async () => {
    const codeOf = async (more: object, version = 9) => (await join(version, '', more)).errorCode
    expect(await codeOf({ groupId: '' })).toBe(24)
    expect(await codeOf({ sessionTimeoutMs: 1 })).toBe(26)
    expect(await codeOf({ protocols: [] })).toBe(23)
    expect((await join(9, 'nobody')).errorCode).toBe(25)
    const ann = await alone()
    expect(await codeOf({ protocolType: 'connect' })).toBe(23)
    expect(await codeOf({ protocols: [{ name: 'other', metadata: subscription() }] })).toBe(23)
    expect((await heartbeat(ann, { generationId: 7 })).errorCode).toBe(22)
    expect((await heartbeat(ann, { memberId: 'nobody' })).errorCode).toBe(25)
    expect((await heartbeat(ann, { groupId: 'nowhere' })).errorCode).toBe(25)
    const syncCode = async (more: object, version = 5) =>
      (await calls.call('SyncGroup', version, syncing(ann, [], more))).errorCode
    expect(await syncCode({ generationId: 7 })).toBe(22)
    expect(await syncCode({ memberId: 'nobody' })).toBe(25)
    expect(await syncCode({ protocolName: 'roundrobin' })).toBe(23)
    expect(await syncCode({ protocolName: null })).toBe(23)
    expect(await syncCode({ protocolName: null }, 4)).toBe(0)
  })

  test('that wait when the broker stops are told to look for the coordinator again', async () => {
    await alone()
    const bob = enter(9)
    await calls.settle()
    await calls.broker.close()
    expect((await bob).errorCode).toBe(15)
  })
})

describe('static members', () => {
  test('come back without a rebalance, and fence off who they were', async () => {
    const instance = { groupInstanceId: 'i' }
    const ann = await alone(9, instance)
    const back = await join(9, '', instance)
    expect(back).toMatchObject({ errorCode: 0, generationId: 1, skipAssignment: true })
    expect(back.memberId).not.toBe(ann.memberId)
    expect((await heartbeat(ann, instance)).errorCode).toBe(82)
    expect((await heartbeat(back, instance)).errorCode).toBe(0)
    const answer = await calls.call('SyncGroup', 5, syncing(back, [], instance))
    expect(decodeAssignment(answer.assignment).partitions.length).toBe(4)
  })

  test('that know no skipAssignment are not made to lead', async () => {
    const instance = { groupInstanceId: 'i' }
    await alone(5, instance)
    const back = await join(5, '', instance)
    expect(back.errorCode).toBe(0)
    expect(back.leader).not.toBe(back.memberId)
  })
})

describe('LeaveGroup', () => {
  test.each([0, 1, 2])('takes one member out in version %i', async version => {
    const ann = await alone()
    const leave = (memberId: string, groupId = 'g') =>
      calls.call('LeaveGroup', version, { groupId, memberId })
    expect((await leave('nobody')).errorCode).toBe(25)
    expect((await leave(ann.memberId, 'nowhere')).errorCode).toBe(25)
    expect((await leave(ann.memberId, '')).errorCode).toBe(24)
    expect((await leave(ann.memberId)).errorCode).toBe(0)
    expect(calls.broker.describeGroup('g').state).toBe('empty')
  })

  test.each([3, 4, 5])('takes several out in version %i, each with its own result', async version => {
    const ann = await alone(9, { groupInstanceId: 'i' })
    const answer = await calls.call('LeaveGroup', version, {
      groupId: 'g',
      members: [
        { memberId: 'nobody' },
        { memberId: 'stranger', groupInstanceId: 'i' },
        { memberId: '', groupInstanceId: 'i' },
      ],
    })
    expect(answer.errorCode).toBe(0)
    expect(answer.members.map(({ errorCode }) => errorCode)).toEqual([25, 82, 0])
    expect((await heartbeat(ann)).errorCode).toBe(25)
    const missing = await calls.call('LeaveGroup', version, { groupId: 'no', members: [{ memberId: 'm' }] })
    expect(missing).toMatchObject({ errorCode: 0, members: [{ memberId: 'm', errorCode: 25 }] })
  })
})

describe('what tools see', () => {
  test.each(versionsOf('DescribeGroups'))('a group with its members, version %i', async version => {
    const ann = await alone(9, { groupInstanceId: 'i' })
    const { groups } = await calls.call('DescribeGroups', version, {
      groups: ['g', 'nowhere'],
      includeAuthorizedOperations: true,
    })
    expect(groups[0]).toMatchObject({
      errorCode: 0,
      groupId: 'g',
      groupState: 'Stable',
      protocolType: 'consumer',
      protocolData: 'range',
      members: [
        {
          memberId: ann.memberId,
          groupInstanceId: version >= 4 ? 'i' : null,
          clientId: 'client',
          clientHost: '/10.0.0.7',
        },
      ],
    })
    expect(groups[0].members[0].memberMetadata).toEqual(subscription())
    expect(decodeAssignment(groups[0].members[0].memberAssignment).partitions.length).toBe(4)
    expect(groups[0].authorizedOperations).toBe(version >= 3 ? 3400 : -2147483648)
    expect(groups[1]).toMatchObject({ errorCode: version >= 6 ? 69 : 0, groupState: 'Dead', members: [] })
  })

  test('groups by state and type', async () => {
    await alone()
    await calls.broker.commit('idle', null, [{ topic: 't', partition: 0, offset: 1, metadata: '' }])
    const list = async (version: number, filter = {}) =>
      (await calls.call('ListGroups', version, filter)).groups
    for (const version of versionsOf('ListGroups')) expect((await list(version)).length).toBe(2)
    expect(await list(5, { statesFilter: ['stable'] })).toEqual([
      { groupId: 'g', protocolType: 'consumer', groupState: 'Stable', groupType: 'classic' },
    ])
    expect(await list(4, { statesFilter: ['Empty'] })).toMatchObject([{ groupId: 'idle', protocolType: '' }])
    expect(await list(5, { statesFilter: ['Dead'] })).toEqual([])
    expect((await list(5, { typesFilter: ['Classic'] })).length).toBe(2)
    expect(await list(5, { typesFilter: ['Consumer'] })).toEqual([])
  })

  test.each(versionsOf('DeleteGroups'))('groups are deleted one by one, version %i', async version => {
    await alone()
    await calls.broker.commit('idle', null, [{ topic: 't', partition: 0, offset: 1, metadata: '' }])
    const { results } = await calls.call('DeleteGroups', version, {
      groupsNames: ['idle', 'g', 'nowhere', ''],
    })
    expect(results.map(({ groupId, errorCode }) => [groupId, errorCode])).toEqual([
      ['idle', 0],
      ['g', 68],
      ['nowhere', 69],
      ['', 24],
    ])
    expect(calls.broker.allCommitted('idle')).toEqual([])
  })
})

describe('members of the protocol and of this process share a group', () => {
  const held = new Set<string>()
  const events = {
    assigned: (partitions: readonly { topic: string; partition: number }[]) => {
      for (const { topic, partition } of partitions) held.add(`${topic}/${partition}`)
    },
    revoked: async (partitions: readonly { topic: string; partition: number }[]) => {
      for (const { topic, partition } of partitions) held.delete(`${topic}/${partition}`)
    },
    lost: () => held.clear(),
    failed: (error: Error) => {
      throw error
    },
  }
  const local = () =>
    new LocalMember(
      calls.broker,
      {
        group: 'g',
        topics: ['t'],
        assignors: ['range'],
        sessionTimeoutMs: 10_000,
        rebalanceTimeoutMs: 60_000,
        clientId: 'local',
      },
      events,
      () => {},
    )
  beforeEach(() => held.clear())

  test('the one of the protocol leads', async () => {
    const ann = await alone()
    const member = local()
    const started = member.start()
    await calls.settle()
    expect((await heartbeat(ann)).errorCode).toBe(27)
    const again = await join(9, ann.memberId)
    expect(again.leader).toBe(again.memberId)
    await started
    const mine = await sync(5, again)
    await calls.settle()
    expect([mine.length, held.size]).toEqual([2, 2])
    expect([...mine, ...held].sort()).toEqual(['t/0', 't/1', 't/2', 't/3'])
    const leaving = member.leave()
    await calls.settle()
    await leaving
    expect((await heartbeat(again)).errorCode).toBe(27)
    expect((await sync(5, await join(9, again.memberId))).length).toBe(4)
  })

  test('the one of this process leads', async () => {
    const member = local()
    await member.start()
    await calls.settle()
    expect(held.size).toBe(4)
    const bob = await enter(9)
    expect(bob.leader).toBe(member.memberId)
    const mine = await sync(5, bob)
    await calls.settle()
    expect([...mine, ...held].sort()).toEqual(['t/0', 't/1', 't/2', 't/3'])
    expect(mine.length).toBe(2)
    const leave = await calls.call('LeaveGroup', 5, { groupId: 'g', members: [{ memberId: bob.memberId }] })
    expect(leave.members[0].errorCode).toBe(0)
    await calls.settle()
    expect(held.size).toBe(4)
    const left = member.leave()
    await calls.settle()
    await left
  })
})
