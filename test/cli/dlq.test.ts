/** `sluice dlq …` on a data directory. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { open } from '../../src/open.ts'
import { die } from '../delivery/dying.ts'
import { run } from './running-cli.ts'

let directory: string

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'sluice-dlq-'))
  const mq = await open(directory)
  await mq.createTopic('orders')
  await die(mq, 1, '{"amount":1}')
  await die(mq, 2, 'two', { reason: 'expired', error: { name: 'Expired', message: 'too late', stack: '' } })
  await die(mq, 3, 'three')
  await mq.close()
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const dlq = (...args: string[]) => run(['dlq', ...args], { environment: { SLUICE_URL: directory } })

async function told(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await dlq(...args)
  expect(code, stderr).toBe(0)
  return stdout
}

const left = async () =>
  (await told('list', 'orders', 'billing', '--json'))
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line).id)

test('list says where there are dead letters, and which', async () => {
  expect(await told('list')).toMatch(/^orders +billing +3$/m)
  expect(await told('list', 'orders', 'billing')).toMatch(
    /^0-1 +1970-01-01T00:00:04.001Z +attempts +5 +RangeError: no such account$/m,
  )
  expect(await told('list', 'orders', 'billing', '--error', 'late')).toMatch(/^0-2 /m)
  expect(await told('list', 'orders', 'billing', '--reason', 'attempts')).not.toMatch(/^0-2 /m)
  expect((await dlq('list', 'orders', 'shipping')).stderr).toContain('no dead letters')
  expect(await dlq('list', 'orders')).toMatchObject({ code: 2, stderr: expect.stringContaining('GROUP') })
})

test('show tells the story and the message', async () => {
  expect(await told('show', 'orders', 'billing', '0-1')).toMatch(
    /orders\/0 offset 1, group billing\n.*\(attempts\) after 5 attempts\n[\s\S]*RangeError: no such account[\s\S]*\n\n\{"amount":1\}\n$/,
  )
  expect(JSON.parse(await told('show', 'orders', 'billing', '0-1', '--json'))).toMatchObject({
    id: '0-1',
    key: 'k1',
    value: { amount: 1 },
    headers: { trace: 't' },
    error: { name: 'RangeError' },
  })
  expect(await dlq('show', 'orders', 'billing', '9-9')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('UNKNOWN_DEAD_LETTER'),
  })
})

test('edit, replay, discard', async () => {
  await told('edit', 'orders', 'billing', '0-1', '--value', '{"amount":100}')
  expect(await told('replay', 'orders', 'billing', '--all', '--error', 'account', '--dry-run')).toBe(
    '0-3\n0-1\n',
  )
  expect(await left()).toEqual(['0-2', '0-3', '0-1'])
  expect(await told('replay', 'orders', 'billing', '0-1', '--to', 'topic')).toBe('0-1\n')
  const { stdout } = await run(['consume', 'orders'], { environment: { SLUICE_URL: directory } })
  expect(stdout).toBe('{"amount":100}\n')
  expect(await told('discard', 'orders', 'billing', '--all', '--reason', 'expired')).toBe('0-2\n')
  expect(await left()).toEqual(['0-3'])
})

test('replay no faster than asked', async () => {
  const startedAt = performance.now()
  expect(await told('replay', 'orders', 'billing', '--all', '--rate', '2')).toBe('0-1\n0-2\n0-3\n')
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(990)
  expect(await left()).toEqual([])
})

test('nothing is replayed or discarded by a slip of the pen', async () => {
  for (const args of [
    ['replay', 'orders', 'billing'],
    ['discard', 'orders', 'billing', '--reason', 'expired'],
    ['replay', 'orders', 'billing', '0-1', '--all'],
    ['replay', 'orders', 'billing', '0-1', '9-9'],
    ['edit', 'orders', 'billing', '0-1'],
  ]) {
    expect((await dlq(...args)).code, args.join(' ')).toBeGreaterThan(0)
  }
  expect(await left()).toEqual(['0-1', '0-2', '0-3'])
})
