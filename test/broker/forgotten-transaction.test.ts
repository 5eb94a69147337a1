/** A transaction that a killed process left in a partition whose disk is full: it does not become part of the next one. */

import { expect, test } from 'vitest'
import { Broker } from '../../src/broker/broker.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const run = async <T>(clock: VirtualClock, promise: Promise<T>): Promise<T> => {
  let over = false
  promise.then(
    () => {
      over = true
    },
    () => {
      over = true
    },
  )
  await clock.runDeferred()
  while (!over) if (!(await clock.step())) await clock.runDeferred()
  return promise
}

test.each([true, false])(
  'a transaction that a killed process left does not become part of the next one while there is no room for its marker (waits: %s)',
  async waits => {
    const clock = new VirtualClock()
    const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
    disk.makeDirectory('/data')
    let broker = await run(clock, Broker.open({ disk, path: '/data', clock }))
    await run(clock, broker.createTopic({ name: 't' }))
    const begin = async () => {
      const request = { transactionalId: 'x', timeoutMs: 60_000, producerId: -1, epoch: -1 }
      return { transactionalId: 'x', ...(await run(clock, broker.transactions.init(request))) }
    }
    type Producer = Awaited<ReturnType<typeof begin>>
    const append = async (value: string, producer: Producer): Promise<void> => {
      broker.transactions.enlist(producer, 't', 0)
      const { producerId, epoch } = producer
      const builder = new BatchBuilder()
      builder.append(clock.now(), null, value, null)
      const options = { producerId, producerEpoch: epoch, baseSequence: 0, transactional: true }
      await run(
        clock,
        (async () =>
          broker.partition('t', 0).append(Buffer.from(builder.close(options)), 'flushed', true).done)(),
      )
    }
    await append('forgotten', await begin())
    const left = disk.kill()
    let isFull = true
    const write = left.write.bind(left)
    left.write = (path, inode, bytes, position) => {
      if (isFull && path.includes('t-0') && path.endsWith('.log'))
        left.failNext('write', other => other === path)
      write(path, inode, bytes, position)
    }
    broker = await run(clock, Broker.open({ disk: left, path: '/data', clock }))
    await clock.advance(10)
    isFull = false
    const next = await begin()
    // Before the marker is tried again.
    await append('too early', next).catch(error =>
      expect(error).toMatchObject({ code: 'CONCURRENT_TRANSACTIONS' }),
    )
    if (waits) {
      await clock.advance(1_000)
      await append('new', next)
    } else await run(clock, broker.transactions.addPartitions(next, [['t', 0]]))
    await run(clock, broker.transactions.end(next, true, false))
    const request = { topic: 't', partition: 0, offset: 0 }
    const options = { partitionBytesMax: 10_000, committedOnly: true, waitMs: 0 }
    const [{ batches }] = await run(clock, broker.fetch([request], options))
    expect(batches.includes('forgotten')).toBe(false)
    expect(batches.includes('new')).toBe(waits)
    await run(clock, broker.close())
  },
)
