/**
 * Publishes until the disk is full, and some more, makes room, goes on, and opens everything again. As a program
 * (`full-disk.ts DIRECTORY`) it does this on a real file system, and prints what came of it as JSON.
 */

import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isSluiceError, open, type Sluice } from '../../src/index.ts'

const VALUE_BYTES = 64 * 1024
const ATTEMPTS_MAX = 10_000

export interface Filled {
  readonly acceptedBeforeFull: number
  readonly refusedWith: readonly string[]
  readonly createTopicRefusedWith: string
  readonly readWhileFull: string
  readonly acceptedAfterwards: number
  readonly topicsAfterwards: readonly string[]
  readonly readAfterReopening: string
}

/** `opened` opens the directory; `makeRoom` frees a megabyte or so. */
export async function fillDisk(opened: () => Promise<Sluice>, makeRoom: () => void): Promise<Filled> {
  let mq = await opened()
  await mq.createTopic('t', { config: { 'segment.bytes': 512 * 1024 } })
  const producer = mq.producer({ retries: 0 })
  const accepted: string[] = []
  const refusedWith = new Set<string>()
  const publish = async (number: number): Promise<void> => {
    const value = `${number} `.padEnd(VALUE_BYTES, '.')
    try {
      const { offset } = await producer.send('t', { value })
      if (offset !== accepted.length) throw new Error(`offset ${offset} is not the next`)
      accepted.push(value)
    } catch (error) {
      refusedWith.add(isSluiceError(error) ? error.code : String(error))
    }
  }
  let number = 0
  while (refusedWith.size === 0 && number < ATTEMPTS_MAX) await publish(number++)
  const acceptedBeforeFull = accepted.length
  for (let more = 0; more < 3; more++) await publish(number++)
  const { refusal: createTopicRefusedWith, made } = await makeTopics(mq)
  const readWhileFull = await compare(mq, accepted)

  makeRoom()
  for (const name of made) await mq.deleteTopic(name)
  await mq.createTopic('later')
  const before = accepted.length
  for (let more = 0; more < 5; more++) await publish(number++)
  const topicsAfterwards = await mq.topics()
  await mq.close()

  // memory is gone with the engine
  const isMemory = mq.url === 'memory:'
  if (!isMemory) mq = await opened()
  const readAfterReopening = isMemory ? readWhileFull : await compare(mq, accepted)
  if (!isMemory) await mq.close()
  return {
    acceptedBeforeFull,
    refusedWith: [...refusedWith],
    createTopicRefusedWith,
    readWhileFull,
    acceptedAfterwards: accepted.length - before,
    topicsAfterwards,
    readAfterReopening,
  }
}

/** Makes topics until one is refused. */
async function makeTopics(
  mq: Sluice,
): Promise<{ readonly refusal: string; readonly made: readonly string[] }> {
  const made: string[] = []
  let refusal = 'not refused'
  for (let attempt = 0; attempt < ATTEMPTS_MAX && refusal === 'not refused'; attempt++) {
    try {
      await mq.createTopic(`filler-${attempt}`)
      made.push(`filler-${attempt}`)
    } catch (error) {
      refusal = isSluiceError(error) ? error.code : String(error)
    }
  }
  return { refusal, made }
}

async function compare(mq: Sluice, accepted: readonly string[]): Promise<string> {
  let count = 0
  for await (const message of mq.consumer({ topics: ['t'] })) {
    if (message.text() !== accepted[count]) return `offset ${message.offset} differs`
    if (++count === accepted.length) break
  }
  const { endOffset } = (await mq.describeTopic('t')).partitions[0]
  return endOffset === accepted.length ? 'all that was accepted' : `${endOffset} messages`
}

if (process.argv[1] === import.meta.filename) {
  const path = process.argv[2]
  const ballast = join(path, 'ballast')
  writeFileSync(ballast, Buffer.alloc(1024 * 1024))
  const filled = await fillDisk(
    () => open(join(path, 'data')),
    () => rmSync(ballast),
  )
  console.log(JSON.stringify(filled))
}
