/**
 * What the guides to delivery show: code compiles against the published package, what is said to be from an example is in it, and commands do what
 * they say. The programs themselves are run by examples.test.ts.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { commands } from '../../src/cli/commands.ts'
import { TestServer } from '../server/running-server.ts'
import { PublishedPackage, root } from './published-package.ts'

const guides = [
  'dead-letters',
  'delayed-messages',
  'half-messages',
  'migrating-from-bullmq',
  'order-processing',
  'payment-half-messages',
  'queues',
  'scheduled-reminders',
  'workers',
]

interface Block {
  readonly guide: string
  readonly language: string
  /** What stands in the comment before it. */
  readonly mark: string | undefined
  readonly code: string
}

const blocks: readonly Block[] = guides.flatMap(guide => {
  const text = readFileSync(join(root, 'docs/guides', `${guide}.md`), 'utf8')
  const found = text.matchAll(/(?:^<!-- ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```$/gms)
  return [...found].map(([, mark, language, code]) => ({ guide, language, mark, code }))
})

const marked = (mark: string): Block => blocks.find(block => block.mark === mark)!

/** What code in a guide may take for granted. */
const given = `
declare global {
  const mq: import('sluice').Sluice
  const log: (line: string) => void
  const bill: (order: unknown, options?: { signal?: AbortSignal }) => Promise<void>
  const handle: () => Promise<void>
  const deliver: (email: unknown, options?: { signal?: AbortSignal }) => Promise<void>
  const payment: { id: string; cents: number }
  const save: (payment: { id: string; cents: number }) => void
  const isPaid: (id: string) => Promise<boolean>
  const database: { transaction(body: () => void): Promise<void> }
}
export {}
`

let sluice: PublishedPackage
beforeAll(async () => {
  sluice = await PublishedPackage.install()
})
afterAll(() => sluice?.[Symbol.dispose]())

test('code compiles', async () => {
  const folder = join(sluice.path, 'guides')
  mkdirSync(folder)
  const files = [join(folder, 'given.ts')]
  writeFileSync(files[0], given)
  // a guide's blocks one after the other would be a program too, but names may occur again
  for (const [index, { guide, language, mark, code }] of blocks.entries()) {
    if (language !== 'ts' || mark !== undefined) continue
    const file = join(folder, `${guide}-${index}.ts`)
    // a worker that the prose has begun
    const worker = /\bworker\b/.test(code) && !/const worker\b/.test(code)
    const before = worker ? `declare const worker: import('sluice').Worker\n` : ''
    writeFileSync(file, `${before}${code}\nexport {}\n`)
    files.push(file)
  }
  expect(files.length).toBeGreaterThan(15)
  await sluice.typecheck(files)
})

test('what is from an example is in it', () => {
  const taken = blocks.filter(({ mark }) => mark?.startsWith('from: '))
  expect(new Set(taken.map(({ guide }) => guide)).size).toBe(3)
  for (const { guide, mark, code } of taken) {
    const example = readFileSync(join(root, 'examples', mark!.slice('from: '.length)), 'utf8')
    expect(example, guide).toContain(code)
  }
})

test('every mark is known', () => {
  const marks = new Set(blocks.map(({ mark }) => mark).filter(mark => mark?.startsWith('from: ') === false))
  expect([...marks].sort()).toEqual(['bullmq', 'test: commands', 'test: half over http'])
})

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

test('delayed messages on the command line', async () => {
  const { code, stdout, stderr } = await sluice.shell(
    `export SLUICE_URL=./waiting; ${marked('test: commands').code}`,
  )
  expect(code, stderr).toBe(0)
  expect(stdout).toMatch(/^\S+\.cart-ann +\d{4}-\S+ +reminders +ann/m)
  expect(stdout).toMatch(/^report +0 9 \* \* 1-5 +Europe\/Berlin +reports/m)
})

test('half messages from another language', async () => {
  const server = await TestServer.start({ kafkaPort: 'off' })
  onTestFinished(() => server[Symbol.asyncDispose]())
  const [prepare, commit] = marked('test: half over http').code.split('\n\n')
  const requestOf = (command: string) => {
    const [, url] = /['"](http:[^'"]+)['"]/.exec(command)!
    const [, body] = /-d '(.*)'/.exec(command) ?? []
    return { path: new URL(url).pathname, ...(body !== undefined && { body: JSON.parse(body) }) }
  }
  const first = requestOf(prepare)
  const { status, json } = await server.post(first.path, first.body)
  expect(status).toBe(201)
  const { id } = json as { id: string }
  const decided = await server.post(requestOf(commit.replace('$ID', id)).path)
  expect(decided).toEqual({ status: 200, json: { id, decision: 'commit' } })
  expect((await server.get('/consume?topic=payments&wait=10000')).json).toMatchObject({
    messages: [{ key: 'ann', value: { id: 'p1', cents: 1250 } }],
  })
})
