/**
 * Databases for tests and benchmarks: real servers from the system's packages, each on a free port with a data folder of its own that is
 * removed afterwards. What is missing is installed (Debian's packages, as root); nothing is started by the system.
 *
 *     await using postgres = await startPostgres()
 *     new Pool(postgres.connection)
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Where a client finds the server. Users have no password: the servers listen on loopback only. */
export interface Connection {
  readonly host: string
  readonly port: number
  readonly user: string
  readonly database: string
}

const HOST = '127.0.0.1'
const START_MS_MAX = 60_000
const STOP_MS_MAX = 15_000

/** PostgreSQL says so, whose processes outlive the one that was killed by some milliseconds. */
const STILL_IN_USE = /shared memory block .* is still in use/

/** A server that runs, and can be killed and started again on the same data. */
export class Service {
  readonly connection: Connection
  readonly #directory: string
  readonly #start: () => ChildProcess
  readonly #isReady: () => Promise<boolean>
  readonly #stopSignal: NodeJS.Signals
  #process: ChildProcess | null = null
  #output = ''

  constructor(
    connection: Connection,
    directory: string,
    how: { start: () => ChildProcess; isReady?: () => Promise<boolean>; stopSignal?: NodeJS.Signals },
  ) {
    this.connection = connection
    this.#directory = directory
    this.#start = how.start
    this.#isReady = how.isReady ?? (() => accepts(connection.port))
    this.#stopSignal = how.stopSignal ?? 'SIGTERM'
  }

  get pid(): number {
    return this.#process?.pid as number
  }

