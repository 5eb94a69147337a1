/**
 * Dead letters over HTTP.
 *
 *   GET    /v1/dead-letters                                   where there are some: topic, group, count
 *   GET    /v1/dead-letters/:topic/:group?limit&cursor&error&reason
 *   GET    /v1/dead-letters/:topic/:group/:id
 *   PATCH  /v1/dead-letters/:topic/:group/:id                 { value, key, headers }: what is left out stays
 *   POST   /v1/dead-letters/:topic/:group/replay              { ids } or { all: true, error, reason }; to, perSecond, limit, dryRun
 *   POST   /v1/dead-letters/:topic/:group/discard             the same choice; limit, dryRun
 */

import type { FastifyInstance } from 'fastify'
import type { DeadLetterChange, DeadLetterChoice } from '../../delivery/dead-letters.ts'
import type { Sluice } from '../../delivery/sluice.ts'
import { SluiceError } from '../../errors.ts'
import { deadLetterFilter, deadLetterJson } from '../dead-letter-json.ts'
import { headersFromJson, keyFromJson, valueFromJson } from '../message-json.ts'
import { disconnection } from './http-server.ts'

interface Place {
  readonly topic: string
  readonly group: string
}

interface Filter {
  readonly error?: string
  readonly reason?: string
}

interface Choice extends Filter {
  readonly ids?: readonly string[]
  readonly all?: boolean
  readonly limit?: number
  readonly dryRun?: boolean
}

interface Replay extends Choice {
  readonly to?: string
  readonly perSecond?: number
}

const PAGE_MAX = 1_000
const reason = { type: 'string', enum: ['rejected', 'attempts', 'expired', 'overflow'] }
const text = { type: 'string', minLength: 1 }
const name = { type: 'string', minLength: 1, maxLength: 249 }
const params = { type: 'object', properties: { topic: name, group: text, id: text } }
const choice = {
  ids: { type: 'array', items: text, minItems: 1 },
  all: { type: 'boolean' },
  error: text,
  reason,
  limit: { type: 'integer', minimum: 1 },
  dryRun: { type: 'boolean' },
}
const bodyOf = (properties: object) => ({ type: 'object', properties, additionalProperties: false })

export function addDeadLetterRoutes(app: FastifyInstance, mq: Sluice): void {
  const path = '/v1/dead-letters'
  app.get(path, async () => ({ tables: await mq.deadLetterTables() }))

  const properties = {
    limit: { type: 'integer', minimum: 1, maximum: PAGE_MAX },
    cursor: text,
    error: text,
    reason,
  }
  const page = { params, querystring: { type: 'object', properties, additionalProperties: false } }
  app.get<{ Params: Place; Querystring: Filter & { limit?: number; cursor?: string } }>(
    `${path}/:topic/:group`,
    { schema: page },
    async (request, reply) => {
      const { topic, group } = request.params
      const { limit, cursor, error, reason } = request.query
      const { letters, cursor: next } = await mq.deadLetters(topic, group).list({
        where: deadLetterFilter({ error, reason }) ?? (() => true),
        ...(limit === undefined ? {} : { limit }),
        ...(cursor === undefined ? {} : { cursor }),
      })
      const body = `{"letters":[${letters.map(deadLetterJson).join(',')}],"cursor":${JSON.stringify(next)}}`
      return reply.type('application/json; charset=utf-8').send(body)
    },
  )

  const one = `${path}/:topic/:group/:id`
  app.get<{ Params: Place & { id: string } }>(one, { schema: { params } }, async (request, reply) => {
    const { topic, group, id } = request.params
    const letter = await mq.deadLetters(topic, group).get(id)
    return reply.type('application/json; charset=utf-8').send(deadLetterJson(letter))
  })

  const change = bodyOf({ value: {}, key: {}, headers: { type: ['object', 'null'] } })
  app.patch<{ Params: Place & { id: string }; Body: Record<string, unknown> }>(
    one,
    { schema: { params, body: change } },
    async (request, reply) => {
      const { topic, group, id } = request.params
      const letter = await mq.deadLetters(topic, group).edit(id, changeFromJson(request.body))
      return reply.type('application/json; charset=utf-8').send(deadLetterJson(letter))
    },
  )

  const replay = bodyOf({ ...choice, to: name, perSecond: { type: 'number', exclusiveMinimum: 0 } })
  app.post<{ Params: Place; Body: Replay }>(
    `${path}/:topic/:group/replay`,
    { schema: { params, body: replay } },
    async (request, reply) => {
      const { topic, group } = request.params
      const { to = 'group', limit, dryRun = false, perSecond } = request.body
      const ids = await mq.deadLetters(topic, group).replay(choiceFromJson(request.body), {
        to: to === 'group' || to === 'topic' ? to : { topic: to },
        dryRun,
        signal: disconnection(reply.raw),
        ...(limit === undefined ? {} : { limit }),
        ...(perSecond === undefined ? {} : { perSecond }),
      })
      return { [dryRun ? 'chosen' : 'replayed']: ids }
    },
  )

  app.post<{ Params: Place; Body: Choice }>(
    `${path}/:topic/:group/discard`,
    { schema: { params, body: bodyOf(choice) } },
    async request => {
      const { topic, group } = request.params
      const { limit, dryRun = false } = request.body
      const ids = await mq
        .deadLetters(topic, group)
        .discard(choiceFromJson(request.body), { dryRun, ...(limit === undefined ? {} : { limit }) })
      return { [dryRun ? 'chosen' : 'discarded']: ids }
    },
  )
}

function choiceFromJson({ ids, all = false, error, reason }: Choice): DeadLetterChoice {
  const filter = deadLetterFilter({ error, reason })
  if (ids !== undefined) {
    if (all || filter !== null) throw invalid('give either ids, or all with error and reason')
    return ids
  }
  if (!all) throw invalid('which letters? Give ids, or "all": true')
  return filter ?? 'all'
}

function changeFromJson({ value, key, headers }: Record<string, unknown>): DeadLetterChange {
  return {
    ...(value === undefined ? {} : { value: valueFromJson(value, 'value') }),
    ...(key === undefined ? {} : { key: keyFromJson(key, 'key') }),
    ...(headers === undefined ? {} : { headers: headersFromJson(headers, 'headers') }),
  }
}

const invalid = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
