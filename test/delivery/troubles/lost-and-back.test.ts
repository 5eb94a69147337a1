/** A relay that loses a partition, and gets it back, while it begins a transaction. */

import { expect, test } from 'vitest'
import { DelayRelay } from '../../../src/delivery/delay-relay.ts'
import { DelayTopics } from '../../../src/delivery/delay-topics.ts'
import type { MemberEvents, TransactionOptions } from '../../../src/engine/engine.ts'
import { SluiceError } from '../../../src/errors.ts'
import { clustered } from '../clustered.ts'
import { VirtualQueue } from '../virtual-queue.ts'

test('a relay that lost a rung and got it back while a transaction was being opened delivers once', async () => {
  const queue = await VirtualQueue.open({ relay: false, delayPartitions: 1 })
  const { mq, clock } = queue
  const engine = clustered(mq.engine)
  let events: MemberEvents | null = null
  const join = mq.engine.join.bind(mq.engine)
  mq.engine.join = (options, given) => {
    events = given
    return join(options, given)
  }
  const init = mq.engine.initTransactions.bind(mq.engine)
  let slow = false
  mq.engine.initTransactions = async (options: TransactionOptions) => {
    const session = await init(options)
    if (slow) await new Promise<void>(resolve => clock.after(5_000, resolve))
    const produce = session.produce.bind(session)
    let first = true
    session.produce = (topic, partition, batch) => {
      if (slow || !first) return produce(topic, partition, batch)
      first = false
      slow = true // the connection is lost: this transaction fails, and opening the next takes its time
      return Promise.reject(new SluiceError('INVALID_TXN_STATE', 'lost'))
    }
    return session
  }
  const relay = new DelayRelay({
    engine,
    clock,
    clientId: 'one',
    topics: new DelayTopics(engine, 1, () => {}),
    warn: () => {},
  })
  await queue.settle(relay.start())
  await queue.advance(5_000)
  await queue.settle(mq.publish('t', { key: 'k', value: 'once', delay: 1_000 }))
  await queue.advance(3_000)
  expect(slow).toBe(true)
  expect(await queue.texts('t')).toEqual([])
  const of = [{ topic: '_sluice.delay.0', partition: 0 }]
  await queue.settle(Promise.resolve(events!.lost(of)))
  await queue.settle(Promise.resolve(events!.assigned(of)))
  await queue.advance(60_000)
  expect(await queue.texts('t')).toEqual(['once'])
  await queue.settle(relay.stop())
})
