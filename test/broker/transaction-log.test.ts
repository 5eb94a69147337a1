/** How transactions are stored: everything comes back, in Kafka's bytes as far as Kafka knows it. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { newTransaction, type Transaction } from '../../src/broker/transaction.ts'
import {
  decodeTransaction,
  decodeTransactionKey,
  encodeTransaction,
  encodeTransactionKey,
} from '../../src/broker/transaction-log.ts'

const id = fc.integer({ min: -1, max: 2 ** 53 - 1 })
const epoch = fc.integer({ min: -1, max: 32_767 })
const time = fc.integer({ min: -1, max: 2 ** 45 })
const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 30 })
const partition = fc.nat(2 ** 31 - 1)

const commit = fc.record({
  topic: name,
  partition,
  offset: id,
  leaderEpoch: fc.integer({ min: -1, max: 2 ** 31 - 1 }),
  metadata: fc.string({ unit: 'binary', maxLength: 300 }),
})

const transactions: fc.Arbitrary<Transaction> = fc
  .record({
    transactionalId: name,
    producerId: id,
    epoch,
    previousProducerId: id,
    previousEpoch: epoch,
    timeoutMs: fc.nat(2 ** 31 - 1),
    state: fc.constantFrom(
      'Empty',
      'Ongoing',
      'PrepareCommit',
      'PrepareAbort',
      'CompleteCommit',
      'CompleteAbort',
    ),
    partitions: fc.array(fc.tuple(name, fc.uniqueArray(partition, { minLength: 1 }))),
    offsets: fc.array(fc.tuple(name, fc.array(commit))),
    markerProducerId: id,
    markerEpoch: epoch,
    startTime: time,
    updateTime: time,
  })
  .map(({ partitions, offsets, ...rest }) => ({
    ...rest,
    partitions: new Map(partitions.map(([topic, all]) => [topic, new Set(all)])),
    offsets: new Map(
      offsets.map(([group, commits]) => [
        group,
        new Map(commits.map(each => [`${each.topic}-${each.partition}`, each])),
      ]),
    ),
  }))

test('whatever is stored comes back', () => {
  fc.assert(
    fc.property(transactions, transaction => {
      const { transactionalId } = transaction
      expect(decodeTransactionKey(encodeTransactionKey(transactionalId))).toBe(transactionalId)
      expect(decodeTransaction(transactionalId, encodeTransaction(transaction))).toEqual(transaction)
    }),
    { numRuns: 300 },
  )
})

test('long names and metadata come back', () => {
  const long = 'ü'.repeat(16_000)
  const offsets = new Map([
    [long, new Map([['t-1', { topic: 't', partition: 1, offset: 5, leaderEpoch: -1, metadata: long }]])],
  ])
  const transaction = {
    ...newTransaction(long, 1, 2, 3),
    offsets,
    partitions: new Map([[long, new Set([1])]]),
  }
  expect(decodeTransactionKey(encodeTransactionKey(long))).toBe(long)
  expect(decodeTransaction(long, encodeTransaction(transaction))).toEqual(transaction)
})

/** As one of Kafka's tools reads a value of version 1, knowing no tags. */
const FIELDS = [
  '0001', // version
  '0000000000000fa0', // producer id 4000
  '0005', // epoch
  '0000ea60', // time-out 60 s
  '02', // PrepareCommit
  '03', // two topics
  '02' + '61', // "a"
  '03' + '00000000' + '00000007', // partitions 0 and 7
  '00', // no tags
  '03' + '6262', // "bb"
  '02' + '00000001',
  '00',
  '0000018bcfe56800', // last update 1700000000000
  '0000018bcfe56419', // start 1699999999001
]

const known: Transaction = {
  ...newTransaction('t', 4_000, 60_000, 1_700_000_000_000),
  epoch: 5,
  previousProducerId: 3_999,
  previousEpoch: 32_766,
  state: 'PrepareCommit',
  startTime: 1_699_999_999_001,
  markerProducerId: 4_000,
  markerEpoch: 5,
  partitions: new Map([
    ['a', new Set([0, 7])],
    ['bb', new Set([1])],
  ]),
}

test('key and value are those of Kafka (TransactionLogKey 0, TransactionLogValue 1)', () => {
  expect(encodeTransactionKey('tx-é').toString('hex')).toBe('0000' + '0005' + '74782dc3a9')
  const tags = [
    '03',
    '00' + '08' + '0000000000000f9f', // PreviousProducerId
    '64' + '02' + '7ffe', // ours, which Kafka passes over: previous epoch, markers
    '65' + '0a' + '0000000000000fa0' + '0005',
  ]
  expect(encodeTransaction(known).toString('hex')).toBe([...FIELDS, ...tags].join(''))
})

test('what Kafka has stored is read: without our tags, with those that we do not know, and with null for no partitions', () => {
  // NextProducerId (1) and ClientTransactionVersion (2)
  const tags = [
    '03',
    '00' + '08' + '0000000000000f9f',
    '01' + '08' + '0000000000000fa1',
    '02' + '02' + '0002',
  ]
  const read = decodeTransaction('t', Buffer.from([...FIELDS, ...tags].join(''), 'hex'))
  expect(read).toEqual({ ...known, previousEpoch: -1 })

  const empty = [...FIELDS.slice(0, 4), '00', '00', ...FIELDS.slice(12), '00']
  expect(decodeTransaction('t', Buffer.from(empty.join(''), 'hex'))).toMatchObject({
    state: 'Empty',
    partitions: new Map(),
    previousProducerId: -1,
  })
})

test('a key of another kind is passed over', () => {
  expect(decodeTransactionKey(Buffer.from('0001000174', 'hex'))).toBeNull()
})

test('bytes that end early are refused', () => {
  const value = encodeTransaction(known)
  for (let end = 2; end < value.length; end++)
    expect(() => decodeTransaction('t', value.subarray(0, end)), `${end}`).toThrow(/malformed/)
})
