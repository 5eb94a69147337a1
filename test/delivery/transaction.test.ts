/**
 * Transactions and transformations where a test must own the clock, or the engine: over the broker in memory. What all engines have in
 * common is told in test/conformance/transaction-suite.ts.
 */

import { expect, onTestFinished, test } from 'vitest'
import type { Sluice } from '../../src/delivery/sluice.ts'
import type { Engine } from '../../src/engine/engine.ts'
import type { LocalEngine } from '../../src/engine/local.ts'
import { SluiceError } from '../../src/errors.ts'
import { open } from '../../src/open.ts'
import { readAll } from '../conformance/transaction-suite.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

async function memory(): Promise<Sluice> {
  const mq = await open('memory:')
  onTestFinished(() => mq.close())
  return mq
}

/** What comes of a commit is told wrongly, so many times: it is carried out (or not) and the answer is lost. */
function loseAnswers(engine: Engine, count: number, isCarriedOut: boolean): void {
  const init = engine.initTransactions.bind(engine)
  let left = count
  engine.initTransactions = async options => {
    const session = await init(options)
    const end = session.end.bind(session)
    session.end = async commit => {
      if (!commit || left === 0) return end(commit)
      left--
      if (isCarriedOut) await end(commit)
      throw new SluiceError('TIMED_OUT', 'no answer')
    }
    return session
  }
}

test('a transaction is aborted when its time is over, and cannot commit any more', async () => {
  const clock = new VirtualClock()
  /** Time stands still while this is waited for, unless it is moved. */
  const outcomeOf = async <R>(promise: Promise<R>): Promise<PromiseSettledResult<R>> => {
    let outcome: PromiseSettledResult<R> | undefined
    void Promise.allSettled([promise]).then(([settled]) => {
      outcome = settled
    })
    while (outcome === undefined) {
      await clock.runDeferred()
      await new Promise(setImmediate)
    }
    return outcome
  }
  const opened = await outcomeOf(open({ url: 'memory:', clock }))
  const mq = (opened as PromiseFulfilledResult<Sluice>).value
  const late = mq.transaction(
    async tx => {
      await tx.publish('t', { value: 'too late' })
      await clock.advance(1_500)
    },
    { timeoutMs: 1_000 },
  )
  expect(await outcomeOf(late)).toMatchObject({ status: 'rejected', reason: { code: 'PRODUCER_FENCED' } })
  const { partitions } = await mq.describeTopic('t')
  expect((mq.engine as LocalEngine).broker.partition('t', 0).lastStableOffset).toBe(partitions[0].endOffset)
  const next = mq.transaction(tx => tx.publish('t', { value: 'on time' }))
  expect(await outcomeOf(next)).toMatchObject({ status: 'fulfilled', value: { topic: 't', offset: 2 } })
  await outcomeOf(mq.close())
})

test.each([
  ['had come through', true],
  ['had not come through', false],
])(
  'a transformation whose commit %s, which it was not told, does each message once',
  async (_, isCarriedOut) => {
    const mq = await memory()
    const warn = process.emitWarning
    const warnings: string[] = []
    process.emitWarning = (warning: string | Error) => void warnings.push(String(warning))
    onTestFinished(() => {
      process.emitWarning = warn
    })
    loseAnswers(mq.engine, 1, isCarriedOut)
    await mq.publish(
      'in',
      Array.from({ length: 10 }, (_, index) => ({ value: String(index) })),
    )
    const transform = mq.transform({ group: 'g', topics: ['in'] }, (message, tx) => {
      tx.publish('out', { value: message.value })
    })
    await expect.poll(() => mq.engine.committed('g')).toMatchObject([{ offset: 10 }])
    await mq.publish('in', { value: 'last' })
    await expect.poll(() => mq.engine.committed('g')).toMatchObject([{ offset: 11 }])
    await transform.stop()
    expect(await readAll(mq.engine, 'out')).toEqual([...'0123456789', 'last'])
    expect(warnings).toEqual(['no answer'])
  },
)
