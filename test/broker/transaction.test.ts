/** The state machine of transactions: each step and refusal, and any interleaving of producers, zombies and lost answers against a model. */

import assert from 'node:assert/strict'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { OffsetCommit } from '../../src/broker/offsets.ts'
import {
  type EndStep,
  isOpen,
  isPreparing,
  newTransaction,
  type Transaction,
  TransactionTable,
} from '../../src/broker/transaction.ts'

const ID = 'orders'
const EPOCH_MAX = 32_766
const commitOf = (offset: number, partition = 0): OffsetCommit => ({
  topic: 'in',
  partition,
  offset,
  metadata: '',
})

/** A table with one transactional id, whose producer has `producerId` and `epoch`. */
function tableWith(epoch = 0, producerId = 7): { table: TransactionTable; transaction: Transaction } {
  const table = new TransactionTable(60_000)
  const transaction = { ...newTransaction(ID, producerId, 1_000, 0), epoch }
  table.load(transaction)
  return { table, transaction }
}

const by = (epoch: number, producerId = 7) => ({ transactionalId: ID, producerId, epoch })
const initBy = (epoch = -1, producerId = epoch < 0 ? -1 : 7, timeoutMs = 1_000) => ({
  ...by(epoch, producerId),
  timeoutMs,
})
const refused = (error: string) => ({ kind: 'refused', error })
/** What a producer has after a step. */
const given = (step: object): [number, number] => {
  assert('transaction' in step, JSON.stringify(step))
  const { producerId, epoch } = step.transaction as Transaction
  return [producerId, epoch]
}

function begin(table: TransactionTable, epoch: number, producerId = 7): void {
  expect(table.addPartitions(by(epoch, producerId), [['out', 0]], 10)).toMatchObject({ kind: 'changed' })
}

