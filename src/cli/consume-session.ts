/**
 * One run of `sluice consume`: consumers whose batches go to standard output.
 *
 * In a group the order matters: messages are written, the system has taken them, then their offsets are committed. A
 * crash in between prints them again; the other order would lose them.
 */

import type { Consumer } from '../delivery/consumer.ts'
import type { Message, MessageBatch } from '../delivery/message.ts'
import type { TopicPartition } from '../engine/engine.ts'
import type { StoredMessage } from '../server/message-json.ts'
import type { MessageOutput } from './message-output.ts'

/** How often it is seen to whether partitions have come to their end without a message to show. */
const POSITION_CHECK_MS = 200

/** Partitions still to read, by `placeOf`, with their ends. */
export type Ends = Map<string, number>

export const placeOf = ({ topic, partition }: TopicPartition): string => `${topic}/${partition}`

export class ConsumeSession {
  readonly #output: MessageOutput
  /** null: there is no end. */
  readonly #ends: Ends | null
  readonly #finished = Promise.withResolvers<void>()
  /** The consumers take turns at standard output. */
  #turn: Promise<void> = Promise.resolve()

  /** `ends` null: on and on. Takes `ends` over. */
  constructor(output: MessageOutput, ends: Ends | null) {
    this.#output = output
    this.#ends = ends
  }

  /** Whether there is nothing left to do. */
  get isFinished(): boolean {
    return this.#output.isComplete || this.#ends?.size === 0
  }

  /** Resolves at the end, or when interrupted, with the consumers stopped. Rejects with what one of them failed with. */
  async run(consumers: readonly Consumer<string>[], interrupted: AbortSignal): Promise<void> {
    const check = setInterval(() => this.#checkPositions(consumers), POSITION_CHECK_MS)
    interrupted.addEventListener('abort', () => this.#finished.resolve(), { once: true })
    if (interrupted.aborted) this.#finished.resolve()
    const runs = consumers.map(consumer =>
      consumer.runBatch(batch => this.#inTurn(() => this.#take(consumer, batch))),
    )
    try {
      await Promise.race([this.#finished.promise, Promise.all(runs)])
    } finally {
      clearInterval(check)
      await Promise.all(consumers.map(consumer => consumer.stop()))
    }
    // What one failed with while it was being stopped is told, too.
    await Promise.all(runs)
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    const before = this.#turn
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#turn = promise
    await before
    try {
      await work()
    } finally {
      resolve()
    }
  }

  async #take(consumer: Consumer<string>, batch: MessageBatch): Promise<void> {
    if (this.isFinished) return
    const { topic, partition } = batch
    const place = placeOf(batch)
    const end = this.#ends === null ? Number.POSITIVE_INFINITY : (this.#ends.get(place) ?? 0)
    const next = this.#print(batch, end)
    await this.#output.flush()
    if (next > batch.firstOffset && consumer.group !== undefined) {
      await consumer.commit([{ topic, partition, offset: next }])
    }
    if (next >= end) this.#reached(place)
    if (this.isFinished) this.#finished.resolve()
  }

  /** Prints what lies before `end`, as far as --max goes; returns the offset after it. */
  #print(batch: MessageBatch, end: number): number {
    let next = batch.firstOffset
    for (const message of batch) {
      if (this.#output.isComplete || message.offset >= end) return next
      this.#output.add(stored(message))
      next = message.offset + 1
    }
    return batch.lastOffset + 1
  }

  /** The end of a partition may hold no message (markers of transactions): then no batch tells that it was reached. */
  #checkPositions(consumers: readonly Consumer<string>[]): void {
    if (this.#ends === null) return
    for (const consumer of consumers) {
      for (const partition of consumer.assignment()) {
        const end = this.#ends.get(placeOf(partition))
        if (end === undefined || consumer.position(partition) < end) continue
        // In turn: a batch that was handed out is written before its partition counts as read.
        void this.#inTurn(async () => this.#reached(placeOf(partition)))
      }
    }
  }

  #reached(place: string): void {
    this.#ends?.delete(place)
    if (this.isFinished) this.#finished.resolve()
  }
}

const stored = (message: Message): StoredMessage => ({
  topic: message.topic,
  partition: message.partition,
  offset: message.offset,
  timestamp: message.timestamp,
  key: message.keyBytes,
  value: message.valueBytes,
  headers: message.headerList(),
})
