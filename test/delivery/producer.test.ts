import { describe, expect, it, onTestFinished, vi } from 'vitest'
import type { OutgoingMessage } from '../../src/delivery/outgoing.ts'
import { Producer } from '../../src/delivery/producer.ts'
import type { FailedPosts, ProducerOptions } from '../../src/delivery/producer-options.ts'
import { PublishError } from '../../src/delivery/published.ts'
import { topic } from '../../src/delivery/topic.ts'
import type { SluiceError } from '../../src/errors.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { FakeEngine } from './fake-engine.ts'

interface Bench {
  readonly engine: FakeEngine
  readonly clock: VirtualClock
  readonly producer: Producer
  /** What went to onError. */
  readonly reported: { code: string; count: number; topic: string }[]
  /** Runs everything that needs no time. */
  settle(): Promise<void>
}

/** A producer over a fake engine with topic `t`, already known to it. */
async function bench(options: ProducerOptions = {}, partitions = 1, config = {}): Promise<Bench> {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock, autoCreateTopics: false })
  await engine.createTopic({ name: 't', partitions, config })
  const reported: Bench['reported'] = []
  const onError = (error: SluiceError, { count, topic }: FailedPosts) =>
    void reported.push({ code: error.code, count, topic })
  const producer = new Producer(
    { onError, ...options },
    { engine, clock, random: () => 0, autoCreateTopics: true, delays: { prepare: async () => {} } },
  )
  void producer.send('t', []) // makes the topic known
  await clock.runDeferred()
  return { engine, clock, producer, reported, settle: () => clock.runDeferred() }
}

const text = (value: string): OutgoingMessage => ({ value })
const texts = (...values: string[]): OutgoingMessage[] => values.map(text)
const big = (bytes: number): OutgoingMessage => ({ value: Buffer.alloc(bytes, 65) })
const code = (expected: string) => expect.objectContaining({ code: expected })

describe('send', () => {
  it('resolves with the place of the message', async () => {
    const { producer, clock, settle } = await bench()
    const sent = [producer.send('t', text('a')), producer.send('t', { value: 'b', timestamp: new Date(5) })]
    await settle()
    expect(await Promise.all(sent)).toEqual([
      { topic: 't', partition: 0, offset: 0, timestamp: clock.now() },
      { topic: 't', partition: 0, offset: 1, timestamp: 5 },
    ])
  })

  it('takes the time of the log where the topic says so', async () => {
    const { producer, engine, settle } = await bench()
    engine.appendTime = 777
    const one = producer.send('t', text('a'))
    const many = producer.send('t', texts('b'))
    await settle()
    expect((await one).timestamp).toBe(777)
    expect((await many).at(0).timestamp).toBe(777)
  })

  it('stores key, value, headers and timestamp', async () => {
    const { producer, engine, settle } = await bench()
    void producer.send('t', {
      key: 'k',
      value: 'v',
      headers: { a: 'x', b: null, c: undefined },
      timestamp: 9,
    })
    void producer.send('t', {
      value: '',
      headers: [
        ['a', '1'],
        ['a', '2'],
      ],
    })
    await settle()
    expect(engine.values('t')).toEqual(['v', ''])
  })

  it('shares one batch among all who send in the same turn', async () => {
    const { producer, engine, settle } = await bench()
    const sent = Array.from({ length: 10 }, (_, index) => producer.send('t', text(String(index))))
    await settle()
    await Promise.all(sent)
    expect(engine.produced.map(({ count }) => count)).toEqual([10])
  })

  it('keeps filling the next batch while one is in flight, so that publishers who await each message share flushes', async () => {
    const { producer, engine, settle } = await bench()
    const loops = Array.from({ length: 10 }, async () => {
      for (let index = 0; index < 5; index++) await producer.send('t', text('x'))
    })
    await settle()
    await Promise.all(loops)
    expect(engine.produced.map(({ count }) => count)).toEqual([10, 10, 10, 10, 10])

    engine.hold()
    for (const value of 'abc') {
      void producer.send('t', text(value))
      await settle()
    }
    engine.release()
    await settle()
    expect(engine.produced.slice(5).map(({ count }) => count)).toEqual([1, 2])
  })

  it('waits for linger, from the first message on', async () => {
    const { producer, engine, clock } = await bench({ lingerMs: 5 })
    const first = producer.send('t', text('a'))
    await clock.advance(3)
    const second = producer.send('t', text('b'))
    await clock.advance(1)
    expect(engine.produced).toHaveLength(0)
    await clock.advance(1)
    expect(engine.produced.map(({ count }) => count)).toEqual([2])
    await Promise.all([first, second])
  })

  it('closes a batch by size and by count', async () => {
    const sized = await bench({ batchBytesMax: 1_000, lingerMs: 1_000 })
    for (let index = 0; index < 10; index++) sized.producer.post('t', big(300))
    await sized.settle()
    expect(sized.engine.produced.map(({ count }) => count)).toEqual([2, 2, 2, 2])
    expect(Math.max(...sized.engine.produced.map(({ bytes }) => bytes))).toBeLessThanOrEqual(1_000)

    const counted = await bench({ batchCountMax: 3, lingerMs: 1_000 })
    for (let index = 0; index < 7; index++) counted.producer.post('t', text('x'))
    await counted.settle()
    expect(counted.engine.produced.map(({ count }) => count)).toEqual([3, 3])
  })

  it('sends a message above the batch size alone', async () => {
    const { producer, engine, settle } = await bench({ batchBytesMax: 1_000 })
    void producer.send('t', [big(10), big(5_000), big(10)])
    await settle()
    expect(engine.produced.map(({ count }) => count)).toEqual([1, 1, 1])
  })

  it('never makes a batch above the limit of the topic', async () => {
    const { producer, engine, settle } = await bench({}, 1, { 'max.message.bytes': '1000' })
    void producer.send(
      't',
      Array.from({ length: 10 }, () => big(300)),
    )
    await settle()
    expect(engine.produced).toHaveLength(5)
  })

  it('passes compression and acknowledgement on', async () => {
    const { producer, engine, settle } = await bench({ compression: 'gzip', acks: 'none' })
    const sent = producer.send('t', big(10_000))
    await settle()
    expect(engine.produced[0].bytes).toBeLessThan(500)
    expect(engine.produced[0].acks).toBe('none')
    expect((await sent).offset).toBe(-1)
  })
})

