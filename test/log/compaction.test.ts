/** Compaction of a log: what stays, what goes and when, and that readers and offsets do not suffer. */

import { describe, expect, test } from 'vitest'
import type { SluiceError } from '../../src/errors.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import type { CompactionConfig } from '../../src/log/compaction.ts'
import type { Log } from '../../src/log/log.ts'
import {
  baseOffset,
  batchBytes,
  deleteHorizon,
  lastOffset,
  producerId,
  recordCount,
} from '../../src/record/batch.ts'
import { BatchBuilder, type CloseOptions, compressionTypes } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { Random } from '../sim/random.ts'
import {
  config as baseConfig,
  HandClock,
  inMemory,
  onNode,
  openLog,
  type Scratch,
  START,
  scratches,
  watchedDisk,
} from './scratch-log.ts'

const compaction: CompactionConfig = {
  lagMsMin: 0,
  lagMsMax: Number.POSITIVE_INFINITY,
  dirtyRatioMin: 0,
  deleteRetentionMs: 1000,
}

type Entry = readonly [key: string | null, value: string | null]

function keyed(entries: readonly Entry[], options: CloseOptions & { timestamp?: number } = {}): Buffer {
  const builder = new BatchBuilder()
  for (const [key, value] of entries) builder.append(options.timestamp ?? START, key, value, [['h', 'x']])
  return Buffer.from(builder.close(options))
}

interface Found {
  readonly offset: number
  readonly key: string
  readonly value: string | null
  readonly timestamp: number
}

async function batchesOf(log: Log, bytesMax = 700): Promise<Buffer[]> {
  const batches: Buffer[] = []
  for (let offset = log.startOffset; offset < log.endOffset; ) {
    const bytes = await log.read(offset, bytesMax)
    expect(bytes.length).toBeGreaterThan(0)
    for (let at = 0; at < bytes.length; at += batchBytes(bytes, at)) {
      const batch = bytes.subarray(at, at + batchBytes(bytes, at))
      expect(lastOffset(batch, 0)).toBeGreaterThanOrEqual(offset)
      batches.push(batch)
      offset = lastOffset(batch, 0) + 1
    }
  }
  return batches
}

async function recordsOf(log: Log, bytesMax = 700): Promise<Found[]> {
  const found: Found[] = []
  for (const batch of await batchesOf(log, bytesMax)) {
    const cursor = new RecordCursor(batch)
    while (cursor.next()) {
      const { bytes, offset, timestamp, keyStart, keyBytes, valueStart, valueBytes } = cursor
      const key = bytes.toString('utf8', keyStart, keyStart + keyBytes)
      const value = valueBytes < 0 ? null : bytes.toString('utf8', valueStart, valueStart + valueBytes)
      found.push({ offset, key, value, timestamp })
      expect(cursor.headers()).toEqual([['h', Buffer.from('x')]])
    }
  }
  return found
}

const brief = (found: readonly Found[]): unknown[] =>
  found.map(({ offset, key, value }) => [offset, key, value])

const compact = (log: Log, options: Partial<Parameters<Log['compact']>[0]> = {}) =>
  log.compact({ firstUncleanableOffset: log.endOffset, ...options })

