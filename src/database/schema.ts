/**
 * The tables that sluice keeps in the user's database, as migrations: each is applied once, in order, and never changed after a release. Which
 * ones have been is in `sluice_migrations`. `sluice outbox migrate --print` shows the statements for those who apply them themselves.
 *
 * Times are milliseconds since the Unix epoch. Ids and scopes are compared byte by byte.
 */

import { SluiceError } from '../errors.ts'
import { inTransaction, type SqlDatabase } from './database.ts'
import { type Dialect, numberOf } from './session.ts'

interface Types {
  readonly id: string
  /** A name of up to 249 characters, compared byte by byte. */
  readonly name: string
  readonly bytes: string
  readonly text: string
  readonly bigint: string
  readonly int: string
  readonly options: string
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
  },
  mysql: {
    id: 'bigint NOT NULL AUTO_INCREMENT PRIMARY KEY',
    name: 'varchar(249) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin',
    bytes: 'longblob',
    text: 'text CHARACTER SET utf8mb4',
    bigint: 'bigint',
    int: 'int',
    options: ' ENGINE=InnoDB',
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
  },
}

/** Shards of an outbox: so many relays can share it, and so many transactional producers publish. */
export const OUTBOX_SHARDS = 8

/** Each is a list of statements. What was released is never changed, only added to. */
const migrations: readonly ((type: Types) => readonly string[])[] = [
  ({ id, name, bytes, bigint, int, text, options }) => [
    `CREATE TABLE sluice_outbox (id ${id}, outbox ${name} NOT NULL, shard ${int} NOT NULL, topic ${name} NOT NULL, partition_number ${int}, record_key ${bytes}, record_value ${bytes}, extras ${bytes}, created_at ${bigint} NOT NULL, failed_at ${bigint}, error_text ${text})${options}`,
    'CREATE INDEX sluice_outbox_by_shard ON sluice_outbox (outbox, shard, id)',
    `CREATE TABLE sluice_outbox_shards (outbox ${name} NOT NULL, shard ${int} NOT NULL, holder ${name}, held_until ${bigint} NOT NULL, PRIMARY KEY (outbox, shard))${options}`,
    `CREATE TABLE sluice_outbox_relays (outbox ${name} NOT NULL, relay ${name} NOT NULL, alive_until ${bigint} NOT NULL, PRIMARY KEY (outbox, relay))${options}`,
    `CREATE TABLE sluice_inbox (group_name ${name} NOT NULL, topic ${name} NOT NULL, partition_number ${int} NOT NULL, next_offset ${bigint} NOT NULL, PRIMARY KEY (group_name, topic, partition_number))${options}`,
    `CREATE TABLE sluice_processed (scope ${name} NOT NULL, id ${name} NOT NULL, claim ${name}, expires_at ${bigint} NOT NULL, PRIMARY KEY (scope, id))${options}`,
    'CREATE INDEX sluice_processed_by_expiry ON sluice_processed (expires_at)',
  ],
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
    if (database.dialect === 'mysql') await transaction.query("SELECT GET_LOCK('sluice_migrations', 60)")
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

const newer = (version: number): SluiceError =>
  new SluiceError(
    'UNSUPPORTED',
    `the database has tables of a newer sluice (version ${version}, this one knows ${migrations.length}); upgrade sluice`,
    { version },
  )
