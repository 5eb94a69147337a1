/**
 * `sluice produce`: lines in, messages out. Each line is sent by itself and acknowledged by itself, so that a refusal has
 * a line number; the producer puts them into batches. What is in flight is bounded, and reading waits when it is full.
 *
 * A refusal that concerns one line (too large, not JSON) is counted and reported, and the rest goes on. Any other (no such topic, a
 * failing disk) would meet every line: it ends the command, once what is in flight has been answered.
 */

import { createReadStream, openSync, statSync, writeSync } from 'node:fs'
import { addAbortSignal, type Readable } from 'node:stream'
import type { Producer } from '../delivery/producer.ts'
import type { Published } from '../delivery/published.ts'
import { rawTopic } from '../delivery/raw-topic.ts'
import type { Acks } from '../engine/engine.ts'
import { type ErrorCode, isSluiceError, SluiceError } from '../errors.ts'
import type { Compression } from '../record/builder.ts'
import { type Context, exitCodes, type Run } from './context.ts'
import { type LineReader, lineReader } from './line-messages.ts'
import { type Line, readLines } from './lines.ts'
import { byteSize, count } from './output.ts'
import { startProgress } from './progress.ts'

const IN_FLIGHT_DEFAULT = 10_000
/** Longest line that is read; the topic's own limit is usually far below. */
const LINE_BYTES_MAX = 64 * 1024 * 1024
/** Refusals that are reported one by one. */
const REFUSALS_SHOWN = 10

/** Refusals that say something about one message, and nothing about the next. */
const lineErrors: ReadonlySet<ErrorCode> = new Set([
  'INVALID_RECORD',
  'INVALID_ARGUMENT',
  'INVALID_TIMESTAMP',
  'MESSAGE_TOO_LARGE',
  'SCHEMA_MISMATCH',
  'CODEC_FAILED',
])

export const produce: Run = async (context, invocation) => {
  const [topic, ...files] = invocation.operands
  const read = lineReader(invocation)
  const inputs = openInputs(context, files)
  const acknowledgements = openAckLog(context, invocation.text('ackLog'))
  const interrupted = context.interruption()
  const sluice = await context.open({ create: true })
  const producer = sluice.producer({
    ...(invocation.text('acks') === undefined ? {} : { acks: invocation.text('acks') as Acks }),
    ...(invocation.text('compression') === undefined
      ? {}
      : { compression: invocation.text('compression') as Compression }),
    ...(invocation.number('batch') === undefined ? {} : { batchCountMax: invocation.number('batch') }),
  })
  const inFlightMax = Math.max(1, invocation.number('inFlight') ?? IN_FLIGHT_DEFAULT)
  const publication = new Publication(topic, producer, inFlightMax, acknowledgements)
  const bytesTotal = inputs.every(({ bytes }) => bytes !== undefined)
    ? inputs.reduce((total, { bytes }) => total + bytes!, 0)
    : undefined
  const progress = await startProgress(context.io, bytesTotal)
  const started = performance.now()
  try {
    for (const input of inputs) {
      const stream = addAbortSignal(interrupted, input.open())
      await publishLines(publication, read, stream, input.name, bytes =>
        progress.advance(bytes, publication.acknowledged),
      )
      if (interrupted.aborted || publication.failure) break
    }
    await publication.settled()
  } finally {
    progress.stop()
    acknowledgements.flush()
  }
  return report(context, publication, topic, performance.now() - started)
}

/** Ends early, without an error, when the input was aborted or the publication has failed as a whole. */
async function publishLines(
  publication: Publication,
  read: LineReader,
  stream: Readable,
  name: string,
  onBytes: (bytes: number) => void,
): Promise<void> {
  try {
    for await (const lines of readLines(stream, LINE_BYTES_MAX, onBytes)) {
      for (const line of lines) {
        if (publication.isFull) await publication.room()
        publication.send(line, read, name)
      }
      if (publication.failure) return
    }
  } catch (error) {
    if ((error as Error).name !== 'AbortError') throw error
  }
}

/** Everything sent by one run, and what became of it. */
class Publication {
  acknowledged = 0
  refused = 0
  bytes = 0
  readonly refusals: string[] = []
  /** What made going on pointless. */
  failure: SluiceError | undefined
  readonly #topic: ReturnType<typeof rawTopic>
  readonly #producer: Producer
  readonly #inFlightMax: number
  readonly #acknowledgements: AckLog
  #inFlight = 0
  /** Over all inputs: what the acknowledgement log counts by. */
  #lines = 0
  #wake: (() => void) | undefined

  constructor(topic: string, producer: Producer, inFlightMax: number, acknowledgements: AckLog) {
    this.#topic = rawTopic(topic)
    this.#producer = producer
    this.#inFlightMax = inFlightMax
    this.#acknowledgements = acknowledgements
  }

