/**
 * A small engine in memory for tests of delivery/: partitions are arrays of batches, groups share partitions
 * out in turn, and everything that can go wrong can be made to. It checks what a real engine would insist on:
 * that batches are whole, and that a produce call's bytes do not change under it.
 */

import type {
  Acks,
  CommitOffset,
  CommittedOffset,
  Engine,
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
} from '../../src/engine/engine.ts'
import { type ErrorCode, SluiceError } from '../../src/errors.ts'
import { type Clock, systemClock } from '../../src/lib/clock.ts'
import {
  baseSequence,
  checkBatch,
  lastOffset,
  patchAppendTime,
  patchOffset,
  producerEpoch,
  producerId,
  recordCount,
} from '../../src/record/batch.ts'
import { RecordCursor } from '../../src/record/cursor.ts'

interface FakePartition {
  batches: Buffer[]
  startOffset: number
  endOffset: number
  /** What a fetch of this partition reports. */
  error: SluiceError | null
  waiters: Set<() => void>
}

/** A produce call as the engine saw it. */
export interface ProduceCall {
  readonly topic: string
  readonly partition: number
  readonly count: number
  readonly bytes: number
  readonly acks: Acks | undefined
  readonly producerId: number
  readonly epoch: number
  readonly baseSequence: number
}

class FakeMember implements Member {
  readonly memberId: string
  readonly instanceId = null
  readonly options: MemberOptions
  readonly events: MemberEvents
  assignment: TopicPartition[] = []
  generation = 0
  readonly #group: FakeGroup

  constructor(group: FakeGroup, memberId: string, options: MemberOptions, events: MemberEvents) {
    this.#group = group
    this.memberId = memberId
    this.options = options
    this.events = events
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    this.#group.commit(this, offsets)
  }

  leave(): Promise<void> {
    return this.#group.leave(this)
  }
}

class FakeGroup {
  readonly name: string
  readonly engine: FakeEngine
  readonly members: FakeMember[] = []
  readonly offsets = new Map<string, CommittedOffset>()
  generation = 0
  #last: Promise<void> = Promise.resolve()
  #joined = 0

  constructor(engine: FakeEngine, name: string) {
    this.engine = engine
    this.name = name
  }

  async join(options: MemberOptions, events: MemberEvents): Promise<Member> {
    const member = new FakeMember(this, `${options.clientId}-${this.#joined++}`, options, events)
    this.members.push(member)
    await this.rebalance()
    return member
  }

  async leave(member: FakeMember): Promise<void> {
    const held = member.assignment
    member.assignment = []
    if (held.length > 0) await member.events.revoked(held)
    const index = this.members.indexOf(member)
    if (index >= 0) this.members.splice(index, 1)
    await this.rebalance()
  }

  /** Everybody gives up everything, then partitions are dealt out in turn. */
  rebalance(): Promise<void> {
    this.#last = this.#last.then(async () => {
      const members = [...this.members]
      await Promise.all(
        members.map(async member => {
          const held = member.assignment
          if (held.length > 0) await member.events.revoked(held)
          member.assignment = []
        }),
      )
      this.generation++
      const topics = [...new Set(members.flatMap(member => member.options.topics))].sort()
      let turn = 0
      for (const topic of topics) {
        const takers = members.filter(member => member.options.topics.includes(topic))
        for (const partition of this.engine.partitions(topic).keys()) {
          takers[turn++ % takers.length].assignment.push({ topic, partition })
        }
      }
      for (const member of members) {
        member.generation = this.generation
        if (member.assignment.length > 0) await member.events.assigned(member.assignment)
      }
    })
    return this.#last
  }

  commit(member: FakeMember | null, offsets: readonly CommitOffset[]): void {
    this.engine.throwIfPlanned('commit')
    if (member === null ? this.members.length > 0 : !this.members.includes(member)) {
      throw new SluiceError('UNKNOWN_MEMBER', `${this.name} does not know the member`)
    }
    for (const offset of offsets) {
      this.offsets.set(`${offset.topic}/${offset.partition}`, { metadata: '', ...offset })
      this.engine.commits.push(offset)
    }
  }
}

type Call =
  | 'produce'
  | 'fetch'
  | 'commit'
  | 'committed'
  | 'partitionsOf'
  | 'offsetFor'
  | 'initProducer'
  | 'join'

