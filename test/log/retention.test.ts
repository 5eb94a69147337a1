/** What is deleted, when, and that it stays deleted. */

import { describe, expect, test } from 'vitest'
import type { Log } from '../../src/log/log.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import {
  appendEach,
  bases,
  batchOf,
  fileOf,
  HandClock,
  inMemory,
  logName,
  openLog,
  putFile,
  readAll,
  type Scratch,
  START,
  scratches,
  values,
} from './scratch-log.ts'

const BATCH = batchOf(['value 0']).length
const MINUTE = 60_000

/** Segments of two batches, each batch a minute later than the one before. */
async function minutes(
  scratch: Scratch,
  count: number,
  changes: Parameters<typeof openLog>[1] = {},
): Promise<Log> {
  const log = await openLog(scratch, { segmentBytesMax: 2 * BATCH, ...changes })
  for (let minute = 0; minute < count; minute++) {
    log.append(batchOf([`value ${minute}`], { timestamp: START + minute * MINUTE }))
  }
  await log.flush()
  return log
}

describe.each(scratches)('deleteUntil (%s)', (_, scratchOf) => {
  test('hides what lies before, removes whole segments, and holds over a restart', async () => {
    const scratch = scratchOf()
    const log = await minutes(scratch, 9)
    await log.deleteUntil(5)
    expect(log.startOffset).toBe(5)
    expect(bases(scratch)).toEqual([4, 6, 8])
    expect((await readAll(log)).map(([offset]) => offset)).toEqual([5, 6, 7, 8])
    await log.deleteUntil(3) // nothing: it is gone already
    expect(log.startOffset).toBe(5)
    const reopened = await openLog(scratch)
    expect([reopened.startOffset, reopened.endOffset]).toEqual([5, 9])
    await reopened.close()
  })

  test('of everything leaves an empty log that goes on', async () => {
    const scratch = scratchOf()
    const log = await minutes(scratch, 9)
    await log.deleteUntil(9)
    expect([log.startOffset, log.endOffset]).toEqual([9, 9])
    expect(await log.offsetForTime(0)).toBe(-1)
    appendEach(log, ['next'])
    await log.close()
    const reopened = await openLog(scratch)
    expect(reopened.reports).toEqual([])
    expect(await readAll(reopened)).toEqual([[9, 'next']])
    await reopened.close()
  })

  test('offsets outside the log are refused', async () => {
    const log = await minutes(scratchOf(), 3)
    for (const offset of [-1, 4])
      await expect(log.deleteUntil(offset)).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' })
    expect(log.startOffset).toBe(0)
    await log.close()
  })

  test('several at once', async () => {
    const scratch = scratchOf()
    const log = await minutes(scratch, 20)
    await Promise.all([3, 17, 9, 4].map(offset => log.deleteUntil(offset)))
    expect(log.startOffset).toBe(17)
    expect(bases(scratch)[0]).toBe(17)
    await log.close()
  })
})

test('a deletion is durable when it resolves, at whatever moment the power goes afterwards', async () => {
  for (let seed = 0; seed < 30; seed++) {
    const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
    disk.makeDirectory('/t-0')
    await disk.syncDirectory('/')
    const log = await minutes({ disk, directory: '/t-0' }, 9)
    // The second finds the start moved already, and must wait for it all the same.
    await Promise.race([log.deleteUntil(7), log.deleteUntil(6)])
    const after = await openLog({ disk: disk.crash(), directory: '/t-0' })
    expect([after.startOffset, after.endOffset]).toEqual([7, 9])
    expect(after.reports).toEqual([])
    expect(await readAll(after)).toHaveLength(2)
  }
})

test('what a crash left of deleted segments is removed at the next start', async () => {
  const scratch = inMemory()
  const log = await minutes(scratch, 9)
  const files = [0, 2, 4].map(base => [logName(base), fileOf(scratch, logName(base))] as const)
  await log.deleteUntil(6)
  await log.close()
  for (const [name, bytes] of [files[0], files[2]]) putFile(scratch, name, bytes) // the one between is gone
  const reopened = await openLog(scratch)
  expect(reopened.reports).toEqual([])
  expect(bases(scratch)).toEqual([6, 8])
  expect(await readAll(reopened)).toHaveLength(3)
})

test('the segment of the checkpoint may go when all of it is deleted', async () => {
  const scratch = inMemory()
  const log = await openLog(scratch)
  appendEach(log, values(3))
  await log.deleteUntil(3)
  log.roll()
  appendEach(log, values(2, 3))
  await log.flush() // and the process is gone, with the checkpoint in the first segment
  const reopened = await openLog(scratch)
  expect(reopened.reports).toEqual([])
  expect([reopened.startOffset, reopened.endOffset]).toEqual([3, 5])
  expect(bases(scratch)).toEqual([3])
})

