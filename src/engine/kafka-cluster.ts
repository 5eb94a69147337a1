/**
 * What an engine knows of a cluster: its brokers, who leads which partition, who coordinates which group; and the links
 * to them, each made when first needed and again when it broke.
 *
 *     onLeader(topic, partition, ask)  ┐
 *     onCoordinator(group, ask)        ├─► find the broker ─► link ─► ask ─► (moved, broken? forget, wait, again)
 *     onController(ask)  onAny(ask)    ┘
 *
 * What passes by itself (`UNREACHABLE`, `UNAVAILABLE`) is tried again with growing waits for `RETRY_MS_MAX`, then thrown: whoever
 * calls decides whether to go on. A request that may have been carried out is repeated only if its caller says that this
 * does no harm. Invariant: after `close` nothing is left, neither a socket nor a timer, and every call ends with `CLOSED`.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { codeOfKafka, errorTable, SluiceError } from '../errors.ts'
import { systemClock } from '../lib/clock.ts'
import { findCoordinatorApi } from '../wire/kafka/find-coordinator.ts'
import { metadataApi } from '../wire/kafka/metadata.ts'
import { type Address, addressText, KafkaLink } from './kafka-link.ts'

export interface PartitionLeader {
  /** Node id; -1 while there is none. */
  readonly leader: number
  readonly leaderEpoch: number
}

export interface KnownTopic {
  readonly name: string
  readonly id: string
  readonly isInternal: boolean
  readonly partitions: readonly PartitionLeader[]
  readonly learnedAt: number
}

/** Requests of one kind share a link to a broker; they do not wait for those of another kind. */
type Lane = 'control' | 'produce' | 'transactions'

export interface RetryOptions {
  /** Whether to ask again when an answer was lost, so that nobody knows what became of the request. Default true. */
  readonly isRepeatable?: boolean
}

/** How long a call goes on trying. */
const RETRY_MS_MAX = 15_000
const RETRY_DELAY_MS_MIN = 20
const RETRY_DELAY_MS_MAX = 1_000
/** Longest that a broker may take to answer: that of its own time limits, and a margin. */
const REQUEST_TIMEOUT_MS = 40_000
/** What a broker is told as its time limit. */
export const BROKER_TIMEOUT_MS = 30_000
/** Age from which on metadata is asked for again, in the background. */
const METADATA_AGE_MS = 30_000
/** The last version that names one group, and is answered about one. */
const FIND_COORDINATOR_VERSION_MAX = 3
/** `versionMin`: the first version that knows of this kind. */
const coordinatorKinds = {
  group: { keyType: 0, name: 'group', versionMin: 0 },
  transaction: { keyType: 1, name: 'transactional id', versionMin: 1 },
} as const
const UNKNOWN_TOPIC_OR_PARTITION = 3

export class KafkaCluster {
  readonly clientId: string
  readonly #bootstrap: readonly Address[]
  readonly #closing = new AbortController()
  readonly #links = new Map<string, Promise<KafkaLink>>()
  /** By node id. */
  #brokers: ReadonlyMap<number, Address> = new Map()
  #controller = -1
  readonly #topics = new Map<string, KnownTopic>()
  readonly #learning = new Map<string, Promise<KnownTopic>>()
  readonly #coordinators = new Map<string, Address>()
  readonly #topicListeners = new Set<() => void>()

  constructor(bootstrap: readonly Address[], clientId: string) {
    this.#bootstrap = bootstrap
    this.clientId = clientId
  }

  /** Aborted when the cluster is closed. */
  get signal(): AbortSignal {
    return this.#closing.signal
  }

  /** Finds a broker that answers, without trying twice. Rejects with `UNREACHABLE`, naming all that were tried. */
  async start(): Promise<void> {
    await this.#metadata([])
  }

  /** Rejects whatever is under way with `CLOSED`. */
  close(): void {
    this.#closing.abort()
  }

  /** What `action` does, with `CLOSED` for everything that goes wrong because of `close`. */
  async guard<Result>(action: () => Promise<Result>): Promise<Result> {
    this.#checkOpen()
    try {
      return await action()
    } catch (error) {
      this.#checkOpen(error)
      throw error
    }
  }

