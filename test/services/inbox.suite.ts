import pg from 'pg'
import { expect, test } from 'vitest'
import { databaseOf } from '../../src/database/database.ts'
import { inbox } from '../../src/database/inbox.ts'
import { migrate } from '../../src/database/schema.ts'
import { numberOf } from '../../src/database/session.ts'
import { open } from '../../src/open.ts'
import { inboxSuite } from '../database/inbox-suite.ts'
import { servedDatabases } from './databases.ts'
import { startPostgres } from './services.ts'

for (const make of servedDatabases) inboxSuite(make.name, make)

test('PostgreSQL, serializable: what is taken back because of others is done again, once', async () => {
  const service = await startPostgres()
  const pool = new pg.Pool({
    ...service.connection,
    options: '-c default_transaction_isolation=serializable',
  })
  pool.on('error', () => {})
  const mq = await open('memory:')
  try {
    await migrate(databaseOf(pool))
    await pool.query('CREATE TABLE balance (amount bigint)')
    await pool.query('INSERT INTO balance VALUES (0)')
    await mq.createTopic('payments', { partitions: 4 })
    await mq.publish(
      'payments',
      Array.from({ length: 200 }, (_, index) => ({ key: `k${index}`, value: '1' })),
    )
    const errors: string[] = []
    const failed: unknown[] = []
    // All partitions read and write the same row at the same time.
    const options = { topics: ['payments'], group: 'g', database: pool, concurrency: 4, attempts: 1 } as const
    const box = inbox(mq, { ...options, transactionMessages: 10 }, async (message, tx) => {
      const { rows } = await tx.query('SELECT amount FROM balance')
      await tx.query('UPDATE balance SET amount = ?', [numberOf(rows[0].amount) + Number(message.text())])
    })
    box.on('error', ({ code, message }) => errors.push(`${code}: ${message}`))
    box.on('failed', message => failed.push(message))
    const amount = async (): Promise<number> =>
      numberOf((await pool.query('SELECT amount FROM balance')).rows[0].amount)
    await expect.poll(amount, { timeout: 60_000 }).toBe(200)
    expect(failed).toEqual([])
    expect(
      errors.some(text => text.startsWith('DATABASE_FAILED: the database failed: could not serialize')),
    ).toBe(true)
    await box.stop()
  } finally {
    await mq.close()
    await pool.end()
    await service.stop()
  }
})