  /** Starts it, and resolves when it answers. What is left of one that was killed may be in its way for a moment. */
  async start(): Promise<this> {
    const deadline = Date.now() + START_MS_MAX
    let child = this.#run()
    while (!(await this.#isReady())) {
      const hasEnded = child.exitCode !== null || child.signalCode !== null
      if (Date.now() > deadline || (hasEnded && !STILL_IN_USE.test(this.#output))) {
        throw new Error(`${child.spawnargs[0]} did not start:\n${this.#output}`)
      }
      if (hasEnded) child = this.#run()
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    return this
  }

  #run(): ChildProcess {
    const child = this.#start()
    this.#process = child
    this.#output = ''
    const keep = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-4_000)
    }
    child.stdout?.on('data', keep)
    child.stderr?.on('data', keep)
    return child
  }

  /** Ends it as a power cut of the process would: without a word. Resolves when it is gone. */
  kill(): Promise<void> {
    return this.#end('SIGKILL')
  }

  /** Holds it where it stands, so that it is there and does not answer. */
  freeze(): void {
    this.#process?.kill('SIGSTOP')
  }

  thaw(): void {
    this.#process?.kill('SIGCONT')
  }

  async stop(): Promise<void> {
    await this.#end(this.#stopSignal)
    rmSync(this.#directory, { recursive: true, force: true })
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process
    this.#process = null
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise<void>(resolve => child.once('exit', () => resolve()))
    child.kill('SIGCONT')
    child.kill(signal)
    const impatience = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX)
    await gone
    clearTimeout(impatience)
  }
}

/** PostgreSQL, with what a crash leaves behind as durable as it is in production (fsync on). */
export async function startPostgres(settings: Readonly<Record<string, string>> = {}): Promise<Service> {
  const bin = postgresBin()
  const user = asRoot() ? 'postgres' : (process.env.USER ?? 'postgres')
  const directory = ownedBy(user, makeDirectory('postgres'))
  const data = join(directory, 'data')
  const run = (command: string, args: readonly string[]) => [join(bin, command), ...args] as const
  const [initdb, ...initArgs] = as(
    user,
    run('initdb', ['-D', data, '-U', 'postgres', '--auth=trust', '-E', 'UTF8', '--no-locale']),
  )
  execFileSync(initdb, initArgs, { stdio: 'pipe' })
  const port = await freePort()
  const options = {
    listen_addresses: HOST,
    port: String(port),
    unix_socket_directories: directory,
    ...settings,
  }
  const args = Object.entries(options).flatMap(([key, value]) => ['-c', `${key}=${value}`])
  const connection = { host: HOST, port, user: 'postgres', database: 'postgres' }
  return await new Service(connection, directory, {
    start: () => spawnAs(user, run('postgres', ['-D', data, ...args])),
    stopSignal: 'SIGINT', // fast shutdown
    isReady: async () => {
      try {
        const [ready, ...readyArgs] = run('pg_isready', ['-q', '-h', HOST, '-p', String(port)])
        execFileSync(ready, readyArgs, { stdio: 'pipe' })
        return true
      } catch {
        return false
      }
    },
  }).start()
}

/** MariaDB. */
export async function startMariadb(settings: Readonly<Record<string, string>> = {}): Promise<Service> {
  const server = binary('mariadbd', 'mariadb-server', ['/usr/sbin'])
  const install = binary('mariadb-install-db', 'mariadb-server', ['/usr/bin'])
  const user = asRoot() ? 'mysql' : (process.env.USER ?? 'mysql')
  const directory = ownedBy(user, makeDirectory('mariadb'))
  const data = join(directory, 'data')
  const common = ['--no-defaults', `--datadir=${data}`]
  const [command, ...args] = as(user, [
    install,
    ...common,
    '--auth-root-authentication-method=normal',
    '--skip-test-db',
  ])
  execFileSync(command, args, { stdio: 'pipe' })
  const port = await freePort()
  const options = {
    'bind-address': HOST,
    port: String(port),
    socket: join(directory, 'socket'),
    'pid-file': join(directory, 'pid'),
    ...settings,
  }
  const flags = Object.entries(options).map(([key, value]) => `--${key}=${value}`)
  const connection = { host: HOST, port, user: 'root', database: 'test' }
  const initFile = join(directory, 'init.sql')
  writeFileSync(initFile, 'CREATE DATABASE IF NOT EXISTS test;\n', { mode: 0o644 })
  return await new Service(connection, directory, {
    start: () => spawnAs(user, [server, ...common, ...flags, `--init-file=${initFile}`]),
    isReady: () => greets(port),
  }).start()
}

/** Redis, in memory or with its append-only file synced always. */
export async function startRedis(settings: Readonly<Record<string, string>> = {}): Promise<Service> {
  const server = binary('redis-server', 'redis-server', ['/usr/bin'])
  const directory = makeDirectory('redis')
  const port = await freePort()
  const options = { bind: HOST, port: String(port), dir: directory, save: '', ...settings }
  const flags = Object.entries(options).flatMap(([key, value]) => [`--${key}`, value])
  const connection = { host: HOST, port, user: '', database: '0' }
  return await new Service(connection, directory, { start: () => spawn(server, flags) }).start()
}

function postgresBin(): string {
  const installed = (): string | undefined => {
    const root = '/usr/lib/postgresql'
    if (!existsSync(root)) return undefined
    const versions = readdirSync(root).toSorted((one, other) => Number(other) - Number(one))
    return versions.map(version => join(root, version, 'bin')).find(bin => existsSync(join(bin, 'initdb')))
  }
  if (installed() === undefined) installPackage('postgresql')
  return installed() ?? missing('postgresql')
}

function binary(name: string, debianPackage: string, folders: readonly string[]): string {
  const paths = [...folders, ...(process.env.PATH ?? '').split(':')].map(folder => join(folder, name))
  const installed = () => paths.find(path => existsSync(path))
  if (installed() === undefined) installPackage(debianPackage)
  return installed() ?? missing(debianPackage)
}

/** Once per machine. Run level 1: the package's own service is not started. */
function installPackage(name: string): void {
  if (!asRoot()) missing(name)
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  execFileSync('apt-get', ['update', '-qq'], { env, stdio: 'pipe' })
  execFileSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', name], { env, stdio: 'pipe' })
}

function missing(name: string): never {
  throw new Error(`${name} is not installed; on Debian: sudo apt-get install ${name}`)
}

const asRoot = (): boolean => process.getuid?.() === 0

/** Database servers refuse to run as root. */
const as = (user: string, command: readonly string[]): string[] =>
  asRoot() ? ['setpriv', `--reuid=${user}`, `--regid=${user}`, '--clear-groups', ...command] : [...command]

function spawnAs(user: string, command: readonly string[]): ChildProcess {
  const [file, ...args] = as(user, command)
  return spawn(file, args)
}

function makeDirectory(name: string): string {
  return mkdtempSync(join(tmpdir(), `sluice-${name}-`))
}

function ownedBy(user: string, directory: string): string {
  if (!asRoot()) return directory
  const id = (flag: string) => Number(execFileSync('id', [flag, user], { encoding: 'utf8' }))
  chownSync(directory, id('-u'), id('-g'))
  chmodSync(directory, 0o700)
  return directory
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, HOST, () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

const accepts = (port: number): Promise<boolean> => answers(port, 'connect')

/** MariaDB speaks first, when it can be spoken to. */
const greets = (port: number): Promise<boolean> => answers(port, 'data')

function answers(port: number, sign: 'connect' | 'data'): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, HOST)
    socket.once(sign, () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('close', () => resolve(false))
    socket.once('error', () => resolve(false))
  })
}
