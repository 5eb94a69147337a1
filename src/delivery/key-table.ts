/**
 * A compacted topic of one partition as a table in memory: the last value of each key. It is read as a whole at the start, and from then on
 * follows what is written.
 *
 * Who must know everything that was written before a moment asks `refresh`; `freshAt` says up to when that is so.
 */

import type { Engine } from '../engine/engine.ts'
import { asSluiceError, isSluiceError, type SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { isRetriable } from './fetcher.ts'
import { type Message, MessageBatch } from './message.ts'
import type { AnyTopic } from './topic.ts'

export interface KeyTableSetting<V> {
  readonly engine: Engine
  readonly clock: Clock
  readonly topic: AnyTopic
  /** How long a read waits for news; it wakes at once when there is. */
  readonly waitMs: number
  /** What a message says; undefined: that its key is gone. */
  read(key: string, message: Message<unknown, unknown>): V | undefined
  /** An error that passes. */
  warn(error: SluiceError): void
}

const FETCH_BYTES_MAX = 1024 * 1024
const RETRY_MS_MIN = 50
const RETRY_MS_MAX = 2_000

export class KeyTable<V> {
  readonly #setting: KeyTableSetting<V>
  readonly #values = new Map<string, V>()
  readonly #stopping = new AbortController()
  readonly #reads = new Set<() => void>()
  #offset = 0
  #freshAt = Number.NEGATIVE_INFINITY
  #following: Promise<void> | null = null

  constructor(setting: KeyTableSetting<V>) {
    this.#setting = setting
  }

  get values(): ReadonlyMap<string, V> {
    return this.#values
  }

  /** Everything that was written before this time (of the clock's `now`) is known. */
  get freshAt(): number {
    return this.#freshAt
  }

  /** Forgets a key that nobody will ask for any more. */
  forget(key: string): void {
    this.#values.delete(key)
  }

  /** Reads what there is. Rejects with what reading is refused with, if it does not pass. */
  async start(): Promise<void> {
    const { engine, topic } = this.#setting
    this.#offset = await engine.offsetFor(topic.name, 0, 'earliest')
    this.#following = this.#follow()
    await this.refresh()
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#wakeAll()
    await this.#following
  }

  /** Resolves when everything that was written before is known: true; or after `withinMs`: false. */
  async refresh(withinMs = Number.POSITIVE_INFINITY): Promise<boolean> {
    const { engine, clock, topic } = this.#setting
    const now = clock.now()
    const end = await engine.offsetFor(topic.name, 0, 'latest')
    const deadline = clock.monotonic() + withinMs
    while (this.#offset < end && !this.#stopping.signal.aborted) {
      const remainingMs = deadline - clock.monotonic()
      if (remainingMs <= 0) return false
      await this.#nextRead(remainingMs)
    }
    this.#freshAt = Math.max(this.#freshAt, now)
    return true
  }

  #nextRead(withinMs: number): Promise<void> {
    return new Promise(resolve => {
      const timer =
        withinMs === Number.POSITIVE_INFINITY ? null : this.#setting.clock.after(withinMs, resolve)
      this.#reads.add(() => {
        timer?.cancel()
        resolve()
      })
    })
  }

  #wakeAll(): void {
    const reads = [...this.#reads]
    this.#reads.clear()
    for (const resolve of reads) resolve()
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stopping
    for (let failures = 0; !signal.aborted; ) {
      try {
        await this.#readSome(signal)
        failures = 0
      } catch (error) {
        if (signal.aborted) return
        if (isSluiceError(error, 'OFFSET_OUT_OF_RANGE')) await this.#begin()
        else this.#setting.warn(asSluiceError(error))
        await this.#pause(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures++))
      }
    }
  }

  async #readSome(signal: AbortSignal): Promise<void> {
    const { engine, topic, waitMs } = this.#setting
    const wanted = [{ topic: topic.name, partition: 0, offset: this.#offset }]
    const [fetched] = await engine.fetch(wanted, { partitionBytesMax: FETCH_BYTES_MAX, waitMs, signal })
    if (fetched.error !== undefined) {
      if (fetched.batches.length === 0) throw fetched.error
      if (isRetriable(fetched.error)) this.#setting.warn(fetched.error)
    }
    if (fetched.batches.length === 0) return
    const batch = new MessageBatch<unknown, unknown>({ topic, partition: 0 }, fetched.batches, this.#offset)
    for (const message of batch) this.#take(message)
    this.#offset = batch.lastOffset + 1
    this.#wakeAll()
  }

  #take(message: Message<unknown, unknown>): void {
    const key = message.keyBytes?.toString('utf8')
    if (key === undefined) return
    const value = message.valueBytes === null ? undefined : this.#setting.read(key, message)
    if (value === undefined) this.#values.delete(key)
    else this.#values.set(key, value)
  }

  async #begin(): Promise<void> {
    const { engine, topic } = this.#setting
    this.#values.clear()
    try {
      this.#offset = await engine.offsetFor(topic.name, 0, 'earliest')
    } catch (error) {
      this.#setting.warn(asSluiceError(error))
    }
  }

  #pause(delayMs: number): Promise<void> {
    return new Promise(resolve => {
      this.#setting.clock.after(delayMs, resolve)
      this.#reads.add(resolve)
    })
  }
}
