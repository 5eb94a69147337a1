/**
 * The job that the first release is for, on real input and through the published package alone: package records as JSON
 * lines go through `sluice produce`, keyed by name, into eight partitions, and are read by a group of three members; the
 * producing and the consuming process are each killed half way.
 *
 * The moment of a kill is chosen by what the process has acknowledged on its standard output. It cannot be more than a
 * pipe's content ahead of us, so it is killed half way however slow the machine is.
 */

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Outcome, PublishedPackage } from '../docs/published-package.ts'
import { generatedList, packageList } from './package-list.ts'

const PARTITIONS = 8
/** As in examples/debian-packages/consume.ts. */
const COMMIT_EVERY = 25
const TEXT_BYTES_MAX = 512 * 1024 * 1024

const list = await packageList()
let sluice: PublishedPackage
let example: string
let data: string

beforeAll(async () => {
  sluice = await PublishedPackage.install()
  example = sluice.copy('examples/debian-packages')
  data = join(sluice.path, 'data')
})
afterAll(() => sluice?.[Symbol.dispose]())

test('json-lines.ts makes one object of each record, with all of its fields and all of their lines', () => {
  const text = generatedList(500)
  const records = jsonLines(text).map(line => JSON.parse(line) as Record<string, string>)
  const restored = records.map(fields =>
    Object.entries(fields)
      .map(([name, value]) => `${name}: ${value.replaceAll('\n', '\n ')}`)
      .join('\n'),
  )
  expect(`${restored.join('\n\n')}\n\n`).toBe(text)
})

test('records of one key that repeat stay in one partition and in order, whoever reads them', async () => {
  const lines = jsonLines(generatedList(3_000))
  const keyOf = (line: string) => JSON.parse(line).Package as string
  expect(new Set(lines.map(keyOf)).size).toBeLessThan(lines.length * 0.7)
  await command('topic', 'create', 'repeating', '--partitions', String(PARTITIONS))
  expect((await publish('repeating', inputFile('repeating.jsonl', lines))).places.size).toBe(lines.length)

  const { handled } = await consume('repeating')
  expectInOrderOf(lines, handled)
  const partitions = new Map<string, Set<number>>()
  for (const { record, partition } of handled) {
    const key = keyOf(record)
    partitions.set(key, (partitions.get(key) ?? new Set()).add(partition))
  }
  expect([...partitions.values()].filter(({ size }) => size > 1)).toEqual([])
})

describe(`package lists (${list.source})`, () => {
  test('killed half way through publishing and through consuming: nothing acknowledged is missing, nothing committed is handled again', async () => {
    const lines = jsonLines(list.text)
    await command('topic', 'create', 'packages', '--partitions', String(PARTITIONS))

    const accepted = await publishKilledHalfWay(lines)

    const half = Math.floor(lines.length / 2)
    const first = await consume('packages', half)
    expect(first.signal).toBe('SIGKILL')
    const second = await consume('packages')
    expect(second).toMatchObject({ code: 0, stderr: '' })
    const third = await consume('packages')
    expect(third).toMatchObject({ code: 0, handled: [] })

    const handled = [...first.handled, ...second.handled]
    expectAtTheirPlaces(accepted, handled)
    for (let partition = 0; partition < PARTITIONS; partition++)
      expectNoCommittedAgain(partition, first, second)
    expectInOrderOf(lines, handled)

    expect((await command('verify', data)).stderr).toContain('no damage')
  }, 120_000)
})

/** Publishes half of the lines, is killed, and publishes what was not acknowledged. Where each line was accepted: `partition offset`. */
async function publishKilledHalfWay(lines: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const input = inputFile('packages.jsonl', lines)
  const first = await publish('packages', input, Math.floor(lines.length / 2))
  expect(first.signal).toBe('SIGKILL')
  expect(first.places.size).toBeLessThan(lines.length)

  const log = join(sluice.path, 'acked.log')
  writeFileSync(log, first.stdout)
  const rest = linesOf(
    execFileSync('sh', [join(example, 'unacknowledged.sh'), log, input], {
      maxBuffer: TEXT_BYTES_MAX,
    }).toString(),
  )
  expect(rest.length).toBe(lines.length - first.places.size)

  const second = await publish('packages', inputFile('rest.jsonl', rest))
  expect(second).toMatchObject({ code: 0, signal: null })
  const accepted = new Map([...first.places].map(([line, place]) => [lines[line - 1], place]))
  for (const [line, place] of second.places) accepted.set(rest[line - 1], place)
  expect(accepted.size).toBe(new Set(lines).size)
  return accepted
}

/** `places`: where each line, counted from 1, was acknowledged to be. */
async function publish(
  topic: string,
  input: string,
  killAfter = Number.POSITIVE_INFINITY,
): Promise<Outcome & { readonly places: ReadonlyMap<number, string> }> {
  const args = ['produce', topic, input, '--json', '--key-field', 'Package', '--ack-log', '-', '--url', data]
  const count = lineCounter()
  const outcome = await sluice.run(sluice.command, args, (text, child) => {
    if (count(text) >= killAfter) child.kill('SIGKILL')
  })
  const places = linesOf(outcome.stdout).map(line => {
    const [, number, place] = /^(\d+) (\d+ \d+)$/.exec(line)!
    return [Number(number), place] as const
  })
  return { ...outcome, places: new Map(places) }
}

interface Handled {
  readonly partition: number
  readonly offset: number
  readonly record: string
}

