/**
 * Clients for `transaction-simulation.ts`: what a producer of either version of transactions does, one step at a time, with lost answers and
 * late batches; and what must hold of each answer, as far as one client can tell.
 *
 *   init → (produce │ offsets)… → end → …    first version: AddPartitionsToTxn, AddOffsetsToTxn first; the epoch stays, and is renewed
 *                                            (InitProducerId) after a batch of which it is not known what became of it
 *                                            second version (KIP-890): nothing to add; each end gives a new epoch
 *
 * A client that was fenced may not know it, and goes on: every answer that takes it for alive is a failure.
 */

import assert from 'node:assert/strict'
import { BatchBuilder, type CloseOptions } from '../../src/record/builder.ts'
import type { Random } from './random.ts'
import {
  type Batch,
  type Owners,
  type PartitionModel,
  type Place,
  type Staged,
  Transaction,
  type Writer,
} from './transaction-model.ts'
import type { Life } from './transaction-wire.ts'

/** What clients share. */
export interface World {
  readonly life: Life
  readonly random: Random
  readonly partitions: readonly PartitionModel[]
  readonly late: LateBatch[]
  now(): number
  count(what: string): void
  trace(line: string): void
  /** Never the same. */
  newName(prefix: string): string
  /** Larger each time. */
  newOffset(): number
  /** Nothing is to be written to it just now. */
  isBlocked(partition: PartitionModel): boolean
}

/** Given up by its producer, and still on its way. */
export interface LateBatch {
  readonly version: number
  readonly transactionalId: string | null
  readonly batch: Batch
}

interface Identity {
  readonly producerId: number
  readonly epoch: number
}

/** All clients of a transactional id, the oldest first. */
export interface Line extends Owners {
  attempts: number
  readonly clients: TransactionalClient[]
  readonly places: readonly Place[]
}

// codes of Kafka
const NONE = 0
const COORDINATOR_LOADING = 14
const INVALID_PRODUCER_EPOCH = 47
const INVALID_TXN_STATE = 48
const INVALID_PRODUCER_ID_MAPPING = 49
const CONCURRENT_TRANSACTIONS = 51
const STORAGE_ERROR = 56
const PRODUCER_FENCED = 90
const TRANSACTION_ABORTABLE = 120

const FENCED: readonly number[] = [INVALID_PRODUCER_EPOCH, PRODUCER_FENCED, INVALID_PRODUCER_ID_MAPPING]
const builder = new BatchBuilder(256)

export function makeBatch(
  world: World,
  writer: Writer,
  transaction: Transaction | null,
  partition: PartitionModel,
  options: CloseOptions,
): Batch {
  const { random } = world
  builder.reset()
  const records = Array.from({ length: random.between(1, 3) }, () => ({
    key: `k${random.below(6)}`,
    value: world.newName(transaction?.name ?? 'plain'),
  }))
  for (const { key, value } of records) builder.append(world.now(), key, value, null)
  const bytes = Buffer.from(builder.close({ ...options, transactional: transaction !== null }))
  const batch: Batch = {
    ...{ writer, transaction, partition, records, bytes },
    ...{ offset: -1, attempts: 0, isFound: false },
  }
  partition.sent.set(records[0].value, batch)
  return batch
}

/** Sends batches of different partitions. Resolves with a code for each. */
export async function produce(
  world: World,
  version: number,
  transactionalId: string | null,
  batches: readonly Batch[],
): Promise<number[]> {
  const { life } = world
  const isOver = batches.map(({ transaction, writer }) => writer.isSuperseded || transaction?.isOver === true)
  for (const batch of batches) batch.attempts++
  const topicData = batches.map(({ partition, bytes }) => ({
    name: partition.topic,
    partitionData: [{ index: partition.index, records: bytes }],
  }))
  const { responses } = await life.call('Produce', version, {
    transactionalId,
    acks: -1,
    timeoutMs: 1000,
    topicData,
  })
  return batches.map((batch, index) => {
    const { errorCode, baseOffset } = responses[index].partitionResponses[0]
    const { partition, records, transaction } = batch
    const name = `${records[0].value} to ${partition.name}`
    world.trace(`${name}: ${errorCode === NONE ? `offset ${baseOffset}` : `code ${errorCode}`}`)
    if (errorCode === NONE) {
      const isKnown = batch.offset === baseOffset
      assert(!isOver[index] || isKnown, `${name} was taken at ${baseOffset} after its transaction was over`)
      if (isKnown) world.count('repeated batch')
      partition.acknowledge(batch, baseOffset)
      if (transaction !== null) transaction.startedBy = Math.min(transaction.startedBy, world.now())
    } else if (errorCode !== STORAGE_ERROR) batch.attempts--
    return errorCode
  })
}

