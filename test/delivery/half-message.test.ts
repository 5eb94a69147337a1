/** Half messages through the public API, with a relay beside, in memory and on disk. Time passes only when the test says so. */

import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { HalfBook, type Undecided } from '../../src/delivery/half-book.ts'
import type { HalfRolledBack } from '../../src/delivery/half-partition.ts'
import type { HalfMessage } from '../../src/delivery/half-record.ts'
import { HalfRelay, type HalfRelayOptions } from '../../src/delivery/half-relay.ts'
import { Ledger } from '../../src/delivery/ledger.ts'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import type { Engine } from '../../src/engine/engine.ts'
import { SluiceError } from '../../src/errors.ts'
import { open } from '../../src/open.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

interface House {
  readonly mq: Sluice
  readonly clock: VirtualClock
  readonly errors: SluiceError[]
  readonly rolledBack: HalfRolledBack[]
  relay(options?: HalfRelayOptions, engine?: Engine): Promise<HalfRelay>
  /** Lets time pass, `stepMs` (default 1) a turn, until it is so. */
  until(isSo: () => boolean | Promise<boolean>, stepMs?: number): Promise<void>
  /** The same until it has settled. */
  during<R>(promise: Promise<R>): Promise<R>
}

/** `embedded`: the relay that comes with `open`, and no other. */
async function house(url: 'memory:' | 'disk' = 'memory:', embedded = false): Promise<House> {
  const clock = new VirtualClock()
  const folder = url === 'disk' ? mkdtempSync(join(tmpdir(), 'sluice-half-')) : null
  const mq = await open({ url: folder ?? url, clock, relay: embedded ? undefined : false })
  const relays: HalfRelay[] = []
  const errors: SluiceError[] = []
  const rolledBack: HalfRolledBack[] = []
  const during = async <R>(promise: Promise<R>): Promise<R> => {
    let isSettled = false
    const settled = (): void => {
      isSettled = true
    }
    promise.then(settled, settled)
    while (!isSettled) await clock.advance(1)
    return await promise
  }
  onTestFinished(async () => {
    for (const relay of relays) await during(relay.stop())
    await during(mq.close())
    if (folder !== null) rmSync(folder, { recursive: true })
  })
  return {
    mq,
    clock,
    errors,
    rolledBack,
    during,
    relay: async (options, engine = mq.engine) => {
      const relay = new HalfRelay({ engine, clock }, options)
      relay.on('error', error => errors.push(error))
      relay.on('rolledBack', event => rolledBack.push(event))
      relays.push(relay)
      await during(relay.start())
      return relay
    },
    until: async (isSo, stepMs = 1) => {
      while (!(await during(Promise.resolve(isSo())))) await clock.advance(stepMs)
    },
  }
}

/** What can be read of a topic now. */
async function read(mq: Sluice, topic: string) {
  const found: { key: string | null; value: string; headers: Record<string, string>; partition: number }[] =
    []
  if (!(await mq.topics()).includes(topic)) return found
  for (const { partition } of (await mq.describeTopic(topic)).partitions) {
    for await (const batch of scanPartition(mq.engine, rawTopic(topic), { partition })) {
      for (const message of batch) {
        const headers = Object.fromEntries(message.headerList().map(([name, value]) => [name, String(value)]))
        const key = message.keyBytes?.toString() ?? null
        found.push({ key, value: message.text(), headers, partition })
      }
    }
  }
  return found
}

const values = async (mq: Sluice, topic: string) => (await read(mq, topic)).map(({ value }) => value)

