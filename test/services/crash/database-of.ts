/** The database of a crash run, as its processes open it. */

import { createPool } from 'mysql2/promise'
import pg from 'pg'
import { type DatabaseLike, databaseOf, type SqlDatabase } from '../../../src/database/database.ts'
import type { Connection } from '../services.ts'

export interface CrashTask {
  readonly kind: 'postgres' | 'mariadb'
  readonly connection: Connection
  /** kafka://HOST:PORT */
  readonly broker: string
  /** Of the application: which of several it is. */
  readonly name: string
}

export function openDatabase({ kind, connection }: Pick<CrashTask, 'kind' | 'connection'>): {
  native: DatabaseLike
  database: SqlDatabase
} {
  if (kind === 'mariadb') {
    const native = createPool({ ...connection, connectTimeout: 2_000 })
    return { native, database: databaseOf(native) }
  }
  const native = new pg.Pool({ ...connection, connectionTimeoutMillis: 2_000 })
  native.on('error', () => {})
  return { native, database: databaseOf(native) }
}

/** What is done, for whoever decides when to kill. */
export function progress(what: string): void {
  process.stdout.write(`${what}\n`)
}

export const taskOf = (): CrashTask => JSON.parse(process.argv[2])
