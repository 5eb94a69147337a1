/** Workers through the public API, over the broker in memory with time in the test's hands. */

import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { json } from '../../src/delivery/codec.ts'
import type { Job } from '../../src/delivery/job.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { topic } from '../../src/delivery/topic.ts'
import type { Member, MemberEvents } from '../../src/engine/engine.ts'
import { SluiceError } from '../../src/errors.ts'
import { open } from '../../src/open.ts'
import { bench, gate } from './worker-bench.ts'

const errors = (): { list: string[]; add: (error: SluiceError) => void } => {
  const list: string[] = []
  return { list, add: error => list.push(error.code) }
}

describe('order', () => {
  it('none: a thousand handlers at a time on one partition', async () => {
    const { mq, publish, settle } = await bench()
    await publish(
      't',
      Array.from({ length: 1_200 }, (_, index) => `${index}`),
      'same key',
    )
    const calls = gate()
    const worker = mq.worker('t', { group: 'g', order: 'none', concurrency: 1_000 }, calls.handle)
    await settle()
    expect(calls.inside).toHaveLength(1_000)
    expect(worker.stats).toMatchObject({ running: 1_000, waiting: 200 })
    for (let index = 0; index < 1_000; index++) calls.open(`${index}`)
    await settle()
    expect(calls.inside).toHaveLength(200)
    for (let index = 1_000; index < 1_200; index++) calls.open(`${index}`)
    await settle()
    expect(worker.stats).toMatchObject({ running: 0, waiting: 0, completed: 1_200 })
  })

  it('key: messages of a key one after the other, keys and messages without one side by side', async () => {
    const { mq, publish, settle } = await bench()
    await publish('t', ['a1', 'a2'], 'a')
    await publish('t', ['b1', 'b2'], 'b')
    await publish('t', ['-1', '-2'])
    const calls = gate()
    mq.worker('t', { group: 'g' }, calls.handle)
    await settle()
    expect(calls.inside.toSorted()).toEqual(['-1', '-2', 'a1', 'b1'])
    calls.open('b1')
    await settle()
    expect(calls.inside.toSorted()).toEqual(['-1', '-2', 'a1', 'b2'])
    calls.open('a1')
    await settle()
    expect(calls.inside).toContain('a2')
  })

  it('partition: one message of each partition at a time', async () => {
    const { mq, until, settle } = await bench()
    await until(mq.createTopic('t', { partitions: 2 }))
    for (const partition of [0, 1]) {
      await until(
        mq.publish(
          't',
          [1, 2].map(number => ({ value: `${partition}/${number}`, partition })),
        ),
      )
    }
    const calls = gate()
    mq.worker('t', { group: 'g', order: 'partition' }, calls.handle)
    await settle()
    expect(calls.inside.toSorted()).toEqual(['0/1', '1/1'])
    calls.open('1/1')
    await settle()
    expect(calls.inside.toSorted()).toEqual(['0/1', '1/2'])
  })

  it('takes no more than concurrency and prefetch say, and goes on as there is room', async () => {
    const { mq, publish, settle } = await bench()
    await publish(
      't',
      Array.from({ length: 50 }, (_, index) => `${index}`),
    )
    const calls = gate()
    const worker = mq.worker('t', { group: 'g', concurrency: 3, prefetch: 10 }, calls.handle)
    await settle()
    expect(worker.stats).toMatchObject({ running: 3, waiting: 7 })
    expect(await worker.lag()).toContainEqual({
      topic: 't',
      partition: 0,
      position: 0,
      endOffset: 50,
      lag: 50,
    })
    for (let index = 0; index < 50; index++) {
      calls.open(`${index}`)
      await settle()
    }
    expect(calls.seen).toHaveLength(50)
    expect(await worker.lag()).toContainEqual({
      topic: 't',
      partition: 0,
      position: 50,
      endOffset: 50,
      lag: 0,
    })
  })
})

