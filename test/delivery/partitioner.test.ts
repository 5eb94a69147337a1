import { describe, expect, it } from 'vitest'
import { murmur2, partitionOfKey } from '../../src/delivery/partitioner.ts'

describe('murmur2', () => {
  // the vectors of the Java client's UtilsTest
  it.each([
    ['21', -973932308],
    ['foobar', -790332482],
    ['a-little-bit-long-string', -985981536],
    ['a-little-bit-longer-string', -1486304829],
    ['lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8', -58897971],
    ['abc', 479470107],
  ])('hashes %s as the Java client does', (text, hash) => {
    expect(murmur2(Buffer.from(text))).toBe(hash)
  })
})

describe('partitionOfKey', () => {
  it('takes the hash without its sign, modulo the partitions', () => {
    expect(partitionOfKey('foobar', 10)).toBe((-790332482 & 0x7fffffff) % 10)
  })

  it.each([
    '',
    'a',
    'ab',
    'abc',
    'grüße',
    '日本',
    '😀'.repeat(3),
    'x'.repeat(1024),
    'ü'.repeat(1024),
    'y'.repeat(5000),
  ])('puts a string where its UTF-8 bytes go: %#', key => {
    expect(partitionOfKey(key, 1_000_003)).toBe(partitionOfKey(Buffer.from(key), 1_000_003))
  })

  it('spreads keys evenly', () => {
    const counts = new Array(8).fill(0)
    for (let index = 0; index < 8_000; index++) counts[partitionOfKey(`key-${index}`, 8)]++
    expect(Math.min(...counts)).toBeGreaterThan(850)
  })
})
