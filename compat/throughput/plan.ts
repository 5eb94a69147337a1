/** What is measured: which client does what with which records. A series is done by both brokers in turns. */

import type { Flush } from './brokers.ts'
import type { Client, Codec } from './clients.ts'

export type Work = 'produce' | 'consume' | 'transact'

export interface Series {
  readonly client: Client['name']
  readonly flush: Flush
  /** What is done to a fresh topic, one after the other. */
  readonly work: readonly Work[]
  readonly recordBytes: number
  readonly partitions: number
  readonly codec: Codec
  /** Records of a transaction. */
  readonly transactionSize: number
}

/** `java/os/1024/1/none`: what `--only` is compared with. */
export function nameOf(series: Series): string {
  const { client, flush, work, recordBytes, partitions, codec, transactionSize } = series
  const start = `${client}/${flush}/${recordBytes}/${partitions}`
  return work[0] === 'transact' ? `${start}/transactions-of-${transactionSize}` : `${start}/${codec}`
}

const CLIENTS = ['java', 'librdkafka'] as const
const SIZES = [100, 1024, 10_240]

/** Those of one flush policy, quick or all. Consumers do not depend on the policy: they are measured with `os`. */
export function planOf(flush: Flush, quick: boolean): Series[] {
  const plan: Series[] = []
  for (const client of CLIENTS) {
    const common = { client, flush, transactionSize: 0 } as const
    const work: Work[] = flush === 'os' ? ['produce', 'consume'] : ['produce']
    for (const recordBytes of SIZES) {
      plan.push({ ...common, work, recordBytes, partitions: 1, codec: 'none' })
      if (quick) continue
      plan.push({ ...common, work, recordBytes, partitions: 8, codec: 'none' })
      if (flush === 'os') plan.push({ ...common, work, recordBytes, partitions: 8, codec: 'lz4' })
    }
    for (const transactionSize of [1, 1000]) {
      const rest = { recordBytes: 100, partitions: 1, codec: 'none', transactionSize } as const
      plan.push({ ...common, work: ['transact'], ...rest })
    }
  }
  return plan
}
