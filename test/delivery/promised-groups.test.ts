/** What groups promise that is seen only from outside: who gets what, who takes over, and that everybody shows the same lag. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  type Assignor,
  type Consumer,
  idempotent,
  type Message,
  memoryProcessedIds,
  open,
  type Sluice,
} from '../../src/index.ts'
import { run } from '../cli/running-cli.ts'
import { TestServer } from '../server/running-server.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { bench } from './worker-bench.ts'

async function server(): Promise<{ server: TestServer; mq: Sluice; url: string }> {
  const started = await TestServer.start()
  onTestFinished(() => started[Symbol.asyncDispose]())
  const url = `kafka://127.0.0.1:${started.running.addresses.kafka?.port}`
  return { server: started, mq: started.running.sluice, url }
}

const numbers = (count: number) => Array.from({ length: count }, (_, n) => String(n))

describe('a message', () => {
  it('goes to one member of each group, whoever else reads the topic', async () => {
    const { mq, until, settle } = await bench()
    await until(mq.createTopic('t', { partitions: 4 }))
    const seen: Record<string, string[]> = { orders: [], billing: [], nobody: [] }
    const consumers = ['orders', 'orders', 'billing', 'billing', 'billing'].map(group => {
      const consumer = mq.consumer({ topics: ['t'], group })
      void consumer.run(message => void seen[group].push(message.text()))
      return consumer
    })
    const alone = mq.consumer({ topics: ['t'] })
    void alone.run(message => void seen.nobody.push(message.text()))
    await settle()
    const shares = consumers.map(member => member.assignment().length)
    expect([shares.slice(0, 2), shares.slice(2).toSorted()]).toEqual([
      [2, 2],
      [1, 1, 2],
    ])
    await until(
      mq.publish(
        't',
        numbers(200).map(value => ({ key: value, value })),
      ),
    )
    await settle()
    for (const group of Object.keys(seen)) {
      expect(
        seen[group].toSorted((a, b) => Number(a) - Number(b)),
        group,
      ).toEqual(numbers(200))
    }
  })
})

describe('assignors', () => {
  const held = (members: readonly Consumer<string>[]) =>
    members.map(member =>
      member
        .assignment()
        .map(({ topic, partition }) => `${topic}${partition}`)
        .toSorted()
        .join(' '),
    )

  it.each<[Assignor, string[][]]>([
    ['range', [['a0 a1 b0 b1', 'a2 b2']]],
    ['roundrobin', [['a0 a2 b1', 'a1 b0 b2']]],
  ])('%s', async (assignor, [expected]) => {
    const { mq, until, clock } = await bench()
    for (const topic of ['a', 'b']) await until(mq.createTopic(topic, { partitions: 3 }))
    const options = { topics: ['a', 'b'], group: 'g', assignors: [assignor] }
    const members = [0, 1].map(() => mq.consumer(options))
    for (const member of members) void member.run(() => {})
    await clock.advance(10_000)
    expect((await until(mq.describeGroup('g'))).protocol).toBe(assignor)
    expect(held(members).toSorted()).toEqual(expected.toSorted())
  })

  it.each<Assignor>(['sticky', 'cooperative-sticky'])('%s: who stays keeps what he has', async assignor => {
    const { mq, until, clock } = await bench()
    await until(mq.createTopic('a', { partitions: 12 }))
    const options = { topics: ['a'], group: 'g', assignors: [assignor] }
    const members = [0, 1, 2].map(() => mq.consumer(options))
    const revoked: number[] = [0, 0, 0]
    for (const [index, member] of members.entries()) {
      member.on('revoked', partitions => (revoked[index] += partitions.length))
      void member.run(() => {})
    }
    await clock.advance(10_000)
    expect(members.map(member => member.assignment().length)).toEqual([4, 4, 4])
    const before = held(members)
    revoked.fill(0)
    await until(members[2].stop())
    await clock.advance(10_000)
    expect((await until(mq.describeGroup('g'))).protocol).toBe(assignor)
    const after = held(members)
    for (const index of [0, 1]) {
      expect(after[index].split(' ')).toHaveLength(6)
      expect(after[index].split(' ')).toEqual(expect.arrayContaining(before[index].split(' ')))
    }
    // cooperative: nobody gives up anything that he gets back
    if (assignor === 'cooperative-sticky') expect(revoked.slice(0, 2)).toEqual([0, 0])
  })
})

describe('a member that is killed', () => {
  it('has its partitions taken over after its session time-out, from its commits on', async () => {
    const { mq, url } = await server()
    await mq.createTopic('t', { partitions: 2 })
    await mq.publish(
      't',
      numbers(40).map(value => ({ key: value, value })),
    )
    const victim = spawn(process.execPath, [join(import.meta.dirname, 'promised-victim.ts'), url, '10'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const written = text(victim.stdout)
    const [, signal] = await once(victim, 'exit')
    expect(signal).toBe('SIGKILL')
    const diedAt = performance.now()
    const lines = (await written).trim().split('\n')
    const committed = lines.filter(line => !line.startsWith('begun'))
    expect(committed).toHaveLength(10)
    const other = await open(url)
    onTestFinished(() => other.close())
    const consumer = other.consumer({ topics: ['t'], group: 'g' })
    const seen: string[] = []
    let firstAt = 0
    const running = consumer.run(message => {
      if (seen.push(message.text()) === 1) firstAt = performance.now()
    })
    await expect.poll(() => seen.length, { timeout: 20_000 }).toBe(30)
    await consumer.stop()
    await running
    expect(firstAt - diedAt).toBeGreaterThan(2_000)
    expect([...committed, ...seen].toSorted()).toEqual(numbers(40).toSorted())
    expect(seen).toContain(lines.at(-1)?.replace('begun ', ''))
  })
})

describe('lag', () => {
  it('is the same number in TypeScript, over HTTP, in metrics and on the command line', async () => {
    const { server: http, mq, url } = await server()
    await mq.createTopic('t', { partitions: 3 })
    const to = (partition: number, keys: readonly string[]) =>
      mq.publish(
        't',
        keys.map(key => ({ key, value: key, partition })),
      )
    // 0: one message waits for another attempt, those after it are done
    await to(0, ['bad', ...numbers(9)])
    const worker = mq.worker('t', { group: 'g', retry: { delays: ['1h'] } }, message => {
      if (message.key === 'bad') throw new Error('no')
    })
    await expect.poll(() => worker.stats).toMatchObject({ completed: 9, retrying: 1 })
    await worker.stop()
    // 1: two are gone by age; 2: nothing is done
    await to(1, numbers(4))
    await mq.deleteRecords('t', 1, 2)
    await to(2, numbers(5))

    const expected = { 0: 1, 1: 2, 2: 5 }
    const { partitions, lag } = await mq.describeGroup('g')
    const own = partitions.filter(({ topic }) => topic === 't')
    expect(Object.fromEntries(own.map(found => [found.partition, found.lag]))).toEqual(expected)
    expect(lag).toBe(8)
    expect(await mq.backlog('g', 't').size()).toBe(8)
    const offsets = (await http.get('/offset?group=g&topic=t')).json as { partition: number; lag: number }[]
    expect(Object.fromEntries(offsets.map(found => [found.partition, found.lag]))).toEqual(expected)
    const metrics = await (await fetch(`${http.url}/metrics`)).text()
    for (const [partition, count] of Object.entries(expected)) {
      expect(metrics).toContain(`sluice_group_lag{group="g",topic="t",partition="${partition}"} ${count}\n`)
    }
    const { stdout } = await run(['group', 'describe', 'g', '--json'], { environment: { SLUICE_URL: url } })
    const told = (
      JSON.parse(stdout).partitions as { topic: string; partition: number; lag: number }[]
    ).filter(({ topic }) => topic === 't')
    expect(Object.fromEntries(told.map(found => [found.partition, found.lag]))).toEqual(expected)
    const seen: [string, number][] = []
    const alerts = mq.alerts({ lag: [{ above: 7, severity: 'info' }], groups: group => group === 'g' })
    alerts.on('alert', ({ kind, count }) => seen.push([kind, count]))
    await alerts.look()
    expect(seen).toEqual([['lag', 8]])
  })
})

describe('a backlog that is too large', () => {
  it('is shed by priority: what is of the lowest goes, the rest is handled', async () => {
    const { mq, until, settle } = await bench()
    const options = { priorities: 2, partitions: 2 }
    const queue = mq.queue('jobs', options)
    for (let number = 0; number < 12; number++) {
      await until(queue.send(`${number % 3}`, { priority: number % 3 }))
    }
    await until(queue.stop())
    expect(await until(mq.backlog('jobs', 'jobs').skip({ to: 'latest' }))).toBe(4)
    const handled: string[] = []
    mq.queue('jobs', options).process({ concurrency: 1 }, message => void handled.push(message.text()))
    await settle()
    expect(handled.toSorted()).toEqual(['1', '1', '1', '1', '2', '2', '2', '2'])
  })

  it('is bounded by dropping the oldest of the lowest priority first', async () => {
    const { mq, until, settle } = await bench()
    const options = { priorities: 1, partitions: 1, lengthMax: 3, whenFull: 'drop-head' as const }
    const queue = mq.queue('jobs', options)
    for (const value of ['low 1', 'low 2']) await until(queue.send(value))
    for (const value of ['high 1', 'high 2', 'high 3']) await until(queue.send(value, { priority: 1 }))
    await settle()
    const left = (await until(queue.receive({ max: 9 }))).map(({ message }) => message.text())
    expect(left).toEqual(['high 1', 'high 2', 'high 3'])
    const { letters } = await until(mq.deadLetters('jobs', 'jobs').list())
    expect(letters.map(({ value, reason }) => `${value} ${reason}`)).toEqual([
      'low 1 overflow',
      'low 2 overflow',
    ])
  })
})

describe('a process that dies between handling a message and marking it', () => {
  it('leaves a claim that runs out: the message is handled again, and only then is it done', async () => {
    const mq = await open('memory:')
    onTestFinished(() => mq.close())
    await mq.publish('t', { value: 'x', headers: { 'sluice-message-id': 'one' } })
    const messages: Message[] = []
    for await (const message of mq.consumer({ topics: ['t'] })) {
      messages.push(message)
      break
    }
    const clock = new VirtualClock()
    const store = memoryProcessedIds({ leaseMs: 60_000, clock })
    const effects: string[] = []
    // the first has had its effect, and is never heard of again
    void idempotent(store, () => {
      effects.push('first')
      return new Promise(() => {})
    })(messages[0])
    const next = idempotent(store, () => void effects.push('second'), { clock })
    const handling = next(messages[0])
    await clock.advance(59_000)
    expect(effects).toEqual(['first'])
    await clock.advance(2_000)
    await handling
    await next(messages[0])
    expect(effects).toEqual(['first', 'second'])
    expect(next.stats).toMatchObject({ handled: 1, duplicates: 1 })
  })
})
