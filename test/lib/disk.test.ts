/** What every disk does, run over all of them; then what is particular to the real one, its lock and the memory disk. */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import { type Disk, DiskError, type DiskFile } from '../../src/lib/disk.ts'
import { cachedDisk } from '../../src/lib/disk-cache.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { nodeDisk } from '../../src/lib/disk-node.ts'
import { FaultyDisk } from '../sim/faulty-disk.ts'
import { Random } from '../sim/random.ts'
import { VirtualClock } from '../sim/virtual-clock.ts'

const clock = new VirtualClock()

const disks: Record<string, () => Disk> = {
  node: nodeDisk,
  memory: memoryDisk,
  'cached node': () => cachedDisk(nodeDisk()),
  'cached node, tiny cache': () => cachedDisk(nodeDisk(), { bytesMax: 10_000 }),
  'cached memory': () => cachedDisk(memoryDisk()),
  'faulty without faults': () => new FaultyDisk({ seed: 1, clock }),
  'cached faulty without faults': () => cachedDisk(new FaultyDisk({ seed: 2, clock })),
}

let root: string
let disk: Disk

beforeEach(() => {
  root = fs.mkdtempSync(join(os.tmpdir(), 'sluice-disk-'))
})

afterEach(() => {
  vi.restoreAllMocks()
  fs.rmSync(root, { recursive: true, force: true })
})

const at = (...names: string[]) => join(root, ...names)

/** Waits for a disk whose time is virtual as well as for a real one. */
async function done<Value>(value: Value | Promise<Value>): Promise<Value> {
  await clock.runUntilIdle()
  return value
}

async function readAll(file: DiskFile): Promise<Buffer> {
  const parts: Uint8Array[] = []
  for (let position = 0; position < file.size(); position += parts.at(-1)!.length) {
    parts.push(await done(file.read(position, 1 << 20)))
    expect(parts.at(-1)!.length).toBeGreaterThan(0)
  }
  return Buffer.concat(parts)
}

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    expect(error).toBeInstanceOf(DiskError)
    expect((error as DiskError).message).toContain((error as DiskError).path)
    return (error as DiskError).code
  }
  return 'no error'
}

