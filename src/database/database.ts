/**
 * A database from which connections and transactions can be had, for who does something in it by himself: the outbox's relay, the inbox, stores of
 * processed ids.
 *
 * What passes (the server is away, a deadlock, a serialization failure) is `DATABASE_FAILED`, which is retriable, with the driver's error as its cause; what does not pass
 * (no such table, no permission) is thrown as the driver throws it.
 */

import { isSluiceError, SluiceError } from '../errors.ts'
import {
  type Dialect,
  isMysql,
  isPg,
  isSqlite,
  type SessionLike,
  type SqliteLike,
  type SqlResult,
  type SqlSession,
  type SqlValue,
  sessionOf,
} from './session.ts'

/** A connection that stays the same until it is given back. */
export interface HeldConnection extends SqlSession {
  /** What the driver calls it: a pg PoolClient, a mysql2 PoolConnection, … */
  readonly native: unknown
  /** `broken`: it is not to be used again. */
  release(broken?: boolean): void
}

export interface SqlDatabase extends SqlSession {
  hold(): Promise<HeldConnection>
  /**
   * Calls `heard` when somebody notifies `channel`, until the returned function is called, or the connection breaks: then `lost` is called.
   * Missing where there is no such thing.
   */
  listen?(channel: string, heard: () => void, lost: () => void): Promise<() => void>
}

interface PgClientLike {
  query(sql: string, parameters?: unknown[]): Promise<{ rows: object[]; rowCount: number | null }>
  release(broken?: boolean): void
  on(event: string, listener: (message: never) => void): void
  removeListener(event: string, listener: (message: never) => void): void
}

interface PgPoolLike {
  connect(): Promise<{ release(broken?: boolean): void }>
  query(sql: string, parameters?: unknown[]): Promise<{ rows: object[] }>
}

interface MysqlConnectionLike {
  execute(sql: string, parameters?: unknown[]): Promise<[object, unknown]>
  release(): void
  destroy(): void
}

/** `execute` has more forms than one; its session knows which it calls. */
interface MysqlPoolLike {
  getConnection(): Promise<{ release(): void; destroy(): void }>
  execute: unknown
}

interface PgliteLike {
  query(sql: string, parameters?: unknown[]): Promise<{ rows: object[]; affectedRows?: number }>
  transaction<R>(body: (transaction: unknown) => Promise<R>): Promise<R>
  listen(channel: string, heard: () => void): Promise<() => Promise<void>>
}

/** A pg Pool, a mysql2/promise Pool, a node:sqlite DatabaseSync, a PGlite, or an object that does what `SqlDatabase` says. */
export type DatabaseLike = SqlDatabase | PgPoolLike | MysqlPoolLike | PgliteLike | SqliteLike

const hasFunction = (given: unknown, name: string): boolean =>
  typeof given === 'object' &&
  given !== null &&
  typeof (given as Record<string, unknown>)[name] === 'function'

/** Throws `INVALID_ARGUMENT` for what is none of them: a single connection, for one. */
export function databaseOf(given: DatabaseLike): SqlDatabase {
  if (hasFunction(given, 'hold')) return given as SqlDatabase
  if (isSqlite(given)) return singleConnection('sqlite', given)
  if (hasFunction(given, 'getConnection') && isMysql(given))
    return mysqlDatabase(given as unknown as MysqlPoolLike)
  if (hasFunction(given, 'listen') && hasFunction(given, 'transaction'))
    return pgliteDatabase(given as PgliteLike)
  if (hasFunction(given, 'connect') && isPg(given) && !hasFunction(given, 'release'))
    return pgDatabase(given as unknown as PgPoolLike)
  throw new SluiceError(
    'INVALID_ARGUMENT',
    'this is no database that sluice knows: give a Pool of pg or mysql2/promise, a DatabaseSync of node:sqlite or a PGlite',
  )
}

/** Runs `body` in a transaction: commits if it resolves, rolls back if it rejects. */
export async function inTransaction<R>(
  database: SqlDatabase,
  body: (transaction: HeldConnection) => Promise<R>,
): Promise<R> {
  const connection = await database.hold()
  let isBroken = true
  try {
    await connection.query(beginOf(database.dialect))
    try {
      const result = await body(connection)
      await connection.query('COMMIT')
      isBroken = false
      return result
    } catch (error) {
      await connection.query('ROLLBACK').then(
        () => (isBroken = false),
        () => {}, // the connection is gone, and the transaction with it
      )
      throw error
    }
  } finally {
    connection.release(isBroken)
  }
}

/** SQLite's plain BEGIN takes the lock for writing too late: two who have read then wait for each other. */
const beginOf = (dialect: Dialect): string =>
  dialect === 'sqlite' ? 'BEGIN IMMEDIATE' : dialect === 'mysql' ? 'START TRANSACTION' : 'BEGIN'

