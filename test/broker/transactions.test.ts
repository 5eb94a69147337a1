/** The transaction coordinator over real partitions: what is durable when, full disks, restarts and power cuts at every step, and what happens at once. */

import assert from 'node:assert/strict'
import { describe, expect, test } from 'vitest'
import { resolveConfig } from '../../src/broker/config.ts'
import { OffsetStore } from '../../src/broker/offsets.ts'
import { Partition } from '../../src/broker/partition.ts'
import { Transactions } from '../../src/broker/transactions.ts'
import type { SluiceError } from '../../src/errors.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { isControl, producerId as producerIdOf } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const ID = 'orders'
const TIMEOUT_MS = 10_000
const PLACES = ['out-0', 'out-1']

interface Producer {
  readonly transactionalId: string
  readonly producerId: number
  readonly epoch: number
}

/** A coordinator with two partitions and the offsets of groups, on a disk that can be made to fail. */
class Site {
  readonly clock: VirtualClock
  readonly disk: FaultyDisk
  readonly partitions = new Map<string, Partition>()
  readonly sequences = new Map<string, number>()
  offsets!: OffsetStore
  transactions!: Transactions
  static #producerIds = 0

  private constructor(disk: FaultyDisk, clock: VirtualClock) {
    this.disk = disk
    this.clock = clock
  }

