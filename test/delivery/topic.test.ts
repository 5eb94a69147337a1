import { type } from 'arktype'
import * as v from 'valibot'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { bytes, type Codec, json, string } from '../../src/delivery/codec.ts'
import type { Message } from '../../src/delivery/message.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import { type AnyTopic, topic } from '../../src/delivery/topic.ts'
import { SluiceError } from '../../src/errors.ts'
import { FakeEngine } from './fake-engine.ts'

/** Publishes one message and reads it back. */
async function roundTrip(target: AnyTopic | string, message: unknown): Promise<Message<unknown, unknown>> {
  await using mq = new Sluice(new FakeEngine())
  await mq.publish(target as string, message as never)
  for await (const received of mq.consumer({ topics: [target] })) return received as Message<unknown, unknown>
  throw new Error('nothing came')
}

async function refusal(target: AnyTopic | string, message: unknown): Promise<SluiceError> {
  await using mq = new Sluice(new FakeEngine())
  return await mq.publish(target as string, message as never).then(
    () => expect.unreachable('the message was accepted'),
    error => error,
  )
}

describe('a topic without a codec', () => {
  it('stores text and bytes as they are and everything else as JSON', async () => {
    expect((await roundTrip('t', { value: 'grüße' })).text()).toBe('grüße')
    expect((await roundTrip('t', { value: new Uint8Array([1, 255]) })).value).toEqual(Buffer.from([1, 255]))
    expect((await roundTrip('t', { value: { a: [1] } })).json()).toEqual({ a: [1] })
    expect((await roundTrip('t', { value: 12 })).text()).toBe('12')
    expect((await roundTrip('t', { value: false })).json()).toBe(false)
    const tombstone = await roundTrip('t', { key: 'k', value: null })
    expect([tombstone.value, tombstone.key, tombstone.text()]).toEqual([null, 'k', ''])
  })

  it('refuses what has no form', async () => {
    expect(await refusal('t', { value: undefined })).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await refusal('t', { value: () => {} })).toMatchObject({ code: 'CODEC_FAILED' })
    expect(await refusal('t', { value: 1n })).toMatchObject({ code: 'CODEC_FAILED' })
    expect(await refusal('t', { key: 7, value: '' })).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await refusal('t', 'text')).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: 'topic t: a message is an object with a value, { value: … }, not a string',
    })
  })
})

describe('codecs', () => {
  it('come back as they went in', async () => {
    expect(
      (await roundTrip(topic('t', { value: json<{ a: number }>() }), { value: { a: 1 } })).value,
    ).toEqual({ a: 1 })
    expect((await roundTrip(topic('t', { value: string }), { value: 'ü' })).value).toBe('ü')
    expect((await roundTrip(topic('t', { value: bytes }), { value: Buffer.from('b') })).value).toEqual(
      Buffer.from('b'),
    )
  })

  it('may be of your own, for keys too', async () => {
    const int32: Codec<number> = {
      encode: value => {
        const encoded = Buffer.alloc(4)
        encoded.writeInt32BE(value)
        return encoded
      },
      decode: stored => stored.readInt32BE(),
    }
    const message = await roundTrip(topic('t', { value: int32, key: int32 }), { key: -1, value: 7 })
    expect([message.key, message.value, message.keyBytes]).toEqual([-1, 7, Buffer.from([255, 255, 255, 255])])
  })

  it('refuse by throwing, when publishing and when reading', async () => {
    const grumpy = topic('t', {
      value: {
        encode: (text: string) => {
          if (text === '') throw new Error('no empty text, please')
          return text
        },
        decode: (): string => {
          throw new Error('cannot read this')
        },
      },
    })
    expect(await refusal(grumpy, { value: '' })).toMatchObject({
      code: 'CODEC_FAILED',
      message: 'topic t, value: no empty text, please',
    })
    const message = await roundTrip(grumpy, { value: 'x' })
    expect(() => message.value).toThrow(
      expect.objectContaining({
        code: 'CODEC_FAILED',
        message: 't/0 offset 0, value: cannot read this',
        detail: { topic: 't', partition: 0, offset: 0 },
      }),
    )
    expect(message.valueBytes?.toString()).toBe('x')
  })
})

