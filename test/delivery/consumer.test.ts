import { once } from 'node:events'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import type { Consumer } from '../../src/delivery/consumer.ts'
import type { ConsumerOptions } from '../../src/delivery/consumer-options.ts'
import type { Message, MessageBatch } from '../../src/delivery/message.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import { SluiceError } from '../../src/errors.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { FakeEngine } from './fake-engine.ts'

interface Bench {
  readonly engine: FakeEngine
  readonly clock: VirtualClock
  readonly mq: Sluice
  consumer(options?: Partial<ConsumerOptions<string>>): Consumer<string>
  /** Stores texts, in batches of their own or together. */
  store(texts: string | string[], partition?: number): void
  settle(): Promise<void>
}

/** A queue over a fake engine with topic `t`; `consumer()` reads it in group `g`. */
async function bench(partitions = 1): Promise<Bench> {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock, autoCreateTopics: false })
  await engine.createTopic({ name: 't', partitions })
  const mq = new Sluice(engine, { clock, autoCreateTopics: false })
  onTestFinished(async () => {
    const closing = mq.close()
    await clock.advance(60_000)
    await closing
  })
  return {
    engine,
    clock,
    mq,
    // handlers that a test leaves hanging are given up by close, which is an error event
    consumer: options => mq.consumer({ topics: ['t'], group: 'g', ...options }).on('error', () => {}),
    store(texts, partition = 0) {
      for (const batch of typeof texts === 'string' ? [...texts].map(text => [text]) : [texts]) {
        engine.append('t', partition, batchOf(batch, clock.now()))
      }
    },
    settle: () => clock.runDeferred(),
  }
}

function batchOf(texts: string[], timestamp = 0): Buffer {
  const builder = new BatchBuilder()
  for (const text of texts) builder.append(timestamp, null, text, null)
  return Buffer.from(builder.close())
}

/** A handler that waits, each call until it is let go. */
function gate() {
  const waiting: (() => void)[] = []
  const seen: string[] = []
  return {
    seen,
    handle: (message: Message) => {
      seen.push(message.text())
      return new Promise<void>(resolve => waiting.push(resolve))
    },
    open: () => waiting.shift()!(),
    get inside() {
      return waiting.length
    },
  }
}

const at = (partition: number) => ({ topic: 't', partition })

