/**
 * What a handler of Kafka requests is: one API, its versions from the wire schema, and a function from request to
 * response. The table of handlers (`handlers.ts`) is what ApiVersions answers with, so that nothing can be advertised that
 * is not served, or the other way round.
 */

import type { Broker } from '../../broker/broker.ts'
import { type ErrorCode, errorTable, isSluiceError } from '../../errors.ts'
import type { Api, Decoded, Encodable, Fields } from '../../wire/kafka/schema.ts'
import type { Logger } from '../logger.ts'

/** The one broker that clients see: this server. */
export interface Node {
  readonly id: number
  /** Where clients are told to connect. */
  readonly host: string
  readonly port: number
}

/** What lives as long as the connection. Owned by `connection.ts`; handlers keep their state in the maps they own. */
export interface ConnectionContext {
  readonly id: string
  /** `/10.0.0.7`, as Kafka writes the address of a client. */
  readonly clientHost: string
  /** Aborted when the connection is gone or the server drains: ends long polls. */
  readonly signal: AbortSignal
  /** For what an operator has to know and the client cannot be told in full. Missing: nobody listens. */
  readonly log?: Logger
}

export interface RequestContext {
  readonly broker: Broker
  readonly node: Node
  readonly version: number
  readonly clientId: string
  readonly connection: ConnectionContext
  readonly autoCreateTopics: boolean
}

export interface Handler<Request extends Fields = Fields, Response extends Fields = Fields> {
  readonly api: Api<Request, Response>
  /**
   * Whether a request may start while requests of the same API that came before it on the connection are not answered yet.
   * Default false: it starts when everything before it is answered, so that it sees what they did, as in Kafka.
   */
  readonly overlapping?: boolean
  /**
   * Whether nothing looks at the bytes of the request once it is answered: their memory is given back then, not when the garbage
   * collector comes for it. Default false.
   */
  readonly releasing?: boolean
  /**
   * Answers a request. What it does to the broker it does in the turn of the call, as far as the order of requests matters; the answer may come later.
   * Null: no response at all (Produce with acks=0). What it throws ends in the error of the whole response where there is one, or closes the connection.
   */
  readonly handle: (
    request: Decoded<Request>,
    context: RequestContext,
  ) => Encodable<Response> | null | Promise<Encodable<Response> | null>
}

export const handler = <Request extends Fields, Response extends Fields>(
  api: Api<Request, Response>,
  handle: Handler<Request, Response>['handle'],
): Handler<Request, Response> => ({ api, handle })

/** Kafka's number for what was thrown; -1 (UNKNOWN_SERVER_ERROR) for what is no refusal. */
export const kafkaCodeOf = (error: unknown): number =>
  isSluiceError(error) ? errorTable[error.code].kafka : -1

export const kafkaCode = (code: ErrorCode | null): number => (code === null ? 0 : errorTable[code].kafka)
