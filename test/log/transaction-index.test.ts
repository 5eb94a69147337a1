/** The index of aborted transactions: what it finds, what a torn file or a full disk leaves of it, and that the bytes are Kafka's. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DiskError } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { type AbortedTransaction, TransactionIndex } from '../../src/log/transaction-index.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { fileOf, HandClock, inMemory, putFile, type Scratch } from './scratch-log.ts'

const NAME = '00000000000000000000.txnindex'
const ENTRY_BYTES = 34

function scratch(disk = memoryDisk()): Scratch {
  const { directory } = inMemory()
  disk.makeDirectory(directory)
  return { disk, directory }
}

const open = ({ disk, directory }: Scratch): TransactionIndex =>
  new TransactionIndex(disk, `${directory}/${NAME}`, disk.list(directory).includes(NAME))

const aborted = (producerId: number, firstOffset: number, lastOffset: number): AbortedTransaction => ({
  producerId,
  firstOffset,
  lastOffset,
  lastStableOffset: lastOffset + 1,
})

function collect(index: TransactionIndex, offset = 0, end = Number.MAX_SAFE_INTEGER): AbortedTransaction[] {
  const found: AbortedTransaction[] = []
  index.collect(offset, end, found)
  return found
}

test('there is no file before the first entry', () => {
  const place = scratch()
  const index = open(place)
  expect(collect(index)).toEqual([])
  index.cut(0)
  expect(place.disk.list(place.directory)).toEqual([])
  index.append(aborted(1, 2, 3))
  expect(place.disk.list(place.directory)).toEqual([NAME])
  expect(open(place).count).toBe(1)
})

test('the bytes are those of Kafka (AbortedTxn 0)', () => {
  const place = scratch()
  const index = open(place)
  index.append({
    producerId: 4_000,
    firstOffset: 2 ** 40,
    lastOffset: 2 ** 40 + 9,
    lastStableOffset: 2 ** 40 + 4,
  })
  index.append(aborted(1, 2 ** 40 + 4, 2 ** 40 + 11))
  expect(fileOf(place, NAME).toString('hex')).toBe(
    [
      '0000' + '0000000000000fa0' + '0000010000000000' + '0000010000000009' + '0000010000000004',
      '0000' + '0000000000000001' + '0000010000000004' + '000001000000000b' + '000001000000000c',
    ].join(''),
  )
})

/** A log with the transactions of some producers, as (begin | end) at each offset; what was aborted in it, in the order of the markers. */
function history(steps: readonly { producer: number; abort: boolean }[]): AbortedTransaction[] {
  const begun = new Map<number, number>()
  const entries: AbortedTransaction[] = []
  for (const [offset, { producer, abort }] of steps.entries()) {
    const firstOffset = begun.get(producer)
    if (firstOffset === undefined) begun.set(producer, offset)
    else {
      begun.delete(producer)
      const lastStableOffset = Math.min(offset + 1, ...begun.values())
      if (abort) entries.push({ producerId: producer, firstOffset, lastOffset: offset, lastStableOffset })
    }
  }
  return entries
}

test('finds what a reader of any range has to leave out, over any number of segments', () => {
  const step = fc.record({ producer: fc.nat(6), abort: fc.boolean() })
  const property = fc.property(
    fc.array(step, { maxLength: 200, size: 'max' }),
    fc.array(fc.nat(200), { maxLength: 3 }),
    fc.nat(200),
    fc.nat(200),
    (steps, rolls, offset, length) => {
      const entries = history(steps)
      const bounds = [0, ...rolls.sort((a, b) => a - b), Number.POSITIVE_INFINITY]
      const segments = bounds.slice(1).map((end, at) => {
        const index = open(scratch())
        for (const entry of entries)
          if (entry.lastOffset >= bounds[at] && entry.lastOffset < end) index.append(entry)
        return index
      })
      const found: AbortedTransaction[] = []
      segments.every(index => index.collect(offset, offset + length, found))
      const expected = entries.filter(
        entry => entry.lastOffset >= offset && entry.firstOffset < offset + length,
      )
      expect(found).toEqual(expected)
    },
  )
  fc.assert(property, { numRuns: 300 })
})

