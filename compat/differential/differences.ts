/**
 * What is different on purpose, and why: the table behind docs/guides/kafka-differences.md. A row names steps of the run (a text that ends in
 * * stands for all that begin with it). The run fails on a difference that no row explains, and on a row that explains nothing any more.
 */

import type { Compared } from './run.ts'

type Area = 'Topics and configuration' | 'Records' | 'Groups'

export interface Difference {
  readonly area: Area
  readonly steps: readonly string[]
  readonly kafka: string
  readonly sluice: string
  readonly why: string
}

const created = (...settings: Record<string, string>[]): string[] =>
  settings.map(each => `create: ${JSON.stringify(each)}`)

export const differences: readonly Difference[] = [
  {
    area: 'Topics and configuration',
    steps: ['create: a name that differs in . and _ only'],
    kafka: 'refuses a topic whose name differs from that of another one in `.` and `_` only',
    sluice: 'makes it',
    why: "The names of Kafka's metrics would be the same; ours would not.",
  },
  {
    area: 'Topics and configuration',
    steps: ['create: look only'],
    kafka: 'names an id for a topic that is only validated',
    sluice: 'names none',
    why: 'No topic with that id will ever exist.',
  },
  {
    area: 'Topics and configuration',
    steps: created(
      { 'min.insync.replicas': '2' },
      { preallocate: 'true' },
      { 'segment.jitter.ms': '10' },
      { 'message.timestamp.before.max.ms': '1000000' },
      { 'message.timestamp.after.max.ms': '1000000' },
      { 'compression.type': 'zstd' },
      { 'compression.type': 'uncompressed' },
    ),
    kafka:
      'takes any value of `min.insync.replicas`, `preallocate`, `segment.jitter.ms`, `message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`, `compression.type`',
    sluice:
      'takes the one value that describes what it does (see docs/CONFIGURATION.md), and refuses others with INVALID_CONFIG',
    why: 'There is one replica, timestamps are not limited, and batches are stored as the producer compressed them. A setting that would be taken and then not kept is worse than a refusal.',
  },
  {
    area: 'Topics and configuration',
    steps: [
      ...created(
        { 'compression.gzip.level': '5' },
        { 'file.delete.delay.ms': '1000' },
        { 'segment.index.bytes': '100000' },
        { 'local.retention.ms': '-2' },
        { 'leader.replication.throttled.replicas': '*' },
      ),
      'default of file.delete.delay.ms',
      'default of segment.index.bytes',
      'keys of a topic',
    ],
    kafka:
      'has keys for compression levels, for the delay of deletion, the size of index files, tiered storage and throttled replicas',
    sluice: 'does not have them: INVALID_CONFIG',
    why: 'There is nothing that they would set.',
  },
  {
    area: 'Topics and configuration',
    steps: ['create: configuration'],
    kafka: 'takes an empty `cleanup.policy`: nothing is ever removed',
    sluice: 'refuses it',
    why: '`retention.ms=-1` says the same, and cannot be meant for something else.',
  },
  {
    area: 'Topics and configuration',
    steps: created({ 'segment.bytes': '1024' }),
    kafka: 'refuses segments of less than 1 MiB',
    sluice: 'takes 1 KiB and more',
    why: 'Retention removes whole segments; small topics with short retention are common in tests and on small machines.',
  },
  {
    area: 'Topics and configuration',
    steps: created({ 'retention.bytes': '-2' }, { 'max.message.bytes': '0' }),
    kafka: 'takes `retention.bytes` below -1, and a `max.message.bytes` into which no batch fits',
    sluice: 'refuses them',
    why: 'They are mistakes.',
  },
  {
    area: 'Topics and configuration',
    steps: [
      'default of flush.messages',
      'default of segment.bytes',
      'default of message.timestamp.after.max.ms',
    ],
    kafka:
      'defaults: `flush.messages` unlimited, `segment.bytes` 1 GiB, `message.timestamp.after.max.ms` an hour',
    sluice: '`flush.messages` 1, `segment.bytes` 64 MiB, `message.timestamp.after.max.ms` unlimited',
    why: 'Acknowledged means on the disk, since there is no replica that would still have it. Small segments let retention take effect earlier. Timestamps are not limited.',
  },
  {
    area: 'Topics and configuration',
    steps: [
      ...['flush.ms', 'retention.ms', 'segment.ms', 'segment.jitter.ms'].map(key => `default of ${key}`),
      'what was set for a topic',
      'describe: this broker',
    ],
    kafka:
      'lists no synonym for keys that a broker can be given in several units, and null as the value of `log.retention.ms`',
    sluice: "lists the broker's key in ms, with its value",
    why: 'There is one unit, so nothing is unset.',
  },
  {
    area: 'Topics and configuration',
    steps: ['default of min.insync.replicas', 'describe: what is set for all brokers'],
    kafka: 'sets `min.insync.replicas` for all brokers when it is formatted',
    sluice: 'has it as a default',
    why: 'A matter of how Kafka chooses leaders.',
  },
  {
    area: 'Topics and configuration',
    steps: ['alter: this broker while it runs'],
    kafka: 'can change some of its own configuration while it runs',
    sluice: 'refuses: INVALID_REQUEST',
    why: 'The server is configured when it starts: flags, environment, file.',
  },
  {
    area: 'Topics and configuration',
    steps: ['alter: no such operation'],
    kafka: 'answers UNKNOWN_SERVER_ERROR to an operation that there is not',
    sluice: 'INVALID_REQUEST',
    why: 'It is the client that is wrong.',
  },
  {
    area: 'Records',
    steps: ['produce: null'],
    kafka: 'never answers a partition whose records are null',
    sluice: 'answers INVALID_RECORD, as to no bytes',
    why: 'A client that made a mistake learns of it.',
  },
  {
    area: 'Records',
    steps: ['produce: an unknown compression', 'produce: compressed bytes that are none'],
    kafka: 'decompresses every batch to look into it: UNKNOWN_SERVER_ERROR if that fails',
    sluice:
      'refuses a number that is no compression with UNSUPPORTED_COMPRESSION_TYPE, and does not look into what is compressed',
    why: 'A batch is stored and fetched as it came; nothing on that way decompresses it. The checksum of the producer is checked, so what consumers get is what the producer sent.',
  },
  {
    area: 'Records',
    steps: ['produce: a record with the number of another'],
    kafka: 'stores it, and consumers are given its wrong offset',
    sluice: 'refuses records that are not numbered from 0 on with INVALID_RECORD',
    why: 'Offsets grow by one.',
  },
  {
    area: 'Records',
    steps: ['produce: two hours ahead'],
    kafka: 'refuses timestamps more than an hour ahead of its clock (`message.timestamp.after.max.ms`)',
    sluice: 'takes them',
    why: 'See the defaults above. Retention by age keeps a segment with such a record until then.',
  },
  {
    area: 'Records',
    steps: ['produce: in a transaction, without one'],
    kafka: 'refuses a transactional batch without a transactional id: TRANSACTIONAL_ID_AUTHORIZATION_FAILED',
    sluice:
      'INVALID_PRODUCER_ID_MAPPING if the producer is unknown, INVALID_TXN_STATE if it has no transaction',
    why: 'There it is a matter of authorisation, here of the state of the transaction; both end the producer.',
  },
  {
    area: 'Records',
    steps: ['idempotent: the same again', 'idempotent: an old one again', 'idempotent: the fifth last again'],
    kafka: 'names a log-append time for a batch that is repeated',
    sluice: 'names none, as for the batch itself',
    why: 'The topic has the time of the producer, which clients know.',
  },
  {
    area: 'Records',
    steps: [
      'idempotent: the one that is due, but shorter than one before',
      'idempotent: one that is forgotten',
    ],
    kafka: 'answers OUT_OF_ORDER_SEQUENCE_NUMBER to a batch that was stored more than five batches ago',
    sluice: 'DUPLICATE_SEQUENCE_NUMBER',
    why: 'It is stored. Clients take that as success without an offset; the other one fails the producer.',
  },
  {
    area: 'Records',
    steps: ['idempotent: no epoch', 'describe producers'],
    kafka: 'takes a batch with a producer id and without an epoch',
    sluice: 'INVALID_RECORD',
    why: 'Such a producer could never be fenced. Nobody sends it.',
  },
  {
    area: 'Records',
    steps: ['fetch: an epoch last fetched that is to come'],
    kafka: 'answers OFFSET_OUT_OF_RANGE if the fetcher says that it last read in an epoch that has not begun',
    sluice: 'answers with the records',
    why: 'Only replicas of a partition say this.',
  },
  {
    area: 'Records',
    steps: ['fetch: by the id of nothing'],
    kafka: 'UNKNOWN_TOPIC_ID to a topic id of zeros',
    sluice: 'UNKNOWN_TOPIC_OR_PARTITION',
    why: 'Zeros stand for "no id", and the name is empty. Clients look for metadata after either.',
  },
  {
    area: 'Records',
    steps: ['offset: of the largest timestamp when all is deleted'],
    kafka: 'names a record that was deleted if all records are',
    sluice: 'names none, as for an empty partition',
    why: 'There is none.',
  },
  {
    area: 'Groups',
    steps: ['delete group: no name'],
    kafka: 'says that it has deleted the group without a name',
    sluice: 'INVALID_GROUP_ID',
    why: 'There cannot be such a group.',
  },
  {
    area: 'Groups',
    steps: ['rebalance: what the first member is told'],
    kafka: 'sends no bytes at all to a member that its leader gave nothing',
    sluice: 'sends an empty assignment',
    why: 'Clients read an assignment; some fail on bytes that are none.',
  },
]