describe.each(scratches)('on %s', (_, make) => {
  test('the last value of each key stays at its offset, also after a restart', async () => {
    const scratch = make()
    const log = await openLog(scratch, { compaction })
    log.append(
      keyed([
        ['a', '1'],
        ['b', '1'],
        ['a', '2'],
      ]),
    )
    log.append(keyed([['c', '1']]))
    log.append(keyed([['a', '3']]))
    log.append(
      keyed([
        ['b', '2'],
        ['d', '1'],
      ]),
    )
    log.roll()
    log.append(keyed([['d', '2']]))
    const result = await compact(log)
    expect(result).toMatchObject({ isComplete: true, cleanedUntil: 7, recordsRead: 7, recordsKept: 4 })
    const expected = [
      [3, 'c', '1'],
      [4, 'a', '3'],
      [5, 'b', '2'],
      [6, 'd', '1'],
      [7, 'd', '2'],
    ]
    expect(brief(await recordsOf(log))).toEqual(expected)
    expect([log.startOffset, log.endOffset]).toEqual([0, 8])
    await log.close()
    const again = await openLog(scratch, { compaction })
    expect(again.reports).toEqual([])
    expect(brief(await recordsOf(again))).toEqual(expected)
    expect(await compact(again)).toBeNull() // it knows how far it was
    await again.close()
  })

  test('a read from an offset that is gone gives what comes next, and the offset after the last is reached', async () => {
    const log = await openLog(make(), { compaction })
    for (let index = 0; index < 10; index++) log.append(keyed([['a', String(index)]]))
    log.roll()
    await compact(log)
    for (let offset = 0; offset < 10; offset++) {
      const cursor = new RecordCursor(await log.read(offset, 1))
      expect(cursor.next()).toBe(true)
      expect(cursor.offset).toBe(9)
    }
    // Nothing but offsets without records before the limit: these are better than nothing.
    const bytes = await log.read(3, 1, 9)
    expect([baseOffset(bytes, 0), lastOffset(bytes, 0), recordCount(bytes, 0)]).toEqual([0, 8, 0])
    log.append(keyed([['a', '10']]))
    log.roll()
    await compact(log)
    const end = await log.read(4, 1, 10)
    expect([lastOffset(end, 0), recordCount(end, 0)]).toEqual([9, 0])
    await log.close()
  })

  test('small neighbours become one segment, of at most segment.bytes', async () => {
    const scratch = make()
    const log = await openLog(scratch, { compaction, segmentBytesMax: 2000 })
    for (let index = 0; index < 900; index++) log.append(keyed([[`k${index % 90}`, `value ${index}`]]))
    const before = log.segmentCount
    await compact(log)
    log.append(keyed([['z', '']]))
    log.roll()
    await compact(log)
    await compact(log)
    expect(log.segmentCount).toBeLessThan(before / 2)
    const { disk, directory } = scratch
    const names = disk
      .list(directory)
      .filter(name => /\.(log|index|timeindex|cleaned|swap|deleted)/.test(name))
    expect(names.filter(name => name.endsWith('.log')).length).toBe(log.segmentCount)
    expect(names.filter(name => !/^\d{20}\.(log|index|timeindex)$/.test(name))).toEqual([])
    for (const name of names.filter(name => name.endsWith('.log'))) {
      const file = disk.open(`${directory}/${name}`, 'read')
      expect(file.size()).toBeLessThanOrEqual(2000)
      file.close()
    }
    const found = await recordsOf(log)
    expect(new Set(found.map(({ key }) => key)).size).toBe(91)
    await log.close()
  })
})

test('a batch of which nothing goes is stored as it was, byte for byte', async () => {
  const log = await openLog(inMemory(), { compaction })
  const whole = keyed(
    [
      ['a', '1'],
      ['b', '2'],
    ],
    { compression: 'gzip', producerId: 4, producerEpoch: 1, baseSequence: 9 },
  )
  log.append(keyed([['c', '1']]))
  log.append(whole)
  log.append(keyed([['c', '2']]))
  log.roll()
  await compact(log)
  const batches = await batchesOf(log)
  expect(batches[0].equals(whole)).toBe(true)
  await log.close()
})

test('a segment of which nothing goes is left alone', async () => {
  const scratch = onNode()
  const log = await openLog(scratch, { compaction, segmentBytesMax: 100 })
  log.append(keyed([['a', '1']]))
  log.append(keyed([['b', '1']]))
  log.append(keyed([['c', '1']]))
  const renames: string[] = []
  const { disk } = scratch
  const rename = disk.rename
  disk.rename = (from, to) => {
    renames.push(to)
    rename(from, to)
  }
  await compact(log)
  expect(renames.filter(name => name.endsWith('.swap'))).toEqual([])
  disk.rename = rename
  await log.close()
})