describe.each(Object.entries(disks))('%s', (_, make) => {
  beforeEach(() => {
    disk = make()
    disk.makeDirectory(root)
  })

  test('gives back what was written, in pieces of any size', async () => {
    const file = disk.open(at('a.log'), 'create')
    file.write(Buffer.from('hello '), 0)
    file.write(Buffer.from('world'), 6)
    expect(file.size()).toBe(11)
    expect((await readAll(file)).toString()).toBe('hello world')
    expect(Buffer.from(await done(file.read(6, 3))).toString()).toBe('wor')
    expect(Buffer.from(file.readNow(6, 3)).toString()).toBe('wor')
    expect((await done(file.read(6, 100))).length).toBe(5)
    file.close()
    const again = disk.open(at('a.log'), 'read')
    expect(again.size()).toBe(11)
    expect((await readAll(again)).toString()).toBe('hello world')
    again.close()
  })

  test('reads nothing at the end of a file, and only there', async () => {
    const file = disk.open(at('a.log'), 'create')
    expect((await done(file.read(0, 10))).length).toBe(0)
    file.write(Buffer.from('x'), 0)
    expect((await done(file.read(0, 10))).length).toBe(1)
    expect((await done(file.read(1, 10))).length).toBe(0)
    expect(file.readNow(1, 10).length).toBe(0)
    file.close()
  })

  test('returns a batch that was appended at once in one piece', async () => {
    const file = disk.open(at('a.log'), 'create')
    const random = new Random(7)
    const batches: Buffer[] = []
    for (let index = 0; index < 60; index++) {
      const batch = Buffer.alloc(random.pick([1, 300, 5_000, 70_000, 400_000]), index)
      batches.push(batch)
      file.write(batch, file.size())
    }
    let position = 0
    for (const batch of batches) {
      expect(batch.equals(await done(file.read(position, batch.length)))).toBe(true)
      position += batch.length
    }
    file.close()
  })

  test('never changes bytes that it has handed out', async () => {
    const file = disk.open(at('a.log'), 'create')
    const views: [view: Uint8Array, copy: Buffer][] = []
    const look = async () => {
      for (let position = 0; position < file.size(); position += views.at(-1)![0].length) {
        const view = await done(file.read(position, 10))
        views.push([view, Buffer.from(view)])
      }
    }
    file.write(Buffer.from('aaaaaaaaaa'), 0)
    await look()
    file.write(Buffer.from('bb'), 4)
    await look()
    file.truncate(2)
    file.write(Buffer.from('cccccccc'), 2)
    await look()
    file.write(Buffer.from('ddd'), 9)
    await look()
    file.truncate(0)
    file.write(Buffer.from('eeeeeeeeeeee'), 0)
    expect(views.length).toBeGreaterThanOrEqual(4)
    for (const [view, copy] of views) expect(copy.equals(view)).toBe(true)
    file.close()
  })

  test('does the same as a plain buffer under any sequence of writes and cuts', async () => {
    const random = new Random(4711)
    for (let run = 0; run < 5; run++) {
      let file = disk.open(at(`run-${run}.log`), 'create')
      let model = Buffer.alloc(0)
      const views: [view: Uint8Array, copy: Buffer][] = []
      for (let step = 0; step < 80; step++) {
        const action = random.below(10)
        if (action < 6) {
          const bytes = random.bytes(random.pick([0, 1, 17, 511, 512, 4_000, 20_000]))
          file.write(bytes, model.length)
          model = Buffer.concat([model, bytes])
        } else if (action === 6) {
          const position = random.below(model.length + 1)
          const bytes = random.bytes(random.below(6_000))
          file.write(bytes, position)
          model = Buffer.concat([model.subarray(0, position), bytes, model.subarray(position + bytes.length)])
        } else if (action === 7) {
          const size = random.between(model.length >> 1, model.length)
          file.truncate(size)
          model = model.subarray(0, size)
        } else if (action === 8) {
          await done(file.sync())
          file.close()
          file = disk.open(at(`run-${run}.log`), 'write')
        } else {
          const position = random.below(model.length + 1)
          const view = await done(file.read(position, random.between(1, 30_000)))
          views.push([view, Buffer.from(model.subarray(position, position + view.length))])
        }
        expect(file.size()).toBe(model.length)
      }
      expect(model.equals(await readAll(file))).toBe(true)
      for (const [view, copy] of views) expect(copy.equals(view)).toBe(true)
      file.close()
    }
  })

  test('opens for reading and writing only what exists, and creates over what exists', async () => {
    expect(codeOf(() => disk.open(at('a.log'), 'read'))).toBe('ENOENT')
    expect(codeOf(() => disk.open(at('a.log'), 'write'))).toBe('ENOENT')
    expect(codeOf(() => disk.open(at('no', 'a.log'), 'create'))).toBe('ENOENT')
    expect(codeOf(() => disk.open(root, 'read'))).toBe('EISDIR')
    const file = disk.open(at('a.log'), 'create')
    file.write(Buffer.from('old'), 0)
    file.close()
    const again = disk.open(at('a.log'), 'create')
    expect(again.size()).toBe(0)
    again.close()
  })

  test('lists names in order, and nothing where there is no folder', () => {
    for (const name of ['b', 'a', 'c']) disk.open(at(name), 'create').close()
    disk.makeDirectory(at('d', 'e'))
    disk.makeDirectory(at('d', 'e'))
    expect(disk.list(root)).toEqual(['a', 'b', 'c', 'd'])
    expect(disk.list(at('d'))).toEqual(['e'])
    expect(disk.list(at('no'))).toEqual([])
  })

  test('renames files over each other, and folders with what they hold', async () => {
    for (const name of ['old', 'new']) {
      const file = disk.open(at(name), 'create')
      file.write(Buffer.from(name), 0)
      file.close()
    }
    disk.rename(at('new'), at('old'))
    expect(disk.list(root)).toEqual(['old'])
    disk.makeDirectory(at('folder'))
    disk.rename(at('old'), at('folder', 'inside'))
    disk.rename(at('folder'), at('moved'))
    const file = disk.open(at('moved', 'inside'), 'read')
    expect((await readAll(file)).toString()).toBe('new')
    file.close()
    expect(codeOf(() => disk.rename(at('gone'), at('x')))).toBe('ENOENT')
  })

  test('removes files, folders with everything in them, and what is not there', async () => {
    disk.makeDirectory(at('a', 'b'))
    const file = disk.open(at('a', 'b', 'c.log'), 'create')
    file.write(Buffer.from('still here'), 0)
    disk.remove(at('a'))
    disk.remove(at('a'))
    disk.remove(at('no', 'such'))
    expect(disk.list(root)).toEqual([])
    expect((await readAll(file)).toString()).toBe('still here')
    file.close()
  })

  test('syncs files and folders', async () => {
    const file = disk.open(at('a.log'), 'create')
    file.write(Buffer.from('x'), 0)
    await done(Promise.all([file.sync(), file.sync(), disk.syncDirectory(root)]))
    file.close()
    await expect(done(disk.syncDirectory(at('no')).catch(error => error.code))).resolves.toBe('ENOENT')
  })

  test('completes reads and syncs that are under way when a file is closed', async () => {
    const file = disk.open(at('a.log'), 'create')
    file.write(Buffer.alloc(100_000, 'x'), 0)
    file.close()
    const again = disk.open(at('a.log'), 'write')
    const read = again.read(0, 100_000)
    const synced = again.sync()
    again.close()
    expect((await done(read)).length).toBeGreaterThan(0)
    await done(synced)
  })

  test('locks a folder once', () => {
    const unlock = disk.lock(root)
    expect(() => disk.lock(root)).toThrow(expect.objectContaining({ code: 'DIRECTORY_IN_USE' }))
    unlock()
    unlock()
    const again = disk.lock(root)
    // What was given back already does not give back what others took since.
    unlock()
    expect(() => disk.lock(root)).toThrow(SluiceError)
    again()
    expect(codeOf(() => disk.lock(at('no')))).toBe('ENOENT')
  })
})