describe('retention', () => {
  test('by time removes segments whose newest record is too old', async () => {
    const scratch = inMemory()
    const log = await minutes(scratch, 9, { retentionMs: 4 * MINUTE })
    expect(await log.enforceRetention(START + 7 * MINUTE, 9)).toBe(1) // 0 and 1 are older than minute 3; so is 2, but not 3
    expect(log.startOffset).toBe(2)
    expect(await log.enforceRetention(START + 7 * MINUTE, 9)).toBe(0)
    expect(await log.enforceRetention(START + 9 * MINUTE, 9)).toBe(1)
    expect(log.startOffset).toBe(4)
  })

  test('by time empties a silent log in the end', async () => {
    const log = await minutes(inMemory(), 9, { retentionMs: 4 * MINUTE })
    await log.enforceRetention(START + 1_000 * MINUTE, 9)
    expect([log.startOffset, log.endOffset, log.bytes]).toEqual([9, 9, 0])
    expect(await log.enforceRetention(START + 2_000 * MINUTE, 9)).toBe(0)
    appendEach(log, ['x'])
    expect(await readAll(log)).toEqual([[9, 'x']])
  })

  test('by time knows the age of closed segments after a restart, clean or not', async () => {
    for (const clean of [true, false]) {
      const scratch = inMemory()
      const log = await minutes(scratch, 9)
      if (clean) await log.close()
      const reopened = await openLog(scratch, { retentionMs: 4 * MINUTE })
      expect(await reopened.enforceRetention(START + 7 * MINUTE, 9)).toBe(1)
      await reopened.close()
      const again = await openLog(scratch, { retentionMs: 4 * MINUTE })
      expect(await again.enforceRetention(START + 7 * MINUTE, 9)).toBe(0)
      expect(await again.enforceRetention(START + 11 * MINUTE, 9)).toBe(2)
    }
  })

  test('by time looks into a segment whose time index is lost: it goes in its time, not before', async () => {
    const scratch = inMemory()
    await (await minutes(scratch, 9)).close()
    for (const name of scratch.disk.list(scratch.directory)) {
      if (name.endsWith('.timeindex')) scratch.disk.remove(`${scratch.directory}/${name}`)
    }
    const log = await openLog(scratch, { retentionMs: 4 * MINUTE })
    expect(await log.enforceRetention(START + 7 * MINUTE, 9)).toBe(1)
    expect(log.startOffset).toBe(2)
    expect(await log.enforceRetention(START + 9 * MINUTE, 9)).toBe(1)
    expect(log.startOffset).toBe(4)
  })

  test('goes by the newest record of a segment, not by the last', async () => {
    const log = await openLog(inMemory(), { segmentBytesMax: 2 * BATCH, retentionMs: 10 })
    for (const delta of [100, 0, 0, 0]) log.append(batchOf(['value 0'], { timestamp: START + delta }))
    await log.flush()
    expect(await log.enforceRetention(START + 50, 4)).toBe(0)
    expect(await log.enforceRetention(START + 111, 4)).toBe(2)
  })

  test('by size removes the oldest segments while at least that much remains', async () => {
    const scratch = inMemory()
    const log = await minutes(scratch, 9, { retentionBytes: 5 * BATCH })
    expect(log.bytes).toBe(9 * BATCH)
    expect(await log.enforceRetention(START, 9)).toBe(2)
    expect(log.bytes).toBe(5 * BATCH)
    log.configure({ ...settingsOf(), retentionBytes: 0 })
    await log.enforceRetention(START, 9)
    expect(bases(scratch)).toEqual([8]) // the active one stays
    expect(log.startOffset).toBe(8)
  })

  test('removes nothing behind the limit', async () => {
    const log = await minutes(inMemory(), 9, { retentionMs: 0, retentionBytes: 0 })
    await log.enforceRetention(START + 100 * MINUTE, 5)
    expect(log.startOffset).toBe(4)
  })

  test('without a setting removes nothing', async () => {
    const log = await minutes(inMemory(), 9)
    expect(await log.enforceRetention(START + 1_000 * MINUTE, 9)).toBe(0)
    expect(log.startOffset).toBe(0)
  })

  test('on a full disk says DISK_FULL and goes on', async () => {
    const disk = new FaultyDisk({ seed: 1, clock: new HandClock(), delayMsMax: 0 })
    disk.makeDirectory('/t-0')
    await disk.syncDirectory('/')
    const log = await minutes({ disk, directory: '/t-0' }, 9, { retentionMs: 4 * MINUTE })
    disk.failNext('write', path => path.endsWith('checkpoint.tmp'))
    await expect(log.enforceRetention(START + 7 * MINUTE, 9)).rejects.toMatchObject({ code: 'DISK_FULL' })
    expect(log.failure).toBeNull()
    await log.deleteUntil(2)
    expect(await readAll(log)).toHaveLength(7)
    const after = await openLog({ disk: disk.crash(), directory: '/t-0' })
    expect(after.startOffset).toBe(2)
  })
})

const settingsOf = () => ({
  segmentBytesMax: 2 * BATCH,
  segmentMsMax: 1e9,
  indexIntervalBytes: 4096,
  batchBytesMax: 1_000,
  appendTime: false,
  retentionMs: -1,
  retentionBytes: -1,
})
