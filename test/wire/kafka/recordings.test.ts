/**
 * What a real Apache Kafka and its clients have said to each other (test/wire/recordings, made by compat/record.ts) decodes with our
 * schemas and encodes back to the same bytes: for every version of every API that both Kafka and we serve.
 */

import { describe, expect, it } from 'vitest'
import { ByteReader } from '../../../src/lib/bytes.ts'
import { createHandlers } from '../../../src/server/kafka/handlers.ts'
import { type ApiName, apis } from '../../../src/wire/kafka/apis.ts'
import {
  decodeRequestBody,
  decodeRequestHeader,
  decodeResponse,
  encodeRequest,
  encodeResponse,
  type Frame,
} from '../../../src/wire/kafka/frame.ts'
import type { Api } from '../../../src/wire/kafka/schema.ts'
import { type Recorded, readRecordings } from '../recordings.ts'

const recordings = readRecordings()
const SIZE_BYTES = 4

const apiOf = ({ api }: Recorded): Api => apis[api as ApiName] as unknown as Api

/** Without the size, which recordings do not have. */
const bytesOf = ({ parts }: Frame): string => Buffer.concat(parts).subarray(SIZE_BYTES).toString('hex')

/** Exchanges of one API, version and client. */
const nameOf = ({ version, client }: Recorded): string => `version ${version}, ${client}`

describe.each([...new Set(recordings.map(({ api }) => api))])('%s', name => {
  const own = recordings.filter(({ api }) => api === name)

  it.each(own.map(each => [nameOf(each), each] as const))('request of %s', (_, each) => {
    const api = apiOf(each)
    const reader = new ByteReader(each.request)
    const { apiKey, apiVersion, correlationId, clientId } = decodeRequestHeader(reader)
    expect([apiKey, apiVersion]).toEqual([api.key, each.version])
    const body = decodeRequestBody(api, apiVersion, reader)
    const again = encodeRequest(api, apiVersion, correlationId, clientId, body as never)
    expect(bytesOf(again)).toBe(each.request.toString('hex'))
  })

  it.each(own.map(each => [nameOf(each), each] as const))('response to %s', (_, each) => {
    const { correlationId, body } = decodeResponse(apiOf(each), each.version, each.response)
    const again = encodeResponse(apiOf(each), each.version, correlationId, body as never)
    expect(bytesOf(again)).toBe(each.response.toString('hex'))
  })
})

/** What cannot be recorded, and why. */
const absent: Record<string, string> = {
  'Produce 0':
    'Kafka announces it for clients that look at the range, and closes the connection when it comes',
  'Produce 1': 'the same',
  'Produce 2': 'the same',
}

describe('the recordings', () => {
  it('have every version that Kafka and we serve', () => {
    const versions = recordings.find(({ api, version }) => api === 'ApiVersions' && version === 4)!
    const { body } = decodeResponse(apis.ApiVersions, 4, versions.response)
    const missing: string[] = []
    for (const { api } of createHandlers().values()) {
      const theirs = body.apiKeys.find(({ apiKey }) => apiKey === api.key)
      if (theirs === undefined) continue
      const max = Math.min(api.served.max, theirs.maxVersion)
      for (let version = Math.max(api.served.min, theirs.minVersion); version <= max; version++) {
        const isThere = recordings.some(each => each.api === api.name && each.version === version)
        if (!isThere) missing.push(`${api.name} ${version}`)
      }
    }
    expect(missing).toEqual(Object.keys(absent))
  })

  it('are of several clients', () => {
    const clients = new Set(recordings.map(({ client }) => client.replace(/-.*/, '')))
    expect([...clients].sort()).toEqual(['java', 'kafkajs', 'librdkafka', 'platformatic', 'schemas'])
  })
})
