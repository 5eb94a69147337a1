/** The log through its facade, on memory and on a real disk: append, read, roll, limits, restarts. */

import { describe, expect, test } from 'vitest'
import { isSluiceError, SluiceError } from '../../src/errors.ts'
import type { Disk } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { baseOffset, batchBytes, maxTimestamp, patchChecksum, recordCount } from '../../src/record/batch.ts'
import { BatchBuilder, type Compression, compressionTypes } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import {
  appendEach,
  batchOf,
  fileOf,
  HandClock,
  inMemory,
  logName,
  onNode,
  openLog,
  putFile,
  readAll,
  recordsIn,
  START,
  scratches,
  values,
  watchedDisk,
} from './scratch-log.ts'

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(SluiceError)
    return (error as SluiceError).code
  }
  return 'no error'
}

async function codeLater(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
  } catch (error) {
    expect(error).toBeInstanceOf(SluiceError)
    return (error as SluiceError).code
  }
  return 'no error'
}

describe.each(scratches)('a log (%s)', (_, scratchOf) => {
  test('gives back what was appended, at dense offsets', async () => {
    const log = await openLog(scratchOf())
    expect([log.startOffset, log.endOffset, log.durableOffset]).toEqual([0, 0, 0])
    expect(log.append(batchOf(['a', 'b', 'c']))).toEqual({
      baseOffset: 0,
      lastOffset: 2,
      appendTime: -1,
      repeated: false,
    })
    expect(log.append(batchOf(['d']))).toMatchObject({ baseOffset: 3, lastOffset: 3 })
    expect(log.append(batchOf(['e', 'f'], { compression: 'zstd' }))).toMatchObject({
      baseOffset: 4,
      lastOffset: 5,
    })
    expect(log.endOffset).toBe(6)
    expect(await readAll(log)).toEqual([...'abcdef'].map((value, offset) => [offset, value]))
    await log.close()
  })

  test('a read in the middle of a batch gives the whole batch', async () => {
    const log = await openLog(scratchOf())
    appendEach(log, ['a'])
    log.append(batchOf(['b', 'c', 'd']))
    appendEach(log, ['e'])
    const batches = await log.read(2, 1)
    expect(baseOffset(batches, 0)).toBe(1)
    expect(recordCount(batches, 0)).toBe(3)
    expect(batchBytes(batches, 0)).toBe(batches.length)
    await log.close()
  })

  test('a read gives as many whole batches as it may, and one at least', async () => {
    const log = await openLog(scratchOf())
    const sizes = [100, 200, 30_000, 100].map(
      bytes => log.append(batchOf([Buffer.alloc(bytes)])) && batchOf([Buffer.alloc(bytes)]).length,
    )
    const counted = async (offset: number, bytesMax: number) =>
      recordsIn(await log.read(offset, bytesMax)).length
    expect(await counted(0, sizes[0] + sizes[1])).toBe(2)
    expect(await counted(0, sizes[0] + sizes[1] - 1)).toBe(1)
    expect(await counted(0, sizes[0] + sizes[1] + 10_000)).toBe(2)
    expect(await counted(0, 0)).toBe(1)
    expect(await counted(2, 1)).toBe(1)
    expect(await counted(2, 1_000)).toBe(1)
    expect((await log.read(2, 1_000)).length).toBe(sizes[2])
    expect(await counted(0, 1_000_000)).toBeGreaterThanOrEqual(2)
    await log.close()
  })

  test('a read ends at its limit', async () => {
    const log = await openLog(scratchOf())
    appendEach(log, values(10))
    expect(recordsIn(await log.read(0, 10_000, 4))).toHaveLength(4)
    expect(await log.read(4, 10_000, 4)).toHaveLength(0)
    expect(await log.read(10, 10_000)).toHaveLength(0)
    await log.close()
  })

  test('offsets before the start and behind the end are refused', async () => {
    const log = await openLog(scratchOf())
    appendEach(log, values(3))
    await log.deleteUntil(2)
    for (const offset of [0, 1, 4, -1])
      expect(codeOf(() => log.read(offset, 100))).toBe('OFFSET_OUT_OF_RANGE')
    expect(recordsIn(await log.read(2, 100))).toEqual([[2, 'value 2']])
    await log.close()
  })

  test('goes on where it stopped after a restart', async () => {
    const scratch = scratchOf()
    for (let life = 0; life < 4; life++) {
      const log = await openLog(scratch, { segmentBytesMax: 500 })
      expect(log.reports).toEqual([])
      expect(log.endOffset).toBe(life * 20)
      expect(log.durableOffset).toBe(life * 20)
      appendEach(log, values(20, life * 20))
      expect(await readAll(log)).toEqual(values((life + 1) * 20).map((value, offset) => [offset, value]))
      if (life % 2 === 0) await log.close()
      else await log.flush() // and then the process is gone
    }
  })

  test('rolls to a new segment by size; each file is named after its first offset and not larger', async () => {
    const scratch = scratchOf()
    const log = await openLog(scratch, { segmentBytesMax: 400 })
    appendEach(log, values(20))
    const names = scratch.disk.list(scratch.directory).filter(name => name.endsWith('.log'))
    expect(names.length).toBe(log.segmentCount)
    expect(names.length).toBeGreaterThan(3)
    expect(names.map(name => baseOffset(fileOf(scratch, name), 0))).toEqual(
      names.map(name => Number(name.slice(0, 20))),
    )
    for (const name of names) expect(fileOf(scratch, name).length).toBeLessThanOrEqual(400)
    expect(log.bytes).toBe(names.reduce((sum, name) => sum + fileOf(scratch, name).length, 0))
    await log.close()
  })

  test('a batch larger than a segment gets one of its own', async () => {
    const log = await openLog(scratchOf(), { segmentBytesMax: 1_000 })
    log.append(batchOf(['small']))
    log.append(batchOf(['x'.repeat(5_000)]))
    log.append(batchOf(['small']))
    expect(log.segmentCount).toBe(3)
    expect(await readAll(log)).toHaveLength(3)
    await log.close()
  })

  test('rolls by age', async () => {
    const clock = new HandClock()
    const log = await openLog(scratchOf(), { segmentMsMax: 1_000 }, { clock })
    appendEach(log, ['a'])
    clock.time += 999
    appendEach(log, ['b'])
    expect(log.segmentCount).toBe(1)
    clock.time += 1
    appendEach(log, ['c'])
    expect(log.segmentCount).toBe(2)
    await log.close()
  })

  test('takes new settings while it is open', async () => {
    const log = await openLog(scratchOf())
    appendEach(log, ['a'])
    log.configure({
      segmentBytesMax: 10,
      segmentMsMax: 1e9,
      indexIntervalBytes: 0,
      batchBytesMax: 100,
      appendTime: false,
      retentionMs: -1,
      retentionBytes: -1,
    })
    appendEach(log, ['b'])
    expect(log.segmentCount).toBe(2)
    expect(codeOf(() => log.append(batchOf(['x'.repeat(100)])))).toBe('MESSAGE_TOO_LARGE')
    await log.close()
  })

  test('LogAppendTime: the log gives the time and a checksum that fits', async () => {
    const clock = new HandClock()
    const log = await openLog(scratchOf(), { appendTime: true }, { clock })
    clock.time += 12_345
    expect(log.append(batchOf(['a', 'b'])).appendTime).toBe(START + 12_345)
    const batches = await log.read(0, 1_000)
    expect(maxTimestamp(batches, 0)).toBe(START + 12_345)
    const cursor = new RecordCursor(batches)
    while (cursor.next()) expect(cursor.timestamp).toBe(START + 12_345)
    expect(log.append(batches)).toMatchObject({ baseOffset: 2 }) // the checksum is right
    await log.close()
  })

  test('offsetForTime finds the first record that is not older', async () => {
    const log = await openLog(scratchOf(), { segmentBytesMax: 500, indexIntervalBytes: 100 })
    // out of order on purpose: 0 100 50 150 100 200 150 …
    const times = Array.from({ length: 40 }, (_, index) => Math.floor(index / 2) * 50 + (index % 2) * 100)
    for (const [index, time] of times.entries())
      log.append(batchOf([`v${index}`], { timestamp: START + time }))
    for (let time = -50; time <= 1_200; time += 25) {
      const expected = times.findIndex(candidate => candidate >= time)
      expect(await log.offsetForTime(START + time), `time ${time}`).toBe(expected)
    }
    expect(await log.offsetForTime(START + 600, 5)).toBe(-1)
    await log.deleteUntil(10)
    expect(await log.offsetForTime(START - 50)).toBe(10)
    await log.close()
  })

  test('offsetForTime is not led astray by a time index that is wrong', async () => {
    const scratch = scratchOf()
    const log = await openLog(scratch, { indexIntervalBytes: 0 })
    for (let index = 0; index < 40; index++) log.append(batchOf([`v${index}`], { timestamp: START + index }))
    log.roll()
    await log.close()
    const name = '00000000000000000000.timeindex'
    const index = fileOf(scratch, name)
    for (let at = 0; at + 12 < index.length; at += 12)
      index.writeInt32BE(index.readInt32BE(at + 8) + 3, at + 8)
    putFile(scratch, name, index)
    const reopened = await openLog(scratch)
    for (let time = 0; time < 40; time++) expect(await reopened.offsetForTime(START + time)).toBe(time)
    await reopened.close()
  })

  test('offsetForTime looks into compressed batches', async () => {
    const log = await openLog(scratchOf())
    const builder = new BatchBuilder()
    for (const delta of [0, 10, 20]) builder.append(START + delta, null, 'x', null)
    log.append(Buffer.from(builder.close({ compression: 'lz4' })))
    expect(await log.offsetForTime(START + 5)).toBe(1)
    expect(await log.offsetForTime(START + 21)).toBe(-1)
    await log.close()
  })

  test('a closed log refuses everything and holds no file open', async () => {
    const scratch = scratchOf()
    const files = new OpenFiles(scratch.disk)
    const log = await openLog(scratch, { segmentBytesMax: 200 }, { files })
    appendEach(log, values(10))
    await log.close()
    expect(files.count).toBe(0)
    expect(codeOf(() => log.append(batchOf(['x'])))).toBe('CLOSED')
    expect(codeOf(() => log.read(0, 100))).toBe('CLOSED')
    expect(codeOf(() => log.roll())).toBe('CLOSED')
    expect(await codeLater(log.flush(5))).toMatch(/CLOSED|no error/)
    expect(await codeLater(log.deleteUntil(3))).toBe('CLOSED')
    expect(files.count).toBe(0)
    await log.close()
  })

  test('works with fewer files open than it has', async () => {
    const scratch = scratchOf()
    const files = new OpenFiles(scratch.disk, 2)
    const log = await openLog(scratch, { segmentBytesMax: 200 }, { files })
    appendEach(log, values(30))
    await log.flush()
    expect(log.segmentCount).toBeGreaterThan(5)
    expect(await readAll(log)).toHaveLength(30)
    expect(files.count).toBeLessThanOrEqual(2)
    await log.close()
  })
})

