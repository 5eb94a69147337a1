/** SaslHandshake (17): never flexible. After version 0 the client sends its tokens without a header. */

import { api, array, int16, string } from './schema.ts'

export const saslHandshakeApi = api({
  key: 17,
  name: 'SaslHandshake',
  versions: '0-1',
  request: {
    mechanism: string('0+'),
  },
  response: {
    errorCode: int16('0+'),
    mechanisms: array('0+', 'string'),
  },
})