describe('what is done', () => {
  it('is not done again by the next owner, and what was not is: each message on its own', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'abcdef')
    const calls = gate()
    const worker = mq.worker('t', { group: 'g' }, calls.handle)
    await settle()
    for (const text of 'bdf') calls.open(text)
    await settle()
    await until(worker.stop({ deadlineMs: 5 }))
    const again = gate()
    mq.worker('t', { group: 'g' }, again.handle)
    await settle()
    expect(again.seen).toEqual(['a', 'c', 'e'])
  })

  it('is committed without being stopped: a consumer that comes after a crash sees the same', async () => {
    const { mq, publish, settle } = await bench()
    await publish('t', 'abc')
    const calls = gate()
    mq.worker('t', { group: 'g' }, calls.handle)
    await settle()
    calls.open('a')
    await settle()
    const [commit] = await mq.engine.committed('g', [{ topic: 't', partition: 0 }])
    expect(commit).toMatchObject({ offset: 1 })
    calls.open('c')
    await settle()
    const [later] = await mq.engine.committed('g', [{ topic: 't', partition: 0 }])
    expect(later.offset).toBe(1)
    expect(later.metadata).not.toBe(commit.metadata)
  })
})

describe('what is not there to be handled', () => {
  it('does not count as being behind: an aborted transaction', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'a')
    mq.worker('t', { group: 'g' }, () => {})
    await settle()
    const aborted = mq.transaction(async tx => {
      await tx.publish('t', { value: 'no' })
      throw new Error('changed my mind')
    })
    await expect(until(aborted)).rejects.toThrow('changed my mind')
    await settle()
    await settle()
    const { partitions } = await until(mq.describeGroup('g'))
    expect(partitions).toContainEqual(expect.objectContaining({ topic: 't', endOffset: 3, lag: 0 }))
  })
})

describe('over a data directory', () => {
  it('a restart repeats what was unfinished, and nothing else', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-'))
    onTestFinished(() => rmSync(directory, { recursive: true }))
    const done: string[] = []
    {
      await using mq = await open(directory)
      await mq.publish(
        't',
        [...'abcdefgh'].map(value => ({ value })),
      )
      const worker = mq.worker('t', { group: 'g', retry: false }, (message, job) => {
        if ('ceg'.includes(message.text())) return once(job.signal, 'abort')
        if (message.text() === 'f') throw new Error('no')
        done.push(message.text())
      })
      await expect
        .poll(() => worker.stats)
        .toMatchObject({ running: 3, completed: 4, deadLettered: 1, waiting: 0 })
      await worker.stop({ deadlineMs: 10 })
    }
    await using mq = await open(directory)
    const worker = mq.worker('t', { group: 'g' }, message => done.push(message.text()))
    await expect.poll(() => worker.stats.completed).toBe(3)
    await worker.stop()
    expect(done).toEqual([...'abdhceg'])
    expect(await mq.deadLetters('t', 'g').count()).toBe(1)
  })
})

describe('stop', () => {
  it('takes nothing new, waits for handlers, commits, and resolves', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'abc')
    const calls = gate()
    const worker = mq.worker('t', { group: 'g', concurrency: 1 }, calls.handle)
    await settle()
    let isStopped = false
    const stopping = worker.stop().then(() => (isStopped = true))
    await settle()
    expect(isStopped).toBe(false)
    calls.open('a')
    await until(stopping)
    await until(worker.done)
    expect(calls.seen).toEqual(['a'])
    expect(await mq.engine.committed('g', [{ topic: 't', partition: 0 }])).toMatchObject([{ offset: 1 }])
  })

  it('leaves handlers alone after the deadline, tells them, and does not count what they do', async () => {
    const { mq, publish, settle, until, clock } = await bench()
    await publish('t', 'a')
    const jobs: Job[] = []
    const calls = gate()
    const worker = mq.worker('t', { group: 'g' }, (message, job) => {
      jobs.push(job)
      return calls.handle(message)
    })
    await settle()
    const stopping = worker.stop({ deadlineMs: 500 })
    await clock.advance(499)
    expect(jobs[0].signal.aborted).toBe(false)
    await clock.advance(1)
    expect(jobs[0].signal.reason).toMatchObject({ code: 'TIMED_OUT' })
    calls.open('a')
    await until(stopping)
    expect(worker.stats).toMatchObject({ running: 0, completed: 0 })
    const again = gate()
    mq.worker('t', { group: 'g' }, again.handle)
    await settle()
    expect(again.seen).toEqual(['a'])
  })

  it('comes with its signal, and with closing the queue', async () => {
    const { mq, settle, until } = await bench()
    const controller = new AbortController()
    const first = mq.worker('t', { group: 'g', signal: controller.signal }, () => {})
    const second = mq.worker('t', { group: 'h' }, () => {})
    await settle()
    controller.abort()
    await until(first.done)
    await until(mq.close())
    await until(second.done)
    expect(() => mq.worker('t', { group: 'g' }, () => {})).toThrow(
      expect.objectContaining({ code: 'CLOSED' }),
    )
  })
})

