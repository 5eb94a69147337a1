/**
 * The relay of half messages: a member of the group `_sluice.half` that carries out what is decided about the half messages of its partitions, and
 * asks about those that are undecided. Several share the work; when one is gone, others go on where it was.
 *
 *     consumer (group) ─── partitions come and go ───▶ HalfPartition ───▶ Settler: publications + ledger, one transaction
 *
 * A message is published exactly when its half message is finished in the group's commit, and the generation of the group fences a relay that was
 * thought dead: so it is published once. How far the decisions were read is kept beside, in a group without members; who reads some of them
 * again does nothing twice.
 */

import { EventEmitter } from 'node:events'
import type { CommittedOffset, Engine, TopicPartition } from '../engine/engine.ts'
import { asSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock, type Timer } from '../lib/clock.ts'
import { Consumer } from './consumer.ts'
import { HalfWebhooks } from './half-checker.ts'
import { HalfPartition, type HalfPartitionContext, type HalfRolledBack } from './half-partition.ts'
import { DECISIONS_TOPIC, HALF_GROUP, HALF_TOPIC, provisionHalf } from './half-record.ts'
import type { MessageBatch } from './message.ts'
import { atLeast } from './option.ts'
import { Producer } from './producer.ts'
import type { ProducerSetting } from './producer-options.ts'
import { rawTopic } from './raw-topic.ts'
import { SessionLoop } from './session-loop.ts'
import { type Publication, Settler } from './settler.ts'
import { type Transaction, Transactions } from './transaction.ts'
import { emitError } from './warn.ts'

export interface HalfRelayOptions {
  /** Partitions of the topics of half messages, if they are to be made. Default 4. */
  readonly partitions?: number
  /** Half messages that are kept in memory until they are decided; the others are read again. Default 32 MiB. */
  readonly memoryBytesMax?: number
  /** A webhook has so long to answer. Default 10,000. */
  readonly webhookTimeoutMs?: number
  /** Requests to webhooks at a time. Default 16. */
  readonly webhooksMax?: number
  /** How often what was decided is deleted: what was decided by the time before. Default an hour. */
  readonly pruneEveryMs?: number
}

export interface HalfRelaySetting {
  readonly engine: Engine
  readonly clock?: Clock
  readonly clientId?: string
  /** Makes the topics of delayed messages. Without it half messages with a delay become dead letters. */
  readonly delays?: ProducerSetting['delays']
}

export interface HalfRelayEvents {
  /** Nobody decided about a half message in time. It is a dead letter now. */
  rolledBack: [event: HalfRolledBack]
  /** Something went wrong that the relay goes on from by itself. Without a listener it is a process warning. */
  error: [error: SluiceError]
}

export const HALF_PARTITIONS = 4
/** Who reads the decisions keeps here how far it is. A group without members. */
const DECISIONS_GROUP = '_sluice.half.decisions'
const MEMORY_BYTES_MAX = 32 * 1024 * 1024
const SAVE_MS = 5_000
const PRUNE_MS = 3_600_000
/** A relay that was killed holds up the next one for so long, if a transaction of its own was open. */
const TRANSACTION_MS = 5_000
/** Partitions are read side by side, all that there are. */
const PARTITIONS_MAX = 10_000

export class HalfRelay extends EventEmitter<HalfRelayEvents> {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #clientId: string
  readonly #delays: ProducerSetting['delays']
  readonly #partitions: number
  readonly #webhooks: HalfWebhooks
  readonly #pruneMs: number
  readonly #memoryBytesMax: number
  #producer: Producer | null = null
  #transactions: Transactions | null = null
  #sessions: SessionLoop | null = null

