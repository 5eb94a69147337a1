/** The database of a crash run, as its processes open it. */

import { DatabaseSync } from 'node:sqlite'
import { createPool } from 'mysql2/promise'
import pg from 'pg'
import { type DatabaseLike, databaseOf, type SqlDatabase } from '../../../src/database/database.ts'
import type { Connection } from '../services.ts'

export interface CrashTask {
  readonly kind: 'postgres' | 'mariadb' | 'sqlite'
  /** Of SQLite: the path of its file. */
  readonly connection: Connection | string
  /** kafka://HOST:PORT */
  readonly broker: string
  /** Of the application: which of several it is. */
  readonly name: string
}

export function openDatabase({ kind, connection }: Pick<CrashTask, 'kind' | 'connection'>): {
  native: DatabaseLike
  database: SqlDatabase
  close(): Promise<void> | void
} {
  if (typeof connection === 'string') {
    const native = new DatabaseSync(connection, { timeout: 10_000 })
    native.exec('PRAGMA journal_mode = WAL')
    return { native, database: databaseOf(native), close: () => native.close() }
  }
  if (kind === 'mariadb') {
    const native = createPool({ ...connection, connectTimeout: 2_000 })
    return { native, database: databaseOf(native), close: () => native.end() }
  }
  const native = new pg.Pool({ ...connection, connectionTimeoutMillis: 2_000 })
  native.on('error', () => {})
  return { native, database: databaseOf(native), close: () => native.end() }
}

/** What is done, for whoever decides when to kill. */
export function progress(what: string): void {
  process.stdout.write(`${what}\n`)
}

export const taskOf = (): CrashTask => JSON.parse(process.argv[2])