describe.each(['memory:', 'disk'] as const)('half messages, %s', url => {
  test('are seen by nobody until they are committed, and then once, as they were given', async () => {
    const { mq, relay, during, until, clock } = await house(url)
    await during(mq.createTopic('payments', { partitions: 8 }))
    await relay()
    const message = {
      key: 'ann',
      value: { amount: 5 },
      headers: { trace: 'x' },
      timestamp: 1_700_000_000_000,
    }
    const half = await during(mq.half.prepare('payments', message))
    await clock.advance(2_000)
    expect(await during(read(mq, 'payments'))).toEqual([])
    expect(await during(mq.half.get(half.id))).toMatchObject({ state: 'undecided', decision: null })
    await during(half.commit())
    await until(async () => (await read(mq, 'payments')).length > 0)
    await during(half.commit()) // again
    await clock.advance(5_000)
    const direct = await during(mq.publish('payments', { key: 'ann', value: 'direct' }))
    const [first, ...others] = await during(read(mq, 'payments'))
    expect(first).toEqual({
      key: 'ann',
      value: '{"amount":5}',
      headers: { trace: 'x' },
      partition: direct.partition,
    })
    expect(others).toMatchObject([{ value: 'direct' }])
    await until(async () => (await mq.half.get(half.id)).state === 'done')
    expect(await during(mq.half.get(half.id))).toMatchObject({ decision: 'commit' })
    expect(await during(mq.half.list())).toEqual([])
  })

  test('are dropped by a rollback', async () => {
    const { mq, relay, during, until, clock } = await house(url)
    await relay()
    const half = await during(mq.half.prepare('payments', { value: 'no' }))
    expect((await during(mq.half.list())).map(({ id }) => id)).toEqual([half.id])
    await during(half.rollback())
    await clock.advance(1_000)
    expect(await during(read(mq, 'payments'))).toEqual([])
    expect(await during(mq.half.list())).toEqual([])
    await until(async () => (await mq.half.get(half.id)).state === 'done')
    expect(await during(mq.half.get(half.id))).toMatchObject({ decision: 'rollback' })
  })

  test('end as their first decision says, however often relays come and go meanwhile', async () => {
    const { mq, relay, during, until, clock } = await house(url)
    let relays = [await relay(), await relay()]
    const halves = await during(
      Promise.all(Array.from({ length: 300 }, (_, n) => mq.half.prepare('payments', { value: String(n) }))),
    )
    for (let n = 0; n < halves.length; n++) {
      const decided = n % 3 === 0 ? halves[n].rollback() : halves[n].commit()
      if (n % 20 === 0) await during(decided)
      if (n % 100 === 50) {
        const [leaving, staying] = relays
        relays = [staying, await relay()]
        await during(leaving.stop())
      }
    }
    await until(async () => (await values(mq, 'payments')).length >= 200)
    await clock.advance(10_000)
    const published = (await during(values(mq, 'payments'))).map(Number).sort((one, other) => one - other)
    expect(published).toEqual(Array.from({ length: 300 }, (_, n) => n).filter(n => n % 3 !== 0))
  })
})

describe('a decision', () => {
  test('counts if it is the first, also of those that came while there was no relay', async () => {
    const { mq, relay, during, until } = await house()
    const one = await during(mq.half.prepare('payments', { value: 'one' }))
    const other = await during(mq.half.prepare('payments', { value: 'other' }))
    await during(mq.half.rollback(one.id))
    await expect(during(mq.half.commit(one.id))).rejects.toMatchObject({ code: 'HALF_DECIDED' })
    await during(mq.half.commit(other.id))
    await expect(during(mq.half.rollback(other.id))).rejects.toMatchObject({
      code: 'HALF_DECIDED',
      detail: { id: other.id, decision: 'commit' },
    })
    await during(mq.half.commit(other.id)) // the same once more is no contradiction
    expect(await during(mq.half.list())).toEqual([])
    expect(await during(mq.half.get(one.id))).toMatchObject({ state: 'deciding', decision: 'rollback' })
    await relay()
    await until(async () => (await mq.half.get(one.id)).state === 'done')
    await until(async () => (await mq.half.get(other.id)).state === 'done')
    expect(await during(values(mq, 'payments'))).toEqual(['other'])
  })

  test('of the same handle is told at once when it contradicts', async () => {
    const { mq, during } = await house()
    const half = await during(mq.half.prepare('payments', { value: 'x' }))
    await during(half.commit())
    await expect(half.rollback()).rejects.toMatchObject({ code: 'HALF_DECIDED' })
  })

  test('about what never was, or is another, is refused', async () => {
    const { mq, during } = await house()
    const half = await during(mq.half.prepare('payments', { value: 'x' }))
    for (const id of ['nonsense', '0-0-0123456789abcdef', half.id.replace(/-\d+-/, '-77-')]) {
      await expect(during(mq.half.commit(id))).rejects.toMatchObject({ code: 'UNKNOWN_HALF_MESSAGE' })
    }
  })

  test('that was made in time counts, even if the relay was away until long after the last question', async () => {
    const { mq, relay, during, until, clock, rolledBack } = await house()
    const half = await during(mq.half.prepare('payments', { value: 'paid' }, { checker: 'payments-service' }))
    await clock.advance(1_000)
    await during(half.commit())
    await clock.advance(3_600_000)
    await relay()
    await until(async () => (await values(mq, 'payments')).length > 0)
    await clock.advance(3_600_000)
    expect(await during(values(mq, 'payments'))).toEqual(['paid'])
    expect(rolledBack).toEqual([])
    expect(await during(checksOf(mq))).toEqual({ questions: 0, left: 0 })
  })
})

