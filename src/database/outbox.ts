/**
 * The outbox, as the application sees it: messages that are rows of the application's own transaction, and so are there exactly if it committed. A
 * relay (`outbox-relay.ts`) publishes them.
 *
 *     await client.query('BEGIN')
 *     await client.query('INSERT INTO orders …')
 *     await outbox(client).publish('orders', { key: order.id, value: order })
 *     await client.query('COMMIT')
 *
 * A row knows its shard: the hash of topic and key. Rows of one shard are published in the order of their ids, so messages of a key keep the order in which
 * they were inserted. (Two transactions that insert messages of one key at the same time have no order but that of their inserts; where it
 * matters they meet at a row of yours before.)
 */

import { encodeCopy, type OutgoingOf } from '../delivery/outgoing.ts'
import { partitionOfKey } from '../delivery/partitioner.ts'
import { type AnyTopic, topicOf } from '../delivery/topic.ts'
import { SluiceError } from '../errors.ts'
import type { Header } from '../record/builder.ts'
import { type DatabaseLike, databaseOf } from './database.ts'
import { OUTBOX_SHARDS } from './schema.ts'
import {
  bytesOf,
  isPool,
  numberOf,
  type SessionLike,
  type SqlSession,
  type SqlValue,
  sessionOf,
} from './session.ts'

export interface OutboxOptions {
  /** Several outboxes may share the tables, each with relays of its own. Default 'default'. */
  readonly name?: string
  /**
   * Wakes the relay with the commit (PostgreSQL's NOTIFY). False: the relay finds the message when it looks the next time. Default true.
   */
  readonly notify?: boolean
}

/** Rows of one statement. */
const INSERT_ROWS_MAX = 200
const NAME = /^[a-zA-Z0-9._-]{1,100}$/

export interface Outbox {
  /**
   * Inserts a message, or an array of them, in the transaction. Resolves when they are inserted. Rejects as `Producer.send` does for a message that cannot be
   * encoded; else as the driver does.
   */
  publish<T extends AnyTopic | string>(
    topic: T,
    messages: OutgoingOf<T> | readonly OutgoingOf<T>[],
  ): Promise<void>
}

/**
 * The outbox in a transaction of yours: a pg client, a mysql2 connection, a PGlite transaction, a node:sqlite database, or `{ dialect, query }` around anything else. Throws
 * `INVALID_ARGUMENT`.
 */
export function outbox(transaction: SessionLike, options: OutboxOptions = {}): Outbox {
  if (isPool(transaction)) {
    throw new SluiceError(
      'INVALID_ARGUMENT',
      'this is a pool: give the client on which the transaction was begun, or the message would not be part of it',
    )
  }
  const session = sessionOf(transaction)
  const name = checkedName(options.name)
  const notify = options.notify ?? true
  return {
    async publish(target, messages) {
      const topic = topicOf(target)
      const list = Array.isArray(messages) ? (messages as readonly unknown[]) : [messages]
      const now = Date.now()
      const rows = list.map(message => rowOf(name, topic, message as never, now))
      for (let at = 0; at < rows.length; at += INSERT_ROWS_MAX)
        await insert(session, rows.slice(at, at + INSERT_ROWS_MAX))
      if (notify && session.dialect === 'postgres' && rows.length > 0) {
        await session.query('SELECT pg_notify(?, ?)', [channelOf(name), ''])
      }
    },
  }
}

/** PostgreSQL's channel of an outbox. */
export const channelOf = (name: string): string =>
  `sluice_outbox_${name.toLowerCase().replaceAll(/[^a-z0-9]/g, '_')}`

export function checkedName(name = 'default'): string {
  if (NAME.test(name)) return name
  throw new SluiceError(
    'INVALID_ARGUMENT',
    `the name of an outbox has 1 to 100 characters from a-z A-Z 0-9 . _ -, not "${name}"`,
  )
}

const columns = [
  'outbox',
  'shard',
  'topic',
  'partition_number',
  'record_key',
  'record_value',
  'extras',
  'created_at',
]

async function insert(session: SqlSession, rows: readonly (readonly SqlValue[])[]): Promise<void> {
  const row = `(${columns.map(() => '?').join(', ')})`
  const values = rows.map(() => row).join(', ')
  await session.query(`INSERT INTO sluice_outbox (${columns.join(', ')}) VALUES ${values}`, rows.flat())
}

function rowOf(name: string, topic: AnyTopic, message: never, now: number): SqlValue[] {
  const { key, value, headers, timestamp, partition, deliverAt, delayId } = encodeCopy(topic, message, now)
  const keyBytes = key === null ? null : Buffer.from(key as string)
  const shard =
    keyBytes === null
      ? anyShard()
      : partitionOfKey(Buffer.concat([Buffer.from(`${topic.name}\0`), keyBytes]), OUTBOX_SHARDS)
  const extras = extrasText({ headers: headers ?? [], timestamp, deliverAt, delayId })
  const valueBytes = value === null ? null : Buffer.from(value as string)
  return [name, shard, topic.name, partition ?? null, keyBytes, valueBytes, Buffer.from(extras), now]
}

let lastShard = 0
/** Messages without a key have no order among each other. */
const anyShard = (): number => (lastShard = (lastShard + 1) % OUTBOX_SHARDS)

interface Extras {
  readonly headers: readonly Header[]
  readonly timestamp?: number
  readonly deliverAt?: number
  readonly delayId?: string
}

