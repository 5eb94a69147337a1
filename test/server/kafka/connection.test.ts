/** A connection: order of answers, bounds, and what hostile input does to its sender and to nobody else. */

import { connect } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { apis } from '../../../src/wire/kafka/apis.ts'
import { batchOf, encode, fetchOf, produceOf, RawServer, until } from './raw-client.ts'

const versions = { clientSoftwareName: 'raw', clientSoftwareVersion: '1.0' }

describe('ApiVersions', () => {
  test.each([0, 1, 2, 3, 4])('version %i lists what is served', async version => {
    await using server = await RawServer.start()
    const client = await server.client()
    const { errorCode, apiKeys } = await client.request('ApiVersions', version, versions)
    expect(errorCode).toBe(0)
    expect(apiKeys).toContainEqual({ apiKey: 0, minVersion: 0, maxVersion: apis.Produce.served.max })
    expect(apiKeys).toContainEqual({ apiKey: 1, minVersion: 4, maxVersion: apis.Fetch.served.max })
    expect(apiKeys).toContainEqual({ apiKey: 18, minVersion: 0, maxVersion: 4 })
  })

  test('an unknown version is answered in version 0 with error 35 and the table, and the connection goes on', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    const frame = encode('ApiVersions', 4, 7, versions)
    frame.writeInt16BE(99, 6)
    client.socket.write(frame)
    const { errorCode, apiKeys } = await client.answer('ApiVersions', 0, 7)
    expect(errorCode).toBe(35)
    expect(apiKeys).toContainEqual({ apiKey: 18, minVersion: 0, maxVersion: 4 })
    expect((await client.request('ApiVersions', 3, versions)).errorCode).toBe(0)
  })

  test('a client software name that could break a log line is refused', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    const answer = await client.request('ApiVersions', 3, { ...versions, clientSoftwareName: 'a\nb' })
    expect(answer).toMatchObject({ errorCode: 42, apiKeys: [] })
  })
})

describe('order', () => {
  test('requests sent at once are answered in their order, produced in their order', async () => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    const client = await server.client()
    const ids = Array.from({ length: 200 }, (_, index) =>
      client.send('Produce', 9, produceOf('t', batchOf([`${index}`]))),
    )
    for (const [index, id] of ids.entries()) {
      const answer = await client.answer('Produce', 9, id)
      expect(answer.responses[0].partitionResponses[0]).toMatchObject({ errorCode: 0, baseOffset: index })
    }
    expect(topic.partitions[0].highWatermark).toBe(200)
  })

  test('a request behind a long poll sees what came before it, and waits', async () => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    const client = await server.client()
    const poll = client.send(
      'Fetch',
      11,
      fetchOf('t', [{ partition: 0, fetchOffset: 0 }], { maxWaitMs: 60_000 }),
    )
    const metadata = client.send('Metadata', 9, { topics: [] })
    await server.started('Fetch', 1)
    const other = await server.client()
    await other.request('ApiVersions', 3, versions)
    expect(client.answers).toBe(0)
    expect(server.kafka.counters.requests.has('Metadata')).toBe(false)
    topic.partitions[0].append(batchOf(['x']), undefined, false)
    expect((await client.answer('Fetch', 11, poll)).responses[0].partitions[0].highWatermark).toBe(1)
    expect((await client.answer('Metadata', 9, metadata)).topics).toEqual([])
  })

  test('a frame that comes byte by byte is a frame', async () => {
    await using server = await RawServer.start()
    const client = await server.client()
    for (const byte of encode('ApiVersions', 3, 1, versions)) client.socket.write(Buffer.from([byte]))
    expect((await client.answer('ApiVersions', 3, 1)).errorCode).toBe(0)
  })
})

