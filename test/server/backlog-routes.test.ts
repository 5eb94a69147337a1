import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { refusal, TestServer } from './running-server.ts'

const path = '/v1/backlog/billing/orders'
let server: TestServer

beforeEach(async () => {
  server = await TestServer.start({ kafkaPort: 'off' })
  onTestFinished(() => server[Symbol.asyncDispose]())
  await server.post(
    '/publish?topic=orders',
    [1, 2, 3, 4, 5].map(n => ({ value: `${n}` })),
  )
  await server.post('/offset?group=billing&topic=orders&partition=0&offset=1')
})

const size = async () => ((await server.get(path)).json as { size: number }).size

test('divert: to another topic, so many at a time', async () => {
  expect(await server.get(path)).toEqual({
    status: 200,
    json: { group: 'billing', topic: 'orders', size: 4 },
  })
  expect((await server.post(`${path}/divert`, { to: 'later', dryRun: true })).json).toEqual({ chosen: 4 })
  const first = await server.post(`${path}/divert`, { to: 'later', limit: 3 })
  expect(first.json).toEqual({ diverted: 3, isComplete: false })
  expect((await server.post(`${path}/divert`, { to: 'later' })).json).toEqual({
    diverted: 1,
    isComplete: true,
  })
  expect((await server.get('/consume?topic=later')).json).toMatchObject({
    messages: ['2', '3', '4', '5'].map(value => ({ value })),
  })
  expect(await size()).toBe(0)
})

test('skip and shed', async () => {
  expect((await server.post(`${path}/skip`, { count: 1, dryRun: true })).json).toEqual({ chosen: 1 })
  expect((await server.post(`${path}/skip`, { count: 1 })).json).toEqual({ skipped: 1 })
  expect((await server.post(`${path}/skip`, { to: 3 })).json).toEqual({ skipped: 1 })
  expect((await server.post(`${path}/shed`, { olderThan: '1h' })).json).toEqual({ shed: 0 })
  expect((await server.post(`${path}/skip`, { to: 'latest', partition: 0 })).json).toEqual({ skipped: 2 })
  expect(await size()).toBe(0)
})

test('what is not clear is refused, and so is a group that is at work', async () => {
  for (const [verb, body] of [
    ['divert', {}],
    ['skip', {}],
    ['skip', { count: 1, to: 'latest' }],
    ['skip', { to: 'earliest' }],
    ['shed', { olderThan: 'a while' }],
  ] as const) {
    expect(await server.post(`${path}/${verb}`, body)).toMatchObject(refusal(400, 'INVALID_ARGUMENT'))
  }
  expect(await server.get('/v1/backlog/billing/none')).toMatchObject(refusal(404, 'UNKNOWN_TOPIC'))
  const mq = server.running.sluice
  const consumer = mq.consumer({ topics: ['orders'], group: 'billing' })
  const assigned = new Promise(resolve => consumer.once('assigned', resolve))
  void consumer.runBatch(() => new Promise(() => {}))
  await assigned
  expect(await server.post(`${path}/skip`, { to: 'latest' })).toMatchObject(refusal(409, 'GROUP_NOT_EMPTY'))
  await consumer.stop({ deadlineMs: 0 })
})
