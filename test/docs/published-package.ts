/**
 * The package as it is published, in a folder of its own: what package.json lists under `files`, with `dist` built from
 * the source at hand, installed beside the modules of the repository. Programs in the folder import 'sluice' as a user's do.
 */

import { execFile } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
export const root = join(import.meta.dirname, '../..')

export class PublishedPackage implements Disposable {
  /** Where programs of the test go. */
  readonly path: string

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
      if (name !== 'sluice') symlinkSync(join(root, 'node_modules', name), join(modules, name))
    }
    await tsc(['-p', join(root, 'tsconfig.build.json'), '--outDir', join(package_, 'dist')])
    return new PublishedPackage(path)
  }

  /** The command, as npm would link it. */
  get command(): string {
    return join(this.path, 'node_modules/sluice/bin/sluice.js')
  }

  /** A file or folder of the repository, copied to the same place under `path`. */
  copy(name: string): string {
    const target = join(this.path, name)
    if (!existsSync(target)) cpSync(join(root, name), target, { recursive: true })
    return target
  }

  /** Rejects with what the compiler says. */
  async typecheck(files: readonly string[]): Promise<void> {
    const flags = 'strict verbatimModuleSyntax erasableSyntaxOnly noEmit allowImportingTsExtensions'.split(' ')
    const options = ['--module', 'nodenext', '--target', 'es2024', '--types', 'node', '--skipLibCheck', 'false']
    await tsc([...flags.map(flag => `--${flag}`), ...options, ...files], this.path)
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true })
  }
}

async function tsc(args: readonly string[], cwd: string = root): Promise<void> {
  try {
    await run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), ...args], { cwd })
  } catch (error) {
    throw new Error(`tsc: ${(error as { stdout?: string }).stdout || String(error)}`)
  }
}
