/** Each kind of database that outbox, inbox and stores work on, for suites that are run on all of them. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { PGlite } from '@electric-sql/pglite'
import { createPool } from 'mysql2/promise'
import pg from 'pg'
import { type DatabaseLike, databaseOf, type SqlDatabase } from '../../src/database/database.ts'
import { type Service, startMariadb, startPostgres } from './services.ts'

export interface TestDatabase {
  readonly name: string
  readonly database: SqlDatabase
  /** What a user has: the pool, or the one connection. */
  readonly native: DatabaseLike
  /** The server, where there is one that can be killed. */
  readonly service: Service | null
  close(): Promise<void>
}

/** In this process: need nothing but npm. */
export const embeddedDatabases: readonly (() => Promise<TestDatabase>)[] = [sqlite, pglite]

/** Servers: need the system's packages. */
export const servedDatabases: readonly (() => Promise<TestDatabase>)[] = [postgres, mariadb]

async function sqlite(): Promise<TestDatabase> {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-sqlite-'))
  const native = new DatabaseSync(join(directory, 'db'))
  native.exec('PRAGMA journal_mode = WAL')
  return {
    name: 'SQLite',
    database: databaseOf(native),
    native,
    service: null,
    close: async () => {
      native.close()
      rmSync(directory, { recursive: true })
    },
  }
}

async function pglite(): Promise<TestDatabase> {
  const native = await PGlite.create()
  return { name: 'PGlite', database: databaseOf(native), native, service: null, close: () => native.close() }
}

async function postgres(): Promise<TestDatabase> {
  const service = await startPostgres()
  const native = new pg.Pool(service.connection)
  native.on('error', () => {})
  const close = async (): Promise<void> => {
    await native.end()
    await service.stop()
  }
  return { name: 'PostgreSQL', database: databaseOf(native), native, service, close }
}

async function mariadb(): Promise<TestDatabase> {
  const service = await startMariadb()
  const native = createPool(service.connection)
  const close = async (): Promise<void> => {
    await native.end()
    await service.stop()
  }
  return { name: 'MariaDB', database: databaseOf(native), native, service, close }
}
