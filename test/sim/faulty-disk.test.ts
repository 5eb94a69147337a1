/**
 * That the faulty disk keeps its own contract: what is durable stays, what is not may go in every way that a power cut knows and
 * in no other, and a seed replays a run. A simulation is worth what its disk is.
 */

import { beforeEach, describe, expect, test } from 'vitest'
import { type Disk, DiskError, type DiskFile } from '../../src/lib/disk.ts'
import { Crashed, FaultyDisk, type FaultyDiskOptions } from './faulty-disk.ts'
import { SECTOR_BYTES } from './faulty-inode.ts'
import { Random } from './random.ts'
import { VirtualClock } from './virtual-clock.ts'

let clock: VirtualClock

beforeEach(() => {
  clock = new VirtualClock()
})

const make = (seed: number, options: Partial<FaultyDiskOptions> = {}) =>
  new FaultyDisk({ seed, clock, ...options })

async function finished<Value>(promise: Promise<Value>): Promise<Value> {
  promise.catch(() => {})
  await clock.runUntilIdle()
  return promise
}

/** Whether a promise has come to an end once nothing moves any more. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  const settle = () => {
    settled = true
  }
  promise.then(settle, settle)
  await clock.runUntilIdle()
  return settled
}

function contentOf(disk: Disk, path: string): string | null {
  try {
    const file = disk.open(path, 'read')
    return Buffer.from(file.readNow(0, file.size())).toString('latin1')
  } catch (error) {
    if (error instanceof DiskError && error.code === 'ENOENT') return null
    throw error
  }
}

/** A disk with durable files of the given content. */
async function durable(seed: number, files: Record<string, string>): Promise<FaultyDisk> {
  const disk = make(seed)
  for (const [path, content] of Object.entries(files)) {
    const file = disk.open(path, 'create')
    file.write(Buffer.from(content, 'latin1'), 0)
    await finished(file.sync())
    file.close()
  }
  await finished(disk.syncDirectory('/'))
  return disk
}

/** What is found after a power cut, over many seeds. */
async function outcomes<Outcome>(
  run: (seed: number) => Promise<FaultyDisk>,
  look: (disk: FaultyDisk) => Outcome,
  seeds = 120,
): Promise<Set<Outcome>> {
  const found = new Set<Outcome>()
  for (let seed = 1; seed <= seeds; seed++) found.add(look((await run(seed)).crash()))
  return found
}

/** The letters of the sectors, '.' for one of zeros: 'ab.' is a sector of a, one of b, one lost. */
function sectorsOf(content: string | null): string {
  if (content === null) return 'none'
  let letters = ''
  for (let at = 0; at < content.length; at += SECTOR_BYTES) {
    const sector = content.slice(at, at + SECTOR_BYTES)
    expect(new Set(sector).size, 'a sector is never half written').toBe(1)
    letters += sector[0] === '\0' ? '.' : sector[0]
  }
  return letters
}

const sector = (letter: string, count = 1) => Buffer.alloc(SECTOR_BYTES * count, letter)

