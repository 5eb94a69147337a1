/** What a failure in the middle leaves of a broker. */

import { expect, test } from 'vitest'
import { Broker, type BrokerOptions } from '../../src/broker/broker.ts'
import type { Disk } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const clockOf = () => new VirtualClock()

async function settle<T>(
  clock: VirtualClock,
  promise: Promise<T>,
  stopped = (): boolean => false,
): Promise<T> {
  let isOver = false
  const note = (): void => {
    isOver = true
  }
  promise.then(note, note)
  await clock.runDeferred()
  while (!isOver && !stopped()) if (!(await clock.step())) await clock.runDeferred()
  return stopped() ? (undefined as T) : promise
}

const openBroker = (disk: Disk, clock: VirtualClock, options: Partial<BrokerOptions> = {}): Promise<Broker> =>
  settle(clock, Broker.open({ disk, path: '/data', clock, ...options }))

function append(broker: Broker, topic: string, clock: VirtualClock, count: number): void {
  for (let index = 0; index < count; index++) {
    const builder = new BatchBuilder()
    builder.append(clock.now(), `k${index % 3}`, String(index), null)
    broker.partition(topic, 0).append(Buffer.from(builder.close()), 'written', true)
  }
}

/** Counts the files that are open. */
function counting(disk: Disk): { counted: Disk; opened: () => number } {
  let open = 0
  const counted: Disk = {
    kind: disk.kind,
    open(path, mode) {
      const file = disk.open(path, mode)
      open++
      const close = file.close.bind(file)
      file.close = () => {
        open--
        close()
      }
      return file
    },
    list: path => disk.list(path),
    makeDirectory: path => disk.makeDirectory(path),
    rename: (from, to) => disk.rename(from, to),
    remove: path => disk.remove(path),
    syncDirectory: path => disk.syncDirectory(path),
    lock: path => disk.lock(path),
  }
  return { counted, opened: () => open }
}

test('a read that fails while it is looked at what to compact does not end the cleaner, nor keep the broker from closing', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  const broker = await openBroker(disk, clock)
  await settle(
    clock,
    broker.createTopic({
      name: 'state',
      config: {
        'cleanup.policy': 'compact',
        'max.compaction.lag.ms': '60000',
        'min.cleanable.dirty.ratio': '1',
      },
    }),
  )
  append(broker, 'state', clock, 30)
  broker.partition('state', 0).log.roll()
  disk.failNext('read', path => path.includes('state-0'))
  await settle(
    clock,
    broker.compact().catch(() => {}),
  )
  await clock.advance(100_000)
  expect(broker.stats().compaction.passes).toBe(1)
  await settle(clock, broker.close())
  await settle(clock, (await openBroker(disk, clock)).close())
})

test('no timer is left when something was under way while the broker was closed', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  const broker = await openBroker(disk, clock)
  await settle(clock, broker.createTopic({ name: 't' }))
  append(broker, 't', clock, 3)
  const compacting = broker.enforceRetention
  // Retention that takes its time.
  broker.enforceRetention = async () => {
    await new Promise<void>(resolve => clock.after(5, resolve))
    return compacting.call(broker)
  }
  await clock.advance(5 * 60_000 + 1)
  await settle(clock, broker.close())
  await clock.advance(100)
  expect(clock.timerCount).toBe(0)
})

test('partitions that could not be added are not there after a restart', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  let broker = await openBroker(disk, clock)
  await settle(clock, broker.createTopic({ name: 't', partitions: 1 }))
  disk.failNext('create', path => path.includes('t-2'))
  await expect(settle(clock, broker.addPartitions('t', 3))).rejects.toBeDefined()
  expect(broker.topic('t').partitions.length).toBe(1)
  await settle(clock, broker.close())
  broker = await openBroker(disk, clock)
  expect(broker.topic('t').partitions.length).toBe(1)
  expect(broker.reports).toEqual([])
  await settle(clock, broker.close())
})

test('partitions can be added after that failed any number of times', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  const broker = await openBroker(disk, clock)
  await settle(clock, broker.createTopic({ name: 't', partitions: 1 }))
  for (let attempt = 0; attempt < 3; attempt++) {
    disk.failNext('create', path => path.includes('t-2/'))
    await expect(settle(clock, broker.addPartitions('t', 3))).rejects.toMatchObject({ code: 'ENOSPC' })
  }
  await settle(clock, broker.addPartitions('t', 3))
  expect(broker.topic('t').partitions.length).toBe(3)
  await settle(clock, broker.close())
})

