/** OffsetCommit (8): from version 9 for members of the new protocol too, from 10 with topic ids. */

import { api, array, int16, int32, int64, string, uuid, ZERO_UUID } from './schema.ts'

export const offsetCommitApi = api({
  key: 8,
  name: 'OffsetCommit',
  versions: '0-10',
  flexible: '8+',
  request: {
    groupId: string('0+'),
    generationIdOrMemberEpoch: int32('1+', { default: -1 }),
    memberId: string('1+', { default: '' }),
    groupInstanceId: string('7+', { nullable: '7+', default: null }),
    retentionTimeMs: int64('2-4', { default: -1 }),
    topics: array('0+', {
      name: string('0-9', { default: '' }),
      topicId: uuid('10+', { default: ZERO_UUID }),
      partitions: array('0+', {
        partitionIndex: int32('0+'),
        committedOffset: int64('0+'),
        committedLeaderEpoch: int32('6+', { default: -1 }),
        commitTimestamp: int64('1', { default: -1 }),
        committedMetadata: string('0+', { nullable: '0+' }),
      }),
    }),
  },
  response: {
    throttleTimeMs: int32('3+', { default: 0 }),
    topics: array('0+', {
      name: string('0-9', { default: '' }),
      topicId: uuid('10+', { default: ZERO_UUID }),
      partitions: array('0+', { partitionIndex: int32('0+'), errorCode: int16('0+') }),
    }),
  },
})
