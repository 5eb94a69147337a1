/**
 * Stands between a client and the server and notes which version of which API the client sends; passes every byte on as it is.
 *
 *   client ──→ observer ──→ server          request   size int32 │ api key int16 │ version int16 │ correlation id int32 │ …
 *
 * The server must advertise the observer's address, or clients go past it.
 */

import { connect, createServer, type Server, type Socket } from 'node:net'
import { OWN_CORRELATION_ID } from './server.ts'

const HEAD_BYTES = 12

export class Observer implements AsyncDisposable {
  /** Versions seen, by API key. */
  readonly seen = new Map<number, Set<number>>()
  readonly #sockets = new Set<Socket>()
  readonly #server: Server
  #target = 0

  private constructor() {
    this.#server = createServer({ noDelay: true }, socket => this.#accept(socket))
  }

  /** Listens at once; connections are passed on to what `to` names later. */
  static async listen(): Promise<Observer> {
    const observer = new Observer()
    await new Promise<void>(resolve => observer.#server.listen(0, '127.0.0.1', resolve))
    return observer
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port
  }

  to(port: number): void {
    this.#target = port
  }

  #accept(client: Socket): void {
    const server = connect({ port: this.#target, host: '127.0.0.1', noDelay: true })
    const headers = new HeaderReader((key, version) => {
      const versions = this.seen.get(key) ?? new Set()
      this.seen.set(key, versions.add(version))
    })
    client.on('data', chunk => headers.push(chunk as Buffer))
    for (const [from, to] of [
      [client, server],
      [server, client],
    ]) {
      this.#sockets.add(from)
      from.pipe(to)
      from.on('error', () => to.destroy())
      from.on('close', () => {
        this.#sockets.delete(from)
        to.destroy()
      })
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise(resolve => this.#server.close(resolve))
  }
}

/** Finds the first bytes of each frame in a stream, however it is cut. */
class HeaderReader {
  readonly #head = Buffer.alloc(HEAD_BYTES)
  readonly #onHeader: (key: number, version: number) => void
  #filled = 0
  /** Bytes of the current frame that are still to come. */
  #skip = 0

  constructor(onHeader: (key: number, version: number) => void) {
    this.#onHeader = onHeader
  }

  push(chunk: Buffer): void {
    let position = 0
    while (position < chunk.length) {
      const skipped = Math.min(this.#skip, chunk.length - position)
      this.#skip -= skipped
      position += skipped
      const taken = chunk.copy(this.#head, this.#filled, position)
      position += taken
      this.#filled += taken
      if (this.#filled < HEAD_BYTES) return
      this.#filled = 0
      this.#skip = Math.max(0, this.#head.readInt32BE(0) + 4 - HEAD_BYTES)
      if (this.#head.readInt32BE(8) === OWN_CORRELATION_ID) continue
      this.#onHeader(this.#head.readInt16BE(4), this.#head.readInt16BE(6))
    }
  }
}
