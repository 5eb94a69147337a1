/**
 * Looking at segment files from outside, for `sluice dump` and `sluice verify`: reads what lies there and says what it is
 * and what is wrong with it. Changes nothing, takes no lock; of a directory that is in use it sees the state of the moment.
 */

import { isSluiceError, SluiceError } from '../errors.ts'
import { type Disk, DiskError } from '../lib/disk.ts'
import {
  attributes,
  BATCH_HEADER_BYTES,
  baseOffset,
  baseSequence,
  compressionOf,
  isControl,
  isTransactional,
  lastOffset,
  leaderEpoch,
  maxTimestamp,
  producerEpoch,
  producerId,
  readInt64,
  recordCount,
} from '../record/batch.ts'
import { compressionTypes } from '../record/builder.ts'
import { RecordCursor } from '../record/cursor.ts'
import { CHECKPOINT_NAME, type Checkpoint, readCheckpoint } from './checkpoint.ts'
import { findBehind } from './salvage.ts'
import { readFully, scan } from './scan.ts'
import { segmentName, segmentOffset } from './segment.ts'

const EMPTY = Buffer.alloc(0)
const compressionNames = Object.keys(compressionTypes)

export interface DumpedRecord {
  readonly offset: number
  readonly timestamp: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly (readonly [string, Buffer | null])[]
}

export interface DumpedBatch {
  readonly kind: 'batch'
  readonly position: number
  readonly bytes: number
  readonly baseOffset: number
  readonly lastOffset: number
  readonly count: number
  readonly leaderEpoch: number
  readonly compression: string
  readonly maxTimestamp: number
  readonly producerId: number
  readonly producerEpoch: number
  readonly baseSequence: number
  readonly transactional: boolean
  readonly control: boolean
  readonly attributes: number
  /** Only if asked for. */
  readonly records?: readonly DumpedRecord[]
}

export interface DumpedDamage {
  readonly kind: 'damage'
  readonly position: number
  readonly wrong: string
  /** Where the next good batch lies; -1 if there is none. */
  readonly resumesAt: number
}

export interface DumpedEntry {
  readonly kind: 'offset-entry' | 'time-entry'
  readonly offset: number
  /** Position in the log (offset index), or timestamp in ms (time index). */
  readonly value: number
}

export type DumpLine = DumpedBatch | DumpedDamage | DumpedEntry

/**
 * What a `.log`, `.index` or `.timeindex` file holds, in order. Damage in a log is one line, and the dump goes on
 * behind it. Throws FOREIGN_FILE if the name is none of these, or if a log holds not one good batch.
 */
export function* dumpFile(disk: Disk, path: string, options: { records: boolean }): Generator<DumpLine> {
  const name = path.slice(path.lastIndexOf('/') + 1)
  const match = /^(\d{20})\.(log|index|timeindex)$/.exec(name)
  if (match === null) {
    throw new SluiceError(
      'FOREIGN_FILE',
      `${path}: not the name of a segment file (20 digits and .log, .index or .timeindex)`,
      {
        file: path,
      },
    )
  }
  const base = Number(match[1])
  if (match[2] === 'log') yield* dumpLog(disk, path, base, options)
  else yield* dumpIndex(disk, path, base, match[2])
}

function* dumpLog(
  disk: Disk,
  path: string,
  base: number,
  options: { records: boolean },
): Generator<DumpLine> {
  const file = disk.open(path, 'read')
  try {
    let position = 0
    let due = base
    let good = 0
    while (position < file.size()) {
      let wrong: string | null = null
      for (const found of scan(file, position)) {
        position = found.position
        wrong = found.wrong
        if (wrong !== null) break
        good++
        due = lastOffset(found.bytes, found.at) + 1
        position += found.batchBytes
        const { bytes, at, batchBytes } = found
        const batch = describeBatch(bytes, at, batchBytes, found.position)
        if (options.records) yield* dumpRecords(batch, bytes.subarray(at, at + batchBytes))
        else yield batch
      }
      if (wrong === null) break
      const next = findBehind(file, position, due, null)
      if (next === null && good === 0) {
        throw new SluiceError(
          'FOREIGN_FILE',
          `${path}: holds no record batch (${wrong} at position ${position})`,
          {
            file: path,
            position,
          },
        )
      }
      yield { kind: 'damage', position, wrong, resumesAt: next?.position ?? -1 }
      if (next === null) break
      position = next.position
    }
  } finally {
    file.close()
  }
}