test.each(Object.keys(compressionTypes))('batches compressed with %s', async compression => {
  const log = await openLog(inMemory(), { compaction })
  const options = { compression: compression as keyof typeof compressionTypes }
  const value = 'v'.repeat(300)
  log.append(
    keyed(
      [
        ['a', value],
        ['b', value],
        ['a', null],
        ['c', value],
      ],
      options,
    ),
  )
  log.append(keyed([['b', '2']], options))
  log.roll()
  await compact(log)
  expect(brief(await recordsOf(log))).toEqual([
    [2, 'a', null],
    [3, 'c', value],
    [4, 'b', '2'],
  ])
  const [batch] = await batchesOf(log)
  expect(batch.readInt16BE(21) & 7).toBe(compressionTypes[options.compression])
  expect([baseOffset(batch, 0), lastOffset(batch, 0), recordCount(batch, 0)]).toEqual([0, 3, 2])
  await log.close()
})

describe('tombstones', () => {
  test('stay for their grace time, counted from when they were first compacted, and keep their timestamp', async () => {
    const clock = new HandClock()
    const log = await openLog(inMemory(), { compaction }, { clock })
    const pass = async (): Promise<unknown[]> => {
      log.append(keyed([['x', String(clock.time)]], { timestamp: clock.time }))
      log.roll()
      await compact(log)
      return brief((await recordsOf(log)).filter(({ key }) => key !== 'x'))
    }
    log.append(
      keyed(
        [
          ['a', '1'],
          ['b', '1'],
        ],
        { timestamp: START - 50 },
      ),
    )
    log.append(
      keyed(
        [
          ['b', '2'],
          ['a', null],
        ],
        { timestamp: START - 7 },
      ),
    )
    clock.time = START + 5000
    expect(await pass()).toEqual([
      [2, 'b', '2'],
      [3, 'a', null],
    ])
    const batch = (await batchesOf(log)).find(found => baseOffset(found, 0) === 2)!
    expect(deleteHorizon(batch, 0)).toBe(START + 6000)
    expect((await recordsOf(log)).filter(({ key }) => key !== 'x').map(({ timestamp }) => timestamp)).toEqual(
      [START - 7, START - 7],
    )
    clock.time = START + 5999
    expect(await pass()).toEqual([
      [2, 'b', '2'],
      [3, 'a', null],
    ])
    clock.time = START + 6000
    expect(await pass()).toEqual([[2, 'b', '2']])
    await log.close()
  })
})

describe('transactions', () => {
  const transactional = (sequence: number) => ({
    producerId: 3,
    producerEpoch: 0,
    baseSequence: sequence,
    transactional: true,
  })

  test('records of aborted ones go, and markers when no record is left and their grace time is over', async () => {
    const clock = new HandClock()
    const log = await openLog(inMemory(), { compaction }, { clock })
    log.append(keyed([['a', 'kept']]))
    log.append(
      keyed(
        [
          ['a', 'aborted'],
          ['b', 'aborted'],
        ],
        transactional(0),
      ),
    )
    const abort = log.endTransaction(3, 0, false)
    log.append(keyed([['b', 'committed']], transactional(2)))
    const commit = log.endTransaction(3, 0, true)
    log.append(keyed([['x', 'producer 3 goes on']], transactional(3)))
    log.endTransaction(3, 0, true)
    const pass = async () => {
      log.append(keyed([['c', String(clock.time)]]))
      log.roll()
      const end = log.endOffset
      await compact(log, { aborted: log.abortedTransactions(0, end) })
      const batches = await batchesOf(log)
      const markers = batches.filter(batch => (batch.readInt16BE(21) & 0x20) !== 0)
      const values = (await recordsOf(log)).map(({ value }) => value).slice(0, -1)
      return {
        values,
        markers: markers.map(batch => baseOffset(batch, 0)).slice(0, -1),
        aborted: log.abortedTransactions(0, end).map(({ lastOffset }) => lastOffset),
      }
    }
    const values = ['kept', 'committed', 'producer 3 goes on']
    expect(await pass()).toEqual({ values, markers: [abort, commit], aborted: [abort] })
    expect(await pass()).toEqual({ values, markers: [abort, commit], aborted: [] })
    clock.time += 1000
    expect(await pass()).toEqual({ values, markers: [commit], aborted: [] })
    await log.close()
  })
})