describe('the file system', () => {
  beforeEach(() => {
    disk = nodeDisk()
  })

  const systemError = (code: string) => Object.assign(new Error(`${code}: something`), { code })

  test('goes on after a short write', () => {
    const writeSync = fs.writeSync as (
      fd: number,
      bytes: Uint8Array,
      offset: number,
      length: number,
      at: number,
    ) => number
    vi.spyOn(fs, 'writeSync').mockImplementation(((fd, bytes, offset, length, position) =>
      writeSync(fd, bytes, offset, Math.min(length, 3), position)) as typeof writeSync as typeof fs.writeSync)
    const file = disk.open(at('a'), 'create')
    file.write(Buffer.from('0123456789'), 0)
    expect(Buffer.from(file.readNow(0, 100)).toString()).toBe('0123456789')
    file.close()
  })

  test('names a full disk, and knows what was written of the failed write', () => {
    const writeSync = fs.writeSync as (
      fd: number,
      bytes: Uint8Array,
      offset: number,
      length: number,
      at: number,
    ) => number
    const file = disk.open(at('a'), 'create')
    file.write(Buffer.from('good'), 0)
    vi.spyOn(fs, 'writeSync')
      .mockImplementationOnce(((fd, bytes, offset, _, position) =>
        writeSync(fd, bytes, offset, 2, position)) as typeof writeSync as typeof fs.writeSync)
      .mockImplementationOnce(() => {
        throw systemError('ENOSPC')
      })
    let failed: unknown
    try {
      file.write(Buffer.from('bad'), 4)
    } catch (error) {
      failed = error
    }
    expect(failed).toMatchObject({ name: 'DiskError', code: 'ENOSPC', isFull: true, path: at('a') })
    expect(file.size()).toBe(6)
    file.truncate(4)
    file.write(Buffer.from('!'), 4)
    expect(fs.readFileSync(at('a'), 'utf8')).toBe('good!')
    file.close()
  })

  test('shares one fdatasync among the calls that come while another runs', async () => {
    const finish: ((error: null) => void)[] = []
    vi.spyOn(fs, 'fdatasync').mockImplementation(((_: number, call: (error: null) => void) => {
      finish.push(call)
    }) as typeof fs.fdatasync)
    const file = disk.open(at('a'), 'create')
    let resolved = 0
    const calls = [file.sync(), file.sync(), file.sync()]
    for (const call of calls) call.then(() => resolved++)
    expect(finish.length).toBe(1)
    finish[0](null)
    await calls[0]
    expect([resolved, finish.length]).toEqual([1, 2])
    finish[1](null)
    await Promise.all(calls)
    expect(finish.length).toBe(2)
    file.close()
  })

  test('fails every sync after one that failed, those that wait included', async () => {
    const fdatasync = vi.spyOn(fs, 'fdatasync')
    const file = disk.open(at('a'), 'create')
    file.write(Buffer.from('x'), 0)
    fdatasync.mockImplementationOnce(((_: number, call: (error: Error) => void) => {
      setImmediate(call, systemError('EIO'))
    }) as typeof fs.fdatasync)
    const results = await Promise.allSettled([file.sync(), file.sync()])
    expect(results).toMatchObject([{ reason: { code: 'EIO' } }, { reason: { code: 'EIO' } }])
    await expect(file.sync()).rejects.toMatchObject({ name: 'DiskError', code: 'EIO' })
    expect(fdatasync).toHaveBeenCalledTimes(1)
    file.close()
  })

  test('says so when something else has cut the file', async () => {
    const file = disk.open(at('a'), 'create')
    file.write(Buffer.from('0123456789'), 0)
    fs.truncateSync(at('a'), 4)
    expect(Buffer.from(await file.read(0, 4)).toString()).toBe('0123')
    await expect(file.read(6, 4)).rejects.toMatchObject({ code: 'EIO' })
    expect(codeOf(() => file.readNow(0, 10))).toBe('EIO')
    file.close()
  })
})

