/**
 * All consumer groups that a broker coordinates, of both protocols: the table by name, the limits that hold for all of them, and one
 * queue of deadlines, so that the owner needs a single timer.
 *
 * Synchronous and without timers: every call gets the time (monotonic, ms), and the owner calls `expire` when
 * `nextDeadline` has come. Replies and events are delivered after the state has changed, in order, mostly before the
 * call that caused them returns; so a reply may call in again (join → sync) and finds everything in place.
 *
 * Groups live in memory: after a restart, members are unknown and join again. Committed offsets, and with them the
 * groups that are known only for these, belong to the offset store; it tells us of them through `ensure`, and takes
 * groups that nothing keeps any more away through `delete`.
 *
 * A name is one group's, of one protocol at a time. One without members becomes a group of the other protocol when a
 * member of that joins; as long as there are members, those of the other protocol are refused.
 */

import { type ErrorCode, errorTable, isSluiceError } from '../errors.ts'
import { compareText } from './assignor.ts'
import {
  ConsumerGroup,
  type ConsumerGroupHost,
  type ConsumerHeartbeat,
  type ConsumerHeartbeatAnswer,
  checkHeartbeat,
  type DescribedConsumer,
  type DescribedConsumerGroup,
  JOIN_EPOCH,
  type TopicDirectory,
  type TopicIdPartitions,
} from './consumer-group.ts'
import { CONSUMER_PROTOCOL_TYPE, encodeAssignment } from './consumer-protocol.ts'
import {
  type AnyGroupState,
  type DescribedGroup,
  Group,
  type GroupHost,
  type GroupType,
  type HeartbeatRequest,
  type JoinReply,
  type JoinRequest,
  joinError,
  type LeaveResult,
  type LeavingMember,
  type MemberIdentity,
  type SyncReply,
  type SyncRequest,
  syncError,
} from './group.ts'

export interface GroupsOptions {
  /** A unique string each time; member ids are made of it (`<client or instance id>-<it>`). */
  newId(): string
  /** `group.min.session.timeout.ms`. Default 6,000. */
  readonly sessionTimeoutMsMin?: number
  /** `group.max.session.timeout.ms`. Default 1,800,000. */
  readonly sessionTimeoutMsMax?: number
  /** `group.initial.rebalance.delay.ms`: how long an empty group waits for more members. Default 0. */
  readonly initialRebalanceDelayMs?: number
  /** `group.max.size`. Default 1,000 (Kafka: no limit). */
  readonly groupSizeMax?: number
  /** `group.consumer.session.timeout.ms`: members of the new protocol have no say in it. Default 45,000. */
  readonly consumerSessionTimeoutMs?: number
  /** `group.consumer.heartbeat.interval.ms`. Default 5,000. */
  readonly consumerHeartbeatIntervalMs?: number
  /** What members of the new protocol subscribe to. Default: there are no topics. */
  readonly topics?: TopicDirectory
  /** The last member has gone, and nobody is on the way in. The group stays in the table until it is deleted. */
  onEmpty?(group: string): void
  /** Members have to join again. */
  onRebalance?(group: string, reason: string): void
}

export interface GroupListing {
  readonly group: string
  readonly type: GroupType
  readonly state: AnyGroupState
  readonly protocolType: string
}

/** The answer to a heartbeat of the new protocol; with an error, what is wrong in words, and nothing else. */
export type ConsumerHeartbeatResult =
  | ({ readonly error: null } & ConsumerHeartbeatAnswer)
  | { readonly error: ErrorCode; readonly message: string }

/** Longest group id, in characters. */
const GROUP_ID_MAX = 1_024

/** For metrics; both only grow. */
export interface GroupCounters {
  /** Rebalances begun. */
  rebalances: number
  /** Members dropped because they fell silent: no heartbeat, no join, no sync in time. */
  expirations: number
}

/** The limits in force; see `GroupsOptions`. */
export interface GroupLimits {
  readonly sessionTimeoutMsMin: number
  readonly sessionTimeoutMsMax: number
  readonly initialRebalanceDelayMs: number
  readonly groupSizeMax: number
  readonly consumerSessionTimeoutMs: number
  readonly consumerHeartbeatIntervalMs: number
}

type AnyGroup = Group | ConsumerGroup

const NO_TOPICS: TopicDirectory = {
  version: 0,
  names: () => [],
  find: () => undefined,
  nameOf: () => undefined,
}

