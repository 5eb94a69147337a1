/**
 * A client that sends what it is told: any API, any version, encoded by our own schemas, to any server of Kafka's protocol. One
 * request at a time; each resolves with its answer, or with the bytes of both.
 */

import { connect, type Socket } from 'node:net'
import { type ApiName, apis } from '../src/wire/kafka/apis.ts'
import { decodeResponse, encodeRequest, FrameSplitter } from '../src/wire/kafka/frame.ts'
import type { Api, Decoded, Encodable, Message } from '../src/wire/kafka/schema.ts'

export type RequestInput<Name extends ApiName> =
  (typeof apis)[Name]['request'] extends Message<infer F> ? Encodable<F> : never
export type ResponseOutput<Name extends ApiName> =
  (typeof apis)[Name]['response'] extends Message<infer F> ? Decoded<F> : never

/** A request and its answer as they were on the wire, without their sizes. */
export interface Exchange {
  readonly request: Buffer
  readonly response: Buffer
}

/** Longest wait for an answer. */
const ANSWER_MS_MAX = 15_000
const SIZE_BYTES = 4

export class RawClient {
  readonly #socket: Socket
  readonly #splitter = new FrameSplitter()
  readonly #clientId: string
  #waiting: { resolve(frame: Buffer): void; reject(error: Error): void } | null = null
  #end: Error | null = null
  #nextId = 1

  static async connect(port: number, host = '127.0.0.1', clientId = 'sluice-compat'): Promise<RawClient> {
    const socket = connect(port, host)
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    return new RawClient(socket, clientId)
  }

  private constructor(socket: Socket, clientId: string) {
    this.#socket = socket
    this.#clientId = clientId
    const ended = (error: Error): void => {
      this.#end ??= error
      this.#waiting?.reject(error)
      this.#waiting = null
    }
    socket.on('error', ended)
    socket.on('close', () => ended(new Error('the connection was closed')))
    socket.on('data', chunk => {
      this.#splitter.push(chunk as Buffer)
      for (let frame = this.#splitter.next(); frame !== null; frame = this.#splitter.next()) {
        this.#waiting?.resolve(frame)
        this.#waiting = null
      }
    })
  }

  get isClosed(): boolean {
    return this.#end !== null
  }

  close(): void {
    this.#socket.destroy()
  }

  /** Sends a request that has no answer. */
  post<Name extends ApiName>(name: Name, version: number, body: RequestInput<Name>): void {
    this.#socket.write(this.#encode(name, version, body))
  }

  /** Sends any body under any key and version; resolves with the answer, or null if the connection is closed over it. */
  async raw(key: number, version: number, body: Buffer): Promise<Buffer | null> {
    const head = Buffer.alloc(14)
    head.writeInt32BE(head.length - SIZE_BYTES + body.length, 0)
    head.writeInt16BE(key, 4)
    head.writeInt16BE(version, 6)
    head.writeInt32BE(this.#nextId++, 8)
    head.writeInt16BE(-1, 12)
    try {
      return await this.#send(Buffer.concat([head, body]), `API ${key}`)
    } catch (error) {
      if (this.#end === null) throw error
      return null
    }
  }

  /** Sends a request; resolves with its answer. Rejects if the connection ends or nothing comes. */
  async request<Name extends ApiName>(
    name: Name,
    version: number,
    body: RequestInput<Name>,
  ): Promise<ResponseOutput<Name>> {
    return this.read(name, version, await this.exchange(name, version, body))
  }

  /** What an answer says. */
  read<Name extends ApiName>(name: Name, version: number, { response }: Exchange): ResponseOutput<Name> {
    return decodeResponse(apis[name] as unknown as Api, version, response).body as ResponseOutput<Name>
  }

  /** The same, with the bytes of both. The answer is not looked into. */
  async exchange<Name extends ApiName>(
    name: Name,
    version: number,
    body: RequestInput<Name>,
  ): Promise<Exchange> {
    const id = this.#nextId
    const bytes = this.#encode(name, version, body)
    const response = await this.#send(bytes, `${name} ${version}`)
    if (response.readInt32BE(0) !== id) throw new Error(`${name} ${version}: answer to another request`)
    return { request: bytes.subarray(SIZE_BYTES), response: Buffer.from(response) }
  }

  #encode<Name extends ApiName>(name: Name, version: number, body: RequestInput<Name>): Buffer {
    const id = this.#nextId++
    const api = apis[name] as unknown as Api
    return Buffer.concat(encodeRequest(api, version, id, this.#clientId, body as never).parts)
  }

  async #send(bytes: Buffer, what: string): Promise<Buffer> {
    if (this.#end !== null) throw this.#end
    let timer: NodeJS.Timeout | undefined
    try {
      return await new Promise<Buffer>((resolve, reject) => {
        timer = setTimeout(() => {
          this.#end = new Error(`${what}: no answer`)
          reject(this.#end)
          this.#socket.destroy() // what comes later would be taken for the next answer
        }, ANSWER_MS_MAX)
        this.#waiting = { resolve, reject }
        this.#socket.write(bytes)
      })
    } finally {
      clearTimeout(timer)
      this.#waiting = null
    }
  }
}
