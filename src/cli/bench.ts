/** `sluice bench`: takes the figures of src/bench and prints them. How they are taken is said there, what they mean in bench/README.md. */

import { writeFileSync } from 'node:fs'
import {
  type BenchOptions,
  type BenchReport,
  type BenchRow,
  listScenarios,
  type OpenReport,
  runBench,
} from '../bench/bench.ts'
import { SluiceError } from '../errors.ts'
import { version } from '../server/version.ts'
import { type Context, exitCodes, type Run } from './context.ts'
import { byteSize, type Cell, count, table } from './output.ts'

export const bench: Run = async (context, invocation) => {
  if (invocation.has('list')) {
    const rows = listScenarios().map(({ name, how }) => [name, how])
    await context.write(table(['SCENARIO', 'HOW'], rows))
    return exitCodes.ok
  }
  const bytes = invocation.list('bytes').map(readSize)
  const file = invocation.text('json')
  const report = await runBench({
    only: invocation.list('only'),
    quick: invocation.has('quick'),
    messages: invocation.number('messages'),
    rounds: invocation.number('rounds'),
    directory: invocation.text('dir'),
    ...(bytes.length > 0 ? { bytes } : {}),
    onProgress: progressTo(context),
    signal: context.interruption(),
  })
  if (context.io.stderrIsTerminal) context.io.stderr.write(CLEAR_LINE)
  if (file !== undefined) writeReport(file, report)
  await context.write(reportText(report))
  return context.interruptedWith ?? exitCodes.ok
}

function writeReport(file: string, report: BenchReport): void {
  try {
    writeFileSync(file, `${JSON.stringify({ sluice: version, ...report }, null, 2)}\n`)
  } catch (error) {
    throw new SluiceError('INVALID_ARGUMENT', `cannot write ${file}: ${(error as Error).message}`, { file })
  }
}

function readSize(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new SluiceError('INVALID_ARGUMENT', `--bytes: ${JSON.stringify(text)} is not a number of bytes`)
}

const CLEAR_LINE = '\r\u001b[K'

/** One line that is written over, for whoever watches. */
function progressTo({ io }: Context): BenchOptions['onProgress'] {
  return ({ done, total, scenario, bytes }) => {
    if (io.stderrIsTerminal)
      io.stderr.write(`${CLEAR_LINE}${done + 1}/${total}  ${scenario}, ${count(bytes)} bytes`)
  }
}

function reportText(report: BenchReport): string {
  const { machine, rows, load } = report
  const head = [
    `sluice ${version}, ${report.startedAt}, ${count(report.seconds)} s${report.isQuick ? ', quick' : ''}`,
    `${machine.cpu}, ${machine.cores} cores, ${byteSize(machine.memoryBytes)}, ${machine.system}, Node ${machine.node}`,
    `files on ${machine.fileSystem}; load ${load.before} before, ${load.after} after`,
    ...warningsOf(report).map(text => `note: ${text}`),
  ]
  const sections = [...new Set(rows.map(({ bytes }) => bytes))].map(bytes =>
    table([`${count(bytes)} BYTES`, ...HEADINGS], rows.filter(row => row.bytes === bytes).map(rowCells)),
  )
  if (report.open !== null) sections.push(openText(report.open))
  if (rows.length > 0) sections.push(LEGEND)
  return [`${head.join('\n')}\n`, ...sections].join('\n')
}

const HEADINGS = [
  'MESSAGES/S',
  'RANGE',
  'CPU NS',
  'MB/S',
  'OF LIMIT',
  'LIMIT',
  'P50 MS',
  'P99 MS',
  'RSS',
  'PEAK',
  'WANTED',
]

const LEGEND = `MESSAGES/S and MB/S (10^6 bytes of values) are the median of the rounds, RANGE in thousands goes from the slowest to the
fastest. CPU NS: processor time of the thread for a message, which a busy machine hardly changes. OF LIMIT: against plain
code that does the least for the same bytes, in turns with it in the same process. P50 and P99: of one send() that is
waited for. RSS: memory of the process after the last round, PEAK: the most it had. Writes without a sync go to the page
cache, whose speed varies with what the system writes back: compare with the limit beside them, not with another run.
How each is measured: sluice bench --list
`

function warningsOf({ machine, load, rows }: BenchReport): string[] {
  const warnings: string[] = []
  if (machine.fileSystem === 'tmpfs') {
    warnings.push(
      'the files are in memory (tmpfs), where a sync costs nothing; name a folder on a disk with --dir',
    )
  }
  if (load.before > machine.cores / 2) warnings.push('the machine was busy when this began: figures are low')
  const uncertain = rows.filter(({ rate }) => rate.perSecondMax > 2 * rate.perSecondMin).length
  if (uncertain > 0)
    warnings.push(
      `in ${uncertain} of ${rows.length} rows the fastest round took less than half as long as the slowest`,
    )
  return warnings
}

function rowCells(row: BenchRow): Cell[] {
  const { scenario, rate, megabytesPerSecond, limit, latencyMs, memory, target } = row
  return [
    scenario,
    count(rate.perSecond),
    `${count(rate.perSecondMin / 1000)}-${count(rate.perSecondMax / 1000)}`,
    count(rate.cpuNs),
    megabytesPerSecond < 10 ? megabytesPerSecond : count(megabytesPerSecond),
    limit && (limit.ratio >= 2 ? `${limit.ratio.toFixed(1)} x` : `${Math.round(limit.ratio * 100)}%`),
    limit?.scenario ?? null,
    latencyMs?.p50.toFixed(2) ?? null,
    latencyMs?.p99.toFixed(2) ?? null,
    byteSize(memory.rssBytes),
    byteSize(memory.peakBytes),
    target && `${target.text} ${target.isMet ? 'met' : 'MISSED'}`,
  ]
}

function openText(open: OpenReport): string {
  const rows: Cell[][] = [
    [count(open.messages), open.openMs, byteSize(open.idleRssBytes), byteSize(open.idleHeapBytes)],
    ['0', open.emptyOpenMs, byteSize(open.emptyIdleRssBytes), byteSize(open.emptyIdleHeapBytes)],
  ]
  const title = `open: ${open.partitions} partitions, values of ${count(open.bytes)} bytes, after a clean stop`
  return `${title}\n${table(['MESSAGES', 'OPEN MS', 'IDLE RSS', 'IDLE HEAP'], rows)}`
}
