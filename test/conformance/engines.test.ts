/** Every engine, through the same suites. A Kafka cluster takes part if SLUICE_KAFKA_URL names one. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, vi } from 'vitest'
import type { Engine } from '../../src/engine/engine.ts'
import { openKafkaEngine } from '../../src/engine/kafka.ts'
import { KafkaLink } from '../../src/engine/kafka-link.ts'
import { LocalEngine, openLocalEngine } from '../../src/engine/local.ts'
import { FakeEngine } from '../delivery/fake-engine.ts'
import { TestServer } from '../server/running-server.ts'
import { clientCrashSuite } from './client-crash-suite.ts'
import { deliverySuite } from './delivery-suite.ts'
import { engineSuite } from './engine-suite.ts'
import { type OpenedEngine, transactionSuite } from './transaction-suite.ts'

const directories = mkdtempSync(join(tmpdir(), 'sluice-engines-'))
afterAll(() => rmSync(directories, { recursive: true }))
let count = 0
const newDirectory = (): string => join(directories, String(count++))

const openKafka = (url: string): Promise<Engine> => openKafkaEngine({ url, heartbeatMs: 50 })

async function openLocal(url: string): Promise<OpenedEngine> {
  const engine = await openLocalEngine({ url })
  const another = async (): Promise<Engine> => {
    const beside = new LocalEngine(engine.broker, url, true)
    beside.close = async () => {} // the broker is the first one's
    return beside
  }
  return { engine, another }
}

async function openServed(): Promise<OpenedEngine & { readonly url: string }> {
  const server = await TestServer.start({ httpPort: 'off' })
  const { url } = server.running.addresses.kafka!
  const engine = closing(await openKafka(url), () => server[Symbol.asyncDispose]())
  return { engine, another: () => openKafka(url), url }
}

/** The client takes the cluster for one whose transactions are those from before KIP-890. */
const withoutFeatures = (open: () => Promise<OpenedEngine>) => async (): Promise<OpenedEngine> => {
  const feature = vi.spyOn(KafkaLink.prototype, 'feature').mockReturnValue(0)
  const opened = await open()
  closing(opened.engine, async () => feature.mockRestore())
  return opened
}

engineSuite('fake', async () => new FakeEngine())
engineSuite('local, memory', () => openLocalEngine({ url: 'memory:' }))
engineSuite('local, directory', () => openLocalEngine({ url: newDirectory() }))
engineSuite('kafka, sluice server', async () => (await openServed()).engine)

transactionSuite('local, memory', () => openLocal('memory:'))
transactionSuite('local, directory', () => openLocal(newDirectory()))
transactionSuite('kafka, sluice server', openServed)
transactionSuite('kafka, sluice server, first version', withoutFeatures(openServed))
clientCrashSuite('kafka, sluice server', openServed)

deliverySuite('local, memory', () => openLocalEngine({ url: 'memory:' }))
deliverySuite('local, directory', () => openLocalEngine({ url: newDirectory() }))
deliverySuite('kafka, sluice server', async () => (await openServed()).engine)

const cluster = process.env.SLUICE_KAFKA_URL
if (cluster !== undefined) {
  const openEmptied = async (): Promise<OpenedEngine & { readonly url: string }> => {
    const engine = await openKafka(cluster)
    const topics = await engine.listTopics()
    for (const topic of ['t', 'u', 'a', 'b', 'in', 'out'])
      if (topics.includes(topic)) await engine.deleteTopic(topic)
    const groups = await engine.listGroups()
    for (const { group } of groups) if (['g', 'another'].includes(group)) await engine.deleteGroup(group)
    return { engine, another: () => openKafka(cluster), url: cluster }
  }
  engineSuite('kafka, cluster', async () => (await openEmptied()).engine)
  transactionSuite('kafka, cluster', openEmptied)
  transactionSuite('kafka, cluster, first version', withoutFeatures(openEmptied))
  clientCrashSuite('kafka, cluster', openEmptied)
  deliverySuite('kafka, cluster', () => openKafka(cluster))
  deliverySuite('kafka, cluster, first version', async () => {
    const engine = await openKafka(cluster)
    return (await withoutFeatures(async () => ({ engine, another: () => openKafka(cluster) }))()).engine
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
