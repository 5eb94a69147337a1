/** The relay: what it does when it was away, when it is not alone, when answers are lost, and with what cannot be delivered. Time is virtual. */

import { expect, test } from 'vitest'
import { DelayRelay } from '../../src/delivery/delay-relay.ts'
import { DelayTopics } from '../../src/delivery/delay-topics.ts'
import { SluiceError } from '../../src/errors.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { clustered } from './clustered.ts'
import { VirtualQueue } from './virtual-queue.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR

test('after 400 days, a restart and two years in which nobody ran it, everything that is due comes, and the rest on time', async () => {
  const disk = memoryDisk()
  const first = await VirtualQueue.reopen(disk)
  await first.settle(
    first.mq.publish('t', [
      { value: '400 days', delay: '400d' },
      { value: 'an hour', delay: '1h' },
      { value: '800 days', delay: '800d' },
    ]),
  )
  const due = first.clock.now() + 400 * DAY
  await first.advance(2 * HOUR)
  expect(await first.texts('t')).toEqual(['an hour'])
  await first.settle(first.mq.close())

  const second = await VirtualQueue.reopen(disk, due - 90_000)
  await second.advance(89_000)
  expect(await second.texts('t')).toEqual(['an hour'])
  await second.advance(2_000)
  expect(await second.texts('t')).toEqual(['an hour', '400 days'])
  await second.settle(second.mq.close())

  const third = await VirtualQueue.reopen(disk, due + 730 * DAY)
  await third.advance(1_000)
  expect(await third.texts('t')).toEqual(['an hour', '400 days', '800 days'])
})

test('with relay: false nothing moves until somebody runs one', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  await queue.settle(queue.mq.publish('t', { value: 'x', delay: '10s' }))
  await queue.advance(60_000)
  expect(await queue.texts('t')).toEqual([])
  const relay = await queue.settle(queue.mq.relay())
  await queue.advance(1_000)
  expect(await queue.texts('t')).toEqual(['x'])
  await queue.settle(relay.stop())
})

test('several relays share the work, and what one had in hand when it stopped comes once', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq, clock } = queue
  const warnings: SluiceError[] = []
  const start = async (name: string): Promise<DelayRelay> => {
    const engine = clustered(mq.engine)
    const topics = new DelayTopics(engine, 4, () => {})
    const warn = (error: SluiceError): unknown => warnings.push(error)
    const relay = new DelayRelay({ engine, clock, clientId: name, topics, warn })
    await queue.settle(relay.start())
    return relay
  }
  const one = await start('one')
  const other = await start('other')
  await queue.advance(5_000)
  const messages = Array.from({ length: 400 }, (_, index) => ({
    key: `${index}`,
    value: `${index}`,
    delay: 500 + index * 10,
  }))
  await queue.settle(mq.publish('t', messages))
  const { members } = await queue.settle(mq.engine.describeGroup('_sluice.relay'))
  expect(members.map(({ assignment }) => assignment.length).every(count => count > 0)).toBe(true)
  expect(members).toHaveLength(2)
  await queue.advance(2_000)
  await queue.settle(one.stop())
  await queue.advance(20_000)
  const texts = (await queue.texts('t')).map(Number).toSorted((a, b) => a - b)
  expect(texts).toEqual(messages.map((_, index) => index))
  await queue.settle(other.stop())
  expect(warnings.filter(({ code }) => code !== 'REBALANCE_IN_PROGRESS')).toEqual([])
})

