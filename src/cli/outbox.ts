/** `sluice outbox …`: looking after the outboxes of a database, and publishing what is in them. */

import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Counter, Gauge, Registry } from 'prom-client'
import { OutboxAdmin, type OutboxStatus } from '../database/outbox.ts'
import { type OutboxRelay, outboxRelay } from '../database/outbox-relay.ts'
import { migrate, migrationStatements } from '../database/schema.ts'
import { SluiceError } from '../errors.ts'
import { durationMs } from '../lib/duration.ts'
import { type Context, exitCodes, type Invocation, type Run } from './context.ts'
import { databaseAddress, dialectOf, withDatabase } from './database.ts'
import { count, table } from './output.ts'

export const outboxStatus: Run = async (context, invocation) => {
  const { statuses, failed } = await admin(context, invocation, async outboxes => {
    const statuses = await outboxes.status()
    const failed = []
    if (invocation.has('failed')) {
      for (const { outbox } of statuses)
        for (const row of await outboxes.failed(outbox)) failed.push({ outbox, ...row })
    }
    return { statuses, failed }
  })
  if (invocation.has('json')) {
    for (const line of [...statuses, ...failed]) await context.write(`${JSON.stringify(line)}\n`)
    return exitCodes.ok
  }
  if (statuses.length === 0) {
    context.note('no outboxes: nothing was published through one, and no relay has run')
    return exitCodes.ok
  }
  const rows = statuses.map(({ outbox, pending, failed: refused, oldestMs, relays }) => [
    outbox,
    count(pending),
    count(refused),
    (oldestMs / 1000).toFixed(1),
    relays.length,
  ])
  await context.write(table(['OUTBOX', 'PENDING', 'FAILED', 'OLDEST S', 'RELAYS'], rows))
  if (failed.length > 0) {
    const lines = failed.map(({ outbox, id, topic, failedAt, error }) => [
      outbox,
      id,
      topic,
      new Date(failedAt).toISOString(),
      error,
    ])
    await context.write(`\n${table(['OUTBOX', 'ROW', 'TOPIC', 'FAILED', 'ERROR'], lines)}`)
  }
  return exitCodes.ok
}

export const relayOutbox: Run = async (context, invocation) => {
  const interrupted = context.interruption()
  const mq = await context.open({ create: true })
  return await withDatabase(databaseAddress(context, invocation), async database => {
    const name = invocation.operands[0] ?? 'default'
    const relay = outboxRelay(mq, {
      database,
      name,
      ...given({
        batchRows: invocation.number('batch'),
        pollMs: invocation.number('pollMs'),
        leaseMs: invocation.number('leaseMs'),
      }),
    })
    relay.on('error', error => context.note(`sluice outbox relay: ${error.code}: ${error.message}`))
    relay.on('refused', ({ id, topic }, error) =>
      context.note(
        `sluice outbox relay: row ${id} for ${topic} was refused: ${error.code}: ${error.message}`,
      ),
    )
    let published = 0
    relay.on('published', rows => (published += rows))
    const port = invocation.number('metricsPort')
    const metrics = port === undefined ? null : await serveMetrics(port, relay, new OutboxAdmin(database))
    const where = metrics === null ? '' : `, metrics on http://127.0.0.1:${metrics.port}/metrics`
    try {
      await context.write(`relay of outbox ${name} to ${mq.url}${where}\n`)
      if (!interrupted.aborted) await once(interrupted, 'abort')
    } finally {
      await relay.stop()
      await metrics?.close()
    }
    context.note(`published ${count(published)} rows`)
    return exitCodes.ok
  })
}

export const migrateDatabase: Run = async (context, invocation) => {
  const address = databaseAddress(context, invocation)
  if (invocation.has('print')) {
    const statements = migrationStatements(dialectOf(address))
    await context.write(statements.map(statement => `${statement};\n`).join(''))
    return exitCodes.ok
  }
  const applied = await withDatabase(address, migrate, true)
  context.note(
    applied === 0 ? 'nothing to do' : `applied ${applied} ${applied === 1 ? 'migration' : 'migrations'}`,
  )
  return exitCodes.ok
}

export const requeueOutbox: Run = async (context, invocation) => {
  const name = invocation.operands[0] ?? 'default'
  const rows = await admin(context, invocation, outboxes => outboxes.requeue(name))
  context.note(`${count(rows)} rows of outbox ${name} are to be published again`)
  return exitCodes.ok
}

export const cleanOutbox: Run = async (context, invocation) => {
  const name = invocation.operands[0] ?? 'default'
  const text = invocation.text('olderThan') ?? '0s'
  const olderThanMs = durationMs(text)
  if (olderThanMs === null) {
    throw new SluiceError(
      'INVALID_ARGUMENT',
      `--older-than is a length of time such as 30m or 7d, not ${text}`,
    )
  }
  const rows = await admin(context, invocation, outboxes => outboxes.clean(name, olderThanMs))
  context.note(`deleted ${count(rows)} refused rows of outbox ${name}`)
  return exitCodes.ok
}

const admin = <R>(
  context: Context,
  invocation: Invocation,
  work: (outboxes: OutboxAdmin) => Promise<R>,
): Promise<R> =>
  withDatabase(databaseAddress(context, invocation), database => work(new OutboxAdmin(database)))

const given = <T extends object>(options: T) =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>
  }

/** What Prometheus asks this relay for: how much waits and since when, by outbox, and what was done here. On this machine only. */
async function serveMetrics(port: number, relay: OutboxRelay, outboxes: OutboxAdmin) {
  const registry = new Registry()
  const registers = [registry]
  const gauge = (name: string, help: string) => new Gauge({ name, help, labelNames: ['outbox'], registers })
  const pending = gauge('sluice_outbox_pending_rows', 'Rows that are to be published.')
  const failed = gauge('sluice_outbox_failed_rows', 'Rows that were refused for good.')
  const oldest = gauge('sluice_outbox_oldest_seconds', 'Age of the oldest row that is to be published.')
  const relays = gauge('sluice_outbox_relays', 'Relays at work.')
  const counter = (name: string, help: string) => new Counter({ name, help, registers })
  const published = counter('sluice_outbox_published_total', 'Rows that this relay has published.')
  const refused = counter('sluice_outbox_refused_total', 'Rows that this relay was refused for good.')
  const errors = counter('sluice_outbox_errors_total', 'Failures that pass, such as a database that is away.')
  relay.on('published', rows => published.inc(rows))
  relay.on('refused', () => refused.inc())
  relay.on('error', () => errors.inc())

  const collect = (statuses: readonly OutboxStatus[]): void => {
    for (const one of [pending, failed, oldest, relays]) one.reset()
    for (const status of statuses) {
      const labels = { outbox: status.outbox }
      pending.set(labels, status.pending)
      failed.set(labels, status.failed)
      oldest.set(labels, status.oldestMs / 1000)
      relays.set(labels, status.relays.length)
    }
  }
  const server = createServer(async (request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end()
      return
    }
    // the counters are worth having while the database is away
    await outboxes.status().then(collect, () => errors.inc())
    response.writeHead(200, { 'content-type': registry.contentType }).end(await registry.metrics())
  })
  server.listen(port, '127.0.0.1')
  try {
    await once(server, 'listening')
  } catch (error) {
    throw new SluiceError(
      'ADDRESS_IN_USE',
      `--metrics-port ${port}: ${(error as Error).message}`,
      { port },
      error,
    )
  }
  return {
    port: (server.address() as AddressInfo).port,
    close: async (): Promise<void> => {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}
