/** The broker through its facade: topics, offsets and ids that survive restarts and crashes; waiting readers; what is refused. */

import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Broker, type BrokerOptions } from '../../src/broker/broker.ts'
import type { Disk } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { nodeDisk } from '../../src/lib/disk-node.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const batch = (...values: string[]): Buffer => {
  const builder = new BatchBuilder()
  for (const value of values) builder.append(1_700_000_000_000, null, value, null)
  return builder.close()
}

const append = async (broker: Broker, topic: string, ...values: string[]): Promise<void> => {
  await broker.partition(topic, 0).append(batch(...values), undefined, true).done
}

async function valuesOf(broker: Broker, topic: string, partition = 0): Promise<string[]> {
  const values: string[] = []
  const { startOffset, highWatermark } = broker.partition(topic, partition)
  for (let offset = startOffset; offset < highWatermark; ) {
    const cursor = new RecordCursor(await broker.partition(topic, partition).read(offset, 1024))
    while (cursor.next()) {
      values.push(cursor.bytes.toString('utf8', cursor.valueStart, cursor.valueStart + cursor.valueBytes))
      offset = cursor.offset + 1
    }
  }
  return values
}

/** Lets virtual time pass until the promise is settled, or the machine is down. */
async function runUntil<T>(
  clock: VirtualClock,
  promise: Promise<T>,
  stopped = (): boolean => false,
): Promise<T> {
  let settled = false
  promise.then(
    () => {
      settled = true
    },
    () => {
      settled = true
    },
  )
  await clock.runDeferred()
  while (!settled && !stopped()) if (!(await clock.step())) await clock.runDeferred()
  return stopped() ? (undefined as T) : promise
}

let disk: Disk
let broker: Broker

const open = (options: Partial<BrokerOptions> = {}): Promise<Broker> =>
  Broker.open({ disk, path: 'data', ...options })

async function reopen(options: Partial<BrokerOptions> = {}): Promise<void> {
  await broker.close()
  broker = await open(options)
}

beforeEach(async () => {
  disk = memoryDisk()
  broker = await open()
})

afterEach(() => broker.close())

describe('topics', () => {
  it('are there after a restart with their id, partitions, configuration and records', async () => {
    const made = await broker.createTopic({
      name: 'orders',
      partitions: 3,
      config: { 'retention.ms': '1000' },
    })
    await append(broker, 'orders', 'a', 'b')
    await broker.addPartitions('orders', 4)
    await broker.alterTopic('orders', { 'segment.bytes': '2048', 'retention.ms': null })
    await reopen()
    const topic = broker.topic('orders')
    expect(topic.id).toBe(made.id)
    expect(topic.partitions.length).toBe(4)
    expect(topic.config).toEqual({ 'segment.bytes': '2048' })
    expect(await valuesOf(broker, 'orders')).toEqual(['a', 'b'])
  })

  it('are gone for good when deleted, with their records and committed offsets', async () => {
    await broker.createTopic({ name: 'orders' })
    await append(broker, 'orders', 'old')
    await broker.commit('billing', null, [{ topic: 'orders', partition: 0, offset: 1, metadata: '' }])
    await broker.deleteTopic('orders')
    expect(() => broker.topic('orders')).toThrow(expect.objectContaining({ code: 'UNKNOWN_TOPIC' }))
    const again = await broker.createTopic({ name: 'orders' })
    expect(await valuesOf(broker, 'orders')).toEqual([])
    expect(broker.committed('billing', 'orders', 0)).toBeUndefined()
    await reopen()
    expect(broker.topic('orders').id).toBe(again.id)
    expect(broker.topic('orders').partitions[0].highWatermark).toBe(0)
  })

  it.each([
    ['UNKNOWN_TOPIC', () => broker.deleteTopic('nope')],
    ['TOPIC_EXISTS', () => broker.createTopic({ name: 'orders' })],
    ['INVALID_TOPIC', () => broker.createTopic({ name: 'a/b' })],
    ['INVALID_TOPIC', () => broker.createTopic({ name: '..' })],
    ['INVALID_TOPIC', () => broker.createTopic({ name: 'x'.repeat(250) })],
    ['INVALID_TOPIC', () => broker.createTopic({ name: '__mine' })],
    ['INVALID_PARTITIONS', () => broker.createTopic({ name: 'p', partitions: 0 })],
    ['INVALID_PARTITIONS', () => broker.createTopic({ name: 'p', partitions: 1.5 })],
    ['INVALID_PARTITIONS', () => broker.addPartitions('orders', 1)],
    ['INVALID_CONFIG', () => broker.createTopic({ name: 'c', config: { 'no.such.key': '1' } })],
    ['INVALID_CONFIG', () => broker.createTopic({ name: 'c', config: { 'segment.bytes': 'many' } })],
    ['INVALID_CONFIG', () => broker.alterTopic('orders', { 'segment.bytes': '-5' })],
    ['INVALID_CONFIG', () => broker.alterTopic('orders', { 'no.such.key': null })],
    ['INVALID_CONFIG', () => broker.createTopic({ name: 'c', config: { 'cleanup.policy': 'shred' } })],
  ])('refuse with %s what cannot be, and change nothing', async (code, call) => {
    await broker.createTopic({ name: 'orders' })
    await expect(call()).rejects.toMatchObject({ code })
    expect([...broker.topics].map(topic => topic.name)).toEqual(['orders'])
    expect(broker.topic('orders').config).toEqual({})
  })

  it('never adopt a folder that an older topic left behind', async () => {
    await broker.close()
    disk.makeDirectory('data/topics/orders-0')
    const file = disk.open('data/topics/orders-0/00000000000000000000.log', 'create')
    file.write(batch('stale'), 0)
    file.close()
    broker = await open()
    await broker.createTopic({ name: 'orders' })
    expect(await valuesOf(broker, 'orders')).toEqual([])
    expect(disk.list('data/topics').filter(name => name.startsWith('orders-0.aside-')).length).toBe(1)
  })

  it('exist as a whole or not at all after a power cut at any operation of creating and deleting', async () => {
    for (let operation = 1; ; operation++) {
      const clock = new VirtualClock()
      const faulty = new FaultyDisk({ seed: operation, clock })
      const victim = await runUntil(clock, Broker.open({ disk: faulty, path: 'data', clock }))
      faulty.crashAt(faulty.operations + operation, 'after')
      const work = (async () => {
        await victim.createTopic({ name: 'kept', partitions: 2 })
        await victim.createTopic({ name: 'dropped', partitions: 2 })
        await victim.deleteTopic('dropped')
      })().catch(() => {})
      await runUntil(clock, work, () => faulty.isDown)
      const crashed = faulty.isDown
      const left = crashed ? faulty.crash() : faulty
      if (!crashed) {
        expect(operation).toBeGreaterThan(20)
        return
      }
      const survivor = await runUntil(clock, Broker.open({ disk: left, path: 'data', clock }))
      for (const topic of survivor.topics) expect(topic.partitions.length).toBe(2)
      const names = [...survivor.topics].map(topic => topic.name)
      if (names.includes('dropped')) expect(names).toContain('kept')
      await runUntil(clock, survivor.close())
    }
  })
})

