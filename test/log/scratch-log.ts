/** What the tests of the log share: batches, a clock that is set by hand, disks that count, and a log over any of them. */

import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { type Clock, systemClock } from '../../src/lib/clock.ts'
import type { Disk, DiskFile } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { nodeDisk } from '../../src/lib/disk-node.ts'
import { Log, type LogConfig, type LogOptions } from '../../src/log/log.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { segmentOffset } from '../../src/log/segment.ts'
import { BatchBuilder, type CloseOptions } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'

export const START = Date.UTC(2025, 0, 1)

/** Time stands until it is set; what is deferred or delayed runs as usual. */
export class HandClock implements Clock {
  time = START
  now = (): number => this.time
  monotonic = (): number => this.time - START
  after = systemClock.after
  defer = systemClock.defer
}

export const config: LogConfig = {
  segmentBytesMax: 64 * 1024 * 1024,
  segmentMsMax: 7 * 86_400_000,
  indexIntervalBytes: 4096,
  batchBytesMax: 1024 * 1024,
  appendTime: false,
  retentionMs: -1,
  retentionBytes: -1,
}

export interface Scratch {
  readonly disk: Disk
  readonly directory: string
}

/** An empty folder on a real disk, gone after the test. */
export function onNode(): Scratch {
  const directory = fs.mkdtempSync(join(os.tmpdir(), 'sluice-log-'))
  onTestFinished(() => fs.rmSync(directory, { recursive: true, force: true }))
  return { disk: nodeDisk(), directory: join(directory, 't-0') }
}

export const inMemory = (): Scratch => ({ disk: memoryDisk(), directory: '/t-0' })

export const scratches = [
  ['memory', inMemory],
  ['node', onNode],
] as const

export function openLog(
  scratch: Scratch,
  changes: Partial<LogConfig> = {},
  options: Partial<LogOptions> = {},
): Promise<Log> {
  return Log.open({
    disk: scratch.disk,
    files: new OpenFiles(scratch.disk),
    directory: scratch.directory,
    config: { ...config, ...changes },
    clock: new HandClock(),
    ...options,
  })
}

export interface BatchOptions extends CloseOptions {
  readonly timestamp?: number
}

/** A batch of records with these values. */
export function batchOf(values: readonly (string | Buffer)[], options: BatchOptions = {}): Buffer {
  const builder = new BatchBuilder()
  for (const value of values) builder.append(options.timestamp ?? START, null, value, null)
  return Buffer.from(builder.close(options))
}

/** Appends a batch for each of the values, with that one record. */
export function appendEach(log: Log, values: readonly string[], options: BatchOptions = {}): void {
  for (const value of values) log.append(batchOf([value], options))
}

/** `[offset, value]` of the records in these batches. */
export function recordsIn(batches: Buffer): [number, string][] {
  const cursor = new RecordCursor(batches)
  const found: [number, string][] = []
  while (cursor.next()) {
    const { bytes, valueStart, valueBytes } = cursor
    found.push([cursor.offset, bytes.toString('utf8', valueStart, valueStart + valueBytes)])
  }
  return found
}

/** All that a reader sees, from the start, a few bytes at a time. */
export async function readAll(
  log: Log,
  from = log.startOffset,
  bytesMax = 4096,
): Promise<[number, string][]> {
  const found: [number, string][] = []
  for (let offset = from; offset < log.endOffset; offset = found.at(-1)![0] + 1) {
    found.push(...recordsIn(await log.read(offset, bytesMax)))
  }
  return found.filter(([offset]) => offset >= from)
}

export const values = (count: number, from = 0): string[] =>
  Array.from({ length: count }, (_, index) => `value ${from + index}`)

export interface DiskCall {
  readonly kind: 'read' | 'readNow' | 'write' | 'sync' | 'syncDirectory'
  readonly path: string
  readonly position: number
  readonly bytes: number
}

/** Passes everything on, asks the disk for each read (nothing comes from memory), and writes the calls down. */
export function watchedDisk(inner: Disk): { disk: Disk; calls: DiskCall[] } {
  const calls: DiskCall[] = []
  const note = (kind: DiskCall['kind'], path: string, position = 0, bytes = 0) =>
    calls.push({ kind, path: path.slice(path.lastIndexOf('/') + 1), position, bytes })
  const watch = (file: DiskFile): DiskFile => ({
    path: file.path,
    size: () => file.size(),
    write(bytes, position) {
      note('write', file.path, position, bytes.length)
      file.write(bytes, position)
    },
    async read(position, bytesMax) {
      const bytes = await file.read(position, bytesMax)
      note('read', file.path, position, bytes.length)
      return bytes
    },
    readNow(position, bytesMax) {
      const bytes = file.readNow(position, bytesMax)
      note('readNow', file.path, position, bytes.length)
      return bytes
    },
    sync() {
      note('sync', file.path)
      return file.sync()
    },
    truncate: size => file.truncate(size),
    close: () => file.close(),
  })
  const disk: Disk = {
    kind: inner.kind,
    open: (path, mode) => watch(inner.open(path, mode)),
    list: path => inner.list(path),
    makeDirectory: path => inner.makeDirectory(path),
    rename: (from, to) => inner.rename(from, to),
    remove: path => inner.remove(path),
    syncDirectory(path) {
      note('syncDirectory', path)
      return inner.syncDirectory(path)
    },
    lock: path => inner.lock(path),
  }
  return { disk, calls }
}

/** The bytes of a file of the log. */
export function fileOf({ disk, directory }: Scratch, name: string): Buffer {
  const file = disk.open(`${directory}/${name}`, 'read')
  const parts: Buffer[] = []
  for (let position = 0; position < file.size(); position += parts.at(-1)!.length) {
    parts.push(Buffer.from(file.readNow(position, file.size() - position)))
  }
  file.close()
  return Buffer.concat(parts)
}

/** Replaces a file of the log. */
export function putFile({ disk, directory }: Scratch, name: string, bytes: Buffer): void {
  const file = disk.open(`${directory}/${name}`, 'create')
  file.write(bytes, 0)
  file.close()
}

export const logName = (offset: number): string => `${String(offset).padStart(20, '0')}.log`

/** Where the segments begin. */
export const bases = ({ disk, directory }: Scratch): number[] =>
  disk
    .list(directory)
    .map(segmentOffset)
    .filter(offset => offset >= 0)
