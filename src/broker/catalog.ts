/**
 * The catalog: which topics there are, with which id, partitions and configuration. It is a table in a log of its own.
 *
 * Order of steps, so that a crash at any point leaves a whole topic or none:
 *  - create: a folder that is in the way (of an older topic of that name) is moved aside durably, never adopted; then the catalog
 *    entry is durable before a folder is made;
 *  - delete: the entry is marked `deleting` durably, then the folders are removed and what else is known of the topic (offsets of
 *    groups) is forgotten, then the entry goes, and with it the name is free. A start finishes what a crash interrupted.
 */

import { randomBytes } from 'node:crypto'
import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { RecoveryReport } from '../log/recovery.ts'
import {
  type ConfigValues,
  checkConfig,
  checkTopicName,
  resolveConfig,
  type TopicConfig,
  topicConfigTable,
} from './config.ts'
import type { DataDirectory } from './data-directory.ts'
import type { Partition } from './partition.ts'
import { type StateEntry, StateLog } from './state-log.ts'

export const PARTITIONS_MAX = 10_000

export interface TopicSpec {
  readonly name: string
  readonly partitions?: number
  readonly config?: ConfigValues
}

export interface Topic {
  readonly name: string
  readonly id: string
  readonly internal: boolean
  readonly partitions: readonly Partition[]
  readonly config: ConfigValues
}

/** Keys with their new values, null: back to the default. As a function, of the topic's own values as they are then. */
export type ConfigChange =
  | Readonly<Record<string, string | null>>
  | ((config: ConfigValues) => Readonly<Record<string, string | null>>)

export interface CatalogOptions {
  readonly directory: DataDirectory
  readonly clock: Clock
  readonly brokerConfig: ConfigValues
  readonly defaultPartitions: number
  /** Opens the log of a partition of any topic, internal ones included. */
  readonly openPartition: (topic: string, partition: number, config: TopicConfig) => Promise<Partition>
  /** Told of what should be there and is not. */
  readonly onReport: (report: RecoveryReport) => void
}

/** What is stored of a topic. */
interface TopicEntry {
  readonly id: string
  readonly partitions: number
  readonly config: ConfigValues
  readonly deleting?: true
}

/** Producer ids are taken from the catalog in blocks, so that not each one is a write. */
const PRODUCER_ID_BLOCK = 1000

export class Catalog {
  readonly #options: CatalogOptions
  readonly #entries = new Map<string, TopicEntry>()
  readonly #topics = new Map<string, Topic>()
  /** Id → name, of the topics there are. */
  readonly #names = new Map<string, string>()
  #log!: StateLog
  #nextProducerId = 0
  #reservedProducerId = 0
  /** The last reservation was not refused. */
  #isReserved = true
  /** Resolves when the ids up to #reservedProducerId will not be given out again after a crash. */
  #reservation: Promise<void> = Promise.resolve()
  /** Changes run one after the other. */
  #queue: Promise<unknown> = Promise.resolve()

