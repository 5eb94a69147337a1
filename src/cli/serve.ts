/** `sluice serve`: starts a server, says where it is, and ends it on a signal. */

import { systemClock } from '../lib/clock.ts'
import { createLogger } from '../server/logger.ts'
import { resolveOptions, type ServeOptions } from '../server/options.ts'
import type { RunningServer } from '../server/server.ts'
import { version } from '../server/version.ts'
import { exitCodes, type Run } from './context.ts'

export const serve: Run = async (context, invocation) => {
  const { io } = context
  const options = await resolveOptions({
    flags: invocation.options,
    environment: io.environment,
    ...(invocation.text('config') === undefined ? {} : { configPath: invocation.text('config') }),
  })
  const log = createLogger({
    level: options.logLevel,
    format: options.logFormat,
    output: io.stderr,
    clock: systemClock,
  })
  // Before the server is up, so that no signal is lost in between.
  const interrupted = context.interruption()
  const { startServer } = await import('../server/server.ts')
  const server = await startServer(options, log)
  await context.write(greeting(options, server))
  if (!interrupted.aborted) {
    await new Promise(resolve => interrupted.addEventListener('abort', resolve, { once: true }))
  }
  await server.stop()
  return exitCodes.ok
}

/** What listens where, and what to try next. The lines work as they are printed; the documentation's first steps are these. */
function greeting(options: ServeOptions, { addresses }: RunningServer): string {
  const promise = { always: 'synced before acknowledged', interval: 'synced at intervals', os: 'not synced' }
  const storage =
    options.data === 'memory:'
      ? 'in memory, gone when it ends'
      : `${options.data} (${promise[options.flush]})`
  const lines = [`sluice ${version}`, `  data    ${storage}`]
  const url = addresses.http?.url
  lines.push(url ? `  http    ${url}` : '  http    off')
  const kafka = addresses.kafka
  lines.push(kafka ? `  kafka   ${kafka.host}:${kafka.port}` : '  kafka   off')
  lines.push('  amqp    not served by this version')
  if (url) {
    lines.push(
      '',
      'Try:',
      `  curl -H 'content-type: application/json' -d '{"key":"ann","value":"hello"}' '${url}/publish?topic=greetings'`,
      `  curl '${url}/consume?topic=greetings'`,
      `  curl '${url}/metrics'`,
    )
  }
  return `${lines.join('\n')}\n\n`
}
