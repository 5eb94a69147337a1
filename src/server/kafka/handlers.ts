/**
 * The table of handlers: what this server answers, and so what ApiVersions says it does. A table belongs to one listener: the
 * fetch sessions in it are those of its clients.
 */

import { apiVersionsHandler } from './api-versions-handler.ts'
import { clusterHandlers } from './cluster-handlers.ts'
import { configHandlers } from './config-handlers.ts'
import { consumerGroupHandlers } from './consumer-group-handlers.ts'
import { offsetForLeaderEpochHandler } from './epoch-handler.ts'
import { fetchHandler } from './fetch-handler.ts'
import { groupHandlers } from './group-handlers.ts'
import type { Handler } from './handler.ts'
import { listOffsetsHandler } from './list-offsets-handler.ts'
import { metadataHandler } from './metadata-handler.ts'
import { offsetHandlers } from './offset-handlers.ts'
import { produceHandler } from './produce-handler.ts'
import { topicHandlers } from './topic-handlers.ts'
import { transactionHandlers } from './transaction-handlers.ts'

/** By API key. */
export function createHandlers(): ReadonlyMap<number, Handler> {
  const handlers = [
    produceHandler,
    fetchHandler(),
    listOffsetsHandler,
    metadataHandler,
    offsetForLeaderEpochHandler,
    ...groupHandlers,
    ...consumerGroupHandlers,
    ...offsetHandlers,
    ...topicHandlers,
    ...configHandlers,
    ...clusterHandlers,
    ...transactionHandlers,
    // The connection hands each of them only what its own schema has decoded.
  ] as unknown as readonly Handler[]
  const all = [...handlers, apiVersionsHandler(handlers)]
  return new Map(all.map(each => [each.api.key, each]))
}