describe('an append is refused, and nothing is stored', () => {
  const refused = async (batch: Buffer, code: string): Promise<void> => {
    const log = await openLog(inMemory(), { batchBytesMax: 1_000 })
    appendEach(log, ['a'])
    expect(codeOf(() => log.append(batch))).toBe(code)
    expect(log.endOffset).toBe(1)
    expect(log.append(batchOf(['b']))).toMatchObject({ baseOffset: 1 })
    expect(await readAll(log)).toHaveLength(2)
  }

  test('a batch over the limit', () => refused(batchOf(['x'.repeat(1_000)]), 'MESSAGE_TOO_LARGE'))
  test('no batch', () => refused(Buffer.alloc(0), 'CORRUPT_MESSAGE'))
  test('zeros', () => refused(Buffer.alloc(200), 'CORRUPT_MESSAGE'))
  test('two batches', () => refused(Buffer.concat([batchOf(['a']), batchOf(['b'])]), 'CORRUPT_MESSAGE'))
  test('bytes behind the batch', () =>
    refused(Buffer.concat([batchOf(['a']), Buffer.alloc(1)]), 'CORRUPT_MESSAGE'))

  test('any flipped bit behind the epoch', async () => {
    const log = await openLog(inMemory())
    const good = batchOf(['some value'])
    for (let bit = 16 * 8; bit < good.length * 8; bit++) {
      const batch = Buffer.from(good)
      batch[bit >>> 3] ^= 1 << (bit & 7)
      expect(
        codeOf(() => log.append(batch)),
        `bit ${bit}`,
      ).toBe('CORRUPT_MESSAGE')
    }
    expect(log.endOffset).toBe(0)
  })

  const changed = (change: (batch: Buffer) => void): Buffer => {
    const batch = batchOf(['a', 'b'])
    change(batch)
    patchChecksum(batch, 0)
    return batch
  }
  /** The first record begins behind the header: length, attributes, timestamp, offset, key, value, headers. */
  const RECORD = 61
  test.each<[string, (batch: Buffer) => void]>([
    ['a record that is longer than the batch', batch => batch.writeUInt8(0x7e, RECORD)],
    ['a record of no length', batch => batch.writeUInt8(0, RECORD)],
    ['a record that is shorter than its contents', batch => batch.writeUInt8(batch[RECORD] - 2, RECORD)],
    ['a record with the number of another', batch => batch.writeUInt8(2, RECORD + 3)],
    ['a key of a negative length', batch => batch.writeUInt8(3, RECORD + 4)],
    ['a value that is longer than the record', batch => batch.writeUInt8(0x40, RECORD + 5)],
    ['headers that are not there', batch => batch.writeUInt8(2, RECORD + 7)],
    ['a negative number of headers', batch => batch.writeUInt8(1, RECORD + 7)],
  ])('%s', async (_, change) => {
    await refused(changed(change), 'INVALID_RECORD')
  })
  test('bytes behind the headers', async () => {
    const builder = new BatchBuilder()
    builder.append(0, 'k', 'v', [['name', 'content']])
    const batch = Buffer.from(builder.close())
    batch.writeUInt8(batch[batch.length - 8] - 2, batch.length - 8) // the length of the header's value
    patchChecksum(batch, 0)
    await refused(batch, 'INVALID_RECORD')
  })

  test('fewer records than offsets', () =>
    refused(
      changed(batch => batch.writeInt32BE(1, 57)),
      'INVALID_RECORD',
    ))
  test('no records', () =>
    refused(
      changed(batch => batch.writeInt32BE(0, 57)),
      'INVALID_RECORD',
    ))
  test('a control batch', () =>
    refused(
      changed(batch => batch.writeInt16BE(0x20, 21)),
      'INVALID_RECORD',
    ))
  test('a producer without a sequence', () =>
    refused(batchOf(['a'], { producerId: 1, producerEpoch: 0 }), 'INVALID_RECORD'))
  test('a producer without an epoch', () =>
    refused(batchOf(['a'], { producerId: 1, baseSequence: 0 }), 'INVALID_RECORD'))
  test('a compression that does not exist', () =>
    refused(
      changed(batch => batch.writeInt16BE(7, 21)),
      'UNSUPPORTED_COMPRESSION',
    ))
})

