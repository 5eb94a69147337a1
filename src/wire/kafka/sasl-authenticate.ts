/** SaslAuthenticate (36): a token of the mechanism that SaslHandshake chose. */

import { api, bytes, int16, int64, string } from './schema.ts'

export const saslAuthenticateApi = api({
  key: 36,
  name: 'SaslAuthenticate',
  versions: '0-2',
  flexible: '2+',
  request: {
    authBytes: bytes('0+'),
  },
  response: {
    errorCode: int16('0+'),
    errorMessage: string('0+', { nullable: '0+', default: null }),
    authBytes: bytes('0+'),
    sessionLifetimeMs: int64('1+', { default: 0 }),
  },
})
