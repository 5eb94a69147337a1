/**
 * A disk that does everything a disk may do by the contract in src/lib/disk.ts, and nothing that it may not: it forgets, tears
 * and reorders what was not synced, runs full, fails to sync and to read, flips bits, and stops at any operation.
 *
 *     process sees   entries of folders            data of files            (page cache)
 *                        | syncDirectory               | sync
 *     power cut sees base + any of the operations  sectors, old or new      (faulty-inode.ts)
 *
 * What the run draws comes from the seed alone, and delays go by the clock that is passed in, so a seed replays a run.
 *
 * How a run ends: `crash()` is a power cut, `kill()` the end of the process only, which leaves the page cache. Both give a new disk
 * with what is left; the old one throws `Crashed` from then on and its promises stay pending, as nobody is there to hear. With
 * `crashAt` the disk stops by itself at a given operation; look at `isDown` after each step, since it can come to pass in a
 * sync, where nobody is called.
 *
 * A folder's entries are independent of each other until the folder is synced: any of the operations on them may be found
 * done or undone, a rename always as a whole. A new folder is an entry of the one above it and can be lost like any other.
 */

import assert from 'node:assert/strict'
import { resolve, sep } from 'node:path'
import { SluiceError } from '../../src/errors.ts'
import type { Clock } from '../../src/lib/clock.ts'
import { type Disk, DiskError, type DiskFile } from '../../src/lib/disk.ts'
import { FaultyInode } from './faulty-inode.ts'
import { Random } from './random.ts'

/** Thrown by the operation that the power cut falls into, and by every one after it. Nothing in the code under test may catch it for good. */
export class Crashed extends Error {
  constructor() {
    super('the simulated machine has stopped')
    this.name = 'Crashed'
  }
}

/** Probabilities from 0 to 1, all 0 by default. May be changed while the disk is in use. */
export interface Faults {
  /** That a write finds no room, having written any part. */
  writeFull: number
  /** That making a file or a folder finds no room. */
  createFull: number
  /** That a sync of a file or a folder fails. */
  syncFailure: number
  readFailure: number
}

export interface FaultyDiskOptions {
  readonly seed: number
  readonly clock: Clock
  readonly faults?: Partial<Faults>
  /** Longest time that a sync or a read takes, in milliseconds. Default 2. */
  readonly delayMsMax?: number
  /** Told of each operation, for the trace of a run that failed. */
  readonly trace?: (line: string) => void
}

/** Where in the operation the machine stops. In the middle of a write any part is written; other operations are done or not. */
export type CrashMoment = 'before' | 'middle' | 'after'

export type FaultKind = 'write' | 'create' | 'sync' | 'read'

export interface FlippedBit {
  readonly path: string
  readonly position: number
  readonly mask: number
}

type Node = Folder | FaultyInode

interface EntryOperation {
  readonly operation: number
  /** Folders that have not been synced since. */
  readonly unsynced: Set<Folder>
  /** A sync of a folder it is in has failed: no later one makes up for that. */
  inLimbo: boolean
  apply(folder: Folder, entries: Map<string, Node>): void
}

class Folder {
  readonly entries = new Map<string, Node>()
  /** The entries that are durable. */
  readonly base: Map<string, Node>
  operations: EntryOperation[] = []

  constructor(base = new Map<string, Node>()) {
    this.base = base
    for (const [name, node] of base) this.entries.set(name, node)
  }
}

interface SyncUnderWay {
  readonly inode: FaultyInode
  readonly reject: (error: DiskError) => void
  isOver: boolean
}

class FaultyFile implements DiskFile {
  readonly path: string
  readonly #disk: FaultyDisk
  readonly #inode: FaultyInode
  readonly #writable: boolean
  #open = true

  constructor(disk: FaultyDisk, path: string, inode: FaultyInode, writable: boolean) {
    this.#disk = disk
    this.path = path
    this.#inode = inode
    this.#writable = writable
  }

  size(): number {
    return this.#inode.size
  }

