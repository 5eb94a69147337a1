/** Looking at a log from outside: dumps say what lies there, verification finds what was done to it. */

import { describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { type DumpedBatch, dumpFile, type LogVerification, verifyLog } from '../../src/log/inspect.ts'
import { patchChecksum } from '../../src/record/batch.ts'
import { BatchBuilder } from '../../src/record/builder.ts'
import {
  appendEach,
  batchOf,
  fileOf,
  inMemory,
  logName,
  openLog,
  putFile,
  type Scratch,
  START,
  values,
} from './scratch-log.ts'

const BATCH = batchOf(['value 0']).length

async function filled(): Promise<Scratch> {
  const scratch = inMemory()
  const log = await openLog(scratch, { segmentBytesMax: 5 * BATCH, indexIntervalBytes: BATCH })
  appendEach(log, values(10))
  await log.close()
  return scratch
}

const dump = (scratch: Scratch, name: string, records = false) => [
  ...dumpFile(scratch.disk, `${scratch.directory}/${name}`, { records }),
]

const verify = (scratch: Scratch): LogVerification => verifyLog(scratch.disk, scratch.directory)

const change = (scratch: Scratch, name: string, run: (bytes: Buffer) => Buffer): void =>
  putFile(scratch, name, run(fileOf(scratch, name)))

const flip = (at: number) => (bytes: Buffer) => {
  bytes[at] ^= 1
  return bytes
}

describe('a dump', () => {
  test('of a log names every batch, and its records if asked', async () => {
    const scratch = inMemory()
    const log = await openLog(scratch)
    const builder = new BatchBuilder()
    builder.append(START, 'k', 'v', [['h', 'x']])
    builder.append(START + 5, null, null, null)
    log.append(
      Buffer.from(builder.close({ compression: 'zstd', producerId: 3, producerEpoch: 1, baseSequence: 9 })),
    )
    log.append(batchOf(['plain']))
    await log.close()
    const lines = dump(scratch, logName(0), true) as DumpedBatch[]
    expect(lines).toMatchObject([
      {
        kind: 'batch',
        position: 0,
        baseOffset: 0,
        lastOffset: 1,
        count: 2,
        compression: 'zstd',
        maxTimestamp: START + 5,
        producerId: 3,
        producerEpoch: 1,
        baseSequence: 9,
        transactional: false,
        control: false,
        records: [
          {
            offset: 0,
            timestamp: START,
            key: Buffer.from('k'),
            value: Buffer.from('v'),
            headers: [['h', Buffer.from('x')]],
          },
          { offset: 1, timestamp: START + 5, key: null, value: null, headers: [] },
        ],
      },
      { position: lines[0].bytes, baseOffset: 2, compression: 'none' },
    ])
    expect(dump(scratch, logName(0))[0]).not.toHaveProperty('records')
  })

  test('of the indexes', async () => {
    const scratch = await filled()
    const offsets = dump(scratch, '00000000000000000000.index')
    expect(offsets).toEqual([2, 4].map(offset => ({ kind: 'offset-entry', offset, value: offset * BATCH })))
    expect(dump(scratch, '00000000000000000000.timeindex')).toMatchObject([
      { kind: 'time-entry', offset: 0, value: START },
    ])
  })

  test('goes on behind damage', async () => {
    const scratch = await filled()
    change(scratch, logName(0), flip(2 * BATCH + 65))
    const lines = dump(scratch, logName(0))
    expect(lines.map(line => line.kind)).toEqual(['batch', 'batch', 'damage', 'batch', 'batch'])
    expect(lines[2]).toMatchObject({ position: 2 * BATCH, resumesAt: 3 * BATCH })
    change(scratch, logName(0), flip(4 * BATCH + 65))
    expect(dump(scratch, logName(0)).at(-1)).toMatchObject({
      kind: 'damage',
      position: 4 * BATCH,
      resumesAt: -1,
    })
  })

  test('goes on behind a batch whose records are malformed under a good checksum', async () => {
    const scratch = await filled()
    change(scratch, logName(0), bytes => {
      bytes[BATCH + 61] = 0x7e
      patchChecksum(bytes, BATCH)
      return bytes
    })
    const lines = dump(scratch, logName(0), true)
    expect(lines.map(line => line.kind)).toEqual(['batch', 'batch', 'damage', 'batch', 'batch', 'batch'])
    expect(lines[2]).toMatchObject({ position: BATCH, resumesAt: 2 * BATCH })
  })

  test('refuses what is not a segment', async () => {
    const scratch = await filled()
    putFile(
      scratch,
      logName(99),
      Buffer.from('something else altogether, and long enough to hold a header'.repeat(3)),
    )
    for (const name of ['checkpoint', 'x.log', logName(99)]) {
      expect(() => dump(scratch, name)).toThrow(SluiceError)
      expect(() => dump(scratch, name)).toThrow(expect.objectContaining({ code: 'FOREIGN_FILE' }))
    }
    putFile(scratch, logName(100), Buffer.alloc(0))
    expect(dump(scratch, logName(100))).toEqual([])
  })
})

describe('verification', () => {
  test('of a good log finds nothing and counts everything', async () => {
    const scratch = await filled()
    expect(verify(scratch)).toEqual({
      directory: scratch.directory,
      segments: 2,
      batches: 10,
      records: 10,
      bytes: 10 * BATCH,
      startOffset: 0,
      endOffset: 10,
      findings: [],
    })
  })

  test('changes nothing', async () => {
    const scratch = await filled()
    change(scratch, logName(5), bytes => Buffer.concat([bytes, Buffer.alloc(10)]))
    const before = scratch.disk.list(scratch.directory).map(name => fileOf(scratch, name).toString('hex'))
    verify(scratch)
    expect(scratch.disk.list(scratch.directory).map(name => fileOf(scratch, name).toString('hex'))).toEqual(
      before,
    )
  })

  const findingsAfter = async (run: (scratch: Scratch) => void) => {
    const scratch = await filled()
    run(scratch)
    return verify(scratch).findings.map(({ severity, file, position }) => [
      severity,
      file.slice(file.lastIndexOf('/') + 1),
      position,
    ])
  }

  test('finds any flipped bit of a log', async () => {
    const scratch = await filled()
    const good = fileOf(scratch, logName(0))
    for (let at = 0; at < good.length; at++) {
      putFile(scratch, logName(0), flip(at)(Buffer.from(good)))
      const isEpoch = at % BATCH >= 12 && at % BATCH < 16 // nobody's business here: logs of others have epochs
      expect(
        verify(scratch).findings.some(({ severity }) => severity === 'error'),
        `byte ${at}`,
      ).toBe(!isEpoch)
    }
  })

  test.each([
    [
      'a log cut short',
      (scratch: Scratch) => change(scratch, logName(5), bytes => bytes.subarray(0, 3 * BATCH)),
      ['error', logName(5), 3 * BATCH],
    ],
    [
      'an incomplete last write',
      (scratch: Scratch) =>
        change(scratch, logName(5), bytes => Buffer.concat([bytes, bytes.subarray(0, 30)])),
      ['note', logName(5), 5 * BATCH],
    ],
    [
      'an incomplete first write',
      (scratch: Scratch) => putFile(scratch, logName(10), Buffer.alloc(70, 1)),
      ['note', logName(10), 0],
    ],
    [
      'a foreign file',
      (scratch: Scratch) => putFile(scratch, logName(0), Buffer.alloc(100, 'x')),
      ['error', logName(0), 0],
    ],
    [
      'a missing first segment',
      (scratch: Scratch) => scratch.disk.remove(`${scratch.directory}/${logName(0)}`),
      ['error', 't-0', 0],
    ],
    [
      'a missing last segment',
      (scratch: Scratch) => scratch.disk.remove(`${scratch.directory}/${logName(5)}`),
      ['error', 't-0', 0],
    ],
    [
      'a damaged checkpoint',
      (scratch: Scratch) => change(scratch, 'checkpoint', flip(20)),
      ['error', 'checkpoint', 0],
    ],
    [
      'what recovery has set aside',
      (scratch: Scratch) => putFile(scratch, `${logName(5)}.cut-7`, Buffer.alloc(1)),
      ['note', `${logName(5)}.cut-7`, 0],
    ],
  ] as const)('finds %s', async (_, run, expected) => {
    expect(await findingsAfter(run)).toContainEqual(expected)
  })

  test('finds indexes that do not fit, which are no errors', async () => {
    for (const damage of [
      flip(3),
      flip(7),
      flip(4),
      flip(0),
      (bytes: Buffer) => Buffer.concat([bytes, bytes]),
    ]) {
      const findings = await findingsAfter(scratch => change(scratch, '00000000000000000000.index', damage))
      expect(findings).toMatchObject([['note', '00000000000000000000.index', expect.any(Number)]])
    }
    const times = await findingsAfter(scratch =>
      change(scratch, '00000000000000000000.timeindex', bytes => Buffer.concat([bytes, bytes])),
    )
    expect(times).toMatchObject([['note', '00000000000000000000.timeindex', 0]])
  })

  test('of a log that is gone', () => {
    expect(verify(inMemory())).toMatchObject({ segments: 0, startOffset: 0, endOffset: 0, findings: [] })
  })
})
