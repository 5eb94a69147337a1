/** The new group protocol over a socket: heartbeats, commits with a member epoch, and what tools are told. */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Broker } from '../../../src/broker/broker.ts'
import { memoryDisk } from '../../../src/lib/disk-memory.ts'
import { type RawClient, RawServer, type ResponseOutput } from './raw-client.ts'

const DAY_MS = 24 * 3_600_000

/** A broker that is closed and opened again on the same disk. */
class Restarted implements AsyncDisposable {
  readonly #options = { disk: memoryDisk(), path: 'memory' }
  broker!: Broker

  static async open(): Promise<Restarted> {
    const restarted = new Restarted()
    restarted.broker = await Broker.open(restarted.#options)
    return restarted
  }

  async restart(): Promise<void> {
    await this.broker.close()
    this.broker = await Broker.open(this.#options)
  }

  heartbeat(memberEpoch: number) {
    const request = {
      group: 'g',
      memberId: 'ann',
      memberEpoch,
      instanceId: null,
      rackId: null,
      clientId: 'client',
      clientHost: '/',
      rebalanceTimeoutMs: 60_000,
      topics: ['t'],
      topicPattern: null,
      assignor: null,
      owned: [],
    }
    return this.broker.groups.consumerHeartbeat(request, true, this.broker.clock.monotonic())
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.broker.close()
  }
}

type Heartbeat = ResponseOutput<'ConsumerGroupHeartbeat'>

let server: RawServer
let client: RawClient
let topicId: string
beforeEach(async () => {
  server = await RawServer.start()
  client = await server.client()
  topicId = (await server.topic('t', 4)).id
})
afterEach(() => server[Symbol.asyncDispose]())

const heartbeat = (memberId: string, memberEpoch: number, more = {}, version = 1): Promise<Heartbeat> =>
  client.request('ConsumerGroupHeartbeat', version, { groupId: 'g', memberId, memberEpoch, ...more })
const join = (memberId: string, more = {}, version = 1) =>
  heartbeat(
    memberId,
    0,
    { rebalanceTimeoutMs: 60_000, subscribedTopicNames: ['t'], topicPartitions: [], ...more },
    version,
  )
const owned = (...partitions: number[]) => ({ topicPartitions: [{ topicId, partitions }] })
const describeGroup = async (groupId = 'g', version = 1) => {
  const request = { groupIds: [groupId], includeAuthorizedOperations: version === 1 }
  return (await client.request('ConsumerGroupDescribe', version, request)).groups[0]
}
const list = async (filter = {}) => (await client.request('ListGroups', 5, filter)).groups

describe('heartbeats', () => {
  test('ApiVersions tells of them', async () => {
    const { apiKeys } = await client.request('ApiVersions', 0, {})
    expect(apiKeys).toEqual(
      expect.arrayContaining([
        { apiKey: 68, minVersion: 0, maxVersion: 1 },
        { apiKey: 69, minVersion: 0, maxVersion: 1 },
      ]),
    )
  })

  test('join, share, move on and leave', async () => {
    expect(await join('ann')).toEqual({
      throttleTimeMs: 0,
      errorCode: 0,
      errorMessage: null,
      memberId: 'ann',
      memberEpoch: 2,
      heartbeatIntervalMs: 5_000,
      assignment: owned(0, 1, 2, 3),
    })
    expect(await heartbeat('ann', 2)).toMatchObject({ errorCode: 0, memberEpoch: 2, assignment: null })
    expect(await join('bob')).toMatchObject({ memberEpoch: 3, assignment: { topicPartitions: [] } })
    expect(await heartbeat('ann', 2)).toMatchObject({ memberEpoch: 2, assignment: owned(0, 1) })
    expect(await heartbeat('bob', 3)).toMatchObject({ assignment: null })
    expect(await heartbeat('ann', 2, owned(0, 1))).toMatchObject({ memberEpoch: 3 })
    expect(await heartbeat('bob', 3)).toMatchObject({ assignment: owned(2, 3) })
    expect(await heartbeat('ann', -1)).toMatchObject({ errorCode: 0, memberEpoch: -1, assignment: null })
    expect(await heartbeat('bob', 3, owned(2, 3))).toMatchObject({
      memberEpoch: 4,
      assignment: owned(0, 1, 2, 3),
    })
  })

  test('are refused with the code and in words', async () => {
    const refused = { memberId: null, memberEpoch: 0, heartbeatIntervalMs: 0, assignment: null }
    expect(await heartbeat('ann', -1)).toMatchObject({
      errorCode: 69,
      errorMessage: expect.any(String),
      ...refused,
    })
    expect(await join('')).toMatchObject({ errorCode: 42, ...refused })
    expect(await join('ann', { serverAssignor: 'none' })).toMatchObject({ errorCode: 112, ...refused })
    expect(await join('ann', { subscribedTopicRegex: '(' })).toMatchObject({ errorCode: 128, ...refused })
    await join('ann', { instanceId: 'i' })
    expect(await join('twin', { instanceId: 'i' })).toMatchObject({ errorCode: 111, ...refused })
    expect(await heartbeat('twin', 2, { instanceId: 'i' })).toMatchObject({ errorCode: 82, ...refused })
    expect(await heartbeat('bob', 2)).toMatchObject({ errorCode: 25, ...refused })
    expect(await heartbeat('ann', 9, { instanceId: 'i' })).toMatchObject({ errorCode: 110, ...refused })
  })

  test('of version 0 are given an id, and know no patterns', async () => {
    const { errorCode, memberId } = await join('', {}, 0)
    expect([errorCode, memberId]).toEqual([0, expect.stringMatching(/^[0-9a-f-]{36}$/)])
  })

  test('follow topics as they come, by name, by pattern, and as they grow', async () => {
    await join('ann', { subscribedTopicNames: ['t'], subscribedTopicRegex: 'orders-.*' })
    const orders = await server.topic('orders-1', 1)
    await server.broker.addPartitions('t', 5)
    const { assignment } = await heartbeat('ann', 2)
    expect(assignment!.topicPartitions).toEqual(
      expect.arrayContaining([
        { topicId, partitions: [0, 1, 2, 3, 4] },
        { topicId: orders.id, partitions: [0] },
      ]),
    )
    await server.broker.deleteTopic('orders-1')
    expect(await heartbeat('ann', 3)).toMatchObject({ assignment: owned(0, 1, 2, 3, 4) })
  })

  test('that stop end the membership, by a timer', async () => {
    await join('ann')
    await server.clock.advance(44_999)
    expect((await describeGroup()).members.length).toBe(1)
    await server.clock.advance(1)
    expect((await describeGroup()).groupState).toBe('Empty')
  })
})

describe('offsets', () => {
  const commit = async (memberId: string, epoch: number, version = 9) => {
    const { topics } = await client.request('OffsetCommit', version, {
      groupId: 'g',
      memberId,
      generationIdOrMemberEpoch: epoch,
      topics: [{ name: 't', partitions: [{ partitionIndex: 0, committedOffset: 7, committedMetadata: '' }] }],
    })
    return topics[0].partitions[0].errorCode
  }
  const fetch = async (memberId: string | null, memberEpoch: number) => {
    const { groups } = await client.request('OffsetFetch', 9, {
      groups: [{ groupId: 'g', memberId, memberEpoch, topics: [{ name: 't', partitionIndexes: [0] }] }],
    })
    return groups[0].errorCode === 0
      ? groups[0].topics[0].partitions[0].committedOffset
      : -groups[0].errorCode
  }

  test('are committed and fetched with the member epoch', async () => {
    await join('ann')
    expect(await commit('ann', 2, 8)).toBe(35)
    expect(await commit('ann', 3)).toBe(113)
    expect(await commit('bob', 2)).toBe(25)
    expect(await commit('', -1)).toBe(25)
    expect(await commit('ann', 2)).toBe(0)
    expect(await fetch('ann', 2)).toBe(7)
    expect(await fetch(null, -1)).toBe(7)
    expect(await fetch('ann', 1)).toBe(-113)
    expect(await fetch('bob', 1)).toBe(-25)
    await heartbeat('ann', -1)
    expect(await commit('', -1)).toBe(0)
  })

  test('outlive a restart, which memberships do not: members are told to join again', async () => {
    await using disk = await Restarted.open()
    await disk.broker.createTopic({ name: 't', partitions: 1 })
    expect(disk.heartbeat(0)).toMatchObject({ error: null, memberEpoch: 2 })
    const identity = { memberId: 'ann', generation: 2, instanceId: null }
    const commit = { topic: 't', partition: 0, offset: 7, metadata: '' }
    expect(await disk.broker.commitEach('g', identity, [commit], true)).toEqual([null])
    await disk.restart()
    expect(disk.heartbeat(2)).toMatchObject({ error: 'UNKNOWN_MEMBER' })
    expect(disk.heartbeat(0)).toMatchObject({ error: null, memberEpoch: 2 })
    expect(disk.broker.committed('g', 't', 0)).toMatchObject({ offset: 7 })
  })

  test('are kept while members read the topic, and go with the group', async () => {
    await join('ann')
    await commit('ann', 2)
    const remove = async () => {
      const { topics } = await client.request('OffsetDelete', 0, {
        groupId: 'g',
        topics: [{ name: 't', partitions: [{ partitionIndex: 0 }] }],
      })
      return topics[0].partitions[0].errorCode
    }
    const deleteGroup = async () =>
      (await client.request('DeleteGroups', 2, { groupsNames: ['g'] })).results[0].errorCode
    expect([await remove(), await deleteGroup()]).toEqual([86, 68])
    await heartbeat('ann', -1)
    expect(await deleteGroup()).toBe(0)
    expect(await fetch(null, -1)).toBe(-1)
  })

  test('expire when the group has had no members for long enough', async () => {
    await join('ann')
    await commit('ann', 2)
    await heartbeat('ann', -1)
    const pass = async (days: number) => {
      for (let day = 0; day < days; day++) await server.clock.advance(DAY_MS)
      // the other one was idle for too long
      client = await server.client()
    }
    await pass(6)
    expect(await fetch(null, -1)).toBe(7)
    await pass(3)
    expect(await fetch(null, -1)).toBe(-1)
    expect((await describeGroup()).errorCode).toBe(69)
  })
})

describe('tools', () => {
  test('see members, what they hold and what they shall hold', async () => {
    await join('ann', { instanceId: 'i', rackId: 'r', subscribedTopicRegex: 'orders-.*' })
    await join('bob')
    const partitions = (...all: number[]) => ({
      topicPartitions: [{ topicId, topicName: 't', partitions: all }],
    })
    expect(await describeGroup()).toMatchObject({
      errorCode: 0,
      groupState: 'Reconciling',
      groupEpoch: 3,
      assignmentEpoch: 3,
      assignorName: 'uniform',
      authorizedOperations: 3400,
      members: [
        {
          memberId: 'ann',
          instanceId: 'i',
          rackId: 'r',
          memberEpoch: 2,
          clientId: 'raw',
          clientHost: '/127.0.0.1',
          subscribedTopicNames: ['t'],
          subscribedTopicRegex: 'orders-.*',
          assignment: partitions(0, 1, 2, 3),
          targetAssignment: partitions(0, 1),
          memberType: 1,
        },
        { memberId: 'bob', assignment: { topicPartitions: [] }, targetAssignment: partitions(2, 3) },
      ],
    })
    expect(await describeGroup('g', 0)).toMatchObject({
      groupState: 'Reconciling',
      authorizedOperations: -2147483648,
    })
    expect(await describeGroup('nowhere')).toMatchObject({ errorCode: 69, groupId: 'nowhere' })
    expect(await describeGroup('')).toMatchObject({ errorCode: 24 })
    expect(server.broker.describeGroup('g')).toMatchObject({
      type: 'consumer',
      state: 'reconciling',
      generation: 3,
    })
  })

  test('tell the two kinds of groups apart', async () => {
    await join('ann')
    server.broker.groups.ensure('old')
    const consumer = { groupId: 'g', protocolType: 'consumer', groupState: 'Stable', groupType: 'consumer' }
    expect(await list()).toEqual([
      consumer,
      expect.objectContaining({ groupId: 'old', groupType: 'classic' }),
    ])
    expect(await list({ typesFilter: ['Consumer'] })).toEqual([consumer])
    expect(await list({ typesFilter: ['classic'] })).toMatchObject([{ groupId: 'old' }])
    expect(await list({ statesFilter: ['Reconciling'] })).toEqual([])
    expect((await describeGroup('old')).errorCode).toBe(69)
    for (const [version, errorCode] of [
      [5, 0],
      [6, 69],
    ] as const) {
      const { groups } = await client.request('DescribeGroups', version, { groups: ['g'] })
      expect(groups).toMatchObject([{ errorCode, groupState: 'Dead', members: [] }])
    }
  })

  test('classic members are refused as long as there are others, and the other way round', async () => {
    const classic = async () =>
      (
        await client.request('JoinGroup', 3, {
          groupId: 'g',
          sessionTimeoutMs: 10_000,
          rebalanceTimeoutMs: 10_000,
          memberId: '',
          protocolType: 'consumer',
          protocols: [{ name: 'range', metadata: Buffer.alloc(0) }],
        })
      ).errorCode
    await join('ann')
    expect(await classic()).toBe(23)
    await heartbeat('ann', -1)
    expect(await classic()).toBe(0)
    expect((await join('ann')).errorCode).toBe(69)
  })
})
