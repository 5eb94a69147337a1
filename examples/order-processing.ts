/**
 * Orders are charged by a worker. A bank that is away for a moment costs a retry, during which the customer's other orders wait; what cannot be
 * charged at all becomes a dead letter, and is replayed once its cause is gone.
 *
 *     node order-processing.ts
 */

import { json, open, topic } from 'sluice'

interface Order {
  readonly id: number
  readonly customer: string
  readonly cents: number
}

class UnknownCustomer extends Error {}

const Orders = topic('orders', { value: json<Order>(), partitions: 4 })

/** The outside world: a bank that does not answer twice, and does not know everybody. */
const customers = new Set(['ann', 'cem'])
let outages = 2
async function charge({ customer }: Order, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  if (customer === 'ann' && outages-- > 0) throw new Error('the bank does not answer')
  if (!customers.has(customer)) throw new UnknownCustomer(`there is no customer ${customer}`)
}

const mq = await open('memory:')

const worker = mq.worker(
  Orders,
  {
    group: 'billing',
    concurrency: 50,
    order: 'key', // a customer's orders are charged one after the other
    timeout: '10s', // then job.signal fires, and the attempt has failed
    retry: {
      delays: ['50ms', '100ms', '200ms'],
      // what is wrong today will be wrong in a minute: no retry
      decide: error => (error instanceof UnknownCustomer ? 'dead-letter' : 'retry'),
    },
  },
  async (message, job) => {
    const order = message.value
    if (order.cents <= 0) job.reject(`order ${order.id} is over ${order.cents} cents`)
    await charge(order, job.signal)
  },
)

worker.on('completed', ({ value: { id, customer } }, job) => {
  console.log(`charged order ${id} of ${customer}, attempt ${job.attempt}`)
})
worker.on('failed', ({ value: { id } }, error, _job, outcome) => {
  console.log(`order ${id} failed: ${(error as Error).message} → ${outcome.kind}`)
})

for (const order of [
  { id: 1, customer: 'ann', cents: 1250 },
  { id: 2, customer: 'ann', cents: 300 },
  { id: 3, customer: 'bob', cents: 999 },
  { id: 4, customer: 'cem', cents: -5 },
]) {
  await mq.publish(Orders, { key: order.customer, value: order })
}
await until(({ completed, deadLettered }) => completed === 2 && deadLettered === 2)

// Somebody looks at what is left, repairs it, and has it handled again.
const dead = mq.deadLetters(Orders, 'billing')
const { letters } = await dead.list()
for (const { id, reason, attempts, error } of letters) {
  console.log(`dead letter ${id}: ${reason} after ${attempts}: ${error.message}`)
}
const wrong = letters.find(letter => letter.key?.toString() === 'cem')
if (wrong) await dead.edit(wrong.id, { value: { id: 4, customer: 'cem', cents: 5 } })
customers.add('bob')
const replayed = await dead.replay('all', { perSecond: 100 })
console.log(`${replayed.length} replayed`)
await until(({ completed }) => completed === 4)

await worker.stop()
console.log(`dead letters left: ${await dead.count()}`)
await mq.close()

/** Resolves when the worker has come so far. */
async function until(isReached: (stats: typeof worker.stats) => boolean): Promise<void> {
  while (!isReached(worker.stats)) await new Promise(resolve => setTimeout(resolve, 10))
}
