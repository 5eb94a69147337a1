/**
 * One connection to a broker. The socket, its frames, time-outs and requests in flight are those of @platformatic/kafka;
 * what is in a request and a response is ours to say (wire/kafka), because the engine's currency is the record batch as
 * bytes, and the client's own produce and fetch encode and decode records.
 *
 *     call(api, body) ─► wire/kafka: bytes ─► Connection.send ─► broker
 *                                                                  │
 *     response       ◄─ wire/kafka: object ◄─ parser  ◄────────────┘
 *
 * A broker answers the requests of a connection in their order: whoever waits long (a fetch, a join) has a link of
 * its own. Invariants: a call resolves or rejects within the link's time-out; a link that has failed once stays closed.
 * The package is loaded with the first link: a queue in this process never pays for it.
 */

import type { Connection } from '@platformatic/kafka'
import { SluiceError } from '../errors.ts'
import { ByteReader, ByteWriter } from '../lib/bytes.ts'
import { apiVersionsApi } from '../wire/kafka/api-versions.ts'
import { decode, encode } from '../wire/kafka/codec.ts'
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
  /** The broker does not answer this request (produce without acknowledgement). */
  readonly isUnanswered?: boolean
}

const CONNECT_TIMEOUT_MS = 10_000
/** Requests on the way; more wait in this process. */
const IN_FLIGHT_MAX = 64
/** Version of the first request: brokers that do not know it answer so that version 0 can be read. */
const API_VERSIONS_VERSION = 3
const UNSUPPORTED_VERSION = 35

