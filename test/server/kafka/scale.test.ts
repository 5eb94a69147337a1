/**
 * Large numbers over sockets: a thousand connections that all work while hostile ones are among them, a topic of a thousand partitions,
 * groups of a hundred members in both protocols.
 */

import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { assign } from '../../../src/broker/assignor.ts'
import {
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
} from '../../../src/broker/consumer-protocol.ts'
import { batchOf, fetchOf, produceOf, type RawClient, RawServer, type ResponseOutput } from './raw-client.ts'

const CONNECTIONS = 1000
const PARTITIONS = 1000
const MEMBERS = 100

const REBALANCE_IN_PROGRESS = 27
const MEMBER_ID_REQUIRED = 79

const indexes = Array.from({ length: PARTITIONS }, (_, index) => index)

/** Asks about all partitions of `t` at once; what is asked for is missing if an answer lacks a partition. */
async function fetchAll(client: RawClient): Promise<number> {
  const ends = new Map<number, number>()
  // An answer has room for so many partitions only.
  while (ends.size < PARTITIONS) {
    const wanted = indexes.filter(index => !ends.has(index)).map(partition => ({ partition, fetchOffset: 0 }))
    const { responses } = await client.request('Fetch', 11, fetchOf('t', wanted, { maxBytes: 1024 * 1024 }))
    for (const { partitionIndex, errorCode, records, highWatermark } of responses[0].partitions) {
      expect(errorCode).toBe(0)
      if (records && records.length > 0) ends.set(partitionIndex, highWatermark)
    }
  }
  return [...ends.values()].reduce((sum, end) => sum + end, 0)
}

test('a thousand connections produce and fetch at once, hostile ones among them', async () => {
  await using server = await RawServer.start({ connectionsMax: 1100 })
  const topic = await server.topic('t', 10)
  const clients = await Promise.all(Array.from({ length: CONNECTIONS }, () => server.client()))
  const huge = Buffer.from([0x7f, 0xff, 0xff, 0xff])
  const hostile = await Promise.all(Array.from({ length: 30 }, () => server.client()))
  for (const [index, client] of hostile.entries()) {
    if (index % 3 === 0) client.socket.write(huge)
    else if (index % 3 === 1) client.socket.write('GET / HTTP/1.1\r\n\r\n')
    else client.socket.write(Buffer.from([0, 0, 1, 0, 0, 3])) // half a frame, and silence
  }
  const offsets = await Promise.all(
    clients.map(async (client, index) => {
      const produced = await client.request(
        'Produce',
        9,
        produceOf('t', batchOf([`${index}`]), -1, index % 10),
      )
      const { errorCode, baseOffset } = produced.responses[0].partitionResponses[0]
      expect(errorCode).toBe(0)
      const wanted = [{ partition: index % 10, fetchOffset: baseOffset }]
      const { responses } = await client.request('Fetch', 11, fetchOf('t', wanted))
      const value = batchOf([`${index}`]).subarray(61)
      expect(Buffer.from(responses[0].partitions[0].records!).includes(value)).toBe(true)
      return `${index % 10}:${baseOffset}`
    }),
  )
  expect(new Set(offsets).size).toBe(CONNECTIONS)
  expect(topic.partitions.map(partition => partition.highWatermark)).toEqual(Array(10).fill(100))
  await Promise.all(hostile.filter((_, index) => index % 3 < 2).map(client => client.closed()))
  expect(server.kafka.connections.open).toBe(CONNECTIONS + 10)
})

test('a topic of a thousand partitions is made, described, written and read', async () => {
  await using server = await RawServer.start()
  const client = await server.client()
  const made = await client.request('CreateTopics', 5, {
    topics: [{ name: 't', numPartitions: PARTITIONS, replicationFactor: 1, assignments: [], configs: [] }],
    timeoutMs: 10_000,
  })
  expect(made.topics[0]).toMatchObject({ errorCode: 0, numPartitions: PARTITIONS })
  const { topics } = await client.request('Metadata', 9, { topics: [{ name: 't' }] })
  expect(topics[0].partitions.map(partition => partition.partitionIndex).sort((a, b) => a - b)).toEqual(
    indexes,
  )
  const partitionData = indexes.map(index => ({ index, records: batchOf([`${index}`, 'x']) }))
  const produced = await client.request('Produce', 9, {
    acks: -1,
    timeoutMs: 10_000,
    topicData: [{ name: 't', partitionData }],
  })
  expect(produced.responses[0].partitionResponses.every(({ errorCode }) => errorCode === 0)).toBe(true)
  expect(await fetchAll(client)).toBe(2 * PARTITIONS)
  const ends = await client.request('ListOffsets', 6, {
    replicaId: -1,
    isolationLevel: 0,
    topics: [{ name: 't', partitions: indexes.map(partitionIndex => ({ partitionIndex, timestamp: -1 })) }],
  })
  expect(ends.topics[0].partitions.map(({ offset }) => offset)).toEqual(Array(PARTITIONS).fill(2))
})

