/**
 * A process that consumes `in`, transforms and produces to `out`, and kills itself in the middle:
 *
 *     node crashing-client.ts URL DEATH AFTER
 *
 * as soon as it has published AFTER messages, or handled AFTER batches. It is a static member of its group: whoever comes next
 * takes its place at once.
 */

import { open } from '../../src/open.ts'

/** When it dies: with messages in the transaction; with the offsets, too; while the transaction is being committed. */
export type Death = 'published' | 'staged' | 'ending'

const [url, death, after] = process.argv.slice(2) as [string, Death, string]
const mq = await open(url)
const die = (): void => {
  process.kill(process.pid, 'SIGKILL')
}
let left = Number(after)
const source = { group: 'g', topics: ['in'], instanceId: 'one', partitionBytesMax: 500 }
const transaction = { timeoutMs: 2_000 }

if (death === 'published') {
  const transform = mq.transform({ ...source, transaction }, async (message, tx) => {
    await tx.publish('out', { key: message.key, value: message.value })
    if (--left === 0) die()
  })
  await transform.done
} else {
  const consumer = mq.consumer({ ...source, autoCommit: false })
  await consumer.runBatch(async batch => {
    const committing = mq.transaction(async tx => {
      for (const message of batch) tx.publish('out', { key: message.key, value: message.value })
      await tx.commit(consumer, batch)
      if (--left === 0) death === 'staged' ? die() : setImmediate(die)
    }, transaction)
    await committing
  })
}
