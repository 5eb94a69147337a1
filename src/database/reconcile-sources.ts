/**
 * Sources for reconciliation: what a topic holds, and what a query gives. Both are read as a stream, and can be read again.
 */

import type { MessageOf } from '../delivery/consumer-options.ts'
import type { Message } from '../delivery/message.ts'
import type { Sluice } from '../delivery/sluice.ts'
import { type AnyTopic, topicOf } from '../delivery/topic.ts'
import { scanPartition } from '../delivery/topic-scan.ts'
import { SluiceError } from '../errors.ts'
import { type DatabaseLike, databaseOf, type HeldConnection } from './database.ts'
import type { ReconcileEntry, ReconcileSource } from './reconcile.ts'
import type { SqlValue } from './session.ts'

export interface TopicSourceOptions<T extends AnyTopic | string> {
  /** Undefined: the message does not count. Default: its key as text; messages without a key do not count. */
  readonly key?: (message: MessageOf<T>) => string | undefined
  /** null deletes the key. Default: the stored bytes. */
  readonly value?: (message: MessageOf<T>) => string | Uint8Array | null
}

/**
 * The last message of each key, up to the end of the topic as it is when it is read. A key counts as deleted if its last message is a tombstone.
 * Throws `INVALID_ARGUMENT`.
 */
export function topicSource<const T extends AnyTopic | string>(
  mq: Sluice,
  topic: T,
  options: TopicSourceOptions<T> = {},
): ReconcileSource {
  const described = topicOf(topic)
  const keyOf = (options.key ?? keyText) as (message: Message<unknown, unknown>) => string | undefined
  const contentOf = (options.value ?? bytesOfValue) as (
    message: Message<unknown, unknown>,
  ) => string | Uint8Array | null
  return {
    isLog: true,
    async *[Symbol.asyncIterator](): AsyncGenerator<ReconcileEntry> {
      const { partitions } = await mq.describeTopic(described)
      for (const { partition } of partitions) {
        for await (const batch of scanPartition(mq.engine, described, { partition })) {
          for (const message of batch) {
            const key = keyOf(message)
            if (key !== undefined) yield { key, value: contentOf(message) }
          }
        }
      }
    },
  }
}

const keyText = (message: Message<unknown, unknown>): string | undefined => message.keyBytes?.toString()
const bytesOfValue = (message: Message<unknown, unknown>): Buffer | null => message.valueBytes

export interface QuerySourceOptions {
  /** One for each `?` in the query. */
  readonly parameters?: readonly SqlValue[]
  /** Rows that are fetched at a time. Default 5,000. */
  readonly pageRows?: number
}

const CURSOR = 'sluice_reconcile'

/**
 * What a query gives: its first column is the key, the others together are the value. Columns are compared as text (bytes as bytes, dates in ISO
 * form, objects as JSON); what has to look alike on both sides is cast in the query. It is one query in one connection, so it sees one
 * state of the database, and its rows come as they are needed: a cursor in PostgreSQL, a stream in MySQL and MariaDB, an iterator in SQLite.
 * Rejects with what the database refuses it with. Throws `INVALID_ARGUMENT`.
 */
export function querySource(
  given: DatabaseLike,
  sql: string,
  options: QuerySourceOptions = {},
): ReconcileSource {
  const database = databaseOf(given)
  const { parameters = [], pageRows = 5_000 } = options
  if (!(Number.isSafeInteger(pageRows) && pageRows >= 1)) {
    throw new SluiceError('INVALID_ARGUMENT', `pageRows is a whole number from 1 on, not ${pageRows}`)
  }
  return {
    async *[Symbol.asyncIterator](): AsyncGenerator<ReconcileEntry> {
      const connection = await database.hold()
      let isWhole = false
      try {
        for await (const row of rowsOf(connection, sql, parameters, pageRows)) yield entryOf(row)
        isWhole = true
      } finally {
        // a stream that was left in the middle still has rows to come
        connection.release(!isWhole && connection.dialect === 'mysql')
      }
    },
  }
}

type Row = Readonly<Record<string, unknown>>

interface Iterating {
  prepare(sql: string): { iterate(...parameters: readonly SqlValue[]): Iterable<Row> }
}

interface Streaming {
  connection: {
    query(
      sql: string,
      parameters: readonly SqlValue[],
    ): {
      stream(options: { highWaterMark: number }): AsyncIterable<Row>
    }
  }
}

function rowsOf(
  connection: HeldConnection,
  sql: string,
  parameters: readonly SqlValue[],
  pageRows: number,
): AsyncIterable<Row> | Iterable<Row> {
  const { dialect, native } = connection
  if (dialect === 'postgres') return pagesOf(connection, sql, parameters, pageRows)
  if (dialect === 'sqlite') return (native as Iterating).prepare(sql).iterate(...parameters)
  const { connection: inner } = native as Streaming
  return inner.query(sql, parameters).stream({ highWaterMark: pageRows })
}

async function* pagesOf(
  connection: HeldConnection,
  sql: string,
  parameters: readonly SqlValue[],
  pageRows: number,
): AsyncGenerator<Row> {
  await connection.query('BEGIN READ ONLY')
  try {
    await connection.query(`DECLARE ${CURSOR} NO SCROLL CURSOR FOR ${sql}`, parameters)
    for (;;) {
      const { rows } = await connection.query(`FETCH ${pageRows} FROM ${CURSOR}`)
      yield* rows
      if (rows.length < pageRows) break
    }
  } finally {
    await connection.query('ROLLBACK').catch(() => {}) // it has changed nothing
  }
}

function entryOf(row: Row): ReconcileEntry {
  const [key, ...values] = Object.values(row)
  if (key === null || key === undefined) {
    throw new SluiceError(
      'INVALID_ARGUMENT',
      'the query gave a row whose first column, the key, is NULL; leave such rows out',
    )
  }
  const value = values.length === 1 ? comparable(values[0]) : JSON.stringify(values.map(textOf))
  return { key: textOf(key) ?? '', value }
}

const comparable = (value: unknown): string | Uint8Array | null =>
  value instanceof Uint8Array ? value : textOf(value)

function textOf(value: unknown): string | null {
  if (value === null || value === undefined) return null
  if (value instanceof Date) return value.toISOString()
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64')
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}
