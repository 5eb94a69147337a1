/**
 * Alerts: looks at groups and dead letters every so often, and tells handlers and webhooks of what somebody should see.
 *
 *     look ──▶ what is wrong now (kind, subject) ──▶ compared with the look before ──▶ raised │ still there (silent) │ resolved
 *
 * A trouble is told once when it begins and once when it is over; new dead letters are told each time there are some. What cannot be looked at
 * or told is told as an error, and never stops the looking.
 */

import { EventEmitter } from 'node:events'
import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import { lagBehind } from './group-ledger.ts'
import { Ledger } from './ledger.ts'
import { atLeast, invalidOption, oneOf } from './option.ts'
import { rawTopic } from './raw-topic.ts'
import { SYSTEM_TOPIC_PREFIX } from './system-headers.ts'
import { scanPartition } from './topic-scan.ts'
import { emitError } from './warn.ts'

export type Severity = 'info' | 'warning' | 'critical'

export interface Alert {
  /**
   * `dead-letters`: messages have died since the last look. `lag`: a group is more messages behind than it should be. `stuck-group`: it is behind
   * and has not finished anything for too long, as far as its commits say.
   */
  readonly kind: 'dead-letters' | 'lag' | 'stuck-group'
  readonly severity: Severity
  /** False: it has begun, or happened. True: it is over. */
  readonly resolved: boolean
  /** Milliseconds since the Unix epoch. */
  readonly at: number
  /** The group, or the topic of the dead letters. */
  readonly subject: string
  /** One line for people. */
  readonly message: string
  /** Messages that died, or that the group is behind. */
  readonly count: number
}

export interface LagRule {
  /** More than so many messages behind. */
  readonly above: number
  readonly severity: Severity
}

export interface AlertOptions {
  /** Where alerts are posted to, as JSON. Default: nowhere. */
  readonly webhooks?: readonly string[]
  /** Between two looks. Default 15,000. */
  readonly everyMs?: number
  /** Severity of dead letters; null: none are told. Default 'warning'. */
  readonly deadLetters?: Severity | null
  /** From the lowest to the highest. Default: above 10,000 a warning, above 1,000,000 critical. */
  readonly lag?: readonly LagRule[]
  /** A group that is behind and finishes nothing for so long is stuck; null: none is. Default 5 minutes, critical. */
  readonly stuck?: { readonly afterMs: number; readonly severity: Severity } | null
  /** Only these groups. Default: all. */
  readonly groups?: (group: string) => boolean
  /** A webhook has so long to answer; it is tried three times. Default 10,000. */
  readonly webhookTimeoutMs?: number
}

export interface AlertEvents {
  alert: [alert: Alert]
  /** Something could not be looked at, or a webhook not be told. Without a listener it is a process warning. */
  error: [error: SluiceError]
}

interface GroupProgress {
  /** Offsets that are finished, over all partitions, those ahead of the commit included. */
  finished: number
  since: number
}

const WEBHOOK_ATTEMPTS = 3
const WEBHOOK_PAUSE_MS = 1_000
/** So long webhooks have that are being told when it is to end. */
const STOP_MS = 1_000
const DEAD_SUFFIX = '.dead'
const severities: readonly Severity[] = ['info', 'warning', 'critical']

/** Made by `mq.alerts()`. */
export class Alerts extends EventEmitter<AlertEvents> {
  readonly #engine: Engine
  readonly #clock: Clock
  readonly #options: Required<AlertOptions>
  readonly #onStopped: (alerts: Alerts) => void
  readonly #deadEnds = new Map<string, number>()
  readonly #progress = new Map<string, GroupProgress>()
  /** Troubles that were told and are not over, by kind and subject. */
  #raised = new Map<string, Alert>()
  /** Topics of dead letters that could not be looked at the first time. */
  readonly #missed = new Set<string>()
  #timer: Timer | null = null
  #looking: Promise<void> | null = null
  readonly #stopping = new AbortController()
  #isFirst = true
  #isStopped = false

  /** @internal Throws `INVALID_ARGUMENT`. */
  constructor(
    options: AlertOptions,
    setting: { engine: Engine; clock: Clock; onStopped: (alerts: Alerts) => void },
  ) {
    super()
    this.#engine = setting.engine
    this.#clock = setting.clock
    this.#onStopped = setting.onStopped
    this.#options = checked(options)
    this.#schedule(0)
  }

