/** Reading ahead: the next piece is at hand when it is asked for, nothing is read twice, and memory stays bounded. */

import { expect, test } from 'vitest'
import { DiskError } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import type { Log } from '../../src/log/log.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { ReadAhead } from '../../src/log/read-ahead.ts'
import type { Segment } from '../../src/log/segment.ts'
import { batchBytes, lastOffset } from '../../src/record/batch.ts'
import { batchOf, openLog, watchedDisk } from './scratch-log.ts'

const BATCH = batchOf(['value 0']).length
/** Three batches and a half. */
const PIECE = 3 * BATCH + BATCH / 2

async function filled(batches: number) {
  const { disk, calls } = watchedDisk(memoryDisk())
  const files = new OpenFiles(disk)
  const log = await openLog({ disk, directory: '/t-0' }, {}, { files })
  for (let index = 0; index < batches; index++) log.append(batchOf(['value 0']), true)
  await log.flush()
  calls.length = 0
  return {
    log,
    files,
    calls,
    reads: () => calls.filter(({ kind }) => kind === 'read').map(({ position }) => position / BATCH),
  }
}

/** Resolves with the offset that is next. */
async function readPiece(log: Log, offset: number): Promise<number> {
  const bytes = await log.read(offset, PIECE, log.endOffset)
  let last = offset
  for (let at = 0; at < bytes.length; at += batchBytes(bytes, at)) last = lastOffset(bytes, at) + 1
  expect(last - offset).toBe(Math.min(3, log.endOffset - offset))
  return last
}

test('who reads on finds the next piece read already; no piece is read twice', async () => {
  const { log, files, reads } = await filled(20)
  let offset = await readPiece(log, 0)
  expect(reads()).toEqual([0]) // a first read says nothing of what comes
  offset = await readPiece(log, offset)
  await Promise.resolve()
  expect(reads()).toEqual([0, 3, 6])
  while (offset < log.endOffset) offset = await readPiece(log, offset)
  expect(reads()).toEqual([0, 3, 6, 9, 12, 15, 18])
  expect(files.ahead.bytes).toBe(0)
})

test('readers at different places have their own pieces', async () => {
  const { log, calls, reads } = await filled(60)
  let one = await readPiece(log, 0)
  let other = await readPiece(log, 30)
  calls.length = 0 // on its way there it walked over what lies before
  for (let turn = 0; turn < 8; turn++) {
    one = await readPiece(log, one)
    other = await readPiece(log, other)
  }
  expect(reads().length).toBe(new Set(reads()).size)
})

interface FakeRead {
  readonly position: number
  readonly reject: (error: DiskError) => void
}

function fakeSegment() {
  const reads: FakeRead[] = []
  const read = (position: number): Promise<Uint8Array> =>
    new Promise((_, reject) => reads.push({ position, reject }))
  return { segment: { file: { read } } as unknown as Segment, reads }
}

test('with more readers than room, those that have a piece keep it', () => {
  const ahead = new ReadAhead(300)
  const { segment, reads } = fakeSegment()
  for (let reader = 0; reader < 10; reader++) ahead.begin(segment, reader * 100, 100)
  expect(reads.map(({ position }) => position)).toEqual([0, 100, 200])
  expect(ahead.bytes).toBe(300)
  expect(ahead.take(segment, 100, 100)).not.toBeNull()
  expect(ahead.take(segment, 100, 100)).toBeNull()
  expect(ahead.bytes).toBe(200)
})

test('a piece that nobody comes for makes room in the end', () => {
  const ahead = new ReadAhead(100)
  const { segment } = fakeSegment()
  ahead.begin(segment, 0, 100)
  for (let turn = 0; turn < 1000; turn++) ahead.take(segment, 5000, 100)
  ahead.begin(segment, 700, 100)
  expect(ahead.take(segment, 700, 100)).not.toBeNull()
  expect(ahead.take(segment, 0, 100)).toBeNull()
})

test('a read that fails is forgotten: who comes reads by himself', async () => {
  const ahead = new ReadAhead()
  const { segment, reads } = fakeSegment()
  ahead.begin(segment, 0, 100)
  reads[0].reject(new DiskError('EIO', '/t-0/0.log', 'read: broken'))
  await new Promise(resolve => setImmediate(resolve))
  expect(ahead.take(segment, 0, 100)).toBeNull()
  expect(ahead.bytes).toBe(0)
})
