/**
 * For each API and each of its versions a request that a real Kafka answers with something to look at: what `record.ts` sends besides
 * what clients send by themselves, because no client uses all versions.
 */

import { randomUUID } from 'node:crypto'
import { encodeAssignment, encodeSubscription } from '../src/broker/consumer-protocol.ts'
import { BatchBuilder, type CloseOptions } from '../src/record/builder.ts'
import { type ApiName, apis } from '../src/wire/kafka/apis.ts'
import type { Exchange, RawClient, RequestInput, ResponseOutput } from './raw-client.ts'

const TOPIC = 'recorded'
const GROUP_ROUNDS = 11
const TRANSACTION_ROUNDS = 7
const NO_TIMEOUT = 10_000

/** Where exchanges go. */
export type Keep = (api: ApiName, version: number, exchange: Exchange) => void

interface Range {
  readonly min: number
  readonly max: number
}

/** What goes from request to request. */
interface Context {
  readonly client: RawClient
  /** Versions that both the server and our schemas have. */
  readonly ranges: ReadonlyMap<ApiName, Range>
  readonly keep: Keep
  readonly topicId: string
}

type Requests = { readonly [Name in ApiName]?: (version: number, context: Context) => RequestInput<Name> }

/** Sends everything. Rejects if the server closes the connection over one of them. */
export async function recordRequests(
  client: RawClient,
  ranges: ReadonlyMap<ApiName, Range>,
  keep: Keep,
): Promise<void> {
  const topics = [{ name: TOPIC, numPartitions: 2, replicationFactor: 1, assignments: [], configs: [] }]
  const created = await client.request('CreateTopics', 7, { topics })
  const context: Context = { client, ranges, keep, topicId: created.topics[0].topicId }
  const partitionData = [0, 1].map(index => ({ index, records: batch(['a', 'b', 'c']) }))
  await client.request('Produce', 9, {
    acks: -1,
    timeoutMs: NO_TIMEOUT,
    topicData: [{ name: TOPIC, partitionData }],
  })
  for (const name of Object.keys(simple) as ApiName[]) await eachVersion(name, context)
  for (let round = 0; round < GROUP_ROUNDS; round++) await groupRound(round, context)
  for (let round = 0; round < TRANSACTION_ROUNDS; round++) await transactionRound(round, context)
  for (const name of Object.keys(last) as ApiName[]) await eachVersion(name, context)
}

async function eachVersion<Name extends ApiName>(name: Name, context: Context): Promise<void> {
  const range = context.ranges.get(name)
  if (range === undefined) return
  const request = ({ ...simple, ...last } as Requests)[name] as (
    version: number,
    context: Context,
  ) => RequestInput<Name>
  for (let version = range.min; version <= range.max; version++) {
    await send(name, version, request(version, context), context)
  }
}

/** The version for a round: in the course of the rounds each has its turn. Null: the server does not have the API. */
function versionFor(name: ApiName, round: number, { ranges }: Context): number | null {
  const range = ranges.get(name)
  return range === undefined ? null : Math.min(range.max, range.min + round)
}

async function send<Name extends ApiName>(
  name: Name,
  version: number,
  body: RequestInput<Name>,
  { client, keep }: Context,
): Promise<ResponseOutput<Name>> {
  const exchange = await client.exchange(name, version, body)
  keep(name, version, exchange)
  return client.read(name, version, exchange)
}

function batch(values: readonly string[], options: CloseOptions = {}): Buffer {
  const builder = new BatchBuilder()
  for (const [index, value] of values.entries()) {
    builder.append(1_700_000_000_000 + index, `key ${index}`, value, index === 0 ? [['header', 'x']] : null)
  }
  return Buffer.from(builder.close(options))
}

/** By name up to a version, by id from then on. */
const byIdFrom = (from: number, version: number, { topicId }: Context, key: 'name' | 'topic' = 'name') =>
  version >= from ? { topicId } : { [key]: TOPIC }

// ── one request a version ───────────────────────────────────────────────────────────────────────────────────────

const resources = [
  { resourceType: 2, resourceName: TOPIC, configurationKeys: ['retention.ms', 'cleanup.policy'] },
  { resourceType: 2, resourceName: 'missing', configurationKeys: null },
]
const aclFilter = {
  resourceTypeFilter: 2,
  resourceNameFilter: 'guarded',
  patternTypeFilter: 3,
  principalFilter: null,
  hostFilter: null,
  operation: 1,
  permissionType: 1,
}

