/** Committed offsets through the protocol: what is stored, what is refused, and with which code. */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { encodeMember } from '../../../src/broker/consumer-protocol.ts'
import { LocalEngine } from '../../../src/engine/local.ts'
import { ZERO_UUID } from '../../../src/wire/kafka/schema.ts'
import { type Answer, Calls, versionsOf } from './calls.ts'

let calls: Calls
let id: string
beforeEach(async () => {
  calls = await Calls.open()
  id = (await calls.broker.createTopic({ name: 't', partitions: 2 })).id
})
afterEach(() => calls.broker.close())

interface Commit {
  readonly offset?: number
  readonly partition?: number
  readonly metadata?: string | null
  readonly leaderEpoch?: number
  readonly topic?: string
}

const committing = (commits: readonly Commit[], more = {}) => ({
  groupId: 'g',
  topics: commits.map(({ topic = 't', partition = 0, offset = 5, metadata = 'note', leaderEpoch = -1 }) => ({
    name: topic,
    topicId: calls.broker.findTopic(topic)?.id ?? 'AAAAAAAAAAAAAAAAAAAAAQ',
    partitions: [
      {
        partitionIndex: partition,
        committedOffset: offset,
        committedLeaderEpoch: leaderEpoch,
        committedMetadata: metadata,
      },
    ],
  })),
  ...more,
})
const commit = async (version: number, commits: readonly Commit[], more = {}) => {
  const { topics } = await calls.call('OffsetCommit', version, committing(commits, more))
  return topics.map(({ partitions }) => partitions[0].errorCode)
}
const fetchOne = async (version: number, partitions = [0, 1]) => {
  const topics = [{ name: 't', topicId: id, partitionIndexes: partitions }]
  const answer = await calls.call(
    'OffsetFetch',
    version,
    version >= 8 ? { groups: [{ groupId: 'g', topics }] } : { groupId: 'g', topics },
  )
  expect(answer.errorCode).toBe(0)
  return version >= 8 ? answer.groups[0].topics[0] : answer.topics[0]
}

/** A member of a stable group; with `assigning`, of one whose leader has not assigned yet. */
async function member(state: 'stable' | 'assigning'): Promise<Answer<'JoinGroup'>> {
  const joined = await calls.call('JoinGroup', 3, {
    groupId: 'g',
    sessionTimeoutMs: 10_000,
    memberId: '',
    protocolType: 'consumer',
    protocols: [
      { name: 'range', metadata: encodeMember('range', { topics: ['t'], owned: [], generation: -1 }) },
    ],
  })
  const { generationId, memberId } = joined
  if (state === 'stable')
    await calls.call('SyncGroup', 3, { groupId: 'g', generationId, memberId, assignments: [] })
  return joined
}

describe('OffsetCommit', () => {
  test.each(versionsOf('OffsetCommit'))(
    'stores what version %i brings, and it can be fetched',
    async version => {
      expect(await commit(version, [{ offset: 5, leaderEpoch: 3 }])).toEqual([0])
      const { partitions, ...topic } = await fetchOne(10)
      expect(topic).toEqual({ name: '', topicId: id })
      expect(partitions).toEqual([
        {
          partitionIndex: 0,
          committedOffset: 5,
          committedLeaderEpoch: version >= 6 ? 3 : -1,
          metadata: 'note',
          errorCode: 0,
        },
        { partitionIndex: 1, committedOffset: -1, committedLeaderEpoch: -1, metadata: '', errorCode: 0 },
      ])
    },
  )

  test('stores what is good and refuses the rest', async () => {
    const long = 'x'.repeat(4097)
    const commits = [
      {},
      { topic: 'nowhere' },
      { partition: 7 },
      { partition: 1, metadata: long },
      { metadata: null, offset: 9 },
    ]
    expect(await commit(9, commits)).toEqual([0, 3, 3, 12, 0])
    expect(await commit(10, commits)).toEqual([0, 100, 3, 12, 0])
    expect((await fetchOne(9)).partitions).toMatchObject([
      { committedOffset: 9, metadata: '' },
      { committedOffset: -1 },
    ])
  })

  test('keeps marks that clients leave in place of an offset', async () => {
    expect(await commit(8, [{ offset: -2 }])).toEqual([0])
    expect((await fetchOne(8)).partitions[0]).toMatchObject({ committedOffset: -2, errorCode: 0 })
    // to consumers in this process, as to most clients, that is no commit
    expect(await new LocalEngine(calls.broker, 'memory:', false).committed('g')).toEqual([])
  })

  test('of members depends on their standing', async () => {
    const code = async (more: object, version = 9) => (await commit(version, [{}], more))[0]
    expect(await code({ generationIdOrMemberEpoch: 1, memberId: 'm' }, 8)).toBe(22)
    expect(await code({ generationIdOrMemberEpoch: 1, memberId: 'm' }, 9)).toBe(69)
    const { memberId } = await member('stable')
    const standing = { memberId, generationIdOrMemberEpoch: 1 }
    expect(await code(standing)).toBe(0)
    expect(await code({ ...standing, generationIdOrMemberEpoch: 0 })).toBe(22)
    expect(await code({ ...standing, memberId: 'other' })).toBe(25)
    expect(await code({ ...standing, groupInstanceId: 'i' })).toBe(25)
    expect(await code({})).toBe(25)
    // what has nowhere to go is told so, whatever the group says
    expect(await commit(9, [{ topic: 'nowhere' }, {}], { memberId: 'other' })).toEqual([3, 25])
  })

  test('is refused while the next generation is being assigned', async () => {
    const { memberId } = await member('assigning')
    expect(await commit(9, [{}], { memberId, generationIdOrMemberEpoch: 1 })).toEqual([27])
  })
})

