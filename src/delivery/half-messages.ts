/**
 * Half messages: messages that nobody sees until the local transaction that they tell of has come to an end.
 *
 *     prepare ──▶ local transaction ──┬──▶ commit ────▶ published, once
 *                                     ├──▶ rollback ──▶ nothing
 *                                     └──▶ (crash) ───▶ the checker is asked, again and again ──▶ commit │ rollback │ expired: a dead letter
 *
 * Here is the producer's side; what is decided is carried out by a relay (`half-relay.ts`), wherever one runs. A decision is made when it is in
 * the log, and the first one in the log counts.
 */

import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { Consumer } from './consumer.ts'
import { delayIdOf, dueAtOf, isDelayed } from './delayed-message.ts'
import { groupLedger } from './group-ledger.ts'
import { checkName, HalfChecker, type HalfCheckerHandler, type HalfCheckerOptions } from './half-checker.ts'
import {
  CHECKS_TOPIC,
  DECISIONS_TOPIC,
  DEFAULT_POLICY,
  decisionRecord,
  findHalf,
  HALF_GROUP,
  HALF_TOPIC,
  type HalfDecision,
  type HalfDelivery,
  HalfMessage,
  type HalfOutcome,
  type HalfPolicy,
  halfId,
  halfRecord,
  newHalfName,
  placeOfHalf,
  provisionHalf,
  readChecks,
  readDecision,
  readHalfMessage,
  unknownHalf,
} from './half-record.ts'
import { Ledger } from './ledger.ts'
import { atLeast } from './option.ts'
import {
  type AnyOutgoing,
  encodeHeaders,
  encodeKey,
  encodeTimestamp,
  encodeValue,
  notAMessage,
  type OutgoingOf,
} from './outgoing.ts'
import type { Published } from './published.ts'
import { rawTopic } from './raw-topic.ts'
import { type AnyTopic, topicOf } from './topic.ts'
import { scanPartition } from './topic-scan.ts'

export interface HalfOptions {
  /**
   * Who is asked about the message while it is undecided: the name of a checker (see `checker`), or the URL of a webhook (http: or https:), which
   * gets a POST with the message as JSON and answers `{ "decision": "commit" | "rollback" | "unknown" }`. Default: nobody.
   */
  readonly checker?: string
  /** How long after `prepare` it is asked first. Default 6,000. */
  readonly firstCheckMs?: number
  /** How long after that it is asked again, each time. Default 30,000. */
  readonly checkEveryMs?: number
  /**
   * How often it is asked; when `checkEveryMs` is over after the last time, the message is rolled back, and is a dead letter of the topic and
   * the group `_sluice.half`. Without a checker it has the same time. Default 15.
   */
  readonly checksMax?: number
}

/** A message that was prepared. Its id is all that another process needs to decide it. */
export interface PreparedHalf {
  readonly id: string
  /** Publishes it. Resolves when that is decided for good. Rejects with `HALF_DECIDED` if it was rolled back before. */
  commit(): Promise<void>
  /** Drops it. Resolves when that is decided for good. Rejects with `HALF_DECIDED` if it was committed before. */
  rollback(): Promise<void>
}

/** What became of a half message: 'undecided'; 'deciding' (it is decided, and about to be carried out); or done. */
export type HalfState = 'undecided' | 'deciding' | 'done'

export interface HalfReport {
  readonly message: HalfMessage
  readonly state: HalfState
  /** The first decision in the log; null if there is none, or none any more. 'expired': nobody decided in time. */
  readonly decision: HalfOutcome | null
}

export interface HalfMessagesSetting {
  readonly engine: Engine
  readonly clock: Clock
  publish(
    topic: ReturnType<typeof rawTopic>,
    message: OutgoingOf<ReturnType<typeof rawTopic>>,
  ): Promise<Published>
  consumer(options: {
    readonly topics: readonly AnyTopic[]
    readonly group: string
    readonly waitMs?: number
  }): Consumer
}

/** Partitions of the topics of half messages, if they are to be made. */
const PARTITIONS = 4
/** The clocks of two partitions of a cluster may differ by so much. */
const CLOCKS_DIFFER_MS = 10_000
const LIST_MAX = 1_000