describe('choosing a partition', () => {
  it('keeps a key in one place, the one of every Kafka client', async () => {
    const { producer, engine, settle } = await bench({}, 10)
    void producer.send('t', [
      { key: 'foobar', value: 'a' },
      { key: Buffer.from('foobar'), value: 'b' },
    ])
    await settle()
    expect(engine.values('t', (-790332482 & 0x7fffffff) % 10)).toEqual(['a', 'b'])
  })

  it('stays on a partition until its batch closes, then takes the next', async () => {
    const { producer, engine, settle } = await bench({}, 3)
    for (let turn = 0; turn < 6; turn++) {
      producer.post('t', texts('a', 'b'))
      await settle()
    }
    expect(engine.produced.map(({ partition, count }) => [partition, count])).toEqual(
      [0, 1, 2, 0, 1, 2].map(p => [p, 2]),
    )
  })

  it('does as the message says, and refuses a partition that is not there', async () => {
    const { producer, engine, settle } = await bench({}, 2)
    void producer.send('t', { value: 'x', key: 'k', partition: 1 })
    const refused = [2, -1, 0.5].map(partition => producer.send('t', { value: 'x', partition }))
    for (const promise of refused) await expect(promise).rejects.toMatchObject({ code: 'INVALID_PARTITION' })
    await settle()
    expect(engine.values('t', 1)).toEqual(['x'])
  })

  it('learns of partitions that were added', async () => {
    const { producer, engine, clock, settle } = await bench()
    await engine.addPartitions('t', 2)
    await expect(producer.send('t', { value: 'x', partition: 1 })).rejects.toMatchObject({
      code: 'INVALID_PARTITION',
    })
    await settle()
    const sent = producer.send('t', { value: 'x', partition: 1 })
    await settle()
    expect(await sent).toMatchObject({ partition: 1 })

    await engine.addPartitions('t', 3)
    await clock.advance(61_000)
    for (let turn = 0; turn < 3; turn++) {
      producer.post('t', text('y'))
      await settle()
    }
    expect(engine.produced.some(({ partition }) => partition === 2)).toBe(true)
  })

  it('asks a partitioner of the user', async () => {
    const partitioner = vi.fn((_topic, key: Buffer | null, value: unknown) =>
      key === null ? Number(value) : 2,
    )
    const { producer, engine, settle } = await bench({ partitioner }, 3)
    void producer.send('t', { value: 1 })
    void producer.send('t', { key: 'k', value: 0 })
    await settle()
    expect(engine.values('t', 1)).toEqual(['1'])
    expect(partitioner).toHaveBeenLastCalledWith('t', Buffer.from('k'), 0, 3)
    await expect(producer.send('t', { value: 3 })).rejects.toMatchObject({ code: 'INVALID_PARTITION' })
    partitioner.mockImplementation(() => {
      throw new Error('no idea')
    })
    await expect(producer.send('t', { value: 0 })).rejects.toThrow('no idea')
  })
})

