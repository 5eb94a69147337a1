import { mkdtempSync, rmSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import { afterAll, describe, expect, test } from 'vitest'
import { createLogger } from '../../src/server/logger.ts'
import { resolveOptions } from '../../src/server/options.ts'
import { startServer } from '../../src/server/server.ts'
import { batchOf, produceOf, RawClient } from './kafka/raw-client.ts'
import { silent, TestServer } from './running-server.ts'

const folder = mkdtempSync(join(tmpdir(), 'sluice-server-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** A log whose lines can be read. */
function recordingLog(format: 'text' | 'json', level: 'debug' | 'info' | 'warn' = 'info') {
  const lines: string[] = []
  const output = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk))
      done()
    },
  })
  const clock = { now: () => 0, monotonic: () => 0, after: () => ({ cancel() {} }), defer() {} }
  return { lines, log: createLogger({ level, format, output, clock }) }
}

/** Resolves once the server has as many connections open. */
async function connections(server: TestServer, count: number): Promise<void> {
  for (;;) {
    const metrics = await (await fetch(`${server.url}/metrics`)).text()
    const open = Number(/^sluice_connections (\d+)$/m.exec(metrics)?.[1])
    if (open >= count) return
  }
}

describe('start', () => {
  test('what was published is still there after a restart', async () => {
    const data = join(folder, 'restart')
    {
      await using server = await TestServer.start({ data })
      await server.post('/publish?topic=t', { value: 'kept' })
      await server.post('/offset?group=g&topic=t&partition=0&offset=1')
    }
    await using server = await TestServer.start({ data })
    expect((await server.get('/consume?topic=t')).json).toMatchObject({ messages: [{ value: 'kept' }] })
    expect((await server.get('/offset?group=g&topic=t&partition=0')).json).toMatchObject({
      offset: 1,
      lag: 0,
    })
  })

  test('a second server on the same directory is refused', async () => {
    const data = join(folder, 'twice')
    await using _first = await TestServer.start({ data })
    await expect(TestServer.start({ data })).rejects.toMatchObject({ code: 'DIRECTORY_IN_USE' })
  })

  test('a port that is taken is refused, and the directory given back', async () => {
    const data = join(folder, 'port')
    await using first = await TestServer.start()
    await expect(TestServer.start({ data, httpPort: String(first.port) })).rejects.toMatchObject({
      code: 'ADDRESS_IN_USE',
      message: expect.stringContaining('something else listens there already'),
    })
    await using _second = await TestServer.start({ data })
  })

  test.each([
    [{ host: '0.0.0.0' }, 'INSECURE'],
    [{ kafkaAdvertised: 'a:b:c' }, 'INVALID_CONFIG'],
    [{ amqpPort: '0' }, 'UNSUPPORTED'],
    [{ data: 'redis://there' }, 'INVALID_URL'],
  ])('%j is refused with %s', async (flags, code) => {
    await expect(TestServer.start(flags)).rejects.toMatchObject({ code })
  })

  test('--insecure listens everywhere, and the log says what that means', async () => {
    const { log, lines } = recordingLog('text')
    await using server = await TestServer.start({ host: '0.0.0.0', insecure: true }, log)
    expect(lines.join('')).toMatch(/warn {2}open to other machines, without TLS/)
    expect(server.running.addresses.http!.host).toBe('0.0.0.0')
  })

  test('with all listeners off nothing listens', async () => {
    const options = await resolveOptions({ flags: { data: 'memory:', httpPort: 'off', kafkaPort: 'off' } })
    const server = await startServer(options, silent)
    expect(server.addresses).toEqual({})
    await server.stop()
  })
})

test('Kafka clients are served beside HTTP, and counted', async () => {
  await using server = await TestServer.start()
  const client = await RawClient.connect(server.running.addresses.kafka!.port)
  const { brokers, topics } = await client.request('Metadata', 9, { topics: [{ name: 't' }] })
  expect(brokers).toMatchObject([{ host: '127.0.0.1', port: server.running.addresses.kafka!.port }])
  expect(topics).toMatchObject([{ name: 't', errorCode: 0 }])
  await client.request('Produce', 9, produceOf('t', batchOf(['from kafka'])))
  expect((await server.get('/consume?topic=t')).json).toMatchObject({ messages: [{ value: 'from kafka' }] })
  const metrics = await (await fetch(`${server.url}/metrics`)).text()
  expect(metrics).toContain('sluice_kafka_connections 1\n')
  expect(metrics).toContain('sluice_kafka_requests_total{api="Produce"} 1\n')
  client.close()
})