describe('init', () => {
  test('of a new id needs a producer id and begins at epoch 0', () => {
    const table = new TransactionTable(60_000)
    expect(table.init(initBy(), null, 5)).toEqual({ kind: 'needs-producer-id' })
    expect(table.get(ID)).toBeUndefined()
    expect(given(table.init(initBy(), 40, 5))).toEqual([40, 0])
    expect(table.get(ID)).toMatchObject({ state: 'Empty', timeoutMs: 1_000, startTime: -1, updateTime: 5 })
    expect(table.of(40)).toBe(table.get(ID))
  })

  test('refuses ids and time-outs that cannot be', () => {
    const table = new TransactionTable(60_000)
    const withId = (transactionalId: string) => ({ ...initBy(), transactionalId })
    expect(table.init(withId(''), 1, 0)).toEqual(refused('INVALID_ARGUMENT'))
    expect(table.init(withId('é'.repeat(16_384)), 1, 0)).toEqual(refused('INVALID_ARGUMENT'))
    expect(table.init(withId('é'.repeat(16_383)), 1, 0)).toMatchObject({ kind: 'changed' })
    for (const timeoutMs of [0, -1, 60_001])
      expect(table.init(initBy(-1, -1, timeoutMs), 1, 0)).toEqual(refused('INVALID_TRANSACTION_TIMEOUT'))
    expect(table.init(initBy(-1, -1, 60_000), 1, 0)).toMatchObject({ kind: 'changed' })
  })

  test('by someone new fences who had it before, and takes the new time-out', () => {
    const { table, transaction } = tableWith(3)
    expect(given(table.init(initBy(-1, -1, 2_000), null, 9))).toEqual([7, 4])
    expect(transaction.timeoutMs).toBe(2_000)
    expect(table.addPartitions(by(3), [['out', 0]], 10)).toEqual(refused('PRODUCER_FENCED'))
    expect(table.checkAppend(7, 3, 'out', 0)).toBe('INVALID_PRODUCER_EPOCH')
  })

  test('by the one that has it is answered again with the same, until it is used', () => {
    const { table } = tableWith(3)
    expect(given(table.init(initBy(3), null, 9))).toEqual([7, 4])
    expect(given(table.init(initBy(3), null, 10))).toEqual([7, 4])
    begin(table, 4)
    expect(table.init(initBy(3), null, 11)).toEqual(refused('PRODUCER_FENCED'))
    expect(table.get(ID)?.state).toBe('Ongoing')
  })

  test('by a zombie is refused, also right after someone new has taken over', () => {
    const { table } = tableWith(3)
    expect(given(table.init(initBy(-1), null, 9))).toEqual([7, 4])
    expect(table.init(initBy(3), null, 10)).toEqual(refused('PRODUCER_FENCED'))
    expect(table.init(initBy(4, 8), null, 10)).toEqual(refused('PRODUCER_FENCED'))
    begin(table, 4)
    expect(table.init(initBy(3), null, 10)).toEqual(refused('PRODUCER_FENCED'))
    table.completed(preparedBy(table.end(by(4), true, false, null, 11)), 11)
    expect(table.init(initBy(3), null, 12)).toEqual(refused('PRODUCER_FENCED'))
    expect(table.end(by(3), true, true, null, 12)).toEqual(refused('PRODUCER_FENCED'))
  })

  test('aborts what its predecessor left, with markers of a newer epoch, and then gives one newer still', () => {
    const { table, transaction } = tableWith(3)
    begin(table, 3)
    expect(table.init(initBy(), null, 20)).toMatchObject({ kind: 'aborting' })
    expect(transaction).toMatchObject({ state: 'PrepareAbort', markerProducerId: 7, markerEpoch: 4 })
    expect(table.checkAppend(7, 3, 'out', 0)).toBe('INVALID_PRODUCER_EPOCH')
    expect(table.init(initBy(), null, 20)).toEqual(refused('CONCURRENT_TRANSACTIONS'))
    expect(table.addPartitions(by(3), [['out', 0]], 20)).toEqual(refused('PRODUCER_FENCED'))
    table.completed(transaction, 21)
    expect(given(table.init(initBy(), null, 22))).toEqual([7, 5])
  })

  test('of its own transaction: asked again when that is aborted it gets on, and after a lost answer as well', () => {
    const { table, transaction } = tableWith(3)
    begin(table, 3)
    expect(table.init(initBy(3), null, 20)).toMatchObject({ kind: 'aborting' })
    table.completed(transaction, 21)
    expect(given(table.init(initBy(3), null, 22))).toEqual([7, 5])
    expect(given(table.init(initBy(3), null, 23))).toEqual([7, 5])
  })

  test('of its own transaction is refused if somebody has taken over while that was aborted', () => {
    const { table, transaction } = tableWith(3)
    begin(table, 3)
    expect(table.init(initBy(3), null, 20)).toMatchObject({ kind: 'aborting' })
    table.completed(transaction, 21)
    expect(given(table.init(initBy(), null, 22))).toEqual([7, 5])
    expect(table.init(initBy(3), null, 23)).toEqual(refused('PRODUCER_FENCED'))
  })

  test('past the last epoch goes on with another producer id', () => {
    const { table } = tableWith(EPOCH_MAX)
    expect(table.init(initBy(EPOCH_MAX), null, 1)).toEqual({ kind: 'needs-producer-id' })
    expect(given(table.init(initBy(EPOCH_MAX), 8, 1))).toEqual([8, 0])
    expect(given(table.init(initBy(EPOCH_MAX), null, 2))).toEqual([8, 0])
    expect(table.of(7)).toBeUndefined()
    expect(table.checkAppend(7, EPOCH_MAX, 'out', 0)).toBe('INVALID_PRODUCER_ID_MAPPING')
    expect(table.addPartitions(by(EPOCH_MAX), [['out', 0]], 3)).toEqual(
      refused('INVALID_PRODUCER_ID_MAPPING'),
    )
  })

  test('of its own transaction with the last epoch leads to another producer id, and an end to nothing', () => {
    const { table, transaction } = tableWith(EPOCH_MAX)
    begin(table, EPOCH_MAX)
    expect(table.init(initBy(EPOCH_MAX), null, 1)).toMatchObject({ kind: 'aborting' })
    table.completed(transaction, 2)
    expect(table.end(by(EPOCH_MAX), false, true, null, 3)).toEqual(refused('PRODUCER_FENCED'))
    expect(given(table.init(initBy(EPOCH_MAX), 8, 3))).toEqual([8, 0])
  })

  test('fences the last epoch with the one that nobody gets', () => {
    const { table, transaction } = tableWith(EPOCH_MAX)
    begin(table, EPOCH_MAX)
    expect(table.init(initBy(), null, 1)).toMatchObject({ kind: 'aborting' })
    expect(transaction.markerEpoch).toBe(EPOCH_MAX + 1)
    table.completed(transaction, 2)
    expect(table.end(by(EPOCH_MAX), false, true, null, 3)).toEqual(refused('PRODUCER_FENCED'))
    expect(table.init(initBy(), null, 3)).toEqual({ kind: 'needs-producer-id' })
    expect(given(table.init(initBy(), 8, 3))).toEqual([8, 0])
  })
})

