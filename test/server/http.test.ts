import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { describe, expect, test } from 'vitest'
import { refusal, TestServer } from './running-server.ts'

/** Sends bytes over a socket of its own and gives everything that comes back until the server closes. */
async function exchange(port: number, request: string): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  socket.write(request)
  return text(socket)
}

describe('publish', () => {
  test('a message comes back from consume as it was published', async () => {
    await using server = await TestServer.start()
    const message = { key: 'ann', value: { total: 12 }, headers: { trace: 't1' } }
    expect(await server.post('/publish?topic=orders', message)).toEqual({
      status: 200,
      json: { topic: 'orders', partition: 0, offset: 0 },
    })
    expect(await server.get('/consume?topic=orders')).toEqual({
      status: 200,
      json: {
        messages: [{ topic: 'orders', partition: 0, offset: 0, timestamp: expect.any(Number), ...message }],
        next: { 0: 1 },
        end: { 0: 1 },
      },
    })
  })

  test('an array is answered in its order, wherever the messages went', async () => {
    await using server = await TestServer.start()
    await server.post('/topic?topic=t&partitions=3')
    const messages = [
      { value: 'a', partition: 2 },
      { value: 'b', partition: 0 },
      { value: 'c', partition: 2 },
    ]
    expect((await server.post('/publish?topic=t', messages)).json).toEqual([
      { topic: 't', partition: 2, offset: 0 },
      { topic: 't', partition: 0, offset: 0 },
      { topic: 't', partition: 2, offset: 1 },
    ])
    expect((await server.post('/publish?topic=t', [])).json).toEqual([])
  })

  test('when some of an array are refused, the answer says which', async () => {
    await using server = await TestServer.start()
    await server.post('/topic?topic=t', { config: { 'max.message.bytes': '1000' } })
    const answer = await server.post('/publish?topic=t', [
      { value: 'a' },
      { value: 'x'.repeat(2000) },
      { value: 'b' },
    ])
    expect(answer).toMatchObject({
      status: 413,
      json: {
        error: {
          code: 'MESSAGE_TOO_LARGE',
          detail: {
            acceptedCount: 2,
            results: [
              { topic: 't', partition: 0, offset: 0 },
              { error: { code: 'MESSAGE_TOO_LARGE' } },
              { topic: 't', partition: 0, offset: 1 },
            ],
          },
        },
      },
    })
  })

  test('bytes, numbers and null are stored as the documentation says', async () => {
    await using server = await TestServer.start()
    await server.post('/publish?topic=t', [
      { key: { base64: '/w==' }, value: { base64: '/3s=' } },
      { key: 7, value: 12 },
      { value: null },
      { value: 'text', headers: { raw: { base64: 'gA==' }, twice: ['1', '2'] } },
    ])
    const { json } = await server.get('/consume?topic=t')
    expect(json).toMatchObject({
      messages: [
        { key: { base64: '/w==' }, value: { base64: '/3s=' } },
        { key: '7', value: '12' },
        { key: null, value: null },
        { value: 'text', headers: { raw: { base64: 'gA==' }, twice: ['1', '2'] } },
      ],
    })
  })

  test.each([
    ['/publish', { value: 1 }, refusal(400, 'INVALID_ARGUMENT', /^topic is missing$/)],
    [
      '/publish?topic=t&partion=1',
      { value: 1 },
      refusal(400, 'INVALID_ARGUMENT', /^partion is not known here$/),
    ],
    ['/publish?topic=t', { vaule: 1 }, refusal(400, 'INVALID_ARGUMENT', /message\.vaule is not known/)],
    ['/publish?topic=t', {}, refusal(400, 'INVALID_ARGUMENT', /message\.value is missing/)],
    [
      '/publish?topic=t',
      [{ value: 1 }, 7],
      refusal(400, 'INVALID_ARGUMENT', /messages\[1\] must be an object/),
    ],
    ['/publish?topic=t', { value: 1, partition: -1 }, refusal(400, 'INVALID_ARGUMENT', /partition must be/)],
    ['/publish?topic=t', { value: 1, key: [] }, refusal(400, 'INVALID_ARGUMENT', /message\.key must be/)],
    ['/publish?topic=t', { value: 1, partition: 9 }, refusal(400, 'INVALID_PARTITION')],
    ['/publish?topic=a%20b', { value: 1 }, refusal(400, 'INVALID_TOPIC')],
    ['/publish?topic=t', '{"value": ', refusal(400, 'INVALID_ARGUMENT', /not JSON/)],
    ['/publish?topic=t', '"text"', refusal(400, 'INVALID_ARGUMENT', /the body must be/)],
    ['/publish?topic=t', '', refusal(400, 'INVALID_ARGUMENT', /body/)],
  ])('%s with %j is refused', async (path, body, expected) => {
    await using server = await TestServer.start()
    expect(await server.post(path, body)).toEqual(expected)
  })

  test('a topic that is missing is refused where topics are not made by publishing', async () => {
    await using server = await TestServer.start({ autoCreateTopics: 'false' })
    expect(await server.post('/publish?topic=t', { value: 1 })).toEqual(refusal(404, 'UNKNOWN_TOPIC'))
    await server.post('/topic?topic=t')
    expect(await server.post('/publish?topic=t', { value: 1 })).toMatchObject({ status: 200 })
  })
})

