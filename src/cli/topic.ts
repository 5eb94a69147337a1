/** `sluice topic …`: the catalog, from the command line. */

import type { TopicDescription } from '../engine/engine.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import type { Run } from './context.ts'
import { byteSize, count, table } from './output.ts'

export const createTopic: Run = async (context, invocation) => {
  const [name] = invocation.operands
  const partitions = invocation.number('partitions')
  const config = readSettings(invocation.list('set'))
  const sluice = await context.open({ create: true })
  try {
    const created = await sluice.engine.createTopic({
      name,
      config,
      ...(partitions === undefined ? {} : { partitions }),
    })
    context.note(`created topic ${name} with ${plural(created.partitions.length, 'partition')}`)
  } catch (error) {
    if (!invocation.has('ifNotExists') || !isSluiceError(error, 'TOPIC_EXISTS')) throw error
    context.note(`topic ${name} exists already`)
  }
  return 0
}

export const listTopics: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  const { engine } = sluice
  const topics: TopicDescription[] = []
  for (const name of await engine.listTopics()) topics.push(await engine.describeTopic(name))
  if (invocation.has('json')) {
    for (const topic of topics) await context.write(`${JSON.stringify(topicSummary(topic))}\n`)
    return 0
  }
  if (topics.length === 0) {
    context.note('no topics; `sluice topic create NAME` makes one')
    return 0
  }
  const rows = topics.map(topic => {
    const { name, partitions, messages, bytes } = topicSummary(topic)
    return [name, partitions, messages, bytes < 0 ? null : byteSize(bytes)]
  })
  await context.write(table(['TOPIC', 'PARTITIONS', 'OFFSETS', 'SIZE'], rows))
  return 0
}

/** `messages` is what lies between the ends: an upper bound where compaction or transactions have left gaps. */
function topicSummary({ name, partitions }: TopicDescription) {
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
  return {
    name,
    partitions: partitions.length,
    messages: sum(partitions.map(({ startOffset, endOffset }) => endOffset - startOffset)),
    bytes: partitions.some(({ bytes }) => bytes < 0) ? -1 : sum(partitions.map(({ bytes }) => bytes)),
  }
}

export const describeTopic: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  const topic = await sluice.engine.describeTopic(invocation.operands[0])
  if (invocation.has('json')) {
    await context.write(`${JSON.stringify(topic)}\n`)
    return 0
  }
  const partitions = topic.partitions.map(({ partition, startOffset, endOffset, bytes }) => [
    partition,
    startOffset,
    endOffset,
    bytes < 0 ? null : byteSize(bytes),
  ])
  const config = topic.config.map(({ name, value, source }) => [name, value, source])
  await context.write(`topic ${topic.name}, id ${topic.id}\n\n`)
  await context.write(table(['PARTITION', 'START', 'END', 'SIZE'], partitions))
  await context.write(`\n${table(['CONFIGURATION', 'VALUE', 'FROM'], config)}`)
  return 0
}

export const alterTopic: Run = async (context, invocation) => {
  const [name] = invocation.operands
  const config: Record<string, string | null> = readSettings(invocation.list('set'))
  for (const key of invocation.list('unset')) config[key] = null
  const partitions = invocation.number('partitions')
  if (Object.keys(config).length === 0 && partitions === undefined) {
    throw new SluiceError('INVALID_ARGUMENT', 'nothing to change: give --set, --unset or --partitions')
  }
  const sluice = await context.open({ create: false })
  if (Object.keys(config).length > 0) {
    await sluice.engine.alterTopic(name, config)
    context.note(`topic ${name}: changed ${Object.keys(config).join(', ')}`)
  }
  if (partitions !== undefined) {
    await sluice.engine.addPartitions(name, partitions)
    context.note(`topic ${name} has ${plural(partitions, 'partition')} now`)
  }
  return 0
}

export const deleteTopics: Run = async (context, invocation) => {
  const sluice = await context.open({ create: false })
  for (const name of invocation.operands) {
    await sluice.engine.deleteTopic(name)
    context.note(`deleted topic ${name}`)
  }
  return 0
}

function readSettings(settings: readonly string[]): Record<string, string> {
  const config: Record<string, string> = {}
  for (const setting of settings) {
    const at = setting.indexOf('=')
    if (at < 1)
      throw new SluiceError('INVALID_ARGUMENT', `--set takes KEY=VALUE, not ${JSON.stringify(setting)}`)
    config[setting.slice(0, at)] = setting.slice(at + 1)
  }
  return config
}

const plural = (number: number, noun: string) => `${count(number)} ${noun}${number === 1 ? '' : 's'}`
