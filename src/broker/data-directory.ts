/**
 * The data directory: its marker, its lock and where things lie in it.
 *
 *   sluice.json            { "format": 1, "id": …, "created": … }: says that the directory is ours, and how to read it
 *   lock, lock.holder      taken while a process has it open, and by whom
 *   topics/orders-0/       one folder per partition: segments, indexes, checkpoint, producer snapshots
 *   topics/__catalog-0/    the broker's own logs are partitions like others
 */

import { randomUUID } from 'node:crypto'
import { dirname } from 'node:path'
import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { type Disk, DiskError } from '../lib/disk.ts'

const MARKER = 'sluice.json'
const FORMAT = 1
const MARKER_BYTES_MAX = 64 * 1024

export class DataDirectory {
  readonly path: string
  /** Given once, when the directory was made. */
  readonly id: string
  readonly #disk: Disk
  readonly #unlock: () => void

  /**
   * Takes the directory for this process, making it if it is missing or empty. Throws DIRECTORY_IN_USE and
   * NOT_A_DATA_DIRECTORY; then nothing in it has been changed.
   */
  static async open(disk: Disk, path: string, clock: Clock): Promise<DataDirectory> {
    const names = foreseen(() => disk.list(path), path)
    const isNew = names.length === 0
    if (!names.includes(MARKER) && names.some(name => name !== 'lock' && !name.startsWith('lock.'))) {
      throw new SluiceError(
        'NOT_A_DATA_DIRECTORY',
        `${path} holds files but no ${MARKER}: choose an empty or a new directory`,
        { directory: path, files: names.slice(0, 10) },
      )
    }
    foreseen(() => disk.makeDirectory(path), path)
    const unlock = disk.lock(path)
    try {
      const id = disk.list(path).includes(MARKER)
        ? readMarker(disk, path)
        : await writeMarker(disk, path, clock)
      disk.makeDirectory(`${path}/topics`)
      await disk.syncDirectory(path)
      if (isNew) await disk.syncDirectory(dirname(path))
      return new DataDirectory(disk, path, id, unlock)
    } catch (error) {
      unlock()
      throw error
    }
  }

  private constructor(disk: Disk, path: string, id: string, unlock: () => void) {
    this.#disk = disk
    this.path = path
    this.id = id
    this.#unlock = unlock
  }

  partitionDirectory(topic: string, partition: number): string {
    return `${this.path}/topics/${topic}-${partition}`
  }

  /** Names of the partition folders there are, of whatever state. */
  partitionNames(): string[] {
    return this.#disk.list(`${this.path}/topics`)
  }

  /** Resolves when partition folders that were made or removed are durably so. */
  syncTopics(): Promise<void> {
    return this.#disk.syncDirectory(`${this.path}/topics`)
  }

  /** Moves a folder that is in the way of a new partition aside. */
  setAside(topic: string, partition: number, id: string): void {
    const path = this.partitionDirectory(topic, partition)
    this.#disk.rename(path, `${path}.aside-${id}`)
  }

  removePartition(topic: string, partition: number): void {
    this.#disk.remove(this.partitionDirectory(topic, partition))
  }

  close(): void {
    this.#unlock()
  }
}

function readMarker(disk: Disk, path: string): string {
  const file = disk.open(`${path}/${MARKER}`, 'read')
  let text: string
  try {
    text = Buffer.from(file.readNow(0, MARKER_BYTES_MAX)).toString('utf8')
  } finally {
    file.close()
  }
  let marker: { format?: unknown; id?: unknown }
  try {
    marker = JSON.parse(text)
  } catch (error) {
    throw new SluiceError('NOT_A_DATA_DIRECTORY', `${path}/${MARKER} is not JSON`, { directory: path }, error)
  }
  if (marker.format !== FORMAT || typeof marker.id !== 'string') {
    throw new SluiceError(
      'NOT_A_DATA_DIRECTORY',
      `${path} has format ${String(marker.format)}; this version of sluice reads format ${FORMAT}`,
      { directory: path, format: marker.format },
    )
  }
  return marker.id
}

async function writeMarker(disk: Disk, path: string, clock: Clock): Promise<string> {
  const id = randomUUID()
  const marker = { format: FORMAT, id, created: new Date(clock.now()).toISOString() }
  // Written under another name first: a crash leaves a whole marker or none.
  const file = disk.open(`${path}/lock.${MARKER}`, 'create')
  try {
    file.write(Buffer.from(`${JSON.stringify(marker, null, 2)}\n`), 0)
    await file.sync()
  } finally {
    file.close()
  }
  disk.rename(`${path}/lock.${MARKER}`, `${path}/${MARKER}`)
  return id
}

/** A path that is a file, or may not be entered, is no data directory. */
function foreseen<T>(action: () => T, path: string): T {
  try {
    return action()
  } catch (error) {
    if (!(error instanceof DiskError)) throw error
    throw new SluiceError(
      'NOT_A_DATA_DIRECTORY',
      `${path} cannot be used as a data directory: ${error.message}`,
      {
        directory: path,
      },
      error,
    )
  }
}
