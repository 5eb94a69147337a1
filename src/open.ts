/** `open()`: from an address to a `Sluice`. The only place that knows which engines there are. */

import { fileURLToPath } from 'node:url'
import { Sluice } from './delivery/sluice.ts'
import type { Engine } from './engine/engine.ts'
import { type Flush, LocalEngine, openLocalEngine } from './engine/local.ts'
import { SluiceError } from './errors.ts'
import type { Clock } from './lib/clock.ts'
import type { RecoveryReport } from './log/recovery.ts'

export interface OpenOptions {
  /**
   * Where the messages are: 'memory:' (in this process, gone with it); a data directory, as a path or as a
   * file: URL (one that does not exist is made; one process at a time has it open); or a server:
   * 'kafka://127.0.0.1:9092', which is `sluice serve` or any Kafka cluster, more brokers of it after commas.
   */
  readonly url: string
  /**
   * When a published message counts as accepted. Default 'always': it is on the disk; publishers that come
   * together share a flush. `{ everyMs, everyMessages }`: it is with the operating system, which is told to
   * write it out so often: a power cut may take what came since. 'os': written out whenever the operating
   * system likes. The last two survive the process being killed, too. Not for a server: that is its own to say.
   */
  readonly flush?: Flush
  /** Whether a topic that is published or subscribed to and does not exist is made. Default true. */
  readonly autoCreateTopics?: boolean
  /** Partitions of a topic that does not say how many. Default 1, or what the server says. */
  readonly defaultPartitions?: number
  /** Defaults of topic configuration keys, by Kafka's names. Not for a server. */
  readonly config?: Readonly<Record<string, string>>
  /** Memory for recently written messages, from which readers who keep up are served. Default 64 MiB. Not for a server. */
  readonly cacheBytesMax?: number
  /** Names this program in group descriptions and logs. Default 'sluice'. */
  readonly clientId?: string
  /** Told what was found and repaired when a directory was not closed properly the last time. */
  readonly onReport?: (report: RecoveryReport) => void
  /**
   * Whether a relay runs in this process by itself: what makes delayed messages, schedules and half messages come out. Default true for a queue in this
   * process, where it starts when there is something to do; false for a cluster, where `sluice relay` or a program with `relay: true` does it.
   */
  readonly relay?: boolean
  /** Partitions of each topic in which delayed messages wait, if they are to be made. Default 4. */
  readonly delayPartitions?: number
  /** @internal For tests. */
  readonly clock?: Clock
}

/**
 * Opens a queue.
 *
 *     await using mq = await open('./data')
 *     await mq.publish('greetings', { value: 'hello' })
 *
 * Rejects with `INVALID_URL`, `INVALID_CONFIG`; for a directory with `DIRECTORY_IN_USE` (naming the holder),
 * `NOT_A_DATA_DIRECTORY`; for a server with `UNREACHABLE`, `UNSUPPORTED` (an option that is the server's to say).
 */
export async function open(target: string | OpenOptions): Promise<Sluice> {
  const options: OpenOptions = typeof target === 'object' && target !== null ? target : { url: target }
  const { url, autoCreateTopics, clientId, clock, relay, delayPartitions } = options
  const isCluster = isClusterUrl(url)
  const engine = isCluster ? await openCluster(options) : await openLocal(options)
  const sluice = new Sluice(engine, { autoCreateTopics, clientId, clock, relay, delayPartitions })
  // what others publish to a server in this process is work for its relay, too
  if (engine instanceof LocalEngine) engine.broker.onTopicsChanged(() => sluice.relayIfNeeded())
  if (isCluster && relay === true) await sluice.relay()
  else sluice.relayIfNeeded()
  return sluice
}

/** Whether the address is that of a server. */
const isClusterUrl = (url: unknown): boolean => typeof url === 'string' && /^kafka:/i.test(url)

function openLocal(options: OpenOptions): Promise<Engine> {
  const { flush, autoCreateTopics, defaultPartitions, config, cacheBytesMax, onReport, clock } = options
  const url = localUrl(options.url)
  return openLocalEngine({
    url,
    flush,
    autoCreateTopics,
    defaultPartitions,
    config,
    cacheBytesMax,
    onReport,
    clock,
  })
}

/** Options of a data directory, which a server has decided for itself. */
const serverOptions = ['flush', 'config', 'cacheBytesMax'] as const

async function openCluster(options: OpenOptions): Promise<Engine> {
  const { url, autoCreateTopics, defaultPartitions, clientId } = options
  const refused = serverOptions.find(name => options[name] !== undefined)
  if (refused !== undefined) {
    const message = `${url}: ${refused} is for a data directory; a server has its own configuration`
    throw new SluiceError('UNSUPPORTED', message, { url, option: refused })
  }
  // Not loaded for a queue in this process.
  const { openKafkaEngine } = await import('./engine/kafka.ts')
  return await openKafkaEngine({ url, autoCreateTopics, defaultPartitions, clientId })
}

/** 'memory:' or a path. A single letter before the colon is a drive of Windows, not a scheme. */
function localUrl(url: string): string {
  if (typeof url !== 'string' || url === '') throw invalidUrl(url)
  if (url === 'memory:') return url
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(url)?.[1].toLowerCase()
  if (scheme === undefined) return url
  if (scheme === 'file') return pathOf(url)
  throw invalidUrl(url)
}

/** `file:///var/queue` is absolute, `file:queue` and `file:./queue` are relative. */
function pathOf(url: string): string {
  const rest = url.slice('file:'.length)
  if (rest === '' || rest === '//') throw invalidUrl(url)
  if (!rest.startsWith('/')) return decodeURIComponent(rest)
  try {
    return fileURLToPath(url)
  } catch (error) {
    throw invalidUrl(url, error)
  }
}

function invalidUrl(url: unknown, cause?: unknown): SluiceError {
  const message = `${JSON.stringify(url)} is not an address; give memory:, a directory, a file: URL, or kafka://HOST:PORT`
  return new SluiceError('INVALID_URL', message, { url }, cause)
}
