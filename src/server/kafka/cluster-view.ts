/** How this server shows itself as a cluster: its id as Kafka writes ids, and what everybody may do, since everybody may do everything. */

const bits = (operations: readonly number[]): number =>
  operations.reduce((sum, operation) => sum | (1 << operation), 0)

/** Read, write, create, delete, alter, describe, describe and alter configuration. */
export const TOPIC_OPERATIONS = bits([3, 4, 5, 6, 7, 8, 10, 11])
/** Create, alter, describe, cluster action, describe and alter configuration, idempotent write. */
export const CLUSTER_OPERATIONS = bits([5, 7, 8, 9, 10, 11, 12])
export const OPERATIONS_NOT_ASKED_FOR = -2147483648

/** The id of a data directory as Kafka writes a UUID: 22 characters of base64url. One that is no UUID stays as it is. */
export function clusterIdOf(id: string): string {
  const hex = id.replaceAll('-', '')
  return /^[0-9a-f]{32}$/i.test(hex) ? Buffer.from(hex, 'hex').toString('base64url') : id
}
