/**
 * Every command of the command line, as a table. A row is all that help, parsing and the reference need; the code that
 * does the work is loaded when its command is run, and no sooner: `sluice --help` and `sluice serve` start fast.
 */

import { environmentNameOf, flagOf, optionNames, optionRow, rangeOf } from '../server/options.ts'
import type { Run } from './context.ts'

/** How the text of a flag is read; plain text if left out. */
export type OptionKind = 'count' | 'list' | { readonly choices: readonly string[] }

export interface OptionSpec {
  /** As commander writes it: `-g, --group <GROUP>`. */
  readonly flags: string
  readonly meaning: string
  readonly kind?: OptionKind
}

export interface CommandRow {
  /** `topic create`: the words that call it. */
  readonly path: string
  readonly summary: string
  /** What it promises and refuses, where one line does not say it. */
  readonly notes?: string
  /** Operands: `<topic>`, `[files...]`. */
  readonly operands?: readonly (readonly [syntax: string, meaning: string])[]
  readonly options?: readonly OptionSpec[]
  readonly examples: readonly string[]
  readonly load: () => Promise<Run>
}

/** Summaries of the words that only group commands. */
export const nouns: Readonly<Record<string, string>> = {
  topic: 'create, list, describe, change and delete topics',
  group: 'list and describe consumer groups, move their offsets',
  outbox: 'look after the outboxes of a database, and publish what is in them',
  dlq: 'list, show, edit, replay and discard dead letters',
  delay: 'publish messages that are delivered later, list, cancel and move them',
  schedule: 'messages that are published again and again, by cron expression',
  half: 'list, show and decide half messages',
  backlog: 'count, divert, skip and shed what a stopped group has not handled',
}

const engineOptions: readonly OptionSpec[] = [
  {
    flags: '-u, --url <URL>',
    meaning:
      'where the messages are: a server or Kafka cluster (kafka://HOST:PORT), or a directory that no server has open (default: SLUICE_URL, else kafka://127.0.0.1:9092)',
  },
  { flags: '-c, --config <FILE>', meaning: 'configuration file, YAML or JSON (default: SLUICE_CONFIG)' },
]

/** For every command. */
export const commonOptions: readonly OptionSpec[] = [
  { flags: '--debug', meaning: 'show the stack of an error' },
]

const json: OptionSpec = { flags: '-j, --json', meaning: 'print JSON' }

const configOption: OptionSpec = {
  flags: '-C, --set <KEY=VALUE>',
  meaning: 'a configuration key of the topic, such as retention.ms=86400000; may be repeated',
  kind: 'list',
}

const databaseOption: OptionSpec = {
  flags: '-d, --database <URL>',
  meaning: 'postgres://…, mysql://…, mariadb://… or sqlite:PATH (default: SLUICE_DATABASE)',
}

const outboxOperand = ['[outbox]', 'its name; default if left out'] as const

const POSITIONS = 'earliest, latest, an offset, partition:offset pairs (0:12,1:30) or an ISO time'

const deadLetterOperands = [
  ['<topic>', 'the topic that the messages came from'],
  ['<group>', 'the group that failed'],
] as const

const deadLetterFilters: readonly OptionSpec[] = [
  { flags: '--error <TEXT>', meaning: 'only letters whose error has this text in its name or message' },
  {
    flags: '--reason <REASON>',
    meaning: 'only letters that died of this',
    kind: { choices: ['rejected', 'attempts', 'expired', 'overflow'] },
  },
]

const deadLetterChoice: readonly OptionSpec[] = [
  { flags: '-a, --all', meaning: 'all letters, or all that pass --error and --reason' },
  ...deadLetterFilters,
  { flags: '-n, --max <N>', meaning: 'no more than so many', kind: 'count' },
  { flags: '--dry-run', meaning: 'show which, and change nothing' },
  ...engineOptions,
]

