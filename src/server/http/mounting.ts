/**
 * Puts the HTTP application together: endpoints, metrics, and the producer that all requests publish with. Apart from `server.ts`, so that
 * none of it is loaded before the first request.
 */

import type { Server } from 'node:http'
import { PublishError } from '../../delivery/published.ts'
import { rawTopic } from '../../delivery/raw-topic.ts'
import type { Sluice } from '../../delivery/sluice.ts'
import { LocalEngine } from '../../engine/local.ts'
import { SluiceError } from '../../errors.ts'
import type { Clock } from '../../lib/clock.ts'
import type { Logger } from '../logger.ts'
import type { ServeOptions } from '../options.ts'
import { version } from '../version.ts'
import { createApplication } from './application.ts'
import { addBacklogRoutes } from './backlog-routes.ts'
import { addDeadLetterRoutes } from './dead-letter-routes.ts'
import { addDelayRoutes } from './delay-routes.ts'
import { type Acknowledged, addEndpoints, type IncomingMessage } from './endpoints.ts'
import { addHalfRoutes } from './half-routes.ts'
import type { Application, HttpServer } from './http-server.ts'
import { type KafkaTraffic, Metrics } from './metrics.ts'

/** `kafka`: the Kafka listener of the same server, whose counters are among the metrics. */
export async function mountHttp(
  server: Server,
  http: HttpServer,
  options: ServeOptions,
  sluice: Sluice,
  log: Logger,
  clock: Clock,
  kafka: KafkaTraffic | undefined,
): Promise<Application> {
  const { engine } = sluice
  const metrics = new Metrics()
  const app = createApplication(server, options, log, metrics, http.draining)
  const publish = publisher(sluice)
  addEndpoints(app, { engine, publish, clock, version, limits: options, draining: http.draining })
  addDeadLetterRoutes(app, sluice)
  addDelayRoutes(app, sluice)
  addHalfRoutes(app, sluice)
  addBacklogRoutes(app, sluice)
  const stats = engine instanceof LocalEngine ? () => engine.broker.stats() : undefined
  metrics.serve(app, {
    engine,
    version,
    stats,
    connections: () => http.connections,
    kafka,
    duplicatesDropped: () => sluice.duplicatesDropped,
  })
  await app.ready()
  return { handle: (request, response) => app.routing(request, response), close: () => app.close() }
}

type Publish = (topic: string, messages: readonly IncomingMessage[]) => Promise<readonly Acknowledged[]>

/** One producer for all requests: those that come at the same time share batches and syncs. */
function publisher(sluice: Sluice): Publish {
  const producer = sluice.producer()
  return async (name, messages) => {
    const topic = rawTopic(name)
    const outgoing = messages.map(({ key, value, headers, partition }) => ({
      key: toBuffer(key),
      value: toBuffer(value),
      headers,
      ...(partition === undefined ? {} : { partition }),
    }))
    if (outgoing.length === 1) return [await producer.send(topic, outgoing[0])]
    try {
      return [...(await producer.send(topic, outgoing))]
    } catch (error) {
      throw error instanceof PublishError ? withResults(error, outgoing.length) : error
    }
  }
}

const toBuffer = (content: Uint8Array | string | null) =>
  typeof content === 'string' ? Buffer.from(content) : content

/** Says of each message of an array what became of it: some may have been stored. */
function withResults(error: PublishError, count: number): SluiceError {
  const failures = new Map([...error.failures()].map(failure => [failure.index, failure.error]))
  const results = Array.from({ length: count }, (_, index) => {
    const failure = failures.get(index)
    if (failure) return { error: { code: failure.code, message: failure.message } }
    const { topic, partition, offset } = error.at(index)!
    return { topic, partition, offset }
  })
  return new SluiceError(error.code, error.message, { ...error.detail, results }, error)
}