describe('run', () => {
  it('hands out what is there and what comes, in order', async () => {
    const { consumer, store, settle } = await bench()
    store('ab')
    const seen: string[] = []
    void consumer().run(message => seen.push(message.text()))
    await settle()
    store(['c', 'd'])
    await settle()
    expect(seen.join('')).toBe('abcd')
  })

  it('waits for each handler before the next message of the partition', async () => {
    const { consumer, store, settle } = await bench()
    store(['a', 'b', 'c'])
    const door = gate()
    void consumer().run(door.handle)
    await settle()
    expect(door.seen).toEqual(['a'])
    door.open()
    await settle()
    expect(door.seen).toEqual(['a', 'b'])
  })

  it('runs as many partitions side by side as told, never two messages of one', async () => {
    const { consumer, store, settle } = await bench(4)
    for (const partition of [0, 1, 2, 3]) store('xy', partition)
    const door = gate()
    void consumer({ concurrency: 3, partitionBytesMax: 1 }).run(door.handle)
    await settle()
    expect(door.seen).toEqual(['x', 'x', 'x'])
  })

  it('leaves a slot empty rather than take two messages of one partition', async () => {
    const { consumer, store, settle } = await bench()
    store('abc')
    const door = gate()
    void consumer({ concurrency: 3, partitionBytesMax: 1 }).run(door.handle)
    await settle()
    store('d')
    await settle()
    expect(door.seen).toEqual(['a'])
  })

  it('is fair to partitions', async () => {
    const { consumer, store, settle } = await bench(3)
    for (const partition of [0, 1, 2]) store('abcdef', partition)
    const counts = [0, 0, 0]
    let widest = 0
    void consumer({ partitionBytesMax: 1 }).run(({ partition }) => {
      counts[partition]++
      widest = Math.max(widest, Math.max(...counts) - Math.min(...counts))
    })
    await settle()
    expect(counts).toEqual([6, 6, 6])
    expect(widest).toBeLessThanOrEqual(2)
  })

  it('fetches the next batch while handlers run, and no more than that', async () => {
    const { consumer, store, settle, engine } = await bench()
    store('abcdef')
    const door = gate()
    void consumer({ partitionBytesMax: 1 }).run(door.handle)
    await settle()
    const before = engine.fetches
    await settle()
    expect([before, engine.fetches]).toEqual([2, 2])
    door.open()
    await settle()
    expect(engine.fetches).toBe(3)
  })

  it('keeps what it has fetched within bufferBytesMax', async () => {
    const { consumer, engine, settle } = await bench(8)
    for (let partition = 0; partition < 8; partition++) {
      for (let index = 0; index < 4; index++) engine.append('t', partition, batchOf(['x'.repeat(100_000)]))
    }
    const asked = vi.spyOn(engine, 'fetch')
    const door = gate()
    void consumer({ bufferBytesMax: 400_000 }).run(door.handle)
    await settle()
    expect(asked).toHaveBeenCalledTimes(1)
    for (let message = 0; message < 32; message++) {
      door.open()
      await settle()
    }
    expect(door.seen).toHaveLength(32)
  })

  it('rejects with what the handler throws, after committing what was handled', async () => {
    const { consumer, store, settle, engine } = await bench()
    store(['a', 'b', 'c'])
    const failed = consumer().run(message => {
      if (message.text() === 'c') throw new Error('cannot')
    })
    await expect(Promise.all([failed, settle()])).rejects.toThrow('cannot')
    expect(engine.committedOffset('g', 't')).toBe(2)
    expect((await engine.describeGroup('g')).members).toEqual([])
  })

  it('does the same for a handler that rejects, and lets the others finish', async () => {
    const { consumer, store, settle, engine } = await bench(2)
    store(['a', 'b'], 0)
    store(['x', 'y'], 1)
    const door = gate()
    const running = consumer({ concurrency: 2 }).run(async message => {
      if (message.text() === 'a') throw undefined
      await door.handle(message)
    })
    let isOver = false
    running.catch(() => {
      isOver = true
    })
    await settle()
    expect(isOver).toBe(false)
    door.open()
    await settle()
    expect(isOver).toBe(true)
    expect(engine.committedOffset('g', 't', 0)).toBe(0)
    expect(engine.committedOffset('g', 't', 1)).toBe(1)
  })

  it('may be run again after a failure', async () => {
    const { consumer, store, settle } = await bench()
    store('ab')
    const again = consumer()
    const seen: string[] = []
    const failed = again.run(message => {
      seen.push(message.text())
      if (message.text() === 'b') throw new Error('once')
    })
    await expect(Promise.all([failed, settle()])).rejects.toThrow('once')
    void again.run(message => seen.push(message.text()))
    await settle()
    expect(seen).toEqual(['a', 'b', 'b'])
  })

  it('runs once at a time', async () => {
    const { consumer, settle } = await bench()
    const busy = consumer()
    void busy.run(() => {})
    await expect(busy.run(() => {})).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(() => busy[Symbol.asyncIterator]()).toThrow(/running already/)
    await settle()
  })

  it('rejects when reading cannot go on', async () => {
    const { mq } = await bench()
    await expect(mq.consumer({ topics: ['nowhere'] }).run(() => {})).rejects.toMatchObject({
      code: 'UNKNOWN_TOPIC',
    })
  })

  it('goes on after an error that passes, and tells', async () => {
    const { consumer, store, clock, engine } = await bench()
    store('a')
    engine.failNext('fetch', 'TIMED_OUT', 2)
    engine.failNext('committed', 'TIMED_OUT')
    const seen: string[] = []
    const errors: string[] = []
    const reader = consumer()
    reader.on('error', error => errors.push(error.code))
    void reader.run(message => seen.push(message.text()))
    await clock.advance(1_000)
    expect(seen).toEqual(['a'])
    expect(errors).toEqual(['TIMED_OUT', 'TIMED_OUT', 'TIMED_OUT'])
  })

  it('reports damage where it lies, after what comes before it, and can seek past it', async () => {
    const { consumer, store, settle, engine } = await bench()
    store('ab')
    engine.setError('t', 0, new SluiceError('CORRUPT_LOG', 'segment 0 is damaged at 123', { position: 123 }))
    const seen: string[] = []
    const reader = consumer()
    const failed = reader.run(message => seen.push(message.text()))
    await expect(Promise.all([failed, settle()])).rejects.toMatchObject({ code: 'CORRUPT_LOG' })
    expect(seen).toEqual(['a', 'b'])
    engine.setError('t', 0, null)
    store('xyz')
    await reader.seek({ ...at(0), offset: 4 })
    void reader.run(message => seen.push(message.text()))
    await settle()
    expect(seen).toEqual(['a', 'b', 'z'])
  })

  it('passes over batches that hold nothing for it', async () => {
    const { consumer, settle, engine, clock } = await bench()
    const marker = new BatchBuilder()
    marker.append(0, null, 'commit', null)
    engine.append('t', 0, Buffer.from(marker.close({ control: true })))
    void consumer().run(() => expect.unreachable())
    await settle()
    await clock.advance(1_000)
    expect(engine.committedOffset('g', 't')).toBe(1)
  })
})

