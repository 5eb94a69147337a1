/** `sluice delay …`: messages that are delivered later. */

import { type DelaySpec, parseDelayId } from '../delivery/delayed-message.ts'
import { rawTopic } from '../delivery/raw-topic.ts'
import type { Sluice } from '../delivery/sluice.ts'
import { SluiceError } from '../errors.ts'
import { delayedJson, delayFromJson, unknownDelayed } from '../server/delivery-json.ts'
import { headersJson, textJson } from '../server/message-json.ts'
import { type Context, exitCodes, type Invocation, type Run } from './context.ts'
import { readHeader } from './line-messages.ts'
import { readLines } from './lines.ts'
import { table } from './output.ts'

const LIST_MAX = 100
/** Of a key in a list. */
const KEY_CHARS_MAX = 40
const LINE_BYTES_MAX = 64 * 1024 * 1024

/** One message for each --value; without any, one for each line of standard input. */
export const sendDelayed: Run = async (context, invocation) => {
  const [topic] = invocation.operands
  const spec = delayOf(invocation)
  const values = invocation.list('value')
  const common = { ...contentOf(invocation), ...spec, delayId: invocation.text('name') }
  const sluice = await context.open({ create: true })
  const send = async (contents: readonly (Buffer | string)[]) => {
    const messages = contents.map(value => ({ ...common, value: Buffer.from(value) }))
    for (const { delayId: id = '' } of await sluice.publish(rawTopic(topic), messages)) {
      const line = { id, topic, deliverAt: parseDelayId(id)?.dueAt }
      await context.write(invocation.has('json') ? `${JSON.stringify(line)}\n` : `${id}\n`)
    }
  }
  if (values.length > 0) await send(values)
  else {
    for await (const lines of readLines(context.io.stdin, LINE_BYTES_MAX)) {
      const tooLong = lines.find(({ bytes }) => bytes === null)
      if (tooLong !== undefined) {
        throw new SluiceError(
          'MESSAGE_TOO_LARGE',
          `stdin:${tooLong.number}: the line is too long for a message`,
        )
      }
      await send(lines.map(({ bytes }) => bytes as Buffer))
    }
  }
  return exitCodes.ok
}

export const listDelayed: Run = async (context, invocation) => {
  const max = invocation.number('max') ?? LIST_MAX
  const topic = invocation.text('topic')
  const sluice = await context.open({ create: false })
  const { messages, cursor } = await sluice.delayed.list({
    limit: max,
    ...(topic !== undefined && { topic }),
  })
  if (invocation.has('json')) {
    for (const message of messages) await context.write(`${delayedJson(message)}\n`)
    return exitCodes.ok
  }
  if (messages.length === 0) {
    context.note(topic === undefined ? 'nothing waits' : `nothing waits for ${topic}`)
    return exitCodes.ok
  }
  const rows = messages.map(({ id, deliverAt, topic, key, schedule }) => {
    const shown = key === null ? null : key.toString('utf8').slice(0, KEY_CHARS_MAX)
    return [id, timeText(deliverAt), topic, shown, schedule]
  })
  await context.write(table(['ID', 'DUE', 'TOPIC', 'KEY', 'SCHEDULE'], rows))
  if (cursor !== null) context.note(`there are more than ${max}; raise --max`)
  return exitCodes.ok
}

export const showDelayed: Run = async (context, invocation) => {
  const [id] = invocation.operands
  const sluice = await context.open({ create: false })
  const message = await sluice.delayed.get(id)
  if (message === null) throw unknownDelayed(id)
  if (invocation.has('json')) {
    await context.write(`${delayedJson(message)}\n`)
    return exitCodes.ok
  }
  const { topic, deliverAt, schedule, name, key, headers, value } = message
  const lines = [
    `${message.id}: for ${topic} at ${timeText(deliverAt)}`,
    ...(name === null ? [] : [`name       ${name}`]),
    ...(schedule === null ? [] : [`schedule   ${schedule}`]),
    ...contentLines({ key, headers, value }),
  ]
  await context.write(`${lines.join('\n')}\n`)
  return exitCodes.ok
}

/** Cancels what it can. Those that do not wait any more are named, and the exit code is 1. */
export const cancelDelayed: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  const isDryRun = invocation.has('dryRun')
  const cancel = isDryRun ? isWaiting : (mq: Sluice, id: string) => mq.delayed.cancel(id)
  let left = 0
  for (const id of invocation.operands) {
    if (await cancel(sluice, id)) await context.write(`${id}\n`)
    else {
      left++
      tellUnknown(context, unknownDelayed(id))
    }
  }
  if (isDryRun) context.note('nothing was changed: --dry-run')
  return left === 0 ? exitCodes.ok : exitCodes.failure
}

const isWaiting = async (sluice: Sluice, id: string): Promise<boolean> =>
  (await sluice.delayed.get(id)) !== null

export const rescheduleDelayed: Run = async (context, invocation) => {
  const [before] = invocation.operands
  const spec = delayOf(invocation)
  const sluice = await context.open({ create: false })
  const id = await sluice.delayed.reschedule(before, spec)
  if (id === null) throw unknownDelayed(before)
  await context.write(`${id}\n`)
  context.note(`due ${timeText(parseDelayId(id)?.dueAt ?? null)}`)
  return exitCodes.ok
}

/** What --delay, --at or --level says. Throws `INVALID_ARGUMENT` unless there is one of them. */
function delayOf(invocation: Invocation): DelaySpec {
  const given = {
    delay: invocation.text('delay'),
    deliverAt: invocation.text('at'),
    delayLevel: invocation.number('level'),
  }
  const said = Object.values(given).filter(value => value !== undefined).length
  if (said !== 1) throw new SluiceError('INVALID_ARGUMENT', 'when? Give one of --delay, --at and --level')
  return delayFromJson(given, '--at') as DelaySpec
}

/** Key, headers and partition of the message that the flags describe. */
export function contentOf(invocation: Invocation) {
  const key = invocation.text('key')
  const partition = invocation.number('partition')
  return {
    key: key === undefined ? null : Buffer.from(key),
    headers: invocation.list('header').map(readHeader),
    ...(partition !== undefined && { partition }),
  }
}

/** A message as `show` prints it: fields, an empty line, the value. */
export const contentLines = (content: {
  readonly key: Buffer | null
  readonly headers: readonly (readonly [name: string, value: Buffer | null])[]
  readonly value: Buffer | null
}): string[] => [
  `key        ${textJson(content.key)}`,
  `headers    ${headersJson(content.headers)}`,
  '',
  content.value === null ? '(null)' : content.value.toString('utf8'),
]

/** One of several could not be found; the others are dealt with. */
export const tellUnknown = (context: Context, { code, message }: SluiceError): void =>
  context.note(`sluice: ${code}: ${message}`)

export const timeText = (ms: number | null): string =>
  ms === null || ms < 0 ? '-' : new Date(ms).toISOString()
