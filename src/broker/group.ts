/**
 * One consumer group as its coordinator sees it: who is in it, which generation runs, who leads, what each member was
 * assigned. The semantics are those of Kafka's classic group protocol (JoinGroup 0–9, SyncGroup, Heartbeat, LeaveGroup),
 * error for error; the assignment itself is made by the member that leads and passes through unread.
 *
 *              first join                       all have joined, or time is up
 *     empty ───────────────► preparing-rebalance ───────────────► completing-rebalance
 *       ▲                      │ ▲      ▲  nobody is left            │           │
 *       └──────────────────────┘ │      └────────────────────────────┘           │ leader's assignment
 *                                │        join, leave or loss of a member        ▼
 *                                └─────────────────────────────────────────── stable
 *
 * A pure state machine: time comes in with each call, replies go out through `emit`, which the owner of the group
 * calls once the state is whole again. No timers: `wakeAt` tells when `expire` wants to be called.
 *
 * Invariants:
 *  - every join and sync request gets exactly one reply, sooner or later;
 *  - generations grow by one; a member's requests are taken only with the current one (except to join);
 *  - a member has at most one join or sync waiting; while one waits, its session does not expire (the member cannot
 *    send heartbeats), save that a new member which does not get an answer for five minutes is dropped;
 *  - all members share at least one protocol;
 *  - members that have been given an id but have not joined with it (`pending`) hold a rebalance up until they do, or
 *    until their session time-out is over, but never past the rebalance time-out.
 *
 * Where Kafka leaves a request without an answer (superseded by a second one of the same member, or its member
 * removed), we answer: waiters in this process have no connection that would break.
 *
 * Names of groups, limits that do not depend on the group, and the table of all groups: `groups.ts`.
 */

import assert from 'node:assert/strict'
import { type ErrorCode, isSluiceError } from '../errors.ts'
import {
  CONSUMER_PROTOCOL_TYPE,
  decodeSubscription,
  EMPTY_ASSIGNMENT,
  hasWithheld,
} from './consumer-protocol.ts'

/** By the protocol that its members speak: this one, or that of `consumer-group.ts`. */
export type GroupType = 'classic' | 'consumer'

export type GroupState = 'empty' | 'preparing-rebalance' | 'completing-rebalance' | 'stable' | 'dead'
/** `assigning` and `reconciling`: of consumer groups. */
export type AnyGroupState = GroupState | 'assigning' | 'reconciling'

/** A way of assigning that a member offers, with what it tells the leader in case it is chosen. */
export interface GroupProtocol {
  readonly name: string
  readonly metadata: Uint8Array
}

export interface JoinRequest {
  readonly group: string
  /** '' for a new member. */
  readonly memberId: string
  /** Not null: a static member. Its restart takes the place of its former self. */
  readonly instanceId: string | null
  readonly clientId: string
  readonly clientHost: string
  /** Without a sign of life for so long the member is dropped. */
  readonly sessionTimeoutMs: number
  /** How long the member may take to join again once a rebalance has begun. */
  readonly rebalanceTimeoutMs: number
  /** `consumer` for consumers. All members have the same. */
  readonly protocolType: string
  /** In order of preference. */
  readonly protocols: readonly GroupProtocol[]
  /**
   * Answer a new dynamic member with `MEMBER_ID_REQUIRED` and an id to join with (JoinGroup 4 and later), so that one
   * which repeats its request does not join twice.
   */
  readonly requireKnownMemberId: boolean
  /** The member understands `skipAssignment` (JoinGroup 9 and later). Default false. */
  readonly supportsSkipAssignment?: boolean
  /** Why it joins; for logs. */
  readonly reason?: string
}

export interface JoinedMember {
  readonly memberId: string
  readonly instanceId: string | null
  readonly metadata: Uint8Array
}

export interface JoinResult {
  readonly error: ErrorCode | null
  /** -1 with an error, as long as there is no generation to speak of. */
  readonly generation: number
  readonly protocolType: string | null
  readonly protocol: string | null
  /** The member that is to send the assignment with its sync. */
  readonly leader: string
  /** With `MEMBER_ID_REQUIRED` the id to join with; '' if the member has to start anew. */
  readonly memberId: string
  /** For the leader: all members. */
  readonly members: readonly JoinedMember[]
  /** The member leads, but the group stays as it is: sync without an assignment. */
  readonly skipAssignment: boolean
}

