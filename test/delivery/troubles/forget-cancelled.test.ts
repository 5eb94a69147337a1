/** How long it is remembered that a message was cancelled. */

import { expect, test } from 'vitest'
import { SluiceError } from '../../../src/errors.ts'
import { VirtualQueue } from '../virtual-queue.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE

test('what was cancelled stays cancelled, though its rung could not be read for hours', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  const { engine } = mq
  const { delayId } = await queue.settle(mq.publish('t', { key: 'k', value: 'cancelled', delay: '10m' }))
  await queue.settle(mq.delayed.cancel(delayId as string))
  const fetch = engine.fetch.bind(engine)
  let isDown = true
  engine.fetch = async (partitions, options) => {
    const asked = partitions.filter(({ topic }) => !isDown || topic !== '_sluice.delay.10m')
    const rest = partitions.filter(of => !asked.includes(of))
    const down = rest.map(({ topic, partition }) => ({
      topic,
      partition,
      batches: Buffer.alloc(0),
      startOffset: 0,
      endOffset: 0,
      error: new SluiceError('UNAVAILABLE', 'no leader'),
    }))
    if (asked.length === 0) return down
    const timer = rest.length > 0 ? { ...options, waitMs: Math.min(options?.waitMs ?? 500, 200) } : options
    return [...(await fetch(asked, timer)), ...down]
  }
  const relay = await queue.settle(mq.relay())
  relay.on('error', () => {})
  await queue.advance(2 * HOUR)
  await queue.settle(mq.publish('t', { key: 'other', value: 'other', delay: '1s' }))
  await queue.advance(3 * MINUTE)
  expect(await queue.texts('t')).toEqual(['other'])
  isDown = false
  await queue.advance(MINUTE)
  expect(await queue.texts('t')).toEqual(['other'])
  await queue.settle(relay.stop())
}, 60_000)

test('a cancellation of what never came is forgotten, after moves through several rungs', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const messages = Array.from({ length: 50 }, (_, i) => ({
    key: `${i}`,
    value: `${i}`,
    delay: 40_000 + i * 100,
  }))
  await queue.settle(mq.publish('t', messages))
  await queue.settle(
    mq.publish('_sluice.delay.cancelled', { key: 'never', value: String(clock.now() + MINUTE) }),
  )
  await queue.advance(2 * HOUR)
  await queue.settle(mq.publish('t', { value: 'one more', delay: '12s' }))
  await queue.advance(5 * MINUTE)
  expect(await queue.texts('t')).toHaveLength(51)
  const last = (await queue.delivered('_sluice.delay.cancelled')).at(-1)
  expect(last).toMatchObject({ key: 'never', text: '' })
})
