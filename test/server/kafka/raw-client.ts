/** A Kafka listener over an empty broker in memory, and a client that sends what it is told, byte for byte if need be. */

import { connect, type Socket } from 'node:net'
import { Writable } from 'node:stream'
import { Broker } from '../../../src/broker/broker.ts'
import type { Topic } from '../../../src/broker/catalog.ts'
import { memoryDisk } from '../../../src/lib/disk-memory.ts'
import { BatchBuilder, type CloseOptions } from '../../../src/record/builder.ts'
import { KafkaServer, type KafkaServerOptions } from '../../../src/server/kafka/kafka-server.ts'
import { createLogger } from '../../../src/server/logger.ts'
import { type ApiName, apis, type RequestOf } from '../../../src/wire/kafka/apis.ts'
import { decodeResponse, encodeRequest, FrameSplitter } from '../../../src/wire/kafka/frame.ts'
import type { Api, Decoded, Encodable, Message } from '../../../src/wire/kafka/schema.ts'
import { VirtualClock } from '../../sim/virtual-clock.ts'

type RequestInput<Name extends ApiName> =
  (typeof apis)[Name]['request'] extends Message<infer F> ? Encodable<F> : never
export type ResponseOutput<Name extends ApiName> =
  (typeof apis)[Name]['response'] extends Message<infer F> ? Decoded<F> : never
export type { RequestOf }

/** Time passes when the test says so; what is deferred runs by itself, since sockets do not wait for tests. */
class SocketClock extends VirtualClock {
  override defer(run: () => void): void {
    setImmediate(run)
  }
}

/** Resolves when `condition` holds, having let events happen. Rejects when it does not come to that. */
export async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`this does not come true: ${condition}`)
    await new Promise(setImmediate)
  }
}

export class RawServer implements AsyncDisposable {
  readonly clock = new SocketClock()
  readonly logged: string[] = []
  readonly #clients: RawClient[] = []
  broker!: Broker
  kafka!: KafkaServer
  port = 0

  static async start(options: Partial<KafkaServerOptions> = {}): Promise<RawServer> {
    const server = new RawServer()
    const { clock, logged } = server
    const output = new Writable({
      write(chunk, _encoding, done) {
        logged.push(String(chunk))
        done()
      },
    })
    const log = createLogger({ level: 'warn', format: 'text', output, clock })
    server.broker = await Broker.open({ disk: memoryDisk(), path: 'memory', clock })
    server.kafka = new KafkaServer({
      broker: server.broker,
      log,
      clock,
      autoCreateTopics: true,
      connectionsMax: 100,
      ...options,
    })
    server.port = (await server.kafka.listen('127.0.0.1', 0)).port
    return server
  }

  async client(): Promise<RawClient> {
    const client = await RawClient.connect(this.port)
    this.#clients.push(client)
    return client
  }

  topic(name: string, partitions = 1, config: Record<string, string> = {}): Promise<Topic> {
    return this.broker.createTopic({ name, partitions, config })
  }

  /** Resolves when so many requests of an API have started. */
  started(api: ApiName, count: number): Promise<void> {
    return until(() => (this.kafka.counters.requests.get(api)?.requests ?? 0) >= count)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close()
    await this.kafka.drain(0)
    await this.broker.close()
  }
}

export class RawClient {
  readonly socket: Socket
  /** Answers that nobody has asked for yet, without their size. */
  readonly #frames: Buffer[] = []
  readonly #splitter = new FrameSplitter()
  #nextId = 1
  #isClosed = false

  static async connect(port: number): Promise<RawClient> {
    const socket = connect(port, '127.0.0.1')
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    return new RawClient(socket)
  }

  private constructor(socket: Socket) {
    this.socket = socket
    socket.on('error', () => {})
    socket.on('close', () => {
      this.#isClosed = true
    })
    socket.on('data', chunk => {
      this.#splitter.push(chunk as Buffer)
      for (let frame = this.#splitter.next(); frame !== null; frame = this.#splitter.next()) {
        this.#frames.push(frame)
      }
    })
  }

  get isClosed(): boolean {
    return this.#isClosed
  }

  /** Answers that have come and were not taken. */
  get answers(): number {
    return this.#frames.length
  }

  /** Resolves when the server has closed the connection. */
  closed(): Promise<void> {
    return until(() => this.#isClosed)
  }

  close(): void {
    this.socket.destroy()
  }

  /** Sends a request; resolves with its answer, which must be the next one. */
  async request<Name extends ApiName>(
    name: Name,
    version: number,
    body: RequestInput<Name>,
  ): Promise<ResponseOutput<Name>> {
    return this.answer(name, version, this.send(name, version, body))
  }

  /** Sends a request and returns its correlation id. */
  send<Name extends ApiName>(name: Name, version: number, body: RequestInput<Name>): number {
    const id = this.#nextId++
    this.socket.write(encode(name, version, id, body))
    return id
  }

  /** Takes the next answer, which must be the one to this request. Rejects if the connection ends instead. */
  async answer<Name extends ApiName>(name: Name, version: number, id: number): Promise<ResponseOutput<Name>> {
    await until(() => this.#frames.length > 0 || this.#isClosed)
    const frame = this.#frames.shift()
    if (frame === undefined) throw new Error('the connection was closed')
    const { correlationId, body } = decodeResponse(apis[name] as unknown as Api, version, frame)
    if (correlationId !== id) throw new Error(`answer to ${correlationId} where that to ${id} was due`)
    return body as ResponseOutput<Name>
  }
}

export function encode<Name extends ApiName>(
  name: Name,
  version: number,
  id: number,
  body: RequestInput<Name>,
): Buffer {
  const { parts } = encodeRequest(apis[name] as unknown as Api, version, id, 'raw', body as never)
  return Buffer.concat(parts)
}

/** A batch of records with these values. */
export function batchOf(values: readonly string[], options: CloseOptions = {}, timestamp = 1000): Buffer {
  const builder = new BatchBuilder()
  for (const [index, value] of values.entries()) builder.append(timestamp + index, null, value, null)
  return Buffer.from(builder.close(options))
}

/** What to send to produce one batch into one partition. */
export const produceOf = (topic: string, records: Buffer | null, acks = -1, index = 0) => ({
  acks,
  timeoutMs: 1000,
  topicData: [{ name: topic, partitionData: [{ index, records }] }],
})

/** What to send to fetch partitions of one topic. */
export const fetchOf = (
  topic: string,
  partitions: readonly { partition: number; fetchOffset: number; partitionMaxBytes?: number }[],
  options: Partial<RequestInput<'Fetch'>> = {},
): RequestInput<'Fetch'> => ({
  maxWaitMs: 0,
  minBytes: 1,
  topics: [{ topic, partitions: partitions.map(each => ({ partitionMaxBytes: 1024 * 1024, ...each })) }],
  ...options,
})