describe('runBatch', () => {
  it('hands out what a fetch brought of a partition', async () => {
    const { consumer, store, settle, engine } = await bench()
    store(['a', 'b'])
    store(['c'])
    const batches: MessageBatch[] = []
    const reader = consumer()
    void reader.runBatch(batch => void batches.push(batch))
    await settle()
    expect(batches.map(({ firstOffset, lastOffset, count }) => [firstOffset, lastOffset, count])).toEqual([
      [0, 2, 3],
    ])
    expect([...batches[0]].map(message => message.text())).toEqual(['a', 'b', 'c'])
    const stopping = reader.stop()
    await settle()
    await stopping
    expect(engine.committedOffset('g', 't')).toBe(3)
  })

  it('counts a batch as handled when its handler is done', async () => {
    const { consumer, store, settle, clock, engine } = await bench()
    store(['a', 'b'])
    let finish = () => {}
    void consumer().runBatch(
      () =>
        new Promise<void>(resolve => {
          finish = resolve
        }),
    )
    await clock.advance(2_000)
    expect(engine.committedOffset('g', 't')).toBe(0)
    finish()
    await clock.advance(1_000)
    expect(engine.committedOffset('g', 't')).toBe(2)
    await settle()
  })

  it('begins in the middle of a stored batch where the position is', async () => {
    const { consumer, store, settle } = await bench()
    store(['a', 'b', 'c'])
    const texts: string[] = []
    void consumer({ from: 1 }).runBatch(batch => {
      for (const message of batch) texts.push(message.text())
    })
    await settle()
    expect(texts).toEqual(['b', 'c'])
  })
})

describe('for await', () => {
  it('hands out messages, and stops the consumer when the loop is left', async () => {
    const { consumer, store, engine, settle } = await bench()
    store(['a', 'b', 'c'])
    const reader = consumer()
    const seen: string[] = []
    const loop = (async () => {
      for await (const message of reader) {
        seen.push(message.text())
        if (seen.length === 2) break
      }
    })()
    await settle()
    await loop
    expect(seen).toEqual(['a', 'b'])
    expect(engine.committedOffset('g', 't')).toBe(1) // the loop never came back from b
    await expect(reader.run(() => {})).rejects.toMatchObject({ code: 'CONSUMER_CLOSED' })
  })

  it('commits what the loop commits before it leaves', async () => {
    const { consumer, store, engine, settle } = await bench()
    store(['a', 'b'])
    const reader = consumer({ autoCommit: false })
    const loop = (async () => {
      for await (const message of reader) {
        await reader.commit(message)
        break
      }
    })()
    await settle()
    await loop
    expect(engine.committedOffset('g', 't')).toBe(1)
  })

  it('waits for messages, and ends when the consumer is stopped', async () => {
    const { consumer, store, settle } = await bench()
    const reader = consumer()
    const seen: string[] = []
    const loop = (async () => {
      for await (const message of reader) seen.push(message.text())
    })()
    await settle()
    store('ab')
    await settle()
    expect(seen).toEqual(['a', 'b'])
    void reader.stop()
    await settle()
    await loop
  })

  it('throws what ends the reading', async () => {
    const { consumer, engine, settle } = await bench()
    engine.setError('t', 0, new SluiceError('CORRUPT_LOG', 'damaged'))
    const loop = (async () => {
      for await (const _ of consumer()) expect.unreachable()
    })()
    await expect(Promise.all([loop, settle()])).rejects.toMatchObject({ code: 'CORRUPT_LOG' })
  })

  it('takes turns among partitions, batch by batch', async () => {
    const { consumer, store, settle } = await bench(2)
    store('ab', 0)
    store('xy', 1)
    const seen: string[] = []
    const reader = consumer({ partitionBytesMax: 1 })
    const loop = (async () => {
      for await (const message of reader) if (seen.push(message.text()) === 4) break
    })()
    await settle()
    await loop
    expect(seen.slice(0, 2).sort()).toEqual(['a', 'x'])
  })
})

