/** Alerts of a server: which options switch them on, and that a webhook hears of them. */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { expect, onTestFinished, test } from 'vitest'
import { die } from '../delivery/dying.ts'
import { TestServer } from './running-server.ts'

test('a webhook is told of dead letters and of groups that are too far behind', async () => {
  const told: { kind: string; severity: string; subject: string; count: number }[] = []
  let wake = () => {}
  const receiver = createServer(async (request, response) => {
    told.push(JSON.parse(await text(request)))
    response.end()
    wake()
  })
  await new Promise<void>(resolve => receiver.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void receiver.close())
  const alertWebhooks = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
  const server = await TestServer.start({
    kafkaPort: 'off',
    alertWebhooks,
    alertEveryMs: '100',
    alertLag: '2',
  })
  onTestFinished(() => server[Symbol.asyncDispose]())

  const mq = server.running.sluice
  await mq.publish('orders', [{ value: '1' }, { value: '2' }, { value: '3' }])
  await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 0 }])
  while (told.length < 1) await new Promise<void>(resolve => (wake = resolve))
  await die(mq, 1, 'x')
  while (told.length < 2) await new Promise<void>(resolve => (wake = resolve))
  expect(told).toMatchObject([
    { kind: 'lag', severity: 'warning', subject: 'billing', count: 3 },
    { kind: 'dead-letters', severity: 'warning', subject: 'orders.billing.dead', count: 1 },
  ])
})

test('a webhook is told of a group that is behind and finishes nothing', async () => {
  const told: unknown[] = []
  const receiver = createServer(async (request, response) => {
    told.push(JSON.parse(await text(request)))
    response.end()
  })
  await new Promise<void>(resolve => receiver.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void receiver.close())
  const alertWebhooks = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
  const flags = { kafkaPort: 'off', alertWebhooks, alertEveryMs: '100', alertStuckMs: '100' }
  const server = await TestServer.start(flags)
  onTestFinished(() => server[Symbol.asyncDispose]())
  const mq = server.running.sluice
  await mq.publish('orders', [{ value: '1' }, { value: '2' }])
  await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 0 }])
  await expect.poll(() => told.length).toBe(1)
  expect(told).toMatchObject([{ kind: 'stuck-group', severity: 'critical', subject: 'billing', count: 2 }])
})

test('what is no webhook is refused before anything is opened', async () => {
  for (const alertWebhooks of ['somewhere', 'http://127.0.0.1:1/,ftp://example.org']) {
    await expect(TestServer.start({ alertWebhooks })).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
      detail: { key: 'alert-webhooks' },
    })
  }
})
