/** A queue over the broker in memory whose time the test owns, for tests of workers and queues. */

import { expect, onTestFinished } from 'vitest'
import type { Message } from '../../src/delivery/message.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { open } from '../../src/open.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

export interface Bench {
  readonly clock: VirtualClock
  readonly mq: Sluice
  /** Lets time pass, a millisecond at a time, until the promise has settled. */
  until<R>(promise: Promise<R>): Promise<R>
  /** Lets pass what needs no time, and the commit. */
  settle(): Promise<void>
  publish(topic: string, texts: string | readonly string[], key?: string): Promise<void>
  /** Messages of a topic, as text, those of aborted transactions left out. */
  read(topic: string): Promise<Message[]>
}

/** With `url`: a data directory, or the same memory. */
export async function bench(options: { autoCreateTopics?: boolean } = {}): Promise<Bench> {
  const clock = new VirtualClock()
  const mq = await open({ url: 'memory:', clock, ...options })
  const until = async <R>(promise: Promise<R>): Promise<R> => {
    let isSettled = false
    promise.then(
      () => (isSettled = true),
      () => (isSettled = true),
    )
    for (let ms = 0; !isSettled && ms < 120_000; ms++) await clock.advance(1)
    expect(isSettled, 'it did not settle within two minutes').toBe(true)
    return promise
  }
  onTestFinished(async () => {
    await until(mq.close())
  })
  return {
    clock,
    mq,
    until,
    settle: () => clock.advance(30),
    publish: async (topic, texts, key) => {
      const messages = [...texts].map(value => ({ value, key }))
      await until(mq.publish(topic, messages))
    },
    read: topic => until(readAll(mq, topic)),
  }
}

async function readAll(mq: Sluice, topic: string): Promise<Message[]> {
  const messages: Message[] = []
  const { partitions } = await mq.describeTopic(topic)
  const ends = new Map(partitions.map(({ partition, endOffset }) => [partition, endOffset]))
  const consumer = mq.consumer({ topics: [topic], waitMs: 0 })
  const running = consumer.runBatch(batch => {
    messages.push(...batch)
  })
  for (let turns = 0; turns < 200; turns++) {
    await new Promise(resolve => setImmediate(resolve))
    const places = consumer.assignment()
    const isRead =
      places.length > 0 && places.every(of => consumer.position(of) >= (ends.get(of.partition) ?? 0))
    if (isRead) break
  }
  await consumer.stop()
  await running
  return messages.sort((one, other) => one.partition - other.partition || one.offset - other.offset)
}

/** A handler that waits, each call until it is let go or told to fail. */
export function gate() {
  const waiting: { text: string; open: () => void; fail: (error: unknown) => void }[] = []
  const seen: string[] = []
  const take = (text: string) => {
    const index = waiting.findIndex(call => call.text === text)
    if (index < 0) throw new Error(`nobody handles ${text}`)
    return waiting.splice(index, 1)[0]
  }
  return {
    seen,
    handle: (message: Message<unknown, unknown>) => {
      const text = message.text()
      seen.push(text)
      return new Promise<void>((resolve, reject) => waiting.push({ text, open: resolve, fail: reject }))
    },
    open: (text: string) => take(text).open(),
    fail: (text: string, error: unknown = new Error('no')) => take(text).fail(error),
    get inside() {
      return waiting.map(({ text }) => text)
    },
  }
}
