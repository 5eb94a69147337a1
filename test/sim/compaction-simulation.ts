/**
 * A seeded simulation of compaction: a log of keyed records on the faulty disk is appended to, read, deleted from and compacted at the
 * same time, over several lives that end in a clean stop, the end of the process or a power cut, at any operation of the disk, also
 * during a compaction and during the recovery after it.
 *
 * What must hold, whatever happens:
 *  - reading from any offset gives whole batches without a gap, in ascending order, up to the end;
 *  - every record that is there is what was appended at this offset; what is missing was replaced by a later record of its
 *    key that is stored, or is a tombstone whose grace time is over;
 *  - so the last value of each key is there, and no value comes back that a tombstone deleted;
 *  - what a finished compaction took away does not come back after any crash;
 *  - what was acknowledged is not lost, and a producer's last batch is not stored twice;
 *  - no file of a compaction is left after a start; every call comes to an end.
 *
 * Left to `log-simulation.ts`: damage, and logs that are not compacted.
 */

import assert from 'node:assert/strict'
import { isSluiceError } from '../../src/errors.ts'
import { type Disk, DiskError } from '../../src/lib/disk.ts'
import { cachedDisk } from '../../src/lib/disk-cache.ts'
import { Log, type LogConfig } from '../../src/log/log.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { leftoverOf } from '../../src/log/swap.ts'
import { batchBytes, deleteHorizon, lastOffset } from '../../src/record/batch.ts'
import { BatchBuilder, type Compression } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { Crashed, type CrashMoment, FaultyDisk } from './faulty-disk.ts'
import { Random } from './random.ts'
import { VirtualClock } from './virtual-clock.ts'

export interface SimulationOptions {
  /** Puts something between the log and its disk; for planting bugs. */
  readonly disguise?: (disk: Disk) => Disk
  readonly trace?: (line: string) => void
}

export type Outcome = Record<string, number>

const DIRECTORY = '/data/topics/t-0'
const PRODUCERS = 2
const COMPRESSIONS: readonly Compression[] = ['none', 'none', 'none', 'lz4', 'snappy']

interface Kept {
  readonly offset: number
  readonly key: string
  readonly value: string | null
}

/** A batch as it was appended. */
interface Sent {
  readonly base: number
  readonly end: number
  readonly bytes: Buffer
  readonly records: readonly Kept[]
  readonly time: number
  readonly producer: number
  readonly epoch: number
  readonly sequence: number
}

type Settled<T> = { readonly value: T } | { readonly error: unknown } | 'down'

/** Runs one seed. Throws, with the seed in the message, if something does not hold. */
export async function simulateCompaction(seed: number, options: SimulationOptions = {}): Promise<Outcome> {
  const simulation = new CompactionSimulation(seed, options)
  try {
    await simulation.run()
  } catch (error) {
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error)
    throw new Error(
      `seed ${seed}: ${what}\n  run it alone: SLUICE_SIM_SEED=${seed} npm run test:sim -- test/sim/compaction.sim.ts`,
      { cause: error },
    )
  }
  return simulation.outcome
}

class CompactionSimulation {
  readonly outcome: Outcome = {}
  readonly #random: Random
  readonly #clock = new VirtualClock()
  readonly #options: SimulationOptions
  readonly #config: LogConfig
  readonly #keys: number
  /** 0: room for fewer keys than there may be. */
  readonly #keyMapBytesMax: number
  readonly #cacheBytes: number
  readonly #builder = new BatchBuilder(256)
  #disk: FaultyDisk
  #log!: Log
  #sent: Sent[] = []
  readonly #tried = new Map<number, Sent[]>()
  #durable = 0
  #startMin = 0
  #startMax = 0
  /** Offsets that a finished compaction has taken away. */
  readonly #gone = new Set<number>()
  readonly #epochs: number[] = Array.from({ length: PRODUCERS }, () => 0)
  #cacheSurvived = true
  #value = 0

