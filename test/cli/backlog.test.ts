/** `sluice backlog …` on a data directory. */

import { afterEach, beforeEach, expect, test } from 'vitest'
import { open } from '../../src/open.ts'
import { DataDirectory } from './running-cli.ts'

let directory: DataDirectory

beforeEach(async () => {
  directory = new DataDirectory()
  const mq = await open(directory.url)
  const old = Date.now() - 7_200_000
  await mq.publish(
    'orders',
    Array.from({ length: 6 }, (_, index) => ({
      value: `order ${index}`,
      timestamp: index < 3 ? old : Date.now(),
    })),
  )
  await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 1 }])
  await mq.close()
})
afterEach(() => directory[Symbol.dispose]())

const backlog = (verb: string, ...flags: string[]) =>
  directory.run(['backlog', verb, 'billing', 'orders', ...flags])
const size = async () => Number((await backlog('size')).stdout)
const values = async (topic: string) =>
  (await directory.run(['consume', topic])).stdout.split('\n').filter(Boolean)

test('divert moves what is not handled, once', async () => {
  expect(await backlog('size', '--json')).toMatchObject({
    code: 0,
    stdout: '{"group":"billing","topic":"orders","size":5}\n',
  })
  expect(await backlog('divert', '--to', 'later', '--dry-run')).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/^5 messages would go to later/),
  })
  expect(await size()).toBe(5)
  expect((await backlog('divert', '--to', 'later', '--max', '2')).stderr).toMatch(
    /^2 messages .* there are more/,
  )
  expect((await backlog('divert', '--to', 'later')).stderr).toBe('3 messages are in later now\n')
  expect(await values('later')).toEqual(['order 1', 'order 2', 'order 3', 'order 4', 'order 5'])
  expect(await size()).toBe(0)
})

test('skip and shed', async () => {
  expect((await backlog('shed', '--older-than', '1h', '--dry-run')).stderr).toMatch(/^2 .* would be skipped/)
  expect(await size()).toBe(5)
  expect((await backlog('shed', '--older-than', '1h')).stderr).toMatch(/^2 .* were skipped/)
  expect(await size()).toBe(3)
  expect((await backlog('skip', '--count', '1')).stderr).toMatch(/^1 /)
  expect((await backlog('skip', '--to', 'latest', '--dry-run')).stderr).toMatch(/^2 .* would be/)
  expect((await backlog('skip', '--to', '5')).stderr).toMatch(/^1 /)
  expect(await size()).toBe(1)
})

test('what is not clear is refused, and nothing happens', async () => {
  for (const [verb, ...flags] of [
    ['divert'],
    ['divert', '--to', 'orders'],
    ['skip'],
    ['skip', '--count', '1', '--to', '3'],
    ['skip', '--to', 'earliest'],
    ['shed'],
    ['shed', '--older-than', 'a while'],
  ]) {
    expect((await backlog(verb, ...flags)).code, [verb, ...flags].join(' ')).toBe(2)
  }
  expect(await size()).toBe(5)
})
