/** Tools for a group's backlog through the public API, in memory and on disk. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Ledger } from '../../src/delivery/ledger.ts'
import type { Message } from '../../src/delivery/message.ts'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import { open } from '../../src/open.ts'

async function messages(mq: Sluice, topic: string): Promise<Message<unknown, unknown>[]> {
  const found: Message<unknown, unknown>[] = []
  for (const { partition } of (await mq.describeTopic(topic)).partitions) {
    for await (const batch of scanPartition(mq.engine, rawTopic(topic), { partition })) found.push(...batch)
  }
  return found
}

const values = async (mq: Sluice, topic: string) => (await messages(mq, topic)).map(message => message.text())

const numbers = (from: number, to: number) => Array.from({ length: to - from }, (_, n) => String(from + n))

/** Topic `jobs`, of which the group has handled `handled` messages. */
async function backlog(count: number, { url = 'memory:', handled = 0, partitions = 1 } = {}) {
  const folder = url === 'disk' ? mkdtempSync(join(tmpdir(), 'sluice-backlog-')) : null
  const mq = await open(folder ?? url)
  onTestFinished(async () => {
    await mq.close()
    if (folder !== null) rmSync(folder, { recursive: true })
  })
  await mq.createTopic('jobs', { partitions })
  const all = numbers(0, count).map(value => ({
    key: `k${value}`,
    value,
    headers: { n: value },
    timestamp: 1_000 + Number(value),
  }))
  for (let at = 0; at < count; at += 500) await mq.publish('jobs', all.slice(at, at + 500))
  if (handled > 0) await mq.commitOffsets('workers', [{ topic: 'jobs', partition: 0, offset: handled }])
  return { mq, tools: mq.backlog('workers', 'jobs') }
}