export class FakeEngine implements Engine {
  readonly url = 'fake:'
  readonly supports = {
    idempotence: true,
    transactions: false,
    durableAcks: true,
    deleteRecords: true,
    losesAnswers: false,
  }
  readonly produced: ProduceCall[] = []
  readonly commits: CommitOffset[] = []
  /** Fetch calls so far. */
  fetches = 0
  closed = false
  /** Topics under which a produced batch is stamped with this time. */
  appendTime = -1
  readonly #clock: Clock
  readonly #autoCreateTopics: boolean
  readonly #topics = new Map<string, { spec: TopicSpec; partitions: FakePartition[] }>()
  readonly #groups = new Map<string, FakeGroup>()
  readonly #planned = new Map<Call, SluiceError[]>()
  #held: (() => void)[] | null = null
  #producerIds = 0

  constructor(options: { clock?: Clock; autoCreateTopics?: boolean } = {}) {
    this.#clock = options.clock ?? systemClock
    this.#autoCreateTopics = options.autoCreateTopics ?? true
  }

  // What tests do to it.

  /** The next `times` calls of this kind fail. */
  failNext(call: Call, code: ErrorCode, times = 1): void {
    const planned = this.#planned.get(call) ?? []
    for (let time = 0; time < times; time++) planned.push(new SluiceError(code, `planned ${code}`))
    this.#planned.set(call, planned)
  }

  /** Produce calls, and those for a producer id, wait from now on, until `release`. */
  hold(): void {
    this.#held ??= []
  }

  release(): void {
    const held = this.#held ?? []
    this.#held = null
    for (const go of held) go()
  }

  /** Answers only the produce call that has waited longest. */
  releaseOne(): void {
    this.#held?.shift()?.()
  }

  /** Fetches of this partition report an error until it is null. */
  setError(topic: string, partition: number, error: SluiceError | null): void {
    this.partitions(topic)[partition].error = error
    this.#wake(topic, partition)
  }

  /** Everything of a partition as text, by offset order. */
  values(topic: string, partition = 0): string[] {
    const values: string[] = []
    for (const batch of this.partitions(topic)[partition].batches) {
      const cursor = new RecordCursor(batch)
      while (cursor.next()) {
        values.push(
          cursor.bytes.toString(
            'utf8',
            cursor.valueStart,
            cursor.valueStart + Math.max(0, cursor.valueBytes),
          ),
        )
      }
    }
    return values
  }

  /** Appends a batch as it is: control batches, compacted ones. */
  append(topic: string, partition: number, batch: Uint8Array, offset?: number): void {
    const log = this.partitions(topic)[partition]
    const copy = Buffer.from(batch)
    patchOffset(copy, 0, offset ?? log.endOffset, 0)
    log.batches.push(copy)
    log.endOffset = lastOffset(copy, 0) + 1
    this.#wake(topic, partition)
  }

  committedOffset(group: string, topic: string, partition = 0): number | undefined {
    return this.#groups.get(group)?.offsets.get(`${topic}/${partition}`)?.offset
  }

  rebalance(group: string): Promise<void> {
    return this.#group(group).rebalance()
  }

  /** The session of a member ends: it is told afterwards, and thrown out for good. */
  async expel(group: string, index = 0): Promise<void> {
    const [member] = this.#group(group).members.splice(index, 1)
    await member.events.lost(member.assignment)
    member.events.failed(new SluiceError('UNKNOWN_MEMBER', 'the session timed out'))
  }

  throwIfPlanned(call: Call): void {
    this.#throwIfClosed()
    const error = this.#planned.get(call)?.shift()
    if (error !== undefined) throw error
  }

  // Engine.

