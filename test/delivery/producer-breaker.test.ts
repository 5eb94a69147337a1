/** The circuit breaker of a producer, over a fake engine that fails as planned. */

import { describe, expect, test } from 'vitest'
import { Producer } from '../../src/delivery/producer.ts'
import type { ProducerBreakerOptions, ProducerOptions } from '../../src/delivery/producer-options.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'
import { FakeEngine } from './fake-engine.ts'

async function bench(circuitBreaker: ProducerBreakerOptions, options: ProducerOptions = {}, partitions = 1) {
  const clock = new VirtualClock()
  const engine = new FakeEngine({ clock, autoCreateTopics: false })
  await engine.createTopic({ name: 't', partitions })
  const changes: string[] = []
  const onChange: ProducerBreakerOptions['onChange'] = (state, error) =>
    changes.push(`${state} ${error?.code}`)
  const producer = new Producer(
    { ...options, circuitBreaker: { ...circuitBreaker, onChange } },
    { engine, clock, random: () => 0 },
  )
  void producer.send('t', []) // makes the topic known
  await clock.runDeferred()
  const outcome = (sent: Promise<unknown>): Promise<string> =>
    sent.then(
      () => 'accepted',
      error => error.code,
    )
  const send = async (value = 'x', partition = 0): Promise<string> => {
    const sent = outcome(producer.send('t', { value, partition }))
    await clock.runDeferred()
    return await sent
  }
  return { clock, engine, producer, changes, send, outcome }
}

describe('a circuit breaker', () => {
  test('opens after failures in a row, refuses at once and says why, and closes when its probe is accepted', async () => {
    const { clock, engine, producer, changes, send } = await bench(
      { failures: 3, coolDownMs: 5_000 },
      { retries: 0 },
    )
    engine.failNext('produce', 'UNAVAILABLE', 2)
    expect([await send(), await send(), await send()]).toEqual(['UNAVAILABLE', 'UNAVAILABLE', 'accepted'])
    expect(producer.circuit).toBe('closed') // not three in a row
    engine.failNext('produce', 'UNAVAILABLE', 3)
    for (let n = 0; n < 3; n++) await send()
    expect(producer.circuit).toBe('open')
    const calls = engine.produced.length
    await expect(producer.send('t', { value: 'x' })).rejects.toMatchObject({
      code: 'CIRCUIT_OPEN',
      retriable: true,
      message: expect.stringContaining('planned UNAVAILABLE'),
      detail: { topic: 't', coolDownMs: 5_000, outcome: 'refused', lastCode: 'UNAVAILABLE' },
    })
    await clock.advance(4_999)
    expect(await send()).toBe('CIRCUIT_OPEN')
    expect(engine.produced.length).toBe(calls)
    await clock.advance(1)
    expect(await send('back')).toBe('accepted')
    expect(producer.circuit).toBe('closed')
    expect(await send()).toBe('accepted')
    expect(changes).toEqual(['open UNAVAILABLE', 'half-open UNAVAILABLE', 'closed UNAVAILABLE'])
  })

  test('probes with one batch; what comes meanwhile is refused; a probe that fails opens it again', async () => {
    const { clock, engine, producer, outcome, send } = await bench(
      { failures: 1, coolDownMs: 1_000 },
      { retries: 0 },
      2,
    )
    engine.failNext('produce', 'UNREACHABLE')
    await send()
    await clock.advance(1_000)
    engine.hold()
    const sent = [
      outcome(producer.send('t', { value: 'probe', partition: 0 })),
      outcome(producer.send('t', { value: 'same batch', partition: 0 })),
      outcome(producer.send('t', { value: 'another batch', partition: 1 })),
    ]
    await clock.runDeferred()
    const late = outcome(producer.send('t', { value: 'late', partition: 0 }))
    engine.failNext('produce', 'UNREACHABLE')
    engine.release()
    await clock.runDeferred()
    const refused = ['UNREACHABLE', 'UNREACHABLE', 'CIRCUIT_OPEN', 'CIRCUIT_OPEN']
    expect(await Promise.all([...sent, late])).toEqual(refused)
    expect(producer.circuit).toBe('open')
    await clock.advance(1_000)
    expect(await send()).toBe('accepted')
  })

  test('leaves what was taken before to its retries, which close it as soon as one succeeds', async () => {
    const { clock, engine, producer, outcome, send } = await bench(
      { failures: 3, coolDownMs: 60_000 },
      { retries: 10, retryBackoffMs: 100 },
    )
    engine.failNext('produce', 'DISK_FULL', 4)
    const taken = outcome(producer.send('t', { value: 'taken' }))
    await clock.advance(400)
    expect(await send()).toBe('CIRCUIT_OPEN')
    await clock.advance(10_000)
    expect(await taken).toBe('accepted')
    expect(producer.circuit).toBe('closed')
    expect(await send()).toBe('accepted')
  })

  test('counts no refusals of messages', async () => {
    const { engine, producer, send } = await bench({ failures: 2 }, { retries: 0 })
    for (let n = 0; n < 5; n++) {
      engine.failNext('produce', 'MESSAGE_TOO_LARGE')
      expect(await send()).toBe('MESSAGE_TOO_LARGE')
    }
    expect(producer.circuit).toBe('closed')
  })

  test('counts a probe that is never answered as failed', async () => {
    const { clock, engine, producer, outcome, send } = await bench(
      { failures: 1, coolDownMs: 1_000 },
      { retries: 0, deliveryTimeoutMs: 3_000 },
    )
    engine.failNext('produce', 'UNREACHABLE')
    await send()
    await clock.advance(1_000)
    engine.hold()
    const probe = outcome(producer.send('t', { value: 'probe' }))
    await clock.advance(3_000)
    expect(await probe).toBe('TIMED_OUT')
    expect(producer.circuit).toBe('open')
    engine.release()
    await clock.advance(1_000)
    expect(await send()).toBe('accepted')
  })

  test('reports what is posted meanwhile', async () => {
    const reported: string[] = []
    const { engine, producer, send } = await bench(
      { failures: 1 },
      { retries: 0, onError: ({ code }, { count }) => reported.push(`${code} ${count}`) },
    )
    engine.failNext('produce', 'UNREACHABLE')
    await send()
    producer.post('t', { value: 'x' })
    producer.post('t', [{ value: 'y' }, { value: 'z' }])
    expect(reported).toEqual(['CIRCUIT_OPEN 1', 'CIRCUIT_OPEN 1', 'CIRCUIT_OPEN 1'])
  })

  test('is not there unless it is asked for', async () => {
    const clock = new VirtualClock()
    const engine = new FakeEngine({ clock })
    await engine.createTopic({ name: 't' })
    const producer = new Producer({ retries: 0 }, { engine, clock })
    engine.failNext('produce', 'UNREACHABLE', 50)
    for (let n = 0; n < 51; n++) {
      const sent = producer.send('t', { value: 'x' }).catch(error => error.code)
      await clock.runDeferred()
      expect(await sent).toEqual(n < 50 ? 'UNREACHABLE' : expect.objectContaining({ topic: 't' }))
    }
    expect(producer.circuit).toBe('closed')
  })
})
