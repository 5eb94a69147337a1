/**
 * Compaction: how many records a second one pass takes, ten records to a key in random order; and how long a publisher who waits for each
 * message waits while a compaction runs in the same process, and while none does. A round has a log of its own, written beforehand.
 */

import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Producer, Sluice } from '../index.ts'
import { systemClock } from '../lib/clock.ts'
import { nodeDisk } from '../lib/disk-node.ts'
import { Log, type LogConfig } from '../log/log.ts'
import { OpenFiles } from '../log/open-files.ts'
import { BatchBuilder } from '../record/builder.ts'
import {
  BODY_MASK,
  type MakeSubject,
  makeBodies,
  type Round,
  type Setting,
  type Subject,
  stopwatch,
} from './measure.ts'
import { openEngine } from './publish.ts'

const RECORDS_PER_KEY = 10
const RECORDS_PER_BATCH = 500
const TOPIC = 'beside'
/** How long is published while nothing is compacted. */
const IDLE_MS = 1000

const config: LogConfig = {
  segmentBytesMax: 64 * 1024 * 1024,
  segmentMsMax: Number.POSITIVE_INFINITY,
  indexIntervalBytes: 4096,
  batchBytesMax: 64 * 1024 * 1024,
  appendTime: false,
  retentionMs: -1,
  retentionBytes: -1,
  compaction: {
    lagMsMin: 0,
    lagMsMax: Number.POSITIVE_INFINITY,
    dirtyRatioMin: 0.5,
    deleteRetentionMs: 86_400_000,
  },
}

/** Messages are records compacted. */
export const compact: MakeSubject = async setting => new Compacting(setting)

/** Messages are published one at a time; `isBusy`: from the begin of a compaction to its end, else for a second. */
export function publishBeside(isBusy: boolean): MakeSubject {
  return async setting => {
    const mq = await openEngine('always', setting)
    await mq.createTopic(TOPIC)
    return new PublishingBeside(mq, isBusy, setting)
  }
}

class Compacting implements Subject {
  readonly #setting: Setting
  #round = 0

  constructor(setting: Setting) {
    this.#setting = setting
  }

  async round(): Promise<Round> {
    const { messages } = this.#setting
    const { log, directory } = await writeLog(this.#setting, this.#round++)
    const elapsed = stopwatch()
    await compactAll(log, messages)
    const time = elapsed()
    await log.close()
    rmSync(directory, { recursive: true })
    return { messages, ...time }
  }

  async close(): Promise<void> {}
}

class PublishingBeside implements Subject {
  readonly #mq: Sluice
  readonly #isBusy: boolean
  readonly #setting: Setting
  readonly #producer: Producer
  readonly #bodies: Uint8Array[]
  #round = 0

  constructor(mq: Sluice, isBusy: boolean, setting: Setting) {
    this.#mq = mq
    this.#isBusy = isBusy
    this.#setting = setting
    this.#producer = mq.producer()
    this.#bodies = makeBodies(setting.bytes)
  }

  async round(): Promise<Round> {
    if (!this.#isBusy) {
      const until = performance.now() + IDLE_MS
      return this.#publish(() => performance.now() >= until)
    }
    const { log, directory } = await writeLog(this.#setting, this.#round++)
    let isOver = false
    const compacting = compactAll(log, this.#setting.messages).finally(() => {
      isOver = true
    })
    const round = await this.#publish(() => isOver)
    await compacting
    await log.close()
    rmSync(directory, { recursive: true })
    return round
  }

  close(): Promise<void> {
    return this.#mq.close()
  }

  async #publish(isOver: () => boolean): Promise<Round> {
    const latencies: number[] = []
    const elapsed = stopwatch()
    while (!isOver()) {
      const start = performance.now()
      await this.#producer.send(TOPIC, { value: this.#bodies[latencies.length & BODY_MASK] })
      latencies.push(performance.now() - start)
    }
    return { messages: latencies.length, ...elapsed(), latenciesMs: Float64Array.from(latencies) }
  }
}

/** A log on the disk, and in the page cache. */
async function writeLog(setting: Setting, round: number): Promise<{ log: Log; directory: string }> {
  const { messages, bytes } = setting
  const directory = join(setting.directory, `compacted-${round}`)
  const disk = nodeDisk()
  const files = new OpenFiles(disk)
  const log = await Log.open({ disk, files, directory, config, clock: systemClock })
  const bodies = makeBodies(bytes)
  const keys = Math.max(1, Math.floor(messages / RECORDS_PER_KEY))
  const builder = new BatchBuilder(RECORDS_PER_BATCH * (bytes + 32))
  let state = round + 1
  for (let index = 0; index < messages; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    const key = `user-${Math.floor((state / 0x1_0000_0000) * keys)}`
    builder.append(index, key, bodies[index & BODY_MASK], null)
    if (builder.count < RECORDS_PER_BATCH && index + 1 < messages) continue
    log.append(builder.close(), true)
    builder.reset()
    if (index % 100_000 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  log.roll()
  await log.checkpoint()
  return { log, directory }
}

async function compactAll(log: Log, messages: number): Promise<void> {
  const result = await log.compact({ firstUncleanableOffset: log.endOffset })
  // Everything must have been looked at, or the figure is of something else.
  if (result === null || !result.isComplete || result.recordsRead !== messages)
    throw new Error(`${result?.recordsRead} records were compacted where ${messages} were written`)
}
