import fc from 'fast-check'
import { expect, test } from 'vitest'
import { BATCH_ROWS_MAX, decodeIds, encodeIds } from '../../src/database/outbox-relay.ts'
import { embeddedDatabases } from '../services/databases.ts'
import { outboxSuite } from './outbox-suite.ts'

for (const make of embeddedDatabases) outboxSuite(make.name, make)

test('the ids of a batch fit into a commit, and come back', () => {
  const ids = fc.uniqueArray(
    fc.oneof(
      fc.nat(10_000),
      fc.nat(2 ** 31),
      fc.maxSafeNat().map(id => id % 2 ** 42),
    ),
    {
      minLength: 1,
      maxLength: BATCH_ROWS_MAX,
    },
  )
  fc.assert(
    fc.property(ids, unsorted => {
      const ascending = unsorted.toSorted((one, other) => one - other)
      const text = encodeIds(ascending)
      expect(text.length).toBeLessThanOrEqual(4_096)
      expect(decodeIds(text)).toEqual(ascending)
    }),
  )
  for (const metadata of ['', 'by hand', '1AAAA']) expect(decodeIds(metadata)).toEqual([])
})
