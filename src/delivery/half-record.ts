/**
 * Half messages as they lie in their topics. The three topics have the same number of partitions, and everything about a half message is in
 * the partition of the same number.
 *
 *     _sluice.half            key: name   value: the message's   headers: the message's, target, key, checker, checks …
 *     _sluice.half.decisions  key: id     value: commit │ rollback │ expired                        the first one counts
 *     _sluice.half.checks     key: id     value: { checker, checks, askedAt }; null: it is decided   compacted
 *
 *     id = <partition>-<offset>-<name>    name: 16 random hexadecimal digits
 *
 * So an id says where the message is, and cannot be taken for that of another one, not even in a topic that was created anew. How often was
 * asked is known to whoever reads the checks, however many messages are undecided.
 */

import { isUtf8 } from 'node:buffer'
import { randomBytes } from 'node:crypto'
import type { Engine } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Header } from '../record/builder.ts'
import type { Message, MessageHeaders } from './message.ts'
import { createAsDescribed } from './provision.ts'
import { rawTopic } from './raw-topic.ts'
import { ownHeaders, systemHeader } from './system-headers.ts'
import { topic } from './topic.ts'
import { scanPartition } from './topic-scan.ts'

export const HALF_TOPIC = '_sluice.half'
export const DECISIONS_TOPIC = '_sluice.half.decisions'
export const CHECKS_TOPIC = '_sluice.half.checks'
/** The group of the relays, and the group of half messages in the names of dead letters. */
export const HALF_GROUP = '_sluice.half'

/** What the producer, or who is asked for it, says about a half message. */
export type HalfDecision = 'commit' | 'rollback'

/** 'expired': rolled back because nobody decided. */
export type HalfOutcome = HalfDecision | 'expired'

/** When somebody is asked about a half message that is undecided. */
export interface HalfPolicy {
  readonly firstCheckMs: number
  readonly checkEveryMs: number
  readonly checksMax: number
}

/** What was asked last about a half message. */
export interface HalfQuestion {
  readonly checker: string
  readonly checks: number
  readonly askedAt: number
}

export interface HalfPlace {
  readonly partition: number
  readonly offset: number
  readonly name: string
}

type AnyMessage = Message<unknown, unknown>

export const newHalfName = (): string => randomBytes(8).toString('hex')

export const halfId = ({ partition, offset, name }: HalfPlace): string => `${partition}-${offset}-${name}`

/** Null if it is no id. */
export function placeOfHalf(id: unknown): HalfPlace | null {
  const parts = typeof id === 'string' ? /^(\d{1,9})-(\d{1,15})-([0-9a-f]{16})$/.exec(id) : null
  return parts === null ? null : { partition: Number(parts[1]), offset: Number(parts[2]), name: parts[3] }
}

/** A message that was prepared and is not published. */
export class HalfMessage {
  readonly id: string
  /** Where it is published to once it is committed. */
  readonly topic: string
  /** When it was prepared, by the log's clock: milliseconds since the Unix epoch. */
  readonly preparedAt: number
  readonly keyBytes: Buffer | null
  readonly value: Buffer | null
  /** The message's own headers, in their order. */
  readonly headerList: readonly [name: string, value: Buffer | null][]
  /** Who is asked about it: a checker's name or a webhook; null: nobody. */
  readonly checker: string | null
  /** How often was asked. */
  readonly checks: number
  /** @internal */
  readonly policy: HalfPolicy
  /** @internal What it is published with beyond key, value and headers. */
  readonly delivery: HalfDelivery

  /** @internal Made by `readHalfMessage`. */
  constructor(message: AnyMessage, place: HalfPlace, target: string, checks: number) {
    const text = (header: string): string | null => message.header(header) ?? null
    const count = (header: string): number | undefined => {
      const given = text(header)
      return given === null ? undefined : Number(given)
    }
    this.id = halfId(place)
    this.topic = target
    this.preparedAt = message.timestamp
    this.keyBytes = copyOf(message.headers[systemHeader.key] ?? null)
    this.value = copyOf(message.valueBytes)
    this.headerList = ownHeaders(message, passedOn).map(([name, value]) => [
      name,
      copyOf(value as Buffer | null),
    ])
    this.checker = text(systemHeader.checker)
    this.checks = checks
    this.policy = policyOf(text(systemHeader.checkPolicy) ?? '')
    this.delivery = {
      timestamp: count(systemHeader.targetTimestamp),
      partition: count(systemHeader.targetPartition),
      deliverAt: count(systemHeader.deliverAt),
      delay: count(systemHeader.halfDelay),
      delayId: text(systemHeader.delayId) ?? undefined,
    }
  }

