/** `sluice schedule …`: messages that are published again and again, by cron expression. */

import { rawTopic } from '../delivery/raw-topic.ts'
import { SluiceError } from '../errors.ts'
import { scheduleJson, unknownSchedule } from '../server/delivery-json.ts'
import { exitCodes, type Invocation, type Run } from './context.ts'
import { contentOf, tellUnknown, timeText } from './delay.ts'
import { table } from './output.ts'

export const setSchedule: Run = async (context, invocation) => {
  const [name] = invocation.operands
  const cron = required(invocation, 'cron')
  const topic = required(invocation, 'topic')
  const value = Buffer.from(required(invocation, 'value'))
  const timezone = invocation.text('timezone')
  const sluice = await context.open({ create: true })
  const schedule = await sluice.schedules.set(name, {
    cron,
    ...(timezone !== undefined && { timezone }),
    topic: rawTopic(topic),
    message: { ...contentOf(invocation), value },
  })
  if (invocation.has('json')) await context.write(`${scheduleJson(schedule)}\n`)
  else context.note(`${name}: next ${timeText(schedule.nextAt)}`)
  return exitCodes.ok
}

export const listSchedules: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  const schedules = await sluice.schedules.list()
  if (invocation.has('json')) {
    for (const schedule of schedules) await context.write(`${scheduleJson(schedule)}\n`)
    return exitCodes.ok
  }
  if (schedules.length === 0) {
    context.note('no schedules; `sluice schedule set NAME --cron … --topic …` makes one')
    return exitCodes.ok
  }
  const rows = schedules.map(({ name, cron, timezone, topic, nextAt }) => {
    return [name, cron, timezone, topic, timeText(nextAt)]
  })
  await context.write(table(['NAME', 'CRON', 'TIMEZONE', 'TOPIC', 'NEXT'], rows))
  return exitCodes.ok
}

/** Removes what there is. Those that are not there are named, and the exit code is 1. */
export const removeSchedules: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  let missing = 0
  for (const name of invocation.operands) {
    if (await sluice.schedules.remove(name)) await context.write(`${name}\n`)
    else {
      missing++
      tellUnknown(context, unknownSchedule(name))
    }
  }
  return missing === 0 ? exitCodes.ok : exitCodes.failure
}

function required(invocation: Invocation, name: string): string {
  const text = invocation.text(name)
  if (text !== undefined) return text
  throw new SluiceError('INVALID_ARGUMENT', `--${name} is missing; see sluice schedule set --help`)
}
