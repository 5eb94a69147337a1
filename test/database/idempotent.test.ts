/** Handlers that handle each message once, over a store in memory and one in a database. */

import { DatabaseSync } from 'node:sqlite'
import { expect, onTestFinished, test } from 'vitest'
import { databaseOf, inTransaction } from '../../src/database/database.ts'
import { idempotent } from '../../src/database/idempotent.ts'
import { memoryProcessedIds, type ProcessedIds, sqlProcessedIds } from '../../src/database/processed-ids.ts'
import { migrate } from '../../src/database/schema.ts'
import type { Message } from '../../src/delivery/message.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { SluiceError } from '../../src/errors.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { open } from '../../src/open.ts'

async function memory(): Promise<Sluice> {
  const mq = await open('memory:')
  onTestFinished(() => mq.close())
  return mq
}

/** The messages that are in a topic, as a consumer gives them. */
async function messages(mq: Sluice, topic: string, count: number): Promise<Message[]> {
  const list: Message[] = []
  for await (const message of mq.consumer({ topics: [topic] })) if (list.push(message) === count) break
  return list
}

test('a message with an id is handled once, by whatever way and however often it comes', async () => {
  const mq = await memory()
  const headers = { 'sluice-message-id': 'order 1' }
  await mq.publish('orders', [{ value: 'a', headers }, { value: 'b' }, { value: 'a again', headers }])
  const handled: string[] = []
  const store = memoryProcessedIds()
  const handle = idempotent(store, async (message: Message) => void handled.push(message.text()))
  const consumer = mq.consumer({ topics: ['orders'], group: 'billing' })
  const running = consumer.run(handle)
  await expect.poll(() => handle.stats).toEqual({ handled: 2, duplicates: 1, busy: 0, failed: 0 })
  await consumer.stop()
  await running
  for (const message of await messages(mq, 'orders', 3)) await handle(message)
  expect(handled).toEqual(['a', 'b'])
  expect(handle.stats.duplicates).toBe(4)
  const own = idempotent(store, () => void handled.push('by value'), { idOf: message => message.text() })
  for (const message of await messages(mq, 'orders', 3)) await own(message)
  expect(own.stats).toMatchObject({ handled: 3, duplicates: 0 })
})

test('a worker gets its job; what fails is tried again, and is the same message wherever it is tried', async () => {
  const mq = await memory()
  await mq.publish('orders', { key: 'k', value: 'x' })
  const ids: string[] = []
  const handle = idempotent(
    memoryProcessedIds(),
    async (_message: Message, mark, job: { readonly attempt: number }) => {
      ids.push(`${mark.id} attempt ${job.attempt}`)
      if (ids.length < 3) throw new Error('not yet')
    },
  )
  const worker = mq.worker(
    'orders',
    { group: 'g', order: 'none', retry: { delays: [1, 1], keepOrder: false } },
    handle,
  )
  onTestFinished(() => worker.stop())
  await expect.poll(() => handle.stats).toEqual({ handled: 1, duplicates: 0, busy: 0, failed: 2 })
  expect(ids).toEqual([1, 2, 3].map(attempt => `orders/0/0 attempt ${attempt}`))
})

test('a message that somebody else is handling waits for him, or is refused', async () => {
  const mq = await memory()
  await mq.publish('orders', { value: 'x' })
  const [message] = await messages(mq, 'orders', 1)
  const store = memoryProcessedIds()
  const gate = Promise.withResolvers<void>()
  const slow = idempotent(store, () => gate.promise)
  const first = slow(message)
  let calls = 0
  const eager = idempotent(store, () => void calls++, { onBusy: 'throw' })
  await expect(eager(message)).rejects.toMatchObject({ code: 'ALREADY_CLAIMED', retriable: true })
  // time goes by as fast as it is asked for
  const clock = {
    ...systemClock,
    time: 0,
    monotonic: () => clock.time,
    after: (ms: number, run: () => void) => {
      clock.time += ms
      return systemClock.after(0, run)
    },
  }
  const impatient = idempotent(store, () => void calls++, { waitMs: 2_000, clock })
  await expect(impatient(message)).rejects.toMatchObject({ code: 'ALREADY_CLAIMED' })
  expect(impatient.stats.busy).toBe(5)
  const patient = idempotent(store, () => void calls++, { clock, waitMs: Number.POSITIVE_INFINITY })
  const second = patient(message)
  await expect.poll(() => patient.stats.busy).toBeGreaterThan(1)
  gate.resolve()
  await Promise.all([first, second])
  expect([calls, patient.stats.duplicates]).toEqual([0, 1])
})

test('a store that is away after the handler does not have it done again', async () => {
  const mq = await memory()
  await mq.publish('orders', { value: 'x' })
  const [message] = await messages(mq, 'orders', 1)
  const inner = memoryProcessedIds()
  let failures = 2
  const flaky: ProcessedIds = {
    async claim(id) {
      const claim = await inner.claim(id)
      if (typeof claim === 'string') return claim
      const done = async (): Promise<void> => {
        if (failures-- > 0) throw new SluiceError('DATABASE_FAILED', 'away')
        await claim.done()
      }
      return { ...claim, done }
    },
  }
  let calls = 0
  const handle = idempotent(flaky, () => void calls++)
  await handle(message)
  await handle(message)
  expect([calls, handle.stats]).toEqual([1, { handled: 1, duplicates: 1, busy: 0, failed: 0 }])
})

test("a mark in the handler's own transaction comes and goes with it", async () => {
  const mq = await memory()
  await mq.publish('orders', { value: 'x' })
  const native = new DatabaseSync(':memory:')
  onTestFinished(() => native.close())
  const database = databaseOf(native)
  await migrate(database)
  await database.query('CREATE TABLE invoices (total integer)')
  let isFailing = true
  const handle = idempotent(sqlProcessedIds(native), (_message: Message, mark) =>
    inTransaction(database, async transaction => {
      await transaction.query('INSERT INTO invoices VALUES (1)')
      await mark.done(transaction)
      if (isFailing) throw new Error('no')
    }),
  )
  const [message] = await messages(mq, 'orders', 1)
  await expect(handle(message)).rejects.toThrow('no')
  isFailing = false
  await handle(message)
  await handle(message)
  expect((await database.query('SELECT total FROM invoices')).rows).toHaveLength(1)
  expect(handle.stats).toEqual({ handled: 1, duplicates: 1, busy: 0, failed: 1 })
})
