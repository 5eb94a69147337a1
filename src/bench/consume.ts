/**
 * Consuming, through the public API alone: how many messages a second are handed out from a log that is there already, to one consumer of a
 * group that has committed nothing yet. Each handler looks at the bytes of every value. Time runs from the call that starts the consumer until it
 * has seen the last message, joining the group included.
 *
 * From files means from files: for each round the directory is opened anew, so nothing of it is in the memory of the process. The
 * system's page cache does hold it.
 */

import { open, type Sluice } from '../index.ts'
import {
  BODY_MASK,
  type MakeSubject,
  makeBodies,
  type Setting,
  type Subject,
  stopwatch,
  type Time,
} from './measure.ts'
import { openEngine } from './publish.ts'

/** `batch`: runBatch, `each`: run, `loop`: for await. */
export type Handling = 'batch' | 'each' | 'loop'

const TOPIC = 'consumed'

export function consume(engine: 'memory' | 'file', handling: Handling): MakeSubject {
  return async setting => {
    const mq = await openEngine(engine === 'memory' ? 'memory' : 'os', setting)
    await fill(mq, setting)
    if (engine === 'memory') {
      let group = 0
      return {
        round: () => consumeAll(mq, `group-${group++}`, handling, setting),
        close: () => mq.close(),
      }
    }
    await mq.close()
    return fromFiles(mq.url, handling, setting)
  }
}

function fromFiles(url: string, handling: Handling, setting: Setting): Subject {
  let group = 0
  return {
    async round() {
      const mq = await open({ url, flush: 'os' })
      try {
        return await consumeAll(mq, `group-${group++}`, handling, setting)
      } finally {
        await mq.close()
      }
    },
    close: async () => {},
  }
}

async function fill(mq: Sluice, { bytes, messages }: Setting): Promise<void> {
  const bodies = makeBodies(bytes)
  await mq.createTopic(TOPIC)
  const producer = mq.producer()
  for (let index = 0; index < messages; index++) {
    if (!producer.post(TOPIC, { value: bodies[index & BODY_MASK] })) await producer.ready()
  }
  await producer.close()
}

async function consumeAll(mq: Sluice, group: string, handling: Handling, { bytes, messages }: Setting) {
  const consumer = mq.consumer({ topics: [TOPIC], group })
  let seen = 0
  let bytesSeen = 0
  let time: Time | null = null
  const elapsed = stopwatch()
  const isLast = (): boolean => {
    if (seen < messages) return false
    time = elapsed()
    return true
  }
  if (handling === 'batch') {
    await consumer.runBatch(batch => {
      for (const message of batch) bytesSeen += message.valueBytes!.length
      seen += batch.count
      if (isLast()) void consumer.stop()
    })
  } else if (handling === 'each') {
    await consumer.run(message => {
      bytesSeen += message.valueBytes!.length
      seen++
      if (isLast()) void consumer.stop()
    })
  } else {
    for await (const message of consumer) {
      bytesSeen += message.valueBytes!.length
      seen++
      if (isLast()) break
    }
  }
  if (bytesSeen !== messages * bytes) {
    throw new Error(`${bytesSeen} bytes were consumed where ${messages * bytes} were published`)
  }
  return { messages, ...(time ?? elapsed()) }
}