  static async open(options: CatalogOptions): Promise<Catalog> {
    const catalog = new Catalog(options)
    const present = new Set(options.directory.partitionNames())
    checkPresent(options.directory, present)
    catalog.#log = await StateLog.open({
      partition: await options.openPartition('__catalog', 0, internalConfig(options.brokerConfig)),
      clock: options.clock,
      load: (key, value) => catalog.#load(key.toString(), value),
      entries: () => catalog.#allEntries(),
    })
    for (const [name, entry] of [...catalog.#entries]) {
      if (entry.deleting === true) await catalog.#takeBack(name, entry, null)
      else {
        catalog.#reportMissing(name, entry, present)
        await catalog.#openTopic(name, entry)
      }
    }
    return catalog
  }

  private constructor(options: CatalogOptions) {
    this.#options = options
  }

  get topics(): IterableIterator<Topic> {
    return this.#topics.values()
  }

  get(name: string): Topic | undefined {
    return this.#topics.get(name)
  }

  getById(id: string): Topic | undefined {
    const name = this.#names.get(id)
    return name === undefined ? undefined : this.#topics.get(name)
  }

  /** Throws UNKNOWN_TOPIC. */
  topic(name: string): Topic {
    const topic = this.#topics.get(name)
    if (topic === undefined)
      throw new SluiceError('UNKNOWN_TOPIC', `there is no topic "${name}"`, { topic: name })
    return topic
  }

  /** Throws what `create` would reject with, as things are now. Returns the number of partitions that the topic would have. */
  checkCreate(spec: TopicSpec): number {
    const { name, config = {}, partitions = this.#options.defaultPartitions } = spec
    checkTopicName(name)
    if (name.startsWith('__')) {
      throw new SluiceError('INVALID_TOPIC', `"${name}": names that begin with "__" belong to the broker`, {
        topic: name,
      })
    }
    checkPartitions(name, partitions, 1)
    checkConfig(config)
    // One without a topic could not be opened, nor taken back: see `create`.
    if (this.#topics.has(name) || this.#entries.get(name)?.deleting)
      throw new SluiceError('TOPIC_EXISTS', `topic "${name}" exists already`, { topic: name })
    return partitions
  }

  create(spec: TopicSpec): Promise<Topic> {
    const { name, config = {} } = spec
    return this.#change(async () => {
      const partitions = this.checkCreate(spec)
      const entry: TopicEntry = { id: randomBytes(16).toString('base64url'), partitions, config }
      await this.#clearTheWay(name, entry, 0)
      await this.#store(name, entry)
      try {
        return await this.#openTopic(name, entry)
      } catch (error) {
        // No room for the folders, say. Nobody has been told of the topic, so it is taken back.
        await this.#takeBack(name, entry, null).catch(() => {})
        throw error
      }
    })
  }

  /** `forget` removes what else is known of the topic, before its name can be given out again. If it fails, or the folders stay, it can be asked for again. */
  delete(name: string, forget: () => Promise<void>): Promise<void> {
    return this.#change(async () => {
      const entry = this.#entries.get(name)
      if (entry?.deleting !== true) await this.#closeTopic(this.topic(name), { ...entry!, deleting: true })
      this.#removeFolders(name, this.#entries.get(name)!, 0)
      await forget()
      await this.#options.directory.syncTopics()
      await this.#store(name, null)
    })
  }

  async #closeTopic(topic: Topic, entry: TopicEntry): Promise<void> {
    await this.#store(topic.name, entry)
    this.#topics.delete(topic.name)
    this.#names.delete(topic.id)
    for (const partition of topic.partitions) await partition.close()
  }

  /** Throws what `alter` would reject with, as things are now. Returns the configuration that the topic would have. */
  checkAlter(name: string, changes: ConfigChange): ConfigValues {
    const before = this.topic(name).config
    const config: Record<string, string> = { ...(before as Record<string, string>) }
    for (const [key, value] of Object.entries(typeof changes === 'function' ? changes(before) : changes)) {
      if (value !== null) config[key] = value
      else if (key in topicConfigTable) delete config[key]
      else checkConfig({ [key]: '' })
    }
    checkConfig(config)
    return config
  }

  alter(name: string, changes: ConfigChange): Promise<Topic> {
    return this.#change(async () => {
      const config = this.checkAlter(name, changes)
      await this.#store(name, { ...this.#entries.get(name)!, config })
      const topic = this.topic(name)
      const resolved = resolveConfig(config, this.#options.brokerConfig)
      for (const partition of topic.partitions) partition.configure(resolved)
      const altered = { ...topic, config }
      this.#topics.set(name, altered)
      return altered
    })
  }

  /** Throws what `addPartitions` would reject with, as things are now. */
  checkAddPartitions(name: string, partitions: number): void {
    checkPartitions(name, partitions, this.topic(name).partitions.length + 1)
  }

  addPartitions(name: string, partitions: number): Promise<Topic> {
    return this.#change(async () => {
      this.checkAddPartitions(name, partitions)
      const topic = this.topic(name)
      const before = { ...this.#entries.get(name)!, partitions: topic.partitions.length }
      const entry = { ...before, partitions }
      await this.#clearTheWay(name, entry, topic.partitions.length)
      await this.#store(name, entry)
      try {
        return await this.#openTopic(name, entry, topic.partitions)
      } catch (error) {
        await this.#takeBack(name, entry, before).catch(() => {})
        throw error
      }
    })
  }

  /** A producer id that was never given out before, also not before a crash. */
  async allocateProducerId(): Promise<number> {
    const id = this.#nextProducerId++
    if (!this.#isReserved || this.#nextProducerId > this.#reservedProducerId) this.#reserveProducerIds()
    await this.#reservation
    return id
  }

  #reserveProducerIds(): void {
    this.#reservedProducerId = this.#nextProducerId + PRODUCER_ID_BLOCK
    const reservation = this.#log.write([producerIdEntry(this.#reservedProducerId)])
    this.#reservation = reservation
    this.#isReserved = true
    reservation.catch(() => {
      if (this.#reservation === reservation) this.#isReserved = false // whoever wants one next tries again
    })
  }

  async close(): Promise<void> {
    await this.#queue
    for (const topic of this.#topics.values())
      for (const partition of topic.partitions) await partition.close()
    await this.#log.close()
  }

  #change<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(action)
    this.#queue = result.catch(() => {})
    return result
  }

  #load(key: string, value: Buffer | null): void {
    if (key === PRODUCER_IDS) {
      this.#nextProducerId = this.#reservedProducerId = Number(value?.toString() ?? 0)
    } else if (key.startsWith(TOPIC_PREFIX)) {
      const name = key.slice(TOPIC_PREFIX.length)
      if (value === null) this.#entries.delete(name)
      else this.#entries.set(name, JSON.parse(value.toString()) as TopicEntry)
    }
  }

  *#allEntries(): Generator<StateEntry> {
    yield producerIdEntry(this.#reservedProducerId)
    for (const [name, entry] of this.#entries) yield topicEntry(name, entry)
  }

  async #store(name: string, entry: TopicEntry | null): Promise<void> {
    const before = this.#entries.get(name)
    if (entry === null) this.#entries.delete(name)
    else this.#entries.set(name, entry)
    try {
      await this.#log.write([topicEntry(name, entry)])
    } catch (error) {
      if (before === undefined) this.#entries.delete(name)
      else this.#entries.set(name, before)
      throw error
    }
  }

  async #openTopic(name: string, entry: TopicEntry, opened: readonly Partition[] = []): Promise<Topic> {
    const config = resolveConfig(entry.config, this.#options.brokerConfig)
    const partitions = [...opened]
    try {
      for (let index = opened.length; index < entry.partitions; index++) {
        partitions.push(await this.#options.openPartition(name, index, config))
      }
      await this.#options.directory.syncTopics()
    } catch (error) {
      for (const partition of partitions.slice(opened.length)) await partition.close().catch(() => {})
      throw error
    }
    const topic = { name, id: entry.id, internal: false, partitions, config: entry.config }
    this.#topics.set(name, topic)
    this.#names.set(topic.id, name)
    return topic
  }

  /** Before the entry is stored: after a crash in between, a start would take what lies there for the topic's own. */
  async #clearTheWay(name: string, entry: TopicEntry, from: number): Promise<void> {
    const present = new Set(this.#options.directory.partitionNames())
    let isClear = true
    for (let index = from; index < entry.partitions; index++) {
      if (!present.has(`${name}-${index}`)) continue
      this.#options.directory.setAside(name, index, entry.id)
      isClear = false
    }
    if (!isClear) await this.#options.directory.syncTopics()
  }

  #reportMissing(name: string, entry: TopicEntry, present: ReadonlySet<string>): void {
    for (let index = 0; index < entry.partitions; index++) {
      if (present.has(`${name}-${index}`)) continue
      const file = this.#options.directory.partitionDirectory(name, index)
      const message = `${file} is gone: partition ${index} of topic "${name}" begins anew, empty, at offset 0`
      this.#options.onReport({
        case: 'missing-partition',
        severity: 'warning',
        file,
        position: 0,
        bytes: 0,
        message,
      })
    }
  }

  #removeFolders(name: string, entry: TopicEntry, from: number): void {
    for (let index = from; index < entry.partitions; index++)
      this.#options.directory.removePartition(name, index)
  }

  /** `before`: what is to be in place of the entry. */
  async #takeBack(name: string, entry: TopicEntry, before: TopicEntry | null): Promise<void> {
    this.#removeFolders(name, entry, before?.partitions ?? 0)
    await this.#options.directory.syncTopics()
    await this.#store(name, before)
  }
}