describe('trouble with the group', () => {
  /** Members of the group, with what the engine tells them. */
  function members(mq: Sluice) {
    const joined: { events: MemberEvents; commit: Member['commit'] | null }[] = []
    const join = mq.engine.join.bind(mq.engine)
    mq.engine.join = async (options, events) => {
      const entry: (typeof joined)[number] = { events, commit: null }
      joined.push(entry)
      const member = await join(options, events)
      const commit = member.commit.bind(member)
      member.commit = offsets => (entry.commit ?? commit)(offsets)
      return member
    }
    return joined
  }

  it('a partition that is lost: its handlers are told, and their outcome does not count', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'ab')
    const joined = members(mq)
    const calls = gate()
    const jobs: Job[] = []
    const revoked: unknown[] = []
    const worker = mq.worker('t', { group: 'g', concurrency: 1 }, (message, job) => {
      jobs.push(job)
      return calls.handle(message)
    })
    worker.on('revoked', partitions => revoked.push(...partitions))
    await settle()
    await joined[0].events.lost([{ topic: 't', partition: 0 }])
    expect(jobs[0].signal.reason).toMatchObject({ code: 'ILLEGAL_GENERATION' })
    expect(revoked).toEqual([{ topic: 't', partition: 0 }])
    calls.open('a')
    await settle()
    expect(worker.stats).toMatchObject({ running: 0, waiting: 0, completed: 0 })
    expect(calls.seen).toEqual(['a'])
    expect(await mq.engine.committed('g', [{ topic: 't', partition: 0 }])).toMatchObject([{ offset: 0 }])
    await joined[0].events.assigned([{ topic: 't', partition: 0 }])
    await settle()
    expect(calls.seen).toEqual(['a', 'a'])
    calls.open('a')
    await settle()
    calls.open('b')
    await until(worker.stop())
    expect(worker.stats.completed).toBe(2)
  })

  it('commits that fail do not keep it from stopping', async () => {
    const { mq, publish, settle, clock } = await bench()
    await publish('t', 'a')
    const joined = members(mq)
    const told = errors()
    const worker = mq.worker('t', { group: 'g' }, () => {})
    worker.on('error', told.add)
    await settle()
    joined[0].commit = () => Promise.reject(new SluiceError('UNAVAILABLE', 'not now'))
    await publish('t', 'b')
    await settle()
    expect(worker.stats.completed).toBe(2)
    let isStopped = false
    void worker.stop({ deadlineMs: 100 }).then(() => (isStopped = true))
    await clock.advance(5_200)
    expect(isStopped).toBe(true)
    expect(new Set(told.list)).toEqual(new Set(['UNAVAILABLE']))
    expect(told.list.length).toBeLessThan(20)
  })
})

