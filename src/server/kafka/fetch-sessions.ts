/**
 * Fetch sessions (KIP-227): a client that fetches many partitions again and again says only what changed, and is answered only
 * what changed.
 *
 * A session is a list of partitions in the order in which they are to be read next: what brought records goes to the end, so that
 * none starves when an answer is full. Its epoch counts the requests, so that both sides notice a request that was lost.
 *
 * Bounded: so many sessions, and so many partitions in all of them. When either is full, the session that was silent
 * longest goes, if it was silent long enough; else the new client gets none and fetches in full, which always works.
 */

import { randomInt } from 'node:crypto'
import { ZERO_UUID } from '../../wire/kafka/schema.ts'

/** Kafka's `max.incremental.fetch.session.cache.slots`. */
const SESSIONS_MAX = 1000
const PARTITIONS_MAX = 500_000
/** Kafka's `min.incremental.fetch.session.eviction.ms`. */
const EVICTABLE_MS = 120_000

const SESSION_ID_MAX = 2 ** 31 - 1
const INITIAL_EPOCH = 0
const FINAL_EPOCH = -1

export const FETCH_SESSION_ID_NOT_FOUND = 70
export const INVALID_FETCH_SESSION_EPOCH = 71
export const FETCH_SESSION_TOPIC_ID_ERROR = 106

/** A partition as a client wants it fetched, and what the client was told of it last. */
export interface FetchTarget {
  readonly topic: string
  readonly topicId: string
  readonly partition: number
  currentLeaderEpoch: number
  fetchOffset: number
  bytesMax: number
  /** As answered last; -1: not yet, or an error was. */
  toldHighWatermark: number
  toldLastStableOffset: number
  toldStartOffset: number
}

/** The part of a request that sessions are about. */
export interface SessionRequest {
  readonly sessionId: number
  readonly sessionEpoch: number
  readonly targets: readonly FetchTarget[]
  readonly forgotten: readonly { topic: string; topicId: string; partitions: readonly number[] }[]
  /** Whether topics are named by id. */
  readonly usesTopicIds: boolean
}

/** What a request comes to: what to read, and how to answer. */
export interface FetchPlan {
  /** 0: none. */
  readonly sessionId: number
  /** Can be walked again and again. */
  readonly targets: Iterable<FetchTarget>
  readonly count: number
  /** Leave out what has not changed. */
  readonly incremental: boolean
  /** To be called with a target that brought records, when `targets` is not being walked. */
  readonly served: (target: FetchTarget) => void
}

interface Session {
  readonly id: number
  readonly usesTopicIds: boolean
  epoch: number
  lastUsed: number
  readonly targets: Map<string, FetchTarget>
}

export class FetchSessions {
  /** In order of last use. */
  readonly #sessions = new Map<number, Session>()
  #partitions = 0
  readonly #sessionsMax: number
  readonly #partitionsMax: number

  constructor(sessionsMax = SESSIONS_MAX, partitionsMax = PARTITIONS_MAX) {
    this.#sessionsMax = sessionsMax
    this.#partitionsMax = partitionsMax
  }

  get count(): number {
    return this.#sessions.size
  }

  get partitions(): number {
    return this.#partitions
  }

  /** The plan for a request, or the number of the error that the whole request is answered with. */
  plan(request: SessionRequest, now: number): FetchPlan | number {
    const { sessionId, sessionEpoch } = request
    if (sessionEpoch === FINAL_EPOCH || sessionEpoch === INITIAL_EPOCH) {
      this.#remove(sessionId)
      const session = sessionEpoch === INITIAL_EPOCH ? this.#begin(request, now) : null
      if (session !== null) return planOf(session, false)
      return withoutSession(request.targets)
    }
    const session = this.#sessions.get(sessionId)
    if (session === undefined) return FETCH_SESSION_ID_NOT_FOUND
    if (session.epoch !== sessionEpoch) return INVALID_FETCH_SESSION_EPOCH
    // Without partitions it says nothing of how it names topics.
    const names = request.targets.length > 0 || request.forgotten.length > 0
    if (names && session.usesTopicIds !== request.usesTopicIds) return FETCH_SESSION_TOPIC_ID_ERROR
    this.#update(session, request)
    if (session.targets.size === 0) {
      this.#remove(sessionId)
      return withoutSession([])
    }
    if (this.#partitions > this.#partitionsMax) {
      this.#remove(sessionId)
      return FETCH_SESSION_ID_NOT_FOUND // the client begins again, in full
    }
    session.epoch = session.epoch === SESSION_ID_MAX ? 1 : session.epoch + 1
    session.lastUsed = now
    this.#sessions.delete(sessionId)
    this.#sessions.set(sessionId, session)
    return planOf(session, true)
  }

  #begin(request: SessionRequest, now: number): Session | null {
    const { targets, usesTopicIds } = request
    if (targets.length === 0 || !this.#makeRoom(targets.length, now)) return null
    let id = 0
    while (id === 0 || this.#sessions.has(id)) id = randomInt(1, SESSION_ID_MAX)
    const session: Session = { id, usesTopicIds, epoch: 1, lastUsed: now, targets: new Map() }
    this.#sessions.set(id, session)
    for (const target of targets) session.targets.set(keyOf(target, target.partition), target)
    this.#partitions += session.targets.size
    return session
  }

  #makeRoom(partitions: number, now: number): boolean {
    for (const session of this.#sessions.values()) {
      if (this.#hasRoom(partitions)) return true
      if (now - session.lastUsed < EVICTABLE_MS) return false
      this.#remove(session.id)
    }
    return this.#hasRoom(partitions)
  }

  #hasRoom(partitions: number): boolean {
    return this.#sessions.size < this.#sessionsMax && this.#partitions + partitions <= this.#partitionsMax
  }

  #update(session: Session, request: SessionRequest): void {
    const { targets } = session
    const before = targets.size
    for (const target of request.targets) {
      const key = keyOf(target, target.partition)
      const known = targets.get(key)
      if (known === undefined) {
        targets.set(key, target)
      } else {
        known.currentLeaderEpoch = target.currentLeaderEpoch
        known.fetchOffset = target.fetchOffset
        known.bytesMax = target.bytesMax
      }
    }
    for (const topic of request.forgotten) {
      for (const partition of topic.partitions) targets.delete(keyOf(topic, partition))
    }
    this.#partitions += targets.size - before
  }

  #remove(id: number): void {
    const session = this.#sessions.get(id)
    if (session === undefined) return
    this.#partitions -= session.targets.size
    this.#sessions.delete(id)
  }
}

const keyOf = (at: { topic: string; topicId: string }, partition: number): string =>
  `${at.topicId === ZERO_UUID ? at.topic : at.topicId}/${partition}`

function planOf(session: Session, incremental: boolean): FetchPlan {
  const { id, targets } = session
  return {
    sessionId: id,
    targets: { [Symbol.iterator]: () => targets.values() },
    count: targets.size,
    incremental,
    served(target) {
      const key = keyOf(target, target.partition)
      if (targets.delete(key)) targets.set(key, target)
    },
  }
}

const withoutSession = (targets: readonly FetchTarget[]): FetchPlan => ({
  sessionId: 0,
  targets,
  count: targets.length,
  incremental: false,
  served() {},
})
