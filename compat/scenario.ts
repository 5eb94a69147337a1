/**
 * The cases that every client goes through, written once over the steps of `driver.ts`. What a client is known not to have is named
 * in its `Traits`, and reported as not run.
 */

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { oneLine, type Report } from './check.ts'
import type { Codec, Driver, Protocol } from './driver.ts'
import { type Abilities, compareRecords, everything, recordsOf } from './records.ts'
import { advertised, batchesOf, groupTypeOf } from './server.ts'

export interface Traits {
  readonly codecs: readonly Codec[]
  readonly can?: Partial<Abilities>
  /** How the client names what the server refuses; missing: it has no such call, or does not say. */
  readonly errors: {
    readonly topicExists?: RegExp
    readonly tooLarge?: RegExp
    readonly unknownTopic?: RegExp
  }
  /** Calls that the client does not have. */
  readonly without?: readonly ('groups' | 'remove')[]
  /** Whether the producer asks for a producer id and numbers its batches. */
  readonly isIdempotent?: boolean
  /** Whether it has the consumer group protocol of KIP-848. */
  readonly consumerProtocol?: boolean
}

const PARTITIONS = 3
const GROUP_PARTITIONS = 4
const WAIT_MS_MAX = 45_000
/** What clients are told to wait for at most in a fetch. */
const FETCH_WAIT_MS = 100
const NO_SUCH_CALL = 'the client has no such call'
const allCodecs: readonly Codec[] = ['none', 'gzip', 'snappy', 'lz4', 'zstd']
const codecNumbers: Readonly<Record<Codec, number>> = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 }

export async function scenario(
  address: string,
  driver: Driver,
  traits: Traits,
  report: Report,
): Promise<void> {
  const { without = [] } = traits
  const can = { ...everything, ...traits.can }
  const from = Date.now() - 3_600_000

  await report.case('create and list topics', async () => {
    await driver.create('plain', PARTITIONS)
    assert.ok((await driver.topics()).includes('plain'), 'the new topic is not listed')
  })
  for (const codec of allCodecs) await produceAndRead(address, driver, traits, codec, can, from, report)
  await seekByTime(driver, from, can, report)
  await groupOfTwo(driver, 'classic', 'group of two, rebalance, commit, resume', can, report)
  await optional('list groups', !without.includes('groups'), report, async () => {
    assert.ok((await driver.groups()).includes('classic-group'), 'the group is not listed')
  })
  await newProtocol(address, driver, traits, can, report)
  await refusals(driver, traits, report)
  await optional('delete topic', !without.includes('remove'), report, async () => {
    await driver.remove('plain')
    // Clients keep what they know of topics for a while.
    await waitFor(
      () => driver.topics(),
      topics => assert.ok(!topics.includes('plain'), 'the deleted topic is still listed'),
    )
  })
}

async function optional(
  name: string,
  isThere: boolean,
  report: Report,
  body: () => Promise<unknown>,
): Promise<void> {
  if (isThere) await report.case(name, body)
  else report.notRun(name, NO_SUCH_CALL)
}

/** Produces and reads all shapes of records; looks at the log that the batches are what was asked for. */
async function produceAndRead(
  address: string,
  driver: Driver,
  { codecs, isIdempotent = false }: Traits,
  codec: Codec,
  can: Abilities,
  from: number,
  report: Report,
): Promise<void> {
  const name = `produce and read, ${codec}`
  if (!codecs.includes(codec)) {
    report.notRun(name, 'the client does not have it')
    return
  }
  await report.case(name, async () => {
    const topic = `codec-${codec}`
    await driver.create(topic, PARTITIONS)
    const sent = recordsOf(60, PARTITIONS, from, can)
    await driver.produce(topic, codec, sent)
    compareRecords(sent, await driver.read(topic, PARTITIONS, sent.length), can)
    const batches = await batchesOf(address, topic, 0)
    // Some clients leave a batch alone that compression would make larger.
    const used = batches.map(batch => batch.codec)
    assert.ok(used.includes(codecNumbers[codec]), `codecs of the batches in the log: ${used}`)
    if (isIdempotent) assert.ok(batches[0].producerId >= 0n, 'the batches in the log have no producer id')
  })
}

async function seekByTime(driver: Driver, from: number, can: Abilities, report: Report): Promise<void> {
  await report.case('seek by time', async () => {
    const sent = recordsOf(40, 1, from, can)
    await driver.create('times', 1)
    await driver.produce('times', 'none', sent.slice(0, 20))
    // So that clients that set the time themselves set another.
    await sleep(20)
    await driver.produce('times', 'none', sent.slice(20))
    const { timestamp } = (await driver.read('times', 1, sent.length))[20]
    for (const time of can.timestamps ? [timestamp, timestamp - 500] : [timestamp]) {
      const record = await driver.readAt('times', 0, time)
      assert.deepEqual([record.offset, record.timestamp], [20, timestamp])
    }
  })
}

/**
 * One member has all partitions, a second joins and both have a share; what is produced then is received once; they commit, one
 * leaves and the other takes all; it leaves too, and the next one goes on where they committed.
 */
