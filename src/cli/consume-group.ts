/**
 * Reading as one or more members of a group. The order that matters: messages are written, the system has taken them, then their
 * offsets are committed. A crash in between prints them again; the other order would lose them.
 */

import type { Consumer } from '../delivery/consumer.ts'
import type { Message, MessageBatch } from '../delivery/message.ts'
import type { Sluice } from '../delivery/sluice.ts'
import type { Engine, OffsetSpec } from '../engine/engine.ts'
import type { StoredMessage } from '../server/http/message-json.ts'
import { parseOffsetSpec } from '../server/http/positions.ts'
import type { Output } from './consume.ts'
import type { Context, Invocation } from './context.ts'

/** How often it is seen to whether partitions have come to their end without a message to show. */
const POSITION_CHECK_MS = 200

export async function consumeAsGroup(
  context: Context,
  invocation: Invocation,
  group: string,
  output: Output,
): Promise<void> {
  const topics = invocation.operands
  const from = parseOffsetSpec(invocation.text('from') ?? 'earliest', '--from')
  const interrupted = context.interruption()
  await using sluice = await context.open({ create: false })
  for (const topic of topics) await sluice.engine.describeTopic(topic) // UNKNOWN_TOPIC now, not after joining
  const ends = invocation.has('follow') ? null : await unreadEnds(sluice.engine, group, topics, from)
  if (ends?.size === 0) return
  const session = new GroupSession(output, ends)
  const members = Math.max(1, invocation.number('members') ?? 1)
  await session.run(sluice, { topics, group, from, members }, interrupted)
}

/** Where the partitions end that the group has not read yet, by `topic/partition`. */
async function unreadEnds(
  engine: Engine,
  group: string,
  topics: readonly string[],
  from: OffsetSpec,
): Promise<Map<string, number>> {
  const ends = new Map<string, number>()
  for (const topic of topics) {
    const { partitions } = await engine.describeTopic(topic)
    const places = partitions.map(({ partition }) => ({ topic, partition }))
    const committed = await engine.committed(group, places)
    for (const { partition, startOffset, endOffset } of partitions) {
      const commit = committed.find(entry => entry.partition === partition)
      const start = commit?.offset ?? (await engine.offsetFor(topic, partition, from))
      if (Math.max(start, startOffset) < endOffset) ends.set(`${topic}/${partition}`, endOffset)
    }
  }
  return ends
}

interface Membership {
  readonly topics: readonly string[]
  readonly group: string
  readonly from: OffsetSpec
  readonly members: number
}

class GroupSession {
  readonly #output: Output
  /** Partitions still to read, with their ends; null: there is no end. */
  readonly #ends: Map<string, number> | null
  readonly #finished = Promise.withResolvers<void>()
  /** The members take turns at standard output. */
  #turn: Promise<void> = Promise.resolve()

  constructor(output: Output, ends: Map<string, number> | null) {
    this.#output = output
    this.#ends = ends
  }

  async run(sluice: Sluice, { topics, group, from, members }: Membership, interrupted: AbortSignal): Promise<void> {
    const consumers = Array.from({ length: members }, () =>
      sluice.consumer({ topics: [...topics], group, from, autoCommit: false }),
    )
    const check = setInterval(() => this.#checkPositions(consumers), POSITION_CHECK_MS)
    interrupted.addEventListener('abort', () => this.#finished.resolve(), { once: true })
    if (interrupted.aborted) this.#finished.resolve()
    const runs = consumers.map(consumer => consumer.runBatch(batch => this.#inTurn(() => this.#take(consumer, batch))))
    try {
      await Promise.race([this.#finished.promise, Promise.all(runs)])
    } finally {
      clearInterval(check)
      await Promise.all(consumers.map(consumer => consumer.stop()))
    }
    // What a member failed with while the others were stopped is told, too.
    await Promise.all(runs)
  }

  get #isFinished(): boolean {
    return this.#output.isComplete || this.#ends?.size === 0
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
    if (this.#isFinished) return
    const { topic, partition } = batch
    const end = this.#endOf(topic, partition)
    const next = this.#print(batch, end)
    await this.#output.flush()
    if (next > batch.firstOffset) await consumer.commit([{ topic, partition, offset: next }])
    if (next >= end) this.#ends?.delete(`${topic}/${partition}`)
    if (this.#isFinished) this.#finished.resolve()
  }

  /** Where reading ends in a partition; 0 if it has ended. */
  #endOf(topic: string, partition: number): number {
    return this.#ends === null ? Number.POSITIVE_INFINITY : (this.#ends.get(`${topic}/${partition}`) ?? 0)
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
      for (const { topic, partition } of consumer.assignment()) {
        const end = this.#ends.get(`${topic}/${partition}`)
        const isIdle = end !== undefined && consumer.position({ topic, partition }) >= end
        if (isIdle) void this.#inTurn(async () => this.#reached(`${topic}/${partition}`))
      }
    }
  }

  #reached(place: string): void {
    this.#ends?.delete(place)
    if (this.#isFinished) this.#finished.resolve()
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
