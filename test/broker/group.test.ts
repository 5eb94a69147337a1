/** One group through all its transitions, by way of `Groups`, as its users see it. */

import { beforeEach, describe, expect, test } from 'vitest'
import { encodeAssignment, encodeMember } from '../../src/broker/consumer-protocol.ts'
import type { GroupState, JoinRequest, JoinResult, SyncRequest, SyncResult } from '../../src/broker/group.ts'
import { Groups, type GroupsOptions } from '../../src/broker/groups.ts'

const SESSION = 10_000
const REBALANCE = 60_000

/** A request that has been made, and the answers it got: none yet, or one. */
interface Asked<Result> {
  readonly answers: Result[]
}

let now: number
let groups: Groups
let emptied: string[]
let rebalances: string[]

function start(options: Partial<GroupsOptions> = {}): void {
  let ids = 0
  now = 1_000
  emptied = []
  rebalances = []
  groups = new Groups({
    newId: () => `${++ids}`,
    sessionTimeoutMsMin: 1,
    onEmpty: group => emptied.push(group),
    onRebalance: (group, reason) => rebalances.push(`${group}: ${reason}`),
    ...options,
  })
}
beforeEach(() => start())

const metadata = (text: string) => Buffer.from(text)

function join(memberId: string, options: Partial<JoinRequest> = {}): Asked<JoinResult> {
  const answers: JoinResult[] = []
  const request: JoinRequest = {
    group: 'g',
    memberId,
    instanceId: null,
    clientId: 'client',
    clientHost: '/10.0.0.1',
    sessionTimeoutMs: SESSION,
    rebalanceTimeoutMs: REBALANCE,
    protocolType: 'consumer',
    protocols: [{ name: 'range', metadata: metadata('m') }],
    requireKnownMemberId: false,
    ...options,
  }
  groups.join(request, now, result => answers.push(result))
  return { answers }
}

function sync(memberId: string, generation: number, options: Partial<SyncRequest> = {}): Asked<SyncResult> {
  const answers: SyncResult[] = []
  const request: SyncRequest = {
    group: 'g',
    memberId,
    generation,
    instanceId: null,
    assignments: [],
    ...options,
  }
  groups.sync(request, now, result => answers.push(result))
  return { answers }
}

const heartbeat = (memberId: string, generation: number, instanceId: string | null = null) =>
  groups.heartbeat({ group: 'g', memberId, generation, instanceId }, now)
const commit = (memberId: string, generation: number, instanceId: string | null = null) =>
  groups.checkCommit('g', { memberId, generation, instanceId }, now)
const leave = (memberId: string, instanceId: string | null = null) =>
  groups.leave('g', [{ memberId, instanceId }], now)[0].error
const describeGroup = () => groups.describe('g')!
const memberIds = () => describeGroup().members.map(member => member.memberId)

function pass(ms: number): void {
  now += ms
  groups.expire(now)
}

/** As `pass`, with a heartbeat of these members every few seconds. */
function passBeating(ms: number, generation: number, ...ids: string[]): void {
  for (let left = ms; left > 0; left -= 3_000) {
    pass(Math.min(left, 3_000))
    for (const id of ids) heartbeat(id, generation)
  }
}

const answer = <Result>({ answers }: Asked<Result>): Result => {
  expect(answers).toHaveLength(1)
  return answers[0]
}
const waits = ({ answers }: Asked<unknown>) => answers.length === 0

/** Takes a group of this many members to `state`; ids `client-1`, … , the first leads. Returns the generation. */
function grow(size: number, state: GroupState): number {
  const ids = Array.from({ length: size }, (_, i) => `client-${i + 1}`)
  for (let i = 0; i < size; i++) {
    join('')
    if (i > 0) for (const id of ids.slice(0, i)) join(id)
  }
  const { generation } = describeGroup()
  if (state !== 'completing-rebalance') {
    for (const id of ids.slice(1)) sync(id, generation)
    sync(ids[0], generation, {
      assignments: ids.map(memberId => ({ memberId, assignment: metadata(`for ${memberId}`) })),
    })
  }
  if (state === 'preparing-rebalance') join(ids[0])
  expect(describeGroup().state).toBe(state)
  return generation
}

