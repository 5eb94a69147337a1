/** What the builder writes: the bytes that another implementation writes, and whatever is put in comes out again. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkBatch, isTransactional, maxTimestamp, patchOffset } from '../../src/record/batch.ts'
import {
  BatchBuilder,
  type Compression,
  compressionTypes,
  type Header,
  recordBytesMax,
} from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { golden, goldenRecords } from './golden.ts'

type Content = Uint8Array | string | null

interface Plain {
  readonly timestamp: number
  readonly key: Content
  readonly value: Content
  readonly headers: readonly Header[] | null
}

const content = fc.oneof(
  fc.constant(null),
  fc.constant(''),
  fc.string({ unit: 'binary', maxLength: 60 }), // any code point, lone surrogates too
  fc.uint8Array({ maxLength: 60 }),
  fc.integer({ min: 0, max: 20_000 }).map(bytes => Buffer.alloc(bytes, 'ab')),
)

const header: fc.Arbitrary<Header> = fc.tuple(fc.string({ unit: 'grapheme', maxLength: 40 }), content)

const record: fc.Arbitrary<Plain> = fc.record({
  timestamp: fc.oneof(fc.integer({ min: 0, max: 2 ** 41 }), fc.integer({ min: -8.64e15, max: 8.64e15 })),
  key: content,
  value: content,
  headers: fc.option(fc.array(header, { maxLength: 5 })),
})

const bytesOf = (value: Content): Buffer | null => (value === null ? null : Buffer.from(value as string))

function build(
  records: readonly Plain[],
  compression: Compression = 'none',
  builder = new BatchBuilder(0),
): Buffer {
  for (const { timestamp, key, value, headers } of records) builder.append(timestamp, key, value, headers)
  return builder.close({ compression })
}

function read(batches: Buffer): object[] {
  const cursor = new RecordCursor(batches)
  const found: object[] = []
  const slice = (start: number, bytes: number): Buffer | null =>
    bytes < 0 ? null : Buffer.from(cursor.bytes.subarray(start, start + bytes))
  while (cursor.next()) {
    found.push({
      offset: cursor.offset,
      timestamp: cursor.timestamp,
      key: slice(cursor.keyStart, cursor.keyBytes),
      value: slice(cursor.valueStart, cursor.valueBytes),
      headers: cursor.headers().map(([name, value]) => [name, value === null ? null : Buffer.from(value)]),
    })
  }
  return found
}

const expected = (records: readonly Plain[], offset = 0): object[] =>
  records.map(({ timestamp, key, value, headers }, index) => ({
    offset: offset + index,
    timestamp,
    key: bytesOf(key),
    value: bytesOf(value),
    headers: (headers ?? []).map(([name, value]) => [name, bytesOf(value)]),
  }))

describe('bytes', () => {
  test('are those of kafka-python', () => {
    const batch = Buffer.from(build(goldenRecords))
    patchOffset(batch, 0, 0, 0)
    expect(batch.toString('hex')).toBe(golden.none)
  })

  test('are those of kafka-python for an idempotent producer', () => {
    const builder = new BatchBuilder()
    for (const { timestamp, key, value, headers } of goldenRecords)
      builder.append(timestamp, key, value, headers)
    const batch = builder.close({
      producerId: 123_456_789_012,
      producerEpoch: 7,
      baseSequence: 2_147_483_640,
    })
    patchOffset(batch, 0, 0, 0)
    expect(batch.toString('hex')).toBe(golden.idempotent)
  })

  test('say that they are transactional', () => {
    const builder = new BatchBuilder()
    builder.append(0, null, 'x', null)
    expect(isTransactional(builder.close({ transactional: true }), 0)).toBe(true)
  })
})

describe('a record', () => {
  test.each(Object.keys(compressionTypes) as Compression[])(
    'comes out as it was put in (%s)',
    compression => {
      fc.assert(
        fc.property(fc.array(record, { minLength: 1, maxLength: 6 }), records => {
          // Two dates at the ends of the calendar are further apart than a number can tell.
          const base = records[0].timestamp
          fc.pre(records.every(({ timestamp }) => Number.isSafeInteger(timestamp - base)))
          const batch = build(records, compression)
          expect(checkBatch(batch, 0, batch.length)).toBeNull()
          expect(maxTimestamp(batch, 0)).toBe(Math.max(...records.map(({ timestamp }) => timestamp)))
          expect(read(batch)).toEqual(expected(records))
        }),
        { numRuns: 40 },
      )
    },
  )

  test('may be any number of milliseconds before or after the first', () => {
    for (const power of [6, 7, 13, 14, 20, 27, 30, 31, 32, 48, 51, 52, 53]) {
      for (const delta of [2 ** power, 2 ** power - 1, 2 ** power + 1].filter(Number.isSafeInteger)) {
        const records = [0, delta, -delta].map(timestamp => ({
          timestamp,
          key: null,
          value: null,
          headers: null,
        }))
        expect(read(build(records))).toEqual(expected(records))
      }
    }
  })

  test('takes up no more than recordBytesMax says', () => {
    fc.assert(
      fc.property(record, ({ timestamp, key, value, headers }) => {
        const builder = new BatchBuilder()
        builder.append(0, null, null, null)
        const before = builder.bytes
        builder.append(timestamp, key, value, headers)
        expect(builder.bytes - before).toBeLessThanOrEqual(recordBytesMax(key, value, headers))
      }),
    )
  })
})

describe('a builder', () => {
  test('knows its size and count, and is used again', () => {
    const builder = new BatchBuilder(0)
    for (let round = 0; round < 3; round++) {
      expect(builder.count).toBe(0)
      const records = Array.from({ length: 50 * (round + 1) }, (_, index) => ({
        timestamp: index,
        key: `k${index}`,
        value: 'v'.repeat(round),
        headers: null,
      }))
      const batch = build(records, 'none', builder)
      expect(builder.count).toBe(records.length)
      expect(builder.bytes).toBe(batch.length)
      expect(read(batch)).toEqual(expected(records))
      builder.reset()
    }
  })

  test('an empty batch cannot be closed', () => {
    expect(() => new BatchBuilder().close()).toThrow('empty batch')
  })

  test('is as it was after a record that cannot be written', () => {
    const builder = new BatchBuilder()
    builder.append(1, 'a', 'b', null)
    const before = builder.bytes
    expect(() => builder.append(2, 'c', 'd', [[null as unknown as string, 'x']])).toThrow()
    expect(builder.bytes).toBe(before)
    builder.append(3, 'e', 'f', null)
    expect(read(builder.close())).toMatchObject([{ timestamp: 1 }, { timestamp: 3 }])
  })
})
