/**
 * Apache Kafka's own jars (server, tools, Java client, Streams) from Maven Central, in the cache of the compat checks, and how to run a
 * class of theirs. Needs Java 17 and Maven.
 */

import { execFile, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { NotRunnable } from './check.ts'

export const KAFKA_VERSION = '4.3.1'
/** Kafka logs through it; its POM leaves the choice to the user. */
const LOG4J_VERSION = '2.25.3'
const TOOL_MS_MAX = 60_000
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024

const run = promisify(execFile)

/** Where compat checks keep what they download: where git does not see it. */
export const cacheDirectory = process.env.XDG_CACHE_HOME
  ? join(process.env.XDG_CACHE_HOME, 'sluice-compat')
  : join(import.meta.dirname, '../node_modules/.cache/sluice-compat')

const home = join(cacheDirectory, `kafka-${KAFKA_VERSION}`)

/**
 * The class path. Downloads the jars the first time, which takes seconds; rejects with `NotRunnable` without Java and Maven, and with
 * what Maven says if it cannot.
 */
export async function kafkaJars(): Promise<string> {
  for (const tool of ['java', 'mvn']) {
    if (spawnSync(tool, ['-version']).error !== undefined) throw new NotRunnable(`no ${tool} on the PATH`)
  }
  const jars = join(home, 'jars')
  const complete = join(home, 'complete')
  if (!existsSync(complete) || readFileSync(complete, 'utf8') !== pom()) {
    mkdirSync(home, { recursive: true })
    writeFileSync(join(home, 'pom.xml'), pom())
    const goal = ['dependency:copy-dependencies', '-DincludeScope=runtime', `-DoutputDirectory=${jars}`]
    await run('mvn', ['-q', '-B', '-f', join(home, 'pom.xml'), ...goal], { maxBuffer: OUTPUT_BYTES_MAX })
    writeFileSync(join(home, 'log4j2.properties'), LOGGING)
    writeFileSync(complete, pom())
  }
  return join(jars, '*')
}

function pom(): string {
  const dependency = (group: string, artifact: string, version: string): string =>
    `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`
  return `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>sluice</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging><dependencies>
${dependency('org.apache.kafka', 'kafka_2.13', KAFKA_VERSION)}
${dependency('org.apache.kafka', 'kafka-tools', KAFKA_VERSION)}
${dependency('org.apache.kafka', 'kafka-streams', KAFKA_VERSION)}
${dependency('org.apache.logging.log4j', 'log4j-core', LOG4J_VERSION)}
${dependency('org.apache.logging.log4j', 'log4j-slf4j-impl', LOG4J_VERSION)}
</dependencies></project>
`
}

const LOGGING = `rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n
`

/** Arguments of `java` for a class of Kafka's: quick start, warnings to standard error. `heap` as `-Xmx` takes it. */
export function javaArguments(classPath: string, heap: string): string[] {
  const logging = `-Dlog4j2.configurationFile=${join(home, 'log4j2.properties')}`
  return [`-Xmx${heap}`, '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', logging, '-cp', classPath]
}

export interface ToolRun {
  /** Exit code; -1 if it was killed. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface ToolOptions {
  /** What it reads from its standard input. */
  readonly input?: string
  /** Called with its whole output so far whenever there is more; true ends the program with SIGTERM. */
  readonly until?: (stdout: string) => boolean
  /** Longest run in ms, default a minute; rejects then. */
  readonly msMax?: number
}

/** Runs a class of Kafka's jars. */
export async function runTool(
  className: string,
  args: readonly string[],
  options: ToolOptions = {},
): Promise<ToolRun> {
  const { input, until, msMax = TOOL_MS_MAX } = options
  const java = javaArguments(await kafkaJars(), '256m')
  const child = spawn('java', [...java, className, ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  let isLate = false
  child.stdout.setEncoding('utf8').on('data', text => {
    stdout += text
    if (until?.(stdout)) child.kill('SIGTERM')
  })
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  child.stdin.on('error', () => {})
  child.stdin.end(input ?? '')
  const timer = setTimeout(() => {
    isLate = true
    child.kill('SIGKILL')
  }, msMax)
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', exit => resolve(exit ?? -1))
  })
  clearTimeout(timer)
  if (isLate) throw new Error(`${className} is not finished after ${msMax / 1000} s: ${stdout}${stderr}`)
  return { code, stdout, stderr }
}
