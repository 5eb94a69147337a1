/**
 * The outbox in transactions of Kysely and Drizzle: all that sluice needs of a transaction is a function that runs a statement.
 *
 *     node outbox-adapters.ts
 */

import { PGlite } from '@electric-sql/pglite'
import { type SQL, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/pglite'
import { CompiledQuery, Kysely, PGliteDialect, type Transaction } from 'kysely'
import { databaseOf, migrate, OutboxAdmin, outbox, type SqlSession } from 'sluice'

/** Kysely on PostgreSQL, whose parameters are $1, $2, … With MySQL and SQLite the text is taken as it is. */
function kyselySession<T>(transaction: Transaction<T>): SqlSession {
  return {
    dialect: 'postgres',
    async query(text, parameters = []) {
      let number = 0
      const numbered = text.replaceAll('?', () => `$${++number}`)
      const query = CompiledQuery.raw(numbered, [...parameters])
      const { rows, numAffectedRows } = await transaction.executeQuery(query)
      return { rows: rows as Record<string, unknown>[], count: Number(numAffectedRows ?? 0) }
    },
  }
}

/** Drizzle: the statement in pieces, with the parameters between them. */
function drizzleSession(transaction: { execute(query: SQL): PromiseLike<{ rows: object[] }> }): SqlSession {
  return {
    dialect: 'postgres',
    async query(text, parameters = []) {
      const [first, ...others] = text.split('?')
      const pieces = others.flatMap((piece, index) => [sql`${parameters[index]}`, sql.raw(piece)])
      const { rows } = await transaction.execute(sql.join([sql.raw(first), ...pieces]))
      return { rows: rows as Record<string, unknown>[], count: rows.length }
    },
  }
}

const native = await PGlite.create()
await migrate(databaseOf(native))
await native.exec('CREATE TABLE orders (id text PRIMARY KEY, cents integer NOT NULL)')

interface Tables {
  orders: { id: string; cents: number }
}

const kysely = new Kysely<Tables>({ dialect: new PGliteDialect({ pglite: native }) })
await kysely.transaction().execute(async transaction => {
  await transaction.insertInto('orders').values({ id: 'o1', cents: 1250 }).execute()
  await outbox(kyselySession(transaction)).publish('orders', { key: 'o1', value: { cents: 1250 } })
})

const orm = drizzle(native)
await orm.transaction(async transaction => {
  await transaction.execute(sql`INSERT INTO orders VALUES ('o2', 3000)`)
  await outbox(drizzleSession(transaction)).publish('orders', { key: 'o2', value: { cents: 3000 } })
})

const rolledBack = orm.transaction(async transaction => {
  await outbox(drizzleSession(transaction)).publish('orders', { key: 'o3', value: 'never' })
  transaction.rollback()
})
await rolledBack.catch(() => {})

const [{ pending }] = await new OutboxAdmin(native).status()
console.log(`${pending} messages wait in the outbox`)
await native.close()