describe('where a consumer begins', () => {
  it.each([
    ['earliest', 'abc'],
    ['latest', ''],
    [2, 'c'],
    [{ time: 1_500 }, 'bc'],
    [{ time: new Date(9_999) }, ''],
  ] as const)('from %j', async (from, expected) => {
    const { consumer, settle, engine } = await bench()
    for (const [index, text] of ['a', 'b', 'c'].entries())
      engine.append('t', 0, batchOf([text], 1_000 * (index + 1)))
    let seen = ''
    void consumer({ from }).run(message => void (seen += message.text()))
    await settle()
    expect(seen).toBe(expected)
  })

  it('is the commit of its group, if there is one', async () => {
    const { consumer, settle, store, mq } = await bench()
    store('abc')
    await mq.commitOffsets('g', [{ ...at(0), offset: 2 }])
    let seen = ''
    void consumer({ from: 'latest' }).run(message => void (seen += message.text()))
    await settle()
    expect(seen).toBe('c')
  })

  it('stays where it began when it is stopped before anything came', async () => {
    const { consumer, settle, store } = await bench()
    store('a')
    const first = consumer({ from: 'latest' })
    void first.run(() => {})
    await settle()
    void first.stop()
    await settle()
    store('b') // nobody is reading
    let seen = ''
    void consumer({ from: 'latest' }).run(message => void (seen += message.text()))
    await settle()
    expect(seen).toBe('b')
  })

  it('moves to an end of the log when its position is gone, and says so', async () => {
    const { consumer, settle, store, mq } = await bench()
    store('abcd')
    await mq.commitOffsets('g', [{ ...at(0), offset: 1 }])
    await mq.deleteRecords('t', 0, 3)
    const reader = consumer()
    const changes: unknown[] = []
    reader.on('outOfRange', change => changes.push(change))
    let seen = ''
    void reader.run(message => void (seen += message.text()))
    await settle()
    expect(seen).toBe('d')
    expect(changes).toEqual([{ ...at(0), offset: 1, resetTo: 3 }])
  })

  it('or fails, if told to', async () => {
    const { consumer, settle, mq } = await bench()
    await mq.commitOffsets('g', [{ ...at(0), offset: 5 }])
    const failed = consumer({ onOutOfRange: 'error' }).run(() => {})
    await expect(Promise.all([failed, settle()])).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' })
  })

  it('hands out what was fetched before the gap first', async () => {
    const { consumer, settle, store, mq } = await bench()
    store('ab')
    const door = gate()
    void consumer({ partitionBytesMax: 1 }).run(door.handle)
    await settle() // a is being handled, b is fetched
    store('cd')
    await mq.deleteRecords('t', 0, 3)
    door.open()
    await settle()
    door.open()
    await settle()
    expect(door.seen).toEqual(['a', 'b', 'd'])
  })
})

