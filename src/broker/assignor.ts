/**
 * Who reads which partition: the four assignors of the Java client, as pure functions of the members and the number
 * of partitions. Given the same members in any order they give the same answer.
 *
 *   range               per topic: consecutive partitions, in the order of the members. Topics with as many partitions
 *                       and the same subscribers are split alike, so that equal partition numbers meet (co-partitioning).
 *   roundrobin          all partitions of all topics in one line, dealt out to the members in turn.
 *   sticky              balanced, and as few partitions as possible change hands.
 *   cooperative-sticky  as sticky, in two rounds: a partition that changes hands is given to nobody in the first. Its
 *                       owner sees that it is gone, gives it up and joins again; the next round hands it out.
 *
 * Where the Java client follows the iteration order of a hash map (which of several equally loaded members keeps
 * its extra partition; which of several equally good moves is made), we follow the order of member ids: the sizes and
 * the number of moves are the same, the choice may differ. A claim to a partition that does not exist (the topic was
 * made again, smaller) is dropped here; the Java client would assign it.
 *
 * Racks play no part: all partitions of one broker lie in the same place, and then Kafka's assignors ignore them too.
 */

import assert from 'node:assert/strict'

export const assignors = ['range', 'roundrobin', 'sticky', 'cooperative-sticky'] as const
export type Assignor = (typeof assignors)[number]

export interface TopicPartition {
  readonly topic: string
  readonly partition: number
}

/** A member as an assignor sees it. */
export interface AssignorMember {
  readonly memberId: string
  readonly instanceId: string | null
  /** What it subscribes to; names without partitions are passed over. */
  readonly topics: readonly string[]
  /** What it held when it joined; for the sticky assignors. */
  readonly owned: readonly TopicPartition[]
  /** The generation in which it got `owned`; -1 if it does not know. Of two claims to a partition the later one counts. */
  readonly generation: number
}

/** Which member reads which partitions, sorted by topic and partition. Every member has an entry, if only an empty one. */
export type Assignments = Map<string, TopicPartition[]>

const NOBODY = -1

/** Order of strings as the Java client has it: by UTF-16 code unit. */
export const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/**
 * Shares the partitions of the subscribed topics out. `partitionsOf` gives the number of partitions of a topic, 0 if
 * there is no such topic. Member ids must differ.
 */
export function assign(
  assignor: Assignor,
  members: readonly AssignorMember[],
  partitionsOf: (topic: string) => number,
): Assignments {
  const board = new Board(members, partitionsOf)
  switch (assignor) {
    case 'range':
      range(board)
      break
    case 'roundrobin':
      roundRobin(board)
      break
    case 'sticky':
      sticky(board)
      break
    case 'cooperative-sticky': {
      const before = sticky(board)
      withholdMoving(board, before)
      break
    }
  }
  return board.assignments()
}

/**
 * The table that the assignors fill in. Members and topics are numbered in the order of their names and partitions
 * one after the other, topic by topic, so that the work is done on arrays of numbers.
 */
class Board {
  /** By member id. */
  readonly members: readonly AssignorMember[]
  /** Subscribed topics that have partitions, by name. */
  readonly topics: readonly string[]
  /** First partition number of each topic, and the total at the end. */
  readonly firsts: Int32Array
  /** The topic that a partition belongs to. */
  readonly topicOf: Int32Array
  /** Topics that a member subscribes to. */
  readonly subscriptions: readonly (readonly number[])[]
  /** Members that subscribe to a topic. */
  readonly subscribers: readonly (readonly number[])[]
  /** The answer: which member has a partition, or NOBODY. */
  readonly owners: Int32Array
  readonly #topicNumbers: Map<string, number>

