/**
 * Topics of a cluster: creating, describing, changing, deleting. A change is over when the cluster shows it, not when it
 * has been accepted: brokers learn of changes one after the other, and whoever creates a topic wants to use it.
 *
 * Requests go to the controller for changes, to the leaders for offsets, to all brokers for sizes.
 */

import { codeOfKafka, SluiceError } from '../errors.ts'
import { createPartitionsApi } from '../wire/kafka/create-partitions.ts'
import { createTopicsApi } from '../wire/kafka/create-topics.ts'
import { deleteRecordsApi } from '../wire/kafka/delete-records.ts'
import { deleteTopicsApi } from '../wire/kafka/delete-topics.ts'
import { describeConfigsApi } from '../wire/kafka/describe-configs.ts'
import { describeLogDirsApi } from '../wire/kafka/describe-log-dirs.ts'
import { incrementalAlterConfigsApi } from '../wire/kafka/incremental-alter-configs.ts'
import { listOffsetsApi } from '../wire/kafka/list-offsets.ts'
import type { ConfigEntry, OffsetSpec, TopicDescription, TopicSpec } from './engine.ts'
import { BROKER_TIMEOUT_MS, check, type KafkaCluster, type KnownTopic, refusalOf } from './kafka-cluster.ts'

const TOPIC_RESOURCE = 2
const SET = 0
const DELETE = 1
const SOURCE_TOPIC = 1
const SOURCE_DEFAULT = 5
/** In place of a timestamp. */
const LATEST = -1
const EARLIEST = -2
/** What is asked of the cluster where the topic does not say: its own default. */
const ITS_DEFAULT = -1
/** The last version with names in place of ids. */
const DELETE_TOPICS_VERSION_MAX = 5

export class KafkaTopics {
  readonly #cluster: KafkaCluster
  /** Undefined: as many as the cluster gives. */
  readonly #defaultPartitions: number | undefined

  constructor(cluster: KafkaCluster, defaultPartitions: number | undefined) {
    this.#cluster = cluster
    this.#defaultPartitions = defaultPartitions
  }

