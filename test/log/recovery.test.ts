/** Opening a log after something has happened to its files; and reading one whose bytes are damaged. */

import { crc32c } from '@node-rs/crc32'
import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import type { SluiceError } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'
import { type CrashFacts, crashCaseOf, crashCases } from '../../src/log/recovery.ts'
import { writeInt64 } from '../../src/record/batch.ts'
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
  type Scratch,
  scratches,
  values,
} from './scratch-log.ts'

const BATCH = batchOf(['value 0']).length

/** A log in three segments of five batches, of one record and `BATCH` bytes each; closed unless `crashed`. */
async function filled(scratch: Scratch, crashed = false): Promise<void> {
  const log = await openLog(scratch, { segmentBytesMax: 5 * BATCH, indexIntervalBytes: BATCH })
  appendEach(log, values(10))
  await log.checkpoint()
  appendEach(
    log,
    values(5, 10).map(value => value.slice(0, 7)),
  )
  await log.flush()
  if (!crashed) await log.close()
}

const change = (scratch: Scratch, name: string, run: (bytes: Buffer) => Buffer): void => {
  putFile(scratch, name, run(fileOf(scratch, name)))
}

/** What a reader meets on its way through the log: records, and `resumeOffset` jumps. */
async function readPast(
  log: Log,
): Promise<{ offsets: number[]; damage: { from: number; file: string; position: number; to: number }[] }> {
  const offsets: number[] = []
  const damage: { from: number; file: string; position: number; to: number }[] = []
  for (let offset = log.startOffset; offset < log.endOffset; ) {
    try {
      const records = recordsIn(await log.read(offset, 3 * BATCH)).filter(([at]) => at >= offset)
      for (const [at, value] of records) {
        expect(value).toBe(`value ${at}`.slice(0, 7))
        offsets.push(at)
      }
      offset = records.at(-1)![0] + 1
    } catch (error) {
      expect(error).toMatchObject({ code: 'CORRUPT_LOG' })
      const { file, position, resumeOffset } = (error as SluiceError).detail as {
        file: string
        position: number
        resumeOffset: number
      }
      expect((error as SluiceError).message).toContain(file)
      damage.push({ from: offset, file: file.slice(file.lastIndexOf('/') + 1), position, to: resumeOffset })
      offset = resumeOffset
    }
  }
  return { offsets, damage }
}

test('exactly one crash case matches each combination of facts', () => {
  const flags = [false, true]
  for (const short of flags) {
    for (const misplaced of flags) {
      for (const damaged of flags) {
        for (const goodBehind of flags) {
          const facts: CrashFacts = { short, misplaced, damaged, goodBehind }
          const matching = crashCases.filter(candidate => candidate.when(facts))
          expect(matching, JSON.stringify(facts)).toHaveLength(1)
          expect(crashCaseOf(facts)).toBe(matching[0])
        }
      }
    }
  }
  expect(new Set(crashCases.map(({ name }) => name)).size).toBe(crashCases.length)
})