  constructor(seed: number, options: SimulationOptions) {
    const random = new Random(seed)
    this.#random = random
    this.#options = options
    this.#disk = new FaultyDisk({ seed: random.next(), clock: this.#clock, trace: options.trace })
    this.#config = {
      segmentBytesMax: random.pick([250, 600, 1500, 4000]),
      segmentMsMax: 1e9,
      indexIntervalBytes: random.pick([0, 100, 700]),
      batchBytesMax: 5000,
      appendTime: random.chance(0.1),
      retentionMs: -1,
      retentionBytes: -1,
      compaction: {
        lagMsMin: random.chance(0.2) ? 5 : 0,
        lagMsMax: Number.POSITIVE_INFINITY,
        dirtyRatioMin: 0,
        deleteRetentionMs: random.pick([0, 10, 100]),
      },
    }
    this.#keys = random.pick([5, 12, 12, 150])
    this.#keyMapBytesMax = random.chance(0.2) ? 0 : 100_000
    this.#cacheBytes = random.chance(0.3) ? random.pick([1000, 100_000]) : 0
  }

  async run(): Promise<void> {
    this.#disk.makeDirectory(DIRECTORY)
    for (const path of ['/', '/data', '/data/topics']) await this.#settle(this.#disk.syncDirectory(path))
    const lives = this.#random.between(2, 6)
    for (let life = 0; life < lives; life++) {
      await this.#begin(life === lives - 1)
      await this.#checkAll()
      const actions = this.#random.between(5, 45)
      for (let action = 0; action < actions && !this.#disk.isDown; action++) await this.#act()
      if (!this.#disk.isDown && this.#log.failure === null) await this.#checkAll()
      await this.#end()
    }
    await this.#begin(true)
    this.#disk.room = Number.POSITIVE_INFINITY
    this.#append()
    this.#log.roll()
    await this.#clock.advance(10)
    for (;;) {
      const compacted = await this.#settle(this.#log.compact({ firstUncleanableOffset: this.#log.endOffset }))
      assert(compacted !== 'down')
      if ('error' in compacted) throw compacted.error
      if (compacted.value === null) break
    }
    const found = await this.#checkAll()
    const keys = found!.filter(({ offset }) => offset >= this.#log.startOffset).map(({ key }) => key)
    assert.equal(new Set(keys).size, keys.length, 'a key is stored twice after the last compaction')
    await this.#settle(this.#log.close())
  }

  // --- lives ---

  async #begin(mustSucceed: boolean): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const gentle = mustSucceed || attempt > 3
      if (!gentle && this.#random.chance(0.35)) this.#planCrash(15)
      if (!gentle && this.#random.chance(0.1))
        this.#disk.failNext(this.#random.pick(['read', 'write', 'create']))
      if (!gentle && this.#random.chance(0.03)) this.#disk.failNext('sync')
      if (gentle) this.#disk.room = Number.POSITIVE_INFINITY
      const leftovers = this.#disk.list(DIRECTORY).flatMap(name => leftoverOf(name)?.name ?? [])
      this.#trace(`open, attempt ${attempt}`)
      const opened = await this.#settle(this.#open())
      if (opened === 'down') {
        this.#count('crash in recovery')
        this.#powerCut()
        continue
      }
      if ('error' in opened) {
        const { error } = opened
        if (!(error instanceof DiskError || isSluiceError(error))) throw error
        assert(!isSluiceError(error, 'CORRUPT_LOG'), String(error))
        this.#count('open refused')
        if (this.#random.chance(0.5)) this.#powerCut()
        else this.#kill()
        continue
      }
      for (const name of leftovers) this.#count(`settled: ${name}`)
      this.#log = opened.value
      if (!gentle && this.#random.chance(0.6)) this.#planCrash(120)
      this.#checkOpened()
      return
    }
  }

  #open(): Promise<Log> {
    const disguised = this.#options.disguise?.(this.#disk) ?? this.#disk
    const disk = this.#cacheBytes > 0 ? cachedDisk(disguised, { bytesMax: this.#cacheBytes }) : disguised
    return Log.open({
      disk,
      files: new OpenFiles(disk, this.#random.between(1, 4)),
      directory: DIRECTORY,
      config: this.#config,
      clock: this.#clock,
      onReport: report => {
        this.#trace(`report: ${report.case} ${report.message}`)
        this.#count(`recovery: ${report.case}`)
        assert(report.case !== 'damaged-swap' && report.case !== 'short-file', report.message)
      },
    })
  }

  async #end(): Promise<void> {
    this.#durable = Math.max(this.#durable, this.#log.durableOffset)
    if (this.#disk.isDown) return this.#powerCut()
    const choice = this.#random.below(10)
    if (choice < 4) return this.#powerCut()
    if (choice < 7) return this.#kill()
    const closed = await this.#settle(this.#log.close())
    if (closed === 'down') return this.#powerCut()
    if ('error' in closed) throw closed.error
    this.#count('clean close')
    this.#kill()
  }

  #powerCut(): void {
    this.#trace('power cut')
    this.#count('power cut')
    this.#disk = this.#disk.crash()
    this.#cacheSurvived = false
  }

  #kill(): void {
    this.#trace('kill')
    this.#count('kill')
    this.#disk = this.#disk.kill()
  }

  #planCrash(operationsMax: number): void {
    const moment = this.#random.pick<CrashMoment>(['before', 'middle', 'after'])
    this.#disk.crashAt(this.#disk.operations + this.#random.below(operationsMax), moment)
  }

  // --- actions ---

  async #act(): Promise<void> {
    const choice = this.#random.below(100)
    if (choice < 50) this.#append()
    else if (choice < 57) await this.#flush()
    else if (choice < 75) await this.#compact()
    else if (choice < 80) await this.#readSomewhere()
    else if (choice < 83) this.#repeat()
    else if (choice < 88) this.#roll()
    else if (choice < 90) await this.#deleteUntil()
    else if (choice < 96) await this.#clock.advance(this.#random.below(30))
    else this.#fault()
  }

  #append(): void {
    const random = this.#random
    const producer = random.chance(0.4) ? random.below(PRODUCERS) : -1
    const previous = this.#sent.findLast(sent => sent.producer === producer)
    let epoch = -1
    let sequence = -1
    if (producer >= 0) {
      if (previous === undefined || previous.epoch !== this.#epochs[producer]) {
        epoch = ++this.#epochs[producer]
        sequence = 0
      } else {
        epoch = previous.epoch
        sequence = previous.sequence + previous.end - previous.base
      }
    }
    const base = this.#log.endOffset
    this.#builder.reset()
    const records: Kept[] = []
    for (let index = random.between(1, 4); index > 0; index--) {
      const key = `key ${random.below(this.#keys)}`
      const value = random.chance(0.25)
        ? null
        : `${this.#value++}${'x'.repeat(random.chance(0.1) ? 200 : random.below(30))}`
      records.push({ offset: base + records.length, key, value })
      this.#builder.append(this.#clock.now() - random.below(5), key, value, null)
    }
    const compression = random.pick(COMPRESSIONS)
    const bytes = Buffer.from(
      this.#builder.close({
        compression,
        ...(producer >= 0 && { producerId: producer, producerEpoch: epoch, baseSequence: sequence }),
      }),
    )
    const end = base + records.length
    const sent: Sent = { base, end, bytes, records, time: this.#clock.now(), producer, epoch, sequence }
    this.#tried.set(base, [...(this.#tried.get(base) ?? []), sent])
    try {
      const appended = this.#log.append(bytes)
      assert.equal(appended.repeated, false)
      assert.equal(appended.baseOffset, base)
      this.#sent.push(sent)
      this.#count('append')
    } catch (error) {
      this.#expected(error)
      // What was not stored is not sent again: a new session.
      if (producer >= 0) this.#epochs[producer]++
    }
    if (random.chance(0.3)) this.#log.startFlush()
  }

  #repeat(): void {
    const last = this.#sent.findLast(
      ({ producer, epoch }) => producer >= 0 && epoch === this.#epochs[producer],
    )
    if (last === undefined) return
    const isLast = this.#sent.findLast(({ producer }) => producer === last.producer) === last
    if (!isLast) return
    try {
      const appended = this.#log.append(Buffer.from(last.bytes))
      assert(
        appended.repeated,
        `the last batch of producer ${last.producer}, at ${last.base}, was stored twice`,
      )
      assert.equal(appended.baseOffset, last.base)
      this.#count('repeated')
    } catch (error) {
      this.#expected(error)
    }
  }

  async #flush(): Promise<void> {
    const end = this.#log.endOffset
    const flushed = await this.#settle(this.#log.flush())
    if (flushed === 'down') return
    if ('error' in flushed) this.#expected(flushed.error)
    else this.#durable = Math.max(this.#durable, end)
  }

  #roll(): void {
    try {
      this.#log.roll()
    } catch (error) {
      this.#expected(error)
    }
  }

  async #deleteUntil(): Promise<void> {
    const log = this.#log
    const until = this.#random.between(log.startOffset, log.endOffset)
    this.#startMax = Math.max(this.#startMax, until)
    const deleted = await this.#settle(log.deleteUntil(until))
    if (deleted === 'down') return
    if ('error' in deleted) return this.#expected(deleted.error)
    this.#startMin = Math.max(this.#startMin, until)
    this.#count('deleted')
  }

  /** A compaction, with other things going on. */
  async #compact(): Promise<void> {
    const random = this.#random
    const log = this.#log
    const limit = random.chance(0.7) ? log.durableOffset : random.between(log.startOffset, log.endOffset)
    const others: Promise<void>[] = []
    // What a failed sync of the folder leaves in the dark is the hardest for a swap.
    if (random.chance(0.15)) {
      let before = random.below(8)
      this.#disk.failNext('sync', path => path === DIRECTORY && before-- === 0)
    }
    const beside = (other: Promise<void>): void => {
      other.catch(() => {}) // heard of below
      others.push(other)
    }
    const compacting = log.compact({
      firstUncleanableOffset: limit,
      keyMapBytesMax: this.#keyMapBytesMax,
      sliceMs: random.pick([0, 1]),
    })
    let isOver = false
    compacting.then(
      () => {
        isOver = true
      },
      () => {
        isOver = true
      },
    )
    for (let index = random.below(6); index > 0; index--) {
      const choice = random.below(13)
      this.#clock.after(random.fraction() * 8, () => {
        if (isOver || this.#disk.isDown || log !== this.#log || log.failure !== null) return
        this.#count('beside a compaction')
        if (choice < 6) this.#append()
        else if (choice < 7) this.#roll()
        else if (choice < 8) beside(log.checkpoint().catch(error => this.#expected(error)))
        else if (choice < 12) beside(this.#readConcurrently())
        else beside(this.#startDelete())
      })
    }
    const settled = await this.#settle(compacting)
    if (settled === 'down') return
    const settledOthers = await this.#settle(Promise.all(others))
    if (settledOthers !== 'down' && 'error' in settledOthers) throw settledOthers.error
    if (this.#disk.isDown) return
    if ('error' in settled) {
      if (isSluiceError(settled.error, 'CLOSED')) return // deleted meanwhile
      return this.#expected(settled.error, ['CORRUPT_LOG'])
    }
    if (settled.value === null) return
    this.#count(settled.value.isComplete ? 'compaction' : 'compaction with a full map')
    if (settled.value.segmentsAfter < settled.value.segmentsBefore) this.#count('segments merged')
    this.#durable = Math.max(this.#durable, log.durableOffset)
    const found = await this.#readAll()
    if (found === null || log.failure !== null) return
    const there = new Set(found.map(({ offset }) => offset))
    for (let offset = log.startOffset; offset < settled.value.cleanedUntil; offset++)
      if (!there.has(offset)) this.#gone.add(offset)
  }

  #startDelete(): Promise<void> {
    const log = this.#log
    const until = this.#random.between(log.startOffset, log.endOffset)
    this.#startMax = Math.max(this.#startMax, until)
    return log.deleteUntil(until).then(
      () => {
        this.#startMin = Math.max(this.#startMin, until)
      },
      error => this.#expected(error),
    )
  }

  #fault(): void {
    const choice = this.#random.below(100)
    if (choice < 35) this.#disk.failNext(this.#random.pick(['write', 'create']))
    else if (choice < 50)
      this.#disk.room = this.#random.chance(0.6) ? this.#random.below(1500) : Number.POSITIVE_INFINITY
    else if (choice < 75) this.#disk.failNext('read')
    else this.#disk.failNext('sync')
  }

  // --- reading ---

  async #readSomewhere(): Promise<void> {
    const settled = await this.#settle(this.#readConcurrently())
    if (settled !== 'down' && 'error' in settled) throw settled.error
  }

  /** Reads on from somewhere, and looks at what comes. */
  async #readConcurrently(): Promise<void> {
    const log = this.#log
    let offset = this.#random.between(log.startOffset, log.endOffset)
    const bytesMax = this.#random.pick([1, 200, 3000])
    try {
      for (let round = 0; round < 4 && offset < log.endOffset; round++) {
        const bytes = await log.read(offset, bytesMax)
        offset = this.#look(bytes, offset, [])
      }
    } catch (error) {
      if (isSluiceError(error, 'OFFSET_OUT_OF_RANGE') && offset < log.startOffset) return
      this.#expected(error, ['CORRUPT_LOG', 'CLOSED'])
    }
  }

  /** Checks what a read brought. Returns where to go on. */
  #look(bytes: Buffer, offset: number, found: Kept[]): number {
    assert(bytes.length > 0, `nothing at offset ${offset}`)
    let next = offset
    for (let at = 0; at < bytes.length; at += batchBytes(bytes, at)) {
      const batch = bytes.subarray(at, at + batchBytes(bytes, at))
      assert(lastOffset(batch, 0) >= next, `offset ${lastOffset(batch, 0)} after ${next}`)
      next = lastOffset(batch, 0) + 1
      const cursor = new RecordCursor(batch)
      while (cursor.next()) {
        const { bytes: from, keyStart, keyBytes, valueStart, valueBytes } = cursor
        const key = from.toString('latin1', keyStart, keyStart + keyBytes)
        const value = valueBytes < 0 ? null : from.toString('latin1', valueStart, valueStart + valueBytes)
        const sent = this.#at(cursor.offset)
        const original = sent?.records[cursor.offset - sent.base]
        assert(original !== undefined, `a record at offset ${cursor.offset}, which was never appended`)
        assert.deepEqual([key, value], [original.key, original.value], `wrong record at ${cursor.offset}`)
        if (deleteHorizon(batch, 0) < 0 && !this.#config.appendTime)
          assert(cursor.timestamp <= sent!.time && cursor.timestamp > sent!.time - 5, 'wrong timestamp')
        found.push(original)
      }
    }
    return next
  }

  /** Everything there is; null if a fault was in the way. */
  async #readAll(): Promise<Kept[] | null> {
    const log = this.#log
    const step = this.#random.pick([1, 400, 100_000])
    const found: Kept[] = []
    for (let offset = log.startOffset; offset < log.endOffset; ) {
      const settled = await this.#settle((async () => log.read(offset, step))())
      if (settled === 'down') return null
      if ('error' in settled) {
        const { error } = settled
        assert(
          isSluiceError(error, 'CORRUPT_LOG') && (error as Error).cause instanceof DiskError,
          String(error),
        )
        continue // a read that failed; the same one succeeds the next time
      }
      offset = this.#look(settled.value, offset, found)
    }
    return found
  }

  async #checkAll(): Promise<Kept[] | null> {
    const all = await this.#readAll()
    if (all === null) return null
    const start = this.#log.startOffset
    const found = all.filter(({ offset }) => offset >= start)
    const there = new Map(found.map(record => [record.offset, record]))
    const last = new Map<string, Kept>()
    for (const record of found) last.set(record.key, record)
    for (const sent of this.#sent) {
      for (const record of sent.records) {
        if (record.offset < start || there.has(record.offset)) continue
        const replaced = this.#sent.some(
          ({ end, records }) =>
            end > record.offset &&
            records.some(({ key, offset }) => key === record.key && offset > record.offset),
        )
        if (replaced) continue
        assert(
          record.value === null,
          `the last value of "${record.key}", at offset ${record.offset}, is gone`,
        )
        const age = this.#clock.now() - sent.time
        const least = this.#config.compaction!.deleteRetentionMs
        assert(age >= least, `a tombstone at offset ${record.offset} went at the age of ${age} ms`)
        const old = last.get(record.key)
        assert(old === undefined, `"${record.key}" is back with a value from offset ${old?.offset}`)
      }
    }
    for (const { offset } of found)
      assert(!this.#gone.has(offset), `what was compacted came back at ${offset}`)
    return found
  }

  // --- the model ---

  #checkOpened(): void {
    const log = this.#log
    const end = log.endOffset
    this.#trace(`opened ${log.startOffset}-${end}`)
    assert.equal(log.durableOffset, end)
    const left = this.#disk.list(DIRECTORY).filter(name => leftoverOf(name) !== null)
    assert.deepEqual(left, [], 'files of a compaction are left')
    assert(log.startOffset >= this.#startMin, `the start went back to ${log.startOffset}`)
    assert(
      log.startOffset <= Math.max(this.#startMin, this.#startMax),
      `the start went to ${log.startOffset}`,
    )
    this.#startMin = log.startOffset
    this.#startMax = log.startOffset
    const before = this.#sent.at(-1)?.end ?? 0
    if (this.#cacheSurvived) assert.equal(end, before, 'a kill lost or added something')
    else assert(end >= this.#durable, `the log ends at ${end}, acknowledged was ${this.#durable}`)
    this.#adopt(end)
    this.#durable = end
    this.#cacheSurvived = true
  }

  /** Takes what lies behind the acknowledged end for the truth, if it was tried there. It was never compacted. */
  #adopt(end: number): void {
    if (this.#cacheSurvived) return
    const kept = this.#sent.filter(sent => sent.end <= Math.min(this.#durable, end))
    let offset = kept.at(-1)?.end ?? 0
    const names = this.#disk.list(DIRECTORY).filter(name => name.endsWith('.log'))
    const stored = new Map<number, Buffer>()
    for (const name of names) {
      const bytes = this.#bytesOf(name)
      for (let at = 0; at < bytes.length; at += batchBytes(bytes, at))
        stored.set(Number(bytes.readBigInt64BE(at)), bytes.subarray(at, at + batchBytes(bytes, at)))
    }
    while (offset < end) {
      const bytes = stored.get(offset)
      const found = this.#tried.get(offset)?.find(tried => bytes !== undefined && tried.bytes.equals(bytes))
      assert(found !== undefined, `what is stored at offset ${offset} was never appended there`)
      kept.push(found)
      offset = found.end
    }
    assert.equal(offset, end)
    this.#sent = kept
    for (const offset of [...this.#gone]) if (offset >= end) this.#gone.delete(offset)
  }

  #bytesOf(name: string): Buffer {
    const file = this.#disk.open(`${DIRECTORY}/${name}`, 'read')
    try {
      return Buffer.from(file.readNow(0, file.size()))
    } catch (error) {
      if (!(error instanceof DiskError)) throw error
      return Buffer.from(file.readNow(0, file.size())) // a fault that was meant for the log
    } finally {
      file.close()
    }
  }

  #at(offset: number): Sent | undefined {
    let low = 0
    let high = this.#sent.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#sent[middle].end > offset) high = middle
      else low = middle + 1
    }
    const sent = this.#sent[low]
    return sent !== undefined && sent.base <= offset && offset < sent.end ? sent : undefined
  }

  // --- the rest ---

  async #settle<T>(promise: Promise<T>): Promise<Settled<T>> {
    let settled: Settled<T> | null = null
    promise.then(
      value => {
        settled = { value }
      },
      error => {
        settled = { error }
      },
    )
    const current = () => settled as Settled<T> | null
    await this.#clock.runDeferred()
    while (current() === null && !this.#disk.isDown) {
      const moved = await this.#clock.step()
      assert(moved || current() !== null || this.#disk.isDown, 'a call that never comes to an end')
    }
    return this.#disk.isDown ? 'down' : current()!
  }

  #expected(error: unknown, more: readonly string[] = []): void {
    if (error instanceof Crashed || this.#disk.isDown) return
    if (!isSluiceError(error) || !['DISK_FULL', 'STORAGE_FAILED', ...more].includes(error.code)) throw error
    if (error.code === 'CORRUPT_LOG') assert(error.cause instanceof DiskError, String(error))
    this.#count(error.code)
  }

  #count(what: string): void {
    this.outcome[what] = (this.outcome[what] ?? 0) + 1
  }

  #trace(line: string): void {
    this.#options.trace?.(line)
  }
}