describe('consume', () => {
  test('next leads through everything, once each', async () => {
    await using server = await TestServer.start({ partitions: '3' })
    await server.post(
      '/publish?topic=t',
      Array.from({ length: 50 }, (_, number) => ({ key: `k${number}`, value: String(number) })),
    )
    const seen: string[] = []
    let offset = 'earliest'
    for (;;) {
      const { json } = await server.get(`/consume?topic=t&count=7&offset=${offset}`)
      const { messages, next } = json as { messages: { value: string }[]; next: Record<string, number> }
      if (messages.length === 0) break
      expect(messages.length).toBeLessThanOrEqual(7)
      seen.push(...messages.map(({ value }) => value))
      offset = Object.entries(next)
        .map(pair => pair.join(':'))
        .join(',')
    }
    expect(seen.toSorted()).toEqual(Array.from({ length: 50 }, (_, number) => String(number)).toSorted())
  })

  test('one partition from an offset, from a time and from the end', async () => {
    await using server = await TestServer.start()
    await server.post('/publish?topic=t', [{ value: 'a' }, { value: 'b' }, { value: 'c' }])
    const values = async (query: string) => {
      const { json } = await server.get(`/consume?topic=t&partition=0&${query}`)
      return (json as { messages: { value: string }[] }).messages.map(({ value }) => value)
    }
    expect(await values('offset=1')).toEqual(['b', 'c'])
    expect(await values('offset=1&count=1')).toEqual(['b'])
    expect(await values('offset=latest')).toEqual([])
    expect(await values('offset=2000-01-01')).toEqual(['a', 'b', 'c'])
    expect(await values('offset=2100-01-01')).toEqual([])
  })

  test('a group starts at its commit, and at the start without one', async () => {
    await using server = await TestServer.start()
    await server.post('/publish?topic=t', [{ value: 'a' }, { value: 'b' }])
    const first = await server.get('/consume?topic=t&group=g&count=1')
    expect(first.json).toMatchObject({ messages: [{ value: 'a' }], next: { 0: 1 } })
    // reading does not commit
    expect(await server.get('/consume?topic=t&group=g&count=1')).toEqual(first)
    await server.post('/offset?group=g&topic=t', { offsets: { 0: 1 } })
    expect((await server.get('/consume?topic=t&group=g')).json).toMatchObject({ messages: [{ value: 'b' }] })
    // an offset asked for goes before the commit
    expect((await server.get('/consume?topic=t&group=g&offset=earliest')).json).toMatchObject({
      messages: [{ value: 'a' }, { value: 'b' }],
    })
  })

  test('a wait ends with the first message', async () => {
    await using server = await TestServer.start()
    await server.post('/topic?topic=t')
    const waiting = server.get('/consume?topic=t&wait=20000')
    // The read has begun when the server has the request: only then is there something to wake.
    await server.get('/health')
    await server.post('/publish?topic=t', { value: 'late' })
    expect((await waiting).json).toMatchObject({ messages: [{ value: 'late' }], next: { 0: 1 } })
  })

  test('a wait for nothing ends on time, with where to go on', async () => {
    await using server = await TestServer.start()
    await server.post('/topic?topic=t&partitions=2')
    expect(await server.get('/consume?topic=t&wait=20')).toEqual({
      status: 200,
      json: { messages: [], next: { 0: 0, 1: 0 }, end: { 0: 0, 1: 0 } },
    })
  })

  test('the answer is bounded in bytes, but never empty for it', async () => {
    await using server = await TestServer.start({ httpBodyBytesMax: '1024' })
    for (const letter of ['a', 'b', 'c']) await server.post('/publish?topic=t', { value: letter.repeat(500) })
    const { json } = await server.get('/consume?topic=t')
    expect(json).toMatchObject({ messages: [{ offset: 0 }], next: { 0: 1 }, end: { 0: 3 } })
  })

  test.each([
    ['topic=none', refusal(404, 'UNKNOWN_TOPIC')],
    ['topic=t&partition=1', refusal(400, 'INVALID_PARTITION', /partitions 0 to 0, not 1/)],
    ['topic=t&partition=0&offset=99', refusal(416, 'OFFSET_OUT_OF_RANGE')],
    ['topic=t&offset=1', refusal(400, 'INVALID_ARGUMENT', /partition must be given/)],
    ['topic=t&offset=soon', refusal(400, 'INVALID_ARGUMENT', /"soon" is neither/)],
    ['topic=t&count=0', refusal(400, 'INVALID_ARGUMENT', /^count must be >= 1$/)],
    ['topic=t&count=10001', refusal(400, 'INVALID_ARGUMENT', /^count must be <= 10000$/)],
    ['topic=t&count=many', refusal(400, 'INVALID_ARGUMENT', /^count must be integer$/)],
    ['topic=t&wait=60001', refusal(400, 'INVALID_ARGUMENT', /^wait must be <= 60000$/)],
    ['topic=t&topic=u', refusal(400, 'INVALID_ARGUMENT', /^topic must be string$/)],
    ['topic=t&group=', refusal(400, 'INVALID_ARGUMENT', /^group must NOT have fewer/)],
  ])('%s is refused', async (query, expected) => {
    await using server = await TestServer.start()
    await server.post('/publish?topic=t', { value: 'a' })
    expect(await server.get(`/consume?${query}`)).toEqual(expected)
  })
})

