/**
 * A file of the faulty disk: what processes see, what is durable, and everything in between.
 *
 *     data      the page cache: what was written, in full
 *     durable   what a power cut cannot take
 *     dirty     sector -> its contents after each write that no sync has covered, oldest first
 *     limbo     sector -> contents that a failed sync may or may not have brought to the disk; no later sync looks at them again,
 *               since the kernel takes these pages for clean
 *
 * After a power cut each sector holds its durable content or any one of its dirty or limbo contents, and the file has its durable
 * size or any that it had since: a sector whose write got lost reads as zeros, or as what was there before. A sector is never
 * half written.
 */

import type { Random } from './random.ts'

export const SECTOR_BYTES = 512

interface Version {
  /** The operation that made it. */
  readonly operation: number
  readonly bytes: Uint8Array
}

interface SizeVersion {
  readonly operation: number
  readonly size: number
}

export class FaultyInode {
  #data: Buffer
  #size: number
  #durable: Buffer
  #durableSize: number
  readonly #dirty = new Map<number, Version[]>()
  readonly #limbo = new Map<number, Version[]>()
  #dirtySizes: SizeVersion[] = []
  #limboSizes: SizeVersion[] = []
  /** What lies from here on was written by the process that runs, so a read of it may be answered from memory. */
  #writtenFrom = Number.POSITIVE_INFINITY

  constructor(content: Buffer = Buffer.alloc(0)) {
    this.#size = content.length
    this.#durableSize = content.length
    this.#data = padded(content)
    this.#durable = Buffer.from(this.#data)
  }

  get size(): number {
    return this.#size
  }

  get writtenFrom(): number {
    return this.#writtenFrom
  }

  get durableSize(): number {
    return this.#durableSize
  }

  /** Whether a power cut now could leave the file as anything but what it is. */
  get isDurable(): boolean {
    return this.#dirty.size + this.#limbo.size + this.#dirtySizes.length + this.#limboSizes.length === 0
  }

