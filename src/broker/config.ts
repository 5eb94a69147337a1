/**
 * The configuration of topics: one table, with Kafka's names where Kafka has the key. Parsing, defaults, `describe`,
 * error texts and docs/CONFIGURATION.md all follow from it.
 *
 * A value comes from the topic, or from the broker's defaults (what the data directory was opened with), or from the table.
 */

import { SluiceError } from '../errors.ts'
import type { LogConfig } from '../log/log.ts'

/** Kafka's "no limit" for 64-bit keys. */
export const UNLIMITED = '9223372036854775807'

/** `list`: one or more of the choices, with commas between them. */
export type ConfigType = 'int' | 'long' | 'double' | 'choice' | 'list' | 'boolean'

interface ConfigRow {
  readonly type: ConfigType
  readonly default: string
  /** What Kafka calls the key when it is set for a whole broker. */
  readonly brokerKey: string
  readonly min?: number
  readonly max?: number
  /** The only values; of a `list`, its parts. A key that Kafka has and that cannot differ here has one. */
  readonly choices?: readonly string[]
  readonly meaning: string
}

export const topicConfigTable = {
  'cleanup.policy': {
    type: 'list',
    brokerKey: 'log.cleanup.policy',
    default: 'delete',
    choices: ['delete', 'compact'],
    meaning:
      'What happens to old records: `delete` removes whole segments by age and size; `compact` keeps the last record of each key, and takes none without a key; `compact,delete` does both.',
  },
  'compression.type': {
    type: 'choice',
    brokerKey: 'compression.type',
    default: 'producer',
    choices: ['producer'],
    meaning: 'Batches are stored as the producer compressed them.',
  },
  'delete.retention.ms': {
    type: 'long',
    brokerKey: 'log.cleaner.delete.retention.ms',
    default: '86400000',
    min: 0,
    meaning:
      'Compaction: how long a tombstone (a null value) stays after it was first compacted, so that readers who are behind learn of it. The default is a day.',
  },
  'flush.messages': {
    type: 'long',
    brokerKey: 'log.flush.interval.messages',
    default: '1',
    min: 1,
    meaning:
      'Sync to disk after this many records. 1 is the policy `always`: a record is acknowledged, and shown to readers, when it is on the disk; publishers that wait at the same time share a sync.',
  },
  'flush.ms': {
    type: 'long',
    brokerKey: 'log.flush.interval.ms',
    default: UNLIMITED,
    min: 0,
    meaning:
      'Sync to disk this long after a record was written, in ms. With no limit here and in `flush.messages` the operating system decides (policy `os`).',
  },
  'index.interval.bytes': {
    type: 'int',
    brokerKey: 'log.index.interval.bytes',
    default: '4096',
    min: 0,
    meaning: 'Bytes of log between two entries of the offset index and the time index.',
  },
  'max.compaction.lag.ms': {
    type: 'long',
    brokerKey: 'log.cleaner.max.compaction.lag.ms',
    default: UNLIMITED,
    min: 1,
    meaning:
      'Compaction: a partition whose oldest record that was not compacted is older than this is compacted whatever `min.cleanable.dirty.ratio` says.',
  },
  'max.message.bytes': {
    type: 'int',
    brokerKey: 'message.max.bytes',
    default: '1048588',
    min: 100,
    max: 512 * 1024 * 1024,
    meaning: 'Largest record batch (as stored, so after compression) that the topic takes.',
  },
  'message.timestamp.type': {
    type: 'choice',
    brokerKey: 'log.message.timestamp.type',
    default: 'CreateTime',
    choices: ['CreateTime', 'LogAppendTime'],
    meaning:
      'Whether the timestamp of a record is the one the producer gave, or the time when the log took it.',
  },
  'min.cleanable.dirty.ratio': {
    type: 'double',
    brokerKey: 'log.cleaner.min.cleanable.ratio',
    default: '0.5',
    min: 0,
    max: 1,
    meaning:
      'Compaction: a partition is compacted when more than this part of its closed segments was written since the last time.',
  },
  'min.compaction.lag.ms': {
    type: 'long',
    brokerKey: 'log.cleaner.min.compaction.lag.ms',
    default: '0',
    min: 0,
    meaning: 'Compaction: a segment with a record that is younger than this is left as it is.',
  },
  'message.timestamp.after.max.ms': {
    type: 'long',
    brokerKey: 'log.message.timestamp.after.max.ms',
    default: UNLIMITED,
    choices: [UNLIMITED],
    meaning: 'How far ahead of the clock a timestamp may be: not limited.',
  },
  'message.timestamp.before.max.ms': {
    type: 'long',
    brokerKey: 'log.message.timestamp.before.max.ms',
    default: UNLIMITED,
    choices: [UNLIMITED],
    meaning: 'How old a timestamp may be: not limited.',
  },
  'min.insync.replicas': {
    type: 'int',
    brokerKey: 'min.insync.replicas',
    default: '1',
    choices: ['1'],
    meaning: 'There is one replica.',
  },
  preallocate: {
    type: 'boolean',
    brokerKey: 'log.preallocate',
    default: 'false',
    choices: ['false'],
    meaning: 'Segment files grow with what is written.',
  },
  'remote.storage.enable': {
    type: 'boolean',
    brokerKey: 'remote.storage.enable',
    default: 'false',
    choices: ['false'],
    meaning: 'All segments are on the disk of the server.',
  },
  'retention.bytes': {
    type: 'long',
    brokerKey: 'log.retention.bytes',
    default: '-1',
    min: -1,
    meaning: 'Oldest segments are removed while a partition is larger than this. -1: no limit.',
  },
  'retention.ms': {
    type: 'long',
    brokerKey: 'log.retention.ms',
    default: '604800000',
    min: -1,
    meaning:
      'Segments whose newest record is older than this are removed; the default is seven days. -1: kept for ever.',
  },
  'segment.bytes': {
    type: 'int',
    brokerKey: 'log.segment.bytes',
    default: '67108864',
    min: 1024,
    max: 2 ** 31 - 1,
    meaning:
      'Size at which a segment file is closed and the next one begun. Retention removes whole segments.',
  },
  'segment.jitter.ms': {
    type: 'long',
    brokerKey: 'log.roll.jitter.ms',
    default: '0',
    choices: ['0'],
    meaning: 'Segments are closed at the age of `segment.ms`, no earlier by chance.',
  },
  'segment.ms': {
    type: 'long',
    brokerKey: 'log.roll.ms',
    default: '604800000',
    min: 1,
    meaning: 'Age at which a segment is closed even if it is not full.',
  },
  'unclean.leader.election.enable': {
    type: 'boolean',
    brokerKey: 'unclean.leader.election.enable',
    default: 'false',
    choices: ['true', 'false'],
    meaning: 'Makes no difference: there is one replica, and nobody else to elect.',
  },
} as const satisfies Record<string, ConfigRow>

