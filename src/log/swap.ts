/**
 * A compacted segment takes the place of those that it was made from, and what a crash leaves of that. Names and order of steps;
 * `sync` is that of the folder, and each row is durable before the next begins:
 *
 *     100.log  200.log  100.log.cleaned            written and synced; nobody relies on it
 *     100.log  200.log  100.log.swap               sync: from here on it counts, and a start finishes what was begun
 *     100.log.deleted 200.log.deleted 100.log.swap sync: read under this name meanwhile
 *     100.log.deleted 200.log.deleted 100.log      sync
 *     100.log
 *
 * Invariants:
 *  - at each moment every offset can be read, from the old segments or from the new one, never from neither;
 *  - after a crash at any point the start finds the old segments or the new one, never a mixture: of two files that hold the
 *    same offsets the `.swap` is right;
 *  - readers that are at work in an old segment go on in the new one (`Segment.removed`).
 *
 * Only segments before that of the checkpoint are compacted, so the walk of a recovery never meets one half-way.
 */

import type { Disk } from '../lib/disk.ts'
import { lastOffset } from '../record/batch.ts'
import { markSyncFailure } from './checkpoint.ts'
import { replaceByCopy } from './file-copy.ts'
import type { OpenFiles } from './open-files.ts'
import { findBehind } from './salvage.ts'
import { scan } from './scan.ts'
import { Segment, segmentName, segmentOffset } from './segment.ts'

const RETIRED = '.deleted'

export interface Leftover {
  readonly name: string
  /** How it came about. */
  readonly cause: string
  readonly when: RegExp
  readonly action: 'finish' | 'remove'
}

/** What a start may find of a compaction. A file name matches one of them at most. */
export const leftovers: readonly Leftover[] = [
  {
    name: 'cleaned',
    cause: 'a crash while a compaction was under way; the old segments are all there',
    when: /^\d{20}\.(log|index|timeindex|txnindex)\.cleaned$/,
    action: 'remove',
  },
  {
    name: 'swap',
    cause: 'a crash after a compacted segment was durable, and before it had its final name',
    when: /^\d{20}\.log\.swap$/,
    action: 'finish',
  },
  {
    name: 'swap-index',
    cause: 'a crash while a start was finishing a compaction; the index is made again with the segment',
    when: /^\d{20}\.(index|timeindex|txnindex)\.swap$/,
    action: 'remove',
  },
  {
    name: 'deleted',
    cause: 'a crash before the old segments were removed; the compacted one is in place, or a swap beside it',
    when: /^\d{20}\.log\.deleted$/,
    action: 'remove',
  },
]

export const leftoverOf = (name: string): Leftover | null =>
  leftovers.find(candidate => candidate.when.test(name)) ?? null

export interface SwapHost {
  readonly disk: Disk
  /** Rejects if the log cannot be used any more. */
  syncDirectory(): Promise<void>
  /** From now on the log reads from `cleaned`. Returns those of the old segments that were still in use. */
  exchange(cleaned: Segment): readonly Segment[]
}

/** Lets a segment that was written and synced as `.cleaned` take its place. Rejects with DiskError; the next start sorts it out. */
export async function swapIn(cleaned: Segment, host: SwapHost): Promise<void> {
  cleaned.moveLog('.swap')
  await host.syncDirectory()
  const replaced = host.exchange(cleaned)
  if (replaced.length === 0) return cleaned.discard() // all of it was deleted meanwhile
  for (const segment of replaced) segment.retire()
  cleaned.moveIndexes()
  await host.syncDirectory()
  if (!cleaned.removed) cleaned.moveLog('') // unless deleted meanwhile
  await host.syncDirectory()
  for (const segment of replaced) host.disk.remove(segment.retiredPath)
}

export interface LeftoverOptions {
  readonly disk: Disk
  readonly files: OpenFiles
  readonly directory: string
  readonly indexIntervalBytes: number
  /** A sync failed when the log was last open: what was renamed may come back under its old name, unless it is done again. */
  readonly syncFailed: boolean
  /** A swap is damaged; it takes its place all the same, as others may be gone already. */
  readonly onDamage: (path: string, position: number, wrong: string) => void
}

