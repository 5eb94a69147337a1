/**
 * The notation in which the messages of Kafka's protocol are written down: one schema for all versions of a message.
 * Everything else is derived from it: the TypeScript types here, the bytes of every version in codec.ts.
 *
 *     export const joinGroupApi = api({
 *       key: 11, name: 'JoinGroup', versions: '0-9', flexible: '6+',
 *       request: {
 *         groupId: string('0+'),
 *         rebalanceTimeoutMs: int32('1+', { default: -1 }),
 *         groupInstanceId: string('5+', { nullable: '5+', default: null }),
 *         protocols: array('0+', { name: string('0+'), metadata: bytes('0+') }),
 *       },
 *       response: { … },
 *     })
 *
 * Each field says in which versions it is there. Names, types, order and defaults are those of the definitions that the
 * Kafka project publishes, with the first letter in lower case; scripts/compare-kafka-schemas.ts compares.
 *
 * Decoded, a message always has all its fields: one that its version does not have is at its default. To encode one,
 * fields with a written default may be left out; fields that the version does not have are not looked at.
 */

import assert from 'node:assert/strict'

/** Versions in Kafka's way of writing them: from … on, from … to …, or one. */
export type Versions = `${number}+` | `${number}-${number}` | `${number}`

export interface VersionRange {
  readonly min: number
  /** Infinity: no end. */
  readonly max: number
}

/** TypeScript types of the simple fields when decoded. */
interface Values {
  bool: boolean
  int8: number
  int16: number
  uint16: number
  int32: number
  /** Exact within ±(2^53 − 1); what lies beyond is read as that bound. */
  int64: number
  float64: number
  string: string
  /** 22 characters of base64url, as everywhere in the house. */
  uuid: string
  /** A view of the bytes that were decoded: whoever keeps it keeps all of them. */
  bytes: Buffer
  /** Record batches, neither looked into nor copied; a view, too. */
  records: Buffer
}

/** The same when encoded, where that differs. */
interface Inputs extends Omit<Values, 'bytes' | 'records'> {
  bytes: Uint8Array
  /** Several pieces are sent one after the other. Not copied: they must stay as they are until they have been sent. */
  records: Uint8Array | readonly Uint8Array[]
}

export type SimpleKind = keyof Values
export type Kind = SimpleKind | 'array' | 'struct'

export interface Field<Value = unknown, Input = unknown, Optional extends boolean = boolean> {
  readonly kind: Kind
  readonly versions: VersionRange
  /** In which versions it can be null. Where it cannot, null is sent as the empty value. */
  readonly nullable: VersionRange | null
  /** Its number, if it is a tagged field: left out when it has its default. */
  readonly tag: number | null
  /** Its value where the version does not have it, or nothing was given. */
  readonly default: unknown
  /** Whether the encoder accepts that nothing is given. */
  readonly optional: boolean
  /** What an array consists of, or a struct. */
  readonly element: SimpleKind | Fields | null
  /** For the compiler only: never there. */
  readonly inferred?: { readonly value: Value; readonly input: Input; readonly optional: Optional }
}

export interface Fields {
  readonly [name: string]: Field
}

/** What a decoder gives for these fields. */
export type Decoded<F extends Fields> = {
  readonly [Name in keyof F]: F[Name] extends Field<infer Value, unknown, boolean> ? Value : never
}

type Required<F extends Fields> = {
  [Name in keyof F]: F[Name] extends Field<unknown, unknown, true> ? never : Name
}[keyof F]

type Input<F> = F extends Field<unknown, infer Given, boolean> ? Given : never

/** What an encoder takes for these fields. */
export type Encodable<F extends Fields> = {
  readonly [Name in Required<F>]: Input<F[Name]>
} & {
  readonly [Name in Exclude<keyof F, Required<F>>]?: Input<F[Name]>
}

interface Options<Default> {
  readonly nullable?: Versions
  readonly default?: Default | null
  readonly tag?: number
}

type OrNull<T, O> = O extends { nullable: Versions } ? T | null : T
type IsOptional<O> = O extends { default: unknown } | { tag: number } ? true : false

/** 16 zero bytes: no topic. */
export const ZERO_UUID = 'AAAAAAAAAAAAAAAAAAAAAA'

const EMPTY_BYTES = Buffer.alloc(0)
const EMPTY_ARRAY = Object.freeze([])

/** What a field has for a default if none is written, and what is sent for null where null cannot be. */
export const emptyValues: Readonly<Record<Kind, unknown>> = {
  bool: false,
  int8: 0,
  int16: 0,
  uint16: 0,
  int32: 0,
  int64: 0,
  float64: 0,
  string: '',
  uuid: ZERO_UUID,
  bytes: EMPTY_BYTES,
  records: EMPTY_BYTES,
  array: EMPTY_ARRAY,
  struct: null,
}