test('every compression is stored as it came', async () => {
  const log = await openLog(inMemory())
  for (const compression of Object.keys(compressionTypes) as Compression[]) {
    const batch = batchOf(['x'.repeat(100), 'y'], { compression })
    const { baseOffset: base } = log.append(batch)
    expect(await log.read(base, 1)).toEqual(batch)
  }
})

describe('reads', () => {
  test('start through the index, not at the beginning', async () => {
    const { disk, calls } = watchedDisk(memoryDisk())
    const scratch = { disk, directory: '/t-0' }
    const log = await openLog(scratch, { indexIntervalBytes: 1_000 })
    for (let index = 0; index < 2_000; index++) log.append(batchOf(['v'.repeat(100)]))
    await log.flush()
    for (const offset of [1_999, 1_000, 17, 1_500]) {
      calls.length = 0
      expect(recordsIn(await log.read(offset, 1_000))[0][0]).toBeLessThanOrEqual(offset)
      const reads = calls.filter(call => call.kind === 'read' && call.path === logName(0))
      expect(reads.reduce((sum, call) => sum + call.bytes, 0)).toBeLessThan(5_000)
    }
    await log.close()
  })

  test('that go on where the last one ended read nothing twice', async () => {
    const { disk, calls } = watchedDisk(memoryDisk())
    const log = await openLog({ disk, directory: '/t-0' }, { segmentBytesMax: 20_000 })
    for (let index = 0; index < 500; index++) log.append(batchOf(['v'.repeat(100)]))
    calls.length = 0
    expect(await readAll(log, 0, 10_000)).toHaveLength(500)
    const read = calls.filter(call => call.kind === 'read').reduce((sum, call) => sum + call.bytes, 0)
    expect(read).toBeLessThan(log.bytes * 1.05)
    expect(calls.filter(call => call.kind === 'readNow' && call.path.endsWith('.log'))).toEqual([])
    await log.close()
  })

  test.each(['at once', 'later'])('of a disk that gives its bytes in small pieces (%s)', async when => {
    const inner = memoryDisk()
    const disk: Disk = {
      kind: inner.kind,
      open(path, mode) {
        const file = inner.open(path, mode)
        const read = (position: number, bytesMax: number) => file.readNow(position, Math.min(bytesMax, 40))
        return {
          path,
          size: () => file.size(),
          write: (bytes, position) => file.write(bytes, position),
          read: (position, bytesMax) =>
            when === 'later' ? Promise.resolve(read(position, bytesMax)) : read(position, bytesMax),
          readNow: read,
          sync: () => file.sync(),
          truncate: size => file.truncate(size),
          close: () => file.close(),
        }
      },
      list: path => inner.list(path),
      makeDirectory: path => inner.makeDirectory(path),
      rename: (from, to) => inner.rename(from, to),
      remove: path => inner.remove(path),
      syncDirectory: path => inner.syncDirectory(path),
      lock: path => inner.lock(path),
    }
    const scratch = { disk, directory: '/t-0' }
    const log = await openLog(scratch, { segmentBytesMax: 1_000, indexIntervalBytes: 100 })
    appendEach(log, values(40))
    await log.flush()
    for (let offset = 39; offset >= 0; offset--) {
      expect(recordsIn(await log.read(offset, 10_000))[0]).toEqual([offset, `value ${offset}`])
    }
    expect(await readAll(log)).toHaveLength(40)
    const reopened = await openLog(scratch)
    expect(await readAll(reopened)).toHaveLength(40)
    expect(reopened.reports).toEqual([])
  })

  test('of bytes from the disk are checked, bytes from memory are not', async () => {
    const scratch = inMemory()
    const log = await openLog(scratch)
    log.append(batchOf(['value']))
    const { disk } = watchedDisk(scratch.disk)
    await log.close()
    const file = scratch.disk.open(`${scratch.directory}/${logName(0)}`, 'write')
    file.write(Buffer.from('V'), file.size() - 6)
    file.close()
    const cold = await openLog({ disk, directory: scratch.directory })
    expect(await codeLater(Promise.resolve(cold.read(0, 100)))).toBe('CORRUPT_LOG')
    const warm = await openLog(scratch)
    expect(recordsIn(await warm.read(0, 100))).toEqual([[0, 'Value']])
  })

  test('under way while their segment is deleted end in OFFSET_OUT_OF_RANGE or with the batches', async () => {
    const { disk } = watchedDisk(memoryDisk())
    const log = await openLog({ disk, directory: '/t-0' }, { segmentBytesMax: 200 })
    appendEach(log, values(20))
    await log.flush()
    const reads = values(20).map((_, offset) => Promise.resolve(log.read(offset, 50)))
    const deleted = log.deleteUntil(15)
    const results = await Promise.allSettled(reads)
    await deleted
    for (const [offset, result] of results.entries()) {
      if (result.status === 'fulfilled') expect(recordsIn(result.value)[0][0]).toBeLessThanOrEqual(offset)
      else expect(isSluiceError(result.reason, 'OFFSET_OUT_OF_RANGE')).toBe(true)
      if (offset >= 15) expect(result.status).toBe('fulfilled')
    }
    // What was remembered of deleted segments leads nobody astray.
    expect(await readAll(log)).toHaveLength(5)
    await log.close()
  })
})

