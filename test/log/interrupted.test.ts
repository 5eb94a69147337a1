/** What a failure in the middle, or a close, leaves of a log. */

import { expect, test } from 'vitest'
import type { Disk } from '../../src/lib/disk.ts'
import type { Log } from '../../src/log/log.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import {
  bases,
  batchOf,
  fileOf,
  HandClock,
  inMemory,
  logName,
  onNode,
  openLog,
  putFile,
  type Scratch,
  START,
  watchedDisk,
} from './scratch-log.ts'

const BATCH = batchOf(['value 0']).length
const MINUTE = 60_000

async function faulty(seed = 1): Promise<{ disk: FaultyDisk; directory: string }> {
  const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
  disk.makeDirectory('/t-0')
  await disk.syncDirectory('/')
  return { disk, directory: '/t-0' }
}

async function minutes(scratch: Scratch, count: number, changes = {}): Promise<Log> {
  const log = await openLog(scratch, { segmentBytesMax: 2 * BATCH, ...changes })
  for (let minute = 0; minute < count; minute++)
    log.append(batchOf([`value ${minute}`], { timestamp: START + minute * MINUTE }))
  await log.flush()
  return log
}

test('retention that found the disk full removes the files when there is room again', async () => {
  const scratch = await faulty()
  const log = await minutes(scratch, 9, { retentionMs: 4 * MINUTE })
  scratch.disk.failNext('write', path => path.endsWith('checkpoint.tmp'))
  await expect(log.enforceRetention(START + 7 * MINUTE, 9)).rejects.toMatchObject({ code: 'DISK_FULL' })
  expect(log.startOffset).toBe(2)
  await log.enforceRetention(START + 7 * MINUTE, 9)
  expect(bases(scratch)).toEqual([2, 4, 6, 8])
})

test('deleting that found the disk full removes the files when it is asked for again', async () => {
  const scratch = await faulty()
  const log = await minutes(scratch, 9)
  scratch.disk.failNext('write', path => path.endsWith('checkpoint.tmp'))
  await expect(log.deleteUntil(4)).rejects.toMatchObject({ code: 'DISK_FULL' })
  await log.deleteUntil(4)
  expect(bases(scratch)).toEqual([4, 6, 8])
})

test('a time index that was written in part on a full disk does not make its segment older after a restart', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const scratch = await faulty(seed)
    const log = await openLog(scratch, { indexIntervalBytes: 1 })
    let minute = 0
    const append = (): void => {
      log.append(batchOf([`value ${minute}`], { timestamp: START + minute * MINUTE }))
      minute++
    }
    scratch.disk.failNext('write', path => path.endsWith('.timeindex'))
    for (let count = 0; count < 70; count++) append()
    log.roll()
    append()
    await log.close()
    const after = await openLog(scratch, { indexIntervalBytes: 1, retentionMs: 20 * MINUTE })
    // The newest record of the first segment is of minute 69.
    expect(await after.offsetForTime(START + 69 * MINUTE)).toBe(69)
    await after.enforceRetention(START + 80 * MINUTE, after.endOffset)
    expect(after.startOffset).toBe(0)
    await after.close()
  }
})

test('an offset index that was written in part on a full disk is in order after a restart', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const scratch = await faulty(seed)
    const log = await openLog(scratch, { indexIntervalBytes: 1 })
    scratch.disk.failNext('write', path => path.endsWith('.index'))
    for (let count = 0; count < 70; count++) log.append(batchOf([`value ${count}`]))
    log.roll()
    await log.close()
    const file = scratch.disk.open(`/t-0/${logName(0).replace('.log', '.index')}`, 'read')
    const bytes = Buffer.from(file.readNow(0, file.size()))
    const offsets = Array.from({ length: Math.floor(bytes.length / 8) }, (_, i) => bytes.readInt32BE(i * 8))
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b))
  }
})

