/**
 * A seeded simulation of transactions: the broker with its Kafka handlers on the faulty disk and the virtual clock, and clients of both
 * versions of transactions, plain producers, groups and readers, all at the same time, over several lives that end in a clean stop,
 * the end of the process or a power cut, at any operation of the disk, also in the middle of an end and during recovery.
 *
 *     open ──▶ everything as before ──▶ steps of clients, faults … all at rest, all checked … ──▶ close | kill | crash ──▶ open ──▶ …
 *
 * What must hold, whatever happens:
 *  - a reader of what is committed is shown exactly the records of committed transactions and those that belong to none, in the order
 *    of their offsets, each once; nothing that is undecided or aborted, wherever it begins to read;
 *  - what was answered holds: a batch that was acknowledged is where it was said to be; a transaction that was ended is
 *    ended so, in all partitions and for all offsets of groups;
 *  - an end of which nobody knows is one of both, everywhere the same; only what was asked to be committed is, and nothing
 *    is aborted without a cause (EndTxn, a newer producer, time);
 *  - whoever was fenced gets nothing in: no batch, no partition, no offset, no end; nor does a batch that is late;
 *  - the last stable offset is where the oldest open transaction begins, or the high watermark; nothing stays open that has ended;
 *  - offsets of a transaction can be seen when it is committed, not before, and none that was acknowledged is taken back;
 *  - what any reader was shown stays so after every crash; every call comes to an end.
 */

import assert from 'node:assert/strict'
import { isSluiceError } from '../../src/errors.ts'
import { type Disk, DiskError } from '../../src/lib/disk.ts'
import { committedOnly } from '../../src/record/committed.ts'
import { Crashed, type CrashMoment, FaultyDisk } from './faulty-disk.ts'
import { Random } from './random.ts'
import {
  type LateBatch,
  type Line,
  PlainClient,
  produce,
  TransactionalClient,
  type World,
} from './transaction-client.ts'
import { endOf, floorOf, PartitionModel, type Place, recordsOf, seeOffset } from './transaction-model.ts'
import { type Answer, Life, shrinkInternalLogs } from './transaction-wire.ts'
import { VirtualClock } from './virtual-clock.ts'

export interface SimulationOptions {
  /** Puts something between the broker and its disk; for planting bugs. */
  readonly disguise?: (disk: Disk) => Disk
  readonly trace?: (line: string) => void
}

export type Outcome = Record<string, number>

type Fetched = Answer<'Fetch'>['responses'][number]['partitions'][number]

const PATH = '/data'
const COMPACTED = 'c'
const NONE = 0
const OFFSET_OUT_OF_RANGE = 1
const CORRUPT_MESSAGE = 2
const COORDINATOR_NOT_AVAILABLE = 15
const STORAGE_ERROR = 56
const UNSTABLE_OFFSET_COMMIT = 88
/** Longest that something may take to come to an end when nothing goes wrong any more. */
const REST_MS_MAX = 20_000
const BEYOND = Number.MAX_SAFE_INTEGER

/** Runs one seed. Throws, with the seed in the message, if something does not hold. */
export async function simulateTransactions(seed: number, options: SimulationOptions = {}): Promise<Outcome> {
  const restore = shrinkInternalLogs()
  const simulation = new TransactionSimulation(seed, options)
  try {
    await simulation.run()
  } catch (error) {
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error)
    throw new Error(
      `seed ${seed}: ${what}\n  run it alone: SLUICE_SIM_SEED=${seed} npm run test:sim -- test/sim/transaction.sim.ts`,
      { cause: error },
    )
  } finally {
    restore()
  }
  return simulation.outcome
}

class TransactionSimulation implements World {
  readonly outcome: Outcome = {}
  readonly random: Random
  readonly partitions: PartitionModel[]
  readonly late: LateBatch[] = []
  life!: Life
  readonly #clock = new VirtualClock()
  readonly #options: SimulationOptions
  readonly #config: Record<string, string>
  readonly #lines: Line[]
  readonly #plain: PlainClient[]
  #disk: FaultyDisk
  /** Under way; each has its own way of ending. */
  #underWay = new Set<Promise<void>>()
  /** What a step has found wrong. */
  #wrong: unknown = null
  #compacting = false
  #readFaults = false
  #names = 0
  #offsets = 0

