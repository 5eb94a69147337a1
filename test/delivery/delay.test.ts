/** Delayed messages as a program sees them: published, listed, cancelled, moved to another time. Time is virtual. */

import { expect, test } from 'vitest'
import { bytes, json } from '../../src/delivery/codec.ts'
import { rungFor, rungs } from '../../src/delivery/delay-topics.ts'
import { partitionOfKey } from '../../src/delivery/partitioner.ts'
import { topic } from '../../src/delivery/topic.ts'
import { VirtualQueue } from './virtual-queue.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

test.each([
  ['250ms', 250],
  [1_000, 1_000],
  ['3s', 3_000],
  ['5s', 5_000],
  ['45m', 45 * MINUTE],
  ['1.5h', 1.5 * HOUR],
  ['3d', 3 * DAY],
])('a delay of %s: not before, and at once when it is over', async (delay, ms) => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const { delayId } = await queue.settle(mq.publish('t', { key: 'k', value: 'later', delay }))
  const due = Number.parseInt(delayId?.slice(0, 9) ?? '', 36)
  await queue.advance(due - queue.clock.now() - 1)
  expect(await queue.texts('t')).toEqual([])
  await queue.advance(50)
  const [message] = await queue.delivered('t')
  expect(message).toMatchObject({ text: 'later', key: 'k' })
  expect(message.timestamp).toBeGreaterThanOrEqual(due)
  expect(message.timestamp - due).toBeLessThan(10)
  expect(due - queue.openedAt - ms).toBeLessThan(100)
  expect((await queue.settle(mq.delayed.list())).messages).toEqual([])
})

test('deliverAt is a time, and one that is over means at once', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const at = clock.now() + 20 * MINUTE
  await queue.settle(mq.publish('t', { value: 'date', deliverAt: new Date(at) }))
  await queue.settle(mq.publish('t', { value: 'past', deliverAt: clock.now() - HOUR }))
  await queue.advance(20)
  expect(await queue.texts('t')).toEqual(['past'])
  await queue.advance(at - clock.now() - 1)
  expect(await queue.texts('t')).toEqual(['past'])
  await queue.advance(20)
  expect(await queue.texts('t')).toEqual(['past', 'date'])
})

