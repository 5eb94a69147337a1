/**
 * Opening a log after whatever happened to it. Everything before the checkpoint was durable and is taken as it is
 * (readers check each batch they read); everything after it is walked, batch by batch, and the indexes are rebuilt
 * from what is found.
 *
 * What is found at the place where the walk of a segment stops is one of the cases of `crashCases`: each names the crash
 * that leads to it and what is done. Exactly one matches; a test proves it for all combinations of facts.
 *
 * Nothing is ever thrown away that could be somebody's data: bytes with good batches behind the damage are set aside in a
 * file of their own (`….log.cut-POSITION`, `….log.orphan`) and reported.
 *
 * After a failed sync the page cache and the disk may differ for good, and a later sync that succeeds says nothing about what the failed
 * one should have written (https://wiki.postgresql.org/wiki/Fsync_Errors). The log leaves a mark then, and whatever is not known to be
 * durable is copied into new files before it is believed. A power cut may take the mark, but takes the page cache with it.
 */

import type { Disk, DiskFile } from '../lib/disk.ts'
import {
  baseOffset,
  isControl,
  lastOffset,
  leaderEpoch,
  maxTimestamp,
  producerEpoch,
  producerId,
} from '../record/batch.ts'
import { isCommitMarker } from '../record/marker.ts'
import {
  CHECKPOINT_NAME,
  type Checkpoint,
  MARKED_NAME,
  readCheckpoint,
  writeCheckpoint,
} from './checkpoint.ts'
import { COPY_NAME, copyFrom, replaceByCopy } from './file-copy.ts'
import type { OpenFiles } from './open-files.ts'
import { ProducerState, readSnapshot, snapshotOffsets } from './producer-state.ts'
import { locate } from './salvage.ts'
import { findBatch, scan } from './scan.ts'
import { Segment, segmentName, segmentOffset } from './segment.ts'
import { LEADER_EPOCH } from './select.ts'
import { settleLeftovers } from './swap.ts'

/** What is known of a segment at the place where its walk ends. */
export interface CrashFacts {
  /** The file ends before the position that the checkpoint calls durable. */
  readonly short: boolean
  /** The segment does not begin where the one before it ended. */
  readonly misplaced: boolean
  /** The walk met something that is no good batch with the offset that was due. */
  readonly damaged: boolean
  /** A good batch lies somewhere behind that place. */
  readonly goodBehind: boolean
}

export interface CrashCase {
  readonly name: string
  /** How things came to this. */
  readonly cause: string
  readonly when: (facts: CrashFacts) => boolean
  /** keep: as it is. cut: remove what lies behind. cut-aside: the same, but a copy is kept. restart: go on in a new segment. orphan: set the file aside. */
  readonly action: 'keep' | 'cut' | 'cut-aside' | 'restart' | 'orphan'
  /** Whether people should hear of it: a warning, or the ordinary end of a process that was killed. */
  readonly severity: 'none' | 'note' | 'warning'
}

export const crashCases: readonly CrashCase[] = [
  {
    name: 'whole',
    cause: 'a clean stop, or a crash between two writes',
    when: facts => !facts.misplaced && !facts.short && !facts.damaged,
    action: 'keep',
    severity: 'none',
  },
  {
    name: 'torn-tail',
    cause:
      'a crash in the middle of the last write, or before it was synced: nobody was told that it was stored',
    when: facts => !facts.misplaced && !facts.short && facts.damaged && !facts.goodBehind,
    action: 'cut',
    severity: 'note',
  },
  {
    name: 'lost-in-the-middle',
    cause:
      'a power cut kept a later write and lost an earlier one, none of them synced; or durable data was damaged since',
    when: facts => !facts.misplaced && !facts.short && facts.damaged && facts.goodBehind,
    action: 'cut-aside',
    severity: 'warning',
  },
  {
    name: 'short-file',
    cause: 'somebody or something shortened a file that was durable; offsets are not given out a second time',
    when: facts => !facts.misplaced && facts.short,
    action: 'restart',
    severity: 'warning',
  },
  {
    name: 'orphan-segment',
    cause: 'a power cut kept a new segment and lost the end of the one before it, neither synced',
    when: facts => facts.misplaced,
    action: 'orphan',
    severity: 'warning',
  },
]

