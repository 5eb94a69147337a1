/**
 * A group member whose coordinator is a broker of a cluster: `GroupAccess` (group-member.ts) over the classic group protocol.
 *
 * Joining and syncing have a link of their own, as their answers take as long as the slowest member does; heartbeats,
 * commits and leaving go over the link that everybody shares. What breaks or moves is tried again for as long as the
 * session may last; after that the membership counts as gone (`UNKNOWN_MEMBER`), as it does for the coordinator.
 */

import type { TopicPartition } from '../broker/assignor.ts'
import type { JoinRequest, JoinResult, MemberIdentity, SyncRequest, SyncResult } from '../broker/group.ts'
import { codeOfKafka, type ErrorCode, SluiceError } from '../errors.ts'
import { type Clock, systemClock, type Timer } from '../lib/clock.ts'
import { heartbeatApi } from '../wire/kafka/heartbeat.ts'
import { joinGroupApi } from '../wire/kafka/join-group.ts'
import { leaveGroupApi } from '../wire/kafka/leave-group.ts'
import { syncGroupApi } from '../wire/kafka/sync-group.ts'
import type { CommittedOffset, MemberEvents, MemberOptions } from './engine.ts'
import { type GroupAccess, GroupMember } from './group-member.ts'
import { check, isPassing, type KafkaCluster } from './kafka-cluster.ts'
import type { KafkaGroups } from './kafka-groups.ts'
import { addressText, type KafkaLink } from './kafka-link.ts'

const RETRY_DELAY_MS = 200
/** How long a first join is tried. */
const JOIN_MS_MAX = 15_000
/** Beyond the rebalance time-out, how long the coordinator may take to answer a join. */
const ANSWER_MS_MAX = 30_000
/** Whoever leaves does not wait longer for the coordinator to hear of it. */
const LEAVE_MS_MAX = 5_000
/** How often the leader looks whether its topics have got more partitions. */
const TOPICS_MS = 30_000

export class KafkaMember extends GroupMember {
  constructor(
    cluster: KafkaCluster,
    groups: KafkaGroups,
    heartbeatMsMax: number,
    options: MemberOptions,
    events: MemberEvents,
    onEnd: () => void,
  ) {
    super(new KafkaAccess(cluster, groups, heartbeatMsMax, options), options, events, onEnd)
  }
}

class KafkaAccess implements GroupAccess {
  readonly clock: Clock = systemClock
  readonly heartbeatMsMax: number
  readonly #cluster: KafkaCluster
  readonly #groups: KafkaGroups
  readonly #options: MemberOptions
  /** Of this member alone. */
  #link: KafkaLink | null = null
  /** When the coordinator last knew the member, on the monotonic clock; null before it did. */
  #seenAt: number | null = null
  #isClosed = false
  #topicsTimer: Timer | null = null

  constructor(cluster: KafkaCluster, groups: KafkaGroups, heartbeatMsMax: number, options: MemberOptions) {
    this.heartbeatMsMax = heartbeatMsMax
    this.#cluster = cluster
    this.#groups = groups
    this.#options = options
  }

  join(request: JoinRequest, reply: (result: JoinResult) => void, fail: (error: unknown) => void): void {
    this.#join(request).then(reply, fail)
  }

  sync(request: SyncRequest, reply: (result: SyncResult) => void, fail: (error: unknown) => void): void {
    this.#sync(request).then(reply, fail)
  }

  async heartbeat({ memberId, generation, instanceId }: MemberIdentity): Promise<ErrorCode | null> {
    const { group } = this.#options
    try {
      const address = await this.#cluster.coordinatorOf(group)
      const link = await this.#cluster.link(address)
      const { errorCode } = await link.call(heartbeatApi, {
        groupId: group,
        generationId: generation,
        memberId,
        groupInstanceId: instanceId,
      })
      check(errorCode, null, 'heartbeat', { group })
      this.#seenAt = this.clock.monotonic()
      return null
    } catch (error) {
      if (!(error instanceof SluiceError)) throw error
      const { code } = error
      if (!isPassing(error) && code !== 'TIMED_OUT') return this.#isClosed ? null : code
      this.#cluster.forgetCoordinator(group)
      return this.#isSessionOver() ? 'UNKNOWN_MEMBER' : null
    }
  }

  async commit(identity: MemberIdentity, offsets: readonly CommittedOffset[]): Promise<void> {
    await this.#groups.commit(this.#options.group, offsets, identity)
  }

