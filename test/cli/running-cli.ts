/** Runs a command line in this process, with streams that a test can see, or the real one as a process of its own. */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { Io } from '../../src/cli/context.ts'
import { main } from '../../src/cli/main.ts'

export interface Outcome {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly stdin?: Readable | string
  readonly environment?: Readonly<Record<string, string>>
  /** Nobody reads standard output. */
  readonly isOutputClosed?: boolean
  /** Called with all that was written to standard output so far, whenever something is. */
  readonly onOutput?: (text: string, signal: (name: 'SIGINT' | 'SIGTERM') => void) => void
}

/** What a stream was given. */
class Capture extends Writable {
  text = ''
  readonly #onText: (text: string) => void
  readonly #isClosed: boolean

  constructor(onText: (text: string) => void = () => {}, isClosed = false) {
    super()
    this.#onText = onText
    this.#isClosed = isClosed
    this.on('error', () => {})
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error) => void): void {
    if (this.#isClosed) done(Object.assign(new Error('nobody reads'), { code: 'EPIPE' }))
    else {
      this.text += chunk.toString()
      done()
      this.#onText(this.text)
    }
  }
}

export async function run(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const listeners = new Set<(signal: 'SIGINT' | 'SIGTERM') => void>()
  const signal = (name: 'SIGINT' | 'SIGTERM') => {
    for (const listener of listeners) listener(name)
  }
  const stdout = new Capture(text => options.onOutput?.(text, signal), options.isOutputClosed)
  const stderr = new Capture()
  const { stdin = '' } = options
  const io: Io = {
    stdin: typeof stdin === 'string' ? Readable.from([Buffer.from(stdin)]) : stdin,
    stdout,
    stderr,
    stderrIsTerminal: false,
    environment: options.environment ?? {},
    onSignal(listener) {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    exit(code) {
      throw new Error(`the command ended the process with ${code}`)
    },
  }
  const code = await main(args, io)
  return { code, stdout: stdout.text, stderr: stderr.text }
}

/** A data directory of a test's own. */
export class DataDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'sluice-cli-'))
  readonly url = join(this.path, 'data')

  run(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
    return run(args, { ...options, environment: { SLUICE_URL: this.url, ...options.environment } })
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true })
  }
}

const script = fileURLToPath(new URL('../../bin/sluice.js', import.meta.url))

/** The real command, by the Node that runs the tests. */
export function start(args: readonly string[], nodeArgs: readonly string[] = []): ChildProcess {
  return spawn(process.execPath, [...nodeArgs, script, ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
}

/** Everything until the process ends. */
export async function finished(child: ChildProcess): Promise<Outcome> {
  let stdout = ''
  let stderr = ''
  child.stdout!.on('data', chunk => (stdout += chunk))
  child.stderr!.on('data', chunk => (stderr += chunk))
  const code = await new Promise<number>(resolve => child.once('close', status => resolve(status ?? -1)))
  return { code, stdout, stderr }
}

/** Resolves with what the process has written once it matches. */
export function output(child: ChildProcess, pattern: RegExp): Promise<RegExpMatchArray> {
  return new Promise((resolve, reject) => {
    let text = ''
    child.stdout!.on('data', chunk => {
      text += chunk
      const match = text.match(pattern)
      if (match) resolve(match)
    })
    child.once('close', code => reject(new Error(`the process ended with ${code} after: ${text}`)))
  })
}