export function crashCaseOf(facts: CrashFacts): CrashCase {
  return crashCases.find(candidate => candidate.when(facts))!
}

/** One thing that recovery did or found. */
export interface RecoveryReport {
  readonly case: string
  readonly severity: 'note' | 'warning'
  readonly file: string
  readonly position: number
  /** Bytes that were cut, or are missing. */
  readonly bytes: number
  readonly message: string
}

export interface Recovered {
  /** Ascending, never empty. */
  readonly segments: Segment[]
  readonly startOffset: number
  readonly endOffset: number
  /** What is certainly durable; the rest was found and must be synced before anybody is told of it. */
  readonly durableOffset: number
  readonly producers: ProducerState
  readonly reports: RecoveryReport[]
  /** Segments with this base offset and later ones may hold what is not durable; before it nothing was looked at. */
  readonly walkedFrom: number
  /** Where the next compaction begins. */
  readonly cleanedUntil: number
  /** There has never been a record, nor a checkpoint. */
  readonly isNew: boolean
  /** A mark of a failed sync was found; to be taken away once everything is durable. */
  readonly syncFailed: boolean
}

interface Walk {
  readonly disk: Disk
  readonly directory: string
  readonly indexIntervalBytes: number
  readonly producers: ProducerState
  readonly reports: RecoveryReport[]
  /** Called before what it speaks of is done: after a crash in between, nobody would know of it. */
  report(report: RecoveryReport): void
}

/** Opens the log in `directory`, making it if it is empty. `onReport` is told of things as they come up. Rejects with DiskError. */
export async function recover(
  disk: Disk,
  files: OpenFiles,
  directory: string,
  indexIntervalBytes: number,
  onReport: (report: RecoveryReport) => void,
): Promise<Recovered> {
  disk.makeDirectory(directory)
  const names = new Set(disk.list(directory))
  const reports: RecoveryReport[] = []
  const report = (found: RecoveryReport): void => {
    reports.push(found)
    onReport(found)
  }
  const walk: Walk = { disk, directory, indexIntervalBytes, producers: new ProducerState(), reports, report }
  try {
    return await recoverFiles(walk, files, names)
  } catch (error) {
    for (const name of names) files.close(`${directory}/${name}`)
    throw error
  }
}

async function recoverFiles(walk: Walk, files: OpenFiles, names: Set<string>): Promise<Recovered> {
  const { disk, directory } = walk
  const found = readCheckpoint(disk, directory)
  const checkpoint = found === 'damaged' ? null : found
  const startOffset = checkpoint?.startOffset ?? 0
  const syncFailed = names.has(MARKED_NAME)
  if (await settleCompaction(walk, files, syncFailed)) {
    names.clear()
    for (const name of disk.list(directory)) names.add(name)
  }
  if (syncFailed) await rewriteFrom(walk, names, checkpoint)
  const segments = listSegments(walk, files, names, startOffset)
  // The first checkpoint is written before the first append: without one there is nothing, unless somebody removed it.
  const isNew = found === null && segments.every(segment => segment.baseOffset === 0 && segment.size === 0)
  // Left by an attempt that failed before the first checkpoint, perhaps in a sync: made anew, so that the next sync covers it.
  if (isNew) for (const segment of segments.splice(0)) segment.remove()
  if (checkpoint === null && !isNew) reportCheckpoint(walk, found === null ? 'gone' : 'damaged')
  const known = checkpoint ?? beginning(segments)
  const producersFrom = loadProducers(walk, names, known)

  const kept = segments.filter(segment => segment.baseOffset < known.segment)
  const current = segments.find(segment => segment.baseOffset === known.segment)
  replayProducers(walk, [...kept, ...(current === undefined ? [] : [current])], producersFrom, known)
  let endOffset = await walkFirst(walk, kept, current, known)
  // Unless all of it was deleted, and the file went with a segment that came later.
  if (current === undefined && known.position > 0 && known.offset > startOffset) reportMissing(walk, known)
  for (const segment of segments) {
    if (segment.baseOffset <= known.segment) continue
    endOffset = await walkLater(walk, kept, segment, endOffset)
  }
  // Closed before the crash, but their index entries went with it.
  for (const segment of kept.slice(0, -1)) if (segment.baseOffset >= known.segment) segment.seal()
  // Nothing, or nothing that is known to end at endOffset: the log goes on in a new segment.
  const last = kept.at(-1)
  const isShort = walk.reports.some(report => report.case === 'short-file')
  if (last === undefined || last.baseOffset < known.segment || (isShort && last.baseOffset !== endOffset)) {
    kept.push(Segment.create(disk, files, directory, endOffset))
  }
  return {
    segments: kept,
    startOffset: Math.max(startOffset, checkpoint === null ? kept[0].baseOffset : 0),
    endOffset,
    durableOffset: Math.min(known.offset, endOffset),
    producers: walk.producers,
    reports: walk.reports,
    walkedFrom: known.segment,
    cleanedUntil: checkpoint?.cleanedUntil ?? 0,
    isNew,
    syncFailed,
  }
}

