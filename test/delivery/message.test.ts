import { inspect } from 'node:util'
import { describe, expect, it } from 'vitest'
import { json } from '../../src/delivery/codec.ts'
import { Message, MessageBatch } from '../../src/delivery/message.ts'
import { topic } from '../../src/delivery/topic.ts'
import { patchOffset } from '../../src/record/batch.ts'
import { BatchBuilder, type CloseOptions, type Header } from '../../src/record/builder.ts'
import { RecordCursor } from '../../src/record/cursor.ts'

type Content = Uint8Array | string | null
interface Record {
  key?: Content
  value?: Content
  headers?: Header[]
  timestamp?: number
}

function batchOf(baseOffset: number, records: Record[], options?: CloseOptions): Buffer {
  const builder = new BatchBuilder()
  for (const { timestamp = 1_000, key = null, value = '', headers } of records) {
    builder.append(timestamp, key, value, headers ?? null)
  }
  const batch = Buffer.from(builder.close(options))
  patchOffset(batch, 0, baseOffset, 0)
  return batch
}

const plain = { topic: topic('t'), partition: 3 }

function messageOf(record: Record): Message {
  const cursor = new RecordCursor(batchOf(7, [record]))
  cursor.next()
  return new Message(plain, cursor)
}

describe('a message', () => {
  it('knows where it comes from', () => {
    const message = messageOf({ timestamp: 5_000, key: 'k', value: 'v' })
    expect(message).toMatchObject({ topic: 't', partition: 3, offset: 7, timestamp: 5_000, key: 'k' })
    expect(message.keyBytes).toEqual(Buffer.from('k'))
    expect(message.valueBytes).toEqual(Buffer.from('v'))
  })

  it('gives its value as text and as JSON', () => {
    expect(messageOf({ value: 'grüße' }).text()).toBe('grüße')
    expect(messageOf({ value: '{"a":1}' }).json<{ a: number }>().a).toBe(1)
    expect(messageOf({ value: null }).json()).toBeNull()
    expect(() => messageOf({ value: '{' }).json()).toThrow(expect.objectContaining({ code: 'CODEC_FAILED' }))
  })

  it('gives headers by name, as text, and all of them', () => {
    const headers: Header[] = [
      ['trace', 'abc'],
      ['raw', new Uint8Array([255])],
      ['none', null],
      ['trace', 'last'],
      ['__proto__', 'harmless'],
    ]
    const message = messageOf({ headers })
    expect(message.headers.trace).toEqual(Buffer.from('last'))
    expect(message.header('trace')).toBe('last')
    expect(message.header('none')).toBeNull()
    expect(message.header('missing')).toBeUndefined()
    expect(message.header('toString')).toBeUndefined()
    expect(message.header('__proto__')).toBe('harmless')
    expect(message.headerList().map(([name]) => name)).toEqual(['trace', 'raw', 'none', 'trace', '__proto__'])
    expect(messageOf({}).header('x')).toBeUndefined()
  })

  it('prints as what it holds', () => {
    const message = messageOf({ timestamp: 0, key: 'k', value: new Uint8Array([255]), headers: [['h', 'x']] })
    expect(JSON.parse(JSON.stringify(message))).toEqual({
      topic: 't',
      partition: 3,
      offset: 7,
      timestamp: 0,
      key: 'k',
      value: { base64: '/w==' },
      headers: { h: 'x' },
    })
    expect(inspect(messageOf({ value: 'hello' }), { breakLength: 200 })).toMatch(
      /^Message \{ topic: 't', .*value: 'hello'/,
    )
    const broken = { topic: topic('t', { value: json() }), partition: 0 }
    const [unreadable] = new MessageBatch(broken, batchOf(0, [{ value: 'not JSON' }]), 0).messages()
    expect(inspect(unreadable)).toContain("value: 'not JSON'")
  })
})

describe('a batch of messages', () => {
  const letters = (text: string): Record[] => [...text].map(value => ({ value }))
  const texts = (batch: MessageBatch): string => [...batch].map(message => message.text()).join('')

  it('counts and iterates over several record batches', () => {
    const bytes = Buffer.concat([
      batchOf(10, letters('abc')),
      batchOf(13, letters('de'), { compression: 'gzip' }),
    ])
    const batch = new MessageBatch(plain, bytes, 10)
    expect(batch).toMatchObject({
      topic: 't',
      partition: 3,
      firstOffset: 10,
      lastOffset: 14,
      count: 5,
      bytes: bytes.length,
    })
    expect(texts(batch)).toBe('abcde')
    expect(texts(batch)).toBe('abcde')
    expect(batch.messages().map(({ offset }) => offset)).toEqual([10, 11, 12, 13, 14])
    expect(inspect(batch)).toBe('MessageBatch { t/3, offsets 10..14, 5 messages }')
  })

  it('leaves out what lies before the position', () => {
    const bytes = Buffer.concat([batchOf(10, letters('abc')), batchOf(13, letters('de'))])
    const batch = new MessageBatch(plain, bytes, 12)
    expect(batch).toMatchObject({ firstOffset: 12, lastOffset: 14, count: 3 })
    expect(texts(batch)).toBe('cde')
    expect(batch.messages()).toHaveLength(3)
  })

  it('passes over control batches', () => {
    const bytes = Buffer.concat([
      batchOf(0, letters('a')),
      batchOf(1, letters('x'), { control: true, transactional: true }),
      batchOf(2, letters('b')),
    ])
    const batch = new MessageBatch(plain, bytes, 0)
    expect([batch.count, batch.lastOffset, texts(batch)]).toEqual([2, 2, 'ab'])
  })

  it('counts right where compaction has left gaps', () => {
    // records with offset deltas 0 and 1, in a batch that once ended at delta 9
    const bytes = batchOf(100, letters('ab'))
    bytes.writeInt32BE(9, 23)
    const batch = new MessageBatch(plain, bytes, 101)
    expect([batch.count, batch.lastOffset, texts(batch)]).toEqual([1, 109, 'b'])
  })

  it('refuses what is not a record batch', () => {
    const bytes = batchOf(0, letters('abc'))
    const invalid = expect.objectContaining({ code: 'INVALID_RECORD' })
    expect(() => new MessageBatch(plain, bytes.subarray(0, -1), 0)).toThrow(invalid)
    expect(() => new MessageBatch(plain, bytes.subarray(0, 30), 0)).toThrow(invalid)
    expect(() => new MessageBatch(plain, Buffer.alloc(100), 0)).toThrow(invalid)
  })
})
