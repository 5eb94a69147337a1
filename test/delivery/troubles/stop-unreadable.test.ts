/** Stopping while the relay cannot read its tables. */

import { expect, test } from 'vitest'
import { SluiceError } from '../../../src/errors.ts'
import { VirtualQueue } from '../virtual-queue.ts'

test('a relay that cannot read what was cancelled stops all the same', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  const { engine } = mq
  await queue.settle(mq.publish('t', { value: 'x', delay: '10s', delayId: 'a' }))
  const [pending] = (await queue.settle(mq.delayed.list())).messages
  await queue.settle(mq.delayed.cancel(pending.id))
  const fetch = engine.fetch.bind(engine)
  let isDown = true
  engine.fetch = async (partitions, options) => {
    if (isDown && partitions[0].topic === '_sluice.delay.cancelled')
      throw new SluiceError('UNREACHABLE', 'down')
    return fetch(partitions, options)
  }
  const relay = await queue.settle(mq.relay())
  relay.on('error', () => {})
  await queue.advance(3_000)
  let stopped = false
  void relay.stop().then(() => {
    stopped = true
  })
  await queue.advance(60_000)
  expect(stopped).toBe(true)
  isDown = false
  await queue.advance(10_000)
})
