/** Named queues through the public API, over the broker in memory with time in the test's hands. */

import { describe, expect, it } from 'vitest'
import { json } from '../../src/delivery/codec.ts'
import type { Lease } from '../../src/delivery/lease.ts'
import { QueueLength } from '../../src/delivery/queue-length.ts'
import { topic } from '../../src/delivery/topic.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { bench, gate } from './worker-bench.ts'

const texts = (leases: readonly Lease[]): string[] => leases.map(({ message }) => message.text())

describe('a queue', () => {
  it('is registered once under its name; without options the one that is there is given', async () => {
    const { mq, until } = await bench()
    const emails = mq.queue('emails', { partitions: 2 })
    expect(() => mq.queue('emails', {})).toThrow(expect.objectContaining({ code: 'QUEUE_EXISTS' }))
    expect(mq.queue('emails')).toBe(emails)
    expect(mq.queue('others')).not.toBe(emails)
    await until(emails.stop())
    expect(mq.queue('emails', {})).not.toBe(emails)
    await expect(emails.send('x')).rejects.toMatchObject({ code: 'CONSUMER_CLOSED' })
  })

  it('that does not exist is made by sending to it, or is an error, as configured', async () => {
    const { mq, until } = await bench()
    await until(mq.queue('made', { partitions: 3, priorities: 1 }).send('x'))
    expect((await mq.describeTopic('made')).partitions).toHaveLength(3)
    expect((await mq.describeTopic('made.p1')).partitions).toHaveLength(3)
    const strict = await bench({ autoCreateTopics: false })
    const unknown = strict.mq.queue('unknown')
    await expect(strict.until(unknown.send('x'))).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    await strict.until(strict.mq.queue('wanted', { create: true }).send('x'))
  })

  it('is shared by all who work on it: each message is handled by one', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue(topic('jobs', { value: json<number>() }))
    const seen: number[][] = [[], [], []]
    queue.process({ concurrency: 2 }, message => void seen[0].push(message.value))
    queue.process({ concurrency: 2 }, message => void seen[1].push(message.value))
    for (let index = 0; index < 20; index++) await until(queue.send(index))
    await settle()
    for (const lease of await until(queue.receive({ max: 5, waitMs: 10 }))) seen[2].push(lease.message.value)
    expect(seen.flat().toSorted((one, other) => one - other)).toEqual(
      Array.from({ length: 20 }, (_, index) => index),
    )
    expect(await until(queue.length())).toBe(0)
  })

  it('lets one of its handlers go while others stay', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs')
    const calls = gate()
    const first = queue.process({ concurrency: 1 }, calls.handle)
    await until(queue.send('a'))
    await settle()
    const stopping = first.stop()
    await until(queue.send('b'))
    await settle()
    expect(calls.seen).toEqual(['a'])
    calls.open('a')
    await until(stopping)
    const others: string[] = []
    queue.process(message => void others.push(message.text()))
    await settle()
    expect(others).toEqual(['b'])
  })

  it('hands out by priority, the highest first', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { priorities: 2, partitions: 1 })
    const calls = gate()
    queue.process({ concurrency: 1 }, calls.handle)
    await until(queue.send('first'))
    await settle()
    for (const priority of [0, 1, 2, 9]) await until(queue.send(`p${priority}`, { priority }))
    await settle()
    for (const text of ['first', 'p2', 'p9', 'p1', 'p0']) {
      expect(calls.inside).toEqual([text])
      calls.open(text)
      await settle()
    }
  })

  it('retries what its handlers throw, and keeps what cannot be handled as dead letters', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { retry: false })
    queue.process(() => Promise.reject(new Error('no')))
    await until(queue.send('x'))
    await settle()
    const { letters } = await until(mq.deadLetters('jobs', 'jobs').list())
    expect(letters).toMatchObject([{ reason: 'attempts', error: { message: 'no' } }])
    expect(await until(queue.length())).toBe(0)
  })
})

