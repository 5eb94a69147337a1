/**
 * Reminders for carts that were left behind: delayed messages with names of their own, so that a purchase can cancel one; and a report by cron
 * expression. They lie on the disk while they wait, for years if need be; here it is seconds.
 *
 *     node scheduled-reminders.ts
 */

import { open } from 'sluice'

const mq = await open('memory:')

/** A customer puts something into the cart: in two seconds ("two hours") we remind. */
async function cartChanged(customer: string): Promise<void> {
  await mq.publish('reminders', {
    key: customer,
    value: `${customer}, your cart is waiting`,
    delay: '2s',
    delayId: `cart-${customer}`,
  })
}

/** A purchase: nothing to remind of. False: the reminder is on its way already. */
const bought = (customer: string): Promise<boolean> => mq.delayed.cancel(`cart-${customer}`)

for (const customer of ['ann', 'bob', 'cem']) await cartChanged(customer)
console.log('bob bought, reminder cancelled:', await bought('bob'))

// Cem asks for more time. The id changes, the name stays.
await mq.delayed.reschedule('cart-cem', { delay: '3s' })

const { messages } = await mq.delayed.list({ topic: 'reminders' })
console.log(
  `waiting: ${messages
    .map(({ name }) => name)
    .sort()
    .join(', ')}`,
)

// Six fields: with seconds. `0 9 * * 1-5` would be at nine on weekdays, in the zone that is named.
const schedule = await mq.schedules.set('report', {
  cron: '* * * * * *',
  timezone: 'Europe/Berlin',
  topic: 'reports',
  message: { value: 'how many carts were saved?' },
})
console.log(`schedule ${schedule.name}: ${schedule.cron} to ${schedule.topic}`)

let reminders = 0
let reports = 0
const done = Promise.withResolvers<void>()
mq.worker(['reminders', 'reports'], { group: 'mailer' }, async message => {
  if (message.topic === 'reports') reports++
  else {
    console.log(message.text())
    reminders++
  }
  if (reminders === 2 && reports >= 2) done.resolve()
})
await done.promise

console.log('schedule removed:', await mq.schedules.remove('report'))
await mq.close()