describe('commits', () => {
  it('happen every second, of what has been handled', async () => {
    const { consumer, store, settle, clock, engine } = await bench()
    store(['a', 'b', 'c'])
    const door = gate()
    void consumer().run(door.handle)
    await settle()
    door.open()
    await clock.advance(999)
    expect(engine.commits).toEqual([])
    await clock.advance(1)
    expect(engine.committedOffset('g', 't')).toBe(1)
    await clock.advance(5_000)
    expect(engine.commits).toHaveLength(1) // nothing new, nothing to commit
    door.open()
    await clock.advance(1_000)
    expect(engine.committedOffset('g', 't')).toBe(2)
  })

  it('happen as often as told', async () => {
    const { consumer, store, clock, engine } = await bench()
    store('a')
    void consumer({ autoCommit: { everyMs: 50 } }).run(() => {})
    await clock.advance(50)
    expect(engine.committedOffset('g', 't')).toBe(1)
  })

  it('are tried again when they fail for now, and tell', async () => {
    const { consumer, store, clock, engine } = await bench()
    store('a')
    engine.failNext('commit', 'REBALANCE_IN_PROGRESS')
    const reader = consumer()
    const told: unknown[] = []
    reader.on('error', error => told.push(error.code))
    reader.on('committed', offsets => told.push(offsets))
    void reader.run(() => {})
    await clock.advance(2_000)
    expect(told).toEqual(['REBALANCE_IN_PROGRESS', [{ ...at(0), offset: 1 }]])
  })

  it('warn when nobody listens for errors', async () => {
    const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => {})
    onTestFinished(() => warn.mockRestore())
    const { mq, store, clock, engine } = await bench()
    store('a')
    engine.failNext('commit', 'TIMED_OUT')
    void mq.consumer({ topics: ['t'], group: 'g' }).run(() => {})
    await clock.advance(1_000)
    expect(warn).toHaveBeenCalledOnce()
  })

  it('are of a message, a batch, offsets, or all that is handled', async () => {
    const { consumer, store, settle, engine } = await bench(2)
    store(['a', 'b', 'c'])
    const reader = consumer({ autoCommit: false })
    let batch!: MessageBatch
    void reader.runBatch(given => {
      batch = given
    })
    await settle()
    expect(engine.commits).toEqual([])
    await reader.commit(batch.messages()[1])
    expect(engine.committedOffset('g', 't')).toBe(2)
    await reader.commit(batch)
    expect(engine.committedOffset('g', 't')).toBe(3)
    await reader.commit([{ ...at(0), offset: 1, metadata: 'note' }])
    expect(await reader.committed()).toEqual([{ ...at(0), offset: 1, metadata: 'note' }])
    await reader.commit()
    expect(engine.committedOffset('g', 't', 0)).toBe(3)
    expect(engine.committedOffset('g', 't', 1)).toBe(0)
    const count = engine.commits.length
    await reader.commit()
    expect(engine.commits).toHaveLength(count)
  })

  it('are never made by stop without autoCommit', async () => {
    const { consumer, store, settle, engine } = await bench()
    store('a')
    const reader = consumer({ autoCommit: false })
    void reader.run(() => {})
    await settle()
    void reader.stop()
    await settle()
    expect(engine.commits).toEqual([])
  })

  it('need a group', async () => {
    const { consumer } = await bench()
    await expect(consumer({ group: undefined }).commit()).rejects.toThrow(/give it a group/)
  })
})

describe('stop', () => {
  it('takes no new messages, lets the handler finish, commits and leaves', async () => {
    const { consumer, store, settle, engine } = await bench()
    store(['a', 'b'])
    const door = gate()
    const reader = consumer()
    const running = reader.run(door.handle)
    await settle()
    const stopping = reader.stop()
    await settle()
    expect(engine.commits).toEqual([])
    door.open()
    await settle()
    await Promise.all([stopping, running])
    expect(door.seen).toEqual(['a'])
    expect(engine.committedOffset('g', 't')).toBe(1)
    expect((await engine.describeGroup('g')).members).toEqual([])
  })

  it('waits no longer than its deadline, and does not count what was not done', async () => {
    const { consumer, store, clock, engine, settle } = await bench()
    store(['a', 'b'])
    const door = gate()
    const reader = consumer()
    const errors: SluiceError[] = []
    reader.on('error', error => errors.push(error))
    void reader.run(door.handle)
    await settle()
    const stopping = reader.stop({ deadlineMs: 100 })
    await clock.advance(100)
    await stopping
    expect(errors).toMatchObject([{ code: 'TIMED_OUT', detail: { ...at(0), offset: 0 } }])
    door.open() // too late
    await settle()
    expect(engine.committedOffset('g', 't')).toBe(0)
  })

  it('is done at once when nothing runs, and closes for good', async () => {
    const { consumer } = await bench()
    const reader = consumer()
    await reader.stop()
    await reader.stop()
    await expect(reader.run(() => {})).rejects.toMatchObject({ code: 'CONSUMER_CLOSED' })
  })

  it('follows a signal', async () => {
    const { consumer, settle } = await bench()
    const abort = new AbortController()
    const running = consumer({ signal: abort.signal }).run(() => {})
    await settle()
    abort.abort()
    await settle()
    await running
    const late = consumer({ signal: AbortSignal.abort() }).run(() => {})
    await settle()
    await late
  })

  it('does not wait for a group that is slow to take it in', async () => {
    const { consumer, store, settle } = await bench()
    store('a')
    const door = gate()
    void consumer().run(door.handle)
    await settle()
    const second = consumer()
    const running = second.run(() => {}) // waits for the first one's handler
    await settle()
    const stopping = second.stop()
    await settle()
    await Promise.all([stopping, running])
    door.open()
    await settle()
  })
})

