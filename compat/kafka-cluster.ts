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
/** What Kafka's start script gives the JVM. */
const STARTING_FLAGS = [
  '-server',
  '-XX:+UseG1GC',
  '-XX:MaxGCPauseMillis=20',
  '-XX:InitiatingHeapOccupancyPercent=35',
  '-XX:+ExplicitGCInvokesConcurrent',
]
/** What `javaArguments` has instead. */
const QUICK_START = /TieredStop|SerialGC/

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
  /** JIT compiler and collector as Kafka's own start script sets them, for measurements; default false: quicker to start, slower afterwards. */
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
  /** Rejects when a node ends that was not stopped, with the end of its output. */
  readonly failed: Promise<never>
  stop(): Promise<void>
}

/** Starts a fresh cluster; resolves once every node answers. Rejects with the end of a node's output if one does not. */
export async function startKafka(options: KafkaOptions = {}): Promise<RunningKafka> {
  const { port = 19092, nodes = 1, heap = '512m', optimised = false } = options
  const classPath = await kafkaJars()
  const directory = mkdtempSync(join(tmpdir(), 'sluice-kafka-'))
  const java = javaArguments(classPath, heap)
  const server = optimised
    ? [...STARTING_FLAGS, `-Xms${heap}`, ...java.filter(each => !QUICK_START.test(each))]
    : java
  const ports = Array.from({ length: nodes }, (_, index) => port + 2 * index)
  const started: ChildProcess[] = []
  const killAll = (): void => {
    for (const child of started) child.kill('SIGKILL')
  }
  let isStopping = false
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
      started.push(
        spawn('java', [...server, 'kafka.Kafka', properties], { stdio: ['ignore', output, output] }),
      )
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
    failed: firstEnd(ports, started, directory, () => isStopping),
    stop: () => {
      isStopping = true
      return stop()
    },
  }
}

/** Never resolves; whoever does not look at it does not hear of it. */
function firstEnd(
  ports: readonly number[],
  nodes: readonly ChildProcess[],
  directory: string,
  isStopping: () => boolean,
): Promise<never> {
  const failed = new Promise<never>((_, reject) => {
    for (const [index, node] of nodes.entries())
      node.once('exit', (code, signal) => {
        if (isStopping()) return
        const how = signal ?? `exit code ${code}`
        const output = lastLines(join(directory, `node-${index + 1}`))
        reject(new Error(`Kafka on port ${ports[index]} ended (${how}):\n${output}`))
      })
  })
  failed.catch(() => {})
  return failed
}

const lastLines = (folder: string): string =>
  readFileSync(join(folder, 'output'), 'utf8').split('\n').slice(-30).join('\n')

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
      throw new Error(`Kafka on port ${port} ${isGone ? 'ended' : 'does not answer'}:\n${lastLines(folder)}`)
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
  const client = await RawClient.connect(port).catch(() => null)
  if (client === null) return false
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
  const nodes = Number(values.nodes)
  // Not only as long as its nodes live: a top-level await that nothing can settle any more ends the process without a word.
  const alive = setInterval(() => {}, 60_000)
  const config = Object.fromEntries(
    values.config.map(each => {
      const at = each.indexOf('=')
      return [each.slice(0, at), each.slice(at + 1)]
    }),
  )
  const kafka = await startKafka({
    port: Number(values.port),
    nodes,
    heap: values.heap,
    optimised: values.optimised,
    config,
  })
  process.stdout.write(`kafka ${kafka.bootstrap}\ndata ${kafka.directory}\npid ${kafka.pids.join(' ')}\n`)
  const asked = new Promise<void>(resolve => {
    process.once('SIGINT', () => resolve())
    process.once('SIGTERM', () => resolve())
  })
  try {
    // Of several nodes some may be killed: that is what they are several for.
    await (nodes === 1 ? Promise.race([asked, kafka.failed]) : asked)
  } finally {
    clearInterval(alive)
    await kafka.stop()
  }
}

if (import.meta.main) await main()