describe('send with an array', () => {
  it('resolves once, and knows the place of each message', async () => {
    const { producer, settle, clock } = await bench({ batchCountMax: 4 }, 3)
    const messages = Array.from({ length: 30 }, (_, index) => ({
      key: index % 3 === 0 ? null : `key-${index % 5}`,
      value: String(index),
      timestamp: index === 7 ? 7_000 : undefined,
    }))
    const sending = producer.send('t', messages)
    await settle()
    const published = await sending
    expect(published.count).toBe(30)
    const places = [...published]
    expect(new Set(places.map(({ partition, offset }) => `${partition}/${offset}`)).size).toBe(30)
    expect(places[7].timestamp).toBe(7_000)
    expect(places[8].timestamp).toBe(clock.now())
    expect(() => published.at(30)).toThrow(code('INVALID_ARGUMENT'))
  })

  it('tells offsets that are true', async () => {
    const { producer, engine, settle } = await bench({ batchCountMax: 3 }, 2)
    const sending = producer.send(
      't',
      Array.from({ length: 20 }, (_, index) => ({ key: `k${index}`, value: String(index) })),
    )
    void producer.send('t', { key: 'k1', value: 'in between' })
    await settle()
    const published = await sending
    for (let index = 0; index < 20; index++) {
      const { partition, offset } = published.at(index)
      expect(engine.values('t', partition)[offset]).toBe(String(index))
    }
  })

  it('may be empty', async () => {
    const { producer, engine } = await bench({ bufferBytesMax: 100, whenFull: 'reject' })
    engine.hold()
    producer.post('t', big(100)) // not even a full buffer is in its way
    expect((await producer.send('t', [])).count).toBe(0)
  })

  it('says of each message whether it was accepted', async () => {
    const { producer, engine, settle } = await bench({ batchCountMax: 2, retries: 0 })
    engine.hold()
    const wrong = { value: undefined as never }
    const sending = producer
      .send('t', [text('a'), text('b'), text('c'), wrong, text('d'), text('e')])
      .catch((caught: PublishError) => caught)
    engine.releaseOne()
    await settle()
    engine.failNext('produce', 'DISK_FULL')
    engine.release()
    await settle()
    const error = (await sending) as PublishError
    expect(error).toBeInstanceOf(PublishError)
    expect(error.code).toBe('DISK_FULL')
    expect(error.message).toMatch(/^3 of 6 messages to t were not accepted; the first: /)
    expect(error.acceptedCount).toBe(3)
    expect([...error.failures()].map(({ index, error: { code } }) => [index, code])).toEqual([
      [2, 'DISK_FULL'],
      [3, 'INVALID_ARGUMENT'],
      [4, 'DISK_FULL'],
    ])
    expect([0, 1, 2, 5].map(index => error.at(index)?.offset)).toEqual([0, 1, undefined, 2])
    expect(engine.values('t')).toEqual(['a', 'b', 'e'])
  })

  it('places what there is room for and waits with the rest', async () => {
    const { producer, engine, settle } = await bench({ batchBytesMax: 1_000, bufferBytesMax: 2_000 })
    engine.hold()
    const sending = producer.send(
      't',
      Array.from({ length: 20 }, () => big(300)),
    )
    await settle()
    expect(producer.bufferedBytes).toBeLessThan(2_500)
    engine.release()
    await settle()
    expect((await sending).count).toBe(20)
    expect(producer.bufferedBytes).toBe(0)
  })
})

