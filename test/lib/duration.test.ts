import { expect, it } from 'vitest'
import { durationMs } from '../../src/lib/duration.ts'

it.each([
  [0, 0],
  [250, 250],
  [0.2, 1],
  ['250ms', 250],
  ['1.5h', 5_400_000],
  ['45m', 2_700_000],
  ['1.1s', 1_100],
  ['7 d', 604_800_000],
  [' 10s ', 10_000],
])('%j is %d ms', (value, ms) => {
  expect(durationMs(value)).toBe(ms)
})

it.each([
  -1,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  2 ** 60,
  '',
  '10',
  '-5s',
  '1h30m',
  '5 weeks',
  '1e3s',
  's',
])('%j is no length of time', value => {
  expect(durationMs(value)).toBeNull()
})
