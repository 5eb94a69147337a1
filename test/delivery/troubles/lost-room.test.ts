/** A rung that waits for room in memory. */

import { expect, test } from 'vitest'
import { DelayRelay } from '../../../src/delivery/delay-relay.ts'
import { DelayTopics } from '../../../src/delivery/delay-topics.ts'
import { partitionOfKey } from '../../../src/delivery/partitioner.ts'
import type { MemberEvents } from '../../../src/engine/engine.ts'
import { clustered } from '../clustered.ts'
import { VirtualQueue } from '../virtual-queue.ts'

test('a rung that waited for room goes on when the partition that took it is given up', async () => {
  const queue = await VirtualQueue.open({ relay: false, delayPartitions: 2 })
  const { mq, clock } = queue
  const engine = clustered(mq.engine)
  let events: MemberEvents | null = null
  const join = mq.engine.join.bind(mq.engine)
  mq.engine.join = (options, given) => {
    events = given
    return join(options, given)
  }
  const relay = new DelayRelay({
    engine,
    clock,
    clientId: 'one',
    topics: new DelayTopics(engine, 2, () => {}),
    warn: () => {},
  })
  await queue.settle(relay.start())
  await queue.advance(5_000)
  const keyOf = (want: number): string => {
    for (let i = 0; ; i++) if (partitionOfKey(Buffer.from(`k${i}`), 2) === want) return `k${i}`
  }
  const value = 'x'.repeat(900_000)
  for (let i = 0; i < 40; i++) await queue.settle(mq.publish('t', { key: keyOf(0), value, delay: 1_900 }))
  await queue.advance(50)
  await queue.settle(mq.publish('t', { key: keyOf(1), value: 'small', delay: 100 }))
  await queue.advance(50)
  await queue.settle(Promise.resolve(events!.revoked([{ topic: '_sluice.delay.0', partition: 0 }])))
  await queue.advance(60_000)
  expect((await queue.texts('t')).map(t => t.slice(0, 5))).toEqual(['small'])
  await queue.settle(relay.stop())
})
