/** How `sluice consume` prints a message: its value, JSON, or a format of the user's. */

import { SluiceError } from '../errors.ts'
import { messageJson, type StoredMessage } from '../server/message-json.ts'
import type { Context, Invocation } from './context.ts'

/** Appends what is printed of a message, line end included, to `pieces`. */
export type Printer = (message: StoredMessage, pieces: Uint8Array[]) => void

const NEWLINE = Buffer.from('\n')

/** Throws `INVALID_ARGUMENT`. */
export function printerOf(invocation: Invocation): Printer {
  const format = invocation.text('format')
  if (invocation.has('json')) {
    if (format !== undefined)
      throw new SluiceError('INVALID_ARGUMENT', 'give only one of --json and --format')
    return (message, pieces) => pieces.push(Buffer.from(`${messageJson(message)}\n`))
  }
  if (format !== undefined) return formatPrinter(format)
  return ({ value }, pieces) => {
    if (value !== null) pieces.push(value)
    pieces.push(NEWLINE)
  }
}

const fields: Readonly<Record<string, (message: StoredMessage) => Uint8Array | string | number | null>> = {
  topic: message => message.topic,
  partition: message => message.partition,
  offset: message => message.offset,
  timestamp: message => message.timestamp,
  key: message => message.key,
  value: message => message.value,
}

const escapes: Readonly<Record<string, string>> = { '\\t': '\t', '\\n': '\n', '\\\\': '\\' }

function formatPrinter(format: string): Printer {
  const parts = format
    .split(/(\{\w+\}|\\[tn\\])/)
    .filter(part => part !== '')
    .map(part => {
      const name = /^\{(\w+)\}$/.exec(part)?.[1]
      if (name === undefined) return Buffer.from(escapes[part] ?? part)
      const field = Object.hasOwn(fields, name) ? fields[name] : undefined
      if (field) return field
      const message = `--format: {${name}} is not known; there are ${Object.keys(fields).join(', ')}`
      throw new SluiceError('INVALID_ARGUMENT', message, { field: name })
    })
  return (message, pieces) => {
    for (const part of parts) {
      const content = typeof part === 'function' ? part(message) : part
      if (content !== null)
        pieces.push(content instanceof Uint8Array ? content : Buffer.from(String(content)))
    }
    pieces.push(NEWLINE)
  }
}

/** Standard output, as far as --max goes. */
export class MessageOutput {
  readonly #context: Context
  readonly #print: Printer
  #remaining: number
  #pieces: Uint8Array[] = []

  /** `countMax` undefined: no limit. */
  constructor(context: Context, print: Printer, countMax: number | undefined) {
    this.#context = context
    this.#print = print
    this.#remaining = countMax ?? Number.POSITIVE_INFINITY
  }

  /** Nothing more may be added. */
  get isComplete(): boolean {
    return this.#remaining <= 0
  }

  /** To be called while not complete. Nothing is written before `flush`. */
  add(message: StoredMessage): void {
    this.#remaining--
    this.#print(message, this.#pieces)
  }

  /** Resolves once the system has taken everything added before. Throws `OutputClosed`. */
  async flush(): Promise<void> {
    const pieces = this.#pieces
    this.#pieces = []
    if (pieces.length > 0) await this.#context.write(Buffer.concat(pieces))
  }
}
