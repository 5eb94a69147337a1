/**
 * `compat/results.json`: what was seen of each client when its check was run last. Kept in git; docs/guides/kafka.md shows it.
 * A run replaces the entries of the checks that it ran and leaves the others alone.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CaseResult } from './check.ts'

export interface ClientResult {
  readonly client: string
  readonly version: string
  readonly cases: Readonly<Record<string, CaseResult>>
  /** Names of the APIs that the client used, and the versions it used them in. */
  readonly apis: Readonly<Record<string, readonly number[]>>
}

/** By the name of the check. */
export type Results = Readonly<Record<string, ClientResult>>

export const resultsPath = join(import.meta.dirname, 'results.json')

export function readResults(path = resultsPath): Results {
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Results) : {}
}

export function mergeResults(path: string, fresh: Results): void {
  const all = Object.entries({ ...readResults(path), ...fresh })
  const sorted = Object.fromEntries(all.sort(([a], [b]) => (a < b ? -1 : 1)))
  writeFileSync(path, `${JSON.stringify(sorted, null, 2)}\n`)
}
