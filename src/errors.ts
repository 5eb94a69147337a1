/**
 * The one table of errors. Every refusal that a user can meet is an entry here; each server projects it from the
 * same row (Kafka error code, AMQP reply code and scope, HTTP status), and docs/ERRORS.md is generated from it.
 *
 * A refusal is thrown as a `SluiceError`, or returned as a value where it belongs to one item of many. A bug is not a
 * refusal: it is an assertion and stops the process.
 */

interface ErrorRow {
  /** What it means and what to do about it, as printed in the documentation. */
  readonly meaning: string
  /** Whether the same call may succeed later without anything being changed by the caller. */
  readonly retriable: boolean
  /** Kafka protocol error code (https://kafka.apache.org/protocol#protocol_error_codes). */
  readonly kafka: number
  /** AMQP 0-9-1 reply code, and whether it closes the channel or the connection. */
  readonly amqp: readonly [code: number, scope: 'channel' | 'connection']
  readonly http: number
}

const row = (
  kafka: number,
  http: number,
  amqp: readonly [number, 'channel' | 'connection'],
  retriable: boolean,
  meaning: string,
): ErrorRow => ({ kafka, http, amqp, retriable, meaning })

const channel = (code: number) => [code, 'channel'] as const
const connection = (code: number) => [code, 'connection'] as const