  static async open(seed = 1, found?: FaultyDisk, clock = new VirtualClock()): Promise<Site> {
    const disk = found ?? new FaultyDisk({ seed, clock, delayMsMax: 1 })
    if (found === undefined) {
      for (const name of ['state', 'offsets', ...PLACES]) disk.makeDirectory(`/${name}`)
      await settle(clock, disk.syncDirectory('/'))
    }
    const site = new Site(disk, clock)
    await settle(clock, site.#start(), () => disk.isDown)
    return site
  }

  async #start(): Promise<void> {
    for (const name of PLACES) this.partitions.set(name, await this.#openPartition(name))
    this.offsets = await OffsetStore.open(await this.#openPartition('offsets'), this.clock)
    this.transactions = await Transactions.open({
      partition: await this.#openPartition('state'),
      clock: this.clock,
      expirationMs: 60_000,
      allocateProducerId: async () => 1_000 + Site.#producerIds++,
      findPartition: (topic, index) => this.partitions.get(`${topic}-${index}`),
      partitions: () => this.partitions.values(),
      commitOffsets: (group, commits) => this.offsets.commit(group, commits),
    })
  }

  #openPartition(name: string): Promise<Partition> {
    const [topic, index = '0'] = name.split('-')
    return Partition.open({
      disk: this.disk,
      files: new OpenFiles(this.disk),
      directory: `/${name}`,
      clock: this.clock,
      topic,
      partition: Number(index),
      config: resolveConfig({}, {}),
    })
  }

  /** Lets time pass until the promise is settled. */
  run<T>(promise: Promise<T>): Promise<T> {
    return settle(this.clock, promise, () => this.disk.isDown)
  }

  /** The process is killed, and started again. */
  restart(): Promise<Site> {
    return Site.open(0, this.disk.kill(), this.clock)
  }

  async init(transactionalId = ID): Promise<Producer> {
    return { transactionalId, ...(await this.run(this.transactions.init(initBy(transactionalId)))) }
  }

  append(place: string, { producerId, epoch }: Producer): Promise<void> {
    const [topic, index] = place.split('-')
    const refusal = this.transactions.checkAppend(producerId, epoch, topic, Number(index))
    assert.equal(refusal, null)
    const key = `${place} ${producerId} ${epoch}`
    const baseSequence = this.sequences.get(key) ?? 0
    this.sequences.set(key, baseSequence + 1)
    const builder = new BatchBuilder()
    builder.append(this.clock.now(), null, 'value', null)
    const batch = builder.close({ producerId, producerEpoch: epoch, baseSequence, transactional: true })
    return this.partitions.get(place)!.append(batch, undefined, true).done ?? Promise.resolve()
  }

  /** A transaction with a record in both partitions, and an offset. Not ended. */
  async fill(producer: Producer, offset = 5): Promise<void> {
    await this.run(
      this.transactions.addPartitions(producer, [
        ['out', 0],
        ['out', 1],
      ]),
    ) // prettier-ignore
    for (const place of PLACES) await this.run(this.append(place, producer))
    await this.run(this.transactions.addGroup(producer, 'g'))
    await this.run(this.transactions.stageOffsets(producer, 'g', [commitOf(offset)]))
  }

  end(producer: Producer, commit: boolean, renews = false): Promise<object> {
    return this.transactions.end(producer, commit, renews)
  }

  get state(): string | undefined {
    return this.transactions.get(ID)?.state
  }

  get committed(): number | undefined {
    return this.offsets.get('g', 'in', 0)?.offset
  }

  /** `r` a record, `c` and `a` the markers, `|` before what readers of what is committed are not shown. */
  async content(place: string): Promise<string> {
    const partition = this.partitions.get(place)!
    const aborted = partition.abortedTransactions(0, partition.highWatermark)
    let shown = ''
    for (let offset = 0; offset < partition.highWatermark; offset++) {
      if (offset === partition.lastStableOffset) shown += '|'
      const batch = await this.run(Promise.resolve(partition.read(offset, 1)))
      const isAborted = aborted.some(
        each => each.lastOffset === offset && each.producerId === producerIdOf(batch, 0),
      )
      shown += isControl(batch, 0) ? (isAborted ? 'a' : 'c') : 'r'
    }
    return shown
  }

  async contents(): Promise<string[]> {
    return [await this.content(PLACES[0]), await this.content(PLACES[1])]
  }
}

/** Somebody new. */
const initBy = (transactionalId: string) => ({
  transactionalId,
  timeoutMs: TIMEOUT_MS,
  producerId: -1,
  epoch: -1,
})

const commitOf = (offset: number) => ({ topic: 'in', partition: 0, offset, metadata: '' })

/** Lets virtual time pass until the promise is settled, at most ten minutes, or the machine is down. */
async function settle<T>(
  clock: VirtualClock,
  promise: Promise<T>,
  isDown = (): boolean => false,
): Promise<T> {
  let isSettled = false
  const note = (): void => {
    isSettled = true
  }
  promise.then(note, note)
  const until = clock.monotonic() + 600_000
  await clock.runDeferred()
  while (!isSettled && !isDown() && clock.monotonic() < until) if (!(await clock.step())) break
  await clock.runDeferred()
  if (!isSettled && isDown()) throw new Error('the machine is down')
  assert(isSettled, 'nothing is left to wait for')
  return promise
}

const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'done',
    (error: SluiceError) => error.code,
  )

/** Whether it is settled by now, without time passing. */
async function isSettled(site: Site, promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  const note = (): void => {
    settled = true
  }
  promise.then(note, note)
  await site.clock.runDeferred()
  return settled
}

const on = (name: string) => (path: string) => path.startsWith(`/${name}/`) && path.endsWith('.log')

