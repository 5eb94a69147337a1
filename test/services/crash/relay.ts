/** A relay of the outbox in a process of its own. Killed at any moment. */

import { outboxRelay } from '../../../src/database/outbox-relay.ts'
import { open } from '../../../src/open.ts'
import { openDatabase, progress, taskOf } from './database-of.ts'

const task = taskOf()
const mq = await open({ url: task.broker })
const relay = outboxRelay(mq, { database: openDatabase(task).native, leaseMs: 1_500, batchRows: 50 })
relay.on('error', () => {})
relay.on('published', () => progress('published'))
