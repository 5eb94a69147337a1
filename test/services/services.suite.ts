/** That the databases which other tests stand on are real, and survive being killed. */

import { Redis } from 'ioredis'
import { createConnection } from 'mysql2/promise'
import pg from 'pg'
import { expect, test } from 'vitest'
import { startMariadb, startPostgres, startRedis } from './services.ts'

test('PostgreSQL keeps what was committed when it is killed', async () => {
  await using postgres = await startPostgres()
  const before = new pg.Client(postgres.connection)
  before.on('error', () => {})
  await before.connect()
  await before.query('CREATE TABLE t (a int)')
  await before.query('INSERT INTO t VALUES (1)')
  await postgres.kill()
  await postgres.start()
  const after = new pg.Client(postgres.connection)
  await after.connect()
  expect((await after.query('SELECT a FROM t')).rows).toEqual([{ a: 1 }])
  await after.end()
})

test('MariaDB keeps what was committed when it is killed', async () => {
  await using mariadb = await startMariadb()
  const before = await createConnection(mariadb.connection)
  before.on('error', () => {})
  await before.query('CREATE TABLE t (a int)')
  await before.query('INSERT INTO t VALUES (1)')
  await mariadb.kill()
  await mariadb.start()
  const after = await createConnection(mariadb.connection)
  expect((await after.query('SELECT a FROM t'))[0]).toEqual([{ a: 1 }])
  await after.end()
})

test('Redis keeps what was written when it is killed', async () => {
  await using service = await startRedis({ appendonly: 'yes', appendfsync: 'always' })
  const before = new Redis(service.connection.port, { retryStrategy: () => null })
  before.on('error', () => {})
  await before.set('a', '1')
  await service.kill()
  before.disconnect()
  await service.start()
  const after = new Redis(service.connection.port)
  expect(await after.get('a')).toBe('1')
  after.disconnect()
})
