/** How a dead letter looks as JSON and how letters are asked for, over HTTP and on the command line. */

import type { DeadLetter } from '../delivery/dead-letters.ts'
import { headersJson, textJson, valueJson } from './message-json.ts'

/** On one line. */
export function deadLetterJson(letter: DeadLetter): string {
  const { key, value, headers, ...story } = letter
  const parts = `"key":${textJson(key)},"value":${valueJson(value)},"headers":${headersJson(headers as never)}`
  return `${JSON.stringify(story).slice(0, -1)},${parts}}`
}

/** Letters whose error has this text in its name or message, and that died of this; null: all. */
export function deadLetterFilter(wanted: {
  readonly error: string | undefined
  readonly reason: string | undefined
}): ((letter: DeadLetter) => boolean) | null {
  const { error: text, reason: cause } = wanted
  if (text === undefined && cause === undefined) return null
  return ({ error, reason }) =>
    (text === undefined || `${error.name}: ${error.message}`.includes(text)) &&
    (cause === undefined || reason === cause)
}
