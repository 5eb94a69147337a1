/** Writes orders and their messages in one transaction, as fast as it goes; rolls some back. Killed at any moment. */

import { inTransaction } from '../../../src/database/database.ts'
import { outbox } from '../../../src/database/outbox.ts'
import { openDatabase, progress, taskOf } from './database-of.ts'

const task = taskOf()
const { database } = openDatabase(task)
const KEYS = 5
/** Between two transactions: several processes share a machine with a server that is to start again. */
const PAUSE_MS = 10

const lastId = {
  postgres: 'SELECT lastval() AS id',
  mysql: 'SELECT LAST_INSERT_ID() AS id',
  sqlite: 'SELECT last_insert_rowid() AS id',
} as const

class RolledBack extends Error {}

for (let step = 0; ; step++) {
  try {
    await inTransaction(database, async tx => {
      const orders = 1 + (step % 3)
      for (let index = 0; index < orders; index++) {
        const key = `${task.name}-${(step + index) % KEYS}`
        await tx.query('INSERT INTO orders (order_key) VALUES (?)', [key])
        const { rows } = await tx.query(lastId[tx.dialect])
        await outbox(tx).publish('orders', { key, value: String(rows[0].id) })
      }
      if (step % 5 === 4) throw new RolledBack()
    })
    progress('committed')
    await new Promise(resolve => setTimeout(resolve, PAUSE_MS))
  } catch (error) {
    if (error instanceof RolledBack) continue
    await new Promise(resolve => setTimeout(resolve, 50)) // the database is away
  }
}