  /** The key as text; null if it has none. */
  get key(): string | null {
    return this.keyBytes === null ? null : this.keyBytes.toString('utf8')
  }

  /** Headers by name; a name that occurs several times has its last value. */
  get headers(): MessageHeaders {
    return Object.assign(Object.create(null), Object.fromEntries(this.headerList))
  }

  /** The value as UTF-8 text; '' if it is null. */
  text(): string {
    return this.value === null ? '' : this.value.toString('utf8')
  }

  /** The value parsed as JSON, unchecked; null if it is null. Throws `CODEC_FAILED`. */
  json<T = unknown>(): T {
    if (this.value === null) return null as T
    try {
      return JSON.parse(this.text())
    } catch (error) {
      throw new SluiceError(
        'CODEC_FAILED',
        `half message ${this.id}: its value is not JSON`,
        { id: this.id },
        error,
      )
    }
  }

  /** Bytes that are not text are `{ base64 }`. What a webhook is sent. */
  toJSON(): Record<string, unknown> {
    const { id, topic: target, preparedAt, checker, checks } = this
    const headers = Object.fromEntries(this.headerList.map(([name, value]) => [name, printable(value)]))
    const content = { key: printable(this.keyBytes), value: printable(this.value), headers }
    return { id, topic: target, ...content, preparedAt, checker, checks }
  }

  /** @internal Memory that it takes, roughly. */
  get bytes(): number {
    const headers = this.headerList.reduce(
      (sum, [name, value]) => sum + name.length + (value?.length ?? 0),
      0,
    )
    return 500 + (this.keyBytes?.length ?? 0) + (this.value?.length ?? 0) + headers
  }
}

/** What a half message is published with beyond its contents; what is undefined was not asked for. */
export interface HalfDelivery {
  readonly timestamp?: number
  readonly partition?: number
  readonly deliverAt?: number
  /** Milliseconds, from the commit on. */
  readonly delay?: number
  readonly delayId?: string
}

/** Headers that mean something to those who read the target. */
const passedOn = [systemHeader.expiresAt, systemHeader.priority]

/** What is appended to `_sluice.half` for a message whose contents are encoded. */
export function halfRecord(
  name: string,
  target: string,
  content: { key: Uint8Array | string | null; value: Uint8Array | string | null; headers: readonly Header[] },
  checker: string | null,
  policy: HalfPolicy,
  delivery: HalfDelivery,
): { key: Buffer; value: Uint8Array | null; headers: Header[] } {
  const headers: Header[] = [...content.headers, [systemHeader.target, target]]
  const add = (header: string, value: number | string | undefined): void => {
    if (value !== undefined) headers.push([header, String(value)])
  }
  if (content.key !== null) headers.push([systemHeader.key, content.key])
  if (checker !== null) headers.push([systemHeader.checker, checker])
  headers.push([
    systemHeader.checkPolicy,
    `${policy.firstCheckMs},${policy.checkEveryMs},${policy.checksMax}`,
  ])
  add(systemHeader.targetTimestamp, delivery.timestamp)
  add(systemHeader.targetPartition, delivery.partition)
  add(systemHeader.deliverAt, delivery.deliverAt)
  add(systemHeader.halfDelay, delivery.delay)
  add(systemHeader.delayId, delivery.delayId)
  const { value } = content
  return { key: Buffer.from(name), value: typeof value === 'string' ? Buffer.from(value) : value, headers }
}

/** Null if it is not one of ours. */
export function readHalfMessage(message: AnyMessage, checks: number): HalfMessage | null {
  const name = message.keyBytes?.toString('latin1') ?? ''
  const target = message.header(systemHeader.target)
  if (target == null || !/^[0-9a-f]{16}$/.test(name)) return null
  return new HalfMessage(
    message,
    { partition: message.partition, offset: message.offset, name },
    target,
    checks,
  )
}

/** The half message with this id. Throws `UNKNOWN_HALF_MESSAGE`. */
export async function findHalf(engine: Engine, id: string, checks = 0): Promise<HalfMessage> {
  const place = placeOfHalf(id)
  if (place === null) throw unknownHalf(id)
  const { partition, offset } = place
  try {
    const start = await engine.offsetFor(HALF_TOPIC, partition, 'earliest')
    const end = await engine.offsetFor(HALF_TOPIC, partition, 'latest')
    if (offset < start || offset >= end) throw unknownHalf(id)
    for await (const batch of scanPartition(engine, rawTopic(HALF_TOPIC), {
      partition,
      from: offset,
      to: offset + 1,
    })) {
      for (const message of batch) {
        const half = message.offset === offset ? readHalfMessage(message, checks) : null
        if (half !== null && half.id === id) return half
      }
    }
  } catch (error) {
    if (!isSluiceError(error, 'UNKNOWN_TOPIC') && !isSluiceError(error, 'OFFSET_OUT_OF_RANGE')) throw error
  }
  throw unknownHalf(id)
}

