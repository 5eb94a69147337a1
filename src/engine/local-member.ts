/**
 * A member of a consumer group in this process: plays the client's side of the group protocol against the coordinator
 * in the same process. Joins, computes the assignment if it leads, keeps its session alive, and joins again when the group
 * rebalances.
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
import type { Broker } from '../broker/broker.ts'
import {
  CONSUMER_PROTOCOL_TYPE,
  decodeAssignment,
  decodeMember,
  decodeSubscription,
  encodeAssignment,
  encodeMember,
} from '../broker/consumer-protocol.ts'
import type { JoinResult, MemberAssignment, SyncResult } from '../broker/group.ts'
import { type ErrorCode, errorTable, SluiceError } from '../errors.ts'
import type { Timer } from '../lib/clock.ts'
import type { CommitOffset, CommittedOffset, Member, MemberEvents, MemberOptions } from './engine.ts'

const HEARTBEATS_PER_SESSION = 3
const NOTHING = { partitions: [], generation: -1 }

export class LocalMember implements Member {
  readonly #broker: Broker
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
  #loop: Promise<void> = Promise.resolve()

  constructor(broker: Broker, options: MemberOptions, events: MemberEvents, onEnd: () => void) {
    this.#broker = broker
    this.#options = options
    this.#events = events
    this.#onEnd = onEnd
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
      this.#broker.onRebalance(this.#options.group, () => this.#joinAgain()),
      this.#broker.onTopicsChanged(() => this.#lookAtTopics()),
    )
    this.#loop = this.#run(resolve).catch(error => {
      reject(error)
      this.#end(error)
    })
    this.#loop.then(() => reject(this.#closedWhileJoining()))
    await promise
  }

  async commit(offsets: readonly CommitOffset[]): Promise<void> {
    if (this.#ended !== null) throw this.#ended
    await this.#broker.commit(this.#options.group, this.#identity(), offsets.map(withMetadata))
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
      const generationBefore = this.#generation
      const join = await this.#join()
      if (join === null) break
      // What the group wanted before this answer, it has got; what it wants from here on counts. So with refusals.
      this.#wanted = false
      this.#refusal = null
      if (join.error !== null) {
        await this.#recover(join.error)
        continue
      }
      joined()
      this.#beat()
      // A static member can be passed over for a generation, and others given what it holds.
      if (join.generation > generationBefore + 1) await this.#lose()
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
    this.#finish()
  }

  /** The coordinator's answer, which may take as long as the other members do; null if we leave first. */
  #answer<Result>(ask: (reply: (result: Result) => void) => void): Promise<Result | null> {
    return new Promise(resolve => {
      this.#abandon = () => resolve(null)
      ask(resolve)
      this.#broker.watchGroups()
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
    return this.#answer(reply => {
      this.#broker.groups.join(
        {
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
        },
        this.#broker.clock.monotonic(),
        result => {
          if (result.error === null) {
            this.#memberId = result.memberId
            this.#generation = result.generation
          }
          reply(result)
        },
      )
    })
  }

  #sync(join: JoinResult): Promise<SyncResult | null> {
    const leads = join.leader === join.memberId
    const members = leads ? decodeMembers(join) : []
    if (!leads) this.#partitionCounts = null
    else if (join.skipAssignment) this.#partitionCounts = this.#countAssigned(members)
    else this.#partitionCounts = countTopics(members, topic => this.#partitionsOf(topic))
    const assignments = leads && !join.skipAssignment ? this.#assign(join.protocol as Assignor, members) : []
    return this.#answer(reply => {
      const request = { group: this.#options.group, ...this.#identity(), assignments }
      this.#broker.groups.sync(request, this.#broker.clock.monotonic(), reply)
    })
  }

  /**
   * Members of a cooperative group hold on to what they have when they join. If one that knows only an eager assignor makes the group use
   * that, what they hold and shall not keep is given to nobody yet, as cooperative-sticky does it.
   */
  #assign(assignor: Assignor, members: readonly HoldingMember[]): MemberAssignment[] {
    const shares = [...assign(assignor, members, topic => this.#partitionsOf(topic))]
    return shares.map(([memberId, share]) => {
      const heldByOthers = members.flatMap(member => (member.memberId === memberId ? [] : member.held))
      const partitions = without(share, heldByOthers)
      return { memberId, assignment: encodeAssignment({ partitions, userData: null }) }
    })
  }

  #partitionsOf(topic: string): number {
    return this.#broker.findTopic(topic)?.partitions.length ?? 0
  }

  /** How many partitions of each topic the group as it stands has shared out: partitions may have come while its leader was away. */
  #countAssigned(members: readonly AssignorMember[]): ReadonlyMap<string, number> {
    const described = this.#broker.describeGroup(this.#options.group).members
    const assigned = described.flatMap(({ assignment }) => decodeAssignment(assignment).partitions)
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
    const changed = counts.some(([topic, count]) => this.#partitionsOf(topic) !== count)
    if (changed) this.#joinAgain()
  }

  #beat(): void {
    this.#heartbeat?.cancel()
    const { group, sessionTimeoutMs } = this.#options
    this.#heartbeat = this.#broker.clock.after(sessionTimeoutMs / HEARTBEATS_PER_SESSION, () => {
      const error = this.#broker.groups.heartbeat(
        { group, ...this.#identity() },
        this.#broker.clock.monotonic(),
      )
      this.#broker.watchGroups()
      if (error !== null && error !== 'REBALANCE_IN_PROGRESS') this.#refusal = error
      if (error !== null) this.#joinAgain()
      this.#beat()
    })
  }

  #identity(): { memberId: string; generation: number; instanceId: string | null } {
    return {
      memberId: this.#memberId,
      generation: this.#generation,
      instanceId: this.#options.instanceId ?? null,
    }
  }

  #depart(): void {
    const { group } = this.#options
    const leaving = [{ memberId: this.#memberId, instanceId: this.#options.instanceId ?? null }]
    this.#broker.groups.leave(group, leaving, this.#broker.clock.monotonic())
    this.#broker.watchGroups()
  }

  #finish(): void {
    const { group, instanceId } = this.#options
    // A static member stays in the group until its session is over: its next self takes its place, without a rebalance.
    // Not so in the middle of a rebalance: the others would wait for it.
    const isStable = this.#broker.groups.describe(group)?.state === 'stable'
    if (instanceId === undefined || !isStable) this.#depart()
    this.#stop(new SluiceError('CONSUMER_CLOSED', `the member has left group "${group}"`, { group }))
  }

  #end(error: unknown): void {
    const failure = error instanceof SluiceError ? error : new SluiceError('CLOSED', String(error), {}, error)
    if (this.#options.instanceId === undefined) this.#depart()
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
