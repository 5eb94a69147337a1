/**
 * The user's database as sluice sees it: text and parameters in, rows out. Nothing here imports a driver; what the user has is recognised by its
 * shape, or given as an object of two properties:
 *
 *     outbox({ dialect: 'postgres', query: async (sql, parameters) => ({ rows: (await trx.raw(sql, parameters)).rows, count: 0 }) })
 *
 * SQL is written once, in the common part of three dialects, with `?` for parameters; the session writes them as its driver wants them. Bytes are
 * bytes, times are numbers (milliseconds since the Unix epoch), ids are numbers.
 */

import { SluiceError } from '../errors.ts'

export type Dialect = 'postgres' | 'mysql' | 'sqlite'

export type SqlValue = string | number | Uint8Array | null

export interface SqlResult {
  readonly rows: readonly Readonly<Record<string, unknown>>[]
  /** Rows that were inserted, updated or deleted. */
  readonly count: number
}

/** One connection, or one transaction of the user's. */
export interface SqlSession {
  readonly dialect: Dialect
  /** `sql` has one `?` for each parameter, and none elsewhere. */
  query(sql: string, parameters?: readonly SqlValue[]): Promise<SqlResult>
}

/** pg: Client, PoolClient, Pool. PGlite and its transactions look the same but for the count. */
interface PgLike {
  query(
    sql: string,
    parameters?: unknown[],
  ): Promise<{ rows: object[]; rowCount?: number | null; affectedRows?: number }>
}

/** mysql2/promise: Connection, PoolConnection, Pool. */
interface MysqlLike {
  execute(sql: string, parameters?: unknown[]): Promise<[object | object[], unknown]>
}

/** node:sqlite: DatabaseSync. better-sqlite3 has the same shape. */
export interface SqliteLike {
  prepare(sql: string): {
    all(...parameters: unknown[]): unknown[]
    run(...parameters: unknown[]): { changes: number | bigint }
  }
  exec(sql: string): unknown
}

/** What can be made a session: see the head of this file. */
export type SessionLike = SqlSession | PgLike | MysqlLike | SqliteLike

/** Throws `INVALID_ARGUMENT` for what is none of them. */
export function sessionOf(given: SessionLike): SqlSession {
  if (isSession(given)) return given
  if (isSqlite(given)) return sqliteSession(given)
  if (isMysql(given)) return mysqlSession(given)
  if (isPg(given)) return pgSession(given)
  throw new SluiceError(
    'INVALID_ARGUMENT',
    'this is no database that sluice knows: give a client of pg, mysql2/promise, node:sqlite or PGlite, or { dialect, query }',
  )
}

const has = (given: unknown, ...names: readonly string[]): boolean =>
  typeof given === 'object' &&
  given !== null &&
  names.every(name => typeof (given as Record<string, unknown>)[name] === 'function')

const isSession = (given: unknown): given is SqlSession =>
  has(given, 'query') && typeof (given as SqlSession).dialect === 'string'

export const isSqlite = (given: unknown): given is SqliteLike =>
  has(given, 'prepare', 'exec') && !has(given, 'query')

export const isMysql = (given: unknown): given is MysqlLike => has(given, 'execute', 'query')

export const isPg = (given: unknown): given is PgLike => has(given, 'query')

/** A pool: each query may get another connection, so none of them is part of a transaction. */
export const isPool = (given: unknown): boolean =>
  has(given, 'getConnection') ||
  has(given, 'hold') ||
  (has(given, 'connect', 'query') && 'totalCount' in (given as object))

function pgSession(client: PgLike): SqlSession {
  return {
    dialect: 'postgres',
    async query(sql, parameters = []) {
      const { rows, rowCount, affectedRows } = await client.query(numbered(sql), parameters.map(pgValue))
      return { rows: rows as SqlResult['rows'], count: rowCount ?? affectedRows ?? 0 }
    },
  }
}

/** pg takes Buffers for bytes; PGlite takes them as well. */
const pgValue = (value: SqlValue): unknown =>
  value instanceof Uint8Array && !Buffer.isBuffer(value)
    ? Buffer.from(value.buffer, value.byteOffset, value.byteLength)
    : value

const numberedTexts = new Map<string, string>()
/** Texts are few: they are ours. */
const NUMBERED_TEXTS_MAX = 1_000

/** `?` as `$1`, `$2`, … */
function numbered(sql: string): string {
  const known = numberedTexts.get(sql)
  if (known !== undefined) return known
  let count = 0
  const text = sql.replaceAll('?', () => `$${++count}`)
  if (numberedTexts.size < NUMBERED_TEXTS_MAX) numberedTexts.set(sql, text)
  return text
}

function mysqlSession(connection: MysqlLike): SqlSession {
  return {
    dialect: 'mysql',
    async query(sql, parameters = []) {
      const [result] = await connection.execute(sql, parameters.map(mysqlValue))
      if (Array.isArray(result)) return { rows: result as SqlResult['rows'], count: result.length }
      return { rows: [], count: (result as { affectedRows?: number }).affectedRows ?? 0 }
    },
  }
}

/** mysql2 sends numbers as doubles when it prepares, which LIMIT does not take; as text they fit everywhere. */
const mysqlValue = (value: SqlValue): unknown =>
  typeof value === 'number' ? String(value) : value instanceof Uint8Array ? Buffer.from(value) : value

function sqliteSession(database: SqliteLike): SqlSession {
  return {
    dialect: 'sqlite',
    async query(sql, parameters = []) {
      const statement = database.prepare(sql)
      if (/^\s*(select|with|pragma)\b|\breturning\b/i.test(sql)) {
        const rows = statement.all(...parameters) as SqlResult['rows']
        return { rows, count: rows.length }
      }
      return { rows: [], count: Number(statement.run(...parameters).changes) }
    },
  }
}

/** What a driver gives for a column of bytes, whatever it gives it as. */
export function bytesOf(value: unknown): Buffer | null {
  if (value === null || value === undefined) return null
  if (Buffer.isBuffer(value)) return value
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return Buffer.from(String(value))
}

/** What a driver gives for a whole number: some give text or bigints, because theirs may be larger than ours. */
export function numberOf(value: unknown): number {
  const number = Number(value)
  if (Number.isSafeInteger(number)) return number
  throw new SluiceError(
    'DATABASE_FAILED',
    `the database gave ${String(value)} where a whole number was stored`,
  )
}