/** What a crash left of a compaction is finished or taken back, before anything else is looked at. */
function settleCompaction(walk: Walk, files: OpenFiles, syncFailed: boolean): Promise<boolean> {
  const { disk, directory, indexIntervalBytes } = walk
  const onDamage = (file: string, position: number, wrong: string): void => {
    const message = `${file}: ${wrong} at position ${position}, in a compacted segment that was not in place yet`
    walk.report({ case: 'damaged-swap', severity: 'warning', file, position, bytes: 0, message })
  }
  return settleLeftovers({ disk, files, directory, indexIntervalBytes, syncFailed, onDamage })
}

/** The segments that still count. What a crash left of others is removed. */
function listSegments(walk: Walk, files: OpenFiles, names: Set<string>, startOffset: number): Segment[] {
  const { disk, directory } = walk
  const offsets = [...names].map(segmentOffset).filter(offset => offset >= 0)
  offsets.sort((a, b) => a - b)
  const segments: Segment[] = []
  for (const [index, offset] of offsets.entries()) {
    const segment = new Segment(disk, files, directory, offset, names)
    // Deleted by retention, which moves the start offset durably before it removes files.
    if (index + 1 < offsets.length && offsets[index + 1] <= startOffset) segment.remove()
    else segments.push(segment)
  }
  disk.remove(`${directory}/${COPY_NAME}`)
  for (const name of names) {
    const log = /^(\d{20})\.(index|timeindex|txnindex)$/.exec(name)?.[1]
    // It would be taken for that of a new segment with the same name.
    if (log !== undefined && !names.has(`${log}.log`)) disk.remove(`${directory}/${name}`)
  }
  return segments
}

/** Without a checkpoint everything is walked from the start of the first segment. */
const beginning = (segments: readonly Segment[]): Checkpoint => {
  const offset = segments[0]?.baseOffset ?? 0
  return {
    startOffset: offset,
    offset,
    segment: offset,
    position: 0,
    maxTimestamp: -1,
    maxTimestampOffset: -1,
    producers: -1,
  }
}

/** Walks the segment in which the checkpoint lies, from there on. Returns the offset that is due next. */
async function walkFirst(
  walk: Walk,
  kept: Segment[],
  segment: Segment | undefined,
  known: Checkpoint,
): Promise<number> {
  if (segment === undefined) return known.offset
  segment.cutIndexes(known.position)
  segment.aborted.keep(known.aborted ?? 0)
  if (known.position > 0) segment.restoreMaxTimestamp(known.maxTimestamp, known.maxTimestampOffset)
  kept.push(segment)
  if (segment.size < known.position) {
    await settle(
      walk,
      segment,
      { short: true, misplaced: false, damaged: false, goodBehind: false },
      {
        position: segment.size,
        bytes: known.position - segment.size,
        what: `the file ends at ${segment.size}, ${known.position} bytes were durable`,
      },
    )
    return known.offset
  }
  return walkBatches(walk, segment, known.position, known.offset)
}

