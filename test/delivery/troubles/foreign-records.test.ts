/** Records in rungs and schedules that nobody of ours has written. */

import { expect, test } from 'vitest'
import { VirtualQueue } from '../virtual-queue.ts'

test('a record in a rung whose target is no name of a topic: a letter, and those behind it come', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const relay = await queue.settle(mq.relay())
  const errors: string[] = []
  relay.on('error', error => errors.push(error.code))
  await queue.settle(
    mq.publish('_sluice.delay.0', {
      key: 'k',
      value: 'rubbish',
      headers: {
        'sluice-deliver-at': String(clock.now() + 500),
        'sluice-target': 'no topic!',
        'sluice-delay-id': 'x',
      },
    }),
  )
  await queue.settle(mq.publish('t', { key: 'k', value: 'fine', delay: '1s' }))
  await queue.advance(10_000)
  expect(await queue.texts('t')).toEqual(['fine'])
  expect(errors).toEqual(['INVALID_TOPIC'])
})

test('a schedule that is stored with an expression that is none', async () => {
  const queue = await VirtualQueue.open()
  const { mq, clock } = queue
  const relay = await queue.settle(mq.relay())
  const errors: string[] = []
  relay.on('error', error => errors.push(error.code))
  await queue.settle(
    mq.publish('_sluice.schedules', {
      key: 's',
      value: JSON.stringify({
        version: 'v',
        cron: 'rubbish',
        timezone: 'UTC',
        topic: 't',
        key: null,
        value: null,
        headers: [],
      }),
    }),
  )
  await queue.settle(
    mq.publish('_sluice.delay.0', {
      key: 'k',
      value: 'tick',
      headers: {
        'sluice-deliver-at': String(clock.now() + 500),
        'sluice-target': 't',
        'sluice-delay-id': 'x',
        'sluice-schedule': 's@v',
      },
    }),
  )
  await queue.settle(mq.publish('t', { key: 'k', value: 'fine', delay: '1s' }))
  await queue.advance(10_000)
  expect(await queue.texts('t')).toContain('fine')
})
