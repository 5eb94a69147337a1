/** Groups of the new protocol: epochs, handovers, static members, time; and a simulation of members that keep to the protocol. */

import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import type { ConsumerHeartbeat, TopicDirectory } from '../../src/broker/consumer-group.ts'
import { type ConsumerHeartbeatResult, Groups } from '../../src/broker/groups.ts'

/** Topics as a test makes them; ids are `<name>#<how many topics there were before>`. */
class Topics implements TopicDirectory {
  version = 0
  readonly #topics = new Map<string, { readonly id: string; readonly partitions: number }>()
  #made = 0

  set(name: string, partitions: number): void {
    const id = this.#topics.get(name)?.id ?? `${name}#${this.#made++}`
    this.#topics.set(name, { id, partitions })
    this.version++
  }

  delete(name: string): void {
    this.#topics.delete(name)
    this.version++
  }

  names = () => this.#topics.keys()
  find = (name: string) => this.#topics.get(name)
  nameOf = (id: string) => [...this.#topics].find(([, topic]) => topic.id === id)?.[0]

  /** All partitions of these topics. */
  partitions(names: Iterable<string>): string[] {
    return [...names].flatMap(name => {
      const { id, partitions } = this.#topics.get(name) ?? { id: '', partitions: 0 }
      return Array.from({ length: partitions }, (_, partition) => `${id}/${partition}`)
    })
  }
}

const toOwned = (keys: Iterable<string>) =>
  [...keys].map(key => {
    const [topicId, partition] = key.split('/')
    return { topicId, partitions: [Number(partition)] }
  })

/** A client that keeps to the protocol, but takes its time. */
class Client {
  readonly memberId: string
  readonly instanceId: string | null
  epoch = 0
  topics: readonly string[] | null
  pattern: string | null
  /** What it reads. */
  owned = new Set<string>()
  /** What it shall read. */
  target: ReadonlySet<string> = new Set()
  /** It has another target, which the coordinator waits to see met. */
  #owesAnswer = false
  #sendsOwned = false
  /** After a failure: everything, since nobody knows what has come through. */
  sendsAll = true

  constructor(memberId: string, topics: readonly string[] | string, instanceId: string | null = null) {
    this.memberId = memberId
    this.instanceId = instanceId
    this.topics = typeof topics === 'string' ? null : topics
    this.pattern = typeof topics === 'string' ? topics : null
  }

  request(more: Partial<ConsumerHeartbeat> = {}): ConsumerHeartbeat {
    const all = this.sendsAll || this.epoch === 0
    return {
      group: 'g',
      memberId: this.memberId,
      memberEpoch: this.epoch,
      instanceId: this.instanceId,
      rackId: null,
      clientId: 'client',
      clientHost: '/10.0.0.7',
      rebalanceTimeoutMs: all ? 300_000 : -1,
      topics: all ? this.topics : null,
      topicPattern: all ? this.pattern : null,
      assignor: null,
      owned: all || this.#sendsOwned ? toOwned(this.owned) : null,
      ...more,
    }
  }

  take(answer: ConsumerHeartbeatResult): void {
    if (answer.error !== null) {
      // What it reads it may read no more.
      this.owned = new Set()
      this.target = new Set()
      this.epoch = 0
      this.sendsAll = true
      return
    }
    this.sendsAll = false
    this.#sendsOwned = false
    this.epoch = answer.memberEpoch
    if (answer.assignment === null) return
    this.#owesAnswer = true
    this.target = new Set(
      answer.assignment.flatMap(({ topicId, partitions }) => partitions.map(each => `${topicId}/${each}`)),
    )
  }