describe('what is left alone', () => {
  test('the active segment, and everything from the first offset that is not decided', async () => {
    const log = await openLog(inMemory(), { compaction })
    for (let index = 0; index < 6; index++) {
      log.append(keyed([['a', String(index)]]))
      if (index % 2 === 1) log.roll()
    }
    log.append(keyed([['a', 'active']]))
    await compact(log, { firstUncleanableOffset: 5 })
    expect(brief(await recordsOf(log))).toEqual([
      [3, 'a', '3'],
      [4, 'a', '4'],
      [5, 'a', '5'],
      [6, 'a', 'active'],
    ])
    await log.close()
  })

  test('segments with records that are too young', async () => {
    const clock = new HandClock()
    const log = await openLog(inMemory(), { compaction: { ...compaction, lagMsMin: 100 } }, { clock })
    log.append(keyed([['a', '1']], { timestamp: START - 100 }))
    log.append(keyed([['a', '2']], { timestamp: START - 100 }))
    log.roll()
    log.append(keyed([['a', '3']], { timestamp: START - 99 }))
    log.roll()
    await compact(log)
    expect(brief(await recordsOf(log))).toEqual([
      [1, 'a', '2'],
      [2, 'a', '3'],
    ])
    clock.time++
    await compact(log)
    expect(brief(await recordsOf(log))).toEqual([[2, 'a', '3']])
    await log.close()
  })

  test('a log that is not dirty enough, unless what is dirty is too old', async () => {
    const clock = new HandClock()
    const config = { ...compaction, dirtyRatioMin: 0.5, lagMsMax: 1000 }
    const log = await openLog(inMemory(), { compaction: config }, { clock })
    const due = (): number => log.compactionDue(log.endOffset)
    expect(due()).toBe(-1)
    for (let index = 0; index < 4; index++) log.append(keyed([[`k${index}`, 'x']]))
    expect(due()).toBe(-1) // all of it active
    log.roll()
    expect(due()).toBe(1)
    await compact(log)
    log.append(keyed([['k0', 'y']]))
    log.roll()
    expect(due()).toBe(-1)
    clock.time += 1000
    expect(due()).toBe(-1)
    clock.time++
    expect(due()).toBeCloseTo(0.2, 1)
    await compact(log)
    log.append(keyed([['k0', 'z']], { timestamp: clock.time }))
    clock.time += 999
    expect(due()).toBe(-1)
    clock.time += 2 // the active segment is closed for it
    expect(due()).toBeGreaterThan(0)
    await log.close()
  })
})

describe('idempotent producers', () => {
  test('the last batch of each stays, empty if need be, so that its sequence is known without a snapshot', async () => {
    const scratch = onNode()
    const log = await openLog(scratch, { compaction })
    const producer = (id: number, sequence: number) => ({
      producerId: id,
      producerEpoch: 0,
      baseSequence: sequence,
    })
    log.append(keyed([['a', '1']], producer(1, 0)))
    const last = keyed(
      [
        ['a', '2'],
        ['b', '1'],
      ],
      producer(1, 1),
    )
    log.append(last)
    log.append(keyed([['a', '3']], producer(2, 0)))
    log.append(
      keyed([
        ['a', '4'],
        ['b', '2'],
      ]),
    )
    log.roll()
    await compact(log)
    const kept = (await batchesOf(log)).map(batch => [
      baseOffset(batch, 0),
      recordCount(batch, 0),
      producerId(batch, 0),
    ])
    expect(kept).toEqual([[4, 2, -1]]) // empty ones do not come first
    await log.close()
    for (const name of scratch.disk.list(scratch.directory)) {
      if (name.endsWith('.snapshot')) scratch.disk.remove(`${scratch.directory}/${name}`)
    }
    const again = await openLog(scratch, { compaction })
    expect(again.append(Buffer.from(last))).toMatchObject({ repeated: true, baseOffset: 1, lastOffset: 2 })
    expect(again.append(keyed([['a', '5']], producer(2, 1))).repeated).toBe(false)
    await again.close()
  })
})

