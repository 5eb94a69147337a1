/**
 * Producers and consumers under random trouble, from a seed: calls that fail, hang or come late, rebalances,
 * seeks that race with fetches. Whatever happens, what the public API promises must hold. A failing run
 * prints its seed; `SLUICE_SEED=n` repeats it alone.
 */

import { expect, it } from 'vitest'
import { Producer } from '../../src/delivery/producer.ts'
import { PublishError } from '../../src/delivery/published.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import type { SluiceError } from '../../src/errors.ts'
import { Random } from '../sim/random.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { FakeEngine } from './fake-engine.ts'

const seeds = process.env.SLUICE_SEED
  ? [Number(process.env.SLUICE_SEED)]
  : Array.from({ length: 150 }, (_, index) => index + 1)

async function eachSeed(run: (random: Random) => Promise<void>): Promise<void> {
  for (const seed of seeds) {
    try {
      await run(new Random(seed))
    } catch (error) {
      throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
    }
  }
}

const PARTITIONS = 3

it('every message is answered exactly once, in order, with a place that is true', () => eachSeed(produce))

async function produce(random: Random): Promise<void> {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock })
  await engine.createTopic({ name: 't', partitions: PARTITIONS })
  let postsFailed = 0
  const producer = new Producer(
    {
      lingerMs: random.pick([0, 0, 5, 50]),
      batchBytesMax: random.pick([200, 1_000, 1_000_000]),
      batchCountMax: random.pick([1, 7, 1_000]),
      bufferBytesMax: random.pick([500, 5_000, 1_000_000]),
      maxBlockMs: random.pick([20, 1_000]),
      whenFull: random.pick(['wait', 'wait', 'reject']),
      retries: random.pick([0, 3]),
      retryBackoffMs: 10,
      deliveryTimeoutMs: random.pick([40, 10_000]),
      idempotent: random.chance(0.5),
      onError: (_error, { count }) => {
        postsFailed += count
      },
    },
    { engine, clock, random: () => random.fraction() },
  )
  let number = 0
  let posted = 0
  const message = () => {
    const wrong = random.chance(0.02)
    const partition = random.below(PARTITIONS)
    return { value: wrong ? (undefined as never) : `${partition}:${number++}`, partition }
  }
  /** Value → where it is said to be, or the outcome of its refusal. */
  const answers = new Map<string, { partition: number; offset: number } | string>()
  const pending: Promise<void>[] = []
  const answer = (value: string, place: { partition: number; offset: number } | string): void => {
    expect(answers.has(value)).toBe(false)
    answers.set(value, place)
  }
  const outcome = (error: unknown): string => String((error as SluiceError).detail.outcome ?? 'refused')

  for (let step = 0; step < 60; step++) {
    const action = random.below(10)
    if (action < 4) {
      const one = message()
      pending.push(
        producer.send('t', one).then(
          published => answer(one.value, published),
          error => answer(one.value ?? `wrong ${number++}`, outcome(error)),
        ),
      )
    } else if (action < 6) {
      const many = Array.from({ length: random.below(20) }, message)
      const name = (index: number) => many[index].value ?? `wrong ${number++}`
      pending.push(
        producer.send('t', many).then(
          published => {
            for (const index of many.keys()) answer(name(index), published.at(index))
          },
          error => {
            expect(error).toBeInstanceOf(PublishError)
            const failures = new Map(
              [...(error as PublishError).failures()].map(one => [one.index, one.error]),
            )
            for (const index of many.keys()) {
              const failure = failures.get(index)
              answer(name(index), failure === undefined ? error.at(index) : outcome(failure))
            }
          },
        ),
      )
    } else if (action === 6) {
      const many = Array.from({ length: 1 + random.below(5) }, message)
      posted += many.length
      producer.post('t', many)
    } else if (action === 7)
      engine.failNext('produce', random.pick(['DISK_FULL', 'TIMED_OUT', 'STORAGE_FAILED']), random.below(4))
    else if (action === 8) random.chance(0.5) ? engine.hold() : engine.release()
    else await clock.advance(random.below(30))
  }
  if (random.chance(0.3)) await engine.close()
  const closing = producer.close({ deadlineMs: 500 })
  await clock.advance(500)
  await closing
  engine.release()
  await clock.advance(1)
  await Promise.all(pending)

  expect(producer.bufferedBytes).toBe(0)
  const stored = Array.from({ length: PARTITIONS }, (_, partition) => engine.values('t', partition))
  for (const [value, place] of answers) {
    if (typeof place === 'object') expect(stored[place.partition][place.offset]).toBe(value)
    else if (place === 'refused') expect(stored.flat()).not.toContain(value)
  }
  for (const [partition, values] of stored.entries()) {
    const numbers = values.map(value => Number(value.split(':')[1]))
    expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b))
    expect(values.every(value => value.startsWith(`${partition}:`))).toBe(true)
  }
  const storedPosts = stored.flat().filter(value => !answers.has(value)).length
  // what a time-out has given up may be stored after all, so both may count the same message
  expect(storedPosts + postsFailed).toBeGreaterThanOrEqual(posted)
}

