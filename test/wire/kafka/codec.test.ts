/**
 * Every version of every message: against bytes that the Java client wrote, there and back, cut off, damaged.
 *
 * golden.txt has lines for each message and version: name, version, the bytes that kafka-clients 4.3.1 writes (3.9.1 for
 * versions that it no longer has), and the fields as JSON. There are as many as it takes to see each field that can be null
 * both ways, and each tagged field sent and left out.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isSluiceError } from '../../../src/errors.ts'
import { ByteReader, ByteWriter, ELEMENTS_MAX } from '../../../src/lib/bytes.ts'
import { apis } from '../../../src/wire/kafka/apis.ts'
import { decode, encode } from '../../../src/wire/kafka/codec.ts'
import type { Decoded, Encodable, Fields, Message } from '../../../src/wire/kafka/schema.ts'
import { arbitraryMessage, messages, versionsOf } from './messages.ts'

const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')

function encoded<F extends Fields>(message: Message<F>, version: number, value: Encodable<F>): Buffer {
  const writer = new ByteWriter()
  encode(message, version, writer, value)
  return Buffer.concat(writer.finish().parts)
}

/** Decodes, and expects nothing to be left. */
function decoded<F extends Fields>(message: Message<F>, version: number, content: Buffer): Decoded<F> {
  const reader = new ByteReader(content)
  const value = decode(message, version, reader)
  expect(reader.left).toBe(0)
  return value
}

/** What a decoder makes of any bytes: a value or the one refusal. Anything else fails the test. */
function survives(message: Message, version: number, content: Buffer): boolean {
  try {
    decode(message, version, new ByteReader(content))
    return true
  } catch (error) {
    if (!isSluiceError(error, 'MALFORMED_REQUEST')) throw error
    return false
  }
}

interface Golden {
  readonly message: Message
  readonly version: number
  readonly bytes: Buffer
  readonly value: Record<string, unknown>
}

const byName = new Map(messages.map(message => [message.name, message]))
const golden = readFileSync(join(import.meta.dirname, 'golden.txt'), 'utf8')
  .trimEnd()
  .split('\n')
  .map(parseGolden)

function parseGolden(line: string): Golden {
  const [name, version, hex] = line.split(' ', 3)
  const json = line.slice(name.length + version.length + hex.length + 3)
  const value = JSON.parse(json, (_, field) => {
    return typeof field?.hex === 'string' ? Buffer.from(field.hex, 'hex') : field
  })
  return { message: byName.get(name)!, version: Number(version), bytes: bytes(hex), value }
}

describe('bytes of the Java client', () => {
  it('are there for every message and version', () => {
    const there = new Set(golden.map(({ message, version }) => `${message.name} ${version}`))
    const all = messages.flatMap(message => versionsOf(message).map(version => `${message.name} ${version}`))
    expect([...there]).toEqual(all)
  })

  it.each(messages)('$name: decode to the same fields, and are written the same', message => {
    const lines = golden.filter(one => one.message === message)
    for (const { version, bytes, value } of lines) {
      expect(decoded(message, version, bytes)).toMatchObject(value)
      expect(encoded(message, version, value).toString('hex')).toBe(bytes.toString('hex'))
    }
  })
})

describe('every version of every message', () => {
  it.each(messages)('$name: comes back as it was', message => {
    for (const version of versionsOf(message)) {
      const property = fc.property(arbitraryMessage(message, version), value => {
        expect(decoded(message, version, encoded(message, version, value))).toEqual(value)
      })
      fc.assert(property, { numRuns: 15 })
    }
  })

  it.each(messages)('$name: is refused when cut off anywhere', message => {
    for (const { version, bytes } of golden.filter(one => one.message === message)) {
      for (let length = 0; length < bytes.length; length++) {
        expect(survives(message, version, bytes.subarray(0, length))).toBe(false)
      }
    }
  })

  it.each(messages)('$name: survives any damage', message => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff)), {
      minLength: 1,
      maxLength: 4,
    })
    for (const { version, bytes } of golden.filter(one => one.message === message)) {
      const property = fc.property(damage, changes => {
        const content = Buffer.from(bytes)
        if (content.length === 0) return
        for (const [at, byte] of changes) content[at % content.length] = byte
        survives(message, version, content)
      })
      fc.assert(property, { numRuns: 40 })
    }
  })

  it('survives any bytes', () => {
    const anything = fc.tuple(fc.constantFrom(...golden), fc.uint8Array({ maxLength: 200 }))
    const property = fc.property(anything, ([{ message, version }, content]) => {
      survives(message, version, Buffer.from(content))
    })
    fc.assert(property, { numRuns: 20_000 })
  })
})