  // What is known.

  /** From what is known, else from a broker. Rejects with `UNKNOWN_TOPIC`, `INVALID_TOPIC`. */
  async topic(name: string): Promise<KnownTopic> {
    const known = this.#topics.get(name)
    if (known === undefined) return await this.retrying(() => this.learn(name))
    if (systemClock.monotonic() - known.learnedAt > METADATA_AGE_MS) this.learn(name).catch(() => {})
    return known
  }

  /** From a broker, whatever is known; those that ask at the same time share the answer. */
  learn(name: string): Promise<KnownTopic> {
    let learning = this.#learning.get(name)
    if (learning === undefined) {
      learning = this.#learn(name).finally(() => this.#learning.delete(name))
      this.#learning.set(name, learning)
    }
    return learning
  }

  /** What is known of a topic, without asking. */
  known(name: string): KnownTopic | undefined {
    return this.#topics.get(name)
  }

  /** Names of all topics, without the internal ones. */
  async topicNames(): Promise<string[]> {
    const { topics } = await this.retrying(() => this.#metadata(null))
    const found = topics.filter(({ errorCode, isInternal }) => errorCode === 0 && !isInternal)
    return found.map(({ name }) => name ?? '').sort()
  }

  /** Who leads a partition is asked for again when it is next needed. */
  forgetTopic(name: string): void {
    this.#topics.delete(name)
  }

  /** Calls `listener` when a topic that is known has got another number of partitions. */
  onTopicsChanged(listener: () => void): () => void {
    this.#topicListeners.add(listener)
    return () => this.#topicListeners.delete(listener)
  }

  // Asking.

  /** Asks the leader of a partition. */
  onLeader<Result>(
    topic: string,
    partition: number,
    lane: Lane,
    ask: (link: KafkaLink) => Promise<Result>,
    options: RetryOptions = {},
  ): Promise<Result> {
    return this.retrying(async () => {
      try {
        return await ask(await this.link(await this.leaderOf(topic, partition), lane))
      } catch (error) {
        throw await this.afterRefusal(topic, partition, error)
      }
    }, options)
  }

  /** Asks the coordinator of a group. */
  onCoordinator<Result>(
    group: string,
    ask: (link: KafkaLink, mayBeDone: boolean) => Promise<Result>,
  ): Promise<Result> {
    return this.retrying(async mayBeDone => {
      try {
        return await ask(await this.link(await this.coordinatorOf(group)), mayBeDone)
      } catch (error) {
        if (isPassing(error)) this.forgetCoordinator(group)
        throw error
      }
    })
  }

  /** Asks the broker that takes changes of topics. */
  onController<Result>(ask: (link: KafkaLink, mayBeDone: boolean) => Promise<Result>): Promise<Result> {
    return this.retrying(async mayBeDone => {
      const controller = this.#brokers.get(this.#controller)
      try {
        const link = controller === undefined ? await this.#anyLink() : await this.link(controller)
        return await ask(link, mayBeDone)
      } catch (error) {
        if (isPassing(error)) await this.#metadata([]).catch(() => {})
        throw error
      }
    })
  }

  onAny<Result>(ask: (link: KafkaLink) => Promise<Result>): Promise<Result> {
    return this.retrying(async () => ask(await this.#anyLink()))
  }

  /** Asks all brokers. */
  async onEvery<Result>(ask: (link: KafkaLink, nodeId: number) => Promise<Result>): Promise<Result[]> {
    await this.retrying(() => this.#metadata([]))
    const brokers = [...this.#brokers]
    return await Promise.all(
      brokers.map(([nodeId, address]) => this.retrying(async () => ask(await this.link(address), nodeId))),
    )
  }

  /**
   * Repeats what fails with an error that passes, for as long as a call may. `mayBeDone`: the answer of an attempt before was lost, so that a refusal
   * because it is done already is none.
   */
  async retrying<Result>(
    action: (mayBeDone: boolean) => Promise<Result>,
    { isRepeatable = true }: RetryOptions = {},
  ): Promise<Result> {
    const deadline = systemClock.monotonic() + RETRY_MS_MAX
    let mayBeDone = false
    for (let failures = 0; ; failures++) {
      this.#checkOpen()
      try {
        return await action(mayBeDone)
      } catch (error) {
        this.#checkOpen(error)
        if (!isPassing(error) || (!isRepeatable && error.detail.sent === true)) throw error
        const delayMs = Math.min(RETRY_DELAY_MS_MAX, RETRY_DELAY_MS_MIN * 2 ** failures)
        if (systemClock.monotonic() + delayMs > deadline) throw error
        mayBeDone ||= error.detail.sent === true
        await this.wait(delayMs)
      }
    }
  }

  /** Rejects when the cluster is closed. */
  async wait(delayMs: number): Promise<void> {
    await sleep(delayMs, undefined, { signal: this.signal })
  }

  // Finding.

  async leaderOf(topic: string, partition: number): Promise<Address> {
    let known = await this.topic(topic)
    if (known.partitions[partition] === undefined) known = await this.learn(topic)
    const found = known.partitions[partition]
    if (found === undefined) {
      const message = `topic "${topic}" has no partition ${partition}`
      throw new SluiceError('UNKNOWN_TOPIC', message, { topic, partition })
    }
    const broker = this.#brokers.get(found.leader)
    if (broker !== undefined) return broker
    this.forgetTopic(topic)
    throw new SluiceError('UNAVAILABLE', `${topic}/${partition} has no leader at the moment`, {
      topic,
      partition,
    })
  }

  /**
   * What a refusal by the leader of a partition comes to: what is known of the topic is forgotten if it seems to be out of
   * date, and a topic that the leader does not know yet, although the cluster has it, is a matter of time.
   */
  async afterRefusal(topic: string, partition: number, error: unknown): Promise<unknown> {
    if (!(error instanceof SluiceError)) return error
    if (isPassing(error)) this.forgetTopic(topic)
    if (error.code !== 'UNKNOWN_TOPIC') return error
    this.forgetTopic(topic)
    try {
      const { partitions } = await this.learn(topic)
      if (partitions[partition] === undefined) return error
    } catch (second) {
      return second
    }
    const message = `the leader of ${topic}/${partition} does not know it yet`
    return new SluiceError('UNAVAILABLE', message, { topic, partition }, error)
  }

  async coordinatorOf(group: string): Promise<Address> {
    const known = this.#coordinators.get(group)
    if (known !== undefined) return known
    const found = await this.findCoordinator('group', group)
    this.#coordinators.set(group, found)
    return found
  }

  /** Asks a broker for the coordinator of a group, or of a transactional id. */
  async findCoordinator(kind: keyof typeof coordinatorKinds, key: string): Promise<Address> {
    const { keyType, name, versionMin } = coordinatorKinds[kind]
    const link = await this.#anyLink()
    const request = { key, keyType }
    const options = { versionMin, versionMax: FIND_COORDINATOR_VERSION_MAX }
    const { errorCode, errorMessage, host, port } = await link.call(findCoordinatorApi, request, options)
    check(errorCode, errorMessage, `${name} ${JSON.stringify(key)}`, { [kind]: key })
    return { host, port }
  }

  forgetCoordinator(group: string): void {
    this.#coordinators.delete(group)
  }

  /** The link to a broker that all requests of this kind share. */
  async link(address: Address, lane: Lane = 'control'): Promise<KafkaLink> {
    const key = `${lane} ${addressText(address)}`
    let opening = this.#links.get(key)
    if (opening === undefined) {
      opening = this.openLink(address, REQUEST_TIMEOUT_MS)
      this.#links.set(key, opening)
      const forget = (): void => {
        if (this.#links.get(key) === opening) this.#links.delete(key)
      }
      opening.then(link => link.closed.then(forget), forget)
    }
    const link = await opening
    if (link.isOpen) return link
    if (this.#links.get(key) === opening) this.#links.delete(key)
    const message = `the connection to ${addressText(address)} was lost`
    throw new SluiceError('UNREACHABLE', message, { ...address, sent: false })
  }

  /** A link of the caller's own, who closes it. */
  openLink(address: Address, requestTimeoutMs: number): Promise<KafkaLink> {
    return KafkaLink.open(address, { clientId: this.clientId, requestTimeoutMs }, this.signal)
  }

  async #learn(name: string): Promise<KnownTopic> {
    const { topics } = await this.#metadata([name])
    const found = topics.find(topic => topic.name === name)
    if (found === undefined || found.errorCode !== 0) {
      this.#topics.delete(name)
      if (found === undefined || found.errorCode === UNKNOWN_TOPIC_OR_PARTITION)
        throw new SluiceError('UNKNOWN_TOPIC', `there is no topic "${name}"`, { topic: name })
      check(found.errorCode, null, `topic ${JSON.stringify(name)}`, {
        topic: name,
      })
    }
    const partitions: PartitionLeader[] = []
    for (const { partitionIndex, leaderId, leaderEpoch } of found.partitions)
      partitions[partitionIndex] = { leader: leaderId, leaderEpoch }
    const topic: KnownTopic = {
      name,
      id: found.topicId,
      isInternal: found.isInternal,
      partitions,
      learnedAt: systemClock.monotonic(),
    }
    const before = this.#topics.get(name)
    this.#topics.set(name, topic)
    if (before !== undefined && before.partitions.length !== partitions.length) this.#topicsChanged()
    return topic
  }

  #topicsChanged(): void {
    for (const listener of [...this.#topicListeners]) listener()
  }

  async #metadata(names: readonly string[] | null) {
    const link = await this.#anyLink()
    const topics = names === null ? null : names.map(name => ({ name }))
    const answer = await link.call(metadataApi, { topics, allowAutoTopicCreation: false })
    check(answer.errorCode, null, 'metadata', {})
    this.#brokers = new Map(answer.brokers.map(({ nodeId, host, port }) => [nodeId, { host, port }]))
    this.#controller = answer.controllerId
    return answer
  }

  /** A link to a broker that answers: one that is open, else to whoever takes it first. */
  async #anyLink(): Promise<KafkaLink> {
    const addresses = [...this.#brokers.values(), ...this.#bootstrap]
    const refusals = new Set<string>()
    let cause: unknown
    for (const address of addresses) {
      try {
        return await this.link(address)
      } catch (error) {
        this.#checkOpen(error)
        if (!(error instanceof SluiceError)) throw error
        refusals.add(error.message)
        cause = error
      }
    }
    throw new SluiceError(
      'UNREACHABLE',
      `no Kafka server answers: ${[...refusals].join('; ')}`,
      { addresses: this.#bootstrap.map(addressText), sent: false },
      cause,
    )
  }

  #checkOpen(cause?: unknown): void {
    if (!this.signal.aborted) return
    const address = this.#bootstrap.map(addressText).join(',')
    throw new SluiceError('CLOSED', `kafka://${address} was closed; open it again`, {}, cause)
  }
}

/** Throws the refusal that an error code of the protocol stands for; 0 is none. */
export function check(
  kafka: number,
  reason: string | null,
  what: string,
  detail: Record<string, unknown>,
): void {
  if (kafka !== 0) throw refusalOf(kafka, reason, what, detail)
}

/** What an error code of the protocol stands for. */
export function refusalOf(
  kafka: number,
  reason: string | null,
  what: string,
  detail: Record<string, unknown>,
): SluiceError {
  const code = codeOfKafka(kafka)
  const text = reason === null || reason === '' ? meaningOf(kafka) : reason
  return new SluiceError(code, `${what}: ${text}`, { ...detail, kafka })
}

function meaningOf(kafka: number): string {
  const code = codeOfKafka(kafka)
  return code === 'INTERNAL' ? `the server answers with error ${kafka}` : errorTable[code].meaning
}

/** Whether asking again, perhaps another broker, may help. */
export const isPassing = (error: unknown): error is SluiceError =>
  error instanceof SluiceError && (error.code === 'UNREACHABLE' || error.code === 'UNAVAILABLE')