/** `mq.half` */
export class HalfMessages {
  readonly #setting: HalfMessagesSetting
  #partitions: Promise<number> | null = null
  #next = Math.floor(Math.random() * 1_000)

  /** @internal */
  constructor(setting: HalfMessagesSetting) {
    this.#setting = setting
  }

  /**
   * Stores a message, as durably as a publish, without anybody seeing it. `delay` and `deliverAt` hold from the commit on: a delay begins then,
   * and what is due by then is published at once.
   *
   *     const half = await mq.half.prepare('payments', { key: 'ann', value: payment }, { checker: 'payments-service' })
   *     await database.transaction(…)
   *     await half.commit()
   *
   * Rejects as `publish`. Then nobody will see it; a checker may be asked about it all the same, if its fate is not known.
   */
  async prepare<T extends AnyTopic | string>(
    topic: T,
    message: OutgoingOf<T>,
    options: HalfOptions = {},
  ): Promise<PreparedHalf> {
    const { clock, engine } = this.#setting
    const target = topicOf(topic)
    const policy = policyOf(options)
    const checker = options.checker ?? null
    if (checker !== null) checkName(checker)
    const record = this.#encode(target, message as AnyOutgoing, checker, policy)
    const partitions = await this.#provisioned()
    await engine.partitionsOf(target.name) // it is there, or can be made
    const startedAt = clock.monotonic()
    const partition = this.#next++ % partitions
    const { offset } = await this.#setting.publish(rawTopic(HALF_TOPIC), { ...record, partition })
    const name = record.key.toString('latin1')
    if (offset < 0) throw placeUnknown(target.name)
    const isUnasked = (): boolean => clock.monotonic() - startedAt < policy.firstCheckMs
    return this.#prepared(halfId({ partition, offset, name }), isUnasked)
  }

  /**
   * Prepares a message, runs the local transaction, and commits; or rolls back if it throws, and rejects with what it threw. Resolves with what it
   * resolves with. If the decision cannot be written, it rejects although the local transaction may have come about: then the checker is asked.
   */
  async run<T extends AnyTopic | string, R>(
    topic: T,
    message: OutgoingOf<T>,
    options: HalfOptions,
    local: (half: PreparedHalf) => Promise<R> | R,
  ): Promise<R> {
    const half = await this.prepare(topic, message, options)
    let result: R
    try {
      result = await local(half)
    } catch (error) {
      await half.rollback().catch(() => {}) // the checker is asked; what went wrong first is what counts
      throw error
    }
    await half.commit()
    return result
  }

  /** Publishes the half message with this id. Rejects with `UNKNOWN_HALF_MESSAGE`, `HALF_DECIDED` (it was rolled back before). */
  commit(id: string): Promise<void> {
    return this.#decideKnown(id, 'commit')
  }

  /** Drops the half message with this id. Rejects with `UNKNOWN_HALF_MESSAGE`, `HALF_DECIDED` (it was committed before). */
  rollback(id: string): Promise<void> {
    return this.#decideKnown(id, 'rollback')
  }

  /** A half message, decided or not. What was decided is kept for an hour or two. Rejects with `UNKNOWN_HALF_MESSAGE`. */
  async get(id: string): Promise<HalfReport> {
    const { engine } = this.#setting
    const found = await findHalf(engine, id)
    const place = placeOfHalf(id)
    if (place === null) throw unknownHalf(id)
    const checks = (await readChecks(engine, place.partition)).get(id)?.checks ?? 0
    const message = await findHalf(engine, id, checks)
    const [decision, isFinished] = await Promise.all([
      this.#firstDecision(found),
      this.#isFinished(place.partition, place.offset),
    ])
    const state = isFinished ? 'done' : decision === null ? 'undecided' : 'deciding'
    return { message, state, decision }
  }

  /** Half messages that are undecided, at most `limit` (default 1,000), those of a partition in the order in which they were prepared. */
  async list(options: { readonly limit?: number } = {}): Promise<HalfMessage[]> {
    const limit = atLeast('limit', options.limit ?? LIST_MAX, 1)
    const undecided: HalfMessage[] = []
    const partitions = await this.#existing()
    for (let partition = 0; partition < partitions && undecided.length < limit; partition++) {
      for await (const message of this.#undecidedOf(partition)) {
        if (undecided.push(message) >= limit) break
      }
    }
    return undecided
  }

