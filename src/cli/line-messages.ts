/** Turns a line of input into a message, as the flags of `sluice produce` say. */

import { SluiceError } from '../errors.ts'
import type { Header } from '../record/builder.ts'
import { keyFromJson, valueFromJson } from '../server/message-json.ts'
import type { Invocation } from './context.ts'

export interface LineMessage {
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly Header[]
  readonly partition: number | undefined
}

/** null: there is no message in this line. Throws `INVALID_RECORD` saying what is wrong with it. */
export type LineReader = (line: Buffer) => LineMessage | null

/** Throws `INVALID_ARGUMENT` for flags that contradict each other. */
export function lineReader(invocation: Invocation): LineReader {
  const isJson = invocation.has('json')
  const keySources = ['key', 'keyField', 'keySeparator'].filter(name => invocation.text(name) !== undefined)
  if (keySources.length > 1) throw usage('give only one of --key, --key-field and --key-separator')
  for (const [name, flag] of [
    ['keyField', '--key-field'],
    ['valueField', '--value-field'],
  ]) {
    if (!isJson && invocation.text(name) !== undefined) throw usage(`${flag} needs --json`)
  }
  const separator = invocation.text('keySeparator')
  if (isJson && separator !== undefined)
    throw usage('--key-separator does not go with --json; see --key-field')
  if (separator === '') throw usage('--key-separator is empty')
  const common = {
    key: encoded(invocation.text('key') ?? null),
    headers: invocation.list('header').map(readHeader),
    partition: invocation.number('partition'),
  }
  if (isJson) return jsonReader(common, invocation.text('keyField'), invocation.text('valueField'))
  if (separator !== undefined) return separatedReader(common, Buffer.from(separator))
  return value => ({ ...common, value })
}

type Common = Omit<LineMessage, 'value'>

function jsonReader(
  common: Common,
  keyField: string | undefined,
  valueField: string | undefined,
): LineReader {
  const keyPath = keyField?.split('.')
  const valuePath = valueField?.split('.')
  return line => {
    const text = line.toString('utf8').trim()
    if (text === '') return null
    let json: unknown
    try {
      json = JSON.parse(text)
    } catch (error) {
      throw refused(`not JSON: ${(error as Error).message}`)
    }
    const key = keyPath ? refusing(() => keyFromJson(fieldOf(json, keyPath), keyField!)) : common.key
    // The line itself, not what JSON.parse made of it: numbers keep their digits.
    const value = valuePath ? refusing(() => valueFromJson(fieldOf(json, valuePath), valueField!)) : line
    return { ...common, key: encoded(key), value: encoded(value) }
  }
}

function separatedReader(common: Common, separator: Buffer): LineReader {
  return line => {
    const at = line.indexOf(separator)
    if (at < 0) throw refused(`there is no ${JSON.stringify(separator.toString())} in the line`)
    return { ...common, key: line.subarray(0, at), value: line.subarray(at + separator.length) }
  }
}

function fieldOf(json: unknown, path: readonly string[]): unknown {
  let value = json
  for (const name of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) {
      throw refused(`the field ${path.join('.')} is missing`)
    }
    value = (value as Record<string, unknown>)[name]
  }
  return value
}

function encoded(content: Uint8Array | string | null): Buffer | null {
  if (content === null || Buffer.isBuffer(content)) return content
  return Buffer.from(content as string)
}

/** NAME=VALUE. Throws `INVALID_ARGUMENT`. */
export function readHeader(text: string): Header {
  const at = text.indexOf('=')
  if (at < 1) throw usage(`--header takes NAME=VALUE, not ${JSON.stringify(text)}`)
  return [text.slice(0, at), text.slice(at + 1)]
}

function refusing<T>(convert: () => T): T {
  try {
    return convert()
  } catch (error) {
    throw error instanceof SluiceError ? refused(error.message) : error
  }
}

const usage = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
const refused = (message: string) => new SluiceError('INVALID_RECORD', message)
