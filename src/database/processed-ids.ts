/**
 * Idempotent consumption: a store of the ids that have been handled.
 *
 *     claim(id) ──▶ new: it is ours until the lease is over ──▶ handler ──▶ done: remembered until it expires
 *               ├─▶ done: somebody has handled it                └─ failed ──▶ released: the next attempt claims it
 *               └─▶ claimed: somebody is at it now
 *
 * Checking and marking are one atomic step in each store, so of any number of claims of one id one wins. What a crash does: before the claim,
 * nothing has happened; between claim and done, the claim is over with its lease, and the message is handled again, though the handler may have
 * finished its work: at least once. Who cannot have that hands the mark to the transaction of the handler's own work, `claim.done(tx)`, and has
 * both or none; or uses the inbox.
 */

import { randomUUID } from 'node:crypto'
import { within } from '../delivery/option.ts'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { type DatabaseLike, databaseOf, type SqlDatabase } from './database.ts'
import { numberOf, type SessionLike, type SqlSession, sessionOf } from './session.ts'

/** An id that is ours to handle. */
export interface Claim {
  /**
   * It has been handled. With `transaction` (SQL stores only), the mark is part of it. Throws `LEASE_EXPIRED` if the lease was over and
   * somebody else has the id, or had it.
   */
  done(transaction?: SessionLike): Promise<void>
  /** It has not been handled; who comes next may. */
  release(): Promise<void>
}

export interface ProcessedIds {
  /** A `Claim`, or why there is none. Throws `DATABASE_FAILED`. */
  claim(id: string): Promise<Claim | 'done' | 'claimed'>
}

export interface ProcessedIdsOptions {
  /** What the ids are ids of, usually a group: the same id in another scope is another. Default 'default'. */
  readonly scope?: string
  /** How long a handled id is remembered. Default 7 days. */
  readonly keepMs?: number
  /** How long a claim holds without being marked done: longer than any handler takes. Default 60,000. */
  readonly leaseMs?: number
  /** @internal For tests. */
  readonly clock?: Clock
}

const KEEP_MS = 7 * 86_400_000
const LEASE_MS = 60_000

interface Settings {
  readonly scope: string
  readonly keepMs: number
  readonly leaseMs: number
  readonly clock: Clock
}

const settingsOf = (options: ProcessedIdsOptions): Settings => ({
  scope: options.scope ?? 'default',
  keepMs: within('keepMs', options.keepMs ?? KEEP_MS, 1),
  leaseMs: within('leaseMs', options.leaseMs ?? LEASE_MS, 1),
  clock: options.clock ?? systemClock,
})

/**
 * Ids in the memory of this process: for one process, and gone with it. `idsMax` (default 1,000,000): past it the ids that expire first are
 * forgotten. Throws `INVALID_ARGUMENT`.
 */
export function memoryProcessedIds(
  options: ProcessedIdsOptions & { readonly idsMax?: number } = {},
): ProcessedIds {
  const { keepMs, leaseMs, clock } = settingsOf(options)
  const idsMax = within('idsMax', options.idsMax ?? 1_000_000, 1)
  /** `claim`: null once done. Done ones lie in the order in which they expire. */
  const done = new Map<string, number>()
  const claims = new Map<string, { expiresAt: number }>()

  const forgetExpired = (now: number): void => {
    for (const [id, expiresAt] of done) {
      if (expiresAt > now && done.size <= idsMax) return
      done.delete(id)
    }
  }
  return {
    async claim(id) {
      const now = clock.now()
      forgetExpired(now)
      if (done.has(id)) return 'done'
      if ((claims.get(id)?.expiresAt ?? 0) > now) return 'claimed'
      const claim = { expiresAt: now + leaseMs }
      claims.set(id, claim)
      return {
        async done(transaction) {
          if (transaction !== undefined) throw noTransaction('memory')
          if (claims.get(id) !== claim) throw leaseExpired(id)
          claims.delete(id)
          done.delete(id)
          done.set(id, clock.now() + keepMs)
        },
        async release() {
          if (claims.get(id) === claim) claims.delete(id)
        },
      }
    },
  }
}

/** ioredis, or what has these of its commands. */
export interface RedisLike {
  set(key: string, value: string, px: 'PX', ms: number, nx: 'NX'): Promise<string | null>
  get(key: string): Promise<string | null>
  eval(script: string, keys: number, ...parameters: (string | number)[]): Promise<unknown>
}

const REDIS_DONE = 'done'
const redisMark =
  "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1 end return 0"
const redisRelease =
  "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

/**
 * Ids in Redis (ioredis): for any number of processes; as durable as the server is configured. `prefix`: of its keys, default 'sluice:processed:'.
 * Throws `INVALID_ARGUMENT`.
 */
