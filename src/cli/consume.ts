/**
 * `sluice consume`: messages to standard output, from partitions or as members of a group.
 *
 * Without --follow it ends where the partitions ended when it began: what is published meanwhile is left for the next time.
 */

import type { Engine, OffsetSpec } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import { offsetAt, type Position, parseOffsetSpec, parsePosition } from '../server/positions.ts'
import { ConsumeSession, type Ends, placeOf } from './consume-session.ts'
import type { Invocation, Run } from './context.ts'
import { MessageOutput, printerOf } from './message-output.ts'

export const consume: Run = async (context, invocation) => {
  const topics = [...invocation.operands]
  const group = invocation.text('group')
  const selection = readSelection(invocation)
  const output = new MessageOutput(context, printerOf(invocation), invocation.number('max'))
  const interrupted = context.interruption()
  const sluice = await context.open({ create: false })
  const { engine } = sluice
  // Also finds topics and positions that do not exist, before anything is begun.
  const unread = await unreadEnds(engine, topics, group, selection)
  const session = new ConsumeSession(output, invocation.has('follow') ? null : unread)
  if (session.isFinished) return 0
  const { from, partitions } = selection
  const members = Array.from({ length: Math.max(1, invocation.number('members') ?? 1) }, () =>
    group === undefined
      ? sluice.consumer({ topics, ...partitions, from: startOf(from), onOutOfRange: 'error' })
      : sluice.consumer({ topics, group, from: startOf(from), autoCommit: false }),
  )
  if (from instanceof Map) {
    for (const topic of topics) {
      for (const [partition, offset] of from) await members[0].seek({ topic, partition, offset })
    }
  }
  await session.run(members, interrupted)
  return context.interruptedWith ?? 0
}

/** What to read, and from where. */
interface Selection {
  readonly from: Position
  /** Left out: all of them. */
  readonly partitions: { readonly partitions: readonly number[] } | undefined
}

function readSelection(invocation: Invocation): Selection {
  const text = invocation.text('from') ?? 'earliest'
  const wanted = invocation.list('partition').map(readPartition)
  if (invocation.text('group') !== undefined) {
    if (wanted.length > 0) {
      throw usage('--partition does not go with --group: the group decides who reads which partition')
    }
    return { from: parseOffsetSpec(text, '--from'), partitions: undefined }
  }
  if (invocation.number('members') !== undefined) throw usage('--members needs --group')
  const from = parsePosition(text, '--from')
  const partitions = from instanceof Map && wanted.length === 0 ? [...from.keys()] : wanted
  return { from, partitions: partitions.length > 0 ? { partitions } : undefined }
}

function readPartition(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw usage(`--partition: ${JSON.stringify(text)} is not a partition`)
}

/** Partitions that a list of positions leaves out are read from their start. */
const startOf = (from: Position): OffsetSpec => (from instanceof Map ? 'earliest' : (from as OffsetSpec))

/**
 * Where the partitions end that hold something to read. Throws `UNKNOWN_TOPIC`, `INVALID_PARTITION`, and
 * `OFFSET_OUT_OF_RANGE` for an offset that was asked for and lies behind the end.
 */
async function unreadEnds(
  engine: Engine,
  topics: readonly string[],
  group: string | undefined,
  { from, partitions: selected }: Selection,
): Promise<Ends> {
  const ends = new Map<string, number>()
  for (const topic of topics) {
    const { partitions } = await engine.describeTopic(topic)
    const wanted = selected?.partitions ?? partitions.map(({ partition }) => partition)
    const committed = group === undefined ? [] : await engine.committed(group)
    for (const partition of wanted) {
      if (partition >= partitions.length) throw noSuchPartition(topic, partition, partitions.length)
      const { startOffset, endOffset } = partitions[partition]
      const commit = committed.find(entry => entry.topic === topic && entry.partition === partition)
      const start = commit?.offset ?? (await offsetAt(engine, topic, partition, from))
      if (commit === undefined && start > endOffset) throw behindTheEnd(topic, partition, start, endOffset)
      if (Math.max(start, startOffset) < endOffset) ends.set(placeOf({ topic, partition }), endOffset)
    }
  }
  return ends
}

function noSuchPartition(topic: string, partition: number, count: number): SluiceError {
  const message = `${topic} has partitions 0 to ${count - 1}, not ${partition}`
  return new SluiceError('INVALID_PARTITION', message, { topic, partition })
}

function behindTheEnd(topic: string, partition: number, offset: number, end: number): SluiceError {
  const message = `${topic}/${partition} ends at ${end}; it cannot be read from ${offset}`
  return new SluiceError('OFFSET_OUT_OF_RANGE', message, { topic, partition, offset, end })
}

const usage = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
