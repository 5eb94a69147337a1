/**
 * InitProducerId: a number for an idempotent producer. A producer that asks again, after an error, gets another number:
 * its sequences begin anew. Transactional ids are refused with an error that clients take for final.
 */

import { initProducerIdApi } from '../../wire/kafka/init-producer-id.ts'
import { handler } from './handler.ts'

const INVALID_REQUEST = 42
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53

export const initProducerIdHandler = handler(initProducerIdApi, async (request, { broker }) => {
  const { transactionalId } = request
  if (transactionalId !== null) {
    const errorCode = transactionalId === '' ? INVALID_REQUEST : TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    return { errorCode, producerEpoch: -1 }
  }
  return { errorCode: 0, producerId: await broker.allocateProducerId(), producerEpoch: 0 }
})