describe('memory and start', () => {
  test('after a clean stop, opening reads the checkpoint and no data', async () => {
    const inner = memoryDisk()
    const first = await openLog(
      { disk: inner, directory: '/t-0' },
      { segmentBytesMax: 10_000, indexIntervalBytes: 500 },
    )
    for (let index = 0; index < 1_000; index++)
      first.append(batchOf(['v'.repeat(100)], { producerId: 1, producerEpoch: 0, baseSequence: index }))
    await first.close()
    const { disk, calls } = watchedDisk(inner)
    const log = await openLog({ disk, directory: '/t-0' })
    expect(log.endOffset).toBe(1_000)
    const read = calls.filter(call => call.kind === 'read' || call.kind === 'readNow')
    expect(read.map(call => call.path).filter(path => path.endsWith('.log'))).toEqual([])
    expect(read.reduce((sum, call) => sum + call.bytes, 0)).toBeLessThan(2_000)
    expect(calls.filter(call => call.kind === 'write' || call.kind === 'sync')).toEqual([])
    await log.close()
    expect(calls.filter(call => call.kind === 'write')).toEqual([])
  })

  test('after a crash, opening reads only what lies behind the checkpoint', async () => {
    const inner = memoryDisk()
    const first = await openLog({ disk: inner, directory: '/t-0' }, { segmentBytesMax: 10_000 })
    appendEach(first, values(500))
    await first.checkpoint()
    appendEach(first, values(10, 500))
    const { disk, calls } = watchedDisk(inner)
    const log = await openLog({ disk, directory: '/t-0' })
    expect(log.endOffset).toBe(510)
    const read = calls.filter(call => call.path.endsWith('.log') && call.kind === 'readNow')
    expect(read.reduce((sum, call) => sum + call.bytes, 0)).toBeLessThan(2_000)
    await log.close()
  })

  test('a checkpoint without changes writes nothing', async () => {
    const { disk, calls } = watchedDisk(memoryDisk())
    const log = await openLog({ disk, directory: '/t-0' })
    appendEach(log, values(3))
    await log.checkpoint()
    calls.length = 0
    await log.checkpoint()
    await log.close()
    expect(calls).toEqual([])
  })

  test('a checkpoint is written by itself every 64 MiB', async () => {
    const scratch = inMemory()
    const log = await openLog(scratch, { segmentBytesMax: 2 ** 30 })
    const batch = batchOf([Buffer.alloc(1_000_000)])
    for (let index = 0; index < 70; index++) log.append(batch, true)
    await log.flush()
    await log.flush()
    await new Promise(resolve => setTimeout(resolve, 10))
    expect(JSON.parse(fileOf(scratch, 'checkpoint').toString().slice(0, -10)).offset).toBe(70)
    await log.close()
  })
})

