/**
 * The HTTP listener: sockets, limits and drain. What it serves is a Fastify application (`application.ts`), which is loaded when
 * the first request comes: loading takes about 0.1 s and 20 MB that a server without HTTP clients need not spend.
 *
 *   listen ──→ connections counted, refused beyond the limit ──→ first request: application loaded ──→ requests served
 *
 * Every answer that is not a success has the body { "error": { "code", "message", "detail" } } with a code from
 * errors.ts and the status of that row: also for what Node refuses before there is a request.
 */

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { type ErrorCode, errorTable, SluiceError } from '../../errors.ts'
import { listenRefusal } from '../listen-refusal.ts'
import type { Logger } from '../logger.ts'

// Not by `import`: that looks at all that the module has, and so loads a client for HTTP and WebSockets: 25 ms of a start, and its memory.
const { createServer } = process.getBuiltinModule('node:http')

/** How long a refused connection may take to read why. */
const REFUSED_SOCKET_MS = 1000
/** While draining: how often connections are looked at that have become idle. */
const IDLE_CHECK_MS = 50
/** Longer than the usual 60 s of proxies, so that it is they who end a connection and not we under a request of theirs. */
const KEEP_ALIVE_MS = 72_000

/** Serves requests once it is loaded. */
export interface Application {
  handle(request: IncomingMessage, response: ServerResponse): void
  close(): Promise<void>
}

export class HttpServer {
  readonly #draining = new AbortController()
  readonly #connectionsMax: number
  readonly #log: Logger
  readonly #server: Server
  readonly #load: (server: Server) => Promise<Application>
  readonly #sockets = new Set<Socket>()
  #loading: Promise<Application> | undefined
  #application: Application | undefined
  #refusedConnections = 0

  /** `load`: makes the application; called for the first request, and again for the next one if it failed. */
  constructor(connectionsMax: number, log: Logger, load: (server: Server) => Promise<Application>) {
    this.#connectionsMax = connectionsMax
    this.#log = log
    this.#load = load
    this.#server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS })
    this.#server.on('request', (request, response) => this.#receive(request, response))
    this.#server.on('clientError', refuseMalformedRequest)
    this.#guardConnections(this.#server)
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
    const server = this.#server
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        // One socket only: `localhost` may have an address of each family.
        server.listen({ host: host === 'localhost' ? '127.0.0.1' : host, port }, () => {
          server.off('error', reject)
          resolve()
        })
      })
    } catch (error) {
      throw listenRefusal(error, host, port)
    }
    return server.address() as AddressInfo
  }

  /**
   * Stops accepting, ends long polls with what they have, and waits until the requests under way are answered; those
   * that are not by `deadlineMs` are cut off. Returns whether all were answered.
   */
  async drain(deadlineMs: number): Promise<boolean> {
    this.#draining.abort()
    const server = this.#server
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
    const closed = new Promise(resolve => server.close(resolve))
    this.#closeIdle()
    try {
      await closed
      await (await this.#loading?.catch(() => undefined))?.close()
    } finally {
      clearTimeout(deadline)
      clearInterval(idle)
    }
    return finished
  }

  #receive(request: IncomingMessage, response: ServerResponse): void {
    if (this.#application !== undefined) {
      this.#application.handle(request, response)
      return
    }
    this.#loading ??= this.#load(this.#server)
    this.#loading.then(
      application => {
        this.#application = application
        application.handle(request, response)
      },
      error => {
        this.#loading = undefined
        this.#log.error('request failed', { url: request.url, error })
        answerInternal(response)
      },
    )
  }

  /**
   * Connections on which nothing is under way would hold a closing server open. Node counts one that has never sent a byte
   * (browsers and clients open some in advance) among those that are sending a request; we do not.
   */
  #closeIdle(): void {
    this.#server.closeIdleConnections()
    for (const socket of this.#sockets) if (socket.bytesRead === 0) socket.destroy()
  }

  /** Stands before Node's own listener, so that a connection over the limit never becomes a request. */
  #guardConnections(server: Server): void {
    const accept = server.listeners('connection') as ((socket: Socket) => void)[]
    server.removeAllListeners('connection')
    server.on('connection', (socket: Socket) => {
      if (this.#sockets.size >= this.#connectionsMax) {
        this.#refusedConnections++
        const message = `the server has ${this.#connectionsMax} connections open, its limit`
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

export const statusOf = (error: SluiceError) => errorTable[error.code].http

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

function answerInternal(response: ServerResponse): void {
  const refusal = new SluiceError('INTERNAL', 'a defect in the server; its log has more')
  response.writeHead(statusOf(refusal), { 'content-type': 'application/json; charset=utf-8' })
  response.end(JSON.stringify(errorBody(refusal)))
}
