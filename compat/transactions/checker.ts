/**
 * `checker.ts REQUEST`: whether each input had its effect exactly once. A program of its own; it knows nothing of the run but
 * what is in its request (JSON, `CheckRequest`), and prints its findings as JSON. Exit code 1: something is not as promised.
 *
 *   input    each partition holds its records, committed, in order; nothing is open
 *   output   each partition holds the effects of the same partition of the input: none missing, none twice, in the same order; nothing open
 *   sums     (Kafka Streams) for each key, the count goes 1, 2, 3, …, and the sums are those of the input
 *   reader   librdkafka with read_committed sees at the same offsets the records that the files say are committed, and no others
 *   group    the committed offset of each partition is behind its last record, and stable
 *
 * What is committed it finds out from the files (`log-files.ts`), not from the server.
 */

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { RawClient } from '../raw-client.ts'
import { type LogContent, readPartition } from './log-files.ts'

export interface CheckRequest {
  readonly port: number
  /** The server's data directory. */
  readonly data: string
  readonly input: string
  readonly output: string
  readonly sums: string | null
  readonly group: string
  readonly partitions: number
  /** Records in each partition of the input. */
  readonly count: number
  /** The program that reads as a client does, and its first arguments; null: there is none on this machine. */
  readonly reader: readonly string[] | null
}

export interface Findings {
  readonly records: number
  readonly abortedRecords: number
  readonly commitMarkers: number
  readonly abortMarkers: number
}

async function check(request: CheckRequest): Promise<Findings> {
  const { data, input, output, sums, partitions, count } = request
  const inputs = contentsOf(data, input, partitions)
  const outputs = contentsOf(data, output, partitions)
  for (let partition = 0; partition < partitions; partition++) {
    inOrder(`${input} [${partition}]`, inputs[partition], partition, count)
    inOrder(`${output} [${partition}]`, outputs[partition], partition, count)
  }
  const topics = new Map([
    [input, inputs],
    [output, outputs],
  ])
  if (sums !== null) {
    const contents = contentsOf(data, sums, partitions)
    checkSums(contents, inputs)
    topics.set(sums, contents)
  }
  for (const [topic, contents] of topics) compareReader(request, topic, contents)
  await checkGroup(request, inputs)
  const total = (of: (content: LogContent) => number) =>
    outputs.reduce((sum, content) => sum + of(content), 0)
  return {
    records: total(content => content.committed.length),
    abortedRecords: total(content => content.aborted.length),
    commitMarkers: total(content => content.commitMarkers),
    abortMarkers: total(content => content.abortMarkers),
  }
}

const contentsOf = (data: string, topic: string, partitions: number): LogContent[] =>
  Array.from({ length: partitions }, (_, partition) => readPartition(data, topic, partition))

/** `PARTITION:NUMBER`, whatever follows. */
const effectOf = (value: string | null): string => (value ?? 'null').split('|', 1)[0]

function inOrder(where: string, { committed, open }: LogContent, partition: number, count: number): void {
  assert.equal(open.length, 0, `${where}: ${open.length} records in a transaction that is not ended`)
  const seen = new Map<string, number>()
  for (const [index, { offset, value }] of committed.entries()) {
    const effect = effectOf(value)
    const earlier = seen.get(effect)
    assert.equal(earlier, undefined, `${where}: ${value} at offset ${offset} was there before, at ${earlier}`)
    seen.set(effect, offset)
    const due = `${partition}:${index}`
    assert.equal(effect, due, `${where}: ${value} at offset ${offset}, where ${due} is due`)
  }
  assert.equal(committed.length, count, `${where}: ${committed.length} of ${count} records`)
}

function checkSums(sums: readonly LogContent[], inputs: readonly LogContent[]): void {
  const perKey = new Map<string, number[][]>()
  for (const { committed, open } of sums) {
    assert.equal(open.length, 0, 'sums: records in a transaction that is not ended')
    for (const { key, value } of committed) {
      const [count, sum] = value!.split(' ').map(Number)
      const steps = perKey.get(key!) ?? []
      perKey.set(key!, steps)
      steps.push([count, sum])
      assert.equal(count, steps.length, `sums: ${key} has the count ${count} at its ${steps.length}. update`)
    }
  }
  let count = 0
  let sum = 0
  for (const steps of perKey.values()) {
    const [lastCount, lastSum] = steps.at(-1)!
    count += lastCount
    sum += lastSum
  }
  const numbers = inputs.flatMap(({ committed }) =>
    committed.map(({ value }) => Number(value!.split(':')[1])),
  )
  assert.equal(count, numbers.length, `sums: ${count} of ${numbers.length} records were counted`)
  const total = numbers.reduce((all, number) => all + number, 0)
  assert.equal(sum, total, `sums: they add up to ${sum} instead of ${total}`)
}

function compareReader(
  { port, reader, partitions }: CheckRequest,
  topic: string,
  contents: readonly LogContent[],
): void {
  if (reader === null) return
  const args = [...reader.slice(1), `127.0.0.1:${port}`, topic, `${partitions}`]
  const printed = execFileSync(reader[0], args, { encoding: 'utf8', maxBuffer: 2 ** 30 })
  const seen = Array.from({ length: partitions }, () => [] as string[])
  for (const line of printed.split('\n').filter(Boolean)) {
    seen[Number(line.split(' ', 1)[0])].push(line.slice(line.indexOf(' ') + 1))
  }
  for (const [partition, { committed }] of contents.entries()) {
    const expected = committed.map(({ offset, value }) => `${offset} ${value}`)
    const at = expected.findIndex((line, index) => line !== seen[partition][index])
    const where = `${topic} [${partition}]`
    assert.equal(at, -1, `${where}: a client reads ${seen[partition][at]} where the file has ${expected[at]}`)
    const [extra] = seen[partition].slice(expected.length)
    assert.equal(extra, undefined, `${where}: a client reads ${extra}, which is not committed`)
  }
}

async function checkGroup(request: CheckRequest, inputs: readonly LogContent[]): Promise<void> {
  const committed = await committedOffsets(request.port, request.group)
  for (const [partition, { committed: records }] of inputs.entries()) {
    const offset = committed.get(`${request.input} ${partition}`) ?? -1
    const last = records.at(-1)!.offset
    assert.ok(offset > last, `${request.group} [${partition}] is at ${offset}, the last record at ${last}`)
  }
}

/** By `topic partition`; -1 for what is not stable. */
export async function committedOffsets(port: number, groupId: string): Promise<Map<string, number>> {
  const client = await RawClient.connect(port)
  try {
    const { topics } = await client.request('OffsetFetch', 7, { groupId, topics: null, requireStable: true })
    const places = topics.flatMap(({ name, partitions }) =>
      partitions.map(({ partitionIndex, committedOffset, errorCode }) => {
        const offset = errorCode === 0 ? Number(committedOffset) : -1
        return [`${name} ${partitionIndex}`, offset] as const
      }),
    )
    return new Map(places)
  } finally {
    client.close()
  }
}

if (import.meta.main) {
  try {
    console.log(JSON.stringify(await check(JSON.parse(process.argv[2]) as CheckRequest)))
  } catch (error) {
    console.error((error as Error).message)
    process.exitCode = 1
  }
}
