/** The programs in examples/ compile against the published package, run, and do what they say. */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { PublishedPackage, root } from './published-package.ts'

const programs = readdirSync(join(root, 'examples'), { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts'))
  .sort()

const textOf = (name: string): string => readFileSync(join(root, 'examples', name), 'utf8')

let sluice: PublishedPackage
beforeAll(async () => {
  sluice = await PublishedPackage.install()
  sluice.copy('examples')
})
afterAll(() => sluice?.[Symbol.dispose]())

/** What the program printed. */
async function output(name: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await sluice.run(join(sluice.path, 'examples', name), args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout
}

test('all of them compile, with the types that the package brings', async () => {
  // PGlite's own types do not compile; `npm run typecheck` checks these programs without looking into them
  const checked = programs.filter(name => !textOf(name).includes('@electric-sql/pglite'))
  await sluice.typecheck(checked.map(name => join(sluice.path, 'examples', name)))
}, 120_000)

test('all of them have a test', () => {
  const tested = [
    'consumer-group.ts',
    'fire-and-forget.ts',
    'from-bullmq.ts',
    'hello.ts',
    'order-processing.ts',
    'payment-half-messages.ts',
    'scheduled-reminders.ts',
    'typed-topics.ts',
  ]
  const databases = [
    'exactly-once-postgresql.ts',
    'idempotent-redis.ts', // test/services
    'outbox-adapters.ts',
    'outbox-postgresql.ts',
    'reconcile-orders.ts',
  ] // database-guides.test.ts
  const jobs = ['debian-packages/consume.ts', 'debian-packages/json-lines.ts'] // test/jobs
  expect(programs).toEqual([...tested, ...databases, ...jobs].sort())
})

test('hello.ts', async () => {
  const lines = (await output('hello.ts')).split('\n')
  expect(lines.sort()).toEqual(['', 'ann 12.5', 'bob 30'])
})

test('consumer-group.ts: a member leaves, the others take its partitions, and nothing is handled twice', async () => {
  const printed = await output('consumer-group.ts')
  expect(printed).toMatch(/^ann is given \d \d$/m)
  expect(printed).toMatch(/^ann gives up \d \d$[\s\S]*^(bob|cem) is given \d$/m)
  expect(printed).toContain('3000 jobs handled, 0 of them more than once\nleft to do: 0\n')
})

test('typed-topics.ts: what does not fit the schema is refused with its path', async () => {
  const lines = (await output('typed-topics.ts')).split('\n')
  expect(lines).toEqual([
    expect.stringMatching(/^SCHEMA_MISMATCH .*value\.cents/),
    'ann paid 12.50 in 2025',
    'ann is in',
    '',
  ])
})

test('fire-and-forget.ts: nothing is lost when the buffer is full', async () => {
  expect(await output('fire-and-forget.ts', '300000')).toBe(
    'posted 300000, stored 300000, failed 0; the buffer was full at times\n',
  )
})

test('order-processing.ts: retries in order per customer, dead letters, replay', async () => {
  const lines = (await output('order-processing.ts')).trim().split('\n')
  const replayedAt = lines.indexOf('2 replayed')
  const failures = lines.filter(line => line.includes('failed'))
  expect(failures.sort()).toEqual([
    'order 1 failed: the bank does not answer → retry',
    'order 1 failed: the bank does not answer → retry',
    'order 3 failed: there is no customer bob → dead-letter',
    'order 4 failed: order 4 is over -5 cents → dead-letter',
  ])
  expect(lines.filter(line => /of ann/.test(line))).toEqual([
    'charged order 1 of ann, attempt 3',
    'charged order 2 of ann, attempt 1',
  ])
  expect(lines.filter(line => line.startsWith('dead letter '))).toHaveLength(2)
  expect(lines).toEqual(
    expect.arrayContaining(['charged order 3 of bob, attempt 1', 'charged order 4 of cem, attempt 1']),
  )
  expect(replayedAt).toBeGreaterThan(0)
  expect(lines.at(-1)).toBe('dead letters left: 0')
})

test('scheduled-reminders.ts: one is cancelled, one is moved, none is early', async () => {
  expect(await output('scheduled-reminders.ts')).toBe(`bob bought, reminder cancelled: true
waiting: cart-ann, cart-cem
schedule report: * * * * * * to reports
ann, your cart is waiting
cem, your cart is waiting
schedule removed: true
`)
})

test('payment-half-messages.ts: the message comes if the payment did', async () => {
  const lines = (await output('payment-half-messages.ts')).trim().split('\n')
  expect(lines.slice(0, 2)).toEqual(['p2: not covered', 'p3 is undecided'])
  expect(lines.slice(2)).toEqual(
    expect.arrayContaining(['asked about p3', 'asked about p4', 'receipts for p1 and p3']),
  )
  expect(lines.at(-1)).toBe('nothing is undecided')
})

test('from-bullmq.ts', async () => {
  const lines = (await output('from-bullmq.ts')).trim().split('\n')
  expect(lines).toEqual(expect.arrayContaining(['sent to ann', 'sent to bob', 'sent to cem']))
  expect(lines.filter(line => line.startsWith('nobody'))).toEqual(
    [1, 2, 3].map(attempt => `nobody, attempt ${attempt}: no such mailbox`),
  )
  expect(lines.slice(-2)).toEqual(['failed: no such mailbox after 3 attempts', 'next digest: is planned'])
})