/** A new catalog in a directory that has topics would make them invisible, and give their names out again. Throws CORRUPT_LOG. */
function checkPresent(directory: DataDirectory, present: ReadonlySet<string>): void {
  const topics = [...present].filter(name => !name.startsWith('__'))
  if (topics.length === 0 || present.has('__catalog-0')) return
  const file = directory.partitionDirectory('__catalog', 0)
  throw new SluiceError(
    'CORRUPT_LOG',
    `${file} is gone, which says what the other folders beside it are: restore it, or move them away to begin anew`,
    { file, folders: topics.slice(0, 10) },
  )
}

const TOPIC_PREFIX = 'topic/'
const PRODUCER_IDS = 'producer-ids'

const topicEntry = (name: string, entry: TopicEntry | null): StateEntry => [
  Buffer.from(TOPIC_PREFIX + name),
  entry === null ? null : Buffer.from(JSON.stringify(entry)),
]

const producerIdEntry = (next: number): StateEntry => [Buffer.from(PRODUCER_IDS), Buffer.from(String(next))]

/** The broker's own logs: the flush policy of the house, kept for ever, batches of any size that is sane. */
export const internalConfig = (broker: ConfigValues): TopicConfig =>
  resolveConfig(
    {
      'retention.ms': '-1',
      'retention.bytes': '-1',
      'segment.bytes': '67108864',
      'max.message.bytes': String(16 * 1024 * 1024),
    },
    broker,
  )

function checkPartitions(topic: string, partitions: number, least: number): void {
  if (Number.isInteger(partitions) && partitions >= least && partitions <= PARTITIONS_MAX) return
  throw new SluiceError(
    'INVALID_PARTITIONS',
    `topic "${topic}" cannot have ${partitions} partitions: ${least} to ${PARTITIONS_MAX} are possible`,
    { topic, partitions },
  )
}
