/**
 * A partition that a worker holds: what is taken over of its messages, as far as there is room, and the lanes that they stand in.
 *
 *     lane of a key:   job ──▶ job ──▶ job        the first is ready, running or waits for its next attempt; the others wait for it
 *                       ▲               ▲
 *                       head            tail (what the map knows)
 */

import type { TopicPartition } from '../engine/engine.ts'
import type { Job } from './job.ts'
import type { Message, MessageBatch } from './message.ts'
import type { Holding } from './settler.ts'

export class HeldPartition implements TopicPartition {
  readonly topic: string
  readonly partition: number
  readonly holding: Holding
  /** Which of the subscribed topics it is of: those of a lower rank have their turn first. */
  readonly rank: number
  /** Whether its messages have been tried before, and carry their story. */
  readonly isRetry: boolean
  /** Nothing of it is handed out any more. */
  isEnding = false
  /** Taken over and not settled; of these, those that handlers have, and those that are done as soon as something is published. */
  inHand = 0
  running = 0
  settling = 0
  readonly #inHandMax: number
  readonly #admit: (part: HeldPartition, message: Message<unknown, unknown>) => void
  readonly #tails = new Map<string, Job>()
  /** What is left of the batch that is being taken over, where it ends, and who waits for that. */
  #messages: Iterator<Message<unknown, unknown>, undefined> | null = null
  #pending: Message<unknown, unknown> | null = null
  #batchEnd = 0
  #fed: (() => void) | null = null
  #idleWaiters: (() => void)[] = []

  /** `admit` is called for each message that is begun. */
  constructor(
    holding: Holding,
    {
      rank,
      isRetry,
      inHandMax,
      admit,
    }: {
      readonly rank: number
      readonly isRetry: boolean
      readonly inHandMax: number
      admit(part: HeldPartition, message: Message<unknown, unknown>): void
    },
  ) {
    this.topic = holding.topic
    this.partition = holding.partition
    this.holding = holding
    this.rank = rank
    this.isRetry = isRetry
    this.#inHandMax = inHandMax
    this.#admit = admit
  }

  /** Puts the job into its lane. Whether it is the first there. */
  enter(job: Job): boolean {
    const key = job.laneKey
    if (key === null) return true
    const tail = this.#tails.get(key)
    this.#tails.set(key, job)
    if (tail === undefined) return true
    tail.nextInLane = job
    return false
  }

  /** The first of its lane is done: gives the one that is first now. */
  leave(job: Job): Job | null {
    const key = job.laneKey
    if (key === null) return null
    if (job.nextInLane === null) this.#tails.delete(key)
    return job.nextInLane
  }

  /** The next attempt takes the place of the one before. */
  replace(job: Job, next: Job): void {
    const key = job.laneKey
    if (key === null) return
    next.nextInLane = job.nextInLane
    if (this.#tails.get(key) === job) this.#tails.set(key, next)
  }

  /** Takes over what a fetch brought. Resolves when all of it has been begun, or the partition is given up. */
  feed(batch: MessageBatch<unknown, unknown>): Promise<void> {
    this.#messages = batch[Symbol.iterator]()
    this.#batchEnd = batch.lastOffset + 1
    this.#pull()
    if (this.#messages === null) return Promise.resolve()
    return new Promise(resolve => {
      this.#fed = resolve
    })
  }

  /** Up to `next` there is nothing after what was taken over. */
  pass(next: number): void {
    if (this.#messages === null) this.holding.ledger.pass(next)
    else this.#batchEnd = next
  }

  /** One that was in hand is settled, which makes room for another. */
  settled(): void {
    this.inHand--
    if (this.#messages !== null) this.#pull()
  }

  /** Nothing more is begun. What has been begun and not handed out is the next owner's. */
  giveUp(): void {
    this.isEnding = true
    this.#fedUp()
  }

  /** Begins messages as long as there is room, for the batch and in the commit. */
  #pull(): void {
    const { ledger } = this.holding
    const messages = this.#messages as Iterator<Message<unknown, unknown>, undefined>
    while (this.inHand < this.#inHandMax && !this.isEnding) {
      const message = this.#pending ?? messages.next().value
      if (message === undefined) {
        ledger.pass(this.#batchEnd)
        this.#fedUp()
        return
      }
      if (!ledger.hasRoomFor(message.offset)) {
        this.#pending = message
        return
      }
      this.#pending = null
      if (!ledger.begin(message.offset)) continue
      this.inHand++
      this.#admit(this, message)
    }
  }

  #fedUp(): void {
    this.#messages = null
    this.#pending = null
    const fed = this.#fed
    this.#fed = null
    fed?.()
  }

  /** A handler is done, or nobody waits for it any more. */
  ended(): void {
    if (--this.running === 0 && this.#idleWaiters.length > 0) {
      for (const resolve of this.#idleWaiters.splice(0)) resolve()
    }
  }

  /** Resolves when no handler has any of its messages. */
  whenIdle(): Promise<void> {
    return this.running === 0 ? Promise.resolve() : new Promise(resolve => this.#idleWaiters.push(resolve))
  }
}