describe('keys', () => {
  test('are asked for at the door of a compacted log, and only there', async () => {
    const log = await openLog(inMemory(), { compaction })
    const batch = keyed(
      [
        ['a', '1'],
        [null, '2'],
        ['b', '3'],
        [null, '4'],
      ],
      { compression: 'lz4' },
    )
    let refusal: SluiceError | null = null
    try {
      log.append(batch)
    } catch (error) {
      refusal = error as SluiceError
    }
    expect(refusal).toMatchObject({
      code: 'INVALID_RECORD',
      detail: { recordErrors: [{ index: 1 }, { index: 3 }] },
    })
    expect(log.endOffset).toBe(0)
    await log.close()
    const other = await openLog(inMemory())
    other.append(keyed([[null, '1']]))
    await other.close()
  })

  test('records without one, from before the log was compacted, go', async () => {
    const log = await openLog(inMemory())
    log.append(
      keyed([
        [null, '1'],
        ['a', '1'],
      ]),
    )
    log.roll()
    expect(await compact(log)).toBeNull()
    log.configure({ ...baseConfig, compaction })
    await compact(log)
    expect(brief(await recordsOf(log))).toEqual([[1, 'a', '1']])
    await log.close()
  })

  test('more than there is memory for are taken in several passes', async () => {
    const log = await openLog(inMemory(), { compaction, segmentBytesMax: 50_000 })
    const keys = 9000
    for (let round = 0; round < 2; round++)
      for (let key = 0; key < keys; key += 30) {
        log.append(keyed(Array.from({ length: 30 }, (_, index) => [`k${key + index}`, `${round}`])))
      }
    log.roll()
    let passes = 0
    for (;;) {
      const result = await compact(log, { keyMapBytesMax: 0 })
      if (result === null) break
      passes++
      expect(passes).toBeLessThan(100)
    }
    expect(passes).toBeGreaterThan(3)
    const found = await recordsOf(log)
    expect(found.map(({ key }) => key)).toEqual(Array.from({ length: keys }, (_, index) => `k${index}`))
    expect(found.every(({ value }) => value === '1')).toBe(true)
    await log.close()
  })
})

test('a segment that was compacted empty goes with the next one that retention removes', async () => {
  const clock = new HandClock()
  const config = { compaction, segmentBytesMax: 150, retentionMs: 1000 }
  const log = await openLog(inMemory(), config, { clock })
  for (let index = 0; index < 4; index++) log.append(keyed([['a', 'x'.repeat(100)]]))
  log.roll()
  await compact(log)
  log.append(keyed([['b', '1']], { timestamp: START + 10_000 }))
  clock.time = START + 10_500
  await log.enforceRetention(clock.time, log.endOffset)
  expect(log.startOffset).toBe(4)
  await log.close()
})

describe('damage', () => {
  test('is not copied: the compaction ends, and what is whole can still be read', async () => {
    const scratch = onNode()
    const log = await openLog(scratch, { compaction })
    for (let index = 0; index < 3; index++) log.append(keyed([[`k${index}`, 'value']]))
    log.roll()
    await log.close()
    flip(scratch, '00000000000000000000.log', 150)
    const again = await openLog(scratch, { compaction })
    await expect(compact(again)).rejects.toMatchObject({ code: 'CORRUPT_LOG' })
    expect(scratch.disk.list(scratch.directory).filter(name => name.endsWith('.cleaned'))).toEqual([])
    const cursor = new RecordCursor(await again.read(0, 1))
    expect(cursor.next()).toBe(true)
    await again.close()
  })
})