describe('no room', () => {
  const full = async () => {
    const disk = new FaultyDisk({ seed: 1, clock: new HandClock() })
    const log = await openLog({ disk, directory: '/t-0' }, { segmentBytesMax: 500 })
    appendEach(log, values(3))
    await log.flush()
    return { disk, log }
  }

  test('an append that does not fit leaves nothing, and the log goes on', async () => {
    const { disk, log } = await full()
    for (const room of [0, 1, 60, 100]) {
      disk.room = room
      const bytes = log.bytes
      expect(codeOf(() => log.append(batchOf(['x'.repeat(100)])))).toBe('DISK_FULL')
      expect([log.endOffset, log.bytes, log.failure]).toEqual([3, bytes, null])
    }
    disk.room = 1_000_000
    appendEach(log, values(10, 3))
    expect((await readAll(log)).map(([, value]) => value)).toEqual(values(13))
    await log.close()
    const reopened = await openLog({ disk, directory: '/t-0' })
    expect(reopened.reports).toEqual([])
    expect(await readAll(reopened)).toHaveLength(13)
  })

  test('nor does a segment that cannot be made', async () => {
    const { disk, log } = await full()
    disk.failNext('create')
    expect(codeOf(() => log.roll())).toBe('DISK_FULL')
    expect(log.segmentCount).toBe(1)
    log.roll()
    expect(log.segmentCount).toBe(2)
    appendEach(log, values(2, 3))
    expect(await readAll(log)).toHaveLength(5)
  })

  test('what was cut off does not come back behind a closed segment', async () => {
    for (let seed = 0; seed < 20; seed++) {
      const disk = new FaultyDisk({ seed, clock: new HandClock() })
      await disk.syncDirectory('/')
      disk.makeDirectory('/t-0')
      await disk.syncDirectory('/')
      const log = await openLog({ disk: withSlowSync(disk, logName(0)), directory: '/t-0' })
      appendEach(log, values(3))
      await log.flush()
      disk.failNext('write')
      expect(codeOf(() => log.append(batchOf(['x'.repeat(2_000)])))).toBe('DISK_FULL')
      log.roll()
      // From here on nobody looks at the first segment any more.
      await log.checkpoint()
      const after = { disk: disk.crash(), directory: '/t-0' }
      expect(fileOf(after, logName(0)).length).toBe(batchOf(['value 0']).length * 3)
      expect(await readAll(await openLog(after))).toHaveLength(3)
    }
  })

  /** A disk that takes its time before it begins to sync one of its files. */
  const withSlowSync = (disk: Disk, name: string): Disk => {
    const { disk: watched } = watchedDisk(disk)
    return {
      ...watched,
      open(path, mode) {
        const file = watched.open(path, mode)
        if (!path.endsWith(name)) return file
        return {
          ...file,
          sync: () => new Promise(resolve => setTimeout(resolve, 15)).then(() => file.sync()),
        }
      },
    }
  }

  test('a retried idempotent batch is taken', async () => {
    const { disk, log } = await full()
    const batch = batchOf(['x'], { producerId: 1, producerEpoch: 0, baseSequence: 0 })
    disk.room = 10
    expect(codeOf(() => log.append(batch))).toBe('DISK_FULL')
    disk.room = 10_000
    expect(log.append(batch)).toMatchObject({ baseOffset: 3, repeated: false })
    expect(log.append(batch)).toMatchObject({ baseOffset: 3, repeated: true })
  })
})