  write(bytes: Uint8Array, position: number): void {
    assert(this.#open && this.#writable, `${this.path} is not open for writing`)
    assert(position >= 0 && position <= this.#inode.size, `a write to ${this.path} would leave a hole`)
    this.#disk.write(this.path, this.#inode, bytes, position)
  }

  read(position: number, bytesMax: number): Buffer | Promise<Buffer> {
    assert(this.#open, `${this.path} is closed`)
    return this.#disk.read(this.path, this.#inode, position, bytesMax)
  }

  readNow(position: number, bytesMax: number): Buffer {
    assert(this.#open, `${this.path} is closed`)
    return this.#disk.readNow(this.path, this.#inode, position, bytesMax)
  }

  sync(): Promise<void> {
    assert(this.#open, `${this.path} is closed`)
    return this.#disk.sync(this.path, this.#inode)
  }

  truncate(size: number): void {
    assert(this.#open && this.#writable, `${this.path} is not open for writing`)
    assert(size >= 0 && size <= this.#inode.size, `${this.path} cannot be cut to more than it has`)
    this.#disk.truncate(this.path, this.#inode, size)
  }

  close(): void {
    assert(this.#open, `${this.path} is closed`)
    this.#open = false
  }
}

export class FaultyDisk implements Disk {
  readonly kind = 'file'
  readonly faults: Faults
  /** Bytes that files may still grow by before the disk is full. Cutting and removing give room back. */
  room = Number.POSITIVE_INFINITY

  readonly #options: FaultyDiskOptions
  readonly #random: Random
  readonly #root: Folder
  readonly #locked = new Set<string>()
  readonly #oneShots: { readonly kind: FaultKind; readonly matches: (path: string) => boolean }[] = []
  readonly #syncs = new Set<SyncUnderWay>()
  #operations = 0
  #crashAt = Number.POSITIVE_INFINITY
  #crashMoment: CrashMoment = 'before'
  #isDown = false

  constructor(options: FaultyDiskOptions, root = new Folder()) {
    this.#options = options
    this.#random = new Random(options.seed)
    this.#root = root
    this.faults = { writeFull: 0, createFull: 0, syncFailure: 0, readFailure: 0, ...options.faults }
  }

  // --- what the simulation does to the disk ---

  /** Operations so far that change something or sync; each is a place to crash at. */
  get operations(): number {
    return this.#operations
  }

  get isDown(): boolean {
    return this.#isDown
  }

  /** Stops the machine at the operation with this number; the next one has the number `operations`. */
  crashAt(operation: number, moment: CrashMoment = 'before'): void {
    this.#crashAt = operation
    this.#crashMoment = moment
  }

  /** Lets the next operation of this kind fail (`write` and `create`: no room), on a path that matches if that is given. */
  failNext(kind: FaultKind, matches: (path: string) => boolean = () => true): void {
    this.#oneShots.push({ kind, matches })
  }

  /** A power cut. Returns the disk as it is found afterwards; this one is dead. */
  crash(): FaultyDisk {
    this.#isDown = true
    return this.#successor(survivorOf(this.#root, this.#random))
  }

  /** The process is killed; the machine goes on. Returns the disk as it is, with everything written and nothing more synced. */
  kill(): FaultyDisk {
    this.#isDown = true
    for (const { node } of filesIn(this.#root, sep)) node.forgetWriter()
    return this.#successor(this.#root)
  }

  /** Flips one durable bit in a file whose path matches. Returns where, or null when there is no such file with anything durable. */
  flipBit(matches: (path: string) => boolean = () => true): FlippedBit | null {
    const files = [...filesIn(this.#root, sep)].filter(
      file => matches(file.path) && file.node.durableSize > 0,
    )
    if (files.length === 0) return null
    const { path, node } = this.#random.pick(files)
    const flipped = node.flip(this.#random)
    return flipped === null ? null : { path, ...flipped }
  }

  // --- the disk ---

  open(path: string, mode: 'read' | 'write' | 'create'): DiskFile {
    this.#assertUp()
    const [parent, name] = this.#parentOf(path)
    const found = parent.entries.get(name)
    if (found instanceof Folder) throw failure('EISDIR', path, 'is a folder')
    if (mode !== 'create') {
      if (found === undefined) throw failure('ENOENT', path, 'does not exist')
      return new FaultyFile(this, path, found, mode === 'write')
    }
    const inode = found ?? new FaultyInode()
    this.#operate('create', path, operation => {
      if (this.#fails('create', path, this.faults.createFull)) throw failure('ENOSPC', path, 'finds no room')
      if (found === undefined) this.#link(parent, name, inode, operation)
      else this.#cut(inode, 0, operation)
    })
    return new FaultyFile(this, path, inode, true)
  }

  list(path: string): string[] {
    this.#assertUp()
    const found = this.#walk(namesOf(path))
    if (found === undefined) return []
    if (!(found instanceof Folder)) throw failure('ENOTDIR', path, 'is not a folder')
    return [...found.entries.keys()].sort()
  }

  makeDirectory(path: string): void {
    this.#assertUp()
    let folder = this.#root
    for (const name of namesOf(path)) {
      let next = folder.entries.get(name)
      if (next === undefined) {
        const made = new Folder()
        const above = folder
        this.#operate('makeDirectory', path, operation => {
          if (this.#fails('create', path, this.faults.createFull))
            throw failure('ENOSPC', path, 'finds no room')
          this.#link(above, name, made, operation)
        })
        next = made
      }
      if (!(next instanceof Folder)) throw failure('ENOTDIR', path, 'has a file in its way')
      folder = next
    }
  }

  rename(from: string, to: string): void {
    this.#assertUp()
    const [fromParent, fromName] = this.#parentOf(from)
    const [toParent, toName] = this.#parentOf(to)
    const moved = fromParent.entries.get(fromName)
    const replaced = toParent.entries.get(toName)
    if (moved === undefined) throw failure('ENOENT', from, 'does not exist')
    if (moved === replaced) return
    if (replaced instanceof Folder) {
      if (!(moved instanceof Folder)) throw failure('EISDIR', to, 'is a folder')
      if (replaced.entries.size > 0) throw failure('ENOTEMPTY', to, 'is not empty')
    } else if (replaced !== undefined && moved instanceof Folder) {
      throw failure('ENOTDIR', to, 'is not a folder')
    }
    // What a cache holds in memory, it holds by name.
    if (moved instanceof FaultyInode) moved.forgetWriter()
    this.#operate('rename', `${from} -> ${to}`, operation => {
      if (replaced instanceof FaultyInode) this.room += replaced.size
      this.#enter(operation, [fromParent, toParent], (folder, entries) => {
        // Also gone from any other name it had: the operation that gave it that name may have been lost.
        for (const [name, node] of entries) if (node === moved) entries.delete(name)
        if (folder === toParent) entries.set(toName, moved)
      })
    })
  }

  remove(path: string): void {
    this.#assertUp()
    const names = namesOf(path)
    const name = names.pop()
    assert(name !== undefined, 'the root is not removed')
    const parent = this.#walk(names)
    const found = parent instanceof Folder ? parent.entries.get(name) : undefined
    if (found === undefined) return
    if (found instanceof Folder)
      for (const child of [...found.entries.keys()]) this.remove(`${path}${sep}${child}`)
    this.#operate('remove', path, operation => {
      if (found instanceof FaultyInode) this.room += found.size
      this.#enter(operation, [parent as Folder], (_, entries) => {
        if (entries.get(name) === found) entries.delete(name)
      })
    })
  }

  syncDirectory(path: string): Promise<void> {
    this.#assertUp()
    const folder = this.#walk(namesOf(path))
    if (!(folder instanceof Folder)) return Promise.reject(failure('ENOENT', path, 'does not exist'))
    return new Promise((resolve, reject) => {
      this.#later('syncDirectory', path, operation => {
        const covered = folder.operations.filter(entry => entry.operation < operation && !entry.inLimbo)
        if (this.#fails('sync', path, this.faults.syncFailure)) {
          for (const entry of covered) entry.inLimbo = true
          return () => reject(failure('EIO', path, 'fails to sync'))
        }
        for (const entry of covered) entry.unsynced.delete(folder)
        settleEntries(folder)
        return resolve
      })
    })
  }