/** The row that explains a step. */
export function explanationOf(step: string): Difference | undefined {
  const fits = (pattern: string): boolean =>
    pattern.endsWith('*') ? step.startsWith(pattern.slice(0, -1)) : step === pattern
  return differences.find(({ steps }) => steps.some(fits))
}

/** Steps of rows that explain nothing any more. */
export function idleSteps(compared: readonly Compared[]): string[] {
  const different = compared.filter(({ isSame }) => !isSame).map(({ name }) => name)
  const stands = (pattern: string): boolean =>
    different.some(name => (pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern))
  return differences.flatMap(({ steps }) => steps.filter(each => !stands(each)))
}

/** docs/guides/kafka-differences.md */
export function differencesMarkdown(): string {
  const areas = [...new Set(differences.map(({ area }) => area))]
  const sections = areas.map(area => {
    const rows = differences
      .filter(each => each.area === area)
      .map(({ kafka, sluice, why }) => `| ${kafka} | ${sluice} | ${why} |`)
    return `## ${area}\n\n| Kafka | sluice | why |\n| --- | --- | --- |\n${rows.join('\n')}\n`
  })
  return `# Differences from Apache Kafka

\`npm run compat -- differential\` does the same things, step by step, to a real Apache Kafka and to sluice, over the protocol: topics, configuration,
records, producers, fetches, offsets, groups, and what is wrong with requests. It prints what came of each step that differs. Results and error codes are
the same but for what is listed here; the run fails on a difference that is not on this page, and on a row of this page that is no longer true.

Not compared: the texts of errors, which say here what to do; ids, times and addresses; the log start offset in the refusal of a batch; and the moment
at which a record with \`acks=1\` or \`acks=0\` can be read, which is that of the sync under \`flush: always\` and that of the write otherwise. What sluice does
not serve at all is in [kafka.md](kafka.md): an API that is missing there is missing in ApiVersions, so clients say so by themselves.

${sections.join('\n')}`
}
