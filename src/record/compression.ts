/**
 * The four compressions of Kafka's record batches, in the framings that its clients write and read:
 *
 *     1 gzip    one or more gzip members (RFC 1952)
 *     2 snappy  xerial:  82 'SNAPPY' 00 | i32 version = 1 | i32 compatible = 1 | (i32 bytes | raw snappy block of 32 KiB)*
 *               or raw:  one block of raw snappy, as librdkafka and others write it
 *     3 lz4     one LZ4 frame, blocks independent of each other, no dictionary
 *     4 zstd    one or more zstd frames (RFC 8878)
 *
 * We write what the Java client writes: it reads no raw snappy and no LZ4 blocks that depend on each other.
 *
 * Invariant: nobody can make us allocate more than `bytesMax` (and a buffer of the codec's own) by sending a few bytes. The size
 * that a raw snappy block or an LZ4 frame unpacks to is known before it is unpacked; gzip and zstd stop at the bound.
 *
 * Everything is synchronous: a batch is small, and a thread pool would put its order at risk.
 */

import { constants } from 'node:buffer'
import { gunzipSync, gzipSync, zstdCompressSync, zstdDecompressSync } from 'node:zlib'
import { compressSync, decompressFrameSync, uncompressSync } from 'lz4-napi'
import snappy from 'snappy'
import { SluiceError } from '../errors.ts'

interface Codec {
  readonly name: string
  compress(bytes: Buffer): Buffer
  /** Throws anything on malformed bytes, `tooLarge` when the result would be larger than `bytesMax`. */
  decompress(bytes: Buffer, bytesMax: number): Buffer
}

/** Packs `bytes`. `type` is the number that a batch carries: 1 gzip, 2 snappy, 3 lz4, 4 zstd. Throws `UNSUPPORTED_COMPRESSION`. */
export function compress(type: number, bytes: Uint8Array): Buffer {
  return codecOf(type).compress(asBuffer(bytes))
}

/**
 * Unpacks `bytes` to at most `bytesMax` bytes, into memory of its own. Throws `UNSUPPORTED_COMPRESSION`, or `INVALID_RECORD` when
 * the bytes are malformed or hold more.
 */
export function decompress(type: number, bytes: Uint8Array, bytesMax: number): Buffer {
  const codec = codecOf(type)
  try {
    // Node 22 takes no bytes at all for an empty stream; no framing has an empty form.
    if (bytes.length === 0) throw new Error('there are none')
    return codec.decompress(asBuffer(bytes), Math.min(bytesMax, constants.MAX_LENGTH))
  } catch (error) {
    const isTooLarge = error === tooLarge || (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE'
    const detail = { compression: codec.name, bytes: bytes.length, bytesMax }
    const what = isTooLarge
      ? `unpack to more than the ${bytesMax} bytes that are allowed`
      : `are malformed: ${(error as Error).message}`
    throw new SluiceError(
      'INVALID_RECORD',
      `the ${bytes.length} ${codec.name} bytes of the batch ${what}`,
      detail,
      error,
    )
  }
}

const tooLarge = new Error('larger than allowed')

const gzip: Codec = {
  name: 'gzip',
  compress: bytes => gzipSync(bytes, { chunkSize: chunkSizeFor(bytes.length >>> 1) }),
  decompress(bytes, bytesMax) {
    // A member ends with its size, modulo 2^32. A hint only.
    const declared = bytes.length >= 18 ? bytes.readUInt32LE(bytes.length - 4) : 0
    return withinZlibBound(bytesMax, maxOutputLength =>
      gunzipSync(bytes, { maxOutputLength, chunkSize: chunkSizeFor(declared) }),
    )
  },
}

const XERIAL_HEADER = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0, 0, 0, 0, 1, 0, 0, 0, 1])
const XERIAL_MAGIC_BYTES = 8
const XERIAL_MAGIC = XERIAL_HEADER.subarray(0, XERIAL_MAGIC_BYTES)
const XERIAL_BLOCK_BYTES = 32 * 1024

