/**
 * How long the command takes from its start to the first record that it has acknowledged over Kafka's protocol, a new topic included, and what
 * memory it takes while it idles:
 *
 *     npm run bench:start -- [--rounds 10] [--json FILE]
 *
 * `first`: with nothing compiled before, as after an installation. `start`: as any later one. Each in a new data directory, flush `always`.
 * It runs what `npm start` runs: the bundle, or the source when that is newer (`npm run bundle` makes it anew).
 */

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { RawClient } from '../compat/raw-client.ts'
import { BatchBuilder } from '../src/record/builder.ts'

const COMMAND = join(import.meta.dirname, '../bin/sluice.js')
const IDLE_MS = 3_000
const POLL_MS = 2

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '10' }, json: { type: 'string' } },
})

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

async function connected(port: number): Promise<RawClient> {
  for (;;) {
    try {
      return await RawClient.connect(port)
    } catch {
      await sleep(POLL_MS) // not listening yet
    }
  }
}

/** Stores one record in a topic that the request for metadata makes. */
async function publish(client: RawClient): Promise<void> {
  const topics = [{ name: 't' }]
  for (let code = -1; code !== 0; ) {
    const metadata = await client.request('Metadata', 8, { topics, allowAutoTopicCreation: true })
    code = metadata.topics[0].errorCode
  }
  const builder = new BatchBuilder()
  builder.append(Date.now(), 'key', 'value', null)
  const partitions = [{ index: 0, records: Buffer.from(builder.close()) }]
  const request = { transactionalId: null, acks: -1, timeoutMs: 5_000 }
  const { responses } = await client.request('Produce', 8, {
    ...request,
    topicData: [{ name: 't', partitionData: partitions }],
  })
  const { errorCode } = responses[0].partitionResponses[0]
  if (errorCode !== 0) throw new Error(`the record is refused with ${errorCode}`)
}

interface Start {
  readonly ms: number
  /** Only of the rounds that idle. */
  readonly idleMiB?: number
}

async function start(compiled: string, idles: boolean): Promise<Start> {
  const data = mkdtempSync(join(tmpdir(), 'sluice-start-'))
  const [kafka, http] = [await freePort(), await freePort()]
  const args = [
    'serve',
    '--data',
    data,
    '--kafka-port',
    `${kafka}`,
    '--http-port',
    `${http}`,
    '--log-level',
    'warn',
  ]
  const env = { ...process.env, NODE_COMPILE_CACHE: compiled }
  const begun = performance.now()
  const server = spawn(process.execPath, [COMMAND, ...args], { stdio: ['ignore', 'ignore', 'inherit'], env })
  const ended = once(server, 'exit')
  try {
    const client = await connected(kafka)
    await publish(client)
    const ms = performance.now() - begun
    client.close()
    if (!idles) return { ms }
    await sleep(IDLE_MS)
    const rss = execFileSync('ps', ['-o', 'rss=', '-p', `${server.pid}`], { encoding: 'utf8' })
    return { ms, idleMiB: Number(rss) / 1_024 }
  } finally {
    server.kill('SIGTERM')
    await ended
    rmSync(data, { recursive: true, force: true })
  }
}

const median = (numbers: readonly number[]): number =>
  numbers.toSorted((one, other) => one - other)[Math.floor(numbers.length / 2)]

const shown = (name: string, starts: readonly Start[]): string => {
  const all = starts.map(({ ms }) => ms)
  const range = [Math.min(...all), median(all), Math.max(...all)].map(ms => ms.toFixed(0))
  return `${name}: from ${range[0]} to ${range[2]} ms, median ${range[1]}`
}

const rounds = Number(values.rounds)
const found = { first: [] as Start[], start: [] as Start[] }
const compiled = mkdtempSync(join(tmpdir(), 'sluice-compiled-'))
try {
  for (let round = 0; round < rounds; round++) {
    const empty = mkdtempSync(join(tmpdir(), 'sluice-compiled-'))
    found.first.push(await start(empty, false))
    rmSync(empty, { recursive: true, force: true })
  }
  await start(compiled, false)
  for (let round = 0; round < rounds; round++) found.start.push(await start(compiled, round === rounds - 1))
} finally {
  rmSync(compiled, { recursive: true, force: true })
}
console.log(shown('first', found.first))
console.log(shown('start', found.start))
console.log(`idle: ${found.start.at(-1)?.idleMiB?.toFixed(0)} MiB, ${IDLE_MS / 1_000} s after it`)
const machine = `${cpus()[0].model.trim()}, ${cpus().length} cores, Node ${process.version}`
const report = { date: new Date().toISOString(), machine, options: values, found }
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`)