describe.each(scratches)('after a crash (%s)', (_, scratchOf) => {
  test('a torn last batch is cut off, wherever it was torn', async () => {
    for (const bytes of [1, 16, 60, 61, 62, BATCH - 1]) {
      const scratch = scratchOf()
      await filled(scratch, true)
      change(scratch, logName(10), log => Buffer.concat([log, log.subarray(0, bytes)]))
      const log = await openLog(scratch)
      expect(log.reports).toMatchObject([{ case: 'torn-tail', severity: 'note', position: 5 * BATCH, bytes }])
      expect(fileOf(scratch, logName(10)).length).toBe(5 * BATCH)
      expect(log.endOffset).toBe(15)
      expect(log.append(batchOf(['next']))).toMatchObject({ baseOffset: 15 })
      await log.close()
    }
  })

  test('zeros behind the last batch are cut off', async () => {
    const scratch = scratchOf()
    await filled(scratch, true)
    change(scratch, logName(10), log => Buffer.concat([log, Buffer.alloc(5_000)]))
    const log = await openLog(scratch)
    expect(log.reports).toMatchObject([{ case: 'torn-tail', bytes: 5_000 }])
    expect(log.endOffset).toBe(15)
    await log.close()
  })

  test('good batches behind a bad one are set aside, not thrown away', async () => {
    const scratch = scratchOf()
    await filled(scratch, true)
    const before = fileOf(scratch, logName(10))
    change(scratch, logName(10), log => flipped(log, 2 * BATCH + 70))
    const log = await openLog(scratch)
    expect(log.reports).toMatchObject([
      { case: 'lost-in-the-middle', severity: 'warning', position: 2 * BATCH, bytes: 3 * BATCH },
    ])
    expect(log.endOffset).toBe(12)
    const aside = fileOf(scratch, `${logName(10)}.cut-${2 * BATCH}`)
    expect(aside.subarray(BATCH)).toEqual(before.subarray(3 * BATCH))
    expect(log.append(batchOf(['next']))).toMatchObject({ baseOffset: 12 })
    await log.close()
    expect((await openLog(scratch)).reports).toEqual([])
  })

  test('a segment that does not follow is set aside', async () => {
    const scratch = scratchOf()
    await filled(scratch, true)
    const log = await openLog(scratch, { segmentBytesMax: 5 * BATCH })
    log.roll()
    appendEach(log, ['value 15'])
    await log.flush()
    change(scratch, logName(10), bytes => bytes.subarray(0, 4 * BATCH)) // nothing of it was behind a checkpoint
    putFile(scratch, 'checkpoint', checkpointAt(5, 5 * BATCH, 10))
    const reopened = await openLog(scratch)
    expect(reopened.reports).toMatchObject([
      { case: 'orphan-segment', severity: 'warning', bytes: batchOf(['value 15']).length },
    ])
    expect(reopened.endOffset).toBe(14)
    expect(scratch.disk.list(scratch.directory)).toContain(`${logName(15)}.orphan`)
    expect(reopened.append(batchOf(['next']))).toMatchObject({ baseOffset: 14 })
    await reopened.close()
  })

  test('a durable file that became shorter: no offset is given out twice, and the gap is reported to readers', async () => {
    for (const bytes of [0, 1, 61, 2 * BATCH, 2 * BATCH + 1, 5 * BATCH - 1]) {
      const scratch = scratchOf()
      await filled(scratch)
      change(scratch, logName(10), log => log.subarray(0, bytes))
      const log = await openLog(scratch)
      expect(log.reports).toMatchObject([
        { case: 'short-file', severity: 'warning', position: bytes, bytes: 5 * BATCH - bytes },
      ])
      expect(log.endOffset).toBe(15)
      expect(log.append(batchOf(['value 1']))).toMatchObject({ baseOffset: 15 })
      const whole = Math.floor(bytes / BATCH)
      const { offsets, damage } = await readPast(log)
      expect(offsets).toEqual([...Array(10 + whole).keys(), 15])
      expect(damage).toMatchObject([{ from: 10 + whole, file: logName(10), position: whole * BATCH, to: 15 }])
      await log.close()
      const again = await openLog(scratch)
      expect(again.reports).toEqual([])
      expect((await readPast(again)).offsets).toEqual(offsets)
      await again.close()
    }
  })

  test('a durable file that is gone', async () => {
    const scratch = scratchOf()
    await filled(scratch)
    scratch.disk.remove(`${scratch.directory}/${logName(10)}`)
    const log = await openLog(scratch)
    expect(log.reports).toMatchObject([
      { case: 'short-file', file: expect.stringContaining(logName(10)), bytes: 5 * BATCH },
    ])
    expect(log.append(batchOf(['value 1']))).toMatchObject({ baseOffset: 15 })
    expect(await readPast(log)).toMatchObject({
      offsets: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15],
      damage: [{ from: 10, to: 15 }],
    })
    await log.close()
  })

  test('an empty last segment that is gone is made again', async () => {
    const scratch = scratchOf()
    await filled(scratch)
    const log = await openLog(scratch)
    log.roll()
    await log.deleteUntil(1) // so that the checkpoint lies in the new one
    await log.close()
    scratch.disk.remove(`${scratch.directory}/${logName(15)}`)
    const reopened = await openLog(scratch)
    expect(reopened.reports).toEqual([])
    expect(reopened.append(batchOf(['value 1']))).toMatchObject({ baseOffset: 15 })
    expect(fileOf(scratch, logName(15)).length).toBe(BATCH)
    expect(await readAll(reopened)).toHaveLength(15)
    await reopened.close()
  })

  test('a segment in the middle, or the first, that is gone', async () => {
    for (const base of [0, 5]) {
      const scratch = scratchOf()
      await filled(scratch)
      scratch.disk.remove(`${scratch.directory}/${logName(base)}`)
      const log = await openLog(scratch)
      const { offsets, damage } = await readPast(log)
      expect(offsets).toEqual([...Array(15).keys()].filter(offset => offset < base || offset >= base + 5))
      expect(damage).toMatchObject([{ from: base, to: base + 5 }])
      await log.close()
    }
  })

  test('files of others in the folder are left alone', async () => {
    const scratch = scratchOf()
    await filled(scratch)
    const names = [
      'notes.txt',
      '5.log',
      '00000000000000000005.log.bak',
      '99999999999999999999.log',
      'leader-epoch-checkpoint',
    ]
    for (const name of names) putFile(scratch, name, Buffer.from('not ours'))
    const log = await openLog(scratch)
    expect(log.reports).toEqual([])
    expect(await readAll(log)).toHaveLength(15)
    for (const name of names) expect(fileOf(scratch, name).toString()).toBe('not ours')
    await log.close()
  })

  test('a file that holds something else under the name of a segment', async () => {
    const scratch = scratchOf()
    await filled(scratch)
    putFile(scratch, logName(5), Buffer.alloc(5 * BATCH, 'this is no log. '))
    const log = await openLog(scratch)
    const { offsets, damage } = await readPast(log)
    expect(offsets).toEqual([0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    expect(damage).toMatchObject([{ from: 5, file: logName(5), position: 0, to: 10 }])
    await log.close()
  })

  test('missing, cut, emptied or foreign indexes cost time, not data', async () => {
    const damages: ((bytes: Buffer) => Buffer | null)[] = [
      () => null,
      () => Buffer.alloc(0),
      bytes => bytes.subarray(0, 11),
      bytes => Buffer.alloc(bytes.length),
      bytes => Buffer.alloc(bytes.length + 5, 0xff),
      bytes => Buffer.alloc(bytes.length, 0xfe),
      bytes => Buffer.concat([bytes.subarray(8), bytes.subarray(0, 8)]),
      bytes => Buffer.from(bytes.map(byte => byte ^ 0x40)),
    ]
    for (const damage of damages) {
      const scratch = scratchOf()
      await filled(scratch)
      for (const name of scratch.disk.list(scratch.directory)) {
        if (!name.endsWith('index')) continue
        const bytes = damage(fileOf(scratch, name))
        if (bytes === null) scratch.disk.remove(`${scratch.directory}/${name}`)
        else putFile(scratch, name, bytes)
      }
      const log = await openLog(scratch, { indexIntervalBytes: BATCH })
      for (let offset = 14; offset >= 0; offset--) {
        expect(recordsIn(await log.read(offset, 1))).toEqual([[offset, `value ${offset}`.slice(0, 7)]])
      }
      appendEach(log, values(3, 15))
      expect(await readAll(log)).toHaveLength(18)
      await log.close()
    }
  })

  test('indexes of segments that are gone are removed', async () => {
    const scratch = scratchOf()
    await filled(scratch)
    putFile(scratch, '00000000000000000099.index', Buffer.alloc(8))
    putFile(scratch, '00000000000000000099.timeindex', Buffer.alloc(12))
    await (await openLog(scratch)).close()
    expect(
      scratch.disk.list(scratch.directory).filter(name => name.startsWith('00000000000000000099')),
    ).toEqual([])
  })

  test('without a good checkpoint everything is walked, and it is said', async () => {
    for (const damage of [
      null,
      Buffer.alloc(0),
      Buffer.alloc(100),
      Buffer.from('{"version":2} 00000000\n'),
    ]) {
      const scratch = scratchOf()
      await filled(scratch)
      if (damage === null) scratch.disk.remove(`${scratch.directory}/checkpoint`)
      else putFile(scratch, 'checkpoint', damage)
      const log = await openLog(scratch)
      expect(log.reports).toMatchObject([{ case: 'no-checkpoint', severity: 'warning' }])
      expect(await readAll(log)).toHaveLength(15)
      await log.close()
      expect((await openLog(scratch)).reports).toEqual([])
    }
  })

  test('reports are given before anything is done', async () => {
    const scratch = scratchOf()
    await filled(scratch, true)
    change(scratch, logName(10), log => Buffer.concat([log, Buffer.alloc(10)]))
    const sizes: number[] = []
    await openLog(scratch, {}, { onReport: () => sizes.push(fileOf(scratch, logName(10)).length) })
    expect(sizes).toEqual([5 * BATCH + 10])
  })
})

test('a segment that was set aside stays so, although the sync of the folder failed then', async () => {
  for (let seed = 0; seed < 12; seed++) {
    const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
    disk.makeDirectory('/t-0')
    await disk.syncDirectory('/')
    const scratch = { disk, directory: '/t-0' }
    await filled(scratch)
    // It begins where nothing should, and what it holds could be taken for records of the log.
    putFile(scratch, logName(16), atOffset(16))
    await syncFile(scratch, logName(16))
    await disk.syncDirectory('/t-0')
    disk.failNext('sync', path => path === '/t-0')
    await expect(openLog(scratch)).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
    const log = await openLog(scratch)
    appendEach(log, ['value 15', 'value 16'])
    log.roll()
    await log.flush()
    await log.checkpoint()
    const after = await openLog({ disk: disk.crash(), directory: '/t-0' })
    expect(recordsIn(await after.read(16, 1))).toEqual([[16, 'value 16']])
  }
})

const atOffset = (offset: number): Buffer => {
  const batch = batchOf(['an orphan'])
  writeInt64(batch, 0, offset)
  return batch
}

async function syncFile({ disk, directory }: Scratch, name: string): Promise<void> {
  const file = disk.open(`${directory}/${name}`, 'write')
  await file.sync()
  file.close()
}

/** A checkpoint that says less than the log holds: as after a crash. */
function checkpointAt(segment: number, position: number, offset: number): Buffer {
  const json = JSON.stringify({
    version: 1,
    startOffset: 0,
    offset,
    segment,
    position,
    maxTimestamp: -1,
    maxTimestampOffset: -1,
    producers: 0,
  })
  return Buffer.from(`${json} ${crc(json)}\n`)
}

const crc = (text: string): string => crc32c(Buffer.from(text)).toString(16).padStart(8, '0')

describe('damaged bytes', () => {
  // Offsets 0 to 4 lie in the first segment, which is closed; 10 to 14 in the active one, before the checkpoint.
  test.each([
    ['a closed', 0],
    ['the active', 10],
  ])('of %s segment are reported, and everything else is read', async (_, base) => {
    const scratch = inMemory()
    await filled(scratch)
    const good = fileOf(scratch, logName(base))
    for (let at = 0; at < good.length; at += at < BATCH ? 1 : 7) {
      const copy = coldCopy(scratch, (bytes, name) => (name === logName(base) ? flipped(bytes, at) : bytes))
      const log = await openLog(copy)
      expect(log.reports).toEqual([])
      const lost = base + Math.floor(at / BATCH)
      const { offsets, damage } = await readPast(log)
      expect(offsets, `byte ${at}`).toEqual([...Array(15).keys()].filter(offset => offset !== lost))
      expect(damage).toEqual([
        { from: lost, file: logName(base), position: (lost - base) * BATCH, to: lost + 1 },
      ])
      await log.close()
    }
  })

  test('several batches, any bytes, any index: right bytes or CORRUPT_LOG, and an end', async () => {
    const scratch = inMemory()
    await filled(scratch)
    const change = fc.record({
      name: fc.constantFrom(
        logName(0),
        logName(5),
        logName(10),
        ...['index', 'timeindex'].map(suffix => `00000000000000000005.${suffix}`),
      ),
      at: fc.nat(5 * BATCH - 1),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 80 }),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), async changes => {
        const copy = coldCopy(scratch, (before, name) => {
          for (const { at, bytes } of changes.filter(one => one.name === name)) {
            Buffer.from(bytes).copy(before, at % before.length)
          }
          return before
        })
        const log = await openLog(copy)
        const { offsets, damage } = await readPast(log)
        expect(offsets).toEqual([...new Set(offsets)].sort((a, b) => a - b))
        for (const { from, to } of damage) expect(to).toBeGreaterThan(from)
        await log.close()
      }),
      { numRuns: 60 },
    )
  })

  test('a base offset that was changed is noticed, although no checksum covers it', async () => {
    const scratch = inMemory()
    const first = await openLog(scratch)
    first.append(batchOf(values(8)))
    first.append(batchOf(values(8, 8)))
    first.append(batchOf(values(8, 16)))
    await first.close()
    const length = batchOf(values(8)).length
    const copy = coldCopy(scratch, (bytes, name) => {
      if (name === logName(0)) writeInt64(bytes, length, 9)
      return bytes
    })
    const log = await openLog(copy)
    await expect((async () => log.read(12, 100))()).rejects.toMatchObject({
      code: 'CORRUPT_LOG',
      detail: { resumeOffset: 16 },
    })
    expect(recordsIn(await log.read(16, 100))[0]).toEqual([16, 'value 16'])
    await log.close()
  })

  test('a batch inside of a value is not taken for one of the log', async () => {
    const scratch = onNode()
    const inner = batchOf(['a trap'])
    writeInt64(inner, 0, 2)
    const first = await openLog(scratch)
    appendEach(first, ['0', '1'])
    const position = first.bytes
    first.append(batchOf([Buffer.concat([Buffer.from('some bytes '), inner, inner])]))
    appendEach(first, ['3', '4'])
    await first.close()
    for (const at of [position + 8, position + 17, position + 62]) {
      const bytes = fileOf(scratch, logName(0))
      bytes[at] ^= 1
      putFile(scratch, logName(0), bytes)
      const log = await openLog(scratch)
      await expect((async () => log.read(2, 100))()).rejects.toMatchObject({
        code: 'CORRUPT_LOG',
        detail: { position, resumeOffset: 3 },
      })
      expect(recordsIn(await log.read(3, 1_000))).toEqual([
        [3, '3'],
        [4, '4'],
      ])
      await log.close()
      bytes[at] ^= 1
      putFile(scratch, logName(0), bytes)
    }
  })

  test('bytes behind the last batch of a closed segment lead nobody astray', async () => {
    const scratch = inMemory()
    await filled(scratch)
    const copy = coldCopy(scratch, (bytes, name) =>
      name === logName(0) ? Buffer.concat([bytes, Buffer.alloc(200, 'x')]) : bytes,
    )
    const log = await openLog(copy)
    expect(await readPast(log)).toEqual({ offsets: [...Array(15).keys()], damage: [] })
    await log.close()
  })

  test('an unreadable place is an error of that read, and says where', async () => {
    const scratch = { disk: new FaultyDisk({ seed: 1, clock: new HandClock() }), directory: '/t-0' }
    await filled(scratch)
    const log = await openLog(scratch)
    scratch.disk.failNext('read', path => path.endsWith(logName(5)))
    await expect((async () => log.read(7, 100))()).rejects.toMatchObject({
      code: 'CORRUPT_LOG',
      detail: { file: `/t-0/${logName(5)}`, offset: 7, resumeOffset: 10 },
    })
    expect(await readAll(log)).toHaveLength(15)
  })
})

