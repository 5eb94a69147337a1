/** The files of a segment are Kafka's: what lies in the offset index and in the time index, and that they stay so over restarts. */

import { describe, expect, test } from 'vitest'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { EntryFile } from '../../src/log/entry-file.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { Segment, segmentName, segmentOffset } from '../../src/log/segment.ts'
import { baseOffset, batchBytes, lastOffset, maxTimestamp, patchOffset } from '../../src/record/batch.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import {
  batchOf,
  fileOf,
  HandClock,
  inMemory,
  logName,
  openLog,
  type Scratch,
  START,
  values,
} from './scratch-log.ts'

interface Batch {
  readonly position: number
  readonly lastOffset: number
  readonly maxTimestamp: number
}

function batchesIn(log: Buffer): Batch[] {
  const batches: Batch[] = []
  for (let at = 0; at < log.length; at += batchBytes(log, at)) {
    batches.push({ position: at, lastOffset: lastOffset(log, at), maxTimestamp: maxTimestamp(log, at) })
  }
  return batches
}

const offsetEntries = (bytes: Buffer, base: number) =>
  Array.from({ length: bytes.length / 8 }, (_, index) => ({
    lastOffset: base + bytes.readInt32BE(index * 8),
    position: bytes.readInt32BE(index * 8 + 4),
  }))

const timeEntries = (bytes: Buffer, base: number) =>
  Array.from({ length: bytes.length / 12 }, (_, index) => ({
    timestamp: Number(bytes.readBigInt64BE(index * 12)),
    lastOffset: base + bytes.readInt32BE(index * 12 + 8),
  }))

/** Checks both indexes of every segment against its log; returns the number of entries. */
function checkIndexes(scratch: Scratch, interval: number): { offsets: number; times: number } {
  const count = { offsets: 0, times: 0 }
  const names = scratch.disk.list(scratch.directory)
  for (const base of names.map(segmentOffset)) {
    if (base < 0 || !names.includes(segmentName(base, 'index'))) continue
    const batches = batchesIn(fileOf(scratch, logName(base)))
    const offsets = offsetEntries(fileOf(scratch, segmentName(base, 'index')), base)
    let before = 0
    for (const entry of offsets) {
      const batch = batches.find(candidate => candidate.position === entry.position)
      expect(batch?.lastOffset).toBe(entry.lastOffset)
      expect(entry.position - before).toBeGreaterThan(before === 0 ? interval : 0)
      before = entry.position
      count.offsets++
    }
    const times = timeEntries(fileOf(scratch, segmentName(base, 'timeindex')), base)
    for (const [index, entry] of times.entries()) {
      const holder = batches.find(candidate => candidate.lastOffset === entry.lastOffset)
      expect(holder?.maxTimestamp).toBe(entry.timestamp)
      const until = batches.filter(candidate => candidate.lastOffset <= entry.lastOffset)
      expect(Math.max(...until.map(batch => batch.maxTimestamp))).toBe(entry.timestamp)
      if (index > 0) {
        expect(entry.timestamp).toBeGreaterThan(times[index - 1].timestamp)
        expect(entry.lastOffset).toBeGreaterThan(times[index - 1].lastOffset)
      }
      count.times++
    }
    // So the last entry gives the largest timestamp of a closed segment.
    if (times.length > 0)
      expect(times.at(-1)!.timestamp).toBe(Math.max(...batches.map(batch => batch.maxTimestamp)))
  }
  return count
}

const settings = { segmentBytesMax: 4_000, indexIntervalBytes: 300 }

async function fill(scratch: Scratch, count: number): Promise<void> {
  const log = await openLog(scratch, settings)
  for (let index = 0; index < count; index++) {
    log.append(batchOf(values((index % 3) + 1), { timestamp: START + ((index * 7) % 40) + index }))
  }
  log.roll()
  await log.close()
}

test('names are the base offset in 20 digits', () => {
  expect(segmentName(0, 'log')).toBe('00000000000000000000.log')
  expect(segmentName(2 ** 53 - 1, 'index')).toBe('00009007199254740991.index')
  expect(segmentOffset('00000000000000001000.log')).toBe(1_000)
  for (const name of [
    '1000.log',
    '00000000000000001000.index',
    '00000000000000001000.log.orphan',
    'x',
    '99999999999999999999.log',
  ]) {
    expect(segmentOffset(name)).toBe(-1)
  }
})