function flip({ disk, directory }: Scratch, name: string, position: number): void {
  const file = disk.open(`${directory}/${name}`, 'write')
  const bytes = Buffer.from(file.readNow(position, 1))
  bytes[0] ^= 1
  file.write(bytes, position)
  file.close()
}

describe('at the same time', () => {
  test('appends, reads from everywhere and compactions go on together', async () => {
    const log = await openLog(inMemory(), { compaction, segmentBytesMax: 3000, indexIntervalBytes: 200 })
    const random = new Random(7)
    const model = new Map<string, string>()
    let stop = false
    let passes = 0
    const append = async (): Promise<void> => {
      for (let index = 0; passes < 5 || index < 1000; index++) {
        expect(index).toBeLessThan(50_000)
        const key = `k${random.below(40)}`
        model.set(key, String(index))
        log.append(keyed([[key, String(index)]], { compression: random.pick(['none', 'lz4']) }))
        if (index % 5 === 0) await new Promise(resolve => setImmediate(resolve))
      }
      stop = true
    }
    const read = async (seed: number): Promise<void> => {
      const own = new Random(seed)
      while (!stop) {
        await new Promise(resolve => setImmediate(resolve)) // what comes from memory yields to nobody
        const seen = new Map<string, number>()
        let offset = own.below(log.endOffset + 1)
        while (offset < log.endOffset) {
          const bytes = await log.read(offset, own.pick([1, 300, 5000]))
          const cursor = new RecordCursor(bytes)
          for (let at = 0; at < bytes.length; at += batchBytes(bytes, at)) {
            expect(lastOffset(bytes, at)).toBeGreaterThanOrEqual(offset)
            offset = lastOffset(bytes, at) + 1
          }
          while (cursor.next()) {
            const key = cursor.bytes.toString('utf8', cursor.keyStart, cursor.keyStart + cursor.keyBytes)
            expect(cursor.offset).toBeGreaterThan(seen.get(key) ?? -1)
            seen.set(key, cursor.offset)
          }
        }
      }
    }
    const compactAgain = async (): Promise<void> => {
      while (!stop) {
        if ((await compact(log, { sliceMs: 0.2 })) !== null) passes++
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    await Promise.all([append(), compactAgain(), read(1), read(2)])
    log.roll()
    await compact(log)
    const found = await recordsOf(log)
    expect(Object.fromEntries(found.map(({ key, value }) => [key, value]))).toEqual(Object.fromEntries(model))
    expect(found.length).toBe(model.size)
    await log.close()
  })

  test('a read that is half-way in a segment when it is replaced goes on in the new one', async () => {
    const { disk } = watchedDisk(memoryDisk())
    const { open } = disk
    let reached = (): void => {}
    let release: Promise<void> | null = null
    disk.open = (path, mode) => {
      const file = open(path, mode)
      const { read } = file
      return {
        ...file,
        async read(position, bytesMax) {
          const bytes = await read(position, bytesMax)
          reached()
          if (bytesMax < 100) await release // only the header: there is more to read
          return bytes
        },
      }
    }
    const log = await openLog({ disk, directory: '/t-0' }, { compaction, segmentBytesMax: 3000 })
    for (let index = 0; index < 20; index++)
      log.append(keyed([[`k${index % 4}`, `${index} ${'x'.repeat(100)}`]]))
    log.roll()
    let goOn = (): void => {}
    release = new Promise(resolve => {
      goOn = resolve
    })
    const isReading = new Promise<void>(resolve => {
      reached = resolve
    })
    const reading = log.read(10, 1)
    await isReading
    await compact(log)
    goOn()
    const cursor = new RecordCursor(await reading)
    expect(cursor.next()).toBe(true)
    expect(cursor.offset).toBeGreaterThanOrEqual(16) // the first of the last values
    await log.close()
  })

  test('a log that is closed while it is compacted closes, and nothing is lost', async () => {
    const scratch = onNode()
    const log = await openLog(scratch, { compaction, segmentBytesMax: 1000 })
    for (let index = 0; index < 200; index++) log.append(keyed([[`k${index % 50}`, String(index)]]))
    const compacting = compact(log, { sliceMs: 0 })
    const outcome = expect(compacting).rejects.toMatchObject({ code: 'CLOSED' })
    await log.close()
    await outcome
    expect(scratch.disk.list(scratch.directory).filter(name => /cleaned|swap|deleted/.test(name))).toEqual([])
    const again = await openLog(scratch, { compaction, segmentBytesMax: 1000 })
    const found = await recordsOf(again)
    expect(new Map(found.map(({ key, value }) => [key, value])).get('k49')).toBe('199')
    await again.close()
  })

  test('deleting what is being compacted ends the compaction only', async () => {
    const log = await openLog(onNode(), { compaction, segmentBytesMax: 1000 })
    for (let index = 0; index < 200; index++) log.append(keyed([[`k${index % 50}`, String(index)]]))
    const compacting = compact(log, { sliceMs: 0 }).catch(error => error)
    await new Promise(resolve => setImmediate(resolve))
    await log.deleteUntil(160)
    await compacting
    expect((await recordsOf(log)).filter(({ offset }) => offset >= 160).at(-1)!.value).toBe('199')
    log.append(keyed([['k1', 'new']]))
    log.roll()
    await compact(log)
    expect((await recordsOf(log)).at(-1)!.value).toBe('new')
    await log.close()
  })
})

test('random logs hold what a Map holds, through passes, restarts and all compressions', async () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = new Random(seed)
    const clock = new HandClock()
    const scratch = inMemory()
    const config = {
      compaction: { ...compaction, deleteRetentionMs: random.pick([0, 50, 1e9]) },
      segmentBytesMax: random.pick([500, 3000, 100_000]),
      indexIntervalBytes: random.pick([0, 500, 4096]),
      appendTime: random.chance(0.2),
    }
    let log = await openLog(scratch, config, { clock })
    const model = new Map<string, string | null>()
    const compressions = Object.keys(compressionTypes) as (keyof typeof compressionTypes)[]
    for (let step = 0; step < 120; step++) {
      clock.time += random.below(10)
      if (random.chance(0.05)) {
        await log.close()
        log = await openLog(scratch, config, { clock })
      }
      if (random.chance(0.1)) {
        if (random.chance(0.5)) log.roll()
        await compact(log, { keyMapBytesMax: random.pick([0, 1e6]) })
      }
      const entries = Array.from({ length: random.between(1, 6) }, (): Entry => {
        const value = random.chance(0.2) ? null : `${step} ${'x'.repeat(random.below(40))}`
        return [`key ${random.below(25)}`, value]
      })
      for (const [key, value] of entries) model.set(key!, value)
      log.append(keyed(entries, { timestamp: clock.time, compression: random.pick(compressions) }))
    }
    clock.time += 100
    for (let pass = 0; pass < 2; pass++) {
      log.append(keyed([['last', String(pass)]]))
      log.roll()
      while ((await compact(log)) !== null);
      clock.time += 100
    }
    const found = await recordsOf(log)
    const state = new Map(found.map(({ key, value }) => [key, value]))
    state.delete('last')
    for (const [key, value] of model)
      if (value !== null) expect(state.get(key), `seed ${seed}: ${key}`).toBe(value)
    for (const [key, value] of state) expect(model.get(key), `seed ${seed}: ${key}`).toBe(value)
    // One record for each key; tombstones are gone after their grace time.
    expect(found.length).toBe(new Set(found.map(({ key }) => key)).size)
    if (config.compaction.deleteRetentionMs < 1e9) expect([...state.values()]).not.toContain(null)
    await log.close()
  }
})
