/**
 * How a figure is taken: rounds of the thing measured (the subject) alternate with rounds of the limit underneath it, in one process
 * of their own, so that both meet the same disk, the same page cache and the same neighbours. The first rounds warm up (code gets compiled,
 * memory touched for the first time) and do not count. The figure is the median of the others.
 */

import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

/** What a subject is made for. */
export interface Setting {
  /** Bytes of a message's value. */
  readonly bytes: number
  /** Messages per round. */
  readonly messages: number
  /** A folder of its own. */
  readonly directory: string
}

export interface Time {
  readonly ms: number
  /** Processor time of the thread: what a busy machine takes away is not in it, nor is waiting for a disk. */
  readonly cpuMs: number
}

/** Starts a watch. Calling what it returns reads it. */
export function stopwatch(): () => Time {
  const start = performance.now()
  const before = threadCpuMs()
  return () => ({ ms: performance.now() - start, cpuMs: threadCpuMs() - before })
}

/** Node 22 knows the time of the whole process only, which includes other threads: those of the garbage collector, and of files. */
function threadCpuMs(): number {
  const { user, system } = process.threadCpuUsage?.() ?? process.cpuUsage()
  return (user + system) / 1000
}

export interface Round extends Time {
  readonly messages: number
  /** Of single calls, where each is waited for. */
  readonly latenciesMs?: Float64Array
}

/** Something that can be done again and again, prepared and with its clean-up outside the time that is taken. */
export interface Subject {
  round(): Promise<Round>
  close(): Promise<void>
}

export type MakeSubject = (setting: Setting) => Promise<Subject>

export interface Rate {
  /** Messages per second: median of the rounds, and the range. */
  readonly perSecond: number
  readonly perSecondMin: number
  readonly perSecondMax: number
  /** Processor time of the thread for a message, in nanoseconds: median. */
  readonly cpuNs: number
}

export interface Latency {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface Memory {
  /** Resident memory of the process after the last round. */
  readonly rssBytes: number
  /** The most it ever was. */
  readonly peakBytes: number
}

export interface Measured {
  readonly rate: Rate
  readonly limit: Rate | null
  readonly latencyMs: Latency | null
  readonly memory: Memory
}

/** Rounds before those that count. */
const WARM_UP_ROUNDS = 2

export async function measure(subject: Subject, limit: Subject | null, rounds: number): Promise<Measured> {
  const taken: Round[] = []
  const takenOfLimit: Round[] = []
  for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
    if (limit !== null) {
      collectGarbage()
      const result = await limit.round()
      if (round >= 0) takenOfLimit.push(result)
    }
    collectGarbage()
    const result = await subject.round()
    if (round >= 0) taken.push(result)
  }
  return {
    rate: rateOf(taken),
    limit: limit === null ? null : rateOf(takenOfLimit),
    latencyMs: latencyOf(taken),
    memory: memoryNow(),
  }
}

function rateOf(rounds: readonly Round[]): Rate {
  const rates = rounds.map(({ messages, ms }) => (messages / ms) * 1000).sort((one, other) => one - other)
  return {
    perSecond: Math.round(middle(rates)),
    perSecondMin: Math.round(rates[0]),
    perSecondMax: Math.round(rates[rates.length - 1]),
    cpuNs: Math.round(median(rounds.map(({ messages, cpuMs }) => (cpuMs * 1e6) / messages))),
  }
}

function latencyOf(rounds: readonly Round[]): Latency | null {
  const all = rounds
    .flatMap(({ latenciesMs }) => Array.from(latenciesMs ?? []))
    .sort((one, other) => one - other)
  if (all.length === 0) return null
  const at = (share: number): number => round3(all[Math.min(all.length - 1, Math.floor(all.length * share))])
  return { p50: at(0.5), p99: at(0.99), max: at(1) }
}

const round3 = (value: number): number => Math.round(value * 1000) / 1000

/** The median of sorted numbers. */
function middle(sorted: readonly number[]): number {
  const half = sorted.length >>> 1
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2
}

export function median(values: readonly number[]): number {
  return middle([...values].sort((one, other) => one - other))
}

export function memoryNow(): Memory {
  return { rssBytes: process.memoryUsage.rss(), peakBytes: peakBytes() }
}

/** Linux counts for the process itself; what `getrusage` says may be inherited from the parent. */
function peakBytes(): number {
  try {
    const kibibytes = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]
    if (kibibytes !== undefined) return Number(kibibytes) * 1024
  } catch {
    // not Linux
  }
  return process.resourceUsage().maxRSS * 1024
}

let gc: (() => void) | null = null

/** So that no round pays for what the one before has left. */
export function collectGarbage(): void {
  if (gc === null) {
    setFlagsFromString('--expose-gc')
    gc = runInNewContext('gc') as () => void
  }
  gc()
}

/** How many different values are published in turn: more than one, so that no cache makes copying free. */
const BODIES = 1024
/** `bodies[index & BODY_MASK]` */
export const BODY_MASK = BODIES - 1

/** Values that nothing compresses; the same ones in every process. */
export function makeBodies(bytes: number): Uint8Array[] {
  const memory = Buffer.alloc(BODIES * bytes)
  let state = 1
  for (let index = 0; index < memory.length; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    memory[index] = state >>> 24
  }
  return Array.from({ length: BODIES }, (_, index) => memory.subarray(index * bytes, (index + 1) * bytes))
}
