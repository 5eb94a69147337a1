/** Configuration through the protocol, and what tools ask of the cluster. */

import { tmpdir } from 'node:os'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { topicConfigTable } from '../../../src/broker/config.ts'
import { BatchBuilder } from '../../../src/record/builder.ts'
import { Calls, versionsOf } from './calls.ts'

const TOPIC = 2
const BROKER = 4

let calls: Calls
beforeEach(async () => {
  calls = await Calls.open({ config: { 'retention.ms': '5000' } })
  await calls.broker.createTopic({ name: 't', config: { 'segment.bytes': '2048' } })
})
afterEach(() => calls.broker.close())

const resource = (resourceType: number, resourceName: string, configurationKeys: string[] | null = null) => ({
  resourceType,
  resourceName,
  configurationKeys,
})

describe('DescribeConfigs', () => {
  const ask = async (version: number, ...resources: ReturnType<typeof resource>[]) =>
    (
      await calls.call('DescribeConfigs', version, {
        resources,
        includeSynonyms: true,
        includeDocumentation: true,
      })
    ).results

  test.each(versionsOf('DescribeConfigs'))(
    'tells all of a topic, with defaults, in version %i',
    async version => {
      const [{ errorCode, configs }] = await ask(version, resource(TOPIC, 't'))
      expect(errorCode).toBe(0)
      expect(configs.map(({ name }) => name).sort()).toEqual(Object.keys(topicConfigTable).sort())
      const of = (key: string) => configs.find(({ name }) => name === key)!
      expect(of('segment.bytes')).toMatchObject({ value: '2048', readOnly: false, isSensitive: false })
      if (version === 0) {
        expect(of('segment.bytes').isDefault).toBe(false)
        expect(of('segment.ms').isDefault).toBe(true)
        return
      }
      expect(['segment.bytes', 'retention.ms', 'segment.ms'].map(key => of(key).configSource)).toEqual([
        1, 4, 5,
      ])
      expect(of('segment.bytes').synonyms).toEqual([
        { name: 'segment.bytes', value: '2048', source: 1 },
        { name: 'log.segment.bytes', value: '67108864', source: 5 },
      ])
      expect(of('retention.ms').synonyms.map(({ value, source }) => [value, source])).toEqual([
        ['5000', 4],
        ['604800000', 5],
      ])
      if (version < 3) return
      expect(
        ['segment.bytes', 'segment.ms', 'cleanup.policy', 'message.timestamp.type'].map(
          key => of(key).configType,
        ),
      ).toEqual([3, 5, 7, 2])
      expect(of('segment.bytes').documentation).toMatch(/segment/)
    },
  )

  test('leaves out what is not asked for', async () => {
    const { results } = await calls.call('DescribeConfigs', 4, {
      resources: [resource(TOPIC, 't', ['segment.bytes', 'no.such.key'])],
    })
    expect(results[0].configs).toMatchObject([{ name: 'segment.bytes', synonyms: [], documentation: null }])
  })

  test('tells all of the broker', async () => {
    const [own, everywhere, other] = await ask(
      4,
      resource(BROKER, '1'),
      resource(BROKER, ''),
      resource(BROKER, '2'),
    )
    const values = new Map(own.configs.map(({ name, value }) => [name, value]))
    expect(values.get('log.retention.ms')).toBe('5000')
    expect(values.get('message.max.bytes')).toBe('1048588')
    expect(values.get('num.partitions')).toBe('1')
    expect(values.get('offsets.retention.minutes')).toBe('10080')
    expect(values.get('advertised.listeners')).toBe('PLAINTEXT://broker.test:9092')
    expect(own.configs.every(({ readOnly }) => readOnly)).toBe(true)
    expect(everywhere).toMatchObject({ errorCode: 0, configs: [] })
    expect(other).toMatchObject({ errorCode: 42, configs: [] })
  })

  test('refuses what there is not', async () => {
    const results = await ask(4, resource(TOPIC, 'nowhere'), resource(16, 'metrics'), resource(TOPIC, 't'))
    expect(results.map(({ errorCode }) => errorCode)).toEqual([3, 42, 0])
  })
})

