import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Alert, AlertOptions, Alerts } from '../../src/delivery/alerts.ts'
import { Sluice } from '../../src/delivery/sluice.ts'
import { openLocalEngine } from '../../src/engine/local.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { HandClock } from '../log/scratch-log.ts'

let mq: Sluice
let clock: HandClock

beforeEach(async () => {
  clock = new HandClock()
  mq = new Sluice(await openLocalEngine({ url: 'memory:' }), { clock })
})

afterEach(() => mq.close())

function watch(options: AlertOptions): { alerts: Alerts; told: Alert[] } {
  const alerts = mq.alerts(options)
  const told: Alert[] = []
  alerts.on('alert', alert => told.push(alert))
  return { alerts, told }
}

async function behind(count: number): Promise<void> {
  await mq.createTopic('orders')
  await mq.publish(
    'orders',
    Array.from({ length: count }, () => ({ value: 'x' })),
  )
  await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 0 }])
}

describe('alerts', () => {
  test('tell of dead letters that are new, once', async () => {
    await mq.publish('orders.billing.dead', { key: '0-1', value: 'old' })
    const { alerts, told } = watch({ deadLetters: 'critical' })
    await alerts.look()
    expect(told).toEqual([])
    await mq.publish('orders.billing.dead', { key: '0-2', value: 'a' })
    await mq.publish('orders.shipping.dead', { key: '0-3', value: 'b' })
    await mq.publish('orders.billing.dead', { key: '0-1', value: null })
    await alerts.look()
    expect(told.map(({ kind, severity, subject, count }) => [kind, severity, subject, count])).toEqual([
      ['dead-letters', 'critical', 'orders.billing.dead', 1],
      ['dead-letters', 'critical', 'orders.shipping.dead', 1],
    ])
    await alerts.look()
    expect(told).toHaveLength(2)
  })

  test('tell when a group falls behind, when it gets worse, and when it is over', async () => {
    await behind(20)
    const { alerts, told } = watch({
      lag: [
        { above: 15, severity: 'critical' },
        { above: 5, severity: 'warning' },
      ],
    })
    const commit = (offset: number) =>
      mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset }])
    await commit(10)
    await alerts.look()
    await alerts.look()
    await commit(2)
    await alerts.look()
    await commit(20)
    await alerts.look()
    expect(told.map(({ kind, severity, resolved, count }) => [kind, severity, resolved, count])).toEqual([
      ['lag', 'warning', false, 10],
      ['lag', 'critical', false, 18],
      ['lag', 'info', true, 0],
    ])
  })

  test('tell of a group that is behind and does not move', async () => {
    await behind(3)
    const { alerts, told } = watch({ stuck: { afterMs: 60_000, severity: 'critical' } })
    await alerts.look()
    clock.time += 59_000
    await alerts.look()
    expect(told).toEqual([])
    clock.time += 1_000
    await alerts.look()
    expect(told).toMatchObject([{ kind: 'stuck-group', severity: 'critical', subject: 'billing', count: 3 }])
    await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 1 }])
    await alerts.look()
    expect(told[1]).toMatchObject({ kind: 'stuck-group', resolved: true })
  })

  test('are of no concern to groups that are left out, or that have nothing to do', async () => {
    await behind(100)
    await mq.commitOffsets('idle', [{ topic: 'orders', partition: 0, offset: 100 }])
    const { alerts, told } = watch({
      lag: [{ above: 0, severity: 'info' }],
      groups: group => group === 'idle',
    })
    clock.time += 1e9
    await alerts.look()
    expect(told).toEqual([])
  })

  test('options that make no sense are refused', () => {
    for (const options of [
      { everyMs: 0 },
      { webhooks: ['ftp://example.org'] },
      { webhooks: ['nowhere'] },
      { deadLetters: 'loud' as never },
      { lag: [{ above: -1, severity: 'info' as const }] },
    ]) {
      expect(() => mq.alerts(options)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    }
  })

  describe('by webhook', () => {
    let server: Server
    let url: string
    let received: unknown[]
    let statuses: number[]

    beforeEach(async () => {
      received = []
      statuses = []
      server = createServer((request, response) => {
        let body = ''
        request.on('data', chunk => (body += chunk))
        request.on('end', () => {
          received.push(JSON.parse(body))
          response.writeHead(statuses.shift() ?? 204).end()
        })
      })
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
      url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`
    })

    afterEach(() => server.close())

    test('are posted as JSON', async () => {
      await behind(3)
      const { alerts, told } = watch({ webhooks: [url], lag: [{ above: 1, severity: 'warning' }] })
      await alerts.look()
      expect(received).toEqual(told)
      expect(received).toMatchObject([{ kind: 'lag', severity: 'warning', subject: 'billing', count: 3 }])
    })

    test('that does not answer does not keep alerts from being stopped', async () => {
      await behind(3)
      const asked = Promise.withResolvers<void>()
      server.removeAllListeners('request').on('request', () => asked.resolve())
      const lag = [{ above: 1, severity: 'warning' as const }]
      const alerts = mq.alerts({ webhooks: [url], lag, webhookTimeoutMs: 600_000 })
      const failed = new Promise(resolve => alerts.once('error', resolve))
      await asked.promise
      clock.after = (_delayMs, run) => systemClock.after(0, run)
      await alerts.stop()
      expect(await failed).toMatchObject({ code: 'ALERT_FAILED' })
      server.closeAllConnections()
    })

    test('are tried again, and what cannot be told is an error that stops nothing', async () => {
      await behind(3)
      statuses = [500, 500, 500]
      const alerts = mq.alerts({ webhooks: [url], lag: [{ above: 1, severity: 'warning' }] })
      const failed = new Promise(resolve => alerts.once('error', resolve))
      clock.after = (_delayMs, run) => systemClock.after(0, run)
      await alerts.look()
      expect(received).toHaveLength(3)
      expect(await failed).toMatchObject({ code: 'ALERT_FAILED', message: expect.stringContaining('500') })
      await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 3 }])
      await alerts.look()
      expect(received[3]).toMatchObject({ resolved: true })
    })
  })
})
