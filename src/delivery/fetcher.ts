/**
 * Fetching for a consumer: one call to the engine at a time, for all partitions that can take a batch. It
 * runs while handlers work, so that the next batch is there when they are done. A partition that becomes able
 * to take more while a call waits for news of others ends that wait, and the next call asks for it too.
 */

import type { Engine, Fetched, FetchPartition, Isolation, TopicPartition } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { PartitionReader } from './partition-reader.ts'

/** What fetching needs from its consumer. */
export interface FetchContext {
  readonly engine: Engine
  readonly clock: Clock
  readonly partitionBytesMax: number
  readonly bufferBytesMax: number
  readonly waitMs: number
  readonly isolation: Isolation
  /** The assigned partitions, now. */
  readers(): readonly PartitionReader[]
  isOver(): boolean
  /** The partition has something to hand out, or an error to meet. */
  arrived(reader: PartitionReader): void
  /** All of a call has arrived. */
  handOut(): void
  /** An error that passes. */
  warn(error: SluiceError): void
  backOff(failures: number): Promise<void>
}

/** Least that a call asks of a partition when the buffer is nearly full. */
const FETCH_BYTES_MIN = 64 * 1024
/** After so long without letting timers and sockets have a turn, it does. */
const TURN_MS_MAX = 10

export class Fetcher {
  readonly #context: FetchContext
  #abort: AbortController | null = null
  #wakeHungry: (() => void) | null = null
  /** Where the next call begins with the partitions: another one each time. */
  #start = 0

  constructor(context: FetchContext) {
    this.#context = context
  }

  /** Fetches until the session is over. Rejects with an error that does not pass. */
  async run(): Promise<void> {
    const { clock, handOut, isOver } = this.#context
    let failures = 0
    let turnStart = clock.monotonic()
    while (!isOver()) {
      const readers = this.#hungry()
      if (readers.length === 0) {
        await this.#hunger()
        continue
      }
      try {
        await this.#fetch(readers)
        failures = 0
      } catch (error) {
        if (isOver()) return
        if (!isRetriable(error)) throw error
        this.#context.warn(error)
        await this.#context.backOff(failures++)
      }
      handOut()
      if (clock.monotonic() - turnStart > TURN_MS_MAX) {
        await new Promise<void>(resolve => clock.defer(resolve))
        turnStart = clock.monotonic()
      }
    }
  }

  /** The partition may be able to take more than the call under way asks for. */
  feed(reader: PartitionReader): void {
    if (reader.hungry && !reader.inFetch) this.wake()
  }

  /** Ends what it waits for, so that it looks again. */
  wake(): void {
    this.#wakeHungry?.()
    this.#abort?.abort()
  }

  async #hunger(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#wakeHungry = resolve
    })
    this.#wakeHungry = null
  }

  /** Partitions to ask for; none while the buffer is full. */
  #hungry(): PartitionReader[] {
    if (this.#room() <= 0) return []
    const readers = this.#context.readers()
    const hungry: PartitionReader[] = []
    for (let index = 0; index < readers.length; index++) {
      const reader = readers[(this.#start + index) % readers.length]
      if (reader.hungry) hungry.push(reader)
    }
    this.#start++
    return hungry
  }

  async #fetch(readers: readonly PartitionReader[]): Promise<void> {
    const { engine, waitMs, isolation } = this.#context
    const wanted: FetchPartition[] = readers.map(({ topic, partition, fetchOffset }) => ({
      topic,
      partition,
      offset: fetchOffset,
    }))
    const partitionBytesMax = this.#shareOf(readers.length)
    for (const reader of readers) reader.inFetch = true
    this.#abort = new AbortController()
    let fetched: readonly Fetched[]
    try {
      const { signal } = this.#abort
      fetched = await engine.fetch(wanted, { partitionBytesMax, waitMs, isolation, signal })
    } finally {
      this.#abort = null
      for (const reader of readers) reader.inFetch = false
    }
    for (let index = 0; index < fetched.length; index++) {
      const part = fetched[index]
      const asked = isSame(wanted[index], part) ? index : wanted.findIndex(other => isSame(other, part))
      const reader = readers[asked]
      // paused, sought elsewhere or taken away in the meantime
      if (!reader.hungry || reader.fetchOffset !== wanted[asked].offset) continue
      await this.#accept(reader, part)
    }
  }

  async #accept(reader: PartitionReader, { batches, error }: Fetched): Promise<void> {
    if (batches.length > 0) {
      reader.accept(batches)
      this.#context.arrived(reader)
    }
    if (error === undefined) return
    if (isRetriable(error)) {
      this.#context.warn(error)
      await this.#context.backOff(0)
    } else {
      reader.error = error
      this.#context.arrived(reader)
    }
  }

  /** What is left of the buffer, shared among those that ask. */
  #shareOf(count: number): number {
    const share = Math.floor(this.#room() / count)
    return Math.min(this.#context.partitionBytesMax, Math.max(FETCH_BYTES_MIN, share))
  }

  #room(): number {
    let room = this.#context.bufferBytesMax
    for (const reader of this.#context.readers()) room -= reader.bufferedBytes
    return room
  }
}

export const isSame = (one: TopicPartition, other: TopicPartition): boolean =>
  one.partition === other.partition && one.topic === other.topic

export const isRetriable = (error: unknown): error is SluiceError =>
  error instanceof SluiceError && error.retriable

/** A transaction of a partition's former owner may be about to end, and most do within milliseconds. */
const SILENT_MS = 5_000

/** Whether somebody should hear of an error that is met by trying again, `forMs` after it was met first. */
export const isWorthTelling = (error: SluiceError, forMs: number): boolean =>
  error.code !== 'UNSTABLE_OFFSET_COMMIT' || forMs >= SILENT_MS
