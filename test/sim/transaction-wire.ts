/**
 * One life of a broker with its Kafka handlers, for `transaction-simulation.ts`: requests go through the bytes of their version, as
 * over a connection. When the life is over nothing of it is heard any more: no answer, no timer.
 */

import { Broker, type BrokerOptions } from '../../src/broker/broker.ts'
import { ByteReader, ByteWriter } from '../../src/lib/bytes.ts'
import type { Clock, Timer } from '../../src/lib/clock.ts'
import { type Disk, DiskError, type DiskFile } from '../../src/lib/disk.ts'
import { Log } from '../../src/log/log.ts'
import type { RequestContext } from '../../src/server/kafka/handler.ts'
import { createHandlers } from '../../src/server/kafka/handlers.ts'
import { apis } from '../../src/wire/kafka/apis.ts'
import { decode, encode } from '../../src/wire/kafka/codec.ts'
import type { Api, Decoded, Encodable, Fields } from '../../src/wire/kafka/schema.ts'
import { Crashed, type FaultyDisk } from './faulty-disk.ts'
import type { VirtualClock } from './virtual-clock.ts'

type Apis = typeof apis
type FieldsOf<Name extends keyof Apis, Part extends 'request' | 'response'> = Apis[Name][Part]['fields']
export type Answer<Name extends keyof Apis> = Decoded<FieldsOf<Name, 'response'>>
export type Request<Name extends keyof Apis> = Encodable<FieldsOf<Name, 'request'>>

const NODE = { id: 1, host: 'broker.test', port: 9092 }
/** The broker's own logs are written anew at 4 MiB; here that many times less is enough. */
const SHRINK = 1_500

/** The clock of a process: it stops with it. */
class LifeClock implements Clock {
  isOver = false
  readonly #clock: VirtualClock

  constructor(clock: VirtualClock) {
    this.#clock = clock
  }

  now(): number {
    return this.#clock.now()
  }

  monotonic(): number {
    return this.#clock.monotonic()
  }

  after(delayMs: number, run: () => void): Timer {
    return this.#clock.after(delayMs, () => {
      if (!this.isOver) run()
    })
  }

  defer(run: () => void): void {
    this.#clock.defer(() => {
      if (!this.isOver) run()
    })
  }
}

export class Life {
  /** Something on the disk has failed, or will. */
  hasFaults = false
  /** A sync has, or will: what is under way may not come to an end before the next start. */
  isDegraded = false
  /** The broker is being closed: no answer is heard any more. */
  isDeaf = false
  broker!: Broker
  readonly disk: FaultyDisk
  readonly #clock: LifeClock
  readonly #handlers = createHandlers()
  readonly #signal = new AbortController().signal

  constructor(disk: FaultyDisk, clock: VirtualClock) {
    this.disk = disk
    this.#clock = new LifeClock(clock)
  }

  async open(options: Omit<BrokerOptions, 'disk' | 'clock'>, disk: Disk): Promise<void> {
    this.broker = await Broker.open({ ...options, disk: afterlife(disk), clock: this.#clock })
  }

  get isOver(): boolean {
    return this.#clock.isOver || this.disk.isDown
  }

  end(): void {
    this.#clock.isOver = true
  }

  /** Never settles if the life ends before the answer is heard. */
  call<Name extends keyof Apis>(name: Name, version: number, request: Request<Name>): Promise<Answer<Name>> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer<Name>>()
    this.#answer(name, version, request).then(
      answer => {
        if (!this.isOver && !this.isDeaf) resolve(answer)
      },
      error => {
        if (!this.isOver && !this.isDeaf) reject(error)
      },
    )
    return promise
  }

  async #answer<Name extends keyof Apis>(
    name: Name,
    version: number,
    request: Request<Name>,
  ): Promise<Answer<Name>> {
    const api = apis[name] as unknown as Api<Fields, Fields>
    const context: RequestContext = {
      broker: this.broker,
      node: NODE,
      version,
      clientId: 'client',
      connection: { id: 'c', clientHost: '/', signal: this.#signal },
      autoCreateTopics: false,
    }
    const sent = bytesOf(writer => encode(api.request, version, writer, request as Encodable<Fields>))
    const { handle } = this.#handlers.get(api.key)!
    const response = await handle(decode(api.request, version, new ByteReader(sent)), context)
    const answer = bytesOf(writer => encode(api.response, version, writer, response as Encodable<Fields>))
    return decode(api.response, version, new ByteReader(answer)) as Answer<Name>
  }
}

/** What goes on for a moment in a machine that has stopped meets errors that a disk can have. */
function afterlife(disk: Disk): Disk {
  const calm =
    <Args extends unknown[], Result>(call: (...args: Args) => Result) =>
    (...args: Args): Result => {
      try {
        return call(...args)
      } catch (error) {
        throw calmed(error)
      }
    }
  const calmed = (error: unknown): unknown =>
    error instanceof Crashed ? new DiskError('EIO', '/', error.message) : error
  const rethrow = (error: unknown): never => {
    throw calmed(error)
  }
  const calmFile = (file: DiskFile): DiskFile => ({
    path: file.path,
    size: () => file.size(),
    write: calm((bytes, position) => file.write(bytes, position)),
    read: calm((position, bytesMax) => file.read(position, bytesMax)),
    readNow: calm((position, bytesMax) => file.readNow(position, bytesMax)),
    sync: () => file.sync().catch(rethrow),
    truncate: calm(size => file.truncate(size)),
    close: () => file.close(),
  })
  return {
    kind: disk.kind,
    open: calm((path, mode) => calmFile(disk.open(path, mode))),
    list: calm(path => disk.list(path)),
    makeDirectory: calm(path => disk.makeDirectory(path)),
    rename: calm((from, to) => disk.rename(from, to)),
    remove: calm(path => disk.remove(path)),
    syncDirectory: calm(path => disk.syncDirectory(path).catch(rethrow)),
    lock: calm(path => disk.lock(path)),
  }
}

function bytesOf(write: (writer: ByteWriter) => void): Buffer {
  const writer = new ByteWriter()
  write(writer)
  return Buffer.concat(writer.finish().parts)
}

/** Lets the logs of offsets and transactions seem large, so that they are written anew all the time. Returns what takes that back. */
export function shrinkInternalLogs(): () => void {
  const bytes = Object.getOwnPropertyDescriptor(Log.prototype, 'bytes')!
  Object.defineProperty(Log.prototype, 'bytes', {
    configurable: true,
    get(this: Log): number {
      const isShrunk = /__(consumer_offsets|transaction_state)-0$/.test(this.directory)
      return bytes.get!.call(this) * (isShrunk ? SHRINK : 1)
    },
  })
  return () => Object.defineProperty(Log.prototype, 'bytes', bytes)
}
