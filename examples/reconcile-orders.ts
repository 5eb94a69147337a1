/**
 * Orders against payments: what was ordered and never paid, paid and never ordered, or paid differently. It looks every night; here also at once.
 *
 *     node reconcile-orders.ts
 */

import { DatabaseSync } from 'node:sqlite'
import { json, open, querySource, reconcileEvery, topic, topicSource } from 'sluice'

const Orders = topic('orders', { value: json<{ cents: number }>(), tombstones: true, partitions: 4 })
const mq = await open('memory:')
const database = new DatabaseSync(':memory:')
database.exec('CREATE TABLE payments (order_id text, cents integer)')
const pay = database.prepare('INSERT INTO payments VALUES (?, ?)')

for (let number = 1; number <= 1_000; number++) {
  await mq.publish(Orders, { key: `order ${number}`, value: { cents: number } })
  if (number === 17) continue // its payment got lost
  pay.run(`order ${number}`, number === 500 ? 1 : number)
}
await mq.publish(Orders, { key: 'order 42', value: null }) // cancelled, but it was paid
pay.run('order 99', 99) // paid twice

const nightly = reconcileEvery(
  { cron: '0 3 * * *', timezone: 'Europe/Berlin' },
  {
    left: topicSource(mq, Orders, { value: message => message.value && String(message.value.cents) }),
    right: querySource(database, 'SELECT order_id, cents FROM payments'),
    missingRight: async order => {
      console.log(`${order} was not paid: remind the customer`)
      await mq.publish('reminders', { key: order, value: { order } })
    },
    missingLeft: order => console.log(`${order} was paid, and there is no such order`),
    different: order => console.log(`${order} was paid with another amount`),
    duplicate: (order, _side, times) => console.log(`${order} was paid ${times} times`),
  },
)
nightly.on('report', ({ same, onlyLeft, onlyRight, different }) => {
  console.log(`${same} as they should be, ${onlyLeft + onlyRight + different} not`)
})
nightly.on('error', error => console.error(error.message))

await nightly.run() // not only at three o'clock
await nightly.stop()
await mq.close()
