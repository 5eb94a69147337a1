import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { die } from '../delivery/dying.ts'
import { refusal, TestServer } from './running-server.ts'

const path = '/v1/dead-letters/orders/billing'
let server: TestServer

beforeEach(async () => {
  server = await TestServer.start({ kafkaPort: 'off' })
  onTestFinished(() => server[Symbol.asyncDispose]())
  const mq = server.running.sluice
  for (const offset of [1, 2, 3]) await die(mq, offset, `{"n":${offset}}`)
  await die(mq, 4, 'four', { reason: 'expired' })
})

const ids = async (query = '') =>
  ((await server.get(`${path}${query}`)).json as { letters: { id: string }[] }).letters.map(({ id }) => id)

test('lists: where there are some, and page by page', async () => {
  expect((await server.get('/v1/dead-letters')).json).toEqual({
    tables: [{ topic: 'orders', group: 'billing', name: 'orders.billing.dead', count: 4 }],
  })
  const first = (await server.get(`${path}?limit=3`)).json as { letters: unknown[]; cursor: string }
  expect(first.letters).toHaveLength(3)
  expect(first.letters[0]).toMatchObject({
    id: '0-1',
    key: 'k1',
    value: { n: 1 },
    headers: { trace: 't' },
    attempts: 5,
  })
  expect(await ids(`?cursor=${first.cursor}`)).toEqual(['0-4'])
  expect(await ids('?reason=expired')).toEqual(['0-4'])
  expect(await ids('?error=nothing')).toEqual([])
})

test('edits one and replays it', async () => {
  const edited = await server.send('PATCH', `${path}/0-2`, { value: { n: 20 }, headers: { by: 'hand' } })
  expect(edited).toMatchObject({
    status: 200,
    json: { id: '0-2', value: { n: 20 }, headers: { by: 'hand' }, key: 'k2' },
  })
  expect(await server.post(`${path}/replay`, { ids: ['0-2'], to: 'orders' })).toEqual({
    status: 200,
    json: { replayed: ['0-2'] },
  })
  expect(await server.get('/consume?topic=orders')).toMatchObject({
    json: { messages: [{ value: { n: 20 }, key: 'k2' }] },
  })
  expect(await server.get(`${path}/0-2`)).toMatchObject(refusal(404, 'UNKNOWN_DEAD_LETTER'))
})

test('replays and discards all that pass', async () => {
  expect((await server.post(`${path}/replay`, { all: true, reason: 'expired', dryRun: true })).json).toEqual({
    chosen: ['0-4'],
  })
  expect((await server.post(`${path}/discard`, { all: true, reason: 'expired' })).json).toEqual({
    discarded: ['0-4'],
  })
  expect((await server.post(`${path}/replay`, { all: true, limit: 2 })).json).toEqual({
    replayed: ['0-1', '0-2'],
  })
  expect(await ids()).toEqual(['0-3'])
})

test('replays no faster than asked', async () => {
  expect(await ids()).toHaveLength(4)
  const startedAt = performance.now()
  expect((await server.post(`${path}/replay`, { all: true, perSecond: 4 })).json).toEqual({
    replayed: ['0-1', '0-2', '0-3', '0-4'],
  })
  expect(performance.now() - startedAt).toBeGreaterThanOrEqual(740)
})

test('what is not clear is refused, and nothing happens', async () => {
  for (const body of [
    {},
    { ids: [] },
    { ids: ['0-1'], all: true },
    { all: true, perSecond: 0 },
    { all: true, what: 1 },
  ]) {
    expect(await server.post(`${path}/replay`, body)).toMatchObject(refusal(400, 'INVALID_ARGUMENT'))
  }
  expect(await server.post(`${path}/replay`, { ids: ['7-7'] })).toMatchObject(
    refusal(404, 'UNKNOWN_DEAD_LETTER'),
  )
  expect(await server.get(`${path}?cursor=x`)).toMatchObject(refusal(400, 'INVALID_ARGUMENT'))
  expect(await ids()).toHaveLength(4)
})
