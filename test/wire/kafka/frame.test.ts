/** Headers as the Java client writes them, and frames out of chunks of any size. */

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ByteReader } from '../../../src/lib/bytes.ts'
import { apis } from '../../../src/wire/kafka/apis.ts'
import {
  decodeRequestBody,
  decodeRequestHeader,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  type Frame,
  FrameSplitter,
} from '../../../src/wire/kafka/frame.ts'

const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')
const hexOf = ({ parts }: Frame) => Buffer.concat(parts).toString('hex')
const CORRELATION_ID = 0x01020304

const headerOf8 = '0003 0008 01020304 0006 6f7264657273'
const headerOf12 = '0003 000c 01020304 0006 6f7264657273 00'
const bodyOf12 = '02 00000000000000000000000000000000 06 62696c6c73 00 00 00 00'

describe('request headers', () => {
  it('of legacy versions', () => {
    const reader = new ByteReader(bytes(headerOf8))
    expect(decodeRequestHeader(reader)).toEqual({
      apiKey: 3,
      apiVersion: 8,
      correlationId: CORRELATION_ID,
      clientId: 'orders',
    })
    expect(reader.left).toBe(0)
  })

  it('without a client id', () => {
    expect(decodeRequestHeader(new ByteReader(bytes('0003 0008 01020304 ffff'))).clientId).toBeNull()
  })

  it('of flexible versions, with tagged fields that nobody knows', () => {
    for (const tags of ['00', '02 00 01 ff 07 00']) {
      const reader = new ByteReader(bytes(`${headerOf12.slice(0, -2)} ${tags} ${bodyOf12}`))
      const { apiVersion } = decodeRequestHeader(reader)
      expect(decodeRequestBody(apis.Metadata, apiVersion, reader).topics?.[0].name).toBe('bills')
      expect(reader.left).toBe(0)
    }
  })

  it('cut off are refused', () => {
    const whole = bytes(headerOf8)
    for (let length = 0; length < whole.length; length++) {
      const refuse = () => decodeRequestHeader(new ByteReader(whole.subarray(0, length)))
      expect(refuse).toThrow('malformed request header')
    }
  })

  it('of a version of ApiVersions that is not known tell whom to answer', () => {
    const header = decodeRequestHeader(new ByteReader(bytes('0012 0063 01020304 0001 63 00 ffff')))
    expect(header).toMatchObject({ apiKey: 18, apiVersion: 99, correlationId: CORRELATION_ID })
  })

  it('are written as they are read', () => {
    const body = {
      topics: [{ name: 'bills' }],
      allowAutoTopicCreation: false,
    }
    const frame = encodeRequest(apis.Metadata, 12, CORRELATION_ID, 'orders', body)
    const content = bytes(headerOf12 + bodyOf12)
    expect(hexOf(frame)).toBe(
      bytes(`000000${content.length.toString(16)}`).toString('hex') + content.toString('hex'),
    )
    expect(frame.bytes).toBe(content.length + 4)
    const legacy = encodeRequest(apis.Metadata, 8, CORRELATION_ID, null, { topics: null })
    expect(hexOf(legacy)).toBe(`00000011${'0003000801020304ffff'}${'ffffffff010000'}`)
  })
})

