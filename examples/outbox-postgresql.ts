/**
 * An order and its message, together or not at all: the message is a row of the transaction that writes the order, and a relay publishes
 * what was committed. PGlite is PostgreSQL in this process; with a server set DATABASE_URL=postgres://… and it is a Pool.
 *
 *     node outbox-postgresql.ts
 */

import { PGlite } from '@electric-sql/pglite'
import pg from 'pg'
import {
  type DatabaseLike,
  databaseOf,
  inTransaction,
  migrate,
  OutboxAdmin,
  open,
  outbox,
  outboxRelay,
} from 'sluice'

const url = process.env.DATABASE_URL
const native: DatabaseLike =
  url === undefined ? await PGlite.create() : new pg.Pool({ connectionString: url })
const database = databaseOf(native)
await migrate(database) // or: sluice outbox migrate --print
await database.query('CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, customer text, cents integer)')

async function placeOrder(id: string, customer: string, cents: number): Promise<void> {
  await inTransaction(database, async transaction => {
    await transaction.query('INSERT INTO orders VALUES (?, ?, ?)', [id, customer, cents])
    await outbox(transaction).publish('orders', { key: customer, value: { id, cents } })
    if (cents > 1_000_00) throw new Error(`order ${id} is too large`)
  })
}

for (const [id, customer, cents] of [
  ['o1', 'ann', 1250],
  ['o2', 'bob', 3000],
  ['o3', 'ann', 99_999_00],
  ['o4', 'ann', 499],
] as const) {
  await placeOrder(id, customer, cents).catch((error: Error) => console.log(error.message))
}

const [{ pending }] = await new OutboxAdmin(native).status()
console.log(`${pending} messages wait in the outbox`)

// Here or in any number of other processes: `sluice outbox relay`.
const mq = await open('memory:')
const relay = outboxRelay(mq, { database: native })
relay.on('refused', (row, error) => console.error(`row ${row.id}: ${error.message}`))

let left = pending
for await (const message of mq.consumer({ topics: ['orders'] })) {
  console.log(message.key, message.text())
  if (--left === 0) break
}

await relay.stop()
await mq.close()
await (native instanceof PGlite ? native.close() : (native as pg.Pool).end())