const simple: Requests = {
  ApiVersions: () => ({ clientSoftwareName: 'sluice', clientSoftwareVersion: '1.0' }),
  Metadata: version => ({
    topics: [{ name: TOPIC }, { name: 'missing' }],
    allowAutoTopicCreation: version < 4,
    includeClusterAuthorizedOperations: true,
    includeTopicAuthorizedOperations: true,
  }),
  Produce: (version, context) => ({
    acks: -1,
    timeoutMs: NO_TIMEOUT,
    topicData: [
      {
        ...byIdFrom(13, version, context),
        partitionData: [
          { index: 0, records: batch(['one', 'two'], { compression: version >= 7 ? 'zstd' : 'gzip' }) },
          { index: 9, records: batch(['nowhere']) },
        ],
      },
    ],
  }),
  Fetch: (version, context) => ({
    maxWaitMs: 0,
    minBytes: 1,
    maxBytes: 1000,
    isolationLevel: version % 2,
    topics: [
      {
        ...byIdFrom(13, version, context, 'topic'),
        partitions: [
          { partition: 0, fetchOffset: 0, partitionMaxBytes: 100 },
          { partition: 1, fetchOffset: 1_000_000, partitionMaxBytes: 100, currentLeaderEpoch: 0 },
        ],
      },
    ],
  }),
  ListOffsets: version => ({
    replicaId: -1,
    topics: [
      {
        name: TOPIC,
        partitions: [
          { partitionIndex: 0, timestamp: 1_700_000_000_001 },
          { partitionIndex: 1, timestamp: version < 7 ? -1 : -3 },
          { partitionIndex: 9, timestamp: -2 },
        ],
      },
    ],
    timeoutMs: NO_TIMEOUT,
  }),
  OffsetForLeaderEpoch: () => ({
    topics: [
      {
        topic: TOPIC,
        partitions: [
          { partition: 0, leaderEpoch: 0 },
          { partition: 9, leaderEpoch: 0 },
        ],
      },
    ],
  }),
  FindCoordinator: () => ({ key: 'some-group', coordinatorKeys: ['some-group', 'another'], keyType: 0 }),
  InitProducerId: () => ({ transactionalId: null, transactionTimeoutMs: 60_000 }),
  CreateTopics: version => ({
    topics: [
      {
        name: `made-${version}`,
        numPartitions: 1,
        replicationFactor: 1,
        assignments: [],
        configs: [{ name: 'retention.ms', value: '1000' }],
      },
      { name: TOPIC, numPartitions: 1, replicationFactor: 1, assignments: [], configs: [] },
    ],
    timeoutMs: NO_TIMEOUT,
  }),
  CreatePartitions: version => ({
    topics: [
      { name: `made-${versionOfMade(version)}`, count: 2 + version, assignments: null },
      { name: 'missing', count: 2, assignments: [{ brokerIds: [1] }] },
    ],
    timeoutMs: NO_TIMEOUT,
    validateOnly: false,
  }),
  DescribeConfigs: () => ({ resources, includeSynonyms: true, includeDocumentation: true }),
  AlterConfigs: version => ({
    resources: [
      {
        resourceType: 2,
        resourceName: TOPIC,
        configs: [{ name: 'retention.ms', value: `${version + 1}000000` }],
      },
      { resourceType: 2, resourceName: 'missing', configs: [] },
    ],
    validateOnly: false,
  }),
  IncrementalAlterConfigs: () => ({
    resources: [
      {
        resourceType: 2,
        resourceName: TOPIC,
        configs: [
          { name: 'retention.ms', configOperation: 0, value: '9000000' },
          { name: 'segment.ms', configOperation: 1, value: null },
        ],
      },
      {
        resourceType: 2,
        resourceName: 'missing',
        configs: [{ name: 'retention.ms', configOperation: 0, value: '1' }],
      },
    ],
    validateOnly: false,
  }),
  DescribeLogDirs: () => ({ topics: [{ topic: TOPIC, partitions: [0, 1] }] }),
  DescribeCluster: () => ({ includeClusterAuthorizedOperations: true }),
  DescribeProducers: () => ({ topics: [{ name: TOPIC, partitionIndexes: [0, 9] }] }),
  DescribeTopicPartitions: () => ({
    topics: [{ name: TOPIC }, { name: 'missing' }],
    responsePartitionLimit: 1,
    cursor: null,
  }),
  ElectLeaders: () => ({ topicPartitions: [{ topic: TOPIC, partitions: [0, 9] }], timeoutMs: NO_TIMEOUT }),
  CreateAcls: version => ({
    creations: [
      {
        resourceType: 2,
        resourceName: 'guarded',
        principal: `User:ann-${version}`,
        host: '*',
        operation: 3,
        permissionType: 3,
      },
    ],
  }),
  DescribeAcls: () => aclFilter,
  DeleteAcls: version => ({ filters: [{ ...aclFilter, principalFilter: `User:ann-${version}` }] }),
  SaslHandshake: () => ({ mechanism: 'PLAIN' }),
  SaslAuthenticate: () => ({ authBytes: Buffer.from('\0ann\0secret') }),
}