export function unknownHalf(id: unknown): SluiceError {
  const message = `there is no half message ${JSON.stringify(id)}; it may have been decided long ago`
  return new SluiceError('UNKNOWN_HALF_MESSAGE', message, { id })
}

export const decisionRecord = (id: string, partition: number, outcome: HalfOutcome) => ({
  key: Buffer.from(id),
  value: Buffer.from(outcome),
  partition,
})

/** Null if it is none. */
export function readDecision(
  message: AnyMessage,
): { id: string; place: HalfPlace; outcome: HalfOutcome } | null {
  const id = message.keyBytes?.toString('latin1') ?? ''
  const outcome = message.text()
  const place = placeOfHalf(id)
  if (place === null || place.partition !== message.partition) return null
  if (outcome !== 'commit' && outcome !== 'rollback' && outcome !== 'expired') return null
  return { id, place, outcome }
}

/** `question` null: the half message is decided. */
export const checkRecord = (id: string, partition: number, question: HalfQuestion | null) => ({
  key: Buffer.from(id),
  value: question === null ? null : Buffer.from(JSON.stringify(question)),
  partition,
})

/** `question` is null where the half message is decided; null in all if it is none of ours. */
export function readCheck(
  message: AnyMessage,
): { id: string; place: HalfPlace; question: HalfQuestion | null } | null {
  const id = message.keyBytes?.toString('latin1') ?? ''
  const place = placeOfHalf(id)
  if (place === null || place.partition !== message.partition) return null
  if (message.valueBytes === null) return { id, place, question: null }
  try {
    const { checker, checks, askedAt } = JSON.parse(message.text())
    const isGood =
      typeof checker === 'string' && Number.isSafeInteger(checks) && Number.isSafeInteger(askedAt)
    return isGood ? { id, place, question: { checker, checks, askedAt } } : null
  } catch {
    return null
  }
}

/** What was asked about the half messages of a partition that are undecided, and some that are not. */
export async function readChecks(engine: Engine, partition: number): Promise<Map<string, HalfQuestion>> {
  const questions = new Map<string, HalfQuestion>()
  for await (const batch of scanPartition(engine, rawTopic(CHECKS_TOPIC), { partition })) {
    for (const message of batch) {
      const check = readCheck(message)
      if (check === null) continue
      if (check.question === null) questions.delete(check.id)
      else questions.set(check.id, check.question)
    }
  }
  return questions
}

/**
 * Makes the topics, unless they are there. Resolves with the number of partitions. Nothing in them goes by age: the relay deletes what is
 * decided.
 */
export async function provisionHalf(engine: Engine, partitions: number): Promise<number> {
  const kept = { 'message.timestamp.type': 'LogAppendTime', 'retention.ms': '-1' }
  const describe = (name: string, count: number, config: Record<string, string>) =>
    createAsDescribed(engine, topic(name, { partitions: count, config }))
  await describe(HALF_TOPIC, partitions, kept)
  const count = await engine.partitionsOf(HALF_TOPIC)
  await describe(DECISIONS_TOPIC, count, kept)
  await describe(CHECKS_TOPIC, count, { 'cleanup.policy': 'compact' })
  for (const name of [DECISIONS_TOPIC, CHECKS_TOPIC]) {
    if ((await engine.partitionsOf(name)) < count) await engine.addPartitions(name, count)
  }
  return count
}

function policyOf(text: string): HalfPolicy {
  const [firstCheckMs, checkEveryMs, checksMax] = text.split(',').map(Number)
  const isGood = [firstCheckMs, checkEveryMs, checksMax].every(value => Number.isFinite(value) && value >= 0)
  return isGood ? { firstCheckMs, checkEveryMs, checksMax } : DEFAULT_POLICY
}

export const DEFAULT_POLICY: HalfPolicy = { firstCheckMs: 6_000, checkEveryMs: 30_000, checksMax: 15 }

/** Messages are views of what was fetched with them, which is much to keep for one. */
function copyOf(content: Buffer | null): Buffer | null {
  return content === null ? null : Buffer.from(content)
}

function printable(content: Buffer | null): unknown {
  if (content === null) return null
  return isUtf8(content) ? content.toString('utf8') : { base64: content.toString('base64') }
}
