/**
 * Payments become balances, each exactly once: what the handler writes and how far the group has come are one transaction. Every
 * payment is published twice here, the handler fails now and then, and the inbox is stopped half way.
 *
 *     node exactly-once-postgresql.ts
 */

import { PGlite } from '@electric-sql/pglite'
import { databaseOf, type HeldConnection, inbox, json, migrate, open, topic } from 'sluice'

const PAYMENTS = 300
const Payments = topic('payments', {
  value: json<{ id: string; account: string; cents: number }>(),
  partitions: 3,
})

const native = await PGlite.create() // or a Pool of pg
const database = databaseOf(native)
await migrate(database)
await database.query('CREATE TABLE balances (account text PRIMARY KEY, cents integer NOT NULL)')

const mq = await open('memory:')
for (let number = 1; number <= PAYMENTS; number++) {
  const payment = { id: `p${number}`, account: `account ${number % 7}`, cents: number }
  await mq.publish(Payments, { key: payment.account, value: payment })
  await mq.publish(Payments, { key: payment.account, value: payment }) // the publisher was not sure
}

let handled = 0
let duplicates = 0

function startInbox() {
  const started = inbox(
    mq,
    {
      topics: [Payments],
      group: 'balances',
      database: native,
      transactionMessages: 50,
      retryMs: 1,
      idOf: message => message.value.id, // the same payment again is not handled
    },
    async (message, transaction) => {
      const { account, cents } = message.value
      await pay(transaction, account, cents)
      if (Math.random() < 0.005) throw new Error('the handler failed') // what it wrote is gone as well
    },
  )
  started.on('handled', count => (handled += count))
  started.on('duplicate', () => duplicates++)
  return started
}

async function pay(transaction: HeldConnection, account: string, cents: number): Promise<void> {
  await transaction.query(
    'INSERT INTO balances VALUES (?, ?) ON CONFLICT (account) DO UPDATE SET cents = balances.cents + EXCLUDED.cents',
    [account, cents],
  )
}

const first = startInbox()
while (handled < PAYMENTS / 2) await new Promise(resolve => setTimeout(resolve, 5))
await first.stop()

const second = startInbox()
while ((await lag()) > 0) await new Promise(resolve => setTimeout(resolve, 5))
await second.stop()

const { rows } = await database.query('SELECT SUM(cents) AS total FROM balances')
console.log(`published ${PAYMENTS * 2} messages, handled ${handled}`)
console.log(`balances: ${rows[0].total} cents, expected ${(PAYMENTS * (PAYMENTS + 1)) / 2}`)
await mq.close()
await native.close()

async function lag(): Promise<number> {
  return (await mq.describeGroup('balances')).lag
}