describe('responses', () => {
  it.each([
    [3, '0000000a 01020304 00000000 001b'],
    [4, '0000000c 01020304 00 00000000 001b 00'],
  ])('Heartbeat %i has the header of its version', (version, frame) => {
    const encoded = encodeResponse(apis.Heartbeat, version, CORRELATION_ID, { errorCode: 27 })
    expect(hexOf(encoded)).toBe(bytes(frame).toString('hex'))
    expect(decodeResponse(apis.Heartbeat, version, bytes(frame).subarray(4))).toEqual({
      correlationId: CORRELATION_ID,
      body: { throttleTimeMs: 0, errorCode: 27 },
    })
  })

  it('of ApiVersions have the header of version 0 always', () => {
    const apiKeys = [{ apiKey: 18, minVersion: 0, maxVersion: 4 }]
    const frame = encodeResponse(apis.ApiVersions, 3, CORRELATION_ID, { errorCode: 0, apiKeys })
    expect(hexOf(frame)).toBe(
      bytes('00000013 01020304 0000 02 0012 0000 0004 00 00000000 00').toString('hex'),
    )
    const content = Buffer.concat(frame.parts).subarray(4)
    expect(decodeResponse(apis.ApiVersions, 3, content).body.apiKeys).toEqual(apiKeys)
  })

  it('have their size in front, also when they take several parts', () => {
    const records = Buffer.alloc(100_000, 1)
    const partitions = Array.from({ length: 5000 }, (_, partitionIndex) => ({
      partitionIndex,
      errorCode: 0,
      highWatermark: partitionIndex,
      records: partitionIndex % 1000 === 0 ? records : null,
    }))
    const frame = encodeResponse(apis.Fetch, 12, 1, { responses: [{ topic: 't', partitions }] })
    const content = Buffer.concat(frame.parts)
    expect(content.length).toBe(frame.bytes)
    expect(content.readInt32BE()).toBe(content.length - 4)
    const { body } = decodeResponse(apis.Fetch, 12, content.subarray(4))
    expect(body.responses[0].partitions).toHaveLength(5000)
  })

  it('do not overwrite each other', () => {
    const frames = Array.from({ length: 3000 }, (_, id) => {
      return encodeResponse(apis.SyncGroup, 0, id, { errorCode: 0, assignment: Buffer.alloc(id % 700, id) })
    })
    for (const [id, { parts }] of frames.entries()) {
      const { correlationId, body } = decodeResponse(apis.SyncGroup, 0, Buffer.concat(parts).subarray(4))
      expect(correlationId).toBe(id)
      expect(body.assignment).toEqual(Buffer.alloc(id % 700, id))
    }
  })
})

describe('FrameSplitter', () => {
  const framed = (content: Uint8Array) => {
    const size = Buffer.alloc(4)
    size.writeInt32BE(content.length)
    return Buffer.concat([size, content])
  }

  function split(splitter: FrameSplitter, chunks: readonly Buffer[]): Buffer[] {
    const frames: Buffer[] = []
    for (const chunk of chunks) {
      splitter.push(chunk)
      for (let frame = splitter.next(); frame !== null; frame = splitter.next()) frames.push(frame)
    }
    return frames
  }

  it('gives the same frames however the bytes are cut', () => {
    const contents = fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 }), { maxLength: 8 })
    const cuts = fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 10 })
    const property = fc.property(contents, cuts, (contents, lengths) => {
      const stream = Buffer.concat(contents.map(framed))
      const chunks: Buffer[] = []
      for (let at = 0, turn = 0; at < stream.length; turn++) {
        const length = lengths[turn % lengths.length]
        chunks.push(stream.subarray(at, at + length))
        at += length
      }
      const frames = split(new FrameSplitter(), chunks)
      expect(frames.map(frame => [...frame])).toEqual(contents.map(content => [...content]))
    })
    fc.assert(property, { numRuns: 500 })
  })

  it('does not copy a frame that came in one chunk', () => {
    const chunk = Buffer.concat([framed(Buffer.alloc(10, 1)), framed(Buffer.alloc(20, 2))])
    for (const frame of split(new FrameSplitter(), [chunk])) expect(frame.buffer).toBe(chunk.buffer)
  })

  it('puts a large frame together', () => {
    const content = Buffer.alloc(5_000_000, 'large')
    const stream = framed(content)
    const chunks = Array.from({ length: 77 }, (_, at) => stream.subarray(at * 65_000, (at + 1) * 65_000))
    const [frame] = split(new FrameSplitter(), chunks)
    expect(frame.equals(content)).toBe(true)
  })

  it.each(['7fffffff', 'ffffffff', '00000000', '000003e9'])('refuses a size of %s at once', size => {
    const splitter = new FrameSplitter(1000)
    expect(() => split(splitter, [bytes(size)])).toThrow('between 1 and 1000 may be')
    expect(split(new FrameSplitter(1000), [bytes('000003e8')])).toEqual([])
  })

  it('holds what came of a frame, not what was announced', () => {
    const splitter = new FrameSplitter()
    const before = process.memoryUsage().arrayBuffers
    split(splitter, [bytes('05f5e100'), Buffer.alloc(100)])
    expect(splitter.pendingBytes).toBe(100)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(3_000_000)
  })
})
