/**
 * From an address to a database, for commands that look into one. The drivers are not installed with sluice: they are looked for where sluice is
 * installed, then where the command is run, and what is missing is said.
 */

import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { databaseOf, type SqlDatabase } from '../database/database.ts'
import type { Dialect } from '../database/session.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Context, Invocation } from './context.ts'

export interface OpenDatabase {
  readonly database: SqlDatabase
  close(): Promise<void>
}

interface Kind {
  readonly dialect: Dialect
  open(address: string, create: boolean): Promise<OpenDatabase>
}

const kinds: Readonly<Record<string, Kind>> = {
  postgres: { dialect: 'postgres', open: openPostgres },
  postgresql: { dialect: 'postgres', open: openPostgres },
  mysql: { dialect: 'mysql', open: openMysql },
  mariadb: { dialect: 'mysql', open: openMysql },
  sqlite: { dialect: 'sqlite', open: openSqlite },
}

/** What the flag or SLUICE_DATABASE says. Throws `INVALID_ARGUMENT` if neither does. */
export function databaseAddress(context: Context, invocation: Invocation, flag = 'database'): string {
  const address = invocation.text(flag) ?? (context.io.environment.SLUICE_DATABASE || undefined)
  if (address !== undefined) return address
  throw new SluiceError('INVALID_ARGUMENT', 'which database? Give --database URL, or set SLUICE_DATABASE')
}

/** Throws `INVALID_URL`. */
export const dialectOf = (address: string): Dialect => kindOf(address).dialect

/**
 * Runs `work` on the database and closes it. `create`: a file that is not there may be made. What the database refuses is `DATABASE_FAILED`.
 * Throws `INVALID_URL`, `DRIVER_MISSING`, and what `work` throws.
 */
export async function withDatabase<R>(
  address: string,
  work: (database: SqlDatabase) => Promise<R>,
  create = false,
): Promise<R> {
  const kind = kindOf(address)
  let opened: OpenDatabase | undefined
  try {
    opened = await kind.open(address, create)
    return await work(opened.database)
  } catch (error) {
    throw isSluiceError(error) ? error : refused(error)
  } finally {
    await opened?.close().catch(() => {}) // what went wrong before is what matters
  }
}

function kindOf(address: string): Kind {
  const scheme = /^([a-z]+):/.exec(address)?.[1] ?? ''
  if (Object.hasOwn(kinds, scheme)) return kinds[scheme]
  const message = `a database is postgres://…, mysql://…, mariadb://… or sqlite:PATH, not ${withoutPassword(address)}`
  throw new SluiceError('INVALID_URL', message)
}

const withoutPassword = (address: string): string => address.replace(/:[^:@/]*@/, ':…@')

function refused(error: unknown): SluiceError {
  const reason = error instanceof Error ? error.message : String(error)
  const advice = /sluice_/.test(reason) ? '; `sluice outbox migrate` makes the tables' : ''
  return new SluiceError('DATABASE_FAILED', `the database refused it: ${reason}${advice}`, {}, error)
}

async function openPostgres(address: string): Promise<OpenDatabase> {
  const { default: pg } = await load<typeof import('pg')>('pg', 'pg')
  const pool = new pg.Pool({ connectionString: address })
  pool.on('error', () => {}) // whoever uses the connection next is told
  return { database: databaseOf(pool), close: () => pool.end() }
}

async function openMysql(address: string): Promise<OpenDatabase> {
  const { createPool } = await load<typeof import('mysql2/promise')>('mysql2/promise', 'mysql2')
  const pool = createPool(address.replace(/^mariadb:/, 'mysql:'))
  return { database: databaseOf(pool), close: () => pool.end() }
}

async function openSqlite(address: string, create: boolean): Promise<OpenDatabase> {
  const { DatabaseSync } = await import('node:sqlite')
  const path = address.replace(/^sqlite:(\/\/(?=\/))?/, '')
  if (path === '') throw new SluiceError('INVALID_URL', 'the file is missing: sqlite:PATH')
  if (!create && path !== ':memory:' && !existsSync(path))
    throw new SluiceError('DATABASE_FAILED', `there is no file ${path}; \`sluice outbox migrate\` makes one`)
  const native = new DatabaseSync(path)
  native.exec('PRAGMA busy_timeout = 5000')
  return { database: databaseOf(native), close: async () => native.close() }
}

/** A module of a package that may be missing. */
async function load<M>(module: string, name: string): Promise<M> {
  try {
    return (await import(module)) as M
  } catch (error) {
    if (!isNotFound(error)) throw error
  }
  try {
    const require = createRequire(join(process.cwd(), 'noop.js'))
    return (await import(pathToFileURL(require.resolve(module)).href)) as M
  } catch (error) {
    if (!isNotFound(error)) throw error
    const message = `the driver of this database is not installed; run: npm install ${name}`
    throw new SluiceError('DRIVER_MISSING', message, { package: name }, error)
  }
}

const isNotFound = (error: unknown): boolean =>
  error instanceof Error &&
  ['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND'].includes((error as NodeJS.ErrnoException).code ?? '')
