/** Topics, their configuration, and what tools ask of the cluster. */

import { ZERO_UUID } from '../../src/wire/kafka/schema.ts'
import type { RequestInput } from '../raw-client.ts'
import { error, orClosed, type Session, type Step, step, WAIT_MS } from './session.ts'

type NewTopic = Partial<RequestInput<'CreateTopics'>['topics'][number]>

const config = (values: Readonly<Record<string, string | null>>) =>
  Object.entries(values).map(([name, value]) => ({ name, value }))

/** Error of each topic, in the order of the request; numbers where it was made. */
async function create(session: Session, topics: readonly NewTopic[], validateOnly = false): Promise<unknown> {
  const answer = await session.send('CreateTopics', 7, {
    topics: topics.map(topic => ({
      name: 'unnamed',
      numPartitions: 1,
      replicationFactor: 1,
      assignments: [],
      configs: [],
      ...topic,
    })),
    timeoutMs: WAIT_MS,
    validateOnly,
  })
  await session.settle()
  return answer.topics
    .map(({ name, errorCode, numPartitions, replicationFactor, topicId }) =>
      errorCode === 0
        ? [name.slice(0, 20), numPartitions, replicationFactor, topicId === ZERO_UUID ? 'no id' : 'id']
        : [name.slice(0, 20), error(errorCode)],
    )
    .sort()
}

const createStep = (name: string, topics: readonly NewTopic[], validateOnly = false): Step =>
  step(name, session => create(session, topics, validateOnly))

const configured = (name: string, values: Readonly<Record<string, string | null>>): NewTopic => ({
  name,
  configs: config(values),
})

const assigned = (name: string, replicas: readonly (readonly number[])[], more: NewTopic = {}): NewTopic => ({
  name,
  numPartitions: -1,
  replicationFactor: -1,
  assignments: replicas.map((brokerIds, partitionIndex) => ({ partitionIndex, brokerIds })),
  ...more,
})

const settings: readonly Readonly<Record<string, string>>[] = [
  { 'min.insync.replicas': '1' },
  { 'min.insync.replicas': '2' },
  { 'unclean.leader.election.enable': 'false' },
  { 'unclean.leader.election.enable': 'true' },
  { 'cleanup.policy': 'compact' },
  { 'cleanup.policy': 'compact,delete' },
  { 'compression.type': 'zstd' },
  { 'compression.type': 'uncompressed' },
  { 'compression.gzip.level': '5' },
  { 'delete.retention.ms': '1000' },
  { 'file.delete.delay.ms': '1000' },
  { 'max.compaction.lag.ms': '100000' },
  { 'min.compaction.lag.ms': '10' },
  { 'min.cleanable.dirty.ratio': '0.3' },
  { 'message.timestamp.before.max.ms': '1000000' },
  { 'message.timestamp.after.max.ms': '1000000' },
  { preallocate: 'true' },
  { 'segment.index.bytes': '100000' },
  { 'segment.jitter.ms': '10' },
  { 'segment.bytes': '1048576' },
  { 'segment.bytes': '1024' },
  { 'segment.bytes': '13' },
  { 'retention.bytes': '-2' },
  { 'flush.messages': '0' },
  { 'max.message.bytes': '0' },
  { 'index.interval.bytes': '-1' },
  { 'remote.storage.enable': 'false' },
  { 'local.retention.ms': '-2' },
  { 'leader.replication.throttled.replicas': '*' },
]

