/**
 * A running server: one engine, the listeners that are mounted on it, and the order in which they start and stop.
 *
 *   start   options checked → data directory opened (locked) → listeners bound → requests served
 *   drain   listeners stop accepting → long polls end with what they have → requests under way are answered, until the
 *           deadline → connections closed
 *   stop    drain → engine closed: everything accepted is flushed, the lock given back
 *
 * Once `stop()` has resolved, the directory can be opened by another process. Signals are not its business: see cli/serve.ts.
 */

import { PublishError } from '../delivery/published.ts'
import type { Sluice } from '../delivery/sluice.ts'
import { LocalEngine } from '../engine/local.ts'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { type Acknowledged, addEndpoints, type IncomingMessage } from './http/endpoints.ts'
import { HttpServer } from './http/http-server.ts'
import { Metrics } from './http/metrics.ts'
import type { Logger } from './logger.ts'
import { openSluice } from './opening.ts'
import { checkExposure, isLoopback, type ServeOptions } from './options.ts'
import { rawTopic } from './raw-topic.ts'
import { version } from './version.ts'

export interface Address {
  readonly host: string
  readonly port: number
  /** As a client would write it. */
  readonly url: string
}

export interface RunningServer {
  /** Where each listener listens; those that are off are missing. */
  readonly addresses: { readonly http?: Address }
  /** For embedding and tests: the queue that is served. */
  readonly sluice: Sluice
  /**
   * Stops accepting and waits for what is under way, at most `drain-ms`. Resolves with whether everything was answered.
   * Calling it again gives the same promise.
   */
  drain(): Promise<boolean>
  /** Drains, then closes the engine. */
  stop(): Promise<void>
}

/**
 * Throws `INSECURE`, `UNSUPPORTED` (a listener that this version does not have), `ADDRESS_IN_USE`, and whatever opening
 * the data directory throws; then nothing is left open.
 */
export async function startServer(
  options: ServeOptions,
  log: Logger,
  clock: Clock = systemClock,
): Promise<RunningServer> {
  checkExposure(options)
  checkListeners(options)
  const sluice = await openSluice(options, {
    autoCreateTopics: options.autoCreateTopics,
    clock,
    onReport: ({ severity, message, ...report }) => {
      log[severity === 'warning' ? 'warn' : 'info'](`recovery: ${message}`, report)
    },
  })
  try {
    const http = options.httpPort === 'off' ? undefined : mountHttp(options, sluice, log, clock)
    const address = http && addressOf(await http.listen(options.host, options.httpPort as number))
    if (!isLoopback(options.host)) {
      log.warn('open to other machines, without TLS or authentication (--insecure)', { host: options.host })
    }
    return running(options, sluice, http, address, log)
  } catch (error) {
    await sluice.close()
    throw error
  }
}

function running(
  options: ServeOptions,
  sluice: Sluice,
  http: HttpServer | undefined,
  address: Address | undefined,
  log: Logger,
): RunningServer {
  let draining: Promise<boolean> | undefined
  let stopping: Promise<void> | undefined
  const drain = () => {
    draining ??= http?.drain(options.drainMs) ?? Promise.resolve(true)
    return draining
  }
  const stop = async () => {
    log.info('stopping', { drainMs: options.drainMs })
    await drain()
    await sluice.close()
    log.info('stopped')
  }
  return {
    addresses: address ? { http: address } : {},
    sluice,
    drain,
    stop: () => {
      stopping ??= stop()
      return stopping
    },
  }
}

/** Rows for listeners that are not built yet stand in the table, so that nobody mistakes silence for service. */
function checkListeners(options: ServeOptions): void {
  for (const [name, port, protocol] of [
    ['kafka-port', options.kafkaPort, 'the Kafka protocol'],
    ['amqp-port', options.amqpPort, 'AMQP 0-9-1'],
  ]) {
    if (port === 'off') continue
    const message = `${name}: ${protocol} is not served by this version; leave it off and use HTTP`
    throw new SluiceError('UNSUPPORTED', message, { option: name, port })
  }
}

function mountHttp(options: ServeOptions, sluice: Sluice, log: Logger, clock: Clock): HttpServer {
  const { engine } = sluice
  const metrics = new Metrics()
  const http = new HttpServer(options, log, metrics)
  const publish = publisher(sluice)
  addEndpoints(http.app, { engine, publish, clock, version, limits: options, draining: http.draining })
  const stats = engine instanceof LocalEngine ? () => engine.broker.stats() : undefined
  metrics.serve(http.app, { engine, version, stats, connections: () => http.connections })
  return http
}

type Publish = (topic: string, messages: readonly IncomingMessage[]) => Promise<readonly Acknowledged[]>

/** One producer for all requests: those that come at the same time share batches and syncs. */
function publisher(sluice: Sluice): Publish {
  const producer = sluice.producer()
  return async (name, messages) => {
    const topic = rawTopic(name)
    const outgoing = messages.map(({ key, value, headers, partition }) => ({
      key: toBuffer(key),
      value: toBuffer(value),
      headers,
      ...(partition === undefined ? {} : { partition }),
    }))
    if (outgoing.length === 1) return [await producer.send(topic, outgoing[0])]
    try {
      return [...(await producer.send(topic, outgoing))]
    } catch (error) {
      throw error instanceof PublishError ? withResults(error, outgoing.length) : error
    }
  }
}

const toBuffer = (content: Uint8Array | string | null) =>
  typeof content === 'string' ? Buffer.from(content) : content

/** Says of each message of an array what became of it: some may have been stored. */
function withResults(error: PublishError, count: number): SluiceError {
  const failures = new Map([...error.failures()].map(failure => [failure.index, failure.error]))
  const results = Array.from({ length: count }, (_, index) => {
    const failure = failures.get(index)
    if (failure) return { error: { code: failure.code, message: failure.message } }
    const { topic, partition, offset } = error.at(index)!
    return { topic, partition, offset }
  })
  return new SluiceError(error.code, error.message, { ...error.detail, results }, error)
}

function addressOf({ address, port, family }: { address: string; port: number; family: string }): Address {
  return { host: address, port, url: `http://${family === 'IPv6' ? `[${address}]` : address}:${port}` }
}
