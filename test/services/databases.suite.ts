import { expect, test } from 'vitest'
import { databaseSuite } from '../database/database-suite.ts'
import { servedDatabases } from './databases.ts'

for (const make of servedDatabases) databaseSuite(make.name, make)

for (const make of servedDatabases) {
  test(`${make.name}: a server that is away is an error that passes, and the pool goes on when it is back`, async () => {
    const { database, service, close } = await make()
    const held = await database.hold()
    await service?.kill()
    await expect(held.query('SELECT 1')).rejects.toMatchObject({ code: 'DATABASE_FAILED' })
    held.release(true)
    await expect(database.query('SELECT 1')).rejects.toMatchObject({ code: 'DATABASE_FAILED' })
    await service?.start()
    expect((await database.query('SELECT 1 AS a')).rows).toEqual([{ a: 1 }])
    await close()
  })
}
