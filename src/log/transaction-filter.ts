/**
 * Which records and markers of transactions compaction may drop, told batch by batch from the start of the log: records of
 * aborted transactions; and markers of transactions of which no record was met any more.
 *
 *     … record of producer 7 … record of producer 7 … marker: commit 7 …     the marker is needed
 *     …                                             … marker: commit 7 …     it is not
 *
 * The marker of an aborted transaction is needed in the pass that drops its last records, and not in the next; its entry in the
 * index of aborted transactions stays with it, for readers who were given the records before the segment was replaced.
 */

import { baseOffset, isControl, isTransactional, lastOffset, producerId } from '../record/batch.ts'
import type { AbortedTransaction } from './transaction-index.ts'

/** The aborted transactions of a producer, in order, and the first that the walk has not passed yet. */
interface Aborted {
  readonly transactions: AbortedTransaction[]
  next: number
}

export class TransactionFilter {
  readonly #aborted = new Map<number, Aborted>()
  /** Producers of whose open transaction records were met. */
  readonly #met = new Set<number>()

  /** In the order of their markers. */
  constructor(aborted: readonly AbortedTransaction[]) {
    for (const transaction of aborted) {
      const others = this.#aborted.get(transaction.producerId)
      if (others === undefined)
        this.#aborted.set(transaction.producerId, { transactions: [transaction], next: 0 })
      else others.transactions.push(transaction)
    }
  }

  /** Without aborted transactions nothing has to be known of the batches before. */
  get isNeeded(): boolean {
    return this.#aborted.size > 0
  }

  /** The aborted transaction that this marker, which was just observed, ends; undefined if there is none. */
  abortedBy(marker: Buffer): AbortedTransaction | undefined {
    const offset = lastOffset(marker, 0)
    const transaction = this.#current(producerId(marker, 0), offset)
    return transaction?.lastOffset === offset ? transaction : undefined
  }

  /** Takes the next batch into account. True if it may be dropped on account of transactions. */
  observe(batch: Buffer): boolean {
    const id = producerId(batch, 0)
    if (isControl(batch, 0)) return !this.#met.delete(id)
    if (!isTransactional(batch, 0)) return false
    this.#met.add(id)
    const transaction = this.#current(id, lastOffset(batch, 0))
    return transaction !== undefined && baseOffset(batch, 0) >= transaction.firstOffset
  }

  /** The first of the producer whose marker lies at `offset` or later. */
  #current(id: number, offset: number): AbortedTransaction | undefined {
    const aborted = this.#aborted.get(id)
    if (aborted === undefined) return undefined
    const { transactions } = aborted
    while (aborted.next < transactions.length && transactions[aborted.next].lastOffset < offset)
      aborted.next++
    return transactions[aborted.next]
  }
}
