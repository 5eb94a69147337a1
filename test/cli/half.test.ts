/** `sluice half …` on a data directory, in which nobody carries decisions out. */

import { afterEach, beforeEach, expect, test } from 'vitest'
import { open } from '../../src/open.ts'
import { DataDirectory } from './running-cli.ts'

let directory: DataDirectory
let ids: string[]

beforeEach(async () => {
  directory = new DataDirectory()
  const mq = await open({ url: directory.url, relay: false })
  const prepare = (value: string) =>
    mq.half.prepare('payments', { key: 'ann', value, headers: { a: 'b' } }, { checker: 'bank' })
  ids = [(await prepare('{"cents":1}')).id, (await prepare('two')).id]
  await mq.close()
})
afterEach(() => directory[Symbol.dispose]())

const half = (...args: string[]) => directory.run(['half', ...args])

const undecided = async () =>
  (await half('list', '--json')).stdout
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line))

test('list and show', async () => {
  expect((await half('list')).stdout).toMatch(new RegExp(`^${ids[0]} +\\d{4}-\\S+ +payments +bank +0$`, 'm'))
  expect(await undecided()).toEqual(
    expect.arrayContaining([
      expect.objectContaining({
        id: ids[0],
        topic: 'payments',
        key: 'ann',
        value: { cents: 1 },
        headers: { a: 'b' },
      }),
      expect.objectContaining({ id: ids[1], value: 'two', checks: 0, checker: 'bank' }),
    ]),
  )
  expect(await half('list', '-n', '1')).toMatchObject({ stderr: expect.stringContaining('more than 1') })
  expect((await half('show', ids[1])).stdout).toMatch(/: for payments, undecided\n[\s\S]*\n\ntwo\n$/)
  expect(await half('show', '0-0-0000000000000000')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('UNKNOWN_HALF_MESSAGE'),
  })
})

test('commit and rollback: the first decision counts', async () => {
  expect(await half('commit', ids[0], '--dry-run')).toMatchObject({ code: 0, stdout: `${ids[0]}\n` })
  expect(await undecided()).toHaveLength(2)
  expect(await half('commit', ids[0])).toMatchObject({ code: 0, stdout: `${ids[0]}\n` })
  expect((await undecided()).map(({ id }) => id)).toEqual([ids[1]])
  expect((await half('show', ids[0])).stdout).toContain('deciding (commit)')
  expect(await half('rollback', ids[0], ids[1])).toMatchObject({
    code: 1,
    stdout: `${ids[1]}\n`,
    stderr: expect.stringContaining('HALF_DECIDED'),
  })
  expect(await half('list')).toMatchObject({ code: 0, stderr: expect.stringContaining('undecided') })
})