describe('the first member', () => {
  test('joins, leads, brings the assignment and is stable', () => {
    const first = answer(join(''))
    expect(first).toEqual({
      error: null,
      generation: 1,
      protocolType: 'consumer',
      protocol: 'range',
      leader: 'client-1',
      memberId: 'client-1',
      members: [{ memberId: 'client-1', instanceId: null, metadata: metadata('m') }],
      skipAssignment: false,
    })
    expect(describeGroup().state).toBe('completing-rebalance')
    const assignments = [{ memberId: 'client-1', assignment: metadata('everything') }]
    expect(answer(sync('client-1', 1, { assignments }))).toEqual({
      error: null,
      protocolType: 'consumer',
      protocol: 'range',
      assignment: metadata('everything'),
    })
    expect(describeGroup().state).toBe('stable')
    expect(heartbeat('client-1', 1)).toBe(null)
  })

  test('is given an id first if it asks so, and joins with it', () => {
    const asked = answer(join('', { requireKnownMemberId: true }))
    expect(asked).toMatchObject({
      error: 'MEMBER_ID_REQUIRED',
      memberId: 'client-1',
      generation: -1,
      members: [],
    })
    expect(describeGroup()).toMatchObject({ state: 'empty', members: [] })
    const joined = answer(join('client-1', { requireKnownMemberId: true }))
    expect(joined).toMatchObject({ error: null, memberId: 'client-1', generation: 1 })
  })

  test('a static member needs no id first', () => {
    const joined = answer(join('', { requireKnownMemberId: true, instanceId: 'i' }))
    expect(joined).toMatchObject({ error: null, memberId: 'i-1', generation: 1 })
  })
})

describe('ids that were given out', () => {
  test('many join at once: each gets its place, none is told that it is unknown', () => {
    const ids = Array.from({ length: 20 }, () => answer(join('', { requireKnownMemberId: true })).memberId)
    const asked = ids.map(id => join(id))
    // the first did not wait for the others; it joins again as it would when told by a heartbeat
    expect(answer(asked[0]).error).toBe(null)
    expect(heartbeat(ids[0], 1)).toBe('REBALANCE_IN_PROGRESS')
    const again = join(ids[0])
    for (const one of [...asked.slice(1), again])
      expect(answer(one)).toMatchObject({ error: null, generation: 2 })
    expect(memberIds().sort()).toEqual([...ids].sort())
  })

  test('one that is not used holds a rebalance up until it lapses with its session time-out', () => {
    grow(1, 'stable')
    join('', { requireKnownMemberId: true })
    const other = join('')
    const again = join('client-1')
    expect(waits(again) && waits(other)).toBe(true)
    pass(SESSION - 1)
    expect(waits(again)).toBe(true)
    pass(1)
    expect(answer(again)).toMatchObject({ error: null, generation: 2 })
    expect(answer(other)).toMatchObject({ error: null, generation: 2 })
    expect(answer(join('client-2')).error).toBe('UNKNOWN_MEMBER')
  })

  test('one can be given back', () => {
    join('', { requireKnownMemberId: true })
    expect(leave('client-1')).toBe(null)
    expect(emptied).toEqual(['g'])
    expect(answer(join('client-1')).error).toBe('UNKNOWN_MEMBER')
  })

  test('one cannot be used by a static member', () => {
    join('', { requireKnownMemberId: true })
    expect(answer(join('client-1', { instanceId: 'i' })).error).toBe('UNKNOWN_MEMBER')
  })

  test('there are no more at a time than a group has room', () => {
    start({ groupSizeMax: 2 })
    for (let i = 0; i < 2; i++) join('', { requireKnownMemberId: true })
    expect(answer(join('', { requireKnownMemberId: true }))).toMatchObject({
      error: 'GROUP_FULL',
      memberId: '',
    })
    pass(SESSION)
    expect(answer(join('', { requireKnownMemberId: true })).error).toBe('MEMBER_ID_REQUIRED')
  })
})