describe.each([
  ['first version', false],
  ['KIP-890', true],
])('a transaction (%s)', (_, renews) => {
  test('is shown to readers, and its offsets are committed, when it is', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    expect(await site.contents()).toEqual(['|r', '|r'])
    expect(site.committed).toBeUndefined()
    expect(site.transactions.hasStaged('g', 'in', 0)).toBe(true)
    let woken = 0
    site.partitions.get('out-0')!.wait(() => woken++)
    const next = await site.run(site.end(producer, true, renews))
    expect(next).toEqual({ producerId: producer.producerId, epoch: renews ? 1 : 0 })
    expect(woken).toBe(1)
    expect(await site.contents()).toEqual(['rc', 'rc'])
    expect(site.partitions.get('out-0')!.lastStableOffset).toBe(2)
    expect(site.committed).toBe(5)
    await site.clock.advance(10)
    expect(site.transactions.hasStaged('g', 'in', 0)).toBe(false)
    expect(site.state).toBe('CompleteCommit')
    // And the next one.
    await site.fill({ ...producer, ...next }, 6)
    expect(await site.contents()).toEqual(['rc|r', 'rc|r'])
  })

  test('that is aborted is known as that, and so are its offsets', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    await site.run(site.end(producer, false, renews))
    expect(await site.contents()).toEqual(['ra', 'ra'])
    expect(site.committed).toBeUndefined()
    expect(site.transactions.hasStaged('g', 'in', 0)).toBe(false)
  })

  test('that is ended twice at once is ended once', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const first = site.end(producer, true, renews)
    const codes = [codeOf(site.end(producer, true, renews)), codeOf(site.end(producer, false, renews))]
    expect(await site.run(Promise.all(codes))).toEqual(['CONCURRENT_TRANSACTIONS', 'INVALID_TXN_STATE'])
    const answer = await site.run(first)
    expect(await site.run(site.end(producer, true, renews))).toEqual(answer)
    expect(await site.contents()).toEqual(['rc', 'rc'])
  })

  test('is not decided if the decision finds no room', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    site.disk.failNext('write', on('state'))
    expect(await site.run(codeOf(site.end(producer, true, renews)))).toBe('DISK_FULL')
    expect(site.state).toBe('Ongoing')
    await site.run(site.append('out-0', producer))
    await site.run(site.end(producer, false, renews))
    expect(await site.contents()).toEqual(['rra', 'ra'])
  })

  test.each(['out-0', 'offsets'])('waits for room in %s', async name => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    for (let attempt = 0; attempt < 3; attempt++) site.disk.failNext('write', on(name))
    const before = site.clock.monotonic()
    const ending = site.end(producer, true, renews)
    await site.clock.advance(1_200)
    expect(await isSettled(site, ending)).toBe(false)
    expect(site.state).toBe('PrepareCommit')
    expect(await site.run(codeOf(site.transactions.addGroup(producer, 'h')))).toBe(
      renews ? 'PRODUCER_FENCED' : 'CONCURRENT_TRANSACTIONS',
    )
    await site.run(ending)
    expect(site.clock.monotonic() - before).toBeLessThan(2_000)
    expect(await site.contents()).toEqual(['rc', 'rc'])
    expect(site.committed).toBe(5)
  })

  test('decided when the process ends is carried out by the next', async () => {
    for (const commit of [true, false]) {
      const before = await Site.open()
      const producer = await before.init()
      await before.fill(producer)
      for (let attempt = 0; attempt < 5; attempt++) before.disk.failNext('write', on('out-1'))
      const ending = before.end(producer, commit, renews)
      await before.clock.advance(100)
      expect(await isSettled(before, ending)).toBe(false)
      const site = await before.restart()
      await site.clock.advance(100)
      expect(await site.contents()).toEqual(commit ? ['rc', 'rc'] : ['ra', 'ra'])
      expect(site.committed).toBe(commit ? 5 : undefined)
      // The one who has not heard asks again.
      expect(await site.run(site.end(producer, commit, renews))).toEqual({
        producerId: producer.producerId,
        epoch: renews ? 1 : 0,
      })
    }
  })
})

