/** Where a group is in a partition, for those who are not its members: tools, reports, producers that ask what became of something. */

import type { CommittedOffset, Engine, TopicPartition } from '../engine/engine.ts'
import { isSluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'
import { keptAlive } from './keep-alive.ts'
import { Ledger } from './ledger.ts'

const RETRY_MS_MIN = 5
const RETRY_MS_MAX = 500
/** A transaction may hold the commit open for as long as its time-out; most take a few milliseconds. */
const RETRIES_MAX = 130

/**
 * What the group has finished, as its last commit says; null if it has committed nothing. Waits while a transaction holds the commit open, for
 * about a minute; then rejects with `UNSTABLE_OFFSET_COMMIT`.
 */
export async function groupLedger(
  engine: Engine,
  clock: Clock,
  group: string,
  of: TopicPartition,
): Promise<Ledger | null> {
  for (let failures = 0; ; failures++) {
    try {
      const [committed] = await engine.committed(group, [of])
      return committed === undefined ? null : new Ledger(committed.offset, committed.metadata)
    } catch (error) {
      if (!isSluiceError(error, 'UNSTABLE_OFFSET_COMMIT') || failures >= RETRIES_MAX) throw error
      const delayMs = Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures)
      await keptAlive(new Promise<void>(resolve => clock.after(delayMs, resolve)))
    }
  }
}

/**
 * How far behind a group is with this commit in a partition that has the offsets from `start` to before `end`: what it has not finished. What is
 * gone by age, and what workers say in the commit's metadata that they have finished, does not count.
 */
export function lagBehind(
  commit: Pick<CommittedOffset, 'offset' | 'metadata'>,
  start: number,
  end: number,
): number {
  const ledger = new Ledger(commit.offset, commit.metadata)
  let unfinished = 0
  for (const offset of ledger.offsets()) if (offset >= start) unfinished++
  return unfinished + Math.max(0, end - Math.max(start, ledger.next))
}