describe('indexes', () => {
  test('speak of the last offset and the position of batches, and of the largest timestamp so far', async () => {
    const scratch = inMemory()
    await fill(scratch, 300)
    const { offsets, times } = checkIndexes(scratch, settings.indexIntervalBytes)
    expect(offsets).toBeGreaterThan(40)
    expect(times).toBeGreaterThan(20)
  })

  test('are the same bytes after a crash as without one', async () => {
    const scratch = inMemory()
    await fill(scratch, 300)
    const names = scratch.disk.list(scratch.directory).filter(name => name.endsWith('index'))
    const good = names.map(name => fileOf(scratch, name))
    // Everything is walked again.
    for (const name of [...names, 'checkpoint']) scratch.disk.remove(`${scratch.directory}/${name}`)
    await (await openLog(scratch, settings)).close()
    for (const [index, name] of names.entries())
      expect(fileOf(scratch, name).equals(good[index]), name).toBe(true)
  })

  test('hold after several lives, some of which ended without a stop', async () => {
    const scratch = inMemory()
    for (let life = 0; life < 6; life++) {
      const log = await openLog(scratch, settings)
      for (let index = 0; index < 50; index++) {
        log.append(batchOf(['x'.repeat(index)], { timestamp: START + life * 100 + ((index * 13) % 50) }))
      }
      if (life % 3 === 0) await log.close()
      else if (life % 3 === 1) await log.checkpoint()
    }
    const log = await openLog(scratch, settings)
    log.roll()
    await log.close()
    checkIndexes(scratch, settings.indexIntervalBytes)
  })

  test('of closed segments are durable before a checkpoint says that nothing need be walked', async () => {
    for (let seed = 0; seed < 20; seed++) {
      const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
      disk.makeDirectory('/t-0')
      await disk.syncDirectory('/')
      const scratch = { disk, directory: '/t-0' }
      const log = await openLog(scratch, settings)
      for (let index = 0; index < 120; index++) log.append(batchOf(values(2), { timestamp: START + index }))
      log.roll()
      await log.checkpoint()
      checkIndexes({ disk: disk.crash(), directory: '/t-0' }, settings.indexIntervalBytes)
    }
  })

  test('that find no room are sparser; the last timestamp of a closed segment is right or unknown', async () => {
    const disk = new FaultyDisk({ seed: 1, clock: new HandClock(), delayMsMax: 0 })
    const scratch = { disk, directory: '/t-0' }
    const log = await openLog(scratch, { indexIntervalBytes: 0 })
    for (let index = 0; index < 200; index++) {
      if (index === 100) disk.failNext('write', path => path.endsWith('index'))
      log.append(batchOf(['x'], { timestamp: START + index }))
    }
    disk.failNext('write', path => path.endsWith('timeindex'))
    log.roll()
    log.append(batchOf(['y'], { timestamp: START + 200 }))
    await log.close()
    const reopened = await openLog({ disk: disk.kill(), directory: '/t-0' })
    for (const at of [0, 63, 64, 100, 199, 200]) expect(await reopened.offsetForTime(START + at)).toBe(at)
    for (let offset = 0; offset <= 200; offset += 25) {
      expect(baseOffset(await reopened.read(offset, 1), 0)).toBe(offset)
    }
    await reopened.close()
  })
})

describe('a segment', () => {
  test('takes batches up to 2^31 offsets from its base', async () => {
    const disk = memoryDisk()
    disk.makeDirectory('/t')
    const files = new OpenFiles(disk)
    const segment = Segment.create(disk, files, '/t', 5)
    const batch = batchOf(['x'])
    for (const offset of [5, 2 ** 31 + 4]) {
      patchOffset(batch, 0, offset, 0)
      segment.append(batch, 0)
    }
    expect(segment.indexedBefore(2 ** 31 + 4)).toEqual({ position: batch.length, lastOffset: 2 ** 31 + 4 })
    expect(segment.indexedBefore(2 ** 31 + 3)).toBeNull()
  })
})

describe('an entry file', () => {
  const number = (value: number) => (bytes: Buffer, at: number) => void bytes.writeInt32BE(value, at)
  const found = (entry: Buffer | null): number | null => entry?.readInt32BE(0) ?? null

  test.each([0, 1, 63, 64, 65, 500])('finds among %i entries, in memory and on the disk', count => {
    const disk = memoryDisk()
    const file = new EntryFile(disk, '/entries', 4, false)
    for (let value = 0; value < count; value++) file.append(number(value * 2))
    const check = (entries: EntryFile): void => {
      expect(entries.count).toBe(count)
      expect(found(entries.last())).toBe(count === 0 ? null : count * 2 - 2)
      for (const limit of [-1, 0, 1, 62, 63, 64, 127, 128, 129, 130, 999, 1_000]) {
        const expected = Math.min(Math.floor(limit / 2) * 2, count * 2 - 2)
        const entry = found(entries.findLast((bytes, at) => bytes.readInt32BE(at) <= limit))
        expect(entry).toBe(limit < 0 || count === 0 ? null : expected)
      }
    }
    check(file)
    file.flush()
    check(file)
    if (count > 0) check(new EntryFile(disk, '/entries', 4, true))
  })

  test('ignores a torn last entry, and writes over it', () => {
    const disk = memoryDisk()
    const file = disk.open('/entries', 'create')
    file.write(Buffer.from([0, 0, 0, 7, 0, 0]), 0)
    file.close()
    const entries = new EntryFile(disk, '/entries', 4, true)
    expect(entries.count).toBe(1)
    entries.append(number(9))
    entries.flush()
    expect(fileOf({ disk, directory: '' }, 'entries').toString('hex')).toBe('0000000700000009')
  })

  test('is cut, and grows again', () => {
    const disk = memoryDisk()
    const entries = new EntryFile(disk, '/entries', 4, false)
    for (let value = 0; value < 100; value++) entries.append(number(value))
    entries.flush()
    entries.cut((bytes, at) => bytes.readInt32BE(at) < 10)
    expect(entries.count).toBe(10)
    entries.append(number(50))
    entries.flush()
    expect(found(new EntryFile(disk, '/entries', 4, true).last())).toBe(50)
    entries.cut(() => false)
    expect([entries.count, entries.last()]).toEqual([0, null])
  })

  test('that disappears is as if it were empty', () => {
    const disk = memoryDisk()
    const entries = new EntryFile(disk, '/entries', 4, false)
    for (let value = 0; value < 70; value++) entries.append(number(value))
    entries.flush()
    disk.remove('/entries')
    expect(entries.findLast(() => true)).toBeNull()
    expect(entries.last()).toBeNull()
  })

  test('opens no file while entries are appended', () => {
    const inner = memoryDisk()
    let opens = 0
    const disk = {
      ...inner,
      open: (path: string, mode: 'read' | 'write' | 'create') => {
        opens++
        return inner.open(path, mode)
      },
    }
    const entries = new EntryFile(disk as typeof inner, '/entries', 4, false)
    for (let value = 0; value < 640; value++) {
      entries.append(number(value))
      entries.last()
    }
    expect(opens).toBeLessThanOrEqual(10)
  })
})
