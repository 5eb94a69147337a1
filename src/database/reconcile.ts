/**
 * Reconciliation: what two keyed sources do not have in common, in memory that does not grow with them.
 *
 *     left  ──▶ cut by the hash of the key ──▶ run 0 … 63 on the disk ─┐
 *     right ──▶ cut by the hash of the key ──▶ run 0 … 63 on the disk ─┴▶ run by run: small enough? compare in memory : cut again ──▶ hooks, counts
 *
 * Only keys and fingerprints of values are kept. The sources are read one after the other, and in no order. What changes while they are read may
 * be found different: a hook that repairs looks again first.
 */

import { EventEmitter } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Cron } from 'croner'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock, type Timer } from '../lib/clock.ts'
import {
  DEPTH_MAX,
  FINGERPRINT_BYTES,
  fingerprint,
  type Run,
  RunCutter,
  RunReader,
} from './reconcile-runs.ts'
import { type ReconcileSide, Sightings } from './reconcile-sightings.ts'

export interface ReconcileEntry {
  readonly key: string
  /** What is compared: text and its bytes in UTF-8 are the same. null is a value of its own, but see `ReconcileSource.isLog`. */
  readonly value: string | Uint8Array | null
}

/**
 * Any iterable or async iterable of entries, in any order. `topicSource` and `querySource` make some; they can be read again and again, which
 * `reconcileEvery` asks for.
 */
export interface ReconcileSource
  extends Partial<AsyncIterable<ReconcileEntry>>,
    Partial<Iterable<ReconcileEntry>> {
  /** A later entry of a key replaces those before, and null deletes the key. Default false: a key that comes twice is a duplicate. */
  readonly isLog?: boolean
}

export interface ReconcileOptions {
  readonly left: ReconcileSource
  readonly right: ReconcileSource
  /** The left has the key, the right has not. The next difference is told when this has resolved; what it throws ends the run. */
  readonly missingRight?: (key: string) => unknown
  /** The right has the key, the left has not. */
  readonly missingLeft?: (key: string) => unknown
  /** Both have the key, with different values. */
  readonly different?: (key: string) => unknown
  /** A source that is no log has the key `times` times; the last one is compared. */
  readonly duplicate?: (key: string, side: ReconcileSide, times: number) => unknown
  /** Where runs are kept meanwhile, in a folder that is removed at the end. Default: the system's folder for temporary files. */
  readonly directory?: string
  /** Runs of both sides that are larger together are cut again. About four times as much is used in memory. Default 4 MiB. */
  readonly runBytesMax?: number
  /** Ends it early: it rejects with the signal's reason. */
  readonly signal?: AbortSignal
  /** @internal For tests. */
  readonly clock?: Clock
}

/** Keys, not entries, are counted. */
export interface ReconcileReport {
  readonly same: number
  readonly different: number
  readonly onlyLeft: number
  readonly onlyRight: number
  /** Keys that a source has more than once, though it is no log. They are counted above, too. */
  readonly duplicatesLeft: number
  readonly duplicatesRight: number
  /** Milliseconds since the Unix epoch. */
  readonly startedAt: number
  readonly durationMs: number
}

const RUN_BYTES_MAX = 4 * 1024 * 1024

/**
 * Compares two sources. Resolves with how many keys are the same and how many are not; which ones is told to the hooks. Rejects with what a source or a
 * hook throws, and with `INVALID_ARGUMENT`.
 */
