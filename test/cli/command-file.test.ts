/** Which program `bin/sluice.js` runs: the bundle, unless a source file is newer; without either what the compiler made. */

import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'

const root = join(import.meta.dirname, '../..')
const OLD = new Date('2026-01-01')
const NEW = new Date('2026-01-02')

/** Runs the command in a folder with these programs, each of which says its name. */
function runWith(programs: Readonly<Record<string, Date>>): string {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-command-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  cpSync(join(root, 'bin/sluice.js'), join(folder, 'bin/sluice.js'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  for (const [name, time] of Object.entries(programs)) {
    const path = join(folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, `export const main = () => { console.log(${JSON.stringify(name)}); return 0 }\n`)
    utimesSync(path, time, time)
    if (name.startsWith('src/')) utimesSync(dirname(path), time, time)
  }
  return execFileSync(process.execPath, [join(folder, 'bin/sluice.js')], { encoding: 'utf8' }).trim()
}

const bundle = 'dist/bundle/main.js'
const source = 'src/cli/main.ts'
const compiled = 'dist/cli/main.js'

test.each([
  [bundle, 'newer than the source', { [bundle]: NEW, [source]: OLD, [compiled]: OLD }],
  [source, 'newer than the bundle', { [bundle]: OLD, [source]: NEW, [compiled]: OLD }],
  [source, 'there without a bundle', { [source]: OLD, [compiled]: NEW }],
  [bundle, 'in a package, which has no source', { [bundle]: OLD, [compiled]: NEW }],
  [compiled, 'alone', { [compiled]: OLD }],
])('runs %s when it is %s', (expected, _, programs) => {
  expect(runWith(programs)).toBe(expected)
})
