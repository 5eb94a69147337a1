/** The shortest delays, what waiting costs, what a restart keeps, and many messages that are due at nearly the same time, in virtual time. */

import { expect, test } from 'vitest'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { VirtualQueue } from './virtual-queue.ts'

test.each([
  ['1 ms', 1],
  ['20 ms', 20],
])('a delay of %s: not before, and at once when it is over', async (_name, delay) => {
  const queue = await VirtualQueue.open({ delayPartitions: 1 })
  const { mq, clock } = queue
  const before = clock.now()
  await queue.settle(mq.publish('t', { value: 'later', delay }))
  const after = clock.now()
  await queue.advance(Math.max(0, before + delay - 1 - clock.now()))
  expect(await queue.texts('t')).toEqual(delay > after - before ? [] : ['later'])
  await queue.advance(after - before + 60)
  const [message] = await queue.delivered('t')
  expect(message.timestamp).toBeGreaterThanOrEqual(before + delay)
  expect(message.timestamp).toBeLessThan(after + delay + 20)
})

test('10,000 messages that are due within a second come once each, none early, and each on time', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const startAt = clock.now() + 20_000
  const messages = Array.from({ length: 10_000 }, (_, index) => {
    const deliverAt = startAt + ((index * 7_919) % 1_000)
    return { value: String(deliverAt), deliverAt }
  })
  await queue.settle(mq.publish('t', messages))
  await queue.advance(startAt - clock.now() - 1)
  expect(await queue.texts('t')).toEqual([])
  await queue.advance(1_200)
  const delivered = await queue.delivered('t')
  expect(delivered).toHaveLength(messages.length)
  const lateness = delivered.map(({ text, timestamp }) => timestamp - Number(text))
  expect(Math.min(...lateness)).toBeGreaterThanOrEqual(0)
  expect(Math.max(...lateness)).toBeLessThan(50)
  expect(new Set(delivered.map(({ text }) => text)).size).toBe(1_000)
})

test('what waits for long is in the log alone: it costs the process neither memory nor timers', async () => {
  const queue = await VirtualQueue.open({ delayPartitions: 1 })
  const { mq, clock } = queue
  const put = (count: number) =>
    queue.settle(
      mq.publish(
        't',
        Array.from({ length: count }, () => ({ value: 'x', delay: '10m' })),
      ),
    )
  await put(1)
  await queue.advance(1_000)
  const timers = clock.timerCount
  await put(5_000)
  await queue.advance(1_000)
  expect(clock.timerCount).toBeLessThanOrEqual(timers + 1)
  expect((await queue.settle(mq.delayed.list({ limit: 10_000 }))).messages).toHaveLength(5_001)
  // where the log has lost it, nobody else has it
  const [rung] = (await queue.settle(mq.topics({ system: true }))).filter(name => /delay\.10m$/.test(name))
  const end = await queue.settle(mq.offsetFor(rung, 0, 'latest'))
  await queue.settle(mq.deleteRecords(rung, 0, end - 10))
  await queue.advance(11 * 60_000)
  const { length } = await queue.texts('t')
  expect(length).toBeGreaterThan(0)
  expect(length).toBeLessThanOrEqual(10)
})

test('a restart forgets neither what waits, nor what was cancelled or moved, nor what recurs', async () => {
  const HOUR = 3_600_000
  const startAt = Date.UTC(2025, 0, 1)
  const disk = memoryDisk()
  const first = await VirtualQueue.reopen(disk, startAt)
  const { mq } = first
  const publish = (value: string) => first.settle(mq.publish('t', { value, delay: '2h' }))
  const [, cancelled, moved] = [await publish('kept'), await publish('cancelled'), await publish('moved')]
  await first.settle(mq.delayed.cancel(String(cancelled.delayId)))
  await first.settle(mq.delayed.reschedule(String(moved.delayId), { delay: '4h' }))
  await first.settle(
    mq.schedules.set('hourly', {
      cron: '30 * * * *',
      timezone: 'UTC',
      topic: 't',
      message: { value: 'hourly' },
    }),
  )
  await first.advance(60_000)
  await first.settle(mq.close())

  const second = await VirtualQueue.reopen(disk, startAt + HOUR)
  const waiting = (await second.settle(second.mq.delayed.list({ topic: 't' }))).messages
  expect(waiting.map(({ value }) => String(value)).toSorted()).toEqual(['hourly', 'kept', 'moved'])
  await second.advance(HOUR + 60_000)
  // the half hour that was missed comes once, late
  expect((await second.texts('t')).toSorted()).toEqual(['hourly', 'hourly', 'kept'])
  await second.advance(2 * HOUR)
  expect((await second.texts('t')).toSorted()).toEqual([...Array(4).fill('hourly'), 'kept', 'moved'])
})
