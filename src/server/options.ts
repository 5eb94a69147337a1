/**
 * The one table of what `sluice serve` can be told. A row gives everything that is known about an option; flags
 * (`--http-port`), environment (`SLUICE_HTTP_PORT`), the keys of a configuration file (`http-port`), `--help` and
 * docs/CONFIGURATION.md are derived from it, so that they cannot drift apart.
 *
 * Precedence: flag, then environment, then configuration file, then default. A value that does not fit is refused with
 * `INVALID_CONFIG`, naming where it came from (for a file: path and line); nothing is ever corrected silently.
 *
 * The other commands read the same rows for what they share with the server: the data directory and how it is flushed.
 */

import { readFileSync } from 'node:fs'
import { SluiceError } from '../errors.ts'

interface RowBase {
  readonly meaning: string
  /** Heading under which help and documentation list it. */
  readonly section: 'Storage' | 'Listeners' | 'Limits' | 'Operation'
}
interface TextRow extends RowBase {
  readonly type: 'text'
  readonly default: string
  /** How the value is called in help: DIR, HOST… */
  readonly label: string
}
interface IntegerRow extends RowBase {
  readonly type: 'integer'
  readonly default: number
  readonly min: number
  readonly max: number
}
interface PortRow extends RowBase {
  readonly type: 'port'
  readonly default: number | 'off'
}
interface ChoiceRow extends RowBase {
  readonly type: 'choice'
  readonly default: string
  readonly choices: readonly string[]
}
interface SwitchRow extends RowBase {
  readonly type: 'switch'
  readonly default: boolean
}
export type OptionRow = TextRow | IntegerRow | PortRow | ChoiceRow | SwitchRow

