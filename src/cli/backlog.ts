/** `sluice backlog …`: what a stopped group has not handled of a topic, and what to do about it. */

import type { Backlog } from '../delivery/backlog.ts'
import { rawTopic } from '../delivery/raw-topic.ts'
import { SluiceError } from '../errors.ts'
import { skipOf } from '../server/positions.ts'
import { type Context, exitCodes, type Invocation, type Run } from './context.ts'
import { count } from './output.ts'

export const showSize: Run = async (context, invocation) => {
  const backlog = await backlogOf(context, invocation)
  const size = await backlog.size()
  const { group, topic } = backlog
  await context.write(invocation.has('json') ? `${JSON.stringify({ group, topic, size })}\n` : `${size}\n`)
  return exitCodes.ok
}

export const divert: Run = async (context, invocation) => {
  const to = invocation.text('to')
  if (to === undefined) throw invalid('--to is missing: the topic that the backlog goes to')
  const limit = invocation.number('max')
  const signal = context.interruption()
  const backlog = await backlogOf(context, invocation, { create: true }) // the other topic may be missing
  if (invocation.has('dryRun')) {
    const size = Math.min(await backlog.size(), limit ?? Number.POSITIVE_INFINITY)
    context.note(`${count(size)} messages would go to ${to}, at most`)
    return exitCodes.ok
  }
  const { count: diverted, isComplete } = await backlog.divert(rawTopic(to), { limit, signal })
  const more = isComplete ? '' : '; there are more: the same command goes on'
  context.note(`${count(diverted)} messages are in ${to} now${more}`)
  return context.interruptedWith ?? exitCodes.ok
}

export const skip: Run = async (context, invocation) => {
  const place = skipOf(invocation.number('count'), invocation.text('to'), '--to')
  const partition = invocation.number('partition')
  const dryRun = invocation.has('dryRun')
  const skipped = await (await backlogOf(context, invocation)).skip({ ...place, partition, dryRun })
  context.note(`${count(skipped)} messages ${dryRun ? 'would be' : 'were'} skipped`)
  return exitCodes.ok
}

export const shed: Run = async (context, invocation) => {
  const olderThan = invocation.text('olderThan')
  if (olderThan === undefined) throw invalid('--older-than is missing: 30m, 12h, 7d')
  const dryRun = invocation.has('dryRun')
  const skipped = await (await backlogOf(context, invocation)).shed({ olderThan, dryRun })
  context.note(`${count(skipped)} messages older than ${olderThan} ${dryRun ? 'would be' : 'were'} skipped`)
  return exitCodes.ok
}

async function backlogOf(
  context: Context,
  { operands: [group, topic] }: Invocation,
  options = { create: false },
): Promise<Backlog> {
  return (await context.open(options)).backlog(group, rawTopic(topic))
}

const invalid = (message: string): SluiceError => new SluiceError('INVALID_ARGUMENT', message)
