/**
 * One consumer group of the new protocol (KIP-848): one request, the heartbeat, carries everything; the assignment is made
 * here, and each member is led to it on its own, without a moment at which all of them stand still.
 *
 * Three epochs count up:
 *
 *     group epoch       + 1 when members, subscriptions or topics change: the assignment has to be made again
 *     assignment epoch  the group epoch that the target assignment was made for
 *     member epoch      the assignment epoch that the member was led to; it is what fences its requests and commits
 *
 * A member is led to its target in two steps, so that no partition ever has two holders:
 *
 *             new target takes something away
 *     stable ────────────────────────────────► unrevoked        waits for the member to give that up, in its old epoch
 *       ▲ │                                        │ given up
 *       │ └─ takes nothing away ──► gets what is free of its target, and the new epoch
 *       │                                          │
 *       │          all of it was free              │  others hold some of it
 *       └──────────────────────────────────────────┴────────► unreleased       gets it as it becomes free
 *
 * Invariants:
 *  - a partition has one holder (`#holders`): the member that it is assigned to, or that has yet to give it up;
 *  - a partition passes to another only after its holder said, in a later request, what it owns and that this is no more
 *    of it; or after the holder joined anew, left, or was removed;
 *  - targets of members never overlap;
 *  - a member that does not give up what it has to within its rebalance time-out, or is silent for the session time-out,
 *    is removed.
 *
 * What a member was given but cannot know of, because the answer was lost (it comes with the epoch before), it need not
 * give up. Apart from that we are stricter than Kafka, which takes a partition for given up if the very request that a new
 * target is found with does not list it: that request may have left before the member had finished taking it.
 *
 * A pure state machine, as `group.ts`: time comes in with each call, `wakeAt` tells when `expire` wants to be called.
 * Refusals are thrown before anything is changed. Topics are looked up through `TopicDirectory`; whether they have
 * changed is looked at with each heartbeat. The table of all groups: `groups.ts`.
 */

import assert from 'node:assert/strict'
import { type ErrorCode, SluiceError } from '../errors.ts'
import { assign, type TopicPartition } from './assignor.ts'
import type { MemberIdentity } from './group.ts'
import { TopicPattern } from './topic-pattern.ts'

/**
 * `assigning`: the target has to be made again, which the next heartbeat does. `reconciling`: members are on the way to
 * their targets.
 */
export type ConsumerGroupState = 'empty' | 'assigning' | 'reconciling' | 'stable' | 'dead'

/** Server-side assignors: `uniform` is balanced, and as few partitions as possible change hands; `range` goes by topic. */
export const serverAssignors = ['uniform', 'range'] as const
export type ServerAssignor = (typeof serverAssignors)[number]

/** Member epochs that are requests. */
export const JOIN_EPOCH = 0
export const LEAVE_EPOCH = -1
/** A static member that will be back: its partitions wait for it, until its session is over. */
export const LEAVE_STATIC_EPOCH = -2

/** What there is to subscribe to. */
export interface TopicDirectory {
  /** Another one whenever topics or partitions have come or gone. */
  readonly version: number
  names(): Iterable<string>
  find(name: string): { readonly id: string; readonly partitions: number } | undefined
  nameOf(id: string): string | undefined
}

export interface TopicIdPartitions {
  readonly topicId: string
  readonly partitions: readonly number[]
}

/** A heartbeat. Null, and -1 for the time-out: as it was in the last one. */
export interface ConsumerHeartbeat {
  readonly group: string
  /** '': the coordinator gives one, which the answer has. */
  readonly memberId: string
  readonly memberEpoch: number
  readonly instanceId: string | null
  readonly rackId: string | null
  readonly clientId: string
  readonly clientHost: string
  /** How long the member may take to give up partitions. */
  readonly rebalanceTimeoutMs: number
  readonly topics: readonly string[] | null
  /** In addition to `topics`, those whose name matches; see `TopicPattern`. '': none. */
  readonly topicPattern: string | null
  /** One of `serverAssignors`. What most members want is used. */
  readonly assignor: string | null
  readonly owned: readonly TopicIdPartitions[] | null
}