describe('a handler that fails', () => {
  it('takes nothing down: thrown, rejected, thrown by a listener; other messages go on', async () => {
    const { mq, publish, settle } = await bench()
    await publish('t', 'abcd')
    const seen: string[] = []
    const told = errors()
    const worker = mq.worker('t', { group: 'g', retry: false }, async message => {
      seen.push(message.text())
      if (message.text() === 'b') throw new Error('no')
    })
    worker.on('error', told.add)
    worker.on('failed', () => {
      throw new Error('a bad listener')
    })
    await settle()
    await publish('t', 'e')
    await settle()
    expect(seen).toEqual(['a', 'b', 'c', 'd', 'e'])
    expect(told.list).toEqual(['INTERNAL'])
    expect(worker.stats).toMatchObject({ completed: 4, failed: 1, deadLettered: 1 })
  })

  it('is tried again as the schedule says, in its place; its key waits, others go on', async () => {
    const { mq, publish, settle, clock } = await bench()
    await publish('t', ['a1', 'a2'], 'a')
    await publish('t', ['b1'], 'b')
    const seen: string[] = []
    const jobs: Job[] = []
    const worker = mq.worker('t', { group: 'g', retry: { delays: ['1s', 5_000] } }, (message, job) => {
      seen.push(message.text())
      if (message.text() !== 'a1') return
      jobs.push(job)
      if (job.attempt < 3) throw new TypeError(`attempt ${job.attempt}`)
    })
    await settle()
    expect(seen).toEqual(['a1', 'b1'])
    expect(worker.stats).toMatchObject({ retrying: 1, waiting: 2 })
    await clock.advance(1_000)
    expect(seen).toEqual(['a1', 'b1', 'a1'])
    await clock.advance(4_900)
    expect(seen).toHaveLength(3)
    await clock.advance(200)
    expect(seen).toEqual(['a1', 'b1', 'a1', 'a1', 'a2'])
    expect(jobs.map(({ attempt }) => attempt)).toEqual([1, 2, 3])
    expect(jobs[0]).toMatchObject({ firstFailureAt: null, lastError: null })
    expect(jobs[2].firstFailureAt).toBe(jobs[1].firstFailureAt)
    expect(jobs[2].lastError).toMatchObject({ name: 'TypeError', message: 'attempt 2' })
  })

  it('keeps its place and its attempts when the worker goes', async () => {
    const { mq, publish, settle, until, clock } = await bench()
    await publish('t', ['a1', 'a2'], 'a')
    await publish('t', ['b1'], 'b')
    const fail = (): never => {
      throw new Error('no')
    }
    const first = mq.worker('t', { group: 'g', retry: { delays: ['10s'] } }, message => {
      if (message.text() === 'a1') fail()
    })
    await settle()
    const failedAt = clock.now()
    await until(first.stop())
    const seen: string[] = []
    mq.worker('t', { group: 'g', retry: { delays: ['10s'] } }, (message, job) => {
      seen.push(`${message.text()} ${job.attempt}`)
      if (message.text() === 'a1') fail()
    })
    await clock.advance(1_000)
    expect(seen).toEqual([])
    await clock.advance(failedAt + 10_100 - clock.now())
    expect(seen).toEqual(['a1 2', 'a2 1'])
  })

  it('becomes a dead letter with its story when its attempts are used up', async () => {
    const { mq, publish, settle, until, clock } = await bench()
    await publish('t', 'x', 'key')
    const died: unknown[] = []
    const worker = mq.worker('t', { group: 'g', retry: { delays: ['1s', '1s'] } }, () => {
      throw new RangeError('out of it')
    })
    worker.on('deadLettered', (message, _job, reason) => died.push([message.text(), reason]))
    await settle()
    const firstFailureAt = clock.now()
    await clock.advance(3_000)
    await settle()
    expect(died).toEqual([['x', 'attempts']])
    const { letters } = await until(mq.deadLetters('t', 'g').list())
    expect(letters).toMatchObject([
      {
        id: '0-0',
        topic: 't',
        partition: 0,
        offset: 0,
        group: 'g',
        attempts: 3,
        reason: 'attempts',
        error: { name: 'RangeError', message: 'out of it' },
      },
    ])
    expect(letters[0].value?.toString()).toBe('x')
    expect(letters[0].key?.toString()).toBe('key')
    expect(letters[0].error.stack).toContain('worker.test')
    expect(letters[0].firstFailureAt).toBeLessThanOrEqual(firstFailureAt)
    expect(letters[0].lastFailureAt - letters[0].firstFailureAt).toBeGreaterThanOrEqual(2_000)
    expect(await mq.engine.committed('g', [{ topic: 't', partition: 0 }])).toMatchObject([{ offset: 1 }])
  })

  it.each([
    ['job.reject', (job: Job) => job.reject('not for us')],
    [
      'REJECTED',
      () => {
        throw new SluiceError('REJECTED', 'not for us')
      },
    ],
  ])('is not tried again after %s', async (_name, reject) => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'x')
    mq.worker('t', { group: 'g' }, (_message, job) => reject(job))
    await settle()
    const { letters } = await until(mq.deadLetters('t', 'g').list())
    expect(letters).toMatchObject([{ reason: 'rejected', attempts: 1, error: { message: 'not for us' } }])
  })

  it('is not tried again when it cannot be decoded', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', ['{"a":1}', 'no json'])
    const seen: unknown[] = []
    mq.worker(topic('t', { value: json<{ a: number }>() }), { group: 'g' }, message =>
      seen.push(message.value),
    )
    await settle()
    expect(seen).toEqual([{ a: 1 }])
    const { letters } = await until(mq.deadLetters('t', 'g').list())
    expect(letters).toMatchObject([{ reason: 'rejected', error: { name: 'SluiceError' } }])
  })

  it('is decided about error by error', async () => {
    const { mq, publish, settle, until, clock } = await bench()
    await publish('t', ['soon'], '1')
    await publish('t', ['dead'], '2')
    await publish('t', ['drop'], '3')
    await publish('t', ['wrong'], '4')
    const seen: string[] = []
    const outcomes: string[] = []
    const told = errors()
    const worker = mq.worker(
      't',
      {
        group: 'g',
        retry: {
          decide: error => {
            const { message } = error as Error
            if (message === 'soon') return { retryInMs: 100 }
            if (message === 'wrong') throw new Error('cannot decide')
            return message === 'dead' ? 'dead-letter' : message === 'drop' ? 'drop' : undefined
          },
        },
      },
      (message, job) => {
        seen.push(message.text())
        if (job.attempt === 1) throw new Error(message.text())
      },
    )
    worker.on('error', told.add)
    worker.on('failed', (message, _error, _job, outcome) =>
      outcomes.push(`${message.text()} ${outcome.kind}`),
    )
    await clock.advance(150)
    expect(outcomes).toEqual(['soon retry', 'dead dead-letter', 'drop drop', 'wrong retry'])
    expect(seen).toEqual(['soon', 'dead', 'drop', 'wrong', 'soon'])
    expect(told.list).toEqual(['INVALID_ARGUMENT'])
    await clock.advance(1_000)
    expect(seen.at(-1)).toBe('wrong')
    await settle()
    expect(await until(mq.deadLetters('t', 'g').count())).toBe(1)
    expect(worker.stats).toMatchObject({ waiting: 0, running: 0 })
  })

  it('leaves no dead letter where none is wanted', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'x')
    const worker = mq.worker('t', { group: 'g', retry: false, deadLetters: false }, () => Promise.reject(1))
    await settle()
    expect(worker.stats).toMatchObject({ failed: 1, waiting: 0 })
    expect(await until(mq.topics({ system: true }))).not.toContain('t.g.dead')
    expect(await mq.engine.committed('g', [{ topic: 't', partition: 0 }])).toMatchObject([{ offset: 1 }])
  })

  it('keeps its own headers, and loses a value of null to nothing', async () => {
    const { mq, settle, until } = await bench()
    await until(mq.publish('t', { value: null, key: 'k', headers: { trace: 'abc' } }))
    mq.worker('t', { group: 'g', retry: false }, () => Promise.reject(new Error('no')))
    await settle()
    const { letters } = await until(mq.deadLetters('t', 'g').list())
    expect(letters[0].value).toBe(null)
    expect(letters[0].headers).toEqual([['trace', Buffer.from('abc')]])
  })
})