describe('receive', () => {
  it('gives what is there, waits for what comes, and gives nothing if nothing does', async () => {
    const { mq, until, settle, clock } = await bench()
    const queue = mq.queue('jobs')
    expect(await until(queue.receive({ waitMs: 50 }))).toEqual([])
    const waiting = queue.receive({ waitMs: 5_000, max: 10 })
    await clock.advance(1_000)
    await until(queue.send('a'))
    expect(texts((await until(waiting)) as Lease[])).toEqual(['a'])
    await until(queue.send('b'))
    await until(queue.send('c'))
    await settle()
    expect(texts((await until(queue.receive({ max: 10, waitMs: 0 }))) as Lease[]).toSorted()).toEqual([
      'b',
      'c',
    ])
    const none = queue.receive({ waitMs: 60_000 })
    await until(queue.stop({ deadlineMs: 10 }))
    expect(await none).toEqual([])
  })

  it('ack: done, once', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs')
    await until(queue.send('a'))
    const [lease] = await until(queue.receive({ waitMs: 5_000 }))
    expect(lease.deliveryCount).toBe(1)
    lease.ack()
    expect(() => lease.ack()).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    expect(() => lease.nack()).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    await settle()
    expect(await until(queue.length())).toBe(0)
  })

  it('nack: again, behind others, counted; without requeue a dead letter', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { partitions: 1 })
    for (const text of 'ab') await until(queue.send(text))
    const [lease] = await until(queue.receive({ waitMs: 5_000 }))
    lease.nack()
    const again = await until(queue.receive({ max: 2 }))
    expect(texts(again as Lease[])).toEqual(['b', 'a'])
    expect(again[1].deliveryCount).toBe(2)
    again[1].nack({ requeue: false, reason: 'of no use' })
    again[0].ack()
    await settle()
    const { letters } = await until(mq.deadLetters('jobs', 'jobs').list())
    expect(letters).toMatchObject([{ reason: 'rejected', attempts: 2, error: { message: 'of no use' } }])
  })

  it('requeue: again later', async () => {
    const { mq, until, clock } = await bench()
    const queue = mq.queue('jobs', { order: 'partition', partitions: 1 })
    await until(queue.send('a'))
    const [lease] = await until(queue.receive({ waitMs: 5_000 }))
    lease.requeue({ delay: '10s' })
    expect(await until(queue.receive({ waitMs: 9_000 }))).toEqual([])
    await clock.advance(1_100)
    const [again] = await until(queue.receive({ waitMs: 0 }))
    expect(again.deliveryCount).toBe(2)
    again.ack()
  })

  it('visibility: what is not acknowledged in time is handed out again, and a late ack is refused', async () => {
    const { mq, until, settle, clock } = await bench()
    const queue = mq.queue('jobs', { visibility: '5s' })
    const timedOut: string[] = []
    queue.on('timedOut', message => timedOut.push(message.text()))
    await until(queue.send('a'))
    const [lease] = await until(queue.receive({ waitMs: 1_000 }))
    await clock.advance(4_000)
    expect(await until(queue.receive({ waitMs: 0 }))).toEqual([])
    lease.extend('3s')
    await clock.advance(2_900)
    expect(lease.isOver).toBe(false)
    await clock.advance(200)
    expect(lease.isOver).toBe(true)
    expect(lease.job.signal.aborted).toBe(true)
    expect(timedOut).toEqual(['a'])
    const [again] = await until(queue.receive({ waitMs: 0 }))
    expect(again.deliveryCount).toBe(2)
    expect(() => lease.ack()).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    expect(() => lease.extend(1)).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    again.ack()
    await settle()
    expect(queue.stats).toMatchObject({ running: 0, waiting: 0, completed: 1 })
  })

  it('delivery count: after so many a message is a dead letter, and a restart does not forget it', async () => {
    const { mq, until, settle } = await bench()
    const options = { retry: { attempts: 3 } }
    let queue = mq.queue('jobs', options)
    await until(queue.send('a'))
    for (const count of [1, 2, 3]) {
      const [lease] = await until(queue.receive({ waitMs: 5_000 }))
      expect(lease.deliveryCount).toBe(count)
      lease.nack()
      await settle()
      await until(queue.stop())
      queue = mq.queue('jobs', options)
    }
    expect(await until(queue.receive({ waitMs: 5_000 }))).toEqual([])
    expect(await until(mq.deadLetters('jobs', 'jobs').list())).toMatchObject({
      letters: [{ reason: 'attempts', attempts: 3 }],
    })
  })

  it('stop gives leases their time; what is then not acknowledged is handed out again', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { partitions: 1 })
    for (const text of 'ab') await until(queue.send(text))
    const [a, b] = await until(queue.receive({ waitMs: 5_000, max: 2 }))
    const stopping = queue.stop({ deadlineMs: 1_000 })
    await settle()
    a.ack()
    await until(stopping)
    expect(() => b.ack()).toThrow(expect.objectContaining({ code: 'LEASE_EXPIRED' }))
    const again = await until(mq.queue('jobs', {}).receive({ waitMs: 5_000, max: 2 }))
    expect(texts(again as Lease[])).toEqual(['b'])
  })
})

