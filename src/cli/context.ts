/**
 * What a command stands on: its streams, its signals, the engine it opens. A command never touches `process`, so that a
 * test can run it in the same process and see everything it does.
 */

import { existsSync } from 'node:fs'
import type { Readable, Writable } from 'node:stream'
import type { Sluice } from '../delivery/sluice.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { resolveOptions, type ServeOptions } from '../server/options.ts'

export interface Io {
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable
  /** Whether a person watches standard error: only then is there a progress bar. */
  readonly stderrIsTerminal: boolean
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Calls `listener` for SIGINT and SIGTERM, which then no longer end the process, until the returned function is called. */
  onSignal(listener: (signal: 'SIGINT' | 'SIGTERM') => void): () => void
  /** Ends the process at once: for a second signal. */
  exit(code: number): never
}

/** `memory:`, `file:`…; a single letter before the colon is a drive of Windows. */
const HAS_SCHEME = /^[a-z][a-z0-9+.-]+:/i
const IS_SERVER = /^kafka:/i

/** 0 and the failures below are documented in `sluice --help`. */
export const exitCodes = { ok: 0, failure: 1, usage: 2, SIGINT: 130, SIGTERM: 143 } as const

/** The arguments of one run, as the table in `commands.ts` declares them. */
export class Invocation {
  readonly operands: readonly string[]
  /** As commander gives them; for what has its own table of options (`serve`). */
  readonly options: Readonly<Record<string, unknown>>

  constructor(operands: readonly string[], options: Readonly<Record<string, unknown>>) {
    this.operands = operands
    this.options = options
  }

  text(name: string): string | undefined {
    return this.options[name] as string | undefined
  }

  number(name: string): number | undefined {
    return this.options[name] as number | undefined
  }

  has(name: string): boolean {
    return this.options[name] === true
  }

  list(name: string): readonly string[] {
    return (this.options[name] as readonly string[] | undefined) ?? []
  }
}

export type Run = (context: Context, invocation: Invocation) => Promise<number>

export class Context {
  readonly io: Io
  readonly #invocation: Invocation
  #stopListening: (() => void) | undefined
  #keepAlive: NodeJS.Timeout | undefined
  #sluice: Sluice | undefined
  #signal: 'SIGINT' | 'SIGTERM' | undefined

  constructor(io: Io, invocation: Invocation) {
    this.io = io
    this.#invocation = invocation
  }

  /**
   * Opens the engine that `--url` names, or SLUICE_URL; if nothing does, the server that the configuration describes
   * (kafka://127.0.0.1:9092). Rejects with `UNREACHABLE` and what to do about it if no server answers.
   * `create: false`: a directory that is not there is refused (`NOT_A_DATA_DIRECTORY`) instead of being made, as a command
   * that only looks should not leave something behind after a slip of the pen. `close` closes it again. To be called once.
   */
  async open(options: { readonly create: boolean }): Promise<Sluice> {
    const { environment } = this.io
    const named = this.#invocation.text('url') ?? (environment.SLUICE_URL || undefined)
    const isDirectory = named !== undefined && !IS_SERVER.test(named)
    const config = await resolveOptions({
      flags: isDirectory ? { data: named } : {},
      environment,
      ...this.#configPath(),
    })
    const autoCreateTopics = options.create && config.autoCreateTopics
    this.#sluice = isDirectory
      ? await this.#openDirectory(config, options.create, autoCreateTopics)
      : await openServer(named ?? serverUrl(config), autoCreateTopics)
    return this.#sluice
  }

  async #openDirectory(config: ServeOptions, create: boolean, autoCreateTopics: boolean): Promise<Sluice> {
    if (!create && !HAS_SCHEME.test(config.data) && !existsSync(config.data)) {
      const message = `there is no data directory at ${config.data}; name it with --url or SLUICE_URL`
      throw new SluiceError('NOT_A_DATA_DIRECTORY', message, { path: config.data })
    }
    const { openSluice } = await import('../server/opening.ts') // not for --help, dump, verify
    return await openSluice(config, {
      autoCreateTopics,
      relay: false, // a command does what it was told, and no more
      onReport: ({ severity, message }) => {
        if (severity === 'warning') this.note(`sluice: recovery: ${message}`)
      },
    })
  }

  #configPath(): { configPath: string } | undefined {
    const configPath = this.#invocation.text('config')
    return configPath === undefined ? undefined : { configPath }
  }

  /** Writes to standard output; resolves once the system has taken it. Throws `OutputClosed` if nobody reads any more. */
  write(chunk: string | Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      this.io.stdout.write(chunk, error => {
        if (!error) resolve()
        else reject((error as NodeJS.ErrnoException).code === 'EPIPE' ? new OutputClosed() : error)
      })
    })
  }

  /** A line for the person at the terminal. */
  note(line: string): void {
    this.io.stderr.write(`${line}\n`)
  }

  /**
   * From now on SIGINT and SIGTERM abort the returned signal and the command ends by itself; a second one ends the
   * process where it stands. The process lives until then, or until the command is done, even if all that it does is
   * wait. To be called once.
   */
  interruption(): AbortSignal {
    const controller = new AbortController()
    this.#keepAlive = setInterval(() => {}, 2 ** 31 - 1)
    this.#stopListening = this.io.onSignal(signal => {
      if (controller.signal.aborted) this.io.exit(exitCodes[signal])
      this.#signal = signal
      controller.abort()
    })
    return controller.signal
  }

  /** The exit code of a command that ended because of a signal; undefined if none came. */
  get interruptedWith(): number | undefined {
    return this.#signal && exitCodes[this.#signal]
  }

  /** Closes what was opened: rejects if that fails. Calling it again gives the same. */
  async close(): Promise<void> {
    clearInterval(this.#keepAlive)
    this.#stopListening?.()
    await this.#sluice?.close()
  }
}

async function openServer(url: string, autoCreateTopics: boolean): Promise<Sluice> {
  const { open } = await import('../open.ts')
  try {
    return await open({ url, autoCreateTopics })
  } catch (error) {
    if (!isSluiceError(error, 'UNREACHABLE')) throw error
    const advice =
      'is the server running? `sluice serve` (in a checkout: `npm start`) starts one; --url DIRECTORY works without'
    throw new SluiceError('UNREACHABLE', `${error.message}; ${advice}`, { ...error.detail, url }, error)
  }
}

/** Where the server listens that this configuration is for. */
function serverUrl({ host, kafkaPort }: ServeOptions): string {
  if (kafkaPort === 'off' || kafkaPort === 0) {
    const message = `kafka-port is ${kafkaPort}, so the server cannot be found by its configuration; name its address with --url`
    throw new SluiceError('INVALID_URL', message, { kafkaPort })
  }
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host
  return `kafka://${reachable.includes(':') ? `[${reachable}]` : reachable}:${kafkaPort}`
}

/** The reader of our output has gone (`| head`): no failure, there is just nothing left to do. */
export class OutputClosed extends Error {}