export async function reconcile(options: ReconcileOptions): Promise<ReconcileReport> {
  const { left, right, clock = systemClock, runBytesMax = RUN_BYTES_MAX } = options
  if (!(runBytesMax >= 1)) throw invalid(`runBytesMax is a number from 1 on, not ${runBytesMax}`)
  const startedAt = clock.now()
  const since = clock.monotonic()
  const directory = await mkdtemp(join(options.directory ?? tmpdir(), 'sluice-reconcile-'))
  try {
    const comparison = new Comparison(options, directory, runBytesMax)
    const lefts = await comparison.cutSource(left, 'left')
    const rights = await comparison.cutSource(right, 'right')
    await comparison.compareAll(lefts, rights, 1)
    return { ...comparison.counts, startedAt, durationMs: clock.monotonic() - since }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/** Keys up to so many characters are encoded without an allocation. */
const SCRATCH_CHARACTERS = 1_024

class Comparison {
  readonly counts = {
    same: 0,
    different: 0,
    onlyLeft: 0,
    onlyRight: 0,
    duplicatesLeft: 0,
    duplicatesRight: 0,
  }
  readonly #options: ReconcileOptions
  readonly #directory: string
  readonly #runBytesMax: number
  readonly #reader = new RunReader()
  readonly #seen = new Sightings()
  #cuts = 0

  constructor(options: ReconcileOptions, directory: string, runBytesMax: number) {
    this.#options = options
    this.#directory = directory
    this.#runBytesMax = runBytesMax
  }

  async cutSource(source: ReconcileSource, side: ReconcileSide): Promise<Run[]> {
    const scratch = Buffer.allocUnsafeSlow(SCRATCH_CHARACTERS * 3)
    const print = Buffer.allocUnsafeSlow(FINGERPRINT_BYTES)
    return await this.#cut(0, async cutter => {
      for await (const { key, value } of iterableOf(source, side)) {
        this.#options.signal?.throwIfAborted()
        if (typeof key !== 'string') throw invalid(`${side}: the key of an entry is text, not ${typeof key}`)
        const isShort = key.length <= SCRATCH_CHARACTERS
        const bytes = isShort ? scratch.subarray(0, scratch.write(key)) : Buffer.from(key)
        fingerprint(value, print)
        const waiting = cutter.add(bytes, print)
        if (waiting !== undefined) await waiting
      }
    })
  }

  /** `depth`: how often these runs have been cut. */
  async compareAll(lefts: readonly Run[], rights: readonly Run[], depth: number): Promise<void> {
    for (const [index, left] of lefts.entries()) {
      this.#options.signal?.throwIfAborted()
      const right = rights[index]
      if (depth <= DEPTH_MAX && left.bytes + right.bytes > this.#runBytesMax) {
        await this.compareAll(
          await this.#cutAgain(left, depth),
          await this.#cutAgain(right, depth),
          depth + 1,
        )
      } else await this.#compare(left, right)
      for (const { path, bytes } of [left, right]) if (bytes > 0) await rm(path, { force: true })
    }
  }

  #cutAgain(run: Run, depth: number): Promise<Run[]> {
    return this.#cut(depth, cutter => this.#reader.read(run, (key, print) => cutter.add(key, print)))
  }

  async #cut(depth: number, fill: (cutter: RunCutter) => Promise<void>): Promise<Run[]> {
    const cutter = new RunCutter(this.#directory, String(this.#cuts++), depth)
    try {
      await fill(cutter)
      return await cutter.finish()
    } finally {
      await cutter.abandon()
    }
  }

  async #compare(left: Run, right: Run): Promise<void> {
    if (left.bytes + right.bytes === 0) return
    const seen = this.#seen
    seen.clear()
    await this.#look(left, 'left')
    await this.#look(right, 'right')
    for (let number = 0; number < seen.size; number++) {
      const lefts = seen.times('left', number)
      const rights = seen.times('right', number)
      if (lefts === 1 && rights === 1 && seen.isSame(number)) this.counts.same++
      else if (lefts > 0 || rights > 0) await this.#tell(seen.key(number), lefts, rights, seen.isSame(number))
    }
  }

  #look(run: Run, side: ReconcileSide): Promise<void> {
    const isLog = this.#options[side].isLog === true
    return this.#reader.read(run, (key, print) => {
      this.#seen.add(side, key, print, isLog)
      return undefined
    })
  }

  async #tell(key: string, lefts: number, rights: number, isSame: boolean): Promise<void> {
    const { missingLeft, missingRight, different, duplicate, signal } = this.#options
    signal?.throwIfAborted()
    if (lefts > 1) {
      this.counts.duplicatesLeft++
      await duplicate?.(key, 'left', lefts)
    }
    if (rights > 1) {
      this.counts.duplicatesRight++
      await duplicate?.(key, 'right', rights)
    }
    if (rights === 0) {
      this.counts.onlyLeft++
      await missingRight?.(key)
    } else if (lefts === 0) {
      this.counts.onlyRight++
      await missingLeft?.(key)
    } else if (isSame) this.counts.same++
    else {
      this.counts.different++
      await different?.(key)
    }
  }
}

