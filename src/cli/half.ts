/** `sluice half …`: half messages that nobody has decided, and deciding them by hand. */

import type { HalfDecision } from '../delivery/half-record.ts'
import { isSluiceError } from '../errors.ts'
import { halfJson } from '../server/delivery-json.ts'
import { exitCodes, type Run } from './context.ts'
import { contentLines, tellUnknown, timeText } from './delay.ts'
import { table } from './output.ts'

const LIST_MAX = 100

export const listHalf: Run = async (context, invocation) => {
  const max = invocation.number('max') ?? LIST_MAX
  const sluice = await context.open({ create: false })
  const found = await sluice.half.list({ limit: max + 1 })
  const messages = found.slice(0, max)
  if (invocation.has('json')) {
    for (const message of messages) await context.write(`${halfJson(message)}\n`)
    return exitCodes.ok
  }
  if (messages.length === 0) {
    context.note('no half message is undecided')
    return exitCodes.ok
  }
  const rows = messages.map(({ id, preparedAt, topic, checker, checks }) => {
    return [id, timeText(preparedAt), topic, checker, checks]
  })
  await context.write(table(['ID', 'PREPARED', 'TOPIC', 'CHECKER', 'CHECKS'], rows))
  if (found.length > max) context.note(`there are more than ${max}; raise --max`)
  return exitCodes.ok
}

export const showHalf: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  const { message, state, decision } = await sluice.half.get(invocation.operands[0])
  if (invocation.has('json')) {
    await context.write(`${halfJson(message, { state, decision })}\n`)
    return exitCodes.ok
  }
  const { id, topic, preparedAt, checker, checks, keyBytes: key, headerList: headers, value } = message
  const lines = [
    `${id}: for ${topic}, ${state}${decision === null ? '' : ` (${decision})`}`,
    `prepared   ${timeText(preparedAt)}`,
    `checker    ${checker ?? '-'}, asked ${checks} times`,
    ...contentLines({ key, headers, value }),
  ]
  await context.write(`${lines.join('\n')}\n`)
  return exitCodes.ok
}

/** What cannot be decided like this (any more) is named, the others are decided, and the exit code is 1. */
const decide =
  (decision: HalfDecision): Run =>
  async (context, invocation) => {
    const sluice = await context.open({ create: false })
    let refused = 0
    for (const id of invocation.operands) {
      try {
        if (invocation.has('dryRun')) await sluice.half.get(id)
        else await sluice.half[decision](id)
        await context.write(`${id}\n`)
      } catch (error) {
        if (!isSluiceError(error, 'UNKNOWN_HALF_MESSAGE') && !isSluiceError(error, 'HALF_DECIDED'))
          throw error
        refused++
        tellUnknown(context, error)
      }
    }
    if (invocation.has('dryRun')) context.note('nothing was changed: --dry-run')
    return refused === 0 ? exitCodes.ok : exitCodes.failure
  }

export const commitHalf = decide('commit')
export const rollbackHalf = decide('rollback')
