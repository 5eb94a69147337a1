/** The process is killed again and again while delayed messages wait, move and are delivered. SLUICE_CRASH_ROUNDS: how often; default 3. */

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import { open } from '../../src/open.ts'

const ROUNDS = Number(process.env.SLUICE_CRASH_ROUNDS ?? 3)

/** Runs until so many were accepted since it came up, and a moment longer, then is killed. Resolves with what was accepted. */
async function runAndKill(directory: string, first: number, aliveMs: number): Promise<Map<string, number>> {
  const victim = spawn(process.execPath, [
    join(import.meta.dirname, 'relay-victim.ts'),
    directory,
    String(first),
  ])
  let output = ''
  let errors = ''
  const begun = Promise.withResolvers<void>()
  victim.stdout.on('data', chunk => {
    output += chunk
    begun.resolve()
  })
  victim.stderr.on('data', chunk => (errors += chunk))
  const ended = new Promise<void>(resolve => victim.on('exit', () => resolve()))
  await Promise.race([begun.promise, ended])
  await Promise.race([new Promise(resolve => setTimeout(resolve, aliveMs)), ended])
  victim.kill('SIGKILL')
  await ended
  expect(errors).toBe('')
  const lines = output.split('\n').slice(0, -1)
  return new Map(lines.map(line => line.split(' ') as [string, string]).map(([id, due]) => [id, Number(due)]))
}

test(
  'each message that was accepted comes once and not early, whenever the process is killed',
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-relay-crash-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const accepted = new Map<string, number>()
    for (let round = 0; round < ROUNDS; round++) {
      const some = await runAndKill(directory, round * 1_000_000, 200 + ((round * 937) % 2_500))
      for (const [id, due] of some) accepted.set(id, due)
    }
    expect(accepted.size).toBeGreaterThan(10 * ROUNDS)

    const mq = await open(directory)
    onTestFinished(() => mq.close())
    const consumer = mq.consumer({ topics: ['t'], partitions: [0] })
    const missing = new Set(accepted.keys())
    const all = Promise.withResolvers<void>()
    const running = consumer.run(message => {
      missing.delete(message.text())
      if (missing.size === 0) all.resolve()
    })
    await all.promise
    await consumer.stop()
    await running
    for (let waiting = 1; waiting > 0; await new Promise(resolve => setTimeout(resolve, 50))) {
      waiting = (await mq.delayed.list()).messages.length
    }
    const counts = new Map<string, number>()
    for await (const batch of scanPartition(mq.engine, rawTopic('t'), { partition: 0 })) {
      for (const message of batch) {
        counts.set(message.text(), (counts.get(message.text()) ?? 0) + 1)
        const due = accepted.get(message.text())
        if (due !== undefined) expect(message.timestamp).toBeGreaterThanOrEqual(due)
      }
    }
    expect([...counts].filter(([, count]) => count !== 1)).toEqual([])
    expect([...accepted.keys()].filter(id => !counts.has(id))).toEqual([])
  },
  120_000 + ROUNDS * 20_000,
)
