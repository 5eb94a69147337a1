/** What named queues and producers promise that no other test sees whole: many queues side by side, stopping, and a producer without bounds. */

import { describe, expect, it, onTestFinished } from 'vitest'
import { type Job, json, open, topic } from '../../src/index.ts'
import { bench, gate } from './worker-bench.ts'

describe('many queues', () => {
  it('have each a handler and a concurrency of their own', async () => {
    const { mq, until, settle } = await bench()
    const names = Array.from({ length: 30 }, (_, index) => `queue-${index}`)
    const gates = names.map(gate)
    for (const [index, name] of names.entries()) {
      mq.queue(name, { partitions: 2 }).process({ concurrency: 1 + (index % 3) }, gates[index].handle)
    }
    for (const name of names) {
      for (let number = 0; number < 5; number++) await until(mq.queue(name).send(`${name}/${number}`))
    }
    await settle()
    for (const [index, name] of names.entries()) {
      expect(gates[index].inside, name).toHaveLength(1 + (index % 3))
      expect(gates[index].seen.every(text => text.startsWith(`${name}/`))).toBe(true)
    }
    // one that stands still holds up no other
    for (const text of gates[1].inside) gates[1].open(text)
    await settle()
    expect([gates[1].seen.length, gates[4].seen.length]).toEqual([4, 2])
  })

  it('fail each on its own: what one handler throws is nothing to the others', async () => {
    const { mq, until, settle } = await bench()
    const handled: string[] = []
    mq.queue('bad', { retry: false }).process(() => {
      throw new Error('no')
    })
    mq.queue('good').process(async message => void handled.push(message.text()))
    await until(mq.queue('bad').send('a'))
    await until(mq.queue('good').send('b'))
    await settle()
    await until(mq.queue('bad').send('c'))
    await until(mq.queue('good').send('d'))
    await settle()
    expect(handled).toEqual(['b', 'd'])
    expect(await until(mq.deadLetters('bad', 'bad').count())).toBe(2)
    expect(mq.queue('bad').stats).toMatchObject({ failed: 2, deadLettered: 2, running: 0 })
  })
})

describe('stopping a queue', () => {
  it('takes nothing new, lets handlers finish, commits what they finished; what was not begun comes after the next start', async () => {
    const { mq, until, settle } = await bench()
    const queue = mq.queue('jobs', { partitions: 1 })
    const calls = gate()
    queue.process({ concurrency: 2 }, calls.handle)
    for (const text of 'abcd') await until(queue.send(text))
    await settle()
    let isStopped = false
    const stopping = queue.stop().then(() => (isStopped = true))
    calls.open('a')
    await settle()
    expect([isStopped, calls.inside]).toEqual([false, ['b']])
    calls.open('b')
    await until(stopping)
    expect(calls.seen).toEqual(['a', 'b'])
    expect(await mq.engine.committed('jobs', [{ topic: 'jobs', partition: 0 }])).toMatchObject([
      { offset: 2 },
    ])
    const again: string[] = []
    mq.queue('jobs', {}).process(message => void again.push(message.text()))
    await settle()
    expect(again).toEqual(['c', 'd'])
  })

  it('waits no longer than its deadline; what a handler does after that counts for nothing', async () => {
    const { mq, until, settle, clock } = await bench()
    const queue = mq.queue('jobs', { partitions: 1 })
    const calls = gate()
    const jobs: Job[] = []
    queue.process((message, job) => {
      jobs.push(job)
      return calls.handle(message)
    })
    await until(queue.send('a'))
    await settle()
    let isStopped = false
    const stopping = queue.stop({ deadlineMs: 500 }).then(() => (isStopped = true))
    await clock.advance(499)
    expect([isStopped, jobs[0].signal.aborted]).toEqual([false, false])
    await clock.advance(10)
    expect([isStopped, jobs[0].signal.aborted]).toEqual([true, true])
    calls.open('a')
    await until(stopping)
    const again: string[] = []
    mq.queue('jobs', {}).process(message => void again.push(message.text()))
    await settle()
    expect(again).toEqual(['a'])
  })

  it('comes with closing, within the deadline of that, and loses nothing that was accepted before', async () => {
    const { mq, until, settle, clock } = await bench()
    const calls = gate()
    mq.queue('jobs', { partitions: 1 }).process(calls.handle)
    await until(mq.queue('jobs').send('a'))
    await settle()
    const accepted = Promise.all(['b', 'c'].map(text => mq.publish('others', { value: text })))
    let isClosed = false
    void mq.close({ deadlineMs: 200 }).then(() => (isClosed = true))
    await clock.advance(250)
    expect(isClosed).toBe(true)
    expect((await accepted).map(({ offset }) => offset)).toEqual([0, 1])
  })
})

describe('a producer that is faster than the log', () => {
  const value = Buffer.alloc(1_000)

  it('is refused by name when its buffer is full, and nothing is lost without being told', async () => {
    const mq = await open('memory:')
    onTestFinished(() => mq.close())
    const producer = mq.producer({ bufferBytesMax: 20_000, whenFull: 'reject' })
    await producer.send('t', { value })
    const outcomes = await Promise.allSettled(
      Array.from({ length: 100 }, () => producer.send('t', { value })),
    )
    const refused = outcomes.filter(outcome => outcome.status === 'rejected')
    expect(refused.length).toBeGreaterThan(70)
    for (const { reason } of refused) expect(reason).toMatchObject({ code: 'BUFFER_FULL', retriable: true })
    expect(await mq.offsetFor('t', 0, 'latest')).toBe(101 - refused.length)
    await producer.send('t', { value })
  })

  it('waits its turn by default, so that all are stored, in the order of the calls', async () => {
    const mq = await open('memory:')
    onTestFinished(() => mq.close())
    const producer = mq.producer({ bufferBytesMax: 2_000 })
    const numbers = topic('numbers', { value: json<number>() })
    const first = await producer.send(numbers, { value: 0 })
    const others = Array.from({ length: 499 }, (_, n) => producer.send(numbers, { value: n + 1 }))
    const places = [first, ...(await Promise.all(others))]
    expect(places.map(({ offset }) => offset)).toEqual(Array.from({ length: 500 }, (_, n) => n))
    const seen: number[] = []
    for await (const message of mq.consumer({ topics: [numbers] }))
      if (seen.push(message.value) === 500) break
    expect(seen).toEqual(Array.from({ length: 500 }, (_, n) => n))
  })

  it('is refused after maxBlockMs when there is no room, and memory holds no more than the buffer', async () => {
    const { mq, clock, settle, until } = await bench()
    await until(mq.createTopic('t'))
    const producer = mq.producer({ bufferBytesMax: 5_000, lingerMs: 100_000, maxBlockMs: 50 })
    // the log answers nothing for a while
    const { produce } = mq.engine
    Object.assign(mq.engine, { produce: () => new Promise(() => {}) })
    onTestFinished(() => void Object.assign(mq.engine, { produce }))
    const codes: string[] = []
    for (let count = 0; count < 20; count++) {
      producer.send('t', { value }).catch((error: { code: string }) => codes.push(error.code))
    }
    await settle()
    expect(codes).toEqual([])
    await clock.advance(50)
    expect(codes.length).toBeGreaterThanOrEqual(15)
    expect(new Set(codes)).toEqual(new Set(['BUFFER_FULL']))
    await until(producer.close({ deadlineMs: 10 }))
    expect(codes).toHaveLength(20)
  })
})