describe('hostile input ends its connection and no other', () => {
  const int32 = (value: number) => {
    const bytes = Buffer.alloc(4)
    bytes.writeInt32BE(value)
    return bytes
  }
  const withApi = (key: number, version: number) => {
    const frame = encode('ApiVersions', 0, 1, versions)
    frame.writeInt16BE(key, 4)
    frame.writeInt16BE(version, 6)
    return frame
  }
  const truncated = encode('Metadata', 9, 1, { topics: [{ name: 'topic' }] }).subarray(0, -3)
  truncated.writeInt32BE(truncated.length - 4, 0)

  test.each<[string, Buffer, RegExp]>([
    ['a size of 2 GB', int32(0x7fffffff), /a size of 2147483647 bytes/],
    ['a negative size', int32(-1), /a size of -1 bytes/],
    ['no size', int32(0), /a size of 0 bytes/],
    ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\n\r\n'), /a size of/],
    ['less than a header', Buffer.concat([int32(3), Buffer.alloc(3)]), /malformed request header/],
    ['an API that is not there', withApi(9999, 0), /there is no API 9999/],
    ['a negative API', withApi(-1, 0), /there is no API -1/],
    ['a version that is not there', withApi(3, 99), /Metadata has no version 99/],
    ['a negative version', withApi(3, -1), /Metadata has no version -1/],
    ['a body that ends early', truncated, /malformed MetadataRequest/],
  ])('%s', async (_, bytes, message) => {
    await using server = await RawServer.start()
    const other = await server.client()
    const hostile = await server.client()
    hostile.socket.write(bytes)
    await hostile.closed()
    expect(server.logged.join('')).toMatch(message)
    expect((await other.request('ApiVersions', 3, versions)).errorCode).toBe(0)
    expect(server.kafka.counters.connectionsFailed).toBe(1)
  })

  test('any bytes at all', async () => {
    await using server = await RawServer.start({ connectionsMax: 10_000 })
    const other = await server.client()
    const keys = Object.values(apis).map(api => api.key)
    const request = fc.record({
      key: fc.constantFrom(...keys),
      version: fc.integer({ min: 0, max: 18 }),
      body: fc.uint8Array({ maxLength: 200 }),
    })
    await fc.assert(
      fc.asyncProperty(request, async ({ key, version, body }) => {
        const client = await server.client()
        const head = Buffer.alloc(14)
        head.writeInt32BE(10 + body.length, 0)
        head.writeInt16BE(key, 4)
        head.writeInt16BE(version, 6)
        head.writeInt32BE(1, 8)
        head.writeInt16BE(-1, 12)
        client.socket.end(Buffer.concat([head, body]))
        await client.closed()
        expect((await other.request('ApiVersions', 0, versions)).errorCode).toBe(0)
      }),
      { numRuns: 300 },
    )
    expect(server.logged.filter(line => line.includes('error '))).toEqual([])
  })

  test('half a frame, and silence', async () => {
    await using server = await RawServer.start()
    const other = await server.client()
    const hostile = await server.client()
    hostile.socket.write(Buffer.concat([int32(100 * 1024 * 1024), Buffer.alloc(1000)]))
    await until(() => server.kafka.counters.bytesIn >= 1004)
    expect((await other.request('ApiVersions', 3, versions)).errorCode).toBe(0)
    expect(hostile.isClosed).toBe(false)
    await server.clock.advance(11 * 60_000)
    await hostile.closed()
  })

  test('memory is taken for what has come, not for what was announced', async () => {
    await using server = await RawServer.start()
    const before = process.memoryUsage().arrayBuffers
    const clients = await Promise.all(Array.from({ length: 50 }, () => server.client()))
    for (const client of clients)
      client.socket.write(Buffer.concat([int32(100 * 1024 * 1024), Buffer.alloc(100)]))
    await until(() => server.kafka.counters.bytesIn >= 50 * 104)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(100 * 1024 * 1024)
  })
})

describe('bounds', () => {
  test('too many connections: one more is closed', async () => {
    await using server = await RawServer.start({ connectionsMax: 2 })
    const first = await server.client()
    await server.client()
    const third = await server.client()
    await third.closed()
    expect(server.kafka.connections).toEqual({ open: 2, refused: 1 })
    expect((await first.request('ApiVersions', 3, versions)).errorCode).toBe(0)
  })

  test('a client that does not read its answers is not served further, and others are', async () => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    for (let index = 0; index < 8; index++) {
      topic.partitions[0].append(batchOf(['x'.repeat(1024 * 1024 - 200)]), undefined, false)
    }
    const slow = await server.client()
    slow.socket.pause()
    const wanted = fetchOf('t', [{ partition: 0, fetchOffset: 0, partitionMaxBytes: 64 * 1024 * 1024 }])
    for (let index = 0; index < 12; index++) slow.send('Fetch', 11, wanted)
    await server.started('Fetch', 1)
    const other = await server.client()
    for (let index = 0; index < 20; index++) await other.request('ApiVersions', 3, versions)
    const { requests } = server.kafka.counters.requests.get('Fetch')!
    expect(requests).toBeLessThan(5)
    slow.socket.resume()
    await server.started('Fetch', 12)
  })

  test('requests that are being sent together take only so much memory: the largest goes', async () => {
    const total = 4 * 1024 * 1024
    await using server = await RawServer.start({ requestBytesTotalMax: total })
    const clients = await Promise.all(Array.from({ length: 4 }, () => server.client()))
    const size = Buffer.alloc(4)
    size.writeInt32BE(3 * 1024 * 1024)
    for (const [index, client] of clients.entries()) {
      client.socket.write(Buffer.concat([size, Buffer.alloc(1024 * 1024 + index * 65_536)]))
    }
    await until(() => server.kafka.counters.connectionsShed > 0)
    await until(() => clients.some(client => client.isClosed))
    const survivor = await server.client()
    expect((await survivor.request('ApiVersions', 3, versions)).errorCode).toBe(0)
  })

  test('idle connections are closed, those with a long poll are not', async () => {
    await using server = await RawServer.start()
    await server.topic('t')
    const idle = await server.client()
    const polling = await server.client()
    await idle.request('ApiVersions', 3, versions)
    const id = polling.send(
      'Fetch',
      11,
      fetchOf('t', [{ partition: 0, fetchOffset: 0 }], { maxWaitMs: 700_000 }),
    )
    await server.started('Fetch', 1)
    await server.clock.advance(9 * 60_000)
    await idle.request('ApiVersions', 3, versions)
    await server.clock.advance(90_000)
    expect(idle.isClosed).toBe(false)
    await server.clock.advance(9 * 60_000)
    await idle.closed()
    expect((await polling.answer('Fetch', 11, id)).errorCode).toBe(0)
  })
})