export interface ConsumerHeartbeatAnswer {
  readonly memberId: string
  readonly memberEpoch: number
  /** Null: as it was. */
  readonly assignment: readonly TopicIdPartitions[] | null
}

export interface DescribedConsumer {
  readonly memberId: string
  readonly instanceId: string | null
  readonly rackId: string | null
  readonly memberEpoch: number
  readonly clientId: string
  readonly clientHost: string
  readonly topics: readonly string[]
  /** '': none. */
  readonly topicPattern: string
  /** What it holds, with what it has yet to give up. */
  readonly assignment: readonly TopicIdPartitions[]
  readonly target: readonly TopicIdPartitions[]
}

export interface DescribedConsumerGroup {
  readonly group: string
  readonly state: ConsumerGroupState
  readonly groupEpoch: number
  readonly assignmentEpoch: number
  readonly assignor: ServerAssignor
  readonly members: readonly DescribedConsumer[]
}

/** What a group needs of its owner; see `GroupHost`. */
export interface ConsumerGroupHost {
  readonly consumerSessionTimeoutMs: number
  readonly groupSizeMax: number
  readonly topics: TopicDirectory
  newId(): string
  rebalancing(group: string, reason: string): void
  expired(group: string, memberId: string): void
  vacated(group: string): void
}

/** `<topic id>/<partition>`. */
type PartitionKey = string

interface Member {
  memberId: string
  readonly instanceId: string | null
  rackId: string | null
  clientId: string
  clientHost: string
  rebalanceTimeoutMs: number
  topics: readonly string[]
  pattern: TopicPattern | null
  assignor: ServerAssignor | null
  epoch: number
  /** Not `epoch`: the member has not shown yet that it knows that; it may come with the one before. */
  previousEpoch: number
  /** What it was given → the member epoch of the answer that gave it. */
  assigned: Map<PartitionKey, number>
  /** What it has been told to give up → since when it has it, as in `assigned`. */
  revoking: Map<PartitionKey, number>
  /** Others hold a part of its target. */
  waits: boolean
  /** When its session is over. */
  deadline: number
  /** When it must have given up what it has to. */
  revokeDeadline: number
}

const NOBODY = { memberId: '', generation: -1 }
const NEVER = Number.POSITIVE_INFINITY
const NOTHING: ReadonlySet<PartitionKey> = new Set()

export class ConsumerGroup {
  readonly id: string
  readonly #host: ConsumerGroupHost
  readonly #members = new Map<string, Member>()
  /** By instance id. */
  readonly #static = new Map<string, Member>()
  readonly #holders = new Map<PartitionKey, Member>()
  /** As in Kafka, the first member makes it 2. */
  #groupEpoch = 1
  #assignmentEpoch = 0
  /** By member id. */
  #target = new Map<string, ReadonlySet<PartitionKey>>()
  /** The topics that members subscribe to and that there are, as the target was last made for. */
  #topics = new Map<string, { readonly id: string; readonly partitions: number }>()
  /** Topics that match, by pattern. */
  #matches = new Map<string, readonly string[]>()
  #directoryVersion = -1
  #isDead = false
  #wakeAt = NEVER

  constructor(id: string, host: ConsumerGroupHost) {
    this.id = id
    this.#host = host
  }

