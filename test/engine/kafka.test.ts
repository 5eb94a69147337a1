/**
 * The engine over a Kafka cluster, where the conformance suite does not reach: addresses, a server that is not there, goes away
 * or comes back, many waiting readers, group members over the network, and what is left behind at the end.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { Sluice } from '../../src/delivery/sluice.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { brokersOf, openKafkaEngine } from '../../src/engine/kafka.ts'
import { withoutAborted } from '../../src/engine/kafka-reads.ts'
import { codeOfKafka } from '../../src/errors.ts'
import { open } from '../../src/open.ts'
import { CONTROL, lastOffset, patchChecksum, patchOffset } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { TestServer } from '../server/running-server.ts'
import { LossyProxy, listen } from './lossy-proxy.ts'
import { Holdings, ObservedMember } from './observed-member.ts'

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

async function startServer(flags: Record<string, unknown> = {}): Promise<TestServer> {
  const server = await TestServer.start({ httpPort: 'off', ...flags })
  cleanups.push(() => server[Symbol.asyncDispose]())
  return server
}

const urlOf = (server: TestServer): string => server.running.addresses.kafka!.url

async function openEngine(url: string): Promise<Engine> {
  const engine = await openKafkaEngine({ url, heartbeatMs: 20 })
  cleanups.push(() => engine.close())
  return engine
}

async function startProxy(): Promise<LossyProxy> {
  const proxy = await LossyProxy.start()
  cleanups.push(() => proxy.close())
  return proxy
}

function newDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'sluice-kafka-engine-'))
  cleanups.push(() => rmSync(path, { recursive: true }))
  return join(path, 'data')
}

function batch(...values: readonly string[]): Uint8Array {
  const builder = new BatchBuilder()
  for (const value of values) builder.append(0, null, value, null)
  return builder.close()
}

describe('addresses', () => {
  test.each([
    ['kafka://h', [{ host: 'h', port: 9092 }]],
    ['kafka://h:1', [{ host: 'h', port: 1 }]],
    ['KAFKA://h:1/', [{ host: 'h', port: 1 }]],
    ['kafka://[::1]:1', [{ host: '::1', port: 1 }]],
    [
      'kafka://a:1,b,c:3',
      [
        { host: 'a', port: 1 },
        { host: 'b', port: 9092 },
        { host: 'c', port: 3 },
      ],
    ],
  ])('%s', (url, brokers) => {
    expect(brokersOf(url)).toEqual(brokers)
  })

  test.each([
    'kafka:',
    'kafka://',
    'kafka://:1',
    'kafka://h:0',
    'kafka://h:99999',
    'kafka://h:1,',
    'kafka://h/topic',
    'kafka://h?acks=1',
    'kafka://user:secret@h',
  ])('%s is refused', async url => {
    await expect(open(url)).rejects.toMatchObject({ code: 'INVALID_URL' })
  })

  test('options that are the server’s to say are refused', async () => {
    const { code } = await open({ url: 'kafka://h', flush: 'os' }).catch(error => error)
    expect(code).toBe('UNSUPPORTED')
  })
})

describe('a server that does not answer', () => {
  test('is named, at once', async () => {
    const server = await startServer()
    const url = urlOf(server)
    await server.running.stop()
    await expect(open(url)).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringMatching(/^no Kafka server answers: 127\.0\.0\.1:\d+: connection refused$/),
    })
  })

  test('one of several may be missing', async () => {
    const server = await startServer()
    const gone = await startServer()
    const urls = `${urlOf(gone)},${urlOf(server).replace('kafka://', '')}`
    await gone.running.stop()
    const engine = await openEngine(urls)
    expect(await engine.listTopics()).toEqual([])
  })

  test('something that is no Kafka server is refused', async () => {
    const { port, close } = await listen(socket => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))
    cleanups.push(close)
    await expect(open(`kafka://127.0.0.1:${port}`)).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

describe('a server that is started again', () => {
  test('a producer goes on, and what was acknowledged is there, once', async () => {
    const data = newDirectory()
    let server = await startServer({ data })
    const port = server.running.addresses.kafka!.port
    const mq = new Sluice(await openEngine(urlOf(server)))
    await mq.createTopic('t')
    const producer = mq.producer({ idempotent: true, batchCountMax: 10 })
    const acknowledged: string[] = []
    let next = 0
    const publish = async (until: number): Promise<void> => {
      while (next < until) {
        const value = String(next++)
        await producer.send('t', { value })
        acknowledged.push(value)
      }
    }
    await publish(100)
    const going = Promise.all([publish(400), publish(400), publish(400)])
    await server.running.stop()
    server = await startServer({ data, kafkaPort: String(port) })
    await going
    const seen: string[] = []
    for await (const message of mq.consumer({ topics: ['t'] })) {
      if (seen.push(message.text()) === 400) break
    }
    expect(seen.toSorted()).toEqual(acknowledged.toSorted())
    expect(await mq.offsetFor('t', 0, 'latest')).toBe(400)
    await mq.close()
  })

  test('a group of consumers goes on behind its commits', async () => {
    const data = newDirectory()
    let server = await startServer({ data })
    const port = server.running.addresses.kafka!.port
    const mq = new Sluice(await openEngine(urlOf(server)))
    await mq.createTopic('t', { partitions: 4 })
    const counts = new Map<string, number>()
    const { promise: first, resolve: half } = Promise.withResolvers<void>()
    const { promise: all, resolve: done } = Promise.withResolvers<void>()
    const members = [1, 2].map(() => {
      const consumer = mq.consumer({ topics: ['t'], group: 'g', autoCommit: { everyMs: 5 } })
      consumer.on('error', () => {}) // while the server is away
      return consumer
    })
    const running = members.map(member =>
      member.run(message => {
        counts.set(message.text(), (counts.get(message.text()) ?? 0) + 1)
        if (counts.size === 200) half()
        if (counts.size === 400) done()
      }),
    )
    const send = (from: number): Promise<unknown> =>
      mq.publish(
        't',
        Array.from({ length: 200 }, (_, index) => ({
          key: String(from + index),
          value: String(from + index),
        })),
      )
    await send(0)
    await first
    await server.running.stop()
    server = await startServer({ data, kafkaPort: String(port) })
    await send(200)
    await all
    await Promise.all(members.map(member => member.stop()))
    await Promise.all(running)
    expect([...counts.keys()].toSorted()).toEqual(Array.from({ length: 400 }, (_, i) => String(i)).toSorted())
    expect(await mq.describeGroup('g')).toMatchObject({ state: 'empty', lag: 0 })
    await mq.close()
  })

  test('a member that the server has forgotten hears of it with its next commit, and joins again', async () => {
    const data = newDirectory()
    const server = await startServer({ data })
    const port = String(server.running.addresses.kafka!.port)
    const engine = await openKafkaEngine({ url: urlOf(server), heartbeatMs: 60_000 })
    cleanups.push(() => engine.close())
    await engine.createTopic({ name: 't' })
    const ann = await ObservedMember.join(engine, 'ann', new Holdings(), { sessionTimeoutMs: 300_000 })
    await expect.poll(() => ann.news()).toEqual(['assigned t/0'])
    await server.running.stop()
    await startServer({ data, kafkaPort: port })
    const offsets = [{ topic: 't', partition: 0, offset: 0 }]
    await expect(ann.member.commit(offsets)).rejects.toMatchObject({ code: 'ILLEGAL_GENERATION' })
    await expect.poll(() => ann.told).toEqual(['lost t/0', 'assigned t/0'])
    await ann.member.commit(offsets)
  })

  test('a batch without a sequence whose answer was lost is not sent again: nobody knows whether it was stored', async () => {
    const proxy = await startProxy()
    const server = await startServer({ kafkaAdvertised: `127.0.0.1:${proxy.port}` })
    proxy.target = server.running.addresses.kafka!.port
    const engine = await openEngine(`kafka://127.0.0.1:${proxy.port}`)
    await engine.createTopic({ name: 't' })
    await engine.produce('t', 0, batch('a'))
    proxy.answersToDrop = 1
    await expect(engine.produce('t', 0, batch('b'))).rejects.toMatchObject({ code: 'TIMED_OUT' })
    expect(await engine.offsetFor('t', 0, 'latest')).toBe(2)

    const { producerId, epoch } = await engine.initProducer()
    const builder = new BatchBuilder()
    builder.append(0, null, 'c', null)
    const sequenced = builder.close({ producerId, producerEpoch: epoch, baseSequence: 0 })
    await engine.produce('t', 0, batch('d')) // the link is there again
    proxy.answersToDrop = 1
    expect(await engine.produce('t', 0, sequenced)).toMatchObject({ baseOffset: 3 })
    expect(proxy.answersToDrop).toBe(0)
    expect(await engine.offsetFor('t', 0, 'latest')).toBe(4)
  })
})

describe('reading', () => {
  test('readers that wait do not stand in each other’s way', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    const topics = Array.from({ length: 12 }, (_, index) => `t${index}`)
    for (const name of topics) await engine.createTopic({ name })
    const reading = topics.map(topic =>
      engine.fetch([{ topic, partition: 0, offset: 0 }], { waitMs: 60_000 }),
    )
    await Promise.all(topics.map(topic => engine.produce(topic, 0, batch(topic))))
    const fetched = await Promise.all(reading)
    expect(fetched.map(([{ topic, endOffset, batches }]) => [topic, endOffset, batches.length > 0])).toEqual(
      topics.map(topic => [topic, 1, true]),
    )
  })

  test('a signal ends the wait at once, and what comes later is not lost', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    await engine.createTopic({ name: 't', partitions: 2 })
    const wanted = [0, 1].map(partition => ({ topic: 't', partition, offset: 0 }))
    const abort = new AbortController()
    const waiting = engine.fetch(wanted, { waitMs: 60_000, signal: abort.signal })
    await engine.listTopics() // by now the read is on its way
    abort.abort()
    expect((await waiting).map(({ batches }) => batches.length)).toEqual([0, 0])
    await engine.produce('t', 1, batch('x'))
    const [first, second] = await engine.fetch(wanted, { waitMs: 60_000 })
    expect([first.batches.length, second.batches.length > 0]).toEqual([0, true])
  })

  test('an unknown topic, an unknown partition and an offset that does not exist are each their entry’s error', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    await engine.createTopic({ name: 't' })
    await engine.produce('t', 0, batch('x'))
    const fetched = await engine.fetch([
      { topic: 'nowhere', partition: 0, offset: 0 },
      { topic: 't', partition: 7, offset: 0 },
      { topic: 't', partition: 0, offset: 9 },
    ])
    expect(fetched.map(({ error }) => error?.code)).toEqual([
      'UNKNOWN_TOPIC',
      'UNKNOWN_TOPIC',
      'OFFSET_OUT_OF_RANGE',
    ])
    expect(await engine.fetch([])).toEqual([])
  })

  test('records of aborted transactions are left out, their offsets are not', () => {
    // producer 7 commits 0, aborts 2 and 4, commits 6; producer 8 has an open transaction in between; 3 is of nobody's
    const batches = Buffer.concat([
      part(0, 'committed', 7),
      part(1, '', 7, CONTROL),
      part(2, 'aborted', 7),
      part(3, 'plain'),
      part(4, 'aborted', 7),
      part(5, 'other', 8),
      part(6, '', 7, CONTROL),
      part(7, 'committed again', 7),
    ])
    expect(recordsOf(withoutAborted(batches, [{ producerId: 7, firstOffset: 2 }]))).toEqual([
      [0, 'committed'],
      [3, 'plain'],
      [5, 'other'],
      [7, 'committed again'],
    ])
    expect(withoutAborted(batches, [])).toBe(batches)
    const onlyAborted = part(2, 'aborted', 7)
    const left = withoutAborted(onlyAborted, [{ producerId: 7, firstOffset: 0 }])
    expect([recordsOf(left), lastOffset(left, 0)]).toEqual([[], 2])
  })

  test('a topic that is made anew is read from its own beginning', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    for (const value of ['old', 'new']) {
      await engine.createTopic({ name: 't' })
      await engine.produce('t', 0, batch(value))
      const [{ batches }] = await engine.fetch([{ topic: 't', partition: 0, offset: 0 }])
      expect(Buffer.from(batches).toString()).toContain(value)
      await engine.deleteTopic('t')
    }
  })
})

/** A batch of one record at an offset, of a producer's transaction if it names one. */
function part(offset: number, value: string, producerId?: number, attributes = 0): Buffer {
  const builder = new BatchBuilder()
  builder.append(0, null, value, null)
  const sequence = { producerEpoch: 0, baseSequence: offset, transactional: true }
  const bytes = Buffer.from(builder.close(producerId === undefined ? {} : { producerId, ...sequence }))
  bytes.writeInt16BE(bytes.readInt16BE(21) | attributes, 21)
  patchOffset(bytes, 0, offset, 0)
  patchChecksum(bytes, 0)
  return bytes
}

