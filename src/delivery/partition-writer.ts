/**
 * The line of batches that a producer has for one partition:
 *
 *     records → [ open ] → [ closed, closed… ] → [ in flight ] → engine
 *
 * At most one batch is in flight, retries included, so records are stored in the order in which they were
 * sent, without any help from the log. Meanwhile the open batch keeps filling: everybody who sends during a
 * flush shares the next one (group commit). When a batch comes back, a partly filled one waits for the end of
 * the turn of the event loop, because those who have just been answered are about to send again.
 *
 * An open batch closes when it is full, when linger is over and nothing is in flight, and on flush.
 */

import assert from 'node:assert/strict'
import type { Acks, Engine, Produced, ProducerIdentity } from '../engine/engine.ts'
import { SluiceError } from '../errors.ts'
import type { Clock, Timer } from '../lib/clock.ts'
import type { Compression } from '../record/builder.ts'
import type { OpenBatch } from './open-batch.ts'

/** What a line needs from its producer. */
export interface WriterContext {
  readonly engine: Pick<Engine, 'produce' | 'initProducer'>
  readonly clock: Clock
  readonly random: () => number
  readonly acks: Acks | undefined
  readonly compression: Compression
  readonly idempotent: boolean
  /** Batches are part of transactions. */
  readonly transactional: boolean
  readonly lingerMs: number
  readonly retries: number
  readonly retryBackoffMs: number
  readonly retryBackoffMsMax: number
  readonly deliveryTimeoutMs: number
  takeBatch(writer: PartitionWriter): OpenBatch
  /** The engine is done with the batch; everybody has been told. */
  giveBack(batch: OpenBatch): void
  closeAtEndOfTurn(writer: PartitionWriter): void
  batchClosed(writer: PartitionWriter): void
  batchFailed(writer: PartitionWriter, batch: OpenBatch, error: SluiceError): void
  /** The engine has answered, well (null) or not, or nobody waits for its answer any more. */
  attempted(batch: OpenBatch, error: SluiceError | null): void
}

/** Sequences are 32 bits and begin again at 0. */
const SEQUENCE_MASK = 0x7fff_ffff

export class PartitionWriter {
  readonly topic: string
  readonly partition: number
  open: OpenBatch | null = null
  /** Whether the producer has it listed for the end of the turn. */
  inTurn = false
  readonly #context: WriterContext
  readonly #closed: OpenBatch[] = []
  #inFlight: OpenBatch | null = null
  /** The batch in flight as bytes; null until it is first sent. */
  #bytes: Buffer | null = null
  #failures = 0
  /** Set while the batch in flight waits for its next attempt. */
  #retryTimer: Timer | null = null
  #identity: ProducerIdentity | null = null
  #nextSequence = 0
  readonly #onProduced = (produced: Produced): void =>
    this.#accepted(produced.baseOffset, produced.appendTime)
  readonly #onFailed = (error: unknown): void => this.#failed(error)

  constructor(topic: string, partition: number, context: WriterContext) {
    this.topic = topic
    this.partition = partition
    this.#context = context
  }

  /** A new open batch. There is none now. */
  begin(): OpenBatch {
    const context = this.#context
    const batch = context.takeBatch(this)
    this.open = batch
    if (context.lingerMs === 0) {
      batch.due = true
      context.closeAtEndOfTurn(this)
    } else {
      batch.lingerTimer = context.clock.after(context.lingerMs, () => {
        batch.due = true
        this.closeIfDue()
      })
    }
    return batch
  }