describe('later', () => {
  it('where there is no lane, a message is tried again through delay: others pass, and the job tells where it comes from', async () => {
    const { mq, publish, settle, clock, until } = await bench()
    await publish('t', 'abc')
    const seen: string[] = []
    const jobs: Job[] = []
    const worker = mq.worker(
      't',
      { group: 'g', concurrency: 1, retry: { delays: ['2s', '3s'] } },
      (message, job) => {
        seen.push(`${message.text()} ${job.attempt}`)
        if (message.text() !== 'a') return
        jobs.push(job)
        if (job.attempt < 3) throw new TypeError('not yet')
      },
    )
    await settle()
    expect(seen).toEqual(['a 1', 'b 1', 'c 1'])
    expect(worker.stats).toMatchObject({ waiting: 0, retrying: 0 })
    expect(await mq.engine.committed('g', [{ topic: 't', partition: 0 }])).toMatchObject([
      { offset: 3, metadata: '' },
    ])
    await clock.advance(1_900)
    expect(seen).toHaveLength(3)
    await clock.advance(200)
    expect(seen.slice(3)).toEqual(['a 2'])
    await clock.advance(3_100)
    expect(seen.slice(4)).toEqual(['a 3'])
    const [first, , third] = jobs
    expect(third).toMatchObject({ topic: 't', partition: 0, offset: 0, timestamp: first.timestamp })
    expect(third.lastError).toMatchObject({ name: 'TypeError', message: 'not yet' })
    expect(third.firstFailureAt).toBe(jobs[1].firstFailureAt)
    await settle()
    const { partitions, lag } = await until(mq.describeGroup('g'))
    expect(partitions.map(({ topic }) => topic)).toEqual(['t', 't.g.retry'])
    expect(lag, 'markers of transactions are behind it as well').toBe(0)
    expect(worker.stats).toMatchObject({ running: 0, waiting: 0, completed: 3, failed: 2 })
  })

  it('where order is not to be kept, keys do not wait', async () => {
    const { mq, publish, settle, clock } = await bench()
    await publish('t', ['a1', 'a2'], 'a')
    const seen: string[] = []
    mq.worker('t', { group: 'g', retry: { delays: ['1s'], keepOrder: false } }, (message, job) => {
      seen.push(message.text())
      if (message.text() === 'a1' && job.attempt === 1) throw new Error('no')
    })
    await settle()
    expect(seen).toEqual(['a1', 'a2'])
    await clock.advance(1_200)
    expect(seen).toEqual(['a1', 'a2', 'a1'])
  })

  it('a dead letter that is replayed to the group comes to its workers with its attempts anew', async () => {
    const { mq, publish, settle, until } = await bench()
    await publish('t', 'x', 'key')
    const seen: unknown[] = []
    mq.worker('t', { group: 'g', retry: false }, (message, job) => {
      seen.push([message.text(), message.key, job.attempt, job.topic, job.offset])
      if (seen.length === 1) throw new Error('no')
    })
    await settle()
    await until(mq.deadLetters('t', 'g').replay('all'))
    await settle()
    expect(seen).toEqual([
      ['x', 'key', 1, 't', 0],
      ['x', 'key', 1, 't', 0],
    ])
    expect(await until(mq.deadLetters('t', 'g').count())).toBe(0)
  })

  it('a topic of dead letters that was deleted is made again', async () => {
    const { mq, publish, settle, until, clock } = await bench()
    const worker = mq.worker('t', { group: 'g', retry: false }, () => Promise.reject(new Error('no')))
    worker.on('error', () => {})
    await settle()
    await until(mq.deleteTopic('t.g.dead'))
    await publish('t', 'x')
    await clock.advance(1_000)
    expect(await until(mq.deadLetters('t', 'g').count())).toBe(1)
  })
})

