/**
 * One process at a time per data directory.
 *
 *     DIR/lock           empty, never removed: the operating system's own lock is held on it
 *     DIR/lock.holder    {"pid":4711,"host":"mill","since":"2025-…Z"}: only so that a refusal can name the holder
 *
 * Why a lock of the operating system and not a file with a process id. Such a file outlives a killed process, and somebody has
 * to judge whether its writer is alive. Process ids are used again; those of another container or host mean nothing here; and a
 * container that was killed and started again has a new host name and the same id, so a careful judge refuses it and a
 * careless one lets two processes in. Two who find the same stale file have to be kept from both taking it. The system's
 * lock has none of this: the kernel takes it in one step, holds it for as long as the process lives, whatever container it is in, and
 * gives it up when the process dies in whatever way.
 *
 * Node offers no file lock, but it carries SQLite, whose exclusive transaction on a database file is one: fcntl locks on
 * POSIX (also over NFS, where the server keeps them), LockFileEx on Windows. The database is empty and stays so; nothing is ever
 * written to it. SQLite also keeps worker threads of one process apart, which bare fcntl locks do not.
 *
 * The holder's name is written after the lock is taken, so for an instant a refusal may name the one before, or nobody.
 *
 * To be kept: nothing in this process opens `lock` by another way, since closing any descriptor of a file gives up all fcntl locks
 * that the process has on it. And `lock` is never removed: who had it open already and who makes it anew would both hold "the" lock.
 */

import fs from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import type { DatabaseSync } from 'node:sqlite'
import { SluiceError } from '../errors.ts'
import { systemClock } from './clock.ts'
import { DiskError } from './disk.ts'

interface Holder {
  readonly pid: number
  readonly host: string
  /** When it took the directory, ISO 8601. */
  readonly since: string
}

/** By real path. Also keeps the databases from being collected, which would close them. */
const held = new Map<string, { readonly database: DatabaseSync; readonly holder: Holder }>()

/**
 * Takes the existing directory `path` for this process, until what is returned is called or the process ends. Throws
 * `DIRECTORY_IN_USE` with the holder in its detail, or a `DiskError` where there is no such directory or it cannot be locked.
 */
export function takeDirectory(path: string): () => void {
  const directory = realPath(path)
  const own = held.get(directory)
  if (own !== undefined) {
    throw inUse(path, own.holder, 'is already open in this process; close it first')
  }
  const holderPath = join(directory, 'lock.holder')
  const database = lockFile(directory)
  if (database === null) {
    const holder = readHolder(holderPath)
    throw inUse(path, holder, `is in use by ${nameOf(holder)}; stop it, or open another directory`)
  }
  const holder = { pid: process.pid, host: os.hostname(), since: new Date(systemClock.now()).toISOString() }
  held.set(directory, { database, holder })
  writeHolder(holderPath, holder)
  return () => {
    if (held.get(directory)?.database !== database) return
    held.delete(directory)
    try {
      fs.rmSync(holderPath, { force: true })
    } finally {
      database.close()
    }
  }
}

/** Null when another process has it. */
function lockFile(directory: string): DatabaseSync | null {
  const { DatabaseSync } = sqlite()
  let database: DatabaseSync | undefined
  try {
    database = new DatabaseSync(join(directory, 'lock'))
    // In memory: otherwise the transaction makes a journal file beside the lock.
    database.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE')
    return database
  } catch (error) {
    database?.close()
    const code = (error as { errcode?: number }).errcode ?? 0
    if ((code & 0xff) === SQLITE_BUSY) return null
    const message = `lock ${directory}: ${(error as Error).message} (SQLite ${code}); the directory must be writable and its file system must offer file locks`
    throw new DiskError('ENOLCK', directory, message, error)
  }
}

const SQLITE_BUSY = 5

/**
 * Node 22 warns on standard error that SQLite is experimental. What we use of it is a lock, and nothing that a user could do
 * anything about, so the warning is kept back for the moment of loading.
 */
function sqlite(): typeof import('node:sqlite') {
  const { emitWarning } = process
  process.emitWarning = () => {}
  try {
    const module: typeof import('node:sqlite') | undefined = process.getBuiltinModule('node:sqlite')
    if (module !== undefined) return module
  } finally {
    process.emitWarning = emitWarning
  }
  throw new SluiceError(
    'UNSUPPORTED',
    'this build of Node has no node:sqlite, which locks data directories; use another build',
  )
}

function inUse(path: string, holder: Holder | null, what: string): SluiceError {
  return new SluiceError('DIRECTORY_IN_USE', `${path} ${what}`, { path, ...holder })
}

function nameOf(holder: Holder | null): string {
  if (holder === null) return 'another process'
  return `process ${holder.pid} on ${holder.host} since ${holder.since}`
}

function readHolder(path: string): Holder | null {
  try {
    const { pid, host, since } = JSON.parse(fs.readFileSync(path, 'utf8'))
    return { pid, host, since }
  } catch {
    return null
  }
}

/** A full disk must not keep anyone from opening the directory, to delete something for example. */
function writeHolder(path: string, holder: Holder): void {
  try {
    fs.writeFileSync(path, `${JSON.stringify(holder)}\n`)
  } catch {
    fs.rmSync(path, { force: true })
  }
}

function realPath(path: string): string {
  try {
    return fs.realpathSync(path)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'EIO'
    throw new DiskError(code, path, `lock ${path}: ${(error as Error).message}`, error)
  }
}
