/** Reading records: what other implementations write, and bytes that are not what they seem. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { batchBytes, checkBatch, patchChecksum, patchOffset } from '../../src/record/batch.ts'
import { BatchBuilder, type Compression, compressionTypes } from '../../src/record/builder.ts'
import { RecordCursor, readHeaders } from '../../src/record/cursor.ts'
import { golden, goldenRecords } from './golden.ts'

const compressions = Object.keys(compressionTypes) as Compression[]

function batch(offset: number, values: readonly string[], compression: Compression = 'none'): Buffer {
  const builder = new BatchBuilder()
  for (const value of values)
    builder.append(1_000, `key of ${value}`, value, [
      ['h', value],
      ['n', null],
    ])
  const bytes = Buffer.from(builder.close({ compression }))
  patchOffset(bytes, 0, offset, 0)
  return bytes
}

/** Reads everything, headers too; the number of records, or the code of the error. */
function readAll(bytes: Uint8Array, decompressedBytesMax = 100_000): number | string {
  const cursor = new RecordCursor(bytes, { decompressedBytesMax })
  let count = 0
  try {
    while (cursor.next()) {
      count++
      // What the cursor points at lies inside of what it was given.
      for (const [start, length] of [
        [cursor.keyStart, cursor.keyBytes],
        [cursor.valueStart, cursor.valueBytes],
      ]) {
        expect(length).toBeGreaterThanOrEqual(-1)
        expect(start + Math.max(0, length)).toBeLessThanOrEqual(cursor.bytes.length)
      }
      cursor.headers()
    }
  } catch (error) {
    expect(error).toBeInstanceOf(SluiceError)
    return (error as SluiceError).code
  }
  return count
}

describe('a batch of kafka-python', () => {
  test.each(compressions)('%s', name => {
    const cursor = new RecordCursor(Buffer.from(golden[name], 'hex'))
    const slice = (start: number, bytes: number): Buffer | null =>
      bytes < 0 ? null : Buffer.from(cursor.bytes.subarray(start, start + bytes))
    for (const [offset, record] of goldenRecords.entries()) {
      expect(cursor.next()).toBe(true)
      expect(cursor.offset).toBe(offset)
      expect(cursor.timestamp).toBe(record.timestamp)
      expect(slice(cursor.keyStart, cursor.keyBytes)).toEqual(record.key)
      expect(slice(cursor.valueStart, cursor.valueBytes)).toEqual(record.value)
      expect(cursor.headerCount).toBe(record.headers.length)
      expect(cursor.headers()).toEqual(record.headers)
      expect(readHeaders(cursor.bytes, cursor.headersStart, cursor.headerCount)).toEqual(record.headers)
    }
    expect(cursor.next()).toBe(false)
    expect(cursor.next()).toBe(false)
  })
})

describe('several batches', () => {
  test('are walked in order, each with its own compression', () => {
    const batches = Buffer.concat(
      compressions.map((name, index) => batch(index * 10, [`${name} 1`, `${name} 2`], name)),
    )
    const cursor = new RecordCursor(batches)
    const found: string[] = []
    while (cursor.next()) {
      found.push(
        `${cursor.offset} ${cursor.bytes.toString('utf8', cursor.valueStart, cursor.valueStart + cursor.valueBytes)}`,
      )
    }
    expect(found).toEqual(
      compressions.flatMap((name, index) => [`${index * 10} ${name} 1`, `${index * 10 + 1} ${name} 2`]),
    )
  })

  test('control batches are passed over', () => {
    const builder = new BatchBuilder()
    builder.append(1, Buffer.from([0, 0, 0, 1]), Buffer.alloc(6), null)
    const control = Buffer.from(builder.close({ control: true }))
    expect(
      readAll(Buffer.concat([control, batch(1, ['a']), control, control, batch(4, ['b']), control])),
    ).toBe(2)
    expect(readAll(control)).toBe(0)
  })

  test('no bytes are no records', () => {
    expect(readAll(Buffer.alloc(0))).toBe(0)
  })

  test('offsets may have holes, as compaction leaves them', () => {
    const bytes = batch(100, ['a', 'b'])
    bytes[61 + 3] = 2 * 5 // offset delta of the first record: 5
    bytes.writeInt32BE(9, 23)
    const second = 61 + 1 + bytes[61] / 2
    bytes[second + 3] = 2 * 9
    const cursor = new RecordCursor(bytes)
    expect([cursor.next(), cursor.offset, cursor.next(), cursor.offset]).toEqual([true, 105, true, 109])
  })
})