describe('a handler that hangs', () => {
  it('is told, fails, and loses its slot; what it does later counts for nothing', async () => {
    const { mq, publish, settle, clock } = await bench()
    await publish('t', 'ab')
    const calls = gate()
    const jobs: Job[] = []
    const events: string[] = []
    const worker = mq.worker(
      't',
      { group: 'g', concurrency: 1, timeout: '2s', retry: false },
      (message, job) => {
        jobs.push(job)
        return calls.handle(message)
      },
    )
    worker.on('timedOut', message => events.push(`timedOut ${message.text()}`))
    worker.on('failed', (message, error) =>
      events.push(`failed ${message.text()} ${(error as SluiceError).code}`),
    )
    await settle()
    await clock.advance(1_900)
    expect(calls.inside).toEqual(['a'])
    await clock.advance(100)
    expect(events).toEqual(['timedOut a', 'failed a TIMED_OUT'])
    expect(jobs[0].signal.reason).toMatchObject({ code: 'TIMED_OUT' })
    expect(calls.inside).toEqual(['a', 'b'])
    calls.open('a')
    await settle()
    expect(worker.stats).toMatchObject({ running: 1, completed: 0, failed: 1 })
    calls.open('b')
    await settle()
    expect(worker.stats).toMatchObject({ running: 0, completed: 1, failed: 1 })
  })
})