export async function groupOfTwo(
  driver: Driver,
  protocol: Protocol,
  name: string,
  can: Abilities,
  report: Report,
  lookAtGroup: () => Promise<void> = async () => {},
): Promise<void> {
  const topic = `${protocol}-shared`
  const group = `${protocol}-group`
  const per = 10
  const values = (round: number) =>
    Array.from({ length: GROUP_PARTITIONS * per }, (_, index) => ({
      partition: index % GROUP_PARTITIONS,
      key: Buffer.from(`${index}`),
      value: Buffer.from(`round ${round} ${index}`),
      headers: [],
      ...(can.timestamps ? { timestamp: Date.now() } : {}),
    }))
  const expected = (round: number) =>
    Array.from({ length: GROUP_PARTITIONS * per }, (_, index) => {
      return `${index % GROUP_PARTITIONS}:${round * per + Math.floor(index / GROUP_PARTITIONS)}`
    }).sort()
  const receives = (members: string[], round: number) =>
    waitFor(
      async () => (await Promise.all(members.map(member => driver.received(member)))).flat().sort(),
      all => assert.deepEqual(all, expected(round)),
    )
  await report.case(name, async () => {
    await driver.create(topic, GROUP_PARTITIONS)
    await driver.join('a', group, topic, protocol)
    await has(driver, ['a'])
    await driver.join('b', group, topic, protocol)
    await has(driver, ['a', 'b'])
    // A fetch for what a member gave up may still be under way; what it brings is its client's affair.
    await sleep(3 * FETCH_WAIT_MS)
    await lookAtGroup()
    await driver.produce(topic, 'none', values(0))
    await receives(['a', 'b'], 0)
    await driver.commit('a')
    await driver.commit('b')
    const ofB = await driver.received('b')
    await driver.leave('b')
    await has(driver, ['a'])
    await driver.produce(topic, 'none', values(1))
    // Nothing of what the other had committed comes again.
    await waitFor(
      async () => [...(await driver.received('a')), ...ofB].sort(),
      all => assert.deepEqual(all, [...expected(0), ...expected(1)].sort()),
    )
    await driver.commit('a')
    await driver.leave('a')
    await driver.produce(topic, 'none', values(2))
    await driver.join('c', group, topic, protocol)
    await has(driver, ['c'])
    await receives(['c'], 2)
    await driver.commit('c')
    await driver.leave('c')
  })
}

/** Waits until the members have all partitions between them, none twice, and each has one. */
function has(driver: Driver, members: string[]): Promise<void> {
  return waitFor(
    () => Promise.all(members.map(member => driver.assigned(member))),
    shares => {
      assert.ok(
        shares.every(share => share.length > 0),
        'a member without partitions',
      )
      assert.deepEqual(
        shares.flat().sort(),
        Array.from({ length: GROUP_PARTITIONS }, (_, index) => index),
      )
    },
  )
}

async function newProtocol(
  address: string,
  driver: Driver,
  traits: Traits,
  can: Abilities,
  report: Report,
): Promise<void> {
  const name = 'group of two with the consumer protocol (KIP-848)'
  if (!traits.consumerProtocol) return
  const served = await advertised(address)
  if (!served.has('ConsumerGroupHeartbeat')) {
    report.notRun(name, 'ConsumerGroupHeartbeat is not served')
    return
  }
  await groupOfTwo(driver, 'consumer', name, can, report, async () => {
    assert.equal(await groupTypeOf(address, 'consumer-group'), 'consumer', 'type of the group')
  })
}

async function refusals(driver: Driver, traits: Traits, report: Report): Promise<void> {
  const { topicExists, tooLarge, unknownTopic } = traits.errors
  const refused = async (name: string, pattern: RegExp | undefined, attempt: () => Promise<unknown>) => {
    await optional(name, pattern !== undefined, report, async () => {
      const error = await attempt().then(
        () => new Error('it was not refused'),
        error => error,
      )
      assert.match(`${error?.name}: ${oneLine(error)}`, pattern!)
    })
  }
  const one = (value: Buffer) => [{ partition: 0, key: null, value, headers: [] }]
  await refused('error: topic exists', topicExists, () => driver.create('plain', 1))
  await refused('error: record too large', tooLarge, async () => {
    await driver.create('small', 1)
    await driver.produce('small', 'none', one(Buffer.from(randomBytes(800_000).toString('hex'))))
  })
  await refused('error: unknown topic', unknownTopic, () =>
    driver.produce('nowhere', 'none', one(Buffer.from('x'))),
  )
}

/** Looks again and again until the check holds; then rejects with what the check said last. */
async function waitFor<T>(look: () => Promise<T>, check: (seen: T) => void): Promise<void> {
  const deadline = performance.now() + WAIT_MS_MAX
  for (;;) {
    const seen = await look()
    try {
      check(seen)
      return
    } catch (error) {
      if (performance.now() > deadline) throw error
    }
    await sleep(50)
  }
}
