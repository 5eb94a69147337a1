/**
 * A seeded simulation of the log: a model and a log on the faulty disk do the same random things, over several lives that end in
 * a clean stop, the end of the process or a power cut, at any operation of the disk, also during recovery.
 *
 *     open ──▶ check all that is stored ──▶ actions, faults ──▶ close | kill | crash ──▶ open ──▶ …
 *
 * What must hold, whatever happens:
 *  - what a flush acknowledged is there after every recovery, byte for byte, at its offset; after a kill so is everything that
 *    was appended; what recovery has shown once counts as acknowledged, since readers see it;
 *  - offsets have no hole, no duplicate, no change of order, and nothing is there that was not appended at this offset;
 *  - the start never goes back behind a deletion that was acknowledged, nor beyond one that was asked for;
 *  - a batch whose bit was flipped is refused (CORRUPT_LOG) or cut by a recovery that reports it, never served wrong; all others can
 *    be read, and `resumeOffset` is where the damage ends;
 *  - a producer's batch that is stored is not stored again; one that got lost is taken;
 *  - a refused append leaves nothing; every call comes to an end; the log can be used after every recovery.
 *
 * Not modelled: several flipped bits at once are allowed to hide whole batches between them.
 */

import assert from 'node:assert/strict'
import { isSluiceError, type SluiceError } from '../../src/errors.ts'
import { type Disk, DiskError } from '../../src/lib/disk.ts'
import { cachedDisk } from '../../src/lib/disk-cache.ts'
import { Log, type LogConfig } from '../../src/log/log.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import type { RecoveryReport } from '../../src/log/recovery.ts'
import { segmentOffset } from '../../src/log/segment.ts'
import { BATCH_HEADER_BYTES, baseOffset, batchBytes, maxTimestamp } from '../../src/record/batch.ts'
import { BatchBuilder, type Compression } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { Crashed, type CrashMoment, FaultyDisk } from './faulty-disk.ts'
import { Random } from './random.ts'
import { VirtualClock } from './virtual-clock.ts'

export interface SimulationOptions {
  /** Puts something between the log and its disk; for planting bugs. */
  readonly disguise?: (disk: Disk) => Disk
  /** Told of everything that happens. */
  readonly trace?: (line: string) => void
}

/** How often things came to pass: what a run has reached. */
export type Outcome = Record<string, number>

const DIRECTORY = '/data/topics/t-0'
const PRODUCERS = 3
const COMPRESSIONS: readonly Compression[] = ['none', 'none', 'none', 'none', 'snappy', 'lz4', 'gzip', 'zstd']

interface Sequence {
  readonly producer: number
  readonly epoch: number
  readonly first: number
}

/** A batch as it is stored, or would be. */
interface Stored {
  readonly base: number
  readonly end: number
  readonly bytes: Buffer
  readonly sequence: Sequence | null
}

type Settled<T> = { readonly value: T } | { readonly error: unknown } | 'down'

/** Runs one seed. Throws, with the seed in the message, if something does not hold. */
export async function simulate(seed: number, options: SimulationOptions = {}): Promise<Outcome> {
  const simulation = new Simulation(seed, options)
  try {
    await simulation.run()
  } catch (error) {
    const what = error instanceof Error ? error.message : String(error)
    throw new Error(
      `seed ${seed}: ${what}\n  run it alone: SLUICE_SIM_SEED=${seed} npm run test:sim -- test/sim/log.sim.ts`,
      { cause: error },
    )
  }
  return simulation.outcome
}

class Simulation {
  readonly outcome: Outcome = {}
  readonly #random: Random
  readonly #clock = new VirtualClock()
  readonly #options: SimulationOptions
  readonly #config: LogConfig
  readonly #cacheBytes: number
  readonly #builder = new BatchBuilder(256)
  #disk: FaultyDisk
  #log!: Log
  /** Whether there was no power cut since the log was last open. */
  #cacheSurvived = true