  /** Gives up what it must, then reads what it may. */
  settle(): void {
    if (!this.#owesAnswer) return
    this.#owesAnswer = false
    this.owned = new Set(this.target)
    this.#sendsOwned = true
  }
}

let topics: Topics
let groups: Groups
let now: number
let emptied: number
beforeEach(() => {
  now = 0
  emptied = 0
  topics = new Topics()
  let ids = 0
  groups = new Groups({
    newId: () => `id-${++ids}`,
    topics,
    groupSizeMax: 5,
    onEmpty: () => emptied++,
  })
})

const send = (client: Client, more: Partial<ConsumerHeartbeat> = {}, version = 1): ConsumerHeartbeatResult =>
  groups.consumerHeartbeat(client.request(more), version >= 1, now)
const beat = (client: Client, more: Partial<ConsumerHeartbeat> = {}): ConsumerHeartbeatResult => {
  const answer = send(client, more)
  client.take(answer)
  client.settle()
  return answer
}
/** Heartbeats of all, until everybody is where it belongs. */
const converge = (...clients: Client[]): void => {
  for (let round = 0; round < 4; round++) for (const client of clients) beat(client)
  expect(groups.describeConsumer('g')!.state).toBe('stable')
}
const join = (memberId: string, of: readonly string[] | string = ['t'], instanceId: string | null = null) => {
  const client = new Client(memberId, of, instanceId)
  expect(beat(client).error).toBe(null)
  return client
}
/** What a request repeats after a failure. */
const everything = { rebalanceTimeoutMs: 300_000, topics: ['t'] }
const shares = (...clients: Client[]): number[] => clients.map(({ owned }) => owned.size)
const state = () => groups.describeConsumer('g')!.state

describe('a handover', () => {
  test('gives a partition to another only after its holder has said that it gave it up', () => {
    topics.set('t', 4)
    const ann = join('ann')
    expect(ann.epoch).toBe(2)
    expect(ann.owned.size).toBe(4)
    const bob = join('bob')
    expect(bob).toMatchObject({ epoch: 3, owned: new Set() })
    expect(state()).toBe('reconciling')

    // she is told, stays in her epoch, and says nothing yet
    const told = send(ann, { owned: null })
    expect(told).toMatchObject({ error: null, memberEpoch: 2 })
    ann.take(told)
    expect(ann.target.size).toBe(2)
    expect(send(ann)).toMatchObject({ memberEpoch: 2, assignment: null })
    expect(beat(bob)).toMatchObject({ memberEpoch: 3, assignment: null })
    // she still owns one of them
    const [, , third, fourth] = ann.owned
    expect(send(ann, { owned: toOwned([...ann.target, third]) })).toMatchObject({ memberEpoch: 2 })
    beat(bob)
    expect(bob.owned).toEqual(new Set([fourth]))

    ann.settle()
    expect(beat(ann)).toMatchObject({ memberEpoch: 3 })
    beat(bob)
    expect(bob.owned).toEqual(new Set([third, fourth]))
    expect(state()).toBe('stable')
    expect(groups.describeConsumer('g')).toMatchObject({
      groupEpoch: 3,
      assignmentEpoch: 3,
      assignor: 'uniform',
    })
  })

  test('need not be waited for where the holder cannot know what it was given', () => {
    topics.set('t', 2)
    // her answer is lost, and with it what she was given
    const ann = new Client('ann', ['t'])
    expect(send(ann)).toMatchObject({ error: null, memberEpoch: 2 })
    const bob = join('bob')
    expect(beat(ann, { memberEpoch: 0 })).toMatchObject({ memberEpoch: 3 })
    beat(bob)
    expect(shares(ann, bob)).toEqual([1, 1])
    // what she is given later is not hers for long, and that answer is lost, too
    topics.set('t', 6)
    beat(bob)
    expect(send(ann)).toMatchObject({ memberEpoch: 4, assignment: [{ partitions: { length: 3 } }] })
    const cid = join('cid')
    const repeated = { ...everything, memberEpoch: 3, owned: toOwned(ann.owned) }
    expect(send(ann, repeated)).toMatchObject({ memberEpoch: 5, assignment: [{ partitions: { length: 2 } }] })
    beat(cid)
    expect(cid.owned.size).toBe(1)
  })

  test('is not over with the request in which the member learns of it', () => {
    topics.set('t', 2)
    const ann = join('ann')
    join('bob')
    // a request that left before she had taken what she was given, and so does not list it
    const answer = send(ann, { ...everything, owned: [] })
    expect(answer).toMatchObject({ assignment: [{ partitions: { length: 1 } }] })
    const described = groups.describeConsumer('g')!.members
    expect(described[0].assignment[0].partitions.length).toBe(2)
  })

  test('moves as little as can be, and balances', () => {
    topics.set('t', 6)
    topics.set('u', 3)
    const clients = ['a', 'b', 'c'].map(name => join(name, ['t', 'u']))
    converge(...clients)
    expect(shares(...clients)).toEqual([3, 3, 3])
    const before = clients.map(({ owned }) => new Set(owned))
    const dan = join('d', ['t', 'u'])
    converge(...clients, dan)
    expect(shares(...clients, dan).sort()).toEqual([2, 2, 2, 3])
    for (const [index, { owned }] of clients.entries())
      expect([...owned].every(key => before[index].has(key))).toBe(true)
    beat(dan, { memberEpoch: -1 })
    converge(...clients)
    for (const [index, { owned }] of clients.entries())
      expect([...before[index]].filter(key => owned.has(key)).length).toBeGreaterThanOrEqual(2)
  })

  test('by range, if that is what most members want', () => {
    topics.set('t', 3)
    topics.set('u', 3)
    const ann = new Client('ann', ['t', 'u'])
    const bob = new Client('bob', ['t', 'u'])
    beat(ann, { assignor: 'range' })
    beat(bob, { assignor: 'range' })
    converge(ann, bob)
    expect([...ann.owned].sort()).toEqual(['t#0/0', 't#0/1', 'u#1/0', 'u#1/1'])
    expect(groups.describe('g')!.protocol).toBe('range')
  })
})

describe('the group epoch', () => {
  test('counts changes of members, subscriptions and topics, and nothing else', () => {
    const epoch = () => groups.describeConsumer('g')!.groupEpoch
    topics.set('t', 1)
    topics.set('other', 1)
    const ann = join('ann')
    expect(epoch()).toBe(2)
    topics.set('other', 2)
    beat(ann)
    beat(ann, { topics: ['t'] })
    expect(epoch()).toBe(2)
    topics.set('t', 2)
    expect(epoch()).toBe(2)
    beat(ann)
    expect([epoch(), ann.owned.size]).toEqual([3, 2])
    beat(ann, { topics: ['t', 'other'] })
    expect([epoch(), ann.owned.size]).toEqual([4, 4])
    topics.delete('t')
    converge(ann)
    expect([epoch(), ann.owned.size]).toEqual([5, 2])
    // the same name, but another topic
    topics.set('t', 1)
    converge(ann)
    expect([...ann.owned].sort()).toEqual(['other#1/0', 'other#1/1', 't#2/0'])
    const bob = join('bob')
    expect(epoch()).toBe(7)
    beat(bob, { memberEpoch: -1 })
    expect([epoch(), state()]).toEqual([8, 'assigning'])
    converge(ann)
  })

  test('topics that come later, by name and by pattern', () => {
    const ann = join('ann', ['late'])
    const bob = join('bob', 'orders-[0-9]+')
    expect(shares(ann, bob)).toEqual([0, 0])
    topics.set('late', 2)
    topics.set('orders-1', 1)
    topics.set('orders-x', 1)
    converge(ann, bob)
    expect(shares(ann, bob)).toEqual([2, 1])
    topics.set('orders-22', 1)
    converge(ann, bob)
    expect([...bob.owned].sort()).toEqual(['orders-1#1/0', 'orders-22#3/0'])
    expect(groups.isSubscribed('g', 'orders-22')).toBe(true)
    expect(groups.isSubscribed('g', 'orders-x')).toBe(false)
    beat(bob, { topics: ['orders-x'], topicPattern: '' })
    converge(ann, bob)
    expect([...bob.owned]).toEqual(['orders-x#2/0'])
  })
})

describe('member epochs', () => {
  beforeEach(() => topics.set('t', 2))

  test('fence a member that has another than the coordinator', () => {
    const ann = join('ann')
    expect(send(ann, { memberEpoch: 3 })).toMatchObject({ error: 'FENCED_MEMBER_EPOCH' })
    join('bob')
    beat(ann)
    expect(ann.epoch).toBe(2)
    beat(ann)
    expect(ann.epoch).toBe(3)
    // the answer was lost: she comes with the epoch before, and what she has is hers
    expect(send(ann, { memberEpoch: 2, owned: toOwned(ann.owned) })).toMatchObject({
      error: null,
      memberEpoch: 3,
    })
    expect(send(ann, { memberEpoch: 2, owned: null }).error).toBe('FENCED_MEMBER_EPOCH')
    expect(send(ann, { memberEpoch: 2, owned: toOwned(['t#0/0', 't#0/1']) }).error).toBe(
      'FENCED_MEMBER_EPOCH',
    )
    // once she has shown that she knows the new one, the old one is over
    expect(send(ann).error).toBe(null)
    expect(send(ann, { memberEpoch: 2, owned: [] }).error).toBe('FENCED_MEMBER_EPOCH')
  })

  test('of who joins again are 0, and what it held is given up', () => {
    const ann = join('ann')
    const bob = join('bob')
    ann.epoch = 0
    ann.owned = new Set()
    expect(beat(ann)).toMatchObject({ error: null, memberEpoch: 3 })
    beat(bob)
    expect(shares(ann, bob)).toEqual([1, 1])
  })

  test('of those that are not there', () => {
    const nobody = new Client('nobody', ['t'])
    expect(send(nobody, { memberEpoch: 2 }).error).toBe('UNKNOWN_MEMBER')
    expect(send(nobody, { memberEpoch: -1 }).error).toBe('UNKNOWN_GROUP')
    const ann = join('ann')
    for (const memberEpoch of [1, -1]) expect(send(nobody, { memberEpoch }).error).toBe('UNKNOWN_MEMBER')
    beat(ann, { memberEpoch: -1 })
    expect(send(ann, { memberEpoch: 2 }).error).toBe('UNKNOWN_MEMBER')
    expect([state(), emptied]).toEqual(['empty', 1])
  })

  test('guard commits, and fetches that name a member', () => {
    const ann = join('ann')
    const commit = (generation: number, memberId = 'ann', knowsEpochs = true) =>
      groups.checkCommit('g', { memberId, generation, instanceId: null }, now, knowsEpochs)
    expect(commit(2)).toBe(null)
    expect(commit(3)).toBe('STALE_MEMBER_EPOCH')
    expect(commit(2, 'bob')).toBe('UNKNOWN_MEMBER')
    expect(commit(2, 'ann', false)).toBe('UNSUPPORTED')
    expect(groups.checkCommit('g', null, now, true)).toBe('UNKNOWN_MEMBER')
    expect(groups.checkFetch('g', null, -1)).toBe(null)
    expect(groups.checkFetch('g', 'ann', 2)).toBe(null)
    expect(groups.checkFetch('g', 'ann', 1)).toBe('STALE_MEMBER_EPOCH')
    expect(groups.checkFetch('g', 'bob', 1)).toBe('UNKNOWN_MEMBER')
    expect(groups.checkFetch('other', 'bob', 1)).toBe(null)
    beat(ann, { memberEpoch: -1 })
    expect(groups.checkCommit('g', null, now, true)).toBe(null)
  })

  test('from before are good for commits of what the member has held since', () => {
    const ann = join('ann')
    const bob = join('bob')
    const allowed = (memberId: string, generation: number, partition: number) => {
      const identity = { memberId, generation, instanceId: null }
      return (
        groups.checkCommit('g', identity, now, true) ?? groups.checkCommitOf('g', identity, 't#0', partition)
      )
    }
    // while she gives partition 1 up, which she may well do with a commit, and after it
    expect(send(ann)).toMatchObject({ memberEpoch: 2, assignment: [{ partitions: [0] }] })
    expect([allowed('ann', 2, 0), allowed('ann', 2, 1)]).toEqual([null, null])
    expect(send(ann, { owned: toOwned(['t#0/0']) })).toMatchObject({ memberEpoch: 3 })
    expect(allowed('ann', 2, 0)).toBe(null)
    expect(allowed('ann', 2, 1)).toBe('STALE_MEMBER_EPOCH')
    expect(allowed('ann', 1, 0)).toBe('STALE_MEMBER_EPOCH')
    beat(bob)
    expect([allowed('bob', 3, 1), allowed('bob', 2, 1)]).toEqual([null, 'STALE_MEMBER_EPOCH'])
    // with the current epoch everything passes: it may be a partition that the member assigned itself
    expect(allowed('ann', 3, 1)).toBe(null)
  })
})

describe('requests that are wrong by themselves', () => {
  const bad: readonly [string, Partial<ConsumerHeartbeat>, string][] = [
    ['no member id', { memberId: '' }, 'INVALID_ARGUMENT'],
    ['no group', { group: '' }, 'INVALID_ARGUMENT'],
    ['an empty instance id', { instanceId: '' }, 'INVALID_ARGUMENT'],
    ['an empty rack', { rackId: '' }, 'INVALID_ARGUMENT'],
    ['a join without a time-out', { rebalanceTimeoutMs: -1 }, 'INVALID_ARGUMENT'],
    ['a join that owns', { owned: toOwned(['t/0']) }, 'INVALID_ARGUMENT'],
    ['a join that does not say', { owned: null }, 'INVALID_ARGUMENT'],
    ['a join without a subscription', { topics: null }, 'INVALID_ARGUMENT'],
    ['a static leave of a dynamic member', { memberEpoch: -2 }, 'INVALID_ARGUMENT'],
    ['an epoch that there is not', { memberEpoch: -3 }, 'INVALID_ARGUMENT'],
    ['an assignor that there is not', { assignor: 'sticky' }, 'UNSUPPORTED_ASSIGNOR'],
    ['a pattern that is none', { topicPattern: '(' }, 'INVALID_REGULAR_EXPRESSION'],
    ['a group name that is too long', { group: 'g'.repeat(1025) }, 'INVALID_GROUP'],
  ]
  test.each(bad)('%s', (_, more, error) => {
    expect(send(new Client('ann', ['t']), more)).toMatchObject({ error, message: expect.any(String) })
    expect(groups.has('g')).toBe(false)
  })

  test('a pattern that is none changes nothing', () => {
    topics.set('t', 1)
    const ann = join('ann')
    expect(send(ann, { topicPattern: '(' }).error).toBe('INVALID_REGULAR_EXPRESSION')
    beat(ann)
    expect(groups.describeConsumer('g')!.groupEpoch).toBe(2)
  })

  test('in version 0 the coordinator gives the id', () => {
    topics.set('t', 1)
    const given = send(new Client('', ['t']), {}, 0)
    expect(given).toMatchObject({ error: null, memberId: 'id-1', memberEpoch: 2 })
  })

  test('a member too many', () => {
    for (const name of ['a', 'b', 'c', 'd', 'e']) join(name)
    expect(send(new Client('f', ['t'])).error).toBe('GROUP_FULL')
  })
})

describe('static members', () => {
  beforeEach(() => topics.set('t', 4))

  test('that will be back find what they had, and nobody else is given it', () => {
    const ann = join('ann', ['t'], 'i-ann')
    const bob = join('bob', ['t'], 'i-bob')
    converge(ann, bob)
    const had = ann.owned
    expect(beat(ann, { memberEpoch: -2 })).toMatchObject({ error: null, memberEpoch: -2 })
    beat(bob)
    expect(bob.owned.size).toBe(2)
    const again = join('ann-again', ['t'], 'i-ann')
    expect(again.owned).toEqual(had)
    expect(again.epoch).toBe(3)
    expect(groups.describeConsumer('g')!.members.map(({ memberId }) => memberId)).toEqual([
      'bob',
      'ann-again',
    ])
    expect(send(ann, { memberEpoch: 3 })).toMatchObject({ error: 'FENCED_MEMBER' })
  })

  test('that stay away are dropped when their session is over', () => {
    const ann = join('ann', ['t'], 'i-ann')
    const bob = join('bob', ['t'], 'i-bob')
    converge(ann, bob)
    beat(ann, { memberEpoch: -2 })
    now = 44_999
    groups.expire(now)
    beat(bob)
    expect(groups.describeConsumer('g')!.members.length).toBe(2)
    now = 45_000
    groups.expire(now)
    converge(bob)
    expect(bob.owned.size).toBe(4)
  })

  test('that leave while they give up partitions have given them up', () => {
    const ann = join('ann', ['t'], 'i-ann')
    const bob = join('bob')
    expect(send(ann)).toMatchObject({ memberEpoch: 2, assignment: [{ partitions: [0, 1] }] })
    beat(ann, { memberEpoch: -2 })
    beat(bob)
    expect(bob.owned.size).toBe(2)
  })

  test('that leave for good take nothing with them', () => {
    const ann = join('ann', ['t'], 'i-ann')
    beat(ann, { memberEpoch: -1 })
    expect([state(), emptied]).toEqual(['empty', 1])
  })

  test('do not let a second one of their name in', () => {
    const ann = join('ann', ['t'], 'i')
    expect(send(new Client('twin', ['t'], 'i'))).toMatchObject({ error: 'UNRELEASED_INSTANCE_ID' })
    expect(send(new Client('twin', ['t'], 'i'), { memberEpoch: 2 })).toMatchObject({ error: 'FENCED_MEMBER' })
    expect(send(new Client('twin', ['t'], 'i'), { memberEpoch: -1 })).toMatchObject({
      error: 'FENCED_MEMBER',
    })
    expect(send(new Client('other', ['t'], 'j'), { memberEpoch: 2 })).toMatchObject({
      error: 'UNKNOWN_MEMBER',
    })
    // she herself may come again: the answer to her first join may have been lost
    ann.epoch = 0
    ann.owned = new Set()
    expect(beat(ann)).toMatchObject({ error: null, memberEpoch: 2 })
  })

  test('are sent away by an administrator', () => {
    join('ann', ['t'], 'i')
    join('bob')
    expect(
      groups.leave(
        'g',
        [
          { memberId: '', instanceId: 'i' },
          { memberId: 'bob', instanceId: null },
          { memberId: 'nobody', instanceId: null },
        ],
        now,
      ),
    ).toMatchObject([{ error: null }, { error: null }, { error: 'UNKNOWN_MEMBER' }])
    expect(state()).toBe('empty')
  })
})

describe('time', () => {
  beforeEach(() => topics.set('t', 4))

  test('a silent member is dropped', () => {
    const ann = join('ann')
    const bob = join('bob')
    now = 30_000
    beat(bob)
    expect(groups.nextDeadline()).toBe(45_000)
    now = 45_000
    groups.expire(now)
    expect(groups.counters.expirations).toBe(1)
    expect(send(ann).error).toBe('UNKNOWN_MEMBER')
    converge(bob)
    expect(bob.owned.size).toBe(4)
  })

  test('a member that does not give up in time what it must is dropped, though it is not silent', () => {
    const ann = join('ann')
    beat(ann, { rebalanceTimeoutMs: 60_000 })
    const bob = join('bob')
    for (now = 10_000; now < 70_000; now += 10_000) {
      expect(send(ann, { owned: null }).error).toBe(null)
      beat(bob)
      groups.expire(now)
    }
    expect(bob.owned.size).toBe(0)
    groups.expire(now)
    expect(send(ann).error).toBe('UNKNOWN_MEMBER')
    converge(bob)
    expect(bob.owned.size).toBe(4)
  })
})

describe('a name is one group’s', () => {
  const classic = (memberId = '') => {
    const results: (string | null)[] = []
    groups.join(
      {
        group: 'g',
        memberId,
        instanceId: null,
        clientId: 'client',
        clientHost: '/',
        sessionTimeoutMs: 10_000,
        rebalanceTimeoutMs: 10_000,
        protocolType: 'consumer',
        protocols: [{ name: 'range', metadata: new Uint8Array(0) }],
        requireKnownMemberId: false,
      },
      now,
      ({ error }) => results.push(error),
    )
    return results[0]
  }
  const identity = { memberId: 'ann', generation: 1, instanceId: null }

  test('with members of one protocol, those of the other are refused', () => {
    const ann = join('ann')
    expect(classic()).toBe('INCONSISTENT_GROUP_PROTOCOL')
    expect(groups.heartbeat({ group: 'g', ...identity }, now)).toBe('UNKNOWN_MEMBER')
    expect(groups.delete('g')).toBe('GROUP_NOT_EMPTY')
    beat(ann, { memberEpoch: -1 })
    expect(groups.list()).toMatchObject([{ type: 'consumer', state: 'empty', protocolType: 'consumer' }])
    expect(classic('unknown')).toBe('UNKNOWN_MEMBER')
    expect(groups.describeConsumer('g')).not.toBe(null)
    expect(classic()).toBe(null)
    expect(groups.list()).toMatchObject([{ type: 'classic' }])
    expect(groups.describeConsumer('g')).toBe(null)
    expect(send(new Client('bob', ['t'])).error).toBe('UNKNOWN_GROUP')
  })

  test('a group that is known for its offsets becomes what its first member speaks', () => {
    groups.ensure('g')
    expect(send(new Client('ann', ['t']), { memberEpoch: 2 }).error).toBe('UNKNOWN_MEMBER')
    expect(send(new Client('ann', ['t']), { topicPattern: '(' }).error).toBe('INVALID_REGULAR_EXPRESSION')
    expect(groups.list()).toMatchObject([{ type: 'classic' }])
    const ann = join('ann')
    expect(groups.list()).toMatchObject([{ type: 'consumer' }])
    beat(ann, { memberEpoch: -1 })
    expect(groups.delete('g')).toBe(null)
    expect(groups.has('g')).toBe(false)
    groups.close()
    expect(send(ann).error).toBe('CLOSED')
  })
})

describe('members that keep to the protocol', () => {
  const who = fc.nat(2)
  const event = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('beat' as const), who, isLost: fc.nat(4) }) },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('settle' as const), who }) },
    {
      weight: 3,
      arbitrary: fc.record({
        kind: fc.constant('join' as const),
        who,
        topics: fc.nat(3),
        isStatic: fc.boolean(),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('leave', 'crash', 'pause'), who }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('subscribe' as const), who, topics: fc.nat(3) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant('topic' as const),
        name: fc.constantFrom('t', 'u'),
        partitions: fc.nat(5),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('time' as const), steps: fc.nat(10) }) },
  )
  const choices = [['t'], ['u'], ['t', 'u'], '[tu]'] as const

  test('never share a partition, and have each exactly once when things calm down', {
    timeout: 60_000,
  }, () => {
    const run = (events: readonly (typeof event extends fc.Arbitrary<infer E> ? E : never)[]): void => {
      now = 0
      topics = new Topics()
      topics.set('t', 3)
      groups = new Groups({ newId: () => 'unused', topics })
      const clients = new Map<number, Client>()
      let made = 0
      const check = (): void => {
        const seen = new Set<string>()
        for (const { owned } of clients.values()) {
          for (const key of owned) {
            expect(seen.has(key), `${key} is read by two`).toBe(false)
            seen.add(key)
          }
        }
      }
      const step = (isCalm: boolean): void => {
        now += 5_000
        groups.expire(now)
        for (const client of clients.values()) {
          client.take(send(client))
          check()
          if (isCalm) client.settle()
          check()
        }
      }
      for (const each of events) {
        const client = 'who' in each ? clients.get(each.who) : undefined
        if (each.kind === 'topic') {
          const before = topics.find(each.name)?.partitions ?? 0
          if (each.partitions < before) topics.delete(each.name)
          else if (each.partitions > 0) topics.set(each.name, each.partitions)
        } else if (each.kind === 'time') {
          for (let i = 0; i < each.steps; i++) step(false)
        } else if (each.kind === 'join') {
          if (client !== undefined) continue
          const instanceId = each.isStatic ? `i${each.who}` : null
          clients.set(each.who, new Client(`m${made++}`, choices[each.topics], instanceId))
        } else if (client === undefined) {
          continue
        } else if (each.kind === 'beat') {
          const answer = send(client)
          // A request that fails is repeated in full. What was being taken until then is taken.
          if (each.isLost === 0) {
            client.settle()
            client.sendsAll = true
          } else client.take(answer)
        } else if (each.kind === 'settle') {
          client.settle()
        } else if (each.kind === 'subscribe') {
          const choice = choices[each.topics]
          client.topics = typeof choice === 'string' ? [] : choice
          client.pattern = typeof choice === 'string' ? choice : ''
          client.sendsAll = true
        } else {
          clients.delete(each.who)
          const memberEpoch = each.kind === 'pause' && client.instanceId !== null ? -2 : -1
          if (each.kind !== 'crash') send(client, { memberEpoch })
        }
        check()
      }
      for (let i = 0; i < 30; i++) step(true)
      const read = [...clients.values()].flatMap(({ owned }) => [...owned]).sort()
      const wanted = new Set(
        [...clients.values()].flatMap(({ topics, pattern }) => (pattern ? ['t', 'u'] : (topics ?? []))),
      )
      expect(read).toEqual(topics.partitions(wanted).sort())
      expect(groups.describeConsumer('g')?.state ?? 'empty').toBe(clients.size === 0 ? 'empty' : 'stable')
    }
    fc.assert(fc.property(fc.array(event, { maxLength: 100, size: 'max' }), run), { numRuns: 500 })
  })
})
