/** What stands between a client and a server, and what a test can do to a connection there. */

import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Listening {
  readonly port: number
  close(): Promise<void>
}

/** A server on a free port that does this with each connection. */
export async function listen(onConnection: (socket: Socket) => void): Promise<Listening> {
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    socket.on('error', () => {})
    onConnection(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  }
  return { port: (server.address() as AddressInfo).port, close }
}

/** Stands between a client and a server, and loses answers. */
export class LossyProxy {
  target = 0
  /** So many answers are swallowed, and their connection is cut. */
  answersToDrop = 0
  /** Nothing is passed on any more. */
  isSilent = false
  port = 0
  #listening!: Listening

  static async start(): Promise<LossyProxy> {
    const proxy = new LossyProxy()
    proxy.#listening = await listen(client => proxy.#connect(client))
    proxy.port = proxy.#listening.port
    return proxy
  }

  close(): Promise<void> {
    return this.#listening.close()
  }

  #connect(client: Socket): void {
    const server = connect(this.target, '127.0.0.1')
    server.on('error', () => client.destroy())
    client.on('close', () => server.destroy())
    server.on('close', () => client.destroy())
    client.on('data', chunk => {
      if (!this.isSilent) server.write(chunk)
    })
    server.on('data', chunk => {
      if (this.isSilent) return
      if (this.answersToDrop === 0) client.write(chunk)
      else {
        this.answersToDrop--
        client.destroy()
      }
    })
  }
}
