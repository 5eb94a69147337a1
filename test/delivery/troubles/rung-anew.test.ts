/** A rung that is deleted and made anew. */

import { expect, test } from 'vitest'
import { VirtualQueue } from '../virtual-queue.ts'

test('a rung that was deleted and made anew delivers what is put into it', async () => {
  const queue = await VirtualQueue.open({ delayPartitions: 1 })
  const { mq } = queue
  const relay = await queue.settle(mq.relay())
  const errors: string[] = []
  relay.on('error', error => errors.push(error.code))
  for (let i = 0; i < 5; i++)
    await queue.settle(mq.publish('t', { key: 'k', value: `before ${i}`, delay: '5s' }))
  await queue.advance(10_000)
  expect(await queue.texts('t')).toHaveLength(5)
  await queue.settle(mq.engine.deleteTopic('_sluice.delay.5s'))
  await queue.advance(10_000)
  for (let i = 0; i < 3; i++)
    await queue.settle(mq.publish('t', { key: 'k', value: `after ${i}`, delay: '5s' }))
  await queue.advance(60_000)
  expect(await queue.texts('t')).toHaveLength(8)
})