describe('a power cut', () => {
  test('leaves everything that was synced', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const disk = await durable(seed, { a: 'x'.repeat(2_000), b: '' })
      const after = disk.crash()
      expect(contentOf(after, 'a')).toBe('x'.repeat(2_000))
      expect(contentOf(after, 'b')).toBe('')
      expect(contentOf(after.crash(), 'a')).toBe('x'.repeat(2_000))
    }
  })

  test('loses, keeps, tears and reorders what was written since, sector by sector', async () => {
    const found = await outcomes(
      async seed => {
        const disk = await durable(seed, { a: sector('d').toString() })
        const file = disk.open('a', 'write')
        file.write(sector('1', 2), SECTOR_BYTES)
        file.write(sector('2', 2), SECTOR_BYTES * 3)
        return disk
      },
      disk => sectorsOf(contentOf(disk, 'a')),
      400,
    )
    // nothing, everything, a prefix, a torn second write, a write without the one before it, a size without its data
    for (const outcome of ['d', 'd1122', 'd11', 'd112', 'd..22', 'd....', 'd1.22', 'd11.2']) {
      expect(found, `${outcome} among ${[...found]}`).toContain(outcome)
    }
    for (const outcome of found) expect(outcome).toMatch(/^d[1.]{0,2}[2.]{0,2}$/)
  })

  test('leaves a sector written twice as it was before, between or after', async () => {
    const found = await outcomes(
      async seed => {
        const disk = await durable(seed, { a: sector('d').toString() })
        const file = disk.open('a', 'write')
        file.write(sector('1'), 0)
        file.write(sector('2'), 0)
        return disk
      },
      disk => sectorsOf(contentOf(disk, 'a')),
    )
    expect(found).toEqual(new Set(['d', '1', '2']))
  })

  test('may bring back what was cut off, until the cut is synced', async () => {
    const run = async (seed: number, synced: boolean) => {
      const disk = await durable(seed, { a: sector('d', 3).toString() })
      const file = disk.open('a', 'write')
      file.truncate(SECTOR_BYTES)
      if (synced) await finished(file.sync())
      return disk
    }
    const look = (disk: FaultyDisk) => sectorsOf(contentOf(disk, 'a'))
    expect(await outcomes(seed => run(seed, false), look)).toEqual(new Set(['d', 'ddd', 'd..', 'd.d', 'dd.']))
    expect(await outcomes(seed => run(seed, true), look)).toEqual(new Set(['d']))
  })

  test('does not bring back what was cut off and synced when the file grows again', async () => {
    const found = await outcomes(
      async seed => {
        const disk = await durable(seed, { a: sector('d', 3).toString() })
        const file = disk.open('a', 'write')
        file.truncate(SECTOR_BYTES)
        await finished(file.sync())
        file.write(sector('n', 2), SECTOR_BYTES)
        return disk
      },
      disk => sectorsOf(contentOf(disk, 'a')),
    )
    for (const outcome of found) expect(outcome).toMatch(/^d[n.]*$/)
    expect(found.size).toBeGreaterThan(3)
  })

  test('loses or keeps a file, a folder and a removal that were not synced', async () => {
    const run = async (seed: number, synced: boolean) => {
      const disk = await durable(seed, { old: 'old' })
      disk.makeDirectory('folder')
      const file = disk.open('folder/new', 'create')
      file.write(Buffer.from('new'), 0)
      await finished(file.sync())
      disk.remove('old')
      if (synced) await finished(Promise.all([disk.syncDirectory('/'), disk.syncDirectory('folder')]))
      return disk
    }
    const look = (disk: FaultyDisk) =>
      `${contentOf(disk, 'old')} ${disk.list('/')} ${contentOf(disk, 'folder/new')}`
    expect(await outcomes(seed => run(seed, false), look)).toEqual(
      new Set([
        'old old null',
        'old folder,old null',
        'old folder,old new',
        'null  null',
        'null folder null',
        'null folder new',
      ]),
    )
    expect(await outcomes(seed => run(seed, true), look)).toEqual(new Set(['null folder new']))
  })

  test('leaves a rename done or undone, never both and never neither', async () => {
    const run = async (seed: number, synced: boolean) => {
      const disk = await durable(seed, { target: 'old', temporary: 'new' })
      disk.rename('temporary', 'target')
      if (synced) await finished(disk.syncDirectory('/'))
      return disk
    }
    const look = (disk: FaultyDisk) => `${contentOf(disk, 'target')} ${contentOf(disk, 'temporary')}`
    expect(await outcomes(seed => run(seed, false), look)).toEqual(new Set(['old new', 'new null']))
    expect(await outcomes(seed => run(seed, true), look)).toEqual(new Set(['new null']))
  })

  test('leaves a rename whole also when the file was new, or moved to another folder', async () => {
    const found = await outcomes(
      async seed => {
        const disk = await durable(seed, {})
        disk.makeDirectory('other')
        await finished(disk.syncDirectory('/'))
        const file = disk.open('first', 'create')
        file.write(Buffer.from('x'), 0)
        await finished(file.sync())
        disk.rename('first', 'second')
        disk.rename('second', 'other/third')
        return disk
      },
      disk => [...disk.list('/'), ...disk.list('other')].filter(name => name !== 'other').join(),
    )
    expect(found).toEqual(new Set(['', 'first', 'second', 'third']))
  })

  test('never happens to a promise that has resolved', async () => {
    for (let seed = 1; seed <= 60; seed++) {
      const disk = await durable(seed, { a: '' })
      const file = disk.open('a', 'write')
      let acknowledged = 0
      for (let count = 1; count <= 20; count++) {
        file.write(Buffer.from(String.fromCharCode(64 + count)), count - 1)
        file.sync().then(() => {
          acknowledged = Math.max(acknowledged, count)
        })
        await clock.advance(0.3)
      }
      const promised = 'ABCDEFGHIJKLMNOPQRST'.slice(0, acknowledged)
      expect(acknowledged).toBeGreaterThan(5)
      expect(contentOf(disk.crash(), 'a')?.startsWith(promised)).toBe(true)
    }
  })

  test('during a sync leaves the promise without an answer', async () => {
    const disk = await durable(1, { a: '' })
    const file = disk.open('a', 'write')
    const synced = file.sync()
    const read = file.read(0, 1)
    disk.crash()
    expect(await isSettled(synced)).toBe(false)
    expect(read instanceof Promise && (await isSettled(read))).toBe(false)
  })
})

