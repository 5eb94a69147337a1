/**
 * Tools for the backlog of a group in a topic: what is published and the group has not finished. For a group that is stopped.
 *
 *     committed ─┐                                      ┌─ end
 *                ▼                                      ▼
 *     ✓ ✓ ✓ ✓ ✓  ·  ✓  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·  ·         ✓ finished   · the backlog
 *                └── divert (publish elsewhere and finish) · skip · shed (what is too old) ──▶
 *
 * Invariants:
 * - A diverted message is in the other topic exactly when it is finished for the group: both are one transaction, and of two programs that divert
 *   the same backlog one is fenced. What was interrupted goes on where it was.
 * - What a worker has finished beyond the committed offset, and says so in the commit's metadata, is no backlog; and what is left in place between
 *   diverted messages is written down the same way. Workers and queues know of that; a plain consumer begins at the offset, whatever came of what
 *   follows.
 */

import type { CommitOffset, Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { durationMs } from '../lib/duration.ts'
import { groupLedger } from './group-ledger.ts'
import { Ledger } from './ledger.ts'
import type { Message } from './message.ts'
import { atLeast, invalidOption } from './option.ts'
import { rawTopic } from './raw-topic.ts'
import { type AnyTopic, topicName, topicOf } from './topic.ts'
import { scanPartition } from './topic-scan.ts'
import type { Transaction, TransactionOptions } from './transaction.ts'

export interface DivertOptions {
  /** No more than so many messages. Default: all that are there when it begins. */
  readonly limit?: number
  /** Only these; the others stay where they are. Only for groups of workers or queues: plain consumers would handle all of them. Default: all. */
  readonly where?: (message: Message<unknown, unknown>) => boolean
  /** Ends it between two transactions. */
  readonly signal?: AbortSignal
}

export interface Diverted {
  /** How many messages are in the other topic now. */
  readonly count: number
  /**
   * False: the limit was reached, or the signal came, or a transaction has not decided within a minute about messages that come next, and the next
   * call goes on; or `where` has left so many messages in place that a commit has no room for more until the group has handled some.
   */
  readonly isComplete: boolean
}

/** How far to skip: so many messages of each partition, or everything before a place. */
export type SkipOptions = (
  | { readonly count: number }
  | { readonly to: number | 'latest' | { readonly time: number | Date } }
) & {
  /** Only this partition. Default: all. */
  readonly partition?: number
  /** Only counts. Default false. */
  readonly dryRun?: boolean
}

export interface BacklogSetting {
  readonly engine: Engine
  readonly clock: Clock
  transact<R>(body: (transaction: Transaction) => Promise<R>, options: TransactionOptions): Promise<R>
}

/** Of one transaction. */
const MESSAGES_MAX = 1_000
const BYTES_MAX = 1024 * 1024

/** The backlog of a group in a topic; made by `mq.backlog()`. */
export class Backlog {
  readonly group: string
  readonly topic: string
  readonly #descriptor: AnyTopic
  readonly #setting: BacklogSetting

  /** @internal Throws `INVALID_ARGUMENT`. */
  constructor(group: string, topic: AnyTopic | string, setting: BacklogSetting) {
    if (typeof group !== 'string' || group === '') throw invalidOption('a group has a name')
    this.group = group
    this.#descriptor = topicOf(topic)
    this.topic = this.#descriptor.name
    this.#setting = setting
  }

  /**
   * How many offsets the group has before it, as of now. Offsets without a message, which compaction and transactions leave, are counted. Throws
   * `UNKNOWN_TOPIC`.
   */
  async size(): Promise<number> {
    let size = 0
    for (const partition of await this.#partitions()) {
      const { ledger, end } = await this.#state(partition)
      size += ledger.unfinished + Math.max(0, end - ledger.next)
    }
    return size
  }

  /**
   * Publishes the backlog to another topic, oldest first, with key, value, headers and timestamp, and finishes it for the group; exactly once. Keys
   * keep their order. Throws `GROUP_NOT_EMPTY`, `UNKNOWN_TOPIC`, `UNSUPPORTED` where there are no transactions, `PRODUCER_FENCED` if somebody else
   * has begun to divert it; what was diverted until then stays so.
   */
  async divert(target: AnyTopic | string, options: DivertOptions = {}): Promise<Diverted> {
    const limit = atLeast('limit', options.limit ?? Number.POSITIVE_INFINITY, 1)
    const name = topicName(target)
    if (name === this.topic) throw invalidOption(`a backlog of ${name} is diverted to another topic`)
    let count = 0
    let isComplete = true
    for (const partition of await this.#partitions()) {
      const end = await this.#setting.engine.offsetFor(this.topic, partition, 'latest')
      for (let isOver = false; !isOver; ) {
        if (count >= limit || options.signal?.aborted === true) return { count, isComplete: false }
        const part = await this.#divertSome(partition, name, end, limit - count, options.where)
        count += part.count
        isOver = part.isOver
        isComplete &&= !part.isFull
      }
    }
    return { count, isComplete }
  }

  /**
   * Finishes messages for the group without anybody handling them: `count` of each partition, or all before a place (an offset, the end, or the
   * first message of a time). Resolves with how many offsets that were. Throws `GROUP_NOT_EMPTY`, `UNKNOWN_TOPIC`.
   */
  async skip(options: SkipOptions): Promise<number> {
    const partitions = await this.#partitions()
    if (options.partition !== undefined && !partitions.includes(options.partition)) {
      throw invalidOption(
        `${this.topic} has partitions 0 to ${partitions.length - 1}, not ${options.partition}`,
      )
    }
    if (options.dryRun !== true) await this.#checkEmpty()
    const { engine } = this.#setting
    let count = 0
    const offsets: CommitOffset[] = []
    for (const partition of options.partition === undefined ? partitions : [options.partition]) {
      const { ledger, end } = await this.#state(partition)
      const before = ledger.unfinished + Math.max(0, end - ledger.next)
      if ('count' in options)
        await this.#finishFirst(partition, ledger, end, atLeast('count', options.count, 1))
      else if (typeof options.to === 'number')
        finishUntil(ledger, Math.min(atLeast('to', options.to, 0), end))
      else finishUntil(ledger, await engine.offsetFor(this.topic, partition, options.to))
      const skipped = before - ledger.unfinished - Math.max(0, end - ledger.next)
      if (skipped > 0) offsets.push(this.#commitOf(partition, ledger))
      count += skipped
    }
    if (offsets.length > 0 && options.dryRun !== true) await engine.commit(this.group, offsets)
    return count
  }

  /**
   * Skips what is older than that (milliseconds, or text such as '30m'): in each partition, everything before the first message that is not.
   * Resolves with how many offsets that were. Throws as `skip`.
   */
  async shed(options: { readonly olderThan: number | string; readonly dryRun?: boolean }): Promise<number> {
    const olderThan = durationMs(options.olderThan)
    if (olderThan === null)
      throw invalidOption(`olderThan is milliseconds, or text such as '30m', not ${options.olderThan}`)
    const time = Math.max(0, this.#setting.clock.now() - olderThan)
    return await this.skip({ to: { time }, dryRun: options.dryRun })
  }

  /** One transaction. */
  #divertSome(
    partition: number,
    target: string,
    end: number,
    limit: number,
    where: DivertOptions['where'],
  ): Promise<{ count: number; isOver: boolean; isFull: boolean }> {
    const transactionalId = `sluice-backlog-${this.group}-${this.topic}`
    return this.#setting.transact(
      async transaction => {
        await this.#checkEmpty()
        // read in here: whoever diverted before is fenced by now
        const { ledger, start } = await this.#state(partition)
        const diverting = new Diverting(ledger, Math.min(limit, MESSAGES_MAX), where)
        const from = Math.max(start, ledger.offset)
        let reached = from
        const passed = (offset: number): void => {
          reached = offset
        }
        const range = { partition, from, to: end, passed }
        for await (const batch of scanPartition(this.#setting.engine, this.#descriptor, range)) {
          const chosen = diverting.choose(batch, end)
          for (const message of chosen) void transaction.publish(rawTopic(target), messageOf(message))
          if (diverting.isDone) break
        }
        const isOver = !diverting.isDone
        // what somebody's transaction has not decided yet stays in the backlog
        const isUndecided = isOver && reached < end
        if (isOver) ledger.pass(Math.min(reached, end))
        if (diverting.hasChanged || isOver) {
          await transaction.commitOffsets(this.group, [this.#commitOf(partition, ledger)])
        }
        const isFull = diverting.isFull || isUndecided
        return { count: diverting.count, isOver: isOver || isFull, isFull }
      },
      { transactionalId },
    )
  }

  /** The first messages that are not finished. */
  async #finishFirst(partition: number, ledger: Ledger, end: number, count: number): Promise<void> {
    const start = await this.#setting.engine.offsetFor(this.topic, partition, 'earliest')
    const from = Math.max(start, ledger.offset)
    let reached = from
    const passed = (offset: number): void => {
      reached = offset
    }
    const range = { partition, from, to: end, passed }
    let left = count
    for await (const batch of scanPartition(this.#setting.engine, this.#descriptor, range)) {
      for (const { offset } of batch) {
        if (left === 0) return
        if (offset >= end || !ledger.begin(offset)) continue
        ledger.finish(offset)
        left--
      }
    }
    finishUntil(ledger, Math.min(reached, end)) // fewer messages than that
  }

  async #state(partition: number): Promise<{ ledger: Ledger; start: number; end: number }> {
    const { engine, clock } = this.#setting
    const [committed, start, end] = await Promise.all([
      groupLedger(engine, clock, this.group, { topic: this.topic, partition }),
      engine.offsetFor(this.topic, partition, 'earliest'),
      engine.offsetFor(this.topic, partition, 'latest'),
    ])
    // beyond the end: the topic was made anew
    const ledger = committed === null || committed.offset > end ? new Ledger(start) : committed
    finishUntil(ledger, start) // gone by age
    return { ledger, start, end }
  }

  #commitOf(partition: number, ledger: Ledger): CommitOffset {
    return { topic: this.topic, partition, offset: ledger.offset, metadata: ledger.metadata() }
  }

  async #partitions(): Promise<number[]> {
    const { partitions } = await this.#setting.engine.describeTopic(this.topic)
    return partitions.map(({ partition }) => partition)
  }

  /** Its members know where they are, and would not hear of what is done here. */
  async #checkEmpty(): Promise<void> {
    try {
      const { members } = await this.#setting.engine.describeGroup(this.group)
      if (members.length === 0) return
      const what = `group ${this.group} has ${members.length} members; stop them, then its backlog can be changed`
      throw new SluiceError('GROUP_NOT_EMPTY', what, { group: this.group, members: members.length })
    } catch (error) {
      if (!isSluiceError(error, 'UNKNOWN_GROUP')) throw error
    }
  }
}

