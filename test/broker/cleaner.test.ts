/** The cleaner through the broker: which partitions it compacts, when, and how it ends. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Broker, type BrokerOptions } from '../../src/broker/broker.ts'
import type { Disk } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { batchBytes, lastOffset } from '../../src/record/batch.ts'
import { BatchBuilder, type CloseOptions } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

type Entry = readonly [key: string | null, value: string | null]

let clock: VirtualClock
let disk: Disk
let broker: Broker

const openBroker = (options: Partial<BrokerOptions> = {}): Promise<Broker> =>
  Broker.open({ disk, path: '/data', clock, ...options })

/** Lets virtual time pass until the promise is settled. */
async function settle<T>(promise: Promise<T>): Promise<T> {
  let isOver = false
  const note = (): void => {
    isOver = true
  }
  promise.then(note, note)
  await clock.runDeferred()
  while (!isOver) await clock.step()
  return promise
}

function append(topic: string, entries: readonly Entry[], options: CloseOptions = {}): void {
  const builder = new BatchBuilder()
  for (const [key, value] of entries) builder.append(clock.now(), key, value, null)
  broker.partition(topic, 0).append(Buffer.from(builder.close(options)), undefined, options.control === true)
}

/** Each key ten times, in closed segments. */
function fill(topic: string, keys: number): void {
  for (let index = 0; index < keys * 10; index++) append(topic, [[`k${index % keys}`, String(index)]])
  broker.partition(topic, 0).log.roll()
}

async function keysOf(topic: string): Promise<string[]> {
  const partition = broker.partition(topic, 0)
  const keys: string[] = []
  for (let offset = partition.startOffset; offset < partition.highWatermark; ) {
    const bytes = await partition.read(offset, 1_000_000)
    const cursor = new RecordCursor(bytes)
    while (cursor.next())
      keys.push(cursor.bytes.toString('utf8', cursor.keyStart, cursor.keyStart + cursor.keyBytes))
    for (let at = 0; at < bytes.length; at += batchBytes(bytes, at)) offset = lastOffset(bytes, at) + 1
  }
  return keys
}

beforeEach(async () => {
  clock = new VirtualClock()
  disk = memoryDisk()
  broker = await openBroker()
})

afterEach(() => settle(broker.close()))

const compacted = { 'cleanup.policy': 'compact' }

