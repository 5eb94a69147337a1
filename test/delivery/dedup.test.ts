/** Deduplication by message id: of a window the first message comes out, once, across restarts and failures. Time is virtual. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DEDUP_TOPIC } from '../../src/delivery/dedup.ts'
import { DedupRelay } from '../../src/delivery/dedup-relay.ts'
import { DedupWindow } from '../../src/delivery/dedup-window.ts'
import type { TransactionOptions } from '../../src/engine/engine.ts'
import { SluiceError } from '../../src/errors.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { clustered } from './clustered.ts'
import { VirtualQueue } from './virtual-queue.ts'

const MINUTE = 60_000

describe('the window', () => {
  test('lets the first of an id pass, and the next one when the window is over', () => {
    const window = new DedupWindow()
    expect(window.isFirst('a', 0, 1_000, 10)).toBe(true)
    expect(window.isFirst('a', 1, 1_009, 10)).toBe(false)
    expect(window.isFirst('b', 2, 1_009, 10)).toBe(true)
    expect(window.isFirst('a', 3, 1_010, 10)).toBe(true)
    expect(window.isFirst('a', 4, 1_019, 10)).toBe(false)
  })

  test('remembers no more ids than it may, and tells what it forgot', () => {
    const window = new DedupWindow(2)
    for (const [offset, id] of ['a', 'b', 'c'].entries()) window.isFirst(id, offset, 1_000, 10)
    expect([window.size, window.forgotten]).toEqual([2, 1])
    expect(window.isFirst('c', 3, 1_000, 10)).toBe(false)
    expect(window.isFirst('a', 4, 1_000, 10)).toBe(true)
    window.isFirst('d', 5, 2_000, 10)
    expect([window.size, window.forgotten]).toEqual([2, 2])
  })

  test('decides about what is left after a trim as it did before', () => {
    const step = fc.record({
      id: fc.nat(6),
      afterMs: fc.nat(40_000),
      windowMs: fc.integer({ min: 1, max: 100_000 }),
    })
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 60 }), fc.nat(60), (steps, at) => {
        const window = new DedupWindow()
        let now = 0
        const log = steps.map(({ id, afterMs, windowMs }, offset) => ({
          id: String(id),
          offset,
          timestamp: (now += afterMs),
          windowMs,
        }))
        const decide = (of: DedupWindow, part: typeof log) =>
          part.map(({ id, offset, timestamp, windowMs }) => of.isFirst(id, offset, timestamp, windowMs))
        const cut = Math.min(at, log.length)
        const before = decide(window, log.slice(0, cut))
        const to = window.trimTo(cut)
        expect(to).toBeLessThanOrEqual(cut)
        const after = decide(window, log.slice(cut))
        const replayed = decide(new DedupWindow(), log.slice(to))
        expect(replayed).toEqual([...before, ...after].slice(to))
      }),
      { numRuns: 500 },
    )
  })

  test('can be trimmed once windows are over', () => {
    const window = new DedupWindow()
    window.isFirst('a', 0, 0, MINUTE)
    window.isFirst('a', 1, 1, MINUTE)
    expect(window.trimTo(2)).toBe(0)
    window.isFirst('b', 2, 10 * MINUTE, MINUTE)
    expect(window.trimTo(3)).toBe(2)
    expect(window.size).toBe(1)
  })
})

test('of messages with one id and key the first is published, in the order of their keys, with all that it has', async () => {
  const queue = await VirtualQueue.open()
  await queue.settle(queue.mq.createTopic('orders', { partitions: 2 }))
  const orders = queue.mq.deduplicate('orders', { window: '10m' })
  const message = { id: '1', key: 'ann', value: 'first', headers: { trace: 't' }, timestamp: 77 }
  await queue.settle(orders.publish(message))
  await queue.settle(
    orders.publish([
      { ...message, value: 'again' },
      { id: '2', key: 'ann', value: 'second' },
    ]),
  )
  await queue.settle(orders.publish({ id: '1', key: 'bob', value: "bob's own" }))
  await queue.settle(orders.publish({ id: '1', value: 'no key' }))
  await queue.settle(orders.publish([{ id: '3', value: 'there', partition: 1 }, message]))
  await queue.settle(queue.mq.deduplicate('others').publish({ id: '1', key: 'ann', value: 'elsewhere' }))
  await queue.advance(1_000)
  const delivered = await queue.delivered('orders')
  expect(delivered.map(({ text }) => text).sort()).toEqual([
    "bob's own",
    'first',
    'no key',
    'second',
    'there',
  ])
  expect(delivered.filter(({ key }) => key === 'ann').map(({ text }) => text)).toEqual(['first', 'second'])
  expect(delivered.find(({ text }) => text === 'first')).toMatchObject({
    timestamp: 77,
    headers: { trace: 't', 'sluice-message-id': '1' },
  })
  expect(Object.keys(delivered.find(({ text }) => text === 'first')?.headers ?? {}).sort()).toEqual([
    'sluice-message-id',
    'trace',
  ])
  expect(delivered.find(({ text }) => text === 'there')?.partition).toBe(1)
  expect(await queue.texts('others')).toEqual(['elsewhere'])
  expect((await queue.settle(queue.mq.relay())).duplicatesDropped).toBe(2)
})

test('a restart forgets nothing, and the window ends when it is over', async () => {
  const disk = memoryDisk()
  const first = await VirtualQueue.reopen(disk)
  const start = first.clock.now()
  await first.settle(first.mq.deduplicate('t', { window: '10m' }).publish({ id: 'a', value: '1' }))
  await first.advance(1_000)
  await first.settle(first.mq.close())

  const second = await VirtualQueue.reopen(disk, start + 9 * MINUTE)
  await second.settle(second.mq.deduplicate('t', { window: '10m' }).publish({ id: 'a', value: '2' }))
  await second.advance(1_000)
  expect(await second.texts('t')).toEqual(['1'])
  await second.settle(second.mq.close())

  const third = await VirtualQueue.reopen(disk, start + 10 * MINUTE + 1_000)
  await third.settle(third.mq.deduplicate('t', { window: '10m' }).publish({ id: 'a', value: '3' }))
  await third.advance(1_000)
  expect(await third.texts('t')).toEqual(['1', '3'])
  await third.settle(third.mq.deduplicate('t', { window: '10m' }).publish({ id: 'a', value: '4' }))
  await third.advance(1_000)
  expect(await third.texts('t')).toEqual(['1', '3'])
})

test('what waited while no relay ran comes once; what is over is deleted', async () => {
  const disk = memoryDisk()
  const idle = await VirtualQueue.open({ relay: false })
  const many = idle.mq.deduplicate('t')
  await idle.settle(
    many.publish(Array.from({ length: 2_500 }, (_, n) => ({ id: `id ${n % 1_250}`, value: String(n) }))),
  )
  await idle.advance(5 * MINUTE)
  expect(await idle.texts('t')).toEqual([])
  await idle.settle(idle.mq.relay())
  await idle.advance(2_000)
  expect((await idle.texts('t')).map(Number).sort((one, other) => one - other)).toEqual(
    Array.from({ length: 1_250 }, (_, n) => n),
  )

  const queue = await VirtualQueue.reopen(disk)
  const brief = queue.mq.deduplicate('t', { window: '1m' })
  const held = async () => {
    const { partitions } = await queue.settle(queue.mq.describeTopic(DEDUP_TOPIC))
    return partitions.map(({ startOffset, endOffset }) => endOffset - startOffset)
  }
  for (let minute = 0; minute < 10; minute++) {
    await queue.settle(
      brief.publish([
        { id: 'a', key: 'k', value: String(minute) },
        { id: 'a', key: 'k', value: 'x' },
      ]),
    )
    await queue.advance(MINUTE)
  }
  expect(await queue.texts('t')).toEqual(Array.from({ length: 10 }, (_, minute) => String(minute)))
  expect(Math.max(...(await held()))).toBeLessThanOrEqual(8)
})

test('what its topic refuses is a dead letter, and the others come', async () => {
  const queue = await VirtualQueue.open()
  const { mq } = queue
  await queue.settle(mq.createTopic('small', { config: { 'max.message.bytes': 300 } }))
  const relay = await queue.settle(mq.relay())
  const warned: string[] = []
  relay.on('error', error => warned.push(error.code))
  const list = ['a', 'x'.repeat(500), 'b'].map((value, index) => ({ id: String(index), key: 'k', value }))
  await queue.settle(mq.deduplicate('small').publish(list))
  await queue.advance(5_000)
  expect(await queue.texts('small')).toEqual(['a', 'b'])
  expect(warned).toContain('MESSAGE_TOO_LARGE')
  const { letters } = await queue.settle(mq.deadLetters('small', '_sluice.dedup').list())
  expect(letters.map(({ value, error }) => [value?.length, error.name])).toEqual([[500, 'MESSAGE_TOO_LARGE']])
})

test('refuses what makes no sense', async () => {
  const queue = await VirtualQueue.open()
  const orders = queue.mq.deduplicate('orders')
  for (const wrong of [
    { value: '1' },
    { id: '', value: '1' },
    { id: 'x'.repeat(250), value: '1' },
    { id: '1', value: '1', delay: 10 },
  ])
    await expect(queue.settle(orders.publish(wrong as never))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  for (const window of [0, '8d', 'soon'])
    expect(() => queue.mq.deduplicate('orders', { window })).toThrow(SluiceError)
})

test('several relays share the work, and what one has begun another finishes once', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq, clock } = queue
  const engine = clustered(mq.engine)
  const relayOf = (name: string) =>
    new DedupRelay({ engine, clock, clientId: name, warn: () => {}, duplicates: () => {} })
  const orders = mq.deduplicate('t')
  const publish = (from: number) =>
    queue.settle(
      orders.publish(
        Array.from({ length: 200 }, (_, n) => ({
          id: String(from + (n % 100)),
          key: `k${n % 10}`,
          value: String(from + n),
        })),
      ),
    )
  const [one, two, three] = ['one', 'two', 'three'].map(relayOf)
  await queue.settle(one.start())
  await publish(0)
  await queue.settle(two.start())
  await publish(1_000)
  await queue.advance(10_000)
  // both are at it when one goes away in the middle
  await publish(2_000)
  const stopping = one.stop()
  await queue.settle(three.start())
  await publish(2_000)
  await queue.settle(stopping)
  await queue.advance(30_000)
  await publish(0)
  await queue.advance(10_000)
  const delivered = await queue.delivered('t')
  expect(delivered.map(({ text }) => Number(text)).sort((first, second) => first - second)).toEqual(
    [0, 1_000, 2_000].flatMap(from => Array.from({ length: 100 }, (_, n) => from + n)),
  )
  for (let key = 0; key < 10; key++) {
    const ofKey = delivered.filter(({ key: its }) => its === `k${key}`).map(({ text }) => Number(text))
    expect(ofKey).toEqual(ofKey.toSorted((first, second) => first - second))
  }
  await queue.settle(two.stop())
  await queue.settle(three.stop())
})

test('a commit whose answer is lost publishes nothing twice', async () => {
  const queue = await VirtualQueue.open({ relay: false })
  const { mq, clock } = queue
  let lost = 0
  // every other transaction is told to have failed, though it came about
  const engine = new Proxy(clustered(mq.engine), {
    get(target, name) {
      if (name !== 'initTransactions') return Reflect.get(target, name)
      return async (options: TransactionOptions) => {
        const session = await target.initTransactions(options)
        return new Proxy(session, {
          get(inner, part) {
            const value = Reflect.get(inner, part)
            if (part !== 'end') return typeof value === 'function' ? value.bind(inner) : value
            return async (commit: boolean) => {
              await inner.end(commit)
              if (commit && lost < 6 && ++lost % 2 === 1)
                throw new SluiceError('UNREACHABLE', 'the answer is lost')
            }
          },
        })
      }
    },
  })
  const relay = new DedupRelay({ engine, clock, clientId: 'r', warn: () => {}, duplicates: () => {} })
  await queue.settle(relay.start())
  const orders = mq.deduplicate('t')
  for (let n = 0; n < 10; n++) {
    await queue.settle(
      orders.publish([
        { id: `${n}`, key: 'k', value: `${n}` },
        { id: `${n}`, key: 'k', value: 'x' },
      ]),
    )
    await queue.advance(3_000)
  }
  await queue.advance(60_000)
  expect(await queue.texts('t')).toEqual(Array.from({ length: 10 }, (_, n) => `${n}`))
  expect(lost).toBe(6)
  await queue.settle(relay.stop())
})
