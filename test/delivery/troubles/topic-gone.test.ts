/** A producer whose topic is deleted, or not known yet. */

import { expect, test } from 'vitest'
import { Producer } from '../../../src/delivery/producer.ts'
import type { ProducerOptions } from '../../../src/delivery/producer-options.ts'
import { SluiceError } from '../../../src/errors.ts'
import { RecordCursor } from '../../../src/record/cursor.ts'
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

/** Four messages of which one is with the engine, which answers that there is no such topic, and the others wait for room. */
async function blocked() {
  const all = await bench({ bufferBytesMax: 1_000 })
  const { engine, producer, settle } = all
  const fates: string[] = []
  const send = (name: string) =>
    producer.send('t', big(900)).then(
      () => fates.push(`${name} ok`),
      (error: SluiceError) => fates.push(`${name} ${error.code}`),
    )
  engine.hold()
  for (const name of ['a', 'b', 'c', 'd']) void send(name)
  await settle()
  engine.failNext('produce', 'UNKNOWN_TOPIC')
  return { ...all, fates, send }
}

test('what waits for room when its topic is deleted is answered by flush, and by close', async () => {
  const { engine, clock, producer, fates } = await blocked()
  await engine.deleteTopic('t')
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
  const { engine, clock, fates, send } = await blocked()
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
  const rung = '_sluice.delay.30s'
  for (const name of ['t', rung]) await engine.createTopic({ name, partitions: 1 })
  const partitionsOf = engine.partitionsOf.bind(engine)
  let isDown = true
  engine.partitionsOf = async name => {
    if (isDown) throw new SluiceError('UNAVAILABLE', 'down')
    return partitionsOf(name)
  }
  const producer = new Producer(
    { onError: () => {}, partitioner: () => 0 },
    { engine, clock, random: () => 0, delays: { prepare: async () => {} } },
  )
  const postedAt = clock.now()
  producer.post('t', { value: 'x', delay: 40_000 })
  await clock.advance(5_000)
  isDown = false
  await clock.advance(4_000)
  const cursor = new RecordCursor(engine.partitions(rung)[0].batches[0])
  expect(cursor.next()).toBe(true)
  const dueAt = cursor.headers().find(([name]) => name === 'sluice-deliver-at')?.[1]
  expect(Number(dueAt)).toBe(postedAt + 40_000)
})
