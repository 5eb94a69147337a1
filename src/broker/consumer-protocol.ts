/**
 * The bytes that the members of a consumer group tell each other through the coordinator, in Kafka's own format
 * (ConsumerProtocolSubscription and ConsumerProtocolAssignment, versions 0 to 3), so that members in this process and
 * Kafka clients can be in one group. The coordinator itself passes them on unread.
 *
 *   subscription: version int16 │ topics [string] │ user data bytes │ owned [topic string, partitions [int32]]  (1+)
 *                 │ generation int32 (2+) │ rack string (3+)
 *   assignment:   version int16 │ partitions [topic string, partitions [int32]] │ user data bytes
 *
 *   user data of sticky:              owned [topic string, partitions [int32]] │ generation int32
 *   user data of cooperative-sticky:  generation int32   (librdkafka sends what sticky sends)
 *
 * Big-endian. string: length int16, UTF-8; bytes: length int32; arrays: count int32. Length -1 is null, for user data
 * and rack only. A higher version than we know is read as the highest that we know: by contract, versions only add fields.
 */

import { SluiceError } from '../errors.ts'
import { type Assignor, type AssignorMember, compareText, type TopicPartition } from './assignor.ts'

/** The protocol type of groups whose members speak this. */
export const CONSUMER_PROTOCOL_TYPE = 'consumer'

const VERSION_MAX = 3

export interface Subscription {
  readonly topics: readonly string[]
  /** For the assignor alone. */
  readonly userData: Uint8Array | null
  /** What the member holds; from version 1. */
  readonly owned: readonly TopicPartition[]
  /** In which generation it got that; -1 if unknown. From version 2. */
  readonly generation: number
  /** From version 3. */
  readonly rack: string | null
}

export interface Assignment {
  readonly partitions: readonly TopicPartition[]
  readonly userData: Uint8Array | null
}

/** Topics are written in order; owned partitions grouped by topic, in order. */
export function encodeSubscription(subscription: Subscription, version = VERSION_MAX): Buffer {
  const { topics, userData, owned, generation, rack } = subscription
  const writer = new Writer()
  writer.int16(version)
  writer.int32(topics.length)
  for (const topic of [...topics].sort(compareText)) writer.string(topic)
  writer.bytes(userData)
  if (version >= 1) writer.partitions(owned)
  if (version >= 2) writer.int32(generation)
  if (version >= 3) writer.string(rack)
  return writer.finish()
}

/** Throws `INVALID_ARGUMENT` if the bytes are not a subscription. `userData` is a view of `bytes`. */
export function decodeSubscription(bytes: Uint8Array): Subscription & { readonly version: number } {
  const reader = new Reader(bytes, 'subscription')
  const version = reader.version()
  const topics = reader.array(2, () => reader.string())
  const userData = reader.bytes()
  const owned = version >= 1 ? reader.partitions() : []
  const generation = version >= 2 ? reader.int32() : -1
  const rack = version >= 3 ? reader.nullableString() : null
  return { version, topics, userData, owned, generation, rack: rack === '' ? null : rack }
}

/** All versions have the same fields: 0, the default, is what the oldest client reads. */
export function encodeAssignment(assignment: Assignment, version = 0): Buffer {
  const writer = new Writer()
  writer.int16(version)
  writer.partitions(assignment.partitions)
  writer.bytes(assignment.userData)
  return writer.finish()
}

/** No bytes at all are an empty assignment: Kafka sends that to a member that its leader forgot. Throws `INVALID_ARGUMENT`. */
export function decodeAssignment(bytes: Uint8Array): Assignment {
  if (bytes.length === 0) return { partitions: [], userData: null }
  const reader = new Reader(bytes, 'assignment')
  reader.version()
  return { partitions: reader.partitions(), userData: reader.bytes() }
}

/** What a member that gets nothing is sent; clients fail on no bytes at all. */
export const EMPTY_ASSIGNMENT = Uint8Array.of(0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)

/** What a member offers for one assignor when it joins. */
export interface MemberSubscription {
  readonly topics: readonly string[]
  readonly owned: readonly TopicPartition[]
  /** What it holds while it joins, where that is not `owned`: eager members have given everything up by then. Default nothing. */
  readonly held?: readonly TopicPartition[]
  /** -1 before the first assignment. */
  readonly generation: number
  readonly rack?: string | null
}

/**
 * The metadata that a member joins with, for one assignor. `sticky` is told what the member had in user data, as by
 * then it has given it up; the others in the field for it, as long as it is held.
 */
export function encodeMember(assignor: Assignor, member: MemberSubscription): Buffer {
  const { topics, owned, held = [], generation, rack = null } = member
  if (assignor === 'sticky') {
    const userData = generation < 0 ? null : encodeStickyData(owned, generation)
    return encodeSubscription({ topics, userData, owned: held, generation, rack })
  }
  let userData: Buffer | null = null
  if (assignor === 'cooperative-sticky') {
    userData = Buffer.alloc(4)
    userData.writeInt32BE(generation)
  }
  return encodeSubscription({ topics, userData, owned, generation, rack })
}

/** The other way round, for whoever leads the group and assigns. Throws `INVALID_ARGUMENT` if it is not a subscription. */
export function decodeMember(
  assignor: Assignor,
  memberId: string,
  instanceId: string | null,
  metadata: Uint8Array,
): AssignorMember {
  const { topics, userData, owned, generation } = decodeSubscription(metadata)
  const member = { memberId, instanceId, topics }
  if (assignor === 'sticky') return { ...member, ...decodeStickyData(userData) }
  if (assignor === 'cooperative-sticky' && generation < 0 && userData !== null) {
    // before version 2 the generation travels in user data
    const told =
      userData.length === 4 ? Buffer.from(userData).readInt32BE() : decodeStickyData(userData).generation
    return { ...member, owned, generation: told }
  }
  return { ...member, owned, generation }
}

