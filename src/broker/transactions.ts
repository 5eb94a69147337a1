/**
 * The transaction coordinator: the state machine of `transaction.ts`, made durable, and the end of each transaction carried out.
 *
 * What is true when, under `always`:
 *
 *   add      answered once the partition is known to the stored transaction; only then is anything appended to it. So a
 *            partition never holds an open transaction that nobody would end. A producer in this process appends at
 *            once: it ends with the broker, and the start ends what the stored transaction does not know (#endForgotten)
 *   end      1. the decision is stored (Prepare…), durable: from here on it is made, whatever happens
 *            2. markers are appended to all partitions, offsets committed, all of it durable
 *            3. the end of it is noted (Complete…); answered
 *   crash    before 1: the transaction is ongoing, the producer asks again or its time runs out
 *            between 1 and 3: the start finds Prepare… and does 2 again. A partition that has its marker already gets
 *            none, having no open transaction of the producer
 *            after 3, the note not yet durable: as before; nothing else of this id can have been stored in between,
 *            because the notes are in one log, in order; and who goes on from its offsets waits for the note (`hasStaged`)
 *
 * A partition whose disk is full is tried again until there is room. One that has failed gets its marker after the next start.
 */

import { type ErrorCode, isSluiceError, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import type { OffsetCommit } from './offsets.ts'
import type { Partition } from './partition.ts'
import { StateLog } from './state-log.ts'
import {
  type InitRequest,
  isCommitted,
  isOpen,
  isPreparing,
  type Transaction,
  type TransactionalProducer,
  TransactionTable,
} from './transaction.ts'
import {
  decodeTransaction,
  decodeTransactionKey,
  encodeTransaction,
  encodeTransactionKey,
} from './transaction-log.ts'

export interface TransactionsOptions {
  /** Of `__transaction_state`. */
  readonly partition: Partition
  readonly clock: Clock
  /** `transaction.max.timeout.ms`. Default 15 minutes. */
  readonly timeoutMsMax?: number
  /** `transactional.id.expiration.ms`. Default seven days. */
  readonly expirationMs?: number
  allocateProducerId(): Promise<number>
  /** Undefined if it is gone: then there is nothing to end in it. */
  findPartition(topic: string, partition: number): Partition | undefined
  /** All there are. */
  partitions(): Iterable<Partition>
  commitOffsets(group: string, commits: readonly OffsetCommit[]): Promise<void>
}

export interface ProducerIdentity {
  readonly producerId: number
  readonly epoch: number
}

const TIMEOUT_MS_MAX = 15 * 60_000
const EXPIRATION_MS = 7 * 24 * 3_600_000
/** Between two attempts to write what ends a transaction. */
const RETRY_MS = 500
/** Offsets in one transaction: it is stored as a whole each time that something is added to it. */
const STAGED_BYTES_MAX = 4 * 1024 * 1024

export class Transactions {
  readonly timeoutMsMax: number
  readonly #options: TransactionsOptions
  readonly #clock: Clock
  readonly #table: TransactionTable
  /** Transactions that are being ended. */
  readonly #ending = new Map<Transaction, Promise<void>>()
  /** Producers → when the partitions that they added last are stored. */
  readonly #adding = new Map<number, Promise<void>>()
  /** Partitions that the table has and the log perhaps not: nothing is appended to them. */
  readonly #unstored = new Map<Transaction, Set<string>>()
  /** Offsets that were committed by transactions whose end is not noted durably. */
  readonly #unnoted = new Map<Transaction, Set<Transaction['offsets']>>()
  /** Partition and producer → when the transaction that a killed process left there is aborted. */
  readonly #forgotten = new Map<string, Promise<void>>()
  #log!: StateLog
  #timer: { readonly at: number; readonly timer: Timer } | null = null
  #retries = new Set<() => void>()
  #isClosed = false

  /** Loads the table and ends what was decided. Rejects with CORRUPT_LOG. */
  static async open(options: TransactionsOptions): Promise<Transactions> {
    const transactions = new Transactions(options)
    await transactions.#load()
    return transactions
  }

  private constructor(options: TransactionsOptions) {
    this.#options = options
    this.#clock = options.clock
    this.timeoutMsMax = options.timeoutMsMax ?? TIMEOUT_MS_MAX
    this.#table = new TransactionTable(this.timeoutMsMax)
  }

  get all(): IterableIterator<Transaction> {
    return this.#table.all
  }

  get(transactionalId: string): Transaction | undefined {
    return this.#table.get(transactionalId)
  }

  /** By the id that its producer has. */
  of(producerId: number): Transaction | undefined {
    return this.#table.of(producerId)
  }

  /**
   * A producer begins; a transaction that its predecessor left is aborted first. Rejects with INVALID_ARGUMENT, INVALID_TRANSACTION_TIMEOUT,
   * PRODUCER_FENCED, CONCURRENT_TRANSACTIONS and what storing rejects with.
   */
  async init(request: InitRequest): Promise<ProducerIdentity> {
    let fresh: number | null = null
    for (;;) {
      const step = this.#table.init(request, fresh, this.#clock.now())
      switch (step.kind) {
        case 'refused':
          throw refusal(step.error, request.transactionalId)
        case 'needs-producer-id':
          fresh = await this.#options.allocateProducerId()
          break
        case 'aborting':
          await this.#end(step.transaction)
          break
        case 'changed': {
          const { producerId, epoch } = step.transaction
          await this.#store(step.transaction)
          return { producerId, epoch }
        }
      }
    }
  }

  /** Adds partitions; resolves when they are part of the stored transaction. Rejects as `TransactionTable.addPartitions` refuses. */
  addPartitions(
    producer: TransactionalProducer,
    partitions: Iterable<readonly [topic: string, partition: number]>,
  ): Promise<void> {
    const places = [...partitions]
    const names = places.map(([topic, partition]) => placeOf(topic, partition))
    const { producerId } = producer
    const known = this.#table.of(producerId)
    const unstored = (known && this.#unstored.get(known)) ?? new Set()
    const isNew =
      places.length === 0 || names.some((name, index) => unstored.has(name) || !hasPart(known, places[index]))
    const step = this.#table.addPartitions(producer, places, this.#clock.now())
    if (step.kind === 'changed' && !isNew) return this.#adding.get(producerId) ?? Promise.resolve()
    const added = this.#change(producer, step)
    if (step.kind === 'refused') return added
    const { transaction } = step
    for (const name of names) unstored.add(name)
    this.#unstored.set(transaction, unstored)
    const clear = (): void => {
      if (this.#adding.get(producerId) === added) this.#adding.delete(producerId)
    }
    this.#adding.set(producerId, added)
    added.then(() => {
      clear()
      for (const name of names) unstored.delete(name)
      if (unstored.size === 0 && this.#unstored.get(transaction) === unstored)
        this.#unstored.delete(transaction)
    }, clear)
    return added
  }

  /**
   * A producer in this process is about to append to a partition. Not stored before the decision, with which it is: whoever could go on with
   * the transaction ends with the broker, and the start ends what it left (`#endForgotten`). Throws as `addPartitions` rejects.
   */
  enlist(producer: TransactionalProducer, topic: string, partition: number): void {
    if (this.#hasForgotten(producer.producerId, topic, partition))
      throw refusal('CONCURRENT_TRANSACTIONS', producer.transactionalId)
    this.#take(producer, this.#table.addPartitions(producer, [[topic, partition]], this.#clock.now()))
  }

  /** The same for offsets of a group. Throws as `stageOffsets` rejects. */
  enlistOffsets(producer: TransactionalProducer, group: string, commits: readonly OffsetCommit[]): void {
    this.#take(producer, this.#table.addGroup(producer, group, this.#clock.now()))
    this.#checkStaged(producer, commits)
    this.#take(producer, this.#table.stageOffsets(producer, group, commits))
  }

  /** Resolves when what was added to the producer's transaction so far is stored; null if it is. */
  adding(producerId: number): Promise<void> | null {
    return this.#adding.get(producerId) ?? null
  }

  addGroup(producer: TransactionalProducer, group: string): Promise<void> {
    return this.#change(producer, this.#table.addGroup(producer, group, this.#clock.now()))
  }

  async stageOffsets(
    producer: TransactionalProducer,
    group: string,
    commits: readonly OffsetCommit[],
  ): Promise<void> {
    this.#checkStaged(producer, commits)
    await this.#change(producer, this.#table.stageOffsets(producer, group, commits))
  }

  #checkStaged(
    { producerId, transactionalId }: TransactionalProducer,
    commits: readonly OffsetCommit[],
  ): void {
    const known = this.#table.of(producerId)
    const bytes = bytesOf(commits) + (known === undefined ? 0 : bytesStaged(known))
    if (bytes <= STAGED_BYTES_MAX) return
    const message = `transactional id "${transactionalId}": offsets of ${bytes} bytes are more than a transaction takes (${STAGED_BYTES_MAX})`
    throw new SluiceError('INVALID_ARGUMENT', message, { bytes })
  }

  /** Topics are gone: what transactions would commit in them must not count for others of the same names. */
  async forgetOffsets(isGone: (topic: string) => boolean): Promise<void> {
    await Promise.all(this.#table.forgetOffsets(isGone).map(transaction => this.#store(transaction)))
  }

  hasStaged(group: string, topic: string, partition: number): boolean {
    if (this.#table.hasStaged(group, topic, partition)) return true
    const place = placeOf(topic, partition)
    for (const unnoted of this.#unnoted.values())
      for (const offsets of unnoted) if (offsets.get(group)?.has(place)) return true
    return false
  }

  /** Why a producer's batch must not be appended; null if it may be: its partition is part of the stored transaction. */
  checkAppend(producerId: number, epoch: number, topic: string, partition: number): ErrorCode | null {
    const refusal = this.#table.checkAppend(producerId, epoch, topic, partition)
    if (refusal === null && this.#hasForgotten(producerId, topic, partition)) return 'CONCURRENT_TRANSACTIONS'
    if (refusal !== null || this.#unstored.size === 0) return refusal
    const transaction = this.#table.of(producerId)
    const isUnstored = transaction && this.#unstored.get(transaction)?.has(placeOf(topic, partition))
    return isUnstored ? 'INVALID_TXN_STATE' : null
  }

  /**
   * Commits or aborts; resolves when readers see it. `renews`: the producer goes on with the id and epoch returned (KIP-890), otherwise these are
   * what it has. Rejects as `TransactionTable.end` refuses.
   */
  async end(producer: TransactionalProducer, commit: boolean, renews: boolean): Promise<ProducerIdentity> {
    let fresh: number | null = null
    for (;;) {
      const step = this.#table.end(producer, commit, renews, fresh, this.#clock.now())
      if (step.kind === 'refused') throw refusal(step.error, producer.transactionalId)
      if (step.kind === 'needs-producer-id') {
        fresh = await this.#options.allocateProducerId()
        continue
      }
      const { producerId, epoch } = step.transaction
      if (step.kind === 'prepared') await this.#end(step.transaction)
      else if (step.changed) await this.#store(step.transaction)
      return { producerId, epoch }
    }
  }

  /** Forgets ids that have not been used for long. */
  async expireIds(): Promise<void> {
    const unused = this.#table.unusedSince(this.#clock.now() - (this.#options.expirationMs ?? EXPIRATION_MS))
    for (const { transactionalId } of unused) this.#table.remove(transactionalId)
    await this.#log.write(unused.map(({ transactionalId }) => [encodeTransactionKey(transactionalId), null]))
  }

  /** What is being ended stays decided, and is ended after the next start. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#timer?.timer.cancel()
    for (const retry of [...this.#retries]) retry()
    await Promise.allSettled(this.#ending.values())
    await this.#log.close()
  }

  async #load(): Promise<void> {
    this.#log = await StateLog.open({
      partition: this.#options.partition,
      clock: this.#clock,
      load: (key, value) => {
        const transactionalId = decodeTransactionKey(key)
        if (transactionalId === null) return
        if (value === null) this.#table.remove(transactionalId)
        else this.#table.load(decodeTransaction(transactionalId, value))
      },
      entries: function* (this: Transactions) {
        for (const each of this.#table.all)
          yield [encodeTransactionKey(each.transactionalId), encodeTransaction(each)] as const
      }.bind(this),
    })
    for (const transaction of this.#table.all) {
      // Waiting for it would keep the server from starting while one partition has no room.
      if (isPreparing(transaction)) this.#carryOut(transaction).catch(ignoreRefusals)
    }
    for (const partition of this.#options.partitions()) this.#endForgotten(partition)
    this.#watch(this.#table.nextDeadline())
  }

  /**
   * Aborts transactions of a partition that nobody else would end. Under `always` there are none: a partition is part of the stored
   * transaction before anything is appended to it, but for producers in this process. With weaker policies a power cut may take the one and leave the other.
   */
  #endForgotten({ topic, partition, log }: Partition): void {
    for (const { producerId, epoch } of [...log.producers.openTransactions()]) {
      const transaction = this.#table.of(producerId)
      const isKnown =
        transaction !== undefined && isOpen(transaction) && transaction.partitions.get(topic)?.has(partition)
      if (isKnown) continue
      const abort = async (): Promise<void> =>
        this.#options.findPartition(topic, partition)?.endTransaction(producerId, epoch, false)
      const key = forgottenKey(producerId, topic, partition)
      const aborted = this.#untilDone(abort).finally(() => this.#forgotten.delete(key))
      this.#forgotten.set(key, aborted)
      aborted.catch(ignoreRefusals)
    }
  }

  /** What it left must not become part of its next transaction. */
  #hasForgotten(producerId: number, topic: string, partition: number): boolean {
    return this.#forgotten.size > 0 && this.#forgotten.has(forgottenKey(producerId, topic, partition))
  }

  async #change(
    producer: TransactionalProducer,
    step: ReturnType<TransactionTable['addPartitions']>,
  ): Promise<void> {
    await this.#store(this.#take(producer, step))
  }

  #take(
    { transactionalId }: TransactionalProducer,
    step: ReturnType<TransactionTable['addPartitions']>,
  ): Transaction {
    if (step.kind === 'refused') throw refusal(step.error, transactionalId)
    const { startTime, timeoutMs } = step.transaction
    this.#watch(startTime + timeoutMs)
    return step.transaction
  }

  async #store(transaction: Transaction): Promise<void> {
    const noted = [...(this.#unnoted.get(transaction) ?? [])]
    await this.#log.write([
      [encodeTransactionKey(transaction.transactionalId), encodeTransaction(transaction)],
    ])
    if (noted.length > 0) this.#forgetUnnoted(transaction, noted)
  }

  /** Stores a decision and carries it out. If it cannot be stored it is none. */
  async #end(transaction: Transaction): Promise<void> {
    try {
      await this.#store(transaction)
    } catch (error) {
      this.#table.undecided(transaction)
      // Not at once, if it is late: what keeps it from being stored now does so in a moment, too.
      this.#watch(Math.max(this.#table.nextDeadline(), this.#clock.now() + RETRY_MS))
      throw error
    }
    await this.#carryOut(transaction)
  }

  #carryOut(transaction: Transaction): Promise<void> {
    const ending = this.#finish(transaction).finally(() => this.#ending.delete(transaction))
    this.#ending.set(transaction, ending)
    return ending
  }

  async #finish(transaction: Transaction): Promise<void> {
    const commit = isCommitted(transaction)
    const partitions = [...transaction.partitions].flatMap(([topic, indexes]) =>
      [...indexes].map(index => [topic, index] as const),
    )
    const tasks = partitions.map(
      ([topic, index]) =>
        () =>
          this.#mark(transaction, topic, index, commit),
    )
    if (commit) {
      for (const [group, commits] of transaction.offsets) {
        if (commits.size > 0) tasks.push(() => this.#options.commitOffsets(group, [...commits.values()]))
      }
    }
    await Promise.all(tasks.map(task => this.#untilDone(task)))
    const offsets: Transaction['offsets'] = new Map(commit ? transaction.offsets : [])
    this.#unstored.delete(transaction)
    this.#table.completed(transaction, this.#clock.now())
    const noted = this.#note(transaction, offsets)
    if (offsets.size > 0) await noted
  }

  /**
   * Notes the end. If that is lost, the end is carried out once more. To the partitions this does nothing, so it need not be waited for; but it
   * would take back offsets that were committed since. So until it is noted they count as unstable, for those who are to go on from them.
   */
  #note(transaction: Transaction, offsets: Transaction['offsets']): Promise<void> {
    const isUnnoted = (): boolean => this.#unnoted.get(transaction)?.has(offsets) === true
    if (offsets.size > 0) {
      const unnoted = this.#unnoted.get(transaction) ?? new Set()
      this.#unnoted.set(transaction, unnoted.add(offsets))
    }
    const store = async (): Promise<void> => {
      // If it failed, what was stored of a later transaction of this id has noted it, too.
      if (offsets.size > 0 && !isUnnoted()) return
      if (this.#table.get(transaction.transactionalId) === transaction) await this.#store(transaction)
    }
    return this.#untilDone(store)
      .finally(() => this.#forgetUnnoted(transaction, [offsets]))
      .catch(ignoreRefusals)
  }

  #forgetUnnoted(transaction: Transaction, noted: readonly Transaction['offsets'][]): void {
    const unnoted = this.#unnoted.get(transaction)
    if (unnoted === undefined) return
    for (const offsets of noted) unnoted.delete(offsets)
    if (unnoted.size === 0) this.#unnoted.delete(transaction)
  }

  async #mark(transaction: Transaction, topic: string, index: number, commit: boolean): Promise<void> {
    const partition = this.#options.findPartition(topic, index)
    const { markerProducerId, markerEpoch } = transaction
    const forgotten = this.#forgotten.get(forgottenKey(markerProducerId, topic, index))
    if (forgotten !== undefined) await forgotten // this marker would end it, and perhaps commit it
    try {
      await partition?.endTransaction(markerProducerId, markerEpoch, commit)
    } catch (error) {
      // Deleted meanwhile: there is nothing left to end. Closed with the broker: it is ended after the next start.
      const isGone = isSluiceError(error, 'CLOSED') && this.#options.findPartition(topic, index) !== partition
      // An admin has ended it, under a newer epoch.
      const isEnded = isSluiceError(error, 'INVALID_PRODUCER_EPOCH')
      if (!isGone && !isEnded) throw error
    }
  }

  /** Tries again while the disk is full. Rejects with CLOSED once the coordinator is closed. */
  async #untilDone(task: () => Promise<void>): Promise<void> {
    for (;;) {
      try {
        await task()
        return
      } catch (error) {
        if (!isSluiceError(error)) throw error
      }
      if (!this.#isClosed) await this.#pause()
      if (this.#isClosed) throw new SluiceError('CLOSED', 'the broker was closed')
    }
  }

  #pause(): Promise<void> {
    return new Promise(resolve => {
      const go = (): void => {
        timer.cancel()
        this.#retries.delete(go)
        resolve()
      }
      const timer = this.#clock.after(RETRY_MS, go)
      this.#retries.add(go)
    })
  }

  /** Sees to it that `expire` is called at the latest at `deadline`. */
  #watch(deadline: number): void {
    if (this.#isClosed || deadline === Number.POSITIVE_INFINITY) return
    if (this.#timer !== null && this.#timer.at <= deadline) return
    this.#timer?.timer.cancel()
    const timer = this.#clock.after(Math.max(0, deadline - this.#clock.now()), () => {
      this.#timer = null
      for (const late of this.#table.expire(this.#clock.now())) this.#end(late).catch(ignoreRefusals)
      this.#watch(this.#table.nextDeadline())
    })
    this.#timer = { at: deadline, timer }
  }
}

const placeOf = (topic: string, partition: number): string => `${topic}-${partition}`

const forgottenKey = (producerId: number, topic: string, partition: number): string =>
  `${placeOf(topic, partition)} ${producerId}`

const hasPart = (
  transaction: Transaction | undefined,
  [topic, partition]: readonly [string, number],
): boolean => transaction?.partitions.get(topic)?.has(partition) ?? false

const refusals: Partial<Record<ErrorCode, string>> = {
  INVALID_ARGUMENT: 'a transactional id must not be empty',
  INVALID_TRANSACTION_TIMEOUT: 'the time-out is not between 1 ms and transaction.max.timeout.ms',
  PRODUCER_FENCED: 'a newer producer with the same transactional id has taken over',
  CONCURRENT_TRANSACTIONS: 'the transaction before is still being ended',
  INVALID_PRODUCER_ID_MAPPING: 'the producer id does not belong to it',
  INVALID_TXN_STATE: 'there is no such transaction under way',
}

const refusal = (error: ErrorCode, transactionalId: string): SluiceError =>
  new SluiceError(error, `transactional id "${transactionalId}": ${refusals[error] ?? error}`, {
    transactionalId,
  })

/** At most about what the offsets take up in the stored transaction. */
function bytesOf(commits: Iterable<OffsetCommit>): number {
  let bytes = 0
  for (const { topic, metadata } of commits) bytes += 24 + 3 * (topic.length + metadata.length)
  return bytes
}

const bytesStaged = ({ offsets }: Transaction): number => {
  let bytes = 0
  for (const commits of offsets.values()) bytes += bytesOf(commits.values())
  return bytes
}

/** For what nobody waits for: it is done again after the next start. */
export function ignoreRefusals(error: unknown): void {
  if (!isSluiceError(error)) throw error
}