const messageOptions: readonly OptionSpec[] = [
  { flags: '-k, --key <KEY>', meaning: 'the key' },
  { flags: '-H, --header <NAME=VALUE>', meaning: 'a header; may be repeated', kind: 'list' },
  {
    flags: '-p, --partition <N>',
    meaning: 'the partition of the topic (default: as the key says)',
    kind: 'count',
  },
]

const whenOptions: readonly OptionSpec[] = [
  { flags: '-d, --delay <TIME>', meaning: 'after so long: 250ms, 30s, 45m, 1.5h, 7d' },
  { flags: '--at <TIME>', meaning: 'at this ISO time, such as 2026-01-31T12:00:00Z' },
  { flags: '--level <N>', meaning: "after RocketMQ's delay of this level, 1 to 18", kind: 'count' },
]

const dryRun: OptionSpec = { flags: '--dry-run', meaning: 'show what would change, and change nothing' }

const delayedOperand = ['<id>', 'its id, as `delay list` shows it, or its name'] as const

const backlogOperands = [
  ['<group>', 'the group; it must have no members'],
  ['<topic>', 'the topic'],
] as const

export const commands: readonly CommandRow[] = [
  {
    path: 'serve',
    summary: 'run the server',
    notes:
      'Each option is also read from the environment (SLUICE_HTTP_PORT for --http-port) and from the configuration file (http-port: 8080). Precedence: flag, environment, file, default. SIGINT or SIGTERM ends it cleanly; a second one ends it at once.',
    options: [
      { flags: '-c, --config <FILE>', meaning: 'configuration file, YAML or JSON (default: SLUICE_CONFIG)' },
      ...optionNames.map(name => {
        const row = optionRow(name)
        return {
          flags: flagOf(name),
          meaning: `${row.meaning} [${environmentNameOf(name)}; ${rangeOf(row)}; default ${row.default}]`,
        }
      }),
    ],
    examples: [
      'sluice serve',
      'sluice serve --data memory: --http-port 0',
      'SLUICE_FLUSH=interval sluice serve --config sluice.yaml',
    ],
    load: async () => (await import('./serve.ts')).serve,
  },
  {
    path: 'relay',
    summary: 'deliver delayed, recurring and half messages of a cluster',
    notes:
      'Somebody must do it for a Kafka cluster; `sluice serve` does it by itself. Several share the work, and when one ends the others go on where it was. SIGINT or SIGTERM ends it cleanly.',
    options: engineOptions,
    examples: ['sluice relay --url kafka://kafka1:9092,kafka2:9092'],
    load: async () => (await import('./relay.ts')).relay,
  },
  {
    path: 'topic create',
    summary: 'create a topic',
    operands: [['<topic>', 'its name: 1 to 249 characters from a-z A-Z 0-9 . _ -']],
    options: [
      { flags: '-p, --partitions <N>', meaning: 'number of partitions', kind: 'count' },
      configOption,
      {
        flags: '--if-not-exists',
        meaning: 'no error if the topic exists already (it is left as it is)',
      },
      ...engineOptions,
    ],
    examples: [
      'sluice topic create orders --partitions 8',
      'sluice topic create audit --set retention.ms=-1',
    ],
    load: async () => (await import('./topic.ts')).createTopic,
  },
  {
    path: 'topic list',
    summary: 'list topics',
    options: [json, ...engineOptions],
    examples: ['sluice topic list', 'sluice topic list --url kafka://kafka1:9092,kafka2:9092 --json'],
    load: async () => (await import('./topic.ts')).listTopics,
  },
  {
    path: 'topic describe',
    summary: 'show partitions and configuration of a topic',
    operands: [['<topic>', 'its name']],
    options: [json, ...engineOptions],
    examples: ['sluice topic describe orders'],
    load: async () => (await import('./topic.ts')).describeTopic,
  },
  {
    path: 'topic alter',
    summary: 'change the configuration of a topic, or add partitions',
    notes:
      'More partitions send keys elsewhere: messages of one key that come before and after the change are in different partitions.',
    operands: [['<topic>', 'its name']],
    options: [
      configOption,
      { flags: '--unset <KEY>', meaning: 'back to the default; may be repeated', kind: 'list' },
      {
        flags: '-p, --partitions <N>',
        meaning: 'new number of partitions; it can only grow',
        kind: 'count',
      },
      ...engineOptions,
    ],
    examples: [
      'sluice topic alter orders --set retention.ms=86400000',
      'sluice topic alter orders --partitions 16',
    ],
    load: async () => (await import('./topic.ts')).alterTopic,
  },
  {
    path: 'topic delete',
    summary: 'delete topics and everything in them',
    operands: [['<topics...>', 'their names']],
    options: engineOptions,
    examples: ['sluice topic delete orders'],
    load: async () => (await import('./topic.ts')).deleteTopics,
  },
  {
    path: 'produce',
    summary: 'publish lines from files or standard input',
    notes:
      'A line is a message: its bytes as they are, without the line end. With --json a line is JSON, and the whole line is the value unless --value-field picks a part of it; blank lines are passed over. A line that is refused is reported with its number, the others are published, and the exit code is 1. On SIGINT what was read is published.',
    operands: [
      ['<topic>', 'where to publish; created if missing, unless auto-create-topics is false'],
      ['[files...]', 'what to publish; standard input if left out, or for -'],
    ],
    options: [
      { flags: '-j, --json', meaning: 'lines are JSON; one that is not is refused' },
      { flags: '--key-field <PATH>', meaning: 'with --json: the field that is the key (a.b goes deeper)' },
      { flags: '--value-field <PATH>', meaning: 'with --json: the field that is the value' },
      { flags: '-k, --key <KEY>', meaning: 'one key for all messages' },
      { flags: '--key-separator <TEXT>', meaning: 'the key is what stands before TEXT in each line' },
      { flags: '-p, --partition <N>', meaning: 'publish to this partition alone', kind: 'count' },
      {
        flags: '-H, --header <NAME=VALUE>',
        meaning: 'a header for all messages; may be repeated',
        kind: 'list',
      },
      {
        flags: '--acks <ACKS>',
        meaning: 'what counts as published (default: what the flush policy promises)',
        kind: { choices: ['written', 'flushed'] },
      },
      {
        flags: '--compression <NAME>',
        meaning: 'compress batches',
        kind: { choices: ['none', 'gzip', 'snappy', 'lz4', 'zstd'] },
      },
      { flags: '--batch <N>', meaning: 'most messages in a batch', kind: 'count' },
      {
        flags: '--in-flight <N>',
        meaning: 'most messages sent and not yet acknowledged (default 10000)',
        kind: 'count',
      },
      {
        flags: '--ack-log <FILE>',
        meaning:
          'write "line partition offset" as each message is acknowledged, in that order; - is standard output',
      },
      ...engineOptions,
    ],
    examples: [
      'echo hello | sluice produce greetings',
      'sluice produce orders orders.jsonl --json --key-field customer.id',
      'sluice produce log /var/log/syslog --header host=web1 --url /var/lib/sluice',
    ],
    load: async () => (await import('./produce.ts')).produce,
  },
  {
    path: 'consume',
    summary: 'print messages',
    notes:
      'Without --follow it ends at what was the end of the partitions when it started. With --group the position is committed once the messages have been written to standard output, never before: after a crash some may be printed again, none is missing. Without --json the value is printed, as it is, and a line end.',
    operands: [['<topics...>', 'what to read']],
    options: [
      {
        flags: '-g, --group <GROUP>',
        meaning: 'read as a member of this group, from its committed offsets on',
      },
      {
        flags: '--members <N>',
        meaning: 'with --group: so many members in this process (default 1)',
        kind: 'count',
      },
      {
        flags: '--from <POSITION>',
        meaning: `where to begin (default earliest): ${POSITIONS}; with --group: earliest or latest, for partitions without a commit`,
      },
      {
        flags: '-p, --partition <N>',
        meaning: 'only this partition; may be repeated; not with --group',
        kind: 'list',
      },
      { flags: '-n, --max <N>', meaning: 'end after so many messages', kind: 'count' },
      { flags: '-f, --follow', meaning: 'wait for new messages; end with SIGINT' },
      {
        flags: '-j, --json',
        meaning: 'one JSON object a line: topic, partition, offset, timestamp, key, value, headers',
      },
      {
        flags: '--format <TEXT>',
        meaning:
          'a line of your own, with {topic} {partition} {offset} {timestamp} {key} {value}, \\t and \\n',
      },
      ...engineOptions,
    ],
    examples: [
      'sluice consume orders --json',
      'sluice consume orders --group billing --follow',
      'sluice consume orders --from 2026-01-31T12:00:00Z --max 10',
    ],
    load: async () => (await import('./consume.ts')).consume,
  },
  {
    path: 'group list',
    summary: 'list consumer groups',
    options: [json, ...engineOptions],
    examples: ['sluice group list'],
    load: async () => (await import('./group.ts')).listGroups,
  },
  {
    path: 'group describe',
    summary: 'show committed offsets, lag and members of a group',
    operands: [['<group>', 'its id']],
    options: [json, ...engineOptions],
    examples: ['sluice group describe billing'],
    load: async () => (await import('./group.ts')).describeGroup,
  },
  {
    path: 'group reset',
    summary: 'move the committed offsets of a group without members',
    operands: [['<group>', 'its id']],
    options: [
      { flags: '--to <POSITION>', meaning: POSITIONS },
      {
        flags: '-t, --topic <TOPIC>',
        meaning: 'only this topic (default: all that the group has committed); may be repeated',
        kind: 'list',
      },
      { flags: '-n, --dry-run', meaning: 'show what would change, and change nothing' },
      ...engineOptions,
    ],
    examples: [
      'sluice group reset billing --to earliest --dry-run',
      'sluice group reset billing --topic orders --to 2026-01-31T12:00:00Z',
    ],
    load: async () => (await import('./group.ts')).resetGroup,
  },
  {
    path: 'dlq list',
    summary: 'list dead letters: of a topic and group, or where there are some',
    operands: [
      ['[topic]', 'the topic that the messages came from; everything that has dead letters if left out'],
      ['[group]', 'the group that failed'],
    ],
    options: [
      ...deadLetterFilters,
      { flags: '-n, --max <N>', meaning: 'no more than so many (default 100)', kind: 'count' },
      json,
      ...engineOptions,
    ],
    examples: ['sluice dlq list', 'sluice dlq list orders billing --error timeout'],
    load: async () => (await import('./dlq.ts')).listDeadLetters,
  },
  {
    path: 'dlq show',
    summary: 'show a dead letter with its story',
    operands: [...deadLetterOperands, ['<id>', 'as `dlq list` shows it']],
    options: [json, ...engineOptions],
    examples: ['sluice dlq show orders billing 0-4711'],
    load: async () => (await import('./dlq.ts')).showDeadLetter,
  },
  {
    path: 'dlq edit',
    summary: 'change what is in a dead letter, before it is replayed',
    notes: 'What is not named stays as it is.',
    operands: [...deadLetterOperands, ['<id>', 'as `dlq list` shows it']],
    options: [
      { flags: '-v, --value <TEXT>', meaning: 'the new value; - reads it from standard input' },
      { flags: '-k, --key <KEY>', meaning: 'the new key' },
      {
        flags: '-H, --header <NAME=VALUE>',
        meaning: 'the new headers, instead of all that it had; may be repeated',
        kind: 'list',
      },
      ...engineOptions,
    ],
    examples: [`sluice dlq edit orders billing 0-4711 --value '{"amount":10}'`],
    load: async () => (await import('./dlq.ts')).editDeadLetter,
  },
  {
    path: 'dlq replay',
    summary: 'publish dead letters again, and take them out of the dead letters',
    notes:
      'Both in one transaction: a letter is replayed once. With --to group, the default, only the workers of the group that failed get it.',
    operands: [...deadLetterOperands, ['[ids...]', 'as `dlq list` shows them; or --all']],
    options: [
      {
        flags: '--to <WHERE>',
        meaning: 'group, topic (where it came from, for all groups), or the name of a topic',
      },
      { flags: '--rate <N>', meaning: 'letters a second, at most', kind: 'count' },
      ...deadLetterChoice,
    ],
    examples: [
      'sluice dlq replay orders billing 0-4711 1-12',
      'sluice dlq replay orders billing --all --error ECONNREFUSED --rate 50',
    ],
    load: async () => (await import('./dlq.ts')).replayDeadLetters,
  },
  {
    path: 'dlq discard',
    summary: 'take dead letters out for good',
    operands: [...deadLetterOperands, ['[ids...]', 'as `dlq list` shows them; or --all']],
    options: deadLetterChoice,
    examples: [
      'sluice dlq discard orders billing 0-4711',
      'sluice dlq discard orders billing --all --reason expired',
    ],
    load: async () => (await import('./dlq.ts')).discardDeadLetters,
  },
  {
    path: 'delay send',
    summary: 'publish messages that are delivered later',
    notes:
      'A message for each --value; without any, one for each line of standard input. Prints the ids by which they can be cancelled. On a directory they are delivered by the next program that opens it.',
    operands: [
      ['<topic>', 'where they are delivered; created if missing, unless auto-create-topics is false'],
    ],
    options: [
      ...whenOptions,
      { flags: '-v, --value <TEXT>', meaning: 'a message; may be repeated', kind: 'list' },
      ...messageOptions,
      { flags: '--name <NAME>', meaning: 'a name of your own, to cancel them by' },
      json,
      ...engineOptions,
    ],
    examples: [
      `sluice delay send reminders --delay 45m --key ann --value 'your cart is waiting'`,
      'sluice delay send orders --at 2026-12-24T18:00:00Z --name order-17 < order-17.json',
    ],
    load: async () => (await import('./delay.ts')).sendDelayed,
  },
  {
    path: 'delay list',
    summary: 'list messages that wait for their time, roughly the soonest first',
    options: [
      { flags: '-t, --topic <TOPIC>', meaning: 'only what is for this topic' },
      { flags: '-n, --max <N>', meaning: 'no more than so many (default 100)', kind: 'count' },
      json,
      ...engineOptions,
    ],
    examples: ['sluice delay list', 'sluice delay list --topic reminders --json'],
    load: async () => (await import('./delay.ts')).listDelayed,
  },
  {
    path: 'delay show',
    summary: 'show a message that waits',
    operands: [delayedOperand],
    options: [json, ...engineOptions],
    examples: ['sluice delay show order-17'],
    load: async () => (await import('./delay.ts')).showDelayed,
  },
  {
    path: 'delay cancel',
    summary: 'cancel messages that wait',
    notes:
      'Prints what will not be delivered. The exit code is 1 if something is on its way already, which it is a second before its time, or does not wait at all.',
    operands: [['<ids...>', 'ids, or names: then everything of that name']],
    options: [dryRun, ...engineOptions],
    examples: ['sluice delay cancel order-17', 'sluice delay cancel order-17 order-18 --dry-run'],
    load: async () => (await import('./delay.ts')).cancelDelayed,
  },
  {
    path: 'delay reschedule',
    summary: 'give a message that waits another time',
    notes:
      'It gets a new id, which is printed; the old one is cancelled in the same transaction. Of several with a name one is moved.',
    operands: [delayedOperand],
    options: [...whenOptions, ...engineOptions],
    examples: [
      'sluice delay reschedule order-17 --delay 2h',
      'sluice delay reschedule order-17 --at 2026-12-24T18:00:00Z',
    ],
    load: async () => (await import('./delay.ts')).rescheduleDelayed,
  },
  {
    path: 'schedule set',
    summary: 'publish a message again and again, by cron expression',
    notes:
      'Takes the place of the schedule of that name, if there is one; one that is the same is left as it is. What was missed while nobody delivered is published once, late.',
    operands: [['<name>', 'its name, up to 200 characters']],
    options: [
      {
        flags: '--cron <EXPRESSION>',
        meaning: 'five fields, or six with seconds in front; @daily and the like',
      },
      { flags: '--timezone <ZONE>', meaning: 'IANA name of the zone of the expression (default UTC)' },
      { flags: '-t, --topic <TOPIC>', meaning: 'where to' },
      { flags: '-v, --value <TEXT>', meaning: 'the message' },
      ...messageOptions,
      json,
      ...engineOptions,
    ],
    examples: [
      `sluice schedule set report --cron '0 9 * * 1-5' --timezone Europe/Berlin --topic reports --value daily`,
    ],
    load: async () => (await import('./schedule.ts')).setSchedule,
  },
  {
    path: 'schedule list',
    summary: 'list schedules, and when each is next',
    options: [json, ...engineOptions],
    examples: ['sluice schedule list'],
    load: async () => (await import('./schedule.ts')).listSchedules,
  },
  {
    path: 'schedule remove',
    summary: 'end schedules',
    operands: [['<names...>', 'their names']],
    options: engineOptions,
    examples: ['sluice schedule remove report'],
    load: async () => (await import('./schedule.ts')).removeSchedules,
  },
  {
    path: 'half list',
    summary: 'list half messages that nobody has decided',
    options: [
      { flags: '-n, --max <N>', meaning: 'no more than so many (default 100)', kind: 'count' },
      json,
      ...engineOptions,
    ],
    examples: ['sluice half list', 'sluice half list --json'],
    load: async () => (await import('./half.ts')).listHalf,
  },
  {
    path: 'half show',
    summary: 'show a half message, and what became of it',
    operands: [['<id>', 'as `half list` shows it']],
    options: [json, ...engineOptions],
    examples: ['sluice half show 2-17-4f6b1c0d9e8a7b63'],
    load: async () => (await import('./half.ts')).showHalf,
  },
  {
    path: 'half commit',
    summary: 'publish half messages',
    notes: 'The first decision counts: one that was rolled back stays so, and the exit code is 1.',
    operands: [['<ids...>', 'as `half list` shows them']],
    options: [dryRun, ...engineOptions],
    examples: ['sluice half commit 2-17-4f6b1c0d9e8a7b63'],
    load: async () => (await import('./half.ts')).commitHalf,
  },
  {
    path: 'half rollback',
    summary: 'drop half messages',
    notes: 'The first decision counts: one that was committed stays so, and the exit code is 1.',
    operands: [['<ids...>', 'as `half list` shows them']],
    options: [dryRun, ...engineOptions],
    examples: ['sluice half rollback 2-17-4f6b1c0d9e8a7b63'],
    load: async () => (await import('./half.ts')).rollbackHalf,
  },
  {
    path: 'backlog size',
    summary: 'count what a group has not handled of a topic',
    operands: [['<group>', 'the group'], backlogOperands[1]],
    options: [json, ...engineOptions],
    examples: ['sluice backlog size billing orders'],
    load: async () => (await import('./backlog.ts')).showSize,
  },
  {
    path: 'backlog divert',
    summary: 'move what a group has not handled to another topic',
    notes:
      'Exactly once, oldest first, with keys, headers and timestamps. What was interrupted goes on where it was.',
    operands: backlogOperands,
    options: [
      { flags: '--to <TOPIC>', meaning: 'the other topic' },
      { flags: '-n, --max <N>', meaning: 'no more than so many', kind: 'count' },
      dryRun,
      ...engineOptions,
    ],
    examples: ['sluice backlog divert billing orders --to orders.later'],
    load: async () => (await import('./backlog.ts')).divert,
  },
  {
    path: 'backlog skip',
    summary: 'count messages as handled that nobody handles',
    operands: backlogOperands,
    options: [
      { flags: '-n, --count <N>', meaning: 'so many of each partition', kind: 'count' },
      { flags: '--to <POSITION>', meaning: 'everything before: latest, an offset or an ISO time' },
      { flags: '-p, --partition <N>', meaning: 'only this partition', kind: 'count' },
      dryRun,
      ...engineOptions,
    ],
    examples: [
      'sluice backlog skip billing orders --to latest --dry-run',
      'sluice backlog skip billing orders --count 1 --partition 3',
    ],
    load: async () => (await import('./backlog.ts')).skip,
  },
  {
    path: 'backlog shed',
    summary: 'skip what is too old to be worth handling',
    operands: backlogOperands,
    options: [{ flags: '--older-than <TIME>', meaning: 'such as 30m, 12h, 7d' }, dryRun, ...engineOptions],
    examples: ['sluice backlog shed billing orders --older-than 12h'],
    load: async () => (await import('./backlog.ts')).shed,
  },
  {
    path: 'outbox status',
    summary: 'show what waits in the outboxes of a database, since when, and who publishes it',
    options: [
      databaseOption,
      { flags: '--failed', meaning: 'show the rows that were refused as well, up to 100 of each outbox' },
      json,
    ],
    examples: [
      'sluice outbox status --database postgres://app@db/shop',
      'sluice outbox status --failed --json',
    ],
    load: async () => (await import('./outbox.ts')).outboxStatus,
  },
  {
    path: 'outbox relay',
    summary: 'publish the rows of an outbox',
    notes:
      'In the order of their keys, each exactly once. Several share the work, and when one ends the others go on where it was. SIGINT or SIGTERM ends it cleanly.',
    operands: [outboxOperand],
    options: [
      databaseOption,
      { flags: '--batch <N>', meaning: 'rows in a transaction (default and most 500)', kind: 'count' },
      {
        flags: '--poll-ms <N>',
        meaning: 'how often to look when nobody tells (default 100; PostgreSQL tells: 1000)',
        kind: 'count',
      },
      {
        flags: '--lease-ms <N>',
        meaning: 'how long a relay that is not heard of keeps its share (default 10000)',
        kind: 'count',
      },
      {
        flags: '--metrics-port <N>',
        meaning: 'serve metrics for Prometheus on this port of 127.0.0.1',
        kind: 'count',
      },
      ...engineOptions,
    ],
    examples: [
      'sluice outbox relay --database postgres://app@db/shop --url kafka://kafka1:9092',
      'sluice outbox relay invoices --database sqlite:shop.db --url ./data',
    ],
    load: async () => (await import('./outbox.ts')).relayOutbox,
  },
  {
    path: 'outbox migrate',
    summary: 'make the tables for outbox, inbox and processed ids, or bring them up to date',
    options: [
      databaseOption,
      { flags: '--print', meaning: 'print the statements of all migrations, and connect to nothing' },
    ],
    examples: [
      'sluice outbox migrate --database postgres://app@db/shop',
      'sluice outbox migrate --database mariadb: --print',
    ],
    load: async () => (await import('./outbox.ts')).migrateDatabase,
  },
  {
    path: 'outbox requeue',
    summary: 'have the rows that were refused published again',
    operands: [outboxOperand],
    options: [databaseOption],
    examples: ['sluice outbox requeue --database postgres://app@db/shop'],
    load: async () => (await import('./outbox.ts')).requeueOutbox,
  },
  {
    path: 'outbox clean',
    summary: 'delete rows that were refused',
    operands: [outboxOperand],
    options: [
      databaseOption,
      { flags: '--older-than <TIME>', meaning: 'only those refused longer ago, such as 30m or 7d' },
    ],
    examples: ['sluice outbox clean --older-than 7d --database postgres://app@db/shop'],
    load: async () => (await import('./outbox.ts')).cleanOutbox,
  },
  {
    path: 'reconcile',
    summary: 'compare two keyed sources: topics, queries, or one of each',
    notes:
      'A topic counts by the last message of each key; the first column of a query is the key, the others are the value. Memory does not grow with the sources. Each difference is a line: only-left, only-right, different, duplicate-left or duplicate-right, and the key. Exit code 1 if there is one. What changes meanwhile may be found different.',
    operands: [
      ['<left>', 'topic:NAME, or a query'],
      ['<right>', 'topic:NAME, or a query'],
    ],
    options: [
      databaseOption,
      { flags: '--right-database <URL>', meaning: 'where the right query is run, if it is another database' },
      {
        flags: '--key-field <PATH>',
        meaning: 'of messages in JSON: the field that is the key (a.b goes deeper)',
      },
      { flags: '--value-field <PATH>', meaning: 'of messages in JSON: the field that is compared' },
      json,
      ...engineOptions,
    ],
    examples: [
      "sluice reconcile topic:orders 'SELECT id, total FROM orders' --value-field total --database postgres://app@db/shop",
      "sluice reconcile 'SELECT id, total FROM orders' 'SELECT order_id, amount FROM payments' --json",
    ],
    load: async () => (await import('./reconcile.ts')).reconcileSources,
  },
  {
    path: 'dump',
    summary: 'show what segment files hold',
    notes:
      'Reads the files themselves, without opening the directory: also of a server that runs. Exit code 1 if something is damaged.',
    operands: [['<paths...>', 'segment files (.log, .index, .timeindex), or folders with segments in them']],
    options: [{ flags: '-r, --records', meaning: 'show the records of each batch' }, json],
    examples: [
      'sluice dump data/topics/orders-0',
      'sluice dump data/topics/orders-0/00000000000000000000.log --records',
    ],
    load: async () => (await import('./dump.ts')).dump,
  },
  {
    path: 'verify',
    summary: 'check every byte of a data directory',
    notes:
      'Checksums, records, offsets, indexes. Nothing is changed. Run it on a directory that nobody has open; otherwise writes that are under way show as incomplete. Exit code 1 if something is damaged.',
    operands: [['<directory>', 'a data directory, or the folder of one partition']],
    options: [json],
    examples: ['sluice verify data', 'sluice verify data/topics/orders-0 --json'],
    load: async () => (await import('./verify.ts')).verify,
  },
  {
    path: 'bench',
    summary: 'measure messages per second, latency and memory on this machine',
    notes:
      'Publishing and consuming, in memory and in files, with each flush policy, against the limits underneath. Every figure is taken in a process of its own, in a folder that is removed afterwards; about ten minutes in full, two with --quick. Keep the machine idle meanwhile.',
    options: [
      { flags: '--list', meaning: 'show the scenarios, and measure nothing' },
      { flags: '--quick', meaning: 'a fifth of the messages, fewer rounds' },
      {
        flags: '--only <SCENARIO...>',
        meaning: 'these scenarios: names, or their first words (publish/always)',
        kind: 'list',
      },
      { flags: '--bytes <N...>', meaning: 'sizes of a message value (default 100 and 1024)', kind: 'list' },
      {
        flags: '--messages <N>',
        meaning: 'messages per round; slow scenarios take a share (default 1000000, or less of large ones)',
        kind: 'count',
      },
      { flags: '--rounds <N>', meaning: 'rounds whose median is taken (default 5; quick 3)', kind: 'count' },
      {
        flags: '--dir <DIR>',
        meaning: 'measure the disk that this folder is on (default: for temporary files)',
      },
      { flags: '-j, --json <FILE>', meaning: 'write the report to a file as well, as JSON' },
    ],
    examples: [
      'sluice bench --quick',
      'sluice bench --only publish/always consume --bytes 256 --dir /var/lib/sluice',
      'sluice bench --json result.json',
    ],
    load: async () => (await import('./bench.ts')).bench,
  },
]
