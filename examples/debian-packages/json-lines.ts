/**
 * Turns Debian's package lists into JSON lines: one object per package, its fields by name. A field of several lines keeps
 * them, joined by line feeds.
 *
 *     apt-cache dumpavail | node json-lines.ts > packages.jsonl
 */

import { createInterface } from 'node:readline'
import { pipeline } from 'node:stream/promises'

async function* jsonLines(lines: AsyncIterable<string>): AsyncGenerator<string> {
  let record: Record<string, string> = {}
  let field = ''
  for await (const line of lines) {
    if (line === '') {
      if (field !== '') yield `${JSON.stringify(record)}\n`
      record = {}
      field = ''
    } else if (line.startsWith(' ') || line.startsWith('\t')) {
      record[field] += `\n${line.slice(1)}`
    } else {
      field = line.slice(0, line.indexOf(':'))
      record[field] = line.slice(field.length + 1).trim()
    }
  }
  if (field !== '') yield `${JSON.stringify(record)}\n`
}

await pipeline(jsonLines(createInterface({ input: process.stdin })), process.stdout)
