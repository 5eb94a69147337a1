/**
 * The table of all APIs of Kafka's protocol that we have a schema for. What a server offers is derived from it and from
 * the handlers that it has; see `Api.served`.
 *
 * Not here: the APIs between brokers, quotas, delegation tokens, features, telemetry, share groups and streams groups.
 */

import { addOffsetsToTxnApi } from './add-offsets-to-txn.ts'
import { addPartitionsToTxnApi } from './add-partitions-to-txn.ts'
import { alterConfigsApi } from './alter-configs.ts'
import { apiVersionsApi } from './api-versions.ts'
import { consumerGroupDescribeApi } from './consumer-group-describe.ts'
import { consumerGroupHeartbeatApi } from './consumer-group-heartbeat.ts'
import { createAclsApi } from './create-acls.ts'
import { createPartitionsApi } from './create-partitions.ts'
import { createTopicsApi } from './create-topics.ts'
import { deleteAclsApi } from './delete-acls.ts'
import { deleteGroupsApi } from './delete-groups.ts'
import { deleteRecordsApi } from './delete-records.ts'
import { deleteTopicsApi } from './delete-topics.ts'
import { describeAclsApi } from './describe-acls.ts'
import { describeClusterApi } from './describe-cluster.ts'
import { describeConfigsApi } from './describe-configs.ts'
import { describeGroupsApi } from './describe-groups.ts'
import { describeLogDirsApi } from './describe-log-dirs.ts'
import { describeProducersApi } from './describe-producers.ts'
import { describeTopicPartitionsApi } from './describe-topic-partitions.ts'
import { describeTransactionsApi } from './describe-transactions.ts'
import { electLeadersApi } from './elect-leaders.ts'
import { endTxnApi } from './end-txn.ts'
import { fetchApi } from './fetch.ts'
import { findCoordinatorApi } from './find-coordinator.ts'
import { heartbeatApi } from './heartbeat.ts'
import { incrementalAlterConfigsApi } from './incremental-alter-configs.ts'
import { initProducerIdApi } from './init-producer-id.ts'
import { joinGroupApi } from './join-group.ts'
import { leaveGroupApi } from './leave-group.ts'
import { listGroupsApi } from './list-groups.ts'
import { listOffsetsApi } from './list-offsets.ts'
import { listTransactionsApi } from './list-transactions.ts'
import { metadataApi } from './metadata.ts'
import { offsetCommitApi } from './offset-commit.ts'
import { offsetDeleteApi } from './offset-delete.ts'
import { offsetFetchApi } from './offset-fetch.ts'
import { offsetForLeaderEpochApi } from './offset-for-leader-epoch.ts'
import { produceApi } from './produce.ts'
import { saslAuthenticateApi } from './sasl-authenticate.ts'
import { saslHandshakeApi } from './sasl-handshake.ts'
import type { Decoded, Encodable, Message } from './schema.ts'
import { syncGroupApi } from './sync-group.ts'
import { txnOffsetCommitApi } from './txn-offset-commit.ts'
import { writeTxnMarkersApi } from './write-txn-markers.ts'

/** By name, in order of their keys. */
export const apis = {
  Produce: produceApi,
  Fetch: fetchApi,
  ListOffsets: listOffsetsApi,
  Metadata: metadataApi,
  OffsetCommit: offsetCommitApi,
  OffsetFetch: offsetFetchApi,
  FindCoordinator: findCoordinatorApi,
  JoinGroup: joinGroupApi,
  Heartbeat: heartbeatApi,
  LeaveGroup: leaveGroupApi,
  SyncGroup: syncGroupApi,
  DescribeGroups: describeGroupsApi,
  ListGroups: listGroupsApi,
  SaslHandshake: saslHandshakeApi,
  ApiVersions: apiVersionsApi,
  CreateTopics: createTopicsApi,
  DeleteTopics: deleteTopicsApi,
  DeleteRecords: deleteRecordsApi,
  InitProducerId: initProducerIdApi,
  OffsetForLeaderEpoch: offsetForLeaderEpochApi,
  AddPartitionsToTxn: addPartitionsToTxnApi,
  AddOffsetsToTxn: addOffsetsToTxnApi,
  EndTxn: endTxnApi,
  WriteTxnMarkers: writeTxnMarkersApi,
  TxnOffsetCommit: txnOffsetCommitApi,
  DescribeAcls: describeAclsApi,
  CreateAcls: createAclsApi,
  DeleteAcls: deleteAclsApi,
  DescribeConfigs: describeConfigsApi,
  AlterConfigs: alterConfigsApi,
  DescribeLogDirs: describeLogDirsApi,
  SaslAuthenticate: saslAuthenticateApi,
  CreatePartitions: createPartitionsApi,
  DeleteGroups: deleteGroupsApi,
  ElectLeaders: electLeadersApi,
  IncrementalAlterConfigs: incrementalAlterConfigsApi,
  OffsetDelete: offsetDeleteApi,
  DescribeCluster: describeClusterApi,
  DescribeProducers: describeProducersApi,
  DescribeTransactions: describeTransactionsApi,
  ListTransactions: listTransactionsApi,
  ConsumerGroupHeartbeat: consumerGroupHeartbeatApi,
  ConsumerGroupDescribe: consumerGroupDescribeApi,
  DescribeTopicPartitions: describeTopicPartitionsApi,
} as const

export type ApiName = keyof typeof apis

/** What a handler gets. */
export type RequestOf<Name extends ApiName> =
  (typeof apis)[Name]['request'] extends Message<infer F> ? Decoded<F> : never

/** What a handler gives. */
export type ResponseOf<Name extends ApiName> =
  (typeof apis)[Name]['response'] extends Message<infer F> ? Encodable<F> : never

const byKey = new Map<number, ApiName>()
for (const [name, { key }] of Object.entries(apis)) byKey.set(key, name as ApiName)

/** The name of the API with this key; undefined if we have none. */
export function apiNameOf(key: number): ApiName | undefined {
  return byKey.get(key)
}
