/**
 * How many messages a queue holds, for the bound on its length. It is measured by offsets and commits, which takes a call per partition, so what was
 * measured is kept for a moment and what is sent here meanwhile is added.
 */

import type { Engine } from '../engine/engine.ts'
import { isSluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { isSame } from './fetcher.ts'
import { Ledger } from './ledger.ts'

const FRESH_MS = 100

export class QueueLength {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #group: string
  readonly #topics: readonly string[]
  /** -1: not measured yet. */
  #length = -1
  #measuredAt = 0
  /** Sent here and not answered: a measurement may have missed them. */
  #underWay = 0
  #measuring: Promise<void> | null = null

  constructor(engine: Engine, clock: Clock, group: string, topics: readonly string[]) {
    this.#engine = engine
    this.#clock = clock
    this.#group = group
    this.#topics = topics
  }

  /** Whether one more fits below `max`; then it is counted, and `answered` is to be called. */
  async admit(max: number): Promise<boolean> {
    const isFresh = this.#length >= 0 && this.#clock.monotonic() - this.#measuredAt < FRESH_MS
    if (!isFresh || this.#length >= max) await this.#remeasure()
    if (this.#length >= max) return false
    this.#length++
    this.#underWay++
    return true
  }

  answered(): void {
    this.#underWay--
  }

  /** As it is now. */
  async measure(): Promise<number> {
    const commits = await this.#engine.committed(this.#group)
    const lengths = this.#topics.map(async topic => {
      const count = await this.#partitionsOf(topic)
      const partitions = Array.from({ length: count }, (_, partition) => ({ topic, partition }))
      return Promise.all(
        partitions.map(async of => {
          const end = await this.#engine.offsetFor(topic, of.partition, 'latest')
          const commit = commits.find(other => isSame(other, of))
          const start = commit?.offset ?? (await this.#engine.offsetFor(topic, of.partition, 'earliest'))
          const ledger = new Ledger(start, commit?.metadata)
          return Math.max(0, end - ledger.next) + ledger.unfinished
        }),
      )
    })
    return (await Promise.all(lengths)).flat().reduce((sum, length) => sum + length, 0)
  }

  #remeasure(): Promise<void> {
    this.#measuring ??= this.measure()
      .then(length => {
        this.#length = length + this.#underWay
        this.#measuredAt = this.#clock.monotonic()
      })
      .finally(() => {
        this.#measuring = null
      })
    return this.#measuring
  }

  async #partitionsOf(topic: string): Promise<number> {
    try {
      return (await this.#engine.describeTopic(topic)).partitions.length
    } catch (error) {
      if (isSluiceError(error, 'UNKNOWN_TOPIC')) return 0
      throw error
    }
  }
}