test('nothing is written any more once a log that has failed is closed', async () => {
  const inner = new FaultyDisk({ seed: 1, clock: new HandClock(), delayMsMax: 0 })
  inner.makeDirectory('/t-0')
  const done: string[] = []
  let isHeld = false
  let release = (): void => {}
  const held = new Promise<void>(resolve => {
    release = resolve
  })
  const disk: Disk = {
    kind: 'file',
    open(path, mode) {
      const file = inner.open(path, mode)
      const sync = file.sync.bind(file)
      // The sync of the checkpoint takes long.
      if (path.endsWith('checkpoint.tmp') && isHeld) file.sync = () => held.then(sync)
      return file
    },
    list: path => inner.list(path),
    makeDirectory: path => inner.makeDirectory(path),
    rename(from, to) {
      done.push(`${from} -> ${to}`)
      inner.rename(from, to)
    },
    remove: path => inner.remove(path),
    syncDirectory: path => inner.syncDirectory(path),
    lock: path => inner.lock(path),
  }
  const log = await openLog({ disk, directory: '/t-0' })
  log.append(batchOf(['a']))
  await log.flush()
  isHeld = true
  const checkpoint = log.checkpoint()
  checkpoint.catch(() => {})
  await new Promise(resolve => setTimeout(resolve, 20))
  inner.failNext('sync', path => path.endsWith('.log'))
  log.append(batchOf(['b']))
  await expect(log.flush()).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
  let before = -1
  const closing = log.close().then(() => {
    before = done.length
  })
  setTimeout(release, 20)
  await closing
  await checkpoint.catch(() => {})
  expect(done.slice(before)).toEqual([])
})

test('closing while segments are looked through leaves no file open', async () => {
  const scratch = inMemory()
  const log = await minutes(scratch, 5)
  await log.close()
  for (const name of scratch.disk.list(scratch.directory))
    if (name.endsWith('.timeindex')) scratch.disk.remove(`${scratch.directory}/${name}`)
  const files = new OpenFiles(scratch.disk)
  const again = await openLog(scratch, { segmentBytesMax: 2 * BATCH, retentionMs: MINUTE }, { files })
  const retention = again.enforceRetention(START + 100 * MINUTE, 5)
  retention.catch(() => {})
  await again.close()
  await retention.catch(() => {})
  expect(files.count).toBe(0)
})

/** A closed segment of `count` large batches a minute apart whose time index is lost, and one after it. */
async function untimed(count: number): Promise<{ scratch: Scratch; batch: Buffer }> {
  const scratch = inMemory()
  const log = await openLog(scratch)
  const batch = batchOf([Buffer.alloc(900_000)])
  for (let minute = 0; minute < count; minute++)
    log.append(batchOf([Buffer.alloc(900_000)], { timestamp: START + minute * MINUTE }))
  log.roll()
  log.append(batchOf(['last'], { timestamp: START + count * MINUTE }))
  await log.close()
  scratch.disk.remove(`${scratch.directory}/${logName(0).replace('.log', '.timeindex')}`)
  return { scratch, batch }
}

test('a segment that is damaged and whose time index is lost is not taken for as old as what lies before the damage', async () => {
  const { scratch, batch } = await untimed(3)
  const bytes = fileOf(scratch, logName(0))
  bytes[batch.length + 500] ^= 1
  putFile(scratch, logName(0), bytes)
  const log = await openLog(scratch, { retentionMs: 20 * MINUTE })
  // The first record is over its time, the third one is not.
  await log.enforceRetention(START + 21 * MINUTE, log.endOffset)
  expect(log.startOffset).toBe(0)
})

test('a time is looked for in a segment that is being looked through', async () => {
  const { scratch } = await untimed(10)
  const log = await openLog(scratch, { retentionMs: 1_000 * MINUTE })
  const retention = log.enforceRetention(START, log.endOffset)
  expect(await log.offsetForTime(START + 8 * MINUTE)).toBe(8)
  await retention
})

test('a read that is under way while the log is closed leaves no file open', async () => {
  const node = onNode()
  const log = await openLog(node, { indexIntervalBytes: 1 })
  for (let count = 0; count < 100; count++) log.append(batchOf([`value ${count}`.padEnd(10)]))
  await log.close()
  const { disk } = watchedDisk(node.disk)
  const files = new OpenFiles(disk)
  const again = await openLog({ disk, directory: node.directory }, {}, { files })
  const bytes = batchOf(['value 0'.padEnd(10)]).length
  await again.read(0, 2 * bytes)
  const reading = Promise.resolve(again.read(2, 2 * bytes)).catch(() => {})
  const closing = again.close()
  await Promise.all([reading, closing])
  await new Promise(resolve => setTimeout(resolve, 20))
  expect(files.count).toBe(0)
})

test('a segment file that somebody has removed is told as CORRUPT_LOG by whoever reads', async () => {
  const scratch = inMemory()
  const log = await minutes(scratch, 6, { indexIntervalBytes: 1 })
  await log.close()
  const again = await openLog(scratch, { segmentBytesMax: 2 * BATCH })
  scratch.disk.remove(`${scratch.directory}/${logName(2)}`)
  await expect(Promise.resolve().then(() => again.read(3, 100))).rejects.toMatchObject({
    code: 'CORRUPT_LOG',
  })
})
