/** AddOffsetsToTxn (25): the offsets of a group become part of a transaction. */

import { api, int16, int32, int64, string } from './schema.ts'

export const addOffsetsToTxnApi = api({
  key: 25,
  name: 'AddOffsetsToTxn',
  versions: '0-4',
  flexible: '3+',
  request: {
    transactionalId: string('0+'),
    producerId: int64('0+'),
    producerEpoch: int16('0+'),
    groupId: string('0+'),
  },
  response: {
    throttleTimeMs: int32('0+', { default: 0 }),
    errorCode: int16('0+'),
  },
})
