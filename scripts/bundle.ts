/**
 * Bundles the command into a few files under dist/bundle: two hundred modules take several times as long to load. `npm ci` in a checkout does it,
 * and so does packing; bin/sluice.js takes the bundle unless something in src is newer. Without the bundler (an install without
 * development dependencies) there is none, and the command runs as it did.
 */

import { rmSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')

/** Resolves with whether there is one now. */
export async function bundle(directory: string): Promise<boolean> {
  rmSync(directory, { recursive: true, force: true })
  const bundler = await import('rolldown').catch(() => null)
  if (bundler === null) return false
  const build = await bundler.rolldown({
    cwd: root,
    // the benchmark starts itself again, as a process of its own
    input: { main: join(root, 'src/cli/main.ts'), child: join(root, 'src/bench/child.ts') },
    platform: 'node',
    external: id => !id.startsWith('.') && !id.startsWith('/') && !/^[a-zA-Z]:[\\/]/.test(id),
  })
  // All in one folder: what is found beside package.json is found from there as it is from src/cli.
  const names = { entryFileNames: '[name].js', chunkFileNames: '[name]-[hash].js' }
  await build.write({ dir: directory, format: 'esm', ...names })
  await build.close()
  return true
}

if (import.meta.main) await bundle(join(root, 'dist/bundle'))
