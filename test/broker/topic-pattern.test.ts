/** Patterns of topics: what RE2 understands, what it refuses, and that no pattern takes long. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { TopicPattern } from '../../src/broker/topic-pattern.ts'

const matches = (pattern: string, name: string) => new TopicPattern(pattern).matches(name)

describe('the whole name must match', () => {
  test.each([
    ['orders-.*', 'orders-1', true],
    ['orders-.*', 'my-orders-1', false],
    ['orders', 'orders-1', false],
    ['^orders$', 'orders', true],
    ['a|ab', 'ab', true],
    ['(a|b)+c?', 'abba', true],
    ['x{2,3}', 'xxx', true],
    ['x{2,3}', 'x', false],
    ['x{2,3}', 'xxxx', false],
    ['x{2}', 'xx', true],
    ['x{2,}?', 'xxxxx', true],
    ['x{0}y', 'y', true],
    ['x{,3}', 'x{,3}', true],
    ['[a-c_.-]+', 'a-c.b_', true],
    ['[^a-c]+', 'xyz', true],
    ['[^a-c]+', 'xbz', false],
    ['[]x]+', ']x', true],
    ['[[:alpha:][:digit:]]+', 'abc123', true],
    ['[[:^alpha:]]+', '123', true],
    ['\\w+\\.\\d+', 'a_b.42', true],
    ['\\W\\D\\S', '-a_', true],
    ['\\p{Lu}\\pN\\P{L}[\\p{^L}]', 'A1--', true],
    ['\\p{Greek}|a', 'a', true],
    ['(?i)ORDERS-[a-c]', 'orders-B', true],
    ['(?i:A)b', 'aB', false],
    ['a(?i)B|c', 'C', true],
    ['(?P<year>\\d{4})-(?<month>\\d\\d)', '2024-01', true],
    ['\\Qa.b+c\\E.*', 'a.b+cd', true],
    ['\\Qa.b\\E.*', 'axbcd', false],
    ['\\x61\\x{62}\\143', 'abc', true],
    ['a\\.b\\-c', 'a.b-c', true],
    ['\\Aa\\b-\\Bb?\\z', 'a-', true],
    ['\\Aa\\b-\\bb\\z', 'a-b', true],
    ['ä*orders', 'orders', true],
    ['()', '', true],
  ] as const)('%s  %s', (pattern, name, expected) => {
    expect(matches(pattern, name)).toBe(expected)
  })

  test('as RegExp has it, where both have the same words', () => {
    const atom = fc.constantFrom(
      'a',
      'b',
      '.',
      '[ab]',
      '[^a]',
      '\\w',
      '\\.',
      '(a|b)',
      '(?:ab)',
      '^',
      '$',
      '\\b',
    )
    const piece = fc
      .tuple(atom, fc.constantFrom('', '', '*', '+', '?', '{2}', '{1,2}', '*?'))
      .map(([a, times]) => (['^', '$', '\\b'].includes(a) ? a : a + times))
    const sequence = fc.array(piece, { maxLength: 4 }).map(pieces => pieces.join(''))
    const pattern = fc.array(sequence, { minLength: 1, maxLength: 3 }).map(all => all.join('|'))
    const name = fc.string({ unit: fc.constantFrom('a', 'b', '.', '-'), maxLength: 6 })
    fc.assert(
      fc.property(pattern, name, (source, text) => {
        expect(matches(source, text)).toBe(new RegExp(`^(?:${source})$`).test(text))
      }),
      { numRuns: 2_000 },
    )
  })
})

test.each([
  ['('],
  [')'],
  ['[a'],
  ['[b-a]'],
  ['[[:no:]]'],
  ['*'],
  ['a**'],
  ['a{2}{3}'],
  ['a{1001}'],
  ['a{3,2}'],
  ['(?=a)'],
  ['(?<!a)b'],
  ['(a)\\1'],
  ['\\'],
  ['\\y'],
  ['\\p{No such}'],
  ['\\pQ'],
  ['(?x)a'],
  ['((a{100}){100})'],
  ['(((){1000}){1000}){1000}'],
  ['('.repeat(400) + ')'.repeat(400)],
  ['a'.repeat(1001)],
])('refused: %s', pattern => {
  expect(() => new TopicPattern(pattern)).toThrow(
    expect.objectContaining({ code: 'INVALID_REGULAR_EXPRESSION' }),
  )
})

test('any characters are a pattern or a refusal', () => {
  const text = fc.string({ unit: fc.constantFrom(...'a1\\[]()*+?{},^$|.:-PpQEx<>i'), maxLength: 20 })
  fc.assert(
    fc.property(text, source => {
      try {
        matches(source, 'a1')
      } catch (error) {
        expect(error).toMatchObject({ code: 'INVALID_REGULAR_EXPRESSION' })
      }
    }),
    { numRuns: 3_000 },
  )
})

test('a pattern that other engines go back and forth over', () => {
  const begin = performance.now()
  expect(matches('(((a*)*)*)*b', 'a'.repeat(249))).toBe(false)
  expect(matches('(a|a)*(a|a)*(a|a)*(a?){200}b', 'a'.repeat(249))).toBe(false)
  expect(performance.now() - begin).toBeLessThan(1_000)
})
