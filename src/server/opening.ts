/** Opens the queue that a set of options describes, for the server and for the commands that work on a directory. */

import { Consumer, type ConsumerOptions } from '../delivery/consumer.ts'
import { Producer } from '../delivery/producer.ts'
import type { Sluice } from '../delivery/sluice.ts'
import { type Flush, openLocalEngine } from '../engine/local.ts'
import type { ServeOptions } from './options.ts'

export async function openSluice(options: ServeOptions, { autoCreateTopics }: { readonly autoCreateTopics: boolean }): Promise<Sluice> {
  const engine = await openLocalEngine({ url: options.data, flush: flushOf(options), autoCreateTopics, defaultPartitions: options.partitions })
  return { engine, producer: (o: object) => new Producer(o ?? {}, { engine }), consumer: (o: ConsumerOptions) => new Consumer(o, { engine }), close: () => engine.close(), [Symbol.asyncDispose]: () => engine.close() } as unknown as Sluice
}

function flushOf({ flush, flushMs, flushMessages }: ServeOptions): Flush {
  return flush === 'interval' ? { everyMs: flushMs, everyMessages: flushMessages } : flush
}
