/**
 * What sluice writes into messages' headers, and the names of the topics that it keeps things in. Numbers are decimal text, times
 * milliseconds since the Unix epoch.
 */

import { createHash } from 'node:crypto'
import type { Header } from '../record/builder.ts'
import type { Message } from './message.ts'

export const systemHeader = {
  /** What the publisher calls the message, for those who must not handle it twice; and how long it is remembered where duplicates are dropped. */
  messageId: 'sluice-message-id',
  dedupWindow: 'sluice-dedup-window',
  /** A delayed message: when it is due, where to, and the id by which it can be cancelled. */
  deliverAt: 'sluice-deliver-at',
  target: 'sluice-target',
  targetPartition: 'sluice-target-partition',
  targetTimestamp: 'sluice-target-timestamp',
  delayId: 'sluice-delay-id',
  /** Of an occurrence of a schedule: `<name>@<version>`. */
  schedule: 'sluice-schedule',
  /** A half message: who is asked about it (a checker's name or a webhook), and when it is to be delivered after it was committed. */
  halfId: 'sluice-half-id',
  checker: 'sluice-checker',
  checkPolicy: 'sluice-check-policy',
  halfDelay: 'sluice-half-delay',
  /** A message that has failed: its story. */
  topic: 'sluice-original-topic',
  partition: 'sluice-original-partition',
  offset: 'sluice-original-offset',
  timestamp: 'sluice-original-timestamp',
  group: 'sluice-group',
  attempts: 'sluice-attempts',
  firstFailureAt: 'sluice-first-failure',
  lastFailureAt: 'sluice-last-failure',
  errorName: 'sluice-error-name',
  errorMessage: 'sluice-error-message',
  errorStack: 'sluice-error-stack',
  reason: 'sluice-reason',
  /** A dead letter's key is its id; this is the key of the message that died. Left out if it had none. */
  key: 'sluice-original-key',
  /** A dead letter whose value was null. */
  nullValue: 'sluice-original-null',
  /** Of a message in a queue: from when on it is not handed out any more; and its priority. */
  expiresAt: 'sluice-expires-at',
  priority: 'sluice-priority',
} as const

const SYSTEM_PREFIX = 'sluice-'

/** Why a message became a dead letter. */
export type DeadLetterReason = 'rejected' | 'attempts' | 'expired' | 'overflow'

/** Where a failing message came from and what became of it so far. */
export interface FailureStory {
  readonly topic: string
  readonly partition: number
  readonly offset: number
  /** The message's own time. */
  readonly timestamp: number
  readonly group: string
  /** How often a handler has had it. */
  readonly attempts: number
  readonly firstFailureAt: number
  readonly lastFailureAt: number
  readonly error: { readonly name: string; readonly message: string; readonly stack: string }
}

const ERROR_CHARS_MAX = 1_000
const STACK_CHARS_MAX = 4_000

export function storyHeaders(story: FailureStory): Header[] {
  return [
    [systemHeader.topic, story.topic],
    [systemHeader.partition, String(story.partition)],
    [systemHeader.offset, String(story.offset)],
    [systemHeader.timestamp, String(story.timestamp)],
    [systemHeader.group, story.group],
    [systemHeader.attempts, String(story.attempts)],
    [systemHeader.firstFailureAt, String(story.firstFailureAt)],
    [systemHeader.lastFailureAt, String(story.lastFailureAt)],
    [systemHeader.errorName, story.error.name.slice(0, ERROR_CHARS_MAX)],
    [systemHeader.errorMessage, story.error.message.slice(0, ERROR_CHARS_MAX)],
    [systemHeader.errorStack, story.error.stack.slice(0, STACK_CHARS_MAX)],
  ]
}

/** The story that a message carries, or null if it carries none. */
export function storyOf(message: Message<unknown, unknown>): FailureStory | null {
  const text = (name: string): string => message.header(name) ?? ''
  const count = (name: string): number => {
    const value = Number(text(name))
    return Number.isSafeInteger(value) ? value : -1
  }
  if (message.header(systemHeader.topic) == null) return null
  return {
    topic: text(systemHeader.topic),
    partition: count(systemHeader.partition),
    offset: count(systemHeader.offset),
    timestamp: count(systemHeader.timestamp),
    group: text(systemHeader.group),
    attempts: Math.max(0, count(systemHeader.attempts)),
    firstFailureAt: count(systemHeader.firstFailureAt),
    lastFailureAt: count(systemHeader.lastFailureAt),
    error: {
      name: text(systemHeader.errorName),
      message: text(systemHeader.errorMessage),
      stack: text(systemHeader.errorStack),
    },
  }
}

/** The error that a handler threw, which may be anything, as a story tells it. */
export function errorStory(error: unknown): FailureStory['error'] {
  if (error instanceof Error) return { name: error.name, message: error.message, stack: error.stack ?? '' }
  return { name: typeof error, message: String(error), stack: '' }
}

/** A message's headers without those that sluice wrote, except `keep`. */
export function ownHeaders(message: Message<unknown, unknown>, keep: readonly string[] = []): Header[] {
  return message.headerList().filter(([name]) => !name.startsWith(SYSTEM_PREFIX) || keep.includes(name))
}

/** Topics that belong to sluice begin with it; lists of topics leave them out. */
export const SYSTEM_TOPIC_PREFIX = '_sluice.'

const TOPIC_CHARS_MAX = 249

/** Where a group's workers try messages of a topic again. */
export const retryTopic = (topic: string, group: string): string => topicOfGroup(topic, group, 'retry')

/** Where the dead letters of a group and topic are. */
export const deadLetterTopic = (topic: string, group: string): string => topicOfGroup(topic, group, 'dead')

function topicOfGroup(topic: string, group: string, kind: 'retry' | 'dead'): string {
  const plain = group.replaceAll(/[^a-zA-Z0-9._-]/g, '_')
  const name = `${topic}.${plain}.${kind}`
  if (plain === group && name.length <= TOPIC_CHARS_MAX) return name
  const hash = createHash('sha256').update(`${topic}\0${group}`).digest('hex').slice(0, 8)
  const end = `.${hash}.${kind}`
  return `${topic}.${plain}`.slice(0, TOPIC_CHARS_MAX - end.length) + end
}
