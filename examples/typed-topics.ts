/**
 * Topics with types. A schema (zod, valibot, arktype, anything that speaks Standard Schema) gives messages their types at
 * compile time, and checks them at run time: when they are published, and again when they are read.
 *
 *     node typed-topics.ts
 */

import { isSluiceError, json, open, topic } from 'sluice'
import * as v from 'valibot'
import { z } from 'zod'

const Payments = topic('payments', {
  value: z.object({
    account: z.string(),
    cents: z.number().int().positive(),
    at: z.coerce.date(), // a Date is published as JSON, and is a Date again when it is read
  }),
})
const Logins = topic('logins', { value: v.object({ user: v.string(), ok: v.boolean() }) })
const Notes = topic('notes', { value: json<{ text: string }>() }) // typed by word of honour: nothing is checked

const mq = await open('memory:')
await mq.publish(Payments, {
  key: 'ann',
  value: { account: 'ann', cents: 1250, at: new Date('2025-03-01T12:00Z') },
})
await mq.publish(Logins, { key: 'ann', value: { user: 'ann', ok: true } })
await mq.publish(Notes, { value: { text: 'hello' } })

try {
  await mq.publish(Payments, { key: 'bob', value: { account: 'bob', cents: -5, at: new Date() } })
} catch (error) {
  if (!isSluiceError(error, 'SCHEMA_MISMATCH')) throw error
  console.log(error.code, error.message)
}

// @ts-expect-error cents is a number, says the compiler; the schema says so too
await mq.publish(Payments, { value: { account: 'bob', cents: '5', at: new Date() } }).catch(() => {})

for await (const { value } of mq.consumer({ topics: [Payments] })) {
  console.log(`${value.account} paid ${(value.cents / 100).toFixed(2)} in ${value.at.getUTCFullYear()}`)
  break
}
for await (const { value } of mq.consumer({ topics: [Logins] })) {
  console.log(`${value.user} ${value.ok ? 'is in' : 'was turned away'}`)
  break
}
await mq.close()
