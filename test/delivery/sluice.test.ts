import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { Sluice } from '../../src/delivery/sluice.ts'
import { topic } from '../../src/delivery/topic.ts'
import { open } from '../../src/open.ts'
import { FakeEngine } from './fake-engine.ts'

function bench(options: { autoCreateTopics?: boolean } = {}) {
  const engine = new FakeEngine(options)
  return { engine, mq: new Sluice(engine, options) }
}

const at = (partition: number) => ({ topic: 't', partition })

describe('open', () => {
  it.each([
    ['', 'INVALID_URL'],
    [undefined, 'INVALID_URL'],
    ['http://localhost', 'INVALID_URL'],
    ['memory:x', 'INVALID_URL'],
    ['file:', 'INVALID_URL'],
    ['file://elsewhere/data', 'INVALID_URL'],
    ['kafka://localhost:9092?tls=1', 'INVALID_URL'],
  ])('refuses %j', async (url, code) => {
    await expect(open(url as string)).rejects.toMatchObject({ code })
  })

  it('keeps messages in a directory, given as path or as URL', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const path = join(directory, 'da ta')
    {
      await using mq = await open(path)
      await mq.publish('t', { value: 'still there' })
    }
    await using mq = await open({ url: pathToFileURL(path).href, flush: 'os' })
    for await (const message of mq.consumer({ topics: ['t'] })) {
      expect(message.text()).toBe('still there')
      break
    }
  })

  it('keeps messages in memory', async () => {
    await using mq = await open('memory:')
    expect(mq.url).toBe('memory:')
    expect(await mq.publish('t', { value: 'x' })).toMatchObject({ topic: 't', partition: 0, offset: 0 })
  })
})

describe('publish', () => {
  it('shares one producer among all callers', async () => {
    const { mq, engine } = bench()
    await mq.publish('t', { value: 'first' })
    const published = await Promise.all([
      mq.publish('t', { value: 'a' }),
      mq.publish('t', { value: 'b' }),
      mq.publish('t', [{ value: 'c' }]),
    ])
    expect(published.map(one => ('offset' in one ? one.offset : one.at(0).offset))).toEqual([1, 2, 3])
    expect(engine.produced.map(({ count }) => count)).toEqual([1, 3])
  })

  it('refuses an unknown topic unless topics are made on demand', async () => {
    const { mq } = bench({ autoCreateTopics: false })
    await expect(mq.publish('t', { value: 'x' })).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    await expect(mq.publish(topic('t', { partitions: 2 }), { value: 'x' })).rejects.toMatchObject({
      code: 'UNKNOWN_TOPIC',
    })
    expect(await mq.topics()).toEqual([])
  })
})

describe('topics', () => {
  it('are created, described, altered, enlarged and deleted', async () => {
    const { mq } = bench()
    const T = topic('t', { partitions: 2, config: { 'retention.ms': 5, 'cleanup.policy': 'delete' } })
    await mq.createTopic(T, { partitions: 3, config: { 'retention.ms': 6 } })
    await expect(mq.createTopic('t')).rejects.toMatchObject({ code: 'TOPIC_EXISTS' })
    expect(await mq.topics()).toEqual(['t'])
    await mq.alterTopic(T, { 'retention.ms': 7, 'cleanup.policy': null })
    const { partitions, config } = await mq.describeTopic(T)
    expect(partitions).toHaveLength(3)
    expect(config).toMatchObject([{ name: 'retention.ms', value: '7' }])
    await mq.deleteTopic(T)
    await expect(mq.describeTopic(T)).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
  })

  it('have their new partitions used at once', async () => {
    const { mq } = bench()
    await mq.publish('t', { value: 'x' })
    await mq.addPartitions('t', 2)
    expect(await mq.publish('t', { value: 'x', partition: 1 })).toMatchObject({ partition: 1, offset: 0 })
  })

  it('have their new limits used at once', async () => {
    const { mq } = bench()
    await mq.publish('t', { value: 'x' })
    await mq.alterTopic('t', { 'max.message.bytes': 200 })
    await expect(mq.publish('t', { value: 'x'.repeat(300) })).rejects.toMatchObject({
      code: 'MESSAGE_TOO_LARGE',
    })
  })

  it('lose the records before an offset', async () => {
    const { mq } = bench()
    await mq.publish('t', [{ value: 'a' }, { value: 'b' }])
    await mq.publish('t', { value: 'c' })
    expect(await mq.deleteRecords('t', 0, 2)).toBe(2)
    expect(await mq.offsetFor('t', 0, 'earliest')).toBe(2)
    expect(await mq.deleteRecords('t', 0, 'latest')).toBe(3)
  })
})

