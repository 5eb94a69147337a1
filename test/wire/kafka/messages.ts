/** Arbitrary messages, made from the schemas: of each version, with all that the version can carry. */

import fc from 'fast-check'
import { apis } from '../../../src/wire/kafka/apis.ts'
import {
  type Api,
  type Field,
  type Fields,
  includes,
  type Message,
  type SimpleKind,
} from '../../../src/wire/kafka/schema.ts'

export const messages: readonly Message[] = Object.values(apis).flatMap(({ request, response }: Api) => [
  request,
  response,
])

export function versionsOf({ versions }: Message): number[] {
  return Array.from({ length: versions.max - versions.min + 1 }, (_, index) => versions.min + index)
}

const text = fc.oneof(
  { weight: 6, arbitrary: fc.string({ unit: 'grapheme-ascii', maxLength: 12 }) },
  { weight: 2, arbitrary: fc.string({ unit: 'binary', maxLength: 6 }) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', minLength: 30, maxLength: 300 }) },
)
const bytes = fc
  .oneof(
    { weight: 8, arbitrary: fc.uint8Array({ maxLength: 12 }) },
    {
      weight: 1,
      arbitrary: fc.integer({ min: 100, max: 3000 }).map(length => new Uint8Array(length).fill(length)),
    },
  )
  .map(array => Buffer.from(array))
const integer = (bits: number) => fc.integer({ min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 })

const simple: Record<SimpleKind, fc.Arbitrary<unknown>> = {
  bool: fc.boolean(),
  int8: integer(8),
  int16: integer(16),
  uint16: fc.integer({ min: 0, max: 0xffff }),
  int32: integer(32),
  int64: fc.maxSafeInteger(),
  float64: fc.double({ noNaN: true }),
  string: text,
  uuid: fc
    .uint8Array({ minLength: 16, maxLength: 16 })
    .map(array => Buffer.from(array).toString('base64url')),
  bytes,
  records: bytes,
}

/** A message of the version; fields that the version does not have are at their default. */
export function arbitraryMessage(message: Message, version: number): fc.Arbitrary<Record<string, unknown>> {
  return arbitraryStruct(message.fields, version)
}

function arbitraryStruct(fields: Fields, version: number): fc.Arbitrary<Record<string, unknown>> {
  const all = Object.entries(fields).map(([name, field]) => [name, arbitraryField(field, version)] as const)
  return fc.record(Object.fromEntries(all), { noNullPrototype: true })
}

function arbitraryField(field: Field, version: number): fc.Arbitrary<unknown> {
  if (!includes(field.versions, version)) return fc.constant(field.default)
  const value = arbitraryValue(field, version)
  if (field.tag !== null) {
    return fc.oneof({ weight: 1, arbitrary: fc.constant(field.default) }, { weight: 3, arbitrary: value })
  }
  return includes(field.nullable, version) ? fc.option(value, { freq: 4 }) : value
}

function arbitraryValue({ kind, element }: Field, version: number): fc.Arbitrary<unknown> {
  if (kind !== 'array' && kind !== 'struct') return simple[kind]
  const inner = typeof element === 'string' ? simple[element] : arbitraryStruct(element!, version)
  return kind === 'struct' ? inner : fc.array(inner, { maxLength: 3 })
}
