/** Topics through the protocol, as tools make, change and delete them: mixed requests, trial runs, and every refusal. */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { BatchBuilder } from '../../../src/record/builder.ts'
import { ZERO_UUID } from '../../../src/wire/kafka/schema.ts'
import { Calls, versionsOf } from './calls.ts'

let calls: Calls
beforeEach(async () => {
  calls = await Calls.open({ defaultPartitions: 3, config: { 'retention.ms': '5000' } })
})
afterEach(() => calls.broker.close())

const plan = (name: string, more = {}) => ({
  name,
  numPartitions: 2,
  replicationFactor: 1,
  assignments: [],
  configs: [],
  ...more,
})
const byHand = (...assignments: [partition: number, ...brokers: number[]][]) => ({
  numPartitions: -1,
  replicationFactor: -1,
  assignments: assignments.map(([partitionIndex, ...brokerIds]) => ({ partitionIndex, brokerIds })),
})
const create = async (version: number, topics: ReturnType<typeof plan>[], validateOnly = false) =>
  (await calls.call('CreateTopics', version, { topics, validateOnly })).topics
const append = (topic: string, count: number) => {
  const builder = new BatchBuilder()
  for (let index = 0; index < count; index++) builder.append(1_700_000_000_000, null, 'v', null)
  calls.broker.partition(topic, 0).append(builder.close(), undefined, true)
}

describe('CreateTopics', () => {
  test.each(versionsOf('CreateTopics'))('makes a topic in version %i', async version => {
    const [made] = await create(version, [plan('t', { configs: [{ name: 'retention.ms', value: '7' }] })])
    const topic = calls.broker.topic('t')
    expect(topic.partitions.length).toBe(2)
    expect(topic.config).toEqual({ 'retention.ms': '7' })
    expect(made).toMatchObject({ name: 't', errorCode: 0, errorMessage: null })
    expect(made.topicId).toBe(version >= 7 ? topic.id : ZERO_UUID)
    if (version < 5) return
    expect(made).toMatchObject({ numPartitions: 2, replicationFactor: 1 })
    const config = new Map(
      made.configs!.map(({ name, value, configSource }) => [name, [value, configSource]]),
    )
    expect(config.get('retention.ms')).toEqual(['7', 1])
    expect(config.get('segment.bytes')).toEqual(['67108864', 5])
  })

  test('makes what is good and refuses the rest, with the exact code', async () => {
    await calls.broker.createTopic({ name: 'there' })
    const wrong: [code: number, topic: ReturnType<typeof plan>][] = [
      [0, plan('good')],
      [17, plan('not good')],
      [17, plan('')],
      [17, plan('__mine')],
      [36, plan('there')],
      [37, plan('none', { numPartitions: 0 })],
      [37, plan('less', { numPartitions: -2 })],
      [38, plan('zero', { replicationFactor: 0 })],
      [38, plan('three', { replicationFactor: 3 })],
      [40, plan('unknown', { configs: [{ name: 'no.such.key', value: '1' }] })],
      [40, plan('text', { configs: [{ name: 'retention.ms', value: 'long' }] })],
      [40, plan('null', { configs: [{ name: 'retention.ms', value: null }] })],
      [42, plan('both', { ...byHand([0, 1]), numPartitions: 1 })],
      [42, plan('factor', { ...byHand([0, 1]), replicationFactor: 1 })],
      [39, plan('gap', byHand([0, 1], [2, 1]))],
      [39, plan('twice', byHand([0, 1], [0, 1]))],
      [39, plan('elsewhere', byHand([0, 2]))],
      [39, plan('nobody', byHand([0]))],
      [0, plan('hand', byHand([1, 1], [0, 1]))],
      [0, plan('default', { numPartitions: -1, replicationFactor: -1 })],
    ]
    const results = await create(
      7,
      wrong.map(([, topic]) => topic),
    )
    expect(results.map(({ errorCode, name }) => [errorCode, name])).toEqual(
      wrong.map(([code, { name }]) => [code, name]),
    )
    for (const { errorCode, errorMessage } of results) expect(errorMessage === null).toBe(errorCode === 0)
    const made = [...calls.broker.topics].map(({ name, partitions }) => [name, partitions.length])
    expect(made).toEqual([
      ['there', 3],
      ['good', 2],
      ['hand', 2],
      ['default', 3],
    ])
  })

  test('refuses a name that comes twice', async () => {
    const results = await create(7, [plan('t'), plan('t'), plan('u')])
    expect(results.map(({ name, errorCode }) => [name, errorCode])).toEqual([
      ['t', 42],
      ['u', 0],
    ])
    expect(calls.broker.findTopic('t')).toBeUndefined()
  })

  test('only tries, if asked to', async () => {
    await calls.broker.createTopic({ name: 'there' })
    const results = await create(
      7,
      [plan('t'), plan('there'), plan('d', { numPartitions: -1 }), plan('bad name')],
      true,
    )
    expect(results.map(({ errorCode, numPartitions }) => [errorCode, numPartitions])).toEqual([
      [0, 2],
      [36, -1],
      [0, 3],
      [17, -1],
    ])
    expect(results[0].configs!.length).toBeGreaterThan(5)
    expect([...calls.broker.topics].map(({ name }) => name)).toEqual(['there'])
  })
})

