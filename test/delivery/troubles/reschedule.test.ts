/** Rescheduling twice at once, and a clock that is set back. */

import { expect, test } from 'vitest'
import { open } from '../../../src/open.ts'
import { VirtualClock } from '../../sim/virtual-clock.ts'
import { VirtualQueue } from '../virtual-queue.ts'

test('two that move a message at the same time', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  const { delayId } = await queue.settle(mq.publish('t', { key: 'k', value: 'x', delay: '10m' }))
  const ids = await queue.settle(
    Promise.all([
      mq.delayed.reschedule(delayId!, { delay: '1m' }),
      mq.delayed.reschedule(delayId!, { delay: '2m' }),
    ]),
  )
  await queue.advance(20 * 60_000)
  expect([await queue.texts('t'), ids.filter(id => id !== null).length]).toEqual([['x'], 1])
})

test('a short delay after the clock was set back', async () => {
  const virtual = new VirtualClock()
  let step = 0
  const clock = {
    now: () => virtual.now() + step,
    monotonic: () => virtual.monotonic(),
    after: virtual.after.bind(virtual),
    defer: virtual.defer.bind(virtual),
  }
  const opening = open({ url: 'memory:', clock })
  await virtual.advance(100)
  const mq = await opening
  const queue = new VirtualQueue(virtual, mq)
  await queue.settle(mq.publish('t', { value: 'a', delay: 500 }))
  await queue.advance(2_000)
  expect(await queue.texts('t')).toEqual(['a'])
  step = -600_000
  await queue.settle(mq.publish('t', { value: 'b', delay: 500 }))
  await queue.advance(5_000)
  expect(await queue.texts('t')).toEqual(['a', 'b'])
  await queue.settle(mq.close())
})
