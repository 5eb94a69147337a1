/** The queue that producers park what cannot be sent yet in: order, and what it costs to empty a long one. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Fifo } from '../../src/lib/fifo.ts'

test('does what an array does with push, shift and splice', () => {
  const step = fc.oneof(
    fc.constant('push' as const),
    fc.constant('push' as const),
    fc.constant('shift' as const),
    fc.constant('takeAll' as const),
    fc.nat(20).map(index => ({ remove: index })),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const fifo = new Fifo<number>()
      let model: number[] = []
      let next = 0
      for (const step of steps) {
        if (step === 'push') {
          fifo.push(next)
          model.push(next++)
        } else if (step === 'shift') expect(fifo.shift()).toBe(model.shift())
        else if (step === 'takeAll') {
          expect(fifo.takeAll()).toEqual(model)
          model = []
        } else {
          const item = model[step.remove] ?? -1
          fifo.remove(item)
          model = model.filter(other => other !== item)
        }
        expect(fifo.length).toBe(model.length)
        expect(fifo.first).toBe(model[0])
        expect([...fifo]).toEqual(model)
      }
      expect(fifo.takeAll()).toEqual(model)
    }),
  )
})

test('empties a long queue without moving all of it for each item', () => {
  const fifo = new Fifo<number>()
  const count = 400_000 // with Array.shift: half a minute
  for (let item = 0; item < count; item++) fifo.push(item)
  for (let item = 0; item < count; item++) if (fifo.shift() !== item) throw new Error(`not ${item}`)
  expect(fifo.length).toBe(0)
})
