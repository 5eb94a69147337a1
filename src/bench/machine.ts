/** The machine that figures were taken on: whatever one needs to know to compare them with others. */

import { statfsSync } from 'node:fs'
import os from 'node:os'

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly system: string
  readonly node: string
  readonly v8: string
  /** Of the folder that was written to. */
  readonly fileSystem: string
}

/** By the numbers in statfs(2). */
const fileSystems: Readonly<Record<number, string>> = {
  61267: 'ext4',
  16914836: 'tmpfs',
  1481003842: 'xfs',
  2435016766: 'btrfs',
  801189825: 'zfs',
  2035054128: 'overlayfs',
  26985: 'nfs',
  4076150800: 'f2fs',
}

export function describeMachine(directory: string): Machine {
  const type = statfsSync(directory).type
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    system: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
    v8: process.versions.v8,
    fileSystem: fileSystems[type] ?? `0x${type.toString(16)}`,
  }
}

/** Processes that wanted a core in the last minute, on average. 0 on Windows, which does not tell. */
export function load(): number {
  return Math.round(os.loadavg()[0] * 100) / 100
}