export interface MemberIdentity {
  readonly memberId: string
  readonly generation: number
  readonly instanceId: string | null
}

export interface SyncRequest extends MemberIdentity {
  readonly group: string
  /** Checked if given (SyncGroup 5 and later). */
  readonly protocolType?: string | null
  readonly protocol?: string | null
  /** From the leader; others send none. A member left out gets an empty assignment. */
  readonly assignments: readonly MemberAssignment[]
}

export interface MemberAssignment {
  readonly memberId: string
  readonly assignment: Uint8Array
}

export interface SyncResult {
  readonly error: ErrorCode | null
  readonly protocolType: string | null
  readonly protocol: string | null
  readonly assignment: Uint8Array
}

export interface HeartbeatRequest extends MemberIdentity {
  readonly group: string
}

/** Who leaves. A static member can be sent away by its instance id alone (`memberId` ''). */
export interface LeavingMember {
  readonly memberId: string
  readonly instanceId: string | null
  readonly reason?: string
}

export interface LeaveResult {
  readonly memberId: string
  readonly instanceId: string | null
  readonly error: ErrorCode | null
}

export interface DescribedMember {
  readonly memberId: string
  readonly instanceId: string | null
  readonly clientId: string
  readonly clientHost: string
  /** Empty unless the group is stable, as is `assignment`. */
  readonly metadata: Uint8Array
  readonly assignment: Uint8Array
}

/** A group of either protocol. */
export interface DescribedGroup {
  readonly group: string
  readonly type: GroupType
  readonly state: AnyGroupState
  /** Of a consumer group: the group epoch. */
  readonly generation: number
  /** '' as long as nobody has joined. */
  readonly protocolType: string
  /** The chosen assignor; '' unless the group is stable. */
  readonly protocol: string
  readonly leader: string
  readonly members: readonly DescribedMember[]
}

export type JoinReply = (result: JoinResult) => void
export type SyncReply = (result: SyncResult) => void

/** What a group needs of its owner. */
export interface GroupHost {
  readonly initialRebalanceDelayMs: number
  readonly groupSizeMax: number
  newId(): string
  /** Calls `run` when the state machine is at rest; in the order of the calls. */
  emit(run: () => void): void
  /** A rebalance begins. */
  rebalancing(group: string, reason: string): void
  /** A member was dropped because nothing was heard of it. */
  expired(group: string, memberId: string): void
  /** Neither members nor pending ones are left. */
  vacated(group: string): void
}

/** How long a join of a new member may wait for its answer: a client that went away meanwhile cannot tell us. */
const NEW_MEMBER_JOIN_TIMEOUT_MS = 5 * 60_000

/** A rebalance with nobody there is looked at again after the rebalance time-out, but not in a busy loop if that is 0. */
const ABSENT_RETRY_MS_MIN = 100

const NO_BYTES = new Uint8Array(0)

interface Member {
  memberId: string
  readonly instanceId: string | null
  clientId: string
  clientHost: string
  sessionTimeoutMs: number
  rebalanceTimeoutMs: number
  protocols: readonly GroupProtocol[]
  assignment: Uint8Array
  /** Has not yet got an answer to its first join. */
  isNew: boolean
  /** When its session is over, unless it waits for an answer then. */
  deadline: number
  joinReply: JoinReply | null
  syncReply: SyncReply | null
}

export class Group {
  readonly id: string
  readonly #host: GroupHost
  #state: GroupState = 'empty'
  #generation = 0
  #protocolType: string | null = null
  #protocol: string | null = null
  #leader: string | null = null
  /** By member id, oldest first. */
  readonly #members = new Map<string, Member>()
  /** Instance id → member id. */
  readonly #static = new Map<string, string>()
  /** Ids that were given out but not yet joined with → when they lapse. */
  readonly #pending = new Map<string, number>()
  /** Members that have not asked for their assignment in this generation. */
  readonly #unsynced = new Set<string>()
  /** When preparing ends at the latest. */
  #joinDeadline = Number.POSITIVE_INFINITY
  /** When members that have not synced are dropped. */
  #syncDeadline = Number.POSITIVE_INFINITY
  /** Not -1: preparing is a wait for first members, until `#joinDeadline` and, as long as new ones come, up to here. */
  #initialUntil = -1
  #joinedMeanwhile = false
  /** No deadline is earlier than this; a later one may have taken its place. */
  #wakeAt = Number.POSITIVE_INFINITY