  lock(path: string): () => void {
    this.#assertUp()
    const key = resolve('/', path)
    if (!(this.#walk(namesOf(path)) instanceof Folder)) throw failure('ENOENT', path, 'does not exist')
    if (this.#locked.has(key))
      throw new SluiceError('DIRECTORY_IN_USE', `${path} is already open; close it first`, { path })
    this.#locked.add(key)
    let isHeld = true
    return () => {
      if (isHeld) this.#locked.delete(key)
      isHeld = false
    }
  }

  // --- what its files call ---

  write(path: string, inode: FaultyInode, bytes: Uint8Array, position: number): void {
    const partial = () => bytes.subarray(0, this.#random.below(bytes.length + 1))
    const put = (part: Uint8Array, operation: number) => {
      this.room -= Math.max(0, position + part.length - inode.size)
      inode.write(part, position, operation)
    }
    const run = (operation: number) => {
      const growth = position + bytes.length - inode.size
      if (growth > this.room) {
        put(bytes.subarray(0, bytes.length - (growth - this.room)), operation)
        throw failure('ENOSPC', path, 'finds no room')
      }
      if (this.#fails('write', path, this.faults.writeFull)) {
        put(partial(), operation)
        throw failure('ENOSPC', path, 'finds no room')
      }
      put(bytes, operation)
    }
    this.#operate('write', `${path} ${position}+${bytes.length}`, run, operation => put(partial(), operation))
  }

  read(path: string, inode: FaultyInode, position: number, bytesMax: number): Buffer | Promise<Buffer> {
    const bytes = this.#readOr(path, inode, position, bytesMax)
    if (bytes instanceof Buffer && position >= inode.writtenFrom && this.#random.chance(0.5)) return bytes
    return new Promise((resolve, reject) => {
      const answer = () => {
        if (this.#isDown) return
        if (bytes instanceof Buffer) resolve(bytes)
        else reject(bytes)
      }
      if (this.#random.chance(0.5)) answer()
      else this.#options.clock.after(this.#delay(), answer)
    })
  }

  readNow(path: string, inode: FaultyInode, position: number, bytesMax: number): Buffer {
    const bytes = this.#readOr(path, inode, position, bytesMax)
    if (bytes instanceof Buffer) return bytes
    throw bytes
  }

  sync(path: string, inode: FaultyInode): Promise<void> {
    return new Promise((resolve, reject) => {
      const under: SyncUnderWay = { inode, reject, isOver: false }
      this.#syncs.add(under)
      this.#later('sync', path, operation => {
        this.#syncs.delete(under)
        if (under.isOver) return () => {}
        if (!this.#fails('sync', path, this.faults.syncFailure)) {
          inode.settle(operation)
          return resolve
        }
        inode.fail()
        // Others that wait for the same file would promise bytes that may be lost now.
        return () => {
          for (const other of [under, ...this.#syncs]) {
            if (other.inode !== inode) continue
            other.isOver = true
            other.reject(failure('EIO', path, 'fails to sync'))
          }
        }
      })
    })
  }

  truncate(path: string, inode: FaultyInode, size: number): void {
    this.#operate('truncate', `${path} ${size}`, operation => this.#cut(inode, size, operation))
  }

  // --- how it is done ---

  /** Runs an operation, or stops the machine before, in or after it. */
  #operate(
    kind: string,
    what: string,
    run: (operation: number) => void,
    runPart: (operation: number) => void = operation => {
      if (this.#random.chance(0.5)) run(operation)
    },
  ): void {
    const operation = this.#begin(kind, what)
    if (operation !== this.#crashAt) {
      run(operation)
      return
    }
    try {
      if (this.#crashMoment === 'middle') runPart(operation)
      else run(operation)
    } finally {
      this.#stop()
    }
  }

  /** A sync: `finish` does it when its time has come, and returns what tells the caller. */
  #later(kind: string, what: string, finish: (operation: number) => () => void): void {
    const operation = this.#begin(kind, what)
    this.#options.clock.after(this.#delay(), () => {
      if (this.#isDown) return
      const isLast = operation === this.#crashAt
      if (isLast && this.#crashMoment === 'middle') {
        this.#isDown = true
        return
      }
      const tell = finish(operation)
      if (isLast) this.#isDown = true
      else tell()
    })
  }

  /** Counts an operation. Throws when the machine stops before it. */
  #begin(kind: string, what: string): number {
    this.#assertUp()
    const operation = this.#operations++
    this.#options.trace?.(`${operation} ${kind} ${what}`)
    if (operation === this.#crashAt && this.#crashMoment === 'before') this.#stop()
    return operation
  }

  #stop(): never {
    this.#isDown = true
    throw new Crashed()
  }

  #assertUp(): void {
    if (this.#isDown) throw new Crashed()
  }

  #fails(kind: FaultKind, path: string, probability: number): boolean {
    const oneShot = this.#oneShots.findIndex(shot => shot.kind === kind && shot.matches(path))
    if (oneShot >= 0) this.#oneShots.splice(oneShot, 1)
    return oneShot >= 0 || this.#random.chance(probability)
  }

  #readOr(path: string, inode: FaultyInode, position: number, bytesMax: number): Buffer | DiskError {
    this.#assertUp()
    if (this.#fails('read', path, this.faults.readFailure)) return failure('EIO', path, 'fails to be read')
    return inode.read(position, bytesMax)
  }

  #cut(inode: FaultyInode, size: number, operation: number): void {
    this.room += inode.size - size
    inode.truncate(size, operation)
  }

  #link(folder: Folder, name: string, node: Node, operation: number): void {
    this.#enter(operation, [folder], (_, entries) => entries.set(name, node))
  }

  /** Does something to the entries of folders, and remembers it until the folders are synced. */
  #enter(operation: number, folders: readonly Folder[], apply: EntryOperation['apply']): void {
    const entry = { operation, unsynced: new Set(folders), inLimbo: false, apply }
    for (const folder of entry.unsynced) {
      folder.operations.push(entry)
      apply(folder, folder.entries)
    }
  }

