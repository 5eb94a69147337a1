/**
 * OffsetForLeaderEpoch: where a leader epoch ends. There is one epoch, 0, and it ends where readers do: never beyond what a power cut
 * leaves, so that the answer is good across restarts.
 */

import { offsetForLeaderEpochApi } from '../../wire/kafka/offset-for-leader-epoch.ts'
import { ZERO_UUID } from '../../wire/kafka/schema.ts'
import { handler } from './handler.ts'
import { findPartition, leaderEpochError } from './topic-lookup.ts'

const LEADER_EPOCH = 0

export const offsetForLeaderEpochHandler = handler(offsetForLeaderEpochApi, (request, { broker }) => ({
  topics: request.topics.map(({ topic, partitions }) => ({
    topic,
    partitions: partitions.map(({ partition, currentLeaderEpoch, leaderEpoch }) => {
      const found = findPartition(broker, topic, ZERO_UUID, partition)
      if (typeof found === 'number') return { partition, errorCode: found }
      const errorCode = leaderEpochError(currentLeaderEpoch)
      if (errorCode !== 0) return { partition, errorCode }
      // An epoch that never was has no end: -1, -1.
      if (leaderEpoch !== LEADER_EPOCH) return { partition, errorCode }
      return { partition, errorCode, leaderEpoch, endOffset: found.highWatermark }
    }),
  })),
}))