describe('malformed bytes', () => {
  test('every truncation is refused', () => {
    for (const compression of compressions) {
      const bytes = Buffer.concat([batch(0, ['a', 'b'], compression), batch(2, ['c'], compression)])
      const first = batchBytes(bytes, 0)
      for (let end = 1; end < bytes.length; end++) {
        if (end !== first) expect(readAll(bytes.subarray(0, end))).toBe('INVALID_RECORD')
      }
    }
  })

  test('a cut inside the records is refused, although length and checksum are right', () => {
    for (const compression of compressions) {
      const whole = batch(0, ['a', 'b'.repeat(50), 'c'], compression)
      for (let end = 61; end < whole.length; end++) {
        const bytes = Buffer.from(whole.subarray(0, end))
        bytes.writeInt32BE(end - 12, 8)
        patchChecksum(bytes, 0)
        expect(checkBatch(bytes, 0, bytes.length)).toBeNull()
        expect(readAll(bytes)).toBe('INVALID_RECORD')
      }
    }
  })

  test('bytes behind the last record are refused', () => {
    const whole = batch(0, ['a'])
    const bytes = Buffer.concat([whole, Buffer.alloc(3)])
    bytes.writeInt32BE(bytes.length - 12, 8)
    patchChecksum(bytes, 0)
    expect(readAll(bytes)).toBe('INVALID_RECORD')
  })

  test.each(compressions)('changed bytes under a good checksum end in an answer (%s)', compression => {
    const whole = Buffer.concat([
      batch(0, ['a', 'some value', ''], compression),
      batch(3, ['b'.repeat(200)], compression),
    ])
    const change = fc.tuple(fc.nat(whole.length - 1), fc.nat(255))
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), changes => {
        const bytes = Buffer.from(whole)
        for (const [at, value] of changes) bytes[at] = value
        const found = readAll(bytes)
        expect(
          typeof found === 'number' || found === 'INVALID_RECORD' || found === 'UNSUPPORTED_COMPRESSION',
        ).toBe(true)
        if (typeof found === 'number') expect(found).toBeLessThanOrEqual(bytes.length)
      }),
      { numRuns: 1_000 },
    )
  })

  test.each([
    ['a record that ends behind its batch', 61, 0x7e],
    ['a record of no bytes', 61, 0],
    ['a negative length', 61, 1],
    ['a key that ends behind its record', 65, 0x7e],
    ['an offset behind the last', 64, 2],
    ['a negative offset', 64, 1],
  ])('%s', (_, at, value) => {
    const builder = new BatchBuilder()
    builder.append(1_000, 'k', 'v', null)
    const bytes = Buffer.from(builder.close())
    expect(readAll(bytes)).toBe(1)
    bytes[at] = value
    expect(readAll(bytes)).toBe('INVALID_RECORD')
  })

  test('a key or a value of -2 bytes', () => {
    const builder = new BatchBuilder()
    builder.append(1_000, null, null, null)
    for (const at of [65, 66]) {
      const bytes = Buffer.from(builder.close())
      expect([bytes[at], readAll(bytes)]).toEqual([1, 1])
      bytes[at] = 3
      expect(readAll(bytes)).toBe('INVALID_RECORD')
    }
  })

  test('a varint without an end', () => {
    const bytes = batch(0, ['a'.repeat(100)])
    bytes.fill(0xff, 61)
    expect(readAll(bytes)).toBe('INVALID_RECORD')
    bytes[61] = 0x80
    bytes[62] = 1
    expect(readAll(bytes)).toBe('INVALID_RECORD')
  })

  test('more records than there are', () => {
    const bytes = batch(0, ['a', 'b'])
    bytes.writeInt32BE(2 ** 31 - 1, 57)
    bytes.writeInt32BE(2 ** 31 - 2, 23)
    expect(readAll(bytes)).toBe('INVALID_RECORD')
  })

  test('headers do not reach into the next record', () => {
    const builder = new BatchBuilder()
    builder.append(1_000, null, null, [['a', 'b']])
    builder.append(1_000, null, 'the next record', null)
    const bytes = Buffer.from(builder.close())
    const cursor = new RecordCursor(bytes)
    cursor.next()
    expect(cursor.headers()).toEqual([['a', Buffer.from('b')]])
    bytes[cursor.headersStart + 2] = 2 * 5 // bytes of the header's value
    expect(() => cursor.headers()).toThrow(SluiceError)
  })

  test('more bytes than are allowed when unpacked', () => {
    for (const compression of compressions.filter(name => name !== 'none')) {
      const bytes = batch(0, ['x'.repeat(5_000)], compression)
      expect(readAll(bytes)).toBe(1)
      expect(readAll(bytes, 4_000)).toBe('INVALID_RECORD')
    }
  })

  test('a compression that does not exist', () => {
    const bytes = batch(0, ['a'])
    bytes.writeInt16BE(5, 21)
    expect(readAll(bytes)).toBe('UNSUPPORTED_COMPRESSION')
  })
})