function describeBatch(bytes: Buffer, at: number, length: number, position: number): DumpedBatch {
  return {
    kind: 'batch',
    position,
    bytes: length,
    baseOffset: baseOffset(bytes, at),
    lastOffset: lastOffset(bytes, at),
    count: recordCount(bytes, at),
    leaderEpoch: leaderEpoch(bytes, at),
    compression: compressionNames[compressionOf(bytes, at)] ?? 'unknown',
    maxTimestamp: maxTimestamp(bytes, at),
    producerId: producerId(bytes, at),
    producerEpoch: producerEpoch(bytes, at),
    baseSequence: baseSequence(bytes, at),
    transactional: isTransactional(bytes, at),
    control: isControl(bytes, at),
    attributes: attributes(bytes, at),
  }
}

/** The batch with its records; without them, and with a line of damage, if they are malformed under a good checksum. */
function* dumpRecords(batch: DumpedBatch, bytes: Buffer): Generator<DumpLine> {
  const records: DumpedRecord[] = []
  const cursor = new RecordCursor(bytes)
  const slice = (start: number, length: number): Buffer | null =>
    length < 0 ? null : cursor.bytes.subarray(start, start + length)
  try {
    while (cursor.next()) {
      records.push({
        offset: cursor.offset,
        timestamp: cursor.timestamp,
        key: slice(cursor.keyStart, cursor.keyBytes),
        value: slice(cursor.valueStart, cursor.valueBytes),
        headers: cursor.headers(),
      })
    }
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error
    yield batch
    yield {
      kind: 'damage',
      position: batch.position,
      wrong: error.message,
      resumesAt: batch.position + batch.bytes,
    }
    return
  }
  yield { ...batch, records }
}

function* dumpIndex(disk: Disk, path: string, base: number, suffix: string): Generator<DumpedEntry> {
  const file = disk.open(path, 'read')
  const entryBytes = suffix === 'index' ? 8 : 12
  try {
    for (let at = 0; at + entryBytes <= file.size(); at += entryBytes) {
      const entry = readFully(file, at, entryBytes)
      if (suffix === 'index')
        yield { kind: 'offset-entry', offset: base + entry.readInt32BE(0), value: entry.readInt32BE(4) }
      else yield { kind: 'time-entry', offset: base + entry.readInt32BE(8), value: readInt64(entry, 0) }
    }
  } finally {
    file.close()
  }
}

export interface LogFinding {
  readonly severity: 'error' | 'note'
  readonly file: string
  readonly position: number
  readonly message: string
}

export interface LogVerification {
  readonly directory: string
  readonly segments: number
  readonly batches: number
  readonly records: number
  readonly bytes: number
  readonly startOffset: number
  readonly endOffset: number
  readonly findings: readonly LogFinding[]
}

/**
 * Checks every byte of a log: checksums, records (decompressed), dense offsets over all segments, indexes that agree
 * with their segment, and what the checkpoint promises. An incomplete last batch is a note: recovery cuts it at the next start.
 */
export function verifyLog(disk: Disk, directory: string): LogVerification {
  const names = disk.list(directory)
  const findings: LogFinding[] = []
  const totals = { segments: 0, batches: 0, records: 0, bytes: 0 }
  const found = readCheckpoint(disk, directory)
  const checkpoint = found === 'damaged' ? null : found
  if (found === 'damaged') {
    findings.push({
      severity: 'error',
      file: `${directory}/${CHECKPOINT_NAME}`,
      position: 0,
      message: 'the checkpoint is damaged',
    })
  }
  const bases = names.map(segmentOffset).filter(offset => offset >= 0)
  let due = -1
  for (const [index, base] of bases.entries()) {
    const path = `${directory}/${segmentName(base, 'log')}`
    if (due >= 0 && base !== due) {
      findings.push({
        severity: 'error',
        file: path,
        position: 0,
        message: `begins at offset ${base}, ${due} is due`,
      })
    }
    due = verifySegment(disk, path, base, index === bases.length - 1, checkpoint, totals, findings)
    totals.segments++
    verifyOffsetIndex(disk, directory, base, names, findings)
    verifyTimeIndex(disk, directory, base, names, findings)
  }
  for (const name of names) {
    if (/\.(cut-\d+|orphan)$/.test(name)) {
      findings.push({
        severity: 'note',
        file: `${directory}/${name}`,
        position: 0,
        message: 'set aside by an earlier recovery',
      })
    }
  }
  const startOffset = checkpoint?.startOffset ?? bases[0] ?? 0
  const endOffset = Math.max(due, startOffset)
  const lost = (from: number, to: number): void => {
    const message = `the segment with the offsets from ${from} to ${to - 1} is missing`
    findings.push({ severity: 'error', file: directory, position: 0, message })
  }
  if (bases.length > 0 && bases[0] > startOffset) lost(startOffset, bases[0])
  if (checkpoint !== null && !bases.includes(checkpoint.segment) && endOffset < checkpoint.offset) {
    lost(endOffset, checkpoint.offset)
  }
  return { directory, ...totals, startOffset, endOffset, findings }
}

