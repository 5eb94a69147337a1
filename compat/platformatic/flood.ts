/**
 * Heavy traffic with an idempotent producer, for compat/crash.ts. `flood.ts ADDRESS TOPIC PARTITIONS RATE`
 *
 * Record n goes to partition n % PARTITIONS and has the value "n:xxx…". For each acknowledged one a line `n offset` is printed. When
 * standard input ends it stops, waits for what is under way, and ends.
 *
 * One request is under way at a time: this client keeps no order among several that it has to send again.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { Producer } from '@platformatic/kafka'

const BATCH_RECORDS = 300
const padding = 'x'.repeat(100)

const [address, topic, partitionsText, rateText] = process.argv.slice(2)
const partitions = Number(partitionsText)
const rate = Number(rateText)
let isStopping = false
process.stdin.resume().on('end', () => {
  isStopping = true
})
const producer = new Producer({
  clientId: 'flood',
  bootstrapBrokers: [address],
  idempotent: true,
  retries: 600,
  retryDelay: 100,
})
let number = 0
while (!isStopping) {
  const started = performance.now()
  const numbers = Array.from({ length: BATCH_RECORDS }, () => number++)
  const messages = numbers.map(n => ({
    topic,
    partition: n % partitions,
    value: Buffer.from(`${n}:${padding}`),
  }))
  try {
    const { offsets = [] } = await producer.send({ messages, acks: -1 })
    const next = new Map(offsets.map(({ partition, offset }) => [partition, Number(offset)]))
    let lines = ''
    for (const n of numbers) {
      const offset = next.get(n % partitions)!
      next.set(n % partitions, offset + 1)
      lines += `${n} ${offset}\n`
    }
    process.stdout.write(lines)
  } catch (error) {
    console.error('@platformatic/kafka:', error)
  }
  await sleep(Math.max(0, (BATCH_RECORDS / rate) * 1000 - (performance.now() - started)))
}
await producer.close()
