#!/usr/bin/env node
// The command. Plain JavaScript that every Node from 16 on can parse, so that an old one gets a sentence and not a
// syntax error. It runs the bundle (scripts/bundle.ts), which loads several times as fast, unless something in src is newer:
// then src/cli/main.ts (Node strips the types). Without either it is dist/cli/main.js.

import { existsSync, readdirSync, statSync } from 'node:fs'
import * as nodeModule from 'node:module'

const [major, minor] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 22)) {
  console.error(
    `sluice needs Node.js 22.22 or newer; this is v${process.versions.node} (${process.execPath}). In a checkout, ` +
      '`npm start` and `npm run sluice` bring their own; otherwise see https://nodejs.org/en/download',
  )
  process.exit(1)
}

// Keeps compiled code between runs (in the temporary directory): starting takes about a third less time.
// NODE_DISABLE_COMPILE_CACHE=1 turns it off.
nodeModule.enableCompileCache()

const at = path => new URL(`../${path}`, import.meta.url)
const bundle = at('dist/bundle/main.js')

/** Whether no file of src was changed after the bundle was made. */
function isFresh() {
  if (!existsSync(bundle)) return false
  if (!existsSync(at('src'))) return true
  const made = statSync(bundle).mtimeMs
  return readdirSync(at('src'), { recursive: true }).every(
    name => statSync(at(`src/${name}`)).mtimeMs <= made,
  )
}

const source = at('src/cli/main.ts')
const program = isFresh() ? bundle : existsSync(source) ? source : at('dist/cli/main.js')
const { main } = await import(program.href)
process.exitCode = await main(process.argv.slice(2))
