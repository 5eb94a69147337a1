/**
 * A worker that sends each mail once, though messages come twice: ids that were handled are remembered in Redis.
 *
 *     REDIS_URL=redis://127.0.0.1:6379 node idempotent-redis.ts
 */

import { Redis } from 'ioredis'
import { idempotent, type Message, open, redisProcessedIds } from 'sluice'

const MAILS = 50
const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
const mq = await open('memory:')

for (let mail = 1; mail <= MAILS; mail++) {
  const headers = { 'sluice-message-id': `mail ${mail} of ${Date.now()}` }
  const message = { key: `customer ${mail % 5}`, value: `mail ${mail}`, headers }
  await mq.publish('mails', [message, message])
}

const sent: string[] = []
const store = redisProcessedIds(redis, { scope: 'mailer', keepMs: 3_600_000 })
const send = idempotent(store, async (message: Message) => void sent.push(message.text()))

const worker = mq.worker('mails', { group: 'mailer', concurrency: 10 }, send)
while (send.stats.handled + send.stats.duplicates < MAILS * 2) {
  await new Promise(resolve => setTimeout(resolve, 5))
}
await worker.stop()

console.log(`sent ${sent.length} mails, ${new Set(sent).size} different ones`)
console.log(`skipped ${send.stats.duplicates} duplicates`)
await mq.close()
redis.disconnect()
