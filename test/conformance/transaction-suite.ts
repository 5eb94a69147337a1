/**
 * What every engine with transactions must do, told through the public API and through the seam. Nothing is read with the help of the
 * engine's insides: what a reader sees is read by fetching from the start until nothing comes.
 *
 * A commit is decided when it resolves; on a cluster readers see it a moment later, so reads of what was committed are polled for.
 */

import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Sluice } from '../../src/delivery/sluice.ts'
import type { Transaction } from '../../src/delivery/transaction.ts'
import type { Engine, Isolation, TransactionSession } from '../../src/engine/engine.ts'
import { batchBytes, lastOffset } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'
import { Holdings, ObservedMember } from '../engine/observed-member.ts'

export interface OpenedEngine {
  readonly engine: Engine
  /** Another engine on the same data, as another process has it. Its owner closes it before the first one. */
  another(): Promise<Engine>
}

/** Everything that can be read of a topic now, partition by partition. */
export async function readAll(
  engine: Engine,
  topic: string,
  isolation: Isolation = 'committed',
): Promise<string[]> {
  const { partitions } = await engine.describeTopic(topic)
  const values: string[] = []
  for (const { partition } of partitions) {
    for (let offset = 0; ; ) {
      const [part] = await engine.fetch([{ topic, partition, offset }], { waitMs: 0, isolation })
      if (part.error !== undefined) throw part.error
      const batches = Buffer.from(part.batches)
      if (batches.length === 0) break
      const cursor = new RecordCursor(batches)
      while (cursor.next()) {
        const { bytes, valueStart, valueBytes } = cursor
        if (cursor.offset >= offset) values.push(bytes.toString('utf8', valueStart, valueStart + valueBytes))
      }
      for (let at = 0; at < batches.length; at += batchBytes(batches, at))
        offset = lastOffset(batches, at) + 1
    }
  }
  return values
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index)
const asNumbers = (values: readonly string[]): number[] => values.map(Number).sort((a, b) => a - b)
/** Long enough for a cluster that is busy with something else. */
const POLL = { timeout: 15_000, interval: 20 }

