/**
 * What every engine must do for delivery/ to keep its promises, told through the public API. An engine joins
 * by calling `engineSuite` with a way to open an empty one. Nothing here waits for time to pass.
 */

import { once } from 'node:events'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Consumer } from '../../src/delivery/consumer.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import { topic } from '../../src/delivery/topic.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { BatchBuilder } from '../../src/record/builder.ts'

export function engineSuite(name: string, openEngine: () => Promise<Engine>): void {
  describe(`engine: ${name}`, () => {
    let mq: Sluice

    beforeEach(async () => {
      mq = new Sluice(await openEngine())
    })

    afterEach(async () => {
      await mq.close({ deadlineMs: 1_000 })
    })

    /** The first `count` messages, by whatever `read` makes of them; the consumer is stopped then. */
    async function take(consumer: Consumer<string>, count: number): Promise<string[]> {
      const texts: string[] = []
      await consumer.run(message => {
        texts.push(message.text())
        if (texts.length >= count) void consumer.stop()
      })
      return texts
    }

    const numbers = (count: number, from = 0) =>
      Array.from({ length: count }, (_, index) => String(index + from))

    it('keeps every part of a message', async () => {
      const before = Date.now()
      const { timestamp } = await mq.publish('t', {
        key: 'k',
        value: { a: 1 },
        headers: { h: 'x', none: null },
      })
      await mq.publish('t', { key: null, value: null, timestamp: 7 })
      expect(timestamp).toBeGreaterThanOrEqual(before)
      const seen = []
      for await (const message of mq.consumer({ topics: ['t'] })) {
        seen.push(message)
        if (seen.length === 2) break
      }
      expect(seen[0].toJSON()).toEqual({
        topic: 't',
        partition: 0,
        offset: 0,
        timestamp,
        key: 'k',
        value: '{"a":1}',
        headers: { h: 'x', none: null },
      })
      expect(seen[1]).toMatchObject({ offset: 1, timestamp: 7, key: null, value: null })
    })

    it('gives dense offsets in the order of sending', async () => {
      const sent = await Promise.all(numbers(500).map(value => mq.publish('t', { value })))
      expect(sent.map(({ offset }) => offset)).toEqual(numbers(500).map(Number))
      expect(await take(mq.consumer({ topics: ['t'] }), 500)).toEqual(numbers(500))
    })

    it.each(['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const)(
      'carries batches with compression %s',
      async compression => {
        const producer = mq.producer({ compression })
        await producer.send(
          't',
          numbers(1_000).map(value => ({ value: value.padStart(100) })),
        )
        const texts = await take(mq.consumer({ topics: ['t'] }), 1_000)
        expect(texts.map(text => text.trim())).toEqual(numbers(1_000))
      },
    )

    it('keeps the order of a key over partitions', async () => {
      await mq.createTopic('t', { partitions: 4 })
      const messages = numbers(1_000).map((value, index) => ({ key: `k${index % 10}`, value }))
      const published = await mq.publish('t', messages)
      expect(new Set([...published].map(({ partition }) => partition)).size).toBeGreaterThan(1)
      const byKey = new Map<string, number[]>()
      let count = 0
      const consumer = mq.consumer({ topics: ['t'], concurrency: 4 })
      await consumer.runBatch(batch => {
        for (const message of batch)
          byKey.set(message.key!, [...(byKey.get(message.key!) ?? []), Number(message.text())])
        count += batch.count
        if (count === 1_000) void consumer.stop()
      })
      expect(byKey.size).toBe(10)
      for (const values of byKey.values()) expect(values).toEqual([...values].sort((a, b) => a - b))
    })

    it('wakes a waiting reader', async () => {
      await mq.createTopic('t')
      const consumer = mq.consumer({ topics: ['t'], waitMs: 600_000 })
      const reading = take(consumer, 1)
      await once(consumer, 'assigned')
      await mq.publish('t', { value: 'x' })
      expect(await reading).toEqual(['x'])
    })

    it('ends a long poll when the reader stops', async () => {
      await mq.createTopic('t')
      const consumer = mq.consumer({ topics: ['t'], group: 'g', waitMs: 600_000 })
      const running = consumer.run(() => {})
      await once(consumer, 'assigned')
      await consumer.stop()
      await running
    })

    it('reads from an offset, an end, and a time', async () => {
      await mq.publish(
        't',
        numbers(100).map((value, index) => ({ value, timestamp: 1_000 + index })),
      )
      expect(await take(mq.consumer({ topics: ['t'], from: 42 }), 2)).toEqual(['42', '43'])
      expect(await take(mq.consumer({ topics: ['t'], from: { time: 1_070 } }), 1)).toEqual(['70'])
      expect(await mq.offsetFor('t', 0, 'latest')).toBe(100)
      expect(await mq.offsetFor('t', 0, { time: 9_999 })).toBe(100)
    })

    it('resumes a group at its commit', async () => {
      await mq.publish(
        't',
        numbers(10).map(value => ({ value })),
      )
      expect(await take(mq.consumer({ topics: ['t'], group: 'g', partitionBytesMax: 1 }), 4)).toEqual(
        numbers(4),
      )
      expect(await take(mq.consumer({ topics: ['t'], group: 'g' }), 6)).toEqual(numbers(6, 4))
      expect(await take(mq.consumer({ topics: ['t'], group: 'another' }), 10)).toEqual(numbers(10))
    })

    it('commits by hand, with metadata', async () => {
      await mq.publish(
        't',
        numbers(3).map(value => ({ value })),
      )
      const consumer = mq.consumer({ topics: ['t'], group: 'g', autoCommit: false })
      for await (const message of consumer) {
        await consumer.commit([{ topic: 't', partition: 0, offset: message.offset + 1, metadata: 'note' }])
        expect(await consumer.committed()).toMatchObject([
          { topic: 't', partition: 0, offset: 1, metadata: 'note' },
        ])
        break
      }
      expect(await mq.describeGroup('g')).toMatchObject({ state: 'empty', lag: 2 })
    })

    it('shares partitions among members, each message to one', async () => {
      await mq.createTopic('t', { partitions: 6 })
      const seen: string[] = []
      const members = [0, 1, 2].map(() => mq.consumer({ topics: ['t'], group: 'g' }))
      const { promise: done, resolve } = Promise.withResolvers<void>()
      const running = members.map(member =>
        member.run(message => {
          if (seen.push(message.text()) === 600) resolve()
        }),
      )
      await until(members, () => members.every(member => member.assignment().length === 2))
      await mq.publish(
        't',
        numbers(600).map(value => ({ key: value, value })),
      )
      await done
      expect([...seen].sort((a, b) => Number(a) - Number(b))).toEqual(numbers(600))

      const [first, ...others] = members
      await first.stop()
      await until(others, () => others.every(member => member.assignment().length === 3))
      await Promise.all(others.map(member => member.stop()))
      await Promise.all(running)
      expect((await mq.describeGroup('g')).lag).toBe(0)
    })

    it('hands a partition over without losing or repeating what was handled', async () => {
      await mq.createTopic('t', { partitions: 4 })
      const producer = mq.producer()
      const counts = new Map<string, number>()
      const total = 4_000
      const { promise: done, resolve } = Promise.withResolvers<void>()
      const handle = async (message: { text(): string }): Promise<void> => {
        await Promise.resolve()
        counts.set(message.text(), (counts.get(message.text()) ?? 0) + 1)
        if (counts.size === total) resolve()
      }
      const members = [mq.consumer({ topics: ['t'], group: 'g', partitionBytesMax: 4_096 })]
      const running = [members[0].run(handle)]
      for (let part = 0; part < 4; part++) {
        await producer.send(
          't',
          numbers(total / 4, (part * total) / 4).map(value => ({ key: value, value })),
        )
        members.push(mq.consumer({ topics: ['t'], group: 'g', partitionBytesMax: 4_096 }))
        running.push(members.at(-1)!.run(handle))
        await once(members.at(-1)!, 'assigned')
        if (part === 1) await members[0].stop()
      }
      await done
      await Promise.all(members.map(member => member.stop()))
      await Promise.all(running)
      expect([...counts.values()].filter(count => count !== 1)).toEqual([])
    })

    it('refuses with the names of the error table', async () => {
      const strict = mq.engine
      await mq.createTopic('t')
      await expect(strict.createTopic({ name: 't' })).rejects.toMatchObject({ code: 'TOPIC_EXISTS' })
      await expect(strict.createTopic({ name: 'no/slash' })).rejects.toMatchObject({ code: 'INVALID_TOPIC' })
      await expect(strict.describeTopic('nowhere')).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
      await expect(strict.deleteTopic('nowhere')).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
      await expect(strict.describeGroup('nobody')).rejects.toMatchObject({ code: 'UNKNOWN_GROUP' })
      await expect(mq.publish('t', { value: 'x', partition: 5 })).rejects.toMatchObject({
        code: 'INVALID_PARTITION',
      })
      const [{ error }] = await strict.fetch([{ topic: 't', partition: 0, offset: 9 }], { waitMs: 0 })
      expect(error?.code).toBe('OFFSET_OUT_OF_RANGE')
    })

    it('makes a topic as its descriptor says, on first use', async () => {
      await mq.publish(topic('t', { partitions: 3 }), { value: 'x' })
      expect((await mq.describeTopic('t')).partitions).toHaveLength(3)
    })

    it('has its idempotent producers', async ({ skip }) => {
      if (!mq.engine.supports.idempotence) skip()
      const producer = mq.producer({ idempotent: true, batchCountMax: 10 })
      await Promise.all(numbers(100).map(value => producer.send('t', { value })))
      expect(await take(mq.consumer({ topics: ['t'] }), 100)).toEqual(numbers(100))
    })

    it('deletes records from the front', async ({ skip }) => {
      if (!mq.engine.supports.deleteRecords) skip()
      for (const value of numbers(4)) await mq.publish('t', { value })
      expect(await mq.deleteRecords('t', 0, 3)).toBe(3)
      expect(await take(mq.consumer({ topics: ['t'] }), 1)).toEqual(['3'])
      expect(await mq.deleteRecords('t', 0, 'latest')).toBe(4)
    })

    it('answers no more once it is closed', async () => {
      const { engine } = mq
      await engine.createTopic({ name: 't' })
      await mq.close()
      const builder = new BatchBuilder()
      builder.append(0, null, 'x', null)
      for (const call of [
        () => engine.createTopic({ name: 'u' }),
        () => engine.produce('t', 0, builder.close()),
        () => engine.fetch([{ topic: 't', partition: 0, offset: 0 }], { waitMs: 0 }),
        () => engine.commit('g', [{ topic: 't', partition: 0, offset: 0 }]),
      ]) {
        await expect(call()).rejects.toMatchObject({ code: 'CLOSED' })
      }
    })
  })
}

/** Waits until `isTrue`, looking again whenever the assignment of a consumer changes. */
async function until(consumers: readonly Consumer<string>[], isTrue: () => boolean): Promise<void> {
  while (!isTrue()) {
    const abort = new AbortController()
    const { signal } = abort
    await Promise.race(
      consumers.flatMap(consumer => [
        once(consumer, 'assigned', { signal }),
        once(consumer, 'revoked', { signal }),
      ]),
    )
    abort.abort()
  }
}