describe('AlterConfigs', () => {
  const alter = async (version: number, configs: object, more = {}, validateOnly = false) => {
    const all = Object.entries(configs).map(([name, value]) => ({ name, value }))
    const { responses } = await calls.call('AlterConfigs', version, {
      resources: [{ resourceType: TOPIC, resourceName: 't', configs: all, ...more }],
      validateOnly,
    })
    return responses.map(({ errorCode }) => errorCode)
  }

  test.each(versionsOf('AlterConfigs'))('replaces everything, version %i', async version => {
    expect(await alter(version, { 'retention.ms': '9' })).toEqual([0])
    expect(calls.broker.topic('t').config).toEqual({ 'retention.ms': '9' })
  })

  test('changes nothing when it is refused, or only tried', async () => {
    expect(await alter(2, { 'retention.ms': '9', 'no.such.key': '1' })).toEqual([40])
    expect(await alter(2, { 'retention.ms': null })).toEqual([42])
    expect(await alter(2, { 'retention.ms': '9' }, { resourceName: 'nowhere' })).toEqual([3])
    expect(await alter(2, {}, { resourceType: BROKER, resourceName: '1' })).toEqual([42])
    expect(await alter(2, {}, { resourceType: 16, resourceName: 'x' })).toEqual([42])
    expect(await alter(2, { 'retention.ms': '9' }, {}, true)).toEqual([0])
    expect(await alter(2, { 'retention.ms': 'x' }, {}, true)).toEqual([40])
    const twice = [
      { name: 'retention.ms', value: '1' },
      { name: 'retention.ms', value: '2' },
    ]
    expect(await alter(2, {}, { configs: twice })).toEqual([42])
    expect(calls.broker.topic('t').config).toEqual({ 'segment.bytes': '2048' })
  })
})

describe('IncrementalAlterConfigs', () => {
  type Operation = [name: string, operation: number, value: string | null]
  const alter = async (version: number, operations: Operation[], validateOnly = false) => {
    const configs = operations.map(([name, configOperation, value]) => ({ name, configOperation, value }))
    const { responses } = await calls.call('IncrementalAlterConfigs', version, {
      resources: [{ resourceType: TOPIC, resourceName: 't', configs }],
      validateOnly,
    })
    return responses[0].errorCode
  }
  const config = () => calls.broker.topic('t').config

  test.each(versionsOf('IncrementalAlterConfigs'))('sets and deletes, version %i', async version => {
    expect(await alter(version, [['retention.ms', 0, '9']])).toBe(0)
    expect(config()).toEqual({ 'segment.bytes': '2048', 'retention.ms': '9' })
    expect(await alter(version, [['segment.bytes', 1, null]])).toBe(0)
    expect(config()).toEqual({ 'retention.ms': '9' })
  })

  test('adds to lists and takes away from them', async () => {
    expect(await alter(1, [['cleanup.policy', 2, 'delete']])).toBe(0)
    expect(config()['cleanup.policy']).toBe('delete')
    expect(await alter(1, [['cleanup.policy', 3, 'compact']])).toBe(0)
    expect(config()['cleanup.policy']).toBe('delete')
    expect(await alter(1, [['cleanup.policy', 3, 'delete']])).toBe(40)
    expect(await alter(1, [['segment.bytes', 2, '1']])).toBe(40)
    expect(await alter(1, [['segment.bytes', 3, '1']])).toBe(40)
  })

  test('changes nothing when it is refused, or only tried', async () => {
    expect(
      await alter(1, [
        ['retention.ms', 0, '1'],
        ['no.such.key', 0, '1'],
      ]),
    ).toBe(40)
    expect(await alter(1, [['retention.ms', 0, null]])).toBe(42)
    expect(await alter(1, [['retention.ms', 7, '1']])).toBe(42)
    expect(
      await alter(1, [
        ['retention.ms', 0, '1'],
        ['retention.ms', 1, null],
      ]),
    ).toBe(42)
    expect(await alter(1, [['retention.ms', 0, '1']], true)).toBe(0)
    expect(config()).toEqual({ 'segment.bytes': '2048' })
  })

  test('a key that is none can be deleted: it is not set', async () => {
    expect(await alter(1, [['no.such.key', 1, null]])).toBe(0)
    expect(config()).toEqual({ 'segment.bytes': '2048' })
  })

  test('refuses a resource that comes twice', async () => {
    const set = (value: string) => ({
      resourceType: TOPIC,
      resourceName: 't',
      configs: [{ name: 'retention.ms', configOperation: 0, value }],
    })
    const { responses } = await calls.call('IncrementalAlterConfigs', 1, {
      resources: [set('1'), set('2')],
      validateOnly: false,
    })
    expect(responses.map(({ errorCode }) => errorCode)).toEqual([42, 42])
  })
})

test('keys that cannot differ here take the value that is true, and no other', async () => {
  const create = async (name: string, value: string) => {
    const topics = [
      { name: 'x', numPartitions: 1, replicationFactor: 1, assignments: [], configs: [{ name, value }] },
    ]
    return (await calls.call('CreateTopics', 7, { topics, validateOnly: true })).topics[0].errorCode
  }
  for (const [name, value, other] of [
    ['min.insync.replicas', '1', '2'],
    ['preallocate', 'false', 'true'],
    ['remote.storage.enable', 'false', 'true'],
    ['segment.jitter.ms', '0', '10'],
    ['message.timestamp.after.max.ms', '9223372036854775807', '3600000'],
  ]) {
    expect([name, await create(name, value), await create(name, other)]).toEqual([name, 0, 40])
  }
  expect(await create('unclean.leader.election.enable', 'true')).toBe(0)
})

