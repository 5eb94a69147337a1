/** Deduplicated messages for topics that cannot be. */

import { expect, test } from 'vitest'
import { VirtualQueue } from '../virtual-queue.ts'

test.each(['no topic!', 'x'.repeat(245)])(
  'a message with an id for a topic that cannot be does not hold the others up: %s',
  async target => {
    const queue = await VirtualQueue.open({ autoCreateTopics: true })
    const { mq } = queue
    const relay = await queue.settle(mq.relay())
    const errors: string[] = []
    relay.on('error', error => errors.push(error.code))
    await queue.settle(mq.createTopic('t'))
    // refused at once, or accepted and then a letter
    await queue.settle(
      mq
        .deduplicate(target)
        .publish({ id: 'a', key: 'k', value: 'x' })
        .catch(() => {}),
    )
    if (target.startsWith('x')) {
      await queue.advance(2_000)
      await queue.settle(mq.deleteTopic(target)).catch(() => {})
      await queue.settle(mq.alterTopic('t', {})).catch(() => {})
    }
    await queue.settle(mq.deduplicate('t').publish({ id: 'b', key: 'k', value: 'fine' }))
    await queue.advance(20_000)
    expect(await queue.texts('t')).toEqual(['fine'])
    expect(errors.length).toBeLessThan(5)
  },
)
