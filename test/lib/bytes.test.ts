/** Primitives at their bounds, and parts that need no copy. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ByteReader, ByteWriter } from '../../src/lib/bytes.ts'

const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')

function written(write: (writer: ByteWriter) => void): Buffer {
  const writer = new ByteWriter()
  write(writer)
  return Buffer.concat(writer.finish().parts)
}

describe('integers', () => {
  it.each([
    ['int8', -128, '80'],
    ['int8', 127, '7f'],
    ['uint8', 255, 'ff'],
    ['int16', -32768, '8000'],
    ['int16', 32767, '7fff'],
    ['uint16', 65535, 'ffff'],
    ['int32', -(2 ** 31), '80000000'],
    ['int32', 2 ** 31 - 1, '7fffffff'],
    ['uint32', 2 ** 32 - 1, 'ffffffff'],
    ['int64', -1, 'ffffffffffffffff'],
    ['int64', -(2 ** 32), 'ffffffff00000000'],
    ['int64', 2 ** 32 - 1, '00000000ffffffff'],
    ['int64', Number.MAX_SAFE_INTEGER, '001fffffffffffff'],
    ['int64', Number.MIN_SAFE_INTEGER, 'ffe0000000000001'],
    ['float64', -0.1, 'bfb999999999999a'],
    ['uvarint', 0, '00'],
    ['uvarint', 127, '7f'],
    ['uvarint', 128, '8001'],
    ['uvarint', 2 ** 32 - 1, 'ffffffff0f'],
  ] as const)('%s %d is %s', (kind, value, hex) => {
    expect(written(writer => writer[kind](value)).toString('hex')).toBe(hex)
    expect(new ByteReader(bytes(hex))[kind]()).toBe(value)
  })

  it.each([
    ['int8', 128],
    ['uint8', -1],
    ['int16', 32768],
    ['uint16', 65536],
    ['int32', 2 ** 31],
    ['int32', 0.5],
    ['uint32', -1],
    ['int64', 2 ** 53],
    ['int64', Number.NaN],
    ['uvarint', 2 ** 32],
  ] as const)('%s %d is a defect', (kind, value) => {
    expect(() => new ByteWriter()[kind](value)).toThrow('is to be')
  })

  it('int64 agrees with BigInt', () => {
    const property = fc.property(fc.maxSafeInteger(), value => {
      const content = written(writer => writer.int64(value))
      expect(content.readBigInt64BE()).toBe(BigInt(value))
      expect(new ByteReader(content).int64()).toBe(value)
    })
    fc.assert(property, { numRuns: 500 })
  })

  it('a varint of more than 32 bits is refused', () => {
    expect(() => new ByteReader(bytes('ffffffff10')).uvarint()).toThrow('more than 32 bits')
    expect(() => new ByteReader(bytes('808080808000')).uvarint()).toThrow('more than 32 bits')
  })
})

describe('a uuid', () => {
  it('is 22 characters of base64url', () => {
    const content = bytes('00112233445566778899aabbccddeeff')
    const uuid = new ByteReader(content).uuid()
    expect(uuid).toBe('ABEiM0RVZneImaq7zN3u_w')
    expect(written(writer => writer.uuid(uuid))).toEqual(content)
  })

  it.each(['', 'ABEiM0RVZneImaq7zN3u', 'ABEiM0RVZneImaq7 N3u_w'])('never "%s"', uuid => {
    expect(() => new ByteWriter().uuid(uuid)).toThrow('uuid in base64url')
  })
})

describe('strings', () => {
  it('come back, whatever their length and characters', () => {
    const property = fc.property(fc.string({ unit: 'binary', maxLength: 300 }), text => {
      const content = written(writer => {
        writer.string16(text)
        writer.stringVarint(text, 1)
        writer.int8(7)
      })
      const reader = new ByteReader(content)
      expect(reader.utf8(reader.int16())).toBe(text)
      expect(reader.utf8(reader.uvarint() - 1)).toBe(text)
      expect(reader.int8()).toBe(7)
      expect(reader.left).toBe(0)
    })
    fc.assert(property, { numRuns: 500 })
  })

  it('come back when they are long', () => {
    for (const text of ['x'.repeat(32_767), '\u4e2d'.repeat(10_000)]) {
      const content = written(writer => {
        writer.string16(text)
        writer.stringVarint(text + text + text, 0)
      })
      const reader = new ByteReader(content)
      expect(reader.utf8(reader.int16()) === text).toBe(true)
      expect(reader.utf8(reader.uvarint()) === text + text + text).toBe(true)
    }
  })

  it('longer than an int16 says are a defect', () => {
    expect(() => new ByteWriter().string16('x'.repeat(32_768))).toThrow('at most 32767 bytes')
  })
})

describe('bounds', () => {
  it('hold for every read', () => {
    const reads: ((reader: ByteReader) => unknown)[] = [
      reader => reader.bool(),
      reader => reader.int8(),
      reader => reader.int64(),
      reader => reader.float64(),
      reader => reader.uuid(),
      reader => reader.uvarint(),
      reader => reader.utf8(1),
      reader => reader.view(2 ** 31),
      reader => reader.skip(1),
      reader => reader.enter(1),
    ]
    for (const read of reads) expect(() => read(new ByteReader(Buffer.alloc(0)))).toThrow('malformed')
  })

  it('can be narrowed', () => {
    const reader = new ByteReader(bytes('0102 03'))
    const outer = reader.enter(2)
    expect(() => reader.view(3)).toThrow('takes 3 bytes, 2 are left')
    expect(() => reader.leave(outer)).toThrow('2 bytes too many')
    reader.skip(2)
    reader.leave(outer)
    expect(reader.int8()).toBe(3)
  })
})

describe('parts', () => {
  it('hold long payloads as they are, and everything in order', () => {
    const long = Buffer.alloc(70_000, 'long')
    const writer = new ByteWriter()
    writer.int32(1)
    writer.payload(Buffer.from('short'))
    writer.payload(long)
    for (let i = 0; i < 50_000; i++) writer.int32(i)
    const whole = Buffer.concat([Buffer.from('00000001', 'hex'), Buffer.from('short'), long])
    expect(writer.bytes).toBe(whole.length + 200_000)
    writer.patchInt32(0, 2)
    whole.writeInt32BE(2)
    const { parts, bytes } = writer.finish()
    expect(parts[1]).toBe(long)
    const content = Buffer.concat(parts)
    expect(content.length).toBe(bytes)
    expect(content.subarray(0, whole.length).equals(whole)).toBe(true)
    expect(content.readInt32BE(content.length - 4)).toBe(49_999)
  })
})