describe('the lock on a data directory', () => {
  const lockModule = new URL('../../src/lib/disk-node.ts', import.meta.url).href
  const children: ChildProcess[] = []

  beforeEach(() => {
    disk = nodeDisk()
  })

  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
  })

  /** Starts a process that tries to take the lock and says `taken` or the code of the error; it stays until killed. */
  async function taker(): Promise<{ child: ChildProcess; answer: string }> {
    const program = `
      import { nodeDisk } from ${JSON.stringify(lockModule)}
      setInterval(() => {}, 1000)
      try { nodeDisk().lock(${JSON.stringify(root)}); console.log('taken') } catch (error) { console.log(error.code) }`
    const stdio = ['ignore', 'pipe', 'pipe'] as const
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], { stdio: [...stdio] })
    children.push(child)
    const [answer] = await once(createInterface(child.stdout!), 'line')
    return { child, answer }
  }

  test('refuses a second process, naming the first, and is free once that is killed', async () => {
    const { child, answer } = await taker()
    expect(answer).toBe('taken')
    let refusal: unknown
    try {
      disk.lock(root)
    } catch (error) {
      refusal = error
    }
    expect(refusal).toMatchObject({
      code: 'DIRECTORY_IN_USE',
      detail: {
        path: root,
        pid: child.pid,
        host: os.hostname(),
        since: expect.stringMatching(/^20\d\d-.*Z$/),
      },
    })
    expect((refusal as Error).message).toContain(`process ${child.pid} on ${os.hostname()}`)
    child.kill('SIGKILL')
    await once(child, 'exit')
    disk.lock(root)()
  })

  test('goes to exactly one of several that come at once after its holder was killed', async () => {
    const { child } = await taker()
    child.kill('SIGKILL')
    await once(child, 'exit')
    const answers = await Promise.all(Array.from({ length: 5 }, taker))
    expect(answers.map(({ answer }) => answer).sort()).toEqual([
      ...Array(4).fill('DIRECTORY_IN_USE'),
      'taken',
    ])
  })

  test('is refused to a worker thread of the same process, and kept when that ends', async () => {
    const unlock = disk.lock(root)
    const program = `
      const { parentPort } = require('node:worker_threads')
      import(${JSON.stringify(lockModule)}).then(({ nodeDisk }) => {
        try { nodeDisk().lock(${JSON.stringify(root)}); parentPort.postMessage('taken') }
        catch (error) { parentPort.postMessage(error.code) }
      })`
    const worker = new Worker(program, { eval: true })
    const [answer] = await once(worker, 'message')
    expect(answer).toBe('DIRECTORY_IN_USE')
    await worker.terminate()
    expect((await taker()).answer).toBe('DIRECTORY_IN_USE')
    unlock()
    expect((await taker()).answer).toBe('taken')
  })

  test('is the same lock under another name of the directory', () => {
    const unlock = disk.lock(root)
    fs.symlinkSync(root, `${root}-link`)
    try {
      expect(() => disk.lock(`${root}-link`)).toThrow('already open in this process')
    } finally {
      fs.rmSync(`${root}-link`)
    }
    unlock()
  })

  test('leaves nothing behind but an empty file, which must stay', () => {
    const unlock = disk.lock(root)
    expect(disk.list(root)).toEqual(['lock', 'lock.holder'])
    unlock()
    expect(disk.list(root)).toEqual(['lock'])
    expect(fs.statSync(at('lock')).size).toBe(0)
  })

  test('prints no warning of Node', () => {
    const emitWarning = vi.spyOn(process, 'emitWarning')
    disk.lock(root)()
    expect(emitWarning).not.toHaveBeenCalled()
    expect(process.emitWarning).toBe(emitWarning)
  })
})

