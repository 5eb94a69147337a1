/**
 * The relay of delayed messages: a member of the group `_sluice.relay` that moves messages down the ladder (delay-topics.ts) and, when they
 * are due, into their targets. Several share the partitions of the rungs; when one is gone, others go on where it was.
 *
 *     rung ──▶ time there over? ── no: pause the partition, one timer ──▶ …
 *                │ yes
 *                ├─ cancelled ─────────────────▶ dropped, and the cancellation forgotten
 *                ├─ more than 2 s left ────────▶ the next rung
 *                └─ less ──▶ timing wheel ─due─▶ target; of a schedule: and the next occurrence into its rung
 *
 * Invariants:
 * - A message is finished in the ledger of its rung exactly when it is in the next rung or the target: one transaction (settler.ts). The generation
 *   of the group fences a relay that was thought dead.
 * - Nothing is delivered before its time by this process's clock.
 * - A cancellation that was stored a second before a message is due is known before that is delivered: `KeyTable.freshAt`.
 * - In memory are only messages that are about to move, no more than `IN_HAND_MAX` and `IN_HAND_BYTES_MAX`.
 */

import type { CommittedOffset, Engine, TopicPartition } from '../engine/engine.ts'
import { asSluiceError, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import { Fifo } from '../lib/fifo.ts'
import { TimingWheel } from '../lib/timing-wheel.ts'
import type { RecordPlace } from '../record/cursor.ts'
import type { AssignmentHooks } from './consumer-options.ts'
import {
  cancelledTopic,
  type DelayTopics,
  type Rung,
  rungFor,
  rungs,
  schedulesTopic,
  WHEEL_MS,
} from './delay-topics.ts'
import { deliveryOf, dueAtIn, readWaiting, type Waiting, withoutRoute } from './delayed-message.ts'
import { isSame } from './fetcher.ts'
import { InHand } from './in-hand.ts'
import { KeyTable } from './key-table.ts'
import type { Message, MessageBatch, MessageSource } from './message.ts'
import { rawTopic } from './raw-topic.ts'
import { outgoing, RelayMember, type Undelivered } from './relay-member.ts'
import { nextOccurrence, occurrenceOf, readSchedule, type StoredSchedule } from './schedule-record.ts'
import { SessionLoop } from './session-loop.ts'
import type { Holding, Publication } from './settler.ts'
import type { AnyTopic } from './topic.ts'
import { scanPartition } from './topic-scan.ts'

export interface DelayRelaySetting {
  readonly engine: Engine
  readonly clock: Clock
  readonly clientId: string
  readonly topics: DelayTopics
  /** Something went wrong that the relay goes on from by itself. */
  warn(error: SluiceError): void
}

export const RELAY_GROUP = '_sluice.relay'
/** Small: a partition whose first message is not due is read in vain. */
const FETCH_BYTES_MAX = 64 * 1024
const BUFFER_BYTES_MAX = 4 * 1024 * 1024
/** Messages on their way, and their bytes. */
const IN_HAND_MAX = 100_000
const IN_HAND_BYTES_MAX = 32 * 1024 * 1024
/** Messages in one transaction that only move to the next rung. */
const MOVES_MAX = 500
/** Messages taken from rungs before other work has its turn. */
const TAKEN_MAX = 500
/** What a message costs beside its bytes, roughly. */
const ROW_BYTES = 200
/** A rung is not looked at more often; what it holds has at least so long left. */
const HOLD_MS_MIN = 100
/** Cancellations and changes of schedules are known after so long. */
const STALE_MS = 500
const REFRESH_MS_MAX = 1_000
const TRIM_MS = 60_000
/** So many messages of a partition must be done before they are deleted. */
const TRIM_MESSAGES = 10_000
/** A cancellation of what never came is forgotten so long after its time, if nothing of that time is still to be read. */
const FORGET_MS = 3_600_000
/** The clock was set back by more than what clocks are corrected by all the time. */
const SET_BACK_MS = 100
/** Between the choice of a rung and the time that the log gives, at most. */
const LATE_MS = 600_000
const TARGETS_MAX = 1_000

export class DelayRelay {
  readonly #setting: DelayRelaySetting
  readonly #sessions: SessionLoop

  constructor(setting: DelayRelaySetting) {
    this.#setting = setting
    const { clock, warn } = setting
    const name = 'the relay of delayed messages'
    this.#sessions = new SessionLoop({ clock, name, make: () => new Session(setting), warn })
  }

  /** Makes the topics and begins. Rejects with `UNSUPPORTED`, and with what topics cannot be made for. */
  async start(): Promise<void> {
    await this.#setting.topics.prepare()
    this.#sessions.start()
  }

  /** Carries out what has begun, gives its partitions back, and resolves. */
  async stop(): Promise<void> {
    await this.#sessions.stop()
  }
}

type Occurrence = NonNullable<ReturnType<typeof occurrenceOf>>

/** A partition of a rung. */
interface Lane {
  readonly holding: Holding
  readonly rung: Rung
  /** Set while its first message is not due. */
  timer: Timer | null
  /** Waits for room in memory or in its ledger. */
  isFull: boolean
  isGoing: boolean
  messages: number
  bytes: number
  /** Messages of it that are on their way to the next rung. */
  moving: number
  trimmedTo: number
}

class Session implements AssignmentHooks {
  readonly #setting: DelayRelaySetting
  readonly #clock: Clock
  readonly #member: RelayMember
  readonly #hand = new InHand<Lane>()
  /** Rows of `#hand` that are due soon. */
  readonly #wheel: TimingWheel
  readonly #cancelled: KeyTable<number>
  readonly #schedules: KeyTable<StoredSchedule>
  readonly #lanes = new Map<string, Lane>()
  readonly #targets = new Map<string, ReturnType<typeof rawTopic>>()
  /** Whether the tables are read. */
  #isReady = false
  #timer: Timer | null = null
  #timerAt = 0
  #isFiring = false
  #trimTimer: Timer | null = null
  /** Rows of `#hand` that are to go to the next rung. */
  readonly #moves = new Fifo<number>()
  /** Messages that are on their way there. */
  #moving = 0
  /** Messages taken since other work had its turn. */
  #taken = 0
  #breath: Promise<void> | null = null
  #messages = 0
  #bytes = 0

  constructor(setting: DelayRelaySetting) {
    const { engine, clock, topics: delays } = setting
    this.#setting = setting
    this.#clock = clock
    this.#wheel = new TimingWheel(clock.now())
    this.#member = new RelayMember({
      ...setting,
      group: RELAY_GROUP,
      topics: rungs.map(rung => rung.topic as AnyTopic),
      consumer: { concurrency: 16, partitionBytesMax: FETCH_BYTES_MAX, bufferBytesMax: BUFFER_BYTES_MAX },
      hooks: this,
      delays,
      settled: () => this.#settled(),
      failed: () => {},
    })
    const table = {
      engine,
      clock,
      waitMs: this.#member.waitMs,
      warn: (error: SluiceError) => setting.warn(error),
    }
    this.#cancelled = new KeyTable({
      ...table,
      topic: cancelledTopic as AnyTopic,
      read: (_, message) => Number(message.text()),
    })
    this.#schedules = new KeyTable({ ...table, topic: schedulesTopic as AnyTopic, read: readSchedule })
  }

  /** Until it is stopped, or cannot go on. */
  async run(): Promise<void> {
    try {
      await Promise.all([this.#cancelled.start(), this.#schedules.start()])
      this.#isReady = true
      await this.#member.run(batch => this.#take(batch))
    } finally {
      this.#timer?.cancel()
      this.#trimTimer?.cancel()
      await this.#member.close()
      await Promise.all([this.#cancelled.stop(), this.#schedules.stop()])
    }
  }

  async stop(): Promise<void> {
    // tables that cannot be read are read again for as long as it takes, and nothing has begun before
    if (!this.#isReady) await Promise.all([this.#cancelled.stop(), this.#schedules.stop()])
    await this.#member.stop()
  }

  // Partitions.

  taken(of: TopicPartition, position: number, committed: CommittedOffset | undefined): void {
    const rung = rungs.find(({ topic }) => topic.name === of.topic) as Rung
    this.#lanes.set(keyOf(of), {
      holding: this.#member.settler.take(of, position, committed),
      rung,
      timer: null,
      isFull: false,
      isGoing: false,
      messages: 0,
      bytes: 0,
      moving: 0,
      trimmedTo: committed?.offset ?? position,
    })
  }

  async giveUp(partitions: readonly TopicPartition[], deadlineMs: number): Promise<void> {
    for (const of of partitions) {
      const lane = this.#lanes.get(keyOf(of))
      if (lane === undefined) continue
      lane.isGoing = true
      lane.timer?.cancel()
    }
    await this.#member.flush(deadlineMs)
    this.lost(partitions)
  }

  lost(partitions: readonly TopicPartition[]): void {
    this.#member.settler.drop(partitions)
    for (const of of partitions) {
      const lane = this.#lanes.get(keyOf(of))
      if (lane === undefined) continue
      this.#lanes.delete(keyOf(of))
      lane.isGoing = true
      lane.timer?.cancel()
      this.#messages -= lane.messages
      this.#bytes -= lane.bytes
      this.#moving -= lane.moving
    }
    // those that are left may have waited for nothing but the room that these took
    this.#moveSome()
    this.#resumeFull()
  }

  // Taking messages out of a rung.

  #take(batch: MessageBatch<unknown, unknown>): Promise<void> | undefined {
    const lane = this.#lanes.get(keyOf(batch))
    if (lane === undefined || lane.isGoing) return undefined
    const { rung, holding } = lane
    const now = this.#clock.now()
    const record = batch.records()
    while (record.next()) {
      if (record.offset < batch.firstOffset) continue
      const waitMs = rung.holdMs === 0 ? 0 : record.timestamp + rung.holdMs - now
      if (waitMs > 0) {
        this.#holdBack(lane, record.offset, waitMs)
        return undefined
      }
      const isFull = this.#messages >= IN_HAND_MAX || this.#bytes >= IN_HAND_BYTES_MAX
      if (isFull || !holding.ledger.hasRoomFor(record.offset)) {
        lane.isFull = true
        this.#setBack(lane, record.offset)
        return undefined
      }
      if (holding.ledger.begin(record.offset)) this.#begin(lane, batch.source, record, now)
    }
    holding.ledger.pass(batch.lastOffset + 1)
    this.#moveSome()
    return this.#breathe(batch.count)
  }

  /** When many are due at once, what is due now is delivered while they are taken. */
  #breathe(taken: number): Promise<void> | undefined {
    this.#taken += taken
    if (this.#taken < TAKEN_MAX) return undefined
    this.#breath ??= new Promise(resolve =>
      this.#clock.defer(() => {
        this.#taken = 0
        this.#breath = null
        resolve()
      }),
    )
    return this.#breath
  }

  #holdBack(lane: Lane, offset: number, waitMs: number): void {
    this.#setBack(lane, offset)
    lane.timer = this.#clock.after(Math.max(waitMs, HOLD_MS_MIN), () => {
      lane.timer = null
      this.#member.consumer.resume([lane.holding])
    })
  }

  /** Nothing of what was read from there on is kept. */
  #setBack(lane: Lane, offset: number): void {
    const { topic, partition } = lane.holding
    void this.#member.consumer.seek({ topic, partition, offset })
    this.#member.consumer.pause([lane.holding])
    this.#moveSome()
  }

  #begin(lane: Lane, source: MessageSource, record: RecordPlace, now: number): void {
    const dueAt = Math.max(0, dueAtIn(record))
    const row = this.#hand.add(lane, source, record, dueAt)
    const bytes = bytesInHand(record.keyBytes, record.valueBytes)
    lane.messages++
    lane.bytes += bytes
    this.#messages++
    this.#bytes += bytes
    if (dueAt - now <= WHEEL_MS) this.#wheel.schedule(dueAt, row)
    else this.#moves.push(row)
  }

  /** Down the ladder. What is due must not wait for thousands of these, which have time left. */
  #moveSome(): void {
    while (this.#moving < MOVES_MAX && this.#moves.length > 0) {
      const row = this.#moves.shift() as number
      const lane = this.#hand.lane(row)
      const remainingMs = this.#hand.dueAt(row) - this.#clock.now()
      if (lane.holding.isLost) this.#hand.remove(row)
      else if (remainingMs <= WHEEL_MS) this.#wheel.schedule(this.#hand.dueAt(row), row)
      else this.#move(row, lane, remainingMs)
    }
    this.#arm()
  }

  #move(row: number, lane: Lane, remainingMs: number): void {
    const waiting = this.#waitingIn(row)
    if (this.#cancelled.values.has(waiting.id)) {
      this.#drop(row, waiting)
      return
    }
    const { key, value, headers } = waiting
    const { topic } = rungFor(remainingMs)
    lane.moving++
    this.#moving++
    this.#finish(row, waiting, [{ topic, message: outgoing({ key, value, headers }) }], () => {
      lane.moving--
      if (!lane.holding.isLost) this.#moving--
    })
  }

  // What is due.

  #arm(): void {
    if (this.#isFiring) return
    const now = this.#clock.now()
    if (now < this.#wheel.time - SET_BACK_MS) this.#wheel.turnBack(now)
    const at = this.#wheel.nextAt()
    if (at === null || (this.#timer !== null && this.#timerAt <= at)) return
    this.#timer?.cancel()
    this.#timerAt = at
    this.#timer = this.#clock.after(Math.max(0, at - now), () => {
      this.#timer = null
      void this.#fire()
    })
  }

  async #fire(): Promise<void> {
    this.#isFiring = true
    const stale = this.#clock.now() - STALE_MS
    if (this.#cancelled.freshAt < stale) await this.#refresh(this.#cancelled)
    if (this.#schedules.freshAt < stale) await this.#refresh(this.#schedules)
    try {
      this.#wheel.advance(this.#clock.now(), row => this.#deliver(row))
    } catch (error) {
      this.#member.fail(error) // the next session begins anew
    }
    this.#isFiring = false
    this.#arm()
  }

  /** Whether it knows everything by now. */
  async #refresh(table: KeyTable<unknown>): Promise<boolean> {
    try {
      return await table.refresh(REFRESH_MS_MAX)
    } catch (error) {
      this.#setting.warn(asSluiceError(error))
      return false
    }
  }

  #deliver(row: number): void {
    const lane = this.#hand.lane(row)
    if (lane.holding.isLost) {
      this.#hand.remove(row)
      return
    }
    const waiting = this.#waitingIn(row)
    const occurrence = occurrenceOf(waiting)
    if (waiting.target === lane.rung.topic.name) this.#bury(row, waiting)
    else if (occurrence !== null) this.#deliverOccurrence(row, waiting, occurrence, true)
    else if (this.#cancelled.values.has(waiting.id)) this.#drop(row, waiting)
    else this.#finish(row, waiting, [this.#delivery(waiting)])
  }

  /** An occurrence of a schedule that was changed or removed is nothing any more. One that was cancelled is passed over. */
  #deliverOccurrence(row: number, waiting: Waiting, occurrence: Occurrence, mayBeStale: boolean): void {
    const schedule = this.#schedules.values.get(occurrence.name)
    if (schedule?.version !== occurrence.version) {
      if (mayBeStale) void this.#askAgain(row, waiting, occurrence)
      else this.#finish(row, waiting, [])
      return
    }
    const now = this.#clock.now()
    const isCancelled = this.#cancelled.values.has(waiting.id)
    const publications: Publication[] = isCancelled ? [forgetting(waiting.id)] : [this.#delivery(waiting)]
    const next = nextOccurrence(schedule, Math.max(now, waiting.dueAt))
    if (next !== null) {
      publications.push({ topic: rungFor(next.dueAt - now).topic, message: outgoing(next.message) })
    }
    this.#finish(row, waiting, publications)
  }

  /** The schedule may have been set a moment ago. */
  async #askAgain(row: number, waiting: Waiting, occurrence: Occurrence): Promise<void> {
    const isKnown = await this.#refresh(this.#schedules)
    if (this.#hand.lane(row).holding.isLost) this.#hand.remove(row)
    else if (isKnown) this.#deliverOccurrence(row, waiting, occurrence, false)
    else {
      this.#wheel.schedule(this.#clock.now() + REFRESH_MS_MAX, row)
      this.#arm()
    }
  }

  #delivery(waiting: Waiting): Publication {
    return {
      topic: this.#target(waiting.target),
      message: outgoing(deliveryOf(waiting)),
      instead: () => this.#member.letterOfRefused(undelivered(waiting)),
    }
  }

  #target(name: string): ReturnType<typeof rawTopic> {
    const known = this.#targets.get(name)
    if (known !== undefined) return known
    if (this.#targets.size >= TARGETS_MAX) this.#targets.clear()
    const target = rawTopic(name)
    this.#targets.set(name, target)
    return target
  }

  #drop(row: number, waiting: Waiting): void {
    this.#finish(row, waiting, [forgetting(waiting.id)], () => this.#cancelled.forget(waiting.id))
  }

  /** Somebody has written something into the rung that is no delayed message. */
  #bury(row: number, waiting: Waiting): void {
    const offset = this.#hand.offset(row)
    const message = `${waiting.target}/${waiting.partition} offset ${offset} is no delayed message`
    const error = new SluiceError('INVALID_RECORD', message, { topic: waiting.target })
    this.#setting.warn(error)
    this.#finish(row, waiting, [this.#member.letter(undelivered(waiting), error)])
  }

  /** It is in hand no more, but counts until it is settled. */
  #finish(row: number, waiting: Waiting, publications: readonly Publication[], then?: () => void): void {
    const lane = this.#hand.lane(row)
    const offset = this.#hand.offset(row)
    this.#hand.remove(row)
    const bytes = bytesInHand(waiting.key?.length ?? 0, waiting.value?.length ?? 0)
    this.#member.settler.finishWith(lane.holding, offset, publications, () => {
      lane.messages--
      lane.bytes -= bytes
      if (!lane.holding.isLost) {
        this.#messages--
        this.#bytes -= bytes
      }
      then?.()
    })
  }

  #waitingIn(row: number): Waiting {
    const message = this.#hand.message(row)
    return readWaiting(message) ?? strange(this.#hand.lane(row), message)
  }

  // Afterwards.

  #settled(): void {
    this.#moveSome()
    this.#trimTimer ??= this.#clock.after(TRIM_MS, () => void this.#trim())
    this.#resumeFull()
  }

  /** Partitions that waited for room, if there is some. */
  #resumeFull(): void {
    if (this.#messages >= IN_HAND_MAX || this.#bytes >= IN_HAND_BYTES_MAX) return
    for (const lane of this.#lanes.values()) {
      if (!lane.isFull || lane.isGoing) continue
      lane.isFull = false
      this.#member.consumer.resume([lane.holding])
    }
  }

  /** Deletes messages that have moved on, and cancellations of what never came. */
  async #trim(): Promise<void> {
    const { engine } = this.#setting
    try {
      if (engine.supports.deleteRecords && this.#lanes.size > 0) {
        for (const commit of await this.#member.consumer.committed()) {
          const lane = this.#lanes.get(keyOf(commit))
          if (lane === undefined || commit.offset - lane.trimmedTo < TRIM_MESSAGES) continue
          await engine.deleteRecords(commit.topic, commit.partition, commit.offset)
          lane.trimmedTo = commit.offset
        }
      }
      await this.#forgetCancelled()
    } catch (error) {
      if (this.#lanes.size > 0) this.#setting.warn(asSluiceError(error))
    }
    this.#trimTimer = null // the next one when something was settled
  }

  async #forgetCancelled(): Promise<void> {
    const isMine = [...this.#lanes.values()].some(({ holding }) =>
      isSame(holding, { topic: rungs[0].topic.name, partition: 0 }),
    )
    if (!isMine) return
    const before = this.#clock.now() - FORGET_MS
    const over = [...this.#cancelled.values].filter(([, dueAt]) => !(dueAt >= before)).map(([id]) => id)
    if (over.length === 0 || !(await this.#haveAllLeft(before))) return
    await this.#member.transactions.run(async transaction => {
      for (const id of over.slice(0, IN_HAND_MAX)) {
        const { topic, message } = forgetting(id)
        void transaction.publish(topic, message as never)
      }
    }, {})
  }

  /** Whether all messages that were due before a time are done: nothing waits that had come into its rung long enough before. */
  async #haveAllLeft(before: number): Promise<boolean> {
    const { engine } = this.#setting
    const commits = await engine.committed(RELAY_GROUP)
    for (const { topic, ms } of rungs) {
      const count = await engine.partitionsOf(topic.name)
      for (let partition = 0; partition < count; partition++) {
        const time = Math.max(0, before + LATE_MS - ms)
        const to = await engine.offsetFor(topic.name, partition, { time })
        const commit = commits.find(of => isSame(of, { topic: topic.name, partition }))
        // behind the commit there may be nothing but the ends of transactions
        let reached = commit?.offset ?? 0
        const passed = (offset: number): void => {
          reached = offset
        }
        const range = { partition, from: commit?.offset, to, passed }
        for await (const _ of scanPartition(engine, topic as AnyTopic, range)) return false
        if (reached < to) return false
      }
    }
    return true
  }
}

const keyOf = ({ topic, partition }: TopicPartition): string => `${topic}/${partition}`

/** For a letter: when it would have been published, unless it had a time of its own. */
const undelivered = (waiting: Waiting): Undelivered => ({
  ...waiting,
  headers: withoutRoute(waiting.headers),
  timestamp: waiting.timestamp ?? waiting.dueAt,
})

const forgetting = (id: string): Publication => ({
  topic: cancelledTopic as AnyTopic,
  message: outgoing({ key: Buffer.from(id), value: null }),
})

const bytesInHand = (keyBytes: number, valueBytes: number): number =>
  ROW_BYTES + Math.max(0, keyBytes) + Math.max(0, valueBytes)

/** What is no delayed message, as one that is due now and addressed to the rung that it lies in. */
function strange({ rung, holding }: Lane, message: Message<unknown, unknown>): Waiting {
  return {
    id: `${rung.name}-${holding.partition}-${message.offset}`,
    dueAt: 0,
    target: rung.topic.name,
    partition: holding.partition,
    timestamp: message.timestamp,
    key: message.keyBytes,
    value: message.valueBytes,
    headers: message.headerList(),
  }
}