test('what was set aside is durable before the original is cut', async () => {
  for (let operations = 0; operations < 12; operations++) {
    const scratch = { disk: new FaultyDisk({ seed: operations, clock: new HandClock() }), directory: '/t-0' }
    scratch.disk.makeDirectory('/t-0')
    await scratch.disk.syncDirectory('/')
    await filled(scratch, true)
    const damaged = flipped(fileOf(scratch, logName(10)), 70)
    putFile(scratch, logName(10), damaged)
    const file = scratch.disk.open(`/t-0/${logName(10)}`, 'write')
    await file.sync()
    file.close()
    scratch.disk.crashAt(scratch.disk.operations + operations, 'after')
    let done = false
    openLog(scratch).then(
      () => (done = true),
      () => (done = true),
    )
    // After a crash nobody hears of the promise.
    await vi.waitUntil(() => done || scratch.disk.isDown, { interval: 1 })
    const after = { disk: scratch.disk.crash(), directory: '/t-0' }
    const kept = fileOf(after, logName(10))
    const names = after.disk.list('/t-0')
    const aside = names.includes(`${logName(10)}.cut-0`)
      ? fileOf(after, `${logName(10)}.cut-0`)
      : Buffer.alloc(0)
    expect(kept.equals(damaged) || aside.equals(damaged), `crash after ${operations} operations`).toBe(true)
  }
})

/** The files of a log on a disk where nothing comes from memory, each as `run` gives it back. */
function coldCopy(scratch: Scratch, run: (bytes: Buffer, name: string) => Buffer): Scratch {
  const disk = new FaultyDisk({ seed: 1, clock: new HandClock(), delayMsMax: 0 })
  const copy = { disk, directory: '/copy' }
  disk.makeDirectory(copy.directory)
  for (const name of scratch.disk.list(scratch.directory))
    putFile(copy, name, run(fileOf(scratch, name), name))
  return { disk: disk.kill(), directory: copy.directory }
}

function flipped(bytes: Buffer, at: number): Buffer {
  bytes[at] ^= 1 << (at % 8)
  return bytes
}