test('a topic that is gone after a power cut has left no offsets to one of the same name', async () => {
  const offset = { topic: 't', partition: 0, offset: 7, metadata: '' }
  for (let operation = 0; ; operation++) {
    const clock = clockOf()
    const disk = new FaultyDisk({ seed: operation, clock })
    const victim = await openBroker(disk, clock)
    await settle(clock, victim.createTopic({ name: 't' }))
    await settle(clock, victim.commit('g', null, [offset]))
    disk.crashAt(disk.operations + operation, 'after')
    await settle(
      clock,
      victim.deleteTopic('t').catch(() => {}),
      () => disk.isDown,
    )
    if (!disk.isDown) {
      expect(operation).toBeGreaterThan(5)
      return
    }
    const survivor = await openBroker(disk.crash(), clock)
    if (survivor.findTopic('t') === undefined) {
      await settle(clock, survivor.createTopic({ name: 't' }))
      expect(survivor.committed('g', 't', 0)).toBeUndefined()
    }
    await settle(clock, survivor.close())
  }
})

test('offsets that a transaction brings for a topic that was deleted meanwhile do not count for one of the same name', async () => {
  const clock = clockOf()
  const broker = await openBroker(memoryDisk(), clock)
  await settle(clock, broker.createTopic({ name: 't' }))
  const identity = await settle(
    clock,
    broker.transactions.init({ transactionalId: 'x', timeoutMs: 60_000, producerId: -1, epoch: -1 }),
  )
  const producer = { transactionalId: 'x', ...identity }
  const offset = { topic: 't', partition: 0, offset: 7, metadata: '' }
  await settle(clock, broker.stageOffsets(producer, 'g', null, [offset], true))
  await settle(clock, broker.deleteTopic('t'))
  await settle(clock, broker.createTopic({ name: 't' }))
  await settle(clock, broker.transactions.end(producer, true, false))
  expect(broker.committed('g', 't', 0)).toBeUndefined()
  await settle(clock, broker.close())
})

test('those who are told of topics hear of one that is gone, though its offsets could not be removed', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  const broker = await openBroker(disk, clock)
  await settle(clock, broker.createTopic({ name: 't' }))
  await settle(clock, broker.commit('g', null, [{ topic: 't', partition: 0, offset: 7, metadata: '' }]))
  let changes = 0
  broker.onTopicsChanged(() => {
    changes++
  })
  disk.failNext('write', path => path.includes('__consumer_offsets'))
  await expect(settle(clock, broker.deleteTopic('t'))).rejects.toMatchObject({ code: 'DISK_FULL' })
  expect(broker.findTopic('t')).toBeUndefined()
  expect(changes).toBe(1)
  await settle(clock, broker.close())
})

test('a broker that could not be opened leaves no file open', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  const broker = await openBroker(disk, clock)
  await settle(clock, broker.createTopic({ name: 't', partitions: 3 }))
  append(broker, 't', clock, 3)
  await settle(clock, broker.close())
  const { counted, opened } = counting(disk)
  disk.failNext('read', path => path.includes('__consumer_offsets-0/checkpoint'))
  await expect(openBroker(counted, clock)).rejects.toBeDefined()
  expect(opened()).toBe(0)
  expect(clock.timerCount).toBe(0)
})

test('a folder that is in the way is not adopted after a power cut at any operation of creating either', async () => {
  const stale = new BatchBuilder()
  stale.append(0, null, 'stale', null)
  const bytes = Buffer.from(stale.close())
  bytes.writeInt32BE(0, 12) // the leader epoch that a log writes
  for (let operation = 0; ; operation++) {
    const clock = clockOf()
    const disk = new FaultyDisk({ seed: operation, clock })
    const victim = await openBroker(disk, clock)
    disk.makeDirectory('/data/topics/t-0')
    const file = disk.open('/data/topics/t-0/00000000000000000000.log', 'create')
    file.write(bytes, 0)
    await settle(clock, file.sync())
    await settle(clock, disk.syncDirectory('/data/topics/t-0'))
    await settle(clock, disk.syncDirectory('/data/topics'))
    disk.crashAt(disk.operations + operation, 'after')
    await settle(
      clock,
      victim.createTopic({ name: 't' }).then(
        () => {},
        () => {},
      ),
      () => disk.isDown,
    )
    const isDown = disk.isDown
    const survivor = await openBroker(disk.crash(), clock)
    if (survivor.findTopic('t') !== undefined) expect(survivor.partition('t', 0).highWatermark).toBe(0)
    await settle(clock, survivor.close())
    if (isDown) continue
    expect(operation).toBeGreaterThan(5)
    return
  }
})

