/**
 * Configuration: DescribeConfigs, AlterConfigs, IncrementalAlterConfigs. Of topics it can be read and changed; of the broker
 * it can be read: it is set when the server starts. Both follow from the tables in `broker/config.ts` and from what
 * the broker says of its limits.
 */

import type { Broker } from '../../broker/broker.ts'
import type { ConfigChange } from '../../broker/catalog.ts'
import {
  type ConfigDetail,
  type ConfigType,
  type ConfigValues,
  checkTopicName,
  configTypeOf,
  detailConfig,
} from '../../broker/config.ts'
import { METADATA_BYTES_MAX } from '../../broker/offsets.ts'
import { SluiceError } from '../../errors.ts'
import { alterConfigsApi } from '../../wire/kafka/alter-configs.ts'
import { describeConfigsApi } from '../../wire/kafka/describe-configs.ts'
import { incrementalAlterConfigsApi } from '../../wire/kafka/incremental-alter-configs.ts'
import type { Decoded } from '../../wire/kafka/schema.ts'
import { type Handler, handler, type Node, type RequestContext } from './handler.ts'
import { DONE, INVALID_REQUEST, type Outcome, outcomeOf, refusalOf, refused, repeated } from './refusal.ts'

const TOPIC = 2
const BROKER = 4

/** Where a value comes from, in Kafka's numbers. What was set for all topics is configuration of the broker. */
const sources = { topic: 1, broker: 4, default: 5 } as const

/** A `choice` is a string there. */
const typeNumbers: Readonly<Record<ConfigType, number>> = {
  boolean: 1,
  choice: 2,
  int: 3,
  long: 5,
  double: 6,
  list: 7,
}

type Describe = Decoded<(typeof describeConfigsApi)['request']['fields']>
type Resource = { readonly resourceType: number; readonly resourceName: string }

/** All of a topic's configuration, as CreateTopics answers it. */
export const effectiveConfigs = (topic: ConfigValues, broker: Broker) =>
  detailConfig(topic, broker.defaults.config).map(({ name, value, source }) => ({
    name,
    value,
    readOnly: false,
    configSource: sources[source],
    isSensitive: false,
  }))

// ── DescribeConfigs ─────────────────────────────────────────────────────────────────────────────────────────────

const describeConfigs = handler(describeConfigsApi, (request, context) => ({
  results: request.resources.map(({ resourceType, resourceName, configurationKeys }) => {
    const resource = { resourceType, resourceName }
    const found = describedConfigs(resource, context)
    if ('errorCode' in found) return { ...found, ...resource, configs: [] }
    const isWanted = (name: string): boolean =>
      configurationKeys === null || configurationKeys.length === 0 || configurationKeys.includes(name)
    const configs = found
      .filter(({ name }) => isWanted(name))
      .map(detail => describedConfig(detail, resourceType !== TOPIC, request))
    return { ...DONE, ...resource, configs }
  }),
}))

function describedConfigs(resource: Resource, context: RequestContext): readonly ConfigDetail[] | Outcome {
  const { broker, node } = context
  const { resourceType, resourceName } = resource
  switch (resourceType) {
    case TOPIC:
      try {
        checkTopicName(resourceName)
        return detailConfig(broker.topic(resourceName).config, broker.defaults.config)
      } catch (error) {
        return refusalOf(error)
      }
    case BROKER:
      // '' asks for what was set for all brokers while they ran: nothing can be.
      if (resourceName === '') return []
      return resourceName === String(node.id) ? brokerConfig(context) : wrongBroker(resourceName, node)
    default:
      return unsupported(resourceType)
  }
}

const wrongBroker = (name: string, node: Node): Outcome =>
  refused(
    INVALID_REQUEST,
    `Unexpected broker id, expected ${node.id} or empty string, but received ${JSON.stringify(name)}`,
  )

const unsupported = (resourceType: number): Outcome =>
  refused(INVALID_REQUEST, `Unsupported resource type: ${resourceType}`)

