/**
 * What is delivered must be delivered on every engine: workers, queues, delay, half messages, dead letters, backlogs. Told through the public
 * API, by the real clock: pauses are short, and nothing here depends on how long anything takes. All names are new each time, so it runs on a
 * cluster that is in use, beside others.
 */

import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Job } from '../../src/delivery/job.ts'
import type { Lease } from '../../src/delivery/lease.ts'
import type { Message } from '../../src/delivery/message.ts'
import type { Queue } from '../../src/delivery/queue.ts'
import type { QueueOptions } from '../../src/delivery/queue-options.ts'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import type { Worker } from '../../src/delivery/worker.ts'
import type { WorkerOptions } from '../../src/delivery/worker-options.ts'
import type { Engine } from '../../src/engine/engine.ts'

/** Long enough for a cluster that is busy with something else. */
const TIMEOUT_MS = 120_000
const POLL = { timeout: 60_000, interval: 10 }
/** Between attempts. */
const PAUSE_MS = 100

type Handler = (message: Message, job: Job) => unknown

export function deliverySuite(name: string, openEngine: () => Promise<Engine>): void {
  describe(`delivery: ${name}`, { timeout: TIMEOUT_MS }, () => {
    const house = new House()
    beforeAll(async () => house.open(await openEngine()), TIMEOUT_MS)
    afterAll(() => house.close(), TIMEOUT_MS)

    describe('a worker', () => orders(house))
    describe('a message that fails', () => failures(house))
    describe('workers', () => comingsAndGoings(house))
    describe('a queue', () => queues(house))
    describe('what a queue does not hand out', () => queueLimits(house))
    describe('a delayed message', () => delays(house))
    describe('a schedule', () => schedules(house))
    describe('a half message', () => halves(house))
    describe('dead letters', () => deadLetters(house))
    describe('a backlog', () => backlogs(house))
  })
}

/** One `Sluice` with a relay for all tests of an engine: what they use they name anew. */
class House {
  readonly #prefix = `delivery-${randomUUID().slice(0, 8)}`
  #count = 0
  #mq: Sluice | null = null

  get mq(): Sluice {
    return this.#mq as Sluice
  }

  async open(engine: Engine): Promise<void> {
    this.#mq = new Sluice(engine)
    await this.#mq.relay()
  }

