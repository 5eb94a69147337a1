/**
 * The plain endpoints: publish, consume, offset, topic, health. Stateless: no endpoint remembers anything of the one
 * before; groups exist here only as committed offsets. How messages look is in `message-json.ts`, how positions are
 * written in `positions.ts`.
 *
 *   POST   /publish?topic=                                  one message, or an array of them
 *   GET    /consume?topic=&partition=&offset=&count=&group=&wait=
 *   GET    /offset?group=&topic=&partition=                 what the group has committed, and its lag
 *   POST   /offset?group=&topic=&partition=&offset=         commits; or with a body { "offsets": { "0": 12 } }
 *   GET    /topic, /topic?topic=                            names; one topic in full
 *   POST   /topic?topic=&partitions=                        creates; body { "partitions", "config" } if wanted
 *   DELETE /topic?topic=
 *   GET    /health
 */

import type { FastifyInstance } from 'fastify'
import { lagBehind } from '../../delivery/group-ledger.ts'
import type { CommitOffset, Engine, TopicDescription } from '../../engine/engine.ts'
import { isSluiceError, SluiceError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Header } from '../../record/builder.ts'
import { headersFromJson, keyFromJson, valueFromJson } from '../message-json.ts'
import { offsetAt, type Position, parsePosition } from '../positions.ts'
import { disconnection } from './http-server.ts'
import { type ReadAnswer, read } from './read.ts'

/** A message on its way in, as bytes or text. */
export interface IncomingMessage {
  readonly key: Uint8Array | string | null
  readonly value: Uint8Array | string | null
  readonly headers: readonly Header[]
  readonly partition?: number
}

/** What the endpoints stand on. */
export interface Backend {
  readonly engine: Engine
  /** Resolves in the order of `messages` once all are as durable as the server promises. */
  publish(topic: string, messages: readonly IncomingMessage[]): Promise<readonly Acknowledged[]>
  readonly clock: Clock
  readonly version: string
  readonly limits: { readonly httpBodyBytesMax: number; readonly maxWaitMs: number }
  /** Ends long polls once the server drains. */
  readonly draining: AbortSignal
}

export interface Acknowledged {
  readonly topic: string
  readonly partition: number
  readonly offset: number
}

const COUNT_DEFAULT = 100
const COUNT_MAX = 10_000

const name = { type: 'string', minLength: 1, maxLength: 249 } as const
const partition = { type: 'integer', minimum: 0, maximum: 2 ** 31 - 1 } as const
const query = (properties: Record<string, object>, required: readonly string[]) => ({
  querystring: { type: 'object', properties, required, additionalProperties: false },
})

export function addEndpoints(app: FastifyInstance, backend: Backend): void {
  addPublish(app, backend)
  addConsume(app, backend)
  addOffset(app, backend)
  addTopic(app, backend)
  addHealth(app, backend)
}

function addPublish(app: FastifyInstance, { publish }: Backend): void {
  const schema = { ...query({ topic: name }, ['topic']), body: { type: ['object', 'array'] } }
  app.post<{ Querystring: { topic: string } }>('/publish', { schema }, async request => {
    const { topic } = request.query
    if (!Array.isArray(request.body)) {
      const [published] = await publish(topic, [incomingMessage(request.body, 'message')])
      return acknowledgement(published)
    }
    const messages = request.body.map((json, index) => incomingMessage(json, `messages[${index}]`))
    return messages.length === 0 ? [] : (await publish(topic, messages)).map(acknowledgement)
  })
}

const messageFields = ['key', 'value', 'headers', 'partition']

function incomingMessage(json: unknown, what: string): IncomingMessage {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw invalid(`${what} must be an object with key, value, headers, partition`)
  }
  const unknown = Object.keys(json).find(field => !messageFields.includes(field))
  if (unknown !== undefined)
    throw invalid(`${what}.${unknown} is not known; there are ${messageFields.join(', ')}`)
  const { key, value, headers, partition } = json as Record<string, unknown>
  if (partition !== undefined && !(Number.isInteger(partition) && (partition as number) >= 0)) {
    throw invalid(`${what}.partition must be a whole number from 0 on`)
  }
  return {
    key: keyFromJson(key, `${what}.key`),
    value: valueFromJson(value, `${what}.value`),
    headers: headersFromJson(headers, `${what}.headers`),
    ...(partition === undefined ? {} : { partition: partition as number }),
  }
}

const acknowledgement = ({ topic, partition, offset }: Acknowledged) => ({ topic, partition, offset })

interface ConsumeQuery {
  readonly topic: string
  readonly partition?: number
  readonly offset?: string
  readonly count: number
  readonly group?: string
  readonly wait: number
}

