/** Everything that `sluice bench` measures, as a table: what it is, what limits it, and the figure that we want to reach. */

import { compact, publishBeside } from './compaction.ts'
import { consume, type Handling } from './consume.ts'
import { checksum, copy, encode, promise, read, sync, walkMemory, write } from './limits.ts'
import type { MakeSubject } from './measure.ts'
import { type EngineName, INTERVAL_MS, publish, type Way } from './publish.ts'

export interface Scenario {
  /** Words from the general to the special, with slashes: `--only` takes the first few. */
  readonly name: string
  /** How it is measured, in one line. */
  readonly how: string
  readonly make: MakeSubject
  /** What its figure stands against, by name. */
  readonly limit: string | null
  /** Messages per round, as a share of those of a round at full speed. */
  readonly share: number
  /** What we want to reach with bodies of 100 bytes: messages per second, or times the limit. */
  readonly target?: { readonly perSecond: number } | { readonly ratio: number }
}

const ENGINES: readonly EngineName[] = ['memory', 'os', 'interval', 'always']

const engineText: Readonly<Record<EngineName, string>> = {
  memory: 'memory',
  os: 'file, flush os',
  interval: `file, flush every ${INTERVAL_MS} ms`,
  always: 'file, flush always',
}

const count = (value: number): string => value.toLocaleString('en-US')

const limits: readonly Scenario[] = [
  limit('encode', 'plain loop: encode records', encode),
  limit('checksum', 'plain loop: encode, CRC-32C', checksum),
  limit('copy', 'plain loop: encode, CRC-32C, copy to memory that is kept', copy),
  limit('write', 'plain loop: encode, CRC-32C, write to a new file', write),
  limit('sync-10000', 'the same, fdatasync per 10,000 messages', sync(10_000)),
  limit('sync-5000', 'the same, fdatasync per 5,000 messages', sync(5_000)),
  limit('sync-1000', 'the same, fdatasync per 1,000 messages', sync(1_000)),
  limit('sync-1', 'the same, fdatasync per message', sync(1), 1 / 500),
  limit('promise', 'a promise awaited per message, 5,000 resolved at a time', promise),
  limit('walk', 'plain loop: a view of each value in memory', walkMemory),
  limit('read', 'plain loop: read a file, CRC-32C, a view of each value', read),
]

function limit(name: string, how: string, make: MakeSubject, share = 1): Scenario {
  return { name: `limit/${name}`, how, make, limit: null, share }
}

interface WayRow {
  readonly name: string
  readonly how: string
  readonly way: Way
  /** Messages that plain code would write before an fdatasync. */
  readonly perSync: 'limit/sync-1000' | 'limit/sync-5000' | 'limit/sync-10000'
  readonly targets: Partial<Record<EngineName, number>>
}

const ways: readonly WayRow[] = [
  {
    name: 'post',
    how: 'post(), then flush()',
    way: { kind: 'post' },
    perSync: 'limit/sync-10000',
    targets: {},
  },
  {
    name: 'array-1000',
    how: 'send() of arrays of 1,000, each awaited',
    way: { kind: 'array', count: 1_000 },
    perSync: 'limit/sync-1000',
    targets: { memory: 5e6, os: 2e6, interval: 2e6, always: 1e6 },
  },
  {
    name: 'array-10000',
    how: 'send() of arrays of 10,000, each awaited',
    way: { kind: 'array', count: 10_000 },
    perSync: 'limit/sync-10000',
    targets: {},
  },
  {
    name: 'each',
    how: 'send() per message, each awaited, 5,000 outstanding in all',
    way: { kind: 'each', window: 5_000 },
    perSync: 'limit/sync-5000',
    targets: { memory: 1e6, os: 1e6, interval: 1e6 },
  },
]

function publishing(engine: EngineName, row: WayRow, producers: number): Scenario {
  const target = row.targets[engine]
  const by = producers === 1 ? '1 producer' : `${producers} producers`
  return {
    name: `publish/${engine}/${row.name}/${producers}`,
    how: `${engineText[engine]}; ${by}: ${row.how}`,
    make: publish(engine, row.way, producers),
    limit: engine === 'memory' ? 'limit/copy' : engine === 'always' ? row.perSync : 'limit/write',
    share: 1,
    ...(target !== undefined && producers === 1 ? { target: { perSecond: target } } : {}),
  }
}

const published: readonly Scenario[] = ENGINES.flatMap(engine =>
  ways.flatMap(way => [1, 10].map(producers => publishing(engine, way, producers))),
)

const ONE_NAME = 'publish/always/one/1'

/** Publishers who wait for each message: what a request handler sees. */
const durable: readonly Scenario[] = [1, 10, 100].map(producers => ({
  name: `publish/always/one/${producers}`,
  how: `${engineText.always}; ${producers === 1 ? '1 producer' : `${producers} producers`}: send() and wait, one message at a time`,
  make: publish('always', { kind: 'each', window: 1 }, producers),
  limit: producers === 1 ? 'limit/sync-1' : ONE_NAME,
  share: producers / 500,
  ...(producers === 10 ? { target: { ratio: 6 } } : {}),
}))

const handlingText: Readonly<Record<Handling, string>> = {
  batch: 'runBatch()',
  each: 'run()',
  loop: 'for await',
}

const consumed: readonly Scenario[] = (['memory', 'file'] as const).flatMap(engine =>
  (['batch', 'each', 'loop'] as const).map(handling => ({
    name: `consume/${engine}/${handling}`,
    how: `${engine === 'memory' ? 'memory' : 'files, opened anew'}; 1 consumer in a group: ${handlingText[handling]}, looking at the bytes of each value`,
    make: consume(engine, handling),
    limit: engine === 'memory' ? 'limit/walk' : 'limit/read',
    share: 2,
    ...(handling === 'batch' ? { target: { perSecond: engine === 'memory' ? 8e6 : 4e6 } } : {}),
  })),
)

const BESIDE_NAME = 'compact/publish/idle'

/** The records compacted are ten times as many as the messages of a round. */
const compacted: readonly Scenario[] = [
  {
    name: 'compact/log',
    how: 'one pass over a log of ten records to a key, in batches of 500; records per second',
    make: compact,
    limit: null,
    share: 10,
    target: { perSecond: 1e6 },
  },
  {
    name: BESIDE_NAME,
    how: 'file, flush always; 1 producer: send() and wait, one message at a time, for a second',
    make: publishBeside(false),
    limit: null,
    share: 10,
  },
  {
    name: 'compact/publish/busy',
    how: 'the same while such a pass is made in the same process, from its begin to its end',
    make: publishBeside(true),
    limit: BESIDE_NAME,
    share: 10,
  },
]

/** Everything but `open`, which is measured in its own way. */
export const scenarios: readonly Scenario[] = [...limits, ...published, ...durable, ...consumed, ...compacted]

export const OPEN_NAME = 'open'
export const OPEN_MESSAGES = 10_000_000
export const OPEN_PARTITIONS = 100
export const openHow = `directory with ${count(OPEN_MESSAGES)} messages in ${OPEN_PARTITIONS} partitions, closed properly; memory against the same without messages`

export function scenarioNamed(name: string): Scenario {
  const found = scenarios.find(scenario => scenario.name === name)
  if (found === undefined) throw new Error(`no scenario ${name}`)
  return found
}
