/**
 * A sync of the folder that failed while segments were replaced or deleted: what the process sees may differ from the disk then. At
 * whatever moment the power goes in the lives after it, nothing is missing, and nothing that went comes back.
 */

import { describe, expect, test } from 'vitest'
import { DiskError } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import type { Log } from '../../src/log/log.ts'
import { batchBytes } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { openLog, readAll, START, watchedDisk } from './scratch-log.ts'

const DIRECTORY = '/t-0'
const SEEDS = 4
const settings = {
  segmentBytesMax: 400,
  compaction: {
    lagMsMin: 0,
    lagMsMax: Number.POSITIVE_INFINITY,
    dirtyRatioMin: 0,
    deleteRetentionMs: 1000,
  },
}

/** A machine: time passes while something is waited for. */
class Machine {
  readonly clock = new VirtualClock()
  disk: FaultyDisk

  constructor(seed: number) {
    this.disk = new FaultyDisk({ seed, clock: this.clock })
  }

  open(): Promise<Log> {
    return openLog({ disk: this.disk, directory: DIRECTORY }, settings, { clock: this.clock })
  }

  /** Runs until it is done, or the machine has stopped. */
  async until<T>(promise: Promise<T>): Promise<T | undefined> {
    let isOver = false
    const over = (): void => {
      isOver = true
    }
    promise.then(over, over)
    await this.clock.runDeferred()
    while (!isOver && !this.disk.isDown) await this.clock.step()
    return this.disk.isDown ? undefined : promise
  }

  /** As `until`, where it cannot stop. */
  async run<T>(promise: Promise<T>): Promise<T> {
    await this.until(promise)
    return promise
  }

  /** With a log that was never compacted. */
  static async make(seed: number): Promise<{ machine: Machine; log: Log }> {
    const machine = new Machine(seed)
    machine.disk.makeDirectory(DIRECTORY)
    await machine.run(machine.disk.syncDirectory('/'))
    const log = await machine.run(machine.open())
    await machine.run(makeDirty(log))
    return { machine, log }
  }

  /** The process ends; the power goes after so many operations more, unless `work` has come to an end by then: then this is false. */
  async cutShort(moment: number, work: () => Promise<unknown>): Promise<boolean> {
    this.disk = this.disk.kill()
    this.disk.crashAt(this.disk.operations + moment, 'after')
    await this.until(work())
    const { isDown } = this.disk
    this.disk = this.disk.crash()
    return isDown
  }

  /** Lets the folder's sync with this number fail. */
  failFolderSync(number: number): void {
    let before = number
    this.disk.failNext('sync', path => path === DIRECTORY && before-- === 0)
  }
}

/** Each record in a batch of its own. */
function appendKeyed(log: Log, count: number): void {
  const builder = new BatchBuilder()
  for (let index = 0; index < count; index++) {
    const offset = log.endOffset
    builder.append(START, `key ${offset % 3}`, `value ${offset}`, null)
    log.append(Buffer.from(builder.close()))
    builder.reset()
  }
}

/** Six segments, two of which fit into one. The last three records are the last of their keys. */
async function makeDirty(log: Log): Promise<void> {
  for (let segment = 0; segment < 6; segment++) {
    appendKeyed(log, 2)
    log.roll()
  }
  await log.checkpoint()
}

const compact = (log: Log) => log.compact({ firstUncleanableOffset: log.endOffset })

/** The log can be read from its start without a gap, and holds the last value of each key. */
async function checkLog(log: Log): Promise<void> {
  const found = (await readAll(log)).map(([offset]) => offset)
  const end = log.endOffset
  expect(found.filter(offset => offset >= end - 3)).toEqual([end - 3, end - 2, end - 1])
  for (let offset = log.startOffset; offset < end; ) {
    const bytes = await log.read(offset, 1)
    offset = Number(bytes.readBigInt64BE(0)) + bytes.readInt32BE(23) + 1
    expect(batchBytes(bytes, 0)).toBe(bytes.length)
  }
}

/**
 * Compacts with this sync of the folder failing and ends the process; then in a second life does `work` with the power going at one
 * operation after another, and looks at what a third finds.
 */
async function afterFailedCompaction(
  failing: number,
  seed: number,
  work: (log: Log) => Promise<unknown>,
): Promise<void> {
  for (let moment = 0, isCut = true; isCut; moment++) {
    const { machine, log } = await Machine.make(100 * seed + moment)
    machine.failFolderSync(failing)
    await expect(machine.run(compact(log))).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
    isCut = await machine.cutShort(moment, async () => work(await machine.open()))
    const found = await machine.run(machine.open())
    await machine.run(checkLog(found))
    await machine.run(compact(found))
    await machine.run(checkLog(found))
  }
}

describe('a compaction whose folder could not be synced', () => {
  // Of the first segment made and of the second: the swap; the old ones set aside; the final name.
  test.each([0, 1, 2, 3, 4, 5])('at step %d: a start may be cut short anywhere', async failing => {
    for (let seed = 0; seed < SEEDS; seed++) await afterFailedCompaction(failing, seed, async () => {})
  })

  test.each([1, 2, 5])(
    'at step %d: neither does the next compaction bring old segments back',
    async failing => {
      const compactAgain = async (log: Log): Promise<void> => {
        appendKeyed(log, 6)
        log.roll()
        await compact(log)
      }
      for (let seed = 0; seed < 2; seed++) await afterFailedCompaction(failing, seed, compactAgain)
    },
  )
})

test('a deletion whose checkpoint could not be made durable does not remove segments that an older one calls for', async () => {
  for (let seed = 0; seed < SEEDS; seed++) {
    for (let moment = 0, isCut = true; isCut; moment++) {
      const { machine, log } = await Machine.make(100 * seed + moment)
      machine.failFolderSync(0)
      await expect(machine.run(log.deleteUntil(9))).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
      isCut = await machine.cutShort(moment, () => machine.open())
      const found = await machine.run(machine.open())
      await machine.run(checkLog(found))
    }
  }
})

test('a sync that was under way while another failed is not believed', async () => {
  const inner = memoryDisk()
  const held: (() => void)[] = []
  let mode: 'pass' | 'hold' | 'fail' = 'pass'
  const { disk } = watchedDisk(inner)
  disk.syncDirectory = path => {
    if (mode === 'pass') return inner.syncDirectory(path)
    if (mode === 'fail') return Promise.reject(new DiskError('EIO', path, 'fails to sync'))
    return new Promise(resolve => held.push(resolve))
  }
  const log = await openLog({ disk, directory: DIRECTORY }, settings)
  await makeDirty(log)
  await log.flush()
  mode = 'hold'
  const deleted = log.deleteUntil(9)
  while (held.length === 0) await new Promise(resolve => setImmediate(resolve))
  mode = 'fail'
  appendKeyed(log, 1)
  log.roll()
  await expect(log.flush()).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
  held[0]()
  await expect(deleted).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
  expect(disk.list(DIRECTORY)).toContain('00000000000000000000.log')
})
