/** The commands on a running server, which is what they talk to unless they are told otherwise. */

import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestServer } from '../server/running-server.ts'
import { type Outcome, type RunOptions, run } from './running-cli.ts'

let server: TestServer
let port: string
beforeAll(async () => {
  server = await TestServer.start({ httpPort: 'off' })
  port = String(server.running.addresses.kafka!.port)
})
afterAll(() => server[Symbol.asyncDispose]())

/** Without `--url`: the server is found where the configuration says that it listens. */
const onServer = (args: readonly string[], options: RunOptions = {}): Promise<Outcome> =>
  run(args, { ...options, environment: { SLUICE_KAFKA_PORT: port } })

test('topics, messages and groups, all through the server', async () => {
  const told = async (args: readonly string[], stdin?: string): Promise<string> => {
    const { code, stdout, stderr } = await onServer(args, stdin === undefined ? {} : { stdin })
    expect(code, stderr).toBe(0)
    return stdout
  }
  await told(['topic', 'create', 'orders', '--partitions', '2', '--set', 'retention.ms=60000'])
  await told(['produce', 'orders', '--partition', '0'], 'a\nb\nc\n')
  await told(['produce', 'orders', '--partition', '1', '--acks', 'written', '--compression', 'lz4'], 'd\n')
  expect((await told(['consume', 'orders'])).split('\n').toSorted()).toEqual(['', 'a', 'b', 'c', 'd'])
  await told(['consume', 'orders', '--group', 'billing', '--members', '2'])
  await told(['produce', 'orders', '--partition', '0'], 'e\n')
  expect(await told(['consume', 'orders', '--group', 'billing'])).toBe('e\n')
  expect(await told(['topic', 'list'])).toMatch(/^orders +2 +5 +\d+ B$/m)
  expect(await told(['topic', 'describe', 'orders'])).toMatch(/retention\.ms +60000/)
  expect(JSON.parse(await told(['group', 'describe', 'billing', '--json']))).toMatchObject({
    state: 'empty',
    partitions: [{ lag: 0 }, { lag: 0 }],
  })
  await told(['group', 'reset', 'billing', '--to', '0:1'])
  expect(await told(['consume', 'orders', '--group', 'billing'])).toBe('b\nc\ne\n')
  await told(['topic', 'alter', 'orders', '--partitions', '3', '--unset', 'retention.ms'])
  await told(['topic', 'delete', 'orders'])
  expect(await server.running.sluice.topics()).toEqual([])
})

test('--follow shows what is published meanwhile, until SIGINT', async () => {
  await onServer(['topic', 'create', 'log'])
  const following = run(['consume', 'log', '--follow', '--group', 'g'], {
    environment: { SLUICE_URL: `kafka://127.0.0.1:${port}` },
    onOutput: (text, signal) => {
      if (text === 'x\n') signal('SIGINT')
    },
  })
  await onServer(['produce', 'log'], { stdin: 'x\n' })
  expect(await following).toEqual({ code: 130, stdout: 'x\n', stderr: '' })
  expect(await onServer(['consume', 'log', '--group', 'g'])).toMatchObject({ code: 0, stdout: '' })
})

test('refusals have the same names as on a directory', async () => {
  for (const [args, code] of [
    [['topic', 'describe', 'nowhere'], 'UNKNOWN_TOPIC'],
    [['consume', 'nowhere'], 'UNKNOWN_TOPIC'],
    [['group', 'describe', 'nobody'], 'UNKNOWN_GROUP'],
    [['topic', 'create', 'a b'], 'INVALID_TOPIC'],
    [['topic', 'create', 't', '--set', 'nonsense=1'], 'INVALID_CONFIG'],
  ] as const) {
    expect((await onServer(args)).stderr).toMatch(new RegExp(`^sluice: ${code}: .*\n$`))
  }
})

test('without a server the refusal says where it was looked for, and how to start one', async () => {
  const gone = await TestServer.start({ httpPort: 'off' })
  const address = `127.0.0.1:${gone.running.addresses.kafka!.port}`
  await gone.running.stop()
  expect(await run(['topic', 'list', '--url', `kafka://${address}`])).toEqual({
    code: 1,
    stdout: '',
    stderr: `sluice: UNREACHABLE: no Kafka server answers: ${address}: connection refused; is the server running? \`sluice serve\` (in a checkout: \`npm start\`) starts one; --url DIRECTORY works without\n`,
  })
})

test.each([
  [{ SLUICE_KAFKA_PORT: 'off' }, /kafka-port is off, so the server cannot be found/],
  [{ SLUICE_URL: 'kafka://127.0.0.1:9092?user=me' }, /is not the address of a cluster/],
])('%j is wrong usage', async (environment, message) => {
  const { code, stderr } = await run(['topic', 'list'], { environment })
  expect(stderr).toMatch(/^sluice: INVALID_URL: .*\n$/)
  expect(stderr).toMatch(message)
  expect(code).toBe(2)
})