  get state(): ConsumerGroupState {
    if (this.#isDead) return 'dead'
    if (this.#members.size === 0) return 'empty'
    if (this.#groupEpoch > this.#assignmentEpoch) return 'assigning'
    for (const member of this.#members.values()) if (!this.#isReconciled(member)) return 'reconciling'
    return 'stable'
  }

  /** When `expire` has to be called next; it may find nothing to do then. Infinity: not at all. */
  get wakeAt(): number {
    return this.#wakeAt
  }

  get isVacant(): boolean {
    return this.#members.size === 0
  }

  // ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Throws `UNKNOWN_MEMBER`, `FENCED_MEMBER_EPOCH` (the member gives up everything and joins anew), `FENCED_MEMBER`,
   * `UNRELEASED_INSTANCE_ID`, `GROUP_FULL`, `INVALID_REGULAR_EXPRESSION`. The request has been checked by itself,
   * see `checkHeartbeat`.
   */
  heartbeat(request: ConsumerHeartbeat, now: number): ConsumerHeartbeatAnswer {
    assert(!this.#isDead)
    if (request.memberEpoch < 0) return this.#leave(request)
    const isJoin = request.memberEpoch === JOIN_EPOCH
    const known = this.#find(request)
    const pattern = this.#patternOf(request, known)
    const before = known?.assigned
    const member = known ?? this.#add(request)
    if (member.epoch === LEAVE_STATIC_EPOCH) this.#takeBack(member, request)
    const isSubscriptionNew = this.#update(member, request, pattern) || known === undefined
    this.#lookAtTopics(isSubscriptionNew, `${member.memberId} joined, or reads other topics`)
    if (this.#groupEpoch > this.#assignmentEpoch) this.#makeTarget()
    if (!this.#isReconciled(member)) this.#reconcile(member, request, now)
    member.deadline = now + this.#host.consumerSessionTimeoutMs
    this.#wake(member.deadline)
    const isFull =
      request.rebalanceTimeoutMs !== -1 &&
      (request.topics !== null || request.topicPattern !== null) &&
      request.owned !== null
    return {
      memberId: member.memberId,
      memberEpoch: member.epoch,
      assignment: isJoin || isFull || member.assigned !== before ? byTopic(member.assigned.keys()) : null,
    }
  }

  /** Takes a member out on behalf of an administrator: by its id, or by its instance id with the member id ''. */
  remove(memberId: string, instanceId: string | null): ErrorCode | null {
    const member = instanceId === null ? this.#members.get(memberId) : this.#static.get(instanceId)
    if (member === undefined) return 'UNKNOWN_MEMBER'
    if (memberId !== '' && member.memberId !== memberId) return 'FENCED_MEMBER'
    this.#remove(member, 'an administrator removed a member')
    return null
  }

  /**
   * Whether offsets may be committed. Null: by a tool, or a consumer that assigns itself its partitions, which only a group
   * without members takes. `knowsEpochs`: the request is of a version that has member epochs. An epoch that the member had
   * before may pass here, since the answer with the new one may be on its way; each partition has yet to be checked with
   * `checkCommitOf`.
   */
  checkCommit(identity: MemberIdentity | null, knowsEpochs: boolean): ErrorCode | null {
    const { memberId, generation } = identity ?? NOBODY
    if (generation < 0 && this.#members.size === 0) return null
    const member = this.#members.get(memberId)
    if (member === undefined) return 'UNKNOWN_MEMBER'
    if (!knowsEpochs) return 'UNSUPPORTED'
    return generation > member.epoch ? 'STALE_MEMBER_EPOCH' : null
  }

  /** With an epoch from before, a member commits only what it has held since then. */
  checkCommitOf(identity: MemberIdentity | null, topicId: string, partition: number): ErrorCode | null {
    const { memberId, generation } = identity ?? NOBODY
    const member = this.#members.get(memberId)
    if (member === undefined || generation === member.epoch) return null
    const key = `${topicId}/${partition}`
    const since = member.assigned.get(key) ?? member.revoking.get(key)
    return since !== undefined && since <= generation ? null : 'STALE_MEMBER_EPOCH'
  }

  /** Whether this member may fetch offsets; without an id everybody may. */
  checkFetch(memberId: string | null, memberEpoch: number): ErrorCode | null {
    if (memberId === null && memberEpoch < 0) return null
    const member = this.#members.get(memberId ?? '')
    if (member === undefined) return 'UNKNOWN_MEMBER'
    return memberEpoch === member.epoch ? null : 'STALE_MEMBER_EPOCH'
  }

  isSubscribed(topic: string): boolean {
    for (const member of this.#members.values())
      if (member.topics.includes(topic) || this.#matchesOf(member).includes(topic)) return true
    return false
  }

  describe(): DescribedConsumerGroup {
    return {
      group: this.id,
      state: this.state,
      groupEpoch: this.#groupEpoch,
      assignmentEpoch: this.#assignmentEpoch,
      assignor: this.#assignor(),
      members: [...this.#members.values()].map(member => ({
        memberId: member.memberId,
        instanceId: member.instanceId,
        rackId: member.rackId,
        memberEpoch: member.epoch,
        clientId: member.clientId,
        clientHost: member.clientHost,
        topics: member.topics,
        topicPattern: member.pattern?.source ?? '',
        assignment: byTopic([...member.assigned.keys(), ...member.revoking.keys()]),
        target: byTopic(this.#targetOf(member)),
      })),
    }
  }

  /** The end of this group. */
  end(): void {
    this.#members.clear()
    this.#static.clear()
    this.#holders.clear()
    this.#isDead = true
    this.#wakeAt = NEVER
  }

  // ── members ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** The member that speaks, or whose place it takes; undefined for a new one. Throws if it may not. */
  #find(request: ConsumerHeartbeat): Member | undefined {
    const { memberId, memberEpoch, instanceId } = request
    const isJoin = memberEpoch === JOIN_EPOCH
    const member = instanceId === null ? this.#members.get(memberId) : this.#static.get(instanceId)
    if (member === undefined) {
      if (!isJoin) throw this.#unknown(request)
      if (this.#members.size >= this.#host.groupSizeMax) throw this.#full()
      return undefined
    }
    if (!isJoin) {
      if (member.memberId !== memberId) throw this.#fencedInstance(member, memberId)
      this.#checkEpoch(member, memberEpoch, request.owned)
    } else if (member.memberId !== memberId && member.epoch !== LEAVE_STATIC_EPOCH) {
      throw this.#unreleased(member, memberId)
    }
    return member
  }

  /** A member may come with the epoch before the one it has, if the answer that gave it that may have been lost. */
  #checkEpoch(member: Member, epoch: number, owned: ConsumerHeartbeat['owned']): void {
    if (epoch === member.epoch) {
      member.previousEpoch = epoch
      return
    }
    const isLate =
      epoch === member.previousEpoch && owned !== null && keysOf(owned).every(key => member.assigned.has(key))
    if (isLate && member.epoch !== LEAVE_STATIC_EPOCH) return
    const message =
      `the consumer group member has a ${epoch > member.epoch ? 'greater' : 'smaller'} member epoch (${epoch}) than the ` +
      `one known by the group coordinator (${member.epoch}); it must abandon all its partitions and rejoin`
    throw new SluiceError('FENCED_MEMBER_EPOCH', message, { group: this.id, memberId: member.memberId })
  }

  #add(request: ConsumerHeartbeat): Member {
    const { memberId, instanceId } = request
    const member: Member = {
      memberId: memberId === '' ? this.#host.newId() : memberId,
      instanceId,
      rackId: null,
      clientId: request.clientId,
      clientHost: request.clientHost,
      rebalanceTimeoutMs: request.rebalanceTimeoutMs,
      topics: [],
      pattern: null,
      assignor: null,
      epoch: 0,
      previousEpoch: 0,
      assigned: new Map(),
      revoking: new Map(),
      waits: false,
      deadline: NEVER,
      revokeDeadline: NEVER,
    }
    this.#members.set(member.memberId, member)
    if (instanceId !== null) this.#static.set(instanceId, member)
    return member
  }

  /** A static member is back, perhaps under another id: what was its own is its own. */
  #takeBack(member: Member, request: ConsumerHeartbeat): void {
    const former = member.memberId
    const target = this.#targetOf(member)
    this.#members.delete(former)
    this.#target.delete(former)
    member.memberId = request.memberId === '' ? this.#host.newId() : request.memberId
    this.#members.set(member.memberId, member)
    this.#target.set(member.memberId, target)
    member.epoch = 0
    member.previousEpoch = 0
  }

  /** Whether what it subscribes to has changed. */
  #update(member: Member, request: ConsumerHeartbeat, pattern: TopicPattern | null): boolean {
    // Who joins says everything: what a static member subscribed to before it left is over.
    const before = request.memberEpoch === JOIN_EPOCH ? [] : member.topics
    member.clientId = request.clientId
    member.clientHost = request.clientHost
    if (request.rackId !== null) member.rackId = request.rackId
    if (request.rebalanceTimeoutMs !== -1) member.rebalanceTimeoutMs = request.rebalanceTimeoutMs
    if (request.assignor !== null) member.assignor = request.assignor as ServerAssignor
    const topics = request.topics === null ? before : [...new Set(request.topics)].sort()
    const isSame = topics.join() === member.topics.join() && pattern?.source === member.pattern?.source
    member.topics = topics
    member.pattern = pattern
    return !isSame
  }

  /** Compiled, if it is another one than before. Throws `INVALID_REGULAR_EXPRESSION`. */
  #patternOf(request: ConsumerHeartbeat, member: Member | undefined): TopicPattern | null {
    const { topicPattern, memberEpoch } = request
    const before = member?.pattern ?? null
    if (topicPattern === before?.source) return before
    if (topicPattern === null && memberEpoch !== JOIN_EPOCH) return before
    return topicPattern === null || topicPattern === '' ? null : new TopicPattern(topicPattern)
  }

  #leave(request: ConsumerHeartbeat): ConsumerHeartbeatAnswer {
    const { memberId, memberEpoch, instanceId } = request
    const member = instanceId === null ? this.#members.get(memberId) : this.#static.get(instanceId)
    if (member === undefined) throw this.#unknown(request)
    if (member.memberId !== memberId) throw this.#fencedInstance(member, memberId)
    if (memberEpoch === LEAVE_EPOCH) {
      this.#remove(member, `${memberId} left`)
    } else {
      for (const key of member.revoking.keys()) this.#holders.delete(key)
      member.revoking.clear()
      member.revokeDeadline = NEVER
      member.epoch = LEAVE_STATIC_EPOCH
      // its session runs on from its last heartbeat
    }
    return { memberId, memberEpoch, assignment: null }
  }

  /** Frees all that the member holds. */
  #remove(member: Member, reason: string): void {
    this.#members.delete(member.memberId)
    if (member.instanceId !== null) this.#static.delete(member.instanceId)
    this.#target.delete(member.memberId)
    for (const key of [...member.assigned.keys(), ...member.revoking.keys()]) this.#holders.delete(key)
    this.#groupEpoch++
    if (this.#members.size > 0) this.#host.rebalancing(this.id, reason)
    else this.#host.vacated(this.id)
  }

  // ── subscriptions and the target ──────────────────────────────────────────────────────────────────────────────

  /** Raises the group epoch if subscriptions changed, or topics that are subscribed to. */
  #lookAtTopics(isSubscriptionNew: boolean, reason: string): void {
    const { topics: directory } = this.#host
    const isDirectoryNew = directory.version !== this.#directoryVersion
    if (!isSubscriptionNew && !isDirectoryNew) return
    this.#directoryVersion = directory.version
    this.#matchTopics(isDirectoryNew)
    const topics = new Map<string, { readonly id: string; readonly partitions: number }>()
    for (const member of this.#members.values()) {
      for (const name of this.#subscriptionOf(member)) {
        const topic = topics.has(name) ? undefined : directory.find(name)
        if (topic !== undefined) topics.set(name, topic)
      }
    }
    const isChanged = isSubscriptionNew || !sameTopics(topics, this.#topics)
    this.#topics = topics
    if (!isChanged) return
    this.#groupEpoch++
    this.#host.rebalancing(this.id, isSubscriptionNew ? reason : 'topics or partitions came or went')
  }

  #matchTopics(isDirectoryNew: boolean): void {
    const matches = new Map<string, readonly string[]>()
    for (const { pattern } of this.#members.values()) {
      if (pattern === null || matches.has(pattern.source)) continue
      const before = isDirectoryNew ? undefined : this.#matches.get(pattern.source)
      matches.set(
        pattern.source,
        before ?? [...this.#host.topics.names()].filter(name => pattern.matches(name)).sort(),
      )
    }
    this.#matches = matches
  }

  #matchesOf({ pattern }: Member): readonly string[] {
    return pattern === null ? [] : (this.#matches.get(pattern.source) ?? [])
  }

  #subscriptionOf(member: Member): readonly string[] {
    return member.pattern === null ? member.topics : [...member.topics, ...this.#matchesOf(member)]
  }

  #makeTarget(): void {
    const names = new Map([...this.#topics].map(([name, { id }]) => [id, name]))
    const partitionsOf = (keys: Iterable<PartitionKey>): TopicPartition[] =>
      [...byTopic(keys)].flatMap(({ topicId, partitions }) => {
        const topic = names.get(topicId)
        return topic === undefined ? [] : partitions.map(partition => ({ topic, partition }))
      })
    const members = [...this.#members.values()].map(member => ({
      memberId: member.memberId,
      instanceId: member.instanceId,
      topics: this.#subscriptionOf(member),
      owned: partitionsOf(this.#targetOf(member)),
      generation: 0,
    }))
    // `uniform` is what `sticky` does: balanced, and everyone keeps what it can.
    const assignor = this.#assignor() === 'range' ? 'range' : 'sticky'
    const shares = assign(assignor, members, topic => this.#topics.get(topic)?.partitions ?? 0)
    this.#target = new Map(
      [...shares].map(([memberId, share]) => [
        memberId,
        new Set(share.map(({ topic, partition }) => `${this.#topics.get(topic)!.id}/${partition}`)),
      ]),
    )
    this.#assignmentEpoch = this.#groupEpoch
  }

  #targetOf(member: Member): ReadonlySet<PartitionKey> {
    return this.#target.get(member.memberId) ?? NOTHING
  }

  /** What most members want; of those that are wanted alike, the first in the table. */
  #assignor(): ServerAssignor {
    const votes = { uniform: 0, range: 0 }
    for (const { assignor } of this.#members.values()) if (assignor !== null) votes[assignor]++
    return votes.range > votes.uniform ? 'range' : 'uniform'
  }

  // ── reconciliation ────────────────────────────────────────────────────────────────────────────────────────────

  #isReconciled(member: Member): boolean {
    return member.epoch === this.#assignmentEpoch && member.revoking.size === 0 && !member.waits
  }

  /** Leads the member as far towards its target as can be. */
  #reconcile(member: Member, request: ConsumerHeartbeat, now: number): void {
    const owned = request.owned === null ? null : new Set(keysOf(request.owned))
    for (const key of member.revoking.keys()) {
      if (owned === null || owned.has(key)) continue
      member.revoking.delete(key)
      this.#holders.delete(key)
    }
    // One thing after the other: while it gives up, the target may change.
    if (member.revoking.size > 0) return
    member.revokeDeadline = NEVER

    const target = this.#targetOf(member)
    const keeps = new Map<PartitionKey, number>()
    for (const [key, since] of member.assigned) {
      if (target.has(key)) keeps.set(key, since)
      // Whoever joins holds nothing; and what came with an answer that it has not seen it does not know of.
      else if (request.memberEpoch === JOIN_EPOCH || since > request.memberEpoch) this.#holders.delete(key)
      else member.revoking.set(key, since)
    }
    if (member.revoking.size > 0) {
      member.assigned = keeps
      member.waits = false
      member.revokeDeadline = now + member.rebalanceTimeoutMs
      this.#wake(member.revokeDeadline)
      return
    }
    this.#give(member, keeps, target)
  }