describe('run', () => {
  test('commits when the local transaction has come about', async () => {
    const { mq, relay, during, until } = await house()
    await relay()
    const result = await during(mq.half.run('payments', { value: 'paid' }, {}, async () => 'done'))
    expect(result).toBe('done')
    await until(async () => (await values(mq, 'payments')).length > 0)
  })

  test('rolls back when it has not, and passes on why', async () => {
    const { mq, relay, during, clock } = await house()
    await relay()
    const running = mq.half.run('payments', { value: 'paid' }, {}, () => {
      throw new Error('no money')
    })
    await expect(during(running)).rejects.toThrow('no money')
    await clock.advance(60_000)
    expect(await during(values(mq, 'payments'))).toEqual([])
    expect(await during(mq.half.list())).toEqual([])
  })
})

describe('who is asked about an undecided half message', () => {
  test('is asked after 6 seconds and every 30, 15 times; then it is rolled back, reported, and a dead letter', async () => {
    const { mq, relay, during, until, clock, rolledBack } = await house()
    await relay()
    const asked: { at: number; checks: number }[] = []
    const checker = mq.half.checker('payments-service', half => {
      asked.push({ at: Math.round((clock.now() - half.preparedAt) / 1_000), checks: half.checks })
      return 'unknown'
    })
    const message = { key: 'ann', value: 'paid', headers: { trace: 'x' } }
    const half = await during(mq.half.prepare('payments', message, { checker: 'payments-service' }))
    await until(() => asked.length > 0)
    expect((await during(mq.half.list())).map(({ checks }) => checks)).toEqual([1])
    await clock.advance(15 * 30_000 - 2_000)
    expect(rolledBack).toEqual([])
    await until(() => rolledBack.length > 0)
    expect(asked).toEqual(Array.from({ length: 15 }, (_, n) => ({ at: 6 + 30 * n, checks: n + 1 })))
    expect(rolledBack).toMatchObject([
      { id: half.id, topic: 'payments', key: 'ann', checks: 15, severity: 'warning' },
    ])
    const [letter] = await during(read(mq, rolledBack[0].deadLetterTopic))
    expect(letter).toMatchObject({ value: 'paid', headers: { trace: 'x', 'sluice-reason': 'attempts' } })
    expect((await during(mq.deadLetters('payments', '_sluice.half').list())).letters).toMatchObject([
      { topic: 'payments', attempts: 15, reason: 'attempts' },
    ])
    await expect(during(half.commit())).rejects.toMatchObject({
      code: 'HALF_DECIDED',
      detail: { decision: 'expired' },
    })
    expect(await during(values(mq, 'payments'))).toEqual([])
    await during(checker.stop())
  })

  test('decides by the answer; a checker of another name is not asked', async () => {
    const { mq, relay, during, until, clock } = await house()
    await relay()
    const seen: HalfMessage[] = []
    mq.half.checker('payments-service', async half => {
      seen.push(half)
      return half.json<{ paid: boolean }>().paid ? 'commit' : 'rollback'
    })
    mq.half.checker('other', () => expect.unreachable())
    const options = { checker: 'payments-service', firstCheckMs: 1_000, checkEveryMs: 2_000 }
    await during(
      mq.half.prepare('payments', { key: 'k', value: { paid: true }, headers: { a: 'b' } }, options),
    )
    await during(mq.half.prepare('payments', { value: { paid: false } }, options))
    await until(() => seen.length === 2)
    await clock.advance(20_000)
    expect(await during(values(mq, 'payments'))).toEqual(['{"paid":true}'])
    expect(await during(mq.half.list())).toEqual([])
    expect(seen).toHaveLength(2)
    const [first] = seen.filter(({ key }) => key === 'k')
    expect([first.topic, first.text(), String(first.headers.a), first.checks]).toEqual([
      'payments',
      '{"paid":true}',
      'b',
      1,
    ])
  })

  test('may throw or hang: it is asked again', async () => {
    const { mq, relay, during, until } = await house()
    await relay()
    let calls = 0
    const checker = mq.half.checker(
      'payments-service',
      () => {
        calls++
        if (calls === 1) throw new Error('no database')
        return calls === 2 ? new Promise<never>(() => {}) : 'commit'
      },
      { timeoutMs: 5_000 },
    )
    const errors: string[] = []
    checker.on('error', error => errors.push(error.message))
    await during(mq.half.prepare('payments', { value: 'paid' }, { checker: 'payments-service' }))
    await until(async () => (await values(mq, 'payments')).length > 0)
    expect(calls).toBe(3)
    expect(errors).toEqual(['no database', expect.stringContaining('within 5000 ms')])
  })

  test('goes on being counted when another relay takes over, for many messages', async () => {
    const { mq, relay, during, until, rolledBack } = await house()
    const first = await relay()
    const options = { checker: 'gone', firstCheckMs: 1_000, checkEveryMs: 10_000, checksMax: 4 }
    await during(
      Promise.all(
        Array.from({ length: 200 }, (_, n) => mq.half.prepare('payments', { value: String(n) }, options)),
      ),
    )
    const areAsked = async (checks: number) => (await mq.half.list()).every(half => half.checks === checks)
    await until(() => areAsked(2), 500)
    await during(first.stop())
    await relay()
    await until(() => rolledBack.length === 200, 100)
    expect(rolledBack.every(({ checks }) => checks === 4)).toBe(true)
    const checks = await during(read(mq, '_sluice.half.checks').then(() => checksOf(mq)))
    expect(checks).toEqual({ questions: 800, left: 0 })
  })

  test('can be nobody: then it is rolled back when the time for all questions is over', async () => {
    const { mq, relay, during, until, clock, rolledBack } = await house()
    await relay()
    const policy = { firstCheckMs: 1_000, checkEveryMs: 2_000, checksMax: 2 }
    await during(mq.half.prepare('payments', { value: 'paid' }, policy))
    await clock.advance(4_500)
    expect(rolledBack).toEqual([])
    await until(() => rolledBack.length === 1)
    expect(rolledBack).toMatchObject([{ checks: 0, checker: null }])
  })

  test('can be a webhook, whose failures count as no answer', async () => {
    const { mq, relay, during, until, errors } = await house()
    await relay({ webhookTimeoutMs: 1_000 })
    const bodies: Record<string, unknown>[] = []
    const answers = ['500', 'junk', 'hang', '{"decision":"unknown"}', '{"decision":"commit"}']
    const server = createServer((request, response) => {
      request.setEncoding('utf8')
      let body = ''
      request.on('data', chunk => (body += chunk))
      request.on('end', () => {
        const answer = answers[bodies.push(JSON.parse(body)) - 1]
        if (answer === 'hang') return
        response.statusCode = answer === '500' ? 500 : 200
        response.end(answer)
      })
    })
    await new Promise<void>(resolve => server.listen(19700, '127.0.0.1', resolve))
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    const options = { checker: 'http://127.0.0.1:19700/check', firstCheckMs: 10, checkEveryMs: 5_000 }
    const message = { key: 'ann', value: 'paid', headers: { bin: Buffer.from([255]) } }
    const half = await during(mq.half.prepare('payments', message, options))
    await until(async () => (await values(mq, 'payments')).length > 0)
    expect(bodies.map(({ checks }) => checks)).toEqual([1, 2, 3, 4, 5])
    expect(bodies[0]).toMatchObject({
      id: half.id,
      topic: 'payments',
      key: 'ann',
      value: 'paid',
      headers: { bin: { base64: '/w==' } },
    })
    expect(errors.map(({ code }) => code)).toEqual(['UNREACHABLE', 'UNREACHABLE', 'UNREACHABLE'])
  })
})