describe('the cleaner', () => {
  it('compacts topics whose policy says so, by itself, and no others', async () => {
    await settle(broker.createTopic({ name: 'state', config: compacted }))
    await settle(broker.createTopic({ name: 'both', config: { 'cleanup.policy': 'compact,delete' } }))
    await settle(broker.createTopic({ name: 'events' }))
    for (const topic of ['state', 'both', 'events']) fill(topic, 3)
    await clock.advance(16_000)
    expect(await keysOf('state')).toEqual(['k0', 'k1', 'k2'])
    expect(await keysOf('both')).toEqual(['k0', 'k1', 'k2'])
    expect((await keysOf('events')).length).toBe(30)
    expect(broker.stats().compaction).toMatchObject({
      passes: 2,
      recordsRead: 60,
      recordsKept: 6,
      failures: 0,
    })
  })

  it('leaves a topic alone that is not dirty enough', async () => {
    await settle(broker.createTopic({ name: 'state', config: compacted }))
    fill('state', 10)
    await settle(broker.compact())
    for (let index = 0; index < 5; index++) append('state', [[`k${index}`, 'new']])
    broker.partition('state', 0).log.roll()
    await settle(broker.compact())
    expect((await keysOf('state')).length).toBe(15)
    await settle(broker.alterTopic('state', { 'min.cleanable.dirty.ratio': '0.1' }))
    await settle(broker.compact())
    expect((await keysOf('state')).length).toBe(10)
  })

  it('takes more keys than it has memory for in several passes of one round', async () => {
    await settle(broker.close())
    broker = await openBroker({ cleanerBufferBytes: 0 })
    await settle(
      broker.createTopic({ name: 'state', config: { ...compacted, 'min.cleanable.dirty.ratio': '0' } }),
    )
    for (let index = 0; index < 12_000; index += 6)
      append(
        'state',
        Array.from({ length: 6 }, (_, n): Entry => [`k${(index + n) % 6000}`, 'x']),
      )
    broker.partition('state', 0).log.roll()
    await settle(broker.compact())
    expect(broker.stats().compaction.passes).toBeGreaterThan(1)
    expect(new Set(await keysOf('state')).size).toBe(6000)
    expect((await keysOf('state')).length).toBe(6000)
  })

  it('keeps away from records of transactions that are not decided', async () => {
    const config = { ...compacted, 'min.cleanable.dirty.ratio': '0' }
    await settle(broker.createTopic({ name: 'state', config }))
    const partition = broker.partition('state', 0)
    const producer = { producerId: 7, producerEpoch: 0, transactional: true }
    fill('state', 2)
    append('state', [['k0', 'open']], { ...producer, baseSequence: 0 })
    partition.log.roll()
    fill('state', 2)
    await settle(broker.compact())
    // Up to the segment in which the open transaction begins.
    expect((await keysOf('state')).slice(0, 3)).toEqual(['k0', 'k1', 'k0'])
    expect((await keysOf('state')).length).toBe(23)
    await settle(partition.endTransaction(7, 0, false))
    partition.log.roll()
    await settle(broker.compact())
    expect(await keysOf('state')).toEqual(['k0', 'k1'])
    // The marker, and the entry that tells readers of it, stay as long as somebody may have read the records.
    expect(partition.abortedTransactions(0, partition.highWatermark).length).toBe(1)
    fill('state', 2)
    await settle(broker.compact())
    append('state', [['k0', 'after']], { ...producer, baseSequence: 1 })
    await settle(partition.endTransaction(7, 0, true))
    partition.log.roll()
    await settle(broker.compact())
    expect(await keysOf('state')).toEqual(['k1', 'k0'])
  })

  it('ends with the broker, in the middle of its work', async () => {
    await settle(broker.createTopic({ name: 'state', config: compacted }))
    fill('state', 500)
    const compacting = broker.compact()
    await settle(broker.close())
    await settle(compacting)
    broker = await openBroker()
    await settle(broker.compact())
    expect((await keysOf('state')).length).toBe(500)
  })

  it('does not stop a topic from being deleted', async () => {
    await settle(broker.createTopic({ name: 'state', config: compacted }))
    fill('state', 300)
    const compacting = broker.compact()
    await settle(broker.deleteTopic('state'))
    await settle(compacting)
    expect(broker.findTopic('state')).toBeUndefined()
    expect(disk.list('/data/topics').filter(name => name.startsWith('state'))).toEqual([])
  })
})

describe('a compacted topic', () => {
  it('has no retention by time or size, unless its policy deletes as well', async () => {
    const small = { 'retention.ms': '1', 'segment.bytes': '1024' }
    await settle(broker.createTopic({ name: 'state', config: { ...small, ...compacted } }))
    await settle(
      broker.createTopic({ name: 'both', config: { ...small, 'cleanup.policy': 'delete,compact' } }),
    )
    for (const topic of ['state', 'both']) fill(topic, 5)
    await clock.advance(10)
    await settle(broker.enforceRetention())
    expect(broker.partition('state', 0).startOffset).toBe(0)
    expect(broker.partition('both', 0).startOffset).toBe(50)
  })

  it('takes no record without a key, also once its policy is changed', async () => {
    await settle(broker.createTopic({ name: 'state' }))
    append('state', [[null, '1']])
    await settle(broker.alterTopic('state', compacted))
    expect(() =>
      append('state', [
        ['a', '1'],
        [null, '2'],
      ]),
    ).toThrow(/1 records have no key/)
  })

  it.each([
    ['cleanup.policy', 'compact,shred'],
    ['cleanup.policy', 'compact,compact'],
    ['min.cleanable.dirty.ratio', '1.5'],
    ['min.cleanable.dirty.ratio', '-0.1'],
    ['min.cleanable.dirty.ratio', 'half'],
    ['delete.retention.ms', '-1'],
  ])('is not configured with %s=%s', async (key, value) => {
    await expect(settle(broker.createTopic({ name: 'c', config: { [key]: value } }))).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
    })
  })
})