const snappyCodec: Codec = {
  name: 'snappy',
  compress(bytes) {
    const parts: Buffer[] = [XERIAL_HEADER]
    for (let at = 0; at < bytes.length; at += XERIAL_BLOCK_BYTES) {
      // The copy is cheaper than handing memory over to the garbage collector for each block.
      const block = snappy.compressSync(bytes.subarray(at, at + XERIAL_BLOCK_BYTES), { copyOutputData: true })
      const length = Buffer.allocUnsafe(4)
      length.writeInt32BE(block.length)
      parts.push(length, block)
    }
    return Buffer.concat(parts)
  },
  decompress(bytes, bytesMax) {
    // Raw snappy cannot begin so: its first element would be a copy of bytes that do not exist yet.
    if (!isXerialHeader(bytes, 0)) {
      if (snappySize(bytes) > bytesMax) throw tooLarge
      return unsnap(bytes)
    }
    const blocks: Buffer[] = []
    let size = 0
    for (let at = 0; at < bytes.length; ) {
      // Also between blocks: streams may be joined.
      if (isXerialHeader(bytes, at)) {
        if (at + XERIAL_HEADER.length > bytes.length) throw new Error('the header is cut off')
        if (bytes.readInt32BE(at + 12) > 1) throw new Error('the framing is of a newer version')
        at += XERIAL_HEADER.length
        continue
      }
      const start = at + 4
      if (start > bytes.length) throw new Error('a block is cut off')
      const end = start + bytes.readInt32BE(at)
      if (end < start || end > bytes.length) throw new Error('a block is cut off')
      const block = bytes.subarray(start, end)
      size += snappySize(block)
      if (size > bytesMax) throw tooLarge
      blocks.push(block)
      at = end
    }
    return blocks.length === 1 ? unsnap(blocks[0]) : Buffer.concat(blocks.map(unsnap), size)
  },
}

function isXerialHeader(bytes: Buffer, at: number): boolean {
  return bytes.subarray(at, at + XERIAL_MAGIC_BYTES).equals(XERIAL_MAGIC)
}

/** What a raw snappy block unpacks to: the varint it begins with. */
function snappySize(block: Buffer): number {
  let size = 0
  for (let index = 0; index < 5 && index < block.length; index++) {
    size += (block[index] & 0x7f) * 2 ** (7 * index)
    if (block[index] < 0x80) return size
  }
  throw new Error('a block has no size')
}

function unsnap(block: Buffer): Buffer {
  return snappy.uncompressSync(block, { asBuffer: true, copyOutputData: true }) as Buffer
}

const LZ4_MAGIC = 0x184d2204
const LZ4_VERSION_MASK = 0xc0
const LZ4_VERSION = 0x40
const LZ4_INDEPENDENT = 0x20
const LZ4_BLOCK_CHECKSUM = 0x10
const LZ4_CONTENT_SIZE = 0x08
const LZ4_CONTENT_CHECKSUM = 0x04
const LZ4_DICTIONARY = 0x01
const LZ4_STORED = 0x80000000
const LZ4_BLOCK_BYTES = 64 * 1024
/** Independent blocks of up to 64 KiB, no checksums, no content size; the last byte is the checksum of the two before. */
const LZ4_HEADER = Buffer.from([0x04, 0x22, 0x4d, 0x18, LZ4_VERSION | LZ4_INDEPENDENT, 0x40, 0x82])
const LZ4_END = Buffer.alloc(4)

/**
 * The frames are ours, over the block functions of the library: these take and give a block with a u32 in front, the size it
 * unpacks to, which is where the frame has the size of the block. The library's own frames take five times as long to read,
 * so they are left for what is rare: checksums, and blocks that depend on each other.
 */
const lz4: Codec = {
  name: 'lz4',
  compress(bytes) {
    const parts: Buffer[] = [LZ4_HEADER]
    for (let at = 0; at < bytes.length; at += LZ4_BLOCK_BYTES) {
      const plain = bytes.subarray(at, at + LZ4_BLOCK_BYTES)
      const block = compressSync(plain)
      const blockBytes = block.length - 4
      if (blockBytes < plain.length) {
        block.writeUInt32LE(blockBytes)
        parts.push(block)
      } else {
        const header = Buffer.allocUnsafe(4)
        header.writeUInt32LE(LZ4_STORED + plain.length)
        parts.push(header, plain)
      }
    }
    parts.push(LZ4_END)
    return Buffer.concat(parts)
  },
  decompress(bytes, bytesMax) {
    const frame = parseLz4(bytes, bytesMax)
    if (frame.needsLibrary) return decompressFrameSync(bytes)
    const blocks = frame.blocks.map(block => unpackLz4(bytes, block))
    return blocks.length === 1 ? blocks[0] : Buffer.concat(blocks, frame.size)
  },
}