  /** Looks now, instead of when it is time. Resolves when all that was found has been told. */
  async look(): Promise<void> {
    while (this.#looking !== null) await this.#looking
    if (!this.#isStopped) await this.#begin()
  }

  /** Ends it. Resolves when nothing of it is under way; a webhook that does not answer is given up after a second. */
  async stop(): Promise<void> {
    this.#isStopped = true
    this.#timer?.cancel()
    this.#onStopped(this)
    const abort = this.#clock.after(STOP_MS, () => this.#stopping.abort(new Error('alerts were stopped')))
    await this.#looking
    abort.cancel()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  #schedule(delayMs: number): void {
    this.#timer = this.#clock.after(delayMs, () => void this.#begin())
  }

  #begin(): Promise<void> {
    this.#timer?.cancel()
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null
      if (!this.#isStopped) this.#schedule(this.#options.everyMs)
    })
    return this.#looking
  }

  async #look(): Promise<void> {
    const told: Alert[] = []
    try {
      told.push(...(await this.#lookAtDeadLetters()))
      const raised = await this.#lookAtGroups()
      for (const [name, alert] of raised) {
        if (this.#raised.get(name)?.severity !== alert.severity) told.push(alert)
      }
      for (const [name, alert] of this.#raised) if (!raised.has(name)) told.push(this.#over(alert))
      this.#raised = raised
    } catch (error) {
      this.#warn(error, 'alerts could not look at everything')
    }
    await Promise.all(told.map(alert => this.#tell(alert)))
  }

  /** What has died since the last look. What was dead before the first is not news. */
  async #lookAtDeadLetters(): Promise<Alert[]> {
    const { deadLetters: severity } = this.#options
    if (severity === null) return []
    const alerts: Alert[] = []
    for (const topic of await this.#engine.listTopics()) {
      if (!topic.endsWith(DEAD_SUFFIX)) continue
      const count = await this.#countNew(topic)
      if (count === 0) continue
      const message = `${count} ${count === 1 ? 'message has' : 'messages have'} died: ${topic}`
      alerts.push({
        kind: 'dead-letters',
        severity,
        resolved: false,
        at: this.#clock.now(),
        subject: topic,
        message,
        count,
      })
    }
    this.#isFirst = false
    return alerts
  }

  /** The same of one topic; what cannot be read now does not keep what was found elsewhere from being told. */
  async #countNew(topic: string): Promise<number> {
    const isFirst = this.#isFirst || this.#missed.has(topic)
    try {
      const count = await this.#newIn(topic, isFirst)
      this.#missed.delete(topic)
      return count
    } catch (error) {
      if (isFirst) this.#missed.add(topic)
      this.#warn(error, `alerts could not look at ${topic}`)
      return 0
    }
  }

  /** Letters since the last look: tombstones and markers do not count. */
  async #newIn(topic: string, isFirst: boolean): Promise<number> {
    const { partitions } = await this.#engine.describeTopic(topic)
    const ends = new Map(partitions.map(({ partition, endOffset }) => [`${topic}/${partition}`, endOffset]))
    let count = 0
    for (const { partition, endOffset } of partitions) {
      const name = `${topic}/${partition}`
      const from = this.#deadEnds.get(name) ?? (isFirst ? endOffset : 0)
      if (from >= endOffset) continue
      const range = { partition, from, to: endOffset }
      for await (const batch of scanPartition(this.#engine, rawTopic(topic), range)) {
        for (const message of batch) if (message.valueBytes !== null) count++
      }
    }
    for (const [name, end] of ends) this.#deadEnds.set(name, end)
    return count
  }

  async #lookAtGroups(): Promise<Map<string, Alert>> {
    const raised = new Map<string, Alert>()
    const seen = new Set<string>()
    for (const { group } of await this.#engine.listGroups()) {
      if (group.startsWith(SYSTEM_TOPIC_PREFIX) || !this.#options.groups(group)) continue
      seen.add(group)
      for (const alert of await this.#lookAtGroup(group)) raised.set(`${alert.kind} ${group}`, alert)
    }
    for (const group of this.#progress.keys()) if (!seen.has(group)) this.#progress.delete(group)
    return raised
  }

  async #lookAtGroup(group: string): Promise<Alert[]> {
    const { lag, finished } = await this.#progressOf(group)
    const now = this.#clock.now()
    const progress = this.#progress.get(group)
    if (progress === undefined || progress.finished !== finished || lag === 0) {
      this.#progress.set(group, { finished, since: now })
    }
    const alerts: Alert[] = []
    const about = { resolved: false, at: now, subject: group, count: lag }
    const stuckMs = now - (this.#progress.get(group) as GroupProgress).since
    const { stuck } = this.#options
    if (stuck !== null && lag > 0 && stuckMs >= stuck.afterMs) {
      const message = `group ${group} has finished nothing for ${Math.round(stuckMs / 1_000)} s and is ${lag} messages behind`
      alerts.push({ ...about, kind: 'stuck-group', severity: stuck.severity, message })
    }
    const rule = this.#options.lag.findLast(({ above }) => lag > above)
    if (rule !== undefined) {
      const message = `group ${group} is ${lag} messages behind (more than ${rule.above})`
      alerts.push({ ...about, kind: 'lag', severity: rule.severity, message })
    }
    return alerts
  }

  async #progressOf(group: string): Promise<{ lag: number; finished: number }> {
    let lag = 0
    let finished = 0
    for (const commit of await this.#engine.committed(group)) {
      const { topic, partition } = commit
      const ledger = new Ledger(commit.offset, commit.metadata)
      finished += ledger.next - ledger.unfinished
      try {
        const start = await this.#engine.offsetFor(topic, partition, 'earliest')
        lag += lagBehind(commit, start, await this.#engine.offsetFor(topic, partition, 'latest'))
      } catch (error) {
        if (!isSluiceError(error, 'UNKNOWN_TOPIC')) throw error // a topic that was deleted
      }
    }
    return { lag, finished }
  }

  #over(alert: Alert): Alert {
    const message = `over: ${alert.message}`
    return { ...alert, severity: 'info', resolved: true, at: this.#clock.now(), message, count: 0 }
  }

  async #tell(alert: Alert): Promise<void> {
    try {
      this.emit('alert', alert)
    } catch (error) {
      this.#warn(error, 'a listener of alerts threw')
    }
    await Promise.all(this.#options.webhooks.map(url => this.#post(url, alert)))
  }

  async #post(url: string, alert: Alert): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await fetch(url, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify(alert),
          signal: AbortSignal.any([
            AbortSignal.timeout(this.#options.webhookTimeoutMs),
            this.#stopping.signal,
          ]),
        })
        await response.body?.cancel()
        if (response.ok) return
        throw new Error(`it answered ${response.status}`)
      } catch (error) {
        if (attempt === WEBHOOK_ATTEMPTS || this.#isStopped) {
          this.#warn(error, `the webhook ${url} could not be told "${alert.message}"`)
          return
        }
      }
      await this.#pause(WEBHOOK_PAUSE_MS * attempt)
    }
  }

  /** Shorter if it is to end. */
  async #pause(pauseMs: number): Promise<void> {
    const { signal } = this.#stopping
    if (signal.aborted) return
    const over = Promise.withResolvers<void>()
    const timer = this.#clock.after(pauseMs, over.resolve)
    signal.addEventListener('abort', () => over.resolve(), { once: true })
    await over.promise
    timer.cancel()
  }

