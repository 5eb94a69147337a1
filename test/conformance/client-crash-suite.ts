/**
 * Exactly once across the death of clients: processes that consume, transform and produce are killed in the middle, each in another
 * way, and whoever comes last finishes the work. Then each input has had its effect once.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { Sluice } from '../../src/delivery/sluice.ts'
import type { Death } from './crashing-client.ts'
import { type OpenedEngine, readAll } from './transaction-suite.ts'

/** Longer than a cluster takes to notice that a transaction is over its time. */
const TIMEOUT_MS = 120_000
const INPUTS = 1_000

export function clientCrashSuite(
  name: string,
  open: () => Promise<OpenedEngine & { readonly url: string }>,
): void {
  describe(`client crashes: ${name}`, { timeout: TIMEOUT_MS }, () => {
    const cleanups: (() => Promise<unknown>)[] = []
    afterEach(async () => {
      for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
    })

    /** Resolves with the signal that ended the process. */
    async function live(url: string, death: Death, after: number): Promise<NodeJS.Signals | null> {
      const script = join(import.meta.dirname, 'crashing-client.ts')
      const child: ChildProcess = spawn(process.execPath, [script, url, death, String(after)], {
        stdio: ['ignore', 'inherit', 'inherit'],
      })
      cleanups.push(async () => child.kill('SIGKILL'))
      const [, signal] = await once(child, 'exit')
      return signal
    }

    test('each input has its effect once, wherever the processes die', async () => {
      const { engine, url } = await open()
      const mq = new Sluice(engine)
      cleanups.push(() => mq.close({ deadlineMs: 1_000 }))
      await mq.createTopic('in', { partitions: 3 })
      await mq.createTopic('out', { partitions: 2 })
      const inputs = Array.from({ length: INPUTS }, (_, index) => String(index))
      const producer = mq.producer({ batchCountMax: 10 }) // what is read and committed at once
      await producer.send(
        'in',
        inputs.map(value => ({ key: value, value })),
      )
      const deaths: readonly (readonly [Death, number])[] = [
        ['published', 150],
        ['staged', 10],
        ['ending', 10],
        ['published', 50],
      ]
      for (const [death, after] of deaths) expect(await live(url, death, after)).toBe('SIGKILL')
      const begun = await readAll(engine, 'out', 'uncommitted')
      expect(begun.length).toBeGreaterThan(150)

      const last = mq.transform(
        { group: 'g', topics: ['in'], instanceId: 'one' },
        (message, tx) => void tx.publish('out', { key: message.key, value: message.value }),
      )
      last.done.catch(() => {})
      const missing = async (): Promise<number> => INPUTS - (await readAll(engine, 'out')).length
      await expect.poll(missing, { timeout: 60_000, interval: 100 }).toBeLessThanOrEqual(0)
      await last.stop()
      expect((await readAll(engine, 'out')).sort()).toEqual([...inputs].sort())
    })
  })
}