/** Questions in the log, and ids that have one as their last record. */
async function checksOf(mq: Sluice) {
  let questions = 0
  const left = new Set<string>()
  for (let partition = 0; partition < 4; partition++) {
    for await (const batch of scanPartition(mq.engine, rawTopic('_sluice.half.checks'), { partition })) {
      for (const message of batch) {
        if (message.valueBytes === null) left.delete(String(message.keyBytes))
        else {
          left.add(String(message.keyBytes))
          questions++
        }
      }
    }
  }
  return { questions, left: left.size }
}

describe('the relay of a queue in this process', () => {
  test('delivers a delayed one that long after its commit, or at its time, never early', async () => {
    const { mq, during, until, clock } = await house('memory:', true)
    const at = clock.now() + 3_600_000
    const delayed = await during(mq.half.prepare('reminders', { key: 'k', value: 'delayed', delay: '45m' }))
    const level = await during(mq.half.prepare('reminders', { value: 'level', delayLevel: 5 }))
    const timed = await during(mq.half.prepare('reminders', { value: 'timed', deliverAt: at }))
    const late = await during(mq.half.prepare('reminders', { value: 'late', deliverAt: clock.now() + 1_000 }))
    await clock.advance(4_000)
    const committedAt = clock.now()
    await during(Promise.all([delayed.commit(), level.commit(), timed.commit(), late.commit()]))
    const arrivals: [string, number][] = []
    const consumer = mq.consumer({ topics: ['reminders'], group: 'g', isolation: 'committed' })
    const running = consumer.run(message => {
      arrivals.push([message.text(), clock.now()])
    })
    await until(() => arrivals.length === 4, 200)
    expect(arrivals.map(([value]) => value)).toEqual(['late', 'level', 'delayed', 'timed'])
    const due = [committedAt, committedAt + 60_000, committedAt + 45 * 60_000, at]
    for (const [index, [, arrived]] of arrivals.entries()) {
      expect(arrived).toBeGreaterThanOrEqual(due[index])
      expect(arrived).toBeLessThan(due[index] + 2_000)
    }
    await during(consumer.stop())
    await running
    await expect(during(mq.half.prepare('reminders', { value: 'x', delay: 'soon' }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  })

  test('tells what expires', async () => {
    const { mq, during, until } = await house('memory:', true)
    const relay = await during(mq.relay())
    const told: HalfRolledBack[] = []
    relay.on('rolledBack', event => told.push(event))
    const policy = { firstCheckMs: 100, checksMax: 0 }
    const half = await during(mq.half.prepare('payments', { value: 'x' }, policy))
    await until(() => told.length > 0)
    expect(told[0].id).toBe(half.id)
  })
})

describe('nothing vanishes', () => {
  test('what its target refuses is a dead letter', async () => {
    const { mq, relay, during, until, errors } = await house()
    await during(mq.createTopic('small', { config: { 'max.message.bytes': 500 } }))
    await relay()
    const halves = ['x', 'x'.repeat(1_000), 'y'].map(value => mq.half.prepare('small', { key: 'k', value }))
    for (const half of await during(Promise.all(halves))) await during(half.commit())
    await until(async () => (await mq.deadLetters('small', '_sluice.half').count()) > 0)
    await until(async () => (await values(mq, 'small')).length === 2)
    const { letters } = await during(mq.deadLetters('small', '_sluice.half').list())
    expect(letters).toMatchObject([{ reason: 'rejected', topic: 'small', error: { name: 'SluiceError' } }])
    expect(errors.map(({ code }) => code)).toContain('MESSAGE_TOO_LARGE')
  })

  test('and nothing is published twice when nobody knows what became of the transaction', async () => {
    const { mq, relay, during, until, clock } = await house()
    let ends = 0
    const flaky = new Proxy(mq.engine, {
      get(target, name) {
        const member = Reflect.get(target, name)
        if (typeof member !== 'function') return member
        if (name !== 'initTransactions') return member.bind(target)
        return async (options: never) => {
          const session = await target.initTransactions(options)
          return new Proxy(session, {
            get(inner, part) {
              const own = Reflect.get(inner, part)
              if (part !== 'end') return typeof own === 'function' ? own.bind(inner) : own
              return async (commit: boolean) => {
                const isLost = commit && ++ends % 3 !== 0
                if (!isLost || ends % 3 === 1) await inner.end(commit)
                if (isLost) throw new SluiceError('TIMED_OUT', 'no answer', { outcome: 'unknown' })
              }
            },
          })
        }
      },
    })
    await relay({}, flaky)
    for (let n = 0; n < 20; n++) {
      const half = await during(mq.half.prepare('payments', { value: String(n) }))
      await during(half.commit())
      await clock.advance(500)
    }
    await until(async () => (await values(mq, 'payments')).length >= 20)
    await clock.advance(120_000)
    const published = (await during(values(mq, 'payments'))).map(Number).sort((one, other) => one - other)
    expect(published).toEqual(Array.from({ length: 20 }, (_, n) => n))
    expect(ends).toBeGreaterThan(20)
  })

  test('a half message that is not kept in memory is read again', async () => {
    const { mq, relay, during, until } = await house()
    await relay({ memoryBytesMax: 0 })
    const half = await during(mq.half.prepare('payments', { key: 'k', value: 'paid' }))
    await during(half.commit())
    await until(async () => (await values(mq, 'payments')).length > 0)
    expect(await during(read(mq, 'payments'))).toMatchObject([{ key: 'k', value: 'paid' }])
  })

  test('what was decided is deleted after a while, and what is undecided is not', async () => {
    const { mq, relay, during, until, clock } = await house()
    await relay({ partitions: 1, pruneEveryMs: 60_000 })
    const [one, two, three] = await during(
      Promise.all(
        ['1', '2', '3'].map(value => mq.half.prepare('payments', { value }, { firstCheckMs: 1e9 })),
      ),
    )
    await during(one.commit())
    await during(three.rollback())
    await until(async () => (await values(mq, 'payments')).length === 1)
    await clock.advance(200_000)
    await until(async () => (await mq.describeTopic('_sluice.half')).partitions[0].startOffset === 1)
    expect((await during(mq.half.list())).map(({ id }) => id)).toEqual([two.id])
    await during(mq.half.commit(two.id))
    await until(async () => (await values(mq, 'payments')).length === 2)
  })
})

function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

describe('the book of a partition', () => {
  const undecided = (offset: number): Undecided => ({
    id: String(offset),
    offset,
    preparedAt: 0,
    checker: null,
    policy: { firstCheckMs: 0, checkEveryMs: 1, checksMax: 1 },
    checks: 0,
    dueAt: 0,
    isBusy: false,
    half: null,
  })

  test('takes the first decision in the log, however the two logs are read, with room for few early ones', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = randomFrom(seed)
      const count = 12
      const log = Array.from({ length: 40 }, (_, place) => ({
        id: String(place < count ? (place * 7 + seed) % count : Math.floor(random() * count)),
        outcome: random() < 0.5 ? ('commit' as const) : ('rollback' as const),
      }))
      const ledger = new Ledger(0)
      const book = new HalfBook(ledger, 0, 2)
      const outcomes = new Map<string, string>()
      const take = (decided: { message: Undecided; outcome: string } | null): void => {
        if (decided === null) return
        expect(outcomes.has(decided.message.id)).toBe(false)
        outcomes.set(decided.message.id, decided.outcome)
        ledger.finish(decided.message.offset)
        book.settled(decided.message.id)
      }
      let offset = 0
      let place = 0
      while (offset < count || place < log.length) {
        if (offset < count && (place === log.length || random() < 0.3)) {
          ledger.begin(offset)
          take(book.prepared(undecided(offset++)))
          place = book.rereadFrom() ?? place
        } else {
          take(book.decided(place, log[place].id, Number(log[place].id), log[place].outcome))
          place++
        }
      }
      const first = new Map(log.toReversed().map(({ id, outcome }) => [id, outcome]))
      expect(outcomes).toEqual(first)
      expect([book.place, book.undecided]).toEqual([log.length, 0])
    }
  })

  test('holds its place at the first decision that is not settled', () => {
    const ledger = new Ledger(0)
    const book = new HalfBook(ledger, 0)
    for (let offset = 0; offset < 3; offset++) {
      ledger.begin(offset)
      book.prepared(undecided(offset))
    }
    for (let offset = 0; offset < 3; offset++) book.decided(10 + offset, String(offset), offset, 'commit')
    book.settled('0')
    book.settled('2')
    expect(book.place).toBe(11)
    book.settled('1')
    expect(book.place).toBe(13)
  })
})
