import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { beforeEach, expect, onTestFinished, test } from 'vitest'
import { refusal, TestServer } from './running-server.ts'

let server: TestServer
beforeEach(async () => {
  server = await TestServer.start({ kafkaPort: 'off' })
  onTestFinished(() => server[Symbol.asyncDispose]())
})

const message = { topic: 'payments', key: 'ann', value: { cents: 1250 }, headers: { a: 'b' } }
const prepare = async (more: object = {}) => {
  const { status, json } = await server.post('/v1/half', { ...message, ...more })
  expect(status).toBe(201)
  return (json as { id: string }).id
}
const published = async (wait: number) =>
  ((await server.get(`/consume?topic=payments&wait=${wait}`)).json as { messages: object[] }).messages

test('nobody sees a half message before it is committed', async () => {
  const id = await prepare()
  await server.post('/topic?topic=payments')
  expect(await published(0)).toEqual([])
  expect((await server.get('/v1/half')).json).toMatchObject({ messages: [{ id, ...message, checker: null }] })
  expect((await server.get(`/v1/half/${id}`)).json).toMatchObject({ id, state: 'undecided', decision: null })
  expect(await server.post(`/v1/half/${id}/commit`)).toEqual({
    status: 200,
    json: { id, decision: 'commit' },
  })
  expect(await published(10_000)).toMatchObject([{ key: 'ann', value: { cents: 1250 }, headers: { a: 'b' } }])
  expect((await server.get(`/v1/half/${id}`)).json).toMatchObject({ decision: 'commit' })
  expect((await server.get('/v1/half')).json).toEqual({ messages: [] })
})

test('the first decision counts', async () => {
  const id = await prepare()
  await server.post(`/v1/half/${id}/rollback`)
  expect(await server.post(`/v1/half/${id}/rollback`)).toMatchObject({ status: 200 })
  expect(await server.post(`/v1/half/${id}/commit`)).toMatchObject(refusal(409, 'HALF_DECIDED'))
  expect(await server.post('/v1/half/0-99-0000000000000000/commit')).toMatchObject(
    refusal(404, 'UNKNOWN_HALF_MESSAGE'),
  )
})

test('a webhook is asked about what nobody decides, until it knows', async () => {
  const asked: Record<string, unknown>[] = []
  const checker = createServer(async (request, response) => {
    asked.push(JSON.parse(await text(request)))
    response.end(JSON.stringify({ decision: asked.length < 2 ? 'unknown' : 'commit' }))
  })
  await new Promise<void>(resolve => checker.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void checker.close())
  const url = `http://127.0.0.1:${(checker.address() as AddressInfo).port}/check`
  const id = await prepare({ checker: url, firstCheckMs: 0, checkEveryMs: 20 })
  await server.post('/topic?topic=payments')
  expect(await published(10_000)).toMatchObject([{ key: 'ann', value: { cents: 1250 } }])
  expect(asked).toHaveLength(2)
  expect(asked[0]).toMatchObject({
    id,
    topic: 'payments',
    key: 'ann',
    value: '{"cents":1250}',
    headers: { a: 'b' },
  })
})

test('what is wrong is refused when it is prepared', async () => {
  for (const body of [
    { ...message, topic: undefined },
    { ...message, value: undefined },
    { ...message, delay: 'soon' },
    { ...message, checker: 'no name' },
    { ...message, checkEveryMs: 0 },
    { ...message, what: 1 },
  ]) {
    expect(await server.post('/v1/half', body), JSON.stringify(body)).toMatchObject(
      refusal(400, 'INVALID_ARGUMENT'),
    )
  }
  expect((await server.get('/v1/half')).json).toEqual({ messages: [] })
})