describe('the circuit breaker', () => {
  it('hands nothing out while open, one message half-open, and goes on when that succeeds', async () => {
    const { mq, publish, settle, clock } = await bench()
    await publish(
      't',
      Array.from({ length: 20 }, (_, index) => `${index}`),
    )
    let isUp = false
    let calls = 0
    const events: string[] = []
    const worker = mq.worker(
      't',
      {
        group: 'g',
        order: 'partition',
        concurrency: 4,
        retry: { delays: [10], attempts: 100 },
        breaker: { failures: 3, coolDown: '10s' },
      },
      () => {
        calls++
        if (!isUp) throw new Error('down')
      },
    )
    worker.on('circuitOpen', () => events.push('open'))
    worker.on('circuitClosed', () => events.push('closed'))
    await clock.advance(5_000)
    expect(calls).toBe(3)
    expect(events).toEqual(['open'])
    await clock.advance(5_100)
    expect(calls).toBe(4)
    isUp = true
    await clock.advance(9_800)
    expect(calls).toBe(4)
    await clock.advance(300)
    await settle()
    expect(events).toEqual(['open', 'closed'])
    expect(worker.stats).toMatchObject({ completed: 20, deadLettered: 0 })
  })

  it('lets no message run out of attempts while the dependency is down', async () => {
    const { mq, publish, clock } = await bench()
    await publish('t', 'a', 'k')
    let isUp = false
    const worker = mq.worker(
      't',
      { group: 'g', retry: { delays: [10], attempts: 3 }, breaker: { failures: 2, coolDown: 1_000 } },
      () => {
        if (!isUp) throw new Error('down')
      },
    )
    await clock.advance(20_000)
    expect(worker.stats.deadLettered).toBe(0)
    expect(worker.stats.failed).toBeGreaterThan(10)
    isUp = true
    await clock.advance(2_000)
    expect(worker.stats).toMatchObject({ completed: 1, deadLettered: 0 })
  })

  it('opens by rate, and does not count rejections', async () => {
    const { mq, publish, settle, clock } = await bench()
    const worker = mq.worker(
      't',
      { group: 'g', retry: false, breaker: { failures: 1_000, rate: 0.5, messagesMin: 10 } },
      (message, job) => {
        if (message.text() === 'rejected') job.reject('no')
        if (message.text() === 'down') throw new Error('down')
      },
    )
    let opened = 0
    worker.on('circuitOpen', () => opened++)
    await publish('t', [...Array.from({ length: 30 }, () => 'rejected'), 'down'])
    await settle()
    expect(opened).toBe(0)
    await clock.advance(20_000)
    await publish(
      't',
      Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? 'fine' : 'down')),
    )
    await settle()
    expect(opened).toBe(1)
    expect(worker.stats.completed).toBe(5)
  })
})