  /**
   * Answers questions about half messages that name this checker: 'commit', 'rollback', or 'unknown' (ask again later). A handler that throws or
   * takes too long counts as 'unknown'. Any number of processes share a name. Stop it with `stop()`, or by closing. Throws `INVALID_ARGUMENT`.
   */
  checker(name: string, handler: HalfCheckerHandler, options: HalfCheckerOptions = {}): HalfChecker {
    const { engine, clock, consumer } = this.#setting
    return new HalfChecker(name, handler, options, {
      engine,
      clock,
      provision: async () => void (await this.#provisioned()),
      consumer: group => consumer({ topics: [rawTopic(CHECKS_TOPIC)], group }),
      isUndecided: id => this.#isUndecided(id),
      // nobody hears whether it was the first; the relay knows
      decide: (id, decision) => this.#decide(id, decision, () => true),
    })
  }

  #encode(target: AnyTopic, message: AnyOutgoing, checker: string | null, policy: HalfPolicy) {
    if (typeof message !== 'object' || message === null) throw notAMessage(target, message)
    const content = {
      key: message.key == null ? null : encodeKey(target, message.key),
      value: encodeValue(target, message.value),
      headers: (message.headers === undefined ? null : encodeHeaders(target, message.headers)) ?? [],
    }
    const delivery: HalfDelivery = {
      timestamp: message.timestamp === undefined ? undefined : encodeTimestamp(target, message.timestamp),
      partition: message.partition,
      ...delayOf(message),
    }
    return halfRecord(newHalfName(), target.name, content, checker, policy, delivery)
  }

