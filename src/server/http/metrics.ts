/**
 * `GET /metrics` for Prometheus. Numbers that the engine keeps (offsets, sizes, lag) are read when they are scraped, so
 * nothing is counted twice; only requests are counted here as they happen. Each server has a registry of its own.
 *
 * Names: `sluice_` + what + unit, counters end in `_total` (https://prometheus.io/docs/practices/naming/).
 */

import type { FastifyInstance } from 'fastify'
import { Counter, Gauge, Histogram, Registry, Summary } from 'prom-client'
import type { BrokerStats } from '../../broker/broker.ts'
import { lagBehind } from '../../delivery/group-ledger.ts'
import type { Engine, TopicDescription } from '../../engine/engine.ts'
import { isSluiceError } from '../../errors.ts'
import type { RequestObserver } from './application.ts'

/** Seconds; a long poll takes as long as its client asked for, which is why the last ones are long. */
const LATENCY_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 30, 60]

const SYNCS = 'sluice_sync_duration_seconds'

/** What the Kafka listener counts. */
export interface KafkaTraffic {
  readonly connections: { readonly open: number }
  readonly counters: {
    readonly connectionsRefused: number
    readonly connectionsFailed: number
    readonly connectionsShed: number
    readonly bytesIn: number
    readonly bytesOut: number
    /** By the name of the API. */
    readonly requests: ReadonlyMap<string, { readonly requests: number; readonly errors: number }>
  }
}

export interface MetricsSources {
  readonly engine: Engine
  readonly version: string
  /** What the broker in this process counts; missing when the engine is not in this process. */
  readonly stats: (() => BrokerStats) | undefined
  /** Connections of the HTTP listener. */
  connections(): { readonly open: number; readonly refused: number }
  /** The Kafka listener; missing when it is off. */
  readonly kafka?: KafkaTraffic | undefined
  /** Messages that the relay has dropped because their id was known. */
  readonly duplicatesDropped?: (() => number) | undefined
}

