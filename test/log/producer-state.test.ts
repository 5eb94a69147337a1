/** Idempotent producers: what is stored once, what is refused, and that restarts change neither. */

import { describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import type { Log } from '../../src/log/log.ts'
import { ProducerState } from '../../src/log/producer-state.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import {
  appendEach,
  batchOf,
  fileOf,
  HandClock,
  inMemory,
  openLog,
  putFile,
  readAll,
  scratches,
  values,
} from './scratch-log.ts'

interface Options {
  readonly count?: number
  readonly id?: number
  readonly epoch?: number
  readonly transactional?: boolean
}

const batch = (sequence: number, options: Options = {}): Buffer =>
  batchOf(values(options.count ?? 1), {
    producerId: options.id ?? 7,
    producerEpoch: options.epoch ?? 0,
    baseSequence: sequence,
    transactional: options.transactional,
  })

/** The offset, with `again` if it was stored before; or the code of the refusal. */
function send(log: Log, bytes: Buffer): string {
  try {
    const { baseOffset, repeated } = log.append(bytes)
    return repeated ? `${baseOffset} again` : String(baseOffset)
  } catch (error) {
    return (error as SluiceError).code
  }
}

describe('a producer', () => {
  test('that repeats one of its last five batches gets the offset of the first time', async () => {
    const log = await openLog(inMemory())
    for (let sequence = 0; sequence < 7; sequence++) expect(send(log, batch(sequence))).toBe(String(sequence))
    for (let sequence = 2; sequence < 7; sequence++)
      expect(send(log, batch(sequence))).toBe(`${sequence} again`)
    for (const sequence of [0, 1]) expect(send(log, batch(sequence))).toBe('DUPLICATE_SEQUENCE')
    expect(log.append(batch(6))).toEqual({ baseOffset: 6, lastOffset: 6, appendTime: -1, repeated: true })
    expect(log.endOffset).toBe(7)
    expect(await readAll(log)).toHaveLength(7)
  })

  test('that leaves something out, or sends half of it again, is refused', async () => {
    const log = await openLog(inMemory())
    expect(send(log, batch(0, { count: 3 }))).toBe('0')
    expect(send(log, batch(4))).toBe('OUT_OF_ORDER_SEQUENCE')
    expect(send(log, batch(1, { count: 4 }))).toBe('OUT_OF_ORDER_SEQUENCE')
    expect(send(log, batch(1, { count: 2 }))).toBe('DUPLICATE_SEQUENCE')
    expect(send(log, batch(3, { count: 2 }))).toBe('3')
    expect(log.endOffset).toBe(5)
  })

  test('of an older epoch is fenced; a new epoch begins at 0', async () => {
    const log = await openLog(inMemory())
    expect(send(log, batch(0, { epoch: 3 }))).toBe('0')
    expect(send(log, batch(1, { epoch: 2 }))).toBe('INVALID_PRODUCER_EPOCH')
    expect(send(log, batch(1, { epoch: 4 }))).toBe('OUT_OF_ORDER_SEQUENCE')
    expect(send(log, batch(0, { epoch: 4 }))).toBe('1')
    expect(send(log, batch(1, { epoch: 3 }))).toBe('INVALID_PRODUCER_EPOCH')
    expect(send(log, batch(0, { epoch: 4 }))).toBe('1 again')
  })

  test('that is not known may begin anywhere', async () => {
    const log = await openLog(inMemory())
    expect(send(log, batch(1_000))).toBe('0')
    expect(send(log, batch(1_001))).toBe('1')
  })

  test('does not get in the way of others', async () => {
    const log = await openLog(inMemory())
    for (let round = 0; round < 3; round++) {
      for (const id of [1, 2, 2 ** 40]) expect(send(log, batch(round, { id }))).toMatch(/^\d+$/)
      appendEach(log, ['no producer'])
    }
    expect(send(log, batch(2, { id: 2 ** 40 }))).toBe('10 again')
  })

  test('goes on at 0 after the last sequence there is', async () => {
    const log = await openLog(inMemory())
    const last = 2 ** 31 - 1
    expect(send(log, batch(last - 2, { count: 2 }))).toBe('0')
    expect(send(log, batch(last, { count: 3 }))).toBe('2') // the last one, 0 and 1
    expect(send(log, batch(2))).toBe('5')
    expect(send(log, batch(last, { count: 3 }))).toBe('2 again')
    expect(send(log, batch(last - 2, { count: 2 }))).toBe('0 again')
    expect(send(log, batch(last - 3, { count: 1 }))).toBe('DUPLICATE_SEQUENCE')
    expect(send(log, batch(4))).toBe('OUT_OF_ORDER_SEQUENCE')
  })
})

