/**
 * What the files of a partition hold, read byte by byte: which records are committed, which aborted, which open. Shares nothing with
 * the server: the format is read here by its description (https://kafka.apache.org/documentation/#recordbatch), whether a transaction
 * was committed is told by its markers alone, and neither index nor aborted-transaction index is looked at. Uncompressed batches only.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export interface LogRecord {
  readonly offset: number
  readonly key: string | null
  readonly value: string | null
}

export interface LogContent {
  /** Not in a transaction, or in a committed one; in the order of their offsets. */
  readonly committed: LogRecord[]
  readonly aborted: LogRecord[]
  /** In transactions that have no marker. */
  readonly open: LogRecord[]
  commitMarkers: number
  abortMarkers: number
}

const HEADER_BYTES = 61
const TRANSACTIONAL = 0x10
const CONTROL = 0x20

export function readPartition(data: string, topic: string, partition: number): LogContent {
  const folder = join(data, 'topics', `${topic}-${partition}`)
  const names = readdirSync(folder).filter(name => /^\d{20}\.log$/.test(name))
  const content: LogContent = { committed: [], aborted: [], open: [], commitMarkers: 0, abortMarkers: 0 }
  const underWay = new Map<bigint, LogRecord[]>()
  for (const name of names.sort()) {
    const bytes = readFileSync(join(folder, name))
    for (let at = 0; at + HEADER_BYTES <= bytes.length; at += 12 + bytes.readInt32BE(at + 8)) {
      readBatch(bytes, at, underWay, content)
    }
  }
  for (const records of underWay.values()) content.open.push(...records)
  content.committed.sort((a, b) => a.offset - b.offset)
  return content
}

function readBatch(bytes: Buffer, at: number, underWay: Map<bigint, LogRecord[]>, content: LogContent): void {
  const attributes = bytes.readInt16BE(at + 21)
  if ((attributes & 7) !== 0) throw new Error('a compressed batch: this reader does not know these')
  const producerId = bytes.readBigInt64BE(at + 43)
  const count = bytes.readInt32BE(at + 57)
  if ((attributes & CONTROL) === 0) {
    const records = readRecords(bytes, at, count)
    if ((attributes & TRANSACTIONAL) === 0) content.committed.push(...records)
    else underWay.set(producerId, [...(underWay.get(producerId) ?? []), ...records])
    return
  }
  if (count === 0) return
  const isCommit = markerType(bytes, at) === 1
  const ended = underWay.get(producerId) ?? []
  underWay.delete(producerId)
  if (isCommit) content.commitMarkers++
  else content.abortMarkers++
  content[isCommit ? 'committed' : 'aborted'].push(...ended)
}

/** Of the one record of a control batch: the second 16 bits of its key. */
function markerType(bytes: Buffer, at: number): number {
  const place = { at: at + HEADER_BYTES }
  varint(bytes, place) // length
  place.at++ // attributes
  varint(bytes, place) // timestamp delta
  varint(bytes, place) // offset delta
  varint(bytes, place) // key length
  return bytes.readInt16BE(place.at + 2)
}

function readRecords(bytes: Buffer, at: number, count: number): LogRecord[] {
  const base = Number(bytes.readBigInt64BE(at))
  const records: LogRecord[] = []
  const place = { at: at + HEADER_BYTES }
  for (let index = 0; index < count; index++) {
    const length = varint(bytes, place)
    const end = place.at + length
    place.at++ // attributes
    varint(bytes, place) // timestamp delta
    const offset = base + varint(bytes, place)
    records.push({ offset, key: text(bytes, place), value: text(bytes, place) })
    place.at = end // headers
  }
  return records
}

function text(bytes: Buffer, place: { at: number }): string | null {
  const length = varint(bytes, place)
  if (length < 0) return null
  place.at += length
  return bytes.toString('latin1', place.at - length, place.at)
}

function varint(bytes: Buffer, place: { at: number }): number {
  let value = 0
  for (let scale = 1; ; scale *= 128) {
    const byte = bytes[place.at++]
    value += (byte & 127) * scale
    if (byte < 128) return value % 2 === 0 ? value / 2 : -(value + 1) / 2
  }
}