describe('memory', () => {
  test('is bounded, and what is cut off or removed gives room back', () => {
    const small = memoryDisk({ bytesMax: 1_000_000 })
    const file = small.open('a.log', 'create')
    const chunk = Buffer.alloc(400_000)
    file.write(chunk, 0)
    file.write(chunk, 400_000)
    expect(codeOf(() => file.write(chunk, 800_000))).toBe('ENOSPC')
    expect(file.size()).toBe(800_000)
    file.truncate(400_000)
    file.write(chunk, 400_000)
    const other = small.open('b.log', 'create')
    expect(codeOf(() => other.write(chunk, 0))).toBe('ENOSPC')
    small.remove('a.log')
    // It has no name any more, but it is still open.
    expect(codeOf(() => other.write(chunk, 0))).toBe('ENOSPC')
    file.close()
    other.write(chunk, 0)
  })

  test('takes little for a small file', () => {
    const small = memoryDisk({ bytesMax: 1_000_000 })
    for (let index = 0; index < 200; index++) {
      const file = small.open(`${index}.log`, 'create')
      for (let count = 0; count < 10; count++) file.write(Buffer.alloc(100), file.size())
      file.close()
    }
  })

  test('answers reads at once', () => {
    const file = memoryDisk().open('a.log', 'create')
    file.write(Buffer.from('x'), 0)
    expect(file.read(0, 1)).toBeInstanceOf(Uint8Array)
  })
})
