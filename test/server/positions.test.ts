import { expect, test } from 'vitest'
import { parseOffsetSpec, parsePosition } from '../../src/server/positions.ts'

test.each([
  ['earliest', 'earliest'],
  ['latest', 'latest'],
  ['0', 0],
  ['120', 120],
  [
    '0:120,3:88',
    new Map([
      [0, 120],
      [3, 88],
    ]),
  ],
  ['2026-01-31T12:00:00Z', { time: Date.UTC(2026, 0, 31, 12) }],
  ['2026-01-31', { time: Date.UTC(2026, 0, 31) }],
])('%s is a position', (text, position) => {
  expect(parsePosition(text, 'offset')).toEqual(position)
})

test.each(['', '-1', '1.5', 'first', '0:', '0:1,', '2026-13-01', '12345678901234567', 'Monday'])(
  '%j is refused',
  text => {
    expect(() => parsePosition(text, '--from')).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringContaining('--from') }),
    )
  },
)

test('one place for all partitions is no list of pairs', () => {
  expect(parseOffsetSpec('latest', '--to')).toBe('latest')
  expect(() => parseOffsetSpec('0:1', '--to')).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
})
