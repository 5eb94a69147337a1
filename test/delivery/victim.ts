/** A process that is killed: a script of this folder that tells on its standard output, a line each, what it has done. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'

/** Runs `script` until `note`, which is given each line, returns true, then kills it. Resolves when it is gone. */
export async function runAndKill(
  script: string,
  args: readonly string[],
  note: (line: string) => boolean,
): Promise<void> {
  const victim = spawn(process.execPath, [join(import.meta.dirname, script), ...args])
  const ended = once(victim, 'close')
  onTestFinished(() => void victim.kill('SIGKILL'))
  let rest = ''
  victim.stdout.on('data', chunk => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() as string
    // what it has told by then counts, also after the kill
    for (const line of lines) if (note(line)) victim.kill('SIGKILL')
  })
  let errors = ''
  victim.stderr.on('data', chunk => {
    errors += chunk
  })
  await ended
  expect(errors).toBe('')
}
