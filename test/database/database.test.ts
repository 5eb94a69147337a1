import { expect, test } from 'vitest'
import { databaseOf } from '../../src/database/database.ts'
import { sessionOf } from '../../src/database/session.ts'
import { embeddedDatabases } from '../services/databases.ts'
import { databaseSuite } from './database-suite.ts'

for (const make of embeddedDatabases) databaseSuite(make.name, make)

test('what is no database is refused', () => {
  for (const given of [null, undefined, 'postgres://', {}, { query: 1 }, { prepare() {} }]) {
    expect(() => sessionOf(given as never)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    expect(() => databaseOf(given as never)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  }
})
