/** The clock that simulations run on: order, time, and when promise jobs get their turn. */

import { beforeEach, expect, test } from 'vitest'
import { VirtualClock } from './virtual-clock.ts'

let clock: VirtualClock
let seen: string[]

beforeEach(() => {
  clock = new VirtualClock(1_000)
  seen = []
})

const see = (what: string) => () => {
  seen.push(`${what}@${clock.monotonic()}`)
}

test('runs timers when their time has come, in order, and those of one time as they were set', async () => {
  clock.after(20, see('late'))
  clock.after(10, see('one'))
  clock.after(10, see('two'))
  clock.after(0, see('now'))
  expect(seen).toEqual([])
  await clock.advance(10)
  expect(seen).toEqual(['now@0', 'one@10', 'two@10'])
  await clock.advance(9.5)
  expect(seen.length).toBe(3)
  expect(clock.now()).toBe(1_019)
  expect(clock.monotonic()).toBe(19.5)
  await clock.advance(0.5)
  expect(seen.at(-1)).toBe('late@20')
})

test('keeps order over many timers', async () => {
  const delays = Array.from({ length: 300 }, (_, index) => (index * 7919) % 101)
  const fired: number[] = []
  const timers = delays.map(delay => clock.after(delay, () => fired.push(delay)))
  for (let index = 0; index < timers.length; index += 3) timers[index].cancel()
  await clock.runUntilIdle()
  const expected = delays.filter((_, index) => index % 3 !== 0).sort((one, other) => one - other)
  expect(fired).toEqual(expected)
})

test('does not run what was cancelled, also by a timer of the same time', async () => {
  const cancelled = clock.after(10, see('cancelled'))
  clock.after(5, () => other.cancel())
  const other = clock.after(5, see('other'))
  cancelled.cancel()
  cancelled.cancel()
  expect(clock.timerCount).toBe(2)
  expect(await clock.runUntilIdle()).toBe(true)
  expect(seen).toEqual([])
  expect(clock.timerCount).toBe(0)
})

test('lets promise jobs finish before what is deferred, and both before the next timer', async () => {
  clock.after(1, () => {
    clock.defer(see('deferred'))
    const deep = async () => {
      for (let count = 0; count < 50; count++) await null
      see('promises')()
    }
    deep()
  })
  clock.after(1, see('timer'))
  await clock.advance(1)
  expect(seen).toEqual(['promises@1', 'deferred@1', 'timer@1'])
})

test('runs what a timer and what a deferred call set within the same advance', async () => {
  clock.after(5, () => {
    clock.after(5, see('second'))
    clock.defer(() => clock.defer(see('nested')))
  })
  await clock.advance(10)
  expect(seen).toEqual(['nested@5', 'second@10'])
})

test('runs deferred calls without time passing', async () => {
  clock.defer(see('deferred'))
  clock.after(0, see('timer'))
  await clock.runDeferred()
  expect(seen).toEqual(['deferred@0'])
})

test('goes timer by timer with step', async () => {
  clock.after(5, see('one'))
  clock.after(5, see('two'))
  expect(await clock.step()).toBe(true)
  expect(seen).toEqual(['one@5'])
  expect(await clock.step()).toBe(true)
  expect(await clock.step()).toBe(false)
  expect(seen).toEqual(['one@5', 'two@5'])
})

test('says when it does not come to rest', async () => {
  const again = () => clock.after(1_000, again)
  again()
  expect(await clock.runUntilIdle(10_000)).toBe(false)
  expect(clock.monotonic()).toBe(10_000)
})

test('lets out what a timer or a deferred call throws, and goes on afterwards', async () => {
  clock.after(1, () => {
    throw new Error('from a timer')
  })
  clock.after(2, see('after'))
  await expect(clock.advance(5)).rejects.toThrow('from a timer')
  clock.defer(() => {
    throw new Error('from a deferred call')
  })
  clock.defer(see('next'))
  await expect(clock.runDeferred()).rejects.toThrow('from a deferred call')
  await clock.advance(5)
  expect(seen).toEqual(['next@1', 'after@2'])
})
