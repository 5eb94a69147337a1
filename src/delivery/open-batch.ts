/**
 * A batch of the producer on its way from the first record to the answer, together with everybody who waits
 * for that answer: single sends (a promise each), arrays (a part of an `ArrayClaim` each) and posts (a
 * number).
 *
 * Invariant: each of them is told exactly once, by `accept` or `fail`, whichever comes first; the second is
 * ignored. The memory of the builder is a different matter: it belongs to the engine until its call has
 * ended, also after a time-out.
 */

import type { SluiceError } from '../errors.ts'
import type { Timer } from '../lib/clock.ts'
import { BatchBuilder } from '../record/builder.ts'
import type { PartitionWriter } from './partition-writer.ts'
import type { ArrayClaim, Published } from './published.ts'

type MutablePublished = { -readonly [name in keyof Published]: Published[name] }
type Resolve = (published: Published | Promise<never>) => void

/** First memory of a builder. It doubles as it fills; most programs with many partitions never get far. */
const BUILDER_BYTES_INITIAL = 16 * 1024

export class OpenBatch {
  readonly builder = new BatchBuilder(BUILDER_BYTES_INITIAL)
  /** The line that it belongs to. */
  writer: PartitionWriter | null = null
  topic = ''
  partition = 0
  /** When the first record came (monotonic). */
  openedAt = 0
  /** What this batch counts for in the producer's buffer. */
  bufferedBytes = 0
  /** Timestamp of the record placed last. */
  lastTimestamp = 0
  /** Id of the record placed last, if it is delayed. */
  lastDelayId: string | null = null
  /** Whether linger is over: the batch closes as soon as the partition is free. */
  due = false
  lingerTimer: Timer | null = null
  settled = false
  /** Messages without a promise. */
  posted = 0
  #published: MutablePublished[] = []
  #resolves: Resolve[] = []
  #claims: ArrayClaim[] = []
  #claimParts: number[] = []
  #onSettled: (() => void)[] = []

  /** Makes the batch as new, for another partition. The builder keeps its memory. */
  reopen(writer: PartitionWriter, openedAt: number): void {
    this.builder.reset()
    this.writer = writer
    this.topic = writer.topic
    this.partition = writer.partition
    this.openedAt = openedAt
    this.bufferedBytes = 0
    this.due = false
    this.settled = false
    this.posted = 0
    this.lastDelayId = null
    this.#published = []
    this.#resolves = []
    this.#claims = []
    this.#claimParts = []
    this.#onSettled = []
  }

  /** The record placed last belongs to a single send. */
  promise(): Promise<Published> {
    this.#published.push({
      topic: this.topic,
      partition: this.partition,
      offset: this.builder.count - 1, // within the batch, until the base offset is known
      timestamp: this.lastTimestamp,
    })
    if (this.lastDelayId !== null) this.#published[this.#published.length - 1].delayId = this.lastDelayId
    const promise = new Promise<Published>(captureResolve)
    this.#resolves.push(captured)
    return promise
  }

  /** The record placed last is message `index` of an array. */
  claim(claim: ArrayClaim, index: number): void {
    const claims = this.#claims
    const last = claims.length - 1
    if (last < 0 || claims[last] !== claim) {
      this.#claimParts.push(claim.addPart(this.topic, this.partition))
      claims.push(claim)
    }
    claim.place(index, this.#claimParts[claims.length - 1], this.builder.count - 1, this.lastTimestamp)
    if (this.lastDelayId !== null) claim.delayed(index, this.lastDelayId)
  }

  /** Calls `run` when everybody has been told. */
  onSettled(run: () => void): void {
    if (this.settled) run()
    else this.#onSettled.push(run)
  }

  accept(baseOffset: number, appendTime: number): void {
    if (this.settled) return
    this.settled = true
    const published = this.#published
    const resolves = this.#resolves
    for (let index = 0; index < resolves.length; index++) {
      const one = published[index]
      one.offset = baseOffset < 0 ? -1 : baseOffset + one.offset
      if (appendTime >= 0) one.timestamp = appendTime
      resolves[index](one)
    }
    this.#settleRest(baseOffset, appendTime, null)
  }

  fail(error: SluiceError): void {
    if (this.settled) return
    this.settled = true
    if (this.#resolves.length > 0) {
      // one rejected promise for all: each message's promise follows it, and so needs no reject function of
      // its own
      const rejected: Promise<never> = Promise.reject(error)
      for (const resolve of this.#resolves) resolve(rejected)
    }
    this.#settleRest(-1, -1, error)
  }

  #settleRest(baseOffset: number, appendTime: number, error: SluiceError | null): void {
    for (let index = 0; index < this.#claims.length; index++) {
      this.#claims[index].settle(this.#claimParts[index], baseOffset, appendTime, error)
    }
    for (const run of this.#onSettled) run()
  }
}

let captured: Resolve

/**
 * One executor for all promises: it leaves the resolve function where `promise` picks it up, without a
 * closure for each.
 */
function captureResolve(resolve: (published: Published) => void): void {
  captured = resolve as Resolve
}