  /** A copy. */
  read(position: number, bytesMax: number): Buffer {
    return Buffer.from(this.#data.subarray(position, Math.min(this.#size, position + bytesMax)))
  }

  write(bytes: Uint8Array, position: number, operation: number): void {
    if (bytes.length === 0) return
    const end = position + bytes.length
    this.#data = grown(this.#data, end)
    this.#data.set(bytes, position)
    if (position === this.#size && position < this.#writtenFrom) this.#writtenFrom = position
    if (end > this.#size) {
      this.#size = end
      this.#dirtySizes.push({ operation, size: end })
    }
    this.#remember(position, end, operation)
  }

  truncate(size: number, operation: number): void {
    if (size === this.#size) return
    const before = this.#size
    this.#data.fill(0, size, before)
    this.#size = size
    if (size < this.#writtenFrom) this.#writtenFrom = Number.POSITIVE_INFINITY
    this.#dirtySizes.push({ operation, size })
    this.#remember(size, before, operation)
  }

  /** A sync that began before `operation` has succeeded. */
  settle(operation: number): void {
    for (const [sector, versions] of this.#dirty) {
      const version = lastBefore(versions, operation)
      if (version === undefined) continue
      this.#durable = grown(this.#durable, (sector + 1) * SECTOR_BYTES)
      this.#durable.set(version.bytes, sector * SECTOR_BYTES)
      this.#limbo.delete(sector)
      if (version === versions.at(-1)) this.#dirty.delete(sector)
      else this.#dirty.set(sector, from(versions, operation))
    }
    const size = lastBefore(this.#dirtySizes, operation)
    if (size === undefined) return
    this.#durableSize = size.size
    this.#limboSizes = []
    this.#dirtySizes = from(this.#dirtySizes, operation)
  }

  /** A sync has failed. What was dirty is now clean as far as the kernel knows, and on the disk or not. */
  fail(): void {
    for (const [sector, versions] of this.#dirty) {
      this.#limbo.set(sector, [...(this.#limbo.get(sector) ?? []), ...versions])
    }
    this.#dirty.clear()
    this.#limboSizes.push(...this.#dirtySizes)
    this.#dirtySizes = []
  }

  /** The process has ended: nothing that is read from now on comes from its memory. */
  forgetWriter(): void {
    this.#writtenFrom = Number.POSITIVE_INFINITY
  }

  /** The file as it is found after a power cut. */
  survivor(random: Random): FaultyInode {
    if (this.isDurable) return new FaultyInode(this.#durable.subarray(0, this.#durableSize))
    const { choose, tears } = survivalOf(this.#operations(), random)
    let data: Buffer = Buffer.from(this.#durable)
    for (const sector of new Set([...this.#limbo.keys(), ...this.#dirty.keys()])) {
      const versions = [...(this.#limbo.get(sector) ?? []), ...(this.#dirty.get(sector) ?? [])]
      const version = choose(versions, sector)
      if (version === undefined) continue
      data = grown(data, (sector + 1) * SECTOR_BYTES)
      data.set(version.bytes, sector * SECTOR_BYTES)
    }
    const sizes = [...this.#limboSizes, ...this.#dirtySizes]
    const chosen = choose(sizes, SIZE)
    let size = chosen?.size ?? this.#durableSize
    if (chosen !== undefined && tears) {
      size = tornSize(sizes[sizes.indexOf(chosen) - 1]?.size ?? this.#durableSize, size, random)
    }
    return new FaultyInode(grown(data, size).subarray(0, size))
  }

  /** Flips one bit of what is durable. Returns its position and mask, or null when nothing is durable. */
  flip(random: Random): { position: number; mask: number } | null {
    if (this.#durableSize === 0) return null
    const position = random.below(this.#durableSize)
    const mask = 1 << random.below(8)
    this.#durable[position] ^= mask
    if (position < this.#size && !this.#dirty.has(Math.floor(position / SECTOR_BYTES))) {
      this.#data[position] ^= mask
      this.forgetWriter()
    }
    return { position, mask }
  }

  #remember(from: number, end: number, operation: number): void {
    for (let sector = Math.floor(from / SECTOR_BYTES); sector * SECTOR_BYTES < end; sector++) {
      const bytes = Buffer.from(this.#data.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES))
      const version = { operation, bytes }
      const versions = this.#dirty.get(sector)
      if (versions === undefined) this.#dirty.set(sector, [version])
      else versions.push(version)
    }
  }

  /** Every operation that is not settled, in order, with the sectors that it wrote. */
  #operations(): Map<number, number[]> {
    const found: [operation: number, sector: number][] = []
    for (const unsettled of [this.#limbo, this.#dirty]) {
      for (const [sector, versions] of unsettled) {
        for (const { operation } of versions) found.push([operation, sector])
      }
    }
    for (const { operation } of [...this.#limboSizes, ...this.#dirtySizes]) found.push([operation, SIZE])
    found.sort((one, other) => one[0] - other[0] || one[1] - other[1])
    const operations = new Map<number, number[]>()
    for (const [operation, sector] of found) {
      const sectors = operations.get(operation)
      if (sectors === undefined) operations.set(operation, [sector])
      else sectors.push(sector)
    }
    return operations
  }
}

/** Stands for the size where sectors are numbered. */
const SIZE = -1

interface Survival {
  /** Chooses among the versions that a sector (or the size) may have after a power cut; undefined: the durable one. */
  choose<Candidate extends { operation: number }>(
    versions: readonly Candidate[],
    sector: number,
  ): Candidate | undefined
  /** Whether a write may have come to its end only in part. */
  readonly tears: boolean
}

/**
 * How the unsettled operations fare. Nothing and everything are as likely as any mixture, since real power cuts mostly come
 * before or after a write-back; in between lie the size without the data, a prefix of the operations with the next one torn, and each
 * sector on its own.
 */
function survivalOf(operations: ReadonlyMap<number, readonly number[]>, random: Random): Survival {
  switch (random.below(5)) {
    case 0:
      return { choose: () => undefined, tears: false }
    case 1:
      return { choose: versions => versions.at(-1), tears: false }
    case 2:
      // The file has grown, and reads as zeros.
      return { choose: (versions, sector) => (sector === SIZE ? versions.at(-1) : undefined), tears: false }
    case 3: {
      const order = [...operations.keys()]
      const torn = random.pick(order)
      const sectors = operations.get(torn)!
      const tornAt = sectors[random.below(sectors.length)]
      return {
        choose: (versions, sector) => lastBefore(versions, sector < tornAt ? torn + 1 : torn),
        tears: true,
      }
    }
    default:
      return { choose: versions => versions[random.below(versions.length + 1) - 1], tears: true }
  }
}

/** By chance a sector boundary on the way from one size to the next. */
function tornSize(before: number, after: number, random: Random): number {
  const first = Math.floor(before / SECTOR_BYTES) + 1
  const last = Math.ceil(after / SECTOR_BYTES) - 1
  return first > last || random.chance(0.5) ? after : SECTOR_BYTES * random.between(first, last)
}

/** The last of them that was made before `operation`. They are in order. */
function lastBefore<Candidate extends { operation: number }>(
  versions: readonly Candidate[],
  operation: number,
): Candidate | undefined {
  return versions.findLast(version => version.operation < operation)
}

function from<Candidate extends { operation: number }>(
  versions: readonly Candidate[],
  operation: number,
): Candidate[] {
  return versions.filter(version => version.operation >= operation)
}

/** At least `bytes` long, whole sectors, zeros behind what there was. */
function grown(buffer: Buffer, bytes: number): Buffer {
  if (buffer.length >= bytes) return buffer
  const bigger = Buffer.alloc(Math.max(padding(bytes), 2 * buffer.length))
  bigger.set(buffer)
  return bigger
}

function padded(content: Buffer): Buffer {
  const whole = Buffer.alloc(padding(content.length))
  whole.set(content)
  return whole
}

function padding(bytes: number): number {
  return Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES
}
