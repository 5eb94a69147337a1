/**
 * What the steps of the differential run are written with: a connection to either server, and results as plain values in which error
 * codes are names and what must differ (ids, times, ports) is left out or said in a word.
 */

import { BatchBuilder, type CloseOptions } from '../../src/record/builder.ts'
import type { ApiName } from '../../src/wire/kafka/apis.ts'
import { RawClient, type RequestInput, type ResponseOutput } from '../raw-client.ts'

export const WAIT_MS = 10_000
const SETTLE_MS = 80
/** Records of the steps have timestamps near this: the start of the run. */
export const NOW = Date.now()

/** One server in the run. */
export class Session {
  readonly port: number
  readonly #clients: RawClient[] = []
  #main: RawClient | null = null
  /** What steps remember for later ones. */
  readonly memory = new Map<string, unknown>()

  constructor(port: number) {
    this.port = port
  }

  /** A connection of its own: for requests that close it, or that must not wait for others. */
  async another(clientId?: string): Promise<RawClient> {
    const client = await RawClient.connect(this.port, '127.0.0.1', clientId)
    this.#clients.push(client)
    return client
  }

  async send<Name extends ApiName>(
    name: Name,
    version: number,
    body: RequestInput<Name>,
  ): Promise<ResponseOutput<Name>> {
    if (this.#main === null || this.#main.isClosed) this.#main = await this.another()
    return this.#main.request(name, version, body)
  }

  /** What the controller has decided reaches the broker a moment later: in Kafka these are two. */
  settle(ms = SETTLE_MS): Promise<void> {
    return new Promise(resolve => setTimeout(resolve, ms))
  }

  remember<T>(name: string, value: T): T {
    this.memory.set(name, value)
    return value
  }

  recall<T>(name: string): T {
    if (!this.memory.has(name)) throw new Error(`no step before has remembered ${name}`)
    return this.memory.get(name) as T
  }

  close(): void {
    for (const client of this.#clients) client.close()
  }
}

/** One thing to do; what it resolves with is compared. */
export interface Step {
  readonly name: string
  readonly run: (session: Session) => Promise<unknown>
}

export const step = (name: string, run: (session: Session) => Promise<unknown>): Step => ({ name, run })

/** The answer of `send`, or that the connection was closed instead. */
export async function orClosed<T>(answer: Promise<T>): Promise<T | string> {
  try {
    return await answer
  } catch (error) {
    return (error as Error).message.includes('connection') ? 'connection closed' : String(error)
  }
}

/** Kafka's names of its error codes, as far as they come up. */
const names: Readonly<Record<number, string>> = {
  [-1]: 'UNKNOWN_SERVER_ERROR',
  0: 'NONE',
  1: 'OFFSET_OUT_OF_RANGE',
  2: 'CORRUPT_MESSAGE',
  3: 'UNKNOWN_TOPIC_OR_PARTITION',
  4: 'INVALID_FETCH_SIZE',
  6: 'NOT_LEADER_OR_FOLLOWER',
  10: 'MESSAGE_TOO_LARGE',
  12: 'OFFSET_METADATA_TOO_LARGE',
  14: 'COORDINATOR_LOAD_IN_PROGRESS',
  15: 'COORDINATOR_NOT_AVAILABLE',
  16: 'NOT_COORDINATOR',
  17: 'INVALID_TOPIC_EXCEPTION',
  21: 'INVALID_REQUIRED_ACKS',
  22: 'ILLEGAL_GENERATION',
  23: 'INCONSISTENT_GROUP_PROTOCOL',
  24: 'INVALID_GROUP_ID',
  25: 'UNKNOWN_MEMBER_ID',
  26: 'INVALID_SESSION_TIMEOUT',
  27: 'REBALANCE_IN_PROGRESS',
  32: 'INVALID_TIMESTAMP',
  35: 'UNSUPPORTED_VERSION',
  36: 'TOPIC_ALREADY_EXISTS',
  37: 'INVALID_PARTITIONS',
  38: 'INVALID_REPLICATION_FACTOR',
  39: 'INVALID_REPLICA_ASSIGNMENT',
  40: 'INVALID_CONFIG',
  42: 'INVALID_REQUEST',
  43: 'UNSUPPORTED_FOR_MESSAGE_FORMAT',
  44: 'POLICY_VIOLATION',
  45: 'OUT_OF_ORDER_SEQUENCE_NUMBER',
  46: 'DUPLICATE_SEQUENCE_NUMBER',
  47: 'INVALID_PRODUCER_EPOCH',
  48: 'INVALID_TXN_STATE',
  49: 'INVALID_PRODUCER_ID_MAPPING',
  50: 'INVALID_TRANSACTION_TIMEOUT',
  53: 'TRANSACTIONAL_ID_AUTHORIZATION_FAILED',
  56: 'KAFKA_STORAGE_ERROR',
  59: 'UNKNOWN_PRODUCER_ID',
  68: 'NON_EMPTY_GROUP',
  69: 'GROUP_ID_NOT_FOUND',
  70: 'FETCH_SESSION_ID_NOT_FOUND',
  71: 'INVALID_FETCH_SESSION_EPOCH',
  74: 'FENCED_LEADER_EPOCH',
  75: 'UNKNOWN_LEADER_EPOCH',
  76: 'UNSUPPORTED_COMPRESSION_TYPE',
  78: 'OFFSET_NOT_AVAILABLE',
  79: 'MEMBER_ID_REQUIRED',
  80: 'PREFERRED_LEADER_NOT_AVAILABLE',
  82: 'FENCED_INSTANCE_ID',
  83: 'ELIGIBLE_LEADERS_NOT_AVAILABLE',
  84: 'ELECTION_NOT_NEEDED',
  86: 'GROUP_SUBSCRIBED_TO_TOPIC',
  87: 'INVALID_RECORD',
  88: 'UNSTABLE_OFFSET_COMMIT',
  90: 'PRODUCER_FENCED',
  100: 'UNKNOWN_TOPIC_ID',
  106: 'FETCH_SESSION_TOPIC_ID_ERROR',
  103: 'INCONSISTENT_TOPIC_ID',
  105: 'TRANSACTIONAL_ID_NOT_FOUND',
  110: 'FENCED_MEMBER_EPOCH',
  112: 'UNSUPPORTED_ASSIGNOR',
  113: 'STALE_MEMBER_EPOCH',
  114: 'MISMATCHED_ENDPOINT_TYPE',
  115: 'UNSUPPORTED_ENDPOINT_TYPE',
}

export const error = (code: number): string => names[code] ?? `error ${code}`

/** One of Kafka's record batches. */
export function batch(
  values: readonly (string | null)[],
  options: CloseOptions = {},
  timestamp = NOW,
): Buffer {
  const builder = new BatchBuilder()
  for (const [index, value] of values.entries()) builder.append(timestamp + index, 'key', value, null)
  return Buffer.from(builder.close(options))
}

/** A batch with some bytes changed, its checksum set right again unless `checksum` is false. */
export function changed(
  bytes: Buffer,
  change: (copy: Buffer) => void,
  crc?: (body: Buffer) => number,
): Buffer {
  const copy = Buffer.from(bytes)
  change(copy)
  if (crc !== undefined) copy.writeUInt32BE(crc(copy.subarray(21)), 17)
  return copy
}
