/** Memory that is given back: all of it or nothing, and only by its owner. */

import { describe, expect, test } from 'vitest'
import { allocateOwned, release, releaseOwned } from '../../src/lib/memory.ts'

describe('release', () => {
  test('frees what is the whole of its memory', () => {
    const bytes = Buffer.allocUnsafeSlow(1000)
    const view = bytes.subarray(10, 20)
    release(bytes)
    expect([bytes.length, view.length]).toEqual([0, 0])
    release(bytes)
  })

  test('leaves alone what shares its memory', () => {
    const memory = Buffer.alloc(1000, 7)
    release(memory.subarray(0, 999))
    release(memory.subarray(1))
    const pooled = Buffer.from('pooled')
    release(pooled)
    expect([memory.length, memory[999], pooled.toString()]).toEqual([1000, 7, 'pooled'])
  })
})

describe('releaseOwned', () => {
  test('frees all of the memory of a view', () => {
    const bytes = allocateOwned(1000)
    const [one, other] = [bytes.subarray(10, 20), bytes.subarray(20)]
    releaseOwned(one)
    releaseOwned(other)
    expect([bytes.length, one.length, other.length]).toEqual([0, 0, 0])
  })

  test('leaves alone what was not made for one reader', () => {
    const bytes = Buffer.alloc(1000)
    releaseOwned(bytes)
    releaseOwned(bytes.subarray(1))
    expect(bytes.length).toBe(1000)
  })
})
