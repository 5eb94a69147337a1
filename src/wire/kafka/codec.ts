/**
 * The bytes of every version of every message, derived from its schema.
 *
 *     legacy     string  │ length int16 │ UTF-8 │            bytes │ length int32 │ … │       array │ count int32 │ … │
 *     flexible   string  │ length + 1 uvarint │ UTF-8 │      bytes │ length + 1 uvarint │ … │ array │ count + 1 uvarint │ … │
 *                struct  │ fields │ count uvarint │ tag uvarint │ size uvarint │ value │ …    (tagged fields, by tag)
 *     null       legacy length -1, flexible 0; a struct that may be null begins with an int8: 1, or -1 for null
 *
 * A decoder and an encoder are built once for each message and version, when first asked for: a closure for each field,
 * which knows its encoding. Neither looks into records, nor copies them.
 *
 * Invariants: a decoder gives a message or throws `MALFORMED_REQUEST`, whatever the bytes, and takes memory in proportion to
 * them; tagged fields that the schema does not know are skipped and forgotten. An encoder throws an assertion if a value
 * does not fit the schema: the schema's types rule that out.
 */

import assert from 'node:assert/strict'
import { type ByteReader, ByteWriter } from '../../lib/bytes.ts'
import {
  type Decoded,
  type Encodable,
  emptyValues,
  type Field,
  type Fields,
  includes,
  type Message,
  type SimpleKind,
} from './schema.ts'

/** Kafka has no longer strings, in either encoding. */
const STRING_BYTES_MAX = 0x7fff
/** What a writer for one tagged field begins with. They are short and rare. */
const TAGGED_CAPACITY = 256

type Read = (reader: ByteReader) => unknown
type Write = (writer: ByteWriter, value: unknown) => void

interface Codec {
  read: Read | undefined
  write: Write | undefined
}

const codecs = new WeakMap<Message, Codec[]>()

/**
 * Reads a message. The version must be one of the schema. Bytes behind the message are left alone, as Kafka does.
 * Throws `MALFORMED_REQUEST`.
 */
export function decode<F extends Fields>(
  message: Message<F>,
  version: number,
  reader: ByteReader,
): Decoded<F> {
  const codec = codecOf(message, version)
  codec.read ??= structReader(message.fields, version, version >= message.flexibleFrom)
  reader.subject = message.name
  return codec.read(reader) as Decoded<F>
}

/** Writes a message. The version must be one of the schema. */
export function encode<F extends Fields>(
  message: Message<F>,
  version: number,
  writer: ByteWriter,
  value: Encodable<F>,
): void {
  const codec = codecOf(message, version)
  codec.write ??= structWriter(message.fields, version, version >= message.flexibleFrom)
  writer.subject = message.name
  codec.write(writer, value)
}

function codecOf(message: Message, version: number): Codec {
  let versions = codecs.get(message)
  if (versions === undefined) codecs.set(message, (versions = []))
  let codec = versions[version]
  if (codec === undefined) {
    assert(includes(message.versions, version), `${message.name} has no version ${version}`)
    codec = { read: undefined, write: undefined }
    versions[version] = codec
  }
  return codec
}

// structs

function structReader(fields: Fields, version: number, flexible: boolean): Read {
  const names = Object.keys(fields)
  const tagged = new Map<number, { name: string; read: Read }>()
  const reads = names.map((name): Read => {
    const field = fields[name]
    const absent = field.default
    if (!includes(field.versions, version)) return () => absent
    const read = fieldReader(field, version, flexible)
    if (field.tag === null) return read
    tagged.set(field.tag, { name, read })
    return () => absent
  })
  assert(tagged.size === 0 || flexible, 'tagged fields need a flexible version')
  return reader => {
    const value: Record<string, unknown> = {}
    for (let i = 0; i < reads.length; i++) {
      const name = names[i]
      reader.part = name
      value[name] = reads[i](reader)
    }
    if (flexible) readTagged(reader, tagged, value)
    return value
  }
}

function readTagged(
  reader: ByteReader,
  known: ReadonlyMap<number, { name: string; read: Read }>,
  value: Record<string, unknown>,
): void {
  const count = reader.uvarint()
  if (count === 0) return
  reader.part = 'tagged fields'
  reader.elements(count, 2)
  for (let i = 0; i < count; i++) {
    const field = known.get(reader.uvarint())
    const outer = reader.enter(reader.uvarint())
    if (field === undefined) {
      reader.skip(reader.left)
    } else {
      reader.part = field.name
      value[field.name] = field.read(reader)
    }
    reader.leave(outer)
  }
}