describe('committed offsets', () => {
  const at = (offset: number, metadata = '') => ({ topic: 'orders', partition: 0, offset, metadata })

  it('survive a restart, with their metadata', async () => {
    await broker.createTopic({ name: 'orders' })
    await broker.commit('billing', null, [at(7, 'note')])
    await reopen()
    expect(broker.committed('billing', 'orders', 0)).toMatchObject({ offset: 7, metadata: 'note' })
    expect(broker.listGroups()).toEqual([
      { group: 'billing', type: 'classic', state: 'empty', protocolType: '' },
    ])
  })

  it('are forgotten with their group', async () => {
    await broker.createTopic({ name: 'orders' })
    await broker.commit('billing', null, [at(7)])
    await broker.deleteGroup('billing')
    await expect(broker.deleteGroup('billing')).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
    await reopen()
    expect(broker.committed('billing', 'orders', 0)).toBeUndefined()
  })

  it('refuse what cannot be and store nothing of it', async () => {
    await broker.createTopic({ name: 'orders' })
    const commit = async (...commits: ReturnType<typeof at>[]) => broker.commit('billing', null, commits)
    await expect(commit(at(1), at(-1))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(commit(at(1, 'x'.repeat(5000)))).rejects.toMatchObject({ code: 'OFFSET_METADATA_TOO_LARGE' })
    await expect(commit({ ...at(1), topic: 'nope' })).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    await expect(commit({ ...at(1), partition: 9 })).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
    expect(broker.committed('billing', 'orders', 0)).toBeUndefined()
  })

  it('take up bounded room however often they are committed', async () => {
    await broker.createTopic({ name: 'orders' })
    const metadata = 'm'.repeat(4000)
    for (let round = 0; round < 4000; round++) await broker.commit('billing', null, [at(round, metadata)])
    const bytes = disk
      .list('data/topics/__consumer_offsets-0')
      .map(name => {
        const file = disk.open(`data/topics/__consumer_offsets-0/${name}`, 'read')
        const size = file.size()
        file.close()
        return size
      })
      .reduce((a, b) => a + b)
    expect(bytes).toBeLessThan(10 * 1024 * 1024)
    await reopen()
    expect(broker.committed('billing', 'orders', 0)).toMatchObject({ offset: 3999 })
  })
})

describe('producer ids', () => {
  it('are never given out twice, also not after a restart', async () => {
    const ids = [await broker.allocateProducerId(), await broker.allocateProducerId()]
    await reopen()
    ids.push(await broker.allocateProducerId())
    expect(new Set(ids).size).toBe(3)
  })
})

describe('waiting readers', () => {
  const fetch = (waitMs: number, signal?: AbortSignal) =>
    broker.fetch([{ topic: 'orders', partition: 0, offset: 0 }], { partitionBytesMax: 1024, waitMs, signal })

  it('are woken by an append', async () => {
    await broker.createTopic({ name: 'orders' })
    const waiting = fetch(60_000)
    await append(broker, 'orders', 'a')
    expect((await waiting)[0].batches.length).toBeGreaterThan(0)
  })

  it('get an empty answer when the time is over, by the clock', async () => {
    await broker.close()
    const clock = new VirtualClock()
    broker = await runUntil(clock, open({ clock }))
    await runUntil(clock, broker.createTopic({ name: 'orders' }))
    const waiting = fetch(500)
    let answered = false
    waiting.then(() => {
      answered = true
    })
    await clock.advance(499)
    expect(answered).toBe(false)
    await clock.advance(1)
    expect((await waiting)[0].batches.length).toBe(0)
    await runUntil(clock, broker.close())
  })

  it('end when their signal does, when the topic goes and when the broker closes', async () => {
    await broker.createTopic({ name: 'orders' })
    const abort = new AbortController()
    const aborted = fetch(60_000, abort.signal)
    abort.abort()
    expect((await aborted)[0].batches.length).toBe(0)
    const deleted = fetch(60_000)
    await broker.deleteTopic('orders')
    expect((await deleted)[0].error?.code).toBe('UNKNOWN_TOPIC')
    await broker.createTopic({ name: 'orders' })
    const closed = fetch(60_000)
    await broker.close()
    await closed
  })

  it('get errors per partition, beside the records of others', async () => {
    await broker.createTopic({ name: 'orders' })
    await append(broker, 'orders', 'a')
    const results = await broker.fetch(
      [
        { topic: 'orders', partition: 0, offset: 0 },
        { topic: 'orders', partition: 0, offset: 99 },
        { topic: 'nope', partition: 0, offset: 0 },
      ],
      { partitionBytesMax: 1024, waitMs: 60_000 },
    )
    expect(results.map(result => result.error?.code)).toEqual([
      undefined,
      'OFFSET_OUT_OF_RANGE',
      'UNKNOWN_TOPIC',
    ])
  })
})

describe('retention', () => {
  it('removes what is too old by the clock', async () => {
    await broker.close()
    const clock = new VirtualClock(1_700_000_000_000)
    broker = await runUntil(clock, open({ clock }))
    await runUntil(clock, broker.createTopic({ name: 'orders', config: { 'retention.ms': '60000' } }))
    const appended = broker.partition('orders', 0).append(batch('a', 'b'), 'written', true)
    expect(appended.appended.baseOffset).toBe(0)
    await clock.advance(61_000)
    expect(await runUntil(clock, broker.enforceRetention())).toBe(1)
    expect(broker.partition('orders', 0).startOffset).toBe(2)
    await runUntil(clock, broker.close())
  })
})

describe('a data directory', () => {
  let folder: string

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'sluice-'))
  })

  afterEach(() => rmSync(folder, { recursive: true }))

  it('is opened by one at a time; the error names the holder, and the holder is not disturbed', async () => {
    const holder = await Broker.open({ disk: nodeDisk(), path: join(folder, 'data') })
    const second = Broker.open({ disk: nodeDisk(), path: join(folder, 'data') })
    await expect(second).rejects.toMatchObject({
      code: 'DIRECTORY_IN_USE',
      message: expect.stringContaining('this process'),
    })
    await holder.createTopic({ name: 'orders' })
    await holder.close()
    const third = await Broker.open({ disk: nodeDisk(), path: join(folder, 'data') })
    expect(third.topic('orders').partitions.length).toBe(1)
    await third.close()
  })

  it('is refused, and left as it was, if it holds something else', async () => {
    writeFileSync(join(folder, 'holiday.jpg'), 'jpeg')
    const refused = Broker.open({ disk: nodeDisk(), path: folder })
    await expect(refused).rejects.toMatchObject({ code: 'NOT_A_DATA_DIRECTORY' })
    expect(readdirSync(folder)).toEqual(['holiday.jpg'])
  })

  it('is refused if it is a file, or of a newer format', async () => {
    const file = join(folder, 'file')
    writeFileSync(file, '')
    await expect(Broker.open({ disk: nodeDisk(), path: file })).rejects.toMatchObject({
      code: 'NOT_A_DATA_DIRECTORY',
    })
    const newer = join(folder, 'newer')
    mkdirSync(newer)
    writeFileSync(join(newer, 'sluice.json'), JSON.stringify({ format: 99, id: 'x' }))
    const refused = Broker.open({ disk: nodeDisk(), path: newer })
    await expect(refused).rejects.toMatchObject({
      code: 'NOT_A_DATA_DIRECTORY',
      message: expect.stringContaining('99'),
    })
  })

  it('answers CLOSED once closed', async () => {
    await broker.close()
    expect(() => broker.topic('orders')).toThrow(expect.objectContaining({ code: 'CLOSED' }))
    await expect(broker.createTopic({ name: 'x' })).rejects.toMatchObject({ code: 'CLOSED' })
    broker = await open()
  })
})
