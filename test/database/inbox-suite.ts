/** What the inbox promises, on every database. */

import { once } from 'node:events'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { HeldConnection, SqlDatabase } from '../../src/database/database.ts'
import { type Inbox, type InboxOptions, inbox } from '../../src/database/inbox.ts'
import { migrate } from '../../src/database/schema.ts'
import { numberOf } from '../../src/database/session.ts'
import type { Message } from '../../src/delivery/message.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import type { SluiceError } from '../../src/errors.ts'
import { open } from '../../src/open.ts'
import type { TestDatabase } from '../services/databases.ts'
import { troubled, troubles } from './troubled-database.ts'

export function inboxSuite(name: string, make: () => Promise<TestDatabase>): void {
  describe(`inbox: ${name}`, () => {
    let given: TestDatabase
    let database: SqlDatabase
    let mq: Sluice
    let boxes: Inbox<string>[]

    beforeAll(async () => {
      given = await make()
      database = given.database
      await migrate(database)
      await database.query('CREATE TABLE effects (value varchar(100), place varchar(100))')
    }, 120_000)
    afterAll(() => given.close())
    beforeEach(async () => {
      for (const table of ['effects', 'sluice_inbox', 'sluice_processed'])
        await database.query(`DELETE FROM ${table}`)
      mq = await open('memory:')
      await mq.createTopic('payments', { partitions: 2 })
      boxes = []
    })
    afterEach(async () => {
      await Promise.all(boxes.map(box => box.stop()))
      await mq.close()
    })

    const write = (message: Message, tx: HeldConnection): Promise<unknown> =>
      tx.query('INSERT INTO effects (value, place) VALUES (?, ?)', [
        message.text(),
        `${message.partition}/${message.offset}`,
      ])

    function start(
      handler: (message: Message, tx: HeldConnection) => unknown = write,
      options: Partial<InboxOptions<string>> = {},
      on = mq,
    ): Inbox<string> {
      const box = inbox(
        on,
        { topics: ['payments'], group: 'ledger', database, retryMs: 1, ...options },
        handler,
      )
      box.on('error', () => {})
      boxes.push(box)
      return box
    }

    const publish = (values: readonly string[]) =>
      mq.publish(
        'payments',
        values.map(value => ({ key: value, value })),
      )
    const effects = async (): Promise<string[]> =>
      (await database.query('SELECT value FROM effects')).rows.map(({ value }) => String(value)).toSorted()
    const numbers = (count: number): string[] =>
      Array.from({ length: count }, (_, index) => String(index).padStart(3, '0'))

    it('has the effect of each message once, however often it starts again', async () => {
      for (let round = 0; round < 3; round++) {
        await publish(numbers(150).slice(round * 50, round * 50 + 50))
        const box = start(write, { transactionMessages: 7 })
        await once(box, 'handled')
        await box.stop()
      }
      start()
      await expect.poll(effects).toEqual(numbers(150))
    })

    it('goes on where the database is, though the group’s commits are lost', async () => {
      await publish(numbers(20))
      const box = start()
      await expect.poll(effects).toHaveLength(20)
      await box.stop()
      await mq.deleteGroup('ledger')
      await publish(['new'])
      start()
      await expect.poll(effects).toEqual([...numbers(20), 'new'])
    })

    it('handles nothing twice when two believe that they have the partition', async () => {
      await publish(numbers(30))
      // another group coordinator, the same database: neither knows of the other
      const other = await open('memory:')
      await other.createTopic('payments', { partitions: 2 })
      await other.publish(
        'payments',
        numbers(30).map(value => ({ key: value, value })),
      )
      start(write, { transactionMessages: 3 })
      const zombie = start(write, { transactionMessages: 4 }, other)
      await expect.poll(effects).toEqual(numbers(30))
      const offsets = async () =>
        (await database.query('SELECT next_offset FROM sluice_inbox')).rows.reduce(
          (sum, row) => sum + numberOf(row.next_offset),
          0,
        )
      await expect.poll(offsets).toBe(30)
      await zombie.stop()
      await other.close()
      expect(await effects()).toHaveLength(30)
    })

    it('takes back everything of a transaction whose handler throws, and only that', async () => {
      await publish(numbers(10))
      let failures = 0
      const box = start(async (message, tx) => {
        await write(message, tx)
        if (message.text() === '004' && failures++ < 3) throw new Error('not yet')
      })
      const attempts: number[] = []
      box.on('failed', (_message, _error, attempt) => attempts.push(attempt))
      await expect.poll(effects).toEqual(numbers(10))
      expect(attempts).toEqual([1, 2])
    })

    it('makes a dead letter of a message that fails too often, and goes on', async () => {
      await publish(['bad', 'good'])
      const box = start(
        async (message, tx) => {
          if (message.text() === 'bad') throw new RangeError('no such account')
          await write(message, tx)
        },
        { attempts: 2 },
      )
      await once(box, 'deadLettered')
      await expect.poll(effects).toEqual(['good'])
      const { letters } = await mq.deadLetters('payments', 'ledger').list()
      expect(letters).toMatchObject([
        { attempts: 2, error: { name: 'RangeError', message: 'no such account' } },
      ])
      expect(String(letters[0].value)).toBe('bad')
      await box.stop()
      const again = start()
      await publish(['another'])
      await once(again, 'handled')
      expect(await effects()).toEqual(['another', 'good'])
      // it has no workers to give it to, and nothing may vanish
      const dead = mq.deadLetters('payments', 'ledger')
      await expect(dead.replay('all')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
      expect(await dead.count()).toBe(1)
      await dead.replay('all', { to: 'topic' })
      await expect.poll(effects).toEqual(['another', 'bad', 'good'])
    })

    it('handles a message that was published twice once, when it has an id', async () => {
      await mq.publish('payments', [
        { key: 'a', value: '1', headers: { id: 'p-1' } },
        { key: 'a', value: '1 again', headers: { id: 'p-1' } },
        { key: 'a', value: '2', headers: { id: 'p-2' } },
        { key: 'a', value: 'no id' },
      ])
      const box = start(write, { idOf: message => message.header('id') ?? undefined })
      const duplicates: string[] = []
      box.on('duplicate', message => duplicates.push(message.text()))
      await expect.poll(effects).toEqual(['1', '2', 'no id'])
      expect(duplicates).toEqual(['1 again'])
    })

    it('says so when the log is not the one that it knows', async () => {
      await publish(numbers(20))
      const box = start()
      await expect.poll(effects).toHaveLength(20)
      await box.stop()
      await mq.deleteTopic('payments')
      await mq.createTopic('payments', { partitions: 2 })
      await mq.deleteGroup('ledger')
      await publish(['anew'])
      await expect(start().done).rejects.toMatchObject({ code: 'OFFSET_OUT_OF_RANGE' })
      expect(await effects()).toHaveLength(20)
    })

    it.each(troubles)('waits when the database %s, and counts no attempt for it', async (_, error) => {
      await publish(numbers(5))
      let isOver = false
      let calls = 0
      const failing = troubled(database, () => {
        if (!isOver && ++calls % 3 !== 0) throw error
      })
      const box = start(write, { database: failing, attempts: 1 })
      const failed: unknown[] = []
      box.on('failed', message => failed.push(message))
      const told: SluiceError[] = []
      box.on('error', each => told.push(each))
      await expect.poll(() => told.length, { timeout: 20_000 }).toBeGreaterThan(2)
      isOver = true
      await expect.poll(effects, { timeout: 20_000 }).toEqual(numbers(5))
      expect(failed).toEqual([])
      for (const { code, message } of told) {
        expect(code).toBe('DATABASE_FAILED')
        expect(message).toContain(error.message)
      }
    })
  })
}
