/** What the outbox promises, on every database. */

import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { inTransaction, type SqlDatabase } from '../../src/database/database.ts'
import { OutboxAdmin, outbox } from '../../src/database/outbox.ts'
import { OutboxRelay, type OutboxRelayOptions, outboxRelay } from '../../src/database/outbox-relay.ts'
import { migrate } from '../../src/database/schema.ts'
import type { Message } from '../../src/delivery/message.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import type { SluiceError } from '../../src/errors.ts'
import { open } from '../../src/open.ts'
import type { TestDatabase } from '../services/databases.ts'
import { troubled, troubles } from './troubled-database.ts'

export function outboxSuite(name: string, make: () => Promise<TestDatabase>): void {
  describe(`outbox: ${name}`, () => {
    let given: TestDatabase
    let database: SqlDatabase
    let mq: Sluice
    let relays: OutboxRelay[]
    let admin: OutboxAdmin

    beforeAll(async () => {
      given = await make()
      database = given.database
      await migrate(database)
      admin = new OutboxAdmin(given.native)
    }, 120_000)
    afterAll(() => given.close())
    beforeEach(async () => {
      for (const table of ['sluice_outbox', 'sluice_outbox_shards', 'sluice_outbox_relays'])
        await database.query(`DELETE FROM ${table}`)
      mq = await open('memory:')
      relays = []
    })
    afterEach(async () => {
      await Promise.all(relays.map(relay => relay.stop()))
      await mq.close()
    })

    function relay(options: Partial<OutboxRelayOptions> = {}): OutboxRelay {
      const started = outboxRelay(mq, { database, pollMs: 20, leaseMs: 600, ...options })
      relays.push(started)
      return started
    }

    const publish = (key: string, value: string): Promise<void> =>
      inTransaction(database, async tx => outbox(tx).publish('orders', { key, value }))

    /** The first `count` messages of a topic. */
    async function take(topic: string, count: number): Promise<Message[]> {
      const messages: Message[] = []
      for await (const message of mq.consumer({ topics: [topic] }))
        if (messages.push(message) === count) break
      return messages
    }

    /** All that a reader of committed messages finds in partition 0, sorted. */
    async function everything(topic: string): Promise<string[]> {
      const end = await mq.offsetFor(topic, 0, 'latest')
      const consumer = mq.consumer({ topics: [topic], partitions: [0] })
      const texts: string[] = []
      const running = consumer.run(message => void texts.push(message.text()))
      await expect.poll(() => consumer.position({ topic, partition: 0 })).toBe(end)
      await consumer.stop()
      await running
      return texts.toSorted()
    }

    const numbers = (count: number): string[] =>
      Array.from({ length: count }, (_, index) => String(index)).toSorted()

    const drained = (): Promise<void> =>
      expect.poll(async () => (await admin.status())[0]?.pending, { timeout: 20_000 }).toBe(0)

    it('publishes what was committed, as it was, and nothing that was rolled back', async () => {
      await inTransaction(database, async tx => {
        const box = outbox(tx)
        await box.publish('orders', {
          key: 'ann',
          value: { total: 1 },
          headers: { trace: 't', none: null },
          timestamp: 77,
        })
        await box.publish('orders', [{ key: 'ann', value: null }, { value: 'no key' }])
      })
      const failed = inTransaction(database, async tx => {
        await outbox(tx).publish('orders', { key: 'ann', value: 'never' })
        throw new Error('no')
      })
      await expect(failed).rejects.toThrow('no')
      relay()
      const messages = await take('orders', 3)
      const bob = messages.find(({ key }) => key === null)
      const anns = messages.filter(({ key }) => key === 'ann')
      expect(bob?.text()).toBe('no key')
      expect(anns.map(({ value }) => value?.toString() ?? null)).toEqual(['{"total":1}', null])
      expect([anns[0].timestamp, anns[0].header('trace'), anns[0].header('none')]).toEqual([77, 't', null])
      await drained()
      expect(await mq.offsetFor('orders', 0, 'latest')).toBeLessThanOrEqual(3 + 8) // 3 messages, a marker for each transaction
    })

    it('refuses a message that cannot be encoded in the transaction, not later', async () => {
      const refused = inTransaction(database, tx =>
        outbox(tx).publish('orders', { value: undefined } as never),
      )
      await expect(refused).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
      // in no transaction
      expect(() => outbox(database)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
      expect(() => outbox({ dialect: 'sqlite', query: database.query }, { name: 'a b' })).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      )
    })

    it('keeps the order of a key, and shares the work of four relays without doubling anything', async () => {
      const keys = Array.from({ length: 20 }, (_, index) => `key-${index}`)
      for (let step = 0; step < 5; step++) {
        await inTransaction(database, async tx => {
          await outbox(tx).publish(
            'orders',
            keys.map(key => ({ key, value: String(step) })),
          )
        })
      }
      for (let index = 0; index < 4; index++) relay({ batchRows: 3 })
      const messages = await take('orders', 100)
      for (const key of keys) {
        expect(messages.filter(message => message.key === key).map(message => message.text())).toEqual([
          '0',
          '1',
          '2',
          '3',
          '4',
        ])
      }
      await drained()
      await expect
        .poll(async () => (await admin.status())[0].relays.map(({ shards }) => shards), { timeout: 20_000 })
        .toEqual([2, 2, 2, 2])
    })

    it('goes on when a relay dies between publishing and deleting, without publishing anything twice', async () => {
      let isDying = true
      const dying: SqlDatabase = {
        ...database,
        query: (sql, parameters) =>
          isDying && sql.startsWith('DELETE FROM sluice_outbox WHERE')
            ? Promise.reject(new Error('dead'))
            : database.query(sql, parameters),
      }
      for (let index = 0; index < 10; index++) await publish(`k${index % 3}`, String(index))
      const first = relay({ database: dying })
      first.on('error', () => {})
      await take('orders', 10)
      await first.stop()
      isDying = false
      expect((await admin.status())[0].pending).toBe(10)
      relay()
      await drained()
      await publish('last', 'x')
      await drained()
      const all = await take('orders', 11)
      expect(all.map(message => message.text()).toSorted()).toEqual([...'0123456789', 'x'])
      const end = await mq.offsetFor('orders', 0, 'latest')
      const rest = mq.consumer({ topics: ['orders'], from: all[10].offset + 1 })
      const late: Message[] = []
      const running = rest.run(message => void late.push(message))
      await expect.poll(() => rest.position({ topic: 'orders', partition: 0 })).toBe(end)
      await rest.stop()
      await running
      expect(late).toEqual([])
    })

    it('is taken over when a relay is not heard of any more', async () => {
      const frozen = relay({ leaseMs: 400 })
      await once(frozen, 'shards')
      // its process stands still: it neither renews nor releases
      Object.assign(frozen, { stop: () => Promise.resolve() })
      relays = []
      const other = relay({ leaseMs: 400 })
      await publish('a', '1')
      await drained()
      expect((await take('orders', 1))[0].text()).toBe('1')
      await other.stop()
      await OutboxRelay.prototype.stop.call(frozen)
    })

    it.each(troubles)(
      'goes on by itself after the database %s, and publishes each row once',
      async (_, error) => {
        let isOver = false
        let calls = 0
        const failing = troubled(database, () => {
          if (!isOver && ++calls % 3 !== 0) throw error
        })
        const told: SluiceError[] = []
        relay({ database: failing }).on('error', each => told.push(each))
        for (let index = 0; index < 20; index++) await publish(`k${index % 3}`, String(index))
        await expect.poll(() => told.length, { timeout: 20_000 }).toBeGreaterThan(2)
        isOver = true
        await drained()
        expect(await everything('orders')).toEqual(numbers(20))
        for (const { code, message } of told) {
          expect(code).toBe('DATABASE_FAILED')
          expect(message).toContain(error.message)
        }
      },
    )

    it('doubles nothing when the database is so slow that leases end, and goes on when it is not', async () => {
      let isSlow = true
      let calls = 0
      const slow = troubled(database, async () => {
        calls++
        if (isSlow) await new Promise(resolve => setTimeout(resolve, 150))
      })
      for (let index = 0; index < 10; index++) await publish(`k${index % 3}`, String(index))
      for (let count = 0; count < 2; count++) relay({ database: slow, leaseMs: 300 })
      await expect.poll(() => calls, { timeout: 20_000 }).toBeGreaterThan(40)
      isSlow = false
      await drained()
      expect(await everything('orders')).toEqual(numbers(10))
    })

    it('passes over what is refused for good, and publishes it when that is repaired', async () => {
      await mq.createTopic('small', { config: { 'max.message.bytes': 200 } })
      await inTransaction(database, async tx => {
        await outbox(tx).publish('small', [
          { key: 'k', value: 'a' },
          { key: 'k', value: 'x'.repeat(500) },
          { key: 'k', value: 'b' },
        ])
      })
      const started = relay()
      const [row, error] = await once(started, 'refused')
      expect([row.topic, error.code]).toEqual(['small', 'MESSAGE_TOO_LARGE'])
      expect((await take('small', 2)).map(message => message.text())).toEqual(['a', 'b'])
      await expect.poll(async () => (await admin.status())[0]).toMatchObject({ pending: 0, failed: 1 })
      expect(await admin.failed('default')).toMatchObject([
        { id: row.id, topic: 'small', error: expect.stringMatching(/^MESSAGE_TOO_LARGE/) },
      ])
      await mq.alterTopic('small', { 'max.message.bytes': 10_000 })
      expect(await admin.requeue('default')).toBe(1)
      expect((await take('small', 3))[2].text()).toBe('x'.repeat(500))
      await drained()
    })

    it('tells how far behind it is, and forgets what failed when told to', async () => {
      await publish('a', '1')
      const [status] = await admin.status()
      expect(status).toMatchObject({ outbox: 'default', pending: 1, failed: 0, relays: [] })
      expect(status.oldestMs).toBeGreaterThanOrEqual(0)
      await database.query("UPDATE sluice_outbox SET failed_at = 1, error_text = 'x'")
      expect(await admin.clean('default')).toBe(1)
      expect((await admin.status()).map(({ pending, failed }) => [pending, failed])).toEqual([])
    })

    it('delays a message that says so', async () => {
      const before = Date.now()
      await inTransaction(database, async tx => outbox(tx).publish('orders', { value: 'later', delay: 300 }))
      relay()
      const [message] = await take('orders', 1)
      expect(message.text()).toBe('later')
      expect(Date.now() - before).toBeGreaterThanOrEqual(300)
    })
  })
}
