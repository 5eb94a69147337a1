/**
 * How a message looks as JSON, in the HTTP endpoints and in what the command line prints and reads. A stored key, value
 * or header value is bytes; JSON has none. So, going out:
 *
 *   value that is a JSON object or array      as that JSON, digit for digit as it was stored
 *   other bytes that are UTF-8                as a string
 *   bytes that are not UTF-8                  as { "base64": "…" }
 *   null (a tombstone)                        as null
 *
 * and coming in: a string is stored as its UTF-8 bytes (without quotes), { "base64": "…" } as those bytes, null as null,
 * any other JSON as its text. Keys and header values are never embedded as JSON: they are a string, base64 or null.
 * Headers are an object; a name that occurs more than once has an array of its values.
 */

import { isUtf8 } from 'node:buffer'
import { SluiceError } from '../errors.ts'

/** A header on its way in: a name, and text, bytes or nothing. */
export type IncomingHeader = readonly [name: string, value: Uint8Array | string | null]

export interface StoredMessage {
  readonly topic: string
  readonly partition: number
  readonly offset: number
  /** Milliseconds since the Unix epoch. */
  readonly timestamp: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly (readonly [name: string, value: Buffer | null])[]
}

/** One message as JSON text, on one line. */
export function messageJson(message: StoredMessage): string {
  const { topic, partition, offset, timestamp, key, value, headers } = message
  return `{"topic":${JSON.stringify(topic)},"partition":${partition},"offset":${offset},"timestamp":${timestamp},"key":${textJson(key)},"value":${valueJson(value)},"headers":${headersJson(headers)}}`
}

export function valueJson(bytes: Buffer | null): string {
  const first = bytes?.[0]
  if (bytes === null || (first !== 0x7b && first !== 0x5b) || !isUtf8(bytes)) return textJson(bytes)
  const text = bytes.toString('utf8')
  try {
    JSON.parse(text)
    // Stored text may be spread over lines; what we write is one line. Inside strings JSON has no bare line ends.
    return text.replace(/[\r\n]+/g, ' ')
  } catch {
    return JSON.stringify(text)
  }
}

export function textJson(bytes: Buffer | null): string {
  if (bytes === null) return 'null'
  return isUtf8(bytes) ? JSON.stringify(bytes.toString('utf8')) : `{"base64":"${bytes.toString('base64')}"}`
}

export function headersJson(headers: StoredMessage['headers']): string {
  if (headers.length === 0) return '{}'
  const byName = new Map<string, string[]>()
  for (const [name, value] of headers) {
    const values = byName.get(name)
    if (values) values.push(textJson(value))
    else byName.set(name, [textJson(value)])
  }
  const entries = [...byName].map(
    ([name, values]) =>
      `${JSON.stringify(name)}:${values.length === 1 ? values[0] : `[${values.join(',')}]`}`,
  )
  return `{${entries.join(',')}}`
}

/** What is to be stored for a `value` given in JSON. `what` names it in errors. Throws `INVALID_ARGUMENT`. */
export function valueFromJson(json: unknown, what: string): Uint8Array | string | null {
  if (json === undefined) throw invalid(`${what} is missing (null stores a tombstone)`)
  if (json === null || typeof json === 'string') return json
  const bytes = base64Of(json, what)
  return bytes ?? JSON.stringify(json)
}

/** What is to be stored for a `key` given in JSON: a string, a number, base64, or nothing. Throws `INVALID_ARGUMENT`. */
export function keyFromJson(json: unknown, what: string): Uint8Array | string | null {
  if (json === undefined || json === null) return null
  if (typeof json === 'string') return json
  if (typeof json === 'number') return String(json)
  const bytes = base64Of(json, what)
  if (bytes === undefined) throw invalid(`${what} must be a string, a number, {"base64": …} or null`)
  return bytes
}

export function headersFromJson(json: unknown, what: string): IncomingHeader[] {
  if (json === undefined || json === null) return []
  if (typeof json !== 'object' || Array.isArray(json)) throw invalid(`${what} must be an object`)
  const headers: IncomingHeader[] = []
  for (const [name, given] of Object.entries(json)) {
    for (const value of Array.isArray(given) ? given : [given]) {
      headers.push([name, keyFromJson(value, `${what}.${name}`)])
    }
  }
  return headers
}

/** The bytes, if the JSON is an object with `base64` as its only property. */
function base64Of(json: unknown, what: string): Buffer | undefined {
  if (typeof json !== 'object' || json === null || !Object.hasOwn(json, 'base64')) return
  if (Object.keys(json).length !== 1) return
  const text = (json as { base64: unknown }).base64
  if (typeof text !== 'string' || text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) {
    throw invalid(`${what}.base64 is not base64`)
  }
  return Buffer.from(text, 'base64')
}

const invalid = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
