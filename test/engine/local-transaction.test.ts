/** Transactions of a producer in the broker's own process: what a process that dies in the middle of one leaves behind. */

import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { open, type Sluice } from '../../src/index.ts'

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'sluice-local-transaction-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

async function texts(mq: Sluice, count: number, isolation: 'committed' | 'uncommitted'): Promise<string[]> {
  const found: string[] = []
  for await (const message of mq.consumer({ topics: ['orders'], isolation })) {
    if (found.push(message.text()) === count) break
  }
  return found
}

test('what a process leaves open when it dies is aborted at the next start, and holds nobody up', async () => {
  const path = folder()
  const mq = await open(join(path, 'living'))
  await mq.publish('orders', { value: 'before' })
  await mq.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 1 }])
  await mq
    .transaction(async tx => {
      await tx.publish('orders', { value: 'of the dead' })
      await tx.commitOffsets('billing', [{ topic: 'orders', partition: 0, offset: 2 }])
      // As `kill -9` would leave it: nothing says yet that the transaction has begun.
      cpSync(join(path, 'living'), join(path, 'dead'), {
        recursive: true,
        filter: name => !name.endsWith('/lock'),
      })
      throw new Error('over')
    })
    .catch(() => {})
  await mq.close()

  const next = await open(join(path, 'dead'))
  expect(await texts(next, 2, 'uncommitted')).toEqual(['before', 'of the dead'])
  await next.publish('orders', { value: 'after' })
  expect(await texts(next, 2, 'committed')).toEqual(['before', 'after'])
  expect(await next.engine.committed('billing', [{ topic: 'orders', partition: 0 }])).toMatchObject([
    { offset: 1 },
  ])
  await next.close()
})
