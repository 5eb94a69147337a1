/** The clients that have a loop: how their programs are installed and started. */

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { NotRunnable } from '../check.ts'
import { check as franzGo } from '../franz-go/check.ts'
import { goProgramOf } from '../go.ts'
import { javaArguments, kafkaJars } from '../kafka-jars.ts'
import { check as kafkajs } from '../kafkajs/check.ts'
import { check as librdkafka } from '../librdkafka/check.ts'
import { check as platformatic } from '../platformatic/check.ts'
import { pythonOf } from '../python.ts'

export interface LoopArguments {
  readonly address: string
  readonly input: string
  readonly output: string
  readonly group: string
  readonly member: string
  /** Where the counts and sums go (Kafka Streams). */
  readonly sums: string
  /** A folder of the member's own, which it finds again when it is started again. */
  readonly folder: string
}

export interface LoopClient {
  readonly name: string
  /** Also writes counts and sums. */
  readonly hasSums?: boolean
  /** Why there are no aborted transactions in its input. */
  readonly cannotReadAborted?: string
  /** Resolves with the command that starts it, without its arguments. Throws `NotRunnable`. */
  install(cache: string): Promise<(args: LoopArguments) => string[]>
}

const basic = ({ address, input, output, group, member }: LoopArguments): string[] => [
  ...[address, input, output, group, member],
]

function source(name: string, file: string): string {
  return join(import.meta.dirname, '..', name, file)
}

async function installJava(cache: string): Promise<string[]> {
  if (spawnSync('javac', ['-version']).error !== undefined) throw new NotRunnable('no javac on the PATH')
  const classes = join(cache, 'transactions')
  mkdirSync(classes, { recursive: true })
  const jars = await kafkaJars()
  const sources = ['Loop.java', 'StreamsLoop.java'].map(file => source('java', file))
  execFileSync('javac', ['-nowarn', '-cp', jars, '-d', classes, ...sources], { encoding: 'utf8' })
  return ['java', ...javaArguments(`${classes}:${jars}`, '256m')]
}

export async function installLibrdkafka(cache: string): Promise<(program: string) => string[]> {
  const dir = join(cache, 'librdkafka')
  mkdirSync(dir, { recursive: true })
  await librdkafka.install(dir)
  return program => [pythonOf(dir), source('librdkafka', program)]
}

const java = (name: string, protocol: string): LoopClient => ({
  name,
  async install(cache) {
    const command = await installJava(cache)
    return args => [...command, 'Loop', ...basic(args), protocol]
  },
})

const overLibrdkafka = (name: string, protocol: string): LoopClient => ({
  name,
  async install(cache) {
    const program = await installLibrdkafka(cache)
    return args => [...program('loop.py'), ...basic(args), protocol]
  },
})

export const loopClients: readonly LoopClient[] = [
  java('java', 'classic'),
  java('java-kip848', 'consumer'),
  {
    name: 'kafka-streams',
    hasSums: true,
    async install(cache) {
      const command = await installJava(cache)
      return args => [...command, 'StreamsLoop', ...basic(args), args.sums, args.folder]
    },
  },
  overLibrdkafka('librdkafka', 'classic'),
  overLibrdkafka('librdkafka-kip848', 'consumer'),
  {
    name: 'franz-go',
    async install(cache) {
      const dir = join(cache, 'franz-go')
      mkdirSync(dir, { recursive: true })
      await franzGo.install(dir)
      return args => [goProgramOf(dir), ...basic(args)]
    },
  },
  {
    name: 'kafkajs',
    async install(cache) {
      await kafkajs.install(cache)
      return args => [process.execPath, source('kafkajs', 'loop.ts'), ...basic(args)]
    },
  },
  {
    name: 'platformatic',
    cannotReadAborted:
      'with read_committed this client delivers aborted records: it keeps one range per producer and answer, and none without its marker',
    async install(cache) {
      await platformatic.install(cache)
      return args => [process.execPath, source('platformatic', 'loop.ts'), ...basic(args)]
    },
  },
]
