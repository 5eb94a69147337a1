/**
 * The simulation of transactions over many seeds, and over bugs planted in the broker, each of which it must find.
 *
 * SLUICE_SIM_SEEDS: how many seeds. SLUICE_SIM_SEED: only this one, with everything that happens.
 */

import { afterEach, describe, expect, test, vi } from 'vitest'
import { Broker } from '../../src/broker/broker.ts'
import { Partition } from '../../src/broker/partition.ts'
import { StateLog } from '../../src/broker/state-log.ts'
import { type TransactionalProducer, TransactionTable } from '../../src/broker/transaction.ts'
import { Transactions } from '../../src/broker/transactions.ts'
import { isSluiceError } from '../../src/errors.ts'
import { ProducerState } from '../../src/log/producer-state.ts'
import { TransactionIndex } from '../../src/log/transaction-index.ts'
import { type Outcome, simulateTransactions } from './transaction-simulation.ts'

const SEEDS = Number(process.env.SLUICE_SIM_SEEDS ?? 140)
const PARTS = 4
const MS_PER_SEED_MAX = 3_000

/** What the simulation says of a seed that failed, as far as it was a check of its own that failed. */
const FOUND = /^seed \d+: AssertionError/

const only = process.env.SLUICE_SIM_SEED
const reached: Outcome = {}

/** What must have come to pass, and how often per thousand seeds at least. */
const expected: Readonly<Record<string, number>> = {
  abort: 1_000,
  'abort of nothing': 50,
  'batch out of turn': 500,
  'clean close': 50,
  'code 51': 200,
  commit: 1_000,
  compaction: 50,
  'crash in recovery': 300,
  DISK_FULL: 50,
  fenced: 1_000,
  kill: 300,
  'late batch': 300,
  'new epoch': 500,
  'offsets of a transaction': 300,
  'open refused': 50,
  'open transaction': 1_000,
  'plain batch': 5_000,
  'power cut': 1_000,
  'records deleted': 500,
  'recovery: sync-failed': 10,
  'repeated batch': 30,
  'repeated end': 200,
  STORAGE_FAILED: 10,
  'unstable offset': 10,
  'zombie refused': 500,
  'zombie with a transaction': 500,
}

async function runPart(part: number): Promise<void> {
  for (let seed = part; seed < SEEDS; seed += PARTS) {
    const outcome = await simulateTransactions(seed)
    for (const [what, count] of Object.entries(outcome)) reached[what] = (reached[what] ?? 0) + count
  }
}

if (only !== undefined) {
  test(`seed ${only}`, async () => {
    await simulateTransactions(Number(only), { trace: line => console.log(line) })
  })
} else {
  const timeout = (SEEDS / PARTS) * MS_PER_SEED_MAX + 30_000
  for (let part = 0; part < PARTS; part++) {
    test(`part ${part + 1} of ${PARTS}, ${SEEDS} seeds`, () => runPart(part), timeout)
  }

  test('what matters has come to pass', () => {
    for (const [what, perThousand] of Object.entries(expected))
      expect(reached[what] ?? 0, what).toBeGreaterThanOrEqual(Math.floor((perThousand * SEEDS) / 2_000))
  })

  describe('a bug is found:', { timeout: 400_000 }, plantedBugs)
}

/** The first seed that fails, with its message. */
async function firstFailure(seeds: number): Promise<string> {
  for (let seed = 0; seed < seeds; seed++) {
    try {
      await simulateTransactions(seed)
    } catch (error) {
      return (error as Error).message
    }
  }
  return 'no seed failed'
}

/** Whether the caller's caller, or one further out, has this name. */
const isWithin = (name: string): boolean => new Error().stack?.includes(name) === true