  /** Throws `INVALID_ARGUMENT`. */
  constructor(setting: HalfRelaySetting, options: HalfRelayOptions = {}) {
    super()
    this.#engine = setting.engine
    this.#clock = setting.clock ?? systemClock
    this.#clientId = setting.clientId ?? 'sluice'
    this.#delays = setting.delays
    this.#partitions = atLeast('partitions', options.partitions ?? HALF_PARTITIONS, 1)
    this.#memoryBytesMax = atLeast('memoryBytesMax', options.memoryBytesMax ?? MEMORY_BYTES_MAX, 0)
    this.#pruneMs = atLeast('pruneEveryMs', options.pruneEveryMs ?? PRUNE_MS, 1)
    this.#webhooks = new HalfWebhooks(
      this.#clock,
      atLeast('webhookTimeoutMs', options.webhookTimeoutMs ?? 10_000, 1),
      atLeast('webhooksMax', options.webhooksMax ?? 16, 1),
      error => this.#warn(error),
    )
  }

  /** Resolves when it is at work. Throws `UNSUPPORTED` where there are no transactions, and what topics cannot be made for. */
  async start(): Promise<void> {
    if (this.#sessions !== null) return
    if (!this.#engine.supports.transactions) {
      throw new SluiceError(
        'UNSUPPORTED',
        `${this.#engine.url} has no transactions, which half messages need`,
      )
    }
    await provisionHalf(this.#engine, this.#partitions)
    if (this.#sessions !== null) return
    const producer = new Producer({}, { engine: this.#engine, clock: this.#clock })
    const transactions = new Transactions(
      this.#engine,
      this.#clock,
      `${this.#clientId}-half`,
      true,
      this.#delays,
    )
    this.#producer = producer
    this.#transactions = transactions
    this.#sessions = new SessionLoop({
      clock: this.#clock,
      name: 'the relay of half messages',
      make: () => this.#makeSession(producer, transactions),
      warn: error => this.#warn(error),
    })
    this.#sessions.start()
  }

  /** Carries out what it has begun, gives its partitions back, and resolves. */
  async stop(): Promise<void> {
    await this.#sessions?.stop()
    await this.#transactions?.close()
    await this.#producer?.close()
    this.#sessions = null
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #makeSession(producer: Producer, transactions: Transactions): Session {
    let memory = this.#memoryBytesMax
    return new Session({
      engine: this.#engine,
      clock: this.#clock,
      clientId: this.#clientId,
      pruneMs: this.#pruneMs,
      webhooks: this.#webhooks,
      producer,
      transactions,
      takeMemory: bytes => {
        if (bytes > memory) return false
        memory -= bytes
        return true
      },
      rolledBack: event => this.emit('rolledBack', event),
      warn: error => this.#warn(error),
    })
  }

  #warn(error: SluiceError): void {
    emitError(this, error)
  }
}

interface SessionContext {
  readonly engine: Engine
  readonly clock: Clock
  readonly clientId: string
  readonly pruneMs: number
  readonly webhooks: HalfWebhooks
  readonly producer: Producer
  readonly transactions: Transactions
  readonly takeMemory: (bytes: number) => boolean
  readonly rolledBack: (event: HalfRolledBack) => void
  readonly warn: (error: SluiceError) => void
}

/** From joining the group to leaving it. */
class Session {
  readonly #context: SessionContext
  readonly #consumer: Consumer
  readonly #settler: Settler
  readonly #partitions = new Map<number, HalfPartition>()
  /** What had been finished when it was pruned last, by partition: half messages, decisions. */
  readonly #pruned = new Map<number, { readonly half: number; readonly decisions: number }>()
  /** None once the session is over. */
  readonly #timers: Timer[] = []
  #failure: { readonly error: unknown } | null = null

  constructor(context: SessionContext) {
    const { engine, clock, clientId, warn } = context
    this.#context = context
    const consumer = new Consumer(
      { topics: [rawTopic(HALF_TOPIC)], group: HALF_GROUP, autoCommit: false, concurrency: PARTITIONS_MAX },
      {
        engine,
        clock,
        clientId,
        background: true,
        hooks: {
          taken: (of, position, committed) => this.#take(of, position, committed),
          giveUp: (partitions, deadlineMs) => this.#giveUp(partitions, deadlineMs),
          lost: partitions => this.#lose(partitions),
        },
      },
    ) as unknown as Consumer
    consumer.on('error', warn)
    // a topic that was made anew: what the ledger says is about another one
    consumer.on('outOfRange', change => {
      this.#lose([change])
      this.#take(change, change.resetTo, undefined)
    })
    this.#consumer = consumer
    this.#settler = new Settler({
      clock,
      pauseMs: 0,
      commit: offsets => consumer.commit(offsets),
      transact: body => this.#transact(body),
      stage: (transaction, offsets) => transaction.commit(consumer, offsets),
      committed: partitions => engine.committed(HALF_GROUP, partitions),
      refused: (publications, error) => this.#refused(publications, error),
      warn,
      fail: error => this.#fail(error),
      settled: () => {},
    })
  }

  async run(): Promise<void> {
    this.#repeat(0, SAVE_MS, () => this.#save([...this.#partitions.values()]))
    this.#repeat(1, this.#context.pruneMs, () => this.#prune())
    try {
      await this.#transact(async () => {})
      await this.#consumer.runBatch(batch => this.#handle(batch as MessageBatch<unknown, unknown>))
    } finally {
      for (const timer of this.#timers.splice(0)) timer?.cancel()
      this.#lose([...this.#settler.holdings])
      this.#settler.close()
      await this.#consumer.stop()
    }
    if (this.#failure !== null) throw (this.#failure as { error: unknown }).error
  }

  stop(): Promise<void> {
    return this.#consumer.stop()
  }

  /** In one process there is one relay: under a name of its own it ends at once what one that was killed has left behind. */
  #transact(body: (transaction: Transaction) => Promise<void>): Promise<void> {
    const { engine, transactions } = this.#context
    const transactionalId = engine.supports.losesAnswers ? undefined : HALF_GROUP
    return transactions.run(body, { transactionalId, timeoutMs: TRANSACTION_MS })
  }

  async #handle(batch: MessageBatch<unknown, unknown>): Promise<void> {
    await this.#partitions.get(batch.partition)?.take(batch)
  }

  #fail(error: unknown): void {
    this.#failure ??= { error }
    void this.#consumer.stop()
  }

  #take(of: TopicPartition, position: number, committed: CommittedOffset | undefined): void {
    const holding = this.#settler.take(of, position, committed)
    const { engine, clock, webhooks, producer, takeMemory, rolledBack, warn } = this.#context
    const context: HalfPartitionContext = {
      engine,
      clock,
      webhooks,
      takeMemory,
      rolledBack,
      warn,
      settler: this.#settler,
      placeOf: async partition => {
        const [found] = await engine.committed(DECISIONS_GROUP, [{ topic: DECISIONS_TOPIC, partition }])
        return found?.offset
      },
      publish: (topic, message) => producer.send(rawTopic(topic), message),
      fail: error => this.#fail(error),
    }
    this.#partitions.set(of.partition, new HalfPartition(holding, context))
  }

  async #giveUp(of: readonly TopicPartition[], deadlineMs: number): Promise<void> {
    const partitions = this.#held(of)
    for (const partition of partitions) partition.halt()
    const ended = async (): Promise<void> => {
      await Promise.all(partitions.map(partition => partition.end()))
      await this.#settler.flush()
      // what is not saved the next owner reads again
      await this.#save(partitions).catch(error => this.#context.warn(asSluiceError(error)))
    }
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = this.#context.clock.after(deadlineMs, resolve)
    await Promise.race([ended(), promise])
    timer.cancel()
    this.#lose(of)
  }

  #lose(of: readonly TopicPartition[]): void {
    for (const partition of this.#held(of)) {
      partition.halt()
      void partition.end()
      this.#partitions.delete(partition.partition)
      this.#pruned.delete(partition.partition)
    }
    this.#settler.drop(of)
  }

  #held(of: readonly TopicPartition[]): HalfPartition[] {
    return of.map(({ partition }) => this.#partitions.get(partition)).filter(held => held !== undefined)
  }

  #refused(publications: readonly Publication[], error: SluiceError): readonly Publication[] | null {
    for (const partition of this.#partitions.values()) {
      const substitute = partition.refused(publications, error)
      if (substitute !== null) return substitute
    }
    return null
  }

  /** Remembers how far the decisions are carried out. */
  async #save(partitions: readonly HalfPartition[]): Promise<void> {
    const unsaved = partitions.filter(({ place, savedPlace }) => place >= 0 && place !== savedPlace)
    if (unsaved.length === 0) return
    const offsets = unsaved.map(({ place: offset, partition }) => ({
      topic: DECISIONS_TOPIC,
      partition,
      offset,
    }))
    await this.#context.engine.commit(DECISIONS_GROUP, offsets)
    unsaved.forEach((held, index) => {
      held.savedPlace = offsets[index].offset
    })
  }

  /** Deletes what was finished the time before, so that what was decided can be told for that long. */
  async #prune(): Promise<void> {
    const { engine } = this.#context
    if (!engine.supports.deleteRecords) return
    for (const { partition, place } of this.#partitions.values()) {
      const [committed] = await engine.committed(HALF_GROUP, [{ topic: HALF_TOPIC, partition }])
      if (committed === undefined || place < 0) continue
      const before = this.#pruned.get(partition)
      this.#pruned.set(partition, { half: committed.offset, decisions: place })
      if (before === undefined) continue
      await engine.deleteRecords(HALF_TOPIC, partition, before.half)
      await engine.deleteRecords(DECISIONS_TOPIC, partition, before.decisions)
    }
  }

  #repeat(index: number, everyMs: number, work: () => Promise<void>): void {
    this.#timers[index] = this.#context.clock.after(everyMs, () => {
      work()
        .catch(error => this.#context.warn(asSluiceError(error, 'the relay of half messages')))
        .finally(() => {
          if (this.#timers.length > 0) this.#repeat(index, everyMs, work)
        })
    })
  }
}
