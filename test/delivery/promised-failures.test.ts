/** What is promised about messages that fail: the schedule by default, exponential pauses, all of a dead letter, throttled replay, and who is told. */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type Alert, open, type RetryOptions } from '../../src/index.ts'
import { bench, gate } from './worker-bench.ts'

/** When a handler that always fails is called, after the first time, in milliseconds; then the message is dead. */
async function attempts(retry: RetryOptions | undefined, forMs: number): Promise<number[]> {
  const { mq, publish, settle, clock, until } = await bench()
  await publish('t', 'x', 'key')
  const at: number[] = []
  mq.worker('t', { group: 'g', retry }, () => {
    at.push(clock.now())
    throw new Error('no')
  })
  await settle()
  await clock.advance(forMs)
  await settle()
  expect(await until(mq.deadLetters('t', 'g').count())).toBe(1)
  return at.slice(1).map(time => time - at[0])
}

/** Differences of `times` from one to the next. */
const pauses = (times: readonly number[]) => times.map((time, index) => time - (times[index - 1] ?? 0))

describe('retries', () => {
  it.each([
    ['in place', {}],
    ['later', { keepOrder: false }],
  ])(
    '%s come by default after 1 s, 5 s, 30 s, 1 min and 5 min; then the message is dead',
    async (_, retry) => {
      const told = pauses(await attempts(retry, 420_000))
      expect(told).toHaveLength(5)
      for (const [index, ms] of [1_000, 5_000, 30_000, 60_000, 300_000].entries()) {
        expect(told[index]).toBeGreaterThanOrEqual(ms)
        expect(told[index]).toBeLessThan(ms + 200)
      }
    },
  )

  it('come exponentially where asked for: each pause so many times the one before, up to the longest', async () => {
    const told = pauses(
      await attempts({ first: '1s', factor: 3, max: '20s', attempts: 6, jitter: 0 }, 120_000),
    )
    expect(told.map(ms => Math.round(ms / 100) * 100)).toEqual([1_000, 3_000, 9_000, 20_000, 20_000])
  })

  it('come with jitter: what failed together does not come back together, and nothing later than it may', async () => {
    const { mq, publish, settle, clock } = await bench()
    await publish(
      't',
      Array.from({ length: 40 }, (_, index) => `${index}`),
    )
    const again = new Set<number>()
    mq.worker('t', { group: 'g', concurrency: 40, retry: { first: '10s', jitter: 0.5 } }, (_message, job) => {
      if (job.attempt === 1) throw new Error('no')
      again.add(Math.floor((clock.now() - (job.firstFailureAt ?? 0)) / 500))
    })
    await settle()
    await clock.advance(10_500)
    expect(again.size).toBeGreaterThan(4)
    expect(Math.min(...again)).toBeGreaterThanOrEqual(10)
    expect(Math.max(...again)).toBeLessThanOrEqual(20)
  })
})

describe('a dead letter', () => {
  it('tells the same whatever it died of: topic, partition, offset, group, attempts, times, error', async () => {
    const { mq, until, settle, clock } = await bench()
    const options = { partitions: 1, lengthMax: 3, whenFull: 'drop-head' as const, retry: { delays: ['1s'] } }
    const queue = mq.queue('jobs', options)
    queue.process({ concurrency: 1 }, (message, job) => {
      if (message.text() === 'rejected') job.reject('not for us')
      throw new RangeError('out of it')
    })
    const startedAt = clock.now()
    await until(queue.send('rejected'))
    await until(queue.send('attempts'))
    await clock.advance(2_000)
    queue.pause()
    await until(queue.send('expired', { expiresIn: '1s' }))
    await clock.advance(1_500)
    queue.resume()
    await settle()
    queue.pause()
    for (const value of ['overflow', 'a', 'b', 'c']) await until(queue.send(value))
    await settle()
    const { letters } = await until(mq.deadLetters('jobs', 'jobs').list())
    expect(letters.map(({ value, reason }) => [String(value), reason])).toEqual([
      ['rejected', 'rejected'],
      ['attempts', 'attempts'],
      ['expired', 'expired'],
      ['overflow', 'overflow'],
    ])
    expect(letters.map(letter => letter.attempts)).toEqual([1, 2, 0, 0])
    expect(letters.map(({ error }) => `${error.name}: ${error.message}`)).toEqual([
      expect.stringContaining('not for us'),
      'RangeError: out of it',
      expect.stringMatching(/^Expired: ./),
      expect.stringMatching(/^Overflow: ./),
    ])
    for (const [offset, letter] of letters.entries()) {
      expect(letter).toMatchObject({ topic: 'jobs', partition: 0, offset, group: 'jobs' })
      expect(letter.timestamp).toBeGreaterThanOrEqual(startedAt)
      expect(letter.firstFailureAt).toBeGreaterThanOrEqual(letter.timestamp)
      expect(letter.lastFailureAt).toBeGreaterThanOrEqual(letter.firstFailureAt)
      expect(letter.deadAt).toBeGreaterThanOrEqual(letter.lastFailureAt)
    }
    expect(letters[1].lastFailureAt - letters[1].firstFailureAt).toBeGreaterThanOrEqual(1_000)
  })

  it('is replayed no faster than asked, and the replay can be ended in the middle', async () => {
    const { mq, publish, settle, until, clock } = await bench()
    await publish(
      't',
      Array.from({ length: 100 }, (_, index) => `${index}`),
    )
    const worker = mq.worker('t', { group: 'g', retry: false, concurrency: 100 }, () => {
      throw new Error('no')
    })
    await settle()
    await until(worker.stop())
    const letters = mq.deadLetters('t', 'g')
    expect(await until(letters.count())).toBe(100)
    const startedAt = clock.monotonic()
    const stopping = new AbortController()
    const replaying = letters.replay('all', {
      to: { topic: 'again' },
      perSecond: 20,
      signal: stopping.signal,
    })
    for (let seconds = 1; seconds <= 3; seconds++) {
      await clock.advance(startedAt + seconds * 1_000 - clock.monotonic() - 1)
      const left = await letters.count()
      expect(100 - left).toBeLessThanOrEqual(seconds * 20)
      expect(100 - left).toBeGreaterThan(seconds * 20 - 4)
    }
    stopping.abort()
    const replayed = await until(replaying)
    expect(replayed.length).toBeLessThanOrEqual(62)
    expect(await until(letters.count())).toBe(100 - replayed.length)
  })
})

