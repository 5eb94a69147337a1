/**
 * The outbox's relay: publishes the rows of an outbox, those of a key in their order, each exactly once as far as readers of committed messages
 * can tell, whatever dies where.
 *
 *     lease shards ─▶ for each: open (fences the holder before) ─▶ what was published last? delete it ─┐
 *                         ▲                                                                            ▼
 *                         │ fenced, lease lost                        delete ◀─ transaction { rows, their ids } ◀─ next rows
 *                         └────────────────────────────────────────────┴──────────────── and again ────────────────┘
 *
 * Invariants:
 * - The commit of group `_sluice.outbox.<name>` for partition `shard` of the topic of the same name lists the ids of the last batch that was published of the
 *   shard. The next batch is begun only when these rows are deleted.
 * - A shard is published by the transactional producer `_sluice.outbox.<name>.<shard>` alone. It is opened before the list is read. So a
 *   holder that was thought dead is fenced before anybody relies on what it has or has not published.
 * - Leases only spare relays from fencing each other: nothing depends on clocks.
 *
 * A row that is refused for good is marked as failed and passed over, so that the others go on; see `OutboxAdmin`.
 */

import { randomUUID } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { KeepAlive } from '../delivery/keep-alive.ts'
import { within } from '../delivery/option.ts'
import { rawTopic } from '../delivery/raw-topic.ts'
import type { Sluice } from '../delivery/sluice.ts'
import type { Transaction } from '../delivery/transaction.ts'
import { emitError } from '../delivery/warn.ts'
import { isSluiceError, SluiceError } from '../errors.ts'
import { type Clock, systemClock } from '../lib/clock.ts'
import { type DatabaseLike, databaseOf, type SqlDatabase } from './database.ts'
import { channelOf, checkedName, type OutboxRow, outboxColumns, readRow } from './outbox.ts'
import { OUTBOX_SHARDS } from './schema.ts'

export interface OutboxRelayOptions {
  readonly database: DatabaseLike
  /** Which outbox. Default 'default'. */
  readonly name?: string
  /** Rows that are published in one transaction. Default 500, at most 500. */
  readonly batchRows?: number
  /** How often to look for rows when nobody tells. Default 1,000 with LISTEN, else 100. */
  readonly pollMs?: number
  /** How long a relay that is not heard of keeps its shards. Default 10,000. */
  readonly leaseMs?: number
  /** PostgreSQL: be told of new rows. Default true. */
  readonly listen?: boolean
  /** @internal For tests. */
  readonly clock?: Clock
}

export interface OutboxRelayEvents {
  /** Rows were published, and are durable. */
  published: [count: number]
  /** A row was refused for good; it stays in the table as failed. */
  refused: [row: { readonly id: number; readonly topic: string }, error: SluiceError]
  /** Shards that this relay has now. */
  shards: [shards: readonly number[]]
  /** Something that passes, such as a database that is away. Without a listener it is a process warning. */
  error: [error: SluiceError]
}

export const BATCH_ROWS_MAX = 500
const RETRY_MS_MIN = 100
const RETRY_MS_MAX = 5_000
const TRANSACTION_TIMEOUT_MS = 30_000
const ERROR_CHARS_MAX = 1_000

interface Shard {
  readonly shard: number
  /** Monotonic: past it somebody else may have it. */
  heldUntil: number
  isReleased: boolean
  wake: (() => void) | null
  /** Rows came while nobody waited. */
  isWoken: boolean
  done: Promise<void>
}

/** A relay that runs; made by `outboxRelay()`. */
export class OutboxRelay extends EventEmitter<OutboxRelayEvents> {
  readonly #mq: Sluice
  readonly #database: SqlDatabase
  readonly #name: string
  readonly #place: string
  readonly #batchRows: number
  readonly #pollMs: number
  readonly #leaseMs: number
  readonly #listens: boolean
  readonly #clock: Clock
  readonly #id = randomUUID()
  readonly #shards = new Map<number, Shard>()
  readonly #keepAlive = new KeepAlive()
  readonly #stopping = Promise.withResolvers<void>()
  #isStopping = false
  #unlisten: (() => void) | null = null
  #running: Promise<void>

