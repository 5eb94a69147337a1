/**
 * Commits of one membership: by hand, and by itself every so often. Commits of a consumer run one after the
 * other, in the order in which they were asked for, so that an older offset never overwrites a newer one.
 */

import type { CommitOffset, Member } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import { isSame } from './fetcher.ts'
import type { PartitionReader } from './partition-reader.ts'

export interface CommitterEvents {
  committed(offsets: readonly CommitOffset[]): void
  /** A commit that nobody waits for has failed. */
  failed(error: SluiceError): void
}

export class Committer {
  readonly #clock: Clock
  /** 0: only by hand. */
  readonly #everyMs: number
  readonly #readers: () => Iterable<PartitionReader>
  readonly #events: CommitterEvents
  #member: Member | null = null
  #timer: Timer | null = null
  #last: Promise<void> = Promise.resolve()

  constructor(
    clock: Clock,
    everyMs: number,
    readers: () => Iterable<PartitionReader>,
    events: CommitterEvents,
  ) {
    this.#clock = clock
    this.#everyMs = everyMs
    this.#readers = readers
    this.#events = events
  }

  get automatic(): boolean {
    return this.#everyMs > 0
  }

  join(member: Member): void {
    this.#member = member
    this.touch()
  }

  leave(): void {
    this.#timer?.cancel()
    this.#timer = null
    this.#member = null
  }

  /** Something has been handled: it will be committed soon. Cheap enough to call per message. */
  touch(): void {
    if (this.#timer !== null || this.#everyMs === 0 || this.#member === null) return
    this.#timer = this.#clock.after(this.#everyMs, () => {
      this.#timer = null
      void this.commitQuietly()
    })
  }

  /**
   * Commits what has been handled in these partitions (default: in all), as far as it is not committed yet.
   */
  async commitHandled(readers: Iterable<PartitionReader> = this.#readers()): Promise<void> {
    const offsets: CommitOffset[] = []
    for (const { topic, partition, handled, committed } of readers) {
      if (handled !== committed) offsets.push({ topic, partition, offset: handled })
    }
    if (offsets.length > 0) await this.commit(offsets)
  }

  /** The same for those who cannot use an error: it becomes an event. What failed for now is tried again. */
  async commitQuietly(readers?: Iterable<PartitionReader>): Promise<void> {
    if (this.#member === null) return
    try {
      await this.commitHandled(readers)
    } catch (error) {
      this.#events.failed(error as SluiceError)
      this.touch()
    }
  }

  commit(offsets: readonly CommitOffset[]): Promise<void> {
    const commit = this.#last.then(() => this.#commit(offsets))
    this.#last = commit.catch(() => {})
    return commit
  }

  async #commit(offsets: readonly CommitOffset[]): Promise<void> {
    if (this.#member === null)
      throw new SluiceError('UNKNOWN_MEMBER', 'the consumer has left its group; nothing can be committed')
    await this.#member.commit(offsets)
    for (const reader of this.#readers()) {
      const commit = offsets.find(offset => isSame(offset, reader))
      if (commit !== undefined) reader.committed = commit.offset
    }
    this.#events.committed(offsets)
  }
}
