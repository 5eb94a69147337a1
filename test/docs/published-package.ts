/**
 * The package as it is published, in a folder of its own: what package.json lists under `files`, with `dist` built from
 * the source at hand, installed beside the modules of the repository. Programs in the folder import 'sluice' as a user's do.
 */

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { bundle } from '../../scripts/bundle.ts'

export interface Outcome {
  /** Null after a signal. */
  readonly code: number | null
  readonly signal: string | null
  readonly stdout: string
  readonly stderr: string
}

export const root = join(import.meta.dirname, '../..')

export class PublishedPackage implements Disposable {
  /** Where programs of the test go. */
  readonly path: string
  readonly #running = new Set<ChildProcess>()

  private constructor(path: string) {
    this.path = path
  }

  static async install(): Promise<PublishedPackage> {
    const path = mkdtempSync(join(tmpdir(), 'sluice-package-'))
    const modules = join(path, 'node_modules')
    const package_ = join(modules, 'sluice')
    mkdirSync(package_, { recursive: true })
    writeFileSync(join(path, 'package.json'), '{ "type": "module" }')
    const { files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    for (const name of ['package.json', ...files]) {
      // what a working copy has in dist is of an earlier build, if anything
      if (name !== 'dist') cpSync(join(root, name), join(package_, name), { recursive: true })
    }
    for (const name of readdirSync(join(root, 'node_modules'))) {
      if (name !== 'sluice' && name !== '.bin')
        symlinkSync(join(root, 'node_modules', name), join(modules, name))
    }
    mkdirSync(join(modules, '.bin'))
    symlinkSync('../sluice/bin/sluice.js', join(modules, '.bin/sluice'))
    await tsc(['-p', join(root, 'tsconfig.build.json'), '--outDir', join(package_, 'dist'), '--noCheck'])
    await bundle(join(package_, 'dist/bundle'))
    return new PublishedPackage(path)
  }

  /** The command, as npm would link it. */
  get command(): string {
    return join(this.path, 'node_modules/sluice/bin/sluice.js')
  }

  /** An environment in which `sluice` is a command, run by the Node that runs the tests. */
  get environment(): NodeJS.ProcessEnv {
    const path = [join(this.path, 'node_modules/.bin'), dirname(process.execPath), process.env.PATH]
    return { ...process.env, PATH: path.join(delimiter) }
  }

  /** A file or folder of the repository, copied to the same place under `path`. */
  copy(name: string): string {
    const target = join(this.path, name)
    if (!existsSync(target)) cpSync(join(root, name), target, { recursive: true })
    return target
  }

  /**
   * Runs a program of `path`, or the command. `onOutput` gets all of standard output so far whenever there is more, and may kill the process: being
   * called synchronously, it sees the process at most a pipe's content ahead.
   */
  run(
    script: string,
    args: readonly string[] = [],
    onOutput: (text: string, child: ChildProcess) => void = () => {},
  ): Promise<Outcome> {
    // of node:sqlite, which an older Node remarks on
    const flags = ['--disable-warning=ExperimentalWarning']
    return outcomeOf(this.start(process.execPath, [...flags, script, ...args]), onOutput)
  }

  /** The same with a shell's commands. */
  shell(commands: string): Promise<Outcome> {
    return outcomeOf(this.start('sh', ['-ec', commands]))
  }

  /** A process of `path` that ends with this object at the latest. */
  start(file: string, args: readonly string[], cwd: string = this.path): ChildProcess {
    const child = spawn(file, args, { cwd, env: this.environment, stdio: ['ignore', 'pipe', 'pipe'] })
    this.#running.add(child)
    child.once('close', () => this.#running.delete(child))
    return child
  }

  /** Rejects with what the compiler says. */
  async typecheck(files: readonly string[]): Promise<void> {
    const flags = 'strict verbatimModuleSyntax erasableSyntaxOnly noEmit allowImportingTsExtensions'.split(
      ' ',
    )
    const options = [
      '--module',
      'nodenext',
      '--target',
      'es2024',
      '--types',
      'node',
      '--skipLibCheck',
      'false',
    ]
    await tsc([...flags.map(flag => `--${flag}`), ...options, ...files], this.path)
  }

  [Symbol.dispose](): void {
    for (const child of this.#running) child.kill('SIGKILL') // left by a test that has failed
    rmSync(this.path, { recursive: true, force: true })
  }
}

/** What a process has said when it has ended and its pipes are empty. */
export function outcomeOf(
  child: ChildProcess,
  onOutput: (text: string, child: ChildProcess) => void = () => {},
): Promise<Outcome> {
  let stdout = ''
  let stderr = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
    onOutput(stdout, child)
  })
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}

async function tsc(args: readonly string[], cwd: string = root): Promise<void> {
  try {
    await promisify(execFile)(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...args], {
      cwd,
    })
  } catch (error) {
    throw new Error(`tsc: ${(error as { stdout?: string }).stdout || String(error)}`)
  }
}
