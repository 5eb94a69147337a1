/** That what we pack others unpack and the other way round, and that bad bytes and bombs are refused without harm. */

import { brotliCompressSync, gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import fc from 'fast-check'
import { compressFrameSync, decompressFrameSync } from 'lz4-napi'
import snappy from 'snappy'
import { describe, expect, test } from 'vitest'
import { isSluiceError, SluiceError } from '../../src/errors.ts'
import { compress, decompress } from '../../src/record/compression.ts'
import { recordedFrames } from './compression-frames.ts'

const codecs = [
  [1, 'gzip'],
  [2, 'snappy'],
  [3, 'lz4'],
  [4, 'zstd'],
] as const

const short = Buffer.from('sluice sluice sluice \x00\x01\x02 '.repeat(8))
const plains = {
  tiny: short.subarray(0, 24),
  short,
  middle: Buffer.from('sluice '.repeat(5_000)),
  long: Buffer.from(
    Array.from({ length: 20 }, (_, index) => `${index % 10} `)
      .join('')
      .repeat(3_500),
  ),
}
/** Does not shrink under any codec. */
const noise = Buffer.from(
  Array.from({ length: 200_000 }, (_, index) => (Math.imul(index, 2_654_435_761) >>> 13) ^ (index * index)),
)

function refusal(type: number, bytes: Uint8Array, bytesMax = 1_000_000): SluiceError {
  try {
    decompress(type, bytes, bytesMax)
  } catch (error) {
    expect(error).toBeInstanceOf(SluiceError)
    return error as SluiceError
  }
  throw new Error(`${bytes.length} bytes were accepted`)
}

describe.each(codecs)('type %i, %s', (type, name) => {
  test('unpacks what it has packed', () => {
    for (const plain of [Buffer.alloc(0), Buffer.from('x'), ...Object.values(plains), noise]) {
      expect(decompress(type, compress(type, plain), plain.length).equals(plain)).toBe(true)
    }
  })

  test('unpacks any bytes it has packed, of any kind of array', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3_000 }), fc.nat(50), (bytes, repeats) => {
        const plain = new Uint8Array(bytes.length * (repeats + 1))
        for (let index = 0; index <= repeats; index++) plain.set(bytes, index * bytes.length)
        const packed = new Uint8Array(compress(type, plain))
        expect(decompress(type, packed, plain.length).equals(plain)).toBe(true)
      }),
      { numRuns: 60 },
    )
  })

  test('takes the bound exactly', () => {
    for (const plain of [short, plains.long, noise]) {
      const packed = compress(type, plain)
      const error = refusal(type, packed, plain.length - 1)
      expect(error.code).toBe('INVALID_RECORD')
      expect(error.message).toContain(`more than the ${plain.length - 1} bytes`)
      expect(error.message).toContain(name)
    }
    expect(refusal(type, compress(type, short), 0).message).toContain('more than the 0 bytes')
    expect(decompress(type, compress(type, Buffer.alloc(0)), 0).length).toBe(0)
  })

  test('refuses bytes that are cut off, anywhere', () => {
    const packed = compress(type, plains.middle)
    for (let length = 0; length < packed.length; length += Math.max(1, length >> 4)) {
      // A snappy stream has no end mark: cut between two blocks it is a shorter stream.
      const isWholeStream = name === 'snappy' && (length === 16 || length === 20 + packed.readInt32BE(16))
      if (!isWholeStream) expect(refusal(type, packed.subarray(0, length)).code).toBe('INVALID_RECORD')
    }
    expect(refusal(type, packed.subarray(0, packed.length - 1)).code).toBe('INVALID_RECORD')
  })

  test('refuses bytes after the end', () => {
    const packed = Buffer.concat([compress(type, short), Buffer.from('junk that follows')])
    expect(refusal(type, packed).code).toBe('INVALID_RECORD')
  })

  test('takes damaged or foreign bytes for what they are, and never for more than the bound', () => {
    const packed = compress(type, plains.middle)
    fc.assert(
      fc.property(fc.nat(packed.length - 1), fc.integer({ min: 1, max: 255 }), (position, mask) => {
        const damaged = Buffer.from(packed)
        damaged[position] ^= mask
        try {
          expect(decompress(type, damaged, 100_000).length).toBeLessThanOrEqual(100_000)
        } catch (error) {
          expect(isSluiceError(error, 'INVALID_RECORD')).toBe(true)
        }
      }),
      { numRuns: 300 },
    )
    for (const foreign of [
      Buffer.alloc(100),
      brotliCompressSync(short),
      Buffer.from('plain text, not packed at all'),
    ]) {
      expect(refusal(type, foreign).code).toBe('INVALID_RECORD')
    }
  })

  test('leaves what it is given as it was', () => {
    const plain = Buffer.from(plains.long)
    const packed = compress(type, plain)
    const copy = Buffer.from(packed)
    decompress(type, packed, plain.length)
    expect(plain.equals(plains.long)).toBe(true)
    expect(packed.equals(copy)).toBe(true)
  })
})