describe('a rebalance', () => {
  test('a second member: the first is told by heartbeat, joins again, both get the next generation', () => {
    grow(1, 'stable')
    const second = join('', { protocols: [{ name: 'range', metadata: metadata('n') }] })
    expect(describeGroup().state).toBe('preparing-rebalance')
    expect(waits(second)).toBe(true)
    expect(heartbeat('client-1', 1)).toBe('REBALANCE_IN_PROGRESS')
    expect(answer(sync('client-1', 1)).error).toBe('REBALANCE_IN_PROGRESS')

    const first = answer(join('client-1'))
    const members = [
      { memberId: 'client-1', instanceId: null, metadata: metadata('m') },
      { memberId: 'client-2', instanceId: null, metadata: metadata('n') },
    ]
    expect(first).toMatchObject({ error: null, generation: 2, leader: 'client-1', members })
    expect(answer(second)).toMatchObject({ error: null, generation: 2, leader: 'client-1', members: [] })
    expect(rebalances).toHaveLength(2)
    expect(groups.counters.rebalances).toBe(2)
  })

  test('followers wait for the leader; then each gets its own part, and who got none a valid empty one', () => {
    grow(3, 'completing-rebalance')
    const second = sync('client-2', 5)
    const generation = describeGroup().generation
    expect(answer(second).error).toBe('ILLEGAL_GENERATION')
    const follower = sync('client-2', generation)
    expect(waits(follower)).toBe(true)
    const assignments = [
      { memberId: 'client-2', assignment: metadata('two') },
      { memberId: 'somebody else', assignment: metadata('x') },
      { memberId: 'client-1', assignment: metadata('one') },
    ]
    expect(answer(sync('client-1', generation, { assignments })).assignment).toEqual(metadata('one'))
    expect(answer(follower).assignment).toEqual(metadata('two'))
    const late = answer(sync('client-3', generation))
    expect(late.error).toBe(null)
    expect(Buffer.from(late.assignment)).toEqual(encodeAssignment({ partitions: [], userData: null }))
  })

  test('a group of another protocol type gets no bytes where it is assigned nothing', () => {
    join('', { protocolType: 'connect' })
    expect(answer(sync('client-1', 1)).assignment).toHaveLength(0)
  })

  test('sync names protocol and type: they are checked', () => {
    grow(1, 'stable')
    expect(answer(sync('client-1', 1, { protocolType: 'consumer', protocol: 'range' })).error).toBe(null)
    expect(answer(sync('client-1', 1, { protocolType: 'connect' })).error).toBe('INCONSISTENT_GROUP_PROTOCOL')
    expect(answer(sync('client-1', 1, { protocol: 'sticky' })).error).toBe('INCONSISTENT_GROUP_PROTOCOL')
  })

  test('who does not join again within the rebalance time-out is out', () => {
    grow(3, 'stable')
    const generation = describeGroup().generation
    const third = join('client-3', { protocols: [{ name: 'range', metadata: metadata('changed') }] })
    const first = join('client-1')
    passBeating(REBALANCE - 1, generation, 'client-2')
    expect(waits(third) && waits(first)).toBe(true)
    pass(1)
    expect(answer(third)).toMatchObject({ error: null, generation: generation + 1 })
    expect(memberIds()).toEqual(['client-1', 'client-3'])
    expect(heartbeat('client-2', generation)).toBe('UNKNOWN_MEMBER')
    expect(commit('client-2', generation)).toBe('UNKNOWN_MEMBER')
    expect(groups.counters.expirations).toBe(1)
  })

  test('a leader that does not join again is replaced by the oldest member that did', () => {
    const generation = grow(3, 'stable')
    const joins = ['client-3', 'client-2'].map(id =>
      join(id, { protocols: [{ name: 'range', metadata: metadata('changed') }] }),
    )
    passBeating(REBALANCE, generation, 'client-1')
    expect(joins.map(answer)).toMatchObject([{ leader: 'client-2', members: [] }, { leader: 'client-2' }])
    expect(answer(joins[1]).members).toHaveLength(2)
  })

  test('the longest rebalance time-out of the members counts', () => {
    join('', { rebalanceTimeoutMs: 5_000, sessionTimeoutMs: 100_000 })
    sync('client-1', 1)
    const second = join('', { rebalanceTimeoutMs: 20_000 })
    pass(19_999)
    expect(waits(second)).toBe(true)
    pass(1)
    expect(answer(second)).toMatchObject({ error: null, leader: 'client-2' })
  })

  test('while one waits for others to join, its session does not end; afterwards it does', () => {
    const generation = grow(2, 'stable')
    const waiting = join('client-1')
    passBeating(REBALANCE - 1, generation, 'client-2')
    expect(waits(waiting)).toBe(true)
    join('client-2')
    expect(answer(waiting).error).toBe(null)
    pass(SESSION)
    expect(describeGroup()).toMatchObject({ state: 'empty', members: [] })
  })

  test('a new member whose join is not answered for five minutes is dropped', () => {
    join('', { rebalanceTimeoutMs: 3_600_000 })
    sync('client-1', 1)
    const second = join('')
    passBeating(5 * 60_000 - 1, 1, 'client-1')
    expect(waits(second)).toBe(true)
    pass(1)
    expect(answer(second)).toMatchObject({ error: 'UNKNOWN_MEMBER', memberId: '' })
    expect(memberIds()).toEqual(['client-1'])
  })

  test('during the wait for the assignment another join starts over; who waits is asked to join again', () => {
    const generation = grow(2, 'completing-rebalance')
    const waiting = sync('client-2', generation)
    join('')
    expect(answer(waiting).error).toBe('REBALANCE_IN_PROGRESS')
    expect(describeGroup().state).toBe('preparing-rebalance')
  })
})

describe('a leader that fails', () => {
  test('its session ends before it has assigned: the followers are asked to join again, and one of them leads', () => {
    const generation = grow(3, 'completing-rebalance')
    const waiting = ['client-2', 'client-3'].map(id => sync(id, generation))
    pass(SESSION)
    expect(waiting.map(answer)).toMatchObject([
      { error: 'REBALANCE_IN_PROGRESS' },
      { error: 'REBALANCE_IN_PROGRESS' },
    ])
    const joins = ['client-3', 'client-2'].map(id => join(id))
    expect(joins.map(answer)).toMatchObject([{ leader: 'client-2' }, { leader: 'client-2' }])
  })

  test('it lives but does not assign: after the rebalance time-out it is out', () => {
    const generation = grow(2, 'completing-rebalance')
    const waiting = sync('client-2', generation)
    passBeating(REBALANCE - 1, generation, 'client-1')
    expect(waits(waiting)).toBe(true)
    pass(1)
    expect(answer(waiting).error).toBe('REBALANCE_IN_PROGRESS')
    expect(memberIds()).toEqual(['client-2'])
    expect(heartbeat('client-1', generation)).toBe('UNKNOWN_MEMBER')
  })

  test('a follower that never asks for its assignment is out after the same time, though it lives', () => {
    const generation = grow(2, 'completing-rebalance')
    sync('client-1', generation)
    passBeating(REBALANCE - 1, generation, 'client-1', 'client-2')
    expect(memberIds()).toEqual(['client-1', 'client-2'])
    pass(1)
    expect(memberIds()).toEqual(['client-1'])
    expect(describeGroup().state).toBe('preparing-rebalance')
  })
})