describe('DeleteTopics', () => {
  test.each(versionsOf('DeleteTopics'))('by name in version %i', async version => {
    await calls.broker.createTopic({ name: 't' })
    const names = ['t', 'nowhere']
    const request =
      version >= 6 ? { topics: names.map(name => ({ name, topicId: ZERO_UUID })) } : { topicNames: names }
    const { responses } = await calls.call('DeleteTopics', version, { ...request, timeoutMs: 1000 })
    expect(responses.map(({ name, errorCode }) => [name, errorCode])).toEqual([
      ['t', 0],
      ['nowhere', 3],
    ])
    expect(calls.broker.findTopic('t')).toBeUndefined()
  })

  test('by id; a topic of the same name that is made later has another one', async () => {
    const { id } = await calls.broker.createTopic({ name: 't' })
    const remove = async (...topics: { name?: string; topicId: string }[]) =>
      (await calls.call('DeleteTopics', 6, { topics, timeoutMs: 1000 })).responses.map(
        ({ name, errorCode }) => [name, errorCode],
      )
    expect(await remove({ topicId: id })).toEqual([['t', 0]])
    const again = await calls.broker.createTopic({ name: 't' })
    expect(again.id).not.toBe(id)
    expect(await remove({ topicId: id })).toEqual([[null, 100]])
    expect(await remove({ topicId: ZERO_UUID })).toEqual([[null, 42]])
    expect(await remove({ name: 't', topicId: again.id })).toEqual([['t', 42]])
    expect(await remove({ topicId: again.id }, { name: 't', topicId: ZERO_UUID })).toEqual([
      [null, 42],
      ['t', 42],
    ])
    expect(calls.broker.findTopic('t')).toBeDefined()
    const twice = { name: 't', topicId: ZERO_UUID }
    expect(await remove(twice, twice)).toEqual([['t', 42]])
  })
})