describe('others', () => {
  test.each(recordedFrames.map(frame => [frame.type, frame.from, frame] as const))(
    'type %i from %s is read',
    (type, _, frame) => {
      const plain = plains[frame.plain]
      const packed = Buffer.from(frame.base64, 'base64')
      expect(decompress(type, packed, plain.length).equals(plain)).toBe(true)
      expect(refusal(type, packed, plain.length - 1).code).toBe('INVALID_RECORD')
    },
  )

  test('read our gzip and zstd', () => {
    expect(gunzipSync(compress(1, plains.long)).equals(plains.long)).toBe(true)
    expect(zstdDecompressSync(compress(4, plains.long)).equals(plains.long)).toBe(true)
  })

  test('read our snappy, which is framed as the Java client frames it', () => {
    const packed = compress(2, plains.middle)
    expect(packed.subarray(0, 16).toString('hex')).toBe('82534e41505059000000000100000001')
    const blocks: Buffer[] = []
    for (let at = 16; at < packed.length; at += 4 + packed.readInt32BE(at)) {
      blocks.push(snappy.uncompressSync(packed.subarray(at + 4, at + 4 + packed.readInt32BE(at))) as Buffer)
    }
    expect(blocks.map(block => block.length)).toEqual([32 * 1024, 35_000 - 32 * 1024])
    expect(Buffer.concat(blocks).equals(plains.middle)).toBe(true)
  })

  test('read our lz4: independent blocks of 64 KiB, stored where they do not shrink, with the right header checksum', () => {
    for (const plain of [short, plains.long, noise]) {
      const packed = compress(3, plain)
      expect(packed.subarray(0, 7).toString('hex')).toBe('04224d18604082')
      expect(decompressFrameSync(packed).equals(plain)).toBe(true)
      expect(packed.length).toBeLessThan(plain.length + 40)
    }
  })
})

describe('a bomb', () => {
  const zeros = Buffer.alloc(64 * 1024 * 1024)

  /** Bytes of memory that trying to unpack takes, at most. */
  function memoryFor(run: () => void): number {
    run()
    const before = process.memoryUsage()
    run()
    const after = process.memoryUsage()
    return after.arrayBuffers + after.heapUsed - before.arrayBuffers - before.heapUsed
  }

  test.each([
    [1, gzipSync(zeros)],
    [2, snappy.compressSync(zeros)],
    [3, compressFrameSync(zeros)],
    [3, compressFrameSync(zeros, { contentChecksum: true })],
    [4, zstdCompressSync(zeros)],
  ] as const)('of type %i is refused with no more memory than was allowed', (type, bomb) => {
    const used = memoryFor(() => expect(refusal(type, bomb, 1_000_000).message).toContain('more than'))
    expect(used).toBeLessThan(8_000_000)
  })

  test('of declared sizes is refused by the declaration', () => {
    const raw = snappy.compressSync(short)
    const lying = Buffer.concat([Buffer.from('ffffffff0f', 'hex'), raw.subarray(2)])
    expect(refusal(2, lying).message).toContain('more than')
    const xerial = compress(2, short)
    const block = Buffer.concat([xerial.subarray(0, 16), Buffer.alloc(4), lying])
    block.writeInt32BE(lying.length, 16)
    expect(refusal(2, block).message).toContain('more than')
    const negative = Buffer.from(xerial)
    negative.writeInt32BE(-1, 16)
    expect(refusal(2, negative).message).toContain('malformed')
  })

  test('of a zstd frame that declares its size is refused by the declaration', () => {
    const frame = compress(4, short)
    const lying = Buffer.concat([
      frame.subarray(0, 4),
      Buffer.from('e0ffffffffffffff00', 'hex'),
      frame.subarray(6),
    ])
    expect(refusal(4, lying).message).toContain('more than')
  })

  test('of very many frames is refused', () => {
    const empty = compress(4, Buffer.alloc(0))
    expect(refusal(4, Buffer.concat(Array(1_000).fill(empty))).message).toContain('frames')
  })
})

describe('an lz4 frame', () => {
  const checked = compressFrameSync(plains.long, { contentChecksum: true, blockChecksums: true })

  test('with checksums is checked against them', () => {
    expect(decompress(3, checked, plains.long.length).equals(plains.long)).toBe(true)
    const damaged = Buffer.from(checked)
    damaged[damaged.length - 1] ^= 1
    expect(refusal(3, damaged).message).toContain('malformed')
  })

  test('that needs a dictionary, or has another version, is refused', () => {
    const frame = compress(3, short)
    for (const [flags, reason] of [
      [0x61, 'dictionary'],
      [0xa0, 'version'],
    ] as const) {
      const changed = Buffer.from(frame)
      changed[4] = flags
      expect(refusal(3, changed).message).toContain(reason)
    }
  })
})

test('a zstd frame to be skipped is skipped', () => {
  const skippable = Buffer.from('5a2a4d1803000000616263', 'hex')
  const packed = Buffer.concat([skippable, compress(4, short), skippable])
  expect(decompress(4, packed, short.length).equals(short)).toBe(true)
  expect(refusal(4, Buffer.concat([packed, skippable.subarray(0, 9)])).message).toContain('cut off')
})

test.each([0, 5, 6, 7, -1])('type %i does not exist', type => {
  for (const run of [() => compress(type, short), () => decompress(type, short, 100)]) {
    expect(run).toThrow(expect.objectContaining({ code: 'UNSUPPORTED_COMPRESSION' }))
  }
})
