/** The loop that settles what is finished, against an engine whose answers the test writes. */

import { describe, expect, it } from 'vitest'
import { Ledger } from '../../src/delivery/ledger.ts'
import { type Holding, type Publication, Settler, substitutesOf } from '../../src/delivery/settler.ts'
import { topic } from '../../src/delivery/topic.ts'
import type { Transaction } from '../../src/delivery/transaction.ts'
import type { CommitOffset, CommittedOffset } from '../../src/engine/engine.ts'
import { type ErrorCode, SluiceError } from '../../src/errors.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const of = (partition: number) => ({ topic: 't', partition })

const publication = (text: string, instead?: () => Publication): Publication => ({
  topic: topic('out') as never,
  message: { value: text } as never,
  instead,
})

function bench() {
  const clock = new VirtualClock()
  /** What the group has. */
  const stored = new Map<number, CommittedOffset>()
  const published: string[] = []
  const warnings: string[] = []
  const failures: unknown[] = []
  const state = {
    commits: 0,
    transactions: 0,
    underWay: 0,
    underWayMax: 0,
    tookMs: 0,
    /** Thrown by the next calls, in order. */
    commitErrors: [] as SluiceError[],
    transactErrors: [] as SluiceError[],
    committedErrors: [] as SluiceError[],
    /** Refused for good wherever it is published. */
    poison: new Set<string>(),
    /** The answer of a transaction that came about is lost. */
    losesAnswer: false,
  }
  const busy = async (): Promise<void> => {
    state.underWayMax = Math.max(state.underWayMax, ++state.underWay)
    if (state.tookMs > 0) await new Promise<void>(resolve => clock.after(state.tookMs, resolve))
    state.underWay--
  }
  const store = (offsets: readonly CommitOffset[]): void => {
    for (const offset of offsets) stored.set(offset.partition, { metadata: '', ...offset })
  }
  const settler = new Settler({
    clock,
    pauseMs: 10,
    commit: async offsets => {
      state.commits++
      await busy()
      const error = state.commitErrors.shift()
      if (error !== undefined) throw error
      store(offsets)
    },
    transact: async body => {
      state.transactions++
      await busy()
      const texts: string[] = []
      let staged: readonly CommitOffset[] = []
      const fake = {
        post: (_topic: unknown, message: { value: string }) => texts.push(message.value),
        stage: (offsets: readonly CommitOffset[]) => {
          staged = offsets
        },
      }
      await body(fake as unknown as Transaction)
      const error = state.transactErrors.shift()
      if (error !== undefined) throw error
      if (texts.some(text => state.poison.has(text))) throw new SluiceError('MESSAGE_TOO_LARGE', 'too large')
      published.push(...texts)
      store(staged)
      if (state.losesAnswer) {
        state.losesAnswer = false
        throw new SluiceError('TIMED_OUT', 'no answer', { outcome: 'unknown' })
      }
    },
    stage: async (transaction, offsets) => {
      ;(transaction as unknown as { stage(offsets: readonly CommitOffset[]): void }).stage(offsets)
    },
    committed: async partitions => {
      const error = state.committedErrors.shift()
      if (error !== undefined) throw error
      return partitions.map(({ partition }) => stored.get(partition)).filter(commit => commit !== undefined)
    },
    refused: substitutesOf,
    warn: error => warnings.push(error.code),
    fail: error => failures.push(error),
    settled: () => {},
  })
  /** A partition of which `count` messages from 0 on were handed out. */
  const take = (partition: number, count: number): Holding => {
    const holding = settler.take(of(partition), 0, undefined)
    for (let offset = 0; offset < count; offset++) holding.ledger.begin(offset)
    return holding
  }
  return { clock, settler, stored, published, warnings, failures, state, take }
}

const passing = (code: ErrorCode = 'UNAVAILABLE'): SluiceError => new SluiceError(code, 'not now')