  constructor(members: readonly AssignorMember[], partitionsOf: (topic: string) => number) {
    this.members = [...members].sort((a, b) => compareText(a.memberId, b.memberId))
    for (let m = 1; m < members.length; m++) {
      assert(this.members[m].memberId !== this.members[m - 1].memberId, 'two members have the same id')
    }
    const counts = new Map<string, number>()
    for (const topic of new Set(members.flatMap(member => member.topics))) {
      const count = partitionsOf(topic)
      if (count > 0) counts.set(topic, count)
    }
    this.topics = [...counts.keys()].sort(compareText)
    this.#topicNumbers = new Map(this.topics.map((topic, t) => [topic, t]))
    this.firsts = new Int32Array(this.topics.length + 1)
    for (const [t, topic] of this.topics.entries()) this.firsts[t + 1] = this.firsts[t] + counts.get(topic)!
    this.topicOf = new Int32Array(this.partitionCount)
    for (let t = 0; t < this.topics.length; t++) this.topicOf.fill(t, this.firsts[t], this.firsts[t + 1])
    this.owners = new Int32Array(this.partitionCount).fill(NOBODY)

    const subscribers: number[][] = this.topics.map(() => [])
    this.subscriptions = this.members.map((member, m) => {
      const numbers = [...new Set(member.topics)].flatMap(topic => this.#topicNumbers.get(topic) ?? [])
      for (const t of numbers) subscribers[t].push(m)
      return numbers.sort((a, b) => a - b)
    })
    this.subscribers = subscribers
  }

  get partitionCount(): number {
    return this.firsts[this.topics.length]
  }

  /** The number of a partition, or -1 if there is no such partition. */
  numberOf({ topic, partition }: TopicPartition): number {
    const t = this.#topicNumbers.get(topic)
    if (t === undefined || !(partition >= 0)) return -1
    const p = this.firsts[t] + partition
    return p < this.firsts[t + 1] ? p : -1
  }

  /** Members in the order in which range and roundrobin deal: static ones by instance id first, then by member id. */
  dealingOrder(): number[] {
    const key = this.members.map(({ instanceId, memberId }) => (instanceId === null ? memberId : instanceId))
    const isStatic = this.members.map(({ instanceId }) => instanceId !== null)
    return this.members
      .map((_, m) => m)
      .sort((a, b) => (isStatic[a] === isStatic[b] ? compareText(key[a], key[b]) : isStatic[a] ? -1 : 1))
  }

  assignments(): Assignments {
    const lists: TopicPartition[][] = this.members.map(() => [])
    for (let p = 0; p < this.partitionCount; p++) {
      if (this.owners[p] === NOBODY) continue
      const t = this.topicOf[p]
      lists[this.owners[p]].push({ topic: this.topics[t], partition: p - this.firsts[t] })
    }
    return new Map(this.members.map(({ memberId }, m) => [memberId, lists[m]]))
  }
}

function range(board: Board): void {
  const rank = new Int32Array(board.members.length)
  for (const [place, m] of board.dealingOrder().entries()) rank[m] = place
  for (let t = 0; t < board.topics.length; t++) {
    const readers = [...board.subscribers[t]].sort((a, b) => rank[a] - rank[b])
    const count = board.firsts[t + 1] - board.firsts[t]
    const share = Math.floor(count / readers.length)
    const withOneMore = count % readers.length
    let p = board.firsts[t]
    for (const [place, m] of readers.entries()) {
      const end = p + share + (place < withOneMore ? 1 : 0)
      board.owners.fill(m, p, end)
      p = end
    }
  }
}

function roundRobin(board: Board): void {
  const order = board.dealingOrder()
  const subscribes = subscriptionTable(board)
  let place = 0
  for (let p = 0; p < board.partitionCount; p++) {
    while (!subscribes(order[place], board.topicOf[p])) place = (place + 1) % order.length
    board.owners[p] = order[place]
    place = (place + 1) % order.length
  }
}

function subscriptionTable(board: Board): (m: number, t: number) => boolean {
  const table = new Uint8Array(board.members.length * board.topics.length)
  for (const [m, topics] of board.subscriptions.entries()) {
    for (const t of topics) table[m * board.topics.length + t] = 1
  }
  return (m, t) => table[m * board.topics.length + t] === 1
}

/** What was before the assignment: who held a partition, or NOBODY; and which were claimed by two with equal right. */
interface Claims {
  readonly owners: Int32Array
  readonly contested: Uint8Array
}

/** A claim of a later generation beats one of an earlier; two of the same generation are both void (something went wrong). */
function claimsOf(board: Board): Claims {
  const owners = new Int32Array(board.partitionCount).fill(NOBODY)
  const generations = new Float64Array(board.partitionCount).fill(Number.NEGATIVE_INFINITY)
  const contested = new Uint8Array(board.partitionCount)
  for (const [m, { owned, generation }] of board.members.entries()) {
    for (const claim of owned) {
      const p = board.numberOf(claim)
      if (p < 0 || owners[p] === m || generation < generations[p]) continue
      contested[p] = generation === generations[p] ? 1 : 0
      owners[p] = m
      generations[p] = generation
    }
  }
  for (let p = 0; p < owners.length; p++) if (contested[p] === 1) owners[p] = NOBODY
  return { owners, contested }
}

function sticky(board: Board): Claims {
  const claims = claimsOf(board)
  if (board.members.length === 0) return claims
  const [first, ...others] = board.subscriptions.map(topics => topics.join())
  if (others.every(other => other === first)) stickyEqual(board, claims)
  else stickyUnequal(board, claims)
  return claims
}

/**
 * All members read the same topics, so everyone gets floor or ceil of the average. Everyone keeps what it has up to
 * that; the rest goes round the members that have too little.
 */
function stickyEqual(board: Board, { owners: before }: Claims): void {
  const share = Math.floor(board.partitionCount / board.members.length)
  let withOneMore = board.partitionCount % board.members.length
  const poor: number[] = []
  const even: number[] = []
  const loads = new Int32Array(board.members.length)
  for (const [m, held] of heldBy(board, before).entries()) {
    let keep = Math.min(held.length, share)
    if (held.length > share && withOneMore > 0) {
      keep++
      withOneMore--
    } else if (keep < share) poor.push(m)
    else even.push(m)
    for (let i = 0; i < keep; i++) board.owners[held[i]] = m
    loads[m] = keep
  }

  let turn = 0
  for (let p = 0; p < board.partitionCount; p++) {
    if (board.owners[p] !== NOBODY) continue
    if (poor.length === 0) {
      // everyone has the share; what is left is one more for some
      board.owners[p] = even.shift()!
      continue
    }
    if (turn === poor.length) turn = 0
    const m = poor[turn]
    board.owners[p] = m
    if (++loads[m] < share) turn++
    else even.push(...poor.splice(turn, 1))
  }
}

/** Partitions of each member, by partition number first: when some are given up, no topic is given up as a whole. */
function heldBy(board: Board, owners: Int32Array): number[][] {
  const held: number[][] = board.members.map(() => [])
  for (let p = 0; p < owners.length; p++) if (owners[p] !== NOBODY) held[owners[p]].push(p)
  const partition = (p: number) => p - board.firsts[board.topicOf[p]]
  for (const list of held) list.sort((a, b) => partition(a) - partition(b) || a - b)
  return held
}

/**
 * Members read different topics. Everyone keeps what it may keep; what nobody has goes to the least loaded reader,
 * topics with the fewest readers first; then partitions move from a member to another with at least two
 * fewer until none can. A move makes the sum of the squared loads smaller, so this ends.
 */
function stickyUnequal(board: Board, { owners: before }: Claims): void {
  const subscribes = subscriptionTable(board)
  const loads = new Int32Array(board.members.length)
  let unsubscribed = false
  for (let p = 0; p < board.partitionCount; p++) {
    if (before[p] === NOBODY) continue
    if (subscribes(before[p], board.topicOf[p])) {
      board.owners[p] = before[p]
      loads[before[p]]++
    } else unsubscribed = true
  }

  const leastLoaded = (t: number): number => {
    let least = board.subscribers[t][0]
    for (const m of board.subscribers[t]) if (loads[m] < loads[least]) least = m
    return least
  }

  const inOrder: number[] = []
  const byReaders = board.topics.map((_, t) => t)
  byReaders.sort((a, b) => board.subscribers[a].length - board.subscribers[b].length || a - b)
  for (const t of byReaders) for (let p = board.firsts[t]; p < board.firsts[t + 1]; p++) inOrder.push(p)

  const dealt = inOrder.filter(p => board.owners[p] === NOBODY)
  for (const p of dealt) {
    const m = leastLoaded(board.topicOf[p])
    board.owners[p] = m
    loads[m]++
  }

  const displaced = new Displaced(board, before)
  const level = (partitions: readonly number[]): void => {
    for (let moved = true; moved; ) {
      moved = false
      for (const p of partitions) {
        const from = board.owners[p]
        const to = leastLoaded(board.topicOf[p])
        if (loads[from] <= loads[to] + 1) continue
        displaced.move(p, to)
        loads[from]--
        loads[to]++
        moved = true
      }
    }
  }
  // new partitions move first, as nobody has to give them up; not when something must be given up anyway
  if (!unsubscribed) level(dealt)
  level(inOrder)
}

/**
 * Makes the moves of `stickyUnequal`, and remembers which partitions are away from home: if one of the same topic that
 * the receiver had before is at hand, it goes home instead. Otherwise two members could swap partitions for nothing.
 */
class Displaced {
  readonly #board: Board
  readonly #before: Int32Array
  /** Partitions that left home, by topic and the member they left. */
  readonly #away = new Map<number, Set<number>>()

  constructor(board: Board, before: Int32Array) {
    this.#board = board
    this.#before = before
  }

  move(wanted: number, to: number): void {
    const { owners, topicOf } = this.#board
    const from = owners[wanted]
    const t = topicOf[wanted]
    const homeward = this.#away.get(this.#key(t, to))
    let p = wanted
    for (const candidate of homeward ?? []) {
      if (owners[candidate] !== from) continue
      p = candidate
      break
    }
    if (this.#before[p] === to) homeward?.delete(p)
    else if (this.#before[p] === from) {
      const key = this.#key(t, from)
      const left = this.#away.get(key)
      if (left === undefined) this.#away.set(key, new Set([p]))
      else left.add(p)
    }
    owners[p] = to
  }

  #key(t: number, m: number): number {
    return t * this.#board.members.length + m
  }
}

/** The first round of the cooperative protocol: nobody gets a partition that somebody else must give up first. */
function withholdMoving(board: Board, before: Claims): void {
  for (let p = 0; p < board.partitionCount; p++) {
    const moves = before.owners[p] !== NOBODY && before.owners[p] !== board.owners[p]
    if (moves || before.contested[p] === 1) board.owners[p] = NOBODY
  }
}