  async create({ name, partitions, config = {} }: TopicSpec): Promise<TopicDescription> {
    const count = partitions ?? this.#defaultPartitions ?? ITS_DEFAULT
    if (partitions !== undefined && !(Number.isSafeInteger(count) && count >= 1 && count < 2 ** 31)) {
      const message = `topic "${name}": the number of partitions is a whole number from 1 on, not ${count}`
      throw new SluiceError('INVALID_PARTITIONS', message, { topic: name, partitions })
    }
    const configs = Object.entries(config).map(([key, value]) => ({ name: key, value }))
    const topics = [{ name, numPartitions: count, replicationFactor: ITS_DEFAULT, assignments: [], configs }]
    await this.#cluster.onController(async (link, mayBeDone) => {
      const answer = await link.call(createTopicsApi, { topics, timeoutMs: BROKER_TIMEOUT_MS })
      for (const { errorCode, errorMessage } of answer.topics)
        if (!mayBeDone || codeOfKafka(errorCode) !== 'TOPIC_EXISTS')
          check(errorCode, errorMessage, `topic ${JSON.stringify(name)}`, { topic: name })
    })
    await this.#shown(name, topic => topic?.partitions.every(({ leader }) => leader >= 0) === true)
    return await this.describe(name)
  }

  async delete(name: string): Promise<void> {
    const { id } = await this.#cluster.retrying(() => this.#cluster.learn(name))
    await this.#cluster.onController(async (link, mayBeDone) => {
      const answer = await link.call(
        deleteTopicsApi,
        { topicNames: [name], timeoutMs: BROKER_TIMEOUT_MS },
        { versionMax: DELETE_TOPICS_VERSION_MAX },
      )
      for (const { errorCode, errorMessage } of answer.responses)
        if (!mayBeDone || codeOfKafka(errorCode) !== 'UNKNOWN_TOPIC')
          check(errorCode, errorMessage, `topic ${JSON.stringify(name)}`, { topic: name })
    })
    this.#cluster.forgetTopic(name)
    await this.#shown(name, topic => topic === null || topic.id !== id)
  }

  async describe(name: string): Promise<TopicDescription> {
    const topic = await this.#cluster.retrying(() => this.#cluster.learn(name))
    const numbers = topic.partitions.map((_, partition) => partition)
    const [starts, ends, bytes, config] = await Promise.all([
      Promise.all(numbers.map(partition => this.#offset(name, partition, EARLIEST))),
      Promise.all(numbers.map(partition => this.#offset(name, partition, LATEST))),
      this.#bytes(topic),
      this.#config(name),
    ])
    return {
      name,
      id: topic.id,
      internal: topic.isInternal,
      partitions: numbers.map(partition => ({
        partition,
        startOffset: starts[partition],
        endOffset: ends[partition],
        bytes: bytes[partition] ?? -1,
      })),
      config,
    }
  }

  async alter(name: string, config: Readonly<Record<string, string | null>>): Promise<void> {
    await this.#cluster.retrying(() => this.#cluster.learn(name)) // brokers do not all refuse an unknown topic
    const configs = Object.entries(config).map(([key, value]) => ({
      name: key,
      configOperation: value === null ? DELETE : SET,
      value,
    }))
    const resources = [{ resourceType: TOPIC_RESOURCE, resourceName: name, configs }]
    await this.#cluster.onController(async link => {
      const answer = await link.call(incrementalAlterConfigsApi, { resources, validateOnly: false })
      for (const { errorCode, errorMessage } of answer.responses)
        check(errorCode, errorMessage, `topic ${JSON.stringify(name)}`, { topic: name })
    })
  }

  async addPartitions(name: string, count: number): Promise<void> {
    const topics = [{ name, count, assignments: null }]
    await this.#cluster.onController(async (link, mayBeDone) => {
      if (mayBeDone && (await this.#cluster.learn(name)).partitions.length === count) return
      const answer = await link.call(createPartitionsApi, {
        topics,
        timeoutMs: BROKER_TIMEOUT_MS,
        validateOnly: false,
      })
      for (const { errorCode, errorMessage } of answer.results)
        check(errorCode, errorMessage, `topic ${JSON.stringify(name)}`, { topic: name })
    })
    await this.#shown(name, topic => topic !== null && topic.partitions.length >= count)
  }

  async deleteRecords(topic: string, partition: number, offset: number): Promise<number> {
    const topics = [{ name: topic, partitions: [{ partitionIndex: partition, offset }] }]
    return await this.#cluster.onLeader(topic, partition, 'control', async link => {
      const answer = await link.call(deleteRecordsApi, { topics, timeoutMs: BROKER_TIMEOUT_MS })
      const [{ errorCode, lowWatermark }] = answer.topics[0].partitions
      check(errorCode, null, `${topic}/${partition}`, { topic, partition, offset })
      return lowWatermark
    })
  }

  /** Creates the topic if it is missing and `autoCreate` says so. */
  async partitionsOf(name: string, autoCreate: boolean): Promise<number> {
    const { partitions } = await this.#cluster.topic(name).catch(async error => {
      if (!autoCreate || !(error instanceof SluiceError) || error.code !== 'UNKNOWN_TOPIC') throw error
      try {
        await this.create({ name })
      } catch (refusal) {
        // Two callers at once: the second finds what the first made.
        if (!(refusal instanceof SluiceError) || refusal.code !== 'TOPIC_EXISTS') throw refusal
        await this.#shown(name, topic => topic !== null)
      }
      return await this.#cluster.topic(name)
    })
    return partitions.length
  }

  async offsetFor(topic: string, partition: number, at: OffsetSpec): Promise<number> {
    if (at === 'earliest') return await this.#offset(topic, partition, EARLIEST)
    if (at === 'latest') return await this.#offset(topic, partition, LATEST)
    if (typeof at === 'object') {
      const time = typeof at.time === 'number' ? at.time : at.time.getTime()
      const found = await this.#offset(topic, partition, Math.max(0, Math.ceil(time)))
      return found < 0 ? await this.#offset(topic, partition, LATEST) : found
    }
    const startOffset = await this.#offset(topic, partition, EARLIEST)
    const endOffset = await this.#offset(topic, partition, LATEST)
    if (at >= startOffset && at <= endOffset) return at
    throw new SluiceError(
      'OFFSET_OUT_OF_RANGE',
      `offset ${at} of ${topic}/${partition} is not between ${startOffset} and ${endOffset}`,
      { topic, partition, offset: at, startOffset, endOffset },
    )
  }

  async #offset(topic: string, partition: number, timestamp: number): Promise<number> {
    const topics = [{ name: topic, partitions: [{ partitionIndex: partition, timestamp }] }]
    return await this.#cluster.onLeader(topic, partition, 'control', async link => {
      const answer = await link.call(listOffsetsApi, {
        replicaId: -1,
        topics,
        timeoutMs: BROKER_TIMEOUT_MS,
      })
      const [{ errorCode, offset }] = answer.topics[0].partitions
      check(errorCode, null, `${topic}/${partition}`, { topic, partition })
      return offset
    })
  }

  /** What the leaders store, by partition; nothing where they do not tell. */
  async #bytes({ name, partitions }: KnownTopic): Promise<readonly number[]> {
    const topics = [{ topic: name, partitions: partitions.map((_, partition) => partition) }]
    const bytes: number[] = []
    await this.#cluster.onEvery(async (link, nodeId) => {
      if (!link.has(describeLogDirsApi)) return
      const { results } = await link.call(describeLogDirsApi, { topics })
      const found = results.flatMap(result => result.topics.flatMap(topic => topic.partitions))
      for (const { partitionIndex, partitionSize, isFutureKey } of found) {
        if (partitions[partitionIndex]?.leader === nodeId && !isFutureKey)
          bytes[partitionIndex] = partitionSize
      }
    })
    return bytes
  }

  async #config(name: string): Promise<ConfigEntry[]> {
    const resources = [{ resourceType: TOPIC_RESOURCE, resourceName: name, configurationKeys: null }]
    return await this.#cluster.onAny(async link => {
      const { results } = await link.call(describeConfigsApi, { resources, includeDocumentation: true })
      const [{ errorCode, errorMessage, configs }] = results
      check(errorCode, errorMessage, `topic ${JSON.stringify(name)}`, { topic: name })
      return configs.map(entry => ({
        name: entry.name,
        value: entry.value ?? '',
        source: sourceOf(entry.configSource),
        ...(entry.documentation === null ? {} : { meaning: entry.documentation }),
      }))
    })
  }

  /** Waits until the cluster shows the topic (null: none) as it should be. */
  async #shown(name: string, isSo: (topic: KnownTopic | null) => boolean): Promise<void> {
    await this.#cluster.retrying(async () => {
      const topic = await this.#cluster.learn(name).catch((error: unknown) => {
        if (error instanceof SluiceError && error.code === 'UNKNOWN_TOPIC') return null
        throw error
      })
      if (isSo(topic)) return
      throw refusalOf(LEADER_NOT_AVAILABLE, 'the cluster does not show the change yet', `topic "${name}"`, {
        topic: name,
      })
    })
  }
}

const LEADER_NOT_AVAILABLE = 5

const sourceOf = (source: number): ConfigEntry['source'] => {
  if (source === SOURCE_TOPIC) return 'topic'
  return source === SOURCE_DEFAULT ? 'default' : 'broker'
}