describe.each(scratches)('after a restart (%s)', (_, scratchOf) => {
  test.each(['close', 'checkpoint', 'nothing'] as const)(
    'that came after %s, nothing is stored twice',
    async how => {
      const scratch = scratchOf()
      const first = await openLog(scratch, { segmentBytesMax: 500 })
      for (let sequence = 0; sequence < 20; sequence += 2) send(first, batch(sequence, { count: 2 }))
      send(first, batch(2 ** 31 - 2, { id: 8, count: 4 }))
      await first.flush()
      if (how === 'close') await first.close()
      if (how === 'checkpoint') {
        await first.checkpoint()
        send(first, batch(20, { count: 2 }))
        await first.flush()
      }
      const log = await openLog(scratch)
      const last = how === 'checkpoint' ? 20 : 18
      expect(send(log, batch(last, { count: 2 }))).toBe(`${how === 'checkpoint' ? 24 : 18} again`)
      expect(send(log, batch(2 ** 31 - 2, { id: 8, count: 4 }))).toBe('20 again')
      expect(send(log, batch(last + 4, { count: 2 }))).toBe('OUT_OF_ORDER_SEQUENCE')
      expect(send(log, batch(last + 2, { count: 2 }))).toMatch(/^\d+$/)
      expect(send(log, batch(2, { id: 8 }))).toMatch(/^\d+$/)
      await log.close()
    },
  )

  test('producers whose batches are all deleted are still known', async () => {
    const scratch = scratchOf()
    const first = await openLog(scratch)
    send(first, batch(0, { count: 3 }))
    first.roll()
    appendEach(first, ['x'])
    await first.deleteUntil(4)
    await first.close()
    const log = await openLog(scratch)
    expect(send(log, batch(0, { count: 3 }))).toBe('0 again')
    expect(send(log, batch(3))).toBe('4')
    await log.close()
  })

  test('a damaged or lost snapshot is made up for from the log', async () => {
    for (const damage of ['flip', 'cut', 'remove', 'empty'] as const) {
      const scratch = scratchOf()
      const first = await openLog(scratch, { segmentBytesMax: 300 })
      for (let sequence = 0; sequence < 10; sequence++) send(first, batch(sequence))
      await first.close()
      const name = scratch.disk.list(scratch.directory).find(candidate => candidate.endsWith('.snapshot'))!
      const bytes = fileOf(scratch, name)
      if (damage === 'remove') scratch.disk.remove(`${scratch.directory}/${name}`)
      else if (damage === 'flip') {
        bytes[20] ^= 4
        putFile(scratch, name, bytes)
      } else putFile(scratch, name, damage === 'cut' ? bytes.subarray(0, 30) : Buffer.alloc(0))
      const log = await openLog(scratch)
      expect(send(log, batch(9)), damage).toBe('9 again')
      expect(send(log, batch(11)), damage).toBe('OUT_OF_ORDER_SEQUENCE')
      await log.close()
    }
  })
})

