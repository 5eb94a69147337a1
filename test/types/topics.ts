/**
 * What the compiler knows about topics, messages and consumers. Nothing here runs: `tsc` passes when every
 * line that is right compiles and every line under a `@ts-expect-error` does not.
 */

import { type } from 'arktype'
import * as v from 'valibot'
import { z } from 'zod'
import { bytes, json, type Message, type Sluice, string, topic } from '../../src/index.ts'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only if the type given is `true`. */
const same = <T extends true>(): T => true as T

declare const mq: Sluice

interface Order {
  id: number
  total: number
}

const Zod = topic('zod', { value: z.object({ id: z.number(), total: z.number() }), partitions: 8 })
const Valibot = topic('valibot', { value: v.object({ id: v.number(), total: v.number() }) })
const Arktype = topic('arktype', { value: type({ id: 'number', total: 'number' }) })
const Json = topic('json', { value: json<Order>() })
const Text = topic('text', { value: string })
const Bytes = topic('bytes', { value: bytes })
const Plain = topic('plain', { partitions: 3, config: { 'retention.ms': 1_000 } })
const Visits = topic('visits', {
  value: z.object({ at: z.string().transform(text => new Date(text)), page: z.string().default('/') }),
})
const Users = topic('users', { value: z.object({ name: z.string() }), tombstones: true })
const ByNumber = topic('by-number', { value: string, key: json<number>() })

export async function publishing(): Promise<void> {
  // every vendor's schema asks for its input
  for (const T of [Zod, Json] as const) await mq.publish(T, { value: { id: 1, total: 2 } })
  await mq.publish(Zod, {
    key: 'ann',
    value: { id: 1, total: 2 },
    headers: { a: 'x' },
    timestamp: new Date(),
    partition: 0,
  })
  await mq.publish(Valibot, { value: { id: 1, total: 2 } })
  await mq.publish(Arktype, { value: { id: 1, total: 2 } })
  // @ts-expect-error a string is not a number
  await mq.publish(Zod, { value: { id: 'one', total: 2 } })
  // @ts-expect-error
  await mq.publish(Valibot, { value: { id: 'one', total: 2 } })
  // @ts-expect-error
  await mq.publish(Arktype, { value: { id: 'one', total: 2 } })
  // @ts-expect-error
  await mq.publish(Json, { value: { id: 'one', total: 2 } })
  // @ts-expect-error a field is missing
  await mq.publish(Zod, { value: { id: 1 } })
  // @ts-expect-error a field too many
  await mq.publish(Zod, { value: { id: 1, total: 2, colour: 'red' } })
  // @ts-expect-error the value is missing
  await mq.publish(Zod, { key: 'ann' })
  // @ts-expect-error a message is an object
  await mq.publish(Text, 'text')
  // @ts-expect-error there are no tombstones in this topic
  await mq.publish(Zod, { key: 'ann', value: null })

  // the input of transforms and defaults
  await mq.publish(Visits, { value: { at: '2026-01-01' } })
  // @ts-expect-error the input is text
  await mq.publish(Visits, { value: { at: new Date() } })

  await mq.publish(Users, { key: 'ann', value: null })
  await mq.publish(Bytes, { value: new Uint8Array(1) })
  // @ts-expect-error
  await mq.publish(Bytes, { value: 'text' })
  await mq.publish(ByNumber, { key: 1, value: 'x' })
  // @ts-expect-error
  await mq.publish(ByNumber, { key: 'one', value: 'x' })

  // without a codec: text, bytes, null, anything JSON
  for (const value of ['text', Buffer.from('b'), null, { a: 1 }, [1], 1, true]) {
    await mq.publish('plain', { key: Buffer.from('k'), value })
    await mq.publish(Plain, { value })
  }
  // @ts-expect-error
  await mq.publish('plain', { value: undefined })
  // @ts-expect-error keys are text or bytes
  await mq.publish('plain', { key: 1, value: 'x' })
  // @ts-expect-error nothing that publishes takes a number for a topic
  await mq.publish(1, { value: 'x' })

  // one message, or many
  const one = await mq.publish(Text, { value: 'x' })
  const many = await mq.publish(Text, [{ value: 'x' }, { value: 'y' }])
  same<Equal<typeof one.offset, number>>()
  same<Equal<typeof many.count, number>>()
  // @ts-expect-error one of them is wrong
  await mq.publish(Text, [{ value: 'x' }, { value: 1 }])

  const producer = mq.producer({
    lingerMs: 5,
    onError: (error, { count }) => console.error(error.code, count),
  })
  await producer.send(Zod, { value: { id: 1, total: 2 } })
  same<Equal<ReturnType<typeof producer.flush>, Promise<void>>>()
  const hasRoom: boolean = producer.post(Zod, [{ value: { id: 1, total: 2 } }])
  // @ts-expect-error
  producer.post(Zod, { value: 1 })
  // @ts-expect-error an option that does not exist
  mq.producer({ linger: 5 })
  return void hasRoom
}

export async function consuming(): Promise<void> {
  for await (const message of mq.consumer({ topics: [Zod], group: 'g' })) {
    same<Equal<typeof message.value, Order>>()
    same<Equal<typeof message.key, string | null>>()
  }
  await mq.consumer({ topics: [Valibot] }).run(message => same<Equal<typeof message.value, Order>>())
  await mq.consumer({ topics: [Arktype] }).run(message => same<Equal<typeof message.value, Order>>())
  await mq.consumer({ topics: [Json] }).runBatch(batch => {
    for (const message of batch) same<Equal<typeof message.value, Order>>()
  })
  await mq.consumer({ topics: [Text] }).run(message => same<Equal<typeof message.value, string>>())
  await mq.consumer({ topics: [Bytes] }).run(message => same<Equal<typeof message.value, Buffer>>())
  await mq.consumer({ topics: [ByNumber] }).run(message => same<Equal<typeof message.key, number | null>>())
  await mq
    .consumer({ topics: [Users] })
    .run(message => same<Equal<typeof message.value, { name: string } | null>>())

  // the output of transforms and defaults
  await mq
    .consumer({ topics: [Visits] })
    .run(message => same<Equal<typeof message.value, { at: Date; page: string }>>())

  // without a codec
  await mq.consumer({ topics: ['plain'] }).run(message => same<Equal<typeof message.value, Buffer | null>>())
  await mq.consumer({ topics: [Plain] }).run(message => same<Equal<typeof message.value, Buffer | null>>())
  await mq.consumer({ topics: ['plain'] }).run(message => {
    const order = message.json<Order>()
    same<Equal<typeof order, Order>>()
  })

  // several topics: their union
  const both = mq.consumer({ topics: [Text, Zod] })
  await both.run(message => same<Equal<typeof message, Message<string, string> | Message<Order, string>>>())
  both.on('assigned', partitions => same<Equal<(typeof partitions)[number]['partition'], number>>())
  // @ts-expect-error an event that does not exist
  both.on('assinged', () => {})
  // @ts-expect-error an option that does not exist
  mq.consumer({ topics: [Text], groupId: 'g' })
  await both.commit([{ topic: 'text', partition: 0, offset: 1 }])
  await both.seek({ topic: 'text', partition: 0, offset: { time: new Date() } })
  // @ts-expect-error a consumer is made by mq.consumer, not by new
  new both.constructor()
}

export function describing(): void {
  // @ts-expect-error neither schema nor codec
  topic('t', { value: 1 })
  // @ts-expect-error a codec has two sides
  topic('t', { value: { encode: (text: string) => text } })
  // @ts-expect-error an option that does not exist
  topic('t', { partition: 3 })
  // @ts-expect-error a name is text
  topic(1)
}
