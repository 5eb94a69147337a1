/** A queue in memory, relay included, whose time passes only when the test says so. */

import { onTestFinished } from 'vitest'
import type { Message } from '../../src/delivery/message.ts'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import { openLocalEngine } from '../../src/engine/local.ts'
import type { Disk } from '../../src/lib/disk.ts'
import { type OpenOptions, open } from '../../src/open.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

export interface Delivered {
  readonly text: string
  readonly key: string | null
  readonly partition: number
  /** After the queue was opened, by the log's clock. */
  readonly afterMs: number
  readonly timestamp: number
  readonly headers: Record<string, string>
}

export class VirtualQueue {
  readonly clock: VirtualClock
  readonly mq: Sluice
  readonly openedAt: number

  constructor(clock: VirtualClock, mq: Sluice) {
    this.clock = clock
    this.mq = mq
    this.openedAt = clock.now()
  }

  static async open(options: Partial<OpenOptions> = {}, epoch?: number): Promise<VirtualQueue> {
    const clock = new VirtualClock(epoch)
    const mq = await settle(clock, open({ url: 'memory:', clock, ...options }))
    onTestFinished(() => settle(clock, mq.close()))
    return new VirtualQueue(clock, mq)
  }

  /** On a disk that outlives it, as a directory would. */
  static async reopen(disk: Disk, epoch?: number): Promise<VirtualQueue> {
    const clock = new VirtualClock(epoch)
    const engine = await settle(clock, openLocalEngine({ url: 'directory', clock, disk }))
    const mq = new Sluice(engine, { clock })
    mq.relayIfNeeded()
    onTestFinished(() => settle(clock, mq.close()))
    return new VirtualQueue(clock, mq)
  }

  /** Waits without letting time pass, except what retries take. */
  settle<R>(promise: Promise<R>): Promise<R> {
    return settle(this.clock, promise)
  }

  advance(ms: number): Promise<void> {
    return this.clock.advance(ms)
  }

  /** What is in a topic, in the order of its partitions. */
  async delivered(topic: string): Promise<Delivered[]> {
    const all: Delivered[] = []
    const { engine } = this.mq
    const names = await this.settle(engine.listTopics())
    const count = names.includes(topic) ? await this.settle(engine.partitionsOf(topic)) : 0
    for (let partition = 0; partition < count; partition++) {
      await this.settle(
        (async () => {
          for await (const batch of scanPartition(engine, rawTopic(topic), { partition })) {
            for (const message of batch) all.push(this.#show(message))
          }
        })(),
      )
    }
    return all
  }

  async texts(topic: string): Promise<string[]> {
    return (await this.delivered(topic)).map(({ text }) => text)
  }

  #show(message: Message<unknown, unknown>): Delivered {
    return {
      text: message.text(),
      key: message.keyBytes?.toString() ?? null,
      partition: message.partition,
      afterMs: message.timestamp - this.openedAt,
      timestamp: message.timestamp,
      headers: Object.fromEntries(message.headerList().map(([name, value]) => [name, String(value)])),
    }
  }
}

const STEPS_MAX = 5_000

async function settle<R>(clock: VirtualClock, promise: Promise<R>): Promise<R> {
  let isSettled = false
  const over = (): void => {
    isSettled = true
  }
  promise.then(over, over)
  for (let step = 0; !isSettled; step++) {
    await clock.runDeferred()
    if (step > 20 && !isSettled) await clock.advance(1)
    if (step > STEPS_MAX) throw new Error('it does not come to an end')
  }
  return promise
}
