/**
 * `npm run compat -- [NAME…] [--json FILE] [--rounds N]`: runs the checks of Kafka clients, all or those that are named, one after
 * the other, each against a server of its own. See compat/README.md.
 *
 * Prints one line per case and ends in `N passed, N failed, N not run`. The exit code is 1 if anything failed, otherwise 0.
 */

import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type Check, NotRunnable, oneLine, Report } from './check.ts'
import { Observer } from './observer.ts'
import { type ClientResult, mergeResults } from './results.ts'
import { nameOf, SluiceServer } from './server.ts'

const here = import.meta.dirname

/** Where clients are installed: never in the tree that git sees. */
const cache = process.env.XDG_CACHE_HOME
  ? join(process.env.XDG_CACHE_HOME, 'sluice-compat')
  : join(here, '../node_modules/.cache/sluice-compat')

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    help: { type: 'boolean' },
  },
})
/** Not run unless they are named. */
const special = ['crash', 'throughput', 'transactions']
const known = readdirSync(here)
  .filter(name => existsSync(join(here, name, 'check.ts')))
  .sort()

process.exitCode = await main()

async function main(): Promise<number> {
  const unknown = positionals.filter(name => !known.includes(name) && !special.includes(name))
  if (values.help || unknown.length > 0) {
    for (const name of unknown) console.error(`there is no check ${name}`)
    console.error('npm run compat -- [NAME…] [--json FILE] [--rounds N]')
    console.error('npm run compat -- throughput [--quick] [--only TEXT] [--json FILE] [--rounds N]')
    console.error('npm run compat -- transactions [--only CLIENT] [--rounds N]')
    console.error(`NAME: ${known.join(', ')}; not run unless they are named: ${special.join(', ')}`)
    return values.help ? 0 : 2
  }
  const reports: Report[] = []
  const results: Record<string, ClientResult> = {}
  for (const name of positionals.length > 0 ? positionals : known) {
    const report = new Report(name, line => console.log(line))
    reports.push(report)
    const dir = join(cache, name)
    mkdirSync(dir, { recursive: true })
    if (name === 'crash') {
      const { crash } = await import('./crash.ts')
      await crash(Number(values.rounds ?? 20), cache, report)
      continue
    }
    if (name === 'throughput') {
      const { throughput } = await import('./throughput/run.ts')
      const { quick, only, json } = values
      await throughput({ quick, only, json, rounds: Number(values.rounds ?? 3) }, cache, report)
      continue
    }
    if (name === 'transactions') {
      const { transactions } = await import('./transactions/run.ts')
      await transactions({ rounds: Number(values.rounds ?? 20), only: values.only }, cache, report)
      continue
    }
    const { check } = (await import(`./${name}/check.ts`)) as { check: Check }
    const result = await runCheck(check, dir, report)
    if (result !== null) results[name] = result
  }
  if (values.json !== undefined && Object.keys(results).length > 0) mergeResults(values.json, results)
  const total = (outcome: 'ok' | 'failed' | 'not run') =>
    reports.reduce((sum, report) => sum + report.count(outcome), 0)
  console.log(`${total('ok')} passed, ${total('failed')} failed, ${total('not run')} not run`)
  return total('failed') > 0 ? 1 : 0
}

/** Null if the client could not be run at all. */
async function runCheck(check: Check, dir: string, report: Report): Promise<ClientResult | null> {
  let version: string
  try {
    version = await check.install(dir)
  } catch (error) {
    if (error instanceof NotRunnable) report.notRun('install', error.message)
    else report.failed('install', oneLine(error))
    return null
  }
  await using observer = await Observer.listen()
  const flags = check.serverFlags ?? ['--auto-create-topics', 'false']
  await using server = new SluiceServer([...flags, '--kafka-advertised', `127.0.0.1:${observer.port}`])
  try {
    await server.start()
    observer.to(server.port)
    await check.run(`127.0.0.1:${observer.port}`, dir, report)
  } catch (error) {
    report.failed('check', oneLine(error))
  }
  if (report.count('failed') > 0 && server.errors !== '') {
    console.error(`What the server logged:\n${server.errors.slice(-2000)}`)
  }
  const apis = [...observer.seen]
    .sort(([a], [b]) => a - b)
    .map(([key, versions]) => [nameOf(key) ?? `API ${key}`, [...versions].sort((a, b) => a - b)] as const)
  return {
    client: check.client,
    version,
    cases: Object.fromEntries(report.cases),
    apis: Object.fromEntries(apis),
  }
}
