/** Group commit: who shares a sync with whom, and what a failure means. */

import { describe, expect, test } from 'vitest'
import { GroupCommit } from '../../src/log/group-commit.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { batchOf, HandClock, onNode, openLog, watchedDisk } from './scratch-log.ts'

/** A commit over a counter, whose syncs take a millisecond. */
function make() {
  const clock = new VirtualClock()
  const state = { end: 0, syncs: 0, durable: [] as number[], failNext: false, failures: 0 }
  const commit = new GroupCommit(0, {
    clock,
    endOffset: () => state.end,
    sync: () =>
      new Promise((resolve, reject) => {
        state.syncs++
        const fails = state.failNext
        clock.after(1, () => (fails ? reject(new Error('the disk is gone')) : resolve()))
      }),
    onDurable: offset => state.durable.push(offset),
    onFailed: error => {
      state.failures++
      return error as Error
    },
  })
  const append = (): Promise<void> => commit.wait(++state.end)
  return { clock, state, commit, append }
}

test('ten publishers that wait for each message share every sync', async () => {
  const { clock, state, append } = make()
  const rounds = 20
  const publishers = Array.from({ length: 10 }, async () => {
    for (let round = 0; round < rounds; round++) await append()
  })
  await clock.runUntilIdle()
  await Promise.all(publishers)
  expect(state.end).toBe(200)
  expect(state.syncs).toBe(rounds)
})

test('a publisher that is woken is in time for the next sync, however many promises it takes it', async () => {
  const { clock, state, append } = make()
  const slow = async (depth: number): Promise<void> => {
    for (let step = 0; step < depth; step++) await null
  }
  const publishers = [0, 1, 5, 20].map(async depth => {
    for (let round = 0; round < 10; round++) {
      await append()
      await slow(depth)
    }
  })
  await clock.runUntilIdle()
  await Promise.all(publishers)
  expect(state.syncs).toBe(10)
})

test('publishers that send at the end of the turn, and out of step, soon share every sync', async () => {
  const { clock, state, append } = make()
  const endOfTurn = (): Promise<void> => new Promise(resolve => clock.defer(resolve))
  const rounds = 50
  const publishers = [0, 0.3, 0.6, 0.9].map(async delayMs => {
    await new Promise<void>(resolve => clock.after(delayMs, resolve))
    for (let round = 0; round < rounds; round++) {
      await endOfTurn() // as a producer closes its batch
      await append()
    }
  })
  await clock.runUntilIdle()
  await Promise.all(publishers)
  expect(state.syncs).toBeLessThanOrEqual(rounds + 1)
})

test('what is appended during a sync becomes durable even if nobody waits for it', async () => {
  const { clock, state, commit, append } = make()
  append()
  await clock.runDeferred()
  state.end++
  commit.start()
  await clock.runUntilIdle()
  expect([state.durable, state.syncs]).toEqual([[1, 2], 2])
})

test('what is appended while a sync is under way waits for the next one', async () => {
  const { clock, state, append } = make()
  let second = false
  const first = append()
  await clock.runDeferred()
  expect(state.syncs).toBe(1)
  append().then(() => (second = true))
  await clock.advance(1)
  await first
  expect(state.durable).toEqual([1])
  expect(second).toBe(false)
  await clock.advance(1)
  expect([state.durable, second, state.syncs]).toEqual([[1, 2], true, 2])
})

test('asking for what is durable already costs no sync', async () => {
  const { clock, state, commit, append } = make()
  append()
  await clock.runUntilIdle()
  await commit.wait(1)
  await commit.wait(0)
  await clock.runUntilIdle()
  expect(state.syncs).toBe(1)
})

test('asking while a sync is under way for what it covers waits for that sync only', async () => {
  const { clock, state, commit, append } = make()
  append()
  await clock.runDeferred()
  let done = false
  commit.wait(1).then(() => (done = true))
  await clock.advance(1)
  expect([done, state.syncs]).toEqual([true, 1])
})

test('next() waits for a sync that began later', async () => {
  const { clock, state, commit, append } = make()
  append()
  await clock.runDeferred()
  let done = false
  commit.next().then(() => (done = true))
  await clock.advance(1)
  expect([done, state.durable]).toEqual([false, [1]])
  await clock.advance(1)
  expect([done, state.syncs]).toEqual([true, 2])
})

describe('a failure', () => {
  test('rejects everybody who waits and all who come, and nothing is tried again', async () => {
    const { clock, state, commit, append } = make()
    state.failNext = true
    const waiting = [append(), append()]
    await clock.runDeferred()
    waiting.push(append(), commit.next())
    const settled = Promise.allSettled(waiting)
    await clock.runUntilIdle()
    for (const result of await settled)
      expect(result).toMatchObject({ status: 'rejected', reason: { message: 'the disk is gone' } })
    state.failNext = false
    await expect(append()).rejects.toThrow('the disk is gone')
    await expect(commit.wait(0)).rejects.toThrow('the disk is gone')
    await expect(commit.next()).rejects.toThrow('the disk is gone')
    commit.start()
    await clock.runUntilIdle()
    expect([state.syncs, state.failures, commit.durableOffset, state.durable]).toEqual([1, 1, 0, []])
  })

  test('after a stop no sync begins any more', async () => {
    const { clock, state, commit, append } = make()
    const waiting = append()
    commit.stop(new Error('closed'))
    await expect(waiting).rejects.toThrow('closed')
    await clock.runUntilIdle()
    expect(state.syncs).toBe(0)
  })
})

test('on a real disk, ten publishers need about as many syncs as one', async () => {
  const { disk, directory } = onNode()
  const watched = watchedDisk(disk)
  const log = await openLog({ disk: watched.disk, directory }, {}, { clock: new HandClock() })
  const syncsOf = async (publishers: number): Promise<number> => {
    watched.calls.length = 0
    await Promise.all(
      Array.from({ length: publishers }, async () => {
        for (let round = 0; round < 10; round++) {
          log.append(batchOf(['x']))
          await log.flush()
        }
      }),
    )
    return watched.calls.filter(call => call.kind === 'sync').length
  }
  expect(await syncsOf(1)).toBe(10)
  expect(await syncsOf(10)).toBe(10)
  await log.close()
})
