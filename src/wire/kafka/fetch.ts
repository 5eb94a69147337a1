/**
 * Fetch (1): reads record batches, waits for them if there are too few. From version 7 with sessions, which leave out what
 * has not changed; from 12 with the leader epoch that was read last; from 13 with topic ids in place of names.
 *
 * Versions 0 to 3 are not offered: their clients cannot read the record batch.
 */

import { api, array, int8, int16, int32, int64, records, string, struct, uuid, ZERO_UUID } from './schema.ts'

export const fetchApi = api({
  key: 1,
  name: 'Fetch',
  versions: '0-18',
  served: '4-18',
  flexible: '12+',
  request: {
    clusterId: string('12+', { nullable: '12+', default: null, tag: 0 }),
    replicaId: int32('0-14', { default: -1 }),
    replicaState: struct(
      '15+',
      { replicaId: int32('15+', { default: -1 }), replicaEpoch: int64('15+', { default: -1 }) },
      { tag: 1 },
    ),
    maxWaitMs: int32('0+'),
    minBytes: int32('0+'),
    maxBytes: int32('3+', { default: 0x7fffffff }),
    isolationLevel: int8('4+', { default: 0 }),
    sessionId: int32('7+', { default: 0 }),
    sessionEpoch: int32('7+', { default: -1 }),
    topics: array('0+', {
      topic: string('0-12', { default: '' }),
      topicId: uuid('13+', { default: ZERO_UUID }),
      partitions: array('0+', {
        partition: int32('0+'),
        currentLeaderEpoch: int32('9+', { default: -1 }),
        fetchOffset: int64('0+'),
        lastFetchedEpoch: int32('12+', { default: -1 }),
        logStartOffset: int64('5+', { default: -1 }),
        partitionMaxBytes: int32('0+'),
        replicaDirectoryId: uuid('17+', { default: ZERO_UUID, tag: 0 }),
        // no mark: Kafka writes the largest int64
        highWatermark: int64('18+', { default: Number.MAX_SAFE_INTEGER, tag: 1 }),
      }),
    }),
    forgottenTopicsData: array(
      '7+',
      {
        topic: string('7-12', { default: '' }),
        topicId: uuid('13+', { default: ZERO_UUID }),
        partitions: array('7+', 'int32'),
      },
      { default: [] },
    ),
    rackId: string('11+', { default: '' }),
  },
  response: {
    throttleTimeMs: int32('1+', { default: 0 }),
    errorCode: int16('7+', { default: 0 }),
    sessionId: int32('7+', { default: 0 }),
    responses: array('0+', {
      topic: string('0-12', { default: '' }),
      topicId: uuid('13+', { default: ZERO_UUID }),
      partitions: array('0+', {
        partitionIndex: int32('0+'),
        errorCode: int16('0+'),
        highWatermark: int64('0+'),
        lastStableOffset: int64('4+', { default: -1 }),
        logStartOffset: int64('5+', { default: -1 }),
        divergingEpoch: struct(
          '12+',
          { epoch: int32('12+', { default: -1 }), endOffset: int64('12+', { default: -1 }) },
          { tag: 0 },
        ),
        currentLeader: struct(
          '12+',
          { leaderId: int32('12+', { default: -1 }), leaderEpoch: int32('12+', { default: -1 }) },
          { tag: 1 },
        ),
        snapshotId: struct(
          '12+',
          { endOffset: int64('0+', { default: -1 }), epoch: int32('0+', { default: -1 }) },
          { tag: 2 },
        ),
        abortedTransactions: array(
          '4+',
          { producerId: int64('4+'), firstOffset: int64('4+') },
          { nullable: '4+', default: [] },
        ),
        preferredReadReplica: int32('11+', { default: -1 }),
        records: records('0+', { nullable: '0+' }),
      }),
    }),
    nodeEndpoints: array(
      '16+',
      {
        nodeId: int32('16+'),
        host: string('16+'),
        port: int32('16+'),
        rack: string('16+', { nullable: '16+', default: null }),
      },
      { tag: 0 },
    ),
  },
})
