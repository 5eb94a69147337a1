/**
 * Publishing, through the public API alone: how many messages a second are accepted, to which engine, how sent, by how many
 * producers. Time runs from the first call until the last message is answered. Each round goes to a new topic of one partition, deleted
 * afterwards; producers live on, as they do in a program.
 *
 * A program makes an object for each message, so it is made within the time that is taken. The bytes of the value are there before.
 */

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Flush, open, type Producer, type Sluice } from '../index.ts'
import {
  BODY_MASK,
  type MakeSubject,
  makeBodies,
  type Round,
  type Setting,
  type Subject,
  stopwatch,
} from './measure.ts'

export type EngineName = 'memory' | 'os' | 'interval' | 'always'

/** Of the policy `interval`. */
export const INTERVAL_MS = 100

const flushOf: Readonly<Record<EngineName, Flush>> = {
  memory: 'os',
  os: 'os',
  interval: { everyMs: INTERVAL_MS },
  always: 'always',
}

/** How messages are sent. */
export type Way =
  /** `post`, one by one, waiting for `ready()` when told to; then `flush()`. */
  | { readonly kind: 'post' }
  /** `send` of arrays of so many, each awaited before the next is sent. */
  | { readonly kind: 'array'; readonly count: number }
  /** `send` one by one; every promise is awaited, the oldest first, so many at most are outstanding, over all producers. */
  | { readonly kind: 'each'; readonly window: number }

export function publish(engine: EngineName, way: Way, producers: number): MakeSubject {
  return async setting => {
    const mq = await openEngine(engine, setting)
    return new Publishing(mq, way, producers, setting)
  }
}

export function openEngine(engine: EngineName, setting: Setting): Promise<Sluice> {
  const directory = join(setting.directory, 'data')
  if (engine !== 'memory') mkdirSync(directory, { recursive: true })
  return open({ url: engine === 'memory' ? 'memory:' : directory, flush: flushOf[engine] })
}

class Publishing implements Subject {
  readonly #mq: Sluice
  readonly #way: Way
  readonly #producers: readonly Producer[]
  readonly #bodies: Uint8Array[]
  readonly #messages: number
  #round = 0
  #failure: unknown = null

  constructor(mq: Sluice, way: Way, producers: number, setting: Setting) {
    this.#mq = mq
    this.#way = way
    const onError = (error: unknown): void => {
      this.#failure ??= error
    }
    this.#producers = Array.from({ length: producers }, () => mq.producer({ onError }))
    this.#bodies = makeBodies(setting.bytes)
    this.#messages = Math.ceil(setting.messages / producers)
  }

  async round(): Promise<Round> {
    const topic = `round-${this.#round++}`
    await this.#mq.createTopic(topic)
    for (const producer of this.#producers)
      await producer.send(topic, { value: 'so that it knows the topic' })
    const elapsed = stopwatch()
    const latencies = await Promise.all(this.#producers.map(producer => this.#publish(producer, topic)))
    const time = elapsed()
    if (this.#failure !== null) throw this.#failure
    await this.#check(topic)
    await this.#mq.deleteTopic(topic)
    const single = latencies.filter(one => one !== null)
    return {
      messages: this.#messages * this.#producers.length,
      ...time,
      latenciesMs:
        single.length === 0 ? undefined : Float64Array.from(single.flatMap(one => Array.from(one))),
    }
  }

  close(): Promise<void> {
    return this.#mq.close()
  }

  /** Everything must be there, or the figure is of something else. */
  async #check(topic: string): Promise<void> {
    const expected = (this.#messages + 1) * this.#producers.length
    const stored = await this.#mq.offsetFor(topic, 0, 'latest')
    if (stored !== expected) throw new Error(`${stored} messages are stored where ${expected} were published`)
  }

  async #publish(producer: Producer, topic: string): Promise<Float64Array | null> {
    const way = this.#way
    if (way.kind === 'post') await this.#post(producer, topic)
    else if (way.kind === 'array') await this.#sendArrays(producer, topic, way.count)
    else if (way.window === 1) return this.#sendAndWait(producer, topic)
    else await this.#sendEach(producer, topic, Math.ceil(way.window / this.#producers.length))
    return null
  }

  async #post(producer: Producer, topic: string): Promise<void> {
    const bodies = this.#bodies
    const messages = this.#messages
    const isShared = this.#producers.length > 1
    for (let index = 0; index < messages; index++) {
      const isRoom = producer.post(topic, { value: bodies[index & BODY_MASK] })
      if (!isRoom) await producer.ready()
      // several producers in one process take turns, or they would be one after the other
      else if (isShared && (index & BODY_MASK) === 0) await turn()
    }
    await producer.flush()
  }

  async #sendArrays(producer: Producer, topic: string, count: number): Promise<void> {
    const bodies = this.#bodies
    for (let done = 0; done < this.#messages; done += count) {
      const messages: { value: Uint8Array }[] = []
      const end = Math.min(this.#messages, done + count)
      for (let index = done; index < end; index++) messages.push({ value: bodies[index & BODY_MASK] })
      await producer.send(topic, messages)
    }
  }

  async #sendEach(producer: Producer, topic: string, window: number): Promise<void> {
    const bodies = this.#bodies
    const messages = this.#messages
    const outstanding: Promise<unknown>[] = new Array(Math.min(window, messages)).fill(Promise.resolve())
    let oldest = 0
    for (let index = 0; index < messages; index++) {
      await outstanding[oldest]
      outstanding[oldest] = producer.send(topic, { value: bodies[index & BODY_MASK] })
      oldest = oldest + 1 === outstanding.length ? 0 : oldest + 1
    }
    await Promise.all(outstanding)
  }

  async #sendAndWait(producer: Producer, topic: string): Promise<Float64Array> {
    const latenciesMs = new Float64Array(this.#messages)
    for (let index = 0; index < this.#messages; index++) {
      const start = performance.now()
      await producer.send(topic, { value: this.#bodies[index & BODY_MASK] })
      latenciesMs[index] = performance.now() - start
    }
    return latenciesMs
  }
}

const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