describe.each([
  ['zod', z.object({ id: z.number(), items: z.array(z.object({ price: z.number() })) })],
  ['valibot', v.object({ id: v.number(), items: v.array(v.object({ price: v.number() })) })],
  ['arktype', type({ id: 'number', items: type({ price: 'number' }).array() })],
])('a schema of %s', (_name, schema) => {
  const Orders = topic('orders', { value: schema })

  it('lets good values through', async () => {
    const message = await roundTrip(Orders, { value: { id: 1, items: [{ price: 2 }] } })
    expect(message.value).toEqual({ id: 1, items: [{ price: 2 }] })
  })

  it('refuses others with path and reason, and keeps them out of the log', async () => {
    const error = await refusal(Orders, { value: { id: 1, items: [{ price: 2 }, { price: 'high' }] } })
    expect(error).toBeInstanceOf(SluiceError)
    expect(error.code).toBe('SCHEMA_MISMATCH')
    expect(error.message).toContain('topic orders, value: value.items[1].price: ')
    expect(error.detail).toMatchObject({ topic: 'orders', issues: [{ path: 'value.items[1].price' }] })
  })

  it('refuses to hand out what somebody else has stored', async () => {
    const engine = new FakeEngine()
    await using mq = new Sluice(engine)
    await mq.publish('orders', { value: { id: 'one' } })
    for await (const message of mq.consumer({ topics: [Orders] })) {
      expect(() => message.value).toThrow(expect.objectContaining({ code: 'SCHEMA_MISMATCH' }))
      expect(message.json()).toEqual({ id: 'one' })
      break
    }
  })
})

describe('a schema', () => {
  it('stores its input, and applies transforms and defaults on reading', async () => {
    const Visits = topic('visits', {
      value: z.object({
        at: z.iso.datetime().transform(text => new Date(text)),
        page: z.string().default('/'),
      }),
    })
    const message = await roundTrip(Visits, { value: { at: '2026-01-02T03:04:05Z' } })
    expect(message.json()).toEqual({ at: '2026-01-02T03:04:05Z' })
    expect(message.value).toEqual({ at: new Date('2026-01-02T03:04:05Z'), page: '/' })
    expect(message.value).toBe(message.value)
  })

  it('that answers asynchronously is refused with the way out', async () => {
    const Slow = topic('slow', { value: z.string().refine(async () => true) })
    const error = await refusal(Slow, { value: 'x' })
    expect(error.code).toBe('INVALID_ARGUMENT')
    expect(error.message).toMatch(/asynchronous/)
  })

  it('of zod is not mistaken for a codec', async () => {
    expect(typeof z.string().encode).toBe('function') // it has methods of these names
    expect((await roundTrip(topic('t', { value: z.string() }), { value: 'x' })).text()).toBe('"x"')
  })
})

describe('tombstones', () => {
  it('are part of a topic that says so', async () => {
    const Users = topic('users', { value: z.object({ name: z.string() }), tombstones: true })
    const message = await roundTrip(Users, { key: 'ann', value: null })
    expect([message.value, message.valueBytes]).toEqual([null, null])
  })

  it('are refused by others, on both sides', async () => {
    const Users = topic('users', { value: z.object({ name: z.string() }) })
    expect(await refusal(Users, { key: 'ann', value: null })).toMatchObject({ code: 'SCHEMA_MISMATCH' })
    await using mq = new Sluice(new FakeEngine())
    await mq.publish('users', { key: 'ann', value: null })
    for await (const message of mq.consumer({ topics: [Users] })) {
      expect(() => message.value).toThrow(/tombstones: true/)
      break
    }
  })
})

describe('a descriptor', () => {
  it('says what is wrong with it', () => {
    expect(() => topic(1 as never)).toThrow(/name of a topic is a string/)
    expect(() => topic('t', { partitions: 0 })).toThrow(/from 1 on, not 0/)
    expect(() => topic('t', { value: {} as never })).toThrow(/a Standard Schema or a codec/)
  })

  it('creates its topic on first use', async () => {
    const engine = new FakeEngine()
    await using mq = new Sluice(engine)
    await mq.publish(topic('t', { partitions: 3, config: { 'retention.ms': 1_000, 'x.y': true } }), {
      value: 'x',
    })
    const { partitions, config } = await mq.describeTopic('t')
    expect(partitions).toHaveLength(3)
    expect(config).toMatchObject([
      { name: 'retention.ms', value: '1000' },
      { name: 'x.y', value: 'true' },
    ])
  })

  it('takes a topic that exists as it is', async () => {
    await using mq = new Sluice(new FakeEngine())
    await mq.createTopic('t', { partitions: 2 })
    await mq.publish(topic('t', { partitions: 3 }), { value: 'x' })
    expect((await mq.describeTopic('t')).partitions).toHaveLength(2)
  })
})
