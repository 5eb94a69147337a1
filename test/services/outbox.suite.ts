import { once } from 'node:events'
import { expect, test } from 'vitest'
import { inTransaction } from '../../src/database/database.ts'
import { outbox } from '../../src/database/outbox.ts'
import { outboxRelay } from '../../src/database/outbox-relay.ts'
import { migrate } from '../../src/database/schema.ts'
import { open } from '../../src/open.ts'
import { outboxSuite } from '../database/outbox-suite.ts'
import { servedDatabases } from './databases.ts'

for (const make of servedDatabases) outboxSuite(make.name, make)

test('PostgreSQL: a relay is told of new rows again after the server was away', async () => {
  const { database, native, service, close } = await servedDatabases[0]()
  await migrate(database)
  const mq = await open('memory:')
  // so seldom that only a notification can bring it in time
  const relay = outboxRelay(mq, { database: native, pollMs: 3_600_000, leaseMs: 600 })
  relay.on('error', () => {})
  const publish = () => inTransaction(database, tx => outbox(tx).publish('orders', { key: 'k', value: 'x' }))
  await once(relay, 'shards')
  const first = once(relay, 'published')
  await publish()
  await first
  await service?.kill()
  await service?.start()
  // it listens again with one of its next heartbeats; `once` of node:events would take the errors on the way for its own
  const again = new Promise(resolve => relay.once('published', (...told) => resolve(told)))
  const timer = setInterval(() => void publish().catch(() => {}), 300)
  expect(await again).toEqual([expect.any(Number)])
  clearInterval(timer)
  await relay.stop()
  await mq.close()
  await close()
})
