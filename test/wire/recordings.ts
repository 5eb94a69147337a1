/**
 * Requests and responses as a real Apache Kafka and its clients exchanged them, in `recordings/API.txt`, one exchange a line:
 *
 *     VERSION CLIENT REQUEST RESPONSE        the two are base64, without the size that precedes them on the wire
 *
 * `compat/record.ts` writes them. A line that begins with # is about where they come from.
 */

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Recorded {
  readonly api: string
  readonly version: number
  /** Who sent the request; `schemas`: it was encoded by our own schemas, and only the response is another's. */
  readonly client: string
  readonly request: Buffer
  readonly response: Buffer
}

export const recordingsDirectory = join(import.meta.dirname, 'recordings')

export function readRecordings(directory = recordingsDirectory): Recorded[] {
  return readdirSync(directory).flatMap(name => {
    const lines = readFileSync(join(directory, name), 'utf8').split('\n')
    return lines
      .filter(line => line !== '' && !line.startsWith('#'))
      .map((line): Recorded => {
        const [version, client, request, response] = line.split(' ')
        return {
          api: name.replace(/\.txt$/, ''),
          version: Number(version),
          client,
          request: Buffer.from(request, 'base64'),
          response: Buffer.from(response, 'base64'),
        }
      })
  })
}

export function writeRecordings(
  all: readonly Recorded[],
  about: string,
  directory = recordingsDirectory,
): void {
  for (const api of new Set(all.map(each => each.api))) {
    const lines = all
      .filter(each => each.api === api)
      .sort((a, b) => a.version - b.version || (a.client < b.client ? -1 : 1))
      .map(
        ({ version, client, request, response }) =>
          `${version} ${client} ${request.toString('base64')} ${response.toString('base64')}`,
      )
    writeFileSync(join(directory, `${api}.txt`), `# ${about}\n${lines.join('\n')}\n`)
  }
}