/** A topic that an earlier version of CreateTopics made. */
const versionOfMade = (version: number): number => 2 + (version % 4)

/** What must come after everything else. */
const last: Requests = {
  DeleteRecords: version => ({
    topics: [
      {
        name: TOPIC,
        partitions: [
          { partitionIndex: 0, offset: version },
          { partitionIndex: 1, offset: 10_000 },
        ],
      },
    ],
    timeoutMs: NO_TIMEOUT,
  }),
  DeleteTopics: version => ({
    topics: [
      { name: `made-${version + 1}`, topicId: 'AAAAAAAAAAAAAAAAAAAAAA' },
      { name: null, topicId: 'AAAAAAAAAAAAAAAAAAAAAQ' },
    ],
    topicNames: [`made-${version + 1}`, 'missing'],
    timeoutMs: NO_TIMEOUT,
  }),
}

// ── groups ──────────────────────────────────────────────────────────────────────────────────────────────────────

/** A member comes, works and goes, in a group of its own. */
async function groupRound(round: number, context: Context): Promise<void> {
  const groupId = `group-${round}`
  const member = await joinClassic(groupId, round, context)
  await commits(groupId, member, round, context)
  const version = (name: ApiName) => versionFor(name, round, context)
  const describe = version('DescribeGroups')
  if (describe !== null) {
    const body = { groups: [groupId, 'nobody'], includeAuthorizedOperations: true }
    await send('DescribeGroups', describe, body, context)
  }
  const list = version('ListGroups')
  if (list !== null) await send('ListGroups', list, {}, context)
  const leave = version('LeaveGroup')
  if (leave !== null) {
    const members = [{ memberId: member.memberId }, { memberId: 'nobody' }]
    await send('LeaveGroup', leave, { groupId, memberId: member.memberId, members }, context)
  }
  const remove = version('DeleteGroups')
  if (remove !== null) await send('DeleteGroups', remove, { groupsNames: [groupId, 'nobody'] }, context)
  await newMember(`consumer-${round}`, round, context)
}

interface Joined {
  readonly memberId: string
  readonly generationId: number
}

async function joinClassic(groupId: string, round: number, context: Context): Promise<Joined> {
  const join = versionFor('JoinGroup', round, context)!
  const metadata = encodeSubscription({
    topics: [TOPIC],
    userData: null,
    owned: [],
    generation: -1,
    rack: null,
  })
  const body = (memberId: string) => ({
    groupId,
    sessionTimeoutMs: 30_000,
    rebalanceTimeoutMs: 30_000,
    memberId,
    protocolType: 'consumer',
    protocols: [{ name: 'range', metadata }],
    reason: 'recorded',
  })
  let joined = await send('JoinGroup', join, body(''), context)
  if (joined.errorCode === 79) joined = await send('JoinGroup', join, body(joined.memberId), context)
  const { memberId, generationId } = joined
  const assignment = encodeAssignment({
    partitions: [
      { topic: TOPIC, partition: 0 },
      { topic: TOPIC, partition: 1 },
    ],
    userData: null,
  })
  const sync = versionFor('SyncGroup', round, context)!
  await send(
    'SyncGroup',
    sync,
    {
      groupId,
      generationId,
      memberId,
      protocolType: 'consumer',
      protocolName: 'range',
      assignments: [{ memberId, assignment }],
    },
    context,
  )
  const heartbeat = versionFor('Heartbeat', round, context)!
  await send('Heartbeat', heartbeat, { groupId, generationId, memberId }, context)
  return { memberId, generationId }
}

async function commits(
  groupId: string,
  { memberId, generationId }: Joined,
  round: number,
  context: Context,
): Promise<void> {
  const commit = versionFor('OffsetCommit', round, context)!
  const partitions = [0, 1].map(partitionIndex => ({
    partitionIndex,
    committedOffset: partitionIndex + 1,
    committedLeaderEpoch: 0,
    committedMetadata: 'größe',
  }))
  const committed = { groupId, generationIdOrMemberEpoch: generationId, memberId }
  const topics = [{ ...byIdFrom(10, commit, context), partitions }]
  await send('OffsetCommit', commit, { ...committed, topics }, context)
  const fetch = versionFor('OffsetFetch', round, context)!
  const partitionIndexes = [0, 1, 9]
  await send(
    'OffsetFetch',
    fetch,
    {
      groupId,
      topics: [{ name: TOPIC, partitionIndexes }],
      groups: [{ groupId, topics: [{ ...byIdFrom(10, fetch, context), partitionIndexes }] }],
      requireStable: true,
    },
    context,
  )
  const remove = versionFor('OffsetDelete', round, context)
  if (remove === null) return
  const deleted = [{ name: TOPIC, partitions: [{ partitionIndex: 0 }] }]
  await send('OffsetDelete', remove, { groupId, topics: deleted }, context)
}