function simple<K extends SimpleKind>(kind: K) {
  return <const O extends Options<Values[K]>>(
    versions: Versions,
    options?: O,
  ): Field<OrNull<Values[K], O>, OrNull<Inputs[K], O>, IsOptional<O>> => field(kind, versions, options, null)
}

export const bool = simple('bool')
export const int8 = simple('int8')
export const int16 = simple('int16')
export const uint16 = simple('uint16')
export const int32 = simple('int32')
export const int64 = simple('int64')
export const float64 = simple('float64')
export const string = simple('string')
export const uuid = simple('uuid')
export const bytes = simple('bytes')
export const records = simple('records')

type ElementValue<E> = E extends SimpleKind ? Values[E] : E extends Fields ? Decoded<E> : never
type ElementInput<E> = E extends SimpleKind ? Inputs[E] : E extends Fields ? Encodable<E> : never

/** Elements of a simple kind, or structs. The only default is `[]`, or null. */
export function array<const E extends SimpleKind | Fields, const O extends Options<readonly never[]>>(
  versions: Versions,
  element: E,
  options?: O,
): Field<OrNull<readonly ElementValue<E>[], O>, OrNull<readonly ElementInput<E>[], O>, IsOptional<O>> {
  const normal = Array.isArray(options?.default) ? { ...options, default: EMPTY_ARRAY } : options
  return field('array', versions, normal, element)
}

/** A struct of its own: nullable, or tagged, or always there. A tagged one that was not sent is null. */
export function struct<F extends Fields>(
  versions: Versions,
  fields: F,
): Field<Decoded<F>, Encodable<F>, false>
export function struct<F extends Fields, const O extends Options<never>>(
  versions: Versions,
  fields: F,
  options: O,
): Field<Decoded<F> | null, Encodable<F> | null, IsOptional<O>>
export function struct(versions: Versions, fields: Fields, options?: Options<never>): Field {
  return field('struct', versions, options, fields)
}

function field(
  kind: Kind,
  versions: Versions,
  options: Options<unknown> | undefined,
  element: SimpleKind | Fields | null,
): Field<never, never, never> {
  const hasDefault = options !== undefined && 'default' in options
  const tag = options?.tag ?? null
  return {
    kind,
    versions: versionRange(versions),
    nullable: options?.nullable === undefined ? null : versionRange(options.nullable),
    tag,
    default: hasDefault ? options.default : emptyValues[kind],
    optional: hasDefault || tag !== null,
    element,
  }
}

/** A request or a response. */
export interface Message<F extends Fields = Fields> {
  /** As in the Kafka project: `FetchRequest`. */
  readonly name: string
  /** The versions that the schema describes: all that ever were. */
  readonly versions: VersionRange
  /** The first version in the flexible encoding (compact lengths, tagged fields); Infinity if there is none. */
  readonly flexibleFrom: number
  readonly fields: F
}

/** One API of the protocol. */
export interface Api<Request extends Fields = Fields, Response extends Fields = Fields> {
  readonly key: number
  /** As in the Kafka project. */
  readonly name: string
  /** The versions that the schemas describe: all that ever were. */
  readonly versions: VersionRange
  /** The versions that a server offers. */
  readonly served: VersionRange
  readonly flexibleFrom: number
  readonly request: Message<Request>
  readonly response: Message<Response>
}

export function api<Request extends Fields, Response extends Fields>(definition: {
  key: number
  name: string
  versions: Versions
  /** Default: all of `versions`. */
  served?: Versions
  /** Default: none. */
  flexible?: Versions
  request: Request
  response: Response
}): Api<Request, Response> {
  const { key, name } = definition
  const versions = versionRange(definition.versions)
  const served = versionRange(definition.served ?? definition.versions)
  const flexibleFrom = definition.flexible === undefined ? Infinity : versionRange(definition.flexible).min
  assert(served.min >= versions.min && served.max <= versions.max)
  const request = { name: `${name}Request`, versions, flexibleFrom, fields: definition.request }
  const response = { name: `${name}Response`, versions, flexibleFrom, fields: definition.response }
  return { key, name, versions, served, flexibleFrom, request, response }
}

export function versionRange(versions: Versions): VersionRange {
  const match = /^(\d+)(?:(\+)|-(\d+))?$/.exec(versions)
  assert(match, `not a range of versions: ${versions}`)
  const min = Number(match[1])
  const max = match[2] === '+' ? Infinity : Number(match[3] ?? min)
  assert(min <= max)
  return { min, max }
}

export function includes(range: VersionRange | null, version: number): boolean {
  return range !== null && version >= range.min && version <= range.max
}
