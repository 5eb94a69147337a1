/** The table of messages in hand: whatever comes and goes, each row gives the message that was put there. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { InHand } from '../../src/delivery/in-hand.ts'
import { MessageBatch } from '../../src/delivery/message.ts'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import { patchOffset } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'

const source = { topic: rawTopic('rung') as never, partition: 3 }

/** With a key, a value and a header each that say which one it is; every third without a key, every fifth without a value. */
function batchFrom(offset: number, count: number): MessageBatch<unknown, unknown> {
  const builder = new BatchBuilder()
  for (let index = offset; index < offset + count; index++) {
    const key = index % 3 === 0 ? null : `key ${index}`
    builder.append(index * 10, key, index % 5 === 0 ? null : `value ${index}`, [['which', `${index}`]])
  }
  const bytes = Buffer.from(builder.close())
  patchOffset(bytes, 0, offset, 0)
  return new MessageBatch(source, bytes, offset)
}

test('a row gives the message that it was given, however many come and go', () => {
  const step = fc.oneof(fc.record({ take: fc.integer({ min: 1, max: 200 }) }), fc.record({ drop: fc.nat() }))
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), steps => {
      const hand = new InHand<string>()
      const rows = new Map<number, number>()
      let offset = 0
      for (const action of steps) {
        if ('take' in action) {
          const record = batchFrom(offset, action.take).records()
          while (record.next()) {
            const row = hand.add(`lane ${offset}`, source, record, record.offset / 2)
            expect(rows.has(row)).toBe(false)
            rows.set(row, record.offset)
          }
          offset += action.take
        } else {
          for (const row of [...rows.keys()].filter(each => (each + action.drop) % 3 > 0)) {
            hand.remove(row)
            rows.delete(row)
          }
        }
        for (const [row, at] of rows) {
          const message = hand.message(row)
          expect([message.offset, message.timestamp, hand.offset(row), hand.dueAt(row)]).toEqual([
            at,
            at * 10,
            at,
            at / 2,
          ])
          expect(message.keyBytes?.toString()).toBe(at % 3 === 0 ? undefined : `key ${at}`)
          expect(message.valueBytes?.toString()).toBe(at % 5 === 0 ? undefined : `value ${at}`)
          expect(message.header('which')).toBe(`${at}`)
          expect([message.topic, message.partition]).toEqual(['rung', 3])
        }
      }
    }),
    { numRuns: 60 },
  )
})

test('what was fetched is let go when nothing of it is in hand any more', () => {
  const hand = new InHand<string>()
  const lanes = ['a', 'b']
  const rows: number[][] = lanes.map((lane, index) => {
    const mine: number[] = []
    const record = batchFrom(index * 100, 100).records()
    while (record.next()) mine.push(hand.add(lane, source, record, 0))
    return mine
  })
  for (const row of rows[0]) hand.remove(row)
  expect(hand.pages).toBe(1)
  expect(rows[1].map(row => hand.lane(row))).toEqual(rows[1].map(() => 'b'))
  for (const row of rows[1]) hand.remove(row)
  expect(hand.pages).toBe(0)
})