describe('joining again', () => {
  test('a follower that comes as it came gets the same generation at once, without disturbing anyone', () => {
    const generation = grow(2, 'stable')
    expect(answer(join('client-2'))).toMatchObject({
      error: null,
      generation,
      leader: 'client-1',
      members: [],
    })
    expect(describeGroup().state).toBe('stable')
    expect(answer(sync('client-2', generation)).assignment).toEqual(metadata('for client-2'))
  })

  test('a follower with other metadata, or other protocols, causes a rebalance', () => {
    for (const protocols of [
      [{ name: 'range', metadata: metadata('other') }],
      [
        { name: 'range', metadata: metadata('m') },
        { name: 'sticky', metadata: metadata('m') },
      ],
    ]) {
      start()
      grow(2, 'stable')
      expect(waits(join('client-2', { protocols }))).toBe(true)
      expect(describeGroup().state).toBe('preparing-rebalance')
    }
  })

  test('a leader that comes to a stable group causes a rebalance, even as it came', () => {
    const generation = grow(2, 'stable')
    expect(waits(join('client-1'))).toBe(true)
    expect(heartbeat('client-2', generation)).toBe('REBALANCE_IN_PROGRESS')
  })

  test('members that lost the answer get it again, the leader with all members', () => {
    const generation = grow(2, 'completing-rebalance')
    expect(answer(join('client-1'))).toMatchObject({ error: null, generation, leader: 'client-1' })
    expect(answer(join('client-1')).members).toHaveLength(2)
    expect(answer(join('client-2'))).toMatchObject({ error: null, generation, members: [] })
    expect(describeGroup().state).toBe('completing-rebalance')
  })

  test('a request repeated while it waits takes the place of the first, which is answered', () => {
    const generation = grow(2, 'stable')
    const lost = join('client-1')
    const again = join('client-1')
    expect(answer(lost).error).toBe('REBALANCE_IN_PROGRESS')
    join('client-2')
    expect(answer(again)).toMatchObject({ error: null, generation: generation + 1 })
    const lostSync = sync('client-2', generation + 1)
    const againSync = sync('client-2', generation + 1)
    expect(answer(lostSync).error).toBe('REBALANCE_IN_PROGRESS')
    sync('client-1', generation + 1)
    expect(answer(againSync).error).toBe(null)
  })

  test('new time-outs hold from then on', () => {
    grow(1, 'stable')
    join('client-1', { sessionTimeoutMs: 2_000 })
    pass(1_999)
    expect(memberIds()).toEqual(['client-1'])
    pass(1)
    expect(memberIds()).toEqual([])
  })
})

describe('protocols', () => {
  const offers = (...names: string[]) => ({
    protocols: names.map(name => ({ name, metadata: metadata(name) })),
  })

  test('of those that all support, the one most members put first is chosen', () => {
    join('', offers('a', 'b', 'c'))
    const others = [join('', offers('c', 'b')), join('', offers('b', 'c'))]
    others.push(join('', offers('c', 'b', 'a')))
    const first = answer(join('client-1', offers('a', 'b', 'c')))
    expect(first.protocol).toBe('b')
    expect(first.members.map(member => Buffer.from(member.metadata).toString())).toEqual(['b', 'b', 'b', 'b'])
    expect(others.map(answer)).toMatchObject([{ protocol: 'b' }, { protocol: 'b' }, { protocol: 'b' }])
  })

  test('who shares none with all members, has another type, or names nothing at all is refused', () => {
    expect(answer(join('', { protocols: [] })).error).toBe('INCONSISTENT_GROUP_PROTOCOL')
    expect(answer(join('', { protocolType: '' })).error).toBe('INCONSISTENT_GROUP_PROTOCOL')
    join('', offers('a', 'b'))
    sync('client-1', 1)
    join('', offers('b', 'c'))
    for (const options of [offers('a'), offers('c'), offers(), { ...offers('b'), protocolType: 'connect' }]) {
      expect(answer(join('', options))).toMatchObject({ error: 'INCONSISTENT_GROUP_PROTOCOL', memberId: '' })
    }
    expect(answer(join('client-1', offers('a'))).error).toBe('INCONSISTENT_GROUP_PROTOCOL')
    expect(answer(join('client-1', offers('b'))).error).toBe(null)
  })

  test('a group that has become empty takes another type', () => {
    grow(1, 'stable')
    leave('client-1')
    expect(answer(join('', { protocolType: 'connect' }))).toMatchObject({
      error: null,
      protocolType: 'connect',
    })
  })
})