function recordsOf(batches: Buffer): [number, string][] {
  const cursor = new RecordCursor(batches)
  const found: [number, string][] = []
  while (cursor.next()) {
    const { bytes, offset, valueStart, valueBytes } = cursor
    found.push([offset, bytes.toString('utf8', valueStart, valueStart + valueBytes)])
  }
  return found
}

describe('group members', () => {
  test.each(['range', 'roundrobin', 'sticky', 'cooperative-sticky'] as const)(
    '%s: partitions go from hand to hand, one holder at a time, also with a member in the server’s process',
    async assignor => {
      const server = await startServer()
      const engine = await openEngine(urlOf(server))
      await engine.createTopic({ name: 't', partitions: 6 })
      const holdings = new Holdings()
      const options = { assignors: [assignor] }
      const ann = await ObservedMember.join(engine, 'ann', holdings, options)
      await expect.poll(() => ann.partitions.length).toBe(6)
      const bob = await ObservedMember.join(engine, 'bob', holdings, options)
      await expect.poll(() => [ann.partitions.length, bob.partitions.length]).toEqual([3, 3])
      const local = await ObservedMember.join(server.running.sluice.engine, 'local', holdings, options)
      await expect.poll(() => [ann, bob, local].map(({ partitions }) => partitions.length)).toEqual([2, 2, 2])
      await ann.member.leave()
      await expect.poll(() => [bob.partitions.length, local.partitions.length]).toEqual([3, 3])
      await Promise.all([bob.member.leave(), local.member.leave()])
      expect(holdings).toMatchObject({ overlaps: [], held: [] })
    },
  )

  test('a static member that comes back takes its own place, and fences its former self', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    await engine.createTopic({ name: 't', partitions: 2 })
    const options = { instanceId: 'one' }
    const before = await ObservedMember.join(engine, 'before', new Holdings(), options)
    await expect.poll(() => before.partitions.length).toBe(2)
    const after = await ObservedMember.join(engine, 'after', new Holdings(), options)
    await expect.poll(() => after.partitions.length).toBe(2)
    await expect.poll(() => before.failure?.code).toBe('FENCED_MEMBER')
  })

  test('commits without a membership are refused while there are members, and of one that was replaced', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    await engine.createTopic({ name: 't' })
    const ann = await ObservedMember.join(engine, 'ann', new Holdings())
    const offsets = [{ topic: 't', partition: 0, offset: 0 }]
    await expect(engine.commit('g', offsets)).rejects.toMatchObject({ code: 'UNKNOWN_MEMBER' })
    await expect(engine.deleteGroup('g')).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' })
    await ann.member.commit([{ ...offsets[0], metadata: 'm' }])
    expect(await engine.committed('g')).toEqual([{ ...offsets[0], metadata: 'm' }])
    expect(await engine.describeGroup('g')).toMatchObject({
      members: [{ memberId: ann.member.memberId, assignment: [{ topic: 't', partition: 0 }] }],
    })
    await ann.member.leave()
    await engine.commit('g', [])
    await engine.deleteGroup('g')
    await expect(engine.deleteGroup('g')).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
  })

  test('partitions that are added are given out', async () => {
    const engine = await openEngine(urlOf(await startServer()))
    await engine.createTopic({ name: 't' })
    const ann = await ObservedMember.join(engine, 'ann', new Holdings())
    await expect.poll(() => ann.partitions).toEqual(['t/0'])
    await engine.addPartitions('t', 3)
    await expect.poll(() => ann.partitions).toEqual(['t/0', 't/1', 't/2'])
  })
})

