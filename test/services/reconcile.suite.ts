/** Reconciliation with queries on real servers: rows come as a stream, and a connection that was left in the middle is not used again. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { reconcile } from '../../src/database/reconcile.ts'
import { querySource } from '../../src/database/reconcile-sources.ts'
import { servedDatabases, type TestDatabase } from './databases.ts'

const ROWS = 20_000

for (const make of servedDatabases) {
  describe(make.name, () => {
    let given: TestDatabase
    beforeAll(async () => {
      given = await make()
      const { database } = given
      await database.query('CREATE TABLE payments (id varchar(20), total integer)')
      for (let at = 0; at < ROWS; at += 1_000) {
        const rows = Array.from({ length: 1_000 }, (_, index) => `('o${at + index}', ${at + index})`)
        await database.query(`INSERT INTO payments VALUES ${rows.join(', ')}`)
      }
    }, 120_000)
    afterAll(() => given.close())

    const left = function* (count: number) {
      for (let n = 0; n < count; n++) yield { key: `o${n}`, value: n === 7 ? 'x' : String(n) }
    }

    it('finds exactly what differs', async () => {
      const right = querySource(given.native, 'SELECT id, total FROM payments WHERE total >= ?', {
        parameters: [3],
        pageRows: 999,
      })
      const told: string[] = []
      const report = await reconcile({
        left: left(ROWS),
        right,
        missingRight: key => told.push(key),
        different: key => told.push(`${key} differs`),
      })
      expect(told.sort()).toEqual(['o0', 'o1', 'o2', 'o7 differs'])
      expect(report.same).toBe(ROWS - 4)
    })

    it('leaves nothing behind when it ends early, and tells what the server refuses', async () => {
      for (let round = 0; round < 15; round++) {
        for await (const _ of querySource(
          given.native,
          'SELECT id, total FROM payments',
        ) as AsyncIterable<unknown>)
          break
      }
      const { rows } = await given.database.query('SELECT COUNT(*) AS n FROM payments')
      expect(Number(rows[0].n)).toBe(ROWS)
      const nowhere = querySource(given.native, 'SELECT 1 AS a FROM nowhere')
      await expect(reconcile({ left: nowhere, right: [] })).rejects.toThrow(/nowhere/)
    })
  })
}