test('a topic whose offsets could not be removed can be deleted again, and then made again', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  let broker = await openBroker(disk, clock)
  const offset = { topic: 't', partition: 0, offset: 7, metadata: '' }
  await settle(clock, broker.createTopic({ name: 't' }))
  await settle(clock, broker.commit('g', null, [offset]))
  disk.failNext('write', path => path.includes('__consumer_offsets'))
  await expect(settle(clock, broker.deleteTopic('t'))).rejects.toMatchObject({ code: 'DISK_FULL' })
  await settle(
    clock,
    broker.deleteTopic('t').catch(() => {}),
  )
  await settle(clock, broker.createTopic({ name: 't' }))
  await settle(clock, broker.close())
  broker = await openBroker(disk, clock)
  expect(broker.committed('g', 't', 0)).toBeUndefined()
  await settle(clock, broker.close())
})

test('offsets that could not be removed are removed when it is asked for again', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  let broker = await openBroker(disk, clock)
  await settle(clock, broker.createTopic({ name: 't' }))
  await settle(clock, broker.commit('g', null, [{ topic: 't', partition: 0, offset: 7, metadata: '' }]))
  await settle(clock, broker.commit('h', null, [{ topic: 't', partition: 0, offset: 8, metadata: '' }]))
  const full = () => disk.failNext('write', path => path.includes('__consumer_offsets'))
  full()
  await expect(settle(clock, broker.removeCommitted('g', 't', [0]))).rejects.toMatchObject({
    code: 'DISK_FULL',
  })
  await settle(clock, broker.removeCommitted('g', 't', [0]))
  full()
  await expect(settle(clock, broker.deleteGroup('h'))).rejects.toMatchObject({ code: 'DISK_FULL' })
  await settle(clock, broker.deleteGroup('h'))
  await settle(clock, broker.close())
  broker = await openBroker(disk, clock)
  expect([broker.committed('g', 't', 0), broker.committed('h', 't', 0)]).toEqual([undefined, undefined])
  await settle(clock, broker.close())
})

test('producer ids are given out again once there is room', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  let broker = await openBroker(disk, clock)
  disk.failNext('write', path => path.includes('__catalog'))
  await expect(settle(clock, broker.allocateProducerId())).rejects.toMatchObject({ code: 'DISK_FULL' })
  const given = await settle(clock, broker.allocateProducerId())
  await settle(clock, broker.close())
  broker = await openBroker(disk, clock)
  expect(await settle(clock, broker.allocateProducerId())).toBeGreaterThan(given)
  await settle(clock, broker.close())
})

test('a partition whose log has failed keeps neither retention nor checkpoints from the others', async () => {
  const clock = clockOf()
  const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
  const broker = await openBroker(disk, clock)
  for (const name of ['a', 'b'])
    await settle(clock, broker.createTopic({ name, config: { 'retention.ms': '1000' } }))
  disk.failNext('sync', path => path.includes('a-0'))
  append(broker, 'a', clock, 1)
  append(broker, 'b', clock, 1)
  await clock.advance(1_000)
  expect(broker.partition('a', 0).log.failure).not.toBeNull()
  const checkpointOf = (): Buffer => {
    const file = disk.open('/data/topics/b-0/checkpoint', 'read')
    const bytes = Buffer.from(file.readNow(0, file.size()))
    file.close()
    return bytes
  }
  const before = checkpointOf()
  await clock.advance(61_000)
  expect(checkpointOf().equals(before)).toBe(false)
  await clock.advance(5 * 60_000)
  expect(broker.partition('b', 0).startOffset).toBe(1)
  await settle(clock, broker.close())
})
