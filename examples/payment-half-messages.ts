/**
 * A payment and the message that tells of it, together or not at all, although the payment is in a database that knows nothing of the queue: the
 * message is prepared first, and nobody sees it until the payment has been committed. If the program dies in between, the checker is asked, and the
 * database knows.
 *
 *     node payment-half-messages.ts
 */

import { type HalfMessage, open } from 'sluice'

interface Payment {
  readonly id: string
  readonly cents: number
}

/** The database. A payment is in it, or its transaction was rolled back. */
const payments = new Map<string, Payment>()
function pay(payment: Payment): void {
  if (payment.cents > 10_000) throw new Error('not covered')
  payments.set(payment.id, payment)
}

const mq = await open('memory:')

// Whoever prepares half messages says how to find out what became of them. Any process with this name may be asked.
const checker = mq.half.checker('payments-service', (half: HalfMessage) => {
  const { id } = half.json<Payment>()
  console.log(`asked about ${id}`)
  return payments.has(id) ? 'commit' : 'rollback'
})

const options = { checker: 'payments-service', firstCheckMs: 200, checkEveryMs: 1_000, checksMax: 5 }

// Prepares, runs the local transaction, commits; or rolls back when it throws.
const small = { id: 'p1', cents: 1250 }
await mq.half.run('payments', { key: 'ann', value: small }, options, () => pay(small))

const large = { id: 'p2', cents: 99_999 }
await mq.half
  .run('payments', { key: 'ann', value: large }, options, () => pay(large))
  .catch(error => console.log(`p2: ${error.message}`))

// The program dies after the payment and before the commit: whoever has the checker's name answers for it.
const unlucky = { id: 'p3', cents: 700 }
const half = await mq.half.prepare('payments', { key: 'bob', value: unlucky }, options)
pay(unlucky)
console.log(`p3 is ${(await mq.half.get(half.id)).state}`)

// ... and one that died before the payment.
await mq.half.prepare('payments', { key: 'bob', value: { id: 'p4', cents: 1 } }, options)

const seen: string[] = []
const consumer = mq.consumer({ topics: ['payments'], group: 'receipts' })
for await (const message of consumer) {
  seen.push(message.json<Payment>().id)
  if (seen.length === 2) break
}
console.log(`receipts for ${seen.sort().join(' and ')}`)
while ((await mq.half.list()).length > 0) await new Promise(resolve => setTimeout(resolve, 50))
console.log('nothing is undecided')

await checker.stop()
await mq.close()