async function walkLater(walk: Walk, kept: Segment[], segment: Segment, due: number): Promise<number> {
  if (segment.baseOffset !== due) {
    await settle(
      walk,
      segment,
      { short: false, misplaced: true, damaged: false, goodBehind: false },
      {
        position: 0,
        bytes: segment.size,
        what: `it begins at offset ${segment.baseOffset}, the one before ended at ${due}`,
      },
    )
    return due
  }
  kept.push(segment)
  segment.cutIndexes(0)
  segment.aborted.keep(0)
  return walkBatches(walk, segment, 0, due)
}

async function walkBatches(walk: Walk, segment: Segment, position: number, due: number): Promise<number> {
  const file = segment.file
  let wrong: string | null = null
  let end = position
  let next = due
  for (const found of scan(file, position)) {
    wrong = found.wrong
    if (wrong === null && baseOffset(found.bytes, found.at) !== next) {
      wrong = `offset ${baseOffset(found.bytes, found.at)} where ${next} is due`
    } else if (wrong === null && leaderEpoch(found.bytes, found.at) !== LEADER_EPOCH) {
      wrong = 'a leader epoch that the log never wrote'
    }
    if (wrong !== null) break
    segment.note(found.bytes, found.at, found.batchBytes, found.position, walk.indexIntervalBytes)
    noteProducer(walk.producers, found.bytes, found.at, segment)
    next = lastOffset(found.bytes, found.at) + 1
    end = found.position + found.batchBytes
  }
  const goodBehind = wrong !== null && findBatch(file, end, next, Number.MAX_SAFE_INTEGER) !== null
  await settle(
    walk,
    segment,
    { short: false, misplaced: false, damaged: wrong !== null, goodBehind },
    {
      position: end,
      bytes: segment.size - end,
      what: wrong ?? '',
    },
  )
  return next
}

/** `segment`: gets the entry of an aborted transaction; null if it has it already. */
function noteProducer(producers: ProducerState, bytes: Buffer, at: number, segment: Segment | null): void {
  const id = producerId(bytes, at)
  if (id < 0) return
  const offset = baseOffset(bytes, at)
  if (!isControl(bytes, at)) {
    producers.note(bytes, at, offset)
    return
  }
  const ended = producers.noteMarker(id, producerEpoch(bytes, at), offset, maxTimestamp(bytes, at))
  if (ended === null || segment === null || isCommitMarker(bytes, at)) return
  segment.aborted.append({ ...ended, lastStableOffset: Math.min(producers.firstUnstableOffset, offset + 1) })
}

/** Does what the case asks for. */
async function settle(
  walk: Walk,
  segment: Segment,
  facts: CrashFacts,
  found: { position: number; bytes: number; what: string },
): Promise<void> {
  const crashCase = crashCaseOf(facts)
  const { name, severity } = crashCase
  if (severity !== 'none') {
    const { position, bytes } = found
    const message = `${segment.path}: ${found.what} at position ${position} (${bytes} bytes; ${crashCase.cause})`
    walk.report({ case: name, severity, file: segment.path, position, bytes, message })
  }
  switch (crashCase.action) {
    case 'keep':
    case 'restart':
      break
    case 'cut-aside':
      await setAside(walk, segment.file, found.position)
      segment.truncate(found.position)
      break
    case 'cut':
      segment.truncate(found.position)
      break
    case 'orphan':
      walk.disk.rename(segment.path, segment.path + ORPHAN)
      segment.remove()
      break
  }
}