function preparedBy(step: EndStep): Transaction {
  assert(step.kind === 'prepared', JSON.stringify(step))
  return step.transaction
}

describe('what belongs to a transaction', () => {
  test('is gathered from the first partition or group on', () => {
    const { table, transaction } = tableWith()
    table.addPartitions(
      by(0),
      [
        ['a', 0],
        ['b', 1],
      ],
      10,
    ) // prettier-ignore
    table.addPartitions(
      by(0),
      [
        ['a', 2],
        ['a', 0],
      ],
      11,
    ) // prettier-ignore
    expect(transaction).toMatchObject({ state: 'Ongoing', startTime: 10, updateTime: 11 })
    expect([...transaction.partitions]).toEqual([
      ['a', new Set([0, 2])],
      ['b', new Set([1])],
    ])
    expect(table.checkAppend(7, 0, 'a', 2)).toBeNull()
    expect(table.checkAppend(7, 0, 'a', 1)).toBe('INVALID_TXN_STATE')
    expect(table.checkAppend(9, 0, 'a', 0)).toBe('INVALID_PRODUCER_ID_MAPPING')
    expect(table.checkAppend(7, 1, 'a', 0)).toBe('INVALID_PRODUCER_EPOCH')
  })

  test('offsets need their group, and the last one of a partition counts', () => {
    const { table, transaction } = tableWith()
    expect(table.stageOffsets(by(0), 'g', [commitOf(1)])).toEqual(refused('INVALID_TXN_STATE'))
    expect(table.addGroup(by(0), 'g', 5)).toMatchObject({ kind: 'changed' })
    expect(transaction).toMatchObject({ state: 'Ongoing', startTime: 5 })
    expect(table.stageOffsets(by(0), 'h', [commitOf(1)])).toEqual(refused('INVALID_TXN_STATE'))
    table.stageOffsets(by(0), 'g', [commitOf(1), commitOf(9, 1)])
    table.stageOffsets(by(0), 'g', [commitOf(2)])
    table.addGroup(by(0), 'g', 6)
    expect([...transaction.offsets.get('g')!.values()]).toEqual([commitOf(2), commitOf(9, 1)])
    expect(table.hasStaged('g', 'in', 0)).toBe(true)
    expect(table.hasStaged('g', 'in', 2)).toBe(false)
    expect(table.hasStaged('h', 'in', 0)).toBe(false)
    table.completed(preparedBy(table.end(by(0), true, false, null, 7)), 8)
    expect(table.hasStaged('g', 'in', 0)).toBe(false)
    expect(table.stageOffsets(by(0), 'g', [commitOf(3)])).toEqual(refused('INVALID_TXN_STATE'))
  })

  test('is refused to those who do not have the id, and while the one before is being ended', () => {
    const { table } = tableWith(2)
    const steps = [
      (epoch: number, id = 7) => table.addPartitions(by(epoch, id), [['a', 0]], 1),
      (epoch: number, id = 7) => table.addGroup(by(epoch, id), 'g', 1),
      (epoch: number, id = 7) => table.stageOffsets(by(epoch, id), 'g', []),
    ]
    for (const step of steps) {
      expect(step(1)).toEqual(refused('PRODUCER_FENCED'))
      expect(step(3)).toEqual(refused('PRODUCER_FENCED'))
      expect(step(2, 8)).toEqual(refused('INVALID_PRODUCER_ID_MAPPING'))
    }
    expect(table.addGroup({ ...by(2), transactionalId: 'unknown' }, 'g', 1)).toEqual(
      refused('INVALID_PRODUCER_ID_MAPPING'),
    )
    expect(table.get(ID)?.state).toBe('Empty')
    begin(table, 2)
    table.end(by(2), true, false, null, 2)
    for (const step of steps) expect(step(2)).toEqual(refused('CONCURRENT_TRANSACTIONS'))
    expect(table.checkAppend(7, 2, 'out', 0)).toBe('INVALID_TXN_STATE')
  })
})