function addConsume(app: FastifyInstance, backend: Backend): void {
  const { engine, clock, limits, draining } = backend
  const schema = query(
    {
      topic: name,
      partition,
      offset: { type: 'string', minLength: 1 },
      count: { type: 'integer', minimum: 1, maximum: COUNT_MAX, default: COUNT_DEFAULT },
      group: name,
      wait: { type: 'integer', minimum: 0, maximum: limits.maxWaitMs, default: 0 },
    },
    ['topic'],
  )
  app.get<{ Querystring: ConsumeQuery }>('/consume', { schema }, async (request, reply) => {
    const { topic, count, wait } = request.query
    const signal = AbortSignal.any([disconnection(reply.raw), draining])
    const answer = await read(engine, clock, {
      topic,
      offsets: await startOffsets(engine, request.query),
      countMax: count,
      bytesMax: limits.httpBodyBytesMax,
      waitMs: wait,
      signal,
    })
    return reply.type('application/json; charset=utf-8').send(answerJson(answer))
  })
}

/** Where a read begins: the offset asked for, else what the group has committed, else the start. */
async function startOffsets(engine: Engine, query: ConsumeQuery): Promise<Map<number, number>> {
  const { topic, group } = query
  const position = query.offset === undefined ? undefined : parsePosition(query.offset, 'offset')
  if (typeof position === 'number' && query.partition === undefined) {
    throw invalid('offset is a number, so partition must be given too (or offset=0:12,1:30)')
  }
  const partitions = await partitionsAsked(engine, topic, query.partition, position)
  const committed =
    group !== undefined && position === undefined
      ? await engine.committed(
          group,
          partitions.map(number => ({ topic, partition: number })),
        )
      : []
  const offsets = new Map<number, number>()
  for (const number of partitions) {
    const commit = committed.find(entry => entry.partition === number)
    if (commit === undefined) offsets.set(number, await offsetAt(engine, topic, number, position))
    else {
      // What retention has deleted since the commit can no longer be read: go on with what is there.
      const start = await engine.offsetFor(topic, number, 'earliest')
      offsets.set(number, Math.max(start, commit.offset))
    }
  }
  return offsets
}

async function partitionsAsked(
  engine: Engine,
  topic: string,
  partition: number | undefined,
  position: Position | undefined,
): Promise<number[]> {
  const count = (await describe(engine, topic)).partitions.length
  const wanted =
    partition !== undefined
      ? [partition]
      : position instanceof Map
        ? [...position.keys()]
        : Array.from({ length: count }, (_, index) => index)
  const missing = wanted.find(number => number >= count)
  if (missing === undefined) return wanted
  throw new SluiceError('INVALID_PARTITION', `${topic} has partitions 0 to ${count - 1}, not ${missing}`, {
    topic,
    partition: missing,
  })
}

/** Reading and asking never create a topic, whatever `auto-create-topics` says. */
const describe = (engine: Engine, topic: string): Promise<TopicDescription> => engine.describeTopic(topic)

function answerJson({ messages, next, end, errors }: ReadAnswer): string {
  const offsets = (map: ReadonlyMap<number, number>) => JSON.stringify(Object.fromEntries(map))
  const failures = [...errors].map(([partition, { code, message }]) => ({ partition, code, message }))
  const tail = failures.length === 0 ? '' : `,"errors":${JSON.stringify(failures)}`
  return `{"messages":[${messages.join(',')}],"next":${offsets(next)},"end":${offsets(end)}${tail}}`
}

interface OffsetQuery {
  readonly group: string
  readonly topic: string
  readonly partition?: number
  readonly offset?: number
}

interface OffsetBody {
  readonly offset?: number
  readonly offsets?: Readonly<Record<string, number>>
}

function addOffset(app: FastifyInstance, { engine }: Backend): void {
  const offset = { type: 'integer', minimum: 0, maximum: Number.MAX_SAFE_INTEGER }
  const place = { group: name, topic: name, partition }
  app.get<{ Querystring: OffsetQuery }>(
    '/offset',
    { schema: query(place, ['group', 'topic']) },
    async request => {
      const { group, topic } = request.query
      const { partitions } = await describe(engine, topic)
      const wanted = await partitionsAsked(engine, topic, request.query.partition, undefined)
      const committed = await engine.committed(
        group,
        wanted.map(number => ({ topic, partition: number })),
      )
      const rows = wanted.map(number => {
        const { startOffset, endOffset } = partitions[number]
        const commit = committed.find(entry => entry.partition === number)
        const lag = lagBehind(commit ?? { offset: startOffset, metadata: '' }, startOffset, endOffset)
        return { group, topic, partition: number, offset: commit?.offset ?? null, end: endOffset, lag }
      })
      return request.query.partition === undefined ? rows : rows[0]
    },
  )
  const body = {
    // null: no body
    type: ['object', 'null'],
    properties: {
      offset,
      offsets: { type: 'object', propertyNames: { pattern: '^\\d{1,9}$' }, additionalProperties: offset },
    },
    additionalProperties: false,
  }
  const schema = { ...query({ ...place, offset }, ['group', 'topic']), body }
  app.post<{ Querystring: OffsetQuery; Body: OffsetBody | null }>('/offset', { schema }, async request => {
    const { group, topic } = request.query
    const offsets = offsetsToCommit(request.query, request.body ?? {})
    const { partitions } = await describe(engine, topic)
    for (const { partition, offset } of offsets) checkCommit(topic, partition, offset, partitions)
    await engine.commit(group, offsets)
    return offsets.map(commit => ({ group, ...commit }))
  })
}