/** Which messages of a partition go into one transaction. */
class Diverting {
  readonly #ledger: Ledger
  readonly #countMax: number
  readonly #where: DivertOptions['where']
  #bytes = 0
  count = 0
  hasChanged = false
  /** Nothing more goes into this transaction. */
  isDone = false
  /** The commit has no room for more that is left in place. */
  isFull = false

  constructor(ledger: Ledger, countMax: number, where: DivertOptions['where']) {
    this.#ledger = ledger
    this.#countMax = countMax
    this.#where = where
  }

  choose(batch: Iterable<Message<unknown, unknown>>, end: number): Message<unknown, unknown>[] {
    const chosen: Message<unknown, unknown>[] = []
    for (const message of batch) {
      const { offset } = message
      if (offset >= end) break
      if (this.count >= this.#countMax || this.#bytes >= BYTES_MAX) {
        this.isDone = true
        break
      }
      if (offset >= this.#ledger.next && !this.#ledger.hasRoomFor(offset)) {
        this.isFull = true
        this.isDone = true
        break
      }
      if (!this.#ledger.begin(offset)) continue
      this.hasChanged = true
      if (this.#where !== undefined && !this.#where(message)) continue
      this.#ledger.finish(offset)
      this.count++
      this.#bytes += (message.valueBytes?.length ?? 0) + (message.keyBytes?.length ?? 0)
      chosen.push(message)
    }
    return chosen
  }
}

const messageOf = (message: Message<unknown, unknown>) => ({
  key: message.keyBytes,
  value: message.valueBytes,
  headers: message.headerList(),
  timestamp: message.timestamp,
})

/** Everything before `offset` is finished. */
function finishUntil(ledger: Ledger, offset: number): void {
  for (const unfinished of [...ledger.offsets()]) {
    if (unfinished < offset) ledger.finish(unfinished)
  }
  ledger.pass(offset)
}