/** A member of the protocol of KIP-848. */
async function newMember(groupId: string, round: number, context: Context): Promise<void> {
  const version = versionFor('ConsumerGroupHeartbeat', round, context)
  const describe = versionFor('ConsumerGroupDescribe', round, context)
  if (version === null || describe === null || round > version + 1) return
  const memberId = version === 0 ? '' : randomUUID()
  const joined = await send(
    'ConsumerGroupHeartbeat',
    version,
    {
      groupId,
      memberId,
      memberEpoch: 0,
      rebalanceTimeoutMs: 30_000,
      subscribedTopicNames: [TOPIC],
      serverAssignor: 'uniform',
      topicPartitions: [],
    },
    context,
  )
  await send(
    'ConsumerGroupDescribe',
    describe,
    { groupIds: [groupId, 'nobody'], includeAuthorizedOperations: true },
    context,
  )
  const leaving = { groupId, memberId: joined.memberId ?? memberId, memberEpoch: -1 }
  await send('ConsumerGroupHeartbeat', version, leaving, context)
}

// ── transactions ────────────────────────────────────────────────────────────────────────────────────────────────

/** A transaction of a producer of its own: partitions, offsets, end. */
async function transactionRound(round: number, context: Context): Promise<void> {
  const version = (name: ApiName): number | null => versionFor(name, round, context)
  const init = version('InitProducerId')
  if (init === null || version('EndTxn') === null) return
  const transactionalId = `transaction-${round}`
  const find = { key: transactionalId, coordinatorKeys: [transactionalId], keyType: 1 }
  await untilReady(() =>
    context.client.request('FindCoordinator', 4, find).then(({ coordinators }) => coordinators[0]),
  )
  const made = await untilReady(() =>
    send('InitProducerId', init, { transactionalId, transactionTimeoutMs: 60_000 }, context),
  )
  const { producerId, producerEpoch } = made
  const topics = [{ name: TOPIC, partitions: [0, 1] }]
  await send(
    'AddPartitionsToTxn',
    version('AddPartitionsToTxn')!,
    {
      transactions: [{ transactionalId, producerId, producerEpoch, topics }],
      v3AndBelowTransactionalId: transactionalId,
      v3AndBelowProducerId: producerId,
      v3AndBelowProducerEpoch: producerEpoch,
      v3AndBelowTopics: topics,
    },
    context,
  )
  const groupId = `group-of-${transactionalId}`
  const producer = { transactionalId, producerId, producerEpoch }
  await send('AddOffsetsToTxn', version('AddOffsetsToTxn')!, { ...producer, groupId }, context)
  const offsets = [
    { name: TOPIC, partitions: [{ partitionIndex: 0, committedOffset: 2, committedMetadata: null }] },
  ]
  const commit = { ...producer, groupId, topics: offsets }
  await send('TxnOffsetCommit', version('TxnOffsetCommit')!, commit, context)
  await send('DescribeTransactions', 0, { transactionalIds: [transactionalId, 'nobody'] }, context)
  const list = { stateFilters: ['Ongoing', 'Nonsense'], producerIdFilters: [] }
  await send('ListTransactions', version('ListTransactions')!, list, context)
  await send('EndTxn', version('EndTxn')!, { ...producer, committed: round % 2 === 0 }, context)
  const markers = version('WriteTxnMarkers')
  if (markers === null) return
  const marker = {
    producerId: 1_000_000 + round,
    producerEpoch: 0,
    transactionResult: true,
    topics: [{ name: TOPIC, partitionIndexes: [1, 9] }],
    coordinatorEpoch: 0,
  }
  await send('WriteTxnMarkers', markers, { markers: [marker] }, context)
}

/** A coordinator needs a moment when it is asked for the first time. */
async function untilReady<T extends { readonly errorCode: number }>(ask: () => Promise<T>): Promise<T> {
  const loading = [14, 15, 16, 51]
  for (let attempt = 0; ; attempt++) {
    const answer = await ask()
    if (!loading.includes(answer.errorCode) || attempt > 100) return answer
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

/** Every version of every API that `served` and our schemas have in common. */
export function commonRanges(
  served: readonly { readonly apiKey: number; readonly minVersion: number; readonly maxVersion: number }[],
): Map<ApiName, Range> {
  const ranges = new Map<ApiName, Range>()
  for (const [name, { key, versions }] of Object.entries(apis)) {
    const found = served.find(each => each.apiKey === key)
    if (found === undefined) continue
    const min = Math.max(versions.min, found.minVersion)
    const max = Math.min(versions.max, found.maxVersion)
    if (min <= max) ranges.set(name as ApiName, { min, max })
  }
  return ranges
}