describe('lengths and counts that lie', () => {
  const huge = ['7fffffff', 'ffffffff', '80000000']

  it.each(huge)('a legacy count of %s elements is refused before anything is allocated', count => {
    const refuse = () => decode(apis.Metadata.request, 3, new ByteReader(bytes(`${count}00`)))
    if (count === '7fffffff') expect(refuse).toThrow('room for fewer than the 2147483647 elements')
    else expect(refuse()).toEqual({ ...refuse(), topics: null })
  })

  it('a compact count is', () => {
    const refuse = () => decode(apis.Metadata.request, 12, new ByteReader(bytes('ffffffff0f 00')))
    expect(refuse).toThrow('room for fewer than the 4294967294 elements')
  })

  it('a varint that does not end is', () => {
    const refuse = () => decode(apis.Metadata.request, 12, new ByteReader(bytes('ffffffffff 01')))
    expect(refuse).toThrow('varint of more than 32 bits')
  })

  it('a length of records is', () => {
    const request = '0001 00000005 00000001 000174 00000001 00000000'
    const refuse = (length: string) => () =>
      decode(apis.Produce.request, 0, new ByteReader(bytes(`${request} ${length} 00`)))
    expect(refuse('7fffffff')).toThrow('records takes 2147483647 bytes, 1 are left')
    expect(refuse('ffffffff')().topicData[0].partitionData[0].records).toBeNull()
  })

  it('more elements than a request may have are, however many bytes it has', () => {
    const content = Buffer.alloc(4 + 4 * (ELEMENTS_MAX + 1))
    content.writeInt32BE(ELEMENTS_MAX + 1)
    const refuse = () => decode(apis.DescribeGroups.request, 0, new ByteReader(content))
    expect(refuse).toThrow('more elements than one request may have')
  })

  it('null where nothing may be null is', () => {
    expect(() => decode(apis.Heartbeat.request, 0, new ByteReader(bytes('ffff')))).toThrow('groupId is null')
    expect(() => decode(apis.Heartbeat.request, 4, new ByteReader(bytes('00')))).toThrow('groupId is null')
    expect(() => decode(apis.DescribeGroups.request, 0, new ByteReader(bytes('ffffffff')))).toThrow(
      'groups is null',
    )
    expect(() => decode(apis.SaslAuthenticate.request, 2, new ByteReader(bytes('00')))).toThrow(
      'authBytes is null',
    )
  })

  it('a string of more than 32767 bytes is', () => {
    const refuse = () =>
      decode(
        apis.Heartbeat.request,
        4,
        new ByteReader(Buffer.concat([bytes('818002'), Buffer.alloc(40_000)])),
      )
    expect(refuse).toThrow('string of 32768 bytes')
  })
})

describe('tagged fields', () => {
  const heartbeat = { throttleTimeMs: 0, errorCode: 27 }

  it('that nobody knows are skipped', () => {
    const content = bytes('00000000 001b 02  05 03 aabbcc  ff01 00')
    expect(decoded(apis.Heartbeat.response, 4, content)).toEqual(heartbeat)
  })

  it('that nobody knows are skipped within the elements of an array and beside known ones', () => {
    const value = {
      errorCode: 0,
      apiKeys: [{ apiKey: 18, minVersion: 0, maxVersion: 4 }],
      finalizedFeaturesEpoch: 7,
    }
    const plain = encoded(apis.ApiVersions.response, 3, value)
    expect(plain.toString('hex')).toBe('000002001200000004000000000001010800000000000000' + '07')
    const content = bytes(
      '0000 02 0012 0000 0004 01 09 02 ffff  00000000  02 01 08 0000000000000007 63 01 00',
    )
    expect(decoded(apis.ApiVersions.response, 3, content)).toMatchObject(value)
  })

  it('cannot reach beyond the message', () => {
    const refuse = (tags: string) => () => decoded(apis.Heartbeat.response, 4, bytes(`00000000 001b ${tags}`))
    expect(refuse('01 05 04 aabbcc')).toThrow('tagged fields takes 4 bytes, 3 are left')
    expect(refuse('ffffffff0f 00')).toThrow('room for fewer')
  })

  it('must be as long as they say', () => {
    const refuse = (tags: string) => () =>
      decoded(apis.ApiVersions.response, 3, bytes(`0000 01 00000000 ${tags}`))
    expect(refuse('01 01 08 0000000000000007')()).toMatchObject({ finalizedFeaturesEpoch: 7 })
    expect(refuse('01 01 09 000000000000000700')).toThrow('finalizedFeaturesEpoch has 1 bytes too many')
    expect(refuse('01 01 07 0000000000000007')).toThrow('takes 8 bytes, 7 are left')
  })

  it('at their default are not sent', () => {
    const value = {
      errorCode: 0,
      apiKeys: [],
      supportedFeatures: [],
      finalizedFeaturesEpoch: -1,
      zkMigrationReady: false,
    }
    expect(encoded(apis.ApiVersions.response, 3, value)).toEqual(bytes('0000 01 00000000 00'))
  })

  it('longer than the memory they are first written to are sent whole', () => {
    const nodeEndpoints = Array.from({ length: 100 }, (_, nodeId) => ({
      nodeId,
      host: 'h'.repeat(nodeId * 3),
      port: 9092,
      rack: null,
    }))
    const content = encoded(apis.Fetch.response, 16, { responses: [], nodeEndpoints })
    expect(decoded(apis.Fetch.response, 16, content).nodeEndpoints).toEqual(nodeEndpoints)
  })
})