function verifySegment(
  disk: Disk,
  path: string,
  base: number,
  isLast: boolean,
  checkpoint: Checkpoint | null,
  totals: { batches: number; records: number; bytes: number },
  findings: LogFinding[],
): number {
  let due = base
  const report = (severity: 'error' | 'note', position: number, message: string): void => {
    findings.push({ severity, file: path, position, message })
  }
  const file = disk.open(path, 'read')
  const size = file.size()
  file.close()
  totals.bytes += size
  const durable =
    checkpoint === null || base > checkpoint.segment
      ? 0
      : base < checkpoint.segment
        ? size
        : checkpoint.position
  if (size < durable) report('error', size, `the file ends here, ${durable} bytes were durable`)
  try {
    if (size === 0) return due
    for (const line of dumpLog(disk, path, base, { records: true })) {
      if (line.kind === 'damage') {
        const tail = isLast && line.resumesAt < 0 && line.position >= durable
        report(
          tail ? 'note' : 'error',
          line.position,
          tail ? `incomplete last write: ${line.wrong}` : line.wrong,
        )
      } else if (line.kind === 'batch') {
        if (line.baseOffset !== due)
          report('error', line.position, `offset ${line.baseOffset} where ${due} is due`)
        if (!line.control && line.records !== undefined && line.records.length !== line.count) {
          report('error', line.position, `${line.records.length} records instead of ${line.count}`)
        }
        due = line.lastOffset + 1
        totals.batches++
        totals.records += line.count
      }
    }
  } catch (error) {
    if (!(error instanceof SluiceError || error instanceof DiskError)) throw error
    const tail = isLast && durable === 0 && isSluiceError(error, 'FOREIGN_FILE')
    report(tail ? 'note' : 'error', 0, tail ? 'incomplete first write' : error.message)
  }
  return due
}

function verifyOffsetIndex(
  disk: Disk,
  directory: string,
  base: number,
  names: string[],
  findings: LogFinding[],
): void {
  const name = segmentName(base, 'index')
  if (!names.includes(name)) return
  const log = disk.open(`${directory}/${segmentName(base, 'log')}`, 'read')
  let before: DumpedEntry | null = null
  try {
    for (const entry of dumpIndex(disk, `${directory}/${name}`, base, 'index')) {
      const header = entry.value < 0 ? EMPTY : readFully(log, entry.value, BATCH_HEADER_BYTES)
      const wrong =
        before !== null && (entry.offset <= before.offset || entry.value <= before.value)
          ? 'entries out of order'
          : header.length < BATCH_HEADER_BYTES || lastOffset(header, 0) !== entry.offset
            ? 'entry points beside a batch'
            : null
      if (wrong !== null) {
        findings.push({
          severity: 'note',
          file: `${directory}/${name}`,
          position: entry.value,
          message: `${wrong} (offset ${entry.offset})`,
        })
        return
      }
      before = entry
    }
  } finally {
    log.close()
  }
}

function verifyTimeIndex(
  disk: Disk,
  directory: string,
  base: number,
  names: string[],
  findings: LogFinding[],
): void {
  const name = segmentName(base, 'timeindex')
  if (!names.includes(name)) return
  let before: DumpedEntry | null = null
  for (const entry of dumpIndex(disk, `${directory}/${name}`, base, 'timeindex')) {
    if (before !== null && (entry.offset <= before.offset || entry.value <= before.value)) {
      findings.push({
        severity: 'note',
        file: `${directory}/${name}`,
        position: 0,
        message: `entries out of order (offset ${entry.offset})`,
      })
      return
    }
    before = entry
  }
}