describe('a group of a hundred members shares a thousand partitions', () => {
  /** A member of the classic protocol on a connection of its own. */
  class ClassicMember {
    readonly client: RawClient
    readonly #server: RawServer
    memberId = ''
    generationId = -1
    assigned: number[] = []

    constructor(client: RawClient, server: RawServer) {
      this.client = client
      this.#server = server
    }

    /** Joins until it has an assignment and a heartbeat finds nothing new. */
    async settle(): Promise<void> {
      while ((await this.#heartbeat()) !== 0) {
        const joined = await this.#join()
        if (joined.errorCode === 0) await this.#sync(joined)
      }
    }

    async leave(): Promise<void> {
      const members = [{ memberId: this.memberId, groupInstanceId: null }]
      const { errorCode } = await this.client.request('LeaveGroup', 4, { groupId: 'g', members })
      expect(errorCode).toBe(0)
    }

    async #heartbeat(): Promise<number> {
      if (this.generationId < 0) return REBALANCE_IN_PROGRESS
      const { memberId, generationId } = this
      return (await this.client.request('Heartbeat', 4, { groupId: 'g', generationId, memberId })).errorCode
    }

    async #join(): Promise<ResponseOutput<'JoinGroup'>> {
      const metadata = encodeMember('range', { topics: ['t'], owned: [], generation: -1 })
      const joined = await this.client.request('JoinGroup', 7, {
        groupId: 'g',
        sessionTimeoutMs: 10_000,
        rebalanceTimeoutMs: 60_000,
        memberId: this.memberId,
        protocolType: 'consumer',
        protocols: [{ name: 'range', metadata }],
      })
      expect([0, MEMBER_ID_REQUIRED, REBALANCE_IN_PROGRESS]).toContain(joined.errorCode)
      this.memberId = joined.memberId
      return joined
    }

    async #sync({ generationId, leader, members }: ResponseOutput<'JoinGroup'>): Promise<void> {
      const subscribed = members.map(each => decodeMember('range', each.memberId, null, each.metadata))
      const shares =
        leader === this.memberId
          ? assign('range', subscribed, topic => this.#server.broker.topic(topic).partitions.length)
          : []
      const synced = await this.client.request('SyncGroup', 5, {
        groupId: 'g',
        generationId,
        memberId: this.memberId,
        protocolType: 'consumer',
        protocolName: 'range',
        assignments: [...shares].map(([memberId, partitions]) => ({
          memberId,
          assignment: encodeAssignment({ partitions, userData: null }),
        })),
      })
      expect([0, REBALANCE_IN_PROGRESS]).toContain(synced.errorCode)
      if (synced.errorCode !== 0) return
      this.generationId = generationId
      this.assigned = decodeAssignment(synced.assignment).partitions.map(({ partition }) => partition)
    }
  }

  async function settled(members: readonly ClassicMember[]): Promise<void> {
    do await Promise.all(members.map(member => member.settle()))
    while (new Set(members.map(member => member.generationId)).size > 1)
    expect(members.flatMap(member => member.assigned).sort((a, b) => a - b)).toEqual(indexes)
  }

  test('in the classic protocol', async () => {
    await using server = await RawServer.start({ connectionsMax: MEMBERS + 1 })
    await server.topic('t', PARTITIONS)
    const members = await Promise.all(
      Array.from({ length: MEMBERS }, async () => new ClassicMember(await server.client(), server)),
    )
    await settled(members)
    expect(members.map(member => member.assigned.length)).toEqual(Array(MEMBERS).fill(PARTITIONS / MEMBERS))
    const [first, ...others] = members
    await first.leave()
    await settled(others)
    const [{ memberId, generationId }] = others
    const client = await server.client()
    const partitions = indexes.map(partitionIndex => ({
      partitionIndex,
      committedOffset: 7,
      committedMetadata: '',
    }))
    const committed = await client.request('OffsetCommit', 8, {
      groupId: 'g',
      generationIdOrMemberEpoch: generationId,
      memberId,
      topics: [{ name: 't', partitions }],
    })
    expect(committed.topics[0].partitions.every(({ errorCode }) => errorCode === 0)).toBe(true)
    const { groups } = await client.request('DescribeGroups', 5, { groups: ['g'] })
    expect(groups[0]).toMatchObject({ groupState: 'Stable', members: { length: MEMBERS - 1 } })
  })

  test('in the consumer protocol', async () => {
    await using server = await RawServer.start({ connectionsMax: MEMBERS + 1 })
    await server.topic('t', PARTITIONS)
    const members = await Promise.all(
      Array.from({ length: MEMBERS }, async () => ({
        client: await server.client(),
        memberId: randomUUID(),
        memberEpoch: 0,
        assigned: [] as { topicId: string; partitions: number[] }[],
      })),
    )
    const shares = () => members.map(member => member.assigned.flatMap(each => each.partitions))
    const isFair = () => shares().every(share => share.length === PARTITIONS / MEMBERS)
    // Each says what it has, takes what it is given, and so on until all is given out.
    for (let round = 0; round < 100 && !isFair(); round++) {
      await Promise.all(
        members.map(async member => {
          const answer = await member.client.request('ConsumerGroupHeartbeat', 1, {
            groupId: 'g',
            memberId: member.memberId,
            memberEpoch: member.memberEpoch,
            rebalanceTimeoutMs: 60_000,
            subscribedTopicNames: ['t'],
            topicPartitions: member.assigned,
          } as never)
          expect(answer.errorCode).toBe(0)
          member.memberEpoch = answer.memberEpoch
          if (answer.assignment !== null) {
            member.assigned = (
              answer.assignment as { topicPartitions: typeof member.assigned }
            ).topicPartitions
          }
        }),
      )
    }
    expect(
      shares()
        .flat()
        .sort((a, b) => a - b),
    ).toEqual(indexes)
    expect(isFair()).toBe(true)
  })
})
