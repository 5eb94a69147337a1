/**
 * The HTTP listener: Fastify with our errors, limits and drain. What it serves is in `endpoints.ts`, `metrics.ts`.
 *
 * Every answer that is not a success has the body { "error": { "code", "message", "detail" } } with a code from
 * errors.ts and the status of that row: also for what Fastify or Node refuse before a handler is reached.
 *
 * No page of another origin may talk to it: a request whose `Origin` is not the server itself is refused, and bodies
 * must be `application/json`, which a browser does not send elsewhere unasked. So a server on loopback is safe from
 * what its user happens to browse.
 */

import type { Server, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import Fastify, { type FastifyError, type FastifyInstance, type FastifyRequest } from 'fastify'
import { type ErrorCode, errorTable, isSluiceError, SluiceError } from '../../errors.ts'
import { listenRefusal } from '../listen-refusal.ts'
import type { Logger } from '../logger.ts'

/** How long a refused connection may take to read why. */
const REFUSED_SOCKET_MS = 1000
/** While draining: how often connections are looked at that have become idle. */
const IDLE_CHECK_MS = 50

export interface HttpLimits {
  readonly httpBodyBytesMax: number
  readonly connectionsMax: number
}

/** What an operator wants to know of a listener; read at scrape time. */
export interface RequestObserver {
  request(method: string, route: string, status: number, seconds: number): void
}

export class HttpServer {
  readonly app: FastifyInstance
  readonly #draining = new AbortController()
  readonly #limits: HttpLimits
  readonly #log: Logger
  readonly #sockets = new Set<Socket>()
  #refusedConnections = 0

  constructor(limits: HttpLimits, log: Logger, observer: RequestObserver) {
    this.#limits = limits
    this.#log = log
    this.app = Fastify({
      bodyLimit: limits.httpBodyBytesMax,
      // Values are stored as they come; nothing of a body is ever merged into an object of ours.
      onProtoPoisoning: 'ignore',
      onConstructorPoisoning: 'ignore',
      // While draining, requests on open connections are still served, and told that the connection ends.
      return503OnClosing: false,
      forceCloseConnections: 'idle',
      ajv: {
        customOptions: {
          removeAdditional: false,
          coerceTypes: true,
          allowUnionTypes: true,
          validateSchema: false,
          meta: false,
        },
      },
      clientErrorHandler: refuseMalformedRequest,
    })
    this.app.setErrorHandler((error: Error, request, reply) => {
      const refusal = asRefusal(error, request, limits)
      if (refusal.code === 'INTERNAL') log.error('request failed', { url: request.routeOptions.url, error })
      return reply
        .code(statusOf(refusal))
        .type('application/json; charset=utf-8')
        .send(JSON.stringify(errorBody(refusal)))
    })
    this.app.setNotFoundHandler(request => {
      throw new SluiceError('UNKNOWN_ENDPOINT', `there is no ${request.method} ${pathOf(request.url)}`, {
        method: request.method,
        path: pathOf(request.url),
      })
    })
    this.app.addHook('onRequest', (request, reply, done) => {
      if (this.#draining.signal.aborted) reply.header('connection', 'close')
      done(originRefusal(request))
    })
    this.app.addHook('onResponse', (request, reply, done) => {
      const route = request.routeOptions.url ?? 'unknown'
      observer.request(request.method, route, reply.statusCode, reply.elapsedTime / 1000)
      if (log.writes('debug')) {
        const { method, url } = request
        log.debug('request', { method, url, status: reply.statusCode, ms: Math.round(reply.elapsedTime) })
      }
      done()
    })
    this.#guardConnections(this.app.server)
  }

  /** Connections that are open now, and those refused so far. */
  get connections(): { readonly open: number; readonly refused: number } {
    return { open: this.#sockets.size, refused: this.#refusedConnections }
  }

  /** Aborted once the server drains: a handler that waits for something stops waiting. */
  get draining(): AbortSignal {
    return this.#draining.signal
  }

  /** Throws `ADDRESS_IN_USE`. */
  async listen(host: string, port: number): Promise<AddressInfo> {
    try {
      // Fastify would open a second server for the other address of `localhost`, outside our limits.
      await this.app.listen({ host: host === 'localhost' ? '127.0.0.1' : host, port })
    } catch (error) {
      throw listenRefusal(error, host, port)
    }
    return this.app.server.address() as AddressInfo
  }

  /**
   * Stops accepting, ends long polls with what they have, and waits until the requests under way are answered; those
   * that are not by `deadlineMs` are cut off. Returns whether all were answered.
   */
  async drain(deadlineMs: number): Promise<boolean> {
    this.#draining.abort()
    const server: Server = this.app.server
    let finished = true
    const deadline = setTimeout(() => {
      finished = false
      this.#log.warn('requests cut off at the drain deadline', {
        connections: this.#sockets.size,
        deadlineMs,
      })
      server.closeAllConnections()
    }, deadlineMs)
    const idle = setInterval(() => this.#closeIdle(), IDLE_CHECK_MS)
    this.#closeIdle()
    try {
      await this.app.close()
    } finally {
      clearTimeout(deadline)
      clearInterval(idle)
    }
    return finished
  }

  /**
   * Connections on which nothing is under way would hold a closing server open. Node counts one that has never sent a byte
   * (browsers and clients open some in advance) among those that are sending a request; we do not.
   */
  #closeIdle(): void {
    this.app.server.closeIdleConnections()
    for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
  }

  /** Stands before Node's own listener, so that a connection over the limit never becomes a request. */
  #guardConnections(server: Server): void {
    const accept = server.listeners('connection') as ((socket: Socket) => void)[]
    server.removeAllListeners('connection')
    server.on('connection', (socket: Socket) => {
      if (this.#sockets.size >= this.#limits.connectionsMax) {
        this.#refusedConnections++
        const message = `the server has ${this.#limits.connectionsMax} connections open, its limit`
        refuseSocket(socket, new SluiceError('TOO_MANY_CONNECTIONS', message))
        return
      }
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
      for (const listener of accept) listener.call(server, socket)
    })
  }
}

