/**
 * The steps that the scenario asks of a client, and a client in a program of its own that carries them out:
 *
 *   → {"op":"produce","topic":"t","codec":"zstd","records":[{"partition":0,"key":"aw==","value":null,"headers":[["h","dg=="]],"timestamp":1}]}
 *   ← {"result":null}     or     ← {"error":"TopicAlreadyExists: …"}
 *
 * One JSON text per line, one answer per request, in order. Keys, values and header values are base64 or null. The request has the
 * names of the parameters of the method called `op`. The program ends when its standard input does.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Received, Sent } from './records.ts'

export type Codec = 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd'
export type Protocol = 'classic' | 'consumer'

/** Each may reject with the client's own exception; its name and message are compared. */
export interface Driver {
  create(topic: string, partitions: number): Promise<unknown>
  /** Produces to the partitions named, with acks=all; resolves when all are acknowledged. */
  produce(topic: string, codec: Codec, records: readonly Sent[]): Promise<unknown>
  /** Reads from the beginning of all partitions, without a group, until it has `count`. */
  read(topic: string, partitions: number, count: number): Promise<Received[]>
  /** Asks for the offset of a time, seeks there, and reads one record. */
  readAt(topic: string, partition: number, timestamp: number): Promise<Received>
  topics(): Promise<string[]>
  groups(): Promise<string[]>
  remove(topic: string): Promise<unknown>
  /**
   * Starts a consumer under this name (of ours), which subscribes in a group, reads from the earliest offset where nothing is
   * committed, does not commit by itself, and goes on polling until it leaves. Need not wait for an assignment.
   */
  join(member: string, group: string, topic: string, protocol: Protocol): Promise<unknown>
  /** The partitions that the member has now. */
  assigned(member: string): Promise<number[]>
  /** What the member has received since it joined, as `partition:offset`. */
  received(member: string): Promise<string[]>
  /** Commits what was received. */
  commit(member: string): Promise<unknown>
  /** Closes the consumer, leaving the group. */
  leave(member: string): Promise<unknown>
  close(): Promise<unknown>
}

interface WireRecord {
  partition: number
  offset: number
  key: string | null
  value: string | null
  headers: [string, string | null][]
  timestamp: number
}

/** A client in a process that speaks the lines above. */
export class ProcessDriver implements Driver {
  readonly #process: ChildProcess
  readonly #waiting: { resolve: (result: never) => void; reject: (error: Error) => void }[] = []
  #errors = ''
  #ended: string | null = null

  constructor(command: string, args: readonly string[], env: Record<string, string> = {}) {
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } })
    this.#process = child
    child.stderr.setEncoding('utf8').on('data', text => {
      this.#errors = (this.#errors + text).slice(-4000)
    })
    child.stdin.on('error', () => {})
    child.once('error', error => this.#end(`cannot be run: ${error.message}`))
    // Not 'exit': what it printed last is read before.
    child.once('close', (code, signal) => this.#end(`ended with ${signal ?? code}`))
    createInterface({ input: child.stdout }).on('line', line => {
      const waiting = this.#waiting.shift()
      if (waiting === undefined) return
      let answer: { result: never; error?: string }
      try {
        answer = JSON.parse(line)
      } catch {
        waiting.reject(new Error(`the program printed ${line}`))
        return
      }
      if (answer.error === undefined) waiting.resolve(answer.result)
      else waiting.reject(new Error(answer.error))
    })
  }

  create(topic: string, partitions: number) {
    return this.#ask('create', { topic, partitions })
  }
  produce(topic: string, codec: Codec, records: readonly Sent[]) {
    return this.#ask('produce', { topic, codec, records: records.map(toWire) })
  }
  async read(topic: string, partitions: number, count: number) {
    return (await this.#ask<WireRecord[]>('read', { topic, partitions, count })).map(fromWire)
  }
  async readAt(topic: string, partition: number, timestamp: number) {
    return fromWire(await this.#ask('readAt', { topic, partition, timestamp }))
  }
  topics() {
    return this.#ask<string[]>('topics')
  }
  groups() {
    return this.#ask<string[]>('groups')
  }
  remove(topic: string) {
    return this.#ask('remove', { topic })
  }
  join(member: string, group: string, topic: string, protocol: Protocol) {
    return this.#ask('join', { member, group, topic, protocol })
  }
  assigned(member: string) {
    return this.#ask<number[]>('assigned', { member })
  }
  received(member: string) {
    return this.#ask<string[]>('received', { member })
  }
  commit(member: string) {
    return this.#ask('commit', { member })
  }
  leave(member: string) {
    return this.#ask('leave', { member })
  }

  async close(): Promise<void> {
    if (this.#ended !== null) return
    const gone = new Promise(resolve => this.#process.once('close', resolve))
    this.#process.stdin!.end()
    const timer = setTimeout(() => this.#process.kill('SIGKILL'), 5000)
    await gone
    clearTimeout(timer)
  }

  #ask<Result>(op: string, parameters: Record<string, unknown> = {}): Promise<Result> {
    if (this.#ended !== null) return Promise.reject(new Error(this.#ended))
    return new Promise<Result>((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#process.stdin!.write(`${JSON.stringify({ op, ...parameters })}\n`)
    })
  }

  #end(what: string): void {
    this.#ended ??= `the client's program ${what}: ${this.#errors.slice(-1500)}`
    for (const { reject } of this.#waiting.splice(0)) reject(new Error(this.#ended))
  }
}

const toBase64 = (data: Buffer | null) => (data === null ? null : data.toString('base64'))
const fromBase64 = (text: string | null) => (text === null ? null : Buffer.from(text, 'base64'))

function toWire({ headers, key, value, ...rest }: Sent) {
  return {
    ...rest,
    key: toBase64(key),
    value: toBase64(value),
    headers: headers.map(([name, data]) => [name, toBase64(data)]),
  }
}

function fromWire({ headers, key, value, ...rest }: WireRecord): Received {
  return {
    ...rest,
    key: fromBase64(key),
    value: fromBase64(value),
    headers: headers.map(([name, data]) => [name, fromBase64(data) ?? Buffer.alloc(0)]),
  }
}
