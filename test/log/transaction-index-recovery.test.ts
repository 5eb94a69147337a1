/** What recovery makes of the index of aborted transactions after a power cut: what was never synced may hold anything. */

import { expect, test } from 'vitest'
import { DiskError } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import type { Log } from '../../src/log/log.ts'
import { batchOf, fileOf, inMemory, openLog, putFile, type Scratch, watchedDisk } from './scratch-log.ts'

const ENTRY_BYTES = 34
const FIRST = '00000000000000000000.txnindex'

/** Aborts a transaction of one record. */
function abort(log: Log, producerId: number): void {
  log.append(batchOf(['value'], { producerId, producerEpoch: 0, baseSequence: 0, transactional: true }), true)
  log.endTransaction(producerId, 0, false)
}

/** Opens what a process has left that did not close it. */
const reopen = (place: Scratch): Promise<Log> => openLog({ ...place, disk: watchedDisk(place.disk).disk })

const zeros = Buffer.alloc(ENTRY_BYTES)
const junk = Buffer.alloc(ENTRY_BYTES, 0x7f)

test.each([
  ['gone', Buffer.alloc(0)],
  ['zeros', zeros],
  ['more zeros than entries', Buffer.concat([zeros, zeros, zeros])],
  ['junk', junk],
])('entries behind the checkpoint that are %s are made again from the markers', async (_, found) => {
  for (const durable of [0, 1, 3]) {
    const place = inMemory()
    const before = await openLog(place)
    for (let producer = 0; producer < durable; producer++) abort(before, producer)
    await before.checkpoint()
    abort(before, 10)
    abort(before, 11)
    await before.flush()
    const known = before.abortedTransactions(0, before.endOffset)
    expect(known).toHaveLength(durable + 2)
    const bytes = fileOf(place, FIRST)
    putFile(place, FIRST, Buffer.concat([bytes.subarray(0, durable * ENTRY_BYTES), found]))
    const log = await reopen(place)
    expect(log.abortedTransactions(0, log.endOffset)).toEqual(known)
    expect(fileOf(place, FIRST)).toEqual(bytes)
  }
})

test('so are those of a segment that was begun behind the checkpoint', async () => {
  const place = inMemory()
  const before = await openLog(place)
  abort(before, 1)
  await before.checkpoint()
  before.roll()
  abort(before, 2)
  await before.flush()
  const known = before.abortedTransactions(0, before.endOffset)
  putFile(place, '00000000000000000002.txnindex', Buffer.concat([zeros, zeros]))
  const log = await reopen(place)
  expect(log.abortedTransactions(0, log.endOffset)).toEqual(known)
})

test('a sync of it that fails is not made up for by a later one: the log takes no more writes, and the next start makes it again', async () => {
  const { disk } = watchedDisk(memoryDisk())
  const place = { disk, directory: '/t-0' }
  const { open } = disk
  let fails = true
  disk.open = (path, mode) => {
    const file = open(path, mode)
    if (!path.endsWith('.txnindex')) return file
    const sync = async (): Promise<void> => {
      if (fails) throw new DiskError('EIO', path, 'sync: lost')
      await file.sync()
    }
    return { ...file, sync }
  }
  const log = await openLog(place)
  abort(log, 1)
  const known = log.abortedTransactions(0, log.endOffset)
  await expect(log.checkpoint()).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
  fails = false // what was lost stays lost, whatever the system says from now on
  expect(() => abort(log, 2)).toThrow(expect.objectContaining({ code: 'STORAGE_FAILED' }))
  await expect(log.checkpoint()).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
  putFile(place, FIRST, Buffer.alloc(0))
  const next = await reopen(place)
  expect(next.abortedTransactions(0, next.endOffset)).toEqual(known)
})

test('an entry that comes while a checkpoint syncs the index is synced by the next one, also if its segment was closed meanwhile', async () => {
  const { disk } = watchedDisk(memoryDisk())
  const place = { disk, directory: '/t-0' }
  const { open } = disk
  let durable: Buffer = Buffer.alloc(0)
  let meanwhile = (): void => {}
  disk.open = (path, mode) => {
    const file = open(path, mode)
    if (!path.endsWith(FIRST)) return file
    const sync = async (): Promise<void> => {
      const synced = fileOf(place, FIRST)
      meanwhile()
      await file.sync()
      durable = synced
    }
    return { ...file, sync }
  }
  const log = await openLog(place)
  abort(log, 1)
  meanwhile = () => {
    meanwhile = () => {}
    abort(log, 2)
    log.roll()
  }
  await log.checkpoint()
  abort(log, 3)
  await log.checkpoint()
  const known = log.abortedTransactions(0, log.endOffset)
  expect(known).toHaveLength(3)
  putFile(place, FIRST, durable)
  const next = await reopen(place)
  expect(next.abortedTransactions(0, next.endOffset)).toEqual(known)
})