describe('a message that is wrong', () => {
  it('is refused alone', async () => {
    const { producer, engine, settle } = await bench({}, 1, { 'max.message.bytes': '1000' })
    const wrong = [
      [big(1_001), 'MESSAGE_TOO_LARGE'],
      [{ value: 'x', timestamp: Number.NaN }, 'INVALID_TIMESTAMP'],
      [{ value: 'x', timestamp: -1 }, 'INVALID_TIMESTAMP'],
      [{ value: 'x', headers: { a: 1 } }, 'INVALID_ARGUMENT'],
      [undefined, 'INVALID_ARGUMENT'],
    ] as const
    const good = producer.send('t', text('good'))
    for (const [message, expected] of wrong) {
      await expect(producer.send('t', message as never)).rejects.toMatchObject({ code: expected })
    }
    await settle()
    await good
    expect(engine.values('t')).toEqual(['good'])
  })

  it('names the size and the limit', async () => {
    const { producer } = await bench({}, 1, { 'max.message.bytes': '1000' })
    await expect(producer.send('t', big(2_000))).rejects.toMatchObject({
      message: expect.stringMatching(/a message of \d+ bytes is over the limit of 1000/),
      detail: { topic: 't', bytesMax: 1_000 },
    })
  })

  it('is measured in bytes, not in characters', async () => {
    const { producer, engine, settle } = await bench({}, 1, { 'max.message.bytes': '1000' })
    void producer.send('t', text('x'.repeat(900)))
    await expect(producer.send('t', text('ü'.repeat(500)))).rejects.toMatchObject({
      code: 'MESSAGE_TOO_LARGE',
    })
    await settle()
    expect(engine.values('t')).toHaveLength(1)
  })

  it('goes to a topic that does not exist', async () => {
    const { producer, settle, engine } = await bench()
    const refused = producer.send('nowhere', text('x'))
    refused.catch(() => {})
    await settle()
    await expect(refused).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    await engine.createTopic({ name: 'nowhere' })
    const sent = producer.send('nowhere', text('x'))
    await settle()
    expect((await sent).offset).toBe(0)
  })
})