const creation: Step[] = [
  createStep('create: three partitions', [{ name: 'topic', numPartitions: 3 }]),
  createStep('create: one that exists', [{ name: 'topic' }]),
  createStep('create: default numbers', [{ name: 'defaults', numPartitions: -1, replicationFactor: -1 }]),
  createStep(
    'create: names that cannot be',
    ['', '.', '..', 'a/b', 'a b', 'ä', 'x'.repeat(250)].map(name => ({ name })),
  ),
  createStep(
    'create: names that can be',
    ['x'.repeat(249), 'A-b_c.0', '...'].map(name => ({ name })),
  ),
  createStep('create: a name that differs in . and _ only', [{ name: 'A-b.c_0' }]),
  createStep('create: numbers of partitions', [
    { name: 'none', numPartitions: 0 },
    { name: 'less', numPartitions: -2 },
  ]),
  createStep('create: replication factors', [
    { name: 'r0', replicationFactor: 0 },
    { name: 'r-2', replicationFactor: -2 },
    { name: 'r2', replicationFactor: 2 },
  ]),
  createStep('create: replicas by hand', [
    assigned('by-hand', [[1], [1]]),
    assigned('elsewhere', [[7]]),
    assigned('two', [[1, 1]]),
    assigned('nowhere', [[]]),
    assigned('both', [[1]], { numPartitions: 1 }),
    assigned('factor', [[1]], { replicationFactor: 1 }),
    assigned('gap', [], { assignments: [{ partitionIndex: 1, brokerIds: [1] }] }),
  ]),
  createStep('create: configuration', [
    configured('c-unknown', { 'no.such.key': '1' }),
    configured('c-number', { 'retention.ms': 'soon' }),
    configured('c-range', { 'retention.ms': '-2' }),
    configured('c-null', { 'retention.ms': null }),
    configured('c-choice', { 'cleanup.policy': 'shred' }),
    configured('c-empty', { 'cleanup.policy': '' }),
    configured('c-good', { 'retention.ms': '1000', 'max.message.bytes': '2000' }),
  ]),
  ...settings.map((values, index) =>
    createStep(`create: ${JSON.stringify(values)}`, [configured(`config-${index}`, values)]),
  ),
  createStep('create: look only', [{ name: 'looked' }, { name: 'topic' }], true),
  createStep('create: one name twice', [{ name: 'twice' }, { name: 'twice' }, { name: 'once' }]),
]

const partitions: Step[] = [
  step('create partitions', async session => {
    const { results } = await session.send('CreatePartitions', 3, {
      topics: [
        { name: 'topic', count: 4, assignments: null },
        { name: 'defaults', count: 1, assignments: null },
        { name: 'by-hand', count: 1, assignments: null },
        { name: 'missing', count: 2, assignments: null },
        { name: 'once', count: 3, assignments: [{ brokerIds: [1] }] },
        { name: 'c-good', count: 2, assignments: [{ brokerIds: [5] }] },
      ],
      timeoutMs: WAIT_MS,
      validateOnly: false,
    })
    await session.settle()
    return results.map(({ name, errorCode }) => [name, error(errorCode)]).sort()
  }),
  step('create partitions: look only, and zero', async session => {
    const { results } = await session.send('CreatePartitions', 3, {
      topics: [
        { name: 'topic', count: 9, assignments: null },
        { name: 'defaults', count: 0, assignments: null },
        { name: 'once', count: -1, assignments: null },
      ],
      timeoutMs: WAIT_MS,
      validateOnly: true,
    })
    return results.map(({ name, errorCode }) => [name, error(errorCode)]).sort()
  }),
]

