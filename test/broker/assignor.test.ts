import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type Assignments,
  type AssignorMember,
  assign,
  assignors,
  type TopicPartition,
} from '../../src/broker/assignor.ts'

const names = ({ topic, partition }: TopicPartition) => `${topic}/${partition}`
const parse = (text: string): TopicPartition[] =>
  text === ''
    ? []
    : text.split(' ').map(name => {
        const [topic, partition] = name.split('/')
        return { topic, partition: Number(partition) }
      })

function member(
  memberId: string,
  topics: string,
  owned = '',
  more: Partial<AssignorMember> = {},
): AssignorMember {
  return {
    memberId,
    instanceId: null,
    topics: topics === '' ? [] : topics.split(' '),
    owned: parse(owned),
    generation: owned === '' ? -1 : 1,
    ...more,
  }
}

const counts = (topics: Record<string, number>) => (topic: string) => topics[topic] ?? 0

/** `{ a: 't/0 t/1', … }` */
const shown = (assignments: Assignments) =>
  Object.fromEntries([...assignments].map(([memberId, list]) => [memberId, list.map(names).join(' ')]))

/** Members as they would join after this assignment. */
const rejoining = (members: readonly AssignorMember[], assignments: Assignments, generation: number) =>
  members.map(one => ({ ...one, owned: assignments.get(one.memberId) ?? [], generation }))

describe('range', () => {
  test('cuts each topic into consecutive pieces; the first members get one more', () => {
    const members = [member('c', 't u'), member('a', 't u'), member('b', 't')]
    expect(shown(assign('range', members, counts({ t: 7, u: 3 })))).toEqual({
      a: 't/0 t/1 t/2 u/0 u/1',
      b: 't/3 t/4',
      c: 't/5 t/6 u/2',
    })
  })

  test('topics with as many partitions and the same subscribers are split alike', () => {
    const members = ['a', 'b', 'c'].map(id => member(id, 'orders payments'))
    for (const list of assign('range', members, counts({ orders: 8, payments: 8 })).values()) {
      const of = (topic: string) => list.filter(one => one.topic === topic).map(one => one.partition)
      expect(of('orders')).toEqual(of('payments'))
      expect(of('orders').length).toBeGreaterThan(1)
    }
  })

  test('static members come first and keep their ranges over a restart, whatever their new member ids', () => {
    const statics = (ids: string[]) =>
      ids.map((id, i) => member(id, 't', '', { instanceId: `instance-${i}` }))
    const first = assign('range', [member('0', 't'), ...statics(['y', 'z'])], counts({ t: 6 }))
    const second = assign('range', [member('0', 't'), ...statics(['k', 'j'])], counts({ t: 6 }))
    expect(shown(first)).toEqual({ y: 't/0 t/1', z: 't/2 t/3', 0: 't/4 t/5' })
    expect(shown(second)).toEqual({ k: 't/0 t/1', j: 't/2 t/3', 0: 't/4 t/5' })
  })
})

describe('roundrobin', () => {
  test('deals all partitions of all topics out in turn, passing over members that do not subscribe', () => {
    const members = [member('b', 't u'), member('a', 't u'), member('c', 'u')]
    expect(shown(assign('roundrobin', members, counts({ t: 3, u: 5 })))).toEqual({
      a: 't/0 t/2 u/2',
      b: 't/1 u/0 u/3',
      c: 'u/1 u/4',
    })
  })
})