describe('a killed process', () => {
  test('loses nothing that was written, until the power is cut', async () => {
    const found = new Set<string | null>()
    for (let seed = 1; seed <= 40; seed++) {
      const disk = await durable(seed, { a: '' })
      disk.open('a', 'write').write(sector('1'), 0)
      const killed = disk.kill()
      expect(sectorsOf(contentOf(killed, 'a'))).toBe('1')
      expect(() => disk.list('/')).toThrow(Crashed)
      found.add(sectorsOf(contentOf(killed.crash(), 'a')))
    }
    expect(found).toEqual(new Set(['', '.', '1']))
  })

  test('leaves what can be synced afterwards', async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const disk = await durable(seed, { a: '' })
      disk.open('a', 'write').write(sector('1'), 0)
      const killed = disk.kill()
      await finished(killed.open('a', 'write').sync())
      expect(sectorsOf(contentOf(killed.crash(), 'a'))).toBe('1')
    }
  })

  test('gives up its lock', () => {
    const disk = make(1)
    disk.makeDirectory('data')
    disk.lock('data')
    disk.kill().lock('data')
  })
})

describe('a fault', () => {
  let disk: FaultyDisk
  let file: DiskFile

  beforeEach(() => {
    disk = make(3)
    file = disk.open('a', 'create')
  })

  test('no room: any part of the write may be there', () => {
    const sizes = new Set<number>()
    for (let count = 0; count < 50; count++) {
      disk.failNext('write')
      expect(() => file.write(Buffer.alloc(4, 'x'), 0)).toThrow(
        expect.objectContaining({ code: 'ENOSPC', isFull: true }),
      )
      sizes.add(file.size())
      file.truncate(0)
    }
    expect(sizes).toEqual(new Set([0, 1, 2, 3, 4]))
  })

  test('a full disk: it takes what it has room for, and cutting and removing give room back', () => {
    disk.room = 10
    file.write(Buffer.alloc(8, 'x'), 0)
    expect(() => file.write(Buffer.alloc(8, 'y'), 8)).toThrow(DiskError)
    expect(contentOf(disk, 'a')).toBe('xxxxxxxxyy')
    file.write(Buffer.alloc(8, 'z'), 0)
    file.truncate(4)
    file.write(Buffer.alloc(6, 'w'), 4)
    disk.remove('a')
    disk.open('b', 'create').write(Buffer.alloc(10), 0)
  })

  test('of a given kind, on a given path, once', async () => {
    const other = disk.open('b', 'create')
    disk.failNext('sync', path => path === 'a')
    await finished(other.sync())
    await expect(finished(file.sync())).rejects.toMatchObject({ code: 'EIO', path: 'a' })
    await finished(file.sync())
    disk.failNext('create')
    expect(() => disk.open('c', 'create')).toThrow(expect.objectContaining({ code: 'ENOSPC' }))
    expect(disk.list('/')).toEqual(['a', 'b'])
    disk.failNext('read')
    expect(() => file.readNow(0, 1)).toThrow(expect.objectContaining({ code: 'EIO' }))
    disk.failNext('read')
    await expect(finished(file.read(0, 1) as Promise<Uint8Array>)).rejects.toMatchObject({ code: 'EIO' })
  })

  test('by chance, as often as asked for', async () => {
    disk.faults.syncFailure = 0.5
    const results = await finished(
      Promise.allSettled(Array.from({ length: 100 }, () => file.sync().catch(() => 'no'))),
    )
    const failures = results.filter(result => result.status === 'fulfilled' && result.value === 'no').length
    expect(failures).toBeGreaterThan(30)
    disk.faults.syncFailure = 0
    disk.faults.readFailure = 1
    expect(() => file.readNow(0, 1)).toThrow(DiskError)
    disk.faults.writeFull = 1
    expect(() => file.write(Buffer.from('x'), 0)).toThrow(DiskError)
  })

  test('a failed sync: a later one succeeds and yet does not save what was written before', async () => {
    const run = async (seed: number, rewrite: boolean) => {
      const found = await durable(seed, { a: sector('d').toString() })
      const written = found.open('a', 'write')
      written.write(sector('1'), 0)
      found.failNext('sync')
      await expect(finished(written.sync())).rejects.toThrow(DiskError)
      expect(sectorsOf(contentOf(found, 'a'))).toBe('1')
      if (rewrite) written.write(sector('2'), 0)
      await finished(written.sync())
      return found
    }
    const look = (found: FaultyDisk) => sectorsOf(contentOf(found, 'a'))
    expect(await outcomes(seed => run(seed, false), look)).toEqual(new Set(['d', '1']))
    expect(await outcomes(seed => run(seed, true), look)).toEqual(new Set(['2']))
  })

  test('a failed sync: the file may have grown or not, whatever is synced later', async () => {
    const found = await outcomes(
      async seed => {
        const growing = await durable(seed, { a: sector('d').toString() })
        const written = growing.open('a', 'write')
        written.write(sector('1'), SECTOR_BYTES)
        growing.failNext('sync')
        await expect(finished(written.sync())).rejects.toThrow(DiskError)
        await finished(written.sync())
        return growing
      },
      growing => sectorsOf(contentOf(growing, 'a')),
    )
    expect(found).toEqual(new Set(['d', 'd.', 'd1']))
  })

  test('a failed sync fails the others that wait for the same file', async () => {
    disk.faults.syncFailure = 1
    const calls = Promise.allSettled([file.sync(), file.sync(), file.sync()])
    await clock.step()
    disk.faults.syncFailure = 0
    const results = await finished(calls)
    expect(results.map(result => result.status)).toEqual(['rejected', 'rejected', 'rejected'])
  })

  test('a failed sync of a folder: a later one does not save its entries', async () => {
    const found = await outcomes(
      async seed => {
        const other = make(seed)
        other.open('a', 'create')
        other.failNext('sync')
        await expect(finished(other.syncDirectory('/'))).rejects.toThrow(DiskError)
        await finished(other.syncDirectory('/'))
        return other
      },
      other => other.list('/').join(),
    )
    expect(found).toEqual(new Set(['', 'a']))
  })

  test('a flipped bit: it says where, stays, and is never read as if it came from memory', async () => {
    const content = 'x'.repeat(3_000)
    for (let seed = 1; seed <= 30; seed++) {
      const flipping = await durable(seed, { 'a.log': content, 'a.index': content })
      const flipped = flipping.flipBit(path => path.endsWith('.log'))!
      expect(flipped.path).toBe('/a.log')
      const expected = Buffer.from(content)
      expected[flipped.position] ^= flipped.mask
      expect(flipping.open('a.log', 'read').read(0, 1)).toBeInstanceOf(Promise)
      expect(contentOf(flipping, 'a.log')).toBe(expected.toString('latin1'))
      expect(contentOf(flipping, 'a.index')).toBe(content)
      expect(contentOf(flipping.crash(), 'a.log')).toBe(expected.toString('latin1'))
    }
    expect(make(1).flipBit()).toBe(null)
  })
})

