/** Recurring messages. Time is virtual, and begins on Wednesday, January 1st, 2025, at midnight UTC. */

import { expect, test } from 'vitest'
import { VirtualQueue } from './virtual-queue.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** When messages came, as text, to the minute. */
async function times(queue: VirtualQueue, topic: string): Promise<string[]> {
  return (await queue.delivered(topic)).map(({ timestamp }) => new Date(timestamp).toISOString().slice(0, 16))
}

test('a message at nine on weekdays, in its time zone, through the change of the clocks', async () => {
  const queue = await VirtualQueue.open({}, Date.UTC(2025, 2, 27))
  const { mq } = queue
  const schedule = await queue.settle(
    mq.schedules.set('report', {
      cron: '0 9 * * 1-5',
      timezone: 'Europe/Berlin',
      topic: 'reports',
      message: { key: 'daily', value: { kind: 'report' }, headers: { a: 'b' } },
    }),
  )
  expect(schedule).toMatchObject({ name: 'report', topic: 'reports', nextAt: Date.UTC(2025, 2, 27, 8) })
  await queue.advance(5 * DAY)
  // Thursday, Friday; on Sunday the clocks change; Monday
  expect(await times(queue, 'reports')).toEqual(['2025-03-27T08:00', '2025-03-28T08:00', '2025-03-31T07:00'])
  const [message] = await queue.delivered('reports')
  expect(message).toMatchObject({ text: '{"kind":"report"}', key: 'daily', headers: { a: 'b' } })
  expect(message.headers['sluice-schedule']).toMatch(/^report@/)
})

test('what was missed while no relay ran comes once, late, and then on time again', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  await queue.settle(mq.schedules.set('hourly', { cron: '0 * * * *', topic: 't', message: { value: 'x' } }))
  await queue.advance(5.5 * HOUR)
  expect(await times(queue, 't')).toEqual([])
  await queue.settle(mq.relay())
  await queue.advance(2 * HOUR)
  expect(await times(queue, 't')).toEqual(['2025-01-01T05:30', '2025-01-01T06:00', '2025-01-01T07:00'])
})

test('set again as it is, it goes on; changed, only the new one counts; removed, it ends', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const set = (cron: string, value: string): Promise<unknown> =>
    queue.settle(mq.schedules.set('s', { cron, topic: 't', message: { value } }))
  await set('*/10 * * * *', 'ten')
  await set('*/10 * * * *', 'ten')
  await set('*/10 * * * *', 'ten')
  expect((await queue.settle(mq.delayed.list())).messages).toHaveLength(1)
  await queue.advance(21 * MINUTE)
  expect(await queue.texts('t')).toEqual(['ten', 'ten'])
  await set('*/5 * * * *', 'five')
  await queue.advance(10 * MINUTE)
  expect(await queue.texts('t')).toEqual(['ten', 'ten', 'five', 'five'])
  expect(await queue.settle(mq.schedules.remove('s'))).toBe(true)
  expect(await queue.settle(mq.schedules.remove('s'))).toBe(false)
  await queue.advance(HOUR)
  expect(await queue.texts('t')).toHaveLength(4)
  expect(await queue.settle(mq.schedules.list())).toEqual([])
  expect((await queue.settle(mq.delayed.list())).messages).toEqual([])
})

test('schedules are listed, and so are the occurrences that wait', async () => {
  const queue = await VirtualQueue.open()
  const { mq, openedAt } = queue
  expect(await queue.settle(mq.schedules.list())).toEqual([])
  await queue.settle(mq.schedules.set('b', { cron: '@daily', topic: 't', message: { value: 'b' } }))
  await queue.settle(mq.schedules.set('a', { cron: '30 12 * * *', topic: 't', message: { value: 'a' } }))
  const listed = await queue.settle(mq.schedules.list())
  expect(listed.map(({ name, nextAt }) => [name, nextAt])).toEqual([
    ['a', openedAt + 12.5 * HOUR],
    ['b', openedAt + DAY],
  ])
  const waiting = (await queue.settle(mq.delayed.list())).messages
  expect(waiting.map(({ schedule }) => schedule).toSorted()).toEqual(['a', 'b'])
  await expect(queue.settle(mq.delayed.reschedule('a', { delay: '1h' }))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
})

test('an occurrence that is cancelled is passed over, and the next one comes', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  await queue.settle(mq.schedules.set('s', { cron: '0 * * * *', topic: 't', message: { value: 'x' } }))
  expect(await queue.settle(mq.delayed.cancel('s'))).toBe(true)
  await queue.advance(2.5 * HOUR)
  expect(await times(queue, 't')).toEqual(['2025-01-01T02:00'])
})

test('every second', async () => {
  const queue = await VirtualQueue.open()
  await queue.settle(
    queue.mq.schedules.set('s', { cron: '* * * * * *', topic: 't', message: { value: 'x' } }),
  )
  await queue.advance(10_500)
  expect(await queue.texts('t')).toHaveLength(10)
})

test.each([
  [{ cron: 'often' }],
  [{ cron: '61 * * * *' }],
  [{ cron: '* * * * *', timezone: 'Mars/Olympus' }],
  [{ cron: '0 0 31 2 *' }],
])('%j is refused', async options => {
  const queue = await VirtualQueue.open()
  const set = queue.mq.schedules.set('s', { topic: 't', message: { value: 'x' }, ...options })
  await expect(queue.settle(set)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
})