describe('sticky', () => {
  test('a first assignment is dealt out in turn', () => {
    const members = ['b', 'a', 'c'].map(id => member(id, 't u'))
    expect(shown(assign('sticky', members, counts({ t: 4, u: 4 })))).toEqual({
      a: 't/0 t/3 u/2',
      b: 't/1 u/0 u/3',
      c: 't/2 u/1',
    })
  })

  test('a new member gets its share, and no others move', () => {
    const members = [member('a', 't', 't/0 t/1 t/2'), member('b', 't', 't/3 t/4 t/5'), member('c', 't')]
    expect(shown(assign('sticky', members, counts({ t: 6 })))).toEqual({
      a: 't/0 t/1',
      b: 't/3 t/4',
      c: 't/2 t/5',
    })
  })

  test('partitions of a member that went are shared out, and no others move', () => {
    const members = [member('a', 't', 't/0 t/3'), member('c', 't', 't/2 t/5')]
    expect(shown(assign('sticky', members, counts({ t: 6 })))).toEqual({
      a: 't/0 t/1 t/3',
      c: 't/2 t/4 t/5',
    })
  })

  test('of two claims the later generation counts; of two in the same generation none', () => {
    const stale = { generation: 4 }
    const fresh = { generation: 5 }
    const members = [member('a', 't', 't/0 t/1', stale), member('b', 't', 't/0', fresh), member('c', 't')]
    expect(shown(assign('sticky', members, counts({ t: 3 })))).toEqual({ a: 't/1', b: 't/0', c: 't/2' })
    const twice = [member('a', 't', 't/0 t/1', fresh), member('b', 't', 't/0 t/2', fresh)]
    expect(shown(assign('cooperative-sticky', twice, counts({ t: 3 })))).toEqual({ a: 't/1', b: 't/2' })
  })

  test('claims to partitions and topics that are gone are dropped', () => {
    const members = [member('a', 't', 't/0 t/8 gone/0'), member('b', 't')]
    expect(shown(assign('sticky', members, counts({ t: 2 })))).toEqual({ a: 't/0', b: 't/1' })
  })

  test('different subscriptions: as balanced as they allow, with nothing moved that need not', () => {
    const members = [member('a', 't u', 't/0 t/1 t/2 t/3'), member('b', 'u', 'u/0 u/1'), member('c', 't')]
    expect(shown(assign('sticky', members, counts({ t: 4, u: 2 })))).toEqual({
      a: 't/2 t/3',
      b: 'u/0 u/1',
      c: 't/0 t/1',
    })
  })

  test('what is given up is the end of each topic, so that both keep some of each', () => {
    const members = [member('a', 't u', 't/0 t/1 t/2 t/3 u/0 u/1 u/2 u/3'), member('b', 't u')]
    expect(shown(assign('sticky', members, counts({ t: 4, u: 4 })))).toEqual({
      a: 't/0 t/1 u/0 u/1',
      b: 't/2 t/3 u/2 u/3',
    })
  })

  // the answers to these two are those of the Java client (kafka-clients 4.0.0)
  test('different subscriptions: two members do not swap partitions of a topic', () => {
    const members = [
      member('a', 't1'),
      member('b', 't0', 't0/0 t0/1'),
      member('c', 't0 t1', 't0/2 t0/3 t1/0 t1/1'),
      member('d', 't1'),
    ]
    expect(shown(assign('sticky', members, counts({ t0: 4, t1: 2 })))).toEqual({
      a: 't1/0',
      b: 't0/0 t0/1',
      c: 't0/2 t0/3',
      d: 't1/1',
    })
  })

  test('different subscriptions: partitions that nobody had are moved before those that somebody has', () => {
    const members = [
      member('a', 't0 t1'),
      member('b', 't0 t1', 't0/0 t1/2'),
      member('c', 't0'),
      member('d', 't1'),
    ]
    expect(shown(assign('sticky', members, counts({ t0: 2, t1: 3 })))).toEqual({
      a: 't1/1',
      b: 't0/0 t1/2',
      c: 't0/1',
      d: 't1/0',
    })
  })

  test('different subscriptions: what the owner no longer reads goes to who does', () => {
    const members = [member('a', 'u', 't/0 t/1 u/0'), member('b', 't')]
    expect(shown(assign('sticky', members, counts({ t: 2, u: 1 })))).toEqual({ a: 'u/0', b: 't/0 t/1' })
  })
})

describe('cooperative-sticky', () => {
  test('what has to move is given to nobody in the first round, and to its new owner in the second', () => {
    const topics = counts({ t: 6 })
    const members = [member('a', 't', 't/0 t/1 t/2'), member('b', 't', 't/3 t/4 t/5'), member('c', 't')]
    const first = assign('cooperative-sticky', members, topics)
    expect(shown(first)).toEqual({ a: 't/0 t/1', b: 't/3 t/4', c: '' })
    expect(shown(assign('cooperative-sticky', rejoining(members, first, 2), topics))).toEqual({
      a: 't/0 t/1',
      b: 't/3 t/4',
      c: 't/2 t/5',
    })
  })

  test('what nobody holds is given out at once', () => {
    const members = [member('a', 't', 't/0 t/1'), member('b', 't')]
    expect(shown(assign('cooperative-sticky', members, counts({ t: 4 })))).toEqual({
      a: 't/0 t/1',
      b: 't/2 t/3',
    })
  })

  test('a partition that its owner no longer subscribes to is withheld as well: it still works on it', () => {
    const members = [member('a', 'u', 't/0 u/0'), member('b', 't')]
    expect(shown(assign('cooperative-sticky', members, counts({ t: 1, u: 1 })))).toEqual({ a: 'u/0', b: '' })
  })

  test('a partition claimed by two of one generation is taken from both before anyone gets it', () => {
    const members = [member('a', 't u', 't/0'), member('b', 't', 't/0')]
    expect(shown(assign('cooperative-sticky', members, counts({ t: 1, u: 1 })))).toEqual({ a: 'u/0', b: '' })
  })
})