describe('offset', () => {
  test('what is committed is read back, with the lag', async () => {
    await using server = await TestServer.start({ partitions: '2' })
    await server.post('/publish?topic=t', [
      { value: 'a', partition: 0 },
      { value: 'b', partition: 0 },
      { value: 'c', partition: 1 },
    ])
    expect((await server.post('/offset?group=g&topic=t&partition=0&offset=1')).json).toEqual([
      { group: 'g', topic: 't', partition: 0, offset: 1 },
    ])
    expect((await server.get('/offset?group=g&topic=t')).json).toEqual([
      { group: 'g', topic: 't', partition: 0, offset: 1, end: 2, lag: 1 },
      { group: 'g', topic: 't', partition: 1, offset: null, end: 1, lag: 1 },
    ])
    await server.post('/offset?group=g&topic=t&partition=0', { offset: 2 })
    expect((await server.get('/offset?group=g&topic=t&partition=0')).json).toMatchObject({
      offset: 2,
      lag: 0,
    })
  })

  test.each([
    ['group=g&topic=t', {}, refusal(400, 'INVALID_ARGUMENT', /^offset is missing/)],
    ['group=g&topic=t&offset=1', {}, refusal(400, 'INVALID_ARGUMENT', /^partition is missing/)],
    ['topic=t&partition=0&offset=1', {}, refusal(400, 'INVALID_ARGUMENT', /^group is missing/)],
    ['group=g&topic=t&partition=0&offset=-1', {}, refusal(400, 'INVALID_ARGUMENT', /^offset must be >= 0/)],
    ['group=g&topic=t&partition=0&offset=5', {}, refusal(416, 'OFFSET_OUT_OF_RANGE', /ends at 1/)],
    ['group=g&topic=t', { offsets: { 4: 1 } }, refusal(400, 'INVALID_PARTITION')],
    ['group=g&topic=t', { offsets: { x: 1 } }, refusal(400, 'INVALID_ARGUMENT')],
    ['group=g&topic=none&partition=0&offset=1', {}, refusal(404, 'UNKNOWN_TOPIC')],
  ])('committing %s %j is refused', async (query, body, expected) => {
    await using server = await TestServer.start()
    await server.post('/publish?topic=t', { value: 'a' })
    expect(await server.post(`/offset?${query}`, body)).toEqual(expected)
  })
})

describe('topic', () => {
  test('create, list, describe, delete', async () => {
    await using server = await TestServer.start()
    const created = await server.post('/topic?topic=orders&partitions=2', {
      config: { 'retention.ms': '60000' },
    })
    expect(created).toMatchObject({
      status: 201,
      json: {
        topic: 'orders',
        partitions: [{ partition: 0, start: 0, end: 0 }, { partition: 1 }],
        config: { 'retention.ms': { value: '60000', source: 'topic' } },
      },
    })
    expect((await server.get('/topic')).json).toEqual({ topics: ['orders'] })
    expect((await server.get('/topic?topic=orders')).json).toEqual(created.json)
    expect(await server.send('DELETE', '/topic?topic=orders')).toMatchObject({ status: 200 })
    expect(await server.get('/topic?topic=orders')).toEqual(refusal(404, 'UNKNOWN_TOPIC'))
  })

  test.each([
    ['topic=t', undefined, refusal(409, 'TOPIC_EXISTS')],
    ['topic=u&partitions=0', undefined, refusal(400, 'INVALID_ARGUMENT', /partitions must be >= 1/)],
    ['topic=u', { config: { 'no.such.key': '1' } }, refusal(400, 'INVALID_CONFIG')],
    ['topic=u', { config: { 'retention.ms': 'soon' } }, refusal(400, 'INVALID_CONFIG')],
  ])('creating %s %j is refused', async (query, body, expected) => {
    await using server = await TestServer.start()
    await server.post('/topic?topic=t')
    expect(await server.post(`/topic?${query}`, body)).toEqual(expected)
  })
})

