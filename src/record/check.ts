/**
 * Whether the records of a batch are what its header says, for batches that come from outside: a producer can send a good checksum over nonsense,
 * and everybody who reads the partition would stop there.
 *
 * What is compressed is not looked into, unless the keys must be: decompressing is the work of those who read, and only they can bound what it may
 * take up.
 */

import { SluiceError } from '../errors.ts'
import { baseOffset, compressionOf } from './batch.ts'
import { HeaderCursor, RecordCursor } from './cursor.ts'

/** What `recordErrors` in the detail of INVALID_RECORD holds. */
export interface RecordError {
  /** Of the record within its batch. */
  readonly index: number
  readonly message: string
}

const headers = new HeaderCursor()

/** `needsKeys`: the topic is compacted, and without a key nothing could ever replace a record. Throws INVALID_RECORD. */
export function checkRecords(batch: Buffer, needsKeys: boolean): void {
  if (compressionOf(batch, 0) !== 0 && !needsKeys) return
  const first = baseOffset(batch, 0)
  const recordErrors: RecordError[] = []
  const cursor = new RecordCursor(batch)
  for (let index = 0; cursor.next(); index++) {
    if (cursor.offset !== first + index) {
      throw malformed(`record ${index} says that it is number ${cursor.offset - first}`)
    }
    headers.open(cursor.bytes, cursor.headersStart, cursor.headerCount, cursor.end)
    while (headers.next());
    if (headers.end !== cursor.end) throw malformed(`record ${index} has bytes behind its headers`)
    if (needsKeys && cursor.keyBytes < 0)
      recordErrors.push({ index, message: 'a compacted topic takes no record without a key' })
  }
  if (recordErrors.length === 0) return
  throw new SluiceError(
    'INVALID_RECORD',
    `${recordErrors.length} records have no key, and the topic is compacted (cleanup.policy): give each a key`,
    { recordErrors },
  )
}

const malformed = (what: string): SluiceError =>
  new SluiceError('INVALID_RECORD', `malformed record batch: ${what}`)
