/**
 * Writes the pages of docs/ that follow from tables in the source: ERRORS.md, CONFIGURATION.md, guides/kafka.md and kafka-differences.md. A test checks that
 * they are in step. Run by `npm run docs`.
 */

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { differencesMarkdown } from '../compat/differential/differences.ts'
import { type Results, readResults } from '../compat/results.ts'
import { topicConfigMarkdown } from '../src/broker/config.ts'
import { errorTable } from '../src/errors.ts'
import { createHandlers } from '../src/server/kafka/handlers.ts'
import { optionsMarkdown } from '../src/server/options.ts'
import { type ApiName, apis } from '../src/wire/kafka/apis.ts'

function errorsMarkdown(): string {
  const rows = Object.entries(errorTable).map(
    ([code, { meaning, retriable, http, kafka, amqp }]) =>
      `| \`${code}\` | ${meaning} | ${retriable ? 'yes' : 'no'} | ${http} | ${kafka} | ${amqp[0]} (${amqp[1]}) |`,
  )
  return `# Errors

Every refusal has a name. In TypeScript it is a \`SluiceError\` with \`code\`, \`message\`, \`detail\` and \`retriable\`; the command line prints
\`sluice: CODE: message\`; HTTP answers \`{"error": {"code", "message", "detail"}}\` with the status below.

*Try again*: the same call may succeed later without anything being changed by the caller.

| code | meaning | try again | HTTP | Kafka | AMQP |
| --- | --- | --- | --- | --- | --- |
${rows.join('\n')}
`
}

function configurationMarkdown(): string {
  return `# Configuration

## The server

Options of \`sluice serve\`. Each can be given as a flag (\`--http-port 8080\`), in the environment (\`SLUICE_HTTP_PORT=8080\`) or in a
configuration file (\`http-port: 8080\`, YAML or JSON, named by \`--config\` or \`SLUICE_CONFIG\`). A flag wins over the environment, the environment over the file.

${optionsMarkdown()}

## Topics

Configuration keys of topics, with Kafka's names. Set them with \`sluice topic create … --set KEY=VALUE\`, \`sluice topic alter\`, or in TypeScript with
\`topic(name, { config })\` and \`mq.alterTopic\`. \`open({ config })\` sets defaults for all topics of a data directory.

${topicConfigMarkdown()}
`
}

/** What clients may miss: a sentence for each API without which it is not there. */
const missing: readonly (readonly [ApiName, string])[] = [
  ['EndTxn', 'transactions (a transactional id is refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED)'],
  ['ConsumerGroupHeartbeat', 'the consumer group protocol of KIP-848'],
  ['SaslHandshake', 'SASL'],
  ['DescribeAcls', 'ACLs'],
]

/** `[2, 3, 5]`: `2, 3, 5`; many in a row as a range. */
const versionsText = (versions: readonly number[]) =>
  versions.length > 2 && versions.at(-1)! - versions[0] === versions.length - 1
    ? `${versions[0]}–${versions.at(-1)}`
    : versions.join(', ')

function apiRows(results: Results): string[] {
  return [...createHandlers().values()]
    .sort((a, b) => a.api.key - b.api.key)
    .map(({ api: { name, key, served } }) => {
      const seen = Object.entries(results)
        .filter(([, { apis }]) => apis[name] !== undefined)
        .map(([check, { apis }]) => `${check} ${versionsText(apis[name])}`)
      return `| ${name} | ${key} | ${served.min}–${served.max} | ${seen.join('; ')} |`
    })
}

/** What was seen of each client: how many cases were fine, and every other one by its name. */
function clientRows(results: Results): string[] {
  return Object.entries(results).map(([check, { client, version, cases }]) => {
    const all = Object.entries(cases)
    const fine = all.filter(([, { outcome }]) => outcome === 'ok').length
    const others = all
      .filter(([, { outcome }]) => outcome !== 'ok')
      .map(([name, { outcome, why }]) => `${outcome}: ${name} (${why?.replaceAll('|', '\\|')})`)
    return `| ${client} | ${version} | \`${check}\` | ${fine} of ${all.length} | ${others.join('; ')} |`
  })
}

function kafkaMarkdown(): string {
  const results = readResults()
  const handlers = createHandlers()
  const absent = missing.filter(([name]) => !handlers.has(apis[name].key)).map(([, text]) => text)
  return `# Kafka clients

\`sluice serve\` listens for Kafka clients on \`127.0.0.1:9092\` (\`--kafka-port\`). They find one broker, which leads every partition:

\`\`\`sh
kcat -b 127.0.0.1:9092 -t orders -P -K: <<< 'ann:hello'
kcat -b 127.0.0.1:9092 -t orders -C -e
\`\`\`

Messages are the same whichever way they came: what a Kafka client produces, the TypeScript API and HTTP read, and the other way round. Consumers in the
server's process and Kafka clients can be in one group. Topics are made when a client asks for their metadata, unless \`--auto-create-topics false\`. If
clients reach the server under another address than it listens on, tell them with \`--kafka-advertised HOST:PORT\`.

\`acks=all\` waits for what the topic's flush policy promises, \`acks=1\` for the log.

## Clients seen working

Each client is run as it is published, unmodified, against this server: \`npm run compat -- NAME\` ([compat/README.md](../../compat/README.md)). A check creates and
deletes topics, produces with every compression and reads back keys, values, headers and timestamps, lets two members share a group through a rebalance, in the classic and (where
the client has it) the consumer protocol, commits and resumes, seeks by time, lists, and provokes errors. This is what was seen last:

| client | version | NAME | cases that passed | others |
| --- | --- | --- | --- | --- |
${clientRows(results).join('\n')}

\`npm run compat -- crash\` kills the server with SIGKILL, 20 times over, under the traffic of three clients with idempotent producers, and compares what was acknowledged with the log.

## Not there yet

${[...absent, 'message formats before record batches (refused with UNSUPPORTED_FOR_MESSAGE_FORMAT)'].map(text => `- ${text}`).join('\n')}

## APIs and versions

*seen*: the versions in which the clients above used an API in their checks.

| API | key | served | seen |
| --- | --- | --- | --- |
${apiRows(results).join('\n')}
`
}

export const pages = {
  'docs/ERRORS.md': errorsMarkdown,
  'docs/CONFIGURATION.md': configurationMarkdown,
  'docs/guides/kafka.md': kafkaMarkdown,
  'docs/guides/kafka-differences.md': differencesMarkdown,
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  for (const [path, page] of Object.entries(pages))
    writeFileSync(join(import.meta.dirname, '..', path), page())
}
