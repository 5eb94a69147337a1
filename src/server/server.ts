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

import assert from 'node:assert/strict'
import type { Sluice } from '../delivery/sluice.ts'
import { LocalEngine } from '../engine/local.ts'
import { SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { HttpServer } from './http/http-server.ts'
import { KafkaServer } from './kafka/kafka-server.ts'
import type { Logger } from './logger.ts'
import { openSluice } from './opening.ts'
import { checkExposure, isLoopback, type ServeOptions } from './options.ts'

export interface Address {
  readonly host: string
  readonly port: number
  /** As a client would write it. */
  readonly url: string
}

interface Listener {
  /** Resolves with whether everything was answered before the deadline. */
  drain(deadlineMs: number): Promise<boolean>
}

export interface RunningServer {
  /** Where each listener listens; those that are off are missing. */
  readonly addresses: { readonly http?: Address; readonly kafka?: Address }
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
  const webhooks = webhooksOf(options)
  const sluice = await openSluice(options, {
    autoCreateTopics: options.autoCreateTopics,
    relay: options.relay,
    clock,
    onReport: ({ severity, message, ...report }) => {
      log[severity === 'warning' ? 'warn' : 'info'](`recovery: ${message}`, report)
    },
  })
  const listeners: Listener[] = []
  const addresses: { http?: Address; kafka?: Address } = {}
  try {
    let kafka: KafkaServer | undefined
    if (options.kafkaPort !== 'off') {
      kafka = mountKafka(options, sluice, log, clock)
      listeners.push(kafka)
      addresses.kafka = addressOf('kafka', await kafka.listen(options.host, options.kafkaPort))
    }
    if (options.httpPort !== 'off') {
      const http: HttpServer = new HttpServer(options.connectionsMax, log, async server => {
        const { mountHttp } = await import('./http/mounting.ts')
        return mountHttp(server, http, options, sluice, log, clock, kafka)
      })
      listeners.push(http)
      addresses.http = addressOf('http', await http.listen(options.host, options.httpPort))
    }
    if (!isLoopback(options.host)) {
      log.warn('open to other machines, without TLS or authentication (--insecure)', { host: options.host })
    }
    if (webhooks.length > 0) watch(options, webhooks, sluice, log)
    return running(options, sluice, listeners, addresses, log)
  } catch (error) {
    await Promise.all(listeners.map(listener => listener.drain(0)))
    await sluice.close()
    throw error
  }
}

function running(
  options: ServeOptions,
  sluice: Sluice,
  listeners: readonly Listener[],
  addresses: RunningServer['addresses'],
  log: Logger,
): RunningServer {
  let draining: Promise<boolean> | undefined
  let stopping: Promise<void> | undefined
  const drainAll = async () => {
    const finished = await Promise.all(listeners.map(listener => listener.drain(options.drainMs)))
    return finished.every(Boolean)
  }
  const drain = () => {
    draining ??= drainAll()
    return draining
  }
  const stop = async () => {
    log.info('stopping', { drainMs: options.drainMs })
    await drain()
    await sluice.close()
    log.info('stopped')
  }
  return {
    addresses,
    sluice,
    drain,
    stop: () => {
      stopping ??= stop()
      return stopping
    },
  }
}

/** A row for a listener that is not built yet stands in the table, so that nobody mistakes silence for service. */
function checkListeners({ amqpPort: port }: ServeOptions): void {
  if (port === 'off') return
  const message = 'amqp-port: AMQP 0-9-1 is not served by this version; leave it off and use HTTP or Kafka'
  throw new SluiceError('UNSUPPORTED', message, { option: 'amqp-port', port })
}

/** Throws `INVALID_CONFIG`. */
function webhooksOf({ alertWebhooks: text }: ServeOptions): string[] {
  if (text === 'off') return []
  const urls = text.split(',').map(url => url.trim())
  const wrong = urls.find(url => !/^https?:$/.test(URL.parse(url)?.protocol ?? ''))
  if (wrong === undefined) return urls
  const message = `alert-webhooks: ${JSON.stringify(wrong)} is not an http(s) URL; more of them are separated by commas`
  throw new SluiceError('INVALID_CONFIG', message, { key: 'alert-webhooks', value: text })
}

const severityLevels = { info: 'info', warning: 'warn', critical: 'error' } as const
/** So many times the lag of a warning is critical. */
const CRITICAL_LAG = 100

/** Ends with the queue. */
function watch(options: ServeOptions, webhooks: readonly string[], sluice: Sluice, log: Logger): void {
  const { alertEveryMs: everyMs, alertLag: above, alertStuckMs: afterMs } = options
  const alerts = sluice.alerts({
    webhooks,
    everyMs,
    lag: [
      { above, severity: 'warning' },
      { above: above * CRITICAL_LAG, severity: 'critical' },
    ],
    stuck: { afterMs, severity: 'critical' },
  })
  alerts.on('alert', ({ severity, message, kind, subject, count }) => {
    log[severityLevels[severity]](`alert: ${message}`, { kind, subject, count })
  })
  alerts.on('error', error => log.warn(error.message, { code: error.code }))
}

function mountKafka(options: ServeOptions, sluice: Sluice, log: Logger, clock: Clock): KafkaServer {
  const { engine } = sluice
  assert(engine instanceof LocalEngine, 'what is served is in this process')
  const { autoCreateTopics, connectionsMax } = options
  const advertised = advertisedAddress(options.kafkaAdvertised)
  return new KafkaServer({
    broker: engine.broker,
    log,
    clock,
    autoCreateTopics,
    connectionsMax,
    ...advertised,
  })
}

/** Throws `INVALID_CONFIG`. */
function advertisedAddress(text: string): { advertisedHost?: string; advertisedPort?: number } {
  if (text === 'auto') return {}
  const match = /^(\[[0-9a-fA-F:.]+\]|[^\s:/]+)(?::(\d{1,5}))?$/.exec(text)
  const port = match?.[2] === undefined ? undefined : Number(match[2])
  if (match === null || port === 0 || (port ?? 0) > 65_535) {
    throw new SluiceError(
      'INVALID_CONFIG',
      `kafka-advertised: ${JSON.stringify(text)} is not HOST, HOST:PORT or auto`,
      { key: 'kafka-advertised', value: text },
    )
  }
  const advertisedHost = match[1].replace(/^\[|\]$/g, '')
  return { advertisedHost, ...(port === undefined ? {} : { advertisedPort: port }) }
}

function addressOf(
  scheme: 'http' | 'kafka',
  { address, port, family }: { address: string; port: number; family: string },
): Address {
  const host = family === 'IPv6' ? `[${address}]` : address
  return { host: address, port, url: `${scheme}://${host}:${port}` }
}
