/**
 * ListOffsets (2): the first offset at or after a time, or at a mark: -1 latest, -2 earliest, -3 largest timestamp, -4 and
 * -5 of tiered storage. Version 0 answers with a list of offsets instead.
 */

import { api, array, int8, int16, int32, int64, string } from './schema.ts'

export const listOffsetsApi = api({
  key: 2,
  name: 'ListOffsets',
  versions: '0-11',
  flexible: '6+',
  request: {
    replicaId: int32('0+'),
    isolationLevel: int8('2+', { default: 0 }),
    topics: array('0+', {
      name: string('0+'),
      partitions: array('0+', {
        partitionIndex: int32('0+'),
        currentLeaderEpoch: int32('4+', { default: -1 }),
        timestamp: int64('0+'),
        maxNumOffsets: int32('0', { default: 1 }),
      }),
    }),
    timeoutMs: int32('10+', { default: 0 }),
  },
  response: {
    throttleTimeMs: int32('2+', { default: 0 }),
    topics: array('0+', {
      name: string('0+'),
      partitions: array('0+', {
        partitionIndex: int32('0+'),
        errorCode: int16('0+'),
        oldStyleOffsets: array('0', 'int64', { default: [] }),
        timestamp: int64('1+', { default: -1 }),
        offset: int64('1+', { default: -1 }),
        leaderEpoch: int32('4+', { default: -1 }),
      }),
    }),
  },
})