export class Groups {
  readonly counters: Readonly<GroupCounters>
  readonly limits: GroupLimits
  readonly #host: GroupHost & ConsumerGroupHost
  readonly #table = new Map<string, AnyGroup>()
  readonly #deadlines = new Deadlines()
  /** Replies and events that wait for the state machine to be at rest. */
  readonly #outbox: (() => void)[] = []
  #delivering = false
  #closed = false

  constructor(options: GroupsOptions) {
    this.limits = {
      sessionTimeoutMsMin: options.sessionTimeoutMsMin ?? 6_000,
      sessionTimeoutMsMax: options.sessionTimeoutMsMax ?? 1_800_000,
      initialRebalanceDelayMs: options.initialRebalanceDelayMs ?? 0,
      groupSizeMax: options.groupSizeMax ?? 1_000,
      consumerSessionTimeoutMs: options.consumerSessionTimeoutMs ?? 45_000,
      consumerHeartbeatIntervalMs: options.consumerHeartbeatIntervalMs ?? 5_000,
    }
    const counters: GroupCounters = { rebalances: 0, expirations: 0 }
    this.counters = counters
    const emit = (run: () => void) => {
      this.#outbox.push(run)
    }
    this.#host = {
      initialRebalanceDelayMs: this.limits.initialRebalanceDelayMs,
      groupSizeMax: this.limits.groupSizeMax,
      consumerSessionTimeoutMs: this.limits.consumerSessionTimeoutMs,
      topics: options.topics ?? NO_TOPICS,
      newId: () => options.newId(),
      emit,
      rebalancing(group, reason) {
        counters.rebalances++
        emit(() => options.onRebalance?.(group, reason))
      },
      expired() {
        counters.expirations++
      },
      vacated(group) {
        emit(() => options.onEmpty?.(group))
      },
    }
  }

  /**
   * Joins, or joins again. The answer may take as long as the slowest member needs, up to the rebalance time-out.
   * Refused with `INVALID_GROUP`, `INVALID_SESSION_TIMEOUT`, `UNKNOWN_MEMBER` (begin anew, without an id),
   * `MEMBER_ID_REQUIRED` (join again with the id in the answer), `FENCED_MEMBER`, `INCONSISTENT_GROUP_PROTOCOL`,
   * `GROUP_FULL`, `REBALANCE_IN_PROGRESS` (only to a join that the same member has repeated meanwhile) or `CLOSED`.
   */
  join(request: JoinRequest, now: number, reply: JoinReply): void {
    const known = this.#table.get(request.group)
    const error = this.#joinRefusal(request, known)
    if (error !== null) {
      this.#host.emit(() => reply(joinError(error, request.memberId)))
      this.#settle()
      return
    }
    const group = known instanceof Group ? known : new Group(request.group, this.#host)
    group.join(request, now, reply)
    this.#keep(group, known)
    this.#settle(group)
  }

  /** A refused first join must not leave a group behind, nor change one. */
  #keep(group: AnyGroup, known: AnyGroup | undefined): void {
    if (group === known || group.isVacant) return
    known?.end('UNKNOWN_MEMBER')
    this.#table.set(group.id, group)
  }

  #joinRefusal(request: JoinRequest, known: AnyGroup | undefined): ErrorCode | null {
    const { group, memberId, sessionTimeoutMs } = request
    if (this.#closed) return 'CLOSED'
    if (!isGroupId(group)) return 'INVALID_GROUP'
    const inRange =
      sessionTimeoutMs >= this.limits.sessionTimeoutMsMin &&
      sessionTimeoutMs <= this.limits.sessionTimeoutMsMax
    if (!inRange) return 'INVALID_SESSION_TIMEOUT'
    if (known instanceof ConsumerGroup && !known.isVacant) return 'INCONSISTENT_GROUP_PROTOCOL'
    return known instanceof Group || memberId === '' ? null : 'UNKNOWN_MEMBER'
  }

  /**
   * Asks for the assignment; the leader brings everyone's with it, the others wait for that. Refused with
   * `INVALID_GROUP`, `UNKNOWN_MEMBER`, `FENCED_MEMBER`, `ILLEGAL_GENERATION`, `INCONSISTENT_GROUP_PROTOCOL`,
   * `REBALANCE_IN_PROGRESS` (join again) or `CLOSED`.
   */
  sync(request: SyncRequest, now: number, reply: SyncReply): void {
    const group = this.#findClassic(request.group)
    if (typeof group === 'string') this.#host.emit(() => reply(syncError(this.#closed ? 'CLOSED' : group)))
    else group.sync(request, now, reply)
    this.#settle(group)
  }

  /**
   * A sign of life. `REBALANCE_IN_PROGRESS` asks the member to join again; other refusals (`INVALID_GROUP`, `UNKNOWN_MEMBER`,
   * `FENCED_MEMBER`, `ILLEGAL_GENERATION`) say that it holds nothing any more.
   */
  heartbeat(request: HeartbeatRequest, now: number): ErrorCode | null {
    const group = this.#findClassic(request.group)
    if (typeof group === 'string') return group
    const error = group.heartbeat(request, now)
    this.#settle(group)
    return error
  }

  /**
   * A heartbeat of the new protocol, which joins, leaves and gives the assignment as well. `choosesId`: see `checkHeartbeat`.
   * Refused with what that and `ConsumerGroup.heartbeat` throw; with `UNKNOWN_GROUP` if there is one with members of the
   * classic protocol, or none to leave; with `INVALID_GROUP` or `CLOSED`.
   */
  consumerHeartbeat(request: ConsumerHeartbeat, choosesId: boolean, now: number): ConsumerHeartbeatResult {
    try {
      checkHeartbeat(request, choosesId)
      const group = this.#consumerGroup(request)
      if (typeof group === 'string') return refused(group, request.group)
      const answer = group.heartbeat(request, now)
      this.#keep(group, this.#table.get(group.id))
      this.#settle(group)
      return { error: null, ...answer }
    } catch (error) {
      if (!isSluiceError(error)) throw error
      return { error: error.code, message: error.message }
    }
  }

  /** The group that a heartbeat is for: who joins makes one, if there is none or one that nobody is in. */
  #consumerGroup({ group: id, memberEpoch }: ConsumerHeartbeat): ConsumerGroup | ErrorCode {
    if (this.#closed) return 'CLOSED'
    if (!isGroupId(id)) return 'INVALID_GROUP'
    const known = this.#table.get(id)
    if (known instanceof ConsumerGroup) return known
    if (known !== undefined && known.state !== 'empty') return 'UNKNOWN_GROUP'
    if (memberEpoch === JOIN_EPOCH) return new ConsumerGroup(id, this.#host)
    // A member from before a restart, which Kafka would still know. This makes it join again; the other would end it.
    return memberEpoch > 0 ? 'UNKNOWN_MEMBER' : 'UNKNOWN_GROUP'
  }

  /** Takes members out of a group; one result for each, in order (`INVALID_GROUP`, `UNKNOWN_MEMBER`, `FENCED_MEMBER`). */
  leave(id: string, members: readonly LeavingMember[], now: number): LeaveResult[] {
    const group = this.#find(id)
    const results = members.map(member => {
      const { memberId, instanceId } = member
      if (typeof group === 'string') return { memberId, instanceId, error: group }
      const error = group instanceof Group ? group.leave(member, now) : group.remove(memberId, instanceId)
      return { memberId, instanceId, error }
    })
    this.#settle(group)
    return results
  }

  /**
   * Whether this commit may be stored; null: yes. Counts as a sign of life. Without an identity (a tool, or a consumer
   * without a membership) only a group without members takes commits, `UNKNOWN_MEMBER` otherwise; a group that
   * is not known is then made. Members are refused with `UNKNOWN_MEMBER`, `FENCED_MEMBER`, `ILLEGAL_GENERATION` or, from the
   * time that the next generation is made until its assignment is out, `REBALANCE_IN_PROGRESS`. In a consumer group the
   * generation is the member epoch; refusals there: `UNKNOWN_MEMBER`, `STALE_MEMBER_EPOCH`, and `UNSUPPORTED` unless the
   * request `knowsEpochs` (OffsetCommit 9 and later), in which case each partition has to be checked with `checkCommitOf`.
   */
  checkCommit(
    id: string,
    identity: MemberIdentity | null,
    now: number,
    knowsEpochs = false,
  ): ErrorCode | null {
    const group = this.#table.get(id)
    if (group === undefined) {
      if (id.length > GROUP_ID_MAX) return 'INVALID_GROUP'
      if (identity !== null && identity.generation >= 0) return 'ILLEGAL_GENERATION'
      this.ensure(id)
      return null
    }
    if (group instanceof ConsumerGroup) return group.checkCommit(identity, knowsEpochs)
    const error = group.checkCommit(identity, now)
    this.#settle(group)
    return error
  }

  /** After `checkCommit`, for each partition: `STALE_MEMBER_EPOCH`, only in consumer groups; see `ConsumerGroup.checkCommitOf`. */
  checkCommitOf(
    id: string,
    identity: MemberIdentity | null,
    topicId: string,
    partition: number,
  ): ErrorCode | null {
    const group = this.#table.get(id)
    return group instanceof ConsumerGroup ? group.checkCommitOf(identity, topicId, partition) : null
  }

  /**
   * Whether offsets may be fetched on behalf of this member (OffsetFetch 9 and later); only consumer groups look at it.
   * `UNKNOWN_MEMBER`, `STALE_MEMBER_EPOCH`.
   */
  checkFetch(id: string, memberId: string | null, memberEpoch: number): ErrorCode | null {
    const group = this.#table.get(id)
    return group instanceof ConsumerGroup ? group.checkFetch(memberId, memberEpoch) : null
  }

  has(id: string): boolean {
    return this.#table.has(id)
  }

  /** Whether members of the group read the topic; true if they may without our knowing. */
  isSubscribed(id: string, topic: string): boolean {
    return this.#table.get(id)?.isSubscribed(topic) ?? false
  }

  /** Null if there is no such group. */
  describe(id: string): DescribedGroup | null {
    const group = this.#table.get(id)
    if (group === undefined) return null
    return group instanceof Group ? group.describe() : this.#inCommon(group.describe())
  }

  /** Null if there is no such group, or one of the classic protocol. */
  describeConsumer(id: string): DescribedConsumerGroup | null {
    const group = this.#table.get(id)
    return group instanceof ConsumerGroup ? group.describe() : null
  }

  /** A consumer group in the words that hold for both protocols. */
  #inCommon({ group, state, groupEpoch, assignor, members }: DescribedConsumerGroup): DescribedGroup {
    return {
      group,
      type: 'consumer',
      state,
      generation: groupEpoch,
      protocolType: CONSUMER_PROTOCOL_TYPE,
      protocol: members.length === 0 ? '' : assignor,
      leader: '',
      members: members.map(member => this.#memberInCommon(member)),
    }
  }

  #memberInCommon(member: DescribedConsumer): DescribedGroup['members'][number] {
    const { memberId, instanceId, clientId, clientHost, assignment } = member
    const partitions = named(assignment, this.#host.topics)
    return {
      memberId,
      instanceId,
      clientId,
      clientHost,
      metadata: NO_BYTES,
      assignment: encodeAssignment({ partitions, userData: null }),
    }
  }

  list(): GroupListing[] {
    return [...this.#table.values()].map(group => ({
      group: group.id,
      type: group instanceof Group ? 'classic' : 'consumer',
      state: group.state,
      protocolType: group instanceof Group ? group.protocolType : CONSUMER_PROTOCOL_TYPE,
    }))
  }

  /** Makes an empty group if there is none of the name: one that is known for its committed offsets. */
  ensure(id: string): void {
    if (!this.#table.has(id)) this.#table.set(id, new Group(id, this.#host))
  }

  /** Forgets a group without members. `UNKNOWN_GROUP`, `GROUP_NOT_EMPTY`. Its offsets are the caller's to remove. */
  delete(id: string): ErrorCode | null {
    const group = this.#table.get(id)
    if (group === undefined) return 'UNKNOWN_GROUP'
    if (group.state !== 'empty') return 'GROUP_NOT_EMPTY'
    group.end('UNKNOWN_MEMBER')
    this.#table.delete(id)
    return null
  }

  /** Forgets the groups that nobody is in, nor on the way in, unless `keeps` says otherwise. */
  deleteVacant(keeps: (group: string) => boolean): void {
    for (const group of [...this.#table.values()])
      if (group.isVacant && !keeps(group.id)) this.delete(group.id)
  }

  /** When `expire` has to be called; it may turn out to be too early. Infinity: nothing to wait for. */
  nextDeadline(): number {
    return this.#deadlines.next()
  }

  /** Does what has become due by `now`. */
  expire(now: number): void {
    for (let group = this.#deadlines.take(now); group !== null; group = this.#deadlines.take(now)) {
      group.expire(now)
      this.#deadlines.put(group)
      // due again in the same instant: next time, so that this call ends
      if (group.wakeAt <= now) break
    }
    this.#settle()
  }

  /** Ends all groups; whoever waits is answered with `CLOSED`, as are joins and syncs from now on. */
  close(): void {
    this.#closed = true
    for (const group of this.#table.values()) group.end('CLOSED')
    this.#table.clear()
    this.#settle()
  }

  #find(id: string): AnyGroup | 'INVALID_GROUP' | 'UNKNOWN_MEMBER' {
    return isGroupId(id) ? (this.#table.get(id) ?? 'UNKNOWN_MEMBER') : 'INVALID_GROUP'
  }

  /** The members of a consumer group do not send what asks for this. */
  #findClassic(id: string): Group | 'INVALID_GROUP' | 'UNKNOWN_MEMBER' {
    const group = this.#find(id)
    return group instanceof ConsumerGroup ? 'UNKNOWN_MEMBER' : group
  }

  /** After each change: notes the group's deadline and delivers what waits. A call from within a reply leaves that to the outer one. */
  #settle(group?: AnyGroup | string): void {
    if (typeof group === 'object') this.#deadlines.put(group)
    if (this.#delivering) return
    this.#delivering = true
    try {
      for (let run = this.#outbox.shift(); run !== undefined; run = this.#outbox.shift()) run()
    } finally {
      this.#delivering = false
    }
  }
}

const NO_BYTES = new Uint8Array(0)

function refused(error: ErrorCode, group: string): ConsumerHeartbeatResult {
  const why = error === 'UNKNOWN_GROUP' ? 'this is not a consumer group' : errorTable[error].meaning
  return { error, message: `group "${group}": ${why}` }
}

/** By name, in order; without topics that are gone. */
const named = (assignment: readonly TopicIdPartitions[], topics: TopicDirectory) =>
  assignment
    .flatMap(({ topicId, partitions }) => {
      const topic = topics.nameOf(topicId)
      return topic === undefined ? [] : partitions.map(partition => ({ topic, partition }))
    })
    .sort((a, b) => compareText(a.topic, b.topic) || a.partition - b.partition)

const isGroupId = (id: string): boolean => id !== '' && id.length <= GROUP_ID_MAX

/**
 * Groups in the order of when they want to be woken: a binary heap. A group that wants to be woken earlier is put in
 * again; the entry that this makes stale is passed over when it comes up. (Later is no reason: groups
 * only learn that nothing is due by being woken.)
 */
class Deadlines {
  readonly #heap: { readonly at: number; readonly group: AnyGroup }[] = []
  /** The entry of a group that counts. */
  readonly #valid = new Map<AnyGroup, number>()

  put(group: AnyGroup): void {
    const at = group.wakeAt
    if (at >= (this.#valid.get(group) ?? Number.POSITIVE_INFINITY)) return
    this.#valid.set(group, at)
    const heap = this.#heap
    let i = heap.push({ at, group }) - 1
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (heap[parent].at <= heap[i].at) break
      ;[heap[parent], heap[i]] = [heap[i], heap[parent]]
      i = parent
    }
  }

  next(): number {
    for (; this.#heap.length > 0; this.#pop()) {
      const { at, group } = this.#heap[0]
      if (group.state !== 'dead' && this.#valid.get(group) === at) return at
      if (group.state === 'dead') this.#valid.delete(group)
    }
    return Number.POSITIVE_INFINITY
  }

  /** The group that is due longest, taken out; null if none is due. */
  take(now: number): AnyGroup | null {
    if (this.next() > now || this.#heap.length === 0) return null
    const { group } = this.#heap[0]
    this.#pop()
    this.#valid.delete(group)
    return group
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()!
    if (heap.length === 0) return
    heap[0] = last
    for (let i = 0; ; ) {
      const left = 2 * i + 1
      if (left >= heap.length) return
      const least = left + 1 < heap.length && heap[left + 1].at < heap[left].at ? left + 1 : left
      if (heap[i].at <= heap[least].at) return
      ;[heap[least], heap[i]] = [heap[i], heap[least]]
      i = least
    }
  }
}
