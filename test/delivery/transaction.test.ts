/** Transactions and transformations through the public API, over the broker in memory. */

import { describe, expect, onTestFinished, test } from 'vitest'
import type { Sluice } from '../../src/delivery/sluice.ts'
import type { Transaction } from '../../src/delivery/transaction.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import { open } from '../../src/open.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

async function memory(): Promise<Sluice> {
  const mq = await open('memory:')
  onTestFinished(() => mq.close())
  return mq
}

/** Everything that can be read of a topic now, by partition and offset. */
async function read(mq: Sluice, topic: string, isolation: 'committed' | 'uncommitted' = 'committed') {
  const { partitions } = await mq.describeTopic(topic)
  const values: string[] = []
  for (const { partition } of partitions) {
    const [{ batches }] = await mq.engine.fetch([{ topic, partition, offset: 0 }], { waitMs: 0, isolation })
    if (batches.length === 0) continue
    const consumer = mq.consumer({ topics: [topic], partitions: [partition], isolation, waitMs: 0 })
    const { endOffset } = partitions[partition]
    void consumer.runBatch(batch => {
      for (const message of batch) values.push(message.text() as string)
    })
    await expect.poll(() => consumer.assignment().length > 0).toBe(true)
    const [{ lag }] = await consumer.lag()
    if (lag > 0) await expect.poll(() => consumer.position({ topic, partition })).toBeGreaterThan(0)
    await expect
      .poll(
        async () =>
          consumer.position({ topic, partition }) >=
          (await stableEnd(mq, topic, partition, isolation, endOffset)),
      )
      .toBe(true)
    await consumer.stop()
  }
  return values
}

async function stableEnd(mq: Sluice, topic: string, partition: number, isolation: string, end: number) {
  if (isolation === 'uncommitted') return end
  return (mq.engine as LocalEngine).broker.partition(topic, partition).lastStableOffset
}

