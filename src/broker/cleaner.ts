/**
 * The cleaner: compacts the partitions whose cleanup policy says so, one at a time, the dirtiest first, until none is due; then
 * it rests. What compacting is: `log/compaction.ts`.
 *
 * A partition with damaged records is not compacted again by this process, since what is damaged may be the last value of a key;
 * its owner is told once. Any other failure (no room, a partition that is deleted meanwhile) ends the round; the next one tries again.
 */

import { isSluiceError } from '../errors.ts'
import type { CompactionResult } from '../log/compaction.ts'
import type { RecoveryReport } from '../log/recovery.ts'
import type { Partition } from './partition.ts'

/** `log.cleaner.backoff.ms` */
export const CLEANER_BACKOFF_MS = 15_000

export interface CleanerOptions {
  /** All there are now. */
  readonly partitions: () => Iterable<Partition>
  /** Memory for the keys of one pass, in bytes. Default: see `CompactionOptions.keyMapBytesMax`. */
  readonly keyMapBytesMax?: number | undefined
  readonly onReport: (report: RecoveryReport) => void
}

/** Counters that grow from the start of the process. */
export interface CleanerStats {
  passes: number
  recordsRead: number
  recordsKept: number
  bytesBefore: number
  bytesAfter: number
  /** Passes that failed. */
  failures: number
}

export class Cleaner {
  readonly stats: CleanerStats = {
    passes: 0,
    recordsRead: 0,
    recordsKept: 0,
    bytesBefore: 0,
    bytesAfter: 0,
    failures: 0,
  }
  readonly #options: CleanerOptions
  readonly #damaged = new WeakSet<Partition>()
  #current: Partition | null = null
  #running: Promise<void> = Promise.resolve()
  #stopped = false

  constructor(options: CleanerOptions) {
    this.#options = options
  }

  /** One round, after the one that is under way. Resolves when nothing is due any more, or something failed. */
  run(): Promise<void> {
    this.#running = this.#running.then(() => this.#round())
    return this.#running
  }

  /** Resolves when no compaction is under way, and none will begin. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#current?.log.stopCompaction()
    await this.#running
  }

  async #round(): Promise<void> {
    // A pass that got nowhere is not repeated at once.
    const done = new Set<Partition>()
    for (;;) {
      const partition = this.#stopped ? null : this.#dirtiest(done)
      if (partition === null) return
      this.#current = partition
      try {
        const result = await partition.compact(this.#options.keyMapBytesMax)
        if (result === null || result.isComplete) done.add(partition)
        if (result !== null) this.#count(result)
      } catch (error) {
        done.add(partition)
        this.#refused(partition, error)
      } finally {
        this.#current = null
      }
    }
  }

  #dirtiest(done: ReadonlySet<Partition>): Partition | null {
    let found: Partition | null = null
    let most = -1
    for (const partition of this.#options.partitions()) {
      if (done.has(partition) || this.#damaged.has(partition)) continue
      const ratio = this.#ratioOf(partition)
      if (ratio <= most) continue
      most = ratio
      found = partition
    }
    return found
  }

  #ratioOf(partition: Partition): number {
    try {
      return partition.compactionDue()
    } catch (error) {
      this.#refused(partition, error)
      return -1
    }
  }

  #count(result: CompactionResult): void {
    this.stats.passes++
    this.stats.recordsRead += result.recordsRead
    this.stats.recordsKept += result.recordsKept
    this.stats.bytesBefore += result.bytesBefore
    this.stats.bytesAfter += result.bytesAfter
  }

  #refused(partition: Partition, error: unknown): void {
    if (!isSluiceError(error)) throw error
    if (error.code === 'CLOSED') return
    this.stats.failures++
    if (error.code !== 'CORRUPT_LOG') return
    this.#damaged.add(partition)
    const { file, position = 0 } = error.detail as { file?: string; position?: number }
    this.#options.onReport({
      case: 'not-compacted',
      severity: 'warning',
      file: file ?? partition.log.directory,
      position,
      bytes: 0,
      message: error.message,
    })
  }
}