  #delay(): number {
    return this.#random.fraction() * (this.#options.delayMsMax ?? 2)
  }

  #successor(root: Folder): FaultyDisk {
    const disk = new FaultyDisk({ ...this.#options, seed: this.#random.next(), faults: this.faults }, root)
    disk.room = this.room
    // Numbers go on, so that what is unsettled stays in order.
    disk.#operations = this.#operations
    return disk
  }

  #walk(names: readonly string[]): Node | undefined {
    let found: Node | undefined = this.#root
    for (const name of names) {
      if (!(found instanceof Folder)) return undefined
      found = found.entries.get(name)
    }
    return found
  }

  #parentOf(path: string): [Folder, string] {
    const names = namesOf(path)
    const name = names.pop()
    if (name === undefined) throw failure('EISDIR', path, 'is a folder')
    const parent = this.#walk(names)
    if (!(parent instanceof Folder)) throw failure('ENOENT', path, 'lies in a folder that does not exist')
    return [parent, name]
  }
}

/** Moves what is durable from the front of the operations into the base. */
function settleEntries(folder: Folder): void {
  let count = 0
  for (const entry of folder.operations) {
    if (entry.unsynced.size > 0) break
    entry.apply(folder, folder.base)
    count += 1
  }
  folder.operations = folder.operations.slice(count)
}

