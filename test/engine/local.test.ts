/**
 * The local engine's group members on the real broker, in virtual time: who is given what and when, and that no
 * partition has a new holder before the former one has let go.
 */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Assignor } from '../../src/engine/engine.ts'
import { type LocalEngine, openLocalEngine } from '../../src/engine/local.ts'
import { Random } from '../sim/random.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { Holdings, ObservedMember } from './observed-member.ts'

/** Time stands still until a test lets it pass; what needs no time happens by itself. */
class StillClock extends VirtualClock {
  #pending = 0

  override defer(run: () => void): void {
    this.#pending += 1
    setImmediate(() => {
      this.#pending -= 1
      run()
    })
  }

  override async runDeferred(): Promise<void> {
    do await new Promise(resolve => setImmediate(resolve))
    while (this.#pending > 0)
  }
}

let clock: StillClock
let engine: LocalEngine
let holdings: Holdings

beforeEach(async () => {
  clock = new StillClock()
  engine = await openLocalEngine({ url: 'memory:', clock })
  holdings = new Holdings()
  await engine.createTopic({ name: 't', partitions: 6 })
})
afterEach(async () => {
  expect(holdings.overlaps).toEqual([])
  await engine.close()
})

const join = (name: string, options = {}) => ObservedMember.join(engine, name, holdings, options)
/** Lets everything happen that needs no time. */
const settle = () => clock.runDeferred()
const partitionsOf = (count: number, topic = 't') =>
  Array.from({ length: count }, (_, partition) => `${topic}/${partition}`)
const at = (partition: number, offset: number) => ({ topic: 't', partition, offset })

const assignors: Assignor[] = ['range', 'roundrobin', 'sticky', 'cooperative-sticky']

describe.each(assignors)('with %s', assignor => {
  const options = { assignors: [assignor] }

  test('three members share all partitions evenly; one leaves, the others take over', async () => {
    const members = [await join('ann', options), await join('bob', options), await join('cem', options)]
    await settle()
    expect(members.map(({ held }) => held.size)).toEqual([2, 2, 2])
    expect(holdings.held).toEqual(partitionsOf(6))

    await members[1].member.leave()
    await settle()
    expect(members.map(({ held }) => held.size)).toEqual([3, 0, 3])
    expect(holdings.held).toEqual(partitionsOf(6))
    await expect(members[1].member.commit([at(0, 1)])).rejects.toMatchObject({ code: 'CONSUMER_CLOSED' })
  })

  test('a partition is handed over only after its holder has let go of it, and can still commit till then', async () => {
    const ann = await join('ann', options)
    const handler = Promise.withResolvers<void>()
    ann.busy = handler.promise
    ann.beforeLettingGo = () => ann.member.commit(ann.partitions.map(name => at(Number(name.slice(2)), 7)))
    const bob = join('bob', options)
    await clock.advance(9_000)
    expect(ann.partitions).toEqual(partitionsOf(6))
    handler.resolve()
    await bob
    await settle()
    expect((await bob).held.size).toBe(3)
    expect(ann.held.size).toBe(3)
    for (const name of (await bob).partitions) {
      const partition = Number(name.slice(2))
      expect(await engine.committed('g', [{ topic: 't', partition }])).toMatchObject([{ offset: 7 }])
    }
  })

  test('more partitions are shared out as soon as they are there', async () => {
    const members = [await join('ann', options), await join('bob', options)]
    await engine.addPartitions('t', 10)
    await settle()
    expect(members.map(({ held }) => held.size)).toEqual([5, 5])
    expect(holdings.held).toEqual(partitionsOf(10))
  })

  test('a topic that is deleted is taken away', async () => {
    await engine.createTopic({ name: 'u', partitions: 2 })
    const members = [
      await join('ann', { ...options, topics: ['t', 'u'] }),
      await join('bob', { ...options, topics: ['t', 'u'] }),
    ]
    await engine.deleteTopic('u')
    await settle()
    expect(holdings.held).toEqual(partitionsOf(6))
    expect(members.map(({ held }) => held.size)).toEqual([3, 3])
  })
})

describe('what moves', () => {
  test('cooperative: only what goes to somebody else is revoked', async () => {
    const ann = await join('ann')
    const bob = await join('bob')
    await settle()
    expect(ann.news()).toEqual([
      'assigned t/0 t/1 t/2 t/3 t/4 t/5',
      expect.stringMatching(/^revoked( t\/\d){3}$/),
    ])
    expect(bob.news()).toEqual([expect.stringMatching(/^assigned( t\/\d){3}$/)])
    const cem = await join('cem')
    await settle()
    expect(ann.news()).toEqual([expect.stringMatching(/^revoked t\/\d$/)])
    expect(bob.news()).toEqual([expect.stringMatching(/^revoked t\/\d$/)])
    expect(cem.news()).toEqual([expect.stringMatching(/^assigned( t\/\d){2}$/)])
  })

  test('eager: everything is revoked, and assigned anew; sticky gives back most of it', async () => {
    const options = { assignors: ['sticky' as const] }
    const ann = await join('ann', options)
    const bob = await join('bob', options)
    await settle()
    ann.news()
    bob.news()
    const before = [ann.partitions, bob.partitions]
    const cem = await join('cem', options)
    await settle()
    expect(ann.news()).toEqual([
      `revoked ${before[0].join(' ')}`,
      expect.stringMatching(/^assigned( t\/\d){2}$/),
    ])
    expect(bob.news()).toEqual([
      `revoked ${before[1].join(' ')}`,
      expect.stringMatching(/^assigned( t\/\d){2}$/),
    ])
    expect(before[0]).toEqual(expect.arrayContaining(ann.partitions))
    expect(before[1]).toEqual(expect.arrayContaining(bob.partitions))
    await cem.member.leave()
    await settle()
    expect(ann.held.size + bob.held.size).toBe(6)
  })

  test('a member that speaks only an eager assignor joins a cooperative group', async () => {
    const both = { assignors: ['cooperative-sticky' as const, 'range' as const] }
    const ann = await join('ann', both)
    const bob = await join('bob', both)
    await settle()
    const handler = Promise.withResolvers<void>()
    ann.busy = handler.promise
    bob.busy = handler.promise
    const cem = join('cem', { assignors: ['range'] })
    await settle()
    handler.resolve()
    await cem
    await settle()
    expect([ann, bob, await cem].map(({ held }) => held.size)).toEqual([2, 2, 2])
  })

  test('members with different topics get partitions of theirs only', async () => {
    await engine.createTopic({ name: 'u', partitions: 3 })
    const ann = await join('ann', { topics: ['t'] })
    const bob = await join('bob', { topics: ['u'] })
    const cem = await join('cem', { topics: ['t', 'u'] })
    await settle()
    expect(holdings.held).toEqual([...partitionsOf(6), ...partitionsOf(3, 'u')])
    expect(ann.partitions.every(name => name.startsWith('t/'))).toBe(true)
    expect(bob.partitions.every(name => name.startsWith('u/'))).toBe(true)
    expect(cem.held.size).toBe(3)
  })

  test('groups do not touch each other', async () => {
    const other = new Holdings()
    const ann = await join('ann')
    const bob = await ObservedMember.join(engine, 'bob', other, { group: 'h' })
    expect([ann.held.size, bob.held.size]).toEqual([6, 6])
  })
})

describe('membership that is lost', () => {
  /** Another program in the group, as a server's connection would put it there: it joins, and is never heard of again. */
  function joinAndFallSilent(sessionTimeoutMs: number): void {
    engine.broker.groups.join(
      {
        group: 'g',
        memberId: '',
        instanceId: null,
        clientId: 'silent',
        clientHost: 'elsewhere',
        sessionTimeoutMs,
        rebalanceTimeoutMs: 60_000,
        protocolType: 'consumer',
        protocols: [
          {
            name: 'cooperative-sticky',
            metadata: Buffer.from([0, 1, 0, 0, 0, 1, 0, 1, 0x74, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
          },
        ],
        requireKnownMemberId: false,
      },
      clock.monotonic(),
      result => {
        const { memberId, generation } = result
        const sync = { group: 'g', memberId, generation, instanceId: null, assignments: [] }
        if (result.error === null) engine.broker.groups.sync(sync, clock.monotonic(), () => {})
      },
    )
    engine.broker.watchGroups()
  }

  test('a member that falls silent is dropped after its session time-out, not before, and its partitions go to the others', async () => {
    const ann = await join('ann')
    joinAndFallSilent(20_000)
    await settle()
    expect(ann.held.size).toBe(3)
    await clock.advance(19_000)
    expect(ann.held.size).toBe(3)
    await clock.advance(2_000)
    expect(ann.partitions).toEqual(partitionsOf(6))
    expect((await engine.describeGroup('g')).members).toHaveLength(1)
  })

  test('a member that keeps the others waiting longer than the rebalance time-out is dropped; its commits are refused, and it comes back', async () => {
    const ann = await join('ann', { rebalanceTimeoutMs: 15_000, assignors: ['range'] })
    const handler = Promise.withResolvers<void>()
    ann.busy = handler.promise
    const joining = join('bob', { rebalanceTimeoutMs: 15_000, assignors: ['range'] })
    await clock.advance(14_000)
    await ann.member.commit([at(0, 1)])
    await clock.advance(2_000)
    const bob = await joining
    // ann has not let go, but her time is over: from here on both may handle the same
    expect(holdings.overlaps.splice(0)).toHaveLength(6)
    expect(bob.partitions).toEqual(partitionsOf(6))
    await expect(ann.member.commit([at(0, 2)])).rejects.toMatchObject({ code: 'UNKNOWN_MEMBER' })
    await clock.advance(5_000) // long enough for a heartbeat that is refused
    await bob.member.commit([at(0, 5)])
    expect(await engine.committed('g')).toMatchObject([{ partition: 0, offset: 5 }])

    handler.resolve()
    ann.busy = null
    await settle()
    expect([ann.held.size, bob.held.size]).toEqual([3, 3])
    await ann.member.commit([at(0, 6)])

    // what was refused then is over and done with
    ann.news()
    const cem = await join('cem', { assignors: ['range'] })
    await settle()
    expect(ann.news()).toEqual([
      expect.stringMatching(/^revoked( t\/\d){3}$/),
      expect.stringMatching(/^assigned( t\/\d){2}$/),
    ])
    expect([ann, bob, cem].map(({ held }) => held.size)).toEqual([2, 2, 2])
    expect((await engine.describeGroup('g')).members).toHaveLength(3)
  })

  test('a member whose session is over is told that its partitions are lost, joins again, and keeps its place from then on', async () => {
    const ann = await join('ann')
    const { memberId } = ann.member
    engine.broker.groups.leave('g', [{ memberId, instanceId: null }], clock.monotonic())
    await expect(ann.member.commit([at(0, 1)])).rejects.toMatchObject({ code: 'UNKNOWN_MEMBER' })
    await clock.advance(5_000)
    expect(ann.news()).toEqual([
      'assigned t/0 t/1 t/2 t/3 t/4 t/5',
      'lost t/0 t/1 t/2 t/3 t/4 t/5',
      'assigned t/0 t/1 t/2 t/3 t/4 t/5',
    ])
    expect(ann.member.memberId).not.toBe(memberId)
    await clock.advance(60_000)
    expect(ann.news()).toEqual([])
    await ann.member.commit([at(0, 1)])
  })
})

describe('static members', () => {
  test('a restart within the session time-out gives the partitions back, and nobody else notices', async () => {
    const ann = await join('ann', { instanceId: 'a' })
    const bob = await join('bob', { instanceId: 'b' })
    await settle()
    for (const [restarted, other, instanceId] of [
      [ann, bob, 'a'],
      [bob, ann, 'b'],
    ] as const) {
      const { partitions } = restarted
      await restarted.member.leave()
      await clock.advance(8_000)
      restarted.news()
      other.news()
      await restarted.join(engine, { instanceId })
      await settle()
      expect(restarted.news()).toEqual([`assigned ${partitions.join(' ')}`])
      expect(other.news()).toEqual([])
    }
    // and whoever leads still looks after the topics
    await engine.addPartitions('t', 8)
    await settle()
    expect([ann.held.size, bob.held.size]).toEqual([4, 4])
  })

  test('partitions that came while the leading member was away are not forgotten', async () => {
    const ann = await join('ann', { instanceId: 'a' })
    const bob = await join('bob', { instanceId: 'b' })
    await settle()
    await ann.member.leave()
    await engine.addPartitions('t', 8)
    await clock.advance(1_000)
    await ann.join(engine, { instanceId: 'a' })
    await settle()
    expect(holdings.held).toEqual(partitionsOf(8))
    expect([ann.held.size, bob.held.size]).toEqual([4, 4])
  })

  test('one that does not come back loses its place after the session time-out', async () => {
    const ann = await join('ann', { instanceId: 'a' })
    const bob = await join('bob', { instanceId: 'b' })
    await settle()
    await ann.member.leave()
    await clock.advance(9_000)
    expect(bob.held.size).toBe(3)
    await clock.advance(2_000)
    expect(bob.partitions).toEqual(partitionsOf(6))
  })

  test('the same instance id twice: the newcomer takes the place, the former member fails', async () => {
    const ann = await join('ann', { instanceId: 'a' })
    const { partitions } = ann
    const joining = join('bob', { instanceId: 'a' })
    await settle()
    const bob = await joining
    expect(holdings.overlaps.splice(0)).toHaveLength(6) // by design: the newcomer is taken for the same program
    await expect(ann.member.commit([at(0, 1)])).rejects.toMatchObject({ code: 'FENCED_MEMBER' })
    await clock.advance(5_000)
    expect(ann.failure).toMatchObject({ code: 'FENCED_MEMBER' })
    expect(bob.partitions).toEqual(partitions)
    await bob.member.commit([at(0, 1)])
  })
})

describe('leaving while others are slow', () => {
  test('a member that waits for the group does not wait to leave, and lets go first', async () => {
    const ann = await join('ann')
    const bob = await join('bob')
    await settle()
    const handler = Promise.withResolvers<void>()
    ann.busy = handler.promise
    const cem = join('cem') // takes something from ann, who is slow to let go
    await settle()
    const dan = join('dan') // so this one waits, and bob, who has joined again, with it
    await settle()
    bob.news()
    await bob.member.leave()
    expect(bob.news()).toEqual([expect.stringMatching(/^revoked( t\/\d)+$/)])
    expect(bob.held.size).toBe(0)

    handler.resolve()
    ann.busy = null
    await settle()
    expect([ann, await cem, await dan].map(({ held }) => held.size)).toEqual([2, 2, 2])
  })

  test('closing the engine ends a join that waits for others', async () => {
    const ann = await join('ann', { assignors: ['range'] })
    const handler = Promise.withResolvers<void>()
    ann.busy = handler.promise
    const joining = join('bob', { assignors: ['range'] })
    joining.catch(() => {})
    await settle()
    const closing = engine.close()
    handler.resolve()
    await closing
    await expect(joining).rejects.toMatchObject({ code: 'CLOSED' })
    expect(ann.held.size).toBe(0)
  })

  test('a member whose listener throws gives up its place, and says why', async () => {
    const ann = await join('ann')
    const bob = await join('bob')
    await settle()
    ann.beforeLettingGo = () => Promise.reject(new Error('a bug of the user'))
    const cem = await join('cem').catch(() => null)
    await settle()
    expect(ann.failure?.message).toContain('a bug of the user')
    expect(bob.held.size + (cem?.held.size ?? 0)).toBe(6)
  })
})

describe('static members in the middle of a rebalance', () => {
  test('one that stops then does not keep the others waiting', async () => {
    const options = { assignors: ['range' as const], sessionTimeoutMs: 60_000 }
    const ann = await join('ann', { ...options, instanceId: 'a' })
    const handler = Promise.withResolvers<void>()
    ann.busy = handler.promise
    const joining = join('bob', options)
    await settle()
    const left = ann.member.leave()
    handler.resolve()
    await left
    expect((await joining).partitions).toEqual(partitionsOf(6))
  })
})

describe('refusals', () => {
  test.each([
    ['a session time-out out of range', { sessionTimeoutMs: 10 }, 'INVALID_SESSION_TIMEOUT'],
    ['an empty group id', { group: '' }, 'INVALID_GROUP'],
    ['a group id that is too long', { group: 'g'.repeat(1_025) }, 'INVALID_GROUP'],
    ['no assignor in common', { assignors: ['sticky'] }, 'INCONSISTENT_GROUP_PROTOCOL'],
    ['a name that cannot be a topic', { topics: ['a b'] }, 'INVALID_TOPIC'],
  ])('%s', async (_, options, code) => {
    const ann = await join('ann')
    await expect(join('bob', options)).rejects.toMatchObject({ code })
    await settle()
    expect(ann.held.size).toBe(6)
    expect((await engine.describeGroup('g')).members).toHaveLength(1)
  })

  test('commits for a partition that is not there, and for a group that has members', async () => {
    const ann = await join('ann')
    await expect(ann.member.commit([at(6, 1)])).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    await expect(engine.commit('g', [at(0, 1)])).rejects.toMatchObject({ code: 'UNKNOWN_MEMBER' })
    await expect(engine.deleteGroup('g')).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' })
    await ann.member.leave()
    await engine.commit('g', [at(0, 1)])
    await engine.deleteGroup('g')
    await expect(engine.describeGroup('g')).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
    expect(await engine.committed('g')).toEqual([])
  })
})

test('members come, go, are slow and topics grow, at random: never two holders, and in the end each partition has one', async () => {
  const seed = Number(process.env.SLUICE_SEED ?? 0)
  for (let run = 0; run < (seed === 0 ? 150 : 1); run++) {
    const random = new Random(seed || run + 1)
    const mixes: Assignor[][] = [
      ['cooperative-sticky'],
      ['cooperative-sticky', 'range'],
      ['sticky', 'range'],
      ['range'],
    ]
    const common = random.pick(mixes)
    const own = random.chance(0.3) ? [common, ['range' as const], [...common].reverse()] : [common]
    const all = new Holdings()
    const group = `run-${run}`
    const topic = `random-${run}`
    await engine.createTopic({ name: topic, partitions: random.between(1, 9) })
    const members: ObservedMember[] = []
    const releases: (() => void)[] = []
    const pending: Promise<unknown>[] = []
    for (let step = 0; step < 25; step++) {
      const member = members.length > 0 ? random.pick(members) : undefined
      const action = random.below(6)
      if (action <= 1 && members.length < 6) {
        const joining = new ObservedMember(`m${run}-${step}`, all)
        const assignors = common.includes('range') ? random.pick(own) : common
        const instanceId = random.chance(0.3) ? `i${step}` : undefined
        pending.push(
          joining
            .join(engine, { group, topics: [topic], assignors, instanceId, rebalanceTimeoutMs: 1e9 })
            .then(() => members.push(joining)),
        )
      } else if (action === 2 && member !== undefined) {
        members.splice(members.indexOf(member), 1)
        pending.push(member.member.leave())
      } else if (action === 3 && member !== undefined) {
        const { promise, resolve } = Promise.withResolvers<void>()
        member.busy = promise
        releases.push(() => {
          member.busy = null
          resolve()
        })
      } else if (action === 4) {
        releases.splice(random.below(releases.length + 1), 1)[0]?.()
      } else if (action === 5 && random.chance(0.3)) {
        await engine.addPartitions(topic, (await engine.partitionsOf(topic)) + random.between(1, 3))
      }
      if (random.chance(0.7)) await settle()
      if (random.chance(0.3)) await clock.advance(random.below(4_000))
    }
    for (const release of releases.splice(0)) release()
    await clock.advance(30_000)
    await Promise.all(pending)
    await clock.advance(30_000)
    const count = await engine.partitionsOf(topic)
    const outcome = { seed: seed || run + 1, overlaps: all.overlaps, held: all.held }
    expect(outcome).toEqual({
      seed: seed || run + 1,
      overlaps: [],
      held: members.length === 0 ? [] : partitionsOf(count, topic).sort(),
    })
    const sizes = members.map(({ held }) => held.size)
    if (sizes.length > 0) expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1)
    await Promise.all(members.map(({ member }) => member.leave()))
  }
})
