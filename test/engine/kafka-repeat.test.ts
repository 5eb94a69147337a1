/** Administrative calls to a cluster whose answers are lost. */

import { afterEach, expect, test } from 'vitest'
import type { Engine } from '../../src/engine/engine.ts'
import { openKafkaEngine } from '../../src/engine/kafka.ts'
import { TestServer } from '../server/running-server.ts'
import { LossyProxy } from './lossy-proxy.ts'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function lossy(): Promise<{ proxy: LossyProxy; engine: Engine }> {
  const proxy = await LossyProxy.start()
  cleanups.push(() => proxy.close())
  const server = await TestServer.start({ httpPort: 'off', kafkaAdvertised: `127.0.0.1:${proxy.port}` })
  cleanups.push(() => server[Symbol.asyncDispose]())
  proxy.target = server.running.addresses.kafka!.port
  const engine = await openKafkaEngine({ url: `kafka://127.0.0.1:${proxy.port}`, heartbeatMs: 20 })
  cleanups.push(() => engine.close())
  return { proxy, engine }
}

test('a topic that was created, and the answer lost, is created', async () => {
  const { proxy, engine } = await lossy()
  await engine.listTopics()
  proxy.answersToDrop = 1
  const { partitions } = await engine.createTopic({ name: 't', partitions: 2 })
  expect(proxy.answersToDrop).toBe(0)
  expect(partitions).toHaveLength(2)
  await expect(engine.createTopic({ name: 't' })).rejects.toMatchObject({ code: 'TOPIC_EXISTS' })
})

test('partitions that were added, and the answer lost, are added', async () => {
  const { proxy, engine } = await lossy()
  await engine.createTopic({ name: 't', partitions: 2 })
  proxy.answersToDrop = 1
  await engine.addPartitions('t', 5)
  expect(proxy.answersToDrop).toBe(0)
  expect(await engine.partitionsOf('t')).toBe(5)
})

test('a group that was deleted, and the answer lost, is deleted', async () => {
  const { proxy, engine } = await lossy()
  await engine.createTopic({ name: 't' })
  await engine.commit('g', [{ topic: 't', partition: 0, offset: 0 }])
  proxy.answersToDrop = 1
  await engine.deleteGroup('g')
  expect(proxy.answersToDrop).toBe(0)
  await expect(engine.deleteGroup('g')).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
})

test('a topic that was deleted, and the answer lost, is deleted', async () => {
  const { proxy, engine } = await lossy()
  await engine.createTopic({ name: 't' })
  const learned = engine.deleteTopic('t')
  // the answer behind that to the question for the topic's id
  await new Promise(resolve => setImmediate(resolve))
  await learned.catch(() => {})
  await engine.createTopic({ name: 't' })
  let answers = 0
  const drops = Object.getOwnPropertyDescriptor(proxy, 'answersToDrop')
  Object.defineProperty(proxy, 'answersToDrop', {
    get: () => (++answers === 2 ? 1 : 0),
    set: () => {},
    configurable: true,
  })
  await engine.deleteTopic('t')
  Object.defineProperty(proxy, 'answersToDrop', { ...drops })
  expect(answers).toBeGreaterThan(2)
  expect(await engine.listTopics()).toEqual([])
})