test('the 18 levels by number', async () => {
  const queue = await VirtualQueue.open()
  const names = '1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h'.split(' ')
  const messages = names.map((value, index) => ({ value, delayLevel: index + 1 }))
  const published = await queue.settle(queue.mq.publish('t', messages))
  const start = Math.min(...[...published].map(({ timestamp }) => timestamp))
  await queue.advance(3 * HOUR)
  const delivered = await queue.delivered('t')
  expect(delivered.map(({ text }) => text)).toEqual(names)
  const ms = [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200]
  for (const [index, { timestamp }] of delivered.entries()) {
    const late = timestamp - start - ms[index] * 1_000
    expect(late, names[index]).toBeGreaterThanOrEqual(-100) // the topics were made between the call and the log
    expect(late, names[index]).toBeLessThan(100)
  }
  for (const delayLevel of [0, 19, 1.5]) {
    await expect(queue.settle(queue.mq.publish('t', { value: 'x', delayLevel }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  }
})

test.each([
  [{ delay: -1 }],
  [{ delay: 'soon' }],
  [{ delay: '10' }],
  [{ deliverAt: Number.NaN }],
  [{ deliverAt: new Date('x') }],
  [{ delay: 5, deliverAt: 5 }],
  [{ delay: 5, delayLevel: 1 }],
  [{ delay: 5, delayId: '' }],
  [{ delay: 5, delayId: 'x'.repeat(201) }],
])('%j is refused', async fields => {
  const queue = await VirtualQueue.open()
  const refused = queue.mq.publish('t', { value: 'x', ...fields })
  await expect(queue.settle(refused)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})

test('the message is what was published: codec, key, headers, partition, timestamp', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const orders = topic('orders', { value: json<{ id: number }>(), key: bytes, partitions: 5 })
  await queue.settle(
    mq.publish(orders, [
      { key: Buffer.from('ann'), value: { id: 1 }, headers: { tenant: 'a' }, delay: '2m' },
      { value: { id: 2 }, partition: 3, timestamp: 1_234, delay: '2m' },
    ]),
  )
  await queue.advance(3 * MINUTE)
  const delivered = await queue.delivered('orders')
  const ann = delivered.find(({ key }) => key === 'ann')
  expect(ann).toMatchObject({ text: '{"id":1}', partition: partitionOfKey('ann', 5) })
  expect(ann?.headers).toEqual({ tenant: 'a', 'sluice-delay-id': expect.any(String) })
  const fixed = delivered.find(({ key }) => key === null)
  expect(fixed).toMatchObject({ text: '{"id":2}', partition: 3, timestamp: 1_234 })
})

test('what is wrong with a message is told when it is published, not when it is due', async () => {
  const queue = await VirtualQueue.open({ autoCreateTopics: false })
  const { mq } = queue
  await queue.settle(mq.createTopic('t', { partitions: 2, config: { 'max.message.bytes': 1_000 } }))
  const refusal = (message: object, name = 't') =>
    queue.settle(mq.publish(name, { value: 'x', delay: 5_000, ...message })).catch(error => error.code)
  expect(await refusal({}, 'nowhere')).toBe('UNKNOWN_TOPIC')
  expect(await refusal({ partition: 2 })).toBe('INVALID_PARTITION')
  expect(await refusal({ value: 'x'.repeat(2_000) })).toBe('MESSAGE_TOO_LARGE')
  expect(await refusal({ timestamp: -5 })).toBe('INVALID_TIMESTAMP')
})

test('delayed and other messages in one array: each knows where it is', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const published = await queue.settle(
    mq.publish('t', [{ value: 'a' }, { value: 'b', delay: '1m', delayId: 'mine' }, { value: 'c' }]),
  )
  const [a, b, c] = published
  expect([a, c].map(({ topic: name, offset, delayId }) => [name, offset, delayId])).toEqual([
    ['t', 0, undefined],
    ['t', 1, undefined],
  ])
  expect(b.topic).toBe('_sluice.delay.1m')
  expect(b.delayId).toMatch(/^[0-9a-z]{9}\.[0-9a-f-]{13}\.mine$/)
  await queue.advance(61_000)
  expect(await queue.texts('t')).toEqual(['a', 'c', 'b'])
})

test('posted messages, and those of a transaction, are delayed as well', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const producer = mq.producer()
  producer.post('t', { value: 'now' })
  producer.post('t', [{ value: 'a', delay: '10s' }, { value: 'at once' }])
  producer.post('t', { value: 'b', delay: '20s' })
  await queue.settle(producer.flush())
  await queue.settle(mq.transaction(tx => tx.publish('t', { value: 'committed', delay: '30s' })))
  const aborted = mq.transaction(async tx => {
    await tx.publish('t', { value: 'aborted', delay: '30s' })
    throw new Error('no')
  })
  await expect(queue.settle(aborted)).rejects.toThrow('no')
  await queue.advance(MINUTE)
  expect((await queue.texts('t')).toSorted()).toEqual(['a', 'at once', 'b', 'committed', 'now'])
  await queue.settle(producer.close())
})

test('what waits is listed, a page at a time', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  expect(await queue.settle(mq.delayed.list())).toEqual({ messages: [], cursor: null })
  for (const [index, delay] of ['2h', '10m', '3d', '20s', '25m'].entries()) {
    const name = index === 4 ? 'other' : 't'
    await queue.settle(
      mq.publish(name, { key: `${index}`, value: delay, headers: { a: 'b' }, delay, delayId: `n${index}` }),
    )
  }
  await queue.advance(11_000)
  const { messages } = await queue.settle(mq.delayed.list())
  expect(messages.map(({ value, topic: name }) => [String(value), name])).toEqual([
    ['20s', 't'],
    ['10m', 't'],
    ['25m', 'other'],
    ['2h', 't'],
    ['3d', 't'],
  ])
  expect(messages[0]).toMatchObject({ name: 'n3', headers: [['a', Buffer.from('b')]], schedule: null })
  expect(messages[0].deliverAt).toBe(Number.parseInt(messages[0].id.slice(0, 9), 36))
  expect((await queue.settle(mq.delayed.list({ topic: 'other' }))).messages).toHaveLength(1)
  const paged: string[] = []
  let cursor: string | undefined
  do {
    const page = await queue.settle(mq.delayed.list({ limit: 2, cursor }))
    expect(page.messages.length).toBeLessThanOrEqual(2)
    paged.push(...page.messages.map(({ id }) => id))
    cursor = page.cursor ?? undefined
  } while (cursor !== undefined)
  expect(paged).toEqual(messages.map(({ id }) => id))
  await expect(queue.settle(mq.delayed.list({ cursor: 'x' }))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
  const found = await queue.settle(mq.delayed.get(messages[3].id))
  expect(found).toEqual(messages[3])
  expect(await queue.settle(mq.delayed.get('n2'))).toEqual(messages[4])
  expect(await queue.settle(mq.delayed.get('n9'))).toBeNull()
})

test('one that was cancelled is not delivered, whichever rung it is in', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const ids: string[] = []
  for (const delay of ['2s', '5s', '45m', '400d']) {
    const { delayId } = await queue.settle(mq.publish('t', { value: delay, delay }))
    ids.push(delayId as string)
  }
  for (const id of ids) expect(await queue.settle(mq.delayed.cancel(id))).toBe(true)
  await queue.settle(mq.publish('t', { value: 'kept', delay: '45m' }))
  expect((await queue.settle(mq.delayed.list())).messages.map(({ value }) => String(value))).toEqual(['kept'])
  expect(await queue.settle(mq.delayed.get(ids[2]))).toBeNull()
  await queue.advance(HOUR)
  expect(await queue.texts('t')).toEqual(['kept'])
})