function pgDatabase(pool: PgPoolLike): SqlDatabase {
  const session = sessionOf(pool)
  const hold = async (): Promise<HeldConnection> => {
    const client = (await failing(() => pool.connect())) as PgClientLike
    // a connection that breaks while nobody uses it must not end the process
    const onError = (): void => {}
    client.on('error', onError)
    return {
      dialect: 'postgres',
      native: client,
      query: guarded(sessionOf(client)),
      release: broken => {
        client.removeListener('error', onError)
        client.release(broken)
      },
    }
  }
  return {
    dialect: 'postgres',
    query: guarded(session),
    hold,
    async listen(channel, heard, lost) {
      const connection = await hold()
      const client = connection.native as PgClientLike
      const onNotification = (message: { channel: string }): void => {
        if (message.channel === channel) heard()
      }
      let isOver = false
      const end = (): void => {
        if (isOver) return
        isOver = true
        client.removeListener('notification', onNotification)
        client.removeListener('end', onEnd)
        connection.release(true)
      }
      const onEnd = (): void => {
        end()
        lost()
      }
      client.on('notification', onNotification)
      client.on('end', onEnd)
      try {
        await connection.query(`LISTEN ${channel}`)
      } catch (error) {
        end()
        throw error
      }
      return end
    },
  }
}

function mysqlDatabase(pool: MysqlPoolLike): SqlDatabase {
  return {
    dialect: 'mysql',
    query: guarded(sessionOf(pool as unknown as SessionLike)),
    async hold() {
      const connection = (await failing(() => pool.getConnection())) as MysqlConnectionLike
      return {
        dialect: 'mysql',
        native: connection,
        query: guarded(sessionOf(connection)),
        release: broken => (broken === true ? connection.destroy() : connection.release()),
      }
    },
  }
}

/** PGlite has one connection; who holds it holds up the others. */
function pgliteDatabase(database: PgliteLike): SqlDatabase {
  const single = singleConnection('postgres', database)
  return {
    ...single,
    listen: async (channel, heard) => {
      const end = await database.listen(channel, heard)
      return () => void end()
    },
  }
}

/** One connection for all: each has it for himself until he gives it back. */
function singleConnection(dialect: Dialect, native: SqliteLike | PgliteLike): SqlDatabase {
  const session = sessionOf(native)
  const query = guarded(session)
  let last: Promise<void> = Promise.resolve()
  const hold = async (): Promise<HeldConnection> => {
    const before = last
    const { promise, resolve } = Promise.withResolvers<void>()
    last = promise
    await before
    return { dialect, native, query, release: () => resolve() }
  }
  return {
    dialect,
    hold,
    async query(sql, parameters) {
      const connection = await hold()
      try {
        return await connection.query(sql, parameters)
      } finally {
        connection.release()
      }
    },
  }
}

const guarded =
  (session: SqlSession) =>
  (sql: string, parameters?: readonly SqlValue[]): Promise<SqlResult> =>
    failing(() => session.query(sql, parameters))

async function failing<R>(call: () => Promise<R>): Promise<R> {
  try {
    return await call()
  } catch (error) {
    throw mayPass(error) ? asDatabaseFailure(error) : error
  }
}

/** SQLSTATE classes: 08 connection, 40 rolled back (serialization, deadlock), 53 resources, 55 not available (lock), 57 operator, 58 system. */
const PASSING_STATE = /^(08|40|53|55|57|58)/
const PASSING_CODES: ReadonlySet<string> = new Set([
  'DATABASE_FAILED',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENOTFOUND',
  'PROTOCOL_CONNECTION_LOST',
  'ER_LOCK_DEADLOCK',
  'ER_LOCK_WAIT_TIMEOUT',
  'ER_SERVER_SHUTDOWN',
  'ER_CON_COUNT_ERROR',
  'ER_DISK_FULL',
  'ER_RECORD_FILE_FULL',
  'ER_OUT_OF_RESOURCES',
])
const PASSING_MESSAGE =
  /connection terminated|connection ended|not queryable|closed state|timeout exceeded when trying to connect|database is locked|database or disk is full|server has gone away|connection is closed/i

export function asDatabaseFailure(error: unknown): SluiceError {
  if (isSluiceError(error, 'DATABASE_FAILED')) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new SluiceError('DATABASE_FAILED', `the database failed: ${reason}`, {}, error)
}

/** Whether what a driver threw may be gone when the same is tried again. */
export function mayPass(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const { code, sqlState } = error as Error & { code?: unknown; sqlState?: unknown }
  if (
    typeof code === 'string' &&
    (PASSING_CODES.has(code) || (/^[0-9A-Z]{5}$/.test(code) && PASSING_STATE.test(code)))
  )
    return true
  if (typeof sqlState === 'string' && PASSING_STATE.test(sqlState)) return true
  return PASSING_MESSAGE.test(error.message)
}
