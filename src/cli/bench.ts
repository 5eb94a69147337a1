/** `sluice bench`: takes the figures of src/bench and prints them. What they mean, and how they are taken, is said there. */

import { writeFileSync } from 'node:fs'
import { type BenchReport, type BenchRow, listScenarios, type OpenReport, runBench } from '../bench/bench.ts'
import { SluiceError } from '../errors.ts'
import { exitCodes, type Run } from './context.ts'
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
    onProgress: ({ done, total, scenario, bytes: size }) => {
      if (context.io.stderrIsTerminal) context.note(`${done + 1}/${total}  ${scenario}, ${size} bytes`)
    },
    signal: context.interruption(),
  })
  if (file !== undefined) writeReport(file, report)
  await context.write(reportText(report))
  return context.interruptedWith ?? exitCodes.ok
}

function writeReport(file: string, report: BenchReport): void {
  try {
    writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
  } catch (error) {
    throw new SluiceError('INVALID_ARGUMENT', `cannot write ${file}: ${(error as Error).message}`, { file })
  }
}

function readSize(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new SluiceError('INVALID_ARGUMENT', `--bytes: ${JSON.stringify(text)} is not a number of bytes`)
}

function reportText({ machine, rows, open, seconds, load, isQuick }: BenchReport): string {
  const parts = [
    `${machine.cpu}, ${machine.cores} cores, ${byteSize(machine.memoryBytes)}, ${machine.system}, ${machine.fileSystem}, Node ${machine.node}\n`,
    `load ${load.before} before, ${load.after} after, ${seconds} s${isQuick ? ', quick: figures vary more' : ''}\n`,
  ]
  for (const bytes of new Set(rows.map(row => row.bytes))) {
    const ofSize = rows.filter(row => row.bytes === bytes)
    const headings = ['SCENARIO', 'MESSAGES/S', 'MB/S', 'OF LIMIT', 'P50 MS', 'P99 MS', 'MEMORY', 'WANTED']
    parts.push(`\nvalues of ${count(bytes)} bytes\n\n`, table(headings, ofSize.map(rowCells)))
  }
  if (open) parts.push(`\n${openText(open)}`)
  return parts.join('')
}

function rowCells({
  scenario,
  rate,
  megabytesPerSecond,
  limit,
  latencyMs,
  memory,
  target,
}: BenchRow): Cell[] {
  return [
    scenario,
    count(rate.perSecond),
    megabytesPerSecond.toFixed(1),
    limit && `${limit.ratio.toFixed(2)} of ${limit.scenario}`,
    latencyMs?.p50.toFixed(3) ?? null,
    latencyMs?.p99.toFixed(3) ?? null,
    byteSize(memory.rssBytes),
    target && `${target.text}${target.isMet ? '' : ' MISSED'}`,
  ]
}

function openText(open: OpenReport): string {
  const opened = `${count(open.messages)} messages in ${open.partitions} partitions (${byteSize(open.bytes)})`
  return [
    `open, ${opened}: ${open.openMs.toFixed(0)} ms (at most ${open.openMsMax.toFixed(0)}); an empty directory: ${open.emptyOpenMs.toFixed(0)} ms\n`,
    `idle memory then: ${byteSize(open.idleRssBytes)}, heap ${byteSize(open.idleHeapBytes)}; empty: ${byteSize(open.emptyIdleRssBytes)}, heap ${byteSize(open.emptyIdleHeapBytes)}\n`,
  ].join('')
}