function plantedBugs(): void {
  afterEach(() => {
    vi.restoreAllMocks()
  })

  test('markers are written before the decision is durable', async () => {
    const { write } = StateLog.prototype
    vi.spyOn(StateLog.prototype, 'write').mockImplementation(function (this: StateLog, entries) {
      const written = write.call(this, entries)
      if (!isWithin('#end')) return written
      written.catch(() => {})
      return Promise.resolve()
    })
    expect(await firstFailure(300)).toMatch(FOUND)
  })

  test('the end is answered before the markers are written', async () => {
    const { endTransaction } = Partition.prototype
    vi.spyOn(Partition.prototype, 'endTransaction').mockImplementation(function (this: Partition, ...args) {
      if (args[0] % 2 === 0) return Promise.resolve()
      return endTransaction.call(this, ...args)
    })
    expect(await firstFailure(20)).toMatch(/has ended|lie before one marker|last stable offset/)
  })

  test('recovery forgets what was aborted', async () => {
    const { append } = TransactionIndex.prototype
    vi.spyOn(TransactionIndex.prototype, 'append').mockImplementation(function (
      this: TransactionIndex,
      entry,
    ) {
      if (!isWithin('noteProducer')) append.call(this, entry)
    })
    expect(await firstFailure(100)).toMatch(/is aborted, and was shown/)
  })

  test('recovery trusts an index of aborted transactions that was never synced', async () => {
    vi.spyOn(TransactionIndex.prototype, 'keep').mockImplementation(function (this: TransactionIndex) {
      this.cut(Number.MAX_SAFE_INTEGER)
    })
    expect(await firstFailure(300)).toMatch(/was not shown|and was shown|is not known/)
  })

  test('a snapshot of producers forgets open transactions', async () => {
    const { transactionOffset } = ProducerState.prototype
    vi.spyOn(ProducerState.prototype, 'transactionOffset').mockImplementation(function (
      this: ProducerState,
      id,
    ) {
      return isWithin('encode') ? -1 : transactionOffset.call(this, id)
    })
    expect(await firstFailure(200)).toMatch(FOUND)
  })

  test('the last stable offset is the high watermark', async () => {
    vi.spyOn(Partition.prototype, 'lastStableOffset', 'get').mockImplementation(function (this: Partition) {
      return this.highWatermark
    })
    expect(await firstFailure(20)).toMatch(/stable/)
  })

  test('the epoch of a request is not looked at', async () => {
    const { addPartitions, stageOffsets, end } = TransactionTable.prototype
    const current = (table: TransactionTable, producer: TransactionalProducer): TransactionalProducer => ({
      ...producer,
      epoch: table.get(producer.transactionalId)?.epoch ?? producer.epoch,
    })
    vi.spyOn(TransactionTable.prototype, 'addPartitions').mockImplementation(function (
      this: TransactionTable,
      who,
      ...rest
    ) {
      return addPartitions.call(this, current(this, who), ...rest)
    })
    vi.spyOn(TransactionTable.prototype, 'stageOffsets').mockImplementation(function (
      this: TransactionTable,
      who,
      ...rest
    ) {
      return stageOffsets.call(this, current(this, who), ...rest)
    })
    vi.spyOn(TransactionTable.prototype, 'end').mockImplementation(function (
      this: TransactionTable,
      who,
      ...rest
    ) {
      return end.call(this, current(this, who), ...rest)
    })
    expect(await firstFailure(20)).toMatch(/a zombie (adds|commits|ends)|is open from \d+ on, stable is/)
  })

  test('the epoch of a batch is not looked at', async () => {
    const { checkAppend } = TransactionTable.prototype
    vi.spyOn(TransactionTable.prototype, 'checkAppend').mockImplementation(function (
      this: TransactionTable,
      ...args
    ) {
      const [producerId, , topic, partition] = args
      return checkAppend.call(this, producerId, this.of(producerId)?.epoch ?? -1, topic, partition)
    })
    // The log has its own eye on that.
    const { check } = ProducerState.prototype
    vi.spyOn(ProducerState.prototype, 'check').mockImplementation(function (this: ProducerState, ...args) {
      try {
        return check.call(this, ...args)
      } catch (error) {
        if (isSluiceError(error, 'INVALID_PRODUCER_EPOCH')) return -1
        throw error
      }
    })
    expect(await firstFailure(200)).toMatch(/after its transaction was over|lie before one marker/)
  })

  test('a partition is written to before the transaction is stored with it', async () => {
    vi.spyOn(Transactions.prototype, 'addPartitions').mockImplementation(function (
      this: Transactions,
      producer,
      partitions,
    ) {
      for (const [topic, partition] of partitions)
        this.get(producer.transactionalId)?.partitions.set(topic, new Set([partition]))
      return Promise.resolve()
    })
    expect(await firstFailure(50)).toMatch(FOUND)
  })

  test('offsets are seen before the commit', async () => {
    const { stageOffsets } = Broker.prototype
    vi.spyOn(Broker.prototype, 'stageOffsets').mockImplementation(async function (this: Broker, ...args) {
      const [, group, , commits] = args
      const results = await stageOffsets.call(this, ...args)
      await this.commitEach(group, null, commits)
      return results
    })
    expect(await firstFailure(50)).toMatch(/by an offset of group/)
  })

  test('offsets that wait for a commit are called stable', async () => {
    vi.spyOn(Transactions.prototype, 'hasStaged').mockReturnValue(false)
    expect(await firstFailure(50)).toMatch(/is called stable/)
  })

  test('a batch whose transaction ends while its partition is being added is stored all the same', async () => {
    const { addPartitions, checkAppend } = Transactions.prototype
    // As things are, what was stored first is answered first, and nothing can happen.
    vi.spyOn(Transactions.prototype, 'addPartitions').mockImplementation(async function (
      this: Transactions,
      ...args
    ) {
      await addPartitions.call(this, ...args)
      for (let turn = 0; turn < 12; turn++) await new Promise(setImmediate)
    })
    expect(await firstFailure(15)).toBe('no seed failed')
    vi.spyOn(Transactions.prototype, 'checkAppend').mockImplementation(function (
      this: Transactions,
      ...args
    ) {
      return isWithin('appending') ? null : checkAppend.call(this, ...args)
    })
    expect(await firstFailure(600)).toMatch(/has ended|lie before one marker|last stable offset/)
  })
}
