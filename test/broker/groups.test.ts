/** The table of all groups, its limits and deadlines; and a simulation of whole groups of members that fail. */

import assert from 'node:assert/strict'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Assignor, assign, type TopicPartition } from '../../src/broker/assignor.ts'
import {
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
} from '../../src/broker/consumer-protocol.ts'
import type { JoinRequest, JoinResult, SyncResult } from '../../src/broker/group.ts'
import { Groups, type GroupsOptions } from '../../src/broker/groups.ts'

function open(options: Partial<GroupsOptions> = {}): Groups {
  let ids = 0
  return new Groups({ newId: () => `${++ids}`, ...options })
}

const request = (group: string, options: Partial<JoinRequest> = {}): JoinRequest => ({
  group,
  memberId: '',
  instanceId: null,
  clientId: 'c',
  clientHost: '',
  sessionTimeoutMs: 10_000,
  rebalanceTimeoutMs: 30_000,
  protocolType: 'consumer',
  protocols: [{ name: 'range', metadata: new Uint8Array(0) }],
  requireKnownMemberId: false,
  ...options,
})

function join(
  groups: Groups,
  group: string,
  now: number,
  options: Partial<JoinRequest> = {},
): JoinResult | null {
  let answer: JoinResult | null = null
  groups.join(request(group, options), now, result => {
    answer = result
  })
  return answer
}

function sync(
  groups: Groups,
  group: string,
  memberId: string,
  generation: number,
  now: number,
): SyncResult | null {
  let answer: SyncResult | null = null
  groups.sync({ group, memberId, generation, instanceId: null, assignments: [] }, now, result => {
    answer = result
  })
  return answer
}

describe('what is refused without looking into a group', () => {
  const groups = open({ sessionTimeoutMsMin: 6_000, sessionTimeoutMsMax: 60_000 })
  const identity = { memberId: 'm', generation: 1, instanceId: null }
  const tooLong = 'x'.repeat(1_025)

  test('group ids that are empty or too long', () => {
    for (const group of ['', tooLong]) {
      expect(join(groups, group, 0)?.error).toBe('INVALID_GROUP')
      expect(sync(groups, group, 'm', 1, 0)?.error).toBe('INVALID_GROUP')
      expect(groups.heartbeat({ group, ...identity }, 0)).toBe('INVALID_GROUP')
      expect(groups.leave(group, [identity], 0)).toMatchObject([{ error: 'INVALID_GROUP' }])
    }
    expect(groups.checkCommit(tooLong, null, 0)).toBe('INVALID_GROUP')
    // Kafka has always taken commits under the empty name
    expect(groups.checkCommit('', null, 0)).toBe(null)
    expect(groups.delete('')).toBe(null)
  })

  test('session time-outs out of bounds', () => {
    for (const sessionTimeoutMs of [5_999, 60_001, Number.NaN]) {
      expect(join(groups, 'g', 0, { sessionTimeoutMs })?.error).toBe('INVALID_SESSION_TIMEOUT')
    }
    expect(join(groups, 'bounds', 0, { sessionTimeoutMs: 6_000 })?.error).toBe(null)
  })

  test('members of groups that are not there', () => {
    expect(join(groups, 'no', 0, { memberId: 'm' })).toMatchObject({ error: 'UNKNOWN_MEMBER', memberId: 'm' })
    expect(sync(groups, 'no', 'm', 1, 0)?.error).toBe('UNKNOWN_MEMBER')
    expect(groups.heartbeat({ group: 'no', ...identity }, 0)).toBe('UNKNOWN_MEMBER')
    expect(groups.leave('no', [identity], 0)).toMatchObject([{ error: 'UNKNOWN_MEMBER' }])
    expect(groups.checkCommit('no', identity, 0)).toBe('ILLEGAL_GENERATION')
    expect(groups.describe('no')).toBe(null)
    expect(groups.delete('no')).toBe('UNKNOWN_GROUP')
    expect(groups.list().some(({ group }) => group === 'no')).toBe(false)
  })
})