describe('a transaction', () => {
  test('is seen as a whole, in all its topics, once it has committed', async () => {
    const mq = await memory()
    await mq.publish('a', { value: 'before' })
    await mq.createTopic('b')
    const result = await mq.transaction(async tx => {
      const published = await tx.publish('a', { value: '1' })
      tx.publish('b', [{ value: '2' }, { value: '3' }])
      expect(published).toMatchObject({ topic: 'a', offset: 1 })
      expect(await read(mq, 'a')).toEqual(['before'])
      expect(await read(mq, 'a', 'uncommitted')).toEqual(['before', '1'])
      return 'done'
    })
    expect(result).toBe('done')
    expect(await read(mq, 'a')).toEqual(['before', '1'])
    expect(await read(mq, 'b')).toEqual(['2', '3'])
  })

  test('that throws is seen by nobody who does not ask for it, and the error is passed on', async () => {
    const mq = await memory()
    const failing = mq.transaction(async tx => {
      await tx.publish('t', { value: 'no' })
      throw new Error('changed my mind')
    })
    await expect(failing).rejects.toThrow('changed my mind')
    await mq.publish('t', { value: 'yes' })
    expect(await read(mq, 't')).toEqual(['yes'])
    expect(await read(mq, 't', 'uncommitted')).toEqual(['no', 'yes'])
  })

  test('fails if a message in it is refused, awaited or not; the next one works', async () => {
    const mq = await memory()
    await mq.createTopic('t', { config: { 'max.message.bytes': 1000 } })
    const failing = mq.transaction(tx => {
      tx.publish('t', { value: 'small' })
      tx.publish('t', { value: 'x'.repeat(2000) })
    })
    await expect(failing).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' })
    await mq.transaction(tx => tx.publish('t', { value: 'next' }))
    expect(await read(mq, 't')).toEqual(['next'])
  })

  test('commits nothing that was published after its function had returned', async () => {
    const mq = await memory()
    let late: Transaction | undefined
    await mq.transaction(tx => {
      late = tx
      tx.publish('t', { value: 'in time' })
    })
    await expect(late!.publish('t', { value: 'late' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(late!.commitOffsets('g', [])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await read(mq, 't', 'uncommitted')).toEqual(['in time'])
  })

  test('runs beside others, each on its own', async () => {
    const mq = await memory()
    await mq.createTopic('t', { partitions: 3 })
    const outcomes = await Promise.allSettled(
      Array.from({ length: 40 }, (_, index) =>
        mq.transaction(async tx => {
          await tx.publish('t', { key: `${index}`, value: `${index}` })
          if (index % 4 === 0) throw new Error('no')
        }),
      ),
    )
    expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(10)
    const expected = Array.from({ length: 40 }, (_, index) => index).filter(index => index % 4 !== 0)
    expect((await read(mq, 't')).map(Number).sort((a, b) => a - b)).toEqual(expected)
  })

  test('is aborted when its time is over, and cannot commit any more', async () => {
    const clock = new VirtualClock()
    /** Time stands still while this is waited for, unless it is moved. */
    const outcomeOf = async <R>(promise: Promise<R>): Promise<PromiseSettledResult<R>> => {
      let outcome: PromiseSettledResult<R> | undefined
      void Promise.allSettled([promise]).then(([settled]) => {
        outcome = settled
      })
      while (outcome === undefined) {
        await clock.runDeferred()
        await new Promise(setImmediate)
      }
      return outcome
    }
    const opened = await outcomeOf(open({ url: 'memory:', clock }))
    const mq = (opened as PromiseFulfilledResult<Sluice>).value
    const late = mq.transaction(
      async tx => {
        await tx.publish('t', { value: 'too late' })
        await clock.advance(1_500)
      },
      { timeoutMs: 1_000 },
    )
    expect(await outcomeOf(late)).toMatchObject({ status: 'rejected', reason: { code: 'PRODUCER_FENCED' } })
    const { partitions } = await mq.describeTopic('t')
    expect((mq.engine as LocalEngine).broker.partition('t', 0).lastStableOffset).toBe(partitions[0].endOffset)
    const next = mq.transaction(tx => tx.publish('t', { value: 'on time' }))
    expect(await outcomeOf(next)).toMatchObject({ status: 'fulfilled', value: { topic: 't', offset: 2 } })
    await outcomeOf(mq.close())
  })

  test('under a name fences whoever has begun one under it before, in another engine on the same broker', async () => {
    const mq = await memory()
    const { Sluice } = await import('../../src/delivery/sluice.ts')
    const other = new Sluice(new LocalEngine((mq.engine as LocalEngine).broker, 'memory:', true))
    const fenced = mq.transaction(
      async tx => {
        await tx.publish('t', { value: 'zombie' })
        await other.transaction(inner => inner.publish('t', { value: 'successor' }), {
          transactionalId: 'job',
        })
      },
      { transactionalId: 'job' },
    )
    await expect(fenced).rejects.toMatchObject({ code: 'PRODUCER_FENCED' })
    expect(await read(mq, 't')).toEqual(['successor'])
  })

  test('under one name runs one after the other', async () => {
    const mq = await memory()
    const order: string[] = []
    const run = (name: string) =>
      mq.transaction(
        async tx => {
          order.push(`${name} begins`)
          await tx.publish('t', { value: name })
          order.push(`${name} ends`)
        },
        { transactionalId: 'job' },
      )
    await Promise.all([run('a'), run('b')])
    expect(order).toEqual(['a begins', 'a ends', 'b begins', 'b ends'])
    expect(await read(mq, 't')).toEqual(['a', 'b'])
  })

  test('commits offsets of a group with its messages, or neither', async () => {
    const mq = await memory()
    await mq.publish('in', [{ value: '1' }, { value: '2' }])
    const offset = { topic: 'in', partition: 0, offset: 1 }
    const failing = mq.transaction(async tx => {
      await tx.commitOffsets('g', [offset])
      throw new Error('no')
    })
    await expect(failing).rejects.toThrow('no')
    expect(await mq.engine.committed('g')).toEqual([])
    await mq.transaction(async tx => {
      await tx.commitOffsets('g', [offset])
      expect(await mq.engine.committed('g')).toEqual([])
      // Whoever would go on from the commit has to wait until it is decided.
      await expect(mq.engine.committed('g', [offset])).rejects.toMatchObject({
        code: 'UNSTABLE_OFFSET_COMMIT',
      })
    })
    expect(await mq.engine.committed('g', [offset])).toMatchObject([offset])
  })

  test.each([
    [{ timeoutMs: 0 }, 'INVALID_ARGUMENT'],
    [{ timeoutMs: 16 * 60_000 }, 'INVALID_TRANSACTION_TIMEOUT'],
    [{ transactionalId: '' }, 'INVALID_ARGUMENT'],
  ])('with %j is refused: %s', async (options, code) => {
    const mq = await memory()
    await expect(mq.transaction(() => {}, options)).rejects.toMatchObject({ code })
  })

  test('is refused once the queue is closed, which waits for those under way', async () => {
    const mq = await open('memory:')
    const { promise: mayGoOn, resolve: goOn } = Promise.withResolvers<void>()
    const running = mq.transaction(async tx => {
      await tx.publish('t', { value: 'x' })
      await mayGoOn
    })
    const closing = mq.close()
    await expect(mq.transaction(() => {})).rejects.toMatchObject({ code: 'CLOSED' })
    goOn()
    await running
    await closing
  })
})

describe('a transformation', () => {
  async function input(mq: Sluice, count: number) {
    await mq.createTopic('in', { partitions: 3 })
    await mq.createTopic('out', { partitions: 2 })
    await mq.publish(
      'in',
      Array.from({ length: count }, (_, index) => ({ key: `${index}`, value: `${index}` })),
    )
  }

  const numbers = (values: readonly string[]) => values.map(Number).sort((a, b) => a - b)
  const upTo = (count: number) => Array.from({ length: count }, (_, index) => index)

  test('has each message take effect exactly once', async () => {
    const mq = await memory()
    await input(mq, 500)
    const transform = mq.transform(
      { group: 'g', topics: ['in'], partitionBytesMax: 1_000 },
      (message, tx) => {
        tx.publish('out', { key: message.key, value: message.value })
      },
    )
    await expect.poll(async () => (await mq.describeGroup('g')).lag).toBe(0)
    await expect.poll(async () => (await mq.describeGroup('g')).partitions.length).toBe(3)
    await transform.stop()
    expect(numbers(await read(mq, 'out'))).toEqual(upTo(500))
  })

  test('ends with what its handler throws; the next one goes on where the last commit was', async () => {
    const mq = await memory()
    await input(mq, 200)
    for (const _ of upTo(3)) {
      let left = 60
      const transform = mq.transform(
        { group: 'g', topics: ['in'], partitionBytesMax: 500 },
        (message, tx) => {
          if (left-- === 0) throw new Error('poison')
          tx.publish('out', { key: message.key, value: message.value })
        },
      )
      await expect(transform.done).rejects.toThrow('poison')
    }
    const last = mq.transform({ group: 'g', topics: ['in'] }, (message, tx) => {
      tx.publish('out', { key: message.key, value: message.value })
    })
    await expect.poll(async () => (await read(mq, 'out')).length).toBe(200)
    await last.stop()
    expect(numbers(await read(mq, 'out'))).toEqual(upTo(200))
    expect((await read(mq, 'out', 'uncommitted')).length).toBeGreaterThan(200)
  })

  test('shares the work with others of its group, and hands it over', async () => {
    const mq = await memory()
    await input(mq, 300)
    const start = () =>
      mq.transform({ group: 'g', topics: ['in'], partitionBytesMax: 500 }, async (message, tx) => {
        await tx.publish('out', { key: message.key, value: message.value })
      })
    const first = start()
    const second = start()
    await expect.poll(async () => (await read(mq, 'out')).length).toBeGreaterThan(50)
    await first.stop()
    const third = start()
    await expect.poll(async () => (await read(mq, 'out')).length).toBe(300)
    await Promise.all([second.stop(), third.stop()])
    expect(numbers(await read(mq, 'out'))).toEqual(upTo(300))
  })
})
