/**
 * A client's program that consumes, transforms and produces in transactions, and what it says while it does. Its arguments are
 *
 *   ADDRESS INPUT OUTPUT GROUP MEMBER
 *
 * It reads INPUT as a member of GROUP with read_committed, and writes each record to the same partition of OUTPUT, its value followed by
 * `|MEMBER.TRANSACTION`; the offsets are committed in the same transaction. Every seventh transaction it aborts on purpose, and does
 * it again. When its standard input ends it finishes and leaves the group. It prints one line for each of these:
 *
 *   sent N        records and offsets of a transaction were taken by the server; it is not ended
 *   ending        it is about to commit
 *   committed N
 *   aborted N     on purpose (Kafka Streams: and otherwise)
 *   thrown WHY    the application threw on purpose (Kafka Streams alone, which aborts in no other way)
 *   again WHY     something went wrong: it aborts, or begins anew with what is committed
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

export type Moment = 'sent' | 'ending' | 'committed' | 'aborted'

export interface Tally {
  committed: number
  aborted: number
  again: number
  killed: number
  records: number
}

export const newTally = (): Tally => ({ committed: 0, aborted: 0, again: 0, killed: 0, records: 0 })

const ENDED_MS_MAX = 40_000

/** One process, from start to end. */
export class Loop {
  readonly member: string
  /** Called with each line's first word as it comes. */
  onLine: (word: string) => void = () => {}
  /** Why it began anew, the last few. */
  readonly troubles: string[] = []
  #errors = ''
  #hasEnded: string | null = null
  readonly #process: ChildProcess
  readonly #closed: Promise<string>

  constructor(member: string, command: readonly string[], tally: Tally) {
    this.member = member
    const child = spawn(command[0], command.slice(1), { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#process = child
    child.stdin.on('error', () => {})
    child.stderr.setEncoding('utf8').on('data', text => {
      this.#errors = (this.#errors + text).slice(-4000)
    })
    child.once('error', error => {
      this.#errors += error.message
    })
    this.#closed = new Promise(resolve => {
      child.once('close', (code, signal) => {
        this.#hasEnded = `${signal ?? code}`
        resolve(this.#hasEnded)
      })
    })
    createInterface({ input: child.stdout }).on('line', line => {
      const [word, rest] = line.split(' ', 2)
      if (word === 'committed') {
        tally.committed++
        tally.records += Number(rest)
      } else if (word === 'aborted') tally.aborted++
      else if (word === 'again') {
        tally.again++
        if (this.troubles.length < 20) this.troubles.push(line.slice(6, 300))
      }
      this.onLine(word)
    })
  }

  /** What it has written to its standard error, and why it ended, if it did. */
  get state(): string {
    const ended = this.#hasEnded === null ? 'runs' : `ended with ${this.#hasEnded}`
    return `${this.member} ${ended} ${this.troubles.at(-1) ?? ''} ${this.#errors.slice(-600)}`
  }

  get hasEnded(): boolean {
    return this.#hasEnded !== null
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.#closed
  }

  /** Lets it end by itself. Rejects if it does not end well. */
  async end(): Promise<void> {
    this.#process.stdin!.end()
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), ENDED_MS_MAX)
    const how = await this.#closed
    clearTimeout(timer)
    if (how !== '0') throw new Error(this.state)
  }
}
