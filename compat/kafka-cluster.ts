/**
 * A real Apache Kafka on this machine, to compare ourselves with: a fresh cluster of one or more nodes is formatted, started
 * and waited for.
 *
 *     node compat/kafka-cluster.ts [--port 19092] [--nodes 1] [--heap 512m] [--config key=value …]
 *
 * prints `kafka 127.0.0.1:PORT` once it answers, and runs until SIGINT or SIGTERM. Node n (from 1) listens on PORT + 2(n − 1),
 * its controller on the port after that. All data is in a temporary directory that goes with it.
 *
 * The jars are those of `kafka-jars.ts`. Needs Java 17 and Maven.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { systemClock } from '../src/lib/clock.ts'
import { javaArguments, KAFKA_VERSION, kafkaJars } from './kafka-jars.ts'
import { RawClient } from './raw-client.ts'

/** Longest that a node may take until it answers. */
const START_MS_MAX = 90_000
/** Longest that a node may take to stop before it is killed. */
const STOP_MS_MAX = 15_000
const HOST = '127.0.0.1'

const run = promisify(execFile)

export interface KafkaOptions {
  /** Where node 1 listens; default 19092. */
  readonly port?: number
  /** Default 1. */
  readonly nodes?: number
  /** Largest heap of each node, as `-Xmx` takes it; default 512m. */
  readonly heap?: string
  /** Lines for server.properties, on top of ours. */
  readonly config?: Readonly<Record<string, string>>
  /** All of the JIT compiler, for measurements; default false: quicker to start, slower afterwards. */
  readonly optimised?: boolean
}

export interface RunningKafka {
  /** `127.0.0.1:19092`, of all nodes, with commas. */
  readonly bootstrap: string
  readonly port: number
  readonly version: string
  /** Where its nodes keep data: `node-1/data/TOPIC-PARTITION`. */
  readonly directory: string
  /** Process ids, by node. */
  readonly pids: readonly number[]
  stop(): Promise<void>
}

/** Starts a fresh cluster; resolves once every node answers. Rejects with the end of a node's output if one does not. */
export async function startKafka(options: KafkaOptions = {}): Promise<RunningKafka> {
  const { port = 19092, nodes = 1, heap = '512m', optimised = false } = options
  const classPath = await kafkaJars()
  const directory = mkdtempSync(join(tmpdir(), 'sluice-kafka-'))
  const java = javaArguments(classPath, heap).filter(each => !(optimised && each.includes('TieredStop')))
  const ports = Array.from({ length: nodes }, (_, index) => port + 2 * index)
  const started: ChildProcess[] = []
  const killAll = (): void => {
    for (const child of started) child.kill('SIGKILL')
  }
  process.once('exit', killAll) // an exception that nobody caught must not leave it running
  const stop = async (): Promise<void> => {
    process.removeListener('exit', killAll)
    await Promise.all(started.map(stopProcess))
    rmSync(directory, { recursive: true, force: true })
  }
  try {
    const { stdout } = await run('java', [
      ...java,
      'org.apache.kafka.tools.StorageTool',
      'random-uuid',
    ]).catch(() => run('java', [...java, 'kafka.tools.StorageTool', 'random-uuid']))
    const id = stdout.trim()
    for (const [index] of ports.entries()) {
      const folder = join(directory, `node-${index + 1}`)
      mkdirSync(folder)
      const properties = join(folder, 'server.properties')
      writeFileSync(properties, propertiesOf(index, ports, folder, options.config ?? {}))
      await run('java', [...java, 'kafka.tools.StorageTool', 'format', '-t', id, '-c', properties])
      const output = openSync(join(folder, 'output'), 'a')
      started.push(spawn('java', [...java, 'kafka.Kafka', properties], { stdio: ['ignore', output, output] }))
    }
    await Promise.all(
      ports.map((each, index) => answers(each, started[index], join(directory, `node-${index + 1}`))),
    )
  } catch (error) {
    await stop()
    throw error
  }
  return {
    bootstrap: ports.map(each => `${HOST}:${each}`).join(','),
    port,
    version: KAFKA_VERSION,
    directory,
    pids: started.map(({ pid }) => pid!),
    stop,
  }
}