interface Lz4Block {
  readonly start: number
  readonly end: number
  readonly isStored: boolean
  /** Bytes it unpacks to. */
  readonly size: number
}

interface Lz4Frame {
  readonly blocks: readonly Lz4Block[]
  readonly size: number
  /** Has checksums to verify, or blocks that depend on each other. */
  readonly needsLibrary: boolean
}

/**
 * Walks over an LZ4 frame without unpacking it. Also catches what the library lets pass: a missing end, and bytes after it.
 *
 *     u32 magic | flags | block size | [u64 content size] | header checksum
 *     ( u32 bytes, top bit: stored | block | [u32 checksum] )* | u32 0 | [u32 content checksum]
 */
function parseLz4(bytes: Buffer, bytesMax: number): Lz4Frame {
  if (bytes.length < 7 || bytes.readUInt32LE(0) !== LZ4_MAGIC) throw new Error('not an LZ4 frame')
  const flags = bytes[4]
  if ((flags & LZ4_VERSION_MASK) !== LZ4_VERSION) throw new Error('the frame is of an unknown version')
  if ((flags & LZ4_DICTIONARY) !== 0) throw new Error('the frame needs a dictionary')
  const blockTrailer = (flags & LZ4_BLOCK_CHECKSUM) === 0 ? 0 : 4
  const frameTrailer = (flags & LZ4_CONTENT_CHECKSUM) === 0 ? 0 : 4
  const blocks: Lz4Block[] = []
  let size = 0
  let at = (flags & LZ4_CONTENT_SIZE) === 0 ? 7 : 15
  for (;;) {
    if (at + 4 > bytes.length) throw new Error('the end of the frame is missing')
    const header = bytes.readUInt32LE(at)
    at += 4
    if (header === 0) break
    const isStored = header >= LZ4_STORED
    const end = at + (isStored ? header - LZ4_STORED : header)
    if (end + blockTrailer > bytes.length) throw new Error('a block is cut off')
    const block = { start: at, end, isStored, size: isStored ? end - at : lz4BlockSize(bytes, at, end) }
    size += block.size
    if (size > bytesMax) throw tooLarge
    blocks.push(block)
    at = end + blockTrailer
  }
  if (at + frameTrailer !== bytes.length) throw new Error('the frame does not end where its bytes end')
  if ((flags & LZ4_CONTENT_SIZE) !== 0 && bytes.readBigUInt64LE(6) !== BigInt(size)) {
    throw new Error('the frame declares another size than it has')
  }
  const isLinked = (flags & LZ4_INDEPENDENT) === 0 && blocks.length > 1
  return { blocks, size, needsLibrary: isLinked || blockTrailer > 0 || frameTrailer > 0 }
}

function unpackLz4(bytes: Buffer, block: Lz4Block): Buffer {
  if (block.isStored) return Buffer.from(bytes.subarray(block.start, block.end))
  const sized = Buffer.allocUnsafe(4 + block.end - block.start)
  sized.writeUInt32LE(block.size)
  sized.set(bytes.subarray(block.start, block.end), 4)
  return uncompressSync(sized)
}

/** What a block unpacks to: literals and matches counted, not copied. */
function lz4BlockSize(bytes: Buffer, start: number, end: number): number {
  let at = start
  let size = 0
  while (at < end) {
    const token = bytes[at++]
    let literals = token >>> 4
    if (literals === 15) {
      let more = 255
      while (more === 255 && at < end) literals += more = bytes[at++]
    }
    at += literals
    size += literals
    if (at >= end) break
    at += 2
    let match = token & 15
    if (match === 15) {
      let more = 255
      while (more === 255 && at < end) match += more = bytes[at++]
    }
    size += match + 4
  }
  if (at !== end) throw new Error('a block is cut off')
  return size
}