describe('time', () => {
  test('runs out: the transaction is aborted and its producer fenced', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    await site.clock.advance(TIMEOUT_MS - 100)
    expect(await site.contents()).toEqual(['|r', '|r'])
    await site.clock.advance(200)
    expect(await site.contents()).toEqual(['ra', 'ra'])
    expect(await site.run(codeOf(site.end(producer, true)))).toBe('PRODUCER_FENCED')
    expect(site.transactions.checkAppend(producer.producerId, producer.epoch, 'out', 0)).toBe(
      'INVALID_PRODUCER_EPOCH',
    )
    expect(await site.init()).toMatchObject({ producerId: producer.producerId, epoch: 2 })
    expect(site.clock.timerCount).toBe(0)
  })

  test('that runs out while the end is being carried out changes nothing', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    await site.clock.advance(TIMEOUT_MS - 300)
    site.disk.failNext('write', on('out-0'))
    const ending = site.end(producer, true)
    await site.clock.advance(400)
    await site.run(ending)
    expect(await site.contents()).toEqual(['rc', 'rc'])
  })

  test('that runs out on a full disk is tried again now and then, not all the time', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const { operations } = site.disk
    site.disk.room = 0
    await site.clock.advance(TIMEOUT_MS + 5_000)
    expect(site.disk.operations - operations).toBeLessThan(60)
    expect(site.transactions.get(ID)).toMatchObject({ state: 'Ongoing', epoch: 0 })
    site.disk.room = Number.POSITIVE_INFINITY
    await site.clock.advance(1_000)
    expect(site.transactions.get(ID)).toMatchObject({ state: 'CompleteAbort', epoch: 1 })
    expect(await site.contents()).toEqual(['ra', 'ra'])
  })

  test('goes on over a restart', async () => {
    const before = await Site.open()
    const producer = await before.init()
    await before.fill(producer)
    await before.clock.advance(TIMEOUT_MS - 1_000)
    const site = await before.restart()
    expect(site.state).toBe('Ongoing')
    expect(await site.contents()).toEqual(['|r', '|r'])
    expect(site.transactions.checkAppend(producer.producerId, producer.epoch, 'out', 1)).toBeNull()
    await site.clock.advance(1_100)
    expect(await site.contents()).toEqual(['ra', 'ra'])
  })
})