describe.each([
  ['first version', false],
  ['KIP-890', true],
])('end (%s)', (_, renews) => {
  const next = renews ? 1 : 0

  test.each([true, false])('commit: %s, and again', commit => {
    const { table, transaction } = tableWith(2)
    begin(table, 2)
    const step = table.end(by(2), commit, renews, null, 20)
    expect(preparedBy(step)).toBe(transaction)
    expect(transaction).toMatchObject({
      state: commit ? 'PrepareCommit' : 'PrepareAbort',
      epoch: 2 + next,
      markerProducerId: 7,
      markerEpoch: 2 + next,
    })
    expect(table.end(by(2), commit, renews, null, 21)).toEqual(refused('CONCURRENT_TRANSACTIONS'))
    expect(table.end(by(2), !commit, renews, null, 21)).toEqual(refused('INVALID_TXN_STATE'))
    table.completed(transaction, 22)
    expect(transaction).toMatchObject({
      state: commit ? 'CompleteCommit' : 'CompleteAbort',
      partitions: new Map(),
      updateTime: 22,
    })
    const again = table.end(by(2), commit, renews, null, 23)
    expect(again).toMatchObject({ kind: 'done' })
    expect(given(again)).toEqual([7, 2 + next])
    expect(table.end(by(2), !commit, renews, null, 23)).toEqual(refused('INVALID_TXN_STATE'))
    begin(table, 2 + next)
    expect(transaction).toMatchObject({ state: 'Ongoing', startTime: 10 })
  })

  test('what could not be stored was not decided: the producer goes on as before, and may decide otherwise', () => {
    for (const epoch of [2, EPOCH_MAX]) {
      const { table, transaction } = tableWith(epoch)
      begin(table, epoch)
      table.undecided(preparedBy(table.end(by(epoch), true, renews, 8, 20)))
      expect(transaction.state).toBe('Ongoing')
      expect(table.checkAppend(7, epoch, 'out', 0)).toBeNull()
      expect(table.of(8)).toBeUndefined()
      expect(table.addPartitions(by(epoch), [['b', 0]], 21)).toMatchObject({ kind: 'changed' })
      expect(table.nextDeadline()).toBe(1_010)
      table.completed(preparedBy(table.end(by(epoch), false, renews, 8, 22)), 23)
      expect(transaction.state).toBe('CompleteAbort')
    }
  })

  test('is refused to zombies and where there is nothing', () => {
    const { table } = tableWith(2)
    expect(table.end({ ...by(2), transactionalId: 'unknown' }, true, renews, null, 1)).toEqual(
      refused('INVALID_PRODUCER_ID_MAPPING'),
    )
    expect(table.end(by(2), true, renews, null, 1)).toEqual(refused('INVALID_TXN_STATE'))
    begin(table, 2)
    expect(table.end(by(1), true, renews, null, 1)).toEqual(refused('PRODUCER_FENCED'))
    expect(table.end(by(2, 6), true, renews, null, 1)).toEqual(refused('INVALID_PRODUCER_ID_MAPPING'))
    expect(table.get(ID)?.state).toBe('Ongoing')
  })
})