function structWriter(fields: Fields, version: number, flexible: boolean): Write {
  const present = Object.entries(fields).filter(([, field]) => includes(field.versions, version))
  const plain = present.filter(([, field]) => field.tag === null)
  const names = plain.map(([name]) => name)
  const writes = plain.map(([, field]) => fieldWriter(field, version, flexible))
  const defaults = plain.map(([, field]) => (field.optional ? field.default : undefined))
  const tagged = present
    .filter(([, field]) => field.tag !== null)
    .sort(([, a], [, b]) => a.tag! - b.tag!)
    .map(([name, field]) => ({ name, field, write: fieldWriter(field, version, flexible) }))
  assert(tagged.length === 0 || flexible, 'tagged fields need a flexible version')
  return (writer, value) => {
    if (typeof value !== 'object' || value === null) writer.refuse('an object', value)
    const source = value as Record<string, unknown>
    for (let i = 0; i < writes.length; i++) {
      const name = names[i]
      writer.part = name
      const given = source[name]
      writes[i](writer, given === undefined ? defaults[i] : given)
    }
    if (flexible) writeTagged(writer, tagged, source)
  }
}

function writeTagged(
  writer: ByteWriter,
  tagged: readonly { name: string; field: Field; write: Write }[],
  source: Record<string, unknown>,
): void {
  let count = 0
  for (const { name, field } of tagged) if (!isDefault(field, source[name])) count++
  writer.uvarint(count)
  if (count === 0) return
  for (const { name, field, write } of tagged) {
    const value = source[name]
    if (isDefault(field, value)) continue
    const content = new ByteWriter(TAGGED_CAPACITY)
    content.subject = writer.subject
    content.part = name
    write(content, value)
    writer.uvarint(field.tag!)
    writer.uvarint(content.bytes)
    writer.append(content)
  }
}

function isDefault(field: Field, value: unknown): boolean {
  if (value === undefined || value === field.default) return true
  return field.kind === 'array' && Array.isArray(value) && value.length === 0
}

// fields

function fieldReader(field: Field, version: number, flexible: boolean): Read {
  const nullable = includes(field.nullable, version)
  if (field.kind === 'array') return arrayReader(field, version, flexible, nullable)
  if (field.kind !== 'struct') return simpleReader(field.kind, flexible, nullable)
  const read = structReader(fieldsOf(field), version, flexible)
  if (!nullable) return read
  return reader => (reader.int8() < 0 ? null : read(reader))
}

function fieldWriter(field: Field, version: number, flexible: boolean): Write {
  const nullable = includes(field.nullable, version)
  const write = valueWriter(field, version, flexible, nullable)
  if (nullable || field.nullable === null) return write
  // this version cannot say null
  const empty = emptyValues[field.kind]
  return (writer, value) => write(writer, value === null ? empty : value)
}

function valueWriter(field: Field, version: number, flexible: boolean, nullable: boolean): Write {
  if (field.kind === 'array') return arrayWriter(field, version, flexible, nullable)
  if (field.kind !== 'struct') return simpleWriter(field.kind, flexible, nullable)
  const write = structWriter(fieldsOf(field), version, flexible)
  if (!nullable) return write
  return (writer, value) => {
    writer.int8(value === null ? -1 : 1)
    if (value !== null) write(writer, value)
  }
}

function arrayReader(field: Field, version: number, flexible: boolean, nullable: boolean): Read {
  const { element } = field
  const read =
    typeof element === 'string'
      ? simpleReader(element, flexible, false)
      : structReader(fieldsOf(field), version, flexible)
  const bytesMin = elementBytesMin(field, version, flexible)
  const length = lengthReader(flexible, nullable)
  return reader => {
    const count = length(reader)
    if (count < 0) return null
    reader.elements(count, bytesMin)
    const values: unknown[] = []
    for (let i = 0; i < count; i++) values.push(read(reader))
    return values
  }
}

function arrayWriter(field: Field, version: number, flexible: boolean, nullable: boolean): Write {
  const { element } = field
  const write =
    typeof element === 'string'
      ? simpleWriter(element, flexible, false)
      : structWriter(fieldsOf(field), version, flexible)
  const length = lengthWriter(flexible)
  return (writer, value) => {
    if (nullable && value === null) return length(writer, -1)
    if (!Array.isArray(value)) return writer.refuse('an array', value)
    length(writer, value.length)
    for (let i = 0; i < value.length; i++) write(writer, value[i])
  }
}

function fieldsOf(field: Field): Fields {
  assert(field.element !== null && typeof field.element === 'object')
  return field.element
}

/** The fewest bytes that an element can take: what the count of an array is checked against. */
function elementBytesMin(field: Field, version: number, flexible: boolean): number {
  const { element } = field
  const bytes =
    typeof element === 'string'
      ? simpleBytesMin(element, flexible)
      : structBytesMin(fieldsOf(field), version, flexible)
  assert(bytes > 0)
  return bytes
}