describe('a partition', () => {
  test('can be appended to once it is stored as a part, and not before', async () => {
    const site = await Site.open()
    const producer = await site.init()
    const { producerId, epoch } = producer
    const check = () => site.transactions.checkAppend(producerId, epoch, 'out', 0)
    const adding = site.transactions.addPartitions(producer, [['out', 0]])
    expect(check()).toBe('INVALID_TXN_STATE')
    await site.run(adding)
    expect(check()).toBeNull()
    expect(site.transactions.adding(producerId)).toBeNull()
    const other = site.transactions.addPartitions(producer, [['out', 1]])
    expect(site.transactions.adding(producerId)).toBe(other)
    expect(check()).toBeNull()
    await site.run(other)
  })

  test('that could not be stored as a part is none, until it is', async () => {
    const site = await Site.open()
    const producer = await site.init()
    const check = () => site.transactions.checkAppend(producer.producerId, producer.epoch, 'out', 0)
    const add = () => site.run(codeOf(site.transactions.addPartitions(producer, [['out', 0]])))
    for (let attempt = 0; attempt < 2; attempt++) {
      site.disk.failNext('write', on('state'))
      expect(await add()).toBe('DISK_FULL')
      expect(check()).toBe('INVALID_TXN_STATE')
    }
    expect(await add()).toBe('done')
    expect(check()).toBeNull()
    await site.run(site.append('out-0', producer))
    await site.run(site.end(producer, true))
    expect(check()).toBe('INVALID_TXN_STATE')
    expect(await site.content('out-0')).toBe('rc')
  })

  test('that is added again costs nothing; a zombie that adds does not get in the way', async () => {
    const site = await Site.open()
    const zombie = await site.init()
    const producer = await site.init()
    await site.fill(producer)
    const { operations } = site.disk
    const again = site.transactions.addPartitions(producer, [['out', 1]])
    expect(await isSettled(site, again)).toBe(true)
    expect(site.disk.operations).toBe(operations)
    const refused = codeOf(site.transactions.addPartitions(zombie, [['out', 0]]))
    expect(site.transactions.adding(producer.producerId)).toBeNull()
    expect(await site.run(refused)).toBe('PRODUCER_FENCED')
  })

  test('whose records are deleted while a transaction is open is stable from its new start on', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const partition = site.partitions.get('out-0')!
    await site.run(partition.deleteUntil(-1))
    expect(partition.lastStableOffset).toBe(1)
    await site.run(site.append('out-0', producer))
    expect(partition.lastStableOffset).toBe(1)
    await site.run(site.end(producer, true))
    expect(partition.lastStableOffset).toBe(3)
  })

  test('that is deleted meanwhile has nothing to end', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const deleted = site.partitions.get('out-1')!
    site.disk.failNext('write', on('out-1'))
    const ending = site.end(producer, true)
    await site.clock.advance(10)
    site.partitions.delete('out-1')
    await site.run(deleted.close())
    await site.run(ending)
    expect(await site.content('out-0')).toBe('rc')
    expect(site.state).toBe('CompleteCommit')
  })

  test('whose open transaction nobody knows of, as a power cut may leave it, is stable again after the next start', async () => {
    const site = await Site.open()
    const known = await site.init()
    await site.fill(known)
    const stray = new BatchBuilder()
    stray.append(0, null, 'value', null)
    const batch = stray.close({ producerId: 77, producerEpoch: 3, baseSequence: 0, transactional: true })
    await site.run(site.partitions.get('out-0')!.append(batch, undefined, true).done!)
    const next = await site.restart()
    await next.clock.runDeferred()
    const { log } = next.partitions.get('out-0')!
    expect([...log.producers.openTransactions()].map(({ producerId }) => producerId)).toEqual([
      known.producerId,
    ])
    expect(await next.content('out-0')).toBe('|rra')
    await next.run(next.end(known, true))
    expect(await next.content('out-0')).toBe('rrac')
  })

  test('that was closed, not deleted, gets its marker after the next start', async () => {
    const before = await Site.open()
    const producer = await before.init()
    await before.fill(producer)
    await before.run(before.partitions.get('out-1')!.close())
    const ending = codeOf(before.end(producer, true))
    await before.clock.advance(5_000)
    expect(before.state).toBe('PrepareCommit')
    await before.run(before.transactions.close())
    expect(await before.run(ending)).toBe('CLOSED')
    const site = await before.restart()
    await site.clock.advance(100)
    expect(await site.contents()).toEqual(['rc', 'rc'])
  })
})