describe('a disk that fails', () => {
  const failing = async () => {
    const disk = new FaultyDisk({ seed: 3, clock: new HandClock() })
    disk.makeDirectory('/t-0')
    await disk.syncDirectory('/')
    const log = await openLog({ disk, directory: '/t-0' })
    appendEach(log, values(3))
    await log.flush()
    return { disk, log }
  }

  test('a failed sync stops the log for good; what was durable can be read', async () => {
    const { disk, log } = await failing()
    appendEach(log, values(2, 3))
    disk.failNext('sync')
    const waiting = [log.flush(), log.flush(4), log.flush()]
    for (const flushed of waiting) expect(await codeLater(flushed)).toBe('STORAGE_FAILED')
    expect(log.durableOffset).toBe(3)
    expect(codeOf(() => log.append(batchOf(['x'])))).toBe('STORAGE_FAILED')
    expect(await codeLater(log.flush())).toBe('STORAGE_FAILED')
    expect(await codeLater(log.deleteUntil(1))).toBe('STORAGE_FAILED')
    expect(await codeLater(log.enforceRetention(START, 3))).toBe('STORAGE_FAILED')
    expect(codeOf(() => log.roll())).toBe('STORAGE_FAILED')
    expect(log.startOffset).toBe(0)
    expect((await readAll(log)).slice(0, 3).map(([, value]) => value)).toEqual(values(3))
    expect(log.failure?.detail).toMatchObject({ durableOffset: 3 })
    await log.close()
  })

  test('after a failed sync, what a new start shows survives a power cut', async () => {
    for (let seed = 0; seed < 30; seed++) {
      const disk = new FaultyDisk({ seed, clock: new HandClock() })
      disk.makeDirectory('/t-0')
      await disk.syncDirectory('/')
      const log = await openLog({ disk, directory: '/t-0' })
      appendEach(log, values(3))
      disk.failNext('sync', path => path.endsWith('.log') || path === '/t-0')
      expect(await codeLater(log.flush())).toBe('STORAGE_FAILED')
      await log.close()
      const reopened = await openLog({ disk, directory: '/t-0' })
      expect(reopened.reports.map(report => report.case)).toEqual(['sync-failed'])
      expect(reopened.endOffset).toBe(3) // the page cache has it, so readers see it
      const after = await openLog({ disk: disk.crash(), directory: '/t-0' })
      expect(await readAll(after)).toEqual(values(3).map((value, offset) => [offset, value]))
      expect(after.reports).toEqual([])
    }
  })

  test('a sync that fails while a log is opened is not forgotten either', async () => {
    const { disk, log } = await failing()
    appendEach(log, values(2, 3))
    const killed = disk.kill()
    killed.failNext('sync', path => path.endsWith('.log'))
    await expect(openLog({ disk: killed, directory: '/t-0' })).rejects.toMatchObject({
      code: 'STORAGE_FAILED',
    })
    const reopened = await openLog({ disk: killed, directory: '/t-0' })
    expect(reopened.reports.map(report => report.case)).toEqual(['sync-failed'])
    expect(await readAll(await openLog({ disk: killed.crash(), directory: '/t-0' }))).toHaveLength(5)
  })

  test('a disk that gives other bytes each time is refused, not asked for ever', async () => {
    const scratch = inMemory()
    const log = await openLog(scratch)
    appendEach(log, values(3))
    await log.close()
    const { disk } = watchedDisk(scratch.disk)
    const unsteady: Disk = {
      ...disk,
      open(path, mode) {
        const file = disk.open(path, mode)
        const read = async (position: number, bytesMax: number) => {
          const bytes = Buffer.from(await file.read(position, bytesMax))
          bytes[70] ^= 1
          return bytes
        }
        return { ...file, read }
      },
    }
    const cold = await openLog({ disk: unsteady, directory: scratch.directory })
    expect(await codeLater(Promise.resolve(cold.read(0, 1_000)))).toBe('CORRUPT_LOG')
  })

  test('a failed sync of the folder stops the log too, also in a checkpoint', async () => {
    const { disk, log } = await failing()
    appendEach(log, values(1, 3))
    await log.flush()
    disk.failNext('sync', path => path === '/t-0')
    expect(await codeLater(log.checkpoint())).toBe('STORAGE_FAILED')
    expect(codeOf(() => log.append(batchOf(['x'])))).toBe('STORAGE_FAILED')
  })

  test('a checkpoint or an index that fails to sync costs nothing but itself', async () => {
    const { disk, log } = await failing()
    disk.failNext('sync', path => path.endsWith('checkpoint.tmp'))
    appendEach(log, values(1, 3))
    expect(await codeLater(log.checkpoint())).toBe('STORAGE_FAILED')
    expect(log.failure).toBeNull()
    disk.failNext('sync', path => path.endsWith('index'))
    appendEach(log, values(1, 4))
    await log.checkpoint()
    expect(await readAll(log)).toHaveLength(5)
  })

  test('a read that fails is an error of that read only', async () => {
    const { disk, log } = await failing()
    disk.failNext('read')
    const error = await Promise.resolve()
      .then(() => log.read(1, 100))
      .catch(reason => reason)
    expect(error).toMatchObject({
      code: 'CORRUPT_LOG',
      detail: { file: `/t-0/${logName(0)}`, offset: 1, resumeOffset: 3 },
    })
    expect(error.message).toContain('cannot be read')
    expect(await readAll(log)).toHaveLength(3)
    appendEach(log, ['x'])
  })
})

