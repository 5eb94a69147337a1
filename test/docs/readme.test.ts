/** What the README shows is run as it is printed there, on the package as it is published. */

import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { optionRow } from '../../src/server/options.ts'
import { outcomeOf, PublishedPackage, root } from './published-package.ts'

const readme = readFileSync(join(root, 'README.md'), 'utf8')

/** The code behind `<!-- test: NAME -->`, by name. */
const blocks = new Map(
  [...readme.matchAll(/^<!-- test: ([^\n]+) -->\n```\w+\n(.*?)^```$/gms)].map(([, name, code]) => [
    name,
    code,
  ]),
)

/** The code of the first block under a heading. */
const under = (heading: string): string =>
  new RegExp(`^## ${heading}\n.*?^\`\`\`\\w+\n(.*?)^\`\`\`$`, 'ms').exec(readme)![1]

let sluice: PublishedPackage
beforeAll(async () => {
  sluice = await PublishedPackage.install()
  if (!hasCurl()) installCurl()
})
afterAll(() => sluice?.[Symbol.dispose]())

test('every block that says it is tested is', () => {
  expect([...blocks.keys()]).toEqual(['first steps', 'first program'])
  expect(readme.match(/<!-- test:/g)).toHaveLength(blocks.size)
})

test('first steps: publish with curl, consume with curl, kill -9, start again: still there', async () => {
  const [publish, consume] = blocks.get('first steps')!.split('\n\n')
  expect(publish).toContain(`http://127.0.0.1:${optionRow('http-port').default}/`)
  const first = await startServer()
  expect(await curl(publish, first.url)).toEqual({ topic: 'greetings', partition: 0, offset: 0 })
  const consumed = await curl(consume, first.url)
  expect(consumed).toMatchObject({ messages: [{ offset: 0, key: 'ann', value: 'hello' }] })

  process.kill(first.pid, 'SIGKILL')
  expect(await first.ended).toMatchObject({ signal: 'SIGKILL' })
  const second = await startServer()
  expect(await curl(consume, second.url)).toEqual(consumed)
  process.kill(second.pid, 'SIGTERM')
  expect(await second.ended).toMatchObject({ code: 0 })
})

test('first program: compiles, prints what it says, and the second run goes on behind the first', async () => {
  const code = blocks.get('first program')!
  const program = join(sluice.path, 'program.ts')
  writeFileSync(program, code)
  await sluice.typecheck([program])
  for (const run of [1, 2]) {
    const { code: exitCode, stdout, stderr } = await sluice.run(program)
    expect({ run, exitCode, stderr, lines: stdout.trim().split('\n').sort() }).toEqual({
      run,
      exitCode: 0,
      stderr: '',
      lines: ['ann 12.5', 'bob 30'],
    })
  }
  const described = await sluice.shell('sluice group describe billing --json --url ./data')
  const { partitions } = JSON.parse(described.stdout)
  const sum = (field: string) =>
    partitions.reduce((total: number, one: Record<string, number>) => total + one[field], 0)
  expect({ committed: sum('committed'), lag: sum('lag') }).toEqual({ committed: 4, lag: 0 })
  expect(readFileSync(join(root, 'examples/hello.ts'), 'utf8').endsWith(`*/\n\n${code}`)).toBe(true)
})

test('the command line does what it shows, with the server that is started', async () => {
  const commands = under('The command line').replace('seq 1000000', 'seq 10000').replace('sluice bench\n', '') // has tests of its own
  const folder = join(sluice.path, 'shown')
  mkdirSync(folder)
  const server = await startServer(folder)
  const { code, stdout, stderr } = await sluice.shell(
    `cd shown; export SLUICE_KAFKA_PORT=${server.kafkaPort}; ${commands}`,
  )
  expect(code, stderr).toBe(0)
  expect(stderr).toContain('published 10,000 messages to orders')
  expect(stderr).toContain('no damage')
  expect(stdout.match(/^\d+$/gm)).toHaveLength(10)
  process.kill(server.pid, 'SIGTERM')
  expect(await server.ended).toMatchObject({ code: 0 })
})

interface Server {
  readonly url: string
  readonly kafkaPort: string
  readonly pid: number
  readonly ended: ReturnType<typeof outcomeOf>
}

/** `npm start`, without npm in between and on free ports; its data is in a folder, by default that of the package. */
async function startServer(folder?: string): Promise<Server> {
  const packagePath = join(sluice.path, 'node_modules/sluice')
  const { scripts } = JSON.parse(readFileSync(join(packagePath, 'package.json'), 'utf8'))
  const [node, ...args] = scripts.start.split(' ')
  expect(node).toBe('node')
  const [script, ...command] = args
  const child = sluice.start(
    process.execPath,
    [join(packagePath, script), ...command, '--http-port', '0', '--kafka-port', '0'],
    folder ?? packagePath,
  )
  const listening = Promise.withResolvers<{ url: string; kafkaPort: string }>()
  const ended = outcomeOf(child, text => {
    const found = /(http:\/\/127\.0\.0\.1:\d+)\n +kafka +127\.0\.0\.1:(\d+)\n/.exec(text)
    if (found) listening.resolve({ url: found[1], kafkaPort: found[2] })
  })
  ended.then(({ stderr }) => listening.reject(new Error(`the server ended: ${stderr}`)))
  return { ...(await listening.promise), pid: child.pid!, ended }
}

/** Runs a command of the README against this server. */
async function curl(command: string, url: string): Promise<unknown> {
  const { code, stdout, stderr } = await sluice.shell(
    command.replaceAll('http://127.0.0.1:8080', url).replace('curl', 'curl -sS --fail-with-body'),
  )
  expect(code, `${stdout}${stderr}`).toBe(0)
  return JSON.parse(stdout)
}

function hasCurl(): boolean {
  try {
    execFileSync('curl', ['--version'])
    return true
  } catch {
    return false
  }
}

/** A small image of a system may lack curl: this knows as much of it as the README uses. */
function installCurl(): void {
  const path = join(sluice.path, 'node_modules/.bin/curl')
  writeFileSync(
    path,
    `#!/usr/bin/env node
const { values, positionals } = require('node:util').parseArgs({
  allowPositionals: true,
  options: {
    'fail-with-body': { type: 'boolean' },
    silent: { type: 'boolean', short: 's' },
    'show-error': { type: 'boolean', short: 'S' },
    method: { type: 'string', short: 'X' },
    header: { type: 'string', short: 'H', multiple: true },
    data: { type: 'string', short: 'd' },
  },
})
const headers = (values.header ?? []).map(text => text.split(': '))
fetch(positionals[0], { method: values.method, headers, body: values.data }).then(async answer => {
  process.stdout.write(await answer.text())
  process.exitCode = answer.ok ? 0 : 22
})
`,
  )
  chmodSync(path, 0o755)
}
