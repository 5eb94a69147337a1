import { expect, test } from 'vitest'
import { inTransaction } from '../../src/database/database.ts'
import { memoryProcessedIds, sqlProcessedIds } from '../../src/database/processed-ids.ts'
import { migrate } from '../../src/database/schema.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { embeddedDatabases, type TestDatabase } from '../services/databases.ts'
import { processedIdsSuite, type TestStore } from './processed-ids-suite.ts'

/** In the tables of a database. */
async function sqlStore(given: TestDatabase): Promise<TestStore> {
  await migrate(given.database)
  return {
    open: options => sqlProcessedIds(given.native, options),
    hasOwnClock: true,
    close: () => given.close(),
  }
}

processedIdsSuite('memory', async () => ({
  open: options => memoryProcessedIds(options),
  hasOwnClock: true,
  close: async () => {},
}))
for (const make of embeddedDatabases) processedIdsSuite(make.name, async () => sqlStore(await make()))

test('memory: no more ids than allowed, the oldest go first', async () => {
  const store = memoryProcessedIds({ idsMax: 2 })
  for (const id of ['a', 'b', 'c']) {
    const claim = await store.claim(id)
    if (typeof claim === 'object') await claim.done()
  }
  expect(await store.claim('x')).toBeTypeOf('object')
  expect([await store.claim('a'), await store.claim('b'), await store.claim('c')]).toEqual([
    expect.any(Object),
    'done',
    'done',
  ])
})

for (const make of embeddedDatabases) {
  test(`${make.name}: a mark that is part of a transaction comes and goes with it`, async () => {
    const given = await make()
    await migrate(given.database)
    const store = sqlProcessedIds(given.native)
    const claim = await store.claim('a')
    if (typeof claim === 'string') throw new Error(claim)
    const failed = inTransaction(given.database, async tx => {
      await claim.done(tx)
      throw new Error('no')
    })
    await expect(failed).rejects.toThrow('no')
    expect(await store.claim('a')).toBe('claimed')
    await inTransaction(given.database, tx => claim.done(tx))
    expect(await store.claim('a')).toBe('done')
    await given.close()
  })

  test(`${make.name}: expired rows are deleted by and by`, async () => {
    const given = await make()
    await migrate(given.database)
    const clock = { ...systemClock, time: 0, now: () => systemClock.now() + clock.time }
    const store = sqlProcessedIds(given.native, { leaseMs: 1_000, keepMs: 10, clock })
    for (let index = 0; index < 20; index++) {
      const claim = await store.claim(`id-${index}`)
      if (typeof claim === 'object') await claim.done()
    }
    clock.time = 5_000
    await store.claim('another')
    await expect
      .poll(async () => (await given.database.query('SELECT id FROM sluice_processed')).rows)
      .toEqual([{ id: 'another' }])
    await given.close()
  })
}