describe('the cluster', () => {
  test.each(versionsOf('DescribeCluster'))('is this node, version %i', async version => {
    const answer = await calls.call('DescribeCluster', version, { includeClusterAuthorizedOperations: true })
    expect(answer).toMatchObject({
      errorCode: 0,
      clusterId: Buffer.from(calls.broker.id.replaceAll('-', ''), 'hex').toString('base64url'),
      controllerId: 1,
      brokers: [{ brokerId: 1, host: 'broker.test', port: 9092, rack: null }],
      clusterAuthorizedOperations: 8096,
    })
  })

  test('has no controllers of its own to show', async () => {
    const code = async (endpointType: number) =>
      (await calls.call('DescribeCluster', 2, { includeClusterAuthorizedOperations: false, endpointType }))
        .errorCode
    expect(await code(2)).toBe(114)
    expect(await code(9)).toBe(115)
  })

  test.each(versionsOf('DescribeLogDirs'))('has its sizes on disk, version %i', async version => {
    append()
    const { bytes } = calls.broker.partition('t', 0).log
    expect(bytes).toBeGreaterThan(0)
    const all = await calls.call('DescribeLogDirs', version, { topics: null })
    const topics = [
      {
        name: 't',
        partitions: [{ partitionIndex: 0, partitionSize: bytes, offsetLag: 0, isFutureKey: false }],
      },
    ]
    expect(all.results).toMatchObject([{ errorCode: 0, logDir: 'data', topics }])
    const some = await calls.call('DescribeLogDirs', version, {
      topics: [
        { topic: 't', partitions: [0, 9] },
        { topic: 'nowhere', partitions: [0] },
      ],
    })
    expect(some.results[0].topics).toEqual(topics)
  })

  test('tells the space of the disk that it is on', async () => {
    const memory = await Calls.open({ path: '/there/is/no/such/folder' })
    const unknown = await memory.call('DescribeLogDirs', 4, { topics: [] })
    expect(unknown.results[0]).toMatchObject({ totalBytes: -1, usableBytes: -1 })
    await memory.broker.close()
    const disk = await Calls.open({ path: tmpdir() })
    const { totalBytes, usableBytes } = (await disk.call('DescribeLogDirs', 4, { topics: [] })).results[0]
    expect(totalBytes).toBeGreaterThan(usableBytes)
    expect(usableBytes).toBeGreaterThan(0)
    await disk.broker.close()
  })

  test('knows its idempotent producers', async () => {
    append({ producerId: 7, producerEpoch: 2, baseSequence: 0 })
    const { topics } = await calls.call('DescribeProducers', 0, {
      topics: [{ name: 't', partitionIndexes: [0, 9] }],
    })
    expect(topics[0].partitions).toMatchObject([
      {
        errorCode: 0,
        activeProducers: [
          {
            producerId: 7,
            producerEpoch: 2,
            lastSequence: 1,
            lastTimestamp: 1_700_000_000_000,
            currentTxnStartOffset: -1,
          },
        ],
      },
      { errorCode: 3, activeProducers: [] },
    ])
  })

  test.each(versionsOf('ElectLeaders'))('never needs another leader, version %i', async version => {
    const some = await calls.call('ElectLeaders', version, {
      topicPartitions: [{ topic: 't', partitions: [0, 9] }],
    })
    expect(some.replicaElectionResults[0].partitionResult.map(({ errorCode }) => errorCode)).toEqual([84, 3])
    const all = await calls.call('ElectLeaders', version, { topicPartitions: null })
    expect(all).toMatchObject({ errorCode: 0, replicaElectionResults: [] })
    if (version === 0) return
    const odd = await calls.call('ElectLeaders', version, { electionType: 5, topicPartitions: null })
    expect(odd.errorCode).toBe(42)
    const topicPartitions = [{ topic: 't', partitions: [0] }]
    const { replicaElectionResults } = await calls.call('ElectLeaders', version, {
      electionType: 5,
      topicPartitions,
    })
    expect(replicaElectionResults[0].partitionResult[0].errorCode).toBe(42)
  })
})

function append(producer?: { producerId: number; producerEpoch: number; baseSequence: number }): void {
  const builder = new BatchBuilder()
  for (const value of ['a', 'b']) builder.append(1_700_000_000_000, null, value, null)
  calls.broker.partition('t', 0).append(builder.close(producer), undefined, true)
}
