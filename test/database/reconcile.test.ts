/** Comparing two keyed sources: what differs is found, whatever the order, the size of the runs and the kind of the source. */

import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import {
  type ReconcileEntry,
  type ReconcileOptions,
  type ReconcileSource,
  reconcile,
  reconcileEvery,
} from '../../src/database/reconcile.ts'
import { querySource, topicSource } from '../../src/database/reconcile-sources.ts'
import { open } from '../../src/open.ts'
import { embeddedDatabases } from '../services/databases.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

/** What the hooks are told, in an order that does not depend on runs. */
async function differences(options: ReconcileOptions) {
  const told: string[] = []
  const report = await reconcile({
    missingRight: key => told.push(`right lacks ${key}`),
    missingLeft: key => told.push(`left lacks ${key}`),
    different: key => told.push(`${key} differs`),
    duplicate: (key, side, times) => told.push(`${side} has ${key} ${times} times`),
    ...options,
  })
  return { told: told.sort(), report }
}

const entriesOf = (entries: Record<string, string | null>): ReconcileEntry[] =>
  Object.entries(entries).map(([key, value]) => ({ key, value }))

function folder(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sluice-reconcile-test-'))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** 0 … count - 1, in an order that is none. */
function* shuffled(count: number, prime: number): Generator<number> {
  for (let index = 0; index < count; index++) yield (index * prime + 7) % count
}

test('finds what one side lacks, what differs and what comes twice', async () => {
  const { told, report } = await differences({
    left: [...entriesOf({ a: '1', b: '2', c: '3', n: null, 'ü ': 'x' }), { key: 'a', value: '1' }],
    right: [...entriesOf({ 'ü ': 'x', n: '', d: '4', c: '33' }), { key: 'a', value: Buffer.from('1') }],
  })
  expect(told).toEqual(['c differs', 'left has a 2 times', 'left lacks d', 'n differs', 'right lacks b'])
  expect(report).toMatchObject({
    same: 2,
    different: 2,
    onlyLeft: 1,
    onlyRight: 1,
    duplicatesLeft: 1,
    duplicatesRight: 0,
  })
})

test('100,000 keys a side in different orders: exactly the planted differences', async () => {
  const count = 100_000
  function* left(): Generator<ReconcileEntry> {
    for (const n of shuffled(count, 99_991))
      if (n % 25_000 !== 6) yield { key: `key ${n}`, value: `value ${n}` }
  }
  async function* right(): AsyncGenerator<ReconcileEntry> {
    for (const n of shuffled(count, 99_989)) {
      if (n % 25_000 === 5) continue
      yield { key: `key ${n}`, value: n % 50_000 === 7 ? 'planted' : `value ${n}` }
    }
  }
  const { told, report } = await differences({ left: left(), right: right() })
  const planted = (rest: number, step = 25_000) =>
    Array.from({ length: count / step }, (_, index) => `key ${index * step + rest}`)
  expect(told).toEqual(
    [
      ...planted(6).map(key => `left lacks ${key}`),
      ...planted(5).map(key => `right lacks ${key}`),
      ...planted(7, 50_000).map(key => `${key} differs`),
    ].sort(),
  )
  expect(report.same).toBe(count - 4 - 4 - 2)
})

test('runs that are too large are cut again, down to one key that comes again and again', async () => {
  const long = 'k'.repeat(100_000)
  function* left(): Generator<ReconcileEntry> {
    for (let times = 0; times < 300; times++) yield { key: 'again', value: String(times) }
    for (const n of shuffled(50, 49)) yield { key: `key ${n}`, value: 'x' }
    for (const end of 'ab') yield { key: long + end, value: 'x' }
  }
  function* right(): Generator<ReconcileEntry> {
    for (const n of shuffled(50, 47)) yield { key: `key ${n}`, value: n === 40 ? 'y' : 'x' }
    yield { key: `${long}a`, value: 'x' }
    yield { key: 'again', value: '299' }
  }
  const directory = folder()
  const { told, report } = await differences({ left: left(), right: right(), runBytesMax: 1, directory })
  expect(told).toEqual(['key 40 differs', 'left has again 300 times', `right lacks ${long}b`])
  expect(report.same).toBe(51)
  expect(readdirSync(directory)).toEqual([])
})

test('what a source or a hook throws ends it, and leaves nothing behind', async () => {
  const directory = folder()
  function* failing(): Generator<ReconcileEntry> {
    yield { key: 'a', value: '1' }
    throw new Error('the source is gone')
  }
  await expect(reconcile({ left: [], right: failing(), directory })).rejects.toThrow('the source is gone')
  const left = entriesOf({ a: '1' })
  const missingRight = async () => {
    throw new Error('cannot repair')
  }
  await expect(reconcile({ left, right: [], missingRight, directory })).rejects.toThrow('cannot repair')
  const signal = AbortSignal.abort(new Error('enough'))
  await expect(reconcile({ left, right: [], signal, directory })).rejects.toThrow('enough')
  await expect(reconcile({ left: 5 as never, right: [], directory })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
  expect(readdirSync(directory)).toEqual([])
})

test('a topic counts by the last message of each key; tombstones delete', async () => {
  const mq = await open('memory:')
  onTestFinished(() => mq.close())
  await mq.createTopic('orders', { partitions: 3 })
  await mq.publish('orders', [
    { key: 'a', value: { total: 1 } },
    { key: 'b', value: { total: 2 } },
    { key: 'c', value: { total: 3 } },
    { key: 'a', value: { total: 10 } },
    { key: 'b', value: null },
    { value: 'nobody' },
  ])
  const left = topicSource(mq, 'orders', {
    value: message =>
      message.json<{ total: number } | null>() && String(message.json<{ total: number }>().total),
  })
  const right = entriesOf({ a: '10', c: '4', d: '5' })
  const expected = ['c differs', 'left lacks d']
  expect((await differences({ left, right })).told).toEqual(expected)
  expect((await differences({ left, right })).told).toEqual(expected)
  const stored = await differences({
    left: topicSource(mq, 'orders'),
    right: entriesOf({ a: '{"total":10}', c: '{"total":3}' }),
  })
  expect(stored.told).toEqual([])
})

for (const make of embeddedDatabases) {
  test(`${make.name}: a query is read page by page, duplicates and all`, async () => {
    const given = await make()
    onTestFinished(() => given.close())
    const { database, native } = given
    await database.query('CREATE TABLE payments (id integer, order_id varchar(20), total integer)')
    for (let id = 0; id < 25; id++)
      await database.query('INSERT INTO payments VALUES (?, ?, ?)', [id, `o${id}`, id === 3 ? 99 : id])
    await database.query("INSERT INTO payments VALUES (100, 'o7', 7)")
    const sql = 'SELECT order_id, total FROM payments WHERE id >= ?'
    const right = querySource(native, sql, { parameters: [1], pageRows: 4 })
    const left = Array.from({ length: 25 }, (_, n) => ({ key: `o${n}`, value: String(n) }))
    const expected = ['o3 differs', 'right has o7 2 times', 'right lacks o0']
    expect((await differences({ left, right })).told).toEqual(expected)
    expect((await differences({ left, right })).told).toEqual(expected)
    const two = querySource(native, 'SELECT order_id, total, NULL AS x FROM payments WHERE id = 5')
    expect((await differences({ left: [{ key: 'o5', value: '["5",null]' }], right: two })).told).toEqual([])
    // one that is left in the middle gives its connection back
    const broken = reconcile({
      left: right,
      right: [],
      missingRight: () => Promise.reject(new Error('stop')),
    })
    await expect(broken).rejects.toThrow('stop')
    const noKey = querySource(native, 'SELECT NULL AS id, 1 AS total')
    await expect(reconcile({ left: noKey, right: [] })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(
      reconcile({ left: querySource(native, 'SELECT 1 AS one FROM nowhere'), right: [] }),
    ).rejects.toThrow(/nowhere/)
    expect((await database.query('SELECT COUNT(*) AS n FROM payments')).rows).toHaveLength(1)
  }, 120_000)
}

test('a schedule compares in its time, goes on after a failure, and stops', async () => {
  const clock = new VirtualClock(Date.UTC(2026, 0, 1))
  let reads = 0
  const left: ReconcileSource = {
    async *[Symbol.asyncIterator]() {
      if (++reads === 2) throw new Error('away')
      yield { key: 'a', value: '1' }
    },
  }
  const nightly = reconcileEvery({ cron: '0 3 * * *', timezone: 'UTC' }, { left, right: [] }, clock)
  const seen: string[] = []
  nightly.on('report', ({ onlyLeft }) => seen.push(`missing ${onlyLeft}`))
  nightly.on('error', error => seen.push(error.message))
  await clock.advance(3 * 3_600_000 - 1)
  expect(reads).toBe(0)
  await clock.advance(1)
  await expect.poll(() => seen).toEqual(['missing 1'])
  await expect
    .poll(async () => {
      await clock.advance(24 * 3_600_000)
      return seen.length
    })
    .toBeGreaterThanOrEqual(3)
  expect(seen.slice(1, 3)).toEqual(['away', 'missing 1'])
  await nightly.run()
  await nightly.stop()
  const before = reads
  await clock.advance(48 * 3_600_000)
  expect(reads).toBe(before)
  for (const schedule of [{ cron: 'never' }, { everyMs: 0 }])
    expect(() => reconcileEvery(schedule, { left, right: [] })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
})