export interface ConfigEntry {
  readonly name: string
  readonly value: string
  readonly source: 'topic' | 'broker' | 'default'
  readonly meaning: string
}

/** Where a value would come from, the one in force first. */
export interface ConfigSynonym {
  readonly name: string
  readonly value: string
  readonly source: ConfigEntry['source']
}

/** An entry with all that Kafka's tools want to know of it. */
export interface ConfigDetail extends ConfigEntry {
  readonly type: ConfigType
  readonly synonyms: readonly ConfigSynonym[]
}

export type TopicConfigKey = keyof typeof topicConfigTable
export type ConfigValues = Readonly<Partial<Record<string, string>>>

/** When an append counts as done, from `flush.messages` and `flush.ms`. */
export interface FlushPolicy {
  readonly kind: 'always' | 'interval' | 'os'
  /** Records between two syncs; Infinity: no limit. */
  readonly messages: number
  /** Milliseconds from a write to the sync; Infinity: no limit. */
  readonly ms: number
}

export interface TopicConfig {
  readonly log: LogConfig
  readonly flush: FlushPolicy
}

/** Checks keys and values of a topic's configuration. Throws INVALID_CONFIG. */
export function checkConfig(values: ConfigValues): void {
  for (const [name, value] of Object.entries(values)) {
    const row = (topicConfigTable as Record<string, ConfigRow>)[name]
    if (row === undefined) {
      throw invalid(name, value, `unknown key; the keys are ${Object.keys(topicConfigTable).join(', ')}`)
    }
    if (typeof value !== 'string') throw invalid(name, value, 'a string is expected')
    if (row.choices !== undefined || row.type === 'boolean') {
      const parts = row.type === 'list' ? value.split(',') : [value]
      const choices = choicesOf(row)
      if (!parts.every(part => choices.includes(part)) || new Set(parts).size < parts.length)
        throw invalid(name, value, `one of ${choices.join(', ')} is expected`)
      continue
    }
    if (row.type === 'double') {
      const share = Number(value)
      if (!/^\d+(\.\d*)?$|^\.\d+$/.test(value) || share < row.min! || share > row.max!)
        throw invalid(name, value, `a number from ${row.min} to ${row.max} is expected`)
      continue
    }
    const most = row.max ?? (row.type === 'int' ? 2 ** 31 - 1 : Number.POSITIVE_INFINITY)
    const number = Number(value)
    if (!/^-?\d+$/.test(value) || number < row.min! || number > most || number >= 2 ** 64) {
      const range = Number.isFinite(most) ? `from ${row.min} to ${most}` : `of at least ${row.min}`
      throw invalid(name, value, `a whole number ${range} is expected`)
    }
  }
}