describe('groups', () => {
  it('are described with their lag', async () => {
    const { mq } = bench()
    await mq.createTopic('t', { partitions: 2 })
    for (const partition of [0, 0, 0, 1]) await mq.publish('t', { value: 'x', partition })
    await mq.commitOffsets('g', [
      { ...at(0), offset: 1 },
      { ...at(1), offset: 1, metadata: 'm' },
    ])
    expect(await mq.describeGroup('g')).toMatchObject({
      group: 'g',
      state: 'empty',
      lag: 2,
      partitions: [
        { ...at(0), offset: 1, endOffset: 3, lag: 2, memberId: null },
        { ...at(1), offset: 1, endOffset: 1, lag: 0, memberId: null, metadata: 'm' },
      ],
    })
    expect((await mq.groups()).map(({ group }) => group)).toEqual(['g'])
    await mq.deleteTopic('t')
    expect(await mq.describeGroup('g')).toMatchObject({ lag: 0, partitions: [] })
    await mq.deleteGroup('g')
    await expect(mq.describeGroup('g')).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
  })

  it('name the member that has a partition', async () => {
    const { mq } = bench()
    await mq.publish('t', { value: 'x' })
    const consumer = mq.consumer({ topics: ['t'], group: 'g' })
    for await (const message of consumer) {
      await consumer.commit(message)
      expect((await mq.describeGroup('g')).partitions[0].memberId).toMatch(/^sluice/)
      await expect(mq.commitOffsets('g', [{ ...at(0), offset: 0 }])).rejects.toMatchObject({
        code: 'UNKNOWN_MEMBER',
      })
      await expect(mq.deleteGroup('g')).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' })
      break
    }
  })

  it('are sent elsewhere', async () => {
    const { mq } = bench()
    await mq.createTopic('t', { partitions: 2 })
    await mq.publish(
      't',
      [1, 2, 3].map(value => ({ value, timestamp: value * 1_000, partition: 0 })),
    )
    expect(await mq.resetGroup('g', { to: 'latest', topics: ['t'] })).toEqual([
      { ...at(0), offset: 3 },
      { ...at(1), offset: 0 },
    ])
    const offsets = async () => (await mq.describeGroup('g')).partitions.map(({ offset }) => offset)
    await mq.resetGroup('g', { to: 'earliest' })
    expect(await offsets()).toEqual([0, 0])
    await mq.resetGroup('g', { to: { time: 2_000 } })
    expect(await offsets()).toEqual([1, 0])
    await mq.resetGroup('g', { to: 2 }) // no further than there is
    expect(await offsets()).toEqual([2, 0])
    await expect(mq.resetGroup('g', { to: -1 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(mq.resetGroup('nobody', { to: 0 })).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
  })
})

describe('close', () => {
  it('stops consumers, flushes producers, closes the engine, in this order', async () => {
    const { mq, engine } = bench()
    await mq.publish('t', { value: 'x' })
    const consumer = mq.consumer({ topics: ['t'], group: 'g', autoCommit: { everyMs: 60_000 } })
    const handled = Promise.withResolvers<void>()
    const running = consumer.run(() => handled.resolve())
    await handled.promise
    const producer = mq.producer({ lingerMs: 60_000 })
    const sent = producer.send('t', { value: 'y' })
    await mq.close()
    await running
    expect((await sent).offset).toBe(1)
    expect(engine.committedOffset('g', 't')).toBe(1)
    expect(engine.closed).toBe(true)
  })

  it('is refused nothing, and refuses everything', async () => {
    const { mq } = bench()
    await mq.close()
    await mq.close()
    const closed = { code: 'CLOSED', message: 'fake: was closed; open it again' }
    await expect(mq.publish('t', { value: 'x' })).rejects.toMatchObject(closed)
    expect(() => mq.producer()).toThrow(expect.objectContaining(closed))
    expect(() => mq.consumer({ topics: ['t'] })).toThrow(expect.objectContaining(closed))
    for (const call of [
      () => mq.createTopic('t'),
      () => mq.deleteTopic('t'),
      () => mq.topics(),
      () => mq.describeTopic('t'),
      () => mq.alterTopic('t', {}),
      () => mq.addPartitions('t', 2),
      () => mq.deleteRecords('t', 0, 0),
      () => mq.offsetFor('t', 0, 0),
      () => mq.groups(),
      () => mq.describeGroup('g'),
      () => mq.commitOffsets('g', []),
      () => mq.resetGroup('g', { to: 0 }),
      () => mq.deleteGroup('g'),
    ]) {
      await expect(call()).rejects.toMatchObject(closed)
    }
  })

  it('forgets producers and consumers that were closed before', async () => {
    const { mq } = bench()
    await mq.producer().close()
    await mq.consumer({ topics: ['t'] }).stop()
    await mq.close()
  })
})