test('a snapshot is replaced as a whole: a crash in the middle forgets nobody', async () => {
  for (let operations = 0; operations < 10; operations++) {
    for (let seed = 0; seed < 4; seed++) {
      const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
      disk.makeDirectory('/t-0')
      await disk.syncDirectory('/')
      const log = await openLog({ disk, directory: '/t-0' })
      send(log, batch(0, { count: 3 }))
      log.roll()
      await log.deleteUntil(3) // nothing but the snapshot knows of the producer now
      disk.crashAt(disk.operations + operations, 'after')
      const goOn = async (): Promise<void> => {
        log.roll()
        appendEach(log, ['x'])
        await log.checkpoint()
      }
      await Promise.race([goOn(), new Promise(resolve => setTimeout(resolve, 5))]).catch(() => {})
      const after = await openLog({ disk: disk.crash(), directory: '/t-0' })
      expect(send(after, batch(0, { count: 3 })), `crash after ${operations} operations, seed ${seed}`).toBe(
        '0 again',
      )
    }
  }
})

test('a deletion forgets nobody, whenever the power goes', async () => {
  for (let operations = 0; operations < 16; operations++) {
    for (let seed = 0; seed < 8; seed++) {
      const disk = new FaultyDisk({ seed, clock: new HandClock(), delayMsMax: 0 })
      disk.makeDirectory('/t-0')
      await disk.syncDirectory('/')
      const log = await openLog({ disk, directory: '/t-0' })
      await log.checkpoint()
      send(log, batch(0, { count: 3 }))
      log.roll()
      appendEach(log, ['x'])
      await log.flush()
      disk.crashAt(disk.operations + operations, 'before')
      // The batch goes, and what the new checkpoint says of its producer is all that is left.
      await Promise.race([log.deleteUntil(4), new Promise(resolve => setTimeout(resolve, 3))]).catch(() => {})
      const after = await openLog({ disk: disk.crash(), directory: '/t-0' })
      expect(send(after, batch(0, { count: 3 })), `crash at ${operations}, seed ${seed}`).toBe('0 again')
    }
  }
})

describe('the state', () => {
  test('is bounded: who was silent longest is forgotten', () => {
    const state = new ProducerState(3)
    for (const id of [1, 2, 3]) state.note(batch(0, { id }), 0, id)
    state.note(batch(1, { id: 1 }), 0, 10)
    state.note(batch(0, { id: 4 }), 0, 11)
    expect(state.count).toBe(3)
    expect(state.check(batch(0, { id: 2 }), 0)).toBe(-1)
    expect(state.check(batch(1, { id: 1 }), 0)).toBe(10)
  })

  test('forgets producers that were silent for too long', () => {
    const state = new ProducerState()
    state.note(batchOf(['x'], { producerId: 1, producerEpoch: 0, baseSequence: 0, timestamp: 100 }), 0, 0)
    state.note(batchOf(['x'], { producerId: 2, producerEpoch: 0, baseSequence: 0, timestamp: 200 }), 0, 1)
    state.expire(150)
    expect(state.count).toBe(1)
    expect(state.check(batch(0, { id: 2 }), 0)).toBe(1)
  })

  test('survives encode and decode; damaged bytes change nothing', () => {
    const state = new ProducerState()
    state.note(batch(5, { id: 2 ** 50, epoch: 3, count: 4 }), 0, 2 ** 45)
    state.note(batch(2 ** 31 - 2, { id: 1, count: 3 }), 0, 100)
    const bytes = state.encode()
    const copy = new ProducerState()
    for (let at = 0; at < bytes.length; at++) {
      const damaged = Buffer.from(bytes)
      damaged[at] ^= 1
      expect(copy.decode(damaged)).toBe(false)
      expect(copy.decode(bytes.subarray(0, at))).toBe(false)
    }
    expect(copy.count).toBe(0)
    expect(copy.decode(bytes)).toBe(true)
    expect(copy.encode()).toEqual(bytes)
    expect(copy.check(batch(5, { id: 2 ** 50, epoch: 3, count: 4 }), 0)).toBe(2 ** 45)
    expect(copy.check(batch(2 ** 31 - 2, { id: 1, count: 3 }), 0)).toBe(100)
    expect(() => copy.check(batch(0, { id: 2 ** 50, epoch: 2 }), 0)).toThrow(SluiceError)
  })

  test('is stored in the format of Kafka', () => {
    const state = new ProducerState()
    state.note(
      batchOf(['a', 'b'], {
        producerId: 4_000,
        producerEpoch: 5,
        baseSequence: 10,
        timestamp: 1_700_000_000_000,
      }),
      0,
      77,
    )
    // version 1 │ crc │ 1 producer │ id │ epoch │ last sequence │ last offset │ delta │ timestamp │ coordinator epoch │ no transaction
    expect(state.encode().toString('hex')).toMatch(
      /^0001[0-9a-f]{8}000000010000000000000fa000050000000b000000000000004e000000010000018bcfe56800ffffffffffffffffffffffff$/,
    )
  })
})

