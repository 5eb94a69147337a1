import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Ledger, NOTES_MAX } from '../../src/delivery/ledger.ts'

const METADATA_CHARS_MAX = 4_096

describe('a ledger', () => {
  test('commits the lowest unfinished offset, and a new owner gets only what was unfinished', () => {
    const ledger = new Ledger(40)
    for (let offset = 40; offset < 49; offset++) expect(ledger.begin(offset)).toBe(true)
    for (const offset of [40, 42, 43, 46, 47, 48]) ledger.finish(offset)
    expect(ledger.offset).toBe(41)

    const owner = new Ledger(ledger.offset, ledger.metadata())
    const handedOut = [41, 42, 43, 44, 45, 46, 47, 48, 49].filter(offset => owner.begin(offset))
    expect(handedOut).toEqual([41, 44, 45, 49])
    for (const offset of handedOut) owner.finish(offset)
    expect([owner.offset, owner.metadata()]).toEqual([50, ''])
  })

  test('keeps the notes of messages that wait', () => {
    const ledger = new Ledger(0)
    for (let offset = 0; offset < 100; offset++) ledger.begin(offset)
    for (let offset = 0; offset < 100; offset += 2) ledger.finish(offset)
    const note = { attempts: 3, firstAt: 1_800_000_000_000, dueAt: 1_800_000_300_000 }
    expect(ledger.note(7, note)).toBe(true)
    expect(ledger.note(8, note)).toBe(false)
    const owner = new Ledger(ledger.offset, ledger.metadata())
    expect([owner.noteOf(7), owner.noteOf(9), owner.noted]).toEqual([note, null, 1])
    owner.begin(7)
    owner.finish(7)
    expect(owner.noted).toBe(0)
  })

  test('takes no more notes than fit', () => {
    const ledger = new Ledger(0)
    const note = { attempts: 1, firstAt: 1, dueAt: 2 }
    for (let offset = 0; offset <= NOTES_MAX; offset++) ledger.begin(offset)
    for (let offset = 0; offset < NOTES_MAX; offset++) expect(ledger.note(offset, note)).toBe(true)
    expect(ledger.note(NOTES_MAX, note)).toBe(false)
    expect(ledger.note(0, { ...note, attempts: 2 })).toBe(true)
  })

  test('unfinished messages that the log has lost do not hold the commit back', () => {
    const ledger = new Ledger(0)
    for (let offset = 0; offset < 10; offset++) ledger.begin(offset)
    ledger.finish(9)
    const owner = new Ledger(ledger.offset, ledger.metadata())
    expect(owner.begin(5)).toBe(true)
    owner.finish(5)
    expect(owner.offset).toBe(6)
    owner.pass(20)
    expect(owner.offset).toBe(20)
  })

  test.each(['', 'by hand', '1', '1!!!', '1AAAA', '1_____w', '2abc', '1AP______________'])(
    'metadata %j of others is taken as none',
    metadata => {
      const ledger = new Ledger(5, metadata)
      expect([ledger.offset, ledger.unfinished]).toEqual([5, 0])
      expect(ledger.begin(5)).toBe(true)
    },
  )

  test('any state comes back from its commit, and fits into one', () => {
    const step = fc.record({
      gap: fc.oneof({ weight: 20, arbitrary: fc.constant(0) }, fc.nat(3), fc.nat(2 ** 30)),
      finish: fc.double({ min: 0, max: 1, noNaN: true }),
      note: fc.boolean(),
    })
    fc.assert(
      fc.property(fc.nat(2 ** 40), fc.array(step, { maxLength: 600 }), fc.nat(40), (start, steps, repeat) => {
        const ledger = new Ledger(start)
        const open: number[] = []
        let next = start
        for (const { gap, finish, note } of Array.from({ length: repeat + 1 }, () => steps).flat()) {
          if (open.length > 0 && finish > 0.45)
            ledger.finish(open.splice(Math.floor(finish * open.length * 0.99), 1)[0])
          if (!ledger.hasRoomFor(next + gap)) continue
          next += gap
          ledger.begin(next)
          if (note) ledger.note(next, { attempts: 20, firstAt: 2 ** 41, dueAt: 2 ** 41 + 2 ** 36 })
          open.push(next++)
        }
        const metadata = ledger.metadata()
        expect(metadata.length).toBeLessThanOrEqual(METADATA_CHARS_MAX)
        const owner = new Ledger(ledger.offset, metadata)
        expect([...owner.offsets()]).toEqual(open.toSorted((one, other) => one - other))
        expect([owner.offset, owner.next, owner.noted]).toEqual([
          ledger.offset,
          open.length === 0 ? ledger.offset : ledger.next,
          ledger.noted,
        ])
      }),
      { numRuns: 60 },
    )
  }, 30_000)
})