describe('init', () => {
  test('aborts what the one before left', async () => {
    const site = await Site.open()
    const zombie = await site.init()
    await site.fill(zombie)
    const producer = await site.init()
    expect(producer).toMatchObject({ producerId: zombie.producerId, epoch: 2 })
    expect(await site.contents()).toEqual(['ra', 'ra'])
    expect(await site.run(codeOf(site.end(zombie, true)))).toBe('PRODUCER_FENCED')
    await site.fill(producer)
    await site.run(site.end(producer, true))
    expect(await site.contents()).toEqual(['rarc', 'rarc'])
  })

  test('while the transaction is ended has to wait', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const ending = site.end(producer, true)
    expect(await codeOf(site.init())).toBe('CONCURRENT_TRANSACTIONS')
    await site.run(ending)
    expect(await site.init()).toMatchObject({ epoch: 1 })
  })

  test('at once with others gives each an epoch of its own, also where producer ids are needed', async () => {
    const site = await Site.open()
    const asked = [1, 2, 3].map(() => site.transactions.init(initBy(ID)))
    const given = await site.run(Promise.all(asked))
    expect(given.map(each => each.epoch)).toEqual([0, 1, 2])
    expect(new Set(given.map(each => each.producerId)).size).toBe(1)
  })

  test('of its own transaction gets on, and does not take the id back from who comes then', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const again = () => site.transactions.init({ ...producer, timeoutMs: TIMEOUT_MS })
    const own = again()
    expect(await codeOf(site.transactions.init(initBy(ID)))).toBe('CONCURRENT_TRANSACTIONS')
    expect(await site.run(own)).toMatchObject({ epoch: 2 })
    expect(await site.init()).toMatchObject({ epoch: 3 })
    expect(await site.run(codeOf(again()))).toBe('PRODUCER_FENCED')
    expect(await site.contents()).toEqual(['ra', 'ra'])
  })

  test('whose abort finds no room leaves things as they are, and may be asked again', async () => {
    const site = await Site.open()
    const producer = await site.init()
    await site.fill(producer)
    const again = () => site.transactions.init({ ...producer, timeoutMs: TIMEOUT_MS })
    site.disk.failNext('write', on('state'))
    expect(await site.run(codeOf(again()))).toBe('DISK_FULL')
    expect(site.transactions.get(ID)).toMatchObject({ state: 'Ongoing', epoch: 0 })
    expect(await site.run(again())).toMatchObject({ epoch: 2 })
    expect(await site.run(again())).toMatchObject({ epoch: 2 })
  })

  test('is answered after it is stored: a crash gives no epoch twice', async () => {
    const before = await Site.open()
    await before.init()
    before.disk.failNext('write', on('state'))
    await expect(before.init()).rejects.toMatchObject({ code: 'DISK_FULL' })
    const producer = await before.init()
    const site = await Site.open(0, before.disk.crash(), before.clock)
    expect(site.transactions.get(ID)).toMatchObject({ epoch: producer.epoch })
    expect((await site.init()).epoch).toBeGreaterThan(producer.epoch)
  })
})

test('an abort of nothing that was answered is stored, also if that failed the first time', async () => {
  const before = await Site.open()
  const producer = await before.init()
  before.disk.failNext('write', on('state'))
  expect(await before.run(codeOf(before.end(producer, false, true)))).toBe('DISK_FULL')
  expect(await before.run(before.end(producer, false, true))).toMatchObject({ epoch: 1 })
  const site = await Site.open(0, before.disk.crash(), before.clock)
  expect(site.transactions.get(ID)).toMatchObject({ epoch: 1 })
})

describe('the note of an end', () => {
  test('that finds no room is made up for; until then its offsets are not stable', async () => {
    const before = await Site.open()
    const producer = await before.init()
    await before.fill(producer)
    // The decision is written first, then the markers, then the note.
    const ending = before.end(producer, true)
    before.partitions.get('out-0')!.wait(() => {
      before.disk.failNext('write', on('state'))
    })
    await before.clock.advance(50)
    expect(before.state).toBe('CompleteCommit')
    expect(before.transactions.hasStaged('g', 'in', 0)).toBe(true)
    await before.run(ending)
    expect(before.transactions.hasStaged('g', 'in', 0)).toBe(false)
    // What others commit now is not taken back by a restart.
    await before.run(before.offsets.commit('g', [commitOf(9)]))
    const site = await before.restart()
    await site.clock.advance(1_000)
    expect(site.state).toBe('CompleteCommit')
    expect(site.committed).toBe(9)
  })
})

