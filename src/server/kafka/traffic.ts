/**
 * What all connections of a listener share: counters for metrics, and the bounds on the memory that requests and answers take
 * together.
 *
 *   requests   the bytes of requests that came in and are not answered, and of those that have come in part
 *   answers    the bytes of answers that clients have not taken yet
 *
 * Over the bound of requests, connections are not read from until some are answered. If it is not work that fills it but
 * half requests, waiting would not help: the connection with the largest goes. The same holds for answers that are not taken.
 */

export interface ApiCounter {
  requests: number
  /** Requests that ended in an error of the whole, or in the end of the connection. */
  errors: number
}

/** Grow from the start of the listener. */
export interface KafkaCounters {
  connectionsOpened: number
  connectionsRefused: number
  /** Closed because of what they sent: garbage, too large, unknown. */
  connectionsFailed: number
  /** Closed to keep memory within its bounds. */
  connectionsShed: number
  bytesIn: number
  bytesOut: number
  /** By the name of the API. */
  readonly requests: Map<string, ApiCounter>
}

/** What the bounds know of a connection. */
export interface Holder {
  /** Bytes of requests that are complete and not answered. */
  readonly requestBytes: number
  /** Bytes of a request that is not complete. */
  readonly partialBytes: number
  /** Bytes of answers that were not taken yet. */
  readonly unsentBytes: number
  resume(): void
  shed(reason: string): void
}

export interface TrafficLimits {
  /** Bytes of requests of all connections together. */
  readonly requestBytesMax: number
  /** Bytes of unsent answers of all connections together. */
  readonly unsentBytesMax: number
}

export class Traffic {
  readonly counters: KafkaCounters = {
    connectionsOpened: 0,
    connectionsRefused: 0,
    connectionsFailed: 0,
    connectionsShed: 0,
    bytesIn: 0,
    bytesOut: 0,
    requests: new Map(),
  }
  readonly #limits: TrafficLimits
  readonly #holders: ReadonlySet<Holder>
  readonly #paused = new Set<Holder>()
  #requestBytes = 0

  /** `holders`: all connections there are, kept by the listener. */
  constructor(limits: TrafficLimits, holders: ReadonlySet<Holder>) {
    this.#limits = limits
    this.#holders = holders
  }

  counterOf(api: string): ApiCounter {
    let counter = this.counters.requests.get(api)
    if (counter === undefined) this.counters.requests.set(api, (counter = { requests: 0, errors: 0 }))
    return counter
  }

  /** A change in the bytes that a connection holds of requests, partial ones included. */
  addRequestBytes(change: number): void {
    this.#requestBytes += change
    if (change < 0 && this.#paused.size > 0 && this.#requestBytes < this.#limits.requestBytesMax) {
      const paused = [...this.#paused]
      this.#paused.clear()
      for (const holder of paused) holder.resume()
    }
  }

  /** Whether this connection has to wait before it is read from again; `resume` is called then. */
  mustWait(holder: Holder): boolean {
    if (this.#requestBytes < this.#limits.requestBytesMax) return false
    let working = 0
    for (const each of this.#holders) working += each.requestBytes
    if (working < this.#limits.requestBytesMax / 2) {
      this.#shed(each => each.partialBytes, 'too many large requests that do not end')
      if (this.#requestBytes < this.#limits.requestBytesMax) return false
    }
    this.#paused.add(holder)
    return true
  }

  /** To be called when an answer could not be sent at once. */
  checkUnsent(): void {
    let unsent = 0
    for (const each of this.#holders) unsent += each.unsentBytes
    if (unsent > this.#limits.unsentBytesMax)
      this.#shed(each => each.unsentBytes, 'too many answers not taken')
  }

  forget(holder: Holder): void {
    this.#paused.delete(holder)
  }

  #shed(bytesOf: (holder: Holder) => number, reason: string): void {
    let largest: Holder | null = null
    for (const each of this.#holders) {
      if (largest === null || bytesOf(each) > bytesOf(largest)) largest = each
    }
    if (largest === null || bytesOf(largest) === 0) return
    this.counters.connectionsShed++
    largest.shed(reason)
  }
}
