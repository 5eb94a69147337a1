/** A comparison on a schedule, of the log with a database, whose hooks repair what it finds: the next one finds nothing. */

import { DatabaseSync } from 'node:sqlite'
import { expect, onTestFinished, test } from 'vitest'
import {
  databaseOf,
  migrate,
  open,
  outbox,
  outboxRelay,
  querySource,
  type ReconcileReport,
  reconcileEvery,
  topicSource,
} from '../../src/index.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const HOUR = 3_600_000

test('what the outbox has published and what the business has written down are compared every night, and repaired on either side', async () => {
  const mq = await open('memory:')
  const database = new DatabaseSync(':memory:')
  onTestFinished(async () => {
    await mq.close()
    database.close()
  })
  await migrate(databaseOf(database))
  database.exec('CREATE TABLE orders (id text PRIMARY KEY, cents integer)')
  const insert = database.prepare('INSERT INTO orders VALUES (?, ?)')
  // business row and message in one transaction
  database.exec('BEGIN')
  for (let index = 0; index < 20; index++) {
    insert.run(`o${index}`, index)
    await outbox(database).publish('orders', { key: `o${index}`, value: { cents: index } })
  }
  database.exec('COMMIT')
  const relay = outboxRelay(mq, { database, pollMs: 10 })
  await mq.createTopic('orders').catch(() => {})
  await expect.poll(() => mq.offsetFor('orders', 0, 'latest')).toBeGreaterThanOrEqual(20)
  await relay.stop()
  // somebody wrote a row by hand, deleted one, and changed one
  insert.run('by hand', 1)
  database.exec("DELETE FROM orders WHERE id = 'o3'")
  database.exec("UPDATE orders SET cents = 700 WHERE id = 'o7'")

  const clock = new VirtualClock(Date.UTC(2026, 0, 1))
  const told: string[] = []
  const publish = (key: string) => {
    const row = database.prepare('SELECT cents FROM orders WHERE id = ?').get(key)
    return mq.publish('orders', { key, value: { cents: row?.cents as number } })
  }
  const nightly = reconcileEvery(
    { cron: '0 3 * * *', timezone: 'UTC' },
    {
      left: querySource(database, 'SELECT id, cents FROM orders'),
      right: topicSource(mq, 'orders', { value: message => String(message.json<{ cents: number }>().cents) }),
      missingRight: async key => {
        told.push(`the log lacks ${key}`)
        await publish(key)
      },
      missingLeft: key => {
        told.push(`the table lacks ${key}`)
        insert.run(key, Number(key.slice(1)))
      },
      different: async key => {
        told.push(`${key} differs`)
        await publish(key)
      },
    },
    clock,
  )
  onTestFinished(() => nightly.stop())
  const reports: ReconcileReport[] = []
  nightly.on('report', report => reports.push(report))
  nightly.on('error', error => told.push(error.message))
  await clock.advance(3 * HOUR)
  await expect.poll(() => reports).toHaveLength(1)
  expect(told.toSorted()).toEqual(['o7 differs', 'the log lacks by hand', 'the table lacks o3'])
  expect(reports[0]).toMatchObject({ same: 18, different: 1, onlyLeft: 1, onlyRight: 1 })
  await expect
    .poll(async () => {
      await clock.advance(24 * HOUR)
      return reports.length
    })
    .toBeGreaterThan(1)
  expect(reports[1]).toMatchObject({ same: 21, different: 0, onlyLeft: 0, onlyRight: 0 })
  expect(told).toHaveLength(3)
})
