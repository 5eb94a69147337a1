/**
 * The marker that ends a transaction in a partition: a control batch with a single record.
 *
 *   batch   attributes: transactional and control; producer id and epoch of the transaction; base sequence −1
 *   record  key:    version int16 = 0 │ type int16: 0 abort, 1 commit
 *           value:  version int16 = 0 │ coordinator epoch int32
 *
 * Source: Kafka's "Control Batches" (https://kafka.apache.org/documentation/#controlbatch).
 */

import {
  BATCH_HEADER_BYTES,
  BATCH_PREFIX_BYTES,
  CONTROL,
  patchChecksum,
  TRANSACTIONAL,
  writeInt64,
} from './batch.ts'

/** Length, attributes, timestamp delta, offset delta, key length, key, value length, value, number of headers. */
const RECORD_BYTES = 1 + 1 + 1 + 1 + 1 + 4 + 1 + 6 + 1
const KEY_AT = BATCH_HEADER_BYTES + 5
const VALUE_AT = KEY_AT + 4 + 1
const ABORT = 0
const COMMIT = 1
/** There is one coordinator, for ever. */
const COORDINATOR_EPOCH = 0

const zigzag = (value: number): number => value << 1

/** With base offset 0, to be patched. `timestamp`: ms. */
export function encodeMarker(producerId: number, epoch: number, commit: boolean, timestamp: number): Buffer {
  const bytes = Buffer.alloc(BATCH_HEADER_BYTES + RECORD_BYTES)
  bytes.writeInt32BE(bytes.length - BATCH_PREFIX_BYTES, 8)
  bytes[16] = 2
  bytes.writeInt16BE(TRANSACTIONAL | CONTROL, 21)
  writeInt64(bytes, 27, timestamp)
  writeInt64(bytes, 35, timestamp)
  writeInt64(bytes, 43, producerId)
  bytes.writeInt16BE(epoch, 51)
  bytes.writeInt32BE(-1, 53)
  bytes.writeInt32BE(1, 57)
  bytes[BATCH_HEADER_BYTES] = zigzag(RECORD_BYTES - 1)
  bytes[KEY_AT - 1] = zigzag(4)
  bytes.writeInt16BE(commit ? COMMIT : ABORT, KEY_AT + 2)
  bytes[VALUE_AT - 1] = zigzag(6)
  bytes.writeInt32BE(COORDINATOR_EPOCH, VALUE_AT + 2)
  patchChecksum(bytes, 0)
  return bytes
}

/** Whether a control batch, as `encodeMarker` makes them, commits. */
export const isCommitMarker = (bytes: Buffer, at: number): boolean =>
  bytes.readInt16BE(at + KEY_AT + 2) === COMMIT
