/** The pure half of reading: which of the bytes at hand are served. */

import { describe, expect, test } from 'vitest'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { locate } from '../../src/log/salvage.ts'
import { findBatch, scan } from '../../src/log/scan.ts'
import { type Due, selectBatches } from '../../src/log/select.ts'
import { patchOffset } from '../../src/record/batch.ts'
import { batchOf, values } from './scratch-log.ts'

const at = (offset: number, count = 1): Buffer => {
  const batch = batchOf(values(count, offset))
  patchOffset(batch, 0, offset, 0)
  return batch
}

const batches = [at(10, 2), at(12, 3), at(15, 1), at(16, 4)]
const bytes = Buffer.concat(batches)
const positions = [0, 1, 2, 3, 4].map(index =>
  batches.slice(0, index).reduce((sum, batch) => sum + batch.length, 0),
)
const unknown: Due = { baseOffset: -1, lastOffset: -1 }
const first: Due = { baseOffset: 10, lastOffset: -1 }
const select = (offset: number, limit = 100, due = first, part = bytes, trusted = false) =>
  selectBatches(part, trusted, offset, limit, due)

describe('selection', () => {
  test('begins with the batch that holds the offset and ends with the bytes', () => {
    for (const [offset, index] of [
      [10, 0],
      [11, 0],
      [12, 1],
      [14, 1],
      [15, 2],
      [19, 3],
    ]) {
      expect(select(offset)).toEqual({ kind: 'found', start: positions[index], end: bytes.length, next: 20 })
    }
  })

  test('ends before a batch that is not whole', () => {
    const part = bytes.subarray(0, positions[3] + 50)
    expect(select(10, 100, first, part)).toEqual({ kind: 'found', start: 0, end: positions[3], next: 16 })
    expect(select(17, 100, first, part)).toEqual({
      kind: 'more',
      skip: positions[3],
      due: { baseOffset: 16, lastOffset: -1 },
      needed: 61,
    })
  })

  test('asks for the whole batch once the header is known', () => {
    const part = bytes.subarray(0, positions[3] + 61)
    expect(select(17, 100, first, part)).toMatchObject({
      kind: 'more',
      skip: positions[3],
      needed: batches[3].length,
    })
    expect(select(10, 100, first, bytes.subarray(0, 70))).toMatchObject({
      kind: 'more',
      skip: 0,
      needed: batches[0].length,
    })
    expect(select(10, 100, first, bytes.subarray(0, 60))).toMatchObject({ kind: 'more', skip: 0, needed: 61 })
  })

  test('steps over a batch whose end is not at hand', () => {
    expect(select(14, 100, first, bytes.subarray(0, 65))).toMatchObject({
      kind: 'more',
      skip: positions[1],
      due: { baseOffset: 12, lastOffset: -1 },
    })
  })

  test('ends at the limit', () => {
    expect(select(10, 15)).toMatchObject({ kind: 'found', end: positions[2], next: 15 })
    expect(select(10, 11)).toMatchObject({ kind: 'found', end: positions[1] })
  })

  test('serves what is good before damage, then says where it is', () => {
    for (const change of [12, 16, 17, 22, 60, 65, 3]) {
      const part = Buffer.from(bytes)
      part[positions[2] + change] ^= 1
      expect(select(10, 100, first, part), `byte ${change}`).toMatchObject({
        kind: 'found',
        end: positions[2],
        next: 15,
      })
      const due = { baseOffset: 15, lastOffset: -1 }
      expect(select(15, 100, due, part.subarray(positions[2])), `byte ${change}`).toMatchObject({
        kind: 'damaged',
        at: 0,
      })
    }
  })

  test('does not look at the checksum of bytes from memory', () => {
    const part = Buffer.from(bytes)
    part[70] ^= 1
    expect(select(10, 100, first, part, true)).toMatchObject({ kind: 'found', end: bytes.length })
    expect(select(10, 100, first, part, false)).toMatchObject({ kind: 'damaged', at: 0 })
  })

  test('believes an index only if the batch is the one that it speaks of', () => {
    expect(select(12, 100, { baseOffset: -1, lastOffset: 11 })).toMatchObject({
      kind: 'found',
      start: positions[1],
    })
    expect(select(12, 100, { baseOffset: -1, lastOffset: 12 })).toMatchObject({ kind: 'damaged', at: 0 })
    expect(select(9, 100, unknown)).toMatchObject({ kind: 'damaged', at: 0 })
    expect(select(12, 100, unknown)).toMatchObject({ kind: 'found', start: positions[1] })
  })

  test('a base offset beyond the limit is damage, not the end', () => {
    const part = Buffer.from(bytes)
    part[4] = 1
    expect(select(10, 100, first, part)).toMatchObject({ kind: 'damaged', at: 0 })
  })
})