export function redisProcessedIds(
  redis: RedisLike,
  options: ProcessedIdsOptions & { readonly prefix?: string } = {},
): ProcessedIds {
  const { scope, keepMs, leaseMs } = settingsOf(options)
  const prefix = `${options.prefix ?? 'sluice:processed:'}${scope}:`
  return {
    async claim(id) {
      const key = prefix + id
      const token = randomUUID()
      for (;;) {
        const isOurs = (await failing(() => redis.set(key, token, 'PX', leaseMs, 'NX'))) === 'OK'
        if (isOurs) break
        const value = await failing(() => redis.get(key))
        if (value !== null) return value === REDIS_DONE ? 'done' : 'claimed'
        // it has expired between the two: once more
      }
      return {
        async done(transaction) {
          if (transaction !== undefined) throw noTransaction('Redis')
          const marked = await failing(() => redis.eval(redisMark, 1, key, token, REDIS_DONE, keepMs))
          if (Number(marked) !== 1) throw leaseExpired(id)
        },
        async release() {
          await failing(() => redis.eval(redisRelease, 1, key, token))
        },
      }
    },
  }
}

/** Expired rows that are deleted at once. */
const EXPIRED_ROWS_MAX = 1_000

/**
 * Ids in the table `sluice_processed` of PostgreSQL, MySQL, MariaDB or SQLite (`sluice outbox migrate` makes it): for any number of processes. Ids have at most 249
 * characters. Rows that have expired are deleted every so often. Times are those of the processes: keep their clocks in step, or leases long.
 */
export function sqlProcessedIds(given: DatabaseLike, options: ProcessedIdsOptions = {}): ProcessedIds {
  const database = databaseOf(given)
  const { scope, keepMs, leaseMs, clock } = settingsOf(options)
  let sweepAt = clock.now() + leaseMs

  const sweep = (now: number): void => {
    if (now < sweepAt) return
    sweepAt = now + leaseMs
    // who claims does not wait for it, and the next one tries again
    sweepProcessed(database, now).catch(() => {})
  }
  return {
    async claim(id) {
      const now = clock.now()
      sweep(now)
      const token = randomUUID()
      if (!(await takeRow(database, scope, id, token, now, leaseMs))) {
        const { rows } = await database.query(
          'SELECT claim, expires_at FROM sluice_processed WHERE scope = ? AND id = ?',
          [scope, id],
        )
        if (rows.length === 0) return 'claimed' // deleted between the two: whoever asks again will get it
        return rows[0].claim === null && numberOf(rows[0].expires_at) > now ? 'done' : 'claimed'
      }
      const place = [scope, id, token]
      return {
        async done(transaction) {
          const session: SqlSession = transaction === undefined ? database : sessionOf(transaction)
          const { count } = await session.query(
            'UPDATE sluice_processed SET claim = NULL, expires_at = ? WHERE scope = ? AND id = ? AND claim = ?',
            [clock.now() + keepMs, ...place],
          )
          if (count !== 1) throw leaseExpired(id)
        },
        async release() {
          await database.query('DELETE FROM sluice_processed WHERE scope = ? AND id = ? AND claim = ?', place)
        },
      }
    },
  }
}

/** One statement decides: a row that is not there is made, one that has expired is taken over, any other is left. */
async function takeRow(
  database: SqlDatabase,
  scope: string,
  id: string,
  token: string,
  now: number,
  leaseMs: number,
): Promise<boolean> {
  const row = [scope, id, token, now + leaseMs]
  const insert = 'INTO sluice_processed (scope, id, claim, expires_at) VALUES (?, ?, ?, ?)'
  if (database.dialect !== 'mysql') {
    const taken = await database.query(
      `INSERT ${insert} ON CONFLICT (scope, id) DO UPDATE SET claim = EXCLUDED.claim, expires_at = EXCLUDED.expires_at WHERE sluice_processed.expires_at <= ?`,
      [...row, now],
    )
    return taken.count === 1
  }
  if ((await database.query(`INSERT IGNORE ${insert}`, row)).count === 1) return true
  const taken = await database.query(
    'UPDATE sluice_processed SET claim = ?, expires_at = ? WHERE scope = ? AND id = ? AND expires_at <= ?',
    [token, now + leaseMs, scope, id, now],
  )
  return taken.count === 1
}

/** Deletes rows that have expired, no more than are quickly deleted. */
export async function sweepProcessed(database: SqlDatabase, now: number): Promise<void> {
  const row = database.dialect === 'postgres' ? 'ctid' : 'rowid'
  const expired = `expires_at <= ? LIMIT ${EXPIRED_ROWS_MAX}`
  const statement =
    database.dialect === 'mysql'
      ? `DELETE FROM sluice_processed WHERE ${expired}`
      : `DELETE FROM sluice_processed WHERE ${row} IN (SELECT ${row} FROM sluice_processed WHERE ${expired})`
  await database.query(statement, [now])
}

/** Redis' drivers tell of a server that is away in many ways, and all of them pass. */
async function failing<R>(call: () => Promise<R>): Promise<R> {
  try {
    return await call()
  } catch (error) {
    throw new SluiceError(
      'DATABASE_FAILED',
      `Redis failed: ${error instanceof Error ? error.message : String(error)}`,
      {},
      error,
    )
  }
}

const leaseExpired = (id: string): SluiceError =>
  new SluiceError(
    'LEASE_EXPIRED',
    `${id}: it took longer than the lease, and somebody else may have handled it, too; raise leaseMs`,
    { id },
  )

const noTransaction = (store: string): SluiceError =>
  new SluiceError(
    'INVALID_ARGUMENT',
    `ids in ${store} cannot be marked in a transaction of a database; use sqlProcessedIds`,
  )