describe('static members', () => {
  const restart = (options: Partial<JoinRequest> = {}) => join('', { instanceId: 'i', ...options })

  /** A static leader `i-1` and a dynamic follower `client-2`, stable in generation 2. */
  function pair(): void {
    restart()
    const second = join('')
    join('i-1', { instanceId: 'i' })
    expect(answer(second).generation).toBe(2)
    sync('client-2', 2)
    sync('i-1', 2, {
      instanceId: 'i',
      assignments: [
        { memberId: 'i-1', assignment: metadata('static') },
        { memberId: 'client-2', assignment: metadata('dynamic') },
      ],
    })
  }

  test('a restart causes no rebalance, and brings the same assignment', () => {
    pair()
    pass(SESSION - 1)
    heartbeat('client-2', 2)
    const back = answer(restart({ supportsSkipAssignment: true }))
    expect(back).toMatchObject({
      error: null,
      generation: 2,
      memberId: 'i-3',
      leader: 'i-3',
      skipAssignment: true,
    })
    expect(back.members).toHaveLength(2)
    expect(heartbeat('client-2', 2)).toBe(null)
    expect(answer(sync('i-3', 2, { instanceId: 'i' })).assignment).toEqual(metadata('static'))
    expect(describeGroup().state).toBe('stable')
    // the session is that of the newcomer
    pass(SESSION - 1)
    heartbeat('client-2', 2)
    expect(memberIds()).toContain('i-3')
    pass(1)
    expect(memberIds()).toEqual(['client-2'])
  })

  test('a leader that cannot be told to skip the assignment is told that another leads', () => {
    pair()
    const back = answer(restart())
    expect(back).toMatchObject({
      error: null,
      memberId: 'i-3',
      leader: 'i-1',
      members: [],
      skipAssignment: false,
    })
  })

  test('a follower that restarts is not asked to skip anything', () => {
    join('')
    sync('client-1', 1)
    const second = restart()
    join('client-1')
    expect(answer(second).generation).toBe(2)
    sync('i-2', 2)
    sync('client-1', 2)
    const back = answer(restart({ supportsSkipAssignment: true }))
    expect(back).toMatchObject({ error: null, leader: 'client-1', skipAssignment: false, members: [] })
  })

  test('the former self is fenced off, whatever it tries', () => {
    pair()
    restart()
    expect(heartbeat('i-1', 2, 'i')).toBe('FENCED_MEMBER')
    expect(commit('i-1', 2, 'i')).toBe('FENCED_MEMBER')
    expect(answer(sync('i-1', 2, { instanceId: 'i' })).error).toBe('FENCED_MEMBER')
    expect(answer(join('i-1', { instanceId: 'i' })).error).toBe('FENCED_MEMBER')
    expect(leave('i-1', 'i')).toBe('FENCED_MEMBER')
    expect(heartbeat('i-1', 2)).toBe('UNKNOWN_MEMBER')
    expect(commit('i-1', 2)).toBe('UNKNOWN_MEMBER')
    expect(heartbeat('i-3', 2, 'i')).toBe(null)
  })

  test('an instance id that is not in the group is unknown', () => {
    grow(1, 'stable')
    expect(heartbeat('client-1', 1, 'nobody')).toBe('UNKNOWN_MEMBER')
  })

  test('a join or sync that the former self waits for ends with the fence', () => {
    pair()
    join('client-2', { protocols: [{ name: 'range', metadata: metadata('changed') }] })
    const waiting = restart()
    join('client-2', { protocols: [{ name: 'range', metadata: metadata('changed') }] })
    expect(answer(waiting)).toMatchObject({ error: null, generation: 3 })
    leave('client-2')
    const joining = join('i-3', { instanceId: 'i' })
    expect(answer(joining).generation).toBe(4)
    const other = join('')
    const again = join('i-3', { instanceId: 'i' })
    expect(answer(other).generation).toBe(5)
    expect(answer(again).leader).toBe('i-3')
    leave(answer(other).memberId)
    expect(describeGroup().state).toBe('preparing-rebalance')
    join('', { requireKnownMemberId: true })
    const stuck = join('i-3', { instanceId: 'i' })
    expect(waits(stuck)).toBe(true)
    restart()
    expect(answer(stuck)).toMatchObject({ error: 'FENCED_MEMBER', memberId: 'i-3' })
  })

  test('a restart while the leader assigns starts over, as it may be assigning to the id that is gone', () => {
    join('')
    sync('client-1', 1)
    restart()
    join('client-1')
    const waiting = sync('i-2', 2, { instanceId: 'i' })
    const back = restart()
    expect(answer(waiting).error).toBe('FENCED_MEMBER')
    expect(waits(back)).toBe(true)
    join('client-1')
    expect(answer(back)).toMatchObject({ error: null, generation: 3 })
  })

  test('a restart that changes the protocol which is chosen causes a rebalance', () => {
    const both = ['range', 'sticky'].map(name => ({ name, metadata: metadata(name) }))
    restart({ protocols: both })
    sync('i-1', 1, { instanceId: 'i' })
    expect(answer(restart({ protocols: both })).generation).toBe(1)
    expect(answer(restart({ protocols: both.toReversed() }))).toMatchObject({
      generation: 2,
      protocol: 'sticky',
    })
  })

  test('a restart in the middle of a cooperative handover causes a rebalance: what was given up has to be handed out', () => {
    const partitions = [0, 1].map(partition => ({ topic: 't', partition }))
    const offers = (owned: typeof partitions, generation: number) => ({
      protocols: [
        {
          name: 'cooperative-sticky',
          metadata: encodeMember('cooperative-sticky', { topics: ['t'], owned, generation }),
        },
      ],
    })
    const assigned = (memberId: string, list: typeof partitions) => ({
      memberId,
      assignment: encodeAssignment({ partitions: list, userData: null }),
    })
    restart(offers([], -1))
    sync('i-1', 1, { assignments: [assigned('i-1', partitions)] })
    // nothing is being handed over: no rebalance
    expect(answer(restart(offers([], -1))).generation).toBe(1)
    join('', offers([], -1))
    join('i-2', { instanceId: 'i', ...offers(partitions, 1) })
    // partition 1 is withheld until the static member has given it up
    sync('client-3', 2)
    sync('i-2', 2, { assignments: [assigned('i-2', partitions.slice(0, 1))] })
    const back = restart(offers([], -1))
    expect(waits(back)).toBe(true)
    expect(heartbeat('client-3', 2)).toBe('REBALANCE_IN_PROGRESS')
    join('client-3', offers([], 2))
    expect(answer(back)).toMatchObject({ error: null, generation: 3, leader: 'i-4' })
  })

  test('one that does not join again keeps its place until its session ends', () => {
    restart({ sessionTimeoutMs: 100_000 })
    sync('i-1', 1, { instanceId: 'i' })
    const second = join('')
    pass(REBALANCE)
    expect(answer(second)).toMatchObject({ error: null, leader: 'client-2' })
    expect(answer(second).members.map(member => member.memberId)).toEqual(['i-1', 'client-2'])
    sync('client-2', 2)
    passBeating(100_000, 2, 'client-2')
    expect(memberIds()).not.toContain('i-1')
  })

  test('if only absent static members are left, nothing happens until one comes back or its session ends', () => {
    for (const instanceId of ['i', 'j'])
      join('', { instanceId, sessionTimeoutMs: 500_000, rebalanceTimeoutMs: 0 })
    join('i-1', { instanceId: 'i', sessionTimeoutMs: 500_000, rebalanceTimeoutMs: 0 })
    sync('i-1', 2, { instanceId: 'i' })
    sync('j-2', 2, { instanceId: 'j' })
    join('')
    leave('client-3')
    let wakes = 0
    for (; now < 100_000; wakes++) pass(Math.max(groups.nextDeadline() - now, 0))
    expect(describeGroup()).toMatchObject({ state: 'preparing-rebalance', generation: 2 })
    expect(wakes).toBeLessThan(2_000)
    const back = join('j-2', { instanceId: 'j' })
    pass(100)
    expect(answer(back)).toMatchObject({ error: null, generation: 3, leader: 'j-2' })
  })

  test('a newcomer that waits for a rebalance is not dropped when the session ends meanwhile', () => {
    grow(1, 'stable')
    restart()
    const back = restart()
    passBeating(SESSION + 1, 1, 'client-1')
    expect(waits(back)).toBe(true)
    join('client-1')
    expect(answer(back)).toMatchObject({ error: null, generation: 2 })
  })

  test('a newcomer has to ask for its assignment in time, as its former self had to', () => {
    join('')
    sync('client-1', 1)
    restart()
    join('client-1')
    sync('client-1', 2)
    const { memberId } = answer(restart())
    for (let left = REBALANCE; left > 0; left -= 5_000) {
      expect(heartbeat(memberId, 2, 'i')).toBe(null)
      heartbeat('client-1', 2)
      pass(5_000)
    }
    expect(heartbeat(memberId, 2, 'i')).toBe('UNKNOWN_MEMBER')
    expect(memberIds()).toEqual(['client-1'])
  })

  test('one can be sent away by its instance id alone', () => {
    pair()
    expect(leave('', 'nobody')).toBe('UNKNOWN_MEMBER')
    expect(leave('', null)).toBe('UNKNOWN_MEMBER')
    expect(leave('', 'i')).toBe(null)
    expect(memberIds()).toEqual(['client-2'])
    expect(heartbeat('client-2', 2)).toBe('REBALANCE_IN_PROGRESS')
  })
})