describe('end (KIP-890)', () => {
  test('the last epoch leads to another producer id; markers have the old one', () => {
    const { table, transaction } = tableWith(EPOCH_MAX)
    begin(table, EPOCH_MAX)
    expect(table.end(by(EPOCH_MAX), true, true, null, 2)).toEqual({ kind: 'needs-producer-id' })
    expect(transaction.state).toBe('Ongoing')
    table.completed(preparedBy(table.end(by(EPOCH_MAX), true, true, 8, 2)), 3)
    expect(transaction).toMatchObject({ producerId: 8, epoch: 0, markerProducerId: 7, markerEpoch: 32_767 })
    expect(given(table.end(by(EPOCH_MAX), true, true, null, 4))).toEqual([8, 0])
    begin(table, 0, 8)
    expect(table.end(by(EPOCH_MAX), true, true, null, 4)).toEqual(refused('INVALID_PRODUCER_ID_MAPPING'))
  })

  test('an abort of nothing gives a new epoch, once, and has it stored whenever it is asked for', () => {
    const { table } = tableWith(2)
    const step = table.end(by(2), false, true, null, 3)
    expect(step).toMatchObject({ kind: 'done', changed: true, transaction: { state: 'CompleteAbort' } })
    expect(given(step)).toEqual([7, 3])
    // The first time may not have been stored: without that a crash would give the epoch to somebody else.
    const again = table.end(by(2), false, true, null, 4)
    expect(again).toMatchObject({ kind: 'done', changed: true })
    expect(given(again)).toEqual([7, 3])
    expect(given(table.end(by(3), false, true, null, 5))).toEqual([7, 4])
    expect(table.end(by(2), false, true, null, 6)).toEqual(refused('PRODUCER_FENCED'))
  })

  test('an abort of nothing with the last epoch leads to another producer id', () => {
    const { table } = tableWith(EPOCH_MAX)
    expect(table.end(by(EPOCH_MAX), false, true, null, 3)).toEqual({ kind: 'needs-producer-id' })
    expect(given(table.end(by(EPOCH_MAX), false, true, 8, 3))).toEqual([8, 0])
  })

  test('of before an init is no repetition', () => {
    const { table } = tableWith(2)
    begin(table, 2)
    table.completed(preparedBy(table.end(by(2), true, true, null, 3)), 4)
    expect(given(table.init(initBy(2), null, 5))).toEqual([7, 4])
    expect(table.end(by(2), true, true, null, 6)).toEqual(refused('PRODUCER_FENCED'))
  })
})

