/**
 * Where to begin reading, written in a query string or on the command line:
 *
 *   earliest, latest            the ends of each partition
 *   120                         this offset
 *   2026-01-31T12:00:00Z        the first message with at least this time (ISO 8601)
 *   0:120,3:88                  an offset for each of these partitions, as `next` of an answer gives them
 */

import type { Engine, OffsetSpec } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'

export type Position = OffsetSpec | ReadonlyMap<number, number>

const OFFSET = /^\d{1,16}$/
const PAIRS = /^\d{1,9}:\d{1,16}(,\d{1,9}:\d{1,16})*$/
const TIME = /^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:?\d\d)?)?$/

/** `what` names the text in the error. Throws `INVALID_ARGUMENT`. */
export function parsePosition(text: string, what: string): Position {
  if (text === 'earliest' || text === 'latest') return text
  if (OFFSET.test(text)) return checkedOffset(Number(text), what)
  if (PAIRS.test(text)) {
    const pairs = text.split(',').map(pair => pair.split(':').map(Number) as [number, number])
    for (const [, offset] of pairs) checkedOffset(offset, what)
    return new Map(pairs)
  }
  const time = TIME.test(text) ? Date.parse(text) : Number.NaN
  if (Number.isNaN(time)) {
    const message = `${what}: ${JSON.stringify(text)} is neither earliest, latest, an offset, partition:offset pairs nor an ISO time`
    throw new SluiceError('INVALID_ARGUMENT', message, { [what]: text })
  }
  return { time }
}

/** An ISO time, in milliseconds since the Unix epoch. Throws `INVALID_ARGUMENT`. */
export function parseTime(text: string, what: string): number {
  const time = TIME.test(text) ? Date.parse(text) : Number.NaN
  if (!Number.isNaN(time)) return time
  const message = `${what}: ${JSON.stringify(text)} is not a time such as 2026-01-31T12:00:00Z`
  throw new SluiceError('INVALID_ARGUMENT', message, { [what]: text })
}

/** The same, where every partition gets the same place. Throws `INVALID_ARGUMENT`. */
export function parseOffsetSpec(text: string, what: string): OffsetSpec {
  const position = parsePosition(text, what)
  if (!(position instanceof Map)) return position as OffsetSpec
  throw new SluiceError('INVALID_ARGUMENT', `${what} takes one place for all partitions here, not ${text}`, {
    [what]: text,
  })
}

/** How far to skip: so many messages of each partition, or everything before a place; one of them. Throws `INVALID_ARGUMENT`. */
export function skipOf(
  count: number | undefined,
  to: string | undefined,
  what: string,
): { count: number } | { to: number | 'latest' | { time: number | Date } } {
  if ((count === undefined) === (to === undefined)) {
    throw new SluiceError('INVALID_ARGUMENT', `give either count or ${what}: how many, or up to where`)
  }
  if (count !== undefined) return { count }
  const place = parseOffsetSpec(to as string, what)
  if (place !== 'earliest') return { to: place }
  throw new SluiceError('INVALID_ARGUMENT', `${what}: there is nothing before the earliest`)
}

/** The offset of a place in one partition. A map without the partition, and no position at all, mean its start. */
export function offsetAt(
  engine: Engine,
  topic: string,
  partition: number,
  position: Position | undefined,
): Promise<number> {
  const spec = position instanceof Map ? position.get(partition) : (position as OffsetSpec | undefined)
  return typeof spec === 'number'
    ? Promise.resolve(spec)
    : engine.offsetFor(topic, partition, spec ?? 'earliest')
}

function checkedOffset(offset: number, what: string): number {
  if (Number.isSafeInteger(offset)) return offset
  throw new SluiceError('INVALID_ARGUMENT', `${what}: ${offset} is too large for an offset`, {
    [what]: offset,
  })
}
