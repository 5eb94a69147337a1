import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  headersFromJson,
  keyFromJson,
  messageJson,
  type StoredMessage,
  textJson,
  valueFromJson,
  valueJson,
} from '../../src/server/message-json.ts'

const toBytes = (content: Uint8Array | string | null) =>
  content === null ? null : Buffer.from(content as string)

const stored = (value: string) => JSON.parse(valueJson(Buffer.from(value)))

describe('going out', () => {
  test('objects and arrays are embedded, digit for digit', () => {
    expect(valueJson(Buffer.from('{"id":12345678901234567890.10}'))).toBe('{"id":12345678901234567890.10}')
    expect(stored('[1,2]')).toEqual([1, 2])
  })

  test('scalars, broken JSON and text are strings', () => {
    for (const text of ['12', 'true', '"quoted"', '{broken', '[1,', 'plain', ''])
      expect(stored(text)).toBe(text)
  })

  test('JSON that was stored over several lines stays on one', () => {
    const json = valueJson(Buffer.from('{\r\n  "a": "x\\ny"\n}'))
    expect(json).not.toMatch(/[\r\n]/)
    expect(JSON.parse(json)).toEqual({ a: 'x\ny' })
  })

  test('bytes that are not UTF-8 are base64, null is null', () => {
    expect(valueJson(Buffer.from([0xff, 0x7b]))).toBe('{"base64":"/3s="}')
    expect(valueJson(Buffer.from([0x7b, 0xff]))).toBe('{"base64":"e/8="}')
    expect(valueJson(null)).toBe('null')
  })

  test('keys are never embedded', () => {
    expect(JSON.parse(textJson(Buffer.from('{"a":1}')))).toBe('{"a":1}')
  })

  test('a whole message, with a header that repeats', () => {
    const message: StoredMessage = {
      topic: 'orders',
      partition: 3,
      offset: 7,
      timestamp: 1_700_000_000_000,
      key: Buffer.from('ann'),
      value: Buffer.from('{"total":12}'),
      headers: [
        ['trace', Buffer.from('t1')],
        ['trace', Buffer.from('t2')],
        ['raw', Buffer.from([0x80])],
        ['none', null],
        ['__proto__', Buffer.from('p')],
      ],
    }
    const json = messageJson(message)
    expect(json).toContain('"__proto__":"p"')
    expect(JSON.parse(json)).toMatchObject({
      topic: 'orders',
      partition: 3,
      offset: 7,
      timestamp: 1_700_000_000_000,
      key: 'ann',
      value: { total: 12 },
      headers: { trace: ['t1', 't2'], raw: { base64: 'gA==' }, none: null },
    })
  })
})

describe('coming in', () => {
  test.each([
    ['text', 'text'],
    [12, '12'],
    [true, 'true'],
    [{ a: 1 }, '{"a":1}'],
    [[], '[]'],
    [{ base64: 'x', more: 1 }, '{"base64":"x","more":1}'],
  ])('the value %j is stored as %s', (json, text) => {
    expect(valueFromJson(json, 'value')).toBe(text)
  })

  test('base64 is stored as its bytes', () => {
    expect(valueFromJson({ base64: '/3s=' }, 'value')).toEqual(Buffer.from([0xff, 0x7b]))
  })

  test('a missing value, bad base64 and keys that are not text are refused by name', () => {
    const refused = (message: string) => expect.objectContaining({ code: 'INVALID_ARGUMENT', message })
    expect(() => valueFromJson(undefined, 'messages[2].value')).toThrow(
      refused('messages[2].value is missing (null stores a tombstone)'),
    )
    expect(() => valueFromJson({ base64: 'a' }, 'value')).toThrow(refused('value.base64 is not base64'))
    expect(() => keyFromJson({ id: 1 }, 'key')).toThrow(
      refused('key must be a string, a number, {"base64": …} or null'),
    )
    expect(() => headersFromJson(['a'], 'headers')).toThrow(refused('headers must be an object'))
  })

  test('whatever bytes were stored come back from what was shown', () => {
    const bytes = fc.oneof(
      fc.uint8Array().map(array => Buffer.from(array)),
      fc.json().map(json => Buffer.from(json)),
      fc.string({ unit: 'binary' }).map(text => Buffer.from(text)),
    )
    fc.assert(
      fc.property(bytes, value => {
        const shown = JSON.parse(textJson(value))
        expect(toBytes(valueFromJson(shown, 'value'))).toEqual(value)
        expect(toBytes(keyFromJson(shown, 'key'))).toEqual(value)
      }),
    )
  })

  test('headers survive the way out and in', () => {
    const headers = headersFromJson({ a: 'x', b: ['1', null], c: { base64: 'gA==' } }, 'headers')
    expect(headers).toEqual([
      ['a', 'x'],
      ['b', '1'],
      ['b', null],
      ['c', Buffer.from([0x80])],
    ])
  })
})
