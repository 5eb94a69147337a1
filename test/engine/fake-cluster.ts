/**
 * A cluster as far as a client has to find its way in one: nodes that answer ApiVersions, Metadata, Produce and Fetch for the
 * topic `t`, whose leaders the test moves about. A node that does not lead a partition says so. Nothing is stored.
 */

import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { ByteReader } from '../../src/lib/bytes.ts'
import { apiVersionsApi } from '../../src/wire/kafka/api-versions.ts'
import { fetchApi } from '../../src/wire/kafka/fetch.ts'
import {
  decodeRequestBody,
  decodeRequestHeader,
  encodeResponse,
  FrameSplitter,
} from '../../src/wire/kafka/frame.ts'
import { metadataApi } from '../../src/wire/kafka/metadata.ts'
import { produceApi } from '../../src/wire/kafka/produce.ts'
import type { Api, Decoded, Encodable, Fields } from '../../src/wire/kafka/schema.ts'

const HOST = '127.0.0.1'
/** Of every partition. */
export const END_OFFSET = 7
const NOT_LEADER = 6
const UNKNOWN_TOPIC = 3
const served = [apiVersionsApi, metadataApi, produceApi, fetchApi].map(api => ({
  apiKey: api.key,
  minVersion: api.served.min,
  maxVersion: Math.min(12, api.served.max),
}))

interface Node {
  readonly server: Server
  readonly port: number
  readonly sockets: Set<Socket>
}

export class FakeCluster {
  readonly #nodes: Node[] = []
  /** Of each partition of `t`, the index of the node that leads it. */
  readonly leaders: number[]
  /** `Metadata 0`, `Produce 1`…: what was asked of which node, without ApiVersions. */
  readonly asked: string[] = []
  readonly partitionsFetched = new Set<number>()
  /** Fetches that have come and are not answered. */
  fetching = 0
  fetchingMost = 0
  /** While set, fetches are answered when it resolves. */
  hold: Promise<void> | null = null

  private constructor(leaders: number[]) {
    this.leaders = leaders
  }

  static async start(nodes: number, leaders: number[]): Promise<FakeCluster> {
    const cluster = new FakeCluster(leaders)
    for (let index = 0; index < nodes; index++) {
      const sockets = new Set<Socket>()
      const server = createServer(socket => {
        sockets.add(socket)
        cluster.#connect(index, socket)
      })
      await new Promise<void>(resolve => server.listen(0, HOST, resolve))
      cluster.#nodes.push({ server, port: (server.address() as AddressInfo).port, sockets })
    }
    return cluster
  }

  get url(): string {
    return `kafka://${this.#nodes.map(({ port }) => `${HOST}:${port}`).join(',')}`
  }

  /** A node goes away. */
  async stop(index: number): Promise<void> {
    const { server, sockets } = this.#nodes[index]
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  }

  async close(): Promise<void> {
    await Promise.all(this.#nodes.map((_, index) => this.stop(index)))
  }

  #connect(node: number, socket: Socket): void {
    const splitter = new FrameSplitter()
    socket.on('error', () => {})
    socket.on('data', chunk => {
      splitter.push(chunk as Buffer)
      for (let frame = splitter.next(); frame !== null; frame = splitter.next())
        void this.#answer(node, socket, frame)
    })
  }

  async #answer(node: number, socket: Socket, frame: Buffer): Promise<void> {
    const reader = new ByteReader(frame)
    const { apiKey, apiVersion, correlationId } = decodeRequestHeader(reader)
    const answer = async <Request extends Fields, Response extends Fields>(
      api: Api<Request, Response>,
      handle: (request: Decoded<Request>) => Encodable<Response> | Promise<Encodable<Response>>,
    ): Promise<void> => {
      if (api.key !== apiKey) return
      if (api.key !== apiVersionsApi.key) this.asked.push(`${api.name} ${node}`)
      const body = await handle(decodeRequestBody(api as unknown as Api<Request>, apiVersion, reader))
      for (const part of encodeResponse(api, apiVersion, correlationId, body).parts) socket.write(part)
    }
    await answer(apiVersionsApi, () => ({ errorCode: 0, apiKeys: served }))
    await answer(metadataApi, ({ topics }) => this.#metadata(topics?.map(({ name }) => name ?? '') ?? ['t']))
    await answer(produceApi, ({ topicData }) => ({
      responses: topicData.map(({ name, partitionData }) => ({
        name,
        partitionResponses: partitionData.map(({ index }) => ({
          index,
          errorCode: this.#refusal(node, index),
          baseOffset: 0,
        })),
      })),
    }))
    await answer(fetchApi, async ({ topics, maxWaitMs }) => {
      for (const { partitions } of topics)
        for (const { partition } of partitions) this.partitionsFetched.add(partition)
      this.fetchingMost = Math.max(this.fetchingMost, ++this.fetching)
      const isRefused = topics.some(({ partitions }) =>
        partitions.some(({ partition }) => this.#refusal(node, partition) !== 0),
      )
      if (!isRefused) await (this.hold ?? sleep(maxWaitMs))
      this.fetching--
      return {
        responses: topics.map(({ topic, partitions }) => ({
          topic,
          partitions: partitions.map(({ partition }) => ({
            partitionIndex: partition,
            errorCode: this.#refusal(node, partition),
            highWatermark: END_OFFSET,
            records: null,
          })),
        })),
      }
    })
  }

  #refusal(node: number, partition: number): number {
    return this.leaders[partition] === node ? 0 : NOT_LEADER
  }

  #metadata(names: readonly string[]): Encodable<typeof metadataApi.response.fields> {
    const partitions = this.leaders.map((leaderId, partitionIndex) => ({
      errorCode: 0,
      partitionIndex,
      leaderId,
      replicaNodes: [],
      isrNodes: [],
    }))
    return {
      brokers: this.#nodes.map(({ port }, nodeId) => ({ nodeId, host: HOST, port })),
      controllerId: 0,
      topics: names.map(name => ({
        errorCode: name === 't' ? 0 : UNKNOWN_TOPIC,
        name,
        topicId: 'AAAAAAAAAAAAAAAAAAAAAQ',
        partitions: name === 't' ? partitions : [],
      })),
    }
  }
}