describe('all', () => {
  test('no members, no partitions, unknown topics, no subscription', () => {
    for (const assignor of assignors) {
      expect(assign(assignor, [], counts({ t: 3 }))).toEqual(new Map())
      expect(shown(assign(assignor, [member('a', 'nowhere'), member('b', '')], counts({})))).toEqual({
        a: '',
        b: '',
      })
      expect(shown(assign(assignor, [member('a', ''), member('b', 't nowhere')], counts({ t: 2 })))).toEqual({
        a: '',
        b: 't/0 t/1',
      })
    }
  })

  test('a thousand partitions among a hundred members take a few milliseconds, a hundred thousand well under a second', () => {
    const topics = Array.from({ length: 100 }, (_, t) => `t${t}`)
    const members = Array.from({ length: 100 }, (_, m) => member(`m${m}`, topics.join(' ')))
    for (const assignor of assignors) {
      const small = counts(Object.fromEntries(topics.map(topic => [topic, 10])))
      const held = rejoining(members.slice(0, 90), assign(assignor, members.slice(0, 90), small), 1)
      const start = performance.now()
      for (let i = 0; i < 5; i++) assign(assignor, [...held, ...members.slice(90)], small)
      expect((performance.now() - start) / 5).toBeLessThan(50)
    }
    const large = counts(Object.fromEntries(topics.map(topic => [topic, 1_000])))
    const uneven = members.map((one, m) => (m % 3 === 0 ? { ...one, topics: topics.slice(m % 50) } : one))
    const start = performance.now()
    assign('sticky', uneven, large)
    expect(performance.now() - start).toBeLessThan(2_000)
  })
})

