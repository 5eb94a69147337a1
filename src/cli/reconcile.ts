/** `sluice reconcile`: what two topics, two queries, or one of each do not have in common. */

import { type ReconcileOptions, type ReconcileSource, reconcile } from '../database/reconcile.ts'
import { querySource, topicSource } from '../database/reconcile-sources.ts'
import type { Message } from '../delivery/message.ts'
import type { Sluice } from '../delivery/sluice.ts'
import { SluiceError } from '../errors.ts'
import { type Context, exitCodes, type Invocation, type Run } from './context.ts'
import { databaseAddress, withDatabase } from './database.ts'
import { count } from './output.ts'

const TOPIC = 'topic:'

export const reconcileSources: Run = async (context, invocation) => {
  const [left, right] = invocation.operands
  const signal = context.interruption()
  const needsTopics = [left, right].some(isTopic)
  const mq = needsTopics ? await context.open({ create: false }) : null
  const code = await withSource(context, invocation, mq, left, 'database', leftSource =>
    withSource(context, invocation, mq, right, 'rightDatabase', rightSource =>
      compare(context, invocation, { left: leftSource, right: rightSource, signal }),
    ),
  ).catch(error => {
    if (context.interruptedWith === undefined) throw error
    return context.interruptedWith
  })
  return code
}

const isTopic = (text: string): boolean => text.startsWith(TOPIC)

function withSource(
  context: Context,
  invocation: Invocation,
  mq: Sluice | null,
  text: string,
  flag: 'database' | 'rightDatabase',
  work: (source: ReconcileSource) => Promise<number>,
): Promise<number> {
  if (isTopic(text) && mq !== null) return work(sourceOfTopic(mq, text.slice(TOPIC.length), invocation))
  if (!/^\s*(select|with|values|table)\b/i.test(text)) {
    throw new SluiceError(
      'INVALID_ARGUMENT',
      `a source is topic:NAME or a query (SELECT key, value …), not ${text}`,
    )
  }
  const used = invocation.text(flag) === undefined ? 'database' : flag
  return withDatabase(databaseAddress(context, invocation, used), database =>
    work(querySource(database, text)),
  )
}

function sourceOfTopic(mq: Sluice, topic: string, invocation: Invocation): ReconcileSource {
  const keyPath = invocation.text('keyField')?.split('.')
  const valuePath = invocation.text('valueField')?.split('.')
  return topicSource(mq, topic, {
    ...(keyPath === undefined ? {} : { key: message => fieldOf(message, keyPath) ?? undefined }),
    ...(valuePath === undefined
      ? {}
      : {
          // only a tombstone deletes; a field that is not there is empty
          value: message => (message.valueBytes === null ? null : (fieldOf(message, valuePath) ?? '')),
        }),
  })
}

/** A field of a message in JSON as text; null if there is none. */
function fieldOf(message: Message<unknown, unknown>, path: readonly string[]): string | null {
  let value: unknown = message.json()
  for (const name of path) value = (value as Record<string, unknown> | null | undefined)?.[name]
  if (value === undefined || value === null) return null
  return typeof value === 'object' ? JSON.stringify(value) : String(value)
}

async function compare(
  context: Context,
  invocation: Invocation,
  sources: Pick<ReconcileOptions, 'left' | 'right' | 'signal'>,
): Promise<number> {
  const isJson = invocation.has('json')
  const tell = (what: string, key: string, more: object = {}): Promise<void> =>
    context.write(isJson ? `${JSON.stringify({ what, key, ...more })}\n` : `${what} ${key}\n`)
  const report = await reconcile({
    ...sources,
    missingRight: key => tell('only-left', key),
    missingLeft: key => tell('only-right', key),
    different: key => tell('different', key),
    duplicate: (key, side, times) => tell(`duplicate-${side}`, key, { times }),
  })
  if (isJson) await context.write(`${JSON.stringify({ what: 'report', ...report })}\n`)
  const { same, different, onlyLeft, onlyRight, duplicatesLeft, duplicatesRight } = report
  context.note(
    `${count(same)} the same, ${count(different)} different, ${count(onlyLeft)} only left, ${count(onlyRight)} only right, ${count(duplicatesLeft + duplicatesRight)} duplicates`,
  )
  return different + onlyLeft + onlyRight + duplicatesLeft + duplicatesRight === 0
    ? exitCodes.ok
    : exitCodes.failure
}
