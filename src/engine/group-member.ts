/**
 * A member of a consumer group: the client's side of the group protocol, wherever the coordinator is. Joins, computes the
 * assignment if it leads, keeps its session alive, and joins again when the group rebalances. The coordinator is reached
 * through `GroupAccess`: in this process (local-member.ts) or in a cluster (kafka-member.ts).
 *
 *   join ──► sync ──► hold ──(the group rebalances)──► revoke what must go ──► join …
 *
 * With eager assignors everything is revoked before joining again; with cooperative-sticky only what the new assignment
 * takes away, and then the member joins once more so that it can be given to another (KIP-429).
 *
 * All steps run one after the other in one loop; `revoked` and `assigned` are awaited in it, so that nobody is given a partition
 * that its former holder has not let go of.
 */

import { hostname } from 'node:os'
import { type Assignor, type AssignorMember, assign, type TopicPartition } from '../broker/assignor.ts'
import {
  CONSUMER_PROTOCOL_TYPE,
  decodeAssignment,
  decodeMember,
  decodeSubscription,
  encodeAssignment,
  encodeMember,
} from '../broker/consumer-protocol.ts'
import type {
  JoinRequest,
  JoinResult,
  MemberAssignment,
  MemberIdentity,
  SyncRequest,
  SyncResult,
} from '../broker/group.ts'
import { type ErrorCode, errorTable, SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import type { CommitOffset, CommittedOffset, Member, MemberEvents, MemberOptions } from './engine.ts'

/**
 * The coordinator of a group, and what a leading member must know of topics. Answers may take as long as the other
 * members do; a member that leaves does not wait for them. A refusal by the group is a value; what is thrown ends the membership.
 */
export interface GroupAccess {
  readonly clock: Clock
  /** Longest time between heartbeats: where they are how a member hears of a rebalance. */
  readonly heartbeatMsMax: number
  /** Calls `reply` or `fail`, once: a coordinator in this process does so without delay. */
  join(request: JoinRequest, reply: (result: JoinResult) => void, fail: (error: unknown) => void): void
  sync(request: SyncRequest, reply: (result: SyncResult) => void, fail: (error: unknown) => void): void
  /** The refusal, or null. */
  heartbeat(identity: MemberIdentity): Promise<ErrorCode | null>
  commit(identity: MemberIdentity, offsets: readonly CommittedOffset[]): Promise<void>
  /** Never rejects: whoever does not come through is dropped when its session is over. */
  leave(memberId: string, instanceId: string | null): Promise<void>
  isStable(): Promise<boolean>
  /** What the group as it stands has given to its members. */
  assigned(): Promise<readonly TopicPartition[]>
  /** Makes `partitionsOf` right for these topics; null if it is always. */
  learn(topics: readonly string[]): Promise<void> | null
  /** The number of partitions as far as it is known, 0 if there is no such topic. */
  partitionsOf(topic: string): number
  /** The group wants its members to join again, if that is told other than by a heartbeat. */
  onRebalance(listener: () => void): () => void
  onTopicsChanged(listener: () => void): () => void
  /** Gives back what it took for this member. Answers still awaited may reject. */
  close(): void
}

const HEARTBEATS_PER_SESSION = 3
/** Refusals of a commit by which the membership is over. */
const membershipRefusals: ReadonlySet<ErrorCode> = new Set([
  'UNKNOWN_MEMBER',
  'ILLEGAL_GENERATION',
  'FENCED_MEMBER',
])
const NOTHING = { partitions: [], generation: -1 }

export class GroupMember implements Member {
  readonly #access: GroupAccess
  readonly #options: MemberOptions
  readonly #events: MemberEvents
  readonly #onEnd: () => void
  readonly #forget: (() => void)[] = []
  #memberId = ''
  #generation = -1
  #owned: readonly TopicPartition[] = []
  /** What it was assigned last, and in which generation: claims are made with these, also after giving everything up. */
  #last: { readonly partitions: readonly TopicPartition[]; readonly generation: number } = NOTHING
  #cooperative = false
  /** As leader: how many partitions each topic had when it was shared out. */
  #partitionCounts: ReadonlyMap<string, number> | null = null
  #leaving = false
  #ended: SluiceError | null = null
  #heartbeat: Timer | null = null
  /** Set when the group wants us to join again, or we leave. */
  #wanted = false
  #wake: (() => void) | null = null
  /** What the coordinator last answered to a heartbeat, if it was a refusal. */
  #refusal: ErrorCode | null = null
  /** Set while an answer of the coordinator is awaited: gives the wait up. */
  #abandon: (() => void) | null = null
  /** What was lost with the last answer to a join is being told. */
  #losing: Promise<void> = Promise.resolve()
  #loop: Promise<void> = Promise.resolve()

  constructor(access: GroupAccess, options: MemberOptions, events: MemberEvents, onEnd: () => void) {
    this.#access = access
    this.#options = options
    this.#events = events
    this.#onEnd = onEnd
  }

  get instanceId(): string | null {
    return this.#options.instanceId ?? null
  }

  get memberId(): string {
    return this.#memberId
  }

  get generation(): number {
    return this.#generation
  }

  /** Resolves when the group has taken the member in. */
  async start(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#forget.push(
      this.#access.onRebalance(() => this.#joinAgain()),
      this.#access.onTopicsChanged(() => this.#lookAtTopics()),
    )
    this.#loop = this.#run(resolve).catch(error => {
      reject(error)
      return this.#end(error)
    })
    this.#loop.then(() => reject(this.#closedWhileJoining()))
    await promise
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    if (this.#ended !== null) throw this.#ended
    const sent = this.#identity()
    try {
      await this.#access.commit(sent, offsets.map(withMetadata))
    } catch (error) {
      // Told by a commit, before the next heartbeat is: what is handled from here on would be handled again.
      if (error instanceof SluiceError && membershipRefusals.has(error.code)) this.#refused(sent, error.code)
      throw error
    }
  }

  async leave(): Promise<void> {
    this.#leaving = true
    // A join waits for the slowest member of the group; whoever leaves does not.
    this.#abandon?.()
    this.#joinAgain()
    await this.#loop
  }

  async #run(joined: () => void): Promise<void> {
    while (!this.#leaving) {
      const join = await this.#join()
      if (join === null) break
      // What the group wanted before this answer, it has got; what it wants from here on counts. So with refusals.
      this.#wanted = false
      this.#refusal = null
      if (join.error === 'MEMBER_ID_REQUIRED') {
        this.#memberId = join.memberId
        continue
      }
      if (join.error !== null) {
        await this.#recover(join.error)
        continue
      }
      joined()
      this.#beat()
      await this.#losing
      const claimed = this.#owned
      const sync = await this.#sync(join)
      if (sync === null) break
      if (sync.error !== null) {
        await this.#recover(sync.error)
        continue
      }
      this.#cooperative = join.protocol === 'cooperative-sticky'
      await this.#take(decodeAssignment(sync.assignment).partitions, claimed)
      this.#lookAtTopics()
      if (!this.#wanted && !this.#leaving) await this.#idle()
      const refusal = this.#refusal
      this.#refusal = null
      if (refusal !== null) await this.#recover(refusal)
      else if (!this.#cooperative) await this.#giveUp(this.#owned)
    }
    await this.#giveUp(this.#owned)
    await this.#finish()
  }

  /** The coordinator's answer, which may take as long as the other members do; null if we leave first. */
  #answer<Result>(
    ask: (reply: (result: Result) => void, fail: (error: unknown) => void) => void,
  ): Promise<Result | null> {
    return new Promise((resolve, reject) => {
      this.#abandon = () => resolve(null)
      ask(resolve, reject)
    })
  }

  #join(): Promise<JoinResult | null> {
    const { group, topics, instanceId, clientId, sessionTimeoutMs, rebalanceTimeoutMs, assignors } =
      this.#options
    const { partitions, generation } = this.#last
    // By then an eager member holds nothing; what sticky asks for is what it had.
    const held = this.#owned
    const metadata = (name: Assignor): Uint8Array =>
      encodeMember(name, { topics, held, owned: name === 'sticky' ? partitions : held, generation })
    const request = {
      group,
      memberId: this.#memberId,
      instanceId: instanceId ?? null,
      clientId,
      clientHost: hostname(),
      sessionTimeoutMs,
      rebalanceTimeoutMs,
      protocolType: CONSUMER_PROTOCOL_TYPE,
      protocols: assignors.map(name => ({ name, metadata: metadata(name) })),
      requireKnownMemberId: false,
      supportsSkipAssignment: true,
    }
    return this.#answer((reply, fail) => {
      const enter = (result: JoinResult): void => {
        if (result.error === null) {
          // A static member can be passed over for a generation, and others given what it holds: nothing of that may be committed
          // with the new one.
          if (result.generation > this.#generation + 1) this.#losing = this.#lose()
          this.#memberId = result.memberId
          this.#generation = result.generation
        }
        reply(result)
      }
      this.#access.join(request, enter, fail)
    })
  }

  async #sync(join: JoinResult): Promise<SyncResult | null> {
    const leads = join.leader === join.memberId
    const members = leads ? decodeMembers(join) : []
    const learning = leads ? this.#access.learn([...new Set(members.flatMap(({ topics }) => topics))]) : null
    if (learning !== null) await learning
    if (!leads) this.#partitionCounts = null
    else if (join.skipAssignment) this.#partitionCounts = await this.#countAssigned(members)
    else this.#partitionCounts = countTopics(members, topic => this.#access.partitionsOf(topic))
    const assignments = leads && !join.skipAssignment ? this.#assign(join.protocol as Assignor, members) : []
    const { group } = this.#options
    const { protocolType, protocol } = join
    const request = { group, ...this.#identity(), protocolType, protocol, assignments }
    return await this.#answer((reply, fail) => this.#access.sync(request, reply, fail))
  }

  /**
   * Members of a cooperative group hold on to what they have when they join. If one that knows only an eager assignor makes the group use
   * that, what they hold and shall not keep is given to nobody yet, as cooperative-sticky does it.
   */
  #assign(assignor: Assignor, members: readonly HoldingMember[]): MemberAssignment[] {
    const shares = [...assign(assignor, members, topic => this.#access.partitionsOf(topic))]
    return shares.map(([memberId, share]) => {
      const heldByOthers = members.flatMap(member => (member.memberId === memberId ? [] : member.held))
      const partitions = without(share, heldByOthers)
      return { memberId, assignment: encodeAssignment({ partitions, userData: null }) }
    })
  }

  /** How many partitions of each topic the group as it stands has shared out: partitions may have come while its leader was away. */
  async #countAssigned(members: readonly AssignorMember[]): Promise<ReadonlyMap<string, number>> {
    const assigned = await this.#access.assigned()
    return countTopics(members, topic => assigned.filter(one => one.topic === topic).length)
  }

  /** Moves from what is held to what is assigned. `claimed`: what the member said it held when it joined. */
  async #take(assigned: readonly TopicPartition[], claimed: readonly TopicPartition[]): Promise<void> {
    const lost = without(this.#owned, assigned)
    const gained = without(assigned, this.#owned)
    if (lost.length > 0) await this.#giveUp(lost)
    this.#owned = assigned
    this.#last = { partitions: assigned, generation: this.#generation }
    await this.#events.assigned(gained)
    // What the others were told that this member holds, and does no more, can now be assigned to one of them.
    if (without(claimed, assigned).length > 0) this.#joinAgain()
  }

  async #giveUp(partitions: readonly TopicPartition[]): Promise<void> {
    if (partitions.length === 0) return
    await this.#events.revoked(partitions)
    this.#owned = without(this.#owned, partitions)
  }

  /** After a refusal: joins again, as a new member if the old membership is gone. Throws if there is no point in it. */
  async #recover(error: ErrorCode): Promise<void> {
    if (error === 'REBALANCE_IN_PROGRESS') return
    if (error !== 'UNKNOWN_MEMBER' && error !== 'ILLEGAL_GENERATION') {
      const { group } = this.#options
      const message = `group ${JSON.stringify(group)} does not take the member: ${errorTable[error].meaning}`
      throw new SluiceError(error, message, { group, memberId: this.#memberId })
    }
    this.#memberId = ''
    this.#generation = -1
    await this.#lose()
    this.#last = NOTHING
  }

  async #lose(): Promise<void> {
    const lost = this.#owned
    this.#owned = []
    if (lost.length > 0) await this.#events.lost(lost)
  }

  /** Waits until the group wants something. */
  async #idle(): Promise<void> {
    await new Promise<void>(resolve => {
      this.#wake = resolve
    })
    this.#wake = null
  }

  #joinAgain(): void {
    this.#wanted = true
    this.#wake?.()
  }

  /** Only the leader looks after topics: when their partitions change it joins again, which makes all others do so. */
  #lookAtTopics(): void {
    const counts = [...(this.#partitionCounts ?? [])]
    const changed = counts.some(([topic, count]) => this.#access.partitionsOf(topic) !== count)
    if (changed) this.#joinAgain()
  }

  #beat(): void {
    this.#heartbeat?.cancel()
    const { heartbeatMsMax } = this.#access
    const delayMs = Math.min(heartbeatMsMax, this.#options.sessionTimeoutMs / HEARTBEATS_PER_SESSION)
    this.#heartbeat = this.#access.clock.after(delayMs, () => {
      void this.#sendHeartbeat()
    })
  }

  async #sendHeartbeat(): Promise<void> {
    const sent = this.#identity()
    const error = await this.#access.heartbeat(sent)
    if (this.#ended !== null) return
    if (error !== null) this.#refused(sent, error)
    this.#beat()
  }

  /** The coordinator does not take the member for what it says it is. */
  #refused(sent: MemberIdentity, error: ErrorCode): void {
    // What was said of an earlier generation is settled.
    if (sent.memberId !== this.#memberId || sent.generation !== this.#generation) return
    if (error !== 'REBALANCE_IN_PROGRESS') this.#refusal = error
    this.#joinAgain()
  }

  #identity(): { memberId: string; generation: number; instanceId: string | null } {
    return {
      memberId: this.#memberId,
      generation: this.#generation,
      instanceId: this.#options.instanceId ?? null,
    }
  }

  async #depart(): Promise<void> {
    await this.#access.leave(this.#memberId, this.#options.instanceId ?? null)
  }

  async #finish(): Promise<void> {
    const { group, instanceId } = this.#options
    // A static member stays in the group until its session is over: its next self takes its place, without a rebalance.
    // Not so in the middle of a rebalance: the others would wait for it.
    if (instanceId === undefined || !(await this.#access.isStable())) await this.#depart()
    this.#stop(new SluiceError('CONSUMER_CLOSED', `the member has left group "${group}"`, { group }))
  }

  async #end(error: unknown): Promise<void> {
    const failure = error instanceof SluiceError ? error : new SluiceError('CLOSED', String(error), {}, error)
    if (this.#options.instanceId === undefined) await this.#depart()
    this.#stop(failure)
    if (!this.#leaving) this.#events.failed(failure)
  }

  #closedWhileJoining(): SluiceError {
    const { group } = this.#options
    return new SluiceError('CLOSED', `closed while joining group ${JSON.stringify(group)}`, { group })
  }

  #stop(reason: SluiceError): void {
    this.#heartbeat?.cancel()
    for (const forget of this.#forget) forget()
    this.#ended = reason
    this.#access.close()
    this.#onEnd()
  }
}

const without = (from: readonly TopicPartition[], taken: readonly TopicPartition[]): TopicPartition[] => {
  const keys = new Set(taken.map(({ topic, partition }) => `${topic}-${partition}`))
  return from.filter(({ topic, partition }) => !keys.has(`${topic}-${partition}`))
}

export const withMetadata = (commit: CommitOffset): CommittedOffset => ({
  topic: commit.topic,
  partition: commit.partition,
  offset: commit.offset,
  metadata: commit.metadata ?? '',
})

/** A member that told what it holds as it joined. */
type HoldingMember = AssignorMember & { readonly held: readonly TopicPartition[] }

const decodeMembers = (join: JoinResult): HoldingMember[] =>
  join.members.map(({ memberId, instanceId, metadata }) => ({
    ...decodeMember(join.protocol as Assignor, memberId, instanceId, metadata),
    held: decodeSubscription(metadata).owned,
  }))

const countTopics = (
  members: readonly AssignorMember[],
  countOf: (topic: string) => number,
): ReadonlyMap<string, number> =>
  new Map(members.flatMap(({ topics }) => topics.map(topic => [topic, countOf(topic)] as const)))
