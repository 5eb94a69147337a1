/** What every database must do for the outbox, the inbox and the stores of ids. */

import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { inTransaction, type SqlDatabase } from '../../src/database/database.ts'
import { migrate } from '../../src/database/schema.ts'
import { bytesOf, numberOf, sessionOf } from '../../src/database/session.ts'
import type { TestDatabase } from '../services/databases.ts'

export function databaseSuite(name: string, make: () => Promise<TestDatabase>): void {
  describe(`database: ${name}`, () => {
    let given: TestDatabase
    let database: SqlDatabase

    beforeAll(async () => {
      given = await make()
      database = given.database
      await migrate(database)
    }, 120_000)
    afterAll(() => given.close())
    beforeEach(async () => {
      await database.query('DELETE FROM sluice_processed')
      await database.query('DELETE FROM sluice_outbox')
    })

    const insert = (id: string, expiresAt = 1): Promise<unknown> =>
      database.query("INSERT INTO sluice_processed (scope, id, expires_at) VALUES ('s', ?, ?)", [
        id,
        expiresAt,
      ])
    const ids = async (): Promise<unknown[]> =>
      (await database.query('SELECT id FROM sluice_processed ORDER BY id')).rows.map(({ id }) => id)

    it('migrates once, however many want to', async () => {
      expect(await Promise.all([migrate(database), migrate(database), migrate(database)])).toEqual([0, 0, 0])
    })

    it('keeps text, bytes, null and large numbers as they are', async () => {
      const bytes = new Uint8Array([0, 255, 39, 92]).subarray(0)
      await database.query(
        "INSERT INTO sluice_outbox (outbox, shard, topic, record_key, record_value, created_at) VALUES ('o', 0, ?, ?, ?, ?)",
        ["it's ünïcode ✓", bytes, null, 2 ** 52],
      )
      const { rows } = await database.query('SELECT * FROM sluice_outbox WHERE outbox = ? LIMIT ?', ['o', 1])
      const [row] = rows
      expect([
        row.topic,
        bytesOf(row.record_key),
        bytesOf(row.record_value),
        numberOf(row.created_at),
      ]).toEqual(["it's ünïcode ✓", Buffer.from(bytes), null, 2 ** 52])
    })

    it('counts what it changed', async () => {
      for (const id of ['a', 'b', 'c']) await insert(id)
      expect((await database.query("DELETE FROM sluice_processed WHERE id <> 'c'")).count).toBe(2)
      expect((await database.query("UPDATE sluice_processed SET expires_at = 5 WHERE id = 'x'")).count).toBe(
        0,
      )
    })

    it('tells ids apart byte by byte', async () => {
      await insert('a')
      await insert('A')
      await insert('ä')
      expect(await ids()).toHaveLength(3)
    })

    it('commits a transaction that resolves, and takes back one that rejects', async () => {
      await inTransaction(database, tx =>
        tx.query("INSERT INTO sluice_processed (scope, id, expires_at) VALUES ('s', 'kept', 1)"),
      )
      const failed = inTransaction(database, async tx => {
        await tx.query("INSERT INTO sluice_processed (scope, id, expires_at) VALUES ('s', 'gone', 1)")
        throw new Error('no')
      })
      await expect(failed).rejects.toThrow('no')
      expect(await ids()).toEqual(['kept'])
    })

    it('runs transactions one by one where it has one connection, and side by side where it has more', async () => {
      const all = Array.from({ length: 20 }, (_, index) =>
        inTransaction(database, tx =>
          tx.query("INSERT INTO sluice_processed (scope, id, expires_at) VALUES ('s', ?, 1)", [
            `id-${index}`,
          ]),
        ),
      )
      await Promise.all(all)
      expect(await ids()).toHaveLength(20)
    })

    it('throws what does not pass as the driver does', async () => {
      await expect(database.query('SELECT * FROM no_such_table')).rejects.not.toMatchObject({
        code: 'DATABASE_FAILED',
      })
    })

    it('takes the user’s own connection for a session', async () => {
      const connection = await database.hold()
      try {
        const session = sessionOf(connection.native as never)
        expect(session.dialect).toBe(database.dialect)
        expect((await session.query('SELECT ? AS a', ['x'])).rows[0].a).toBe('x')
      } finally {
        connection.release()
      }
    })
  })
}
