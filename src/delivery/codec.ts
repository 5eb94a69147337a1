/**
 * Codecs: how a value or a key becomes bytes and comes back. Three are at hand (`json`, `string`, `bytes`); a
 * Standard Schema (zod, valibot, arktype…) is turned into a fourth kind: JSON that is checked on both sides.
 *
 * What a schema topic stores is the *input* of the schema, exactly as it was published, once it has passed.
 * Transforms, coercions and defaults are applied when the message is read. So the stored JSON is always
 * something that the schema accepts, a schema that turns a string into a Date works, and a reader with a
 * newer schema gets its newer defaults.
 *
 * A codec is synchronous: it runs once per message between `send` and the batch. What it throws refuses that
 * one message.
 */

import type { StandardSchemaV1 } from '@standard-schema/spec'
import { SluiceError } from '../errors.ts'

/** Turns `In` into bytes and bytes into `Out`. Both directions are synchronous; to refuse, throw. */
export interface Codec<In, Out = In> {
  /** A string is stored as UTF-8. */
  encode(value: In): Uint8Array | string
  /** `bytes` is a view of the stored batch: copy what you keep for long, and change nothing. */
  decode(bytes: Buffer): Out
}

/** JSON without a check: `T` is a promise by whoever wrote the messages. Prefer a schema where you can. */
export function json<T = unknown>(): Codec<T> {
  return jsonCodec as Codec<T>
}

const jsonCodec: Codec<unknown> = {
  encode(value) {
    const text = JSON.stringify(value)
    if (text === undefined) throw new TypeError(`JSON has no form for ${describe(value)}`)
    return text
  },
  decode: bytes => JSON.parse(bytes.toString('utf8')),
}

/** UTF-8 text. */
export const string: Codec<string> = {
  encode(value) {
    if (typeof value !== 'string') throw new TypeError(`a string is needed, not ${describe(value)}`)
    return value
  },
  decode: bytes => bytes.toString('utf8'),
}

/** Bytes as they are; read as a Buffer that is a view of the stored batch. */
export const bytes: Codec<Uint8Array, Buffer> = {
  encode(value) {
    if (!(value instanceof Uint8Array)) throw new TypeError(`a Uint8Array is needed, not ${describe(value)}`)
    return value
  },
  decode: stored => stored,
}

/** JSON that passes `schema` when it is published and again when it is read. */
export function schemaCodec<Schema extends StandardSchemaV1>(
  schema: Schema,
): Codec<StandardSchemaV1.InferInput<Schema>, StandardSchemaV1.InferOutput<Schema>> {
  const { validate } = schema['~standard']
  return {
    encode(value) {
      checked(validate(value))
      return jsonCodec.encode(value)
    },
    decode: stored => checked(validate(jsonCodec.decode(stored))),
  }
}

function checked<T>(result: StandardSchemaV1.Result<T> | Promise<StandardSchemaV1.Result<T>>): T {
  if (result instanceof Promise) {
    result.catch(() => {}) // its outcome is of no use any more
    throw new SluiceError(
      'INVALID_ARGUMENT',
      'the schema validates asynchronously; a topic needs one that answers at once (move the asynchronous check into the handler)',
    )
  }
  if (result.issues) {
    const issues = result.issues.map(issue => ({ path: pathOf(issue.path), reason: issue.message }))
    throw new SluiceError(
      'SCHEMA_MISMATCH',
      issues.map(({ path, reason }) => `${path}: ${reason}`).join('; '),
      {
        issues,
      },
    )
  }
  return result.value
}

/** `value.items[0].price`, as one would write it. */
function pathOf(path: StandardSchemaV1.Issue['path']): string {
  let text = 'value'
  for (const segment of path ?? []) {
    const key = typeof segment === 'object' ? segment.key : segment
    text +=
      typeof key === 'number'
        ? `[${key}]`
        : /^[A-Za-z_$][\w$]*$/.test(String(key))
          ? `.${String(key)}`
          : `[${JSON.stringify(String(key))}]`
  }
  return text
}

/** A value in an error message: its kind, never its content. */
export function describe(value: unknown): string {
  if (value === null) return 'null'
  if (typeof value !== 'object') return value === undefined ? 'undefined' : `a ${typeof value}`
  return Array.isArray(value) ? 'an array' : `an object (${value.constructor?.name ?? 'no prototype'})`
}

/**
 * What a codec threw, as an error that says where. `where` starts the message: "topic orders", "orders/0
 * offset 12".
 */
export function codecError(error: unknown, where: string, context: Record<string, unknown>): SluiceError {
  if (error instanceof SluiceError) {
    return new SluiceError(error.code, `${where}: ${error.message}`, { ...error.detail, ...context }, error)
  }
  const reason = error instanceof Error ? error.message : String(error)
  return new SluiceError('CODEC_FAILED', `${where}: ${reason}`, context, error)
}