const metadata: Step[] = [
  step('metadata: by name, missing, impossible', async session => {
    const wanted = ['topic', 'missing', 'a/b', '']
    const topics = wanted.map(name => ({ name }))
    const answer = await session.send('Metadata', 12, { topics, allowAutoTopicCreation: false })
    session.remember('topicId', answer.topics.find(({ name }) => name === 'topic')!.topicId)
    return answer.topics
      .map(({ name, errorCode, isInternal, partitions }) => [
        name,
        error(errorCode),
        isInternal,
        partitions
          .map(each => [
            each.partitionIndex,
            each.leaderId,
            each.leaderEpoch,
            each.replicaNodes,
            each.isrNodes,
          ])
          .sort(),
      ])
      .sort()
  }),
  step('metadata: by id', async session => {
    const topicId = session.recall<string>('topicId')
    const topics = [
      { topicId, name: null },
      { topicId: 'AAAAAAAAAAAAAAAAAAAAAQ', name: null },
    ]
    const answer = await session.send('Metadata', 12, { topics, allowAutoTopicCreation: false })
    return answer.topics
      .map(({ name, errorCode, partitions }) => [name, error(errorCode), partitions.length])
      .sort()
  }),
  step('metadata: what a topic and the cluster allow', async session => {
    const answer = await session.send('Metadata', 10, {
      topics: [{ name: 'topic' }],
      includeTopicAuthorizedOperations: true,
      includeClusterAuthorizedOperations: true,
    })
    return [answer.topics[0].topicAuthorizedOperations, answer.clusterAuthorizedOperations]
  }),
  step('metadata: none, in versions 0 and 1', async session => {
    const old = await session.send('Metadata', 0, { topics: [] })
    const newer = await session.send('Metadata', 1, { topics: [] })
    return [old.topics.length > 5, newer.topics.length]
  }),
  step('metadata: the cluster', async session => {
    const answer = await session.send('Metadata', 12, { topics: [], allowAutoTopicCreation: false })
    return [answer.brokers.length, answer.brokers[0].nodeId, answer.controllerId, answer.clusterId?.length]
  }),
  step('describe topic partitions', async session => {
    const ask = (cursor: { topicName: string; partitionIndex: number } | null, limit = 2) =>
      session.send('DescribeTopicPartitions', 0, {
        topics: [{ name: 'topic' }, { name: 'missing' }],
        responsePartitionLimit: limit,
        cursor,
      })
    const pages = [
      await ask(null),
      await ask({ topicName: 'topic', partitionIndex: 2 }),
      await ask(null, 100),
    ]
    return pages.map(({ topics, nextCursor }) => [
      topics.map(({ name, errorCode, partitions, topicAuthorizedOperations }) => [
        name,
        error(errorCode),
        partitions.map(each => [each.partitionIndex, each.eligibleLeaderReplicas, each.lastKnownElr]),
        topicAuthorizedOperations,
      ]),
      nextCursor,
    ])
  }),
]

const TOPIC = 2
const BROKER = 4

async function describe(session: Session, resourceType: number, resourceName: string, keys: string[] | null) {
  const resources = [{ resourceType, resourceName, configurationKeys: keys }]
  const { results } = await session.send('DescribeConfigs', 4, { resources, includeSynonyms: true })
  return results[0]
}

const describeStep = (name: string, type: number, resource: string, keys: string[] | null): Step =>
  step(name, async session => {
    const { errorCode, configs } = await describe(session, type, resource, keys)
    return [
      error(errorCode),
      configs
        .map(({ name, value, configSource, configType, readOnly, isSensitive, synonyms }) => [
          ...[name, value, configSource, configType, readOnly, isSensitive],
          synonyms.map(each => [each.name, each.source]),
        ])
        .sort(),
    ]
  })

/** One step for each key: so that each difference is listed by itself. */
const defaultSteps: Step[] = [
  ...['cleanup.policy', 'compression.type', 'delete.retention.ms', 'file.delete.delay.ms', 'flush.messages'],
  ...['flush.ms', 'index.interval.bytes', 'max.compaction.lag.ms', 'max.message.bytes'],
  ...['message.timestamp.after.max.ms', 'message.timestamp.before.max.ms', 'message.timestamp.type'],
  ...['min.cleanable.dirty.ratio', 'min.compaction.lag.ms', 'min.insync.replicas', 'preallocate'],
  ...['retention.bytes', 'retention.ms', 'segment.bytes', 'segment.index.bytes', 'segment.jitter.ms'],
  ...['segment.ms', 'unclean.leader.election.enable'],
].map(key => describeStep(`default of ${key}`, TOPIC, 'topic', [key]))

const configs: Step[] = [
  ...defaultSteps,
  step('keys of a topic', async session => {
    const { configs } = await describe(session, TOPIC, 'topic', null)
    return configs.map(({ name }) => name).sort()
  }),
  describeStep('what was set for a topic', TOPIC, 'c-good', ['retention.ms', 'max.message.bytes']),
  describeStep('describe: a key that is none', TOPIC, 'topic', ['no.such.key']),
  describeStep('describe: no such topic', TOPIC, 'missing', null),
  describeStep('describe: an impossible topic', TOPIC, 'a/b', null),
  describeStep('describe: no such type', 99, 'topic', null),
  describeStep('describe: another broker', BROKER, '7', null),
  describeStep('describe: not a broker', BROKER, 'one', null),
  describeStep('describe: what is set for all brokers', BROKER, '', null),
  step('describe: this broker', async session => {
    const keys = ['message.max.bytes', 'log.retention.ms', 'num.partitions', 'default.replication.factor']
    const { errorCode, configs } = await describe(session, BROKER, '1', keys)
    return [error(errorCode), configs.map(({ name, value, configType }) => [name, value, configType]).sort()]
  }),
]

