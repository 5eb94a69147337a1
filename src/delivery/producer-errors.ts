/** What a producer refuses with. */

import { SluiceError } from '../errors.ts'
import type { OpenBatch } from './open-batch.ts'

export const closedError = (): SluiceError => new SluiceError('PRODUCER_CLOSED', 'the producer was closed')

export function unknownInTime(topic: string, timeoutMs: number): SluiceError {
  return new SluiceError(
    'TIMED_OUT',
    `topic ${topic}: its partitions did not become known within ${timeoutMs} ms`,
    {
      topic,
      outcome: 'refused',
    },
  )
}

export function timedOut(batch: OpenBatch, when: string): SluiceError {
  const { topic, partition } = batch
  const { count } = batch.builder
  const outcome = batch.writer?.isWithEngine(batch) ? 'unknown' : 'refused'
  const fate = outcome === 'unknown' ? 'it may have been stored all the same' : 'nothing of it was stored'
  const what = count === 1 ? '1 message was' : `${count} messages were`
  return new SluiceError('TIMED_OUT', `${topic}/${partition}: ${what} not answered ${when}; ${fate}`, {
    topic,
    partition,
    count,
    outcome,
  })
}
