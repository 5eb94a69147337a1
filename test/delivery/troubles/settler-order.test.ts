/** Order behind a message that is refused, and partitions that go meanwhile. */

import { expect, test } from 'vitest'
import { type Publication, Settler, substitutesOf } from '../../../src/delivery/settler.ts'
import { topic } from '../../../src/delivery/topic.ts'
import type { CommitOffset } from '../../../src/engine/engine.ts'
import { SluiceError } from '../../../src/errors.ts'
import { VirtualClock } from '../../sim/virtual-clock.ts'

const publication = (text: string, instead?: () => Publication): Publication => ({
  topic: topic('out') as never,
  message: { value: text } as never,
  instead,
})

function bench(before: (n: number) => Promise<void> | void, after: (texts: string[], n: number) => void) {
  const clock = new VirtualClock()
  const published: string[] = []
  const stored: CommitOffset[] = []
  let n = 0
  const settler = new Settler({
    clock,
    pauseMs: 0,
    commit: async offsets => void stored.push(...offsets),
    transact: async body => {
      const turn = ++n
      await before(turn)
      const texts: string[] = []
      let staged: readonly CommitOffset[] = []
      await body({
        post: (_: unknown, m: { value: string }) => texts.push(m.value),
        stage: (o: readonly CommitOffset[]) => {
          staged = o
        },
      } as never)
      after(texts, turn)
      published.push(...texts)
      stored.push(...staged)
    },
    stage: async (t, o) => (t as never as { stage(o: unknown): void }).stage(o),
    committed: async () => [],
    refused: substitutesOf,
    warn: () => {},
    fail: () => {},
    settled: () => {},
  })
  return { clock, settler, published, stored }
}

test('those behind one that is refused for good keep their order when one of them fails for now', async () => {
  const { settler, clock, published } = bench(
    () => {},
    (texts, turn) => {
      if (texts.includes('bad')) throw new SluiceError('MESSAGE_TOO_LARGE', 'too large')
      if (turn === 3) throw new SluiceError('TIMED_OUT', 'not now')
    },
  )
  const holding = settler.take({ topic: 't', partition: 0 }, 0, undefined)
  for (const [offset, text] of ['bad', 'one', 'two', 'three'].entries()) {
    holding.ledger.begin(offset)
    settler.finishWith(holding, offset, [publication(text, () => publication('letter'))])
  }
  await clock.advance(60_000)
  expect(published.filter(text => text !== 'letter')).toEqual(['one', 'two', 'three'])
})

test('nothing is staged for a partition that was lost and came back while the transaction was being opened', async () => {
  const bed = bench(
    turn => (turn === 1 ? new Promise(resolve => bed.clock.after(1_000, resolve)) : undefined),
    () => {},
  )
  const { settler, clock, published } = bed
  const of = { topic: 't', partition: 0 }
  const holding = settler.take(of, 0, undefined)
  holding.ledger.begin(0)
  settler.finishWith(holding, 0, [publication('x')])
  await clock.advance(100)
  settler.drop([of])
  const again = settler.take(of, 0, undefined)
  again.ledger.begin(0)
  settler.finishWith(again, 0, [publication('x')])
  await clock.advance(60_000)
  expect(published).toEqual(['x'])
})