describe('drain', () => {
  test('answers a long poll with where it stands, then closes', async () => {
    await using server = await RawServer.start()
    await server.topic('t')
    const client = await server.client()
    const idle = await server.client()
    const id = client.send(
      'Fetch',
      11,
      fetchOf('t', [{ partition: 0, fetchOffset: 0 }], { maxWaitMs: 60_000 }),
    )
    await server.started('Fetch', 1)
    const drained = server.kafka.drain(10_000)
    expect((await client.answer('Fetch', 11, id)).responses[0].partitions[0].highWatermark).toBe(0)
    expect(await drained).toBe(true)
    await client.closed()
    await idle.closed()
    await expect(RawServer.prototype.client.call(server)).rejects.toThrow('ECONNREFUSED')
  })

  test('a client that takes nothing is cut off at the deadline', async () => {
    await using server = await RawServer.start()
    const topic = await server.topic('t')
    for (let index = 0; index < 32; index++) {
      topic.partitions[0].append(batchOf(['x'.repeat(1024 * 1024 - 200)]), undefined, false)
    }
    const client = await server.client()
    client.socket.pause()
    client.send('Fetch', 11, fetchOf('t', [{ partition: 0, fetchOffset: 0, partitionMaxBytes: 2 ** 30 }]))
    await server.started('Fetch', 1)
    const drained = server.kafka.drain(500)
    await server.clock.advance(500)
    expect(await drained).toBe(false)
    expect(server.logged.join('')).toContain('cut off at the drain deadline')
  })

  test('a client that vanishes ends its long poll', async () => {
    await using server = await RawServer.start()
    await server.topic('t')
    const client = await server.client()
    client.send('Fetch', 11, fetchOf('t', [{ partition: 0, fetchOffset: 0 }], { maxWaitMs: 60_000 }))
    await server.started('Fetch', 1)
    const timers = server.clock.timerCount
    client.close()
    await until(() => server.kafka.connections.open === 0)
    await until(() => server.clock.timerCount < timers)
  })
})

test('where a client is told to connect: where it came to, or what is advertised', async () => {
  await using server = await RawServer.start()
  const client = await server.client()
  expect((await client.request('Metadata', 9, { topics: [] })).brokers).toEqual([
    { nodeId: 1, host: '127.0.0.1', port: server.port, rack: null },
  ])
  await using advertising = await RawServer.start({ advertisedHost: 'queue.example', advertisedPort: 1234 })
  const outside = await advertising.client()
  expect((await outside.request('Metadata', 9, { topics: [] })).brokers).toEqual([
    { nodeId: 1, host: 'queue.example', port: 1234, rack: null },
  ])
})

test('a thousand connections', async () => {
  await using server = await RawServer.start({ connectionsMax: 1100 })
  const sockets = Array.from({ length: 1000 }, () => connect(server.port, '127.0.0.1'))
  await until(() => server.kafka.connections.open === 1000)
  const client = await server.client()
  expect((await client.request('ApiVersions', 3, versions)).errorCode).toBe(0)
  for (const socket of sockets) socket.destroy()
  await until(() => server.kafka.connections.open === 1)
})
