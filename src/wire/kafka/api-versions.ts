/**
 * ApiVersions (18): what the server speaks. The header of the response is always that of version 0, so that a client can
 * read the answer to a version that the server does not know.
 */

import { api, array, bool, int16, int32, int64, string } from './schema.ts'

export const apiVersionsApi = api({
  key: 18,
  name: 'ApiVersions',
  versions: '0-4',
  flexible: '3+',
  request: {
    clientSoftwareName: string('3+', { default: '' }),
    clientSoftwareVersion: string('3+', { default: '' }),
  },
  response: {
    errorCode: int16('0+'),
    apiKeys: array('0+', { apiKey: int16('0+'), minVersion: int16('0+'), maxVersion: int16('0+') }),
    throttleTimeMs: int32('1+', { default: 0 }),
    supportedFeatures: array(
      '3+',
      { name: string('3+'), minVersion: int16('3+'), maxVersion: int16('3+') },
      { tag: 0 },
    ),
    finalizedFeaturesEpoch: int64('3+', { default: -1, tag: 1 }),
    finalizedFeatures: array(
      '3+',
      { name: string('3+'), maxVersionLevel: int16('3+'), minVersionLevel: int16('3+') },
      { tag: 2 },
    ),
    zkMigrationReady: bool('3+', { tag: 3 }),
  },
})