describe('CreatePartitions', () => {
  const grow = async (version: number, topics: object[], validateOnly = false) => {
    const wanted = topics.map(topic => ({ name: 't', count: 5, assignments: null, ...topic }))
    const { results } = await calls.call('CreatePartitions', version, {
      topics: wanted,
      timeoutMs: 1000,
      validateOnly,
    })
    return results.map(({ name, errorCode }) => [name, errorCode])
  }
  beforeEach(async () => {
    await calls.broker.createTopic({ name: 't' })
  })
  const count = () => calls.broker.topic('t').partitions.length

  test.each(versionsOf('CreatePartitions'))('adds partitions in version %i', async version => {
    expect(await grow(version, [{}, { name: 'nowhere' }])).toEqual([
      ['t', 0],
      ['nowhere', 3],
    ])
    expect(count()).toBe(5)
  })

  test('never takes any away, and only here', async () => {
    const here = { brokerIds: [1] }
    expect(await grow(3, [{ count: 3 }])).toEqual([['t', 37]])
    expect(await grow(3, [{ count: 1 }])).toEqual([['t', 37]])
    expect(await grow(3, [{ count: 100_000 }])).toEqual([['t', 37]])
    expect(await grow(3, [{ assignments: [here] }])).toEqual([['t', 39]])
    expect(await grow(3, [{ assignments: [here, { brokerIds: [2] }] }])).toEqual([['t', 39]])
    expect(await grow(3, [{}, { count: 6 }])).toEqual([['t', 42]])
    expect(await grow(3, [{}], true)).toEqual([['t', 0]])
    expect(count()).toBe(3)
    expect(await grow(3, [{ assignments: [here, here] }])).toEqual([['t', 0]])
    expect(count()).toBe(5)
  })
})

describe('DeleteRecords', () => {
  test.each(versionsOf('DeleteRecords'))('moves the start of the log, version %i', async version => {
    await calls.broker.createTopic({ name: 't' })
    append('t', 10)
    const remove = async (offset: number, partitionIndex = 0, name = 't') => {
      const topics = [{ name, partitions: [{ partitionIndex, offset }] }]
      const answer = await calls.call('DeleteRecords', version, { topics, timeoutMs: 1000 })
      const { errorCode, lowWatermark } = answer.topics[0].partitions[0]
      return [errorCode, lowWatermark]
    }
    expect(await remove(4)).toEqual([0, 4])
    expect(await remove(2)).toEqual([0, 4])
    expect(await remove(11)).toEqual([1, -1])
    expect(await remove(-2)).toEqual([1, -1])
    expect(await remove(1, 9)).toEqual([3, -1])
    expect(await remove(1, 0, 'nowhere')).toEqual([3, -1])
    expect(await remove(-1)).toEqual([0, 10])
    expect(calls.broker.partition('t', 0).startOffset).toBe(10)
  })
})

describe('DescribeTopicPartitions', () => {
  const describe_ = (request: object) =>
    calls.call('DescribeTopicPartitions', 0, { topics: [], responsePartitionLimit: 2000, ...request })

  test('goes through all topics in pages', async () => {
    for (const name of ['c', 'a', 'b']) await calls.broker.createTopic({ name, partitions: 3 })
    const seen: string[] = []
    let cursor: { readonly topicName: string; readonly partitionIndex: number } | null = null
    let pages = 0
    do {
      const page: Awaited<ReturnType<typeof describe_>> = await describe_({
        responsePartitionLimit: 4,
        cursor,
      })
      for (const { name, partitions } of page.topics)
        for (const { partitionIndex } of partitions) seen.push(`${name}/${partitionIndex}`)
      cursor = page.nextCursor
      pages++
    } while (cursor !== null)
    expect(pages).toBe(3)
    expect(seen).toEqual(['a', 'b', 'c'].flatMap(name => [0, 1, 2].map(index => `${name}/${index}`)))
  })

  test('tells of each partition, and of topics that there are not', async () => {
    const { id } = await calls.broker.createTopic({ name: 't', partitions: 1 })
    const { topics, nextCursor } = await describe_({
      topics: [{ name: 't' }, { name: 'nowhere' }, { name: 'not good' }],
    })
    expect(nextCursor).toBeNull()
    expect(topics.map(({ name, errorCode }) => [name, errorCode])).toEqual([
      ['not good', 17],
      ['nowhere', 3],
      ['t', 0],
    ])
    expect(topics[2]).toMatchObject({ topicId: id, isInternal: false, topicAuthorizedOperations: 3576 })
    expect(topics[2].partitions).toEqual([
      {
        errorCode: 0,
        partitionIndex: 0,
        leaderId: 1,
        leaderEpoch: 0,
        replicaNodes: [1],
        isrNodes: [1],
        eligibleLeaderReplicas: [],
        lastKnownElr: [],
        offlineReplicas: [],
      },
    ])
  })
})