describe('expiry', () => {
  it('of a message: it is a dead letter when its turn comes, and not handed out', async () => {
    const { mq, until, settle, clock } = await bench()
    const queue = mq.queue('jobs', { partitions: 1 })
    await until(queue.send('short', { expiresIn: '1s' }))
    await until(queue.send('long', { expiresIn: '1h' }))
    await until(queue.send('for ever'))
    await clock.advance(2_000)
    expect(texts((await until(queue.receive({ waitMs: 5_000, max: 9 }))) as Lease[])).toEqual([
      'long',
      'for ever',
    ])
    await settle()
    const { letters } = await until(mq.deadLetters('jobs', 'jobs').list())
    expect(letters).toMatchObject([{ reason: 'expired', attempts: 0 }])
    expect(letters[0].value?.toString()).toBe('short')
  })

  it('of a queue: the same for all its messages', async () => {
    const { mq, until, settle, clock } = await bench()
    const queue = mq.queue('jobs', { messageTtl: '10s', partitions: 1 })
    await until(queue.send('a'))
    await clock.advance(6_000)
    await until(queue.send('b'))
    await clock.advance(5_000)
    expect(texts((await until(queue.receive({ waitMs: 100, max: 9 }))) as Lease[])).toEqual(['b'])
    await settle()
    expect(await until(mq.deadLetters('jobs', 'jobs').list())).toMatchObject({
      letters: [{ reason: 'expired' }],
    })
  })
})

describe('a bound on the length', () => {
  it('refuses what is too much, until there is room again', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { lengthMax: 3 })
    for (const text of 'abc') await until(queue.send(text))
    await expect(until(queue.send('d'))).rejects.toMatchObject({
      code: 'QUEUE_FULL',
      detail: { lengthMax: 3 },
    })
    const [lease] = await until(queue.receive({ waitMs: 5_000 }))
    await expect(until(queue.send('d'))).rejects.toMatchObject({ code: 'QUEUE_FULL' })
    lease.ack()
    await settle()
    await until(queue.send('d'))
    expect(await until(queue.length())).toBe(3)
  })

  it('holds when many send at once', async () => {
    const { mq, until } = await bench()
    const queue = mq.queue('jobs', { lengthMax: 10 })
    const outcomes = await until(Promise.allSettled(Array.from({ length: 50 }, () => queue.send('x'))))
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(10)
    expect(await until(queue.length())).toBe(10)
  })

  it('holds when what was sent has not arrived by the time of the next look', async () => {
    const slow = {
      committed: async () => [],
      describeTopic: async () => ({ partitions: [{ partition: 0 }] }),
      offsetFor: async () => 0,
    }
    const length = new QueueLength(slow as unknown as Engine, new VirtualClock(), 'jobs', ['jobs'])
    expect([await length.admit(2), await length.admit(2), await length.admit(2)]).toEqual([true, true, false])
    length.answered()
    expect([await length.admit(2), await length.admit(2)]).toEqual([true, false])
  })

  it('drops the oldest where asked for, as dead letters', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { lengthMax: 3, whenFull: 'drop-head', partitions: 1 })
    const dropped: string[] = []
    queue.on('deadLettered', (message, _job, reason) => dropped.push(`${message.text()} ${reason}`))
    for (const text of 'abcdefg') await until(queue.send(text))
    await settle()
    expect(dropped).toEqual(['a overflow', 'b overflow', 'c overflow', 'd overflow'])
    expect(texts((await until(queue.receive({ waitMs: 5_000, max: 9 }))) as Lease[])).toEqual(['e', 'f', 'g'])
    expect(await until(mq.deadLetters('jobs', 'jobs').count())).toBe(4)
  })
})
