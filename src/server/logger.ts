/**
 * The log of a server: one line per event on standard error, for people (`text`) or for machines (`json`). Lines name
 * topics, partitions, groups and files; never keys, values or headers of messages.
 */

import type { Writable } from 'node:stream'
import type { Clock } from '../lib/clock.ts'

const severities = { debug: 10, info: 20, warn: 30, error: 40, silent: 100 } as const

export type LogLevel = keyof typeof severities
export type LogFields = Readonly<Record<string, unknown>>

export interface Logger {
  debug(message: string, fields?: LogFields): void
  info(message: string, fields?: LogFields): void
  warn(message: string, fields?: LogFields): void
  error(message: string, fields?: LogFields): void
  /** Whether a line of this level would be written: ask before computing fields that cost something. */
  writes(level: LogLevel): boolean
}

export interface LoggerOptions {
  readonly level: LogLevel
  readonly format: 'text' | 'json'
  readonly output: Writable
  readonly clock: Clock
}

/** A field called `error` may be an Error: its message is written, at level `error` its stack too. */
export function createLogger(options: LoggerOptions): Logger {
  const { level, format, output, clock } = options
  const writes = (wanted: LogLevel) => severities[wanted] >= severities[level]
  const write = (lineLevel: LogLevel, message: string, fields: LogFields = {}) => {
    if (!writes(lineLevel)) return
    const time = new Date(clock.now()).toISOString()
    const flat = Object.entries(fields).flatMap(([name, value]) =>
      flatten(name, value, lineLevel === 'error'),
    )
    if (format === 'json') {
      output.write(`${JSON.stringify({ time, level: lineLevel, message, ...Object.fromEntries(flat) })}\n`)
      return
    }
    const tail = flat.map(([name, value]) => ` ${name}=${typeof value === 'string' ? quote(value) : value}`)
    output.write(`${time} ${lineLevel.padEnd(5)} ${message}${tail.join('')}\n`)
  }
  return {
    debug: (message, fields) => write('debug', message, fields),
    info: (message, fields) => write('info', message, fields),
    warn: (message, fields) => write('warn', message, fields),
    error: (message, fields) => write('error', message, fields),
    writes,
  }
}

function flatten(name: string, value: unknown, withStack: boolean): [string, unknown][] {
  if (!(value instanceof Error)) return [[name, value]]
  const code = 'code' in value ? [[`${name}Code`, value.code] as [string, unknown]] : []
  const stack = withStack ? [[`${name}Stack`, value.stack] as [string, unknown]] : []
  return [...code, [name, value.message], ...stack]
}

/** Bare where that can be read without doubt; quoted, and so on one line, otherwise. */
const quote = (text: string) => (/^[\w./:@+-]+$/.test(text) ? text : JSON.stringify(text))