function describedConfig(detail: ConfigDetail, readOnly: boolean, request: Describe) {
  const { name, value, source, type, synonyms, meaning } = detail
  return {
    name,
    value,
    readOnly,
    isDefault: source === 'default',
    configSource: sources[source],
    isSensitive: false,
    synonyms: request.includeSynonyms
      ? synonyms.map(synonym => ({ ...synonym, source: sources[synonym.source] }))
      : [],
    configType: typeNumbers[type],
    documentation: request.includeDocumentation ? meaning : null,
  }
}

/** What holds for the whole broker, under Kafka's names. */
function brokerConfig({ broker, node, autoCreateTopics }: RequestContext): ConfigDetail[] {
  const { sessionTimeoutMsMin, sessionTimeoutMsMax, initialRebalanceDelayMs, groupSizeMax } =
    broker.groups.limits
  const set: [name: string, type: ConfigType, value: unknown, meaning: string][] = [
    ['advertised.listeners', 'list', `PLAINTEXT://${node.host}:${node.port}`, 'Where clients connect.'],
    ['auto.create.topics.enable', 'boolean', autoCreateTopics, 'Whether asking for a topic makes it.'],
    ['broker.id', 'int', node.id, 'The number of this broker.'],
    ['default.replication.factor', 'int', 1, 'There is one broker, so there is one replica.'],
    ['delete.topic.enable', 'boolean', true, 'Topics can be deleted.'],
    ['group.initial.rebalance.delay.ms', 'int', initialRebalanceDelayMs, 'Wait of an empty group for more.'],
    ['group.max.session.timeout.ms', 'int', sessionTimeoutMsMax, 'Longest session time-out of a member.'],
    ['group.max.size', 'int', groupSizeMax, 'Members of one group at most.'],
    ['group.min.session.timeout.ms', 'int', sessionTimeoutMsMin, 'Shortest session time-out of a member.'],
    ['log.dirs', 'list', broker.path, 'Where the data is.'],
    ['node.id', 'int', node.id, 'The number of this broker.'],
    [
      'num.partitions',
      'int',
      broker.defaults.partitions,
      'Partitions of a topic that does not say how many.',
    ],
    ['offset.metadata.max.bytes', 'int', METADATA_BYTES_MAX, 'Longest metadata of a committed offset.'],
    [
      'offsets.retention.minutes',
      'int',
      Math.floor(broker.offsetsRetentionMs / 60_000),
      'How long offsets are kept once their group has no members any more.',
    ],
  ]
  const own = set.map(([name, type, content, meaning]): ConfigDetail => {
    const value = String(content)
    return { name, type, value, meaning, source: 'broker', synonyms: [{ name, value, source: 'broker' }] }
  })
  // The defaults of topics, under the names that they have for a broker.
  const topics = detailConfig({}, broker.defaults.config).map(
    (detail): ConfigDetail => ({ ...detail, name: detail.synonyms[0].name }),
  )
  return [...own, ...topics].sort((a, b) => (a.name < b.name ? -1 : 1))
}

// ── AlterConfigs, IncrementalAlterConfigs ───────────────────────────────────────────────────────────────────────

/** Replaces what the topic has: what is not mentioned goes back to its default. */
const alterConfigs = handler(alterConfigsApi, async (request, context) => ({
  responses: await alterEach(request.resources, request.validateOnly, context, ({ configs }) => {
    const isTwice = repeated(configs.map(({ name }) => name)).size > 0
    if (isTwice) return refused(INVALID_REQUEST, 'The request sets a configuration key twice.')
    const missing = configs.find(({ value }) => value === null)
    if (missing !== undefined)
      return refused(INVALID_REQUEST, `Null value not supported for : ${missing.name}`)
    return current => ({
      ...Object.fromEntries(Object.keys(current).map(name => [name, null])),
      ...Object.fromEntries(configs.map(({ name, value }) => [name, value])),
    })
  }),
}))

type Operation = Decoded<
  (typeof incrementalAlterConfigsApi)['request']['fields']
