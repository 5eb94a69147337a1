/** `sluice group …`: what groups have committed, how far behind they are, and moving them. */

import { lagBehind } from '../delivery/group-ledger.ts'
import type { CommitOffset, CommittedOffset, Engine, GroupDescription } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { offsetAt, parsePosition } from '../server/positions.ts'
import type { Run } from './context.ts'
import { table } from './output.ts'

export const listGroups: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  const { engine } = sluice
  const groups: GroupDescription[] = []
  for (const { group } of await engine.listGroups()) groups.push(await engine.describeGroup(group))
  const summaries = groups.map(({ group, state, members }) => ({ group, state, members: members.length }))
  if (invocation.has('json')) {
    for (const summary of summaries) await context.write(`${JSON.stringify(summary)}\n`)
    return 0
  }
  if (groups.length === 0) {
    context.note('no groups; `sluice consume TOPIC --group NAME` makes one')
    return 0
  }
  const rows = summaries.map(({ group, state, members }) => [group, state, members])
  await context.write(table(['GROUP', 'STATE', 'MEMBERS'], rows))
  return 0
}

export const describeGroup: Run = async (context, invocation) => {
  const [group] = invocation.operands
  const sluice = await context.open({ create: false })
  const { engine } = sluice
  const description = await engine.describeGroup(group)
  const partitions = await progressOf(engine, description)
  if (invocation.has('json')) {
    await context.write(`${JSON.stringify({ ...description, partitions })}\n`)
    return 0
  }
  const protocol = description.protocol === '' ? '' : `, assigned by ${description.protocol}`
  await context.write(`group ${group}: ${description.state}${protocol}\n\n`)
  const rows = partitions.map(({ topic, partition, committed, end, lag, member }) => {
    return [topic, partition, committed, end, lag, member]
  })
  await context.write(table(['TOPIC', 'PARTITION', 'COMMITTED', 'END', 'LAG', 'MEMBER'], rows))
  return 0
}

interface Progress {
  readonly topic: string
  readonly partition: number
  /** null: nothing committed yet. */
  readonly committed: number | null
  /** null: the topic is gone. */
  readonly end: number | null
  readonly lag: number | null
  readonly member: string | null
}

/** Every partition that the group has committed or that a member holds. */
async function progressOf(engine: Engine, { group, members }: GroupDescription): Promise<Progress[]> {
  const committed = new Map<string, CommittedOffset>()
  for (const commit of await engine.committed(group))
    committed.set(`${commit.topic}/${commit.partition}`, commit)
  const holders = new Map<string, string>()
  for (const { memberId, assignment } of members) {
    for (const { topic, partition } of assignment) holders.set(`${topic}/${partition}`, memberId)
  }
  const places = [...committed.values(), ...members.flatMap(({ assignment }) => assignment)]
  const rows = new Map<string, Progress>()
  for (const { topic, partition } of places) {
    const place = `${topic}/${partition}`
    if (rows.has(place)) continue
    const commit = committed.get(place)
    const ends = await endsOf(engine, topic, partition)
    const lag = ends && lagBehind(commit ?? { offset: ends.start, metadata: '' }, ends.start, ends.end)
    rows.set(place, {
      topic,
      partition,
      committed: commit?.offset ?? null,
      end: ends?.end ?? null,
      lag,
      member: holders.get(place) ?? null,
    })
  }
  return [...rows.values()].sort(byPlace)
}

async function endsOf(
  engine: Engine,
  topic: string,
  partition: number,
): Promise<{ start: number; end: number } | null> {
  try {
    const start = await engine.offsetFor(topic, partition, 'earliest')
    return { start, end: await engine.offsetFor(topic, partition, 'latest') }
  } catch (error) {
    if (isSluiceError(error, 'UNKNOWN_TOPIC')) return null
    throw error
  }
}

export const resetGroup: Run = async (context, invocation) => {
  const [group] = invocation.operands
  const to = invocation.text('to')
  if (to === undefined)
    throw new SluiceError('INVALID_ARGUMENT', '--to is missing: earliest, latest, an offset or a time')
  const position = parsePosition(to, '--to')
  const sluice = await context.open({ create: false })
  const { engine } = sluice
  const committed = await engine.committed(group)
  const topics = invocation.list('topic')
  const places = topics.length > 0 ? await partitionsOf(engine, topics) : committed
  if (places.length === 0) {
    const message = `group ${group} has committed nothing; name the topics with --topic`
    throw new SluiceError('UNKNOWN_GROUP', message, { group })
  }
  const rows: (string | number | null)[][] = []
  const commits: CommitOffset[] = []
  for (const { topic, partition } of [...places].sort(byPlace)) {
    if (position instanceof Map && !position.has(partition)) continue
    const offset = await inRange(engine, topic, partition, await offsetAt(engine, topic, partition, position))
    const before = committed.find(commit => commit.topic === topic && commit.partition === partition)
    rows.push([topic, partition, before?.offset ?? null, offset])
    commits.push({ topic, partition, offset })
  }
  if (!invocation.has('dryRun')) await engine.commit(group, commits)
  await context.write(table(['TOPIC', 'PARTITION', 'COMMITTED', 'NEW'], rows))
  if (invocation.has('dryRun')) context.note('nothing was changed: --dry-run')
  return 0
}

async function partitionsOf(engine: Engine, topics: readonly string[]) {
  const places: { topic: string; partition: number }[] = []
  for (const topic of topics) {
    const { partitions } = await engine.describeTopic(topic)
    for (const { partition } of partitions) places.push({ topic, partition })
  }
  return places
}

async function inRange(engine: Engine, topic: string, partition: number, offset: number): Promise<number> {
  const start = await engine.offsetFor(topic, partition, 'earliest')
  const end = await engine.offsetFor(topic, partition, 'latest')
  if (offset >= start && offset <= end) return offset
  const message = `${topic}/${partition} holds offsets ${start} to ${end}; ${offset} lies outside`
  throw new SluiceError('OFFSET_OUT_OF_RANGE', message, { topic, partition, offset, start, end })
}

const byPlace = (a: { topic: string; partition: number }, b: { topic: string; partition: number }) =>
  a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : a.partition - b.partition