/** Durable once resolved: the original is cut after that. */
async function setAside(walk: Walk, file: DiskFile, position: number): Promise<void> {
  await copyFrom(walk.disk, file, position, `${file.path}.cut-${position}`)
  await walk.disk.syncDirectory(walk.directory)
}

const ORPHAN = '.orphan'

/**
 * Puts copies in the place of the checkpoint and of all segments that it does not call durable, so that what the process sees is what
 * the disk gets.
 */
async function rewriteFrom(walk: Walk, names: Set<string>, checkpoint: Checkpoint | null): Promise<void> {
  const { disk, directory } = walk
  const base = checkpoint?.segment ?? 0
  // Segments go by its word: an older one that came back after they have gone would call for them.
  if (checkpoint !== null) await writeCheckpoint(disk, directory, checkpoint)
  for (const name of names) if (segmentOffset(name) >= base) await replaceByCopy(disk, directory, name)
  for (const name of names) {
    // If it was the sync of the folder, what was set aside may come back under its old name: done again, so that it is synced. A
    // crash in between is no harm, as it would be set aside once more; before the checkpoint it was synced, and would not.
    const orphan = name.endsWith(ORPHAN) ? name.slice(0, -ORPHAN.length) : ''
    if (segmentOffset(orphan) <= base || names.has(orphan)) continue
    disk.rename(`${directory}/${name}`, `${directory}/${orphan}`)
    disk.rename(`${directory}/${orphan}`, `${directory}/${name}`)
  }
  await disk.syncDirectory(directory)
  const file = `${directory}/${MARKED_NAME}`
  const message = `${directory}: a sync failed when it was last open; what was not known to be durable was written again`
  walk.report({ case: 'sync-failed', severity: 'warning', file, position: 0, bytes: 0, message })
}

function reportCheckpoint(walk: Walk, what: 'damaged' | 'gone'): void {
  const file = `${walk.directory}/${CHECKPOINT_NAME}`
  const message = `${file} is ${what}: everything is walked, and deleted records that are still stored are back`
  walk.report({ case: 'no-checkpoint', severity: 'warning', file, position: 0, bytes: 0, message })
}

function reportMissing(walk: Walk, known: Checkpoint): void {
  const file = `${walk.directory}/${segmentName(known.segment, 'log')}`
  walk.report({
    case: 'short-file',
    severity: 'warning',
    file,
    position: 0,
    bytes: known.position,
    message: `${file}: the file is gone, ${known.position} bytes of it were durable`,
  })
}

/** Loads the newest good snapshot that is not newer than the checkpoint. Returns the offset from which batches are to be replayed. */
function loadProducers(walk: Walk, names: Set<string>, known: Checkpoint): number {
  const snapshots = snapshotOffsets(names).sort((a, b) => b - a)
  for (const snapshot of snapshots) {
    if (snapshot > known.offset) walk.disk.remove(`${walk.directory}/${segmentName(snapshot, 'snapshot')}`)
  }
  if (known.producers === 0) return known.offset
  for (const snapshot of snapshots) {
    if (snapshot <= known.offset && readSnapshot(walk.disk, walk.directory, snapshot, walk.producers))
      return snapshot
  }
  return 0
}

/** Notes the producers' batches between the snapshot and the checkpoint; there are none after a clean stop. */
function replayProducers(walk: Walk, segments: readonly Segment[], from: number, known: Checkpoint): void {
  if (from >= known.offset) return
  for (const [index, segment] of segments.entries()) {
    const next = segments[index + 1]
    if (next !== undefined && next.baseOffset <= from) continue
    const end = segment.baseOffset === known.segment ? Math.min(known.position, segment.size) : segment.size
    const located = locate(
      segment.file,
      segment.baseOffset,
      next?.baseOffset ?? known.offset,
      Math.max(from, segment.baseOffset),
    )
    for (const found of scan(segment.file, located.position, end)) {
      if (found.wrong !== null) break
      const base = baseOffset(found.bytes, found.at)
      if (base >= from) noteProducer(walk.producers, found.bytes, found.at, null)
    }
  }
}