export class Metrics implements RequestObserver {
  readonly #registry = new Registry()
  readonly #requests = new Histogram({
    name: 'sluice_http_request_duration_seconds',
    help: 'Time from the arrival of an HTTP request to the end of its answer; its _count is the number of requests.',
    labelNames: ['method', 'route', 'status'],
    buckets: LATENCY_BUCKETS,
    registers: [this.#registry],
  })

  request(method: string, route: string, status: number, seconds: number): void {
    this.#requests.observe({ method, route, status }, seconds)
  }

  /** Mounts the endpoint; call once. */
  serve(app: FastifyInstance, sources: MetricsSources): void {
    this.#addProcess(sources)
    const collectKafka = sources.kafka && this.#addKafka(sources.kafka)
    const collectLogs = this.#addLogs()
    const collectGroups = this.#addGroups()
    const collectBroker = sources.stats && this.#addBroker(sources.stats)
    app.get('/metrics', async (_request, reply) => {
      const topics = await describeTopics(sources.engine)
      collectLogs(topics)
      await collectGroups(sources.engine, topics)
      collectBroker?.()
      collectKafka?.()
      return reply.type(this.#registry.contentType).send(await this.#registry.metrics())
    })
  }

  #gauge<Label extends string>(name: string, help: string, labelNames: readonly Label[]): Gauge<Label> {
    return new Gauge({ name, help, labelNames: [...labelNames], registers: [this.#registry] })
  }

  #addProcess({ connections, version, duplicatesDropped = () => 0 }: MetricsSources): void {
    this.#read(
      Counter,
      'sluice_duplicates_dropped_total',
      'Messages that were dropped because their id was known.',
      duplicatesDropped,
    )
    this.#gauge('sluice_info', 'Always 1; the labels say what runs.', ['version', 'node']).set(
      { version, node: process.versions.node },
      1,
    )
    this.#read(Gauge, 'sluice_connections', 'Connections that are open.', () => connections().open)
    this.#read(Counter, 'sluice_connections_refused_total', 'Connections refused: too many.', () => {
      return connections().refused
    })
    this.#read(Gauge, 'process_start_time_seconds', 'When the process started, as Unix time.', () => {
      return Date.now() / 1000 - process.uptime()
    })
    this.#read(Gauge, 'process_resident_memory_bytes', 'Memory of the process.', () =>
      process.memoryUsage.rss(),
    )
    this.#read(Gauge, 'process_heap_bytes', 'JavaScript heap in use.', () => process.memoryUsage().heapUsed)
    this.#read(Counter, 'process_cpu_seconds_total', 'Processor time used, user and system.', () => {
      const { user, system } = process.cpuUsage()
      return (user + system) / 1e6
    })
  }

  /** A metric without labels whose value somebody else keeps. */
  #read(Metric: typeof Gauge | typeof Counter, name: string, help: string, value: () => number): void {
    new Metric({
      name,
      help,
      registers: [this.#registry],
      collect() {
        this.reset()
        this.inc(value())
      },
    })
  }

  #addKafka(kafka: KafkaTraffic): () => void {
    const { counters } = kafka
    const registers = [this.#registry]
    this.#read(Gauge, 'sluice_kafka_connections', 'Connections of Kafka clients that are open.', () => {
      return kafka.connections.open
    })
    this.#read(Counter, 'sluice_kafka_bytes_in_total', 'Bytes received from Kafka clients.', () => {
      return counters.bytesIn
    })
    this.#read(Counter, 'sluice_kafka_bytes_out_total', 'Bytes sent to Kafka clients.', () => {
      return counters.bytesOut
    })
    const closed = new Counter({
      name: 'sluice_kafka_connections_closed_total',
      help: 'Connections of Kafka clients that the server closed: too many, malformed requests, too much memory.',
      labelNames: ['reason'],
      registers,
    })
    const labelNames = ['api']
    const requests = new Counter({
      name: 'sluice_kafka_requests_total',
      help: 'Requests of Kafka clients.',
      labelNames,
      registers,
    })
    const errors = new Counter({
      name: 'sluice_kafka_request_errors_total',
      help: 'Requests of Kafka clients that failed as a whole.',
      labelNames,
      registers,
    })
    return () => {
      for (const metric of [closed, requests, errors]) metric.reset()
      closed.inc({ reason: 'refused' }, counters.connectionsRefused)
      closed.inc({ reason: 'malformed' }, counters.connectionsFailed)
      closed.inc({ reason: 'memory' }, counters.connectionsShed)
      for (const [api, counter] of counters.requests) {
        requests.inc({ api }, counter.requests)
        errors.inc({ api }, counter.errors)
      }
    }
  }

  #addBroker(stats: () => BrokerStats): () => void {
    const registers = [this.#registry]
    const labelNames = ['topic']
    const flow = (name: string, help: string) => new Counter({ name, help, labelNames, registers })
    const messagesIn = flow('sluice_messages_in_total', 'Messages accepted since the process started.')
    const bytesIn = flow('sluice_bytes_in_total', 'Bytes accepted, as stored, since the process started.')
    const bytesOut = flow('sluice_bytes_out_total', 'Bytes read, as stored, since the process started.')
    const segments = this.#gauge('sluice_partition_segments', 'Segment files.', ['topic', 'partition'])
    this.#read(Gauge, 'sluice_open_files', 'Segment and index files held open.', () => stats().openFiles)
    this.#read(Counter, 'sluice_rebalances_total', 'Rebalances of consumer groups.', () => stats().rebalances)
    this.#registry.registerMetric(new SyncSummary(() => stats().syncs))
    return () => {
      for (const metric of [messagesIn, bytesIn, bytesOut, segments]) metric.reset()
      for (const { topic, partition, ...counted } of stats().partitions) {
        messagesIn.inc({ topic }, counted.appendedRecords)
        bytesIn.inc({ topic }, counted.appendedBytes)
        bytesOut.inc({ topic }, counted.readBytes)
        segments.set({ topic, partition }, counted.segments)
      }
    }
  }

  #addLogs(): (topics: readonly TopicDescription[]) => void {
    const labels = ['topic', 'partition'] as const
    const start = this.#gauge('sluice_partition_start_offset', 'Offset of the first message kept.', labels)
    const end = this.#gauge('sluice_partition_end_offset', 'Offset that the next message will have.', labels)
    const bytes = this.#gauge('sluice_partition_bytes', 'Bytes stored.', labels)
    const count = this.#gauge('sluice_topics', 'Topics.', [])
    return topics => {
      for (const gauge of [start, end, bytes]) gauge.reset()
      count.set(topics.length)
      for (const { name, partitions } of topics) {
        for (const { partition, startOffset, endOffset, bytes: stored } of partitions) {
          const at = { topic: name, partition }
          start.set(at, startOffset)
          end.set(at, endOffset)
          if (stored >= 0) bytes.set(at, stored)
        }
      }
    }
  }

  #addGroups(): (engine: Engine, topics: readonly TopicDescription[]) => Promise<void> {
    const labels = ['group', 'topic', 'partition'] as const
    const committed = this.#gauge(
      'sluice_group_committed_offset',
      'Offset that the group handles next.',
      labels,
    )
    const lag = this.#gauge('sluice_group_lag', 'Messages that the group has not finished yet.', labels)
    const members = this.#gauge('sluice_group_members', 'Members of the group.', ['group', 'state'])
    return async (engine, topics) => {
      for (const gauge of [committed, lag, members]) gauge.reset()
      const ends = new Map(topics.map(({ name, partitions }) => [name, partitions]))
      for (const { group } of await engine.listGroups()) {
        const description = await unlessGone(engine.describeGroup(group))
        if (description === undefined) continue
        members.set({ group, state: description.state }, description.members.length)
        for (const commit of await engine.committed(group)) {
          const { topic, partition, offset } = commit
          const at = { group, topic, partition }
          committed.set(at, offset)
          const place = ends.get(topic)?.[partition]
          if (place) lag.set(at, lagBehind(commit, place.startOffset, place.endOffset))
        }
      }
    }
  }
}

