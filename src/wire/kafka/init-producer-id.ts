/**
 * InitProducerId (22): an id and epoch for an idempotent or transactional producer. Version 6 (two-phase commit) is not
 * finished in Kafka, and not offered.
 */

import { api, bool, int16, int32, int64, string } from './schema.ts'

export const initProducerIdApi = api({
  key: 22,
  name: 'InitProducerId',
  versions: '0-6',
  served: '0-5',
  flexible: '2+',
  request: {
    transactionalId: string('0+', { nullable: '0+' }),
    transactionTimeoutMs: int32('0+'),
    producerId: int64('3+', { default: -1 }),
    producerEpoch: int16('3+', { default: -1 }),
    enable2Pc: bool('6+', { default: false }),
    keepPreparedTxn: bool('6+', { default: false }),
  },
  response: {
    throttleTimeMs: int32('0+', { default: 0 }),
    errorCode: int16('0+'),
    producerId: int64('0+', { default: -1 }),
    producerEpoch: int16('0+'),
    ongoingTxnProducerId: int64('6+', { default: -1 }),
    ongoingTxnProducerEpoch: int16('6+', { default: -1 }),
  },
})
