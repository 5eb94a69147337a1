/** An inbox that writes one row for each order. Killed at any moment. */

import { inbox } from '../../../src/database/inbox.ts'
import { open } from '../../../src/open.ts'
import { openDatabase, progress, taskOf } from './database-of.ts'

const task = taskOf()
const mq = await open({ url: task.broker })
const options = {
  topics: ['orders'],
  group: 'ledger',
  database: openDatabase(task).native,
  transactionMessages: 20,
  sessionTimeoutMs: 6_000,
} as const
const box = inbox(mq, options, async (message, tx) => {
  await tx.query('INSERT INTO effects (order_id) VALUES (?)', [Number(message.text())])
})
box.on('error', () => {})
box.on('handled', () => progress('handled'))
await box.done