test.each([
  ['had come through', true],
  ['had not come through', false],
])('a transaction that %s, which the relay was not told, delivers once', async (_, isCarriedOut) => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  const { engine } = mq
  const init = engine.initTransactions.bind(engine)
  let left = 5
  engine.initTransactions = async options => {
    const session = await init(options)
    if (options.transactionalId !== '_sluice.relay') return session
    const end = session.end.bind(session)
    session.end = async commit => {
      if (!commit || left === 0 || clockIsEarly()) return end(commit)
      left--
      if (isCarriedOut) await end(commit)
      throw new SluiceError('TIMED_OUT', 'no answer')
    }
    return session
  }
  const clockIsEarly = (): boolean => queue.clock.now() < queue.openedAt + 300
  const relay = await queue.settle(mq.relay())
  const warnings: string[] = []
  relay.on('error', error => warnings.push(error.code))
  await queue.settle(
    mq.publish(
      't',
      Array.from({ length: 20 }, (__, index) => ({ value: `${index}`, delay: 400 + index * 50 })),
    ),
  )
  await queue.advance(60_000)
  expect(left).toBe(0)
  expect((await queue.texts('t')).map(Number).toSorted((a, b) => a - b)).toEqual(
    Array.from({ length: 20 }, (__, index) => index),
  )
})

test('what its target refuses for good is a dead letter of the relay, and the others go on', async () => {
  const queue = await VirtualQueue.open({ autoCreateTopics: false })
  const { mq } = queue
  await queue.settle(mq.createTopic('gone'))
  await queue.settle(mq.createTopic('t'))
  const relay = await queue.settle(mq.relay())
  const errors: string[] = []
  relay.on('error', error => errors.push(error.code))
  await queue.settle(mq.publish('gone', { key: 'k', value: 'lost', headers: { a: 'b' }, delay: '10s' }))
  await queue.settle(mq.publish('t', { value: 'fine', delay: '10s' }))
  await queue.settle(mq.deleteTopic('gone'))
  await queue.advance(20_000)
  expect(await queue.texts('t')).toEqual(['fine'])
  expect(errors).toContain('UNKNOWN_TOPIC')
  const letters = await queue.settle(mq.deadLetters('gone', '_sluice.relay').list())
  expect(letters.letters).toHaveLength(1)
  expect(letters.letters[0]).toMatchObject({
    topic: 'gone',
    group: '_sluice.relay',
    key: Buffer.from('k'),
    value: Buffer.from('lost'),
    headers: [['a', Buffer.from('b')]],
    error: { name: 'UNKNOWN_TOPIC' },
  })
  // replayed, it goes where it was to go: the relay has no workers
  await queue.settle(mq.createTopic('gone'))
  expect(await queue.settle(mq.deadLetters('gone', '_sluice.relay').replay('all'))).toHaveLength(1)
  expect(await queue.delivered('gone')).toMatchObject([{ text: 'lost', key: 'k', headers: { a: 'b' } }])
})

test('what is no delayed message is a dead letter of its rung, and those behind it come', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const relay = await queue.settle(mq.relay())
  const errors: string[] = []
  relay.on('error', error => errors.push(error.code))
  await queue.settle(mq.publish('_sluice.delay.5s', { key: 'k', value: 'rubbish' }))
  await queue.settle(mq.publish('t', { key: 'k', value: 'fine', delay: '5s' }))
  await queue.advance(10_000)
  expect(await queue.texts('t')).toEqual(['fine'])
  expect(errors).toEqual(['INVALID_RECORD'])
  expect(await queue.texts('_sluice.delay.5s._sluice.relay.dead')).toEqual(['rubbish'])
})

test('what has moved on is deleted from the rungs', async () => {
  const queue = await VirtualQueue.open({ delayPartitions: 1 })
  const { mq } = queue
  const messages = Array.from({ length: 12_000 }, () => ({ value: 'x'.repeat(20), delay: 100 }))
  await queue.settle(mq.publish('t', messages))
  await queue.advance(120_000)
  expect(await queue.texts('t')).toHaveLength(messages.length)
  const { partitions } = await queue.settle(mq.describeTopic('_sluice.delay.0'))
  expect(partitions).toHaveLength(1)
  expect(partitions[0].startOffset).toBeGreaterThanOrEqual(messages.length)
})