test('finds entries beyond what is read in one go', () => {
  const index = open(scratch())
  const entries = Array.from({ length: 700 }, (_, at) => aborted(1, at * 2, at * 2 + 1))
  for (const entry of entries) index.append(entry)
  expect(collect(index)).toEqual(entries)
  expect(collect(index, 1_000, 1_200)).toEqual(entries.slice(500, 600))
  expect(collect(index, 1_399)).toEqual(entries.slice(699))
  expect(collect(index, 1_400)).toEqual([])
})

test('cut drops the transactions that ended at an offset or later, in the file as well', () => {
  const entries = [aborted(1, 0, 5), aborted(2, 1, 6), aborted(3, 3, 9)]
  for (let offset = 0; offset < 12; offset++) {
    const place = scratch()
    const index = open(place)
    for (const entry of entries) index.append(entry)
    index.cut(offset)
    const kept = entries.filter(entry => entry.lastOffset < offset)
    expect(collect(index)).toEqual(kept)
    expect(fileOf(place, NAME)).toHaveLength(kept.length * ENTRY_BYTES)
    index.append(aborted(4, 20, 21))
    expect(collect(open(place))).toEqual([...kept, aborted(4, 20, 21)])
  }
})

test('a torn last entry is ignored, and written over by the next', () => {
  for (let torn = 1; torn < ENTRY_BYTES; torn++) {
    const place = scratch()
    const before = open(place)
    before.append(aborted(1, 0, 5))
    before.append(aborted(2, 1, 6))
    putFile(place, NAME, fileOf(place, NAME).subarray(0, ENTRY_BYTES + torn))
    const index = open(place)
    expect(collect(index)).toEqual([aborted(1, 0, 5)])
    index.append(aborted(3, 1, 8))
    expect(collect(open(place))).toEqual([aborted(1, 0, 5), aborted(3, 1, 8)])
  }
})

test('moves to another name, over what is there', () => {
  const place = scratch()
  const { disk, directory } = place
  open(place).append(aborted(1, 0, 5))
  const cleaned = new TransactionIndex(disk, `${directory}/cleaned`, false)
  cleaned.append(aborted(2, 0, 6))
  cleaned.move(`${directory}/${NAME}`)
  expect(disk.list(directory)).toEqual([NAME])
  expect(collect(cleaned)).toEqual([aborted(2, 0, 6)])
  expect(collect(open(place))).toEqual([aborted(2, 0, 6)])
  new TransactionIndex(disk, `${directory}/empty`, false).move(`${directory}/${NAME}`)
  expect(disk.list(directory)).toEqual([])
})

describe('on a disk that fails', () => {
  const faulty = (seed: number): { disk: FaultyDisk; place: Scratch } => {
    const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
    return { disk, place: scratch(disk) }
  }

  test('an entry for which there is no room is not there, now or later', () => {
    for (let seed = 0; seed < 50; seed++) {
      const { disk, place } = faulty(seed)
      const index = open(place)
      if (seed % 2 === 0) index.append(aborted(1, 0, 5))
      const before = collect(index)
      disk.failNext(seed % 4 === 1 ? 'create' : 'write')
      expect(() => index.append(aborted(2, 1, 6))).toThrow(DiskError)
      expect(collect(index)).toEqual(before)
      // Whatever was written of it.
      expect(collect(open(place))).toEqual(before)
      index.append(aborted(3, 2, 7))
      expect(collect(open(place))).toEqual([...before, aborted(3, 2, 7)])
    }
  })

  test('what was synced is there after a power cut, and never a part of an entry', async () => {
    for (let seed = 0; seed < 30; seed++) {
      const { disk, place } = faulty(seed)
      const index = open(place)
      index.append(aborted(1, 0, 5))
      await index.sync()
      await disk.syncDirectory(place.directory)
      await disk.syncDirectory('/')
      index.append(aborted(2, 1, 6))
      const after = { ...place, disk: disk.crash() }
      const found = collect(open(after))
      expect(found[0]).toEqual(aborted(1, 0, 5))
      expect(found.length).toBeLessThanOrEqual(2)
    }
  })

  test('a failed sync and a failed read are told', async () => {
    const { disk, place } = faulty(1)
    const index = open(place)
    await index.sync()
    index.append(aborted(1, 0, 5))
    disk.failNext('sync')
    await expect(index.sync()).rejects.toThrow(DiskError)
    disk.failNext('read')
    expect(() => collect(index)).toThrow(DiskError)
    expect(collect(index)).toEqual([aborted(1, 0, 5)])
  })
})