describe('OffsetFetch', () => {
  test.each(versionsOf('OffsetFetch'))('answers for topics asked for, in version %i', async version => {
    await commit(8, [{ offset: 5, leaderEpoch: 2 }])
    const { partitions } = await fetchOne(version)
    expect(partitions).toMatchObject([
      { committedOffset: 5, committedLeaderEpoch: version >= 5 ? 2 : -1, metadata: 'note', errorCode: 0 },
      { committedOffset: -1, errorCode: 0 },
    ])
  })

  test('answers for all topics that a group has offsets of', async () => {
    await calls.broker.createTopic({ name: 'u' })
    await commit(8, [{ offset: 5 }, { offset: 6, partition: 1 }, { topic: 'u', offset: 7 }])
    const old = await calls.call('OffsetFetch', 7, { groupId: 'g', topics: null, requireStable: true })
    expect(old.topics.map(({ name, partitions }) => [name, partitions.map(p => p.committedOffset)])).toEqual([
      ['t', [5, 6]],
      ['u', [7]],
    ])
    const { groups } = await calls.call('OffsetFetch', 10, {
      groups: [
        { groupId: 'g', topics: null },
        { groupId: 'nowhere', topics: null },
      ],
    })
    expect(groups[0].topics.map(({ topicId }) => topicId)).toEqual([id, calls.broker.topic('u').id])
    expect(groups[1]).toEqual({ groupId: 'nowhere', topics: [], errorCode: 0 })
    const none = await calls.call('OffsetFetch', 1, { groupId: 'g', topics: [] })
    expect(none.topics).toEqual([])
  })

  test('does not know ids of no topic', async () => {
    const topics = [{ topicId: ZERO_UUID, partitionIndexes: [0] }]
    const { groups } = await calls.call('OffsetFetch', 10, { groups: [{ groupId: 'g', topics }] })
    expect(groups[0].topics[0].partitions[0]).toMatchObject({ committedOffset: -1, errorCode: 100 })
  })
})

describe('OffsetDelete', () => {
  const forget = (groupId: string, ...topics: string[]) =>
    calls.call('OffsetDelete', 0, {
      groupId,
      topics: topics.map(name => ({ name, partitions: [{ partitionIndex: 0 }] })),
    })
  const codes = ({ topics }: Answer<'OffsetDelete'>) =>
    topics.map(({ partitions }) => partitions[0].errorCode)

  test('forgets single partitions', async () => {
    await commit(8, [{ offset: 5 }, { offset: 6, partition: 1 }])
    expect(codes(await forget('g', 't', 'nowhere'))).toEqual([0, 3])
    expect((await fetchOne(8)).partitions.map(({ committedOffset }) => committedOffset)).toEqual([-1, 6])
  })

  test('keeps offsets of topics that members read', async () => {
    await calls.broker.createTopic({ name: 'u' })
    const { memberId } = await member('stable')
    await commit(8, [{}, { topic: 'u' }], { memberId, generationIdOrMemberEpoch: 1 })
    expect(codes(await forget('g', 't', 'u'))).toEqual([86, 0])
    expect(calls.broker.allCommitted('g').map(({ topic }) => topic)).toEqual(['t'])
  })

  test('is refused to groups that are not there, and to members of which we do not know what they read', async () => {
    expect((await forget('nowhere', 't')).errorCode).toBe(69)
    expect((await forget('', 't')).errorCode).toBe(24)
    await calls.call('JoinGroup', 3, {
      groupId: 'w',
      sessionTimeoutMs: 10_000,
      memberId: '',
      protocolType: 'connect',
      protocols: [{ name: 'sessioned', metadata: Buffer.from('x') }],
    })
    expect((await forget('w', 't')).errorCode).toBe(68)
  })
})