describe('a group', () => {
  it('shares the partitions among its members', async () => {
    const { consumer, settle, store } = await bench(4)
    const one = consumer()
    const two = consumer()
    const seen: string[] = []
    void one.run(message => seen.push(`one ${message.text()}`))
    void two.run(message => seen.push(`two ${message.text()}`))
    await settle()
    expect([one.assignment().length, two.assignment().length]).toEqual([2, 2])
    for (const partition of [0, 1, 2, 3]) store(String(partition), partition)
    await settle()
    expect(seen).toHaveLength(4)
  })

  it('hands a partition on after its handler is done and its commit made', async () => {
    const { consumer, settle, store, engine } = await bench()
    store(['a', 'b', 'c'])
    const door = gate()
    const one = consumer()
    const revoked = once(one, 'revoked')
    void one.run(door.handle)
    await settle()
    void engine.rebalance('g')
    await settle()
    expect(engine.commits).toEqual([])
    door.open()
    await settle()
    expect((await revoked)[0]).toEqual([at(0)])
    expect(engine.committedOffset('g', 't')).toBe(1)
    // it got the partition again, and goes on after the commit: b was never handed out twice
    expect(door.seen).toEqual(['a', 'b'])
  })

  it('hands out nothing of a partition that is being taken away', async () => {
    const { consumer, settle, store, engine } = await bench(2)
    store(['a', 'b'], 0)
    store(['x', 'y'], 1)
    const door = gate()
    const reader = consumer()
    void reader.run(door.handle)
    await settle()
    expect(door.inside).toBe(1)
    void engine.rebalance('g')
    await settle()
    door.open()
    await settle()
    // one message was finished; the other partition's and the rest came only after the new assignment
    expect(engine.commits.filter(({ offset }) => offset === 1)).toHaveLength(1)
    expect(door.inside).toBe(1)
  })

  it('waits for a handler no longer than the rebalance time-out', async () => {
    const { consumer, store, clock, engine, settle } = await bench()
    store(['a', 'b'])
    const door = gate()
    const reader = consumer({ rebalanceTimeoutMs: 100 })
    const errors: string[] = []
    reader.on('error', error => errors.push(error.code))
    void reader.run(door.handle)
    await settle()
    void engine.rebalance('g')
    await clock.advance(100)
    expect(errors).toEqual(['TIMED_OUT'])
    expect(reader.assignment()).toEqual([at(0)])
    expect(door.seen).toEqual(['a']) // the handler is still in the way of another
    door.open()
    await settle()
    expect(door.seen).toEqual(['a', 'a']) // it came too late to count
  })

  it('does not wait for, nor commit, what is lost already, and fails when it is out for good', async () => {
    const { consumer, store, settle, engine } = await bench()
    store(['a', 'b'])
    const reader = consumer()
    reader.on('error', () => {})
    const lost = once(reader, 'lost')
    const door = gate()
    const failed = expect(reader.run(door.handle)).rejects.toMatchObject({ code: 'UNKNOWN_MEMBER' })
    await settle()
    void engine.expel('g')
    await settle()
    expect((await lost)[0]).toEqual([at(0)])
    expect(reader.assignment()).toEqual([])
    door.open()
    await settle()
    await failed
    expect(engine.commits).toEqual([])
  })

  it('refuses a commit for a partition that has gone to another', async () => {
    const { consumer, store, settle } = await bench(2)
    store('a', 0)
    store('b', 1)
    const messages: Message[] = []
    const one = consumer()
    void one.run(message => void messages.push(message))
    await settle()
    void consumer().run(() => {})
    await settle()
    const gone = messages.find(({ partition }) => partition !== one.assignment()[0].partition)!
    await expect(one.commit(gone)).rejects.toMatchObject({ code: 'ILLEGAL_GENERATION' })
  })

  it('survives a listener that throws', async () => {
    const { consumer, settle, engine } = await bench()
    const reader = consumer()
    reader.on('revoked', () => {
      throw new Error('listener')
    })
    const running = reader.run(() => {})
    const failed = expect(running).rejects.toThrow('listener')
    await settle()
    void engine.rebalance('g')
    await settle()
    await failed
  })
})

