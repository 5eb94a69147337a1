/**
 * The tables that sluice keeps in the user's database, as migrations: each is applied once, in order, and never changed after a release. Which
 * ones have been is in `sluice_migrations`. `sluice outbox migrate --print` shows the statements for those who apply them themselves.
 *
 * Times are milliseconds since the Unix epoch. Ids and scopes are compared byte by byte.
 */

import { SluiceError } from '../errors.ts'
import { inTransaction, type SqlDatabase } from './database.ts'
import { type Dialect, numberOf, type SqlSession } from './session.ts'

interface Types {
  readonly id: string
  /** A name of up to 249 characters, compared byte by byte. */
  readonly name: string
  readonly bytes: string
  readonly text: string
  readonly bigint: string
  readonly int: string
  readonly options: string
  readonly hasInlineIndexes: boolean
}

const types: Readonly<Record<Dialect, Types>> = {
  postgres: {
    id: 'bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
    name: 'varchar(249) COLLATE "C"',
    bytes: 'bytea',
    text: 'text',
    bigint: 'bigint',
    int: 'integer',
    options: '',
    hasInlineIndexes: false,
  },
  mysql: {
    id: 'bigint NOT NULL AUTO_INCREMENT PRIMARY KEY',
    name: 'varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin',
    bytes: 'longblob',
    text: 'text CHARACTER SET utf8mb4',
    bigint: 'bigint',
    int: 'int',
    options: ' ENGINE=InnoDB',
    hasInlineIndexes: true,
  },
  sqlite: {
    // AUTOINCREMENT: an id is never used again, also when the last row has been deleted
    id: 'integer PRIMARY KEY AUTOINCREMENT',
    name: 'text',
    bytes: 'blob',
    text: 'text',
    bigint: 'integer',
    int: 'integer',
    options: '',
    hasInlineIndexes: false,
  },
}

/** How long to wait for another process that makes the tables. */
const LOCK_SECONDS = 60

/** Shards of an outbox: so many relays can share it, and so many transactional producers publish. */
export const OUTBOX_SHARDS = 8

/**
 * A table with an index. MySQL has no `CREATE INDEX IF NOT EXISTS`, but takes the index with the table; the others are the other way round.
 */
function indexed(type: Types, table: string, columns: string, index: string, indexColumns: string): string[] {
  const create = (inside: string): string =>
    `CREATE TABLE IF NOT EXISTS ${table} (${columns}${inside})${type.options}`
  if (type.hasInlineIndexes) return [create(`, KEY ${index} (${indexColumns})`)]
  return [create(''), `CREATE INDEX IF NOT EXISTS ${index} ON ${table} (${indexColumns})`]
}

/**
 * Each is a list of statements. What was released is never changed, only added to. Each statement may be run again: in MySQL a table that
 * was made stays when the migration fails further on.
 */
const migrations: readonly ((type: Types) => readonly string[])[] = [
  type => {
    const { id, name, bytes, bigint, int, text, options } = type
    return [
      ...indexed(
        type,
        'sluice_outbox',
        `id ${id}, outbox ${name} NOT NULL, shard ${int} NOT NULL, topic ${name} NOT NULL, partition_number ${int}, record_key ${bytes}, record_value ${bytes}, extras ${bytes}, created_at ${bigint} NOT NULL, failed_at ${bigint}, error_text ${text}`,
        'sluice_outbox_by_shard',
        'outbox, shard, id',
      ),
      `CREATE TABLE IF NOT EXISTS sluice_outbox_shards (outbox ${name} NOT NULL, shard ${int} NOT NULL, holder ${name}, held_until ${bigint} NOT NULL, PRIMARY KEY (outbox, shard))${options}`,
      `CREATE TABLE IF NOT EXISTS sluice_outbox_relays (outbox ${name} NOT NULL, relay ${name} NOT NULL, alive_until ${bigint} NOT NULL, PRIMARY KEY (outbox, relay))${options}`,
      `CREATE TABLE IF NOT EXISTS sluice_inbox (group_name ${name} NOT NULL, topic ${name} NOT NULL, partition_number ${int} NOT NULL, next_offset ${bigint} NOT NULL, PRIMARY KEY (group_name, topic, partition_number))${options}`,
      ...indexed(
        type,
        'sluice_processed',
        `scope ${name} NOT NULL, id ${name} NOT NULL, claim ${name}, expires_at ${bigint} NOT NULL, PRIMARY KEY (scope, id)`,
        'sluice_processed_by_expiry',
        'expires_at',
      ),
    ]
  },
]

const versionTable = ({ int, bigint, options }: Types): string =>
  `CREATE TABLE IF NOT EXISTS sluice_migrations (version ${int} NOT NULL PRIMARY KEY, applied_at ${bigint} NOT NULL)${options}`

/** The statements of all migrations after `version` (default: of all there are). */
export function migrationStatements(dialect: Dialect, version = 0): string[] {
  const type = types[dialect]
  const now = Date.now()
  return migrations
    .slice(version)
    .flatMap((migration, index) => [
      ...(version + index === 0 ? [versionTable(type)] : []),
      ...migration(type),
      `INSERT INTO sluice_migrations (version, applied_at) VALUES (${version + index + 1}, ${now})`,
    ])
}

/**
 * Makes the tables, or brings them up to this version of sluice. Doing it again does nothing, and several may do it at once. Resolves with the
 * number of migrations that were applied.
 */
export async function migrate(database: SqlDatabase): Promise<number> {
  const type = types[database.dialect]
  return await inTransaction(database, async transaction => {
    if (database.dialect === 'postgres') await transaction.query('SELECT pg_advisory_xact_lock(7355608)')
    if (database.dialect === 'mysql') await lockMysql(transaction)
    try {
      await transaction.query(versionTable(type))
      const { rows } = await transaction.query('SELECT MAX(version) AS version FROM sluice_migrations')
      const version = numberOf(rows[0]?.version ?? 0)
      if (version > migrations.length) throw newer(version)
      for (const statement of migrationStatements(database.dialect, version))
        await transaction.query(statement)
      return migrations.length - version
    } finally {
      if (database.dialect === 'mysql') await transaction.query("SELECT RELEASE_LOCK('sluice_migrations')")
    }
  })
}

/** Statements that make tables end a transaction of MySQL, so it is a lock of the connection that keeps others out. */
async function lockMysql(transaction: SqlSession): Promise<void> {
  const { rows } = await transaction.query(`SELECT GET_LOCK('sluice_migrations', ${LOCK_SECONDS}) AS is_held`)
  if (numberOf(rows[0].is_held ?? 0) === 1) return
  throw new SluiceError(
    'TIMED_OUT',
    `another process has held the lock 'sluice_migrations' for ${LOCK_SECONDS} s; try again once it is done`,
    { seconds: LOCK_SECONDS },
  )
}

const newer = (version: number): SluiceError =>
  new SluiceError(
    'UNSUPPORTED',
    `the database has tables of a newer sluice (version ${version}, this one knows ${migrations.length}); upgrade sluice`,
    { version },
  )