type Change = [name: string, configOperation: number, value: string | null]

const alterStep = (
  name: string,
  type: number,
  resourceName: string,
  changes: readonly Change[],
  look = false,
) =>
  step(name, async session => {
    const configs = changes.map(([key, configOperation, value]) => ({ name: key, configOperation, value }))
    const { responses } = await session.send('IncrementalAlterConfigs', 1, {
      resources: [{ resourceType: type, resourceName, configs }],
      validateOnly: look,
    })
    await session.settle()
    const set = type === TOPIC ? (await describe(session, TOPIC, 'topic', null)).configs : []
    return [
      error(responses[0].errorCode),
      set
        .filter(({ configSource }) => configSource === 1)
        .map(({ name, value }) => `${name}=${value}`)
        .sort(),
    ]
  })

const SET = 0
const DELETE = 1
const APPEND = 2
const SUBTRACT = 3

const alterations: Step[] = [
  alterStep('alter: set two', TOPIC, 'topic', [
    ['retention.ms', SET, '5000'],
    ['segment.ms', SET, '7000'],
  ]),
  alterStep('alter: delete one', TOPIC, 'topic', [['segment.ms', DELETE, null]]),
  alterStep('alter: delete what is not set', TOPIC, 'topic', [['flush.ms', DELETE, null]]),
  alterStep('alter: look only', TOPIC, 'topic', [['retention.ms', SET, '6000']], true),
  alterStep('alter: append to a list what it has', TOPIC, 'topic', [['cleanup.policy', APPEND, 'delete']]),
  alterStep('alter: subtract from a list', TOPIC, 'topic', [['cleanup.policy', SUBTRACT, 'compact']]),
  alterStep('alter: append to what is no list', TOPIC, 'topic', [['retention.ms', APPEND, '1']]),
  alterStep('alter: no such operation', TOPIC, 'topic', [['retention.ms', 9, '1']]),
  alterStep('alter: a key twice', TOPIC, 'topic', [
    ['retention.ms', SET, '1'],
    ['retention.ms', DELETE, null],
  ]),
  alterStep('alter: null', TOPIC, 'topic', [['retention.ms', SET, null]]),
  alterStep('alter: a key that is none', TOPIC, 'topic', [['no.such.key', SET, '1']]),
  alterStep('alter: delete a key that is none', TOPIC, 'topic', [['no.such.key', DELETE, null]]),
  alterStep('alter: a wrong value', TOPIC, 'topic', [['max.message.bytes', SET, 'many']]),
  alterStep('alter: no such topic', TOPIC, 'missing', [['retention.ms', SET, '1']]),
  alterStep('alter: an impossible topic', TOPIC, 'a/b', [['retention.ms', SET, '1']]),
  alterStep('alter: no such type', 99, 'topic', [['retention.ms', SET, '1']]),
  alterStep('alter: another broker', BROKER, '7', [['log.retention.ms', SET, '1']]),
  alterStep('alter: this broker, a key for the start only', BROKER, '1', [['num.partitions', SET, '5']]),
  alterStep('alter: this broker while it runs', BROKER, '1', [['log.cleaner.threads', SET, '2']]),
  step('alter, the old way: what is not mentioned goes', async session => {
    const alter = (resourceName: string, values: Readonly<Record<string, string | null>>) =>
      session.send('AlterConfigs', 2, {
        resources: [{ resourceType: TOPIC, resourceName, configs: config(values) }],
        validateOnly: false,
      })
    const errors: string[] = []
    for (const [topic, values] of [
      ['topic', { 'segment.ms': '8000' }],
      ['topic', { 'no.such.key': '1' }],
      ['topic', { 'retention.ms': null }],
      ['missing', { 'retention.ms': '1' }],
    ] as const) {
      errors.push(error((await alter(topic, values)).responses[0].errorCode))
    }
    await session.settle(500)
    const { configs } = await describe(session, TOPIC, 'topic', null)
    await alter('topic', {})
    return [errors, configs.filter(each => each.configSource === 1).map(each => `${each.name}=${each.value}`)]
  }),
]

