/**
 * Who is measured: the same jobs, sent and worked on by each, in a process of its own. A job is a small JSON object; its handler does nothing.
 * `send`: all jobs are accepted. `work`: all jobs are handled and acknowledged one by one, `concurrency` at a time.
 */

import { performance } from 'node:perf_hooks'

export interface Task {
  readonly jobs: number
  readonly concurrency: number
  readonly host: string
  readonly port: number
  /** A data folder, for who keeps its own. */
  readonly directory: string
}

export interface Figures {
  readonly sendMs: number
  readonly workMs: number
}

/** Jobs that are sent together. */
const BULK = 1_000

const job = (index: number) => ({
  id: index,
  to: `user-${index}@example.org`,
  template: 'welcome',
  attempt: 0,
})

const chunks = function* (jobs: number): Generator<number[]> {
  for (let from = 0; from < jobs; from += BULK) {
    yield Array.from({ length: Math.min(BULK, jobs - from) }, (_, index) => from + index)
  }
}

async function timed(work: () => Promise<void>): Promise<number> {
  const start = performance.now()
  await work()
  return performance.now() - start
}

/** `flush: 'always'`: everything that is acknowledged is on the disk. */
async function sluice({ jobs, concurrency, directory }: Task): Promise<Figures> {
  const { open } = await import('../../src/index.ts')
  const mq = await open({ url: directory })
  await mq.createTopic('jobs')
  const sendMs = await timed(async () => {
    for (const indexes of chunks(jobs))
      await mq.publish(
        'jobs',
        indexes.map(index => ({ value: job(index) })),
      )
  })
  const workMs = await timed(async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    let done = 0
    const worker = mq.worker('jobs', { group: 'workers', concurrency, order: 'none' }, async message => {
      message.json()
      if (++done === jobs) resolve()
    })
    await promise
    await worker.stop() // with everything committed
  })
  await mq.close()
  return { sendMs, workMs }
}

async function bullmq({ jobs, concurrency, host, port }: Task): Promise<Figures> {
  const { Queue, Worker } = await import('bullmq')
  const connection = { host, port, maxRetriesPerRequest: null }
  const queue = new Queue('jobs', { connection, defaultJobOptions: { removeOnComplete: true } })
  const sendMs = await timed(async () => {
    for (const indexes of chunks(jobs))
      await queue.addBulk(indexes.map(index => ({ name: 'job', data: job(index) })))
  })
  const workMs = await timed(async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    let done = 0
    const worker = new Worker('jobs', async () => {}, { connection, concurrency })
    worker.on('completed', () => {
      if (++done === jobs) resolve()
    })
    await promise
    await worker.close()
  })
  await queue.close()
  return { sendMs, workMs }
}

async function pgBoss({ jobs, concurrency, host, port }: Task): Promise<Figures> {
  const { PgBoss } = await import('pg-boss')
  const boss = new PgBoss({ host, port, user: 'postgres', database: 'postgres', max: 10 })
  boss.on('error', () => {})
  await boss.start()
  await boss.createQueue('jobs')
  const sendMs = await timed(async () => {
    for (const indexes of chunks(jobs))
      await boss.insert(
        'jobs',
        indexes.map(index => ({ data: job(index) })),
      )
  })
  const workMs = await timed(async () => {
    // as fast as it goes: fetch and complete by batches, several at a time
    const fetchers = Array.from({ length: 4 }, async () => {
      for (;;) {
        const batch = await boss.fetch('jobs', { batchSize: concurrency })
        if (batch.length === 0) return
        await boss.complete(
          'jobs',
          batch.map(({ id }) => id),
        )
      }
    })
    await Promise.all(fetchers)
  })
  await boss.stop({ graceful: false })
  return { sendMs, workMs }
}

export const contestants: Readonly<Record<string, (task: Task) => Promise<Figures>>> = {
  sluice,
  bullmq,
  'pg-boss': pgBoss,
}
