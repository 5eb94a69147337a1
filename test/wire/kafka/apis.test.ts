/** What a server can offer meets what clients ask for. */

import { describe, expect, it } from 'vitest'
import { type ApiName, apiNameOf, apis } from '../../../src/wire/kafka/apis.ts'
import { type Api, includes } from '../../../src/wire/kafka/schema.ts'

/** Versions that a client has code for, from its source; a client that has one chooses the highest that both have. */
const clients: Record<string, Partial<Record<ApiName, readonly [min: number, max: number]>>> = {
  'kafkajs 2.2.4': {
    Produce: [0, 7],
    Fetch: [0, 11],
    ListOffsets: [0, 3],
    Metadata: [0, 6],
    OffsetCommit: [0, 5],
    OffsetFetch: [1, 4],
    FindCoordinator: [0, 2],
    JoinGroup: [0, 5],
    Heartbeat: [0, 3],
    LeaveGroup: [0, 3],
    SyncGroup: [0, 3],
    DescribeGroups: [0, 2],
    ListGroups: [0, 2],
    ApiVersions: [0, 2],
    CreateTopics: [0, 3],
    DeleteTopics: [0, 1],
    DeleteRecords: [0, 1],
    InitProducerId: [0, 1],
    DescribeConfigs: [0, 2],
    AlterConfigs: [0, 1],
    CreatePartitions: [0, 1],
    DeleteGroups: [0, 1],
  },
  'librdkafka 2.15': {
    Produce: [0, 10],
    Fetch: [0, 16],
    ListOffsets: [0, 7],
    Metadata: [0, 13],
    OffsetCommit: [0, 9],
    OffsetFetch: [0, 9],
    FindCoordinator: [0, 2],
    JoinGroup: [0, 5],
    Heartbeat: [0, 3],
    LeaveGroup: [0, 1],
    SyncGroup: [0, 3],
    DescribeGroups: [0, 5],
    ListGroups: [0, 4],
    ApiVersions: [0, 3],
    CreateTopics: [0, 4],
    DeleteTopics: [0, 4],
    DeleteRecords: [0, 2],
    InitProducerId: [0, 4],
    OffsetForLeaderEpoch: [0, 2],
    DescribeConfigs: [0, 1],
    CreatePartitions: [0, 2],
    DeleteGroups: [0, 2],
    ElectLeaders: [0, 2],
    IncrementalAlterConfigs: [0, 1],
    OffsetDelete: [0, 0],
    ConsumerGroupHeartbeat: [0, 1],
  },
  '@platformatic/kafka': {
    Produce: [7, 11],
    Fetch: [12, 17],
    ListOffsets: [5, 9],
    Metadata: [9, 12],
    OffsetCommit: [8, 9],
    OffsetFetch: [8, 9],
    FindCoordinator: [4, 6],
    JoinGroup: [6, 9],
    Heartbeat: [4, 4],
    LeaveGroup: [4, 5],
    SyncGroup: [4, 5],
    DescribeGroups: [5, 5],
    ListGroups: [4, 5],
    ApiVersions: [3, 4],
    CreateTopics: [7, 7],
    DeleteTopics: [6, 6],
    DeleteRecords: [2, 2],
    InitProducerId: [3, 5],
    OffsetForLeaderEpoch: [4, 4],
    DescribeConfigs: [2, 4],
    IncrementalAlterConfigs: [1, 1],
    ConsumerGroupHeartbeat: [0, 1],
  },
  'Java client 4.3': {
    Produce: [3, 13],
    Fetch: [4, 18],
    ListOffsets: [1, 11],
    Metadata: [0, 13],
    OffsetCommit: [2, 10],
    OffsetFetch: [1, 10],
    FindCoordinator: [0, 6],
    JoinGroup: [0, 9],
    DescribeGroups: [0, 6],
    InitProducerId: [0, 5],
    DescribeLogDirs: [1, 5],
    DescribeCluster: [0, 2],
    ConsumerGroupDescribe: [0, 1],
    DescribeTopicPartitions: [0, 0],
  },
}

describe.each(Object.entries(clients))('%s', (_, wanted) => {
  it.each(Object.entries(wanted))('%s is offered up to what the client has', (name, [, max]) => {
    expect(includes(apis[name as ApiName].served, max)).toBe(true)
  })
})

describe('the table', () => {
  it('is ordered by keys, and names are found by them', () => {
    const keys = Object.values(apis).map(({ key }) => key)
    expect(keys).toEqual([...keys].sort((a, b) => a - b))
    expect(new Set(keys).size).toBe(keys.length)
    for (const [name, api] of Object.entries<Api>(apis)) {
      expect(api.name).toBe(name)
      expect(apiNameOf(api.key)).toBe(name)
    }
    expect(apiNameOf(9999)).toBeUndefined()
  })

  it('offers Produce from version 0: librdkafka does not compress otherwise', () => {
    expect(apis.Produce.served.min).toBe(0)
  })

  it('offers nothing without an end', () => {
    for (const { served } of Object.values<Api>(apis)) expect(served.max).toBeLessThan(100)
  })
})