  async close(): Promise<void> {
    const topics = await this.mq.topics()
    const own = topics.filter(topic => topic.startsWith(this.#prefix))
    await Promise.all(own.map(topic => this.mq.deleteTopic(topic)))
    await this.mq.close({ deadlineMs: 1_000 })
  }

  name(): string {
    return `${this.#prefix}-${this.#count++}`
  }

  async topic(partitions = 1): Promise<string> {
    const name = this.name()
    await this.mq.createTopic(name, { partitions })
    return name
  }

  /** Its group is called like the topic, if not otherwise. */
  worker(topic: string, options: Partial<WorkerOptions>, handler: Handler): Worker {
    const worker = this.mq.worker(topic, { group: topic, ...options }, handler)
    onTestFinished(() => worker.stop({ deadlineMs: 0 }))
    return worker as unknown as Worker
  }

  queue(options: QueueOptions = {}): Queue<string> {
    const queue = this.mq.queue(this.name(), { partitions: 1, ...options })
    onTestFinished(() => queue.stop({ deadlineMs: 0 }))
    return queue
  }

  /** What can be read of a topic now; nothing if it does not exist. */
  async read(topic: string): Promise<Message<unknown, unknown>[]> {
    const found: Message<unknown, unknown>[] = []
    if (!(await this.mq.topics()).includes(topic)) return found
    for (const { partition } of (await this.mq.describeTopic(topic)).partitions) {
      for await (const batch of scanPartition(this.mq.engine, rawTopic(topic), { partition }))
        found.push(...batch)
    }
    return found
  }

  /** Waits until a topic holds so many messages (or more), and gives them. */
  async arrived(topic: string, count: number): Promise<Message<unknown, unknown>[]> {
    let found: Message<unknown, unknown>[] = []
    const read = async (): Promise<number> => {
      found = await this.read(topic)
      return found.length
    }
    await expect.poll(read, POLL).toBeGreaterThanOrEqual(count)
    return found
  }

  /** Waits for so many dead letters of a group, by default that of the topic's workers. */
  async letters(topic: string, count: number, group = topic) {
    const table = this.mq.deadLetters(topic, group)
    await expect.poll(() => table.count(), POLL).toBe(count)
    return (await table.list()).letters
  }
}

/** How many are under way at once. */
class Lanes {
  readonly #inside = new Map<unknown, number>()
  mostAtOnce = 0

  async pass(lane: unknown, work: () => Promise<void>): Promise<void> {
    const inside = (this.#inside.get(lane) ?? 0) + 1
    this.#inside.set(lane, inside)
    this.mostAtOnce = Math.max(this.mostAtOnce, inside)
    await work()
    this.#inside.set(lane, (this.#inside.get(lane) as number) - 1)
  }
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index)
const texts = (messages: readonly { text(): string }[]): string[] => messages.map(message => message.text())
const leased = (leases: readonly Lease[]): string[] => texts(leases.map(({ message }) => message))
const fail = (message: Message): never => {
  throw new Error(`no ${message.text()}`)
}
/** For a handler that nobody waits for. */
const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise(resolve => signal.addEventListener('abort', () => resolve(), { once: true }))

function orders(house: House): void {
  test('with the order of partitions runs one message of each at a time, in the order of the log', async () => {
    const topic = await house.topic(3)
    const sent = upTo(60).map(index => ({ key: String(index % 10), value: String(index) }))
    await house.mq.publish(topic, sent)
    const seen: number[][] = [[], [], []]
    const lanes = new Lanes()
    house.worker(topic, { order: 'partition', concurrency: 10 }, async message => {
      await lanes.pass(message.partition, () => sleep(1))
      seen[message.partition].push(message.offset)
    })
    await expect.poll(() => seen.flat().length, POLL).toBe(60)
    expect(lanes.mostAtOnce).toBe(1)
    for (const offsets of seen) expect(offsets).toEqual(offsets.toSorted((one, other) => one - other))
  })

  test('with the order of keys runs one message of each key at a time; other keys do not wait', async () => {
    const topic = await house.topic()
    const sent = upTo(40).map(index => ({
      key: index % 4 === 0 ? 'slow' : `${index % 4}`,
      value: String(index),
    }))
    await house.mq.publish(topic, sent)
    const others = Promise.withResolvers<void>()
    const seen: Record<string, number[]> = {}
    let left = 30
    const lanes = new Lanes()
    house.worker(topic, { order: 'key' }, async message => {
      const { key } = message
      if (key !== 'slow' && --left === 0) others.resolve()
      await lanes.pass(key, () => (key === 'slow' ? others.promise : sleep(1)))
      const { [key as string]: ofKey = [] } = seen
      seen[key as string] = [...ofKey, Number(message.text())]
    })
    await expect.poll(() => Object.values(seen).flat().length, POLL).toBe(40)
    expect(lanes.mostAtOnce).toBe(1)
    expect(seen).toEqual({
      slow: upTo(10).map(index => index * 4),
      ...Object.fromEntries([1, 2, 3].map(key => [key, upTo(10).map(index => index * 4 + key)])),
    })
  })

  test('without an order has nothing wait', async () => {
    const topic = await house.topic()
    await house.mq.publish(
      topic,
      upTo(50).map(index => ({ key: 'same', value: String(index) })),
    )
    const all = Promise.withResolvers<void>()
    let running = 0
    let done = 0
    house.worker(topic, { order: 'none', concurrency: 50 }, async () => {
      if (++running === 50) all.resolve()
      await all.promise
      done++
    })
    await expect.poll(() => done, POLL).toBe(50)
  })
}

function failures(house: House): void {
  test('is tried again in its place: later ones of its key wait, others do not', async () => {
    const topic = await house.topic()
    const keyed = ['a1', 'a2', 'b1'].map(value => ({ key: value[0], value }))
    await house.mq.publish(topic, keyed)
    const seen: string[] = []
    const errors: (string | undefined)[] = []
    house.worker(topic, { order: 'key', retry: { delays: [PAUSE_MS], attempts: 3 } }, (message, job) => {
      seen.push(`${message.text()} ${job.attempt}`)
      errors.push(job.lastError?.message)
      if (message.text() === 'a1' && job.attempt < 3) fail(message)
    })
    await expect.poll(() => seen.length, POLL).toBe(5)
    expect(seen).toEqual(['a1 1', 'b1 1', 'a1 2', 'a1 3', 'a2 1'])
    expect(errors).toEqual([undefined, undefined, 'no a1', 'no a1', undefined])
  })

  test('is tried again later where nothing waits for it: it is the same message, whatever topic it comes from', async () => {
    const topic = await house.topic()
    await house.mq.publish(topic, [
      { key: 'k', value: 'first', headers: { h: 'x' } },
      { key: 'k', value: 'second' },
    ])
    const seen: string[] = []
    let last: readonly [Message, Job] | null = null
    const worker = house.worker(
      topic,
      { order: 'none', retry: { delays: [PAUSE_MS, PAUSE_MS] } },
      (message, job) => {
        seen.push(`${message.text()} ${job.attempt}`)
        if (message.text() === 'second') return
        if (job.attempt < 3) fail(message)
        last = [message, job]
      },
    )
    const failed: number[] = []
    worker.on('failed', (_, __, ___, outcome) => {
      if (outcome.kind === 'retry') failed.push(outcome.dueAt)
    })
    await expect.poll(() => last, POLL).not.toBeNull()
    expect(Date.now()).toBeGreaterThanOrEqual(Math.max(...failed))
    expect(seen.toSorted()).toEqual(['first 1', 'first 2', 'first 3', 'second 1'])
    const [message, job] = last as unknown as [Message, Job]
    expect([message.key, message.header('h')]).toEqual(['k', 'x'])
    expect([job.topic, job.partition, job.offset]).toEqual([topic, 0, 0])
    expect(job.lastError).toMatchObject({ name: 'Error', message: 'no first' })
  })

  test('for the last time is a dead letter, with its story', async () => {
    const topic = await house.topic()
    await house.mq.publish(topic, { key: 'k', value: 'x', headers: { h: 'y' }, timestamp: 1_000 })
    const before = Date.now()
    house.worker(topic, { retry: { delays: [PAUSE_MS], attempts: 2 } }, fail)
    const [letter] = await house.letters(topic, 1)
    const own = { key: Buffer.from('k'), value: Buffer.from('x'), headers: [['h', Buffer.from('y')]] }
    const place = { topic, partition: 0, offset: 0, timestamp: 1_000, group: topic, id: '0-0' }
    expect(letter).toMatchObject({ ...own, ...place, attempts: 2, reason: 'attempts' })
    expect(letter.error).toMatchObject({
      name: 'Error',
      message: 'no x',
      stack: expect.stringContaining('fail'),
    })
    expect(letter.firstFailureAt).toBeGreaterThanOrEqual(before)
    expect(letter.lastFailureAt - letter.firstFailureAt).toBeGreaterThanOrEqual(PAUSE_MS)
    const { lag } = await house.mq.describeGroup(topic)
    expect(lag).toBe(0)
  })

  test('after retries elsewhere is a dead letter with the same story', async () => {
    const topic = await house.topic(2)
    const { partition, offset } = await house.mq.publish(topic, { key: 'k', value: 'x' })
    house.worker(topic, { order: 'none', retry: { delays: [PAUSE_MS], attempts: 3 } }, fail)
    const [letter] = await house.letters(topic, 1)
    expect(letter).toMatchObject({ topic, partition, offset, attempts: 3, reason: 'attempts' })
    expect(letter.error.message).toBe('no x')
  })

  test('is given up or dropped at once if that is decided', async () => {
    const topic = await house.topic()
    await house.mq.publish(
      topic,
      ['dead-letter', 'drop', 'last'].map(value => ({ value })),
    )
    const seen: string[] = []
    const decide = (error: unknown) => (error as Error).message.slice(3) as 'dead-letter' | 'drop'
    house.worker(topic, { order: 'partition', retry: { decide } }, message => {
      seen.push(message.text())
      if (message.text() !== 'last') fail(message)
    })
    await expect.poll(() => seen, POLL).toEqual(['dead-letter', 'drop', 'last'])
    expect(await house.letters(topic, 1)).toMatchObject([{ offset: 0, reason: 'rejected', attempts: 1 }])
  })

  test('is one whose handler is out of time', async () => {
    const topic = await house.topic()
    await house.mq.publish(topic, { value: 'x' })
    const attempts: number[] = []
    const timedOut: string[] = []
    const worker = house.worker(topic, { timeout: PAUSE_MS, retry: { delays: [0] } }, async (_, job) => {
      attempts.push(job.attempt)
      if (job.attempt === 1) await untilAborted(job.signal)
    })
    worker.on('timedOut', message => timedOut.push(message.text()))
    await expect.poll(() => worker.stats.completed, POLL).toBe(1)
    expect([attempts, timedOut]).toEqual([[1, 2], ['x']])
  })
}

function comingsAndGoings(house: House): void {
  test('that stop and start repeat what was unfinished, and nothing else', async () => {
    const topic = await house.topic(2)
    await house.mq.publish(
      topic,
      upTo(40).map(index => ({ key: String(index), value: String(index) })),
    )
    const isSlow = (message: Message) => Number(message.text()) % 4 === 1
    let begun = 0
    const first = house.worker(topic, { order: 'none', concurrency: 40 }, async (message, job) => {
      begun++
      if (isSlow(message)) await untilAborted(job.signal)
    })
    await expect.poll(() => begun, POLL).toBe(40)
    await first.stop({ deadlineMs: 50 })
    expect(first.stats.completed).toBe(30)
    const again: number[] = []
    house.worker(topic, { order: 'none' }, message => void again.push(Number(message.text())))
    const slow = upTo(40).filter(index => index % 4 === 1)
    await expect.poll(() => again.toSorted((one, other) => one - other), POLL).toEqual(slow)
  })

  test('remember across a restart how often a message failed', async () => {
    const topic = await house.topic()
    await house.mq.publish(topic, { key: 'k', value: 'x' })
    const attempts: number[] = []
    const retry = { delays: [PAUSE_MS], attempts: 9 }
    for (const _ of upTo(3)) {
      const worker = house.worker(topic, { retry }, (message, job) => {
        attempts.push(job.attempt)
        fail(message)
      })
      await new Promise<void>(resolve => worker.once('failed', () => resolve()))
      await worker.stop()
    }
    expect(attempts).toEqual([1, 2, 3])
  })

  test('of a group share the partitions; one that joins or leaves repeats nothing', async () => {
    const topic = await house.topic(4)
    const seen: number[] = []
    const by: number[] = [0, 0]
    const start = (who: number) =>
      house.worker(topic, { order: 'key', concurrency: 8 }, async message => {
        await sleep(2)
        by[who]++
        seen.push(Number(message.text()))
      })
    const messages = upTo(600).map(index => ({ key: String(index % 50), value: String(index) }))
    await house.mq.publish(topic, messages.slice(0, 200))
    const first = start(0)
    await expect.poll(() => seen.length, POLL).toBeGreaterThan(20)
    const second = start(1)
    await new Promise<void>(resolve => second.once('assigned', () => resolve()))
    await house.mq.publish(topic, messages.slice(200, 400))
    await expect.poll(() => by[1], POLL).toBeGreaterThan(20)
    await first.stop()
    await house.mq.publish(topic, messages.slice(400))
    await expect.poll(() => seen.toSorted((one, other) => one - other), POLL).toEqual(upTo(600))
  })
}

function queues(house: House): void {
  test('is shared by its handlers: each message is handled by one', async () => {
    const queue = house.queue({ partitions: 3 })
    const seen: string[] = []
    queue.process({ concurrency: 3 }, message => void seen.push(message.text()))
    queue.process({ concurrency: 3 }, message => void seen.push(message.text()))
    await Promise.all(upTo(30).map(index => queue.send(String(index + 10))))
    await expect.poll(() => seen.toSorted(), POLL).toEqual(upTo(30).map(index => String(index + 10)))
    await expect.poll(() => queue.length(), POLL).toBe(0)
  })

  test('gives a message until it is acknowledged; what is put back comes again, counted', async () => {
    const queue = house.queue()
    await queue.send('a', { headers: { h: 'x' } })
    const [first] = await queue.receive({ waitMs: TIMEOUT_MS })
    expect([first.message.text(), first.message.header('h'), first.deliveryCount]).toEqual(['a', 'x', 1])
    first.nack()
    const [second] = await queue.receive({ waitMs: TIMEOUT_MS })
    expect(second.deliveryCount).toBe(2)
    const before = Date.now()
    second.requeue({ delay: PAUSE_MS })
    const [third] = await queue.receive({ waitMs: TIMEOUT_MS })
    expect(Date.now() - before).toBeGreaterThanOrEqual(PAUSE_MS)
    expect(third.deliveryCount).toBe(3)
    third.ack()
    expect(() => third.ack()).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    await expect.poll(() => queue.length(), POLL).toBe(0)
  })

  test('hands a message out again when its receiver is out of time', async () => {
    const queue = house.queue({ visibility: PAUSE_MS })
    await queue.send('a')
    const [late] = await queue.receive({ waitMs: TIMEOUT_MS })
    const [again] = await queue.receive({ waitMs: TIMEOUT_MS, visibility: '1m' })
    expect(again.deliveryCount).toBe(2)
    expect(() => late.ack()).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    again.ack()
    await expect.poll(() => queue.length(), POLL).toBe(0)
  })

  test('hands out by priority', async () => {
    const queue = house.queue({ priorities: 2 })
    await queue.send('plug')
    const [plug] = await queue.receive({ waitMs: TIMEOUT_MS })
    for (const priority of [0, 2, 1]) await queue.send(`p${priority}`, { priority })
    await expect.poll(() => queue.stats.waiting, POLL).toBe(3)
    const leases = await queue.receive({ max: 3 })
    expect(leased(leases as unknown as Lease[])).toEqual(['p2', 'p1', 'p0'])
    for (const lease of [plug, ...leases]) lease.ack()
  })

  test('hands out later what was sent to be', async () => {
    const queue = house.queue()
    const before = Date.now()
    await queue.send('later', { delay: 300 })
    await queue.send('now')
    const seen: string[] = []
    let handledAt = 0
    queue.process(message => {
      seen.push(message.text())
      handledAt = Date.now()
    })
    await expect.poll(() => seen, POLL).toEqual(['now', 'later'])
    expect(handledAt - before).toBeGreaterThanOrEqual(300)
  })

  test('goes on after a stop where it was', async () => {
    const queue = house.queue()
    for (const text of 'abc') await queue.send(text)
    const leases = await queue.receive({ max: 3, waitMs: TIMEOUT_MS })
    leases.find(({ message }) => message.text() === 'a')?.ack()
    await queue.stop({ deadlineMs: 0 })
    const again = house.mq.queue(queue.name, { partitions: 1 })
    onTestFinished(() => again.stop({ deadlineMs: 0 }))
    const seen: string[] = []
    again.process(message => void seen.push(message.text()))
    await expect.poll(() => seen.toSorted(), POLL).toEqual(['b', 'c'])
  })
}

function queueLimits(house: House): void {
  test('is what has expired', async () => {
    const queue = house.queue({ messageTtl: '1h' })
    await queue.send('short', { expiresIn: 1 })
    await sleep(5)
    await queue.send('long')
    const seen: string[] = []
    queue.process(message => void seen.push(message.text()))
    await expect.poll(() => seen, POLL).toEqual(['long'])
    const letters = await house.letters(queue.name, 1, queue.name)
    expect(letters).toMatchObject([{ reason: 'expired', attempts: 0, value: Buffer.from('short') }])
  })

  test('is what it has no room for: refused, or its oldest in the dead letters', async () => {
    const refusing = house.queue({ lengthMax: 2 })
    for (const text of 'ab') await refusing.send(text)
    await expect(refusing.send('c')).rejects.toMatchObject({ code: 'QUEUE_FULL' })
    const dropping = house.queue({ lengthMax: 2, whenFull: 'drop-head' })
    for (const text of 'abcd') await dropping.send(text)
    const letters = await house.letters(dropping.name, 2, dropping.name)
    expect(letters.map(({ value, reason }) => [String(value), reason])).toEqual([
      ['a', 'overflow'],
      ['b', 'overflow'],
    ])
    const leases = await dropping.receive({ max: 9, waitMs: TIMEOUT_MS })
    expect(leased(leases as unknown as Lease[])).toEqual(['c', 'd'])
  })

  test('is what a receiver has rejected, or what was handed out too often', async () => {
    const queue = house.queue({ retry: { attempts: 2 } })
    await queue.send('a')
    const [rejected] = await queue.receive({ waitMs: TIMEOUT_MS })
    rejected.nack({ requeue: false, reason: 'of no use' })
    await queue.send('b')
    for (const _ of upTo(2)) (await queue.receive({ waitMs: TIMEOUT_MS }))[0].nack()
    const letters = await house.letters(queue.name, 2, queue.name)
    expect(letters).toMatchObject([
      { reason: 'rejected', attempts: 1, error: { message: 'of no use' } },
      { reason: 'attempts', attempts: 2 },
    ])
  })
}

function delays(house: House): void {
  test('comes once, not early, as it was published', async () => {
    const topic = await house.topic(3)
    const { partition } = await house.mq.publish(topic, { key: 'k', value: 'at once' })
    const before = Date.now()
    const { delayId } = await house.mq.publish(topic, {
      key: 'k',
      value: 'x',
      headers: { h: 'y' },
      delay: 300,
    })
    const deliverAt = new Date(Date.now() + 500)
    await house.mq.publish(topic, { key: 'k', value: 'z', deliverAt })
    const [, first, second] = await house.arrived(topic, 3)
    expect([first.text(), first.keyBytes?.toString(), first.header('h')]).toEqual(['x', 'k', 'y'])
    expect([first.partition, first.header('sluice-delay-id')]).toEqual([partition, delayId])
    expect(first.timestamp).toBeGreaterThanOrEqual(before + 300)
    expect(second.text()).toBe('z')
    expect(second.timestamp).toBeGreaterThanOrEqual(deliverAt.getTime())
  })

  test('goes down the ladder', async () => {
    const topic = await house.topic()
    const before = Date.now()
    await house.mq.publish(topic, [
      { value: 'level', delayLevel: 1 },
      { value: 'longer', delay: 1_800 },
    ])
    const [level, longer] = await house.arrived(topic, 2)
    expect([level.text(), longer.text()]).toEqual(['level', 'longer'])
    expect(level.timestamp).toBeGreaterThanOrEqual(before + 1_000)
    expect(longer.timestamp).toBeGreaterThanOrEqual(before + 1_800)
  })

  test('is listed while it waits, and got by its id or its name', async () => {
    const topic = await house.topic()
    const name = house.name()
    const { delayId } = await house.mq.publish(topic, { key: 'k', value: 'x', delay: '3h', delayId: name })
    await house.mq.publish(topic, { value: 'y', delay: '400d' })
    const { delayed } = house.mq
    const listed = async () => (await delayed.list({ topic })).messages.map(({ value }) => String(value))
    await expect.poll(listed, POLL).toEqual(['x', 'y'])
    const shown = { id: delayId, name, topic, key: Buffer.from('k'), value: Buffer.from('x') }
    expect(await delayed.get(delayId as string)).toMatchObject(shown)
    expect(await delayed.get(name)).toMatchObject(shown)
    expect(await delayed.cancel(name)).toBe(true)
    await expect.poll(listed, POLL).toEqual(['y'])
    expect(await delayed.cancel(name)).toBe(false)
    expect(await delayed.get(delayId as string)).toBeNull()
    const { messages } = await delayed.list({ topic })
    expect(await delayed.cancel(messages[0].id)).toBe(true)
  })

  test('that is given another time comes then; one that is cancelled does not come', async () => {
    const topic = await house.topic()
    const { delayId: far } = await house.mq.publish(topic, { value: 'moved', delay: '5h' })
    const before = Date.now()
    const moved = await house.mq.delayed.reschedule(far as string, { delay: 200 })
    const [first] = await house.arrived(topic, 1)
    expect(first.timestamp).toBeGreaterThanOrEqual(before + 200)
    expect([first.text(), first.header('sluice-delay-id')]).toEqual(['moved', moved])
    expect(await house.mq.delayed.get(far as string)).toBeNull()

    // what is busy may take longer than there is time; then it says so, and the message comes
    let cancelled: string | undefined
    for (let delay = 1_500; cancelled === undefined; delay *= 2) {
      const { delayId } = await house.mq.publish(topic, { value: 'other', delay })
      if (await house.mq.delayed.cancel(delayId as string)) cancelled = delayId
    }
    const due = Number.parseInt(cancelled.slice(0, 9), 36)
    await house.mq.publish(topic, { value: 'marker', deliverAt: due + 100 })
    const marked = async () => texts(await house.read(topic)).includes('marker')
    await expect.poll(marked, POLL).toBe(true)
    const ids = (await house.read(topic)).map(message => message.header('sluice-delay-id'))
    expect(ids).not.toContain(cancelled)
  })

  test('of a transaction comes if that is committed', async () => {
    const topic = await house.topic()
    const aborted = house.mq.transaction(async tx => {
      await tx.publish(topic, { value: 'no', delay: 100 })
      throw new Error('changed my mind')
    })
    await expect(aborted).rejects.toThrow('changed my mind')
    await house.mq.transaction(tx => {
      tx.publish(topic, { value: 'later', delay: 200 })
      tx.publish(topic, { value: 'at once' })
    })
    expect(texts(await house.arrived(topic, 2))).toEqual(['at once', 'later'])
  })
}

function schedules(house: House): void {
  test('publishes again and again until it is removed', async () => {
    const topic = await house.topic()
    const name = house.name()
    const { schedules } = house.mq
    await schedules.set(name, { cron: '* * * * * *', topic, message: { key: 'k', value: 'tick' } })
    const listed = async () => (await schedules.list()).filter(each => each.name === name)
    await expect.poll(listed, POLL).toMatchObject([{ cron: '* * * * * *', topic, timezone: 'UTC' }])
    const [first, second] = await house.arrived(topic, 2)
    expect(texts([first, second])).toEqual(['tick', 'tick'])
    expect(Math.floor(second.timestamp / 1_000)).toBeGreaterThan(Math.floor(first.timestamp / 1_000))
    expect(await schedules.remove(name)).toBe(true)
    expect(await schedules.remove(name)).toBe(false)
    expect(await listed()).toEqual([])
    const waiting = async () => (await house.mq.delayed.list({ topic })).messages
    await expect.poll(waiting, POLL).toEqual([])
  })
}

function halves(house: House): void {
  const ended = (id: string) =>
    expect.poll(async () => (await house.mq.half.get(id)).state, POLL).toBe('done')

  test('is seen once it is committed, and never if it is rolled back', async () => {
    const topic = await house.topic()
    const committed = await house.mq.half.prepare(topic, { key: 'k', value: 'yes', headers: { h: 'x' } })
    const rolledBack = await house.mq.half.prepare(topic, { value: 'no' })
    expect(await house.mq.half.get(committed.id)).toMatchObject({ state: 'undecided', decision: null })
    expect((await house.mq.half.list()).map(({ id }) => id)).toEqual(
      expect.arrayContaining([committed.id, rolledBack.id]),
    )
    expect(await house.read(topic)).toEqual([])
    await rolledBack.rollback()
    await ended(rolledBack.id)
    await committed.commit()
    await house.mq.half.commit(committed.id) // again, as somebody else
    await ended(committed.id)
    const [message, ...others] = await house.arrived(topic, 1)
    expect([message.text(), message.keyBytes?.toString(), message.header('h')]).toEqual(['yes', 'k', 'x'])
    expect(others).toEqual([])
    expect(await house.mq.half.get(rolledBack.id)).toMatchObject({ decision: 'rollback' })
    await expect(house.mq.half.commit(rolledBack.id)).rejects.toMatchObject({ code: 'HALF_DECIDED' })
  })

  test('is decided by its local transaction', async () => {
    const topic = await house.topic()
    expect(await house.mq.half.run(topic, { value: 'yes' }, {}, () => 'result')).toBe('result')
    const failing = house.mq.half.run(topic, { value: 'no' }, {}, () => {
      throw new Error('no money')
    })
    await expect(failing).rejects.toThrow('no money')
    await house.mq.half.run(topic, { value: 'last' }, {}, () => {})
    const values = async () => texts(await house.read(topic)).toSorted()
    await expect.poll(values, POLL).toEqual(['last', 'yes'])
  })

  test('that nobody decided is asked about', async () => {
    const topic = await house.topic()
    const checker = house.name()
    const policy = { checker, firstCheckMs: PAUSE_MS, checkEveryMs: 200, checksMax: 1_000 }
    const asked: number[] = []
    const answering = house.mq.half.checker(checker, message => {
      if (message.value?.toString() === 'no') return 'rollback'
      asked.push(message.checks)
      return message.checks < 2 ? 'unknown' : 'commit'
    })
    onTestFinished(() => answering.stop())
    const yes = await house.mq.half.prepare(topic, { value: 'yes' }, policy)
    const no = await house.mq.half.prepare(topic, { value: 'no' }, policy)
    await Promise.all([ended(yes.id), ended(no.id)])
    expect(texts(await house.arrived(topic, 1))).toEqual(['yes'])
    expect(asked.length).toBeGreaterThanOrEqual(1)
    expect(await house.mq.half.get(no.id)).toMatchObject({ decision: 'rollback' })
  })

  test('that nobody decides in time is a dead letter', async () => {
    const topic = await house.topic()
    const policy = { firstCheckMs: 50, checkEveryMs: 50, checksMax: 1 }
    const half = await house.mq.half.prepare(topic, { key: 'k', value: 'x' }, policy)
    await ended(half.id)
    expect(await house.mq.half.get(half.id)).toMatchObject({ decision: 'expired' })
    const letters = await house.letters(topic, 1, '_sluice.half')
    expect(letters).toMatchObject([{ reason: 'attempts', key: Buffer.from('k'), value: Buffer.from('x') }])
    await expect(half.commit()).rejects.toMatchObject({ code: 'HALF_DECIDED' })
    expect(await house.read(topic)).toEqual([])
  })

  test('with a delay waits from its commit on', async () => {
    const topic = await house.topic()
    const half = await house.mq.half.prepare(topic, { value: 'x', delay: 300 })
    const before = Date.now()
    await half.commit()
    const [message] = await house.arrived(topic, 1)
    expect(message.timestamp).toBeGreaterThanOrEqual(before + 300)
  })
}

function deadLetters(house: House): void {
  async function died(count: number): Promise<string> {
    const topic = await house.topic()
    await house.mq.publish(
      topic,
      upTo(count).map(index => ({ key: `k${index}`, value: String(index) })),
    )
    const worker = house.worker(topic, { retry: false }, fail)
    await house.letters(topic, count)
    await worker.stop()
    return topic
  }

  test('are listed in pages, shown and edited', async () => {
    const topic = await died(5)
    const letters = house.mq.deadLetters(topic, topic)
    const first = await letters.list({ limit: 3 })
    const second = await letters.list({ limit: 3, cursor: first.cursor as string })
    const ids = [...first.letters, ...second.letters].map(({ id }) => id)
    expect(ids).toEqual(['0-0', '0-1', '0-2', '0-3', '0-4'])
    expect(second.cursor).toBeNull()
    await letters.edit('0-1', { value: 'edited' })
    expect(String((await letters.get('0-1')).value)).toBe('edited')
    expect(await letters.count()).toBe(5)
    await expect(letters.get('0-9')).rejects.toMatchObject({ code: 'UNKNOWN_DEAD_LETTER' })
    const tables = await house.mq.deadLetterTables()
    expect(tables).toContainEqual({ topic, group: topic, name: letters.name, count: 5 })
  })

  test('are replayed to the group, or to the topic, and are gone', async () => {
    const topic = await died(4)
    const letters = house.mq.deadLetters(topic, topic)
    await letters.edit('0-0', { value: 'mended' })
    expect(await letters.replay('all', { dryRun: true })).toHaveLength(4)
    expect(await letters.replay(['0-0'])).toEqual(['0-0'])
    expect(await letters.replay(({ id }) => id === '0-1', { to: 'topic' })).toEqual(['0-1'])
    const seen: [string, number, number][] = []
    house.worker(topic, {}, (message, job) => void seen.push([message.text(), job.offset, job.attempt]))
    await expect.poll(() => seen.length, POLL).toBe(2)
    expect(seen.toSorted()).toEqual([
      ['1', 4, 1],
      ['mended', 0, 1],
    ])
    expect(await letters.discard(['0-2'])).toEqual(['0-2'])
    const left = async () => (await letters.list()).letters.map(({ id }) => id)
    await expect.poll(left, POLL).toEqual(['0-3'])
    await expect(letters.replay(['0-0'])).rejects.toMatchObject({ code: 'UNKNOWN_DEAD_LETTER' })
    expect(await letters.discard('all')).toEqual(['0-3'])
    await expect.poll(() => letters.count(), POLL).toBe(0)
  })

  test('that die again are there again', async () => {
    const topic = await died(1)
    const letters = house.mq.deadLetters(topic, topic)
    await letters.replay('all')
    house.worker(topic, { retry: { delays: [PAUSE_MS], attempts: 2 } }, fail)
    const [letter] = await house.letters(topic, 1)
    expect(letter).toMatchObject({ id: '0-0', topic, attempts: 2, reason: 'attempts' })
  })
}

function backlogs(house: House): void {
  const sent = async (): Promise<string> => {
    const topic = await house.topic(2)
    await house.mq.publish(
      topic,
      upTo(20).map(index => ({ partition: index % 2, key: 'k', value: String(index) })),
    )
    return topic
  }

  test('is diverted to another topic, exactly once; what is left is handled', async () => {
    const topic = await sent()
    const elsewhere = await house.topic()
    const group = house.name()
    const backlog = house.mq.backlog(group, topic)
    expect(await backlog.size()).toBe(20)
    const where = (message: Message<unknown, unknown>) => Number(message.text()) >= 6
    expect(await backlog.divert(elsewhere, { limit: 4, where })).toMatchObject({
      count: 4,
      isComplete: false,
    })
    expect(await backlog.divert(elsewhere, { where })).toMatchObject({ count: 10, isComplete: true })
    const diverted = texts(await house.arrived(elsewhere, 14)).map(Number)
    expect(diverted.toSorted((one, other) => one - other)).toEqual(upTo(14).map(index => index + 6))
    const seen: string[] = []
    house.worker(topic, { group }, message => void seen.push(message.text()))
    await expect.poll(() => seen.toSorted(), POLL).toEqual(upTo(6).map(String))
    await expect(backlog.divert(elsewhere)).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' })
  })

  test('is skipped, or shed by age', async () => {
    const topic = await sent()
    const group = house.name()
    const backlog = house.mq.backlog(group, topic)
    expect(await backlog.skip({ count: 3, partition: 0, dryRun: true })).toBe(3)
    expect(await backlog.skip({ count: 3, partition: 0 })).toBe(3)
    expect(await backlog.size()).toBe(17)
    expect(await backlog.shed({ olderThan: '1h' })).toBe(0)
    expect(await backlog.skip({ to: 'latest', partition: 1 })).toBe(10)
    const seen: string[] = []
    house.worker(topic, { group }, message => void seen.push(message.text()))
    await expect.poll(() => seen.map(Number), POLL).toEqual([6, 8, 10, 12, 14, 16, 18])
  })
}
