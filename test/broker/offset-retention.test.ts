/** How long committed offsets are kept: as long as somebody reads with them, and seven days after nobody does any more. */

import { afterEach, beforeEach, expect, test } from 'vitest'
import { Broker } from '../../src/broker/broker.ts'
import { encodeMember } from '../../src/broker/consumer-protocol.ts'
import type { Disk } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

let clock: VirtualClock
let disk: Disk
let broker: Broker

const run = async <T>(promise: Promise<T>): Promise<T> => {
  await clock.runDeferred()
  return promise
}
const open = async () => {
  broker = await run(Broker.open({ disk, path: 'data', clock }))
}
const reopen = async () => {
  await run(broker.close())
  await open()
}
const commit = (
  group: string,
  topic = 't',
  member: { memberId: string; generation: number } | null = null,
) => {
  const identity = member === null ? null : { ...member, instanceId: null }
  return run(
    broker.commit(group, identity, [{ topic, partition: 0, offset: 5, metadata: '', leaderEpoch: 2 }]),
  )
}

beforeEach(async () => {
  clock = new VirtualClock()
  disk = memoryDisk()
  await open()
  for (const name of ['t', 'u']) await run(broker.createTopic({ name }))
})
afterEach(() => run(broker.close()))

/** A member that is there until it is told to leave, or falls silent. */
async function join(
  group: string,
  sessionTimeoutMs = 1_800_000,
): Promise<{ memberId: string; generation: number }> {
  const joined = Promise.withResolvers<{ memberId: string; generation: number }>()
  const metadata = encodeMember('range', { topics: ['t'], owned: [], generation: -1 })
  broker.groups.join(
    {
      group,
      memberId: '',
      instanceId: null,
      clientId: 'c',
      clientHost: '',
      sessionTimeoutMs,
      rebalanceTimeoutMs: 60_000,
      protocolType: 'consumer',
      protocols: [{ name: 'range', metadata }],
      requireKnownMemberId: false,
    },
    clock.monotonic(),
    joined.resolve,
  )
  const { memberId, generation } = await run(joined.promise)
  const sync = { group, memberId, generation, instanceId: null, assignments: [] }
  broker.groups.sync(sync, clock.monotonic(), () => {})
  broker.watchGroups()
  return { memberId, generation }
}

/** Lets time pass with a heartbeat now and then. */
async function live(
  group: string,
  member: { memberId: string; generation: number },
  ms: number,
): Promise<void> {
  for (let left = ms; left > 0; left -= HOUR_MS / 4) {
    await clock.advance(HOUR_MS / 4)
    broker.groups.heartbeat({ group, ...member, instanceId: null }, clock.monotonic())
    broker.watchGroups()
  }
}

test('offsets of a group that never had members go seven days after the commit, and the group with them', async () => {
  await commit('g')
  await clock.advance(4 * DAY_MS)
  await commit('g', 'u')
  await clock.advance(3 * DAY_MS + HOUR_MS)
  expect(broker.allCommitted('g').map(({ topic }) => topic)).toEqual(['u'])
  await clock.advance(4 * DAY_MS)
  expect(broker.allCommitted('g')).toEqual([])
  expect(broker.listGroups()).toEqual([])
  await reopen()
  expect(broker.listGroups()).toEqual([])
})

test('members keep the offsets of what they read, whatever their age; of other topics they go', async () => {
  const member = await join('g')
  await commit('g', 't', member)
  await commit('g', 'u', member)
  await live('g', member, 8 * DAY_MS)
  expect(broker.allCommitted('g').map(({ topic }) => topic)).toEqual(['t'])
})

test('the seven days begin when the last member has gone', async () => {
  const member = await join('g')
  await commit('g', 't', member)
  await live('g', member, 10 * DAY_MS)
  broker.groups.leave('g', [{ memberId: member.memberId, instanceId: null }], clock.monotonic())
  await clock.advance(7 * DAY_MS - HOUR_MS)
  expect(broker.allCommitted('g').length).toBe(1)
  await clock.advance(2 * HOUR_MS)
  expect(broker.allCommitted('g')).toEqual([])
})

test('a restart does not begin to count anew', async () => {
  await commit('tool')
  const member = await join('g')
  await commit('g', 't', member)
  broker.groups.leave('g', [{ memberId: member.memberId, instanceId: null }], clock.monotonic())
  for (let days = 0; days < 6; days++) {
    await clock.advance(DAY_MS)
    await reopen()
  }
  expect(broker.committed('g', 't', 0)).toMatchObject({ offset: 5, leaderEpoch: 2 })
  await clock.advance(DAY_MS + HOUR_MS)
  expect(broker.allCommitted('g')).toEqual([])
  // Never more than its offsets: it counts from the first start after the commit.
  expect(broker.allCommitted('tool').length).toBe(1)
  await clock.advance(DAY_MS)
  expect(broker.allCommitted('tool')).toEqual([])
})

test('a group that had members when the broker stopped has all its time from the start on', async () => {
  const member = await join('g')
  await commit('g', 't', member)
  broker.groups.leave('g', [{ memberId: member.memberId, instanceId: null }], clock.monotonic())
  await clock.advance(5 * DAY_MS)
  await live('g', await join('g'), 5 * DAY_MS)
  await reopen()
  await clock.advance(7 * DAY_MS - HOUR_MS)
  expect(broker.allCommitted('g').length).toBe(1)
  await clock.advance(2 * HOUR_MS)
  expect(broker.allCommitted('g')).toEqual([])
})

test('groups without members and offsets are forgotten', async () => {
  await join('silent', 6_000)
  await clock.advance(HOUR_MS)
  expect(broker.listGroups()).toEqual([])
})

test('one bad offset keeps no other from being stored', async () => {
  const offset = (topic: string, metadata = '') => ({ topic, partition: 0, offset: 1, metadata })
  const commits = [offset('t'), offset('nowhere'), offset('u', 'x'.repeat(5000))]
  expect(await run(broker.commitEach('g', null, commits))).toEqual([
    null,
    'UNKNOWN_TOPIC',
    'OFFSET_METADATA_TOO_LARGE',
  ])
  expect(broker.allCommitted('g').map(({ topic }) => topic)).toEqual(['t'])
  const stranger = { memberId: 'm', generation: 1, instanceId: null }
  await expect(broker.commitEach('g', stranger, commits)).rejects.toMatchObject({
    code: 'UNKNOWN_MEMBER',
  })
})

test('a topic is found by its id until it is deleted', async () => {
  const { id } = broker.topic('t')
  expect(broker.findTopicById(id)?.name).toBe('t')
  await reopen()
  expect(broker.findTopicById(id)?.name).toBe('t')
  await run(broker.deleteTopic('t'))
  expect(broker.findTopicById(id)).toBeUndefined()
})
