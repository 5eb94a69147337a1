/**
 * `sluice dump`: what segment files hold, batch by batch. Works on the files themselves: no lock, no engine, nothing is
 * changed. Of a directory in use it shows the state of the moment.
 */

import { lstatSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { SluiceError } from '../errors.ts'
import { nodeDisk } from '../lib/disk-node.ts'
import { type DumpedBatch, type DumpedRecord, type DumpLine, dumpFile } from '../log/inspect.ts'
import { headersJson, textJson, valueJson } from '../server/message-json.ts'
import { type Context, exitCodes, type Run } from './context.ts'

/** Output is handed over in pieces of about this size. */
const CHUNK_CHARACTERS = 64 * 1024

export const dump: Run = async (context, invocation) => {
  const disk = nodeDisk()
  const records = invocation.has('records')
  const isJson = invocation.has('json')
  const files = invocation.operands.flatMap(segmentFiles)
  let damaged = 0
  for (const file of files) {
    const output = new ChunkedOutput(context)
    if (!isJson) await output.write(`${file}\n`)
    for (const line of dumpFile(disk, file, { records })) {
      if (line.kind === 'damage') damaged++
      await output.write(isJson ? lineJson(file, line) : lineText(line))
    }
    await output.end()
  }
  if (damaged > 0) context.note(`damaged places: ${damaged}`)
  return damaged > 0 ? exitCodes.failure : exitCodes.ok
}

/** The file itself, or every log of a folder and those below it. Throws `INVALID_ARGUMENT`. */
function segmentFiles(path: string): string[] {
  let isDirectory: boolean
  try {
    isDirectory = lstatSync(path).isDirectory()
  } catch (error) {
    throw new SluiceError('INVALID_ARGUMENT', `cannot read ${path}: ${(error as Error).message}`, { path })
  }
  if (!isDirectory) return [path]
  const files = readdirSync(path, { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && /^\d{20}\.log$/.test(entry.name))
    .map(entry => join(entry.parentPath, entry.name))
    .sort()
  if (files.length === 0)
    throw new SluiceError('FOREIGN_FILE', `${path}: there are no segment files in it`, { path })
  return files
}

class ChunkedOutput {
  readonly #context: Context
  #pending = ''

  constructor(context: Context) {
    this.#context = context
  }

  async write(text: string): Promise<void> {
    this.#pending += text
    if (this.#pending.length >= CHUNK_CHARACTERS) await this.end()
  }

  async end(): Promise<void> {
    const text = this.#pending
    this.#pending = ''
    if (text !== '') await this.#context.write(text)
  }
}

function lineText(line: DumpLine): string {
  switch (line.kind) {
    case 'batch':
      return batchText(line) + (line.records ?? []).map(record => `      ${recordJson(record)}\n`).join('')
    case 'damage': {
      const resumes = line.resumesAt < 0 ? 'nothing readable follows' : `readable again at ${line.resumesAt}`
      return `  @${line.position} DAMAGED: ${line.wrong}; ${resumes}\n`
    }
    case 'offset-entry':
      return `  offset ${line.offset} @${line.value}\n`
    case 'time-entry':
      return `  offset ${line.offset} ${time(line.value)}\n`
  }
}

function batchText(batch: DumpedBatch): string {
  const parts = [
    `@${batch.position}`,
    `offsets ${batch.baseOffset}..${batch.lastOffset}`,
    `${batch.count} records`,
    `${batch.bytes} bytes`,
    `max time ${time(batch.maxTimestamp)}`,
  ]
  if (batch.compression !== 'none') parts.push(batch.compression)
  if (batch.producerId >= 0) {
    parts.push(`producer ${batch.producerId} epoch ${batch.producerEpoch} sequence ${batch.baseSequence}`)
  }
  if (batch.transactional) parts.push('transactional')
  if (batch.control) parts.push('control')
  return `  ${parts.join(', ')}\n`
}

function time(timestamp: number): string {
  const date = new Date(timestamp)
  return Number.isNaN(date.getTime()) ? String(timestamp) : date.toISOString()
}

function recordJson({ offset, timestamp, key, value, headers }: DumpedRecord): string {
  return `{"offset":${offset},"timestamp":${timestamp},"key":${textJson(key)},"value":${valueJson(value)},"headers":${headersJson(headers)}}`
}

function lineJson(file: string, line: DumpLine): string {
  if (line.kind !== 'batch' || line.records === undefined) return `${JSON.stringify({ file, ...line })}\n`
  const { records, ...batch } = line
  const text = JSON.stringify({ file, ...batch })
  return `${text.slice(0, -1)},"records":[${records.map(recordJson).join(',')}]}\n`
}