/** Finishes or takes back what a crash has left. Durable once resolved. Returns whether there was anything. Rejects with DiskError. */
export async function settleLeftovers(options: LeftoverOptions): Promise<boolean> {
  const { disk, directory } = options
  const names = disk.list(directory)
  const found = names.filter(name => leftoverOf(name) !== null)
  if (found.length === 0) return false
  const remove = (suffix: string): void => {
    for (const name of disk.list(directory)) {
      if (leftoverOf(name)?.action === 'remove' && name.endsWith(suffix)) disk.remove(`${directory}/${name}`)
    }
  }
  remove('.cleaned')
  remove('.swap')
  await syncDirectory(disk, directory)
  for (const name of found) if (leftoverOf(name)?.action === 'finish') await finish(options, name)
  if (options.syncFailed)
    for (const name of found) if (name.endsWith(RETIRED)) await finishAgain(options, name)
  remove(RETIRED)
  return true
}

/** A swap takes its place. The indexes are made from it, since those beside it may be old ones. */
async function finish(options: LeftoverOptions, name: string): Promise<void> {
  const { disk, files, directory, indexIntervalBytes, syncFailed } = options
  const base = Number(name.slice(0, 20))
  if (syncFailed) {
    // It may have been its own name that did not get to the disk, and what it replaces is going.
    await replaceByCopy(disk, directory, name)
    await syncDirectory(disk, directory)
  }
  const segment = Segment.swapOf(disk, files, directory, base)
  const end = indexAll(options, segment, indexIntervalBytes)
  for (const other of disk.list(directory)) {
    const offset = segmentOffset(other)
    if (offset <= base || offset >= end) continue
    files.close(`${directory}/${other}`)
    disk.rename(`${directory}/${other}`, `${directory}/${other}${RETIRED}`)
    for (const suffix of ['index', 'timeindex', 'txnindex'])
      disk.remove(`${directory}/${segmentName(offset, suffix)}`)
  }
  if (syncFailed) setAsideAgain(disk, directory, base, end)
  segment.seal()
  await segment.syncIndexes()
  segment.moveIndexes()
  await syncDirectory(disk, directory)
  segment.moveLog('')
  await syncDirectory(disk, directory)
  for (const other of disk.list(directory)) {
    const offset = retiredOffset(other)
    if (offset >= base && offset < end) disk.remove(`${directory}/${other}`)
  }
}

/**
 * The compacted segment is in place, but it may have been its final name that did not get to the disk. There it would be a swap for
 * good, and take the place of whatever it is compacted to later.
 */
async function finishAgain(options: LeftoverOptions, retired: string): Promise<void> {
  const { disk, files, directory } = options
  const names = disk.list(directory)
  const name = names.findLast(other => segmentOffset(other) >= 0 && other < retired)
  if (!names.includes(retired) || name === undefined) return
  files.close(`${directory}/${name}`)
  disk.rename(`${directory}/${name}`, `${directory}/${name}.swap`)
  await finish(options, `${name}.swap`)
}

/**
 * What was set aside for a swap gets its old name and the new one once more, so that the next sync covers it. A crash in between is no
 * harm as long as the swap is there: whatever lies between its ends is set aside. Other segments are not touched: nobody would
 * set them aside once more.
 */
function setAsideAgain(disk: Disk, directory: string, base: number, end: number): void {
  const names = disk.list(directory)
  for (const name of names) {
    const offset = retiredOffset(name)
    const old = segmentName(offset, 'log')
    if (offset < base || offset >= end || names.includes(old)) continue
    disk.rename(`${directory}/${name}`, `${directory}/${old}`)
    disk.rename(`${directory}/${old}`, `${directory}/${name}`)
  }
}

/** The base offset in the name of a segment that was set aside; -1 if it is no such name. */
const retiredOffset = (name: string): number =>
  name.endsWith(RETIRED) ? segmentOffset(name.slice(0, -RETIRED.length)) : -1

/** Notes every batch in the indexes. Returns the offset where the segment ends, as far as that is known. */
function indexAll(options: LeftoverOptions, segment: Segment, indexIntervalBytes: number): number {
  let end = segment.baseOffset
  for (let position = 0; ; ) {
    let wrong: string | null = null
    for (const found of scan(segment.file, position)) {
      position = found.position
      wrong = found.wrong
      if (wrong !== null) break
      segment.note(found.bytes, found.at, found.batchBytes, found.position, indexIntervalBytes)
      end = lastOffset(found.bytes, found.at) + 1
    }
    if (wrong === null) return end
    options.onDamage(segment.path, position, wrong)
    const next = findBehind(segment.file, position, end, null)
    if (next === null) return end
    position = next.position
  }
}

/** What a failed sync leaves in the dark, the next start must know of. */
async function syncDirectory(disk: Disk, directory: string): Promise<void> {
  try {
    await disk.syncDirectory(directory)
  } catch (error) {
    markSyncFailure(disk, directory)
    throw error
  }
}
