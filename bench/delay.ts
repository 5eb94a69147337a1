/**
 * How late delayed messages are, and what a million of them costs while they wait:
 *
 *     npm run bench:delay -- [--pending 1000000] [--rate 10000] [--seconds 12] [--rounds 3] [--json FILE]
 *
 * Through the public API, in a folder of its own, flush policy `always`. Each figure is taken in a process of its own, which opens the folder, delays,
 * delivers and consumes: lateness is the time by the wall clock when a message is handed to the consumer, less the time for which it was asked.
 * The first seconds, in which topics are made and code is compiled, are told apart (`firstMaxMs`).
 * While a million wait, another message is delayed by 100 ms, so that the relay is at work.
 */

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { open, type Sluice } from '../src/index.ts'

const PRECISION_MESSAGES = 1_000
/** One a hundredth of a second. */
const PRECISION_WARM_UP = 200
const WARM_UP_SECONDS = 3
const PRECISION_DELAY_MS = 250
const AHEAD_MS = 20_000
const PAD = 'x'.repeat(87)
const HOUR_MS = 3_600_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pending: { type: 'string', default: '1000000' },
    rate: { type: 'string', default: '10000' },
    seconds: { type: 'string', default: '12' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'string' },
  },
})
const rate = Number(values.rate)
const seconds = Number(values.seconds)

type Figures = Readonly<Record<string, number>>

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

/** In the order in which they came; the first ones do not count. */
function lateness(all: Float64Array, warmUp: number): Figures {
  const sorted = all.subarray(warmUp).toSorted()
  const at = (part: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]
  const firstMaxMs = all.subarray(0, warmUp).reduce((most, each) => Math.max(most, each), 0)
  return { p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1), earliestMs: sorted[0], firstMaxMs }
}

/** Resolves with the lateness of each once `count` were consumed. A message begins with the time for which it was asked. */
async function collect(
  mq: Sluice,
  count: number,
  warmUp: number,
  publish: () => Promise<void>,
): Promise<Figures> {
  const late = new Float64Array(count)
  const done = Promise.withResolvers<void>()
  const consumer = mq.consumer({ topics: ['due'], group: 'bench', concurrency: 4 })
  let taken = 0
  const running = consumer.runBatch(batch => {
    const now = Date.now()
    for (const message of batch) {
      late[taken] = now - Number(message.text().slice(0, 13))
      if (++taken === count) done.resolve()
    }
  })
  await publish()
  await done.promise
  await consumer.stop()
  await running
  return lateness(late, warmUp)
}

/** One after the other, a hundred in a second. */
async function precision(mq: Sluice): Promise<Figures> {
  await mq.createTopic('due')
  const count = PRECISION_WARM_UP + PRECISION_MESSAGES
  return await collect(mq, count, PRECISION_WARM_UP, async () => {
    for (let index = 0; index < count; index++) {
      void mq.publish('due', { value: `${Date.now() + PRECISION_DELAY_MS}`, delay: PRECISION_DELAY_MS })
      await sleep(10)
    }
  })
}

/** `rate` are due each second; all of them were delayed well before. */
async function manyDue(mq: Sluice): Promise<Figures> {
  await mq.createTopic('due', { partitions: 4 })
  const warmUp = rate * WARM_UP_SECONDS
  const count = warmUp + rate * seconds
  return await collect(mq, count, warmUp, async () => {
    const start = Date.now() + AHEAD_MS
    for (let index = 0; index < count; ) {
      const batch = []
      for (; batch.length < 2_000 && index < count; index++) {
        const deliverAt = start + Math.floor((index / rate) * 1_000)
        batch.push({ key: String(index), value: deliverAt + PAD, deliverAt })
      }
      await mq.publish('due', batch)
    }
  })
}

async function fill(mq: Sluice): Promise<Figures> {
  const count = Number(values.pending)
  for (let index = 0; index < count; ) {
    const batch = []
    for (; batch.length < 5_000 && index < count; index++) {
      batch.push({ key: String(index), value: PAD, delay: HOUR_MS + (index % 1_000) })
    }
    await mq.publish('due', batch)
  }
  return {}
}

/** Of an empty folder, or of one in which messages wait. */
async function restart(mq: Sluice): Promise<Figures> {
  const before = performance.now()
  const topic = `now-${process.pid}`
  await mq.publish(topic, { value: 'x', delay: 100 })
  for await (const _ of mq.consumer({ topics: [topic] })) break
  const deliveredMs = performance.now() - before
  await sleep(2_000)
  return { deliveredMs, rssMiB: process.memoryUsage().rss / 2 ** 20 }
}

const scenarios = { precision, manyDue, fill, restart } as const

async function measure(name: keyof typeof scenarios, directory: string): Promise<void> {
  const before = performance.now()
  const mq = await open(directory)
  const openedMs = performance.now() - before
  const cpuBefore = process.cpuUsage()
  const figures = await scenarios[name](mq)
  const { user, system } = process.cpuUsage(cpuBefore)
  await mq.close()
  console.log(JSON.stringify({ ...figures, openedMs, cpuSeconds: (user + system) / 1e6 }))
}

function inProcess(name: keyof typeof scenarios, directory: string): Figures {
  const args = [import.meta.filename, name, directory, ...process.argv.slice(2)]
  return JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }))
}

function all(): void {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-delay-'))
  const found: Record<string, Figures[]> = { precision: [], manyDue: [], empty: [], pending: [] }
  try {
    const into = (name: string, figures: Figures): void => {
      found[name].push(figures)
      const text = Object.entries(figures).map(([what, value]) => `${what} ${value.toFixed(1)}`)
      console.log(`${name}: ${text.join(', ')}`)
    }
    for (let round = 0; round < Number(values.rounds); round++) {
      into('precision', inProcess('precision', join(folder, `precision-${round}`)))
      into('manyDue', inProcess('manyDue', join(folder, `due-${round}`)))
      into('empty', inProcess('restart', join(folder, `empty-${round}`)))
    }
    inProcess('fill', join(folder, 'pending'))
    for (let round = 0; round < Number(values.rounds); round++) {
      into('pending', inProcess('restart', join(folder, 'pending')))
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  const machine = `${cpus()[0].model.trim()}, ${cpus().length} cores, Node ${process.version}`
  const report = { date: new Date().toISOString(), machine, options: values, found }
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`)
}

const [scenario, directory] = positionals
if (scenario === undefined) all()
else await measure(scenario as keyof typeof scenarios, directory)
