/**
 * Writes the pages of docs/ that follow from tables in the source: ERRORS.md, CONFIGURATION.md and guides/kafka.md. A test checks that
 * they are in step. Run by `npm run docs`.
 */

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { topicConfigMarkdown } from '../src/broker/config.ts'
import { errorTable } from '../src/errors.ts'
import { createHandlers } from '../src/server/kafka/handlers.ts'
import { optionsMarkdown } from '../src/server/options.ts'

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

function kafkaMarkdown(): string {
  const rows = [...createHandlers().values()]
    .sort((a, b) => a.api.key - b.api.key)
    .map(({ api }) => `| ${api.name} | ${api.key} | ${api.served.min}–${api.served.max} |`)
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

## Not there yet

Transactions (a transactional id is refused with TRANSACTIONAL_ID_AUTHORIZATION_FAILED), compaction, the consumer group protocol of KIP-848, SASL and ACLs, message formats before record
batches (refused with UNSUPPORTED_FOR_MESSAGE_FORMAT).

## APIs and versions

| API | key | versions |
| --- | --- | --- |
${rows.join('\n')}
`
}

export const pages = {
  'docs/ERRORS.md': errorsMarkdown,
  'docs/CONFIGURATION.md': configurationMarkdown,
  'docs/guides/kafka.md': kafkaMarkdown,
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  for (const [path, page] of Object.entries(pages))
    writeFileSync(join(import.meta.dirname, '..', path), page())
}