describe('commits', () => {
  it('come as often as one can be made, with all that was finished, and never two at once', async () => {
    const { settler, clock, state, stored, take } = bench()
    state.tookMs = 5
    const holding = take(0, 1_000)
    for (let offset = 0; offset < 1_000; offset++) {
      settler.finish(holding, offset)
      await clock.advance(1)
    }
    await clock.advance(100)
    expect(stored.get(0)).toMatchObject({ offset: 1_000, metadata: '' })
    expect(state.underWayMax).toBe(1)
    expect(state.commits).toBeGreaterThan(50)
    expect(state.commits).toBeLessThan(75)
  })

  it('say what is unfinished, so that the next owner repeats nothing else', async () => {
    const { settler, clock, stored, take } = bench()
    const holding = take(0, 5)
    for (const offset of [0, 2, 4]) settler.finish(holding, offset)
    await clock.advance(20)
    const { offset, metadata } = stored.get(0)!
    const next = new Ledger(offset, metadata)
    expect([...next.offsets()]).toEqual([1, 3])
    expect(next.next).toBe(5)
  })

  it('that fail for now are made again, with growing pauses, and lose nothing', async () => {
    const { settler, clock, state, stored, warnings, take } = bench()
    const holding = take(0, 2)
    state.commitErrors = Array.from({ length: 100 }, () => passing())
    settler.finish(holding, 0)
    await clock.advance(10_000)
    expect(state.commits).toBeGreaterThan(5)
    expect(state.commits).toBeLessThan(15)
    expect(warnings.length).toBe(state.commits)
    settler.finish(holding, 1)
    state.commitErrors = []
    await clock.advance(2_100)
    expect(stored.get(0)).toMatchObject({ offset: 2 })
  })

  it('that are refused for good end it', async () => {
    const { settler, clock, state, failures, take } = bench()
    state.commitErrors = [passing('ACCESS_DENIED')]
    const holding = take(0, 2)
    settler.finish(holding, 0)
    await clock.advance(50)
    settler.finish(holding, 1)
    await clock.advance(1_000)
    expect(failures).toMatchObject([{ code: 'ACCESS_DENIED' }])
    expect(state.commits).toBe(1)
    await settler.flush()
  })
})

describe('publications', () => {
  it('and the commit are one transaction; what else was finished comes along', async () => {
    const { settler, clock, state, stored, published, take } = bench()
    const [one, other] = [take(0, 2), take(1, 1)]
    const done: string[] = []
    settler.finishWith(one, 0, [publication('a')], () => done.push('a'))
    settler.finishWith(other, 0, [publication('b'), publication('c')], () => done.push('b'))
    settler.finish(one, 1)
    expect(one.ledger.isUnfinished(0)).toBe(true)
    await clock.advance(1)
    expect(state).toMatchObject({ commits: 0, transactions: 1 })
    expect(published).toEqual(['a', 'b', 'c'])
    expect(done).toEqual(['a', 'b'])
    expect(stored.get(0)).toMatchObject({ offset: 2, metadata: '' })
    expect(stored.get(1)).toMatchObject({ offset: 1 })
  })

  it('that did not come about leave their messages unfinished, with their notes, and are made again', async () => {
    const { settler, clock, state, stored, published, take } = bench()
    const holding = take(0, 2)
    const note = { attempts: 3, firstAt: 1_000, dueAt: 2_000 }
    holding.ledger.note(0, note)
    state.transactErrors = [passing(), passing('PRODUCER_FENCED'), passing('CONCURRENT_TRANSACTIONS')]
    const done: string[] = []
    settler.finishWith(holding, 0, [publication('a')], () => done.push('a'))
    await clock.advance(1)
    expect(holding.ledger.isUnfinished(0)).toBe(true)
    expect(holding.ledger.noteOf(0)).toEqual(note)
    expect([done, published]).toEqual([[], []])
    await clock.advance(5_000)
    expect([done, published]).toEqual([['a'], ['a']])
    expect(stored.get(0)).toMatchObject({ offset: 1 })
    expect(state.transactions).toBe(4)
  })

  it('of which one is refused for good do not hold the others up; it is replaced', async () => {
    const { settler, clock, state, stored, published, failures, take } = bench()
    const holding = take(0, 3)
    state.poison.add('bad').add('still bad')
    const third = () => publication('good')
    const second = () => publication('still bad', third)
    settler.finishWith(holding, 0, [publication('a')])
    settler.finishWith(holding, 1, [publication('bad', second)])
    settler.finishWith(holding, 2, [publication('c')])
    await clock.advance(1)
    expect(published).toEqual(['a', 'c'])
    expect([...holding.ledger.offsets()]).toEqual([1])
    await clock.advance(5_000)
    expect(published).toEqual(['a', 'c', 'good'])
    expect(stored.get(0)).toMatchObject({ offset: 3, metadata: '' })
    expect(failures).toEqual([])
  })

  it('for which there is no substitute end it; the others are settled before', async () => {
    const { settler, clock, state, stored, published, failures, take } = bench()
    const holding = take(0, 3)
    state.poison.add('bad')
    settler.finishWith(holding, 0, [publication('a')])
    settler.finishWith(holding, 1, [publication('bad')])
    await clock.advance(1_000)
    expect(published).toEqual(['a'])
    expect(stored.get(0)).toMatchObject({ offset: 1 })
    expect(failures).toMatchObject([{ code: 'MESSAGE_TOO_LARGE' }])
  })

  it('whose answer was lost are not made again if they came about', async () => {
    const { settler, clock, state, published, warnings, take } = bench()
    const holding = take(0, 1)
    state.losesAnswer = true
    state.committedErrors = [passing('UNSTABLE_OFFSET_COMMIT'), passing()]
    const done: string[] = []
    settler.finishWith(holding, 0, [publication('a')], () => done.push('a'))
    await clock.advance(1_000)
    expect(warnings).toHaveLength(1) // a commit that waits for a transaction is no news
    expect(published).toEqual(['a'])
    expect(done).toEqual(['a'])
    expect(state.transactions).toBe(1)
  })

  it("whose answer was lost are not made again when another partition is somebody else's by then", async () => {
    const { settler, clock, state, published, stored, take } = bench()
    const [gone, held] = [take(0, 1), take(1, 1)]
    state.losesAnswer = true
    state.committedErrors = [passing()]
    settler.finishWith(gone, 0, [publication('a')])
    settler.finishWith(held, 0, [publication('b')])
    await clock.advance(1)
    settler.drop([of(0)])
    stored.set(0, { ...of(0), offset: 9, metadata: 'of the next owner' })
    await clock.advance(1_000)
    expect(published).toEqual(['a', 'b'])
    expect(held.ledger.unfinished).toBe(0)
  })

  it('whose answer was lost are made again if they did not', async () => {
    const { settler, clock, state, published, take } = bench()
    const holding = take(0, 1)
    state.transactErrors = [new SluiceError('TIMED_OUT', 'no answer', { outcome: 'unknown' })]
    settler.finishWith(holding, 0, [publication('a')])
    await clock.advance(1_000)
    expect(published).toEqual(['a'])
    expect(state.transactions).toBe(2)
  })

  it('of a message that was finished otherwise meanwhile are not made', async () => {
    const { settler, clock, published, take } = bench()
    const holding = take(0, 1)
    settler.finish(holding, 0)
    settler.finishWith(holding, 0, [publication('a')])
    await clock.advance(100)
    expect(published).toEqual([])
  })
})

