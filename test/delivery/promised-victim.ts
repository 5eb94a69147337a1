/**
 * A member of group `g` that dies in the middle: `node promised-victim.ts URL COUNT`. It handles COUNT messages of topic `t`, commits each, writes
 * each to standard output, begins another one, and kills itself with that one unfinished.
 */

import { open } from '../../src/index.ts'

const [url, count] = process.argv.slice(2)
const mq = await open(url)
const consumer = mq.consumer({ topics: ['t'], group: 'g', sessionTimeoutMs: 6_000, autoCommit: false })
let left = Number(count)
await consumer.run(async message => {
  if (left-- === 0) {
    process.stdout.write(`begun ${message.text()}\n`, () => process.kill(process.pid, 'SIGKILL'))
    return new Promise(() => {})
  }
  await consumer.commit(message)
  process.stdout.write(`${message.text()}\n`)
})
