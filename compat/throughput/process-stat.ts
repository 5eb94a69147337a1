/** What a process has used, from /proc: Linux only. */

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'

/** Fields of /proc/PID/stat, counted from the one behind the name. */
const UTIME = 11
const CHILDREN_UTIME = 13

let ticksPerSecond = 0

/** CPU time of all its threads so far, in seconds. */
export const cpuSeconds = (pid: number): number => timeAt(pid, UTIME)

/** CPU time of those children of this process that have ended and were waited for, in seconds. */
export const endedChildrenCpuSeconds = (): number => timeAt(process.pid, CHILDREN_UTIME)

function timeAt(pid: number, field: number): number {
  ticksPerSecond ||= Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[field]) + Number(fields[field + 1])) / ticksPerSecond
}

/** The most memory that it has held since `resetPeak`, in bytes: VmHWM. */
export function peakBytes(pid: number): number {
  return 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
}

export const resetPeak = (pid: number): void => writeFileSync(`/proc/${pid}/clear_refs`, '5')