function offsetsToCommit(query: OffsetQuery, body: OffsetBody): CommitOffset[] {
  const { topic, partition } = query
  if (body.offsets !== undefined) {
    if (partition !== undefined) throw invalid('give either partition and offset, or a body with offsets')
    return Object.entries(body.offsets).map(([number, offset]) => ({
      topic,
      partition: Number(number),
      offset,
    }))
  }
  const offset = query.offset ?? body.offset
  if (offset === undefined) throw invalid('offset is missing: in the query, or in the body')
  if (partition === undefined) throw invalid('partition is missing')
  return [{ topic, partition, offset }]
}

function checkCommit(
  topic: string,
  partition: number,
  offset: number,
  partitions: TopicDescription['partitions'],
): void {
  const description = partitions[partition]
  if (description === undefined) {
    const message = `${topic} has partitions 0 to ${partitions.length - 1}, not ${partition}`
    throw new SluiceError('INVALID_PARTITION', message, { topic, partition })
  }
  if (offset > description.endOffset) {
    const message = `${topic}/${partition} ends at ${description.endOffset}; ${offset} cannot have been handled`
    throw new SluiceError('OFFSET_OUT_OF_RANGE', message, {
      topic,
      partition,
      offset,
      end: description.endOffset,
    })
  }
}

interface TopicQuery {
  readonly topic: string
  readonly partitions?: number
}

interface TopicBody {
  readonly partitions?: number
  readonly config?: Readonly<Record<string, string>>
}

function addTopic(app: FastifyInstance, { engine }: Backend): void {
  const partitions = { type: 'integer', minimum: 1, maximum: 1_000_000 }
  app.get<{ Querystring: Partial<TopicQuery> }>(
    '/topic',
    { schema: query({ topic: name }, []) },
    async request =>
      request.query.topic === undefined
        ? { topics: await engine.listTopics() }
        : topicJson(await describe(engine, request.query.topic)),
  )
  const body = {
    type: ['object', 'null'],
    properties: { partitions, config: { type: 'object', additionalProperties: { type: 'string' } } },
    additionalProperties: false,
  }
  const creation = { ...query({ topic: name, partitions }, ['topic']), body }
  app.post<{ Querystring: TopicQuery; Body: TopicBody | null }>(
    '/topic',
    { schema: creation },
    async (request, reply) => {
      const { topic } = request.query
      const count = request.query.partitions ?? request.body?.partitions
      const config = request.body?.config
      reply.code(201)
      return topicJson(
        await engine.createTopic({
          name: topic,
          ...(count === undefined ? {} : { partitions: count }),
          ...(config === undefined ? {} : { config }),
        }),
      )
    },
  )
  app.delete<{ Querystring: TopicQuery }>(
    '/topic',
    { schema: query({ topic: name }, ['topic']) },
    async request => {
      await engine.deleteTopic(request.query.topic)
      return { deleted: request.query.topic }
    },
  )
}

function topicJson({ name, id, partitions, config }: TopicDescription): object {
  return {
    topic: name,
    id,
    partitions: partitions.map(({ partition, startOffset, endOffset, bytes }) => ({
      partition,
      start: startOffset,
      end: endOffset,
      bytes,
    })),
    config: Object.fromEntries(config.map(({ name, value, source }) => [name, { value, source }])),
  }
}

function addHealth(app: FastifyInstance, { engine, clock, version, draining }: Backend): void {
  const started = clock.monotonic()
  app.get('/health', { schema: query({}, []) }, async (_request, reply) => {
    // Asking the engine shows that it answers: a closed one throws.
    const topics = draining.aborted ? undefined : await topicCount(engine)
    const status = draining.aborted ? 'draining' : topics === undefined ? 'failed' : 'ok'
    reply.code(status === 'ok' ? 200 : 503)
    return { status, version, engine: engine.url, topics, uptimeMs: Math.round(clock.monotonic() - started) }
  })
}

async function topicCount(engine: Engine): Promise<number | undefined> {
  try {
    return (await engine.listTopics()).length
  } catch (error) {
    if (isSluiceError(error)) return
    throw error
  }
}

const invalid = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