/** Headers are bytes: base64. */
function extrasText({ headers, ...others }: Extras): string {
  const pairs = headers.map(([name, value]) => [
    name,
    value === null ? null : Buffer.from(value as string).toString('base64'),
  ])
  return JSON.stringify({ ...others, headers: pairs })
}

/** A row, as it is to be published. */
export interface OutboxRow extends Extras {
  readonly id: number
  readonly topic: string
  readonly partition: number | undefined
  readonly key: Buffer | null
  readonly value: Buffer | null
}

export const outboxColumns = 'id, topic, partition_number, record_key, record_value, extras'

export function readRow(row: Readonly<Record<string, unknown>>): OutboxRow {
  const { headers, ...others } = JSON.parse((bytesOf(row.extras) ?? '{"headers":[]}').toString()) as Omit<
    Extras,
    'headers'
  > & {
    headers: [string, string | null][]
  }
  return {
    ...others,
    headers: headers.map(([name, value]) => [name, value === null ? null : Buffer.from(value, 'base64')]),
    id: numberOf(row.id),
    topic: String(row.topic),
    partition: row.partition_number === null ? undefined : numberOf(row.partition_number),
    key: bytesOf(row.record_key),
    value: bytesOf(row.record_value),
  }
}

export interface OutboxStatus {
  readonly outbox: string
  /** Rows that are to be published. */
  readonly pending: number
  /** Rows that were refused for good; see `requeue` and `clean`. */
  readonly failed: number
  /** Age of the oldest pending row in milliseconds; 0 without any. */
  readonly oldestMs: number
  /** Relays that are at work, and how many shards each has. */
  readonly relays: readonly { readonly relay: string; readonly shards: number }[]
}

export interface FailedRow {
  readonly id: number
  readonly topic: string
  /** Milliseconds since the Unix epoch. */
  readonly failedAt: number
  readonly error: string
}

/** Looking after the outboxes of a database. */
export class OutboxAdmin {
  readonly #session: SqlSession
  readonly #now: () => number

  /** Throws `INVALID_ARGUMENT`. */
  constructor(database: DatabaseLike, now: () => number = Date.now) {
    this.#session = databaseOf(database)
    this.#now = now
  }

  /** Every outbox that has rows or relays. */
  async status(): Promise<OutboxStatus[]> {
    const now = this.#now()
    const names = await this.#session.query(
      'SELECT outbox FROM sluice_outbox UNION SELECT outbox FROM sluice_outbox_relays UNION SELECT outbox FROM sluice_outbox_shards',
    )
    const statuses: OutboxStatus[] = []
    for (const { outbox } of names.rows) statuses.push(await this.#statusOf(String(outbox), now))
    return statuses.toSorted((one, other) => (one.outbox < other.outbox ? -1 : 1))
  }

  /** Rows that were refused, oldest first, at most `limit` (default 100). */
  async failed(name: string, limit = 100): Promise<FailedRow[]> {
    const { rows } = await this.#session.query(
      'SELECT id, topic, failed_at, error_text FROM sluice_outbox WHERE outbox = ? AND failed_at IS NOT NULL ORDER BY id LIMIT ?',
      [name, limit],
    )
    return rows.map(row => ({
      id: numberOf(row.id),
      topic: String(row.topic),
      failedAt: numberOf(row.failed_at),
      error: String(row.error_text),
    }))
  }

  /** Rows that were refused are to be published again. Resolves with how many there were. */
  async requeue(name: string): Promise<number> {
    const { count } = await this.#session.query(
      'UPDATE sluice_outbox SET failed_at = NULL, error_text = NULL WHERE outbox = ? AND failed_at IS NOT NULL',
      [name],
    )
    return count
  }

  /** Deletes rows that were refused longer ago than `olderThanMs`. Resolves with how many there were. */
  async clean(name: string, olderThanMs = 0): Promise<number> {
    const { count } = await this.#session.query(
      'DELETE FROM sluice_outbox WHERE outbox = ? AND failed_at IS NOT NULL AND failed_at <= ?',
      [name, this.#now() - olderThanMs],
    )
    return count
  }

  async #statusOf(name: string, now: number): Promise<OutboxStatus> {
    const one = async (sql: string): Promise<Readonly<Record<string, unknown>>> =>
      (await this.#session.query(sql, [name])).rows[0]
    const pending = await one(
      'SELECT COUNT(*) AS rows_count, MIN(created_at) AS oldest FROM sluice_outbox WHERE outbox = ? AND failed_at IS NULL',
    )
    const failed = await one(
      'SELECT COUNT(*) AS rows_count FROM sluice_outbox WHERE outbox = ? AND failed_at IS NOT NULL',
    )
    const { rows } = await this.#session.query(
      'SELECT holder, COUNT(*) AS shards FROM sluice_outbox_shards WHERE outbox = ? AND holder IS NOT NULL AND held_until > ? GROUP BY holder ORDER BY holder',
      [name, now],
    )
    return {
      outbox: name,
      pending: numberOf(pending.rows_count),
      failed: numberOf(failed.rows_count),
      oldestMs: pending.oldest === null ? 0 : Math.max(0, now - numberOf(pending.oldest)),
      relays: rows.map(({ holder, shards }) => ({ relay: String(holder), shards: numberOf(shards) })),
    }
  }
}
