/**
 * Keeps the process running while there is something to wait for. Timers of the clock do not (a lingering
 * batch, a long poll), and neither does a lock file or an open log: without this, `await producer.send(...)`
 * at the top level of a program could end with it.
 */

const FOREVER_MS = 2 ** 31 - 1

export class KeepAlive {
  #timer: NodeJS.Timeout | null = null

  hold(): void {
    if (this.#timer === null) this.#timer = setInterval(() => {}, FOREVER_MS)
    else this.#timer.ref()
  }

  release(): void {
    this.#timer?.unref()
  }
}

/** Keeps it running until the promise is settled. */
export async function keptAlive<R>(work: Promise<R>): Promise<R> {
  const timer = setInterval(() => {}, FOREVER_MS)
  try {
    return await work
  } finally {
    clearInterval(timer)
  }
}