describe('who is told', () => {
  it('of a message that a worker could not handle: listeners and webhooks, with the severity that was asked for', async () => {
    const posted: Alert[] = []
    const receiver = createServer(async (request, response) => {
      posted.push(JSON.parse(await text(request)))
      response.end()
    })
    await new Promise<void>(resolve => receiver.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void receiver.close())
    const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
    const mq = await open('memory:')
    onTestFinished(() => mq.close())
    const alerts = mq.alerts({ webhooks: [url], everyMs: 3_600_000, deadLetters: 'critical' })
    await alerts.look()
    const told: Alert[] = []
    alerts.on('alert', alert => told.push(alert))
    await mq.publish('orders', [{ value: 'a' }, { value: 'b' }])
    const worker = mq.worker('orders', { group: 'billing', retry: false }, () => {
      throw new Error('no')
    })
    await expect.poll(() => mq.deadLetters('orders', 'billing').count()).toBe(2)
    await worker.stop()
    await alerts.look()
    expect(told).toMatchObject([
      { kind: 'dead-letters', severity: 'critical', subject: 'orders.billing.dead', count: 2 },
    ])
    expect(posted).toEqual(told)
  })

  it('of a group that is stuck as well as behind: both, and neither is over before it is', async () => {
    const { mq, publish, until, clock } = await bench()
    await publish('t', 'abcd')
    await until(mq.commitOffsets('g', [{ topic: 't', partition: 0, offset: 1 }]))
    const told: string[] = []
    const alerts = mq.alerts({
      everyMs: 1_000,
      lag: [{ above: 1, severity: 'warning' }],
      stuck: { afterMs: 60_000, severity: 'critical' },
    })
    alerts.on('alert', ({ kind, severity, resolved }) => told.push(`${kind} ${severity} ${resolved}`))
    await clock.advance(90_000)
    expect(told).toEqual(['lag warning false', 'stuck-group critical false'])
    await until(mq.commitOffsets('g', [{ topic: 't', partition: 0, offset: 2 }]))
    await clock.advance(1_500)
    expect(told.slice(2)).toEqual(['stuck-group info true'])
    await until(mq.commitOffsets('g', [{ topic: 't', partition: 0, offset: 4 }]))
    await clock.advance(1_500)
    expect(told.slice(3)).toEqual(['lag info true'])
  })

  it('not of a group that has one message to try again and goes on with the others', async () => {
    const { mq, publish, until, clock, settle } = await bench()
    await publish('t', 'x', 'bad')
    const told: Alert[] = []
    const alerts = mq.alerts({ everyMs: 1_000, stuck: { afterMs: 60_000, severity: 'critical' } })
    alerts.on('alert', alert => told.push(alert))
    const worker = mq.worker('t', { group: 'g', retry: { delays: ['1h'] } }, message => {
      if (message.key === 'bad') throw new Error('no')
    })
    await settle()
    for (let number = 0; number < 10; number++) {
      await publish('t', `${number}`, `good ${number}`)
      await clock.advance(20_000)
    }
    expect(worker.stats).toMatchObject({ completed: 10, retrying: 1 })
    expect(await mq.engine.committed('g', [{ topic: 't', partition: 0 }])).toMatchObject([{ offset: 0 }])
    expect(told).toEqual([])
    // nothing more comes: the one that waits is all that it is behind, and does not move
    await clock.advance(90_000)
    expect(told).toMatchObject([{ kind: 'stuck-group', subject: 'g', count: 1 }])
    await until(worker.stop())
  })

  it('of the end: a webhook that does not answer keeps no worker from stopping', async () => {
    const answers: (() => void)[] = []
    const hanging = createServer((_request, response) => void answers.push(() => response.end()))
    await new Promise<void>(resolve => hanging.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      hanging.closeAllConnections()
      hanging.close()
    })
    const mq = await open('memory:')
    await mq.publish('orders', [{ value: 'a' }, { value: 'b' }])
    await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 0 }])
    const url = `http://127.0.0.1:${(hanging.address() as AddressInfo).port}/`
    mq.alerts({ webhooks: [url], lag: [{ above: 1, severity: 'warning' }], webhookTimeoutMs: 60_000 })
    await expect.poll(() => answers.length).toBe(1)
    const calls = gate()
    const worker = mq.worker('orders', { group: 'other', concurrency: 1 }, calls.handle)
    await expect.poll(() => calls.inside).toEqual(['a'])
    const closing = mq.close()
    await new Promise(resolve => setImmediate(resolve))
    calls.open('a')
    await worker.done
    expect(calls.seen).toEqual(['a'])
    answers[0]()
    await closing
  })
})
