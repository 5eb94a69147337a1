/**
 * Calls handlers as a connection does, without one: a request goes through the bytes of its version and back, so does the
 * response. What a version does not have is at its default, as for a client.
 */

import { Broker, type BrokerOptions } from '../../../src/broker/broker.ts'
import { ByteReader, ByteWriter } from '../../../src/lib/bytes.ts'
import { memoryDisk } from '../../../src/lib/disk-memory.ts'
import { clusterHandlers } from '../../../src/server/kafka/cluster-handlers.ts'
import { configHandlers } from '../../../src/server/kafka/config-handlers.ts'
import { groupHandlers } from '../../../src/server/kafka/group-handlers.ts'
import type { Handler, RequestContext } from '../../../src/server/kafka/handler.ts'
import { offsetHandlers } from '../../../src/server/kafka/offset-handlers.ts'
import { topicHandlers } from '../../../src/server/kafka/topic-handlers.ts'
import { apis } from '../../../src/wire/kafka/apis.ts'
import { decode, encode } from '../../../src/wire/kafka/codec.ts'
import type { Api, Decoded, Encodable, Fields } from '../../../src/wire/kafka/schema.ts'
import { VirtualClock } from '../../sim/virtual-clock.ts'

/** Time stands still until a test lets it pass; what needs no time happens by itself. */
class StillClock extends VirtualClock {
  #pending = 0

  override defer(run: () => void): void {
    this.#pending += 1
    setImmediate(() => {
      this.#pending -= 1
      run()
    })
  }

  override async runDeferred(): Promise<void> {
    do await new Promise(resolve => setImmediate(resolve))
    while (this.#pending > 0)
  }
}

export const handlers: readonly Handler[] = [
  ...groupHandlers,
  ...offsetHandlers,
  ...topicHandlers,
  ...configHandlers,
  ...clusterHandlers,
]

export const node = { id: 1, host: 'broker.test', port: 9092 }

type Apis = typeof apis
type FieldsOf<Name extends keyof Apis, Part extends 'request' | 'response'> = Apis[Name][Part]['fields']
export type Answer<Name extends keyof Apis> = Decoded<FieldsOf<Name, 'response'>>

export class Calls {
  readonly clock: VirtualClock
  readonly broker: Broker
  /** Of the clients to come. */
  clientId = 'client'
  clientHost = '/10.0.0.7'

  static async open(options: Partial<BrokerOptions> = {}): Promise<Calls> {
    const clock = new StillClock()
    return new Calls(clock, await Broker.open({ disk: memoryDisk(), path: 'data', clock, ...options }))
  }

  constructor(clock: VirtualClock, broker: Broker) {
    this.clock = clock
    this.broker = broker
  }

  /** Lets everything happen that needs no time. */
  settle(): Promise<void> {
    return this.clock.runDeferred()
  }

  /** Resolves with the answer. */
  async call<Name extends keyof Apis>(
    name: Name,
    version: number,
    request: Encodable<FieldsOf<Name, 'request'>>,
  ): Promise<Answer<Name>> {
    const pending = this.start(name, version, request)
    await this.settle()
    return pending
  }

  /** The same, for answers that take virtual time. */
  async start<Name extends keyof Apis>(
    name: Name,
    version: number,
    request: Encodable<FieldsOf<Name, 'request'>>,
  ): Promise<Answer<Name>> {
    const api = apis[name] as unknown as Api<Fields, Fields>
    const { handle } = handlers.find(({ api: each }) => each.name === name)!
    const context: RequestContext = {
      broker: this.broker,
      node,
      version,
      clientId: this.clientId,
      connection: { id: 'c', clientHost: this.clientHost, signal: new AbortController().signal },
      autoCreateTopics: true,
    }
    const writer = new ByteWriter()
    encode(api.request, version, writer, request as Encodable<Fields>)
    const decoded = decode(api.request, version, new ByteReader(Buffer.concat(writer.finish().parts)))
    const response = await handle(decoded, context)
    const answer = new ByteWriter()
    encode(api.response, version, answer, response as Encodable<Fields>)
    return decode(api.response, version, new ByteReader(Buffer.concat(answer.finish().parts))) as Answer<Name>
  }
}

/** All versions that are served. */
export function versionsOf(name: keyof Apis): number[] {
  const { min, max } = apis[name].served
  return Array.from({ length: max - min + 1 }, (_, index) => min + index)
}
