/** Alerts while something cannot be read: nothing that died is passed over, nothing old told as news. */

import { expect, test } from 'vitest'
import { SluiceError } from '../../../src/errors.ts'
import { VirtualQueue } from '../virtual-queue.ts'

test('letters are told also if another topic cannot be looked at that moment', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  const { engine } = mq
  for (const name of ['a.g.dead', 'b.g.dead']) await queue.settle(mq.createTopic(name))
  const alerts = mq.alerts({ everyMs: 1_000_000 })
  const told: string[] = []
  alerts.on('alert', alert => told.push(`${alert.subject} ${alert.count}`))
  alerts.on('error', () => {})
  await queue.settle(alerts.look())
  await queue.settle(mq.publish('a.g.dead', { key: '1', value: 'x' }))
  await queue.settle(mq.publish('b.g.dead', { key: '1', value: 'x' }))
  const describe = engine.describeTopic.bind(engine)
  let isDown = true
  engine.describeTopic = async name => {
    if (isDown && name === 'b.g.dead') throw new SluiceError('UNAVAILABLE', 'not now')
    return describe(name)
  }
  await queue.settle(alerts.look())
  isDown = false
  await queue.settle(alerts.look())
  expect(told.toSorted()).toEqual(['a.g.dead 1', 'b.g.dead 1'])
  await queue.settle(alerts.stop())
})

test('what was dead before is no news, though the first look failed', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq } = queue
  const { engine } = mq
  await queue.settle(mq.createTopic('a.g.dead'))
  await queue.settle(mq.publish('a.g.dead', { key: '1', value: 'x' }))
  const list = engine.listTopics.bind(engine)
  let isDown = true
  engine.listTopics = async () => {
    if (isDown) throw new SluiceError('UNREACHABLE', 'not now')
    return list()
  }
  const alerts = mq.alerts({ everyMs: 1_000_000 })
  const told: string[] = []
  alerts.on('alert', alert => told.push(`${alert.subject} ${alert.count}`))
  alerts.on('error', () => {})
  await queue.settle(alerts.look())
  isDown = false
  await queue.settle(alerts.look())
  expect(told).toEqual([])
  await queue.settle(mq.publish('a.g.dead', { key: '2', value: 'x' }))
  await queue.settle(alerts.look())
  expect(told).toEqual(['a.g.dead 1'])
  await queue.settle(alerts.stop())
})