describe('the event assigned', () => {
  it('comes before the first message, so that a listener can seek or pause', async () => {
    const { consumer, settle, store } = await bench(2)
    store('abc', 0)
    store('x', 1)
    const reader = consumer()
    reader.on('assigned', partitions => {
      expect(partitions).toEqual([at(0), at(1)])
      void reader.seek({ ...at(0), offset: 2 })
      reader.pause([at(1)])
    })
    let seen = ''
    void reader.run(message => void (seen += message.text()))
    await settle()
    expect(seen).toBe('c')
  })
})

describe('without a group', () => {
  it('reads all partitions, and commits nothing', async () => {
    const { consumer, settle, store, engine, clock } = await bench(3)
    for (const partition of [0, 1, 2]) store('x', partition)
    let count = 0
    const reader = consumer({ group: undefined })
    void reader.run(() => void count++)
    await clock.advance(5_000)
    expect(count).toBe(3)
    expect(engine.commits).toEqual([])
    expect(reader.assignment()).toHaveLength(3)
    await settle()
  })

  it('reads the partitions it is told to', async () => {
    const { consumer, settle, store } = await bench(3)
    for (const partition of [0, 1, 2]) store(String(partition), partition)
    const seen: string[] = []
    void consumer({ group: undefined, partitions: [2, 0] }).run(message => seen.push(message.text()))
    await settle()
    expect(seen.sort()).toEqual(['0', '2'])
    await expect(consumer({ group: undefined, partitions: [3] }).run(() => {})).rejects.toMatchObject({
      code: 'INVALID_PARTITION',
    })
  })
})

describe('pause and resume', () => {
  it('hold back what comes, without losing anything', async () => {
    const { consumer, settle, store } = await bench(2)
    const reader = consumer()
    const seen: string[] = []
    void reader.run(message => seen.push(message.text()))
    await settle()
    reader.pause([at(0)])
    store('a', 0)
    store('x', 1)
    await settle()
    expect(seen).toEqual(['x'])
    reader.resume([at(0)])
    await settle()
    expect(seen).toEqual(['x', 'a'])
  })

  it('work in the middle of a batch, with another fetched ahead', async () => {
    const { consumer, settle, store } = await bench()
    store(['a', 'b'])
    store('cd')
    const reader = consumer({ partitionBytesMax: 1 })
    const door = gate()
    void reader.run(door.handle)
    await settle()
    for (const expected of ['a', 'ab', 'abc', 'abcd']) {
      expect(door.seen.join('')).toBe(expected)
      reader.pause()
      door.open()
      await settle()
      expect([door.seen.join(''), reader.position(at(0))]).toEqual([expected, expected.length])
      reader.resume()
      await settle()
    }
  })

  it('of everything holds for partitions that come later', async () => {
    const { consumer, settle, store } = await bench()
    store('a')
    const reader = consumer()
    reader.pause()
    let seen = ''
    void reader.run(message => void (seen += message.text()))
    await settle()
    expect(seen).toBe('')
    reader.resume()
    await settle()
    expect(seen).toBe('a')
  })

  it('name a partition that is not assigned', async () => {
    const { consumer } = await bench()
    expect(() => consumer().pause([at(7)])).toThrow(/t\/7 is not assigned/)
  })
})

