/** Diverting a backlog behind a transaction that is open for long. */

import { expect, test } from 'vitest'
import { VirtualQueue } from '../virtual-queue.ts'

test('a backlog is not diverted past what a transaction has not decided yet', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  await queue.settle(mq.createTopic('src'))
  await queue.settle(mq.createTopic('dst'))
  await queue.settle(mq.commitOffsets('g', [{ topic: 'src', partition: 0, offset: 0 }]))
  await queue.settle(mq.publish('src', { value: 'one' }))
  const { promise, resolve } = Promise.withResolvers<void>()
  const transaction = mq.transaction(
    async tx => {
      await tx.publish('src', { value: 'two' })
      await promise
    },
    { timeoutMs: 600_000 },
  )
  await queue.advance(10)
  const fate: unknown[] = []
  void mq
    .backlog('g', 'src')
    .divert('dst')
    .then(
      done => fate.push(done),
      error => fate.push(error.code),
    )
  await queue.advance(120_000)
  resolve()
  await queue.settle(transaction)
  await queue.advance(1_000)
  await queue.settle(mq.backlog('g', 'src').divert('dst'))
  expect(await queue.texts('dst')).toEqual(['one', 'two'])
})
