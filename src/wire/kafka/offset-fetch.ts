/** OffsetFetch (9): from version 8 for several groups in one request, from 10 with topic ids. */

import { api, array, bool, int16, int32, int64, string, uuid, ZERO_UUID } from './schema.ts'

export const offsetFetchApi = api({
  key: 9,
  name: 'OffsetFetch',
  versions: '0-10',
  flexible: '6+',
  request: {
    groupId: string('0-7', { default: '' }),
    topics: array(
      '0-7',
      { name: string('0-7'), partitionIndexes: array('0-7', 'int32') },
      { nullable: '2-7', default: [] },
    ),
    groups: array(
      '8+',
      {
        groupId: string('8+'),
        memberId: string('9+', { nullable: '9+', default: null }),
        memberEpoch: int32('9+', { default: -1 }),
        topics: array(
          '8+',
          {
            name: string('8-9', { default: '' }),
            topicId: uuid('10+', { default: ZERO_UUID }),
            partitionIndexes: array('8+', 'int32'),
          },
          { nullable: '8+' },
        ),
      },
      { default: [] },
    ),
    requireStable: bool('7+', { default: false }),
  },
  response: {
    throttleTimeMs: int32('3+', { default: 0 }),
    topics: array(
      '0-7',
      {
        name: string('0-7'),
        partitions: array('0-7', {
          partitionIndex: int32('0-7'),
          committedOffset: int64('0-7'),
          committedLeaderEpoch: int32('5-7', { default: -1 }),
          metadata: string('0-7', { nullable: '0-7' }),
          errorCode: int16('0-7'),
        }),
      },
      { default: [] },
    ),
    errorCode: int16('2-7', { default: 0 }),
    groups: array(
      '8+',
      {
        groupId: string('8+'),
        topics: array('8+', {
          name: string('8-9', { default: '' }),
          topicId: uuid('10+', { default: ZERO_UUID }),
          partitions: array('8+', {
            partitionIndex: int32('8+'),
            committedOffset: int64('8+'),
            committedLeaderEpoch: int32('8+', { default: -1 }),
            metadata: string('8+', { nullable: '8+' }),
            errorCode: int16('8+'),
          }),
        }),
        errorCode: int16('8+', { default: 0 }),
      },
      { default: [] },
    ),
  },
})