export const errorTable = {
  // topics and names
  UNKNOWN_TOPIC: row(
    3,
    404,
    channel(404),
    false,
    'No topic or partition has this name. Create it first, or open with `autoCreateTopics`.',
  ),
  TOPIC_EXISTS: row(36, 409, channel(406), false, 'A topic with this name exists already.'),
  INVALID_TOPIC: row(
    17,
    400,
    channel(406),
    false,
    'A topic name has 1 to 249 characters from a-z A-Z 0-9 . _ - and is neither "." nor "..".',
  ),
  INVALID_PARTITIONS: row(
    37,
    400,
    channel(406),
    false,
    'The number of partitions is out of range, or lower than the topic has already.',
  ),
  INVALID_PARTITION: row(
    3,
    400,
    channel(406),
    false,
    'The message names a partition that the topic does not have.',
  ),
  INVALID_CONFIG: row(
    40,
    400,
    channel(406),
    false,
    'A configuration key is unknown, or its value is of the wrong type or out of range.',
  ),
  INVALID_ARGUMENT: row(
    42,
    400,
    channel(406),
    false,
    'An argument of the call is missing, of the wrong type or out of range.',
  ),
  // records
  MESSAGE_TOO_LARGE: row(
    10,
    413,
    channel(311),
    false,
    'The message, or the batch it came in, is larger than `max.message.bytes` of the topic.',
  ),
  INVALID_RECORD: row(
    87,
    400,
    channel(406),
    false,
    'The record or its batch does not have the shape that the format asks for.',
  ),
  CORRUPT_MESSAGE: row(
    2,
    400,
    connection(501),
    true,
    'The batch that was sent fails its checksum or its length: it was damaged on the way.',
  ),
  UNSUPPORTED_COMPRESSION: row(
    76,
    400,
    channel(406),
    false,
    'The batch names a compression that does not exist.',
  ),
  INVALID_TIMESTAMP: row(32, 400, channel(406), false, 'The timestamp of the message is out of range.'),
  SCHEMA_MISMATCH: row(87, 422, channel(406), false, 'The value does not pass the schema of the topic.'),
  CODEC_FAILED: row(
    87,
    422,
    channel(406),
    false,
    'The codec of the topic cannot encode the value, or cannot decode the stored bytes.',
  ),
  // workers and queues
  REJECTED: row(
    121,
    422,
    channel(406),
    false,
    'The handler rejected the message: it becomes a dead letter, whatever the schedule of retries says.',
  ),
  QUEUE_EXISTS: row(-1, 409, channel(406), false, 'The queue is registered already, under this name.'),
  QUEUE_FULL: row(-1, 429, channel(311), true, 'The queue holds as many messages as it may.'),
  LEASE_EXPIRED: row(
    121,
    410,
    channel(406),
    false,
    'The visibility time-out of the message is over, or it was acknowledged or given back before: it may be with somebody else by now.',
  ),
  // dead letters
  UNKNOWN_DEAD_LETTER: row(
    87,
    404,
    channel(404),
    false,
    'There is no dead letter with this id: it never was one, or it was replayed or discarded.',
  ),
  DATABASE_FAILED: row(
    -1,
    503,
    channel(541),
    true,
    "The user's database did not do what it was asked for: it is away, full, or took something back. Nothing of the transaction has happened.",
  ),
  ALREADY_CLAIMED: row(
    -1,
    409,
    channel(406),
    true,
    'Somebody else is handling the message with this id, or was when he died; then the claim ends with its lease.',
  ),
  DEDUPLICATION_FULL: row(
    -1,
    507,
    channel(311),
    true,
    'More message ids are to be remembered than there is room for: the oldest are forgotten, and a duplicate of theirs would be delivered.',
  ),
  DRIVER_MISSING: row(
    -1,
    501,
    channel(540),
    false,
    'The package of the database driver is not installed. The error names it.',
  ),
  ALERT_FAILED: row(
    -1,
    502,
    channel(541),
    true,
    'Alerts could not look at everything, or somebody could not be told of one. The next look comes all the same.',
  ),
  // reading
  OFFSET_OUT_OF_RANGE: row(
    1,
    416,
    channel(404),
    false,
    'The offset lies before the start or after the end of the partition.',
  ),
  CORRUPT_LOG: row(
    -1,
    500,
    connection(541),
    false,
    'Stored bytes fail their checksum. They are not served; the error names file and position. Seek past them, or restore the file.',
  ),
  // producers
  OUT_OF_ORDER_SEQUENCE: row(
    45,
    409,
    channel(406),
    false,
    'An idempotent batch does not follow the last one of its producer: something before it is missing.',
  ),
  DUPLICATE_SEQUENCE: row(
    46,
    409,
    channel(406),
    false,
    'An idempotent batch repeats one so old that its offset is no longer remembered. It was stored the first time.',
  ),
  INVALID_PRODUCER_EPOCH: row(
    47,
    409,
    channel(406),
    false,
    'A newer producer with the same id has taken over.',
  ),
  UNKNOWN_PRODUCER: row(59, 409, channel(406), false, 'The producer id is not known to the partition.'),
  PRODUCER_CLOSED: row(-1, 409, channel(406), false, 'The producer was closed.'),
  BUFFER_FULL: row(
    -1,
    429,
    channel(311),
    true,
    'The buffer of the producer is full and the wait for room is over, or waiting was not asked for.',
  ),
  CIRCUIT_OPEN: row(
    -1,
    503,
    channel(406),
    true,
    'The producer has had one failure after another and takes nothing for a while (`circuitBreaker`). The error names the last one.',
  ),
  // delay
  UNKNOWN_DELAYED_MESSAGE: row(
    -1,
    404,
    channel(404),
    false,
    'No message with this id or name waits: it was delivered or cancelled, or is due within a second and so on its way.',
  ),
  UNKNOWN_SCHEDULE: row(-1, 404, channel(404), false, 'There is no schedule with this name.'),
  // half messages
  UNKNOWN_HALF_MESSAGE: row(
    -1,
    404,
    channel(404),
    false,
    'There is no half message with this id, or it was decided so long ago that nothing is left of it.',
  ),
  HALF_DECIDED: row(
    -1,
    409,
    channel(406),
    false,
    'The half message was decided before, and not like this: the first decision counts.',
  ),
  // transactions
  INVALID_TXN_STATE: row(
    48,
    409,
    channel(406),
    false,
    'The transaction is not in a state that allows this: nothing was begun, or the partition is not part of it.',
  ),
  INVALID_PRODUCER_ID_MAPPING: row(
    49,
    409,
    channel(406),
    false,
    'The producer id does not belong to the transactional id, or the transactional id has expired.',
  ),
  INVALID_TRANSACTION_TIMEOUT: row(
    50,
    400,
    channel(406),
    false,
    'The transaction time-out is not between 1 ms and `transaction.max.timeout.ms`.',
  ),
  CONCURRENT_TRANSACTIONS: row(
    51,
    409,
    channel(406),
    true,
    'The transaction before is still being ended. Try again.',
  ),
  PRODUCER_FENCED: row(
    90,
    409,
    channel(406),
    false,
    'A newer producer with the same transactional id has taken over, or the transaction took longer than its time-out and was aborted.',
  ),
  TRANSACTION_ABORTABLE: row(
    120,
    409,
    channel(406),
    false,
    'The transaction cannot go on, and is aborted. The next one may succeed.',
  ),
  UNKNOWN_TRANSACTIONAL_ID: row(105, 404, channel(404), false, 'There is no such transactional id.'),
  UNSTABLE_OFFSET_COMMIT: row(
    88,
    409,
    channel(406),
    true,
    'Offsets of the partition wait for the end of a transaction. Try again.',
  ),
  // groups
  INVALID_GROUP: row(24, 400, channel(406), false, 'The group id is empty or too long.'),
  UNKNOWN_GROUP: row(69, 404, channel(404), false, 'There is no such consumer group.'),
  GROUP_NOT_EMPTY: row(68, 409, channel(406), false, 'The group has members; stop them first.'),
  GROUP_FULL: row(81, 429, channel(406), false, 'The group has as many members as `group.max.size` allows.'),
  UNKNOWN_MEMBER: row(
    25,
    409,
    channel(406),
    false,
    'The member is not in the group: its session timed out, or it left. Join again.',
  ),
  MEMBER_ID_REQUIRED: row(79, 409, channel(406), true, 'A member joins with the id that this answer gives.'),
  FENCED_MEMBER: row(82, 409, channel(406), false, 'Another member has taken the same group instance id.'),
  ILLEGAL_GENERATION: row(
    22,
    409,
    channel(406),
    false,
    'The group has moved on to another generation: the partitions may belong to someone else now.',
  ),
  REBALANCE_IN_PROGRESS: row(27, 409, channel(406), true, 'The group is rebalancing; join again.'),
  INCONSISTENT_GROUP_PROTOCOL: row(
    23,
    409,
    channel(406),
    false,
    'The member shares no assignment strategy with the group.',
  ),
  INVALID_SESSION_TIMEOUT: row(
    26,
    400,
    channel(406),
    false,
    'The session time-out is outside what the broker allows.',
  ),
  FENCED_MEMBER_EPOCH: row(
    110,
    409,
    channel(406),
    false,
    'The member epoch is not the one that the coordinator knows: the member gives up its partitions and joins again.',
  ),
  UNRELEASED_INSTANCE_ID: row(
    111,
    409,
    channel(406),
    false,
    'The group instance id is still in use by another member; it must leave, or its session end, first.',
  ),
  UNSUPPORTED_ASSIGNOR: row(
    112,
    400,
    channel(406),
    false,
    'The group coordinator has no such assignor; it has `uniform` and `range`.',
  ),
  STALE_MEMBER_EPOCH: row(
    113,
    409,
    channel(406),
    false,
    'The member epoch is not the current one. Repeat with the epoch that the next heartbeat gives.',
  ),
  INVALID_REGULAR_EXPRESSION: row(
    128,
    400,
    channel(406),
    false,
    'The regular expression of the subscription cannot be read. Its syntax is that of RE2.',
  ),
  OFFSET_METADATA_TOO_LARGE: row(
    12,
    413,
    channel(406),
    false,
    'The metadata of the committed offset is too long.',
  ),
  CONSUMER_CLOSED: row(-1, 409, channel(406), false, 'The consumer was closed.'),
  // the house
  CLOSED: row(-1, 503, connection(320), false, 'The engine was closed; open it again.'),
  TIMED_OUT: row(7, 504, connection(541), true, 'The call took longer than it was allowed to.'),
  UNREACHABLE: row(
    -1,
    503,
    connection(541),
    true,
    'No server answers at the address, or the connection to it was lost. Is it running? `npm start` or `sluice serve` starts one.',
  ),
  UNAVAILABLE: row(
    8,
    503,
    connection(541),
    true,
    'The cluster cannot do this at the moment: a leader or a coordinator is being chosen, or replicas are missing.',
  ),
  ACCESS_DENIED: row(29, 403, channel(403), false, 'The server does not allow this to whoever asks.'),
  DISK_FULL: row(
    56,
    507,
    channel(406),
    true,
    'The disk has no room. Nothing of the refused batch was stored.',
  ),
  STORAGE_FAILED: row(
    56,
    500,
    connection(541),
    false,
    'A write to disk failed in a way that leaves unknown what is stored. The partition takes no more writes until it is opened again.',
  ),
  DIRECTORY_IN_USE: row(
    -1,
    409,
    connection(541),
    false,
    'Another process has this data directory open. The error names the holder.',
  ),
  NOT_A_DATA_DIRECTORY: row(
    -1,
    400,
    connection(541),
    false,
    'The directory holds files that are not of sluice, or of a newer format.',
  ),
  FOREIGN_FILE: row(
    -1,
    400,
    connection(541),
    false,
    'The file is not a log segment, or its name is not that of one.',
  ),
  UNSUPPORTED: row(35, 501, connection(540), false, 'This engine does not offer the operation.'),
  INVALID_URL: row(
    -1,
    400,
    connection(541),
    false,
    'The address is neither "memory:", a directory, nor a known scheme with what belongs to it.',
  ),
  // servers
  MALFORMED_REQUEST: row(
    42,
    400,
    connection(502),
    false,
    'Bytes that came over the network do not have the shape that the protocol asks for. The connection is closed.',
  ),
  UNKNOWN_ENDPOINT: row(
    -1,
    404,
    channel(404),
    false,
    'The server has nothing at this path, or not for this HTTP method.',
  ),
  UNSUPPORTED_MEDIA_TYPE: row(
    -1,
    415,
    channel(406),
    false,
    'The body of an HTTP request is JSON, and says so: `content-type: application/json`.',
  ),
  BODY_TOO_LARGE: row(
    10,
    413,
    channel(311),
    false,
    'The body of the HTTP request is larger than `http-body-bytes-max`.',
  ),
  TOO_MANY_CONNECTIONS: row(
    -1,
    503,
    connection(320),
    true,
    'As many connections are open as `connections-max` allows.',
  ),
  FORBIDDEN_ORIGIN: row(-1, 403, connection(403), false, 'A web page of another origin sent the request.'),
  ADDRESS_IN_USE: row(
    -1,
    409,
    connection(541),
    false,
    'Something else listens on the port already, or this machine does not have the address.',
  ),
  INSECURE: row(
    -1,
    400,
    connection(541),
    false,
    'The server would be open to other machines without TLS or authentication. Listen on loopback, or say `insecure`.',
  ),
  INTERNAL: row(
    -1,
    500,
    connection(541),
    false,
    'A defect in the server. Its log has the stack; please report it.',
  ),
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof errorTable

/**
 * Kafka's error codes that have no row of their own, or, as 56, stand for less than the first row with them: what a
 * broker that is not ours may answer.
 */
const otherKafkaCodes: Readonly<Record<number, ErrorCode>> = {
  5: 'UNAVAILABLE', // leader not available
  6: 'UNAVAILABLE', // not leader or follower
  9: 'UNAVAILABLE', // replica not available
  13: 'UNAVAILABLE', // network exception between brokers
  14: 'UNAVAILABLE', // coordinator load in progress
  15: 'UNAVAILABLE', // coordinator not available
  16: 'UNAVAILABLE', // not coordinator
  18: 'MESSAGE_TOO_LARGE', // record list too large
  19: 'UNAVAILABLE', // not enough replicas
  20: 'UNAVAILABLE', // not enough replicas after append
  30: 'ACCESS_DENIED', // group
  31: 'ACCESS_DENIED', // cluster
  33: 'UNSUPPORTED', // SASL mechanism
  34: 'ACCESS_DENIED', // illegal SASL state
  38: 'INVALID_CONFIG', // replication factor
  39: 'INVALID_CONFIG', // replica assignment
  41: 'UNAVAILABLE', // not controller
  43: 'UNSUPPORTED', // message format
  44: 'INVALID_CONFIG', // policy violation
  53: 'ACCESS_DENIED', // transactional id
  56: 'STORAGE_FAILED', // whether anything was stored is not said
  58: 'ACCESS_DENIED', // SASL authentication
  60: 'UNAVAILABLE', // reassignment in progress
  72: 'UNAVAILABLE', // listener not found
  74: 'UNAVAILABLE', // fenced leader epoch
  75: 'UNAVAILABLE', // unknown leader epoch
  78: 'UNAVAILABLE', // offset not available
  89: 'UNAVAILABLE', // throttling quota exceeded
  100: 'UNAVAILABLE', // unknown topic id
  103: 'UNAVAILABLE', // inconsistent topic id
}

const codesByKafka = new Map<number, ErrorCode>()
for (const [code, { kafka }] of Object.entries(errorTable)) {
  if (kafka > 0 && !codesByKafka.has(kafka)) codesByKafka.set(kafka, code as ErrorCode)
}
for (const [kafka, code] of Object.entries(otherKafkaCodes)) codesByKafka.set(Number(kafka), code)

/** What an error code of Kafka's protocol is here: the row that has it, the first one if several do. */
export function codeOfKafka(kafka: number): ErrorCode {
  return codesByKafka.get(kafka) ?? 'INTERNAL'
}

/** A refusal with a name. `code` is stable and meant for programs, `message` for people. */
export class SluiceError extends Error {
  readonly code: ErrorCode
  /** What the error is about: topic, partition, offset, file, position, holder… */
  readonly detail: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, message: string, detail: Record<string, unknown> = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'SluiceError'
    this.code = code
    this.detail = detail
  }

  get retriable(): boolean {
    return errorTable[this.code].retriable
  }
}

export function isSluiceError(error: unknown, code?: ErrorCode): error is SluiceError {
  return error instanceof SluiceError && (code === undefined || error.code === code)
}

/** What was thrown; what is none of ours is INTERNAL, after `what` it happened to. */
export function asSluiceError(error: unknown, what = ''): SluiceError {
  if (isSluiceError(error)) return error
  return new SluiceError('INTERNAL', `${what && `${what}: `}${String(error)}`, {}, error)
}
