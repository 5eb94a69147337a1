/**
 * Delayed and recurring messages over HTTP.
 *
 *   GET    /v1/delayed?topic&limit&cursor       what waits
 *   POST   /v1/delayed                          { topic, key, value, headers, partition, name } and one of delay, deliverAt, delayLevel
 *   GET    /v1/delayed/:id                      by id or name
 *   DELETE /v1/delayed/:id                      cancels it, or all of a name
 *   POST   /v1/delayed/:id/reschedule           one of delay, deliverAt, delayLevel; answers the new id
 *
 *   GET    /v1/schedules
 *   PUT    /v1/schedules/:name                  { cron, timezone, topic, key, value, headers, partition }
 *   DELETE /v1/schedules/:name
 */

import type { FastifyInstance } from 'fastify'
import { parseDelayId } from '../../delivery/delayed-message.ts'
import { rawTopic } from '../../delivery/raw-topic.ts'
import type { Sluice } from '../../delivery/sluice.ts'
import { SluiceError } from '../../errors.ts'
import {
  type ContentJson,
  contentFromJson,
  type DelayJson,
  delayedJson,
  delayFromJson,
  scheduleJson,
  unknownDelayed,
  unknownSchedule,
} from '../delivery-json.ts'

const PAGE_MAX = 1_000
const JSON_TYPE = 'application/json; charset=utf-8'
const text = { type: 'string', minLength: 1 }
const topicName = { type: 'string', minLength: 1, maxLength: 249 }
const partition = { type: 'integer', minimum: 0, maximum: 2 ** 31 - 1 }
const content = { key: {}, value: {}, headers: { type: ['object', 'null'] }, partition }
const when = {
  delay: { type: ['number', 'string'] },
  deliverAt: { type: ['integer', 'string'] },
  delayLevel: { type: 'integer' },
}
const objectOf = (properties: object, required: readonly string[] = []) => ({
  type: 'object',
  properties,
  required,
  additionalProperties: false,
})
const byId = { type: 'object', properties: { id: text } }
const byName = { type: 'object', properties: { name: text } }

export function addDelayRoutes(app: FastifyInstance, mq: Sluice): void {
  addDelayed(app, mq)
  addSchedules(app, mq)
}

interface Page {
  readonly topic?: string
  readonly limit?: number
  readonly cursor?: string
}

interface Delayed extends ContentJson, DelayJson {
  readonly topic: string
  readonly name?: string
}

function addDelayed(app: FastifyInstance, mq: Sluice): void {
  const path = '/v1/delayed'
  const limit = { type: 'integer', minimum: 1, maximum: PAGE_MAX }
  app.get<{ Querystring: Page }>(
    path,
    { schema: { querystring: objectOf({ topic: topicName, limit, cursor: text }) } },
    async (request, reply) => {
      const { messages, cursor } = await mq.delayed.list(request.query)
      const body = `{"messages":[${messages.map(delayedJson).join(',')}],"cursor":${JSON.stringify(cursor)}}`
      return reply.type(JSON_TYPE).send(body)
    },
  )

  const publication = objectOf({ topic: topicName, name: text, ...content, ...when }, ['topic'])
  app.post<{ Body: Delayed }>(path, { schema: { body: publication } }, async (request, reply) => {
    const { topic, name } = request.body
    const delay = delayFromJson(request.body)
    if (delay === null) throw invalid('give one of delay, deliverAt and delayLevel')
    const message = {
      ...contentFromJson(request.body),
      ...delay,
      ...(name !== undefined && { delayId: name }),
    }
    const { delayId: id = '' } = await mq.publish(rawTopic(topic), message)
    reply.code(201)
    return { id, topic, deliverAt: parseDelayId(id)?.dueAt }
  })

  const one = `${path}/:id`
  app.get<{ Params: { id: string } }>(one, { schema: { params: byId } }, async (request, reply) => {
    const { id } = request.params
    const message = await mq.delayed.get(id)
    if (message === null) throw unknownDelayed(id)
    return reply.type(JSON_TYPE).send(delayedJson(message))
  })

  app.delete<{ Params: { id: string } }>(one, { schema: { params: byId } }, async request => {
    const { id } = request.params
    if (!(await mq.delayed.cancel(id))) throw unknownDelayed(id)
    return { cancelled: id }
  })

  app.post<{ Params: { id: string }; Body: DelayJson }>(
    `${one}/reschedule`,
    { schema: { params: byId, body: objectOf(when) } },
    async request => {
      const { id: before } = request.params
      const delay = delayFromJson(request.body)
      if (delay === null) throw invalid('give one of delay, deliverAt and delayLevel')
      const id = await mq.delayed.reschedule(before, delay)
      if (id === null) throw unknownDelayed(before)
      return { id, deliverAt: parseDelayId(id)?.dueAt }
    },
  )
}

interface NewSchedule extends ContentJson {
  readonly cron: string
  readonly timezone?: string
  readonly topic: string
}

function addSchedules(app: FastifyInstance, mq: Sluice): void {
  const path = '/v1/schedules'
  app.get(path, async (_request, reply) => {
    const schedules = await mq.schedules.list()
    return reply.type(JSON_TYPE).send(`{"schedules":[${schedules.map(scheduleJson).join(',')}]}`)
  })

  const one = `${path}/:name`
  const body = objectOf({ cron: text, timezone: text, topic: topicName, ...content }, ['cron', 'topic'])
  app.put<{ Params: { name: string }; Body: NewSchedule }>(
    one,
    { schema: { params: byName, body } },
    async (request, reply) => {
      const { cron, timezone, topic } = request.body
      const schedule = await mq.schedules.set(request.params.name, {
        cron,
        timezone,
        topic: rawTopic(topic),
        message: contentFromJson(request.body),
      })
      return reply.type(JSON_TYPE).send(scheduleJson(schedule))
    },
  )

  app.delete<{ Params: { name: string } }>(one, { schema: { params: byName } }, async request => {
    const { name } = request.params
    if (!(await mq.schedules.remove(name))) throw unknownSchedule(name)
    return { removed: name }
  })
}

const invalid = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
