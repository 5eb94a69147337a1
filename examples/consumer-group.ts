/**
 * Workers that share a topic. Each partition belongs to one member of the group at a time; members come and go, and partitions
 * follow. What a member has handled is committed before somebody else goes on behind it, so here nothing is handled twice.
 *
 *     node consumer-group.ts
 */

import { type Consumer, open } from 'sluice'

const JOBS = 3_000

const mq = await open('memory:')
await mq.createTopic('jobs', { partitions: 6 })

/** How often each job was handled. */
const handled = new Map<string, number>()
const allHandled = Promise.withResolvers<void>()

function startWorker(name: string): Consumer<'jobs'> {
  const worker = mq.consumer({ topics: ['jobs'], group: 'workers', concurrency: 2 })
  worker.on('assigned', partitions => log(name, 'is given', partitions))
  worker.on('revoked', partitions => log(name, 'gives up', partitions))
  worker
    .run(async message => {
      const job = message.text()
      await new Promise(resolve => setImmediate(resolve)) // the work
      handled.set(job, (handled.get(job) ?? 0) + 1)
      if (handled.size === JOBS) allHandled.resolve()
    })
    .catch(allHandled.reject)
  return worker
}

const workers = ['ann', 'bob', 'cem'].map(startWorker)
for (let job = 1; job <= JOBS; job++) {
  await mq.publish('jobs', { key: `customer ${job % 100}`, value: `job ${job}` })
  if (job === JOBS / 2) await workers[0].stop() // its partitions go to the others
}
await allHandled.promise
await Promise.all(workers.map(worker => worker.stop()))

const twice = [...handled.values()].filter(times => times > 1).length
console.log(`${handled.size} jobs handled, ${twice} of them more than once`)
console.log(`left to do: ${(await mq.describeGroup('workers')).lag}`)
await mq.close()

function log(name: string, what: string, partitions: readonly { readonly partition: number }[]): void {
  if (partitions.length > 0) console.log(name, what, partitions.map(({ partition }) => partition).join(' '))
}
