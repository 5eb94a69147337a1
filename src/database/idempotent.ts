/**
 * A handler that handles each message once, as far as a store of processed ids knows.
 *
 *     message ─▶ claim(id) ─┬─ ours ────▶ handler ─┬─▶ marked done (tried again while the store is away)
 *                           │                      └─ it throws ─▶ released, and thrown on: whoever runs it tries again
 *                           ├─ done ────▶ skipped, and counted
 *                           └─ claimed ─▶ waits until the claim is over, then ALREADY_CLAIMED
 *
 * What a crash does is told in `processed-ids.ts`: at least once, unless the handler puts the mark into its own transaction (`mark.done(tx)`).
 */

import type { Message } from '../delivery/message.ts'
import { storyOf, systemHeader } from '../delivery/system-headers.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import type { Claim, ProcessedIds } from './processed-ids.ts'
import type { SessionLike } from './session.ts'

type AnyMessage = Message<unknown, unknown>

/** For a handler that wants its mark in its own transaction. */
export interface Mark {
  /** The id that was claimed. */
  readonly id: string
  /**
   * Marks the message as handled: in `transaction`, if the store is in SQL, so that the mark and what the handler writes are there both or not at all. Then
   * nothing is marked after the handler. Throws `LEASE_EXPIRED` if somebody else has the message by now: roll back.
   */
  done(transaction?: SessionLike): Promise<void>
}

export interface IdempotentOptions<M> {
  /**
   * The id of a message. Default: its header `sluice-message-id` if it has one, else where it was published first (topic/partition/offset),
   * so that what is published twice without an id is two messages. At most 249 characters.
   */
  readonly idOf?: (message: M) => string
  /**
   * What to do with a message that somebody else is handling, or was when he died. 'wait' (default): ask again every half a second, until it is done
   * (then it is skipped) or free. 'throw': `ALREADY_CLAIMED` at once, for workers whose retries last longer than the store's lease.
   */
  readonly onBusy?: 'wait' | 'throw'
  /** How long to wait; then `ALREADY_CLAIMED`. Longer than the store's lease, or a crash takes attempts. Default 90,000. */
  readonly waitMs?: number
  /** @internal For tests. */
  readonly clock?: Clock
}

export interface IdempotentStats {
  /** Messages that the handler was called for and that are marked done. */
  readonly handled: number
  /** Messages that were skipped: they had been handled. */
  readonly duplicates: number
  /** Times that a message was found claimed by another. */
  readonly busy: number
  /** Calls of the handler that failed. */
  readonly failed: number
}

/** What `idempotent` gives: to be handed to `consumer.run`, `mq.worker`, `queue.process`. */
export interface IdempotentHandler<M, Rest extends readonly unknown[]> {
  (message: M, ...rest: Rest): Promise<void>
  readonly stats: IdempotentStats
}

const ASK_AGAIN_MS = 500
const WAIT_MS = 90_000
const MARK_ATTEMPTS = 8
const MARK_RETRY_MS = 100

/**
 * Wraps a handler so that a message is handled once. The handler is called with the message, its mark, and whatever else the wrapped one is
 * called with (of a worker, the job). Each call rejects with what the handler throws, with `ALREADY_CLAIMED`, `LEASE_EXPIRED`, or
 * `DATABASE_FAILED` if the store is away; all but the first are worth another attempt.
 *
 *     mq.worker('orders', { group: 'billing' }, idempotent(redisProcessedIds(redis), async message => bill(message.json())))
 */
export function idempotent<M extends AnyMessage, Rest extends readonly unknown[] = []>(
  store: ProcessedIds,
  handler: (message: M, mark: Mark, ...rest: Rest) => unknown,
  options: IdempotentOptions<M> = {},
): IdempotentHandler<M, Rest> {
  const { idOf = messageId, onBusy = 'wait', waitMs = WAIT_MS, clock = systemClock } = options
  const stats = { handled: 0, duplicates: 0, busy: 0, failed: 0 }

  const claimOf = async (id: string): Promise<Claim | null> => {
    const deadline = clock.monotonic() + waitMs
    for (;;) {
      const claim = await store.claim(id)
      if (claim === 'done') return null
      if (claim !== 'claimed') return claim
      stats.busy++
      if (onBusy === 'throw' || clock.monotonic() >= deadline) throw alreadyClaimed(id)
      await pause(clock, ASK_AGAIN_MS)
    }
  }

  const handle = async (message: M, ...rest: Rest): Promise<void> => {
    const id = idOf(message)
    const claim = await claimOf(id)
    if (claim === null) {
      stats.duplicates++
      return
    }
    let isMarked = false
    const mark: Mark = {
      id,
      done: async transaction => {
        await claim.done(transaction)
        isMarked = true
      },
    }
    try {
      await handler(message, mark, ...rest)
    } catch (error) {
      stats.failed++
      // a store that is away lets the claim run out; a mark that was committed stays
      await claim.release().catch(() => {})
      throw error
    }
    if (!isMarked) await markDone(claim, clock)
    stats.handled++
  }
  return Object.assign(handle, { stats })
}

/** The handler has done its work: a store that is away for a moment must not have it done again. */
async function markDone(claim: Claim, clock: Clock): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await claim.done()
    } catch (error) {
      if (!isSluiceError(error) || !error.retriable || attempt >= MARK_ATTEMPTS) throw error
    }
    await pause(clock, MARK_RETRY_MS * 2 ** (attempt - 1))
  }
}

/** The id that the publisher gave, or else the place where the message was published first, also when it is tried again from elsewhere. */
export function messageId(message: AnyMessage): string {
  const given = message.header(systemHeader.messageId)
  if (given != null && given !== '') return given
  const { topic, partition, offset } = storyOf(message) ?? message
  return `${topic}/${partition}/${offset}`
}

const pause = (clock: Clock, delayMs: number): Promise<void> =>
  new Promise(resolve => clock.after(delayMs, resolve))

const alreadyClaimed = (id: string): SluiceError =>
  new SluiceError(
    'ALREADY_CLAIMED',
    `${id}: somebody else is handling this message, or was when he died; try again when the lease of his claim is over`,
    { id },
  )
