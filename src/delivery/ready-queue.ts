/**
 * Jobs that can be handed out now: first what is tried again, because it is older than everything else; then by rank, the lowest first; within a
 * rank in the order in which they came.
 */

import { Fifo } from '../lib/fifo.ts'
import type { HeldPartition } from './held-partition.ts'
import type { Job } from './job.ts'

export class ReadyQueue {
  readonly #again = new Fifo<Job>()
  readonly #ranks: Fifo<Job>[] = []

  get length(): number {
    let length = this.#again.length
    for (const rank of this.#ranks) length += rank.length
    return length
  }

  push(job: Job): void {
    const { rank } = job.part
    while (this.#ranks.length <= rank) this.#ranks.push(new Fifo())
    this.#ranks[rank].push(job)
  }

  /** One that was handed out before. */
  pushAgain(job: Job): void {
    this.#again.push(job)
  }

  shift(): Job | null {
    if (this.#again.length > 0) return this.#again.shift() as Job
    for (const rank of this.#ranks) if (rank.length > 0) return rank.shift() as Job
    return null
  }

  /** The oldest of the highest rank that has any: what is dropped first. */
  shiftLast(): Job | null {
    for (let rank = this.#ranks.length - 1; rank >= 0; rank--) {
      const job = this.#ranks[rank].shift()
      if (job !== undefined) return job
    }
    return this.#again.shift() ?? null
  }

  /** Takes out all of a partition. */
  forget(part: HeldPartition): void {
    for (const fifo of [this.#again, ...this.#ranks]) {
      for (const job of fifo.takeAll()) if (job.part !== part) fifo.push(job)
    }
  }
}