  #prepared(id: string, isUnasked: () => boolean): PreparedHalf {
    let decided: { readonly decision: HalfDecision; readonly done: Promise<void> } | null = null
    const decide = (decision: HalfDecision): Promise<void> => {
      if (decided === null) {
        const done = this.#decide(id, decision, isUnasked)
        decided = { decision, done }
        done.catch(() => {
          decided = null // it may be tried again
        })
      } else if (decided.decision !== decision) return Promise.reject(decidedBefore(id, decided.decision))
      return decided.done
    }
    return { id, commit: () => decide('commit'), rollback: () => decide('rollback') }
  }

  async #decideKnown(id: string, decision: HalfDecision): Promise<void> {
    await findHalf(this.#setting.engine, id)
    await this.#decide(id, decision, () => false)
  }

  /** Resolves when the decision is in the log and there is none before it that says otherwise. Where nobody can have been asked, nobody looks. */
  async #decide(id: string, decision: HalfDecision, isUnasked: () => boolean): Promise<void> {
    const place = placeOfHalf(id)
    if (place === null) throw unknownHalf(id)
    const record = decisionRecord(id, place.partition, decision)
    await this.#setting.publish(rawTopic(DECISIONS_TOPIC), record)
    if (isUnasked()) return
    const first = await this.#firstDecision(await findHalf(this.#setting.engine, id))
    if (first !== null && (first === 'commit') !== (decision === 'commit')) throw decidedBefore(id, first)
  }

  /** The decision that counts. */
  async #firstDecision({ id, preparedAt }: HalfMessage): Promise<HalfOutcome | null> {
    const { engine } = this.#setting
    const partition = placeOfHalf(id)?.partition ?? 0
    const time = Math.max(0, preparedAt - CLOCKS_DIFFER_MS)
    const from = await engine.offsetFor(DECISIONS_TOPIC, partition, { time })
    for await (const batch of scanPartition(engine, rawTopic(DECISIONS_TOPIC), { partition, from })) {
      for (const message of batch) {
        const decision = readDecision(message)
        if (decision?.id === id) return decision.outcome
      }
    }
    return null
  }

  /** As far as can be told at once. */
  async #isUndecided(id: string): Promise<boolean> {
    const place = placeOfHalf(id)
    if (place === null) return false
    const { partition, offset } = place
    try {
      const [found] = await this.#setting.engine.committed(HALF_GROUP, [{ topic: HALF_TOPIC, partition }])
      const ledger = new Ledger(found?.offset ?? 0, found?.metadata)
      return offset >= ledger.next || ledger.isUnfinished(offset)
    } catch (error) {
      if (isSluiceError(error, 'UNSTABLE_OFFSET_COMMIT')) return true
      throw error
    }
  }

  async #isFinished(partition: number, offset: number): Promise<boolean> {
    const ledger = await this.#ledgerOf(partition)
    return offset < ledger.next && !ledger.isUnfinished(offset)
  }

  async #ledgerOf(partition: number): Promise<Ledger> {
    const { engine, clock } = this.#setting
    const of = { topic: HALF_TOPIC, partition }
    return (await groupLedger(engine, clock, HALF_GROUP, of)) ?? new Ledger(0)
  }

  async *#undecidedOf(partition: number): AsyncGenerator<HalfMessage> {
    const { engine } = this.#setting
    const ledger = await this.#ledgerOf(partition)
    const start = await engine.offsetFor(HALF_TOPIC, partition, 'earliest')
    const questions = await readChecks(engine, partition)
    const decided = await this.#decidedSince(partition, ledger)
    const range = { partition, from: Math.max(start, ledger.offset) }
    for await (const batch of scanPartition(engine, rawTopic(HALF_TOPIC), range)) {
      for (const message of batch) {
        if (message.offset < ledger.next && !ledger.isUnfinished(message.offset)) continue
        const half = readHalfMessage(message, 0)
        if (half === null || decided.has(half.id)) continue
        yield new HalfMessage(message, placeOfHalf(half.id)!, half.topic, questions.get(half.id)?.checks ?? 0)
      }
    }
  }

  /** Ids that have been decided, of half messages that the ledger says are unfinished. */
  async #decidedSince(partition: number, ledger: Ledger): Promise<ReadonlySet<string>> {
    const { engine } = this.#setting
    const decided = new Set<string>()
    for await (const batch of scanPartition(engine, rawTopic(DECISIONS_TOPIC), { partition })) {
      for (const message of batch) {
        const decision = readDecision(message)
        if (decision === null) continue
        const { offset } = decision.place
        if (offset >= ledger.next || ledger.isUnfinished(offset)) decided.add(decision.id)
      }
    }
    return decided
  }

  /** 0 if there has never been a half message. */
  async #existing(): Promise<number> {
    try {
      return (await this.#setting.engine.describeTopic(HALF_TOPIC)).partitions.length
    } catch (error) {
      if (isSluiceError(error, 'UNKNOWN_TOPIC')) return 0
      throw error
    }
  }

  #provisioned(): Promise<number> {
    const provisioned = (this.#partitions ??= provisionHalf(this.#setting.engine, PARTITIONS))
    provisioned.catch(() => {
      this.#partitions = null
    })
    return provisioned
  }
}

/** Checked now, so that nothing of it can be refused when it is committed. A delay begins then. */
function delayOf(message: AnyOutgoing): Pick<HalfDelivery, 'delay' | 'deliverAt' | 'delayId'> {
  if (!isDelayed(message)) return {}
  const { delayId } = message
  delayIdOf(0, delayId)
  const at = dueAtOf(message, 0)
  return message.deliverAt === undefined ? { delay: at, delayId } : { deliverAt: at, delayId }
}

function policyOf(options: HalfOptions): HalfPolicy {
  return {
    firstCheckMs: atLeast('firstCheckMs', options.firstCheckMs ?? DEFAULT_POLICY.firstCheckMs, 0),
    checkEveryMs: atLeast('checkEveryMs', options.checkEveryMs ?? DEFAULT_POLICY.checkEveryMs, 1),
    checksMax: atLeast('checksMax', options.checksMax ?? DEFAULT_POLICY.checksMax, 0),
  }
}

function decidedBefore(id: string, decision: HalfOutcome): SluiceError {
  const what = {
    commit: 'committed',
    rollback: 'rolled back',
    expired: 'rolled back, because nobody had decided in time',
  }
  return new SluiceError('HALF_DECIDED', `half message ${id} was ${what[decision]} before`, { id, decision })
}

function placeUnknown(topic: string): SluiceError {
  const what = `topic ${topic}: the half message is stored, but the log does not say where; prepare another, this one expires`
  return new SluiceError('UNAVAILABLE', what, { topic, outcome: 'unknown' })
}