describe('close', () => {
  test('leaves what is decided to the next start', async () => {
    const before = await Site.open()
    const producer = await before.init()
    await before.fill(producer)
    for (let attempt = 0; attempt < 9; attempt++) before.disk.failNext('write', on('out-0'))
    const ending = codeOf(before.end(producer, true))
    await before.clock.advance(700)
    await before.run(before.transactions.close())
    expect(await before.run(ending)).toBe('CLOSED')
    expect(before.clock.timerCount).toBe(0)
    const site = await before.restart()
    await site.clock.advance(100)
    expect(await site.contents()).toEqual(['rc', 'rc'])
    expect(site.committed).toBe(5)
  })

  test.each(['init', 'add', 'end'] as const)('during %s loses and breaks nothing', async what => {
    const before = await Site.open()
    const producer = await before.init()
    if (what === 'end') await before.fill(producer)
    const pending =
      what === 'init'
        ? before.transactions.init(initBy(ID))
        : what === 'add'
          ? before.transactions.addPartitions(producer, [['out', 0]])
          : before.end(producer, true)
    const outcome = codeOf(pending)
    await before.run(before.transactions.close())
    const code = await before.run(outcome)
    expect(['done', 'CLOSED']).toContain(code)
    expect(await before.run(codeOf(before.transactions.init(initBy(ID))))).toBe('CLOSED')
    expect(before.clock.timerCount).toBe(0)
    const site = await before.restart()
    await site.clock.advance(TIMEOUT_MS + 1_000)
    if (what === 'end') {
      const contents = await site.contents()
      expect([
        ['rc', 'rc'],
        ['ra', 'ra'],
      ]).toContainEqual(contents)
      if (code === 'done') expect(contents).toEqual(['rc', 'rc'])
    }
    expect((await site.init()).epoch).toBeGreaterThan(producer.epoch)
  })
})

test('ids that are not used are forgotten, also by the next start', async () => {
  const before = await Site.open()
  const producer = await before.init('old')
  await before.init()
  await before.clock.advance(50_000)
  await before.fill(await before.init())
  await before.clock.advance(11_000)
  await before.run(before.transactions.expireIds())
  expect([...before.transactions.all].map(each => each.transactionalId)).toEqual([ID])
  expect(before.transactions.of(producer.producerId)).toBeUndefined()
  const site = await before.restart()
  expect([...site.transactions.all].map(each => each.transactionalId)).toEqual([ID])
  expect((await site.init('old')).producerId).not.toBe(producer.producerId)
})

test('wherever the power goes, all of a transaction is there or nothing, and nothing stays open', async () => {
  const outcomes = { committed: 0, aborted: 0 }
  const scenario = async (site: Site, renews: boolean, answered: string[]): Promise<void> => {
    const producer = await site.init()
    answered.push('init')
    await site.fill(producer)
    answered.push('filled')
    await site.run(site.end(producer, true, renews))
    answered.push('ended')
  }
  for (let operation = 0; ; operation++) {
    let isOver = false
    for (let seed = 0; seed < 4; seed++) {
      const before = await Site.open(seed)
      const name = `operation ${operation}, seed ${seed}`
      before.disk.crashAt(
        before.disk.operations + operation,
        (['before', 'middle', 'after'] as const)[seed % 3],
      )
      const answered: string[] = []
      await scenario(before, seed % 2 === 0, answered).catch(() => {})
      isOver ||= !before.disk.isDown
      const site = await Site.open(0, before.disk.crash(), before.clock)
      await site.clock.advance(TIMEOUT_MS + 5_000)
      const contents = (await site.contents()).map(each => each.replaceAll('r', ''))
      if (answered.includes('ended')) expect(contents, name).toEqual(['c', 'c'])
      if (contents.includes('c')) {
        expect(contents, name).toEqual(['c', 'c'])
        expect(site.committed, name).toBe(5)
        outcomes.committed++
      } else {
        for (const content of contents) expect(['', 'a'], name).toContain(content)
        expect(site.committed, name).toBeUndefined()
        outcomes.aborted++
      }
      for (const place of PLACES) {
        const partition = site.partitions.get(place)!
        expect(partition.lastStableOffset, name).toBe(partition.log.endOffset)
      }
      const next = await site.init()
      if (answered.includes('init')) expect(next.epoch, name).toBeGreaterThan(0)
      await site.fill(next)
      await site.run(site.end(next, true))
    }
    if (isOver) break
  }
  expect(outcomes.committed).toBeGreaterThan(20)
  expect(outcomes.aborted).toBeGreaterThan(20)
})
