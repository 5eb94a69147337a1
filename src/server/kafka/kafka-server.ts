/**
 * The Kafka listener: accepts connections, bounds their number, closes those that are idle, and drains.
 *
 * Clients are told to connect to the address under which they reached us, unless another one is advertised.
 */

import { type AddressInfo, createServer, type Socket } from 'node:net'
import type { Broker } from '../../broker/broker.ts'
import type { Clock, Timer } from '../../lib/clock.ts'
import { REQUEST_BYTES_MAX } from '../../wire/kafka/frame.ts'
import { listenRefusal } from '../listen-refusal.ts'
import type { Logger } from '../logger.ts'
import { Connection, plainAddress, type Surroundings } from './connection.ts'
import { createHandlers } from './handlers.ts'
import { type KafkaCounters, Traffic } from './traffic.ts'

/** There is one broker, and this is its number. */
export const NODE_ID = 1
/** Kafka's `connections.max.idle.ms`. */
const IDLE_MS = 10 * 60_000
/** A client that takes nothing of an answer for so long is gone. */
const STALLED_MS = 60_000
const SWEEP_MS = 15_000
/** Waiting to be accepted. */
const BACKLOG = 1024

export interface KafkaServerOptions {
  readonly broker: Broker
  readonly log: Logger
  readonly clock: Clock
  /** Whether Metadata makes topics that are asked for. */
  readonly autoCreateTopics: boolean
  readonly connectionsMax: number
  /** Where clients are told to connect. Default: where they reached us. */
  readonly advertisedHost?: string
  readonly advertisedPort?: number
  /** Largest request, in bytes. Default 100 MiB. */
  readonly requestBytesMax?: number
  /** Requests of all connections together, in bytes. Default 256 MiB. */
  readonly requestBytesTotalMax?: number
  /** Answers that clients have not taken, of all connections together, in bytes. Default 512 MiB. */
  readonly unsentBytesTotalMax?: number
}

export class KafkaServer {
  readonly #options: KafkaServerOptions
  readonly #connections = new Set<Connection>()
  readonly #traffic: Traffic
  readonly #surroundings: Surroundings
  readonly #server = createServer({ noDelay: true, pauseOnConnect: false }, socket => this.#accept(socket))
  #port = 0
  #nextId = 1
  #sweeping: Timer | null = null
  #isDraining = false
  /** Called when the last connection is gone. */
  #onEmpty: (() => void) | null = null

  constructor(options: KafkaServerOptions) {
    this.#options = options
    const { broker, log, clock, autoCreateTopics, requestBytesMax = REQUEST_BYTES_MAX } = options
    this.#traffic = new Traffic(
      {
        requestBytesMax: options.requestBytesTotalMax ?? 256 * 1024 * 1024,
        unsentBytesMax: options.unsentBytesTotalMax ?? 512 * 1024 * 1024,
      },
      this.#connections,
    )
    this.#surroundings = {
      broker,
      handlers: createHandlers(),
      traffic: this.#traffic,
      log,
      clock,
      autoCreateTopics,
      requestBytesMax,
    }
  }

  /** Connections that are open now, and those refused so far. */
  get connections(): { readonly open: number; readonly refused: number } {
    return { open: this.#connections.size, refused: this.#traffic.counters.connectionsRefused }
  }

  /** For metrics. */
  get counters(): KafkaCounters {
    return this.#traffic.counters
  }

  /** Throws `ADDRESS_IN_USE`. */
  async listen(host: string, port: number): Promise<AddressInfo> {
    const server = this.#server
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen({ host: host === 'localhost' ? '127.0.0.1' : host, port, backlog: BACKLOG }, () => {
          server.off('error', reject)
          resolve()
        })
      })
    } catch (error) {
      throw listenRefusal(error, host, port)
    }
    server.on('error', error => this.#options.log.error('kafka listener', { error }))
    const address = server.address() as AddressInfo
    this.#port = address.port
    this.#planSweep()
    return address
  }

  /**
   * Stops accepting, ends long polls with what they have, answers what has come, and closes; what is not answered by
   * `deadlineMs` is cut off. Resolves with whether all was answered.
   */
  async drain(deadlineMs: number): Promise<boolean> {
    this.#isDraining = true
    this.#sweeping?.cancel()
    this.#server.close()
    let finished = true
    if (this.#connections.size === 0) return finished
    await new Promise<void>(resolve => {
      const deadline = this.#options.clock.after(deadlineMs, () => {
        finished = ![...this.#connections].some(connection => !connection.isIdle)
        if (!finished) {
          const connections = this.#connections.size
          this.#options.log.warn('kafka requests cut off at the drain deadline', { connections, deadlineMs })
        }
        for (const connection of this.#connections) connection.destroy()
      })
      this.#onEmpty = () => {
        deadline.cancel()
        resolve()
      }
      for (const connection of [...this.#connections]) connection.drain()
    })
    return finished
  }

  #accept(socket: Socket): void {
    const { counters } = this.#traffic
    if (this.#isDraining || this.#connections.size >= this.#options.connectionsMax) {
      // The protocol has no words for it.
      counters.connectionsRefused++
      socket.on('error', () => {})
      socket.destroy()
      return
    }
    counters.connectionsOpened++
    const { advertisedHost, advertisedPort } = this.#options
    const host = advertisedHost ?? plainAddress(socket.localAddress)
    const node = { id: NODE_ID, host, port: advertisedPort ?? this.#port }
    const connection = new Connection(socket, String(this.#nextId++), node, this.#surroundings)
    this.#connections.add(connection)
    socket.once('close', () => {
      this.#connections.delete(connection)
      if (this.#connections.size === 0) this.#onEmpty?.()
    })
  }

  #planSweep(): void {
    const { clock } = this.#options
    this.#sweeping = clock.after(SWEEP_MS, () => {
      const now = clock.monotonic()
      for (const connection of [...this.#connections]) {
        connection.notice(now)
        const silentMs = now - connection.lastActive
        if (connection.isIdle ? silentMs > IDLE_MS : connection.unsentBytes > 0 && silentMs > STALLED_MS) {
          connection.destroy()
        }
      }
      this.#planSweep()
    })
  }
}