function iterableOf(
  source: ReconcileSource,
  side: ReconcileSide,
): AsyncIterable<ReconcileEntry> | Iterable<ReconcileEntry> {
  const isIterable =
    typeof source === 'object' &&
    source !== null &&
    (typeof source[Symbol.asyncIterator] === 'function' || typeof source[Symbol.iterator] === 'function')
  if (isIterable) return source as AsyncIterable<ReconcileEntry>
  throw invalid(
    `${side} is an iterable of { key, value }: topicSource(…), querySource(…), an array or a generator`,
  )
}

/** When to compare: by cron expression, or every so often. */
export type ReconcileSchedule =
  | { readonly cron: string /** Default: the process' own. */; readonly timezone?: string }
  | { readonly everyMs: number }

export interface ReconciliationEvents {
  /** A comparison is done. */
  report: [report: ReconcileReport]
  /** A comparison failed; the next one comes in its time. Without a listener it is a process warning. */
  error: [error: Error]
}

/** Comparisons that come again and again; made by `reconcileEvery()`. Two never run at the same time: what is due meanwhile is left out. */
export class Reconciliation extends EventEmitter<ReconciliationEvents> {
  readonly #options: () => ReconcileOptions
  readonly #nextDelayMs: () => number | null
  readonly #clock: Clock
  readonly #stopping = new AbortController()
  #timer: Timer | null = null
  #running: Promise<void> | null = null

  /** @internal */
  constructor(
    schedule: ReconcileSchedule,
    options: ReconcileOptions | (() => ReconcileOptions),
    clock: Clock,
  ) {
    super()
    this.#options = typeof options === 'function' ? options : () => options
    this.#clock = clock
    this.#nextDelayMs = delaysOf(schedule, clock)
    this.#arm()
  }

  /** Compares now, apart from the schedule. Does nothing but wait if a comparison is under way. Does not reject: see 'error'. */
  run(): Promise<void> {
    this.#running ??= this.#run().finally(() => (this.#running = null))
    return this.#running
  }

  /** Ends the comparison under way, and resolves. */
  async stop(): Promise<void> {
    this.#timer?.cancel()
    this.#stopping.abort()
    await this.#running
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #arm(): void {
    const delayMs = this.#stopping.signal.aborted ? null : this.#nextDelayMs()
    if (delayMs === null) return
    this.#timer = this.#clock.after(delayMs, () => void this.run().then(() => this.#arm()))
  }

  async #run(): Promise<void> {
    const stopped = this.#stopping.signal
    if (stopped.aborted) return
    try {
      const options = this.#options()
      const signal = options.signal === undefined ? stopped : AbortSignal.any([stopped, options.signal])
      this.emit('report', await reconcile({ ...options, signal }))
    } catch (error) {
      if (!stopped.aborted) this.#warn(error instanceof Error ? error : new Error(String(error)))
    }
  }

  #warn(error: Error): void {
    if (this.listenerCount('error') > 0) this.emit('error', error)
    else process.emitWarning(`reconciliation failed: ${error.message}`, { type: 'SluiceWarning' })
  }
}

/**
 * Compares again and again. `options` is a function where sources cannot be read twice (generators). Throws `INVALID_ARGUMENT` for a
 * schedule that is none.
 *
 *     reconcileEvery({ cron: '0 3 * * *', timezone: 'Europe/Berlin' }, { left, right, missingRight: key => … })
 */
export function reconcileEvery(
  schedule: ReconcileSchedule,
  options: ReconcileOptions | (() => ReconcileOptions),
  clock: Clock = systemClock,
): Reconciliation {
  return new Reconciliation(schedule, options, clock)
}

function delaysOf(schedule: ReconcileSchedule, clock: Clock): () => number | null {
  if ('everyMs' in schedule) {
    const { everyMs } = schedule
    if (!(everyMs >= 1)) throw invalid(`everyMs is a number from 1 on, not ${everyMs}`)
    return () => everyMs
  }
  const { cron, timezone } = schedule
  try {
    const parsed = new Cron(cron, { timezone, paused: true })
    parsed.nextRun() // where a time zone that is none shows
    return () => {
      const now = clock.now()
      const next = parsed.nextRun(new Date(now))?.getTime()
      return next === undefined ? null : Math.max(0, next - now)
    }
  } catch (error) {
    throw invalid(`cron "${cron}": ${(error as Error).message}`)
  }
}

const invalid = (message: string): SluiceError => new SluiceError('INVALID_ARGUMENT', message)
