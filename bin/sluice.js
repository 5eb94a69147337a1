#!/usr/bin/env node
// The command. Plain JavaScript that every Node from 16 on can parse, so that an old one gets a sentence and not a
// syntax error. In a checkout it runs src/cli/main.ts (Node strips the types); the published package has no src, and
// runs dist/cli/main.js.

import { existsSync } from 'node:fs'
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

const source = new URL('../src/cli/main.ts', import.meta.url)
const { main } = await import(
  existsSync(source) ? source.href : new URL('../dist/cli/main.js', import.meta.url).href
)
process.exitCode = await main(process.argv.slice(2))