describe('leaving', () => {
  test('the others take over; the last one leaves the group empty', () => {
    const generation = grow(2, 'stable')
    expect(leave('client-1')).toBe(null)
    expect(heartbeat('client-2', generation)).toBe('REBALANCE_IN_PROGRESS')
    expect(answer(join('client-2'))).toMatchObject({ generation: generation + 1, leader: 'client-2' })
    expect(emptied).toEqual([])
    expect(leave('client-2')).toBe(null)
    expect(describeGroup()).toMatchObject({
      state: 'empty',
      generation: generation + 2,
      protocolType: 'consumer',
    })
    expect(emptied).toEqual(['g'])
  })

  test('several at once get a result each', () => {
    grow(2, 'stable')
    const identities = ['client-1', 'nobody', 'client-2'].map(memberId => ({ memberId, instanceId: null }))
    expect(groups.leave('g', identities, now)).toEqual([
      { ...identities[0], error: null },
      { ...identities[1], error: 'UNKNOWN_MEMBER' },
      { ...identities[2], error: null },
    ])
    expect(describeGroup().state).toBe('empty')
  })

  test('whoever leaves has its waiting requests answered, and no longer holds up the others', () => {
    const generation = grow(3, 'completing-rebalance')
    const waitingSync = sync('client-3', generation)
    leave('client-3')
    expect(answer(waitingSync).error).toBe('UNKNOWN_MEMBER')
    const waitingJoin = join('client-2')
    const other = join('client-1')
    expect(answer(waitingJoin).generation).toBe(generation + 1)
    expect(answer(other).generation).toBe(generation + 1)
    const third = join('')
    leave('client-1')
    expect(waits(third)).toBe(true)
    leave('client-2')
    expect(answer(third)).toMatchObject({
      error: null,
      generation: generation + 2,
      leader: third.answers[0].memberId,
    })
    const fourth = join('')
    leave(describeGroup().members[1].memberId)
    expect(answer(fourth)).toMatchObject({ error: 'UNKNOWN_MEMBER', memberId: '' })
  })

  test('a group whose last member leaves while somebody has an id but has not joined yet is not reported empty', () => {
    grow(1, 'stable')
    join('', { requireKnownMemberId: true })
    leave('client-1')
    pass(0)
    expect(describeGroup().state).toBe('empty')
    expect(emptied).toEqual([])
    expect(answer(join('client-2')).error).toBe(null)
  })
})

