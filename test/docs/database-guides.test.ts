/** What the guides about databases show is from the examples, or compiles; and the examples do what they say. idempotent-redis.ts is run by `npm run test:services`. */

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { commands } from '../../src/cli/commands.ts'
import { PublishedPackage, root } from './published-package.ts'

const guides = ['exactly-once-postgresql', 'idempotent-redis', 'outbox', 'reconciliation']

const blocks = guides.flatMap(guide => {
  const text = readFileSync(join(root, 'docs/guides', `${guide}.md`), 'utf8')
  const found = text.matchAll(/(?:^<!-- from: ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```$/gms)
  return [...found].map(([, example, language, code]) => ({ guide, language, example, code }))
})

/** What code in a guide may take for granted. */
const given = `
declare global {
  const mq: import('sluice').Sluice
  const bill: (order: unknown) => Promise<void>
}
export {}
`

let sluice: PublishedPackage
beforeAll(async () => {
  sluice = await PublishedPackage.install()
  sluice.copy('examples')
}, 120_000)
afterAll(() => sluice?.[Symbol.dispose]())

test('what is from an example is in it', () => {
  const taken = blocks.filter(({ example }) => example !== undefined)
  expect(new Set(taken.map(({ guide }) => guide)).size).toBe(4)
  for (const { guide, example, code } of taken)
    expect(readFileSync(join(root, 'examples', example), 'utf8'), guide).toContain(code)
})

test('the rest compiles', async () => {
  const folder = join(sluice.path, 'guides')
  mkdirSync(folder)
  const files = [join(folder, 'given.ts')]
  writeFileSync(files[0], given)
  for (const [index, { guide, language, example, code }] of blocks.entries()) {
    if (language !== 'ts' || example !== undefined) continue
    files.push(join(folder, `${guide}-${index}.ts`))
    writeFileSync(files.at(-1)!, `${code}\nexport {}\n`)
  }
  expect(files).toHaveLength(5)
  await sluice.typecheck(files)
}, 120_000)

test('commands exist, with the flags that are shown', () => {
  for (const { guide, code } of blocks.filter(({ language }) => language === 'sh')) {
    for (const line of code.split('\n').filter(text => text.startsWith('sluice '))) {
      const row = commands.find(({ path }) => line.startsWith(`sluice ${path} `) || line === `sluice ${path}`)
      expect(row, `${guide}: ${line}`).toBeDefined()
      for (const [flag] of line.matchAll(/ --[a-z-]+/g)) {
        const isKnown = row!.options?.some(({ flags }) => ` ${flags} `.includes(`${flag.trim()} `))
        expect(isKnown, `${guide}: ${line}: ${flag}`).toBe(true)
      }
    }
  }
})

test.each([
  [
    'outbox-postgresql.ts',
    [
      '3 messages wait in the outbox',
      'ann {"id":"o1","cents":1250}',
      'ann {"id":"o4","cents":499}',
      'bob {"id":"o2","cents":3000}',
      'order o3 is too large',
    ],
  ],
  [
    'exactly-once-postgresql.ts',
    ['balances: 45150 cents, expected 45150', 'published 600 messages, handled 300'],
  ],
  [
    'reconcile-orders.ts',
    [
      '997 as they should be, 3 not',
      'order 17 was not paid: remind the customer',
      'order 42 was paid, and there is no such order',
      'order 500 was paid with another amount',
      'order 99 was paid 2 times',
    ],
  ],
  ['outbox-adapters.ts', ['2 messages wait in the outbox']],
])(
  '%s',
  async (name, lines) => {
    const { code, stdout, stderr } = await sluice.run(join(sluice.path, 'examples', name))
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout.trim().split('\n').sort()).toEqual(lines)
  },
  120_000,
)

test('a driver that is not installed is named', async () => {
  rmSync(join(sluice.path, 'node_modules/pg')) // a link
  const { code, stderr } = await sluice.run(sluice.command, [
    'outbox',
    'status',
    '--database',
    'postgres://app@127.0.0.1:1/shop',
  ])
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: 'sluice: DRIVER_MISSING: the driver of this database is not installed; run: npm install pg\n',
  })
})