describe('stop', () => {
  test('a long poll under way is answered with where it stands', async () => {
    const server = await TestServer.start()
    await server.post('/topic?topic=t')
    const polling = server.get('/consume?topic=t&wait=60000')
    // the poll's connection and the one that asks
    await connections(server, 2)
    await server.running.stop()
    expect(await polling).toEqual({ status: 200, json: { messages: [], next: { 0: 0 }, end: { 0: 0 } } })
    await expect(fetch(server.url)).rejects.toThrow()
  })

  test('an idle connection that is kept alive does not hold it up', async () => {
    const server = await TestServer.start()
    const agent = new Agent({ keepAlive: true })
    await new Promise<void>(resolve => {
      request(`${server.url}/health`, { agent }, response => response.resume().on('end', resolve)).end()
    })
    await server.running.stop()
    agent.destroy()
  })

  test('a connection that never sent anything does not hold it up', async () => {
    const server = await TestServer.start({ drainMs: '60000' })
    const socket = connect(server.port, '127.0.0.1')
    await connections(server, 2)
    const closed = new Promise(resolve => socket.once('close', resolve))
    expect(await server.running.drain()).toBe(true)
    await closed
    await server.running.stop()
  })

  test('a request that does not end is cut off at the deadline', async () => {
    const { log, lines } = recordingLog('text', 'warn')
    const server = await TestServer.start({ drainMs: '20' }, log)
    const socket = connect(server.port, '127.0.0.1')
    socket.write(
      'POST /publish?topic=t HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{',
    )
    await connections(server, 2)
    const closed = new Promise(resolve => socket.once('close', resolve))
    expect(await server.running.drain()).toBe(false)
    await closed
    await server.running.stop()
    expect(lines.join('')).toContain('requests cut off at the drain deadline')
  })

  test('stopping twice is stopping once', async () => {
    const server = await TestServer.start()
    await Promise.all([server.running.stop(), server.running.stop()])
    await server.running.stop()
  })
})

test('a client that goes away ends its long poll', async () => {
  await using server = await TestServer.start({ drainMs: '60000' })
  await server.post('/topic?topic=t')
  const { engine } = server.running.sluice
  const signals: AbortSignal[] = []
  const fetchOfEngine = engine.fetch.bind(engine)
  engine.fetch = (partitions, options) => {
    signals.push(options!.signal!)
    return fetchOfEngine(partitions, options)
  }
  const client = new AbortController()
  const polling = fetch(`${server.url}/consume?topic=t&wait=60000`, { signal: client.signal })
  polling.catch(() => {})
  while (signals.length === 0) await new Promise(setImmediate)
  const aborted = new Promise(resolve => signals[0].addEventListener('abort', resolve))
  client.abort()
  await aborted
})

describe('log', () => {
  test('lines for people', () => {
    const { log, lines } = recordingLog('text')
    log.info('started', { port: 8080, data: './my data', note: 'a\nb' })
    log.debug('not shown')
    expect(lines).toEqual([
      '1970-01-01T00:00:00.000Z info  started port=8080 data="./my data" note="a\\nb"\n',
    ])
  })

  test('lines for machines, with the stack of an error', () => {
    const { log, lines } = recordingLog('json')
    log.error('it broke', { error: Object.assign(new Error('why'), { code: 'EWHY' }) })
    expect(JSON.parse(lines[0])).toEqual({
      time: '1970-01-01T00:00:00.000Z',
      level: 'error',
      message: 'it broke',
      errorCode: 'EWHY',
      error: 'why',
      errorStack: expect.stringContaining('server.test.ts'),
    })
  })

  test('at debug each request is a line, without what was in it', async () => {
    const { log, lines } = recordingLog('json', 'debug')
    await using server = await TestServer.start({}, log)
    await server.post('/publish?topic=t', { key: 'secret', value: 'secret' })
    const line = lines.find(text => text.includes('"request"'))
    expect(JSON.parse(line!)).toMatchObject({ method: 'POST', url: '/publish?topic=t', status: 200 })
    expect(lines.join('')).not.toContain('secret')
  })

  test('a defect is answered as INTERNAL and logged with its stack', async () => {
    const { log, lines } = recordingLog('json')
    await using server = await TestServer.start({}, log)
    server.running.sluice.engine.listTopics = () => Promise.reject(new TypeError('planted'))
    expect(await server.get('/topic')).toMatchObject({ status: 500, json: { error: { code: 'INTERNAL' } } })
    expect(JSON.stringify((await server.get('/topic')).json)).not.toContain('planted')
    expect(JSON.parse(lines[0])).toMatchObject({ level: 'error', error: 'planted' })
  })
})
