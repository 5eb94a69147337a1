/**
 * The engine over a Kafka cluster, or over a sluice server: every call of the seam as requests of Kafka's protocol. Record
 * batches travel as they are, in both directions. Which broker is asked, links and retries: kafka-cluster.ts.
 *
 *     kafka.ts ─┬─ kafka-topics.ts ┐
 *               ├─ kafka-groups.ts ├─ kafka-cluster.ts ── kafka-link.ts ── wire/kafka
 *               ├─ kafka-reads.ts  │
 *               ├─ kafka-member.ts │
 *               └─ kafka-transaction.ts
 *
 * What a lost answer means for a batch: one with a sequence (idempotent) is sent again, its partition recognises it; of one
 * without nobody knows whether it was stored, so it is `TIMED_OUT`, and the producer decides.
 */

import { SluiceError } from '../errors.ts'
import { asBuffer, producerId } from '../record/batch.ts'
import { initProducerIdApi } from '../wire/kafka/init-producer-id.ts'
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
  Isolation,
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
import { BROKER_TIMEOUT_MS, check, KafkaCluster } from './kafka-cluster.ts'
import { KafkaGroups } from './kafka-groups.ts'
import type { Address } from './kafka-link.ts'
import { KafkaMember } from './kafka-member.ts'
import { produceTo } from './kafka-produce.ts'
import { KafkaReads } from './kafka-reads.ts'
import { KafkaTopics } from './kafka-topics.ts'
import { KafkaTransactionSession } from './kafka-transaction.ts'

export interface KafkaEngineOptions {
  /** `kafka://HOST[:PORT][,HOST[:PORT]…]`: some brokers of the cluster; the others are found through them. */
  readonly url: string
  /** Default true. */
  readonly autoCreateTopics?: boolean
  /** Partitions of a topic that does not say how many. Default: the cluster's (`num.partitions`). */
  readonly defaultPartitions?: number
  /** Names this program in the cluster's logs and metrics. Default 'sluice'. */
  readonly clientId?: string
  /**
   * Longest time between two heartbeats of a group member, which learns of a rebalance by them, in milliseconds. Default 1,000.
   */
  readonly heartbeatMs?: number
}

const PORT = 9092
const HEARTBEAT_MS = 1_000

/** Connects to a cluster. Rejects with `INVALID_URL`, and with `UNREACHABLE` if none of the brokers answers. */
export async function openKafkaEngine(options: KafkaEngineOptions): Promise<KafkaEngine> {
  const cluster = new KafkaCluster(brokersOf(options.url), options.clientId ?? 'sluice')
  try {
    await cluster.start()
  } catch (error) {
    cluster.close()
    throw error
  }
  return new KafkaEngine(cluster, options)
}