describe('divert', () => {
  test.each(['memory:', 'disk'])(
    'moves all that is not handled to another topic, as it is: %s',
    async url => {
      const { mq, tools } = await backlog(3_500, { url, handled: 7 })
      expect(await tools.size()).toBe(3_493)
      expect(await tools.divert('later')).toEqual({ count: 3_493, isComplete: true })
      expect(await tools.size()).toBe(0)
      const moved = await messages(mq, 'later')
      expect(moved.map(message => message.text())).toEqual(numbers(7, 3_500))
      expect(moved[0]).toMatchObject({ key: Buffer.from('k7'), timestamp: 1_007 })
      expect(moved[0].header('n')).toBe('7')
      expect(await tools.divert('later')).toEqual({ count: 0, isComplete: true })
    },
  )

  test('covers all partitions, and a group that has never been there', async () => {
    const { mq, tools } = await backlog(100, { partitions: 3 })
    expect(await tools.divert('later')).toEqual({ count: 100, isComplete: true })
    expect((await values(mq, 'later')).sort()).toEqual(numbers(0, 100).sort())
  })

  test('goes on after a limit, and after a transaction that failed, without a gap or a repetition', async () => {
    const { mq, tools } = await backlog(2_000)
    expect(await tools.divert('later', { limit: 150 })).toEqual({ count: 150, isComplete: false })
    let calls = 0
    const failing = tools.divert('later', {
      where: () => {
        if (++calls === 1_500) throw new Error('interrupted')
        return true
      },
    })
    await expect(failing).rejects.toThrow('interrupted')
    expect(await tools.size()).toBe(850)
    expect(await tools.divert('later')).toEqual({ count: 850, isComplete: true })
    expect(await values(mq, 'later')).toEqual(numbers(0, 2_000))
  })

  test('of some leaves the others to the workers, in order', async () => {
    const { mq, tools } = await backlog(300)
    const where = (message: Message<unknown, unknown>) => Number(message.text()) % 3 === 0
    expect(await tools.divert('later', { where })).toEqual({ count: 100, isComplete: true })
    expect(await tools.size()).toBe(200)
    expect(await tools.divert('later', { where })).toEqual({ count: 0, isComplete: true })
    expect(await values(mq, 'later')).toEqual(numbers(0, 300).filter(n => Number(n) % 3 === 0))
    const [commit] = await mq.engine.committed('workers')
    const left = [...new Ledger(commit.offset, commit.metadata).offsets()]
    expect(left).toEqual(Array.from({ length: 300 }, (_, n) => n).filter(n => n % 3 !== 0))
    expect(await tools.divert('rest')).toEqual({ count: 200, isComplete: true })
    expect(await values(mq, 'rest')).toEqual(numbers(0, 300).filter(n => Number(n) % 3 !== 0))
  })

  test('says when no more can be left in place', async () => {
    const { tools } = await backlog(17_000)
    const diverted = await tools.divert('later', { where: message => message.offset % 2 === 0 })
    expect(diverted).toEqual({ count: 8_001, isComplete: false })
    expect(await tools.size()).toBe(8_999)
  })

  test('loses nothing when the other topic refuses a message', async () => {
    const { mq, tools } = await backlog(20)
    await mq.publish('jobs', { value: 'x'.repeat(1_000) })
    await mq.createTopic('small', { config: { 'max.message.bytes': 500 } })
    await expect(tools.divert('small')).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' })
    expect(await tools.size()).toBe(21)
    expect(await values(mq, 'small')).toEqual([])
    expect(await tools.divert('small', { limit: 20 })).toEqual({ count: 20, isComplete: false })
    expect(await values(mq, 'small')).toEqual(numbers(0, 20))
  })

  test('takes nothing that a worker has finished beyond the committed offset', async () => {
    const { mq, tools } = await backlog(6)
    const ledger = new Ledger(0)
    for (const offset of [0, 1, 2, 3]) ledger.begin(offset)
    for (const offset of [0, 2, 3]) ledger.finish(offset)
    const { offset, metadata } = { offset: ledger.offset, metadata: ledger.metadata() }
    await mq.commitOffsets('workers', [{ topic: 'jobs', partition: 0, offset, metadata }])
    expect(await tools.size()).toBe(3)
    await tools.divert('later')
    expect(await values(mq, 'later')).toEqual(['1', '4', '5'])
  })

  test('is refused while the group has members, and into the same topic', async () => {
    const { mq, tools } = await backlog(5)
    const consumer = mq.consumer({ topics: ['jobs'], group: 'workers' })
    const { promise, resolve } = Promise.withResolvers<void>()
    void consumer.run(() => resolve())
    await promise
    await expect(tools.divert('later')).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' })
    await expect(tools.skip({ count: 1 })).rejects.toMatchObject({ code: 'GROUP_NOT_EMPTY' })
    await consumer.stop()
    await expect(tools.divert('jobs')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await expect(mq.backlog('workers', 'nowhere').size()).rejects.toMatchObject({ code: 'UNKNOWN_TOPIC' })
  })

  test('by two at once moves everything once', async () => {
    const { mq, tools } = await backlog(4_000)
    const other = mq.backlog('workers', 'jobs')
    const diverted = await Promise.all([tools.divert('later'), other.divert('later')])
    expect(diverted[0].count + diverted[1].count).toBe(4_000)
    expect((await values(mq, 'later')).sort()).toEqual(numbers(0, 4_000).sort())
  })
})

describe('skip', () => {
  test('finishes so many messages, and no more than there are', async () => {
    const { mq, tools } = await backlog(10, { handled: 2 })
    expect(await tools.skip({ count: 3 })).toBe(3)
    expect(await mq.engine.committed('workers')).toMatchObject([{ offset: 5, metadata: '' }])
    expect(await tools.skip({ count: 100, partition: 0 })).toBe(5)
    expect(await tools.skip({ count: 1 })).toBe(0)
    await expect(tools.skip({ count: 1, partition: 3 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })

  test('skips the first unfinished of a worker, and nothing else', async () => {
    const { mq, tools } = await backlog(10)
    const ledger = new Ledger(0)
    for (const offset of [0, 1, 2, 3]) ledger.begin(offset)
    for (const offset of [0, 2]) ledger.finish(offset)
    await mq.commitOffsets('workers', [
      { topic: 'jobs', partition: 0, offset: ledger.offset, metadata: ledger.metadata() },
    ])
    expect(await tools.skip({ count: 1 })).toBe(1)
    await tools.divert('later')
    expect(await values(mq, 'later')).toEqual(numbers(3, 10))
  })

  test('goes to a place, and never back', async () => {
    const { mq, tools } = await backlog(10, { handled: 2 })
    expect(await tools.skip({ to: 6 })).toBe(4)
    expect(await tools.skip({ to: 3 })).toBe(0)
    expect(await mq.engine.committed('workers')).toMatchObject([{ offset: 6 }])
    expect(await tools.skip({ to: { time: 1_008 } })).toBe(2)
    expect(await tools.skip({ to: 'latest' })).toBe(2)
  })
})

describe('shed', () => {
  test('drops what is too old and leaves the rest', async () => {
    const { mq, tools } = await backlog(0)
    const now = Date.now()
    for (const minutes of [90, 61, 59, 1]) {
      await mq.publish('jobs', { value: `${minutes}`, timestamp: now - minutes * 60_000 })
    }
    expect(await tools.shed({ olderThan: '1h' })).toBe(2)
    expect(await tools.shed({ olderThan: '1h' })).toBe(0)
    await tools.divert('later')
    expect(await values(mq, 'later')).toEqual(['59', '1'])
    await expect(tools.shed({ olderThan: 'long' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})
