/**
 * One connection of a client: frames in, requests started in their order, answers out in the same order.
 *
 *   socket ──→ FrameSplitter ──→ queue: [ answered · running · waiting ] ──→ socket
 *
 * Invariants:
 *  - a request starts when all before it are answered, except that requests of an overlapping API (Produce) start while others of
 *    theirs are under way, which lets them share syncs; `IN_FLIGHT_MAX` at most;
 *  - no request starts while more than `UNSENT_BYTES_MAX` of answers wait for the client to take them;
 *  - nothing is read from the socket while `IN_FLIGHT_MAX` requests are queued, or all connections together hold too much;
 *  - bytes that are no request end this connection and no other.
 *
 * Left to others: what the requests mean (`handlers.ts`), who may connect and when all of it ends (`kafka-server.ts`).
 */

import type { Socket } from 'node:net'
import type { Broker } from '../../broker/broker.ts'
import { isSluiceError, SluiceError } from '../../errors.ts'
import { ByteReader } from '../../lib/bytes.ts'
import type { Clock, Timer } from '../../lib/clock.ts'
import { Fifo } from '../../lib/fifo.ts'
import { release, releaseOwned } from '../../lib/memory.ts'
import {
  decodeRequestBody,
  decodeRequestHeader,
  encodeResponse,
  type Frame,
  FrameSplitter,
  type RequestHeader,
} from '../../wire/kafka/frame.ts'
import { type Api, type Encodable, emptyValues, type Fields, includes } from '../../wire/kafka/schema.ts'
import type { Logger } from '../logger.ts'
import { servedApis, UNSUPPORTED_VERSION } from './api-versions-handler.ts'
import { type ConnectionContext, type Handler, kafkaCodeOf, type Node } from './handler.ts'
import type { Holder, Traffic } from './traffic.ts'

const IN_FLIGHT_MAX = 32
const UNSENT_BYTES_MAX = 4 * 1024 * 1024
/** After the last answer: how long a client may take to close its side, before it is closed for it. */
const CLOSING_MS = 1000
const API_VERSIONS = 18

/** What the listener gives all of its connections. */
export interface Surroundings {
  readonly broker: Broker
  readonly handlers: ReadonlyMap<number, Handler>
  readonly traffic: Traffic
  readonly log: Logger
  readonly clock: Clock
  readonly autoCreateTopics: boolean
  /** Kafka's `socket.request.max.bytes`. */
  readonly requestBytesMax: number
}

/** Memory that requests lie in: what was read from the socket in one go, or a request that was put together from several reads. */
interface Received {
  readonly bytes: Buffer
  /** Requests that lie in it and are not answered, or whose bytes may be kept. */
  users: number
}

/** A request on its way. */
interface Exchange {
  readonly handler: Handler
  readonly header: RequestHeader
  /** Stands behind the header. Null once started. */
  reader: ByteReader | null
  readonly received: Received
  readonly bytes: number
  state: 'waiting' | 'running' | 'answered'
  /** Null: there is none to send. */
  answer: Frame | null
}

export class Connection implements ConnectionContext, Holder {
  readonly id: string
  readonly clientHost: string
  readonly log: Logger
  /** On the monotonic clock: when bytes came or went last. */
  lastActive: number
  readonly #socket: Socket
  readonly #node: Node
  readonly #given: Surroundings
  readonly #ending = new AbortController()
  readonly #splitter: FrameSplitter
  /** Answered, but in turn behind others; running; at its end waiting. */
  readonly #queue = new Fifo<Exchange>()
  readonly #waiting = new Fifo<Exchange>()
  #running = 0
  /** The API of what is under way. */
  #runningApi = -1
  #requestBytes = 0
  #partialBytes = 0
  #isDraining = false
  #isClosed = false
  #isAdvancing = false
  #isCorked = false
  #bytesTaken = 0
  #closing: Timer | null = null

