/** Makes dead letters, as a worker does. */

import { type DeadLetter, deadLetterTopicOf, letterMessage } from '../../src/delivery/dead-letters.ts'
import { createAsDescribed } from '../../src/delivery/provision.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { errorStory, retryTopic } from '../../src/delivery/system-headers.ts'
import { topicOf } from '../../src/delivery/topic.ts'

/** A message of topic `orders` that group `billing` could not handle. */
export async function die(
  mq: Sluice,
  offset: number,
  value: string | null,
  change: Partial<DeadLetter> = {},
): Promise<void> {
  const story = {
    topic: 'orders',
    partition: 0,
    offset,
    timestamp: 1_000,
    group: 'billing',
    attempts: 5,
    firstFailureAt: 2_000,
    lastFailureAt: 3_000,
    error: errorStory(new RangeError('no such account')),
    ...change,
  }
  const died = {
    key: Buffer.from(`k${offset}`),
    value: value === null ? null : Buffer.from(value),
    headers: [['trace', Buffer.from('t')]] as const,
    deadAt: 4_000 + offset,
    ...change,
  }
  await createAsDescribed(mq.engine, { ...topicOf(retryTopic('orders', 'billing')), partitions: 1 })
  await mq.publish(
    deadLetterTopicOf('orders', 'billing'),
    letterMessage(died, story, change.reason ?? 'attempts'),
  )
}
