/**
 * One connection to a broker: a socket, requests on their way, and their answers in the same order.
 *
 *     call(api, body) ─► encodeRequest ─► socket ─► broker
 *       │                                             │
 *       └─ pending: [ 7 8 9 ]                         │
 *                     ▲                               │
 *     response ◄── decodeResponse ◄── FrameSplitter ◄─┘
 *
 * A broker answers the requests of a connection in their order: whoever waits long (a fetch, a join) has a link of
 * its own. Invariants: a call resolves or rejects within the link's time-out; a link that has failed once stays closed, and
 * all that was on its way is rejected then.
 */

import { connect, type Socket } from 'node:net'
import { SluiceError } from '../errors.ts'
import { systemClock, type Timer } from '../lib/clock.ts'
import { apiVersionsApi } from '../wire/kafka/api-versions.ts'
import { decodeResponse, encodeRequest, FrameSplitter } from '../wire/kafka/frame.ts'
import type { Api, Decoded, Encodable, Fields, VersionRange } from '../wire/kafka/schema.ts'

export interface Address {
  readonly host: string
  readonly port: number
}

export interface LinkOptions {
  readonly clientId: string
  /** Longest that an answer may take, in milliseconds. Then the link is closed. */
  readonly requestTimeoutMs: number
}

export interface CallOptions {
  /** The highest version to use, if not the highest that both sides know. */
  readonly versionMax?: number
  /** The lowest version that will do. */
  readonly versionMin?: number
  /** The broker does not answer this request (produce without acknowledgement). */
  readonly isUnanswered?: boolean
}

/** A request on its way. */
interface Pending {
  readonly api: Api
  readonly version: number
  readonly timer: Timer
  resolve(response: unknown): void
  reject(error: SluiceError): void
}

const CONNECT_TIMEOUT_MS = 10_000
/** Largest answer: what one fetch asks for, and a batch that is larger than that. */
const FRAME_BYTES_MAX = 256 * 1024 * 1024
/** Version of the first request: brokers that do not know it answer so that version 0 can be read. */
const API_VERSIONS_VERSION = 3
const UNSUPPORTED_VERSION = 35
const CORRELATION_MASK = 0x7fff_ffff