describe('partitions that go', () => {
  it('take what is not settled with them', async () => {
    const { settler, clock, state, stored, published, take } = bench()
    const [one, other] = [take(0, 2), take(1, 2)]
    state.transactErrors = [passing()]
    settler.finishWith(one, 0, [publication('a')])
    settler.finishWith(other, 0, [publication('b')])
    await clock.advance(1)
    settler.drop([of(0)])
    settler.finish(one, 1)
    await clock.advance(1_000)
    expect(published).toEqual(['b'])
    expect([...stored.keys()]).toEqual([1])
  })

  it('while a transaction that fails is under way take theirs with them, and the others come again', async () => {
    const { settler, clock, state, published, take } = bench()
    const [one, other] = [take(0, 1), take(1, 1)]
    state.tookMs = 5
    state.transactErrors = [passing()]
    settler.finishWith(one, 0, [publication('a')])
    settler.finishWith(other, 0, [publication('b')])
    await clock.advance(2)
    settler.drop([of(0)])
    await clock.advance(1_000)
    expect(published).toEqual(['b'])
  })

  it('and come back begin with what was committed, and with nothing if it begins elsewhere', async () => {
    const { settler, clock, stored, take } = bench()
    const holding = take(0, 3)
    settler.finish(holding, 1)
    await clock.advance(10)
    settler.drop([of(0)])
    const commit = stored.get(0)!
    expect([...settler.take(of(0), commit.offset, commit).ledger.offsets()]).toEqual([0, 2])
    settler.drop([of(0)])
    expect([...settler.take(of(0), 7, commit).ledger.offsets()]).toEqual([])
  })

  it('flush waits for what is under way, and for what fails for now', async () => {
    const { settler, clock, state, stored, take } = bench()
    const holding = take(0, 1)
    state.commitErrors = [passing(), passing()]
    settler.finish(holding, 0)
    let isFlushed = false
    const flushed = settler.flush().then(() => (isFlushed = true))
    await clock.advance(20)
    expect(isFlushed).toBe(false)
    await clock.advance(1_000)
    await flushed
    expect(stored.get(0)).toMatchObject({ offset: 1 })
    expect(state.commits).toBe(3)
  })

  it('flush gives up when the group knows the member no more', async () => {
    const { settler, clock, state, failures, take } = bench()
    const holding = take(0, 1)
    state.commitErrors = Array.from({ length: 100 }, () => passing('ILLEGAL_GENERATION'))
    settler.finish(holding, 0)
    await clock.advance(10)
    const before = state.commits
    let isFlushed = false
    void settler.flush().then(() => (isFlushed = true))
    await clock.advance(5_000)
    expect(isFlushed).toBe(true)
    expect(state.commits).toBeLessThan(before + 8)
    expect(failures).toEqual([])
  })
})