  // the model
  /** Everything stored as far as the log has told, from offset 0 on, also what is deleted by now. */
  #batches: Stored[] = []
  /** Everything that was ever tried at an offset and is not acknowledged: a power cut may keep it. */
  readonly #tried = new Map<number, Stored[]>()
  /** Everything before it is acknowledged. */
  #durable = 0
  #startAcknowledged = 0
  #startWanted = 0
  readonly #damaged = new Set<Stored>()
  #checkpointDamaged = false
  #checkpointFlipped = false
  #syncFailures = false
  /** A damaged snapshot or checkpoint costs what is known of producers whose batches are deleted. */
  #producersForgotten = false
  #timeIndexDamaged = false
  readonly #epochs: number[] = []

  constructor(seed: number, options: SimulationOptions) {
    const random = new Random(seed)
    this.#random = random
    this.#options = options
    this.#disk = new FaultyDisk({ seed: random.next(), clock: this.#clock, trace: options.trace })
    this.#config = {
      segmentBytesMax: random.pick([300, 1000, 3000, 100_000]),
      segmentMsMax: random.chance(0.2) ? 50 : 1e9,
      indexIntervalBytes: random.pick([0, 100, 700, 4096]),
      batchBytesMax: 2000,
      appendTime: random.chance(0.15),
      retentionMs: random.chance(0.3) ? random.between(5, 100) : -1,
      retentionBytes: random.chance(0.2) ? random.between(0, 3000) : -1,
    }
    this.#cacheBytes = random.chance(0.3) ? random.pick([1000, 100_000]) : 0
    for (let producer = 0; producer < PRODUCERS; producer++) this.#epochs.push(0)
  }

  async run(): Promise<void> {
    // The folder above is the broker's business.
    this.#disk.makeDirectory(DIRECTORY)
    for (const path of ['/', '/data', '/data/topics']) await this.#settle(this.#disk.syncDirectory(path))
    const lives = this.#random.between(2, 6)
    for (let life = 0; life < lives; life++) {
      if (!(await this.#begin(life === lives - 1))) continue
      await this.#checkAll()
      const actions = this.#random.between(3, 40)
      for (let action = 0; action < actions && !this.#disk.isDown; action++) await this.#act()
      if (!this.#disk.isDown && this.#log.failure === null) await this.#checkAll()
      await this.#end()
    }
    await this.#begin(true)
    await this.#checkAll()
    this.#disk.room = Number.POSITIVE_INFINITY
    this.#append({ producer: null, mayFail: false })
    await this.#flush(true)
    await this.#close()
  }

  // --- lives ---

  /** Opens the log, perhaps with a crash or a fault on the way. False if that was the end of it. */
  async #begin(mustSucceed: boolean): Promise<boolean> {
    const reports: RecoveryReport[] = []
    for (let attempt = 0; ; attempt++) {
      const gentle = mustSucceed || attempt > 3
      if (!gentle && this.#random.chance(0.35)) this.#planCrash(12)
      if (!gentle && this.#random.chance(0.1))
        this.#disk.failNext(this.#random.pick(['read', 'write', 'create']))
      if (!gentle && this.#random.chance(0.03)) this.#failSync()
      if (gentle) this.#disk.room = Number.POSITIVE_INFINITY
      this.#trace(`open, attempt ${attempt}`)
      const opened = await this.#settle(this.#open(reports))
      if (opened === 'down') {
        this.#count('crash in recovery')
        this.#powerCut()
        continue
      }
      if ('error' in opened) {
        // A disk error is an answer; nothing else is. A failed sync may also end it.
        const { error } = opened
        if (
          !(
            error instanceof DiskError ||
            isSluiceError(error, 'STORAGE_FAILED') ||
            isSluiceError(error, 'DISK_FULL')
          )
        )
          throw error
        this.#count('open refused')
        if (this.#random.chance(0.5)) this.#powerCut()
        else this.#kill()
        continue
      }
      this.#log = opened.value
      if (!gentle && this.#random.chance(0.5)) this.#planCrash(80)
      this.#checkOpened(reports)
      return true
    }
  }

  #open(reports: RecoveryReport[]): Promise<Log> {
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
        reports.push(report)
      },
    })
  }

  async #end(): Promise<void> {
    this.#acknowledge(this.#log.durableOffset)
    if (this.#disk.isDown) this.#powerCut()
    else {
      const choice = this.#random.below(10)
      if (choice < 4) this.#powerCut()
      else if (choice < 7) this.#kill()
      else await this.#close()
    }
  }

  async #close(): Promise<void> {
    this.#trace('close')
    const failed = this.#log.failure !== null
    const closed = await this.#settle(this.#log.close())
    if (closed === 'down') return this.#powerCut()
    if ('error' in closed) throw closed.error
    this.#count('clean close')
    if (!failed && this.#log.durableOffset === this.#end_()) this.#acknowledge(this.#end_())
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
    if (choice < 40)
      this.#append({
        producer: this.#random.chance(0.4) ? this.#random.below(PRODUCERS) : null,
        mayFail: true,
      })
    else if (choice < 46) this.#repeat()
    else if (choice < 58) await this.#flush(this.#random.chance(0.6))
    else if (choice < 70) await this.#readSomewhere()
    else if (choice < 75) await this.#clock.advance(this.#random.fraction() * 4)
    else if (choice < 79) this.#roll()
    else if (choice < 82) await this.#deleteUntil()
    else if (choice < 85) await this.#enforceRetention()
    else if (choice < 89) await this.#checkpoint()
    else if (choice < 92) await this.#searchTime()
    else if (choice < 93) await this.#clock.advance(this.#random.between(20, 100))
    else this.#fault()
  }

  #append(how: { producer: number | null; mayFail: boolean }): void {
    const sequence = how.producer === null ? null : this.#nextSequence(how.producer)
    const batch = this.#makeBatch(sequence)
    this.#appendBatch(batch, sequence, how.mayFail)
  }

  #makeBatch(sequence: Sequence | null): Buffer {
    const random = this.#random
    this.#builder.reset()
    const count = random.between(1, 4)
    for (let index = 0; index < count; index++) {
      const bytes = random.chance(0.1) ? random.below(400) : random.below(60)
      const value = random.chance(0.3) ? Buffer.alloc(bytes, 'x') : random.bytes(bytes)
      this.#builder.append(
        this.#clock.now() - random.below(8),
        random.chance(0.5) ? null : `k${random.below(9)}`,
        value,
        null,
      )
    }
    const batch = this.#builder.close({
      compression: random.pick(COMPRESSIONS),
      ...(sequence !== null && {
        producerId: sequence.producer,
        producerEpoch: sequence.epoch,
        baseSequence: sequence.first,
      }),
    })
    return Buffer.from(batch)
  }

  #appendBatch(batch: Buffer, sequence: Sequence | null, mayFail: boolean): void {
    const log = this.#log
    const end = this.#end_()
    const failedBefore = log.failure
    let appended: ReturnType<Log['append']>
    try {
      appended = log.append(batch, this.#random.chance(0.5))
    } catch (error) {
      this.#remember(batch, end, sequence) // a power cut may bring back what was cut off
      if (this.#disk.isDown) return
      if (!isSluiceError(error)) throw error
      this.#trace(`append refused: ${error.message}`)
      this.#count(`append: ${error.code}`)
      assert(mayFail || error.code === 'DISK_FULL', `append: ${error.message}`)
      assert(['DISK_FULL', 'STORAGE_FAILED'].includes(error.code), `append: ${error.message}`)
      if (error.code === 'STORAGE_FAILED')
        assert(failedBefore !== null, `the log failed by itself: ${error.message}`)
      assert.equal(log.endOffset, end, 'a refused append moved the end')
      return
    }
    this.#trace(
      `appended ${appended.baseOffset}-${appended.lastOffset}${sequence === null ? '' : ` ${JSON.stringify(sequence)}`}`,
    )
    this.#count('append')
    assert.equal(failedBefore, null, 'a failed log took an append')
    assert.equal(appended.repeated, false, 'a new batch was taken for a repetition')
    assert.equal(appended.baseOffset, end, 'the offset is not the one that was due')
    this.#batches.push(this.#remember(batch, end, sequence))
    assert.equal(log.endOffset, this.#end_())
    if (this.#random.chance(0.3)) log.startFlush()
  }

  /** Sends a batch again that is stored, or leaves one out. */
  #repeat(): void {
    if (this.#log.failure !== null) return
    const producer = this.#random.below(PRODUCERS)
    const sent = this.#sentBy(producer)
    const last = sent.at(-1)
    if (last === undefined) return
    const log = this.#log
    const end = log.endOffset
    if (this.#random.chance(0.2)) {
      const { epoch, first } = this.#nextSequence(producer)
      if (epoch !== last.sequence!.epoch) return
      const batch = this.#makeBatch({ producer, epoch, first: first + 1 })
      this.#expectRefusal(() => log.append(batch), ['OUT_OF_ORDER_SEQUENCE'])
    } else {
      const again = this.#random.chance(0.7) ? last : this.#random.pick(sent)
      const batch = Buffer.from(again.bytes)
      if (again.sequence!.epoch < last.sequence!.epoch) {
        this.#expectRefusal(() => log.append(batch), ['INVALID_PRODUCER_EPOCH'])
      } else if (again === last) {
        const appended = log.append(batch)
        this.#count('repeated')
        assert(appended.repeated, `a batch of producer ${producer} at ${again.base} was stored twice`)
        assert.equal(appended.baseOffset, again.base)
        assert.equal(appended.lastOffset, again.end - 1)
      } else {
        try {
          const appended = log.append(batch)
          assert(appended.repeated, `a batch of producer ${producer} at ${again.base} was stored twice`)
          assert.equal(appended.baseOffset, again.base)
        } catch (error) {
          if (!isSluiceError(error, 'DUPLICATE_SEQUENCE')) throw error
        }
      }
    }
    assert.equal(log.endOffset, end)
  }

  async #flush(wait: boolean): Promise<void> {
    const end = this.#end_()
    const log = this.#log
    const flushed = log.flush().then(
      () => {
        // The promise may be heard of after a crash, but only resolves before one.
        if (log !== this.#log) return
        assert(log.durableOffset >= end)
        this.#trace(`flushed ${end}`)
        this.#acknowledge(end)
      },
      error => {
        if (!isSluiceError(error, 'STORAGE_FAILED') && !isSluiceError(error, 'CLOSED')) throw error
      },
    )
    if (!wait) return
    const settled = await this.#settle(flushed)
    if (settled !== 'down' && 'error' in settled) throw settled.error
  }

  #roll(): void {
    try {
      this.#log.roll()
    } catch (error) {
      if (!this.#disk.isDown) this.#expectCodes(error, ['DISK_FULL', 'STORAGE_FAILED'])
    }
  }

  async #deleteUntil(): Promise<void> {
    const until = this.#random.between(this.#log.startOffset, this.#end_())
    this.#trace(`delete until ${until}`)
    this.#startWanted = Math.max(this.#startWanted, until)
    const deleted = await this.#settle(this.#log.deleteUntil(until))
    if (deleted === 'down') return
    if ('error' in deleted) this.#expectCodes(deleted.error, ['DISK_FULL', 'STORAGE_FAILED'])
    else {
      this.#count('deleted')
      this.#startAcknowledged = Math.max(this.#startAcknowledged, until)
      assert(this.#log.startOffset >= until)
    }
  }

  async #enforceRetention(): Promise<void> {
    const now = this.#clock.now()
    const start = this.#log.startOffset
    this.#startWanted = this.#end_()
    const enforced = await this.#settle(this.#log.enforceRetention(now, this.#log.durableOffset))
    if (enforced === 'down') return
    const until = this.#log.startOffset
    this.#startWanted = Math.max(this.#startAcknowledged, until)
    if ('error' in enforced) return this.#expectCodes(enforced.error, ['DISK_FULL', 'STORAGE_FAILED'])
    if (until === start) return
    this.#startAcknowledged = until
    this.#count('retention')
    if (this.#config.retentionBytes >= 0 || this.#timeIndexDamaged) return
    for (const batch of this.#batches) {
      if (batch.base < start || batch.end > until || this.#damaged.has(batch)) continue
      const age = now - maxTimestamp(batch.bytes, 0)
      assert(age > this.#config.retentionMs, `retention removed offset ${batch.base} at the age of ${age} ms`)
    }
  }

  async #checkpoint(): Promise<void> {
    const checkpointed = await this.#settle(this.#log.checkpoint())
    if (checkpointed !== 'down' && 'error' in checkpointed) {
      this.#expectCodes(checkpointed.error, ['DISK_FULL', 'STORAGE_FAILED'])
    } else if (checkpointed !== 'down') this.#count('checkpoint')
  }

  #fault(): void {
    const choice = this.#random.below(100)
    if (choice < 30) this.#disk.failNext(this.#random.pick(['write', 'create']))
    else if (choice < 40)
      this.#disk.room = this.#random.chance(0.6) ? this.#random.below(1000) : Number.POSITIVE_INFINITY
    else if (choice < 60) this.#disk.failNext('read')
    else if (choice < 75) this.#failSync()
    else this.#flipBit()
  }

  #failSync(): void {
    this.#syncFailures = true
    this.#disk.failNext('sync')
  }

  #flipBit(): void {
    const names = this.#disk.list(DIRECTORY)
    this.#acknowledge(this.#log.durableOffset)
    const flipped = this.#disk.flipBit(path => path.startsWith(DIRECTORY))
    if (flipped === null) return
    this.#trace(`flipped ${flipped.path} ${flipped.position} ${flipped.mask}`)
    const name = flipped.path.slice(flipped.path.lastIndexOf('/') + 1)
    this.#count(`flip: ${name.slice(name.lastIndexOf('.') + 1).replace(/cut-.*/, 'cut')}`)
    if (name.startsWith('checkpoint')) {
      this.#checkpointDamaged = true
      this.#checkpointFlipped = true
    } else if (name.endsWith('.snapshot')) this.#producersForgotten = true
    else if (name.endsWith('.timeindex')) this.#timeIndexDamaged = true
    const base = segmentOffset(name)
    if (base < 0) return
    const next = names.map(segmentOffset).filter(offset => offset > base)
    let position = 0
    for (const batch of this.#batches) {
      if (batch.base < base || batch.base >= Math.min(...next, Number.POSITIVE_INFINITY)) continue
      if (flipped.position >= position && flipped.position < position + batch.bytes.length)
        this.#damaged.add(batch)
      position += batch.bytes.length
    }
  }

  // --- reading ---

  async #readSomewhere(): Promise<void> {
    const log = this.#log
    if (log.startOffset === log.endOffset) return
    const limit = this.#random.chance(0.5) ? log.endOffset : log.durableOffset
    const offset = this.#random.between(log.startOffset, log.endOffset - 1)
    for (let at = offset, rounds = this.#random.between(1, 4); rounds > 0 && at < limit; rounds--) {
      const next = await this.#read(at, this.#random.below(1500), limit)
      if (next === null) return
      at = next
    }
  }

  /** Reads once and compares. Returns where to go on, null if that was not to be found out. */
  async #read(offset: number, bytesMax: number, limit: number): Promise<number | null> {
    const log = this.#log
    const settled = await this.#settle((async () => log.read(offset, bytesMax, limit))())
    if (settled === 'down') return null
    if ('error' in settled) return this.#refusedRead(offset, settled.error)
    const bytes = settled.value
    assert(bytes.length > 0, `nothing at offset ${offset}, although the limit is ${limit}`)
    let index = this.#indexOf(offset)
    for (let at = 0; at < bytes.length; at += batchBytes(bytes, at), index++) {
      const expected = this.#batches[index]
      const found = bytes.subarray(at, at + batchBytes(bytes, at))
      assert(expected !== undefined, `offset ${baseOffset(bytes, at)} was read and is behind the end`)
      assert(found.equals(expected.bytes), `wrong bytes at offset ${expected.base}`)
      assert(at === 0 || expected.base < limit, `a batch behind the limit ${limit}`)
    }
    const next = this.#batches[index - 1].end
    assert(
      bytes.length <= bytesMax || index === this.#indexOf(offset) + 1 || bytesMax < 61,
      'more than was asked for',
    )
    return next
  }

  #refusedRead(offset: number, error: unknown): number | null {
    if (!isSluiceError(error, 'CORRUPT_LOG')) throw error
    const { file, position, resumeOffset } = (error as SluiceError).detail as {
      file: string
      position: number
      resumeOffset: number
    }
    assert(
      typeof file === 'string' && position >= 0 && resumeOffset > offset,
      `at ${offset}: ${error.message}`,
    )
    if (error.cause instanceof DiskError) {
      this.#count('read: EIO')
      return null // a read that failed; the same one succeeds the next time
    }
    this.#count('read: CORRUPT_LOG')
    const batch = this.#batches[this.#indexOf(offset)]
    assert(this.#damaged.size > 0, `nothing was damaged: ${error.message}`)
    if (this.#damaged.size > 1) return resumeOffset
    assert(this.#damaged.has(batch), `offset ${offset} is not damaged: ${error.message}`)
    assert.equal(resumeOffset, batch.end, error.message)
    return resumeOffset
  }

  async #searchTime(): Promise<void> {
    const log = this.#log
    const time = this.#clock.now() - this.#random.below(100)
    const limit = log.endOffset
    const start = log.startOffset
    const settled = await this.#settle(log.offsetForTime(time, limit))
    if (settled === 'down') return
    if ('error' in settled) {
      this.#expectCodes(settled.error, ['CORRUPT_LOG'])
      const isRead = (settled.error as Error).cause instanceof DiskError
      assert(isRead || this.#damaged.size > 0, String(settled.error))
      return
    }
    if (this.#timeIndexDamaged) return
    this.#count('time search')
    let expected = -1
    for (const { base, end, bytes } of this.#batches) {
      if (end <= start || base >= limit || expected >= 0) continue
      const cursor = new RecordCursor(bytes)
      while (expected < 0 && cursor.next())
        if (cursor.offset >= start && cursor.timestamp >= time) expected = cursor.offset
    }
    assert.equal(settled.value, expected, `the first offset from ${time} on`)
  }

  /** Reads everything there is, a few bytes or everything at a time. */
  async #checkAll(): Promise<void> {
    const log = this.#log
    const step = this.#random.pick([0, 500, 100_000])
    for (let offset = log.startOffset; offset < log.endOffset; ) {
      const next = await this.#read(offset, step, log.endOffset)
      if (this.#disk.isDown) return
      if (next !== null) offset = next
    }
  }

  // --- the model ---

  #checkOpened(reports: readonly RecoveryReport[]): void {
    const log = this.#log
    const end = log.endOffset
    this.#trace(`opened ${log.startOffset}-${end}`)
    assert.equal(log.durableOffset, end, 'what was found is not durable after opening')
    const allDeleted = this.#durable <= this.#startAcknowledged
    if (this.#checkpointDamaged) {
      // The start was written there and nowhere else.
      this.#startAcknowledged = Math.min(this.#startAcknowledged, log.startOffset)
      this.#producersForgotten = true
    }
    assert(
      log.startOffset >= this.#startAcknowledged,
      `the start went back to ${log.startOffset} from ${this.#startAcknowledged}`,
    )
    assert(
      log.startOffset <= this.#startWanted,
      `the start went to ${log.startOffset}, asked for was ${this.#startWanted}`,
    )
    this.#startAcknowledged = log.startOffset
    const cut = [...this.#damaged].some(batch => batch.base === end)
    if (cut && end < (this.#cacheSurvived ? this.#end_() : this.#durable)) {
      assert(reports.length > 0, 'damage was cut off without a word')
      this.#count('damage cut off')
    } else if (this.#checkpointDamaged && reports.some(report => report.case === 'orphan-segment')) {
      // Deleted segments came back with the power, and without the checkpoint nobody knew that they were deleted.
      this.#count('set aside for want of a checkpoint')
    } else if (this.#checkpointDamaged && allDeleted) {
      // Where an empty log goes on was written in the checkpoint, and in the name of a file that was not synced yet.
      this.#count('empty, and begun anew')
    } else if (this.#cacheSurvived) assert.equal(end, this.#end_(), 'a kill lost or added something')
    else assert(end >= this.#durable, `the log ends at ${end}, acknowledged was ${this.#durable}`)
    this.#checkReports(reports)
    this.#adopt(end)
    this.#checkpointDamaged = false
    this.#cacheSurvived = true
  }

  /** People are only told of what has come to pass. */
  #checkReports(reports: readonly RecoveryReport[]): void {
    const allowed = new Set<string>()
    if (this.#syncFailures) allowed.add('sync-failed')
    if (this.#checkpointFlipped) allowed.add('no-checkpoint')
    const wasCut = !this.#cacheSurvived || this.#damaged.size > 0 || this.#checkpointFlipped
    if (wasCut) for (const name of ['torn-tail', 'lost-in-the-middle', 'orphan-segment']) allowed.add(name)
    for (const report of reports)
      assert(allowed.has(report.case), `a report without a cause: ${report.case}: ${report.message}`)
  }

  /** Takes what the log holds now for the truth, after what was acknowledged or survived has been found to be in it. */
  #adopt(end: number): void {
    const known = this.#cacheSurvived ? this.#end_() : this.#durable
    const kept = this.#batches.filter(batch => batch.end <= Math.min(known, end))
    let offset = kept.at(-1)?.end ?? 0
    // Behind it, the choice is the disk's: it is read, and must be something that was tried at this place.
    while (offset < end) {
      const bytes = this.#storedAt(offset, kept)
      const found = (this.#tried.get(offset) ?? []).find(tried => tried.bytes.equals(bytes))
      assert(found !== undefined, `what is stored at offset ${offset} was never appended there`)
      kept.push(found)
      offset = found.end
    }
    assert.equal(offset, end, 'the end lies inside a batch')
    this.#batches = kept
    for (const batch of this.#damaged)
      if (batch.end > end || !kept.includes(batch)) this.#damaged.delete(batch)
    this.#durable = end
    // After a power cut there is nothing left that another one could bring back, unless a sync that failed has left it undecided
    // whether a file was set aside.
    if (!this.#cacheSurvived && !this.#syncFailures) this.#tried.clear()
  }

  /** The batch at an offset, looked up in the files, behind those that are known. */
  #storedAt(offset: number, kept: readonly Stored[]): Buffer {
    const bases = this.#disk
      .list(DIRECTORY)
      .map(segmentOffset)
      .filter(base => base >= 0 && base <= offset)
    const base = Math.max(...bases)
    const before = kept.filter(batch => batch.base >= base)
    const position = before.reduce((bytes, batch) => bytes + batch.bytes.length, 0)
    const file = this.#disk.open(`${DIRECTORY}/${String(base).padStart(20, '0')}.log`, 'read')
    const bytes = Buffer.from(file.readNow(position, file.size() - position))
    file.close()
    return bytes.length < BATCH_HEADER_BYTES ? bytes : bytes.subarray(0, batchBytes(bytes, 0))
  }

  #remember(batch: Buffer, base: number, sequence: Sequence | null): Stored {
    const bytes = Buffer.from(batch)
    const stored = { base, end: base + batch.readInt32BE(57), bytes, sequence }
    this.#tried.set(base, [...(this.#tried.get(base) ?? []), stored])
    return stored
  }

  #acknowledge(end: number): void {
    if (end > this.#durable) this.#durable = end
  }

  /** Where the log ends by the model. */
  #end_(): number {
    return this.#batches.at(-1)?.end ?? 0
  }

  #indexOf(offset: number): number {
    return this.#batches.findIndex(batch => batch.end > offset)
  }

  #sentBy(producer: number): Stored[] {
    if (this.#producersForgotten) return []
    return this.#batches.filter(batch => batch.sequence?.producer === producer)
  }

  #nextSequence(producer: number): Sequence {
    const last = this.#batches.findLast(batch => batch.sequence?.producer === producer)
    if (last === undefined || this.#producersForgotten || this.#random.chance(0.05)) {
      // A new session; what an earlier one left unfinished never comes again.
      this.#epochs[producer] += 1
      return { producer, epoch: this.#epochs[producer], first: 0 }
    }
    const { epoch, first } = last.sequence!
    return { producer, epoch, first: first + last.end - last.base }
  }

  // --- the rest ---

  /** Lets time pass until the promise has settled, or the machine is down. */
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

  #expectRefusal(run: () => unknown, codes: readonly string[]): void {
    try {
      run()
    } catch (error) {
      this.#expectCodes(error, codes)
      return
    }
    assert.fail(`expected ${codes.join(' or ')}`)
  }

  #expectCodes(error: unknown, codes: readonly string[]): void {
    if (error instanceof Crashed) return
    if (!isSluiceError(error) || !codes.includes(error.code)) throw error
    this.#count(error.code)
  }

  #count(what: string): void {
    this.outcome[what] = (this.outcome[what] ?? 0) + 1
  }

  #trace(line: string): void {
    this.#options.trace?.(line)
  }
}
