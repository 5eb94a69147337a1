/** Opens the queue that a set of options describes, for the server and for the commands that work on a directory. */

import type { Flush, RecoveryReport, Sluice } from '../index.ts'
import type { Clock } from '../lib/clock.ts'
import { open } from '../open.ts'
import type { ServeOptions } from './options.ts'

export interface OpeningOptions {
  readonly autoCreateTopics: boolean
  /** Whether delayed, recurring and half messages are delivered by this process. */
  readonly relay: boolean
  /** Told what recovery found and repaired. */
  readonly onReport: (report: RecoveryReport) => void
  readonly clock?: Clock
}

/** Rejects with what `open` rejects with. */
export function openSluice(options: ServeOptions, opening: OpeningOptions): Promise<Sluice> {
  return open({
    url: options.data,
    flush: flushOf(options),
    defaultPartitions: options.partitions,
    clientId: 'sluice',
    ...opening,
  })
}

function flushOf({ flush, flushMs, flushMessages }: ServeOptions): Flush {
  return flush === 'interval' ? { everyMs: flushMs, everyMessages: flushMessages } : flush
}
