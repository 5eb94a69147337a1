/** AddPartitionsToTxn (24): clients use versions up to 3, brokers later ones, for several transactions in one request. */

import { api, array, bool, int16, int32, int64, string } from './schema.ts'

const addPartitionsToTxnTopic = { name: string('0+'), partitions: array('0+', 'int32') }

const addPartitionsToTxnPartitionResult = { partitionIndex: int32('0+'), partitionErrorCode: int16('0+') }

const addPartitionsToTxnTopicResult = {
  name: string('0+'),
  resultsByPartition: array('0+', addPartitionsToTxnPartitionResult),
}

export const addPartitionsToTxnApi = api({
  key: 24,
  name: 'AddPartitionsToTxn',
  versions: '0-5',
  flexible: '3+',
  request: {
    transactions: array(
      '4+',
      {
        transactionalId: string('4+'),
        producerId: int64('4+'),
        producerEpoch: int16('4+'),
        verifyOnly: bool('4+', { default: false }),
        topics: array('4+', addPartitionsToTxnTopic),
      },
      { default: [] },
    ),
    v3AndBelowTransactionalId: string('0-3', { default: '' }),
    v3AndBelowProducerId: int64('0-3', { default: 0 }),
    v3AndBelowProducerEpoch: int16('0-3', { default: 0 }),
    v3AndBelowTopics: array('0-3', addPartitionsToTxnTopic, { default: [] }),
  },
  response: {
    throttleTimeMs: int32('0+', { default: 0 }),
    errorCode: int16('4+', { default: 0 }),
    resultsByTransaction: array(
      '4+',
      { transactionalId: string('4+'), topicResults: array('4+', addPartitionsToTxnTopicResult) },
      { default: [] },
    ),
    resultsByTopicV3AndBelow: array('0-3', addPartitionsToTxnTopicResult, { default: [] }),
  },
})
