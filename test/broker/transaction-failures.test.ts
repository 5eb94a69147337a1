/** What a failing disk does to the log in which transactions are kept, seen through the broker: it is told, and nothing else comes of it. */

import { expect, test } from 'vitest'
import { Broker } from '../../src/broker/broker.ts'
import { isSluiceError } from '../../src/errors.ts'
import { Log } from '../../src/log/log.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

test('a sync that fails while the log is written anew is told to those who wait, and to nobody else', async () => {
  const unheard: unknown[] = []
  const note = (error: unknown): unknown => unheard.push(error)
  process.on('unhandledRejection', note)
  const bytes = Object.getOwnPropertyDescriptor(Log.prototype, 'bytes')!
  // As large as it has to be to be written anew.
  const large = { configurable: true, get: () => 64 * 1024 * 1024 }
  try {
    const clock = new VirtualClock()
    const disk = new FaultyDisk({ seed: 1, clock, delayMsMax: 1 })
    disk.makeDirectory('/data')
    const run = async <T>(promise: Promise<T>): Promise<T> => {
      promise.catch(() => {})
      await clock.advance(100)
      return promise
    }
    const broker = await run(Broker.open({ disk, path: '/data', clock }))
    const init = (transactionalId: string) =>
      broker.transactions.init({ transactionalId, timeoutMs: 1_000, producerId: -1, epoch: -1 })
    await run(init('first'))
    Object.defineProperty(Log.prototype, 'bytes', large)
    disk.failNext('sync', path => path.includes('__transaction_state'))
    await expect(run(init('second'))).rejects.toMatchObject({ code: 'STORAGE_FAILED' })
    await clock.advance(100)
    await new Promise(setImmediate)
  } finally {
    Object.defineProperty(Log.prototype, 'bytes', bytes)
    process.off('unhandledRejection', note)
  }
  expect(unheard.filter(error => isSluiceError(error))).toEqual([])
})
