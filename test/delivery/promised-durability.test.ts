/** What each flush policy promises about a process that is killed: all that was accepted is there, in order, once. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { expect, onTestFinished, test } from 'vitest'
import { open } from '../../src/index.ts'

test.each(['"always"', '{"everyMs":60000}', '{"everyMessages":1000000}', '"os"'])(
  'flush %s: a process that is killed in the middle of publishing has lost nothing that was accepted',
  async flush => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-kill-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const accepted: number[] = []
    const script = join(import.meta.dirname, 'publishing-victim.ts')
    const child = spawn(process.execPath, [script, directory, flush], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const exited = once(child, 'exit')
    for await (const line of createInterface(child.stdout)) {
      if (accepted.push(Number(line)) === 300) child.kill('SIGKILL')
    }
    expect((await exited)[1]).toBe('SIGKILL')
    await using mq = await open(directory)
    const stored: number[] = []
    const end = await mq.offsetFor('t', 0, 'latest')
    for await (const message of mq.consumer({ topics: ['t'] })) {
      stored.push(Number(message.text()))
      if (message.offset === end - 1) break
    }
    expect(stored).toEqual(Array.from({ length: end }, (_, n) => n))
    expect(Math.max(...accepted)).toBeLessThan(end)
    expect(accepted.length).toBeGreaterThanOrEqual(300)
  },
)