  constructor(id: string, host: GroupHost) {
    this.id = id
    this.#host = host
  }

  get state(): GroupState {
    return this.#state
  }

  get protocolType(): string {
    return this.#protocolType ?? ''
  }

  /** When `expire` has to be called next; it may find nothing to do then. Infinity: not at all. */
  get wakeAt(): number {
    return this.#wakeAt
  }

  /** Nobody is in it, and nobody is on the way in. */
  get isVacant(): boolean {
    return this.#state === 'empty' && this.#pending.size === 0
  }

  // ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

  join(request: JoinRequest, now: number, reply: JoinReply): void {
    assert(this.#state !== 'dead')
    if (!this.#hasRoomFor(request.memberId)) {
      // this may be a member: the last to join again after the limit was lowered is the one to go
      this.#refuse(reply, 'GROUP_FULL', '')
      this.#remove(request.memberId, 'GROUP_FULL')
    } else if (!this.#supports(request.protocolType, request.protocols)) {
      this.#refuse(reply, 'INCONSISTENT_GROUP_PROTOCOL', request.memberId)
    } else if (request.memberId === '') {
      this.#joinNew(request, now, reply)
    } else {
      this.#joinKnown(request, now, reply)
    }
    this.#tryCompleteJoin(now)
  }

  sync(request: SyncRequest, now: number, reply: SyncReply): void {
    const error = this.#checkMember(request) ?? this.#checkSync(request)
    if (error !== null) {
      this.#host.emit(() => reply(syncError(error)))
      return
    }
    const member = this.#members.get(request.memberId)!
    switch (this.#state) {
      case 'preparing-rebalance':
        this.#host.emit(() => reply(syncError('REBALANCE_IN_PROGRESS')))
        break
      case 'completing-rebalance':
        this.#answerSync(member, 'REBALANCE_IN_PROGRESS')
        member.syncReply = reply
        this.#markSynced(member)
        if (member.memberId === this.#leader) this.#spreadAssignment(request.assignments, now)
        break
      default:
        assert(this.#state === 'stable')
        this.#markSynced(member)
        member.syncReply = reply
        this.#answerSync(member, null)
        this.#touch(member, now)
    }
  }

  heartbeat(identity: MemberIdentity, now: number): ErrorCode | null {
    const error = this.#checkMember(identity) ?? this.#checkGeneration(identity)
    if (error !== null) return error
    this.#touch(this.#members.get(identity.memberId)!, now)
    return this.#state === 'preparing-rebalance' ? 'REBALANCE_IN_PROGRESS' : null
  }

  leave(leaving: LeavingMember, now: number): ErrorCode | null {
    const reason = `a member left: ${leaving.reason ?? 'no reason given'}`
    if (leaving.memberId === '') {
      const memberId = leaving.instanceId === null ? undefined : this.#static.get(leaving.instanceId)
      if (memberId === undefined) return 'UNKNOWN_MEMBER'
      this.#drop(this.#members.get(memberId)!, now, reason)
      return null
    }
    if (this.#pending.has(leaving.memberId)) {
      this.#dropPending(leaving.memberId, now)
      return null
    }
    const error = this.#checkMember(leaving)
    if (error === null) this.#drop(this.#members.get(leaving.memberId)!, now, reason)
    return error
  }

  /**
   * Whether offsets may be committed by this member (null: by a tool, or a consumer that assigns itself its partitions).
   * While members are still to join again, commits of the running generation are taken: that is how they finish
   * what they hold. Once the next generation is made they are not, until its assignment is out.
   */
  checkCommit(identity: MemberIdentity | null, now: number): ErrorCode | null {
    const { memberId, generation, instanceId } = identity ?? {
      memberId: '',
      generation: -1,
      instanceId: null,
    }
    if (generation < 0 && this.#state === 'empty') return null
    if (generation < 0 && memberId === '' && instanceId === null) return 'UNKNOWN_MEMBER'
    const member = { memberId, generation, instanceId }
    const error = this.#checkMember(member) ?? this.#checkGeneration(member)
    if (error !== null) return error
    if (this.#state === 'completing-rebalance') return 'REBALANCE_IN_PROGRESS'
    this.#touch(this.#members.get(memberId)!, now)
    return null
  }

  describe(): DescribedGroup {
    const isStable = this.#state === 'stable'
    return {
      group: this.id,
      type: 'classic',
      state: this.#state,
      generation: this.#generation,
      protocolType: this.protocolType,
      protocol: isStable ? this.#protocol! : '',
      leader: this.#leader ?? '',
      members: [...this.#members.values()].map(member => ({
        memberId: member.memberId,
        instanceId: member.instanceId,
        clientId: member.clientId,
        clientHost: member.clientHost,
        metadata: isStable ? this.#metadataOf(member) : NO_BYTES,
        assignment: isStable ? member.assignment : NO_BYTES,
      })),
    }
  }

  /**
   * Whether members read the topic, as far as they say. Members whose subscription cannot be read, or are no
   * consumers, may read any.
   */
  isSubscribed(topic: string): boolean {
    if (this.#members.size === 0) return false
    if (this.#protocolType !== CONSUMER_PROTOCOL_TYPE) return true
    for (const { protocols } of this.#members.values()) {
      try {
        if (decodeSubscription(protocols[0].metadata).topics.includes(topic)) return true
      } catch (error) {
        if (!isSluiceError(error)) throw error
        return true
      }
    }
    return false
  }

  /** The end of this group: whoever still waits is answered with `error`. */
  end(error: ErrorCode): void {
    for (const memberId of [...this.#members.keys()]) this.#remove(memberId, error)
    this.#pending.clear()
    this.#state = 'dead'
    this.#wakeAt = Number.POSITIVE_INFINITY
  }

  // ── joining ───────────────────────────────────────────────────────────────────────────────────────────────────

  #hasRoomFor(memberId: string): boolean {
    const member = this.#members.get(memberId)
    switch (this.#state) {
      case 'empty':
        return true
      case 'preparing-rebalance': {
        // those that wait already count, not those that may not come again
        if (member !== undefined && member.joinReply !== null) return true
        let waiting = 0
        for (const { joinReply } of this.#members.values()) if (joinReply !== null) waiting++
        return waiting < this.#host.groupSizeMax
      }
      default:
        return member !== undefined || this.#members.size < this.#host.groupSizeMax
    }
  }

  #supports(protocolType: string, protocols: readonly GroupProtocol[]): boolean {
    if (this.#state === 'empty') return protocolType !== '' && protocols.length > 0
    return protocolType === this.#protocolType && protocols.some(({ name }) => this.#allSupport(name))
  }

  #allSupport(protocol: string): boolean {
    for (const { protocols } of this.#members.values()) {
      if (!protocols.some(({ name }) => name === protocol)) return false
    }
    return true
  }

  #joinNew(request: JoinRequest, now: number, reply: JoinReply): void {
    const { instanceId } = request
    const memberId = `${instanceId ?? request.clientId}-${this.#host.newId()}`
    if (instanceId !== null) {
      const former = this.#static.get(instanceId)
      if (former === undefined) this.#add(request, memberId, now, reply)
      else this.#takeOver(this.#members.get(former)!, request, memberId, now, reply)
    } else if (!request.requireKnownMemberId) {
      this.#add(request, memberId, now, reply)
    } else if (this.#pending.size >= this.#host.groupSizeMax) {
      this.#refuse(reply, 'GROUP_FULL', '')
    } else {
      this.#pending.set(memberId, now + request.sessionTimeoutMs)
      this.#wake(now + request.sessionTimeoutMs)
      this.#refuse(reply, 'MEMBER_ID_REQUIRED', memberId)
    }
  }

  #joinKnown(request: JoinRequest, now: number, reply: JoinReply): void {
    const { memberId } = request
    if (this.#pending.has(memberId) && request.instanceId === null) {
      this.#add(request, memberId, now, reply)
      return
    }
    const error = this.#checkMember(request)
    if (error !== null) {
      this.#refuse(reply, error, memberId)
      return
    }
    const member = this.#members.get(memberId)!
    // Members that come with what they came with before, because they lost the answer, get it again. But a leader that
    // comes to a stable group wants it to rebalance: it has seen a change that its metadata does not show.
    const repeats = sameProtocols(member.protocols, request.protocols)
    const knowsBetter = this.#state === 'stable' && memberId === this.#leader
    if (this.#state !== 'preparing-rebalance' && repeats && !knowsBetter) {
      const result = this.#joined(member)
      this.#host.emit(() => reply(result))
      return
    }
    this.#update(member, request, reply)
    this.#rebalance(now, `${memberId} joined again: ${request.reason ?? 'no reason given'}`)
  }

  #add(request: JoinRequest, memberId: string, now: number, reply: JoinReply): void {
    if (this.#members.size === 0) this.#protocolType = request.protocolType
    this.#leader ??= memberId
    if (this.#state === 'preparing-rebalance' && this.#generation === 0) this.#joinedMeanwhile = true
    this.#pending.delete(memberId)
    if (request.instanceId !== null) this.#static.set(request.instanceId, memberId)
    this.#members.set(memberId, {
      memberId,
      instanceId: request.instanceId,
      clientId: request.clientId,
      clientHost: request.clientHost,
      sessionTimeoutMs: request.sessionTimeoutMs,
      rebalanceTimeoutMs: request.rebalanceTimeoutMs,
      protocols: request.protocols,
      assignment: NO_BYTES,
      isNew: true,
      deadline: now + NEW_MEMBER_JOIN_TIMEOUT_MS,
      joinReply: reply,
      syncReply: null,
    })
    this.#wake(now + NEW_MEMBER_JOIN_TIMEOUT_MS)
    this.#rebalance(now, `${memberId} joined: ${request.reason ?? 'no reason given'}`)
  }

  #update(member: Member, request: JoinRequest, reply: JoinReply): void {
    this.#answerJoin(member, joinError('REBALANCE_IN_PROGRESS', member.memberId))
    member.protocols = request.protocols
    member.sessionTimeoutMs = request.sessionTimeoutMs
    member.rebalanceTimeoutMs = request.rebalanceTimeoutMs
    member.joinReply = reply
  }

  /** A static member starts again, or is started twice: the newcomer takes the place, the former member is fenced off. */
  #takeOver(member: Member, request: JoinRequest, memberId: string, now: number, reply: JoinReply): void {
    const former = member.memberId
    const formerLeader = this.#leader!
    const wasHandingOver = this.#state === 'stable' && this.#isHandingOver()
    this.#answerJoin(member, joinError('FENCED_MEMBER', former))
    this.#answerSync(member, 'FENCED_MEMBER')
    this.#members.delete(former)
    member.memberId = memberId
    this.#members.set(memberId, member)
    this.#static.set(member.instanceId!, memberId)
    if (this.#unsynced.delete(former)) this.#unsynced.add(memberId)
    if (this.#leader === former) this.#leader = memberId
    this.#update(member, request, reply)
    member.clientId = request.clientId
    member.clientHost = request.clientHost
    member.isNew = false
    this.#touch(member, now)

    const who = `static member ${request.instanceId}`
    if (this.#state === 'completing-rebalance') {
      // the leader may be assigning to the id that is gone
      this.#rebalance(now, `${who} started again while partitions were being assigned`)
    } else if (this.#state === 'stable' && this.#vote() !== this.#protocol) {
      this.#rebalance(now, `${who} came back with other protocols`)
    } else if (wasHandingOver) {
      // The former member may have been about to join again so that what it gave up can be handed out. The newcomer
      // does not know of that, and nobody else would ask. (Kafka does not look at this.)
      this.#rebalance(now, `${who} started again in the middle of a handover`)
    } else if (this.#state === 'stable') {
      this.#resume(member, formerLeader, request.supportsSkipAssignment === true)
    }
  }

  /**
   * The group stays as it is. A leader must not assign now, as its sync would only be answered with what is: it is
   * told so, or, if it would not understand, that someone else leads: its former self.
   */
  #resume(member: Member, formerLeader: string, canSkip: boolean): void {
    const result = this.#joined(member)
    this.#answerJoin(
      member,
      canSkip
        ? { ...result, skipAssignment: result.leader === member.memberId }
        : { ...result, leader: formerLeader, members: [] },
    )
  }

  // ── a rebalance ───────────────────────────────────────────────────────────────────────────────────────────────

  /** Has everyone join again, if that is not under way already. */
  #rebalance(now: number, reason: string): void {
    if (this.#state === 'preparing-rebalance') return
    if (this.#state === 'completing-rebalance') {
      for (const member of this.#members.values()) {
        member.assignment = NO_BYTES
        if (this.#answerSync(member, 'REBALANCE_IN_PROGRESS')) this.#touch(member, now)
      }
    }
    this.#unsynced.clear()
    this.#syncDeadline = Number.POSITIVE_INFINITY
    const isFirst = this.#state === 'empty'
    this.#state = 'preparing-rebalance'
    this.#host.rebalancing(this.id, reason)
    const timeoutMs = this.#rebalanceTimeoutMs()
    if (!isFirst) {
      this.#joinDeadline = now + timeoutMs
      this.#wake(this.#joinDeadline)
      this.#tryCompleteJoin(now)
    } else if (this.#host.initialRebalanceDelayMs > 0) {
      this.#initialUntil = now + timeoutMs
      this.#joinDeadline = now + this.#host.initialRebalanceDelayMs
      this.#wake(this.#joinDeadline)
    } else {
      // no wait for others, not even for those that have been given an id
      this.#completeJoin(now)
    }
  }

  #rebalanceTimeoutMs(): number {
    let longest = 0
    for (const { rebalanceTimeoutMs } of this.#members.values())
      longest = Math.max(longest, rebalanceTimeoutMs)
    return longest
  }

  #tryCompleteJoin(now: number): void {
    if (this.#state !== 'preparing-rebalance' || this.#initialUntil >= 0 || this.#pending.size > 0) return
    for (const { joinReply } of this.#members.values()) if (joinReply === null) return
    this.#completeJoin(now)
  }

  /** Makes the next generation of those who have joined. Static members that have not keep their place. */
  #completeJoin(now: number): void {
    this.#initialUntil = -1
    for (const member of [...this.#members.values()]) {
      if (member.joinReply === null && member.instanceId === null) {
        this.#host.expired(this.id, member.memberId)
        this.#remove(member.memberId, 'UNKNOWN_MEMBER')
      }
    }
    if (this.#members.size > 0 && !this.#electLeader()) {
      // only absent static members: nobody is there to assign; their sessions decide
      this.#joinDeadline = now + Math.max(this.#rebalanceTimeoutMs(), ABSENT_RETRY_MS_MIN)
      this.#wake(this.#joinDeadline)
      return
    }
    this.#joinDeadline = Number.POSITIVE_INFINITY
    this.#generation++
    this.#unsynced.clear()
    if (this.#members.size === 0) {
      this.#protocol = null
      this.#state = 'empty'
      if (this.isVacant) this.#host.vacated(this.id)
      return
    }
    this.#protocol = this.#vote()
    this.#state = 'completing-rebalance'
    for (const member of this.#members.values()) {
      this.#answerJoin(member, this.#joined(member))
      this.#touch(member, now)
      member.isNew = false
      this.#unsynced.add(member.memberId)
    }
    this.#syncDeadline = now + this.#rebalanceTimeoutMs()
    this.#wake(this.#syncDeadline)
  }

  /** Keeps the leader if it has joined, else makes the longest-standing member that has joined the leader. */
  #electLeader(): boolean {
    const leader = this.#members.get(this.#leader!)!
    if (leader.joinReply !== null) return true
    for (const member of this.#members.values()) {
      if (member.joinReply === null) continue
      this.#leader = member.memberId
      return true
    }
    return false
  }

  /** Each member votes for the first of its protocols that all support; a tie goes to what the older members want. */
  #vote(): string {
    const votes = new Map<string, number>()
    const candidates = new Map<string, boolean>()
    for (const { protocols } of this.#members.values()) {
      const choice = protocols.find(({ name }) => {
        let common = candidates.get(name)
        if (common === undefined) candidates.set(name, (common = this.#allSupport(name)))
        return common
      })
      assert(choice !== undefined, 'the members of a group share no protocol')
      votes.set(choice.name, (votes.get(choice.name) ?? 0) + 1)
    }
    let winner = ''
    for (const [name, count] of votes) if (count > (votes.get(winner) ?? 0)) winner = name
    return winner
  }

  #spreadAssignment(assignments: readonly MemberAssignment[], now: number): void {
    const byMember = new Map(assignments.map(({ memberId, assignment }) => [memberId, assignment]))
    const nothing = this.#protocolType === CONSUMER_PROTOCOL_TYPE ? EMPTY_ASSIGNMENT : NO_BYTES
    this.#state = 'stable'
    for (const member of this.#members.values()) {
      const assignment = byMember.get(member.memberId)
      member.assignment = assignment === undefined || assignment.length === 0 ? nothing : assignment
      // sessions of those who wait were not watched meanwhile: they start again here
      if (this.#answerSync(member, null)) this.#touch(member, now)
    }
  }

  #isHandingOver(): boolean {
    if (this.#protocolType !== CONSUMER_PROTOCOL_TYPE) return false
    const members = [...this.#members.values()]
    return hasWithheld(
      members.map(member => ({ metadata: this.#metadataOf(member), assignment: member.assignment })),
    )
  }

  #markSynced(member: Member): void {
    this.#unsynced.delete(member.memberId)
    if (this.#unsynced.size === 0) this.#syncDeadline = Number.POSITIVE_INFINITY
  }

  // ── time, and members that go ─────────────────────────────────────────────────────────────────────────────────

  /** Does what has become due: sessions and pending ids that are over, the end of preparing, members that did not sync. */
  expire(now: number): void {
    for (const member of [...this.#members.values()]) {
      if (member.deadline > now || !this.#members.has(member.memberId)) continue
      const waits = (member.joinReply !== null && !member.isNew) || member.syncReply !== null
      if (waits) {
        member.deadline = Number.POSITIVE_INFINITY
      } else {
        this.#host.expired(this.id, member.memberId)
        this.#drop(member, now, `the session of ${member.memberId} is over`)
      }
    }
    for (const [memberId, deadline] of this.#pending) if (deadline <= now) this.#dropPending(memberId, now)
    if (this.#joinDeadline <= now) this.#endPreparing(now)
    if (this.#syncDeadline <= now) this.#dropUnsynced(now)
    this.#findWakeAt()
  }

  #endPreparing(now: number): void {
    if (this.#joinedMeanwhile && now < this.#initialUntil) {
      // first members are still coming in: wait once more, so that they do not cause a rebalance each
      this.#joinedMeanwhile = false
      this.#joinDeadline = Math.min(now + this.#host.initialRebalanceDelayMs, this.#initialUntil)
      return
    }
    this.#completeJoin(now)
  }

  #dropUnsynced(now: number): void {
    for (const memberId of [...this.#unsynced]) {
      this.#host.expired(this.id, memberId)
      this.#remove(memberId, 'UNKNOWN_MEMBER')
    }
    this.#rebalance(now, 'members did not ask for their assignment in time')
  }

  /** Removes a member and has the others take over. */
  #drop(member: Member, now: number, reason: string): void {
    this.#remove(member.memberId, 'UNKNOWN_MEMBER')
    if (this.#state === 'preparing-rebalance') this.#tryCompleteJoin(now)
    else this.#rebalance(now, reason)
  }

  #dropPending(memberId: string, now: number): void {
    this.#pending.delete(memberId)
    if (this.isVacant) this.#host.vacated(this.id)
    else this.#tryCompleteJoin(now)
  }

  /** Takes an id out, pending or not; no effect if it is unknown. What it waits for is answered with `error`. */
  #remove(memberId: string, error: ErrorCode): void {
    this.#pending.delete(memberId)
    const member = this.#members.get(memberId)
    if (member === undefined) return
    this.#answerJoin(member, joinError(error, ''))
    this.#answerSync(member, error)
    this.#members.delete(memberId)
    this.#unsynced.delete(memberId)
    if (member.instanceId !== null) this.#static.delete(member.instanceId)
    if (this.#leader === memberId) this.#leader = this.#members.keys().next().value ?? null
  }

  #touch(member: Member, now: number): void {
    member.deadline = now + member.sessionTimeoutMs
    this.#wake(member.deadline)
  }

  #wake(at: number): void {
    if (at < this.#wakeAt) this.#wakeAt = at
  }

  #findWakeAt(): void {
    this.#wakeAt = Math.min(this.#joinDeadline, this.#syncDeadline)
    for (const { deadline } of this.#members.values()) this.#wake(deadline)
    for (const deadline of this.#pending.values()) this.#wake(deadline)
  }

  // ── checks and answers ────────────────────────────────────────────────────────────────────────────────────────

  #checkMember({ memberId, instanceId }: { memberId: string; instanceId: string | null }): ErrorCode | null {
    if (instanceId !== null) {
      const current = this.#static.get(instanceId)
      if (current === undefined) return 'UNKNOWN_MEMBER'
      if (current !== memberId) return 'FENCED_MEMBER'
    }
    return this.#members.has(memberId) ? null : 'UNKNOWN_MEMBER'
  }

  #checkGeneration({ generation }: { generation: number }): ErrorCode | null {
    return generation === this.#generation ? null : 'ILLEGAL_GENERATION'
  }

  #checkSync({ generation, protocolType = null, protocol = null }: SyncRequest): ErrorCode | null {
    if (generation !== this.#generation) return 'ILLEGAL_GENERATION'
    const matches =
      (protocolType === null || protocolType === this.#protocolType) &&
      (protocol === null || protocol === this.#protocol)
    return matches ? null : 'INCONSISTENT_GROUP_PROTOCOL'
  }

  #refuse(reply: JoinReply, error: ErrorCode, memberId: string): void {
    this.#host.emit(() => reply(joinError(error, memberId)))
  }

  #answerJoin(member: Member, result: JoinResult): void {
    const reply = member.joinReply
    if (reply === null) return
    member.joinReply = null
    this.#host.emit(() => reply(result))
  }

  /** Whether the member waited for it. */
  #answerSync(member: Member, error: ErrorCode | null): boolean {
    const reply = member.syncReply
    if (reply === null) return false
    member.syncReply = null
    const { assignment } = member
    const result: SyncResult =
      error === null
        ? { error, protocolType: this.#protocolType, protocol: this.#protocol, assignment }
        : syncError(error)
    this.#host.emit(() => reply(result))
    return true
  }

  /** The answer to a join: the generation that runs. */
  #joined(member: Member): JoinResult {
    const { memberId } = member
    return {
      error: null,
      generation: this.#generation,
      protocolType: this.#protocolType,
      protocol: this.#protocol,
      leader: this.#leader!,
      memberId,
      members: memberId === this.#leader ? this.#metadata() : [],
      skipAssignment: false,
    }
  }

  #metadata(): JoinedMember[] {
    return [...this.#members.values()].map(member => ({
      memberId: member.memberId,
      instanceId: member.instanceId,
      metadata: this.#metadataOf(member),
    }))
  }

  #metadataOf(member: Member): Uint8Array {
    return member.protocols.find(({ name }) => name === this.#protocol)!.metadata
  }
}

/** A refused join. */
export function joinError(error: ErrorCode, memberId: string): JoinResult {
  const nothing = { generation: -1, protocolType: null, protocol: null, leader: '', members: [] }
  return { error, ...nothing, memberId, skipAssignment: false }
}

/** A refused sync. */
export function syncError(error: ErrorCode): SyncResult {
  return { error, protocolType: null, protocol: null, assignment: NO_BYTES }
}

function sameProtocols(a: readonly GroupProtocol[], b: readonly GroupProtocol[]): boolean {
  return (
    a.length === b.length &&
    a.every(({ name, metadata }, i) => name === b[i].name && Buffer.compare(metadata, b[i].metadata) === 0)
  )
}
