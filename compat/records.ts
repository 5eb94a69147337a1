/** What the checks produce: the shapes of records in which clients and servers have been known to differ, and their comparison. */

import assert from 'node:assert/strict'

export interface Sent {
  readonly partition: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  /** In order; a key may come twice. */
  readonly headers: readonly (readonly [string, Buffer])[]
  /** Milliseconds since 1970. Undefined: the client's own. */
  readonly timestamp?: number
}

export interface Received extends Sent {
  readonly offset: number
  readonly timestamp: number
}

/** What a client cannot say, so that it is not asked to. */
export interface Abilities {
  readonly nulls: boolean
  /** False: null and empty look the same to who reads. */
  readonly tellsNulls: boolean
  readonly headers: boolean
  readonly timestamps: boolean
  /** Keys and values of any bytes. */
  readonly binary: boolean
}

export const everything: Abilities = {
  nulls: true,
  tellsNulls: true,
  headers: true,
  timestamps: true,
  binary: true,
}

const bytes = (text: string) => Buffer.from(text)

/** `count` records over `partitions`, in round robin; the timestamps of a partition rise. */
export function recordsOf(count: number, partitions: number, from: number, can: Abilities): Sent[] {
  return Array.from({ length: count }, (_, index) => {
    const shape = index % 8
    const record = {
      partition: index % partitions,
      key: bytes(`key-${index % 5}`) as Buffer | null,
      value: bytes(`value ${index} ${'lorem ipsum '.repeat(index)}`) as Buffer | null,
      headers: [] as [string, Buffer][],
      ...(can.timestamps ? { timestamp: from + index * 1000 } : {}),
    }
    if (shape === 1) record.value = bytes(`größe ✓ 日本 ${index}`)
    if (shape === 2 && can.nulls) record.key = null
    if (shape === 3 && can.nulls) record.value = null
    if (shape === 4 && can.headers) {
      record.headers = [
        ['trace', bytes(`${index}`)],
        ['empty', bytes('')],
        ['ключ', bytes('значение')],
      ]
    }
    if (shape === 5 && can.binary)
      record.value = Buffer.from(Array.from({ length: 300 }, (_, at) => at & 0xff))
    if (shape === 6) record.value = bytes('x'.repeat(20_000))
    if (shape === 7 && can.nulls) record.value = bytes('')
    return record
  })
}

/** Throws an AssertionError that names the first record that differs. Both are in the order of their partition. */
export function compareRecords(sent: readonly Sent[], received: readonly Received[], can: Abilities): void {
  assert.equal(received.length, sent.length, `${sent.length} records were sent, ${received.length} read`)
  const partitions = new Set(sent.map(record => record.partition))
  for (const partition of partitions) {
    const there = received
      .filter(record => record.partition === partition)
      .sort((a, b) => a.offset - b.offset)
    const wanted = sent.filter(record => record.partition === partition)
    assert.equal(there.length, wanted.length, `records of partition ${partition}`)
    for (const [offset, record] of wanted.entries()) {
      const found = there[offset]
      const where = `partition ${partition}, offset ${offset}`
      assert.equal(found.offset, offset, `${where}: offset`)
      const seen = (data: Buffer | null) => shown(can.tellsNulls ? data : (data ?? Buffer.alloc(0)))
      assert.equal(seen(found.key), seen(record.key), `${where}: key`)
      assert.equal(seen(found.value), seen(record.value), `${where}: value`)
      if (can.timestamps) assert.equal(found.timestamp, record.timestamp, `${where}: timestamp`)
      if (can.headers) assert.deepEqual(headersOf(found), headersOf(record), `${where}: headers`)
    }
  }
}

const shown = (data: Buffer | null) => (data === null ? null : data.toString('base64'))
const headersOf = (record: Sent) => record.headers.map(([key, value]) => [key, shown(value)])