describe('a crash at an operation', () => {
  const workload = async (disk: FaultyDisk) => {
    disk.makeDirectory('d')
    const file = disk.open('d/a', 'create')
    file.write(Buffer.from('0123456789'), 0)
    await file.sync()
    file.truncate(5)
    disk.rename('d/a', 'd/b')
    await disk.syncDirectory('d')
    disk.remove('d')
  }
  const names = [
    'makeDirectory',
    'create',
    'write',
    'sync',
    'truncate',
    'rename',
    'syncDirectory',
    'remove',
    'remove',
  ]

  /** Runs until the end or the crash. */
  async function runToEnd(disk: FaultyDisk): Promise<'finished' | 'crashed' | 'hangs'> {
    let result: 'finished' | 'crashed' | 'hangs' = 'hangs'
    workload(disk).then(
      () => {
        result = 'finished'
      },
      error => {
        expect(error).toBeInstanceOf(Crashed)
        result = 'crashed'
      },
    )
    await clock.runUntilIdle()
    return result
  }

  test('can fall on every one of them', async () => {
    const lines: string[] = []
    const whole = make(1, { trace: line => lines.push(line) })
    expect(await runToEnd(whole)).toBe('finished')
    expect(lines.map(line => line.split(' ')[1])).toEqual(names)
    expect(whole.operations).toBe(names.length)
    for (const moment of ['before', 'middle', 'after'] as const) {
      for (let operation = 0; operation < names.length; operation++) {
        const disk = make(1)
        disk.crashAt(operation, moment)
        const hangs = names[operation].startsWith('sync') && moment !== 'before'
        expect(await runToEnd(disk), `${moment} ${names[operation]}`).toBe(hangs ? 'hangs' : 'crashed')
        expect(disk.isDown).toBe(true)
        expect(disk.operations).toBe(operation + 1)
        expect(() => disk.open('x', 'create')).toThrow(Crashed)
        expect(() => disk.list('d')).toThrow(Crashed)
        expect(disk.crash().isDown).toBe(false)
      }
    }
  })

  test('leaves the operation undone, done, or a write in part', async () => {
    const sizeAfter = async (seed: number, moment: 'before' | 'middle' | 'after') => {
      const disk = make(seed)
      disk.crashAt(2, moment)
      await runToEnd(disk)
      return contentOf(disk.kill(), 'd/a')?.length
    }
    expect(await sizeAfter(1, 'before')).toBe(0)
    expect(await sizeAfter(1, 'after')).toBe(10)
    const parts = new Set<number | undefined>()
    for (let seed = 1; seed <= 60; seed++) parts.add(await sizeAfter(seed, 'middle'))
    expect(parts.size).toBeGreaterThan(6)
  })

  test('after a sync leaves its data durable although nobody was told', async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const disk = await durable(seed, { a: '' })
      const file = disk.open('a', 'write')
      file.write(sector('1'), 0)
      disk.crashAt(disk.operations, 'after')
      expect(await isSettled(file.sync())).toBe(false)
      expect(sectorsOf(contentOf(disk.crash(), 'a'))).toBe('1')
    }
  })

  test('can be asked of the disk that comes after', async () => {
    const disk = make(1)
    disk.crashAt(0)
    expect(() => disk.open('a', 'create')).toThrow(Crashed)
    const next = disk.crash()
    next.crashAt(next.operations)
    expect(() => next.open('a', 'create')).toThrow(Crashed)
  })
})