describe('transactions', () => {
  const part = (sequence: number, options: Options = {}): Buffer =>
    batch(sequence, { transactional: true, ...options })
  /** The refusal, or where it was stored before; -1: it may be appended. */
  const check = (state: ProducerState, bytes: Buffer): number | string => {
    try {
      return state.check(bytes, 0)
    } catch (error) {
      return (error as SluiceError).code
    }
  }

  test('begin with their first batch; the oldest that is open holds readers up', () => {
    const state = new ProducerState()
    expect(state.firstUnstableOffset).toBe(Number.POSITIVE_INFINITY)
    state.note(batch(0, { id: 9 }), 0, 3)
    state.note(part(0, { id: 1, count: 2 }), 0, 4)
    state.note(part(0, { id: 2 }), 0, 6)
    state.note(part(2, { id: 1 }), 0, 7)
    expect(state.firstUnstableOffset).toBe(4)
    expect([1, 2, 9].map(id => state.transactionOffset(id))).toEqual([4, 6, -1])
    expect(state.stableOffsetWithout(1, 8)).toBe(6)
    expect(state.stableOffsetWithout(2, 8)).toBe(4)
    expect([...state.list()].map(each => [each.producerId, each.transactionOffset])).toEqual([
      [9, -1],
      [2, 6],
      [1, 4],
    ])

    expect(state.noteMarker(1, 0, 8, 0)).toEqual({ producerId: 1, firstOffset: 4, lastOffset: 8 })
    expect(state.firstUnstableOffset).toBe(6)
    state.note(part(3, { id: 1 }), 0, 9)
    expect(state.transactionOffset(1)).toBe(9)
    expect(state.firstUnstableOffset).toBe(6)
    expect(state.noteMarker(2, 0, 10, 0)).toMatchObject({ firstOffset: 6 })
    expect(state.firstUnstableOffset).toBe(9)
    expect(state.stableOffsetWithout(1, 11)).toBe(11)
  })

  test('a marker where none is open ends nothing', () => {
    const state = new ProducerState()
    expect(state.noteMarker(1, 0, 5, 0)).toBeNull()
    state.note(part(0, { id: 1 }), 0, 6)
    expect(state.noteMarker(1, 0, 7, 0)).not.toBeNull()
    expect(state.noteMarker(1, 0, 8, 0)).toBeNull()
  })

  test('after a marker of its own epoch a producer goes on with its sequence', () => {
    const state = new ProducerState()
    state.note(part(0, { count: 3 }), 0, 0)
    state.noteMarker(7, 0, 3, 0)
    expect(check(state, part(0, { count: 3 }))).toBe(0)
    expect(check(state, part(4))).toBe('OUT_OF_ORDER_SEQUENCE')
    expect(check(state, part(3))).toBe(-1)
    expect(check(state, batch(3))).toBe(-1)
  })

  test('a marker of a newer epoch fences who wrote; the new epoch begins at 0', () => {
    const state = new ProducerState()
    state.note(part(0, { count: 3 }), 0, 0)
    state.noteMarker(7, 1, 3, 0)
    expect(check(state, part(3))).toBe('INVALID_PRODUCER_EPOCH')
    expect(check(state, part(0, { count: 3 }))).toBe('INVALID_PRODUCER_EPOCH')
    expect(check(state, part(3, { epoch: 1 }))).toBe('OUT_OF_ORDER_SEQUENCE')
    expect(check(state, part(0, { epoch: 1, count: 3 }))).toBe(-1)
    expect([...state.list()]).toMatchObject([{ epoch: 1, lastSequence: -1, transactionOffset: -1 }])
  })

  test('while one is open, what is no part of it is refused, whatever its epoch; repetitions are known', () => {
    const state = new ProducerState()
    state.note(batch(0), 0, 0)
    state.note(part(1), 0, 1)
    expect(check(state, batch(2))).toBe('INVALID_TXN_STATE')
    expect(check(state, batch(0, { epoch: 1 }))).toBe('INVALID_TXN_STATE')
    expect(check(state, batch(0))).toBe(0)
    expect(check(state, part(2))).toBe(-1)
    // As a repetition of another epoch it is none.
    expect(check(state, part(0, { epoch: 1 }))).toBe(-1)
  })

  test('a snapshot keeps those that are open, in their order, and producers of which only a marker is known', () => {
    const state = new ProducerState()
    state.note(part(0, { id: 3 }), 0, 10)
    state.note(part(0, { id: 1 }), 0, 11)
    state.note(part(0, { id: 2 }), 0, 12)
    state.note(part(1, { id: 3 }), 0, 13)
    state.note(part(0, { id: 4 }), 0, 14)
    state.noteMarker(4, 6, 15, 99)
    const copy = new ProducerState()
    copy.note(part(0, { id: 50 }), 0, 1)
    expect(copy.decode(state.encode())).toBe(true)
    expect(copy.encode()).toEqual(state.encode())
    expect([1, 2, 3, 4, 50].map(id => copy.transactionOffset(id))).toEqual([11, 12, 10, -1, -1])
    expect(copy.firstUnstableOffset).toBe(10)
    for (const [id, next] of [
      [3, 11],
      [1, 12],
      [2, Number.POSITIVE_INFINITY],
    ]) {
      // prettier-ignore
      copy.noteMarker(id, 0, 20 + id, 0)
      expect(copy.firstUnstableOffset).toBe(next)
    }
    expect(check(copy, part(1, { id: 4, epoch: 6 }))).toBe('OUT_OF_ORDER_SEQUENCE')
    expect(check(copy, part(0, { id: 4, epoch: 6 }))).toBe(-1)
    expect(check(copy, part(0, { id: 4, epoch: 5 }))).toBe('INVALID_PRODUCER_EPOCH')
    copy.clear()
    expect(copy.firstUnstableOffset).toBe(Number.POSITIVE_INFINITY)
  })

  test('a producer with only a marker is stored in the format of Kafka', () => {
    const state = new ProducerState()
    state.note(part(10, { id: 4_000, epoch: 5 }), 0, 77)
    expect(state.encode().subarray(-8).toString('hex')).toBe('000000000000004d')
    state.noteMarker(4_000, 6, 78, 1_900_000_000_000)
    // … │ id │ epoch │ no sequence │ no offset │ delta 0 │ timestamp │ coordinator epoch │ no transaction
    expect(state.encode().subarray(10).toString('hex')).toBe(
      `0000000000000fa00006ffffffffffffffffffffffff00000000000001ba60d33800${'f'.repeat(24)}`,
    )
  })

  test('neither time nor others push out a producer with one that is open', () => {
    const state = new ProducerState(3)
    state.note(part(0, { id: 1 }), 0, 0)
    for (let id = 2; id < 20; id++) state.note(batch(0, { id }), 0, id)
    state.expire(Number.MAX_SAFE_INTEGER)
    expect([...state.list()].map(each => each.producerId)).toEqual([1])
    expect(state.firstUnstableOffset).toBe(0)
    for (let id = 20; id < 25; id++) state.note(part(0, { id }), 0, id)
    expect(state.count).toBe(6)
    expect(state.noteMarker(1, 0, 30, 0)).toEqual({ producerId: 1, firstOffset: 0, lastOffset: 30 })
    state.note(batch(0, { id: 30 }), 0, 31)
    expect([...state.list()].map(each => each.producerId)).not.toContain(1)
    state.expire(Number.MAX_SAFE_INTEGER)
    expect(state.count).toBe(5)
  })
})