export const optionTable = {
  data: {
    section: 'Storage',
    type: 'text',
    label: 'DIR|memory:',
    default: './data',
    meaning:
      'Where messages are kept: a directory, made if it is missing, or `memory:` for a server that forgets.',
  },
  flush: {
    section: 'Storage',
    type: 'choice',
    choices: ['always', 'interval', 'os'],
    default: 'always',
    meaning:
      'When a message counts as accepted. `always`: once it is on the disk (publishers share one sync); survives a power cut. `interval`: once it is in the page cache, synced every `flush-ms` or `flush-messages`; survives the process, a power cut may take what came since the last sync. `os`: synced when the operating system sees fit.',
  },
  'flush-ms': {
    section: 'Storage',
    type: 'integer',
    default: 1000,
    min: 1,
    max: 3_600_000,
    meaning: 'Under `flush: interval`: milliseconds between syncs of a partition that was written to.',
  },
  'flush-messages': {
    section: 'Storage',
    type: 'integer',
    default: 100_000,
    min: 2,
    max: 1_000_000_000,
    meaning: 'Under `flush: interval`: a partition is synced early once so many messages are waiting.',
  },
  'auto-create-topics': {
    section: 'Storage',
    type: 'switch',
    default: true,
    meaning: 'Publishing to a topic that does not exist creates it. Otherwise it is refused: UNKNOWN_TOPIC.',
  },
  partitions: {
    section: 'Storage',
    type: 'integer',
    default: 1,
    min: 1,
    max: 10_000,
    meaning: 'Partitions of a new topic for which no number is given.',
  },
  host: {
    section: 'Listeners',
    type: 'text',
    label: 'HOST',
    default: '127.0.0.1',
    meaning:
      'Address to listen on. Anything but loopback needs `insecure`, because there is no TLS and no authentication.',
  },
  'http-port': {
    section: 'Listeners',
    type: 'port',
    default: 8080,
    meaning: 'Port for HTTP: publish, consume, offsets, topics, /health, /metrics.',
  },
  'kafka-port': {
    section: 'Listeners',
    type: 'port',
    default: 9092,
    meaning: 'Port for the Kafka protocol.',
  },
  'kafka-advertised': {
    section: 'Listeners',
    type: 'text',
    label: 'HOST[:PORT]|auto',
    default: 'auto',
    meaning:
      'Where Kafka clients are told to connect, which they do after their first request. `auto`: where that request reached us; name an address if there is a port mapping or a proxy in between.',
  },
  'amqp-port': {
    section: 'Listeners',
    type: 'port',
    default: 'off',
    meaning:
      'Port for AMQP 0-9-1 (5672 by custom). Not served by this version: anything but `off` is refused.',
  },
  insecure: {
    section: 'Listeners',
    type: 'switch',
    default: false,
    meaning:
      'Listen on an address that others can reach, without TLS or authentication: whoever reaches the port can read, write and delete everything.',
  },
  'http-body-bytes-max': {
    section: 'Limits',
    type: 'integer',
    default: 16 * 1024 * 1024,
    min: 1024,
    max: 1024 ** 3,
    meaning:
      'Largest body of an HTTP request; beyond it: BODY_TOO_LARGE. The answer to one GET /consume stays within it too, unless a single message is larger.',
  },
  'connections-max': {
    section: 'Limits',
    type: 'integer',
    default: 10_000,
    min: 1,
    max: 1_000_000,
    meaning: 'Open connections; a further one is answered TOO_MANY_CONNECTIONS and closed.',
  },
  'max-wait-ms': {
    section: 'Limits',
    type: 'integer',
    default: 60_000,
    min: 0,
    max: 3_600_000,
    meaning: 'Longest that a GET /consume may wait for a message (`wait`), in milliseconds.',
  },
  'drain-ms': {
    section: 'Operation',
    type: 'integer',
    default: 10_000,
    min: 0,
    max: 3_600_000,
    meaning:
      'On SIGINT or SIGTERM: how long requests under way may take to finish, in milliseconds, before they are cut off.',
  },
  relay: {
    section: 'Operation',
    type: 'switch',
    default: true,
    meaning:
      'Delayed, recurring and half messages are delivered by this server, once there are any. Otherwise `sluice relay` does it.',
  },
  'alert-webhooks': {
    section: 'Operation',
    type: 'text',
    label: 'URL[,URL]|off',
    default: 'off',
    meaning:
      'Where to POST alerts, as JSON: new dead letters, groups that are too far behind, groups that are stuck. They are in the log as well.',
  },
  'alert-every-ms': {
    section: 'Operation',
    type: 'integer',
    default: 15_000,
    min: 100,
    max: 3_600_000,
    meaning: 'With `alert-webhooks`: milliseconds between two looks at groups and dead letters.',
  },
  'alert-lag': {
    section: 'Operation',
    type: 'integer',
    default: 10_000,
    min: 1,
    max: 1_000_000_000_000,
    meaning:
      'With `alert-webhooks`: a group that is more messages behind is a warning; a hundred times as many are critical.',
  },
  'alert-stuck-ms': {
    section: 'Operation',
    type: 'integer',
    default: 300_000,
    min: 100,
    max: 1_000_000_000,
    meaning:
      'With `alert-webhooks`: a group that is behind and has finished nothing for so many milliseconds is critical.',
  },
  'log-level': {
    section: 'Operation',
    type: 'choice',
    choices: ['debug', 'info', 'warn', 'error', 'silent'],
    default: 'info',
    meaning:
      'Least severe log line that is written (to standard error). `debug` has one line for each request.',
  },
  'log-format': {
    section: 'Operation',
    type: 'choice',
    choices: ['text', 'json'],
    default: 'text',
    meaning: 'Log lines for people, or one JSON object a line.',
  },
} as const satisfies Record<string, OptionRow>

export type OptionName = keyof typeof optionTable

