/** Every engine, through the same suite. A Kafka cluster takes part if SLUICE_KAFKA_URL names one. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import type { Engine } from '../../src/engine/engine.ts'
import { openKafkaEngine } from '../../src/engine/kafka.ts'
import { openLocalEngine } from '../../src/engine/local.ts'
import { FakeEngine } from '../delivery/fake-engine.ts'
import { TestServer } from '../server/running-server.ts'
import { engineSuite } from './engine-suite.ts'

const directories = mkdtempSync(join(tmpdir(), 'sluice-engines-'))
afterAll(() => rmSync(directories, { recursive: true }))
let count = 0

engineSuite('fake', async () => new FakeEngine())
engineSuite('local, memory', () => openLocalEngine({ url: 'memory:' }))
engineSuite('local, directory', () => openLocalEngine({ url: join(directories, String(count++)) }))
engineSuite('kafka, sluice server', async () => {
  const server = await TestServer.start({ httpPort: 'off' })
  const engine = await openKafkaEngine({ url: server.running.addresses.kafka!.url, heartbeatMs: 50 })
  return closing(engine, () => server[Symbol.asyncDispose]())
})

const cluster = process.env.SLUICE_KAFKA_URL
if (cluster !== undefined) {
  engineSuite('kafka, cluster', async () => {
    const engine = await openKafkaEngine({ url: cluster, heartbeatMs: 50 })
    const topics = await engine.listTopics()
    for (const topic of ['t', 'u']) if (topics.includes(topic)) await engine.deleteTopic(topic)
    const groups = await engine.listGroups()
    for (const { group } of groups) if (['g', 'another'].includes(group)) await engine.deleteGroup(group)
    return engine
  })
}

/** Ends something else when the engine is closed. */
function closing(engine: Engine, end: () => Promise<void>): Engine {
  const { close } = engine
  engine.close = async () => {
    await close.call(engine)
    await end()
  }
  return engine
}