describe('sessions', () => {
  test('heartbeats, commits and syncs each count as a sign of life', () => {
    grow(1, 'stable')
    for (const alive of [
      () => heartbeat('client-1', 1),
      () => commit('client-1', 1),
      () => sync('client-1', 1),
    ]) {
      pass(SESSION - 1)
      alive()
    }
    pass(SESSION - 1)
    expect(memberIds()).toEqual(['client-1'])
    pass(1)
    expect(memberIds()).toEqual([])
    expect(emptied).toEqual(['g'])
    expect(groups.counters.expirations).toBe(1)
  })

  test('refused heartbeats do not', () => {
    grow(1, 'stable')
    pass(SESSION - 1)
    expect(heartbeat('client-1', 7)).toBe('ILLEGAL_GENERATION')
    expect(heartbeat('nobody', 1)).toBe('UNKNOWN_MEMBER')
    pass(1)
    expect(memberIds()).toEqual([])
  })

  test('one that falls silent is out, and its partitions go to the others', () => {
    const generation = grow(2, 'stable')
    passBeating(SESSION, generation, 'client-2')
    expect(memberIds()).toEqual(['client-2'])
    expect(heartbeat('client-2', generation)).toBe('REBALANCE_IN_PROGRESS')
    expect(commit('client-1', generation)).toBe('UNKNOWN_MEMBER')
  })

  test('followers that waited long for the assignment get a whole session from when they have it', () => {
    const generation = grow(2, 'completing-rebalance')
    sync('client-2', generation)
    passBeating(3 * SESSION, generation, 'client-1')
    sync('client-1', generation)
    passBeating(SESSION - 1, generation, 'client-1')
    expect(memberIds()).toEqual(['client-1', 'client-2'])
    pass(1)
    expect(memberIds()).toEqual(['client-1'])
  })
})