test('a topic has its configuration, with its sources, and takes changes', async () => {
  const engine = await openEngine(urlOf(await startServer()))
  const described = await engine.createTopic({ name: 't', config: { 'retention.ms': '5000' } })
  const entryOf = (config: typeof described.config, key: string) => config.find(({ name }) => name === key)
  expect(described.id).toHaveLength(22)
  expect(entryOf(described.config, 'retention.ms')).toMatchObject({ value: '5000', source: 'topic' })
  await engine.alterTopic('t', { 'retention.ms': null, 'segment.bytes': '1048576' })
  const { config } = await engine.describeTopic('t')
  expect(entryOf(config, 'retention.ms')?.source).toBe('default')
  expect(entryOf(config, 'segment.bytes')).toMatchObject({ value: '1048576', source: 'topic' })
  await expect(engine.alterTopic('t', { nonsense: '1' })).rejects.toMatchObject({ code: 'INVALID_CONFIG' })
  await expect(engine.alterTopic('nowhere', {})).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
  await expect(engine.createTopic({ name: 'u', partitions: 0 })).rejects.toMatchObject({
    code: 'INVALID_PARTITIONS',
  })
  await expect(engine.addPartitions('t', 1)).rejects.toMatchObject({ code: 'INVALID_PARTITIONS' })
  await expect(engine.offsetFor('t', 0, 7)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' })
})

test('after close no socket is left, and what was under way ends with CLOSED', async () => {
  const server = await startServer()
  const socketsBefore = openSockets()
  const engine = await openKafkaEngine({ url: urlOf(server) })
  await engine.createTopic({ name: 't' })
  const waiting = engine.fetch([{ topic: 't', partition: 0, offset: 0 }], { waitMs: 60_000 })
  const refused = expect(waiting).rejects.toMatchObject({ code: 'CLOSED' })
  await ObservedMember.join(engine, 'ann', new Holdings())
  expect(openSockets()).toBeGreaterThan(socketsBefore)
  await engine.close()
  await engine.close()
  await refused
  await expect(engine.listTopics()).rejects.toMatchObject({ code: 'CLOSED' })
  await expect.poll(openSockets).toBe(socketsBefore)
})

test('closing does not wait for a server that does not answer', async () => {
  const proxy = await startProxy()
  const server = await startServer({ kafkaAdvertised: `127.0.0.1:${proxy.port}` })
  proxy.target = server.running.addresses.kafka!.port
  const engine = await openKafkaEngine({ url: `kafka://127.0.0.1:${proxy.port}` })
  await engine.createTopic({ name: 't' })
  proxy.isSilent = true
  const calls = [engine.listTopics(), engine.produce('t', 0, batch('x')), engine.describeGroup('g')]
  const refused = Promise.all(calls.map(call => expect(call).rejects.toMatchObject({ code: 'CLOSED' })))
  await engine.close()
  await refused
})

const openSockets = (): number =>
  process.getActiveResourcesInfo().filter(resource => resource === 'TCPSocketWrap').length

test('error codes of Kafka are the names of the error table', () => {
  expect([1, 3, 6, 10, 22, 25, 36, 45, 56, 68, 69, 79, 82, 4711].map(codeOfKafka)).toEqual([
    'OFFSET_OUT_OF_RANGE',
    'UNKNOWN_TOPIC',
    'UNAVAILABLE',
    'MESSAGE_TOO_LARGE',
    'ILLEGAL_GENERATION',
    'UNKNOWN_MEMBER',
    'TOPIC_EXISTS',
    'OUT_OF_ORDER_SEQUENCE',
    'STORAGE_FAILED',
    'GROUP_NOT_EMPTY',
    'UNKNOWN_GROUP',
    'MEMBER_ID_REQUIRED',
    'FENCED_MEMBER',
    'INTERNAL',
  ])
})
