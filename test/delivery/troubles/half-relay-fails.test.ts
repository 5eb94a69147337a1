/** Half messages while places cannot be saved, or targets cannot be. */

import { expect, onTestFinished, test } from 'vitest'
import { HalfRelay } from '../../../src/delivery/half-relay.ts'
import { SluiceError } from '../../../src/errors.ts'
import { open } from '../../../src/open.ts'
import { VirtualClock } from '../../sim/virtual-clock.ts'

async function house() {
  const clock = new VirtualClock()
  const mq = await open({ url: 'memory:', clock, relay: false })
  const during = async <R>(promise: Promise<R>): Promise<R> => {
    let isSettled = false
    const settled = (): void => {
      isSettled = true
    }
    promise.then(settled, settled)
    while (!isSettled) await clock.advance(1)
    return await promise
  }
  const errors: string[] = []
  const start = async () => {
    const relay = new HalfRelay({ engine: mq.engine, clock }, { partitions: 1 })
    relay.on('error', error => errors.push(error.code))
    await during(relay.start())
    onTestFinished(() => during(relay.stop()))
    return relay
  }
  onTestFinished(() => during(mq.close()))
  return { clock, mq, during, errors, start }
}

test('a relay that fails while the place cannot be saved leaves the group all the same', async () => {
  const { clock, mq, during, start } = await house()
  const { engine } = mq
  await start()
  await clock.advance(2_000)
  const one = await during(mq.half.prepare('t', { value: 'one' }))
  await during(one.commit())
  await clock.advance(500)
  const commit = engine.commit.bind(engine)
  let failing = true
  engine.commit = (group, offsets) =>
    failing && group === '_sluice.half.decisions'
      ? Promise.reject(new SluiceError('DISK_FULL', 'no room'))
      : commit(group, offsets)
  const fetch = engine.fetch.bind(engine)
  let breaks = true
  engine.fetch = async (partitions, options) => {
    if (breaks && partitions.some(({ topic }) => topic === '_sluice.half')) {
      breaks = false
      throw new SluiceError('CORRUPT_LOG', 'once')
    }
    return fetch(partitions, options)
  }
  const two = await during(mq.half.prepare('t', { value: 'two' }))
  await during(two.commit())
  await clock.advance(10_000)
  failing = false
  await clock.advance(30_000)
  const { members } = await during(engine.describeGroup('_sluice.half'))
  const three = await during(mq.half.prepare('t', { value: 'three' }))
  await during(three.commit())
  await clock.advance(30_000)
  const [{ endOffset }] = (await during(engine.describeTopic('t'))).partitions
  expect(members).toHaveLength(1)
  expect(endOffset).toBeGreaterThanOrEqual(3)
})

test('a half message for a topic that cannot be does not stop the others', async () => {
  const { clock, mq, during, errors, start } = await house()
  await start()
  const bad = await during(mq.half.prepare('no topic!', { value: 'x' }).catch(() => null))
  if (bad) await during(bad.commit())
  const two = await during(mq.half.prepare('t', { value: 'two' }))
  await during(two.commit())
  await clock.advance(60_000)
  expect(errors.length).toBeLessThan(5)
})
