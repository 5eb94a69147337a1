/**
 * The backlog of a group in a topic over HTTP; for a group that is stopped.
 *
 *   GET    /v1/backlog/:group/:topic             how many messages it has before it
 *   POST   /v1/backlog/:group/:topic/divert      { to, limit, dryRun }: to another topic
 *   POST   /v1/backlog/:group/:topic/skip        { count } or { to }, { partition, dryRun }; to: an offset, "latest" or an ISO time
 *   POST   /v1/backlog/:group/:topic/shed        { olderThan, dryRun }
 */

import type { FastifyInstance } from 'fastify'
import { rawTopic } from '../../delivery/raw-topic.ts'
import type { Sluice } from '../../delivery/sluice.ts'
import { skipOf } from '../positions.ts'
import { disconnection } from './http-server.ts'

interface Place {
  readonly group: string
  readonly topic: string
}

interface Divert {
  readonly to: string
  readonly limit?: number
  readonly dryRun?: boolean
}

interface Skip {
  readonly count?: number
  readonly to?: number | string
  readonly partition?: number
  readonly dryRun?: boolean
}

interface Shed {
  readonly olderThan: number | string
  readonly dryRun?: boolean
}

const name = { type: 'string', minLength: 1, maxLength: 249 }
const params = { type: 'object', properties: { group: { type: 'string', minLength: 1 }, topic: name } }
const dryRun = { type: 'boolean' }
const bodyOf = (properties: object, required: readonly string[] = []) => ({
  type: 'object',
  properties: { ...properties, dryRun },
  required,
  additionalProperties: false,
})

export function addBacklogRoutes(app: FastifyInstance, mq: Sluice): void {
  const path = '/v1/backlog/:group/:topic'
  const backlogOf = ({ group, topic }: Place) => mq.backlog(group, rawTopic(topic))
  app.get<{ Params: Place }>(path, { schema: { params } }, async request => {
    const { group, topic } = request.params
    return { group, topic, size: await backlogOf(request.params).size() }
  })

  const divert = bodyOf({ to: name, limit: { type: 'integer', minimum: 1 } }, ['to'])
  app.post<{ Params: Place; Body: Divert }>(
    `${path}/divert`,
    { schema: { params, body: divert } },
    async (request, reply) => {
      const { to, limit, dryRun = false } = request.body
      const backlog = backlogOf(request.params)
      if (dryRun) return { chosen: Math.min(await backlog.size(), limit ?? Number.POSITIVE_INFINITY) }
      const signal = disconnection(reply.raw)
      const { count, isComplete } = await backlog.divert(rawTopic(to), { limit, signal })
      return { diverted: count, isComplete }
    },
  )

  const skip = bodyOf({
    count: { type: 'integer', minimum: 1 },
    to: { type: ['integer', 'string'] },
    partition: { type: 'integer', minimum: 0 },
  })
  app.post<{ Params: Place; Body: Skip }>(
    `${path}/skip`,
    { schema: { params, body: skip } },
    async request => {
      const { count, to, partition, dryRun = false } = request.body
      const place = skipOf(count, to === undefined ? undefined : String(to), 'to')
      const skipped = await backlogOf(request.params).skip({ ...place, partition, dryRun })
      return { [dryRun ? 'chosen' : 'skipped']: skipped }
    },
  )

  const shed = bodyOf({ olderThan: { type: ['number', 'string'] } }, ['olderThan'])
  app.post<{ Params: Place; Body: Shed }>(
    `${path}/shed`,
    { schema: { params, body: shed } },
    async request => {
      const { olderThan, dryRun = false } = request.body
      const count = await backlogOf(request.params).shed({ olderThan, dryRun })
      return { [dryRun ? 'chosen' : 'shed']: count }
    },
  )
}