function structBytesMin(fields: Fields, version: number, flexible: boolean): number {
  let bytes = flexible ? 1 : 0
  for (const field of Object.values(fields)) {
    if (field.tag !== null || !includes(field.versions, version)) continue
    if (field.kind === 'array') bytes += flexible ? 1 : 4
    else if (field.kind !== 'struct') bytes += simpleBytesMin(field.kind, flexible)
    else if (includes(field.nullable, version)) bytes += 1
    else bytes += structBytesMin(fieldsOf(field), version, flexible)
  }
  return bytes
}

const fixedBytes = {
  bool: 1,
  int8: 1,
  int16: 2,
  uint16: 2,
  int32: 4,
  int64: 8,
  float64: 8,
  uuid: 16,
} as const

function simpleBytesMin(kind: SimpleKind, flexible: boolean): number {
  if (kind === 'string') return flexible ? 1 : 2
  if (kind === 'bytes' || kind === 'records') return flexible ? 1 : 4
  return fixedBytes[kind]
}

// simple kinds

const fixedReaders: Record<keyof typeof fixedBytes, Read> = {
  bool: reader => reader.bool(),
  int8: reader => reader.int8(),
  int16: reader => reader.int16(),
  uint16: reader => reader.uint16(),
  int32: reader => reader.int32(),
  int64: reader => reader.int64(),
  float64: reader => reader.float64(),
  uuid: reader => reader.uuid(),
}

const fixedWriters: Record<keyof typeof fixedBytes, Write> = {
  bool: (writer, value) => writer.bool(value as boolean),
  int8: (writer, value) => writer.int8(value as number),
  int16: (writer, value) => writer.int16(value as number),
  uint16: (writer, value) => writer.uint16(value as number),
  int32: (writer, value) => writer.int32(value as number),
  int64: (writer, value) => writer.int64(value as number),
  float64: (writer, value) => writer.float64(value as number),
  uuid: (writer, value) => writer.uuid(value as string),
}

function simpleReader(kind: SimpleKind, flexible: boolean, nullable: boolean): Read {
  if (kind === 'string') return stringReader(flexible, nullable)
  if (kind !== 'bytes' && kind !== 'records') return fixedReaders[kind]
  const length = lengthReader(flexible, nullable)
  return reader => {
    const bytes = length(reader)
    return bytes < 0 ? null : reader.view(bytes)
  }
}

function simpleWriter(kind: SimpleKind, flexible: boolean, nullable: boolean): Write {
  if (kind === 'string') return stringWriter(flexible, nullable)
  if (kind === 'records') return recordsWriter(flexible, nullable)
  if (kind !== 'bytes') return fixedWriters[kind]
  const length = lengthWriter(flexible)
  return (writer, value) => {
    if (nullable && value === null) return length(writer, -1)
    if (!(value instanceof Uint8Array)) return writer.refuse('bytes', value)
    length(writer, value.length)
    writer.payload(value)
  }
}

function recordsWriter(flexible: boolean, nullable: boolean): Write {
  const length = lengthWriter(flexible)
  return (writer, value) => {
    if (nullable && value === null) return length(writer, -1)
    if (value instanceof Uint8Array) {
      length(writer, value.length)
      writer.payload(value)
      return
    }
    if (!Array.isArray(value)) return writer.refuse('bytes, or a list of them', value)
    let bytes = 0
    for (const piece of value) bytes += piece.length
    length(writer, bytes)
    for (const piece of value) writer.payload(piece)
  }
}

function stringReader(flexible: boolean, nullable: boolean): Read {
  return reader => {
    const bytes = flexible ? reader.uvarint() - 1 : reader.int16()
    if (bytes < 0) return nullable ? null : refuseNull(reader)
    if (bytes > STRING_BYTES_MAX) throw reader.malformed(`has a string of ${bytes} bytes`)
    return reader.utf8(bytes)
  }
}

function stringWriter(flexible: boolean, nullable: boolean): Write {
  return (writer, value) => {
    if (nullable && value === null) {
      if (flexible) writer.uvarint(0)
      else writer.int16(-1)
    } else if (flexible) {
      writer.stringVarint(value as string, 1)
    } else {
      writer.string16(value as string)
    }
  }
}

/** Lengths and counts of everything but strings; -1 is null. */
function lengthReader(flexible: boolean, nullable: boolean): (reader: ByteReader) => number {
  return reader => {
    const length = flexible ? reader.uvarint() - 1 : reader.int32()
    if (length >= 0) return length
    return nullable ? -1 : refuseNull(reader)
  }
}

function lengthWriter(flexible: boolean): (writer: ByteWriter, length: number) => void {
  return flexible ? (writer, length) => writer.uvarint(length + 1) : (writer, length) => writer.int32(length)
}

function refuseNull(reader: ByteReader): never {
  throw reader.malformed('is null where nothing may be null')
}
