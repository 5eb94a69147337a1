/**
 * The relay: what must be done by somebody for messages to come out of the topics in which sluice keeps them. Its parts are at work on their
 * own, each with groups that let several relays share the work. In a process with a data directory, the parts start when there is
 * something for them to do; for a cluster somebody runs `sluice relay`.
 */

import { EventEmitter } from 'node:events'
import type { Engine } from '../engine/engine.ts'
import type { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { DEDUP_TOPIC } from './dedup.ts'
import { DedupRelay } from './dedup-relay.ts'
import { DelayRelay } from './delay-relay.ts'
import { type DelayTopics, hasDelayTopics } from './delay-topics.ts'
import type { HalfRolledBack } from './half-partition.ts'
import { HALF_TOPIC } from './half-record.ts'
import { HalfRelay } from './half-relay.ts'
import { KeepAlive } from './keep-alive.ts'
import { emitError } from './warn.ts'

export interface RelayPart {
  /** Resolves when it is at work. Starting again does nothing. */
  start(): Promise<void>
  /** Carries out what has begun, and resolves. */
  stop(): Promise<void>
}

export interface RelaySetting {
  readonly engine: Engine
  readonly clock: Clock
  readonly clientId: string
  readonly delayTopics: DelayTopics
  /** Something went wrong that the relay goes on from by itself. */
  warn(error: SluiceError): void
  /** Nobody decided about a half message. */
  rolledBack(event: HalfRolledBack): void
  /** Duplicates were dropped, and it is durable. */
  duplicates(count: number): void
}

interface PartRow {
  /** Whether there is something to do, by the names of the topics that exist. */
  isNeeded(topics: readonly string[]): boolean
  make(setting: RelaySetting): RelayPart
}

const rows: readonly PartRow[] = [
  {
    isNeeded: hasDelayTopics,
    make: ({ delayTopics: topics, ...setting }) => new DelayRelay({ ...setting, topics }),
  },
  {
    isNeeded: topics => topics.includes(HALF_TOPIC),
    make: ({ delayTopics: delays, ...setting }) => {
      const half = new HalfRelay({ ...setting, delays })
      half.on('error', setting.warn)
      half.on('rolledBack', setting.rolledBack)
      return half
    },
  },
  {
    isNeeded: topics => topics.includes(DEDUP_TOPIC),
    make: setting => new DedupRelay(setting),
  },
]

export interface RelayEvents {
  /** Something went wrong that the relay goes on from by itself. Without a listener it is a process warning. */
  error: [error: SluiceError]
  /** Nobody decided about a half message in time: it is a dead letter now. */
  rolledBack: [event: HalfRolledBack]
  /** Messages whose id was known were dropped. */
  duplicates: [count: number]
}

/** A running relay; made by `mq.relay()`. */
export class Relay extends EventEmitter<RelayEvents> {
  readonly #engine: Engine
  readonly #parts: readonly { readonly row: PartRow; readonly part: RelayPart }[]
  readonly #started = new Map<RelayPart, Promise<void>>()
  readonly #keepAlive = new KeepAlive()
  #stopping: Promise<void> | null = null
  #duplicatesDropped = 0

  /** @internal */
  constructor(setting: Omit<RelaySetting, 'warn' | 'rolledBack' | 'duplicates'>) {
    super()
    this.#engine = setting.engine
    const warn = (error: SluiceError): void => this.#warn(error)
    const rolledBack = (event: HalfRolledBack): void => void this.emit('rolledBack', event)
    const duplicates = (count: number): void => {
      this.#duplicatesDropped += count
      this.emit('duplicates', count)
    }
    this.#parts = rows.map(row => ({ row, part: row.make({ ...setting, warn, rolledBack, duplicates }) }))
  }

  /** How many messages were dropped here because their id was known. */
  get duplicatesDropped(): number {
    return this.#duplicatesDropped
  }

  /** @internal Starts all of it. */
  async start(): Promise<void> {
    // a program that runs it on purpose lives for it; one that has it beside something else does not
    if (this.#stopping === null) this.#keepAlive.hold()
    try {
      await Promise.all(this.#parts.map(({ part }) => this.#startPart(part)))
    } catch (error) {
      this.#keepAlive.release()
      throw error
    }
  }

  /** @internal Starts what there is something to do for. Does not reject: what went wrong is told. */
  async startNeeded(): Promise<void> {
    try {
      const topics = await this.#engine.listTopics()
      const needed = this.#parts.filter(({ row }) => row.isNeeded(topics))
      await Promise.all(needed.map(({ part }) => this.#startPart(part)))
    } catch (error) {
      if (this.#stopping === null) this.#warn(error as SluiceError)
    }
  }

  /** Carries out what has begun, lets other relays take over, and resolves. */
  stop(): Promise<void> {
    this.#stopping ??= Promise.allSettled(
      [...this.#started].map(([part, started]) => started.then(() => part.stop())),
    ).then(() => this.#keepAlive.release())
    return this.#stopping
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #startPart(part: RelayPart): Promise<void> {
    if (this.#stopping !== null) return Promise.resolve()
    const known = this.#started.get(part)
    if (known !== undefined) return known
    const started = part.start()
    this.#started.set(part, started)
    started.catch(() => this.#started.delete(part))
    return started
  }

  #warn(error: SluiceError): void {
    emitError(this, error)
  }
}
