/** The first program of the README: publish two messages of a typed topic, and handle them as a group. */

import { open, topic } from 'sluice'
import { z } from 'zod'

const Orders = topic('orders', {
  partitions: 4,
  value: z.object({ id: z.number(), total: z.number() }),
})

const mq = await open('./data') // or 'memory:', or a server: 'kafka://127.0.0.1:9092'

await mq.publish(Orders, { key: 'ann', value: { id: 1, total: 12.5 } })
await mq.publish(Orders, { key: 'bob', value: { id: 2, total: 30 } })

const consumer = mq.consumer({ topics: [Orders], group: 'billing' })
let left = 2
for await (const message of consumer) {
  console.log(message.key, message.value.total) // message.value is typed, and was checked
  await consumer.commit(message)
  if (--left === 0) break
}

await mq.close()