describe('pause', () => {
  it('hands nothing out until resume', async () => {
    const { mq, publish, settle } = await bench()
    const seen: string[] = []
    const worker = mq.worker('t', { group: 'g' }, message => seen.push(message.text()))
    const events: string[] = []
    worker.on('paused', () => events.push('paused'))
    worker.on('resumed', () => events.push('resumed'))
    await settle()
    worker.pause()
    await publish('t', 'ab')
    await settle()
    expect(seen).toEqual([])
    expect(worker.isPaused).toBe(true)
    worker.resume()
    await settle()
    expect(seen).toEqual(['a', 'b'])
    expect(events).toEqual(['paused', 'resumed'])
  })

  it('comes with a failure where asked for; the message is tried again first', async () => {
    const { mq, publish, settle } = await bench()
    await publish('t', 'abc')
    const seen: string[] = []
    const worker = mq.worker('t', { group: 'g', concurrency: 1, pauseOnFailure: true }, (message, job) => {
      seen.push(message.text())
      if (message.text() === 'a' && job.attempt === 1) throw new Error('no')
    })
    await settle()
    expect(seen).toEqual(['a'])
    expect(worker.isPaused).toBe(true)
    worker.resume()
    await settle()
    expect(seen).toEqual(['a', 'a', 'b', 'c'])
  })
})

describe('members of a group', () => {
  it('share the partitions; what is under way moves on without being done twice', async () => {
    const { mq, until, settle, clock } = await bench()
    await until(mq.createTopic('t', { partitions: 4 }))
    for (let index = 0; index < 40; index++) {
      await until(mq.publish('t', { value: `${index}`, partition: index % 4 }))
    }
    const done: string[] = []
    const calls = gate()
    const first = mq.worker('t', { group: 'g', concurrency: 8 }, async message => {
      await calls.handle(message)
      done.push(message.text())
    })
    await settle()
    expect(calls.inside).toHaveLength(8)
    const others: string[] = []
    mq.worker('t', { group: 'g' }, message => void others.push(message.text()))
    for (let turns = 0; turns < 200; turns++) {
      for (const text of calls.inside) calls.open(text)
      await clock.advance(100)
    }
    const all = [...done, ...others].map(Number).toSorted((one, other) => one - other)
    expect(all).toEqual(Array.from({ length: 40 }, (_, index) => index))
    expect(others.length).toBeGreaterThan(0)
    expect(first.stats.running).toBe(0)
  })
})

describe('options', () => {
  it.each([
    [{ group: '' }],
    [{ group: 'g', concurrency: 0 }],
    [{ group: 'g', order: 'random' }],
    [{ group: 'g', timeout: 'soon' }],
    [{ group: 'g', prefetch: 0 }],
    [{ group: 'g', retry: { delays: ['1 fortnight'] } }],
    [{ group: 'g', retry: { delays: [1], first: 1 } }],
    [{ group: 'g', retry: { first: 1, factor: 0.5 } }],
    [{ group: 'g', retry: { jitter: 2 } }],
    [{ group: 'g', breaker: { failures: 0 } }],
    [{ group: 'g', breaker: { rate: 50 } }],
  ])('refuses %j', async options => {
    const { mq } = await bench()
    expect(() => mq.worker('t', options as never, () => {})).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
  })

  it('an unknown topic ends the worker where topics are not made by themselves', async () => {
    const { mq, until } = await bench({ autoCreateTopics: false })
    const worker = mq.worker('t', { group: 'g' }, () => {})
    const told = errors()
    worker.on('error', told.add)
    await expect(until(worker.done)).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    expect(told.list).toEqual(['UNKNOWN_TOPIC'])
  })
})