  /** @internal */
  constructor(mq: Sluice, options: OutboxRelayOptions) {
    super()
    this.#mq = mq
    this.#database = databaseOf(options.database)
    this.#name = checkedName(options.name)
    this.#place = `_sluice.outbox.${this.#name}`
    this.#listens = (options.listen ?? true) && this.#database.listen !== undefined
    this.#batchRows = within('batchRows', options.batchRows ?? BATCH_ROWS_MAX, 1, BATCH_ROWS_MAX)
    this.#pollMs = within('pollMs', options.pollMs ?? (this.#listens ? 1_000 : 100), 1, 3_600_000)
    this.#leaseMs = within('leaseMs', options.leaseMs ?? 10_000, 100, 3_600_000)
    this.#clock = options.clock ?? systemClock
    this.#keepAlive.hold()
    this.#running = this.#run().finally(() => this.#keepAlive.release())
  }

  /** Finishes what is under way, gives its shards back and resolves. */
  async stop(): Promise<void> {
    this.#isStopping = true
    this.#stopping.resolve()
    this.#wakeAll()
    await this.#running
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #run(): Promise<void> {
    await this.#retried(async () => {
      try {
        await this.#mq.engine.createTopic({ name: this.#place, partitions: OUTBOX_SHARDS })
      } catch (error) {
        if (!isSluiceError(error, 'TOPIC_EXISTS')) throw error
      }
      await this.#makeShardRows()
    })
    while (!this.#isStopping) {
      await this.#quietly(() => this.#heartbeat())
      await this.#sleep(this.#leaseMs / 3)
    }
    this.#unlisten?.()
    for (const shard of this.#shards.values()) this.#release(shard)
    await Promise.all([...this.#shards.values()].map(({ done }) => done))
    await this.#quietly(async () => {
      await this.#database.query('DELETE FROM sluice_outbox_relays WHERE outbox = ? AND relay = ?', [
        this.#name,
        this.#id,
      ])
    })
  }

  // Who has which shard.

  async #makeShardRows(): Promise<void> {
    const { dialect } = this.#database
    for (let shard = 0; shard < OUTBOX_SHARDS; shard++) {
      const row = 'INTO sluice_outbox_shards (outbox, shard, held_until) VALUES (?, ?, 0)'
      const statement =
        dialect === 'mysql' ? `INSERT IGNORE ${row}` : `INSERT ${row} ON CONFLICT (outbox, shard) DO NOTHING`
      await this.#database.query(statement, [this.#name, shard])
    }
  }

  /** Says that it lives, keeps what it has, gives back what is too much, takes what is free. */
  async #heartbeat(): Promise<void> {
    await this.#listen()
    const now = this.#clock.now()
    const quota = Math.ceil(OUTBOX_SHARDS / (await this.#countRelays(now)))
    const held = [...this.#shards.values()].filter(({ isReleased }) => !isReleased)
    for (const shard of held) await this.#renew(shard)
    for (const shard of held.slice(quota)) this.#release(shard)
    const free = await this.#freeShards(now)
    for (const shard of free.slice(0, Math.max(0, quota - held.length))) await this.#take(shard)
  }

  async #countRelays(now: number): Promise<number> {
    const aliveUntil = now + this.#leaseMs
    const row = 'INTO sluice_outbox_relays (outbox, relay, alive_until) VALUES (?, ?, ?)'
    const statement =
      this.#database.dialect === 'mysql'
        ? `INSERT ${row} ON DUPLICATE KEY UPDATE alive_until = VALUES(alive_until)`
        : `INSERT ${row} ON CONFLICT (outbox, relay) DO UPDATE SET alive_until = EXCLUDED.alive_until`
    await this.#database.query(statement, [this.#name, this.#id, aliveUntil])
    await this.#database.query('DELETE FROM sluice_outbox_relays WHERE outbox = ? AND alive_until < ?', [
      this.#name,
      now - this.#leaseMs,
    ])
    const { rows } = await this.#database.query(
      'SELECT COUNT(*) AS relays FROM sluice_outbox_relays WHERE outbox = ? AND alive_until >= ?',
      [this.#name, now],
    )
    return Math.max(1, Number(rows[0].relays))
  }

  async #freeShards(now: number): Promise<number[]> {
    const { rows } = await this.#database.query(
      'SELECT shard FROM sluice_outbox_shards WHERE outbox = ? AND held_until < ? ORDER BY shard',
      [this.#name, now],
    )
    return rows.map(({ shard }) => Number(shard)).filter(shard => !this.#shards.has(shard))
  }

  async #take(shard: number): Promise<void> {
    const since = this.#clock.monotonic()
    const now = this.#clock.now()
    const { count } = await this.#database.query(
      'UPDATE sluice_outbox_shards SET holder = ?, held_until = ? WHERE outbox = ? AND shard = ? AND held_until < ?',
      [this.#id, now + this.#leaseMs, this.#name, shard, now],
    )
    if (count !== 1 || this.#isStopping) return
    const taken: Shard = {
      shard,
      heldUntil: since + this.#leaseMs,
      isReleased: false,
      wake: null,
      isWoken: false,
      done: Promise.resolve(),
    }
    this.#shards.set(shard, taken)
    taken.done = this.#hold(taken)
    this.#tellShards()
  }

  async #renew(shard: Shard): Promise<void> {
    const since = this.#clock.monotonic()
    const { count } = await this.#database.query(
      'UPDATE sluice_outbox_shards SET held_until = ? WHERE outbox = ? AND shard = ? AND holder = ?',
      [this.#clock.now() + this.#leaseMs, this.#name, shard.shard, this.#id],
    )
    if (count === 1) shard.heldUntil = since + this.#leaseMs
    else this.#release(shard)
  }

  #release(shard: Shard): void {
    shard.isReleased = true
    shard.wake?.()
  }

  /** Publishes a shard's rows until it is to be given back. */
  async #hold(shard: Shard): Promise<void> {
    for (let failures = 0; !this.#isOver(shard); ) {
      try {
        await this.#settle(shard)
        failures = 0
        for (;;) {
          if (this.#isOver(shard)) break
          const rows = await this.#nextRows(shard)
          if (rows.length === 0) await this.#rest(shard)
          else await this.#publish(shard, rows)
        }
      } catch (error) {
        if (this.#isOver(shard)) break
        this.#warn(error)
        await this.#sleep(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures++))
      }
    }
    await this.#quietly(async () => {
      await this.#database.query(
        'UPDATE sluice_outbox_shards SET holder = NULL, held_until = 0 WHERE outbox = ? AND shard = ? AND holder = ?',
        [this.#name, shard.shard, this.#id],
      )
    })
    this.#shards.delete(shard.shard)
    this.#tellShards()
  }

  #isOver(shard: Shard): boolean {
    return this.#isStopping || shard.isReleased || this.#clock.monotonic() >= shard.heldUntil
  }

  // Publishing.

  /** Fences whoever had the shard, and deletes what was published last, if it is still there. */
  async #settle({ shard }: Shard): Promise<void> {
    await this.#transact(shard, async () => {})
    const [commit] = await this.#mq.engine.committed(this.#place, [{ topic: this.#place, partition: shard }])
    if (commit !== undefined) await this.#delete(decodeIds(commit.metadata))
  }

  async #nextRows({ shard }: Shard): Promise<OutboxRow[]> {
    const { rows } = await this.#database.query(
      `SELECT ${outboxColumns} FROM sluice_outbox WHERE outbox = ? AND shard = ? AND failed_at IS NULL ORDER BY id LIMIT ?`,
      [this.#name, shard, this.#batchRows],
    )
    return rows.map(readRow)
  }

  async #publish(shard: Shard, rows: readonly OutboxRow[]): Promise<void> {
    try {
      await this.#publishTogether(shard.shard, rows)
    } catch (error) {
      if (!isRefusal(error)) throw error
      if (rows.length === 1) return await this.#markFailed(rows[0], error)
      // one of them is refused; the others must not wait for it
      const middle = Math.ceil(rows.length / 2)
      await this.#publish(shard, rows.slice(0, middle))
      return await this.#publish(shard, rows.slice(middle))
    }
    this.emit('published', rows.length)
  }

  async #publishTogether(shard: number, rows: readonly OutboxRow[]): Promise<void> {
    const ids = rows.map(({ id }) => id)
    await this.#transact(shard, async transaction => {
      for (const { id, topic, ...message } of rows) void transaction.publish(rawTopic(topic), message)
      const commit = { topic: this.#place, partition: shard, offset: 0, metadata: encodeIds(ids) }
      await transaction.commitOffsets(this.#place, [commit])
    })
    // From here on they are published, and must not be read again before they are gone.
    await this.#retried(() => this.#delete(ids))
  }

  #transact(shard: number, body: (transaction: Transaction) => Promise<void>): Promise<void> {
    return this.#mq.transaction(body, {
      transactionalId: `${this.#place}.${shard}`,
      timeoutMs: TRANSACTION_TIMEOUT_MS,
    })
  }

  async #delete(ids: readonly number[]): Promise<void> {
    if (ids.length === 0) return
    await this.#database.query(
      `DELETE FROM sluice_outbox WHERE id IN (${ids.map(() => '?').join(', ')})`,
      ids,
    )
  }

  async #markFailed({ id, topic }: OutboxRow, error: SluiceError): Promise<void> {
    const text = `${error.code}: ${error.message}`.slice(0, ERROR_CHARS_MAX)
    await this.#database.query('UPDATE sluice_outbox SET failed_at = ?, error_text = ? WHERE id = ?', [
      this.#clock.now(),
      text,
      id,
    ])
    this.emit('refused', { id, topic }, error)
  }

  // Waiting.

  async #listen(): Promise<void> {
    if (!this.#listens || this.#unlisten !== null || this.#isStopping) return
    const lost = (): void => {
      this.#unlisten = null // the next heartbeat listens again
      this.#wakeAll()
    }
    this.#unlisten =
      (await this.#database.listen?.(channelOf(this.#name), () => this.#wakeAll(), lost)) ?? null
    if (this.#isStopping) this.#unlisten?.()
  }

  #wakeAll(): void {
    for (const shard of this.#shards.values()) {
      shard.isWoken = true
      shard.wake?.()
    }
  }

  /** Until there may be rows again. */
  async #rest(shard: Shard): Promise<void> {
    if (!shard.isWoken && !this.#isOver(shard)) {
      await new Promise<void>(resolve => {
        shard.wake = resolve
        this.#clock.after(this.#pollMs, resolve)
      })
      shard.wake = null
    }
    shard.isWoken = false
  }

  async #sleep(delayMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = this.#clock.after(delayMs, resolve)
    await Promise.race([promise, this.#stopping.promise])
    timer.cancel()
  }

  /** Repeats what passes until it has passed, or the relay is stopped. */
  async #retried(call: () => Promise<void>): Promise<void> {
    for (let failures = 0; ; failures++) {
      try {
        return await call()
      } catch (error) {
        if (this.#isStopping) throw error
        this.#warn(error)
        await this.#sleep(Math.min(RETRY_MS_MAX, RETRY_MS_MIN * 2 ** failures))
        if (this.#isStopping) throw error
      }
    }
  }

  async #quietly(call: () => Promise<void>): Promise<void> {
    try {
      await call()
    } catch (error) {
      this.#warn(error)
    }
  }

  #tellShards(): void {
    this.emit(
      'shards',
      [...this.#shards.keys()].toSorted((one, other) => one - other),
    )
  }

  #warn(cause: unknown): void {
    const error = isSluiceError(cause)
      ? cause
      : new SluiceError(
          'DATABASE_FAILED',
          `outbox ${this.#name}: ${cause instanceof Error ? cause.message : String(cause)}`,
          {},
          cause,
        )
    emitError(this, error)
  }
}