/** Durations of syncs, which the broker records in a histogram of its own, in microseconds. */
class SyncSummary extends Summary<'quantile'> {
  readonly #syncs: () => BrokerStats['syncs']

  constructor(syncs: () => BrokerStats['syncs']) {
    super({ name: SYNCS, help: 'How long the disk took to sync a file.', registers: [] })
    this.#syncs = syncs
  }

  override async get(): ReturnType<Summary<'quantile'>['get']> {
    const syncs = this.#syncs()
    const seconds = (microseconds: number) => microseconds / 1e6
    const quantiles = syncs.count === 0 ? [] : [0.5, 0.9, 0.99, 1]
    const values = quantiles.map(quantile => ({
      labels: { quantile },
      value: seconds(syncs.percentile(quantile * 100)),
    }))
    const sum = syncs.count === 0 ? 0 : seconds(syncs.mean * syncs.count)
    return {
      ...(await super.get()),
      values: [
        ...values,
        { metricName: `${SYNCS}_sum`, labels: {}, value: sum },
        { metricName: `${SYNCS}_count`, labels: {}, value: syncs.count },
      ],
    }
  }
}

async function describeTopics(engine: Engine): Promise<TopicDescription[]> {
  const names = await engine.listTopics()
  const descriptions = await Promise.all(names.map(name => unlessGone(engine.describeTopic(name))))
  return descriptions.filter(description => description !== undefined)
}

/** A topic or group may be deleted between listing and describing it. */
async function unlessGone<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer
  } catch (error) {
    if (isSluiceError(error, 'UNKNOWN_TOPIC') || isSluiceError(error, 'UNKNOWN_GROUP')) return
    throw error
  }
}
