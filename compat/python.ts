/** A Python client: a virtual environment in the cache with pinned packages, and a program that speaks `driver.ts`. */

import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { NotRunnable, oneLine } from './check.ts'
import { ProcessDriver } from './driver.ts'

const INSTALL_MS_MAX = 300_000

/** What to run in the environment of a check. */
export const pythonOf = (dir: string): string => join(dir, 'venv/bin/python')

/** Installs `folder/requirements.txt`, unless that was done before. Resolves with the version of a package. Throws `NotRunnable`. */
export async function installPython(folder: string, dir: string, packageName: string): Promise<string> {
  const requirements = readFileSync(join(folder, 'requirements.txt'), 'utf8')
  const stamp = join(dir, 'installed.txt')
  const options = { timeout: INSTALL_MS_MAX, encoding: 'utf8', stdio: 'pipe' } as const
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8') !== requirements) {
    try {
      execFileSync('python3', ['-m', 'venv', '--clear', join(dir, 'venv')], options)
    } catch (error) {
      throw new NotRunnable(`python3 with venv is needed: ${oneLine(error)}`)
    }
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    execFileSync(pythonOf(dir), [...pip, '-r', join(folder, 'requirements.txt')], options)
    writeFileSync(stamp, requirements)
  }
  const show = `import importlib.metadata as m; print(m.version("${packageName}"))`
  return execFileSync(pythonOf(dir), ['-c', show], options).trim()
}

/** Starts `folder/main.py`. */
export function pythonDriver(folder: string, dir: string, address: string): ProcessDriver {
  return new ProcessDriver(pythonOf(dir), [join(folder, 'main.py'), address], pythonEnvironment)
}

/** Where the programs find `driver.py`; no compiled files in the tree. */
export const pythonEnvironment = {
  PYTHONPATH: join(import.meta.dirname, 'driver'),
  PYTHONDONTWRITEBYTECODE: '1',
}