describe('commits', () => {
  const tool = () => groups.checkCommit('g', null, now)

  test('stable: of members of the generation alone', () => {
    const generation = grow(2, 'stable')
    expect(commit('client-2', generation)).toBe(null)
    expect(commit('client-2', generation - 1)).toBe('ILLEGAL_GENERATION')
    expect(commit('client-2', generation + 1)).toBe('ILLEGAL_GENERATION')
    expect(commit('client-2', -1)).toBe('ILLEGAL_GENERATION')
    expect(commit('nobody', generation)).toBe('UNKNOWN_MEMBER')
    expect(commit('', generation)).toBe('UNKNOWN_MEMBER')
    expect(tool()).toBe('UNKNOWN_MEMBER')
  })

  test('preparing: members finish what they hold', () => {
    const generation = grow(2, 'preparing-rebalance')
    expect(commit('client-1', generation)).toBe(null)
    expect(commit('client-2', generation)).toBe(null)
    expect(commit('client-2', generation + 1)).toBe('ILLEGAL_GENERATION')
    expect(tool()).toBe('UNKNOWN_MEMBER')
  })

  test('completing: nobody, until the assignment is out', () => {
    const generation = grow(2, 'completing-rebalance')
    expect(commit('client-1', generation)).toBe('REBALANCE_IN_PROGRESS')
    expect(commit('client-1', generation - 1)).toBe('ILLEGAL_GENERATION')
    expect(tool()).toBe('UNKNOWN_MEMBER')
  })

  test('empty: of tools, not of those that were members', () => {
    const generation = grow(1, 'stable')
    leave('client-1')
    expect(tool()).toBe(null)
    expect(commit('client-1', generation)).toBe('UNKNOWN_MEMBER')
    expect(commit('client-1', -1)).toBe(null)
  })
})

describe('the wait for first members', () => {
  beforeEach(() => start({ initialRebalanceDelayMs: 3_000 }))

  test('all that come within the delay are in one generation', () => {
    const first = join('')
    expect(groups.nextDeadline()).toBe(now + 3_000)
    pass(2_999)
    expect(waits(first)).toBe(true)
    pass(1)
    expect(answer(first)).toMatchObject({ error: null, generation: 1 })
  })

  test('as long as new ones come it is extended, but not past the rebalance time-out', () => {
    const begin = now
    const joins = [join('', { rebalanceTimeoutMs: 7_000 })]
    pass(2_000)
    joins.push(join('', { rebalanceTimeoutMs: 7_000 }))
    pass(1_000)
    expect(joins.every(waits)).toBe(true)
    pass(2_000)
    joins.push(join('', { rebalanceTimeoutMs: 7_000 }))
    pass(1_000)
    joins.push(join('', { rebalanceTimeoutMs: 7_000 }))
    expect(groups.nextDeadline()).toBe(begin + 7_000)
    pass(1_000)
    expect(joins.map(answer).map(result => result.generation)).toEqual([1, 1, 1, 1])
  })

  test('a group that has been running does not wait again', () => {
    join('')
    pass(3_000)
    sync('client-1', 1)
    const second = join('')
    join('client-1')
    expect(answer(second).generation).toBe(2)
  })

  test('one that has become empty does', () => {
    join('')
    pass(3_000)
    leave('client-1')
    const next = join('')
    pass(2_999)
    expect(waits(next)).toBe(true)
    pass(1)
    expect(answer(next)).toMatchObject({ error: null, generation: 3 })
  })

  test('if all leave meanwhile, it is empty when the delay is over', () => {
    join('')
    leave('client-1')
    pass(3_000)
    expect(describeGroup().state).toBe('empty')
    expect(emptied).toEqual(['g'])
  })
})

describe('the size of a group', () => {
  test('a member too many is refused; members that are in may go on', () => {
    start({ groupSizeMax: 2 })
    grow(2, 'stable')
    expect(answer(join(''))).toMatchObject({ error: 'GROUP_FULL', memberId: '' })
    expect(describeGroup().state).toBe('stable')
    const again = join('client-1')
    expect(answer(join('client-2')).error).toBe(null)
    expect(answer(again).error).toBe(null)
  })

  test('while a group rebalances, places are given in the order of joining', () => {
    start({ groupSizeMax: 2 })
    grow(2, 'preparing-rebalance')
    const newcomer = join('')
    expect(answer(join('client-2'))).toMatchObject({ error: 'GROUP_FULL', memberId: '' })
    expect(answer(newcomer).error).toBe(null)
    expect(memberIds()).toEqual(['client-1', 'client-3'])
  })
})

test('describe shows members with what they said and got, while stable', () => {
  const topics = ['t']
  const offered = encodeMember('range', { topics, owned: [], generation: -1 })
  join('', { protocols: [{ name: 'range', metadata: offered }], instanceId: 'i' })
  const member = { memberId: 'i-1', instanceId: 'i', clientId: 'client', clientHost: '/10.0.0.1' }
  const nothing = new Uint8Array(0)
  expect(describeGroup()).toEqual({
    group: 'g',
    type: 'classic',
    state: 'completing-rebalance',
    generation: 1,
    protocolType: 'consumer',
    protocol: '',
    leader: 'i-1',
    members: [{ ...member, metadata: nothing, assignment: nothing }],
  })
  const assignment = encodeAssignment({ partitions: [{ topic: 't', partition: 0 }], userData: null })
  sync('i-1', 1, { instanceId: 'i', assignments: [{ memberId: 'i-1', assignment }] })
  expect(describeGroup()).toMatchObject({
    state: 'stable',
    protocol: 'range',
    members: [{ ...member, metadata: offered, assignment }],
  })
})
