/**
 * Opening a directory: how long it takes after a clean stop, and how much memory an engine has that is open and idle, with much data and with
 * none. A process of its own builds the data, and each opening is measured in a new process, after its garbage has been collected.
 */

import { join } from 'node:path'
import { open } from '../index.ts'
import { BODY_MASK, collectGarbage, makeBodies, type Setting } from './measure.ts'

const TOPIC = 'stored'

export interface OpenSetting extends Setting {
  readonly partitions: number
}

export interface Opened {
  /** Until `open` has resolved. */
  readonly openMs: number
  /** Messages that the partitions say they have. */
  readonly messages: number
  /** Memory of the process before and after. */
  readonly rssBeforeBytes: number
  readonly rssBytes: number
  readonly heapBytes: number
}

/** A directory with `messages` in `partitions`, closed properly. */
export async function build({ directory, bytes, messages, partitions }: OpenSetting): Promise<void> {
  const mq = await open({ url: join(directory, 'data'), flush: 'os' })
  await mq.createTopic(TOPIC, { partitions })
  const bodies = makeBodies(bytes)
  // small batches, so that there is much to find one's way in
  const producer = mq.producer({ batchCountMax: 1_000 })
  for (let index = 0; index < messages; index++) {
    if (!producer.post(TOPIC, { value: bodies[index & BODY_MASK] })) await producer.ready()
  }
  await mq.close()
}

export async function measureOpening({ directory }: Setting): Promise<Opened> {
  collectGarbage()
  const rssBeforeBytes = process.memoryUsage.rss()
  const start = performance.now()
  const mq = await open({ url: join(directory, 'data') })
  const openMs = performance.now() - start
  const { partitions } = await mq.describeTopic(TOPIC)
  const messages = partitions.reduce((sum, { startOffset, endOffset }) => sum + endOffset - startOffset, 0)
  collectGarbage()
  const { rss: rssBytes, heapUsed: heapBytes } = process.memoryUsage()
  await mq.close()
  return { openMs, messages, rssBeforeBytes, rssBytes, heapBytes }
}
