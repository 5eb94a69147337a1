/** The programs in examples/ compile against the published package, run, and do what they say. */

import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { PublishedPackage, root } from './published-package.ts'

const programs = readdirSync(join(root, 'examples'), { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts'))
  .sort()

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
  await sluice.typecheck(programs.map(name => join(sluice.path, 'examples', name)))
})

test('all of them have a test', () => {
  const tested = ['consumer-group.ts', 'fire-and-forget.ts', 'hello.ts', 'typed-topics.ts']
  const jobs = ['debian-packages/consume.ts', 'debian-packages/json-lines.ts'] // test/jobs
  expect(programs).toEqual([...tested, ...jobs].sort())
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