export const addressText = ({ host, port }: Address): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`

export class KafkaLink {
  readonly address: Address
  /** Resolves when the link is closed, by whomever. */
  readonly closed: Promise<void>
  readonly #options: LinkOptions
  readonly #socket: Socket
  readonly #splitter = new FrameSplitter(FRAME_BYTES_MAX)
  /** By correlation id, in the order in which they were sent. */
  readonly #pending = new Map<number, Pending>()
  #correlationId = 0
  #versions: ReadonlyMap<number, VersionRange> = new Map()
  #features: ReadonlyMap<string, number> = new Map()
  #isOpen = true

  private constructor(socket: Socket, address: Address, options: LinkOptions) {
    this.address = address
    this.#options = options
    this.#socket = socket
    this.closed = new Promise(resolve => socket.once('close', () => resolve()))
    socket.on('data', chunk => this.#receive(chunk as Buffer))
    socket.on('error', error => this.#fail(error))
    socket.on('close', () => this.#fail(new Error('closed by the other side')))
  }

  /** Connects and asks what the broker can do. Rejects with `UNREACHABLE`. */
  static async open(address: Address, options: LinkOptions, signal: AbortSignal): Promise<KafkaLink> {
    try {
      const link = new KafkaLink(await connected(address, signal), address, options)
      const close = (): void => link.close()
      signal.addEventListener('abort', close, { once: true })
      void link.closed.then(() => signal.removeEventListener('abort', close))
      try {
        signal.throwIfAborted()
        await link.#learnVersions()
        return link
      } catch (error) {
        link.close()
        throw error
      }
    } catch (error) {
      throw error instanceof SluiceError ? error : unreachable(address, error)
    }
  }

  get isOpen(): boolean {
    return this.#isOpen
  }

  /**
   * Asks and resolves with the answer; error codes in it are the caller's to look at. Bytes in `body` must stay as they are
   * until then. Rejects with `UNREACHABLE` (the connection broke; `detail.sent` if the broker may have seen the request),
   * `TIMED_OUT`, `UNSUPPORTED`, `MALFORMED_REQUEST` (what came is no answer).
   */
  async call<Request extends Fields, Response extends Fields>(
    api: Api<Request, Response>,
    body: Encodable<Request>,
    options: CallOptions = {},
  ): Promise<Decoded<Response>> {
    const version = this.#versionFor(api, options)
    return await this.#send(api, version, body, options.isUnanswered ?? false)
  }

  /** Whether the broker has this API in a version that we know. */
  has(api: Api): boolean {
    return this.#commonVersion(api, {}) !== null
  }

  /** The level at which the cluster has a feature (`transaction.version`); 0: it has not. */
  feature(name: string): number {
    return this.#features.get(name) ?? 0
  }

  /** At once; what is under way is rejected. */
  close(): void {
    this.#fail(new Error('closed'))
  }

  #send<Request extends Fields, Response extends Fields>(
    api: Api<Request, Response>,
    version: number,
    body: Encodable<Request>,
    isUnanswered: boolean,
  ): Promise<Decoded<Response>> {
    if (!this.#isOpen) return Promise.reject(this.#lost(api, false))
    const id = this.#correlationId
    this.#correlationId = (id + 1) & CORRELATION_MASK
    const { parts } = encodeRequest(api, version, id, this.#options.clientId, body)
    return new Promise((resolve, reject) => {
      const timer = systemClock.after(this.#options.requestTimeoutMs, () => this.#late(api))
      const pending = { api: api as unknown as Api, version, timer, resolve, reject } as Pending
      // An open link does not keep the process running, an unanswered call does.
      if (this.#pending.size === 0) this.#socket.ref()
      this.#pending.set(id, pending)
      const socket = this.#socket
      // Handed to the system, that is all that will be heard of it.
      const onWritten = (error?: Error | null): void => {
        if (!error) this.#take(id)?.resolve(undefined)
      }
      socket.cork()
      const last = parts.length - 1
      for (const [index, part] of parts.entries())
        socket.write(part, isUnanswered && index === last ? onWritten : undefined)
      socket.uncork()
    })
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id)
    if (pending === undefined) return undefined
    this.#pending.delete(id)
    pending.timer.cancel()
    if (this.#pending.size === 0) this.#socket.unref()
    return pending
  }

  #receive(chunk: Buffer): void {
    if (!this.#isOpen) return
    try {
      this.#splitter.push(chunk)
      for (let frame = this.#splitter.next(); frame !== null; frame = this.#splitter.next())
        this.#answer(frame)
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error
      this.#fail(error)
    }
  }

  #answer(frame: Buffer): void {
    const [[id, pending] = [-1, null]] = this.#pending
    if (pending === null || frame.length < 4 || frame.readInt32BE(0) !== id) {
      const message = `${addressText(this.address)} sent an answer to nothing that it was asked`
      throw new SluiceError('MALFORMED_REQUEST', message, { ...this.address })
    }
    const { body } = decodeResponse(pending.api, pending.version, frame)
    this.#take(id)
    pending.resolve(body)
  }

  #late(api: { readonly name: string }): void {
    const { address } = this
    const message = `${addressText(address)} did not answer ${api.name} in time`
    this.#fail(new SluiceError('TIMED_OUT', message, { ...address, api: api.name, sent: true }))
  }

  /** Whatever the cause, nothing can be told from what comes after. */
  #fail(cause: Error): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    this.#socket.destroy()
    for (const [id, { api, reject }] of [...this.#pending]) {
      this.#take(id)
      reject(cause instanceof SluiceError ? cause : this.#lost(api, true, cause))
    }
  }

  #lost(api: { readonly name: string }, sent: boolean, cause?: Error): SluiceError {
    const { address } = this
    const message = `the connection to ${addressText(address)} was lost during ${api.name}`
    return new SluiceError('UNREACHABLE', message, { ...address, api: api.name, sent }, cause)
  }

  async #learnVersions(): Promise<void> {
    const about = { clientSoftwareName: 'sluice', clientSoftwareVersion: '1' }
    let answer = await this.#send(apiVersionsApi, API_VERSIONS_VERSION, about, false)
    if (answer.errorCode === UNSUPPORTED_VERSION) answer = await this.#send(apiVersionsApi, 0, about, false)
    const { apiKeys, finalizedFeatures } = answer
    this.#versions = new Map(
      apiKeys.map(({ apiKey, minVersion, maxVersion }) => [apiKey, { min: minVersion, max: maxVersion }]),
    )
    this.#features = new Map(finalizedFeatures.map(({ name, maxVersionLevel }) => [name, maxVersionLevel]))
  }

  #commonVersion(
    api: Api,
    { versionMin = 0, versionMax = Number.POSITIVE_INFINITY }: CallOptions,
  ): number | null {
    const offered = this.#versions.get(api.key)
    if (offered === undefined) return null
    const version = Math.min(offered.max, api.versions.max, versionMax)
    return version >= Math.max(offered.min, api.versions.min, versionMin) ? version : null
  }

  #versionFor(api: Api, options: CallOptions): number {
    const version = this.#commonVersion(api, options)
    if (version !== null) return version
    throw new SluiceError(
      'UNSUPPORTED',
      `${addressText(this.address)} does not offer ${api.name} in a version that is known here`,
      { api: api.name, offered: this.#versions.get(api.key) ?? null },
    )
  }
}

/** A socket that is connected. The wait for it does not end by itself if the other side does not say anything. */
async function connected({ host, port }: Address, signal: AbortSignal): Promise<Socket> {
  signal.throwIfAborted()
  const socket = connect({ host, port, noDelay: true, keepAlive: true })
  const late = systemClock.after(CONNECT_TIMEOUT_MS, () => socket.destroy(new Error('no answer')))
  const onAbort = (): void => {
    socket.destroy(new Error('closed'))
  }
  signal.addEventListener('abort', onAbort)
  try {
    return await new Promise<Socket>((resolve, reject) => {
      socket.once('connect', () => resolve(socket))
      socket.once('error', reject)
    })
  } finally {
    late.cancel()
    signal.removeEventListener('abort', onAbort)
    socket.removeAllListeners('error')
  }
}

function unreachable(address: Address, cause: unknown): SluiceError {
  const reason = `${addressText(address)}: ${systemReason(cause)}`
  return new SluiceError('UNREACHABLE', reason, { ...address, sent: false }, cause)
}

/** What the system said: `connection refused`. */
function systemReason(error: unknown): string {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const first: Error = cause instanceof AggregateError && cause.errors.length > 0 ? cause.errors[0] : cause
    const code = (first as NodeJS.ErrnoException).code
    if (code === 'ECONNREFUSED') return 'connection refused'
    if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return 'there is no such host'
    if (code !== undefined && /^E[A-Z]+$/.test(code)) return first.message
  }
  return error instanceof Error ? error.message : String(error)
}