/** Starts a relay. Any number of them share an outbox. Throws `INVALID_ARGUMENT`; `UNSUPPORTED` if the engine has no transactions. */
export function outboxRelay(mq: Sluice, options: OutboxRelayOptions): OutboxRelay {
  if (!mq.engine.supports.transactions) throw new SluiceError('UNSUPPORTED', `${mq.url} has no transactions`)
  return new OutboxRelay(mq, options)
}

/** The message is at fault, not the moment. */
const isRefusal = (error: unknown): error is SluiceError =>
  isSluiceError(error) &&
  [
    'MESSAGE_TOO_LARGE',
    'INVALID_TOPIC',
    'INVALID_PARTITION',
    'INVALID_RECORD',
    'INVALID_TIMESTAMP',
    'INVALID_ARGUMENT',
    'UNKNOWN_TOPIC',
    'CODEC_FAILED',
  ].includes(error.code)

const METADATA_VERSION = 'o1'

/** Ascending ids as the distances between them: fits into a commit's metadata for `BATCH_ROWS_MAX` of them. */
export function encodeIds(ids: readonly number[]): string {
  const bytes: number[] = []
  let before = 0
  for (const id of ids) {
    for (let rest = id - before; ; rest = Math.floor(rest / 0x80)) {
      bytes.push(rest < 0x80 ? rest : (rest % 0x80) | 0x80)
      if (rest < 0x80) break
    }
    before = id
  }
  return METADATA_VERSION + Buffer.from(bytes).toString('base64url')
}

/** None for what is not ours. */
export function decodeIds(metadata: string): number[] {
  if (!metadata.startsWith(METADATA_VERSION)) return []
  const ids: number[] = []
  let before = 0
  let distance = 0
  let factor = 1
  for (const byte of Buffer.from(metadata.slice(METADATA_VERSION.length), 'base64url')) {
    distance += (byte & 0x7f) * factor
    factor *= 0x80
    if (byte >= 0x80) continue
    before += distance
    ids.push(before)
    distance = 0
    factor = 1
  }
  return ids
}
