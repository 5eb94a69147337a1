/**
 * Records what a real Apache Kafka and its clients say to each other, for test/wire/kafka/recordings.test.ts:
 *
 *     node compat/record.ts [CLIENT…]        default: java librdkafka kafkajs platformatic
 *
 *   client ──→ recorder ──→ Kafka        every request is kept with its answer, by its correlation id
 *
 * The clients run their own checks, against Kafka. Besides, a request of every version of every API that Kafka and our schemas have is
 * sent (`record-requests.ts`). Of what a client did, one exchange for each API and version is kept: the one with the most in
 * it that is not too long.
 */

import { mkdirSync, rmSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { type ApiName, apiNameOf } from '../src/wire/kafka/apis.ts'
import { FrameSplitter } from '../src/wire/kafka/frame.ts'
import { type Recorded, recordingsDirectory, writeRecordings } from '../test/wire/recordings.ts'
import { type Check, Report } from './check.ts'
import { startKafka } from './kafka-cluster.ts'
import { cacheDirectory, KAFKA_VERSION } from './kafka-jars.ts'
import { type Exchange, RawClient } from './raw-client.ts'
import { commonRanges, recordRequests } from './record-requests.ts'

const KAFKA_PORT = 19592
const RECORDER_PORT = 19590
/** Longest exchange of a client that is kept; one that is the only one of its version may be longer. */
const EXCHANGE_BYTES_MAX = 1200

/** The exchanges that are kept. */
class Recordings {
  readonly #kept = new Map<string, Recorded>()
  client = ''

  readonly keep = (api: ApiName, version: number, { request, response }: Exchange): void => {
    const key = `${api} ${version} ${this.client}`
    const before = this.#kept.get(key)
    if (before !== undefined && !isBetter(request.length + response.length, bytesOf(before))) return
    this.#kept.set(key, { api, version, client: this.client, request, response })
  }

  /** Our own requests, for versions that no client used, or whose answer tells more. */
  get all(): Recorded[] {
    return [...this.#kept.values()]
  }
}

const bytesOf = ({ request, response }: Exchange): number => request.length + response.length

/** Longer is better, up to the limit. */
function isBetter(bytes: number, before: number): boolean {
  if (before > EXCHANGE_BYTES_MAX) return bytes < before
  return bytes > before && bytes <= EXCHANGE_BYTES_MAX
}

/** Passes on connections to Kafka and hands every exchange to `keep`. */
function startRecorder(recordings: Recordings): Promise<() => Promise<void>> {
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, client => {
    const kafka = connect({ port: KAFKA_PORT, host: '127.0.0.1', noDelay: true })
    const pending = new Map<number, Buffer>()
    frames(client, frame => pending.set(frame.readInt32BE(4), Buffer.from(frame)))
    frames(kafka, frame => {
      const request = pending.get(frame.readInt32BE(0))
      pending.delete(frame.readInt32BE(0))
      const api = request === undefined ? undefined : apiNameOf(request.readInt16BE(0))
      if (request === undefined || api === undefined) return
      recordings.keep(api, request.readInt16BE(2), { request, response: Buffer.from(frame) })
    })
    for (const [from, to] of [
      [client, kafka],
      [kafka, client],
    ]) {
      sockets.add(from)
      from.pipe(to)
      from.on('error', () => to.destroy())
      from.on('close', () => {
        sockets.delete(from)
        to.destroy()
      })
    }
  })
  return new Promise(resolve =>
    server.listen(RECORDER_PORT, '127.0.0.1', () =>
      resolve(async () => {
        for (const socket of sockets) socket.destroy()
        await new Promise(done => server.close(done))
      }),
    ),
  )
}

function frames(socket: Socket, each: (frame: Buffer) => void): void {
  const splitter = new FrameSplitter()
  socket.on('data', chunk => {
    splitter.push(chunk as Buffer)
    for (let frame = splitter.next(); frame !== null; frame = splitter.next()) each(frame)
  })
}

/** Calls `use` with a fresh Kafka behind the recorder: every client finds it empty. */
async function withKafka(use: () => Promise<void>): Promise<void> {
  const kafka = await startKafka({
    port: KAFKA_PORT,
    config: {
      'advertised.listeners': `PLAINTEXT://127.0.0.1:${RECORDER_PORT}`,
      'auto.create.topics.enable': 'false',
      'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
      'super.users': 'User:ANONYMOUS',
    },
  })
  const stopRecorder = await startRecorder(recordings)
  try {
    await use()
  } finally {
    await stopRecorder()
    await kafka.stop()
  }
}

async function recordSchemas(): Promise<void> {
  recordings.client = 'schemas'
  const raw = await RawClient.connect(KAFKA_PORT)
  const { apiKeys } = await raw.request('ApiVersions', 4, {
    clientSoftwareName: 'sluice',
    clientSoftwareVersion: '1',
  })
  const ranges = commonRanges(apiKeys)
  // Announced for clients that look at it, and refused: a closed connection.
  ranges.set('Produce', { min: 3, max: ranges.get('Produce')!.max })
  await recordRequests(raw, ranges, recordings.keep)
  raw.close()
}

async function recordClient(name: string): Promise<void> {
  const { check } = (await import(`./${name}/check.ts`)) as { check: Check }
  const dir = join(cacheDirectory, name)
  mkdirSync(dir, { recursive: true })
  recordings.client = `${name}-${await check.install(dir)}`
  await check.run(`127.0.0.1:${RECORDER_PORT}`, dir, new Report(name, line => console.log(line)))
}

const clients =
  process.argv.length > 2 ? process.argv.slice(2) : ['java', 'librdkafka', 'kafkajs', 'platformatic']
const recordings = new Recordings()
await withKafka(recordSchemas)
for (const name of clients) await withKafka(() => recordClient(name))
rmSync(recordingsDirectory, { recursive: true, force: true })
mkdirSync(recordingsDirectory)
writeRecordings(recordings.all, `Apache Kafka ${KAFKA_VERSION}`)
console.log(
  `${recordings.all.length} exchanges of ${new Set(recordings.all.map(each => each.api)).size} APIs`,
)