describe('over a file', () => {
  const fileOf = (content: Buffer) => {
    const file = memoryDisk().open('/file', 'create')
    if (content.length > 0) file.write(content, 0)
    return file
  }

  test('a scan finds every batch, also those larger than its window', () => {
    const large = batchOf([Buffer.alloc(1_500_000, 1)])
    const content = Buffer.concat([at(0), large, at(1), at(2)])
    const found = [...scan(fileOf(content), 0)]
    expect(found.map(({ batchBytes, wrong }) => [batchBytes, wrong])).toEqual([
      [at(0).length, null],
      [large.length, null],
      [at(1).length, null],
      [at(2).length, null],
    ])
    expect([...scan(fileOf(Buffer.alloc(0)), 0)]).toEqual([])
  })

  test('a scan across many windows reads on where a batch is cut by one', () => {
    const content = Buffer.concat(Array.from({ length: 3_000 }, (_, offset) => at(offset, 10)))
    let due = 0
    for (const found of scan(fileOf(content), 0)) {
      expect(found.wrong).toBeNull()
      due += 10
    }
    expect(due).toBe(30_000)
  })

  test('a search finds a batch at any distance, also where two windows meet', () => {
    for (const distance of [
      0,
      1,
      61,
      1024 * 1024 - 61,
      1024 * 1024 - 60,
      1024 * 1024 - 1,
      1024 * 1024,
      1024 * 1024 + 5,
    ]) {
      const file = fileOf(Buffer.concat([Buffer.alloc(distance, 2), at(7)]))
      expect(findBatch(file, 0, 5, 10), `distance ${distance}`).toEqual({
        position: distance,
        baseOffset: 7,
        lastOffset: 7,
        batchBytes: at(7).length,
      })
      expect(findBatch(file, 0, 8, 10)).toBeNull()
      expect(findBatch(file, 0, 5, 7)).toBeNull()
      expect(findBatch(file, distance + 1, 5, 10)).toBeNull()
    }
  })

  test('a good batch between two damaged ones is found, if the header before it still leads there', () => {
    const content = Buffer.concat([at(0), at(1), at(2), at(3), at(4)])
    const length = at(0).length
    content[length + 65] ^= 1
    content[3 * length + 16] = 9
    expect(locate(fileOf(content), 0, 5, 2)).toEqual({ kind: 'found', position: 2 * length, baseOffset: 2 })
    expect(locate(fileOf(content), 0, 5, 3)).toMatchObject({
      kind: 'lost',
      position: 3 * length,
      resumeOffset: 4,
    })
  })

  test('a last batch whose base offset was changed is not taken for another', () => {
    const changed = at(8, 2)
    patchOffset(changed, 0, 9, 0)
    const content = Buffer.concat([at(7), changed])
    expect(locate(fileOf(content), 7, 10, 9)).toMatchObject({
      kind: 'lost',
      position: at(7).length,
      resumeOffset: 10,
    })
  })

  test('a batch with a leader epoch that was never written is lost, and no others', () => {
    const content = Buffer.concat([at(0), at(1), at(2)])
    const length = at(0).length
    for (const index of [0, 1, 2]) {
      const damaged = Buffer.from(content)
      damaged[index * length + 13] ^= 1
      for (const offset of [0, 1, 2]) {
        expect(locate(fileOf(damaged), 0, 3, offset)).toMatchObject(
          offset === index
            ? { kind: 'lost', resumeOffset: index + 1 }
            : { kind: 'found', position: offset * length },
        )
      }
    }
  })

  test('locating goes past damage of any number of batches', () => {
    const content = Buffer.concat(Array.from({ length: 20 }, (_, offset) => at(offset)))
    const length = at(0).length
    for (const offset of [3, 4, 9, 17]) content[offset * length + 65] ^= 1
    content[9 * length + 16] = 9 // no header either
    const file = fileOf(content.subarray(0, 10 * length))
    const lost = [3, 4, 9]
    for (let offset = 0; offset < 10; offset++) {
      const located = locate(file, 0, 10, offset)
      if (!lost.includes(offset))
        expect(located).toEqual({ kind: 'found', position: offset * length, baseOffset: offset })
      else expect(located).toMatchObject({ kind: 'lost', position: (offset === 4 ? 3 : offset) * length })
    }
    expect(locate(file, 0, 12, 11)).toMatchObject({ kind: 'lost', resumeOffset: 12 })
    expect(locate(fileOf(Buffer.alloc(0)), 0, 5, 2)).toMatchObject({
      kind: 'lost',
      position: 0,
      resumeOffset: 5,
    })
  })
})
