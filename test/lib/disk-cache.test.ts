/** What the tail cache adds to a disk: which reads it answers at once, what it forgets, how much it holds. */

import { beforeEach, describe, expect, test } from 'vitest'
import { type Disk, DiskError, type DiskFile } from '../../src/lib/disk.ts'
import { cachedDisk } from '../../src/lib/disk-cache.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const KiB = 1024
const MiB = 1024 * KiB

let clock: VirtualClock
let faulty: FaultyDisk
let disk: Disk

beforeEach(() => {
  clock = new VirtualClock()
  faulty = new FaultyDisk({ seed: 1, clock })
  disk = cachedDisk(faulty, { bytesMax: MiB })
})

const append = (file: DiskFile, bytes: Uint8Array) => file.write(bytes, file.size())

/** The disk fails every read, so what comes from one was in the cache. */
function isCached(file: DiskFile, position: number): boolean {
  faulty.failNext('read')
  const result = file.read(position, 1)
  if (!(result instanceof Promise)) {
    // Uses up the failure that was not needed.
    expect(() => file.readNow(position, 1)).toThrow(DiskError)
    return true
  }
  result.catch(() => {})
  return false
}

describe('reads', () => {
  test('of what was appended are answered at once, with a view of the same memory', () => {
    const file = disk.open('a.log', 'create')
    append(file, Buffer.from('hello'))
    append(file, Buffer.from('world'))
    expect(isCached(file, 0)).toBe(true)
    const one = file.read(5, 5) as Buffer
    const other = file.read(5, 5) as Buffer
    expect(one.toString()).toBe('world')
    expect(other.buffer).toBe(one.buffer)
  })

  test('of a file that has long not been read go to the disk, until it is read again', () => {
    disk = cachedDisk(faulty, { bytesMax: 64 * MiB })
    const file = disk.open('a.log', 'create')
    for (let index = 0; index < 12; index++) append(file, Buffer.alloc(MiB))
    expect(isCached(file, 11 * MiB)).toBe(false)
    append(file, Buffer.alloc(MiB))
    expect(isCached(file, 12 * MiB)).toBe(true)
    expect(isCached(file, 11 * MiB)).toBe(false)
  })

  test('of what was there before go to the disk', async () => {
    const before = disk.open('a.log', 'create')
    append(before, Buffer.from('old'))
    before.close()
    const file = disk.open('a.log', 'write')
    append(file, Buffer.from('new'))
    expect(isCached(file, 0)).toBe(false)
    expect(isCached(file, 3)).toBe(true)
    const read = file.read(0, 6)
    await clock.runUntilIdle()
    expect(Buffer.from(await read).toString()).toBe('oldnew')
  })

  test('of other files than logs, and of files opened for reading, go to the disk', () => {
    const index = disk.open('a.index', 'create')
    append(index, Buffer.from('x'))
    expect(isCached(index, 0)).toBe(false)
    append(disk.open('a.log', 'create'), Buffer.from('x'))
    expect(isCached(disk.open('a.log', 'read'), 0)).toBe(false)
  })

  test('for recovery go to the disk', () => {
    const file = disk.open('a.log', 'create')
    append(file, Buffer.from('x'))
    faulty.failNext('read')
    expect(() => file.readNow(0, 1)).toThrow(DiskError)
  })
})

describe('the cache forgets', () => {
  let file: DiskFile

  beforeEach(() => {
    file = disk.open('a.log', 'create')
    append(file, Buffer.from('0123456789'))
  })

  test('what is cut off', () => {
    file.truncate(4)
    expect(isCached(file, 4)).toBe(false)
    append(file, Buffer.from('abc'))
    expect((file.read(0, 10) as Buffer).toString()).toBe('0123')
    expect((file.read(4, 10) as Buffer).toString()).toBe('abc')
  })

  test('what is overwritten, and goes on with what is appended after', async () => {
    file.write(Buffer.from('ab'), 4)
    expect(isCached(file, 4)).toBe(false)
    const read = file.read(4, 6)
    await clock.runUntilIdle()
    expect(Buffer.from(await read).toString()).toBe('ab6789')
    append(file, Buffer.from('new'))
    expect((file.read(10, 10) as Buffer).toString()).toBe('new')
  })

  test('nothing that a failed write did not reach, and takes in nothing of that', () => {
    faulty.room = 2
    expect(() => append(file, Buffer.from('abcd'))).toThrow(DiskError)
    expect(file.size()).toBe(12)
    expect(isCached(file, 9)).toBe(true)
    expect(isCached(file, 10)).toBe(false)
    file.truncate(10)
    append(file, Buffer.from('X'))
    expect((file.read(10, 10) as Buffer).toString()).toBe('X')
  })

  test('what a failed write may have overwritten', () => {
    faulty.failNext('write')
    expect(() => file.write(Buffer.from('ab'), 4)).toThrow(DiskError)
    expect(isCached(file, 4)).toBe(false)
  })

  test('a file that is closed', () => {
    const other = disk.open('b.log', 'create')
    const chunk = Buffer.alloc(300 * KiB)
    for (let count = 0; count < 3; count++) append(other, chunk)
    other.close()
    // There is room for three of the same size, and the first chunk is older than those that were given up.
    for (let count = 0; count < 3; count++) append(file, chunk)
    expect(isCached(file, 0)).toBe(true)
  })
})

describe('the memory', () => {
  test('is bounded over all files, and the oldest bytes go first', () => {
    const files = Array.from({ length: 4 }, (_, index) => disk.open(`${index}.log`, 'create'))
    const chunk = Buffer.alloc(64 * KiB)
    for (let round = 0; round < 20; round++) for (const file of files) append(file, chunk)
    let cached = 0
    for (const file of files) {
      const known = Array.from({ length: 20 }, (_, index) => isCached(file, index * chunk.length))
      cached += known.filter(Boolean).length * chunk.length
      expect(known[19]).toBe(true)
      // Once cached, cached to the end.
      expect(known.lastIndexOf(false)).toBe(known.indexOf(true) - 1)
    }
    expect(cached).toBeLessThanOrEqual(MiB)
    expect(cached).toBeGreaterThanOrEqual(MiB / 2)
  })

  test('is not used up by many small files', () => {
    const files = Array.from({ length: 200 }, (_, index) => disk.open(`${index}.log`, 'create'))
    for (const file of files) append(file, Buffer.alloc(100))
    expect(files.every(file => isCached(file, 0))).toBe(true)
  })

  test('holds nothing with a bound of 0, or of an append larger than the bound', () => {
    const none = cachedDisk(faulty, { bytesMax: 0 }).open('a.log', 'create')
    append(none, Buffer.from('x'))
    expect(isCached(none, 0)).toBe(false)
    const file = disk.open('b.log', 'create')
    append(file, Buffer.alloc(MiB + 1))
    expect(isCached(file, 0)).toBe(false)
    append(file, Buffer.from('x'))
    expect(isCached(file, MiB + 1)).toBe(true)
  })
})

test('an append is one write to the disk', () => {
  const file = disk.open('a.log', 'create')
  const before = faulty.operations
  append(file, Buffer.alloc(100 * KiB))
  expect(faulty.operations).toBe(before + 1)
})