describe('the table', () => {
  test('groups come by joining, by a commit without members, and by being known for their offsets', () => {
    const groups = open()
    join(groups, 'joined', 0)
    expect(groups.checkCommit('committed', null, 0)).toBe(null)
    groups.ensure('known')
    groups.ensure('joined')
    expect(groups.list()).toEqual([
      { group: 'joined', type: 'classic', state: 'completing-rebalance', protocolType: 'consumer' },
      { group: 'committed', type: 'classic', state: 'empty', protocolType: '' },
      { group: 'known', type: 'classic', state: 'empty', protocolType: '' },
    ])
  })

  test('a refused first join leaves no group behind, one that has been given an id does', () => {
    const groups = open()
    expect(join(groups, 'g', 0, { protocols: [] })?.error).toBe('INCONSISTENT_GROUP_PROTOCOL')
    expect(groups.list()).toEqual([])
    join(groups, 'g', 0, { requireKnownMemberId: true })
    expect(groups.list()).toHaveLength(1)
  })

  test('only an empty group can be deleted; whoever has an id for it starts anew', () => {
    const groups = open()
    join(groups, 'g', 0)
    expect(groups.delete('g')).toBe('GROUP_NOT_EMPTY')
    sync(groups, 'g', 'c-1', 1, 0)
    expect(groups.delete('g')).toBe('GROUP_NOT_EMPTY')
    groups.leave('g', [{ memberId: 'c-1', instanceId: null }], 0)
    join(groups, 'g', 0, { requireKnownMemberId: true })
    expect(groups.delete('g')).toBe(null)
    expect(groups.delete('g')).toBe('UNKNOWN_GROUP')
    expect(join(groups, 'g', 0, { memberId: 'c-2' })?.error).toBe('UNKNOWN_MEMBER')
    expect(groups.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
    expect(join(groups, 'g', 0)).toMatchObject({ error: null, generation: 1 })
  })

  test('groups do not touch each other', () => {
    const groups = open()
    expect(join(groups, 'one', 0)).toMatchObject({ error: null, memberId: 'c-1', generation: 1 })
    expect(join(groups, 'two', 0)).toMatchObject({ error: null, memberId: 'c-2', generation: 1 })
    expect(sync(groups, 'one', 'c-2', 1, 0)?.error).toBe('UNKNOWN_MEMBER')
  })
})

describe('replies and events', () => {
  test('a reply may call in again and finds everything in place', () => {
    const groups = open()
    const story: string[] = []
    groups.join(request('g'), 0, joined => {
      story.push(`joined ${joined.generation} ${groups.describe('g')?.state}`)
      const assignments = [{ memberId: joined.memberId, assignment: Buffer.from('all') }]
      const { memberId, generation } = joined
      groups.sync({ group: 'g', memberId, generation, instanceId: null, assignments }, 0, synced => {
        story.push(`synced ${Buffer.from(synced.assignment)} ${groups.describe('g')?.state}`)
        groups.leave('g', [{ memberId, instanceId: null }], 0)
      })
      story.push(`asked`)
    })
    expect(story).toEqual(['joined 1 completing-rebalance', 'asked', 'synced all stable'])
    expect(groups.describe('g')?.state).toBe('empty')
  })

  test('a group may be deleted when it is reported empty', () => {
    const groups: Groups = open({ onEmpty: group => expect(groups.delete(group)).toBe(null) })
    for (const leaves of [true, false]) {
      const { memberId } = join(groups, 'g', 0)!
      if (leaves) groups.leave('g', [{ memberId, instanceId: null }], 0)
      else groups.expire(10_000)
      expect(groups.list()).toEqual([])
    }
  })

  test('a reply that throws does not keep the others from being delivered', () => {
    const groups = open()
    expect(() =>
      groups.join(request('g'), 0, () => {
        throw new Error('a bug of the caller')
      }),
    ).toThrow('a bug of the caller')
    expect(join(groups, 'h', 0)?.error).toBe(null)
  })

  test('close answers whoever waits, and everyone after', () => {
    const groups = open()
    join(groups, 'g', 0)
    sync(groups, 'g', 'c-1', 1, 0)
    const errors: unknown[] = []
    groups.join(request('g'), 0, ({ error }) => errors.push(error))
    join(groups, 'h', 0)
    const second = request('h', { instanceId: 'i' })
    groups.join(second, 0, ({ error }) => errors.push(error))
    expect(errors).toEqual([])
    groups.close()
    expect(errors).toEqual(['CLOSED', 'CLOSED'])
    expect(join(groups, 'g', 0)?.error).toBe('CLOSED')
    expect(sync(groups, 'g', 'c-1', 1, 0)?.error).toBe('CLOSED')
    expect(groups.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
  })
})

describe('deadlines', () => {
  test('none without groups, and none for groups that are empty', () => {
    const groups = open()
    groups.ensure('g')
    expect(groups.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
    groups.expire(1e9)
    expect(groups.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
  })

  test('who wakes us at each deadline sees every member of hundreds of groups go exactly when its session ends', () => {
    const step = fc.record({ group: fc.nat(200), alive: fc.boolean(), ms: fc.nat(300) })
    fc.assert(
      fc.property(fc.array(step, { minLength: 300, maxLength: 300 }), steps => {
        let now = 0
        const gone = new Map<string, number>()
        const due = new Map<string, number>()
        const groups = open({ sessionTimeoutMsMin: 1, onEmpty: group => gone.set(group, now) })
        const wait = (until: number) => {
          for (let at = groups.nextDeadline(); at <= until; at = groups.nextDeadline()) {
            now = Math.max(now, at)
            groups.expire(now)
          }
          now = until
        }
        for (const { group: number, alive, ms } of steps) {
          wait(now + ms)
          const group = `g${number}`
          const sessionTimeoutMs = 500 + 37 * number
          if (!due.has(group)) {
            const { memberId } = join(groups, group, now, { sessionTimeoutMs, rebalanceTimeoutMs: 1e6 })!
            sync(groups, group, memberId, 1, now)
            due.set(group, now + sessionTimeoutMs)
          } else if (alive && !gone.has(group)) {
            const { memberId } = groups.describe(group)!.members[0]
            assert.equal(groups.heartbeat({ group, memberId, generation: 1, instanceId: null }, now), null)
            due.set(group, now + sessionTimeoutMs)
          }
        }
        wait(1e6)
        expect(gone).toEqual(due)
        expect(groups.counters.expirations).toBe(due.size)
      }),
      { numRuns: 30 },
    )
  })
})

// ── whole groups ──────────────────────────────────────────────────────────────────────────────────────────────────

const SESSION = 6_000
const REBALANCE = 9_000
const topics = new Map([
  ['t', 7],
  ['u', 3],
])
const everything = [...topics].flatMap(([topic, count]) =>
  Array.from({ length: count }, (_, p) => `${topic}/${p}`),
)

const refusals = ['UNKNOWN_MEMBER', 'FENCED_MEMBER', 'ILLEGAL_GENERATION']

/** A group, its clock, and whoever ever was in it. */
class World {
  now = 0
  readonly assignor: Assignor
  readonly groups: Groups
  readonly clients: Client[] = []
  #generation = 0
  #unanswered = 0

  constructor(assignor: Assignor, initialRebalanceDelayMs: number) {
    this.assignor = assignor
    let ids = 0
    this.groups = new Groups({ newId: () => `${++ids}`, initialRebalanceDelayMs, groupSizeMax: 20 })
  }

  get live(): Client[] {
    return this.clients.filter(client => client.alive)
  }

  /** Wraps a reply: exactly one answer to each request. */
  once<Result>(reply: (result: Result) => void): (result: Result) => void {
    let answered = false
    this.#unanswered++
    return result => {
      assert(!answered, 'answered twice')
      answered = true
      this.#unanswered--
      reply(result)
    }
  }

  pass(ms: number): void {
    this.now += ms
    while (this.groups.nextDeadline() <= this.now) this.groups.expire(this.now)
  }

  check(): void {
    const group = this.groups.describe('g')
    if (group === null) return
    assert(group.generation >= this.#generation, 'generations go back')
    this.#generation = group.generation
    const memberIds = new Set(group.members.map(member => member.memberId))
    const owners = new Map<string, Client>()
    for (const client of this.clients) {
      const { memberId, generation, instanceId } = client
      if (!memberIds.has(memberId) || generation !== group.generation) {
        // left behind: whatever it believes to hold, it cannot commit (a member of nothing counts as a tool)
        if (generation < 0) continue
        const error = this.groups.checkCommit('g', { memberId, generation, instanceId }, this.now)
        assert(error !== null && refusals.includes(error), `a commit from outside: ${error}`)
        continue
      }
      for (const name of client.owned) {
        assert(!owners.has(name), `${name} has two owners`)
        owners.set(name, client)
      }
    }
  }

  /** Everyone who lives does what is to be done, until long after whoever does not was found out. */
  settle(): void {
    for (let seconds = 0; seconds < 90; seconds++) {
      for (let busy = true; busy; ) {
        busy = false
        for (const client of this.live) busy = client.act() || busy
        this.check()
      }
      this.pass(1_000)
      for (const client of this.live) client.heartbeat()
    }
  }

  checkSettled(): void {
    expect(this.#unanswered).toBe(0)
    const group = this.groups.describe('g')
    if (group === null) {
      expect(this.live).toEqual([])
      return
    }
    expect(group.members.map(member => member.memberId).sort()).toEqual(
      this.live.map(client => client.memberId).sort(),
    )
    expect(group.state).toBe(this.live.length > 0 ? 'stable' : 'empty')
    if (this.live.length === 0) return
    expect(this.live.flatMap(client => [...client.owned]).sort()).toEqual(everything)
    const loads = this.live.map(client => client.owned.size)
    const spread = this.assignor === 'range' ? topics.size : 1
    expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(spread)
    for (const { memberId, generation, instanceId } of this.live) {
      expect(this.groups.checkCommit('g', { memberId, generation, instanceId }, this.now)).toBe(null)
    }
  }
}

/** A consumer as clients implement it. Answers lie in its inbox until it acts. */
class Client {
  alive = true
  memberId = ''
  generation = -1
  owned = new Set<string>()
  readonly instanceId: string | null
  readonly #world: World
  readonly #requireKnownMemberId: boolean
  readonly #inbox: (() => void)[] = []
  /** Has to join; otherwise it waits for an answer or is content. */
  #joins = true
  #waits = false
  /** What it said to hold when it joined last. */
  #claimed: string[] = []
  /** What the sticky assignor remembers of before. */
  #former: TopicPartition[] = []
  #formerGeneration = -1

  constructor(world: World, instanceId: string | null, requireKnownMemberId: boolean) {
    this.#world = world
    this.instanceId = instanceId
    this.#requireKnownMemberId = requireKnownMemberId
  }

  /** Reads one answer, or joins if it has to. False if there was nothing to do. */
  act(): boolean {
    const answer = this.#inbox.shift()
    if (answer !== undefined) answer()
    else if (this.#joins && !this.#waits) this.#join()
    else return false
    return true
  }

  heartbeat(): void {
    if (this.generation < 0 || this.#waits || this.#joins) return
    const { memberId, generation, instanceId } = this
    this.#obey(
      this.#world.groups.heartbeat({ group: 'g', memberId, generation, instanceId }, this.#world.now),
    )
  }

  commit(): void {
    if (this.generation < 0) return
    const { memberId, generation, instanceId } = this
    this.#world.groups.checkCommit('g', { memberId, generation, instanceId }, this.#world.now)
  }

  leave(): void {
    this.alive = false
    const { memberId, instanceId } = this
    if (memberId !== '') this.#world.groups.leave('g', [{ memberId, instanceId }], this.#world.now)
  }

  #join(): void {
    const { assignor, groups, now } = this.#world
    if (assignor !== 'cooperative-sticky') this.owned.clear()
    const owned = assignor === 'sticky' ? this.#former : partitionsOf(this.owned)
    const member = { topics: [...topics.keys()], owned, generation: this.#formerGeneration }
    this.#claimed = [...this.owned]
    this.#joins = false
    this.#waits = true
    const reply = this.#world.once((result: JoinResult) => this.#inbox.push(() => this.#joined(result)))
    const options = {
      memberId: this.memberId,
      instanceId: this.instanceId,
      sessionTimeoutMs: SESSION,
      rebalanceTimeoutMs: REBALANCE,
      requireKnownMemberId: this.#requireKnownMemberId,
      supportsSkipAssignment: this.#requireKnownMemberId,
      protocols: [{ name: assignor, metadata: encodeMember(assignor, member) }],
    }
    groups.join(request('g', options), now, reply)
  }

  #joined(result: JoinResult): void {
    this.#waits = false
    if (result.error === 'MEMBER_ID_REQUIRED') {
      this.memberId = result.memberId
      this.#joins = true
      return
    }
    if (result.error !== null) {
      this.#obey(result.error)
      return
    }
    // Only a static member can miss a generation and still be a member: what it held may be someone else's by now,
    // though the generation that it has just got would let it commit.
    if (this.generation >= 0 && result.generation > this.generation + 1) this.owned.clear()
    this.memberId = result.memberId
    this.generation = result.generation
    const { groups, assignor, now } = this.#world
    const leads = result.leader === this.memberId && !result.skipAssignment
    const members = result.members.map(one =>
      decodeMember(assignor, one.memberId, one.instanceId, one.metadata),
    )
    const assignments = leads ? [...assign(assignor, members, topic => topics.get(topic) ?? 0)] : []
    this.#waits = true
    groups.sync(
      {
        group: 'g',
        memberId: this.memberId,
        generation: this.generation,
        instanceId: this.instanceId,
        protocolType: 'consumer',
        protocol: assignor,
        assignments: assignments.map(([memberId, partitions]) => ({
          memberId,
          assignment: encodeAssignment({ partitions, userData: null }),
        })),
      },
      now,
      this.#world.once((synced: SyncResult) => this.#inbox.push(() => this.#synced(synced))),
    )
  }

  #synced(result: SyncResult): void {
    this.#waits = false
    if (result.error !== null) {
      this.#obey(result.error)
      return
    }
    const { partitions } = decodeAssignment(result.assignment)
    const assigned = new Set(partitions.map(({ topic, partition }) => `${topic}/${partition}`))
    // The cooperative protocol: what was claimed and is not assigned is given up by now, so that others can have it:
    // say so. (Only here; the other assignors hand out everything at once.)
    const { assignor } = this.#world
    this.#joins = assignor === 'cooperative-sticky' && this.#claimed.some(name => !assigned.has(name))
    this.owned = assigned
    this.#former = [...partitions]
    this.#formerGeneration = this.generation
  }

  #obey(error: string | null): void {
    if (error === null) return
    if (error === 'FENCED_MEMBER') {
      this.alive = false
      return
    }
    this.#joins = true
    if (error === 'REBALANCE_IN_PROGRESS') return
    expect(error).toBeOneOf(['UNKNOWN_MEMBER', 'ILLEGAL_GENERATION'])
    if (error === 'UNKNOWN_MEMBER') this.memberId = ''
    this.generation = -1
    this.#formerGeneration = -1
    this.#former = []
    this.owned.clear()
  }
}

const partitionsOf = (owned: ReadonlySet<string>): TopicPartition[] =>
  [...owned].map(name => {
    const [topic, partition] = name.split('/')
    return { topic, partition: Number(partition) }
  })

describe('members that join, leave, crash, sleep and are replaced, at any time', () => {
  const event = fc.oneof(
    { weight: 3, arbitrary: fc.record({ what: fc.constant('start' as const), known: fc.boolean() }) },
    { weight: 2, arbitrary: fc.record({ what: fc.constant('start static' as const), who: fc.nat(1) }) },
    { weight: 24, arbitrary: fc.record({ what: fc.constant('act' as const), who: fc.nat(9) }) },
    { weight: 8, arbitrary: fc.record({ what: fc.constant('act all' as const) }) },
    { weight: 8, arbitrary: fc.record({ what: fc.constant('heartbeat' as const), who: fc.nat(9) }) },
    { weight: 3, arbitrary: fc.record({ what: fc.constant('commit' as const), who: fc.nat(9) }) },
    { weight: 1, arbitrary: fc.record({ what: fc.constant('leave' as const), who: fc.nat(9) }) },
    { weight: 1, arbitrary: fc.record({ what: fc.constant('crash' as const), who: fc.nat(9) }) },
    { weight: 6, arbitrary: fc.record({ what: fc.constant('pass' as const), ms: fc.nat(4_000) }) },
  )

  function play(
    world: World,
    events: readonly (typeof event extends fc.Arbitrary<infer E> ? E : never)[],
  ): void {
    for (const one of events) {
      const { live } = world
      switch (one.what) {
        case 'start':
          if (live.length < 8) world.clients.push(new Client(world, null, one.known))
          break
        case 'start static':
          // the former one may well live on: it is fenced off
          world.clients.push(new Client(world, `static-${one.who}`, one.who === 0))
          break
        case 'act all':
          for (const client of live) client.act()
          break
        case 'pass':
          world.pass(one.ms)
          break
        default: {
          if (live.length === 0) break
          const client = live[one.who % live.length]
          if (one.what === 'crash') client.alive = false
          else client[one.what]()
        }
      }
      world.check()
    }
  }

  test.each(['range', 'roundrobin', 'sticky', 'cooperative-sticky'] as const)(
    '%s: never two owners, no commit from whoever is out, and in the end everything has one owner that lives',
    assignor => {
      const events = fc.array(event, { maxLength: 120, size: 'max' })
      fc.assert(
        fc.property(fc.constantFrom(0, 2_000), events, (initialRebalanceDelayMs, script) => {
          const world = new World(assignor, initialRebalanceDelayMs)
          world.clients.push(new Client(world, null, true))
          play(world, script)
          world.settle()
          world.checkSettled()
        }),
        { numRuns: 150 },
      )
    },
  )
})
