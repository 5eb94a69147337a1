/**
 * ApiVersions: the table of what is served, made from the handlers.
 *
 * A client that asks in a version that we do not know gets the table all the same, in version 0, with the error that makes it
 * ask again (KIP-511); `connection.ts` sees to that.
 */

import { apiVersionsApi } from '../../wire/kafka/api-versions.ts'
import type { Api } from '../../wire/kafka/schema.ts'
import { type Handler, handler } from './handler.ts'

export const UNSUPPORTED_VERSION = 35
const INVALID_REQUEST = 42
const SOFTWARE_NAME_VERSION = 3
/** As KIP-511 asks for: these end up in metrics and logs. */
const SOFTWARE_NAME = /^[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?$/

/**
 * What a cluster agrees on (KIP-584); there is nobody to agree with, so the newest level holds. Clients look at them to find
 * out whether consumer groups of KIP-848 and transactions of KIP-890 are in use.
 */
const features = [
  { name: 'group.version', maxVersion: 1 },
  { name: 'transaction.version', maxVersion: 2 },
]
const supportedFeatures = features.map(feature => ({ ...feature, minVersion: 0 }))
const finalizedFeatures = features.map(({ name, maxVersion }) => ({
  name,
  maxVersionLevel: maxVersion,
  minVersionLevel: maxVersion,
}))
const FEATURES_EPOCH = 1
/** First version in which a feature may begin at level 0; before, such a one is left out (KIP-1022). */
const LEVEL_ZERO_VERSION = 4

export interface ServedApi {
  readonly apiKey: number
  readonly minVersion: number
  readonly maxVersion: number
}

export function servedApis(handlers: readonly { readonly api: Api }[]): ServedApi[] {
  return handlers
    .map(({ api }) => ({ apiKey: api.key, minVersion: api.served.min, maxVersion: api.served.max }))
    .sort((a, b) => a.apiKey - b.apiKey)
}

/** `handlers` are the others; the table has this one, too. */
export function apiVersionsHandler(handlers: readonly { readonly api: Api }[]): Handler {
  const apiKeys = servedApis([...handlers, { api: apiVersionsApi as Api }])
  return handler(apiVersionsApi, (request, { version }) => {
    const { clientSoftwareName, clientSoftwareVersion } = request
    const wrong =
      version >= SOFTWARE_NAME_VERSION &&
      !(SOFTWARE_NAME.test(clientSoftwareName) && SOFTWARE_NAME.test(clientSoftwareVersion))
    if (wrong) return { errorCode: INVALID_REQUEST, apiKeys: [] }
    return {
      errorCode: 0,
      apiKeys,
      supportedFeatures: version >= LEVEL_ZERO_VERSION ? supportedFeatures : [],
      finalizedFeaturesEpoch: FEATURES_EPOCH,
      finalizedFeatures,
    }
  }) as unknown as Handler
}
