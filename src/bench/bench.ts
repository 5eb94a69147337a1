/**
 * `runBench`: takes the figures, one after the other, each in a process of its own (`child.ts`), so that none inherits the garbage,
 * the compiled code or the memory of another. It owns the folder that they write to, and removes it in the end.
 */

import { fork } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SluiceError } from '../errors.ts'
import type { Answer, Job } from './child.ts'
import { describeMachine, load, type Machine } from './machine.ts'
import { type Latency, type Measured, type Memory, median, type Rate } from './measure.ts'
import type { Opened, OpenSetting } from './opening.ts'
import { OPEN_MESSAGES, OPEN_NAME, OPEN_PARTITIONS, openHow, type Scenario, scenarios } from './scenarios.ts'

export interface BenchOptions {
  /** Scenarios by name, or the first words of their names. Default: all. */
  readonly only?: readonly string[]
  /** Sizes of a message's value. Default 100 and 1,024. */
  readonly bytes?: readonly number[]
  /** Messages per round at full speed; slow scenarios take a share of it. Default: 1,000,000, fewer where that were over 200 MB. */
  readonly messages?: number
  /** Rounds that count. Default 5; quick: 3. */
  readonly rounds?: number
  /** Partitions of the directory that `open` opens. Default 100. */
  readonly openPartitions?: number
  /** A fifth of the messages, fewer rounds. */
  readonly quick?: boolean
  /** The disk to measure: a folder of its own is made in here, and removed afterwards. Default: the system's folder for temporary files. */
  readonly directory?: string
  /** Told before each figure. */
  readonly onProgress?: (progress: Progress) => void
  /** Ends it early: what was measured is in the report. */
  readonly signal?: AbortSignal
}

export interface Progress {
  readonly done: number
  readonly total: number
  readonly scenario: string
  readonly bytes: number
}

export interface BenchRow {
  readonly scenario: string
  readonly how: string
  readonly bytes: number
  readonly messagesPerRound: number
  readonly rounds: number
  readonly rate: Rate
  /** Of message values, in units of 10^6 bytes. */
  readonly megabytesPerSecond: number
  /** What plain code did in the same process, in turns with it. */
  readonly limit: { readonly scenario: string; readonly rate: Rate; readonly ratio: number } | null
  readonly target: { readonly text: string; readonly isMet: boolean } | null
  readonly latencyMs: Latency | null
  readonly memory: Memory
}

export interface OpenReport {
  readonly how: string
  readonly messages: number
  readonly partitions: number
  readonly bytes: number
  readonly rounds: number
  /** Until `open()` resolved: median. */
  readonly openMs: number
  readonly openMsMax: number
  readonly emptyOpenMs: number
  /** Of the idle process, after its garbage was collected: median. */
  readonly idleRssBytes: number
  readonly emptyIdleRssBytes: number
  readonly idleHeapBytes: number
  readonly emptyIdleHeapBytes: number
}

export interface BenchReport {
  readonly format: 1
  /** ISO time. */
  readonly startedAt: string
  readonly seconds: number
  readonly machine: Machine
  /** Load average before and after: figures of a busy machine are low. */
  readonly load: { readonly before: number; readonly after: number }
  readonly isQuick: boolean
  readonly rows: readonly BenchRow[]
  readonly open: OpenReport | null
}

const MESSAGES_DEFAULT = 1_000_000
const ROUND_BYTES_MAX = 200_000_000

/**
 * Takes the figures. Throws `INVALID_ARGUMENT` for a scenario that there is not and numbers out of range, `STORAGE_FAILED` if a
 * figure could not be taken.
 */