describe('seek', () => {
  it('goes on elsewhere at once, and drops what was fetched', async () => {
    const { consumer, settle, store } = await bench()
    store('abcd')
    const reader = consumer()
    let seen = ''
    void reader.run(message => {
      seen += message.text()
      if (seen === 'abc') void reader.seek({ ...at(0), offset: 1 })
    })
    await settle()
    expect(seen).toBe('abcbcd')
  })

  it('during a handler makes the commit follow', async () => {
    const { consumer, settle, store, clock, engine } = await bench()
    store(['a', 'b', 'c', 'd'])
    const reader = consumer()
    const door = gate()
    void reader.run(door.handle)
    await settle()
    await reader.seek({ ...at(0), offset: 3 })
    expect(reader.position(at(0))).toBe(3)
    door.open() // the end of a, which no longer counts
    await clock.advance(1_000)
    expect(engine.committedOffset('g', 't')).toBe(3)
    expect(door.seen).toEqual(['a', 'd'])
  })

  it('takes ends and times', async () => {
    const { consumer, settle, store, engine } = await bench()
    store('ab')
    engine.append('t', 0, batchOf(['c'], 9e12))
    const reader = consumer({ from: 'latest' })
    let seen = ''
    void reader.run(message => void (seen += message.text()))
    await settle()
    for (const offset of ['earliest', 'latest', { time: 8e12 }] as const) {
      await reader.seek({ ...at(0), offset })
      await settle()
      seen += '|'
    }
    expect(seen).toBe('abc||c|')
  })

  it('ignores what a fetch brings that began before', async () => {
    const { consumer, settle, store, engine } = await bench()
    store(['a', 'b', 'c'])
    const fetch = engine.fetch.bind(engine)
    let answer = () => {}
    vi.spyOn(engine, 'fetch').mockImplementationOnce(async (...call) => {
      const fetched = await fetch(...call)
      await new Promise<void>(resolve => {
        answer = resolve
      })
      return fetched
    })
    const reader = consumer()
    let seen = ''
    void reader.run(message => void (seen += message.text()))
    await settle()
    await reader.seek({ ...at(0), offset: 2 })
    answer()
    await settle()
    expect(seen).toBe('c')
  })

  it('to nothing new interrupts the long poll', async () => {
    const { consumer, settle, store, clock } = await bench()
    store('a')
    const reader = consumer()
    let seen = ''
    void reader.run(message => void (seen += message.text()))
    await settle()
    const before = clock.monotonic()
    await reader.seek({ ...at(0), offset: 0 })
    await settle()
    expect([seen, clock.monotonic() - before]).toEqual(['aa', 0])
  })
})

describe('lag', () => {
  it('counts what is not handled yet', async () => {
    const { consumer, settle, store } = await bench(2)
    store(['a', 'b', 'c'], 0)
    const door = gate()
    const reader = consumer()
    void reader.run(door.handle)
    await settle()
    door.open()
    await settle()
    expect(await reader.lag()).toEqual([
      { ...at(0), position: 1, endOffset: 3, lag: 2 },
      { ...at(1), position: 0, endOffset: 0, lag: 0 },
    ])
  })
})

describe('options', () => {
  it.each([
    [{ topics: [] }, 'topics is an array of at least one topic'],
    [{ topics: 't' }, 'topics is an array of at least one topic'],
    [{ topics: ['t'], group: '' }, 'group is not empty; leave it out to read without a group'],
    [{ topics: ['t'], group: 'g', partitions: [0] }, /partitions is for consumers without a group/],
    [{ topics: ['t'], concurrency: 0 }, 'concurrency is a number from 1 on, not 0'],
    [
      { topics: ['t'], group: 'g', autoCommit: { everyMs: 0 } },
      'autoCommit.everyMs is a number from 1 on, not 0',
    ],
    [{ topics: ['t'], onOutOfRange: 'panic' }, 'onOutOfRange is one of earliest, latest, error, not "panic"'],
  ])('say what they may be: %j', async (options, message) => {
    const { mq } = await bench()
    expect(() => mq.consumer(options as never)).toThrow(message)
  })
})

describe('a commit that waits for the end of a transaction', () => {
  it('is waited for in silence at first, and then told', async () => {
    const { engine, clock, mq, store } = await bench()
    store('a')
    const committed = engine.committed.bind(engine)
    const openUntil = (ms: number) => {
      const until = clock.monotonic() + ms
      engine.committed = async (...args) => {
        if (clock.monotonic() >= until) return await committed(...args)
        throw new SluiceError('UNSTABLE_OFFSET_COMMIT', 'the commit waits for the end of a transaction')
      }
    }
    const read = async (group: string): Promise<{ seen: string[]; told: string[] }> => {
      const seen: string[] = []
      const told: string[] = []
      const consumer = mq.consumer({ topics: ['t'], group }).on('error', error => told.push(error.code))
      void consumer.run(message => void seen.push(message.text()))
      await clock.advance(20_000)
      return { seen, told }
    }
    openUntil(4_000)
    expect(await read('g1')).toEqual({ seen: ['a'], told: [] })
    openUntil(10_000)
    const { seen, told } = await read('g2')
    expect({ seen, told: new Set(told) }).toEqual({ seen: ['a'], told: new Set(['UNSTABLE_OFFSET_COMMIT']) })
  })
})