describe('post', () => {
  it('publishes without a promise', async () => {
    const { producer, engine, settle, reported } = await bench()
    expect(producer.post('t', text('a'))).toBe(true)
    expect(producer.post('t', texts('b', 'c'))).toBe(true)
    await settle()
    expect(engine.values('t')).toEqual(['a', 'b', 'c'])
    expect(reported).toEqual([])
  })

  it('keeps order with what is sent, also before the topic is known', async () => {
    const { producer, engine, settle } = await bench()
    await engine.createTopic({ name: 'new' })
    const value = Buffer.from('2')
    void producer.send('new', text('1'))
    producer.post('new', { value })
    value[0] = 120 // the message was copied
    void producer.send('new', text('3'))
    producer.post('new', texts('4', '5'))
    await settle()
    expect(engine.values('new')).toEqual(['1', '2', '3', '4', '5'])
  })

  it('says when to wait, and ready says when to go on', async () => {
    const { producer, engine, settle } = await bench({ bufferBytesMax: 1_000 })
    engine.hold()
    expect(producer.post('t', big(600))).toBe(true)
    expect(producer.post('t', big(600))).toBe(false)
    let isReady = false
    const ready = producer.ready().then(() => {
      isReady = true
    })
    await settle()
    expect(isReady).toBe(false)
    engine.release()
    await settle()
    await ready
    expect(producer.post('t', big(10))).toBe(true)
  })

  it('drops past twice the buffer, and reports it', async () => {
    const { producer, engine, settle, reported } = await bench({ bufferBytesMax: 1_000 })
    engine.hold()
    producer.post(
      't',
      Array.from({ length: 10 }, () => big(400)),
    )
    expect(producer.post('t', text('x'))).toBe(false)
    expect(reported).toEqual([
      { code: 'BUFFER_FULL', count: 5, topic: 't' },
      { code: 'BUFFER_FULL', count: 1, topic: 't' },
    ])
    engine.release()
    await settle()
    expect(engine.values('t')).toHaveLength(5)
  })

  it('drops past the same bound while the topic is not known', async () => {
    const { producer, engine, settle, reported } = await bench({ bufferBytesMax: 1_000 })
    await engine.createTopic({ name: 'new' })
    for (let index = 0; index < 10; index++) producer.post('new', big(400))
    await settle()
    expect(reported.map(({ code }) => code)).toEqual(Array(5).fill('BUFFER_FULL'))
    expect(engine.values('new')).toHaveLength(5)
  })

  it('reports every failure to onError, with how many messages it cost', async () => {
    const { producer, engine, settle, reported } = await bench({ retries: 0 })
    engine.failNext('produce', 'STORAGE_FAILED')
    producer.post('t', texts('a', 'b'))
    producer.post('t', { value: undefined as never })
    producer.post('nowhere', text('x'))
    await settle()
    expect(reported).toEqual([
      { code: 'INVALID_ARGUMENT', count: 1, topic: 't' },
      { code: 'UNKNOWN_TOPIC', count: 1, topic: 'nowhere' },
      { code: 'STORAGE_FAILED', count: 2, topic: 't' },
    ])
  })

  it('warns by itself without an onError, at most once a second', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    onTestFinished(() => warn.mockRestore())
    const { producer, clock } = await bench({ onError: undefined })
    for (let index = 0; index < 100; index++) producer.post('t', { value: undefined as never })
    expect(warn).toHaveBeenCalledTimes(1)
    await clock.advance(1_000)
    expect(warn).toHaveBeenCalledTimes(2)
    expect(warn.mock.lastCall![0]).toMatch(/^99 posted messages were not accepted/)
  })

  it('survives an onError that throws', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    onTestFinished(() => warn.mockRestore())
    const onError = () => {
      throw new Error('oops')
    }
    const { producer, engine, settle } = await bench({ onError })
    producer.post('t', [{ value: undefined as never }, text('a')])
    await settle()
    expect(engine.values('t')).toEqual(['a'])
    expect(warn).toHaveBeenCalledOnce()
  })
})