const ZSTD_MAGIC = 0xfd2fb528
/** The last hex digit is free. */
const ZSTD_SKIPPABLE_MAGIC = 0x184d2a50
/** Clients write one. Each costs a call however little it holds. */
const ZSTD_FRAMES_MAX = 64

const zstd: Codec = {
  name: 'zstd',
  compress: bytes => zstdCompressSync(bytes, { chunkSize: chunkSizeFor(bytes.length >>> 1) }),
  decompress(bytes, bytesMax) {
    const parts: Buffer[] = []
    let size = 0
    for (let at = 0; at < bytes.length; ) {
      const { end, declared } = parseZstd(bytes, at)
      if (declared > bytesMax - size) throw tooLarge
      const part = withinZlibBound(bytesMax - size, maxOutputLength =>
        zstdDecompressSync(bytes.subarray(at, end), { maxOutputLength, chunkSize: chunkSizeFor(declared) }),
      )
      parts.push(part)
      if (parts.length > ZSTD_FRAMES_MAX) throw new Error(`there are more than ${ZSTD_FRAMES_MAX} frames`)
      size += part.length
      at = end
    }
    return parts.length === 1 ? parts[0] : Buffer.concat(parts, size)
  },
}

/**
 * Walks over a zstd frame to its end. Node does not say that there is something after the first frame, and up to version 22 not
 * either that a frame is cut off: it gives back what it could read.
 *
 *     u32 magic | flags | [window] | [dictionary id] | [content size]
 *     ( u24: last, type, size | block )* | [u32 checksum]
 */
function parseZstd(bytes: Buffer, start: number): { end: number; declared: number } {
  const need = (end: number): number => {
    if (end > bytes.length) throw new Error('a frame is cut off')
    return end
  }
  let at = need(start + 4)
  const magic = bytes.readUInt32LE(start)
  if ((magic & ~0xf) >>> 0 === ZSTD_SKIPPABLE_MAGIC) {
    need(at + 4)
    return { end: need(at + 4 + bytes.readUInt32LE(at)), declared: 0 }
  }
  if (magic !== ZSTD_MAGIC) throw new Error('not a zstd frame')
  need(at + 1)
  const flags = bytes[at]
  const isSingleSegment = (flags & 0x20) !== 0
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][flags >>> 6]
  at += 1 + (isSingleSegment ? 0 : 1) + [0, 1, 2, 4][flags & 3]
  need(at + sizeBytes)
  const declared = zstdContentSize(bytes, at, sizeBytes)
  at += sizeBytes
  for (let isLast = false; !isLast; ) {
    need(at + 3)
    const header = bytes.readUIntLE(at, 3)
    const isRepeated = ((header >>> 1) & 3) === 1
    isLast = (header & 1) === 1
    at = need(at + 3 + (isRepeated ? 1 : header >>> 3))
  }
  return { end: need(at + ((flags & 4) === 0 ? 0 : 4)), declared }
}

/** 0 where the frame does not say. */
function zstdContentSize(bytes: Buffer, at: number, sizeBytes: number): number {
  if (sizeBytes === 0) return 0
  if (sizeBytes === 8) return Number(bytes.readBigUInt64LE(at))
  return bytes.readUIntLE(at, sizeBytes) + (sizeBytes === 2 ? 256 : 0)
}

/** zlib takes no bound below one byte. */
function withinZlibBound(bytesMax: number, run: (maxOutputLength: number) => Buffer): Buffer {
  const result = run(Math.max(1, bytesMax))
  if (result.length > bytesMax) throw tooLarge
  return result
}

/** How much zlib allocates at a time: what is likely to be needed at once, within bounds. */
function chunkSizeFor(bytes: number): number {
  return Math.min(Math.max(bytes + 64, 4 * 1024), 256 * 1024)
}

const codecs: readonly (Codec | undefined)[] = [undefined, gzip, snappyCodec, lz4, zstd]

function codecOf(type: number): Codec {
  const codec = codecs[type]
  if (codec !== undefined) return codec
  throw new SluiceError(
    'UNSUPPORTED_COMPRESSION',
    `there is no compression with number ${type}; 1 to 4 are gzip, snappy, lz4, zstd`,
    {
      type,
    },
  )
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
