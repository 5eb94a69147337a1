import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { TimingWheel } from '../../src/lib/timing-wheel.ts'

const DAY_MS = 86_400_000

function firedBy(wheel: TimingWheel, now: number): number[] {
  const fired: number[] = []
  wheel.advance(now, row => fired.push(row))
  return fired
}

describe('the timing wheel', () => {
  it('fires at the time, not before', () => {
    const wheel = new TimingWheel(1_000)
    wheel.schedule(1_250, 7)
    expect(firedBy(wheel, 1_249)).toEqual([])
    expect(firedBy(wheel, 1_250)).toEqual([7])
    expect(firedBy(wheel, 9_999)).toEqual([])
    expect(wheel.size).toBe(0)
  })

  it('fires what was due when it was scheduled with the next advance, even if the clock stands or goes back', () => {
    const wheel = new TimingWheel(1_000)
    wheel.schedule(900, 2)
    wheel.schedule(1_000, 1)
    expect(wheel.nextAt()).toBe(1_000)
    expect(firedBy(wheel, 990)).toEqual([2, 1])
  })

  it('rounds up, so that a fraction of a millisecond never makes it early', () => {
    const wheel = new TimingWheel(0)
    wheel.schedule(10.2, 0)
    expect(firedBy(wheel, 10.9)).toEqual([])
    expect(firedBy(wheel, 11)).toEqual([0])
  })

  it('keeps what is years away, beyond its last level', () => {
    const wheel = new TimingWheel(Date.UTC(2026, 0, 1))
    const at = Date.UTC(2036, 5, 1)
    wheel.schedule(at, 0)
    let steps = 0
    for (let next = wheel.nextAt(); next !== null && next < at; next = wheel.nextAt(), steps++) {
      expect(firedBy(wheel, next)).toEqual([])
    }
    expect(wheel.nextAt()).toBe(at)
    expect(firedBy(wheel, at)).toEqual([0])
    // once per turn of what is beyond, once per level
    expect(steps).toBeLessThan(15)
  })

  it('takes a row again, whatever its number, once it has fired', () => {
    const wheel = new TimingWheel(0)
    for (let at = 1; at < 100; at++) {
      wheel.schedule(at, 1_000_000)
      wheel.schedule(at, 3)
      expect(firedBy(wheel, at)).toEqual([1_000_000, 3])
    }
    expect(wheel.nextAt()).toBeNull()
  })

  it('what fires may schedule again, and what that makes due at once waits for the next call', () => {
    const wheel = new TimingWheel(0)
    wheel.schedule(1, 1)
    const fired: number[] = []
    wheel.advance(5, item => {
      fired.push(item)
      if (item < 100) wheel.schedule(item % 2 === 1 ? 4 : 0, item + 1)
    })
    expect(fired).toEqual([1, 2])
    expect(firedBy(wheel, 5)).toEqual([3])
  })

  it('does as a sorted list would, whatever is scheduled and advanced', () => {
    const delayMs = fc.oneof(
      fc.integer({ min: -5, max: 130 }),
      fc.integer({ min: 0, max: 10_000 }),
      fc.integer({ min: 0, max: 1_200 * DAY_MS }),
    )
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ schedule: delayMs }) },
      { weight: 2, arbitrary: fc.record({ advance: delayMs.map(ms => Math.max(0, ms)) }) },
      { weight: 2, arbitrary: fc.constant({ advance: 'next' as const }) },
    )
    fc.assert(
      fc.property(fc.nat(2 ** 40), fc.array(step, { maxLength: 120 }), (start, steps) => {
        const wheel = new TimingWheel(start)
        let now = start
        let waiting: { at: number; row: number }[] = []
        for (const [row, action] of steps.entries()) {
          if ('schedule' in action) {
            wheel.schedule(now + action.schedule, row)
            waiting.push({ at: Math.max(now, now + action.schedule), row })
          } else {
            const first = Math.min(...waiting.map(({ at }) => at))
            const next = wheel.nextAt()
            expect(next ?? Number.POSITIVE_INFINITY).toBeLessThanOrEqual(first)
            if (waiting.length > 0) expect(next).not.toBeNull()
            now = action.advance === 'next' ? (next ?? now) : now + action.advance
            const due = waiting.filter(({ at }) => at <= now).toSorted((one, other) => one.at - other.at)
            expect(firedBy(wheel, now)).toEqual(due.map(({ row: expected }) => expected))
            waiting = waiting.filter(({ at }) => at > now)
          }
          expect(wheel.size).toBe(waiting.length)
        }
      }),
      { numRuns: 300 },
    )
  })
})
