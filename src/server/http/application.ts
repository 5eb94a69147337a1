/**
 * The application behind the HTTP listener: Fastify with our errors, limits and guard. Its routes are in `endpoints.ts`, `metrics.ts`.
 *
 * No page of another origin may talk to it: a request whose `Origin` is not the server itself is refused, and bodies
 * must be `application/json`, which a browser does not send elsewhere unasked. So a server on loopback is safe from
 * what its user happens to browse.
 */

import type { Server } from 'node:http'
import Fastify, { type FastifyError, type FastifyInstance, type FastifyRequest } from 'fastify'
import { isSluiceError, SluiceError } from '../../errors.ts'
import type { Logger } from '../logger.ts'
import { errorBody, statusOf } from './http-server.ts'

export interface HttpLimits {
  readonly httpBodyBytesMax: number
}

/** What an operator wants to know of a listener; read at scrape time. */
export interface RequestObserver {
  request(method: string, route: string, status: number, seconds: number): void
}

const PARAM_CHARS_MAX = 1_000

/** `server`: the listener that owns the sockets; requests reach the application through `app.routing`. */
export function createApplication(
  server: Server,
  limits: HttpLimits,
  log: Logger,
  observer: RequestObserver,
  draining: AbortSignal,
): FastifyInstance {
  const app = Fastify({
    serverFactory: () => server,
    bodyLimit: limits.httpBodyBytesMax,
    // ids of delayed messages and names of groups are longer than what is a parameter by default
    routerOptions: { maxParamLength: PARAM_CHARS_MAX },
    // Values are stored as they come; nothing of a body is ever merged into an object of ours.
    onProtoPoisoning: 'ignore',
    onConstructorPoisoning: 'ignore',
    // While draining, requests on open connections are still served, and told that the connection ends.
    return503OnClosing: false,
    ajv: {
      customOptions: {
        removeAdditional: false,
        coerceTypes: true,
        allowUnionTypes: true,
        validateSchema: false,
        meta: false,
      },
    },
  })
  app.setErrorHandler((error: Error, request, reply) => {
    const refusal = asRefusal(error, request, limits)
    if (refusal.code === 'INTERNAL') log.error('request failed', { url: request.routeOptions.url, error })
    return reply
      .code(statusOf(refusal))
      .type('application/json; charset=utf-8')
      .send(JSON.stringify(errorBody(refusal)))
  })
  app.setNotFoundHandler(request => {
    throw new SluiceError('UNKNOWN_ENDPOINT', `there is no ${request.method} ${pathOf(request.url)}`, {
      method: request.method,
      path: pathOf(request.url),
    })
  })
  app.addHook('onRequest', (request, reply, done) => {
    if (draining.aborted) reply.header('connection', 'close')
    done(originRefusal(request))
  })
  app.addHook('onResponse', (request, reply, done) => {
    const route = request.routeOptions.url ?? 'unknown'
    observer.request(request.method, route, reply.statusCode, reply.elapsedTime / 1000)
    if (log.writes('debug')) {
      const { method, url } = request
      log.debug('request', { method, url, status: reply.statusCode, ms: Math.round(reply.elapsedTime) })
    }
    done()
  })
  return app
}

const pathOf = (url: string) => url.split('?', 1)[0]

/** Whatever went wrong, as a row of the error table. */
function asRefusal(error: Error, request: FastifyRequest, limits: HttpLimits): SluiceError {
  if (isSluiceError(error)) return error
  const { code, statusCode, validation, validationContext } = error as FastifyError
  if (validation) return asInvalidArgument(validation[0], validationContext ?? 'request')
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new SluiceError('BODY_TOO_LARGE', `the body is larger than ${limits.httpBodyBytesMax} bytes`, {
        bytesMax: limits.httpBodyBytesMax,
      })
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE': {
      const type = request.headers['content-type']
      const message = `send JSON with the header "content-type: application/json"${type ? `, not ${type}` : ''}`
      return new SluiceError('UNSUPPORTED_MEDIA_TYPE', message, { contentType: type })
    }
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new SluiceError('INVALID_ARGUMENT', 'the body is empty: JSON is expected')
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return new SluiceError('INVALID_ARGUMENT', 'the body is not JSON')
  }
  if (error instanceof SyntaxError && statusCode === 400) {
    return new SluiceError('INVALID_ARGUMENT', `the body is not JSON: ${error.message}`)
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new SluiceError('INVALID_ARGUMENT', error.message)
  }
  return new SluiceError('INTERNAL', 'a defect in the server; its log has more', {}, error)
}

type Violation = NonNullable<FastifyError['validation']>[number]

/** "querystring/count must be <= 10000" becomes "count must be <= 10000". */
function asInvalidArgument(violation: Violation, context: string): SluiceError {
  const { instancePath, keyword, params, message } = violation
  const path = instancePath.slice(1).replaceAll('/', '.')
  if (keyword === 'required') {
    const name = [path, params.missingProperty].filter(Boolean).join('.')
    return new SluiceError('INVALID_ARGUMENT', `${name} is missing`, { argument: name })
  }
  if (keyword === 'additionalProperties') {
    const name = [path, params.additionalProperty].filter(Boolean).join('.')
    return new SluiceError('INVALID_ARGUMENT', `${name} is not known here`, { argument: name })
  }
  const name = path === '' ? `the ${context}` : path
  return new SluiceError('INVALID_ARGUMENT', `${name} ${message}`, { argument: path || context })
}

function originRefusal(request: FastifyRequest): SluiceError | undefined {
  const origin = request.headers.origin
  if (origin === undefined || origin.replace(/^https?:\/\//, '') === request.headers.host) return
  return new SluiceError('FORBIDDEN_ORIGIN', `a page of ${origin} may not talk to this server`, { origin })
}
