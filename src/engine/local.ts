/**
 * The engine in this process: answers every call from a broker, without sockets and without serialisation.
 */

import { Broker } from '../broker/broker.ts'
import type { Topic } from '../broker/catalog.ts'
import { UNLIMITED } from '../broker/config.ts'
import { CONSUMER_PROTOCOL_TYPE, decodeAssignment } from '../broker/consumer-protocol.ts'
import { SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { type Disk, refusalOf } from '../lib/disk.ts'
import { cachedDisk } from '../lib/disk-cache.ts'
import { memoryDisk } from '../lib/disk-memory.ts'
import { nodeDisk } from '../lib/disk-node.ts'
import type { RecoveryReport } from '../log/recovery.ts'
import { asBuffer } from '../record/batch.ts'
import type {
  Acks,
  CommitOffset,
  CommittedOffset,
  Engine,
  EngineSupports,
  Fetched,
  FetchOptions,
  FetchPartition,
  GroupDescription,
  GroupSummary,
  Member,
  MemberEvents,
  MemberOptions,
  OffsetSpec,
  Produced,
  ProducerIdentity,
  TopicDescription,
  TopicPartition,
  TopicSpec,
  TransactionOptions,
  TransactionSession,
} from './engine.ts'
import { withMetadata } from './group-member.ts'
import { LocalMember } from './local-member.ts'
import { LocalTransactionSession } from './local-transaction.ts'

/** When an append counts as done; see docs/guides/durability.md. */
export type Flush = 'always' | 'os' | { readonly everyMs?: number; readonly everyMessages?: number }

export interface LocalEngineOptions {
  /** A data directory, or `memory:`. */
  readonly url: string
  /** Default `always`. */
  readonly flush?: Flush
  /** Whether a topic that is published or subscribed to and does not exist is made. Default true. */
  readonly autoCreateTopics?: boolean
  /** Partitions of a topic that does not say how many. Default 1. */
  readonly defaultPartitions?: number
  /** Defaults of topic configuration keys. */
  readonly config?: Readonly<Record<string, string>>
  /** Memory for recently written records, so that readers who keep up never touch the disk. Default 64 MiB. */
  readonly cacheBytesMax?: number
  /** Told what recovery found when the directory was opened. */
  readonly onReport?: (report: RecoveryReport) => void
  readonly clock?: Clock
  /** In place of the disk that the url names; for simulations. */
  readonly disk?: Disk
}

/** Opens a data directory, or an empty broker in memory. Rejects with DIRECTORY_IN_USE, NOT_A_DATA_DIRECTORY, INVALID_CONFIG. */
export async function openLocalEngine(options: LocalEngineOptions): Promise<LocalEngine> {
  const inMemory = options.url === 'memory:'
  const diskOfUrl = (): Disk =>
    inMemory ? memoryDisk() : cachedDisk(nodeDisk(), { bytesMax: options.cacheBytesMax })
  const opening = Broker.open({
    disk: options.disk ?? diskOfUrl(),
    path: inMemory ? 'memory' : options.url,
    clock: options.clock,
    config: { ...flushConfig(options.flush ?? 'always'), ...options.config },
    defaultPartitions: options.defaultPartitions,
    onReport: options.onReport,
  })
  return new LocalEngine(await refusing(opening), options.url, options.autoCreateTopics ?? true)
}

function flushConfig(flush: Flush): Record<string, string> {
  if (flush === 'always') return { 'flush.messages': '1' }
  const { everyMs, everyMessages } = flush === 'os' ? {} : flush
  return {
    'flush.messages': everyMessages === undefined ? UNLIMITED : String(everyMessages),
    'flush.ms': everyMs === undefined ? UNLIMITED : String(everyMs),
  }
}

/** What the disk says reaches a user as a refusal. */
async function refusing<Result>(action: Promise<Result>): Promise<Result> {
  try {
    return await action
  } catch (error) {
    throw refusalOf(error)
  }
}

const WAIT_MS = 500
const PARTITION_BYTES_MAX = 1024 * 1024

export class LocalEngine implements Engine {
  readonly url: string
  readonly supports: EngineSupports = {
    idempotence: true,
    transactions: true,
    durableAcks: true,
    deleteRecords: true,
    losesAnswers: false,
  }
  /** For what only this process can see: metrics. */
  readonly broker: Broker
  readonly #autoCreateTopics: boolean
  readonly #members = new Set<LocalMember>()

  constructor(broker: Broker, url: string, autoCreateTopics: boolean) {
    this.url = url
    this.broker = broker
    this.#autoCreateTopics = autoCreateTopics
  }

  async createTopic(spec: TopicSpec): Promise<TopicDescription> {
    return await refusing(this.broker.createTopic(spec).then(topic => this.#describe(topic)))
  }

  async deleteTopic(name: string): Promise<void> {
    await refusing(this.broker.deleteTopic(name))
  }

  async listTopics(): Promise<string[]> {
    return [...this.broker.topics].map(topic => topic.name).sort()
  }

  async describeTopic(name: string): Promise<TopicDescription> {
    return await refusing((async () => this.#describe(this.broker.topic(name)))())
  }

  async alterTopic(name: string, config: Readonly<Record<string, string | null>>): Promise<void> {
    await this.broker.alterTopic(name, config)
  }

  async addPartitions(name: string, partitions: number): Promise<void> {
    await refusing(this.broker.addPartitions(name, partitions))
  }

  async deleteRecords(topic: string, partition: number, offset: number): Promise<number> {
    return await refusing(this.broker.partition(topic, partition).deleteUntil(offset))
  }

  async partitionsOf(topic: string): Promise<number> {
    if (!this.#autoCreateTopics) return this.broker.topic(topic).partitions.length
    const found = this.broker.findTopic(topic)
    if (found !== undefined) return this.broker.topic(topic).partitions.length
    try {
      return (await refusing(this.broker.createTopic({ name: topic }))).partitions.length
    } catch (error) {
      // Two callers at once: the second finds what the first made.
      if (error instanceof SluiceError && error.code === 'TOPIC_EXISTS')
        return this.broker.topic(topic).partitions.length
      throw error
    }
  }

  async produce(topic: string, partition: number, batch: Uint8Array, acks?: Acks): Promise<Produced> {
    const { appended, done } = this.broker.partition(topic, partition).append(asBuffer(batch), acks, true)
    if (acks === 'none') return { baseOffset: -1, appendTime: -1 }
    if (done !== null) await done
    return { baseOffset: appended.baseOffset, appendTime: appended.appendTime }
  }

  async initProducer(): Promise<ProducerIdentity> {
    return { producerId: await this.broker.allocateProducerId(), epoch: 0 }
  }

  initTransactions(options: TransactionOptions): Promise<TransactionSession> {
    return LocalTransactionSession.open(this.broker, options)
  }

  fetch(partitions: readonly FetchPartition[], options: FetchOptions = {}): Promise<Fetched[]> {
    return this.broker.fetch(partitions, {
      partitionBytesMax: options.partitionBytesMax ?? PARTITION_BYTES_MAX,
      committedOnly: options.isolation !== 'uncommitted',
      waitMs: options.waitMs ?? WAIT_MS,
      signal: options.signal,
    })
  }

  async offsetFor(topic: string, partition: number, at: OffsetSpec): Promise<number> {
    const found = this.broker.partition(topic, partition)
    if (at === 'earliest') return found.startOffset
    if (at === 'latest') return found.highWatermark
    if (typeof at === 'object')
      return found.offsetForTime(typeof at.time === 'number' ? at.time : at.time.getTime())
    if (at >= found.startOffset && at <= found.highWatermark) return at
    throw new SluiceError(
      'OFFSET_OUT_OF_RANGE',
      `offset ${at} of ${topic}/${partition} is not between ${found.startOffset} and ${found.highWatermark}`,
      { topic, partition, offset: at, startOffset: found.startOffset, endOffset: found.highWatermark },
    )
  }

  async join(options: MemberOptions, events: MemberEvents): Promise<Member> {
    for (const topic of options.topics) await this.partitionsOf(topic)
    const member = new LocalMember(this.broker, options, events, () => this.#members.delete(member))
    this.#members.add(member)
    await member.start()
    return member
  }

  async commit(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    await this.broker.commit(group, null, offsets.map(withMetadata))
  }

  async committed(group: string, partitions?: readonly TopicPartition[]): Promise<CommittedOffset[]> {
    // Whoever goes on from a commit must not overlook one that is about to be decided.
    for (const { topic, partition } of partitions ?? []) {
      if (!this.broker.transactions.hasStaged(group, topic, partition)) continue
      const message = `group "${group}": the commit of ${topic}/${partition} waits for the end of a transaction`
      throw new SluiceError('UNSTABLE_OFFSET_COMMIT', message, { group, topic, partition })
    }
    const found =
      partitions === undefined
        ? this.broker.allCommitted(group)
        : partitions.flatMap(({ topic, partition }) => this.broker.committed(group, topic, partition) ?? [])
    // Negative ones are marks that Kafka clients leave for each other: where to begin, as if nothing was committed.
    return found.filter(({ offset }) => offset >= 0).map(withMetadata)
  }

  async listGroups(): Promise<GroupSummary[]> {
    return this.broker.listGroups()
  }

  async describeGroup(group: string): Promise<GroupDescription> {
    const { state, protocolType, protocol, members } = this.broker.describeGroup(group)
    return {
      group,
      state,
      protocolType,
      protocol,
      members: members.map(({ memberId, instanceId, clientId, clientHost, assignment }) => ({
        memberId,
        instanceId,
        clientId,
        host: clientHost,
        assignment: protocolType === CONSUMER_PROTOCOL_TYPE ? decodeAssignment(assignment).partitions : [],
      })),
    }
  }

  async deleteGroup(group: string): Promise<void> {
    await this.broker.deleteGroup(group)
  }

  async close(): Promise<void> {
    await Promise.all([...this.#members].map(member => member.leave()))
    await this.broker.close()
  }

  #describe(topic: Topic): TopicDescription {
    return {
      name: topic.name,
      id: topic.id,
      internal: topic.internal,
      partitions: topic.partitions.map(({ partition, startOffset, highWatermark, log }) => ({
        partition,
        startOffset,
        endOffset: highWatermark,
        bytes: log.bytes,
      })),
      config: this.broker.configOf(topic),
    }
  }
}