export async function runBench(options: BenchOptions = {}): Promise<BenchReport> {
  const { only = [], quick = false, signal } = options
  const sizes = (options.bytes ?? [100, 1024]).map(bytes => atLeast('bytes', bytes, 1))
  const rounds = atLeast('rounds', options.rounds ?? (quick ? 3 : 5), 1)
  const { chosen, isOpenChosen } = choose(only)
  const startedAt = new Date()
  const before = load()
  const parent = options.directory ?? tmpdir()
  mkdirSync(parent, { recursive: true })
  const directory = mkdtempSync(join(parent, 'sluice-bench-'))
  try {
    const machine = describeMachine(directory)
    const runner = new Runner(directory, signal)
    const rows: BenchRow[] = []
    const total = chosen.length * sizes.length + (isOpenChosen ? 1 : 0)
    for (const bytes of sizes) {
      const messages = messagesPerRound(options, bytes)
      for (const scenario of chosen) {
        if (signal?.aborted) break
        options.onProgress?.({ done: rows.length, total, scenario: scenario.name, bytes })
        const row = await measureScenario(runner, scenario, bytes, messages, rounds)
        if (row !== null) rows.push(row)
      }
    }
    let open: OpenReport | null = null
    if (isOpenChosen && !signal?.aborted) {
      options.onProgress?.({ done: rows.length, total, scenario: OPEN_NAME, bytes: sizes[0] })
      open = await measureOpen(runner, options, sizes[0], rounds)
    }
    const seconds = Math.round((Date.now() - startedAt.getTime()) / 1000)
    return {
      format: 1,
      startedAt: startedAt.toISOString(),
      seconds,
      machine,
      load: { before, after: load() },
      isQuick: quick,
      rows,
      open,
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Name and description of everything that can be measured. */
export function listScenarios(): { readonly name: string; readonly how: string }[] {
  return [...scenarios.map(({ name, how }) => ({ name, how })), { name: OPEN_NAME, how: openHow }]
}

function choose(only: readonly string[]): { chosen: readonly Scenario[]; isOpenChosen: boolean } {
  const names = [...scenarios.map(({ name }) => name), OPEN_NAME]
  const matches = (name: string, given: string): boolean => name === given || name.startsWith(`${given}/`)
  for (const given of only) {
    if (names.some(name => matches(name, given))) continue
    throw new SluiceError(
      'INVALID_ARGUMENT',
      `there is no scenario ${given}; \`sluice bench --list\` shows all`,
      {
        scenario: given,
      },
    )
  }
  const isChosen = (name: string): boolean => only.length === 0 || only.some(given => matches(name, given))
  return { chosen: scenarios.filter(({ name }) => isChosen(name)), isOpenChosen: isChosen(OPEN_NAME) }
}

function messagesPerRound({ messages, quick }: BenchOptions, bytes: number): number {
  if (messages !== undefined) return atLeast('messages', messages, 1)
  const most = Math.min(MESSAGES_DEFAULT, Math.floor(ROUND_BYTES_MAX / bytes / 10_000) * 10_000 || 1_000)
  return quick === true ? most / 5 : most
}

async function measureScenario(
  runner: Runner,
  scenario: Scenario,
  bytes: number,
  messages: number,
  rounds: number,
): Promise<BenchRow | null> {
  const messagesPerRound = Math.max(1, Math.round(messages * scenario.share))
  const measured = await runner.run<Measured>(directory => ({
    kind: 'measure',
    scenario: scenario.name,
    rounds,
    setting: { bytes, messages: messagesPerRound, directory },
  }))
  if (measured === null) return null
  const { rate, limit } = measured
  return {
    scenario: scenario.name,
    how: scenario.how,
    bytes,
    messagesPerRound,
    rounds,
    rate,
    megabytesPerSecond: Math.round((rate.perSecond * bytes) / 1e4) / 100,
    limit:
      limit === null || scenario.limit === null
        ? null
        : {
            scenario: scenario.limit,
            rate: limit,
            ratio: Math.round((rate.perSecond / limit.perSecond) * 1000) / 1000,
          },
    target: bytes === 100 ? judge(scenario, measured) : null,
    latencyMs: measured.latencyMs,
    memory: measured.memory,
  }
}

function judge({ target }: Scenario, { rate, limit }: Measured): BenchRow['target'] {
  if (target === undefined) return null
  if ('perSecond' in target) {
    return { text: `${target.perSecond / 1e6} M/s`, isMet: rate.perSecond >= target.perSecond }
  }
  return {
    text: `${target.ratio} x`,
    isMet: limit !== null && rate.perSecond >= target.ratio * limit.perSecond,
  }
}

async function measureOpen(
  runner: Runner,
  { messages, openPartitions, quick }: BenchOptions,
  bytes: number,
  rounds: number,
): Promise<OpenReport | null> {
  const partitions = atLeast('openPartitions', openPartitions ?? OPEN_PARTITIONS, 1)
  // 10 for each message of a round: 10 million by default
  const count = messages === undefined ? (quick === true ? OPEN_MESSAGES / 10 : OPEN_MESSAGES) : 10 * messages
  const full = await runner.openings(rounds, { bytes, messages: count, partitions })
  const empty = await runner.openings(rounds, { bytes, messages: 0, partitions })
  if (full === null || empty === null) return null
  if (full[0].messages !== count) {
    throw new SluiceError(
      'STORAGE_FAILED',
      `the opened directory has ${full[0].messages} messages instead of ${count}`,
    )
  }
  const of = (opened: readonly Opened[], name: 'openMs' | 'rssBytes' | 'heapBytes'): number =>
    Math.round(median(opened.map(one => one[name])) * 10) / 10
  return {
    how: openHow,
    messages: count,
    partitions,
    bytes,
    rounds,
    openMs: of(full, 'openMs'),
    openMsMax: Math.round(Math.max(...full.map(({ openMs }) => openMs)) * 10) / 10,
    emptyOpenMs: of(empty, 'openMs'),
    idleRssBytes: of(full, 'rssBytes'),
    emptyIdleRssBytes: of(empty, 'rssBytes'),
    idleHeapBytes: of(full, 'heapBytes'),
    emptyIdleHeapBytes: of(empty, 'heapBytes'),
  }
}

/** Starts the processes, one at a time, each with a folder of its own. */
class Runner {
  readonly #directory: string
  readonly #signal: AbortSignal | undefined
  #count = 0

  constructor(directory: string, signal: AbortSignal | undefined) {
    this.#directory = directory
    this.#signal = signal
  }

  /** Null if it was ended early. */
  async run<R>(jobIn: (directory: string) => Job): Promise<R | null> {
    const directory = this.#newDirectory()
    try {
      return await this.#perform<R>(jobIn(directory))
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  }

  async openings(rounds: number, setting: Omit<OpenSetting, 'directory'>): Promise<Opened[] | null> {
    const directory = this.#newDirectory()
    const job = { setting: { ...setting, directory } }
    try {
      await this.#perform<void>({ kind: 'build', ...job })
      const opened: Opened[] = []
      for (let round = 0; round < rounds; round++) {
        const one = await this.#perform<Opened>({ kind: 'open', ...job })
        if (one === null) return null
        opened.push(one)
      }
      return opened
    } finally {
      rmSync(directory, { recursive: true, force: true })
    }
  }

  #newDirectory(): string {
    const directory = join(this.#directory, String(this.#count++))
    mkdirSync(directory)
    return directory
  }

  #perform<R>(job: Job): Promise<R | null> {
    // beside this file, whether it runs from source or was compiled
    const script = new URL(import.meta.url.endsWith('.ts') ? './child.ts' : './child.js', import.meta.url)
    return new Promise((resolve, reject) => {
      if (this.#signal?.aborted) return resolve(null)
      const child = fork(script, [JSON.stringify(job)], { execArgv: [], serialization: 'advanced' })
      let answer: Answer | null = null
      const onAbort = (): void => void child.kill('SIGKILL')
      this.#signal?.addEventListener('abort', onAbort, { once: true })
      child.once('message', message => {
        answer = message as Answer
      })
      child.once('error', reject)
      child.once('close', (code, signal) => {
        this.#signal?.removeEventListener('abort', onAbort)
        if (this.#signal?.aborted) resolve(null)
        else if (answer !== null && 'result' in answer) resolve(answer.result as R)
        else reject(failed(job, answer?.failure ?? `the process ended with ${signal ?? code}`))
      })
    })
  }
}

function failed(job: Job, reason: string): SluiceError {
  const what = job.kind === 'measure' ? job.scenario : `${OPEN_NAME} (${job.kind})`
  return new SluiceError('STORAGE_FAILED', `${what}: the figure could not be taken: ${reason}`, { what })
}

function atLeast(name: string, value: number, least: number): number {
  if (Number.isSafeInteger(value) && value >= least) return value
  throw new SluiceError('INVALID_ARGUMENT', `${name} is a whole number from ${least} on, not ${value}`, {
    name,
  })
}