  async createTopic(spec: TopicSpec): Promise<TopicDescription> {
    this.#throwIfClosed()
    if (this.#topics.has(spec.name)) throw new SluiceError('TOPIC_EXISTS', `topic ${spec.name} exists`)
    if (!/^[\w.-]{1,249}$/.test(spec.name)) throw new SluiceError('INVALID_TOPIC', `bad name ${spec.name}`)
    this.#topics.set(spec.name, { spec, partitions: [] })
    await this.addPartitions(spec.name, spec.partitions ?? 1)
    return await this.describeTopic(spec.name)
  }

  async deleteTopic(name: string): Promise<void> {
    this.partitions(name)
    this.#topics.delete(name)
  }

  async listTopics(): Promise<string[]> {
    return [...this.#topics.keys()]
  }

  async describeTopic(name: string): Promise<TopicDescription> {
    const partitions = this.partitions(name).map(({ startOffset, endOffset }, partition) => ({
      partition,
      startOffset,
      endOffset,
      bytes: -1,
    }))
    const { config = {} } = this.#topics.get(name)!.spec
    const entries = Object.entries(config).map(([key, value]) => ({
      name: key,
      value,
      source: 'topic' as const,
    }))
    return { name, id: name, internal: false, partitions, config: entries }
  }

  async alterTopic(name: string, config: Readonly<Record<string, string | null>>): Promise<void> {
    const topic = this.#topics.get(name)!
    const merged = Object.entries({ ...topic.spec.config, ...config }).filter(([, value]) => value !== null)
    topic.spec = { ...topic.spec, config: Object.fromEntries(merged) as Record<string, string> }
  }

  async addPartitions(name: string, partitions: number): Promise<void> {
    const list = this.partitions(name)
    while (list.length < partitions) {
      list.push({ batches: [], startOffset: 0, endOffset: 0, error: null, waiters: new Set() })
    }
  }

  async deleteRecords(topic: string, partition: number, offset: number): Promise<number> {
    const log = this.partitions(topic)[partition]
    log.startOffset = offset < 0 ? log.endOffset : offset
    log.batches = log.batches.filter(batch => lastOffset(batch, 0) >= log.startOffset)
    return log.startOffset
  }

  async partitionsOf(topic: string): Promise<number> {
    this.throwIfPlanned('partitionsOf')
    if (!this.#topics.has(topic) && this.#autoCreateTopics) await this.createTopic({ name: topic })
    return this.partitions(topic).length
  }

  async produce(topic: string, partition: number, batch: Uint8Array, acks?: Acks): Promise<Produced> {
    this.throwIfPlanned('produce')
    const copy = Buffer.from(batch)
    const wrong = checkBatch(copy, 0, copy.length)
    if (wrong !== null) throw new SluiceError('CORRUPT_MESSAGE', wrong)
    const log = this.partitions(topic)[partition]
    if (log === undefined) throw new SluiceError('INVALID_PARTITION', `${topic}/${partition} does not exist`)
    this.produced.push({
      topic,
      partition,
      count: recordCount(copy, 0),
      bytes: copy.length,
      acks,
      producerId: producerId(copy, 0),
      epoch: producerEpoch(copy, 0),
      baseSequence: baseSequence(copy, 0),
    })
    if (this.#held !== null) await new Promise<void>(resolve => this.#held!.push(resolve))
    this.throwIfPlanned('produce')
    if (!copy.equals(batch)) throw new Error('the bytes of a produce call changed before it was answered')
    const baseOffset = log.endOffset
    if (this.appendTime >= 0) patchAppendTime(copy, 0, this.appendTime)
    this.append(topic, partition, copy)
    return acks === 'none' ? { baseOffset: -1, appendTime: -1 } : { baseOffset, appendTime: this.appendTime }
  }

  async initProducer(): Promise<ProducerIdentity> {
    this.throwIfPlanned('initProducer')
    if (this.#held !== null) await new Promise<void>(resolve => this.#held!.push(resolve))
    return { producerId: this.#producerIds++, epoch: 0 }
  }

  initTransactions(): Promise<never> {
    return Promise.reject(new SluiceError('UNSUPPORTED', 'there are none'))
  }

  async fetch(wanted: readonly FetchPartition[], options: FetchOptions = {}): Promise<Fetched[]> {
    this.fetches++
    this.throwIfPlanned('fetch')
    const answer = (): Fetched[] => wanted.map(of => this.#read(of, options.partitionBytesMax ?? 1024 * 1024))
    const now = answer()
    if (options.waitMs === 0 || now.some(part => part.batches.length > 0 || part.error !== undefined))
      return now
    await this.#news(wanted, options)
    this.throwIfPlanned('fetch')
    return answer()
  }

  async offsetFor(topic: string, partition: number, at: OffsetSpec): Promise<number> {
    this.throwIfPlanned('offsetFor')
    const log = this.partitions(topic)[partition]
    if (typeof at === 'number') return at
    if (at === 'earliest') return log.startOffset
    if (at === 'latest') return log.endOffset
    for (const batch of log.batches) {
      const cursor = new RecordCursor(batch)
      while (cursor.next()) if (cursor.timestamp >= Number(at.time)) return cursor.offset
    }
    return log.endOffset
  }

  async join(options: MemberOptions, events: MemberEvents): Promise<Member> {
    this.throwIfPlanned('join')
    return await this.#group(options.group).join(options, events)
  }

  async commit(group: string, offsets: readonly CommitOffset[]): Promise<void> {
    this.#group(group).commit(null, offsets)
  }

  async committed(group: string, partitions?: readonly TopicPartition[]): Promise<CommittedOffset[]> {
    this.throwIfPlanned('committed')
    const all = [...(this.#groups.get(group)?.offsets.values() ?? [])]
    return partitions === undefined
      ? all
      : all.filter(one => partitions.some(of => of.topic === one.topic && of.partition === one.partition))
  }

  async listGroups(): Promise<GroupSummary[]> {
    return [...this.#groups.keys()].map(group => ({ group, state: 'stable', protocolType: 'consumer' }))
  }

  async describeGroup(name: string): Promise<GroupDescription> {
    const group = this.#groups.get(name)
    if (group === undefined) throw new SluiceError('UNKNOWN_GROUP', `there is no group ${name}`)
    const members = group.members.map(({ memberId, assignment, options }) => ({
      memberId,
      instanceId: options.instanceId ?? null,
      clientId: options.clientId,
      host: 'localhost',
      assignment,
    }))
    const state = members.length > 0 ? 'stable' : 'empty'
    return { group: name, state, protocolType: 'consumer', protocol: 'range', members }
  }

  async deleteGroup(name: string): Promise<void> {
    if (this.#group(name).members.length > 0) throw new SluiceError('GROUP_NOT_EMPTY', `${name} has members`)
    this.#groups.delete(name)
  }

  async close(): Promise<void> {
    this.closed = true
    this.release()
  }

  /** Throws UNKNOWN_TOPIC. */
  partitions(topic: string): FakePartition[] {
    const found = this.#topics.get(topic)
    if (found === undefined) throw new SluiceError('UNKNOWN_TOPIC', `there is no topic ${topic}`)
    return found.partitions
  }

  #throwIfClosed(): void {
    if (this.closed) throw new SluiceError('CLOSED', 'the engine was closed')
  }

  #group(name: string): FakeGroup {
    let group = this.#groups.get(name)
    if (group === undefined) this.#groups.set(name, (group = new FakeGroup(this, name)))
    return group
  }

  #read({ topic, partition, offset }: FetchPartition, bytesMax: number): Fetched {
    const { batches, startOffset, endOffset, error } = this.partitions(topic)[partition]
    const about = { topic, partition, startOffset, endOffset, batches: Buffer.alloc(0) }
    if (offset < startOffset || offset > endOffset) {
      const detail = { topic, partition, offset }
      return {
        ...about,
        error: new SluiceError('OFFSET_OUT_OF_RANGE', `${topic}/${partition} has no ${offset}`, detail),
      }
    }
    const taken: Buffer[] = []
    let bytes = 0
    for (const batch of batches) {
      if (lastOffset(batch, 0) < offset) continue
      if (taken.length > 0 && bytes + batch.length > bytesMax) break
      taken.push(batch)
      bytes += batch.length
    }
    if (taken.length === 0 && error !== null) return { ...about, error }
    return { ...about, batches: Buffer.concat(taken) }
  }

  #news(wanted: readonly FetchPartition[], { waitMs = 500, signal }: FetchOptions): Promise<void> {
    return new Promise(resolve => {
      const logs = wanted.map(({ topic, partition }) => this.partitions(topic)[partition])
      const done = (): void => {
        timer.cancel()
        signal?.removeEventListener('abort', done)
        for (const { waiters } of logs) waiters.delete(done)
        resolve()
      }
      const timer = this.#clock.after(waitMs, done)
      for (const { waiters } of logs) waiters.add(done)
      signal?.addEventListener('abort', done)
      if (signal?.aborted) done()
    })
  }

  #wake(topic: string, partition: number): void {
    for (const wake of [...this.partitions(topic)[partition].waiters]) wake()
  }
}