test('a cancellation is forgotten with its message, and the name may be used again, for the same time', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const deliverAt = clock.now() + 10 * MINUTE
  await queue.settle(mq.publish('t', { value: 'first', deliverAt, delayId: 'reminder' }))
  expect(await queue.settle(mq.delayed.cancel('reminder'))).toBe(true)
  expect(await queue.settle(mq.delayed.cancel('reminder'))).toBe(false)
  await queue.settle(mq.publish('t', { value: 'second', deliverAt, delayId: 'reminder' }))
  await queue.advance(11 * MINUTE)
  expect(await queue.texts('t')).toEqual(['second'])
  const cancelled = await queue.delivered('_sluice.delay.cancelled')
  expect(cancelled.map(({ text }) => text)).toEqual([String(deliverAt), ''])
})

test('within the last second it is too late to cancel, and that is said', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const deliverAt = clock.now() + 5_000
  const { delayId } = await queue.settle(mq.publish('t', { value: 'x', deliverAt }))
  await queue.advance(deliverAt - clock.now() - 900)
  expect(await queue.settle(mq.delayed.cancel(delayId as string))).toBe(false)
  expect(await queue.settle(mq.delayed.reschedule(delayId as string, { delay: '1h' }))).toBeNull()
  await queue.advance(1_000)
  expect(await queue.texts('t')).toEqual(['x'])
  expect(await queue.settle(mq.delayed.cancel(delayId as string))).toBe(false)
})

test('rescheduled: earlier, later, and back again', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const at = clock.now() + HOUR
  await queue.settle(mq.publish('t', { key: 'k', value: 'a', deliverAt: at, delayId: 'a' }))
  await queue.settle(mq.publish('t', { value: 'b', deliverAt: at, delayId: 'b' }))
  const earlier = await queue.settle(mq.delayed.reschedule('a', { delay: '10s' }))
  expect(earlier).toMatch(/\.a$/)
  const later = await queue.settle(mq.delayed.reschedule('b', { delay: '2h' }))
  await queue.settle(mq.delayed.reschedule(later as string, { deliverAt: at }))
  await queue.advance(11_000)
  expect(await queue.texts('t')).toEqual(['a'])
  await queue.advance(at - clock.now() - 1)
  expect(await queue.texts('t')).toEqual(['a'])
  await queue.advance(100)
  expect(await queue.texts('t')).toEqual(['a', 'b'])
  await queue.advance(3 * HOUR)
  expect(await queue.texts('t')).toEqual(['a', 'b'])
  expect(await queue.settle(mq.delayed.reschedule('b', { delay: '2h' }))).toBeNull()
  await expect(queue.settle(mq.delayed.reschedule('b', {}))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
})

test('of many, those with the same key stay together and each comes once', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  await queue.settle(mq.createTopic('t', { partitions: 3 }))
  const messages = Array.from({ length: 1_000 }, (_, index) => ({
    key: `k${index % 7}`,
    value: String(index),
    delay: (index * 7_919) % 8_000,
  }))
  await queue.settle(mq.publish('t', messages))
  await queue.advance(4_321)
  const come = new Set(await queue.texts('t'))
  const waiting = (await queue.settle(mq.delayed.list({ limit: 2_000 }))).messages.map(({ value }) =>
    String(value),
  )
  expect(waiting.filter(text => come.has(text))).toEqual([])
  expect(new Set([...come, ...waiting]).size).toBe(messages.length)
  await queue.advance(5_000)
  const delivered = await queue.delivered('t')
  expect(delivered.map(({ text }) => Number(text)).toSorted((one, other) => one - other)).toEqual(
    messages.map((_, index) => index),
  )
  for (const { key, partition } of delivered) expect(partition).toBe(partitionOfKey(key as string, 3))
})

test('a longer delay goes down the ladder, and is in a rung that it can leave in time', () => {
  for (let ms = 0; ms < 20 * DAY; ms = Math.ceil(ms * 1.37) + 1) {
    const rung = rungFor(ms)
    // a second at least is left when it is taken out, or it is held in memory from the start
    if (rung.ms > 0) expect(ms - rung.holdMs).toBeGreaterThanOrEqual(rung.ms === 1_000 ? 500 : 1_000)
    const next = rungs[rungs.indexOf(rung) + 1]
    if (next !== undefined && ms > 1_500) expect(ms).toBeLessThan(next.ms)
  }
})