export class TransactionalClient implements Writer {
  readonly owners: Line
  readonly version: 1 | 2
  readonly timeoutMs: number
  attempt = 0
  isSuperseded = false
  /** A step is under way. */
  isBusy = false
  /** It knows that it is fenced. */
  isDead = false
  readonly #world: World
  #identity: Identity | null = null
  #transaction: Transaction | null = null
  readonly #added = new Set<PartitionModel | string>()
  readonly #sequences = new Map<PartitionModel, number>()
  /** Sent, or about to be, and not known to be stored. */
  #unresolved: Batch[] = []
  #unstaged: Staged[] = []
  #mustAbort = false
  /** What became of a batch is not known: a new epoch is needed. */
  #needsInit = false
  #mayHaveRunOut = false

  constructor(world: World, owners: Line, version: 1 | 2, timeoutMs: number) {
    this.#world = world
    this.owners = owners
    this.version = version
    this.timeoutMs = timeoutMs
  }

  get identity(): Identity | null {
    return this.#identity
  }

  get hasTransaction(): boolean {
    return this.#transaction !== null
  }

  async step(): Promise<void> {
    const { random } = this.#world
    const transaction = this.#transaction
    if (this.#identity === null) return this.#init()
    if (transaction === null) {
      if (this.#needsInit || random.chance(0.03)) return this.#init()
      if (this.version === 2 && random.chance(0.05)) return this.#abortNothing()
      this.#begin()
    } else {
      if (transaction.asked !== null) return this.#end(transaction.asked === 'commit')
      if (random.chance(0.02)) return this.#init()
    }
    if (this.#unresolved.length + this.#unstaged.length > 0 && !this.#mustAbort) return this.#resolve()
    const choice = random.below(100)
    if (transaction === null || (!this.#mustAbort && choice < 45)) return this.#produce()
    if (!this.#mustAbort && choice < 62) return this.#commitOffsets()
    if (choice < 62 && random.chance(0.5)) return
    return this.#end(!this.#mustAbort && random.chance(0.65))
  }

  /** Nothing more is heard of what is under way. */
  disconnect(): void {
    this.isBusy = false
  }

  // --- the epoch ---

  async #init(): Promise<void> {
    const { life } = this.#world
    const { owners, timeoutMs, isSuperseded } = this
    const before = this.#identity
    const attempt = ++owners.attempts
    if (this.#transaction !== null) this.#transaction.isLeft = true
    this.#needsInit = true
    const { errorCode, producerId, producerEpoch } = await life.call(
      'InitProducerId',
      4 + (this.version - 1),
      {
        transactionalId: owners.transactionalId,
        transactionTimeoutMs: timeoutMs,
        producerId: before?.producerId ?? -1,
        producerEpoch: before?.epoch ?? -1,
      },
    )
    this.#trace(`init: ${errorCode === NONE ? `${producerId}/${producerEpoch}` : `code ${errorCode}`}`)
    if (errorCode !== NONE) return this.#refused(errorCode)
    assert(before === null || !isSuperseded, `${this.#name}: a zombie begins again`)
    this.#world.count(before === null ? 'new client' : 'new epoch')
    if (this.#transaction !== null) this.#over(this.#transaction)
    this.#take({ producerId, epoch: producerEpoch }, attempt)
  }

  #take(identity: Identity, attempt: number): void {
    const before = this.#identity
    const { producerId, epoch } = identity
    this.#needsInit = false
    this.#mayHaveRunOut = false
    this.attempt = attempt
    this.#identity = identity
    if (before === null || before.producerId !== producerId || before.epoch !== epoch) this.#sequences.clear()
    for (const other of this.owners.clients) {
      const known = other.identity
      if (other === this || known === null) continue
      const name = `${this.#name} and ${other.#name}`
      assert(known.producerId !== producerId || known.epoch !== epoch, `${name} have ${producerId}/${epoch}`)
      const isNewer =
        known.producerId < producerId || (known.producerId === producerId && known.epoch < epoch)
      const fenced = isNewer ? other : this
      if (!fenced.isSuperseded && fenced.hasTransaction) this.#world.count('zombie with a transaction')
      fenced.isSuperseded = true
    }
  }

  /** After an error: KIP-890 gives the new epoch for it. */
  async #abortNothing(): Promise<void> {
    const { life } = this.#world
    const { isSuperseded, attempt } = this
    // If it is not answered, a new epoch is asked for the other way.
    this.#needsInit = true
    const answer = await life.call('EndTxn', 5, { ...this.#producer, committed: false })
    if (answer.errorCode !== NONE) return this.#refused(answer.errorCode)
    assert(!isSuperseded, `${this.#name}: a zombie ends a transaction`)
    this.#world.count('abort of nothing')
    this.#take({ producerId: answer.producerId, epoch: answer.producerEpoch }, attempt)
  }

  // --- a transaction ---

  #begin(): void {
    const { world, name } = { world: this.#world, name: this.#world.newName(this.owners.transactionalId) }
    this.#transaction = new Transaction(name, this, this.timeoutMs, world.now())
    this.#added.clear()
    this.#unresolved = []
    this.#unstaged = []
    this.#mustAbort = false
  }

  async #produce(): Promise<void> {
    const world = this.#world
    const { random } = world
    const count = random.pick([1, 1, 2])
    const free = world.partitions.filter(partition => !world.isBlocked(partition))
    const partitions = new Set(Array.from({ length: count }, () => random.pick(free)))
    const { producerId, epoch } = this.#identity!
    for (const partition of partitions) {
      const baseSequence = this.#sequences.get(partition) ?? 0
      const options = { producerId, producerEpoch: epoch, baseSequence }
      const batch = makeBatch(world, this, this.#transaction, partition, options)
      this.#sequences.set(partition, baseSequence + batch.records.length)
      this.#unresolved.push(batch)
    }
    // It may be on its way for long.
    if (random.chance(0.06)) this.#giveUp()
    else await this.#send()
  }

  /** Tries again what was not answered, or leaves it to its fate. */
  async #resolve(): Promise<void> {
    if (this.#world.random.chance(0.3)) return this.#giveUp()
    if (this.#unresolved.length > 0) await this.#send()
    else await this.#stage()
  }

  #giveUp(): void {
    const { late, random } = this.#world
    this.#mustAbort = true
    this.#needsInit ||= this.#unresolved.length > 0
    for (const batch of this.#unresolved)
      if (random.chance(0.7)) late.push({ version: this.#produceVersion, transactionalId: this.#id, batch })
    this.#unresolved = []
    this.#unstaged = []
  }

  async #send(): Promise<void> {
    const world = this.#world
    if (this.#unresolved.some(({ partition }) => world.isBlocked(partition))) return
    if (this.version === 1 && !(await this.#addPartitions())) return
    const batches = [...this.#unresolved]
    const codes = await produce(world, this.#produceVersion, this.#id, batches)
    this.#unresolved = batches.filter((_, index) => codes[index] !== NONE)
    for (const [index, code] of codes.entries()) {
      if (code === NONE) {
        const { random, late } = world
        // A duplicate that the network made.
        if (random.chance(0.04))
          late.push({ version: this.#produceVersion, transactionalId: this.#id, batch: batches[index] })
      } else this.#refused(code)
    }
  }

  async #addPartitions(): Promise<boolean> {
    const missing = this.#unresolved.map(({ partition }) => partition).filter(each => !this.#added.has(each))
    if (missing.length === 0) return true
    const isOver = this.#isOver
    const topics = missing.map(({ topic, index }) => ({ name: topic, partitions: [index] }))
    const answer = await this.#world.life.call('AddPartitionsToTxn', 3, {
      v3AndBelowTransactionalId: this.#id,
      v3AndBelowProducerId: this.#identity!.producerId,
      v3AndBelowProducerEpoch: this.#identity!.epoch,
      v3AndBelowTopics: topics,
    })
    const code = answer.resultsByTopicV3AndBelow[0].resultsByPartition[0].partitionErrorCode
    this.#trace(`add ${missing.map(({ name }) => name)}: code ${code}`)
    if (code !== NONE) {
      this.#refused(code)
      return false
    }
    assert(!isOver, `${this.#name}: a zombie adds partitions`)
    this.#started()
    for (const each of missing) this.#added.add(each)
    return true
  }

  async #commitOffsets(): Promise<void> {
    const world = this.#world
    const [one, two, ...rest] = this.owners.places
    const places = world.random.pick([[one], [one, two], rest])
    if (places.some(({ isBusy }) => isBusy)) return
    const offset = world.newOffset()
    this.#unstaged = places.map(place => {
      const staged = { transaction: this.#transaction, place, offset, isAcknowledged: false }
      place.commits.set(offset, staged)
      return staged
    })
    await this.#stage()
  }

  async #stage(): Promise<void> {
    const { life } = this.#world
    const isOver = this.#isOver
    const staged = this.#unstaged
    if (staged.some(({ place }) => place.isBusy)) return
    const { group } = staged[0].place
    if (this.version === 1 && !this.#added.has(group)) {
      const { errorCode } = await life.call('AddOffsetsToTxn', 3, { ...this.#producer, groupId: group })
      if (errorCode !== NONE) return this.#refused(errorCode)
      assert(!isOver, `${this.#name}: a zombie adds a group`)
      this.#started()
      this.#added.add(group)
    }
    const partitions = staged.map(({ place, offset }) => ({
      partitionIndex: place.partition,
      committedOffset: offset,
      committedMetadata: null,
    }))
    const { topics } = await life.call('TxnOffsetCommit', this.version === 1 ? 3 : 5, {
      ...{ ...this.#producer, groupId: group },
      topics: [{ name: 'in', partitions }],
    })
    const { errorCode } = topics[0].partitions[0]
    this.#trace(`offset ${staged[0].offset} of ${group}: code ${errorCode}`)
    if (errorCode !== NONE) return this.#refused(errorCode)
    assert(!isOver, `${this.#name}: a zombie commits offsets`)
    this.#started()
    this.#unstaged = []
    for (const each of staged) each.isAcknowledged = true
    this.#world.count('offsets')
  }

  async #end(commit: boolean): Promise<void> {
    const { life, random } = this.#world
    const transaction = this.#transaction!
    const { isSuperseded, attempt } = this
    if (transaction.asked === null && this.#unresolved.length > 0) this.#giveUp()
    transaction.asked = commit ? 'commit' : 'abort'
    const request = { ...this.#producer, committed: commit }
    const version = this.version === 1 ? 3 : 5
    const answer = await life.call('EndTxn', version, request)
    this.#trace(`${transaction.asked} ${transaction.name}: code ${answer.errorCode}`)
    if (answer.errorCode !== NONE) return this.#endRefused(transaction, answer.errorCode)
    assert(!isSuperseded, `${this.#name}: a zombie ends a transaction`)
    transaction.decide(commit ? 'committed' : 'aborted', 'the answer to EndTxn', this.#world.now())
    this.#world.count(commit ? 'commit' : 'abort')
    this.#over(transaction)
    // After a batch of which it is not known what became of it the new epoch is enough.
    if (this.version === 2)
      this.#take({ producerId: answer.producerId, epoch: answer.producerEpoch }, attempt)
    if (random.chance(0.15) && !this.isSuperseded) {
      const again = await life.call('EndTxn', version, request)
      const isFenced = FENCED.includes(again.errorCode) && this.#hasRival
      const isStuck = again.errorCode === STORAGE_ERROR
      if (!isFenced && !isStuck) assert.deepEqual(again, answer, `${this.#name}: an end that is repeated`)
      this.#world.count('repeated end')
    }
  }

  #endRefused(transaction: Transaction, code: number): void {
    const hasNothing = transaction.startedBy === Number.POSITIVE_INFINITY
    if (code === INVALID_TXN_STATE && hasNothing) {
      // Nothing of it was taken, or not for certain.
      transaction.isLeft = true
      this.#transaction = null
      this.#needsInit = true
      return
    }
    this.#refused(code)
  }

  #over(transaction: Transaction): void {
    transaction.isOver = true
    this.#transaction = null
    this.#unresolved = []
    this.#unstaged = []
  }

  // --- answers ---

  #refused(code: number): void {
    const { random } = this.#world
    this.#mayHaveRunOut ||= this.#transaction?.mayHaveRunOut(this.#world.now()) === true
    if (code === STORAGE_ERROR || code === CONCURRENT_TRANSACTIONS || code === COORDINATOR_LOADING) {
      this.#world.count(`code ${code}`)
      return
    }
    const hasCause = this.isSuperseded || this.#hasRival || this.#mayHaveRunOut || this.#needsInit
    assert(hasCause || this.#mustAbort, `${this.#name} is refused with code ${code}, without a cause`)
    this.#mustAbort = true
    if (FENCED.includes(code)) {
      this.#world.count(this.isSuperseded ? 'zombie refused' : 'fenced')
      this.isDead = random.chance(0.6)
      // Of the others some go on as if nothing had been.
      this.#needsInit ||= random.chance(0.5)
    } else {
      assert([INVALID_TXN_STATE, TRANSACTION_ABORTABLE, 45].includes(code), `${this.#name}: code ${code}`)
      this.#world.count(`code ${code}`)
      this.#needsInit = true
    }
  }

  /** Someone else has asked for a newer epoch, or it itself has, without being answered. */
  get #hasRival(): boolean {
    return this.owners.attempts > this.attempt
  }

  get #isOver(): boolean {
    return this.isSuperseded || this.#transaction?.isOver === true
  }

  #started(): void {
    const transaction = this.#transaction!
    transaction.startedBy = Math.min(transaction.startedBy, this.#world.now())
  }

  get #produceVersion(): number {
    return this.version === 1 ? 11 : 12
  }

  get #id(): string {
    return this.owners.transactionalId
  }

  get #producer() {
    const { producerId, epoch } = this.#identity!
    return { transactionalId: this.#id, producerId, producerEpoch: epoch }
  }

  get #name(): string {
    const { producerId, epoch } = this.#identity ?? { producerId: -1, epoch: -1 }
    return `client ${this.owners.clients.indexOf(this)} of ${this.#id} (${producerId}/${epoch})`
  }

  #trace(line: string): void {
    this.#world.trace(`${this.#name}: ${line}`)
  }
}

/** A producer without transactions whose batches are numbered. */
export class PlainClient implements Writer {
  readonly owners = null
  readonly attempt = 0
  readonly isSuperseded = false
  isBusy = false
  readonly #world: World
  #producerId = -1
  readonly #sequences = new Map<PartitionModel, number>()
  #unresolved: Batch | null = null

  constructor(world: World) {
    this.#world = world
  }

  disconnect(): void {
    this.isBusy = false
  }

  async step(): Promise<void> {
    const world = this.#world
    const { random, life } = world
    if (this.#producerId < 0) {
      const request = { transactionalId: null, transactionTimeoutMs: 1, producerId: -1, producerEpoch: -1 }
      const { errorCode, producerId } = await life.call('InitProducerId', 4, request)
      if (errorCode === NONE) this.#producerId = producerId
      return
    }
    this.#unresolved ??= this.#makeBatch(random.pick(world.partitions))
    const batch = this.#unresolved
    if (world.isBlocked(batch.partition)) return
    const [code] = await produce(world, 11, null, [batch])
    assert(code === NONE || code === STORAGE_ERROR, `a plain producer is refused with code ${code}`)
    if (code !== NONE) return
    this.#unresolved = null
    world.count('plain batch')
  }

  #makeBatch(partition: PartitionModel): Batch {
    const baseSequence = this.#sequences.get(partition) ?? 0
    const options = { producerId: this.#producerId, producerEpoch: 0, baseSequence }
    const batch = makeBatch(this.#world, this, null, partition, options)
    this.#sequences.set(partition, baseSequence + batch.records.length)
    return batch
  }
}