test('a log that cannot be opened leaves no file open', async () => {
  const disk = new FaultyDisk({ seed: 3, clock: new HandClock() })
  const scratch = { disk, directory: '/t-0' }
  const log = await openLog(scratch, { segmentBytesMax: 100 })
  appendEach(log, values(5))
  await log.flush()
  const after = disk.kill()
  const files = new OpenFiles(after)
  after.failNext('read', path => path.endsWith('.log'))
  await expect(openLog({ disk: after, directory: '/t-0' }, {}, { files })).rejects.toThrow()
  expect(files.count).toBe(0)
  expect(await readAll(await openLog({ disk: after, directory: '/t-0' }, {}, { files }))).toHaveLength(5)
})

test.each(['checkpoint', '.snapshot'])('an unreadable %s is not taken for none', async name => {
  const disk = new FaultyDisk({ seed: 3, clock: new HandClock() })
  const log = await openLog({ disk, directory: '/t-0' })
  log.append(batchOf(values(5), { producerId: 1, producerEpoch: 0, baseSequence: 0 }))
  await log.deleteUntil(3)
  await log.close()
  const after = disk.kill()
  after.failNext('read', path => path.endsWith(name))
  await expect(openLog({ disk: after, directory: '/t-0' })).rejects.toThrow()
  expect((await openLog({ disk: after, directory: '/t-0' })).startOffset).toBe(3)
})

test('tells when something became durable, and how long it took', async () => {
  const durable: number[] = []
  const syncs: number[] = []
  const log = await openLog(
    onNode(),
    {},
    { onDurable: offset => durable.push(offset), onSync: ms => syncs.push(ms) },
  )
  appendEach(log, values(2))
  await log.flush()
  appendEach(log, values(3, 2))
  await log.flush()
  expect(durable).toEqual([2, 5])
  expect(syncs.length).toBeGreaterThanOrEqual(2)
  await log.close()
})
