import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { open } from '../../src/open.ts'
import { die } from './dying.ts'

let mq: Sluice

beforeEach(async () => {
  mq = await open('memory:')
})

afterEach(() => mq.close())

const letters = () => mq.deadLetters('orders', 'billing')
const ids = async () => (await letters().list()).letters.map(({ id }) => id)

async function readAll(topic: string): Promise<string[]> {
  const texts: string[] = []
  const end = await mq.offsetFor(topic, 0, 'latest')
  if (end === 0) return texts
  for await (const message of mq.consumer({ topics: [topic] })) {
    texts.push(message.text())
    if (message.offset >= end - 2) break // the last one is a marker
  }
  return texts
}

describe('dead letters', () => {
  test('of a group that never failed are none', async () => {
    expect(await letters().count()).toBe(0)
    expect(await letters().list()).toEqual({ letters: [], cursor: null })
    expect(await letters().replay('all')).toEqual([])
  })

  test('are found, whoever has them', async () => {
    await die(mq, 1, 'a')
    await die(mq, 2, 'b')
    await mq.publish('just.named.dead', { value: 'x' })
    expect(await mq.deadLetterTables()).toEqual([
      { topic: 'orders', group: 'billing', name: 'orders.billing.dead', count: 2 },
    ])
    await letters().discard('all')
    expect(await mq.deadLetterTables()).toEqual([])
  })

  test('tell the whole story of the failure', async () => {
    await die(mq, 7, 'seven')
    const letter = await letters().get('0-7')
    expect(letter).toMatchObject({
      id: '0-7',
      reason: 'attempts',
      deadAt: 4_007,
      topic: 'orders',
      partition: 0,
      offset: 7,
      timestamp: 1_000,
      group: 'billing',
      attempts: 5,
      firstFailureAt: 2_000,
      lastFailureAt: 3_000,
      error: { name: 'RangeError', message: 'no such account' },
    })
    expect(letter.error.stack).toContain('dying.ts')
    expect([String(letter.key), String(letter.value)]).toEqual(['k7', 'seven'])
    expect(letter.headers.map(([name, value]) => [name, String(value)])).toEqual([['trace', 't']])
  })

  test('keep null apart from nothing', async () => {
    await die(mq, 1, null, { key: null })
    await die(mq, 2, '')
    const page = await letters().list()
    expect(page.letters.map(({ key, value }) => [key, value?.length])).toEqual([
      [null, undefined],
      [expect.anything(), 0],
    ])
  })

  test('come in pages, and only those that are asked for', async () => {
    for (let offset = 0; offset < 25; offset++) await die(mq, offset, `v${offset}`)
    const first = await letters().list({ limit: 10 })
    const second = await letters().list({ limit: 10, cursor: first.cursor as string })
    const third = await letters().list({ limit: 10, cursor: second.cursor as string })
    expect([first, second, third].flatMap(page => page.letters.map(({ offset }) => offset))).toEqual(
      Array.from({ length: 25 }, (_, offset) => offset),
    )
    expect(third.cursor).toBeNull()
    const odd = await letters().list({ where: ({ offset }) => offset % 2 === 1 })
    expect(odd.letters).toHaveLength(12)
    await expect(letters().list({ cursor: 'x' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('replayed for their group leave with the publication, and their attempts begin anew', async () => {
    for (let offset = 0; offset < 3; offset++) await die(mq, offset, `v${offset}`)
    expect(await letters().replay(['0-1'])).toEqual(['0-1'])
    expect(await ids()).toEqual(['0-0', '0-2'])
    const seen = []
    for await (const message of mq.consumer({ topics: ['orders.billing.retry'] })) {
      seen.push(message)
      break
    }
    expect(seen[0].text()).toBe('v1')
    expect(seen[0].key).toBe('k1')
    expect(seen[0].header('sluice-attempts')).toBe('0')
    expect(seen[0].header('sluice-original-offset')).toBe('1')
    expect(seen[0].header('trace')).toBe('t')
  })

  test('can be replayed to their topic or another, as they were', async () => {
    await die(mq, 0, 'a')
    await die(mq, 1, 'b')
    await letters().replay(['0-0'], { to: 'topic' })
    await letters().replay('all', { to: { topic: 'elsewhere' } })
    expect([await readAll('orders'), await readAll('elsewhere')]).toEqual([['a'], ['b']])
    expect(await letters().count()).toBe(0)
  })

  test('are replayed as often as asked, dry runs and limits included', async () => {
    for (let offset = 0; offset < 5; offset++) await die(mq, offset, `v${offset}`)
    expect(await letters().replay('all', { dryRun: true })).toHaveLength(5)
    expect(await letters().count()).toBe(5)
    expect(await letters().replay(({ offset }) => offset > 1, { limit: 2 })).toEqual(['0-2', '0-3'])
    expect(await ids()).toEqual(['0-0', '0-1', '0-4'])
  })

  test('two programs that replay the same letters replay each once', async () => {
    for (let offset = 0; offset < 40; offset++) await die(mq, offset, `v${offset}`)
    const other = mq.deadLetters('orders', 'billing')
    const replayed = await Promise.all([
      letters().replay('all', { to: 'topic' }),
      other.replay('all', { to: 'topic' }),
    ])
    expect(replayed.flat().toSorted()).toEqual([...new Set(replayed.flat())].toSorted())
    expect(await readAll('orders')).toHaveLength(40)
  })

  test('edited ones are replayed as edited', async () => {
    await die(mq, 0, '{"amount":"ten"}')
    await die(mq, 1, 'other')
    const edited = await letters().edit('0-0', { value: { amount: 10 }, headers: { fixed: 'yes' } })
    expect([edited.id, String(edited.value), edited.error.name]).toEqual([
      '0-0',
      '{"amount":10}',
      'RangeError',
    ])
    expect(await letters().count()).toBe(2)
    await letters().replay(['0-0'], { to: 'topic' })
    for await (const message of mq.consumer({ topics: ['orders'] })) {
      expect([message.json(), message.key, Object.keys(message.headers)]).toEqual([
        { amount: 10 },
        'k0',
        ['fixed'],
      ])
      break
    }
  })

  test('discarded ones are gone, and cannot be got, edited or replayed', async () => {
    await die(mq, 0, 'a')
    expect(await letters().discard('all')).toEqual(['0-0'])
    for (const attempt of [
      letters().get('0-0'),
      letters().edit('0-0', { value: 'b' }),
      letters().replay(['0-0']),
      letters().discard(['0-0']),
    ]) {
      await expect(attempt).rejects.toMatchObject({ code: 'UNKNOWN_DEAD_LETTER' })
    }
  })

  test('a message that dies again after its replay is a letter again', async () => {
    await die(mq, 0, 'a')
    await letters().replay('all')
    await die(mq, 0, 'a')
    expect(await ids()).toEqual(['0-0'])
  })

  test('groups whose names topics cannot have keep their letters apart', () => {
    const names = ['billing/eu', 'billing eu', 'billing_eu'].map(
      group => mq.deadLetters('orders', group).name,
    )
    expect(new Set(names).size).toBe(3)
    for (const name of names) expect(name).toMatch(/^[a-zA-Z0-9._-]{1,249}$/)
    expect(mq.deadLetters('t'.repeat(240), 'group').name.length).toBeLessThanOrEqual(249)
  })
})