  closeIfDue(): void {
    if (this.open?.due && this.#inFlight === null) this.close()
  }

  /** Closes the open batch, if any; it is sent when its turn comes. */
  close(): void {
    const batch = this.open
    if (batch === null) return
    batch.lingerTimer?.cancel()
    batch.lingerTimer = null
    this.open = null
    this.#closed.push(batch)
    this.#context.batchClosed(this)
    if (this.#inFlight === null) this.#sendNext()
  }

  /**
   * Gives up on a batch of this line. The engine may still be at work on it: then its memory comes back
   * later.
   */
  abandon(batch: OpenBatch, error: SluiceError): void {
    this.#context.attempted(batch, error)
    if (batch === this.#inFlight) {
      if (this.#retryTimer === null) this.#tell(batch, error)
      else this.#giveUp(error)
      return
    }
    if (batch === this.open) {
      batch.lingerTimer?.cancel()
      batch.lingerTimer = null
      this.open = null
      this.#context.batchClosed(this)
    } else {
      const index = this.#closed.indexOf(batch)
      assert(index >= 0, 'a batch that is given up belongs to the line')
      this.#closed.splice(index, 1)
    }
    this.#tell(batch, error)
    this.#context.giveBack(batch)
  }

  /** Goes on under another identity, which the engine tells. Nothing of the line is under way. */
  renew(): void {
    assert(this.#inFlight === null)
    this.#identity = null
  }

  /** Whether the batch has been handed to the engine, so that nobody knows what became of it. */
  isWithEngine(batch: OpenBatch): boolean {
    return batch === this.#inFlight && this.#retryTimer === null
  }

  #sendNext(): void {
    const batch = this.#closed.shift()
    if (batch === undefined) return
    this.#inFlight = batch
    this.#failures = 0
    this.#attempt()
  }

  #attempt(): void {
    const { engine, idempotent } = this.#context
    if (idempotent && this.#identity === null) {
      engine.initProducer().then(identity => {
        this.#identity = identity
        this.#nextSequence = 0
        this.#produce()
      }, this.#onFailed)
    } else this.#produce()
  }

  #produce(): void {
    const { engine, acks } = this.#context
    const batch = this.#inFlight as OpenBatch
    if (batch.settled) {
      this.#finish(batch) // given up while waiting for a producer id
      return
    }
    try {
      this.#bytes ??= this.#encode(batch)
      engine.produce(this.topic, this.partition, this.#bytes, acks).then(this.#onProduced, this.#onFailed)
    } catch (error) {
      this.#failed(error)
    }
  }

  #encode(batch: OpenBatch): Buffer {
    const { compression, transactional } = this.#context
    if (this.#identity === null) return batch.builder.close({ compression })
    const { producerId, epoch } = this.#identity
    const baseSequence = this.#nextSequence
    this.#nextSequence = (baseSequence + batch.builder.count) & SEQUENCE_MASK
    return batch.builder.close({ compression, producerId, producerEpoch: epoch, baseSequence, transactional })
  }

  #accepted(baseOffset: number, appendTime: number): void {
    const batch = this.#inFlight as OpenBatch
    this.#context.attempted(batch, null)
    batch.accept(baseOffset, appendTime)
    this.#finish(batch)
  }

  #failed(cause: unknown): void {
    const { clock, random, retries, retryBackoffMs, retryBackoffMsMax, deliveryTimeoutMs } = this.#context
    const batch = this.#inFlight as OpenBatch
    const error = this.#describe(batch, cause)
    if (error.code === 'DUPLICATE_SEQUENCE') {
      this.#accepted(-1, -1) // stored the first time
      return
    }
    this.#context.attempted(batch, error)
    if (error.retriable && !batch.settled && this.#failures < retries) {
      // between half and all of the step, so that producers that failed together do not come back together
      const step = Math.min(retryBackoffMsMax, retryBackoffMs * 2 ** this.#failures)
      const delayMs = step / 2 + (step / 2) * random()
      if (clock.monotonic() + delayMs < batch.openedAt + deliveryTimeoutMs) {
        this.#failures++
        this.#retryTimer = clock.after(delayMs, () => {
          this.#retryTimer = null
          this.#attempt()
        })
        return
      }
    }
    this.#giveUp(error)
  }

  #giveUp(error: SluiceError): void {
    const batch = this.#inFlight as OpenBatch
    this.#retryTimer?.cancel()
    this.#retryTimer = null
    // the sequence has a hole now, which no broker lets pass: go on under a new id
    this.#identity = null
    this.#tell(batch, error)
    this.#finish(batch)
  }

  #tell(batch: OpenBatch, error: SluiceError): void {
    if (batch.settled) return
    batch.fail(error)
    this.#context.batchFailed(this, batch, error)
  }

  #finish(batch: OpenBatch): void {
    this.#inFlight = null
    this.#bytes = null
    if (this.#closed.length > 0) this.#sendNext()
    else if (this.open?.due) this.#context.closeAtEndOfTurn(this)
    // last, because it makes room, and what waits for room may come to this very line
    this.#context.giveBack(batch)
  }

  #describe(batch: OpenBatch, cause: unknown): SluiceError {
    const code = cause instanceof SluiceError ? cause.code : 'STORAGE_FAILED'
    const reason = cause instanceof Error ? cause.message : String(cause)
    const { topic, partition } = this
    const { count } = batch.builder
    const what = count === 1 ? '1 message was' : `${count} messages were`
    return new SluiceError(
      code,
      `${topic}/${partition}: ${what} not accepted: ${reason}`,
      {
        ...(cause instanceof SluiceError ? cause.detail : {}),
        topic,
        partition,
        count,
        attempts: this.#failures + 1,
        outcome: outcomeOf(code),
      },
      cause,
    )
  }
}

const unknownOutcomes: ReadonlySet<SluiceError['code']> = new Set([
  'TIMED_OUT',
  'STORAGE_FAILED',
  'CLOSED',
  'UNREACHABLE', // an attempt before may have come through
  'UNAVAILABLE', // stored by the leader, and not by enough replicas
])

/** 'unknown' where the batch may be stored although the call failed. */
function outcomeOf(code: SluiceError['code']): 'refused' | 'unknown' {
  return unknownOutcomes.has(code) ? 'unknown' : 'refused'
}
