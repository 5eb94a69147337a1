/** Transactions over the network, where the conformance suite does not reach: answers that are lost, servers that go away. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { Sluice } from '../../src/delivery/sluice.ts'
import type { Engine, TransactionSession } from '../../src/engine/engine.ts'
import { openKafkaEngine } from '../../src/engine/kafka.ts'
import { KafkaLink } from '../../src/engine/kafka-link.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { readAll } from '../conformance/transaction-suite.ts'
import { TestServer } from '../server/running-server.ts'
import { LossyProxy } from './lossy-proxy.ts'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function startServer(flags: Record<string, unknown> = {}): Promise<TestServer> {
  const server = await TestServer.start({ httpPort: 'off', ...flags })
  cleanups.push(() => server[Symbol.asyncDispose]())
  return server
}

async function openEngine(url: string): Promise<Engine> {
  const engine = await openKafkaEngine({ url, heartbeatMs: 20 })
  cleanups.push(() => engine.close())
  return engine
}

function send(session: TransactionSession, baseSequence: number, value: string) {
  const builder = new BatchBuilder()
  builder.append(0, null, value, null)
  const { producerId, epoch: producerEpoch } = session.identity
  return session.produce(
    't',
    0,
    builder.close({ producerId, producerEpoch, baseSequence, transactional: true }),
  )
}

describe.each([
  ['with new epochs (KIP-890)', 2],
  ['of the first version', 1],
])('transactions %s', (_, level) => {
  async function throughProxy(): Promise<{ proxy: LossyProxy; engine: Engine }> {
    vi.spyOn(KafkaLink.prototype, 'feature').mockReturnValue(level)
    const proxy = await LossyProxy.start()
    cleanups.push(() => proxy.close())
    const server = await startServer({ kafkaAdvertised: `127.0.0.1:${proxy.port}` })
    proxy.target = server.running.addresses.kafka!.port
    return { proxy, engine: await openEngine(`kafka://127.0.0.1:${proxy.port}`) }
  }

  test('take each step once, whatever answer is lost', async () => {
    const { proxy, engine } = await throughProxy()
    await engine.createTopic({ name: 't' })
    const session = await engine.initTransactions({ transactionalId: 'job', timeoutMs: 60_000 })
    const offsets = [{ topic: 't', partition: 0, offset: 1, metadata: '' }]
    const losing = async (step: () => Promise<unknown>): Promise<void> => {
      proxy.answersToDrop = 1
      await step()
      expect(proxy.answersToDrop).toBe(0)
    }
    for (const round of [0, 1]) {
      const sequence = level === 2 ? 0 : 2 * round
      await losing(() => send(session, sequence, 'a'))
      await losing(() => send(session, sequence + 1, 'b'))
      await losing(() => session.stageOffsets('g', offsets, null))
      await losing(() => session.end(round === 0))
    }
    expect(await readAll(engine, 't')).toEqual(['a', 'b'])
    expect(await readAll(engine, 't', 'uncommitted')).toEqual(['a', 'b', 'a', 'b'])
    expect(await engine.committed('g', offsets)).toEqual(offsets)
  })

  test('get a new epoch with each end, or keep the one they have', async () => {
    const { engine } = await throughProxy()
    await engine.createTopic({ name: 't' })
    const session = await engine.initTransactions({ transactionalId: 'job', timeoutMs: 60_000 })
    const { producerId, epoch } = session.identity
    await send(session, 0, 'a')
    await session.end(true)
    expect(session.identity).toEqual({ producerId, epoch: level === 2 ? epoch + 1 : epoch })
  })

  test('that are over their time are aborted, and fenced', async () => {
    const { engine } = await throughProxy()
    const mq = new Sluice(engine)
    await mq.createTopic('t')
    const session = await engine.initTransactions({ transactionalId: 'job', timeoutMs: 50 })
    await send(session, 0, 'late')
    await mq.publish('t', { value: 'after' })
    await expect.poll(() => readAll(engine, 't')).toEqual(['after'])
    await expect(session.end(true)).rejects.toMatchObject({ code: 'PRODUCER_FENCED' })
  })

  test('a partition that does not exist makes one fail, and the next goes on', async () => {
    const { engine } = await throughProxy()
    const mq = new Sluice(engine)
    await mq.createTopic('t')
    const failing = mq.transaction(tx => tx.publish('t', { value: 'x', partition: 7 }))
    await expect(failing).rejects.toMatchObject({ code: 'INVALID_PARTITION' })
    const session = await engine.initTransactions({ transactionalId: 'job', timeoutMs: 60_000 })
    await expect(session.produce('nowhere', 0, new Uint8Array(100))).rejects.toMatchObject({
      code: 'UNKNOWN_TOPIC',
    })
    await session.end(false)
    await send(session, 0, 'x')
    await session.end(true)
    expect(await readAll(engine, 't')).toEqual(['x'])
  })
})

test('a transformation goes on exactly once over a server that is started again', {
  timeout: 30_000,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-kafka-transaction-'))
  cleanups.push(() => rmSync(folder, { recursive: true }))
  const data = join(folder, 'data')
  let server = await startServer({ data })
  const kafkaPort = String(server.running.addresses.kafka!.port)
  const mq = new Sluice(await openEngine(`kafka://127.0.0.1:${kafkaPort}`))
  await mq.createTopic('in', { partitions: 2 })
  await mq.createTopic('out')
  const inputs = Array.from({ length: 600 }, (_, index) => String(index))
  const producer = mq.producer({ batchCountMax: 10 })
  await producer.send(
    'in',
    inputs.map(value => ({ key: value, value })),
  )
  let handled = 0
  const { promise: third, resolve: isThird } = Promise.withResolvers<void>()
  const transform = mq.transform(
    { group: 'g', topics: ['in'], partitionBytesMax: 500 },
    async (message, tx) => {
      if (++handled === 200) isThird()
      await tx.publish('out', { value: message.value })
    },
  )
  await third
  await server.running.stop()
  server = await startServer({ data, kafkaPort })
  const outcome = () => readAll(mq.engine, 'out').catch(() => [])
  await expect.poll(async () => (await outcome()).length, { timeout: 20_000 }).toBeGreaterThanOrEqual(600)
  await transform.stop()
  expect((await readAll(mq.engine, 'out')).toSorted()).toEqual(inputs.toSorted())
  await mq.close()
})
