/** The map from keys to offsets: it forgets nothing, takes no key for another, and stays within its memory. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { KeyMap } from '../../src/log/key-map.ts'

const put = (map: KeyMap, key: Uint8Array, offset: number): boolean => {
  map.stage(0, key, 0, key.length)
  map.touch(1)
  return map.put(0, offset)
}

const get = (map: KeyMap, key: Uint8Array): number => {
  map.stage(0, key, 0, key.length)
  return map.get(0)
}

describe('a key map', () => {
  test('holds what a Map holds, whatever the keys', () => {
    const keys = fc.uint8Array({ maxLength: 40 })
    const offsets = fc.oneof(fc.nat(), fc.integer({ min: 2 ** 31 - 2, max: 2 ** 53 - 2 }))
    fc.assert(
      fc.property(fc.array(fc.tuple(keys, offsets), { maxLength: 200 }), entries => {
        const map = new KeyMap(1_000_000)
        const model = new Map<string, number>()
        for (const [key, offset] of entries) {
          expect(put(map, key, offset)).toBe(true)
          model.set(Buffer.from(key).toString('hex'), offset)
        }
        expect(map.count).toBe(model.size)
        for (const [hex, offset] of model) expect(get(map, Buffer.from(hex, 'hex'))).toBe(offset)
        expect(get(map, Buffer.alloc(41))).toBe(-1)
      }),
    )
  })

  test('grows with its keys, up to its memory, and then takes only keys that it knows', () => {
    const bytesMax = 2_000_000
    const map = new KeyMap(bytesMax)
    expect(map.bytes).toBeLessThan(100_000)
    let count = 0
    while (put(map, Buffer.from(`key ${count}`), count)) count++
    expect(map.bytes).toBeLessThanOrEqual(bytesMax)
    expect(count).toBeGreaterThan(bytesMax / 24 / 2.5)
    expect(map.count).toBe(count)
    for (let key = 0; key < count; key++) expect(get(map, Buffer.from(`key ${key}`))).toBe(key)
    expect(get(map, Buffer.from(`key ${count}`))).toBe(-1)
    expect(put(map, Buffer.from('key 0'), 2 ** 40)).toBe(true)
    expect(get(map, Buffer.from('key 0'))).toBe(2 ** 40)
  })

  test('any number of keys can be at hand at once', () => {
    const map = new KeyMap(10_000_000)
    const keys = Array.from({ length: 5000 }, (_, index) => Buffer.from(`${index % 3000}`))
    for (const [index, key] of keys.entries()) map.stage(index, key, 0, key.length)
    map.touch(keys.length)
    for (const index of keys.keys()) map.put(index, index)
    expect(map.count).toBe(3000)
    expect(map.get(10)).toBe(3010)
    expect(map.get(2999)).toBe(2999)
  })

  test('keys that differ only in length or in one bit are different', () => {
    const map = new KeyMap(1_000_000)
    const keys: Buffer[] = []
    for (let length = 0; length < 20; length++) keys.push(Buffer.alloc(length))
    for (let bit = 0; bit < 64; bit++) {
      const key = Buffer.alloc(8)
      key[bit >>> 3] = 1 << (bit & 7)
      keys.push(key)
    }
    for (const [index, key] of keys.entries()) put(map, key, index)
    expect(map.count).toBe(keys.length)
    for (const [index, key] of keys.entries()) expect(get(map, key)).toBe(index)
  })
})
