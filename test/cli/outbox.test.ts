/** `sluice outbox …` and `sluice reconcile`, on a SQLite file and a data directory. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { outbox } from '../../src/database/outbox.ts'
import { migrationStatements } from '../../src/database/schema.ts'
import { open } from '../../src/open.ts'
import { type RunOptions, run } from './running-cli.ts'

let directory: string
let environment: Record<string, string>
let native: DatabaseSync

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sluice-outbox-'))
  const path = join(directory, 'shop.db')
  environment = { SLUICE_URL: join(directory, 'data'), SLUICE_DATABASE: `sqlite:${path}` }
  native = new DatabaseSync(path)
  native.exec('PRAGMA journal_mode = WAL')
})
afterEach(() => {
  native.close()
  rmSync(directory, { recursive: true, force: true })
})

const sluice = (args: readonly string[], options: RunOptions = {}) => run(args, { ...options, environment })

async function told(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await sluice(args)
  expect(code, stderr).toBe(0)
  return stdout + stderr
}

test('migrate makes the tables once, or prints how to', async () => {
  expect(await told('outbox', 'migrate')).toContain('applied 1 migration')
  expect(await told('outbox', 'migrate')).toContain('nothing to do')
  const printed = await told('outbox', 'migrate', '--print', '--database', 'postgres://nobody@nowhere/db')
  const statements = migrationStatements('postgres')
  expect(printed.split(';\n').slice(0, -2)).toEqual(statements.slice(0, -1))
  expect(printed).toMatch(/^CREATE TABLE IF NOT EXISTS sluice_outbox \(.*bytea/m)
})

test('status, relay, requeue and clean', async () => {
  expect(await sluice(['outbox', 'status'])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^sluice: DATABASE_FAILED: .*sluice outbox migrate/),
  })
  await told('outbox', 'migrate')
  expect(await told('outbox', 'status')).toContain('no outboxes')
  const mq = await open(environment.SLUICE_URL)
  await mq.createTopic('small', { config: { 'max.message.bytes': 200 } })
  await mq.close()
  await outbox(native).publish('small', [
    { key: 'a', value: '1' },
    { key: 'a', value: 'x'.repeat(500) },
    { key: 'a', value: '2' },
  ])
  expect(JSON.parse(await told('outbox', 'status', '--json'))).toMatchObject({
    outbox: 'default',
    pending: 3,
    failed: 0,
    relays: [],
  })

  let metrics: Promise<string> | undefined
  const relayed = await sluice(['outbox', 'relay', '--metrics-port', '0', '--poll-ms', '20'], {
    onOutput: (text, signal) => {
      const [, url] = /metrics on (\S+)\n/.exec(text) ?? []
      metrics ??= waitForMetrics(url).finally(() => signal('SIGTERM'))
    },
  })
  expect(relayed).toMatchObject({ code: 0, stderr: expect.stringContaining('published 2 rows') })
  expect(relayed.stderr).toMatch(/row 2 for small was refused: MESSAGE_TOO_LARGE/)
  expect(await metrics).toMatch(/^sluice_outbox_failed_rows\{outbox="default"\} 1$/m)
  expect(await metrics).toMatch(/^sluice_outbox_published_total 2$/m)

  expect(await told('outbox', 'status')).toMatch(/^default +0 +1 +0\.0 +0$/m)
  expect(await told('outbox', 'status', '--failed')).toMatch(/^default +2 +small .* MESSAGE_TOO_LARGE/m)
  expect(await told('outbox', 'requeue')).toContain('1 rows')
  expect(await told('outbox', 'status')).toMatch(/^default +1 +0 /m)
  native.exec("UPDATE sluice_outbox SET failed_at = 1, error_text = 'x'")
  expect(await told('outbox', 'clean', 'another')).toContain('deleted 0')
  expect(await told('outbox', 'clean', '--older-than', '1h')).toContain('deleted 1')
  expect(await sluice(['outbox', 'clean', '--older-than', 'soon'])).toMatchObject({ code: 2 })
})

/** As they are once everything is published. */
async function waitForMetrics(url: string): Promise<string> {
  for (;;) {
    const text = await (await fetch(url)).text()
    if (/^sluice_outbox_pending_rows\{outbox="default"\} 0$/m.test(text)) return text
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

test('a database that cannot be opened is named, without its password', async () => {
  const status = (database: string) => sluice(['outbox', 'status', '--database', database])
  expect(await status('oracle://app:secret@db')).toMatchObject({
    code: 2,
    stderr: expect.stringMatching(/^sluice: INVALID_URL: .*not oracle:\/\/app:…@db\n$/),
  })
  expect((await status(`sqlite:${join(directory, 'missing.db')}`)).stderr).toMatch(
    /^sluice: DATABASE_FAILED: there is no file/,
  )
  expect((await status('postgres://app:secret@127.0.0.1:1/shop')).stderr).toMatch(
    /^sluice: DATABASE_FAILED: /,
  )
  expect((await status('mysql://app:secret@127.0.0.1:1/shop')).stderr).toMatch(/^sluice: DATABASE_FAILED: /)
  const { code, stderr } = await run(['outbox', 'status'])
  expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining('SLUICE_DATABASE') })
})

test('reconcile tells what a topic and a query do not have in common', async () => {
  native.exec(
    "CREATE TABLE payments (order_id text, amount integer); INSERT INTO payments VALUES ('o1', 10), ('o2', 21), ('o4', 40), ('o1', 10)",
  )
  const mq = await open(environment.SLUICE_URL)
  await mq.publish('orders', [
    { key: 'o1', value: { id: 'x1', total: 10 } },
    { key: 'o2', value: { id: 'x2', total: 20 } },
    { key: 'o3', value: { id: 'x3', total: 30 } },
    { key: 'o5', value: { total: 1 } },
    { key: 'o5', value: null },
  ])
  await mq.close()
  const query = 'SELECT order_id, amount FROM payments'
  const args = ['reconcile', 'topic:orders', query, '--value-field', 'total']
  const { code, stdout, stderr } = await sluice(args)
  expect(stdout.trim().split('\n').sort()).toEqual([
    'different o2',
    'duplicate-right o1',
    'only-left o3',
    'only-right o4',
  ])
  expect([code, stderr]).toEqual([1, '1 the same, 1 different, 1 only left, 1 only right, 1 duplicates\n'])
  const lines = (await sluice([...args, '--json'])).stdout
    .trim()
    .split('\n')
    .map(line => JSON.parse(line))
  expect(lines).toContainEqual({ what: 'duplicate-right', key: 'o1', times: 2 })
  expect(lines.at(-1)).toMatchObject({ what: 'report', same: 1, different: 1, onlyLeft: 1, onlyRight: 1 })
  const both = [
    'reconcile',
    query,
    'SELECT order_id, amount FROM payments WHERE rowid < 4',
    '--right-database',
    environment.SLUICE_DATABASE,
  ]
  expect(await sluice(both)).toMatchObject({ code: 1, stdout: 'duplicate-left o1\n' })
  expect(await sluice(['reconcile', 'topic:orders', 'topic:orders', '--key-field', 'id'])).toMatchObject({
    code: 0,
    stdout: '',
  })
  expect(await sluice(['reconcile', 'orders', query])).toMatchObject({ code: 2 })
})
