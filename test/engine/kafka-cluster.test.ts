/** How the engine finds its way in a cluster whose leaders move, and how much it asks of one broker at a time. */

import { afterEach, describe, expect, test } from 'vitest'
import type { Engine } from '../../src/engine/engine.ts'
import { openKafkaEngine } from '../../src/engine/kafka.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { END_OFFSET, FakeCluster } from './fake-cluster.ts'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function start(nodes: number, leaders: number[]): Promise<{ cluster: FakeCluster; engine: Engine }> {
  const cluster = await FakeCluster.start(nodes, leaders)
  cleanups.push(() => cluster.close())
  const engine = await openKafkaEngine({ url: cluster.url })
  cleanups.push(() => engine.close())
  return { cluster, engine }
}

/** A batch that may be sent again. */
function produce(engine: Engine): Promise<unknown> {
  const builder = new BatchBuilder()
  builder.append(0, null, 'x', null)
  return engine.produce('t', 0, builder.close({ producerId: 1, producerEpoch: 0, baseSequence: 0 }))
}

/** What was asked of whom since the last call, without Metadata. */
function asked(cluster: FakeCluster): string[] {
  return cluster.asked.splice(0).filter(each => !each.startsWith('Metadata'))
}

describe('a leader that has moved', () => {
  test('is asked for once it has refused a batch, and not asked again', async () => {
    const { cluster, engine } = await start(2, [0])
    await produce(engine)
    expect(asked(cluster)).toEqual(['Produce 0'])
    cluster.leaders[0] = 1
    await produce(engine)
    expect(asked(cluster)).toEqual(['Produce 0', 'Produce 1'])
    await produce(engine)
    expect(asked(cluster)).toEqual(['Produce 1'])
  })

  test('is asked for once it has refused a read, and not asked again', async () => {
    const { cluster, engine } = await start(2, [0])
    const read = () => engine.fetch([{ topic: 't', partition: 0, offset: END_OFFSET }], { waitMs: 300 })
    await read()
    cluster.leaders[0] = 1
    cluster.asked.length = 0
    const [{ endOffset, error }] = await read()
    expect([endOffset, error]).toEqual([END_OFFSET, undefined])
    expect(asked(cluster).slice(0, 2)).toEqual(['Fetch 0', 'Fetch 1'])
    await read()
    expect(new Set(asked(cluster))).toEqual(new Set(['Fetch 1']))
  })

  test('is asked for once it cannot be reached', async () => {
    const { cluster, engine } = await start(2, [0])
    await produce(engine)
    cluster.leaders[0] = 1
    await cluster.stop(0)
    await produce(engine)
    expect(asked(cluster)).toEqual(['Produce 0', 'Produce 1'])
  })
})

test('one broker is asked for no more than 32 reads at once; the others wait for their turn', async () => {
  const partitions = Array.from({ length: 40 }, (_, partition) => partition)
  const { cluster, engine } = await start(
    1,
    partitions.map(() => 0),
  )
  const { promise: hold, resolve: letGo } = Promise.withResolvers<void>()
  cluster.hold = hold
  const abort = new AbortController()
  const options = { waitMs: 60_000, signal: abort.signal }
  const reading = partitions.map(partition => engine.fetch([{ topic: 't', partition, offset: 0 }], options))
  await expect.poll(() => cluster.fetching).toBe(32)
  await engine.listTopics() // whatever else was sent has come by now
  expect(cluster.fetching).toBe(32)
  cluster.hold = null
  letGo()
  await expect.poll(() => cluster.partitionsFetched.size).toBe(40)
  expect(cluster.fetchingMost).toBe(32)
  abort.abort()
  await Promise.all(reading)
})
