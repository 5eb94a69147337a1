/**
 * How a transaction is stored in the log `__transaction_state`: Kafka's own record, version 1, so that Kafka's tools read
 * it, with what we know beyond in tagged fields of our own, which others pass over.
 *
 *   key:    version int16 = 0 │ transactional id string
 *   value:  version int16 = 1 │ producer id int64 │ epoch int16 │ time-out int32 (ms) │ state int8
 *           │ partitions: compact array of { topic compact string │ compact array of int32 │ no tags }
 *           │ last update int64 (ms) │ start int64 (ms)
 *           │ tags: 0 previous producer id int64, 100 previous epoch int16, 101 the markers' producer id int64 and epoch int16,
 *             102 offsets: array of { group │ array of { topic │ partition │ offset │ leader epoch │ metadata } }
 *
 * Offsets that wait for the end of a transaction are stored with it, not with the group: so the decision about both is one record.
 */

import assert from 'node:assert/strict'
import { ByteReader, ByteWriter } from '../lib/bytes.ts'
import type { OffsetCommit } from './offsets.ts'
import type { Transaction, TransactionState } from './transaction.ts'

const KEY_VERSION = 0
const VALUE_VERSION = 1

/** In the order of Kafka's numbers. */
const STATES: readonly TransactionState[] = [
  'Empty',
  'Ongoing',
  'PrepareCommit',
  'PrepareAbort',
  'CompleteCommit',
  'CompleteAbort',
]

const TAG_PREVIOUS_PRODUCER_ID = 0
const TAG_PREVIOUS_EPOCH = 100
const TAG_MARKER = 101
const TAG_OFFSETS = 102

export function encodeTransactionKey(transactionalId: string): Buffer {
  const writer = new ByteWriter()
  writer.int16(KEY_VERSION)
  writer.string16(transactionalId)
  return bytesOf(writer)
}

/** Null for keys of another kind. */
export function decodeTransactionKey(key: Buffer): string | null {
  const reader = new ByteReader(key)
  return reader.int16() === KEY_VERSION ? reader.utf8(reader.int16()) : null
}

export function encodeTransaction(transaction: Transaction): Buffer {
  const writer = new ByteWriter()
  writer.int16(VALUE_VERSION)
  writer.int64(transaction.producerId)
  writer.int16(transaction.epoch)
  writer.int32(transaction.timeoutMs)
  writer.int8(STATES.indexOf(transaction.state))
  writer.uvarint(transaction.partitions.size + 1)
  for (const [topic, partitions] of transaction.partitions) {
    writer.stringVarint(topic, 1)
    writer.uvarint(partitions.size + 1)
    for (const partition of partitions) writer.int32(partition)
    writer.uvarint(0)
  }
  writer.int64(transaction.updateTime)
  writer.int64(transaction.startTime)
  const tags: [tag: number, content: ByteWriter][] = [
    [TAG_PREVIOUS_PRODUCER_ID, written(tag => tag.int64(transaction.previousProducerId))],
    [TAG_PREVIOUS_EPOCH, written(tag => tag.int16(transaction.previousEpoch))],
    [TAG_MARKER, written(tag => writeMarker(tag, transaction))],
  ]
  if (transaction.offsets.size > 0)
    tags.push([TAG_OFFSETS, written(tag => writeOffsets(tag, transaction.offsets))])
  writer.uvarint(tags.length)
  for (const [tag, content] of tags) {
    writer.uvarint(tag)
    writer.uvarint(content.bytes)
    writer.append(content)
  }
  return bytesOf(writer)
}

/** What `encodeTransaction` made: the log has checked that the bytes are those that were written. */
export function decodeTransaction(transactionalId: string, value: Buffer): Transaction {
  const reader = new ByteReader(value)
  assert.equal(reader.int16(), VALUE_VERSION)
  const producerId = reader.int64()
  const epoch = reader.int16()
  const timeoutMs = reader.int32()
  const state = STATES[reader.int8()]
  assert(state !== undefined)
  const partitions = readPartitions(reader)
  const transaction: Transaction = {
    transactionalId,
    producerId,
    epoch,
    previousProducerId: -1,
    previousEpoch: -1,
    timeoutMs,
    state,
    partitions,
    offsets: new Map(),
    markerProducerId: producerId,
    markerEpoch: epoch,
    updateTime: reader.int64(),
    startTime: reader.int64(),
  }
  for (let tags = reader.uvarint(); tags > 0; tags--) {
    const tag = reader.uvarint()
    const content = new ByteReader(reader.view(reader.uvarint()))
    if (tag === TAG_PREVIOUS_PRODUCER_ID) transaction.previousProducerId = content.int64()
    else if (tag === TAG_PREVIOUS_EPOCH) transaction.previousEpoch = content.int16()
    else if (tag === TAG_MARKER) {
      transaction.markerProducerId = content.int64()
      transaction.markerEpoch = content.int16()
    } else if (tag === TAG_OFFSETS) readOffsets(content, transaction.offsets)
  }
  return transaction
}

function writeMarker(writer: ByteWriter, { markerProducerId, markerEpoch }: Transaction): void {
  writer.int64(markerProducerId)
  writer.int16(markerEpoch)
}

function readPartitions(reader: ByteReader): Map<string, Set<number>> {
  const topics = new Map<string, Set<number>>()
  for (let count = reader.uvarint() - 1; count > 0; count--) {
    const topic = reader.utf8(reader.uvarint() - 1)
    const partitions = new Set<number>()
    for (let left = reader.uvarint() - 1; left > 0; left--) partitions.add(reader.int32())
    reader.uvarint()
    topics.set(topic, partitions)
  }
  return topics
}

function writeOffsets(writer: ByteWriter, offsets: Transaction['offsets']): void {
  writer.uvarint(offsets.size)
  for (const [group, commits] of offsets) {
    writer.stringVarint(group, 0)
    writer.uvarint(commits.size)
    for (const { topic, partition, offset, leaderEpoch = -1, metadata } of commits.values()) {
      writer.stringVarint(topic, 0)
      writer.int32(partition)
      writer.int64(offset)
      writer.int32(leaderEpoch)
      writer.stringVarint(metadata, 0)
    }
  }
}

function readOffsets(reader: ByteReader, offsets: Transaction['offsets']): void {
  for (let groups = reader.uvarint(); groups > 0; groups--) {
    const group = reader.utf8(reader.uvarint())
    const commits = new Map<string, OffsetCommit>()
    for (let left = reader.uvarint(); left > 0; left--) {
      const topic = reader.utf8(reader.uvarint())
      const partition = reader.int32()
      const offset = reader.int64()
      const leaderEpoch = reader.int32()
      const metadata = reader.utf8(reader.uvarint())
      commits.set(`${topic}-${partition}`, { topic, partition, offset, leaderEpoch, metadata })
    }
    offsets.set(group, commits)
  }
}

function written(write: (writer: ByteWriter) => void): ByteWriter {
  const writer = new ByteWriter(64)
  write(writer)
  return writer
}

const bytesOf = (writer: ByteWriter): Buffer => Buffer.concat(writer.finish().parts)
