/**
 * The relay of deduplicated messages: a member of the group `_sluice.dedup` that publishes the first message of each id to its topic and drops
 * the others. Several share the partitions; when one is gone, others go on where it was.
 *
 *     taken ─▶ read the partition from its start to the commit: what is known ─▶ batches ─┬─ first ─▶ target ┐
 *                                                                                          └─ known ───────────┴─▶ finished: one transaction
 *
 * Invariants:
 * - A message is finished in the ledger exactly when it is in its topic or is a duplicate: one transaction (settler.ts). The generation of the
 *   group fences a relay that was thought dead.
 * - Which messages are duplicates follows from the log alone (dedup-window.ts), so it does not matter who decides, or how often.
 * - Of a partition no more than `CHUNK_MAX` messages are under way.
 */

import type { CommittedOffset, Engine, TopicPartition } from '../engine/engine.ts'
import { asSluiceError, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import type { AssignmentHooks } from './consumer-options.ts'
import { DEDUP_GROUP, DEDUP_TOPIC, type DedupRecord, provisionDedup, readDedup } from './dedup.ts'
import { DedupWindow, IDS_MAX } from './dedup-window.ts'
import type { Message, MessageBatch } from './message.ts'
import { rawTopic } from './raw-topic.ts'
import { outgoing, RelayMember } from './relay-member.ts'
import { SessionLoop } from './session-loop.ts'
import type { Holding, Publication } from './settler.ts'
import type { AnyTopic } from './topic.ts'
import { scanPartition } from './topic-scan.ts'

export interface DedupRelaySetting {
  readonly engine: Engine
  readonly clock: Clock
  readonly clientId: string
  /** Something went wrong that the relay goes on from by itself. */
  warn(error: SluiceError): void
  /** Duplicates were dropped, and it is durable. */
  duplicates(count: number): void
}

/** All partitions are read side by side. */
const PARTITIONS_MAX = 10_000
/** Of a partition, in one transaction. */
const CHUNK_MAX = 1_000
const TRIM_MS = 60_000

type AnyMessage = Message<unknown, unknown>
const dedupTopic = rawTopic(DEDUP_TOPIC) as AnyTopic

export class DedupRelay {
  readonly #setting: DedupRelaySetting
  readonly #sessions: SessionLoop

  constructor(setting: DedupRelaySetting) {
    this.#setting = setting
    const { clock, warn } = setting
    const name = 'the relay of deduplicated messages'
    this.#sessions = new SessionLoop({ clock, name, make: () => new Session(setting), warn })
  }

  /** Makes the topic and begins. Rejects with `UNSUPPORTED`, and with what the topic cannot be made for. */
  async start(): Promise<void> {
    await provisionDedup(this.#setting.engine)
    this.#sessions.start()
  }

  /** Carries out what has begun, gives its partitions back, and resolves. */
  async stop(): Promise<void> {
    await this.#sessions.stop()
  }
}

/** A partition that is held. */
class Lane {
  readonly holding: Holding
  readonly window = new DedupWindow()
  /** Where decisions end, as far as anything may be deleted; 0: not known yet. */
  decided = 0
  trimmedTo = 0
  forgotten = 0
  isGoing = false
  /** Resolves when what was there before is known. */
  known: Promise<void> = Promise.resolve()
  #underWay = 0
  #done: (() => void) | null = null

  constructor(holding: Holding) {
    this.holding = holding
  }

  get isOver(): boolean {
    return this.isGoing || this.holding.isLost
  }

  begun(): void {
    this.#underWay++
  }

  finished(): void {
    if (--this.#underWay === 0) this.release()
  }

  /** Resolves when nothing is under way, or the partition is gone. */
  async settled(): Promise<void> {
    if (this.#underWay > 0) await new Promise<void>(resolve => (this.#done = resolve))
  }

  release(): void {
    this.#done?.()
    this.#done = null
  }
}

class Session implements AssignmentHooks {
  readonly #setting: DedupRelaySetting
  readonly #member: RelayMember
  readonly #lanes = new Map<number, Lane>()
  #trimTimer: Timer | null = null

  constructor(setting: DedupRelaySetting) {
    this.#setting = setting
    this.#member = new RelayMember({
      ...setting,
      group: DEDUP_GROUP,
      topics: [dedupTopic],
      consumer: { concurrency: PARTITIONS_MAX },
      hooks: this,
      settled: () => this.#trimLater(),
      failed: () => {
        for (const lane of this.#lanes.values()) lane.release()
      },
    })
    // a topic that was made anew: what is known is about another one
    this.#member.consumer.on('outOfRange', change => {
      this.lost([change])
      this.taken(change, change.resetTo, undefined)
    })
  }

  /** Until it is stopped, or cannot go on. */
  async run(): Promise<void> {
    try {
      await this.#member.run(batch => this.#take(batch))
    } finally {
      this.#trimTimer?.cancel()
      await this.#member.close()
    }
  }

  async stop(): Promise<void> {
    await this.#member.stop()
  }

  // Partitions.

  taken(of: TopicPartition, position: number, committed: CommittedOffset | undefined): void {
    const lane = new Lane(this.#member.settler.take(of, position, committed))
    this.#lanes.set(of.partition, lane)
    lane.known = this.#remember(lane, of.partition, position)
    lane.known.catch(error => this.#member.fail(error)) // the next session begins anew
  }

  async giveUp(partitions: readonly TopicPartition[], deadlineMs: number): Promise<void> {
    for (const lane of this.#held(partitions)) lane.isGoing = true
    await this.#member.flush(deadlineMs)
    this.lost(partitions)
  }

  lost(partitions: readonly TopicPartition[]): void {
    this.#member.settler.drop(partitions)
    for (const lane of this.#held(partitions)) {
      this.#lanes.delete(lane.holding.partition)
      lane.isGoing = true
      lane.release()
    }
  }

  #held(partitions: readonly TopicPartition[]): Lane[] {
    return partitions.map(({ partition }) => this.#lanes.get(partition)).filter(lane => lane !== undefined)
  }

  /** Takes note of everything before the position, which others have decided. */
  async #remember(lane: Lane, partition: number, position: number): Promise<void> {
    const { engine } = this.#setting
    for await (const batch of scanPartition(engine, dedupTopic, { partition, to: position })) {
      for (const message of batch) {
        if (lane.isOver) return
        if (message.offset < position) this.#isFirst(lane, message, readDedup(message))
      }
    }
  }

  // Messages.

  async #take(batch: MessageBatch<unknown, unknown>): Promise<void> {
    const lane = this.#lanes.get(batch.partition)
    if (lane === undefined) return
    await lane.known
    let count = 0
    for (const message of batch) {
      if (count === CHUNK_MAX || !lane.holding.ledger.hasRoomFor(message.offset)) {
        await lane.settled()
        count = 0
      }
      if (lane.isOver || this.#member.hasFailed) return
      const record = readDedup(message)
      const isFirst = this.#isFirst(lane, message, record)
      if (!lane.holding.ledger.begin(message.offset)) continue
      this.#finish(lane, message, record, isFirst)
      count++
    }
    lane.holding.ledger.pass(batch.lastOffset + 1)
    lane.decided = batch.lastOffset + 1
    await lane.settled()
  }

  #isFirst({ window }: Lane, { offset, timestamp }: AnyMessage, record: DedupRecord | null): boolean {
    return record === null || window.isFirst(record.fingerprint, offset, timestamp, record.windowMs)
  }

  #finish(lane: Lane, message: AnyMessage, record: DedupRecord | null, isFirst: boolean): void {
    lane.begun()
    const publications = record === null ? [this.#strange(message)] : isFirst ? [this.#delivery(record)] : []
    this.#member.settler.finishWith(lane.holding, message.offset, publications, () => {
      if (!isFirst) this.#setting.duplicates(1)
      lane.finished()
    })
  }

  #delivery(record: DedupRecord): Publication {
    const { target, key, value, headers, timestamp, partition } = record
    return {
      topic: rawTopic(target) as AnyTopic,
      message: outgoing({ key, value, headers, timestamp, partition }),
      instead: () => this.#member.letterOfRefused(record),
    }
  }

  // What cannot be delivered.

  /** Somebody has written something into the topic that is not for it. */
  #strange(message: AnyMessage): Publication {
    const where = `${DEDUP_TOPIC}/${message.partition} offset ${message.offset}`
    const error = new SluiceError('INVALID_RECORD', `${where} is no message with an id`, {
      topic: DEDUP_TOPIC,
    })
    this.#setting.warn(error)
    return this.#member.letter(
      {
        id: `${message.partition}-${message.offset}`,
        target: DEDUP_TOPIC,
        partition: message.partition,
        timestamp: message.timestamp,
        key: message.keyBytes,
        value: message.valueBytes,
        headers: message.headerList(),
      },
      error,
    )
  }

  // Afterwards.

  #trimLater(): void {
    this.#trimTimer ??= this.#setting.clock.after(TRIM_MS, () => void this.#trim())
  }

  /** Deletes messages whose windows are over; tells of ids that there was no room for. */
  async #trim(): Promise<void> {
    try {
      for (const lane of this.#lanes.values()) await this.#trimLane(lane)
    } catch (error) {
      if (this.#lanes.size > 0) this.#setting.warn(asSluiceError(error))
    }
    this.#trimTimer = null // the next one when something was settled
  }

  async #trimLane(lane: Lane): Promise<void> {
    const { engine, warn } = this.#setting
    const { window, holding } = lane
    if (window.forgotten > lane.forgotten) {
      const message = `${DEDUP_TOPIC}/${holding.partition}: more than ${IDS_MAX} ids within their windows; make the windows shorter, or the topic's partitions more`
      warn(new SluiceError('DEDUPLICATION_FULL', message, { forgotten: window.forgotten - lane.forgotten }))
      lane.forgotten = window.forgotten
    }
    const to = window.trimTo(Math.min(lane.decided, holding.ledger.offset))
    if (to <= lane.trimmedTo || !engine.supports.deleteRecords) return
    // what the group has committed, not what it is about to: a record that is to be published must stay
    const [committed] = await engine.committed(DEDUP_GROUP, [holding])
    if (committed === undefined || committed.offset < to) return
    await engine.deleteRecords(DEDUP_TOPIC, holding.partition, to)
    lane.trimmedTo = to
  }
}
