/** Examples that need a server. */

import { join } from 'node:path'
import { expect, test } from 'vitest'
import { outcomeOf, PublishedPackage } from '../docs/published-package.ts'
import { startPostgres, startRedis } from './services.ts'

test('idempotent-redis.ts: each mail is sent once', async () => {
  await using redis = await startRedis()
  using sluice = await PublishedPackage.install()
  sluice.copy('examples')
  const program = join(sluice.path, 'examples/idempotent-redis.ts')
  const url = `redis://127.0.0.1:${redis.connection.port}`
  const child = sluice.start('env', [`REDIS_URL=${url}`, process.execPath, program])
  const { code, stdout, stderr } = await outcomeOf(child)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(stdout).toBe('sent 50 mails, 50 different ones\nskipped 50 duplicates\n')
})

test('outbox-postgresql.ts on a server', async () => {
  await using postgres = await startPostgres()
  using sluice = await PublishedPackage.install()
  sluice.copy('examples')
  const { host, port, user, database } = postgres.connection
  const url = `postgres://${user}@${host}:${port}/${database}`
  const program = join(sluice.path, 'examples/outbox-postgresql.ts')
  const child = sluice.start('env', [`DATABASE_URL=${url}`, process.execPath, program])
  const { code, stdout, stderr } = await outcomeOf(child)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(stdout).toContain('3 messages wait in the outbox')
  expect(stdout).toContain('ann {"id":"o4","cents":499}')
})