describe('the listener', () => {
  test('an unknown path and an unknown method are refused by name', async () => {
    await using server = await TestServer.start()
    expect(await server.get('/nothing?x=1')).toEqual(
      refusal(404, 'UNKNOWN_ENDPOINT', /^there is no GET \/nothing$/),
    )
    expect(await server.send('PUT', '/publish?topic=t')).toEqual(refusal(404, 'UNKNOWN_ENDPOINT'))
  })

  test('a body that is not declared as JSON is refused, with what to do', async () => {
    await using server = await TestServer.start()
    const headers = { 'content-type': 'application/x-www-form-urlencoded' }
    expect(await server.send('POST', '/publish?topic=t', '{"value":1}', headers)).toEqual(
      refusal(415, 'UNSUPPORTED_MEDIA_TYPE', /application\/json/),
    )
  })

  test('a body over the limit is refused', async () => {
    await using server = await TestServer.start({ httpBodyBytesMax: '1024' })
    expect(await server.post('/publish?topic=t', { value: 'x'.repeat(1024) })).toEqual(
      refusal(413, 'BODY_TOO_LARGE', /1024 bytes/),
    )
  })

  test('pages of other origins are refused, our own is not', async () => {
    await using server = await TestServer.start()
    const from = (origin: string) => server.send('GET', '/topic', undefined, { origin })
    expect(await from('https://example.com')).toEqual(refusal(403, 'FORBIDDEN_ORIGIN', /example\.com/))
    expect(await from('null')).toEqual(refusal(403, 'FORBIDDEN_ORIGIN'))
    expect(await from(server.url)).toMatchObject({ status: 200 })
  })

  test('what is not HTTP gets an answer in JSON', async () => {
    await using server = await TestServer.start()
    const answer = await exchange(server.port, 'HELLO\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toContain('"code":"INVALID_ARGUMENT"')
  })

  test('a connection over the limit is answered and never served', async () => {
    await using server = await TestServer.start({ connectionsMax: '1' })
    const first = connect(server.port, '127.0.0.1')
    await new Promise(resolve => first.once('connect', resolve))
    first.write('GET /health HTTP/1.1\r\nhost: x\r\n\r\n')
    await new Promise(resolve => first.once('data', resolve))
    const answer = await exchange(server.port, 'POST /topic?topic=t HTTP/1.1\r\nhost: x\r\n\r\n')
    expect(answer).toMatch(/^HTTP\/1\.1 503 /)
    expect(answer).toContain('"code":"TOO_MANY_CONNECTIONS"')
    first.destroy()
    await new Promise(resolve => first.once('close', resolve))
    expect(await server.running.sluice.engine.listTopics()).toEqual([])
  })

  test('health says that it works', async () => {
    await using server = await TestServer.start()
    expect(await server.get('/health')).toMatchObject({ status: 200, json: { status: 'ok', topics: 0 } })
  })
})

describe('metrics', () => {
  test('offsets, sizes, lag and requests are there to scrape', async () => {
    await using server = await TestServer.start()
    await server.post('/publish?topic=t', [{ value: 'a' }, { value: 'b' }])
    await server.post('/offset?group=g&topic=t&partition=0&offset=1')
    const response = await fetch(`${server.url}/metrics`)
    expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/)
    const metrics = await response.text()
    expect(metrics).toContain('sluice_partition_end_offset{topic="t",partition="0"} 2')
    expect(metrics).toContain('sluice_group_lag{group="g",topic="t",partition="0"} 1')
    expect(metrics).toContain(
      'sluice_http_request_duration_seconds_count{method="POST",route="/publish",status="200"} 1',
    )
    expect(metrics).toMatch(/sluice_partition_bytes\{topic="t",partition="0"\} [1-9]/)
    expect(metrics).toMatch(/sluice_connections [1-9]/)
    expect(metrics).toContain('sluice_messages_in_total{topic="t"} 2')
    expect(metrics).toMatch(/sluice_bytes_in_total\{topic="t"\} [1-9]/)
    expect(metrics).toContain('# TYPE sluice_sync_duration_seconds summary')
    expect(metrics).toMatch(/\nsluice_sync_duration_seconds_count \d+\n/)
    expect(metrics).toContain('# TYPE process_cpu_seconds_total counter')
  })

  test('what was deleted is gone from the next scrape', async () => {
    await using server = await TestServer.start()
    await server.post('/topic?topic=gone')
    const scrape = async () => (await fetch(`${server.url}/metrics`)).text()
    expect(await scrape()).toContain('topic="gone"')
    await server.send('DELETE', '/topic?topic=gone')
    expect(await scrape()).not.toContain('topic="gone"')
  })
})