type Camel<Name extends string> = Name extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<Camel<Tail>>}`
  : Name
type ValueOf<Row extends OptionRow> = Row extends { type: 'choice'; choices: readonly (infer Choice)[] }
  ? Choice
  : Row extends { type: 'text' }
    ? string
    : Row extends { type: 'integer' }
      ? number
      : Row extends { type: 'port' }
        ? number | 'off'
        : boolean

/** Every option under its name in camel case (`http-port` is `httpPort`), with a value that was checked. */
export type ServeOptions = {
  readonly [Name in OptionName as Camel<Name>]: ValueOf<(typeof optionTable)[Name]>
}

export const optionNames = Object.keys(optionTable) as OptionName[]

export const optionRow = (name: OptionName): OptionRow => optionTable[name]

/** `http-port` to `httpPort`: the property in `ServeOptions`, and what commander calls the flag. */
export function propertyOf(name: OptionName): string {
  return name.replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())
}

/** `http-port` to `SLUICE_HTTP_PORT`. */
export function environmentNameOf(name: OptionName): string {
  return `SLUICE_${name.replaceAll('-', '_').toUpperCase()}`
}

/** How the flag is written in help: `--http-port <PORT>`. A bare switch means true. */
export function flagOf(name: OptionName): string {
  const row = optionRow(name)
  if (row.type === 'switch') return `--${name} [BOOL]`
  return `--${name} <${row.type === 'text' ? row.label : labels[row.type]}>`
}

const labels = { integer: 'N', port: 'PORT', choice: 'WORD' } as const

/** What a value may be, in words, for error messages and documentation. */
export function rangeOf(row: OptionRow): string {
  switch (row.type) {
    case 'text':
      return 'text'
    case 'integer':
      return `a whole number from ${row.min} to ${row.max}`
    case 'port':
      return 'a port from 0 (any free one) to 65535, or "off"'
    case 'choice':
      return `one of ${row.choices.join(', ')}`
    case 'switch':
      return 'true or false'
  }
}

export interface OptionSources {
  /** By property name (`httpPort`), as commander gives them: text, or true for a bare switch. */
  readonly flags?: Readonly<Record<string, unknown>>
  readonly environment?: Readonly<Record<string, string | undefined>>
  /** Path of a configuration file (YAML or JSON). Default: `SLUICE_CONFIG` of the environment, or none. */
  readonly configPath?: string
}

/**
 * Merges the sources into a complete set of options. Throws `INVALID_CONFIG` for an unknown key, a value that does not
 * fit, or a configuration file that cannot be read.
 */
export async function resolveOptions(sources: OptionSources): Promise<ServeOptions> {
  const environment = sources.environment ?? {}
  const configPath = sources.configPath ?? (environment.SLUICE_CONFIG || undefined)
  const file = configPath === undefined ? undefined : await readConfigFile(configPath)
  const options: Record<string, unknown> = {}
  for (const name of optionNames) {
    const flag = sources.flags?.[propertyOf(name)]
    const variable = environment[environmentNameOf(name)]
    const entry = file?.get(name)
    if (flag !== undefined) options[propertyOf(name)] = checkValue(name, flag, `--${name}`, {})
    else if (variable !== undefined && variable !== '') {
      options[propertyOf(name)] = checkValue(name, variable, environmentNameOf(name), {})
    } else if (entry !== undefined) {
      const where = { file: configPath, line: entry.line }
      options[propertyOf(name)] = checkValue(name, entry.value, `${configPath}:${entry.line}: ${name}`, where)
    } else options[propertyOf(name)] = optionRow(name).default
  }
  return options as ServeOptions
}

function checkValue(name: OptionName, raw: unknown, source: string, where: Record<string, unknown>): unknown {
  const row = optionRow(name)
  const value = readValue(row, raw)
  if (value !== undefined) return value
  const shown = typeof raw === 'string' ? JSON.stringify(raw) : String(raw)
  throw new SluiceError('INVALID_CONFIG', `${source}: ${shown} is not ${rangeOf(row)}`, {
    key: name,
    value: raw,
    ...where,
  })
}

/** The value as the row wants it, or undefined. Text from flags and environment and native values from a file meet here. */
function readValue(row: OptionRow, raw: unknown): string | number | boolean | undefined {
  switch (row.type) {
    case 'text':
      return typeof raw === 'string' && raw !== '' ? raw : undefined
    case 'integer':
      return readInteger(raw, row.min, row.max)
    case 'port':
      // YAML 1.1 readers take a bare `off` for false; ours does not, but people's editors may write it so.
      return raw === 'off' || raw === false ? 'off' : readInteger(raw, 0, 65_535)
    case 'choice':
      return row.choices.find(choice => choice === raw)
    case 'switch':
      if (raw === true || raw === 'true') return true
      return raw === false || raw === 'false' ? false : undefined
  }
}

function readInteger(raw: unknown, min: number, max: number): number | undefined {
  const value = typeof raw === 'string' && /^-?\d{1,15}$/.test(raw) ? Number(raw) : raw
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max
    ? value
    : undefined
}

interface FileEntry {
  readonly value: unknown
  readonly line: number
}

async function readConfigFile(path: string): Promise<Map<OptionName, FileEntry>> {
  const { isMap, isScalar, LineCounter, parseDocument } = await import('yaml')
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    throw new SluiceError(
      'INVALID_CONFIG',
      `cannot read the configuration file ${path}: ${(error as Error).message}`,
      { file: path },
      error,
    )
  }
  const refuse = (line: number, message: string, detail: Record<string, unknown> = {}) =>
    new SluiceError('INVALID_CONFIG', `${path}:${line}: ${message}`, { file: path, line, ...detail })
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const problem = document.errors[0]
  if (problem) throw refuse(lines.linePos(problem.pos[0]).line, problem.message)
  const entries = new Map<OptionName, FileEntry>()
  if (document.contents === null) return entries
  if (!isMap(document.contents)) throw refuse(1, 'the file is not a list of "key: value"')
  for (const { key, value } of document.contents.items) {
    const line = isScalar(key) && key.range ? lines.linePos(key.range[0]).line : 1
    const name = isScalar(key) ? String(key.value) : 'the key'
    if (!Object.hasOwn(optionTable, name)) {
      throw refuse(line, `${name} is not a configuration key${suggestionFor(name)}`, { key: name })
    }
    if (!isScalar(value)) throw refuse(line, `${name} takes a single value`, { key: name })
    entries.set(name as OptionName, { value: value.value, line })
  }
  return entries
}

/** `httpPort` and `http_port` are the likely slips for `http-port`. */
function suggestionFor(name: string): string {
  const dashed = name
    .replace(/[_.]/g, '-')
    .replace(/([a-z])([A-Z])/g, '$1-$2')
    .toLowerCase()
  return Object.hasOwn(optionTable, dashed) ? `; it is written ${dashed}` : '; see `sluice serve --help`'
}

/** The configuration chapter of the documentation. */
export function optionsMarkdown(): string {
  const cell = (text: string) => text.replaceAll('|', '\\|')
  const parts: string[] = []
  for (const section of new Set(optionNames.map(name => optionRow(name).section))) {
    parts.push(`### ${section}`, '', '| flag, file key | environment | value | default | meaning |')
    parts.push('|---|---|---|---|---|')
    for (const name of optionNames) {
      const row = optionRow(name)
      if (row.section !== section) continue
      const columns = [`\`--${name}\``, `\`${environmentNameOf(name)}\``, rangeOf(row), `\`${row.default}\``]
      parts.push(`| ${[...columns, row.meaning].map(cell).join(' | ')} |`)
    }
    parts.push('')
  }
  return parts.join('\n')
}

/**
 * The safety rule: without TLS and authentication a server listens on loopback only, unless it was told otherwise in
 * so many words. Throws `INSECURE`. A host name other than `localhost` counts as reachable: what it resolves to may change.
 */
export function checkExposure(options: Pick<ServeOptions, 'host' | 'insecure'>): void {
  if (options.insecure || isLoopback(options.host)) return
  throw new SluiceError(
    'INSECURE',
    `${options.host} can be reached from other machines, and nothing is protected by TLS or a password; listen on 127.0.0.1, or give --insecure if that is what you want`,
    { host: options.host },
  )
}

/** Whether only this machine can reach the address. */
export function isLoopback(host: string): boolean {
  return /^127(\.\d{1,3}){3}$/.test(host) || host === '::1' || host === '[::1]' || host === 'localhost'
}