export const addressText = ({ host, port }: Address): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`

const loadClient = (): Promise<typeof import('@platformatic/kafka')> => import('@platformatic/kafka')

export class KafkaLink {
  readonly address: Address
  /** Resolves when the link is closed, by whomever. */
  readonly closed: Promise<void>
  readonly #client: typeof import('@platformatic/kafka')
  readonly #connection: Connection
  #versions: ReadonlyMap<number, VersionRange> = new Map()
  #isOpen = true
  #pendingCount = 0

  private constructor(
    client: typeof import('@platformatic/kafka'),
    address: Address,
    { clientId, requestTimeoutMs }: LinkOptions,
  ) {
    this.#client = client
    this.address = address
    this.#connection = new client.Connection(clientId, {
      connectTimeout: CONNECT_TIMEOUT_MS,
      requestTimeout: requestTimeoutMs,
      maxInflights: IN_FLIGHT_MAX,
      handleBackPressure: true,
    })
    const { promise, resolve } = Promise.withResolvers<void>()
    this.closed = promise
    const end = (): void => {
      this.#isOpen = false
      resolve()
    }
    this.#connection.on('error', end)
    this.#connection.on('close', end)
  }

  /** Connects and asks what the broker can do. Rejects with `UNREACHABLE`. */
  static async open(address: Address, options: LinkOptions, signal: AbortSignal): Promise<KafkaLink> {
    const link = new KafkaLink(await loadClient(), address, options)
    const close = (): void => link.close()
    signal.addEventListener('abort', close, { once: true })
    void link.closed.then(() => signal.removeEventListener('abort', close))
    try {
      signal.throwIfAborted()
      await link.#connection.connect(address.host, address.port)
      await link.#learnVersions()
      link.#connection.socket.unref()
      return link
    } catch (error) {
      link.close()
      throw error instanceof SluiceError ? error : unreachable(address, error)
    }
  }

  get isOpen(): boolean {
    return this.#isOpen && this.#connection.isConnected()
  }

  /**
   * Asks and resolves with the answer; error codes in it are the caller's to look at. Bytes in `body` are copied before
   * this returns. Rejects with `UNREACHABLE` (the connection broke; `detail.sent` if the broker may have seen the request),
   * `TIMED_OUT`, `UNSUPPORTED`.
   */
  call<Request extends Fields, Response extends Fields>(
    api: Api<Request, Response>,
    body: Encodable<Request>,
    options: CallOptions = {},
  ): Promise<Decoded<Response>> {
    return this.#send(api, this.#versionFor(api, options.versionMax), body, options.isUnanswered ?? false)
  }

  /** Whether the broker has this API in a version that we know. */
  has(api: Api): boolean {
    return this.#commonVersion(api, Number.POSITIVE_INFINITY) !== null
  }

  /** At once; what is under way is rejected. */
  close(): void {
    this.#isOpen = false
    // A client that waits for its connection learns of the end by this, and by nothing else.
    this.#connection.close().catch(() => {})
    this.#connection.socket?.destroy()
  }

  #send<Request extends Fields, Response extends Fields>(
    api: Api<Request, Response>,
    version: number,
    body: Encodable<Request>,
    isUnanswered: boolean,
  ): Promise<Decoded<Response>> {
    const { Writer } = this.#client
    const isFlexible = version >= api.flexibleFrom
    const createPayload = () => {
      const bytes = new ByteWriter()
      encode(api.request, version, bytes, body)
      const writer = Writer.create()
      for (const part of bytes.finish().parts) if (part.length > 0) writer.append(part as Buffer)
      if (isUnanswered) writer.context.noResponse = true
      return writer
    }
    const { promise, resolve, reject } = Promise.withResolvers<Decoded<Response>>()
    // An open link does not keep the process running, an unanswered call does.
    if (this.#pendingCount++ === 0) this.#connection.socket.ref()
    this.#connection.send<Decoded<Response>>(
      api.key,
      version,
      createPayload,
      (_correlationId, _key, _version, reader) =>
        decode(api.response, version, new ByteReader(reader.buffer.buffer, reader.position)),
      isFlexible,
      isFlexible && api.key !== apiVersionsApi.key,
      (error, response) => {
        if (--this.#pendingCount === 0) this.#connection.socket.unref()
        if (error) reject(this.#refusalOf(api, error))
        else resolve(response as Decoded<Response>)
      },
    )
    return promise
  }

  async #learnVersions(): Promise<void> {
    const about = { clientSoftwareName: 'sluice', clientSoftwareVersion: '1' }
    let { errorCode, apiKeys } = await this.#send(apiVersionsApi, API_VERSIONS_VERSION, about, false)
    if (errorCode === UNSUPPORTED_VERSION)
      ({ errorCode, apiKeys } = await this.#send(apiVersionsApi, 0, about, false))
    this.#versions = new Map(
      apiKeys.map(({ apiKey, minVersion, maxVersion }) => [apiKey, { min: minVersion, max: maxVersion }]),
    )
  }

  #commonVersion(api: Api, versionMax: number): number | null {
    const offered = this.#versions.get(api.key)
    if (offered === undefined) return null
    const version = Math.min(offered.max, api.versions.max, versionMax)
    return version >= Math.max(offered.min, api.versions.min) ? version : null
  }

  #versionFor(api: Api, versionMax = Number.POSITIVE_INFINITY): number {
    const version = this.#commonVersion(api, versionMax)
    if (version !== null) return version
    throw new SluiceError(
      'UNSUPPORTED',
      `${addressText(this.address)} does not offer ${api.name} in a version that is known here`,
      { api: api.name, offered: this.#versions.get(api.key) ?? null },
    )
  }

  #refusalOf(api: Api, error: Error): SluiceError {
    this.close()
    if (error instanceof SluiceError) return error
    const { address } = this
    if (error instanceof this.#client.TimeoutError) {
      const message = `${addressText(address)} did not answer ${api.name} in time`
      return new SluiceError('TIMED_OUT', message, { ...address, api: api.name, sent: true }, error)
    }
    const message = `the connection to ${addressText(address)} was lost during ${api.name}`
    return new SluiceError('UNREACHABLE', message, { ...address, api: api.name, sent: true }, error)
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