  async leave(memberId: string, instanceId: string | null): Promise<void> {
    const { group } = this.#options
    // The coordinator of a member that is still joining knows it by its instance at most.
    if (memberId === '' && instanceId === null) return
    const leaving = this.#cluster.coordinatorOf(group).then(async address => {
      const link = await this.#cluster.link(address)
      const members = [{ memberId, groupInstanceId: instanceId }]
      await link.call(leaveGroupApi, { groupId: group, memberId, members })
    })
    const { promise: late, resolve } = Promise.withResolvers<void>()
    const timer = this.clock.after(LEAVE_MS_MAX, resolve)
    await Promise.race([leaving.catch(() => {}), late])
    timer.cancel()
  }

  async isStable(): Promise<boolean> {
    try {
      return (await this.#groups.describe(this.#options.group)).state === 'stable'
    } catch {
      return true // nobody to tell
    }
  }

  async assigned(): Promise<readonly TopicPartition[]> {
    const { members } = await this.#groups.describe(this.#options.group)
    return members.flatMap(({ assignment }) => assignment)
  }

  async learn(topics: readonly string[]): Promise<void> {
    await Promise.all(
      topics.map(topic =>
        this.#cluster
          .retrying(() => this.#cluster.learn(topic))
          .catch(error => {
            if (!(error instanceof SluiceError)) throw error // a topic that does not exist has no partitions
          }),
      ),
    )
  }

  partitionsOf(topic: string): number {
    return this.#cluster.known(topic)?.partitions.length ?? 0
  }

  onRebalance(): () => void {
    return () => {} // the answer to a heartbeat tells
  }

  onTopicsChanged(listener: () => void): () => void {
    const forget = this.#cluster.onTopicsChanged(listener)
    const look = (): void => {
      this.#topicsTimer = this.clock.after(TOPICS_MS, () => {
        for (const topic of this.#options.topics) this.#cluster.learn(topic).catch(() => {})
        look()
      })
    }
    look()
    return () => {
      forget()
      this.#topicsTimer?.cancel()
    }
  }

  close(): void {
    this.#isClosed = true
    this.#link?.close()
  }

  async #join(request: JoinRequest): Promise<JoinResult> {
    const startedAt = this.clock.monotonic()
    while (true) {
      try {
        const link = await this.#ownLink()
        const answer = await link.call(joinGroupApi, {
          groupId: request.group,
          sessionTimeoutMs: request.sessionTimeoutMs,
          rebalanceTimeoutMs: request.rebalanceTimeoutMs,
          memberId: request.memberId,
          groupInstanceId: request.instanceId,
          protocolType: request.protocolType,
          protocols: request.protocols,
        })
        const error = answer.errorCode === 0 ? null : codeOfKafka(answer.errorCode)
        if (error === 'UNAVAILABLE') check(answer.errorCode, null, `group "${request.group}"`, {})
        if (error === null) this.#seenAt = this.clock.monotonic()
        return {
          error,
          generation: answer.generationId,
          protocolType: answer.protocolType,
          protocol: answer.protocolName,
          leader: answer.leader,
          memberId: answer.memberId,
          members: answer.members.map(({ memberId, groupInstanceId, metadata }) => ({
            memberId,
            instanceId: groupInstanceId,
            metadata,
          })),
          skipAssignment: answer.skipAssignment,
        }
      } catch (error) {
        if (!this.#mayTryAgain(error, startedAt)) throw error
        if (request.memberId !== '' && this.#isSessionOver()) return refusedJoin('UNKNOWN_MEMBER')
        await this.#cluster.wait(RETRY_DELAY_MS)
      }
    }
  }

  async #sync(request: SyncRequest): Promise<SyncResult> {
    const { group, memberId, generation, instanceId, assignments } = request
    try {
      const link = await this.#ownLink()
      const answer = await link.call(syncGroupApi, {
        groupId: group,
        generationId: generation,
        memberId,
        groupInstanceId: instanceId,
        protocolType: request.protocolType,
        protocolName: request.protocol,
        assignments,
      })
      const error = answer.errorCode === 0 ? null : codeOfKafka(answer.errorCode)
      if (error === 'UNAVAILABLE') check(answer.errorCode, null, `group "${group}"`, {})
      const { protocolType, protocolName, assignment } = answer
      return { error, protocolType, protocol: protocolName, assignment }
    } catch (error) {
      if (!this.#mayTryAgain(error, this.clock.monotonic())) throw error
      await this.#cluster.wait(RETRY_DELAY_MS)
      // Whether the assignment has come through shows when the member joins again.
      return { ...NO_ASSIGNMENT, error: 'REBALANCE_IN_PROGRESS' }
    }
  }

  /** After a failed call: whether the coordinator may be back, elsewhere perhaps. A member that never got in gives up sooner. */
  #mayTryAgain(error: unknown, startedAt: number): boolean {
    if (this.#isClosed || !(error instanceof SluiceError)) return false
    const { code } = error
    if (!isPassing(error) && code !== 'TIMED_OUT') return false
    this.#cluster.forgetCoordinator(this.#options.group)
    this.#link?.close()
    return this.#seenAt !== null || this.clock.monotonic() - startedAt < JOIN_MS_MAX
  }

  #isSessionOver(): boolean {
    return this.#seenAt !== null && this.clock.monotonic() - this.#seenAt > this.#options.sessionTimeoutMs
  }

  async #ownLink(): Promise<KafkaLink> {
    const address = await this.#cluster.coordinatorOf(this.#options.group)
    if (this.#link?.isOpen && addressText(this.#link.address) === addressText(address)) return this.#link
    this.#link?.close()
    const answerMs = this.#options.rebalanceTimeoutMs + ANSWER_MS_MAX
    const link = await this.#cluster.openLink(address, answerMs)
    this.#link = link
    if (this.#isClosed) link.close()
    return link
  }
}

const NO_ASSIGNMENT = { protocolType: null, protocol: null, assignment: Buffer.alloc(0) }

const refusedJoin = (error: ErrorCode): JoinResult => ({
  error,
  generation: -1,
  protocolType: null,
  protocol: null,
  leader: '',
  memberId: '',
  members: [],
  skipAssignment: false,
})