interface Consumption extends Outcome {
  /** What this run handled: of each member in the order in which it did so. */
  readonly handled: readonly Handled[]
  /** By partition, what had been acknowledged as committed. */
  readonly committed: ReadonlyMap<number, number>
}

async function consume(topic: string, killAfter = Number.POSITIVE_INFINITY): Promise<Consumption> {
  const output = join(sluice.path, 'output', topic)
  const sizes = outputSizes(output)
  const count = lineCounter()
  const outcome = await sluice.run(join(example, 'consume.ts'), [data, output, topic], (text, child) => {
    // a line is a commit of so many messages, or of fewer
    if (count(text) * COMMIT_EVERY >= killAfter) child.kill('SIGKILL')
  })
  const committed = new Map<number, number>()
  for (const line of linesOf(outcome.stdout)) {
    const [partition, offset] = line.replace('committed ', '').split(' ').map(Number)
    expect(offset).toBeGreaterThan(committed.get(partition) ?? 0) // one member after the other, each further than the one before
    committed.set(partition, offset)
  }
  return { ...outcome, committed, handled: readOutput(output, sizes) }
}

/** Complete lines of the members' files from these sizes on; half a line that a kill has left does not count. */
function readOutput(output: string, sizes: ReadonlyMap<string, number>): Handled[] {
  return [...outputSizes(output).keys()].flatMap(name => {
    const bytes = readFileSync(join(output, name)).subarray(sizes.get(name) ?? 0)
    return linesOf(bytes.toString()).map(line => {
      const [, partition, offset, record] = /^\{"partition":(\d+),"offset":(\d+),"record":(.*)\}$/.exec(line)!
      return { partition: Number(partition), offset: Number(offset), record }
    })
  })
}

/** By file, the bytes of complete lines. */
function outputSizes(output: string): Map<string, number> {
  const names = existsSync(output) ? readdirSync(output).sort() : []
  return new Map(names.map(name => [name, readFileSync(join(output, name)).lastIndexOf('\n') + 1]))
}

/** Every acknowledged line was handled, from the very place that its acknowledgement named. */
function expectAtTheirPlaces(accepted: ReadonlyMap<string, string>, handled: readonly Handled[]): void {
  const records = new Map(handled.map(({ partition, offset, record }) => [`${partition} ${offset}`, record]))
  expect([...accepted].filter(([line, place]) => records.get(place) !== line)).toEqual([])
}

/**
 *     0 ───────────── committed ── handled by the first run ── end
 *                     └─ repeated ─┘
 *                     └─ handled by the second run ────────────┘
 */
function expectNoCommittedAgain(partition: number, first: Consumption, second: Consumption): void {
  const offsetsOf = ({ handled }: Consumption) =>
    handled.filter(one => one.partition === partition).map(({ offset }) => offset)
  const committed = first.committed.get(partition) ?? 0
  const [before, after] = [offsetsOf(first), offsetsOf(second)]
  // no hole and nothing twice within a run
  expect([...before].sort((one, other) => one - other)).toEqual(range(0, before.length))
  const resumedAt = Math.min(before.length, ...after)
  expect([...after].sort((one, other) => one - other)).toEqual(range(resumedAt, resumedAt + after.length))
  // a commit may have been stored and its acknowledgement not been seen, never the other way round
  expect(resumedAt).toBeGreaterThanOrEqual(committed)
  expect(before.length - resumedAt).toBeLessThanOrEqual(COMMIT_EVERY)
}

/**
 * The same set of records, and those of a partition (hence those of a key) in the order of the input. A record that was stored and not yet
 * acknowledged at the kill has been published a second time: its first place counts.
 */
function expectInOrderOf(lines: readonly string[], handled: readonly Handled[]): void {
  const numbers = new Map(lines.map((line, number) => [line, number]))
  const seen = new Set<string>()
  const last = new Map<number, number>()
  const disorder: Handled[] = []
  for (const one of [...handled].sort((one, other) => one.offset - other.offset)) {
    if (seen.has(one.record)) continue
    seen.add(one.record)
    const number = numbers.get(one.record) ?? -1
    if (number <= (last.get(one.partition) ?? -1)) disorder.push(one)
    last.set(one.partition, number)
  }
  expect(disorder).toEqual([])
  expect(seen.size).toBe(numbers.size)
}

async function command(...args: string[]): Promise<Outcome> {
  const outcome = await sluice.run(sluice.command, args[0] === 'verify' ? args : [...args, '--url', data])
  expect(outcome.code, outcome.stderr).toBe(0)
  return outcome
}

function jsonLines(text: string): string[] {
  const script = join(example, 'json-lines.ts')
  const output = execFileSync(process.execPath, [script], { input: text, maxBuffer: TEXT_BYTES_MAX })
  return linesOf(output.toString())
}

function inputFile(name: string, lines: readonly string[]): string {
  const path = join(sluice.path, name)
  writeFileSync(path, lines.map(line => `${line}\n`).join(''))
  return path
}

/** Complete lines. */
const linesOf = (text: string): string[] => text.split('\n').slice(0, -1)

const range = (from: number, end: number): number[] =>
  Array.from({ length: end - from }, (_, index) => from + index)

/** Counts the lines of a text that grows. */
function lineCounter(): (text: string) => number {
  let count = 0
  let at = 0
  return text => {
    for (let next = text.indexOf('\n', at); next >= 0; next = text.indexOf('\n', at)) {
      count++
      at = next + 1
    }
    return count
  }
}
