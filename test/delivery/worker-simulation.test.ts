/**
 * Workers under random trouble, from a seed: handlers that fail, reject, hang and come late; workers that come and go, taking partitions from each
 * other. A failing run prints its seed; `SLUICE_SEED=n` repeats it alone.
 */

import { expect, it } from 'vitest'
import type { Worker } from '../../src/delivery/worker.ts'
import type { WorkerOptions } from '../../src/delivery/worker-options.ts'
import { Random } from '../sim/random.ts'
import { bench } from './worker-bench.ts'

const seeds = process.env.SLUICE_SEED
  ? [Number(process.env.SLUICE_SEED)]
  : Array.from({ length: 12 }, (_, index) => index + 1)

const PARTITIONS = 3
const MESSAGES = 80
const KEYS = 5

it.each(seeds)('seed %i: every message is done once or dead, in the order of its key', simulate)

async function simulate(seed: number): Promise<void> {
  const random = new Random(seed)
  const { mq, clock, until } = await bench()
  await until(mq.createTopic('t', { partitions: PARTITIONS }))
  /** How messages ended, in that order. */
  const ends: string[] = []
  let isCalm = false
  const options: WorkerOptions = {
    group: 'g',
    order: 'key',
    concurrency: random.pick([1, 3, 20]),
    prefetch: random.pick([2, 10, 1_000]),
    timeout: 500,
    retry: { delays: [10, 300], attempts: random.pick([2, 4, 50]) },
    breaker: random.chance(0.3) ? { failures: 3, coolDown: 200 } : undefined,
    sessionTimeoutMs: 30_000,
  }
  const start = (): Worker => {
    const worker = mq.worker('t', options, async (_message, job) => {
      const delayMs = random.below(30)
      if (delayMs > 5) await new Promise<void>(resolve => clock.after(delayMs, resolve))
      if (isCalm || random.chance(0.6)) return
      if (random.chance(0.1)) job.reject('of no use')
      if (random.chance(0.1)) await new Promise<void>(resolve => clock.after(5_000, resolve))
      throw new Error('no')
    })
    worker.on('completed', message => ends.push(message.text()))
    worker.on('failed', (message, _error, _job, outcome) => {
      if (outcome.kind === 'dead-letter') ends.push(message.text())
    })
    worker.on('error', () => {})
    return worker
  }
  const workers = [start()]
  for (let number = 0; number < MESSAGES; number++) {
    const key = random.chance(0.2) ? undefined : `k${random.below(KEYS)}`
    await until(mq.publish('t', { key, value: `${key ?? ''}:${number}` }))
    if (random.chance(0.1) && workers.length < 3) workers.push(start())
    if (random.chance(0.1) && workers.length > 1) {
      const [leaving] = workers.splice(random.below(workers.length), 1)
      void leaving.stop({ deadlineMs: random.pick([0, 10, 1_000]) })
    }
    await clock.advance(random.below(40))
  }
  isCalm = true
  for (let turns = 0; turns < 600 && ends.length < MESSAGES; turns++) await clock.advance(100)
  await clock.advance(1_000)
  expect(ends.toSorted(byNumber)).toEqual([...new Set(ends)].toSorted(byNumber))
  expect(ends).toHaveLength(MESSAGES)
  for (let key = 0; key < KEYS; key++) {
    const ofKey = ends.filter(text => text.startsWith(`k${key}:`))
    expect(ofKey).toEqual(ofKey.toSorted(byNumber))
  }
  expect((await until(mq.describeGroup('g'))).lag).toBe(0)
  const dead = workers.length > 0 ? await until(mq.deadLetters('t', 'g').list({ limit: MESSAGES })) : null
  for (const { value } of dead?.letters ?? []) expect(ends).toContain(value?.toString())
}

const byNumber = (one: string, other: string): number =>
  Number(one.split(':')[1]) - Number(other.split(':')[1])
