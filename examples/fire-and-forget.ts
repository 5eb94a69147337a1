/**
 * Publishing without waiting for each answer, as fast as the log takes it. `post` never throws and never waits; what it
 * returns says whether there is room for more, and whoever heeds it keeps memory bounded. What is refused is told to `onError`.
 *
 *     node fire-and-forget.ts [COUNT]
 */

import { open } from 'sluice'

const count = Number(process.argv[2] ?? 1_000_000)
const value = Buffer.alloc(100, 'x')

const mq = await open('memory:')
await mq.createTopic('ticks', { partitions: 4 })

let failed = 0
const producer = mq.producer({
  bufferBytesMax: 4 * 1024 * 1024,
  onError: (error, { count }) => {
    failed += count
    console.error(`${count} messages were not accepted: ${error.message}`)
  },
})

let waits = 0
for (let tick = 0; tick < count; tick++) {
  if (producer.post('ticks', { value })) continue
  waits++
  await producer.ready() // back-pressure: the buffer is full
}
await producer.close() // everything is answered by now

const stored = (await mq.describeTopic('ticks')).partitions.reduce((sum, { endOffset }) => sum + endOffset, 0)
console.log(
  `posted ${count}, stored ${stored}, failed ${failed}; the buffer was full ${waits > 0 ? 'at times' : 'never'}`,
)
await mq.close()