describe('values', () => {
  it('that a version does not have are at their default', () => {
    const request = decoded(apis.Metadata.request, 0, bytes('00000000'))
    expect(request.allowAutoTopicCreation).toBe(true)
    expect(decoded(apis.JoinGroup.request, 0, bytes('0001 67 00000001 0000 0001 63 00000000'))).toMatchObject(
      {
        rebalanceTimeoutMs: -1,
        groupInstanceId: null,
      },
    )
  })

  it('that are null where the version cannot say so are sent empty', () => {
    // all topics: an empty list in version 0
    expect(encoded(apis.Metadata.request, 0, { topics: null })).toEqual(bytes('00000000'))
    expect(encoded(apis.Metadata.request, 1, { topics: null })).toEqual(bytes('ffffffff'))
    const joined = { errorCode: 0, protocolName: null, leader: '', memberId: '', members: [] }
    const generation = 'ffffffff'
    expect(encoded(apis.JoinGroup.response, 0, joined)).toEqual(
      bytes(`0000 ${generation} 0000 0000 0000 00000000`),
    )
  })

  it('beyond what is exact are read as the bound', () => {
    const timestamp = (hex: string) => {
      const content = bytes(`ffffffff 00000001 000174 00000001 00000000 ${hex}`)
      return decoded(apis.ListOffsets.request, 1, content).topics[0].partitions[0].timestamp
    }
    expect(timestamp('7fffffffffffffff')).toBe(Number.MAX_SAFE_INTEGER)
    expect(timestamp('8000000000000000')).toBe(Number.MIN_SAFE_INTEGER)
    expect(timestamp('ffe0000000000000')).toBe(Number.MIN_SAFE_INTEGER)
    expect(timestamp('fffffffffffffffe')).toBe(-2)
  })

  it('that do not fit are a defect of whoever encodes', () => {
    const heartbeat = (errorCode: unknown) => () =>
      encoded(apis.Heartbeat.response, 0, { errorCode } as never)
    expect(heartbeat(40_000)).toThrow('HeartbeatResponse: errorCode is to be an int16')
    expect(heartbeat(undefined)).toThrow('errorCode is to be an int16')
    expect(heartbeat('7')).toThrow('errorCode is to be an int16')
    const group = (groupId: unknown) => () =>
      encoded(apis.Heartbeat.request, 0, { groupId, generationId: 0, memberId: '' } as never)
    expect(group(null)).toThrow('groupId is to be a string')
    expect(() => encode(apis.Heartbeat.request, 5, new ByteWriter(), {} as never)).toThrow('has no version 5')
  })
})

describe('records', () => {
  it('of a request are a view of it', () => {
    const batch = Buffer.alloc(5000, 7)
    const partitionData = [{ index: 0, records: batch }]
    const content = encoded(apis.Produce.request, 9, {
      acks: -1,
      timeoutMs: 5,
      topicData: [{ name: 't', partitionData }],
    })
    const { records } = decoded(apis.Produce.request, 9, content).topicData[0].partitionData[0]
    expect(records).toEqual(batch)
    expect(records?.buffer).toBe(content.buffer)
  })

  it.each([4, 12, 18])('of a response are sent as they lie in memory: version %i', version => {
    const pieces = [Buffer.alloc(3000, 1), Buffer.alloc(4000, 2), Buffer.alloc(10, 3)]
    const partitions = [
      { partitionIndex: 0, errorCode: 0, highWatermark: 9, records: pieces },
      { partitionIndex: 1, errorCode: 0, highWatermark: 9, records: null },
      { partitionIndex: 2, errorCode: 0, highWatermark: 9, records: pieces[1] },
    ]
    const writer = new ByteWriter()
    encode(apis.Fetch.response, version, writer, { responses: [{ topic: 't', partitions }] })
    const { parts, bytes: total } = writer.finish()
    expect(parts.filter(part => pieces.some(piece => piece === part))).toEqual([
      pieces[0],
      pieces[1],
      pieces[1],
    ])
    const content = Buffer.concat(parts)
    expect(content.length).toBe(total)
    const [first, second, third] = decoded(apis.Fetch.response, version, content).responses[0].partitions
    expect(first.records).toEqual(Buffer.concat(pieces))
    expect(second.records).toBeNull()
    expect(third.records).toEqual(pieces[1])
  })
})
