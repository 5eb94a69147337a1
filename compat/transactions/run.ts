/**
 * `npm run compat -- transactions [--rounds N] [--only CLIENT]`: for each client that has transactions two processes that consume,
 * transform and produce (`loop.ts`), against `sluice serve` with flush policy `always`; in each round the server, or one of the
 * processes, or both are killed with SIGKILL and started again. Then the checker, a program of its own, reads input and output.
 *
 *   input, 4 partitions ──→ member 0 ┐                        ┌─→ output, 4 partitions
 *    (with aborted ones)    member 1 ┴─ transactions, some ───┴─→ offsets of the group
 *                                       aborted on purpose
 *
 * When somebody is killed is chosen by progress: after the n-th time that a process says it has sent, is about to commit, has
 * committed, or has aborted; n, which of these and who are drawn anew in each round.
 */

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { Report } from '../check.ts'
import { Connection, SluiceServer } from '../server.ts'
import { type CheckRequest, committedOffsets, type Findings } from './checker.ts'
import { installLibrdkafka, type LoopClient, loopClients } from './clients.ts'
import { Input, PARTITIONS } from './input.ts'
import { readPartition } from './log-files.ts'
import { Loop, type Moment, newTally } from './loop.ts'

const MEMBERS = 2
const ROUND_RECORDS = 160
const MOMENTS: readonly Moment[] = ['sent', 'ending', 'committed', 'aborted']
/** Up to which n-th moment is waited for. */
const NTH_MAX = { sent: 6, ending: 6, committed: 6, aborted: 2 }
const VICTIMS = ['broker', 'member', 'broker', 'member', 'both'] as const
const ROUND_MS_MAX = 90_000
/** No moment for so long: the input may have run dry. */
const DRY_MS = 2000
/** Without progress. */
const END_MS_MAX = 90_000
const POLL_MS = 300

const run = promisify(execFile)

export interface TransactionsOptions {
  readonly rounds: number
  /** Part of the name of a client; empty: all. */
  readonly only: string
}

export async function transactions(
  options: TransactionsOptions,
  cache: string,
  report: Report,
): Promise<void> {
  const { rounds, only } = options
  let reader: string[] | null = null
  await report.case('librdkafka as the second reader', async () => {
    reader = (await installLibrdkafka(cache))('read.py')
  })
  for (const client of loopClients.filter(({ name }) => name.includes(only))) {
    const msMax = rounds * ROUND_MS_MAX + 2 * END_MS_MAX
    await report.case(
      `${client.name}: ${rounds} rounds, each input has its effect once`,
      async () => {
        const command = await client.install(cache)
        await using trial = new Trial(client, command)
        console.log(`  ${await trial.run(rounds, reader)}`)
      },
      msMax,
    )
    if (client.cannotReadAborted !== undefined) {
      report.notRun(`${client.name}: aborted transactions in the input`, client.cannotReadAborted)
    }
  }
}

class Trial implements AsyncDisposable {
  readonly #client: LoopClient
  readonly #command: Awaited<ReturnType<LoopClient['install']>>
  readonly #server = new SluiceServer(['--flush', 'always', '--auto-create-topics', 'false'])
  readonly #input: Input
  readonly #tally = newTally()
  readonly #loops: Loop[] = []
  readonly #folder = mkdtempSync(join(tmpdir(), 'sluice-loops-'))
  readonly #troubles: string[] = []
  #brokerKills = 0
  #onMoment: (moment: string) => void = () => {}

  constructor(client: LoopClient, command: Awaited<ReturnType<LoopClient['install']>>) {
    this.#client = client
    this.#command = command
    this.#input = new Input(`${client.name}-input`, client.cannotReadAborted === undefined)
  }