/** The tree as it is found after a power cut. */
function survivorOf(root: Folder, random: Random): Folder {
  const fates = new Map<EntryOperation, boolean>()
  const mode = random.pick(['none', 'all', 'any', 'any'] as const)
  const survives = (entry: EntryOperation): boolean => {
    if (entry.unsynced.size === 0) return true
    const fate = fates.get(entry) ?? (mode === 'any' ? random.chance(0.5) : mode === 'all')
    fates.set(entry, fate)
    return fate
  }
  const visit = (folder: Folder): Folder => {
    const entries = new Map(folder.base)
    for (const entry of folder.operations) if (survives(entry)) entry.apply(folder, entries)
    const found = new Map<string, Node>()
    for (const [name, node] of entries) {
      found.set(name, node instanceof Folder ? visit(node) : node.survivor(random))
    }
    return new Folder(found)
  }
  return visit(root)
}

function* filesIn(folder: Folder, path: string): Generator<{ path: string; node: FaultyInode }> {
  for (const [name, node] of folder.entries) {
    const nodePath = path + name
    if (node instanceof Folder) yield* filesIn(node, nodePath + sep)
    else yield { path: nodePath, node }
  }
}

/** Resolved from the root, so that a run does not depend on where it is started. */
function namesOf(path: string): string[] {
  return resolve('/', path)
    .split(sep)
    .slice(1)
    .filter(name => name !== '')
}

function failure(code: string, path: string, what: string): DiskError {
  return new DiskError(code, path, `${path} ${what}`)
}
