/** Taking records out of stored batches: what stays is as it was, and the batch still says what it spans. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  baseOffset,
  baseSequence,
  checkBatch,
  compressionOf,
  deleteHorizon,
  lastOffset,
  maxTimestamp,
  patchAppendTime,
  patchOffset,
  producerEpoch,
  producerId,
  recordCount,
} from '../../src/record/batch.ts'
import { BatchBuilder, type Compression, compressionTypes } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { emptied, emptySpan, filterBatch } from '../../src/record/filter.ts'

interface Entry {
  readonly offset: number
  readonly timestamp: number
  readonly key: string | null
  readonly value: string | null
}

const BASE = 2 ** 40
const TIME = 1_700_000_000_000

type Spec = readonly [timestamp: number, key: string | null, value: string | null]

function batchOf(specs: readonly Spec[], compression: Compression = 'none'): Buffer {
  const builder = new BatchBuilder()
  for (const [timestamp, key, value] of specs) builder.append(TIME + timestamp, key, value, [['h', 'x']])
  const options = { producerId: 5, producerEpoch: 2, baseSequence: 77 }
  const batch = Buffer.from(builder.close({ compression, ...options }))
  patchOffset(batch, 0, BASE, 0)
  return batch
}

function entriesOf(batch: Buffer): Entry[] {
  const cursor = new RecordCursor(batch)
  const entries: Entry[] = []
  const text = (start: number, length: number): string | null =>
    length < 0 ? null : cursor.bytes.toString('utf8', start, start + length)
  while (cursor.next()) {
    const { offset, timestamp } = cursor
    const key = text(cursor.keyStart, cursor.keyBytes)
    entries.push({ offset, timestamp, key, value: text(cursor.valueStart, cursor.valueBytes) })
    expect(cursor.headers()).toEqual([['h', Buffer.from('x')]])
  }
  return entries
}

const filtered = (batch: Buffer, keeps: readonly boolean[], horizon = TIME + 1e6): Buffer | null =>
  filterBatch(batch, { look: () => {}, keep: index => keeps[index], deleteHorizon: horizon })

test('any records may go: the others keep offset, time, key, value and headers, whatever the compression', () => {
  const spec = fc.tuple(
    fc.integer({ min: -1e12, max: 1e12 }),
    fc.option(fc.string({ maxLength: 20 })),
    fc.option(fc.string({ maxLength: 200 })),
  )
  const keep = fc.boolean()
  const compression = fc.constantFrom(...(Object.keys(compressionTypes) as Compression[]))
  const specs = fc.array(fc.tuple(spec, keep), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(specs, compression, (pairs, compression) => {
      const batch = batchOf(
        pairs.map(([spec]) => spec),
        compression,
      )
      const keeps = pairs.map(([, keep]) => keep)
      const expected = entriesOf(batch).filter((_, index) => keeps[index])
      const result = filtered(batch, keeps)
      expect(result === null).toBe(expected.length === 0)
      if (result === null) return
      expect(checkBatch(result, 0, result.length)).toBeNull()
      expect(entriesOf(result)).toEqual(expected)
      expect(recordCount(result, 0)).toBe(expected.length)
      expect(maxTimestamp(result, 0)).toBe(Math.max(...expected.map(({ timestamp }) => timestamp)))
      expect([baseOffset(result, 0), lastOffset(result, 0)]).toEqual([BASE, BASE + pairs.length - 1])
      expect([producerId(result, 0), producerEpoch(result, 0), baseSequence(result, 0)]).toEqual([5, 2, 77])
      expect(compressionOf(result, 0)).toBe(compressionTypes[compression])
      const hasTombstone = expected.some(({ value }) => value === null)
      expect(deleteHorizon(result, 0)).toBe(hasTombstone ? TIME + 1e6 : -1)
      // Once more, with nothing to do.
      const all = expected.map(() => true)
      expect(filtered(result, all, TIME + 2e6)).toBe(result)
    }),
  )
})

describe('a batch', () => {
  test('of which nothing goes is the same object', () => {
    const batch = batchOf([
      [0, 'a', '1'],
      [1, 'b', '2'],
    ])
    expect(filtered(batch, [true, true])).toBe(batch)
  })

  test('keeps the delete horizon that it has', () => {
    const batch = filtered(
      batchOf([
        [0, 'a', null],
        [1, 'b', null],
      ]),
      [true, true],
      TIME + 5,
    )!
    expect(deleteHorizon(batch, 0)).toBe(TIME + 5)
    const less = filtered(batch, [false, true], TIME + 9)!
    expect(deleteHorizon(less, 0)).toBe(TIME + 5)
    expect(entriesOf(less)).toEqual([{ offset: BASE + 1, timestamp: TIME + 1, key: 'b', value: null }])
  })

  test('with the time of the log keeps it', () => {
    const batch = batchOf([
      [0, 'a', null],
      [50, 'b', '1'],
    ])
    patchAppendTime(batch, 0, TIME + 1000)
    const less = filtered(batch, [true, false])!
    expect(entriesOf(less)).toEqual([{ offset: BASE, timestamp: TIME + 1000, key: 'a', value: null }])
  })

  test('without records still has its offsets and its producer', () => {
    const batch = emptied(
      batchOf(
        [
          [0, 'a', '1'],
          [1, 'b', '2'],
        ],
        'zstd',
      ),
    )
    expect(checkBatch(batch, 0, batch.length)).toBeNull()
    expect(entriesOf(batch)).toEqual([])
    expect([baseOffset(batch, 0), lastOffset(batch, 0), recordCount(batch, 0)]).toEqual([BASE, BASE + 1, 0])
    expect([producerId(batch, 0), producerEpoch(batch, 0), baseSequence(batch, 0)]).toEqual([5, 2, 77])
    expect([maxTimestamp(batch, 0), compressionOf(batch, 0)]).toEqual([TIME + 1, 0])
  })

  test('can stand for any number of offsets', () => {
    const batch = emptySpan(BASE, BASE + 2 ** 31 - 2, 0)
    expect(checkBatch(batch, 0, batch.length)).toBeNull()
    expect([baseOffset(batch, 0), lastOffset(batch, 0)]).toEqual([BASE, BASE + 2 ** 31 - 2])
    expect([recordCount(batch, 0), producerId(batch, 0), maxTimestamp(batch, 0)]).toEqual([0, -1, -1])
    expect(entriesOf(Buffer.concat([batch, batchOf([[0, 'a', '1']])])).length).toBe(1)
  })
})