const choicesOf = (row: ConfigRow): readonly string[] => row.choices ?? ['true', 'false']

const invalid = (name: string, value: unknown, why: string): SluiceError =>
  new SluiceError('INVALID_CONFIG', `${name}=${String(value)}: ${why}`, { name, value })

/** The configuration in force. Values must have been checked. */
export function resolveConfig(topic: ConfigValues, broker: ConfigValues): TopicConfig {
  const text = (name: TopicConfigKey): string => topic[name] ?? broker[name] ?? topicConfigTable[name].default
  const number = (name: TopicConfigKey): number => {
    const value = Number(text(name))
    return value >= Number.MAX_SAFE_INTEGER ? Number.POSITIVE_INFINITY : value
  }
  const policies = text('cleanup.policy').split(',')
  const deletes = policies.includes('delete')
  const compaction = policies.includes('compact')
    ? {
        lagMsMin: number('min.compaction.lag.ms'),
        lagMsMax: number('max.compaction.lag.ms'),
        dirtyRatioMin: number('min.cleanable.dirty.ratio'),
        deleteRetentionMs: number('delete.retention.ms'),
      }
    : undefined
  const messages = number('flush.messages')
  const ms = number('flush.ms')
  return {
    log: {
      segmentBytesMax: number('segment.bytes'),
      // So that what is written now can be compacted in time: the active segment never is.
      segmentMsMax: Math.min(number('segment.ms'), compaction?.lagMsMax ?? Number.POSITIVE_INFINITY),
      indexIntervalBytes: number('index.interval.bytes'),
      batchBytesMax: number('max.message.bytes'),
      appendTime: text('message.timestamp.type') === 'LogAppendTime',
      retentionMs: deletes ? number('retention.ms') : -1,
      retentionBytes: deletes ? number('retention.bytes') : -1,
      compaction,
    },
    flush: {
      kind: messages === 1 ? 'always' : Number.isFinite(messages) || Number.isFinite(ms) ? 'interval' : 'os',
      messages,
      ms,
    },
  }
}

/** Every key with its value and where it comes from. */
export function describeConfig(topic: ConfigValues, broker: ConfigValues): ConfigEntry[] {
  return Object.entries(topicConfigTable).map(([name, row]) => {
    const source = topic[name] !== undefined ? 'topic' : broker[name] !== undefined ? 'broker' : 'default'
    return { name, value: topic[name] ?? broker[name] ?? row.default, source, meaning: row.meaning }
  })
}

/** Every key with its value, type, and all places that it could come from. */
export function detailConfig(topic: ConfigValues, broker: ConfigValues): ConfigDetail[] {
  return describeConfig(topic, broker).map(entry => {
    const { name } = entry
    const row: ConfigRow = topicConfigTable[name as TopicConfigKey]
    const synonyms: ConfigSynonym[] = []
    const add = (key: string, value: string | undefined, source: ConfigEntry['source']): void => {
      if (value !== undefined) synonyms.push({ name: key, value, source })
    }
    add(name, topic[name], 'topic')
    add(row.brokerKey, broker[name], 'broker')
    add(row.brokerKey, row.default, 'default')
    return { ...entry, type: row.type, synonyms }
  })
}

/** The type of a key; undefined if there is no such key. */
export function configTypeOf(name: string): ConfigType | undefined {
  return (topicConfigTable as Readonly<Record<string, ConfigRow | undefined>>)[name]?.type
}

/** The table as the rows of docs/CONFIGURATION.md. */
export function topicConfigMarkdown(): string {
  const rows = Object.entries(topicConfigTable).map(([name, row]: [string, ConfigRow]) => {
    const values =
      row.choices !== undefined || row.type === 'boolean'
        ? choicesOf(row)
            .map(choice => `\`${choice}\``)
            .join(', ')
        : row.type === 'double'
          ? `${row.type}, ${row.min} to ${row.max}`
          : `${row.type}, at least ${row.min}`
    return `| \`${name}\` | ${values} | \`${row.default}\` | ${row.meaning} |`
  })
  return ['| key | values | default | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n')
}

/** A name that can be a topic: Kafka's rule. Throws INVALID_TOPIC. */
export function checkTopicName(name: string): void {
  if (typeof name === 'string' && /^[a-zA-Z0-9._-]{1,249}$/.test(name) && name !== '.' && name !== '..')
    return
  throw new SluiceError(
    'INVALID_TOPIC',
    `${JSON.stringify(name)} cannot be a topic: 1 to 249 characters from a-z A-Z 0-9 . _ - are allowed`,
    { topic: name },
  )
}
