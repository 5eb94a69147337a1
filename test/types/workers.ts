/**
 * What the compiler knows about workers and queues. Nothing here runs: `tsc` passes when every line that is right compiles and every line under
 * a `@ts-expect-error` does not.
 */

import { type Job, json, type Message, type Sluice, topic } from '../../src/index.ts'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only if the type given is `true`. */
const same = <T extends true>(): T => true as T

declare const mq: Sluice

const Orders = topic('orders', { value: json<{ id: number }>() })

export function working(): void {
  const worker = mq.worker(Orders, { group: 'g', retry: { delays: ['1s', 500] } }, (message, job) => {
    same<Equal<typeof message.value, { id: number }>>()
    same<Equal<typeof job, Job>>()
  })
  worker.on('failed', message => void message.value.id)
  mq.worker(['a', 'b'], { group: 'g' }, message => same<Equal<typeof message, Message>>())
  // @ts-expect-error a worker has a group
  mq.worker('a', {}, () => {})
  // @ts-expect-error no such order
  mq.worker('a', { group: 'g', order: 'random' }, () => {})
}

export async function queueing(): Promise<void> {
  const queue = mq.queue(Orders, { priorities: 2 })
  await queue.send({ id: 1 }, { priority: 1, expiresIn: '1h', delay: 100 })
  // @ts-expect-error a field is missing
  await queue.send({})
  queue.process({ concurrency: 2 }, message => void message.value.id)
  const [lease] = await queue.receive({ max: 1 })
  same<Equal<typeof lease.message.value, { id: number }>>()
}
