import { Readable } from 'node:stream'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Invocation } from '../../src/cli/context.ts'
import { lineReader } from '../../src/cli/line-messages.ts'
import { readLines } from '../../src/cli/lines.ts'

async function linesOf(chunks: readonly (Buffer | string)[], lineBytesMax = 100): Promise<(string | null)[]> {
  const lines: (string | null)[] = []
  for await (const some of readLines(Readable.from(chunks), lineBytesMax)) {
    for (const line of some) {
      lines.push(line.bytes === null ? null : line.bytes.toString('latin1'))
      expect(line.number).toBe(lines.length)
    }
  }
  return lines
}

describe('readLines', () => {
  test('the last line needs no line end, and an empty line is a line', async () => {
    expect(await linesOf(['a\n\nb'])).toEqual(['a', '', 'b'])
    expect(await linesOf(['a\n'])).toEqual(['a'])
    expect(await linesOf([])).toEqual([])
  })

  test('bytes that are not UTF-8 pass unharmed', async () => {
    expect(await linesOf([Buffer.from([0xff, 0x0d, 0x0a, 0x80])])).toEqual(['\xff\r', '\x80'])
  })

  test('a line over the limit is passed over, and the next is read', async () => {
    expect(await linesOf(['a\n', 'x'.repeat(60), 'x'.repeat(60), 'x\nb\n'])).toEqual(['a', null, 'b'])
    expect(await linesOf([`${'x'.repeat(101)}\n${'y'.repeat(100)}`])).toEqual([null, 'y'.repeat(100)])
    expect(await linesOf(['x'.repeat(101)])).toEqual([null])
  })

  test('where the chunks are cut makes no difference', async () => {
    const pieces = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', '\n'), minLength: 1 }))
    await fc.assert(
      fc.asyncProperty(pieces, async chunks => {
        expect(await linesOf(chunks)).toEqual(await linesOf(chunks.length > 0 ? [chunks.join('')] : []))
      }),
    )
  })
})

describe('lineReader', () => {
  const read = (options: Record<string, unknown>, line: string) => {
    const message = lineReader(new Invocation([], options))(Buffer.from(line))
    return (
      message && {
        ...message,
        key: message.key?.toString() ?? null,
        value: message.value?.toString() ?? null,
      }
    )
  }

  test('a line is the value, with what the flags say for all', () => {
    expect(read({ key: 'k', header: ['a=1', 'b=x=y'], partition: 2 }, 'text')).toEqual({
      key: 'k',
      value: 'text',
      headers: [
        ['a', '1'],
        ['b', 'x=y'],
      ],
      partition: 2,
    })
  })

  test('a separator parts key and value, at its first place', () => {
    expect(read({ keySeparator: '::' }, 'ann::1::2')).toMatchObject({ key: 'ann', value: '1::2' })
    expect(() => read({ keySeparator: '::' }, 'ann:1')).toThrow(
      expect.objectContaining({ code: 'INVALID_RECORD' }),
    )
  })

  test('a field, however deep, is the key; the value is the line as it is', () => {
    const line = '{"customer": {"id": 7}, "amount": 1.50}'
    expect(read({ json: true, keyField: 'customer.id' }, line)).toMatchObject({ key: '7', value: line })
    expect(read({ json: true, keyField: 'customer.id', valueField: 'customer' }, line)).toMatchObject({
      value: '{"id":7}',
    })
  })

  test('blank lines of JSON hold no message', () => {
    expect(read({ json: true }, ' \r')).toBeNull()
  })

  test.each([
    ['{broken', 'not JSON'],
    ['{"a":1}', 'the field id is missing'],
    ['[1]', 'the field id is missing'],
    ['{"id":{"x":1}}', 'id must be a string'],
  ])('%s is refused', (line, message) => {
    expect(() => read({ json: true, keyField: 'id' }, line)).toThrow(
      expect.objectContaining({ code: 'INVALID_RECORD', message: expect.stringContaining(message) }),
    )
  })

  test.each([
    [{ key: 'a', keySeparator: ':' }],
    [{ keyField: 'id' }],
    [{ json: true, keySeparator: ':' }],
    [{ header: ['x'] }],
    [{ keySeparator: '' }],
  ])('the flags %j contradict each other', options => {
    expect(() => lineReader(new Invocation([], options))).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
  })
})
