/** The checks in compat/ that need nothing but npm, against a server in this process: every case of each is a test. */

import { expect, test } from 'vitest'
import { Report } from '../../compat/check.ts'
import { check as kafkajs } from '../../compat/kafkajs/check.ts'
import { check as platformatic } from '../../compat/platformatic/check.ts'
import type { LocalEngine } from '../../src/engine/local.ts'
import { TestServer } from '../server/running-server.ts'

test.concurrent.each([kafkajs, platformatic])('$name: all cases', async check => {
  expect(check.npmOnly).toBe(true)
  await using server = await TestServer.start({ httpPort: 'off', autoCreateTopics: 'false' })
  // Members of the consumer protocol hear of changes with their next heartbeat: not after the five seconds of every day.
  const { broker } = server.running.sluice.engine as LocalEngine
  Object.assign(broker.groups.limits, { consumerHeartbeatIntervalMs: 200 })
  const report = new Report(check.name)
  await check.install('')
  await check.run(`127.0.0.1:${server.running.addresses.kafka!.port}`, '', report)
  const bad = [...report.cases].filter(([, result]) => result.outcome !== 'ok')
  expect(bad).toEqual([])
  expect(report.cases.size).toBeGreaterThanOrEqual(13)
})