/** Throws `INVALID_URL`. */
export function brokersOf(url: string): Address[] {
  const match = /^kafka:\/\/([^/?#@]+)\/?$/i.exec(url)
  const brokers = match?.[1].split(',').map(brokerOf) ?? []
  if (brokers.length > 0 && brokers.every(broker => broker !== null)) return brokers
  throw new SluiceError(
    'INVALID_URL',
    `${JSON.stringify(url)} is not the address of a cluster; write kafka://HOST:PORT, more brokers after commas, and nothing else`,
    { url },
  )
}

function brokerOf(text: string): Address | null {
  const match = /^(\[[0-9a-f:.%]+\]|[^\s:[\]]+)(?::(\d{1,5}))?$/i.exec(text)
  if (match === null) return null
  const port = match[2] === undefined ? PORT : Number(match[2])
  if (port === 0 || port > 65_535) return null
  return { host: match[1].replace(/^\[|\]$/g, ''), port }
}

export class KafkaEngine implements Engine {
  readonly url: string
  readonly supports: EngineSupports = {
    idempotence: true,
    transactions: true,
    durableAcks: true,
    deleteRecords: true,
    losesAnswers: true,
  }
  readonly #cluster: KafkaCluster
  readonly #topics: KafkaTopics
  readonly #groups: KafkaGroups
  readonly #reads: Readonly<Record<Isolation, KafkaReads>>
  readonly #autoCreateTopics: boolean
  readonly #heartbeatMs: number
  readonly #members = new Set<KafkaMember>()
  #closing: Promise<void> | null = null

  /** @internal Made by `openKafkaEngine`. */
  constructor(cluster: KafkaCluster, options: KafkaEngineOptions) {
    const { url, autoCreateTopics, defaultPartitions, heartbeatMs } = options
    this.url = url
    this.#heartbeatMs = heartbeatMs ?? HEARTBEAT_MS
    this.#cluster = cluster
    this.#topics = new KafkaTopics(cluster, defaultPartitions)
    this.#groups = new KafkaGroups(cluster)
    this.#reads = {
      committed: new KafkaReads(cluster, 'committed'),
      uncommitted: new KafkaReads(cluster, 'uncommitted'),
    }
    this.#autoCreateTopics = autoCreateTopics ?? true
  }

  createTopic(spec: TopicSpec): Promise<TopicDescription> {
    return this.#cluster.guard(() => this.#topics.create(spec))
  }

  deleteTopic(name: string): Promise<void> {
    this.#forgetReads(name)
    return this.#cluster.guard(() => this.#topics.delete(name))
  }

  listTopics(): Promise<string[]> {
    return this.#cluster.guard(() => this.#cluster.topicNames())
  }

  describeTopic(name: string): Promise<TopicDescription> {
    return this.#cluster.guard(() => this.#topics.describe(name))
  }

  alterTopic(name: string, config: Readonly<Record<string, string | null>>): Promise<void> {
    return this.#cluster.guard(() => this.#topics.alter(name, config))
  }

  addPartitions(name: string, partitions: number): Promise<void> {
    return this.#cluster.guard(() => this.#topics.addPartitions(name, partitions))
  }

  deleteRecords(topic: string, partition: number, offset: number): Promise<number> {
    this.#forgetReads(topic)
    return this.#cluster.guard(() => this.#topics.deleteRecords(topic, partition, offset))
  }

  partitionsOf(topic: string): Promise<number> {
    return this.#cluster.guard(() => this.#topics.partitionsOf(topic, this.#autoCreateTopics))
  }

  async produce(topic: string, partition: number, batch: Uint8Array, acks?: Acks): Promise<Produced> {
    const isRepeatable = producerId(asBuffer(batch), 0) >= 0
    try {
      return await this.#cluster.guard(() =>
        this.#cluster.onLeader(
          topic,
          partition,
          'produce',
          link => produceTo(link, topic, partition, batch, { acks }),
          { isRepeatable },
        ),
      )
    } catch (error) {
      throw error instanceof SluiceError && error.code === 'UNREACHABLE' && error.detail.sent === true
        ? new SluiceError('TIMED_OUT', `no answer: ${error.message}`, { ...error.detail }, error)
        : error
    }
  }

  initProducer(): Promise<ProducerIdentity> {
    return this.#cluster.guard(() =>
      this.#cluster.onAny(async link => {
        const request = { transactionalId: null, transactionTimeoutMs: BROKER_TIMEOUT_MS }
        const answer = await link.call(initProducerIdApi, request)
        check(answer.errorCode, null, 'producer id', {})
        return { producerId: answer.producerId, epoch: answer.producerEpoch }
      }),
    )
  }

  initTransactions(options: TransactionOptions): Promise<TransactionSession> {
    return KafkaTransactionSession.open(this.#cluster, options)
  }

  fetch(partitions: readonly FetchPartition[], options: FetchOptions = {}): Promise<Fetched[]> {
    const reads = this.#reads[options.isolation ?? 'committed']
    return this.#cluster.guard(() => reads.fetch(partitions, options))
  }

  offsetFor(topic: string, partition: number, at: OffsetSpec): Promise<number> {
    return this.#cluster.guard(() => this.#topics.offsetFor(topic, partition, at))
  }

  join(options: MemberOptions, events: MemberEvents): Promise<Member> {
    return this.#cluster.guard(async () => {
      for (const topic of options.topics) await this.#topics.partitionsOf(topic, this.#autoCreateTopics)
      const onEnd = (): boolean => this.#members.delete(member)
      const member = new KafkaMember(this.#cluster, this.#groups, this.#heartbeatMs, options, events, onEnd)
      this.#members.add(member)
      await member.start()
      return member
    })
  }

  commit(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    return this.#cluster.guard(() => this.#groups.commit(group, offsets))
  }

  committed(group: string, partitions?: readonly TopicPartition[]): Promise<CommittedOffset[]> {
    return this.#cluster.guard(() => this.#groups.committed(group, partitions))
  }

  listGroups(): Promise<GroupSummary[]> {
    return this.#cluster.guard(() => this.#groups.list())
  }

  describeGroup(group: string): Promise<GroupDescription> {
    return this.#cluster.guard(() => this.#groups.describe(group))
  }

  deleteGroup(group: string): Promise<void> {
    return this.#cluster.guard(() => this.#groups.delete(group))
  }

  close(): Promise<void> {
    this.#closing ??= Promise.all([...this.#members].map(member => member.leave())).then(() =>
      this.#cluster.close(),
    )
    return this.#closing
  }

  #forgetReads(topic: string): void {
    for (const reads of Object.values(this.#reads)) reads.forget(topic)
  }
}