>['resources'][number]['configs'][number]

const SET = 0
const DELETE = 1
const APPEND = 2
const SUBTRACT = 3

const incrementalAlterConfigs = handler(incrementalAlterConfigsApi, async (request, context) => ({
  responses: await alterEach(request.resources, request.validateOnly, context, ({ configs }) => {
    const isTwice = repeated(configs.map(({ name }) => name)).size > 0
    if (isTwice) return refused(INVALID_REQUEST, 'Error due to duplicate config keys')
    const wrong = configs.find(({ configOperation }) => configOperation < SET || configOperation > SUBTRACT)
    if (wrong !== undefined)
      return refused(INVALID_REQUEST, `Unknown operation type: ${wrong.configOperation}`)
    const missing = configs.find(({ configOperation, value }) => configOperation !== DELETE && value === null)
    if (missing !== undefined)
      return refused(INVALID_REQUEST, `Null value not supported for : ${missing.name}`)
    const { defaults } = context.broker
    // What is not set needs no name that is known to be deleted.
    const wanted = configs.filter(
      ({ name, configOperation }) => configOperation !== DELETE || configTypeOf(name) !== undefined,
    )
    return current =>
      Object.fromEntries(wanted.map(each => [each.name, operationResult(each, current, defaults.config)]))
  }),
}))

/** The value that a key is to have; null: its default. Throws INVALID_CONFIG if the key is no list, and ought to be one. */
function operationResult(operation: Operation, topic: ConfigValues, broker: ConfigValues): string | null {
  const { name, configOperation, value } = operation
  if (configOperation === DELETE) return null
  if (configOperation === SET) return value
  const type = configTypeOf(name)
  if (type !== undefined && type !== 'list') {
    const verb = configOperation === APPEND ? 'append to' : 'subtract from'
    throw new SluiceError('INVALID_CONFIG', `Can't ${verb} key ${name} because its type is not LIST.`, {
      name,
    })
  }
  const current = detailConfig(topic, broker).find(detail => detail.name === name)?.value ?? ''
  const parts = current.split(',').filter(part => part !== '')
  const given = value!.split(',')
  const result =
    configOperation === APPEND
      ? [...parts, ...given.filter(part => !parts.includes(part))]
      : parts.filter(part => !given.includes(part))
  return result.join(',')
}

/** One outcome for each resource. `plan` makes the change to a topic from its resource, or says what is wrong with it. */
function alterEach<R extends Resource>(
  resources: readonly R[],
  validateOnly: boolean,
  context: RequestContext,
  plan: (resource: R) => Extract<ConfigChange, (config: ConfigValues) => unknown> | Outcome,
): Promise<(Outcome & Resource)[]> {
  const { broker, node } = context
  const key = ({ resourceType, resourceName }: Resource): string => `${resourceType} ${resourceName}`
  const twice = repeated(resources.map(key))
  const alter = async (resource: R): Promise<Outcome> => {
    const { resourceType, resourceName } = resource
    if (twice.has(key(resource))) return refused(INVALID_REQUEST, 'The request names a resource twice.')
    if (resourceType === BROKER) {
      return resourceName === '' || resourceName === String(node.id)
        ? refused(INVALID_REQUEST, 'Cannot update configuration of the broker while it runs.')
        : wrongBroker(resourceName, node)
    }
    if (resourceType !== TOPIC) return unsupported(resourceType)
    const change = plan(resource)
    if (typeof change !== 'function') return change
    return outcomeOf(() => {
      checkTopicName(resourceName)
      return validateOnly
        ? broker.checkAlterTopic(resourceName, change)
        : broker.alterTopic(resourceName, change)
    })
  }
  return Promise.all(
    resources.map(async resource => {
      const { resourceType, resourceName } = resource
      return { ...(await alter(resource)), resourceType, resourceName }
    }),
  )
}

export const configHandlers = [
  describeConfigs,
  alterConfigs,
  incrementalAlterConfigs,
] as unknown as readonly Handler[]