  get isFull(): boolean {
    return this.#inFlight >= this.#inFlightMax
  }

  /** Resolves when less is in flight than allowed. */
  async room(): Promise<void> {
    while (this.isFull) await this.#change()
  }

  /** Resolves when everything sent has been answered. */
  async settled(): Promise<void> {
    while (this.#inFlight > 0) await this.#change()
  }

  send(line: Line, read: LineReader, input: string): void {
    const number = ++this.#lines
    const where = { input, line: line.number }
    let message: ReturnType<LineReader>
    try {
      message = read(withinLimit(line))
    } catch (error) {
      if (!isSluiceError(error)) throw error
      this.#refuse(where, error)
      return
    }
    if (message === null) return
    const bytes = (message.key?.length ?? 0) + (message.value?.length ?? 0)
    this.#inFlight++
    this.#producer.send(this.#topic, message).then(
      published => {
        this.acknowledged++
        this.bytes += bytes
        this.#acknowledgements.add(number, published)
        this.#settle()
      },
      error => {
        this.#refuse(where, error)
        this.#settle()
      },
    )
  }

  #refuse({ input, line }: { input: string; line: number }, error: unknown): void {
    this.refused++
    const refusal = isSluiceError(error) ? error : new SluiceError('INTERNAL', String(error), {}, error)
    if (!lineErrors.has(refusal.code)) this.failure ??= refusal
    else if (this.refusals.length < REFUSALS_SHOWN) {
      this.refusals.push(`${refusal.code}: ${input}:${line}: ${refusal.message}`)
    }
  }

  #settle(): void {
    this.#inFlight--
    const wake = this.#wake
    this.#wake = undefined
    wake?.()
  }

  #change(): Promise<void> {
    return new Promise(resolve => {
      this.#wake = resolve
    })
  }
}

function withinLimit({ bytes }: Line): Buffer {
  if (bytes !== null) return bytes
  throw new SluiceError('MESSAGE_TOO_LARGE', `the line is longer than ${byteSize(LINE_BYTES_MAX)}`)
}

function report(context: Context, publication: Publication, topic: string, tookMs: number): number {
  const { acknowledged, refused, refusals, bytes, failure } = publication
  for (const refusal of refusals) context.note(`sluice: ${refusal}`)
  if (refused > refusals.length && !failure) {
    context.note(`sluice: and ${count(refused - refusals.length)} more lines were refused`)
  }
  const seconds = Math.max(tookMs / 1000, 0.001)
  const noun = acknowledged === 1 ? 'message' : 'messages'
  const rates = `${count(acknowledged / seconds)}/s, ${byteSize(bytes / seconds)}/s`
  const refusedNote = refused > 0 ? `, ${count(refused)} refused` : ''
  context.note(`published ${count(acknowledged)} ${noun} to ${topic} (${rates})${refusedNote}`)
  if (failure) throw failure
  return context.interruptedWith ?? (refused > 0 ? exitCodes.failure : exitCodes.ok)
}

interface Input {
  readonly name: string
  /** undefined: not known beforehand. */
  readonly bytes: number | undefined
  open(): Readable
}

/** Throws `INVALID_ARGUMENT` before anything is published if a file cannot be read. */
function openInputs(context: Context, files: readonly string[]): Input[] {
  return (files.length === 0 ? ['-'] : files).map(file => {
    if (file === '-') return { name: 'stdin', bytes: undefined, open: () => context.io.stdin }
    let bytes: number | undefined
    try {
      const stat = statSync(file)
      if (stat.isDirectory()) throw new Error('it is a directory')
      bytes = stat.isFile() ? stat.size : undefined
    } catch (error) {
      throw new SluiceError('INVALID_ARGUMENT', `cannot read ${file}: ${(error as Error).message}`, { file })
    }
    return { name: file, bytes, open: () => createReadStream(file, { highWaterMark: 256 * 1024 }) }
  })
}

interface AckLog {
  add(line: number, published: Published): void
  flush(): void
}

/** Writes what was acknowledged in one turn of the event loop at its end; a message is never listed before it was acknowledged. */
function openAckLog(context: Context, file: string | undefined): AckLog {
  if (file === undefined) return { add() {}, flush() {} }
  const write = file === '-' ? (text: string) => void context.io.stdout.write(text) : appendTo(file)
  let pending = ''
  const flush = () => {
    if (pending !== '') write(pending)
    pending = ''
  }
  return {
    add(line, { partition, offset }) {
      if (pending === '') setImmediate(flush)
      pending += `${line} ${partition} ${offset}\n`
    },
    flush,
  }
}

function appendTo(file: string): (text: string) => void {
  try {
    const descriptor = openSync(file, 'a')
    return text => void writeSync(descriptor, text)
  } catch (error) {
    throw new SluiceError('INVALID_ARGUMENT', `cannot write ${file}: ${(error as Error).message}`, { file })
  }
}