/** Aborted when the client goes away before it got its answer. */
export function disconnection(response: ServerResponse): AbortSignal {
  const gone = new AbortController()
  response.once('close', () => {
    if (!response.writableFinished) gone.abort()
  })
  return gone.signal
}

export function errorBody(error: SluiceError): {
  error: { code: ErrorCode; message: string; detail: unknown }
} {
  return { error: { code: error.code, message: error.message, detail: error.detail } }
}

const statusOf = (error: SluiceError) => errorTable[error.code].http

const pathOf = (url: string) => url.split('?', 1)[0]

/** Whatever went wrong, as a row of the error table. */
function asRefusal(error: Error, request: FastifyRequest, limits: HttpLimits): SluiceError {
  if (isSluiceError(error)) return error
  const { code, statusCode, validation, validationContext } = error as FastifyError
  if (validation) return asInvalidArgument(validation[0], validationContext ?? 'request')
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new SluiceError('BODY_TOO_LARGE', `the body is larger than ${limits.httpBodyBytesMax} bytes`, {
        bytesMax: limits.httpBodyBytesMax,
      })
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE': {
      const type = request.headers['content-type']
      const message = `send JSON with the header "content-type: application/json"${type ? `, not ${type}` : ''}`
      return new SluiceError('UNSUPPORTED_MEDIA_TYPE', message, { contentType: type })
    }
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new SluiceError('INVALID_ARGUMENT', 'the body is empty: JSON is expected')
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new SluiceError('INVALID_ARGUMENT', 'the body is not JSON')
  }
  if (error instanceof SyntaxError && statusCode === 400) {
    return new SluiceError('INVALID_ARGUMENT', `the body is not JSON: ${error.message}`)
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new SluiceError('INVALID_ARGUMENT', error.message)
  }
  return new SluiceError('INTERNAL', 'a defect in the server; its log has more', {}, error)
}

type Violation = NonNullable<FastifyError['validation']>[number]

/** "querystring/count must be <= 10000" becomes "count must be <= 10000". */
function asInvalidArgument(violation: Violation, context: string): SluiceError {
  const { instancePath, keyword, params, message } = violation
  const path = instancePath.slice(1).replaceAll('/', '.')
  if (keyword === 'required') {
    const name = [path, params.missingProperty].filter(Boolean).join('.')
    return new SluiceError('INVALID_ARGUMENT', `${name} is missing`, { argument: name })
  }
  if (keyword === 'additionalProperties') {
    const name = [path, params.additionalProperty].filter(Boolean).join('.')
    return new SluiceError('INVALID_ARGUMENT', `${name} is not known here`, { argument: name })
  }
  const name = path === '' ? `the ${context}` : path
  return new SluiceError('INVALID_ARGUMENT', `${name} ${message}`, { argument: path || context })
}

function originRefusal(request: FastifyRequest): SluiceError | undefined {
  const origin = request.headers.origin
  if (origin === undefined || origin.replace(/^https?:\/\//, '') === request.headers.host) return
  return new SluiceError('FORBIDDEN_ORIGIN', `a page of ${origin} may not talk to this server`, { origin })
}

/** What Node's parser refuses before there is a request. */
function refuseMalformedRequest(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
  refuseSocket(
    socket,
    new SluiceError('INVALID_ARGUMENT', `not an HTTP request that we can read: ${error.message}`),
  )
}

function refuseSocket(socket: Socket, refusal: SluiceError): void {
  const body = JSON.stringify(errorBody(refusal))
  const status = statusOf(refusal)
  const head = `HTTP/1.1 ${status} ${refusal.code}\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n`
  socket.on('error', () => {})
  socket.end(head + body)
  // Reading on lets the client see the answer instead of a reset; not for ever, though.
  socket.resume()
  setTimeout(() => socket.destroy(), REFUSED_SOCKET_MS).unref()
}