/**
 * Whether a cooperative handover is half done: a partition that some member held when it joined is assigned to nobody,
 * because its owner has to give it up, and join again, first. False for what cannot be read.
 */
export function hasWithheld(members: Iterable<{ metadata: Uint8Array; assignment: Uint8Array }>): boolean {
  const name = ({ topic, partition }: TopicPartition) => `${topic}/${partition}`
  const owned = new Set<string>()
  const assigned = new Set<string>()
  try {
    for (const { metadata, assignment } of members) {
      for (const one of decodeSubscription(metadata).owned) owned.add(name(one))
      for (const one of decodeAssignment(assignment).partitions) assigned.add(name(one))
    }
  } catch (error) {
    if (error instanceof SluiceError) return false
    throw error
  }
  return [...owned].some(one => !assigned.has(one))
}

function encodeStickyData(owned: readonly TopicPartition[], generation: number): Buffer {
  const writer = new Writer()
  writer.partitions(owned)
  writer.int32(generation)
  return writer.finish()
}

/** Old clients leave the generation out. What cannot be read counts as nothing owned: it costs movement, not correctness. */
function decodeStickyData(userData: Uint8Array | null): { owned: TopicPartition[]; generation: number } {
  if (userData === null || userData.length === 0) return { owned: [], generation: -1 }
  try {
    const reader = new Reader(userData, 'user data')
    const owned = reader.partitions()
    return { owned, generation: reader.left >= 4 ? reader.int32() : -1 }
  } catch (error) {
    if (error instanceof SluiceError) return { owned: [], generation: -1 }
    throw error
  }
}

class Writer {
  #buffer = Buffer.allocUnsafe(256)
  #end = 0

  int16(value: number): void {
    this.#room(2)
    this.#end = this.#buffer.writeInt16BE(value, this.#end)
  }

  int32(value: number): void {
    this.#room(4)
    this.#end = this.#buffer.writeInt32BE(value, this.#end)
  }

  string(value: string | null): void {
    const bytes = value === null ? -1 : Buffer.byteLength(value)
    this.int16(bytes)
    if (value === null) return
    this.#room(bytes)
    this.#end += this.#buffer.write(value, this.#end)
  }

  bytes(value: Uint8Array | null): void {
    this.int32(value === null ? -1 : value.length)
    if (value === null) return
    this.#room(value.length)
    this.#buffer.set(value, this.#end)
    this.#end += value.length
  }

  partitions(partitions: readonly TopicPartition[]): void {
    const byTopic = Map.groupBy(partitions, ({ topic }) => topic)
    this.int32(byTopic.size)
    for (const topic of [...byTopic.keys()].sort(compareText)) {
      const numbers = byTopic.get(topic)!.map(({ partition }) => partition)
      this.string(topic)
      this.int32(numbers.length)
      for (const partition of numbers.sort((a, b) => a - b)) this.int32(partition)
    }
  }

  finish(): Buffer {
    return this.#buffer.subarray(0, this.#end)
  }

  #room(bytes: number): void {
    if (this.#end + bytes <= this.#buffer.length) return
    const larger = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#end + bytes))
    this.#buffer.copy(larger, 0, 0, this.#end)
    this.#buffer = larger
  }
}

class Reader {
  readonly #buffer: Buffer
  readonly #what: string
  #at = 0

  constructor(bytes: Uint8Array, what: string) {
    this.#buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#what = what
  }

  get left(): number {
    return this.#buffer.length - this.#at
  }

  version(): number {
    const version = this.int16()
    if (version < 0) throw this.#malformed(`has version ${version}`)
    return Math.min(version, VERSION_MAX)
  }

  int16(): number {
    return this.#buffer.readInt16BE(this.#advance(2))
  }

  int32(): number {
    return this.#buffer.readInt32BE(this.#advance(4))
  }

  string(): string {
    return this.nullableString() ?? this.#never('string')
  }

  nullableString(): string | null {
    const length = this.int16()
    if (length < 0) return null
    const start = this.#advance(length)
    return this.#buffer.toString('utf8', start, start + length)
  }

  bytes(): Uint8Array | null {
    const length = this.int32()
    if (length < 0) return null
    const start = this.#advance(length)
    return this.#buffer.subarray(start, start + length)
  }

  /** `bytesMin`: the fewest that an element takes, so that a false count cannot make us allocate. */
  array<T>(bytesMin: number, element: () => T): T[] {
    const count = this.int32()
    if (count < 0) this.#never('array')
    if (count * bytesMin > this.left) throw this.#malformed(`has room for fewer than ${count} elements`)
    const elements: T[] = []
    for (let i = 0; i < count; i++) elements.push(element())
    return elements
  }

  partitions(): TopicPartition[] {
    const topics = this.array(6, () => {
      const topic = this.string()
      return this.array(4, () => ({ topic, partition: this.int32() }))
    })
    return topics.flat()
  }

  #advance(bytes: number): number {
    const start = this.#at
    if (bytes > this.left) throw this.#malformed(`ends after ${this.#buffer.length} bytes, too early`)
    this.#at += bytes
    return start
  }

  #never(what: string): never {
    throw this.#malformed(`has a null ${what} where none may be`)
  }

  #malformed(how: string): SluiceError {
    return new SluiceError(
      'INVALID_ARGUMENT',
      `the ${this.#what} of a group member cannot be read: it ${how}; check the client that sent it`,
      { position: this.#at, bytes: this.#buffer.length },
    )
  }
}
