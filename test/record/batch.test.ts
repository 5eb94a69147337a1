/** The header of a record batch: every field where another implementation has it, and damage noticed. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  asBuffer,
  attributes,
  BATCH_HEADER_BYTES,
  baseOffset,
  baseSequence,
  baseTimestamp,
  batchBytes,
  checkBatch,
  checkHeader,
  compressionOf,
  hasAppendTime,
  isControl,
  isTransactional,
  lastOffset,
  lastOffsetDelta,
  leaderEpoch,
  maxTimestamp,
  patchAppendTime,
  patchOffset,
  producerEpoch,
  producerId,
  readInt64,
  recordCount,
  writeInt64,
} from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { golden } from './golden.ts'

const batch = (): Buffer => {
  const builder = new BatchBuilder()
  builder.append(1_000, 'key', 'value', [['name', 'content']])
  builder.append(2_000, null, 'x'.repeat(100), null)
  return Buffer.from(builder.close({ producerId: 5, producerEpoch: 6, baseSequence: 7 }))
}

describe('fields', () => {
  test('are those that kafka-python has written', () => {
    const bytes = Buffer.from(golden.idempotent, 'hex')
    expect(batchBytes(bytes, 0)).toBe(bytes.length)
    expect(baseOffset(bytes, 0)).toBe(0)
    expect(leaderEpoch(bytes, 0)).toBe(0)
    expect(attributes(bytes, 0)).toBe(0)
    expect(compressionOf(bytes, 0)).toBe(0)
    expect(lastOffsetDelta(bytes, 0)).toBe(3)
    expect(lastOffset(bytes, 0)).toBe(3)
    expect(baseTimestamp(bytes, 0)).toBe(1_700_000_000_000)
    expect(maxTimestamp(bytes, 0)).toBe(1_700_000_000_000 + 2 ** 32 + 5)
    expect(producerId(bytes, 0)).toBe(123_456_789_012)
    expect(producerEpoch(bytes, 0)).toBe(7)
    expect(baseSequence(bytes, 0)).toBe(2_147_483_640)
    expect(recordCount(bytes, 0)).toBe(4)
    expect(isTransactional(bytes, 0)).toBe(false)
    expect(isControl(bytes, 0)).toBe(false)
    expect(checkBatch(bytes, 0, bytes.length)).toBeNull()
  })

  test.each([
    ['none', 0],
    ['gzip', 1],
    ['snappy', 2],
    ['lz4', 3],
    ['zstd', 4],
  ] as const)('checksum and compression of a %s batch of kafka-python', (name, number) => {
    const bytes = Buffer.from(golden[name], 'hex')
    expect(checkBatch(bytes, 0, bytes.length)).toBeNull()
    expect(compressionOf(bytes, 0)).toBe(number)
  })

  test('integers of 64 bits are exact up to 2^53 and below zero', () => {
    fc.assert(
      fc.property(fc.maxSafeInteger(), value => {
        const bytes = Buffer.alloc(8)
        writeInt64(bytes, 0, value)
        expect(bytes.readBigInt64BE(0)).toBe(BigInt(value))
        expect(readInt64(bytes, 0)).toBe(value)
      }),
    )
  })
})

describe('patches', () => {
  test('the offset and the epoch leave the checksum as it is', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 50 }),
        fc.integer({ min: -1, max: 2 ** 31 - 1 }),
        (offset, epoch) => {
          const bytes = batch()
          patchOffset(bytes, 0, offset, epoch)
          expect(baseOffset(bytes, 0)).toBe(offset)
          expect(lastOffset(bytes, 0)).toBe(offset + 1)
          expect(leaderEpoch(bytes, 0)).toBe(epoch)
          expect(checkBatch(bytes, 0, bytes.length)).toBeNull()
        },
      ),
    )
  })

  test('the append time is given to all records, with a good checksum', () => {
    const bytes = batch()
    patchAppendTime(bytes, 0, 1_700_000_000_123)
    expect(checkBatch(bytes, 0, bytes.length)).toBeNull()
    expect(hasAppendTime(bytes, 0)).toBe(true)
    expect(maxTimestamp(bytes, 0)).toBe(1_700_000_000_123)
    const cursor = new RecordCursor(bytes)
    while (cursor.next()) expect(cursor.timestamp).toBe(1_700_000_000_123)
  })
})

describe('damage', () => {
  test('every single flipped bit behind the epoch is noticed', () => {
    const good = batch()
    for (let bit = 0; bit < good.length * 8; bit++) {
      const at = bit >>> 3
      if (at < 8 || (at >= 12 && at < 16)) continue // base offset and leader epoch: for the log to compare
      const bytes = Buffer.from(good)
      bytes[at] ^= 1 << (bit & 7)
      expect(checkBatch(bytes, 0, bytes.length), `bit ${bit}`).not.toBeNull()
    }
  })

  test('a batch that is cut off anywhere is not whole', () => {
    const good = batch()
    for (let end = 0; end < good.length; end++) {
      expect(checkBatch(good, 0, end)).toMatch(/incomplete/)
      expect(checkBatch(good.subarray(0, end), 0, end)).toMatch(/incomplete/)
    }
  })

  test('any bytes get an answer, not an exception', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (array, at) => {
        const bytes = asBuffer(array)
        const start = Math.min(at, bytes.length)
        checkBatch(bytes, start, bytes.length)
        if (bytes.length - start < BATCH_HEADER_BYTES)
          expect(checkHeader(bytes, start, bytes.length)).not.toBeNull()
      }),
    )
  })

  test('says what is wrong', () => {
    const wrong = (change: (bytes: Buffer) => void): string | null => {
      const bytes = batch()
      change(bytes)
      return checkBatch(bytes, 0, bytes.length)
    }
    expect(wrong(bytes => bytes.writeUInt8(1, 16))).toBe('magic 1 instead of 2')
    expect(wrong(bytes => bytes.writeInt32BE(10, 8))).toBe('impossible length 22')
    expect(wrong(bytes => bytes.writeInt32BE(-1, 8))).toMatch('impossible length')
    expect(wrong(bytes => bytes.writeInt32BE(-1, 57))).toBe('negative record count')
    expect(wrong(bytes => bytes.writeInt32BE(-1, 23))).toBe('negative record count')
    expect(wrong(bytes => bytes.writeUInt32BE(0, 17))).toMatch(/^checksum [0-9a-f]{8} instead of 00000000$/)
  })
})