  constructor(seed: number, options: SimulationOptions) {
    const random = new Random(seed)
    this.random = random
    this.#options = options
    this.#disk = new FaultyDisk({ seed: random.next(), clock: this.#clock, trace: options.trace })
    this.#config = {
      'segment.bytes': random.pick(['1024', '1024', '3000']),
      'index.interval.bytes': random.pick(['0', '200', '4096']),
      'delete.retention.ms': random.pick(['0', '20']),
      'min.cleanable.dirty.ratio': '0',
    }
    this.partitions = [
      new PartitionModel('a', 0, false),
      new PartitionModel('a', 1, false),
      new PartitionModel('b', 0, false),
      ...(random.chance(0.6) ? [new PartitionModel(COMPACTED, 0, true)] : []),
    ]
    this.#lines = Array.from({ length: random.between(1, 3) }, (_, index) => newLine(index))
    this.#plain = Array.from({ length: random.below(3) }, () => new PlainClient(this))
  }

  async run(): Promise<void> {
    this.#disk.makeDirectory(PATH)
    await this.#begin(true)
    await this.#settle(this.#createTopics())
    const lives = this.random.between(2, 3)
    for (let life = 0; life < lives; life++) {
      if (life > 0) await this.#begin(false)
      this.#planCrash(0.7, 350)
      const steps = this.random.between(20, 120)
      for (let step = 0; step < steps && !this.life.isOver; step++) {
        await this.#step()
        if (this.random.chance(0.01)) await this.#rest()
      }
      if (this.random.chance(0.6)) await this.#rest()
      await this.#end()
    }
    await this.#begin(true)
    this.#disk.room = Number.POSITIVE_INFINITY
    await this.#finish()
  }

  // --- lives ---

  async #createTopics(): Promise<void> {
    const { broker } = this.life
    for (const [name, partitions] of [
      ['a', 2],
      ['b', 1],
      ['in', 2 * this.#lines.length],
    ] as const) // prettier-ignore
      await broker.createTopic({ name, partitions, config: this.#config })
    if (this.partitions.some(({ isCompacted }) => isCompacted))
      await broker.createTopic({
        name: COMPACTED,
        partitions: 1,
        config: { ...this.#config, 'cleanup.policy': 'compact' },
      })
  }

  async #begin(mustSucceed: boolean): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const gentle = mustSucceed || attempt > 3
      const { random } = this
      if (!gentle) this.#planCrash(0.35, 60)
      if (!gentle && random.chance(0.1)) this.#disk.failNext(random.pick(['read', 'write', 'create']))
      this.trace(`open, attempt ${attempt}`)
      this.#readFaults = false
      this.life = new Life(this.#disk, this.#clock)
      const disk = this.#options.disguise?.(this.#disk) ?? this.#disk
      const opened = await this.#settle(this.life.open({ path: PATH, cleanerBackoffMs: 1e9 }, disk), true)
      if (this.life.isOver) {
        this.count('crash in recovery')
        this.#powerCut()
        continue
      }
      if (opened !== null) {
        assert(opened instanceof DiskError || isSluiceError(opened), String(opened))
        this.count('open refused')
        if (random.chance(0.5)) this.#powerCut()
        else this.#kill()
        continue
      }
      for (const { case: name } of this.life.broker.reports) this.count(`recovery: ${name}`)
      break
    }
    if (this.partitions[0].end > 0) this.start(this.#compareAll())
  }

  async #end(): Promise<void> {
    const choice = this.random.below(10)
    if (!this.life.isOver && choice < 2) {
      this.life.isDeaf = true
      const closed = await this.#settle(this.life.broker.close(), true)
      if (!this.life.isOver && closed === null) this.count('clean close')
    }
    if (this.#disk.isDown || choice < 6) this.#powerCut()
    else this.#kill()
  }

  #powerCut(): void {
    this.trace('power cut')
    this.count('power cut')
    this.#drop()
    this.#disk = this.#disk.crash()
  }

  #kill(): void {
    this.trace('kill')
    this.count('kill')
    this.#drop()
    this.#disk = this.#disk.kill()
  }

  #drop(): void {
    this.life.end()
    this.#underWay = new Set()
    this.#compacting = false
    for (const client of this.#clients()) client.disconnect()
    for (const { places } of this.#lines) for (const place of places) place.isBusy = false
  }

  #planCrash(probability: number, operationsMax: number): void {
    const { random } = this
    if (!random.chance(probability)) return
    const moment = random.pick<CrashMoment>(['before', 'middle', 'after'])
    this.#disk.crashAt(this.#disk.operations + random.below(operationsMax), moment)
  }

  // --- steps ---

  /** Begins something, and lets a little time pass. */
  async #step(): Promise<void> {
    const { random } = this
    const choice = random.below(100)
    if (choice < 62) this.#stepClient()
    else if (choice < 67) this.#newClient()
    else if (choice < 72) this.#deliverLate()
    else if (choice < 81) this.start(this.#readSomewhere())
    else if (choice < 85) this.start(this.#commitPlain())
    else if (choice < 89) this.start(this.#lookAtOffsets())
    else if (choice < 92) this.start(this.#deleteRecords())
    else if (choice < 95) this.start(this.#compact())
    else if (choice < 97) this.#fault()
    else if (choice < 98) this.start(this.#checkpoint())
    else await this.#pass(random.pick([100, 600, 3_000]))
    await this.#pass(random.chance(0.6) ? 0 : random.fraction() * 4)
  }

  #stepClient(): void {
    const free = [...this.#clients()].filter(client => !client.isBusy)
    if (free.length === 0) return
    const client = this.random.pick(free)
    client.isBusy = true
    const step = client.step().then(() => {
      client.isBusy = false
    })
    this.start(step)
  }

  *#clients(): Generator<TransactionalClient | PlainClient> {
    for (const { clients } of this.#lines) yield* clients.filter(({ isDead }) => !isDead)
    yield* this.#plain
  }

  /** Somebody takes a transactional id over. Whoever had it lives on. */
  #newClient(): void {
    const { random } = this
    const line = random.pick(this.#lines)
    const living = line.clients.filter(({ isDead }) => !isDead)
    if (living.length > 3 || (living.length > 0 && random.chance(0.5))) return
    const timeoutMs = random.pick([300, 2_000, 30_000, 60_000])
    line.clients.push(new TransactionalClient(this, line, random.pick([1, 2]), timeoutMs))
  }

  #deliverLate(): void {
    if (this.late.length === 0) return
    const [{ version, transactionalId, batch }] = this.late.splice(this.random.below(this.late.length), 1)
    if (this.isBlocked(batch.partition)) return
    this.count(batch.transaction?.isOver ? 'late batch' : 'batch out of turn')
    this.start(produce(this, version, transactionalId, [batch]))
  }

  #fault(): void {
    const { random } = this
    const choice = random.below(10)
    const name = random.pick(['a-0', 'a-1', 'b-0', 'c-0', '__transaction_state-0', '__consumer_offsets-0'])
    const matches = (path: string) => path.includes(`/${name}/`)
    this.life.hasFaults = true
    if (choice < 5) {
      for (let count = random.between(1, 3); count > 0; count--)
        this.#disk.failNext(random.pick(['write', 'write', 'create']), matches)
    } else if (choice < 7) {
      this.#readFaults = true
      this.#disk.failNext('read', matches)
    } else if (choice < 8) {
      this.life.isDegraded = true
      this.#disk.failNext('sync', matches)
    }
  }

  async #checkpoint(): Promise<void> {
    const { broker } = this.life
    for (const { topic, index } of this.partitions)
      await this.#tolerate(broker.partition(topic, index).log.checkpoint())
  }

  async #deleteRecords(): Promise<void> {
    const model = this.random.pick(this.partitions.filter(({ isCompacted }) => !isCompacted))
    await this.#refresh(model)
    const partition = this.life.broker.partition(model.topic, model.index)
    const until = this.random.between(partition.startOffset, model.end)
    model.startMax = Math.max(model.startMax, until)
    if ((await this.#tolerate(partition.deleteUntil(until))) === undefined) return
    model.startMin = Math.max(model.startMin, until)
    this.count('records deleted')
  }

  /** What is compacted was taken before, so nothing is written to it meanwhile; readers are there all the time. */
  async #compact(): Promise<void> {
    const model = this.partitions.find(({ isCompacted }) => isCompacted)
    if (model === undefined || this.#compacting) return
    const { life } = this
    this.#compacting = true
    const partition = life.broker.partition(model.topic, model.index)
    // What is on its way arrives.
    for (let round = 0; round < 10; round++) await this.#sleep(1)
    await this.#refresh(model)
    if (partition.log.endOffset === model.end) {
      const { passes } = life.broker.stats().compaction
      await life.broker.compact()
      if (life.broker.stats().compaction.passes > passes) this.count('compaction')
    }
    this.#compacting = false
  }

  isBlocked({ isCompacted }: PartitionModel): boolean {
    return isCompacted && this.#compacting
  }

  // --- reading ---

  async #fetch(
    model: PartitionModel,
    offset: number,
    bytesMax: number,
    isCommitted: boolean,
    waitMs = 0,
  ): Promise<Fetched> {
    const partition = { partition: model.index, fetchOffset: offset, partitionMaxBytes: bytesMax }
    const { responses } = await this.life.call('Fetch', 11, {
      ...{ maxWaitMs: waitMs, minBytes: 1, isolationLevel: isCommitted ? 1 : 0 },
      topics: [{ topic: model.topic, partitions: [partition] }],
    })
    return responses[0].partitions[0]
  }

  /** Takes everything that a reader of everything can see. */
  async #refresh(model: PartitionModel): Promise<void> {
    for (;;) {
      const { due, end } = model
      const { errorCode, records, highWatermark } = await this.#fetch(model, end, 4_000, false)
      if (this.#isReadFault(errorCode)) continue
      if (errorCode === OFFSET_OUT_OF_RANGE && end < model.end) continue // others have read on, and deleted it
      assert.equal(errorCode, NONE, `${model.name}: reading on at ${end} is refused`)
      assert(highWatermark >= end, `${model.name} ends at ${highWatermark}, it ended at ${end}`)
      model.extend(records!, this.now())
      if (model.end >= highWatermark) return model.checkFound(due)
    }
  }

  #isReadFault(code: number): boolean {
    return this.#readFaults && (code === CORRUPT_MESSAGE || code === STORAGE_ERROR)
  }

  async #readSomewhere(): Promise<void> {
    const { random } = this
    const model = random.pick(this.partitions)
    const { startOffset, highWatermark } = this.life.broker.partition(model.topic, model.index)
    const offset = random.between(startOffset, highWatermark)
    if (random.chance(0.3)) return this.#readAsMember(model, offset)
    await this.#readCommitted(
      model,
      offset,
      random.pick([1, 300, 5_000]),
      random.between(1, 4),
      random.pick([0, 0, 30]),
    )
  }

  /** As a Kafka client does, which leaves out what the list of aborted transactions says. */
  async #readCommitted(
    model: PartitionModel,
    offset: number,
    bytesMax: number,
    rounds: number,
    waitMs = 0,
  ): Promise<number> {
    for (let round = 0; round < rounds; round++) {
      const fetched = await this.#fetch(model, offset, bytesMax, true, waitMs)
      const { errorCode, records, abortedTransactions, lastStableOffset } = fetched
      if (this.#isReadFault(errorCode)) continue
      if (errorCode === OFFSET_OUT_OF_RANGE && offset < model.startMax) return offset
      assert.equal(errorCode, NONE, `${model.name}: reading on at ${offset} is refused`)
      this.#checkStable(model, lastStableOffset)
      if (records!.length === 0) return offset
      const shown = committedOnly(records!, abortedTransactions ?? [])
      offset = this.#observe(model, offset, lastStableOffset, records!, shown, 'a client')
    }
    return offset
  }

  /** As a consumer in the process of the broker. */
  async #readAsMember(model: PartitionModel, offset: number): Promise<void> {
    const { topic, index: partition } = model
    const options = { partitionBytesMax: this.random.pick([1, 300, 5_000]), committedOnly: true, waitMs: 0 }
    const [{ batches, error }] = await this.life.broker.fetch([{ topic, partition, offset }], options)
    if (error !== undefined) {
      const isExpected = error.code === 'OFFSET_OUT_OF_RANGE' ? offset < model.startMax : this.#readFaults
      assert(isExpected, `${model.name}: reading on at ${offset}: ${error.message}`)
    } else if (batches.length > 0) this.#observe(model, offset, BEYOND, batches, batches, 'a member')
  }

  #observe(
    model: PartitionModel,
    from: number,
    lastStableOffset: number,
    records: Buffer,
    shown: Buffer,
    who: string,
  ): number {
    const to = endOf(records)
    assert(to <= lastStableOffset, `${model.name}: ${who} got ${to - 1}, stable is ${lastStableOffset}`)
    const values = recordsOf(shown)
      .filter(record => record.offset >= from)
      .map(record => [record.offset, record.value] as const)
    assert.equal(new Set(values.map(([, value]) => value)).size, values.length)
    if (from < to) model.observe({ from, to, values: new Map(values), who })
    this.count('read')
    return to
  }

  /** What is open beyond doubt is not stable. */
  #checkStable(model: PartitionModel, lastStableOffset: number): void {
    const now = this.now()
    for (const batch of model.sent.values()) {
      const { transaction, offset } = batch
      if (offset < model.startMax || transaction === null || transaction.asked !== null) continue
      if (transaction.isOver || transaction.mayBeFenced(now)) continue
      const what = `${transaction.name} is open from ${offset} on`
      assert(lastStableOffset <= offset, `${model.name}: ${what}, stable is ${lastStableOffset}`)
    }
  }

  // --- offsets of groups ---

  #offsetsOf(group: string, partition: number, requireStable: boolean) {
    const topics = [{ name: 'in', partitionIndexes: [partition] }]
    const fetched = this.life.call('OffsetFetch', 7, { groupId: group, topics, requireStable })
    return fetched.then(answer => answer.topics[0].partitions[0])
  }

  #anyPlace(): Place {
    return this.random.pick(this.random.pick(this.#lines).places)
  }

  async #lookAtOffsets(): Promise<void> {
    const place = this.#anyPlace()
    const isStable = this.random.chance(0.5)
    const floor = isStable ? floorOf(place) : -1
    const { committedOffset, errorCode } = await this.#offsetsOf(place.group, place.partition, isStable)
    if (errorCode === UNSTABLE_OFFSET_COMMIT && isStable) return
    assert.equal(errorCode, NONE)
    seeOffset(place, committedOffset, floor, this.now())
  }

  /** Somebody goes on from a stable offset, and commits without a transaction. */
  async #commitPlain(): Promise<void> {
    const place = this.#anyPlace()
    const isWritten = [...place.commits.values()].some(
      ({ transaction }) => transaction !== null && !transaction.isOver && transaction.outcome === null,
    )
    if (isWritten || place.isBusy) return
    place.isBusy = true
    await this.#commitTo(place)
    place.isBusy = false
  }

  async #commitTo(place: Place): Promise<void> {
    const { group, partition } = place
    const floor = floorOf(place)
    const { committedOffset, errorCode } = await this.#offsetsOf(group, partition, true)
    if (errorCode === UNSTABLE_OFFSET_COMMIT) return this.count('unstable offset')
    seeOffset(place, committedOffset, floor, this.now())
    const offset = this.newOffset()
    const commit = { transaction: null, place, offset, isAcknowledged: false }
    place.commits.set(offset, commit)
    const partitions = [{ partitionIndex: partition, committedOffset: offset, committedMetadata: null }]
    const { topics } = await this.life.call('OffsetCommit', 8, {
      groupId: group,
      topics: [{ name: 'in', partitions }],
    })
    const code = topics[0].partitions[0].errorCode
    assert(
      [NONE, STORAGE_ERROR, COORDINATOR_NOT_AVAILABLE].includes(code),
      `a commit is refused with ${code}`,
    )
    commit.isAcknowledged = code === NONE
  }

  // --- checks ---

  /** After a start: what readers saw is there, as it was. */
  async #compareAll(): Promise<void> {
    for (const model of this.partitions) {
      const { startOffset } = this.life.broker.partition(model.topic, model.index)
      assert(
        startOffset >= model.startMin,
        `${model.name} begins at ${startOffset}: deleted records are back`,
      )
      assert(startOffset <= model.startMax, `${model.name} begins at ${startOffset}`)
      for (let offset = startOffset; offset < model.end; ) {
        const { errorCode, records } = await this.#fetch(model, offset, 4_000, false)
        if (this.#isReadFault(errorCode)) continue
        if (errorCode === OFFSET_OUT_OF_RANGE && offset < model.startMax) break
        assert.equal(errorCode, NONE, `${model.name}: reading on at ${offset} is refused`)
        assert(records!.length > 0, `${model.name} ends at ${offset}, it ended at ${model.end}`)
        offset = model.compare(records!, offset)
      }
    }
  }

  /** Waits until nothing is under way, and checks everything. */
  async #rest(): Promise<void> {
    await this.#pass(0)
    const since = this.#clock.monotonic()
    while ((this.#underWay.size > 0 || this.#isEnding) && !this.life.isOver) {
      const passed = this.#clock.monotonic() - since
      if (this.#isDegraded && (this.#underWay.size === 0 || passed > 100)) return
      assert(passed < REST_MS_MAX, 'something does not come to an end')
      await this.#pass(this.#underWay.size > 0 ? 1 : 50)
    }
    if (this.life.isOver || this.#isDegraded) return
    await this.#pass(20)
    const checked = this.#checkAll()
    this.start(checked)
    while (this.#underWay.size > 0 && !this.life.isOver) await this.#pass(1)
  }

  /** A partition takes no more writes: what it should take comes to an end after the next start. */
  get #isDegraded(): boolean {
    if (this.life.isDegraded) return true
    for (const { topic, index } of this.partitions) {
      const { failure } = this.life.broker.partition(topic, index).log
      if (failure === null) continue
      assert(this.life.hasFaults, `${topic}/${index}: ${failure.message}`)
      this.count(`failed: ${String((failure.cause as Error | undefined)?.message).replace(/^\S+ /, '')}`)
      return true
    }
    return false
  }

  get #isEnding(): boolean {
    if (this.life.isOver) return false
    return [...this.life.broker.transactions.all].some(({ state }) => state.startsWith('Prepare'))
  }

  async #checkAll(): Promise<void> {
    for (const model of this.partitions) await this.#checkPartition(model)
    for (const { places } of this.#lines) for (const place of places) await this.#checkPlace(place)
    this.count('all checked')
  }

  async #checkPartition(model: PartitionModel): Promise<void> {
    const partition = this.life.broker.partition(model.topic, model.index)
    if (!(await this.#catchUp(model))) return
    const { lastStableOffset, highWatermark, startOffset } = partition
    assert.equal(highWatermark, model.end)
    const expected = Math.max(startOffset, Math.min(model.firstOpen, highWatermark))
    assert.equal(lastStableOffset, expected, `${model.name}: the last stable offset`)
    const now = this.now()
    for (const transaction of model.openTransactions()) {
      const { name, isOver, outcome, writer, startedBy, timeoutMs } = transaction
      const hasEnded = isOver || outcome !== null || writer.isSuperseded
      assert(!hasEnded, `${model.name}: ${name} has ended (${outcome ?? 'somehow'}), and is open`)
      assert(
        now < startedBy + timeoutMs + 2_000,
        `${model.name}: the time of ${name} is over, and it is open`,
      )
      this.count('open transaction')
    }
    let offset = startOffset
    while (offset < expected) {
      const next = await this.#readCommitted(model, offset, this.random.pick([1, 400, 20_000]), 1)
      assert(next > offset || this.#readFaults, `${model.name}: reading stops at ${offset}`)
      offset = next
    }
    if (await this.#catchUp(model)) model.checkObservations()
  }

  /** Time goes on while we read: some transaction may be ended by it, and is waited for. False if that may not come to an end. */
  async #catchUp(model: PartitionModel): Promise<boolean> {
    const { log } = this.life.broker.partition(model.topic, model.index)
    for (;;) {
      await this.#refresh(model)
      if (!this.#isEnding && model.end === log.endOffset) return true
      if (this.#isDegraded) return false
      await this.#sleep(1)
    }
  }

  async #checkPlace(place: Place): Promise<void> {
    const { group, partition, commits } = place
    const where = `group ${group}, partition ${partition}`
    const stable = await this.#offsetsOf(group, partition, true)
    const now = this.now()
    const isOpen = [...commits.values()].some(({ transaction, isAcknowledged }) => {
      if (transaction === null || !isAcknowledged || transaction.asked !== null) return false
      return !transaction.isOver && transaction.outcome === null && !transaction.mayBeFenced(now)
    })
    const mayBeOpen = [...commits.values()].some(
      ({ transaction }) => transaction !== null && transaction.outcome === null && !transaction.isOver,
    )
    const isUnstable = stable.errorCode === UNSTABLE_OFFSET_COMMIT
    if (isOpen) assert(isUnstable, `${where}: offset ${stable.committedOffset} is called stable`)
    if (isUnstable) assert(mayBeOpen, `${where} is not stable, and nothing is open`)
    const { committedOffset, errorCode } = await this.#offsetsOf(group, partition, false)
    assert.equal(errorCode, NONE)
    seeOffset(place, committedOffset, floorOf(place), this.now())
  }

  /** In the end everybody is fenced, and all is decided. */
  async #finish(): Promise<void> {
    await this.#rest()
    for (const line of this.#lines) {
      for (const client of line.clients) client.isDead = true
      const last = new TransactionalClient(this, line, 1, 60_000)
      line.clients.push(last)
      for (let attempt = 0; last.identity === null; attempt++) {
        assert(attempt < 20, `nobody can take ${line.transactionalId} over`)
        this.start(last.step())
        await this.#rest()
        if (this.life.isOver) return
      }
    }
    for (let index = this.late.length; index > 0; index--) this.#deliverLate()
    await this.#rest()
    for (const model of this.partitions) assert.equal(model.firstOpen, Number.POSITIVE_INFINITY, model.name)
    for (const { places } of this.#lines)
      for (const { commits } of places)
        for (const { transaction, isAcknowledged } of commits.values())
          if (isAcknowledged && transaction?.outcome === 'committed') this.count('offsets of a transaction')
    await this.#settle(this.life.broker.close())
    this.#drop()
  }

  // --- the rest ---

  /** Lets something go on by itself. What it finds wrong comes out with the next pass of time. */
  start(promise: Promise<unknown>): void {
    const { life } = this
    const done = promise.then(
      () => {},
      error => {
        if (life.isOver || life.isDeaf || error instanceof Crashed) return
        this.#wrong ??= error
      },
    )
    const underWay = this.#underWay
    underWay.add(done)
    done.then(() => underWay.delete(done))
  }

  async #pass(ms: number): Promise<void> {
    try {
      await this.#clock.advance(ms)
    } catch (error) {
      if (!(error instanceof Crashed)) throw error
    }
    if (this.#wrong !== null) throw this.#wrong
  }

  #sleep(ms: number): Promise<void> {
    const { life } = this
    return new Promise(resolve => {
      this.#clock.after(ms, () => {
        if (!life.isOver) resolve()
      })
    })
  }

  /** Lets time pass until it is settled, or the machine is down. Returns the error, if it may fail. */
  async #settle(promise: Promise<unknown>, mayFail = false): Promise<unknown> {
    let settled: { error: unknown } | null = null
    promise.then(
      () => {
        settled = { error: null }
      },
      error => {
        settled = { error }
      },
    )
    const current = () => settled as { error: unknown } | null
    const until = this.#clock.monotonic() + 60_000
    await this.#pass(0)
    while (current() === null && !this.life.isOver) {
      assert(this.#clock.monotonic() < until, 'a call that never comes to an end')
      await this.#pass(1)
    }
    const error = current()?.error ?? null
    if (error !== null && !mayFail && !this.life.isOver) throw error
    return error
  }

  /** Undefined: it failed as it may, or nothing came of it. */
  async #tolerate<T>(promise: Promise<T>): Promise<T | undefined | null> {
    try {
      return (await promise) ?? null
    } catch (error) {
      if (this.life.isOver) return undefined
      if (!isSluiceError(error) || !['DISK_FULL', 'STORAGE_FAILED', 'CLOSED'].includes(error.code))
        throw error
      this.count(error.code)
      return undefined
    }
  }

  now(): number {
    return this.#clock.now()
  }

  newName(prefix: string): string {
    return `${prefix}.${this.#names++}`
  }

  newOffset(): number {
    return this.#offsets++
  }

  count(what: string): void {
    this.outcome[what] = (this.outcome[what] ?? 0) + 1
  }

  trace(line: string): void {
    this.#options.trace?.(`${this.#clock.monotonic().toFixed(2)} ${line}`)
  }
}

/** With places of its own in two groups. */
function newLine(index: number): Line {
  const place = (group: string, partition: number): Place => ({
    group,
    partition,
    commits: new Map(),
    isBusy: false,
  })
  return {
    transactionalId: `x${index}`,
    attempts: 0,
    clients: [],
    places: [place('g', 2 * index), place('g', 2 * index + 1), place('h', 2 * index)],
  }
}