  /** Gives what is free of the target. */
  #give(member: Member, keeps: Map<PartitionKey, number>, target: ReadonlySet<PartitionKey>): void {
    const kept = keeps.size
    member.waits = false
    for (const key of target) {
      if (keeps.has(key)) continue
      if (this.#holders.has(key)) {
        member.waits = true
        continue
      }
      keeps.set(key, this.#assignmentEpoch)
      this.#holders.set(key, member)
    }
    // The same map if nothing has changed: that is what tells the answer.
    if (keeps.size !== kept || kept !== member.assigned.size) member.assigned = keeps
    if (member.epoch === this.#assignmentEpoch) return
    member.previousEpoch = member.epoch
    member.epoch = this.#assignmentEpoch
  }

  // ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Removes members whose session is over, or that did not give up in time what they had to. */
  expire(now: number): void {
    for (const member of [...this.#members.values()]) {
      if (member.deadline > now && member.revokeDeadline > now) continue
      this.#host.expired(this.id, member.memberId)
      const what = member.deadline <= now ? 'session' : 'rebalance time-out'
      this.#remove(member, `the ${what} of ${member.memberId} is over`)
    }
    this.#wakeAt = NEVER
    for (const member of this.#members.values()) this.#wake(Math.min(member.deadline, member.revokeDeadline))
  }

  #wake(at: number): void {
    if (at < this.#wakeAt) this.#wakeAt = at
  }

  // ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────

  #unknown({ memberId, instanceId }: ConsumerHeartbeat): SluiceError {
    const who = instanceId === null ? `member ${memberId}` : `instance id ${instanceId}`
    return new SluiceError('UNKNOWN_MEMBER', `${who} is not in group ${this.id}; join again`, {
      group: this.id,
      memberId,
    })
  }

  #full(): SluiceError {
    const message = `the consumer group has reached its maximum capacity of ${this.#host.groupSizeMax} members`
    return new SluiceError('GROUP_FULL', message, { group: this.id })
  }

  #unreleased({ instanceId, memberId: owner }: Member, memberId: string): SluiceError {
    const message = `static member ${memberId} cannot join the group: instance id ${instanceId} is owned by member ${owner}`
    return new SluiceError('UNRELEASED_INSTANCE_ID', message, { group: this.id, instanceId })
  }

