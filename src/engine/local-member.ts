/** A group member whose coordinator is in this process: its broker. */

import type { TopicPartition } from '../broker/assignor.ts'
import type { Broker } from '../broker/broker.ts'
import { decodeAssignment } from '../broker/consumer-protocol.ts'
import type { JoinRequest, JoinResult, MemberIdentity, SyncRequest, SyncResult } from '../broker/group.ts'
import type { ErrorCode } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import type { CommittedOffset, MemberEvents, MemberOptions } from './engine.ts'
import { type GroupAccess, GroupMember } from './group-member.ts'

export class LocalMember extends GroupMember {
  constructor(broker: Broker, options: MemberOptions, events: MemberEvents, onEnd: () => void) {
    super(new LocalAccess(broker, options.group), options, events, onEnd)
  }
}

class LocalAccess implements GroupAccess {
  readonly heartbeatMsMax = Number.POSITIVE_INFINITY
  readonly #broker: Broker
  readonly #group: string

  constructor(broker: Broker, group: string) {
    this.#broker = broker
    this.#group = group
  }

  get clock(): Clock {
    return this.#broker.clock
  }

  join(request: JoinRequest, reply: (result: JoinResult) => void): void {
    this.#broker.groups.join(request, this.clock.monotonic(), reply)
    this.#broker.watchGroups()
  }

  sync(request: SyncRequest, reply: (result: SyncResult) => void): void {
    this.#broker.groups.sync(request, this.clock.monotonic(), reply)
    this.#broker.watchGroups()
  }

  async heartbeat(identity: MemberIdentity): Promise<ErrorCode | null> {
    const request = { group: this.#group, ...identity }
    const error = this.#broker.groups.heartbeat(request, this.clock.monotonic())
    this.#broker.watchGroups()
    return error
  }

  async commit(identity: MemberIdentity, offsets: readonly CommittedOffset[]): Promise<void> {
    await this.#broker.commit(this.#group, identity, offsets)
  }

  async leave(memberId: string, instanceId: string | null): Promise<void> {
    this.#broker.groups.leave(this.#group, [{ memberId, instanceId }], this.clock.monotonic())
    this.#broker.watchGroups()
  }

  async isStable(): Promise<boolean> {
    return this.#broker.groups.describe(this.#group)?.state === 'stable'
  }

  async assigned(): Promise<readonly TopicPartition[]> {
    const { members } = this.#broker.describeGroup(this.#group)
    return members.flatMap(({ assignment }) => decodeAssignment(assignment).partitions)
  }

  learn(): null {
    return null
  }

  partitionsOf(topic: string): number {
    return this.#broker.findTopic(topic)?.partitions.length ?? 0
  }

  onRebalance(listener: () => void): () => void {
    return this.#broker.onRebalance(this.#group, listener)
  }

  onTopicsChanged(listener: () => void): () => void {
    return this.#broker.onTopicsChanged(listener)
  }

  close(): void {}
}
