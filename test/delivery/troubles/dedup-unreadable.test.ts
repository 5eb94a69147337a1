/** What is read at the beginning, while it cannot be read. */

import { expect, test } from 'vitest'
import { SluiceError } from '../../../src/errors.ts'
import { memoryDisk } from '../../../src/lib/disk-memory.ts'
import { VirtualQueue } from '../virtual-queue.ts'

test('a relay that cannot read for a while what was decided before knows it all the same', async () => {
  const disk = memoryDisk()
  const first = await VirtualQueue.reopen(disk)
  await first.settle(first.mq.deduplicate('t').publish({ id: 'a', key: 'k', value: 'first' }))
  await first.settle(first.mq.relay())
  await first.advance(2_000)
  expect(await first.texts('t')).toEqual(['first'])
  const now = first.clock.now()
  await first.settle(first.mq.close())
  const queue = await VirtualQueue.reopen(disk, now + 1_000)
  const { mq } = queue
  const { engine } = mq
  const fetch = engine.fetch.bind(engine)
  let isDown = true
  engine.fetch = async (partitions, options) => {
    if (!isDown || partitions[0].topic !== '_sluice.dedup') return fetch(partitions, options)
    await new Promise<void>(resolve => queue.clock.after(Math.min(500, options?.waitMs ?? 500), resolve))
    return partitions.map(({ topic, partition }) => ({
      topic,
      partition,
      batches: Buffer.alloc(0),
      startOffset: 0,
      endOffset: 0,
      error: new SluiceError('UNAVAILABLE', 'no leader'),
    }))
  }
  const other = await queue.settle(mq.relay())
  other.on('error', () => {})
  await queue.advance(120_000)
  isDown = false
  await queue.settle(mq.deduplicate('t').publish({ id: 'a', key: 'k', value: 'again' }))
  await queue.advance(20_000)
  expect(await queue.texts('t')).toEqual(['first'])
  await queue.settle(other.stop())
})
