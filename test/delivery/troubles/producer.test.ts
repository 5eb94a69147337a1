/** A producer whose topic is deleted, or not known yet. */

import { expect, test } from 'vitest'
import { Producer } from '../../../src/delivery/producer.ts'
import type { ProducerOptions } from '../../../src/delivery/producer-options.ts'
import type { SluiceError } from '../../../src/errors.ts'
import { VirtualClock } from '../../sim/virtual-clock.ts'
import { FakeEngine } from '../fake-engine.ts'

async function bench(options: ProducerOptions = {}) {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock, autoCreateTopics: false })
  await engine.createTopic({ name: 't', partitions: 1 })
  const reported: { code: string; count: number }[] = []
  const onError = (error: SluiceError, { count }: { count: number }) =>
    void reported.push({ code: error.code, count })
  const producer = new Producer(
    { onError, ...options },
    { engine, clock, random: () => 0, autoCreateTopics: false, delays: { prepare: async () => {} } },
  )
  void producer.send('t', [])
  await clock.runDeferred()
  return { engine, clock, producer, reported, settle: () => clock.runDeferred() }
}
const big = (bytes: number) => ({ value: Buffer.alloc(bytes, 65) })

test('what waits for room when its topic is deleted is answered by flush, and by close', async () => {
  const { engine, clock, producer, settle } = await bench({ bufferBytesMax: 1_000 })
  engine.hold()
  const fates: string[] = []
  const send = (name: string) =>
    producer.send('t', big(900)).then(
      () => fates.push(`${name} ok`),
      (error: SluiceError) => fates.push(`${name} ${error.code}`),
    )
  void send('a')
  void send('b')
  void send('c')
  void send('d')
  await settle()
  await engine.deleteTopic('t')
  engine.failNext('produce', 'UNKNOWN_TOPIC')
  engine.release()
  await clock.advance(1_000)
  let flushed = false
  void producer.flush().then(() => {
    flushed = true
  })
  await clock.advance(1_000)
  let closed = false
  void producer.close({ deadlineMs: 2_000 }).then(() => {
    closed = true
  })
  await clock.advance(5_000)
  expect([flushed, closed]).toEqual([true, true])
  expect(fates).toHaveLength(4)
})

test('and goes into a topic that was made anew', async () => {
  const { engine, clock, producer, settle } = await bench({ bufferBytesMax: 1_000 })
  engine.hold()
  const fates: string[] = []
  const send = (name: string) =>
    producer.send('t', big(900)).then(
      () => fates.push(`${name} ok`),
      (error: SluiceError) => fates.push(`${name} ${error.code}`),
    )
  void send('a')
  void send('b')
  void send('c')
  void send('d')
  await settle()
  engine.failNext('produce', 'UNKNOWN_TOPIC')
  engine.release()
  await clock.advance(5_000)
  void send('e')
  await clock.advance(5_000)
  expect(fates).toHaveLength(5)
})

test('post of what is no message', async () => {
  const { producer, reported, settle } = await bench()
  producer.post('t', null as never)
  producer.post('t', undefined as never)
  producer.post('t', 5 as never)
  await settle()
  expect(reported).toEqual(Array.from({ length: 3 }, () => ({ code: 'INVALID_ARGUMENT', count: 1 })))
})

test('a delay begins with the post, also with a partitioner', async () => {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock, autoCreateTopics: false })
  await engine.createTopic({ name: 't', partitions: 1 })
  for (const name of ['0', '1s', '5s', '10s', '30s'])
    await engine.createTopic({ name: `_sluice.delay.${name}`, partitions: 1 })
  const reported: string[] = []
  const partitionsOf = engine.partitionsOf.bind(engine)
  let isDown = true
  engine.partitionsOf = async name => {
    if (isDown) {
      const { SluiceError } = await import('../../../src/errors.ts')
      throw new SluiceError('UNAVAILABLE', 'down')
    }
    return partitionsOf(name)
  }
  const producer = new Producer(
    { onError: e => void reported.push(e.code), partitioner: () => 0 },
    { engine, clock, random: () => 0, delays: { prepare: async () => {} } },
  )
  const at = clock.now()
  producer.post('t', { value: 'x', delay: 30_000 })
  await clock.advance(15_000)
  isDown = false
  await clock.advance(15_000)
  const { RecordCursor } = await import('../../../src/record/cursor.ts')
  const due: number[] = []
  for (const name of await engine.listTopics())
    for (let p = 0; p < 1; p++)
      for (const batch of engine.partitions(name)[p].batches) {
        const cursor = new RecordCursor(batch)
        while (cursor.next()) due.push(Number(cursor.headers().find(([n]) => n === 'sluice-deliver-at')?.[1]))
      }
  expect(due.map(d => d - at)).toEqual([30_000])
})