  get #output(): string {
    return `${this.#client.name}-output`
  }

  get #sums(): string {
    return `${this.#client.name}-sums`
  }

  get #group(): string {
    return `${this.#client.name}-loop`
  }

  /** Resolves with what was seen. */
  async run(rounds: number, reader: readonly string[] | null): Promise<string> {
    await this.#server.start()
    for (const topic of [this.#input.topic, this.#output, this.#sums]) await this.#create(topic)
    await this.#input.add(this.#server.port, ROUND_RECORDS)
    for (let index = 0; index < MEMBERS; index++) this.#start(index)
    for (let round = 0; round < rounds; round++) await this.#round(round)
    await this.#drained()
    await Promise.all(this.#loops.map(loop => loop.end()))
    const found = await this.#check(reader)
    const { committed, aborted, again, killed } = this.#tally
    const kills = `${rounds} rounds; killed: server ${this.#brokerKills}, members ${killed}`
    const told = `members say: ${committed} transactions committed, ${aborted} aborted on purpose, ${again} begun anew`
    const inLog = `${found.records} effects of ${this.#input.count * PARTITIONS} inputs, ${found.abortedRecords} aborted records`
    const markers = `${found.commitMarkers} commit and ${found.abortMarkers} abort markers`
    return `${this.#client.name}: ${kills}; ${told}; in the output: ${inLog}, ${markers}`
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const mine = this.#loops.filter(loop => !loop.hasEnded)
    await Promise.all(mine.map(loop => loop.kill()))
    await this.#server[Symbol.asyncDispose]()
    rmSync(this.#folder, { recursive: true, force: true })
  }

  async #create(topic: string): Promise<void> {
    using connection = await Connection.open(this.#server.address)
    const each = { name: topic, numPartitions: PARTITIONS, replicationFactor: 1, assignments: [] }
    // Small segments, so that transactions and what is known of them lie in several.
    const configs = [{ name: 'segment.bytes', value: '16384' }]
    const body = { topics: [{ ...each, configs }], timeoutMs: 10_000 }
    const answer = (await connection.ask('CreateTopics', 5, body)) as { topics: { errorCode: number }[] }
    assert.equal(answer.topics[0].errorCode, 0, `${topic} could not be made`)
  }

  #start(index: number): void {
    const member = `${this.#client.name}-${index}`
    const folder = join(this.#folder, member)
    mkdirSync(folder, { recursive: true })
    const names = { input: this.#input.topic, output: this.#output, sums: this.#sums, group: this.#group }
    const command = this.#command({ address: this.#server.address, ...names, member, folder })
    const loop = new Loop(member, command, this.#tally)
    loop.onLine = word => this.#onMoment(`${index} ${word}`)
    this.#loops[index] = loop
  }

  async #round(round: number): Promise<void> {
    const victim = VICTIMS[round % VICTIMS.length]
    // Kafka Streams aborts too seldom for that.
    const moment = pick(this.#client.hasSums ? MOMENTS.slice(0, -1) : MOMENTS)
    const nth = 1 + Math.floor(Math.random() * NTH_MAX[moment])
    const index = Math.floor(Math.random() * MEMBERS)
    await this.#input.add(this.#server.port, ROUND_RECORDS)
    await this.#until(moment, nth, victim === 'broker' ? null : index)
    const before = this.#tally.committed
    if (victim !== 'member') await this.#server.end('SIGKILL')
    if (victim !== 'broker') await this.#killMember(index)
    if (victim !== 'member') {
      this.#brokerKills++
      await this.#server.start()
    }
    if (victim !== 'broker') this.#start(index)
    const whom =
      victim === 'broker' ? 'the server' : `member ${index}${victim === 'both' ? ' and the server' : ''}`
    console.log(
      `  ${this.#client.name} round ${round + 1}: ${whom} killed at "${moment}" ${nth}; committed ${before}`,
    )
  }

  async #killMember(index: number): Promise<void> {
    const loop = this.#loops[index]
    assert.ok(!loop.hasEnded, loop.state)
    this.#tally.killed++
    this.#troubles.push(...loop.troubles)
    await loop.kill()
  }

  /** Resolves at once when it is said for the n-th time from now on; `index`: by this member. */
  async #until(moment: Moment, nth: number, index: number | null): Promise<void> {
    let count = 0
    const reached = new Promise<void>(resolve => {
      this.#onMoment = line => {
        const [who, word] = line.split(' ')
        if (word === moment && (index === null || Number(who) === index) && ++count === nth) resolve()
      }
    })
    const deadline = performance.now() + ROUND_MS_MAX
    let isReached = false
    const noted = reached.then(() => {
      isReached = true
    })
    while (!isReached) {
      await Promise.race([noted, sleep(DRY_MS)])
      if (isReached) break
      if (performance.now() > deadline) {
        const left = (await this.#left()).join(', ')
        const states = this.#loops.map(loop => loop.state).join('; ')
        throw new Error(`nobody says "${moment}" any more; not processed: ${left}; ${states}`)
      }
      const ended = this.#loops.find(loop => loop.hasEnded)
      assert.equal(ended, undefined, ended?.state)
      await this.#input.add(this.#server.port, ROUND_RECORDS / 4)
    }
  }

  /** Waits until the group has committed all that there is in the topics that it reads. */
  async #drained(): Promise<void> {
    let deadline = 0
    let before = ''
    for (;;) {
      const left = await this.#left()
      if (left.length === 0) return
      if (`${left}` !== before) deadline = performance.now() + END_MS_MAX
      before = `${left}`
      const states = () => this.#loops.map(loop => loop.state).join('; ')
      assert.ok(performance.now() < deadline, `not processed: ${left.join(', ')}: ${states()}`)
      await sleep(POLL_MS)
    }
  }

  async #left(): Promise<string[]> {
    const committed = await committedOffsets(this.#server.port, this.#group)
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const place = `${this.#input.topic} ${partition}`
      if (!committed.has(place)) committed.set(place, -1)
    }
    return [...committed].flatMap(([place, offset]) => {
      const [topic, partition] = place.split(' ')
      const content = readPartition(this.#server.data, topic, Number(partition))
      const last = content.committed.at(-1)?.offset ?? -1
      const isDone = offset > last && content.open.length === 0
      return isDone
        ? []
        : [`${topic} [${partition}] at ${offset} of ${last + 1}, ${content.open.length} open`]
    })
  }

  async #check(reader: readonly string[] | null): Promise<Findings> {
    const request: CheckRequest = {
      port: this.#server.port,
      data: this.#server.data,
      input: this.#input.topic,
      output: this.#output,
      sums: this.#client.hasSums ? this.#sums : null,
      group: this.#group,
      partitions: PARTITIONS,
      count: this.#input.count,
      reader,
    }
    const program = join(import.meta.dirname, 'checker.ts')
    const { stdout } = await run(process.execPath, [program, JSON.stringify(request)])
    return JSON.parse(stdout) as Findings
  }
}

const pick = <T>(choices: readonly T[]): T => choices[Math.floor(Math.random() * choices.length)]