describe('reads', () => {
  test('are answered at once, soon or later, with copies, and at once only from what this process wrote', async () => {
    const disk = make(5)
    const file = disk.open('a', 'create')
    file.write(Buffer.from('0123456789'), 0)
    let atOnce = 0
    for (let count = 0; count < 50; count++) {
      const result = file.read(2, 3)
      if (!(result instanceof Promise)) atOnce += 1
      const bytes = result instanceof Promise ? await finished(result) : result
      expect(Buffer.from(bytes).toString()).toBe('234')
      bytes.fill(0)
    }
    expect(atOnce).toBeGreaterThan(10)
    expect(atOnce).toBeLessThan(40)
    const after = disk.kill().open('a', 'write')
    for (let count = 0; count < 20; count++) expect(after.read(0, 10)).toBeInstanceOf(Promise)
  })
})

test('a seed replays a run', async () => {
  const run = async (seed: number): Promise<string> => {
    const story: string[] = []
    const random = new Random(seed)
    const faults = { writeFull: 0.05, syncFailure: 0.1, readFailure: 0.1, createFull: 0.05 }
    let disk = make(seed, { faults, trace: line => story.push(line) })
    for (let step = 0; step < 120; step++) {
      const path = `f${random.below(4)}`
      try {
        const file = disk.open(path, random.chance(0.3) ? 'create' : 'write')
        file.write(random.bytes(random.below(900)), random.below(file.size() + 1))
        file.sync().then(
          () => story.push('synced'),
          error => story.push(error.message),
        )
        if (random.chance(0.2)) disk.rename(path, `f${random.below(4)}`)
        if (random.chance(0.2)) disk.syncDirectory('/').catch(() => {})
        if (random.chance(0.5)) await clock.advance(random.fraction())
      } catch (error) {
        story.push((error as Error).message)
      }
      if (random.chance(0.05)) disk = random.chance(0.5) ? disk.crash() : disk.kill()
      disk.faults.readFailure = 0
      for (const name of disk.list('/')) story.push(`${name} ${contentOf(disk, name)}`)
    }
    await clock.runUntilIdle()
    return story.join('\n')
  }
  const first = await run(42)
  expect(await run(42)).toBe(first)
  expect(await run(43)).not.toBe(first)
  expect(first).toContain('synced')
})
