import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { refusal, TestServer } from './running-server.ts'

let server: TestServer
beforeEach(async () => {
  server = await TestServer.start({ kafkaPort: 'off' })
  onTestFinished(() => server[Symbol.asyncDispose]())
})

interface Waiting {
  readonly id: string
  readonly deliverAt: number
}

const send = async (body: object) => (await server.post('/v1/delayed', body)).json as Waiting
const list = async (query = '') =>
  (await server.get(`/v1/delayed${query}`)).json as {
    messages: Record<string, unknown>[]
    cursor: string | null
  }

test('a delayed message is delivered, not before its time', async () => {
  const { id, deliverAt } = await send({ topic: 'mail', key: 'ann', value: { n: 1 }, delay: 50 })
  const answer = await server.get('/consume?topic=mail&wait=10000')
  expect(Date.now()).toBeGreaterThanOrEqual(deliverAt)
  expect(answer.json).toMatchObject({ messages: [{ key: 'ann', value: { n: 1 } }] })
  expect(await server.get(`/v1/delayed/${id}`)).toMatchObject(refusal(404, 'UNKNOWN_DELAYED_MESSAGE'))
})

test('what waits: page by page, by topic, by id and by name', async () => {
  for (const n of [1, 2, 3]) await send({ topic: 'mail', value: `${n}`, delay: '1h' })
  const name = 'call/7 ü'
  const { id } = await send({ topic: 'calls', value: null, deliverAt: '2100-01-31T12:00:00Z', name })
  const first = await list('?limit=3')
  expect(first.messages).toHaveLength(3)
  expect((await list(`?cursor=${first.cursor}`)).messages).toHaveLength(1)
  expect(await list('?topic=calls')).toMatchObject({
    messages: [
      { id, name, topic: 'calls', deliverAt: Date.UTC(2100, 0, 31, 12), value: null, schedule: null },
    ],
    cursor: null,
  })
  expect(await server.get(`/v1/delayed/${encodeURIComponent(name)}`)).toMatchObject({
    status: 200,
    json: { id },
  })
})

test('an id is as long as its name', async () => {
  const name = 'n'.repeat(200)
  const { id } = await send({ topic: 'mail', value: 'x', delay: '1h', name })
  expect(await server.get(`/v1/delayed/${id}`)).toMatchObject({ status: 200, json: { name } })
})

test('cancelling and rescheduling', async () => {
  const { id } = await send({ topic: 'mail', value: 'x', delayLevel: 18 })
  const moved = await server.post(`/v1/delayed/${id}/reschedule`, { deliverAt: Date.UTC(2100, 0, 1) })
  expect(moved).toMatchObject({ status: 200, json: { deliverAt: Date.UTC(2100, 0, 1) } })
  const newId = (moved.json as Waiting).id
  expect((await list()).messages).toMatchObject([{ id: newId, value: 'x' }])
  expect(await server.send('DELETE', `/v1/delayed/${newId}`)).toEqual({
    status: 200,
    json: { cancelled: newId },
  })
  expect((await list()).messages).toEqual([])
  for (const [method, path, body] of [
    ['DELETE', '/v1/delayed/none'],
    ['POST', '/v1/delayed/none/reschedule', { delay: '1h' }],
  ] as const) {
    expect(await server.send(method, path, body)).toMatchObject(refusal(404, 'UNKNOWN_DELAYED_MESSAGE'))
  }
})

test('what is not clear is refused, and nothing waits', async () => {
  for (const body of [
    { topic: 'mail', value: 'x' },
    { topic: 'mail', value: 'x', delay: '1h', delayLevel: 1 },
    { topic: 'mail', value: 'x', delay: 'soon' },
    { topic: 'mail', value: 'x', delay: -1 },
    { topic: 'mail', value: 'x', deliverAt: 'noon' },
    { topic: 'mail', delay: '1h' },
    { value: 'x', delay: '1h' },
    { topic: 'mail', value: 'x', delay: '1h', what: 1 },
  ]) {
    expect(await server.post('/v1/delayed', body), JSON.stringify(body)).toMatchObject(
      refusal(400, 'INVALID_ARGUMENT'),
    )
  }
  expect(await list()).toEqual({ messages: [], cursor: null })
})

test('schedules: set, listed, removed', async () => {
  const body = { cron: '0 9 * * 1-5', timezone: 'Europe/Berlin', topic: 'reports', value: { kind: 'daily' } }
  const set = await server.send('PUT', '/v1/schedules/report', body)
  expect(set).toMatchObject({ status: 200, json: { name: 'report', cron: body.cron, value: body.value } })
  expect((await server.get('/v1/schedules')).json).toEqual({ schedules: [set.json] })
  expect((await list()).messages).toMatchObject([{ schedule: 'report', topic: 'reports' }])
  expect((await server.send('DELETE', '/v1/schedules/report')).json).toEqual({ removed: 'report' })
  expect(await server.send('DELETE', '/v1/schedules/report')).toMatchObject(refusal(404, 'UNKNOWN_SCHEDULE'))
  expect(await server.send('PUT', '/v1/schedules/report', { ...body, cron: 'often' })).toMatchObject(
    refusal(400, 'INVALID_ARGUMENT'),
  )
})
