/** Kafka's DumpLogSegments over files of a data directory, and what it may complain about. */

import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { runTool } from '../kafka-jars.ts'

const DUMP = 'org.apache.kafka.tools.DumpLogSegments'

/** Files in the folders of topics that begin so. */
export function filesOf({ data }: { data: string }, prefix: string, ending: string): string[] {
  const topics = join(data, 'topics')
  return readdirSync(topics, { recursive: true, encoding: 'utf8' })
    .filter(name => name.startsWith(prefix) && name.endsWith(ending))
    .map(name => join(topics, name))
    .sort()
}

/** Resolves with what it prints. Rejects if it fails, or complains. */
export async function dump(files: readonly string[], ...options: string[]): Promise<string> {
  return dumped(files, options, false)
}

/** The same for compacted logs, whose offsets have gaps. */
export async function dumpCompacted(files: readonly string[], ...options: string[]): Promise<string> {
  return dumped(files, options, true)
}

async function dumped(files: readonly string[], options: readonly string[], gaps: boolean): Promise<string> {
  const { code, stdout, stderr } = await runTool(DUMP, [...options, '--files', files.join(',')])
  assert.equal(code, 0, stderr)
  complaintsAbout(files, stderr, gaps)
  return stdout
}

/**
 * Mismatches are on standard error. This version reports the first record of every segment but a log's first as if it had to follow
 * offset -1, for Kafka's own files as well, and every gap, of which compacted logs are made; nothing else may be said.
 */
function complaintsAbout(files: readonly string[], stderr: string, gaps: boolean): void {
  const bases = new Set(files.map(file => Number.parseInt(basename(file), 10)))
  const wrong = stderr.split('\n').filter(line => {
    if (line === '' || line.startsWith('Non-consecutive offsets in ')) return false
    const pair = /^ {2}(-?\d+) is followed by (\d+)$/.exec(line)
    if (pair === null) return true
    const [before, after] = pair.slice(1).map(Number)
    return gaps ? after <= before : before !== -1 || !bases.has(after)
  })
  assert.deepEqual(wrong, [])
}
