/**
 * A group member that writes down what it is told, and a register of who holds which partition, which notices at once when
 * a partition is given to somebody before its former holder has let go.
 */

import type { Engine, Member, MemberEvents, MemberOptions, TopicPartition } from '../../src/engine/engine.ts'
import type { SluiceError } from '../../src/errors.ts'

/** Who holds which partition, over all members of a group. */
export class Holdings {
  readonly #holders = new Map<string, ObservedMember>()
  /** Partitions that had two holders at once. */
  readonly overlaps: string[] = []

  take(member: ObservedMember, partitions: readonly string[]): void {
    for (const partition of partitions) {
      const holder = this.#holders.get(partition)
      if (holder !== undefined) this.overlaps.push(`${partition}: ${holder.name} and ${member.name}`)
      this.#holders.set(partition, member)
    }
  }

  letGo(member: ObservedMember, partitions: readonly string[]): void {
    for (const partition of partitions) {
      if (this.#holders.get(partition) === member) this.#holders.delete(partition)
    }
  }

  /** Partitions that somebody holds, sorted. */
  get held(): string[] {
    return [...this.#holders.keys()].sort()
  }
}

export class ObservedMember implements MemberEvents {
  readonly name: string
  readonly holdings: Holdings
  /** `assigned t/0 t/1`, in the order in which it was told. */
  readonly told: string[] = []
  readonly held = new Set<string>()
  failure: SluiceError | null = null
  member!: Member
  /** While set, `revoked` waits for it: a handler that takes its time. */
  busy: Promise<void> | null = null
  /** What `revoked` does at its end, before it lets go: a last commit, say. */
  beforeLettingGo: () => Promise<void> = async () => {}

  constructor(name: string, holdings: Holdings) {
    this.name = name
    this.holdings = holdings
  }

  static async join(
    engine: Engine,
    name: string,
    holdings: Holdings,
    options: Partial<MemberOptions> = {},
  ): Promise<ObservedMember> {
    const observed = new ObservedMember(name, holdings)
    await observed.join(engine, options)
    return observed
  }

  async join(engine: Engine, options: Partial<MemberOptions> = {}): Promise<void> {
    this.member = await engine.join(
      {
        group: 'g',
        topics: ['t'],
        assignors: ['cooperative-sticky'],
        sessionTimeoutMs: 10_000,
        rebalanceTimeoutMs: 60_000,
        clientId: this.name,
        ...options,
      },
      this,
    )
  }

  get partitions(): string[] {
    return [...this.held].sort()
  }

  /** Since the last call. */
  news(): string[] {
    return this.told.splice(0)
  }

  assigned(partitions: readonly TopicPartition[]): void {
    const names = this.#hear('assigned', partitions)
    for (const name of names) this.held.add(name)
    this.holdings.take(this, names)
  }

  async revoked(partitions: readonly TopicPartition[]): Promise<void> {
    const names = this.#hear('revoked', partitions)
    await this.busy
    await this.beforeLettingGo()
    this.#letGo(names)
  }

  lost(partitions: readonly TopicPartition[]): void {
    this.#letGo(this.#hear('lost', partitions))
  }

  failed(error: SluiceError): void {
    this.told.push(`failed ${error.code}`)
    this.failure = error
    this.#letGo([...this.held])
  }

  #letGo(names: readonly string[]): void {
    for (const name of names) this.held.delete(name)
    this.holdings.letGo(this, names)
  }

  #hear(event: string, partitions: readonly TopicPartition[]): string[] {
    const names = partitions.map(({ topic, partition }) => `${topic}/${partition}`).sort()
    if (names.length > 0) this.told.push([event, ...names].join(' '))
    return names
  }
}