  #warn(cause: unknown, what: string): void {
    if (isSluiceError(cause, 'CLOSED')) return
    const reason = cause instanceof Error ? cause.message : String(cause)
    const error = new SluiceError('ALERT_FAILED', `${what}: ${reason}`, {}, cause)
    emitError(this, error)
  }
}

function checked(options: AlertOptions): Required<AlertOptions> {
  const { webhooks = [], deadLetters = 'warning', groups = () => true } = options
  const lag = options.lag ?? [
    { above: 10_000, severity: 'warning' },
    { above: 1_000_000, severity: 'critical' },
  ]
  const stuck =
    options.stuck === undefined ? { afterMs: 300_000, severity: 'critical' as const } : options.stuck
  for (const url of webhooks) {
    if (!/^https?:$/.test(URL.parse(url)?.protocol ?? ''))
      throw invalidOption(`a webhook is an http(s) URL, not "${url}"`)
  }
  for (const severity of [deadLetters, stuck?.severity, ...lag.map(rule => rule.severity)]) {
    if (severity != null) oneOf('severity', severity, severities)
  }
  for (const { above } of lag) atLeast('lag.above', above, 0)
  if (stuck !== null) atLeast('stuck.afterMs', stuck.afterMs, 1)
  return {
    webhooks,
    deadLetters,
    groups,
    stuck,
    lag: lag.toSorted((one, other) => one.above - other.above),
    everyMs: atLeast('everyMs', options.everyMs ?? 15_000, 1),
    webhookTimeoutMs: atLeast('webhookTimeoutMs', options.webhookTimeoutMs ?? 10_000, 1),
  }
}