it('every message is handled, in order, and none twice while nothing goes wrong with its handler', () =>
  eachSeed(consume))

async function consume(random: Random): Promise<void> {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock })
  await engine.createTopic({ name: 't', partitions: PARTITIONS })
  const mq = new Sluice(engine, { clock })
  const producer = mq.producer()
  const stored: number[] = Array(PARTITIONS).fill(0)
  const handled: number[][] = Array.from({ length: PARTITIONS }, () => [])
  const atWork = new Set<number>()

  const handle = async (partition: number, offsets: readonly number[]): Promise<void> => {
    expect(atWork.has(partition)).toBe(false)
    atWork.add(partition)
    if (random.chance(0.3)) await new Promise<void>(resolve => clock.after(random.below(20), resolve))
    handled[partition].push(...offsets)
    atWork.delete(partition)
  }
  const start = () => {
    const consumer = mq
      .consumer({
        topics: ['t'],
        group: 'g',
        concurrency: random.pick([1, 2, 8]),
        partitionBytesMax: random.pick([1, 300, 1_000_000]),
        bufferBytesMax: random.pick([1, 1_000_000]),
        autoCommit: random.pick([true, { everyMs: 7 }]),
      })
      .on('error', () => {})
    const kind = random.below(3)
    if (kind === 0) void consumer.run(message => handle(message.partition, [message.offset]))
    else if (kind === 1) {
      void consumer.runBatch(batch =>
        handle(
          batch.partition,
          batch.messages().map(({ offset }) => offset),
        ),
      )
    } else {
      void (async () => {
        for await (const message of consumer) await handle(message.partition, [message.offset])
      })()
    }
    return consumer
  }

  const consumers = [start()]
  for (let step = 0; step < 40; step++) {
    const action = random.below(9)
    if (action < 3) {
      const partition = random.below(PARTITIONS)
      const count = 1 + random.below(6)
      stored[partition] += count
      void producer.send(
        't',
        Array.from({ length: count }, () => ({ value: 'x'.repeat(random.below(100)), partition })),
      )
    } else if (action === 3 && consumers.length < 4) consumers.push(start())
    else if (action === 4 && consumers.length > 1)
      void consumers.splice(random.below(consumers.length), 1)[0].stop()
    else if (action === 5) engine.failNext(random.pick(['fetch', 'committed', 'offsetFor']), 'TIMED_OUT')
    else if (action === 6) {
      const consumer = random.pick(consumers)
      consumer.pause()
      clock.after(random.below(50), () => consumer.resume())
    } else await clock.advance(random.below(40))
  }
  await clock.advance(60_000)
  const closing = mq.close()
  await clock.advance(60_000)
  await closing
  for (let partition = 0; partition < PARTITIONS; partition++) {
    expect(handled[partition]).toEqual(Array.from({ length: stored[partition] }, (_, offset) => offset))
    if (stored[partition] > 0) expect(engine.committedOffset('g', 't', partition)).toBe(stored[partition])
  }
}