export function transactionSuite(name: string, openEngine: () => Promise<OpenedEngine>): void {
  describe(`transactions: ${name}`, { timeout: 30_000 }, () => {
    let mq: Sluice
    let opened: OpenedEngine
    let others: Engine[] = []

    beforeEach(async () => {
      opened = await openEngine()
      mq = new Sluice(opened.engine)
    })

    afterEach(async () => {
      for (const other of others) await other.close()
      others = []
      await mq.close({ deadlineMs: 1_000 })
    })

    async function another(): Promise<Engine> {
      const engine = await opened.another()
      others.push(engine)
      return engine
    }

    const expectRead = (topic: string, values: readonly string[], isolation?: Isolation) =>
      expect.poll(() => readAll(mq.engine, topic, isolation), POLL).toEqual(values)

    describe('a transaction', () => {
      test('is seen as a whole, in all its topics, once it has committed', async () => {
        await mq.publish('a', { value: 'before' })
        await mq.createTopic('b')
        const result = await mq.transaction(async tx => {
          const published = await tx.publish('a', { value: '1' })
          tx.publish('b', [{ value: '2' }, { value: '3' }])
          expect(published).toMatchObject({ topic: 'a', offset: 1 })
          expect(await readAll(mq.engine, 'a')).toEqual(['before'])
          expect(await readAll(mq.engine, 'a', 'uncommitted')).toEqual(['before', '1'])
          return 'done'
        })
        expect(result).toBe('done')
        await expectRead('a', ['before', '1'])
        await expectRead('b', ['2', '3'])
      })

      test('wakes the reader that waits for it', async () => {
        await mq.createTopic('a')
        const consumer = mq.consumer({ topics: ['a'], waitMs: 20_000 })
        const seen: string[] = []
        const running = consumer.run(message => {
          if (seen.push(message.text() as string) === 2) void consumer.stop()
        })
        await mq.transaction(async tx => {
          await tx.publish('a', { value: '1' })
          await tx.publish('a', { value: '2' })
          expect(seen).toEqual([])
        })
        await running
        expect(seen).toEqual(['1', '2'])
      })

      test('that throws is seen by nobody who does not ask for it, and the error is passed on', async () => {
        const failing = mq.transaction(async tx => {
          await tx.publish('t', { value: 'no' })
          throw new Error('changed my mind')
        })
        await expect(failing).rejects.toThrow('changed my mind')
        await mq.publish('t', { value: 'yes' })
        await expectRead('t', ['yes'])
        await expectRead('t', ['no', 'yes'], 'uncommitted')
      })

      test('fails if a message in it is refused, awaited or not; the next one works', async () => {
        await mq.createTopic('t', { config: { 'max.message.bytes': 1000 } })
        const failing = mq.transaction(tx => {
          tx.publish('t', { value: 'small' })
          tx.publish('t', { value: 'x'.repeat(2000) })
        })
        await expect(failing).rejects.toMatchObject({ code: 'MESSAGE_TOO_LARGE' })
        await mq.transaction(tx => tx.publish('t', { value: 'next' }))
        await expectRead('t', ['next'])
      })

      test('commits nothing that was published after its function had returned', async () => {
        let late: Transaction | undefined
        await mq.transaction(tx => {
          late = tx
          tx.publish('t', { value: 'in time' })
        })
        await expect(late!.publish('t', { value: 'late' })).rejects.toMatchObject({
          code: 'INVALID_ARGUMENT',
        })
        await expect(late!.commitOffsets('g', [])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
        await expectRead('t', ['in time'], 'uncommitted')
      })

      test('without anything in it is nothing', async () => {
        await mq.createTopic('t')
        expect(await mq.transaction(() => 'nothing')).toBe('nothing')
        expect(await mq.offsetFor('t', 0, 'latest')).toBe(0)
      })

      test('follows another in the same partitions, aborted ones between them', async () => {
        await mq.createTopic('t', { partitions: 2 })
        for (const round of upTo(6)) {
          const running = mq.transaction(
            async tx => {
              for (const partition of [0, 1]) {
                await tx.publish('t', { value: String(2 * round), partition })
                await tx.publish('t', { value: String(2 * round + 1), partition })
              }
              if (round % 3 === 2) throw new Error('no')
            },
            { transactionalId: `${round % 2}-${mq.engine.url}` },
          )
          await running.catch(error => expect(error.message).toBe('no'))
        }
        const committed = ['0', '1', '2', '3', '6', '7', '8', '9']
        await expectRead('t', [...committed, ...committed])
      })

      test('runs beside others, each on its own', async () => {
        await mq.createTopic('t', { partitions: 3 })
        const outcomes = await Promise.allSettled(
          upTo(40).map(index =>
            mq.transaction(async tx => {
              await tx.publish('t', { key: `${index}`, value: `${index}` })
              if (index % 4 === 0) throw new Error('no')
            }),
          ),
        )
        expect(outcomes.filter(({ status }) => status === 'rejected')).toHaveLength(10)
        const expected = upTo(40).filter(index => index % 4 !== 0)
        await expect.poll(async () => asNumbers(await readAll(mq.engine, 't')), POLL).toEqual(expected)
      })

      test('under a name fences whoever has begun one under it before, elsewhere', async () => {
        const other = new Sluice(await another())
        const transactionalId = randomUUID()
        const fenced = mq.transaction(
          async tx => {
            await tx.publish('t', { value: 'zombie' })
            await other.transaction(inner => inner.publish('t', { value: 'successor' }), { transactionalId })
          },
          { transactionalId },
        )
        await expect(fenced).rejects.toMatchObject({ code: 'PRODUCER_FENCED' })
        await expectRead('t', ['successor'])
        await mq.transaction(tx => tx.publish('t', { value: 'back again' }), { transactionalId })
        await expectRead('t', ['successor', 'back again'])
      })

      test('under one name runs one after the other', async () => {
        const order: string[] = []
        const transactionalId = randomUUID()
        const run = (each: string) =>
          mq.transaction(
            async tx => {
              order.push(`${each} begins`)
              await tx.publish('t', { value: each })
              order.push(`${each} ends`)
            },
            { transactionalId },
          )
        await Promise.all([run('a'), run('b')])
        expect(order).toEqual(['a begins', 'a ends', 'b begins', 'b ends'])
        await expectRead('t', ['a', 'b'])
      })

      test('commits offsets of a group with its messages, or neither', async () => {
        await mq.publish('in', [{ value: '1' }, { value: '2' }])
        const offset = { topic: 'in', partition: 0, offset: 1 }
        const failing = mq.transaction(async tx => {
          await tx.commitOffsets('g', [offset])
          throw new Error('no')
        })
        await expect(failing).rejects.toThrow('no')
        await expect.poll(() => mq.engine.committed('g', [offset]).catch(() => null), POLL).toEqual([])
        await mq.transaction(async tx => {
          await tx.commitOffsets('g', [{ ...offset, metadata: 'note' }])
          expect(await mq.engine.committed('g')).toEqual([])
          // Whoever would go on from the commit has to wait until it is decided.
          await expect(mq.engine.committed('g', [offset])).rejects.toMatchObject({
            code: 'UNSTABLE_OFFSET_COMMIT',
          })
        })
        await expect
          .poll(() => mq.engine.committed('g', [offset]).catch(() => null), POLL)
          .toEqual([{ ...offset, metadata: 'note' }])
      })

      test.each([
        [{ timeoutMs: 0 }, 'INVALID_ARGUMENT'],
        [{ timeoutMs: 16 * 60_000 }, 'INVALID_TRANSACTION_TIMEOUT'],
        [{ transactionalId: '' }, 'INVALID_ARGUMENT'],
      ])('with %j is refused: %s', async (options, code) => {
        await expect(mq.transaction(() => {}, options)).rejects.toMatchObject({ code })
      })

      test('is refused once the queue is closed, which waits for those under way', async () => {
        await mq.createTopic('t')
        const { promise: mayGoOn, resolve: goOn } = Promise.withResolvers<void>()
        const running = mq.transaction(async tx => {
          await tx.publish('t', { value: 'x' })
          await mayGoOn
        })
        const closing = mq.close()
        await expect(mq.transaction(() => {})).rejects.toMatchObject({ code: 'CLOSED' })
        goOn()
        await running
        await closing
      })
    })

    describe('a session', () => {
      /** Sends one record as the session's next one in the partition. */
      function sendTo(session: TransactionSession, baseSequence: number, value: string) {
        const builder = new BatchBuilder()
        builder.append(0, null, value, null)
        const { producerId, epoch: producerEpoch } = session.identity
        return session.produce(
          't',
          0,
          builder.close({ producerId, producerEpoch, baseSequence, transactional: true }),
        )
      }

      test('that takes over aborts what is under way, and fences the one before in all that it does', async () => {
        await mq.createTopic('t')
        const options = { transactionalId: randomUUID(), timeoutMs: 60_000 }
        const zombie = await mq.engine.initTransactions(options)
        await sendTo(zombie, 0, 'zombie')
        const offsets = [{ topic: 't', partition: 0, offset: 1 }]
        await zombie.stageOffsets('g', offsets, null)
        const successor = await (await another()).initTransactions(options)
        await sendTo(successor, 0, 'successor')
        const fenced = expect.objectContaining({ code: 'PRODUCER_FENCED' })
        await expect(sendTo(zombie, 1, 'late')).rejects.toEqual(fenced)
        await expect(zombie.stageOffsets('g', offsets, null)).rejects.toEqual(fenced)
        await expect(zombie.end(true)).rejects.toEqual(fenced)
        await successor.end(true)
        await expectRead('t', ['successor'])
        expect(await mq.engine.committed('g', offsets)).toEqual([])
      })

      test('does not stage offsets for a member that has lost its partitions', async () => {
        await mq.createTopic('t', { partitions: 2 })
        const ann = await ObservedMember.join(mq.engine, 'ann', new Holdings())
        await expect.poll(() => ann.partitions, POLL).toHaveLength(2)
        const session = await mq.engine.initTransactions({ transactionalId: randomUUID(), timeoutMs: 60_000 })
        const offsets = [{ topic: 't', partition: 0, offset: 0 }]
        const { memberId, instanceId, generation } = ann.member
        await session.stageOffsets('g', offsets, ann.member)
        await session.end(true)
        const past = { ...ann.member, memberId, instanceId, generation: generation - 1 }
        await expect(session.stageOffsets('g', offsets, past)).rejects.toMatchObject({
          code: 'ILLEGAL_GENERATION',
        })
        const stranger = { ...past, memberId: 'stranger', generation }
        await expect(session.stageOffsets('g', offsets, stranger)).rejects.toMatchObject({
          code: 'UNKNOWN_MEMBER',
        })
        await session.end(false)
        await ann.member.leave()
      })
    })

    describe('a transformation', () => {
      async function input(count: number) {
        await mq.createTopic('in', { partitions: 3 })
        await mq.createTopic('out', { partitions: 2 })
        await mq.publish(
          'in',
          upTo(count).map(index => ({ key: `${index}`, value: `${index}` })),
        )
      }

      const outcome = async () => asNumbers(await readAll(mq.engine, 'out'))

      test('has each message take effect exactly once', async () => {
        await input(500)
        const transform = mq.transform(
          { group: 'g', topics: ['in'], partitionBytesMax: 1_000 },
          (message, tx) => {
            tx.publish('out', { key: message.key, value: message.value })
          },
        )
        await expect.poll(outcome, POLL).toEqual(upTo(500))
        await transform.stop()
        const { partitions, lag } = await mq.describeGroup('g')
        expect([partitions.length, lag]).toEqual([3, 0])
      })

      test('ends with what its handler throws; the next one goes on where the last commit was', async () => {
        await input(200)
        for (const _ of upTo(3)) {
          let left = 60
          const transform = mq.transform(
            { group: 'g', topics: ['in'], partitionBytesMax: 500 },
            (message, tx) => {
              if (left-- === 0) throw new Error('poison')
              tx.publish('out', { key: message.key, value: message.value })
            },
          )
          await expect(transform.done).rejects.toThrow('poison')
        }
        const last = mq.transform({ group: 'g', topics: ['in'] }, (message, tx) => {
          tx.publish('out', { key: message.key, value: message.value })
        })
        await expect.poll(outcome, POLL).toEqual(upTo(200))
        await last.stop()
        expect((await readAll(mq.engine, 'out', 'uncommitted')).length).toBeGreaterThan(200)
      })

      test('shares the work with others of its group, and hands it over', async () => {
        await input(300)
        const start = () =>
          mq.transform({ group: 'g', topics: ['in'], partitionBytesMax: 500 }, async (message, tx) => {
            await tx.publish('out', { key: message.key, value: message.value })
          })
        const first = start()
        const second = start()
        await expect.poll(async () => (await outcome()).length, POLL).toBeGreaterThan(50)
        await first.stop()
        const third = start()
        await expect.poll(outcome, POLL).toEqual(upTo(300))
        await Promise.all([second.stop(), third.stop()])
      })
    })
  })
}
