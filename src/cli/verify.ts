/**
 * `sluice verify`: reads every byte of a data directory and says what is wrong with it. Changes nothing, takes no lock; best
 * run on a directory that nobody has open, for otherwise it sees writes half done.
 */

import { existsSync } from 'node:fs'
import { SluiceError } from '../errors.ts'
import { nodeDisk } from '../lib/disk-node.ts'
import { type LogVerification, verifyLog } from '../log/inspect.ts'
import { exitCodes, type Run } from './context.ts'
import { byteSize, count } from './output.ts'

export const verify: Run = async (context, invocation) => {
  const disk = nodeDisk()
  const totals = { logs: 0, segments: 0, records: 0, bytes: 0, errors: 0, notes: 0 }
  for (const directory of logDirectories(disk, invocation.operands[0])) {
    const verification = verifyLog(disk, directory)
    const errors = verification.findings.filter(({ severity }) => severity === 'error').length
    totals.logs++
    totals.segments += verification.segments
    totals.records += verification.records
    totals.bytes += verification.bytes
    totals.errors += errors
    totals.notes += verification.findings.length - errors
    await context.write(
      invocation.has('json') ? `${JSON.stringify(verification)}\n` : findingsText(verification),
    )
  }
  const { logs, segments, records, bytes, errors, notes } = totals
  const outcome =
    errors === 0 ? 'no damage' : `DAMAGED in ${count(errors)} ${errors === 1 ? 'place' : 'places'}`
  const noted = notes === 0 ? '' : `, ${count(notes)} ${notes === 1 ? 'note' : 'notes'}`
  context.note(
    `${outcome}${noted}: ${count(logs)} partitions, ${count(segments)} segments, ${count(records)} records, ${byteSize(bytes)} read`,
  )
  return errors > 0 ? exitCodes.failure : exitCodes.ok
}

function findingsText({ findings }: LogVerification): string {
  return findings
    .map(({ severity, file, position, message }) => `${severity}  ${file} @${position}: ${message}\n`)
    .join('')
}

/** Every partition of a data directory, or the one that is named. Throws `NOT_A_DATA_DIRECTORY`. */
function logDirectories(disk: ReturnType<typeof nodeDisk>, path: string): string[] {
  if (!existsSync(path)) {
    throw new SluiceError('NOT_A_DATA_DIRECTORY', `there is no data directory at ${path}`, { path })
  }
  const names = disk.list(path)
  if (names.includes('sluice.json')) return disk.list(`${path}/topics`).map(name => `${path}/topics/${name}`)
  if (names.some(name => /^\d{20}\.log$/.test(name))) return [path]
  throw new SluiceError(
    'NOT_A_DATA_DIRECTORY',
    `${path} is neither a data directory nor a partition of one`,
    { path },
  )
}
