import fc from 'fast-check'
import { expect, test } from 'vitest'
import { patchOffset } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { committedOnly } from '../../src/record/committed.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { encodeMarker, isCommitMarker } from '../../src/record/marker.ts'

test('a marker is a control batch whose record says how the transaction ended', () => {
  for (const commit of [true, false]) {
    const marker = encodeMarker(7, 3, commit, 1_000)
    expect(isCommitMarker(marker, 0)).toBe(commit)
    expect([...read(marker)]).toEqual([])
    const cursor = new RecordCursor(marker, { control: true })
    expect(cursor.next()).toBe(true)
    const { bytes, keyStart, keyBytes, valueStart, valueBytes } = cursor
    expect(bytes.subarray(keyStart, keyStart + keyBytes).toString('hex')).toBe(`0000000${commit ? 1 : 0}`)
    expect(bytes.subarray(valueStart, valueStart + valueBytes).toString('hex')).toBe('000000000000')
  }
})

interface Step {
  readonly producer: number
  /** Records; 0: the producer's transaction ends. */
  readonly count: number
  readonly commit: boolean
}

const steps = fc.array(
  fc.record({
    producer: fc.integer({ min: 0, max: 3 }),
    count: fc.integer({ min: 0, max: 3 }),
    commit: fc.boolean(),
  }),
  { maxLength: 40 },
)

/** A log of transactions (producer 0 writes outside of any), what was aborted of it, and what is to be read. */
function logOf(list: readonly Step[]) {
  const batches: { bytes: Buffer; offset: number; producer: number; values: string[]; isAborted: boolean }[] =
    []
  const aborted: { producerId: number; firstOffset: number; lastOffset: number }[] = []
  const open = new Map<number, number>()
  let offset = 0
  let serial = 0
  const end = (producer: number, commit: boolean): void => {
    const first = open.get(producer)
    if (first === undefined) return
    open.delete(producer)
    const bytes = encodeMarker(producer, 0, commit, 0)
    patchOffset(bytes, 0, offset, 0)
    if (!commit) {
      aborted.push({ producerId: producer, firstOffset: first, lastOffset: offset })
      for (const batch of batches) {
        if (batch.producer === producer && batch.offset >= first) batch.isAborted = true
      }
    }
    batches.push({ bytes, offset, producer: -1, values: [], isAborted: false })
    offset++
  }
  for (const { producer, count, commit } of list) {
    if (count === 0) {
      end(producer, commit)
      continue
    }
    const builder = new BatchBuilder()
    const values = Array.from({ length: count }, () => `v${serial++}`)
    for (const value of values) builder.append(0, null, value, null)
    const transactional = producer > 0
    const bytes = Buffer.from(
      builder.close(
        transactional ? { producerId: producer, producerEpoch: 0, baseSequence: 0, transactional } : {},
      ),
    )
    patchOffset(bytes, 0, offset, 0)
    if (transactional && !open.has(producer)) open.set(producer, offset)
    batches.push({ bytes, offset, producer, values, isAborted: false })
    offset += count
  }
  for (const producer of [...open.keys()]) end(producer, producer % 2 === 0)
  return { batches, aborted, end: offset }
}

function* read(bytes: Buffer): Generator<string> {
  const cursor = new RecordCursor(bytes)
  while (cursor.next()) {
    yield cursor.bytes.toString('utf8', cursor.valueStart, cursor.valueStart + cursor.valueBytes)
  }
}

test('what was aborted is left out, whatever part of the log is read, and nothing else', () => {
  fc.assert(
    fc.property(steps, fc.nat(), fc.nat(), (list, from, length) => {
      const { batches, aborted } = logOf(list)
      const start = batches.length === 0 ? 0 : from % batches.length
      const part = batches.slice(start, start + 1 + (length % 10))
      if (part.length === 0) return
      const first = part[0].offset
      // As an index gives them: all that end here or later, whether they have a batch in this part or not.
      const relevant = aborted.filter(({ lastOffset }) => lastOffset >= first)
      const bytes = Buffer.concat(part.map(batch => batch.bytes))
      const before = Buffer.from(bytes)
      const shown = committedOnly(bytes, relevant)
      expect([...read(shown)]).toEqual(part.filter(batch => !batch.isAborted).flatMap(batch => batch.values))
      expect(bytes).toEqual(before)
      if (!part.some(batch => batch.isAborted)) expect(shown).toBe(bytes)
    }),
  )
})
