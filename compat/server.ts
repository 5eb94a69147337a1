/**
 * `sluice serve` as a process of its own, from source, on free ports and over a data directory that is removed afterwards; it
 * can be killed and started again over the same data and port. And what a server advertises.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ApiName, apis } from '../src/wire/kafka/apis.ts'
import { decodeResponse, encodeRequest, FrameSplitter } from '../src/wire/kafka/frame.ts'
import type { Api } from '../src/wire/kafka/schema.ts'

const root = join(import.meta.dirname, '..')
const START_MS_MAX = 60_000
/** Marks requests of ours, so that they are not taken for the client's. */
export const OWN_CORRELATION_ID = -71_077_345

export class SluiceServer implements AsyncDisposable {
  /** Where it listens; the same after `start` is called again. */
  port = 0
  readonly data: string
  readonly #flags: readonly string[]
  #process: ChildProcess | null = null
  #errors = ''

  constructor(flags: readonly string[]) {
    this.data = mkdtempSync(join(tmpdir(), 'sluice-compat-'))
    this.#flags = flags
  }

  get address(): string {
    return `127.0.0.1:${this.port}`
  }

  /** Of the process that runs now. */
  get pid(): number {
    if (this.#process?.pid === undefined) throw new Error('sluice serve is not running')
    return this.#process.pid
  }

  /** What it has logged. */
  get errors(): string {
    return this.#errors
  }

  /** Resolves when it listens. */
  async start(): Promise<void> {
    const flags = ['--data', this.data, '--http-port', 'off', '--kafka-port', `${this.port}`, ...this.#flags]
    const child = spawn(process.execPath, [join(root, 'bin/sluice.js'), 'serve', ...flags], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#process = child
    child.stderr.setEncoding('utf8').on('data', text => {
      this.#errors = (this.#errors + text).slice(-100_000)
    })
    this.port = await new Promise<number>((resolve, reject) => {
      let printed = ''
      const fail = (what: string) => reject(new Error(`sluice serve ${what}: ${this.#errors.slice(-500)}`))
      const timer = setTimeout(() => fail('does not say where it listens'), START_MS_MAX)
      child.once('error', reject)
      child.once('exit', code => fail(`ended with ${code}`))
      child.stdout.setEncoding('utf8').on('data', text => {
        printed += text
        const found = /^ +kafka +\S+:(\d+)$/m.exec(printed)
        if (found === null) return
        clearTimeout(timer)
        resolve(Number(found[1]))
      })
    })
  }

  /** Resolves when the process is gone. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const child = this.#process
    this.#process = null
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise(resolve => child.once('exit', resolve))
    child.kill(signal)
    await gone
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end('SIGKILL')
    rmSync(this.data, { recursive: true, force: true })
  }
}

/** A connection of ours, for looking at the server past any client. */
export class Connection implements Disposable {
  readonly #socket: Socket
  readonly #splitter = new FrameSplitter()
  readonly #chunks: AsyncIterator<Buffer>

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#chunks = socket[Symbol.asyncIterator]()
  }

  static async open(address: string): Promise<Connection> {
    const [host, port] = address.split(':')
    const socket = connect(Number(port), host)
    await once(socket, 'connect')
    return new Connection(socket)
  }

  /** Asks one thing at a time. */
  async ask(name: ApiName, version: number, body: object): Promise<unknown> {
    const api = apis[name] as unknown as Api
    const { parts } = encodeRequest(api, version, OWN_CORRELATION_ID, 'compat', body as never)
    for (const part of parts) this.#socket.write(part)
    for (;;) {
      const frame = this.#splitter.next()
      if (frame !== null) return decodeResponse(api, version, frame).body
      const { value, done } = await this.#chunks.next()
      if (done) throw new Error(`the server closed the connection instead of answering ${name}`)
      this.#splitter.push(value)
    }
  }

  /** Batches from the one that holds the offset on; empty at the end. */
  async fetch(topic: string, partition: number, fetchOffset: number, bytesMax: number): Promise<Buffer> {
    const partitions = [{ partition, fetchOffset, partitionMaxBytes: bytesMax }]
    const answer = await this.ask('Fetch', 11, {
      maxWaitMs: 0,
      minBytes: 0,
      topics: [{ topic, partitions }],
    })
    const { responses } = answer as {
      responses: { partitions: { errorCode: number; records: Uint8Array | null }[] }[]
    }
    const { errorCode, records } = responses[0].partitions[0]
    if (errorCode !== 0) throw new Error(`fetching ${topic} [${partition}] gives error ${errorCode}`)
    return Buffer.from(records ?? [])
  }

  [Symbol.dispose](): void {
    this.#socket.destroy()
  }
}

/** Names of the APIs that the server at an address serves. */
export async function advertised(address: string): Promise<ReadonlySet<ApiName>> {
  using connection = await Connection.open(address)
  const { apiKeys } = (await connection.ask('ApiVersions', 0, {})) as { apiKeys: { apiKey: number }[] }
  return new Set(apiKeys.flatMap(({ apiKey }) => nameOf(apiKey) ?? []))
}

/** What the headers of the first batches of a partition say, up to a mebibyte of them. */
export async function batchesOf(
  address: string,
  topic: string,
  partition: number,
): Promise<{ codec: number; producerId: bigint }[]> {
  using connection = await Connection.open(address)
  const bytes = await connection.fetch(topic, partition, 0, 1024 * 1024)
  const found: { codec: number; producerId: bigint }[] = []
  for (let at = 0; at + 61 <= bytes.length; at += 12 + bytes.readInt32BE(at + 8)) {
    found.push({ codec: bytes.readInt16BE(at + 21) & 7, producerId: bytes.readBigInt64BE(at + 43) })
  }
  return found
}

/** `classic` or `consumer`; undefined: there is no such group. */
export async function groupTypeOf(address: string, groupId: string): Promise<string | undefined> {
  using connection = await Connection.open(address)
  const { groups } = (await connection.ask('ListGroups', 5, {})) as {
    groups: { groupId: string; groupType: string }[]
  }
  return groups.find(group => group.groupId === groupId)?.groupType.toLowerCase()
}

export function nameOf(key: number): ApiName | undefined {
  return (Object.keys(apis) as ApiName[]).find(name => apis[name].key === key)
}
