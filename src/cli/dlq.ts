/** `sluice dlq …`: working with dead letters. */

import type { DeadLetterChange, DeadLetterChoice, DeadLetters } from '../delivery/dead-letters.ts'
import { SluiceError } from '../errors.ts'
import type { Header } from '../record/builder.ts'
import { deadLetterFilter, deadLetterJson } from '../server/dead-letter-json.ts'
import type { Context, Invocation, Run } from './context.ts'
import { table } from './output.ts'

const LIST_MAX = 100
/** Of an error's message in a list. */
const MESSAGE_CHARS_MAX = 60

export const listDeadLetters: Run = async (context, invocation) => {
  const [topic, group] = invocation.operands
  if (topic === undefined) return await listTables(context, invocation)
  if (group === undefined) throw invalid(`the group is missing: sluice dlq list ${topic} GROUP`)
  const sluice = await context.open({ create: false })
  const max = invocation.number('max') ?? LIST_MAX
  const where = filterOf(invocation) ?? (() => true)
  const { letters, cursor } = await sluice.deadLetters(topic, group).list({ limit: max, where })
  if (invocation.has('json')) {
    for (const letter of letters) await context.write(`${deadLetterJson(letter)}\n`)
    return 0
  }
  if (letters.length === 0) {
    context.note(`no dead letters of ${group} in ${topic}`)
    return 0
  }
  const rows = letters.map(letter => [
    letter.id,
    time(letter.deadAt),
    letter.reason,
    letter.attempts,
    `${letter.error.name}: ${letter.error.message}`.slice(0, MESSAGE_CHARS_MAX),
  ])
  await context.write(table(['ID', 'DIED', 'REASON', 'ATTEMPTS', 'ERROR'], rows))
  if (cursor !== null) context.note(`there are more than ${max}; raise --max, or narrow it down with --error`)
  return 0
}

async function listTables(context: Context, invocation: Invocation): Promise<number> {
  const sluice = await context.open({ create: false })
  const tables = await sluice.deadLetterTables()
  if (invocation.has('json')) {
    for (const found of tables) await context.write(`${JSON.stringify(found)}\n`)
  } else if (tables.length === 0) context.note('no dead letters')
  else {
    const rows = tables.map(({ topic, group, count }) => [topic, group, count])
    await context.write(table(['TOPIC', 'GROUP', 'LETTERS'], rows))
  }
  return 0
}

export const showDeadLetter: Run = async (context, invocation) => {
  const letter = await (await lettersOf(context, invocation)).get(invocation.operands[2])
  if (invocation.has('json')) {
    await context.write(`${deadLetterJson(letter)}\n`)
    return 0
  }
  const { topic, partition, offset, error } = letter
  const lines = [
    `${letter.id}: ${topic}/${partition} offset ${offset}, group ${letter.group}`,
    `died       ${time(letter.deadAt)} (${letter.reason}) after ${letter.attempts} attempts`,
    `failed     first ${time(letter.firstFailureAt)}, last ${time(letter.lastFailureAt)}`,
    `published  ${time(letter.timestamp)}`,
    `key        ${letter.key === null ? '-' : letter.key.toString('utf8')}`,
    ...letter.headers.map(([name, value]) => `header     ${name}: ${value === null ? '-' : String(value)}`),
    `error      ${error.stack === '' ? `${error.name}: ${error.message}` : error.stack}`,
    '',
    letter.value === null ? '(null)' : letter.value.toString('utf8'),
  ]
  await context.write(`${lines.join('\n')}\n`)
  return 0
}

export const editDeadLetter: Run = async (context, invocation) => {
  const [, , id] = invocation.operands
  const value = invocation.text('value')
  const key = invocation.text('key')
  const headers = invocation.list('header').map(headerOf)
  const change: DeadLetterChange = {
    ...(value === undefined ? {} : { value: value === '-' ? await readAll(context) : value }),
    ...(key === undefined ? {} : { key }),
    ...(headers.length === 0 ? {} : { headers }),
  }
  if (Object.keys(change).length === 0) throw invalid('nothing to change: give --value, --key or --header')
  await (await lettersOf(context, invocation)).edit(id, change)
  context.note(`changed ${id}`)
  return 0
}

export const replayDeadLetters: Run = async (context, invocation) => {
  const where = invocation.text('to') ?? 'group'
  const to = where === 'group' || where === 'topic' ? where : { topic: where }
  const choice = choiceOf(invocation)
  const letters = await lettersOf(context, invocation)
  const signal = context.interruption()
  const dryRun = invocation.has('dryRun')
  const perSecond = invocation.number('rate')
  const limit = invocation.number('max')
  const ids = await letters.replay(choice, { to, dryRun, signal, ...given({ perSecond, limit }) })
  return await tell(context, ids, dryRun ? 'would be replayed' : 'replayed')
}

export const discardDeadLetters: Run = async (context, invocation) => {
  const letters = await lettersOf(context, invocation)
  const dryRun = invocation.has('dryRun')
  const limit = invocation.number('max')
  const ids = await letters.discard(choiceOf(invocation), { dryRun, ...given({ limit }) })
  return await tell(context, ids, dryRun ? 'would be discarded' : 'discarded')
}

const lettersOf = async (context: Context, { operands }: Invocation): Promise<DeadLetters> =>
  (await context.open({ create: false })).deadLetters(operands[0], operands[1])

function choiceOf(invocation: Invocation): DeadLetterChoice {
  const ids = invocation.operands.slice(2)
  const filter = filterOf(invocation)
  if (ids.length > 0) {
    if (invocation.has('all') || filter !== null) throw invalid('give either ids, or --all with filters')
    return ids
  }
  if (!invocation.has('all')) throw invalid('which letters? Give ids, or --all')
  return filter ?? 'all'
}

const filterOf = (invocation: Invocation) =>
  deadLetterFilter({ error: invocation.text('error'), reason: invocation.text('reason') })

function headerOf(text: string): Header {
  const at = text.indexOf('=')
  if (at < 1) throw invalid(`--header is NAME=VALUE, not ${text}`)
  return [text.slice(0, at), text.slice(at + 1)]
}

async function tell(context: Context, ids: readonly string[], what: string): Promise<number> {
  for (const id of ids) await context.write(`${id}\n`)
  context.note(`${ids.length} ${what}`)
  return 0
}

async function readAll(context: Context): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of context.io.stdin) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks)
}

const given = <T extends object>(options: T) =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>
  }

const time = (ms: number): string => (ms < 0 ? '-' : new Date(ms).toISOString())

const invalid = (message: string): SluiceError => new SluiceError('INVALID_ARGUMENT', message)