describe('time-out', () => {
  test('aborts what takes too long, fences the producer, and leaves others alone', () => {
    const { table, transaction } = tableWith(2)
    expect(table.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
    begin(table, 2)
    expect(table.nextDeadline()).toBe(1_010)
    expect(table.expire(1_009)).toEqual([])
    expect(table.expire(1_010)).toEqual([transaction])
    expect(table.expire(1_011)).toEqual([])
    expect(table.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
    expect(transaction).toMatchObject({ state: 'PrepareAbort', markerEpoch: 3 })
    table.completed(transaction, 1_012)
    for (const renews of [true, false]) {
      for (const commit of [true, false])
        expect(table.end(by(2), commit, renews, null, 1_013)).toEqual(refused('PRODUCER_FENCED'))
    }
    expect(table.init(initBy(2), null, 1_013)).toEqual(refused('PRODUCER_FENCED'))
    expect(given(table.init(initBy(), null, 1_013))).toEqual([7, 4])
  })

  test('that could not be stored leaves the producer as it was, and is tried again with the same epoch', () => {
    const { table, transaction } = tableWith(EPOCH_MAX)
    begin(table, EPOCH_MAX)
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(table.expire(1_010)).toEqual([transaction])
      expect(transaction.markerEpoch).toBe(EPOCH_MAX + 1)
      table.undecided(transaction)
      expect(table.checkAppend(7, EPOCH_MAX, 'out', 0)).toBeNull()
    }
  })

  test('what is decided does not run out', () => {
    const { table } = tableWith()
    begin(table, 0)
    table.end(by(0), true, false, null, 20)
    expect(table.expire(5_000)).toEqual([])
  })
})

test('entries that were stored are taken over; a later one replaces an earlier one', () => {
  const table = new TransactionTable(60_000)
  table.load({ ...newTransaction(ID, 7, 1_000, 0), state: 'Ongoing', startTime: 50 })
  expect(table.nextDeadline()).toBe(1_050)
  table.load({ ...newTransaction(ID, 8, 1_000, 0), state: 'PrepareCommit' })
  expect(table.nextDeadline()).toBe(Number.POSITIVE_INFINITY)
  expect([table.of(7), table.of(8)]).toEqual([undefined, table.get(ID)])
  table.remove(ID)
  expect([...table.all, table.of(8)]).toEqual([undefined])
})

test('only what is not under way is unused', () => {
  const table = new TransactionTable(60_000)
  const states = [
    'Empty',
    'Ongoing',
    'PrepareCommit',
    'PrepareAbort',
    'CompleteCommit',
    'CompleteAbort',
  ] as const
  for (const [index, state] of states.entries())
    table.load({ ...newTransaction(state, index, 1_000, 100), state })
  const names = (time: number): string[] => table.unusedSince(time).map(each => each.transactionalId)
  expect(names(100)).toEqual([])
  expect(names(101)).toEqual(['Empty', 'CompleteCommit', 'CompleteAbort'])
})

/** A process that uses a transactional id: all that it knows is what it was answered. */
interface Instance {
  readonly transactionalId: string
  readonly renews: boolean
  identity: { producerId: number; epoch: number } | null
  /** Asked and not heard of: what it asks again before anything else, and the answer that it must get unless it was fenced. */
  unanswered:
    | { readonly commit: boolean; readonly answer: string }
    | { readonly init: true; readonly answer: string }
    | null
}

interface Decision {
  readonly commit: boolean
  readonly partitions: string
  readonly offsets: string
  /** Who had the id before, in case it cannot be stored. */
  readonly owner: Instance | null
}

class World {
  readonly table = new TransactionTable(100_000)
  readonly instances: Instance[] = []
  /** Transactional id → the only one whose requests may be accepted. */
  readonly owners = new Map<string, Instance | null>()
  readonly decided = new Map<Transaction, Decision>()
  /** Of transactions under way, as their producers see them. */
  readonly parts = new Map<string, { partitions: Set<string>; offsets: Map<string, number> }>()
  /** Identity → who was given it. */
  readonly given = new Map<string, Instance>()
  readonly epochs = new Map<number, number>()
  now = 1_000
  /** Answers that came with a repetition. */
  repeated = 0
  #nextProducerId = 100

  constructor(firstEpoch: number) {
    for (const id of ['x', 'y']) {
      this.table.load({ ...newTransaction(id, id === 'x' ? 1 : 2, 50, 0), epoch: firstEpoch })
      this.owners.set(id, null)
      for (const renews of [true, false, true])
        this.instances.push({ transactionalId: id, renews, identity: null, unanswered: null })
    }
  }

  get fresh(): number {
    return this.#nextProducerId++
  }

  partOf(id: string): { partitions: Set<string>; offsets: Map<string, number> } {
    const part = this.parts.get(id) ?? { partitions: new Set(), offsets: new Map() }
    this.parts.set(id, part)
    return part
  }

  isOwner(instance: Instance): boolean {
    return this.owners.get(instance.transactionalId) === instance
  }

  /** The answer reaches the producer, or not. */
  answer(instance: Instance, transaction: Transaction): string {
    const { producerId, epoch } = transaction
    const name = `${producerId}/${epoch}`
    assert(epoch <= EPOCH_MAX, 'the last epoch is for fencing')
    assert([undefined, instance].includes(this.given.get(name)), `${name} is given to two producers`)
    this.given.set(name, instance)
    assert(epoch >= (this.epochs.get(producerId) ?? 0), `the epoch of ${producerId} went back to ${epoch}`)
    this.epochs.set(producerId, epoch)
    return name
  }

  hear(instance: Instance, { producerId, epoch }: Transaction): void {
    instance.identity = { producerId, epoch }
    instance.unanswered = null
  }

  /** Another process comes with the same transactional id; the one before lives on, knowing nothing of that. */
  restart({ transactionalId, renews }: Instance): Instance {
    const instance = { transactionalId, renews, identity: null, unanswered: null }
    this.instances.push(instance)
    return instance
  }

  init(instance: Instance, isLost: boolean): void {
    const { transactionalId } = instance
    const { producerId, epoch } = instance.identity ?? { producerId: -1, epoch: -1 }
    const request = { transactionalId, producerId, epoch, timeoutMs: 50 }
    let step = this.table.init(request, null, this.now)
    if (step.kind === 'needs-producer-id') step = this.table.init(request, this.fresh, this.now)
    if (step.kind === 'refused') {
      assert(
        producerId < 0 || step.error !== 'PRODUCER_FENCED' || !this.isOwner(instance),
        'the owner is fenced',
      )
      return
    }
    assert(step.kind !== 'needs-producer-id')
    assert(producerId < 0 || this.isOwner(instance), 'a zombie begins again')
    if (step.kind === 'aborting') {
      this.decide(step.transaction, false, this.owners.get(transactionalId)!, epoch)
      this.owners.set(transactionalId, instance)
      instance.unanswered = null
      return
    }
    const answer = this.answer(instance, step.transaction)
    if (instance.unanswered !== null && 'init' in instance.unanswered && producerId >= 0)
      assert.equal(answer, instance.unanswered.answer, 'a repeated init is answered otherwise')
    this.owners.set(transactionalId, instance)
    this.parts.delete(transactionalId)
    if (!isLost) this.hear(instance, step.transaction)
    else instance.unanswered = producerId >= 0 ? { init: true, answer } : null
  }

  decide(transaction: Transaction, commit: boolean, owner: Instance | null, writerEpoch = -1): void {
    const { partitions, offsets } = this.partOf(transaction.transactionalId)
    assert(isPreparing(transaction))
    assert(transaction.markerEpoch >= writerEpoch)
    this.decided.set(transaction, {
      commit,
      partitions: [...partitions].sort().join(),
      offsets: JSON.stringify([...offsets].sort()),
      owner,
    })
  }

  end(instance: Instance, commit: boolean, isLost: boolean): void {
    if (instance.identity === null) return
    const { transactionalId, renews, identity } = instance
    const producer = { transactionalId, ...identity }
    let step = this.table.end(producer, commit, renews, null, this.now)
    if (step.kind === 'needs-producer-id')
      step = this.table.end(producer, commit, renews, this.fresh, this.now)
    if (step.kind === 'refused') {
      const { unanswered } = instance
      const mustBeAnswered = unanswered !== null && 'commit' in unanswered && unanswered.commit === commit
      if (mustBeAnswered && this.isOwner(instance)) assert.equal(step.error, 'CONCURRENT_TRANSACTIONS')
      return
    }
    assert(step.kind !== 'needs-producer-id')
    assert(this.isOwner(instance), 'a zombie ends a transaction')
    const answer = this.answer(instance, step.transaction)
    if (step.kind === 'prepared') {
      assert(instance.unanswered === null || 'init' in instance.unanswered, 'a transaction is decided twice')
      this.decide(step.transaction, commit, instance, identity.epoch)
      assert(!renews || step.transaction.markerEpoch > identity.epoch, 'late batches can slip in')
      // The answer comes when it is completed; in this world it is always lost, and asked for again.
      instance.unanswered = { commit, answer }
      return
    }
    if (
      instance.unanswered !== null &&
      'commit' in instance.unanswered &&
      instance.unanswered.commit === commit
    )
      assert.equal(answer, instance.unanswered.answer, 'a repeated end is answered otherwise')
    if (isLost) instance.unanswered ??= { commit, answer }
    else this.hear(instance, step.transaction)
  }

  /** Adds a partition, or a group with an offset, and tries to append. */
  write(instance: Instance, partition: number, withOffsets: boolean): void {
    if (instance.identity === null) return
    const { transactionalId, identity } = instance
    const producer = { transactionalId, ...identity }
    const before = this.table.get(transactionalId)!
    if (instance.unanswered === null || !this.isOwner(instance)) {
      const step = withOffsets
        ? this.table.addGroup(producer, 'g', this.now)
        : this.table.addPartitions(producer, [['out', partition]], this.now)
      const part = this.partOf(transactionalId)
      if (step.kind === 'changed') {
        assert(this.isOwner(instance), 'a zombie adds to a transaction')
        if (withOffsets) {
          const staged = this.table.stageOffsets(producer, 'g', [commitOf(this.now, partition)])
          assert.equal(staged.kind, 'changed')
          part.offsets.set(`in-${partition}`, this.now)
        } else part.partitions.add(`out-${partition}`)
      }
    }
    for (const index of [0, 1, 2]) {
      if (this.table.checkAppend(identity.producerId, identity.epoch, 'out', index) !== null) continue
      assert(this.isOwner(instance), 'a zombie appends')
      assert(before.state === 'Ongoing' && this.partOf(transactionalId).partitions.has(`out-${index}`))
    }
  }

  /** Somebody who has not heard asks again. */
  retry(who: number, isLost: boolean): void {
    const waiting = this.instances.filter(each => each.unanswered !== null)
    const instance = waiting[who % waiting.length]
    if (instance?.unanswered == null) return
    if ('init' in instance.unanswered) this.init(instance, isLost)
    else this.end(instance, instance.unanswered.commit, isLost)
    if (instance.unanswered === null) this.repeated++
  }

  expire(): void {
    for (const late of this.table.expire(this.now)) {
      this.decide(late, false, this.owners.get(late.transactionalId)!)
      this.owners.set(late.transactionalId, null)
    }
  }

  /** A decision is carried out, or could not be stored. */
  settle(isStored: boolean): void {
    const [first] = this.decided
    if (first === undefined) return
    const [transaction, decision] = first
    this.decided.delete(transaction)
    assert.equal(transaction.state, decision.commit ? 'PrepareCommit' : 'PrepareAbort')
    const partitions = [...transaction.partitions].flatMap(([topic, all]) =>
      [...all].map(each => `${topic}-${each}`),
    )
    assert.equal(partitions.sort().join(), decision.partitions)
    const offsets = [...(transaction.offsets.get('g') ?? [])].map(([place, { offset }]) => [place, offset])
    assert.equal(JSON.stringify(offsets.sort()), decision.offsets)
    const { transactionalId } = transaction
    if (isStored) {
      this.table.completed(transaction, this.now)
      this.parts.delete(transactionalId)
      assert(transaction.partitions.size + transaction.offsets.size === 0)
      return
    }
    this.table.undecided(transaction)
    this.owners.set(transactionalId, decision.owner)
    const { owner } = decision
    // It was told that it failed: the same again, or the other way.
    if (owner?.unanswered && 'commit' in owner.unanswered) {
      this.given.delete(owner.unanswered.answer)
      const { producerId, epoch } = owner.identity!
      if (this.epochs.has(producerId)) this.epochs.set(producerId, epoch)
      owner.unanswered = null
    }
  }
}

test('any interleaving: no zombie is accepted, no decision changed, no epoch given twice, nothing leaks into the next', () => {
  const action = fc.record({
    kind: fc.constantFrom(
      'init',
      'new',
      'write',
      'write',
      'write',
      'end',
      'end',
      'retry',
      'settle',
      'settle',
      'fail',
      'time',
    ),
    who: fc.oneof(fc.nat(1), fc.nat(20)),
    partition: fc.nat(2),
    flag: fc.boolean(),
    lost: fc.boolean(),
  })
  const seen = { open: 0, repeated: 0 }
  const run = (
    firstEpoch: number,
    actions: (typeof action extends fc.Arbitrary<infer T> ? T : never)[],
  ): void => {
    const world = new World(firstEpoch)
    for (const { kind, who, partition, flag, lost } of actions) {
      const instance = world.instances[who % world.instances.length]
      world.now += 1 + partition
      const { unanswered } = instance
      if (kind === 'new') world.init(world.restart(instance), lost)
      else if (kind === 'init' && unanswered === null) world.init(instance, lost)
      else if (kind === 'write') world.write(instance, partition, flag)
      else if (kind === 'end' && unanswered === null) world.end(instance, flag, lost)
      else if (kind === 'settle') world.settle(true)
      else if (kind === 'fail') world.settle(false)
      else if (kind === 'time') {
        if (flag) world.now += 50
        world.expire()
      } else if (kind === 'retry') world.retry(who, lost)
      for (const transaction of world.table.all) {
        if (isPreparing(transaction)) assert(world.decided.has(transaction))
        if (!isOpen(transaction)) assert.equal(transaction.partitions.size + transaction.offsets.size, 0)
        else seen.open++
      }
    }
    seen.repeated += world.repeated
  }
  const firstEpoch = fc.constantFrom(0, 5, EPOCH_MAX - 2, EPOCH_MAX - 1, EPOCH_MAX)
  fc.assert(fc.property(firstEpoch, fc.array(action, { minLength: 20, maxLength: 80, size: 'max' }), run), {
    numRuns: 2_000,
  })
  expect(seen.open).toBeGreaterThan(1_000)
  expect(seen.repeated).toBeGreaterThan(100)
})