describe('whatever the group', () => {
  const topicArb = fc.constantFrom('t0', 't1', 't2', 't3')
  const countsArb = fc.record({ t0: fc.nat(9), t1: fc.nat(9), t2: fc.nat(9), t3: fc.nat(9) })
  const anyTopics = fc.uniqueArray(topicArb)
  const membersArb: fc.Arbitrary<AssignorMember[]> = fc.uniqueArray(
    fc.record({
      memberId: fc.stringMatching(/^[a-z]{1,3}$/),
      instanceId: fc.option(fc.stringMatching(/^[a-z]{1,3}$/)),
      topics: anyTopics,
      owned: fc.uniqueArray(fc.record({ topic: topicArb, partition: fc.nat(9) }), {
        selector: names,
        maxLength: 12,
      }),
      generation: fc.integer({ min: -1, max: 3 }),
    }),
    { selector: one => one.memberId, maxLength: 7 },
  )
  const equalMembersArb = fc
    .tuple(membersArb, anyTopics)
    .map(([members, topics]) => members.map(one => ({ ...one, topics })))

  const everySubscribed = (members: readonly AssignorMember[], topics: Record<string, number>) =>
    Object.entries(topics)
      .filter(([topic]) => members.some(one => one.topics.includes(topic)))
      .flatMap(([topic, count]) => Array.from({ length: count }, (_, p) => `${topic}/${p}`))
      .sort()

  test('every partition of a subscribed topic goes to exactly one member, and that one subscribes to it', () => {
    fc.assert(
      fc.property(fc.constantFrom(...assignors), membersArb, countsArb, (assignor, members, topics) => {
        const assignments = assign(assignor, members, counts(topics))
        expect([...assignments.keys()].sort()).toEqual(members.map(one => one.memberId).sort())
        const given = [...assignments.values()].flat().map(names).sort()
        expect(new Set(given).size).toBe(given.length)
        for (const one of members) {
          for (const { topic } of assignments.get(one.memberId)!) expect(one.topics).toContain(topic)
        }
        const expected = everySubscribed(members, topics)
        if (assignor !== 'cooperative-sticky') expect(given).toEqual(expected)
        else {
          // what is withheld is held by somebody now
          const held = new Set(members.flatMap(one => one.owned.map(names)))
          for (const name of expected) if (!given.includes(name)) expect(held).toContain(name)
        }
      }),
      { numRuns: 500 },
    )
  })

  test('the order in which members come does not matter', () => {
    const shuffled = membersArb.chain(members =>
      fc.tuple(fc.constant(members), fc.shuffledSubarray(members, { minLength: members.length })),
    )
    fc.assert(
      fc.property(
        fc.constantFrom(...assignors),
        shuffled,
        countsArb,
        (assignor, [members, other], topics) => {
          const one = shown(assign(assignor, members, counts(topics)))
          expect(shown(assign(assignor, other, counts(topics)))).toEqual(one)
        },
      ),
    )
  })

  test('sticky: with equal subscriptions loads differ by one at most, and nobody gives up more than it must', () => {
    fc.assert(
      fc.property(equalMembersArb, countsArb, (members, topics) => {
        const assignments = assign('sticky', members, counts(topics))
        const loads = [...assignments.values()].map(list => list.length)
        if (loads.length === 0) return
        expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1)
        // the most that can stay where it is: everyone keeps a share, and as many as can one more
        const total = loads.reduce((sum, load) => sum + load, 0)
        const share = Math.floor(total / members.length)
        const owners = undisputed(members, everySubscribed(members, topics))
        const held = [...owners.values()]
        const richer = held.filter(list => list.length > share).length
        const stay =
          held.reduce((sum, list) => sum + Math.min(list.length, share), 0) +
          Math.min(richer, total % members.length)
        expect(kept(owners, assignments)).toBe(stay)
      }),
      { numRuns: 500 },
    )
  })

  test('sticky: one who comes or goes moves only its own share', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 8 }), fc.integer({ min: 0, max: 60 }), (size, partitions) => {
        const topics = counts({ t: partitions })
        const everyone = Array.from({ length: size }, (_, m) => member(`m${m}`, 't'))
        const whole = assign('sticky', everyone, topics)

        const stayed = rejoining(everyone.slice(1), whole, 1)
        const without = assign('sticky', stayed, topics)
        for (const one of stayed)
          for (const had of one.owned) expect(without.get(one.memberId)).toContainEqual(had)

        const joined = [...rejoining(everyone.slice(1), without, 2), member('m0', 't')]
        const again = assign('sticky', joined, topics)
        const moved =
          partitions - kept(new Map(joined.map(one => [one.memberId, one.owned.map(names)])), again)
        expect(moved).toBe(again.get('m0')!.length)
      }),
    )
  })

  test('sticky: with different subscriptions no single move would even the loads out further', () => {
    fc.assert(
      fc.property(membersArb, countsArb, (members, topics) => {
        const assignments = assign('sticky', members, counts(topics))
        const load = (id: string) => assignments.get(id)!.length
        for (const [owner, list] of assignments) {
          for (const { topic } of list) {
            for (const other of members) {
              if (other.topics.includes(topic))
                expect(load(owner)).toBeLessThanOrEqual(load(other.memberId) + 1)
            }
          }
        }
      }),
      { numRuns: 500 },
    )
  })

  test('cooperative-sticky: nobody gets what another holds; rounds come to rest at a complete, balanced assignment', () => {
    fc.assert(
      fc.property(equalMembersArb, countsArb, (start, topics) => {
        let members: AssignorMember[] = start
        for (let round = 4; round < 8; round++) {
          const assignments = assign('cooperative-sticky', members, counts(topics))
          const owners = undisputed(members, everySubscribed(members, topics))
          const owner = new Map([...owners].flatMap(([memberId, held]) => held.map(name => [name, memberId])))
          for (const [memberId, list] of assignments) {
            const foreign = list.map(names).filter(name => (owner.get(name) ?? memberId) !== memberId)
            expect(foreign).toEqual([])
          }
          members = rejoining(members, assignments, round)
        }
        const given = members.flatMap(one => one.owned.map(names)).sort()
        expect(given).toEqual(everySubscribed(members, topics))
        const loads = members.map(one => one.owned.length)
        if (loads.length > 0) expect(Math.max(...loads) - Math.min(...loads)).toBeLessThanOrEqual(1)
      }),
      { numRuns: 300 },
    )
  })

  /** What each member rightly holds: existing partitions that no member claims with a later, or the same, generation. */
  function undisputed(
    members: readonly AssignorMember[],
    existing: readonly string[],
  ): Map<string, string[]> {
    return new Map(
      members.map(one => {
        const rivals = members.filter(other => other !== one && other.generation >= one.generation)
        const taken = new Set(rivals.flatMap(other => other.owned.map(names)))
        return [
          one.memberId,
          one.owned.map(names).filter(name => existing.includes(name) && !taken.has(name)),
        ]
      }),
    )
  }

  function kept(held: Map<string, string[]>, assignments: Assignments): number {
    let count = 0
    for (const [memberId, list] of assignments) {
      count += list.filter(one => held.get(memberId)!.includes(names(one))).length
    }
    return count
  }
})
