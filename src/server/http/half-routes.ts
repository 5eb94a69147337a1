/**
 * Half messages over HTTP: all that a program in any language needs to prepare one and to decide it.
 *
 *   POST   /v1/half                  { topic, key, value, headers, partition, delay | deliverAt, checker, firstCheckMs, checkEveryMs, checksMax }
 *   GET    /v1/half?limit            those that are undecided
 *   GET    /v1/half/:id              what became of it: state, decision
 *   POST   /v1/half/:id/commit
 *   POST   /v1/half/:id/rollback
 *
 * A checker is the URL of a webhook: while nobody has decided, it gets a POST with the half message (its value is text, or { base64 }) and answers
 * { "decision": "commit" | "rollback" | "unknown" }.
 */

import type { FastifyInstance } from 'fastify'
import type { HalfOptions } from '../../delivery/half-messages.ts'
import { rawTopic } from '../../delivery/raw-topic.ts'
import type { Sluice } from '../../delivery/sluice.ts'
import {
  type ContentJson,
  contentFromJson,
  type DelayJson,
  delayFromJson,
  halfJson,
} from '../delivery-json.ts'

interface Preparation extends ContentJson, DelayJson, HalfOptions {
  readonly topic: string
}

const LIST_MAX = 1_000
const JSON_TYPE = 'application/json; charset=utf-8'
const text = { type: 'string', minLength: 1 }
const ms = { type: 'integer', minimum: 0 }
const preparation = {
  topic: { type: 'string', minLength: 1, maxLength: 249 },
  key: {},
  value: {},
  headers: { type: ['object', 'null'] },
  partition: { type: 'integer', minimum: 0, maximum: 2 ** 31 - 1 },
  delay: { type: ['number', 'string'] },
  deliverAt: { type: ['integer', 'string'] },
  delayLevel: { type: 'integer' },
  checker: text,
  firstCheckMs: ms,
  checkEveryMs: { type: 'integer', minimum: 1 },
  checksMax: { type: 'integer', minimum: 0 },
}
const params = { type: 'object', properties: { id: text } }

export function addHalfRoutes(app: FastifyInstance, mq: Sluice): void {
  const path = '/v1/half'
  const body = { type: 'object', properties: preparation, required: ['topic'], additionalProperties: false }
  app.post<{ Body: Preparation }>(path, { schema: { body } }, async (request, reply) => {
    const { topic, checker, firstCheckMs, checkEveryMs, checksMax } = request.body
    const message = { ...contentFromJson(request.body), ...delayFromJson(request.body) }
    const options = { checker, firstCheckMs, checkEveryMs, checksMax }
    const { id } = await mq.half.prepare(rawTopic(topic), message, options)
    reply.code(201)
    return { id, topic }
  })

  const properties = { limit: { type: 'integer', minimum: 1, maximum: LIST_MAX } }
  const querystring = { type: 'object', properties, additionalProperties: false }
  app.get<{ Querystring: { limit?: number } }>(path, { schema: { querystring } }, async (request, reply) => {
    const messages = await mq.half.list(request.query)
    const list = messages.map(message => halfJson(message)).join(',')
    return reply.type(JSON_TYPE).send(`{"messages":[${list}]}`)
  })

  app.get<{ Params: { id: string } }>(`${path}/:id`, { schema: { params } }, async (request, reply) => {
    const { message, state, decision } = await mq.half.get(request.params.id)
    return reply.type(JSON_TYPE).send(halfJson(message, { state, decision }))
  })

  for (const decision of ['commit', 'rollback'] as const) {
    app.post<{ Params: { id: string } }>(`${path}/:id/${decision}`, { schema: { params } }, async request => {
      const { id } = request.params
      await mq.half[decision](id)
      return { id, decision }
    })
  }
}