  #fencedInstance({ instanceId, memberId: owner }: Member, memberId: string): SluiceError {
    const message = `static member ${memberId} with instance id ${instanceId} was fenced by member ${owner}`
    return new SluiceError('FENCED_MEMBER', message, { group: this.id, instanceId })
  }
}

/**
 * What is wrong with a heartbeat whatever the group; throws `INVALID_ARGUMENT`, `UNSUPPORTED_ASSIGNOR`. `choosesId`: members
 * choose their own ids, the coordinator gives none (version 1 and later).
 */
export function checkHeartbeat(request: ConsumerHeartbeat, choosesId: boolean): void {
  const { memberId, memberEpoch, instanceId, rackId, assignor } = request
  const refuse = (message: string): never => {
    throw new SluiceError('INVALID_ARGUMENT', message, { group: request.group, memberId })
  }
  const needsId = choosesId || memberEpoch > 0 || memberEpoch === LEAVE_EPOCH
  if (needsId && memberId === '') refuse("MemberId can't be empty.")
  if (request.group === '') refuse("GroupId can't be empty.")
  if (instanceId === '') refuse("InstanceId can't be empty.")
  if (rackId === '') refuse("RackId can't be empty.")
  if (memberEpoch === JOIN_EPOCH) {
    if (request.rebalanceTimeoutMs === -1) refuse('RebalanceTimeoutMs must be provided in first request.')
    if (request.owned === null || request.owned.length > 0)
      refuse('TopicPartitions must be empty when (re-)joining.')
    if (request.topics === null && request.topicPattern === null)
      refuse('SubscribedTopicNames or SubscribedTopicRegex must be set when (re-)joining.')
  }
  if (memberEpoch === LEAVE_STATIC_EPOCH && instanceId === null) refuse("InstanceId can't be null.")
  if (memberEpoch < LEAVE_STATIC_EPOCH) refuse('MemberEpoch is invalid.')
  if (assignor === null || serverAssignors.includes(assignor as ServerAssignor)) return
  const message = `ServerAssignor ${assignor} is not supported. Supported assignors: ${serverAssignors.join(', ')}.`
  throw new SluiceError('UNSUPPORTED_ASSIGNOR', message, { group: request.group, assignor })
}

const keysOf = (owned: readonly TopicIdPartitions[]): PartitionKey[] =>
  owned.flatMap(({ topicId, partitions }) => partitions.map(partition => `${topicId}/${partition}`))

/** Topics in the order in which they come, partitions in theirs. */
function byTopic(keys: Iterable<PartitionKey>): TopicIdPartitions[] {
  const topics = new Map<string, number[]>()
  for (const key of keys) {
    const slash = key.lastIndexOf('/')
    const topicId = key.slice(0, slash)
    const partition = Number(key.slice(slash + 1))
    const partitions = topics.get(topicId)
    if (partitions === undefined) topics.set(topicId, [partition])
    else partitions.push(partition)
  }
  return [...topics].map(([topicId, partitions]) => ({
    topicId,
    partitions: partitions.sort((a, b) => a - b),
  }))
}

type Topics = ReadonlyMap<string, { readonly id: string; readonly partitions: number }>

const sameTopics = (a: Topics, b: Topics): boolean =>
  a.size === b.size &&
  [...a].every(
    ([name, { id, partitions }]) => b.get(name)?.id === id && b.get(name)?.partitions === partitions,
  )
