/**
 * Compares src/wire/kafka with the message definitions that the Kafka project publishes, version by version: which fields
 * there are, in which order, with which type, and whether they can be null; tags, and defaults where Kafka writes one.
 *
 *     node scripts/compare-kafka-schemas.ts FOLDER…
 *
 * A folder holds the definitions of one release as JSON: clients/src/main/resources/common/message in Kafka's repository,
 * common/message in the jar of kafka-clients. Releases from 4.0 on leave out versions that they no longer serve: give a
 * folder of a 3.x release as well, so that every version of ours is in one of them. Exit status 1: something differs, or
 * a version of ours is in none of the folders.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { apis } from '../src/wire/kafka/apis.ts'
import {
  emptyValues,
  type Fields,
  includes,
  type Message,
  type VersionRange,
  type Versions,
  versionRange,
} from '../src/wire/kafka/schema.ts'

interface Definition {
  apiKey: number
  validVersions: string
  flexibleVersions: string
  latestVersionUnstable?: boolean
  fields: FieldDefinition[]
  commonStructs?: { name: string; fields: FieldDefinition[] }[]
}

interface FieldDefinition {
  name: string
  type: string
  versions: string
  nullableVersions?: string
  taggedVersions?: string
  tag?: number
  default?: string | number | boolean | null
  fields?: FieldDefinition[]
}

/** What a message looks like in one version: a line for each field. */
type Lines = Map<string, string>

const rangeOf = (versions: string | undefined): VersionRange | null =>
  versions === undefined || versions === 'none' ? null : versionRange(versions as Versions)

/** JSON with comments. A comment begins behind white space; two slashes within a text never do. */
function parse(text: string): Definition {
  return JSON.parse(text.replace(/^\s*\/\/.*$/gm, '').replace(/([,{}[\]"])\s+\/\/.*$/gm, '$1'))
}

const describeField = (kind: string, nullable: boolean, tag: number | null | undefined): string =>
  `${kind}${nullable ? ', can be null' : ''}${typeof tag === 'number' ? `, tag ${tag}` : ''}`

function linesOfDefinition(
  fields: readonly FieldDefinition[],
  structs: ReadonlyMap<string, FieldDefinition[]>,
  version: number,
  path = '',
  lines: Lines = new Map(),
): Lines {
  for (const field of fields) {
    if (!includes(rangeOf(field.versions), version)) continue
    const isArray = field.type.startsWith('[]')
    const element = isArray ? field.type.slice(2) : field.type
    const inner = field.fields ?? structs.get(element)
    const kind = `${isArray ? 'array of ' : ''}${inner === undefined ? element : 'struct'}`
    const tag = includes(rangeOf(field.taggedVersions), version) ? field.tag : null
    const name = `${path}${field.name[0].toLowerCase()}${field.name.slice(1)}`
    lines.set(name, describeField(kind, includes(rangeOf(field.nullableVersions), version), tag))
    if (inner !== undefined) linesOfDefinition(inner, structs, version, `${name}.`, lines)
  }
  return lines
}

function linesOfSchema(fields: Fields, version: number, path = '', lines: Lines = new Map()): Lines {
  for (const [name, field] of Object.entries(fields)) {
    if (!includes(field.versions, version)) continue
    const inner = typeof field.element === 'string' ? field.element : 'struct'
    const kind = field.kind === 'array' ? `array of ${inner}` : field.kind
    lines.set(`${path}${name}`, describeField(kind, includes(field.nullable, version), field.tag))
    if (field.element !== null && typeof field.element === 'object') {
      linesOfSchema(field.element, version, `${path}${name}.`, lines)
    }
  }
  return lines
}

/** Fields in the order of their bytes: tagged ones are ordered by their tags, wherever they are written down. */
const ordered = (lines: Lines): string[] =>
  [...lines].filter(([, line]) => !line.includes('tag')).map(([name]) => name)

function compareVersion(message: Message, definition: Definition, version: number): string[] {
  const structs = new Map((definition.commonStructs ?? []).map(({ name, fields }) => [name, fields]))
  const theirs = linesOfDefinition(definition.fields, structs, version)
  const ours = linesOfSchema(message.fields, version)
  const differences: string[] = []
  for (const [name, line] of theirs) {
    if (ours.get(name) !== line) differences.push(`${name}: ${ours.get(name) ?? 'missing'}; Kafka: ${line}`)
  }
  for (const name of ours.keys()) if (!theirs.has(name)) differences.push(`${name}: Kafka has none`)
  if (differences.length === 0 && `${ordered(ours)}` !== `${ordered(theirs)}`) differences.push('other order')
  const flexible = includes(rangeOf(definition.flexibleVersions), version)
  if (flexible !== version >= message.flexibleFrom) differences.push(flexible ? 'not flexible' : 'flexible')
  return differences
}

/** Defaults that Kafka writes down, as text. */
function compareDefaults(fields: Fields, definitions: readonly FieldDefinition[], path = ''): string[] {
  const differences: string[] = []
  for (const definition of definitions) {
    const name = `${definition.name[0].toLowerCase()}${definition.name.slice(1)}`
    const field = fields[name]
    if (field === undefined) continue
    const written = definition.default
    const theirs = typeof written === 'string' && /^0x/.test(written) ? Number(written) : written
    const ours = field.default
    const isLargest = theirs === '9223372036854775807' && ours === Number.MAX_SAFE_INTEGER
    if (written !== undefined && String(theirs) !== String(ours) && !isLargest) {
      differences.push(`${path}${name}: default ${ours}; Kafka: ${written}`)
    }
    // without a written default, a tagged field is left out when it is empty
    if (written === undefined && field.tag !== null && ours !== emptyValues[field.kind]) {
      differences.push(`${path}${name}: default ${ours}; Kafka: none`)
    }
    if (definition.fields !== undefined && field.element !== null && typeof field.element === 'object') {
      differences.push(...compareDefaults(field.element, definition.fields, `${path}${name}.`))
    }
  }
  return differences
}

const folders = process.argv.slice(2)
if (folders.length === 0) {
  console.error('usage: node scripts/compare-kafka-schemas.ts FOLDER…')
  process.exit(2)
}

let compared = 0
const differences: string[] = []
const notes: string[] = []
for (const api of Object.values(apis)) {
  for (const message of [api.request, api.response]) {
    const seen = new Set<number>()
    for (const folder of folders) {
      const definition = parse(readFileSync(join(folder, `${message.name}.json`), 'utf8'))
      if (definition.apiKey !== api.key)
        differences.push(`${message.name}: key ${api.key}; Kafka: ${definition.apiKey}`)
      const { min, max } = rangeOf(definition.validVersions)!
      if (max > message.versions.max) notes.push(`${message.name}: version ${max} is new in ${folder}`)
      for (let version = min; version <= Math.min(max, message.versions.max); version++) {
        for (const difference of compareVersion(message, definition, version)) {
          differences.push(`${message.name} ${version}: ${difference} (${folder})`)
        }
        compared++
        seen.add(version)
      }
      for (const difference of compareDefaults(message.fields, definition.fields)) {
        differences.push(`${message.name}: ${difference} (${folder})`)
      }
    }
    for (let version = message.versions.min; version <= message.versions.max; version++) {
      if (!seen.has(version)) differences.push(`${message.name} ${version}: in none of the folders`)
    }
  }
}
for (const line of [...notes, ...differences]) console.log(line)
console.log(`${compared} message versions compared, ${differences.length} differences`)
process.exitCode = differences.length === 0 ? 0 : 1