const cluster: Step[] = [
  step('describe cluster', async session => {
    const results: unknown[] = []
    for (const endpointType of [1, 2, 3]) {
      const body = { includeClusterAuthorizedOperations: true, endpointType }
      const answer = await session.send('DescribeCluster', 1, body)
      const { errorCode, brokers, clusterId, clusterAuthorizedOperations } = answer
      const ids = brokers.map(each => each.brokerId)
      results.push([error(errorCode), ids, clusterId.length, clusterAuthorizedOperations])
    }
    return results
  }),
  step('describe log dirs', async session => {
    const topics = [
      { topic: 'topic', partitions: [0, 99] },
      { topic: 'missing', partitions: [0] },
    ]
    const { errorCode, results } = await session.send('DescribeLogDirs', 4, { topics })
    return [
      error(errorCode),
      results.map(({ errorCode, topics, totalBytes, usableBytes }) => [
        ...[error(errorCode), totalBytes > 0, usableBytes > 0],
        topics.map(({ name, partitions }) => [name, partitions]),
      ]),
    ]
  }),
  step('elect leaders', async session => {
    const results: unknown[] = []
    for (const [electionType, partitions] of [
      [0, [0, 99]],
      [1, [0]],
      [9, [0]],
    ] as const) {
      const topicPartitions = [{ topic: 'topic', partitions }]
      const body = { electionType, topicPartitions, timeoutMs: WAIT_MS }
      const answer = await orClosed(session.send('ElectLeaders', 2, body))
      if (typeof answer === 'string') results.push(answer)
      else {
        const { errorCode, replicaElectionResults } = answer
        const each = replicaElectionResults.flatMap(({ partitionResult }) =>
          partitionResult.map(({ partitionId, errorCode }) => [partitionId, error(errorCode)]),
        )
        results.push([error(errorCode), each])
      }
    }
    const everywhere = await session.send('ElectLeaders', 2, { topicPartitions: null, timeoutMs: WAIT_MS })
    // Kafka names topics without results as well.
    return [...results, everywhere.replicaElectionResults.flatMap(each => each.partitionResult)]
  }),
  step('describe producers: none, and no such partition', async session => {
    const { topics } = await session.send('DescribeProducers', 0, {
      topics: [
        { name: 'topic', partitionIndexes: [0, 99] },
        { name: 'missing', partitionIndexes: [0] },
      ],
    })
    return topics.map(({ name, partitions }) => [
      name,
      partitions.map(each => [each.partitionIndex, error(each.errorCode), each.activeProducers.length]),
    ])
  }),
]

const deletion: Step[] = [
  step('delete topics', async session => {
    const topicId = session.recall<string>('topicId')
    const { responses } = await session.send('DeleteTopics', 6, {
      topics: [
        { name: 'once', topicId: ZERO_UUID },
        { name: 'missing', topicId: ZERO_UUID },
        { name: 'a/b', topicId: ZERO_UUID },
        { name: null, topicId: 'AAAAAAAAAAAAAAAAAAAAAQ' },
        { name: 'topic', topicId },
        { name: null, topicId: ZERO_UUID },
        { name: 'by-hand', topicId: ZERO_UUID },
        { name: 'by-hand', topicId: ZERO_UUID },
      ],
      timeoutMs: WAIT_MS,
    })
    return responses.map(({ name, errorCode }) => [name, error(errorCode)]).sort()
  }),
  step('a topic that is made again has another id', async session => {
    const idOf = async () => {
      const topics = [{ name: 'again', numPartitions: 1, replicationFactor: 1, assignments: [], configs: [] }]
      return (await session.send('CreateTopics', 7, { topics })).topics[0].topicId
    }
    const first = await idOf()
    const topics = [{ name: null, topicId: first }]
    const { responses } = await session.send('DeleteTopics', 6, { topics, timeoutMs: WAIT_MS })
    const second = await idOf()
    return [responses[0].name, error(responses[0].errorCode), first !== second]
  }),
]

export const topicSteps: readonly Step[] = [
  ...creation,
  ...partitions,
  ...metadata,
  ...configs,
  ...alterations,
  ...cluster,
  ...deletion,
]