  constructor(socket: Socket, id: string, node: Node, given: Surroundings) {
    this.id = id
    this.clientHost = `/${plainAddress(socket.remoteAddress)}`
    this.log = given.log
    this.lastActive = given.clock.monotonic()
    this.#socket = socket
    this.#node = node
    this.#given = given
    this.#splitter = new FrameSplitter(given.requestBytesMax)
    socket.setNoDelay(true)
    socket.setKeepAlive(true, 60_000)
    socket.on('data', chunk => this.#receive(chunk as Buffer))
    socket.on('drain', () => this.#advance())
    socket.on('error', error => given.log.debug('kafka connection broke', { client: this.clientHost, error }))
    socket.on('close', () => this.#closed())
  }

  get signal(): AbortSignal {
    return this.#ending.signal
  }

  get requestBytes(): number {
    return this.#requestBytes
  }

  get partialBytes(): number {
    return this.#partialBytes
  }

  get unsentBytes(): number {
    return this.#socket.writableLength
  }

  /** Whether nothing is under way: neither a request nor an answer. */
  get isIdle(): boolean {
    return this.#queue.length === 0 && this.#waiting.length === 0 && this.unsentBytes === 0
  }

  /** Looks whether the client takes what is sent; that counts as activity. */
  notice(now: number): void {
    const taken = this.#socket.bytesWritten - this.#socket.writableLength
    if (taken !== this.#bytesTaken) this.lastActive = now
    this.#bytesTaken = taken
  }

  /** Ends long polls, answers what has come, then closes. */
  drain(): void {
    if (this.#isDraining || this.#isClosed) return
    this.#isDraining = true
    this.#ending.abort()
    this.#advance()
  }

  /** Closes now. */
  destroy(): void {
    this.#socket.destroy()
  }

  resume(): void {
    if (!this.#isClosed) this.#advance()
  }

  shed(reason: string): void {
    const { clientHost: client, requestBytes, partialBytes, unsentBytes } = this
    this.log.warn(`kafka connection closed: ${reason}`, { client, requestBytes, partialBytes, unsentBytes })
    this.#close()
  }

  // in

  #receive(chunk: Buffer): void {
    this.#given.traffic.counters.bytesIn += chunk.length
    this.lastActive = this.#given.clock.monotonic()
    if (this.#isDraining || this.#isClosed) return
    try {
      const shared: Received = { bytes: chunk, users: 0 }
      this.#splitter.push(chunk)
      for (let frame = this.#splitter.next(); frame !== null; frame = this.#splitter.next()) {
        const received = frame.buffer === chunk.buffer ? shared : { bytes: frame, users: 0 }
        received.users++
        this.#waiting.push(this.#exchangeOf(frame, received))
        this.#hold(frame.length, 0)
      }
      this.#hold(0, this.#splitter.pendingBytes - this.#partialBytes)
      if (shared.users === 0) release(chunk) // what it holds of a request has been copied
    } catch (error) {
      this.#refuse(error)
      return
    }
    this.#advance()
  }

  #exchangeOf(frame: Buffer, received: Received): Exchange {
    const reader = new ByteReader(frame)
    const header = decodeRequestHeader(reader)
    const handler = this.#given.handlers.get(header.apiKey)
    if (handler === undefined) {
      throw new SluiceError('MALFORMED_REQUEST', `there is no API ${header.apiKey} here`, { ...header })
    }
    return { handler, header, reader, received, bytes: frame.length, state: 'waiting', answer: null }
  }

  #hold(complete: number, partial: number): void {
    this.#requestBytes += complete
    this.#partialBytes += partial
    this.#given.traffic.addRequestBytes(complete + partial)
  }

  // onwards

  /** Does all that can be done now: sends what is answered in turn, starts what may start, reads or stops reading. */
  #advance(): void {
    if (this.#isAdvancing || this.#isClosed) return
    this.#isAdvancing = true
    do {
      while (this.#queue.first?.state === 'answered') this.#send(this.#queue.shift()!)
    } while (!this.#isClosed && this.#startNext())
    this.#isAdvancing = false
    if (this.#isClosed) return
    if (this.#isDraining && this.#queue.length === 0 && this.#waiting.length === 0) this.#end()
    else this.#readOrWait()
  }

  #startNext(): boolean {
    const next = this.#waiting.first
    if (next === undefined || this.unsentBytes > UNSENT_BYTES_MAX) return false
    if (this.#queue.length > 0) {
      if (this.#queue.length >= IN_FLIGHT_MAX) return false
      const overlaps = next.handler.overlapping === true && this.#runningApi === next.header.apiKey
      if (this.#running > 0 && !overlaps) return false
    }
    this.#waiting.shift()
    this.#queue.push(next)
    this.#start(next)
    return true
  }

  #readOrWait(): void {
    const socket = this.#socket
    const isFull = this.#queue.length + this.#waiting.length >= IN_FLIGHT_MAX
    if (isFull || this.#given.traffic.mustWait(this)) socket.pause()
    else if (socket.isPaused()) socket.resume()
  }

  #start(exchange: Exchange): void {
    const { handler, header } = exchange
    const { api } = handler
    const { apiVersion: version } = header
    const { broker, traffic, autoCreateTopics } = this.#given
    traffic.counterOf(api.name).requests++
    exchange.state = 'running'
    this.#running++
    this.#runningApi = header.apiKey
    try {
      if (!includes(api.served, version)) {
        this.#finish(exchange, unsupportedVersion(api, version, this.#given.handlers), 0)
        return
      }
      const request = decodeRequestBody(api, version, exchange.reader!)
      const result = handler.handle(request, {
        broker,
        node: this.#node,
        version,
        clientId: header.clientId ?? '',
        connection: this,
        autoCreateTopics,
      })
      if (result instanceof Promise) {
        result.then(
          answer => this.#finish(exchange, answer, version),
          error => this.#fail(exchange, error),
        )
      } else {
        this.#finish(exchange, result, version)
      }
    } catch (error) {
      this.#fail(exchange, error)
    } finally {
      exchange.reader = null
    }
  }

  #finish(exchange: Exchange, answer: Encodable<Fields> | null, version: number): void {
    if (this.#isClosed) return
    const { handler, header } = exchange
    try {
      exchange.answer =
        answer === null ? null : encodeResponse(handler.api, version, header.correlationId, answer)
    } catch (error) {
      this.#refuse(error)
      return
    }
    exchange.state = 'answered'
    if (handler.releasing === true && --exchange.received.users === 0) release(exchange.received.bytes)
    this.#running--
    this.#advance()
  }

  #fail(exchange: Exchange, error: unknown): void {
    if (this.#isClosed) return
    const { handler, header } = exchange
    this.#given.traffic.counterOf(handler.api.name).errors++
    if (isSluiceError(error, 'MALFORMED_REQUEST')) {
      this.#refuse(error)
      return
    }
    if (!isSluiceError(error)) {
      this.log.error('kafka request failed', { api: handler.api.name, version: header.apiVersion, error })
    }
    const answer = errorAnswer(handler.api, header.apiVersion, error)
    if (answer === null) this.#refuse(error)
    else this.#finish(exchange, answer, header.apiVersion)
  }

  // out

  #send(exchange: Exchange): void {
    const { answer, bytes } = exchange
    this.#hold(-bytes, 0)
    if (answer === null || !this.#socket.writable) return
    if (!this.#isCorked) {
      // What is answered in one turn goes out in one call.
      this.#isCorked = true
      this.#socket.cork()
      process.nextTick(() => {
        this.#isCorked = false
        this.#socket.uncork()
        if (this.unsentBytes > 0) this.#given.traffic.checkUnsent()
      })
    }
    this.lastActive = this.#given.clock.monotonic()
    this.#given.traffic.counters.bytesOut += answer.bytes
    const { parts } = answer
    const last = parts.length - 1
    for (let index = 0; index < last; index++) this.#socket.write(parts[index])
    this.#socket.write(parts[last], error => {
      // After an error the system may still be busy with them.
      if (!error) for (const part of parts) releaseOwned(part)
    })
  }

  /** Everything is answered: closes when the client has taken it. */
  #end(): void {
    if (this.#closing !== null) return
    this.#socket.end()
    // What the client still sends is read and dropped: to leave it unread would reset the connection under the answers.
    this.#socket.resume()
    this.#closing = this.#given.clock.after(CLOSING_MS, () => {
      if (this.unsentBytes === 0) this.destroy()
    })
  }

  /** Nothing that follows can be trusted, or answered in its turn. */
  #refuse(error: unknown): void {
    const { clientHost: client } = this
    this.#given.traffic.counters.connectionsFailed++
    if (isSluiceError(error)) this.log.warn('kafka connection closed', { client, error, ...error.detail })
    else this.log.error('kafka connection closed', { client, error })
    this.#close()
  }

  #close(): void {
    this.#isClosed = true
    this.#socket.destroy()
  }

  #closed(): void {
    this.#isClosed = true
    this.#closing?.cancel()
    this.#hold(-this.#requestBytes, -this.#partialBytes)
    this.#given.traffic.forget(this)
    this.#ending.abort()
  }
}

/**
 * ApiVersions in a version that is not known is answered in version 0, with the table: so a client finds out what is. For
 * other APIs there is no way to answer. Throws MALFORMED_REQUEST.
 */
function unsupportedVersion(
  api: Api,
  version: number,
  handlers: ReadonlyMap<number, Handler>,
): Encodable<Fields> {
  if (api.key !== API_VERSIONS) {
    const { min, max } = api.served
    throw new SluiceError(
      'MALFORMED_REQUEST',
      `${api.name} has no version ${version} here: ${min} to ${max} are served`,
      { api: api.name, version },
    )
  }
  const apiKeys = servedApis([...handlers.values()])
  return { errorCode: UNSUPPORTED_VERSION, apiKeys } as Encodable<Fields>
}

/** An answer that says nothing but an error; null where the version has no place for it. */
function errorAnswer(api: Api, version: number, error: unknown): Encodable<Fields> | null {
  const { fields } = api.response
  if (fields.errorCode === undefined || !includes(fields.errorCode.versions, version)) return null
  const answer: Record<string, unknown> = {}
  for (const [name, field] of Object.entries(fields)) {
    if (!field.optional) answer[name] = field.nullable === null ? emptyValues[field.kind] : null
  }
  answer.errorCode = kafkaCodeOf(error)
  if ('errorMessage' in fields && isSluiceError(error)) answer.errorMessage = error.message
  return answer as Encodable<Fields>
}

/** IPv4 as such, not wrapped in IPv6. */
export const plainAddress = (address: string | undefined): string => (address ?? '').replace(/^::ffff:/, '')
