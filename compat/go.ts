/** A Go client: a program of the module in compat/go.mod, which pins all versions, built into the cache. */

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { NotRunnable, oneLine } from './check.ts'
import { ProcessDriver } from './driver.ts'

const BUILD_MS_MAX = 300_000

/** The program of a check. */
export const goProgramOf = (dir: string): string => join(dir, 'client')

/** Builds `compat/NAME`. Resolves with the version of a module. Throws `NotRunnable` without Go. */
export async function installGo(name: string, dir: string, moduleName: string): Promise<string> {
  try {
    execFileSync('go', ['version'], { stdio: 'pipe' })
  } catch (error) {
    throw new NotRunnable(`go is needed: ${oneLine(error)}`)
  }
  const options = { cwd: import.meta.dirname, timeout: BUILD_MS_MAX, stdio: 'pipe' } as const
  execFileSync('go', ['build', '-o', goProgramOf(dir), `./${name}`], options)
  const lines = readFileSync(join(import.meta.dirname, 'go.mod'), 'utf8').split('\n')
  return lines.map(line => line.trim().split(' ')).find(([first]) => first === moduleName)![1]
}

export function goDriver(dir: string, address: string): ProcessDriver {
  return new ProcessDriver(goProgramOf(dir), [address])
}
