/**
 * `npm run compat -- crash`: three clients with idempotent producers send as fast as they are let, with acks=all and flush policy
 * `always`; the server is killed with SIGKILL at a random moment and started again, round after round, while they go on. Then:
 * every record that was acknowledged is in the log, at the offset that was acknowledged, and no record is there twice or out of order.
 *
 *   client ──→ "n offset" for each acknowledged record ──→ compared with the log, read over the protocol at the end
 */

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { RecordCursor } from '../src/record/cursor.ts'
import { NotRunnable, oneLine, type Report } from './check.ts'
import { check as franzGo } from './franz-go/check.ts'
import { goProgramOf } from './go.ts'
import { check as librdkafka } from './librdkafka/check.ts'
import { check as platformatic } from './platformatic/check.ts'
import { pythonOf } from './python.ts'
import { Connection, SluiceServer } from './server.ts'

const PARTITIONS = 3
/** Records per second that a client tries to send. */
const RATE = 10_000
/** A kill comes at a random moment up to this long after all clients have had something acknowledged. */
const KILL_MS_MAX = 1500
const RESUME_MS_MAX = 30_000
const END_MS_MAX = 90_000

const clients = [
  { check: librdkafka, command: (dir: string) => [pythonOf(dir), join(here('librdkafka'), 'flood.py')] },
  { check: franzGo, command: (dir: string) => [goProgramOf(dir)] },
  { check: platformatic, command: () => [process.execPath, join(here('platformatic'), 'flood.ts')] },
]

function here(name: string): string {
  return join(import.meta.dirname, name)
}

export async function crash(rounds: number, cache: string, report: Report): Promise<void> {
  const floods: Flood[] = []
  await using server = new SluiceServer(['--flush', 'always', '--auto-create-topics', 'false'])
  const ready = await report.case(
    `${rounds} rounds of SIGKILL`,
    async () => {
      await server.start()
      for (const { check, command } of clients) {
        const dir = join(cache, check.name)
        mkdirSync(dir, { recursive: true })
        await check.install(dir)
        const topic = `crash-${check.name}`
        using connection = await Connection.open(server.address)
        await connection.ask('CreateTopics', 5, {
          topics: [
            { name: topic, numPartitions: PARTITIONS, replicationFactor: 1, assignments: [], configs: [] },
          ],
          timeoutMs: 10_000,
        })
        floods.push(new Flood(topic, command(dir), server.address))
      }
      for (let round = 1; round <= rounds; round++) await killOnce(server, floods, round)
      await resumed(floods)
      await Promise.all(floods.map(flood => flood.end()))
    },
    (rounds + 1) * 60_000,
  )
  for (const flood of floods) {
    if (!ready) flood.kill()
    await report.case(`${flood.topic}: acknowledged records are there, each once, in order`, async () => {
      if (!ready) throw new NotRunnable('the rounds before it failed')
      console.log(`  ${await compare(server.address, flood)}`)
    })
  }
}

async function killOnce(server: SluiceServer, floods: readonly Flood[], round: number): Promise<void> {
  await resumed(floods)
  const waitMs = Math.random() * KILL_MS_MAX
  await sleep(waitMs)
  await server.end('SIGKILL')
  const acknowledged = floods.map(flood => flood.acknowledged)
  const started = performance.now()
  await server.start()
  const startMs = Math.round(performance.now() - started)
  const after = `killed after ${Math.round(waitMs)} ms of traffic`
  console.log(
    `  round ${round}: ${after}, up again in ${startMs} ms; acknowledged ${acknowledged.join(', ')}`,
  )
}

/** Waits until each client has had something acknowledged since now. */
async function resumed(floods: readonly Flood[]): Promise<void> {
  const before = floods.map(flood => flood.acknowledged)
  const deadline = performance.now() + RESUME_MS_MAX
  while (floods.some((flood, index) => flood.acknowledged === before[index])) {
    const silent = floods.filter((flood, index) => flood.acknowledged === before[index])
    const names = silent.map(flood => `${flood.topic} ${flood.errors.slice(-500)}`)
    assert.ok(performance.now() < deadline, `nothing is acknowledged any more: ${names}`)
    await sleep(10)
  }
}

/** A client's program, and what it was told. */
class Flood {
  readonly topic: string
  /** By number of the record: the offset, where it was acknowledged. */
  readonly offsets: (number | undefined)[] = []
  acknowledged = 0
  errors = ''
  readonly #process: ChildProcess
  readonly #closed: Promise<number | null>

  constructor(topic: string, command: readonly string[], address: string) {
    this.topic = topic
    const args = [...command.slice(1), address, topic, `${PARTITIONS}`, `${RATE}`]
    const child = spawn(command[0], args, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#process = child
    this.#closed = new Promise(resolve => child.once('close', resolve))
    child.once('error', error => {
      this.errors += oneLine(error)
    })
    child.stdin.on('error', () => {})
    child.stderr.setEncoding('utf8').on('data', text => {
      this.errors = (this.errors + text).slice(-10_000)
    })
    createInterface({ input: child.stdout }).on('line', line => {
      const [number, offset] = line.split(' ').map(Number)
      this.offsets[number] = offset
      this.acknowledged++
    })
  }

  /** Lets it end by itself. Rejects if it does not end well. */
  async end(): Promise<void> {
    this.#process.stdin!.end()
    const timer = setTimeout(() => this.kill(), END_MS_MAX)
    const code = await this.#closed
    clearTimeout(timer)
    assert.equal(code, 0, `${this.topic}: the client ended with ${code}: ${this.errors.slice(-500)}`)
  }

  kill(): void {
    this.#process.kill('SIGKILL')
  }
}

/** Throws an AssertionError at the first thing that is not as promised. Resolves with what was found. */
async function compare(address: string, { topic, offsets, acknowledged }: Flood): Promise<string> {
  /** By number: where it is in the log. */
  const found: (number | undefined)[] = []
  let count = 0
  for (let partition = 0; partition < PARTITIONS; partition++) {
    let last = -1
    for await (const { offset, number } of records(address, topic, partition)) {
      const where = `${topic} [${partition}] at offset ${offset}`
      assert.equal(number % PARTITIONS, partition, `${where}: record ${number} is in the wrong partition`)
      assert.equal(found[number], undefined, `${where}: record ${number} was at ${found[number]} already`)
      assert.ok(number > last, `${where}: record ${number} comes after ${last}`)
      found[number] = offset
      last = number
      count++
    }
  }
  for (const [number, offset] of offsets.entries()) {
    if (offset === undefined) continue
    assert.equal(found[number], offset, `record ${number} was acknowledged at offset ${offset}`)
  }
  return `${topic}: ${acknowledged} acknowledged, ${count} in the log`
}

async function* records(address: string, topic: string, partition: number) {
  using connection = await Connection.open(address)
  for (let next = 0; ; ) {
    const batches = await connection.fetch(topic, partition, next, 4 * 1024 * 1024)
    if (batches.length === 0) return
    const cursor = new RecordCursor(batches)
    while (cursor.next()) {
      if (cursor.offset < next) continue
      next = cursor.offset + 1
      const value = cursor.bytes.subarray(cursor.valueStart, cursor.valueStart + cursor.valueBytes)
      yield { offset: cursor.offset, number: Number(value.subarray(0, value.indexOf(':')).toString()) }
    }
  }
}