describe('back-pressure', () => {
  it('makes send wait its turn', async () => {
    const { producer, engine, settle } = await bench({ bufferBytesMax: 1_000, batchBytesMax: 500 })
    engine.hold()
    const order: number[] = []
    const sent = Array.from({ length: 10 }, (_, index) =>
      producer.send('t', big(400)).then(() => order.push(index)),
    )
    await settle()
    expect(producer.bufferedBytes).toBeLessThan(1_600)
    engine.release()
    await settle()
    await Promise.all(sent)
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  it('does not let a post overtake what waits', async () => {
    const { producer, engine, settle } = await bench({ bufferBytesMax: 1_000 })
    engine.hold()
    void producer.send('t', big(1_000))
    void producer.send('t', text('waits'))
    producer.post('t', text('follows'))
    engine.release()
    await settle()
    expect(engine.values('t').slice(1)).toEqual(['waits', 'follows'])
  })

  it('does not wait for linger when the buffer is full of lingering batches', async () => {
    const { producer, engine, settle } = await bench({ bufferBytesMax: 1_000, lingerMs: 60_000 })
    const sent = [1, 2, 3].map(() => producer.send('t', big(900)))
    await settle()
    expect(engine.produced.map(({ count }) => count)).toEqual([2])
    producer.post('t', big(900))
    const ready = producer.ready()
    await settle()
    await Promise.all([ready, ...sent])
  })

  it('rejects instead, if told to', async () => {
    const { producer, engine, settle } = await bench({ bufferBytesMax: 1_000, whenFull: 'reject' })
    engine.hold()
    const first = producer.send('t', big(1_000))
    await expect(producer.send('t', text('x'))).rejects.toMatchObject({ code: 'BUFFER_FULL' })
    await expect(producer.send('t', texts('x', 'y'))).rejects.toMatchObject({ code: 'BUFFER_FULL' })
    engine.release()
    await settle()
    await first
  })

  it('gives up waiting after maxBlockMs, without losing its place for others', async () => {
    const { producer, engine, clock, settle } = await bench({ bufferBytesMax: 1_000, maxBlockMs: 50 })
    engine.hold()
    void producer.send('t', big(1_000))
    const late = producer.send('t', text('late')).catch((error: SluiceError) => error.code)
    await clock.advance(30)
    const patient = producer.send('t', text('patient'))
    await clock.advance(20)
    expect(await late).toBe('BUFFER_FULL')
    engine.release()
    await settle()
    await patient
    expect(engine.values('t')[1]).toBe('patient')
  })

  it('waits no longer than that for a topic, either', async () => {
    const { producer, engine, clock } = await bench({ maxBlockMs: 1_000 })
    engine.failNext('partitionsOf', 'TIMED_OUT', 1_000)
    const refused = producer.send('elsewhere', text('x')).catch((error: SluiceError) => error.code)
    await clock.advance(1_000)
    expect(await refused).toBe('TIMED_OUT')
  })
})

describe('retries', () => {
  it('repeat what may pass, and keep the order', async () => {
    const { producer, engine, clock } = await bench({ retryBackoffMs: 100, batchCountMax: 1 })
    engine.failNext('produce', 'DISK_FULL', 2)
    const sent = [producer.send('t', text('a')), producer.send('t', text('b'))]
    await clock.advance(49)
    expect(engine.values('t')).toEqual([])
    await clock.advance(1) // half a step: the jitter of this test is 0
    expect(engine.values('t')).toEqual([])
    await clock.advance(99) // the second step is twice as long
    expect(engine.values('t')).toEqual([])
    await clock.advance(1)
    expect(engine.values('t')).toEqual(['a', 'b'])
    await Promise.all(sent)
  })

  it('end after so many, with the whole story', async () => {
    const { producer, engine, clock } = await bench({ retries: 2 })
    engine.failNext('produce', 'DISK_FULL', 3)
    const refused = producer.send('t', text('a')).catch((error: SluiceError) => error)
    await clock.runUntilIdle()
    expect(await refused).toMatchObject({
      code: 'DISK_FULL',
      message: 't/0: 1 message was not accepted: planned DISK_FULL',
      detail: { topic: 't', partition: 0, count: 1, attempts: 3, outcome: 'refused' },
    })
  })

  it('are not made for what will not pass', async () => {
    const { producer, engine, settle } = await bench()
    engine.failNext('produce', 'STORAGE_FAILED')
    const refused = producer.send('t', text('a')).catch((error: SluiceError) => error)
    await settle()
    expect(await refused).toMatchObject({
      code: 'STORAGE_FAILED',
      detail: { attempts: 1, outcome: 'unknown' },
    })
    const sent = producer.send('t', text('b'))
    await settle()
    expect((await sent).offset).toBe(0)
  })

  it('end with deliveryTimeoutMs', async () => {
    const { producer, engine, clock } = await bench({ deliveryTimeoutMs: 1_000, retries: 1_000 })
    engine.failNext('produce', 'DISK_FULL', 1_000)
    const refused = producer.send('t', text('a')).catch((error: SluiceError) => error.code)
    await clock.advance(999)
    expect(await refused).toBe('DISK_FULL') // another attempt would have come too late
    expect(producer.bufferedBytes).toBe(0)
  })

  it('do not outlive a call that never answers; its memory is kept until it does', async () => {
    const { producer, engine, clock, settle } = await bench({ deliveryTimeoutMs: 1_000, batchCountMax: 1 })
    engine.hold()
    const refused = ['a', 'b'].map(value =>
      producer.send('t', text(value)).catch((error: SluiceError) => error),
    )
    await clock.advance(1_000)
    expect(await refused[0]).toMatchObject({ code: 'TIMED_OUT', detail: { outcome: 'unknown' } })
    expect(await refused[1]).toMatchObject({ code: 'TIMED_OUT', detail: { outcome: 'refused' } })
    await producer.flush() // everybody has been told: there is nothing to wait for
    const after = producer.send('t', text('c'))
    engine.release()
    await settle()
    await after
    expect(engine.values('t')).toEqual(['a', 'c'])
  })
})

describe('an idempotent producer', () => {
  it('numbers its batches, per partition', async () => {
    const { producer, engine, settle } = await bench({ idempotent: true, batchCountMax: 2 }, 2)
    void producer.send(
      't',
      Array.from({ length: 5 }, () => ({ value: 'x', partition: 0 })),
    )
    void producer.send('t', { value: 'x', partition: 1 })
    await settle()
    const sequences = (wanted: number) =>
      engine.produced.filter(({ partition }) => partition === wanted).map(({ baseSequence }) => baseSequence)
    expect(sequences(0)).toEqual([0, 2, 4])
    expect(sequences(1)).toEqual([0])
    expect(engine.produced[0].producerId).toBeGreaterThanOrEqual(0)
  })

  it('repeats a batch under the same number', async () => {
    const { producer, engine, clock } = await bench({ idempotent: true })
    engine.failNext('initProducer', 'TIMED_OUT')
    const sent = ['a', 'b'].map(value => producer.send('t', text(value)))
    await clock.runUntilIdle()
    await Promise.all(sent)
    engine.hold()
    const again = producer.send('t', text('c'))
    await clock.runDeferred()
    engine.failNext('produce', 'TIMED_OUT')
    engine.release()
    await clock.runUntilIdle()
    await again
    expect(engine.produced.map(({ producerId, baseSequence }) => [producerId, baseSequence])).toEqual([
      [0, 0],
      [0, 2],
      [0, 2],
    ])
  })

  it('does not send what was given up while it waited for its identity', async () => {
    const { producer, engine, clock } = await bench({ idempotent: true, deliveryTimeoutMs: 100 })
    engine.hold()
    const refused = producer.send('t', text('late')).catch((error: SluiceError) => error.code)
    await clock.advance(100)
    expect(await refused).toBe('TIMED_OUT')
    engine.release()
    await clock.runDeferred()
    const sent = producer.send('t', text('a'))
    await clock.runDeferred()
    await sent
    expect(engine.values('t')).toEqual(['a'])
  })

  it('takes a new identity after a loss, for the log lets no gap pass', async () => {
    const { producer, engine, settle } = await bench({ idempotent: true, retries: 0 })
    void producer.send('t', text('a'))
    await settle()
    engine.failNext('produce', 'DISK_FULL')
    producer.send('t', text('lost')).catch(() => {})
    await settle()
    void producer.send('t', text('b'))
    await settle()
    expect(engine.produced.map(({ producerId, baseSequence }) => [producerId, baseSequence])).toEqual([
      [0, 0],
      [1, 0],
    ])
  })

  it('takes a repeated batch for what it is: stored', async () => {
    const { producer, engine, settle } = await bench({ idempotent: true })
    engine.failNext('produce', 'DUPLICATE_SEQUENCE')
    const sent = producer.send('t', text('a'))
    await settle()
    expect((await sent).offset).toBe(-1)
  })
})

describe('flush', () => {
  it('sends at once and resolves when all before is answered', async () => {
    const { producer, engine, settle } = await bench({ lingerMs: 10_000 }, 2)
    producer.post('t', [
      { value: 'a', partition: 0 },
      { value: 'b', partition: 1 },
    ])
    engine.hold()
    let flushed = false
    const flushing = producer.flush().then(() => {
      flushed = true
    })
    await settle()
    expect([engine.produced.length, flushed]).toEqual([2, false])
    engine.release()
    await settle()
    await flushing
  })

  it('includes what waits for its topic or for room', async () => {
    const { producer, engine, settle } = await bench({ bufferBytesMax: 500, lingerMs: 1_000 })
    await engine.createTopic({ name: 'new' })
    producer.post('new', text('a'))
    const sent = [1, 2, 3, 4].map(() => producer.send('t', big(400)))
    const flushing = producer.flush()
    await settle()
    await flushing
    await Promise.all(sent)
    expect(engine.values('new')).toEqual(['a'])
  })

  it('includes what waits for its topic, and then for the one in which it is delayed', async () => {
    const { producer, engine, settle } = await bench()
    await engine.createTopic({ name: 'new' })
    await engine.createTopic({ name: '_sluice.delay.5s' })
    producer.post('new', { value: 'a', delay: '5s' })
    const flushed = producer.flush().then(() => engine.values('_sluice.delay.5s'))
    await settle()
    expect(await flushed).toEqual(['a'])
    const cursor = new RecordCursor(engine.partitions('_sluice.delay.5s')[0].batches[0])
    expect(cursor.next()).toBe(true)
    const names = cursor.headers().map(([name]) => name)
    expect(names).toContain('sluice-deliver-at')
    expect(names).not.toContain('sluice-target-timestamp') // it gets the time of its delivery
  })

  it('does not fail with what fails', async () => {
    const { producer, engine, settle } = await bench({ retries: 0 })
    engine.failNext('produce', 'STORAGE_FAILED')
    const refused = producer.send('t', text('a')).catch((error: SluiceError) => error.code)
    const flushing = producer.flush()
    await settle()
    await flushing
    expect(await refused).toBe('STORAGE_FAILED')
  })

  it('has nothing to do when there is nothing', async () => {
    const { producer } = await bench()
    await producer.flush()
  })
})

describe('close', () => {
  it('flushes, then refuses', async () => {
    const { producer, engine, settle, reported } = await bench({ lingerMs: 10_000 })
    const sent = producer.send('t', text('a'))
    const closing = producer.close()
    await expect(producer.send('t', text('b'))).rejects.toMatchObject({ code: 'PRODUCER_CLOSED' })
    await settle()
    await closing
    expect((await sent).offset).toBe(0)
    expect(producer.post('t', text('c'))).toBe(true)
    expect(reported).toEqual([{ code: 'PRODUCER_CLOSED', count: 1, topic: 't' }])
    await expect(producer.ready()).rejects.toMatchObject({ code: 'PRODUCER_CLOSED' })
    await producer.close()
    expect(engine.values('t')).toEqual(['a'])
  })

  it('answers everything within its deadline', async () => {
    const { producer, engine, clock } = await bench({ bufferBytesMax: 500 })
    engine.hold()
    const refused = [big(500), text('parked')].map(message =>
      producer.send('t', message).catch((error: SluiceError) => error.code),
    )
    const closing = producer.close({ deadlineMs: 100 })
    await clock.advance(100)
    await closing
    expect(await Promise.all(refused)).toEqual(['TIMED_OUT', 'TIMED_OUT'])
    engine.release()
  })

  it('of the engine settles every message exactly once', async () => {
    const { producer, engine, settle } = await bench({ batchCountMax: 10, bufferBytesMax: 2_000 }, 2)
    engine.hold()
    const settled = Array.from({ length: 100 }, (_, index) =>
      producer.send('t', { key: `k${index}`, value: 'x'.repeat(50) }).then(
        () => 'accepted',
        (error: SluiceError) => error.code,
      ),
    )
    await settle()
    await engine.close()
    await settle()
    expect(new Set(await Promise.all(settled))).toEqual(new Set(['CLOSED']))
    expect(producer.bufferedBytes).toBe(0)
  })
})

describe('options', () => {
  it.each([
    [{ lingerMs: -1 }, 'lingerMs is a number from 0 on, not -1'],
    [{ batchBytesMax: Number.NaN }, 'batchBytesMax is a number from 1 on, not null'],
    [{ whenFull: 'explode' }, 'whenFull is one of wait, reject, not "explode"'],
    [{ compression: 'rar' }, 'compression is one of none, gzip, snappy, lz4, zstd, not "rar"'],
    [{ acks: 'all' }, 'acks is one of none, written, flushed, not "all"'],
  ])('say what they may be: %o', (options, message) => {
    const engine = new FakeEngine()
    expect(() => new Producer(options as ProducerOptions, { engine })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message }),
    )
  })

  it('ask for nothing that the engine lacks', () => {
    const engine = Object.assign(new FakeEngine(), { supports: { idempotence: false } })
    expect(() => new Producer({ idempotent: true }, { engine: engine as never })).toThrow(code('UNSUPPORTED'))
  })
})

describe('a topic descriptor', () => {
  it('and its name reach the same partitions with their own codecs', async () => {
    const { producer, engine, settle } = await bench()
    const Upper = topic('t', { value: { encode: (text: string) => text.toUpperCase(), decode: String } })
    void producer.send(Upper, { value: 'a' })
    void producer.send('t', { value: 'b' })
    void producer.send(Upper, { value: 'c' })
    await settle()
    expect(engine.values('t')).toEqual(['A', 'b', 'C'])
  })
})
