import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { redisProcessedIds, sqlProcessedIds } from '../../src/database/processed-ids.ts'
import { migrate } from '../../src/database/schema.ts'
import { processedIdsSuite } from '../database/processed-ids-suite.ts'
import { servedDatabases } from './databases.ts'
import { startRedis } from './services.ts'

for (const make of servedDatabases) {
  processedIdsSuite(make.name, async () => {
    const given = await make()
    await migrate(given.database)
    return {
      open: options => sqlProcessedIds(given.native, options),
      hasOwnClock: true,
      close: () => given.close(),
    }
  })
}

processedIdsSuite('redis', async () => {
  const service = await startRedis()
  const redis = new Redis(service.connection.port)
  return {
    open: options => redisProcessedIds(redis, options),
    hasOwnClock: false,
    close: async () => {
      redis.disconnect()
      await service.stop()
    },
  }
})

test('Redis that is away is an error that passes', async () => {
  const service = await startRedis()
  const redis = new Redis(service.connection.port, { maxRetriesPerRequest: 0, retryStrategy: () => 50 })
  redis.on('error', () => {})
  const store = redisProcessedIds(redis)
  await store.claim('a')
  await service.kill()
  await expect(store.claim('b')).rejects.toMatchObject({ code: 'DATABASE_FAILED', retriable: true })
  await service.start()
  await expect.poll(() => store.claim('c').catch(() => null)).toBeTypeOf('object')
  redis.disconnect()
  await service.stop()
})