function propertiesOf(
  index: number,
  ports: readonly number[],
  folder: string,
  more: Readonly<Record<string, string>>,
): string {
  const replicas = String(Math.min(3, ports.length))
  const inSync = ports.length > 2 ? '2' : '1'
  const values: Record<string, string> = {
    'process.roles': 'broker,controller',
    'node.id': String(index + 1),
    'controller.quorum.voters': ports.map((each, at) => `${at + 1}@${HOST}:${each + 1}`).join(','),
    listeners: `PLAINTEXT://${HOST}:${ports[index]},CONTROLLER://${HOST}:${ports[index] + 1}`,
    'advertised.listeners': `PLAINTEXT://${HOST}:${ports[index]}`,
    'controller.listener.names': 'CONTROLLER',
    'log.dirs': join(folder, 'data'),
    'offsets.topic.replication.factor': replicas,
    'offsets.topic.num.partitions': '4',
    'transaction.state.log.replication.factor': replicas,
    'transaction.state.log.num.partitions': '4',
    'transaction.state.log.min.isr': inSync,
    'share.coordinator.state.topic.replication.factor': replicas,
    'share.coordinator.state.topic.num.partitions': '4',
    'share.coordinator.state.topic.min.isr': inSync,
    'group.initial.rebalance.delay.ms': '0',
    ...more,
  }
  return `${Object.entries(values)
    .map(([key, value]) => `${key}=${value}`)
    .join('\n')}\n`
}

/** Resolves when the node answers ApiVersions and has a controller. */
async function answers(port: number, process: ChildProcess, folder: string): Promise<void> {
  const deadline = systemClock.now() + START_MS_MAX
  for (;;) {
    const isGone = process.exitCode !== null || process.signalCode !== null
    if (isGone || systemClock.now() > deadline) {
      const output = readFileSync(join(folder, 'output'), 'utf8').split('\n').slice(-30).join('\n')
      throw new Error(`Kafka on port ${port} ${isGone ? 'ended' : 'does not answer'}:\n${output}`)
    }
    if (await isUp(port)) return
    await new Promise(resolve => setTimeout(resolve, 200))
  }
}

async function isUp(port: number): Promise<boolean> {
  const isOpen = await new Promise<boolean>(resolve => {
    const socket = connect(port, HOST, () => resolve(true))
    socket.on('error', () => resolve(false))
    socket.on('connect', () => socket.destroy())
  })
  if (!isOpen) return false
  const client = await RawClient.connect(port)
  try {
    const { brokers } = await client.request('Metadata', 12, { topics: [], allowAutoTopicCreation: false })
    return brokers.length > 0
  } catch {
    return false
  } finally {
    client.close()
  }
}

/** SIGTERM, and SIGKILL if that is not enough. */
async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise(resolve => child.once('exit', resolve))
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX)
  await ended
  clearTimeout(timer)
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      port: { type: 'string', default: '19092' },
      nodes: { type: 'string', default: '1' },
      heap: { type: 'string', default: '512m' },
      config: { type: 'string', multiple: true, default: [] },
      optimised: { type: 'boolean', default: false },
    },
  })
  const config = Object.fromEntries(
    values.config.map(each => {
      const at = each.indexOf('=')
      return [each.slice(0, at), each.slice(at + 1)]
    }),
  )
  const kafka = await startKafka({
    port: Number(values.port),
    nodes: Number(values.nodes),
    heap: values.heap,
    optimised: values.optimised,
    config,
  })
  process.stdout.write(`kafka ${kafka.bootstrap}\ndata ${kafka.directory}\npid ${kafka.pids.join(' ')}\n`)
  await new Promise<void>(resolve => {
    process.once('SIGINT', () => resolve())
    process.once('SIGTERM', () => resolve())
  })
  await kafka.stop()
}

if (import.meta.main) await main()
